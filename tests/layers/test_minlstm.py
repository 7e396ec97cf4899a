from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import instance, normal, random_like
from jaxbias.layers import Sequences, minlstm
from jaxbias.params import Params
from tests.planted import assert_caught, rewritten, right_answer

PLAIN, HARDEST, NO_STEPS = minlstm.DERIVATIONS[0].examples


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loops(params, x, h):
    """The cell for one row, step by step and receiver first, with f and i as they stand."""
    weights = [np.asarray(each.weight).T for each in params]
    biases = [0 if each.bias is None else np.asarray(each.bias) for each in params]
    states = np.zeros((0, len(h)))
    for step in x:
        z_f, z_i, k = (w @ step + b for w, b in zip(weights, biases))
        f, i = sigmoid(z_f), sigmoid(z_i)
        h = (f * h + i * k) / (f + i)
        states = np.concatenate([states, h[None]])
    return states


@partial(jax.jit, static_argnums=0)
def both_passes(layer, params, x, delta):
    h, residuals = layer.forward(params, x)
    return h, layer.backward(residuals, delta)


def test_step_by_step_loops_of_the_equations(key):
    case = instance(PLAIN, key, jnp.float64)
    h = np.asarray(right_answer(PLAIN, key)[0].h)
    for row in range(2):
        expected = loops(case.params, np.asarray(case.x)[row], np.zeros(4))
        np.testing.assert_allclose(h[:, row], expected, rtol=0, atol=1e-14)

    case = instance(HARDEST, key, jnp.float64)
    x, h0, lengths = jax.device_get(case.x)
    h = np.asarray(right_answer(HARDEST, key)[0].h)
    for row, length in enumerate(lengths):  # reversed within the length, and h0 in the padding
        states = loops(case.params, x[row][:length][::-1], h0[row])[::-1]
        np.testing.assert_allclose(h[:length, row], states, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(h[length:, row], np.broadcast_to(h0[row], (3 - length, 3)))


def test_by_hand():
    """One unit, two steps of x = 0, h0 = 4, bk = 2, f = 1/2, i = 1/4: F = 2/3, h = 10/3, 26/9; L = h[1] + 2 h[2]."""
    zero = np.zeros((1, 1))
    bias = lambda value: Params(zero, np.full(1, value))
    params = minlstm.MinLstmParams(bias(0.0), bias(-np.log(3)), bias(2.0))
    x, delta = (np.zeros((1, 2, 1)), np.full((1, 1), 4.0)), np.array([[[1.0], [2.0]]])
    h, (grads, (_, delta_h0)) = both_passes(minlstm.layer(1), params, x, delta)
    np.testing.assert_allclose(np.ravel(h), [10 / 3, 26 / 9], rtol=1e-15)
    # λ[2] = 2, λ[1] = 1 + 4/3 = 7/3; w = λ (h₋ − 2) 2/9: 28/27 and 16/27, in all 44/27
    found = [grads.forget.bias[0], grads.input.bias[0], grads.candidate.bias[0], delta_h0[0, 0]]
    np.testing.assert_allclose(found, [22 / 27, -11 / 9, 13 / 9, 14 / 9], rtol=1e-14)


def test_gates_that_are_zero_in_floating_point_still_share_the_state(key):
    """f = e^-200, i = e^-201: F = e/(1 + e), where f/(f + i) would be 0/0 in float32."""
    zero = jnp.zeros((1, 1), jnp.float32)
    bias = lambda value: Params(zero, jnp.full(1, value, jnp.float32))
    params = minlstm.MinLstmParams(bias(-200.0), bias(-201.0), bias(0.0))
    x = jnp.zeros((1, 1, 1), jnp.float32), jnp.ones((1, 1), jnp.float32)
    h, (grads, _) = both_passes(minlstm.layer(1), params, x, jnp.ones((1, 1, 1), jnp.float32))
    share = sigmoid(1.0)
    np.testing.assert_allclose(h, [[[share]]], rtol=1e-5)
    slope = share * (1 - share)
    np.testing.assert_allclose([grads.forget.bias[0], grads.input.bias[0]], [slope, -slope], rtol=1e-5)


def test_padding_has_no_gradient_and_a_row_of_no_steps_hands_its_delta_to_the_state(key):
    _, delta, (_, delta_x) = right_answer(HARDEST, key)
    assert np.all(delta_x.x[1] == 0) and np.all(delta_x.x[2, 2:] == 0) and np.all(delta_x.x[2, :2] != 0)
    np.testing.assert_allclose(delta_x.state[1], np.sum(delta[1], axis=0), rtol=1e-14)


def test_no_bias_is_redundant(key):
    layer = minlstm.layer(1, output="last")
    x = normal(key, (6, 2, 2), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    assert not jb.surgery.redundant_biases(lambda p, x: layer.forward(p, x)[0], params, x)


def test_bad_input_is_named(key):
    x = jnp.ones((2, 5, 3))
    params = random_like(key, jax.eval_shape(minlstm.layer(4).init, key, x))
    with pytest.raises(ValueError, match=r"minlstm.layer: units must be a whole number of at least 1, got the int 0"):
        minlstm.layer(0)
    with pytest.raises(
        ValueError, match=r"minlstm.layer: output must be one of \"steps\", \"last\", got the str 'all'"
    ):
        minlstm.layer(2, output="all")
    with pytest.raises(ValueError, match=r"minlstm.forward: the three weights .* \(3, 4\), \(3, 4\), \(3, 5\)"):
        minlstm.forward(params._replace(candidate=Params(jnp.ones((3, 5)), None)), x)
    with pytest.raises(ValueError, match=r"minlstm.forward: h0 must be \(n, units\) = \(2, 4\), got shape \(2, 3\)"):
        minlstm.forward(params, (x, jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=r"minlstm.forward: lengths must be bools \(n, time\) = \(2, 5\) .* \(2, 4\)"):
        minlstm.forward(params, Sequences(x, lengths=jnp.ones((2, 4), bool)))
    with pytest.raises(ValueError, match=r"minlstm.backward: delta has shape \(2, 5, 3\) .* \(2, 5, 4\)"):
        minlstm.backward(minlstm.forward(params, x)[1], x)


F, I, K = ({f"0.{name}.weight", f"0.{name}.bias"} for name in ("forget", "input", "candidate"))
FAULTS = {
    "a[t] for a[t+1] in the adjoint": ([("adjoint(a, ", "adjoint(jnp.roll(a, 1, axis=0), ")], F | I | K | {"1"}),
    "h[t] for h₋": ([("before(h, start.astype(wide), reverse) - k", "h - k")], F | I | {"1"}),
    "δi with the sign of δf": ([("-w * ", "w * ")], I | {"1"}),
    "slopes of the gates exchanged": (
        [
            (
                "w * jax.nn.sigmoid(-z_f), -w * jax.nn.sigmoid(-z_i)",
                "w * jax.nn.sigmoid(-z_i), -w * jax.nn.sigmoid(-z_f)",
            )
        ],
        F | I | {"1"},
    ),
    "the candidate with F for J": ([("lam * (1 - keep)\n", "lam * keep\n")], K | {"1"}),
    "one of the ways of δx": ([("from_f + from_i", "from_f")], {"1"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(key, fault):
    changes, leaves = FAULTS[fault]
    assert_caught(PLAIN, key, rewritten(minlstm.backward, *changes), leaves)


def test_padding_taken_for_steps_is_caught(key):
    wrong = rewritten(minlstm.backward, ("lam = lam * counts", "lam = lam"))
    leaves = {"0.forget.weight", "0.input.weight", "0.candidate.weight", "1.x"}
    assert_caught(HARDEST, key, lambda residuals, delta: wrong(residuals, delta, reverse=True), leaves)
