"""Layer norm: each sample is normalised over its own units; scale γ (weight) and shift β (bias) have their shape.

Forward     μ = mean x,  v = mean (x − μ)²,  r = 1/√(v + eps)       over the d units of one sample
            x̂ = (x − μ) r,  z = γ x̂ + β
Backward, with δ = ∂L/∂z and δ̂ = γ δ:
            ∂L/∂γ = Σ δ x̂         over the samples: the incoming activation is x̂             (10)
            ∂L/∂β = Σ δ           over the samples                                           (14), 4.5
            ∂L/∂x = r (δ̂ − mean δ̂ − x̂ mean(δ̂ x̂))       means over the units             (8)
            x reaches z directly, through μ and through v: one term for each way (5).

The entries of ∂L/∂x sum to 0 over the units, so the gradient of a bias before layer norm sums to 0; without being 0,
because only the component of that bias along (1, …, 1) is removed (5.3, E7).
Statistics are computed in at least float32. For backward x is kept, with μ and r, not x̂: x is usually alive anyway.

Source: J. L. Ba, J. R. Kiros, G. Hinton, Layer Normalization (2016), sec. 3; derivation sheet 5.3.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_size
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers._norm import (
    broadcast_like,
    check_eps,
    check_input,
    last_axes,
    mean_over,
    moments,
    scale_and_shift,
)
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static


class Residuals(NamedTuple):
    x: Float[Array, "*shape"]
    mean: Float[Array, "*statistics"]
    rstd: Float[Array, "*statistics"]
    weight: Float[Array, "*units"]
    has_bias: Static


def init(
    key: Array,
    units: tuple[int, ...],
    *,
    use_bias: bool = True,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Scale (weight), by default 1, and shift (bias), by default 0; `units` is the shape of both.

    Args:
        use_bias: whether there is a shift; without one the bias is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    return initializers.affine(
        key, units, units, dtype, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init
    )


def forward(
    params: Params, x: Float[Array, "*shape"], *, eps: float = 1e-5
) -> tuple[Float[Array, "*shape"], Residuals]:
    """z = γ (x − μ)/√(v + eps) + β over the last axes of x, as many as the weight has.

    Args:
        x: (..., units), any number of leading axes.
        eps: added to the variance, in the squared unit of x. A constant sample has v = 0 and gives z = β.

    Raises:
        TypeError: x is not floating point.
        ValueError: the last axes of x are not those of the weight, a bias of another shape, or a negative eps.
    """
    check_input(params, x, eps, "layer_norm.forward")
    mean, variance = moments(widen(x), _unit_axes(params.weight))
    rstd = jax.lax.rsqrt(variance + eps)
    out = scale_and_shift((widen(x) - mean) * rstd, params)
    return out.astype(x.dtype), Residuals(x, mean, rstd, params.weight, Static(params.bias is not None))


def backward(residuals: Residuals, delta: Float[Array, "*shape"]) -> tuple[Params, Float[Array, "*shape"]]:
    """(∂L/∂γ = Σ δ x̂, ∂L/∂β = Σ δ), ∂L/∂x = r (δ̂ − mean δ̂ − x̂ mean(δ̂ x̂)).

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, mean, rstd, weight, has_bias = residuals
    delta = check_delta(delta, x.shape, "layer_norm.backward")
    units, samples = _unit_axes(weight), tuple(range(x.ndim - weight.ndim))
    x_hat = (widen(x) - mean) * rstd
    delta = widen(delta)
    grad_weight = (delta * x_hat).sum(axis=samples).astype(weight.dtype)
    grad_bias = delta.sum(axis=samples).astype(weight.dtype) if has_bias.value else None
    scaled = delta * broadcast_like(weight, delta)
    delta_x = rstd * (scaled - mean_over(scaled, units) - x_hat * mean_over(scaled * x_hat, units))
    return Params(grad_weight, grad_bias), delta_x.astype(x.dtype)


def _unit_axes(weight: Array) -> tuple[int, ...]:
    return tuple(range(-weight.ndim, 0))


LAYOUTS = Layouts(pytorch=AS_HERE, keras=AS_HERE)


def layer(
    *,
    axes: int = 1,
    eps: float = 1e-5,
    use_bias: bool = True,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer[Params]:
    """A layer norm over the last `axes` axes of its input, whose dtype the params take.

    Keywords as for `init` and `forward`.

    Raises:
        ValueError: a negative eps, fewer than one axis, or (from init) an input with fewer axes.
    """
    check_eps(eps, "layer_norm")
    check_size(axes, "layer_norm", "axes, the number of last axes to normalise over,")

    def init_for(key, x):
        units = last_axes(x, axes, "layer_norm.init")
        return init(key, units, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init, dtype=x.dtype)

    return Layer(init_for, partial(forward, eps=eps), backward, "layer_norm", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "layer_norm",
        (
            r"z = \gamma \hat{x} + \beta, \quad \hat{x} = (x - \mu)\, r, \quad r = 1/\sqrt{v + \epsilon}",
            r"\partial L/\partial \gamma = \sum \delta \hat{x}",
            r"\partial L/\partial \beta = \sum \delta",
            r"\partial L/\partial x = r(\gamma\delta - \overline{\gamma\delta} - \hat x\overline{\gamma\delta\hat x})",
        ),
        "Ba et al. (2016), sec. 3; derivation sheet 5.3",
        (
            Example("matrix", layer(), (5, 4)),
            Example("no bias", layer(use_bias=False), (5, 4)),
            Example("over two axes, eps 0.1", layer(axes=2, eps=0.1), (2, 3, 4)),
            Example("two leading axes", layer(), (2, 3, 4)),
            Example("one vector", layer(), (6,)),
            Example("one unit", layer(), (3, 1)),
            Example("no rows", layer(), (0, 4)),
        ),
    ),
)
