"""Triplet loss: an anchor must lie nearer to its positive than to its negative, by a margin.

out is a triple of embeddings (a, p, n), rows of length d; each gets its error signal. With D = |·| of a difference:

Forward     L = r Σ_i [D(a, p) − D(a, n) + m]₊          r = 1/N for the mean over rows, 1 for the sum      (9.11.6)
Backward, at the rows where the bracket is above 0, 0 elsewhere, with u = (a − p)/|a − p|, v = (a − n)/|a − n|:
            δa = r (u − v)      δp = −r u      δn = r v                                                    (9.11.6)
squared, D = |·|²:
            δa = 2 r (n − p)    δp = 2 r (p − a)    δn = 2 r (a − n)                                       (9.11.7)

    value, residuals = jb.losses.triplet.forward((a, p, n), margin=0.2)
    delta_a, delta_p, delta_n = jb.losses.triplet.backward(residuals)

Only differences enter, so one bias on all embeddings is redundant: δa + δp + δn = 0 in each row. Nothing is kept but
the embeddings.

Kinks: at the margin δ = 0; a difference of length 0 has no direction, and gets 0.

Source: F. Schroff et al., FaceNet (2015), eq. 3, squared; derivation sheet (9.11.6-7).
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_flag, check_float, check_number, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator
from jaxbias.losses._loss import Rows, check_reduction, only_counted, reduce_rows, row_cotangent, weigh_rows
from jaxbias.params import ConfiguredLoss, Static

NAMES = ("a", "p", "n")


class Residuals(NamedTuple):
    out: tuple[Array, ...]
    rows: Rows
    margin: Static
    squared: Static


def forward(
    out: tuple[Array, ...],
    targets: None = None,
    *,
    margin: float = 1.0,
    squared: bool = False,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ max(D(a, p) − D(a, n) + m, 0).

    Args:
        out: anchors, positives and negatives, three arrays (*batch, d).
        targets: None; which row belongs to which is said by their order.
        margin: m ≥ 0, in the unit of D.
        squared: whether D is the square of the length.
        row_weight: one number per triplet; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out is no triple of floating-point arrays, or targets that are given.
        ValueError: their shapes differ, a negative margin, an unknown reduction, or a row_weight of another shape.
    """
    _check_options(margin, squared, reduction, "triplet.forward")
    _check_out(out)
    if targets is not None:
        raise TypeError(f"triplet.forward: a triplet has no targets, got {describe(targets)}. Pass None.")
    to_positive, to_negative = _differences(out)
    excess = _length(to_positive, squared) - _length(to_negative, squared) + margin
    per_row = jnp.where(excess > 0, excess, 0)[..., 0]
    rows = weigh_rows(per_row, reduction, row_weight, "triplet.forward")
    return reduce_rows(per_row, rows), Residuals(out, rows, Static(margin), Static(squared))


def backward(residuals: Residuals, delta: Any = 1.0) -> tuple[Array, Array, Array]:
    """(δa, δp, δn).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, rows, margin, squared = residuals
    to_positive, to_negative = _differences(out)
    lengths = _length(to_positive, squared.value), _length(to_negative, squared.value)
    r = row_cotangent(rows, delta, to_positive.dtype, "triplet.backward")
    if squared.value:
        u, v = 2 * to_positive, 2 * to_negative
    else:
        u, v = (
            jnp.where(length > 0, difference / jnp.where(length > 0, length, 1), 0)
            for difference, length in zip((to_positive, to_negative), lengths)
        )
    active = lengths[0] - lengths[1] + margin.value > 0
    u, v = (only_counted(rows, jnp.where(active, r * part, 0)) for part in (u, v))
    a, p, n = (grad.astype(part.dtype) for grad, part in zip((u - v, -u, v), out))
    return a, p, n


def loss(
    *, margin: float = 1.0, squared: bool = False, row_weight: Any = None, reduction: str = "mean"
) -> ConfiguredLoss:
    """The loss with its margin, weights and reduction bound; keywords as for `forward`."""
    _check_options(margin, squared, reduction, "triplet.loss")
    bound = partial(forward, margin=margin, squared=squared, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "triplet")


def _differences(out: tuple[Array, ...]) -> tuple[Array, Array]:
    """a − p and a − n, in at least float32."""
    a, p, n = (widen(part) for part in out)
    return a - p, a - n


def _length(difference: Array, squared: bool) -> Array:
    """|·| of each row, or its square, (*batch, 1); 0 has the slope 0."""
    square = (difference * difference).sum(axis=-1, keepdims=True)
    return square if squared else jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _check_out(out: Any) -> None:
    if not isinstance(out, tuple) or len(out) != 3:
        raise TypeError(f"triplet.forward: out must be a triple of embeddings (a, p, n), got {describe(out)}.")
    for part, name in zip(out, NAMES):
        check_float(part, "triplet.forward", name)
    shapes = [part.shape for part in out]
    if len(set(shapes)) > 1 or not shapes[0] or not shapes[0][-1]:
        raise ValueError(f"triplet.forward: a, p and n must be rows of one shape (*batch, d), got {shapes}.")


def _check_options(margin: float, squared: bool, reduction: str, function: str) -> None:
    check_number(margin, function, "margin")
    if not margin >= 0:
        raise ValueError(f"{function}: margin must be at least 0, got {margin}.")
    check_flag(squared, function, "squared")
    check_reduction(reduction, function)


def _draw(*shape: int):
    def draw(key: Any, dtype: Any) -> tuple[Array, ...]:
        return tuple(jnp.asarray(part, dtype) for part in generator(key).standard_normal((3, *shape)))

    return draw


DERIVATIONS = (
    Derivation(
        "triplet",
        (
            (
                r"L = \frac{1}{N} \sum \max(|a - p| - |a - n| + m, 0), \quad u = (a - p)/|a - p|, \quad"
                r" v = (a - n)/|a - n|"
            ),
            r"\partial L/\partial a = \frac{1}{N} (u - v) \text{ at active rows}",
            r"\partial L/\partial p = -\frac{1}{N} u",
            r"\partial L/\partial n = \frac{1}{N} v",
        ),
        "Schroff et al. (2015), eq. 3; equations 9.11.6-9.11.7",
        (
            LossExample("lengths, margin ½", loss(margin=0.5), _draw(6, 3), lambda key, dtype: None),
            LossExample(
                "squared, row weights, none",
                loss(squared=True, row_weight=np.array([0.5, 2, 0, 1, 1, 3]), reduction="none"),
                _draw(6, 3),
                lambda key, dtype: None,
            ),
        ),
        {"a": ("x.0",), "p": ("x.1",), "n": ("x.2",)},
    ),
)
