"""Kullback-Leibler divergence between softmax(z) and a teacher's softmax(t), in either direction, at a temperature T.

With p = softmax(z/T) of the output, q = softmax(t/T) of the targets and n rows, r = 1/n for the mean, 1 for the sum:

Forward     L = r T² Σ_n Σ_k q_k (log q_k − log p_k)            KL(q ‖ p): distillation                   (9.11.1)
reverse     L = r T² Σ_n Σ_k p_k (log p_k − log q_k)            KL(p ‖ q)                                 (9.11.2)
Backward    δ = ∂L/∂z = r T (p − q)                                                                  (9), (9.11.1)
reverse     δ = r T p∘(ρ − Σ_k p_k ρ_k),   ρ = log p − log q                                         (9), (9.11.2)

T² keeps δ of one size while T is varied: of 1/T² from p − q at a large T and the 1/T of ∂(z/T)/∂z. Forward, p must be
large wherever q is, and covers all of it; reversed, it must be small wherever q is, and picks one part.

With class weights, w_k multiplies the summand of class k:
            δ = r T (p Σ_k w_k q_k − w∘q);     reverse  δ = r T p∘(g − Σ_k p_k g_k),   g = w∘(ρ + 1)

The targets are logits. Log-probabilities are logits too, those of themselves, so log q or log p may stand in the place
of t or z while T = 1. They are constants: no error signal reaches the teacher.

One constant on all logits of a row changes nothing: without class weights or with, δ sums to 0 over a row.

Kinks: none.

Source: G. Hinton, O. Vinyals and J. Dean, Distilling the Knowledge in a Neural Network (2015), section 2; derivation
sheet (9.11.1-2).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_number
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, normal
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
from jaxbias.params import ConfiguredLoss, Static


class Residuals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    class_weight: Float[Array, " k"] | None
    rows: Rows
    temperature: Static
    reverse: Static


def forward(
    out: Float[Array, "*batch k"],
    targets: Float[Array, "*batch k"],
    *,
    temperature: float = 1.0,
    reverse: bool = False,
    class_weight: Any = None,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r T² KL(softmax(t/T) ‖ softmax(z/T)), or with the two exchanged, in nats.

    Args:
        out: logits z (*batch, K).
        targets: the teacher's logits t, or log-probabilities, in the shape of out. One of −inf is a class that the
            teacher excludes: it costs nothing, and reversed it must have p = 0.
        temperature: T > 0, of both; above 1 it evens the probabilities out.
        reverse: KL(p ‖ q) in the place of KL(q ‖ p).
        class_weight: (K,), what each class counts.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row. PyTorch calls the mean over rows "batchmean".

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, a temperature that is not positive, an unknown reduction, or
            weights of another shape.
    """
    _check_configuration(temperature, reverse, reduction, "kl_divergence.forward")
    check_same_shape(out, targets, "kl_divergence.forward")
    class_weight = read_weight(class_weight, ((out.shape[-1],),), out, "kl_divergence.forward", "class_weight")
    log_p, log_q = _log_softmax(out, temperature), _log_softmax(targets, temperature)
    first, second = (log_p, log_q) if reverse else (log_q, log_p)
    probability = jnp.exp(first)
    possible = probability > 0
    # where a probability is 0 its logarithm may be −inf, and the summand is 0, not a product with it
    cost = jnp.where(possible, probability * (jnp.where(possible, first, 0) - jnp.where(possible, second, 0)), 0)
    per_row = temperature**2 * _weighted(cost, class_weight).sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "kl_divergence.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, class_weight, rows, Static(temperature), Static(reverse))


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r T (p − q), or reversed r T p∘(ρ − Σ p ρ); with class weights as the module says.

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, class_weight, rows, temperature, reverse = residuals
    log_p, log_q = _log_softmax(out, temperature.value), _log_softmax(targets, temperature.value)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    if reverse.value:
        ratio = jnp.where(p > 0, jnp.where(p > 0, log_p, 0) - log_q, 0)
        slope = _weighted(ratio + 1, class_weight)  # without weights p − p Σ p takes the 1 out again
        difference = p * (slope - (p * slope).sum(axis=-1, keepdims=True))
    else:
        weighted = _weighted(q, class_weight)
        difference = p * weighted.sum(axis=-1, keepdims=True) - weighted
    r = row_cotangent(rows, delta, p.dtype, "kl_divergence.backward")
    return only_counted(rows, r * temperature.value * difference).astype(out.dtype)


def loss(
    *,
    temperature: float = 1.0,
    reverse: bool = False,
    class_weight: Any = None,
    row_weight: Any = None,
    reduction: str = "mean",
) -> ConfiguredLoss:
    """The loss with its temperature, direction, weights and reduction bound; keywords as for `forward`."""
    _check_configuration(temperature, reverse, reduction, "kl_divergence.loss")
    bound = {
        "temperature": temperature,
        "reverse": reverse,
        "class_weight": class_weight,
        "row_weight": row_weight,
        "reduction": reduction,
    }
    return ConfiguredLoss(partial(forward, **bound), backward, "kl_divergence")


def _log_softmax(logits: Float[Array, "*batch k"], temperature: float) -> Float[Array, "*batch k"]:
    return jax.nn.log_softmax(widen(logits) / temperature)


def _weighted(summands: Float[Array, "*batch k"], class_weight: Float[Array, " k"] | None) -> Float[Array, "*batch k"]:
    return summands if class_weight is None else summands * jnp.broadcast_to(class_weight, summands.shape)


def _check_configuration(temperature: float, reverse: bool, reduction: str, function: str) -> None:
    check_number(temperature, function, "temperature")
    if not temperature > 0:
        raise ValueError(f"{function}: temperature must be positive, got {temperature}.")
    if not isinstance(reverse, bool):
        raise ValueError(f"{function}: reverse must be True or False, got {reverse!r}.")
    check_reduction(reduction, function)


CLASS_WEIGHT, ROW_WEIGHT = np.array([0.5, 2, 0, 1]), np.array([0.5, 2, 0, 1, 1.5])


def _logits(key, dtype):
    return normal(key, (5, 4), dtype)


DERIVATIONS = (
    Derivation(
        "kl_divergence",
        (
            r"L = \frac{T^2}{n} \sum_{n,k} q_{nk} (\log q_{nk} - \log p_{nk}),\quad p = \mathrm{softmax}(z/T)",
            r"\partial L/\partial z = \frac{T}{n} (p - q)",
            r"L = \frac{T^2}{n} \sum_{n,k} p_{nk} \rho_{nk},\quad \rho = \log p - \log q",
            r"\partial L/\partial z = \frac{T}{n}\, p\, \big(\rho - \textstyle\sum_k p_k \rho_k\big)",
        ),
        "Hinton et al. (2015), section 2; equations 9.11.1-9.11.2",
        (
            LossExample("temperature 2", loss(temperature=2.0), (5, 4), _logits),
            LossExample(
                "class weights, row weights, none",
                loss(temperature=0.5, class_weight=CLASS_WEIGHT, row_weight=ROW_WEIGHT, reduction="none"),
                (5, 4),
                _logits,
            ),
            LossExample("reverse, temperature 2", loss(temperature=2.0, reverse=True), (5, 4), _logits),
            LossExample(
                "reverse, class weights, sum",
                loss(reverse=True, class_weight=CLASS_WEIGHT, reduction="sum"),
                (5, 4),
                _logits,
            ),
        ),
    ),
)
