"""Convolutions, pools, graphs and fields."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal

DIL = 2


def fwd_dilated_conv(x, w, b):
    T = x.shape[1] - 2 * DIL
    y = sum(jnp.einsum("ct,oc->ot", x[:, j * DIL : j * DIL + T], w[:, :, j]) for j in range(3))
    return jax.nn.elu(y + b[:, None])


def draw_dilated_conv(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (2, 10)), 0.7 * normal(k[1], (3, 2, 3)), normal(k[2], (3,))


def right_dilated_conv(args, ct):
    x, w, b = args
    T = x.shape[1] - 2 * DIL
    y = b[:, None] + jnp.zeros((3, T))
    for j in range(3):
        y = y + w[:, :, j] @ x[:, j * DIL : j * DIL + T]
    gy = ct * jnp.where(y > 0, 1.0, jnp.exp(y))
    gx, gw = jnp.zeros_like(x), jnp.zeros_like(w)
    for j in range(3):
        seg = slice(j * DIL, j * DIL + T)
        gw = gw.at[:, :, j].set(gy @ x[:, seg].T)
        gx = gx.at[:, seg].add(w[:, :, j].T @ gy)
    return gx, gw, gy.sum(axis=1)


def patches(img):
    return jnp.stack([img[:, i : i + 5 : 2, j : j + 5 : 2] for i in range(3) for j in range(3)], axis=1)


def fwd_im2col_stride(img, kern):
    cols = patches(img)
    y = jnp.einsum("ckhw,ock->ohw", cols, kern)
    return jnp.square(y)


def draw_im2col_stride(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (2, 7, 7)), normal(k2, (3, 2, 9))


def right_im2col_stride(args, ct):
    img, kern = args
    cols = patches(img).reshape(18, 9)
    kmat = kern.reshape(3, 18)
    y = kmat @ cols
    dy = 2 * y * ct.reshape(3, 9)
    dkern = (dy @ cols.T).reshape(kern.shape)
    dcols = (kmat.T @ dy).reshape(2, 9, 3, 3)
    dimg = jnp.zeros_like(img)
    for i in range(3):
        for j in range(3):
            dimg = dimg.at[:, i : i + 5 : 2, j : j + 5 : 2].add(dcols[:, 3 * i + j])
    return dimg, dkern


DN = ("NHWC", "HWIO", "NHWC")


def fwd_depthwise_sep(x, dw, pw):
    h = lax.conv_general_dilated(x, dw, (1, 1), "SAME", dimension_numbers=DN, feature_group_count=3)
    return jnp.einsum("nhwc,cd->nhwd", jax.nn.relu(h), pw)


def draw_depthwise_sep(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (1, 5, 5, 3)), normal(k[1], (3, 3, 1, 3)), normal(k[2], (3, 4))


def right_depthwise_sep(args, ct):
    x, dw, pw = args
    h = lax.conv_general_dilated(x, dw, (1, 1), "SAME", dimension_numbers=DN, feature_group_count=3)
    r = jnp.maximum(h, 0)
    g_pw = jnp.einsum("nhwc,nhwd->cd", r, ct)
    g_h = jnp.einsum("nhwd,cd->nhwc", ct, pw) * (h > 0)
    flipped = dw[::-1, ::-1]
    g_x = lax.conv_general_dilated(g_h, flipped, (1, 1), "SAME", dimension_numbers=DN, feature_group_count=3)
    xp = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    g_dw = [[jnp.sum(xp[:, i : i + 5, j : j + 5] * g_h, axis=(0, 1, 2)) for j in range(3)] for i in range(3)]
    return g_x, jnp.array(g_dw)[:, :, None, :], g_pw


P_EXP = 3.0


def fwd_lp_pool(x):
    a = jnp.abs(x).reshape(2, 3, 2, 3, 2)
    return jnp.mean(a**P_EXP, axis=(2, 4)) ** (1 / P_EXP)


def draw_lp_pool(key):
    return (normal(key, (2, 6, 6)),)


def right_lp_pool(args, ct):
    (x,) = args
    a = jnp.abs(x)
    win = a.reshape(2, 3, 2, 3, 2)
    y = jnp.mean(win**P_EXP, axis=(2, 4)) ** (1 / P_EXP)
    coef = ct * y ** (1 - P_EXP) / 4
    coef = jnp.repeat(jnp.repeat(coef, 2, axis=1), 2, axis=2)
    dx = coef * a ** (P_EXP - 1) * jnp.sign(x)
    return (dx,)


def fwd_max_pool_mlp(x, w):
    h = (x @ w).reshape(4, 3, 5)
    m = h.max(axis=1)
    return m - jax.scipy.special.logsumexp(m, axis=-1, keepdims=True)


def draw_max_pool_mlp(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (12, 3)), normal(k2, (3, 5))


def right_max_pool_mlp(args, ct):
    x, w = args
    h = (x @ w).reshape(4, 3, 5)
    m = h.max(axis=1)
    dm = ct - jax.nn.softmax(m, axis=-1) * ct.sum(-1, keepdims=True)
    winner = jax.nn.one_hot(h.argmax(axis=1), 3, axis=1)
    dh = winner * dm[:, None, :]
    dh = dh.reshape(12, 5)
    return dh @ w.T, x.T @ dh


def fwd_lerp_table(tab, pos):
    i = jnp.clip(jnp.floor(pos).astype(int), 0, 6)
    f = pos - i
    f = f * f * (3 - 2 * f)
    return (1 - f)[:, None] * tab[i] + f[:, None] * tab[i + 1]


def draw_lerp_table(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (8, 2)), jax.random.uniform(k2, (6,), minval=0.1, maxval=6.9)


def right_lerp_table(args, ct):
    tab, pos = args
    i = jnp.clip(jnp.floor(pos).astype(int), 0, 6)
    t = pos - i
    s = t * t * (3 - 2 * t)
    gtab = jnp.zeros_like(tab)
    gtab = gtab.at[i].add((1 - s)[:, None] * ct)
    gtab = gtab.at[i + 1].add(s[:, None] * ct)
    gs = jnp.sum(ct * (tab[i + 1] - tab[i]), axis=1)
    gpos = gs * 6 * t * (1 - t)
    return gtab, gpos


SND = jnp.array([0, 1, 1, 2, 3, 4, 0])

RCV = jnp.array([1, 0, 2, 3, 4, 0, 2])

DEG = jnp.array([2.0, 3.0, 3.0, 2.0, 2.0])


def fwd_gcn(x, w1, w2):
    c = 1 / jnp.sqrt(DEG[SND] * DEG[RCV])[:, None]
    h = jnp.tanh(jax.ops.segment_sum(c * (x @ w1)[SND], RCV, 5))
    return jax.ops.segment_sum(c * (h @ w2)[SND], RCV, 5) + h


def draw_gcn(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 3)), normal(k[1], (3, 4)), 0.7 * normal(k[2], (4, 4))


def right_gcn(args, ct):
    x, w1, w2 = args
    c = 1 / jnp.sqrt(DEG[SND] * DEG[RCV])[:, None]
    h = jnp.tanh(jax.ops.segment_sum(c * (x @ w1)[SND], RCV, 5))
    d_msg2 = jax.ops.segment_sum(c * ct[RCV], SND, 5)
    d_w2 = h.T @ d_msg2
    d_h = ct + d_msg2 @ w2.T
    d_z = d_h * (1 - h**2)
    d_msg1 = jax.ops.segment_sum(c * d_z[RCV], SND, 5)
    return d_msg1 @ w1.T, x.T @ d_msg1, d_w2


SRC = jnp.array([0, 1, 2, 3, 0, 2, 3, 1])

DST = jnp.array([0, 0, 1, 1, 2, 2, 3, 3])


def seg(v):
    return jax.ops.segment_sum(v, DST, 4)


def fwd_gat(x, w, a_s, a_d):
    h = x @ w
    e = jnp.exp(2 * jnp.tanh(h[SRC] @ a_s + h[DST] @ a_d))
    att = e / seg(e)[DST]
    return seg(att[:, None] * h[SRC])


def draw_gat(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (4, 3)),
        normal(k[1], (3, 3)),
        normal(k[2], (3,)),
        normal(k[3], (3,)),
    )


def right_gat(args, ct):
    x, w, a_s, a_d = args
    h = x @ w
    t = jnp.tanh(h[SRC] @ a_s + h[DST] @ a_d)
    e = jnp.exp(2 * t)
    att = e / seg(e)[DST]
    g_att = jnp.sum(ct[DST] * h[SRC], axis=1)
    g_h = jnp.zeros_like(h).at[SRC].add(att[:, None] * ct[DST])
    g_log = att * (g_att - seg(att * g_att)[DST])
    g_pre = 2 * g_log * (1 - t**2)
    g_h = g_h.at[SRC].add(g_pre[:, None] * a_s).at[DST].add(g_pre[:, None] * a_d)
    g_as = g_pre @ h[SRC]
    g_ad = g_pre @ h[DST]
    return g_h @ w.T, x.T @ g_h, g_as, g_ad


EI = jnp.array([0, 0, 1, 2, 3, 2])

EJ = jnp.array([1, 2, 3, 0, 1, 3])


def fwd_egnn(pos, s):
    diff = pos[EI] - pos[EJ]
    d2 = jnp.sum(diff**2, axis=1)
    m = jnp.exp(-0.5 * d2) * s[EJ]
    return pos.at[EI].add(diff * m[:, None]), s.at[EI].add(m)


def draw_egnn(key):
    k1, k2 = jax.random.split(key)
    return 0.8 * normal(k1, (4, 3)), normal(k2, (4,))


def right_egnn(args, ct):
    pos, s = args
    cp, cs = ct
    diff = pos[EI] - pos[EJ]
    rbf = jnp.exp(-0.5 * jnp.sum(diff**2, axis=1))
    m = rbf * s[EJ]
    dm = cs[EI] + jnp.sum(cp[EI] * diff, axis=1)
    ds = cs.at[EJ].add(dm * rbf)
    ddiff = cp[EI] * m[:, None] - diff * (dm * m)[:, None]
    dpos = cp.at[EI].add(ddiff)
    dpos = dpos.at[EJ].add(-ddiff)
    return dpos, ds


KAPPA = 0.2


def lap(u):
    return jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0) + jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1) - 4 * u


def fwd_heat2d(u, src):
    for _ in range(3):
        u = u + KAPPA * lap(u) + 0.1 * src * u * (1 - u)
    return u


def draw_heat2d(key):
    k1, k2 = jax.random.split(key)
    return jax.random.uniform(k1, (5, 5)), 3 * normal(k2, (5, 5))


def right_heat2d(args, ct):
    u, src = args
    hist = []
    for _ in range(3):
        hist.append(u)
        u = u + KAPPA * lap(u) + 0.1 * src * u * (1 - u)
    lam = ct
    g_src = jnp.zeros_like(src)
    for u in reversed(hist):
        g_src += 0.1 * lam * u * (1 - u)
        lam = lam + KAPPA * lap(lam) + 0.1 * src * (1 - 2 * u) * lam
    return lam, g_src


def fwd_pixel_shuffle(x, w):
    y = jnp.einsum("hwc,cabd->hwabd", x, w)
    y = y.transpose(0, 2, 1, 3, 4).reshape(6, 4, 3)
    return jax.nn.softplus(y)


def draw_pixel_shuffle(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (3, 2, 4)), 0.6 * normal(k2, (4, 2, 2, 3))


def right_pixel_shuffle(args, ct):
    x, w = args
    y = jnp.einsum("hwc,cabd->hawbd", x, w).reshape(6, 4, 3)
    g = ct * jax.nn.sigmoid(y)
    g = g.reshape(3, 2, 2, 2, 3)
    gx = jnp.einsum("hawbd,cabd->hwc", g, w)
    gw = jnp.einsum("hawbd,hwc->cabd", g, x)
    return gx, gw


def fwd_lrn(x):
    pad = jnp.pad(x**2, ((0, 0), (1, 1)))
    s = 1.0 + 0.5 * (pad[:, :-2] + pad[:, 1:-1] + pad[:, 2:])
    return x * s**-0.75


def draw_lrn(key):
    return (1.5 * normal(key, (4, 7)),)


def right_lrn(args, ct):
    (x,) = args
    sq = jnp.pad(x**2, ((0, 0), (1, 1)))
    s = 1.0 + 0.5 * sum(sq[:, j : j + 7] for j in range(3))
    gs = -0.75 * ct * x * s**-1.75
    gsp = jnp.pad(gs, ((0, 0), (1, 1)))
    spread = gsp[:, :-2] + gsp[:, 1:-1] + gsp[:, 2:]
    gx = ct * s**-0.75 + 0.5 * 2 * x * spread
    return (gx,)


SINGLE = [
    *wrong_rules(
        fwd_dilated_conv,
        right_dilated_conv,
        draw_dilated_conv,
        """
dilated_conv_c
- gx = gx.at[:, seg].add(w[:, :, j].T @ gy)
+ gx = gx.at[:, seg].set(w[:, :, j].T @ gy)
carry: overlapping windows overwritten
    """,
    ),
    *wrong_rules(
        fwd_im2col_stride,
        right_im2col_stride,
        draw_im2col_stride,
        """
im2col_stride_b
- dcols = (kmat.T @ dy).reshape(2, 9, 3, 3)
+ dcols = (kmat.T @ dy).reshape(9, 2, 3, 3).swapaxes(0, 1)
transpose: channel and tap axes mixed in the reshape
    """,
    ),
    *wrong_rules(
        fwd_depthwise_sep,
        right_depthwise_sep,
        draw_depthwise_sep,
        """
depthwise_sep_c
- flipped = dw[::-1, ::-1]
+ flipped = dw
index: kernel not flipped for the input grad
    """,
    ),
    *wrong_rules(
        fwd_lp_pool,
        right_lp_pool,
        draw_lp_pool,
        """
lp_pool_b
- coef = ct * y ** (1 - P_EXP) / 4
+ coef = ct * y ** (-P_EXP) / 4
constant: exponent off by one
    """,
    ),
    *wrong_rules(
        fwd_max_pool_mlp,
        right_max_pool_mlp,
        draw_max_pool_mlp,
        """
max_pool_mlp_c
- dh = winner * dm[:, None, :]
+ dh = jnp.broadcast_to(dm[:, None, :], h.shape)
mask: gradient handed to every entry of the window
    """,
    ),
    *wrong_rules(
        fwd_lerp_table,
        right_lerp_table,
        draw_lerp_table,
        """
lerp_table_d
- gpos = gs * 6 * t * (1 - t)
+ gpos = gs
activation: slope of the smoothstep missing
    """,
    ),
    *wrong_rules(
        fwd_gcn,
        right_gcn,
        draw_gcn,
        """
gcn_d
- d_msg1 = jax.ops.segment_sum(c * d_z[RCV], SND, 5)
+ d_msg1 = jax.ops.segment_sum(c * d_z[RCV], RCV, 5)
index: scattered to the receivers
    """,
    ),
    *wrong_rules(
        fwd_gat,
        right_gat,
        draw_gat,
        """
gat_a
- g_h = jnp.zeros_like(h).at[SRC].add(att[:, None] * ct[DST])
+ g_h = jnp.zeros_like(h)
detached: message path taken for constant
    """,
    ),
    *wrong_rules(
        fwd_egnn,
        right_egnn,
        draw_egnn,
        """
egnn_e
- dpos = dpos.at[EJ].add(-ddiff)
+ dpos = dpos.at[EJ].add(ddiff)
sign: second end of the difference has a minus
    """,
    ),
    *wrong_rules(
        fwd_heat2d,
        right_heat2d,
        draw_heat2d,
        """
heat2d_c
- lam = lam + KAPPA * lap(lam) + 0.1 * src * (1 - 2 * u) * lam
+ lam = lam + KAPPA * lap(lam) + 0.1 * src * (1 - u) * lam
activation: slope of u (1 - u) is 1 - 2 u
    """,
    ),
    *wrong_rules(
        fwd_pixel_shuffle,
        right_pixel_shuffle,
        draw_pixel_shuffle,
        """
pixel_shuffle_d
- gw = jnp.einsum("hawbd,hwc->cabd", g, x)
+ gw = jnp.einsum("hwabd,hwc->cabd", g, x)
transpose: axes of the shuffled grid read in the wrong order
    """,
    ),
    *wrong_rules(
        fwd_lrn,
        right_lrn,
        draw_lrn,
        """
lrn_c
- spread = gsp[:, :-2] + gsp[:, 1:-1] + gsp[:, 2:]
+ spread = gs
term: only the channel's own share, neighbours forgotten
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        fwd_dilated_conv,
        right_dilated_conv,
        draw_dilated_conv,
        """
dilated_conv_da
- gy = ct * jnp.where(y > 0, 1.0, jnp.exp(y))
+ gy = ct * jnp.where(y > 0, 1.0, jnp.exp(y) - 1)
- gx = gx.at[:, seg].add(w[:, :, j].T @ gy)
+ gx = gx.at[:, seg].add(w[:, :, 2 - j].T @ gy)
index: kernel taps reversed
@ gx = gx.at[:, seg].add(w[:, :, 2 - j].T @ gy)
activation: elu's value in place of its slope
@ gy = ct * jnp.where(y > 0, 1.0, jnp.exp(y) - 1)
    """,
    ),
    *wrong_rules(
        fwd_max_pool_mlp,
        right_max_pool_mlp,
        draw_max_pool_mlp,
        """
max_pool_mlp_ab
- dm = ct - jax.nn.softmax(m, axis=-1) * ct.sum(-1, keepdims=True)
+ dm = ct - jax.nn.softmax(m, axis=-1) * ct
- winner = jax.nn.one_hot(h.argmax(axis=1), 3, axis=1)
+ winner = jax.nn.one_hot(h.argmin(axis=1), 3, axis=1)
axis: cotangent not summed over the classes
@ dm = ct - jax.nn.softmax(m, axis=-1) * ct
mask: gradient routed to the smallest entry
@ winner = jax.nn.one_hot(h.argmin(axis=1), 3, axis=1)
    """,
    ),
    *wrong_rules(
        fwd_egnn,
        right_egnn,
        draw_egnn,
        """
egnn_abd
- dm = cs[EI] + jnp.sum(cp[EI] * diff, axis=1)
+ dm = cs[EI]
- ds = cs.at[EJ].add(dm * rbf)
+ ds = jnp.zeros_like(s).at[EJ].add(dm * rbf)
- ddiff = cp[EI] * m[:, None] - diff * (dm * m)[:, None]
+ ddiff = cp[EI] * m[:, None] - diff * (dm * rbf)[:, None]
term: weight of the coordinate update forgotten
@ dm = cs[EI]
term: identity path of s lost
@ ds = jnp.zeros_like(s).at[EJ].add(dm * rbf)
factor: sender scalar missing in the distance path
@ ddiff = cp[EI] * m[:, None] - diff * (dm * rbf)[:, None]
    """,
    ),
    *wrong_rules(
        fwd_heat2d,
        right_heat2d,
        draw_heat2d,
        """
heat2d_bd
- g_src += 0.1 * lam * u * (1 - u)
+ g_src = 0.1 * lam * u * (1 - u)
- lam = lam + KAPPA * lap(lam) + 0.1 * src * (1 - 2 * u) * lam
+ lam = lam + 0.1 * src * (1 - 2 * u) * lam
carry: only the first step's share kept
@ g_src = 0.1 * lam * u * (1 - u)
term: diffusion left out of the adjoint
@ lam = lam + 0.1 * src * (1 - 2 * u) * lam
    """,
    ),
    *wrong_rules(
        fwd_pixel_shuffle,
        right_pixel_shuffle,
        draw_pixel_shuffle,
        """
pixel_shuffle_bc
- g = ct * jax.nn.sigmoid(y)
+ g = ct * jax.nn.sigmoid(y) * (1 - jax.nn.sigmoid(y))
- gx = jnp.einsum("hawbd,cabd->hwc", g, w)
+ gx = jnp.einsum("hawbd,cbad->hwc", g, w)
activation: second derivative of softplus
@ g = ct * jax.nn.sigmoid(y) * (1 - jax.nn.sigmoid(y))
transpose: sub-pixel letters swapped in w
@ gx = jnp.einsum("hawbd,cbad->hwc", g, w)
    """,
    ),
]
