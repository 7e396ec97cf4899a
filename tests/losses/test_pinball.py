"""Pinball loss: numbers by hand, that it is lowest at the quantile, its kink, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.losses import pinball
from jaxbias.params import Static
from tests.planted import assert_loss_caught

EXAMPLE = pinball.DERIVATIONS[0].examples[0]


def value_and_delta(out, targets, **static):
    """One compiled program."""

    def run(out):
        value, residuals = pinball.forward(out, targets, **static)
        return value, pinball.backward(residuals)

    return jax.jit(run)(out)


def test_numbers_by_hand():
    out, targets = jnp.array([[1.0, 1.0], [1.0, 1.0]]), jnp.array([[5.0, 0.0], [1.0, 3.0]])
    # y − q = (4, −1), (0, 2), τ = (0.9, 0.25): 0.9·4 + 0.75·1, 0 + 0.25·2; on the kink the slope is that of y < q
    value, delta = value_and_delta(out, targets, quantile=(0.9, 0.25))
    np.testing.assert_allclose(value, (3.6 + 0.75 + 0.5) / 2, rtol=1e-15)
    np.testing.assert_allclose(2 * delta, [[-0.9, 0.75], [0.1, -0.25]], rtol=1e-15)


def test_half_the_absolute_error_by_default_in_every_dtype():
    value, delta = value_and_delta(jnp.array([[1e4, -1e4]], jnp.bfloat16), jnp.zeros((1, 2), jnp.bfloat16))
    assert value == float(jnp.asarray(1e4, jnp.bfloat16)) and value.dtype == jnp.float32
    assert delta.tolist() == [[0.5, -0.5]] and delta.dtype == jnp.bfloat16


def test_it_is_lowest_at_the_quantile():
    targets = np.arange(1, 10.0)[:, None]  # the 0.25-quantile of 1, …, 9 is 3: two of nine below, six above
    slopes = [value_and_delta(jnp.full((9, 1), q), jnp.asarray(targets), quantile=0.25)[1].sum() for q in (2.5, 3.5)]
    assert slopes[0] < 0 < slopes[1]


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert value == 0 and delta.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: pinball.backward(r._replace(quantile=Static((0.1,)))),  # τ and 1 − τ exchanged
        lambda r: pinball.backward(r._replace(out=r.targets, targets=r.out)),  # of q − y
        lambda r: r.rows.alike.value * 0.9 * jnp.sign(r.out - r.targets),  # τ on both sides
        lambda r: -pinball.backward(r),
    ],
)
def test_planted_faults_are_caught(key, wrong):
    assert_loss_caught(EXAMPLE, key, wrong)


@pytest.mark.parametrize(
    ("quantile", "error", "match"),
    [
        (0, ValueError, r"quantile must lie between 0 and 1, got 0"),
        ((0.5, 95), ValueError, r"quantile must lie between 0 and 1, got 95. The 5 % quantile is 0.05"),
        (float("nan"), ValueError, r"quantile must lie between 0 and 1, got nan"),
        ("median", TypeError, r"quantile must be a number, got the str 'median'"),
        ((0.1, 0.5, 0.9), ValueError, r"one for each of the 2 outputs of a row, got 3"),
        ((), ValueError, r"one for each of the 2 outputs of a row, got 0"),
    ],
)
def test_bad_quantiles(as_users_run_it, quantile, error, match):
    with pytest.raises(error, match=r"^pinball.forward: .*" + match):
        pinball.forward(jnp.zeros((3, 2)), jnp.zeros((3, 2)), quantile=quantile)


def test_bad_input(as_users_run_it):
    with pytest.raises(ValueError, match=r"^pinball.loss: quantile must lie"):
        pinball.loss(quantile=1.0)
    with pytest.raises(ValueError, match=r"^pinball.forward: out \(3, 2\) and targets \(3, 1\) must have one shape"):
        pinball.forward(jnp.zeros((3, 2)), jnp.zeros((3, 1)), quantile=(0.1, 0.9))
