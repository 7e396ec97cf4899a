"""Softmax cross-entropy from logits z (*batch, K), n rows in all, against labels or dense targets y (*batch, K).

With p = softmax(z), m = max_k z_k, s = Σ_k exp(z_k − m) and the smoothed target t = (1 − ε) y + ε/K:

Forward     L = r Σ_n −Σ_k t_k log p_k,    log p_k = (z_k − m) − log s
            r = 1/n for the mean over rows, 1 for the sum; with ignored rows n counts the others only
Backward    δ = ∂L/∂z = r (p Σ_k t_k − t),    p_k = exp(z_k − m) / s                (9), 4.2
            which is r (p − t) for targets that sum to 1, as the one-hot row of a label does

With class weights w, w_k t_k stands in the place of t_k. The mean over labels is then divided by the sum of the labels'
weights, Σ_n w[y_n], not by n; that over dense targets by n. Both are PyTorch's weighted means. With row weights v the
sums are Σ_n v_n w[y_n] and Σ_n v_n. From log-probabilities, log p_k = z_k and δ = −r t: no softmax is undone.

The residuals are z itself and two numbers per row, m and s. exp(z − m) stands in both passes in the same form, so that
a compiler that sees both computes it once, and the one-hot is a comparison, never an array.

Kinks: none; where two logits share the maximum m, nothing but the rounding depends on the choice.

Source: C. Bishop, PRML (2006), eqs. 4.108-4.109; label smoothing: C. Szegedy et al., Rethinking the Inception
Architecture (2016), section 7; derivation sheet 4.2.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxbias._doors import check_float, check_number, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator, uniform
from jaxbias.losses._loss import (
    Rows,
    check_out,
    check_reduction,
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


class Residuals(NamedTuple):
    logits: Float[Array, "*batch k"]
    targets: Shaped[Array, "..."]
    maximum: Float[Array, "*batch 1"]
    total: Float[Array, "*batch 1"]
    class_weight: Float[Array, " k"] | None
    rows: Rows
    label_smoothing: Static
    log_probabilities: Static


def forward(
    out: Float[Array, "*batch k"],
    targets: Shaped[Array, "..."],
    *,
    label_smoothing: float = 0.0,
    ignore_label: int | None = None,
    class_weight: Any = None,
    row_weight: Any = None,
    log_probabilities: bool = False,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ_n −Σ_k t_k log softmax(z)_k, in nats.

    Args:
        out: logits z (*batch, K). A logit of −inf is a class that cannot occur.
        targets: labels (*batch,), integers in [0, K); or dense targets (*batch, K), not negative. Rows of dense
            targets need not sum to 1: δ = r (p Σ_k t_k − t).
        label_smoothing: ε in [0, 1]; the target becomes (1 − ε) y + ε/K.
        ignore_label: rows with this label, in or out of [0, K), count nothing: neither in L nor in the n of the mean,
            and their δ is 0 whatever their logits. If every row is ignored, L = 0.
        class_weight: (K,), what each class counts. The mean over labels is divided by the sum of their weights.
        row_weight: one number per row, which counts in that denominator too; 0 is a row left out, as an ignored one.
        log_probabilities: out holds log p already, as behind `log_softmax`: the negative log-likelihood, PyTorch's
            NLLLoss.
        reduction: "mean" or "sum" over rows, or "none": a loss per row, 0 for ignored ones.

    Raises:
        TypeError: out is not floating point; targets are neither integers nor floating point.
        ValueError: the shapes do not fit, a label outside [0, K), an ignore_label with dense targets or outside the
            range of the labels' dtype, a label_smoothing outside [0, 1], weights of another shape, or an
            unknown reduction. Labels can be looked at only outside jit; inside, one outside [0, K) makes L and its row
            of δ NaN.
    """
    check_configuration(label_smoothing, ignore_label, reduction, "cross_entropy.forward")
    targets, dense = _read_targets(out, targets, ignore_label)
    class_weight = read_weight(class_weight, ((out.shape[-1],),), out, "cross_entropy.forward", "class_weight")
    maximum = widen(jax.lax.stop_gradient(out.max(axis=-1, keepdims=True)))
    if log_probabilities:  # what is normalised needs no shift, and its total is 1
        maximum = jnp.zeros_like(maximum)
        total = jnp.ones_like(maximum)
    else:
        total = jnp.exp(_shifted(out, maximum)).sum(axis=-1, keepdims=True)
    # Behind the barrier z − m is a second expression: one shared with exp(z − m) would be kept as an array.
    shifted = _shifted(out, jax.lax.optimization_barrier(maximum))
    log_total = jnp.log(total)[..., 0]
    if dense:
        mass, score = _of_dense_targets(targets, shifted, label_smoothing, class_weight)
        per_row = mass * log_total - score
        rows = weigh_rows(per_row, reduction, row_weight, "cross_entropy.forward")
    else:
        known = jnp.clip(targets, 0, out.shape[-1] - 1)
        # picked from the logits, not from `shifted`: a gather would force that array into memory
        picked = (widen(jnp.take_along_axis(out, known[..., None], axis=-1)) - maximum)[..., 0]
        of_label = None if class_weight is None else class_weight[known]
        mass, score = _of_labels(picked, shifted, label_smoothing, class_weight, of_label)
        per_row = mass * log_total - score
        counts = None if ignore_label is None else targets != ignore_label
        rows = weigh_rows(per_row, reduction, row_weight, "cross_entropy.forward", counts=counts, class_weight=of_label)
        rows = poison(rows, per_row, is_valid(targets, out.shape[-1]))
    static = Static(label_smoothing), Static(log_probabilities)
    return reduce_rows(per_row, rows), Residuals(out, targets, maximum, total, class_weight, rows, *static)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r (p Σ_k t_k − t), or −r t from log-probabilities; 0 for ignored rows.

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    logits, targets, maximum, total, class_weight, rows, label_smoothing, log_probabilities = residuals
    epsilon, rest = label_smoothing.value, label_smoothing.value / logits.shape[-1]
    r = row_cotangent(rows, delta, maximum.dtype, "cross_entropy.backward")
    if jnp.issubdtype(targets.dtype, jnp.floating):
        smoothed = _smoothed(targets, epsilon, class_weight)
        mass, target = smoothed.sum(axis=-1, keepdims=True), smoothed * r
    else:
        mass = 1.0
        target = jnp.where(is_label(targets, logits.shape[-1]), r * (1 - epsilon + rest), r * rest)
        if class_weight is not None:
            of_label = class_weight[jnp.clip(targets, 0, logits.shape[-1] - 1)][..., None]
            mass = (1 - epsilon) * of_label + epsilon * class_weight.mean()
            target = target * jnp.broadcast_to(class_weight, logits.shape)
    if log_probabilities.value:
        return only_counted(rows, -target).astype(logits.dtype)
    slope = jnp.exp(_shifted(logits, maximum)) * (r / total * mass) - target
    return only_counted(rows, slope).astype(logits.dtype)


def loss(
    *,
    label_smoothing: float = 0.0,
    ignore_label: int | None = None,
    class_weight: Any = None,
    row_weight: Any = None,
    log_probabilities: bool = False,
    reduction: str = "mean",
) -> ConfiguredLoss:
    """The loss with its smoothing, ignored label, weights and reduction bound; keywords as for `forward`."""
    check_configuration(label_smoothing, ignore_label, reduction, "cross_entropy.loss")
    bound = {
        "label_smoothing": label_smoothing,
        "ignore_label": ignore_label,
        "class_weight": class_weight,
        "row_weight": row_weight,
        "log_probabilities": log_probabilities,
        "reduction": reduction,
    }
    return ConfiguredLoss(partial(forward, **bound), backward, "cross_entropy")


def check_configuration(label_smoothing: float, ignore_label: int | None, reduction: str, function: str) -> None:
    """Raise a ValueError for a static argument that makes no sense."""
    check_reduction(reduction, function)
    check_number(label_smoothing, function, "label_smoothing")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{function}: label_smoothing must lie in [0, 1], got {label_smoothing}.")
    if ignore_label is not None and not isinstance(ignore_label, int):
        raise ValueError(f"{function}: ignore_label must be an int or None, got {ignore_label!r}.")


def _read_targets(out: Any, targets: Any, ignore_label: int | None) -> tuple[Shaped[Array, "..."], bool]:
    """The targets, and whether they are dense; raises where they do not fit."""
    function = "cross_entropy.forward"
    check_out(out, function)
    if not hasattr(targets, "dtype"):
        raise TypeError(
            f"{function}: targets must be an array, of labels jnp.asarray(targets), of dense rows "
            f"jnp.asarray(targets, jnp.float32); got {describe(targets)}."
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        check_float(targets, function, "targets")
        if targets.shape != out.shape:
            raise ValueError(
                f"{function}: dense targets must have the shape of out, got targets {targets.shape} for out "
                f"{out.shape}. Labels must be integers: targets.astype(jnp.int32)."
            )
        if ignore_label is not None:
            raise ValueError(
                f"{function}: ignore_label={ignore_label} needs integer labels, got dense {targets.dtype} targets "
                f"{targets.shape}. Set the rows to leave out to 0 and use reduction='sum'."
            )
        return jnp.asarray(targets), True
    return read_labels(out, targets, function, ignore_label), False


def _shifted(logits: Float[Array, "*batch k"], maximum: Float[Array, "*batch 1"]) -> Float[Array, "*batch k"]:
    """z − m ≤ 0, in at least float32."""
    return widen(logits) - maximum


def _smoothed(
    targets: Float[Array, "*batch k"], label_smoothing: float, class_weight: Float[Array, " k"] | None
) -> Float[Array, "*batch k"]:
    """t = (1 − ε) y + ε/K, times the weight of its class."""
    targets = widen(targets)
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / targets.shape[-1]
    return targets if class_weight is None else targets * jnp.broadcast_to(class_weight, targets.shape)


def _of_dense_targets(targets, shifted, label_smoothing, class_weight) -> tuple[Array, Array]:
    """Σ_k t_k and Σ_k t_k (z_k − m) of each row; t = 0 counts 0 even where log p is −inf."""
    smoothed = _smoothed(targets, label_smoothing, class_weight)
    return smoothed.sum(axis=-1), jnp.where(smoothed == 0, 0, smoothed * shifted).sum(axis=-1)


def _of_labels(picked, shifted, label_smoothing, class_weight, of_label) -> tuple[Any, Array]:
    """The same two for labels, whose z_y − m was picked."""
    if class_weight is None:
        if label_smoothing:
            picked = (1 - label_smoothing) * picked + label_smoothing * shifted.mean(axis=-1)
        return 1.0, picked
    mass = (1 - label_smoothing) * of_label
    score = jnp.where(mass == 0, 0, mass * picked)
    if label_smoothing:
        weighted = jnp.broadcast_to(class_weight, shifted.shape)
        score = score + label_smoothing * jnp.where(weighted == 0, 0, weighted * shifted).mean(axis=-1)
        mass = mass + label_smoothing * class_weight.mean()
    return mass, score


CLASS_WEIGHT, ROW_WEIGHT = np.array([0.5, 2, 0, 1]), np.array([0.5, 2, 0, 1, 1.5])


def _labels(key, dtype):
    return jax.device_put(generator(key).integers(4, size=5, dtype=np.int32))


def _labels_with_ignored(key, dtype):
    labels = np.array(_labels(key, dtype))
    labels[[1, 3]] = -100
    return jax.device_put(labels)


def _probabilities(key, dtype):
    return jax.device_put(generator(key).dirichlet(np.ones(4), size=5).astype(dtype))


DERIVATIONS = (
    Derivation(
        "cross_entropy",
        (
            r"L = -\frac{1}{n} \sum_{n,k} t_{nk} \log \mathrm{softmax}(z_n)_k",
            r"\partial L/\partial z = \frac{1}{n} \big(\mathrm{softmax}(z) \textstyle\sum_k t_k - t\big)",
        ),
        "Bishop (2006), eqs. 4.108-4.109; Szegedy et al. (2016), section 7; derivation sheet 4.2",
        (
            LossExample("labels", loss(), (5, 4), _labels),
            LossExample("labels, smoothing", loss(label_smoothing=0.1), (5, 4), _labels),
            LossExample(
                "labels, class weights, smoothing, row weights",
                loss(label_smoothing=0.1, class_weight=CLASS_WEIGHT, row_weight=ROW_WEIGHT),
                (5, 4),
                _labels,
            ),
            LossExample(
                "log-probabilities, class weights, ignored rows, none",
                loss(log_probabilities=True, class_weight=CLASS_WEIGHT, ignore_label=-100, reduction="none"),
                (5, 4),
                _labels_with_ignored,
            ),
            LossExample(
                "dense targets, class weights, row weights, none",
                loss(class_weight=CLASS_WEIGHT, row_weight=ROW_WEIGHT, reduction="none"),
                (5, 4),
                _probabilities,
            ),
            LossExample("labels, ignored rows", loss(ignore_label=-100), (5, 4), _labels_with_ignored),
            LossExample(
                "labels, ignored rows, smoothing, sum",
                loss(ignore_label=-100, label_smoothing=0.2, reduction="sum"),
                (5, 4),
                _labels_with_ignored,
            ),
            LossExample("dense targets", loss(), (5, 4), _probabilities),
            LossExample(
                "dense targets that do not sum to 1, smoothing",
                loss(label_smoothing=0.1),
                (2, 3, 4),
                lambda key, dtype: uniform(key, (2, 3, 4), dtype),
            ),
            LossExample("one class", loss(), (3, 1), lambda key, dtype: jax.device_put(np.zeros(3, np.int32))),
        ),
    ),
)
