"""Pinball loss, for quantiles: what lies above the output costs τ, what lies below 1 − τ; summed over the K outputs.

Its minimum over all outputs is the τ-quantile of the targets, as that of the absolute error is the median (τ = ½).

Forward     L = r Σ_n Σ_k max(τ (y − q), (τ − 1)(y − q))  (9.11.13), r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂q = −r τ where y > q, else r (1 − τ)  (9), (9.11.13)

Several quantiles of one target are several outputs, each with its τ, and the target repeated:

    ends = jb.losses.pinball.loss(quantile=(0.05, 0.95))      # of a network with two outputs
    value, residuals = ends.forward(out, jnp.repeat(targets, 2, axis=-1))

Kinks: at y = q, where the slope of y < q is taken.

Source: R. Koenker and G. Bassett, Regression Quantiles, Econometrica 46 (1978); derivation sheet (9.11.13).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_number
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, normal
from jaxbias.losses._loss import (
    Rows,
    check_reduction,
    check_same_shape,
    only_counted,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static


class Residuals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    quantile: Static
    rows: Rows


def forward(
    out: Float[Array, "*batch k"],
    targets: Float[Array, "*batch k"],
    *,
    quantile: float | Sequence[float] = 0.5,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ max(τ (y − q), (τ − 1)(y − q)), in the unit of the targets.

    Args:
        out: quantiles q; every axis but the last counts rows.
        targets: y, in the shape of out.
        quantile: τ in (0, 1), one for all outputs or one for each.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point, or a quantile is no number.
        ValueError: their shapes differ, out is a scalar, a quantile outside (0, 1), another number of quantiles than
            of outputs, an unknown reduction, or a row_weight of another shape.
    """
    quantiles = _as_tuple(quantile, "pinball.forward")
    check_reduction(reduction, "pinball.forward")
    check_same_shape(out, targets, "pinball.forward")
    if len(quantiles) not in (1, out.shape[-1]):
        raise ValueError(
            f"pinball.forward: quantile must be one number or one for each of the {out.shape[-1]} outputs of a row, "
            f"got {len(quantiles)}."
        )
    missing = widen(targets) - widen(out)
    tau = _along(quantiles, missing)
    per_row = jnp.where(missing > 0, tau * missing, (tau - 1) * missing).sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "pinball.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, Static(quantiles), rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = −r τ where y > q, else r (1 − τ).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, quantile, rows = residuals
    above = widen(targets) > widen(out)
    tau = _along(quantile.value, widen(out))
    r = row_cotangent(rows, delta, tau.dtype, "pinball.backward")
    return only_counted(rows, r * jnp.where(above, -tau, 1 - tau)).astype(out.dtype)


def loss(*, quantile: float | Sequence[float] = 0.5, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its quantiles, weights and reduction bound; keywords as for `forward`."""
    quantiles = _as_tuple(quantile, "pinball.loss")
    check_reduction(reduction, "pinball.loss")
    bound = partial(forward, quantile=quantiles, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "pinball")


def _as_tuple(quantile: Any, function: str) -> tuple[float, ...]:
    quantiles: tuple[Any, ...] = tuple(quantile) if isinstance(quantile, list | tuple) else (quantile,)
    for tau in quantiles:
        check_number(tau, function, "quantile")
        if not 0 < tau < 1:
            raise ValueError(f"{function}: quantile must lie between 0 and 1, got {tau}. The 5 % quantile is 0.05.")
    return quantiles


def _along(quantiles: tuple[float, ...], like: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """τ of each output, in the shape of `like`."""
    return jnp.broadcast_to(jnp.asarray(quantiles, like.dtype), like.shape)


ROW_WEIGHT = np.array([0.5, 2, 0, 1, 1.5])


def _targets(key, dtype):
    return normal(key, (5, 3), dtype)


DERIVATIONS = (
    Derivation(
        "pinball",
        (
            r"L = \frac{1}{n} \sum_{n,k} \max(\tau (y_{nk} - q_{nk}), (\tau - 1)(y_{nk} - q_{nk}))",
            r"\partial L/\partial q = -\frac{1}{n} \tau \text{ for } y > q, \text{ else } \frac{1}{n} (1 - \tau)",
        ),
        "Koenker and Bassett (1978); equation 9.11.13",
        (
            LossExample("quantile 0.9", loss(quantile=0.9), (5, 3), _targets),
            LossExample(
                "a quantile for each output, none, row weights",
                loss(quantile=(0.05, 0.5, 0.8), row_weight=ROW_WEIGHT, reduction="none"),
                (5, 3),
                _targets,
            ),
        ),
        {"q": ("x",)},
    ),
)
