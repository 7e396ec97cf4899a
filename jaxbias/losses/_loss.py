"""What the losses share: the explicit reduction over rows, the checks at their public doors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Integer

from jaxbias._doors import check_float

REDUCTIONS = ("mean", "sum")


def check_reduction(reduction: str, function: str) -> None:
    """Raise a ValueError unless the reduction is one of `REDUCTIONS`."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
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
            f"a broadcast would pair rows with the wrong targets. Reshape one of them, for example targets[..., None]."
        )


def read_labels(out: Any, labels: Any, function: str, ignore_label: int | None = None) -> Integer[Array, "*batch"]:
    """The labels, one per row, in integers of at least 32 bits, which can count the classes.

    Raises:
        ValueError: another shape than out.shape[:-1], a label outside [0, K) (where jit has traced the labels there is
            no value to look at), or an ignore_label that the dtype of the labels cannot hold.
    """
    limits = jnp.iinfo(labels.dtype)
    if labels.shape != out.shape[:-1]:
        raise ValueError(
            f"{function}: one label per row is wanted, shape {out.shape[:-1]} for out {out.shape}, got targets "
            f"{labels.shape}. One-hot rows must be floating point: targets.astype(out.dtype)."
        )
    if ignore_label is not None and not limits.min <= ignore_label <= limits.max:
        raise ValueError(f"{function}: ignore_label={ignore_label} cannot occur in targets of dtype {labels.dtype}.")
    if not isinstance(labels, Tracer):
        _check_known_labels(np.asarray(labels), out, function, ignore_label)
    labels = jnp.asarray(labels)
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def _check_known_labels(labels: np.ndarray, out: Any, function: str, ignore_label: int | None) -> None:
    classes = out.shape[-1]
    wrong = (labels < 0) | (labels >= classes)
    if ignore_label is not None:
        wrong = wrong & (labels != ignore_label)
    if wrong.any():
        hint = "" if ignore_label is not None else " Rows to leave out need cross_entropy with ignore_label."
        raise ValueError(
            f"{function}: labels must lie in [0, {classes}) for out {out.shape}, got {labels[wrong][0]}.{hint}"
        )


def is_valid(labels: Integer[Array, "*batch"], classes: int) -> Bool[Array, "*batch"]:
    """Whether a label lies in [0, classes)."""
    return (labels >= 0) & (labels < classes)


def is_label(labels: Integer[Array, "*batch"], classes: int) -> Bool[Array, "*batch k"]:
    """The one-hot rows of the labels as a comparison, which a compiler never needs to hold as an array."""
    shape = (*labels.shape, classes)
    return jax.lax.broadcasted_iota(labels.dtype, shape, labels.ndim) == labels[..., None]


def row_factor(per_row: Float[Array, "..."], reduction: str) -> float:
    """r: what one row counts in the loss, 1/n for the mean over rows and 1 for their sum. An empty batch counts 0."""
    return 1 / max(per_row.size, 1) if reduction == "mean" else 1.0


def reduce_rows(per_row: Float[Array, "..."], reduction: str) -> Float[Array, ""]:
    """Mean or sum of the rows' losses; 0 for an empty batch.

    The losses of one output end in a `where`, not in a max or a sum, because XLA's CPU backend (as of JAX 0.12) pulls
    arithmetic, even broadcast constants, into its own kernel for sums, whose operands it first writes to memory as
    whole arrays. A `where` stays outside: everything before it becomes one loop that writes one array.
    """
    return jnp.sum(per_row) * row_factor(per_row, reduction)
