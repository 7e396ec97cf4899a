"""Rules with mistakes in norms, recurrent cells and convolutions."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal

G = 2


def groupnorm(x, scale, shift):
    b, l, c = x.shape
    xg = x.reshape(b, l, G, c // G)
    mu = xg.mean(axis=(1, 3), keepdims=True)
    var = xg.var(axis=(1, 3), keepdims=True)
    xn = (xg - mu) / jnp.sqrt(var + 1e-5)
    return xn.reshape(b, l, c) * scale + shift


def draw_groupnorm(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (2, 3, 4)), 1 + 0.3 * normal(k[1], (4,)), normal(k[2], (4,))


def right_groupnorm(args, dy):
    x, scale, shift = args
    b, l, c = x.shape
    xg = x.reshape(b, l, G, c // G)
    ax = (1, 3)
    xm = xg - xg.mean(axis=ax, keepdims=True)
    inv = 1 / jnp.sqrt(jnp.mean(xm**2, axis=ax, keepdims=True) + 1e-5)
    xn = xm * inv
    dshift = dy.sum(axis=(0, 1))
    dscale = jnp.sum(dy * xn.reshape(b, l, c), axis=(0, 1))
    dn = (dy * scale).reshape(b, l, G, c // G)
    m1 = dn.mean(axis=ax, keepdims=True)
    m2 = (dn * xn).mean(axis=ax, keepdims=True)
    dx = inv * (dn - m1 - xn * m2)
    return dx.reshape(x.shape), dscale, dshift


def rnn_scan(xs, h0, Wx, Wh, b):
    def step(h, x):
        h = jnp.tanh(x @ Wx + h @ Wh + b)
        return h, h

    return lax.scan(step, h0, xs)[1]


def draw_rnn_scan(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (5, 3)),
        normal(k[1], (4,)),
        0.5 * normal(k[2], (3, 4)),
        0.5 * normal(k[3], (4, 4)),
        0.3 * normal(k[4], (4,)),
    )


def right_rnn_scan(args, dhs):
    xs, h0, Wx, Wh, b = args

    def step(h, x):
        h = jnp.tanh(x @ Wx + h @ Wh + b)
        return h, h

    _, hs = lax.scan(step, h0, xs)
    prev = jnp.concatenate([h0[None], hs[:-1]], axis=0)

    def back(carry, inp):
        dh_next, gWx, gWh, gb = carry
        x, h, hp, dh_out = inp
        dh = dh_out + dh_next
        da = dh * (1 - h**2)
        gWx = gWx + jnp.outer(x, da)
        gWh = gWh + jnp.outer(hp, da)
        gb = gb + da
        dx = Wx @ da
        dh_prev = Wh @ da
        return (dh_prev, gWx, gWh, gb), dx

    init = (jnp.zeros_like(h0), jnp.zeros_like(Wx), jnp.zeros_like(Wh), jnp.zeros_like(b))
    (dh0, gWx, gWh, gb), dxs = lax.scan(back, init, (xs, hs, prev, dhs), reverse=True)
    return dxs, dh0, gWx, gWh, gb


def lstm_cell(x, h, c, W, U, b):
    i, f, o, g = jnp.split(x @ W + h @ U + b, 4, axis=-1)
    c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c_new), c_new


def draw_lstm_cell(key):
    k = jax.random.split(key, 6)
    return (
        normal(k[0], (3, 2)),
        normal(k[1], (3, 4)),
        normal(k[2], (3, 4)),
        normal(k[3], (2, 16)),
        0.6 * normal(k[4], (4, 16)),
        normal(k[5], (16,)),
    )


def right_lstm_cell(args, cts):
    x, h, c, W, U, b = args
    dh_new, dc_new = cts
    zi, zf, zo, zg = jnp.split(x @ W + h @ U + b, 4, axis=-1)
    i, f, o = jax.nn.sigmoid(zi), jax.nn.sigmoid(zf), jax.nn.sigmoid(zo)
    g = jnp.tanh(zg)
    c_new = f * c + i * g
    tc = jnp.tanh(c_new)
    do = dh_new * tc
    dc_tot = dc_new + dh_new * o * (1 - tc**2)
    di = dc_tot * g
    df = dc_tot * c
    dg = dc_tot * i
    dc = dc_tot * f
    dzg = dg * (1 - g**2)
    dz = jnp.concatenate([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dzg], axis=-1)
    return dz @ W.T, dz @ U.T, dc, x.T @ dz, h.T @ dz, dz.sum(0)


def gru_loop(xs, h, W, U):
    d = h.shape[0]
    for t in range(xs.shape[0]):
        wx = W @ xs[t]
        uh = U @ h
        z = jax.nn.sigmoid(wx[:d] + uh[:d])
        r = jax.nn.sigmoid(wx[d : 2 * d] + uh[d : 2 * d])
        n = jnp.tanh(wx[2 * d :] + r * uh[2 * d :])
        h = (1 - z) * n + z * h
    return h


def draw_gru_loop(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (4, 2)), normal(k[1], (3,)), 0.8 * normal(k[2], (9, 2)), 0.8 * normal(k[3], (9, 3))


def right_gru_loop(args, dh):
    xs, h, W, U = args
    d = h.shape[0]
    saved = []
    for t in range(xs.shape[0]):
        wx, uh = W @ xs[t], U @ h
        z = jax.nn.sigmoid(wx[:d] + uh[:d])
        r = jax.nn.sigmoid(wx[d : 2 * d] + uh[d : 2 * d])
        n = jnp.tanh(wx[2 * d :] + r * uh[2 * d :])
        saved.append((h, z, r, n, uh[2 * d :]))
        h = (1 - z) * n + z * h
    dW, dU, dxs = jnp.zeros_like(W), jnp.zeros_like(U), jnp.zeros_like(xs)
    for t in reversed(range(xs.shape[0])):
        hp, z, r, n, un = saved[t]
        da_n = dh * (1 - z) * (1 - n**2)
        da_z = dh * (hp - n) * z * (1 - z)
        da_r = da_n * un * r * (1 - r)
        d_wx = jnp.concatenate([da_z, da_r, da_n])
        d_uh = jnp.concatenate([da_z, da_r, da_n * r])
        dW = dW + jnp.outer(d_wx, xs[t])
        dU = dU + jnp.outer(d_uh, hp)
        dxs = dxs.at[t].set(W.T @ d_wx)
        dh = dh * z + U.T @ d_uh
    return dxs, dh, dW, dU


DIL = 2


def conv1d_causal(x, w, b):
    k = w.shape[0]
    n = x.shape[0]
    xp = jnp.pad(x, (((k - 1) * DIL, 0), (0, 0)))
    y = b
    for j in range(k):
        y = y + xp[j * DIL : j * DIL + n] @ w[j]
    return jnp.tanh(y)


def draw_conv1d_causal(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (8, 2)), 0.6 * normal(k[1], (3, 2, 3)), 0.4 * normal(k[2], (3,))


def right_conv1d_causal(args, gy):
    x, w, b = args
    k, n = w.shape[0], x.shape[0]
    left = (k - 1) * DIL
    xp = jnp.pad(x, ((left, 0), (0, 0)))
    pre = b + sum(xp[j * DIL : j * DIL + n] @ w[j] for j in range(k))
    ga = gy * (1 - jnp.tanh(pre) ** 2)
    gxp = jnp.zeros_like(xp)
    gw = []
    for j in range(k):
        gw.append(xp[j * DIL : j * DIL + n].T @ ga)
        gxp = gxp.at[j * DIL : j * DIL + n].add(ga @ w[j].T)
    gx = gxp[left:]
    return gx, jnp.stack(gw), ga.sum(0)


DN = ("NHWC", "HWIO", "NHWC")


def conv_lax(x, w):
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DN)
    return y / (1.0 + jnp.abs(y))


def draw_conv_lax(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (2, 4, 4, 2)), 0.6 * normal(k[1], (3, 3, 2, 3))


def right_conv_lax(args, g):
    x, w = args
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DN)
    g = g / (1.0 + jnp.abs(y)) ** 2
    flipped = w[::-1, ::-1]
    dx = lax.conv_general_dilated(g, flipped.swapaxes(2, 3), (1, 1), "SAME", dimension_numbers=DN)
    xp = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    H, W = x.shape[1:3]
    patch = lambda i, j: xp[:, i : i + H, j : j + W]
    dw = jnp.stack([jnp.stack([jnp.einsum("bhwi,bhwo->io", patch(i, j), g) for j in range(3)]) for i in range(3)])
    return dx, dw


def pool_head(x, w):
    b, h, wd, c = x.shape
    xb = x.reshape(b, h // 2, 2, wd // 2, 2, c)
    m = xb.max(axis=(2, 4))
    return m.mean(axis=(1, 2)) @ w


def draw_pool_head(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (2, 4, 6, 3)), normal(k[1], (3, 2))


def right_pool_head(args, d_out):
    x, w = args
    b, h, wd, c = x.shape
    xb = x.reshape(b, h // 2, 2, wd // 2, 2, c)
    m = xb.max(axis=(2, 4), keepdims=True)
    feat = m.mean(axis=(1, 3)).reshape(b, c)
    d_w = feat.T @ d_out
    d_feat = d_out @ w.T
    d_m = d_feat / ((h // 2) * (wd // 2))
    hit = (xb == m).astype(x.dtype)
    d_x = hit * d_m[:, None, None, None, None, :]
    return d_x.reshape(x.shape), d_w


BAGS = jnp.array([[0, 2, 2], [4, 1, 0], [3, 3, 5], [5, 0, 2]])

BAGW = jnp.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]], jnp.float32)


def embed_bag(table, w):
    e = table[BAGS] * BAGW[..., None]
    mean = e.sum(axis=1) / BAGW.sum(axis=1, keepdims=True)
    return jnp.tanh(mean) @ w


def draw_embed_bag(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (6, 3)), normal(k[1], (3, 4))


def right_embed_bag(args, ct):
    table, w = args
    count = BAGW.sum(axis=1, keepdims=True)
    mean = (table[BAGS] * BAGW[..., None]).sum(axis=1) / count
    t = jnp.tanh(mean)
    w_bar = t.T @ ct
    mean_bar = (ct @ w.T) * (1 - t * t)
    sum_bar = mean_bar / count
    rows = sum_bar[:, None, :] * BAGW[..., None]
    table_bar = jnp.zeros_like(table).at[BAGS].add(rows)
    return table_bar, w_bar


def conv2d_cols(img, ker):
    kh, kw, ci, co = ker.shape
    h, w = img.shape[0] - kh + 1, img.shape[1] - kw + 1
    cols = jnp.stack([img[i : i + h, j : j + w] for i in range(kh) for j in range(kw)], axis=2)
    return jax.nn.relu(cols.reshape(h * w, -1) @ ker.reshape(-1, co)).reshape(h, w, co)


def draw_conv2d_cols(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (5, 6, 2)), normal(k[1], (2, 3, 2, 3))


def right_conv2d_cols(args, grad):
    img, ker = args
    kh, kw, ci, co = ker.shape
    h, w = img.shape[0] - kh + 1, img.shape[1] - kw + 1
    offsets = [(i, j) for i in range(kh) for j in range(kw)]
    cols = jnp.stack([img[i : i + h, j : j + w] for i, j in offsets], axis=2).reshape(h * w, -1)
    kmat = ker.reshape(-1, co)
    out = cols @ kmat
    grad = jnp.where(out > 0, grad.reshape(h * w, co), 0.0)
    grad_ker = (cols.T @ grad).reshape(ker.shape)
    grad_cols = (grad @ kmat.T).reshape(h, w, kh * kw, ci)
    grad_img = jnp.zeros_like(img)
    for m, (i, j) in enumerate(offsets):
        grad_img = grad_img.at[i : i + h, j : j + w].add(grad_cols[:, :, m])
    return grad_img, grad_ker


SINGLE = [
    *wrong_rules(
        groupnorm,
        right_groupnorm,
        draw_groupnorm,
        """
groupnorm_m1_per_channel
- m1 = dn.mean(axis=ax, keepdims=True)
+ m1 = dn.mean(axis=1, keepdims=True)
axis: mean over positions only, the channels of the group left out
    """,
    ),
    *wrong_rules(
        rnn_scan,
        right_rnn_scan,
        draw_rnn_scan,
        """
rnn_scan_carry_dropped
- dh = dh_out + dh_next
+ dh = dh_out
carry: gradient carried from the next step not added
    """,
    ),
    *wrong_rules(
        lstm_cell,
        right_lstm_cell,
        draw_lstm_cell,
        """
lstm_cell_dc_dropped
- dc_tot = dc_new + dh_new * o * (1 - tc**2)
+ dc_tot = dh_new * o * (1 - tc**2)
term: direct cotangent of the cell state not added
    """,
    ),
    *wrong_rules(
        gru_loop,
        right_gru_loop,
        draw_gru_loop,
        """
gru_loop_reset_missing
- d_uh = jnp.concatenate([da_z, da_r, da_n * r])
+ d_uh = jnp.concatenate([da_z, da_r, da_n])
factor: reset gate missing on the recurrent path of the candidate
    """,
    ),
    *wrong_rules(
        conv1d_causal,
        right_conv1d_causal,
        draw_conv1d_causal,
        """
conv1d_causal_crop
- gx = gxp[left:]
+ gx = gxp[:n]
index: padding cropped from the wrong end
    """,
    ),
    *wrong_rules(
        conv_lax,
        right_conv_lax,
        draw_conv_lax,
        """
conv_lax_no_flip
- flipped = w[::-1, ::-1]
+ flipped = w
index: kernel not flipped in space
    """,
    ),
    *wrong_rules(
        pool_head,
        right_pool_head,
        draw_pool_head,
        """
pool_head_mask
- hit = (xb == m).astype(x.dtype)
+ hit = (xb < m).astype(x.dtype)
mask: gradient sent to the losers of the max
    """,
    ),
    *wrong_rules(
        embed_bag,
        right_embed_bag,
        draw_embed_bag,
        """
embed_bag_scatter_set
- table_bar = jnp.zeros_like(table).at[BAGS].add(rows)
+ table_bar = jnp.zeros_like(table).at[BAGS].set(rows)
reduction: repeated ids overwrite each other instead of adding
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        rnn_scan,
        right_rnn_scan,
        draw_rnn_scan,
        """
rnn_scan_carry_pair
- gb = gb + da
+ gb = da
- dx = Wx @ da
+ dx = Wx @ da * 0.5
- dh_prev = Wh @ da
+ dh_prev = Wh @ dh
operand: dh instead of the pre-activation gradient da
@ dh_prev = Wh @ dh
carry: bias gradient overwritten at every step
@ gb = da
constant: stray one half
@ dx = Wx @ da * 0.5
    """,
    ),
    *wrong_rules(
        lstm_cell,
        right_lstm_cell,
        draw_lstm_cell,
        """
lstm_cell_three
- do = dh_new * tc
+ do = dh_new * c_new
- dc = dc_tot * f
+ dc = dc_tot
- return dz @ W.T, dz @ U.T, dc, x.T @ dz, h.T @ dz, dz.sum(0)
+ return dz @ W.T, dz @ U.T, dc, x.T @ dz, h.T @ dz, dz.mean(0)
operand: tanh of the cell state forgotten in the output gate
@ do = dh_new * c_new
carry: forget gate missing in the carried cell gradient
@ dc = dc_tot
reduction: bias gradient averaged over the batch
@ return dz @ W.T, dz @ U.T, dc, x.T @ dz, h.T @ dz, dz.mean(0)
    """,
    ),
    *wrong_rules(
        gru_loop,
        right_gru_loop,
        draw_gru_loop,
        """
gru_loop_three
- dW = dW + jnp.outer(d_wx, xs[t])
+ dW = jnp.outer(d_wx, xs[t])
- dxs = dxs.at[t].set(W.T @ d_wx)
+ dxs = dxs.at[t - 1].set(W.T @ d_wx)
- dh = dh * z + U.T @ d_uh
+ dh = dh * (1 - z) + U.T @ d_uh
index: input gradient written one step too early
@ dxs = dxs.at[t - 1].set(W.T @ d_wx)
carry: 1 - z in place of z on the direct path
@ dh = dh * (1 - z) + U.T @ d_uh
carry: weight gradient overwritten instead of accumulated
@ dW = jnp.outer(d_wx, xs[t])
    """,
    ),
    *wrong_rules(
        conv1d_causal,
        right_conv1d_causal,
        draw_conv1d_causal,
        """
conv1d_causal_two
- gw.append(xp[j * DIL : j * DIL + n].T @ ga)
+ gw.append(xp[j : j + n].T @ ga)
- gxp = gxp.at[j * DIL : j * DIL + n].add(ga @ w[j].T)
+ gxp = gxp.at[j * DIL : j * DIL + n].set(ga @ w[j].T)
carry: overlapping windows overwritten instead of added
@ gxp = gxp.at[j * DIL : j * DIL + n].set(ga @ w[j].T)
index: dilation left out of the window for the weights
@ gw.append(xp[j : j + n].T @ ga)
    """,
    ),
    *wrong_rules(
        conv2d_cols,
        right_conv2d_cols,
        draw_conv2d_cols,
        """
conv2d_cols_two
- grad = jnp.where(out > 0, grad.reshape(h * w, co), 0.0)
+ grad = grad.reshape(h * w, co)
- grad_img = grad_img.at[i : i + h, j : j + w].add(grad_cols[:, :, m])
+ grad_img = grad_img.at[i : i + h, j : j + w].add(grad_cols[:, :, m] / (kh * kw))
mask: relu gate missing
@ grad = grad.reshape(h * w, co)
reduction: average over kernel positions instead of their sum
@ grad_img = grad_img.at[i : i + h, j : j + w].add(grad_cols[:, :, m] / (kh * kw))
    """,
    ),
    *wrong_rules(
        embed_bag,
        right_embed_bag,
        draw_embed_bag,
        """
embed_bag_two
- mean_bar = (ct @ w.T) * (1 - t * t)
+ mean_bar = (ct @ w.T) * (1 - mean * mean)
- sum_bar = mean_bar / count
+ sum_bar = mean_bar / BAGS.shape[1]
constant: divided by the bag width instead of the number of real ids
@ sum_bar = mean_bar / BAGS.shape[1]
activation: tanh slope in the wrong variable
@ mean_bar = (ct @ w.T) * (1 - mean * mean)
    """,
    ),
]
