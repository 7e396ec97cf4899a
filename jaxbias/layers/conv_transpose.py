"""Transposed convolution: the transpose of the map x ↦ z of `conv`, over 1, 2 or 3 spatial axes, channels last.

Input x (n, *spatial, channels_in), weight w (*kernel, channels_in/groups, channels_out), bias b (channels_out,), output
z (n, *positions, channels_out). Written for one spatial axis; more axes repeat i, u and p. With stride S, low padding P
and kernel dilation F:

Forward     z[n,p,o] = b[o] + Σ_c Σ_u Σ_{i: S i + F u − P = p} x[n,i,c] w[u,c,o]      ∂L/∂x of conv (5.1) with x for δ
            c runs over the channels of the group of o;
            positions: S (length − 1) + F (kernel − 1) + 1 − P − P′ + output_padding, P′ the high padding
Backward, with the error signal δ = ∂L/∂z of the shape of z, 0 outside of it:
            ∂L/∂b[o]     = Σ_n Σ_p δ[n,p,o]                                                           (5.1, as 14)
            ∂L/∂w[u,c,o] = Σ_n Σ_i x[n,i,c] δ[n, S i + F u − P, o]     ∂L/∂w of conv, x and δ exchanged   (as 10)
            ∂L/∂x[n,i,c] = Σ_o Σ_u δ[n, S i + F u − P, o] w[u,c,o]     the forward of conv, of δ           (as 8)

The kernel is not flipped, as in PyTorch's ConvTranspose; Flax's ConvTranspose and `lax.conv_transpose` flip it.
Padding is that of the convolution transposed, so it shortens z: "VALID" (none), an int for every side, or one pair
(low, high) per spatial axis; "SAME" makes z S times as long as x.

Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016), ch. 4; derivation sheet 5.1.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_size
from jaxbias._numerics import sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers import conv
from jaxbias.layers._windows import Padding, check_lengths, dilated, per_axis, resolve_padding, spatial_axes
from jaxbias.layouts import Layouts, of_weight
from jaxbias.params import Layer, Params, Static, weight_and_bias


class Residuals(NamedTuple):
    x: Float[Array, "n *spatial channels_in"]
    weight: Float[Array, "*kernel channels_per_group channels_out"]
    has_bias: Static


def init(
    key: Array,
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    *,
    groups: int = 1,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """The same parameters as a convolution from channels_in to channels_out.

    Args:
        groups, use_bias, weight_init, bias_init, dtype: as for `conv.init`.
    """
    draws = {"use_bias": use_bias, "weight_init": weight_init, "bias_init": bias_init}
    return conv.params_of("conv_transpose", key, channels_in, channels_out, kernel, groups=groups, dtype=dtype, **draws)


def forward(
    params: Params,
    x: Float[Array, "n *spatial channels_in"],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    output_padding: int | Sequence[int] = 0,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Float[Array, "n *positions channels_out"], Residuals]:
    """z = b + wᵀ ⋆ x, the transpose of a convolution.

    Args:
        stride, kernel_dilation: an int, or one per spatial axis.
        padding: "VALID", "SAME", an int, or (low, high) pairs; see above.
        output_padding: how much longer z is at its end: a convolution with stride S maps S lengths to the same length,
            and this chooses among them. Less than the stride; 0 with "SAME".
        groups: the channels are split in so many groups, each on its own.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: x has another rank or number of channels than the kernel wants, groups does not divide the channels,
            the padding leaves nothing of z, a keyword does not fit the number of spatial axes, or the bias is not
            channels_out long.
    """
    weight, bias = weight_and_bias(params, "conv_transpose.forward")
    check_float(x, "conv_transpose.forward")
    geometry, lengths = _geometry(x.shape, weight.shape, stride, padding, output_padding, kernel_dilation, groups)
    z = conv.grad_input(x, conv.swap_channels(weight, groups), lengths, geometry)
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    return z, Residuals(x, weight, Static(bias is not None))


def backward(
    residuals: Residuals,
    delta: Float[Array, "n *positions channels_out"],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    output_padding: int | Sequence[int] = 0,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Params, Float[Array, "n *spatial channels_in"]]:
    """(∂L/∂w = δ ⋆ x, ∂L/∂b = Σ δ over rows and positions), ∂L/∂x = w ⋆ δ; keywords as for forward.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, weight, has_bias = residuals
    geometry, lengths = _geometry(x.shape, weight.shape, stride, padding, output_padding, kernel_dilation, groups)
    delta = check_delta(delta, (len(x), *lengths, weight.shape[-1]), "conv_transpose.backward")
    grad_bias = sum_over(delta, tuple(range(delta.ndim - 1))) if has_bias.value else None
    if delta.size == 0:  # an empty sum; XLA wants at least one channel to sum over
        return Params(jnp.zeros_like(weight), grad_bias), jnp.zeros_like(x)
    grad_weight = conv.swap_channels(conv.grad_weight(delta, x, weight.shape[:-2], geometry), groups)
    return Params(grad_weight, grad_bias), conv.correlate(delta, conv.swap_channels(weight, groups), geometry)


def _geometry(
    x_shape, weight_shape, stride, padding, output_padding, kernel_dilation, groups
) -> tuple[conv.Geometry, tuple[int, ...]]:
    """Check shapes and keywords; the convolution that is transposed, and the spatial lengths of z."""
    function = "conv_transpose.forward"
    axes = conv.check_shapes(function, x_shape, weight_shape, groups)
    stride = per_axis(stride, axes, function, "stride")
    output_padding = per_axis(output_padding, axes, function, "output_padding", least=0)
    kernel_dilation = per_axis(kernel_dilation, axes, function, "kernel_dilation")
    windows = [dilated(k, f) for k, f in zip(weight_shape, kernel_dilation)]
    if padding == "CAUSAL":
        raise ValueError(
            f"{function}: the transpose of a causal convolution looks ahead, so there is no CAUSAL padding here. "
            f"Pass one (low, high) pair; (0, kernel − stride) keeps z[p] from seeing x after p / stride."
        )
    if any(extra >= s for extra, s in zip(output_padding, stride)):
        raise ValueError(
            f"{function}: output_padding must be less than the stride, got output_padding {output_padding} for stride "
            f"{stride}."
        )
    if padding == "SAME":
        if any(output_padding):
            raise ValueError(
                f'{function}: padding="SAME" fixes the length of z, so output_padding must be 0, got {output_padding}.'
            )
        lengths = tuple(n * s for n, s in zip(x_shape[1:-1], stride))
        pads = resolve_padding(padding, lengths, windows, stride, function)
    else:
        pads = resolve_padding(padding, x_shape[1:-1], windows, stride, function)
        lengths = tuple(
            (n - 1) * s + w - low - high + extra
            for n, s, w, (low, high), extra in zip(x_shape[1:-1], stride, windows, pads, output_padding)
        )
    if any(length < 1 for length in (*lengths, *x_shape[1:-1])):
        raise ValueError(
            f"{function}: z would have the spatial lengths {lengths} (x has shape {x_shape}, kernel {tuple(windows)} "
            f"dilated, stride {stride}, padding {pads}). Pad less: padding shortens z here."
        )
    return conv.Geometry(stride, pads, (1,) * axes, kernel_dilation, groups), lengths


def _layouts(groups: int) -> Layouts:
    """PyTorch: weight (in, out/groups, *kernel)."""

    def write(weight):
        *kernel, per_group, out = weight.shape
        split = weight.reshape(*kernel, per_group, groups, out // groups)
        return np.moveaxis(split, (-2, -3, -1), (0, 1, 2)).reshape(per_group * groups, -1, *kernel)

    def read(weight):
        channels_in, out_per_group, *kernel = weight.shape
        split = weight.reshape(groups, -1, out_per_group, *kernel)
        return np.moveaxis(split, (0, 1, 2), (-2, -3, -1)).reshape(*kernel, channels_in // groups, -1)

    swap = lambda weight: np.swapaxes(weight, -1, -2)
    keras = of_weight(swap, swap) if groups == 1 else None  # weight (*kernel, out, in); it has no groups
    return Layouts(pytorch=of_weight(write, read), keras=keras)


def layer(
    channels_out: int,
    kernel: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    output_padding: int | Sequence[int] = 0,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A transposed convolution to `channels_out` channels; channels_in, spatial axes and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Args:
        kernel: its length, the same on every spatial axis, or one per axis.

    Raises:
        TypeError, ValueError: channels_out, an entry of kernel or groups is no positive whole number.
    """
    check_size(channels_out, "conv_transpose.layer", "channels_out")
    check_size(groups, "conv_transpose.layer", "groups")
    check_lengths(kernel, "conv_transpose.layer", "kernel")
    keywords = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "kernel_dilation": kernel_dilation,
        "groups": groups,
    }
    draws = {"use_bias": use_bias, "weight_init": weight_init, "bias_init": bias_init}

    def init_for(key, x):
        check_float(x, "conv_transpose.init")
        axes = spatial_axes(x.shape, "conv_transpose.init")
        lengths = per_axis(kernel, axes, "conv_transpose.init", "kernel", x.shape)
        return init(key, x.shape[-1], channels_out, lengths, groups=groups, dtype=x.dtype, **draws)

    return Layer(
        init_for,
        partial(forward, **keywords),
        partial(backward, **keywords),
        "conv_transpose",
        layouts=_layouts(groups),
        convolves=True,
    )


DERIVATIONS = (
    Derivation(
        "conv_transpose",
        (
            r"z_{npo} = b_o + \sum_c \sum_u \sum_{i:\,Si+Fu-P=p} x_{nic}\, w_{uco}",
            r"\partial L/\partial w_{uco} = \sum_n \sum_i x_{nic}\, \delta_{n,\,Si+Fu-P,\,o}",
            r"\partial L/\partial b_o = \sum_n \sum_p \delta_{npo}",
            r"\partial L/\partial x_{nic} = \sum_o \sum_u \delta_{n,\,Si+Fu-P,\,o}\, w_{uco}",
        ),
        "Dumoulin and Visin (2016), ch. 4; equations 5.1, as (8), (10), (14)",
        (
            Example("2-D", layer(4, (3, 2)), (2, 3, 4, 3)),
            Example(
                "2-D, same, stride (2, 1), no bias",
                layer(2, 3, stride=(2, 1), padding="SAME", use_bias=False),
                (2, 3, 4, 3),
            ),
            Example(
                "2-D, groups 2, all keywords",
                layer(
                    6,
                    (2, 3),
                    stride=(3, 2),
                    padding=((2, 0), (-1, 1)),
                    output_padding=(2, 1),
                    kernel_dilation=(1, 2),
                    groups=2,
                ),
                (2, 3, 4, 4),
            ),
            Example("1-D, stride above kernel", layer(3, 2, stride=3, padding="SAME"), (2, 4, 2)),
            Example("3-D, depthwise", layer(2, 2, stride=2, padding=1, groups=2), (2, 2, 3, 2, 2)),
            Example("no rows", layer(2, 2), (0, 3, 3, 2)),
        ),
    ),
)
