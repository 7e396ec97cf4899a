"""Linear algebra, signals, picks of entries, and other numerics."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.derive.bank.forward import Forward, entering, labels, normal, positive

FORWARDS: dict[str, Forward] = {}
of = entering(FORWARDS)


@of(normal(3, 3), normal(3))
def quadratic_form(A, x):
    return x @ A @ x


@of(normal(4, 4), normal(4))
def linear_solve(A, b):
    return jnp.linalg.solve(A + 4 * jnp.eye(4), b)


@of(normal(6), normal(2))
def physics_residual(t, w):
    u = jnp.sin(w[0] * t) * jnp.exp(-w[1] * t)
    du = (u[2:] - u[:-2]) / 0.2
    return ((du + w[1] * u[1:-1]) ** 2).sum()


@of(normal(3), normal(3, 3), normal(2, 3), normal(2))
def kalman_gain_step(m, L, H, y):
    P = L @ L.T
    S = H @ P @ H.T + jnp.eye(2)
    residual = y - H @ m
    return m + P @ H.T @ residual / jnp.trace(S)


@of(positive(4, 5))
def sinkhorn(cost):
    K = jnp.exp(-cost)
    u = jnp.ones(4)
    for _ in range(3):
        v = 1 / (K.T @ u)
        u = 1 / (K @ v)
    return (u[:, None] * K * v * cost).sum()


@of(normal(4, 3), normal(4, 3))
def pairwise_distances(x, y):
    d2 = ((x[:, None] - y[None]) ** 2).sum(axis=-1)
    return jnp.exp(-d2 / 2)


@of(normal(5, 3))
def covariance(x):
    xc = x - x.mean(axis=0)
    return xc.T @ xc / (x.shape[0] - 1)


@of(normal(6))
def cumulative(x):
    return jnp.cumsum(x) ** 2


@of(normal(6))
def trimmed_mean(x):
    return jnp.sort(x)[1:-1].mean()


@of(normal(4, 5))
def normalised(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@of(normal(4), normal(4))
def geometric(x, y):
    return jnp.sqrt(jnp.exp(x) * (1 + y**2)) / (1 + jnp.exp(-x))


@of(normal(7))
def moving_average(x):
    padded = jnp.pad(x, 1)
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


@of(normal(3, 4), normal(4), normal(5, 3, 4))
def vmapped(W, b, xs):
    def unit(x):
        return jnp.tanh((W * x).sum(axis=-1) + (b * x).sum())

    return jax.vmap(unit)(xs)


@of(normal(3, 4), normal(4))
def polynomial(x, c):
    return c[0] + c[1] * x + c[2] * x**2 + c[3] * x**3


@of(normal(4, 4))
def log_determinant(A):
    return jnp.linalg.slogdet(A @ A.T + jnp.eye(4))[1]


@of(normal(6))
def spectrum(x):
    return jnp.abs(jnp.fft.rfft(x)) ** 2


@of(normal(4, 4), normal(4, 2), normal(4))
def triangular_and_solve(A, B, b):
    one = jnp.eye(4, dtype=A.dtype)
    L = jnp.linalg.cholesky(A @ A.T + 4 * one)
    y = lax.linalg.triangular_solve(L, B.T, lower=True, transpose_a=True)
    return y @ jnp.linalg.solve(A + 5 * one, B) + jnp.linalg.inv(L)[0, 0] * b.sum()


@of(normal(5, 3), labels(4, 5), normal(4, 3))
def scattered(table, ids, rows):
    return jnp.tanh(table.at[ids].add(rows**2))


@of(normal(4, 6))
def products_and_order(x):
    order = jnp.argsort(x, axis=1)
    return jnp.take_along_axis(x, order, axis=1) * x.prod(axis=1, keepdims=True)


@of(normal(6, 3), jnp.asarray(2, jnp.int32))
def sliced_at_an_index(x, k):
    window = lax.dynamic_slice_in_dim(x, k, 2)
    return lax.dynamic_update_slice_in_dim(x**2, window**3, k - 1, 0)
