"""Maxout: each unit is the largest of k affine pieces, a convex function that is learned; weight (fan_in, k, units).

x (*batch, fan_in), bias (k, units), any number of leading axes; n rows in all.

Forward     z[n,p,j] = Σ_i x[n,i] W[i,p,j] + b[p,j]        a[n,j] = max_p z[n,p,j]                     (2), (9.10.2)
Backward, with m[n,j] the first p at which z is largest, and δ = ∂L/∂a:
            δz[n,p,j] = δ[n,j] [p = m[n,j]]                                                                   (9.10.2)
            ∂L/∂W = xᵀ δz      ∂L/∂b = Σ_n δz      ∂L/∂x = δz Wᵀ                                       (10), (14), (8)

Where pieces tie, the first of them gets δ and the others 0. A piece that is nowhere largest gets no gradient. Kept are
x, W and m, a byte per unit, not the k products.

No bias is redundant: moving all k biases of a unit by c moves the unit by c, which a bias behind a linear layer can
undo, but one alone moves where the pieces meet.

    >>> layer = maxout.layer(64, pieces=3)

Source: I. Goodfellow et al., Maxout Networks (2013), eq. 1; derivation sheet (9.10.2).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_size
from jaxbias._numerics import matmul, product, rows, sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias


class Residuals(NamedTuple):
    x: Float[Array, "*batch fan_in"]
    weight: Float[Array, "fan_in k units"]
    largest: Integer[Array, "*batch units"]
    has_bias: Static


def init(
    key: Array,
    fan_in: int,
    units: int,
    *,
    pieces: int = 2,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight (fan_in, pieces, units), drawn as a matrix (fan_in, pieces · units), and bias (pieces, units), zero.

    Args:
        pieces: k, how many affine functions a unit is the largest of, at most 256.
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    _check_pieces(pieces, "maxout.init")
    weight, bias = initializers.affine(
        key,
        (fan_in, pieces * units),
        (pieces, units),
        dtype,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
    )
    return Params(weight.reshape(fan_in, pieces, units), bias)


def forward(params: Params, x: Float[Array, "*batch fan_in"]) -> tuple[Float[Array, "*batch units"], Residuals]:
    """a = max over the pieces of x W + b; NaN where one of them is NaN.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: the last axis of x is not fan_in long, the bias not (pieces, units), or more than 256 pieces.
    """
    weight, bias = weight_and_bias(params, "maxout.forward", ("fan_in", "pieces", "units"), bias_axes=2)
    fan_in, pieces, units = weight.shape
    _check_pieces(pieces, "maxout.forward")
    check_features(x, fan_in, "maxout.forward", f"weight has fan_in={fan_in}, shape {weight.shape}")
    z = product(x, weight.reshape(fan_in, pieces * units)).reshape(*x.shape[:-1], pieces, units)
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    largest = lax.argmax(z, z.ndim - 2, jnp.uint8)  # the first one, and the first NaN
    out = jnp.where(_is_largest(largest, pieces), z, 0).sum(axis=-2)
    return out, Residuals(x, weight, largest, Static(bias is not None))


def backward(residuals: Residuals, delta: Float[Array, "*batch units"]) -> tuple[Params, Float[Array, "*batch fan_in"]]:
    """(∂L/∂W = xᵀ δz, ∂L/∂b = Σ δz), ∂L/∂x = δz Wᵀ, with δz = δ at the piece that was largest, else 0.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than a.
    """
    x, weight, largest, has_bias = residuals
    delta = check_delta(delta, largest.shape, "maxout.backward")
    fan_in, pieces, units = weight.shape
    delta_z = jnp.where(_is_largest(largest, pieces), delta[..., None, :], 0)
    of_pieces = delta_z.reshape(*delta.shape[:-1], pieces * units)
    grad_weight = matmul(rows(x).T, rows(of_pieces)).reshape(weight.shape)
    grad_bias = sum_over(delta_z, tuple(range(delta_z.ndim - 2))) if has_bias.value else None
    return Params(grad_weight, grad_bias), matmul(of_pieces, weight.reshape(fan_in, pieces * units).T)


def _is_largest(largest: Array, pieces: int) -> Array:
    """(*batch, pieces, units): whether this piece is the unit's."""
    shape = (*largest.shape[:-1], pieces, largest.shape[-1])
    return lax.broadcasted_iota(jnp.uint8, shape, len(shape) - 2) == largest[..., None, :]


def _check_pieces(pieces: int, function: str) -> None:
    check_size(pieces, function, "pieces")
    if pieces > 256:
        raise ValueError(f"{function}: pieces must be at most 256, got {pieces}.")


LAYOUTS = Layouts(pytorch=AS_HERE)


def layer(
    units: int,
    *,
    pieces: int = 2,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A maxout layer with `units` units of `pieces` pieces each; fan_in and dtype are those of the input.

    Keywords as for `init`.

    Raises:
        TypeError, ValueError: units or pieces is no positive whole number, or more than 256 pieces.
    """
    check_size(units, "maxout.layer", "units")
    _check_pieces(pieces, "maxout.layer")

    def init_for(key, x):
        check_float(x, "maxout.init")
        return init(
            key,
            x.shape[-1],
            units,
            pieces=pieces,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    return Layer(init_for, forward, backward, "maxout", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "maxout",
        (
            r"a_{nj} = \max_p z_{npj}, \quad z_{npj} = \sum_i x_{ni} W_{ipj} + b_{pj}",
            r"\delta_{npj} = \partial L/\partial a_{nj}\,[p = \mathrm{argmax}_q\, z_{nqj}]",
            r"\partial L/\partial W_{ipj} = \sum_n x_{ni} \delta_{npj}",
            r"\partial L/\partial b_{pj} = \sum_n \delta_{npj}",
            r"\partial L/\partial x_{ni} = \sum_{p,j} \delta_{npj} W_{ipj}",
        ),
        "Goodfellow et al. (2013), eq. 1; equation (9.10.2)",
        (
            Example("two pieces", layer(4), (5, 3)),
            Example("three pieces, no bias, two leading axes", layer(2, pieces=3, use_bias=False), (2, 5, 3)),
            Example("one vector", layer(4, pieces=3), (3,)),
            Example("no rows", layer(2), (0, 3)),
        ),
    ),
)
