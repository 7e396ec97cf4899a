"""Gated linear unit: two products of the input, one of them a gate for the other, and a third back; a bias in each.

params: gate = Params(Wg, bg), up = Params(Wu, bu), down = Params(Wd, bd), with Wg and Wu (fan_in, hidden) and Wd
(hidden, fan_out). Any number of leading axes; n rows in all.

Forward     g = x Wg + bg      u = x Wu + bu      a = φ(g) ∘ u      z = a Wd + bd                   (9.4.1)
Backward, with the error signal δ = ∂L/∂z of the shape of z:
            ∂L/∂Wd = aᵀ δ      ∂L/∂bd = Σ δ       δa = δ Wdᵀ                                        (9.4.2)
            δu = δa ∘ φ(g)     δg = δa ∘ u ∘ φ′(g)                                                  (9.4.3)
            ∂L/∂Wu = xᵀ δu     ∂L/∂bu = Σ δu      ∂L/∂Wg = xᵀ δg     ∂L/∂bg = Σ δg                  (9.4.4)
            ∂L/∂x = δg Wgᵀ + δu Wuᵀ               x reaches z on both ways                          (9.4.5)

    gate         φ                 name
    sigmoid      σ(g)              GLU
    silu         g σ(g)            SwiGLU
    gelu         g Φ(g)            GEGLU (gelu_tanh: its tanh form)
    relu         max(g, 0)         ReGLU
    identity     g                 bilinear

Backward needs g and u and computes φ, φ′ and a again, where autodiff keeps all of them: less than 0.6 of its memory for
each gate above but the bilinear one (0.71). With `recompute=True` x alone is kept and g and u are computed again, too,
for two products more. No bias is redundant. In one product for both halves, as `jax.nn.glu` and torch.nn.functional.glu
take it, the gate is the second half.

    >>> layer = glu.layer(16, gate="silu")
    >>> params = layer.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> z, residuals = layer.forward(params, jnp.ones((2, 4)))          # (2, 4): fan_out is fan_in unless said

Source: Y. Dauphin et al., Language Modeling with Gated Convolutional Networks (2017); N. Shazeer, GLU Variants Improve
Transformer (2020); equations 9.4.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_size, describe
from jaxbias._numerics import matmul, product, rows, sum_over, widen
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers import activations
from jaxbias.layouts import Arrays, Layout, Layouts
from jaxbias.params import Layer, Params, weight_and_bias

GATES: dict[str, Layer[tuple[()]]] = {
    name: getattr(activations, name) for name in ("sigmoid", "silu", "gelu", "gelu_tanh", "relu", "identity")
}
"""Name → φ."""

PRODUCTS = ("gate", "up", "down")


class GluParams(NamedTuple):
    """The three products, each with its own bias or None."""

    gate: Params
    up: Params
    down: Params


class Residuals(NamedTuple):
    x: Float[Array, "*batch fan_in"]
    products: tuple[Array, Array] | None  # g and u; None where backward computes them again
    params: GluParams


def init(
    key: Array,
    fan_in: int,
    hidden: int,
    fan_out: int,
    *,
    use_bias: bool | Sequence[str] = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> GluParams:
    """Three weights, by default LeCun normal, and three biases, by default zero.

    Args:
        use_bias: True or False for all three, or the names of the products that have one, out of "gate", "up", "down".
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of all of them.
    """
    with_bias = _with_bias(use_bias, "glu.init")
    shapes = {"gate": (fan_in, hidden), "up": (fan_in, hidden), "down": (hidden, fan_out)}
    return GluParams(
        *(
            initializers.affine(
                jax.random.fold_in(key, i),
                shape,
                shape[1:],
                dtype,
                use_bias=name in with_bias,
                weight_init=weight_init,
                bias_init=bias_init,
            )
            for i, (name, shape) in enumerate(shapes.items())
        )
    )


def forward(
    params: GluParams, x: Float[Array, "*batch fan_in"], *, gate: str | Layer = "sigmoid", recompute: bool = False
) -> tuple[Float[Array, "*batch fan_out"], Residuals]:
    """z = (φ(x Wg + bg) ∘ (x Wu + bu)) Wd + bd.

    Args:
        gate: φ, a name of the table above or an elementwise layer without params such as `jb.layers.softplus`.
        recompute: keep x alone for backward.

    Raises:
        TypeError: x is not floating point, or params is no `GluParams` of `Params`.
        ValueError: shapes that do not fit together, or another gate.
    """
    _check_params(params)
    phi = _gate(gate, "glu.forward")
    fan_in = params.gate.weight.shape[0]
    check_features(x, fan_in, "glu.forward", f"the gate's weight has fan_in={fan_in}")
    g, u = _affine(x, params.gate), _affine(x, params.up)
    z = _affine(_gated(phi, g, u)[0].astype(x.dtype), params.down)
    return z, Residuals(x, None if recompute else (g, u), params)


def backward(
    residuals: Residuals,
    delta: Float[Array, "*batch fan_out"],
    *,
    gate: str | Layer = "sigmoid",
    recompute: bool = False,
) -> tuple[GluParams, Float[Array, "*batch fan_in"]]:
    """Weight and bias of each product, and ∂L/∂x; the keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    del recompute  # the residuals say
    x, products, params = residuals
    delta = check_delta(delta, (*x.shape[:-1], params.down.weight.shape[1]), "glu.backward")
    phi = _gate(gate, "glu.backward")
    g, u = products or (_affine(x, params.gate), _affine(x, params.up))

    a, gate_value, kept = _gated(phi, g, u)
    delta_a = widen(matmul(delta, params.down.weight.T))  # (9.4.2)
    delta_u = (delta_a * gate_value).astype(delta.dtype)  # (9.4.3)
    delta_g = phi.backward(kept, delta_a * widen(u))[1].astype(delta.dtype)
    grads = GluParams(
        gate=_affine_grads(x, delta_g, params.gate),  # (9.4.4)
        up=_affine_grads(x, delta_u, params.up),
        down=_affine_grads(a.astype(delta.dtype), delta, params.down),
    )
    return grads, matmul(delta_g, params.gate.weight.T) + matmul(delta_u, params.up.weight.T)  # (9.4.5)


def _affine(x: Array, params: Params) -> Array:
    z = product(x, params.weight)
    return z if params.bias is None else z + jnp.broadcast_to(params.bias, z.shape)


def _affine_grads(x: Array, delta: Array, params: Params) -> Params:
    grad_bias = None if params.bias is None else sum_over(delta, tuple(range(delta.ndim - 1)))
    return Params(matmul(rows(x).T, rows(delta)), grad_bias)


def _gated(phi: Layer, g: Array, u: Array):
    """a = φ(g) ∘ u and φ(g) in at least float32, and what φ keeps for its own backward."""
    gate_value, kept = phi.forward((), widen(g))
    return gate_value * widen(u), gate_value, kept


def _gate(gate: str | Layer, function: str) -> Layer:
    if isinstance(gate, Layer):
        return gate
    if not isinstance(gate, str) or gate not in GATES:
        raise ValueError(
            f"{function}: gate must be one of {', '.join(GATES)}, or an elementwise layer, got {describe(gate)}."
        )
    return GATES[gate]


def _with_bias(use_bias: bool | Sequence[str], function: str) -> tuple[str, ...]:
    if isinstance(use_bias, bool):
        return PRODUCTS if use_bias else ()
    names = tuple(use_bias) if isinstance(use_bias, Sequence) and not isinstance(use_bias, str) else (use_bias,)
    if any(name not in PRODUCTS for name in names):
        raise ValueError(
            f"{function}: use_bias must be True, False or names out of {', '.join(PRODUCTS)}, got {use_bias!r}."
        )
    return names


def _check_params(params: GluParams) -> None:
    if not isinstance(params, GluParams):
        raise TypeError(
            f"glu.forward: params must be GluParams(gate, up, down), each a jb.Params, got {describe(params)}. Make it "
            f"with layer.init(key, x)."
        )
    gate, up, down = (
        weight_and_bias(product, f"glu.forward ({name})", axes)[0]
        for product, name, axes in zip(params, PRODUCTS, [("fan_in", "hidden")] * 2 + [("hidden", "fan_out")])
    )
    if up.shape != gate.shape or down.shape[0] != gate.shape[1]:
        raise ValueError(
            f"glu.forward: weights must be (fan_in, hidden), (fan_in, hidden) and (hidden, fan_out), got gate "
            f"{gate.shape}, up {up.shape} and down {down.shape}."
        )


def _renamed(there: str, here: str, arrays: Arrays) -> Arrays:
    """`gate.weight` ↔ `gate_proj.weight`; weights are (out, in) there."""
    renamed = {}
    for name, array in arrays.items():
        product, leaf = name.split(".")
        renamed[f"{product.removesuffix(here)}{there}.{leaf}"] = array.T if leaf == "weight" else array
    return renamed


# PyTorch has no such module: these are the names in the state dicts of LLaMA and its kin
LAYOUTS = Layouts(pytorch=Layout(partial(_renamed, "_proj", ""), partial(_renamed, "", "_proj")))


def layer(
    hidden: int,
    fan_out: int | None = None,
    *,
    gate: str | Layer = "sigmoid",
    recompute: bool = False,
    use_bias: bool | Sequence[str] = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[GluParams]:
    """A gated linear unit with `hidden` gates; fan_in and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Args:
        fan_out: units of the output; None for as many as the input has, so that `jb.residual` takes the block.

    Raises:
        TypeError, ValueError: hidden or fan_out is no positive whole number, another gate, or another `use_bias`.
    """
    check_size(hidden, "glu.layer", "hidden")
    if fan_out is not None:
        check_size(fan_out, "glu.layer", "fan_out")
    _gate(gate, "glu.layer")
    _with_bias(use_bias, "glu.layer")

    def init_for(key, x):
        check_float(x, "glu.init")
        fan_in = x.shape[-1]
        return init(
            key,
            fan_in,
            hidden,
            fan_in if fan_out is None else fan_out,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    keywords = {"gate": gate, "recompute": recompute}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "glu", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "glu",
        (
            r"z = (\varphi(g) \circ u) W_d + b_d, \quad g = x W_g + b_g, \quad u = x W_u + b_u",
            r"\delta_u = \delta W_d^\top \circ \varphi(g), \quad \delta_g = \delta W_d^\top \circ u \circ \varphi'(g)",
            r"\partial L/\partial W_d = (\varphi(g) \circ u)^\top \delta",
            r"\partial L/\partial b_d = \sum \delta",
            r"\partial L/\partial W_g = x^\top \delta_g",
            r"\partial L/\partial b_g = \sum \delta_g",
            r"\partial L/\partial W_u = x^\top \delta_u",
            r"\partial L/\partial b_u = \sum \delta_u",
            r"\partial L/\partial x = \delta_g W_g^\top + \delta_u W_u^\top",
        ),
        "Dauphin et al. (2017), Shazeer (2020); equations 9.4",
        (
            Example("SwiGLU", layer(4, gate="silu"), (5, 3)),
            Example(
                "GLU, another width, one bias, recomputed", layer(4, 2, use_bias=["gate"], recompute=True), (2, 3, 3)
            ),
            Example("bilinear, no bias, no rows", layer(4, gate="identity", use_bias=False), (0, 3)),
        ),
        {
            "W_d": ("down.weight",),
            "b_d": ("down.bias",),
            "W_g": ("gate.weight",),
            "b_g": ("gate.bias",),
            "W_u": ("up.weight",),
            "b_u": ("up.bias",),
        },
    ),
)
