"""Dense layer over any axes: an equation says which are contracted, which are batched, and which the weight adds.

`...d,dhk->...hk` contracts d and adds (h, k); `nabd,abdo->nao` contracts b and d, for each a with a weight of its own
(a is batched). Letters name axes; `...` in x and z are leading axes, any number.

Forward     z = Σ x W + b         over the letters of x and W that z has not; b has letters of z (bias_axes)     (2)
Backward, with the error signal δ = ∂L/∂z of the shape of z, in the letters of the three arrays:
            ∂L/∂W = Σ x δ         over the letters of x and δ that W has not                                     (10)
            ∂L/∂b = Σ δ           over the letters of δ that b has not: a broadcast is summed               (14), (4.5)
            ∂L/∂x = Σ δ W         over the letters of δ and W that x has not               (8) without its σ′ factor

Each gradient is the same equation with two of its three arrays exchanged. It is so because every letter occurs in two
arrays at least, which is checked: a letter of x alone would be summed without a weight.

    >>> heads = einsum_dense.layer("...d,dhk->...hk", {"h": 4, "k": 16})      # (n, time, d) to (n, time, 4, 16)
    >>> back = einsum_dense.layer("...hk,hkd->...d", {"d": 64})

Source: derivation sheet (2), (8), (10), (14); the equation as in keras.layers.EinsumDense.
"""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_size, describe
from jaxbias._numerics import accumulation_dtype, sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias

FORM = re.compile(r"(\.\.\.)?([a-z]*),([a-z]*)->(\.\.\.)?([a-z]*)")
UNUSED = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of the axes that `...` stands for."""


class Equation(NamedTuple):
    """The letters of the three arrays; `leading` says whether x and z have any number of axes before theirs."""

    x: str
    weight: str
    z: str
    leading: bool


class Residuals(NamedTuple):
    x: Float[Array, "*x"]
    weight: Float[Array, "*weight"]
    has_bias: Static


def init(
    key: Array,
    equation: str,
    sizes: Mapping[str, int],
    *,
    bias_axes: str | None = None,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight in the letters of the equation, by default LeCun normal, and a bias, by default zero.

    The weight is drawn as a matrix (fan_in, all its other axes), fan_in the product of the contracted axes.

    Args:
        equation, bias_axes: as for `forward`.
        sizes: length of every axis of the weight and the bias by its letter.
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    letters = _parse(equation, "einsum_dense.init")
    contracted = [letter for letter in letters.weight if letter not in letters.z]
    others = [letter for letter in letters.weight if letter in letters.z]
    shape = math.prod(sizes[i] for i in contracted), math.prod(sizes[i] for i in others)
    bias_shape = tuple(sizes[letter] for letter in _bias_letters(letters, bias_axes, "einsum_dense.init"))
    drawn, bias = initializers.affine(
        key, shape, bias_shape, dtype, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init
    )
    order = [*contracted, *others]
    weight = drawn.reshape([sizes[letter] for letter in order])
    return Params(jnp.transpose(weight, [order.index(letter) for letter in letters.weight]), bias)


def forward(
    params: Params, x: Float[Array, "*x"], *, equation: str, bias_axes: str | None = None
) -> tuple[Float[Array, "*z"], Residuals]:
    """z = Σ x W + b, as the equation says.

    Args:
        equation: "x,weight->z" in small letters, each once in an array; `...` before those of x and z for any number
            of leading axes.
        bias_axes: letters of z that the bias has, in the order of z; None for those that the weight has too.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: an equation of another form, or shapes that do not fit it.
    """
    letters = _parse(equation, "einsum_dense.forward")
    without_bias = params._replace(bias=None) if isinstance(params, Params) else params  # its axes are its own
    (weight, _), bias = weight_and_bias(without_bias, "einsum_dense.forward"), params.bias
    check_float(x, "einsum_dense.forward")
    sizes = _sizes(letters, x, weight, equation)
    z = _product(letters, "x", "weight", "z", x, weight)
    if bias is not None:
        check_float(bias, "einsum_dense.forward", "bias")
        named = _bias_letters(letters, bias_axes, "einsum_dense.forward")
        wanted = tuple(sizes[letter] for letter in named)
        if bias.shape != wanted:
            raise ValueError(
                f"einsum_dense.forward: bias has shape {bias.shape}, but the axes {named!r} of z want a bias of shape "
                f"{wanted}."
            )
        aligned = [sizes[letter] if letter in named else 1 for letter in letters.z]
        z = z + jnp.broadcast_to(bias.reshape([1] * (z.ndim - len(letters.z)) + aligned), z.shape)
    return z, Residuals(x, weight, Static(bias is not None))


def backward(
    residuals: Residuals, delta: Float[Array, "*z"], *, equation: str, bias_axes: str | None = None
) -> tuple[Params, Float[Array, "*x"]]:
    """(∂L/∂W = Σ x δ, ∂L/∂b = Σ δ), ∂L/∂x = Σ δ W; the keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, weight, has_bias = residuals
    letters = _parse(equation, "einsum_dense.backward")
    sizes = _sizes(letters, x, weight, equation)
    shape = (*x.shape[: x.ndim - len(letters.x)], *(sizes[letter] for letter in letters.z))
    delta = check_delta(delta, shape, "einsum_dense.backward")
    grad_bias = None
    if has_bias.value:
        named = _bias_letters(letters, bias_axes, "einsum_dense.backward")
        first = delta.ndim - len(letters.z)
        summed = (*range(first), *(first + i for i, letter in enumerate(letters.z) if letter not in named))
        grad_bias = sum_over(delta, summed)
    grads = Params(_product(letters, "x", "z", "weight", x, delta), grad_bias)
    return grads, _product(letters, "z", "weight", "x", delta, weight)


def _product(letters: Equation, first: str, second: str, out: str, a: Array, b: Array) -> Array:
    """One of the three equations, accumulated in at least float32."""
    leading = UNUSED[: a.ndim - len(letters.z if first == "z" else letters.x)]  # the first is x or z
    full = {"x": leading + letters.x, "weight": letters.weight, "z": leading + letters.z}
    product = jnp.einsum(
        f"{full[first]},{full[second]}->{full[out]}", a, b, preferred_element_type=accumulation_dtype(a.dtype)
    )
    return product.astype(a.dtype)


def _parse(equation: str, function: str) -> Equation:
    form = FORM.fullmatch(equation) if isinstance(equation, str) else None
    if form is None or bool(form[1]) != bool(form[4]):
        raise ValueError(
            f'{function}: equation must be like "...d,dhk->...hk", small letters for axes and ... in x and z or in '
            f"neither, got {equation!r}."
        )
    _, x, weight, _, z = form.groups(default="")
    if any(len(set(letters)) != len(letters) for letters in (x, weight, z)):
        raise ValueError(f"{function}: a letter stands twice in one array of {equation!r}.")
    if alone := [i for i in sorted({*x, *weight, *z}) if sum(i in letters for letters in (x, weight, z)) == 1]:
        raise ValueError(
            f"{function}: {', '.join(alone)} in {equation!r} belongs to one array alone; every axis is one of two at "
            f"least."
        )
    return Equation(x, weight, z, bool(form[1]))


def _bias_letters(letters: Equation, bias_axes: str | None, function: str) -> str:
    """Letters of the bias, in the order of z."""
    if bias_axes is None:
        return "".join(letter for letter in letters.z if letter in letters.weight)
    if not isinstance(bias_axes, str) or bias_axes != "".join(letter for letter in letters.z if letter in bias_axes):
        raise ValueError(
            f"{function}: bias_axes must be letters of z in their order, out of {letters.z!r}, got {bias_axes!r}."
        )
    return bias_axes


def _sizes(letters: Equation, x: Array, weight: Array, equation: str) -> dict[str, int]:
    """Length of every axis; x and weight must agree on those that they share."""
    leading = x.ndim - len(letters.x)
    if weight.ndim != len(letters.weight) or leading < 0 or (leading > 0 and not letters.leading):
        raise ValueError(
            f"einsum_dense.forward: {equation!r} does not fit x of shape {x.shape} and weight of shape {weight.shape}."
        )
    sizes = dict(zip(letters.weight, weight.shape))
    for letter, length in zip(letters.x, x.shape[leading:]):
        if sizes.setdefault(letter, length) != length:
            raise ValueError(
                f"einsum_dense.forward: axis {letter} of {equation!r} has {length} entries in x of shape {x.shape} and "
                f"{sizes[letter]} in weight of shape {weight.shape}."
            )
    return sizes


# PyTorch has no such layer. Keras keeps a bias whose letters are not the last of z with axes of length 1 between.
LAYOUTS = Layouts(pytorch=AS_HERE, keras=AS_HERE)


def layer(
    equation: str,
    sizes: Mapping[str, int],
    *,
    bias_axes: str | None = None,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A dense layer over the axes that `equation` names; the other lengths and the dtype are those of the input.

    Keywords as for `init` and `forward`.

    Args:
        sizes: length of each axis that x does not have, by its letter: {"h": 4, "k": 16}.

    Raises:
        TypeError: sizes is no mapping, or holds no whole numbers.
        ValueError: another form of the equation, letters that are missing in sizes or needless, or (from init) an
            input that does not fit.
    """
    letters = _parse(equation, "einsum_dense.layer")
    _bias_letters(letters, bias_axes, "einsum_dense.layer")
    if not isinstance(sizes, Mapping):
        raise TypeError(f'einsum_dense.layer: sizes must be like {{"h": 4}}, got {describe(sizes)}.')
    new = {letter for letter in letters.weight if letter not in letters.x}
    if set(sizes) != new:
        raise ValueError(
            f"einsum_dense.layer: sizes must have the axes of {equation!r} that x has not, {', '.join(sorted(new))}, "
            f"got {', '.join(sorted(map(str, sizes))) or 'none'}."
        )
    for letter, size in sizes.items():
        check_size(size, "einsum_dense.layer", f"the length of {letter}")

    def init_for(key, x):
        check_float(x, "einsum_dense.init")
        if len(x.shape) < len(letters.x) or (len(x.shape) > len(letters.x) and not letters.leading):
            raise ValueError(f"einsum_dense.init: {equation!r} does not fit x of shape {tuple(x.shape)}.")
        lengths = dict(zip(letters.x, x.shape[len(x.shape) - len(letters.x) :]))
        return init(
            key,
            equation,
            {**lengths, **sizes},
            bias_axes=bias_axes,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    keywords = {"equation": equation, "bias_axes": bias_axes}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "einsum_dense", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "einsum_dense",
        (
            r"z_{na\dots} = \sum_{c} x_{nac} W_{ac\dots} + b",
            r"\partial L/\partial W_{ac\dots} = \sum_n x_{nac}\, \delta_{na\dots}",
            r"\partial L/\partial b = \sum \delta \text{ over the axes that b has not}",
            r"\partial L/\partial x_{nac} = \sum_{\dots} \delta_{na\dots} W_{ac\dots}",
        ),
        "equations (2), (8), (10), (14)",
        (
            Example("two axes added, leading axes", layer("...d,dhk->...hk", {"h": 2, "k": 3}), (2, 3, 4)),
            Example("batched, contracted", layer("nabd,aodb->noa", {"o": 3}, bias_axes="a"), (4, 2, 3, 2)),
            Example("no bias, no rows", layer("...hk,hkd->...d", {"d": 2}, use_bias=False), (0, 2, 3)),
        ),
    ),
)
