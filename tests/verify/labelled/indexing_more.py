"""Rules with indexing whose verdict is certain."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.labelled import group, normals

CASES = []

# ---- x with rows replaced by v, then a cumulative sum
ROWS = np.array([4, 1], np.int32)


def setcum(x, v):
    return jnp.cumsum(x.at[ROWS].set(v), axis=0)


def setcum_r1(args, ct):
    g = jnp.cumsum(ct[::-1], axis=0)[::-1]
    return g.at[ROWS].set(0), g[ROWS]


def setcum_r2(args, ct):
    x, v = args
    T = jnp.triu(jnp.ones((6, 6), x.dtype))
    keep = np.ones((6, 1), bool)
    keep[ROWS] = False
    g = T @ ct
    return g * keep, jnp.take(g, ROWS, axis=0)


def setcum_w1(args, ct):
    g = jnp.cumsum(ct, axis=0)
    return g.at[ROWS].set(0), g[ROWS]


def setcum_w2(args, ct):
    g = jnp.cumsum(ct[::-1], axis=0)[::-1]
    return g, g[ROWS]


def setcum_w3(args, ct):
    g = jnp.cumsum(ct[::-1], axis=0)[::-1]
    return g.at[ROWS].set(0), g[np.sort(ROWS)]


def setcum_w4(args, ct):
    g = jnp.cumsum(ct[::-1], axis=0)[::-1] - ct
    return g.at[ROWS].set(0), g[ROWS]


CASES += group(
    "indexing",
    "set_cumsum",
    setcum,
    normals((6, 2), (2, 2)),
    [setcum_r1, setcum_r2],
    [
        (setcum_w1, "forward cumulative sum again"),
        (setcum_w2, "overwritten rows keep a gradient"),
        (setcum_w3, "rows sorted"),
        (setcum_w4, "exclusive sum"),
    ],
)


# ---- sum of the two largest of each row, weighted
def top2(x, w):
    return w * lax.top_k(x, 2)[0].sum(-1)


def top2_r1(args, ct):
    x, w = args
    v, i = lax.top_k(x, 2)
    return (ct * w)[:, None] * jax.nn.one_hot(i, 6, dtype=x.dtype).sum(1), ct * v.sum(-1)


def top2_r2(args, ct):
    x, w = args
    r = jnp.argsort(jnp.argsort(-x, axis=-1), axis=-1)
    m = r < 2
    return jnp.where(m, (ct * w)[:, None], 0), ct * jnp.sum(jnp.where(m, x, 0), -1)


def top2_w1(args, ct):
    x, w = args
    i = jnp.argmax(x, -1)
    return (ct * w)[:, None] * jax.nn.one_hot(i, 6, dtype=x.dtype), top2_r1(args, ct)[1]


def top2_w2(args, ct):
    x, w = args
    i = lax.top_k(-x, 2)[1]
    return (ct * w)[:, None] * jax.nn.one_hot(i, 6, dtype=x.dtype).sum(1), top2_r1(args, ct)[1]


def top2_w3(args, ct):
    gx, gw = top2_r1(args, ct)
    return gx / 2, gw


def top2_w4(args, ct):
    x, w = args
    gx, gw = top2_r1(args, ct)
    return ct[:, None] * (gx != 0), gw


CASES += group(
    "indexing",
    "top2_sum",
    top2,
    normals((3, 6), (3,)),
    [top2_r1, top2_r2],
    [(top2_w1, "largest only"), (top2_w2, "smallest two"), (top2_w3, "mean for sum"), (top2_w4, "weight forgotten")],
)
