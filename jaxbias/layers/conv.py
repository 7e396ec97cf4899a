"""Convolution (cross-correlation: the kernel is not flipped) over 1, 2 or 3 spatial axes, channels last.

Input x (n, *spatial, channels_in), weight w (*kernel, channels_in/groups, channels_out), bias b (channels_out,),
output z (n, *positions, channels_out). Written for one spatial axis; more axes repeat i, u and p. With stride S, low
padding P, input dilation E, kernel dilation F, and x̃ the dilated input, x̃[E p] = x[p] and 0 elsewhere:

Forward     z[n,i,o] = b[o] + Σ_c Σ_u w[u,c,o] x̃[n, S i + F u − P, c]                                 (5.1)
            c runs over the channels of the group of o;
            positions: floor((E (length − 1) + 1 + P + P′ − F (kernel − 1) − 1) / S) + 1, P′ the high padding
Backward, with the error signal δ = ∂L/∂z of the shape of z:
            ∂L/∂b[o]     = Σ_n Σ_i δ[n,i,o]                                                           (5.1, as 14)
            ∂L/∂w[u,c,o] = Σ_n Σ_i δ[n,i,o] x̃[n, S i + F u − P, c]                                    (5.1, as 10)
            ∂L/∂x[n,p,c] = Σ_o Σ_u Σ_{i: S i + F u − P = E p} δ[n,i,o] w[u,c,o]                       (5.1, as 8)

Both sums over positions are convolutions themselves, and `grad_weight` and `grad_input` say which. They are written in
the layout of the forward with explicit transposes: other layouts miss the fast convolution of XLA's CPU backend inside
a loop such as `lax.scan` (jax issue 12868). In a program lowered for CPU, few channels or tiny images take one matrix
product instead (`_patches`).

Padding is "VALID" (none), "SAME" (ceil(length / stride) positions, the odd zero at the end), "CAUSAL" (one spatial
axis; z[i] sees no x after i), an int for every side, or one pair (low, high) per spatial axis; negative padding crops.

Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016); derivation sheet 5.1.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_size
from jaxbias._numerics import accumulation_dtype, sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers import _patches
from jaxbias.layers._windows import (
    Padding,
    check_lengths,
    check_window_fits,
    dilated,
    per_axis,
    resolve_padding,
    spatial_axes,
)
from jaxbias.layouts import AS_HERE, Layouts, of_weight
from jaxbias.params import Layer, Params, Static, weight_and_bias


class Residuals(NamedTuple):
    x: Float[Array, "n *spatial channels_in"]
    weight: Float[Array, "*kernel channels_per_group channels_out"]
    has_bias: Static


class Geometry(NamedTuple):
    """How the kernel moves: one entry per spatial axis (pads: low, high), and the groups of channels."""

    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int


# --- the three maps: correlation, and its transposes in x and in w ----------------------------------------------------


def correlate(
    x: Float[Array, "n *spatial channels_in"],
    weight: Float[Array, "*kernel channels_per_group channels_out"],
    geometry: Geometry,
) -> Float[Array, "n *positions channels_out"]:
    """Σ_c Σ_u w[u,c,o] x̃[n, S i + F u − P, c], accumulated in at least float32."""
    positions = _positions(x.shape[1:-1], weight.shape[:-2], geometry)
    convolution = partial(_convolve, geometry=geometry)
    if _as_product(x.shape, positions, weight.shape[:-2], geometry):
        return _patches.on_cpu(partial(_patches.forward, geometry=geometry), convolution, x, weight)
    return convolution(x, weight)


def _positions(lengths: tuple[int, ...], kernel: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
    s, pads, e, f, _ = geometry
    return tuple(
        (dilated(n, ee) + sum(pair) - dilated(k, ff)) // ss + 1
        for n, k, ss, pair, ee, ff in zip(lengths, kernel, s, pads, e, f)
    )


def _as_product(x_shape, positions, kernel, geometry: Geometry) -> bool:
    """Whether the three maps between x and its image are taken as one matrix product each, on CPU."""
    if geometry.groups > 1 or any(e > 1 for e in geometry.input_dilation):
        return False
    return _patches.pays(math.prod((x_shape[0], *positions)), math.prod((*kernel, x_shape[-1])))


def _convolve(x: Array, weight: Array, geometry: Geometry) -> Array:
    """The same by XLA's convolution, in the wider of two dtypes: δ may come in another one than x."""
    wide = jnp.promote_types(x.dtype, weight.dtype)
    if any(p < 0 for pair in geometry.pads for p in pair):
        x, geometry = _crop(x, geometry)
    axes = "DHW"[-(x.ndim - 2) :]
    out = lax.conv_general_dilated(
        x.astype(wide),
        weight.astype(wide),
        window_strides=geometry.stride,
        padding=geometry.pads,
        lhs_dilation=geometry.input_dilation,
        rhs_dilation=geometry.kernel_dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        feature_group_count=geometry.groups,
        preferred_element_type=accumulation_dtype(wide),
    )
    return out.astype(x.dtype)


def _crop(x: Array, geometry: Geometry) -> tuple[Array, Geometry]:
    """Carry out negative padding as a slice: XLA's CPU convolution can read outside x for it (openxla/xla 48713)."""
    crops, pads = [], []
    for n, e, (low, high) in zip(x.shape[1:-1], geometry.input_dilation, geometry.pads):
        length = dilated(n, e)
        crop_low = min(max(-low, 0), length)
        crop_high = min(max(-high, 0), length - crop_low)
        zeros = crop_low + crop_high + low + high  # what is left to pad
        crops.append((-crop_low, -crop_high, e - 1))
        pads.append((min(max(low, 0), zeros), zeros - min(max(low, 0), zeros)))
    cropped = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)])
    return cropped, geometry._replace(pads=tuple(pads), input_dilation=(1,) * len(pads))


def swap_channels(weight: Array, groups: int) -> Array:
    """(*kernel, in/groups, out) → (*kernel, out/groups, in): channels in and out exchanged within each group."""
    *kernel, per_group, channels_out = weight.shape
    grouped = weight.reshape(*kernel, per_group, groups, channels_out // groups)
    swapped = jnp.swapaxes(grouped, -1, -3)  # (*kernel, out/groups, groups, in/groups)
    return swapped.reshape(*kernel, channels_out // groups, groups * per_group)


def grad_input(
    delta: Float[Array, "n *positions channels_out"],
    weight: Float[Array, "*kernel channels_per_group channels_out"],
    lengths: tuple[int, ...],
    geometry: Geometry,
) -> Float[Array, "n *spatial channels_in"]:
    """∂L/∂x: δ dilated by S, correlated with the flipped kernel, channels in and out exchanged in each group.

    With v = kernel − 1 − u, the condition S i + F u − P = E p of the sum is S i = E p + F v − (F (kernel − 1) − P): a
    correlation with stride E, input dilation S, kernel dilation F and low padding F (kernel − 1) − P.

    Args:
        lengths: of the spatial axes of x.
    """
    stride, pads, input_dilation, kernel_dilation, groups = geometry
    kernel = weight.shape[:-2]
    x_shape = (len(delta), *lengths, weight.shape[-2] * groups)
    back = []
    for n, i, k, s, f, e, (low, _) in zip(
        lengths, delta.shape[1:-1], kernel, stride, kernel_dilation, input_dilation, pads
    ):
        first = f * (k - 1) - low
        back.append((first, (n - 1) * e + dilated(k, f) - dilated(i, s) - first))  # high: so that n positions come out
    turned = Geometry(input_dilation, tuple(back), stride, kernel_dilation, groups)

    def convolution(delta, weight):
        return _convolve(delta, jnp.flip(swap_channels(weight, groups), range(len(kernel))), turned)

    if _as_product(x_shape, delta.shape[1:-1], kernel, geometry):
        product = partial(_patches.grad_input, lengths=lengths, geometry=geometry)
        return _patches.on_cpu(product, convolution, delta, weight)
    return convolution(delta, weight)


def grad_weight(
    x: Float[Array, "n *spatial channels_in"],
    delta: Float[Array, "n *positions channels_out"],
    kernel: tuple[int, ...],
    geometry: Geometry,
) -> Float[Array, "*kernel channels_per_group channels_out"]:
    """∂L/∂w: x correlated with δ as the kernel; x's channels are the batch, the rows n are the channels summed over.

    The roles of stride and kernel dilation are exchanged: position u of the result reads x̃[S i + F u − P].

    Args:
        kernel: its spatial lengths.
    """
    stride, pads, input_dilation, kernel_dilation, groups = geometry
    n, *lengths, channels_in = x.shape
    per_group = channels_in // groups
    across = []
    for m, i, k, s, f, e, (low, _) in zip(
        lengths, delta.shape[1:-1], kernel, stride, kernel_dilation, input_dilation, pads
    ):
        across.append((low, (k - 1) * f + dilated(i, s) - dilated(m, e) - low))  # high: so that k positions come out
    turned = Geometry(kernel_dilation, tuple(across), input_dilation, stride, groups)

    def convolution(x, delta):
        images = jnp.moveaxis(x.reshape(n, *lengths, groups, per_group), -1, 0)  # (in/groups, n, *spatial, groups)
        images = jnp.moveaxis(images, 1, -1).reshape(per_group, *lengths, groups * n)
        kernels = jnp.moveaxis(delta, 0, -2)  # (*positions, n, channels_out)
        return jnp.moveaxis(_convolve(images, kernels, turned), 0, -2)

    if _as_product(x.shape, delta.shape[1:-1], kernel, geometry):
        product = partial(_patches.grad_weight, kernel=kernel, geometry=geometry)
        return _patches.on_cpu(product, convolution, x, delta)
    return convolution(x, delta)


# --- the layer --------------------------------------------------------------------------------------------------------


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
    """Weight (*kernel, channels_in/groups, channels_out), by default LeCun normal; bias (channels_out,), zero (A1.10).

    The fan-in is channels_in/groups times the size of the kernel.

    Args:
        groups: as for `forward`.
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.

    Raises:
        ValueError: groups does not divide both numbers of channels.
    """
    draws = {"use_bias": use_bias, "weight_init": weight_init, "bias_init": bias_init}
    return params_of("conv", key, channels_in, channels_out, kernel, groups=groups, dtype=dtype, **draws)


def params_of(
    layer: str,
    key: Array,
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    *,
    groups: int,
    use_bias: bool,
    weight_init: Initializer,
    bias_init: Initializer,
    dtype: DTypeLike,
) -> Params:
    """Params of "conv" or "conv_transpose", which libraries start in different ways.

    Args:
        groups, use_bias, weight_init, bias_init, dtype: as for `init`.
    """
    _check_groups(f"{layer}.init", groups, channels_in, channels_out)
    weight_shape = (*kernel, channels_in // groups, channels_out)
    return initializers.affine(
        key,
        weight_shape,
        (channels_out,),
        dtype,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
        layer=layer,
        groups=groups,
    )


def forward(
    params: Params,
    x: Float[Array, "n *spatial channels_in"],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Float[Array, "n *positions channels_out"], Residuals]:
    """z = b + w ⋆ x (5.1).

    Args:
        stride, input_dilation, kernel_dilation: an int, or one per spatial axis.
        padding: "VALID", "SAME", "CAUSAL", an int, or (low, high) pairs; see above.
        groups: the channels are split in so many groups, each convolved on its own; groups = channels_in is depthwise.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: x has another rank or number of channels than the kernel wants, groups does not divide the channels,
            the kernel is larger than the padded input, a keyword does not fit the number of spatial axes, or the bias
            is not channels_out long.
    """
    weight, bias = weight_and_bias(params, "conv.forward")
    check_float(x, "conv.forward")
    geometry = _geometry(x.shape, weight.shape, stride, padding, input_dilation, kernel_dilation, groups)
    z = correlate(x, weight, geometry)
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    return z, Residuals(x, weight, Static(bias is not None))


def backward(
    residuals: Residuals,
    delta: Float[Array, "n *positions channels_out"],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Params, Float[Array, "n *spatial channels_in"]]:
    """(∂L/∂w = x ⋆ δ, ∂L/∂b = Σ δ over rows and positions), ∂L/∂x = δ ⋆ flipped w; keywords as for forward.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, weight, has_bias = residuals
    geometry = _geometry(x.shape, weight.shape, stride, padding, input_dilation, kernel_dilation, groups)
    positions = _positions(x.shape[1:-1], weight.shape[:-2], geometry)
    delta = check_delta(delta, (len(x), *positions, weight.shape[-1]), "conv.backward")
    grad_bias = sum_over(delta, tuple(range(delta.ndim - 1))) if has_bias.value else None
    if delta.size == 0:  # an empty sum; XLA wants at least one channel to sum over
        return Params(jnp.zeros_like(weight), grad_bias), jnp.zeros_like(x)
    grads = Params(grad_weight(x, delta, weight.shape[:-2], geometry), grad_bias)
    return grads, grad_input(delta, weight, x.shape[1:-1], geometry)


def _check_groups(function: str, groups: int, channels_in: int, channels_out: int) -> None:
    check_size(groups, function, "groups")
    if channels_in % groups or channels_out % groups:
        raise ValueError(
            f"{function}: groups must divide the channels in and out, got groups={groups}, channels_in={channels_in}, "
            f"channels_out={channels_out}."
        )


def check_shapes(function: str, x_shape: tuple[int, ...], weight_shape: tuple[int, ...], groups: int) -> int:
    """Number of spatial axes; a ValueError unless the ranks and channels of x and weight fit together."""
    *kernel, per_group, channels_out = weight_shape
    axes = len(kernel)
    if not 1 <= axes <= 3:
        raise ValueError(
            f"{function}: weight must be (*kernel, channels_in/groups, channels_out) with 1 to 3 kernel axes, got "
            f"shape {weight_shape}."
        )
    if len(x_shape) != axes + 2:
        raise ValueError(
            f"{function}: x must be (n, *spatial, channels) with {axes} spatial axes for a weight of shape "
            f"{weight_shape}, got x of shape {x_shape}. A single image needs a batch axis: x[None]."
        )
    _check_groups(function, groups, per_group * groups, channels_out)
    if x_shape[-1] != per_group * groups:
        raise ValueError(
            f"{function}: x has {x_shape[-1]} channels but weight wants {per_group * groups} = {per_group} per group "
            f"× {groups} groups (x {x_shape}, weight {weight_shape}). Channels come last."
        )
    return axes


def _geometry(x_shape, weight_shape, stride, padding, input_dilation, kernel_dilation, groups) -> Geometry:
    """Check shapes and keywords against each other, and resolve the padding."""
    axes = check_shapes("conv.forward", x_shape, weight_shape, groups)
    stride = per_axis(stride, axes, "conv.forward", "stride")
    input_dilation = per_axis(input_dilation, axes, "conv.forward", "input_dilation")
    kernel_dilation = per_axis(kernel_dilation, axes, "conv.forward", "kernel_dilation")
    lengths = [dilated(n, e) for n, e in zip(x_shape[1:-1], input_dilation)]
    windows = [dilated(k, f) for k, f in zip(weight_shape, kernel_dilation)]  # the kernel's axes come first
    pads = resolve_padding(padding, lengths, windows, stride, "conv.forward")
    check_window_fits(lengths, windows, pads, "conv.forward", "kernel", x_shape)
    return Geometry(stride, pads, input_dilation, kernel_dilation, groups)


_IN_PYTORCH = of_weight(  # weight (out, in/groups, *kernel)
    lambda weight: np.moveaxis(weight, (-1, -2), (0, 1)), lambda weight: np.moveaxis(weight, (1, 0), (-2, -1))
)


def _layouts(groups: int) -> Layouts:
    """Keras keeps the kernel of a depthwise convolution as (*kernel, in, multiplier), any other as here."""

    def same_entries(wanted, came):
        depthwise = groups > 1 and wanted[-2:-1] == (1,) and came == (*wanted[:-2], groups, wanted[-1] // groups)
        return wanted == came or depthwise

    return Layouts(pytorch=_IN_PYTORCH, keras=AS_HERE._replace(same_entries=same_entries))


def layer(
    channels_out: int,
    kernel: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A convolution with `channels_out` filters; channels_in, spatial axes and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Args:
        kernel: its length, the same on every spatial axis, or one per axis.

    Raises:
        TypeError, ValueError: channels_out, an entry of kernel or groups is no positive whole number.
    """
    check_size(channels_out, "conv.layer", "channels_out")
    check_size(groups, "conv.layer", "groups")
    check_lengths(kernel, "conv.layer", "kernel")

    def init_for(key, x):
        check_float(x, "conv.init")
        lengths = per_axis(kernel, spatial_axes(x.shape, "conv.init"), "conv.init", "kernel", x.shape)
        return init(
            key,
            x.shape[-1],
            channels_out,
            lengths,
            groups=groups,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    keywords = {
        "stride": stride,
        "padding": padding,
        "input_dilation": input_dilation,
        "kernel_dilation": kernel_dilation,
        "groups": groups,
    }
    return Layer(
        init_for,
        partial(forward, **keywords),
        partial(backward, **keywords),
        "conv",
        layouts=_layouts(groups),
        convolves=True,
    )


DERIVATIONS = (
    Derivation(
        "conv",
        (
            r"z_{nio} = b_o + \sum_c \sum_u w_{uco}\, x_{n,\,Si+Fu-P,\,c}",
            r"\partial L/\partial w_{uco} = \sum_n \sum_i \delta_{nio}\, x_{n,\,Si+Fu-P,\,c}",
            r"\partial L/\partial b_o = \sum_n \sum_i \delta_{nio}",
            r"\partial L/\partial x_{npc} = \sum_o \sum_u \sum_{i:\,Si+Fu-P=p} \delta_{nio}\, w_{uco}",
        ),
        "Dumoulin and Visin (2016); equations 5.1, as (8), (10), (14)",
        (
            Example("2-D", layer(4, (3, 2)), (2, 5, 6, 3)),
            Example(
                "2-D, no bias, same, stride (2, 1)",
                layer(2, 3, stride=(2, 1), padding="SAME", use_bias=False),
                (2, 5, 4, 3),
            ),
            Example(
                "2-D, groups 2, all keywords",
                layer(
                    6,
                    (2, 3),
                    stride=(3, 2),
                    padding=((2, 1), (0, 3)),
                    input_dilation=(2, 1),
                    kernel_dilation=(1, 2),
                    groups=2,
                ),
                (2, 5, 6, 4),
            ),
            Example("2-D, depthwise, cropped", layer(6, 2, padding=((-1, 1), (0, -2)), groups=3), (2, 5, 6, 3)),
            Example("1-D, cropped and dilated", layer(2, 2, padding=((3, -4),), input_dilation=3), (2, 4, 3)),
            Example("1-D, causal, dilated kernel", layer(3, 3, padding="CAUSAL", kernel_dilation=2), (2, 7, 2)),
            Example("3-D, stride 2", layer(2, 2, stride=2, padding=1), (2, 3, 4, 2, 3)),
            Example("no rows", layer(2, 2), (0, 3, 3, 2)),
            Example("size 1", layer(1, 1), (1, 1, 1, 1)),
        ),
    ),
)
