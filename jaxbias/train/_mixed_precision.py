"""A network that computes in another dtype than its params are kept in.

Forward     out = network(round(params), round(x)), handed on in float32
Backward    ∂L/∂θ of the rounded network, in the dtype of θ: what rounding does to params counts as a constant error
float16     s⁻¹ backward(s δ), with s = 2ᵏ such that the largest |s δ| lies in [8, 16): backward is linear in δ, the
            entries of a mean over n rows would be below float16's least normal number 6·10⁻⁵, and k is found anew in
            each step, as the whole of δ is known before the backward pass begins

Source: P. Micikevicius et al., Mixed Precision Training (2018), section 3.1: a float32 copy of the params is updated;
3.2: loss scaling.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from jaxbias._numerics import rounded, widen
from jaxbias._trees import is_float
from jaxbias.params import Layer, State, Static, Tree, run_forward, step_state


def in_dtype(network: Layer, dtype: DTypeLike | None) -> Layer:
    """The network, computing in `dtype`; itself where that is None. Params, out and grads keep their own dtypes."""
    if dtype is None:
        return network

    def forward(params, x, state=None):
        out, residuals = run_forward(network, _cast(params, dtype), _cast(x, dtype), state)
        return jax.tree.map(_widened, out), (residuals, Static(_dtypes((params, x, out))))

    def backward(residuals, delta):
        residuals, dtypes = residuals
        of_params, of_x, of_out = dtypes.value
        scale = _scale(delta) if jnp.dtype(dtype) == jnp.float16 else None
        grads, delta_x = network.backward(residuals, _restored(_scaled(delta, scale), of_out))
        inverse = None if scale is None else 1 / scale
        return _scaled(_restored(grads, of_params), inverse), _scaled(_restored(delta_x, of_x), inverse)

    state = network.state
    if state is not None:
        state = State(state.init, lambda old, residuals: step_state(network, old, residuals[0]), None)
    return Layer(network.init, forward, backward, network.name, state=state, convolves=network.convolves)


def _scale(delta: Tree) -> Array:
    """A power of two, so that it rounds nothing."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(delta)]))
    _, exponent = jnp.frexp(largest)  # largest = mantissa · 2^exponent with mantissa in [1/2, 1)
    power = jnp.minimum(4 - exponent, 100)  # which float32 can hold
    return jnp.where((largest > 0) & jnp.isfinite(largest), jnp.ldexp(jnp.ones_like(largest), power), 1)


def _scaled(tree: Tree, scale: Array | None) -> Tree:
    return tree if scale is None else jax.tree.map(lambda x: x * scale.astype(x.dtype) if is_float(x) else x, tree)


def _widened(leaf: Any) -> Any:
    return widen(leaf) if is_float(leaf) else leaf


def _cast(tree: Tree, dtype: Any) -> Tree:
    return jax.tree.map(lambda leaf: rounded(jnp.asarray(leaf), dtype) if is_float(leaf) else leaf, tree)


def _dtypes(trees: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(leaf.dtype) for leaf in jax.tree.leaves(tree)) for tree in trees)


def _restored(tree: Tree, dtypes: tuple[str, ...]) -> Tree:
    leaves, treedef = jax.tree.flatten(tree)
    if len(leaves) != len(dtypes):  # integer inputs have no delta, and some layers leave it out
        return tree
    return treedef.unflatten([leaf.astype(dtype) if is_float(leaf) else leaf for leaf, dtype in zip(leaves, dtypes)])
