"""Rules of layers whose verdict is certain."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.labelled import group, normals

CASES = []


# ---- layer norm
def ln(x, g, b):
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) * lax.rsqrt(v + 1e-3) * g + b


def _ln_rule(args, ct, variant="ok"):
    x, g, b = args
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    r = lax.rsqrt(v + (0.0 if variant == "eps" else 1e-3) + (1e-1 if variant == "eps" else 0))
    xh = (x - m) * r
    h = ct * g
    if variant == "mean":
        gx = r * (h - xh * (h * xh).mean(-1, keepdims=True))
    elif variant == "var":
        gx = r * (h - h.mean(-1, keepdims=True))
    else:
        gx = r * (h - h.mean(-1, keepdims=True) - xh * (h * xh).mean(-1, keepdims=True))
    gg = (ct * xh).mean(0) if variant == "avg" else (ct * xh).sum(0)
    return gx, gg, ct.sum(0)


def ln_stages(args, ct):
    x, g, b = args
    n = x.shape[-1]
    xc = x - x.mean(-1, keepdims=True)
    v = (xc * xc).mean(-1, keepdims=True)
    r = 1 / jnp.sqrt(v + 1e-3)
    gxh = ct * g
    gr = (gxh * xc).sum(-1, keepdims=True)
    gv = -0.5 * gr * r**3
    gxc = gxh * r + gv * 2 * xc / n
    return gxc - gxc.mean(-1, keepdims=True), jnp.einsum("bi,bi->i", ct, xc * r), jnp.einsum("bi->i", ct)


CASES += group(
    "nn",
    "layer_norm",
    ln,
    normals((3, 6), (6,), (6,)),
    [_ln_rule, ln_stages],
    [
        (lambda a, c: _ln_rule(a, c, "mean"), "derivative of the mean missing"),
        (lambda a, c: _ln_rule(a, c, "var"), "derivative of the variance missing"),
        (lambda a, c: _ln_rule(a, c, "eps"), "epsilon 0.1 in place of 0.001"),
        (lambda a, c: _ln_rule(a, c, "avg"), "batch mean for the gain"),
    ],
)

# ---- causal single-head attention
TRI = np.tril(np.ones((4, 4), bool))


def attn(q, k, v):
    s = jnp.where(TRI, q @ k.T / math.sqrt(3), -jnp.inf)
    return jax.nn.softmax(s, -1) @ v


def _attn_rule(args, ct, variant="ok"):
    q, k, v = args
    sc = 1 / math.sqrt(3)
    s = jnp.where(TRI, q @ k.T * sc, -jnp.inf)
    p = jax.nn.softmax(q @ k.T * sc, -1) if variant == "nomask" else jax.nn.softmax(s, -1)
    gv = p @ ct if variant == "pT" else p.T @ ct
    gp = ct @ v.T
    gs = p * gp if variant == "nosub" else p * (gp - (p * gp).sum(-1, keepdims=True))
    if variant == "noscale":
        sc = 1.0
    return gs @ k * sc, gs.T @ q * sc, gv


def attn_einsum(args, ct):
    q, k, v = args
    s = jnp.einsum("id,jd->ij", q, k) / math.sqrt(3)
    m = jnp.where(TRI, s, -jnp.inf).max(1, keepdims=True)
    e = jnp.where(TRI, jnp.exp(jnp.minimum(s - m, 0)), 0)
    p = e / e.sum(1, keepdims=True)
    o = p @ v
    delta = jnp.einsum("id,id->i", ct, o)
    gs = p * (jnp.einsum("id,jd->ij", ct, v) - delta[:, None]) / math.sqrt(3)
    return jnp.einsum("ij,jd->id", gs, k), jnp.einsum("ij,id->jd", gs, q), jnp.einsum("ij,id->jd", p, ct)


CASES += group(
    "nn",
    "attention",
    attn,
    normals((4, 3), (4, 3), (4, 3)),
    [_attn_rule, attn_einsum],
    [
        (lambda a, c: _attn_rule(a, c, "nomask"), "mask left out"),
        (lambda a, c: _attn_rule(a, c, "pT"), "p not transposed"),
        (lambda a, c: _attn_rule(a, c, "nosub"), "row sum of the softmax derivative missing"),
        (lambda a, c: _attn_rule(a, c, "noscale"), "scale missing"),
    ],
)


# ---- max pooling, windows of 3
def maxpool(x):
    return x.reshape(4, 3, 2).max(1)


def maxpool_r1(args, ct):
    (x,) = args
    w = x.reshape(4, 3, 2)
    e = (w == w.max(1, keepdims=True)).astype(x.dtype)
    return ((e / e.sum(1, keepdims=True) * ct[:, None]).reshape(12, 2),)


def maxpool_r2(args, ct):
    (x,) = args
    i = jnp.argmax(x.reshape(4, 3, 2), 1)
    return ((jax.nn.one_hot(i, 3, axis=1, dtype=x.dtype) * ct[:, None]).reshape(12, 2),)


def maxpool_w1(args, ct):
    (x,) = args
    i = jnp.argmin(x.reshape(4, 3, 2), 1)
    return ((jax.nn.one_hot(i, 3, axis=1, dtype=x.dtype) * ct[:, None]).reshape(12, 2),)


def maxpool_w2(args, ct):
    (x,) = args
    return (jnp.repeat(ct, 3, axis=0) / 3,)


def maxpool_w3(args, ct):
    (x,) = args
    i = jnp.argmax(x.reshape(4, 3, 2), 1)
    return (
        (jax.nn.one_hot(i, 3, axis=1, dtype=x.dtype) * ct[:, None] * jnp.array([1, 1, 0.99], x.dtype)[:, None]).reshape(
            12, 2
        ),
    )


CASES += group(
    "nn",
    "max_pool",
    maxpool,
    normals((12, 2)),
    [maxpool_r1, maxpool_r2],
    [
        (maxpool_w1, "minimum for maximum"),
        (maxpool_w2, "average pooling's gradient"),
        (maxpool_w3, "last place of a window scaled by 0.99"),
    ],
)
