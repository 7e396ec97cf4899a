"""Group norm: each sample is normalised over its positions and one group of channels; scale γ (weight), shift β (bias).

Forward     μ = mean x,  v = mean (x − μ)²,  r = 1/√(v + eps)       over all positions and the C/G channels of a group
            x̂ = (x − μ) r,  z = γ x̂ + β                            γ, β: one for each channel
Backward, with δ = ∂L/∂z and δ̂ = γ δ:
            ∂L/∂γ = Σ δ x̂         over samples and positions: the incoming activation is x̂   (10)
            ∂L/∂β = Σ δ           over samples and positions                                 (14), 4.5
            ∂L/∂x = r (δ̂ − mean δ̂ − x̂ mean(δ̂ x̂))       means over the group              (8)
            x reaches z directly, through μ and through v: one term for each way (5).
            γ is constant over positions, so Σ δ and Σ δ x̂ over positions, formed once, give all four.

Images are channels-last: x has shape (n, *positions, C) with any number of position axes, also none.
As many groups as channels is instance norm; one group is layer norm over positions and channels with a γ per channel.
A bias directly before instance norm is redundant, as before batch norm; before other group norms only its mean over
each group is (5.3).
Statistics are computed in at least float32. For backward x is kept, with μ and r, not x̂.

Source: Y. Wu, K. He, Group Normalization (2018), sec. 3; D. Ulyanov et al., Instance Normalization (2016).
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_size
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers._norm import check_eps, check_input, moments, scale_and_shift
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static


class Residuals(NamedTuple):
    x: Float[Array, "n *positions channels"]
    mean: Float[Array, "n 1 groups 1"]
    rstd: Float[Array, "n 1 groups 1"]
    weight: Float[Array, " channels"]
    has_bias: Static


def init(
    key: Array,
    channels: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Scale (weight), by default 1, and shift (bias), by default 0.

    Args:
        use_bias: whether there is a shift; without one the bias is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    return initializers.affine(
        key, (channels,), (channels,), dtype, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init
    )


def forward(
    params: Params, x: Float[Array, "n *positions channels"], *, groups: int | None, eps: float = 1e-5
) -> tuple[Float[Array, "n *positions channels"], Residuals]:
    """z = γ (x − μ)/√(v + eps) + β over the positions and the channels of each group.

    Args:
        x: (n, *positions, channels).
        groups: G, a divisor of the number of channels; neighbouring channels form a group. None for as many as
            channels: instance norm.
        eps: added to the variance, in the squared unit of x.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has fewer than two axes or other channels than the weight, groups that do not divide them, a bias
            of another shape, or a negative eps.
    """
    check_input(params, x, eps, "group_norm.forward")
    _check_groups(x.shape, groups, "group_norm.forward")
    grouped = _grouped(widen(x), groups or x.shape[-1])
    mean, variance = moments(grouped, (1, 3))
    rstd = jax.lax.rsqrt(variance + eps)
    out = scale_and_shift(((grouped - mean) * rstd).reshape(x.shape), params)
    return out.astype(x.dtype), Residuals(x, mean, rstd, params.weight, Static(params.bias is not None))


def backward(
    residuals: Residuals, delta: Float[Array, "n *positions channels"]
) -> tuple[Params, Float[Array, "n *positions channels"]]:
    """(∂L/∂γ = Σ δ x̂, ∂L/∂β = Σ δ), ∂L/∂x = r (δ̂ − mean δ̂ − x̂ mean(δ̂ x̂)).

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, mean, rstd, weight, has_bias = residuals
    delta = check_delta(delta, x.shape, "group_norm.backward")
    groups = rstd.shape[2]
    x_hat = (_grouped(widen(x), groups) - mean) * rstd
    delta = _grouped(widen(delta), groups)
    by_sample = delta.sum(axis=1, keepdims=True), (delta * x_hat).sum(axis=1, keepdims=True)  # (n, 1, G, C/G)
    grad_bias, grad_weight = (total.sum(axis=0).reshape(weight.shape).astype(weight.dtype) for total in by_sample)
    scale = weight.astype(delta.dtype).reshape(1, 1, groups, -1)
    in_group = max(delta.shape[1] * delta.shape[3], 1)
    mean_delta, mean_product = ((scale * total).sum(axis=3, keepdims=True) / in_group for total in by_sample)
    delta_x = rstd * (scale * delta - mean_delta - x_hat * mean_product)
    return Params(grad_weight, grad_bias if has_bias.value else None), delta_x.reshape(x.shape).astype(x.dtype)


def _grouped(x: Array, groups: int) -> Array:
    """(n, *positions, channels) as (n, positions, groups, channels of a group)."""
    *positions, channels = x.shape[1:]
    return x.reshape(x.shape[0], math.prod(positions), groups, channels // groups)


def _check_groups(shape: tuple[int, ...], groups: int | None, function: str) -> None:
    if len(shape) < 2:
        raise ValueError(f"{function}: x must have the axes (n, *positions, channels), got shape {shape}.")
    if shape[-1] == 0:
        raise ValueError(f"{function}: x of shape {shape} has no channels.")
    if groups is not None:
        check_size(groups, function, "groups")
    if groups is not None and shape[-1] % groups:
        raise ValueError(f"{function}: groups={groups} must divide the {shape[-1]} channels of x, shape {shape}.")


LAYOUTS = Layouts(pytorch=AS_HERE, keras=AS_HERE)


def layer(
    groups: int | None,
    *,
    eps: float = 1e-5,
    use_bias: bool = True,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer[Params]:
    """Group norm with `groups` groups, None for instance norm; channels and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        ValueError: a negative eps, or (from init and forward) groups that do not divide the channels.
    """
    check_eps(eps, "group_norm")
    if groups is not None:
        check_size(groups, "group_norm.layer", "groups")

    def init_for(key, x):
        check_float(x, "group_norm.init")
        _check_groups(x.shape, groups, "group_norm.init")
        return init(key, x.shape[-1], use_bias=use_bias, weight_init=weight_init, bias_init=bias_init, dtype=x.dtype)

    return Layer(
        init_for,
        partial(forward, groups=groups, eps=eps),
        backward,
        "group_norm",
        layouts=LAYOUTS,
    )


DERIVATIONS = (
    Derivation(
        "group_norm",
        (
            r"z = \gamma \hat{x} + \beta, \quad \hat{x} = (x - \mu)\, r, \quad r = 1/\sqrt{v + \epsilon}",
            r"\partial L/\partial \gamma = \sum \delta \hat{x}",
            r"\partial L/\partial \beta = \sum \delta",
            r"\partial L/\partial x = r(\gamma\delta - \overline{\gamma\delta} - \hat x\overline{\gamma\delta\hat x})",
        ),
        "Wu and He (2018), sec. 3",
        (
            Example("images, 2 groups", layer(2), (2, 4, 3, 6)),
            Example("no bias, eps 0.1", layer(3, use_bias=False, eps=0.1), (2, 4, 6)),
            Example("instance norm", layer(None), (2, 4, 3, 3)),
            Example("one group", layer(1), (2, 5, 4)),
            Example("no positions axis", layer(2), (3, 8)),
            Example("volumes", layer(2), (2, 2, 3, 2, 4)),
            Example("no rows", layer(2), (0, 4, 6)),
        ),
    ),
)
