"""Batch norm: each feature is normalised over the batch and all positions; scale γ (weight), shift β (bias).

Training    μ = mean x,  v = mean (x − μ)²,  r = 1/√(v + eps)       over all axes but the last, m entries
            x̂ = (x − μ) r,  z = γ x̂ + β
Backward, with δ = ∂L/∂z and sums over the same m entries:
            ∂L/∂γ = Σ δ x̂         the incoming activation is x̂                              (10)
            ∂L/∂β = Σ δ                                                                      (14), 4.5
            ∂L/∂x = γ r (δ − (∂L/∂β + x̂ ∂L/∂γ)/m)                                           (8)
            x reaches z directly, through μ and through v: one term for each way (5).
Inference   the same x̂ and z with the running μ and v, which do not depend on x, so that
            ∂L/∂x = γ r δ

The entries of ∂L/∂x sum to 0 over the m entries: the gradient of a bias directly before batch norm is 0 in training,
and that bias is redundant; β takes its place (5.3, E6).

Running statistics are the layer's state and never sit in params:
            μ_run ← (1 − momentum) μ_run + momentum μ
            v_run ← (1 − momentum) v_run + momentum v m/(m − 1)
As in PyTorch, momentum is the share of the new batch, the biased variance normalises, and the unbiased one is averaged;
ONNX, Keras and Flax average the biased one, and their momentum is the share of the old.
One entry (m = 1) has v = 0, hence x̂ = 0, z = β and ∂L/∂x = 0; it has no unbiased variance, so v_run stays. An empty
batch changes no running statistic.

Statistics are computed and kept in at least float32. For backward x is kept, with μ and r, not x̂.

Source: S. Ioffe, C. Szegedy, Batch Normalization (2015), algorithms 1 and 2; derivation sheet 5.3.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_number, describe
from jaxbias._numerics import accumulation_dtype, widen
from jaxbias.derivation import Derivation, Example, generator
from jaxbias.initializers import Initializer
from jaxbias.layers._norm import broadcast_like, check_eps, check_input, last_axes, moments, scale_and_shift
from jaxbias.layouts import Layouts, renamed
from jaxbias.params import Layer, Params, State, Static, inference


class Running(NamedTuple):
    """The state: running mean and unbiased variance of each feature, in at least float32."""

    mean: Float[Array, " features"]
    variance: Float[Array, " features"]


class Residuals(NamedTuple):
    x: Float[Array, "*batch features"]
    mean: Float[Array, " features"]
    variance: Float[Array, " features"]
    rstd: Float[Array, " features"]
    weight: Float[Array, " features"]
    has_bias: Static


def init(
    key: Array,
    features: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Scale (weight), by default 1, and shift (bias), by default 0.

    Args:
        use_bias: whether there is a shift; without one the bias is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    return initializers.affine(
        key, (features,), (features,), dtype, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init
    )


def init_state(features: int, *, dtype: DTypeLike = jnp.float32) -> Running:
    """Mean 0 and variance 1, in at least float32.

    Args:
        dtype: of the input.
    """
    dtype = accumulation_dtype(dtype)
    return Running(jnp.zeros(features, dtype), jnp.ones(features, dtype))


def forward(
    params: Params, x: Float[Array, "*batch features"], state: Running | None = None, *, eps: float = 1e-5
) -> tuple[Float[Array, "*batch features"], Residuals]:
    """z = γ (x − μ)/√(v + eps) + β with the statistics of this batch, the form for training.

    Args:
        x: (..., features): rows, or images channels-last.
        state: the running statistics. They do not enter z; `step` carries them on.
        eps: added to the variance, in the squared unit of x.

    Raises:
        TypeError: x is not floating point, or state is no `Running`.
        ValueError: no state, x or state has another number of features than the weight, a bias of another shape, or a
            negative eps.
    """
    _check(params, x, state, eps, "batch_norm.forward")
    mean, variance = moments(widen(x), _batch_axes(x))
    return _normalise(params, x, mean.reshape(-1), variance.reshape(-1), eps)


def backward(
    residuals: Residuals, delta: Float[Array, "*batch features"]
) -> tuple[Params, Float[Array, "*batch features"]]:
    """(∂L/∂γ = Σ δ x̂, ∂L/∂β = Σ δ), ∂L/∂x = γ r (δ − (∂L/∂β + x̂ ∂L/∂γ)/m).

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, _, _, rstd, weight, _ = residuals
    delta = check_delta(delta, x.shape, "batch_norm.backward")
    x_hat, delta = _x_hat(residuals), widen(delta)
    grad_weight, grad_bias = _sums(x_hat, delta)
    m = max(_entries(x), 1)
    through_statistics = (broadcast_like(grad_bias, x_hat) + x_hat * broadcast_like(grad_weight, x_hat)) / m
    delta_x = broadcast_like(weight.astype(rstd.dtype) * rstd, x_hat) * (delta - through_statistics)
    return _grads(residuals, grad_weight, grad_bias), delta_x.astype(x.dtype)


def step(state: Running, residuals: Residuals, *, momentum: float = 0.1) -> Running:
    """Running statistics after a training step.

    Args:
        momentum: the share of the new batch, in [0, 1].
    """
    m = _entries(residuals.x)

    def averaged(old, new):
        return (1 - momentum) * old + momentum * new.astype(old.dtype)

    if m == 0:
        return state
    mean = averaged(state.mean, residuals.mean)
    if m == 1:
        return Running(mean, state.variance)
    return Running(mean, averaged(state.variance, residuals.variance * (m / (m - 1))))


def inference_forward(
    params: Params, x: Float[Array, "*batch features"], state: Running | None = None, *, eps: float = 1e-5
) -> tuple[Float[Array, "*batch features"], Residuals]:
    """z = γ (x − μ_run)/√(v_run + eps) + β, the form for inference; arguments and errors as in `forward`."""
    state = _check(params, x, state, eps, "batch_norm.inference_forward")
    dtype = accumulation_dtype(x.dtype)
    return _normalise(params, x, state.mean.astype(dtype), state.variance.astype(dtype), eps)


def inference_backward(
    residuals: Residuals, delta: Float[Array, "*batch features"]
) -> tuple[Params, Float[Array, "*batch features"]]:
    """(∂L/∂γ = Σ δ x̂, ∂L/∂β = Σ δ), ∂L/∂x = γ r δ.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    delta = check_delta(delta, residuals.x.shape, "batch_norm.inference_backward")
    x_hat, delta = _x_hat(residuals), widen(delta)
    delta_x = delta * broadcast_like(residuals.weight.astype(residuals.rstd.dtype) * residuals.rstd, delta)
    return _grads(residuals, *_sums(x_hat, delta)), delta_x.astype(residuals.x.dtype)


def _batch_axes(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _entries(x: Array) -> int:
    """m: how many values of one feature there are."""
    return math.prod(x.shape[:-1])


def _normalise(params: Params, x: Array, mean: Array, variance: Array, eps: float) -> tuple[Array, Residuals]:
    rstd = jax.lax.rsqrt(variance + eps)
    residuals = Residuals(x, mean, variance, rstd, params.weight, Static(params.bias is not None))
    return scale_and_shift(_x_hat(residuals), params).astype(x.dtype), residuals


def _x_hat(residuals: Residuals) -> Array:
    x = widen(residuals.x)
    return (x - broadcast_like(residuals.mean, x)) * broadcast_like(residuals.rstd, x)


def _sums(x_hat: Array, delta: Array) -> tuple[Array, Array]:
    return (delta * x_hat).sum(axis=_batch_axes(delta)), delta.sum(axis=_batch_axes(delta))


def _grads(residuals: Residuals, grad_weight: Array, grad_bias: Array) -> Params:
    dtype = residuals.weight.dtype
    return Params(grad_weight.astype(dtype), grad_bias.astype(dtype) if residuals.has_bias.value else None)


def _check(params: Params, x: Any, state: Any, eps: float, function: str) -> Running:
    check_input(params, x, eps, function)
    if not isinstance(state, Running):
        raise (ValueError if state is None else TypeError)(
            f"{function}: the state must be the running statistics, a Running(mean, variance), got {describe(state)}. "
            f"Pass state=layer.state.init(key, x)."
        )
    if state.mean.shape != params.weight.shape or state.variance.shape != params.weight.shape:
        raise ValueError(
            f"{function}: the running mean {state.mean.shape} and variance {state.variance.shape} must have the shape "
            f"of the weight, {params.weight.shape}. Make them with layer.state.init(key, x)."
        )
    return state


LAYOUTS = Layouts(
    pytorch=renamed(
        {"weight": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}, Running._fields
    ),
    keras=renamed(
        {"weight": "gamma", "bias": "beta", "mean": "moving_mean", "variance": "moving_variance"}, Running._fields
    ),
)


def layer(
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    use_bias: bool = True,
    weight_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer[Params]:
    """Batch norm in training; `jb.inference` makes the form with running statistics. Features and dtype are those of x.

    Keywords as for `init`, `forward` and `step`.

    Raises:
        ValueError: a negative eps, or a momentum outside [0, 1].
    """
    check_eps(eps, "batch_norm")
    check_number(momentum, "batch_norm", "momentum")
    if not 0 <= momentum <= 1:
        raise ValueError(f"batch_norm: momentum is the share of the new batch, in [0, 1]; got {momentum}.")

    def init_for(key, x):
        (features,) = last_axes(x, 1, "batch_norm.init")
        return init(key, features, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init, dtype=x.dtype)

    def init_state_for(key, x):
        del key
        return init_state(x.shape[-1], dtype=x.dtype)

    def keep(state, residuals):
        del residuals
        return state

    at_rest = State(init_state_for, keep, None)
    resting = Layer(
        init_for, partial(inference_forward, eps=eps), inference_backward, "batch_norm", state=at_rest, layouts=LAYOUTS
    )
    state = State(init_state_for, partial(step, momentum=momentum), resting)
    return Layer(init_for, partial(forward, eps=eps), backward, "batch_norm", state=state, layouts=LAYOUTS)


def _after_training(layer: Layer[Params]) -> Layer[Params]:
    """The inference form with running statistics that are not those of the start."""

    def init_state_for(key, x):
        draw, dtype = generator(key).standard_normal, accumulation_dtype(x.dtype)
        mean, variance = draw(x.shape[-1]), np.exp(draw(x.shape[-1]))
        return Running(jax.device_put(mean.astype(dtype)), jax.device_put(variance.astype(dtype)))

    resting = inference(layer)
    assert resting.state is not None
    return resting._replace(state=resting.state._replace(init=init_state_for))


DERIVATIONS = (
    Derivation(
        "batch_norm",
        (
            r"z = \gamma \hat{x} + \beta, \quad \hat{x} = (x - \mu)\, r, \quad r = 1/\sqrt{v + \epsilon}",
            r"\partial L/\partial \gamma = \sum \delta \hat{x}",
            r"\partial L/\partial \beta = \sum \delta",
            r"\partial L/\partial x = \gamma r\,(\delta - (\sum \delta + \hat x \sum \delta \hat x)/m)",
        ),
        "Ioffe and Szegedy (2015), algorithms 1 and 2; derivation sheet 5.3",
        (
            Example("matrix", layer(), (5, 3)),
            Example("no bias", layer(use_bias=False), (5, 3)),
            Example("images, eps 0.1", layer(eps=0.1), (2, 4, 3, 3)),
            Example("one row", layer(), (1, 3)),
            Example("no rows", layer(), (0, 3)),
            Example("inference", _after_training(layer()), (5, 3)),
            Example("inference, images, no bias", _after_training(layer(use_bias=False)), (2, 4, 3, 3)),
        ),
    ),
)
