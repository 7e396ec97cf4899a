"""Half squared error: half the squared distance of a row's outputs to its targets, then mean (or sum) over the n rows.

Forward     L = r Σ_n ½ Σ_k (a[n,k] − y[n,k])²            r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂a = r (a − y)                         (9), 4.2

Kinks: none. The K outputs are summed; their mean is `mean_squared_error`.

Source: C. Bishop, PRML (2006), eq. 5.14; derivation sheet 4.2.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

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
from jaxbias.params import ConfiguredLoss


class Residuals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    rows: Rows


def forward(
    out: Float[Array, "*batch k"], targets: Float[Array, "*batch k"], *, row_weight: Any = None, reduction: str = "mean"
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ ½ (a − y)², in the squared unit of the targets.

    Args:
        out: outputs a; every axis but the last counts rows.
        targets: y, in the shape of out.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, an unknown reduction, or a row_weight of another shape.
    """
    check_reduction(reduction, "half_squared_error.forward")
    check_same_shape(out, targets, "half_squared_error.forward")
    error = widen(out) - widen(targets)
    per_row = 0.5 * (error * error).sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "half_squared_error.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r (a − y).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, rows = residuals
    error = widen(out) - widen(targets)
    r = row_cotangent(rows, delta, error.dtype, "half_squared_error.backward")
    return only_counted(rows, r * error).astype(out.dtype)


def loss(*, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its weights and reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "half_squared_error.loss")
    return ConfiguredLoss(partial(forward, row_weight=row_weight, reduction=reduction), backward, "half_squared_error")


ROW_WEIGHT = np.array([0.5, 2, 0, 1, 1.5])


def _targets(key, dtype):
    return normal(key, (5, 3), dtype)


DERIVATIONS = (
    Derivation(
        "half_squared_error",
        (r"L = \frac{1}{2n} \sum_{n,k} (a_{nk} - y_{nk})^2", r"\partial L/\partial a = \frac{1}{n} (a - y)"),
        "derivation sheet 4.2; Bishop (2006), eq. 5.14",
        (
            LossExample("mean", loss(), (5, 3), _targets),
            LossExample("sum", loss(reduction="sum"), (5, 3), _targets),
            LossExample("none, row weights", loss(row_weight=ROW_WEIGHT, reduction="none"), (5, 3), _targets),
        ),
    ),
)
