from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.derivation import instance, normal, random_like
from jaxbias.layers import Sequences, lstm
from jaxbias.params import Params
from tests.planted import assert_caught, rewritten, right_answer

EXAMPLES = {example.label: example for example in lstm.DERIVATIONS[0].examples}
HARDEST = EXAMPLES["peepholes, projected, lengths, reverse"]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loops(params, x, h, c, *, coupled=False):
    """Equations 9.3.1, 9.3.9 and 9.3.10 for one row, step by step and receiver first."""
    w, v = np.asarray(params.input.weight).T, np.asarray(params.hidden.weight).T
    b = np.asarray(params.input.bias) + (0 if params.hidden.bias is None else np.asarray(params.hidden.bias))
    units = len(c)
    p = np.zeros((3, units))
    if params.peephole is not None:
        p[-len(params.peephole.weight) :] = params.peephole.weight
    states = []
    for step in x:
        *z_i, z_f, z_g, z_o = np.split(w @ step + v @ h + b, 3 if coupled else 4)
        f = sigmoid(z_f + p[1] * c)
        i = 1 - f if coupled else sigmoid(z_i[0] + p[0] * c)
        c = f * c + i * np.tanh(z_g)
        h = sigmoid(z_o + p[2] * c) * np.tanh(c)
        if params.projection is not None:
            h = np.asarray(params.projection.weight).T @ h
        states.append(h)
    return np.array(states), c


def drawn(layer, x, key):
    """Random params; nothing is compiled for them."""
    return random_like(key, jax.eval_shape(layer.init, key, x))


@partial(jax.jit, static_argnums=0)
def both_passes(layer, params, x, delta):
    out, residuals = layer.forward(params, x)
    return out, layer.backward(residuals, delta)


def test_step_by_step_loops_of_the_equations(key):
    case = instance(HARDEST, key, jnp.float64)
    x, (h0, c0), lengths = jax.device_get(case.x)
    out = np.asarray(right_answer(HARDEST, key)[0].h)
    for row, length in enumerate(lengths):  # reversed within the length, and h0 in the padding
        states, _ = loops(case.params, x[row][:length][::-1], h0[row], c0[row])
        np.testing.assert_allclose(out[row][:length], states.reshape(-1, 2)[::-1], rtol=0, atol=1e-14)
        np.testing.assert_array_equal(out[row][length:], np.broadcast_to(h0[row], (4 - length, 2)))

    case = instance(EXAMPLES["coupled, peepholes, second bias, a mask, state after the last step"], key, jnp.float64)
    x, (h0, c0), mask = jax.device_get(case.x)
    out = np.asarray(jax.jit(case.forward)(case.params, case.x)[0])
    for row in range(2):  # a step that does not count might as well not be there
        states, c = loops(case.params, x[row][mask[row]], h0[row], c0[row], coupled=True)
        np.testing.assert_allclose(out[row], np.concatenate([states[-1], c]), rtol=0, atol=1e-14)


def test_by_hand():
    """One unit, x = 1, all weights 0 but g's 1, c0 = 4: i = f = o = 1/2, g = tanh 1, c = 2 + g/2, h = tanh(c)/2."""
    params = lstm.LstmParams(Params(np.array([[0.0, 0, 1, 0]]), np.zeros(4)), Params(np.zeros((1, 4)), None))
    x = np.ones((1, 1, 1)), (np.zeros((1, 1)), np.full((1, 1), 4.0))
    h, (grads, (delta_x, (delta_h0, delta_c0))) = both_passes(lstm.layer(1), params, x, np.ones((1, 1, 1)))
    g = np.tanh(1)
    t = np.tanh(2 + g / 2)
    np.testing.assert_allclose(np.ravel(h), [t / 2], rtol=1e-15)
    delta_c = (1 - t**2) / 2
    expected = [delta_c * g / 4, delta_c * 4 / 4, delta_c / 2 * (1 - g**2), t / 4]
    np.testing.assert_allclose(grads.input.bias, expected, rtol=1e-14)
    np.testing.assert_allclose(np.ravel(delta_x), expected[2], rtol=1e-14)
    np.testing.assert_allclose([delta_h0[0], delta_c0[0]], [[0], [delta_c / 2]], rtol=1e-14, atol=0)


def test_the_state_carries_on(key):
    """A sequence in one go is the sequence in two pieces, the state of the first given to the second."""
    layer, first_layer = lstm.layer(3), lstm.layer(3, output="state")
    x = normal(key, (2, 5, 3), jnp.float64)

    @jax.jit
    def run(params, x):
        state, _ = first_layer.forward(params, x[:, :3])
        rest, _ = layer.forward(params, (x[:, 3:], (state[:, :3], state[:, 3:])))
        return layer.forward(params, x)[0][:, 3:], rest

    whole, rest = run(drawn(layer, x, key), x)
    np.testing.assert_allclose(rest, whole, rtol=1e-13)


def test_padding_has_no_gradient_and_a_row_of_no_steps_hands_its_delta_to_the_state(key):
    """The first row has all four steps, the second none, the third two; reversed and projected."""
    residuals, delta, _ = right_answer(HARDEST, key)
    _, delta_x = jax.device_get(jax.jit(HARDEST.layer.backward)(residuals, delta))
    assert np.all(delta_x.x[1] == 0) and np.all(delta_x.x[2, 2:] == 0) and np.all(delta_x.x[2, :2] != 0)
    assert delta_x.lengths is None
    np.testing.assert_allclose(delta_x.state[0][1], np.sum(delta[1], axis=0), rtol=1e-14)  # Σ_t D[t]
    assert np.all(delta_x.state[1][1] == 0)


def test_one_step_from_the_zero_state_and_the_second_bias(key):
    """∂L/∂V = 0, and the forget gate has nothing to forget. Table 9.14: a second bias is a duplicate."""
    layer = lstm.layer(2, hidden_bias=True)
    x = normal(key, (4, 1, 2), jnp.float64)
    params = drawn(layer, x, key)
    _, (grads, _) = jax.device_get(both_passes(layer, params, x, normal(key, (4, 1, 2), x.dtype)))
    assert np.all(grads.hidden.weight == 0) and np.all(grads.input.bias[2:4] == 0)
    assert np.all(grads.input.bias[[0, 1, 4, 5, 6, 7]] != 0)
    np.testing.assert_array_equal(grads.hidden.bias, grads.input.bias)


def test_the_second_bias_is_found_redundant(key):
    """Table 9.14: only the sum of the two enters a gate."""
    layer = lstm.layer(1, hidden_bias=True, output="last")
    x = normal(key, (4, 2, 2), jnp.float64)
    (found,) = jb.surgery.redundant_biases(lambda p, x: layer.forward(p, x)[0], drawn(layer, x, key), x)
    assert set(found.paths) == {"input.bias", "hidden.bias"} and found.directions.shape == (4, 8)
    np.testing.assert_allclose(found.directions[:, :4], -found.directions[:, 4:], atol=1e-6)


def test_no_steps_hand_the_delta_to_the_given_state(key):
    case = instance(EXAMPLES["no steps, no bias"], key, jnp.float64)
    _, (_, (delta_h0, delta_c0)) = jax.jit(lambda p, x, d: case.backward(case.forward(p, x)[1], d))(*case[2:])
    np.testing.assert_array_equal(np.concatenate([delta_h0, delta_c0], axis=1), case.delta)


def kept_bytes(program, *args):
    """Bytes of what `program` returns beside its arguments and its own first output, by the compiler's figures."""

    def rest(*args):
        out, *kept = jax.tree.leaves(program(*args))
        known = {id(leaf) for leaf in (out, *jax.tree.leaves(args))}
        return [leaf for leaf in kept if id(leaf) not in known]

    return jax.jit(rest).lower(*args).compile().memory_analysis().output_size_in_bytes


def test_backward_keeps_half_of_what_autodiff_keeps_or_an_eighth(key):
    layer = lstm.layer(32)
    x = jax.ShapeDtypeStruct((4, 64, 16), jnp.float32)
    params = jax.eval_shape(layer.init, key, x)

    def plain(params, x):
        """The scan as one would write it."""
        z_input = jnp.swapaxes(x, 0, 1) @ params.input.weight + params.input.bias[None, None]

        def step(state, z):
            h, c = state
            i, f, g, o = jnp.split(z + h @ params.hidden.weight, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[0], 32), x.dtype)
        return jnp.swapaxes(jax.lax.scan(step, (zero, zero), z_input)[1], 0, 1)

    by_autodiff = kept_bytes(lambda params, x: jax.vjp(plain, params, x), params, x)
    for recompute, share in ((False, 1 / 2), (True, 1 / 8)):
        by_hand = kept_bytes(lstm.layer(32, recompute=recompute).forward, params, x)
        assert 0 < by_hand <= share * by_autodiff, (by_hand, by_autodiff)


def test_a_classifier_of_sequences_trains(key):
    """Whether the first of six steps was positive: the answer has to be carried to the end."""
    network = jb.chain(lstm.layer(8, output="last"), jb.layers.dense.layer(2))
    x = normal(key, (64, 6, 1), jnp.float32)
    labels = (x[:, 0, 0] > 0).astype(jnp.int32)
    fit = jb.train.fit(
        network,
        jb.losses.cross_entropy,
        network.init(key, x),
        (x, labels),
        optax.adam(0.05),
        epochs=150,
        batch_size=64,
        key=key,
    )
    losses = fit.history["loss"]
    assert losses[0] > 0.5 and losses[-1] < 0.05, losses


def test_bad_input_is_named(key):
    x = jnp.ones((2, 5, 3))
    layer = lstm.layer(4)
    params = drawn(layer, x, key)
    with pytest.raises(
        ValueError, match=r"lstm.layer: output must be one of \"steps\", \"last\", \"state\", got the s"
    ):
        lstm.layer(4, output="all")
    with pytest.raises(ValueError, match=r"lstm.forward: h0 must be \(n, units\) = \(2, 4\), got shape \(2, 3\)"):
        lstm.forward(params, (x, (jnp.ones((2, 3)), jnp.ones((2, 4)))))
    with pytest.raises(ValueError, match=r"lstm.forward: the state must be a pair \(h0, c0\)"):
        lstm.forward(params, (x, jnp.ones((2, 4))))
    with pytest.raises(ValueError, match=r"lstm.forward: lengths must be whole numbers \(n,\) = \(2,\) .* \(3,\)"):
        lstm.forward(params, Sequences(x, lengths=jnp.array([1, 2, 3])))
    with pytest.raises(ValueError, match=r"lstm.forward: lengths must lie in 0 … 5, .* from 1 to 6"):
        lstm.forward(params, Sequences(x, lengths=jnp.array([1, 6])))
    with pytest.raises(TypeError, match=r"lstm.forward: lengths must be an array of whole numbers .* got a list of 2"):
        lstm.forward(params, Sequences(x, lengths=[1, 2]))
    with pytest.raises(ValueError, match=r"lstm.forward: x must be an array, a pair \(sequences, state\) or .* of 3"):
        lstm.forward(params, (x, None, None))
    with pytest.raises(ValueError, match=r"lstm.forward: the hidden weight must be .* = \(5, 16\) for .* \(4, 16\)"):
        lstm.forward(params._replace(projection=Params(jnp.ones((4, 5)), None)), x)
    with pytest.raises(
        ValueError, match=r"lstm.forward: the peephole weight must be .* = \(3, 4\) .* got shape \(2, 4"
    ):
        lstm.forward(params._replace(peephole=Params(jnp.ones((2, 4)), None)), x)
    with pytest.raises(ValueError, match=r"both_directions: the layer inside must keep no state, got dropout"):
        jb.layers.both_directions(jb.layers.dropout.layer(0.5))
    both = jb.layers.both_directions(layer)
    with pytest.raises(ValueError, match=r"both_directions.forward: params must be a pair, one for each direction"):
        both.forward(list(params), x)
    with pytest.raises(ValueError, match=r"both_directions.forward: the state must be a pair, one for each direction"):
        both.forward((params, params), (x, jnp.ones((2, 4))))


# --- planted faults ---------------------------------------------------------------------------------------------------

W, V, B, P, R, X, H0, C0 = (
    *("0.input.weight", "0.hidden.weight", "0.input.bias", "0.peephole.weight", "0.projection.weight"),
    *("1.x", "1.state.0", "1.state.1"),
)
ALL = {W, V, B, P, R, X, H0, C0}
FAULTS = {
    "carry without δc∘f": ([("carry = delta_c * f + ", "carry = ")], ALL),
    "c for c₋ in δf": ([("(c_before - g if coupled else c_before)", "c")], ALL),
    "without tanh′ of g": ([(" * (1 - g * g)", "")], ALL),
    "without the way through p_o": ([(" + _peeped(delta_o, peep, -1)", "")], ALL),
    "without the way through p_i": ([("sum(_peeped(part, peep, -3) for part in delta_i)", "0.0")], ALL),
    "padding taken for steps": (
        [("chosen(counts, earlier, (delta_h, later[1]))", "earlier")],
        {H0, C0},
    ),  # which is where it comes first
    "h[t] for h₋, and b of the last step alone": (
        [("rows(h_before)", "rows(h)"), ("total = sum_over(delta_z, (0, 1))", "total = sum_over(delta_z[:1], (0, 1))")],
        {V, B},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(key, fault):
    changes, leaves = FAULTS[fault]
    wrong = rewritten(lstm.backward, *changes)
    assert_caught(HARDEST, key, lambda residuals, delta: wrong(residuals, delta, reverse=True), leaves)
