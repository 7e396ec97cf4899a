"""Rules with mistakes in the derivatives of vision."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

G = 2


def groupnorm(x, w, b):
    # x: (N, C, L)
    N, C, L = x.shape
    xg = x.reshape(N, G, -1)
    xg = (xg - xg.mean(-1, keepdims=True)) / jnp.sqrt(xg.var(-1, keepdims=True) + 1e-4)
    return xg.reshape(N, C, L) * w[:, None] + b[:, None]


def right_groupnorm_bw(inp, dy):
    x, w, b = inp
    N, C, L = x.shape
    xg = x.reshape(N, G, -1)
    istd = 1 / jnp.sqrt(xg.var(-1, keepdims=True) + 1e-4)
    xh = (xg - xg.mean(-1, keepdims=True)) * istd
    dw = (dy * xh.reshape(N, C, L)).sum((0, 2))
    db = dy.sum((0, 2))
    dxh = (dy * w[:, None]).reshape(N, G, -1)
    mean1 = dxh.mean(-1, keepdims=True)
    mean2 = (dxh * xh).mean(-1, keepdims=True)
    dx = istd * (dxh - mean1 - xh * mean2)
    return dx.reshape(N, C, L), dw, db


def bilinear(img, pts):
    i0 = jnp.floor(jax.lax.stop_gradient(pts)).astype(int)
    f = pts - i0
    y, x = i0[:, 0], i0[:, 1]
    fy, fx = f[:, 0], f[:, 1]
    top = img[y, x] * (1 - fx) + img[y, x + 1] * fx
    bot = img[y + 1, x] * (1 - fx) + img[y + 1, x + 1] * fx
    return top * (1 - fy) + bot * fy


def right_bilinear_bw(inp, dy):
    img, pts = inp
    i0 = jnp.floor(pts).astype(int)
    r, c = i0[:, 0], i0[:, 1]
    fr, fc = (pts - i0).T
    a, b2 = img[r, c], img[r, c + 1]
    d, e = img[r + 1, c], img[r + 1, c + 1]
    dimg = jnp.zeros_like(img)
    dimg = dimg.at[r, c].add(dy * (1 - fr) * (1 - fc))
    dimg = dimg.at[r, c + 1].add(dy * (1 - fr) * fc)
    dimg = dimg.at[r + 1, c].add(dy * fr * (1 - fc))
    dimg = dimg.at[r + 1, c + 1].add(dy * fr * fc)
    dfr = dy * ((d - a) * (1 - fc) + (e - b2) * fc)
    dfc = dy * ((b2 - a) * (1 - fr) + (e - d) * fr)
    return dimg, jnp.stack([dfr, dfc], axis=1)


def up_conv(x, k):
    # nearest upsampling by 2, then a "same" filter with three taps; x (T, C), k (3, C, D)
    u = jnp.pad(jnp.repeat(x, 2, axis=0), ((1, 1), (0, 0)))
    n = 2 * x.shape[0]
    return jax.nn.leaky_relu(sum(u[j : j + n] @ k[j] for j in range(3)), 0.1)


def right_up_conv_bw(inp, dy):
    x, k = inp
    n = 2 * x.shape[0]
    u = jnp.pad(jnp.repeat(x, 2, axis=0), ((1, 1), (0, 0)))
    pre = sum(u[j : j + n] @ k[j] for j in range(3))
    dpre = jnp.where(pre > 0, dy, 0.1 * dy)
    dk = jnp.stack([u[j : j + n].T @ dpre for j in range(3)])
    du = jnp.zeros_like(u)
    for j in range(3):
        du = du.at[j : j + n].add(dpre @ k[j].T)
    du = du[1:-1]
    dx = du.reshape(-1, 2, x.shape[1]).sum(axis=1)
    return dx, dk


SND = np.array([0, 1, 2, 3, 0, 2])

RCV = np.array([1, 1, 0, 0, 2, 3])


def gat(h, W, att):
    z = h @ W
    s = jax.nn.leaky_relu(jnp.concatenate([z[SND], z[RCV]], axis=1) @ att, 0.2)
    e = jnp.exp(s)
    p = e / jax.ops.segment_sum(e, RCV, 4)[RCV]
    return jax.ops.segment_sum(p[:, None] * z[SND], RCV, 4)


def right_gat_bw(inp, dy):
    h, W, att = inp
    z = h @ W
    cat = jnp.concatenate([z[SND], z[RCV]], axis=1)
    raw = cat @ att
    e = jnp.exp(jnp.where(raw > 0, raw, 0.2 * raw))
    p = e / jax.ops.segment_sum(e, RCV, 4)[RCV]
    dp = jnp.sum(dy[RCV] * z[SND], axis=1)
    ds = p * (dp - jax.ops.segment_sum(p * dp, RCV, 4)[RCV])
    draw = ds * jnp.where(raw > 0, 1.0, 0.2)
    datt = cat.T @ draw
    dcat = jnp.outer(draw, att)
    m = W.shape[1]
    dz = jnp.zeros_like(z).at[SND].add(p[:, None] * dy[RCV] + dcat[:, :m])
    dz = dz.at[RCV].add(dcat[:, m:])
    return dz @ W.T, h.T @ dz, datt


def rn(key, *shapes):
    return tuple(jax.random.normal(k, s) for k, s in zip(jax.random.split(key, len(shapes)), shapes))


def draw_points(key):
    k1, k2 = jax.random.split(key)
    return jax.random.normal(k1, (4, 5)), jax.random.uniform(k2, (6, 2)) * jnp.array([2.9, 3.9])


SEVERAL = [
    *wrong_rules(
        groupnorm,
        right_groupnorm_bw,
        lambda key: rn(key, (2, 4, 3), (4,), (4,)),
        """
groupnorm_bw
- mean1 = dxh.mean(-1, keepdims=True)
+ mean1 = dxh.mean(1, keepdims=True)
- dx = istd * (dxh - mean1 - xh * mean2)
+ dx = istd * (dxh - mean1 + xh * mean2)
axis: mean must run inside each group, not across the groups
@ mean1 = dxh.mean(1, keepdims=True)
sign: variance term has the wrong sign
@ dx = istd * (dxh - mean1 + xh * mean2)
    """,
    ),
    *wrong_rules(
        bilinear,
        right_bilinear_bw,
        draw_points,
        """
bilinear_bw
- dimg = dimg.at[r + 1, c].add(dy * fr * (1 - fc))
+ dimg = dimg.at[r + 1, c].add(dy * (1 - fr) * fc)
- dimg = dimg.at[r + 1, c + 1].add(dy * fr * fc)
+ dimg = dimg.at[r, c].add(dy * fr * fc)
operand: weights of the lower left corner belong to the upper right one
@ dimg = dimg.at[r + 1, c].add(dy * (1 - fr) * fc)
index: fourth corner is one further in both directions
@ dimg = dimg.at[r, c].add(dy * fr * fc)
    """,
    ),
    *wrong_rules(
        up_conv,
        right_up_conv_bw,
        lambda key: rn(key, (4, 2), (3, 2, 3)),
        """
up_conv_bw
- dpre = jnp.where(pre > 0, dy, 0.1 * dy)
+ dpre = jnp.where(pre > 0, dy, 0.0)
- du = du.at[j : j + n].add(dpre @ k[j].T)
+ du = du.at[j : j + n].add(dpre @ k[2 - j].T)
- dx = du.reshape(-1, 2, x.shape[1]).sum(axis=1)
+ dx = du.reshape(-1, 2, x.shape[1]).mean(axis=1)
activation: leaky relu passes 0.1 on the negative side
@ dpre = jnp.where(pre > 0, dy, 0.0)
index: taps flipped twice, window j goes with tap j
@ du = du.at[j : j + n].add(dpre @ k[2 - j].T)
reduction: both copies of a sample add up, mean taken
@ dx = du.reshape(-1, 2, x.shape[1]).mean(axis=1)
    """,
    ),
    *wrong_rules(
        gat,
        right_gat_bw,
        lambda key: rn(key, (4, 3), (3, 3), (6,)),
        """
gat_bw
- ds = p * (dp - jax.ops.segment_sum(p * dp, RCV, 4)[RCV])
+ ds = p * dp
- dz = jnp.zeros_like(z).at[SND].add(p[:, None] * dy[RCV] + dcat[:, :m])
+ dz = jnp.zeros_like(z).at[SND].add(dy[RCV] + dcat[:, :m])
detached: normalisation over the incoming edges held fixed
@ ds = p * dp
factor: attention weight p left out of the message path
@ dz = jnp.zeros_like(z).at[SND].add(dy[RCV] + dcat[:, :m])
    """,
    ),
]
