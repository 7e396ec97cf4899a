"""Rules with mistakes in the derivatives of graph."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.slips.changes import wrong_rules

RS = np.random.RandomState(11)

SND = jnp.asarray([0, 1, 2, 3, 4, 1, 0, 3, 2])

RCV = jnp.asarray([1, 0, 0, 2, 3, 4, 2, 4, 3])

N = 5

ESND = jnp.asarray([0, 1, 2, 3, 4, 1, 0, 3, 2, 4, 2, 0, 4, 1, 3, 3])

ERCV = jnp.asarray([1, 0, 0, 2, 3, 4, 2, 4, 3, 0, 1, 4, 1, 2, 0, 1])

COORDS = jnp.asarray(RS.rand(6, 2) * 3.0, jnp.float32)

CTX = jnp.asarray([[0, 1, 1, 4], [2, 3, 0, 0], [5, 5, 2, 1]])

CENTER = jnp.asarray([2, 2, 4])


def normals(*shapes, s=1.0):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(s * jax.random.normal(k, sh) for k, sh in zip(keys, shapes))

    return draw


def gat(x, w, a_src, a_dst):
    h = x @ w
    e = jax.nn.leaky_relu((h @ a_src)[ESND] + (h @ a_dst)[ERCV], 0.2)
    ex = jnp.exp(e)
    al = ex / jax.ops.segment_sum(ex, ERCV, N)[ERCV]
    return jax.ops.segment_sum(al[:, None] * h[ESND], ERCV, N)


def right_gat(args, ct):
    x, w, a_src, a_dst = args
    h = x @ w
    pre = (h @ a_src)[ESND] + (h @ a_dst)[ERCV]
    ex = jnp.exp(jnp.where(pre > 0, pre, 0.2 * pre))
    att = ex / jax.ops.segment_sum(ex, ERCV, N)[ERCV]
    d_msg = ct[ERCV]
    d_att = jnp.sum(d_msg * h[ESND], axis=1)
    mean = jax.ops.segment_sum(att * d_att, ERCV, N)
    d_e = att * (d_att - mean[ERCV])
    d_pre = d_e * jnp.where(pre > 0, 1.0, 0.2)
    d_s = jax.ops.segment_sum(d_pre, ESND, N)
    d_r = jax.ops.segment_sum(d_pre, ERCV, N)
    d_h = jax.ops.segment_sum(att[:, None] * d_msg, ESND, N)
    d_h = d_h + jnp.outer(d_s, a_src) + jnp.outer(d_r, a_dst)
    return d_h @ w.T, x.T @ d_h, h.T @ d_s, h.T @ d_r


def edge_mlp(nodes, edges, wm, wo):
    m = jnp.tanh(jnp.concatenate([nodes[SND], nodes[RCV], edges], axis=1) @ wm)
    agg = jnp.zeros((N, m.shape[1])).at[RCV].add(m)
    return nodes + agg @ wo


def right_edge_mlp(args, ct):
    nodes, edges, wm, wo = args
    d = nodes.shape[1]
    inp = jnp.concatenate([nodes[SND], nodes[RCV], edges], axis=1)
    m = jnp.tanh(inp @ wm)
    agg = jnp.zeros((N, m.shape[1])).at[RCV].add(m)
    g_wo = agg.T @ ct
    g_m = (ct @ wo.T)[RCV]
    g_pre = g_m * (1 - m * m)
    g_wm = inp.T @ g_pre
    g_inp = g_pre @ wm.T
    g_nodes = ct.at[SND].add(g_inp[:, :d])
    g_nodes = g_nodes.at[RCV].add(g_inp[:, d : 2 * d])
    return g_nodes, g_inp[:, 2 * d :], g_wm, g_wo


def moe(x, wg, we):
    gate = jax.nn.softmax(x @ wg, axis=-1)
    y = jnp.tanh(jnp.einsum("nd,edf->nef", x, we))
    return jnp.einsum("ne,nef->nf", gate, y)


def right_moe(args, ct):
    x, wg, we = args
    gate = jax.nn.softmax(x @ wg, axis=-1)
    y = jnp.tanh(jnp.einsum("nd,edf->nef", x, we))
    d_gate = jnp.einsum("nf,nef->ne", ct, y)
    d_y = jnp.einsum("nf,ne->nef", ct, gate)
    d_pre = d_y * (1 - y**2)
    d_log = gate * (d_gate - jnp.sum(gate * d_gate, axis=-1, keepdims=True))
    d_we = jnp.einsum("nd,nef->edf", x, d_pre)
    d_x = jnp.einsum("nef,edf->nd", d_pre, we) + d_log @ wg.T
    return d_x, x.T @ d_log, d_we


def top1_moe(x, wg, we):
    p = jax.nn.softmax(x @ wg, axis=1)
    k = jnp.argmax(p, axis=1)
    w = jnp.take_along_axis(p, k[:, None], axis=1)
    return w * jnp.einsum("nd,ndf->nf", x, we[k])


def right_top1(args, ct):
    x, wg, we = args
    p = jax.nn.softmax(x @ wg, axis=1)
    k = jnp.argmax(p, axis=1)
    sel = jax.nn.one_hot(k, p.shape[1])
    w = (p * sel).sum(axis=1, keepdims=True)
    yk = jnp.einsum("nd,ndf->nf", x, we[k])
    gw = (ct * yk).sum(axis=1, keepdims=True)
    gz = gw * w * (sel - p)
    gy = w * ct
    gx = jnp.einsum("nf,ndf->nd", gy, we[k]) + gz @ wg.T
    gwe = jnp.zeros_like(we).at[k].add(x[:, :, None] * gy[:, None, :])
    return gx, x.T @ gz, gwe


def conv2d(x, w, b):
    y = lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return jax.nn.relu(y + b[None, :, None, None])


def right_conv2d(args, ct):
    x, w, b = args
    kh, kw = w.shape[2:]
    ho, wo = ct.shape[2:]
    y = lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    g = ct * (y + b[None, :, None, None] > 0)
    dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
    for i in range(kh):
        for j in range(kw):
            rows, cols = slice(i, i + 2 * ho, 2), slice(j, j + 2 * wo, 2)
            win = x[:, :, rows, cols]
            dw = dw.at[:, :, i, j].set(jnp.einsum("nohw,nchw->oc", g, win))
            dx = dx.at[:, :, rows, cols].add(jnp.einsum("nohw,oc->nchw", g, w[:, :, i, j]))
    db = g.sum(axis=(0, 2, 3))
    return dx, dw, db


def depthwise_pool(x, w):
    k = w.shape[0]
    xp = jnp.pad(x, ((k - 1, 0), (0, 0)))
    y = sum(xp[i : i + x.shape[0]] * w[i] for i in range(k))
    y = y * jax.nn.sigmoid(y)
    return y.reshape(-1, 2, y.shape[1]).mean(1)


def right_depthwise(args, ct):
    x, w = args
    T, k = x.shape[0], w.shape[0]
    xp = jnp.pad(x, ((k - 1, 0), (0, 0)))
    y = sum(xp[i : i + T] * w[i] for i in range(k))
    s = jax.nn.sigmoid(y)
    dact = jnp.repeat(ct, 2, axis=0) / 2
    dy = dact * (s + y * s * (1 - s))
    dw = jnp.stack([(dy * xp[i : i + T]).sum(axis=0) for i in range(k)])
    dxp = jnp.zeros_like(xp)
    for i in range(k):
        dxp = dxp.at[i : i + T].add(dy * w[i])
    return dxp[k - 1 :], dw


def bilinear(img, shift):
    p = jnp.clip(COORDS + shift, 0.0, 3.999)
    i = jnp.floor(p).astype(int)
    f = p - i
    r, c = i[:, 0], i[:, 1]
    top = (1 - f[:, 1]) * img[r, c] + f[:, 1] * img[r, c + 1]
    bot = (1 - f[:, 1]) * img[r + 1, c] + f[:, 1] * img[r + 1, c + 1]
    return (1 - f[:, 0]) * top + f[:, 0] * bot


def right_bilinear(args, ct):
    img, shift = args
    p = jnp.clip(COORDS + shift, 0.0, 3.999)
    i = jnp.floor(p).astype(int)
    f = p - i
    r, c, fr, fc = i[:, 0], i[:, 1], f[:, 0], f[:, 1]
    g = jnp.zeros_like(img)
    g = g.at[r, c].add(ct * (1 - fr) * (1 - fc))
    g = g.at[r, c + 1].add(ct * (1 - fr) * fc)
    g = g.at[r + 1, c].add(ct * fr * (1 - fc))
    g = g.at[r + 1, c + 1].add(ct * fr * fc)
    dr = (1 - fc) * (img[r + 1, c] - img[r, c]) + fc * (img[r + 1, c + 1] - img[r, c + 1])
    dc = (1 - fr) * (img[r, c + 1] - img[r, c]) + fr * (img[r + 1, c + 1] - img[r + 1, c])
    return g, jnp.stack([jnp.dot(ct, dr), jnp.dot(ct, dc)])


def draw_image(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (5, 5)), 0.4 + 0.05 * jax.random.normal(b, (2,))


def cbow(emb, out):
    h = emb[CTX].mean(axis=1)
    s = h @ out.T
    return jnp.take_along_axis(jax.nn.log_softmax(s, axis=1), CENTER[:, None], axis=1)[:, 0]


def right_cbow(args, ct):
    emb, out = args
    h = emb[CTX].mean(axis=1)
    p = jax.nn.softmax(h @ out.T, axis=1)
    err = (jax.nn.one_hot(CENTER, out.shape[0]) - p) * ct[:, None]
    d_out = err.T @ h
    d_h = err @ out
    d_rows = jnp.broadcast_to(d_h[:, None, :] / CTX.shape[1], (*CTX.shape, emb.shape[1]))
    d_emb = jnp.zeros_like(emb).at[CTX].add(d_rows)
    return d_emb, d_out


SEVERAL = [
    *wrong_rules(
        gat,
        right_gat,
        normals((5, 3), (3, 4), (4,), (4,), s=0.7),
        """
gat_a
- d_pre = d_e * jnp.where(pre > 0, 1.0, 0.2)
+ d_pre = d_e * jnp.where(pre > 0, 1.0, 0.0)
- d_h = d_h + jnp.outer(d_s, a_src) + jnp.outer(d_r, a_dst)
+ d_h = d_h + jnp.outer(d_s, a_src)
activation: relu's slope for the leaky one
@ d_pre = d_e * jnp.where(pre > 0, 1.0, 0.0)
term: receivers' share of the scores is missing
@ d_h = d_h + jnp.outer(d_s, a_src)

gat_b
- mean = jax.ops.segment_sum(att * d_att, ERCV, N)
+ mean = jax.ops.segment_sum(att * d_att, ESND, N)
- return d_h @ w.T, x.T @ d_h, h.T @ d_s, h.T @ d_r
+ return d_h @ w.T, x.T @ d_h, h.T @ d_s, h.T @ d_s
index: softmax summed by sender in place of receiver
@ mean = jax.ops.segment_sum(att * d_att, ESND, N)
operand: senders' scores for the receivers' vector
@ return d_h @ w.T, x.T @ d_h, h.T @ d_s, h.T @ d_s
    """,
    ),
    *wrong_rules(
        edge_mlp,
        right_edge_mlp,
        normals((5, 2), (9, 3), (7, 4), (4, 2), s=0.7),
        """
edge_mlp_b
- agg = jnp.zeros((N, m.shape[1])).at[RCV].add(m)
+ agg = jnp.zeros((N, m.shape[1])).at[RCV].set(m)
- g_pre = g_m * (1 - m * m)
+ g_pre = g_m * (1 - m)
reduction: incoming messages overwrite each other
@ agg = jnp.zeros((N, m.shape[1])).at[RCV].set(m)
activation: 1 - m for 1 - m^2
@ g_pre = g_m * (1 - m)
    """,
    ),
    *wrong_rules(
        moe,
        right_moe,
        normals((6, 3), (3, 4), (4, 3, 3)),
        """
moe_b
- d_log = gate * (d_gate - jnp.sum(gate * d_gate, axis=-1, keepdims=True))
+ d_log = gate * (d_gate - jnp.sum(gate * d_gate, axis=0, keepdims=True))
- d_we = jnp.einsum("nd,nef->edf", x, d_pre)
+ d_we = jnp.einsum("nd,nef->edf", x, d_y)
axis: gate's softmax summed over the tokens
@ d_log = gate * (d_gate - jnp.sum(gate * d_gate, axis=0, keepdims=True))
operand: gradient after tanh instead of before
@ d_we = jnp.einsum("nd,nef->edf", x, d_y)
    """,
    ),
    *wrong_rules(
        top1_moe,
        right_top1,
        normals((7, 3), (3, 3), (3, 3, 2)),
        """
top1_a
- gz = gw * w * (sel - p)
+ gz = gw * w * (p - sel)
- gwe = jnp.zeros_like(we).at[k].add(x[:, :, None] * gy[:, None, :])
+ gwe = jnp.zeros_like(we).at[k].set(x[:, :, None] * gy[:, None, :])
sign: p - onehot in place of onehot - p
@ gz = gw * w * (p - sel)
reduction: tokens of the same expert overwrite each other
@ gwe = jnp.zeros_like(we).at[k].set(x[:, :, None] * gy[:, None, :])

top1_b
- gx = jnp.einsum("nf,ndf->nd", gy, we[k]) + gz @ wg.T
+ gx = jnp.einsum("nf,ndf->nd", gy, we[k])
- gwe = jnp.zeros_like(we).at[k].add(x[:, :, None] * gy[:, None, :])
+ gwe = jnp.zeros_like(we).at[k].add(x[:, :, None] * ct[:, None, :])
term: router's path to the input is missing
@ gx = jnp.einsum("nf,ndf->nd", gy, we[k])
operand: cotangent not weighted by the router
@ gwe = jnp.zeros_like(we).at[k].add(x[:, :, None] * ct[:, None, :])
    """,
    ),
    *wrong_rules(
        conv2d,
        right_conv2d,
        normals((2, 2, 7, 7), (3, 2, 3, 3), (3,)),
        """
conv2d_a
- g = ct * (y + b[None, :, None, None] > 0)
+ g = ct * (y > 0)
- dx = dx.at[:, :, rows, cols].add(jnp.einsum("nohw,oc->nchw", g, w[:, :, i, j]))
+ dx = dx.at[:, :, rows, cols].add(jnp.einsum("nohw,oc->nchw", g, w[:, :, j, i]))
mask: relu's mask without the bias
@ g = ct * (y > 0)
index: taps exchanged (j, i)
@ dx = dx.at[:, :, rows, cols].add(jnp.einsum("nohw,oc->nchw", g, w[:, :, j, i]))

conv2d_c
- dx = dx.at[:, :, rows, cols].add(jnp.einsum("nohw,oc->nchw", g, w[:, :, i, j]))
+ dx = dx.at[:, :, rows, cols].set(jnp.einsum("nohw,oc->nchw", g, w[:, :, i, j]))
- db = g.sum(axis=(0, 2, 3))
+ db = g.mean(axis=(2, 3)).sum(0)
reduction: overlapping windows overwrite each other
@ dx = dx.at[:, :, rows, cols].set(jnp.einsum("nohw,oc->nchw", g, w[:, :, i, j]))
reduction: mean over the positions in place of a sum
@ db = g.mean(axis=(2, 3)).sum(0)
    """,
    ),
    *wrong_rules(
        depthwise_pool,
        right_depthwise,
        normals((6, 2), (3, 2)),
        """
depthwise_a
- dact = jnp.repeat(ct, 2, axis=0) / 2
+ dact = jnp.repeat(ct, 2, axis=0)
- dy = dact * (s + y * s * (1 - s))
+ dy = dact * (y * s * (1 - s))
- return dxp[k - 1 :], dw
+ return dxp[:T], dw
factor: 1/2 of the average pooling missing
@ dact = jnp.repeat(ct, 2, axis=0)
term: only y s' of the product rule
@ dy = dact * (y * s * (1 - s))
index: padding cut off at the wrong end
@ return dxp[:T], dw
    """,
    ),
    *wrong_rules(
        bilinear,
        right_bilinear,
        draw_image,
        """
bilinear_a
- g = g.at[r, c + 1].add(ct * (1 - fr) * fc)
+ g = g.at[r, c + 1].add(ct * fr * (1 - fc))
- return g, jnp.stack([jnp.dot(ct, dr), jnp.dot(ct, dc)])
+ return g, jnp.stack([jnp.dot(ct, dr), -jnp.dot(ct, dc)])
operand: weight of the lower left corner on the upper right one
@ g = g.at[r, c + 1].add(ct * fr * (1 - fc))
sign: second coordinate's gradient with a minus
@ return g, jnp.stack([jnp.dot(ct, dr), -jnp.dot(ct, dc)])
    """,
    ),
    *wrong_rules(
        cbow,
        right_cbow,
        normals((6, 3), (6, 3)),
        """
cbow_a
- d_rows = jnp.broadcast_to(d_h[:, None, :] / CTX.shape[1], (*CTX.shape, emb.shape[1]))
+ d_rows = jnp.broadcast_to(d_h[:, None, :], (*CTX.shape, emb.shape[1]))
- return d_emb, d_out
+ return d_emb, -d_out
factor: 1 / window of the mean missing
@ d_rows = jnp.broadcast_to(d_h[:, None, :], (*CTX.shape, emb.shape[1]))
@ d_emb = jnp.zeros_like(emb).at[CTX].add(d_rows)
sign: output table's gradient negated as if for the loss
@ return d_emb, -d_out
    """,
    ),
]
