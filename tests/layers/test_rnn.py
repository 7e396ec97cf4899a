import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.derivation import instance
from jaxbias.layers import rnn
from jaxbias.params import Params
from tests.planted import assert_caught, right_answer

EXAMPLES = {example.label: example for example in rnn.DERIVATIONS[0].examples}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_per_element_loops_of_the_equations(key, activation):
    """Equations 5.4 for one row, receiver-first as the sheet writes them."""
    layer = rnn.layer(4, activation=activation)
    case = instance(EXAMPLES["tanh"]._replace(layer=layer, x=(1, 5, 3)), key, jnp.float64)
    out, residuals = case.forward(case.params, case.x)
    grads, delta_x = case.backward(residuals, case.delta)

    wx, u, b = np.asarray(case.params.input.weight).T, np.asarray(case.params.hidden.weight).T, case.params.input.bias
    x, direct = np.asarray(case.x[0]), np.asarray(case.delta[0])
    h = [np.zeros(4)]
    for t in range(5):
        z = wx @ x[t] + u @ h[-1] + b
        h.append(np.tanh(z) if activation == "tanh" else np.maximum(z, 0))
    np.testing.assert_allclose(out[0], h[1:], atol=1e-13)
    grad_wx, grad_u, grad_b, later = np.zeros((4, 3)), np.zeros((4, 4)), np.zeros(4), np.zeros(4)
    for t in range(5, 0, -1):
        slope = 1 - h[t] ** 2 if activation == "tanh" else (h[t] > 0) * 1.0
        delta = (direct[t - 1] + u.T @ later) * slope
        grad_wx, grad_u, grad_b = (
            grad_wx + np.outer(delta, x[t - 1]),
            grad_u + np.outer(delta, h[t - 1]),
            grad_b + delta,
        )
        np.testing.assert_allclose(delta_x[0, t - 1], wx.T @ delta, atol=1e-12)
        later = delta
    np.testing.assert_allclose(grads.input.weight, grad_wx.T, atol=1e-12)
    np.testing.assert_allclose(grads.hidden.weight, grad_u.T, atol=1e-12)
    np.testing.assert_allclose(grads.input.bias, grad_b, atol=1e-12)


def test_by_hand():
    """relu, one unit, x = 1 2, W = 1, U = 10, b = 0.5: h = 1.5, 17.5; δ2 = 1, δ1 = 0 + 10."""
    params = rnn.RnnParams(Params(jnp.ones((1, 1)), jnp.array([0.5])), Params(jnp.array([[10.0]]), None))
    h, residuals = rnn.forward(params, jnp.array([1.0, 2]).reshape(1, 2, 1), activation="relu")
    assert h.ravel().tolist() == [1.5, 17.5]
    grads, delta_x = rnn.backward(residuals, jnp.array([0.0, 1]).reshape(1, 2, 1), activation="relu")
    assert grads.input.bias.tolist() == [11.0]
    assert grads.input.weight.tolist() == [[12.0]]
    assert grads.hidden.weight.tolist() == [[1.5]]
    assert delta_x.ravel().tolist() == [10.0, 1.0]


def test_the_state_carries_on(key):
    """A sequence in one go is the sequence in two pieces, the state of the first given to the second."""
    layer = rnn.layer(4)
    x = jax.random.normal(key, (2, 6, 3), jnp.float64)
    params = layer.init(key, x)

    @jax.jit
    def run(params, x):
        first, _ = layer.forward(params, x[:, :4])
        second, _ = layer.forward(params, (x[:, 4:], first[:, -1]))
        return layer.forward(params, x)[0], first, second

    whole, first, second = run(params, x)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=1e-13)


def test_both_directions_and_lengths(key):
    """Each direction of each row is the row cut at its length and run by itself, the second from its end."""
    example = EXAMPLES["both directions, each reversed, lengths"]  # so that the first direction is the reversed one
    case = instance(example, key, jnp.float64)
    x, states, lengths = jax.device_get(case.x)
    residuals, delta, (_, delta_x) = right_answer(example, key)
    out = np.concatenate([residuals[0].h, np.asarray(residuals[1].h)[:, ::-1]], axis=-1)
    assert residuals[2].value == (out.shape, 2)
    for row, length in enumerate(lengths):
        for direction, (params, state) in enumerate(zip(case.params, states)):
            h, order = state[row], range(length) if direction else range(length)[::-1]
            units = slice(2 * direction, 2 * direction + 2)
            for t in order:
                h = np.tanh(x[row, t] @ params.input.weight + params.input.bias + h @ params.hidden.weight)
                np.testing.assert_allclose(out[row, t, units], h, rtol=0, atol=1e-14)
    assert np.all(np.asarray(delta_x.x)[[1, 1, 2, 2], [0, 3, 2, 3]] == 0)
    np.testing.assert_allclose(np.concatenate([s[1] for s in delta_x.state]), np.sum(delta[1], axis=0), rtol=1e-13)


def test_a_planted_fault_of_both_directions_is_caught(key):
    """δ of the second direction not turned back."""
    example = EXAMPLES["both directions, each reversed, lengths"]

    def wrong(residuals, delta):
        turned_twice = jnp.concatenate([delta[..., :2], delta[:, ::-1, 2:]], axis=-1)
        return example.layer.backward(residuals, turned_twice)

    leaves = {f"0.1.{leaf}" for leaf in ("input.weight", "input.bias", "hidden.weight")} | {"1.x", "1.state.1"}
    assert_caught(example, key, wrong, leaves)


def test_bad_input_is_named():
    params = rnn.layer(4).init(jax.random.key(0), jnp.ones((2, 5, 3)))
    with pytest.raises(ValueError, match=r"rnn.forward: activation must be one of tanh, relu, got the str 'gelu'"):
        rnn.layer(4, activation="gelu")
    with pytest.raises(ValueError, match=r"rnn.forward: x must be \(n, time, fan_in\) with fan_in=3 .* \(2, 5, 4\)"):
        rnn.forward(params, jnp.ones((2, 5, 4)))
    with pytest.raises(ValueError, match=r"rnn.forward: h0 must be \(n, units\) = \(2, 4\), got shape \(2, 3\)"):
        rnn.forward(params, (jnp.ones((2, 5, 3)), jnp.ones((2, 3))))


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_ranks_and_dtypes_are_named():
    params = rnn.layer(4).init(jax.random.key(0), jnp.ones((2, 5, 3)))
    with pytest.raises(ValueError, match=r"rnn.forward: x must be \(n, time, fan_in\) .* got shape \(5, 3\)"):
        rnn.forward(params, jnp.ones((5, 3)))
    with pytest.raises(TypeError, match=r"rnn.forward: x must be a floating-point array, got int32"):
        rnn.forward(params, jnp.ones((2, 5, 3), jnp.int32))


def deaf_to_later_steps(residuals, delta):
    """δ[t] without δ[t+1] Uᵀ: the gradient of each step by itself, as if the state were given."""
    no_feedback = residuals.params._replace(hidden=Params(0 * residuals.params.hidden.weight, None))
    return rnn.backward(residuals._replace(params=no_feedback), delta)


@pytest.mark.parametrize(
    ("wrong", "leaves"),
    [
        (deaf_to_later_steps, {"0.input.weight", "0.input.bias", "0.hidden.weight", "1"}),
        (lambda r, d: rnn.backward(r._replace(x=jnp.roll(r.x, 1, axis=1)), d), {"0.input.weight"}),
        (
            lambda r, d: (lambda g, dx: (g._replace(input=g.input._replace(bias=g.input.bias / d.shape[1])), dx))(
                *rnn.backward(r, d)
            ),
            {"0.input.bias"},
        ),
        (
            lambda r, d: (lambda g, dx: (g._replace(hidden=Params(g.hidden.weight.T, None)), dx))(*rnn.backward(r, d)),
            {"0.hidden.weight"},
        ),
    ],
    ids=["no δ from the next step", "x of another step", "bias: mean over time", "U transposed"],
)
def test_planted_faults_are_caught(key, wrong, leaves):
    assert_caught(EXAMPLES["tanh"], key, wrong, leaves)
