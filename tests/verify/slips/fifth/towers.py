"""Rules with mistakes in the derivatives of towers."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

RS = np.random.RandomState(3)

YBIN = jnp.asarray(RS.rand(8) > 0.5, jnp.float32)

NOISE = jnp.asarray(RS.randn(4, 3), jnp.float32)

TEACHER = jnp.asarray(RS.randn(6, 5), jnp.float32)

TEMP = 2.5

TAU = 0.3

GAMMA = 2.0

NU = 4.0


def normals(*shapes, s=1.0):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(s * jax.random.normal(k, sh) for k, sh in zip(keys, shapes))

    return draw


def vae_elbo(x, w_mu, w_lv, w_dec):
    mu, lv = x @ w_mu, x @ w_lv
    z = mu + jnp.exp(0.5 * lv) * NOISE
    rec = jnp.sum((z @ w_dec - x) ** 2)
    kl = -0.5 * jnp.sum(1 + lv - mu**2 - jnp.exp(lv))
    return (rec + kl) / x.shape[0]


def right_vae(args, ct):
    x, w_mu, w_lv, w_dec = args
    n = x.shape[0]
    mu, lv = x @ w_mu, x @ w_lv
    std = jnp.exp(0.5 * lv)
    z = mu + std * NOISE
    diff = z @ w_dec - x
    g_rec = 2 * ct * diff / n
    g_dec = z.T @ g_rec
    g_z = g_rec @ w_dec.T
    g_mu = g_z + ct * mu / n
    g_lv = 0.5 * g_z * NOISE * std
    g_lv = g_lv - 0.5 * ct * (1 - jnp.exp(lv)) / n
    g_x = g_mu @ w_mu.T + g_lv @ w_lv.T - g_rec
    return g_x, x.T @ g_mu, x.T @ g_lv, g_dec


def focal(logits, alpha):
    p = jax.nn.sigmoid(logits)
    pt = jnp.where(YBIN == 1, p, 1 - p)
    at = jnp.where(YBIN == 1, alpha, 1 - alpha)
    return jnp.mean(-at * (1 - pt) ** GAMMA * jnp.log(pt))


def right_focal(args, ct):
    logits, alpha = args
    p = jax.nn.sigmoid(logits)
    sgn = 2 * YBIN - 1
    pt = jnp.where(YBIN == 1, p, 1 - p)
    at = jnp.where(YBIN == 1, alpha, 1 - alpha)
    mod = (1 - pt) ** GAMMA
    g = ct / logits.size
    d_pt = at * (GAMMA * (1 - pt) ** (GAMMA - 1) * jnp.log(pt) - mod / pt)
    d_logits = g * d_pt * sgn * p * (1 - p)
    d_alpha = -g * jnp.sum(sgn * mod * jnp.log(pt))
    return d_logits, d_alpha


def draw_focal(key):
    return jax.random.normal(key, (8,)), jnp.asarray(0.3, jnp.float32)


def info_nce(a, b):
    za = a / jnp.linalg.norm(a, axis=1, keepdims=True)
    zb = b / jnp.linalg.norm(b, axis=1, keepdims=True)
    s = za @ zb.T / TAU
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(s, axis=1)) + jnp.diag(jax.nn.log_softmax(s, axis=0))) / 2


def right_info_nce(args, ct):
    a, b = args
    n = a.shape[0]
    na = jnp.sqrt((a**2).sum(1, keepdims=True))
    nb = jnp.sqrt((b**2).sum(1, keepdims=True))
    za, zb = a / na, b / nb
    sim = za @ zb.T / TAU
    rows = jax.nn.softmax(sim, axis=1)
    cols = jax.nn.softmax(sim, axis=0)
    dsim = ct * (rows + cols - 2 * jnp.eye(n)) / (2 * n)
    dza = dsim @ zb / TAU
    dzb = dsim.T @ za / TAU
    da = (dza - za * jnp.sum(za * dza, axis=1, keepdims=True)) / na
    db = (dzb - zb * jnp.sum(zb * dzb, axis=1, keepdims=True)) / nb
    return da, db


def resnet(x, ws, vs, head):
    for i in range(3):
        x = x + jnp.maximum(x @ ws[i], 0) @ vs[i]
    return x @ head


def right_resnet(args, ct):
    x, ws, vs, head = args
    xs, pres = [x], []
    for i in range(3):
        pres.append(xs[-1] @ ws[i])
        xs.append(xs[-1] + jnp.maximum(pres[-1], 0) @ vs[i])
    d_head = xs[-1].T @ ct
    delta = ct @ head.T
    d_ws, d_vs = [], []
    for i in range(2, -1, -1):
        act = jnp.maximum(pres[i], 0)
        d_vs.append(act.T @ delta)
        d_pre = (delta @ vs[i].T) * (pres[i] > 0)
        d_ws.append(xs[i].T @ d_pre)
        delta = delta + d_pre @ ws[i].T
    return delta, jnp.stack(d_ws[::-1]), jnp.stack(d_vs[::-1]), d_head


def swiglu(x, wg, wu, wd):
    return (jax.nn.silu(x @ wg) * (x @ wu)) @ wd


def right_swiglu(args, ct):
    x, wg, wu, wd = args
    g, u = x @ wg, x @ wu
    sg = 1 / (1 + jnp.exp(-g))
    a = g * sg
    dwd = (a * u).T @ ct
    dh = ct @ wd.T
    du = dh * a
    dg = dh * u * sg * (1 + g * (1 - sg))
    dx = dg @ wg.T + du @ wu.T
    return dx, x.T @ dg, x.T @ du, dwd


def distill(student, w):
    s = student * w
    logq = jax.nn.log_softmax(s / TEMP, axis=-1)
    p = jax.nn.softmax(TEACHER / TEMP, axis=-1)
    return TEMP**2 * jnp.mean(jnp.sum(p * (jnp.log(p) - logq), axis=-1))


def right_distill(args, ct):
    student, w = args
    q = jax.nn.softmax(student * w / TEMP, axis=-1)
    p = jax.nn.softmax(TEACHER / TEMP, axis=-1)
    gs = ct * TEMP * (q - p) / student.shape[0]
    return gs * w, jnp.sum(gs * student, axis=0)


def student_t(y, x, w, log_s):
    r = (y - x @ w) * jnp.exp(-log_s)
    return jnp.sum(0.5 * (NU + 1) * jnp.log1p(r**2 / NU) + log_s)


def right_student_t(args, ct):
    y, x, w, log_s = args
    inv_s = jnp.exp(-log_s)
    r = (y - x @ w) * inv_s
    dr = ct * (NU + 1) * r / (NU + r**2)
    de = dr * inv_s
    dw = -x.T @ de
    dx = -jnp.outer(de, w)
    dls = ct * y.shape[0] - jnp.sum(dr * r)
    return de, dx, dw, dls


def draw_t(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (7,)),
        jax.random.normal(b, (7, 3)),
        jax.random.normal(c, (3,)),
        0.5 + 0.1 * jax.random.normal(d, ()),
    )


def layernorm_linear(x, g, b, w):
    mu = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    return ((x - mu) / jnp.sqrt(var + 1e-5) * g + b) @ w


def right_layernorm_linear(args, ct):
    x, g, b, w = args
    rstd = jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    xhat = (x - x.mean(-1, keepdims=True)) * rstd
    y = xhat * g + b
    dw = y.T @ ct
    dy = ct @ w.T
    dg = (dy * xhat).sum(0)
    db = dy.sum(0)
    dxhat = dy * g
    m1 = dxhat.mean(-1, keepdims=True)
    m2 = (dxhat * xhat).mean(-1, keepdims=True)
    dx = rstd * (dxhat - m1 - xhat * m2)
    return dx, dg, db, dw


def groupnorm(x, gamma):
    n, c, l = x.shape
    xg = x.reshape(n, 2, c // 2 * l)
    mu = xg.mean(-1, keepdims=True)
    sd = jnp.sqrt(xg.var(-1, keepdims=True) + 1e-5)
    return ((xg - mu) / sd).reshape(n, c, l) * gamma[None, :, None]


def right_groupnorm(args, ct):
    x, gamma = args
    n, c, l = x.shape
    xg = x.reshape(n, 2, -1)
    m = xg.shape[-1]
    inv = 1 / jnp.sqrt(xg.var(-1, keepdims=True) + 1e-5)
    xn = (xg - xg.mean(-1, keepdims=True)) * inv
    dgamma = jnp.einsum("ncl,ncl->c", ct, xn.reshape(n, c, l))
    dxn = (ct * gamma[None, :, None]).reshape(n, 2, -1)
    s1 = dxn.sum(-1, keepdims=True)
    s2 = (dxn * xn).sum(-1, keepdims=True)
    dxg = inv * (dxn - s1 / m - xn * s2 / m)
    return dxg.reshape(n, c, l), dgamma


SEVERAL = [
    *wrong_rules(
        vae_elbo,
        right_vae,
        normals((4, 5), (5, 3), (5, 3), (3, 5), s=0.6),
        """
vae_a
- g_lv = 0.5 * g_z * NOISE * std
+ g_lv = g_z * NOISE * std
- g_x = g_mu @ w_mu.T + g_lv @ w_lv.T - g_rec
+ g_x = g_mu @ w_mu.T + g_lv @ w_lv.T
constant: 0.5 of the standard deviation's exponent missing
@ g_lv = g_z * NOISE * std
term: the input as the target of the reconstruction is left out
@ g_x = g_mu @ w_mu.T + g_lv @ w_lv.T

vae_b
- g_mu = g_z + ct * mu / n
+ g_mu = g_z
- g_lv = g_lv - 0.5 * ct * (1 - jnp.exp(lv)) / n
+ g_lv = g_lv - 0.5 * ct * (1 - std) / n
term: KL's pull on the mean is missing
@ g_mu = g_z
operand: std for the variance exp(lv)
@ g_lv = g_lv - 0.5 * ct * (1 - std) / n
    """,
    ),
    *wrong_rules(
        focal,
        right_focal,
        draw_focal,
        """
focal_a
- d_pt = at * (GAMMA * (1 - pt) ** (GAMMA - 1) * jnp.log(pt) - mod / pt)
+ d_pt = at * (-mod / pt)
- d_alpha = -g * jnp.sum(sgn * mod * jnp.log(pt))
+ d_alpha = -g * jnp.sum(sgn * jnp.log(pt))
term: derivative of the modulating factor is missing
@ d_pt = at * (-mod / pt)
factor: modulating factor missing for alpha
@ d_alpha = -g * jnp.sum(sgn * jnp.log(pt))
    """,
    ),
    *wrong_rules(
        info_nce,
        right_info_nce,
        normals((5, 4), (5, 4)),
        """
info_nce_a
- cols = jax.nn.softmax(sim, axis=0)
+ cols = jax.nn.softmax(sim, axis=1)
- da = (dza - za * jnp.sum(za * dza, axis=1, keepdims=True)) / na
+ da = dza / na
axis: softmax of the second direction over the rows again
@ cols = jax.nn.softmax(sim, axis=1)
detached: norm of the first view treated as a constant
@ da = dza / na

info_nce_b
- dsim = ct * (rows + cols - 2 * jnp.eye(n)) / (2 * n)
+ dsim = ct * (rows + cols - jnp.eye(n)) / (2 * n)
- db = (dzb - zb * jnp.sum(zb * dzb, axis=1, keepdims=True)) / nb
+ db = (dzb - zb * jnp.sum(zb * dzb, axis=1, keepdims=True)) / na
constant: diagonal counted once though both directions have it
@ dsim = ct * (rows + cols - jnp.eye(n)) / (2 * n)
operand: norm of the other view
@ db = (dzb - zb * jnp.sum(zb * dzb, axis=1, keepdims=True)) / na
    """,
    ),
    *wrong_rules(
        resnet,
        right_resnet,
        normals((4, 3), (3, 3, 5), (3, 5, 3), (3, 2), s=0.6),
        """
resnet_a
- d_ws.append(xs[i].T @ d_pre)
+ d_ws.append(xs[i + 1].T @ d_pre)
- delta = delta + d_pre @ ws[i].T
+ delta = d_pre @ ws[i].T
- return delta, jnp.stack(d_ws[::-1]), jnp.stack(d_vs[::-1]), d_head
+ return delta, jnp.stack(d_ws[::-1]), jnp.stack(d_vs), d_head
index: output of the block in place of its input
@ d_ws.append(xs[i + 1].T @ d_pre)
carry: skip connection's gradient overwritten
@ delta = d_pre @ ws[i].T
index: gradients of the second weights left in reverse order
@ return delta, jnp.stack(d_ws[::-1]), jnp.stack(d_vs), d_head
@ d_vs.append(act.T @ delta)

resnet_b
- d_head = xs[-1].T @ ct
+ d_head = xs[0].T @ ct
- d_pre = (delta @ vs[i].T) * (pres[i] > 0)
+ d_pre = delta @ vs[i].T
index: the first state in place of the last
@ d_head = xs[0].T @ ct
mask: relu's mask missing
@ d_pre = delta @ vs[i].T
    """,
    ),
    *wrong_rules(
        swiglu,
        right_swiglu,
        normals((4, 3), (3, 5), (3, 5), (5, 2)),
        """
swiglu_a
- du = dh * a
+ du = dh * g
- dg = dh * u * sg * (1 + g * (1 - sg))
+ dg = dh * u * sg * (1 + (1 - sg))
operand: pre-activation g where the activation must stand
@ du = dh * g
activation: slope of silu lacks the factor g
@ dg = dh * u * sg * (1 + (1 - sg))
    """,
    ),
    *wrong_rules(
        distill,
        right_distill,
        normals((6, 5), (5,)),
        """
distill_a
- p = jax.nn.softmax(TEACHER / TEMP, axis=-1)
+ p = jax.nn.softmax(TEACHER, axis=-1)
- return gs * w, jnp.sum(gs * student, axis=0)
+ return gs * w, jnp.mean(gs * student, axis=0)
factor: teacher not softened by the temperature
@ p = jax.nn.softmax(TEACHER, axis=-1)
reduction: mean over the batch for the broadcast weight
@ return gs * w, jnp.mean(gs * student, axis=0)
    """,
    ),
    *wrong_rules(
        student_t,
        right_student_t,
        draw_t,
        """
student_t_a
- dr = ct * (NU + 1) * r / (NU + r**2)
+ dr = ct * NU * r / (NU + r**2)
- dw = -x.T @ de
+ dw = x.T @ de
- dls = ct * y.shape[0] - jnp.sum(dr * r)
+ dls = -jnp.sum(dr * r)
constant: degrees of freedom NU for NU + 1
@ dr = ct * NU * r / (NU + r**2)
sign: residual is y - x w: the minus is lost for w
@ dw = x.T @ de
term: log-scale's own term is missing
@ dls = -jnp.sum(dr * r)
    """,
    ),
    *wrong_rules(
        layernorm_linear,
        right_layernorm_linear,
        normals((5, 4), (4,), (4,), (4, 3)),
        """
layernorm_linear_a
- dw = y.T @ ct
+ dw = xhat.T @ ct
- m2 = (dxhat * xhat).mean(-1, keepdims=True)
+ m2 = (dxhat * x).mean(-1, keepdims=True)
operand: xhat before gain and bias instead of y
@ dw = xhat.T @ ct
operand: x in place of xhat in the variance's path
@ m2 = (dxhat * x).mean(-1, keepdims=True)

layernorm_linear_c
- dg = (dy * xhat).sum(0)
+ dg = (dy * x).sum(0)
- m1 = dxhat.mean(-1, keepdims=True)
+ m1 = dxhat.mean(0, keepdims=True)
- dx = rstd * (dxhat - m1 - xhat * m2)
+ dx = rstd * (dxhat - m1 + xhat * m2)
operand: raw input instead of the normalised one
@ dg = (dy * x).sum(0)
axis: mean over the batch
@ m1 = dxhat.mean(0, keepdims=True)
sign: the variance's path is added
@ dx = rstd * (dxhat - m1 + xhat * m2)
    """,
    ),
    *wrong_rules(
        groupnorm,
        right_groupnorm,
        normals((2, 4, 3), (4,)),
        """
groupnorm_a
- s1 = dxn.sum(-1, keepdims=True)
+ s1 = dxn.sum(1, keepdims=True)
- dxg = inv * (dxn - s1 / m - xn * s2 / m)
+ dxg = inv * (dxn - s1 / m - xn * s2)
axis: sum over the groups instead of within a group
@ s1 = dxn.sum(1, keepdims=True)
factor: division by the group size missing in the second mean
@ dxg = inv * (dxn - s1 / m - xn * s2)
@ s2 = (dxn * xn).sum(-1, keepdims=True)

groupnorm_b
- dgamma = jnp.einsum("ncl,ncl->c", ct, xn.reshape(n, c, l))
+ dgamma = jnp.einsum("ncl,ncl->c", ct, x)
- dxg = inv * (dxn - s1 / m - xn * s2 / m)
+ dxg = inv * (dxn - s1 / m)
operand: raw input for the normalised one
@ dgamma = jnp.einsum("ncl,ncl->c", ct, x)
detached: standard deviation treated as a constant
@ dxg = inv * (dxn - s1 / m)
    """,
    ),
]
