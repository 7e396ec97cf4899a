"""Weight standardisation of any affine layer: each output's weights get mean 0 and one size, and a learned gain.

params: WeightStandardizationParams(weight = W of the layer inside, gain = γ (outputs,) or None, bias as inside).
Mean, variance and sums are over the fan-in, all I entries but those of the last axis, for each output o on its own.

Forward     z = layer(W′, b),  W′ = γ ŵ,  ŵ = (W − mean W) r
            r = 1/√(var W + eps), or with scaled=True 1/√(I var W + eps), whose columns have the length 1
Backward, with G = ∂L/∂W′ and everything else from the layer inside, Q = γ G:
            ∂L/∂γ[o] = Σ_i G ŵ                                                              (9.7.3)
            ∂L/∂W = r (Q − mean Q − ŵ mean(Q ŵ))                                            (9.7.3)
            ∂L/∂W = r (Q − mean Q − ŵ Σ_i Q ŵ)                 scaled                       (9.7.4)
            ∂L/∂b, ∂L/∂x as the layer inside has them, for b lies outside

The mean of W is redundant, Σ_i ∂L/∂W = 0 for each output, and but for eps so is its scale: a weight decay on W does not
shrink W′. The bias is not redundant. In front of a batch norm the gain is, but for its eps.

    >>> layer = weight_standardization.layer(conv.layer(8, 3))

Source: S. Qiao et al., Weight Standardization (2019), without gain; A. Brock et al., normalizer-free networks (2021),
scaled; equations (9.7.3-4).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._doors import check_flag, check_float, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.layers import conv, dense
from jaxbias.layers._norm import check_eps
from jaxbias.layers._reparametrised import affine_params, as_matrix, base_weight, check_base
from jaxbias.layouts import Arrays, Layout, Layouts
from jaxbias.params import Layer, Params, Tree


class WeightStandardizationParams(NamedTuple):
    """Weights before they are standardised, gain of each output or None, bias of the layer inside or None."""

    weight: Array
    gain: Array | Any
    bias: Array | Any


class Residuals(NamedTuple):
    weight: Float[Array, "*fan_in outputs"]
    gain: Float[Array, " outputs"] | None
    inside: Tree


def _standardised(weight: Array, eps: float, scaled: bool) -> tuple[Array, Array]:
    """ŵ as a matrix (fan-in, outputs), and r (1, outputs), in at least float32."""
    w = as_matrix(widen(weight))
    centred = w - w.mean(axis=0, keepdims=True)
    square = jnp.square(centred)
    rstd = 1 / jnp.sqrt((square.sum if scaled else square.mean)(axis=0, keepdims=True) + eps)
    return centred * rstd, rstd


def _check_params(params: Any) -> None:
    function = "weight_standardization.forward"
    if not isinstance(params, WeightStandardizationParams):
        raise TypeError(
            f"{function}: params must be WeightStandardizationParams(weight, gain, bias), got {describe(params)}. "
            f"Make it with layer.init(key, x)."
        )
    check_float(params.weight, function, "weight")
    if params.gain is None:
        return
    check_float(params.gain, function, "gain")
    if params.gain.shape != params.weight.shape[-1:]:
        raise ValueError(
            f"{function}: gain must have one entry for each output, {params.weight.shape[-1:]}, got "
            f"{params.gain.shape}."
        )


def _layouts(base: Layer) -> Layouts:
    """The weight as the layer inside has it; PyTorch has no such module, others keep the gain beside it."""

    def converted(arrays: Arrays, written: bool) -> Arrays:
        return {**arrays, "weight": base_weight(base, arrays["weight"], written=written)}

    if base.name not in ("dense", "conv"):
        return Layouts()
    return Layouts(pytorch=Layout(lambda arrays: converted(arrays, True), lambda arrays: converted(arrays, False)))


def layer(
    base: Layer, *, use_gain: bool = True, scaled: bool = False, eps: float = 1e-5
) -> Layer[WeightStandardizationParams]:
    """`base` with its weight standardised.

    Args:
        base: a layer whose params are a weight, outputs last, and a bias: dense, conv, conv_transpose, bilinear, ….
        use_gain: whether each output learns a γ, 1 at first; without it γ is None, and 1.
        scaled: whether W′ is divided by the root of the fan-in too, so that it keeps the variance of what comes in.
        eps: added to the variance, or if `scaled` to the sum of squares.

    Raises:
        TypeError: base is no `Layer`, or an option that is neither True nor False.
        ValueError: a network, a layer with a state, a negative eps, or (from init) one without a weight matrix.
    """
    check_base(base, "weight_standardization.layer")
    check_eps(eps, "weight_standardization.layer")
    check_flag(use_gain, "weight_standardization.layer", "use_gain")
    check_flag(scaled, "weight_standardization.layer", "scaled")

    def init(key, x):
        weight, bias = affine_params(base, key, x, "weight_standardization.init")
        gain = jnp.ones(weight.shape[-1:], weight.dtype) if use_gain else None
        return WeightStandardizationParams(weight, gain, bias)

    def forward(params, x):
        _check_params(params)
        weight, gain, bias = params
        w_hat, _ = _standardised(weight, eps, scaled)
        used = w_hat if gain is None else widen(gain)[None] * w_hat
        out, inside = base.forward(Params(used.reshape(weight.shape).astype(weight.dtype), bias), x)
        return out, Residuals(weight, gain, inside)

    def backward(residuals, delta):
        weight, gain, inside = residuals
        grads, delta_x = base.backward(inside, delta)
        w_hat, rstd = _standardised(weight, eps, scaled)
        g = as_matrix(widen(grads.weight))
        grad_gain = None if gain is None else (g * w_hat).sum(axis=0).astype(gain.dtype)
        q = g if gain is None else widen(gain)[None] * g
        share = (q * w_hat).sum(axis=0, keepdims=True) / (1 if scaled else len(q))
        grad_weight = rstd * (q - q.mean(axis=0, keepdims=True) - w_hat * share)
        grad_weight = grad_weight.reshape(weight.shape).astype(weight.dtype)
        return WeightStandardizationParams(grad_weight, grad_gain, grads.bias), delta_x

    return Layer(init, forward, backward, "weight_standardization", layouts=_layouts(base), convolves=base.convolves)


DERIVATIONS = (
    Derivation(
        "weight_standardization",
        (
            (
                r"z = f(W', b), \quad W' = \gamma \hat{w}, \quad \hat{w} = (W - \overline{W})\, r, \quad"
                r" r = 1/\sqrt{\mathrm{var}\, W + \epsilon}"
            ),
            r"G = \partial L/\partial W' = x^\top \delta \text{ (dense)}",
            r"\partial L/\partial \gamma_o = \sum_i G_{io} \hat{w}_{io}",
            r"\partial L/\partial W = r\,(Q - \overline{Q} - \hat{w}\,\overline{Q \hat{w}}), \quad Q = \gamma G",
            r"\partial L/\partial b = \sum \delta",
            r"\partial L/\partial x = \delta W'^\top \text{ (dense)}",
        ),
        "Qiao et al. (2019); equations (9.7.3), (9.7.4)",
        (
            Example("dense", layer(dense.layer(4)), (5, 3)),
            Example("conv, scaled, no bias", layer(conv.layer(2, 2, use_bias=False), scaled=True), (2, 4, 3)),
            Example("dense, no gain, eps 0.1", layer(dense.layer(4), use_gain=False, eps=0.1), (5, 3)),
        ),
        {r"\gamma_o": ("gain",)},
    ),
)
