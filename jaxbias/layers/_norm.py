"""What the normalisation layers share: moments in at least float32, and the checks at their doors."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._doors import check_float, check_number
from jaxbias.params import Params, weight_and_bias


def mean_over(x: Array, axes: tuple[int, ...]) -> Array:
    """Mean over `axes`, which stay with length 1; 0 where there is nothing to average."""
    return x.sum(axis=axes, keepdims=True) / max(math.prod(x.shape[axis] for axis in axes), 1)


def moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over `axes`, which stay with length 1.

    Two passes, because E[x²] − E[x]² cancels to nothing, or below zero, where the mean is large beside the spread.
    """
    mean = mean_over(x, axes)
    return mean, mean_over(jnp.square(x - mean), axes)


def broadcast_like(vector: Array, x: Array) -> Array:
    """A scale or shift in the dtype of x and with as many axes, its own being the last ones."""
    return vector.reshape((1,) * (x.ndim - vector.ndim) + vector.shape).astype(x.dtype)


def scale_and_shift(x_hat: Array, params: Params) -> Array:
    """γ x̂ + β, or γ x̂ without a bias."""
    out = x_hat * broadcast_like(params.weight, x_hat)
    return out if params.bias is None else out + broadcast_like(params.bias, x_hat)


def check_eps(eps: float, function: str) -> None:
    """Raise a ValueError unless eps is at least 0."""
    check_number(eps, function, "eps")
    if not eps >= 0:
        raise ValueError(f"{function}: eps must be at least 0, got {eps}.")


def check_input(params: Params, x: Any, eps: float, function: str) -> None:
    """Raise unless x is a float array whose last axes are those of the weight, and the bias has the weight's shape.

    Raises:
        TypeError: x is not a floating-point array, or params no `Params` of such arrays.
        ValueError: shapes that do not fit together, or a negative eps.
    """
    check_float(x, function)
    check_eps(eps, function)
    weight, _ = weight_and_bias(params, function, bias_axes=None)
    if x.ndim < weight.ndim or x.shape[x.ndim - weight.ndim :] != weight.shape:
        raise ValueError(
            f"{function}: the last axes of x must be those of the weight, got x {x.shape} and weight {weight.shape}."
        )


def last_axes(x: Any, axes: int, function: str) -> tuple[int, ...]:
    """Lengths of the last `axes` axes of an example input.

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: x has fewer axes.
    """
    check_float(x, function)
    if len(x.shape) < axes:
        raise ValueError(f"{function}: x needs at least {axes} axes, got shape {x.shape}.")
    return x.shape[len(x.shape) - axes :]
