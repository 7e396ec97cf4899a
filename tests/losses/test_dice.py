"""Dice loss: numbers by hand, loops over coefficients, empty masks, planted faults, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbias.derivation import normal, uniform
from jaxbias.losses import dice
from tests.planted import assert_caught, assert_loss_caught

ALL, SOFTMAX, _ = dice.DERIVATIONS[0].examples


def value_and_delta(out, targets, **options):
    def run(out):
        value, residuals = dice.forward(out, targets, **options)
        return value, dice.backward(residuals)

    return jax.jit(run)(out)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float16])
def test_numbers_by_hand(dtype):
    """p = (½, ¾), t = (1, 0), s = 1: N = 2, M = 3.25. δp = (N − 2 t M)/M²; σ′ = (¼, 3/16)."""
    out, targets = jnp.array([0.0, np.log(3)], dtype), jnp.array([1.0, 0], dtype)
    value, delta = value_and_delta(out, targets, smooth=1.0)
    np.testing.assert_allclose(value, 1 - 2 / 3.25, rtol=2e-3 if dtype == jnp.float16 else 1e-14)
    expected = np.array([(2 - 6.5) / 4, 2 * 3 / 16]) / 3.25**2
    np.testing.assert_allclose(delta.astype(jnp.float64), expected, rtol=4 * float(jnp.finfo(dtype).eps))
    assert delta.dtype == dtype and value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)


def test_a_coefficient_of_each_image_and_class(key):
    """Against a loop, with its own weight each; the order of the axes in `axis` is free."""
    z = np.asarray(normal(key, (2, 3, 4, 2), jnp.float64))
    t = np.asarray(uniform(jax.random.fold_in(key, 1), z.shape, jnp.float64))
    p, weight = 1 / (1 + np.exp(-z)), np.array([[1.0, 2], [0, 5]])
    each = np.empty((2, 2))
    for n, k in itertools.product(range(2), range(2)):
        pn, tn = p[n, :, :, k], t[n, :, :, k]
        each[n, k] = 1 - (2 * (pn * tn).sum() + 0.5) / ((pn**2 + tn**2).sum() + 0.5)
    options = {"squared": True, "smooth": 0.5}
    value, _ = dice.forward(jnp.asarray(z), jnp.asarray(t), axis=(2, -3), row_weight=weight, **options)
    none, _ = dice.forward(jnp.asarray(z), jnp.asarray(t), axis=(1, 2), reduction="none", **options)
    np.testing.assert_allclose(value, (weight * each).sum() / 8, rtol=1e-13)
    np.testing.assert_allclose(none, each, rtol=1e-13)


def test_it_is_that_of_optax(key):
    """Per image and class, softmax; what is 1 in their ratio of overlap and half the sizes is 2 in ours."""
    z, t = normal(key, (2, 4, 3), jnp.float64), uniform(jax.random.fold_in(key, 1), (2, 4, 3), jnp.float64)
    with jax.numpy_dtype_promotion("standard"):
        expected, gradient = jax.value_and_grad(lambda z: optax.losses.dice_loss(z, t, smooth=1.0).sum() / 2)(z)
    value, delta = value_and_delta(z, t, axis=1, probabilities="softmax", smooth=2.0)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(delta, gradient, rtol=0, atol=1e-15)


def test_an_empty_mask_that_is_said_to_be_empty_costs_nothing():
    value, delta = value_and_delta(jnp.full((2, 3), -40.0), jnp.zeros((2, 3)))
    assert 0 <= value < 1e-10 and np.abs(delta).max() < 1e-10


def wrong(change):
    """δ over all entries, (5, 3), with δp from N, M, p, t."""

    def backward(r):
        p, t = jax.nn.sigmoid(r.out), r.targets
        n, m = 2 * (p * t).sum() + 1e-5, p.sum() + t.sum() + 1e-5
        return change(n, m, p, t)

    return backward


FAULTS = {
    "numerator alone": wrong(lambda n, m, p, t: -2 * t / m * p * (1 - p)),
    "denominator alone": wrong(lambda n, m, p, t: n / m**2 * p * (1 - p)),
    "the slope of σ missing": wrong(lambda n, m, p, t: (n - 2 * t * m) / m**2),
    "M not squared": wrong(lambda n, m, p, t: (n - 2 * t * m) / m * p * (1 - p)),
    "divided by the rows": wrong(lambda n, m, p, t: (n - 2 * t * m) / m**2 * p * (1 - p) / 5),
    "the squared form": wrong(lambda n, m, p, t: (2 * p * n - 2 * t * m) / m**2 * p * (1 - p)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_loss_caught(ALL, key, FAULTS[name])


def test_softmax_taken_entry_by_entry_is_caught(key):
    def backward(r, delta):
        options = r.options.value._replace(probabilities="sigmoid")
        return (), dice.backward(r._replace(options=type(r.options)(options)), delta)

    assert_caught(SOFTMAX, key, backward, {"1"})


def test_bad_input(as_users_run_it):
    z = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"^dice\.forward: out \(2, 3\) and targets \(2, 1\) must have one shape"):
        dice.forward(z, jnp.ones((2, 1)))
    with pytest.raises(TypeError, match=r"^dice\.forward: targets must be a floating-point array, got int"):
        dice.forward(z, jnp.ones((2, 3), int))
    for axis in (2, (0, -2), (0, 0)):
        with pytest.raises(ValueError, match=r"^dice\.forward: axis must name axes of out, each once, got .* 2 axes"):
            dice.forward(z, z, axis=axis)
    with pytest.raises(TypeError, match=r"^dice\.loss: axis must be an int, a sequence of ints or None, got the str"):
        dice.loss(axis="rows")
    with pytest.raises(ValueError, match=r'^dice\.loss: probabilities must be "sigmoid" or "softmax", got None'):
        dice.loss(probabilities=None)
    with pytest.raises(ValueError, match=r"^dice\.loss: smooth must be above 0, got 0"):
        dice.loss(smooth=0)
    with pytest.raises(TypeError, match=r"^dice\.loss: squared must be True or False, got the int 1"):
        dice.loss(squared=1)
    with pytest.raises(ValueError, match=r"^dice\.forward: row_weight must hold one number per row, shape \(3,\)"):
        dice.forward(z, z, axis=0, row_weight=[1.0, 2])
