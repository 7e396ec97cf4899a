"""Negative log-likelihood of counts under a Poisson distribution whose log rate is the output; summed over K outputs.

Forward     L = r Σ_n Σ_k exp z[n,k] − y[n,k] z[n,k]      (9.11.10), r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂z = r (exp z − y)                     (9), (9.11.10)

exp z is the expected count, so δ is predicted minus observed, as for every loss whose output is the natural parameter
of an exponential family. The constant log y! is left out: L is lowest at z = log y, with y − y log y.

Kinks: none.

Source: derivation sheet (9.11.10).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator
from jaxbias.losses._loss import (
    Rows,
    check_counts,
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
    """L = r Σ exp z − y z, in nats.

    Args:
        out: log rates z; every axis but the last counts rows.
        targets: counts y ≥ 0 in the shape of out, floating point; they need not be whole.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, a negative count (inside jit they cannot be looked at), an
            unknown reduction, or a row_weight of another shape.
    """
    check_reduction(reduction, "poisson_nll.forward")
    check_same_shape(out, targets, "poisson_nll.forward")
    check_counts(targets, "poisson_nll.forward")
    z, y = widen(out), widen(targets)
    per_row = (jnp.exp(z) - y * z).sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "poisson_nll.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r (exp z − y).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, rows = residuals
    excess = jnp.exp(widen(out)) - widen(targets)
    r = row_cotangent(rows, delta, excess.dtype, "poisson_nll.backward")
    return only_counted(rows, r * excess).astype(out.dtype)


def loss(*, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its weights and reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "poisson_nll.loss")
    return ConfiguredLoss(partial(forward, row_weight=row_weight, reduction=reduction), backward, "poisson_nll")


ROW_WEIGHT = np.array([0.5, 2, 0, 1, 1.5])


def _targets(key, dtype):
    return jax.device_put(generator(key).poisson(2.0, (5, 3)).astype(dtype))


DERIVATIONS = (
    Derivation(
        "poisson_nll",
        (
            r"L = \frac{1}{n} \sum_{n,k} e^{z_{nk}} - y_{nk} z_{nk}",
            r"\partial L/\partial z = \frac{1}{n} (e^z - y)",
        ),
        "equation 9.11.10",
        (
            LossExample("mean", loss(), (5, 3), _targets),
            LossExample("none, row weights", loss(row_weight=ROW_WEIGHT, reduction="none"), (5, 3), _targets),
        ),
    ),
)
