"""L1 and L2: the closed forms of A2.6 on the article's data, autodiff, exempt biases, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import penalties, verify
from jaxbias.layers import dense, layer_norm


@pytest.fixture
def data():
    """A4.5: y = 3 x + 2 + N(0, 2²), seed 42, the noise drawn first."""
    noise = np.random.RandomState(42).randn(50, 1)
    x = np.linspace(0, 10, 50).reshape(-1, 1)
    return jnp.asarray(x), jnp.asarray(3 * x + 2 + 2 * noise)


def gradient_at(w, b, data, penalty):
    step = penalties.add(jb.value_and_grad(dense.layer(1), jb.losses.mean_squared_error), penalty)
    _, grads = step(jb.Params(jnp.array([[w]]), jnp.array([b])), *data)
    return np.array([grads.weight[0, 0], grads.bias[0]])


def optimum(data, penalty):
    """Where the gradient, affine in (w, b) for w > 0, is zero."""
    at = gradient_at(1.0, 1.0, data, penalty)
    slopes = np.stack([gradient_at(2.0, 1.0, data, penalty) - at, gradient_at(1.0, 2.0, data, penalty) - at], axis=1)
    return np.array([1.0, 1.0]) - np.linalg.solve(slopes, at)


def mean_residual(w, b, data):
    return float((data[1] - w * data[0] - b).mean())


@pytest.mark.parametrize(
    ("strength", "w", "b"), [(0.1, 2.851161, 2.293247), (1.0, 2.585895, 3.619578), (10.0, 1.339578, 9.851161)]
)
def test_l2_on_the_weight(data, strength, w, b):
    found = optimum(data, penalties.l2(strength))
    np.testing.assert_allclose(found, [w, b], atol=5e-7)
    assert abs(mean_residual(*found, data)) < 1e-12


def test_l2_on_the_bias_too_keeps_the_fit_from_balancing(data):
    w, b = optimum(data, penalties.l2(1.0, biases=True))
    np.testing.assert_allclose([w, b], [2.993993, 0.789545], atol=5e-7)
    np.testing.assert_allclose(mean_residual(w, b, data), 1.0 * b, rtol=1e-12)


@pytest.mark.parametrize(("strength", "w"), [(1.0, 2.826386), (10.0, 2.307563)])
def test_l1_on_the_weight(data, strength, w):
    found = optimum(data, penalties.l1(strength))
    np.testing.assert_allclose(found[0], w, atol=5e-7)
    assert abs(mean_residual(*found, data)) < 1e-12


def test_l1_from_50_029148_on_gives_weight_zero(data):
    gradient = gradient_at(0.0, 16.54905218948772, data, penalties.l1(60.0))
    # the penalty adds 0 at the kink: its subgradients [−λ, λ] hold the slope of the loss from this λ on
    np.testing.assert_allclose(gradient, [-50.029148, 0], atol=5e-7)


PARAMS = (
    jb.Params(jnp.array([[1.0, -2.0], [0.5, 3.0]]), jnp.array([4.0, -5.0])),
    (),
    jb.Params(jnp.array([[-1.0], [2.0]]), None),
)


def test_values_by_hand():
    assert penalties.l2(0.5).value(PARAMS) == 0.5 * (1 + 4 + 0.25 + 9 + 1 + 4)
    assert penalties.l1(0.5).value(PARAMS) == 0.5 * (1 + 2 + 0.5 + 3 + 1 + 2)
    assert penalties.l2(0.5, biases=True).value(PARAMS) == 0.5 * (19.25 + 16 + 25)
    assert penalties.l1(0.5, biases=True).value(PARAMS) == 0.5 * (9.5 + 9)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("make", [penalties.l1, penalties.l2])
def test_gradient_matches_autodiff(make, biases):
    penalty = make(0.7, biases=biases)
    errors = verify.relative_errors(penalty.gradient(PARAMS), jax.grad(penalty.value)(PARAMS))
    assert all(error < 1e-15 for error in errors.values()), errors
    assert bool((penalty.gradient(PARAMS)[0].bias != 0).all()) == biases


@pytest.mark.parametrize("factor", [0.5, -1.0, 2.0])
def test_planted_faults_are_caught(factor):
    penalty = penalties.l2(0.7)
    wrong = jax.tree.map(lambda g: factor * g, penalty.gradient(PARAMS))
    errors = verify.relative_errors(wrong, jax.grad(penalty.value)(PARAMS))
    assert errors["0.weight"] > 0.4 and errors["0.bias"] == 0


def test_by_role_the_scale_of_a_norm_is_exempt(key):
    network = jb.chain(dense.layer(3), layer_norm.layer())
    x = jax.random.normal(key, (5, 2))
    params = network.init(key, x)
    roles = jb.roles(lambda params, x: network.forward(params, x)[0], params, x)
    gradient = penalties.l2(1.0, roles=roles).gradient(params)
    assert (gradient[0].weight == 2 * params[0].weight).all() and (gradient[1].weight == 0).all()


def test_narrow_floats_are_summed_in_float32():
    params = jb.Params(jnp.full((1000, 10), 0.1, jnp.bfloat16), None)
    value, gradient = penalties.l2(1.0).value(params), penalties.l2(1.0).gradient(params)
    assert value.dtype == jnp.float32 and gradient.weight.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, 1e4 * float(params.weight[0, 0]) ** 2, rtol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match=r"penalties.l1: strength must be 0 or more, got -0.1"):
        penalties.l1(-0.1)
