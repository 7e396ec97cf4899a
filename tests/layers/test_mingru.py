from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import instance, normal, random_like
from jaxbias.layers import Sequences, mingru
from jaxbias.layers._scan import adjoint, scan
from jaxbias.params import Params
from tests.planted import assert_caught, rewritten, right_answer

PLAIN, HARDEST, NO_STEPS = mingru.DERIVATIONS[0].examples


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loops(params, x, h):
    """The cell for one row, step by step and receiver first."""
    (wz, bz), (wk, bk) = ((np.asarray(each.weight).T, each.bias) for each in params)
    bz, bk = (0 if b is None else np.asarray(b) for b in (bz, bk))
    states = np.zeros((0, len(h)))
    for step in x:
        z = sigmoid(wz @ step + bz)
        h = (1 - z) * h + z * (wk @ step + bk)
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
    """One unit, two steps of x = 0, h0 = 4, bz = 0, bk = 2: z = 1/2, h = 3, 5/2; L = h[1] + 2 h[2]."""
    zero = np.zeros((1, 1))
    params = mingru.MinGruParams(Params(zero, np.zeros(1)), Params(zero, np.full(1, 2.0)))
    x, delta = (np.zeros((1, 2, 1)), np.full((1, 1), 4.0)), np.array([[[1.0], [2.0]]])
    h, (grads, (_, delta_h0)) = both_passes(mingru.layer(1), params, x, delta)
    np.testing.assert_array_equal(np.ravel(h), [3, 2.5])
    # λ[2] = 2, λ[1] = 1 + 2/2 = 2; δz = λ (k − h₋)/4 = 2 (2 − 4)/4 and 2 (2 − 3)/4; δk = λ/2
    np.testing.assert_allclose([grads.update.bias, grads.candidate.bias, delta_h0[0]], [[-1.5], [2], [1]], rtol=1e-15)


def test_the_state_carries_on(key):
    """A sequence in one go is the sequence in two pieces, the last state of the first given to the second."""
    layer, first_layer = mingru.layer(3), mingru.layer(3, output="last")
    x = normal(key, (2, 5, 3), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))

    @jax.jit
    def run(params, x):
        state, _ = first_layer.forward(params, x[:, :3])
        return layer.forward(params, x)[0][:, 3:], layer.forward(params, (x[:, 3:], state))[0]

    whole, rest = run(params, x)
    np.testing.assert_allclose(rest, whole, rtol=1e-13)


def test_padding_has_no_gradient_and_a_row_of_no_steps_hands_its_delta_to_the_state(key):
    _, delta, (_, delta_x) = right_answer(HARDEST, key)
    assert np.all(delta_x.x[1] == 0) and np.all(delta_x.x[2, 2:] == 0) and np.all(delta_x.x[2, :2] != 0)
    np.testing.assert_allclose(delta_x.state[1], np.sum(delta[1], axis=0), rtol=1e-14)


def test_both_directions_with_lengths(key):
    """The second cell sees the sequence turned round within its length, and each row as if it were alone."""
    layer = jb.layers.both_directions(mingru.layer(2))
    x = normal(key, (2, 3, 2), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    sequences = Sequences(x, lengths=np.array([3, 2], np.int32))
    h, (_, delta_x) = both_passes(layer, params, sequences, np.ones((2, 3, 4)))
    for row, length in enumerate((3, 2)):
        ahead, back = (loops(p, x[row, :length][::step], np.zeros(2)) for p, step in zip(params, (1, -1)))
        np.testing.assert_allclose(h[row, :length], np.concatenate([ahead, back[::-1]], axis=1), rtol=0, atol=1e-14)
    assert np.all(delta_x.x[1, 2] == 0) and np.all(delta_x.x[0] != 0)


def test_no_steps_hand_the_delta_to_the_state():
    params = mingru.MinGruParams(*[Params(np.ones((2, 2)), np.ones(2))] * 2)
    x = np.ones((3, 0, 2)), np.ones((3, 2))
    h, (_, (_, delta_h0)) = both_passes(NO_STEPS.layer, params, x, 3 * x[1])
    np.testing.assert_array_equal([h, delta_h0], [x[1], 3 * x[1]])


def test_states_that_are_forgotten_do_not_underflow():
    """The product of 16 steps of 1e-6 is 0 in float32; the geometric series is still summed, and so is the adjoint."""
    a, one = jnp.full((16, 1), 1e-6, jnp.float32), jnp.ones((16, 1), jnp.float32)
    h, (lam, delta_h0) = jax.jit(lambda a, b: (scan(a, b, b[0]), adjoint(a, b, b[0])))(a, one)
    np.testing.assert_allclose([h[-1], lam[0], delta_h0 * 1e6], np.full((3, 1), 1 / (1 - 1e-6)), rtol=1e-6)


def test_no_bias_is_redundant(key):
    layer = mingru.layer(1, output="last")
    x = normal(key, (4, 2, 2), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    assert not jb.surgery.redundant_biases(lambda p, x: layer.forward(p, x)[0], params, x)


def test_bad_input_is_named(key):
    x = jnp.ones((2, 5, 3))
    params = random_like(key, jax.eval_shape(mingru.layer(4).init, key, x))
    with pytest.raises(ValueError, match=r"mingru.layer: units must be a whole number of at least 1, got the int 0"):
        mingru.layer(0)
    with pytest.raises(ValueError, match=r"mingru.layer: output must be one of \"steps\", \"last\", got the str 'all'"):
        mingru.layer(2, output="all")
    with pytest.raises(ValueError, match=r"mingru.forward: the update and the .* \(3, 4\) and \(3, 5\)"):
        mingru.forward(params._replace(candidate=Params(jnp.ones((3, 5)), None)), x)
    with pytest.raises(ValueError, match=r"mingru.forward: h0 must be \(n, units\) = \(2, 4\), got shape \(2, 3\)"):
        mingru.forward(params, (x, jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=r"mingru.forward: lengths must be bools \(n, time\) = \(2, 5\) .* \(2, 4\)"):
        mingru.forward(params, Sequences(x, lengths=jnp.ones((2, 4), bool)))
    with pytest.raises(ValueError, match=r"mingru.backward: delta has shape \(2, 5, 3\) .* \(2, 5, 4\)"):
        mingru.backward(mingru.forward(params, x)[1], x)


WZ, BZ, WK, BK = "0.update.weight", "0.update.bias", "0.candidate.weight", "0.candidate.bias"
FAULTS = {
    "a[t] for a[t+1] in the adjoint": ([("adjoint(a, ", "adjoint(jnp.roll(a, 1, axis=0), ")], {WZ, BZ, WK, BK, "1"}),
    "h[t] for h₋": ([("(k - h_before)", "(k - h)")], {WZ, BZ, "1"}),
    "without σ′ of the gate": ([(" * z * (1 - z)", "")], {WZ, BZ, "1"}),
    "the candidate not gated": ([("delta_k = lam * z", "delta_k = lam")], {WK, BK, "1"}),
    "one of the two ways of δx": ([("from_z + from_k", "from_z")], {"1"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(key, fault):
    changes, leaves = FAULTS[fault]
    assert_caught(PLAIN, key, rewritten(mingru.backward, *changes), leaves)


def test_padding_taken_for_steps_is_caught(key):
    wrong = rewritten(mingru.backward, ("lam = lam * counts", "lam = lam"))
    leaves = {"0.update.weight", "0.candidate.weight", "1.x"}
    assert_caught(HARDEST, key, lambda residuals, delta: wrong(residuals, delta, reverse=True), leaves)
