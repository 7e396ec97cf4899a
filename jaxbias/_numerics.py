"""Sums and products of deltas, accumulated in at least float32, and the checks at the public doors of the layers."""

import math
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """float64 for float64, float32 for every narrower float."""
    return max(jnp.dtype(dtype), jnp.dtype(jnp.float32), key=lambda each: each.itemsize)


def widen(x: Array) -> Array:
    """x in at least float32."""
    return x.astype(accumulation_dtype(x.dtype))


def sum_over(x: Array, axes: int | tuple[int, ...]) -> Array:
    """Sum over `axes`, accumulated in at least float32 and returned in the dtype of x."""
    return jnp.sum(x, axis=axes, dtype=accumulation_dtype(x.dtype)).astype(x.dtype)


def sum_to_shape(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over exactly the axes along which an array of `shape` was broadcast to x: a broadcast's backward (4.5)."""
    new = x.ndim - len(shape)
    stretched = tuple(new + i for i, n in enumerate(shape) if n == 1 and x.shape[new + i] != 1)
    return sum_over(x, (*range(new), *stretched)).reshape(shape)


def matmul(a: Array, b: Array) -> Array:
    """Matrix product, accumulated in at least float32 and returned in the dtype of a."""
    return jnp.matmul(a, b, preferred_element_type=accumulation_dtype(a.dtype)).astype(a.dtype)


def rows(x: Array) -> Array:
    """All leading axes made one: (..., features) becomes (n, features)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def check_float(x: Any, function: str, argument: str = "x") -> None:
    """Raise a TypeError unless x is a floating-point array."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        got = x.dtype if hasattr(x, "dtype") else type(x).__name__
        raise TypeError(
            f"{function}: {argument} must be a floating-point array, got {got}. Convert it first, "
            f"for example {argument}.astype(jnp.float32)."
        )


def check_features(x: Any, features: int, function: str, needed_by: str) -> None:
    """Raise unless x is a floating-point array whose last axis has `features` entries.

    Raises:
        TypeError: x is not a floating-point array.
        ValueError: x has no axis, or another number of features.
    """
    check_float(x, function)
    if x.ndim == 0 or x.shape[-1] != features:
        got = "is a scalar" if x.ndim == 0 else f"has {x.shape[-1]} features"
        raise ValueError(f"{function}: x {got} but {needed_by} (x has shape {x.shape}).")
