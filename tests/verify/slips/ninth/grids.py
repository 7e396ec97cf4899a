"""Rules with mistakes in the derivatives of grids."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def conv1d_fwd(x, w, b):
    T = x.shape[0] - w.shape[0] + 1
    return jnp.stack([jnp.einsum("kc,kco->o", x[t : t + 3], w) for t in range(T)]) + b


def conv1d_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (7, 2)), jax.random.normal(b, (3, 2, 4)), jax.random.normal(c, (4,))


def right_conv1d(args, ct):
    x, w, b = args
    K = w.shape[0]
    T = ct.shape[0]
    gx = jnp.zeros_like(x)
    gw = jnp.zeros_like(w)
    for k in range(K):
        gw = gw.at[k].set(x[k : k + T].T @ ct)
        gx = gx.at[k : k + T].add(ct @ w[k].T)
    gb = ct.sum(axis=0)
    return gx, gw, gb


def conv2d_fwd(x, w):
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")
    return jax.nn.leaky_relu(y, 0.2)


def conv2d_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (2, 2, 5, 5)), jax.random.normal(b, (3, 2, 2, 3))


def right_conv2d(args, ct):
    x, w = args
    kh, kw = w.shape[2:]
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")
    dy = ct * jnp.where(y > 0, 1.0, 0.2)
    wt = jnp.flip(w, (2, 3)).transpose(1, 0, 2, 3)
    pad = [(kh - 1, kh - 1), (kw - 1, kw - 1)]
    dx = jax.lax.conv_general_dilated(dy, wt, (1, 1), pad)
    xs = x.transpose(1, 0, 2, 3)
    dys = dy.transpose(1, 0, 2, 3)
    dw = jax.lax.conv_general_dilated(xs, dys, (1, 1), "VALID")
    return dx, dw.transpose(1, 0, 2, 3)


def im2col_fwd(img, K, bias):
    H, W = img.shape
    cols = jnp.stack([img[i : i + 2, j : j + 2].ravel() for i in range(H - 1) for j in range(W - 1)])
    return jnp.tanh(cols @ K + bias)


def im2col_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (4, 5)), jax.random.normal(b, (4, 3)) * 0.5, jax.random.normal(c, (3,)) * 0.5


def right_im2col(args, ct):
    img, K, bias = args
    H, W = img.shape
    where = [(i, j) for i in range(H - 1) for j in range(W - 1)]
    cols = jnp.stack([img[i : i + 2, j : j + 2].reshape(-1) for i, j in where])
    out = jnp.tanh(cols @ K + bias)
    dz = ct * (1 - out**2)
    dK = cols.T @ dz
    dbias = dz.sum(0)
    dcols = dz @ K.T
    dimg = jnp.zeros_like(img)
    for n, (i, j) in enumerate(where):
        dimg = dimg.at[i : i + 2, j : j + 2].add(dcols[n].reshape(2, 2))
    return dimg, dK, dbias


def maxpool_fwd(x, g):
    b, h, w = x.shape
    p = x.reshape(b, h // 2, 2, w // 2, 2).max((2, 4))
    return p * g


def maxpool_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (2, 4, 4)), jax.random.normal(b, (2,))


def right_maxpool(args, ct):
    x, g = args
    b, h, w = x.shape
    blocks = x.reshape(b, h // 2, 2, w // 2, 2)
    p = blocks.max((2, 4), keepdims=True)
    hit = blocks == p
    d_g = jnp.sum(ct * p[:, :, 0, :, 0], axis=(0, 1))
    d_p = ct * g
    d_blocks = hit * d_p[:, :, None, :, None]
    return d_blocks.reshape(x.shape), d_g


def avgpool_fwd(x, w):
    h = jnp.stack([x[:, i : i + 4 : 1].mean(1) for i in range(0, 5, 2)], 1)
    return jax.nn.gelu(h, approximate=False) @ w


def avgpool_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (2, 8, 3)), jax.random.normal(b, (3, 2))


def right_avgpool(args, ct):
    x, w = args
    h = jnp.stack([x[:, i : i + 4].mean(1) for i in (0, 2, 4)], axis=1)
    cdf = 0.5 * (1 + jax.scipy.special.erf(h / jnp.sqrt(2.0)))
    pdf = jnp.exp(-0.5 * h * h) / jnp.sqrt(2 * jnp.pi)
    grad_w = jnp.einsum("nlc,nlo->co", h * cdf, ct)
    grad_h = (ct @ w.T) * (cdf + h * pdf)
    grad_x = jnp.zeros_like(x)
    for n, start in enumerate((0, 2, 4)):
        share = grad_h[:, n : n + 1] / 4
        grad_x = grad_x.at[:, start : start + 4].add(share)
    return grad_x, grad_w


def upsample_fwd(x):
    left = x[:, :-1]
    right = x[:, 1:]
    mid = 0.75 * left + 0.25 * right
    return jnp.concatenate([x, mid**2], 1)


def upsample_draw(key):
    return (jax.random.normal(key, (3, 5)),)


def right_upsample(args, ct):
    (x,) = args
    n = x.shape[1]
    mid = 0.75 * x[:, :-1] + 0.25 * x[:, 1:]
    g = ct[:, :n]
    gm = ct[:, n:] * 2 * mid
    g = g.at[:, :-1].add(0.75 * gm)
    g = g.at[:, 1:].add(0.25 * gm)
    return (g,)


SRC = jnp.array([0, 1, 2, 3, 0, 4, 2])

DST = jnp.array([1, 2, 0, 0, 3, 3, 4])


def gcn_fwd(X, W, Ws):
    deg = jax.ops.segment_sum(jnp.ones(7), DST, 5)
    agg = jax.ops.segment_sum((X @ W)[SRC], DST, 5) / deg[:, None]
    return jax.nn.relu(agg + X @ Ws)


def gcn_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5, 3)), jax.random.normal(b, (3, 4)), jax.random.normal(c, (3, 4))


def right_gcn(args, ct):
    X, W, Ws = args
    deg = jax.ops.segment_sum(jnp.ones(7), DST, 5)[:, None]
    XW = X @ W
    pre = jax.ops.segment_sum(XW[SRC], DST, 5) / deg + X @ Ws
    d_pre = jnp.where(pre > 0, ct, 0)
    d_Ws = X.T @ d_pre
    d_msg = (d_pre / deg)[DST]
    d_XW = jax.ops.segment_sum(d_msg, SRC, 5)
    d_W = X.T @ d_XW
    d_X = d_XW @ W.T + d_pre @ Ws.T
    return d_X, d_W, d_Ws


def gat_fwd(h, a_src, a_dst):
    e = jnp.tanh((h @ a_src)[SRC] + (h @ a_dst)[DST])
    p = jnp.exp(e)
    tot = jax.ops.segment_sum(p, DST, 5)
    alpha = p / tot[DST]
    return jax.ops.segment_sum(alpha[:, None] * h[SRC], DST, 5)


def gat_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5, 3)), jax.random.normal(b, (3,)), jax.random.normal(c, (3,))


def right_gat(args, ct):
    h, a_src, a_dst = args
    e = jnp.tanh((h @ a_src)[SRC] + (h @ a_dst)[DST])
    p = jnp.exp(e)
    alpha = p / jax.ops.segment_sum(p, DST, 5)[DST]
    gh = jnp.zeros_like(h).at[SRC].add(alpha[:, None] * ct[DST])
    galpha = jnp.sum(ct[DST] * h[SRC], axis=1)
    inner = jax.ops.segment_sum(galpha * alpha, DST, 5)
    ge = alpha * (galpha - inner[DST])
    gs = ge * (1 - e**2)
    node_s = jnp.zeros(5).at[SRC].add(gs)
    node_d = jnp.zeros(5).at[DST].add(gs)
    gh = gh + jnp.outer(node_s, a_src)
    gh = gh + jnp.outer(node_d, a_dst)
    return gh, h.T @ node_s, h.T @ node_d


IDS = jnp.array([[0, 3, 3, 5], [2, 3, 1, 0]])

TOKMASK = jnp.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])


def bag_fwd(table, pos, W):
    e = table[IDS] + pos
    m = TOKMASK[..., None]
    pooled = (e * m).sum(1) / m.sum(1)
    return jnp.tanh(pooled @ W)


def bag_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 3)), jax.random.normal(b, (4, 3)), jax.random.normal(c, (3, 2))


def right_bag(args, ct):
    table, pos, W = args
    m = TOKMASK[..., None]
    pooled = ((table[IDS] + pos) * m).sum(1) / m.sum(1)
    y = jnp.tanh(pooled @ W)
    dy = ct * (1 - y * y)
    dW = pooled.T @ dy
    dpool = dy @ W.T / m.sum(1)
    de = dpool[:, None, :] * m
    dpos = de.sum(axis=0)
    dtable = jnp.zeros_like(table).at[IDS.ravel()].add(de.reshape(-1, 3))
    return dtable, dpos, dW


SINGLE = [
    *wrong_rules(
        conv1d_fwd,
        right_conv1d,
        conv1d_draw,
        """
conv1d_a
- gx = gx.at[k : k + T].add(ct @ w[k].T)
+ gx = gx.at[k : k + T].add(ct @ w[K - 1 - k].T)
index: kernel index flipped
    """,
    ),
    *wrong_rules(
        conv2d_fwd,
        right_conv2d,
        conv2d_draw,
        """
conv2d_a
- wt = jnp.flip(w, (2, 3)).transpose(1, 0, 2, 3)
+ wt = w.transpose(1, 0, 2, 3)
transpose: kernel not flipped
    """,
    ),
    *wrong_rules(
        im2col_fwd,
        right_im2col,
        im2col_draw,
        """
im2col_a
- dimg = dimg.at[i : i + 2, j : j + 2].add(dcols[n].reshape(2, 2))
+ dimg = dimg.at[i : i + 2, j : j + 2].set(dcols[n].reshape(2, 2))
carry: overlapping patches overwritten instead of added
    """,
    ),
    *wrong_rules(
        maxpool_fwd,
        right_maxpool,
        maxpool_draw,
        """
maxpool_a
- d_p = ct * g
+ d_p = ct
factor: gain g missing
    """,
    ),
    *wrong_rules(
        avgpool_fwd,
        right_avgpool,
        avgpool_draw,
        """
avgpool_a
- share = grad_h[:, n : n + 1] / 4
+ share = grad_h[:, n : n + 1]
factor: 1/window size missing
    """,
    ),
    *wrong_rules(
        upsample_fwd,
        right_upsample,
        upsample_draw,
        """
upsample_a
- g = g.at[:, 1:].add(0.25 * gm)
+ g = g.at[:, 1:].add(0.75 * gm)
constant: weight of the left neighbour for the right one
    """,
    ),
    *wrong_rules(
        gcn_fwd,
        right_gcn,
        gcn_draw,
        """
gcn_a
- d_msg = (d_pre / deg)[DST]
+ d_msg = (d_pre / deg)[SRC]
index: gathered at the source instead of the target
    """,
    ),
    *wrong_rules(
        gat_fwd,
        right_gat,
        gat_draw,
        """
gat_a
- ge = alpha * (galpha - inner[DST])
+ ge = alpha * (galpha - inner[SRC])
index: softmax sum gathered at the source node
    """,
    ),
    *wrong_rules(
        bag_fwd,
        right_bag,
        bag_draw,
        """
bag_a
- de = dpool[:, None, :] * m
+ de = dpool[:, None, :] * (1 - m)
mask: mask inverted
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        conv1d_fwd,
        right_conv1d,
        conv1d_draw,
        """
conv1d_b
- gx = gx.at[k : k + T].add(ct @ w[k].T)
+ gx = gx.at[k : k + T].set(ct @ w[k].T)
- gb = ct.sum(axis=0)
+ gb = ct.mean(axis=0)
carry: set instead of add over the taps
@ gx = gx.at[k : k + T].set(ct @ w[k].T)
reduction: mean over positions
@ gb = ct.mean(axis=0)
    """,
    ),
    *wrong_rules(
        conv2d_fwd,
        right_conv2d,
        conv2d_draw,
        """
conv2d_b
- dy = ct * jnp.where(y > 0, 1.0, 0.2)
+ dy = ct * jnp.where(y > 0, 1.0, 0.0)
- dys = dy.transpose(1, 0, 2, 3)
+ dys = ct.transpose(1, 0, 2, 3)
activation: relu slope for a leaky relu
@ dy = ct * jnp.where(y > 0, 1.0, 0.0)
operand: ct in place of dy for the weights
@ dys = ct.transpose(1, 0, 2, 3)
    """,
    ),
    *wrong_rules(
        im2col_fwd,
        right_im2col,
        im2col_draw,
        """
im2col_b
- dz = ct * (1 - out**2)
+ dz = ct * (1 - out)
- dimg = dimg.at[i : i + 2, j : j + 2].add(dcols[n].reshape(2, 2))
+ dimg = dimg.at[i : i + 2, j : j + 2].add(dcols[n].reshape(2, 2).T)
transpose: patch transposed
@ dimg = dimg.at[i : i + 2, j : j + 2].add(dcols[n].reshape(2, 2).T)
activation: tanh slope without the square
@ dz = ct * (1 - out)
    """,
    ),
    *wrong_rules(
        maxpool_fwd,
        right_maxpool,
        maxpool_draw,
        """
maxpool_b
- hit = blocks == p
+ hit = blocks == blocks.max(4, keepdims=True)
- d_g = jnp.sum(ct * p[:, :, 0, :, 0], axis=(0, 1))
+ d_g = jnp.sum(ct * p[:, :, 0, :, 0], axis=(0, 2))
axis: summed over the width instead of the height
@ d_g = jnp.sum(ct * p[:, :, 0, :, 0], axis=(0, 2))
mask: maximum over rows only, several entries per window
@ hit = blocks == blocks.max(4, keepdims=True)
    """,
    ),
    *wrong_rules(
        avgpool_fwd,
        right_avgpool,
        avgpool_draw,
        """
avgpool_b
- grad_w = jnp.einsum("nlc,nlo->co", h * cdf, ct)
+ grad_w = jnp.einsum("nlc,nlo->co", h, ct)
- grad_h = (ct @ w.T) * (cdf + h * pdf)
+ grad_h = (ct @ w.T) * cdf
activation: h * pdf missing in the gelu slope
@ grad_h = (ct @ w.T) * cdf
operand: input of the gelu in place of its output
@ grad_w = jnp.einsum("nlc,nlo->co", h, ct)
    """,
    ),
    *wrong_rules(
        upsample_fwd,
        right_upsample,
        upsample_draw,
        """
upsample_b
- gm = ct[:, n:] * 2 * mid
+ gm = ct[:, n:] * mid
- g = g.at[:, :-1].add(0.75 * gm)
+ g = g.at[:, :-1].set(0.75 * gm)
constant: 2 of the square missing
@ gm = ct[:, n:] * mid
carry: direct path overwritten
@ g = g.at[:, :-1].set(0.75 * gm)
    """,
    ),
    *wrong_rules(
        gcn_fwd,
        right_gcn,
        gcn_draw,
        """
gcn_b
- d_Ws = X.T @ d_pre
+ d_Ws = X.T @ ct
- d_msg = (d_pre / deg)[DST]
+ d_msg = d_pre[DST]
factor: degree normalisation missing
@ d_msg = d_pre[DST]
operand: relu mask missing for the self weights
@ d_Ws = X.T @ ct
    """,
    ),
    *wrong_rules(
        gat_fwd,
        right_gat,
        gat_draw,
        """
gat_b
- gs = ge * (1 - e**2)
+ gs = ge * (1 - e)
- gh = gh + jnp.outer(node_s, a_src)
-     gh = gh + jnp.outer(node_d, a_dst)
+ gh = gh + jnp.outer(node_s, a_src)
term: path of h through the target score left out
@ return gh, h.T @ node_s, h.T @ node_d
activation: tanh slope without the square
@ gs = ge * (1 - e)
    """,
    ),
    *wrong_rules(
        bag_fwd,
        right_bag,
        bag_draw,
        """
bag_b
- dpos = de.sum(axis=0)
+ dpos = de.mean(axis=0)
- dtable = jnp.zeros_like(table).at[IDS.ravel()].add(de.reshape(-1, 3))
+ dtable = jnp.zeros_like(table).at[IDS.ravel()].set(de.reshape(-1, 3))
carry: repeated ids overwritten
@ dtable = jnp.zeros_like(table).at[IDS.ravel()].set(de.reshape(-1, 3))
reduction: mean over the batch
@ dpos = de.mean(axis=0)
    """,
    ),
]
