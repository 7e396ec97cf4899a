"""Attention, recurrences, loops and choices."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.derive.bank.forward import Forward, entering, normal

FORWARDS: dict[str, Forward] = {}
of = entering(FORWARDS)


@of(normal(5, 4), normal(4, 4), normal(4, 4), normal(4, 4))
def causal_self_attention(x, Wq, Wk, Wv):
    q, k, v = x @ Wq, x @ Wk, x @ Wv
    scores = q @ k.T / jnp.sqrt(q.shape[-1])
    mask = jnp.tril(jnp.ones((5, 5), bool))
    p = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    return p @ v


@of(normal(2, 5, 6), normal(6, 18), normal(6, 6))
def multi_head_attention(x, Wqkv, Wo):
    n, t, _ = x.shape
    q, k, v = jnp.split(x @ Wqkv, 3, axis=-1)
    q, k, v = (part.reshape(n, t, 2, 3).transpose(0, 2, 1, 3) for part in (q, k, v))
    p = jax.nn.softmax(q @ k.swapaxes(-1, -2) * 3**-0.5, axis=-1)
    o = (p @ v).transpose(0, 2, 1, 3).reshape(n, t, 6)
    return o @ Wo


@of(normal(5, 6), normal(5, 6))
def rotary(x, other):
    half = x.shape[-1] // 2
    theta = jnp.arange(5)[:, None] * 10.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    a, b = x[:, :half], x[:, half:]
    turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return turned @ other.T


@of(normal(3, 4), normal(3, 5), normal(4, 5), normal(5, 5), normal(4, 5), normal(5, 5), normal(4, 5), normal(5, 5))
def gru_cell(x, h, Wr, Ur, Wz, Uz, Wn, Un):
    r = jax.nn.sigmoid(x @ Wr + h @ Ur)
    z = jax.nn.sigmoid(x @ Wz + h @ Uz)
    n = jnp.tanh(x @ Wn + r * (h @ Un))
    return (1 - z) * n + z * h


@of(normal(5, 3), normal(3, 3), normal(3))
def rnn_by_scan(xs, U, h0):
    def step(h, x):
        h = jnp.tanh(x + h @ U)
        return h, h

    _, hs = lax.scan(step, h0, xs)
    return hs


@of(normal(6, 2), normal(2))
def ssm_by_scan(x, a):
    def step(h, x_t):
        h = jax.nn.sigmoid(a) * h + x_t
        return h, h.sum()

    _, y = lax.scan(step, jnp.zeros(2), x)
    return y


@of(normal(4, 3), normal(3, 3), normal(3))
def nested_loops(xs, W, h0):
    def outer(h, x):
        def inner(g, _):
            return jnp.tanh(W @ g + x), None

        g, _ = lax.scan(inner, h, None, length=2)
        return g * h, g.sum()

    h, sums = lax.scan(outer, h0, xs)
    return h, sums


@of(normal(5, 3), normal(5), jnp.asarray(0.5, jnp.float32))
def discounted_from_the_end(features, rewards, discount):
    def step(carry, at):
        total, k = carry
        feature, reward = at
        total = reward * (1 + k) + discount * total + jnp.sin(feature).sum()
        return (total, k + 1), total

    (total, _), totals = lax.scan(step, (0.0, 0), (features, rewards), reverse=True)
    return totals * total


@of(normal(4), normal(4), jnp.asarray(2, jnp.int32))
def by_switch(x, w, k):
    y = lax.switch(k, (lambda x: x * w, lambda x: jnp.sin(x), lambda x: x**3), x)
    return y + w
