from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import instance, normal, random_like
from jaxbias.layers import Sequences, linear_attention
from jaxbias.layers import _linear_attention as core
from jaxbias.params import Params
from tests.planted import assert_caught, rewritten, right_answer

NORMALISED, DECAYED, GIVEN, ENDING, NO_STEPS = linear_attention.DERIVATIONS[0].examples


@partial(jax.jit, static_argnums=0)
def both_passes(layer, params, x, delta):
    z, residuals = layer.forward(params, x)
    return z, layer.backward(residuals, delta)


def loops(params, x, temperature):
    """z of one row, step by step and head by head, with the state in full; equations 9.9.12, 9.9.14."""
    params = jax.tree.map(np.asarray, params)
    z = np.zeros((len(x), params.out.weight.shape[-1])) + params.out.bias
    for h in range(params.query.weight.shape[1]):
        q, k, v, *gate = (x @ p.weight[:, h] + p.bias[h] for p in (*params[:3], *filter(None, params[4:])))
        state, total = np.zeros((q.shape[1], v.shape[1])), np.zeros(q.shape[1])
        for t in range(len(x)):
            if gate:
                a = (1 / (1 + np.exp(-gate[0][t]))) ** (1 / temperature)
                state = a[:, None] * state + np.outer(k[t], v[t])
                o = q[t] @ state
            else:
                phi = lambda u: np.where(u > 0, u + 1, np.exp(u))
                state, total = state + np.outer(phi(k[t]), v[t]), total + phi(k[t])
                o = phi(q[t]) @ state / (phi(q[t]) @ total)
            z[t] += o @ params.out.weight[h]
    return z


@pytest.mark.parametrize("example", [NORMALISED, DECAYED], ids=lambda example: example.label)
def test_step_by_step_loops_of_the_equations(key, example):
    case = instance(example, key, jnp.float64)
    time, features = case.x.shape[-2:]
    z = np.asarray(jax.jit(lambda p, x: case.forward(p, x)[0])(case.params, case.x)).reshape(2, time, -1)
    temperature = example.layer.forward.keywords["temperature"]
    for row in range(2):
        expected = loops(case.params, np.asarray(case.x).reshape(2, time, features)[row], temperature)
        np.testing.assert_allclose(z[row], expected, rtol=0, atol=1e-13)


def test_by_hand():
    """One head of one feature, all weights 0 but Wv = Wo = 1; v = x = 2, 5, so o = 2, 7/2; L = z[2]."""
    one, zero = np.ones((1, 1, 1)), np.zeros((1, 1, 1))
    bias = lambda value: np.full((1, 1), value)
    params = linear_attention.LinearAttentionParams(
        Params(zero, bias(3.0)), Params(zero, bias(-1.0)), Params(one, bias(0.0)), Params(one, np.zeros(1))
    )
    x, delta = np.array([[[2.0], [5.0]]]), np.array([[[0.0], [1.0]]])
    z, (grads, delta_x) = both_passes(linear_attention.layer(1, 1), params, x, delta)
    np.testing.assert_allclose(np.ravel(z), [2, 3.5], rtol=1e-15)
    # all keys are alike, so both weights are 1/2; key 1 has k′/k (2 − 7/2)/2 = −3/4, key 2 the opposite, k′ = k
    np.testing.assert_allclose([grads.value.bias[0, 0], grads.out.bias[0]], [1, 1], rtol=1e-15)
    np.testing.assert_allclose(np.ravel(delta_x), [0.5, 0.5], rtol=1e-14)
    np.testing.assert_allclose(np.ravel(grads.key.weight), [-0.75 * 2 + 0.75 * 5], rtol=1e-14)
    np.testing.assert_allclose([grads.key.bias[0, 0], grads.query.bias[0, 0]], [0, 0], atol=1e-14)


def test_chunks_and_a_state_that_is_forgotten_at_once(key):
    """Chunks change no result; with a = e^-40, whose product underflows in float32, only the step itself is left."""
    operands = core.Operands(
        *(normal(key, (1, 2, 5, 3), jnp.float32) for _ in range(3)), jnp.full((1, 2, 5, 3), -40.0, jnp.float32)
    )

    @jax.jit
    def run(operands):
        delta = jnp.ones_like(operands.v)
        zero = jnp.zeros((1, 2, 3, 3), jnp.float32)
        found = []
        for chunk in (1, 5):
            o, last, states = core.forward(operands, zero, chunk)
            found.append((o, core.backward(operands, states, last, delta, zero, chunk)[0]))
        return found

    (o, deltas), (o_whole, deltas_whole) = run(operands)
    np.testing.assert_allclose(o, o_whole, rtol=1e-6)
    for part, whole in zip(deltas[:3], deltas_whole[:3]):
        np.testing.assert_allclose(part, whole, rtol=2e-6)
    alone = jnp.sum(operands.q * operands.k, axis=-1, keepdims=True) * operands.v
    np.testing.assert_allclose(o, alone, rtol=1e-5)


def test_a_value_bias_is_a_duplicate_and_a_key_bias_is_not(key):
    """Table 9.14: normalised, ∂L/∂bv_h = Wo_h ∂L/∂bo; decayed, it is not."""
    for example, duplicate in ((NORMALISED, True), (DECAYED, False)):
        grads, _ = right_answer(example, key)[2]
        params = instance(example, key, jnp.float64).params
        folded = np.einsum("hef,f->he", params.out.weight, grads.out.bias)
        assert np.allclose(grads.value.bias, folded, rtol=1e-12) is duplicate
        assert np.all(np.abs(grads.key.bias) > 1e-3)


@pytest.mark.parametrize(("decay", "redundant"), [(False, {"value.bias", "out.bias"}), (True, None)])
def test_which_biases_are_found_redundant(key, decay, redundant):
    layer = linear_attention.layer(1, 2, value_size=1, decay=decay)
    x = normal(key, (5, 2, 1), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    groups = jb.surgery.redundant_biases(lambda p, x: layer.forward(p, jnp.asarray(x))[0], params, x)
    assert [set(group.paths) for group in groups] == ([redundant] if redundant else [])


@pytest.mark.parametrize("decay", [False, True])
def test_a_sequence_in_two_pieces_with_the_state_in_between(key, decay):
    """Outputs and gradients of the whole, the state's handed from the second piece to the first."""
    layer, first_layer = (linear_attention.layer(2, 2, decay=decay, chunk=2, output=o) for o in ("steps", "state"))
    x, delta = (normal(jax.random.fold_in(key, i), (2, 5, 3), jnp.float64) for i in range(2))
    params = random_like(key, jax.eval_shape(layer.init, key, x))

    @jax.jit
    def run(params, x, delta):
        state, kept = first_layer.forward(params, x[:, :3])
        rest, kept_rest = layer.forward(params, (x[:, 3:], state))
        grads_rest, (delta_rest, delta_state) = layer.backward(kept_rest, delta[:, 3:])
        grads, delta_first = first_layer.backward(kept, delta_state)
        whole, residuals = layer.forward(params, x)
        of_whole = layer.backward(residuals, delta.at[:, :3].set(0))
        added = jax.tree.map(jnp.add, grads, grads_rest), jnp.concatenate([delta_first, delta_rest], axis=1)
        return (rest, *added), (whole[:, 3:], *of_whole)

    for actual, expected in zip(*map(jax.tree.leaves, run(params, x, delta)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("decay", [False, True])
def test_steps_that_do_not_count_are_as_if_they_were_not_there(key, decay):
    """In front, in between and behind; their outputs are 0, and so are their gradients."""
    layer = linear_attention.layer(1, 2, decay=decay, chunk=2)
    x, delta = (normal(jax.random.fold_in(key, i), (1, 6, 2), jnp.float64) for i in range(2))
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    counts = np.array([[False, True, True, False, True, False]])
    z, (grads, delta_x) = both_passes(layer, params, Sequences(x, lengths=counts), delta)
    short, of_short = both_passes(layer, params, x[:, counts[0]], delta[:, counts[0]])
    assert np.all(z[~counts] == 0) and np.all(delta_x.x[~counts] == 0)
    np.testing.assert_allclose(z[counts], short[0], rtol=1e-12)
    found = grads, delta_x.x[:, counts[0]]
    for actual, expected in zip(jax.tree.leaves(found), jax.tree.leaves(of_short), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_a_step_sees_nothing_behind_itself(key):
    residuals, _, _ = right_answer(NORMALISED, key)
    delta = jnp.zeros((2, 5, 2)).at[:, 0].set(1.0)
    _, delta_x = jax.jit(NORMALISED.layer.backward)(residuals, delta)
    assert np.all(delta_x[:, 1:] == 0) and np.all(delta_x[:, 0] != 0)


def test_bad_input_is_named(key):
    x = jnp.ones((2, 5, 3))
    params = random_like(key, jax.eval_shape(linear_attention.layer(2, 4).init, key, x))
    with pytest.raises(ValueError, match=r"linear_attention.layer: heads must be a whole number .* got the int 0"):
        linear_attention.layer(0, 4)
    with pytest.raises(ValueError, match=r"linear_attention.layer: chunk must be a whole number .* got the int 0"):
        linear_attention.layer(2, 4, chunk=0)
    with pytest.raises(ValueError, match=r"linear_attention.layer: temperature must be positive, got 0.0"):
        linear_attention.layer(2, 4, temperature=0.0)
    with pytest.raises(ValueError, match=r"linear_attention.forward: x has 2 features but the query .* fan_in=3"):
        linear_attention.forward(params, x[..., :2])
    with pytest.raises(
        ValueError, match=r"linear_attention.forward: x must be \(\*batch, .*got shape \(5, 3\)\. .*\[No"
    ):
        linear_attention.forward(params, x[0])
    with pytest.raises(ValueError, match=r"linear_attention.forward: S0 must be \(n, H, d, e \+ 1\) = \(2, 2, 4, 5\)"):
        linear_attention.forward(params, (x, jnp.ones((2, 2, 4, 4))))
    with pytest.raises(ValueError, match=r"linear_attention.layer: output must be one of \"steps\", \"state\", got"):
        linear_attention.layer(2, 4, output="last")
    with pytest.raises(ValueError, match=r"linear_attention.forward: lengths must be whole .* \(2,\) .* \(3,\)"):
        linear_attention.forward(params, Sequences(x, lengths=jnp.ones(3, jnp.int32)))
    with pytest.raises(ValueError, match=r"linear_attention.forward: the key weight must have d=4, .* \(3, 2, 5\)"):
        linear_attention.forward(params._replace(key=Params(jnp.ones((3, 2, 5)), None)), x)
    with pytest.raises(ValueError, match=r"linear_attention.forward: the out weight must have e=4, .* \(2, 3, 3\)"):
        linear_attention.forward(params._replace(out=Params(jnp.ones((2, 3, 3)), None)), x)


# --- planted faults ---------------------------------------------------------------------------------------------------

Q, K, V, A, O = ({f"0.{name}.weight", f"0.{name}.bias"} for name in ("query", "key", "value", "gate", "out"))
X = {"1"}
FAULTS = {
    "η of the wrong sign, uncorrected": (
        NORMALISED, linear_attention.backward,
        (("eta = -jnp.sum(", "eta = jnp.sum("), ("(start), missing, delta_q", "(start), 0 * missing, delta_q")),
        Q | K | X,
    ),
    "η corrected in δφ(k) alone": (
        NORMALISED, linear_attention.backward,
        (("eta = -jnp.sum(", "eta = jnp.sum("), ("delta_q, delta_k, delta_start = _with", "_, delta_k, _ = _with")),
        Q | X,
    ),
    "without φ′": (
        NORMALISED, linear_attention.backward, ("delta_k * _slope(operands.k)", "delta_k"), K | X,
    ),
    "R not handed on": (DECAYED, core.backward, ("return before, ", "return 0 * before, "), K | V | A | X),
    "R handed on without decay": (DECAYED, core.backward, ("decay.whole(behind) +", "behind +"), K | V | A | X),
    "(9.9.15) over earlier steps": (
        DECAYED, core.backward, ("sum_of_later(", "(lambda z: jnp.cumsum(z, -2))("),
        A | X,
    ),
    "(9.9.15) without k∘δk": (DECAYED, core.backward, ("q * delta_q - k * delta_k", "q * delta_q"), A | X),
    "the slope of the gate": (DECAYED, linear_attention.backward, ("jax.nn.sigmoid(-gate)", "1"), A | X),
    "without the way through S": (
        DECAYED, core.backward, (" + decay.since_start(jnp.matmul(delta, _turned(state)))", ""), Q | A | X,
    ),
    "the state's gradient not handed to the last step": (
        ENDING, core.backward, ("lax.scan(piece, later, cut", "lax.scan(piece, 0 * later, cut"),
        K | V | A | {"1.0", "1.1"},
    ),
    "(9.9.15) without what comes from beyond": (
        ENDING, core.backward, (" + beyond", ""), A | {"1.0"},
    ),
    "padding taken for steps": (
        GIVEN, linear_attention.backward, ("_silent(_rows(delta), counts)", "_rows(delta)"),
        O | Q | K | V | {"1.x", "1.state"},
    ),
    "s without that of the given state": (
        GIVEN, linear_attention.backward,
        (("eta = -jnp.sum(", "eta = -1.1 * jnp.sum("), ("widen(start), missing", "0 * widen(start), missing")),
        Q | {"1.x"},
    ),
    "one way of δx missing": (DECAYED, linear_attention.backward, ("sum(delta_xs)", "sum(delta_xs[1:])"), X),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(key, monkeypatch, fault):
    example, function, change, leaves = FAULTS[fault]
    right_answer(example, key)  # before anything is wrong
    changes = (change,) if isinstance(change[0], str) else change
    wrong, backward = rewritten(function, *changes), linear_attention.backward
    if function is linear_attention.backward:
        backward = wrong
    else:
        monkeypatch.setattr(core, function.__name__, wrong)
    keywords = example.layer.backward.keywords
    assert_caught(example, key, lambda residuals, delta: backward(residuals, delta, **keywords), leaves)


def test_what_cancels_leaves_no_more_rounding_than_it_must(key):
    """S g and s η cancel to as little as a hundredth; float32 stays within 16 eps of nearly every leaf all the same.

    The sums as they stand in (9.9.13) miss that in 18 to 30 of 100 draws of this shape, by up to 40 times.
    """
    layer, seeds = linear_attention.layer(2, 2, chunk=2), 100
    shapes = jax.eval_shape(layer.init, key, jax.ShapeDtypeStruct((1, 4, 2), jnp.float32))
    generator = np.random.default_rng(0)
    draw = lambda like: jnp.asarray(generator.normal(size=(seeds, *like.shape)), jnp.float32)
    of_x = np.empty((1, 4, 2))
    params, x, delta = jax.tree.map(draw, shapes), draw(of_x), draw(of_x)

    def errors(params, x, delta):
        wide_params, wide_x, wide_delta = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x, delta))
        exact = jax.vjp(lambda params: layer.forward(params, wide_x)[0], wide_params)[1](wide_delta)[0]
        grads, _ = layer.backward(layer.forward(params, x)[1], delta)
        off = lambda a, b: jnp.abs(a.astype(b.dtype) - b).max() / jnp.abs(b).max()
        return [jax.tree.map(off, got, wanted) for got, wanted in ((grads.query, exact.query), (grads.key, exact.key))]

    of_leaves = np.stack(jax.tree.leaves(jax.jit(jax.vmap(errors))(params, x, delta))) / np.finfo(np.float32).eps
    assert np.all(np.mean(of_leaves > 16, axis=1) < 0.1) and np.all(np.median(of_leaves, axis=1) < 4)
