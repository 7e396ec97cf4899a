"""Gaussian likelihood: numbers by hand, what β does, planted faults, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import LossExample, normal
from jaxbias.layers import dense
from jaxbias.losses import gaussian_nll
from jaxbias.params import Static
from tests.planted import assert_loss_caught

EXAMPLE = gaussian_nll.DERIVATIONS[0].examples[0]
# held constant, v^β is no part of the slope: of autodiff's neither, but of differences, so not among DERIVATIONS
WITH_BETA = LossExample("β", gaussian_nll.loss(beta=0.5), EXAMPLE.out, EXAMPLE.targets)


def value_and_delta(out, targets, **static):
    """One compiled program."""

    def run(out):
        value, residuals = gaussian_nll.forward(out, targets, **static)
        return value, gaussian_nll.backward(residuals)

    return jax.jit(run)(out)


OUT = jnp.array([[1.0, 0.0, math.log(4), 0.0]])  # means 1 and 0, variances 4 and 1
TARGETS = jnp.array([[3.0, -3.0]])


def test_numbers_by_hand():
    value, delta = value_and_delta(OUT, TARGETS)
    np.testing.assert_allclose(value, (math.log(4) + 4 / 4) / 2 + (0 + 9) / 2, rtol=1e-15)
    np.testing.assert_allclose(delta, [[-2 / 4, 3, 0, (1 - 9) / 2]], rtol=1e-15, atol=1e-16)
    value, delta = value_and_delta(OUT, TARGETS, beta=0.5)  # v^β = 2 and 1
    np.testing.assert_allclose(value, math.log(4) + 1 + 9 / 2, rtol=1e-15)
    np.testing.assert_allclose(delta, [[-1, 3, 0, -4]], rtol=1e-15, atol=1e-15)


def test_beta_of_one_is_the_slope_of_the_squared_error(key):
    out, targets = normal(key, (5, 4), jnp.float64), jnp.ones((5, 2))
    _, delta = value_and_delta(out, targets, beta=1.0)
    np.testing.assert_allclose(delta[:, :2], (out[:, :2] - targets) / 5, rtol=1e-14)


def test_narrow_floats():
    dtype = jnp.float16
    value, delta = value_and_delta(OUT.astype(dtype), TARGETS.astype(dtype))
    expected, expected_delta = value_and_delta(OUT.astype(dtype).astype(jnp.float64), TARGETS)
    assert value.dtype == jnp.float32 and delta.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(delta.astype(jnp.float64), expected_delta, atol=8 * float(jnp.finfo(dtype).eps))


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 4)), jnp.zeros((0, 2)))
    assert value == 0 and delta.shape == (0, 4)


def test_a_network_with_two_outputs_per_target(key):
    network, x, targets = dense.layer(4), jnp.ones((4, 3)), jnp.ones((4, 2))
    params = jax.eval_shape(network.init, key, x)
    value, grads = jax.eval_shape(jb.value_and_grad(network, gaussian_nll), params, x, targets)
    assert value.shape == () and grads.bias.shape == (4,)


def exchanged(r):
    mean, log_variance = jnp.split(gaussian_nll.backward(r), 2, axis=-1)
    return jnp.concatenate([log_variance, mean], axis=-1)


def of_log_deviation(r):
    """s taken for log σ: v = e^(2 s), twice the slope."""
    mean, log_deviation = jnp.split(r.out, 2, axis=-1)
    delta = gaussian_nll.backward(r._replace(out=jnp.concatenate([mean, 2 * log_deviation], axis=-1)))
    return delta * jnp.array([[1.0, 1, 2, 2]])


@pytest.mark.parametrize(
    "wrong",
    [
        exchanged,
        of_log_deviation,
        lambda r: gaussian_nll.backward(r) * jnp.array([[-1.0, -1, 1, 1]]),  # y − μ
        lambda r: gaussian_nll.backward(r) * jnp.array([[1.0, 1, 2, 2]]),  # ½ forgotten
        lambda r: gaussian_nll.backward(r._replace(beta=Static(0.5))),
    ],
)
def test_planted_faults_are_caught(key, wrong):
    assert_loss_caught(EXAMPLE, key, wrong)


def with_the_slope_of_the_weight(r):
    """v^β not held constant: ∂/∂s gets β v^β times the cost as well."""
    error, s = r.out[:, :2] - r.targets, r.out[:, 2:]
    cost = 0.5 * (s + error**2 * jnp.exp(-s))
    more = 0.5 * jnp.exp(0.5 * s) * cost * r.rows.alike.value
    return gaussian_nll.backward(r) + jnp.concatenate([jnp.zeros_like(more), more], axis=-1)


@pytest.mark.parametrize(
    "wrong",
    [
        with_the_slope_of_the_weight,
        lambda r: gaussian_nll.backward(r._replace(beta=Static(0.0))),
        lambda r: gaussian_nll.backward(r._replace(beta=Static(-0.5))),
    ],
)
def test_planted_faults_of_beta_are_caught(key, wrong):
    assert_loss_caught(WITH_BETA, key, wrong)


@pytest.mark.parametrize(
    ("out", "targets", "static", "error", "match"),
    [
        (OUT, TARGETS[0], {}, ValueError, r"means first, shape .* got out \(1, 4\) and targets \(2,\)"),
        (OUT, OUT, {}, ValueError, r"got out \(1, 4\) and targets \(1, 4\)"),
        (OUT, jnp.zeros(()), {}, ValueError, r"got out \(1, 4\) and targets \(\)"),
        (OUT, TARGETS.astype(int), {}, TypeError, r"targets must be a floating-point array"),
        (jnp.zeros((1, 0)), jnp.zeros((1, 0)), {}, ValueError, r"the last axis of out must hold the outputs"),
        (OUT, TARGETS, {"beta": 2}, ValueError, r"beta must lie in \[0, 1\], got 2"),
        (OUT, TARGETS, {"beta": "half"}, TypeError, r"beta must be a number"),
    ],
)
def test_bad_input(as_users_run_it, out, targets, static, error, match):
    with pytest.raises(error, match=r"^gaussian_nll.forward: .*" + match):
        gaussian_nll.forward(out, targets, **static)
