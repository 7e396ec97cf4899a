"""Softmax cross-entropy from logits z (*batch, K), n rows in all, against labels or dense targets y (*batch, K).

With p = softmax(z), m = max_k z_k, s = Σ_k exp(z_k − m) and the smoothed target t = (1 − ε) y + ε/K:

Forward     L = r Σ_n −Σ_k t_k log p_k,    log p_k = (z_k − m) − log s
            r = 1/n for the mean over rows, 1 for the sum; with ignored rows n counts the others only
Backward    δ = ∂L/∂z = r (p Σ_k t_k − t),    p_k = exp(z_k − m) / s                (9), 4.2
            which is r (p − t) for targets that sum to 1, as the one-hot row of a label does

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

from jaxbias._doors import check_float, check_number
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator, uniform
from jaxbias.losses._loss import check_out, check_reduction, is_label, is_valid, read_labels, row_factor
from jaxbias.params import ConfiguredLoss, Static


class Residuals(NamedTuple):
    logits: Float[Array, "*batch k"]
    targets: Shaped[Array, "..."]
    maximum: Float[Array, "*batch 1"]
    total: Float[Array, "*batch 1"]
    row_weight: Float[Array, "*batch 1"]
    label_smoothing: Static


def forward(
    out: Float[Array, "*batch k"],
    targets: Shaped[Array, "..."],
    *,
    label_smoothing: float = 0.0,
    ignore_label: int | None = None,
    reduction: str = "mean",
) -> tuple[Float[Array, ""], Residuals]:
    """L = r Σ_n −Σ_k t_k log softmax(z)_k, in nats.

    Args:
        out: logits z (*batch, K). A logit of −inf is a class that cannot occur.
        targets: labels (*batch,), integers in [0, K); or dense targets (*batch, K), not negative. Rows of dense
            targets need not sum to 1: δ = r (p Σ_k t_k − t).
        label_smoothing: ε in [0, 1]; the target becomes (1 − ε) y + ε/K.
        ignore_label: rows with this label, in or out of [0, K), count nothing: neither in L nor in the n of the mean,
            and their δ is 0 whatever their logits. If every row is ignored, L = 0.
        reduction: "mean" or "sum" over rows.

    Raises:
        TypeError: out is not floating point; targets are neither integers nor floating point.
        ValueError: the shapes do not fit, a label outside [0, K), an ignore_label with dense targets or outside the
            range of the labels' dtype, a label_smoothing outside [0, 1], or an unknown reduction.
            Labels can be looked at only outside jit; inside, one outside [0, K) makes L and its row of δ NaN.
    """
    check_configuration(label_smoothing, ignore_label, reduction, "cross_entropy.forward")
    targets, dense = _read_targets(out, targets, ignore_label)
    maximum = widen(jax.lax.stop_gradient(out.max(axis=-1, keepdims=True)))
    total = jnp.exp(_shifted(out, maximum)).sum(axis=-1, keepdims=True)
    # Behind the barrier z − m is a second expression: one shared with exp(z − m) would be kept as an array.
    shifted = _shifted(out, jax.lax.optimization_barrier(maximum))
    log_total = jnp.log(total)[..., 0]
    if dense:
        smoothed = _smoothed(targets, label_smoothing)
        # t = 0 counts 0 even where log p is −inf
        score = jnp.where(smoothed == 0, 0, smoothed * shifted).sum(axis=-1)
        per_row = smoothed.sum(axis=-1) * log_total - score
    else:
        labels = jnp.clip(targets, 0, out.shape[-1] - 1)[..., None]
        # picked from the logits, not from `shifted`: a gather would force that array into memory
        score = (widen(jnp.take_along_axis(out, labels, axis=-1)) - maximum)[..., 0]
        if label_smoothing:
            score = (1 - label_smoothing) * score + label_smoothing * shifted.mean(axis=-1)
        per_row = log_total - score
    row_weight = _row_weight(per_row, targets, out.shape[-1], dense, ignore_label, reduction)
    loss = jnp.where(row_weight == 0, 0, per_row * row_weight).sum()
    return loss, Residuals(out, targets, maximum, total, row_weight[..., None], Static(label_smoothing))


def backward(residuals: Residuals) -> Float[Array, "*batch k"]:
    """δ = r (p Σ_k t_k − t); 0 for ignored rows."""
    logits, targets, maximum, total, row_weight, label_smoothing = residuals
    exponential, factor = jnp.exp(_shifted(logits, maximum)), row_weight / total
    if jnp.issubdtype(targets.dtype, jnp.floating):
        smoothed = _smoothed(targets, label_smoothing.value)
        delta = exponential * (factor * smoothed.sum(axis=-1, keepdims=True)) - smoothed * row_weight
    else:
        rest = label_smoothing.value / logits.shape[-1]
        of_label, of_others = row_weight * (1 - label_smoothing.value + rest), row_weight * rest
        delta = exponential * factor - jnp.where(is_label(targets, logits.shape[-1]), of_label, of_others)
    # not a product with 0: the logits of an ignored row may be NaN
    return jnp.where(row_weight == 0, 0, delta).astype(logits.dtype)


def loss(*, label_smoothing: float = 0.0, ignore_label: int | None = None, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its smoothing, ignored label and reduction bound; keywords as for `forward`."""
    check_configuration(label_smoothing, ignore_label, reduction, "cross_entropy.loss")
    bound = {"label_smoothing": label_smoothing, "ignore_label": ignore_label, "reduction": reduction}
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
    if not hasattr(targets, "dtype") or not jnp.issubdtype(targets.dtype, jnp.integer):
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


def _smoothed(targets: Float[Array, "*batch k"], label_smoothing: float) -> Float[Array, "*batch k"]:
    """t = (1 − ε) y + ε/K."""
    targets = widen(targets)
    if not label_smoothing:
        return targets
    return (1 - label_smoothing) * targets + label_smoothing / targets.shape[-1]


def _row_weight(per_row, targets, classes, dense, ignore_label, reduction) -> Float[Array, "*batch"]:
    """r for rows that count, 0 for ignored rows, NaN for a label outside [0, K)."""
    if dense:
        return jnp.full_like(per_row, row_factor(per_row, reduction))
    if ignore_label is None:
        counts, r = jnp.ones_like(targets, dtype=bool), row_factor(per_row, reduction)
    else:
        counts = targets != ignore_label
        r = 1 / jnp.maximum(counts.sum(dtype=per_row.dtype), 1) if reduction == "mean" else 1.0
    r = jnp.where(is_valid(targets, classes), jnp.asarray(r, per_row.dtype), jnp.nan)
    return jnp.where(counts, r, 0)


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
            LossExample("labels, sum", loss(reduction="sum"), (5, 4), _labels),
            LossExample("labels, smoothing", loss(label_smoothing=0.1), (5, 4), _labels),
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
