"""PReLU: a leaky ReLU that learns its slope α (weight), one for each unit of the last axes or one for all of them.

Forward     a = z if z > 0 else α z                                                          (9.10.1)
Backward, with the error signal δ = ∂L/∂a of the shape of a:
            ∂L/∂α = Σ δ z [z ≤ 0]         over every axis along which α is shared            (9.10.1), (4.5)
            ∂L/∂z = δ if z > 0 else α δ                                                      (9.10.1), (7)

The slope at z = 0 is α. α is a weight and no bias: a weight decay on it draws the activation to ReLU.

    >>> layer = prelu.layer()
    >>> params = layer.init(jax.random.key(0), jnp.ones((2, 3)))      # Params(weight (3,), bias None)

Source: K. He et al., Delving Deep into Rectifiers (2015), eqs. 1 and 3.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_float, check_size, describe
from jaxbias._numerics import sum_to_shape, widen
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer, affine, constant
from jaxbias.layers._norm import broadcast_like, last_axes
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, weight_and_bias

QUARTER = constant(0.25)


class Residuals(NamedTuple):
    z: Float[Array, "*shape"]
    weight: Float[Array, "*units"]


def init(
    key: Array, units: tuple[int, ...], *, weight_init: Initializer = QUARTER, dtype: DTypeLike = jnp.float32
) -> Params:
    """Slope (weight) of shape `units`, by default 0.25 as in the article. No bias.

    Args:
        weight_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of the weight.
    """
    return affine(key, units, units, dtype, use_bias=False, weight_init=weight_init, bias_init=QUARTER)


def forward(params: Params, x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Residuals]:
    """a = x where x > 0, α x elsewhere.

    Args:
        x: its last axes are those of α, or α has length 1 there.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: α does not broadcast to the last axes of x, or params has a bias.
    """
    weight, _ = weight_and_bias(params, "prelu.forward", bias_axes=0)
    check_float(x, "prelu.forward")
    units = x.shape[max(x.ndim - weight.ndim, 0) :]
    if len(units) != weight.ndim or any(n not in (1, unit) for n, unit in zip(weight.shape, units)):
        raise ValueError(
            f"prelu.forward: the weight must have the last axes of x, or length 1 in their place, got x {x.shape} and "
            f"weight {weight.shape}."
        )
    return jnp.where(x > 0, x, x * broadcast_like(weight, x)), Residuals(x, weight)


def backward(residuals: Residuals, delta: Float[Array, "*shape"]) -> tuple[Params, Float[Array, "*shape"]]:
    """∂L/∂α = Σ δ z [z ≤ 0], ∂L/∂z = δ [z > 0] + α δ [z ≤ 0].

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    z, weight = residuals
    wide = widen(check_delta(delta, z.shape, "prelu.backward"))
    through_slope = jnp.where(z > 0, 0, wide * widen(z))
    delta_z = jnp.where(z > 0, wide, wide * broadcast_like(weight, wide))
    return Params(sum_to_shape(through_slope, weight.shape).astype(weight.dtype), None), delta_z.astype(delta.dtype)


LAYOUTS = Layouts(pytorch=AS_HERE, keras=AS_HERE)  # Keras: an image's slopes have lengths of 1 before the channels


def layer(*, axes: int = 1, shared: bool = False, weight_init: Initializer = QUARTER) -> Layer[Params]:
    """A PReLU with a slope for each unit of the last `axes` axes of its input, whose dtype it takes.

    Keywords as for `init`.

    Args:
        axes: the number of last axes along which slopes differ; 1 is one for each feature or channel.
        shared: one slope for all units, a weight of `axes` ones as its shape.

    Raises:
        TypeError: axes is no whole number, or shared neither True nor False.
        ValueError: fewer than one axis, or (from init) an input with fewer axes.
    """
    check_size(axes, "prelu.layer", "axes")
    if not isinstance(shared, bool):
        raise TypeError(f"prelu.layer: shared must be True or False, got {describe(shared)}.")

    def init_for(key, x):
        units = last_axes(x, axes, "prelu.init")
        return init(key, (1,) * axes if shared else units, weight_init=weight_init, dtype=x.dtype)

    return Layer(init_for, forward, backward, "prelu", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "prelu",
        (
            r"a = z \text{ if } z > 0 \text{ else } \alpha z",
            r"\partial L/\partial \alpha = \sum \delta\, z\,[z \le 0]",
            r"\partial L/\partial z = \delta\,(1 \text{ if } z > 0 \text{ else } \alpha)",
        ),
        "He et al. (2015), eqs. 1, 3; equation (9.10.1)",
        (
            Example("a slope for each unit", layer(), (5, 3)),
            Example("one slope", layer(shared=True), (2, 5, 3)),
            Example("over two axes", layer(axes=2), (2, 4, 3)),
        ),
        {r"\alpha": ("weight",)},
    ),
)
