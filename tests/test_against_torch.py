"""The same numbers from PyTorch in float64: outputs and every gradient, to 1e-10.

PyTorch is no dependency, not even of the tests: where it is missing these tests are skipped, and where
JAXBIAS_REQUIRE_TORCH is set (in CI, which installs it) a missing PyTorch is a failure. Each case computes the layer
with PyTorch from params in this library's layout, so that PyTorch's gradients come back in that layout too.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import layers, losses
from jaxbias.derivation import random_like
from jaxbias.params import init_state, out_shape, run_forward

if os.environ.get("JAXBIAS_REQUIRE_TORCH"):
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; CI installs its CPU build")
F = torch.nn.functional

TOLERANCE = 1e-10


def to_torch(tree):
    """Float leaves as float64 tensors that require a gradient."""

    def convert(leaf):
        tensor = torch.from_numpy(np.array(leaf))
        return tensor.requires_grad_(tensor.is_floating_point())

    return jax.tree.map(convert, tree)


def assert_close(actual, expected, what):
    expected = expected.detach().numpy()
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, what
    assert np.all(np.abs(actual - expected) <= TOLERANCE * max(np.max(np.abs(expected), initial=0.0), 1.0)), what


def assert_same_as_torch(key, layer, x, torch_forward):
    """Forward, gradient of every params leaf and of x."""
    params_key, delta_key, state_key = jax.random.split(key, 3)
    params = random_like(params_key, layer.init(key, x))
    state = init_state(layer, state_key, x)
    out, residuals = run_forward(layer, params, x, state)
    delta = random_like(delta_key, out_shape(layer, params, x, state))
    grads, delta_x = layer.backward(residuals, delta)

    torch_params, torch_x = to_torch(params), to_torch(x)
    torch_out = torch_forward(torch_params, torch_x)
    torch_out.backward(torch.from_numpy(np.array(delta)))
    assert_close(out, torch_out, "out")
    pairs = zip(jax.tree.leaves_with_path((grads, delta_x)), jax.tree.leaves((torch_params, torch_x)), strict=True)
    for (path, actual), tensor in pairs:
        assert_close(actual, tensor.grad, jax.tree_util.keystr(path))


def channels_first(x):
    return x.movedim(-1, 1)


def channels_last(x):
    return x.movedim(1, -1)


def torch_dense(p, x):
    return F.linear(x, p.weight.T, p.bias)


def torch_conv(**configuration):
    def forward(p, x):
        kernel = p.weight.movedim((-1, -2), (0, 1))  # (*spatial, in, out) to (out, in, *spatial)
        function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
        return channels_last(function(channels_first(x), kernel, p.bias, **configuration))

    return forward


conv, max_pool, avg_pool = layers.conv, layers.max_pool, layers.avg_pool
LAYERS = {
    "dense": (layers.dense.layer(4), (5, 3), torch_dense),
    "dense without bias": (layers.dense.layer(4, use_bias=False), (2, 5, 3), torch_dense),
    "conv 1-D": (conv.layer(4, 3, padding=1), (2, 7, 3), torch_conv(padding=1)),
    "conv 2-D strided": (
        conv.layer(4, (3, 2), stride=2, padding=((1, 1), (1, 1))),
        (2, 7, 6, 3),
        torch_conv(stride=2, padding=1),
    ),
    "conv 2-D dilated": (conv.layer(4, 3, kernel_dilation=2), (2, 7, 8, 3), torch_conv(dilation=2)),
    "conv 2-D groups": (conv.layer(6, 3, groups=2), (2, 5, 6, 4), torch_conv(groups=2)),
    "conv 2-D depthwise": (conv.layer(6, 3, groups=3, use_bias=False), (2, 5, 6, 3), torch_conv(groups=3)),
    "conv 3-D": (conv.layer(2, 2, stride=2), (2, 4, 5, 4, 3), torch_conv(stride=2)),
    "relu": (layers.relu, (5, 3), lambda p, x: F.relu(x)),
    "elu": (layers.elu, (5, 3), lambda p, x: F.elu(x)),
    "softplus": (layers.softplus, (5, 3), lambda p, x: F.softplus(x)),
    "silu": (layers.silu, (5, 3), lambda p, x: F.silu(x)),
    "gelu": (layers.gelu, (5, 3), lambda p, x: F.gelu(x)),
    "softmax": (layers.softmax, (5, 3), lambda p, x: F.softmax(x, -1)),
    "log_softmax": (layers.log_softmax, (5, 3), lambda p, x: F.log_softmax(x, -1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(key, name):
    layer, shape, torch_forward = LAYERS[name]
    assert_same_as_torch(key, layer, jax.random.normal(key, shape, jnp.float64), torch_forward)


LABELS = np.array([0, 2, 1, 1, 2])
DENSE = np.array([[0.2, 0.5, 0.3], [1, 0, 0], [0, 0.9, 0.1], [0.3, 0.3, 0.4], [0, 0, 1]])
LOSSES = {
    "mean_squared_error": (losses.mean_squared_error, DENSE, F.mse_loss),
    "mean_squared_error sum": (
        losses.mean_squared_error.loss(reduction="sum"),
        DENSE,
        lambda out, y: F.mse_loss(out, y, reduction="sum") / 3,
    ),
    "cross_entropy": (losses.cross_entropy, LABELS, F.cross_entropy),
    "cross_entropy dense": (losses.cross_entropy, DENSE, F.cross_entropy),
    "cross_entropy smoothed, ignored": (
        losses.cross_entropy.loss(label_smoothing=0.1, ignore_label=1, reduction="sum"),
        LABELS,
        lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1, ignore_index=1, reduction="sum"),
    ),
    "binary_cross_entropy": (
        losses.binary_cross_entropy,
        DENSE,
        lambda out, y: F.binary_cross_entropy_with_logits(out, y, reduction="sum") / len(y),
    ),
    "huber": (
        losses.huber.loss(threshold=0.5),
        DENSE,
        lambda out, y: F.huber_loss(out, y, delta=0.5, reduction="sum") / len(y),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss(key, name):
    loss, targets, torch_loss = LOSSES[name]
    out = jax.random.normal(key, (5, 3), jnp.float64)
    value, residuals = loss.forward(out, jnp.asarray(targets))
    torch_out = to_torch(out)
    expected = torch_loss(torch_out, torch.from_numpy(targets))
    expected.backward()
    assert_close(value, expected, "loss")
    assert_close(loss.backward(residuals), torch_out.grad, "delta")
