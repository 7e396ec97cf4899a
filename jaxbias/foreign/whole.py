"""Biases of a whole model, in anyone's tree: dropped, added, folded or centred, each with the measured change of fn."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias._trees import is_float
from jaxbias.foreign import _axes
from jaxbias.foreign._graph import Contact, Graph, Step
from jaxbias.foreign._measured import Surgery, measured, output_of, relative_change, set_leaves
from jaxbias.foreign._places import bias_of, with_places
from jaxbias.foreign.traced import split_params
from jaxbias.foreign.uses import Uses, trace_uses


def drop_biases(fn: Callable, params: Any, *args: Any, at_most: float | None = None) -> Surgery:
    """Every bias of the model set to zero, or as many as the output allows.

    Args:
        fn: `(params, *args) -> output`, any traceable function.
        params: pytree of arrays; its biases are told by their use, as `jb.roles` does.
        args: data, on which the change is measured.
        at_most: largest change; by default all are dropped. With it they are dropped one after another, those first
            that cost least alone, as long as all of them together change no more.

    Returns:
        `Surgery(params, change)`: what the dropped ones cost together.

    Raises:
        ValueError: at_most is negative.

    Example: `params, change = jb.surgery.drop_biases(fn, params, x, at_most=1e-3)`.
    """
    if at_most is not None and not at_most >= 0:
        raise ValueError(f"drop_biases: at_most must be 0 or more, got {at_most}.")
    uses, split = trace_uses(fn, params, args), split_params(params)
    leaves = dict(zip(split.paths, split.leaves))
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

    Found by the way that the bias goes: added to a product, mixed by data (p), multiplied by a weight, and there added
    to a bias. Moved only where the model itself does not notice: where p does not sum to 1 (linear attention, dropout),
    the bias is left alone.

    Args:
        fn, params, args: as for `drop_biases`.

    Returns:
        `Surgery(params, change)`: the change is rounding.

    Example: `params, change = jb.surgery.fold_value_biases(fn, params, x)`.
    """
    graph = _graph(fn, params, args)
    moves = _mixed_biases(graph)
    split = split_params(params)
    values = [jnp.asarray(x) for x in split.leaves]
    moved = jax.jit(lambda leaves, biases: [_moved(graph, move, leaves, bias) for move, bias in zip(moves, biases)])
    random = np.random.default_rng(0)
    probes = [jnp.asarray(random.normal(size=values[m.value].shape), values[m.value].dtype) for m in moves]
    stays = _Stays(fn, params, args)
    taken = [
        stays({m.value: -probe, m.out: shift}, {m.value: -probe})
        for m, probe, shift in zip(moves, probes, moved(values, probes))
    ]
    for move, shift, free in zip(moves, moved(values, [values[m.value] for m in moves]), taken):
        if free:
            values[move.out] += shift
            values[move.value] = jnp.zeros_like(values[move.value])
    return measured(fn, params, split.rebuild(values), args)


def center(fn: Callable, params: Any, *args: Any) -> Surgery:
    """Weights, biases and embeddings without the part that a layer norm, or a softmax, behind them takes away.

        W′ = W − mean over its outputs,  b′ = b − mean(b)     for each leaf whose common part the output does not see

    A layer norm behind centred leaves subtracts a mean that is 0 already, so an RMS norm can take its place. Found by
    trial: a leaf is centred where adding any constant along its outputs leaves fn as it is. In a transformer with the
    norms first, those are the embeddings and the last weight and bias of each block.

    Args:
        fn, params, args: as for `drop_biases`.

    Returns:
        `Surgery(params, change)`: the change is rounding.

    Example: `params, change = jb.surgery.center(fn, params, x)`.

    Source: S. Ashkboos and others, SliceGPT (2024), section 3.2.
    """
    uses, split = trace_uses(fn, params, args), split_params(params)
    values = [jnp.asarray(x) for x in split.leaves]
    random, stays = np.random.default_rng(0), _Stays(fn, params, args)
    for i, leaf in enumerate(split.leaves):
        for axes in _output_axes(uses, i) if is_float(leaf) else ():
            shape = [1 if axis in axes else n for axis, n in enumerate(leaf.shape)]
            common = jnp.broadcast_to(jnp.asarray(random.normal(size=shape), leaf.dtype), leaf.shape)
            other = jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)
            if stays({i: common}, {i: other}):
                values[i] -= values[i].mean(axis=axes, keepdims=True)
                break
    return measured(fn, params, split.rebuild(values), args)


def _output_axes(uses: Uses, leaf: int) -> list[tuple[int, ...]]:
    """Groups of axes of a leaf that its outputs may run along; none where they cannot be told."""
    role, rank = uses.role(leaf), len(uses.leaves[leaf].shape)
    if role == "weight":
        groups = [_axes.contraction(*use.place) for use in uses.of(leaf)]
        return [groups[0][1]] if groups and groups[0] is not None and groups[0][1] else []
    if not rank or role not in ("bias", "embedding"):
        return []
    return [(rank - 1,), *([tuple(range(rank))] if role == "bias" and rank > 1 else [])]


class _Stays:
    """Whether fn stays where it is when leaves are moved, beside a move that it notices."""

    def __init__(self, fn: Callable, params: Any, args: tuple[Any, ...]):
        self.split, self.run = split_params(params), output_of(fn, params, args)
        self.before = self.run(params)
        floats = [x.dtype for x in self.split.leaves if is_float(x)]
        self.limit = float(max(jnp.finfo(dtype).eps for dtype in floats)) ** 0.5 if floats else 0.0

    def __call__(self, move: dict[int, Array], beside: dict[int, Array]) -> bool:
        noticed = self.change(beside)
        return self.change(move) <= self.limit * noticed if noticed > 0 else False

    def change(self, moves: dict[int, Array]) -> float:
        leaves = [x + moves[i] if i in moves else x for i, x in enumerate(self.split.leaves)]
        return relative_change(self.before, self.run(self.split.rebuild(leaves)))


class _Mixed(NamedTuple):
    """A bias that is mixed by data and then multiplied by a weight, and the bias behind that weight."""

    value: int
    out: int
    added: Step
    steps: tuple[Step, ...]
    contact: Contact


def _mixed_biases(graph: Graph) -> list[_Mixed]:
    """Every bias that goes through one product of data, and nothing else but layout, to a weight with a bias."""
    made = []
    for equation in graph.program.equations:
        step = graph.step(equation) if equation.name in ("add", "add_any") else None
        bias = graph.leaf_of(step.other, repeated=True) if step is not None and step.other is not None else None
        if step is None or bias is None:
            continue
        steps: list[Step] = []
        value, mixed = equation.outputs[0], False
        while (use := graph.only_use(value)) is not None and len(use.equation.outputs) == 1:
            contact = graph.contact(use.equation)
            if contact is not None:
                out = bias_of(graph, contact.leaf)
                if mixed and out is not None and graph.met[bias] == {id(equation)}:
                    made.append(_Mixed(bias, out, step, tuple(steps), contact))
                break
            mixes = use.equation.name == "dot_general" and not mixed and graph.on_data.issuperset(use.equation.inputs)
            if not (mixes or use.moves):
                break
            mixed |= mixes
            steps.append(use)
            value = use.equation.outputs[0]
    return made


def _moved(graph: Graph, move: _Mixed, leaves: Sequence[Array], bias: Array) -> Array:
    """What the bias adds to the bias behind the weight, if what mixes it sums to 1: here equal shares do."""
    leaves = [bias if i == move.value else x for i, x in enumerate(leaves)]
    weight = move.contact.equation.inputs[move.contact.position]
    assert move.added.other is not None
    free = graph.without_data([move.added.other, weight], leaves, ())
    row = jnp.broadcast_to(free[move.added.other], graph.program.shapes[move.added.equation.outputs[0]])
    for equation, position in move.steps:
        values = [row] * len(equation.inputs)
        if equation.name == "dot_general":
            mine = equation.dot_axes()[1 - position].contracted
            shape = equation.shapes.inputs[1 - position]
            share = 1 / math.prod(shape[i] for i in mine)
            values[1 - position] = jnp.full(shape, share, equation.dtypes.inputs[1 - position])
        (row,) = equation.bind(*values)
    values = [free[weight] if i == move.contact.position else row for i in range(2)]
    (z,) = move.contact.equation.bind(*values)
    kept = {axis for _, axis in move.contact.along}
    z = z[tuple(slice(None) if i in kept else slice(0, 1) for i in range(z.ndim))]
    return z.reshape(leaves[move.out].shape).astype(leaves[move.out].dtype)


def _graph(fn: Callable, params: Any, args: tuple[Any, ...]) -> Graph:
    return Graph(lambda params, _, *args: fn(params, *args), params, (), args)
