"""Forwards as people write them, each with arguments: what `derive` is measured by."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Forward(NamedTuple):
    """A function and a draw of its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


FORWARDS: dict[str, Forward] = {}
_rng = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(_rng.standard_normal(shape), jnp.float32)


def positive(*shape: int) -> jax.Array:
    return jnp.asarray(_rng.uniform(0.5, 2.0, shape), jnp.float32)


def labels(n: int, k: int) -> jax.Array:
    return jnp.asarray(_rng.integers(0, k, n), jnp.int32)


def of(*args: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function with these arguments."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        FORWARDS[function.__name__] = Forward(function, args)
        return function

    return enter


# --- layers -----------------------------------------------------------------------------------------------------------


@of(normal(6, 5), normal(5), normal(4, 6))
def dense_tanh(W, b, x):
    z = x @ W + b
    a = jnp.tanh(z)
    return a


@of(normal(6, 5), normal(5), normal(4, 6))
def dense_relu(W, b, x):
    return jax.nn.relu(x @ W + b)


@of({"w1": normal(6, 5), "b1": normal(5), "w2": normal(5, 3), "b2": normal(3)}, normal(4, 6))
def mlp(params, x):
    h = jax.nn.gelu(x @ params["w1"] + params["b1"])
    return h @ params["w2"] + params["b2"]


@of([(normal(5, 5), normal(5)), (normal(5, 5), normal(5)), (normal(5, 2), normal(2))], normal(4, 5))
def mlp_in_a_loop(params, x):
    for W, b in params[:-1]:
        x = jnp.tanh(x @ W + b)
    W, b = params[-1]
    return x @ W + b


@of(normal(6), normal(6), normal(4, 6))
def layer_norm(gamma, beta, x):
    mu = x.mean(axis=-1, keepdims=True)
    xc = x - mu
    var = (xc * xc).mean(axis=-1, keepdims=True)
    r = lax.rsqrt(var + 1e-5)
    xhat = xc * r
    return gamma * xhat + beta


@of(normal(4, 6), normal(6), normal(6))
def layer_norm_in_one_line(x, scale, bias):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * scale + bias


@of(normal(4, 6), normal(6))
def rms_norm(x, scale):
    ms = jnp.mean(x**2, axis=-1, keepdims=True)
    return x * lax.rsqrt(ms + 1e-6) * scale


@of(normal(6, 3, 4), normal(4), normal(4))
def batch_norm(x, gamma, beta):
    mu = x.mean(axis=(0, 1))
    var = ((x - mu) ** 2).mean(axis=(0, 1))
    xhat = (x - mu) / jnp.sqrt(var + 1e-5)
    return gamma * xhat + beta


@of(normal(2, 5, 6), normal(6), normal(6))
def group_norm(x, gamma, beta):
    groups = x.reshape(2, 5, 3, 2)
    mu = groups.mean(axis=(1, 3), keepdims=True)
    var = groups.var(axis=(1, 3), keepdims=True)
    xhat = ((groups - mu) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
    return xhat * gamma + beta


@of(normal(6, 5), normal(5), normal(4, 6))
def weight_norm(v, g, x):
    norm = jnp.sqrt((v * v).sum(axis=0))
    w = g * v / norm
    return x @ w


@of(normal(6, 5), normal(6, 2), normal(2, 5), normal(4, 6))
def lora(W, A, B, x):
    return x @ W + 0.5 * (x @ A) @ B


@of(normal(6, 8), normal(6, 8), normal(8, 6), normal(4, 6))
def swiglu(Wg, Wu, Wd, x):
    gate = jax.nn.silu(x @ Wg)
    up = x @ Wu
    return (gate * up) @ Wd


@of(normal(5, 3), labels(4, 5))
def embedding(table, ids):
    return table[ids]


@of(normal(5, 3), labels(4, 5), normal(4, 3))
def tied_head(table, ids, positions):
    h = jnp.tanh(table[ids] + positions)
    return h @ table.T


@of(normal(2, 3, 4, 8), normal(2, 3, 5, 8), normal(2, 3, 5, 7))
def attention(q, k, v):
    s = jnp.einsum("bhid,bhjd->bhij", q, k) / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(s, axis=-1)
    return jnp.einsum("bhij,bhjd->bhid", p, v)


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


@of(normal(3, 4), normal(4, 16), normal(4, 16), normal(16), normal(3, 4))
def lstm_cell(x, W, U, b, c):
    z = x @ W + c @ U + b
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c_new)
    return h, c_new


@of(normal(3, 4), normal(3, 5), normal(4, 5), normal(5, 5), normal(4, 5), normal(5, 5), normal(4, 5), normal(5, 5))
def gru_cell(x, h, Wr, Ur, Wz, Uz, Wn, Un):
    r = jax.nn.sigmoid(x @ Wr + h @ Ur)
    z = jax.nn.sigmoid(x @ Wz + h @ Uz)
    n = jnp.tanh(x @ Wn + r * (h @ Un))
    return (1 - z) * n + z * h


@of(normal(3, 6), normal(6, 4), normal(4), normal(4, 4, 6, 5))
def mixture_of_experts(x, router, bias, experts):
    p = jax.nn.softmax(x @ router + bias)
    outs = jnp.einsum("ni,eio->neo", x, experts[0])
    return jnp.einsum("ne,neo->no", p, outs)


@of(normal(4, 3), normal(4, 2), normal(5, 3, 2), normal(5))
def bilinear(x, y, W, b):
    return jnp.einsum("ni,oij,nj->no", x, W, y) + b


@of(normal(4, 6))
def dropout(x):
    keep = jax.random.bernoulli(jax.random.key(0), 0.8, x.shape)
    return jnp.where(keep, x / 0.8, 0)


@of(normal(2, 6, 6, 3))
def average_pool(x):
    return x.reshape(2, 3, 2, 3, 2, 3).mean(axis=(2, 4))


@of(normal(2, 6, 6, 3))
def max_pool(x):
    return x.reshape(2, 3, 2, 3, 2, 3).max(axis=(2, 4))


@of(normal(2, 7, 7, 3), normal(3, 3, 3, 4), normal(4))
def conv(x, kernel, bias):
    z = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(z + bias)


@of(normal(2, 5, 4), normal(4), normal(4))
def residual_block(x, w, b):
    h = x + jnp.tanh(x * w + b)
    return h / (1 + jnp.abs(h))


@of(normal(3, 4), normal(4))
def prelu(x, alpha):
    return jnp.where(x > 0, x, alpha * x)


@of(normal(4, 6))
def softplus_and_elu(x):
    return jax.nn.softplus(x) + jax.nn.elu(x)


@of(normal(4, 6))
def mish(x):
    return x * jnp.tanh(jax.nn.softplus(x))


@of(normal(4, 6))
def clipped(x):
    return jnp.clip(x, -0.5, 0.5) ** 2


# --- losses -----------------------------------------------------------------------------------------------------------


@of(normal(4, 5), jax.nn.softmax(normal(4, 5)))
def softmax_cross_entropy(logits, targets):
    m = lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    e = jnp.exp(logits - m)
    s = e.sum(axis=-1, keepdims=True)
    logp = logits - m - jnp.log(s)
    return -(targets * logp).sum(axis=-1).mean()


@of(normal(4, 5), labels(4, 5))
def cross_entropy_of_labels(logits, y):
    logp = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logp, y[:, None], axis=1).mean()


@of(normal(4, 5), labels(4, 5))
def cross_entropy_of_one_hot(logits, y):
    return -(jax.nn.one_hot(y, 5) * jax.nn.log_softmax(logits)).sum(axis=-1).mean()


@of(normal(4, 3), normal(4, 3))
def mean_squared_error(prediction, target):
    return ((prediction - target) ** 2).mean()


@of(normal(4, 3), normal(4, 3))
def huber(prediction, target):
    d = prediction - target
    a = jnp.abs(d)
    return jnp.where(a < 1, 0.5 * d**2, a - 0.5).mean()


@of(normal(6), positive(6))
def binary_cross_entropy(logit, y):
    return (jnp.logaddexp(0, logit) - y * logit).mean()


@of(normal(6, 2), labels(6, 2))
def hinge(scores, y):
    sign = 2.0 * y[:, None] - 1
    return jnp.maximum(0, 1 - sign * scores).mean()


@of(normal(4, 6), normal(4, 6))
def cosine_similarity(a, b):
    dot = (a * b).sum(axis=-1)
    return dot / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))


@of(normal(5), normal(5), normal(5))
def gaussian_likelihood(mu, log_var, y):
    return 0.5 * (log_var + (y - mu) ** 2 / jnp.exp(log_var) + jnp.log(2 * jnp.pi)).sum()


@of(normal(4, 3), normal(4, 3))
def kl_of_gaussians(mu, log_std):
    return 0.5 * (mu**2 + jnp.exp(2 * log_std) - 2 * log_std - 1).sum(axis=-1).mean()


@of(normal(4, 6), normal(6, 2), normal(2, 6), normal(4, 1))
def elbo(x, We, Wd, noise):
    mu, log_std = jnp.split(x @ We, 2, axis=-1)
    z = mu + jnp.exp(log_std) * noise
    fit = ((z @ Wd[:1] - x) ** 2).sum(axis=-1)
    return (fit + 0.5 * (mu**2 + jnp.exp(2 * log_std) - 2 * log_std).sum(axis=-1)).mean()


@of(normal(4, 6), normal(4, 6), normal())
def info_nce(a, b, log_scale):
    logits = jnp.exp(log_scale) * a @ b.T
    return -jnp.diag(jax.nn.log_softmax(logits, axis=1)).mean()


@of(normal(5, 3), labels(5, 3))
def focal(logits, y):
    logp = jax.nn.log_softmax(logits)
    p = jnp.exp(logp)
    return -(jax.nn.one_hot(y, 3) * (1 - p) ** 2 * logp).sum(axis=-1).mean()


@of(normal(6), normal(6))
def pinball(q, y):
    d = y - q
    return jnp.maximum(0.9 * d, -0.1 * d).mean()


@of(normal(4, 5))
def logsumexp(x):
    return jax.nn.logsumexp(x, axis=-1)


@of(normal(5), normal(5))
def log_cosh(x, y):
    return jnp.log(jnp.cosh(x - y)).sum()


# --- numerics ---------------------------------------------------------------------------------------------------------


@of(normal(3, 3), normal(3))
def quadratic_form(A, x):
    return x @ A @ x


@of(normal(4, 4), normal(4))
def linear_solve(A, b):
    return jnp.linalg.solve(A + 4 * jnp.eye(4), b)


@of(normal(6), normal(2))
def physics_residual(t, w):
    u = jnp.sin(w[0] * t) * jnp.exp(-w[1] * t)
    du = (u[2:] - u[:-2]) / 0.2
    return ((du + w[1] * u[1:-1]) ** 2).sum()


@of(normal(3), normal(3, 3), normal(2, 3), normal(2))
def kalman_gain_step(m, L, H, y):
    P = L @ L.T
    S = H @ P @ H.T + jnp.eye(2)
    residual = y - H @ m
    return m + P @ H.T @ residual / jnp.trace(S)


@of(positive(4, 5))
def sinkhorn(cost):
    K = jnp.exp(-cost)
    u = jnp.ones(4)
    for _ in range(3):
        v = 1 / (K.T @ u)
        u = 1 / (K @ v)
    return (u[:, None] * K * v * cost).sum()


@of(normal(4, 3), normal(4, 3))
def pairwise_distances(x, y):
    d2 = ((x[:, None] - y[None]) ** 2).sum(axis=-1)
    return jnp.exp(-d2 / 2)


@of(normal(5, 3))
def covariance(x):
    xc = x - x.mean(axis=0)
    return xc.T @ xc / (x.shape[0] - 1)


@of(normal(6))
def cumulative(x):
    return jnp.cumsum(x) ** 2


@of(normal(6))
def trimmed_mean(x):
    return jnp.sort(x)[1:-1].mean()


@of(normal(4, 5))
def normalised(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@of(normal(4), normal(4))
def geometric(x, y):
    return jnp.sqrt(jnp.exp(x) * (1 + y**2)) / (1 + jnp.exp(-x))


@of(normal(7))
def moving_average(x):
    padded = jnp.pad(x, 1)
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


@of(normal(3, 4), normal(4), normal(5, 3, 4))
def vmapped(W, b, xs):
    def unit(x):
        return jnp.tanh((W * x).sum(axis=-1) + (b * x).sum())

    return jax.vmap(unit)(xs)


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


@of(normal(3, 4), normal(4))
def polynomial(x, c):
    return c[0] + c[1] * x + c[2] * x**2 + c[3] * x**3


@of(normal(4, 4))
def log_determinant(A):
    return jnp.linalg.slogdet(A @ A.T + jnp.eye(4))[1]


@of(normal(6))
def spectrum(x):
    return jnp.abs(jnp.fft.rfft(x)) ** 2


# --- loops, choices, picks ------------------------------------------------------------------------------------------


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


@of(normal(2, 7, 4), normal(3, 2, 6))
def grouped_conv_with_holes(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (2,), [(2, 1)], rhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
    )


@of(normal(2, 3, 5), normal(4, 3, 3))
def transposed_conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1,), [(2, 2)], lhs_dilation=(2,), dimension_numbers=("NCW", "OIW", "NCW")
    )


@of(normal(4, 4), normal(4, 2), normal(4))
def triangular_and_solve(A, B, b):
    one = jnp.eye(4, dtype=A.dtype)
    L = jnp.linalg.cholesky(A @ A.T + 4 * one)
    y = lax.linalg.triangular_solve(L, B.T, lower=True, transpose_a=True)
    return y @ jnp.linalg.solve(A + 5 * one, B) + jnp.linalg.inv(L)[0, 0] * b.sum()


@of(normal(5, 3), labels(4, 5), normal(4, 3))
def scattered(table, ids, rows):
    return jnp.tanh(table.at[ids].add(rows**2))


@of(normal(4, 6))
def products_and_order(x):
    order = jnp.argsort(x, axis=1)
    return jnp.take_along_axis(x, order, axis=1) * x.prod(axis=1, keepdims=True)


@of(normal(6, 3), jnp.asarray(2, jnp.int32))
def sliced_at_an_index(x, k):
    window = lax.dynamic_slice_in_dim(x, k, 2)
    return lax.dynamic_update_slice_in_dim(x**2, window**3, k - 1, 0)
