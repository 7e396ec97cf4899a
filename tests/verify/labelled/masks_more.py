"""Rules with masks whose verdict is certain."""

import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals

CASES = []

# ---- masked mean and masked variance
MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
NK = MASK.sum(1).astype(np.float64)


def mstat(x):
    n = jnp.asarray(NK, x.dtype)
    m = jnp.where(MASK, x, 0).sum(1) / n
    v = jnp.where(MASK, (x - m[:, None]) ** 2, 0).sum(1) / n
    return m, v


def mstat_r1(args, ct):
    (x,) = args
    n = jnp.asarray(NK, x.dtype)[:, None]
    m = mstat(x)[0][:, None]
    gm, gv = ct
    return (jnp.where(MASK, (gm[:, None] + 2 * gv[:, None] * (x - m)) / n, 0),)


def mstat_r2(args, ct):
    (x,) = args
    K = jnp.asarray(MASK, x.dtype)
    n = K.sum(1)
    m = jnp.einsum("bi,bi->b", K, x) / n
    return (jnp.einsum("b,bi->bi", ct[0] / n, K) + jnp.einsum("b,bi,bi->bi", 2 * ct[1] / n, K, x - m[:, None]),)


def mstat_w1(args, ct):
    (x,) = args
    n = 5
    m = mstat(x)[0][:, None]
    return (jnp.where(MASK, (ct[0][:, None] + 2 * ct[1][:, None] * (x - m)) / n, 0),)


def mstat_w2(args, ct):
    (x,) = args
    n = jnp.asarray(NK, x.dtype)[:, None]
    m = mstat(x)[0][:, None]
    return ((ct[0][:, None] + 2 * ct[1][:, None] * (x - m)) / n,)


def mstat_w3(args, ct):
    (x,) = args
    n = jnp.asarray(NK, x.dtype)[:, None]
    m = x.mean(1, keepdims=True)
    return (jnp.where(MASK, (ct[0][:, None] + 2 * ct[1][:, None] * (x - m)) / n, 0),)


def mstat_w4(args, ct):
    (x,) = args
    n = jnp.asarray(NK, x.dtype)[:, None]
    m = mstat(x)[0][:, None]
    return (jnp.where(MASK, ct[0][:, None] / n + 2 * ct[1][:, None] * (x - m) / (n - 1), 0),)


CASES += group(
    "masks",
    "masked_moments",
    mstat,
    normals((2, 5)),
    [mstat_r1, mstat_r2],
    [
        (mstat_w1, "divided by the row length"),
        (mstat_w2, "mask forgotten"),
        (mstat_w3, "mean without the mask"),
        (mstat_w4, "n-1 for the variance"),
    ],
)


# ---- leaky ramp with a bend at zero, and a hinge at 0.7
def bend(x, t):
    return jnp.where(x > 0, x, 0.2 * x) * t + jnp.maximum(x * t - 0.7, 0)


def bend_r1(args, ct):
    x, t = args
    h = (x * t > 0.7).astype(x.dtype)
    s = jnp.where(x > 0, 1.0, 0.2).astype(x.dtype)
    return ct * t * (s + h), ct * x * (s + h)


def bend_r2(args, ct):
    x, t = args
    c = jnp.where(x > 0, ct, 0.2 * ct) + jnp.where(x * t >= 0.7, ct, 0)
    return c * t, c * x


def bend_w1(args, ct):
    x, t = args
    h = (x * t > 0.7).astype(x.dtype)
    s = jnp.where(x > 0, 1.0, 0.0).astype(x.dtype)
    return ct * t * (s + h), ct * x * (s + h)


def bend_w2(args, ct):
    x, t = args
    s = jnp.where(x > 0, 1.0, 0.2).astype(x.dtype)
    return ct * t * s, ct * x * s


def bend_w3(args, ct):
    x, t = args
    h = (x > 0.7).astype(x.dtype)
    s = jnp.where(x > 0, 1.0, 0.2).astype(x.dtype)
    return ct * t * (s + h), ct * x * (s + h)


def bend_w4(args, ct):
    x, t = args
    h = (x * t > 0.7).astype(x.dtype)
    s = jnp.where(x > 0, 1.0, 0.2).astype(x.dtype)
    return ct * t * (s + h), ct * jnp.abs(x) * (s + h)


CASES += group(
    "masks",
    "leaky_hinge",
    bend,
    normals((8,), (8,)),
    [bend_r1, bend_r2],
    [
        (bend_w1, "slope zero for negative x"),
        (bend_w2, "hinge term missing"),
        (bend_w3, "condition on x, not on x t"),
        (bend_w4, "abs(x)"),
    ],
)
