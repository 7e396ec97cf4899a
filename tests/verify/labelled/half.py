"""Rules in half precision whose verdict is certain."""

import jax.numpy as jnp
from jax import lax

from tests.verify.labelled import group, normals

CASES = []


def up(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# ---- RMS norm, bfloat16
def rms(x, w):
    x32 = up(x)
    r = lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + 1e-2)
    return (x32 * r * up(w)).astype(x.dtype)


def _rms_rule(args, ct, variant="ok"):
    x, w = args
    x32, w32, g = up(x), up(w), up(ct)
    eps = 0.3 if variant == "eps" else 1e-2
    r = lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    xh = x32 * r
    gh = g * w32
    if variant == "nomean":
        gx = gh * r
    elif variant == "sum":
        gx = r * (gh - xh * jnp.sum(gh * xh, -1, keepdims=True))
    else:
        gx = r * (gh - xh * jnp.mean(gh * xh, -1, keepdims=True))
    gw = jnp.sum(g * x32, 0) if variant == "gw" else jnp.sum(g * xh, 0)
    return gx.astype(x.dtype), gw.astype(w.dtype)


def rms_einsum(args, ct):
    x, w = args
    x32, w32, g = up(x), up(w), up(ct)
    v = jnp.einsum("bi,bi->b", x32, x32) / 8 + 1e-2
    r = 1 / jnp.sqrt(v)
    c = jnp.einsum("bi,bi,i->b", g, x32 * r[:, None], w32)
    gx = (g * w32) * r[:, None] - x32 * ((r * r) * c / 8)[:, None]
    return gx.astype(x.dtype), jnp.einsum("bi,bi,b->i", g, x32, r).astype(w.dtype)


CASES += group(
    "half",
    "rmsnorm_bf16",
    rms,
    normals((4, 8), (8,), dtype=jnp.bfloat16),
    [_rms_rule, rms_einsum],
    [
        (lambda a, c: _rms_rule(a, c, "eps"), "another epsilon"),
        (lambda a, c: _rms_rule(a, c, "nomean"), "derivative of the norm forgotten"),
        (lambda a, c: _rms_rule(a, c, "sum"), "sum for mean"),
        (lambda a, c: _rms_rule(a, c, "gw"), "x not normalised in the weight gradient"),
    ],
)


# ---- dense + tanh, float16
def dense(x, w, b):
    y = jnp.tanh(up(x) @ up(w) * 0.25 + up(b))
    return y.astype(x.dtype)


def _dense_rule(args, ct, variant="ok"):
    x, w, b = args
    y = jnp.tanh(up(x) @ up(w) * 0.25 + up(b))
    d = up(ct) * (1 - y) * (1 + y)
    if variant == "lin":
        d = up(ct)
    gb = d.mean(0) if variant == "mean" else d.sum(0)
    sc = 1.0 if variant == "scale" else 0.25
    gx = sc * (d @ up(w).T)
    gw = 0.25 * (up(x).T @ d)
    if variant == "elem":
        gw = gw.at[0, 0].multiply(0.5)
    return gx.astype(x.dtype), gw.astype(w.dtype), gb.astype(b.dtype)


CASES += group(
    "half",
    "dense_f16",
    dense,
    normals((3, 4), (4, 3), (3,), dtype=jnp.float16),
    [_dense_rule],
    [
        (lambda a, c: _dense_rule(a, c, "lin"), "derivative of tanh forgotten"),
        (lambda a, c: _dense_rule(a, c, "mean"), "mean for sum in the bias gradient"),
        (lambda a, c: _dense_rule(a, c, "scale"), "factor 0.25 missing"),
        (lambda a, c: _dense_rule(a, c, "elem"), "one element halved"),
    ],
)
