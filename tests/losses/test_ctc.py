"""CTC: all paths counted one by one, optax, labels that cannot be spelled, padding, planted faults, bad input."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbias.derivation import normal
from jaxbias.layers import log_softmax
from jaxbias.losses import ctc
from jaxbias.params import Static
from tests.planted import assert_caught, rewritten

OF_LOGITS, OF_LOG_PROBABILITIES = ctc.DERIVATIONS[0].examples


def value_and_delta(out, targets, **static):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = ctc.forward(out, targets, **static)
        cotangent = jnp.ones(value.shape) if value.shape else 1.0
        return value, ctc.backward(residuals, cotangent)

    return jax.jit(run)(out)


def spelled(path, blank):
    return [k for k, _ in itertools.groupby(path) if k != blank]


def counted(p, labels, blank):
    """−log of the probability of all paths that spell the labels, and δ: p − how often each class is met."""
    total, met = 0.0, np.zeros_like(p)
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        if spelled(path, blank) == labels:
            probability = math.prod(p[t, k] for t, k in enumerate(path))
            total += probability
            met[np.arange(len(p)), path] += probability
    return -math.log(total), p - met / total


def test_all_paths_one_by_one(key):
    """Repeats, no labels, one for each step; a length; the blank in the middle."""
    labels = np.array([[0, 0, -1], [2, 0, -1], [-1, -1, -1], [2, 0, 2], [0, 2, 0]])
    lengths = np.array([4, 4, 4, 4, 3])
    out = normal(key, (5, 4, 3), jnp.float64)
    targets = jnp.asarray(labels), jnp.asarray(lengths)
    value, delta = map(np.asarray, value_and_delta(out, targets, blank=1, reduction="none"))
    p = np.exp(out) / np.exp(out).sum(axis=-1, keepdims=True)
    for i, length in enumerate(lengths):
        cost, slope = counted(p[i, :length], [k for k in labels[i] if k >= 0], 1)
        np.testing.assert_allclose(value[i], cost, rtol=1e-13)
        np.testing.assert_allclose(delta[i, :length], slope, atol=1e-14)
        assert np.all(delta[i, length:] == 0)
    np.testing.assert_allclose(
        delta.sum(axis=-1), np.zeros((5, 4)), atol=1e-14
    )  # a constant on all logits is redundant


LABELS = np.array([[1, 1, 2, 3], [3, 2, -1, -1], [5, 5, 5, -1]])
LENGTHS = np.array([8, 5, 7])


def test_value_and_gradient_of_optax(key):
    out = normal(key, (3, 8, 6), jnp.float64)
    missing = jnp.asarray((np.arange(8) >= LENGTHS[:, None]).astype(float)), jnp.asarray((LABELS < 0).astype(float))

    @jax.jit
    def run(out):
        ours = value_and_delta(out, (jnp.asarray(LABELS), jnp.asarray(LENGTHS)), reduction="sum")
        theirs = lambda out: optax.ctc_loss(out, missing[0], jnp.asarray(np.maximum(LABELS, 0)), missing[1]).sum()
        return ours, jax.value_and_grad(theirs)(out)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (value, delta), (expected, expected_delta) = run(out)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(delta, expected_delta, atol=1e-12)


def test_four_hundred_steps_neither_underflow_nor_lose_digits():
    """One label and the blank at p = ½: the label's run begins and ends somewhere, T (T + 1)/2 paths of 2^−T each."""
    value, delta = value_and_delta(jnp.zeros((1, 400, 2), jnp.float32), jnp.array([[1]]))
    eps = float(jnp.finfo(jnp.float32).eps)
    # the largest entries, of which log ½ is the size, add up with one rounding each
    np.testing.assert_allclose(value, 400 * math.log(2) - math.log(400 * 401 / 2), rtol=400 * eps)
    first = 1 / 2 - 400 / (400 * 401 / 2)  # of the paths 400 begin with the label
    # α and β of the size of L would lose 8 bits more
    np.testing.assert_allclose(delta[0, 0], [-first, first], rtol=8 * eps)


def test_log_probabilities_and_logits_are_one_behind_log_softmax(key):
    out, labels = normal(key, (3, 5, 4), jnp.float64), jnp.asarray(ctc.LABELS)

    @jax.jit
    def run(out):
        log_p, residuals = log_softmax.forward((), out)
        value, free = value_and_delta(log_p, labels, log_probabilities=True)
        return value, free, log_softmax.backward(residuals, free)[1], value_and_delta(out, labels)

    value, free, through, (expected, delta) = run(out)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(through, delta, atol=1e-15)
    np.testing.assert_allclose(free.sum(axis=-1), np.full((3, 5), -1 / 3), rtol=1e-13)
    assert np.abs(free - delta).max() > 0.1


# --- what cannot be spelled, what does not count ----------------------------------------------------------------------

OUT = jnp.zeros((2, 2, 3))
TWICE = jnp.array([[1, 1], [1, 2]])  # the first needs a blank between, and so three steps


def test_labels_that_cannot_be_spelled_are_refused_or_skipped(as_users_run_it):
    with pytest.raises(ValueError, match=r"sequence 0 need 3 steps, .* but it has 2. skip_infeasible=True leaves"):
        ctc.forward(OUT, TWICE)
    value, delta = value_and_delta(OUT, TWICE, skip_infeasible=True)
    np.testing.assert_allclose(value, 2 * math.log(3), rtol=1e-15)  # the mean of one
    assert np.all(delta[0] == 0) and np.isfinite(delta).all() and np.any(delta[1] != 0)


def test_inside_jit_wrong_targets_make_their_row_nan_and_impossible_ones_infinite():
    labels = np.array([[1, 2], [3, 1], [0, 1], [-1, 1], [1, 1], [1, 2], [1, -1], [2, -1]])
    lengths = np.array([3, 3, 3, 3, 2, 4, 3, 3])  # right; no class; the blank; behind padding; too short; too long
    out = np.zeros((8, 3, 3))
    out[6:, :, 2] = -np.inf  # a class that cannot occur, nor must it; and one that must
    run = jax.jit(lambda out, *targets: value_and_delta(out, targets, reduction="none"))
    value, delta = map(np.asarray, run(out, labels, lengths))
    np.testing.assert_allclose(value[[0, 6]], [-math.log(5 / 27), -math.log(6 / 8)], rtol=1e-14)
    assert np.isnan(value).tolist() == [False, True, True, True, False, True, False, False]
    assert value[4] == value[7] == np.inf
    assert np.isfinite(delta[[0, 6]]).all()
    assert np.isnan(delta[[1, 2, 3, 5, 7]]).all() and np.isnan(delta[4, :2]).all()


def test_steps_behind_the_length_and_rows_of_weight_zero_may_hold_nan():
    out = np.zeros((2, 4, 3))
    out[0, 2:] = out[1] = np.nan
    targets = jnp.array([[1, 2], [1, -1]], jnp.int8), jnp.array([2, 4], jnp.uint8)
    value, delta = map(np.asarray, value_and_delta(out, targets, row_weight=[2, 0]))
    np.testing.assert_allclose(value, 2 * math.log(3), rtol=1e-15)
    assert np.isfinite(delta).all() and np.all(delta[1] == 0) and np.any(delta[0, :2] != 0)


def test_no_rows_and_no_steps():
    both = lambda out, labels: value_and_delta(out, labels)
    assert jax.eval_shape(both, jnp.zeros((0, 4, 3)), jnp.zeros((0, 2), jnp.int32))[1].shape == (0, 4, 3)
    value, delta = value_and_delta(jnp.zeros((2, 0, 3)), jnp.zeros((2, 0), jnp.int32))
    assert value == 0 and delta.shape == (2, 0, 3)


# --- planted faults ---------------------------------------------------------------------------------------------------


def _all_steps(r):
    steps = jnp.ones_like(r.lattice.counted_steps)
    return r._replace(lattice=r.lattice._replace(counted_steps=steps))


WRONG = {
    "(9.11.20) for free log-probabilities": (
        OF_LOG_PROBABILITIES,
        lambda r, d: ctc.backward(r._replace(log_probabilities=Static(False)), d),
    ),
    "the length of a sequence ignored": (OF_LOG_PROBABILITIES, lambda r, d: ctc.backward(_all_steps(r), d)),
    "the cotangent of the row forgotten": (OF_LOG_PROBABILITIES, lambda r, d: ctc.backward(r, jnp.ones_like(d))),
    "(9.11.21) for logits": (OF_LOGITS, lambda r, d: ctc.backward(r._replace(log_probabilities=Static(True)), d)),
}
IN_THE_PASS = {
    "a step over every blank": ("jnp.where(lattice.skips, leaving, LOG_ZERO)", "leaving"),
    "the emission of t counted in α and in β": ("softmax(alpha + beta", "softmax(alpha + beta + emissions"),
    "only behind the last label": ("jnp.where(_is_end(lattice)", "jnp.where(_is_end(lattice) & (lattice.symbols == 0)"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_planted_faults_are_caught(key, fault):
    example, wrong = WRONG[fault]
    assert_caught(example, key, lambda r, d: ((), wrong(r, d)), {"1"})


@pytest.mark.parametrize("fault", IN_THE_PASS)
def test_planted_faults_in_the_pass_are_caught(key, fault, monkeypatch):
    wrong = rewritten(ctc._occupancy, IN_THE_PASS[fault])

    def backward(residuals, delta):
        with monkeypatch.context() as patched:
            patched.setattr(ctc, "_occupancy", wrong)
            patched.setattr(ctc, "_slope", ctc._slope.__wrapped__)  # what was compiled holds the right one
            return (), ctc.backward(residuals, delta)

    assert_caught(OF_LOGITS, key, backward, {"1"})


def test_a_sum_that_is_set_in_place_of_added_is_caught(key, monkeypatch):
    """The blanks stand at many places of the lattice."""
    wrong = rewritten(ctc._of_classes, (".add(gamma.T)", ".set(gamma.T)"))

    def backward(residuals, delta):
        with monkeypatch.context() as patched:
            patched.setattr(ctc, "_of_classes", wrong)
            patched.setattr(ctc, "_slope", ctc._slope.__wrapped__)
            return (), ctc.backward(residuals, delta)

    assert_caught(OF_LOGITS, key, backward, {"1"})


# --- bad input --------------------------------------------------------------------------------------------------------

ONE = jnp.array([[1], [2]])


@pytest.mark.parametrize(
    ("out", "targets", "static", "error", "match"),
    [
        (OUT.astype(int), ONE, {}, TypeError, r"out must be a floating-point array, got int"),
        (OUT[0], ONE, {}, ValueError, r"out must have the axes \(sequences, time, classes\), got shape \(2, 3\)"),
        (OUT, ONE.astype(float), {}, TypeError, r"labels must be an array of integers, got a float64 array"),
        (OUT, [[1], [2]], {}, TypeError, r"labels must be an array of integers, got a list"),
        (OUT, (ONE, ONE, ONE), {}, TypeError, r"labels or a pair \(labels, lengths\), got a tuple of 3"),
        (OUT, ONE[:1], {}, ValueError, r"labels must have the shape \(n, S\) for out \(2, 2, 3\), .*got \(1, 1\)"),
        (OUT, ONE[:, 0], {}, ValueError, r"labels must have the shape \(n, S\) .* got \(2,\)"),
        (OUT, (ONE, ONE), {}, ValueError, r"lengths must have the shape \(2,\) for out \(2, 2, 3\), got \(2, 1\)"),
        (OUT, (ONE, jnp.array([1, 3])), {}, ValueError, r"lengths must lie in \[0, 2\] for out \(2, 2, 3\), got 3"),
        (OUT, (ONE, jnp.array([1, 0])), {}, ValueError, r"the labels of sequence 1 need 1 steps, .* but it has 0"),
        (OUT, ONE + 1, {}, ValueError, r"labels must lie in \[0, 3\) .* and not be the blank, 0, got 3"),
        (OUT, ONE, {"blank": 2}, ValueError, r"not be the blank, 2, got 2"),
        (OUT, ONE, {"blank": 3}, ValueError, r"blank=3 is no class of out \(2, 2, 3\)"),
        (OUT, ONE, {"blank": -1}, ValueError, r"blank must be the index of a class, a whole number, got -1"),
        (OUT, jnp.array([[-1, 1], [1, 2]]), {}, ValueError, r"a label stands behind padding"),
        (OUT, ONE, {"log_probabilities": 1}, ValueError, r"log_probabilities must be True or False, got 1"),
        (OUT, ONE, {"reduction": "no"}, ValueError, r'reduction must be "mean" or "sum"'),
    ],
)
def test_bad_input(as_users_run_it, out, targets, static, error, match):
    with pytest.raises(error, match=r"^ctc.forward: .*" + match):
        ctc.forward(out, targets, **static)
