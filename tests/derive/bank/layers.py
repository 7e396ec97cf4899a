"""Layers as people write them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.derive.bank.forward import Forward, entering, labels, normal

FORWARDS: dict[str, Forward] = {}
of = entering(FORWARDS)


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


@of(normal(4, 6), normal(6), normal(6))
def layer_norm_in_one_line(x, scale, bias):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * scale + bias


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


@of(normal(6, 5), normal(6, 2), normal(2, 5), normal(4, 6))
def lora(W, A, B, x):
    return x @ W + 0.5 * (x @ A) @ B


@of(normal(5, 3), labels(4, 5))
def embedding(table, ids):
    return table[ids]


@of(normal(5, 3), labels(4, 5), normal(4, 3))
def tied_head(table, ids, positions):
    h = jnp.tanh(table[ids] + positions)
    return h @ table.T


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


@of(normal(2, 3, 4), normal(2, 3, 4), normal(2, 7, 4))
def interleaved_and_put(even, odd, x):
    turned = jnp.stack([even, odd], axis=-1).reshape(2, 3, 8)
    return x.at[:, 1:4].set(jnp.tanh(turned[..., ::2] * turned[..., 1::2])) ** 2
