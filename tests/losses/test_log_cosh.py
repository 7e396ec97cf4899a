"""Log-cosh loss: numbers by hand, small and large errors, planted faults, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.losses import log_cosh
from tests.planted import assert_loss_caught

EXAMPLE = log_cosh.DERIVATIONS[0].examples[0]


@jax.jit
def value_and_delta(out, targets):
    value, residuals = log_cosh.forward(out, targets, reduction="sum")
    return value, log_cosh.backward(residuals)


def test_numbers_by_hand():
    # cosh(log 2) = (2 + 1/2)/2 = 5/4 and tanh(log 2) = 3/5; cosh(log 4) = 17/8 and tanh(log 4) = 15/17
    out, targets = jnp.array([[math.log(2), 1.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [1.0, math.log(4)]])
    value, delta = value_and_delta(out, targets)
    np.testing.assert_allclose(value, math.log(5 / 4) + math.log(17 / 8), rtol=1e-15)
    np.testing.assert_allclose(delta, [[3 / 5, 0], [0, -15 / 17]], rtol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_small_errors_keep_their_digits_and_large_ones_do_not_overflow(dtype):
    e = float(jnp.asarray(1e-6, dtype))
    value, delta = value_and_delta(jnp.array([[e]], dtype), jnp.zeros((1, 1), dtype))
    assert value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32) and delta.dtype == dtype
    # the form with |e| would lose 6 digits in float64 and all of them in float32
    np.testing.assert_allclose(value, e * e / 2, rtol=1e-6 if dtype == jnp.bfloat16 else 1e-11)
    value, delta = value_and_delta(jnp.array([[1e4, -1e4]], dtype), jnp.zeros((1, 2), dtype))
    np.testing.assert_allclose(value, 2 * (float(jnp.asarray(1e4, dtype)) - math.log(2)), rtol=1e-6)
    assert delta.tolist() == [[1, -1]]


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert value == 0 and delta.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: r.rows.alike.value * (r.out - r.targets),  # of the squared error
        lambda r: r.rows.alike.value * jnp.sign(r.out - r.targets),  # of the absolute error
        lambda r: r.rows.alike.value * (1 - jnp.tanh(r.out - r.targets) ** 2),  # the slope of tanh, not of its integral
        lambda r: -log_cosh.backward(r),
    ],
)
def test_planted_faults_are_caught(key, wrong):
    assert_loss_caught(EXAMPLE, key, wrong)


def test_bad_input(as_users_run_it):
    out = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=r"log_cosh.forward: out \(3, 2\) and targets \(2,\) must have one shape"):
        log_cosh.forward(out, jnp.zeros(2))
    with pytest.raises(TypeError, match=r"log_cosh.forward: targets must be a floating-point array, got int"):
        log_cosh.forward(out, out.astype(int))
    with pytest.raises(ValueError, match=r'log_cosh.loss: reduction must be "mean"'):
        log_cosh.loss(reduction="no")
