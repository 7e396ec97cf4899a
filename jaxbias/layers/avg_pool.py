"""Average pooling over windows of the spatial axes, channels last; no params.

Input x (n, *spatial, channels), output z (n, *positions, channels). Window i starts at S i − P for stride S and low
padding P; windows overlap where the stride is shorter than the window.

Forward     z[n,i,c] = (1/m[i]) Σ_u x[n, S i + u − P, c]
            m[i] is the size of the window, or with count_include_pad=False the number of its entries inside x
Backward    ∂L/∂x[n,p,c] = Σ_{i,u: S i + u − P = p} δ[n,i,c] / m[i]                                   (5)

Padding counts as 0 and, as in PyTorch and Flax, as an entry of the window; Keras leaves it out of the mean, which is
count_include_pad=False. Sums are accumulated in at least float32, one axis after another.

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
    count_include_pad: bool = True,
) -> tuple[Float[Array, "n *positions channels"], Static]:
    """The mean of each window.

    Args:
        params: the empty tuple.
        window: length of the window, an int or one per spatial axis.
        stride: the same; None is the window itself, so that windows touch.
        padding: "VALID", "SAME", "CAUSAL", an int, or (low, high) pairs.
        count_include_pad: whether padding counts as entries of the window.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, a window is larger than the padded
            input, or the padding is negative or not smaller than the window.
    """
    check_no_params(params, "avg_pool.forward")
    check_float(x, "avg_pool.forward")
    z = widen(x)
    for axis, (w, s, low, high) in enumerate(pooling_windows(x.shape, window, stride, padding, "avg_pool"), start=1):
        total = sum(window_slices(pad_axis(z, axis, low, high), axis, w, s))
        z = total / _entries(x.shape, axis, w, s, low, high, count_include_pad).astype(z.dtype)
    return z.astype(x.dtype), Static(x.shape)


def backward(
    residuals: Static,
    delta: Float[Array, "n *positions channels"],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> tuple[tuple[()], Float[Array, "n *spatial channels"]]:
    """No grads; ∂L/∂x collects δ/m of every window it lies in; the keywords are those of forward.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x_shape = residuals.value
    windows = pooling_windows(x_shape, window, stride, padding, "avg_pool")
    delta = check_delta(delta, pooled_shape(x_shape, windows), "avg_pool.backward")
    delta_x = widen(delta)
    for axis, (w, s, low, high) in enumerate(windows, start=1):
        share = delta_x / _entries(x_shape, axis, w, s, low, high, count_include_pad).astype(delta_x.dtype)
        seen = covering_windows(share, axis, w, s, low + x_shape[axis] + high)
        shares = [jnp.where(place < w, each, 0) for place, each in seen]
        delta_x = join_blocks(sum(shares[1:], shares[0]), axis, low, x_shape[axis])
    return (), delta_x.astype(delta.dtype)


def _entries(x_shape, axis, window, stride, low, high, count_include_pad) -> Array:
    """Length of each window along `axis`, shaped to broadcast against z; its product over the axes is m."""
    inside = jnp.ones((x_shape[axis],), jnp.float32)
    counted = pad_axis(inside, 0, low, high, 1.0 if count_include_pad else 0.0)
    lengths = sum(window_slices(counted, 0, window, stride))
    return jnp.expand_dims(lengths, [i for i in range(len(x_shape)) if i != axis])


def layer(
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Layer[tuple[()]]:
    """Average pooling over windows of length `window`, by default side by side.

    Keywords as for `forward`.

    Raises:
        TypeError, ValueError: an entry of window or stride is no positive whole number.
    """
    check_pool(window, stride, "avg_pool.layer")

    def init(key, x):
        del key
        check_float(x, "avg_pool.init")
        return ()

    keywords = {"window": window, "stride": stride, "padding": padding, "count_include_pad": count_include_pad}
    return Layer(init, partial(forward, **keywords), partial(backward, **keywords), "avg_pool")


DERIVATIONS = (
    Derivation(
        "avg_pool",
        (
            r"z_{nic} = \frac{1}{m_i} \sum_u x_{n,\,Si+u-P,\,c}",
            r"\partial L/\partial x_{npc} = \sum_{i,u:\,Si+u-P=p} \delta_{nic} / m_i",
        ),
        "equation (5)",
        (
            Example("2-D", layer(2), (2, 6, 4, 3)),
            Example("2-D, overlapping, padded", layer((3, 2), stride=(2, 1), padding=((1, 2), (0, 1))), (2, 5, 6, 3)),
            Example("2-D, same, without padding", layer(3, padding="SAME", count_include_pad=False), (2, 5, 4, 3)),
            Example("1-D, gaps", layer(2, stride=3), (2, 7, 3)),
            Example("3-D", layer(2, stride=1), (2, 3, 4, 3, 2)),
            Example("no rows", layer(2), (0, 4, 4, 2)),
        ),
    ),
)
