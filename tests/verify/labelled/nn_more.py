"""Rules of layers whose verdict is certain."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.labelled import group, normals

CASES = []


# ---- 1-d convolution, 2 to 3 channels, window 3
def conv(x, w):
    return lax.conv_general_dilated(x[None], w, (1,), "VALID", dimension_numbers=("NCH", "OIH", "NCH"))[0]


def conv_r1(args, ct):
    x, w = args
    X = jnp.stack([x[:, k : k + 6] for k in range(3)], -1)
    gx = jnp.zeros_like(x)
    for k in range(3):
        gx = gx.at[:, k : k + 6].add(w[:, :, k].T @ ct)
    return gx, jnp.einsum("ot,itk->oik", ct, X)


def conv_r2(args, ct):
    x, w = args
    wf = jnp.flip(w, -1).transpose(1, 0, 2)
    gx = lax.conv_general_dilated(ct[None], wf, (1,), [(2, 2)], dimension_numbers=("NCH", "OIH", "NCH"))[0]
    gw = jax.vmap(lambda c: jax.vmap(lambda u: jnp.correlate(u, c, mode="valid"))(x))(ct)
    return gx, gw


def conv_w1(args, ct):
    x, w = args
    gx = lax.conv_general_dilated(
        ct[None], w.transpose(1, 0, 2), (1,), [(2, 2)], dimension_numbers=("NCH", "OIH", "NCH")
    )[0]
    return gx, conv_r1(args, ct)[1]


def conv_w2(args, ct):
    gx, gw = conv_r1(args, ct)
    return gx, jnp.flip(gw, -1)


def conv_w3(args, ct):
    gx, gw = conv_r1(args, ct)
    return gx.at[:, 6:].set(0), gw


def conv_w4(args, ct):
    gx, gw = conv_r1(args, ct)
    return gx, gw / 6


CASES += group(
    "nn",
    "conv1d",
    conv,
    normals((2, 8), (3, 2, 3)),
    [conv_r1, conv_r2],
    [
        (conv_w1, "kernel not flipped"),
        (conv_w2, "kernel gradient flipped"),
        (conv_w3, "border lost"),
        (conv_w4, "mean over positions"),
    ],
)


# ---- overlapping average pooling (3, stride 2) of a row-normalised input
def pool(x):
    n = x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 0.01)
    return jnp.stack([n[:, 2 * i : 2 * i + 3].mean(-1) for i in range(3)], -1)


def _pool_rule(args, ct, variant="ok"):
    (x,) = args
    s = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 0.01)
    g = jnp.zeros_like(x)
    for i in range(3):
        c = jnp.broadcast_to(ct[:, i : i + 1], (2, 3)) / (2 if variant == "two" else 3)
        g = g.at[:, 2 * i : 2 * i + 3].set(c) if variant == "set" else g.at[:, 2 * i : 2 * i + 3].add(c)
    if variant == "nonorm":
        return (g / s,)
    d = s if variant == "power" else s**3
    return (g / s - x * (x * g).sum(-1, keepdims=True) / d,)


def pool_matrix(args, ct):
    (x,) = args
    B = np.zeros((3, 7), np.float32)
    for i in range(3):
        B[i, 2 * i : 2 * i + 3] = 1
    g = ct @ B.astype(x.dtype) / 3

    def row(x, g):
        s2 = x @ x + 0.01
        return (g - x * (x @ g) / s2) * lax.rsqrt(s2)

    return (jax.vmap(row)(x, g),)


CASES += group(
    "nn",
    "norm_avgpool",
    pool,
    normals((2, 7)),
    [_pool_rule, pool_matrix],
    [
        (lambda a, c: _pool_rule(a, c, "set"), "overlaps overwritten"),
        (lambda a, c: _pool_rule(a, c, "two"), "divided by two"),
        (lambda a, c: _pool_rule(a, c, "nonorm"), "derivative of the norm missing"),
        (lambda a, c: _pool_rule(a, c, "power"), "power of the norm"),
    ],
)


# ---- linear interpolation in a table at a bounded position
def interp(tab, x):
    t = 3.3 + 2.1 * jnp.tanh(x)
    i = jnp.floor(t).astype(jnp.int32)
    f = t - i
    return tab[i] * (1 - f) + tab[i + 1] * f


def _interp_rule(args, ct, variant="ok"):
    tab, x = args
    th = jnp.tanh(x)
    t = 3.3 + 2.1 * th
    i = jnp.floor(t).astype(jnp.int32)
    f = t - i
    z = jnp.zeros_like(tab)
    if variant == "swap":
        gt = z.at[i].add(ct * f).at[i + 1].add(ct * (1 - f))
    elif variant == "set":
        gt = z.at[i].set(ct * (1 - f)).at[i + 1].add(ct * f)
    else:
        gt = z.at[i].add(ct * (1 - f)).at[i + 1].add(ct * f)
    gx = ct * (tab[i + 1] - tab[i]) * 2.1
    return gt, gx if variant == "chain" else gx * (1 - th * th)


def interp_hat(args, ct):
    tab, x = args
    th = jnp.tanh(x)
    t = 3.3 + 2.1 * th
    u = t[:, None] - jnp.arange(7)
    Wt = jnp.maximum(1 - jnp.abs(u), 0).astype(x.dtype)
    dW = jnp.where(jnp.abs(u) < 1, -jnp.sign(u), 0).astype(x.dtype)
    return ct @ Wt, ct * (dW @ tab) * 2.1 * (1 - th) * (1 + th)


CASES += group(
    "nn",
    "interpolation",
    interp,
    normals((7,), (9,)),
    [_interp_rule, interp_hat],
    [
        (lambda a, c: _interp_rule(a, c, "swap"), "weights swapped"),
        (lambda a, c: _interp_rule(a, c, "set"), "repeated cells overwritten"),
        (lambda a, c: _interp_rule(a, c, "chain"), "derivative of tanh missing"),
        (lambda a, c: (_interp_rule(a, c)[0], -_interp_rule(a, c)[1]), "sign of the position's gradient"),
    ],
)


# ---- mean Huber loss
def huber(p, t):
    r = p - t
    a = jnp.abs(r)
    return jnp.mean(jnp.where(a < 0.7, 0.5 * r * r, 0.7 * (a - 0.35)))


def huber_r1(args, ct):
    p, t = args
    g = jnp.clip(p - t, -0.7, 0.7) * (ct / p.size)
    return g, -g


def huber_w1(args, ct):
    p, t = args
    g = (p - t) * (ct / p.size)
    return g, -g


def huber_w2(args, ct):
    p, t = args
    g = jnp.clip(p - t, -1, 1) * (ct / p.size)
    return g, -g


def huber_w3(args, ct):
    p, t = args
    g = jnp.clip(p - t, -0.7, 0.7) * (ct / 4)
    return g, -g


def huber_w4(args, ct):
    p, t = args
    g = jnp.clip(p - t, -0.7, 0.7) * (ct / p.size)
    return g, g


CASES += group(
    "nn",
    "huber",
    huber,
    normals((3, 4), (3, 4)),
    [huber_r1],
    [
        (huber_w1, "not clipped"),
        (huber_w2, "threshold 1 in place of 0.7"),
        (huber_w3, "mean over the last axis only"),
        (huber_w4, "sign of the target"),
    ],
)
