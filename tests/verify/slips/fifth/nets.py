"""Rules with mistakes in the derivatives of nets."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

TARGET = jnp.asarray(np.random.RandomState(0).randn(6, 3), jnp.float32)

LABELS = jnp.asarray([0, 2, 1, 3, 3, 1, 0])

SEG = jnp.asarray(np.random.RandomState(1).rand(4, 10) > 0.5, jnp.float32)

SMOOTH = 0.1


def normals(*shapes):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))

    return draw


def mlp_mse(x, w1, b1, w2, b2):
    h = jnp.tanh(x @ w1 + b1)
    y = h @ w2 + b2
    return jnp.mean((y - TARGET) ** 2)


def right_mlp_mse(args, ct):
    x, w1, b1, w2, b2 = args
    z = x @ w1 + b1
    h = jnp.tanh(z)
    y = h @ w2 + b2
    d_y = ct * 2.0 * (y - TARGET) / y.size
    d_w2 = h.T @ d_y
    d_b2 = d_y.sum(axis=0)
    d_h = d_y @ w2.T
    d_z = d_h * (1.0 - h**2)
    d_w1 = x.T @ d_z
    d_b1 = d_z.sum(axis=0)
    d_x = d_z @ w1.T
    return d_x, d_w1, d_b1, d_w2, d_b2


def smoothed_ce(logits, temp):
    q = jax.nn.one_hot(LABELS, 4) * (1 - SMOOTH) + SMOOTH / 4
    logp = jax.nn.log_softmax(logits / temp, axis=-1)
    return -jnp.mean(jnp.sum(q * logp, axis=-1))


def right_smoothed_ce(args, ct):
    logits, temp = args
    n, c = logits.shape
    onehot = (LABELS[:, None] == jnp.arange(c)[None, :]).astype(logits.dtype)
    q = (1 - SMOOTH) * onehot + SMOOTH / c
    scaled = logits / temp
    e = jnp.exp(scaled - scaled.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    g = ct * (p - q) / n
    grad_logits = g / temp
    grad_temp = -jnp.sum(g * logits) / temp**2
    return grad_logits, grad_temp


def draw_smoothed(key):
    return jax.random.normal(key, (7, 4)), jnp.asarray(1.7, jnp.float32)


def gelu_mlp(x, w, v):
    u = x @ w
    g = 0.5 * u * (1 + jnp.tanh(0.7978846 * (u + 0.044715 * u**3)))
    return g @ v


def right_gelu_mlp(args, ct):
    x, w, v = args
    c = 0.7978846
    u = x @ w
    t = jnp.tanh(c * (u + 0.044715 * u**3))
    g = 0.5 * u * (1 + t)
    gv = jnp.einsum("bh,bo->ho", g, ct)
    gg = jnp.einsum("bo,ho->bh", ct, v)
    inner = c * (1 + 3 * 0.044715 * u**2)
    slope = 0.5 * (1 + t) + 0.5 * u * (1 - t**2) * inner
    gu = gg * slope
    return gu @ w.T, x.T @ gu, gv


def dice_loss(logits):
    p = jax.nn.sigmoid(logits)
    inter = jnp.sum(p * SEG, axis=1)
    union = jnp.sum(p, axis=1) + jnp.sum(SEG, axis=1)
    return 1.0 - (2.0 * inter + 1.0) / (union + 1.0)


def right_dice(args, ct):
    (logits,) = args

    def one(z, t, g):
        p = 1 / (1 + jnp.exp(-z))
        num = 2.0 * jnp.dot(p, t) + 1.0
        den = p.sum() + t.sum() + 1.0
        dp = -g * (2.0 * t / den - num / den**2)
        return dp * p * (1 - p)

    return (jax.vmap(one)(logits, SEG, ct),)


def triplet(anchor, pos, neg):
    dp = jnp.sum((anchor - pos) ** 2, axis=-1)
    dn = jnp.sum((anchor - neg) ** 2, axis=-1)
    return jnp.mean(jnp.maximum(dp - dn + 0.5, 0.0))


def right_triplet(args, ct):
    anchor, pos, neg = args
    ap, an = anchor - pos, anchor - neg
    viol = (ap**2).sum(-1) - (an**2).sum(-1) + 0.5
    active = (viol > 0).astype(anchor.dtype)
    coef = (ct / anchor.shape[0]) * active[:, None]
    g_anchor = coef * 2 * (ap - an)
    return g_anchor, -2 * coef * ap, 2 * coef * an


def pinball_huber(pred, y, w):
    e = y - pred @ w
    tau = 0.8
    a = jnp.abs(e)
    hub = jnp.where(a < 0.7, 0.5 * e**2 / 0.7, a - 0.35)
    return jnp.sum(jnp.where(e > 0, tau, 1 - tau) * hub)


def right_pinball(args, ct):
    feats, y, w = args
    tau, kappa = 0.8, 0.7
    err = y - feats @ w
    weight = jnp.where(err > 0, tau, 1 - tau)
    psi = jnp.clip(err / kappa, -1.0, 1.0)
    d_err = ct * weight * psi
    d_pred = -d_err
    return jnp.outer(d_pred, w), d_err, feats.T @ d_pred


SINGLE = [
    *wrong_rules(
        mlp_mse,
        right_mlp_mse,
        normals((6, 4), (4, 5), (5,), (5, 3), (3,)),
        """
mlp_mse_a
- d_z = d_h * (1.0 - h**2)
+ d_z = d_h * (1.0 - z**2)
activation: slope of tanh written in the pre-activation z

mlp_mse_b
- d_w1 = x.T @ d_z
+ d_w1 = x.T @ d_h
operand: gradient after the activation d_h in place of d_z
    """,
    ),
    *wrong_rules(
        smoothed_ce,
        right_smoothed_ce,
        draw_smoothed,
        """
smoothed_ce_a
- p = e / e.sum(axis=1, keepdims=True)
+ p = e / e.sum(axis=0, keepdims=True)
axis: softmax denominator summed over the batch

smoothed_ce_b
- grad_temp = -jnp.sum(g * logits) / temp**2
+ grad_temp = -jnp.sum(g * logits) / temp
factor: division by temp once instead of twice
    """,
    ),
    *wrong_rules(
        gelu_mlp,
        right_gelu_mlp,
        normals((5, 3), (3, 6), (6, 2)),
        """
gelu_mlp_a
- inner = c * (1 + 3 * 0.044715 * u**2)
+ inner = c * (1 + 0.044715 * u**2)
constant: 3 of the cube's derivative missing

gelu_mlp_b
- slope = 0.5 * (1 + t) + 0.5 * u * (1 - t**2) * inner
+ slope = 0.5 * u * (1 - t**2) * inner
term: the 0.5 (1 + tanh) part of the product rule is missing
    """,
    ),
    *wrong_rules(
        dice_loss,
        right_dice,
        normals((4, 10)),
        """
dice_a
- dp = -g * (2.0 * t / den - num / den**2)
+ dp = -g * (2.0 * t / den + num / den**2)
sign: quotient rule with a plus
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet,
        normals((8, 4), (8, 4), (8, 4)),
        """
triplet_a
- coef = (ct / anchor.shape[0]) * active[:, None]
+ coef = (ct / anchor.shape[0]) * jnp.ones_like(active)[:, None]
mask: the hinge's active set is not applied
    """,
    ),
    *wrong_rules(
        pinball_huber,
        right_pinball,
        normals((9, 3), (9,), (3,)),
        """
pinball_a
- weight = jnp.where(err > 0, tau, 1 - tau)
+ weight = jnp.where(err < 0, tau, 1 - tau)
mask: the quantile weights the wrong way round
    """,
    ),
]
