"""Rules with mistakes in the derivatives of linalg."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from tests.verify.slips.changes import wrong_rules


def spd(B):
    return B @ B.T + 2.0 * jnp.eye(B.shape[0])


def solve(A, B):
    return jnp.linalg.solve(A, B)


def right_solve_rev(args, Xbar):
    A, B = args
    X = jnp.linalg.solve(A, B)
    Bbar = jnp.linalg.solve(A.T, Xbar)
    Abar = -Bbar @ X.T
    return Abar, Bbar


def gauss_quad(M, y):
    S = spd(M)
    L = jnp.linalg.cholesky(S)
    z = jsl.solve_triangular(L, y, lower=True)
    return z @ z + 2 * jnp.sum(jnp.log(jnp.diag(L)))


def right_gauss_quad_rev(args, ct):
    M, y = args
    S = spd(M)
    Si = jnp.linalg.inv(S)
    a = Si @ y
    Sbar = ct * (Si - jnp.outer(a, a))
    Mbar = (Sbar + Sbar.T) @ M
    ybar = 2 * ct * a
    return Mbar, ybar


def tri(L, b):
    return jsl.solve_triangular(L, b, lower=True)


def right_tri_rev(args, xbar):
    L, b = args
    x = tri(L, b)
    bbar = jsl.solve_triangular(L, xbar, lower=True, trans=1)
    Lbar = -jnp.outer(bbar, x)
    Lbar = jnp.tril(Lbar)
    return Lbar, bbar


def expv(A, v):
    y = v
    for k in (4, 3, 2, 1):
        y = v + A @ y / k
    return y


def right_expv_rev(args, ybar):
    A, v = args
    ys = [v]
    for k in (4, 3, 2, 1):
        ys.append(v + A @ ys[-1] / k)
    Abar, vbar = jnp.zeros_like(A), jnp.zeros_like(v)
    for k, y in zip((1, 2, 3, 4), ys[-2::-1]):
        vbar = vbar + ybar
        Abar = Abar + jnp.outer(ybar, y) / k
        ybar = A.T @ ybar / k
    return Abar, vbar + ybar


def bilinear_trace(A, B, C):
    return jnp.einsum("nij,jk,nkl->nil", A, B, C)


def right_bilinear_trace_rev(args, G):
    A, B, C = args
    Abar = jnp.einsum("nil,jk,nkl->nij", G, B, C)
    Bbar = jnp.einsum("nij,nil,nkl->jk", A, G, C)
    Cbar = jnp.einsum("nij,jk,nil->nkl", A, B, G)
    return Abar, Bbar, Cbar


def draw_solve(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 4)) + 4 * jnp.eye(4), jax.random.normal(b, (4, 2))


def draw_quad(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 4)), jax.random.normal(b, (4,))


def draw_tri(key):
    A, y = draw_quad(key)
    return A * 0.4 + 2 * jnp.eye(4), y


def draw_abc(key):
    return tuple(jax.random.normal(k, s) for k, s in zip(jax.random.split(key, 3), ((2, 3, 3), (3, 3), (2, 3, 2))))


SINGLE = [
    *wrong_rules(
        solve,
        right_solve_rev,
        draw_solve,
        """
solve_rev
- Abar = -Bbar @ X.T
+ Abar = -Bbar @ B.T
operand: outer product with the solution X, not the right-hand side B

solve_rev_2
- Bbar = jnp.linalg.solve(A.T, Xbar)
+ Bbar = jnp.linalg.solve(A, Xbar)
transpose: adjoint solve must use A transposed
    """,
    ),
    *wrong_rules(
        gauss_quad,
        right_gauss_quad_rev,
        draw_quad,
        """
gauss_quad_rev
- Sbar = ct * (Si - jnp.outer(a, a))
+ Sbar = ct * (Si + jnp.outer(a, a))
sign: derivative of the quadratic form in S is -a a^T
    """,
    ),
    *wrong_rules(
        tri,
        right_tri_rev,
        draw_tri,
        """
tri_rev
- Lbar = jnp.tril(Lbar)
+ Lbar = jnp.triu(Lbar)
mask: only the lower triangle of L is read
    """,
    ),
    *wrong_rules(
        expv,
        right_expv_rev,
        draw_quad,
        """
expv_rev
- return Abar, vbar + ybar
+ return Abar, vbar
carry: the innermost v starts the recursion as well, its gradient left over
    """,
    ),
    *wrong_rules(
        bilinear_trace,
        right_bilinear_trace_rev,
        draw_abc,
        """
bilinear_trace_rev
- Cbar = jnp.einsum("nij,jk,nil->nkl", A, B, G)
+ Cbar = jnp.einsum("nij,kj,nil->nkl", A, B, G)
transpose: letters of B turned round in the gradient of C
    """,
    ),
]
