"""Rules with mistakes in the derivatives of densities."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


B, D, K = 6, 3, 4

EPSN = jnp.array(np.random.RandomState(2).randn(B, D), jnp.float32)

COUNTS = jnp.array([0.0, 3.0, 1.0, 2.0, 5.0, 0.0])

NU = 4.0


def kl_gauss(mu_q, log_sq, mu_p, log_sp):
    vq, vp = jnp.exp(2 * log_sq), jnp.exp(2 * log_sp)
    return jnp.mean(jnp.sum(log_sp - log_sq + (vq + (mu_q - mu_p) ** 2) / (2 * vp) - 0.5, axis=-1))


def draw_kl(key):
    mu, s, m, sp = normal(key, (B, D), (B, D), (D,), (D,))
    return mu, 0.3 * s, m, 0.3 * sp


def elbo(x, mu, logvar, w):
    z = mu + jnp.exp(0.5 * logvar) * EPSN
    rec = -0.5 * jnp.sum((x - z @ w) ** 2, axis=1)
    kl = 0.5 * jnp.sum(mu**2 + jnp.exp(logvar) - logvar - 1.0, axis=1)
    return rec - kl


def draw_elbo(key):
    x, mu, lv, w = normal(key, (B, 5), (B, D), (B, D), (D, 5))
    return x, mu, 0.9 * lv, w


def mixture_loglik(x, logits, means, log_scale):
    logw = jax.nn.log_softmax(logits)
    z = (x[:, None] - means) * jnp.exp(-log_scale)
    comp = logw - log_scale - 0.5 * z**2
    return jax.nn.logsumexp(comp, axis=1)


def draw_mix(key):
    x, l, m, s = normal(key, (B,), (K,), (K,), (K,))
    return x, l, 1.5 * m, 0.3 * s


def student_nll(x, loc, log_scale):
    z = (x - loc) / jnp.exp(log_scale)
    return jnp.mean(0.5 * (NU + 1.0) * jnp.log1p(z**2 / NU) + log_scale)


def draw_student(key):
    x, l, s = normal(key, (B, D), (D,), (D,))
    return 2.0 * x, l, 0.3 * s


def poisson_reg(x, w, b):
    eta = x @ w + b
    return jnp.sum(jnp.exp(eta) - COUNTS * eta) + 0.5 * jnp.sum(w**2)


def draw_poisson(key):
    x, w, b = normal(key, (B, D), (D,), ())
    return 0.5 * x, w, b


def distill_kl(student, teacher):
    t = 2.0
    p = jax.nn.softmax(teacher / t, axis=-1)
    gap = jax.nn.log_softmax(teacher / t, axis=-1) - jax.nn.log_softmax(student / t, axis=-1)
    return t**2 * jnp.mean(jnp.sum(p * gap, axis=-1))


def draw_distill(key):
    return normal(key, (B, K), (B, K))


def right_kl_gauss(args, ct):
    mu_q, log_sq, mu_p, log_sp = args
    vq, vp = jnp.exp(2 * log_sq), jnp.exp(2 * log_sp)
    g = ct / mu_q.shape[0]
    diff = mu_q - mu_p
    d_mu_q = g * diff / vp
    d_log_sq = g * (vq / vp - 1.0)
    d_mu_p = -d_mu_q.sum(0)
    d_log_sp = g * (1.0 - (vq + diff**2) / vp)
    return d_mu_q, d_log_sq, d_mu_p, d_log_sp.sum(0)


def right_elbo(args, ct):
    x, mu, logvar, w = args
    sd = jnp.exp(0.5 * logvar)
    z = mu + sd * EPSN
    res = (x - z @ w) * ct[:, None]
    g_z = res @ w.T
    g_mu = g_z - mu * ct[:, None]
    g_logvar = 0.5 * g_z * sd * EPSN
    g_logvar = g_logvar - 0.5 * (sd**2 - 1.0) * ct[:, None]
    return -res, g_mu, g_logvar, z.T @ res


def right_one(x, logits, means, log_scale, g):
    w = jax.nn.softmax(logits)
    inv = jnp.exp(-log_scale)
    z = (x - means) * inv
    r = jax.nn.softmax(jnp.log(w) - log_scale - 0.5 * z**2)
    d_logits = g * (r - w)
    d_means = g * r * z * inv
    d_scale = g * r * (z**2 - 1.0)
    d_x = -jnp.sum(g * r * z * inv)
    return d_x, d_logits, d_means, d_scale


def right_mixture_loglik(args, ct):
    dx, dl, dm, ds = jax.vmap(right_one, in_axes=(0, None, None, None, 0))(*args, ct)
    dl = dl.sum(axis=0)
    dm = dm.sum(axis=0)
    ds = ds.sum(axis=0)
    return dx, dl, dm, ds


def _one_1(x, logits, means, log_scale, g):
    w = jax.nn.softmax(logits)
    inv = jnp.exp(-log_scale)
    z = (x - means) * inv
    r = jax.nn.softmax(jnp.log(w) - log_scale - 0.5 * z**2)
    d_logits = g * r
    d_means = g * r * z * inv
    d_scale = g * r * (z**2 - 1.0)
    d_x = -jnp.sum(g * r * z * inv)
    return d_x, d_logits, d_means, d_scale


def _one_2(x, logits, means, log_scale, g):
    w = jax.nn.softmax(logits)
    inv = jnp.exp(-log_scale)
    z = (x - means) * inv
    r = jax.nn.softmax(jnp.log(w) - log_scale - 0.5 * z**2)
    d_logits = g * (r - w)
    d_means = g * r * z * inv
    d_scale = g * r * (z**2 - 1.0)
    d_x = -jnp.sum(g * r * z * inv)
    return d_x, d_logits, d_means, d_scale


def right_student_nll(args, ct):
    x, loc, log_scale = args
    s = jnp.exp(log_scale)
    z = (x - loc) / s
    dz = ct * (NU + 1.0) * z / (NU + z**2)
    dz = dz / x.size
    dx = dz / s
    dloc = -dx.sum(0)
    dls = -(dz * z).sum(0) + ct / x.shape[1]
    return dx, dloc, dls


def right_poisson_reg(args, ct):
    x, w, b = args
    rate = jnp.exp(x @ w + b)
    err = ct * (rate - COUNTS)
    gw = x.T @ err + ct * w
    gb = err.sum()
    return jnp.outer(err, w), gw, gb


def right_distill_kl(args, ct):
    student, teacher = args
    t = 2.0
    p, q = jax.nn.softmax(teacher / t, -1), jax.nn.softmax(student / t, -1)
    c = ct * t / student.shape[0]
    d_student = c * (q - p)
    gap = jnp.log(p) - jnp.log(q)
    d_teacher = c * p * (gap - jnp.sum(p * gap, axis=-1, keepdims=True))
    return d_student, d_teacher


SINGLE = [
    *wrong_rules(
        kl_gauss,
        right_kl_gauss,
        draw_kl,
        """
kl_gauss_bwd_1
- d_log_sp = g * (1.0 - (vq + diff**2) / vp)
+ d_log_sp = g * (1.0 - vq / vp)
term: squared difference of the means missing
    """,
    ),
    *wrong_rules(
        elbo,
        right_elbo,
        draw_elbo,
        """
elbo_bwd_1
- g_mu = g_z - mu * ct[:, None]
+ g_mu = g_z
term: KL part of the mean's gradient missing
    """,
    ),
    *wrong_rules(
        mixture_loglik,
        right_mixture_loglik,
        draw_mix,
        """
mixture_loglik_bwd_1
- dx, dl, dm, ds = jax.vmap(right_one, in_axes=(0, None, None, None, 0))(*args, ct)
+ dx, dl, dm, ds = jax.vmap(_one_1, in_axes=(0, None, None, None, 0))(*args, ct)
term: derivative of the log_softmax's normaliser missing
@ d_logits = g * r

mixture_loglik_bwd_2
- dx, dl, dm, ds = jax.vmap(right_one, in_axes=(0, None, None, None, 0))(*args, ct)
+ dx, dl, dm, ds = jax.vmap(_one_2, in_axes=(0, None, None, None, 0))(*args, ct)
- dm = dm.sum(axis=0)
+ dm = dm.mean(axis=0)
reduction: mean over the examples in place of the sum
@ dm = dm.mean(axis=0)
    """,
    ),
    *wrong_rules(
        student_nll,
        right_student_nll,
        draw_student,
        """
student_nll_bwd_1
- dls = -(dz * z).sum(0) + ct / x.shape[1]
+ dls = -(dz * z).sum(0) + ct / x.size
constant: log_scale is counted once a row: ct * B / size
    """,
    ),
    *wrong_rules(
        poisson_reg,
        right_poisson_reg,
        draw_poisson,
        """
poisson_reg_bwd_1
- gw = x.T @ err + ct * w
+ gw = x.T @ err
term: gradient of the weight penalty missing
    """,
    ),
    *wrong_rules(
        distill_kl,
        right_distill_kl,
        draw_distill,
        """
distill_kl_bwd_1
- c = ct * t / student.shape[0]
+ c = ct * t**2 / student.shape[0]
factor: 1/t of the softened logits missing
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        kl_gauss,
        right_kl_gauss,
        draw_kl,
        """
kl_gauss_bwd_3
- g = ct / mu_q.shape[0]
+ g = ct
- d_mu_q = g * diff / vp
+ d_mu_q = g * diff * vp
- d_log_sq = g * (vq / vp - 1.0)
+ d_log_sq = g * (0.5 * vq / vp - 1.0)
constant: 2 from exp(2 log s) cancels the 1/2
@ d_log_sq = g * (0.5 * vq / vp - 1.0)
factor: 1/n of the mean missing
@ g = ct
factor: multiplied in place of divided by the variance
@ d_mu_q = g * diff * vp
    """,
    ),
    *wrong_rules(
        elbo,
        right_elbo,
        draw_elbo,
        """
elbo_bwd_3
- g_logvar = 0.5 * g_z * sd * EPSN
+ g_logvar = g_z * sd * EPSN
- g_logvar = g_logvar - 0.5 * (sd**2 - 1.0) * ct[:, None]
+ g_logvar = g_logvar - 0.5 * (sd - 1.0) * ct[:, None]
- return -res, g_mu, g_logvar, z.T @ res
+ return -res, g_mu, g_logvar, mu.T @ res
operand: standard deviation in place of the variance
@ g_logvar = g_logvar - 0.5 * (sd - 1.0) * ct[:, None]
operand: mean in place of the sample z
@ return -res, g_mu, g_logvar, mu.T @ res
constant: 0.5 of exp(0.5 logvar) missing
@ g_logvar = g_z * sd * EPSN
    """,
    ),
    *wrong_rules(
        student_nll,
        right_student_nll,
        draw_student,
        """
student_nll_bwd_3
- dz = ct * (NU + 1.0) * z / (NU + z**2)
+ dz = ct * (NU + 1.0) * z / (1.0 + z**2)
- dls = -(dz * z).sum(0) + ct / x.shape[1]
+ dls = -(dx * z).sum(0) + ct / x.shape[1]
constant: NU in the denominator, not 1
@ dz = ct * (NU + 1.0) * z / (1.0 + z**2)
operand: dx in place of dz
@ dls = -(dx * z).sum(0) + ct / x.shape[1]
    """,
    ),
    *wrong_rules(
        distill_kl,
        right_distill_kl,
        draw_distill,
        """
distill_kl_bwd_2
- d_student = c * (q - p)
+ d_student = c * (p - q)
- gap = jnp.log(p) - jnp.log(q)
+ gap = jnp.log(p)
sign: q - p for the student
@ d_student = c * (p - q)
term: student's log probability missing
@ gap = jnp.log(p)
    """,
    ),
]
