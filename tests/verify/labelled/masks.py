"""Rules with masks whose verdict is certain."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals

CASES = []

# ---- branches by a closed-over mask
M = np.array([True, False, True, True, False, False])


def pick(x, y):
    return jnp.where(M, x * x * y, jnp.sin(y) * x)


def pick_r1(args, ct):
    x, y = args
    return jnp.where(M, 2 * x * y, jnp.sin(y)) * ct, jnp.where(M, x * x, x * jnp.cos(y)) * ct


def pick_r2(args, ct):
    x, y = args
    a, b = ct * M, ct * ~M
    return a * 2 * x * y + b * jnp.sin(y), a * x**2 + b * x * jnp.cos(y)


def pick_w1(args, ct):
    x, y = args
    return jnp.where(M, jnp.sin(y), 2 * x * y) * ct, jnp.where(M, x * jnp.cos(y), x * x) * ct


def pick_w2(args, ct):
    x, y = args
    return jnp.where(M, 2 * x * y, 0) * ct, jnp.where(M, x * x, 0) * ct


def pick_w3(args, ct):
    x, y = args
    return jnp.where(M, 2 * x * y, jnp.sin(y)) * ct, jnp.where(M, x * x, -x * jnp.cos(y)) * ct


def pick_w4(args, ct):
    x, y = args
    return jnp.where(M, 2 * x, jnp.sin(y)) * ct, jnp.where(M, x * x, x * jnp.cos(y)) * ct


CASES += group(
    "masks",
    "branch_mask",
    pick,
    normals((6,), (6,)),
    [pick_r1, pick_r2],
    [
        (pick_w1, "branches swapped"),
        (pick_w2, "second branch zero"),
        (pick_w3, "sign in one branch"),
        (pick_w4, "factor y missing in one branch"),
    ],
)

# ---- masked softmax (every row keeps an entry)
KEEP = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]], bool)


def msoft(x):
    return jax.nn.softmax(jnp.where(KEEP, x, -jnp.inf), axis=-1)


def msoft_r1(args, ct):
    (x,) = args
    p = msoft(x)
    return (p * (ct - jnp.sum(p * ct, -1, keepdims=True)),)


def msoft_r2(args, ct):
    (x,) = args
    m = jnp.max(jnp.where(KEEP, x, -jnp.inf), -1, keepdims=True)
    e = jnp.where(KEEP, jnp.exp(jnp.where(KEEP, x - m, 0)), 0)
    p = e / e.sum(-1, keepdims=True)
    J = jax.vmap(lambda q: jnp.diag(q) - jnp.outer(q, q))(p)
    return (jnp.einsum("bij,bj->bi", J, ct),)


def msoft_w1(args, ct):
    (x,) = args
    p = jax.nn.softmax(x, axis=-1)
    return (jnp.where(KEEP, p * (ct - jnp.sum(p * ct, -1, keepdims=True)), 0),)


def msoft_w2(args, ct):
    (x,) = args
    p = msoft(x)
    return (p * (1 - p) * ct,)


def msoft_w3(args, ct):
    (x,) = args
    p = msoft(x)
    return (p * (ct - jnp.sum(p * ct)),)


def msoft_w4(args, ct):
    (x,) = args
    p = msoft(x)
    return (p * (ct - jnp.sum(jnp.where(KEEP, ct, 0), -1, keepdims=True)),)


CASES += group(
    "masks",
    "masked_softmax",
    msoft,
    normals((3, 4)),
    [msoft_r1, msoft_r2],
    [
        (msoft_w1, "softmax without the mask"),
        (msoft_w2, "diagonal of the Jacobian only"),
        (msoft_w3, "sum over all rows"),
        (msoft_w4, "weights p missing in the sum"),
    ],
)


# ---- safe root: sqrt(x + 0.3) above zero, smooth odd continuation below
def saferoot(x):
    pos = jnp.maximum(x, 0)
    return jnp.where(x > 0, jnp.sqrt(pos + 0.25) - 0.5, x)


def saferoot_r1(args, ct):
    (x,) = args
    return (ct * jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.maximum(x, 0) + 0.25), 1.0),)


def saferoot_r2(args, ct):
    (x,) = args
    return (ct / (2 * jnp.sqrt(jnp.maximum(x, 0) + 0.25)),)


def saferoot_w1(args, ct):
    (x,) = args
    return (ct * jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.maximum(x, 0) + 0.25), 0.0),)


def saferoot_w2(args, ct):
    (x,) = args
    return (ct * jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.maximum(x, 0) + 1e-6), 1.0),)


def saferoot_w3(args, ct):
    (x,) = args
    return (ct * jnp.where(x > 0, 1 / jnp.sqrt(jnp.maximum(x, 0) + 0.25), 1.0),)


def saferoot_w4(args, ct):
    (x,) = args
    return (ct * jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.maximum(x, 0) + 0.25), jnp.where(x < -0.5, 0.9, 1.0)),)


CASES += group(
    "masks",
    "safe_root",
    saferoot,
    normals((9,)),
    [saferoot_r1, saferoot_r2],
    [
        (saferoot_w1, "zero below the threshold"),
        (saferoot_w2, "0.25 replaced by 1e-6"),
        (saferoot_w3, "factor one half"),
        (saferoot_w4, "0.9 for x < -0.5"),
    ],
)
