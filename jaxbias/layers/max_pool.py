"""Max pooling over windows of the spatial axes, channels last; no params.

Input x (n, *spatial, channels), output z (n, *positions, channels). Window i starts at S i − P for stride S and low
padding P; windows overlap where the stride is shorter than the window.

Forward     z[n,i,c] = max_u x[n, S i + u − P, c]
Backward    ∂L/∂x[n,p,c] = Σ_i δ[n,i,c] [p is the place where window i has its maximum]               (5)

Ties: the whole of δ goes to the first maximum in the order of the window (last spatial axis fastest), as in
`lax.reduce_window` and PyTorch. The maximum does not exist as a derivative there; this is the value chosen.
Padding counts as −∞ and never wins, not even where every entry of a window is −∞: the first entry then takes δ.
A NaN in a window makes its output NaN.

The maximum of a window is the maximum over its rows of their maxima, so the axes are pooled one after another, the last
first; each keeps the place of its winner. This also finds the first of several equal maxima. The places of a short
window are written out, which compiles to one pass; those of a long one are a loop, so that the program does not grow.

Source: derivation sheet (5), ∂z/∂x being 1 at the winner and 0 elsewhere; ties as in torch.nn.MaxPool2d.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbias._numerics import check_float
from jaxbias.derivation import Derivation, Example
from jaxbias.layers._windows import Padding, covering_windows, join_blocks, pad_axis, pooling_windows, window_slices
from jaxbias.params import Layer, Static

WRITTEN_OUT = 4
"""Longest window whose places are written out; from 5 on the loop is faster where windows overlap, on CPU."""


class Residuals(NamedTuple):
    winners: tuple[Int[Array, "..."], ...]  # one per spatial axis, the last first: place of the maximum in its window
    x_shape: Static


def forward(
    params: tuple[()],
    x: Float[Array, "n *spatial channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> tuple[Float[Array, "n *positions channels"], Residuals]:
    """The largest entry of each window.

    Args:
        params: the empty tuple.
        window: length of the window, an int or one per spatial axis.
        stride: the same; None is the window itself, so that windows touch.
        padding: "VALID", "SAME", "CAUSAL", an int, or (low, high) pairs.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, a window is larger than the padded
            input, or the padding is negative or not smaller than the window.
    """
    del params
    check_float(x, "max_pool.forward")
    z, winners = x, []
    for axis, (w, s, low, high) in _last_axis_first(x.shape, window, stride, padding):
        z, winner = _apart(w > s, _pool(pad_axis(z, axis, low, high, -jnp.inf), axis, w, s, low))
        winners.append(winner)
    return z, Residuals(tuple(winners), Static(x.shape))


def backward(
    residuals: Residuals,
    delta: Float[Array, "n *positions channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> tuple[tuple[()], Float[Array, "n *spatial channels"]]:
    """No grads; ∂L/∂x collects the δ of every window whose maximum it is; the keywords are those of forward."""
    x_shape = residuals.x_shape.value
    axes = _last_axis_first(x_shape, window, stride, padding)
    for (axis, (w, s, low, high)), winner in zip(reversed(axes), reversed(residuals.winners)):
        if w > max(WRITTEN_OUT, s):
            padded = _add_winners(winner, delta, axis, w, s, low + x_shape[axis] + high)
            delta = pad_axis(padded, axis, -low, -high)
            continue
        delta = _apart(w > s, delta)
        windows = (axis, w, s, low + x_shape[axis] + high)
        seen = zip(covering_windows(winner, *windows), covering_windows(delta, *windows))
        shares = [jnp.where(won == place.astype(won.dtype), share, 0) for (place, won), (_, share) in seen]
        delta = join_blocks(sum(shares[1:], shares[0]), axis, low, x_shape[axis])
    return (), delta


def _apart(overlapping: bool, arrays):
    """The arrays, computed once: else each of the overlapping windows of the next axis computes its part again."""
    return lax.optimization_barrier(arrays) if overlapping else arrays


def _last_axis_first(x_shape, window, stride, padding):
    windows = pooling_windows(x_shape, window, stride, padding, "max_pool")
    return list(enumerate(windows, start=1))[::-1]


def _pool(x: Array, axis: int, window: int, stride: int, low: int) -> tuple[Array, Array]:
    """Maximum along one axis, and its place in the window; the strict > keeps the first of equal ones."""
    positions = (x.shape[axis] - window) // stride + 1
    shape = (*x.shape[:axis], positions, *x.shape[axis + 1 :])
    dtype = jnp.int8 if max(window, stride) <= 128 else jnp.int32  # backward compares it with 0 … window + stride
    first_entry = jnp.zeros(shape, dtype)
    if low:  # the first place behind the padding
        first_entry = jnp.maximum(low - stride * lax.broadcasted_iota(jnp.int32, shape, axis), 0).astype(dtype)

    def better_of(best, other, u):
        z, winner = best
        return jnp.maximum(z, other), jnp.where(other > z, jnp.asarray(u, dtype), winner)

    if window <= WRITTEN_OUT:
        z, *others = window_slices(x, axis, window, stride)
        best = z, first_entry
        for u, other in enumerate(others, start=1):
            best = better_of(best, other, u)
        return best

    def entry(u):
        return lax.slice_in_dim(
            lax.dynamic_slice_in_dim(x, u, (positions - 1) * stride + 1, axis), 0, None, stride, axis
        )

    return lax.fori_loop(1, window, lambda u, best: better_of(best, entry(u), u), (entry(0), first_entry))


def _add_winners(winner: Array, delta: Array, axis: int, window: int, stride: int, length: int) -> Array:
    """Each δ[i] added at place stride·i + winner[i] of an axis of `length` entries, one place of the window at a time.

    The axis is folded into (blocks, stride): place u of window i lies in block i + u // stride at u mod stride.
    """
    positions = delta.shape[axis]
    blocks = max(positions + (window - 1) // stride, -(-length // stride))
    total = jnp.zeros((*delta.shape[:axis], blocks, stride, *delta.shape[axis + 1 :]), delta.dtype)
    seen_shape = (*delta.shape[:axis], positions, 1, *delta.shape[axis + 1 :])

    def add(u, total):
        start = [0] * total.ndim
        start[axis], start[axis + 1] = u // stride, u % stride
        share = jnp.where(winner == u.astype(winner.dtype), delta, 0).reshape(seen_shape)
        return lax.dynamic_update_slice(total, lax.dynamic_slice(total, start, seen_shape) + share, start)

    folded = lax.fori_loop(0, window, add, total)
    shape = (*delta.shape[:axis], blocks * stride, *delta.shape[axis + 1 :])
    return lax.slice_in_dim(folded.reshape(shape), 0, length, axis=axis)


def layer(
    window: int | Sequence[int], *, stride: int | Sequence[int] | None = None, padding: Padding = "VALID"
) -> Layer:
    """Max pooling over windows of length `window`, by default side by side."""

    def init(key, x):
        del key
        check_float(x, "max_pool.init")
        return ()

    keywords = {"window": window, "stride": stride, "padding": padding}
    return Layer(init, partial(forward, **keywords), partial(backward, **keywords), "max_pool")


DERIVATIONS = (
    Derivation(
        "max_pool",
        (
            r"z_{nic} = \max_u x_{n,\,Si+u-P,\,c}",
            r"\partial L/\partial x_{npc} = \sum_i \delta_{nic}\,[\,p \text{ is the first maximum of window } i\,]",
        ),
        "equation (5)",
        (
            Example("2-D", layer(2), (2, 6, 4, 3)),
            Example("2-D, overlapping, padded", layer((3, 2), stride=(2, 1), padding=((1, 2), (0, 1))), (2, 5, 6, 3)),
            Example("2-D, same", layer(3, stride=2, padding="SAME"), (2, 6, 5, 3)),
            Example("2-D, gaps", layer((1, 2), stride=3), (2, 8, 7, 3)),
            Example("1-D, causal", layer(3, stride=1, padding="CAUSAL"), (2, 7, 3)),
            Example("3-D", layer(2, stride=1), (2, 3, 4, 3, 2)),
            Example("1-D, long", layer(10, stride=3, padding=((2, 4),)), (2, 13, 3)),
            Example("no rows", layer(2), (0, 4, 4, 2)),
        ),
    ),
)
