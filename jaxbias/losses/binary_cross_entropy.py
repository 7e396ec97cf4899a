"""Binary cross-entropy from logits z: K independent yes/no outputs per row, summed; then mean (or sum) over the n rows.

With p = σ(z) and targets y in [0, 1]:

Forward     L = r Σ_n Σ_k −y log p − (1 − y) log(1 − p)
              = r Σ_n Σ_k max(z, 0) − z y + log(1 + exp(−|z|))      r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂z = r (p − y)                                   (9), 4.2

With class weights the two terms get w₁ and w₀:  δ = r ((w₁ y + w₀ (1 − y)) p − w₁ y)

Only exp(−|z|) ≤ 1 is ever taken, so no logit overflows. Kinks: none; those of max(z, 0) and |z| cancel.

Source: C. Bishop, PRML (2006), eqs. 4.90-4.91; derivation sheet 4.2.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, uniform
from jaxbias.losses._loss import (
    Rows,
    check_reduction,
    check_same_shape,
    only_counted,
    read_weight,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss


class Residuals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    class_weight: Float[Array, "..."] | None
    rows: Rows


def forward(
    out: Float[Array, "*batch k"],
    targets: Float[Array, "*batch k"],
    *,
    class_weight: Any = None,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ −y log σ(z) − (1 − y) log(1 − σ(z)), in nats.

    Args:
        out: finite logits z; every axis but the last counts rows.
        targets: y in [0, 1], in the shape of out.
        class_weight: (w₀, w₁), of "no" and of "yes"; or (2, K), other ones for each output. (1, w₁) is PyTorch's
            pos_weight; like it, it is no part of the denominator of the mean.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, targets outside [0, 1] (inside jit they cannot be looked
            at), an unknown reduction, or weights of another shape.
    """
    check_reduction(reduction, "binary_cross_entropy.forward")
    check_same_shape(out, targets, "binary_cross_entropy.forward")
    _check_probabilities(targets)
    class_weight = read_weight(
        class_weight, ((2,), (2, out.shape[-1])), out, "binary_cross_entropy.forward", "class_weight"
    )
    z, (yes, total) = widen(out), _weighted_targets(targets, class_weight)
    positive = z >= 0  # one choice for both kinks, so that they cancel in autodiff of this forward too
    rest = total * jnp.log1p(jnp.exp(jnp.where(positive, -z, z))) - z * yes
    cost = jnp.where(positive, total * z + rest, rest)
    per_row = cost.sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "binary_cross_entropy.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, class_weight, rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r (σ(z) − y); with class weights r ((w₁ y + w₀ (1 − y)) σ(z) − w₁ y).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, class_weight, rows = residuals
    z, (yes, total) = widen(out), _weighted_targets(targets, class_weight)
    positive = z >= 0
    exponential = jnp.exp(jnp.where(positive, -z, z))
    p = jnp.where(positive, 1, exponential) / (1 + exponential)
    r = row_cotangent(rows, delta, z.dtype, "binary_cross_entropy.backward")
    return only_counted(rows, r * (total * p - yes)).astype(out.dtype)


def loss(*, class_weight: Any = None, row_weight: Any = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its weights and reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "binary_cross_entropy.loss")
    bound = partial(forward, class_weight=class_weight, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "binary_cross_entropy")


def _weighted_targets(targets: Array, class_weight: Array | None) -> tuple[Array, Any]:
    """w₁ y, and w₁ y + w₀ (1 − y): y and 1 without weights."""
    y = widen(targets)
    if class_weight is None:
        return y, 1.0
    no, yes = (jnp.broadcast_to(weight, y.shape) for weight in class_weight)
    return yes * y, yes * y + no * (1 - y)


def _check_probabilities(targets: Array) -> None:
    if isinstance(targets, Tracer):
        return
    known = np.asarray(targets)
    outside = known[~((known >= 0) & (known <= 1))]
    if outside.size:
        raise ValueError(
            f"binary_cross_entropy.forward: targets must lie in [0, 1], got {outside[0]}. "
            f"Targets of -1 and 1 become (1 + targets) / 2."
        )


def _targets(key, dtype):
    return uniform(key, (5, 3), dtype)


DERIVATIONS = (
    Derivation(
        "binary_cross_entropy",
        (
            r"L = -\frac{1}{n} \sum_{n,k} y_{nk} \log \sigma(z_{nk}) + (1 - y_{nk}) \log(1 - \sigma(z_{nk}))",
            r"\partial L/\partial z = \frac{1}{n} (\sigma(z) - y)",
        ),
        "Bishop (2006), eqs. 4.90-4.91; derivation sheet 4.2",
        (
            LossExample("mean", loss(), (5, 3), _targets),
            LossExample("class weights, sum", loss(class_weight=(0.5, 2), reduction="sum"), (5, 3), _targets),
            LossExample(
                "class weights of each output, row weights, none",
                loss(class_weight=[[1, 2, 0.5], [3, 0, 1]], row_weight=[0.5, 2, 0, 1, 1.5], reduction="none"),
                (5, 3),
                _targets,
            ),
        ),
    ),
)
