"""Hinge loss of scores z: binary with targets ±1, or multi-class with integer labels; mean (or sum) over the n rows.

Forward     binary        L = r Σ_n Σ_k max(0, 1 − y[n,k] z[n,k])                   targets y in {−1, 1}, as out
            multi-class   L = r Σ_n max(0, 1 + z[n,j*] − z[n,y])                    labels y, j* = argmax_{j≠y} z[n,j]
            r = 1/n for the mean over rows, 1 for the sum
Backward    binary        δ = ∂L/∂z = −r y [y z < 1]                                (9)
            multi-class   δ = r [1 + z[j*] − z[y] > 0] (onehot(j*) − onehot(y))
            and each term, or row, of a class times the weight of that class

Kinks: a score exactly on its margin has δ = 0. Where several classes share the largest score, the first is j* and takes
all of δ.

Source: binary: C. Cortes and V. Vapnik, Support-Vector Networks (1995); multi-class: K. Crammer and Y. Singer, On the
Algorithmic Implementation of Multiclass Kernel-based Vector Machines, JMLR 2 (2001).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Integer, Shaped

from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator
from jaxbias.losses._loss import (
    Rows,
    check_out,
    check_reduction,
    check_same_shape,
    is_label,
    is_valid,
    only_counted,
    poison,
    read_labels,
    read_weight,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static


class BinaryResiduals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    class_weight: Float[Array, "..."] | None
    rows: Rows


class MulticlassResiduals(NamedTuple):
    labels: Integer[Array, "*batch"]
    rivals: Integer[Array, "*batch"]
    slope: Float[Array, "*batch"]
    rows: Rows
    classes: Static
    dtype: Static


Residuals = BinaryResiduals | MulticlassResiduals


def forward(
    out: Float[Array, "*batch k"],
    targets: Shaped[Array, "..."],
    *,
    class_weight: Any = None,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """The binary form for floating-point targets, the multi-class form for integer labels.

    Args:
        out: scores z (*batch, K).
        targets: ±1 in the shape of out, floating point; or labels (*batch,), integers in [0, K).
        class_weight: binary: (w₋, w₊) of targets −1 and 1, or (2, K), other ones for each output. Multi-class: (K,), by
            label; the mean is then divided by the sum of the labels' weights, as that of `cross_entropy`.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out is not floating point; targets are neither integers nor floating point.
        ValueError: the shapes do not fit, binary targets other than ±1, a label outside [0, K), an unknown
            reduction, or weights of another shape. Values can be looked at only outside jit; inside, such a label makes
            L and its row of δ NaN.
    """
    check_reduction(reduction, "hinge.forward")
    check_out(out, "hinge.forward")
    if hasattr(targets, "dtype") and jnp.issubdtype(targets.dtype, jnp.integer):
        return _multiclass(out, targets, class_weight, row_weight, reduction)
    check_same_shape(out, targets, "hinge.forward")
    _check_signs(targets)
    class_weight = read_weight(class_weight, ((2,), (2, out.shape[-1])), out, "hinge.forward", "class_weight")
    margin = widen(targets) * widen(out)
    per_row = jnp.where(margin < 1, _weight_of_sign(targets, class_weight) * (1 - margin), 0).sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "hinge.forward")
    return reduce_rows(per_row, rows), BinaryResiduals(out, targets, class_weight, rows)


def _multiclass(out, targets, class_weight, row_weight, reduction):
    classes = out.shape[-1]
    class_weight = read_weight(class_weight, ((classes,),), out, "hinge.forward", "class_weight")
    labels = read_labels(out, targets, "hinge.forward")
    others = jnp.where(is_label(labels, classes), -jnp.inf, out)
    rivals = jax.lax.stop_gradient(others).argmax(axis=-1)
    score = jnp.take_along_axis(out, jnp.clip(labels, 0, classes - 1)[..., None], axis=-1)[..., 0]
    rival_score = jnp.take_along_axis(others, rivals[..., None], axis=-1)[..., 0]
    violation = 1 + widen(rival_score) - widen(score)
    of_label = None if class_weight is None else class_weight[jnp.clip(labels, 0, classes - 1)]
    per_row, slope = jnp.maximum(violation, 0), (violation > 0).astype(violation.dtype)
    if of_label is not None:
        per_row, slope = of_label * per_row, of_label * slope
    rows = weigh_rows(per_row, reduction, row_weight, "hinge.forward", class_weight=of_label)
    rows = poison(rows, per_row, is_valid(labels, classes))
    return reduce_rows(per_row, rows), MulticlassResiduals(
        labels, rivals, slope, rows, Static(classes), Static(out.dtype)
    )


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """Binary: δ = −r w y [y z < 1]. Multi-class: δ = r w[y] [1 + z[j*] − z[y] > 0] (onehot(j*) − onehot(y)).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    if isinstance(residuals, BinaryResiduals):
        out, targets, class_weight, rows = residuals
        y = widen(targets)
        r = row_cotangent(rows, delta, y.dtype, "hinge.backward")
        slope = jnp.where(y * widen(out) < 1, -r * _weight_of_sign(targets, class_weight) * y, 0)
        return only_counted(rows, slope).astype(out.dtype)
    labels, rivals, slope, rows, classes, dtype = residuals
    up, down = is_label(rivals, classes.value), is_label(labels, classes.value)
    r = row_cotangent(rows, delta, slope.dtype, "hinge.backward")
    return only_counted(rows, (up.astype(slope.dtype) - down.astype(slope.dtype)) * slope[..., None] * r).astype(
        dtype.value
    )


def loss(*, class_weight: Any = None, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its weights and reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "hinge.loss")
    bound = partial(forward, class_weight=class_weight, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "hinge")


def _weight_of_sign(targets: Array, class_weight: Array | None) -> Any:
    """w₋ or w₊, by the sign of the target; 1 without weights."""
    if class_weight is None:
        return 1.0
    minus, plus = (jnp.broadcast_to(weight, targets.shape) for weight in class_weight)
    return jnp.where(targets > 0, plus, minus)


def _check_signs(targets: Array) -> None:
    if isinstance(targets, Tracer):
        return
    known = np.asarray(targets)
    wrong = known[np.abs(known) != 1]
    if wrong.size:
        raise ValueError(
            f"hinge.forward: binary targets must be -1 or 1, got {wrong[0]}. Targets of 0 and 1 become "
            f"2 * targets - 1; class labels must be integers."
        )


def _signs(key, dtype):
    return jax.device_put(generator(key).choice([-1, 1], (5, 3)).astype(dtype))


def _labels(key, dtype):
    return jax.device_put(generator(key).integers(4, size=(2, 5), dtype=np.int32))


DERIVATIONS = (
    Derivation(
        "hinge",
        (
            r"L = \frac{1}{n} \sum_{n,k} \max(0, 1 - y_{nk} z_{nk})",
            r"\partial L/\partial z = -\frac{1}{n}\, y\, [y z < 1]",
            r"L = \frac{1}{n} \sum_n \max(0, 1 + \max_{j \ne y_n} z_{nj} - z_{n y_n})",
            r"\partial L/\partial z = \frac{1}{n}\, [1 + z_{j^*} - z_y > 0]\, (e_{j^*} - e_y)",
        ),
        "Cortes and Vapnik (1995); Crammer and Singer (2001)",
        (
            LossExample("binary", loss(), (5, 3), _signs),
            LossExample(
                "binary, class weights, row weights, none",
                loss(class_weight=(0.5, 2), row_weight=[0.5, 2, 0, 1, 1.5], reduction="none"),
                (5, 3),
                _signs,
            ),
            LossExample("multi-class", loss(), (2, 5, 4), _labels),
            LossExample("multi-class, class weights", loss(class_weight=(0.5, 2, 1, 3)), (2, 5, 4), _labels),
        ),
    ),
)
