"""Average pooling over windows of the spatial axes, channels last; no params.

Input x (n, *spatial, channels), output z (n, *positions, channels). Window i starts at S i − P for stride S and low
padding P and reads every D-th entry (dilation); windows overlap where the stride is shorter than the window.

Forward     z[n,i,c] = (1/m[i]) Σ_u x[n, S i + D u − P, c]
            m[i] is the size of the window, or with count_include_pad=False the number of its entries inside x
Backward    ∂L/∂x[n,p,c] = Σ_{i,u: S i + D u − P = p} δ[n,i,c] / m[i]                                 (5)

Padding counts as 0 and, as in PyTorch and Flax, as an entry of the window; Keras leaves it out of the mean, which is
count_include_pad=False. What a last window of ceil_mode reads behind the padding is no entry in either case. Sums
are accumulated in at least float32, one axis after another.

Source: derivation sheet (5) with ∂z/∂x = 1/m; m as in torch.nn.AvgPool2d.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_no_params
from jaxbias._numerics import widen
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


def forward(
    params: tuple[()],
    x: Float[Array, "n *spatial channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Float[Array, "n *positions channels"], Static]:
    """The mean of each window.

    Args:
        params: the empty tuple.
        window: length of the window, an int or one per spatial axis.
        stride: the same; None is the window itself, so that windows touch.
        padding: "VALID", "SAME", "CAUSAL", an int, or (low, high) pairs.
        dilation: distance of the entries that a window reads, an int or one per spatial axis.
        ceil_mode: whether one more window, which does not fit, follows where it begins in the input.
        count_include_pad: whether padding counts as entries of the window.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, a window is larger than the padded
            input, or the padding is negative or not smaller than the window.
    """
    check_no_params(params, "avg_pool.forward")
    check_float(x, "avg_pool.forward")
    z = widen(x)
    windows = pooling_windows(x.shape, window, stride, padding, dilation, ceil_mode, "avg_pool")
    for axis, move in enumerate(windows, start=1):
        total = sum(window_slices(pad_axis(z, axis, move.low, move.high + move.beyond), axis, move))
        z = total / _entries(x.shape, axis, move, count_include_pad).astype(z.dtype)
    return z.astype(x.dtype), Static(x.shape)


def backward(
    residuals: Static,
    delta: Float[Array, "n *positions channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[tuple[()], Float[Array, "n *spatial channels"]]:
    """No grads; ∂L/∂x collects δ/m of every window it lies in; the keywords are those of forward.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x_shape = residuals.value
    windows = pooling_windows(x_shape, window, stride, padding, dilation, ceil_mode, "avg_pool")
    delta = check_delta(delta, pooled_shape(x_shape, windows), "avg_pool.backward")
    delta_x = widen(delta)
    for axis, move in enumerate(windows, start=1):
        share = delta_x / _entries(x_shape, axis, move, count_include_pad).astype(delta_x.dtype)
        seen = covering_windows(share, axis, move.span, move.stride, move.padded(x_shape[axis]))
        shares = [jnp.where(_reads(move, place), of_window, 0) for place, of_window in seen]
        delta_x = join_blocks(sum(shares[1:], shares[0]), axis, move.low, x_shape[axis])
    return (), delta_x.astype(delta.dtype)


def _reads(window: Window, place: Array) -> Array:
    """Whether a window reads this place of it."""
    inside = place < window.span
    return inside if window.dilation == 1 else inside & (place % window.dilation == 0)


def _entries(x_shape: tuple[int, ...], axis: int, window: Window, count_include_pad: bool) -> Array:
    """Length of each window along `axis`, shaped to broadcast against z; its product over the axes is m."""
    inside = jnp.ones((x_shape[axis],), jnp.float32)
    counted = pad_axis(inside, 0, window.low, window.high, 1.0 if count_include_pad else 0.0)
    lengths = sum(window_slices(pad_axis(counted, 0, 0, window.beyond), 0, window))
    return jnp.expand_dims(lengths, [i for i in range(len(x_shape)) if i != axis])


def layer(
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Layer[tuple[()]]:
    """Average pooling over windows of length `window`, by default side by side.

    Keywords as for `forward`.

    Raises:
        TypeError, ValueError: an entry of window, stride or dilation is no positive whole number, or ceil_mode neither
            True nor False.
    """
    check_pool(window, stride, dilation, ceil_mode, "avg_pool.layer")

    def init(key, x):
        del key
        check_float(x, "avg_pool.init")
        return ()

    keywords = {
        "window": window,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
        "count_include_pad": count_include_pad,
    }
    return Layer(init, partial(forward, **keywords), partial(backward, **keywords), "avg_pool")


DERIVATIONS = (
    Derivation(
        "avg_pool",
        (
            r"z_{nic} = \frac{1}{m_i} \sum_u x_{n,\,Si+Du-P,\,c}",
            r"\partial L/\partial x_{npc} = \sum_{i,u:\,Si+Du-P=p} \delta_{nic} / m_i",
        ),
        "equation (5)",
        (
            Example("2-D", layer(2), (2, 6, 4, 3)),
            Example("2-D, overlapping, padded", layer((3, 2), stride=(2, 1), padding=((1, 2), (0, 1))), (2, 5, 6, 3)),
            Example("2-D, same, without padding", layer(3, padding="SAME", count_include_pad=False), (2, 5, 4, 3)),
            Example("1-D, dilated, rounded up", layer(2, stride=3, padding=1, dilation=2, ceil_mode=True), (2, 6, 3)),
            Example("1-D, gaps", layer(2, stride=3), (2, 7, 3)),
            Example("3-D", layer(2, stride=1), (2, 3, 4, 3, 2)),
            Example("no rows", layer(2), (0, 4, 4, 2)),
        ),
    ),
)
