"""Layers, losses and norms."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal

KEEP = jnp.asarray(np.random.RandomState(3).rand(6, 8) > 0.3, jnp.float32)

P_KEEP = 0.7


def fwd_mlp_drop(x, w1, b1, w2, b2):
    a = x @ w1 + b1
    h = a * jax.scipy.stats.norm.cdf(a)
    h = h * KEEP / P_KEEP
    return h @ w2 + b2


def draw_mlp_drop(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (6, 5)),
        0.5 * normal(k[1], (5, 8)),
        0.1 * normal(k[2], (8,)),
        0.4 * normal(k[3], (8, 3)),
        normal(k[4], (3,)),
    )


def right_mlp_drop(args, ct):
    x, w1, b1, w2, b2 = args
    a = x @ w1 + b1
    cdf = jax.scipy.stats.norm.cdf(a)
    pdf = jnp.exp(-0.5 * a**2) / jnp.sqrt(2 * jnp.pi)
    h_drop = a * cdf * KEEP / P_KEEP
    d_b2 = ct.sum(0)
    d_w2 = h_drop.T @ ct
    d_hdrop = ct @ w2.T
    d_h = d_hdrop * KEEP / P_KEEP
    d_a = d_h * (cdf + a * pdf)
    d_b1 = jnp.sum(d_a, axis=0)
    d_w1 = x.T @ d_a
    return input_grad(d_a, w1), d_w1, d_b1, d_w2, d_b2


def input_grad(d_a, w):
    return d_a @ w.T


TARGETS = jnp.array([0, 3, 2, 2, 1, 4, 0])

CLASS_W = jnp.array([1.0, 0.5, 2.0, 1.5, 0.7])

SMOOTH = 0.2


def fwd_smooth_ce(logits, bias):
    z = logits + bias
    logp = z - jax.scipy.special.logsumexp(z, axis=1, keepdims=True)
    q = (1 - SMOOTH) * jax.nn.one_hot(TARGETS, 5) + SMOOTH / 5
    per = -jnp.sum(q * logp, axis=1) * CLASS_W[TARGETS]
    return jnp.sum(per) / jnp.sum(CLASS_W[TARGETS])


def draw_smooth_ce(key):
    k1, k2 = jax.random.split(key)
    return 1.5 * normal(k1, (7, 5)), normal(k2, (5,))


def right_smooth_ce(args, ct):
    logits, bias = args
    z = logits + bias
    p = jax.nn.softmax(z, axis=1)
    q = (1 - SMOOTH) * jax.nn.one_hot(TARGETS, 5) + SMOOTH / 5
    w = CLASS_W[TARGETS]
    scale = ct / w.sum()
    g = scale * w[:, None] * (p - q)
    return g, g.sum(axis=0)


YS = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])

GAMMA = 2.0

ALPHA = 0.25


def fwd_focal(x, w):
    p = jax.nn.sigmoid(x @ w)
    pt = YS * p + (1 - YS) * (1 - p)
    at = YS * ALPHA + (1 - YS) * (1 - ALPHA)
    return jnp.mean(-at * (1 - pt) ** GAMMA * jnp.log(pt))


def draw_focal(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (8, 4)), 0.7 * normal(k2, (4,))


def right_focal(args, ct):
    x, w = args
    p = jax.nn.sigmoid(x @ w)
    pt = jnp.where(YS > 0.5, p, 1 - p)
    at = jnp.where(YS > 0.5, ALPHA, 1 - ALPHA)
    modulator = (1 - pt) ** GAMMA
    d_mod = -GAMMA * (1 - pt) ** (GAMMA - 1)
    d_pt = -at * (d_mod * jnp.log(pt) + modulator / pt)
    d_p = d_pt * (2 * YS - 1)
    d_z = d_p * p * (1 - p) * ct / YS.shape[0]
    return jnp.outer(d_z, w), x.T @ d_z


MASK_TRUE = jnp.asarray(np.random.RandomState(0).rand(3, 4, 4) > 0.5, jnp.float32)

SM = 1.0


def fwd_dice(logits):
    p = jax.nn.sigmoid(logits)
    inter = jnp.sum(p * MASK_TRUE, axis=(1, 2))
    union = jnp.sum(p**2, axis=(1, 2)) + jnp.sum(MASK_TRUE**2, axis=(1, 2))
    return jnp.sum(1 - (2 * inter + SM) / (union + SM))


def draw_dice(key):
    return (normal(key, (3, 4, 4)),)


def right_dice(args, ct):
    (logits,) = args
    p = 1 / (1 + jnp.exp(-logits))
    num = 2 * jnp.einsum("bij,bij->b", p, MASK_TRUE) + SM
    den = jnp.einsum("bij,bij->b", p, p) + jnp.einsum("bij->b", MASK_TRUE) + SM
    g_num = -ct / den
    g_den = ct * num / den**2
    g_p = g_num[:, None, None] * 2 * MASK_TRUE
    g_p = g_p + g_den[:, None, None] * 2 * p
    return (g_p * p * (1 - p),)


DELTA_H = 0.8

OBS = jnp.asarray(np.random.RandomState(8).randn(9), jnp.float32)


def fwd_huber_reg(x, w, b):
    r = x @ w + b - OBS
    quad = 0.5 * r**2
    lin = DELTA_H * (jnp.abs(r) - 0.5 * DELTA_H)
    data = jnp.mean(jnp.where(jnp.abs(r) <= DELTA_H, quad, lin))
    return data + 0.05 * jnp.sum(w**2)


def draw_huber_reg(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (9, 4)), normal(k[1], (4,)), normal(k[2], ())


def right_huber_reg(args, ct):
    x, w, b = args
    n = x.shape[0]
    r = x @ w + b - OBS
    inside = jnp.abs(r) <= DELTA_H
    outer = DELTA_H * jnp.sign(r)
    dr = jnp.where(inside, r, outer) * ct / n
    gw = dr @ x
    gw += 2 * 0.05 * w * ct
    gb = dr.sum()
    gx = dr[:, None] * w[None, :]
    return gx, gw, gb


N_PAIR = 5


def unit(v):
    return v / jnp.linalg.norm(v, axis=-1, keepdims=True)


def fwd_clip_nce(img, txt, log_t):
    logits = jnp.exp(log_t) * unit(img) @ unit(txt).T
    rows = jnp.diag(jax.nn.log_softmax(logits, axis=1))
    cols = jnp.diag(jax.nn.log_softmax(logits, axis=0))
    return -0.5 * (rows.mean() + cols.mean())


def draw_clip_nce(key):
    k = jax.random.split(key, 3)
    return (
        normal(k[0], (N_PAIR, 6)),
        normal(k[1], (N_PAIR, 6)),
        0.5 + 0.2 * normal(k[2], ()),
    )


def right_clip_nce(args, ct):
    img, txt, log_t = args
    tau = jnp.exp(log_t)
    n_img = jnp.linalg.norm(img, axis=-1, keepdims=True)
    n_txt = jnp.linalg.norm(txt, axis=-1, keepdims=True)
    u, v = img / n_img, txt / n_txt
    cos = u @ v.T
    logits = tau * cos
    eye = jnp.eye(N_PAIR)
    d_rows = jax.nn.softmax(logits, axis=1) - eye
    d_cols = jax.nn.softmax(logits, axis=0) - eye
    d_logits = ct * 0.5 * (d_rows + d_cols) / N_PAIR
    d_log_t = jnp.sum(d_logits * cos) * tau
    d_cos = tau * d_logits
    d_u = d_cos @ v
    d_v = d_cos.T @ u
    d_img = (d_u - u * jnp.sum(u * d_u, axis=-1, keepdims=True)) / n_img
    d_txt = (d_v - v * jnp.sum(v * d_v, axis=-1, keepdims=True)) / n_txt
    return d_img, d_txt, d_log_t


MARGIN = 1.5


def fwd_triplet(anchor, pos, neg):
    dp = jnp.sqrt(jnp.sum((anchor - pos) ** 2, axis=1) + 1e-6)
    dn = jnp.sqrt(jnp.sum((anchor - neg) ** 2, axis=1) + 1e-6)
    return jnp.mean(jnp.maximum(dp - dn + MARGIN, 0.0))


def draw_triplet(key):
    k = jax.random.split(key, 3)
    return tuple(normal(kk, (10, 3)) for kk in k)


def right_triplet(args, ct):
    anchor, pos, neg = args
    diff_p = anchor - pos
    diff_n = anchor - neg
    dp = jnp.sqrt(jnp.sum(diff_p**2, axis=1, keepdims=True) + 1e-6)
    dn = jnp.sqrt(jnp.sum(diff_n**2, axis=1, keepdims=True) + 1e-6)
    active = (dp - dn + MARGIN > 0).astype(anchor.dtype)
    coef = ct * active / anchor.shape[0]
    gp = coef * diff_p / dp
    gn = -coef * diff_n / dn
    return gp + gn, -gp, -gn


TAUS = jnp.array([0.1, 0.5, 0.9])

RESP = jnp.asarray(np.random.RandomState(2).randn(12), jnp.float32)


def fwd_pinball(x, W, c):
    pred = jnp.tanh(x) @ W + c
    u = RESP[:, None] - pred
    return jnp.mean(jnp.sum(jnp.maximum(TAUS * u, (TAUS - 1) * u), axis=1))


def draw_pinball(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (12, 4)), normal(k[1], (4, 3)), normal(k[2], (3,))


def right_pinball(args, ct):
    x, W, c = args
    t = jnp.tanh(x)
    u = RESP[:, None] - (t @ W + c)
    du = jnp.where(u > 0, TAUS, TAUS - 1)
    dpred = -du * ct / u.shape[0]
    dW = t.T @ dpred
    dc = dpred.sum(0)
    dx = (dpred @ W.T) * (1 - t**2)
    return dx, dW, dc


def fwd_swiglu(x, gamma, wg, wu, wd):
    ms = jnp.mean(x**2, axis=-1, keepdims=True)
    xn = x / jnp.sqrt(ms + 1e-5) * gamma
    g = xn @ wg
    return x + (jax.nn.silu(g) * (xn @ wu)) @ wd


def draw_swiglu(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (4, 6)),
        1 + 0.2 * normal(k[1], (6,)),
        0.5 * normal(k[2], (6, 7)),
        0.5 * normal(k[3], (6, 7)),
        0.5 * normal(k[4], (7, 6)),
    )


def right_swiglu(args, ct):
    x, gamma, wg, wu, wd = args
    D = x.shape[-1]
    inv = 1.0 / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)
    xhat = x * inv
    xn = xhat * gamma
    g, u = xn @ wg, xn @ wu
    s = jax.nn.sigmoid(g)
    act = g * s
    dwd = (act * u).T @ ct
    dm = ct @ wd.T
    du = dm * act
    dg = dm * u * s * (1 + g * (1 - s))
    dwg, dwu = xn.T @ dg, xn.T @ du
    dxn = dg @ wg.T + du @ wu.T
    dgamma = jnp.sum(dxn * xhat, axis=0)
    dxhat = dxn * gamma
    dx = inv * (dxhat - xhat * jnp.sum(dxhat * xhat, axis=-1, keepdims=True) / D)
    return dx + ct, dgamma, dwg, dwu, dwd


GROUPS = 2


def fwd_group_norm(x, scale, shift):
    n, c, l = x.shape
    xg = x.reshape(n, GROUPS, -1)
    mu = xg.mean(-1, keepdims=True)
    var = xg.var(-1, keepdims=True)
    y = ((xg - mu) / jnp.sqrt(var + 1e-5)).reshape(n, c, l)
    return y * scale[:, None] + shift[:, None]


def draw_group_norm(key):
    k = jax.random.split(key, 3)
    return (
        1 + normal(k[0], (3, 4, 5)),
        1 + 0.5 * normal(k[1], (4,)),
        normal(k[2], (4,)),
    )


def right_group_norm(args, ct):
    x, scale, shift = args
    n, c, l = x.shape
    xg = x.reshape(n, GROUPS, -1)
    centred = xg - xg.mean(-1, keepdims=True)
    istd = jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
    xhat = centred * istd
    g_shift = ct.sum(axis=(0, 2))
    g_scale = jnp.sum(ct * xhat.reshape(n, c, l), axis=(0, 2))
    g_hat = (ct * scale[:, None]).reshape(n, GROUPS, -1)
    m1 = g_hat.mean(-1, keepdims=True)
    m2 = (g_hat * xhat).mean(-1, keepdims=True)
    gx = istd * (g_hat - m1 - xhat * m2)
    return gx.reshape(x.shape), g_scale, g_shift


def fwd_batch_norm_relu(x, w, g, b):
    z = x @ w
    mu = jnp.mean(z, 0)
    sd = jnp.sqrt(jnp.sum((z - mu) ** 2, 0) / (z.shape[0] - 1) + 1e-3)
    return jax.nn.leaky_relu((z - mu) / sd * g + b, 0.2)


def draw_batch_norm_relu(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (7, 3)),
        normal(k[1], (3, 4)),
        1 + 0.3 * normal(k[2], (4,)),
        0.5 * normal(k[3], (4,)),
    )


def right_batch_norm_relu(args, ct):
    x, w, g, b = args
    z = x @ w
    N = z.shape[0]
    zc = z - z.mean(0)
    sd = jnp.sqrt((zc**2).sum(0) / (N - 1) + 1e-3)
    y = zc / sd * g + b
    slope = jnp.where(y > 0, 1.0, 0.2)
    dy = ct * slope
    db = dy.sum(0)
    dg = (dy * zc / sd).sum(0)
    d_norm = dy * g
    d_sd = -(d_norm * zc).sum(0) / sd**2
    d_var = d_sd / (2 * sd)
    d_zc = d_norm / sd + d_var * 2 * zc / (N - 1)
    dz = d_zc - d_zc.mean(axis=0)
    return dz @ w.T, x.T @ dz, dg, db


def fwd_weight_std(x, W, gain):
    Wc = W - W.mean(0, keepdims=True)
    n = jnp.sqrt(jnp.sum(Wc**2, 0, keepdims=True))
    return jnp.sin(x @ (gain * Wc / n))


def draw_weight_std(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 6)), normal(k[1], (6, 4)), 1 + 0.4 * normal(k[2], (4,))


def right_weight_std(args, ct):
    x, W, gain = args
    Wc = W - W.mean(0, keepdims=True)
    n = jnp.linalg.norm(Wc, axis=0, keepdims=True)
    What = Wc / n
    pre = x @ (gain * What)
    d_pre = ct * jnp.cos(pre)
    d_x = d_pre @ (gain * What).T
    d_Weff = x.T @ d_pre
    d_gain = jnp.sum(d_Weff * What, axis=0)
    d_What = d_Weff * gain
    d_Wc = (d_What - What * jnp.sum(What * d_What, axis=0, keepdims=True)) / n
    d_W = d_Wc - d_Wc.mean(0, keepdims=True)
    return d_x, d_W, d_gain


def fwd_highway(x, wt, bt, wh):
    t = jax.nn.sigmoid(x @ wt + bt)
    h = jnp.tanh(x @ wh)
    return t * h + (1 - t) * x


def draw_highway(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (5, 4)),
        0.6 * normal(k[1], (4, 4)),
        normal(k[2], (4,)),
        0.6 * normal(k[3], (4, 4)),
    )


def right_highway(args, ct):
    x, wt, bt, wh = args

    def one(xi, gi):
        t = jax.nn.sigmoid(xi @ wt + bt)
        h = jnp.tanh(xi @ wh)
        gt = gi * (h - xi) * t * (1 - t)
        gh = gi * t * (1 - h * h)
        gxi = gi * (1 - t) + wt @ gt + wh @ gh
        return gxi, jnp.outer(xi, gt), gt, jnp.outer(xi, gh)

    gx, gwt, gbt, gwh = jax.vmap(one)(x, ct)
    return gx, gwt.sum(0), gbt.sum(0), gwh.sum(0)


SINGLE = [
    *wrong_rules(
        fwd_mlp_drop,
        right_mlp_drop,
        draw_mlp_drop,
        """
mlp_drop_a
- d_h = d_hdrop * KEEP / P_KEEP
+ d_h = d_hdrop * KEEP
factor: forgot the 1/keep-probability scale
    """,
    ),
    *wrong_rules(
        fwd_smooth_ce,
        right_smooth_ce,
        draw_smooth_ce,
        """
smooth_ce_c
- scale = ct / w.sum()
+ scale = ct / w.shape[0]
constant: divided by batch size in place of the sum of weights
    """,
    ),
    *wrong_rules(
        fwd_focal,
        right_focal,
        draw_focal,
        """
focal_c
- d_pt = -at * (d_mod * jnp.log(pt) + modulator / pt)
+ d_pt = -at * modulator / pt
detached: modulating factor taken for constant
    """,
    ),
    *wrong_rules(
        fwd_dice,
        right_dice,
        draw_dice,
        """
dice_d
- den = jnp.einsum("bij,bij->b", p, p) + jnp.einsum("bij->b", MASK_TRUE) + SM
+ den = jnp.einsum("bij->b", p) + jnp.einsum("bij->b", MASK_TRUE) + SM
operand: p in place of p squared in the denominator
    """,
    ),
    *wrong_rules(
        fwd_huber_reg,
        right_huber_reg,
        draw_huber_reg,
        """
huber_reg_d
- gb = dr.sum()
+ gb = dr.mean()
reduction: mean for sum in the bias gradient
    """,
    ),
    *wrong_rules(
        fwd_clip_nce,
        right_clip_nce,
        draw_clip_nce,
        """
clip_nce_e
- d_img = (d_u - u * jnp.sum(u * d_u, axis=-1, keepdims=True)) / n_img
+ d_img = d_u / n_img
detached: norm of the image vector taken for constant
    """,
    ),
    *wrong_rules(
        fwd_triplet,
        right_triplet,
        draw_triplet,
        """
triplet_a
- active = (dp - dn + MARGIN > 0).astype(anchor.dtype)
+ active = (dp - dn > 0).astype(anchor.dtype)
mask: margin left out of the hinge condition
    """,
    ),
    *wrong_rules(
        fwd_pinball,
        right_pinball,
        draw_pinball,
        """
pinball_f
- du = jnp.where(u > 0, TAUS, TAUS - 1)
+ du = jnp.where(u > 0, TAUS, -TAUS)
constant: lower slope is tau - 1 not -tau
    """,
    ),
    *wrong_rules(
        fwd_swiglu,
        right_swiglu,
        draw_swiglu,
        """
swiglu_c
- dxn = dg @ wg.T + du @ wu.T
+ dxn = dg @ wg.T
term: gradient through the up projection forgotten
    """,
    ),
    *wrong_rules(
        fwd_group_norm,
        right_group_norm,
        draw_group_norm,
        """
group_norm_e
- gx = istd * (g_hat - m1 - xhat * m2)
+ gx = istd * (g_hat - m1)
detached: variance taken for constant
    """,
    ),
    *wrong_rules(
        fwd_batch_norm_relu,
        right_batch_norm_relu,
        draw_batch_norm_relu,
        """
batch_norm_relu_a
- slope = jnp.where(y > 0, 1.0, 0.2)
+ slope = jnp.where(y > 0, 1.0, 0.0)
activation: plain relu slope in place of the leaky one
    """,
    ),
    *wrong_rules(
        fwd_weight_std,
        right_weight_std,
        draw_weight_std,
        """
weight_std_c
- d_Wc = (d_What - What * jnp.sum(What * d_What, axis=0, keepdims=True)) / n
+ d_Wc = (d_What - What * jnp.sum(What * d_What, axis=1, keepdims=True)) / n
axis: projection over the output axis
    """,
    ),
    *wrong_rules(
        fwd_highway,
        right_highway,
        draw_highway,
        """
highway_d
- gxi = gi * (1 - t) + wt @ gt + wh @ gh
+ gxi = gi * (1 - t) + wt @ gt + gh @ wh
transpose: wh not transposed
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        fwd_smooth_ce,
        right_smooth_ce,
        draw_smooth_ce,
        """
smooth_ce_ade
- p = jax.nn.softmax(z, axis=1)
+ p = jax.nn.softmax(z, axis=0)
- g = scale * w[:, None] * (p - q)
+ g = scale * (p - q)
- return g, g.sum(axis=0)
+ return g, g.mean(axis=0)
axis: softmax over the batch axis
@ p = jax.nn.softmax(z, axis=0)
factor: class weights forgotten
@ g = scale * (p - q)
reduction: bias grad averaged in place of summed
@ return g, g.mean(axis=0)
    """,
    ),
    *wrong_rules(
        fwd_dice,
        right_dice,
        draw_dice,
        """
dice_bce
- g_den = ct * num / den**2
+ g_den = -ct * num / den**2
- g_p = g_num[:, None, None] * 2 * MASK_TRUE
+ g_p = g_num[:, None, None] * MASK_TRUE
- return (g_p * p * (1 - p),)
+ return (g_p * (1 - p**2),)
sign: sign of quotient rule
@ g_den = -ct * num / den**2
constant: factor two of the numerator lost
@ g_p = g_num[:, None, None] * MASK_TRUE
activation: tanh slope in place of the sigmoid's
@ return (g_p * (1 - p**2),)
    """,
    ),
    *wrong_rules(
        fwd_huber_reg,
        right_huber_reg,
        draw_huber_reg,
        """
huber_reg_ac
- inside = jnp.abs(r) <= DELTA_H
+ inside = jnp.abs(r) > DELTA_H
- gw += 2 * 0.05 * w * ct
+ gw += 0.05 * w * ct
mask: inside and outside swapped
@ inside = jnp.abs(r) > DELTA_H
constant: weight decay without the 2
@ gw += 0.05 * w * ct
    """,
    ),
    *wrong_rules(
        fwd_clip_nce,
        right_clip_nce,
        draw_clip_nce,
        """
clip_nce_cdf
- d_log_t = jnp.sum(d_logits * cos) * tau
+ d_log_t = jnp.sum(d_logits * cos)
- d_v = d_cos.T @ u
+ d_v = d_cos @ u
- d_txt = (d_v - v * jnp.sum(v * d_v, axis=-1, keepdims=True)) / n_txt
+ d_txt = (d_v - v * jnp.sum(v * d_v)) / n_txt
factor: derivative of exp(log_t) left out
@ d_log_t = jnp.sum(d_logits * cos)
transpose: logits gradient not transposed for the text side
@ d_v = d_cos @ u
axis: projection summed over all rows
@ d_txt = (d_v - v * jnp.sum(v * d_v)) / n_txt
    """,
    ),
    *wrong_rules(
        fwd_pinball,
        right_pinball,
        draw_pinball,
        """
pinball_ce
- dpred = -du * ct / u.shape[0]
+ dpred = -du * ct / u.size
- dx = (dpred @ W.T) * (1 - t**2)
+ dx = (dpred @ W.T) * (1 - x**2)
constant: divided by all entries, the loss averages over rows only
@ dpred = -du * ct / u.size
activation: tanh slope in the pre-activation
@ dx = (dpred @ W.T) * (1 - x**2)
    """,
    ),
    *wrong_rules(
        fwd_swiglu,
        right_swiglu,
        draw_swiglu,
        """
swiglu_aef
- du = dm * act
+ du = dm * s
- dxhat = dxn * gamma
+ dxhat = dxn
- dx = inv * (dxhat - xhat * jnp.sum(dxhat * xhat, axis=-1, keepdims=True) / D)
+ dx = inv * dxhat
operand: sigmoid gate in place of silu
@ du = dm * s
factor: gamma forgotten
@ dxhat = dxn
detached: rms taken for constant
@ dx = inv * dxhat
    """,
    ),
    *wrong_rules(
        fwd_batch_norm_relu,
        right_batch_norm_relu,
        draw_batch_norm_relu,
        """
batch_norm_relu_bgf
- dg = (dy * zc / sd).sum(0)
+ dg = (dy * zc).sum(0)
- d_sd = -(d_norm * zc).sum(0) / sd**2
+ d_sd = (d_norm * zc).sum(0) / sd**2
- dz = d_zc - d_zc.mean(axis=0)
+ dz = d_zc - d_zc.mean(axis=1, keepdims=True)
factor: not divided by sd
@ dg = (dy * zc).sum(0)
sign: sign of d_sd
@ d_sd = (d_norm * zc).sum(0) / sd**2
axis: mean over features in place of batch
@ dz = d_zc - d_zc.mean(axis=1, keepdims=True)
    """,
    ),
    *wrong_rules(
        fwd_weight_std,
        right_weight_std,
        draw_weight_std,
        """
weight_std_bd
- d_x = d_pre @ (gain * What).T
+ d_x = d_pre @ W.T
- d_W = d_Wc - d_Wc.mean(0, keepdims=True)
+ d_W = d_Wc - d_Wc.mean(1, keepdims=True)
operand: raw weights in place of the standardised ones
@ d_x = d_pre @ W.T
axis: centring along the wrong axis
@ d_W = d_Wc - d_Wc.mean(1, keepdims=True)
    """,
    ),
    *wrong_rules(
        fwd_highway,
        right_highway,
        draw_highway,
        """
highway_bf
- gh = gi * t * (1 - h * h)
+ gh = gi * t * (1 - h)
- return gx, gwt.sum(0), gbt.sum(0), gwh.sum(0)
+ return gx, gwt.sum(0), gbt.sum(0), gwh.mean(0)
activation: slope of tanh is 1 - h**2
@ gh = gi * t * (1 - h)
reduction: per-example weight grads averaged
@ return gx, gwt.sum(0), gbt.sum(0), gwh.mean(0)
    """,
    ),
]
