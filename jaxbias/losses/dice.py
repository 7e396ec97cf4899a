"""Dice loss of masks: one minus twice the overlap of prediction and truth over the size of both.

z are logits, p = σ(z) or softmax(z), t the masks. A coefficient sums over the axes `axis` of out, by default all of it;
what is left of the axes counts the coefficients, n in all, and takes the part that rows have in the other losses:

Forward     N = 2 Σ p t + s      M = Σ p + Σ t + s, or Σ p² + Σ t² + s with squared=True
            L = r Σ_n 1 − N/M                           r = 1/n for the mean, 1 for the sum            (9.11.5)
Backward    δp = r (N − 2 t M)/M²                       squared: r (2 p N − 2 t M)/M²                  (9.11.5)
            δ = ∂L/∂z = δp p (1 − p)                    softmax: p (δp − Σ_k p δp)                     (7), (9)

    >>> loss = dice.loss(axis=(1, 2))        # of images (n, height, width, classes): one of each image and class

The overlap counts, not the entries, so a small object weighs as much as a large one. A mask that is empty, and said to
be so, costs 0, for which there is s.

Kinks: none.

Source: F. Milletari et al., V-Net (2016), eq. for D, squared; derivation sheet (9.11.5).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_flag, check_number, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, uniform
from jaxbias.losses._loss import (
    Rows,
    check_reduction,
    check_same_shape,
    only_counted,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static

PROBABILITIES = ("sigmoid", "softmax")


class Options(NamedTuple):
    """Static."""

    axis: tuple[int, ...] | None
    probabilities: str
    squared: bool
    smooth: float


class Residuals(NamedTuple):
    out: Float[Array, "*shape"]
    targets: Float[Array, "*shape"]
    options: Static
    rows: Rows


def forward(
    out: Float[Array, "*shape"],
    targets: Float[Array, "*shape"],
    *,
    axis: int | Sequence[int] | None = None,
    probabilities: str = "sigmoid",
    squared: bool = False,
    smooth: float = 1e-5,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ 1 − (2 Σ p t + s)/(Σ p + Σ t + s), between 0 and 1 for the mean.

    Args:
        out: logits z.
        targets: masks t in the shape of out, floating point, in [0, 1]; with "softmax" one-hot along the last axis.
        axis: the axes that one coefficient sums over, None for all. The others are counted by the reduction.
        probabilities: "sigmoid", each entry for itself, or "softmax" over the last axis.
        squared: whether p and t are squared in the denominator.
        smooth: s > 0.
        row_weight: one number per coefficient, in the shape of the axes that are left; the mean is then divided by
            their sum.
        reduction: "mean" or "sum" over coefficients, or "none": a loss for each.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, axes that out does not have, a smooth that is not positive,
            other probabilities, an unknown reduction, or a row_weight of another shape.
    """
    options = _options(axis, probabilities, squared, smooth, "dice.forward")
    check_reduction(reduction, "dice.forward")
    check_same_shape(out, targets, "dice.forward")
    _check_axes(out.ndim, options.axis)
    p, t = _in_rows(_probabilities(out, options), options), _in_rows(widen(targets), options)
    overlap, sizes = _parts(p, t, options)
    per_row = (1 - overlap / sizes)[..., 0]
    rows = weigh_rows(per_row, reduction, row_weight, "dice.forward")
    return reduce_rows(per_row, rows), Residuals(out, targets, Static(options), rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*shape"]:
    """δ = r (N − 2 t M)/M² p (1 − p), and as the options say.

    Args:
        delta: the cotangent of the loss: of each coefficient where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, options, rows = residuals
    options = options.value
    whole = _probabilities(out, options)
    p, t = _in_rows(whole, options), _in_rows(widen(targets), options)
    overlap, sizes = _parts(p, t, options)
    of_sizes = 2 * p * overlap if options.squared else overlap
    r = row_cotangent(rows, delta, p.dtype, "dice.backward")
    delta_p = only_counted(rows, r * (of_sizes - 2 * t * sizes) / (sizes * sizes))
    delta_p = _from_rows(delta_p, whole.shape, options)
    if options.probabilities == "softmax":
        return (whole * (delta_p - (whole * delta_p).sum(axis=-1, keepdims=True))).astype(out.dtype)
    return (delta_p * whole * (1 - whole)).astype(out.dtype)


def loss(
    *,
    axis: int | Sequence[int] | None = None,
    probabilities: str = "sigmoid",
    squared: bool = False,
    smooth: float = 1e-5,
    row_weight: Any = None,
    reduction: str = "mean",
) -> ConfiguredLoss:
    """The loss with its options, weights and reduction bound; keywords as for `forward`."""
    options = _options(axis, probabilities, squared, smooth, "dice.loss")
    check_reduction(reduction, "dice.loss")
    bound = partial(forward, **options._asdict(), row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "dice")


def _parts(p: Array, t: Array, options: Options) -> tuple[Array, Array]:
    """N and M of each row, (*rows, 1)."""
    overlap = 2 * (p * t).sum(axis=-1, keepdims=True) + options.smooth
    sizes = (p * p + t * t if options.squared else p + t).sum(axis=-1, keepdims=True) + options.smooth
    return overlap, sizes


def _probabilities(out: Array, options: Options) -> Array:
    z = widen(out)
    return jax.nn.softmax(z, axis=-1) if options.probabilities == "softmax" else jax.lax.logistic(z)


def _summed(axes: int, options: Options) -> tuple[int, ...]:
    if options.axis is None:
        return tuple(range(axes))
    return tuple(axis % axes for axis in options.axis)


def _order(axes: int, options: Options) -> tuple[int, ...]:
    """The axes that are counted, then those that are summed."""
    summed = _summed(axes, options)
    return *(axis for axis in range(axes) if axis not in summed), *summed


def _in_rows(array: Array, options: Options) -> Array:
    """(*counted, entries): a coefficient is a row."""
    order = _order(array.ndim, options)
    counted = [array.shape[axis] for axis in order[: array.ndim - len(_summed(array.ndim, options))]]
    entries = [array.shape[axis] for axis in order[len(counted) :]]
    return jnp.transpose(array, order).reshape(*counted, math.prod(entries))


def _from_rows(array: Array, shape: tuple[int, ...], options: Options) -> Array:
    """The inverse of `_in_rows`."""
    order = _order(len(shape), options)
    return jnp.transpose(array.reshape([shape[axis] for axis in order]), np.argsort(order).tolist())


def _check_axes(axes: int, axis: tuple[int, ...] | None) -> None:
    given = axis or ()
    if any(not -axes <= entry < axes for entry in given) or len({entry % axes for entry in given}) < len(given):
        raise ValueError(f"dice.forward: axis must name axes of out, each once, got {axis} for {axes} axes.")


def _options(axis: Any, probabilities: str, squared: bool, smooth: float, function: str) -> Options:
    entries = axis if isinstance(axis, Sequence) and not isinstance(axis, str) else () if axis is None else (axis,)
    if any(isinstance(entry, bool) or not isinstance(entry, int) for entry in entries):
        raise TypeError(f"{function}: axis must be an int, a sequence of ints or None, got {describe(axis)}.")
    if probabilities not in PROBABILITIES:
        raise ValueError(f'{function}: probabilities must be "sigmoid" or "softmax", got {describe(probabilities)}.')
    check_flag(squared, function, "squared")
    check_number(smooth, function, "smooth")
    if not smooth > 0:
        raise ValueError(f"{function}: smooth must be above 0, got {smooth}.")
    return Options(None if axis is None else tuple(entries), probabilities, squared, smooth)


def _targets(*shape: int):
    return lambda key, dtype: uniform(key, shape, dtype)


DERIVATIONS = (
    Derivation(
        "dice",
        (
            (
                r"L = \frac{1}{n} \sum_n 1 - N_n/M_n, \quad N = 2 \sum p t + s, \quad M = \sum p + \sum t + s, \quad"
                r" p = \sigma(z)"
            ),
            r"\partial L/\partial z = \frac{1}{n} (N - 2 t M)/M^2 \circ p (1 - p)",
        ),
        "Milletari et al. (2016); equation (9.11.5)",
        (
            LossExample("over all entries", loss(), (5, 3), _targets(5, 3)),
            LossExample(
                "a coefficient per image and class, softmax, squared, row weights, none",
                loss(
                    axis=(1, -2),
                    probabilities="softmax",
                    squared=True,
                    smooth=0.1,
                    row_weight=np.array([[0.5, 2, 0], [1, 1.5, 1]]),
                    reduction="none",
                ),
                (2, 3, 2, 3),
                _targets(2, 3, 2, 3),
            ),
            LossExample("per class, sum", loss(axis=0, reduction="sum"), (4, 3), _targets(4, 3)),
        ),
    ),
)
