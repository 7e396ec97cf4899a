"""Negative log-likelihood of counts that vary more than a Poisson's: log mean and log concentration; summed over K.

The last axis of out holds K log means z = log μ, then K log concentrations s = log r; the variance is μ + μ²/r. With
`concentration` r is a constant, and out holds the log means alone.

    network = jb.chain(dense.layer(64), tanh, dense.layer(2))        # of one count: its log mean, its log concentration
    value, grads = jb.value_and_grad(network, jb.losses.negative_binomial_nll)(params, x, counts)     # counts (n, 1)

Forward     L = w Σ_n Σ_k r log(1 + μ/r) + y log(1 + r/μ) − log Γ(y + r) + log Γ(r)    w = 1/n for the mean
Backward    ∂L/∂z = w r (μ − y)/(r + μ)                                                                   (9), (9.11.11)
            ∂L/∂s = w (r (ψ(r) − ψ(y + r) + log(1 + μ/r)) − r (μ − y)/(r + μ))                            (9), (9.11.11)

The constant log y! is left out, as in `poisson_nll`, whose L this becomes where r is large. There the two Γ, and the
two ψ, are as large as each other and their difference is small: from r = 16 on it is Stirling's series of it.

Kinks: none.

Source: derivation sheet (9.11.11); J. Hilbe, Negative Binomial Regression (2011), NB2.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_float, check_number
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator
from jaxbias.losses._loss import (
    Rows,
    check_counts,
    check_out,
    check_reduction,
    only_counted,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static

LARGE = 16.0
"""From this concentration on seven terms of Stirling's series are exact to float64."""
OF_LOG_GAMMA = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""Of x⁻¹, x⁻³, x⁻⁵, …: log Γ(x) less (x − ½) log x − x + ½ log 2π."""


class Residuals(NamedTuple):
    out: Float[Array, "*batch outputs"]
    targets: Float[Array, "*batch k"]
    concentration: Static
    rows: Rows


def forward(
    out: Float[Array, "*batch outputs"],
    targets: Float[Array, "*batch k"],
    *,
    concentration: float | None = None,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = w Σ −log NB(y; μ, r), but for log y!, in nats.

    Args:
        out: (*batch, 2K): K log means, then K log concentrations; with `concentration` (*batch, K), log means.
        targets: counts y ≥ 0 (*batch, K), floating point; they need not be whole.
        concentration: r > 0, the same for all; None where the network gives it.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point, or a concentration that is no number.
        ValueError: shapes that do not fit, a negative count (inside jit they cannot be looked at), a concentration that
            is not above 0, an unknown reduction, or a row_weight of another shape.
    """
    _check_concentration(concentration, "negative_binomial_nll.forward")
    check_reduction(reduction, "negative_binomial_nll.forward")
    check_out(out, "negative_binomial_nll.forward")
    check_float(targets, "negative_binomial_nll.forward", "targets")
    outputs = 2 if concentration is None else 1
    if not targets.ndim or out.shape != (*targets.shape[:-1], outputs * targets.shape[-1]):
        wanted = "a log mean and a log concentration" if outputs == 2 else "a log mean"
        raise ValueError(
            f"negative_binomial_nll.forward: out must hold {wanted} for each target, shape (*batch, {outputs} K) for "
            f"targets (*batch, K), got out {out.shape} and targets {targets.shape}."
        )
    check_counts(targets, "negative_binomial_nll.forward")
    z, s, y = _parts(out, targets, concentration)
    cost = jnp.exp(s) * jax.nn.softplus(z - s) + y * jax.nn.softplus(s - z) - _log_gamma_ratio(y, jnp.exp(s))
    per_row = cost.sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "negative_binomial_nll.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, Static(concentration), rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch outputs"]:
    """δ = w (r (μ − y)/(r + μ), r (ψ(r) − ψ(y + r) + log(1 + μ/r)) − r (μ − y)/(r + μ)), the second if r is learned.

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, concentration, rows = residuals
    z, s, y = _parts(out, targets, concentration.value)
    r = jnp.exp(s)
    of_mean = r * jax.nn.sigmoid(z - s) - y * jax.nn.sigmoid(s - z)  # r (μ − y)/(r + μ), without an overflow of μ
    slopes = of_mean
    if concentration.value is None:
        of_concentration = r * (jax.nn.softplus(z - s) - _digamma_difference(y, r)) - of_mean
        slopes = jnp.concatenate([of_mean, of_concentration], axis=-1)
    w = row_cotangent(rows, delta, slopes.dtype, "negative_binomial_nll.backward")
    return only_counted(rows, w * slopes).astype(out.dtype)


def loss(*, concentration: float | None = None, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its concentration, weights and reduction bound; keywords as for `forward`."""
    _check_concentration(concentration, "negative_binomial_nll.loss")
    check_reduction(reduction, "negative_binomial_nll.loss")
    bound = partial(forward, concentration=concentration, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "negative_binomial_nll")


def _parts(out: Array, targets: Array, concentration: float | None) -> tuple[Array, Array, Array]:
    """z, s and y."""
    if concentration is None:
        z, s = jnp.split(widen(out), 2, axis=-1)
    else:
        z = widen(out)
        s = jnp.full_like(z, math.log(concentration))
    return z, s, widen(targets)


def _log_gamma_ratio(y: Array, r: Array) -> Array:
    """log Γ(y + r) − log Γ(r)."""
    large = jnp.where(r < LARGE, LARGE, r)
    series = (large - 0.5) * jnp.log1p(y / large) + y * jnp.log(large + y) - y
    series = series + _powers(large + y, OF_LOG_GAMMA, 1) - _powers(large, OF_LOG_GAMMA, 1)
    small = jnp.where(r < LARGE, r, 1)
    return jnp.where(r < LARGE, jax.lax.lgamma(y + small) - jax.lax.lgamma(small), series)


def _digamma_difference(y: Array, r: Array) -> Array:
    """ψ(y + r) − ψ(r), the derivative of `_log_gamma_ratio` by r."""
    large = jnp.where(r < LARGE, LARGE, r)
    of_digamma = tuple(-(2 * i + 1) * c for i, c in enumerate(OF_LOG_GAMMA))
    series = jnp.log1p(y / large) + y / (2 * large * (large + y))  # −1/2(r + y) + 1/2r
    series = series + _powers(large + y, of_digamma, 2) - _powers(large, of_digamma, 2)
    small = jnp.where(r < LARGE, r, 1)
    return jnp.where(r < LARGE, jax.lax.digamma(y + small) - jax.lax.digamma(small), series)


def _powers(x: Array, coefficients: tuple[float, ...], first: int) -> Array:
    """c₀ x^−first + c₁ x^−(first + 2) + …"""
    inverse = 1 / x
    square, total = inverse * inverse, jnp.zeros_like(x)
    for c in reversed(coefficients):
        total = total * square + c
    return total * (inverse if first == 1 else square)


def _check_concentration(concentration: float | None, function: str) -> None:
    if concentration is None:
        return
    check_number(concentration, function, "concentration")
    if not 0 < concentration < math.inf:
        raise ValueError(f"{function}: concentration must be above 0 and finite, got {concentration}.")


ROW_WEIGHT = np.array([0.5, 2, 0, 1, 1.5])


def _targets(key, dtype):
    return jax.device_put(generator(key).negative_binomial(2, 0.4, (5, 2)).astype(dtype))


def _on_both_sides(key: Any, dtype: Any) -> Array:
    """Log means, and log concentrations below and above log 16."""
    z = generator(key).standard_normal((5, 4))
    z[:, 2:] = 3 * z[:, 2:] + math.log(LARGE)
    return jax.device_put(z.astype(dtype))


DERIVATIONS = (
    Derivation(
        "negative_binomial_nll",
        (
            (
                r"L = \frac{1}{n} \sum_{n,k} r \log(1 + \mu/r) + y \log(1 + r/\mu) - \log(\Gamma(y + r)/\Gamma(r)),"
                r" \quad \mu = e^z, \quad r = e^s"
            ),
            r"\partial L/\partial z = \frac{1}{n} r (\mu - y)/(r + \mu)",
            (
                r"\partial L/\partial s = \frac{1}{n} \left( r\,(\psi(r) - \psi(y + r) + \log(1 + \mu/r))"
                r" - r (\mu - y)/(r + \mu) \right)"
            ),
        ),
        "equation 9.11.11; Hilbe (2011)",
        (
            LossExample("mean", loss(), (5, 4), _targets),
            LossExample(
                "large concentrations, none, row weights",
                loss(row_weight=ROW_WEIGHT, reduction="none"),
                _on_both_sides,
                _targets,
            ),
            LossExample("given concentration, sum", loss(concentration=2.5, reduction="sum"), (5, 2), _targets),
        ),
        {"z": ("x",), "s": ("x",)},
    ),
)
