"""Mean squared error: mean over the K outputs of a row, then mean (or sum) over the n rows.

Forward     L = r Σ_n Σ_k (a[n,k] − y[n,k])² / K          r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂a = 2 r (a − y) / K                   (9), 4.2

Kinks: none. The sum over outputs with a factor ½ is `half_squared_error`.

Source: C. Bishop, PRML (2006), eq. 5.14 (there with ½ and summed over outputs); derivation sheet 4.2.
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
    """L = r Σ (a − y)² / K, in the squared unit of the targets.

    Args:
        out: outputs a; every axis but the last counts rows.
        targets: y, in the shape of out.
        reduction: "mean" or "sum" over rows.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, or an unknown reduction.
    """
    check_reduction(reduction, "mean_squared_error.forward")
    check_same_shape(out, targets, "mean_squared_error.forward")
    error = widen(out) - widen(targets)
    per_row = (error * error).mean(axis=-1)
    return reduce_rows(per_row, reduction), Residuals(out, targets, Static(row_factor(per_row, reduction)))


def backward(residuals: Residuals) -> Float[Array, "*batch k"]:
    """δ = 2 r (a − y) / K."""
    out, targets, r = residuals
    return ((2 * r.value / out.shape[-1]) * (widen(out) - widen(targets))).astype(out.dtype)


def loss(*, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "mean_squared_error.loss")
    return ConfiguredLoss(partial(forward, reduction=reduction), backward, "mean_squared_error")


def _targets(key, dtype):
    return normal(key, (5, 3), dtype)


DERIVATIONS = (
    Derivation(
        "mean_squared_error",
        (r"L = \frac{1}{nK} \sum_{n,k} (a_{nk} - y_{nk})^2", r"\partial L/\partial a = \frac{2}{nK} (a - y)"),
        "derivation sheet 4.2; Bishop (2006), eq. 5.14",
        (
            LossExample("mean", loss(), (5, 3), _targets),
            LossExample("sum", loss(reduction="sum"), (5, 3), _targets),
        ),
    ),
)
