"""Weight standardisation: numbers worked by hand, what is redundant, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import random_like
from jaxbias.layers import batch_norm, conv, dense, dropout, relu, weight_standardization
from jaxbias.layers.weight_standardization import WeightStandardizationParams
from tests.planted import assert_caught

DENSE, SCALED, NO_GAIN = weight_standardization.DERIVATIONS[0].examples
X = np.linspace(-2, 2, 15).reshape(5, 3)


@pytest.mark.parametrize("scaled", [False, True])
def test_by_hand(scaled):
    """W = (1, 3): mean 2, variance 1, sum of squares 2: ŵ = (−1, 1) r with r = 1, or 1/√2. G = (1, 0), γ = 3."""
    layer = weight_standardization.layer(dense.layer(1), eps=0.0, scaled=scaled)
    params = WeightStandardizationParams(jnp.array([[1.0], [3.0]]), jnp.array([3.0]), jnp.array([0.5]))
    out, residuals = layer.forward(params, jnp.array([[1.0, 0]]))
    grads, delta_x = layer.backward(residuals, jnp.array([[1.0]]))
    r = 1 / np.sqrt(2) if scaled else 1.0
    np.testing.assert_allclose(out, [[0.5 - 3 * r]], rtol=1e-14)
    np.testing.assert_allclose(grads.gain, [-r], rtol=1e-14)
    np.testing.assert_allclose(delta_x, [[-3 * r, 3 * r]], rtol=1e-14)
    # two entries have a mean and a scale, and nothing else
    np.testing.assert_allclose(grads.weight, [[0], [0]], atol=1e-15)
    assert grads.bias.tolist() == [1]


def used_weight(layer, params):
    """W′ of a dense layer, read from its outputs at unit vectors."""
    rows = params.weight.shape[0]
    return layer.forward(params._replace(bias=None), jnp.eye(rows))[0]


def test_sizes_of_what_is_used(key):
    """Columns of W′ have mean 0 and the standard deviation γ; scaled, the length γ."""
    weight = 5 + 2 * random_like(key, jnp.zeros((40, 3)))
    params = WeightStandardizationParams(weight, jnp.array([1.0, 2, 3]), None)
    plain = used_weight(weight_standardization.layer(dense.layer(3), eps=0.0), params)
    np.testing.assert_allclose(plain.mean(0), np.zeros(3), atol=1e-13)
    np.testing.assert_allclose(plain.std(0), [1, 2, 3], rtol=1e-12)
    scaled = used_weight(weight_standardization.layer(dense.layer(3), eps=0.0, scaled=True), params)
    np.testing.assert_allclose(jnp.linalg.norm(scaled, axis=0), [1, 2, 3], rtol=1e-12)


def test_mean_and_scale_are_redundant_and_the_bias_is_not(key):
    """Σ_i ∂L/∂W = 0 with any eps, ⟨W, ∂L/∂W⟩ = 0 without."""
    layer = weight_standardization.layer(dense.layer(4), eps=0.0)
    params = random_like(key, jax.eval_shape(layer.init, key, X))
    out, residuals = layer.forward(params, jnp.asarray(X))
    grads, _ = layer.backward(residuals, jnp.sin(5 * out))
    assert np.abs(grads.weight).max() > 0.1
    assert np.abs(grads.weight.sum(0)).max() < 1e-13
    assert np.abs((params.weight * grads.weight).sum(0)).max() < 1e-13
    assert jb.surgery.redundant_biases(lambda p, x: layer.forward(p, jnp.asarray(x))[0], params, X) == ()


def test_at_first_the_gain_is_1_and_the_bias_that_of_the_layer_inside(key):
    inside = conv.layer(2, 3, bias_init=jax.nn.initializers.constant(0.5))
    params = weight_standardization.layer(inside).init(key, jnp.ones((1, 4, 3)))
    assert params.gain.tolist() == [1, 1] and params.bias.tolist() == [0.5, 0.5]
    assert np.array_equal(params.weight, inside.init(key, jnp.ones((1, 4, 3))).weight)


def test_on_disk_the_weight_is_that_of_the_layer_inside(key):
    """As PyTorch keeps a Linear (out, in) and a convolution (out, in, length); the gain as it is."""
    for base, x, shape in ((dense.layer(4), X, (4, 3)), (conv.layer(4, 2), np.ones((1, 5, 3)), (4, 3, 2))):
        network = jb.chain(weight_standardization.layer(base))
        params = random_like(key, jax.eval_shape(network.init, key, x))
        arrays = jb.io.to_pytorch(network, params)
        assert {name: array.shape for name, array in arrays.items()} == {
            "0.weight": shape,
            "0.gain": (4,),
            "0.bias": (4,),
        }
        back = jb.io.from_pytorch(network, params, arrays)
        assert jax.tree.all(jax.tree.map(np.array_equal, back, params))


def faulty(example, weight=None, gain=None):
    def wrong(residuals, delta):
        grads, delta_x = example.layer.backward(residuals, delta)
        g = residuals.inside.x.T @ delta
        w = residuals.weight - residuals.weight.mean(0, keepdims=True)
        r = 1 / jnp.sqrt((w * w).mean(0, keepdims=True) + 1e-5)
        q = residuals.gain[None] * g
        if weight:
            grads = grads._replace(weight=weight(w * r, r, q))
        return (grads._replace(gain=gain(w * r, g)) if gain else grads), delta_x

    return wrong


def centred(q):
    return q - q.mean(0, keepdims=True)


FAULTS = {
    "projection on ŵ missing": (faulty(DENSE, weight=lambda w, r, q: r * centred(q)), {"0.weight"}),
    "mean not taken out": (
        faulty(DENSE, weight=lambda w, r, q: r * (q - w * (q * w).mean(0, keepdims=True))),
        {"0.weight"},
    ),
    "sum in place of the mean": (
        faulty(DENSE, weight=lambda w, r, q: r * (centred(q) - w * (q * w).sum(0, keepdims=True))),
        {"0.weight"},
    ),
    "mean over the whole weight": (
        faulty(DENSE, weight=lambda w, r, q: r * (q - q.mean() - w * (q * w).mean(0, keepdims=True))),
        {"0.weight"},
    ),
    "r taken for a constant, and missing": (
        faulty(DENSE, weight=lambda w, r, q: centred(q) - w * (q * w).mean(0, keepdims=True)),
        {"0.weight"},
    ),
    "gain from W′": (faulty(DENSE, gain=lambda w, g: g.sum(0)), {"0.gain"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(DENSE, key, *FAULTS[name])


def test_the_mean_where_the_scaled_form_has_a_sum_is_caught(key):
    """✗ (9.7.3) for (9.7.4)."""

    def wrong(residuals, delta):
        grads, delta_x = SCALED.layer.backward(residuals, delta)
        w = residuals.weight.reshape(-1, 2)
        w = w - w.mean(0, keepdims=True)
        r = 1 / jnp.sqrt((w * w).sum(0, keepdims=True) + 1e-5)
        inside, _ = conv.layer(2, 2, use_bias=False).backward(residuals.inside, delta)
        q = residuals.gain[None] * inside.weight.reshape(-1, 2)
        weight = r * (centred(q) - w * r * (q * w * r).mean(0, keepdims=True))
        return grads._replace(weight=weight.reshape(grads.weight.shape)), delta_x

    assert_caught(SCALED, key, wrong, {"0.weight"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(key):
    make = weight_standardization.layer
    with pytest.raises(
        TypeError, match=r"weight_standardization\.layer: the module jaxbias\.layers\.dense is no layer"
    ):
        make(dense)
    for base in (dropout.layer(), batch_norm.layer(), jb.chain(dense.layer(2))):
        with pytest.raises(ValueError, match=r"weight_standardization\.layer: \w+ is no single affine layer without"):
            make(base)
    with pytest.raises(ValueError, match=r"weight_standardization\.init: relu has no weight matrix"):
        make(relu).init(key, jnp.ones((2, 3)))
    with pytest.raises(TypeError, match=r"weight_standardization\.layer: scaled must be True or False, got the int 1"):
        make(dense.layer(2), scaled=1)
    with pytest.raises(ValueError, match=r"weight_standardization\.layer: eps"):
        make(dense.layer(2), eps=-1.0)
    params = WeightStandardizationParams(jnp.ones((3, 4)), jnp.ones(4), None)
    with pytest.raises(
        TypeError, match=r"params must be WeightStandardizationParams\(weight, gain, bias\), got a tuple"
    ):
        DENSE.layer.forward(tuple(params), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"gain must have one entry for each output, \(4,\), got \(3,\)"):
        DENSE.layer.forward(params._replace(gain=jnp.ones(3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dense\.forward: x has 5 features"):
        DENSE.layer.forward(params, jnp.ones((2, 5)))
