"""Rules with branches and loops whose verdict is certain."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.labelled import group, normals

CASES = []

# ---- a list of operations by switch inside a scan
OPS = np.array([0, 2, 1, 1, 0, 2, 0], np.int32)
_FW = [lambda y, w: jnp.sin(y) + w, lambda y, w: y * w * 0.5, lambda y, w: y - jnp.tanh(w * y)]


def ops(x, w):
    return lax.scan(lambda y, k: (lax.switch(k, _FW, y, w), None), x, OPS)[0]


_BW = [
    lambda y, w, g: (g * jnp.cos(y), g),
    lambda y, w, g: (0.5 * g * w, 0.5 * g * y),
    lambda y, w, g: (g * (1 - w * (1 - jnp.tanh(w * y) ** 2)), -g * y * (1 - jnp.tanh(w * y) ** 2)),
]


def _ops_rule(args, ct, bw=_BW, order=1):
    x, w = args
    _, ys = lax.scan(lambda y, k: (lax.switch(k, _FW, y, w), y), x, OPS)

    def back(c, i):
        g, gw = c
        y, k = i
        g, dw = lax.switch(k, bw, y, w, g)
        return (g, gw + dw), None

    (g, gw), _ = lax.scan(back, (ct, jnp.zeros_like(w)), (ys, OPS[::order]), reverse=True)
    return g, gw


def ops_python(args, ct):
    x, w = args
    y, tape = x, []
    for k in OPS.tolist():
        tape.append((k, y))
        y = _FW[k](y, w)
    g, gw = ct, jnp.zeros_like(w)
    while tape:
        k, y = tape.pop()
        if k == 0:
            gw = gw + g
            g = g * jnp.cos(y)
        elif k == 1:
            gw = gw + g * y / 2
            g = g * w / 2
        else:
            s = 1 - jnp.tanh(w * y) ** 2
            gw = gw - g * y * s
            g = g - g * w * s
    return g, gw


CASES += group(
    "control",
    "switch_scan",
    ops,
    normals((4,), (4,)),
    [_ops_rule, ops_python],
    [
        (lambda a, c: _ops_rule(a, c, order=-1), "operations not reversed with the states"),
        (
            lambda a, c: _ops_rule(a, c, bw=[_BW[0], lambda y, w, g: (g * w, 0.5 * g * y), _BW[2]]),
            "factor 0.5 missing in one branch",
        ),
        (
            lambda a, c: _ops_rule(a, c, bw=[_BW[0], _BW[1], lambda y, w, g: (_BW[2](y, w, g)[0], jnp.zeros_like(w))]),
            "w's term missing in one branch",
        ),
        (lambda a, c: _ops_rule(a, c, bw=[lambda y, w, g: (g * jnp.cos(y), -g), _BW[1], _BW[2]]), "sign in one branch"),
    ],
)


# ---- nested cond by the mean of a closed-over and an own argument
def nest(x, s):
    return lax.cond(
        s > -0.41, lambda: lax.cond(jnp.sum(x) > 0.91, lambda: x * s, lambda: jnp.cos(x) + s), lambda: x**3 + s * s
    )


def nest_r1(args, ct):
    x, s = args
    return lax.cond(
        s > -0.41,
        lambda: lax.cond(jnp.sum(x) > 0.91, lambda: (ct * s, jnp.sum(ct * x)), lambda: (-ct * jnp.sin(x), ct.sum())),
        lambda: (3 * x * x * ct, 2 * s * ct.sum()),
    )


def nest_r2(args, ct):
    x, s = args
    k = jnp.where(s > -0.41, jnp.where(jnp.sum(x) > 0.91, 0, 1), 2)
    return lax.switch(
        k,
        [
            lambda: (ct * s, jnp.vdot(ct, x)),
            lambda: (ct * -jnp.sin(x), jnp.sum(ct)),
            lambda: (ct * 3 * x**2, jnp.sum(2 * ct * s)),
        ],
    )


def nest_w1(args, ct):
    x, s = args
    return lax.cond(
        s > -0.41,
        lambda: lax.cond(jnp.sum(x) > 0.91, lambda: (ct * s, jnp.sum(ct * x)), lambda: (ct * jnp.sin(x), ct.sum())),
        lambda: (3 * x * x * ct, 2 * s * ct.sum()),
    )


def nest_w2(args, ct):
    x, s = args
    return lax.cond(
        s > -0.41,
        lambda: lax.cond(jnp.sum(x) > 0.91, lambda: (ct * s, jnp.sum(ct * x)), lambda: (-ct * jnp.sin(x), ct.sum())),
        lambda: (3 * x * x * ct, s * ct.sum()),
    )


def nest_w3(args, ct):
    x, s = args
    return lax.cond(s > -0.41, lambda: (ct * s, jnp.sum(ct * x)), lambda: (3 * x * x * ct, 2 * s * ct.sum()))


CASES += group(
    "control",
    "nested_cond",
    nest,
    normals((3,), ()),
    [nest_r1, nest_r2],
    [
        (nest_w1, "sign in one of three branches"),
        (nest_w2, "factor 2 in one of three branches"),
        (nest_w3, "inner branch ignored"),
    ],
)
