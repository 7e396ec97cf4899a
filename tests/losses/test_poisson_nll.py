"""Poisson likelihood: numbers by hand, its minimum, planted faults, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.losses import poisson_nll
from tests.planted import assert_loss_caught

EXAMPLE = poisson_nll.DERIVATIONS[0].examples[0]


def value_and_delta(out, targets):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = poisson_nll.forward(out, targets)
        return value, poisson_nll.backward(residuals)

    return jax.jit(run)(out)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float16])
def test_numbers_by_hand(dtype):
    out, targets = jnp.array([[0.0, 1.0], [-2.0, 3.0]], dtype), jnp.array([[3.0, 0.0], [1.0, 20.0]], dtype)
    value, delta = value_and_delta(out, targets)
    np.testing.assert_allclose(value, (1 + math.e + math.exp(-2) + 2 + math.exp(3) - 60) / 2, rtol=1e-6)
    expected = np.array([[1 - 3, math.e], [math.exp(-2) - 1, math.exp(3) - 20]]) / 2
    np.testing.assert_allclose(delta.astype(jnp.float64), expected, rtol=2 * float(jnp.finfo(dtype).eps))
    assert delta.dtype == dtype and value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)


def test_it_is_lowest_at_the_count():
    value, delta = value_and_delta(jnp.log(jnp.array([[4.0]])), jnp.array([[4.0]]))
    np.testing.assert_allclose(value, 4 - 4 * math.log(4), rtol=1e-15)
    np.testing.assert_allclose(delta, [[0]], atol=1e-15)


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert value == 0 and delta.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: r.rows.alike.value * (r.out - r.targets),  # the output taken for the rate
        lambda r: r.rows.alike.value * (1 - r.targets / jnp.exp(r.out)),  # the derivative by the rate
        lambda r: r.rows.alike.value * (jnp.exp(r.out) - r.targets * r.out),  # the loss itself
        lambda r: poisson_nll.backward(r) / 3,
    ],
)
def test_planted_faults_are_caught(key, wrong):
    assert_loss_caught(EXAMPLE, key, wrong)


def test_bad_input(as_users_run_it):
    with pytest.raises(ValueError, match=r"^poisson_nll.forward: targets are counts and must not be negative, got -1"):
        poisson_nll.forward(jnp.zeros((1, 2)), jnp.array([[2.0, -1.0]]))
    with pytest.raises(ValueError, match=r"^poisson_nll.forward: .* got nan"):
        poisson_nll.forward(jnp.zeros((1, 1)), jnp.array([[jnp.nan]]))
    with pytest.raises(TypeError, match=r"^poisson_nll.forward: targets must be a floating-point array, got int"):
        poisson_nll.forward(jnp.zeros((1, 2)), jnp.array([[2, 1]]))
    with pytest.raises(ValueError, match=r"^poisson_nll.forward: out \(3, 2\) and targets \(3, 1\) must"):
        poisson_nll.forward(jnp.zeros((3, 2)), jnp.zeros((3, 1)))
