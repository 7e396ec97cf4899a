"""Locally connected layer: a convolution whose weights are not shared; each position has its own kernel and bias.

x (n, *spatial, channels), z (n, *positions, out); weight (*positions, *kernel, channels, out), bias (*positions, out).
With the windows X of x as `unfold` makes them, stride S, dilation F, low padding P and x̄ = x, 0 in the padding:

Forward     X[n, i, (u, c)] = x̄[n, S i + F u − P, c]
            z[n, i, o] = b[i, o] + Σ_{u,c} w[i, u, c, o] X[n, i, (u, c)]                                        (9.8.2)
Backward    ∂L/∂b[i, o] = Σ_n δ[n, i, o]                  over the rows alone, not over positions               (9.8.2)
            ∂L/∂w[i] = Σ_n X[n, i] δ[n, i]
            ∂L/∂x = fold(Σ_o w[i] δ[n, i, o])             each entry added at the place that it was read from   (9.8.7)

Kept are x and the weight; the windows are made again. The length of the image is part of the weight's shape, so params
fit one image size.

    >>> layer = locally_connected.layer(16, (3, 3), stride=2)

Source: Y. LeCun, Generalization and Network Design Strategies (1989); derivation sheet (9.8.2).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_size
from jaxbias._numerics import accumulation_dtype, sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers import _patches
from jaxbias.layers._windows import Padding
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias


class Residuals(NamedTuple):
    x: Float[Array, "n *spatial channels"]
    weight: Float[Array, "*positions_kernel channels out"]
    has_bias: Static
    moves: Static


def init(
    key: Array,
    channels_in: int,
    channels_out: int,
    positions: Sequence[int],
    kernel_size: Sequence[int],
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight (*positions, *kernel, channels, out), by default LeCun normal, and bias (*positions, out), by default 0.

    The weight is drawn as a matrix (kernel · channels, positions · out): the fan-in is that of one unit.

    Args:
        positions: of the windows, one entry per spatial axis.
        kernel_size: the same, of the kernel.
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    positions, kernel = tuple(positions), tuple(kernel_size)
    entries, places = math.prod(kernel) * channels_in, math.prod(positions)
    drawn, bias = initializers.affine(
        key,
        (entries, places * channels_out),
        (*positions, channels_out),
        dtype,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
    )
    weight = jnp.swapaxes(drawn.reshape(entries, places, channels_out), 0, 1)
    return Params(weight.reshape(*positions, *kernel, channels_in, channels_out), bias)


def forward(
    params: Params,
    x: Float[Array, "n *spatial channels"],
    *,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    kernel_dilation: int | Sequence[int] = 1,
) -> tuple[Float[Array, "n *positions out"], Residuals]:
    """z[n, i] = X[n, i] w[i] + b[i].

    Args:
        kernel_size: an int or one per spatial axis.
        stride: the same, from one position to the next.
        padding: "VALID", "SAME", "CAUSAL", an int, or (low, high) pairs; negative ones crop.
        kernel_dilation: distance of the entries that the kernel reads, an int or one per spatial axis.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: x has no spatial axis, a keyword does not fit its spatial axes, the kernel is larger than the padded
            input, or weight or bias are those of other images.
    """
    check_float(x, "locally_connected.forward")
    moves = _patches.moves(x.shape, kernel_size, stride, padding, kernel_dilation, "locally_connected.forward")
    weight, bias = _checked(params, moves, x.shape)
    patches = _patches.unfold(x, moves.window, moves)
    z = _product("nif,ifo->nio", _in_rows(patches, moves, 1), _matrices(weight, moves)).astype(x.dtype)
    z = z.reshape(x.shape[0], *moves.positions, weight.shape[-1])
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    return z, Residuals(x, weight, Static(bias is not None), Static(moves))


def backward(
    residuals: Residuals, delta: Float[Array, "n *positions out"]
) -> tuple[Params, Float[Array, "n *spatial channels"]]:
    """(∂L/∂w[i] = Σ_n X[n, i] δ[n, i], ∂L/∂b[i] = Σ_n δ[n, i]), ∂L/∂x = fold(Σ_o w δ).

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, weight, has_bias, moves = residuals
    moves = moves.value
    delta = check_delta(delta, (x.shape[0], *moves.positions, weight.shape[-1]), "locally_connected.backward")
    patches = _in_rows(_patches.unfold(x, moves.window, moves), moves, 1)
    of_rows = _in_rows(delta, moves, 1)
    grad_weight = _product("nif,nio->ifo", patches, of_rows).astype(weight.dtype).reshape(weight.shape)
    grad_bias = sum_over(delta, 0).astype(weight.dtype) if has_bias.value else None
    columns = _product("nio,ifo->nif", of_rows, _matrices(weight, moves))
    columns = columns.reshape(x.shape[0], *moves.positions, columns.shape[-1])
    delta_x = _patches.fold(columns, moves.window, moves.lengths, moves).astype(x.dtype)
    return Params(grad_weight, grad_bias), delta_x


def _product(equation: str, a: Array, b: Array) -> Array:
    """Accumulated in at least float32, and left there."""
    wide = jnp.promote_types(a.dtype, b.dtype)
    return jnp.einsum(equation, a.astype(wide), b.astype(wide), preferred_element_type=accumulation_dtype(wide))


def _in_rows(array: Array, moves: _patches.Moves, first: int) -> Array:
    """All positions, from axis `first` on, made one axis."""
    axes = len(moves.positions)
    return array.reshape(*array.shape[:first], math.prod(moves.positions), *array.shape[first + axes :])


def _matrices(weight: Array, moves: _patches.Moves) -> Array:
    """(positions, kernel · channels, out)."""
    entries = math.prod(moves.window) * weight.shape[-2]
    return weight.reshape(math.prod(moves.positions), entries, weight.shape[-1])


def _checked(params: Params, moves: _patches.Moves, x_shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Weight and bias, which must be those of images like x."""
    without_bias = params._replace(bias=None) if isinstance(params, Params) else params  # its axes are its own
    weight, _ = weight_and_bias(without_bias, "locally_connected.forward")
    wanted = (*moves.positions, *moves.window, x_shape[-1])
    if weight.shape[:-1] != wanted:
        raise ValueError(
            f"locally_connected.forward: weight must have the shape {wanted} and then the outputs for x of shape "
            f"{x_shape}, got {weight.shape}: each position has weights of its own, so params fit one image size."
        )
    bias = params.bias
    if bias is not None:
        check_float(bias, "locally_connected.forward", "bias")
        if bias.shape != (*moves.positions, weight.shape[-1]):
            raise ValueError(
                f"locally_connected.forward: bias has shape {bias.shape}, but each position and output has one: "
                f"{(*moves.positions, weight.shape[-1])}."
            )
    return weight, bias


LAYOUTS = Layouts(pytorch=AS_HERE)


def layer(
    channels_out: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    kernel_dilation: int | Sequence[int] = 1,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A locally connected layer with `channels_out` filters per position; image size and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: channels_out, or an entry of kernel_size, stride or kernel_dilation, is no positive whole
            number.
    """
    check_size(channels_out, "locally_connected.layer", "channels_out")
    _patches.check_moves(kernel_size, stride, kernel_dilation, "locally_connected.layer")

    def init_for(key, x):
        check_float(x, "locally_connected.init")
        moves = _patches.moves(x.shape, kernel_size, stride, padding, kernel_dilation, "locally_connected.init")
        return init(
            key,
            x.shape[-1],
            channels_out,
            moves.positions,
            moves.window,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    keywords = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "kernel_dilation": kernel_dilation}
    return Layer(init_for, partial(forward, **keywords), backward, "locally_connected", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "locally_connected",
        (
            r"z_{nio} = b_{io} + \sum_{u,c} W_{iuco}\, x_{n,\,Si+Fu-P,\,c}",
            r"\partial L/\partial W_{iuco} = \sum_n x_{n,\,Si+Fu-P,\,c}\, \delta_{nio}",
            r"\partial L/\partial b_{io} = \sum_n \delta_{nio}",
            r"\partial L/\partial x_{npc} = \sum_{i,u:\,Si+Fu-P=p} \sum_o W_{iuco}\, \delta_{nio}",
        ),
        "LeCun (1989); equation (9.8.2)",
        (
            Example("2-D", layer(3, 2), (2, 3, 4, 2)),
            Example(
                "2-D, all keywords, no bias",
                layer(2, (3, 2), stride=(2, 1), padding=((1, 2), (0, 1)), kernel_dilation=(1, 2), use_bias=False),
                (2, 4, 3, 2),
            ),
            Example("1-D, causal", layer(2, 2, padding="CAUSAL"), (3, 4, 2)),
            Example("no rows", layer(2, 2), (0, 3, 3, 1)),
        ),
    ),
)
