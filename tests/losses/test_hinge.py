"""Hinge loss, binary and multi-class: numbers by hand, kinks, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.derivation import LossExample
from jaxbias.losses import hinge
from tests.planted import assert_loss_caught

BINARY = hinge.DERIVATIONS[0].examples[0]
# rows enough for some to satisfy their margin
MULTICLASS = LossExample("20 rows", hinge.loss(), (20, 3), lambda key, dtype: jax.random.randint(key, (20,), 0, 3))


def value_and_delta(out, targets, **static):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = hinge.forward(out, targets, **static)
        return value, hinge.backward(residuals)

    return jax.jit(run)(out)


def test_binary_by_hand():
    out, targets = jnp.array([[0.5, 2.0], [-3.0, 0.25]]), jnp.array([[1.0, 1.0], [1.0, -1.0]])
    value, delta = value_and_delta(out, targets)  # 0.5 + 0, 4 + 1.25
    assert value == (0.5 + 4 + 1.25) / 2
    assert delta.tolist() == [[-0.5, 0.0], [-0.5, 0.5]]
    value, delta = value_and_delta(out, targets, reduction="sum")
    assert value == 5.75 and delta.tolist() == [[-1.0, 0.0], [-1.0, 1.0]]


def test_multiclass_by_hand():
    out = jnp.array([[1.0, 3.0, 2.5], [5.0, 0.0, 1.0], [0.0, 0.5, 0.25]])
    value, delta = value_and_delta(out, jnp.array([1, 0, 2]))  # 1 + 2.5 − 3; satisfied; 1 + 0.5 − 0.25
    np.testing.assert_allclose(value, (0.5 + 0 + 1.25) / 3, rtol=1e-15)
    np.testing.assert_allclose(3 * delta, [[0, -1, 1], [0, 0, 0], [0, 1, -1]], rtol=1e-15)
    np.testing.assert_allclose(value_and_delta(out, jnp.array([1, 0, 2]), reduction="sum")[0], 1.75, rtol=1e-15)


def test_a_score_on_its_margin_has_no_slope():
    assert value_and_delta(jnp.array([[1.0, -1.0]]), jnp.array([[1.0, -1.0]]))[1].tolist() == [[0, 0]]
    assert value_and_delta(jnp.array([[2.0, 1.0]]), jnp.array([0]))[1].tolist() == [[0, 0]]


def test_the_first_of_equal_rivals_takes_all():
    assert value_and_delta(jnp.zeros((1, 3)), jnp.array([1]))[1].tolist() == [[1, -1, 0]]


def test_one_class_and_no_rows():
    value, delta = value_and_delta(jnp.ones((2, 1)), jnp.zeros(2, jnp.int32))
    assert value == 0 and delta.tolist() == [[0], [0]]
    value, delta = value_and_delta(jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32))
    assert value == 0 and delta.shape == (0, 3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_scores_of_ten_thousand(dtype):
    ten_thousand = float(jnp.asarray(1e4, dtype))
    out = jnp.array([[1e4, -1e4]], dtype)
    value, delta = value_and_delta(out, jnp.array([[-1, -1]], dtype))
    assert value == 1 + ten_thousand and value.dtype == jnp.float32
    assert delta.tolist() == [[1, 0]] and delta.dtype == dtype
    value, delta = value_and_delta(out, jnp.array([1]))
    assert value == 1 + 2 * ten_thousand and value.dtype == jnp.float32
    assert delta.tolist() == [[1, -1]] and delta.dtype == dtype


def test_a_label_out_of_range_poisons_only_its_row_inside_jit(key):
    value, delta = jax.jit(value_and_delta)(jax.random.normal(key, (3, 4)), jnp.array([0, 4, -1]))
    assert jnp.isnan(value)
    assert jnp.isnan(delta).any(axis=-1).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: -r.rows.alike.value * r.targets,  # margin forgotten: every row counts
        lambda r: jnp.where(r.targets * r.out < 0, -r.rows.alike.value * r.targets, 0),  # perceptron: margin 0
        lambda r: hinge.backward(r._replace(targets=-r.targets)),
        lambda r: hinge.backward(r) / 3,
    ],
)
def test_planted_faults_are_caught_in_the_binary_form(key, wrong):
    assert_loss_caught(BINARY, key, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: -hinge.backward(r),
        lambda r: jnp.maximum(hinge.backward(r), 0),  # the label's own score forgotten
        lambda r: hinge.backward(r._replace(rivals=(r.rivals + 1) % 3)),
        lambda r: hinge.backward(r._replace(slope=jnp.ones_like(r.slope))),  # satisfied rows count
    ],
)
def test_planted_faults_are_caught_in_the_multiclass_form(key, wrong):
    assert_loss_caught(MULTICLASS, key, wrong)


OUT = jnp.zeros((3, 2))


@pytest.mark.parametrize(
    ("out", "targets", "static", "error", "match"),
    [
        (jnp.zeros((3, 2), jnp.int32), OUT, {}, TypeError, "out must be a floating-point array, got int32"),
        (OUT, jnp.zeros((3, 2), bool), {}, TypeError, "targets must be a floating-point array, got bool"),
        (OUT, jnp.ones(3), {}, ValueError, r"out \(3, 2\) and targets \(3,\) must have one shape"),
        (OUT, OUT, {}, ValueError, r"binary targets must be -1 or 1, got 0.0. .*2 \* targets - 1"),
        (
            OUT,
            jnp.ones((3, 2), jnp.int32),
            {},
            ValueError,
            r"one label per row .* \(3,\) .* got .*\(3, 2\)",
        ),
        (OUT, jnp.array([0, 2, 1]), {}, ValueError, r"labels must lie in \[0, 2\) for out \(3, 2\), got 2"),
        (OUT, jnp.ones((3, 2)), {"reduction": "no"}, ValueError, r'"mean" or "sum" .*, got \'no\''),
    ],
)
def test_bad_input(as_users_run_it, out, targets, static, error, match):
    with pytest.raises(error, match=r"hinge.forward: .*" + match):
        hinge.forward(out, targets, **static)
