"""Weight normalisation: numbers worked by hand, the redundant scale, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import random_like
from jaxbias.layers import batch_norm, dense, dropout, layer_norm, relu, weight_norm
from jaxbias.layers.weight_norm import WeightNormParams
from tests.planted import assert_caught

DENSE, CONV = weight_norm.DERIVATIONS[0].examples
X = np.linspace(-2, 2, 15).reshape(5, 3)


def test_by_hand():
    """v = (3, 4), g = 10: W′ = (6, 8). G = x δ = (1, 0): ∂g = 3/5, ∂v = 2 ((1, 0) − (0.6, 0.8) 0.6)."""
    layer = weight_norm.layer(dense.layer(1))
    params = WeightNormParams(jnp.array([[3.0], [4.0]]), jnp.array([10.0]), jnp.array([0.5]))
    out, residuals = layer.forward(params, jnp.array([[1.0, 0]]))
    grads, delta_x = layer.backward(residuals, jnp.array([[1.0]]))
    np.testing.assert_allclose(out, [[6.5]], rtol=1e-14)
    np.testing.assert_allclose(grads.gain, [0.6], rtol=1e-14)
    np.testing.assert_allclose(grads.direction, [[2 * 0.64], [-2 * 0.48]], rtol=1e-14)
    np.testing.assert_allclose(delta_x, [[6, 8]], rtol=1e-14)
    assert grads.bias.tolist() == [1]


def test_at_first_it_is_the_layer_inside(key):
    layer, inside = weight_norm.layer(dense.layer(4)), dense.layer(4)
    x = jnp.asarray(X)
    np.testing.assert_allclose(
        layer.forward(layer.init(key, x), x)[0], inside.forward(inside.init(key, x), x)[0], rtol=1e-12, atol=1e-13
    )


def test_the_scale_of_a_direction_is_redundant_and_its_bias_is_not():
    """Σ_i v ∂L/∂v = 0 for each output."""
    layer = DENSE.layer
    params = random_like(jax.random.key(2), jax.eval_shape(layer.init, jax.random.key(0), X))
    out, residuals = layer.forward(params, jnp.asarray(X))
    grads, _ = layer.backward(residuals, jnp.sin(5 * out))
    assert np.abs((np.asarray(params.direction) * grads.direction).sum(0)).max() < 1e-13
    assert np.abs(grads.direction).max() > 0.1
    assert jb.surgery.redundant_biases(lambda p, x: layer.forward(p, jnp.asarray(x))[0], params, X) == ()


def faulty(direction=None, gain=None):
    def wrong(residuals, delta):
        grads, delta_x = DENSE.layer.backward(residuals, delta)
        g = residuals.inside.x.T @ delta
        if direction:
            grads = grads._replace(direction=direction(residuals, g))
        return (grads._replace(gain=gain(residuals, g)) if gain else grads), delta_x

    return wrong


def ratio(r):
    return (r.gain / jnp.linalg.norm(r.direction, axis=0))[None]


FAULTS = {
    "projection missing": (faulty(direction=lambda r, g: ratio(r) * g), {"0.direction"}),
    "gain missing": (
        faulty(direction=lambda r, g: DENSE.layer.backward(r, r.inside.x @ g)[0].direction / r.gain[None]),
        {"0.direction"},
    ),
    "norm over the whole weight": (
        faulty(gain=lambda r, g: (g * r.direction).sum(0) / jnp.linalg.norm(r.direction)),
        {"0.gain"},
    ),
    "gradient of W′ for that of its length": (faulty(gain=lambda r, g: g.sum(0)), {"0.gain"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(DENSE, key, *FAULTS[name])


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(key):
    with pytest.raises(TypeError, match=r"weight_norm\.layer: the module jaxbias\.layers\.dense is no layer"):
        weight_norm.layer(dense)
    for base in (dropout.layer(), batch_norm.layer(), jb.chain(dense.layer(2))):
        with pytest.raises(ValueError, match=r"weight_norm\.layer: \w+ is no single affine layer without a state"):
            weight_norm.layer(base)
    for base in (relu, layer_norm.layer()):
        with pytest.raises(ValueError, match=r"weight_norm\.init: \w+ has no weight matrix"):
            weight_norm.layer(base).init(key, jnp.ones((2, 3)))
    params = WeightNormParams(jnp.ones((3, 4)), jnp.ones(4), None)
    with pytest.raises(TypeError, match=r"params must be WeightNormParams\(direction, gain, bias\)"):
        DENSE.layer.forward(tuple(params), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"gain must have one entry for each output, \(4,\), got \(3,\)"):
        DENSE.layer.forward(params._replace(gain=jnp.ones(3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dense\.forward: x has 5 features"):
        DENSE.layer.forward(params, jnp.ones((2, 5)))
