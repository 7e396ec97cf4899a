import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import random_like
from jaxbias.layers import dense, relu, tanh
from jaxbias.losses import mean_squared_error
from jaxbias.verify import relative_errors

NETWORK = jb.chain(dense.layer(4), tanh, jb.residual(jb.chain(dense.layer(4), relu)), dense.layer(2))


@pytest.fixture
def task(key):
    keys = jax.random.split(key, 3)
    x, targets = jax.random.normal(keys[0], (5, 3), jnp.float64), jax.random.normal(keys[1], (5, 2), jnp.float64)
    return random_like(keys[2], NETWORK.init(key, x)), x, targets


def assert_same(actual, expected, tolerance=1e-12):
    errors = relative_errors(actual=actual, expected=expected)
    assert all(error < tolerance for error in errors.values()), errors


def test_delta_equals_autodiff(task):
    by_delta = jb.value_and_grad(NETWORK, mean_squared_error)(*task)
    assert_same(by_delta, jb.value_and_grad(NETWORK, mean_squared_error, "autodiff")(*task))
    assert jax.tree.structure(by_delta[1]) == jax.tree.structure(task[0])


def test_autodiff_does_not_run_the_hand_derived_backward(task):
    def broken(residuals, delta):
        raise AssertionError("the hand-derived backward ran")

    network = NETWORK._replace(backward=broken)
    jb.value_and_grad(network, mean_squared_error, "autodiff")(*task)
    with pytest.raises(AssertionError, match="ran"):
        jb.value_and_grad(network, mean_squared_error, "delta")(*task)


def test_has_aux_returns_the_output_and_the_next_state(task):
    params, x, _ = task
    for how in ("delta", "autodiff"):
        (loss, (out, state)), grads = jb.value_and_grad(NETWORK, mean_squared_error, how, has_aux=True)(*task)
        assert_same(out, NETWORK.forward(params, x)[0])
        assert state is None
        assert_same((loss, grads), jb.value_and_grad(NETWORK, mean_squared_error)(*task))


def test_works_under_vmap_scan_remat_and_jit(task):
    params, x, targets = task
    gradient = jb.value_and_grad(NETWORK, mean_squared_error)
    expected = gradient(*task)
    xs, ys = jnp.stack([x, -x]), jnp.stack([targets, targets + 1])
    by_vmap = jax.jit(jax.vmap(gradient, in_axes=(None, 0, 0)))(params, xs, ys)
    _, by_scan = jax.lax.scan(lambda carry, xy: (carry, gradient(params, *xy)), None, (xs, ys))
    assert_same(by_scan, by_vmap)
    assert_same(jax.tree.map(lambda leaf: leaf[0], by_vmap), expected)
    assert_same(jax.checkpoint(gradient)(*task), expected)


def test_as_function_differentiates_by_the_hand_derived_backward(task, key):
    params, x, _ = task
    function = jb.as_function(NETWORK)
    out, pull_back = jax.vjp(function, params, x)
    delta = random_like(key, out)
    expected, residuals = NETWORK.forward(params, x)
    assert_same(out, expected)
    assert_same(pull_back(delta), NETWORK.backward(residuals, delta))
    doubled = NETWORK._replace(backward=lambda r, d: jax.tree.map(lambda g: 2 * g, NETWORK.backward(r, d)))
    assert_same(jax.vjp(jb.as_function(doubled), params, x)[1](delta), doubled.backward(residuals, delta))
    under_remat = jax.jit(jax.grad(lambda p: jax.checkpoint(function)(p, x).sum()))(params)
    assert_same(under_remat, jax.grad(lambda p: function(p, x).sum())(params))


def test_as_function_has_no_forward_mode_and_its_twin_has(task):
    params, x, _ = task
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: jb.as_function(NETWORK)(params, x), (x,), (x,))
    jax.jvp(lambda x: NETWORK.forward(params, x)[0], (x,), (x,))


def test_deltas_are_the_error_signals_of_equation_6(task):
    """δ at every layer output = gradient of the loss with respect to a term added there."""
    params, x, targets = task
    found = jb.deltas(NETWORK, mean_squared_error)(params, x, targets)
    assert list(found) == ["0", "1", "2.0", "2.1", "3"]

    def loss(added):
        z0 = dense.forward(params[0], x)[0] + added["0"]
        a0 = jnp.tanh(z0) + added["1"]
        z1 = dense.forward(params[2][0], a0)[0] + added["2.0"]
        a1 = a0 + jax.nn.relu(z1) + added["2.1"]
        out = dense.forward(params[3], a1)[0] + added["3"]
        return jnp.mean((out - targets) ** 2)

    assert_same(found, jax.grad(loss)(jax.tree.map(jnp.zeros_like, found)))


def test_bias_gradient_is_the_delta_summed_over_rows(task):
    """Equations (14) and 4.1: the bias gradient is the error signal; the weight gradient carries the activation."""
    params, x, targets = task
    delta = jb.deltas(NETWORK, mean_squared_error)(params, x, targets)
    _, grads = jb.value_and_grad(NETWORK, mean_squared_error)(params, x, targets)
    assert_same(grads[0].bias, delta["0"].sum(axis=0), 1e-14)
    assert_same(grads[0].weight, np.einsum("ni,nj->ij", x, delta["0"]), 1e-14)


def test_unknown_how_is_refused():
    with pytest.raises(ValueError, match="'forward'"):
        jb.value_and_grad(NETWORK, mean_squared_error, "forward")
