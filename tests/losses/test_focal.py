"""Focal loss: numbers by hand, cross-entropy at γ = 0, optax, certain predictions, planted faults, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbias.derivation import normal
from jaxbias.losses import binary_cross_entropy, cross_entropy, focal
from jaxbias.params import Static
from tests.planted import assert_caught, assert_loss_caught

EXAMPLES = {example.label: example for example in focal.DERIVATIONS[0].examples}


def value_and_delta(out, targets, loss=focal, **static):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = loss.forward(out, targets, **static)
        return value, loss.backward(residuals)

    return jax.jit(run)(out)


LOG = np.log(3 / 4)


def test_binary_by_hand():
    # σ(log 3) = 3/4: π = 3/4 and 1/4, γ = 2
    value, delta = value_and_delta(jnp.full((1, 2), math.log(3)), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(value, -LOG / 16 + math.log(4) * 9 / 16, rtol=1e-14)
    expected = [(1 / 16) * (1.5 * LOG - 1 / 4), -(9 / 16) * (0.5 * math.log(1 / 4) - 3 / 4)]
    np.testing.assert_allclose(delta, [expected], rtol=1e-14)


def test_softmax_by_hand():
    # p = (1/4, 3/4), label 1, class weights: of one row the mean leaves no weight
    out, labels = jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([1])
    value, delta = value_and_delta(out, labels, class_weight=(1, 5))
    np.testing.assert_allclose(value, -LOG / 16, rtol=1e-14)
    factor = 1 / 16 - 2 * (3 / 4) * (1 / 4) * LOG
    np.testing.assert_allclose(delta, [[factor / 4, -factor / 4]], rtol=1e-14)
    assert value_and_delta(out, labels, class_weight=(1, 5), reduction="sum")[0] == pytest.approx(5 * value)


def test_two_classes_are_one_logit_and_gamma_zero_is_cross_entropy(key):
    logits, yes = normal(key, (6, 1), jnp.float64), jnp.array([[0.0], [1], [1], [0], [1], [0]])
    out, labels = jnp.concatenate([jnp.zeros((6, 1)), logits], axis=-1), yes[:, 0].astype(int)

    @jax.jit
    def run(logits, out):
        return (
            (value_and_delta(logits, yes, gamma=0.7), value_and_delta(out, labels, gamma=0.7)),
            (value_and_delta(logits, yes, gamma=0.0), value_and_delta(logits, yes, binary_cross_entropy)),
            (value_and_delta(out, labels, gamma=0.0), value_and_delta(out, labels, cross_entropy)),
        )

    for (value, delta), (expected, expected_delta) in run(logits, out):
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(delta[:, -1:], expected_delta[:, -1:], rtol=1e-12)


def test_it_is_that_of_optax(key):
    out, targets = normal(key, (5, 3), jnp.float64), jnp.asarray(np.eye(3)[[0, 2, 1, 1, 0]])

    @jax.jit
    def peer(out):
        return jax.value_and_grad(lambda out: optax.sigmoid_focal_loss(out, targets, alpha=0.25, gamma=1.5).sum())(out)

    value, delta = value_and_delta(out, targets, gamma=1.5, class_weight=(0.75, 0.25), reduction="sum")
    np.testing.assert_allclose(value, peer(out)[0], rtol=1e-13)
    np.testing.assert_allclose(delta, peer(out)[1], rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_certain_predictions_and_their_opposite(dtype):
    """γ < 1: the formula as it stands, and autodiff, give ∞·0 where π = 1; the limit is 0."""
    out = jnp.array([[1e4, -1e4], [-1e4, 1e4]], dtype)
    size = float(out[0, 0])
    for targets, cost in ((jnp.array([[1, 0], [1, 0]], dtype), 2 * size), (jnp.array([0, 0]), 2 * size)):
        value, delta = value_and_delta(out, targets, gamma=0.5, reduction="sum")
        np.testing.assert_allclose(value, cost, rtol=1e-6)
        assert delta.tolist() == [[0, 0], [-1, 1]] and delta.dtype == dtype


def test_small_losses_keep_their_digits():
    rest = math.exp(-30)  # log(π) of a π that rounds to 1
    value, delta = value_and_delta(jnp.array([[0.0, -30.0]]), jnp.array([0]), gamma=1.0)
    np.testing.assert_allclose(value, rest * rest, rtol=1e-12)
    np.testing.assert_allclose(delta, [[-2 * rest * rest, 2 * rest * rest]], rtol=1e-12)  # not p − 1


def test_one_class_and_no_rows():
    value, delta = value_and_delta(jnp.ones((2, 1)), jnp.zeros(2, jnp.int32), gamma=0.5)
    assert value == 0 and delta.tolist() == [[0], [0]]
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32))
    assert value == 0 and delta.shape == (0, 3)


def test_a_label_out_of_range_poisons_only_its_row_inside_jit(key):
    value, delta = jax.jit(value_and_delta)(normal(key, (3, 4), jnp.float64), jnp.array([0, 4, -1]))
    assert jnp.isnan(value)
    assert jnp.isnan(delta).any(axis=-1).tolist() == [False, True, True]


def binary_parts(r):
    sign = 2 * r.targets - 1
    pi = jax.nn.sigmoid(sign * r.out)
    return sign * r.rows.alike.value, pi, 1 - pi


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: -binary_parts(r)[0] * binary_parts(r)[2] ** 3,  # the focal factor held constant
        lambda r: focal.backward(r._replace(gamma=Static(1.0))),
        lambda r: focal.backward(r._replace(targets=1 - r.targets)),
        lambda r: (2 * r.targets - 1) * focal.backward(r),  # by the margin s z, not by z
    ],
)
def test_planted_faults_of_the_binary_form_are_caught(key, wrong):
    assert_loss_caught(EXAMPLES["binary"], key, wrong)


def softmax_parts(r):
    p, one_hot = jax.nn.softmax(r.out), jax.nn.one_hot(r.labels, 4, dtype=r.out.dtype)
    pi = (p * one_hot).sum(axis=-1, keepdims=True)
    return pi, p - one_hot


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: (1 - softmax_parts(r)[0]) ** 2 * softmax_parts(r)[1] / 10,  # the focal factor held constant
        lambda r: focal.backward(r._replace(gamma=Static(1.0))),
        lambda r: focal.backward(r._replace(labels=(r.labels + 1) % 4)),
        # the sign of its second term
        lambda r: 2 * (1 - softmax_parts(r)[0]) ** 2 * softmax_parts(r)[1] / 10 - focal.backward(r),
    ],
)
def test_planted_faults_of_the_softmax_form_are_caught(key, wrong):
    assert_loss_caught(EXAMPLES["softmax"], key, wrong)


def test_planted_faults_of_weights_are_caught(key):
    binary, softmax = (
        EXAMPLES["binary, γ = ½, class weights, row weights, none"],
        EXAMPLES["softmax, γ = ½, class weights"],
    )
    exchanged = lambda r, d: ((), focal.backward(r._replace(class_weight=r.class_weight[::-1]), d))
    for example in (binary, softmax):
        assert_caught(example, key, exchanged, {"1"})


OUT = jnp.zeros((3, 2))


@pytest.mark.parametrize(
    ("targets", "static", "error", "match"),
    [
        (jnp.zeros((3, 1)), {}, ValueError, r"out \(3, 2\) and targets \(3, 1\) must have one shape"),
        (jnp.array([0, 1, 2]), {}, ValueError, r"labels must lie in \[0, 2\) for out \(3, 2\), got 2"),
        (OUT - 1, {}, ValueError, r"binary targets must be 0 or 1, got -1.0. Targets of -1 and 1 become"),
        (jnp.zeros((3, 2), bool), {}, TypeError, r"targets must be a floating-point array, got bool"),
        (OUT, {"gamma": -1}, ValueError, r"gamma must not be negative, got -1"),
        (OUT, {"gamma": "two"}, TypeError, r"gamma must be a number, got the str 'two'"),
        (OUT, {"class_weight": 0.25}, ValueError, r"class_weight .* shape \(2,\) or \(2, 2\), got shape \(\)"),
        (OUT, {"reduction": "no"}, ValueError, r'reduction must be "mean" or "sum"'),
    ],
)
def test_bad_input(as_users_run_it, targets, static, error, match):
    with pytest.raises(error, match=r"^focal.forward: .*" + match):
        focal.forward(OUT, targets, **static)
