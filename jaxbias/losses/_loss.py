"""What the losses share: what each row counts (reduction and weights), the checks at their public doors.

A loss computes ℓ[n], the cost of row n, and its derivative. What of it becomes L is the same for all of them:

    "mean"      L = Σ_n r[n] ℓ[n],  r[n] = w[n] / Σ_n w[n]        1/n without weights
    "sum"       L = Σ_n w[n] ℓ[n]
    "none"      L[n] = w[n] ℓ[n]

and backward multiplies the derivative of row n with r[n] and the cotangent: of L, or of L[n].
"""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Integer

from jaxbias._doors import check_float, describe
from jaxbias._numerics import accumulation_dtype
from jaxbias.params import ConfiguredLoss, Loss, Static

REDUCTIONS = ("mean", "sum", "none")


class Rows(NamedTuple):
    """What each row counts in the loss.

    Attributes:
        factor: r[n]; None where all rows count alike.
        alike: r where all rows count alike.
        loss_shape: of the loss: that of the rows without a reduction, else ().
    """

    factor: Float[Array, "*batch"] | None
    alike: Static
    loss_shape: Static


def check_reduction(reduction: str, function: str) -> None:
    """Raise a ValueError unless the reduction is one of `REDUCTIONS`."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f'{function}: reduction must be "mean" or "sum" over rows, or "none", got {reduction!r}.')


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


def check_counts(targets: Array, function: str) -> None:
    """Raise a ValueError where a target is negative or NaN, as far as they have values here."""
    if isinstance(targets, Tracer):
        return
    known = np.asarray(targets)
    wrong = known[~(known >= 0)]
    if wrong.size:
        raise ValueError(
            f"{function}: targets are counts and must not be negative, got {wrong[0]}. Standardised targets are none: "
            f"take them as they were counted."
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


def read_weight(
    weight: Any, shapes: tuple[tuple[int, ...], ...], like: Array, function: str, argument: str
) -> Array | None:
    """A weight as an array of one of these shapes, in the accumulation dtype of `like`; None stays None.

    Raises:
        TypeError: no real numbers.
        ValueError: another shape, or (where it has a value) a class weight that is negative or not finite.
    """
    if weight is None:
        return None
    array = weight if isinstance(weight, jax.Array) else np.asarray(weight)
    if not jnp.issubdtype(array.dtype, jnp.number) or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{function}: {argument} must hold real numbers, got {describe(weight)}.")
    if array.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        holds = "one number per row" if argument == "row_weight" else "one number per class"
        raise ValueError(f"{function}: {argument} must hold {holds}, shape {wanted}, got shape {array.shape}.")
    if argument == "class_weight" and not isinstance(array, Tracer):
        known = np.asarray(array, np.float64)
        if wrong := known[~(np.isfinite(known) & (known >= 0))].tolist():
            raise ValueError(f"{function}: class_weight must be finite and not negative, got {wrong[0]}.")
    return jnp.asarray(array, accumulation_dtype(like.dtype))


def weigh_rows(
    per_row: Float[Array, "*batch"],
    reduction: str,
    row_weight: Any,
    function: str,
    *,
    counts: Bool[Array, "*batch"] | None = None,
    class_weight: Float[Array, "*batch"] | None = None,
) -> Rows:
    """What each row counts; a batch without rows, or one whose weights add up to 0, counts 0.

    Args:
        row_weight: what the user gave, one number per row, or None.
        counts: whether a row counts at all.
        class_weight: of each row's label: already in per_row, and so in the denominator of the mean, as in PyTorch.
    """
    row_weight = read_weight(row_weight, (per_row.shape,), per_row, function, "row_weight")
    shape = Static(per_row.shape if reduction == "none" else ())
    if row_weight is None and counts is None and (class_weight is None or reduction != "mean"):
        return Rows(None, Static(1 / max(per_row.size, 1) if reduction == "mean" else 1.0), shape)
    weight = jnp.ones_like(per_row) if row_weight is None else row_weight
    if counts is not None:
        weight = jnp.where(counts, weight, 0)
    if reduction == "mean":
        total = (weight if class_weight is None else jnp.where(weight == 0, 0, weight * class_weight)).sum()
        weight = weight / jnp.where(total == 0, 1, total)
    return Rows(weight, Static(1.0), shape)


def poison(rows: Rows, per_row: Float[Array, "*batch"], valid: Bool[Array, "*batch"]) -> Rows:
    """The same with NaN for rows that count although their label is outside [0, K), which inside jit nobody sees."""
    factor = jnp.full_like(per_row, rows.alike.value) if rows.factor is None else rows.factor
    return rows._replace(factor=jnp.where(valid | (factor == 0), factor, jnp.nan), alike=Static(1.0))


def reduce_rows(per_row: Float[Array, "*batch"], rows: Rows) -> Float[Array, "..."]:
    """L: Σ r[n] ℓ[n], or each r[n] ℓ[n] without a reduction; 0 for an empty batch.

    The losses of one output end in a `where`, not in a max or a sum, because XLA's CPU backend (as of JAX 0.12) pulls
    arithmetic, even broadcast constants, into its own kernel for sums, whose operands it first writes to memory as
    whole arrays. A `where` stays outside: everything before it becomes one loop that writes one array.
    """
    if rows.factor is not None:  # not a product with 0: a row that counts nothing may hold NaN
        per_row = jnp.where(rows.factor == 0, 0, per_row * rows.factor)
    if rows.loss_shape.value:
        return per_row
    return jnp.sum(per_row) * rows.alike.value


def row_cotangent(rows: Rows, delta: Any, dtype: Any, function: str) -> Any:
    """r[n] ∂(objective)/∂L: what the derivative of row n is multiplied with, a number or one per row (*batch, 1).

    Args:
        delta: the cotangent of the loss that forward returned: of each row where the reduction is "none".

    Raises:
        ValueError: delta has another shape than that loss.
    """
    wanted = rows.loss_shape.value
    if jnp.shape(delta) != wanted:
        came = describe(delta) if jnp.shape(delta) else "one number"
        if wanted:
            raise ValueError(
                f'{function}: with reduction="none" delta must hold the cotangent of each row, shape {wanted}, got '
                f"{came}. The sum over rows has the cotangent jnp.ones({wanted})."
            )
        raise ValueError(f"{function}: delta is the cotangent of the loss, one number, got {came}.")
    r = rows.alike.value if rows.factor is None else rows.factor[..., None]
    if isinstance(delta, float | int):
        return r * delta
    delta = jnp.asarray(delta, dtype)
    return r * (delta[..., None] if wanted else delta)


def only_counted(rows: Rows, delta: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """0 for rows that count nothing, whatever stands there: a product with 0 would keep a NaN."""
    return delta if rows.factor is None else jnp.where(rows.factor[..., None] == 0, 0, delta)


def with_row_weight(loss: Loss) -> ConfiguredLoss:
    """The loss for targets that are a pair (targets, row_weight), so that `value_and_grad` can hand on row weights.

        weighted = jb.losses.with_row_weight(jb.losses.huber)
        loss, grads = jb.value_and_grad(network, weighted)(params, x, (targets, row_weight))

    Raises:
        TypeError: the loss takes no row_weight; or, when called, targets that are no pair.
    """
    forward = getattr(loss, "forward", None)
    function = f"with_row_weight of {getattr(loss, 'name', getattr(loss, '__name__', 'loss').rpartition('.')[2])}"
    if not callable(forward) or "row_weight" not in inspect.signature(forward).parameters:
        raise TypeError(f"with_row_weight: {describe(loss)} takes no row_weight, as those of jb.losses do.")

    def weighted(out: Any, targets: Any) -> tuple[Array, Any]:
        if not isinstance(targets, tuple | list) or len(targets) != 2:
            raise TypeError(f"{function}: targets must be a pair (targets, row_weight), got {describe(targets)}.")
        row_weighted: Any = forward
        return row_weighted(out, targets[0], row_weight=targets[1])

    return ConfiguredLoss(weighted, loss.backward, function)
