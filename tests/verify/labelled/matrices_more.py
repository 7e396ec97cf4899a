"""Rules with matrices whose verdict is certain."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.labelled import group, normals

CASES = []


# ---- trace of exp(S), S = sym(sin x): by eigenvalues (smooth at equal eigenvalues)
def trexp(x):
    s = jnp.sin(x)
    return jnp.sum(jnp.exp(jnp.linalg.eigvalsh(0.5 * (s + s.T))))


def trexp_r1(args, ct):
    (x,) = args
    s = jnp.sin(x)
    e, V = jnp.linalg.eigh(0.5 * (s + s.T))
    return (ct * ((V * jnp.exp(e)) @ V.T) * jnp.cos(x),)


def trexp_r2(args, ct):
    (x,) = args
    s = jnp.sin(x)
    return (ct * jax.scipy.linalg.expm(0.5 * (s + s.T)) * jnp.cos(x),)


def trexp_w1(args, ct):
    (x,) = args
    return (ct * jnp.exp(0.5 * (jnp.sin(x) + jnp.sin(x).T)) * jnp.cos(x),)


def trexp_w2(args, ct):
    (x,) = args
    return (ct * jax.scipy.linalg.expm(jnp.sin(x)) * jnp.cos(x),)


def trexp_w3(args, ct):
    (x,) = args
    s = jnp.sin(x)
    e, V = jnp.linalg.eigh(0.5 * (s + s.T))
    return (ct * ((V.T * jnp.exp(e)) @ V) * jnp.cos(x),)


def trexp_w4(args, ct):
    (x,) = args
    g = trexp_r1(args, ct)[0]
    return (jnp.tril(g) * 2 - jnp.diag(jnp.diag(g)),)


CASES += group(
    "matrices",
    "trace_exp",
    trexp,
    normals((3, 3)),
    [trexp_r1, trexp_r2],
    [
        (trexp_w1, "elementwise exp"),
        (trexp_w2, "not symmetrised"),
        (trexp_w3, "V transposed"),
        (trexp_w4, "lower triangle doubled"),
    ],
)


# ---- inverse of 2 I + 0.3 sin M
def inverse(M):
    return jnp.linalg.inv(2 * jnp.eye(3, dtype=M.dtype) + 0.3 * jnp.sin(M))


def inverse_r1(args, ct):
    (M,) = args
    P = inverse(M)
    return (-P.T @ ct @ P.T * 0.3 * jnp.cos(M),)


def inverse_r2(args, ct):
    (M,) = args
    A = 2 * jnp.eye(3, dtype=M.dtype) + 0.3 * jnp.sin(M)
    X = jnp.linalg.solve(A.T, ct)
    return (-0.3 * jnp.cos(M) * jnp.linalg.solve(A, X.T).T,)


def inverse_w1(args, ct):
    (M,) = args
    P = inverse(M)
    return (-P @ ct @ P * 0.3 * jnp.cos(M),)


def inverse_w2(args, ct):
    (M,) = args
    P = inverse(M)
    return (P.T @ ct @ P.T * 0.3 * jnp.cos(M),)


def inverse_w3(args, ct):
    (M,) = args
    P = inverse(M)
    return (-P.T @ ct.T @ P.T * 0.3 * jnp.cos(M),)


def inverse_w4(args, ct):
    (M,) = args
    P = inverse(M)
    return (-P.T @ ct @ P.T * 0.3 * jnp.cos(M) * (1 + 0.01 * jnp.eye(3, dtype=M.dtype)),)


CASES += group(
    "matrices",
    "inverse",
    inverse,
    normals((3, 3)),
    [inverse_r1, inverse_r2],
    [
        (inverse_w1, "transposes forgotten"),
        (inverse_w2, "sign"),
        (inverse_w3, "cotangent transposed"),
        (inverse_w4, "diagonal one percent too large"),
    ],
)


# ---- pseudo-inverse of a tall matrix of full rank
def _tall(X):
    return jnp.eye(5, 3, dtype=X.dtype) + 0.2 * jnp.sin(X)


def pinv(X):
    A = _tall(X)
    return jnp.linalg.solve(A.T @ A, A.T)


def _pinv_rule(args, ct, second=True, proj=True, sign=-1):
    (X,) = args
    A = _tall(X)
    P = pinv(X)
    G = jnp.linalg.inv(A.T @ A)
    g = sign * P.T @ ct @ P.T
    if second:
        t = ct.T @ G
        g = g + (t - A @ (P @ t) if proj else t)
    return (g * 0.2 * jnp.cos(X),)


def pinv_stages(args, ct):
    (X,) = args
    A = _tall(X)
    N = A.T @ A
    P = jnp.linalg.solve(N, A.T)
    u = jnp.linalg.solve(N, ct)
    gN = -u @ P.T
    return ((u.T + A @ (gN + gN.T)) * 0.2 * jnp.cos(X),)


CASES += group(
    "matrices",
    "pinv_full_rank",
    pinv,
    normals((5, 3)),
    [_pinv_rule, pinv_stages],
    [
        (lambda a, c: _pinv_rule(a, c, second=False), "formula of the square inverse"),
        (lambda a, c: _pinv_rule(a, c, proj=False), "projection missing"),
        (lambda a, c: _pinv_rule(a, c, sign=1), "sign of the first term"),
    ],
)


# ---- triangular solve
def tri(X, b):
    L = jnp.tril(0.3 * jnp.sin(X), -1) + jnp.diag(1.5 + 0.5 * jnp.sin(jnp.diag(X)))
    return lax.linalg.triangular_solve(L, b, left_side=True, lower=True)


def _tri_rule(args, ct, variant="ok"):
    X, b = args
    L = jnp.tril(0.3 * jnp.sin(X), -1) + jnp.diag(1.5 + 0.5 * jnp.sin(jnp.diag(X)))
    y = lax.linalg.triangular_solve(L, b, left_side=True, lower=True)
    u = lax.linalg.triangular_solve(L, ct, left_side=True, lower=True, transpose_a=variant != "noT")
    gL = -u @ y.T
    d = jnp.diag(jnp.diag(gL) * 0.5 * jnp.cos(jnp.diag(X)))
    low = gL if variant == "full" else jnp.tril(gL, -1)
    if variant == "full":
        low = low - jnp.diag(jnp.diag(low))
    if variant == "nodiag":
        d = 0
    return low * 0.3 * jnp.cos(X) + d, u


def tri_forward_subst(args, ct):
    X, b = args
    L = jnp.tril(0.3 * jnp.sin(X), -1) + jnp.diag(1.5 + 0.5 * jnp.sin(jnp.diag(X)))
    y = []
    for i in range(3):
        y.append((b[i] - sum((L[i, j] * y[j] for j in range(i)), jnp.zeros_like(b[i]))) / L[i, i])
    u = [None] * 3
    for i in (2, 1, 0):
        u[i] = (ct[i] - sum((L[j, i] * u[j] for j in range(i + 1, 3)), jnp.zeros_like(b[i]))) / L[i, i]
    S = 0.3 * jnp.cos(X) * jnp.tril(jnp.ones((3, 3), X.dtype), -1) + jnp.diag(0.5 * jnp.cos(jnp.diag(X)))
    return -jnp.stack(u) @ jnp.stack(y).T * S, jnp.stack(u)


CASES += group(
    "matrices",
    "triangular_solve",
    tri,
    normals((3, 3), (3, 2)),
    [_tri_rule, tri_forward_subst],
    [
        (lambda a, c: _tri_rule(a, c, "noT"), "factor not transposed"),
        (lambda a, c: _tri_rule(a, c, "full"), "upper triangle not masked"),
        (lambda a, c: _tri_rule(a, c, "nodiag"), "diagonal missing"),
    ],
)
