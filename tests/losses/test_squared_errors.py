"""Mean and half squared error: numbers by hand, narrow floats, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.losses import half_squared_error, mean_squared_error
from tests.planted import assert_loss_caught

OUT, TARGETS = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.0, 4.0], [3.0, 1.0]])
# errors (1, −2) and (0, 3): squares 5 and 9 per row
BY_HAND = [
    (mean_squared_error, "mean", (5 / 2 + 9 / 2) / 2, [[0.5, -1.0], [0.0, 1.5]]),
    (mean_squared_error, "sum", 5 / 2 + 9 / 2, [[1.0, -2.0], [0.0, 3.0]]),
    (half_squared_error, "mean", (5 / 2 + 9 / 2) / 2, [[0.5, -1.0], [0.0, 1.5]]),
    (half_squared_error, "sum", 5 / 2 + 9 / 2, [[1.0, -2.0], [0.0, 3.0]]),
]
# one output more that is right: it changes the mean over K = 3, and nothing in the sum
WIDER = [
    (mean_squared_error, "mean", (5 / 3 + 9 / 3) / 2, [[1 / 3, -2 / 3, 0], [0, 1, 0]]),
    (half_squared_error, "mean", (5 / 2 + 9 / 2) / 2, [[0.5, -1, 0], [0, 1.5, 0]]),
]
both = pytest.mark.parametrize("module", [mean_squared_error, half_squared_error], ids=lambda m: m.__name__[15:])


def check_by_hand(module, reduction, out, targets, value, delta):
    actual, residuals = module.forward(out, targets, reduction=reduction)
    np.testing.assert_allclose(actual, value, rtol=1e-15)
    np.testing.assert_allclose(module.backward(residuals), delta, rtol=1e-15)


@pytest.mark.parametrize(("module", "reduction", "value", "delta"), BY_HAND)
def test_numbers_by_hand(module, reduction, value, delta):
    check_by_hand(module, reduction, OUT, TARGETS, value, delta)


@pytest.mark.parametrize(("module", "reduction", "value", "delta"), WIDER)
def test_an_output_that_is_right_counts_in_the_mean_only(module, reduction, value, delta):
    right = jnp.full((2, 1), 7.0)
    out, targets = jnp.concatenate([OUT, right], axis=1), jnp.concatenate([TARGETS, right], axis=1)
    check_by_hand(module, reduction, out, targets, value, delta)


@both
def test_every_leading_axis_counts_rows(key, module):
    out, targets = jax.random.normal(key, (2, 3, 4)), jnp.ones((2, 3, 4))
    value, residuals = module.forward(out, targets)
    flat_value, flat_residuals = module.forward(out.reshape(6, 4), targets.reshape(6, 4))
    np.testing.assert_allclose(value, flat_value, rtol=1e-14)
    np.testing.assert_allclose(module.backward(residuals).reshape(6, 4), module.backward(flat_residuals), rtol=1e-14)


@both
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_squares_beyond_float16(module, dtype):
    out, targets = jnp.full((2, 1), 1e4, dtype), jnp.zeros((2, 1), dtype)
    value, residuals = module.loss(reduction="sum").forward(out, targets)
    assert value.dtype == jnp.float32 and jnp.isfinite(value)  # 1e8 is beyond float16
    assert module.backward(residuals).dtype == dtype


@both
def test_no_rows(module):
    value, residuals = module.forward(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert value == 0 and module.backward(residuals).shape == (0, 3)


@both
@pytest.mark.parametrize(
    "wrong",
    [
        lambda module, r: -module.backward(r),
        lambda module, r: module.backward(r) / 5,  # divided by n a second time
        lambda module, r: module.backward(r) * 2,
        lambda module, r: module.backward(r._replace(targets=jnp.flip(r.targets, axis=0))),
        lambda module, r: module.backward(r).mean(axis=0, keepdims=True).repeat(5, axis=0),
    ],
)
def test_planted_faults_are_caught(key, module, wrong):
    assert_loss_caught(module.DERIVATIONS[0].examples[0], key, lambda r: wrong(module, r))


@both
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
        (jnp.zeros((3, 2)), jnp.zeros((3, 2), jnp.int32), {}, TypeError, r"targets must be .*, got int32"),
        (jnp.zeros((3, 2)), jnp.zeros(3), {}, ValueError, r"out \(3, 2\) and targets \(3,\) must have one shape"),
        (jnp.zeros((3, 1)), jnp.zeros((1, 3)), {}, ValueError, r"\(3, 1\) and targets \(1, 3\) must have one shape"),
        (jnp.zeros(()), jnp.zeros(()), {}, ValueError, r"last axis of out .* got out \(\).*out\[..., None\]"),
        (jnp.zeros((3, 2)), jnp.zeros((3, 2)), {"reduction": "max"}, ValueError, r'"mean" or "sum" .*, got \'max\''),
    ],
)
def test_bad_input(as_users_run_it, module, out, targets, static, error, match):
    with pytest.raises(error, match=module.__name__[15:] + r".forward: .*" + match):
        module.forward(out, targets, **static)
