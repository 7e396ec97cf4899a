"""Half squared error: half the squared distance of a row's outputs to its targets, then mean (or sum) over the n rows.

Forward     L = r Σ_n ½ Σ_k (a[n,k] − y[n,k])²            r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂a = r (a − y)                         (9), 4.2

Kinks: none. The K outputs are summed; their mean is `mean_squared_error`.

Source: C. Bishop, PRML (2006), eq. 5.14; derivation sheet 4.2.
"""

from functools import partial
from typing import NamedTuple

from jaxtyping import Array, Float

from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, normal
from jaxbias.losses._loss import check_reduction, check_same_shape, reduce_rows, row_factor
from jaxbias.params import ConfiguredLoss, Static


class Residuals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    r: Static


def forward(
    out: Float[Array, "*batch k"], targets: Float[Array, "*batch k"], *, reduction: str = "mean"
) -> tuple[Float[Array, ""], Residuals]:
    """L = r Σ ½ (a − y)², in the squared unit of the targets.

    Args:
        out: outputs a; every axis but the last counts rows.
        targets: y, in the shape of out.
        reduction: "mean" or "sum" over rows.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, or an unknown reduction.
    """
    check_reduction(reduction, "half_squared_error.forward")
    check_same_shape(out, targets, "half_squared_error.forward")
    error = widen(out) - widen(targets)
    per_row = 0.5 * (error * error).sum(axis=-1)
    return reduce_rows(per_row, reduction), Residuals(out, targets, Static(row_factor(per_row, reduction)))


def backward(residuals: Residuals) -> Float[Array, "*batch k"]:
    """δ = r (a − y)."""
    out, targets, r = residuals
    return (r.value * (widen(out) - widen(targets))).astype(out.dtype)


def loss(*, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "half_squared_error.loss")
    return ConfiguredLoss(partial(forward, reduction=reduction), backward, "half_squared_error")


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
        ),
    ),
)
