"""Max pooling over windows of the spatial axes, channels last; no params.

Input x (n, *spatial, channels), output z (n, *positions, channels). Window i starts at S i − P for stride S and low
padding P; windows overlap where the stride is shorter than the window.

Forward     z[n,i,c] = max_u x[n, S i + u − P, c]
Backward    ∂L/∂x[n,p,c] = Σ_i δ[n,i,c] [p is the place where window i has its maximum]               (5)

Ties: the whole of δ goes to the first maximum in the order of the window (last spatial axis fastest), as in
`lax.reduce_window` and PyTorch. The maximum does not exist as a derivative there; this is the value chosen.
Padding counts as −∞ and never wins. A NaN in a window makes its output NaN.

The maximum of a window is the maximum over its rows of their maxima, so the axes are pooled one after another, the last
first; each keeps the place of its winner. This also finds the first of several equal maxima.

Source: derivation sheet (5), ∂z/∂x being 1 at the winner and 0 elsewhere; ties as in torch.nn.MaxPool2d.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxbias._numerics import check_float
from jaxbias.derivation import Derivation, Example
from jaxbias.layers._windows import Padding, add_windows, pad_axis, pooling_windows, window_slices
from jaxbias.params import Layer, Static


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
        z, winner = _pool(pad_axis(z, axis, low, high, -jnp.inf), axis, w, s)
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
        shares = [jnp.where(winner == u, delta, 0) for u in range(w)]
        padded = add_windows(shares, axis, s, x_shape[axis] + low + high)
        delta = pad_axis(padded, axis, -low, -high)
    return (), delta


def _last_axis_first(x_shape, window, stride, padding):
    windows = pooling_windows(x_shape, window, stride, padding, "max_pool")
    return list(enumerate(windows, start=1))[::-1]


def _pool(x: Array, axis: int, window: int, stride: int) -> tuple[Array, Array]:
    """Maximum along one axis, and its place in the window; the strict > keeps the first of equal ones."""
    first, *others = window_slices(x, axis, window, stride)
    winner = jnp.zeros(first.shape, jnp.int8 if window <= 128 else jnp.int32)
    for u, other in enumerate(others, start=1):
        winner = jnp.where(other > first, jnp.asarray(u, winner.dtype), winner)
        first = jnp.maximum(first, other)
    return first, winner


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
            Example("no rows", layer(2), (0, 4, 4, 2)),
        ),
    ),
)
