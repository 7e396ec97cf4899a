"""Gumbel softmax: a class is drawn from logits, and the error signal passes as if it had not been; no params.

Forward     y = softmax((z + G)/τ) along one axis, G Gumbel noise of its own for every entry             (9.10.12)
            a = y, or with hard=True the one-hot row of the largest y, which is class k with probability softmax(z)[k]
Backward    ∂L/∂z = y (δ − Σ y δ)/τ                                                                      (9.10.12)
Inference   the same without noise

With hard=True, "straight-through", that is the slope of y and not of a, which is constant but for jumps: backward is
on purpose not the derivative of forward, and differences of the loss do not give it. `jax.grad` of forward gives it
too. It is biased; for τ → 0 less so, with a variance that grows as 1/τ².

One constant on all logits is redundant, so is one component of a bias before the layer: Σ ∂L/∂z = 0.

The random key is the layer's state, as that of `dropout`. At a tie of y the first class is taken.

Source: E. Jang et al., Categorical Reparameterization with Gumbel-Softmax (2017), eqs. 1-2 and sec. 2.2; derivation
sheet (9.10.12).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._doors import check_delta, check_flag, check_float, check_key, check_no_params, check_number
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example
from jaxbias.layers._coupled import check_axis
from jaxbias.params import Layer, State, Static


class Residuals(NamedTuple):
    y: Float[Array, "*shape"]
    temperature: Static
    axis: Static


def forward(
    params: tuple[()],
    x: Float[Array, "*shape"],
    key: Array | None = None,
    *,
    temperature: float = 1.0,
    hard: bool = True,
    axis: int = -1,
) -> tuple[Float[Array, "*shape"], Residuals]:
    """A draw from softmax(z): one-hot, or with hard=False its relaxation.

    Args:
        params: nothing is learned; `()`.
        x: logits z.
        key: the state. One key gives one draw.
        temperature: τ > 0.
        hard: whether a is one-hot.
        axis: of the classes.

    Raises:
        TypeError: x is not floating point, the state is no key, or an option of another kind.
        ValueError: no key, a temperature that is not above 0, an axis that x does not have, or params that another
            layer learns.
    """
    if key is None:
        raise ValueError(
            "gumbel_softmax.forward: the state is missing, a random key from which the noise is drawn. Pass "
            "layer.state.init(key, x), or use jb.inference(layer) when not training."
        )
    check_key(key, "gumbel_softmax.forward")
    noise_key, _ = jax.random.split(key)
    draw = partial(jax.random.gumbel, noise_key, dtype=jnp.float32)  # the same draw in every dtype
    return _forward(params, x, draw, temperature, hard, axis)


def backward(residuals: Residuals, delta: Float[Array, "*shape"]) -> tuple[tuple[()], Float[Array, "*shape"]]:
    """∂L/∂z = y (δ − Σ y δ)/τ, whether a is one-hot or not.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than a.
    """
    y, temperature, axis = residuals
    delta = check_delta(delta, y.shape, "gumbel_softmax.backward")
    y, wide = widen(y), widen(delta)
    mean = (y * wide).sum(axis=axis.value, keepdims=True)
    return (), (y * (wide - mean) / temperature.value).astype(delta.dtype)


def step(key: Array, residuals: Residuals | None = None) -> Array:
    """The key of the next training step."""
    del residuals
    return jax.random.split(key)[1]


def _forward(params, x, draw, temperature, hard, axis):
    check_no_params(params, "gumbel_softmax.forward")
    check_axis(axis, "gumbel_softmax")(x, "gumbel_softmax.forward")
    _check_options(temperature, hard, "gumbel_softmax.forward")
    z = widen(x)
    noisy = z if draw is None else z + draw(x.shape).astype(z.dtype)
    y = jax.nn.softmax(noisy / temperature, axis=axis)
    a = y
    if hard:
        taken = jnp.expand_dims(jnp.argmax(y, axis=axis), axis)
        one_hot = jax.lax.broadcasted_iota(taken.dtype, y.shape, axis % y.ndim) == taken
        a = one_hot.astype(y.dtype) + (y - jax.lax.stop_gradient(y))  # a sum with 0, whose slope is that of y
    return a.astype(x.dtype), Residuals(y.astype(x.dtype), Static(temperature), Static(axis))


def _check_options(temperature: float, hard: bool, function: str) -> None:
    check_number(temperature, function, "temperature")
    if not temperature > 0:
        raise ValueError(f"{function}: temperature must be above 0, got {temperature}.")
    check_flag(hard, function, "hard")


def layer(temperature: float = 1.0, *, hard: bool = True, axis: int = -1) -> Layer[tuple[()]]:
    """A draw of one class; its state is a key, and `jb.inference` takes the noise away.

    Keywords as for `forward`.

    Raises:
        TypeError: an option of another kind.
        ValueError: a temperature that is not above 0.
    """
    check = check_axis(axis, "gumbel_softmax")
    _check_options(temperature, hard, "gumbel_softmax.layer")

    def init(key, x):
        del key
        check_float(x, "gumbel_softmax.init")
        check(x, "gumbel_softmax.init")
        return ()

    def without_noise(params, x):
        return _forward(params, x, None, temperature, hard, axis)

    bound = partial(forward, temperature=temperature, hard=hard, axis=axis)
    inference = Layer(init, without_noise, backward, "gumbel_softmax")
    state = State(lambda key, x: key, step, inference)
    return Layer(init, bound, backward, "gumbel_softmax", state=state)


DERIVATIONS = (
    Derivation(
        "gumbel_softmax",
        (
            r"y = \mathrm{softmax}((z + G)/\tau), \quad a = y \text{ or its one-hot row}",
            r"\partial L/\partial z = y \left(\delta - \sum_i y_i \delta_i\right) / \tau",
        ),
        "Jang et al. (2017), eqs. 1-2; equation (9.10.12)",
        (  # none with hard=True: its δ is not what differences of a give
            Example("soft, temperature ½", layer(0.5, hard=False), (5, 3)),
            Example("soft, middle axis", layer(hard=False, axis=1), (2, 3, 4)),
            Example("no rows", layer(hard=False), (0, 3)),
        ),
    ),
)
