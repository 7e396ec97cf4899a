"""Losses and likelihoods."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.derive.bank.forward import Forward, entering, labels, normal, positive

FORWARDS: dict[str, Forward] = {}
of = entering(FORWARDS)


@of(normal(4, 5), jax.nn.softmax(normal(4, 5)))
def softmax_cross_entropy(logits, targets):
    m = lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    e = jnp.exp(logits - m)
    s = e.sum(axis=-1, keepdims=True)
    logp = logits - m - jnp.log(s)
    return -(targets * logp).sum(axis=-1).mean()


@of(normal(4, 5), labels(4, 5))
def cross_entropy_of_labels(logits, y):
    logp = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logp, y[:, None], axis=1).mean()


@of(normal(4, 5), labels(4, 5))
def cross_entropy_of_one_hot(logits, y):
    return -(jax.nn.one_hot(y, 5) * jax.nn.log_softmax(logits)).sum(axis=-1).mean()


@of(normal(4, 3), normal(4, 3))
def mean_squared_error(prediction, target):
    return ((prediction - target) ** 2).mean()


@of(normal(4, 3), normal(4, 3))
def huber(prediction, target):
    d = prediction - target
    a = jnp.abs(d)
    return jnp.where(a < 1, 0.5 * d**2, a - 0.5).mean()


@of(normal(6), positive(6))
def binary_cross_entropy(logit, y):
    return (jnp.logaddexp(0, logit) - y * logit).mean()


@of(normal(6, 2), labels(6, 2))
def hinge(scores, y):
    sign = 2.0 * y[:, None] - 1
    return jnp.maximum(0, 1 - sign * scores).mean()


@of(normal(4, 6), normal(4, 6))
def cosine_similarity(a, b):
    dot = (a * b).sum(axis=-1)
    return dot / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))


@of(normal(5), normal(5), normal(5))
def gaussian_likelihood(mu, log_var, y):
    return 0.5 * (log_var + (y - mu) ** 2 / jnp.exp(log_var) + jnp.log(2 * jnp.pi)).sum()


@of(normal(4, 3), normal(4, 3))
def kl_of_gaussians(mu, log_std):
    return 0.5 * (mu**2 + jnp.exp(2 * log_std) - 2 * log_std - 1).sum(axis=-1).mean()


@of(normal(4, 6), normal(6, 2), normal(2, 6), normal(4, 1))
def elbo(x, We, Wd, noise):
    mu, log_std = jnp.split(x @ We, 2, axis=-1)
    z = mu + jnp.exp(log_std) * noise
    fit = ((z @ Wd[:1] - x) ** 2).sum(axis=-1)
    return (fit + 0.5 * (mu**2 + jnp.exp(2 * log_std) - 2 * log_std).sum(axis=-1)).mean()


@of(normal(4, 6), normal(4, 6), normal())
def info_nce(a, b, log_scale):
    logits = jnp.exp(log_scale) * a @ b.T
    return -jnp.diag(jax.nn.log_softmax(logits, axis=1)).mean()


@of(normal(5, 3), labels(5, 3))
def focal(logits, y):
    logp = jax.nn.log_softmax(logits)
    p = jnp.exp(logp)
    return -(jax.nn.one_hot(y, 3) * (1 - p) ** 2 * logp).sum(axis=-1).mean()


@of(normal(6), normal(6))
def pinball(q, y):
    d = y - q
    return jnp.maximum(0.9 * d, -0.1 * d).mean()


@of(normal(4, 5))
def logsumexp(x):
    return jax.nn.logsumexp(x, axis=-1)


@of(normal(5), normal(5))
def log_cosh(x, y):
    return jnp.log(jnp.cosh(x - y)).sum()
