"""Rules as people write them, most with a mistake: what `docs/reports.md` shows the reports of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Shown(NamedTuple):
    """A forward, a rule for it, and arguments; `says` tells the reader what there is to see."""

    title: str
    says: str
    forward: Callable[..., Any]
    rule: Callable[..., Any]
    args: tuple[Any, ...]


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def attention(q, k, v):
    s = q @ k.T * 0.5
    p = jax.nn.softmax(s)
    return p @ v


def attention_backward(args, g):
    q, k, v = args
    p = jax.nn.softmax(q @ k.T * 0.5)
    dv = p.T @ g
    dp = g @ v.T
    ds = p * dp
    return ds @ k, ds.T @ q * 0.5, dv


def dense(x, weight, bias):
    return jnp.tanh(x @ weight + bias)


def dense_backward(args, g):
    x, weight, bias = args
    a = dense(x, weight, bias)
    dz = g * (1 - a**2)
    return dz @ weight.T, x.T @ dz, dz.mean(axis=0)


def layer_norm(x, gamma, beta):
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centered / deviation * gamma + beta


def layer_norm_backward(args, g):
    x, gamma, beta = args
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
    xhat = centered / deviation
    dxhat = g * gamma
    dx = (dxhat - dxhat.mean(axis=-1, keepdims=True)) / deviation
    return dx, (g * xhat).sum(axis=0), g.sum(axis=0)


def embedding(table, tokens):
    return table[tokens]


def embedding_backward(args, g):
    table, tokens = args
    return jnp.zeros_like(table).at[tokens].set(g), None


def cross_entropy(logits, labels):
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(labels.size), labels])


def cross_entropy_backward(args, g):
    logits, labels = args
    return g * (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)), None


def rnn_step(h, x, w_h, w_x, bias):
    return jnp.tanh(h @ w_h + x @ w_x + bias)


def rnn_step_backward(args, g):
    h, x, w_h, w_x, bias = args
    new = rnn_step(h, x, w_h, w_x, bias)
    dz = g * (1 - new**2)
    return dz @ w_h, dz @ w_x.T, h.T @ dz, x.T @ dz, dz.sum(axis=0)


def spectral_filter(x, w):
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), x.shape[-1])


def spectral_filter_backward(args, g):
    x, w = args
    n = x.shape[-1]
    through = lambda other: jnp.fft.irfft(jnp.fft.rfft(g) * jnp.fft.rfft(other), n)
    return through(w), through(x).sum(axis=0)


def relu(x):
    return jnp.maximum(x, 0)


def relu_backward(args, g):
    return (g * (args[0] >= 0),)


def root(a):
    """Newton's iteration for the square root."""
    y = jnp.ones_like(a)
    for _ in range(12):
        y = (y + a / y) / 2
    return y


def root_backward(args, g):
    return (g / root(args[0]),)


def softmax_backward(args, g):
    p = jax.nn.softmax(args[0])
    return (p * (g - (p * g).sum(axis=-1, keepdims=True)),)


NORM = normal(1, 3, 5), 1 + 0.3 * normal(2, 5), normal(3, 5)
SHOWN = (
    Shown(
        "Two mistakes in one rule",
        "Each has its line, what must stand there, and a line to paste. What follows from the first is not a third.",
        attention, attention_backward, (normal(1, 4, 3), normal(2, 5, 3), normal(3, 5, 2)),
    ),
    Shown("A mean in place of a sum", "", dense, dense_backward, (normal(1, 6, 3), normal(2, 3, 4), normal(3, 4))),
    Shown("A term left out", "The mean of dxhat · xhat is missing.", layer_norm, layer_norm_backward, NORM),
    Shown(
        "Right until an index is repeated",
        "",
        embedding, embedding_backward, (normal(1, 6, 3), jnp.array([4, 1, 3], jnp.int32)),
    ),
    Shown(
        "A factor that depends on a size",
        "",
        cross_entropy, cross_entropy_backward, (normal(1, 4, 3), jnp.array([2, 0, 1, 1], jnp.int32)),
    ),
    Shown(
        "A transpose left out of a square matrix",
        "No shape gives it away.",
        rnn_step, rnn_step_backward, (normal(1, 2, 4), normal(2, 2, 3), normal(3, 4, 4), normal(4, 3, 4), normal(5, 4)),
    ),
    Shown("A conjugate left out", "", spectral_filter, spectral_filter_backward, (normal(1, 2, 8), normal(2, 8))),
    Shown(
        "A loop, proved different",
        "The forward's rounding would hide much; in ball arithmetic it hides nothing.",
        root, root_backward, (1 + jnp.abs(normal(1, 3)),),
    ),
    Shown("A convention", "At 0 any slope between 0 and 1 is right.", relu, relu_backward, (normal(1, 2, 4),)),
    Shown("A right rule", "", jax.nn.softmax, softmax_backward, (normal(1, 3, 4),)),
)  # fmt: skip
