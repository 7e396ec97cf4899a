"""Hinge loss of scores z: binary with targets ±1, or multi-class with integer labels; mean (or sum) over the n rows.

Forward     binary        L = r Σ_n Σ_k max(0, 1 − y[n,k] z[n,k])                   targets y in {−1, 1}, as out
            multi-class   L = r Σ_n max(0, 1 + z[n,j*] − z[n,y])                    labels y, j* = argmax_{j≠y} z[n,j]
            r = 1/n for the mean over rows, 1 for the sum
Backward    binary        δ = ∂L/∂z = −r y [y z < 1]                                (9)
            multi-class   δ = r [1 + z[j*] − z[y] > 0] (onehot(j*) − onehot(y))

Kinks: a score exactly on its margin has δ = 0. Where several classes share the largest score, the first is j* and takes
all of δ.

Source: binary: C. Cortes and V. Vapnik, Support-Vector Networks (1995); multi-class: K. Crammer and Y. Singer, On the
Algorithmic Implementation of Multiclass Kernel-based Vector Machines, JMLR 2 (2001).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Integer, Shaped

from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator
from jaxbias.losses._loss import (
    check_out,
    check_reduction,
    check_same_shape,
    is_label,
    is_valid,
    read_labels,
    reduce_rows,
    row_factor,
)
from jaxbias.params import ConfiguredLoss, Static


class BinaryResiduals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    r: Static


class MulticlassResiduals(NamedTuple):
    labels: Integer[Array, "*batch"]
    rivals: Integer[Array, "*batch"]
    row_weight: Float[Array, "*batch"]
    classes: Static
    dtype: Static


Residuals = BinaryResiduals | MulticlassResiduals


def forward(
    out: Float[Array, "*batch k"], targets: Shaped[Array, "..."], *, reduction: str = "mean"
) -> tuple[Float[Array, ""], Residuals]:
    """The binary form for floating-point targets, the multi-class form for integer labels.

    Args:
        out: scores z (*batch, K).
        targets: ±1 in the shape of out, floating point; or labels (*batch,), integers in [0, K).
        reduction: "mean" or "sum" over rows.

    Raises:
        TypeError: out is not floating point; targets are neither integers nor floating point.
        ValueError: the shapes do not fit, binary targets other than ±1, a label outside [0, K), or an unknown
            reduction. Values can be looked at only outside jit; inside, such a label makes L and its row of δ NaN.
    """
    check_reduction(reduction, "hinge.forward")
    check_out(out, "hinge.forward")
    if hasattr(targets, "dtype") and jnp.issubdtype(targets.dtype, jnp.integer):
        return _multiclass(out, targets, reduction)
    check_same_shape(out, targets, "hinge.forward")
    _check_signs(targets)
    margin = widen(targets) * widen(out)
    per_row = jnp.where(margin < 1, 1 - margin, 0).sum(axis=-1)
    return reduce_rows(per_row, reduction), BinaryResiduals(out, targets, Static(row_factor(per_row, reduction)))


def _multiclass(out, targets, reduction):
    classes = out.shape[-1]
    labels = read_labels(out, targets, "hinge.forward")
    others = jnp.where(is_label(labels, classes), -jnp.inf, out)
    rivals = jax.lax.stop_gradient(others).argmax(axis=-1)
    score = jnp.take_along_axis(out, jnp.clip(labels, 0, classes - 1)[..., None], axis=-1)[..., 0]
    rival_score = jnp.take_along_axis(others, rivals[..., None], axis=-1)[..., 0]
    violation = 1 + widen(rival_score) - widen(score)
    valid = is_valid(labels, classes)
    per_row = jnp.where(valid, jnp.maximum(violation, 0), jnp.nan)
    row_weight = jnp.where(violation > 0, jnp.full_like(violation, row_factor(violation, reduction)), 0)
    row_weight = jnp.where(valid, row_weight, jnp.nan)
    return reduce_rows(per_row, reduction), MulticlassResiduals(
        labels, rivals, row_weight, Static(classes), Static(out.dtype)
    )


def backward(residuals: Residuals) -> Float[Array, "*batch k"]:
    """Binary: δ = −r y [y z < 1]. Multi-class: δ = r [1 + z[j*] − z[y] > 0] (onehot(j*) − onehot(y))."""
    if isinstance(residuals, BinaryResiduals):
        out, targets, r = residuals
        y = widen(targets)
        return jnp.where(y * widen(out) < 1, -r.value * y, 0).astype(out.dtype)
    labels, rivals, row_weight, classes, dtype = residuals
    up, down = is_label(rivals, classes.value), is_label(labels, classes.value)
    return ((up.astype(row_weight.dtype) - down.astype(row_weight.dtype)) * row_weight[..., None]).astype(dtype.value)


def loss(*, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "hinge.loss")
    return ConfiguredLoss(partial(forward, reduction=reduction), backward, "hinge")


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
            LossExample("binary, sum", loss(reduction="sum"), (5, 3), _signs),
            LossExample("multi-class", loss(), (2, 5, 4), _labels),
            LossExample("multi-class, sum", loss(reduction="sum"), (2, 5, 4), _labels),
        ),
    ),
)
