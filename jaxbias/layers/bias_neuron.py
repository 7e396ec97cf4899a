"""The bias as a neuron: the dense layer in homogeneous form, one matrix W̃ = [W; bᵀ] of shape (fan_in + 1, fan_out).

A neuron without inputs that always emits 1 joins the units below; the weights of its connections are the biases (A0.1).

Forward     ã = [x, 1],  z = ã W̃                            the same z as x W + 1 bᵀ                                (2)
Backward, with the error signal δ = ∂L/∂z:
            ∂L/∂W̃ = ãᵀ δ                                    its last row is δᵀ 1, the bias gradient            (4.4, 14)
            ∂L/∂x = δ W̃ᵀ without its last column            nothing feeds the constant unit                    (4.4, 8)

`from_dense` and `to_dense` convert params and grads both ways, bit for bit (A0.2). params is Params(W̃, None).

Source: derivation sheet 4.4.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_size
from jaxbias._numerics import matmul, rows
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers import dense
from jaxbias.layouts import Layout, Layouts
from jaxbias.params import Layer, Params, weight_and_bias


class Residuals(NamedTuple):
    x: Float[Array, "*batch fan_in"]
    weight: Float[Array, "fan_in_and_1 fan_out"]


def from_dense(params: Params) -> Params:
    """Params(W, b) → Params([W; bᵀ], None).

    Raises:
        ValueError: there is no bias.
    """
    weight, bias = weight_and_bias(params, "bias_neuron.from_dense", ("fan_in", "fan_out"))
    if bias is None:
        raise ValueError(
            "bias_neuron.from_dense: params has no bias, so there is no bias neuron. Keep the dense layer, or convert "
            "Params(weight, jnp.zeros(fan_out))."
        )
    return Params(jnp.concatenate([weight, bias[None, :]]), None)


def to_dense(params: Params) -> Params:
    """Params([W; bᵀ], None) → Params(W, b).

    Raises:
        ValueError: params has a bias of its own, or no row for the bias neuron.
    """
    weight, bias = params
    if bias is not None or weight.ndim != 2 or weight.shape[0] == 0:
        raise ValueError(
            f"bias_neuron.to_dense: params must be Params([W; bᵀ], None) with a weight of shape (fan_in + 1, fan_out), "
            f"got weight {weight.shape} and bias {bias if bias is None else bias.shape}."
        )
    return Params(weight[:-1], weight[-1])


def init(
    key: Array,
    fan_in: int,
    fan_out: int,
    *,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight (fan_in + 1, fan_out): that of `dense.init`, and its bias as the last row.

    Args:
        weight_init, bias_init: of the dense weight and of its bias, the last row; a function
            `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of the weight.
    """
    return from_dense(dense.init(key, fan_in, fan_out, weight_init=weight_init, bias_init=bias_init, dtype=dtype))


def forward(params: Params, x: Float[Array, "*batch fan_in"]) -> tuple[Float[Array, "*batch fan_out"], Residuals]:
    """z = [x, 1] W̃.

    Raises:
        TypeError: x is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: the last axis of x is not fan_in long, or params has a bias beside the last row of its weight.
    """
    weight, _ = weight_and_bias(params, "bias_neuron.forward", ("fan_in + 1", "fan_out"), bias_axes=0)
    fan_in = weight.shape[0] - 1
    check_features(x, fan_in, "bias_neuron.forward", f"weight has fan_in={fan_in} and one row more, {weight.shape}")
    return matmul(_with_constant_unit(x), weight), Residuals(x, weight)


def backward(
    residuals: Residuals, delta: Float[Array, "*batch fan_out"]
) -> tuple[Params, Float[Array, "*batch fan_in"]]:
    """∂L/∂W̃ = [x, 1]ᵀ δ, ∂L/∂x = δ W̃ᵀ without the constant unit.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, weight = residuals
    delta = check_delta(delta, (*x.shape[:-1], weight.shape[1]), "bias_neuron.backward")
    grad_weight = matmul(rows(_with_constant_unit(x)).T, rows(delta))
    return Params(grad_weight, None), matmul(delta, weight.T)[..., :-1]


def _with_constant_unit(x: Array) -> Array:
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], axis=-1)


LAYOUTS = Layouts(  # the weight and the bias of a dense layer
    pytorch=Layout(
        lambda arrays: {"weight": arrays["weight"][:-1].T, "bias": arrays["weight"][-1]},
        lambda arrays: {"weight": np.concatenate([arrays["weight"].T, arrays["bias"][None]])},
    ),
    keras=Layout(
        lambda arrays: {"kernel": arrays["weight"][:-1], "bias": arrays["weight"][-1]},
        lambda arrays: {"weight": np.concatenate([arrays["kernel"], arrays["bias"][None]])},
    ),
)


def layer(
    fan_out: int,
    *,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[Params]:
    """A dense layer with `fan_out` units whose bias is a neuron; fan_in and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: fan_out is no positive whole number.
    """
    check_size(fan_out, "bias_neuron.layer", "fan_out")

    def init_for(key, x):
        check_float(x, "bias_neuron.init")
        return init(key, x.shape[-1], fan_out, weight_init=weight_init, bias_init=bias_init, dtype=x.dtype)

    return Layer(init_for, forward, backward, "bias_neuron", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "bias_neuron",
        (
            r"z = [x, \mathbf{1}]\,\tilde W,\quad \tilde W = [W; b^\top]",
            r"\partial L/\partial \tilde W = [x, \mathbf{1}]^\top \delta",
            r"\partial L/\partial x = \delta W^\top",
        ),
        "equations 4.4, (8), (10), (14)",
        (
            Example("matrix", layer(4), (5, 3)),
            Example("two leading axes", layer(2), (2, 5, 3)),
            Example("no inputs", layer(2, weight_init=initializers.zeros), (5, 0)),
            Example("no rows", layer(2), (0, 3)),
        ),
    ),
)
