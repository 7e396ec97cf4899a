"""Right backward passes derived by hand, one per function: what the self-test plants mistakes in.

Each case has a forward, a rule `(args, ct) -> gradients`, and `draw(key) -> args`. The rules are written the way a
person writes them, not the way autodiff does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular


class Rule(NamedTuple):
    """A right rule to plant mistakes in.

    Attributes:
        draw: `key -> args`.
        bodies: functions whose source mistakes are planted in, each with `new function -> rule`; the rule itself where
            there are none.
    """

    name: str
    forward: Callable[..., Any]
    rule: Callable[..., Any]
    draw: Callable[[Any], tuple[Any, ...]]
    bodies: tuple[tuple[Callable[..., Any], Callable[[Any], Callable[..., Any]]], ...] = ()


RULES: dict[str, Rule] = {}


def _register(forward, rule, draw) -> None:
    RULES[forward.__name__] = Rule(forward.__name__, forward, rule, draw)


def _normal(key, *shapes):
    return [jax.random.normal(k, shape) for k, shape in zip(jax.random.split(key, len(shapes)), shapes)]


# --- layers -----------------------------------------------------------------------------------------------------------


def dense_tanh(x, weight, bias):
    return jnp.tanh(x @ weight + bias[None, :])


def dense_tanh_rule(args, ct):
    x, weight, bias = args
    a = jnp.tanh(x @ weight + bias[None, :])
    delta = ct * (1 - a**2)
    return delta @ weight.T, x.T @ delta, delta.sum(axis=0)


_register(dense_tanh, dense_tanh_rule, lambda key: tuple(_normal(key, (5, 3), (3, 4), (4,))))


def two_layers(x, w1, b1, w2, b2):
    h = jax.nn.relu(x @ w1 + b1[None, :])
    return h @ w2 + b2[None, :]


def two_layers_rule(args, ct):
    x, w1, b1, w2, b2 = args
    z = x @ w1 + b1[None, :]
    h = jnp.maximum(z, 0)
    delta = (ct @ w2.T) * (z > 0).astype(z.dtype)
    return delta @ w1.T, x.T @ delta, delta.sum(axis=0), h.T @ ct, ct.sum(axis=0)


_register(two_layers, two_layers_rule, lambda key: tuple(_normal(key, (6, 3), (3, 5), (5,), (5, 2), (2,))))


def attention(q, k, v, bias, mask):
    scores = q @ k.T / jnp.sqrt(q.shape[-1] * 1.0).astype(q.dtype) + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
    return weights @ v


def attention_rule(args, ct):
    q, k, v, bias, mask = args
    scale = 1 / jnp.sqrt(q.shape[-1] * 1.0).astype(q.dtype)
    scores = q @ k.T * scale + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
    delta_v = weights.T @ ct
    delta_weights = ct @ v.T
    inner = (delta_weights * weights).sum(axis=-1, keepdims=True)
    delta_scores = weights * (delta_weights - inner)
    delta_scores = jnp.where(mask, delta_scores, 0)
    return delta_scores @ k * scale, delta_scores.T @ q * scale, delta_v, delta_scores, None


def _attention_args(key):
    q, k, v, bias = _normal(key, (4, 3), (5, 3), (5, 2), (4, 5))
    mask = jnp.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 0, 1, 1, 1]], bool)
    return q, k, v, bias, mask


_register(attention, attention_rule, _attention_args)


def lstm_cell(x, h, c, w, u, b):
    gates = x @ w + h @ u + b[None, :]
    i, f, g, o = jnp.split(gates, 4, axis=1)
    c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c_new), c_new


def lstm_cell_rule(args, ct):
    x, h, c, w, u, b = args
    ct_h, ct_c = ct
    gates = x @ w + h @ u + b[None, :]
    i, f, g, o = jnp.split(gates, 4, axis=1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c_new = f * c + i * g
    t = jnp.tanh(c_new)
    delta_c = ct_c + ct_h * o * (1 - t * t)
    delta_o = ct_h * t * o * (1 - o)
    delta_i = delta_c * g * i * (1 - i)
    delta_f = delta_c * c * f * (1 - f)
    delta_g = delta_c * i * (1 - g * g)
    delta = jnp.concatenate([delta_i, delta_f, delta_g, delta_o], axis=1)
    return delta @ w.T, delta @ u.T, delta_c * f, x.T @ delta, h.T @ delta, delta.sum(axis=0)


_register(lstm_cell, lstm_cell_rule, lambda key: tuple(_normal(key, (3, 2), (3, 3), (3, 3), (2, 12), (3, 12), (12,))))


def rnn(xs, h0, w, u, b):
    def step(h, x):
        h = jnp.tanh(x @ w + h @ u + b)
        return h, h

    return lax.scan(step, h0, xs)[1]


def rnn_rule(args, ct):
    xs, h0, w, u, b = args
    hs = [h0]
    for x in xs:
        hs.append(jnp.tanh(x @ w + hs[-1] @ u + b))
    dw, du, db = jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    dxs, dh = [], jnp.zeros_like(h0)
    for t in range(xs.shape[0] - 1, -1, -1):
        delta = (ct[t] + dh) * (1 - hs[t + 1] ** 2)
        dw = dw + jnp.outer(xs[t], delta)
        du = du + jnp.outer(hs[t], delta)
        db = db + delta
        dxs.append(delta @ w.T)
        dh = delta @ u.T
    return jnp.stack(dxs[::-1]), dh, dw, du, db


_register(rnn, rnn_rule, lambda key: tuple(_normal(key, (4, 2), (3,), (2, 3), (3, 3), (3,))))


def batch_norm(x, gamma, beta):
    mean = x.mean(axis=0, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=0, keepdims=True)
    return gamma[None, :] * (x - mean) / jnp.sqrt(var + 1e-5) + beta[None, :]


def batch_norm_rule(args, ct):
    x, gamma, beta = args
    n = x.shape[0]
    mean = x.mean(axis=0, keepdims=True)
    rstd = 1 / jnp.sqrt(((x - mean) ** 2).mean(axis=0, keepdims=True) + 1e-5)
    xhat = (x - mean) * rstd
    dgamma = (ct * xhat).sum(axis=0)
    dbeta = ct.sum(axis=0)
    dx = gamma[None, :] * rstd / n * (n * ct - dbeta[None, :] - xhat * dgamma[None, :])
    return dx, dgamma, dbeta


_register(batch_norm, batch_norm_rule, lambda key: tuple(_normal(key, (6, 4), (4,), (4,))))


def layer_norm(x, gamma, beta):
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return gamma[None, :] * (x - mean) / jnp.sqrt(var + 1e-5) + beta[None, :]


def layer_norm_rule(args, ct):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    rstd = 1 / jnp.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    xhat = (x - mean) * rstd
    g = ct * gamma[None, :]
    dx = rstd * (g - g.mean(axis=-1, keepdims=True) - xhat * (g * xhat).mean(axis=-1, keepdims=True))
    return dx, (ct * xhat).sum(axis=0), ct.sum(axis=0)


_register(layer_norm, layer_norm_rule, lambda key: tuple(_normal(key, (5, 6), (6,), (6,))))


def rms_norm(x, gamma):
    return x * gamma[None, :] / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def rms_norm_rule(args, ct):
    x, gamma = args
    r = 1 / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    g = ct * gamma[None, :]
    dx = r * g - x * r**3 * (g * x).mean(axis=-1, keepdims=True)
    return dx, (ct * x * r).sum(axis=0)


_register(rms_norm, rms_norm_rule, lambda key: tuple(_normal(key, (5, 6), (6,))))


def conv_1d(x, kernel, bias):
    out = lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
    return out + bias[None, None, :]


def conv_1d_rule(args, ct):
    x, kernel, bias = args
    width, length = kernel.shape[0], ct.shape[1]
    patches = jnp.stack([x[:, i : i + length] for i in range(width)], axis=2)
    dkernel = jnp.einsum("nlwc,nlo->wco", patches, ct)
    dpatches = jnp.einsum("nlo,wco->nlwc", ct, kernel)
    dx = jnp.zeros_like(x)
    for i in range(width):
        dx = dx.at[:, i : i + length].add(dpatches[:, :, i])
    return dx, dkernel, ct.sum(axis=(0, 1))


_register(conv_1d, conv_1d_rule, lambda key: tuple(_normal(key, (3, 7, 2), (3, 2, 4), (4,))))


def embedding(table, ids):
    return jnp.where((ids != 0)[:, None], table[ids], 0)


def embedding_rule(args, ct):
    table, ids = args
    kept = jnp.where((ids != 0)[:, None], ct, 0)
    return jnp.zeros_like(table).at[ids].add(kept), None


_register(embedding, embedding_rule, lambda key: (_normal(key, (5, 3))[0], jnp.array([1, 4, 0, 2, 1, 3, 4])))


def dropout(x, weight, keep):
    return (x * keep.astype(x.dtype) / 0.75) @ weight


def dropout_rule(args, ct):
    x, weight, keep = args
    keep = keep.astype(x.dtype)
    dropped = x * keep / 0.75
    return (ct @ weight.T) * keep / 0.75, dropped.T @ ct, None


def _dropout_args(key):
    x, weight = _normal(key, (4, 5), (5, 3))
    return x, weight, jnp.array([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1]])


_register(dropout, dropout_rule, _dropout_args)


# --- reductions and losses --------------------------------------------------------------------------------------------


def segment_sum(x, ids):
    return jax.ops.segment_sum(x**2, ids, 4)


def segment_sum_rule(args, ct):
    x, ids = args
    return 2 * x * ct[ids], None


_register(segment_sum, segment_sum_rule, lambda key: (_normal(key, (6, 3))[0], jnp.array([0, 2, 1, 2, 3, 0])))


def logsumexp(z):
    return jax.nn.logsumexp(z, axis=1)


def logsumexp_rule(args, ct):
    (z,) = args
    e = jnp.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return (ct[:, None] * p,)


_register(logsumexp, logsumexp_rule, lambda key: tuple(_normal(key, (5, 4))))


def softmax(z):
    e = jnp.exp(z - lax.stop_gradient(z.max(axis=-1, keepdims=True)))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_rule(args, ct):
    (z,) = args
    p = jax.nn.softmax(z, axis=-1)
    inner = (ct * p).sum(axis=-1, keepdims=True)
    return (p * (ct - inner),)


_register(softmax, softmax_rule, lambda key: tuple(_normal(key, (5, 4))))


def cross_entropy(logits, labels):
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), labels[:, None], axis=1)
    return -picked.mean()


def cross_entropy_rule(args, ct):
    logits, labels = args
    p = jax.nn.softmax(logits, axis=-1)
    y = jax.nn.one_hot(labels, logits.shape[-1], dtype=p.dtype)
    return ct * (p - y) / logits.shape[0], None


_register(cross_entropy, cross_entropy_rule, lambda key: (_normal(key, (6, 4))[0], jnp.array([0, 3, 1, 2, 3, 1])))


def focal_loss(logits, targets):
    p = jax.nn.sigmoid(logits)
    pt = jnp.where(targets == 1, p, 1 - p)
    return (-((1 - pt) ** 2) * jnp.log(pt)).sum(axis=-1)


def focal_loss_rule(args, ct):
    logits, targets = args
    p = jax.nn.sigmoid(logits)
    pt = jnp.where(targets == 1, p, 1 - p)
    sign = jnp.where(targets == 1, 1.0, -1.0).astype(p.dtype)
    dpt = 2 * (1 - pt) * jnp.log(pt) - (1 - pt) ** 2 / pt
    return ct[:, None] * dpt * sign * p * (1 - p), None


_register(
    focal_loss,
    focal_loss_rule,
    lambda key: (_normal(key, (4, 3))[0], jnp.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]])),
)


def norm(x):
    return jnp.sqrt((x**2).sum(axis=-1))


def norm_rule(args, ct):
    (x,) = args
    length = jnp.sqrt((x**2).sum(axis=-1))
    return (ct[:, None] * x / length[:, None],)


_register(norm, norm_rule, lambda key: tuple(_normal(key, (4, 5))))


def std(x):
    return jnp.sqrt(((x - x.mean(axis=0, keepdims=True)) ** 2).mean(axis=0))


def std_rule(args, ct):
    (x,) = args
    centred = x - x.mean(axis=0, keepdims=True)
    s = jnp.sqrt((centred**2).mean(axis=0))
    return (ct[None, :] * centred / (x.shape[0] * s[None, :]),)


_register(std, std_rule, lambda key: (_normal(key, (7, 3))[0] * 1e-2 + 1,))


def cumulative_sum(x, weights):
    return jnp.cumsum(x * weights[None, :], axis=1)


def cumulative_sum_rule(args, ct):
    x, weights = args
    back = jnp.flip(jnp.cumsum(jnp.flip(ct, axis=1), axis=1), axis=1)
    return back * weights[None, :], (back * x).sum(axis=0)


_register(cumulative_sum, cumulative_sum_rule, lambda key: tuple(_normal(key, (3, 5), (5,))))


def huber(prediction, target):
    r = prediction - target
    return jnp.where(jnp.abs(r) < 1, 0.5 * r**2, jnp.abs(r) - 0.5).mean()


def huber_rule(args, ct):
    prediction, target = args
    r = prediction - target
    slope = jnp.where(jnp.abs(r) < 1, r, jnp.sign(r))
    g = ct * slope / r.size
    return g, -g


_register(huber, huber_rule, lambda key: tuple(1.5 * x for x in _normal(key, (5, 3), (5, 3))))


# --- order, interpolation, linear algebra -----------------------------------------------------------------------------


def sort(x, weights):
    return jnp.sort(x, axis=1) * weights[None, :]


def sort_rule(args, ct):
    x, weights = args
    order = jnp.argsort(x, axis=1)
    rows = jnp.arange(x.shape[0])[:, None]
    dx = jnp.zeros_like(x).at[rows, order].add(ct * weights[None, :])
    return dx, (ct * jnp.sort(x, axis=1)).sum(axis=0)


_register(sort, sort_rule, lambda key: tuple(_normal(key, (4, 5), (5,))))


def top_k(x):
    return lax.top_k(x, 2)[0]


def top_k_rule(args, ct):
    (x,) = args
    _, index = lax.top_k(x, 2)
    rows = jnp.arange(x.shape[0])[:, None]
    return (jnp.zeros_like(x).at[rows, index].add(ct),)


_register(top_k, top_k_rule, lambda key: tuple(_normal(key, (4, 6))))


def interpolate(x, values):
    low = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, values.shape[0] - 2)
    w = x - low.astype(x.dtype)
    return (1 - w) * values[low] + w * values[low + 1]


def interpolate_rule(args, ct):
    x, values = args
    low = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, values.shape[0] - 2)
    w = x - low.astype(x.dtype)
    dvalues = jnp.zeros_like(values).at[low].add(ct * (1 - w)).at[low + 1].add(ct * w)
    return ct * (values[low + 1] - values[low]), dvalues


_register(
    interpolate,
    interpolate_rule,
    lambda key: (jnp.array([0.3, 2.6, 1.2, 2.1, 3.7, 0.9, 2.4]), _normal(key, (6,))[0]),
)


def triangular(a, b):
    return solve_triangular(a, b, lower=True)


def triangular_rule(args, ct):
    a, b = args
    y = solve_triangular(a, b, lower=True)
    db = solve_triangular(a, ct, lower=True, trans=1)
    return -jnp.tril(db @ y.T), db


def _triangular_args(key):
    a, b = _normal(key, (4, 4), (4, 3))
    return jnp.tril(a) + 3 * jnp.eye(4), b


_register(triangular, triangular_rule, _triangular_args)


def cholesky(a):
    return jnp.linalg.cholesky((a + a.T) / 2, symmetrize_input=False)


def cholesky_rule(args, ct):
    (a,) = args
    low = jnp.linalg.cholesky((a + a.T) / 2, symmetrize_input=False)
    p = jnp.tril(low.T @ jnp.tril(ct))
    p = p - 0.5 * jnp.diag(jnp.diag(p))
    s = solve_triangular(low, solve_triangular(low, p.T, lower=True, trans=1).T, lower=True, trans=1).T
    return (0.5 * (s + s.T),)


def _cholesky_args(key):
    x = _normal(key, (4, 6))[0]
    return (x @ x.T / 6 + jnp.eye(4),)


_register(cholesky, cholesky_rule, _cholesky_args)


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def gelu_rule(args, ct):
    (x,) = args
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    inner = 0.7978845608 * (1 + 3 * 0.044715 * x**2)
    return (ct * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner),)


_register(gelu, gelu_rule, lambda key: tuple(_normal(key, (4, 5))))


def bilinear(x, y, weight):
    return jnp.einsum("ni,ijk,nj->nk", x, weight, y)


def bilinear_rule(args, ct):
    x, y, weight = args
    return (
        jnp.einsum("nk,ijk,nj->ni", ct, weight, y),
        jnp.einsum("nk,ijk,ni->nj", ct, weight, x),
        jnp.einsum("ni,nj,nk->ijk", x, y, ct),
    )


_register(bilinear, bilinear_rule, lambda key: tuple(_normal(key, (5, 3), (5, 3), (3, 3, 4))))


def tied(x, weight):
    h = jnp.tanh(x @ weight)
    return h @ weight.T


def tied_rule(args, ct):
    x, weight = args
    h = jnp.tanh(x @ weight)
    delta = (ct @ weight) * (1 - h * h)
    return delta @ weight.T, x.T @ delta + ct.T @ h


_register(tied, tied_rule, lambda key: tuple(_normal(key, (5, 4), (4, 4))))


def group_mean(x, valid):
    count = valid.sum(axis=1)
    return jnp.where(valid, x, 0).sum(axis=1) / count.astype(x.dtype)


def group_mean_rule(args, ct):
    x, valid = args
    count = valid.sum(axis=1, keepdims=True).astype(x.dtype)
    return jnp.where(valid, ct[:, None] / count, 0), None


def _valid_args(key):
    valid = jnp.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]], bool)
    return _normal(key, (5, 4))[0], valid


_register(group_mean, group_mean_rule, _valid_args)
