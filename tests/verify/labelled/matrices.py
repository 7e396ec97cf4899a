"""Rules with matrices whose verdict is certain."""

import jax.numpy as jnp
from jax import lax

from tests.verify.labelled import group, normals

CASES = []


# ---- linear solve, A = 0.3 sin(M) + 2 I
def solve(M, b):
    A = 0.3 * jnp.sin(M) + 2 * jnp.eye(3, dtype=M.dtype)
    return jnp.linalg.solve(A, b)


def _mat(M):
    return 0.3 * jnp.sin(M) + 2 * jnp.eye(3, dtype=M.dtype)


def solve_r1(args, ct):
    M, b = args
    A = _mat(M)
    x = jnp.linalg.solve(A, b)
    lam = jnp.linalg.solve(A.T, ct)
    return -0.3 * jnp.cos(M) * (lam @ x.T), lam


def solve_r2(args, ct):
    M, b = args
    Ai = jnp.linalg.inv(_mat(M))
    gA = -jnp.einsum("ji,jk,lk->il", Ai, ct, Ai @ b)
    return gA * 0.3 * jnp.cos(M), Ai.T @ ct


def solve_w1(args, ct):
    M, b = args
    A = _mat(M)
    x = jnp.linalg.solve(A, b)
    lam = jnp.linalg.solve(A, ct)
    return -0.3 * jnp.cos(M) * (lam @ x.T), lam


def solve_w2(args, ct):
    M, b = args
    A = _mat(M)
    x = jnp.linalg.solve(A, b)
    lam = jnp.linalg.solve(A.T, ct)
    return 0.3 * jnp.cos(M) * (lam @ x.T), lam


def solve_w3(args, ct):
    M, b = args
    A = _mat(M)
    x = jnp.linalg.solve(A, b)
    lam = jnp.linalg.solve(A.T, ct)
    return -0.3 * jnp.cos(M) * (x @ lam.T), lam


def solve_w4(args, ct):
    M, b = args
    jnp.linalg.solve(_mat(M), b)
    lam = jnp.linalg.solve(_mat(M).T, ct)
    return -0.3 * jnp.cos(M) * (lam @ b.T), lam


CASES += group(
    "matrices",
    "solve",
    solve,
    normals((3, 3), (3, 2)),
    [solve_r1, solve_r2],
    [
        (solve_w1, "A not transposed in the adjoint solve"),
        (solve_w2, "sign of the matrix gradient"),
        (solve_w3, "outer product transposed"),
        (solve_w4, "b in place of the solution"),
    ],
)


# ---- log det (I + s s^T), s = sin x
def logdet(x):
    s = jnp.sin(x)
    return jnp.linalg.slogdet(jnp.eye(3, dtype=x.dtype) + s @ s.T)[1]


def logdet_r1(args, ct):
    (x,) = args
    s = jnp.sin(x)
    return (2 * ct * jnp.linalg.solve(jnp.eye(3, dtype=x.dtype) + s @ s.T, s) * jnp.cos(x),)


def logdet_r2(args, ct):
    (x,) = args
    s = jnp.sin(x)
    L = jnp.linalg.cholesky(jnp.eye(3, dtype=x.dtype) + s @ s.T)
    y = lax.linalg.triangular_solve(L, s, left_side=True, lower=True)
    z = lax.linalg.triangular_solve(L, y, left_side=True, lower=True, transpose_a=True)
    return (ct * 2 * z * jnp.cos(x),)


def logdet_w1(args, ct):
    (x,) = args
    s = jnp.sin(x)
    return (ct * jnp.linalg.solve(jnp.eye(3, dtype=x.dtype) + s @ s.T, s) * jnp.cos(x),)


def logdet_w2(args, ct):
    (x,) = args
    s = jnp.sin(x)
    return (2 * ct * jnp.linalg.solve(jnp.eye(3, dtype=x.dtype) + s @ s.T, s),)


def logdet_w3(args, ct):
    (x,) = args
    s = jnp.sin(x)
    S = jnp.eye(3, dtype=x.dtype) + s @ s.T
    return (2 * ct * jnp.linalg.det(S) * jnp.linalg.solve(S, s) * jnp.cos(x),)


def logdet_w4(args, ct):
    (x,) = args
    s = jnp.sin(x)
    S = 1.01 * jnp.eye(3, dtype=x.dtype) + s @ s.T
    return (2 * ct * jnp.linalg.solve(S, s) * jnp.cos(x),)


CASES += group(
    "matrices",
    "logdet",
    logdet,
    normals((3, 4)),
    [logdet_r1, logdet_r2],
    [
        (logdet_w1, "factor 2 forgotten"),
        (logdet_w2, "derivative of sin forgotten"),
        (logdet_w3, "gradient of det, not of its logarithm"),
        (logdet_w4, "jitter in the rule only"),
    ],
)


# ---- Cholesky factor of I + s s^T
def chol(x):
    s = jnp.sin(x)
    return jnp.linalg.cholesky(jnp.eye(3, dtype=x.dtype) + s @ s.T)


def _chol_rule(args, ct, half=True, sym=True, low=True):
    (x,) = args
    s = jnp.sin(x)
    L = jnp.linalg.cholesky(jnp.eye(3, dtype=x.dtype) + s @ s.T)
    P = L.T @ (jnp.tril(ct) if low else ct)
    P = jnp.tril(P) - (0.5 * jnp.diag(jnp.diag(P)) if half else 0)
    X = lax.linalg.triangular_solve(L, P, left_side=True, lower=True, transpose_a=True)
    S = lax.linalg.triangular_solve(L, X, left_side=False, lower=True)
    return ((S + S.T) @ s * jnp.cos(x) if sym else 2 * S @ s * jnp.cos(x),)


def chol_loop(args, ct):
    # scalar reverse sweep of the algorithm (Smith 1995)
    (x,) = args
    s = jnp.sin(x)
    L = jnp.linalg.cholesky(jnp.eye(3, dtype=x.dtype) + s @ s.T)
    F = jnp.tril(ct)
    for k in range(2, -1, -1):
        for j in range(k + 1, 3):
            for i in range(j, 3):
                f = F[i, j]
                F = F.at[i, k].add(-f * L[j, k])
                F = F.at[j, k].add(-f * L[i, k])
        for j in range(k + 1, 3):
            F = F.at[j, k].set(F[j, k] / L[k, k])
            F = F.at[k, k].add(-L[j, k] * F[j, k])
        F = F.at[k, k].set(0.5 * F[k, k] / L[k, k])
    return ((F + F.T) @ s * jnp.cos(x),)


CASES += group(
    "matrices",
    "cholesky",
    chol,
    normals((3, 3)),
    [_chol_rule, chol_loop],
    [
        (lambda a, c: _chol_rule(a, c, half=False), "diagonal of Phi not halved"),
        (lambda a, c: _chol_rule(a, c, sym=False), "not symmetrised"),
        (lambda a, c: _chol_rule(a, 1.001 * c), "factor 1.001"),
    ],
)
