"""The state-space model whose state decays at fixed rates: S numbers, real or complex, for each of E features.

params: DiagonalParams(decay ν (E, S), output=Params(C (E, S), b (E,)), skip D (E,), and input B (E, S) of a real state,
or angle θ (E, S) of a complex one). C of a complex state is (2, E, S), its real and its imaginary part, and B = 1: a
factor of B could be moved into C.

Forward     a = e^(−e^ν), complex e^(−e^ν + iθ)      h[t] = a∘h[t−1] + B x[t]
            y[t] = Σ_s C h[t] + D x[t] + b, of a complex state Re(C h[t])
Backward, with δ = ∂L/∂y and the λ of (9.9.2) for D[t] = C δ[t]:
            ∂L/∂a = Σ λ h₋     ∂L/∂B = Σ λ x      ∂L/∂C = Σ h δ     ∂L/∂D = Σ x δ     ∂L/∂b = Σ δ
            ∂L/∂x = Σ_s λ B + D δ             ∂L/∂ν = −e^ν a ∂L/∂a                                           (9.9.3)
    complex λ = ∂L/∂(Re h) − i ∂L/∂(Im h), never conjugated;  g = Σ λ h₋ a:
            ∂L/∂ν = −e^ν Re g        ∂L/∂θ = −Im g
            ∂L/∂(Re C) = Σ δ Re h    ∂L/∂(Im C) = −Σ δ Im h    ∂L/∂x = Re Σ_s λ + D δ                        (9.9.4)
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias import initializers
from jaxbias._numerics import sum_over
from jaxbias.initializers import Initializer, by_name
from jaxbias.layers._scan import Recurrence
from jaxbias.params import Params


class DiagonalParams(NamedTuple):
    """What it learns; None for what is not there."""

    decay: Array
    output: Params
    skip: Array
    input: Any = None
    angle: Any = None


class Steps(NamedTuple):
    x: Any


class Shared(NamedTuple):
    """Gradients of what all steps share."""

    a: Array
    input: Array | None
    output: Params
    skip: Array


def init(
    key: Array,
    features: int,
    states: int,
    dtype: DTypeLike,
    *,
    use_bias: bool,
    bias_init: Initializer,
    time_step_init: Initializer,
    is_complex: bool,
) -> DiagonalParams:
    """With a time step Δ of each feature, Δ = softplus(bτ) for the bτ that `time_step_init` draws: rates e^ν = Δ s and
    B = Δ, or the rate Δ/2 and the angles θ = Δ π (s − 1); D one, C normal, so that y begins near the size of x."""
    step_key, output_key, bias_key = (jax.random.fold_in(key, i) for i in range(3))
    step = jax.nn.softplus(by_name(time_step_init)(step_key, (features,), jnp.float32))
    steps = jnp.broadcast_to(step[:, None], (features, states))
    number = jnp.broadcast_to(jnp.arange(1, states + 1, dtype=jnp.float32)[None], steps.shape)
    rate = steps / 2 if is_complex else steps * number
    weight = initializers.normal(states**-0.5)(output_key, (2, features, states) if is_complex else steps.shape)
    bias = by_name(bias_init)(bias_key, (features,), dtype) if use_bias else None
    return DiagonalParams(
        decay=jnp.log(rate).astype(dtype),
        output=Params((weight * steps[None] if is_complex else weight).astype(dtype), bias),
        skip=jnp.ones(features, dtype),
        input=None if is_complex else steps.astype(dtype),
        angle=(steps * jnp.pi * (number - 1)).astype(dtype) if is_complex else None,
    )


def steps_of(params: DiagonalParams, x: Array) -> Steps:
    """What each step brings."""
    del params
    return Steps(x)


def recurrence(params: DiagonalParams) -> Recurrence:
    """The scan of these params, which are float32 or wider."""
    a, c = _rates(params), _readout(params)
    b = jnp.ones_like(a) if params.input is None else params.input
    return Recurrence(
        partial(_terms, a, b), partial(_read, c, params), partial(_reached, c), partial(_deltas, b, params)
    )


def _terms(a: Array, b: Array, steps: Steps) -> tuple[Array, Array]:
    of_step = jnp.broadcast_to(a[None, None], (len(steps.x), 1, *a.shape))
    return of_step, steps.x[..., None].astype(b.dtype) * b[None, None]


def _read(c: Array, params: DiagonalParams, steps: Steps, h: Array) -> Array:
    y = jnp.sum((h * c[None, None]).real, axis=-1) + steps.x * params.skip[None, None]
    return y if params.output.bias is None else y + params.output.bias[None, None]


def _reached(c: Array, steps: Steps, delta: Array) -> Array:
    del steps
    return delta[..., None].astype(c.dtype) * c[None, None]


def _deltas(
    b: Array, params: DiagonalParams, steps: Steps, a: Array, h_before: Array, h: Array, delta: Array, lam: Array
) -> tuple[Steps, Shared]:
    del a
    x = steps.x
    by_state = jnp.sum(h * delta[..., None].astype(h.dtype), axis=(0, 1))
    shared = Shared(
        a=jnp.sum(lam * h_before, axis=(0, 1)),
        input=None if params.input is None else jnp.sum(lam * x[..., None], axis=(0, 1)),
        output=Params(
            jnp.stack([by_state.real, -by_state.imag]) if params.angle is not None else by_state,
            None if params.output.bias is None else sum_over(delta, (0, 1)),
        ),
        skip=sum_over(x * delta, (0, 1)),
    )
    return Steps(jnp.sum((lam * b[None, None]).real, axis=-1) + delta * params.skip[None, None]), shared


def grads_of(params: DiagonalParams, steps: Steps, of_steps: Steps, of_shared: Shared) -> tuple[DiagonalParams, Array]:
    """The gradients of params, and ∂L/∂x."""
    del steps
    g = of_shared.a * _rates(params)
    grads = DiagonalParams(
        decay=-jnp.exp(params.decay) * g.real,  # (9.9.3), (9.9.4)
        output=of_shared.output,
        skip=of_shared.skip,
        input=of_shared.input,
        angle=None if params.angle is None else -g.imag,
    )
    return grads, of_steps.x


def _rates(params: DiagonalParams) -> Array:
    """a."""
    if params.angle is None:
        return jnp.exp(-jnp.exp(params.decay))
    return jnp.exp(lax.complex(-jnp.exp(params.decay), params.angle))


def _readout(params: DiagonalParams) -> Array:
    """C."""
    weight = params.output.weight
    return weight if params.angle is None else lax.complex(weight[0], weight[1])
