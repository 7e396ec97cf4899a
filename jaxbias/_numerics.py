"""Sums and products of deltas, accumulated in at least float32."""

import math

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """float64 for float64, float32 for every narrower float."""
    return max(jnp.dtype(dtype), jnp.dtype(jnp.float32), key=lambda candidate: candidate.itemsize)


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
