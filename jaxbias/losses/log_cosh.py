"""Log-cosh loss: squared near the target, linear far from it, smooth throughout; summed over the K outputs of a row.

With the error e = a − y:

Forward     L = r Σ_n Σ_k log cosh e[n,k]                 (9.11.15)
              = r Σ_n Σ_k |e| + log(1 + exp(−2|e|)) − log 2     r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂a = r tanh(a − y)                     (9), (9.11.15)

The second form overflows nowhere, but below |e| = 1 it subtracts numbers of the size of |e| to get one of the size of
½ e²; there log cosh e = log(1 + 2 sinh²(e/2)) keeps the digits.

Kinks: none; those of |e| cancel. `huber` is the same with two pieces and a threshold.

Source: derivation sheet (9.11.15).
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
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
    """L = r Σ log cosh(a − y): the targets must come in a unit in which an error of 1 is neither small nor large.

    Args:
        out: outputs a; every axis but the last counts rows.
        targets: y, in the shape of out.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, an unknown reduction, or a row_weight of another shape.
    """
    check_reduction(reduction, "log_cosh.forward")
    check_same_shape(out, targets, "log_cosh.forward")
    error = widen(out) - widen(targets)
    size = jnp.abs(error)
    near = size < 1
    half_sinh = jnp.sinh(0.5 * jnp.where(near, error, 0))  # of the others it might overflow
    cost = jnp.where(near, jnp.log1p(2 * half_sinh * half_sinh), size + jnp.log1p(jnp.exp(-2 * size)) - math.log(2))
    per_row = cost.sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "log_cosh.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r tanh(a − y).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, rows = residuals
    error = widen(out) - widen(targets)
    r = row_cotangent(rows, delta, error.dtype, "log_cosh.backward")
    return only_counted(rows, r * jnp.tanh(error)).astype(out.dtype)


def loss(*, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its weights and reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "log_cosh.loss")
    return ConfiguredLoss(partial(forward, row_weight=row_weight, reduction=reduction), backward, "log_cosh")


ROW_WEIGHT = np.array([0.5, 2, 0, 1, 1.5])


def _targets(key, dtype):
    return normal(key, (5, 3), dtype)


DERIVATIONS = (
    Derivation(
        "log_cosh",
        (
            r"L = \frac{1}{n} \sum_{n,k} \log \cosh(a_{nk} - y_{nk})",
            r"\partial L/\partial a = \frac{1}{n} \tanh(a - y)",
        ),
        "equation 9.11.15",
        (
            LossExample("mean", loss(), (5, 3), _targets),
            LossExample("none, row weights", loss(row_weight=ROW_WEIGHT, reduction="none"), (5, 3), _targets),
        ),
    ),
)
