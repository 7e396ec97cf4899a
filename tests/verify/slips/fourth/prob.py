"""Densities, divergences, dynamic programmes over states."""

import jax
import jax.numpy as jnp
from jax.nn import logsumexp, softmax

from tests.verify.slips.changes import wrong_rules


def gauss_nll(mu, logvar, y):
    return 0.5 * jnp.sum(logvar + (y - mu) ** 2 * jnp.exp(-logvar), axis=-1)


def right_dgauss_nll(args, ct):
    mu, logvar, y = args
    iv = jnp.exp(-logvar)
    r = y - mu
    g = ct[:, None]
    dmu = -g * r * iv
    dlogvar = 0.5 * g * (1 - r**2 * iv)
    dy = g * r * iv
    return dmu, dlogvar, dy


def kl_to_prior(mu, log_sigma, prior_mu):
    s2 = jnp.exp(2 * log_sigma)
    return jnp.sum(0.5 * (s2 + (mu - prior_mu) ** 2 - 1) - log_sigma)


def right_dkl_to_prior(args, ct):
    mu, log_sigma, prior_mu = args
    diff = mu - prior_mu
    d_mu = ct * diff
    d_ls = ct * (jnp.exp(2 * log_sigma) - 1)
    d_pm = -ct * jnp.sum(diff, axis=0)
    return d_mu, d_ls, d_pm


def hmm_loglik(log_pi, log_a, log_b):
    # log_b (T, S): emission scores
    a = log_pi + log_b[0]
    for t in range(1, log_b.shape[0]):
        a = logsumexp(a[:, None] + log_a, axis=0) + log_b[t]
    return logsumexp(a)


def right_dhmm_loglik(args, ct):
    log_pi, log_a, log_b = args
    al = [log_pi + log_b[0]]
    for t in range(1, len(log_b)):
        al.append(logsumexp(al[-1][:, None] + log_a, axis=0) + log_b[t])
    da = ct * softmax(al[-1])
    db, dA = [da], jnp.zeros_like(log_a)
    for t in range(len(log_b) - 1, 0, -1):
        w = softmax(al[t - 1][:, None] + log_a, axis=0) * da
        dA = dA + w
        da = w.sum(axis=1)
        db.append(da)
    return da, dA, jnp.stack(db[::-1])


def info_nce(za, zb):
    s = za @ zb.T / 0.5
    return jnp.mean(logsumexp(s, axis=1) - jnp.diag(s))


def right_dinfo_nce(args, ct):
    za, zb = args
    n = za.shape[0]
    p = softmax(za @ zb.T / 0.5, axis=1)
    ds = ct * (p - jnp.eye(n)) / n
    return ds @ zb / 0.5, ds.T @ za / 0.5


def rbf(x, z, log_l):
    d2 = jnp.sum((x[:, None] - z[None]) ** 2, -1)
    return jnp.exp(-0.5 * d2 / jnp.exp(2 * log_l))


def right_drbf(args, G):
    x, z, log_l = args
    diff = x[:, None] - z[None]
    il2 = jnp.exp(-2 * log_l)
    d2 = jnp.sum(diff**2, -1)
    W = G * jnp.exp(-0.5 * d2 * il2)
    dx = -il2 * jnp.einsum("ij,ijd->id", W, diff)
    dz = il2 * jnp.einsum("ij,ijd->jd", W, diff)
    dlog_l = jnp.sum(W * d2) * il2
    return dx, dz, dlog_l


def draw3(*shapes):
    def f(key):
        return tuple(0.8 * jax.random.normal(k, s) for k, s in zip(jax.random.split(key, len(shapes)), shapes))

    return f


SINGLE = [
    *wrong_rules(
        gauss_nll,
        right_dgauss_nll,
        draw3((3, 4), (3, 4), (3, 4)),
        """
dgauss_nll
- dlogvar = 0.5 * g * (1 - r**2 * iv)
+ dlogvar = g * (1 - r**2 * iv)
constant: the half in front of the density is lost
    """,
    ),
    *wrong_rules(
        kl_to_prior,
        right_dkl_to_prior,
        draw3((4, 3), (4, 3), (3,)),
        """
dkl_to_prior
- d_pm = -ct * jnp.sum(diff, axis=0)
+ d_pm = -ct * jnp.mean(diff, axis=0)
reduction: the shared prior mean is broadcast over rows: sum, not mean
    """,
    ),
    *wrong_rules(
        hmm_loglik,
        right_dhmm_loglik,
        draw3((3,), (3, 3), (5, 3)),
        """
dhmm_loglik
- w = softmax(al[t - 1][:, None] + log_a, axis=0) * da
+ w = softmax(al[t - 1][:, None] + log_a, axis=1) * da
axis: normalised over the new state instead of the previous one
    """,
    ),
    *wrong_rules(
        info_nce,
        right_dinfo_nce,
        draw3((5, 3), (5, 3)),
        """
dinfo_nce
- ds = ct * (p - jnp.eye(n)) / n
+ ds = ct * p / n
term: positive pairs on the diagonal not subtracted
    """,
    ),
    *wrong_rules(
        rbf,
        right_drbf,
        lambda key: (*draw3((4, 2), (3, 2))(key), jnp.float32(0.4)),
        """
drbf
- dlog_l = jnp.sum(W * d2) * il2
+ dlog_l = jnp.sum(W * d2)
factor: inverse squared length scale left out
    """,
    ),
]
