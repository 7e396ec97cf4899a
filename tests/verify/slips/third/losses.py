"""Rules with mistakes in the derivatives of losses."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


B, C, E = 8, 5, 6

TARGET = jnp.array(np.random.RandomState(0).randn(B), jnp.float32)

MASK = jnp.array([1, 1, 0, 1, 1, 1, 0, 1], jnp.float32)

YBIN = jnp.array([1, 0, 0, 1, 1, 0, 1, 0], jnp.float32)

SEG = jnp.array(np.random.RandomState(1).rand(4, 6) > 0.5, jnp.float32)

DELTA = 0.7

TAU = 0.3

GAMMA = 2.0

MARGIN = 1.0

TEMP = 0.5


def huber(x, w):
    r = x @ w - TARGET
    a = jnp.abs(r)
    per = jnp.where(a <= DELTA, 0.5 * r**2, DELTA * (a - 0.5 * DELTA))
    return jnp.sum(per * MASK) / jnp.sum(MASK)


def draw_huber(key):
    return normal(key, (B, 3), (3,))


def pinball(q):
    u = TARGET - q
    return jnp.mean(jnp.maximum(TAU * u, (TAU - 1.0) * u) * MASK)


def draw_q(key):
    return normal(key, (B,))


def focal(logit):
    p = jax.nn.sigmoid(logit)
    pt = jnp.where(YBIN == 1, p, 1 - p)
    return jnp.mean(-((1 - pt) ** GAMMA) * jnp.log(pt))


def dice(logits):
    p = jax.nn.sigmoid(logits)
    inter = jnp.sum(p * SEG, axis=1)
    total = jnp.sum(p**2, axis=1) + jnp.sum(SEG, axis=1)
    return 1.0 - jnp.mean((2.0 * inter + 1.0) / (total + 1.0))


def draw_dice(key):
    return normal(key, (4, 6))


def triplet(anchor, pos, neg):
    dp = jnp.sum((anchor - pos) ** 2, axis=-1)
    dn = jnp.sum((anchor - neg) ** 2, axis=-1)
    return jnp.mean(jnp.maximum(dp - dn + MARGIN, 0.0))


def draw_triplet(key):
    return normal(key, (B, E), (B, E), (B, E))


def info_nce(za, zb):
    sim = za @ zb.T / TEMP
    lse = jax.nn.logsumexp(sim, axis=1)
    return jnp.mean(lse - jnp.diagonal(sim))


def draw_nce(key):
    za, zb = normal(key, (5, E), (5, E))
    return za * 0.5, zb * 0.5


def cosine_pairs(u, v):
    nu = jnp.sqrt(jnp.sum(u * u, axis=-1))
    nv = jnp.sqrt(jnp.sum(v * v, axis=-1))
    return jnp.sum(u * v, axis=-1) / (nu * nv)


def draw_pair(key):
    return normal(key, (B, E), (B, E))


def right_huber(args, ct):
    x, w = args
    r = x @ w - TARGET
    slope = jnp.where(jnp.abs(r) <= DELTA, r, DELTA * jnp.sign(r))
    d_r = ct * slope * MASK / jnp.sum(MASK)
    d_x = jnp.outer(d_r, w)
    d_w = x.T @ d_r
    return d_x, d_w


def right_pinball(args, ct):
    q = args[0]
    u = TARGET - q
    du = jnp.where(u > 0, TAU, TAU - 1.0)
    dq = -du * MASK
    return (ct * dq / q.size,)


def right_focal(args, ct):
    (logit,) = args
    p = jax.nn.sigmoid(logit)
    pt = jnp.where(YBIN == 1, p, 1 - p)
    d_pt = GAMMA * (1 - pt) ** (GAMMA - 1) * jnp.log(pt)
    d_pt = d_pt - (1 - pt) ** GAMMA / pt
    d_p = jnp.where(YBIN == 1, d_pt, -d_pt)
    d_logit = d_p * p * (1 - p)
    return (ct * d_logit / logit.shape[0],)


def right_dice(args, ct):
    (logits,) = args
    p = jax.nn.sigmoid(logits)
    num = 2.0 * jnp.sum(p * SEG, axis=1, keepdims=True) + 1.0
    den = jnp.sum(p**2, axis=1, keepdims=True) + jnp.sum(SEG, axis=1, keepdims=True) + 1.0
    d_num = -ct / logits.shape[0] / den
    d_den = ct / logits.shape[0] * num / den**2
    d_p = 2.0 * SEG * d_num + 2.0 * p * d_den
    return (d_p * p * (1.0 - p),)


def right_triplet(args, ct):
    anchor, pos, neg = args
    dp = ((anchor - pos) ** 2).sum(-1)
    dn = ((anchor - neg) ** 2).sum(-1)
    active = (dp - dn + MARGIN > 0).astype(anchor.dtype)
    g = ct * active[:, None] / anchor.shape[0]
    g_pos = -2.0 * g * (anchor - pos)
    g_neg = 2.0 * g * (anchor - neg)
    g_anchor = -g_pos - g_neg
    return g_anchor, g_pos, g_neg


def right_info_nce(args, ct):
    za, zb = args
    n = za.shape[0]
    sim = za @ zb.T / TEMP
    p = jax.nn.softmax(sim, axis=1)
    d_sim = (p - jnp.eye(n)) * ct / n
    d_za = d_sim @ zb / TEMP
    d_zb = d_sim.T @ za / TEMP
    return d_za, d_zb


def right_cosine_pairs(args, ct):
    u, v = args
    nu = jnp.linalg.norm(u, axis=-1, keepdims=True)
    nv = jnp.linalg.norm(v, axis=-1, keepdims=True)
    cos = jnp.sum(u * v, axis=-1, keepdims=True) / (nu * nv)
    g = ct[:, None]
    u_bar = g * (v / (nu * nv) - cos * u / nu**2)
    v_bar = g * (u / (nu * nv) - cos * v / nv**2)
    return u_bar, v_bar


SINGLE = [
    *wrong_rules(
        huber,
        right_huber,
        draw_huber,
        """
huber_bwd_2
- d_r = ct * slope * MASK / jnp.sum(MASK)
+ d_r = ct * slope * MASK / B
constant: divided by the batch size in place of the number of valid entries
    """,
    ),
    *wrong_rules(
        pinball,
        right_pinball,
        draw_q,
        """
pinball_bwd_2
- du = jnp.where(u > 0, TAU, TAU - 1.0)
+ du = jnp.where(u < 0, TAU, TAU - 1.0)
mask: the branches of the pinball loss are exchanged
    """,
    ),
    *wrong_rules(
        focal,
        right_focal,
        draw_q,
        """
focal_bwd_2
- d_pt = GAMMA * (1 - pt) ** (GAMMA - 1) * jnp.log(pt)
-     d_pt = d_pt - (1 - pt) ** GAMMA / pt
+ d_pt = GAMMA * (1 - pt) ** (GAMMA - 1) * jnp.log(pt)
term: the derivative of log(pt) is missing (modulating factor alone is differentiated)
@ d_p = jnp.where(YBIN == 1, d_pt, -d_pt)
    """,
    ),
    *wrong_rules(
        dice,
        right_dice,
        draw_dice,
        """
dice_bwd_2
- d_p = 2.0 * SEG * d_num + 2.0 * p * d_den
+ d_p = 2.0 * SEG * d_num
detached: the denominator is taken for a constant
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet,
        draw_triplet,
        """
triplet_bwd_1
- active = (dp - dn + MARGIN > 0).astype(anchor.dtype)
+ active = (dn - dp + MARGIN > 0).astype(anchor.dtype)
mask: the hinge is active where dp - dn + margin > 0; dp and dn exchanged
    """,
    ),
    *wrong_rules(
        info_nce,
        right_info_nce,
        draw_nce,
        """
info_nce_bwd_1
- p = jax.nn.softmax(sim, axis=1)
+ p = jax.nn.softmax(sim, axis=0)
axis: softmax over rows in place of columns
    """,
    ),
    *wrong_rules(
        cosine_pairs,
        right_cosine_pairs,
        draw_pair,
        """
cosine_pairs_bwd_1
- v_bar = g * (u / (nu * nv) - cos * v / nv**2)
+ v_bar = g * u / (nu * nv)
detached: the norm of v is taken for a constant
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        huber,
        right_huber,
        draw_huber,
        """
huber_bwd_3
- slope = jnp.where(jnp.abs(r) <= DELTA, r, DELTA * jnp.sign(r))
+ slope = jnp.where(jnp.abs(r) <= DELTA, 2.0 * r, DELTA * jnp.sign(r))
- d_r = ct * slope * MASK / jnp.sum(MASK)
+ d_r = ct * slope / jnp.sum(MASK)
constant: slope of 0.5 * r**2 is r, not 2 r
@ slope = jnp.where(jnp.abs(r) <= DELTA, 2.0 * r, DELTA * jnp.sign(r))
mask: mask missing: entries left out of the loss receive a gradient
@ d_r = ct * slope / jnp.sum(MASK)
    """,
    ),
    *wrong_rules(
        focal,
        right_focal,
        draw_q,
        """
focal_bwd_3
- d_pt = GAMMA * (1 - pt) ** (GAMMA - 1) * jnp.log(pt)
+ d_pt = GAMMA * (1 - pt) ** GAMMA * jnp.log(pt)
- d_p = jnp.where(YBIN == 1, d_pt, -d_pt)
+ d_p = d_pt
- d_logit = d_p * p * (1 - p)
+ d_logit = d_p * (1 - p)
constant: exponent must be GAMMA - 1
@ d_pt = GAMMA * (1 - pt) ** GAMMA * jnp.log(pt)
activation: slope of the sigmoid is p (1 - p)
@ d_logit = d_p * (1 - p)
sign: for negatives pt = 1 - p, the minus is missing
@ d_p = d_pt
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet,
        draw_triplet,
        """
triplet_bwd_2
- g_neg = 2.0 * g * (anchor - neg)
+ g_neg = g * (anchor - neg)
- g_anchor = -g_pos - g_neg
+ g_anchor = -g_pos + g_neg
sign: sign of the part of the negative pair
@ g_anchor = -g_pos + g_neg
constant: factor 2 of the square missing
@ g_neg = g * (anchor - neg)
    """,
    ),
]
