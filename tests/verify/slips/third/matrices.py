"""Rules with mistakes in the derivatives of matrices."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


N, M, D = 4, 5, 3


def ridge_solve(a, b, lam):
    s = a.T @ a + lam**2 * jnp.eye(N)
    return jnp.linalg.solve(s, b)


def draw_ridge(key):
    a, b, lam = normal(key, (M, N), (N, 2), ())
    return a, b, lam * 0.2 + 1.5


def spd_inverse_trace(a, c):
    inv = jnp.linalg.inv(a @ a.T + 2.0 * jnp.eye(N))
    return jnp.sum(inv * c)


def draw_inv(key):
    return normal(key, (N, N), (N, N))


def gauss_loglik(y, mu, l_raw):
    chol = jnp.tril(l_raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(l_raw)))
    z = jsl.solve_triangular(chol, y - mu, lower=True)
    return -0.5 * jnp.sum(z**2) - jnp.sum(jnp.diagonal(l_raw))


def draw_gauss(key):
    y, mu, raw = normal(key, (N,), (N,), (N, N))
    return y, mu, raw * 0.4


def logdet_kernel(x, log_ell, log_noise):
    d2 = jnp.sum((x[:, None, :] - x[None, :, :]) ** 2, -1)
    k = jnp.exp(-0.5 * d2 * jnp.exp(-2.0 * log_ell)) + jnp.exp(log_noise) * jnp.eye(M)
    return jnp.linalg.slogdet(k)[1]


def draw_kernel(key):
    x, e, n = normal(key, (M, D), (), ())
    return x, e * 0.2 + 0.3, n * 0.2 - 0.5


def cholesky_factor(a):
    return jnp.linalg.cholesky(a @ a.T + jnp.eye(N))


def draw_chol(key):
    return normal(key, (N, N))


def rbf_features(x, z, w, gamma):
    d2 = jnp.sum(x**2, 1)[:, None] - 2.0 * x @ z.T + jnp.sum(z**2, 1)
    return jnp.exp(-gamma * d2) @ w


def draw_rbf(key):
    x, z, w, g = normal(key, (M, D), (N, D), (N, 2), ())
    return x * 0.7, z * 0.7, w, 0.4 + 0.05 * g


def matrix_power_series(a, v):
    p1 = a @ v
    p2 = a @ p1
    p3 = a @ p2
    return v + p1 + p2 / 2.0 + p3 / 6.0


def draw_series(key):
    return normal(key, (N, N), (N,))


def right_ridge_solve(args, ct):
    a, b, lam = args
    s = a.T @ a + lam**2 * jnp.eye(N)
    x = jnp.linalg.solve(s, b)
    d_b = jnp.linalg.solve(s.T, ct)
    d_s = -d_b @ x.T
    d_a = a @ (d_s + d_s.T)
    d_lam = 2.0 * lam * jnp.trace(d_s)
    return d_a, d_b, d_lam


def right_spd_inverse_trace(args, ct):
    a, c = args
    inv = jnp.linalg.inv(a @ a.T + 2.0 * jnp.eye(N))
    d_inv = ct * c
    d_s = -inv.T @ d_inv @ inv.T
    d_a = (d_s + d_s.T) @ a
    return d_a, ct * inv


def right_gauss_loglik(args, ct):
    y, mu, l_raw = args
    diag = jnp.exp(jnp.diagonal(l_raw))
    chol = jnp.tril(l_raw, -1) + jnp.diag(diag)
    z = jsl.solve_triangular(chol, y - mu, lower=True)
    g_z = -ct * z
    g_r = jsl.solve_triangular(chol.T, g_z, lower=False)
    g_chol = -jnp.tril(jnp.outer(g_r, z))
    g_diag = jnp.diagonal(g_chol) * diag
    g_diag = g_diag - ct
    g_raw = jnp.tril(g_chol, -1) + jnp.diag(g_diag)
    return g_r, -g_r, g_raw


def right_logdet_kernel(args, ct):
    x, log_ell, log_noise = args
    diff = x[:, None, :] - x[None, :, :]
    d2 = jnp.sum(diff**2, -1)
    inv_l2 = jnp.exp(-2.0 * log_ell)
    rbf = jnp.exp(-0.5 * d2 * inv_l2)
    noise = jnp.exp(log_noise)
    kinv = jnp.linalg.inv(rbf + noise * jnp.eye(M))
    gk = ct * kinv
    g_noise = noise * jnp.trace(gk)
    g_d2 = -0.5 * inv_l2 * gk * rbf
    g_ell = jnp.sum(gk * rbf * d2) * inv_l2
    g_x = 4.0 * jnp.einsum("ij,ijd->id", g_d2, diff)
    return g_x, g_ell, g_noise


def right_cholesky_factor(args, ct):
    (a,) = args
    low = cholesky_factor(a)
    phi = jnp.tril(low.T @ ct)
    phi = phi - 0.5 * jnp.diag(jnp.diagonal(phi))
    left = jsl.solve_triangular(low, phi.T, lower=True, trans=1)
    s = jsl.solve_triangular(low, left.T, lower=True, trans=1)
    s = 0.5 * (s + s.T)
    return ((s + s.T) @ a,)


def right_rbf_features(args, ct):
    x, z, w, gamma = args
    d2 = ((x[:, None] - z[None]) ** 2).sum(-1)
    phi = jnp.exp(-gamma * d2)
    d_w = phi.T @ ct
    d_phi = ct @ w.T
    d_arg = d_phi * phi
    d_gamma = -jnp.sum(d_arg * d2)
    d_d2 = -gamma * d_arg
    d_x = 2.0 * (d_d2.sum(1)[:, None] * x - d_d2 @ z)
    d_z = 2.0 * (d_d2.sum(0)[:, None] * z - d_d2.T @ x)
    return d_x, d_z, d_w, d_gamma


def right_matrix_power_series(args, ct):
    a, v = args
    p1 = a @ v
    p2 = a @ p1
    g3 = ct / 6.0
    g2 = ct / 2.0 + a.T @ g3
    g1 = ct + a.T @ g2
    g_v = ct + a.T @ g1
    g_a = jnp.outer(g3, p2) + jnp.outer(g2, p1) + jnp.outer(g1, v)
    return g_a, g_v


SINGLE = [
    *wrong_rules(
        ridge_solve,
        right_ridge_solve,
        draw_ridge,
        """
ridge_solve_bwd_1
- d_a = a @ (d_s + d_s.T)
+ d_a = 2.0 * a @ d_s
transpose: d_s is not symmetric: the transposed part is missing
    """,
    ),
    *wrong_rules(
        spd_inverse_trace,
        right_spd_inverse_trace,
        draw_inv,
        """
spd_inverse_trace_bwd_1
- d_a = (d_s + d_s.T) @ a
+ d_a = d_s @ a
term: a enters twice, the second part is missing
    """,
    ),
    *wrong_rules(
        gauss_loglik,
        right_gauss_loglik,
        draw_gauss,
        """
gauss_loglik_bwd_1
- g_r = jsl.solve_triangular(chol.T, g_z, lower=False)
+ g_r = jsl.solve_triangular(chol, g_z, lower=True)
transpose: factor must be transposed in the backward solve

gauss_loglik_bwd_2
- g_diag = jnp.diagonal(g_chol) * diag
+ g_diag = jnp.diagonal(g_chol)
activation: slope of exp on the diagonal missing
    """,
    ),
    *wrong_rules(
        logdet_kernel,
        right_logdet_kernel,
        draw_kernel,
        """
logdet_kernel_bwd_2
- g_noise = noise * jnp.trace(gk)
+ g_noise = noise * jnp.sum(gk)
reduction: sum of all entries in place of the trace
    """,
    ),
    *wrong_rules(
        cholesky_factor,
        right_cholesky_factor,
        draw_chol,
        """
cholesky_factor_bwd_2
- phi = jnp.tril(low.T @ ct)
+ phi = jnp.tril(low @ ct)
transpose: factor must be transposed
    """,
    ),
    *wrong_rules(
        rbf_features,
        right_rbf_features,
        draw_rbf,
        """
rbf_features_bwd_2
- d_x = 2.0 * (d_d2.sum(1)[:, None] * x - d_d2 @ z)
+ d_x = 2.0 * (d_d2.sum(1)[:, None] * x + d_d2 @ z)
sign: sign of the cross term
    """,
    ),
    *wrong_rules(
        matrix_power_series,
        right_matrix_power_series,
        draw_series,
        """
matrix_power_series_bwd_1
- g2 = ct / 2.0 + a.T @ g3
+ g2 = ct / 2.0 + a @ g3
transpose: a must be transposed
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        gauss_loglik,
        right_gauss_loglik,
        draw_gauss,
        """
gauss_loglik_bwd_3
- g_chol = -jnp.tril(jnp.outer(g_r, z))
+ g_chol = -jnp.tril(jnp.outer(z, g_r))
- g_diag = jnp.diagonal(g_chol) * diag
-     g_diag = g_diag - ct
+ g_diag = jnp.diagonal(g_chol) * diag
term: the log determinant's gradient is missing
@ g_raw = jnp.tril(g_chol, -1) + jnp.diag(g_diag)
transpose: outer product the wrong way round
@ g_chol = -jnp.tril(jnp.outer(z, g_r))
    """,
    ),
    *wrong_rules(
        rbf_features,
        right_rbf_features,
        draw_rbf,
        """
rbf_features_bwd_3
- d_arg = d_phi * phi
+ d_arg = d_phi * jnp.exp(-d2)
- d_gamma = -jnp.sum(d_arg * d2)
+ d_gamma = -jnp.mean(d_arg * d2)
- d_z = 2.0 * (d_d2.sum(0)[:, None] * z - d_d2.T @ x)
+ d_z = 2.0 * (z - d_d2.T @ x)
reduction: mean in place of the sum
@ d_gamma = -jnp.mean(d_arg * d2)
factor: gamma missing in the recomputed kernel
@ d_arg = d_phi * jnp.exp(-d2)
factor: row sums missing before z
@ d_z = 2.0 * (z - d_d2.T @ x)
    """,
    ),
    *wrong_rules(
        matrix_power_series,
        right_matrix_power_series,
        draw_series,
        """
matrix_power_series_bwd_2
- g3 = ct / 6.0
+ g3 = ct / 3.0
- g1 = ct + a.T @ g2
+ g1 = a.T @ g2
term: first-order term's own gradient missing
@ g1 = a.T @ g2
constant: 1/6 is the coefficient of the cubic term
@ g3 = ct / 3.0
    """,
    ),
]
