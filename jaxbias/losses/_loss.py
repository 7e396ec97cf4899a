"""What the losses share: the `Loss` protocol and the explicit reduction over rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from jaxbias._numerics import check_float, sum_over

REDUCTIONS = ("mean", "sum")


class Loss(NamedTuple):
    """A configured loss.

    Attributes:
        forward: `(out, targets) -> (loss, residuals)`; loss is a scalar.
        backward: `residuals -> delta`, the first error signal ∂L/∂out (9).
        name: for tables and error messages.
    """

    forward: Callable[[Any, Any], tuple[Array, Any]]
    backward: Callable[[Any], Array]
    name: str = "loss"


def check_reduction(reduction: str, function: str) -> None:
    """Raise a ValueError unless the reduction is one of `REDUCTIONS`."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'{function}: reduction must be "mean" or "sum" over rows, got {reduction!r}.')


def check_same_shape(out: Array, targets: Array, function: str) -> None:
    """Raise unless out and targets are floating-point arrays of one shape: a broadcast here would be a silent error."""
    check_float(out, function, "out")
    check_float(targets, function, "targets")
    if out.shape != targets.shape:
        raise ValueError(f"{function}: out {out.shape} and targets {targets.shape} must have one shape.")


def row_factor(per_row: Array, reduction: str) -> float:
    """r: what one row counts in the loss, 1/n for the mean over rows and 1 for their sum. An empty batch counts 0."""
    check_reduction(reduction, "loss.forward")
    return 1 / max(per_row.size, 1) if reduction == "mean" else 1.0


def reduce_rows(per_row: Array, reduction: str) -> Array:
    """Mean or sum of the rows' losses, accumulated in at least float32; 0 for an empty batch."""
    return sum_over(per_row, tuple(range(per_row.ndim))) * row_factor(per_row, reduction)
