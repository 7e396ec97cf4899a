"""Right backward passes of layers, derived by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxbias.selfcheck.planted.registry import normal, register


def dense_tanh(x, weight, bias):
    return jnp.tanh(x @ weight + bias[None, :])


def dense_tanh_rule(args, cotangent):
    x, weight, bias = args
    a = jnp.tanh(x @ weight + bias[None, :])
    delta = cotangent * (1 - a**2)
    return delta @ weight.T, x.T @ delta, delta.sum(axis=0)


register(dense_tanh, dense_tanh_rule, lambda key: tuple(normal(key, (5, 3), (3, 4), (4,))))


def two_layers(x, w1, b1, w2, b2):
    h = jax.nn.relu(x @ w1 + b1[None, :])
    return h @ w2 + b2[None, :]


def two_layers_rule(args, cotangent):
    x, w1, b1, w2, b2 = args
    z = x @ w1 + b1[None, :]
    h = jnp.maximum(z, 0)
    delta = (cotangent @ w2.T) * (z > 0).astype(z.dtype)
    return delta @ w1.T, x.T @ delta, delta.sum(axis=0), h.T @ cotangent, cotangent.sum(axis=0)


register(two_layers, two_layers_rule, lambda key: tuple(normal(key, (6, 3), (3, 5), (5,), (5, 2), (2,))))


def attention(q, k, v, bias, mask):
    scores = q @ k.T / jnp.sqrt(q.shape[-1] * 1.0).astype(q.dtype) + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
    return weights @ v


def attention_rule(args, cotangent):
    q, k, v, bias, mask = args
    scale = 1 / jnp.sqrt(q.shape[-1] * 1.0).astype(q.dtype)
    scores = q @ k.T * scale + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
    delta_v = weights.T @ cotangent
    delta_weights = cotangent @ v.T
    inner = (delta_weights * weights).sum(axis=-1, keepdims=True)
    delta_scores = weights * (delta_weights - inner)
    delta_scores = jnp.where(mask, delta_scores, 0)
    return delta_scores @ k * scale, delta_scores.T @ q * scale, delta_v, delta_scores, None


def _attention_args(key):
    q, k, v, bias = normal(key, (4, 3), (5, 3), (5, 2), (4, 5))
    mask = jnp.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 0, 1, 1, 1]], bool)
    return q, k, v, bias, mask


register(attention, attention_rule, _attention_args)


def lstm_cell(x, h, c, w, u, b):
    gates = x @ w + h @ u + b[None, :]
    i, f, g, o = jnp.split(gates, 4, axis=1)
    c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c_new), c_new


def lstm_cell_rule(args, cotangent):
    x, h, c, w, u, b = args
    ct_h, ct_c = cotangent
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


register(lstm_cell, lstm_cell_rule, lambda key: tuple(normal(key, (3, 2), (3, 3), (3, 3), (2, 12), (3, 12), (12,))))


def rnn(xs, h0, w, u, b):
    def step(h, x):
        h = jnp.tanh(x @ w + h @ u + b)
        return h, h

    return lax.scan(step, h0, xs)[1]


def rnn_rule(args, cotangent):
    xs, h0, w, u, b = args
    hs = [h0]
    for x in xs:
        hs.append(jnp.tanh(x @ w + hs[-1] @ u + b))
    dw, du, db = jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    dxs, dh = [], jnp.zeros_like(h0)
    for t in range(xs.shape[0] - 1, -1, -1):
        delta = (cotangent[t] + dh) * (1 - hs[t + 1] ** 2)
        dw = dw + jnp.outer(xs[t], delta)
        du = du + jnp.outer(hs[t], delta)
        db = db + delta
        dxs.append(delta @ w.T)
        dh = delta @ u.T
    return jnp.stack(dxs[::-1]), dh, dw, du, db


register(rnn, rnn_rule, lambda key: tuple(normal(key, (4, 2), (3,), (2, 3), (3, 3), (3,))))


def batch_norm(x, gamma, beta):
    mean = x.mean(axis=0, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=0, keepdims=True)
    return gamma[None, :] * (x - mean) / jnp.sqrt(var + 1e-5) + beta[None, :]


def batch_norm_rule(args, cotangent):
    x, gamma, beta = args
    n = x.shape[0]
    mean = x.mean(axis=0, keepdims=True)
    rstd = 1 / jnp.sqrt(((x - mean) ** 2).mean(axis=0, keepdims=True) + 1e-5)
    xhat = (x - mean) * rstd
    dgamma = (cotangent * xhat).sum(axis=0)
    dbeta = cotangent.sum(axis=0)
    dx = gamma[None, :] * rstd / n * (n * cotangent - dbeta[None, :] - xhat * dgamma[None, :])
    return dx, dgamma, dbeta


register(batch_norm, batch_norm_rule, lambda key: tuple(normal(key, (6, 4), (4,), (4,))))


def layer_norm(x, gamma, beta):
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return gamma[None, :] * (x - mean) / jnp.sqrt(var + 1e-5) + beta[None, :]


def layer_norm_rule(args, cotangent):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    rstd = 1 / jnp.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    xhat = (x - mean) * rstd
    g = cotangent * gamma[None, :]
    dx = rstd * (g - g.mean(axis=-1, keepdims=True) - xhat * (g * xhat).mean(axis=-1, keepdims=True))
    return dx, (cotangent * xhat).sum(axis=0), cotangent.sum(axis=0)


register(layer_norm, layer_norm_rule, lambda key: tuple(normal(key, (5, 6), (6,), (6,))))


def rms_norm(x, gamma):
    return x * gamma[None, :] / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def rms_norm_rule(args, cotangent):
    x, gamma = args
    r = 1 / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    g = cotangent * gamma[None, :]
    dx = r * g - x * r**3 * (g * x).mean(axis=-1, keepdims=True)
    return dx, (cotangent * x * r).sum(axis=0)


register(rms_norm, rms_norm_rule, lambda key: tuple(normal(key, (5, 6), (6,))))


def conv_1d(x, kernel, bias):
    out = lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
    return out + bias[None, None, :]


def conv_1d_rule(args, cotangent):
    x, kernel, bias = args
    width, length = kernel.shape[0], cotangent.shape[1]
    patches = jnp.stack([x[:, i : i + length] for i in range(width)], axis=2)
    dkernel = jnp.einsum("nlwc,nlo->wco", patches, cotangent)
    dpatches = jnp.einsum("nlo,wco->nlwc", cotangent, kernel)
    dx = jnp.zeros_like(x)
    for i in range(width):
        dx = dx.at[:, i : i + length].add(dpatches[:, :, i])
    return dx, dkernel, cotangent.sum(axis=(0, 1))


register(conv_1d, conv_1d_rule, lambda key: tuple(normal(key, (3, 7, 2), (3, 2, 4), (4,))))


def embedding(table, ids):
    return jnp.where((ids != 0)[:, None], table[ids], 0)


def embedding_rule(args, cotangent):
    table, ids = args
    kept = jnp.where((ids != 0)[:, None], cotangent, 0)
    return jnp.zeros_like(table).at[ids].add(kept), None


register(embedding, embedding_rule, lambda key: (normal(key, (5, 3))[0], jnp.array([1, 4, 0, 2, 1, 3, 4])))


def dropout(x, weight, keep):
    return (x * keep.astype(x.dtype) / 0.75) @ weight


def dropout_rule(args, cotangent):
    x, weight, keep = args
    keep = keep.astype(x.dtype)
    dropped = x * keep / 0.75
    return (cotangent @ weight.T) * keep / 0.75, dropped.T @ cotangent, None


def _dropout_args(key):
    x, weight = normal(key, (4, 5), (5, 3))
    return x, weight, jnp.array([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1]])


register(dropout, dropout_rule, _dropout_args)
