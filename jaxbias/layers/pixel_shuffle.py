"""Pixel shuffle: channels become places, r·r of them a block of r × r, channels last; no params.

Input (n, *spatial, channels · r^axes), output (n, r · spatial, channels). A permutation of entries, any number of
spatial axes; with a, b the place in the block:

Forward     z[n, r i + a, r j + b, c] = x[n, i, j, k]                                        (9.8.4)
            order "pytorch"           k = c r² + r a + b
            order "depth_to_space"    k = (r a + b) C + c
Backward    ∂L/∂x: the inverse permutation of δ                                              (9.8.4), (5)

`inverse=True` is the other way, pixel unshuffle. A bias per channel after the shuffle folds into the one before it,
repeated over the block.

    >>> z, _ = pixel_shuffle.layer(2).forward((), jnp.ones((1, 4, 4, 12)))     # (1, 8, 8, 3)

Source: W. Shi et al., sub-pixel convolution (2016); the orders of torch.nn.PixelShuffle and tf.nn.depth_to_space.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_no_params, describe
from jaxbias.derivation import Derivation, Example
from jaxbias.layers._windows import check_lengths, per_axis, spatial_axes
from jaxbias.params import Layer, Static

ORDERS = ("pytorch", "depth_to_space")


def forward(
    params: tuple[()],
    x: Float[Array, "n *spatial channels"],
    *,
    factor: int | Sequence[int],
    order: str = "pytorch",
    inverse: bool = False,
) -> tuple[Float[Array, "n *shuffled out"], Static]:
    """Channels to blocks of places; with `inverse` blocks of places to channels.

    Args:
        params: the empty tuple.
        factor: r, an int or one per spatial axis.
        order: how channels are numbered, "pytorch" or "depth_to_space".
        inverse: the inverse permutation.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, channels or lengths that r does not divide, or another order.
    """
    check_no_params(params, "pixel_shuffle.forward")
    check_float(x, "pixel_shuffle.forward")
    _check_order(order, "pixel_shuffle.forward")
    axes = spatial_axes(x.shape, "pixel_shuffle.forward")
    factors = per_axis(factor, axes, "pixel_shuffle.forward", "factor", x.shape)
    block = math.prod(factors)
    if inverse and any(length % r for length, r in zip(x.shape[1:-1], factors)):
        raise ValueError(
            f"pixel_shuffle.forward: the spatial lengths must be multiples of the factor {factors}, got x of shape "
            f"{x.shape}."
        )
    if not inverse and x.shape[-1] % block:
        raise ValueError(
            f"pixel_shuffle.forward: the channels must be a multiple of {block}, the places of a block, got x of shape "
            f"{x.shape}."
        )
    return (_gather if inverse else _spread)(x, factors, order), Static(x.shape)


def backward(
    residuals: Static,
    delta: Float[Array, "n *shuffled out"],
    *,
    factor: int | Sequence[int],
    order: str = "pytorch",
    inverse: bool = False,
) -> tuple[tuple[()], Float[Array, "n *spatial channels"]]:
    """No grads; ∂L/∂x, the inverse permutation of δ. The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    n, *spatial, channels = residuals.value
    factors = per_axis(factor, len(spatial), "pixel_shuffle.backward", "factor")
    block = math.prod(factors)
    if inverse:
        shape = (n, *(length // r for length, r in zip(spatial, factors)), channels * block)
    else:
        shape = (n, *(length * r for length, r in zip(spatial, factors)), channels // block)
    delta = check_delta(delta, shape, "pixel_shuffle.backward")
    return (), (_spread if inverse else _gather)(delta, factors, order)


def _spread(x: Array, factors: tuple[int, ...], order: str) -> Array:
    """Channels to places: split off the block's axes, then put each beside the spatial axis that it belongs to."""
    n, *spatial, channels = x.shape
    axes, out = len(factors), channels // math.prod(factors)
    split = (out, *factors) if order == "pytorch" else (*factors, out)
    first = axes + 2 if order == "pytorch" else axes + 1  # of the block's axes
    channel = axes + 1 if order == "pytorch" else 2 * axes + 1
    places = [axis for i in range(axes) for axis in (1 + i, first + i)]
    mixed = jnp.transpose(x.reshape(n, *spatial, *split), (0, *places, channel))
    return mixed.reshape(n, *(length * r for length, r in zip(spatial, factors)), out)


def _gather(z: Array, factors: tuple[int, ...], order: str) -> Array:
    """Places to channels, the inverse of `_spread`."""
    n, *spatial, channels = z.shape
    axes = len(factors)
    blocks = [length for whole, r in zip(spatial, factors) for length in (whole // r, r)]
    block, channel = [2 + 2 * i for i in range(axes)], 2 * axes + 1
    last = [channel, *block] if order == "pytorch" else [*block, channel]
    mixed = jnp.transpose(z.reshape(n, *blocks, channels), (0, *(1 + 2 * i for i in range(axes)), *last))
    return mixed.reshape(n, *(whole // r for whole, r in zip(spatial, factors)), channels * math.prod(factors))


def _check_order(order: str, function: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"{function}: order must be one of {', '.join(ORDERS)}, got {describe(order)}.")


def layer(factor: int | Sequence[int], *, order: str = "pytorch", inverse: bool = False) -> Layer[tuple[()]]:
    """A pixel shuffle by `factor`, or with `inverse` its inverse.

    Keywords as for `forward`.

    Raises:
        TypeError, ValueError: an entry of factor is no positive whole number, another order, or inverse neither True
            nor False.
    """
    check_lengths(factor, "pixel_shuffle.layer", "factor")
    _check_order(order, "pixel_shuffle.layer")
    if not isinstance(inverse, bool):
        raise TypeError(f"pixel_shuffle.layer: inverse must be True or False, got {describe(inverse)}.")

    def init(key, x):
        del key
        check_float(x, "pixel_shuffle.init")
        return ()

    keywords = {"factor": factor, "order": order, "inverse": inverse}
    return Layer(init, partial(forward, **keywords), partial(backward, **keywords), "pixel_shuffle")


DERIVATIONS = (
    Derivation(
        "pixel_shuffle",
        (
            r"z_{n,\,ri+a,\,rj+b,\,c} = x_{n,i,j,\,c r^2 + r a + b}",
            r"\partial L/\partial x_{n,i,j,\,c r^2 + r a + b} = \delta_{n,\,ri+a,\,rj+b,\,c}",
        ),
        "Shi et al. (2016); equation (9.8.4)",
        (
            Example("2-D", layer(2), (2, 2, 3, 8)),
            Example("2-D, depth_to_space, two factors", layer((3, 2), order="depth_to_space"), (2, 2, 1, 12)),
            Example("2-D, inverse", layer((2, 3), inverse=True), (2, 4, 3, 2)),
            Example("no rows, inverse, depth_to_space", layer(2, order="depth_to_space", inverse=True), (0, 4, 2)),
        ),
    ),
)
