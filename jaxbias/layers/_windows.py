"""How a window moves over the spatial axes of an image: strides, dilations and padding, one entry per axis."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxbias._doors import check_size, describe

PADDINGS = ("SAME", "VALID", "CAUSAL")

Padding = str | int | Sequence[tuple[int, int]]
"""The name of a rule, the zeros on every side, or one pair (low, high) per spatial axis; negative padding crops."""


def check_lengths(value: int | Sequence[int], function: str, argument: str, least: int = 1) -> None:
    """Raise unless value is a whole number of at least `least`, or a sequence of them.

    Raises:
        TypeError: another kind.
        ValueError: a smaller number.
    """
    for entry in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
        check_size(entry, function, argument, least)


def per_axis(
    value: int | Sequence[int],
    axes: int,
    function: str,
    argument: str,
    x_shape: tuple[int, ...] | None = None,
    *,
    least: int = 1,
) -> tuple[int, ...]:
    """One int per spatial axis, from an int for all of them or from a sequence.

    Args:
        x_shape: of the input, for the message: an image without a batch axis has one spatial axis less.

    Raises:
        TypeError: an entry that is no whole number.
        ValueError: another length, or an entry below `least`.
    """
    check_lengths(value, function, argument, least)
    values = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),) * axes
    if len(values) != axes:
        hint = "" if x_shape is None else f" (x has shape {x_shape}; a single image needs a batch axis: x[None])"
        raise ValueError(
            f"{function}: {argument} must be an int or have one entry for each of the {axes} spatial axes, got "
            f"{value}{hint}."
        )
    return values


def spatial_axes(x_shape: tuple[int, ...], function: str) -> int:
    """How many spatial axes x (n, *spatial, channels) has; a ValueError where there is none."""
    if len(x_shape) < 3:
        raise ValueError(
            f"{function}: x must be (n, *spatial, channels) with at least one spatial axis, got shape {x_shape}. A "
            f"single image needs a batch axis: x[None]."
        )
    return len(x_shape) - 2


def dilated(length: int, dilation: int) -> int:
    """Length of an axis with dilation − 1 zeros between neighbours."""
    return max((length - 1) * dilation + 1, 0)


def resolve_padding(
    padding: Padding, lengths: Sequence[int], windows: Sequence[int], stride: Sequence[int], function: str
) -> tuple[tuple[int, int], ...]:
    """(low, high) per spatial axis.

    SAME    ceil(length / stride) window positions; an odd total puts the extra zero at the end
    VALID   no padding
    CAUSAL  (1-D) window − 1 zeros at the start, so that no output sees a later input

    Args:
        lengths, windows: of input and window per axis, both already dilated.

    Raises:
        ValueError: an unknown name, CAUSAL on more than one axis, or another number of pairs.
    """
    axes = len(lengths)
    if isinstance(padding, bool) or not isinstance(padding, str | int | Sequence):
        raise TypeError(
            f"{function}: padding must be one of {', '.join(PADDINGS)}, an int or (low, high) pairs, got "
            f"{describe(padding)}."
        )
    if isinstance(padding, int):
        return ((padding, padding),) * axes
    if not isinstance(padding, str):
        pads: list[tuple[int, ...]] = [tuple(pair) if isinstance(pair, Sequence) else () for pair in padding]
        if len(pads) != axes or any(len(pair) != 2 or not all(isinstance(p, int) for p in pair) for pair in pads):
            raise ValueError(
                f"{function}: padding must hold one (low, high) pair of ints for each of the {axes} spatial axes, "
                f"got {padding}."
            )
        return tuple((pair[0], pair[1]) for pair in pads)
    if padding not in PADDINGS:
        raise ValueError(
            f"{function}: padding must be one of {', '.join(PADDINGS)}, an int or (low, high) pairs, got {padding!r}."
        )
    if padding == "VALID":
        return ((0, 0),) * axes
    if padding == "CAUSAL":
        if axes != 1:
            raise ValueError(
                f"{function}: CAUSAL padding needs exactly one spatial axis (time), got {axes}. "
                f"Use SAME or explicit (low, high) pairs."
            )
        return ((windows[0] - 1, 0),)
    totals = [max((-(-n // s) - 1) * s + w - n, 0) for n, w, s in zip(lengths, windows, stride)]
    return tuple((total // 2, total - total // 2) for total in totals)


class Window(NamedTuple):
    """How a pooling window moves along one axis: window i reads places stride·i + dilation·u, u = 0 … entries − 1.

    Attributes:
        low, high: padding before and after the axis.
        beyond: what a last window that does not fit reads behind the padding; no part of any mean.
    """

    entries: int
    stride: int
    dilation: int
    low: int
    high: int
    beyond: int

    @property
    def span(self) -> int:
        """From its first place to its last."""
        return dilated(self.entries, self.dilation)

    def padded(self, length: int) -> int:
        """What an axis of this length becomes for the windows."""
        return self.low + length + self.high + self.beyond

    def positions(self, length: int) -> int:
        """How many windows there are on an axis of this length."""
        return (self.padded(length) - self.span) // self.stride + 1


def pooling_windows(
    x_shape: tuple[int, ...],
    window: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: Padding,
    dilation: int | Sequence[int],
    ceil_mode: bool,
    name: str,
) -> tuple[Window, ...]:
    """The window of each spatial axis of x (n, *spatial, channels), checked; `name` is the layer's.

    Raises:
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, a window is larger than the padded
            input or could lie in the padding alone.
    """
    function = f"{name}.forward"
    axes = spatial_axes(x_shape, function)
    windows = per_axis(window, axes, function, "window", x_shape)
    strides = windows if stride is None else per_axis(stride, axes, function, "stride", x_shape)
    dilations = per_axis(dilation, axes, function, "dilation", x_shape)
    spans = tuple(dilated(w, d) for w, d in zip(windows, dilations))
    pads = resolve_padding(padding, x_shape[1:-1], spans, strides, function)
    moves = tuple(
        Window(w, s, d, pair[0], pair[1], _beyond(n, span, s, pair) if ceil_mode else 0)
        for n, w, s, d, span, pair in zip(x_shape[1:-1], windows, strides, dilations, spans, pads)
    )
    check_window_fits(x_shape[1:-1], spans, pads, function, "window", x_shape)
    if any(not 0 <= p < span for span, pair in zip(spans, pads) for p in pair) or not all(
        _sees_input(move, n) for move, n in zip(moves, x_shape[1:-1])
    ):
        raise ValueError(
            f"{function}: padding must be at least 0 and smaller than the window, so that no window sees padding only; "
            f"got padding {pads} for window {windows}" + (f", dilated to {spans}." if spans != windows else ".")
        )
    return moves


def _beyond(length: int, span: int, stride: int, pads: tuple[int, int]) -> int:
    """What one more window needs behind the padding; 0 where none begins in the input, as in PyTorch's ceil_mode."""
    low, high = pads
    more = -(-(low + length + high - span) // stride)  # windows after the first one, rounded up
    return max(more * stride + span - (low + length + high), 0) if more * stride < low + length else 0


def _sees_input(window: Window, length: int) -> bool:
    """Whether every window reads an entry of the input: not so where its places jump over a short one."""
    if window.dilation == 1 or length == 0:
        return True
    starts = window.stride * np.arange(window.positions(length)) - window.low
    places = starts[:, None] + window.dilation * np.arange(window.entries)
    return bool(((places >= 0) & (places < length)).any(axis=1).all())


def pooled_shape(x_shape: tuple[int, ...], windows: Sequence[Window]) -> tuple[int, ...]:
    """Shape of the pooled x (n, *spatial, channels); windows as `pooling_windows` gives them."""
    positions = (window.positions(n) for n, window in zip(x_shape[1:-1], windows))
    return (x_shape[0], *positions, x_shape[-1])


def check_pool(
    window: int | Sequence[int],
    stride: int | Sequence[int] | None,
    dilation: int | Sequence[int],
    ceil_mode: bool,
    function: str,
) -> None:
    """What can be said of a pooling layer's keywords before there is an input: whole numbers of at least 1."""
    check_lengths(window, function, "window")
    if stride is not None:
        check_lengths(stride, function, "stride")
    check_lengths(dilation, function, "dilation")
    if not isinstance(ceil_mode, bool):
        raise TypeError(f"{function}: ceil_mode must be True or False, got {describe(ceil_mode)}.")


def check_window_fits(
    lengths: Sequence[int],
    windows: Sequence[int],
    pads: Sequence[tuple[int, int]],
    function: str,
    argument: str,
    x_shape: tuple[int, ...],
) -> None:
    """Raise a ValueError where a window is longer than the padded input."""
    padded = tuple(n + low + high for n, (low, high) in zip(lengths, pads))
    if any(w > p for w, p in zip(windows, padded)):
        raise ValueError(
            f"{function}: {argument} of spatial size {tuple(windows)} (dilated) is larger than the padded input "
            f"{padded} (x has shape {x_shape}, padding {tuple(pads)}). Pad more or use a smaller {argument}."
        )


# --- one axis at a time: what the windows read, and the transpose of reading ------------------------------------------


def window_slices(x: Array, axis: int, window: Window) -> list[Array]:
    """x[u], x[u + stride], … along the padded `axis` for each place u that a window reads: entry i is window i's."""
    last = (x.shape[axis] - window.span) // window.stride * window.stride
    places = range(0, window.span, window.dilation)
    return [lax.slice_in_dim(x, u, u + last + 1, window.stride, axis) for u in places]


def covering_windows(x: Array, axis: int, window: int, stride: int, length: int) -> list[tuple[Array, Array]]:
    """The transpose of reading: which windows see each place of an axis of `length` entries, and where in them.

    `window` is the span of one, its first place to its last, whether it reads those between or not.

    The axis of x, one entry per window, becomes two, (blocks, stride): place stride·m + r is entry (m, r). It is seen
    by window m − k at that window's place u = stride·k + r, for each k with u < window; a window that does not exist
    holds 0. Written as a broadcast, it joins what follows in one loop, with no scatter and no copy (both slow on CPU).

    Returns:
        for each k the pair (u, x of window m − k), both in the shape of x with the axis made two.
    """
    blocks, positions = -(-length // stride), x.shape[axis]
    shape = (*x.shape[:axis], blocks, stride, *x.shape[axis + 1 :])
    remainder = lax.broadcasted_iota(jnp.int32, shape, axis + 1)
    seen = []
    for k in range(-(-window // stride)):
        shifted = pad_axis(x, axis, k, blocks - k - positions)
        seen.append((stride * k + remainder, jnp.broadcast_to(jnp.expand_dims(shifted, axis + 1), shape)))
    return seen


def join_blocks(x: Array, axis: int, low: int, length: int) -> Array:
    """The two axes (blocks, stride) made one again, and `length` entries of it from `low` on; 0 where it ends."""
    whole = x.shape[axis] * x.shape[axis + 1]
    joined = x.reshape(*x.shape[:axis], whole, *x.shape[axis + 2 :])
    return pad_axis(joined, axis, -low, low + length - whole)


def pad_axis(x: Array, axis: int, low: int, high: int, value: float = 0.0) -> Array:
    """x with `low` and `high` more entries of `value` along `axis`; negative numbers crop."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (low, high, 0)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)
