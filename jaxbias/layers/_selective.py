"""The selective state-space model: the input says how long a step is, what it writes and what is read.

params: SelectiveParams(time_step=Params(Wτ (E, E), bτ (E,)), input=Params(W_B (E, S), b_B (S,)),
output=Params(W_C (E, S), b_C (S,)), decay A_log (E, S), skip D (E,)).

Forward     τ = softplus(x Wτ + bτ)     B = x W_B + b_B     C = x W_C + b_C     A = −e^(A_log)               (9.9.5)
            ā = e^(τ A)     h[t] = ā∘h[t−1] + τ B x     y = Σ_s C h + D x                                    (9.9.6)
Backward, with δ = ∂L/∂y and the λ of (9.9.2) for D[t] = C δ:
            δC_s = Σ_e δ h     δB_s = Σ_e λ τ x     δτ_e = Σ_s λ (A ā h₋ + B x)                              (9.9.7)
            ∂L/∂A_log = A Σ λ τ ā h₋     ∂L/∂D = Σ δ x
            δ(before softplus) = δτ (1 − e^−τ), and ∂L/∂bτ is its sum                                        (9.9.8)
            ∂L/∂x = Σ_s λ τ B + D δ + what comes through the three products                                  (9.9.9)
    exact hold, the input held over the whole step, ψ = (ā − 1)/A in the place of τ in h, δB and ∂L/∂x:
            δψ = λ B x        δτ_e = Σ_s (λ h₋ A ā + δψ ā)
            ∂L/∂A = Σ (λ h₋ τ ā + δψ (τ ā − ψ)/A), and A times that is ∂L/∂A_log                             (9.9.10)
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias import initializers
from jaxbias._numerics import sum_over
from jaxbias.initializers import Initializer
from jaxbias.layers._affine import affine, affine_backward
from jaxbias.layers._scan import Recurrence
from jaxbias.params import Params


class SelectiveParams(NamedTuple):
    """What it learns: three products, each with a bias, and how fast the states decay."""

    time_step: Params
    input: Params
    output: Params
    decay: Array
    skip: Array


class Steps(NamedTuple):
    """What each step brings; also their gradients."""

    x: Any
    tau: Array
    b: Array
    c: Array


class Shared(NamedTuple):
    """Gradients of what all steps share."""

    a: Array
    skip: Array


def init(
    key: Array,
    features: int,
    states: int,
    dtype: DTypeLike,
    *,
    use_bias: bool,
    weight_init: Initializer,
    bias_init: Initializer,
    time_step_init: Initializer,
) -> SelectiveParams:
    """A = −1 … −S for each feature, D one; bτ by `time_step_init`, the other biases by `bias_init`."""

    def product(number, width, bias_init):
        return initializers.affine(
            jax.random.fold_in(key, number),
            (features, width),
            (width,),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
        )

    decay = jnp.log(jnp.arange(1, states + 1, dtype=jnp.float32)).astype(dtype)
    return SelectiveParams(
        time_step=product(0, features, time_step_init),
        input=product(1, states, bias_init),
        output=product(2, states, bias_init),
        decay=jnp.broadcast_to(decay[None], (features, states)),
        skip=jnp.ones(features, dtype),
    )


def steps_of(params: SelectiveParams, x: Array) -> Steps:
    """x, τ, B and C.   (9.9.5)"""
    tau = jax.nn.softplus(affine(x, params.time_step))
    return Steps(x, tau, affine(x, params.input), affine(x, params.output))


def recurrence(params: SelectiveParams, exact_hold: bool) -> Recurrence:
    """The scan of these params, which are float32 or wider.   (9.9.6), (9.9.7), (9.9.10)"""
    a = -jnp.exp(params.decay)
    terms, deltas = (_held_terms, _held_deltas) if exact_hold else (_terms, _deltas)
    return Recurrence(partial(terms, a), partial(_read, params.skip), _reached, partial(deltas, a, params.skip))


def _terms(a: Array, steps: Steps) -> tuple[Array, Array]:
    return jnp.exp(steps.tau[..., None] * a[None, None]), (steps.tau * steps.x)[..., None] * steps.b[:, :, None]


def _held_terms(a: Array, steps: Steps) -> tuple[Array, Array]:
    a_bar, _ = _terms(a, steps)
    return a_bar, _psi(a, steps) * steps.x[..., None] * steps.b[:, :, None]


def _psi(a: Array, steps: Steps) -> Array:
    """ψ = (e^(τ A) − 1)/A of each state: how much of the input a step of length τ adds up, τ where A is small."""
    return jnp.expm1(steps.tau[..., None] * a[None, None]) / a[None, None]


# Products of so few numbers are sums here: as `dot_general` over batches of states they take four times as long on CPU.


def _read(skip: Array, steps: Steps, h: Array) -> Array:
    return jnp.sum(h * steps.c[:, :, None], axis=-1) + steps.x * skip[None, None]


def _reached(steps: Steps, delta: Array) -> Array:
    return delta[..., None] * steps.c[:, :, None]


def _deltas(
    a: Array, skip: Array, steps: Steps, a_bar: Array, h_before: Array, h: Array, delta: Array, lam: Array
) -> tuple[Steps, Shared]:
    x, tau, b, _ = steps
    through_decay = lam * a_bar * h_before
    through_input = jnp.sum(lam * b[:, :, None], axis=-1)
    of_steps = Steps(
        x=tau * through_input + delta * skip[None, None],
        tau=jnp.sum(through_decay * a[None, None], axis=-1) + x * through_input,
        b=jnp.sum(lam * (tau * x)[..., None], axis=2),
        c=jnp.sum(h * delta[..., None], axis=2),
    )
    return of_steps, Shared(jnp.sum(through_decay * tau[..., None], axis=(0, 1)), sum_over(x * delta, (0, 1)))


def _held_deltas(
    a: Array, skip: Array, steps: Steps, a_bar: Array, h_before: Array, h: Array, delta: Array, lam: Array
) -> tuple[Steps, Shared]:
    x, tau, b, _ = steps
    psi, a_each = _psi(a, steps), a[None, None]
    through_decay = lam * a_bar * h_before
    delta_psi = lam * b[:, :, None] * x[..., None]
    of_steps = Steps(
        x=jnp.sum(lam * psi * b[:, :, None], axis=-1) + delta * skip[None, None],
        tau=jnp.sum(through_decay * a_each + delta_psi * a_bar, axis=-1),
        b=jnp.sum(lam * psi * x[..., None], axis=2),
        c=jnp.sum(h * delta[..., None], axis=2),
    )
    of_a = through_decay * tau[..., None] + delta_psi * (tau[..., None] * a_bar - psi) / a_each
    return of_steps, Shared(jnp.sum(of_a, axis=(0, 1)), sum_over(x * delta, (0, 1)))


def grads_of(
    params: SelectiveParams, steps: Steps, of_steps: Steps, of_shared: Shared
) -> tuple[SelectiveParams, Array]:
    """The gradients of params, and ∂L/∂x.   (9.9.8), (9.9.9)"""
    before_softplus = of_steps.tau * -jnp.expm1(-steps.tau)
    time_step, from_tau = affine_backward(steps.x, params.time_step, before_softplus)
    input, from_b = affine_backward(steps.x, params.input, of_steps.b)
    output, from_c = affine_backward(steps.x, params.output, of_steps.c)
    decay = -jnp.exp(params.decay) * of_shared.a
    return SelectiveParams(time_step, input, output, decay, of_shared.skip), of_steps.x + from_tau + from_b + from_c
