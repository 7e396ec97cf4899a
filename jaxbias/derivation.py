"""What a hand-derived backward pass declares about itself, so that one loop can check, show and time all of them.

Every module in `jaxbias.layers` and `jaxbias.losses` ends with `DERIVATIONS`; `jaxbias.selfcheck` collects them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias._trees import is_float
from jaxbias.params import Layer, Loss, SomeTree, Tree, init_state, run_forward


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
        out: shape of the network output (drawn standard normal), or `(key, dtype) -> out`.
        targets: `(key, dtype) -> targets`.
    """

    label: str
    loss: Loss
    out: tuple[int, ...] | Callable[[Array, DTypeLike], Any]
    targets: Callable[[Array, DTypeLike], Any]


class Derivation(NamedTuple):
    """A hand-derived backward pass.

    Attributes:
        name: the public name, `jb.layers.<name>` or `jb.losses.<name>`.
        formulas: TeX of the forward, then of each gradient.
        source: author, year, equation.
        examples: configurations that together reach every line of the backward; the first is the plainest.
        symbols: what stands in ∂L/∂… in a formula → the leaves (patterns with *) whose gradient that formula gives;
            needed only where the symbol is not the usual one (W for weight, b for bias, x for the input).
    """

    name: str
    formulas: tuple[str, ...]
    source: str
    examples: tuple[Example, ...] | tuple[LossExample, ...]
    symbols: Mapping[str, tuple[str, ...]] = {}


class Instance(NamedTuple):
    """Random values for an example: what `jax.vjp(forward, params, x, has_aux=True)` and its cotangent need."""

    forward: Callable[[Tree, Any], tuple[Any, Tree]]
    backward: Callable[[Tree, Any], tuple[Tree, Any]]
    params: Tree
    x: Any
    delta: Any


def generator(key: Array) -> np.random.Generator:
    """NumPy's random numbers, seeded by a JAX key: jax.random would be compiled anew for every shape and dtype."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Standard normal values, drawn by NumPy."""
    return jax.device_put(generator(key).standard_normal(shape).astype(dtype))


def uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Values uniform in [0, 1), drawn by NumPy."""
    return jax.device_put(generator(key).random(shape).astype(dtype))


def random_like(key: Array, tree: Tree) -> Tree:
    """Standard normal values in the shapes and dtypes of the float leaves of `tree`; other leaves are kept."""
    draw = generator(key).standard_normal
    return jax.tree.map(
        lambda leaf: jax.device_put(draw(leaf.shape).astype(leaf.dtype)) if is_float(leaf) else leaf, tree
    )


def cast(tree: SomeTree, dtype: DTypeLike) -> SomeTree:
    """The float leaves of `tree` in another dtype; integer leaves and keys are kept."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_float(leaf) else leaf, tree)


def _held(tree: Tree, dtype: DTypeLike) -> Tree:
    """`cast` of arrays that are at hand, by NumPy: nothing to compile."""
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf).astype(dtype)) if is_float(leaf) else leaf, tree)


def instance(
    example: Example | LossExample, key: Array, dtype: DTypeLike, *, held_in: DTypeLike | None = None
) -> Instance:
    """Random input, random params (no bias is zero) and a random error signal for one example.

    A loss takes the form of a layer without params: x is the network output, and delta is the scalar 1, or without a
    reduction a random number per row.

    Args:
        dtype: the values are drawn in this dtype.
        held_in: the values are then held in this dtype; the same numbers in float64 make the reference for bfloat16.
    """
    return instances(example, key, dtype, held_in=[held_in or dtype])[0]


def instances(
    example: Example | LossExample, key: Array, dtype: DTypeLike, *, held_in: Sequence[DTypeLike]
) -> list[Instance]:
    """`instance` for each dtype in `held_in`, all of the same numbers, which are drawn once."""
    if isinstance(example, LossExample):
        return _loss_instances(example, key, dtype, held_in)
    return _layer_instances(example, key, dtype, held_in)


def _layer_instances(example: Example, key: Array, dtype: DTypeLike, held_in: Sequence[DTypeLike]) -> list[Instance]:
    x_key, init_key, params_key, state_key, delta_key = jax.random.split(key, 5)
    layer = example.layer
    x = example.x(x_key, dtype) if callable(example.x) else normal(x_key, example.x, dtype)
    params = random_like(params_key, jax.eval_shape(layer.init, init_key, x))
    state = init_state(layer, state_key, x)
    out = jax.eval_shape(lambda: run_forward(layer, params, x, state)[0])
    delta = random_like(delta_key, out)

    def held(dtype):
        state_held, *values = _held((state, params, x, delta), dtype)
        return Instance(lambda params, x: run_forward(layer, params, x, state_held), layer.backward, *values)

    return [held(dtype) for dtype in held_in]


def _loss_instances(example: LossExample, key: Array, dtype: DTypeLike, held_in: Sequence[DTypeLike]) -> list[Instance]:
    out_key, targets_key = jax.random.split(key)
    delta_key = jax.random.fold_in(key, 0)
    out_drawn = example.out(out_key, dtype) if callable(example.out) else normal(out_key, example.out, dtype)
    targets_drawn = example.targets(targets_key, dtype)

    def held(dtype):
        out, targets = _held((out_drawn, targets_drawn), dtype)

        def forward(params, out):
            del params
            return example.loss.forward(out, targets)

        loss_backward: Callable[..., Any] = example.loss.backward  # those here take the cotangent too

        def backward(residuals, delta):
            return (), loss_backward(residuals, delta)

        value = jax.eval_shape(forward, (), out)[0]
        delta = normal(delta_key, value.shape, dtype) if value.shape else np.ones(())
        return Instance(forward, backward, (), out, jax.device_put(np.asarray(delta).astype(value.dtype)))

    return [held(dtype) for dtype in held_in]
