"""Huber loss: squared near the target, linear beyond a threshold d; summed over the K outputs of a row.

With the error e = a − y:

Forward     L = r Σ_n Σ_k h(e[n,k]),   h(e) = ½ e² for |e| ≤ d, else d (|e| − ½ d)
            r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂a = r max(−d, min(e, d))              (9)

Kinks: none in L; the slope is continuous and has its kinks at |e| = d, where both pieces give ±d.

Source: P. Huber, Robust Estimation of a Location Parameter, Ann. Math. Statist. 35 (1964).
"""

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
    threshold: Static
    rows: Rows


def forward(
    out: Float[Array, "*batch k"],
    targets: Float[Array, "*batch k"],
    *,
    threshold: float = 1.0,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ h(a − y), in the squared unit of the targets.

    Args:
        out: outputs a; every axis but the last counts rows.
        targets: y, in the shape of out.
        threshold: d > 0, in the unit of the targets; the largest |slope| of one error.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, a threshold that is not positive, an unknown reduction, or a
            row_weight of another shape.
    """
    _check_threshold(threshold, "huber.forward")
    check_reduction(reduction, "huber.forward")
    check_same_shape(out, targets, "huber.forward")
    error = widen(out) - widen(targets)
    size = jnp.abs(error)
    # two pieces, not one formula of the clipped error: XLA's CPU backend makes one loop of them, twice as fast
    cost = jnp.where(size <= threshold, 0.5 * error * error, threshold * (size - 0.5 * threshold))
    per_row = cost.sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "huber.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, Static(threshold), rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r max(−d, min(a − y, d)).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, threshold, rows = residuals
    error = widen(out) - widen(targets)
    r = row_cotangent(rows, delta, error.dtype, "huber.backward")
    return only_counted(rows, r * jnp.clip(error, -threshold.value, threshold.value)).astype(out.dtype)


def loss(*, threshold: float = 1.0, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its threshold, weights and reduction bound; keywords as for `forward`."""
    _check_threshold(threshold, "huber.loss")
    check_reduction(reduction, "huber.loss")
    bound = partial(forward, threshold=threshold, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "huber")


def _check_threshold(threshold: float, function: str) -> None:
    check_number(threshold, function, "threshold")
    if not threshold > 0:
        raise ValueError(f"{function}: threshold must be positive, got {threshold}.")


ROW_WEIGHT = np.array([0.5, 2, 0, 1, 1.5])


def _targets(key, dtype):
    return normal(key, (5, 3), dtype)


DERIVATIONS = (
    Derivation(
        "huber",
        (
            r"L = \frac{1}{n} \sum_{n,k} h(a_{nk} - y_{nk})",
            r"h(e) = \tfrac12 e^2 \text{ for } |e| \le d, \text{ else } d(|e| - \tfrac12 d)",
            r"\partial L/\partial a = \frac{1}{n} \max(-d, \min(a - y, d))",
        ),
        "Huber (1964)",
        (
            LossExample("threshold 1", loss(), (5, 3), _targets),
            LossExample("threshold 0.3, sum", loss(threshold=0.3, reduction="sum"), (5, 3), _targets),
            LossExample("none, row weights", loss(row_weight=ROW_WEIGHT, reduction="none"), (5, 3), _targets),
        ),
    ),
)
