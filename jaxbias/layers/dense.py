"""Dense layer: weight W (fan_in, fan_out), bias b (fan_out,), any number of leading axes; n rows in all.

Forward     z = x W + 1 bᵀ        z[n,j] = Σ_i x[n,i] W[i,j] + b[j]                 (2)
Backward, with the error signal δ = ∂L/∂z of the shape of z:
            ∂L/∂W = xᵀ δ                                                            (10)
            ∂L/∂b = δᵀ 1          each row's δ, summed; needs no residual           (14)
            ∂L/∂x = δ Wᵀ          (8) without its σ′ factor

Source: M. Nielsen, Neural Networks and Deep Learning (2015), ch. 2, BP2-BP4. His w[j,k] is our W[k,j].
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_size
from jaxbias._numerics import matmul, product, rows, sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layouts import AS_HERE, Layouts, of_weight
from jaxbias.params import Layer, Params, Static, weight_and_bias


class Residuals(NamedTuple):
    x: Float[Array, "*batch fan_in"]
    weight: Float[Array, "fan_in fan_out"]
    has_bias: Static


def init(
    key: Array,
    fan_in: int,
    fan_out: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight (fan_in, fan_out), by default LeCun normal, and bias (fan_out,), by default zero (A1.21).

    Args:
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    return initializers.affine(
        key,
        (fan_in, fan_out),
        (fan_out,),
        dtype,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
        layer="dense",
    )


def forward(params: Params, x: Float[Array, "*batch fan_in"]) -> tuple[Float[Array, "*batch fan_out"], Residuals]:
    """z = x W + 1 bᵀ.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: the last axis of x is not fan_in long, or the bias not fan_out.
    """
    weight, bias = weight_and_bias(params, "dense.forward", ("fan_in", "fan_out"))
    check_features(x, weight.shape[0], "dense.forward", f"weight has fan_in={weight.shape[0]}, shape {weight.shape}")
    z = product(x, weight)
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    return z, Residuals(x, weight, Static(bias is not None))


def backward(
    residuals: Residuals, delta: Float[Array, "*batch fan_out"]
) -> tuple[Params, Float[Array, "*batch fan_in"]]:
    """(∂L/∂W = xᵀ δ, ∂L/∂b = δᵀ 1), ∂L/∂x = δ Wᵀ.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, weight, has_bias = residuals
    delta = check_delta(delta, (*x.shape[:-1], weight.shape[1]), "dense.backward")
    grad_weight = matmul(rows(x).T, rows(delta))
    grad_bias = sum_over(delta, tuple(range(delta.ndim - 1))) if has_bias.value else None
    return Params(grad_weight, grad_bias), matmul(delta, weight.T)


LAYOUTS = Layouts(pytorch=of_weight(np.transpose, np.transpose), keras=AS_HERE)  # PyTorch: weight (out, in)


def layer(
    fan_out: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A dense layer with `fan_out` units; fan_in and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: fan_out is no positive whole number.
    """
    check_size(fan_out, "dense.layer", "fan_out")

    def init_for(key, x):
        check_float(x, "dense.init")
        return init(
            key,
            x.shape[-1],
            fan_out,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    return Layer(init_for, forward, backward, "dense", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "dense",
        (
            r"z = x W + \mathbf{1} b^\top",
            r"\partial L/\partial W = x^\top \delta",
            r"\partial L/\partial b = \delta^\top \mathbf{1}",
            r"\partial L/\partial x = \delta W^\top",
        ),
        "Nielsen (2015), ch. 2, BP2-BP4; equations (2), (8), (10), (14)",
        (
            Example("matrix", layer(4), (5, 3)),
            Example("no bias", layer(4, use_bias=False), (5, 3)),
            Example("vector", layer(4), (3,)),
            Example("two leading axes", layer(2), (2, 5, 3)),
            Example("no rows", layer(2), (0, 3)),
            Example("size 1", layer(1), (1, 1)),
        ),
    ),
)
