"""What the losses share: the `Loss` protocol, the explicit reduction over rows, the checks at their public doors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._numerics import accumulation_dtype, check_float

REDUCTIONS = ("mean", "sum")


class Loss(NamedTuple):
    """A configured loss.

    Attributes:
        forward: `(out, targets) -> (loss, residuals)`; loss is a scalar in at least float32.
        backward: `residuals -> delta`, the first error signal ∂L/∂out (9), in the dtype of out.
        name: for tables and error messages.
    """

    forward: Callable[[Any, Any], tuple[Array, Any]]
    backward: Callable[[Any], Array]
    name: str = "loss"


def check_reduction(reduction: str, function: str) -> None:
    """Raise a ValueError unless the reduction is one of `REDUCTIONS`."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'{function}: reduction must be "mean" or "sum" over rows, got {reduction!r}.')


def check_out(out: Array, function: str) -> None:
    """Raise unless out is a floating-point array whose last axis holds the outputs of a row.

    Raises:
        TypeError: not a floating-point array.
        ValueError: a scalar, or rows without outputs.
    """
    check_float(out, function, "out")
    if out.ndim == 0 or out.shape[-1] == 0:
        raise ValueError(
            f"{function}: the last axis of out must hold the outputs of one row, got out {out.shape}. "
            f"For one output per row use out[..., None]."
        )


def check_same_shape(out: Array, targets: Array, function: str) -> None:
    """Raise unless out and targets are floating-point arrays of one shape: a broadcast here would be a silent error."""
    check_out(out, function)
    check_float(targets, function, "targets")
    if out.shape != targets.shape:
        raise ValueError(
            f"{function}: out {out.shape} and targets {targets.shape} must have one shape; "
            f"a broadcast would pair rows with the wrong targets."
        )


def widen(x: Array) -> Array:
    """x in at least float32, the dtype in which a loss is computed."""
    return x.astype(accumulation_dtype(x.dtype))


def row_factor(per_row: Float[Array, "..."], reduction: str) -> float:
    """r: what one row counts in the loss, 1/n for the mean over rows and 1 for their sum. An empty batch counts 0."""
    return 1 / max(per_row.size, 1) if reduction == "mean" else 1.0


def reduce_rows(per_row: Float[Array, "..."], reduction: str) -> Float[Array, ""]:
    """Mean or sum of the rows' losses; 0 for an empty batch."""
    return jnp.sum(per_row) * row_factor(per_row, reduction)
