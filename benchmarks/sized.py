"""Layers and losses at the sizes of real networks, and other forwards of the same values to hold them against."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbias import layers, losses


class Sized(NamedTuple):
    """A layer or loss at the size of a real network.

    Attributes:
        layer: configured for the benchmark.
        x: shape of the input, or `(key, dtype) -> x`.
        quick: a smaller shape for the quick run; None where `x` is quick enough.
        peers: name → plain forward `(params, x) -> out`, of the same values.
        targets: for a loss: `(key, out) -> targets`.
        flops: of forward and backward, where a loop hides them from the compiler's count.
        scale: standard deviation of the params; 1 would drive a long loop, or a softmax, to its limits.
    """

    layer: Any
    x: tuple[int, ...] | Callable[..., Any]
    quick: tuple[int, ...] | Callable[..., Any] | None = None
    peers: Mapping[str, Callable[..., Any]] = {}
    targets: Callable[..., Any] | None = None
    flops: float | None = None
    scale: float = 1.0


def _batch_norm(params, x):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=axes, keepdims=True)
    x_hat = (x - mean) / jnp.sqrt(variance + 1e-5)
    return x_hat * params.weight.reshape(mean.shape) + params.bias.reshape(mean.shape)


def _standardize(params, x):
    x_hat = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    return x_hat * params.weight[None, :] + params.bias[None, :]


def reduce_window_max(window, stride, padding="VALID"):
    def pool(params, x):
        del params
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), padding)

    return pool


def reshape_max(params, x):
    del params
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def _reduce_window_mean(params, x):
    del params
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def _activation(function):
    return {"jax.nn": lambda params, x: function(x)}


def _labels(key, out):
    return jax.random.randint(key, out.shape[:-1], 0, out.shape[-1])


def _like(key, out):
    return jax.random.normal(key, out.shape, out.dtype)


def _ids(key, dtype):
    del dtype
    return jax.random.randint(key, (64, 128), 0, 10_000)


def _pair(key, dtype):
    return tuple(jax.random.normal(k, (256, 64), dtype) for k in jax.random.split(key))


def _zero_one(key, out):
    return jax.random.bernoulli(key, 0.5, out.shape).astype(out.dtype)


def _log_softmax_cross_entropy(out, targets):
    p = jnp.exp(out) / jnp.exp(out).sum(axis=-1, keepdims=True)
    return -jnp.take_along_axis(jnp.log(p), targets[:, None], axis=-1).mean()


WIDE = (256, 1024)
SIZED = {
    "dense": lambda: Sized(layers.dense.layer(1024), WIDE),
    "conv": lambda: Sized(layers.conv.layer(32, 3, padding="SAME"), (32, 32, 32, 16), (64, 8, 8, 16)),
    "max_pool": lambda: Sized(
        layers.max_pool.layer(2),
        (32, 32, 32, 64),
        None,
        {"lax.reduce_window": reduce_window_max(2, 2), "reshape and max": reshape_max},
    ),
    "max_pool, overlapping 3×3 stride 2": lambda: Sized(
        layers.max_pool.layer(3, stride=2), (32, 32, 32, 64), None, {"lax.reduce_window": reduce_window_max(3, 2)}
    ),
    "avg_pool": lambda: Sized(
        layers.avg_pool.layer(2), (32, 32, 32, 64), None, {"lax.reduce_window": _reduce_window_mean}
    ),
    "global_avg_pool": lambda: Sized(layers.global_avg_pool.layer(), (32, 32, 32, 64)),
    "batch_norm": lambda: Sized(layers.batch_norm.layer(), (32, 28, 28, 64), None, {"textbook": _batch_norm}),
    "layer_norm": lambda: Sized(
        layers.layer_norm.layer(), (2048, 1024), (512, 1024), {"jax.nn.standardize": _standardize}
    ),
    "group_norm": lambda: Sized(layers.group_norm.layer(8), (32, 28, 28, 64)),
    "rms_norm": lambda: Sized(layers.rms_norm.layer(), (2048, 1024), (512, 1024)),
    "dropout": lambda: Sized(layers.dropout.layer(0.5), (1024, 1024)),
    "reshape": lambda: Sized(layers.reshape.layer(), (1024, 32, 32)),
    "relu": lambda: Sized(layers.relu, (1024, 1024), None, _activation(jax.nn.relu)),
    "tanh": lambda: Sized(layers.tanh, (1024, 1024), None, _activation(jnp.tanh)),
    "sigmoid": lambda: Sized(layers.sigmoid, (1024, 1024), None, _activation(jax.nn.sigmoid)),
    "silu": lambda: Sized(layers.silu, (1024, 1024), None, _activation(jax.nn.silu)),
    "gelu": lambda: Sized(layers.gelu, (1024, 1024), None, _activation(lambda x: jax.nn.gelu(x, approximate=False))),
    "elu": lambda: Sized(layers.elu, (1024, 1024), None, _activation(jax.nn.elu)),
    "leaky_relu": lambda: Sized(layers.leaky_relu, (1024, 1024), None, _activation(jax.nn.leaky_relu)),
    "softplus": lambda: Sized(layers.softplus, (1024, 1024), None, _activation(jax.nn.softplus)),
    "identity": lambda: Sized(layers.identity, (1024, 1024)),
    "softmax": lambda: Sized(layers.softmax, (1024, 1024), None, _activation(jax.nn.softmax)),
    "log_softmax": lambda: Sized(layers.log_softmax, (1024, 1024), None, _activation(jax.nn.log_softmax)),
    "rnn": lambda: Sized(layers.rnn.layer(128), (32, 64, 128), flops=3 * 2 * 2 * 32 * 64 * 128 * 128),
    "embedding": lambda: Sized(layers.embedding.layer(10_000, 128), _ids),
    "bilinear": lambda: Sized(layers.bilinear.layer(64), _pair),
    "bias_neuron": lambda: Sized(layers.bias_neuron.layer(1024), WIDE),
    "conv_transpose": lambda: Sized(layers.conv_transpose.layer(16, 2, stride=2), (16, 16, 16, 32)),
    "cross_entropy": lambda: Sized(
        losses.cross_entropy,
        (4096, 1000),
        (1024, 1000),
        {
            "optax": lambda out, y: optax.softmax_cross_entropy_with_integer_labels(out, y).mean(),
            "log(softmax)": _log_softmax_cross_entropy,
        },
        _labels,
    ),
    "binary_cross_entropy": lambda: Sized(
        losses.binary_cross_entropy,
        (4096, 256),
        None,
        {"optax": lambda out, y: optax.sigmoid_binary_cross_entropy(out, y).sum(axis=-1).mean()},
        _zero_one,
    ),
    "mean_squared_error": lambda: Sized(
        losses.mean_squared_error,
        (4096, 256),
        None,
        {"optax": lambda out, y: optax.squared_error(out, y).mean()},
        _like,
    ),
    "half_squared_error": lambda: Sized(losses.half_squared_error, (4096, 256), None, {}, _like),
    "huber": lambda: Sized(
        losses.huber, (4096, 256), None, {"optax": lambda out, y: optax.huber_loss(out, y).sum(axis=-1).mean()}, _like
    ),
    "hinge": lambda: Sized(losses.hinge, (4096, 256), None, {}, _labels),
}
"""Sizes of real networks, by derivation; one without an entry is timed at the size of its first example."""
