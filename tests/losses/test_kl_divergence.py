"""Kullback-Leibler divergence: numbers by hand in both directions, the temperature, planted faults, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.derivation import normal
from jaxbias.losses import kl_divergence
from jaxbias.params import Static
from tests.planted import assert_caught, assert_loss_caught

EXAMPLES = {example.label: example for example in kl_divergence.DERIVATIONS[0].examples}


def value_and_delta(out, targets, **static):
    """One compiled program."""

    def run(out):
        value, residuals = kl_divergence.forward(out, targets, **static)
        return value, kl_divergence.backward(residuals)

    return jax.jit(run)(out)


P, Q = np.array([1 / 4, 3 / 4]), np.array([1 / 2, 1 / 2])
RATIO = np.log(P / Q)


@pytest.mark.parametrize(
    ("static", "value", "delta"),
    [
        ({}, Q @ -RATIO, P - Q),
        ({"reverse": True}, P @ RATIO, P * (RATIO - P @ RATIO)),
        ({"class_weight": (3, 1)}, -(Q * [3, 1]) @ RATIO, P * (Q @ [3, 1]) - Q * [3, 1]),
    ],
)
def test_numbers_by_hand(static, value, delta):
    # the same row twice: the mean is that of one row
    actual, actual_delta = value_and_delta(jnp.log(jnp.array([P, P])), jnp.array([[7.0, 7], [0, 0]]), **static)
    np.testing.assert_allclose(actual, value, rtol=1e-14)
    np.testing.assert_allclose(2 * actual_delta, [delta, delta], rtol=1e-14)


def test_the_temperature_by_hand():
    # softmax(log(1, 9)/2) = (1/4, 3/4)
    out, targets = jnp.log(jnp.array([[1.0, 9.0]])), jnp.zeros((1, 2))
    value, delta = value_and_delta(out, targets, temperature=2.0)
    np.testing.assert_allclose(value, 4 * Q @ -RATIO, rtol=1e-14)
    np.testing.assert_allclose(delta, [2 * (P - Q)], rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_logits_of_ten_thousand_and_classes_that_cannot_occur(dtype):
    out, targets = jnp.array([[1e4, -1e4, 0.0]], dtype), jnp.array([[0.0, -jnp.inf, 0.0]], dtype)
    size = float(out[0, 0])
    value, delta = value_and_delta(out, targets)
    np.testing.assert_allclose(value, size / 2 - math.log(2), rtol=1e-6)
    assert delta.tolist() == [[0.5, 0, -0.5]] and delta.dtype == dtype
    value, delta = value_and_delta(out, targets, reverse=True)
    np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
    assert np.abs(delta.astype(jnp.float64)).max() == 0


def test_it_is_zero_at_the_teacher_and_blind_to_a_constant(key):
    out = normal(key, (5, 4), jnp.float64)

    @jax.jit
    def both(out):
        return [value_and_delta(out, out + 3, temperature=2.0, reverse=reverse) for reverse in (False, True)]

    for value, delta in both(out):
        np.testing.assert_allclose(value, 0, atol=1e-15)
        np.testing.assert_allclose(delta, np.zeros((5, 4)), atol=1e-15)


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros((0, 3)), reverse=True)
    assert value == 0 and delta.shape == (0, 3)


def p_and_ratio(r):
    log_p, log_q = (jax.nn.log_softmax(logits / r.temperature.value) for logits in (r.out, r.targets))
    return jnp.exp(log_p), log_p - log_q


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: 2 * kl_divergence.backward(r),  # T² kept, but the 1/T of z/T lost
        lambda r: kl_divergence.backward(r) / 2,  # T² forgotten in the loss, as its 1/T is
        lambda r: kl_divergence.backward(r._replace(reverse=Static(True))),  # the direction exchanged
        lambda r: kl_divergence.backward(r._replace(temperature=Static(1.0))),
        lambda r: kl_divergence.backward(r._replace(out=r.targets, targets=r.out)),  # q − p
    ],
)
def test_planted_faults_are_caught(key, wrong):
    assert_loss_caught(EXAMPLES["temperature 2"], key, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: kl_divergence.backward(r._replace(reverse=Static(False))),
        lambda r: 2 / 5 * p_and_ratio(r)[0] * p_and_ratio(r)[1],  # the mean of ρ not taken out
        lambda r: 2 / 5 * p_and_ratio(r)[0] * (p_and_ratio(r)[1] - p_and_ratio(r)[1].mean(axis=-1, keepdims=True)),
        lambda r: 2 * kl_divergence.backward(r),
    ],
)
def test_planted_faults_of_the_reverse_are_caught(key, wrong):
    assert_loss_caught(EXAMPLES["reverse, temperature 2"], key, wrong)


def without_the_one(r):
    p, ratio = p_and_ratio(r)
    slope = ratio * jnp.broadcast_to(r.class_weight, p.shape)
    return p * (slope - (p * slope).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("label", "wrong"),
    [
        ("reverse, class weights, sum", lambda r, d: d * without_the_one(r)),
        ("reverse, class weights, sum", lambda r, d: kl_divergence.backward(r._replace(class_weight=None), d)),
        (
            "class weights, row weights, none",  # p − w q, where the weighted q no longer sum to 1
            lambda r, d: kl_divergence.backward(r._replace(class_weight=r.class_weight / r.class_weight.sum()), d),
        ),
        ("class weights, row weights, none", lambda r, d: kl_divergence.backward(r, jnp.ones_like(d))),
    ],
)
def test_planted_faults_of_weights_are_caught(key, label, wrong):
    assert_caught(EXAMPLES[label], key, lambda r, d: ((), wrong(r, d)), {"1"})


OUT = jnp.zeros((3, 2))


@pytest.mark.parametrize(
    ("targets", "static", "error", "match"),
    [
        (jnp.zeros((3, 1)), {}, ValueError, r"out \(3, 2\) and targets \(3, 1\) must have one shape"),
        (jnp.zeros(3, int), {}, TypeError, r"targets must be a floating-point array, got int"),
        (OUT, {"temperature": 0.0}, ValueError, r"temperature must be positive, got 0.0"),
        (OUT, {"temperature": "hot"}, TypeError, r"temperature must be a number, got the str 'hot'"),
        (OUT, {"reverse": "yes"}, ValueError, r"reverse must be True or False, got 'yes'"),
        (OUT, {"class_weight": [1, 2, 3]}, ValueError, r"class_weight must hold one number per class, shape \(2,\)"),
        (OUT, {"reduction": "batchmean"}, ValueError, r'reduction must be "mean" or "sum" over rows, .*\'batchmean\''),
    ],
)
def test_bad_input(as_users_run_it, targets, static, error, match):
    with pytest.raises(error, match=r"^kl_divergence.forward: .*" + match):
        kl_divergence.forward(OUT, targets, **static)
