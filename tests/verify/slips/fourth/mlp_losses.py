"""Dense layers and the losses on top of them, gradients derived by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

rng = np.random.default_rng(5)

TARGET = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)

LABELS = jnp.asarray([0, 3, 1, 2, 3])

SMOOTH = 0.2

CLICKED = jnp.asarray([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], jnp.float32)

GAMMA = 2.0

SEG = jnp.asarray((rng.uniform(size=(4, 5)) > 0.5), jnp.float32)

MARGIN = 1.5


def normals(*shapes, scale=1.0):
    def draw(key):
        ks = jax.random.split(key, len(shapes))
        return tuple(scale * jax.random.normal(k, s) for k, s in zip(ks, shapes))

    return draw


def mlp_mse(x, w1, b1, w2, b2):
    h = jnp.tanh(x @ w1 + b1)
    y = h @ w2 + b2
    return jnp.mean((y - TARGET) ** 2)


def right_mlp_mse_backward(args, ct):
    x, w1, b1, w2, b2 = args
    # redo the forward
    a = x @ w1 + b1
    h = jnp.tanh(a)
    y = h @ w2 + b2
    # output layer
    dy = ct * 2.0 * (y - TARGET) / y.size
    dw2 = h.T @ dy
    db2 = dy.sum(axis=0)
    # hidden layer
    dh = dy @ w2.T
    da = dh * (1.0 - h**2)
    dw1 = x.T @ da
    db1 = da.sum(axis=0)
    dx = da @ w1.T
    return dx, dw1, db1, dw2, db2


def smoothed_xent(x, w, b):
    logp = jax.nn.log_softmax(x @ w + b)
    q = (1 - SMOOTH) * jax.nn.one_hot(LABELS, 4) + SMOOTH / 4
    return -jnp.mean(jnp.sum(q * logp, axis=-1))


def right_smoothed_xent_backward(args, ct):
    x, w, b = args
    logits = x @ w + b
    p = jax.nn.softmax(logits)
    onehot = jax.nn.one_hot(LABELS, 4)
    q = (1 - SMOOTH) * onehot + SMOOTH / 4
    dlogits = ct * (p - q) / x.shape[0]
    dw = x.T @ dlogits
    db = dlogits.sum(axis=0)
    dx = dlogits @ w.T
    return dx, dw, db


def focal(z):
    p = jax.nn.sigmoid(z)
    pt = CLICKED * p + (1 - CLICKED) * (1 - p)
    return jnp.sum(-((1 - pt) ** GAMMA) * jnp.log(pt))


def right_focal_backward(args, ct):
    (z,) = args
    p = jax.nn.sigmoid(z)
    pt = CLICKED * p + (1 - CLICKED) * (1 - p)
    # product rule: d/dpt of -(1-pt)^g log pt
    dmod = GAMMA * (1 - pt) ** (GAMMA - 1) * jnp.log(pt)
    dlog = -((1 - pt) ** GAMMA) / pt
    dpt = ct * (dmod + dlog)
    dp = dpt * (2 * CLICKED - 1)
    dz = dp * p * (1 - p)
    return (dz,)


def soft_dice(z):
    p = jax.nn.sigmoid(z)
    inter = jnp.sum(p * SEG, axis=1)
    denom = jnp.sum(p**2, axis=1) + jnp.sum(SEG, axis=1) + 1.0
    return 1.0 - (2.0 * inter + 1.0) / denom


def right_soft_dice_backward(args, ct):
    z = args[0]
    p = jax.nn.sigmoid(z)
    num = 2.0 * jnp.sum(p * SEG, axis=1) + 1.0
    den = jnp.sum(p**2, axis=1) + jnp.sum(SEG, axis=1) + 1.0
    dnum = -ct / den
    dden = ct * num / den**2
    dp = dnum[:, None] * 2.0 * SEG
    dp = dp + dden[:, None] * 2.0 * p
    return (dp * p * (1.0 - p),)


def silu_block(x, w, v):
    return x + jax.nn.silu(x @ w) @ v


def right_silu_block_backward(args, ct):
    x, w, v = args
    u = x @ w
    s = jax.nn.sigmoid(u)
    act = u * s
    dv = act.T @ ct
    dact = ct @ v.T
    du = dact * (s + u * s * (1 - s))
    dw = x.T @ du
    dx = du @ w.T + ct
    return dx, dw, dv


def triplet(anchor, pos, neg):
    dp = jnp.sum((anchor - pos) ** 2, axis=-1)
    dn = jnp.sum((anchor - neg) ** 2, axis=-1)
    return jnp.mean(jax.nn.relu(dp - dn + MARGIN))


def right_triplet_backward(args, ct):
    anchor, pos, neg = args
    dp = jnp.sum((anchor - pos) ** 2, axis=-1)
    dn = jnp.sum((anchor - neg) ** 2, axis=-1)
    active = (dp - dn + MARGIN > 0).astype(anchor.dtype)
    g = (ct / anchor.shape[0]) * active[:, None]
    d_anchor = 2.0 * g * ((anchor - pos) - (anchor - neg))
    d_pos = -2.0 * g * (anchor - pos)
    d_neg = 2.0 * g * (anchor - neg)
    return d_anchor, d_pos, d_neg


SINGLE = [
    *wrong_rules(
        mlp_mse,
        right_mlp_mse_backward,
        normals((6, 4), (4, 5), (5,), (5, 3), (3,), scale=0.7),
        """
mlp_mse_backward
- da = dh * (1.0 - h**2)
+ da = dh * (1.0 - a**2)
activation: slope of tanh written in the pre-activation a instead of its output h
    """,
    ),
    *wrong_rules(
        smoothed_xent,
        right_smoothed_xent_backward,
        normals((5, 6), (6, 4), (4,)),
        """
smoothed_xent_backward
- q = (1 - SMOOTH) * onehot + SMOOTH / 4
+ q = (1 - SMOOTH) * onehot + SMOOTH
constant: smoothing mass not divided by the number of classes
    """,
    ),
    *wrong_rules(
        focal,
        right_focal_backward,
        normals((7,)),
        """
focal_backward
- dpt = ct * (dmod + dlog)
+ dpt = ct * dlog
detached: the modulating factor (1-pt)^gamma taken as constant
    """,
    ),
    *wrong_rules(
        soft_dice,
        right_soft_dice_backward,
        normals((4, 5)),
        """
soft_dice_backward
- dden = ct * num / den**2
+ dden = ct * num / den
factor: quotient rule needs den squared
    """,
    ),
    *wrong_rules(
        silu_block,
        right_silu_block_backward,
        normals((5, 4), (4, 6), (6, 4)),
        """
silu_block_backward
- dx = du @ w.T + ct
+ dx = du @ w.T
term: skip connection does not pass ct on to x
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet_backward,
        normals((8, 3), (8, 3), (8, 3)),
        """
triplet_backward
- d_neg = 2.0 * g * (anchor - neg)
+ d_neg = -2.0 * g * (anchor - neg)
sign: sign of the gradient of the negative
    """,
    ),
]
