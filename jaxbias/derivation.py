"""What a hand-derived backward pass declares about itself, so that one loop can check, show and time all of them.

Every module in `jaxbias.layers` and `jaxbias.losses` ends with `DERIVATIONS`; `jaxbias.check` collects them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias.params import Layer, Tree, init_state


class Example(NamedTuple):
    """A layer with one static configuration, and inputs to try it on.

    Attributes:
        label: what is special about it, for example "stride 2, groups 3".
        layer: the configured layer.
        x: shape of the input (drawn standard normal), or `(key, dtype) -> x`.
    """

    label: str
    layer: Layer
    x: tuple[int, ...] | Callable[[Array, DTypeLike], Any]


class LossExample(NamedTuple):
    """A loss with one static configuration, and inputs to try it on.

    Attributes:
        label: what is special about it, for example "integer targets".
        loss: the configured loss.
        out: shape of the network output (drawn standard normal).
        targets: `(key, dtype) -> targets`.
    """

    label: str
    loss: Any
    out: tuple[int, ...]
    targets: Callable[[Array, DTypeLike], Any]


class Derivation(NamedTuple):
    """A hand-derived backward pass.

    Attributes:
        name: the public name, `jb.layers.<name>` or `jb.losses.<name>`.
        formulas: TeX of the forward, then of each gradient.
        source: author, year, equation.
        examples: configurations that together reach every line of the backward; the first is the plainest.
    """

    name: str
    formulas: tuple[str, ...]
    source: str
    examples: tuple[Example, ...] | tuple[LossExample, ...]


class Problem(NamedTuple):
    """Random values for an `Example`: what `jax.vjp(forward, params, x, has_aux=True)` and its cotangent need."""

    forward: Callable[[Tree, Any], tuple[Any, Tree]]
    backward: Callable[[Tree, Any], tuple[Tree, Any]]
    params: Tree
    x: Any
    delta: Any


def random_like(key: Array, tree: Tree) -> Tree:
    """Standard normal values in the shapes and dtypes of the float leaves of `tree`; other leaves are kept."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [
        jax.random.normal(k, leaf.shape, leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for k, leaf in zip(keys, leaves)
    ]
    return treedef.unflatten(drawn)


def problem(example: Example, key: Array, dtype: DTypeLike) -> Problem:
    """Random input, random params (no bias is zero) and a random error signal for one example."""
    x_key, init_key, params_key, state_key, delta_key = jax.random.split(key, 5)
    layer = example.layer
    x = example.x(x_key, dtype) if callable(example.x) else jax.random.normal(x_key, example.x, dtype)
    params = random_like(params_key, layer.init(init_key, x))
    state = init_state(layer, state_key, x)

    def forward(params, x):
        return layer.forward(params, x) if layer.state is None else layer.forward(params, x, state)

    out = jax.eval_shape(forward, params, x)[0]
    return Problem(forward, layer.backward, params, x, random_like(delta_key, out))
