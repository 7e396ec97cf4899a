"""The windows of an image as rows of a matrix, and a convolution as one product with it: (5.1) as (5), (8) and (10).

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
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxbias._numerics import accumulation_dtype, matmul, rows, widen
from jaxbias.layers._windows import (
    Padding,
    check_lengths,
    check_window_fits,
    dilated,
    per_axis,
    resolve_padding,
    spatial_axes,
)

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


@runtime_checkable
class Geometry(Protocol):
    """How a window moves over an image, one entry per spatial axis; pads are (low, high)."""

    @property
    def stride(self) -> tuple[int, ...]: ...

    @property
    def pads(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def kernel_dilation(self) -> tuple[int, ...]: ...


class Moves(NamedTuple):
    """A window on an image of these lengths: `Geometry`, and how many positions there are."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    kernel_dilation: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(
            (n + sum(pair) - dilated(k, f)) // s + 1
            for n, k, s, pair, f in zip(self.lengths, self.window, self.stride, self.pads, self.kernel_dilation)
        )


def moves(
    x_shape: tuple[int, ...],
    window: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    function: str,
) -> Moves:
    """The window on x (n, *spatial, channels), checked.

    Raises:
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, or the window is larger than the
            padded input.
    """
    axes = spatial_axes(x_shape, function)
    windows = per_axis(window, axes, function, "window", x_shape)
    strides = per_axis(stride, axes, function, "stride", x_shape)
    dilations = per_axis(dilation, axes, function, "dilation", x_shape)
    spans = tuple(dilated(w, d) for w, d in zip(windows, dilations))
    pads = resolve_padding(padding, x_shape[1:-1], spans, strides, function)
    check_window_fits(x_shape[1:-1], spans, pads, function, "window", x_shape)
    return Moves(windows, strides, pads, dilations, x_shape[1:-1])


def check_moves(
    window: int | Sequence[int], stride: int | Sequence[int], dilation: int | Sequence[int], function: str
) -> None:
    """What can be said of the keywords before there is an image: whole numbers of at least 1."""
    for argument, value in (("window", window), ("stride", stride), ("dilation", dilation)):
        check_lengths(value, function, argument)


def unfold(x: Array, kernel: tuple[int, ...], geometry: Geometry) -> Array:
    """P as (n, *positions, kernel size × channels)."""
    n, *_, channels = x.shape
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in geometry.pads), (0, 0, 0)]
    )
    slices = []
    for u in itertools.product(*map(range, kernel)):
        start = [f * v for f, v in zip(geometry.kernel_dilation, u)]
        limit = [m - f * (k - 1 - v) for m, f, k, v in zip(padded.shape[1:-1], geometry.kernel_dilation, kernel, u)]
        slices.append(lax.slice(padded, (0, *start, 0), (n, *limit, channels), (1, *geometry.stride, 1)))
    return jnp.concatenate(slices, axis=-1)


def fold(columns: Array, kernel: tuple[int, ...], lengths: tuple[int, ...], geometry: Geometry) -> Array:
    """The transpose of `unfold`: each entry added at the place it was read from, dropped in the padding.

    Args:
        columns: (n, *positions, kernel size × channels).
        lengths: of the spatial axes of what comes out, which is in at least float32.
    """
    n, *positions, width = columns.shape
    size = math.prod(kernel)
    columns = widen(columns).reshape(n, *positions, size, width // size)
    total = jnp.zeros((), columns.dtype)
    for place, u in enumerate(itertools.product(*map(range, kernel))):
        spread = []
        for length, i, v, s, f, (low, _) in zip(
            lengths, positions, u, geometry.stride, geometry.kernel_dilation, geometry.pads
        ):
            first = f * v - low
            spread.append((first, length - first - (i - 1) * s - 1, s - 1))
        total = total + lax.pad(columns[..., place, :], jnp.zeros((), columns.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return total


# --- a convolution as a product ---------------------------------------------------------------------------------------


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """z = P W, of shape (n, *positions, channels_out)."""
    return matmul(unfold(x, weight.shape[:-2], geometry), rows(weight))


def grad_weight(x: Array, delta: Array, kernel: tuple[int, ...], geometry: Geometry) -> Array:
    """∂L/∂W = Pᵀ δ, of shape (*kernel, channels_in, channels_out)."""
    patches = unfold(x, kernel, geometry)
    return matmul(rows(patches).T, rows(delta)).reshape(*kernel, x.shape[-1], delta.shape[-1])


def grad_input(delta: Array, weight: Array, lengths: tuple[int, ...], geometry: Geometry) -> Array:
    """∂L/∂x of spatial shape `lengths`: entry (r, (u, c)) of δ Wᵀ added at S i + F u − P, dropped in the padding."""
    columns = jnp.matmul(delta, rows(weight).T, preferred_element_type=accumulation_dtype(delta.dtype))
    return fold(columns, weight.shape[:-2], lengths, geometry).astype(delta.dtype)
