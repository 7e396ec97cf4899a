"""Rules with constants whose verdict is certain."""

import jax.numpy as jnp
import numpy as np

from tests.verify.labelled import group, normals, normals64

CASES = []

_rng = np.random.default_rng(7)
# ---- closed-over float64 NumPy matrix, quadratic form per row
A64 = _rng.standard_normal((4, 4))


def quad(x):
    return jnp.einsum("bi,ij,bj->b", x, jnp.asarray(A64, x.dtype), x)


def quad_r1(args, ct):
    (x,) = args
    S = (A64 + A64.T).astype(x.dtype)
    return (ct[:, None] * (x @ S),)


def quad_r2(args, ct):
    (x,) = args
    A = jnp.asarray(A64, x.dtype)
    return (jnp.einsum("b,ij,bj->bi", ct, A, x) + jnp.einsum("b,ij,bi->bj", ct, A, x),)


def quad_w1(args, ct):
    (x,) = args
    return (2 * ct[:, None] * (x @ A64.astype(x.dtype)),)


def quad_w2(args, ct):
    (x,) = args
    return (ct[:, None] * (x @ A64.T.astype(x.dtype)),)


def quad_w3(args, ct):
    (x,) = args
    S = (np.round(A64, 1) + np.round(A64, 1).T).astype(x.dtype)
    return (ct[:, None] * (x @ S),)


def quad_w4(args, ct):
    (x,) = args
    S = (A64 - A64.T).astype(x.dtype)
    return (ct[:, None] * (x @ S),)


CASES += group(
    "constants",
    "quadratic_np64",
    quad,
    normals((3, 4)),
    [quad_r1, quad_r2],
    [
        (quad_w1, "A taken for symmetric"),
        (quad_w2, "one of two terms"),
        (quad_w3, "constant rounded to one digit"),
        (quad_w4, "difference for sum"),
    ],
)

# ---- polynomial with integer NumPy coefficients, float64 arguments
COEF = np.array([2, -3, 0, 1, 4], np.int64)


def poly(x):
    y = jnp.zeros_like(x)
    for c in COEF[::-1]:
        y = y * x + int(c)
    return y


def poly_r1(args, ct):
    (x,) = args
    d = jnp.zeros_like(x)
    for k in range(4, 0, -1):
        d = d * x + k * int(COEF[k])
    return (ct * d,)


def poly_r2(args, ct):
    (x,) = args
    y, d = jnp.zeros_like(x), jnp.zeros_like(x)
    for c in COEF[::-1]:
        d = d * x + y
        y = y * x + int(c)
    return (ct * d,)


def poly_w1(args, ct):
    (x,) = args
    d = jnp.zeros_like(x)
    for k in range(4, 0, -1):
        d = d * x + int(COEF[k])
    return (ct * d,)


def poly_w2(args, ct):
    (x,) = args
    d = jnp.zeros_like(x)
    for k in range(4, 1, -1):
        d = d * x + k * int(COEF[k])
    return (ct * d * x,)


def poly_w3(args, ct):
    (x,) = args
    return (ct * (-3 + 3 * x**2 + 12 * x**3),)


CASES += group(
    "constants",
    "polynomial_int",
    poly,
    normals64((5,)),
    [poly_r1, poly_r2],
    [
        (poly_w1, "powers k forgotten"),
        (poly_w2, "constant term of the derivative lost"),
        (poly_w3, "12 in place of 16"),
    ],
)
