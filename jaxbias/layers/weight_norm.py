"""Weight normalisation of any affine layer: each output's weights have a direction v and a length g, learned apart.

params: WeightNormParams(direction = v of the shape of the weight, gain = g (outputs,), bias as in the layer inside).
Norms are over the fan-in, all axes but the last, for each output o on its own.

Forward     z = layer(W′, b),  W′ = g v/|v|
Backward, with G = ∂L/∂W′ and everything else from the layer inside:
            ∂L/∂g[o] = Σ_i G v/|v|                                                          (9.7.1)
            ∂L/∂v = (g/|v|) (G − (v/|v|) ∂L/∂g)                                             (9.7.1)
            ∂L/∂b, ∂L/∂x as the layer inside has them, for b lies outside

The scale of v is redundant, Σ_i v ∂L/∂v = 0: a weight decay on v does not shrink W′. v starts as the layer's weight and
g as its lengths. |v| = 0 has no derivative.

    >>> layer = weight_norm.layer(conv.layer(8, 3))

Source: T. Salimans, D. Kingma, Weight Normalization (2016), eq. 3; equation (9.7.1).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_float, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.layers import conv, dense
from jaxbias.layers._reparametrised import affine_params, as_matrix, base_weight, check_base
from jaxbias.layouts import Arrays, Layout, Layouts
from jaxbias.params import Layer, Params, Tree


class WeightNormParams(NamedTuple):
    """Directions, lengths, and the bias of the layer inside or None."""

    direction: Array
    gain: Array
    bias: Array | Any


class Residuals(NamedTuple):
    direction: Float[Array, "*fan_in outputs"]
    gain: Float[Array, " outputs"]
    inside: Tree


def _unit_and_length(direction: Array) -> tuple[Array, Array]:
    """v/|v| as a matrix (fan-in, outputs), and |v| (outputs,), in at least float32."""
    v = as_matrix(widen(direction))
    length = jnp.sqrt(jnp.square(v).sum(axis=0))
    return v / length[None], length


def _weight(params: WeightNormParams) -> Array:
    unit, _ = _unit_and_length(params.direction)
    return (widen(params.gain)[None] * unit).reshape(params.direction.shape).astype(params.direction.dtype)


def _check_params(params: WeightNormParams) -> None:
    if not isinstance(params, WeightNormParams):
        raise TypeError(
            f"weight_norm.forward: params must be WeightNormParams(direction, gain, bias), got {describe(params)}. "
            f"Make it with layer.init(key, x)."
        )
    check_float(params.direction, "weight_norm.forward", "direction")
    check_float(params.gain, "weight_norm.forward", "gain")
    if params.gain.shape != params.direction.shape[-1:]:
        raise ValueError(
            f"weight_norm.forward: gain must have one entry for each output, {params.direction.shape[-1:]}, got "
            f"{params.gain.shape}."
        )


def _layouts(base: Layer) -> Layouts:
    """PyTorch's `parametrizations.weight_norm`, with dim=0, the outputs."""

    def write(arrays: Arrays) -> Arrays:
        direction = base_weight(base, arrays["direction"], written=True)
        gain = arrays["gain"].reshape(-1, *[1] * (direction.ndim - 1))
        bias = {"bias": arrays["bias"]} if "bias" in arrays else {}
        return {**bias, "parametrizations.weight.original0": gain, "parametrizations.weight.original1": direction}

    def read(arrays: Arrays) -> Arrays:
        direction = base_weight(base, arrays["parametrizations.weight.original1"], written=False)
        gain = np.ravel(arrays["parametrizations.weight.original0"])
        bias = {"bias": arrays["bias"]} if "bias" in arrays else {}
        return {"direction": direction, "gain": gain, **bias}

    return Layouts(pytorch=Layout(write, read) if base.name in ("dense", "conv") else None)


def layer(base: Layer) -> Layer[WeightNormParams]:
    """`base` with directions and lengths for its weight.

    Args:
        base: a layer whose params are a weight, outputs last, and a bias: dense, conv, conv_transpose, bilinear, ….

    Raises:
        TypeError: base is no `Layer`.
        ValueError: a network, a layer with a state, or (from init) one without a weight matrix.
    """
    check_base(base, "weight_norm.layer")

    def init(key, x):
        weight, bias = affine_params(base, key, x, "weight_norm.init")
        _, length = _unit_and_length(weight)
        return WeightNormParams(weight, length.astype(weight.dtype), bias)

    def forward(params, x):
        _check_params(params)
        out, inside = base.forward(Params(_weight(params), params.bias), x)
        return out, Residuals(params.direction, params.gain, inside)

    def backward(residuals, delta):
        grads, delta_x = base.backward(residuals.inside, delta)
        unit, length = _unit_and_length(residuals.direction)
        g = as_matrix(widen(grads.weight))
        grad_gain = (g * unit).sum(axis=0)
        ratio = widen(residuals.gain) / length
        grad_direction = (ratio[None] * (g - unit * grad_gain[None])).reshape(residuals.direction.shape)
        dtype = residuals.direction.dtype
        return WeightNormParams(grad_direction.astype(dtype), grad_gain.astype(dtype), grads.bias), delta_x

    return Layer(init, forward, backward, "weight_norm", layouts=_layouts(base), convolves=base.convolves)


DERIVATIONS = (
    Derivation(
        "weight_norm",
        (
            r"z = f(W', b), \quad W'_o = g_o v_o / |v_o|",
            r"G = \partial L/\partial W' = x^\top \delta \text{ (dense)}",
            r"\partial L/\partial g_o = \sum_i G_{io} v_{io} / |v_o|",
            r"\partial L/\partial v_o = (g_o/|v_o|)\,(G_o - (v_o/|v_o|)\, \partial L/\partial g_o)",
            r"\partial L/\partial b = \sum \delta",
            r"\partial L/\partial x = \delta W'^\top \text{ (dense)}",
        ),
        "Salimans and Kingma (2016), eq. 3; equation (9.7.1)",
        (
            Example("dense", layer(dense.layer(4)), (5, 3)),
            Example("conv, no bias", layer(conv.layer(2, 2, use_bias=False)), (2, 4, 3)),
        ),
        {"g_o": ("gain",), "v_o": ("direction",)},
    ),
)
