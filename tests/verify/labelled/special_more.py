"""Rules with special functions whose verdict is certain."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, erfinv, logit, polygamma, xlogy

from tests.verify.labelled import group, normals, normals64

CASES = []


# ---- entropy of a softmax by xlogy
def entropy(x):
    p = jax.nn.softmax(x, -1)
    return -xlogy(p, p).sum(-1)


def entropy_r1(args, ct):
    (x,) = args
    lp = jax.nn.log_softmax(x, -1)
    p = jnp.exp(lp)
    return (-ct[:, None] * p * (lp - (p * lp).sum(-1, keepdims=True)),)


def entropy_r2(args, ct):
    (x,) = args
    p = jax.nn.softmax(x, -1)
    z = x - x.max(-1, keepdims=True)
    return (ct[:, None] * p * (jnp.einsum("bi,bi->b", p, z)[:, None] - z),)


def entropy_w1(args, ct):
    (x,) = args
    lp = jax.nn.log_softmax(x, -1)
    return (-ct[:, None] * jnp.exp(lp) * (lp + 1),)


def entropy_w2(args, ct):
    return (-entropy_r1(args, ct)[0],)


def entropy_w3(args, ct):
    (x,) = args
    lp = jax.nn.log_softmax(x, -1)
    return (-ct[:, None] * jnp.exp(lp) * (lp - lp.mean(-1, keepdims=True)),)


CASES += group(
    "special",
    "entropy_xlogy",
    entropy,
    normals((3, 4)),
    [entropy_r1, entropy_r2],
    [(entropy_w1, "derivative of the softmax missing"), (entropy_w2, "sign"), (entropy_w3, "unweighted mean of log p")],
)


# ---- erfinv(0.9 tanh x) and logit of a bounded share
def quant(x, y):
    return erfinv(0.9 * jnp.tanh(x)) + logit(0.05 + 0.9 * jax.nn.sigmoid(y))


def quant_r1(args, ct):
    x, y = args
    t, s, r = jnp.tanh(x), jax.nn.sigmoid(y), jax.nn.sigmoid(-y)
    e = erfinv(0.9 * t)
    return ct * 0.5 * math.sqrt(math.pi) * jnp.exp(e * e) * 0.9 * (1 - t) * (1 + t), ct * 0.9 * s * r / (
        (0.05 + 0.9 * s) * (0.05 + 0.9 * r)
    )


def quant_r2(args, ct):
    x, y = args
    t, s = jnp.tanh(x), jax.nn.sigmoid(y)
    u = 0.05 + 0.9 * s
    e = erfinv(0.9 * t)
    return ct * 0.9 * (1 - t**2) / (2 / math.sqrt(math.pi) * jnp.exp(-(e**2))), ct * (1 / u + 1 / (1 - u)) * 0.9 * s * (
        1 - s
    )


def quant_w1(args, ct):
    x, y = args
    t = jnp.tanh(x)
    e = erfinv(0.9 * t)
    return ct * 0.5 * math.sqrt(math.pi) * jnp.exp(-e * e) * 0.9 * (1 - t * t), quant_r1(args, ct)[1]


def quant_w2(args, ct):
    gx, gy = quant_r1(args, ct)
    return gx / 0.9, gy


def quant_w3(args, ct):
    x, y = args
    return quant_r1(args, ct)[0], ct


def quant_w4(args, ct):
    gx, gy = quant_r1(args, ct)
    return 1.001 * gx, 1.001 * gy


CASES += group(
    "special",
    "erfinv_logit",
    quant,
    normals((4,), (4,)),
    [quant_r1, quant_r2],
    [
        (quant_w1, "sign in the exponent"),
        (quant_w2, "factor 0.9 missing"),
        (quant_w3, "bounds ignored: logit(sigmoid(y)) = y"),
        (quant_w4, "factor 1.001"),
    ],
)


# ---- digamma of a softplus-bounded argument, float64
def psi(x):
    return digamma(0.5 + jax.nn.softplus(x))


def psi_r1(args, ct):
    (x,) = args
    return (ct * polygamma(1, 0.5 + jax.nn.softplus(x)) * jax.nn.sigmoid(x),)


def psi_r2(args, ct):
    # recurrence and asymptotic series of the trigamma function
    (x,) = args
    a = 0.5 + jax.nn.softplus(x)
    s = jnp.zeros_like(a)
    for k in range(12):
        s = s + 1 / (a + k) ** 2
    b = 1 / (a + 12)
    b2 = b * b
    t = b + b2 / 2 + b * b2 * (1 / 6 - b2 * (1 / 30 - b2 * (1 / 42 - b2 * (1 / 30 - b2 * 5 / 66))))
    return (ct * (s + t) * jax.nn.sigmoid(x),)


def psi_w1(args, ct):
    (x,) = args
    return (ct * polygamma(1, 0.5 + jax.nn.softplus(x)),)


def psi_w2(args, ct):
    (x,) = args
    return (ct * polygamma(2, 0.5 + jax.nn.softplus(x)) * jax.nn.sigmoid(x),)


def psi_w3(args, ct):
    (x,) = args
    return (ct * jax.nn.sigmoid(x) / (0.5 + jax.nn.softplus(x)),)


CASES += group(
    "special",
    "digamma",
    psi,
    normals64((5,)),
    [psi_r1, psi_r2],
    [(psi_w1, "sigmoid missing"), (psi_w2, "one order too high"), (psi_w3, "1/a for the trigamma function")],
)
