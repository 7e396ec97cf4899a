"""RMS norm: each sample is divided by the root mean square of its units; scale γ (weight), shift β (bias) if asked for.

Forward     r = 1/√(mean x² + eps)       over the d units of one sample, those of the last axes, one or several
            x̂ = x r,  z = γ x̂ + β
Backward, with δ = ∂L/∂z and δ̂ = γ δ:
            ∂L/∂γ = Σ δ x̂         over the samples: the incoming activation is x̂             (10)
            ∂L/∂β = Σ δ           over the samples                                           (14), 4.5
            ∂L/∂x = r (δ̂ − x̂ mean(δ̂ x̂))         mean over the units                       (8)
            x reaches z directly and through r: one term for each way (5).

No mean is subtracted, so a bias before RMS norm is not redundant in any component, unlike before layer norm (5.3).
The statistic is computed in at least float32. For backward x is kept, with r, not x̂: x is usually alive anyway.

Source: B. Zhang, R. Sennrich, Root Mean Square Layer Normalization (2019), eq. 4.
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
from jaxbias.layers._norm import broadcast_like, check_eps, check_input, last_axes, mean_over, scale_and_shift
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static


class Residuals(NamedTuple):
    x: Float[Array, "*shape"]
    rstd: Float[Array, "*statistics"]
    weight: Float[Array, "*units"]
    has_bias: Static


def init(
    key: Array,
    units: int | tuple[int, ...],
    *,
    use_bias: bool = False,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Scale (weight), by default 1, and no shift; with `use_bias` a shift (bias), by default 0.

    Args:
        units: shape of both, or its length where it has one axis.
        use_bias: whether there is a shift; without one the bias is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    shape = units if isinstance(units, tuple) else (units,)
    return initializers.affine(
        key, shape, shape, dtype, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init
    )


def forward(
    params: Params, x: Float[Array, "*shape"], *, eps: float = 1e-6
) -> tuple[Float[Array, "*shape"], Residuals]:
    """z = γ x/√(mean x² + eps) + β over the last axes of x, as many as the weight has.

    Args:
        x: (..., units), any number of leading axes.
        eps: added to the mean square, in the squared unit of x. A sample of zeros gives z = β.

    Raises:
        TypeError: x is not floating point.
        ValueError: the last axes of x are not those of the weight, a bias of another shape, or a negative eps.
    """
    check_input(params, x, eps, "rms_norm.forward")
    rstd = jax.lax.rsqrt(mean_over(jnp.square(widen(x)), _unit_axes(params.weight)) + eps)
    out = scale_and_shift(widen(x) * rstd, params)
    return out.astype(x.dtype), Residuals(x, rstd, params.weight, Static(params.bias is not None))


def backward(residuals: Residuals, delta: Float[Array, "*shape"]) -> tuple[Params, Float[Array, "*shape"]]:
    """(∂L/∂γ = Σ δ x̂, ∂L/∂β = Σ δ), ∂L/∂x = r (δ̂ − x̂ mean(δ̂ x̂)).

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, rstd, weight, has_bias = residuals
    delta = check_delta(delta, x.shape, "rms_norm.backward")
    samples = tuple(range(x.ndim - weight.ndim))
    x, delta = widen(x), widen(delta)
    x_hat = x * rstd
    grad_weight = (delta * x_hat).sum(axis=samples).astype(weight.dtype)
    grad_bias = delta.sum(axis=samples).astype(weight.dtype) if has_bias.value else None
    scaled = delta * broadcast_like(weight, delta)
    # x̂ mean(δ̂ x̂) = x r² mean(δ̂ x): x̂ is not needed here
    share = rstd * rstd * mean_over(scaled * x, _unit_axes(weight))
    delta_x = rstd * (scaled - x * share)
    return Params(grad_weight, grad_bias), delta_x.astype(residuals.x.dtype)


def _unit_axes(weight: Array) -> tuple[int, ...]:
    return tuple(range(-weight.ndim, 0))


LAYOUTS = Layouts(pytorch=AS_HERE, keras=AS_HERE)


def layer(
    *,
    axes: int = 1,
    eps: float = 1e-6,
    use_bias: bool = False,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer[Params]:
    """An RMS norm over the last `axes` axes; units and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        ValueError: a negative eps, fewer than one axis, or (from init) an input with fewer axes.
    """
    check_eps(eps, "rms_norm")
    check_size(axes, "rms_norm", "axes, the number of last axes to normalise over,")

    def init_for(key, x):
        units = last_axes(x, axes, "rms_norm.init")
        return init(key, units, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init, dtype=x.dtype)

    return Layer(init_for, partial(forward, eps=eps), backward, "rms_norm", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "rms_norm",
        (
            r"z = \gamma \hat{x} + \beta, \quad \hat{x} = x\, r, \quad r = 1/\sqrt{\overline{x^2} + \epsilon}",
            r"\partial L/\partial \gamma = \sum \delta \hat{x}",
            r"\partial L/\partial \beta = \sum \delta",
            r"\partial L/\partial x = r\,(\gamma\delta - \hat{x}\,\overline{\gamma\delta \hat{x}})",
        ),
        "Zhang and Sennrich (2019), eq. 4",
        (
            Example("no bias", layer(), (5, 4)),
            Example("with bias, eps 0.1", layer(use_bias=True, eps=0.1), (5, 4)),
            Example("two leading axes", layer(), (2, 3, 4)),
            Example("over two axes, with bias", layer(axes=2, use_bias=True), (3, 2, 4)),
            Example("one vector", layer(), (6,)),
            Example("one unit", layer(eps=0.5), (3, 1)),
            Example("no rows", layer(), (0, 4)),
        ),
    ),
)
