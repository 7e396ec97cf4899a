"""Contrastive loss: each row a_i must be told from the others by its key b_i, with all other keys as the wrong answers.

out is a pair of embeddings (a, b), or with a learned scale a triple (a, b, τ); each gets its error signal. With
s = e^τ/T (τ = 0 in a pair), S = s a bᵀ, and y_i = i, or the index of the key that belongs to row i:

Forward     L = Σ_i −r_i log P[i, y_i]          P = softmax of S over the keys, r_i = 1/N for the mean
Backward    δS = r (P − onehot(y))                                                               (9), (9.11.17)
            δa = s δS b          δb = s δSᵀ a          ∂L/∂τ = Σ δS∘S                            (9.11.17-18)

Each option touches one of these steps:
    symmetric       the mean of both directions, as in CLIP, with P_col the softmax of S over the rows:
                    L = Σ_i −½ r_i (log P[i, i] + log P_col[i, i])
                    δS[i,j] = ½ (r_i (P[i,j] − [i = j]) + r_j (P_col[i,j] − [i = j]))                   (9.11.18)
    normalize       â = a/|a| and b̂ = b/|b| in the place of a and b: δa = (δâ − â (â·δâ))/|a|, 0 where a = 0   (9.1.16)

Two networks under one loss:

    a, residuals_a = images.forward(params_a, x)
    b, residuals_b = texts.forward(params_b, y)
    value, residuals = jb.losses.info_nce.forward((a, b, tau), symmetric=True, normalize=True)
    delta_a, delta_b, grad_tau = jb.losses.info_nce.backward(residuals)
    grads_a, _ = images.backward(residuals_a, delta_a)
    grads_b, _ = texts.backward(residuals_b, delta_b)

S is computed again in backward; kept are the embeddings alone, not N × M numbers.

One number on all of S changes nothing, so a bias of the logits is redundant. In one direction, without normalisation,
so is a bias common to all keys: δb sums to 0 over the keys.

Kinks: at a = 0 or b = 0 with `normalize`.

Source: A. van den Oord, Y. Li and O. Vinyals, Contrastive Predictive Coding (2018); A. Radford et al., CLIP (2021);
derivation sheet (9.11.17-18).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxbias._doors import check_float, check_number, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator
from jaxbias.losses._loss import (
    Rows,
    check_reduction,
    is_label,
    is_valid,
    poison,
    read_labels,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static


class Residuals(NamedTuple):
    out: tuple[Array, ...]
    labels: Integer[Array, " n"]
    rows: Rows
    options: Static


class Options(NamedTuple):
    """Static."""

    temperature: float
    symmetric: bool
    normalize: bool


class Similarities(NamedTuple):
    """What both passes compute of out, in at least float32."""

    a: Float[Array, "n d"]
    b: Float[Array, "m d"]
    scale: Float[Array, ""]
    scores: Float[Array, "n m"]


def forward(
    out: tuple[Array, ...],
    targets: Integer[Array, " n"] | None = None,
    *,
    temperature: float = 1.0,
    symmetric: bool = False,
    normalize: bool = False,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = Σ_i −r_i log softmax(e^τ a bᵀ/T)[i, y_i], in nats.

    Args:
        out: (a, b) or (a, b, τ): rows a (N, d), keys b (M, d) and the log scale τ, a number.
        targets: None where row i belongs to key i; keys beyond the N-th then belong to no row. Or integers (N,), the
            index of each row's key.
        temperature: T > 0; 0.07 is usual for embeddings of length 1.
        symmetric: each key must be told from the others by its row too; N = M and no targets.
        normalize: embeddings are divided by their length.
        row_weight: one number per row, or per pair; the mean is then divided by their sum. A pair of weight 0 is still
            a wrong answer for the others.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out is no pair or triple of floating-point arrays.
        ValueError: shapes that do not fit, a label outside [0, M), `symmetric` with targets or other keys, a
            temperature that is not positive, an unknown reduction, or a row_weight of another shape. Labels can be
            looked at only outside jit; inside, one outside [0, M) makes L and δ NaN.
    """
    options = Options(temperature, symmetric, normalize)
    _check_options(options, reduction, "info_nce.forward")
    _check_out(out)
    scores = _scores(out, options).scores
    if symmetric and (targets is not None or scores.shape[0] != scores.shape[1]):
        raise ValueError(
            f"info_nce.forward: symmetric pairs row i with key i, so it takes no targets and as many keys as rows, got "
            f"{describe(targets)} for {scores.shape[0]} rows and {scores.shape[1]} keys."
        )
    labels = _labels(targets, scores)
    mine = is_label(labels, scores.shape[1])
    per_row = -jnp.where(mine, jax.nn.log_softmax(scores), 0).sum(axis=1)
    if symmetric:
        per_row = 0.5 * (per_row - jnp.where(mine, jax.nn.log_softmax(scores, axis=0), 0).sum(axis=0))
    rows = weigh_rows(per_row, reduction, row_weight, "info_nce.forward")
    if targets is not None:
        rows = poison(rows, per_row, is_valid(labels, scores.shape[1]))
    return reduce_rows(per_row, rows), Residuals(out, labels, rows, Static(options))


def backward(residuals: Residuals, delta: Any = 1.0) -> tuple[Array, ...]:
    """(δa, δb), and ∂L/∂τ where out has τ.

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, labels, rows, options = residuals
    a, b, scale, scores = _scores(out, options.value)
    r = row_cotangent(rows, delta, scores.dtype, "info_nce.backward")
    r = jnp.broadcast_to(jnp.asarray(r, scores.dtype), (len(a), 1))
    mine = is_label(labels, len(b))
    delta_scores = _without_ones(jax.nn.softmax(scores), mine) * r
    if options.value.symmetric:
        delta_scores = 0.5 * (delta_scores + _without_ones(jax.nn.softmax(scores, axis=0), mine) * r.T)
    delta_a, delta_b = scale * (delta_scores @ b), scale * (delta_scores.T @ a)
    if options.value.normalize:
        delta_a, delta_b = _of_length(widen(out[0]), a, delta_a), _of_length(widen(out[1]), b, delta_b)
    grads = delta_a, delta_b, (delta_scores * scores).sum()
    return tuple(grad.astype(part.dtype) for grad, part in zip(grads, out))


def loss(
    *,
    temperature: float = 1.0,
    symmetric: bool = False,
    normalize: bool = False,
    row_weight: Any = None,
    reduction: str = "mean",
) -> ConfiguredLoss:
    """The loss with its options, weights and reduction bound; keywords as for `forward`."""
    _check_options(Options(temperature, symmetric, normalize), reduction, "info_nce.loss")
    bound = {
        "temperature": temperature,
        "symmetric": symmetric,
        "normalize": normalize,
        "row_weight": row_weight,
        "reduction": reduction,
    }
    return ConfiguredLoss(partial(forward, **bound), backward, "info_nce")


def _scores(out: tuple[Array, ...], options: Options) -> Similarities:
    a, b = (widen(part) for part in out[:2])
    if options.normalize:
        a, b = (part * _reciprocal_length(part) for part in (a, b))
    scale = jnp.asarray(1 / options.temperature, a.dtype)
    if len(out) == 3:
        scale = scale * jnp.exp(out[2].astype(a.dtype))
    return Similarities(a, b, scale, scale * (a @ b.T))


def _reciprocal_length(rows: Float[Array, "n d"]) -> Float[Array, "n 1"]:
    """1/|row|, and 0 for a row of zeros."""
    square = (rows * rows).sum(axis=-1, keepdims=True)
    return jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


def _of_length(rows: Array, unit: Array, delta: Array) -> Array:
    """δ of rows from that of the rows of length 1 (9.1.16)."""
    return _reciprocal_length(rows) * (delta - unit * (unit * delta).sum(axis=-1, keepdims=True))


def _without_ones(probabilities: Array, mine: Array) -> Array:
    return jnp.where(mine, probabilities - 1, probabilities)


def _labels(targets: Any, scores: Float[Array, "n m"]) -> Integer[Array, " n"]:
    rows, keys = scores.shape
    if targets is not None:
        if not hasattr(targets, "dtype") or not jnp.issubdtype(targets.dtype, jnp.integer):
            raise TypeError(
                f"info_nce.forward: targets must be integers, the index of each row's key, or None where row i belongs "
                f"to key i; got {describe(targets)}."
            )
        return read_labels(scores, targets, "info_nce.forward")
    if rows > keys:
        raise ValueError(f"info_nce.forward: each of the {rows} rows needs its key, but there are {keys} keys.")
    return jnp.arange(rows)


def _check_out(out: Any) -> None:
    if not isinstance(out, tuple) or len(out) not in (2, 3):
        raise TypeError(
            f"info_nce.forward: out must be a pair of embeddings (a, b), or (a, b, tau) with a log scale, got "
            f"{describe(out)}."
        )
    for part, name in zip(out, ("a", "b", "tau")):
        check_float(part, "info_nce.forward", name)
    a, b = out[:2]
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"info_nce.forward: a and b must be rows of one length, (N, d) and (M, d), got {a.shape} and {b.shape}."
        )
    if len(out) == 3 and out[2].shape != ():
        raise ValueError(f"info_nce.forward: tau must be one number, the log of a scale, got shape {out[2].shape}.")


def _check_options(options: Options, reduction: str, function: str) -> None:
    check_number(options.temperature, function, "temperature")
    if not options.temperature > 0:
        raise ValueError(f"{function}: temperature must be positive, got {options.temperature}.")
    for name in ("symmetric", "normalize"):
        if not isinstance(getattr(options, name), bool):
            raise ValueError(f"{function}: {name} must be True or False, got {getattr(options, name)!r}.")
    check_reduction(reduction, function)


def _draw(key: Any, dtype: Any, *shapes: tuple[int, ...]) -> tuple[Array, ...]:
    draw = generator(key).standard_normal
    return tuple(jax.device_put(np.asarray(draw(shape)).astype(dtype)) for shape in shapes)


DERIVATIONS = (
    Derivation(
        "info_nce",
        (
            r"L = -\frac{1}{N} \sum_i \log P_{i y_i},\quad P = \mathrm{softmax}(S),\quad S = e^\tau a b^\top / T",
            r"\delta = \frac{1}{N} (P - I),\quad \text{symmetric: } \delta = \frac{1}{2N} (P + P_{col} - 2 I)",
            r"\partial L/\partial a = \frac{1}{T} e^\tau \delta\, b",
            r"\partial L/\partial b = \frac{1}{T} e^\tau \delta^\top a",
            r"\partial L/\partial \tau = \sum \delta \circ S",
        ),
        "van den Oord et al. (2018), Radford et al. (2021); equations 9.11.17-9.11.18",
        (
            LossExample(
                "pair, temperature ½",
                loss(temperature=0.5),
                lambda key, dtype: _draw(key, dtype, (4, 3), (4, 3)),
                lambda key, dtype: None,
            ),
            LossExample(
                "symmetric, normalised, learned scale, row weights, none",
                loss(symmetric=True, normalize=True, row_weight=[0.5, 2, 0, 1], reduction="none"),
                lambda key, dtype: _draw(key, dtype, (4, 3), (4, 3), ()),
                lambda key, dtype: None,
            ),
        ),
        {"a": ("x.0",), "b": ("x.1",), r"\tau": ("x.2",)},
    ),
)
