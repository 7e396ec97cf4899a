"""Losses, layers and encoders."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def tanh_mlp(x, w1, b1, w2, b2):
    h = jnp.tanh(x @ w1 + b1)
    return h @ w2 + b2


def draw_tanh_mlp(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (5, 4)),
        0.5 * normal(k[1], (4, 6)),
        0.3 * normal(k[2], (6,)),
        0.5 * normal(k[3], (6, 3)),
        normal(k[4], (3,)),
    )


def right_tanh_mlp_backward(args, ct):
    x, w1, b1, w2, b2 = args
    a = x @ w1 + b1
    h = jnp.tanh(a)
    grad_w2 = h.T @ ct
    grad_b2 = ct.sum(0)
    dh = ct @ w2.T
    da = dh * (1 - h**2)
    grad_w1 = x.T @ da
    grad_b1 = da.sum(0)
    return da @ w1.T, grad_w1, grad_b1, grad_w2, grad_b2


SQ = 0.7978845608


def gelu_block(x, w, v):
    u = x @ w
    g = 0.5 * u * (1 + jnp.tanh(SQ * (u + 0.044715 * u**3)))
    return x + g @ v


def draw_gelu_block(key):
    k = jax.random.split(key, 3)
    return (
        normal(k[0], (4, 5)),
        0.6 * normal(k[1], (5, 5)),
        0.6 * normal(k[2], (5, 5)),
    )


def right_gelu_block_bwd(args, ct):
    x, w, v = args
    u = x @ w
    inner = SQ * (u + 0.044715 * u**3)
    t = jnp.tanh(inner)
    g = 0.5 * u * (1 + t)
    v_bar = g.T @ ct
    g_bar = ct @ v.T
    inner_slope = SQ * (1 + 3 * 0.044715 * u**2)
    left = 0.5 * (1 + t)
    right = 0.5 * u * (1 - t**2) * inner_slope
    u_bar = g_bar * (left + right)
    w_bar = x.T @ u_bar
    x_bar = ct + u_bar @ w.T
    return x_bar, w_bar, v_bar


LABELS = jnp.array([0, 3, 2, 2, 1, 3])

SMOOTH = 0.1


def smooth_xent(x, w, b):
    logits = x @ w + b
    logp = jax.nn.log_softmax(logits, axis=-1)
    y = (1 - SMOOTH) * jax.nn.one_hot(LABELS, 4) + SMOOTH / 4
    return -jnp.mean(jnp.sum(y * logp, axis=-1))


def draw_smooth_xent(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 5)), normal(k[1], (5, 4)), normal(k[2], (4,))


def right_smooth_xent_grad(args, ct):
    x, w, b = args
    n = x.shape[0]
    probs = jax.nn.softmax(x @ w + b, axis=-1)
    target = jax.nn.one_hot(LABELS, 4)
    target = target * (1 - SMOOTH) + SMOOTH / 4
    dlogits = ct * (probs - target) / n
    dw = jnp.einsum("ni,nc->ic", x, dlogits)
    db = jnp.sum(dlogits, axis=0)
    dx = jnp.einsum("nc,ic->ni", dlogits, w)
    return dx, dw, db


TRUTH = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])


def focal(z, scale):
    p = jax.nn.sigmoid(scale * z)
    pt = TRUTH * p + (1 - TRUTH) * (1 - p)
    return -jnp.mean((1 - pt) ** 2 * jnp.log(pt))


def draw_focal(key):
    a, b = jax.random.split(key)
    return normal(a, (7,)), 1.0 + 0.5 * jax.random.uniform(b)


def right_focal_grad(args, ct):
    z, scale = args
    p = jax.nn.sigmoid(scale * z)
    pt = jnp.where(TRUTH == 1, p, 1 - p)
    # d/dpt of -(1-pt)^2 log pt
    from_weight = 2 * (1 - pt) * jnp.log(pt)
    from_log = -((1 - pt) ** 2) / pt
    d_pt = ct * (from_weight + from_log) / z.size
    d_p = d_pt * (2 * TRUTH - 1)
    d_s = d_p * p * (1 - p)
    d_scale = jnp.sum(d_s * z)
    return scale * d_s, d_scale


MASK_TRUE = jnp.array([[1.0, 0, 0, 1, 1], [0, 0, 1, 1, 0], [1, 1, 1, 0, 0]])


def dice(logits):
    p = jax.nn.sigmoid(logits)
    inter = jnp.sum(p * MASK_TRUE, axis=1)
    total = jnp.sum(p, axis=1) + jnp.sum(MASK_TRUE, axis=1)
    return 1 - (2 * inter + 1.0) / (total + 1.0)


def draw_dice(key):
    return (normal(key, (3, 5)),)


def right_dice_vjp(args, ct):
    (logits,) = args
    p = jax.nn.sigmoid(logits)
    num = 2 * jnp.sum(p * MASK_TRUE, axis=1, keepdims=True) + 1.0
    den = jnp.sum(p + MASK_TRUE, axis=1, keepdims=True) + 1.0
    d_num = -ct[:, None] / den
    d_den = ct[:, None] * num / den**2
    d_p = 2 * MASK_TRUE * d_num
    d_p = d_p + d_den
    return (d_p * p * (1 - p),)


DELTA = 0.8


def huber_reg(X, theta, y):
    r = X @ theta - y
    small = jnp.abs(r) <= DELTA
    return jnp.mean(jnp.where(small, 0.5 * r**2, DELTA * (jnp.abs(r) - 0.5 * DELTA)))


def draw_huber_reg(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (8, 3)), normal(k[1], (3,)), normal(k[2], (8,))


def right_huber_reg_grad(args, ct):
    X, theta, y = args
    resid = X @ theta - y
    inside = jnp.abs(resid) <= DELTA
    psi = jnp.where(inside, resid, DELTA * jnp.sign(resid))
    g = ct * psi / resid.shape[0]
    gX = jnp.outer(g, theta)
    g_theta = X.T @ g
    return gX, g_theta, -g


TAUS = jnp.array([0.1, 0.5, 0.9])


def pinball(x, w, y):
    q = x @ w
    e = y[:, None] - q
    return jnp.sum(jnp.maximum(TAUS * e, (TAUS - 1) * e), axis=0)


def draw_pinball(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (7, 4)), normal(k[1], (4, 3)), normal(k[2], (7,))


def right_pinball_grad(args, ct):
    x, w, y = args
    e = y[:, None] - x @ w
    slope = jnp.where(e > 0, TAUS, TAUS - 1)
    de = ct[None, :] * slope
    dq = -de
    dy = de.sum(axis=1)
    return dq @ w.T, x.T @ dq, dy


def triplet(a, p, n):
    dp = jnp.sum((a - p) ** 2, axis=1)
    dn = jnp.sum((a - n) ** 2, axis=1)
    return jnp.sum(jax.nn.relu(dp - dn + 1.0))


def draw_triplet(key):
    k = jax.random.split(key, 3)
    return tuple(normal(kk, (8, 3)) for kk in k)


def right_triplet_bwd(args, ct):
    a, p, n = args
    d_pos = jnp.sum((a - p) ** 2, 1, keepdims=True)
    d_neg = jnp.sum((a - n) ** 2, 1, keepdims=True)
    active = ct * (d_pos - d_neg + 1.0 > 0)
    g_pos = 2 * (a - p) * active
    g_neg = -2 * (a - n) * active
    ga = g_pos + g_neg
    return ga, -g_pos, -g_neg


def info_nce(za, zb, log_t):
    a = za / jnp.linalg.norm(za, axis=1, keepdims=True)
    b = zb / jnp.linalg.norm(zb, axis=1, keepdims=True)
    s = jnp.exp(log_t) * a @ b.T
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(s, axis=1)))


def draw_info_nce(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 4)), normal(k[1], (5, 4)), 0.5 + 0.3 * normal(k[2])


def right_unnormalise(g, unit, norm):
    along = jnp.sum(g * unit, axis=1, keepdims=True)
    return (g - along * unit) / norm


def right_info_nce_backward(args, ct):
    za, zb, log_t = args
    na = jnp.linalg.norm(za, axis=1, keepdims=True)
    nb = jnp.linalg.norm(zb, axis=1, keepdims=True)
    a, b = za / na, zb / nb
    t = jnp.exp(log_t)
    sim = a @ b.T
    P = jax.nn.softmax(t * sim, axis=1)
    dS = ct * (P - jnp.eye(len(za))) / len(za)
    d_log_t = t * jnp.sum(dS * sim)
    da = t * dS @ b
    db = t * dS.T @ a
    return right_unnormalise(da, a, na), right_unnormalise(db, b, nb), d_log_t


def unnormalise(g, unit, norm):
    return g / norm


def unnormalise_b(g, unit, norm):
    along = jnp.sum(g * unit, axis=1, keepdims=True)
    return (g - along * unit) / norm


def swiglu(x, wg, wu, wd):
    g = x @ wg
    return (g * jax.nn.sigmoid(g) * (x @ wu)) @ wd


def draw_swiglu(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (3, 4)),
        normal(k[1], (4, 6)),
        normal(k[2], (4, 6)),
        normal(k[3], (6, 4)),
    )


def right_swiglu_backward(args, ct):
    x, wg, wu, wd = args
    gate, up = x @ wg, x @ wu
    sig = jax.nn.sigmoid(gate)
    act = gate * sig
    dwd = (act * up).T @ ct
    dhid = ct @ wd.T
    dup = dhid * act
    dact = dhid * up
    dgate = dact * (sig + act * (1 - sig))
    dwg = x.T @ dgate
    dwu = x.T @ dup
    dx = dgate @ wg.T
    dx = dx + dup @ wu.T
    return dx, dwg, dwu, dwd


def weight_norm(x, V, g, b):
    W = g[None, :] * V / jnp.linalg.norm(V, axis=0, keepdims=True)
    return jax.nn.softplus(x @ W + b)


def draw_weight_norm(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (6, 5)),
        normal(k[1], (5, 3)),
        1 + 0.3 * normal(k[2], (3,)),
        normal(k[3], (3,)),
    )


def right_weight_norm_vjp(args, ct):
    x, V, g, b = args
    nrm = jnp.sqrt(jnp.sum(V**2, axis=0))
    U = V / nrm
    pre = x @ (g * U) + b
    dpre = ct * jax.nn.sigmoid(pre)
    dW = x.T @ dpre
    dg = jnp.sum(dW * U, axis=0)
    dU = dW * g
    radial = jnp.sum(dU * U, axis=0)
    dV = (dU - U * radial) / nrm
    dx = dpre @ (g * U).T
    return dx, dV, dg, dpre.sum(axis=0)


def unnormalise_x(g, unit, norm):
    along = jnp.sum(g * unit, axis=0, keepdims=True)
    return (g - along * unit) / norm


SINGLE = [
    *wrong_rules(
        tanh_mlp,
        right_tanh_mlp_backward,
        draw_tanh_mlp,
        """
tanh_mlp
- da = dh * (1 - h**2)
+ da = dh * (1 - a**2)
activation: tanh slope taken of the pre-activation instead of the activation
    """,
    ),
    *wrong_rules(
        gelu_block,
        right_gelu_block_bwd,
        draw_gelu_block,
        """
gelu_block
- x_bar = ct + u_bar @ w.T
+ x_bar = u_bar @ w.T
term: the residual path's cotangent ct is missing from x_bar
    """,
    ),
    *wrong_rules(
        smooth_xent,
        right_smooth_xent_grad,
        draw_smooth_xent,
        """
smooth_xent
- target = jax.nn.one_hot(LABELS, 4)
-     target = target * (1 - SMOOTH) + SMOOTH / 4
+ target = jax.nn.one_hot(LABELS, 4)
term: label smoothing of the target left out
@ dlogits = ct * (probs - target) / n
    """,
    ),
    *wrong_rules(
        focal,
        right_focal_grad,
        draw_focal,
        """
focal
- d_pt = ct * (from_weight + from_log) / z.size
+ d_pt = ct * from_log / z.size
term: the term through the focal weight (1-pt)^2 is missing
    """,
    ),
    *wrong_rules(
        dice,
        right_dice_vjp,
        draw_dice,
        """
dice
- d_den = ct[:, None] * num / den**2
+ d_den = ct[:, None] * num / den
factor: the denominator must be squared in the quotient rule
    """,
    ),
    *wrong_rules(
        huber_reg,
        right_huber_reg_grad,
        draw_huber_reg,
        """
huber_reg
- psi = jnp.where(inside, resid, DELTA * jnp.sign(resid))
+ psi = jnp.where(inside, resid, DELTA)
sign: the linear branch lacks the sign of the residual
    """,
    ),
    *wrong_rules(
        pinball,
        right_pinball_grad,
        draw_pinball,
        """
pinball
- slope = jnp.where(e > 0, TAUS, TAUS - 1)
+ slope = jnp.where(e > 0, TAUS, 1 - TAUS)
sign: slope of the lower branch has the wrong sign
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet_bwd,
        draw_triplet,
        """
triplet
- active = ct * (d_pos - d_neg + 1.0 > 0)
+ active = ct * (d_pos - d_neg > 0)
mask: margin left out of the hinge condition
    """,
    ),
    *wrong_rules(
        info_nce,
        right_info_nce_backward,
        draw_info_nce,
        """
info_nce
- return right_unnormalise(da, a, na), right_unnormalise(db, b, nb), d_log_t
+ return unnormalise(da, a, na), unnormalise(db, b, nb), d_log_t
detached: the projection along the unit vector is missing: the norm taken for constant
@ return g / norm

info_nce_b
- db = t * dS.T @ a
+ db = t * dS @ a
- return right_unnormalise(da, a, na), right_unnormalise(db, b, nb), d_log_t
+ return unnormalise_b(da, a, na), unnormalise_b(db, b, nb), d_log_t
transpose: dS should be transposed for the second embedding
@ db = t * dS @ a
    """,
    ),
    *wrong_rules(
        swiglu,
        right_swiglu_backward,
        draw_swiglu,
        """
swiglu
- dgate = dact * (sig + act * (1 - sig))
+ dgate = dact * sig * (1 - sig)
activation: slope of the sigmoid in place of the slope of SiLU
    """,
    ),
    *wrong_rules(
        weight_norm,
        right_weight_norm_vjp,
        draw_weight_norm,
        """
weight_norm
- dpre = ct * jax.nn.sigmoid(pre)
+ dpre = ct * jax.nn.softplus(pre)
activation: the value of softplus used for its slope

weight_norm_b
- dg = jnp.sum(dW * U, axis=0)
+ dg = jnp.sum(dW * V, axis=0)
operand: V instead of the unit direction U
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        tanh_mlp,
        right_tanh_mlp_backward,
        draw_tanh_mlp,
        """
tanh_mlp_x
- grad_w2 = h.T @ ct
+ grad_w2 = a.T @ ct
- grad_b1 = da.sum(0)
+ grad_b1 = da.mean(0)
operand: pre-activation a used where the activation h belongs
@ grad_w2 = a.T @ ct
reduction: mean over the batch where the bias needs the sum
@ grad_b1 = da.mean(0)
    """,
    ),
    *wrong_rules(
        smooth_xent,
        right_smooth_xent_grad,
        draw_smooth_xent,
        """
smooth_xent_x
- probs = jax.nn.softmax(x @ w + b, axis=-1)
+ probs = jax.nn.softmax(x @ w + b, axis=0)
- dx = jnp.einsum("nc,ic->ni", dlogits, w)
+ dx = -jnp.einsum("nc,ic->ni", dlogits, w)
axis: softmax over the batch axis instead of the classes
@ probs = jax.nn.softmax(x @ w + b, axis=0)
sign: sign of dx flipped
@ dx = -jnp.einsum("nc,ic->ni", dlogits, w)
    """,
    ),
    *wrong_rules(
        focal,
        right_focal_grad,
        draw_focal,
        """
focal_x
- from_log = -((1 - pt) ** 2) / pt
+ from_log = -(1 - pt) / pt
- d_scale = jnp.sum(d_s * z)
+ d_scale = jnp.mean(d_s * z)
constant: the weight is squared, exponent 2 left off
@ from_log = -(1 - pt) / pt
reduction: mean for sum
@ d_scale = jnp.mean(d_s * z)
    """,
    ),
    *wrong_rules(
        dice,
        right_dice_vjp,
        draw_dice,
        """
dice_x
- d_p = 2 * MASK_TRUE * d_num
+ d_p = 2 * (1 - MASK_TRUE) * d_num
- return (d_p * p * (1 - p),)
+ return (d_p * (1 - p),)
mask: mask inverted
@ d_p = 2 * (1 - MASK_TRUE) * d_num
activation: sigmoid slope lacks a factor p
@ return (d_p * (1 - p),)
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet_bwd,
        draw_triplet,
        """
triplet_x
- g_pos = 2 * (a - p) * active
+ g_pos = (a - p) * active
- return ga, -g_pos, -g_neg
+ return ga, -g_pos, g_neg
constant: the 2 of the square missing
@ g_pos = (a - p) * active
sign: sign of the negative's gradient
@ return ga, -g_pos, g_neg
    """,
    ),
    *wrong_rules(
        info_nce,
        right_info_nce_backward,
        draw_info_nce,
        """
info_nce_x
- P = jax.nn.softmax(t * sim, axis=1)
+ P = jax.nn.softmax(sim, axis=1)
- da = t * dS @ b
+ da = t * dS @ zb
- return right_unnormalise(da, a, na), right_unnormalise(db, b, nb), d_log_t
+ return unnormalise_x(da, a, na), unnormalise_x(db, b, nb), d_log_t
factor: temperature forgotten inside the softmax
@ P = jax.nn.softmax(sim, axis=1)
operand: unnormalised zb for the unit vectors b
@ da = t * dS @ zb
axis: inner product over the batch axis
@ along = jnp.sum(g * unit, axis=0, keepdims=True)
    """,
    ),
    *wrong_rules(
        swiglu,
        right_swiglu_backward,
        draw_swiglu,
        """
swiglu_x
- dup = dhid * act
+ dup = dhid * sig
- dx = dx + dup @ wu.T
+ dx = dx + dup @ wg.T
operand: sigmoid of the gate in place of gate * sigmoid
@ dup = dhid * sig
operand: gate weights used for the up path
@ dx = dx + dup @ wg.T
    """,
    ),
]
