"""Sparsemax and 1.5-entmax: numbers by hand, thresholds by bisection, what is redundant, ties, NaN.

Mistakes are planted in them in test_activations.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.derivation import normal, random_like
from jaxbias.layers import dense, entmax15, sparsemax
from jaxbias.layers.activations import make_entmax15, make_sparsemax

POWER = {"sparsemax": (1, 1), "entmax15": (0.5, 2)}
"""a = max(scale z − τ, 0)^exponent."""


def by_bisection(z, scale, exponent):
    """Each row with the τ at which it sums to 1, which lies between max − 1 and max."""
    low, high = scale * z.max(-1, keepdims=True) - 1, scale * z.max(-1, keepdims=True)
    for _ in range(200):
        middle = (low + high) / 2
        above = (np.maximum(scale * z - middle, 0) ** exponent).sum(-1, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.maximum(scale * z - low, 0) ** exponent


@pytest.mark.parametrize("name", POWER)
def test_outputs_by_bisection(key, name):
    z = 2 * np.asarray(normal(key, (40, 7), jnp.float64))
    out, _ = getattr(jb.layers, name).forward((), jnp.asarray(z))
    np.testing.assert_allclose(out, by_bisection(z, *POWER[name]), rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.asarray(out).sum(-1), 1, rtol=1e-14)
    assert {1, 2, 3} <= set((np.asarray(out) > 0).sum(-1).tolist())


def test_sparsemax_is_the_projection_of_optax(key):
    """Onto the simplex, its derivative included."""
    z, delta = normal(key, (7,), jnp.float64), normal(jax.random.fold_in(key, 1), (7,), jnp.float64)
    with jax.numpy_dtype_promotion("standard"):
        expected, pull_back = jax.vjp(optax.projections.projection_simplex, z)
        of_optax = pull_back(delta)[0]
    out, residuals = sparsemax.forward((), z)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(sparsemax.backward(residuals, delta)[1], of_optax, rtol=0, atol=1e-14)


def test_sparsemax_by_hand():
    """z = (1, ½, −1): τ = ¼, a = (¾, ¼, 0). δ = (1, 0, 5) less its mean ½ on the support."""
    out, residuals = sparsemax.forward((), jnp.array([[1, 0.5, -1]]))
    assert out.tolist() == [[0.75, 0.25, 0]]
    assert sparsemax.backward(residuals, jnp.array([[1.0, 0, 5]]))[1].tolist() == [[0.5, -0.5, 0]]


def test_entmax_by_hand():
    """z/2 = (0.8, 0.6) − 1 …: a = (0.64, 0.36), g = (0.8, 0.6); δ = (7, 0): Σ g δ/Σ g = 4."""
    out, residuals = entmax15.forward((), jnp.array([[1.6, 1.2, -3]]))
    np.testing.assert_allclose(out, [[0.64, 0.36, 0]], rtol=1e-14)
    np.testing.assert_allclose(entmax15.backward(residuals, jnp.array([[7.0, 0, 9]]))[1], [[2.4, -2.4, 0]], rtol=1e-14)


def test_ties_and_the_border():
    """Equal entries share; one at z = τ is outside, for autodiff too."""
    z = jnp.array([[2.0, 2, 1, -9], [3, 2, 0, 0]])
    out, residuals = sparsemax.forward((), z)
    assert out.tolist() == [[0.5, 0.5, 0, 0], [1, 0, 0, 0]]
    delta = jnp.array([[1.0, 3, 5, 7], [1, 2, 3, 4]])
    expected = jax.vjp(lambda z: sparsemax.forward((), z)[0], z)[1](delta)[0]
    assert sparsemax.backward(residuals, delta)[1].tolist() == expected.tolist() == [[-1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("layer", [sparsemax, entmax15], ids=lambda layer: layer.name)
def test_one_constant_of_a_bias_before_it_is_redundant(key, layer):
    network = jb.chain(dense.layer(4), layer)
    x = normal(key, (5, 3), jnp.float64)
    params = random_like(key, jax.eval_shape(network.init, key, x))
    out, residuals = network.forward(params, x)
    (grads, _), _ = network.backward(residuals, jnp.sin(9 * out))
    assert np.abs(grads.bias).max() > 0.01 and abs(grads.bias.sum()) < 1e-14
    moved = (params[0]._replace(bias=params[0].bias + 3), ())
    np.testing.assert_allclose(network.forward(moved, x)[0], out, rtol=0, atol=1e-13)
    (found,) = jb.surgery.redundant_biases(lambda p, x: network.forward(p, jnp.asarray(x))[0], params, x)
    assert found.paths == ("0.bias",) and found.rank == 3
    np.testing.assert_allclose(np.abs(found.directions), np.full((1, 4), 0.5), rtol=1e-9)


@pytest.mark.parametrize("layer", [sparsemax, entmax15], ids=lambda layer: layer.name)
def test_masked_classes_get_nothing_and_nan_comes_out(layer):
    z = jnp.array([[1.0, -jnp.inf, 0.5], [1, jnp.nan, 0]])
    out, residuals = layer.forward((), z)
    np.testing.assert_allclose(out[0, ::2], layer.forward((), z[0, ::2])[0], rtol=1e-14)
    assert out[0, 1] == 0 and np.isnan(out[1]).all()
    delta_x = layer.backward(residuals, jnp.ones((2, 3)))[1]
    assert delta_x[0, 1] == 0 and np.isfinite(delta_x[0]).all()


@pytest.mark.parametrize("layer", [sparsemax, entmax15], ids=lambda layer: layer.name)
def test_half_precision_is_computed_in_float32(layer):
    """3,000 equal classes have 1/3000 each; in float16 their running sum would stop at 2,048."""
    out, residuals = layer.forward((), jnp.zeros(3000, jnp.float16))
    np.testing.assert_allclose(out, np.full(3000, 1 / 3000), rtol=2e-3)
    delta_x = layer.backward(residuals, jnp.ones(3000, jnp.float16))[1]
    assert out.dtype == delta_x.dtype == jnp.float16 and np.abs(delta_x).max() < 1e-3


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    for make in (make_sparsemax, make_entmax15):
        name = make.__name__.removeprefix("make_")
        with pytest.raises(TypeError, match=rf"{name}\.forward: x must be a floating-point array, got int"):
            make().forward((), jnp.arange(3))
        with pytest.raises(ValueError, match=rf"{name}\.forward: axis=2 does not exist in x of shape \(3, 4\)"):
            make(axis=2).forward((), jnp.ones((3, 4)))
        with pytest.raises(TypeError, match=rf"{make.__name__}: axis must be the number of one axis, got None"):
            make(axis=None)
        with pytest.raises(ValueError, match=rf"{name}\.backward: delta has shape \(2, 3\)"):
            make().backward(jnp.ones((3, 2)), jnp.ones((2, 3)))
