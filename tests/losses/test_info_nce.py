"""Contrastive loss: numbers by hand, keys by label, CLIP's form, learned scale, biases, planted faults, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.layers import dense
from jaxbias.losses import cross_entropy, info_nce
from jaxbias.params import Layer
from tests.planted import assert_caught

EXAMPLES = {example.label: example for example in info_nce.DERIVATIONS[0].examples}
PAIR, CLIP = EXAMPLES.values()


def value_and_delta(out, targets=None, **static):
    """One compiled program with the targets as constants, so that they can still be looked at."""

    def run(out):
        value, residuals = info_nce.forward(out, targets, **static)
        return value, info_nce.backward(residuals)

    return jax.jit(run)(out)


A, B = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[math.log(3), 0.0], [0.0, 0.0]])


def test_numbers_by_hand():
    # S = ((log 3, 0), (0, 0)): P = (3/4, 1/4), (1/2, 1/2)
    value, (delta_a, delta_b) = value_and_delta((A, B))
    np.testing.assert_allclose(value, (math.log(4 / 3) + math.log(2)) / 2, rtol=1e-15)
    delta_s = np.array([[-1 / 4, 1 / 4], [1 / 2, -1 / 2]]) / 2
    np.testing.assert_allclose(delta_a, delta_s @ B, rtol=1e-14)
    np.testing.assert_allclose(delta_b, delta_s.T @ A, rtol=1e-14)


def test_both_directions_and_a_learned_scale_by_hand():
    # e^τ/T = 1: the same S, whose columns have P = (3/4, 1/4) and (1/2, 1/2) too
    out = (A, B, jnp.asarray(math.log(0.5)))
    value, (delta_a, _, grad_tau) = value_and_delta(out, temperature=0.5, symmetric=True, reduction="sum")
    np.testing.assert_allclose(value, math.log(4 / 3) + math.log(2), rtol=1e-15)
    delta_s = np.array([[-1 / 2, 3 / 4], [3 / 4, -1]]) / 2
    np.testing.assert_allclose(delta_a, delta_s @ B, rtol=1e-14)
    np.testing.assert_allclose(grad_tau, -math.log(3) / 4, rtol=1e-14)


def test_embeddings_of_length_one():
    out = (jnp.array([[3.0, 4.0], [0, 0]]), jnp.array([[0.0, 5.0], [2, 0]]))  # S = (0.8, 0.6), (0, 0)
    value, (delta_a, _) = value_and_delta(out, normalize=True, reduction="sum")
    p = math.exp(0.8) / (math.exp(0.8) + math.exp(0.6))
    np.testing.assert_allclose(value, -math.log(p) + math.log(2), rtol=1e-14)
    # δâ = (1 − p)(b̂_2 − b̂_1), of which what lies along â = (0.6, 0.8) is taken out; an embedding of 0 has no direction
    across = (1 - p) * np.array([0.8, -0.6]) * (0.8 * 1 + 0.6 * 1)
    np.testing.assert_allclose(delta_a, [across / 5, [0, 0]], rtol=1e-13)


def test_labels_of_more_keys_than_rows(key):
    out = info_nce._draw(key, jnp.float64, (3, 2), (5, 2))
    labels = jnp.array([4, 0, 4], jnp.uint8)

    @jax.jit
    def run(out):
        by_logits, residuals = cross_entropy.forward(out[0] @ out[1].T, labels)
        plain = info_nce.forward((out[0], out[1]))[0], info_nce.forward(out, jnp.arange(3))[0]
        return value_and_delta(out, labels), by_logits, cross_entropy.backward(residuals), plain

    (value, deltas), expected, delta_s, (by_place, by_label) = run(out)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(deltas[0], delta_s @ out[1], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(deltas[1], delta_s.T @ out[0], rtol=1e-13, atol=1e-15)
    assert by_place == by_label


def test_a_bias_common_to_all_keys_is_redundant_in_one_direction_alone(key):
    """(9.14): δb sums to 0 over the keys. In the symmetric form, and after normalisation, it does not."""
    out = info_nce._draw(key, jnp.float64, (4, 3), (4, 3))

    @jax.jit
    def sums(out):
        options = ({}, {"symmetric": True}, {"normalize": True})
        return [jnp.abs(info_nce.backward(info_nce.forward(out, **o)[1])[1].sum(axis=0)).max() for o in options]

    one_way, both_ways, of_length_one = sums(out)
    assert one_way < 1e-15 and both_ways > 1e-3 and of_length_one > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float16])
def test_scores_of_ten_thousand_and_mixed_dtypes(dtype):
    out = jnp.array([[100.0], [-100]], dtype), jnp.array([[-100.0], [100]], dtype), jnp.zeros((), jnp.float32)
    value, deltas = value_and_delta(out, reduction="sum")
    assert value == 40_000 and value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
    assert [delta.dtype for delta in deltas] == [dtype, dtype, jnp.float32]
    assert deltas[0].tolist() == [[200], [-200]] and deltas[2] == 40_000


def test_no_rows():
    value, (delta_a, delta_b) = value_and_delta((jnp.zeros((0, 3)), jnp.zeros((2, 3))))
    assert value == 0 and delta_a.shape == (0, 3) and delta_b.tolist() == [[0] * 3] * 2


def test_a_label_out_of_range_makes_all_nan_inside_jit(key):
    value, deltas = jax.jit(value_and_delta)((A, B), jnp.array([0, 2]))
    assert jnp.isnan(value) and jnp.isnan(deltas[1]).all()


def test_a_network_whose_output_is_a_pair(key):
    """The form of a loss holds: value_and_grad hands the pair of error signals back."""
    tower = dense.layer(3)

    def forward(params, x):
        (a, of_a), (b, of_b) = tower.forward(params[0], x[0]), tower.forward(params[1], x[1])
        return (a, b), (of_a, of_b)

    def backward(residuals, delta):
        (grads_a, delta_a), (grads_b, delta_b) = map(tower.backward, residuals, delta)
        return (grads_a, grads_b), (delta_a, delta_b)

    towers = Layer(lambda key, x: (tower.init(key, x[0]), tower.init(key, x[1])), forward, backward, "towers")
    x = info_nce._draw(key, jnp.float64, (4, 2), (4, 5))
    params = towers.init(key, x)
    clip = info_nce.loss(symmetric=True, normalize=True, temperature=0.07)
    value, grads = jb.value_and_grad(towers, clip)(params, x, None)
    expected, expected_grads = jb.value_and_grad(towers, clip, "autodiff")(params, x, None)
    np.testing.assert_allclose(value, expected, rtol=1e-15)
    np.testing.assert_allclose(grads[1].weight, expected_grads[1].weight, rtol=1e-11, atol=1e-14)


# --- planted faults ---------------------------------------------------------------------------------------------------


def rule(r, d, change=lambda delta_s, scores: delta_s, rows=1.0, columns=1.0):
    """(9.11.18) once more, with places to change it: out normalised, row weights, a cotangent for each row."""
    a, b = (part / jnp.linalg.norm(part, axis=-1, keepdims=True) for part in r.out[:2])
    scale = jnp.exp(r.out[2])
    scores, w = scale * a @ b.T, (r.rows.factor * d)[:, None]
    by_row, by_column = (jax.nn.softmax(scores, axis=axis) - jnp.eye(4) for axis in (1, 0))
    delta_s = change((w * by_row * rows + w.T * by_column * columns) / 2, scores)
    back = lambda part, unit, delta: (
        (delta - unit * (unit * delta).sum(-1, keepdims=True)) / jnp.linalg.norm(part, axis=-1, keepdims=True)
    )
    delta_a, delta_b = scale * delta_s @ b, scale * delta_s.T @ a
    return back(r.out[0], a, delta_a), back(r.out[1], b, delta_b), (delta_s * scores).sum()


def with_row_weights_on_columns(r, d):
    return rule(r, d, lambda delta_s, scores: delta_s.T)


WRONG = {
    "one direction alone": (lambda r, d: rule(r, d, columns=0.0), {"1.0", "1.1", "1.2"}),
    "the other direction alone": (lambda r, d: rule(r, d, rows=0.0), {"1.0", "1.1", "1.2"}),
    "δS transposed": (with_row_weights_on_columns, {"1.0", "1.1", "1.2"}),
    "∂L/∂τ without e^τ": (
        lambda r, d: (*rule(r, d)[:2], rule(r, d)[2] * jnp.exp(-r.out[2])),
        {"1.2"},
    ),
    "δa without e^τ": (lambda r, d: (rule(r, d)[0] * jnp.exp(-r.out[2]), *rule(r, d)[1:]), {"1.0"}),
    "the length not differentiated": (
        lambda r, d: (info_nce.backward(r._replace(options=_raw(r)), d)[0], *rule(r, d)[1:]),
        {"1.0"},
    ),
    "δb of the rows": (lambda r, d: (rule(r, d)[0], rule(r, d)[0], rule(r, d)[2]), {"1.1"}),
}


def _raw(r):
    return type(r.options)(r.options.value._replace(normalize=False))


@pytest.mark.parametrize("fault", WRONG)
def test_planted_faults_are_caught(key, fault):
    wrong, leaves = WRONG[fault]
    assert_caught(CLIP, key, lambda r, d: ((), wrong(r, d)), leaves)


def test_the_rule_in_which_faults_are_planted_is_right(key):
    with pytest.raises(AssertionError, match="convicted nothing"):
        assert_caught(CLIP, key, lambda r, d: ((), rule(r, d)), {"1.0"})


def test_planted_faults_of_the_pair_are_caught(key):
    without_temperature = lambda r, d: info_nce.backward(r, d)[0] / 2
    assert_caught(PAIR, key, lambda r, d: ((), (without_temperature(r, d), info_nce.backward(r, d)[1])), {"1.0"})
    moved = lambda r, d: ((), info_nce.backward(r._replace(labels=(r.labels + 1) % 4), d))
    assert_caught(PAIR, key, moved, {"1.0", "1.1"})


@pytest.mark.parametrize(
    ("out", "targets", "static", "error", "match"),
    [
        (A, None, {}, TypeError, r"out must be a pair of embeddings \(a, b\), or .* got a float64 array"),
        ([A, B], None, {}, TypeError, r"got a list of 2"),
        ((A,), None, {}, TypeError, r"got a tuple of 1"),
        ((A, B.astype(int)), None, {}, TypeError, r"b must be a floating-point array, got int"),
        ((A, jnp.zeros((2, 3))), None, {}, ValueError, r"\(N, d\) and \(M, d\), got \(2, 2\) and \(2, 3\)"),
        ((A, B[0]), None, {}, ValueError, r"got \(2, 2\) and \(2,\)"),
        ((A, B, jnp.zeros(1)), None, {}, ValueError, r"tau must be one number, the log of a scale, got shape \(1,\)"),
        ((A, B[:1]), None, {}, ValueError, r"each of the 2 rows needs its key, but there are 1 keys"),
        ((A, B), jnp.array([0, 2]), {}, ValueError, r"labels must lie in \[0, 2\)"),
        ((A, B), jnp.zeros(2), {}, TypeError, r"targets must be integers, .* got a float64 array of shape \(2,\)"),
        ((A, B), jnp.array([0, 1]), {"symmetric": True}, ValueError, r"symmetric pairs row i with key i, so it takes"),
        ((A[:1], B), None, {"symmetric": True}, ValueError, r"as many keys as rows, got None for 1 rows and 2 keys"),
        ((A, B), None, {"temperature": 0.0}, ValueError, r"temperature must be positive, got 0.0"),
        ((A, B), None, {"normalize": "yes"}, ValueError, r"normalize must be True or False, got 'yes'"),
        ((A, B), None, {"row_weight": [1.0]}, ValueError, r"row_weight must hold one number per row, shape \(2,\)"),
    ],
)
def test_bad_input(as_users_run_it, out, targets, static, error, match):
    with pytest.raises(error, match=r"^info_nce.forward: .*" + match):
        info_nce.forward(out, targets, **static)
