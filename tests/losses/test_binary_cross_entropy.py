"""Binary cross-entropy: numbers by hand, extreme logits, planted faults, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.losses import binary_cross_entropy
from tests.planted import assert_loss_caught

EXAMPLE = binary_cross_entropy.DERIVATIONS[0].examples[0]


def value_and_delta(out, targets, **static):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = binary_cross_entropy.forward(out, targets, **static)
        return value, binary_cross_entropy.backward(residuals)

    return jax.jit(run)(out)


def test_numbers_by_hand():
    # σ(0) = 1/2, σ(log 3) = 3/4, σ(−log 4) = 1/5, outputs summed within a row
    out = jnp.array([[0.0, math.log(3)], [-math.log(4), 0.0]])
    targets = jnp.array([[1.0, 0.0], [1.0, 0.25]])
    costs = [math.log(2) + math.log(4), math.log(5) + math.log(2)]
    value, delta = value_and_delta(out, targets)
    np.testing.assert_allclose(value, sum(costs) / 2, rtol=1e-15)
    np.testing.assert_allclose(delta, [[-1 / 4, 3 / 8], [-2 / 5, 1 / 8]], rtol=1e-15)
    value, delta = value_and_delta(out, targets, reduction="sum")
    np.testing.assert_allclose(value, sum(costs), rtol=1e-15)
    np.testing.assert_allclose(delta, [[-1 / 2, 3 / 4], [-4 / 5, 1 / 4]], rtol=1e-15)


def test_the_best_constant_logit_is_the_log_odds():
    """A1.2: an intercept alone ends at b = log(p / (1 − p)); p = 0.2 gives −1.386294, where the deltas sum to 0."""
    targets = jnp.array([[1.0], [0.0], [0.0], [0.0], [0.0]])
    _, delta = value_and_delta(jnp.full((5, 1), -1.3862943611198906), targets)
    np.testing.assert_allclose(delta.sum(), 0, atol=1e-16)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.float16, jnp.bfloat16])
def test_logits_of_ten_thousand(dtype):
    out = jnp.array([[1e4, -1e4, 1e4, -1e4]], dtype)
    targets = jnp.array([[1, 0, 0, 1]], dtype)
    value, delta = value_and_delta(out, targets)
    assert value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32) and delta.dtype == dtype
    assert float(value) == 2 * float(jnp.asarray(1e4, dtype))
    assert delta.tolist() == [[0, 0, 1, -1]]


def test_small_losses_and_deltas_keep_their_digits():
    value, delta = value_and_delta(jnp.array([[-40.0]]), jnp.array([[0.0]]))
    np.testing.assert_allclose(value, math.exp(-40), rtol=1e-15)
    np.testing.assert_allclose(delta, [[math.exp(-40)]], rtol=1e-15)


def test_autodiff_of_the_forward_at_logit_zero(key):
    """The kinks of max(z, 0) and |z| cancel, in the forward too: its derivative at 0 is σ(0) − y."""
    targets = jax.random.uniform(key, (3, 2))
    by_autodiff = jax.jit(jax.grad(lambda out: binary_cross_entropy.forward(out, targets)[0]))(jnp.zeros((3, 2)))
    np.testing.assert_allclose(by_autodiff, (0.5 - targets) / 3, atol=1e-16)


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert value == 0 and delta.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: r.rows.alike.value * (r.out - r.targets),  # the sigmoid forgotten
        lambda r: binary_cross_entropy.backward(r) * jax.nn.sigmoid(r.out) * (1 - jax.nn.sigmoid(r.out)),  # σ′ twice
        lambda r: binary_cross_entropy.backward(r) / 3,  # mean over outputs
        lambda r: r.rows.alike.value * (jax.nn.sigmoid(-r.out) - r.targets),
        lambda r: r.rows.alike.value * (jax.nn.softmax(r.out) - r.targets),
    ],
)
def test_planted_faults_are_caught(key, wrong):
    assert_loss_caught(EXAMPLE, key, wrong)


@pytest.mark.parametrize(
    ("out", "targets", "static", "error", "match"),
    [
        (
            jnp.zeros((3, 2), jnp.int32),
            jnp.zeros((3, 2)),
            {},
            TypeError,
            "out must be a floating-point array, got int32",
        ),
        (jnp.zeros((3, 2)), jnp.zeros((3, 2), bool), {}, TypeError, "targets must be a floating-point array, got bool"),
        (jnp.zeros((3, 1)), jnp.zeros(3), {}, ValueError, r"out \(3, 1\) and targets \(3,\) must have one shape"),
        (jnp.zeros((3, 1)), -jnp.ones((3, 1)), {}, ValueError, r"in \[0, 1\], got -1.0. .*\(1 \+ targets\) / 2"),
        (jnp.zeros((1, 1)), jnp.full((1, 1), jnp.nan), {}, ValueError, r"in \[0, 1\], got nan"),
        (jnp.zeros((3, 1)), jnp.zeros((3, 1)), {"reduction": None}, ValueError, '"mean" or "sum" .*, got None'),
    ],
)
def test_bad_input(as_users_run_it, out, targets, static, error, match):
    with pytest.raises(error, match=r"binary_cross_entropy.forward: .*" + match):
        binary_cross_entropy.forward(out, targets, **static)
