"""Softmax cross-entropy: numbers worked by hand, autodiff of the plain formula, extreme logits, ignored rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.derivation import generator, normal
from jaxbias.losses import cross_entropy
from tests.planted import assert_loss_caught

EXAMPLES = {example.label: example for example in cross_entropy.DERIVATIONS[0].examples}


def plain(out, targets, label_smoothing=0.0):
    """Sum over rows of −Σ t log softmax(z), as the textbook writes it."""
    dense = jax.nn.one_hot(targets, out.shape[-1], dtype=out.dtype) if targets.ndim < out.ndim else targets
    smoothed = (1 - label_smoothing) * dense + label_smoothing / out.shape[-1]
    return -jnp.sum(smoothed * jnp.log(jax.nn.softmax(out)))


PLAIN = jax.jit(jax.value_and_grad(plain))


def value_and_delta(out, targets, **static):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = cross_entropy.forward(out, targets, **static)
        return value, cross_entropy.backward(residuals)

    return jax.jit(run)(out)


def test_numbers_by_hand():
    # softmax(0, log 3) = (1/4, 3/4); softmax(log 4, 0) = (4/5, 1/5)
    out = jnp.log(jnp.array([[1.0, 3.0], [4.0, 1.0]]))
    value, delta = value_and_delta(out, jnp.array([0, 0]))
    np.testing.assert_allclose(value, (math.log(4) + math.log(5 / 4)) / 2, rtol=1e-15)
    np.testing.assert_allclose(delta, [[-3 / 8, 3 / 8], [-1 / 10, 1 / 10]], rtol=1e-15)
    value, delta = value_and_delta(out, jnp.array([0, 0]), reduction="sum")
    np.testing.assert_allclose(value, math.log(5), rtol=1e-15)
    np.testing.assert_allclose(delta, [[-3 / 4, 3 / 4], [-1 / 5, 1 / 5]], rtol=1e-15)


def test_equal_logits_cost_log_k():
    value, delta = value_and_delta(jnp.full((3, 10), 7.0), jnp.array([0, 4, 9]))
    np.testing.assert_allclose(value, math.log(10), rtol=1e-15)
    np.testing.assert_allclose(delta.sum(), 0, atol=1e-15)  # rows sum to 0: shifting all output biases changes nothing


@pytest.mark.parametrize("leading", [(5,), (2, 3), (2, 1, 3), ()])
def test_any_leading_axes(key, leading):
    out = normal(key, (*leading, 4), jnp.float64)
    targets = jnp.asarray(generator(key).integers(0, 4, leading))
    value, delta = value_and_delta(out, targets, reduction="sum")
    expected, expected_delta = PLAIN(out, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(delta, expected_delta, atol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.uint32])
def test_any_integer_dtype_and_more_classes_than_it_can_count(key, dtype):
    out, labels = normal(key, (3, 300), jnp.float64), np.array([1, 127, 43])
    labels, narrow = jnp.asarray(labels), jnp.asarray(labels.astype(dtype))
    value, delta = value_and_delta(out, narrow)
    expected, expected_delta = value_and_delta(out, labels)
    assert float(value) == float(expected) and np.array_equal(delta, expected_delta)


def test_label_smoothing_by_hand(key):
    # ε = 0.4, K = 2: targets (0.8, 0.2); p = (1/4, 3/4)
    out = jnp.log(jnp.array([[1.0, 3.0]]))
    value, delta = value_and_delta(out, jnp.array([0]), label_smoothing=0.4)
    np.testing.assert_allclose(value, -0.8 * math.log(1 / 4) - 0.2 * math.log(3 / 4), rtol=1e-15)
    np.testing.assert_allclose(delta, [[-0.55, 0.55]], rtol=1e-15)


def test_label_smoothing_of_labels_is_that_of_one_hot_rows(key):
    out, labels = normal(key, (5, 4), jnp.float64), jnp.array([0, 3, 1, 1, 2])
    rows = jnp.asarray(np.eye(4)[labels])
    cases = ({"label_smoothing": 0.3}, {"label_smoothing": 1.0}, {"label_smoothing": 0.3, "reduction": "sum"})

    @jax.jit
    def run(out):
        return [
            (value_and_delta(out, labels, **case), value_and_delta(out, rows, **case), plain(out, labels, smoothing))
            for case in cases
            for smoothing in [case["label_smoothing"]]
        ]

    for case, (of_labels, of_rows, expected) in zip(cases, run(out), strict=True):
        np.testing.assert_allclose(of_labels[0], of_rows[0], rtol=1e-13)
        np.testing.assert_allclose(of_labels[1], of_rows[1], atol=1e-15)
        np.testing.assert_allclose(of_labels[0], expected / (1 if "reduction" in case else 5), rtol=1e-13)


def test_dense_rows_that_do_not_sum_to_one(key):
    out_key, targets_key = jax.random.split(key)
    out, targets = normal(out_key, (5, 4), jnp.float64), jax.random.uniform(targets_key, (5, 4))
    value, delta = value_and_delta(out, targets, reduction="sum")
    expected, expected_delta = PLAIN(out, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(delta, expected_delta, atol=1e-14)
    naive = jax.nn.softmax(out) - targets
    assert jnp.abs(naive - expected_delta).max() > 0.1  # p − y is not the gradient here


@pytest.mark.parametrize("ignore_label", [-100, 2])
def test_ignored_rows_count_nothing(key, ignore_label):
    out, labels = normal(key, (5, 4), jnp.float64), np.array([0, ignore_label, 3, ignore_label, 1])
    kept = np.array([0, 2, 4])
    of_kept, labels = (np.asarray(out)[kept], labels[kept]), jnp.asarray(labels)
    value, delta = value_and_delta(out, labels, ignore_label=ignore_label)
    expected, expected_delta = PLAIN(*of_kept)
    delta = np.asarray(delta)
    np.testing.assert_allclose(value, expected / 3, rtol=1e-13)
    np.testing.assert_allclose(delta[kept], np.divide(expected_delta, 3), atol=1e-15)
    assert delta[[1, 3]].tolist() == [[0.0] * 4] * 2
    value, _ = value_and_delta(out, labels, ignore_label=ignore_label, reduction="sum")
    np.testing.assert_allclose(value, expected, rtol=1e-13)


def test_every_row_ignored_costs_nothing(key):
    value, delta = value_and_delta(normal(key, (3, 4), jnp.float64), jnp.full(3, -1), ignore_label=-1)
    assert value == 0 and delta.tolist() == [[0.0] * 4] * 3


def test_an_ignored_row_may_hold_nan(key):
    out = normal(key, (3, 4), jnp.float64).at[1].set(jnp.nan)
    value, delta = value_and_delta(out, jnp.array([0, -1, 2]), ignore_label=-1)
    assert jnp.isfinite(value) and jnp.isfinite(delta).all()


def test_no_rows():
    value, delta = value_and_delta(jnp.zeros((0, 4)), jnp.zeros(0, jnp.int32))
    assert value == 0 and delta.shape == (0, 4)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.float16, jnp.bfloat16])
def test_logits_of_ten_thousand(dtype):
    out = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4 - 64, -1e4]], dtype)
    value, delta = value_and_delta(out, jnp.array([0, 1, 1]), reduction="sum")
    gap = float(np.subtract(*np.float64(out)[2, :2]))  # 64 as far as the dtype can hold it
    assert value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
    assert delta.dtype == dtype
    np.testing.assert_allclose(value, math.log(2) + gap, rtol=1e-6)
    np.testing.assert_allclose(np.float64(delta), [[0, 0, 0], [0, -0.5, 0.5], [1, -1, 0]], atol=1e-16)


def test_small_losses_keep_their_digits():
    # log(1 + exp(−d)) next to logits of 1e4: log Σ exp z − z_y in this form would lose everything below 1e-12
    value, _ = value_and_delta(jnp.array([[1e4, 1e4 - 20]]), jnp.array([0]))
    np.testing.assert_allclose(value, math.log1p(math.exp(-20)), rtol=1e-7)
    value, _ = value_and_delta(jnp.array([[1e4, 1e4 - 20]]), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(value, math.log1p(math.exp(-20)), rtol=1e-7)


def test_minus_infinity_masks_a_class():
    out = jnp.array([[0.0, -jnp.inf, math.log(3)]])
    for targets in (jnp.array([2]), jnp.array([[0.0, 0.0, 1.0]])):
        value, delta = value_and_delta(out, targets)
        np.testing.assert_allclose(value, math.log(4 / 3), rtol=1e-15)
        np.testing.assert_allclose(delta, [[0.25, 0, -0.25]], atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("label", ["labels, smoothing", "dense targets"])
def test_narrow_floats_agree_with_float64(key, dtype, label):
    example = EXAMPLES[label]
    out = normal(key, example.out, dtype)
    targets = example.targets(key, dtype)

    @jax.jit
    def both(out, targets):
        value, residuals = example.loss.forward(out, targets)
        return value, example.loss.backward(residuals)

    value, delta = both(out, targets)
    wide = np.asarray(targets, np.float64) if jnp.issubdtype(targets.dtype, jnp.floating) else targets
    expected, expected_delta = both(np.asarray(out, np.float64), wide)
    np.testing.assert_allclose(value, expected, rtol=2e-6)  # computed in float32 from the same numbers
    assert delta.dtype == dtype
    np.testing.assert_allclose(np.float64(delta), expected_delta, rtol=2 * jnp.finfo(dtype).eps, atol=1e-7)


def test_jit_vmap_and_eager_agree(key):
    out, labels = normal(key, (3, 5, 4), jnp.float64), jax.random.randint(key, (3, 5), 0, 4).at[0, 0].set(-1)
    bound = cross_entropy.loss(ignore_label=-1, label_smoothing=0.1)

    def both(out, labels):
        value, residuals = bound.forward(out, labels)
        return value, bound.backward(residuals)

    values, deltas = jax.jit(jax.vmap(both))(out, labels)
    one = jax.jit(both)
    for i, run in ((0, both), (1, one), (2, one)):
        value, delta = run(out[i], labels[i])
        np.testing.assert_allclose(values[i], value, rtol=1e-14)
        np.testing.assert_allclose(deltas[i], delta, atol=1e-15)


def test_a_label_out_of_range_poisons_only_its_row_inside_jit(key):
    out, labels = normal(key, (3, 4), jnp.float64), jnp.array([0, 4, -1])
    value, delta = jax.jit(value_and_delta)(out, labels)
    assert jnp.isnan(value)
    assert jnp.isnan(delta).all(axis=-1).tolist() == [False, True, True]


WRONG = {
    "softmax without the target": lambda r: cross_entropy.backward(r) + _scaled_target(r),
    "target with the wrong sign": lambda r: cross_entropy.backward(r) + 2 * _scaled_target(r),
    "mean over rows and classes": lambda r: cross_entropy.backward(r) / r.logits.shape[-1],
    "divided by n a second time": lambda r: cross_entropy.backward(r) / 5,
    "log of the sum in place of the sum": lambda r: cross_entropy.backward(r._replace(total=jnp.log(r.total) + 2)),
    "label moved by one class": lambda r: cross_entropy.backward(r._replace(targets=(r.targets + 1) % 4)),
}


def _scaled_target(residuals):
    return jax.nn.one_hot(residuals.targets, 4, dtype=residuals.logits.dtype) * residuals.rows.factor[:, None]


@pytest.mark.parametrize("fault", WRONG)
def test_planted_faults_are_caught(key, fault):
    assert_loss_caught(EXAMPLES["labels"], key, WRONG[fault])


def test_dividing_by_all_rows_where_some_are_ignored_is_caught(key):
    wrong = lambda r: cross_entropy.backward(r) * 3 / 5
    assert_loss_caught(EXAMPLES["labels, ignored rows"], key, wrong)


def test_forgetting_the_smoothing_is_caught(key):
    wrong = lambda r: cross_entropy.backward(r._replace(label_smoothing=type(r.label_smoothing)(0.0)))
    assert_loss_caught(EXAMPLES["labels, smoothing"], key, wrong)


def test_p_minus_y_is_caught_where_targets_do_not_sum_to_one(key):
    def wrong(r):
        smoothed = 0.9 * r.targets + 0.1 / 4
        return (jax.nn.softmax(r.logits) - smoothed) * r.rows.alike.value

    assert_loss_caught(EXAMPLES["dense targets that do not sum to 1, smoothing"], key, wrong)


LOGITS = jnp.zeros((3, 4))


@pytest.mark.parametrize(
    ("out", "targets", "static", "error", "match"),
    [
        (jnp.zeros((3, 4), jnp.int32), jnp.zeros(3, jnp.int32), {}, TypeError, r"out must be a floating.*got int32"),
        (jnp.zeros(()), jnp.zeros((), jnp.int32), {}, ValueError, r"last axis of out .* got out \(\)"),
        (jnp.zeros((3, 0)), jnp.zeros(3, jnp.int32), {}, ValueError, r"outputs of one row, got out \(3, 0\)"),
        (LOGITS, jnp.zeros(3, bool), {}, TypeError, r"targets must be a floating-point array, got bool"),
        (LOGITS, [0, 1, 2], {}, TypeError, r"targets must be an array, of labels jnp\.asarray\(targets\)"),
        (
            LOGITS,
            jnp.zeros((3, 1), jnp.int32),
            {},
            ValueError,
            r"one label per row .* \(3,\) for .*\(3, 1\)",
        ),
        (LOGITS, jnp.zeros((3, 4), jnp.int32), {}, ValueError, r"One-hot rows must be floating point"),
        (LOGITS, jnp.zeros(3), {}, ValueError, r"dense targets .* \(3,\) for out \(3, 4\). Labels must be integers"),
        (LOGITS, jnp.array([0, 4, 1]), {}, ValueError, r"labels must lie in \[0, 4\) for out \(3, 4\), got 4"),
        (LOGITS, jnp.array([0, -100, 1]), {}, ValueError, r"got -100. Rows to leave out need .*ignore_label"),
        (LOGITS, jnp.array([0, -7, -1]), {"ignore_label": -1}, ValueError, r"labels must lie in .* got -7"),
        (LOGITS, jnp.zeros(3, jnp.uint8), {"ignore_label": -1}, ValueError, r"ignore_label=-1 cannot occur .* uint8"),
        (LOGITS, LOGITS, {"ignore_label": -1}, ValueError, r"ignore_label=-1 needs integer labels"),
        (LOGITS, jnp.zeros(3, jnp.int32), {"label_smoothing": 1.5}, ValueError, r"label_smoothing .*\[0, 1\], got 1.5"),
        (LOGITS, jnp.zeros(3, jnp.int32), {"reduction": "no"}, ValueError, r'must be "mean" or "sum".*got \'no\''),
    ],
)
def test_bad_input(as_users_run_it, out, targets, static, error, match):
    with pytest.raises(error, match=r"cross_entropy.forward: .*" + match):
        cross_entropy.forward(out, targets, **static)


def test_bad_configuration(as_users_run_it):
    with pytest.raises(ValueError, match=r"cross_entropy.loss: label_smoothing"):
        cross_entropy.loss(label_smoothing=-0.1)
    with pytest.raises(ValueError, match=r"cross_entropy.loss: ignore_label must be an int or None, got '<pad>'"):
        cross_entropy.loss(ignore_label="<pad>")


def test_labels_may_be_constants_of_a_jitted_function(key):
    out, labels = normal(key, (3, 4), jnp.float64), jnp.array([0, 3, 1])
    inside, outside = jax.jit(lambda out: value_and_delta(out, labels))(out), value_and_delta(out, labels)
    np.testing.assert_allclose(inside[1], outside[1], atol=1e-15)
    wrong_labels = jnp.array([0, 4, 1])
    with pytest.raises(ValueError, match="got 4"):  # they are known although out is traced
        jax.jit(lambda out: value_and_delta(out, wrong_labels))(out)
