"""Rules with mistakes in the derivatives of conv."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

SRC = jnp.asarray([0, 1, 2, 2, 3, 4, 0, 1])

DST = jnp.asarray([1, 0, 0, 3, 2, 3, 4, 4])

DEG = jnp.zeros(5).at[DST].add(1.0)

NODES = 5

IDS = jnp.asarray([[1, 3, 3], [0, 2, 4], [5, 1, 1], [2, 0, 0]])

KEEP = jnp.asarray([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], jnp.float32)


def normals(*shapes):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))

    return draw


def conv1d(x, w, b):
    n = x.shape[0] - w.shape[0] + 1
    return jnp.stack([jnp.einsum("kc,kcd->d", x[t : t + w.shape[0]], w) for t in range(n)]) + b


def right_conv1d(args, ct):
    x, w, b = args
    K = w.shape[0]
    n_out = ct.shape[0]
    gx, gw = jnp.zeros_like(x), jnp.zeros_like(w)
    for k in range(K):
        gx = gx.at[k : k + n_out].add(ct @ w[k].T)
        gw = gw.at[k].set(x[k : k + n_out].T @ ct)
    gb = jnp.sum(ct, axis=0)
    return gx, gw, gb


def maxpool_scaled(x, s):
    h, w = x.shape
    y = x.reshape(h // 2, 2, w // 2, 2).max(axis=(1, 3))
    return y * s


def right_maxpool(args, ct):
    x, s = args
    h, w = x.shape
    blocks = x.reshape(h // 2, 2, w // 2, 2)
    y = blocks.max(axis=(1, 3), keepdims=True)
    winner = (blocks == y).astype(x.dtype)
    gy = (ct * s)[:, None, :, None]
    gx = (winner * gy).reshape(h, w)
    gs = jnp.sum(ct * y[:, 0, :, 0], axis=0)
    return gx, gs


def im2col_conv(img, ker):
    H, W = img.shape
    kh, kw = ker.shape[1:]
    cols = jnp.stack([img[i : i + kh, j : j + kw].ravel() for i in range(H - kh + 1) for j in range(W - kw + 1)])
    return jax.nn.relu(cols @ ker.reshape(ker.shape[0], -1).T)


def right_im2col(args, ct):
    img, ker = args
    H, W = img.shape
    F, kh, kw = ker.shape
    ho, wo = H - kh + 1, W - kw + 1
    cols = jnp.stack([img[i : i + kh, j : j + kw].ravel() for i in range(ho) for j in range(wo)])
    kmat = ker.reshape(F, -1)
    pre = cols @ kmat.T
    dpre = jnp.where(pre > 0, ct, 0.0)
    dker = (dpre.T @ cols).reshape(F, kh, kw)
    dcols = dpre @ kmat
    dimg = jnp.zeros_like(img)
    for i in range(ho):
        for j in range(wo):
            patch = dcols[i * wo + j].reshape(kh, kw)
            dimg = dimg.at[i : i + kh, j : j + kw].add(patch)
    return dimg, dker


def gcn(x, w1, w2):
    def agg(h):
        return jnp.zeros_like(h).at[DST].add(h[SRC]) / DEG[:, None]

    h = jax.nn.relu(agg(x @ w1))
    return agg(h @ w2)


def right_gcn(args, ct):
    x, w1, w2 = args

    def agg(h):
        return jax.ops.segment_sum(h[SRC], DST, num_segments=NODES) / DEG[:, None]

    def agg_t(g):
        return jax.ops.segment_sum((g / DEG[:, None])[DST], SRC, num_segments=NODES)

    a = agg(x @ w1)
    h = jnp.maximum(a, 0)
    m = agg_t(ct)
    gw2 = h.T @ m
    ga = (m @ w2.T) * (a > 0)
    n = agg_t(ga)
    return n @ w1.T, x.T @ n, gw2


def embedding_bag(table, w):
    e = table[IDS] * KEEP[..., None]
    mean = e.sum(1) / KEEP.sum(1, keepdims=True)
    return jnp.sin(mean @ w)


def right_embedding_bag(args, ct):
    table, w = args
    cnt = KEEP.sum(axis=1, keepdims=True)
    bag = jnp.einsum("bl,bld->bd", KEEP, table[IDS]) / cnt
    g = ct * jnp.cos(bag @ w)
    dw = bag.T @ g
    dbag = g @ w.T / cnt
    drows = KEEP[:, :, None] * dbag[:, None, :]
    dtable = jnp.zeros_like(table).at[IDS.ravel()].add(drows.reshape(-1, table.shape[1]))
    return dtable, dw


SINGLE = [
    *wrong_rules(
        conv1d,
        right_conv1d,
        normals((7, 2), (3, 2, 4), (4,)),
        """
conv1d_a
- gx = gx.at[k : k + n_out].add(ct @ w[k].T)
+ gx = gx.at[k : k + n_out].add(ct @ w[K - 1 - k].T)
index: kernel flipped although the forward is a correlation

conv1d_b
- gw = gw.at[k].set(x[k : k + n_out].T @ ct)
+ gw = gw.at[k].set(x[:n_out].T @ ct)
index: window of the input not shifted with the tap
    """,
    ),
    *wrong_rules(
        maxpool_scaled,
        right_maxpool,
        normals((4, 6), (3,)),
        """
maxpool_a
- gx = (winner * gy).reshape(h, w)
+ gx = (jnp.ones_like(winner) * gy).reshape(h, w)
mask: gradient given to every element and not to the maximum only
    """,
    ),
    *wrong_rules(
        im2col_conv,
        right_im2col,
        normals((5, 7), (3, 2, 3)),
        """
im2col_a
- patch = dcols[i * wo + j].reshape(kh, kw)
+ patch = dcols[i * ho + j].reshape(kh, kw)
index: row stride ho in place of wo
    """,
    ),
    *wrong_rules(
        gcn,
        right_gcn,
        normals((5, 3), (3, 4), (4, 2)),
        """
gcn_a
- return jax.ops.segment_sum((g / DEG[:, None])[DST], SRC, num_segments=NODES)
+ return jax.ops.segment_sum((g / DEG[:, None])[SRC], DST, num_segments=NODES)
index: gathers at the senders and sums at the receivers (forward direction again)

gcn_b
- return jax.ops.segment_sum((g / DEG[:, None])[DST], SRC, num_segments=NODES)
+ return jax.ops.segment_sum(g[DST], SRC, num_segments=NODES)
factor: division by the degree missing
    """,
    ),
    *wrong_rules(
        embedding_bag,
        right_embedding_bag,
        normals((6, 3), (3, 2)),
        """
embedding_bag_a
- dtable = jnp.zeros_like(table).at[IDS.ravel()].add(drows.reshape(-1, table.shape[1]))
+ dtable = jnp.zeros_like(table).at[IDS.ravel()].set(drows.reshape(-1, table.shape[1]))
reduction: repeated ids overwritten in place of added

embedding_bag_b
- drows = KEEP[:, :, None] * dbag[:, None, :]
+ drows = jnp.ones_like(KEEP)[:, :, None] * dbag[:, None, :]
mask: padding gets a gradient as well
    """,
    ),
]
