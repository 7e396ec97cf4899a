"""Rules with unusual shapes whose verdict is certain."""

import jax
import jax.numpy as jnp

from tests.verify.labelled import group

CASES = []


# ---- dict argument, broadcasting
def affine(p, x):
    return x * p["scale"] + p["shift"] * p["gain"]


def affine_r1(args, ct):
    p, x = args
    g = {"scale": (ct * x).sum(0), "shift": (ct * p["gain"]).sum(1, keepdims=True), "gain": (ct * p["shift"]).sum()}
    return g, ct * p["scale"]


def affine_r2(args, ct):
    p, x = args
    return {
        "scale": jnp.einsum("ij,ij->j", ct, x),
        "shift": jnp.einsum("ij->i", ct)[:, None] * p["gain"],
        "gain": jnp.vdot(jnp.broadcast_to(p["shift"], x.shape), ct),
    }, jnp.einsum("ij,j->ij", ct, p["scale"])


def affine_w1(args, ct):
    g, gx = affine_r1(args, ct)
    return {**g, "scale": g["scale"] / 3}, gx


def affine_w2(args, ct):
    p, x = args
    g, gx = affine_r1(args, ct)
    return {**g, "gain": (ct.mean(1, keepdims=True) * p["shift"]).sum()}, gx


def affine_w3(args, ct):
    g, gx = affine_r1(args, ct)
    return {**g, "shift": jnp.zeros_like(g["shift"])}, gx


def affine_w4(args, ct):
    p, x = args
    g, gx = affine_r1(args, ct)
    return {**g, "shift": ct[:, :1] * p["gain"]}, gx


def affine_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    n = lambda k, s: jax.random.normal(k, s, jnp.float32)
    return {"scale": n(a, (4,)), "shift": n(b, (3, 1)), "gain": n(c, ())}, n(d, (3, 4))


CASES += group(
    "shapes",
    "dict_affine",
    affine,
    affine_draw,
    [affine_r1, affine_r2],
    [
        (affine_w1, "mean over the batch"),
        (affine_w2, "mean over the columns for the gain"),
        (affine_w3, "zero gradient of shift"),
        (affine_w4, "broadcast axis sliced, not summed"),
    ],
)

# ---- size-1 and empty axes


def ends_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 1), jnp.float32), jax.random.normal(b, (), jnp.float32)


def ends(x, y):
    e = jnp.concatenate([x[:, :0], x * y, x + x[:0].sum()], axis=1)
    return e.sum(0, keepdims=True), jnp.prod(x[:0]) * y


def ends_r1(args, ct):
    x, y = args
    c, d = ct
    return jnp.broadcast_to(c[:, :1] * y + c[:, 1:], (4, 1)), c[0, 0] * x.sum() + d


def ends_r2(args, ct):
    x, y = args
    c, d = ct
    gx = jnp.zeros_like(x)
    gy = d
    for i in range(4):
        gx = gx.at[i, 0].add(c[0, 0] * y).at[i, 0].add(c[0, 1])
        gy = gy + c[0, 0] * x[i, 0]
    return gx, gy


def ends_w1(args, ct):
    x, y = args
    c, d = ct
    return jnp.broadcast_to(c[:, :1] * y + c[:, 1:], (4, 1)), c[0, 0] * x.sum()


def ends_w2(args, ct):
    x, y = args
    c, d = ct
    return jnp.broadcast_to(c[:, :1] * y, (4, 1)), c[0, 0] * x.sum() + d


def ends_w3(args, ct):
    x, y = args
    c, d = ct
    return jnp.broadcast_to(c[:, :1] * y + c[:, 1:], (4, 1)) / 4, c[0, 0] * x.sum() + d


def ends_w4(args, ct):
    x, y = args
    c, d = ct
    return jnp.broadcast_to(c[:, :1] * y + c[:, 1:], (4, 1)), c[0, 0] * x.mean() + d


CASES += group(
    "shapes",
    "empty_and_one",
    ends,
    ends_draw,
    [ends_r1, ends_r2],
    [
        (ends_w1, "empty product taken for zero"),
        (ends_w2, "second column dropped"),
        (ends_w3, "divided by the number of rows"),
        (ends_w4, "mean for sum"),
    ],
)
