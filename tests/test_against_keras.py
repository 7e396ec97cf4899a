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
from jaxbias import io, layers, losses
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


with_keras = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None or os.environ.get("KERAS_BACKEND") != "jax",
    reason="Keras is not installed, or KERAS_BACKEND is not jax",
)


@pytest.mark.parametrize("name", CASES)
@with_keras
def test_keras_computes_the_same(name):
    import keras  # pyright: ignore[reportMissingImports]

    _, x, weights, forward, of_keras = drawn(name)
    model = keras.Sequential([keras.Input(x.shape[1:]), of_keras(keras)])
    model.set_weights(weights)
    expected = forward(x.astype(np.float64), *weights)
    np.testing.assert_allclose(np.asarray(model(x, training=False)), expected, rtol=0, atol=2e-5)


MORE = {  # layers whose forward is not written in NumPy above: (layer, x, how Keras is asked)
    "EinsumDense": (
        layers.einsum_dense.layer("...td,dhk->...thk", {"h": 2, "k": 3}, bias_axes="hk"), (2, 5, 4),
        lambda k: k.layers.EinsumDense("btd,dhk->bthk", output_shape=(5, 2, 3), bias_axes="hk"),
    ),
    "UpSampling2D": (layers.upsample.layer((2, 3)), IMAGES, lambda k: k.layers.UpSampling2D((2, 3))),
    "UpSampling2D, bilinear": (
        layers.upsample.layer((2, 3), method="linear"), IMAGES,
        lambda k: k.layers.UpSampling2D((2, 3), interpolation="bilinear"),
    ),
    "GRU, reset before": (
        gru.layer(3, reset="before"), STEPS,
        lambda k: k.layers.GRU(3, return_sequences=True, reset_after=False),
    ),
    "LSTM, backwards": (
        lstm.layer(3, reverse=True, output="last"), STEPS, lambda k: k.layers.LSTM(3, go_backwards=True),
    ),
    "Bidirectional": (
        layers.both_directions(lstm.layer(3)), STEPS,
        lambda k: k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True)),
    ),
    "LayerNormalization": (
        layers.layer_norm.layer(eps=1e-3), STEPS, lambda k: k.layers.LayerNormalization(epsilon=1e-3),
    ),
    "GroupNormalization": (
        layers.group_norm.layer(2, eps=1e-3), IMAGES, lambda k: k.layers.GroupNormalization(2, epsilon=1e-3),
    ),
    "RMSNormalization": (layers.rms_norm.layer(), STEPS, lambda k: k.layers.RMSNormalization(epsilon=1e-6)),
    "AveragePooling2D, same": (
        layers.avg_pool.layer(3, stride=2, padding="SAME", count_include_pad=False), IMAGES,
        lambda k: k.layers.AveragePooling2D(3, strides=2, padding="same"),
    ),
    "MaxPooling2D, same": (
        layers.max_pool.layer(3, stride=2, padding="SAME"), IMAGES,
        lambda k: k.layers.MaxPooling2D(3, strides=2, padding="same"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
@with_keras
def test_outputs_and_gradients_of_keras(key, name):
    """The same weights and cotangent; Keras's gradients, those of JAX through Keras, in this library's order."""
    import keras  # pyright: ignore[reportMissingImports]

    layer, shape, of_keras = MORE[name]
    model = keras.Sequential([keras.Input(shape[1:]), of_keras(keras)])
    weights = [(0.5 * RNG.normal(size=variable.shape)).astype(np.float32) for variable in model.trainable_variables]
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)

    def by_keras(weights, x):
        return model.stateless_call(weights, [v.value for v in model.non_trainable_variables], x)[0]

    expected, pull_back = jax.vjp(by_keras, weights, x)
    delta = jnp.asarray(RNG.normal(size=expected.shape), jnp.float32)
    of_weights, delta_x = pull_back(delta)
    network = jb.chain(layer)
    params = io.from_keras(jax.eval_shape(network.init, key, x), weights, network)
    out, residuals = network.forward(params, x)
    grads, found = network.backward(residuals, delta)
    pairs = [(out, expected), (found, delta_x), *zip(io.to_keras(grads, network), of_weights, strict=True)]
    for actual, wanted in pairs:
        assert np.shape(actual) == np.shape(wanted)
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-5 * max(np.abs(wanted).max(), 1))


LOGITS, SAME = (4, 3), lambda t: t
LABELS = np.array([2, 0, 1, 2], np.int32)


def one_hot(labels):
    return np.eye(3, dtype=np.float32)[labels]


def log_softmax(z):
    return jax.nn.log_softmax(jnp.asarray(z, jnp.float32))


DRAWN = np.random.default_rng(3).normal(size=LOGITS).astype(np.float32)
LOSSES = {  # (loss, targets here, targets of Keras, how Keras is asked, what of the logits Keras is given)
    "CategoricalCrossentropy, label smoothing": (
        losses.cross_entropy.loss(label_smoothing=0.1), LABELS, one_hot(LABELS),
        lambda k: k.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), SAME,
    ),
    "SparseCategoricalCrossentropy, ignored": (
        losses.cross_entropy.loss(reduction="sum", ignore_label=1), LABELS, LABELS,
        lambda k: k.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum", ignore_class=1), SAME,
    ),
    "CategoricalFocalCrossentropy": (
        losses.focal.loss(gamma=1.5), LABELS, one_hot(LABELS),
        lambda k: k.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=1.5, from_logits=True), SAME,
    ),
    "KLDivergence": (
        losses.kl_divergence.loss(), log_softmax(DRAWN), np.exp(log_softmax(DRAWN)),
        lambda k: k.losses.KLDivergence(), jax.nn.softmax,
    ),
    "Poisson": (
        losses.poisson_nll.loss(reduction="sum"), np.abs(DRAWN), np.abs(DRAWN),
        lambda k: lambda y, z: 3 * k.losses.Poisson(reduction="sum")(y, z), jnp.exp,
    ),
    "LogCosh": (
        losses.log_cosh.loss(reduction="sum"), DRAWN, DRAWN,
        lambda k: lambda y, z: 3 * k.losses.LogCosh(reduction="sum")(y, z), SAME,
    ),
    "Huber": (
        losses.huber.loss(threshold=0.7), DRAWN, DRAWN,
        lambda k: lambda y, z: 3 * k.losses.Huber(delta=0.7)(y, z), SAME,
    ),
    "BinaryCrossentropy": (
        losses.binary_cross_entropy, (DRAWN > 0).astype(np.float32), (DRAWN > 0).astype(np.float32),
        lambda k: lambda y, z: 3 * k.losses.BinaryCrossentropy(from_logits=True)(y, z), SAME,
    ),
    "Dice": (
        losses.dice.loss(axis=1, smooth=1e-7), (DRAWN > 0).astype(np.float32), (DRAWN > 0).astype(np.float32),
        lambda k: lambda y, z: k.ops.mean(k.losses.Dice(reduction=None, axis=1)(y, z)), jax.nn.sigmoid,
    ),
    "MeanSquaredError": (
        losses.mean_squared_error, DRAWN, DRAWN, lambda k: k.losses.MeanSquaredError(), SAME,
    ),
}  # fmt: skip
"""Keras takes the mean over the 3 outputs of a row where this library takes their sum, hence the 3."""


@pytest.mark.parametrize("name", LOSSES)
@with_keras
def test_losses_of_keras(name):
    import keras  # pyright: ignore[reportMissingImports]

    loss, targets, of_keras, ask, given = LOSSES[name]
    logits = jnp.asarray(RNG.normal(size=LOGITS), jnp.float32)
    expected, gradient = jax.value_and_grad(lambda z: ask(keras)(of_keras, given(z)))(logits)
    actual, residuals = loss.forward(logits, jnp.asarray(targets))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_allclose(loss.backward(residuals), gradient, rtol=0, atol=1e-5)


@with_keras
def test_ctc_of_keras():
    """Keras counts the blank as class 0 by default here too, and takes the mean over sequences."""
    import keras  # pyright: ignore[reportMissingImports]

    logits = jnp.asarray(RNG.normal(size=(2, 6, 4)), jnp.float32)
    labels, steps = np.array([[1, 2, 2], [3, 1, -1]], np.int32), np.array([6, 5], np.int32)

    def by_keras(z):
        lengths = np.array([3, 2], np.int32)
        return keras.ops.ctc_loss(np.maximum(labels, 0), z, lengths, steps, mask_index=0).mean()

    expected, gradient = jax.value_and_grad(by_keras)(logits)
    loss, residuals = losses.ctc.forward(logits, (jnp.asarray(labels), jnp.asarray(steps)))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(losses.ctc.backward(residuals), gradient, rtol=0, atol=1e-5)


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
