"""Rules with special functions whose verdict is certain."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, digamma, gammaln

from tests.verify.labelled import group, normals

CASES = []


# ---- log beta function of x^2 + 0.5, y^2 + 0.5
def lbeta(x, y):
    a, b = x * x + 0.5, y * y + 0.5
    return gammaln(a) + gammaln(b) - gammaln(a + b)


def lbeta_r1(args, ct):
    x, y = args
    a, b = x * x + 0.5, y * y + 0.5
    s = digamma(a + b)
    return ct * (digamma(a) - s) * 2 * x, ct * (digamma(b) - s) * 2 * y


def lbeta_w1(args, ct):
    x, y = args
    a, b = x * x + 0.5, y * y + 0.5
    return ct * digamma(a) * 2 * x, ct * digamma(b) * 2 * y


def lbeta_w2(args, ct):
    x, y = args
    a, b = x * x + 0.5, y * y + 0.5
    s = digamma(a + b)
    return ct * (digamma(a) - s), ct * (digamma(b) - s)


def lbeta_w3(args, ct):
    x, y = args
    a, b = x * x + 0.5, y * y + 0.5
    s = jnp.log(a + b)
    return ct * (jnp.log(a) - s) * 2 * x, ct * (jnp.log(b) - s) * 2 * y


CASES += group(
    "special",
    "log_beta",
    lbeta,
    normals((4,), (4,)),
    [lbeta_r1],
    [(lbeta_w1, "digamma(a+b) missing"), (lbeta_w2, "chain factor 2x missing"), (lbeta_w3, "log for digamma")],
)

# ---- regularised incomplete beta in its last argument, 0.1 < u < 0.9
PA, PB = 2.5, 1.5
LB = float(math.lgamma(PA) + math.lgamma(PB) - math.lgamma(PA + PB))


def ibeta(x):
    u = 0.5 + 0.4 * jnp.tanh(x)
    return betainc(PA, PB, u)


def ibeta_r1(args, ct):
    (x,) = args
    t = jnp.tanh(x)
    u = 0.5 + 0.4 * t
    pdf = jnp.exp((PA - 1) * jnp.log(u) + (PB - 1) * jnp.log1p(-u) - LB)
    return (ct * pdf * 0.4 * (1 - t * t),)


def ibeta_r2(args, ct):
    (x,) = args
    t = jnp.tanh(x)
    u = 0.5 + 0.4 * t
    return (ct * u**1.5 * (1 - u) ** 0.5 * 0.4 * (1 - t) * (1 + t) * math.exp(-LB),)


def ibeta_w1(args, ct):
    (x,) = args
    t = jnp.tanh(x)
    u = 0.5 + 0.4 * t
    return (ct * u**2.5 * (1 - u) ** 1.5 * 0.4 * (1 - t * t) * math.exp(-LB),)


def ibeta_w2(args, ct):
    (x,) = args
    t = jnp.tanh(x)
    u = 0.5 + 0.4 * t
    return (ct * u**1.5 * (1 - u) ** 0.5 * 0.4 * (1 - t * t),)


def ibeta_w3(args, ct):
    (x,) = args
    t = jnp.tanh(x)
    u = 0.5 + 0.4 * t
    return (ct * u**0.5 * (1 - u) ** 1.5 * 0.4 * (1 - t * t) * math.exp(-LB),)


CASES += group(
    "special",
    "betainc",
    ibeta,
    normals((5,)),
    [ibeta_r1, ibeta_r2],
    [
        (ibeta_w1, "exponents a, b for a-1, b-1"),
        (ibeta_w2, "normalising constant missing"),
        (ibeta_w3, "a and b swapped"),
    ],
)


# ---- Bessel i0e, i1e
def bes(x, y):
    return jax.scipy.special.i0e(x) * y


def bes_r1(args, ct):
    x, y = args
    i0, i1 = jax.scipy.special.i0e(x), jax.scipy.special.i1e(x)
    return ct * y * (i1 - jnp.sign(x) * i0), ct * i0


def bes_w1(args, ct):
    x, y = args
    return ct * y * jax.scipy.special.i1e(x), ct * jax.scipy.special.i0e(x)


def bes_w2(args, ct):
    x, y = args
    i0, i1 = jax.scipy.special.i0e(x), jax.scipy.special.i1e(x)
    return ct * y * (i1 - i0), ct * i0


def bes_w3(args, ct):
    x, y = args
    i0, i1 = jax.scipy.special.i0e(x), jax.scipy.special.i1e(x)
    return -ct * y * (i1 - jnp.sign(x) * i0), ct * i0


def bes_w4(args, ct):
    x, y = args
    i0, i1 = jax.scipy.special.i0e(x), jax.scipy.special.i1e(x)
    return ct * y * (i1 - jnp.sign(x) * i0) * 1.001, ct * i0


CASES += group(
    "special",
    "bessel_i0e",
    bes,
    normals((6,), (6,)),
    [bes_r1],
    [
        (bes_w1, "derivative of the scaling missing"),
        (bes_w2, "sign(x) missing"),
        (bes_w3, "minus"),
        (bes_w4, "factor 1.001 in x"),
    ],
)
