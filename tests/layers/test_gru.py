import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import instance, normal, random_like
from jaxbias.layers import Sequences, gru
from jaxbias.params import Params
from tests.planted import assert_caught, rewritten, right_answer

EXAMPLES = {example.label: example for example in gru.DERIVATIONS[0].examples}
AFTER = EXAMPLES["reset after"]
BEFORE = EXAMPLES["reset before, second bias, given state, lengths, reverse"]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loops(params, x, h, reset):
    """Equations 9.3.11-13 for one row, step by step and receiver first."""
    (w, b), (v, c) = ((np.asarray(each.weight).T, np.asarray(each.bias)) for each in params)
    (wr, wz, wn), (vr, vz, vn) = np.split(w, 3), np.split(v, 3)
    (br, bz, bn), (cr, cz, cn) = np.split(b, 3), np.split(c, 3)
    states = np.zeros((0, len(h)))
    for step in x:
        r, z = sigmoid(wr @ step + br + vr @ h + cr), sigmoid(wz @ step + bz + vz @ h + cz)
        inner = r * (vn @ h + cn) if reset == "after" else vn @ (r * h) + cn
        h = z * h + (1 - z) * np.tanh(wn @ step + bn + inner)
        states = np.concatenate([states, h[None]])
    return states


def test_step_by_step_loops_of_the_equations(key):
    case = instance(AFTER, key, jnp.float64)
    out = np.asarray(right_answer(AFTER, key)[0].h)
    for row in range(2):
        expected = loops(case.params, np.asarray(case.x)[row], np.zeros(3), "after")
        np.testing.assert_allclose(out[row], expected, rtol=0, atol=1e-14)

    case = instance(BEFORE, key, jnp.float64)
    x, h0, lengths = jax.device_get(case.x)
    out = np.asarray(right_answer(BEFORE, key)[0].h)
    for row, length in enumerate(lengths):  # reversed within the length, and h0 in the padding
        expected = loops(case.params, x[row][:length][::-1], h0[row], "before")[::-1]
        np.testing.assert_allclose(out[row][:length], expected, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(out[row][length:], np.broadcast_to(h0[row], (4 - length, 3)))


def test_by_hand():
    """One unit, h0 = 4, all weights and biases 0 but cn = 1: r = z = 1/2, n = tanh(1/2), h = 2 + n/2."""
    zero = np.zeros((1, 3))
    params = gru.GruParams(Params(zero, np.zeros(3)), Params(zero, np.array([0.0, 0, 1])))
    x = np.ones((1, 1, 1)), np.full((1, 1), 4.0)

    @jax.jit
    def run(params, x):
        h, residuals = gru.forward(params, x)
        return h, gru.backward(residuals, jnp.ones_like(h))

    h, (grads, (delta_x, delta_h0)) = run(params, x)
    n = np.tanh(0.5)
    np.testing.assert_allclose(np.ravel(h), [2 + n / 2], rtol=1e-15)
    delta_n = (1 - n**2) / 2
    np.testing.assert_allclose(grads.input.bias, [delta_n / 4, (4 - n) / 4, delta_n], rtol=1e-14)
    np.testing.assert_allclose(grads.hidden.bias, [delta_n / 4, (4 - n) / 4, delta_n / 2], rtol=1e-14)  # cn: times r
    np.testing.assert_allclose([np.ravel(delta_x), np.ravel(delta_h0)], [[0], [0.5]], rtol=1e-14)


def test_biases_that_are_duplicates_and_the_one_that_is_not(key):
    """Table 9.14; and cn has a gradient in the first step from the zero state (mlx #3252)."""
    grads, _ = right_answer(BEFORE, key)[2]
    np.testing.assert_allclose(grads.hidden.bias, grads.input.bias, rtol=1e-13)
    grads, _ = right_answer(AFTER, key)[2]
    b, c = (np.split(np.asarray(each.bias), 3) for each in grads)
    np.testing.assert_allclose(c[:2], b[:2], rtol=1e-13)
    assert np.all(np.abs(c[2] - b[2]) > 1e-3 * np.abs(b[2])) and np.all(c[2] != 0)


@pytest.mark.parametrize(("reset", "redundant"), [("after", 2), ("before", 3)])
def test_the_second_biases_are_found_redundant(key, reset, redundant):
    layer = gru.layer(1, reset=reset, hidden_bias=True, output="last")
    x = normal(key, (4, 2, 1), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    (found,) = jb.surgery.redundant_biases(lambda p, x: layer.forward(p, x)[0], params, x)
    assert set(found.paths) == {"input.bias", "hidden.bias"} and found.directions.shape == (redundant, 6)
    np.testing.assert_allclose(found.directions[:, :3], -found.directions[:, 3:], atol=1e-6)


def test_which_biases_there_are(key):
    x = jnp.ones((1, 2, 2))
    biases = {
        (reset, hidden): jax.eval_shape(gru.layer(1, reset=reset, hidden_bias=hidden).init, key, x).hidden.bias
        for reset in ("after", "before")
        for hidden in (None, True, False)
    }
    assert {which for which, bias in biases.items() if bias is not None} == {
        ("after", None),
        ("after", True),
        ("before", True),
    }
    assert gru.layer(1, hidden_bias=False).layouts == gru.layer(1, reset="before", hidden_bias=True).layouts
    assert gru.layer(1, hidden_bias=False).layouts.pytorch is None  # it has no place for PyTorch's cn


def test_bad_input_is_named(key):
    x = jnp.ones((2, 5, 3))
    params = random_like(key, jax.eval_shape(gru.layer(4).init, key, x))
    with pytest.raises(ValueError, match=r"gru.layer: reset must be \"after\" or \"before\", got the str 'inside'"):
        gru.layer(4, reset="inside")
    with pytest.raises(ValueError, match=r"gru.layer: output must be one of \"steps\", \"last\", got the str 'state'"):
        gru.layer(4, output="state")
    with pytest.raises(ValueError, match=r"gru.forward: h0 must be \(n, units\) = \(2, 4\), got shape \(2, 3\)"):
        gru.forward(params, (x, jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=r"gru.forward: lengths must be bools \(n, time\) = \(2, 5\) .* \(2, 4\)"):
        gru.forward(params, Sequences(x, lengths=jnp.ones((2, 4), bool)))
    with pytest.raises(ValueError, match=r"gru.forward: the hidden weight must be .* = \(4, 12\) .* got shape \(3, 12"):
        gru.forward(params._replace(hidden=Params(jnp.ones((3, 12)), None)), x)


W, V, B, C, X, H0 = "0.input.weight", "0.hidden.weight", "0.input.bias", "0.hidden.bias", "1", "1.state"
FAULTS = {
    "without the way through z∘h₋": (AFTER, [("delta_h * z + back", "back")], {W, V, B, C, X}),
    "cn given Σ δn with reset after": (
        AFTER,
        [("sum_over(meeting, (0, 1))", "sum_over(delta_n, (0, 1))")],
        {C},
    ),
    "h[t] for h₋ in ∂L/∂V, and b of the last step alone": (
        AFTER,
        [("rows(h_before).T", "rows(h).T"), ("else sum_over(delta, (0, 1))", "else sum_over(delta[-1:], (0, 1))")],
        {V, B},
    ),
    "without tanh′ of n": (BEFORE, [(" * (1 - n * n)", "")], {W, V, B, C, "1.x", H0}),
    "reset before taken for reset after": (BEFORE, [("back = r * u", "back = u")], {W, V, B, C, "1.x", H0}),
    "padding taken for steps": (BEFORE, [("chosen(counts, earlier, delta_h)", "earlier")], {H0}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(key, fault):
    example, changes, leaves = FAULTS[fault]
    wrong = rewritten(gru.backward, *changes)
    keywords = example.layer.backward.keywords
    assert_caught(example, key, lambda residuals, delta: wrong(residuals, delta, **keywords), leaves)
