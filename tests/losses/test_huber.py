"""Huber loss: numbers by hand on both sides of the threshold, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.losses import half_squared_error, huber
from tests.planted import assert_loss_caught

EXAMPLE = huber.DERIVATIONS[0].examples[1]  # threshold 0.3: most errors lie beyond


def value_and_delta(out, targets, **static):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = huber.forward(out, targets, **static)
        return value, huber.backward(residuals)

    return jax.jit(run)(out)


def test_numbers_by_hand():
    out, targets = jnp.array([[1.5, 0.0], [-4.0, 2.0]]), jnp.array([[1.0, 3.0], [0.0, 0.0]])
    # errors (0.5, −3) and (−4, 2), d = 2: ½·0.25, 2·(3 − 1); 2·(4 − 1), ½·4 (on the threshold both pieces agree)
    value, delta = value_and_delta(out, targets, threshold=2.0)
    np.testing.assert_allclose(value, (0.125 + 4 + 6 + 2) / 2, rtol=1e-15)
    np.testing.assert_allclose(delta, [[0.25, -1], [-1, 1]], rtol=1e-15)
    value, delta = value_and_delta(out, targets, threshold=2.0, reduction="sum")
    np.testing.assert_allclose(value, 0.125 + 4 + 6 + 2, rtol=1e-15)
    np.testing.assert_allclose(delta, [[0.5, -2], [-2, 2]], rtol=1e-15)


def test_a_wide_threshold_is_half_squared_error(key):
    out, targets = jax.random.normal(key, (5, 3)), jnp.ones((5, 3))
    value, delta = value_and_delta(out, targets, threshold=1e3)
    expected, residuals = half_squared_error.forward(out, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(delta, half_squared_error.backward(residuals), rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_errors_of_ten_thousand(dtype):
    value, delta = value_and_delta(jnp.array([[1e4, -1e4]], dtype), jnp.zeros((1, 2), dtype))
    assert value.dtype == jnp.float32 and delta.dtype == dtype
    np.testing.assert_allclose(value, 2 * float(jnp.asarray(1e4, dtype)) - 1, rtol=1e-6)
    assert delta.tolist() == [[1, -1]]


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert value == 0 and delta.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: r.rows.alike.value * (r.out - r.targets),  # never linear
        lambda r: r.rows.alike.value * jnp.sign(r.out - r.targets),  # the threshold forgotten as a factor
        lambda r: huber.backward(r._replace(threshold=type(r.threshold)(1.0))),
        lambda r: jnp.abs(huber.backward(r)),
        lambda r: huber.backward(r) / 5,
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
        (jnp.zeros((3, 2)), jnp.zeros((3, 2), jnp.int32), {}, TypeError, "targets must be a floating-point array"),
        (jnp.zeros((3, 2)), jnp.zeros(2), {}, ValueError, r"out \(3, 2\) and targets \(2,\) must have one shape"),
        (jnp.zeros((3, 2)), jnp.zeros((3, 2)), {"threshold": 0.0}, ValueError, r"threshold must be positive, got 0.0"),
        (jnp.zeros((3, 2)), jnp.zeros((3, 2)), {"reduction": "no"}, ValueError, r'"mean" or "sum" .*, got \'no\''),
    ],
)
def test_bad_input(as_users_run_it, out, targets, static, error, match):
    with pytest.raises(error, match=r"huber.forward: .*" + match):
        huber.forward(out, targets, **static)
