"""Weights of Keras in its own order, square shapes included: what its layers compute from them is computed here.

Keras is no dependency of the tests. Its forward passes stand here in NumPy, by the layouts that its pages document
(https://keras.io/api/layers); where Keras is installed (with JAX as its backend), the same weights go through it too.
"""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import io
from jaxbias.layers import batch_norm, conv, conv_transpose, gru, lstm, rnn

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")
RNG = np.random.default_rng(20261129)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def np_conv_transpose(stride):
    """kernel (h, w, out, in)."""

    def forward(x, kernel, bias):
        n, *lengths, _ = x.shape
        h, w, out, _ = kernel.shape
        z = np.zeros((n, *((m - 1) * stride + k for m, k in zip(lengths, (h, w))), out))
        for i, j in np.ndindex(*lengths):
            z[:, i * stride : i * stride + h, j * stride : j * stride + w] += np.einsum(
                "nc,uvoc->nuvo", x[:, i, j], kernel
            )
        return z + bias

    return forward


def np_depthwise(x, kernel, bias):
    """kernel (h, w, in, multiplier); the outputs of one channel stand side by side."""
    h, w, _, _ = kernel.shape
    rows, columns = x.shape[1] - h + 1, x.shape[2] - w + 1
    windows = np.stack([x[:, i : i + rows, j : j + columns] for i, j in np.ndindex(h, w)])
    z = np.einsum("knijc,kcm->nijcm", windows, kernel.reshape(h * w, *kernel.shape[2:]))
    return z.reshape(*z.shape[:3], -1) + bias


def np_batch_norm(x, gamma, beta, mean, variance):
    return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta


def over_time(step, states):
    def forward(x, *weights):
        state, out = [np.zeros((x.shape[0], weights[1].shape[0]))] * states, []
        for t in range(x.shape[1]):
            state = step(x[:, t], state, *weights)
            out.append(state[0])
        return np.stack(out, axis=1)

    return forward


def np_simple_rnn(x, state, kernel, recurrent, bias):
    return [np.tanh(x @ kernel + state[0] @ recurrent + bias)]


def np_lstm(x, state, kernel, recurrent, bias):
    h, c = state
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def np_gru(x, state, kernel, recurrent, bias):
    """reset_after=True, Keras's default: bias (2, 3 · units), of the inputs and of the state."""
    (h,) = state
    xz, xr, xh = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hh = np.split(h @ recurrent + bias[1], 3, axis=-1)
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    return [z * h + (1 - z) * np.tanh(xh + r * hh)]


IMAGES, STEPS = (2, 5, 4, 4), (2, 5, 4)
CASES = {  # square wherever there is a square one: (layer, x, shapes in Keras, its forward, how Keras is asked)
    "Conv2DTranspose": (
        conv_transpose.layer(4, 3), IMAGES, [(3, 3, 4, 4), (4,)], np_conv_transpose(1),
        lambda keras: keras.layers.Conv2DTranspose(4, 3),
    ),
    "Conv2DTranspose, stride 2": (
        conv_transpose.layer(5, (3, 2), stride=2), IMAGES, [(3, 2, 5, 4), (5,)], np_conv_transpose(2),
        lambda keras: keras.layers.Conv2DTranspose(5, (3, 2), strides=2),
    ),
    "DepthwiseConv2D": (
        conv.layer(8, (3, 2), groups=4), IMAGES, [(3, 2, 4, 2), (8,)], np_depthwise,
        lambda keras: keras.layers.DepthwiseConv2D((3, 2), depth_multiplier=2),
    ),
    "BatchNormalization": (
        batch_norm.layer(eps=1e-3), IMAGES, [(4,)] * 4, np_batch_norm, lambda keras: keras.layers.BatchNormalization(),
    ),
    "SimpleRNN": (
        rnn.layer(4), STEPS, [(4, 4), (4, 4), (4,)], over_time(np_simple_rnn, 1),
        lambda keras: keras.layers.SimpleRNN(4, return_sequences=True),
    ),
    "LSTM": (
        lstm.layer(4), STEPS, [(4, 16), (4, 16), (16,)], over_time(np_lstm, 2),
        lambda keras: keras.layers.LSTM(4, return_sequences=True),
    ),
    "GRU": (
        gru.layer(4), STEPS, [(4, 12), (4, 12), (2, 12)], over_time(np_gru, 1),
        lambda keras: keras.layers.GRU(4, return_sequences=True),
    ),
}  # fmt: skip


def drawn(name):
    layer, x_shape, shapes, forward, of_keras = CASES[name]
    weights = [(0.5 * RNG.normal(size=shape)).astype(np.float32) for shape in shapes]
    if name == "BatchNormalization":
        weights[3] = np.exp(weights[3])
    return layer, RNG.normal(size=x_shape).astype(np.float32), weights, forward, of_keras


@pytest.mark.parametrize("name", CASES)
def test_the_weights_of_keras_give_its_outputs(key, name):
    layer, rows, weights, forward, _ = drawn(name)
    network, x = jb.chain(layer), jnp.asarray(rows)
    state = None if network.state is None else network.state.init(key, x)
    like = jax.eval_shape(network.init, key, x)
    if state is None:
        params = io.from_keras(like, weights, network)
        out, _ = network.forward(params, x)
    else:
        params, state = io.from_keras(like, weights, network, state)
        out, _ = jb.inference(network).forward(params, x, state)
    np.testing.assert_allclose(out, forward(rows.astype(np.float64), *weights), rtol=0, atol=2e-5)
    back = io.to_keras(params, network, state)
    assert all((a.reshape(b.shape) == b).all() for a, b in zip(back, weights, strict=True))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.skipif(
    importlib.util.find_spec("keras") is None or os.environ.get("KERAS_BACKEND") != "jax",
    reason="Keras is not installed, or KERAS_BACKEND is not jax",
)
def test_keras_computes_the_same(name):
    import keras  # pyright: ignore[reportMissingImports]

    _, x, weights, forward, of_keras = drawn(name)
    model = keras.Sequential([keras.Input(x.shape[1:]), of_keras(keras)])
    model.set_weights(weights)
    expected = forward(x.astype(np.float64), *weights)
    np.testing.assert_allclose(np.asarray(model(x, training=False)), expected, rtol=0, atol=2e-5)


def test_what_shapes_do_not_tell_needs_the_network(key):
    for layer, x in ((conv_transpose.layer(4, 3), IMAGES), (conv.layer(4, 3), IMAGES), (gru.layer(4), STEPS)):
        params = layer.init(key, jnp.zeros(x, jnp.float32))
        with pytest.raises(ValueError, match=r"from_keras: some layers of Keras .* Pass the layers: from_keras\("):
            io.from_keras(params, jax.tree.leaves(params))
    network = jb.chain(CASES["DepthwiseConv2D"][0])
    params = network.init(key, jnp.zeros(IMAGES, jnp.float32))
    with pytest.raises(
        ValueError, match=r"has arrays of shapes \[\(3, 2, 1, 8\), \(8,\)\] in Keras, got \[\(3, 2, 8, 1"
    ):
        io.from_keras(params, [np.zeros((3, 2, 8, 1)), np.zeros(8)], network)


def test_batch_norm_of_keras_needs_its_state(key):
    network = jb.chain(batch_norm.layer())
    params = network.init(key, jnp.zeros(IMAGES))
    with pytest.raises(ValueError, match=r"io.to_keras: Keras counts the statistics of a batch_norm layer .*state="):
        io.to_keras(params, network)
