"""Locally connected layers: a loop over positions, conv where all kernels are one, planted faults, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import normal, random_like
from jaxbias.layers import conv, locally_connected
from jaxbias.params import Params
from tests.planted import assert_caught

EXAMPLE, KEYWORDS = locally_connected.DERIVATIONS[0].examples[:2]
HOW = {"stride": (2, 1), "padding": ((1, 2), (0, 1)), "kernel_dilation": (1, 2)}


def drawn(key, layer, x):
    return random_like(key, jax.eval_shape(layer.init, key, x))


def test_position_by_position(key):
    layer, x = locally_connected.layer(3, (3, 2), **HOW), normal(key, (2, 5, 4, 2), jnp.float64)
    params = drawn(key, layer, x)
    z, _ = layer.forward(params, x)
    padded = np.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)))
    assert z.shape == (2, 3, 3, 3) and params.weight.shape == (3, 3, 3, 2, 2, 3) and params.bias.shape == (3, 3, 3)
    for i, j in itertools.product(range(3), range(3)):
        window = padded[:, 2 * i : 2 * i + 3, j : j + 3 : 2]
        expected = np.tensordot(window, np.asarray(params.weight)[i, j], axes=3) + np.asarray(params.bias)[i, j]
        np.testing.assert_allclose(z[:, i, j], expected, rtol=1e-12, atol=1e-13)


def test_with_one_kernel_everywhere_it_is_a_convolution_and_gradients_add_up(key):
    x, delta = normal(key, (2, 5, 4, 2), jnp.float64), normal(jax.random.fold_in(key, 1), (2, 3, 3, 3), jnp.float64)
    shared = conv.layer(3, (3, 2), **HOW)
    params = drawn(key, shared, x)
    untied = Params(jnp.broadcast_to(params.weight, (3, 3, 3, 2, 2, 3)), jnp.broadcast_to(params.bias, (3, 3, 3)))
    layer = locally_connected.layer(3, (3, 2), **HOW)
    z, residuals = layer.forward(untied, x)
    expected, kept = shared.forward(params, x)
    np.testing.assert_allclose(z, expected, rtol=1e-12, atol=1e-13)
    (grads, delta_x), (tied, tied_x) = layer.backward(residuals, delta), shared.backward(kept, delta)
    np.testing.assert_allclose(grads.weight.sum((0, 1)), tied.weight, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(grads.bias.sum((0, 1)), tied.bias, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(delta_x, tied_x, rtol=1e-12, atol=1e-13)


def test_the_scale_of_its_weights_is_that_of_one_unit(key):
    """LeCun normal: variance 1/(kernel · channels), whatever the number of positions."""
    params = locally_connected.init(key, 8, 16, (6, 7), (3, 3))
    assert params.weight.shape == (6, 7, 3, 3, 8, 16)
    np.testing.assert_allclose(params.weight.std(), 1 / np.sqrt(72), rtol=0.02)


def test_no_bias_is_redundant(key):
    x = np.asarray(normal(key, (3, 3, 4, 2), jnp.float64))
    params = drawn(key, EXAMPLE.layer, x)
    assert jb.surgery.redundant_biases(lambda p, x: EXAMPLE.layer.forward(p, jnp.asarray(x))[0], params, x) == ()


def faulty(bias=None, weight=None, x=None):
    def wrong(residuals, delta):
        grads, delta_x = EXAMPLE.layer.backward(residuals, delta)
        if bias:
            grads = grads._replace(bias=bias(delta))
        if weight:
            grads = grads._replace(weight=weight(grads.weight))
        return grads, delta_x if x is None else x(residuals, delta)

    return wrong


FAULTS = {
    "untied bias summed over positions": (
        faulty(bias=lambda d: jnp.broadcast_to(d.sum((0, 1, 2)), d.shape[1:])),
        {"0.bias"},
    ),
    "bias averaged over the rows": (faulty(bias=lambda d: d.mean(0)), {"0.bias"}),
    "kernel shared": (
        faulty(weight=lambda w: jnp.broadcast_to(w.sum((0, 1)), w.shape)),
        {"0.weight"},
    ),
    "kernel flipped": (faulty(weight=lambda w: w[:, :, ::-1, ::-1]), {"0.weight"}),
    "weights of another position": (
        faulty(
            x=lambda r, d: EXAMPLE.layer.backward(r._replace(weight=jnp.roll(r.weight, 1, 0)), d)[1],
        ),
        {"1"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(EXAMPLE, key, *FAULTS[name])


def test_a_stride_forgotten_is_caught(key):
    def wrong(residuals, delta):
        moves = residuals.moves.value
        changed = moves._replace(stride=(1, 1), pads=((0, 1), moves.pads[1]))
        return locally_connected.backward(residuals._replace(moves=type(residuals.moves)(changed)), delta)

    assert_caught(KEYWORDS, key, wrong, {"0.weight", "1"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(key):
    layer = locally_connected.layer(3, 2)
    params = layer.init(key, jnp.ones((1, 3, 4, 2)))
    with pytest.raises(ValueError, match=r"weight must have the shape \(3, 3, 2, 2, 2\) .* params fit one image size"):
        layer.forward(params, jnp.ones((1, 4, 4, 2)))
    with pytest.raises(ValueError, match=r"locally_connected\.forward: bias has shape \(3,\), .*: \(2, 3, 3\)\."):
        layer.forward(params._replace(bias=jnp.ones(3)), jnp.ones((1, 3, 4, 2)))
    with pytest.raises(TypeError, match=r"locally_connected\.forward: params must be jb\.Params"):
        layer.forward(tuple(params), jnp.ones((1, 3, 4, 2)))
    with pytest.raises(ValueError, match=r"locally_connected\.init: window of spatial size \(2,\) .* larger than"):
        layer.init(key, jnp.ones((1, 1, 2)))
    with pytest.raises(ValueError, match=r"locally_connected\.layer: channels_out must be a whole number of at least"):
        locally_connected.layer(0, 2)
    with pytest.raises(ValueError, match=r"locally_connected\.backward: delta has shape"):
        layer.backward(layer.forward(params, jnp.ones((1, 3, 4, 2)))[1], jnp.ones((1, 3, 4, 3)))
