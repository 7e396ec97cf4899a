"""Bilinear layer: x = (x1, x2), weight W (fan_in1, fan_in2, fan_out), bias b (fan_out,); any number of leading axes.

Forward     z[n,o] = b[o] + Σ_{i,j} x1[n,i] W[i,j,o] x2[n,j]              z_o = x1ᵀ W_o x2 + b_o
Backward, with the error signal δ = ∂L/∂z of the shape of z:
            ∂L/∂W[i,j,o] = Σ_n x1[n,i] x2[n,j] δ[n,o]                     (10) with the product x1 x2ᵀ as activation
            ∂L/∂b[o]     = Σ_n δ[n,o]                                     (14)
            ∂L/∂x1[n,i]  = Σ_{j,o} W[i,j,o] x2[n,j] δ[n,o]                (8) without its σ′ factor, weights W x2
            ∂L/∂x2[n,j]  = Σ_{i,o} W[i,j,o] x1[n,i] δ[n,o]                the same with weights x1ᵀ W

Source: derivation sheet (5) applied to each factor; the layer of torch.nn.Bilinear, whose weight is (out, in1, in2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_size, describe
from jaxbias._numerics import accumulation_dtype, matmul, rows, sum_over, widen
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layouts import Layouts, of_weight
from jaxbias.params import Layer, Params, Static, weight_and_bias


class Residuals(NamedTuple):
    x1: Float[Array, "*batch fan_in1"]
    x2: Float[Array, "*batch fan_in2"]
    weight: Float[Array, "fan_in1 fan_in2 fan_out"]
    has_bias: Static


def init(
    key: Array,
    fan_in1: int,
    fan_in2: int,
    fan_out: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight (fan_in1, fan_in2, fan_out), by default LeCun normal, and bias (fan_out,), by default zero.

    The fan-in is fan_in1 · fan_in2, the number of products that each output adds up.

    Args:
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    weight_shape = (fan_in1, fan_in2, fan_out)
    return initializers.affine(
        key,
        weight_shape,
        (fan_out,),
        dtype,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
        layer="bilinear",
    )


def forward(
    params: Params, x: tuple[Float[Array, "*batch fan_in1"], Float[Array, "*batch fan_in2"]]
) -> tuple[Float[Array, "*batch fan_out"], Residuals]:
    """z_o = x1ᵀ W_o x2 + b_o.

    Raises:
        TypeError: x1 or x2 is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: x is not a pair, the last axes do not fit the weight, the leading axes differ, or the bias is not
            fan_out long.
    """
    weight, bias = weight_and_bias(params, "bilinear.forward", ("fan_in1", "fan_in2", "fan_out"))
    x1, x2 = _pair(x, "bilinear.forward")
    check_features(x1, weight.shape[0], "bilinear.forward (x1)", f"weight has fan_in1={weight.shape[0]}")
    check_features(x2, weight.shape[1], "bilinear.forward (x2)", f"weight has fan_in2={weight.shape[1]}")
    if x1.shape[:-1] != x2.shape[:-1]:
        raise ValueError(
            f"bilinear.forward: x1 and x2 must have the same leading axes, got shapes {x1.shape} and {x2.shape}."
        )
    through = _through_first(x1, weight)
    z = jnp.einsum("njo,nj->no", through, widen(rows(x2))).astype(x1.dtype).reshape(*x1.shape[:-1], weight.shape[2])
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    return z, Residuals(x1, x2, weight, Static(bias is not None))


def backward(
    residuals: Residuals, delta: Float[Array, "*batch fan_out"]
) -> tuple[Params, tuple[Float[Array, "*batch fan_in1"], Float[Array, "*batch fan_in2"]]]:
    """(∂L/∂W, ∂L/∂b), (∂L/∂x1, ∂L/∂x2).

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x1, x2, weight, has_bias = residuals
    delta = check_delta(delta, (*x1.shape[:-1], weight.shape[2]), "bilinear.backward")
    grad_bias = sum_over(delta, tuple(range(delta.ndim - 1))) if has_bias.value else None
    through = _through_first(x1, weight)  # not kept: fan_in2 times as large as z, and one product in one program
    delta_x2 = jnp.einsum("njo,no->nj", through, widen(rows(delta))).astype(x2.dtype).reshape(x2.shape)
    delta_through = _side_by_side(rows(x2)[:, :, None] * rows(delta)[:, None, :])
    grad_weight = matmul(rows(x1).T, delta_through).reshape(weight.shape)
    delta_x1 = matmul(delta_through, _side_by_side(weight).T).reshape(x1.shape)
    return Params(grad_weight, grad_bias), (delta_x1, delta_x2)


def _through_first(x1: Float[Array, "*batch fan_in1"], weight: Array) -> Float[Array, "n fan_in2 fan_out"]:
    """x1ᵀ W, the weight matrix that x2 meets in each row, in at least float32; δ through it is x2 δᵀ."""
    product = jnp.matmul(rows(x1), _side_by_side(weight), preferred_element_type=accumulation_dtype(weight.dtype))
    return product.reshape(len(product), *weight.shape[1:])


def _side_by_side(arrays: Float[Array, "n fan_in2 fan_out"]) -> Float[Array, "n fan_in2*fan_out"]:
    n, fan_in2, fan_out = arrays.shape
    return arrays.reshape(n, fan_in2 * fan_out)


def _pair(x, function: str):
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(f"{function}: x must be a pair (x1, x2) of arrays, got {describe(x)}.")
    return x


LAYOUTS = Layouts(  # PyTorch: weight (out, in1, in2)
    pytorch=of_weight(lambda weight: np.moveaxis(weight, -1, 0), lambda weight: np.moveaxis(weight, 0, -1))
)


def layer(
    fan_out: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A bilinear layer with `fan_out` units; its input is a pair (x1, x2), which also gives the fan-ins and dtype.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: fan_out is no positive whole number.
    """
    check_size(fan_out, "bilinear.layer", "fan_out")

    def init_for(key, x):
        x1, x2 = _pair(x, "bilinear.init")
        check_float(x1, "bilinear.init", "x1")
        return init(
            key,
            x1.shape[-1],
            x2.shape[-1],
            fan_out,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x1.dtype,
        )

    return Layer(init_for, forward, backward, "bilinear", layouts=LAYOUTS)


def _random_pair(*leading: int):
    def draw(key, dtype):
        keys = jax.random.split(key)
        return normal(keys[0], (*leading, 3), dtype), normal(keys[1], (*leading, 4), dtype)

    return draw


DERIVATIONS = (
    Derivation(
        "bilinear",
        (
            r"z_{no} = b_o + \sum_{i,j} x^1_{ni} W_{ijo} x^2_{nj}",
            r"\partial L/\partial W_{ijo} = \sum_n x^1_{ni} x^2_{nj} \delta_{no}",
            r"\partial L/\partial b_o = \sum_n \delta_{no}",
            r"\partial L/\partial x^1_{ni} = \sum_{j,o} W_{ijo} x^2_{nj} \delta_{no}",
            r"\partial L/\partial x^2_{nj} = \sum_{i,o} W_{ijo} x^1_{ni} \delta_{no}",
        ),
        "equations (5), (8), (10), (14)",
        (
            Example("matrices", layer(2), _random_pair(5)),
            Example("no bias", layer(2, use_bias=False), _random_pair(5)),
            Example("two leading axes", layer(2), _random_pair(2, 3)),
            Example("vectors", layer(2), _random_pair()),
            Example("no rows", layer(2), _random_pair(0)),
        ),
    ),
)
