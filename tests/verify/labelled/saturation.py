"""Rules with saturation whose verdict is certain."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.labelled import group, normals

CASES = []

# ---- cross entropy with closed-over labels
LAB = np.array([2, 0, 3, 1, 1], np.int32)


def xent(x):
    return jax.nn.logsumexp(x, axis=-1) - x[np.arange(5, dtype=np.int32), LAB]


def xent_r1(args, ct):
    (x,) = args
    p = jax.nn.softmax(x, axis=-1)
    return (ct[:, None] * (p - jax.nn.one_hot(LAB, 4, dtype=x.dtype)),)


def xent_r2(args, ct):
    (x,) = args
    e = jnp.exp(x - x.max(-1, keepdims=True))
    g = ct[:, None] * e / e.sum(-1, keepdims=True)
    return (g.at[np.arange(5, dtype=np.int32), LAB].add(-ct),)


def xent_w1(args, ct):
    (x,) = args
    p = jax.nn.softmax(x, axis=0)
    return (ct[:, None] * (p - jax.nn.one_hot(LAB, 4, dtype=x.dtype)),)


def xent_w2(args, ct):
    (x,) = args
    return (ct[:, None] * (jax.nn.one_hot(LAB, 4, dtype=x.dtype) - jax.nn.softmax(x, axis=-1)),)


def xent_w3(args, ct):
    (x,) = args
    p = jax.nn.softmax(x, axis=-1)
    return (ct[:, None] * p * (1 - jax.nn.one_hot(LAB, 4, dtype=x.dtype)),)


def xent_w4(args, ct):
    (x,) = args
    p = jax.nn.softmax(x, axis=-1)
    return (ct.mean() * (p - jax.nn.one_hot(LAB, 4, dtype=x.dtype)),)


CASES += group(
    "saturation",
    "cross_entropy",
    xent,
    normals((5, 4)),
    [xent_r1, xent_r2],
    [
        (xent_w1, "softmax over the wrong axis"),
        (xent_w2, "sign"),
        (xent_w3, "label term missing"),
        (xent_w4, "cotangent averaged over the batch"),
    ],
)


# ---- exact GELU
def gelu(x):
    return 0.5 * x * (1 + lax.erf(x / math.sqrt(2)))


def _pdf(x):
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def gelu_r1(args, ct):
    (x,) = args
    return (ct * (0.5 * (1 + lax.erf(x / math.sqrt(2))) + x * _pdf(x)),)


def gelu_r2(args, ct):
    (x,) = args
    return (ct * (jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x)),)


def gelu_w1(args, ct):
    (x,) = args
    return (ct * 0.5 * (1 + lax.erf(x / math.sqrt(2))),)


def gelu_w2(args, ct):
    (x,) = args
    return (ct * (0.5 * (1 + lax.erf(x / math.sqrt(2))) + 0.5 * x * _pdf(x)),)


def gelu_w3(args, ct):
    (x,) = args
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    t = jnp.tanh(u)
    return (ct * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi)),)


def gelu_w4(args, ct):
    (x,) = args
    s = jax.nn.sigmoid(1.702 * x)
    return (ct * s * (1 + 1.702 * x * (1 - s)),)


CASES += group(
    "saturation",
    "gelu",
    gelu,
    normals((7,)),
    [gelu_r1, gelu_r2],
    [
        (gelu_w1, "density term missing"),
        (gelu_w2, "density term halved"),
        (gelu_w3, "tanh approximation with a missing chain term"),
        (gelu_w4, "derivative of the sigmoid approximation"),
    ],
)


# ---- gated unit, sigmoid times tanh
def gate(a, b):
    return jax.nn.sigmoid(a) * jnp.tanh(b)


def gate_r1(args, ct):
    a, b = args
    s, t = jax.nn.sigmoid(a), jnp.tanh(b)
    return ct * s * jax.nn.sigmoid(-a) * t, ct * s * (1 - t) * (1 + t)


def gate_r2(args, ct):
    a, b = args
    e = jnp.exp(-jnp.abs(a))
    f = jnp.exp(-2 * jnp.abs(b))
    return ct * e / (1 + e) ** 2 * jnp.tanh(b), ct * jax.nn.sigmoid(a) * 4 * f / (1 + f) ** 2


def gate_w1(args, ct):
    a, b = args
    s, t = jax.nn.sigmoid(a), jnp.tanh(b)
    return ct * s * (1 - s) * t, ct * s * (1 - t)


def gate_w2(args, ct):
    a, b = args
    s, t = jax.nn.sigmoid(a), jnp.tanh(b)
    return ct * s * t, ct * s * (1 - t * t)


def gate_w3(args, ct):
    a, b = args
    s, t = jax.nn.sigmoid(a), jnp.tanh(b)
    return ct * s * (1 - s) * jnp.where(a > 0, 0.5, 1.0).astype(a.dtype) * t, ct * s * (1 - t * t)


CASES += group(
    "saturation",
    "gate",
    gate,
    normals((6,), (6,)),
    [gate_r1, gate_r2],
    [(gate_w1, "1-t in place of 1-t^2"), (gate_w2, "factor 1-s missing"), (gate_w3, "half for a > 0")],
)
