"""Biases of a whole model, in anyone's tree: dropped, added, folded, or centred, each with the measured change of fn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias._trees import is_float
from jaxbias.foreign import _axes
from jaxbias.foreign._graph import Graph
from jaxbias.foreign._measured import Surgery, measured, output_of, relative_change, set_leaves
from jaxbias.foreign._places import bias_of, with_places
from jaxbias.foreign.traced import split_params
from jaxbias.foreign.uses import trace_uses
from jaxbias.params import SomeTree


def drop_biases(fn: Callable, params: Any, *args: Any, at_most: float | None = None) -> Surgery:
    """Every bias of the model set to zero, or as many as the output allows.

    Args:
        fn: `(params, *args) -> output`, any traceable function.
        params: pytree of arrays; its biases are told by their use, as `jb.roles` does.
        args: data, on which the change is measured.
        at_most: largest change. The biases are dropped one after another, those first that cost least alone, as long
            as all of them together change no more. None: all are dropped.

    Returns:
        `Surgery(params, change)`: what the dropped ones cost together.

    Raises:
        ValueError: at_most is negative.

    Example: `params, change = jb.surgery.drop_biases(fn, params, x, at_most=1e-3)`.
    """
    if at_most is not None and not at_most >= 0:
        raise ValueError(f"drop_biases: at_most must be 0 or more, got {at_most}.")
    uses, leaves = trace_uses(fn, params, args), dict(zip(*_named(params)))
    biases = [path for i, path in enumerate(uses.paths) if uses.role(i) == "bias"]
    zeros = {path: jnp.zeros_like(leaves[path]) for path in biases}
    if at_most is None:
        return measured(fn, params, set_leaves(params, zeros), args)
    run = output_of(fn, params, args)
    before = run(params)
    cost = lambda paths: relative_change(before, run(set_leaves(params, {path: zeros[path] for path in paths})))
    kept, change = [], 0.0
    for path in sorted(biases, key=lambda path: cost([path])):
        if (together := cost([*kept, path])) <= at_most:
            kept, change = [*kept, path], together
    return Surgery(set_leaves(params, {path: zeros[path] for path in kept}), change)


def _named(params: Any) -> tuple[tuple[str, ...], list[Array]]:
    split = split_params(params)
    return split.paths, split.leaves


def add_biases(fn: Callable, params: Any, *args: Any) -> Surgery:
    """A bias of zeros for every weight that has none and whose model has a place for one.

    A place is a None beside the weight that fn adds to the product once an array stands there: `bias=None` of
    `jb.Params`, of `eqx.nn.Linear`. A model that decides by a switch instead (Flax, Haiku, Equinox's convolutions) has
    no such place: there a switch in the model adds the bias.

    Args:
        fn, params, args: as for `drop_biases`.

    Returns:
        `Surgery(params, change)`: params with more leaves, and the change, which is 0.

    Raises:
        ValueError: no weight without a bias has a place for one.

    Example: `params, change = jb.surgery.add_biases(fn, params, x)`.
    """
    graph = _graph(fn, params, args)
    contacts = [contact for equation in graph.program.equations if (contact := graph.contact(equation)) is not None]
    bare = [graph.paths[c.leaf] for c in contacts if bias_of(graph, c.leaf) is None]
    placed = with_places(fn, params, args, list(dict.fromkeys(bare)))
    if placed is params:
        raise ValueError(
            f"add_biases: none of the {len(bare)} weights without a bias has a place for one: a None beside it that fn "
            f"adds when it is an array. Turn biases on where the model is made (use_bias=True)."
        )
    return measured(fn, params, placed, args)


def fold_value_biases(fn: Callable, params: Any, *args: Any) -> Surgery:
    """Every value bias of attention moved into the output bias behind it, and set to zero.

        Σ_j p_j (v_j + b_v) W_o + b_o  =  Σ_j p_j v_j W_o + (b_v W_o + b_o)        for Σ_j p_j = 1

    Found by the way that the bias goes: added to a product, mixed by data (p), multiplied by a weight, and there added to
    a bias. Moved only where the model itself does not notice: where p does not sum to 1 (linear attention, dropout), the
    bias is left alone.

    Args:
        fn, params, args: as for `drop_biases`.

    Returns:
        `Surgery(params, change)`: the change is rounding.

    Example: `params, change = jb.surgery.fold_value_biases(fn, params, x)`.
    """
    graph = _graph(fn, params, args)
    moves = [move for path in range(len(graph.paths)) if (move := _mixed_into(graph, path)) is not None]
    if not moves:
        return Surgery(params, 0.0)
    split = split_params(params)
    values = list(split.leaves)
    still = _stays(fn, params, args)
    for value, through, out in moves:
        push = jax.jit(lambda bias, leaf, through=through: through(bias, leaf))
        moved = push(values[value], values[graph_weight(through)])
        moved = moved.reshape(values[out].shape).astype(values[out].dtype)
        tangents = {value: -values[value], out: moved}
        if still(values, tangents):
            values[value], values[out] = jnp.zeros_like(values[value]), values[out] + moved
    return measured(fn, params, split.rebuild(values), args)
