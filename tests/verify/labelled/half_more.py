"""Rules in half precision whose verdict is certain."""

import jax
import jax.numpy as jnp

from tests.verify.labelled import group, normals

CASES = []


def up(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# ---- softmax of scaled scores, float16
def soft(q, k):
    return jax.nn.softmax(up(q) @ up(k).T * 0.5, -1).astype(q.dtype)


def _soft_rule(args, ct, variant="ok"):
    q, k = args
    q32, k32, g = up(q), up(k), up(ct)
    p = jax.nn.softmax(q32 @ k32.T * (1.0 if variant == "temp" else 0.5), -1)
    gs = 0.5 * p * (g if variant == "nosub" else g - (p * g).sum(-1, keepdims=True))
    gk = gs.T @ q32
    if variant == "col":
        gk = gk.at[:, 0].set(0)
    if variant == "one":
        gs = 1.05 * gs
    return (gs @ k32).astype(q.dtype), gk.astype(k.dtype)


CASES += group(
    "half",
    "softmax_f16",
    soft,
    normals((3, 4), (5, 4), dtype=jnp.float16),
    [_soft_rule],
    [
        (lambda a, c: _soft_rule(a, c, "temp"), "scale left out of the recomputed softmax"),
        (lambda a, c: _soft_rule(a, c, "nosub"), "row sum missing"),
        (lambda a, c: _soft_rule(a, c, "col"), "one column of k's gradient zero"),
        (lambda a, c: _soft_rule(a, c, "one"), "factor 1.05 in q's gradient"),
    ],
)


# ---- weighted mean square error, bfloat16
def mse(a, b, w):
    d = up(a) - up(b)
    return jnp.mean(d * d * up(w)).astype(a.dtype)


def mse_r1(args, ct):
    a, b, w = args
    d, c = up(a) - up(b), up(ct) / a.size
    g = 2 * c * d * up(w)
    return g.astype(a.dtype), (-g).astype(b.dtype), (c * d * d).sum(0).astype(w.dtype)


def mse_r2(args, ct):
    a, b, w = args
    g = (a - b) * (w * (2 * ct / a.size))
    d = up(a) - up(b)
    return g, -g, (jnp.einsum("ij,ij->j", d, d) * up(ct) / 15).astype(w.dtype)


def mse_w1(args, ct):
    g, h, w = mse_r1(args, ct)
    return g, g, w


def mse_w2(args, ct):
    g, h, w = mse_r1(args, ct)
    return g / 2, h / 2, w


def mse_w3(args, ct):
    g, h, w = mse_r1(args, ct)
    return g, h, w / 3


def mse_w4(args, ct):
    g, h, w = mse_r1(args, ct)
    return g * 5, h * 5, w


CASES += group(
    "half",
    "mse_bf16",
    mse,
    normals((3, 5), (3, 5), (5,), dtype=jnp.bfloat16),
    [mse_r1, mse_r2],
    [
        (mse_w1, "sign of the target's gradient"),
        (mse_w2, "factor 2"),
        (mse_w3, "batch mean for the weight"),
        (mse_w4, "mean over one axis only"),
    ],
)
