"""Rules with mistakes in the derivatives of linalg."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from tests.verify.slips.changes import wrong_rules

DT = 0.2

GRAV = 9.81

QUERY = jnp.asarray([0.13, 0.77, 1.4, 2.2, 2.9, 3.6])


def normals(*shapes):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))

    return draw


def solve_quad(a, b):
    x = jnp.linalg.solve(a, b)
    return jnp.sum(x * x, axis=0), x


def draw_solve(key):
    k1, k2 = jax.random.split(key)
    return jax.random.normal(k1, (4, 4)) + 4 * jnp.eye(4), jax.random.normal(k2, (4, 2))


def right_solve_quad(args, ct):
    A, B = args
    c_sq, c_x = ct
    X = jnp.linalg.solve(A, B)
    X_bar = c_x + 2 * X * c_sq[None, :]
    B_bar = jnp.linalg.solve(A.T, X_bar)
    A_bar = -B_bar @ X.T
    return A_bar, B_bar


def gauss_logpdf(x, mu, c):
    L = jnp.linalg.cholesky(c @ c.T + jnp.eye(c.shape[0]))
    z = solve_triangular(L, (x - mu).T, lower=True)
    return -0.5 * jnp.sum(z**2, axis=0) - jnp.sum(jnp.log(jnp.diag(L)))


def right_gauss_logpdf(args, ct):
    x, mu, c = args
    S = c @ c.T + jnp.eye(c.shape[0])
    r = x - mu
    a = jnp.linalg.solve(S, r.T).T
    gr = -ct[:, None] * a
    gS = 0.5 * jnp.einsum("n,ni,nj->ij", ct, a, a) - 0.5 * ct.sum() * jnp.linalg.inv(S)
    gc = 2 * gS @ c
    return gr, -gr.sum(0), gc


def fft_filter(x, h):
    X = jnp.fft.fft(x)
    return jnp.abs(jnp.fft.ifft(X * h)) ** 2


def draw_filter(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (8,)), jax.lax.complex(jax.random.normal(b, (8,)), jax.random.normal(c, (8,)))


def right_fft_filter(args, ct):
    x, h = args
    n = x.shape[0]
    X = jnp.fft.fft(x)
    y = jnp.fft.ifft(X * h)
    gy = 2 * ct * jnp.conj(y)
    gY = jnp.conj(jnp.fft.fft(jnp.conj(gy))) / n
    gh = gY * X
    gx = jnp.fft.fft(gY * h).real
    return gx, gh


def phase_loss(z, w):
    u = z @ w
    return jnp.log1p(jnp.abs(u)), jnp.angle(u)


def draw_phase(key):
    a, b, c, d = jax.random.split(key, 4)
    cplx = lambda k1, k2, s: jax.lax.complex(jax.random.normal(k1, s), jax.random.normal(k2, s))
    return cplx(a, b, (5, 3)), cplx(c, d, (3, 2))


def right_phase(args, ct):
    z, w = args
    g_mag, g_ang = ct
    u = z @ w
    r = jnp.abs(u)
    d_mag = g_mag / (1 + r) * jnp.conj(u) / r
    d_ang = g_ang * (-1j) * jnp.conj(u) / r**2
    d_u = d_mag + d_ang
    return d_u @ w.T, z.T @ d_u


def mixture_nll(x, logits, mu, log_s):
    logp = -0.5 * ((x[:, None] - mu) / jnp.exp(log_s)) ** 2 - log_s
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits) + logp, axis=1)


def right_mixture(args, ct):
    x, logits, mu, log_s = args
    s = jnp.exp(log_s)
    u = (x[:, None] - mu) / s
    comp = jax.nn.log_softmax(logits) - 0.5 * u**2 - log_s
    resp = jax.nn.softmax(comp, axis=1)
    g = ct[:, None] * resp
    d_mu = -jnp.sum(g * u / s, axis=0)
    d_log_s = -jnp.sum(g * (u**2 - 1), axis=0)
    d_x = jnp.sum(g * u / s, axis=1)
    d_logits = ct.sum() * jax.nn.softmax(logits) - g.sum(axis=0)
    return d_x, d_logits, d_mu, d_log_s


def pendulum(q, p, length):
    for _ in range(4):
        p = p - 0.5 * DT * GRAV / length * jnp.sin(q)
        q = q + DT * p
        p = p - 0.5 * DT * GRAV / length * jnp.sin(q)
    return q, p


def draw_pendulum(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (3,)), jax.random.normal(b, (3,)), 1.0 + jax.random.uniform(c, (3,))


def right_pendulum(args, ct):
    q, p, length = args
    k = GRAV / length
    qs = [q]
    for _ in range(4):
        ph = p - 0.5 * DT * k * jnp.sin(q)
        q = q + DT * ph
        p = ph - 0.5 * DT * k * jnp.sin(q)
        qs.append(q)
    lq, lp = ct
    dk = jnp.zeros_like(k)
    for i in range(4, 0, -1):
        dk = dk - 0.5 * DT * lp * jnp.sin(qs[i])
        lq = lq - 0.5 * DT * k * jnp.cos(qs[i]) * lp
        lp = lp + DT * lq
        dk = dk - 0.5 * DT * lp * jnp.sin(qs[i - 1])
        lq = lq - 0.5 * DT * k * lp * jnp.cos(qs[i - 1])
    return lq, lp, -dk * GRAV / length**2


def kalman_update(m, P, y, H, R):
    S = H @ P @ H.T + R
    K = jnp.linalg.solve(S.T, (P @ H.T).T).T
    return m + K @ (y - H @ m)


def draw_kalman(key):
    ks = jax.random.split(key, 5)
    a, r = jax.random.normal(ks[1], (3, 3)), jax.random.normal(ks[4], (2, 2))
    return (
        jax.random.normal(ks[0], (3,)),
        a @ a.T + jnp.eye(3),
        jax.random.normal(ks[2], (2,)),
        jax.random.normal(ks[3], (2, 3)),
        r @ r.T + jnp.eye(2),
    )


def right_kalman(args, ct):
    m, P, y, H, R = args
    Sinv = jnp.linalg.inv(H @ P @ H.T + R)
    e = y - H @ m
    a = Sinv @ e
    b = Sinv.T @ (H @ P.T @ ct)
    d_S = -jnp.outer(b, a)
    d_e = b
    d_m = ct - H.T @ d_e
    d_P = jnp.outer(ct, H.T @ a) + H.T @ d_S @ H
    d_H = jnp.outer(a, P.T @ ct) - jnp.outer(d_e, m)
    d_H = d_H + d_S @ H @ P.T + d_S.T @ H @ P
    return d_m, d_P, d_e, d_H, d_S


def rbf_regress(x, c, w, log_ls):
    d2 = jnp.sum((x[:, None, :] - c[None, :, :]) ** 2, axis=-1)
    return jnp.exp(-0.5 * d2 * jnp.exp(-2 * log_ls)) @ w


def right_rbf(args, ct):
    x, c, w, log_ls = args
    diff = x[:, None, :] - c[None, :, :]
    d2 = (diff**2).sum(-1)
    inv2 = jnp.exp(-2 * log_ls)
    K = jnp.exp(-0.5 * d2 * inv2)
    gK = jnp.outer(ct, w)
    gd2 = -0.5 * inv2 * gK * K
    gdiff = 2 * gd2[:, :, None] * diff
    g_ls = jnp.sum(gK * K * d2) * inv2
    return gdiff.sum(axis=1), -gdiff.sum(axis=0), K.T @ ct, g_ls


def lininterp(knots, shift):
    pos = jnp.clip(QUERY + shift, 0.0, 3.999)
    i = jnp.floor(pos).astype(int)
    f = pos - i
    return (1 - f) * knots[i] + f * knots[i + 1]


def right_lininterp(args, ct):
    knots, shift = args
    raw = QUERY + shift
    pos = jnp.clip(raw, 0.0, 3.999)
    i = jnp.floor(pos).astype(int)
    f = pos - i
    g_knots = jnp.zeros_like(knots).at[i].add((1 - f) * ct)
    g_knots = g_knots.at[i + 1].add(f * ct)
    inside = (raw > 0.0) & (raw < 3.999)
    g_pos = jnp.where(inside, ct * (knots[i + 1] - knots[i]), 0.0)
    return g_knots, g_pos.sum()


def draw_interp(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (5,)), 0.3 + 0.05 * jax.random.normal(b, ())


SINGLE = [
    *wrong_rules(
        solve_quad,
        right_solve_quad,
        draw_solve,
        """
solve_quad_a
- B_bar = jnp.linalg.solve(A.T, X_bar)
+ B_bar = jnp.linalg.solve(A, X_bar)
transpose: solved with A in place of its transpose

solve_quad_c
- A_bar = -B_bar @ X.T
+ A_bar = -B_bar @ B.T
operand: right-hand side B where the solution X must stand
    """,
    ),
    *wrong_rules(
        gauss_logpdf,
        right_gauss_logpdf,
        normals((5, 3), (3,), (3, 3)),
        """
gauss_logpdf_b
- gc = 2 * gS @ c
+ gc = gS @ c
constant: 2 of the product c c^T is missing

gauss_logpdf_c
- gS = 0.5 * jnp.einsum("n,ni,nj->ij", ct, a, a) - 0.5 * ct.sum() * jnp.linalg.inv(S)
+ gS = 0.5 * jnp.einsum("n,ni,nj->ij", ct, a, a) - 0.5 * ct.mean() * jnp.linalg.inv(S)
reduction: mean in place of the sum of the cotangents
    """,
    ),
    *wrong_rules(
        fft_filter,
        right_fft_filter,
        draw_filter,
        """
fft_filter_a
- gy = 2 * ct * jnp.conj(y)
+ gy = 2 * ct * y
conjugate: conjugate of y is missing

fft_filter_b
- gY = jnp.conj(jnp.fft.fft(jnp.conj(gy))) / n
+ gY = jnp.conj(jnp.fft.fft(jnp.conj(gy)))
factor: 1 / n of the inverse transform missing

fft_filter_c
- gh = gY * X
+ gh = gY * jnp.conj(X)
conjugate: surplus conjugate of X (the cotangents here are not conjugated)
    """,
    ),
    *wrong_rules(
        phase_loss,
        right_phase,
        draw_phase,
        """
phase_a
- d_ang = g_ang * (-1j) * jnp.conj(u) / r**2
+ d_ang = g_ang * (-1j) * u / r**2
conjugate: angle's derivative without the conjugate
    """,
    ),
    *wrong_rules(
        mixture_nll,
        right_mixture,
        normals((6,), (3,), (3,), (3,)),
        """
mixture_a
- d_log_s = -jnp.sum(g * (u**2 - 1), axis=0)
+ d_log_s = -jnp.sum(g * u**2, axis=0)
term: the -log s normaliser of the density is forgotten
    """,
    ),
    *wrong_rules(
        pendulum,
        right_pendulum,
        draw_pendulum,
        """
pendulum_a
- lq = lq - 0.5 * DT * k * lp * jnp.cos(qs[i - 1])
+ lq = lq - 0.5 * DT * k * lp * jnp.cos(qs[i])
index: position after the step used for the first half kick
    """,
    ),
    *wrong_rules(
        kalman_update,
        right_kalman,
        draw_kalman,
        """
kalman_a
- d_H = d_H + d_S @ H @ P.T + d_S.T @ H @ P
+ d_H = d_H + d_S @ H @ P.T
term: second place of H in H P H^T is left out
@ d_H = d_H + d_S @ H @ P.T
@ d_H = jnp.outer(a, P.T @ ct) - jnp.outer(d_e, m)

kalman_b
- d_m = ct - H.T @ d_e
+ d_m = ct
term: innovation's dependence on the mean is dropped
    """,
    ),
    *wrong_rules(
        rbf_regress,
        right_rbf,
        normals((5, 2), (4, 2), (4,), ()),
        """
rbf_b
- gd2 = -0.5 * inv2 * gK * K
+ gd2 = -0.5 * inv2 * gK
factor: the kernel itself is missing in the derivative of exp
    """,
    ),
    *wrong_rules(
        lininterp,
        right_lininterp,
        draw_interp,
        """
lininterp_a
- g_knots = g_knots.at[i + 1].add(f * ct)
+ g_knots = g_knots.at[i].add(f * ct)
index: right-hand neighbour's share goes to the left knot
    """,
    ),
]
