"""Rules with mistakes in the derivatives of networks."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

LABELS = jnp.array([2, 0, 1, 3, 1])

YBIN = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])


def mlp3_fwd(x, W1, b1, W2, b2, W3):
    h1 = jnp.tanh(x @ W1 + b1)
    h2 = jax.nn.softplus(h1 @ W2 + b2)
    return h2 @ W3


def mlp3_draw(key):
    k = jax.random.split(key, 6)
    n = jax.random.normal
    return (
        n(k[0], (5, 4)),
        n(k[1], (4, 6)) * 0.6,
        n(k[2], (6,)) * 0.3,
        n(k[3], (6, 3)) * 0.6,
        n(k[4], (3,)) * 0.3,
        n(k[5], (3, 2)),
    )


def right_mlp3(args, ct):
    x, W1, b1, W2, b2, W3 = args
    h1 = jnp.tanh(x @ W1 + b1)
    z2 = h1 @ W2 + b2
    h2 = jnp.log1p(jnp.exp(z2))
    grad_W3 = h2.T @ ct
    delta2 = ct @ W3.T
    delta2 = delta2 * jax.nn.sigmoid(z2)
    grad_W2 = h1.T @ delta2
    grad_b2 = delta2.sum(0)
    delta1 = delta2 @ W2.T
    delta1 = delta1 * (1.0 - h1**2)
    grad_W1 = x.T @ delta1
    grad_b1 = delta1.sum(0)
    grad_x = delta1 @ W1.T
    return grad_x, grad_W1, grad_b1, grad_W2, grad_b2, grad_W3


def xent_fwd(X, W, b):
    logits = X @ W + b
    logp = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.mean(logp[jnp.arange(5), LABELS]) + 0.05 * jnp.sum(W**2)


def xent_draw(key):
    k1, k2, k3 = jax.random.split(key, 3)
    return jax.random.normal(k1, (5, 3)), jax.random.normal(k2, (3, 4)), jax.random.normal(k3, (4,))


def right_xent(args, ct):
    X, W, b = args
    n = X.shape[0]
    probs = jax.nn.softmax(X @ W + b, axis=1)
    onehot = jax.nn.one_hot(LABELS, 4)
    dlogits = probs - onehot
    dlogits = ct * dlogits / n
    dW = X.T @ dlogits
    dW = dW + 2 * 0.05 * W * ct
    db = jnp.sum(dlogits, axis=0)
    dX = dlogits @ W.T
    return dX, dW, db


def swiglu_fwd(x, wg, wu, wd):
    g = x @ wg
    return (jax.nn.silu(g) * (x @ wu)) @ wd + x


def swiglu_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (3, 4)),
        jax.random.normal(b, (4, 5)),
        jax.random.normal(c, (4, 5)),
        jax.random.normal(d, (5, 4)),
    )


def right_swiglu(args, ct):
    x, wg, wu, wd = args
    gate, up = x @ wg, x @ wu
    sg = jax.nn.sigmoid(gate)
    act = gate * sg
    d_hidden = ct @ wd.T
    d_wd = (act * up).T @ ct
    d_up = d_hidden * act
    d_act = d_hidden * up
    d_gate = d_act * (sg + gate * sg * (1 - sg))
    d_wg = x.T @ d_gate
    d_wu = x.T @ d_up
    d_x = d_gate @ wg.T + d_up @ wu.T
    d_x = d_x + ct
    return d_x, d_wg, d_wu, d_wd


def focal_fwd(z):
    p = jax.nn.sigmoid(z)
    pt = jnp.where(YBIN == 1, p, 1 - p)
    return -jnp.mean((1 - pt) ** 2 * jnp.log(pt))


def focal_draw(key):
    return (jax.random.normal(key, (6,)),)


def right_focal(args, ct):
    (z,) = args
    p = 1 / (1 + jnp.exp(-z))
    pt = YBIN * p + (1 - YBIN) * (1 - p)
    slope_mod = -2 * (1 - pt) * jnp.log(pt)
    slope_log = (1 - pt) ** 2 / pt
    dpt = -(slope_mod + slope_log) / z.size
    side = 2 * YBIN - 1
    dz = dpt * side * p * (1 - p)
    return (ct * dz,)


def dice_fwd(logits, target):
    p = jax.nn.sigmoid(logits)
    inter = jnp.sum(p * target, axis=(1, 2))
    union = jnp.sum(p, axis=(1, 2)) + jnp.sum(target, axis=(1, 2))
    return jnp.mean(1 - (2 * inter + 1.0) / (union + 1.0))


def dice_draw(key):
    k, l = jax.random.split(key)
    return jax.random.normal(k, (3, 4, 4)), jax.random.uniform(l, (3, 4, 4))


def right_dice(args, ct):
    logits, target = args
    p = jax.nn.sigmoid(logits)
    num = 2 * (p * target).sum((1, 2), keepdims=True) + 1.0
    den = p.sum((1, 2), keepdims=True) + target.sum((1, 2), keepdims=True) + 1.0
    B = logits.shape[0]
    g_num = -ct / B / den
    g_den = ct / B * num / den**2
    g_p = 2 * g_num * target + g_den
    g_target = 2 * g_num * p + g_den
    g_logits = g_p * p * (1 - p)
    return g_logits, g_target


def pinball_fwd(x, w, b, y):
    e = y - (x @ w + b)
    q = jnp.array([0.1, 0.5, 0.85])
    loss = jnp.maximum(q * e, (q - 1) * e)
    return loss.mean(0)


def pinball_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (8, 2)),
        jax.random.normal(b, (2, 3)),
        jax.random.normal(c, (3,)),
        jax.random.normal(d, (8, 1)),
    )


def right_pinball(args, ct):
    x, w, b, y = args
    taus = jnp.array([0.1, 0.5, 0.85])
    err = y - x @ w - b
    slope = jnp.where(err > 0, taus, taus - 1)
    d_err = slope * ct / x.shape[0]
    d_y = d_err.sum(axis=1, keepdims=True)
    d_pred = -d_err
    d_w = x.T @ d_pred
    d_b = d_pred.sum(axis=0)
    d_x = d_pred @ w.T
    return d_x, d_w, d_b, d_y


def huber_fwd(pred, target, wt):
    r = pred - target
    a = jnp.abs(r)
    h = jnp.where(a <= 0.7, 0.5 * r**2, 0.7 * (a - 0.35))
    return jnp.sum(wt * h) / jnp.sum(wt)


def huber_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (10,)), jax.random.normal(b, (10,)), jax.random.uniform(c, (10,)) + 0.2


def right_huber(args, ct):
    pred, target, wt = args
    delta = 0.7
    r = pred - target
    small = jnp.abs(r) <= delta
    h = jnp.where(small, 0.5 * r * r, delta * (jnp.abs(r) - 0.5 * delta))
    W = wt.sum()
    loss = (wt * h).sum() / W
    psi = jnp.where(small, r, delta * jnp.sign(r))
    g_pred = ct * wt * psi / W
    g_target = -g_pred
    g_wt = ct * (h - loss) / W
    return g_pred, g_target, g_wt


SINGLE = [
    *wrong_rules(
        mlp3_fwd,
        right_mlp3,
        mlp3_draw,
        """
mlp3_a
- delta2 = delta2 * jax.nn.sigmoid(z2)
+ delta2 = delta2 * jax.nn.sigmoid(h2)
activation: softplus slope taken at the output h2 rather than the pre-activation z2

mlp3_b
- grad_W1 = x.T @ delta1
+ grad_W1 = x.T @ (delta2 @ W2.T)
operand: W1 gradient uses the delta before the tanh slope
    """,
    ),
    *wrong_rules(
        xent_fwd,
        right_xent,
        xent_draw,
        """
xent_a
- dlogits = ct * dlogits / n
+ dlogits = ct * dlogits
factor: 1/n of the mean left out
    """,
    ),
    *wrong_rules(
        swiglu_fwd,
        right_swiglu,
        swiglu_draw,
        """
swiglu_a
- d_gate = d_act * (sg + gate * sg * (1 - sg))
+ d_gate = d_act * (sg + gate * (1 - sg))
activation: factor sigmoid missing in the silu slope
    """,
    ),
    *wrong_rules(
        focal_fwd,
        right_focal,
        focal_draw,
        """
focal_a
- slope_mod = -2 * (1 - pt) * jnp.log(pt)
+ slope_mod = -(1 - pt) * jnp.log(pt)
constant: exponent 2 not brought down
    """,
    ),
    *wrong_rules(
        dice_fwd,
        right_dice,
        dice_draw,
        """
dice_a
- g_den = ct / B * num / den**2
+ g_den = ct / B * num / den
factor: denominator not squared in the quotient rule
    """,
    ),
    *wrong_rules(
        pinball_fwd,
        right_pinball,
        pinball_draw,
        """
pinball_a
- slope = jnp.where(err > 0, taus, taus - 1)
+ slope = jnp.where(err > 0, taus - 1, taus)
mask: branches of the quantile slope swapped
    """,
    ),
    *wrong_rules(
        huber_fwd,
        right_huber,
        huber_draw,
        """
huber_a
- g_wt = ct * (h - loss) / W
+ g_wt = ct * h / W
detached: derivative of the normaliser sum(wt) left out

huber_b
- psi = jnp.where(small, r, delta * jnp.sign(r))
+ psi = jnp.where(small, r, jnp.sign(r))
constant: delta missing in the linear part
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        mlp3_fwd,
        right_mlp3,
        mlp3_draw,
        """
mlp3_c
- grad_b2 = delta2.sum(0)
+ grad_b2 = delta2.mean(0)
- delta1 = delta1 * (1.0 - h1**2)
+ delta1 = delta1 * h1 * (1.0 - h1)
- grad_x = delta1 @ W1.T
+ grad_x = delta2 @ W2.T @ W1.T
activation: sigmoid slope for a tanh layer
@ delta1 = delta1 * h1 * (1.0 - h1)
reduction: mean over the batch instead of sum for the bias
@ grad_b2 = delta2.mean(0)
operand: delta without the slope of the first layer
@ grad_x = delta2 @ W2.T @ W1.T
    """,
    ),
    *wrong_rules(
        xent_fwd,
        right_xent,
        xent_draw,
        """
xent_b
- probs = jax.nn.softmax(X @ W + b, axis=1)
+ probs = jax.nn.softmax(X @ W, axis=1)
- dW = dW + 2 * 0.05 * W * ct
+ dW = dW + 0.05 * W * ct
constant: factor 2 of the weight decay missing
@ dW = dW + 0.05 * W * ct
term: bias left out of the recomputed logits
@ probs = jax.nn.softmax(X @ W, axis=1)
    """,
    ),
    *wrong_rules(
        swiglu_fwd,
        right_swiglu,
        swiglu_draw,
        """
swiglu_b
- d_up = d_hidden * act
+ d_up = d_hidden * gate
- d_wg = x.T @ d_gate
+ d_wg = x.T @ d_act
- d_x = d_gate @ wg.T + d_up @ wu.T
-     d_x = d_x + ct
+ d_x = d_gate @ wg.T + d_up @ wu.T
operand: raw gate in place of silu(gate)
@ d_up = d_hidden * gate
operand: slope of the gate missing in its weights
@ d_wg = x.T @ d_act
term: residual path forgotten
@ return d_x, d_wg, d_wu, d_wd
    """,
    ),
    *wrong_rules(
        focal_fwd,
        right_focal,
        focal_draw,
        """
focal_b
- slope_log = (1 - pt) ** 2 / pt
+ slope_log = (1 - pt) ** 2 / p
- side = 2 * YBIN - 1
+ side = 1 - 2 * YBIN
operand: p in place of pt in the slope of the log
@ slope_log = (1 - pt) ** 2 / p
sign: sign of dpt/dp reversed
@ side = 1 - 2 * YBIN
    """,
    ),
    *wrong_rules(
        dice_fwd,
        right_dice,
        dice_draw,
        """
dice_b
- g_target = 2 * g_num * p + g_den
+ g_target = 2 * g_num * p
- g_logits = g_p * p * (1 - p)
+ g_logits = g_p
term: path of the target through the denominator missing
@ g_target = 2 * g_num * p
activation: sigmoid slope missing
@ g_logits = g_p
    """,
    ),
    *wrong_rules(
        pinball_fwd,
        right_pinball,
        pinball_draw,
        """
pinball_b
- d_y = d_err.sum(axis=1, keepdims=True)
+ d_y = d_err.mean(axis=1, keepdims=True)
- d_pred = -d_err
+ d_pred = d_err
sign: minus from y - pred lost
@ d_pred = d_err
reduction: mean over the quantiles in place of their sum
@ d_y = d_err.mean(axis=1, keepdims=True)
    """,
    ),
]
