"""Sums and products of deltas, accumulated in at least float32."""

import math

import jax.numpy as jnp
from jax import lax
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


def product(a: Array, b: Array) -> Array:
    """The same for a forward that adds a bias to it.

    cuBLASLt adds a bias, and a ReLU, where it writes a product that has the dtype of the bias already. It sums in
    float32 all the same; a product in float32 that is rounded afterwards would be written and read once more.
    """
    if a.dtype == accumulation_dtype(a.dtype) or a.dtype != b.dtype:
        return matmul(a, b)
    return lax.platform_dependent(a, b, cuda=jnp.matmul, default=matmul)


def rounded(x: Array, dtype: DTypeLike) -> Array:
    """x in another dtype; on CUDA rounded once, in memory of its own.

    XLA would else round again inside of every product that reads it, whose operands it then exchanges, and add a bias
    apart from the product.
    """
    if x.dtype == dtype:
        return x
    return lax.platform_dependent(
        x, cuda=lambda x: lax.optimization_barrier(x.astype(dtype)), default=lambda x: x.astype(dtype)
    )


def rows(x: Array) -> Array:
    """All leading axes made one: (..., features) becomes (n, features)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
