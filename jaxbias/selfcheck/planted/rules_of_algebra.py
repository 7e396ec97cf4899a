"""Right backward passes of sorting, interpolation, linear algebra and of tied weights, derived by hand."""

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxbias.selfcheck.planted.registry import normal, register


def sort(x, weights):
    return jnp.sort(x, axis=1) * weights[None, :]


def sort_rule(args, cotangent):
    x, weights = args
    order = jnp.argsort(x, axis=1)
    rows = jnp.arange(x.shape[0])[:, None]
    dx = jnp.zeros_like(x).at[rows, order].add(cotangent * weights[None, :])
    return dx, (cotangent * jnp.sort(x, axis=1)).sum(axis=0)


register(sort, sort_rule, lambda key: tuple(normal(key, (4, 5), (5,))))


def top_k(x):
    return lax.top_k(x, 2)[0]


def top_k_rule(args, cotangent):
    (x,) = args
    _, index = lax.top_k(x, 2)
    rows = jnp.arange(x.shape[0])[:, None]
    return (jnp.zeros_like(x).at[rows, index].add(cotangent),)


register(top_k, top_k_rule, lambda key: tuple(normal(key, (4, 6))))


def interpolate(x, values):
    low = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, values.shape[0] - 2)
    w = x - low.astype(x.dtype)
    return (1 - w) * values[low] + w * values[low + 1]


def interpolate_rule(args, cotangent):
    x, values = args
    low = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, values.shape[0] - 2)
    w = x - low.astype(x.dtype)
    dvalues = jnp.zeros_like(values).at[low].add(cotangent * (1 - w)).at[low + 1].add(cotangent * w)
    return cotangent * (values[low + 1] - values[low]), dvalues


register(
    interpolate,
    interpolate_rule,
    lambda key: (jnp.array([0.3, 2.6, 1.2, 2.1, 3.7, 0.9, 2.4]), normal(key, (6,))[0]),
)


def triangular(a, b):
    return solve_triangular(a, b, lower=True)


def triangular_rule(args, cotangent):
    a, b = args
    y = solve_triangular(a, b, lower=True)
    db = solve_triangular(a, cotangent, lower=True, trans=1)
    return -jnp.tril(db @ y.T), db


def _triangular_args(key):
    a, b = normal(key, (4, 4), (4, 3))
    return jnp.tril(a) + 3 * jnp.eye(4), b


register(triangular, triangular_rule, _triangular_args)


def cholesky(a):
    return jnp.linalg.cholesky((a + a.T) / 2, symmetrize_input=False)


def cholesky_rule(args, cotangent):
    (a,) = args
    low = jnp.linalg.cholesky((a + a.T) / 2, symmetrize_input=False)
    p = jnp.tril(low.T @ jnp.tril(cotangent))
    p = p - 0.5 * jnp.diag(jnp.diag(p))
    s = solve_triangular(low, solve_triangular(low, p.T, lower=True, trans=1).T, lower=True, trans=1).T
    return (0.5 * (s + s.T),)


def _cholesky_args(key):
    x = normal(key, (4, 6))[0]
    return (x @ x.T / 6 + jnp.eye(4),)


register(cholesky, cholesky_rule, _cholesky_args)


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def gelu_rule(args, cotangent):
    (x,) = args
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    inner = 0.7978845608 * (1 + 3 * 0.044715 * x**2)
    return (cotangent * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner),)


register(gelu, gelu_rule, lambda key: tuple(normal(key, (4, 5))))


def bilinear(x, y, weight):
    return jnp.einsum("ni,ijk,nj->nk", x, weight, y)


def bilinear_rule(args, cotangent):
    x, y, weight = args
    return (
        jnp.einsum("nk,ijk,nj->ni", cotangent, weight, y),
        jnp.einsum("nk,ijk,ni->nj", cotangent, weight, x),
        jnp.einsum("ni,nj,nk->ijk", x, y, cotangent),
    )


register(bilinear, bilinear_rule, lambda key: tuple(normal(key, (5, 3), (5, 3), (3, 3, 4))))


def tied(x, weight):
    h = jnp.tanh(x @ weight)
    return h @ weight.T


def tied_rule(args, cotangent):
    x, weight = args
    h = jnp.tanh(x @ weight)
    delta = (cotangent @ weight) * (1 - h * h)
    return delta @ weight.T, x.T @ delta + cotangent.T @ h


register(tied, tied_rule, lambda key: tuple(normal(key, (5, 4), (4, 4))))


def group_mean(x, valid):
    count = valid.sum(axis=1)
    return jnp.where(valid, x, 0).sum(axis=1) / count.astype(x.dtype)


def group_mean_rule(args, cotangent):
    x, valid = args
    count = valid.sum(axis=1, keepdims=True).astype(x.dtype)
    return jnp.where(valid, cotangent[:, None] / count, 0), None


def _valid_args(key):
    valid = jnp.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]], bool)
    return normal(key, (5, 4))[0], valid


register(group_mean, group_mean_rule, _valid_args)
