"""Rules with branches and loops whose verdict is certain."""

import jax.numpy as jnp
from jax import lax

from tests.verify.labelled import group, normals

CASES = []


# ---- cond on the sum
def branch(x, w):
    return lax.cond(jnp.sum(x) > 0.37, lambda: jnp.sin(x) * w, lambda: x * x - w)


def branch_r1(args, ct):
    x, w = args
    return lax.cond(jnp.sum(x) > 0.37, lambda: (ct * jnp.cos(x) * w, ct * jnp.sin(x)), lambda: (2 * ct * x, -ct))


def branch_r2(args, ct):
    x, w = args
    p = jnp.sum(x) > 0.37
    return jnp.where(p, jnp.cos(x) * w, 2 * x) * ct, jnp.where(p, jnp.sin(x), -jnp.ones_like(x)) * ct


def branch_w1(args, ct):
    x, w = args
    return lax.cond(jnp.sum(x) > 0.37, lambda: (ct * jnp.cos(x) * w, ct * jnp.sin(x)), lambda: (2 * ct * x, ct))


def branch_w2(args, ct):
    x, w = args
    return lax.cond(jnp.sum(x) > 0.37, lambda: (ct * jnp.cos(x), ct * jnp.sin(x)), lambda: (2 * ct * x, -ct))


def branch_w3(args, ct):
    x, w = args
    return lax.cond(jnp.sum(x) < 0.37, lambda: (ct * jnp.cos(x) * w, ct * jnp.sin(x)), lambda: (2 * ct * x, -ct))


def branch_w4(args, ct):
    x, w = args
    p = x > 0.37
    return jnp.where(p, jnp.cos(x) * w, 2 * x) * ct, jnp.where(p, jnp.sin(x), -jnp.ones_like(x)) * ct


CASES += group(
    "control",
    "cond_sum",
    branch,
    normals((4,), (4,)),
    [branch_r1, branch_r2],
    [
        (branch_w1, "sign in the false branch"),
        (branch_w2, "w missing in the true branch"),
        (branch_w3, "branches swapped"),
        (branch_w4, "predicate elementwise instead of by the sum"),
    ],
)


# ---- while: halve until the squared norm is below a threshold
def halve(x):
    return lax.while_loop(lambda y: jnp.sum(y * y) > 0.173, lambda y: 0.5 * y, x) ** 2


def halve_r1(args, ct):
    (x,) = args

    def body(s):
        y, f = s
        return 0.5 * y, 0.5 * f

    y, f = lax.while_loop(lambda s: jnp.sum(s[0] * s[0]) > 0.173, body, (x, jnp.ones((), x.dtype)))
    return (2 * ct * y * f,)


def halve_r2(args, ct):
    (x,) = args
    y, k = lax.while_loop(lambda s: jnp.sum(s[0] * s[0]) > 0.173, lambda s: (0.5 * s[0], s[1] + 1), (x, 0))
    return (lax.fori_loop(0, k, lambda i, g: 0.5 * g, 2 * ct * y),)


def halve_w1(args, ct):
    (x,) = args
    y, k = lax.while_loop(lambda s: jnp.sum(s[0] * s[0]) > 0.173, lambda s: (0.5 * s[0], s[1] + 1), (x, 0))
    return (lax.fori_loop(0, k + 1, lambda i, g: 0.5 * g, 2 * ct * y),)


def halve_w2(args, ct):
    (x,) = args
    y = lax.while_loop(lambda y: jnp.sum(y * y) > 0.173, lambda y: 0.5 * y, x)
    return (2 * ct * y,)


def halve_w3(args, ct):
    (x,) = args
    y, k = lax.while_loop(lambda s: jnp.sum(s[0] * s[0]) > 0.173, lambda s: (0.5 * s[0], s[1] + 1), (x, 0))
    return (2 * ct * x * 0.5 ** k.astype(x.dtype),)


CASES += group(
    "control",
    "while_halve",
    halve,
    normals((5,)),
    [halve_r1, halve_r2],
    [
        (halve_w1, "one pass too many"),
        (halve_w2, "loop factors forgotten"),
        (halve_w3, "x in place of the loop's result"),
    ],
)
