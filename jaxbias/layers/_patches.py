"""A convolution as one matrix product: each window of the image a row of a matrix, (5.1) as (5), (8) and (10).

With P[r, (u, c)] = x̄[S i + F u − P, c], a row r = (n, i) for every position of every image and a column for every place
u of the kernel and channel c, and W the kernel as a matrix of the same columns:

Forward     z = P W
Backward    ∂L/∂W = Pᵀ δ
            ∂L/∂x: δ Wᵀ, each entry added at the place of x that it was read from

For one group and an input that is not dilated. XLA's own convolution reads every entry of x once from memory where P
holds it once for each place of the kernel, so this form pays only where P is narrow or small.
"""

import itertools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxbias._numerics import accumulation_dtype, matmul, rows

NARROW = 56
"""Columns of P (kernel size × channels) up to which the matrix product is faster at every size, on CPU."""

SMALL = 2**18
"""Entries of P up to which it is faster for any number of channels, on CPU: XLA's convolution starts up slowly."""


def pays(rows: int, columns: int) -> bool:
    """Whether the matrix product is the faster form for P of this shape on CPU.

    Measured for 3 × 3 kernels: 4 times as fast for one channel in, 2 times for 6, as fast for 8 or for 16 channels of
    64 images of 8 × 8. Accelerators have convolutions of their own for every shape.
    """
    return columns <= NARROW or rows * columns <= SMALL


def on_cpu(product: Callable[..., Array], convolution: Callable[..., Array], *arrays: Array) -> Array:
    """`product(*arrays)` in a program lowered for CPU, `convolution(*arrays)` in one lowered for anything else.

    The platform that counts is the lowering's, not the one of the machine that lowers: a program for CUDA or TPU is
    often made on a host without either. Where a program is lowered for one platform only one form is in it.
    """
    return lax.platform_dependent(*arrays, cpu=product, default=convolution)


def forward(x: Array, weight: Array, geometry) -> Array:
    """z = P W, of shape (n, *positions, channels_out)."""
    patches = _patches(x, weight.shape[:-2], geometry)
    return matmul(patches, rows(weight))


def grad_weight(x: Array, delta: Array, kernel: tuple[int, ...], geometry) -> Array:
    """∂L/∂W = Pᵀ δ, of shape (*kernel, channels_in, channels_out)."""
    patches = _patches(x, kernel, geometry)
    return matmul(rows(patches).T, rows(delta)).reshape(*kernel, x.shape[-1], delta.shape[-1])


def grad_input(delta: Array, weight: Array, lengths: tuple[int, ...], geometry) -> Array:
    """∂L/∂x of spatial shape `lengths`: entry (r, (u, c)) of δ Wᵀ added at S i + F u − P, dropped in the padding."""
    *kernel, channels_in, _ = weight.shape
    columns = jnp.matmul(delta, rows(weight).T, preferred_element_type=accumulation_dtype(delta.dtype))
    columns = columns.reshape(*delta.shape[:-1], math.prod(kernel), channels_in)  # -1 fails without rows
    total = jnp.zeros((), columns.dtype)
    for place, u in enumerate(itertools.product(*map(range, kernel))):
        spread = []
        for n, i, v, s, f, (low, _) in zip(
            lengths, delta.shape[1:-1], u, geometry.stride, geometry.kernel_dilation, geometry.pads
        ):
            first = f * v - low
            spread.append((first, n - first - (i - 1) * s - 1, s - 1))
        total = total + lax.pad(columns[..., place, :], jnp.zeros((), columns.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return total.astype(delta.dtype)


def _patches(x: Array, kernel: tuple[int, ...], geometry) -> Array:
    """P as (n, *positions, kernel size × channels)."""
    n, *lengths, channels = x.shape
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in geometry.pads), (0, 0, 0)]
    )
    slices = []
    for u in itertools.product(*map(range, kernel)):
        start = [f * v for f, v in zip(geometry.kernel_dilation, u)]
        limit = [m - f * (k - 1 - v) for m, f, k, v in zip(padded.shape[1:-1], geometry.kernel_dilation, kernel, u)]
        slices.append(lax.slice(padded, (0, *start, 0), (n, *limit, channels), (1, *geometry.stride, 1)))
    return jnp.concatenate(slices, axis=-1)
