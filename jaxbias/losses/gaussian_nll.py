"""Negative log-likelihood under a Gaussian whose mean and log variance are both outputs; summed over the K targets.

The last axis of out holds K means μ, then K log variances s = log v, so the last layer of a network has 2K outputs:

    network = jb.chain(dense.layer(64), tanh, dense.layer(2))        # of one target: its mean, its log variance
    value, grads = jb.value_and_grad(network, jb.losses.gaussian_nll)(params, x, targets)     # targets (n, 1)

Forward     L = r Σ_n Σ_k ½ (s + (y − μ)²/v)                r = 1/n for the mean over rows, 1 for the sum
Backward    ∂L/∂μ = r (μ − y)/v      ∂L/∂s = ½ r (1 − (y − μ)²/v)        (9), (9.11.12)

The constant ½ log 2π is left out. With β > 0 each term is multiplied by v^β, held constant (a part of the loss, but not
of its slope), and so are both derivatives. Without it a row counts 1/v in ∂L/∂μ, so what is fitted badly is given up as
noise; β = 1 gives the slope of the squared error back, ½ stands between. L is then no likelihood, and differences of it
are not its δ.

A variance is never divided by: e^(−s) is multiplied with, and s is free to be any number.

Kinks: none.

Source: D. Nix and A. Weigend, Estimating the Mean and Variance of the Target Probability Distribution (1994); β:
M. Seitzer et al., On the Pitfalls of Heteroscedastic Uncertainty Estimation (2022); derivation sheet (9.11.12).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_float, check_number
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, normal
from jaxbias.losses._loss import (
    Rows,
    check_out,
    check_reduction,
    only_counted,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static


class Residuals(NamedTuple):
    out: Float[Array, "*batch outputs"]
    targets: Float[Array, "*batch k"]
    beta: Static
    rows: Rows


def forward(
    out: Float[Array, "*batch outputs"],
    targets: Float[Array, "*batch k"],
    *,
    beta: float = 0.0,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ v^β ½ (s + (y − μ)²/v), in nats; v^β is held constant.

    Args:
        out: (*batch, 2K): K means, then K log variances.
        targets: y (*batch, K).
        beta: β in [0, 1]; 0 is the likelihood.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: out has not twice as many entries per row as targets, a beta outside [0, 1], an unknown reduction,
            or a row_weight of another shape.
    """
    _check_beta(beta, "gaussian_nll.forward")
    check_reduction(reduction, "gaussian_nll.forward")
    check_out(out, "gaussian_nll.forward")
    check_float(targets, "gaussian_nll.forward", "targets")
    if not targets.ndim or out.shape != (*targets.shape[:-1], 2 * targets.shape[-1]):
        raise ValueError(
            f"gaussian_nll.forward: out must hold a mean and a log variance for each target, means first, shape "
            f"(*batch, 2 K) for targets (*batch, K), got out {out.shape} and targets {targets.shape}."
        )
    error, log_variance, precision = _parts(out, targets)
    cost = 0.5 * (log_variance + error * error * precision)
    if beta:
        cost = jax.lax.stop_gradient(jnp.exp(beta * log_variance)) * cost
    per_row = cost.sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "gaussian_nll.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, Static(beta), rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch outputs"]:
    """δ = r v^β ((μ − y)/v, ½ (1 − (y − μ)²/v)).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, beta, rows = residuals
    error, log_variance, precision = _parts(out, targets)
    slopes = error * precision, 0.5 * (1 - error * error * precision)
    if beta.value:
        slopes = tuple(jnp.exp(beta.value * log_variance) * slope for slope in slopes)
    r = row_cotangent(rows, delta, error.dtype, "gaussian_nll.backward")
    return only_counted(rows, r * jnp.concatenate(slopes, axis=-1)).astype(out.dtype)


def loss(*, beta: float = 0.0, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with β, its weights and reduction bound; keywords as for `forward`."""
    _check_beta(beta, "gaussian_nll.loss")
    check_reduction(reduction, "gaussian_nll.loss")
    bound = partial(forward, beta=beta, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "gaussian_nll")


def _parts(out: Float[Array, "*batch outputs"], targets: Float[Array, "*batch k"]) -> tuple[Array, Array, Array]:
    """μ − y, s and 1/v."""
    mean, log_variance = jnp.split(widen(out), 2, axis=-1)
    return mean - widen(targets), log_variance, jnp.exp(-log_variance)


def _check_beta(beta: float, function: str) -> None:
    check_number(beta, function, "beta")
    if not 0 <= beta <= 1:
        raise ValueError(f"{function}: beta must lie in [0, 1], got {beta}.")


ROW_WEIGHT = np.array([0.5, 2, 0, 1, 1.5])


def _targets(key, dtype):
    return normal(key, (5, 2), dtype)


DERIVATIONS = (
    Derivation(
        "gaussian_nll",
        (
            r"L = \frac{1}{2n} \sum_{n,k} s_{nk} + (y_{nk} - \mu_{nk})^2 e^{-s_{nk}}",
            r"\partial L/\partial \mu = \frac{1}{n} (\mu - y) e^{-s}",
            r"\partial L/\partial s = \frac{1}{2n} (1 - (y - \mu)^2 e^{-s})",
        ),
        "Nix and Weigend (1994); Seitzer et al. (2022); equation 9.11.12",
        (  # none with β: v^β is held constant, so its δ is not what differences of L give
            LossExample("mean", loss(), (5, 4), _targets),
            LossExample("none, row weights", loss(row_weight=ROW_WEIGHT, reduction="none"), (5, 4), _targets),
        ),
        {r"\mu": ("x",), "s": ("x",)},
    ),
)
