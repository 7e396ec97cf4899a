"""Spectral normalisation: numbers worked by hand, the exact singular value, the state, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.derivation import random_like
from jaxbias.layers import dense, dropout, relu, spectral_norm
from jaxbias.layers.spectral_norm import SpectralState
from tests.planted import assert_caught

DENSE = spectral_norm.DERIVATIONS[0].examples[0]
X = np.linspace(-2, 2, 15).reshape(5, 3)


def test_by_hand():
    """W = diag(4, 2), u = y = (1, 0): s = 4, W′ = diag(1, ½). G = xᵀ δ has ⟨G, W′⟩ = 1·10 + ½·20·… as below."""
    layer = spectral_norm.layer(dense.layer(2), steps=0)
    params = Params(jnp.diag(jnp.array([4.0, 2])), jnp.array([100.0, 0]))
    state = SpectralState(jnp.array([1.0, 0]), jnp.array([1.0, 0]))
    out, residuals = layer.forward(params, jnp.array([[1.0, 2]]), state)
    grads, delta_x = layer.backward(residuals, jnp.array([[10.0, 20]]))
    assert out.tolist() == [[101, 1]]
    # G = [[10, 20], [20, 40]], ⟨G, W′⟩ = 10 + 20 = 30
    assert grads.weight.tolist() == [[(10 - 30) / 4, 5], [5, 10]]
    assert grads.bias.tolist() == [10, 20] and delta_x.tolist() == [[10, 10]]


def test_after_enough_steps_it_is_the_singular_value_and_its_whole_derivative():
    """(9.7.2) at the exact pair is the derivative of W/|W|, by autodiff of the singular value itself."""
    layer = spectral_norm.layer(dense.layer(4, use_bias=False), steps=300)
    params = random_like(jax.random.key(2), jax.eval_shape(layer.init, jax.random.key(0), X))
    state = SpectralState(np.ones(3) / 3**0.5, np.ones(4) / 2)

    @jax.jit
    def both(weight, x, state):
        out, residuals = layer.forward(Params(weight, None), x, state)
        delta = jnp.sin(5 * out)
        exact, pull_back = jax.vjp(lambda w: x @ (w / jnp.linalg.norm(w, ord=2)), weight)
        return (out, layer.backward(residuals, delta)[0].weight), (exact, pull_back(delta)[0])

    (out, grad), (exact, exact_grad) = both(params.weight, X, state)
    np.testing.assert_allclose(out, exact, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(grad, exact_grad, rtol=1e-9, atol=1e-10)
    assert abs((np.asarray(params.weight) * grad).sum()) < 1e-12  # the scale of W is redundant


def test_training_goes_on_with_its_vectors_and_inference_leaves_them_alone():
    layer = spectral_norm.layer(dense.layer(4))
    quiet = jb.inference(layer)
    x = jnp.asarray(X)
    params = random_like(jax.random.key(2), jax.eval_shape(layer.init, jax.random.key(0), X))
    state = layer.state.init(jax.random.key(1), x)
    assert all(abs(np.linalg.norm(vector) - 1) < 1e-12 for vector in state)

    @jax.jit
    def trained(state):
        return jax.lax.fori_loop(0, 300, lambda _, s: layer.state.step(s, layer.forward(params, x, s)[1]), state)

    state = trained(state)
    weight = np.asarray(params.weight)
    largest = np.linalg.norm(weight, ord=2)
    _, residuals = quiet.forward(params, x, state)
    np.testing.assert_allclose(residuals.singular, largest, rtol=1e-12)
    assert quiet.state.step(state, residuals) is state and jb.inference(quiet) is quiet


def test_a_training_step_is_autodiff_with_the_vectors_held():
    layer = spectral_norm.layer(dense.layer(4))
    params = random_like(jax.random.key(2), jax.eval_shape(layer.init, jax.random.key(0), X))
    state = SpectralState(np.ones(3) / 3**0.5, np.ones(4) / 2)

    @jax.jit
    def both(params, x):
        out, pull_back, residuals = jax.vjp(lambda p, x: layer.forward(p, x, state), params, x, has_aux=True)
        return layer.backward(residuals, jnp.sin(out)), pull_back(jnp.sin(out))

    for hand, autodiff in zip(*map(jax.tree.leaves, both(params, X)), strict=True):
        np.testing.assert_allclose(hand, autodiff, rtol=1e-12, atol=1e-13)


def faulty(change):
    def wrong(residuals, delta):
        grads, delta_x = DENSE.layer.backward(residuals, delta)
        g = residuals.inside.x.T @ delta
        return grads._replace(weight=change(residuals, g)), delta_x

    return wrong


def projected(r, g, u, y):
    return (g - (g * r.weight).sum() / r.singular * u[:, None] * y[None]) / r.singular


FAULTS = {
    "singular value taken for a constant": lambda r, g: g / r.singular,
    "projection of W and not of W′": lambda r, g: (
        (g - (g * r.weight).sum() * r.vectors.u[:, None] * r.vectors.y[None]) / r.singular
    ),
    "division forgotten": lambda r, g: r.singular * projected(r, g, *r.vectors),
    "projection on W′": lambda r, g: (g - (g * r.weight).sum() / (r.weight * r.weight).sum() * r.weight) / r.singular,
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(DENSE, key, faulty(FAULTS[name]), {"0.weight"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(key):
    with pytest.raises(ValueError, match=r"spectral_norm\.layer: dropout is no single affine layer"):
        spectral_norm.layer(dropout.layer())
    with pytest.raises(ValueError, match=r"spectral_norm\.layer: steps must be a whole number of at least 0"):
        spectral_norm.layer(dense.layer(2), steps=-1)
    with pytest.raises(ValueError, match=r"spectral_norm\.init: relu has no weight matrix"):
        spectral_norm.layer(relu).init(key, jnp.ones((2, 3)))
    params = Params(jnp.ones((3, 2)), None)
    with pytest.raises(ValueError, match=r"state must be SpectralState\(u, y\) of lengths \(3, 2\), got None"):
        DENSE.layer.forward(params, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"of lengths \(3, 2\), got \(3,\) and \(3,\)"):
        DENSE.layer.forward(params, jnp.ones((2, 3)), SpectralState(jnp.ones(3), jnp.ones(3)))
    with pytest.raises(TypeError, match=r"spectral_norm\.forward: params must be jb\.Params"):
        DENSE.layer.forward(tuple(params), jnp.ones((2, 3)))
