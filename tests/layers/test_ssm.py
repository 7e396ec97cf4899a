from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb
from jaxbias.derivation import instance, normal, random_like
from jaxbias.layers import Sequences, _diagonal, _scan, _selective, ssm
from jaxbias.params import Params
from tests.planted import assert_caught, rewritten, right_answer

SELECTIVE, HARDEST, HELD, REAL, COMPLEX, STATE, _ = ssm.DERIVATIONS[0].examples


def loops(params, x, h, exact_hold=False):
    """y and the states of one row, step by step, feature by feature; equations 9.9.3-9.9.6."""
    params = jax.tree.map(np.asarray, params)
    features, states = params.decay.shape
    affine = lambda p, row: row @ p.weight + (0 if p.bias is None else p.bias)
    y, history, h = np.zeros(x.shape), [], np.array(h)
    for t, row in enumerate(x):
        for e in range(features):
            for s in range(states):
                if isinstance(params, ssm.SelectiveParams):
                    tau = np.log1p(np.exp(affine(params.time_step, row)[e]))
                    a = np.exp(-tau * np.exp(params.decay[e, s]))
                    rate = np.exp(params.decay[e, s])
                    held = (1 - a) / rate if exact_hold else tau
                    b, c = held * affine(params.input, row)[s], affine(params.output, row)[s]
                else:
                    angle = 0 if params.angle is None else 1j * params.angle[e, s]
                    a = np.exp(-np.exp(params.decay[e, s]) + angle)
                    b = 1 if params.input is None else params.input[e, s]
                    c = params.output.weight[..., e, s]
                    c = c if params.angle is None else c[0] + 1j * c[1]
                h[e, s] = a * h[e, s] + b * row[e]
                y[t, e] += (c * h[e, s]).real
            bias = 0 if isinstance(params, ssm.SelectiveParams) else params.output.bias[e]
            y[t, e] += params.skip[e] * row[e] + bias
        history.append(h.copy())
    return y, history


@partial(jax.jit, static_argnums=0)
def both_passes(layer, params, x, delta):
    y, residuals = layer.forward(params, x)
    return y, layer.backward(residuals, delta)


@partial(jax.jit, static_argnums=0)
def outputs(layer, params, x):
    return layer.forward(params, x)[0]


def test_step_by_step_loops_of_the_equations(key):
    for example in (SELECTIVE, HELD, REAL):
        case = instance(example, key, jnp.float64)
        y = outputs(example.layer, case.params, case.x)
        for row in range(2):
            expected, _ = loops(case.params, np.asarray(case.x)[row], np.zeros((2, 2)), example is HELD)
            np.testing.assert_allclose(y[row], expected, rtol=0, atol=1e-13)

    case = instance(HARDEST, key, jnp.float64)
    x, h0, lengths = jax.device_get(case.x)
    y = outputs(HARDEST.layer, case.params, case.x)
    for row, length in enumerate(lengths):  # reversed within the length; nothing counts in the second row
        expected = loops(case.params, x[row, :length][::-1], h0[row])[0][-1] if length else 0
        np.testing.assert_allclose(y[row], expected, rtol=0, atol=1e-13)

    case = instance(COMPLEX, key, jnp.float64)
    x, h0, lengths = jax.device_get(case.x)
    y, (_, delta_x) = outputs(COMPLEX.layer, case.params, case.x), right_answer(COMPLEX, key)[2]
    for row, length in enumerate(lengths):
        expected, _ = loops(case.params, x[row, :length], h0[row][0] + 1j * h0[row][1])
        np.testing.assert_allclose(y[row, :length], expected, rtol=0, atol=1e-13)
        assert np.all(y[row, length:] == 0) and np.all(delta_x.x[row, length:] == 0)
    assert np.all(delta_x.state[1] == 0) and np.all(delta_x.state[0] != 0) and np.all(delta_x.x[0] != 0)


def test_by_hand():
    """One feature, one state, all weights 0: τ = 1, B = 2, C = 3, A = −1, D = 5; x = 1, then 0; L = y[2] = 3 h[2].

    h[1] = 2, h[2] = 2/e, so y = 11, 6/e, and λ = 3/e, 3; δτ = 3 (−1/e · 2 + 0), 3/e · 2.
    """
    zero, softplus_slope = np.zeros((1, 1)), 1 - np.exp(-1)
    bias = lambda value: Params(zero, np.full(1, value))
    params = ssm.SelectiveParams(bias(np.log(np.e - 1)), bias(2.0), bias(3.0), zero, np.full(1, 5.0))
    x, delta = np.array([[[1.0], [0.0]]]), np.array([[[0.0], [1.0]]])
    y, (grads, delta_x) = both_passes(ssm.layer(1), params, x, delta)
    e = np.e
    np.testing.assert_allclose(np.ravel(y), [11, 6 / e], rtol=1e-14)
    np.testing.assert_allclose(grads.time_step.bias, [(6 / e - 6 / e) * softplus_slope], atol=1e-14)
    np.testing.assert_allclose(np.ravel(grads.time_step.weight), [6 / e * softplus_slope], rtol=1e-14)
    np.testing.assert_allclose([grads.input.bias[0], grads.output.bias[0]], [3 / e, 2 / e], rtol=1e-14)
    np.testing.assert_allclose([grads.decay[0, 0], grads.skip[0]], [-6 / e, 0], rtol=1e-14)
    np.testing.assert_allclose(np.ravel(delta_x), [6 / e, 11], rtol=1e-14)


def test_a_held_step_is_as_good_as_two_of_half_its_length(key):
    """The exact hold solves h′ = A h + B x over a step, however it is cut; τ B x does not."""
    bias = lambda value: Params(np.zeros((1, 1)), np.full(1, value))
    length = lambda tau: bias(np.log(np.expm1(tau)))
    rate = np.log(np.full((1, 1), 2.0))
    ends = {}
    for hold in (True, False):
        for steps in (1, 2):
            params = ssm.SelectiveParams(length(0.8 / steps), bias(1.5), bias(1.0), rate, np.zeros(1))
            layer = ssm.layer(1, exact_hold=hold, output="state")
            ends[hold, steps] = outputs(layer, params, np.full((1, steps, 1), 3.0)).item()
    exact = 3 * 1.5 * (1 - np.exp(-1.6)) / 2
    np.testing.assert_allclose([ends[True, 1], ends[True, 2]], exact, rtol=1e-14)
    assert abs(ends[False, 1] - exact) > 0.5 and abs(ends[False, 1] - ends[False, 2]) > 0.5


def test_the_state_carries_on(key):
    """A sequence in one go is the sequence in two pieces, the state after the first given to the second."""
    layer, first_layer = (ssm.layer(2, kind="complex", output=output) for output in ("steps", "state"))
    x = normal(key, (2, 4, 2), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))

    @jax.jit
    def run(params, x):
        state, _ = first_layer.forward(params, x[:, :2])
        return layer.forward(params, x)[0][:, 2:], layer.forward(params, (x[:, 2:], state))[0]

    whole, rest = run(params, x)
    np.testing.assert_allclose(rest, whole, rtol=1e-12)


def test_both_directions_run_the_second_on_the_sequence_turned_round(key):
    layer = jb.layers.both_directions(ssm.layer(1, output="last"))
    x = normal(key, (2, 3, 2), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    y = outputs(layer, params, Sequences(x, lengths=np.array([3, 2], np.int32)))
    for row, length in enumerate((3, 2)):
        ahead, back = (loops(p, x[row, :length][::turn], np.zeros((2, 1)))[0][-1] for p, turn in zip(params, (1, -1)))
        np.testing.assert_allclose(y[row], np.concatenate([ahead, back]), rtol=0, atol=1e-13)


def test_a_layer_begins_at_many_time_scales_and_near_the_size_of_x(key):
    """(9.9.11): softplus(bτ) lies in [0.001, 0.1] whatever the initializer of the other biases; outputs are O(1)."""
    x = normal(key, (4, 4, 32), jnp.float32)
    layers = [ssm.layer(4, kind=kind, bias_init=jb.initializers.ones) for kind in ssm.KINDS]

    @jax.jit
    def begin(key, x):
        params = [layer.init(key, x) for layer in layers]
        return params, [jnp.std(layer.forward(p, x)[0]) for layer, p in zip(layers, params)]

    (selective, *diagonal), sizes = jax.device_get(begin(key, x))
    assert all(0.3 < size < 3 for size in sizes), sizes
    tau = np.log1p(np.exp(selective.time_step.bias.astype(np.float64)))
    assert np.all((tau > 0.00099) & (tau < 0.101)) and np.ptp(np.log(tau)) > 1
    assert all(np.all(product.bias == 1) for product in (selective.input, *(params.output for params in diagonal)))
    np.testing.assert_allclose(np.exp(selective.decay[0]), [1, 2, 3, 4], rtol=1e-6)
    assert all(np.all(np.exp(-np.exp(params.decay)) < 1) for params in diagonal)  # every state decays


def test_no_bias_of_the_selective_kind_is_redundant(key):
    layer = ssm.layer(1, output="last")
    x = normal(key, (6, 2, 1), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    assert not jb.surgery.redundant_biases(lambda p, x: layer.forward(p, x)[0], params, x)


# --- memory -----------------------------------------------------------------------------------------------------------


def plain(params, x):
    """The selective kind as one would write it: all states by one associative scan."""
    affine = lambda p: x @ p.weight + p.bias[None, None]
    tau, b, c = jax.nn.softplus(affine(params.time_step)), affine(params.input), affine(params.output)
    a_bar = jnp.exp(tau[..., None] * -jnp.exp(params.decay)[None, None])
    two = lambda step, then: (step[0] * then[0], then[0] * step[1] + then[1])
    h = lax.associative_scan(two, (a_bar, (tau * x)[..., None] * b[:, :, None]), axis=1)[1]
    return jnp.sum(h * c[:, :, None], axis=-1) + x * params.skip[None, None]


def scratch(program, *args):
    return jax.jit(program).lower(*args).compile().memory_analysis().temp_size_in_bytes


LONG = jax.ShapeDtypeStruct((2, 4096, 32), jnp.float32)
ALL_STATES = 4 * 2 * 4096 * 32 * 16  # bytes of one array of them


def long_run():
    """Bytes of scratch of both passes over 4,096 steps, and their arguments."""
    layer = ssm.layer(16)
    args = jax.eval_shape(layer.init, jax.random.key(0), LONG), LONG, LONG
    return scratch(lambda *args: both_passes(layer, *args), *args), args


def test_scratch_has_no_room_for_all_states():
    by_hand, _ = long_run()
    assert 0 < by_hand < ALL_STATES


@pytest.mark.slow
def test_scratch_is_an_eighth_of_what_autodiff_of_one_scan_takes():
    def by_autodiff(params, x, delta):
        y, pull_back = jax.vjp(plain, params, x)
        return y, pull_back(delta)

    by_hand, args = long_run()
    assert 0 < by_hand <= scratch(by_autodiff, *args) / 8


def test_the_plain_form_is_the_same_function(key):
    """So that its memory is a fair measure."""
    case = instance(SELECTIVE, key, jnp.float64)
    y = outputs(SELECTIVE.layer, case.params, case.x)
    np.testing.assert_allclose(jax.jit(plain)(case.params, case.x), y, rtol=1e-12)


# --- doors ------------------------------------------------------------------------------------------------------------


def test_bad_input_is_named(key):
    x = jnp.ones((2, 5, 3))
    params = {kind: random_like(key, jax.eval_shape(ssm.layer(4, kind=kind).init, key, x)) for kind in ssm.KINDS}
    with pytest.raises(ValueError, match=r"ssm.layer: states must be a whole number of at least 1, got the int 0"):
        ssm.layer(0)
    with pytest.raises(ValueError, match=r"ssm.layer: chunk must be a whole number of at least 1, got the int 0"):
        ssm.layer(chunk=0)
    with pytest.raises(ValueError, match=r"ssm.layer: kind must be one of \"selective\", \"real\", .* got the str 'x'"):
        ssm.layer(kind="x")
    with pytest.raises(ValueError, match=r"ssm.layer: exact_hold is of kind=\"selective\", .* got 'real'"):
        ssm.layer(kind="real", exact_hold=True)
    with pytest.raises(ValueError, match=r"ssm.forward: exact_hold is of the selective kind"):
        ssm.forward(params["complex"], x, exact_hold=True)
    with pytest.raises(ValueError, match=r"ssm.layer: output must be one of \"steps\", \"last\", \"state\", got the s"):
        ssm.layer(output="all")
    with pytest.raises(TypeError, match=r"ssm.forward: params must be SelectiveParams or DiagonalParams, got Params\("):
        ssm.forward(Params(jnp.ones((3, 4)), None), x)
    with pytest.raises(ValueError, match=r"ssm.forward: x must be \(n, time, fan_in\) with fan_in=3 .* \(2, 5, 2\)"):
        ssm.forward(params["real"], x[..., :2])
    with pytest.raises(ValueError, match=r"ssm.forward: h0 must be \(n, 2, features, states\) = \(2, 2, 3, 4\), got "):
        ssm.forward(params["complex"], (x, jnp.ones((2, 3, 4))))
    with pytest.raises(ValueError, match=r"ssm.forward: the input weight must have shape \(3, 4\) beside .* \(3, 5\)"):
        ssm.forward(params["selective"]._replace(input=Params(jnp.ones((3, 5)), None)), x)
    with pytest.raises(ValueError, match=r"ssm.forward: angle must have shape \(3, 4\) beside a decay .* got \(3, 2\)"):
        ssm.forward(params["complex"]._replace(angle=jnp.ones((3, 2))), x)
    with pytest.raises(ValueError, match=r"ssm.forward: the output bias must have shape \(3,\) .* got \(1,\)"):
        ssm.forward(params["real"]._replace(output=Params(params["real"].output.weight, jnp.ones(1))), x)
    with pytest.raises(TypeError, match=r"ssm.forward: input must be a floating-point array, got NoneType"):
        ssm.forward(params["real"]._replace(input=None), x)


# --- planted faults ---------------------------------------------------------------------------------------------------

STEP, INPUT, OUTPUT = ({f"0.{name}.weight", f"0.{name}.bias"} for name in ("time_step", "input", "output"))
NO_BIAS = {"0.time_step.weight", "0.input.weight", "0.decay"}
FAULTS = {
    "a[t] for a[t+1] in the adjoint": (
        SELECTIVE, _scan.adjoint, [("before(a, jnp.ones_like(a[0]), not reverse)", "a")],
        STEP | INPUT | {"0.decay", "1"},
    ),
    "h[t] for h₋": (
        SELECTIVE, _selective._deltas, [("lam * a_bar * h_before", "lam * a_bar * h")], STEP | {"0.decay", "1"},
    ),
    "without the factor A of A_log, and one of the ways of δx": (
        SELECTIVE, _selective.grads_of, [("-jnp.exp(params.decay) * of_shared.a", "of_shared.a"), (" + from_c", "")],
        {"0.decay", "1"},
    ),
    "without the slope of softplus": (
        SELECTIVE, _selective.grads_of, [(" * -jnp.expm1(-steps.tau)", "")], STEP | {"1"},
    ),
    "δτ without the way through the input, δB without τ": (
        SELECTIVE, _selective._deltas, [(" + x * through_input", ""), ("(tau * x)[..., None]", "x[..., None]")],
        STEP | INPUT | {"1"},
    ),
    "held: τ for ψ in δB": (
        HELD, _selective._held_deltas, [("b=jnp.sum(lam * psi *", "b=jnp.sum(lam * tau[..., None] *")], INPUT | {"1"},
    ),
    "held: τ for ψ in ∂L/∂x": (
        HELD, _selective._held_deltas, [("x=jnp.sum(lam * psi *", "x=jnp.sum(lam * tau[..., None] *")], {"1"},
    ),
    "held: δψ without ā in δτ": (
        HELD, _selective._held_deltas, [("+ delta_psi * a_bar, axis", "+ delta_psi, axis")], STEP | {"1"},
    ),
    "held: without the way of A through ψ": (
        HELD, _selective._held_deltas, [(" + delta_psi * (tau[..., None] * a_bar - psi) / a_each", "")], {"0.decay"},
    ),
    "the chunks not joined": (
        HARDEST, _scan.pull_back, [("return earlier, ", "return jnp.zeros_like(earlier), ")],
        {*NO_BIAS, "1.x", "1.state"},
    ),
    "padding taken for steps": (HARDEST, _scan.pull_back, [("lam = _chosen(", "_chosen(")], {*NO_BIAS, "1.x"}),
    "the conjugate of C": (
        COMPLEX, _diagonal._reached, [("c[None, None]", "jnp.conj(c)[None, None]")],
        {"0.decay", "0.angle", "1.x", "1.state"},
    ),
    "the imaginary part of C as the real one, b of the last step alone": (
        COMPLEX, _diagonal._deltas,
        [("-by_state.imag", "by_state.imag"), ("sum_over(delta, (0, 1))", "sum_over(delta[-1:], (0, 1))")],
        {"0.output.weight", "0.output.bias"},
    ),
    "∂L/∂a taken for ∂L/∂ν": (REAL, _diagonal.grads_of, [("-jnp.exp(params.decay) * g.real", "g.real")], {"0.decay"}),
    "the conjugate taken twice": (
        STATE, ssm.backward, [("jnp.conj(_as_number(later, params))", "_as_number(later, params)")],
        {"0.decay", "0.angle", "1"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(key, monkeypatch, fault):
    example, function, changes, leaves = FAULTS[fault]
    right_answer(example, key)  # before anything is wrong
    keywords = example.layer.backward.keywords
    wrong = rewritten(function, *changes)
    if function is not ssm.backward:
        for module in (_scan, _selective, _diagonal, ssm):
            if getattr(module, function.__name__, None) is function:
                monkeypatch.setattr(module, function.__name__, wrong)
    backward = wrong if function is ssm.backward else ssm.backward
    assert_caught(example, key, lambda residuals, delta: backward(residuals, delta, **keywords), leaves)
