"""The forwards that docs/derivations.md shows, `python -m benchmarks derived` times, and tests/derive derives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Shapes = tuple[jax.ShapeDtypeStruct, ...]
SMALL = (4, 6, 5)
"""Rows, features and hidden units, where their number is of no interest."""


class Shown(NamedTuple):
    """A function, and its arguments from n rows, d features and h hidden units."""

    function: Callable[..., Any]
    shapes: Callable[[int, int, int], Shapes]


FORWARDS: dict[str, Shown] = {}


def _of(shapes: Callable[[int, int, int], Shapes]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        FORWARDS[function.__name__] = Shown(function, shapes)
        return function

    return enter


def _float(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _whole(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


@_of(lambda n, d, h: (_float(d, h), _float(h), _float(n, d)))
def dense_tanh(W, b, x):
    z = x @ W + b
    a = jnp.tanh(z)
    return a


@_of(lambda n, d, h: (_float(d), _float(d), _float(n, d)))
def layer_norm(gamma, beta, x):
    mu = x.mean(axis=-1, keepdims=True)
    xc = x - mu
    var = (xc * xc).mean(axis=-1, keepdims=True)
    r = lax.rsqrt(var + 1e-5)
    xhat = xc * r
    return gamma * xhat + beta


@_of(lambda n, d, h: (_float(n, d), _float(d)))
def rms_norm(x, scale):
    ms = jnp.mean(x**2, axis=-1, keepdims=True)
    return x * lax.rsqrt(ms + 1e-6) * scale


@_of(lambda n, d, h: (_float(n, d), _float(d), _float(d)))
def batch_norm(x, gamma, beta):
    mu = x.mean(axis=0)
    var = ((x - mu) ** 2).mean(axis=0)
    xhat = (x - mu) / jnp.sqrt(var + 1e-5)
    return gamma * xhat + beta


@_of(lambda n, d, h: (_float(d, h), _float(h), _float(n, d)))
def weight_norm(v, g, x):
    norm = jnp.sqrt((v * v).sum(axis=0))
    w = g * v / norm
    return x @ w


@_of(lambda n, d, h: (_float(n, h), _whole(n)))
def cross_entropy(logits, labels):
    logp = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logp, labels[:, None], axis=1).mean()


@_of(lambda n, d, h: (_float(n, h), _float(n, h)))
def soft_cross_entropy(logits, targets):
    logp = jax.nn.log_softmax(logits)
    return -(targets * logp).sum(axis=-1).mean()


@_of(lambda n, d, h: (_float(2, 2, n, d), _float(2, 2, h, d), _float(2, 2, h, d + 1)))
def attention(q, k, v):
    s = jnp.einsum("bhid,bhjd->bhij", q, k) / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(s, axis=-1)
    return jnp.einsum("bhij,bhjd->bhid", p, v)


@_of(lambda n, d, h: (_float(d, h), _float(d, h), _float(h, d), _float(n, d)))
def swiglu(Wg, Wu, Wd, x):
    gate = jax.nn.silu(x @ Wg)
    up = x @ Wu
    return (gate * up) @ Wd


@_of(lambda n, d, h: (_float(d, h), _float(h), _float(h, d), _float(d), _float(n, d)))
def gelu_mlp(W1, b1, W2, b2, x):
    h = jax.nn.gelu(x @ W1 + b1)
    return h @ W2 + b2


@_of(lambda n, d, h: (_float(n, d), _float(n, d)))
def contrastive(a, b):
    logits = a @ b.T
    return (jax.nn.logsumexp(logits, axis=1) - (a * b).sum(axis=-1)).mean()


@_of(lambda n, d, h: (_float(8, n, d), _float(d, h), _float(h, h), _float(h), _float(n, h)))
def rnn(xs, W, U, b, h0):
    def step(h, x):
        h = jnp.tanh(x @ W + h @ U + b)
        return h, h

    _, hs = lax.scan(step, h0, xs)
    return hs


@_of(lambda n, d, h: (_float(n, d), _float(d), _float(d)))
def diagonal_recurrence(x, a, h0):
    def step(h, x_t):
        h = jax.nn.sigmoid(a) * h + x_t
        return h, jnp.tanh(h)

    _, y = lax.scan(step, h0, x)
    return y


@_of(lambda n, d, h: (_float(n, d), _float(n, h), _float(n, h), _float(d, 4 * h), _float(h, 4 * h), _float(4 * h)))
def lstm_cell(x, h, c, W, U, b):
    z = x @ W + h @ U + b
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h_new = jax.nn.sigmoid(o) * jnp.tanh(c_new)
    return h_new, c_new


@_of(lambda n, d, h: (_float(h, d), _whole(n), _float(n, d)))
def embedding(table, ids, positions):
    h = jnp.tanh(table[ids] + positions)
    return h @ table.T


@_of(lambda n, d, h: (_float(n, d), _float(n, d), _float(n, d)))
def gaussian_likelihood(mu, log_var, y):
    return 0.5 * (log_var + (y - mu) ** 2 / jnp.exp(log_var)).sum()
