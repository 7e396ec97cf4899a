"""Rules with mistakes in steps of physics, rotations, experts and losses."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def kalman_update(m, P, y, H, R):
    S = H @ P @ H.T + R
    K = P @ H.T @ jnp.linalg.inv(S)
    return m + K @ (y - H @ m), P - K @ H @ P


def draw_kalman_update(key):
    k = jax.random.split(key, 5)
    A, C = normal(k[1], (3, 3)), normal(k[4], (2, 2))
    return normal(k[0], (3,)), A @ A.T + jnp.eye(3), normal(k[2], (2,)), normal(k[3], (2, 3)), C @ C.T + jnp.eye(2)


def right_kalman_update(args, cts):
    m, P, y, H, R = args
    cm, cP = cts
    HP = H @ P
    Sinv = jnp.linalg.inv(HP @ H.T + R)
    PHt = P @ H.T
    K = PHt @ Sinv
    v = y - H @ m
    dv = K.T @ cm
    dm = cm - H.T @ dv
    dK = jnp.outer(cm, v) - cP @ HP.T
    dHP = -K.T @ cP
    dS = -Sinv.T @ (PHt.T @ dK) @ Sinv.T
    dPHt = dK @ Sinv.T
    dHP = dHP + dS @ H
    dP = cP + H.T @ dHP + dPHt @ H
    dH = dHP @ P.T + dPHt.T @ P + dS.T @ HP - jnp.outer(dv, m)
    return dm, dP, dv, dH, dS


DT = 0.3


def leapfrog(q, p, k, mass):
    for _ in range(3):
        p = p - 0.5 * DT * k * jnp.sin(q)
        q = q + DT * p / mass
        p = p - 0.5 * DT * k * jnp.sin(q)
    return q, p


def draw_leapfrog(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (4,)),
        normal(k[1], (4,)),
        1 + jax.random.uniform(k[2], (4,)),
        1 + jax.random.uniform(k[3], (4,)),
    )


def right_leapfrog(args, bars):
    q, p, k, mass = args
    tape = []
    for _ in range(3):
        ph = p - 0.5 * DT * k * jnp.sin(q)
        qn = q + DT * ph / mass
        tape.append((q, ph, qn))
        q, p = qn, ph - 0.5 * DT * k * jnp.sin(qn)
    qb, pb = bars
    kb, mb = jnp.zeros_like(k), jnp.zeros_like(mass)
    for q_old, ph, q_new in reversed(tape):
        kb = kb - 0.5 * DT * pb * jnp.sin(q_new)
        qb = qb - 0.5 * DT * k * jnp.cos(q_new) * pb
        pb = pb + DT * qb / mass
        mb = mb - qb * DT * ph / mass**2
        kb = kb - 0.5 * DT * pb * jnp.sin(q_old)
        qb = qb - 0.5 * DT * k * jnp.cos(q_old) * pb
    return qb, pb, kb, mb


H = 0.4


def midpoint_ode(y0, A, b):
    def step(y, _):
        k1 = jnp.tanh(A @ y + b)
        k2 = jnp.tanh(A @ (y + 0.5 * H * k1) + b)
        return y + H * k2, None

    return lax.scan(step, y0, None, length=4)[0]


def draw_midpoint_ode(key):
    k = jax.random.split(key, 3)
    return 0.7 * normal(k[0], (3,)), 0.7 * normal(k[1], (3, 3)), 0.3 * normal(k[2], (3,))


def right_midpoint_ode(args, adj):
    y0, A, b = args

    def step(y, _):
        k1 = jnp.tanh(A @ y + b)
        mid = y + 0.5 * H * k1
        k2 = jnp.tanh(A @ mid + b)
        return y + H * k2, (y, k1, mid, k2)

    _, saved = lax.scan(step, y0, None, length=4)

    def back(carry, rec):
        adj, gA, gb = carry
        y, k1, mid, k2 = rec
        s2 = H * adj * (1 - k2**2)
        g_mid = A.T @ s2
        s1 = 0.5 * H * g_mid * (1 - k1**2)
        gA = gA + jnp.outer(s2, mid) + jnp.outer(s1, y)
        gb = gb + s1 + s2
        adj = adj + g_mid + A.T @ s1
        return (adj, gA, gb), None

    out, _ = lax.scan(back, (adj, jnp.zeros_like(A), jnp.zeros_like(b)), saved, reverse=True)
    return out


POS = jnp.arange(5.0)

FREQ = jnp.array([1.0, 0.2])

COS, SIN = jnp.cos(POS[:, None] * FREQ), jnp.sin(POS[:, None] * FREQ)


def rope(x):
    a, b = x[:, :2], x[:, 2:]
    return jnp.concatenate([a * COS - b * SIN, a * SIN + b * COS], axis=1)


def rope_attn(q, k, v, bias):
    s = rope(q) @ rope(k).T * 0.5 + bias
    return jax.nn.softmax(s, axis=1) @ v


def draw_rope_attn(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (5, 4)), normal(k[1], (5, 4)), normal(k[2], (5, 3)), normal(k[3], (5,))


def right_rope_attn(args, d_out):
    q, k, v, bias = args

    def unrotate(d):
        a, b = d[:, :2], d[:, 2:]
        return jnp.concatenate([a * COS + b * SIN, -a * SIN + b * COS], axis=1)

    qr, kr = rope(q), rope(k)
    att = jax.nn.softmax(qr @ kr.T * 0.5 + bias, axis=1)
    d_v = att.T @ d_out
    d_att = d_out @ v.T
    d_s = att * (d_att - jnp.sum(att * d_att, axis=1, keepdims=True))
    d_bias = jnp.sum(d_s, axis=0)
    d_s = 0.5 * d_s
    d_q = unrotate(d_s @ kr)
    d_k = unrotate(d_s.T @ qr)
    return d_q, d_k, d_v, d_bias


def soft_moe(x, Wg, We):
    gate = jax.nn.softmax(x @ Wg, axis=-1)
    top = gate >= jnp.sort(gate, axis=-1)[:, -2:-1]
    kept = jnp.where(top, gate, 0.0)
    kept = kept / kept.sum(axis=-1, keepdims=True)
    y = jnp.tanh(jnp.einsum("bi,eio->beo", x, We))
    return jnp.einsum("be,beo->bo", kept, y)


def draw_soft_moe(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 3)), normal(k[1], (3, 4)), normal(k[2], (4, 3, 2))


def right_soft_moe(args, dout):
    x, Wg, We = args
    gate = jax.nn.softmax(x @ Wg, axis=-1)
    top = gate >= jnp.sort(gate, axis=-1)[:, -2:-1]
    raw = jnp.where(top, gate, 0.0)
    total = raw.sum(axis=-1, keepdims=True)
    kept = raw / total
    y = jnp.tanh(jnp.einsum("bi,eio->beo", x, We))
    dkept = jnp.einsum("bo,beo->be", dout, y)
    dy = jnp.einsum("bo,be->beo", dout, kept)
    dpre = dy * (1 - y**2)
    dWe = jnp.einsum("bi,beo->eio", x, dpre)
    dx = jnp.einsum("beo,eio->bi", dpre, We)
    draw = (dkept - (dkept * kept).sum(-1, keepdims=True)) / total
    dgate = jnp.where(top, draw, 0.0)
    dlog = gate * (dgate - (dgate * gate).sum(-1, keepdims=True))
    dWg = x.T @ dlog
    dx = dx + dlog @ Wg.T
    return dx, dWg, dWe


def info_nce(a, b, log_t):
    an = a / jnp.linalg.norm(a, axis=1, keepdims=True)
    bn = b / jnp.linalg.norm(b, axis=1, keepdims=True)
    s = an @ bn.T * jnp.exp(log_t)
    rows = jnp.diag(jax.nn.log_softmax(s, axis=1))
    cols = jnp.diag(jax.nn.log_softmax(s, axis=0))
    return -0.5 * (rows.mean() + cols.mean())


def draw_info_nce(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (4, 3)), normal(k[1], (4, 3)), 0.5 + 0.3 * normal(k[2], ())


def right_info_nce(args, g):
    a, b, log_t = args
    n = a.shape[0]
    na = jnp.linalg.norm(a, axis=1, keepdims=True)
    nb = jnp.linalg.norm(b, axis=1, keepdims=True)
    an, bn = a / na, b / nb
    tau = jnp.exp(log_t)
    s = tau * an @ bn.T
    p_row = jax.nn.softmax(s, axis=1)
    p_col = jax.nn.softmax(s, axis=0)
    ds = g * 0.5 * (p_row + p_col - 2 * jnp.eye(n)) / n
    d_log_t = jnp.sum(ds * s)
    d_an = tau * ds @ bn
    d_bn = tau * ds.T @ an
    da = (d_an - an * jnp.sum(an * d_an, axis=1, keepdims=True)) / na
    db = (d_bn - bn * jnp.sum(bn * d_bn, axis=1, keepdims=True)) / nb
    return da, db, d_log_t


def rbf_net(x, c, log_w, a):
    d2 = jnp.sum((x[:, None, :] - c[None, :, :]) ** 2, axis=-1)
    return jnp.exp(-d2 * jnp.exp(log_w)) @ a


def draw_rbf_net(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (5, 2)), normal(k[1], (3, 2)), -0.7 + 0.3 * normal(k[2], (3,)), normal(k[3], (3, 2))


def right_rbf_net(args, dy):
    x, c, log_w, a = args
    diff = x[:, None, :] - c[None, :, :]
    d2 = jnp.einsum("nkd,nkd->nk", diff, diff)
    w = jnp.exp(log_w)
    phi = jnp.exp(-d2 * w)
    da = phi.T @ dy
    dphi = dy @ a.T
    dexp = dphi * phi
    dlog_w = -jnp.sum(dexp * d2, axis=0) * w
    dd2 = -dexp * w
    ddiff = 2 * dd2[:, :, None] * diff
    dx = ddiff.sum(axis=1)
    dc = -ddiff.sum(axis=0)
    return dx, dc, dlog_w, da


TAUS = jnp.array([0.1, 0.5, 0.9])

KAPPA = 0.5


def quantile_huber(pred, target):
    u = target[:, None] - pred
    huber = jnp.where(jnp.abs(u) <= KAPPA, 0.5 * u**2, KAPPA * (jnp.abs(u) - 0.5 * KAPPA))
    return jnp.mean(jnp.abs(TAUS - (u < 0)) * huber / KAPPA)


def draw_quantile_huber(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (6, 3)), normal(k[1], (6,))


def right_quantile_huber(args, g):
    pred, target = args
    u = target[:, None] - pred
    weight = jnp.abs(TAUS - (u < 0).astype(u.dtype))
    d_huber = jnp.where(jnp.abs(u) <= KAPPA, u, KAPPA * jnp.sign(u))
    du = weight * d_huber / KAPPA
    du = g * du / u.size
    return -du, du.sum(axis=1)


MARGIN = 2.0


def triplet(a, p, n, W):
    ea, ep, en = a @ W, p @ W, n @ W
    gap = jnp.sum((ea - ep) ** 2, axis=1) - jnp.sum((ea - en) ** 2, axis=1) + MARGIN
    return jnp.mean(jnp.maximum(gap, 0.0))


def draw_triplet(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (8, 3)), normal(k[1], (8, 3)), normal(k[2], (8, 3)), 0.7 * normal(k[3], (3, 2))


def right_triplet(args, g):
    a, p, n, W = args
    dp, dn = (a - p) @ W, (a - n) @ W
    gap = (dp**2).sum(1) - (dn**2).sum(1) + MARGIN
    active = (gap > 0)[:, None] * g / a.shape[0]
    g_ep = -2 * active * dp
    g_en = 2 * active * dn
    g_ea = -(g_ep + g_en)
    gW = a.T @ g_ea + p.T @ g_ep + n.T @ g_en
    return g_ea @ W.T, g_ep @ W.T, g_en @ W.T, gW


YBIN = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])

GAMMA, BAL = 2.0, 0.25


def focal(x, w, b):
    z = x @ w + b
    p = jax.nn.sigmoid(z)
    pt = jnp.where(YBIN > 0, p, 1 - p)
    at = jnp.where(YBIN > 0, BAL, 1 - BAL)
    return jnp.mean(-at * (1 - pt) ** GAMMA * jnp.log(pt))


def draw_focal(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 3)), normal(k[1], (3,)), normal(k[2], ())


def right_focal(args, ct):
    x, w, b = args
    p = jax.nn.sigmoid(x @ w + b)
    pt = YBIN * p + (1 - YBIN) * (1 - p)
    at = BAL * YBIN + (1 - BAL) * (1 - YBIN)
    q = 1 - pt
    d_pt = GAMMA * q ** (GAMMA - 1) * jnp.log(pt) - q**GAMMA / pt
    d_pt = ct * at * d_pt / x.shape[0]
    d_p = d_pt * (2 * YBIN - 1)
    d_z = d_p * p * (1 - p)
    return jnp.outer(d_z, w), x.T @ d_z, jnp.sum(d_z)


SEG = jax.nn.one_hot(jnp.array([[0, 1, 1, 2, 0, 2], [1, 0, 2, 2, 1, 1]]), 3)


def dice(logits):
    p = jax.nn.softmax(logits, axis=-1)
    inter = jnp.sum(p * SEG, axis=1)
    size = jnp.sum(p + SEG, axis=1)
    return 1 - jnp.mean((2 * inter + 1.0) / (size + 1.0), axis=-1)


def draw_dice(key):
    return (normal(key, (2, 6, 3)),)


def right_dice(args, g):
    (logits,) = args
    p = jax.nn.softmax(logits, axis=-1)
    num = 2 * jnp.sum(p * SEG, axis=1) + 1.0
    den = jnp.sum(p + SEG, axis=1) + 1.0
    g_score = -g[:, None] / num.shape[-1]
    g_num = g_score / den
    g_den = -g_score * num / den**2
    g_p = 2 * g_num[:, None, :] * SEG + g_den[:, None, :]
    g_logits = p * (g_p - jnp.sum(g_p * p, axis=-1, keepdims=True))
    return (g_logits,)


KNOTS = jnp.array([0.0, 0.5, 1.3, 2.0, 3.0])

CELL = jnp.array([0, 2, 1, 3, 3, 2])

FRAC = jnp.array([0.2, 0.7, 0.45, 0.9, 0.3, 0.55])


def hermite(y, s, dx):
    h = jnp.diff(KNOTS)[CELL]
    t = FRAC + dx / h
    y0, y1, s0, s1 = y[CELL], y[CELL + 1], s[CELL], s[CELL + 1]
    return (
        (1 + 2 * t) * (1 - t) ** 2 * y0 + t * (1 - t) ** 2 * h * s0 + t**2 * (3 - 2 * t) * y1 + t**2 * (t - 1) * h * s1
    )


def draw_hermite(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5,)), normal(k[1], (5,)), 0.1 * normal(k[2], (6,))


def right_hermite(args, g):
    y, s, dx = args
    h = (KNOTS[1:] - KNOTS[:-1])[CELL]
    t = FRAC + dx / h
    u = 1 - t
    gy = jnp.zeros_like(y).at[CELL].add(g * (1 + 2 * t) * u**2)
    gy = gy.at[CELL + 1].add(g * t**2 * (3 - 2 * t))
    gs = jnp.zeros_like(s).at[CELL].add(g * t * u**2 * h)
    gs = gs.at[CELL + 1].add(-g * t**2 * u * h)
    slope_y = 6 * t * u * (y[CELL + 1] - y[CELL])
    slope_s = u * (1 - 3 * t) * s[CELL] + t * (3 * t - 2) * s[CELL + 1]
    gt = g * (slope_y + h * slope_s)
    gdx = gt / h
    return gy, gs, gdx


SINGLE = [
    *wrong_rules(
        kalman_update,
        right_kalman_update,
        draw_kalman_update,
        """
kalman_update_gain_constant
- dK = jnp.outer(cm, v) - cP @ HP.T
+ dK = jnp.outer(cm, v)
term: gain gradient of the covariance update forgotten
    """,
    ),
    *wrong_rules(
        leapfrog,
        right_leapfrog,
        draw_leapfrog,
        """
leapfrog_not_reversed
- for q_old, ph, q_new in reversed(tape):
+ for q_old, ph, q_new in tape:
index: steps walked forward rather than backward
    """,
    ),
    *wrong_rules(
        midpoint_ode,
        right_midpoint_ode,
        draw_midpoint_ode,
        """
midpoint_ode_adj_detached
- adj = adj + g_mid + A.T @ s1
+ adj = adj + g_mid
detached: first stage taken for constant in the state gradient
    """,
    ),
    *wrong_rules(
        rope_attn,
        right_rope_attn,
        draw_rope_attn,
        """
rope_attn_rotates_on
- d_k = unrotate(d_s.T @ qr)
+ d_k = rope(d_s.T @ qr)
transpose: rotated further instead of back
    """,
    ),
    *wrong_rules(
        soft_moe,
        right_soft_moe,
        draw_soft_moe,
        """
soft_moe_gate_path
- dWg = x.T @ dlog
-     dx = dx + dlog @ Wg.T
+ dWg = x.T @ dlog
detached: router taken for constant in the input gradient
@ return dx, dWg, dWe

soft_moe_renorm_detached
- draw = (dkept - (dkept * kept).sum(-1, keepdims=True)) / total
+ draw = dkept / total
detached: normaliser of the kept gates taken for constant
    """,
    ),
    *wrong_rules(
        info_nce,
        right_info_nce,
        draw_info_nce,
        """
info_nce_norm_detached
- da = (d_an - an * jnp.sum(an * d_an, axis=1, keepdims=True)) / na
+ da = d_an / na
detached: norm of a taken for constant
    """,
    ),
    *wrong_rules(
        rbf_net,
        right_rbf_net,
        draw_rbf_net,
        """
rbf_net_centre_sign
- dc = -ddiff.sum(axis=0)
+ dc = ddiff.sum(axis=0)
sign: centres enter with a minus
    """,
    ),
    *wrong_rules(
        quantile_huber,
        right_quantile_huber,
        draw_quantile_huber,
        """
quantile_huber_side
- weight = jnp.abs(TAUS - (u < 0).astype(u.dtype))
+ weight = jnp.abs(TAUS - (u > 0).astype(u.dtype))
mask: indicator of the wrong side
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet,
        draw_triplet,
        """
triplet_margin
- active = (gap > 0)[:, None] * g / a.shape[0]
+ active = (gap > MARGIN)[:, None] * g / a.shape[0]
mask: margin counted twice in the hinge
    """,
    ),
    *wrong_rules(
        focal,
        right_focal,
        draw_focal,
        """
focal_modulator_detached
- d_pt = GAMMA * q ** (GAMMA - 1) * jnp.log(pt) - q**GAMMA / pt
+ d_pt = -(q**GAMMA) / pt
detached: modulating factor taken for constant
    """,
    ),
    *wrong_rules(
        dice,
        right_dice,
        draw_dice,
        """
dice_den_detached
- g_p = 2 * g_num[:, None, :] * SEG + g_den[:, None, :]
+ g_p = 2 * g_num[:, None, :] * SEG
detached: denominator taken for constant

dice_softmax_axis
- g_logits = p * (g_p - jnp.sum(g_p * p, axis=-1, keepdims=True))
+ g_logits = p * (g_p - jnp.sum(g_p * p, axis=1, keepdims=True))
axis: softmax correction over the pixels, not over the classes
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        kalman_update,
        right_kalman_update,
        draw_kalman_update,
        """
kalman_update_two
- dm = cm - H.T @ dv
+ dm = cm
- dS = -Sinv.T @ (PHt.T @ dK) @ Sinv.T
+ dS = -Sinv.T @ (PHt.T @ dK)
term: innovation path into the mean forgotten
@ dm = cm
factor: second inverse of S missing
@ dS = -Sinv.T @ (PHt.T @ dK)

kalman_update_three
- dK = jnp.outer(cm, v) - cP @ HP.T
+ dK = jnp.outer(cm, y) - cP @ HP.T
- dP = cP + H.T @ dHP + dPHt @ H
+ dP = H.T @ dHP + dPHt @ H
- dH = dHP @ P.T + dPHt.T @ P + dS.T @ HP - jnp.outer(dv, m)
+ dH = dHP @ P.T + dPHt.T @ P + dS.T @ HP + jnp.outer(dv, m)
carry: prior covariance not handed on
@ dP = H.T @ dHP + dPHt @ H
sign: sign of the predicted measurement
@ dH = dHP @ P.T + dPHt.T @ P + dS.T @ HP + jnp.outer(dv, m)
operand: measurement y in place of the innovation
@ dK = jnp.outer(cm, y) - cP @ HP.T
    """,
    ),
    *wrong_rules(
        leapfrog,
        right_leapfrog,
        draw_leapfrog,
        """
leapfrog_two
- pb = pb + DT * qb / mass
+ pb = DT * qb / mass
- mb = mb - qb * DT * ph / mass**2
+ mb = mb - qb * DT * ph / mass
carry: momentum gradient overwritten by the drift
@ pb = DT * qb / mass
factor: mass not squared
@ mb = mb - qb * DT * ph / mass
    """,
    ),
    *wrong_rules(
        hermite,
        right_hermite,
        draw_hermite,
        """
hermite_three
- gs = gs.at[CELL + 1].add(-g * t**2 * u * h)
+ gs = gs.at[CELL + 1].add(g * t**2 * u * h)
- slope_y = 6 * t * u * (y[CELL + 1] - y[CELL])
+ slope_y = 3 * t * u * (y[CELL + 1] - y[CELL])
- gdx = gt / h
+ gdx = gt * h
sign: t - 1 written as 1 - t
@ gs = gs.at[CELL + 1].add(g * t**2 * u * h)
constant: 3 instead of 6
@ slope_y = 3 * t * u * (y[CELL + 1] - y[CELL])
factor: product in place of the division by the cell width
@ gdx = gt * h
    """,
    ),
    *wrong_rules(
        rope_attn,
        right_rope_attn,
        draw_rope_attn,
        """
rope_attn_two
- d_s = 0.5 * d_s
+ d_s = 2.0 * d_s
- d_q = unrotate(d_s @ kr)
+ d_q = unrotate(d_s @ k)
operand: keys before the rotation
@ d_q = unrotate(d_s @ k)
constant: 2 in place of one half
@ d_s = 2.0 * d_s
    """,
    ),
    *wrong_rules(
        soft_moe,
        right_soft_moe,
        draw_soft_moe,
        """
soft_moe_three
- dy = jnp.einsum("bo,be->beo", dout, kept)
+ dy = jnp.einsum("bo,be->beo", dout, gate)
- dWe = jnp.einsum("bi,beo->eio", x, dpre)
+ dWe = jnp.einsum("bi,beo->eio", x, dy)
- dgate = jnp.where(top, draw, 0.0)
+ dgate = jnp.where(top, 0.0, draw)
mask: experts that were not chosen get the gradient
@ dgate = jnp.where(top, 0.0, draw)
operand: gradient before the tanh slope
@ dWe = jnp.einsum("bi,beo->eio", x, dy)
operand: full softmax instead of the kept gates
@ dy = jnp.einsum("bo,be->beo", dout, gate)
    """,
    ),
    *wrong_rules(
        info_nce,
        right_info_nce,
        draw_info_nce,
        """
info_nce_two
- p_col = jax.nn.softmax(s, axis=0)
+ p_col = jax.nn.softmax(s, axis=1)
- d_bn = tau * ds.T @ an
+ d_bn = tau * ds @ an
transpose: score gradient not transposed for b
@ d_bn = tau * ds @ an
axis: both softmaxes over the rows
@ p_col = jax.nn.softmax(s, axis=1)
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet,
        draw_triplet,
        """
triplet_two
- g_en = 2 * active * dn
+ g_en = -2 * active * dn
- gW = a.T @ g_ea + p.T @ g_ep + n.T @ g_en
+ gW = a.T @ g_ea + p.T @ g_ep
sign: negative pulled closer
@ g_en = -2 * active * dn
term: negatives forgotten in the weight gradient
@ gW = a.T @ g_ea + p.T @ g_ep
    """,
    ),
    *wrong_rules(
        focal,
        right_focal,
        draw_focal,
        """
focal_two
- at = BAL * YBIN + (1 - BAL) * (1 - YBIN)
+ at = (1 - BAL) * YBIN + (1 - BAL) * (1 - YBIN)
- d_p = d_pt * (2 * YBIN - 1)
+ d_p = d_pt * YBIN
mask: negatives get no gradient
@ d_p = d_pt * YBIN
constant: balance of the positives is BAL, not 1 - BAL
@ at = (1 - BAL) * YBIN + (1 - BAL) * (1 - YBIN)
    """,
    ),
    *wrong_rules(
        dice,
        right_dice,
        draw_dice,
        """
dice_two
- g_score = -g[:, None] / num.shape[-1]
+ g_score = -g[:, None]
- g_den = -g_score * num / den**2
+ g_den = g_score * num / den**2
sign: minus of the quotient rule
@ g_den = g_score * num / den**2
factor: mean over the classes not undone
@ g_score = -g[:, None]
    """,
    ),
]
