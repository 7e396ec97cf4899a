"""Rules with mistakes in the derivatives of mixed models."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

VALID = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])


def softmax_pullback(p, g, axis=-1):
    return p * (g - jnp.sum(p * g, axis=axis, keepdims=True))


def normalize_pullback(u, norm, g, axis):
    return (g - u * jnp.sum(u * g, axis=axis, keepdims=True)) / norm


def maskedmse_fwd(pred, y):
    e = (pred - y) * VALID[:, None]
    return jnp.sum(e**2) / jnp.sum(VALID)


def maskedmse_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (6, 2)), jax.random.normal(b, (1, 2))


def right_maskedmse(args, ct):
    pred, y = args
    cnt = VALID.sum()
    resid = (pred - y) * VALID[:, None]
    d_pred = 2.0 * ct * resid / cnt
    d_y = -jnp.sum(d_pred, axis=0, keepdims=True)
    return d_pred, d_y


def slotattn_fwd(slots, feats, Wk):
    k = feats @ Wk
    a = jax.nn.softmax(k @ slots.T, axis=1)
    w = a / a.sum(0, keepdims=True)
    return w.T @ feats


def slotattn_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (3, 4)), jax.random.normal(b, (6, 2)), jax.random.normal(c, (2, 4))


def right_slotattn(args, ct):
    slots, feats, Wk = args
    k = feats @ Wk
    a = jax.nn.softmax(k @ slots.T, axis=1)
    tot = a.sum(axis=0, keepdims=True)
    w = a / tot
    w_bar = feats @ ct.T
    feats_bar = w @ ct
    a_bar = (w_bar - jnp.sum(w_bar * w, axis=0, keepdims=True)) / tot
    s_bar = softmax_pullback(a, a_bar, axis=1)
    k_bar = s_bar @ slots
    slots_bar = s_bar.T @ k
    Wk_bar = feats.T @ k_bar
    feats_bar = feats_bar + k_bar @ Wk.T
    return slots_bar, feats_bar, Wk_bar


def instnorm_fwd(x):
    m = x.mean((2, 3), keepdims=True)
    s = x.std((2, 3), keepdims=True)
    return (x - m) / (s + 0.1)


def instnorm_draw(key):
    return (jax.random.normal(key, (2, 2, 3, 3)),)


def right_instnorm(args, ct):
    (x,) = args
    ax = (2, 3)
    xc = x - x.mean(ax, keepdims=True)
    s = jnp.sqrt((xc**2).mean(ax, keepdims=True))
    den = s + 0.1
    ds = -jnp.sum(ct * xc, axis=ax, keepdims=True) / den**2
    dxc = ct / den
    dxc = dxc + ds * xc / (s * 9)
    dx = dxc - dxc.mean(ax, keepdims=True)
    return (dx,)


def cosfilm_fwd(x, c, Wg, Wb):
    xn = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return (1 + c @ Wg)[:, None] * xn + (c @ Wb)[:, None]


def cosfilm_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (2, 3, 4)),
        jax.random.normal(b, (2, 3)),
        jax.random.normal(c, (3, 4)),
        jax.random.normal(d, (3, 4)),
    )


def right_cosfilm(args, ct):
    x, c, Wg, Wb = args
    nrm = jnp.linalg.norm(x, axis=1, keepdims=True)
    xn = x / nrm
    gamma = 1 + c @ Wg
    g_gamma = (ct * xn).sum(1)
    g_shift = ct.sum(1)
    gx = normalize_pullback(xn, nrm, ct * gamma[:, None], 1)
    gWg = c.T @ g_gamma
    gWb = c.T @ g_shift
    gc = g_gamma @ Wg.T + g_shift @ Wb.T
    return gx, gc, gWg, gWb


def logsumpool_fwd(x, t):
    return jax.nn.logsumexp(x * t, axis=1) / t


def logsumpool_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (3, 5)), jax.random.uniform(b, ()) + 0.7


def right_logsumpool(args, ct):
    x, t = args
    lse = jax.nn.logsumexp(x * t, axis=1)
    p = jax.nn.softmax(x * t, axis=1)
    gx = ct[:, None] * p
    gt = jnp.sum(ct * ((p * x).sum(axis=1) / t - lse / t**2))
    return gx, gt


def steer_fwd(s, w):
    n = jnp.arange(4)
    v = jnp.exp(1j * n * s)
    y = jnp.vdot(w, v)
    return jnp.real(y * jnp.conj(y))


def steer_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, ()), jax.random.normal(b, (4,)) + 1j * jax.random.normal(c, (4,))


def right_steer(args, ct):
    s, w = args
    n = jnp.arange(4)
    v = jnp.exp(1j * n * s)
    y = jnp.sum(jnp.conj(w) * v)
    gy = 2 * ct * jnp.conj(y)
    gv = gy * jnp.conj(w)
    gw = jnp.conj(gy * v)
    gs = jnp.real(jnp.sum(gv * 1j * n * v))
    return gs, gw


def supcon_fwd(z):
    lab = jnp.array([0, 1, 0, 1, 0])
    same = (lab[:, None] == lab) & ~jnp.eye(5, dtype=bool)
    s = jnp.where(jnp.eye(5, dtype=bool), -1e9, z @ z.T)
    lp = jax.nn.log_softmax(s, 1)
    return -jnp.sum(jnp.where(same, lp, 0.0) / same.sum(1, keepdims=True))


def supcon_draw(key):
    return (jax.random.normal(key, (5, 3)) * 0.7,)


def right_supcon(args, ct):
    (z,) = args
    lab = jnp.array([0, 1, 0, 1, 0])
    off = 1.0 - jnp.eye(5)
    same = (lab[:, None] == lab[None, :]) * off
    target = same / same.sum(axis=1, keepdims=True)
    E = jnp.exp(z @ z.T) * off
    P = E / E.sum(axis=1, keepdims=True)
    G = ct * (P - target)
    return ((G + G.T) @ z,)


def qkln_fwd(x, W):
    q = x @ W
    c = q - q.mean(-1, keepdims=True)
    qn = c / jnp.sqrt((c**2).mean(-1, keepdims=True) + 1e-5)
    return jax.nn.softmax(qn @ qn.T / 2.0, axis=-1)


def qkln_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 3)), jax.random.normal(b, (3, 5))


def right_qkln(args, ct):
    x, W = args
    q = x @ W
    c = q - q.mean(axis=-1, keepdims=True)
    sd = jnp.sqrt((c**2).mean(axis=-1, keepdims=True) + 1e-5)
    qn = c / sd
    A = jax.nn.softmax(qn @ qn.T / 2.0, axis=-1)
    dS = softmax_pullback(A, ct) / 2.0
    dqn = dS @ qn + dS.T @ qn
    spread = jnp.mean(dqn * qn, axis=-1, keepdims=True)
    dc = (dqn - qn * spread) / sd
    dq = dc - dc.mean(axis=-1, keepdims=True)
    return dq @ W.T, x.T @ dq


SINGLE = [
    *wrong_rules(
        maskedmse_fwd,
        right_maskedmse,
        maskedmse_draw,
        """
maskedmse_a
- d_y = -jnp.sum(d_pred, axis=0, keepdims=True)
+ d_y = -jnp.mean(d_pred, axis=0, keepdims=True)
reduction: mean in place of the broadcast sum

maskedmse_b
- resid = (pred - y) * VALID[:, None]
+ resid = pred - y
mask: mask missing
    """,
    ),
    *wrong_rules(
        slotattn_fwd,
        right_slotattn,
        slotattn_draw,
        """
slotattn_a
- a_bar = (w_bar - jnp.sum(w_bar * w, axis=0, keepdims=True)) / tot
+ a_bar = w_bar / tot
detached: renormalising sum taken for constant
    """,
    ),
    *wrong_rules(
        instnorm_fwd,
        right_instnorm,
        instnorm_draw,
        """
instnorm_a
- dx = dxc - dxc.mean(ax, keepdims=True)
+ dx = dxc - dxc.mean((0, 2, 3), keepdims=True)
axis: mean also over the batch

instnorm_b
- dxc = ct / den
-     dxc = dxc + ds * xc / (s * 9)
+ dxc = ct / den
detached: standard deviation taken for constant
@ dx = dxc - dxc.mean(ax, keepdims=True)
    """,
    ),
    *wrong_rules(
        cosfilm_fwd,
        right_cosfilm,
        cosfilm_draw,
        """
cosfilm_a
- gx = normalize_pullback(xn, nrm, ct * gamma[:, None], 1)
+ gx = normalize_pullback(xn, nrm, ct * gamma[:, None], 2)
axis: normalisation pulled back along the wrong axis
    """,
    ),
    *wrong_rules(
        logsumpool_fwd,
        right_logsumpool,
        logsumpool_draw,
        """
logsumpool_a
- gt = jnp.sum(ct * ((p * x).sum(axis=1) / t - lse / t**2))
+ gt = jnp.sum(ct * (p * x).sum(axis=1) / t)
detached: outer 1/t taken for constant

logsumpool_b
- p = jax.nn.softmax(x * t, axis=1)
+ p = jax.nn.softmax(x, axis=1)
factor: temperature missing in the softmax
    """,
    ),
    *wrong_rules(
        steer_fwd,
        right_steer,
        steer_draw,
        """
steer_a
- gw = jnp.conj(gy * v)
+ gw = gy * v
conjugate: conjugate for the conjugated argument of vdot missing

steer_b
- gv = gy * jnp.conj(w)
+ gv = gy * w
conjugate: conjugate of w missing
    """,
    ),
    *wrong_rules(
        supcon_fwd,
        right_supcon,
        supcon_draw,
        """
supcon_a
- E = jnp.exp(z @ z.T) * off
+ E = jnp.exp(z @ z.T)
mask: self pairs not masked out

supcon_b
- target = same / same.sum(axis=1, keepdims=True)
+ target = same / same.sum()
axis: normalised over the whole matrix in place of each row
    """,
    ),
    *wrong_rules(
        qkln_fwd,
        right_qkln,
        qkln_draw,
        """
qkln_a
- dc = (dqn - qn * spread) / sd
+ dc = dqn / sd
detached: standard deviation taken for constant
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        slotattn_fwd,
        right_slotattn,
        slotattn_draw,
        """
slotattn_b
- s_bar = softmax_pullback(a, a_bar, axis=1)
+ s_bar = softmax_pullback(a, a_bar, axis=0)
- feats_bar = feats_bar + k_bar @ Wk.T
+ feats_bar = k_bar @ Wk.T
axis: softmax pulled back along the wrong axis
@ s_bar = softmax_pullback(a, a_bar, axis=0)
carry: value path of the features overwritten
@ feats_bar = k_bar @ Wk.T
    """,
    ),
    *wrong_rules(
        cosfilm_fwd,
        right_cosfilm,
        cosfilm_draw,
        """
cosfilm_b
- gamma = 1 + c @ Wg
+ gamma = c @ Wg
- g_shift = ct.sum(1)
+ g_shift = ct.mean(1)
constant: 1 of 1 + gamma forgotten
@ gamma = c @ Wg
reduction: mean in place of the broadcast sum
@ g_shift = ct.mean(1)
    """,
    ),
    *wrong_rules(
        qkln_fwd,
        right_qkln,
        qkln_draw,
        """
qkln_b
- dqn = dS @ qn + dS.T @ qn
+ dqn = 2 * dS @ qn
- spread = jnp.mean(dqn * qn, axis=-1, keepdims=True)
+ spread = jnp.sum(dqn * qn, axis=-1, keepdims=True)
transpose: dS not symmetrised
@ dqn = 2 * dS @ qn
reduction: sum in place of the mean
@ spread = jnp.sum(dqn * qn, axis=-1, keepdims=True)
    """,
    ),
]
