"""Activations a = σ(z): elementwise unless stated, no params.

Forward     a = σ(z)
Backward    ∂L/∂z = δ σ′(z)                                                         (7)

σ′ is written from the output a where that is possible, so that only a has to be kept.

Source: derivation sheet 4.3.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._numerics import check_float
from jaxbias.derivation import Derivation, Example
from jaxbias.params import Layer


def elementwise(
    name: str, function: Callable[[Array], Array], derivative: Callable[[Array], Array], keep: str = "output"
) -> Layer:
    """A layer a = function(z) whose backward is δ · derivative(kept), where kept is the "output" a or the "input" z."""

    def init(key, x):
        del key
        check_float(x, f"{name}.init")
        return ()

    def forward(params, x):
        del params
        check_float(x, f"{name}.forward")
        out = function(x)
        return out, out if keep == "output" else x

    def backward(residuals, delta):
        return (), delta * derivative(residuals)

    return Layer(init, forward, backward, name)


relu = elementwise("relu", lambda z: jnp.where(z > 0, z, 0), lambda a: (a > 0).astype(a.dtype))
"""a = max(z, 0); σ′ = [a > 0], so σ′(0) = 0."""

tanh = elementwise("tanh", jnp.tanh, lambda a: 1 - a * a)
"""a = tanh z; σ′ = 1 − a²."""

DERIVATIONS = (
    Derivation(
        "relu",
        (r"a = \max(z, 0)", r"\partial L/\partial z = \delta\,[a > 0]"),
        "derivation sheet 4.3",
        (Example("matrix", relu, (5, 3)),),
    ),
    Derivation(
        "tanh",
        (r"a = \tanh z", r"\partial L/\partial z = \delta\,(1 - a^2)"),
        "derivation sheet 4.3",
        (Example("matrix", tanh, (5, 3)),),
    ),
)
