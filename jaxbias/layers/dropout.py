"""Dropout: in training each unit is silenced with probability p, and the others are scaled up. No params.

Forward     z = M x / q,  M ~ Bernoulli(q),  q = 1 − p                              5.5
Backward    ∂L/∂x = M δ / q       the same mask                                     5.5
Inference   z = x

The scale keeps the expectation: E[z] = x. A silenced unit of a sample has δ = 0 below it, so that sample adds nothing
to the gradient of the bias that fed it (A2.7). With p = 1 everything is silenced, and z = 0.

The random key is the layer's state: `forward` draws the mask from it, `step` gives the key of the next step. The mask
is kept for backward as bools, a byte per unit.

Source: N. Srivastava et al., Dropout (2014), sec. 10 for scaling in training; derivation sheet 5.5.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxbias._doors import check_delta, check_float, check_key, check_no_params, check_number
from jaxbias.derivation import Derivation, Example
from jaxbias.layers.activations import identity
from jaxbias.params import Layer, State, Static


class Residuals(NamedTuple):
    mask: Bool[Array, "*shape"]
    scale: Static


def forward(
    params: tuple[()], x: Float[Array, "*shape"], key: Array | None = None, *, rate: float = 0.5
) -> tuple[Float[Array, "*shape"], Residuals]:
    """z = M x / q, the form for training.

    Args:
        params: nothing is learned; `()`.
        key: the state. One key gives one mask.
        rate: p, the probability of silencing a unit.

    Raises:
        TypeError: x is not floating point, or the state is no key.
        ValueError: no key, a rate outside [0, 1], or params that another layer learns.
    """
    check_no_params(params, "dropout.forward")
    if key is None:
        raise ValueError(
            "dropout.forward: the state is missing, a random key from which the mask is drawn. Pass "
            "layer.state.init(key, x), or use jb.inference(layer) when not training."
        )
    check_key(key, "dropout.forward")
    check_float(x, "dropout.forward")
    _check_rate(rate, "dropout.forward")
    keep = 1 - rate
    mask_key, _ = jax.random.split(key)
    # float32, so that a mask does not depend on jax_enable_x64.
    mask = jax.random.bernoulli(mask_key, jnp.float32(keep), x.shape)
    residuals = Residuals(mask, Static(1 / keep if keep > 0 else 0.0))
    return _masked(residuals, x), residuals


def backward(residuals: Residuals, delta: Float[Array, "*shape"]) -> tuple[tuple[()], Float[Array, "*shape"]]:
    """∂L/∂x = M δ / q.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    delta = check_delta(delta, residuals.mask.shape, "dropout.backward")
    return (), _masked(residuals, delta)


def step(key: Array, residuals: Residuals | None = None) -> Array:
    """The key of the next training step."""
    del residuals
    return jax.random.split(key)[1]


def _masked(residuals: Residuals, values: Array) -> Array:
    # A select and no product: 0 · ∞ is not 0.
    return jnp.where(residuals.mask, values * residuals.scale.value, 0)


def _check_rate(rate: float, function: str) -> None:
    check_number(rate, function, "rate")
    if not 0 <= rate <= 1:
        raise ValueError(f"{function}: rate is the probability of silencing a unit, in [0, 1]; got {rate}.")


def layer(rate: float = 0.5) -> Layer[tuple[()]]:
    """Dropout with probability `rate`; its state is a key, and `jb.inference` makes it the identity.

    Raises:
        ValueError: a rate outside [0, 1].
    """
    _check_rate(rate, "dropout")

    def init(key, x):
        del key
        check_float(x, "dropout.init")
        return ()

    state = State(lambda key, x: key, step, identity._replace(name="dropout"))
    return Layer(init, partial(forward, rate=rate), backward, "dropout", state=state)


DERIVATIONS = (
    Derivation(
        "dropout",
        (r"z = M x / q, \quad M \sim \mathrm{Bernoulli}(q)", r"\partial L/\partial x = M \delta / q"),
        "Srivastava et al. (2014), sec. 10; derivation sheet 5.5",
        (
            Example("rate 0.5", layer(), (5, 4)),
            Example("rate 0.1, images", layer(0.1), (2, 3, 3, 2)),
            Example("rate 0", layer(0.0), (5, 4)),
            Example("rate 1", layer(1.0), (5, 4)),
            Example("no rows", layer(), (0, 4)),
        ),
    ),
)
