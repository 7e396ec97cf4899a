"""Spectral normalisation of any affine layer: its weight is divided by its largest singular value, by power iteration.

params are those of the layer inside. The state is SpectralState(u (fan-in,), y (outputs,)), unit vectors that hold
still in backward; W counts as a matrix (fan-in, outputs), all its axes but the last made one.

Forward     s = uᵀ W y,  z = layer(W/s, b);  in training u and y take `steps` power iterations first
Backward, with G = ∂L/∂W′, W′ = W/s:
            ∂L/∂W = (G − ⟨G, W′⟩ u yᵀ)/s                                                        (9.7.2)
            ∂L/∂b, ∂L/∂x as the layer inside has them, for b lies outside

It is the derivative of the forward with u and y held constant; at the exact pair of singular vectors it is that of
W/|W| itself, for there ds = uᵀ dW y. The scale of W is redundant: ⟨W, ∂L/∂W⟩ = 0, so a weight decay does not shrink W′.
The iterations go on from step to step of training; `jb.inference` uses the last pair as it is.

    >>> layer = spectral_norm.layer(dense.layer(8))

Source: T. Miyato et al., Spectral Normalization for GANs (2018); equation (9.7.2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbias._doors import check_key, check_size, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.layers import conv, dense
from jaxbias.layers._reparametrised import affine_params, as_matrix, base_weight, check_base
from jaxbias.layouts import Arrays, Layout, Layouts
from jaxbias.params import Layer, Params, State, Tree, weight_and_bias

TINY = 1e-12
"""Shortest length that a vector is divided by: W = 0 gives zeros and no NaN."""


class SpectralState(NamedTuple):
    """The pair of singular vectors as the last step left it."""

    u: Float[Array, " fan_in"]
    y: Float[Array, " outputs"]


class Residuals(NamedTuple):
    weight: Float[Array, "*fan_in outputs"]
    singular: Float[Array, ""]
    vectors: SpectralState
    inside: Tree


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.sqrt(jnp.square(vector).sum()), TINY)


def _iterated(matrix: Array, vectors: SpectralState, steps: int) -> SpectralState:
    def step(_, vectors):
        y = _unit(matrix.T @ vectors.u)
        return SpectralState(_unit(matrix @ y), y)

    return lax.fori_loop(0, steps, step, vectors) if steps else vectors


def _normalised(base: Layer, steps: int, inference: Layer[Params] | None) -> Layer[Params]:
    """The layer for training, or without `inference` the one that leaves the vectors alone."""

    def init(key, x):
        return affine_params(base, key, x, "spectral_norm.init")

    def init_state(key, x):
        check_key(key, "spectral_norm")
        matrix = jax.eval_shape(lambda: as_matrix(widen(affine_params(base, key, x, "spectral_norm.init").weight)))
        u, y = (
            _unit(jax.random.normal(jax.random.fold_in(key, i), (length,), matrix.dtype))
            for i, length in enumerate(matrix.shape)
        )
        return SpectralState(u, y)

    def forward(params, x, state=None):
        weight, bias = weight_and_bias(params, "spectral_norm.forward")
        matrix = as_matrix(widen(weight))
        if not isinstance(state, SpectralState) or (state.u.shape, state.y.shape) != tuple((n,) for n in matrix.shape):
            got = describe(state) if not isinstance(state, SpectralState) else f"{state.u.shape} and {state.y.shape}"
            raise ValueError(
                f"spectral_norm.forward: the state must be SpectralState(u, y) of lengths {matrix.shape}, got {got}. "
                f"Pass layer.state.init(key, x)."
            )
        held = jax.tree.map(lambda vector: vector.astype(matrix.dtype), state)
        vectors = _iterated(lax.stop_gradient(matrix), held, 0 if inference is None else steps)
        singular = vectors.u @ matrix @ vectors.y
        out, inside = base.forward(Params((widen(weight) / singular).astype(weight.dtype), bias), x)
        return out, Residuals(weight, singular, vectors, inside)

    def backward(residuals, delta):
        grads, delta_x = base.backward(residuals.inside, delta)
        s, (u, y) = residuals.singular, residuals.vectors
        g, matrix = as_matrix(widen(grads.weight)), as_matrix(widen(residuals.weight))
        grad = (g - (g * matrix).sum() / s * u[:, None] * y[None, :]) / s
        return Params(grad.reshape(residuals.weight.shape).astype(residuals.weight.dtype), grads.bias), delta_x

    state = State(init_state, lambda state, residuals: residuals.vectors if inference else state, inference)
    return Layer(
        init, forward, backward, "spectral_norm", state=state, layouts=_layouts(base), convolves=base.convolves
    )


def _layouts(base: Layer) -> Layouts:
    """PyTorch's `parametrizations.spectral_norm`; its vectors are no params."""
    name = "parametrizations.weight.original"

    def write(arrays: Arrays) -> Arrays:
        rest = {"bias": arrays["bias"]} if "bias" in arrays else {}
        return {**rest, name: base_weight(base, arrays["weight"], written=True)}

    def read(arrays: Arrays) -> Arrays:
        rest = {"bias": arrays["bias"]} if "bias" in arrays else {}
        return {"weight": base_weight(base, arrays[name], written=False), **rest}

    return Layouts(pytorch=Layout(write, read) if base.name in ("dense", "conv") else None)


def layer(base: Layer, *, steps: int = 1) -> Layer[Params]:
    """`base` with its weight divided by uᵀ W y; a layer with a state.

    Args:
        base: a layer whose params are a weight, outputs last, and a bias: dense, conv, conv_transpose, bilinear, ….
        steps: power iterations before each training step; with 0 the vectors stay those of the state.

    Raises:
        TypeError: base is no `Layer`, or steps no whole number.
        ValueError: a network, a layer with a state, negative steps, or (from init) one without a weight matrix.
    """
    check_base(base, "spectral_norm.layer")
    check_size(steps, "spectral_norm.layer", "steps", least=0)
    return _normalised(base, steps, _normalised(base, steps, None))


DERIVATIONS = (
    Derivation(
        "spectral_norm",
        (
            r"z = f(W', b), \quad W' = W / s, \quad s = u^\top W y",
            r"G = \partial L/\partial W' = x^\top \delta \text{ (dense)}",
            r"\partial L/\partial W = (G - \langle G, W' \rangle\, u y^\top)/s",
            r"\partial L/\partial b = \sum \delta",
            r"\partial L/\partial x = \delta W'^\top \text{ (dense)}",
        ),
        "Miyato et al. (2018); equation (9.7.2)",
        (
            # so many steps that it is the singular value: differences move the vectors too, and see nothing of it
            Example("dense, the singular value", layer(dense.layer(2), steps=60), (5, 3)),
            Example("conv, no bias, given vectors", layer(conv.layer(2, 2, use_bias=False), steps=0), (2, 4, 3)),
        ),
    ),
)
