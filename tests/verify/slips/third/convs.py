"""Rules with mistakes in the derivatives of convs."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


B, H, W, CI, CO, K = 2, 5, 5, 2, 3, 3

L = 9

IDS = jnp.array([[0, 2, 2], [5, 1, 0], [4, 4, 3]])

WEIGHTS = jnp.array([[1.0, 0.5, 0.0], [1.0, 1.0, 2.0], [0.5, 1.0, 1.5]])


def conv1d_strided(x, w, b):
    n = (L - K) // 2 + 1
    cols = [jnp.tensordot(x[2 * i : 2 * i + K], w, axes=[[0, 1], [0, 1]]) + b for i in range(n)]
    return jax.nn.relu(jnp.stack(cols))


def draw_conv1d(key):
    return normal(key, (L, CI), (K, CI, CO), (CO,))


def conv2d_im2col(x, w):
    oh, ow = H - K + 1, W - K + 1
    cols = jnp.stack([x[:, i : i + oh, j : j + ow, :] for i in range(K) for j in range(K)], axis=3)
    return cols.reshape(B, oh, ow, K * K * CI) @ w


def draw_im2col(key):
    return normal(key, (B, H, W, CI), (K * K * CI, CO))


def causal_depthwise(x, k):
    pad = jnp.concatenate([jnp.zeros((K - 1, x.shape[1])), x])
    return sum(k[j] * pad[j : j + x.shape[0]] for j in range(K))


def draw_depthwise(key):
    return normal(key, (L, 4), (K, 4))


def conv_bn_free(x, w, g):
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y * jax.nn.sigmoid(g)


def draw_lax(key):
    return normal(key, (B, 4, 4, CI), (3, 3, CI, CO), (CO,))


def pool_mix(x, lam):
    win = x.reshape(4, 2, 3)
    return lam * win.max(axis=1) + (1 - lam) * win.mean(axis=1)


def draw_pool(key):
    return normal(key, (8, 3), ())


def embedding_bag(table, w):
    e = table[IDS]
    bag = jnp.sum(WEIGHTS[..., None] * e, axis=1) / WEIGHTS.sum(1, keepdims=True)
    return jnp.tanh(bag) @ w


def draw_bag(key):
    return normal(key, (6, 4), (4, 2))


def right_conv1d_strided(args, ct):
    x, w, b = args
    y = conv1d_strided(x, w, b)
    g = ct * (y > 0)
    d_x, d_w = jnp.zeros_like(x), jnp.zeros_like(w)
    for i in range(g.shape[0]):
        patch = x[2 * i : 2 * i + K]
        d_w = d_w + patch[:, :, None] * g[i]
        d_x = d_x.at[2 * i : 2 * i + K].add(w @ g[i])
    d_b = g.sum(axis=0)
    return d_x, d_w, d_b


def right_conv2d_im2col(args, ct):
    x, w = args
    oh, ow = H - K + 1, W - K + 1
    cols = jnp.stack([x[:, i : i + oh, j : j + ow, :] for i in range(K) for j in range(K)], axis=3)
    cols = cols.reshape(-1, K * K * CI)
    dw = cols.T @ ct.reshape(-1, CO)
    dcols = (ct @ w.T).reshape(B, oh, ow, K, K, CI)
    dx = jnp.zeros_like(x)
    for i in range(K):
        for j in range(K):
            dx = dx.at[:, i : i + oh, j : j + ow].add(dcols[:, :, :, i, j])
    return dx, dw


def right_causal_depthwise(args, ct):
    x, k = args
    n = x.shape[0]
    pad = jnp.concatenate([jnp.zeros((K - 1, x.shape[1])), x])
    gk = jnp.stack([jnp.sum(ct * pad[j : j + n], axis=0) for j in range(K)])
    gpad = jnp.zeros_like(pad)
    for j in range(K):
        gpad = gpad.at[j : j + n].add(k[j] * ct)
    return gpad[K - 1 :], gk


def right_conv_gate(args, ct):
    x, w, g = args
    dn = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dn)
    s = jax.nn.sigmoid(g)
    dg = jnp.sum(ct * y, axis=(0, 1, 2)) * s * (1 - s)
    dy = ct * s
    w_flip = w[::-1, ::-1].transpose(0, 1, 3, 2)
    dx = jax.lax.conv_general_dilated(dy, w_flip, (1, 1), "SAME", dimension_numbers=dn)
    xp = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    dw = jnp.stack(
        [jnp.stack([jnp.einsum("bhwi,bhwo->io", xp[:, a : a + 4, b : b + 4], dy) for b in range(3)]) for a in range(3)]
    )
    return dx, dw, dg


def right_pool_mix(args, ct):
    x, lam = args
    win = x.reshape(4, 2, 3)
    top = win.max(axis=1, keepdims=True)
    hit = (win == top).astype(x.dtype)
    dmax = lam * ct[:, None, :] * hit
    davg = (1 - lam) * ct[:, None, :] / win.shape[1]
    dlam = jnp.sum(ct * (win.max(axis=1) - win.mean(axis=1)))
    return (dmax + davg).reshape(8, 3), dlam


def right_embedding_bag(args, ct):
    table, w = args
    norm = WEIGHTS / WEIGHTS.sum(1, keepdims=True)
    bag = jnp.tanh(jnp.einsum("bl,bld->bd", norm, table[IDS]))
    g_w = bag.T @ ct
    g_bag = (ct @ w.T) * (1 - bag**2)
    g_rows = norm[..., None] * g_bag[:, None, :]
    g_table = jnp.zeros_like(table).at[IDS.ravel()].add(g_rows.reshape(-1, table.shape[1]))
    return g_table, g_w


SINGLE = [
    *wrong_rules(
        conv1d_strided,
        right_conv1d_strided,
        draw_conv1d,
        """
conv1d_strided_bwd_2
- d_x = d_x.at[2 * i : 2 * i + K].add(w @ g[i])
+ d_x = d_x.at[2 * i : 2 * i + K].set(w @ g[i])
carry: overlapping windows overwrite one another: set in place of add
    """,
    ),
    *wrong_rules(
        conv2d_im2col,
        right_conv2d_im2col,
        draw_im2col,
        """
conv2d_im2col_bwd_1
- dx = dx.at[:, i : i + oh, j : j + ow].add(dcols[:, :, :, i, j])
+ dx = dx.at[:, i : i + oh, j : j + ow].add(dcols[:, :, :, j, i])
transpose: row and column of the kernel exchanged
    """,
    ),
    *wrong_rules(
        causal_depthwise,
        right_causal_depthwise,
        draw_depthwise,
        """
causal_depthwise_bwd_1
- return gpad[K - 1 :], gk
+ return gpad[:n], gk
index: padding cut off at the wrong end
    """,
    ),
    *wrong_rules(
        conv_bn_free,
        right_conv_gate,
        draw_lax,
        """
conv_gate_bwd_1
- w_flip = w[::-1, ::-1].transpose(0, 1, 3, 2)
+ w_flip = w.transpose(0, 1, 3, 2)
index: kernel not flipped for the gradient of the input
    """,
    ),
    *wrong_rules(
        pool_mix,
        right_pool_mix,
        draw_pool,
        """
pool_mix_bwd_2
- dmax = lam * ct[:, None, :] * hit
+ dmax = lam * ct[:, None, :] * jnp.ones_like(win)
mask: maximum's gradient goes to every entry of the window
    """,
    ),
    *wrong_rules(
        embedding_bag,
        right_embedding_bag,
        draw_bag,
        """
embedding_bag_bwd_2
- g_table = jnp.zeros_like(table).at[IDS.ravel()].add(g_rows.reshape(-1, table.shape[1]))
+ g_table = jnp.zeros_like(table).at[IDS.T.ravel()].add(g_rows.reshape(-1, table.shape[1]))
index: ids in transposed order against the rows
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        conv1d_strided,
        right_conv1d_strided,
        draw_conv1d,
        """
conv1d_strided_bwd_3
- patch = x[2 * i : 2 * i + K]
+ patch = x[i : i + K]
- d_x = d_x.at[2 * i : 2 * i + K].add(w @ g[i])
+ d_x = d_x.at[i : i + K].add(w @ g[i])
- d_b = g.sum(axis=0)
+ d_b = ct.sum(axis=0)
index: stride missing where the window is cut
@ patch = x[i : i + K]
operand: slope of relu not in the gradient of the bias
@ d_b = ct.sum(axis=0)
index: stride missing where the gradient is put back
@ d_x = d_x.at[i : i + K].add(w @ g[i])
    """,
    ),
    *wrong_rules(
        causal_depthwise,
        right_causal_depthwise,
        draw_depthwise,
        """
causal_depthwise_bwd_2
- gk = jnp.stack([jnp.sum(ct * pad[j : j + n], axis=0) for j in range(K)])
+ gk = jnp.stack([jnp.mean(ct * pad[j : j + n], axis=0) for j in range(K)])
- gpad = gpad.at[j : j + n].add(k[j] * ct)
+ gpad = gpad.at[j : j + n].add(k[K - 1 - j] * ct)
reduction: mean over time in place of the sum
@ gk = jnp.stack([jnp.mean(ct * pad[j : j + n], axis=0) for j in range(K)])
index: kernel reversed
@ gpad = gpad.at[j : j + n].add(k[K - 1 - j] * ct)
    """,
    ),
    *wrong_rules(
        conv_bn_free,
        right_conv_gate,
        draw_lax,
        """
conv_gate_bwd_2
- dg = jnp.sum(ct * y, axis=(0, 1, 2)) * s * (1 - s)
+ dg = jnp.sum(ct * y * s, axis=(0, 1, 2)) * s * (1 - s)
- dy = ct * s
+ dy = ct * g
factor: gate applied once too often: y is the value before the gate
@ dg = jnp.sum(ct * y * s, axis=(0, 1, 2)) * s * (1 - s)
operand: gate before the sigmoid in place of after
@ dy = ct * g
    """,
    ),
    *wrong_rules(
        pool_mix,
        right_pool_mix,
        draw_pool,
        """
pool_mix_bwd_3
- hit = (win == top).astype(x.dtype)
+ hit = (win < top).astype(x.dtype)
- davg = (1 - lam) * ct[:, None, :] / win.shape[1]
+ davg = (1 - lam) * ct[:, None, :]
- dlam = jnp.sum(ct * (win.max(axis=1) - win.mean(axis=1)))
+ dlam = jnp.sum(ct * win.max(axis=1))
term: part of (1 - lam) missing
@ dlam = jnp.sum(ct * win.max(axis=1))
mask: mask of the maximum the wrong way round
@ hit = (win < top).astype(x.dtype)
factor: 1/window of the average pool missing
@ davg = (1 - lam) * ct[:, None, :]
    """,
    ),
]
