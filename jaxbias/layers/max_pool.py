"""Max pooling over windows of the spatial axes, channels last; no params.

Input x (n, *spatial, channels), output z (n, *positions, channels). Window i starts at S i − P for stride S and low
padding P and reads every D-th entry (dilation); windows overlap where the stride is shorter than the window.

Forward     z[n,i,c] = max_u x[n, S i + D u − P, c]
Backward    ∂L/∂x[n,p,c] = Σ_i δ[n,i,c] [p is the place where window i has its maximum]               (5)

Ties: the whole of δ goes to the first maximum in the order of the window (last spatial axis fastest), as in
`lax.reduce_window` and PyTorch. The maximum does not exist as a derivative there; this is the value chosen.
Padding, and what a last window of ceil_mode reads behind it, counts as −∞ and never wins, not even where every entry of
a window is −∞: the first entry then takes δ.
A NaN in a window makes its output NaN.

The maximum of a window is the maximum over its rows of their maxima, so the axes are pooled one after another, the last
first; each keeps the place of its winner. This also finds the first of several equal maxima. Where no two windows
overlap, the places found so far go along, and one number per window says where its maximum is: backward is one pass
that asks of every entry whether it is the one. An entry may win several overlapping windows; backward then goes back
axis by axis. The places of a short window are written out, which compiles to one pass; those of a long one are a loop,
so that the program does not grow.

Source: derivation sheet (5), ∂z/∂x being 1 at the winner and 0 elsewhere; ties as in torch.nn.MaxPool2d.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbias._doors import check_delta, check_float, check_no_params
from jaxbias.derivation import Derivation, Example
from jaxbias.layers._windows import (
    Padding,
    Window,
    check_pool,
    covering_windows,
    join_blocks,
    pad_axis,
    pooled_shape,
    pooling_windows,
    window_slices,
)
from jaxbias.params import Layer, Static

WRITTEN_OUT = 4
"""Longest window whose places are written out; from 5 on the loop is faster where windows overlap, on CPU."""


class Residuals(NamedTuple):
    # place of the maximum: one array per spatial axis, the last first, or one for all axes where no windows overlap
    winners: tuple[Int[Array, "..."], ...]
    x_shape: Static


def forward(
    params: tuple[()],
    x: Float[Array, "n *spatial channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> tuple[Float[Array, "n *positions channels"], Residuals]:
    """The largest entry of each window.

    Args:
        params: the empty tuple.
        window: length of the window, an int or one per spatial axis.
        stride: the same; None is the window itself, so that windows touch.
        padding: "VALID", "SAME", "CAUSAL", an int, or (low, high) pairs.
        dilation: distance of the entries that a window reads, an int or one per spatial axis.
        ceil_mode: whether one more window, which does not fit, follows where it begins in the input.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, a window is larger than the padded
            input, or the padding is negative or not smaller than the window.
    """
    check_no_params(params, "max_pool.forward")
    check_float(x, "max_pool.forward")
    axes = _last_axis_first(x.shape, window, stride, padding, dilation, ceil_mode)
    if _overlap(axes):
        z, winners = x, []
        for axis, move in axes:
            padded = pad_axis(z, axis, move.low, move.high + move.beyond, -jnp.inf)
            start = jnp.zeros(padded.shape, _place_dtype(max(move.span, move.stride)))
            # computed once: else each of the overlapping windows of the next axis computes its part again
            z, winner = lax.optimization_barrier(_pool(padded, start, axis, move))
            winners.append(winner)
        return z, Residuals(tuple(winners), Static(x.shape))
    z, winner, unit = x, jnp.zeros(x.shape, _place_dtype(math.prod(move.stride for _, move in axes))), 1
    for axis, move in axes:
        padded = pad_axis(z, axis, move.low, move.high + move.beyond, -jnp.inf)
        z, winner = _pool(padded, _pad_with_edge(winner, axis, move), axis, move, unit)
        unit *= move.stride
    return z, Residuals((winner,), Static(x.shape))


def backward(
    residuals: Residuals,
    delta: Float[Array, "n *positions channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> tuple[tuple[()], Float[Array, "n *spatial channels"]]:
    """No grads; ∂L/∂x collects the δ of every window whose maximum it is; the keywords are those of forward.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x_shape, winners = residuals.x_shape.value, residuals.winners
    axes = _last_axis_first(x_shape, window, stride, padding, dilation, ceil_mode)
    delta = check_delta(delta, pooled_shape(x_shape, [move for _, move in axes[::-1]]), "max_pool.backward")
    if not _overlap(axes):
        return (), _at_winners(winners[0], delta, axes, x_shape)
    for (axis, move), winner in zip(reversed(axes), reversed(winners)):
        span, s, low = move.span, move.stride, move.low
        length = move.padded(x_shape[axis])
        if span > max(WRITTEN_OUT, s):
            padded = _add_winners(winner, delta, axis, move, length)
            delta = pad_axis(padded, axis, -low, -(move.high + move.beyond))
            continue
        delta = lax.optimization_barrier(delta)
        seen = zip(covering_windows(winner, axis, span, s, length), covering_windows(delta, axis, span, s, length))
        shares = [jnp.where(won == place.astype(won.dtype), share, 0) for (place, won), (_, share) in seen]
        delta = join_blocks(sum(shares[1:], shares[0]), axis, low, x_shape[axis])
    return (), delta


def _overlap(axes) -> bool:
    """Whether an entry can be seen by two windows."""
    return any(move.span > move.stride for _, move in axes)


def _place_dtype(places: int) -> Any:
    return jnp.int8 if places <= 128 else jnp.int32


def _last_axis_first(x_shape, window, stride, padding, dilation, ceil_mode) -> list[tuple[int, Window]]:
    windows = pooling_windows(x_shape, window, stride, padding, dilation, ceil_mode, "max_pool")
    return list(enumerate(windows, start=1))[::-1]


def _pool(x: Array, inner: Array, axis: int, window: Window, unit: int = 1) -> tuple[Array, Array]:
    """Maximum along one axis, and its place: u·unit for place u of the window, plus what `inner` holds there.

    The strict > keeps the first of equal ones.
    """
    stride = window.stride
    positions = (x.shape[axis] - window.span) // stride + 1

    def better_of(best, other, u):
        (z, winner), (entry, place) = best, other
        return jnp.maximum(z, entry), jnp.where(entry > z, place + jnp.asarray(u * unit, place.dtype), winner)

    def at_start(z, place):
        if window.low == 0:
            return z, place
        shape = [1] * z.ndim
        shape[axis] = positions
        first = _first_inside(window, np.arange(positions))
        return z, place + jnp.asarray(unit * first.reshape(shape), place.dtype)

    if window.entries <= WRITTEN_OUT:
        first, *others = zip(window_slices(x, axis, window), window_slices(inner, axis, window))
        best = at_start(*first)
        for i, other in enumerate(others, start=1):
            best = better_of(best, other, window.dilation * i)
        return best

    def entry(u):
        length = (positions - 1) * stride + 1
        slices = (lax.dynamic_slice_in_dim(array, u, length, axis) for array in (x, inner))
        z, place = (lax.slice_in_dim(array, 0, None, stride, axis) for array in slices)
        return z, place

    def next_best(i, best):
        return better_of(best, entry(window.dilation * i), window.dilation * i)

    return lax.fori_loop(1, window.entries, next_best, at_start(*entry(0)))


def _first_inside(window: Window, i: Any) -> Any:
    """The first place behind the padding that window i reads."""
    return window.dilation * -(np.minimum(window.stride * i - window.low, 0) // window.dilation)


def _pad_with_edge(x: Array, axis: int, window: Window) -> Array:
    """Copies of the first entry that window 0 reads before x, so that a window of −∞ alone gives its δ to that one."""
    at = int(_first_inside(window, 0)) - window.low
    first = lax.slice_in_dim(x, at, at + 1, axis=axis)
    return pad_axis(jnp.concatenate([first] * window.low + [x], axis), axis, 0, window.high + window.beyond)


def _at_winners(winner: Array, delta: Array, axes, x_shape: tuple[int, ...]) -> Array:
    """Each δ at the place of its window's maximum, 0 elsewhere; every spatial axis is made two, (blocks, stride)."""
    winner = lax.optimization_barrier(winner)  # computed once: else every entry of a window computes it again
    for axis, move in axes:  # the last first, so that the axes still to come keep their numbers
        length = move.padded(x_shape[axis])
        ((_, winner),) = covering_windows(winner, axis, move.span, move.stride, length)
        ((_, delta),) = covering_windows(delta, axis, move.span, move.stride, length)
    strides = [move.stride for _, move in reversed(axes)]
    place = jnp.arange(math.prod(strides), dtype=winner.dtype)
    place = place.reshape(1, *(n for s in strides for n in (1, s)), *[1] * (winner.ndim - 1 - 2 * len(strides)))
    delta = jnp.where(winner == place, delta, 0)
    for axis, move in reversed(axes):
        delta = join_blocks(delta, axis, move.low, x_shape[axis])
    return delta


def _add_winners(winner: Array, delta: Array, axis: int, window: Window, length: int) -> Array:
    """Each δ[i] added at place stride·i + winner[i] of an axis of `length` entries, one place of the window at a time.

    The axis is folded into (blocks, stride): place u of window i lies in block i + u // stride at u mod stride.
    """
    positions, stride = delta.shape[axis], window.stride
    blocks = max(positions + (window.span - 1) // stride, -(-length // stride))
    total = jnp.zeros((*delta.shape[:axis], blocks, stride, *delta.shape[axis + 1 :]), delta.dtype)
    seen_shape = (*delta.shape[:axis], positions, 1, *delta.shape[axis + 1 :])

    def add(i, total):
        u = window.dilation * i
        start = [0] * total.ndim
        start[axis], start[axis + 1] = u // stride, u % stride
        share = jnp.where(winner == u.astype(winner.dtype), delta, 0).reshape(seen_shape)
        return lax.dynamic_update_slice(total, lax.dynamic_slice(total, start, seen_shape) + share, start)

    folded = lax.fori_loop(0, window.entries, add, total)
    shape = (*delta.shape[:axis], blocks * stride, *delta.shape[axis + 1 :])
    return lax.slice_in_dim(folded.reshape(shape), 0, length, axis=axis)


def layer(
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Layer[tuple[()]]:
    """Max pooling over windows of length `window`, by default side by side.

    Keywords as for `forward`.

    Raises:
        TypeError, ValueError: an entry of window, stride or dilation is no positive whole number, or ceil_mode neither
            True nor False.
    """
    check_pool(window, stride, dilation, ceil_mode, "max_pool.layer")

    def init(key, x):
        del key
        check_float(x, "max_pool.init")
        return ()

    keywords = {
        "window": window,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }
    return Layer(init, partial(forward, **keywords), partial(backward, **keywords), "max_pool")


DERIVATIONS = (
    Derivation(
        "max_pool",
        (
            r"z_{nic} = \max_u x_{n,\,Si+Du-P,\,c}",
            r"\partial L/\partial x_{npc} = \sum_i \delta_{nic}\,[\,p \text{ is the first maximum of window } i\,]",
        ),
        "equation (5)",
        (
            Example("2-D", layer(2), (2, 6, 4, 3)),
            Example("2-D, overlapping, padded", layer((3, 2), stride=(2, 1), padding=((1, 2), (0, 1))), (2, 5, 6, 3)),
            Example("2-D, same", layer(3, stride=2, padding="SAME"), (2, 6, 5, 3)),
            Example("2-D, gaps", layer((1, 2), stride=3), (2, 8, 7, 3)),
            Example("1-D, dilated, rounded up", layer(2, stride=2, padding=1, dilation=2, ceil_mode=True), (2, 8, 3)),
            Example("1-D, causal", layer(3, stride=1, padding="CAUSAL"), (2, 7, 3)),
            Example("3-D", layer(2, stride=1), (2, 3, 4, 3, 2)),
            Example("1-D, long", layer(10, stride=3, padding=((2, 4),)), (2, 13, 3)),
            Example("no rows", layer(2), (0, 4, 4, 2)),
        ),
    ),
)
