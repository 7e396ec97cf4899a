"""Convolution, pooling, tables, grids and graphs."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def conv1d_loop(x, w, b):
    n, k = x.shape[1], w.shape[0]
    cols = [x[:, i : i + k] @ w for i in range(n - k + 1)]
    return jax.nn.leaky_relu(jnp.stack(cols, axis=1) + b, 0.1)


def draw_conv1d_loop(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (3, 7)), normal(b, (3,)), 0.5 * normal(c)


def right_conv1d_loop_bwd(args, ct):
    x, w, b = args
    K = len(w)
    L = x.shape[1] - K + 1
    pre = sum(w[j] * x[:, j : j + L] for j in range(K)) + b
    delta = ct * jnp.where(pre > 0, 1.0, 0.1)
    gx = jnp.zeros_like(x)
    gw = []
    for j in range(K):
        gx = gx.at[:, j : j + L].add(w[j] * delta)
        gw.append(jnp.sum(delta * x[:, j : j + L]))
    return gx, jnp.array(gw), delta.sum()


def im2col(img, ker):
    oh, ow = img.shape[1] - 1, img.shape[2] - 1
    p = [img[:, i : i + oh, j : j + ow] for i in range(2) for j in range(2)]
    cols = jnp.stack(p, axis=1).reshape(-1, oh * ow)
    out = ker.reshape(ker.shape[0], -1) @ cols
    return out.reshape(-1, oh, ow)


def draw_im2col(key):
    a, b = jax.random.split(key)
    return normal(a, (2, 4, 4)), normal(b, (3, 2, 2, 2))


def right_col2im(cols, c, oh, ow):
    cols = cols.reshape(c, 2, 2, oh, ow)
    img = jnp.zeros((c, oh + 1, ow + 1))
    for i in range(2):
        for j in range(2):
            img = img.at[:, i : i + oh, j : j + ow].add(cols[:, i, j])
    return img


def right_im2col_bwd(args, ct):
    img, ker = args
    c, oh, ow = img.shape[0], img.shape[1] - 1, img.shape[2] - 1
    patches = [img[:, i : i + oh, j : j + ow] for i in (0, 1) for j in (0, 1)]
    cols = jnp.stack(patches, axis=1).reshape(c * 4, -1)
    dy = ct.reshape(ct.shape[0], -1)
    d_ker = (dy @ cols.T).reshape(ker.shape)
    d_cols = ker.reshape(len(ker), -1).T @ dy
    return right_col2im(d_cols, c, oh, ow), d_ker


def col2im(cols, c, oh, ow):
    cols = cols.reshape(c, 2, 2, oh, ow)
    img = jnp.zeros((c, oh + 1, ow + 1))
    for i in range(2):
        for j in range(2):
            img = img.at[:, i : i + oh, j : j + ow].add(cols[:, j, i])
    return img


def causal_depthwise(x, w):
    T = x.shape[0]
    y = jnp.zeros_like(x)
    for k in range(w.shape[0]):
        y = y.at[k:].add(w[k] * x[: T - k])
    return y * jax.nn.sigmoid(y)


def draw_causal_depthwise(key):
    a, b = jax.random.split(key)
    return normal(a, (6, 4)), normal(b, (3, 4))


def right_causal_depthwise_bwd(args, ct):
    x, w = args
    T, K = x.shape[0], w.shape[0]
    xp = jnp.pad(x, ((K - 1, 0), (0, 0)))
    y = sum(w[k] * xp[K - 1 - k : K - 1 - k + T] for k in range(K))
    s = jax.nn.sigmoid(y)
    gy = ct * s * (1 + y * (1 - s))
    gyp = jnp.pad(gy, ((0, K - 1), (0, 0)))
    gx = sum(w[k] * gyp[k : k + T] for k in range(K))
    gw = jnp.stack([jnp.sum(gy * xp[K - 1 - k : K - 1 - k + T], axis=0) for k in range(K)])
    return gx, gw


def max_avg_pool(x, w):
    b = x.reshape(x.shape[0], -1, 2, x.shape[2])
    return w * b.max(axis=2) + (1 - w) * b.mean(axis=2)


def draw_max_avg_pool(key):
    a, b = jax.random.split(key)
    return normal(a, (2, 6, 3)), jax.random.uniform(b, (3,))


def right_max_avg_pool_vjp(args, ct):
    x, w = args
    blocks = x.reshape(x.shape[0], -1, 2, x.shape[2])
    top = jnp.max(blocks, axis=2, keepdims=True)
    avg = jnp.mean(blocks, axis=2, keepdims=True)
    winner = (blocks == top).astype(x.dtype)
    g = ct[:, :, None, :]
    g_top = g * w * winner
    g_avg = g * (1 - w) / 2
    g_w = jnp.sum(g * (top - avg), axis=(0, 1, 2))
    return (g_top + g_avg).reshape(x.shape), g_w


def lax_conv(x, w):
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.mean(jax.nn.relu(y) ** 2, axis=(1, 2))


def draw_lax_conv(key):
    a, b = jax.random.split(key)
    return normal(a, (2, 4, 4, 2)), 0.4 * normal(b, (3, 3, 2, 2))


def right_conv_same(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def right_lax_conv_bwd(args, ct):
    x, w = args
    y = right_conv_same(x, w)
    area = y.shape[1] * y.shape[2]
    dy = 2 * jax.nn.relu(y) * ct[:, None, None, :] / area
    flipped = w[::-1, ::-1]
    dx = right_conv_same(dy, flipped.transpose(0, 1, 3, 2))
    xp = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    dw = jnp.zeros_like(w)
    for i in range(3):
        for j in range(3):
            dw = dw.at[i, j].set(jnp.einsum("nhwi,nhwo->io", xp[:, i : i + 4, j : j + 4], dy))
    return dx, dw


def conv_same(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


KNOTS = 6


def lerp_table(table, s):
    u = jnp.clip(s, 0.01, 0.99) * (KNOTS - 1)
    i = jnp.floor(u).astype(int)
    f = (u - i)[:, None]
    return (1 - f) * table[i] + f * table[i + 1]


def draw_lerp_table(key):
    a, b = jax.random.split(key)
    return normal(a, (6, 3)), jax.random.uniform(b, (8,), minval=-0.2, maxval=1.2)


def right_lerp_table_grad(args, ct):
    table, s = args
    sc = jnp.clip(s, 0.01, 0.99)
    pos = sc * (KNOTS - 1)
    lo = jnp.floor(pos).astype(int)
    frac = (pos - lo)[:, None]
    d_table = jnp.zeros_like(table).at[lo].add((1 - frac) * ct)
    d_table = d_table.at[lo + 1].add(frac * ct)
    d_frac = jnp.sum(ct * (table[lo + 1] - table[lo]), axis=1)
    d_pos = d_frac * (KNOTS - 1)
    d_s = d_pos * (s == sc)
    return d_table, d_s


def heat_step(u, kappa, src):
    flux = kappa * (jnp.roll(u, -1) - u)
    return u + 0.2 * (flux - jnp.roll(flux, 1)) + src * u**2


def draw_heat_step(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (8,)), 1 + jax.random.uniform(b, (8,)), 0.5 * normal(c, (8,))


def right_heat_step_adj(args, ct):
    u, kappa, src = args
    g_flux = 0.2 * (ct - jnp.roll(ct, -1))
    g_kappa = g_flux * (jnp.roll(u, -1) - u)
    g_jump = g_flux * kappa
    g_u = ct + jnp.roll(g_jump, 1) - g_jump
    g_u = g_u + 2 * ct * src * u
    return g_u, g_kappa, ct * u**2


IDS = jnp.array([[0, 2, 2], [4, 1, 0], [3, 3, 3], [1, 5, 0]])

VALID = jnp.array([[1.0, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]])


def emb_bag(table, proj):
    e = table[IDS] * VALID[..., None]
    m = e.sum(1) / VALID.sum(1, keepdims=True)
    return jnp.arctan(m @ proj)


def draw_emb_bag(key):
    a, b = jax.random.split(key)
    return normal(a, (6, 3)), normal(b, (3, 4))


def right_emb_bag_bwd(args, ct):
    table, proj = args
    count = VALID.sum(1, keepdims=True)
    weights = VALID / count
    m = jnp.einsum("bl,bld->bd", weights, table[IDS])
    z = m @ proj
    dz = ct / (1 + z**2)
    d_proj = m.T @ dz
    dm = dz @ proj.T
    de = weights[:, :, None] * dm[:, None, :]
    d_table = jnp.zeros_like(table).at[IDS.ravel()].add(de.reshape(-1, 3))
    return d_table, d_proj


SRC = jnp.array([0, 1, 1, 2, 3, 4, 4])

DST = jnp.array([1, 0, 2, 3, 2, 0, 3])


def gcn(x, w, ew):
    h = x @ w
    return jax.nn.elu(jax.ops.segment_sum(ew[:, None] * h[SRC], DST, 5) + h)


def draw_gcn(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (5, 3)), normal(b, (3, 4)), normal(c, (7,))


def right_gcn_bwd(args, ct):
    x, w, ew = args
    h = x @ w
    agg = h + jax.ops.segment_sum(ew[:, None] * h[SRC], DST, num_segments=5)
    slope = jnp.where(agg > 0, 1.0, jnp.exp(agg))
    g_agg = ct * slope
    g_msg = g_agg[DST]
    g_ew = jnp.sum(g_msg * h[SRC], axis=-1)
    g_h = jax.ops.segment_sum(ew[:, None] * g_msg, SRC, num_segments=5)
    g_h = g_h + g_agg
    return g_h @ w.T, x.T @ g_h, g_ew


SND = jnp.array([0, 1, 2, 3, 0, 2, 3, 1])

RCV = jnp.array([0, 0, 1, 1, 2, 2, 2, 3])


def edge_softmax(logit, feat):
    e = jnp.exp(logit)
    a = e / jax.ops.segment_sum(e, RCV, 4)[RCV]
    return jax.ops.segment_sum(a[:, None] * feat[SND], RCV, 4)


def draw_edge_softmax(key):
    a, b = jax.random.split(key)
    return normal(a, (8,)), normal(b, (4, 3))


def right_edge_softmax_vjp(args, ct):
    logit, feat = args
    e = jnp.exp(logit)
    a = e / jax.ops.segment_sum(e, RCV, 4)[RCV]
    g_edge = ct[RCV]
    g_feat = jnp.zeros_like(feat).at[SND].add(a[:, None] * g_edge)
    g_a = jnp.einsum("ef,ef->e", g_edge, feat[SND])
    centre = jax.ops.segment_sum(a * g_a, RCV, 4)
    g_logit = a * (g_a - centre[RCV])
    return g_logit, g_feat


def col2im_x(cols, c, oh, ow):
    cols = cols.reshape(c, 2, 2, oh, ow)
    img = jnp.zeros((c, oh + 1, ow + 1))
    for i in range(2):
        for j in range(2):
            img = img.at[:, i : i + oh, j : j + ow].set(cols[:, i, j])
    return img


def conv_same_x(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


SINGLE = [
    *wrong_rules(
        conv1d_loop,
        right_conv1d_loop_bwd,
        draw_conv1d_loop,
        """
conv1d_loop
- delta = ct * jnp.where(pre > 0, 1.0, 0.1)
+ delta = ct * jnp.where(pre > 0, 1.0, 0.0)
activation: slope of relu, the leak 0.1 is lost
    """,
    ),
    *wrong_rules(
        im2col,
        right_im2col_bwd,
        draw_im2col,
        """
im2col
- return right_col2im(d_cols, c, oh, ow), d_ker
+ return col2im(d_cols, c, oh, ow), d_ker
index: row and column offset of the kernel swapped
@ img = img.at[:, i : i + oh, j : j + ow].add(cols[:, j, i])
    """,
    ),
    *wrong_rules(
        causal_depthwise,
        right_causal_depthwise_bwd,
        draw_causal_depthwise,
        """
causal_depthwise
- gyp = jnp.pad(gy, ((0, K - 1), (0, 0)))
+ gyp = jnp.pad(gy, ((K - 1, 0), (0, 0)))
index: padded at the start; the adjoint of a causal filter looks ahead
    """,
    ),
    *wrong_rules(
        max_avg_pool,
        right_max_avg_pool_vjp,
        draw_max_avg_pool,
        """
max_avg_pool
- g_avg = g * (1 - w) / 2
+ g_avg = g * (1 - w)
constant: window size 1/2 of the mean is missing

max_avg_pool_b
- g_top = g * w * winner
+ g_top = g * w * (blocks > 0)
mask: mask of a relu in place of the mask of the maximum
    """,
    ),
    *wrong_rules(
        lax_conv,
        right_lax_conv_bwd,
        draw_lax_conv,
        """
lax_conv
- y = right_conv_same(x, w)
+ y = conv_same(x, w)
- dx = right_conv_same(dy, flipped.transpose(0, 1, 3, 2))
+ dx = conv_same(dy, flipped)
transpose: input and output channels of the kernel must be swapped
@ dx = conv_same(dy, flipped)
    """,
    ),
    *wrong_rules(
        lerp_table,
        right_lerp_table_grad,
        draw_lerp_table,
        """
lerp_table
- d_s = d_pos * (s == sc)
+ d_s = d_pos
mask: clipped positions must get no gradient
    """,
    ),
    *wrong_rules(
        heat_step,
        right_heat_step_adj,
        draw_heat_step,
        """
heat_step
- g_flux = 0.2 * (ct - jnp.roll(ct, -1))
+ g_flux = 0.2 * (ct - jnp.roll(ct, 1))
index: roll in the forward's direction instead of its adjoint

heat_step_b
- g_u = g_u + 2 * ct * src * u
+ g_u = g_u + ct * src * u
constant: 2 of the square is missing
    """,
    ),
    *wrong_rules(
        emb_bag,
        right_emb_bag_bwd,
        draw_emb_bag,
        """
emb_bag
- d_table = jnp.zeros_like(table).at[IDS.ravel()].add(de.reshape(-1, 3))
+ d_table = jnp.zeros_like(table).at[IDS.ravel()].set(de.reshape(-1, 3))
carry: repeated ids overwrite each other
    """,
    ),
    *wrong_rules(
        gcn,
        right_gcn_bwd,
        draw_gcn,
        """
gcn
- g_h = jax.ops.segment_sum(ew[:, None] * g_msg, SRC, num_segments=5)
+ g_h = jax.ops.segment_sum(ew[:, None] * g_msg, DST, num_segments=5)
index: messages sent back to the targets instead of the sources

gcn_b
- g_h = jax.ops.segment_sum(ew[:, None] * g_msg, SRC, num_segments=5)
-     g_h = g_h + g_agg
+ g_h = jax.ops.segment_sum(ew[:, None] * g_msg, SRC, num_segments=5)
term: self loop's contribution is missing
@ return g_h @ w.T, x.T @ g_h, g_ew
    """,
    ),
    *wrong_rules(
        edge_softmax,
        right_edge_softmax_vjp,
        draw_edge_softmax,
        """
edge_softmax
- centre = jax.ops.segment_sum(a * g_a, RCV, 4)
+ centre = jax.ops.segment_sum(g_a, RCV, 4)
factor: attention weight missing from the softmax mean
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        im2col,
        right_im2col_bwd,
        draw_im2col,
        """
im2col_x
- patches = [img[:, i : i + oh, j : j + ow] for i in (0, 1) for j in (0, 1)]
+ patches = [img[:, j : j + oh, i : i + ow] for i in (0, 1) for j in (0, 1)]
- return right_col2im(d_cols, c, oh, ow), d_ker
+ return col2im_x(d_cols, c, oh, ow), d_ker
carry: overlapping patches overwritten, must be added
@ img = img.at[:, i : i + oh, j : j + ow].set(cols[:, i, j])
index: patch offsets swapped
@ patches = [img[:, j : j + oh, i : i + ow] for i in (0, 1) for j in (0, 1)]
    """,
    ),
    *wrong_rules(
        causal_depthwise,
        right_causal_depthwise_bwd,
        draw_causal_depthwise,
        """
causal_depthwise_x
- gy = ct * s * (1 + y * (1 - s))
+ gy = ct * s * (1 - s)
- gw = jnp.stack([jnp.sum(gy * xp[K - 1 - k : K - 1 - k + T], axis=0) for k in range(K)])
+ gw = jnp.stack([jnp.sum(gy * xp[k : k + T], axis=0) for k in range(K)])
activation: slope of the sigmoid in place of that of swish
@ gy = ct * s * (1 - s)
index: taps in reversed order
@ gw = jnp.stack([jnp.sum(gy * xp[k : k + T], axis=0) for k in range(K)])
    """,
    ),
    *wrong_rules(
        lax_conv,
        right_lax_conv_bwd,
        draw_lax_conv,
        """
lax_conv_x
- y = right_conv_same(x, w)
+ y = conv_same_x(x, w)
- dy = 2 * jax.nn.relu(y) * ct[:, None, None, :] / area
+ dy = jax.nn.relu(y) * ct[:, None, None, :] / area
- dx = right_conv_same(dy, flipped.transpose(0, 1, 3, 2))
+ dx = conv_same_x(dy, flipped.transpose(0, 1, 3, 2))
- dw = dw.at[i, j].set(jnp.einsum("nhwi,nhwo->io", xp[:, i : i + 4, j : j + 4], dy))
+ dw = dw.at[i, j].set(jnp.einsum("nhwi,nhwo->oi", xp[:, i : i + 4, j : j + 4], dy))
constant: factor 2 of the square missing
@ dy = jax.nn.relu(y) * ct[:, None, None, :] / area
transpose: output letters of the einsum swapped
@ dw = dw.at[i, j].set(jnp.einsum("nhwi,nhwo->oi", xp[:, i : i + 4, j : j + 4], dy))
    """,
    ),
    *wrong_rules(
        lerp_table,
        right_lerp_table_grad,
        draw_lerp_table,
        """
lerp_table_x
- d_table = jnp.zeros_like(table).at[lo].add((1 - frac) * ct)
+ d_table = jnp.zeros_like(table).at[lo].set((1 - frac) * ct)
- d_pos = d_frac * (KNOTS - 1)
+ d_pos = d_frac / (KNOTS - 1)
factor: division in place of product
@ d_pos = d_frac / (KNOTS - 1)
carry: set loses repeated knots
@ d_table = jnp.zeros_like(table).at[lo].set((1 - frac) * ct)
    """,
    ),
    *wrong_rules(
        emb_bag,
        right_emb_bag_bwd,
        draw_emb_bag,
        """
emb_bag_x
- weights = VALID / count
+ weights = jnp.ones_like(VALID) / count
- dz = ct / (1 + z**2)
+ dz = ct * (1 - z**2)
mask: padding mask dropped
@ weights = jnp.ones_like(VALID) / count
activation: tanh-like slope in place of that of arctan
@ dz = ct * (1 - z**2)
    """,
    ),
    *wrong_rules(
        edge_softmax,
        right_edge_softmax_vjp,
        draw_edge_softmax,
        """
edge_softmax_x
- g_feat = jnp.zeros_like(feat).at[SND].add(a[:, None] * g_edge)
+ g_feat = jnp.zeros_like(feat).at[SND].add(g_edge)
- g_logit = a * (g_a - centre[RCV])
+ g_logit = a * g_a
factor: attention weight missing
@ g_feat = jnp.zeros_like(feat).at[SND].add(g_edge)
detached: normaliser taken for constant
@ g_logit = a * g_a
    """,
    ),
]
