"""Rules with indexing whose verdict is certain."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals

CASES = []

# ---- gather with repeated indices
IDX = np.array([0, 3, 3, 1, 5, 0, 3], np.int32)


def gather(x, w):
    return x[IDX] * w[:, None]


def gather_r1(args, ct):
    x, w = args
    return jnp.zeros_like(x).at[IDX].add(ct * w[:, None]), jnp.sum(ct * x[IDX], -1)


def gather_r2(args, ct):
    x, w = args
    oh = jax.nn.one_hot(IDX, 6, dtype=x.dtype)
    return oh.T @ (ct * w[:, None]), jnp.einsum("ij,ij->i", ct, oh @ x)


def gather_w1(args, ct):
    x, w = args
    return jnp.zeros_like(x).at[IDX].set(ct * w[:, None]), jnp.sum(ct * x[IDX], -1)


def gather_w2(args, ct):
    x, w = args
    cnt = jnp.maximum(jnp.zeros((6,), x.dtype).at[IDX].add(1), 1)
    return jnp.zeros_like(x).at[IDX].add(ct * w[:, None]) / cnt[:, None], jnp.sum(ct * x[IDX], -1)


def gather_w3(args, ct):
    x, w = args
    return jnp.zeros_like(x).at[IDX].add(ct), jnp.sum(ct * x[IDX], -1)


def gather_w4(args, ct):
    x, w = args
    return jnp.zeros_like(x).at[IDX].add(ct * w[:, None]), jnp.mean(ct * x[IDX], -1)


CASES += group(
    "indexing",
    "gather",
    gather,
    normals((6, 2), (7,)),
    [gather_r1, gather_r2],
    [
        (gather_w1, "set in place of add for repeated indices"),
        (gather_w2, "divided by the count"),
        (gather_w3, "weight forgotten"),
        (gather_w4, "mean for sum"),
    ],
)

# ---- segment mean
SEG = np.array([0, 0, 2, 1, 2, 2, 0], np.int32)
CNT = np.array([3, 1, 3])


def segmean(x):
    return jax.ops.segment_sum(x, SEG, 3) / jnp.asarray(CNT, x.dtype)[:, None]


def segmean_r1(args, ct):
    (x,) = args
    return ((ct / jnp.asarray(CNT, x.dtype)[:, None])[SEG],)


def segmean_r2(args, ct):
    (x,) = args
    g = []
    for i in range(7):
        g.append(ct[SEG[i]] / int(CNT[SEG[i]]))
    return (jnp.stack(g),)


def segmean_w1(args, ct):
    return (ct[SEG],)


def segmean_w2(args, ct):
    (x,) = args
    return (ct[SEG] / 7,)


def segmean_w3(args, ct):
    (x,) = args
    return ((ct / jnp.asarray(CNT, x.dtype)[:, None])[np.sort(SEG)],)


def segmean_w4(args, ct):
    (x,) = args
    return ((ct / jnp.asarray(CNT, x.dtype)[:, None])[SEG].at[3].set(0),)


CASES += group(
    "indexing",
    "segment_mean",
    segmean,
    normals((7, 2)),
    [segmean_r1, segmean_r2],
    [
        (segmean_w1, "count forgotten"),
        (segmean_w2, "divided by the total"),
        (segmean_w3, "sorted segment ids"),
        (segmean_w4, "one row zero"),
    ],
)

# ---- sort along the last axis (offsets keep equal arguments apart)
OFF = [0.13, -0.29, 0.41, 0.07, -0.53]


def _o(x):
    return x + jnp.array(OFF, x.dtype)


def srt(x):
    return jnp.sort(_o(x), axis=-1)


def srt_r1(args, ct):
    (x,) = args
    inv = jnp.argsort(jnp.argsort(_o(x), axis=-1), axis=-1)
    return (jnp.take_along_axis(ct, inv, axis=-1),)


def srt_r2(args, ct):
    (x,) = args
    p = jnp.argsort(_o(x), axis=-1)
    return (jax.vmap(lambda p, c: jnp.zeros_like(c).at[p].set(c))(p, ct),)


def srt_w1(args, ct):
    (x,) = args
    return (jnp.take_along_axis(ct, jnp.argsort(_o(x), axis=-1), axis=-1),)


def srt_w2(args, ct):
    return (ct,)


def srt_w3(args, ct):
    (x,) = args
    p = jnp.argsort(-_o(x), axis=-1)
    return (jax.vmap(lambda p, c: jnp.zeros_like(c).at[p].set(c))(p, ct),)


def srt_w4(args, ct):
    (x,) = args
    inv = jnp.argsort(jnp.argsort(_o(x), axis=0), axis=0)
    return (jnp.take_along_axis(ct, inv, axis=0),)


CASES += group(
    "indexing",
    "sort",
    srt,
    normals((4, 5)),
    [srt_r1, srt_r2],
    [
        (srt_w1, "permutation in place of its inverse"),
        (srt_w2, "permutation forgotten"),
        (srt_w3, "descending order"),
        (srt_w4, "other axis"),
    ],
)
