"""Right backward passes of reductions and losses, derived by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxbias.selfcheck.planted.registry import normal, register


def segment_sum(x, ids):
    return jax.ops.segment_sum(x**2, ids, 4)


def segment_sum_rule(args, cotangent):
    x, ids = args
    return 2 * x * cotangent[ids], None


register(segment_sum, segment_sum_rule, lambda key: (normal(key, (6, 3))[0], jnp.array([0, 2, 1, 2, 3, 0])))


def logsumexp(z):
    return jax.nn.logsumexp(z, axis=1)


def logsumexp_rule(args, cotangent):
    (z,) = args
    e = jnp.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return (cotangent[:, None] * p,)


register(logsumexp, logsumexp_rule, lambda key: tuple(normal(key, (5, 4))))


def softmax(z):
    e = jnp.exp(z - lax.stop_gradient(z.max(axis=-1, keepdims=True)))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_rule(args, cotangent):
    (z,) = args
    p = jax.nn.softmax(z, axis=-1)
    inner = (cotangent * p).sum(axis=-1, keepdims=True)
    return (p * (cotangent - inner),)


register(softmax, softmax_rule, lambda key: tuple(normal(key, (5, 4))))


def cross_entropy(logits, labels):
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), labels[:, None], axis=1)
    return -picked.mean()


def cross_entropy_rule(args, cotangent):
    logits, labels = args
    p = jax.nn.softmax(logits, axis=-1)
    y = jax.nn.one_hot(labels, logits.shape[-1], dtype=p.dtype)
    return cotangent * (p - y) / logits.shape[0], None


register(cross_entropy, cross_entropy_rule, lambda key: (normal(key, (6, 4))[0], jnp.array([0, 3, 1, 2, 3, 1])))


def focal_loss(logits, targets):
    p = jax.nn.sigmoid(logits)
    pt = jnp.where(targets == 1, p, 1 - p)
    return (-((1 - pt) ** 2) * jnp.log(pt)).sum(axis=-1)


def focal_loss_rule(args, cotangent):
    logits, targets = args
    p = jax.nn.sigmoid(logits)
    pt = jnp.where(targets == 1, p, 1 - p)
    sign = jnp.where(targets == 1, 1.0, -1.0).astype(p.dtype)
    dpt = 2 * (1 - pt) * jnp.log(pt) - (1 - pt) ** 2 / pt
    return cotangent[:, None] * dpt * sign * p * (1 - p), None


register(
    focal_loss,
    focal_loss_rule,
    lambda key: (normal(key, (4, 3))[0], jnp.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]])),
)


def norm(x):
    return jnp.sqrt((x**2).sum(axis=-1))


def norm_rule(args, cotangent):
    (x,) = args
    length = jnp.sqrt((x**2).sum(axis=-1))
    return (cotangent[:, None] * x / length[:, None],)


register(norm, norm_rule, lambda key: tuple(normal(key, (4, 5))))


def std(x):
    return jnp.sqrt(((x - x.mean(axis=0, keepdims=True)) ** 2).mean(axis=0))


def std_rule(args, cotangent):
    (x,) = args
    centred = x - x.mean(axis=0, keepdims=True)
    s = jnp.sqrt((centred**2).mean(axis=0))
    return (cotangent[None, :] * centred / (x.shape[0] * s[None, :]),)


register(std, std_rule, lambda key: (normal(key, (7, 3))[0] * 1e-2 + 1,))


def cumulative_sum(x, weights):
    return jnp.cumsum(x * weights[None, :], axis=1)


def cumulative_sum_rule(args, cotangent):
    x, weights = args
    back = jnp.flip(jnp.cumsum(jnp.flip(cotangent, axis=1), axis=1), axis=1)
    return back * weights[None, :], (back * x).sum(axis=0)


register(cumulative_sum, cumulative_sum_rule, lambda key: tuple(normal(key, (3, 5), (5,))))


def huber(prediction, target):
    r = prediction - target
    return jnp.where(jnp.abs(r) < 1, 0.5 * r**2, jnp.abs(r) - 0.5).mean()


def huber_rule(args, cotangent):
    prediction, target = args
    r = prediction - target
    slope = jnp.where(jnp.abs(r) < 1, r, jnp.sign(r))
    g = cotangent * slope / r.size
    return g, -g


register(huber, huber_rule, lambda key: tuple(1.5 * x for x in normal(key, (5, 3), (5, 3))))
