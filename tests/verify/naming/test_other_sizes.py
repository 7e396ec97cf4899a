"""Arguments of other sizes: cut, or gone on with, so that they stay what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias.verify.naming.conditions import resize
from jaxbias.verify.naming.fixed_sizes import fixed_sizes

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def test_entries_are_cut_or_come_again_unlike_each_other():
    x = np.array([[0.5, -1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(resize([x], {2: 1})[0], [[0.5]])
    (larger,) = resize([x], {2: 3})
    np.testing.assert_array_equal(larger[:2, :2], x)
    assert larger.shape == (3, 3) and len(np.unique(larger)) == 9
    assert resize([x], {5: 6})[0] is x


def test_what_they_are_is_kept():
    knots, shares, mask = np.array([0.0, 0.5, 2.0]), np.array([[0.25, 0.75, 0.0]]), np.array([1.0, 0.0, 1.0])
    labels = np.array([0, 2, 1])
    knots, shares, mask, labels = resize([knots, shares, mask, labels], {3: 5})
    assert np.all(np.diff(knots) > 0) and knots.shape == (5,)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert set(mask) == {0.0, 1.0} and labels.max() < 5 and labels.dtype.kind == "i"
    assert resize([np.array([0, 4, 1, 3])], {5: 3})[0].max() < 3


LABELS = jnp.array([2, 0, 3, 1, 3])


def cross_entropy(logits):
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(5), LABELS])


def over_the_batch(args, ct):
    (logits,) = args
    p = jax.nn.softmax(logits, axis=0)
    return (ct * (p - jax.nn.one_hot(LABELS, logits.shape[1])) / 5,)


def test_classes_that_are_closed_over_are_within_the_other_size():
    report = verify.vjp(cross_entropy, over_the_batch, (jax.random.normal(jax.random.key(0), (5, 4)),))
    (diagnosis,) = report.diagnoses
    assert diagnosis.patch == "p = jax.nn.softmax(logits, axis=1)" and "2 sizes" in diagnosis.evidence, str(report)


def two_gains(x, a, b):
    return a * x + jnp.sum(b) * x**2


def overwritten_and_halved(args, ct):
    x, a, b = args
    da = jnp.zeros_like(a)
    for row in range(5):
        da = ct[row] * x[row]
    db = jnp.full_like(b, jnp.sum(ct * x**2)) / 2
    return ct * (a + 2 * jnp.sum(b) * x), da, db


def test_a_number_is_no_size_where_a_loop_is_wrong_too():
    x, a, b = jax.random.normal(jax.random.key(1), (5, 3)), jnp.array([0.3, -1.0, 2.0]), jnp.array([0.7, 0.2])
    report = verify.vjp(two_gains, overwritten_and_halved, (x, a, b))
    assert {its.kind for its in report.diagnoses} == {"overwritten-not-accumulated", "scale-constant"}, str(report)
    assert report.diagnoses[-1].patch == "db = jnp.full_like(b, jnp.sum(ct * x**2))", str(report)
    assert "shape" not in "".join(its.explanation for its in report.diagnoses), str(report)


STEPS, (ROWS, COLUMNS) = 6, (4, 5)
HEADS = 8


def helper(x):
    half = 10
    return x.reshape(HEADS, -1) + jnp.arange(half)[:9] / 3


def rule_of_fixed_sizes(args, ct):
    rows = [helper(args[0][k]) ** 11 for k in range(STEPS)]
    return jnp.sum(jnp.stack(rows) * 12 * jnp.ones(shape=(7, 2)), axis=13), jax.jit(lambda x: x[:14])(ct)


def test_sizes_that_a_rule_holds_as_numbers():
    assert fixed_sizes(rule_of_fixed_sizes) == {0, 2, 6, 7, 8, 9, 10, 14}
    assert fixed_sizes(np.sum) == frozenset()
