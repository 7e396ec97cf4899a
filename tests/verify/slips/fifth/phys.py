"""Rules with mistakes in the derivatives of phys."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from tests.verify.slips.changes import wrong_rules

RS = np.random.RandomState(21)

XS = jnp.asarray(np.sort(RS.rand(5) * 3), jnp.float32)

D2 = (XS[:, None] - XS[None, :]) ** 2

OBS = jnp.asarray(RS.randn(5), jnp.float32)

H = 0.1

TQ = jnp.asarray([0.2, 0.9, 1.3, 1.8, 2.6])


def normals(*shapes, s=1.0):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(s * jax.random.normal(k, sh) for k, sh in zip(keys, shapes))

    return draw


def cnormals(*shapes):
    def draw(key):
        keys = jax.random.split(key, 2 * len(shapes))
        return tuple(
            jax.lax.complex(jax.random.normal(keys[2 * i], s), jax.random.normal(keys[2 * i + 1], s))
            for i, s in enumerate(shapes)
        )

    return draw


def gp_nll(y, log_amp, log_ls, log_noise):
    K = jnp.exp(2 * log_amp - 0.5 * D2 * jnp.exp(-2 * log_ls)) + jnp.exp(2 * log_noise) * jnp.eye(5)
    L = jnp.linalg.cholesky(K)
    z = solve_triangular(L, y, lower=True)
    return 0.5 * z @ z + jnp.sum(jnp.log(jnp.diag(L)))


def draw_gp(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (5,)),
        0.2 * jax.random.normal(b, ()),
        0.2 * jax.random.normal(c, ()),
        -0.7 + 0.1 * jax.random.normal(d, ()),
    )


def right_gp(args, ct):
    y, log_amp, log_ls, log_noise = args
    Kf = jnp.exp(2 * log_amp - 0.5 * D2 * jnp.exp(-2 * log_ls))
    noise = jnp.exp(2 * log_noise)
    Kinv = jnp.linalg.inv(Kf + noise * jnp.eye(y.shape[0]))
    alpha = Kinv @ y
    dK = 0.5 * ct * (Kinv - jnp.outer(alpha, alpha))
    d_amp = 2 * jnp.sum(dK * Kf)
    d_ls = jnp.sum(dK * Kf * D2) * jnp.exp(-2 * log_ls)
    d_noise = 2 * noise * jnp.trace(dK)
    return ct * alpha, d_amp, d_ls, d_noise


def gauss_kl(mu, A, m2):
    S = A @ A.T + jnp.eye(3)
    P = m2 @ m2.T + 2 * jnp.eye(3)
    Pi = jnp.linalg.inv(P)
    return 0.5 * (jnp.trace(Pi @ S) + mu @ Pi @ mu - 3 + jnp.linalg.slogdet(P)[1] - jnp.linalg.slogdet(S)[1])


def right_gauss_kl(args, ct):
    mu, A, B = args
    S = A @ A.T + jnp.eye(3)
    P = B @ B.T + 2 * jnp.eye(3)
    Pi, Si = jnp.linalg.inv(P), jnp.linalg.inv(S)
    g_mu = ct * Pi @ mu
    g_S = 0.5 * ct * (Pi - Si)
    g_P = 0.5 * ct * (Pi - Pi @ (S + jnp.outer(mu, mu)) @ Pi)
    return g_mu, 2 * g_S @ A, 2 * g_P @ B


def whiten(l_raw, x):
    L = jnp.tril(l_raw) + 3 * jnp.eye(4)
    return solve_triangular(L, x, lower=True)


def right_whiten(args, ct):
    l_raw, x = args
    L = jnp.tril(l_raw) + 3 * jnp.eye(4)
    z = solve_triangular(L, x, lower=True)
    x_bar = solve_triangular(L, ct, lower=True, trans=1)
    L_bar = -x_bar @ z.T
    return jnp.tril(L_bar), x_bar


def unitary_rnn(xs, w, v):
    h = jnp.zeros(w.shape[0], w.dtype)
    for x in xs:
        h = w @ h + v @ x
        h = h / jnp.sqrt(1 + jnp.abs(h) ** 2)
    return jnp.abs(h) ** 2


def right_unitary(args, ct):
    xs, w, v = args
    h, tape = jnp.zeros(w.shape[0], w.dtype), []
    for x in xs:
        a = w @ h + v @ x
        tape.append((x, h, a))
        h = a / jnp.sqrt(1 + jnp.abs(a) ** 2)
    gh = 2 * ct * jnp.conj(h)
    gw, gv, gxs = jnp.zeros_like(w), jnp.zeros_like(v), []
    for x, hp, a in reversed(tape):
        s = jnp.sqrt(1 + jnp.abs(a) ** 2)
        ga = gh / s - jnp.real(gh * a) * jnp.conj(a) / s**3
        gw = gw + jnp.outer(ga, hp)
        gv = gv + jnp.outer(ga, x)
        gxs.insert(0, v.T @ ga)
        gh = w.T @ ga
    return jnp.stack(gxs), gw, gv


def spectral_loss(x, win):
    X = jnp.fft.rfft(x * win)
    return jnp.log(1.0 + X.real**2 + X.imag**2)


def right_spectral(args, ct):
    x, win = args
    n = x.shape[0]
    X = jnp.fft.rfft(x * win)
    gpow = ct / (1.0 + jnp.abs(X) ** 2)
    G = 2 * gpow * X
    k, t = jnp.arange(X.shape[0]), jnp.arange(n)
    basis = jnp.exp(2j * jnp.pi * jnp.outer(t, k) / n)
    gs = jnp.real(basis @ G)
    return gs * win, gs * x


def rk4_lv(z, theta):
    def f(u):
        return jnp.stack([theta[0] * u[0] - theta[1] * u[0] * u[1], theta[2] * u[0] * u[1] - theta[3] * u[1]])

    for _ in range(3):
        k1 = f(z)
        k2 = f(z + 0.5 * H * k1)
        k3 = f(z + 0.5 * H * k2)
        k4 = f(z + H * k3)
        z = z + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


def right_rk4(args, ct):
    z, th = args

    def f(u):
        return jnp.stack([th[0] * u[0] - th[1] * u[0] * u[1], th[2] * u[0] * u[1] - th[3] * u[1]])

    def pull(u, g):
        gu = jnp.stack(
            [g[0] * (th[0] - th[1] * u[1]) + g[1] * th[2] * u[1], -g[0] * th[1] * u[0] + g[1] * (th[2] * u[0] - th[3])]
        )
        gth = jnp.stack([g[0] * u[0], -g[0] * u[0] * u[1], g[1] * u[0] * u[1], -g[1] * u[1]])
        return gu, gth

    zs = [z]
    for _ in range(3):
        k1 = f(zs[-1])
        k2 = f(zs[-1] + 0.5 * H * k1)
        k3 = f(zs[-1] + 0.5 * H * k2)
        zs.append(zs[-1] + H / 6 * (k1 + 2 * k2 + 2 * k3 + f(zs[-1] + H * k3)))
    lam, gth = ct, jnp.zeros(4)
    for z in zs[-2::-1]:
        k1 = f(z)
        k2 = f(z + H / 2 * k1)
        k3 = f(z + H / 2 * k2)
        g4, t4 = pull(z + H * k3, H / 6 * lam)
        g3, t3 = pull(z + H / 2 * k2, H / 3 * lam + H * g4)
        g2, t2 = pull(z + H / 2 * k1, H / 3 * lam + H / 2 * g3)
        g1, t1 = pull(z, H / 6 * lam + H / 2 * g2)
        gth = gth + t1 + t2 + t3 + t4
        lam = lam + g1 + g2 + g3 + g4
    return lam, gth


def draw_lv(key):
    a, b = jax.random.split(key)
    return 1.0 + jax.random.uniform(a, (2,)), 0.6 + jax.random.uniform(b, (4,))


def hermite(p, m):
    i = jnp.floor(TQ).astype(int)
    t = TQ - i
    h00, h10 = 2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t
    h01, h11 = -2 * t**3 + 3 * t**2, t**3 - t**2
    y = h00 * p[i] + h10 * m[i] + h01 * p[i + 1] + h11 * m[i + 1]
    return y**2


def right_hermite(args, ct):
    p, m = args
    i = jnp.floor(TQ).astype(int)
    t = TQ - i
    h00, h10 = (1 + 2 * t) * (1 - t) ** 2, t * (1 - t) ** 2
    h01, h11 = t**2 * (3 - 2 * t), t**2 * (t - 1)
    y = h00 * p[i] + h10 * m[i] + h01 * p[i + 1] + h11 * m[i + 1]
    g = 2 * y * ct
    gp = jnp.zeros_like(p).at[i].add(g * h00).at[i + 1].add(g * h01)
    gm = jnp.zeros_like(m).at[i].add(g * h10).at[i + 1].add(g * h11)
    return gp, gm


def kalman_scalar(a, log_q, log_r, y):
    q, r = jnp.exp(log_q), jnp.exp(log_r)
    m, P, nll = 0.0, 1.0, 0.0
    for t in range(5):
        m, P = a * m, a * a * P + q
        S = P + r
        nll = nll + 0.5 * (jnp.log(S) + (y[t] - m) ** 2 / S)
        K = P / S
        m, P = m + K * (y[t] - m), (1 - K) * P
    return nll


def right_kalman_scalar(args, ct):
    a, log_q, log_r, y = args
    q, r = jnp.exp(log_q), jnp.exp(log_r)
    m, P, tape = 0.0, 1.0, []
    for t in range(5):
        mp, Pp = a * m, a * a * P + q
        tape.append((m, P, mp, Pp))
        K = Pp / (Pp + r)
        m, P = mp + K * (y[t] - mp), (1 - K) * Pp
    da = dq = dr = dm = dP = 0.0
    dy = jnp.zeros_like(y)
    for t in range(4, -1, -1):
        m0, P0, mp, Pp = tape[t]
        S, e = Pp + r, y[t] - mp
        K = Pp / S
        dK = dm * e - dP * Pp
        de = dm * K + ct * e / S
        dS = 0.5 * ct * (1 / S - e**2 / S**2) - dK * Pp / S**2
        dPp = dS + dK / S + dP * (1 - K)
        dmp = dm - de
        dy, dr, dq = dy.at[t].set(de), dr + dS, dq + dPp
        da = da + dmp * m0 + 2 * a * P0 * dPp
        dm, dP = a * dmp, a * a * dPp
    return da, dq * q, dr * r, dy


def draw_ks(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        0.8 + 0.1 * jax.random.normal(a, ()),
        -0.5 + 0.2 * jax.random.normal(b, ()),
        -0.3 + 0.2 * jax.random.normal(c, ()),
        1.5 * jax.random.normal(d, (5,)),
    )


def heat_implicit(u, kappa, src):
    n = u.shape[0]
    lap = jnp.diag(2 * kappa) - jnp.diag(kappa[:-1], 1) - jnp.diag(kappa[1:], -1)
    A = jnp.eye(n) + H * lap
    for _ in range(2):
        u = jnp.linalg.solve(A, u + H * src)
    return u


def right_heat(args, ct):
    u, kappa, src = args
    n = u.shape[0]
    A = jnp.eye(n) + H * (jnp.diag(2 * kappa) - jnp.diag(kappa[:-1], 1) - jnp.diag(kappa[1:], -1))
    u1 = jnp.linalg.solve(A, u + H * src)
    u2 = jnp.linalg.solve(A, u1 + H * src)
    l2 = jnp.linalg.solve(A.T, ct)
    l1 = jnp.linalg.solve(A.T, l2)
    gA = -jnp.outer(l2, u2) - jnp.outer(l1, u1)
    gk = 2 * jnp.diag(gA)
    gk = gk.at[:-1].add(-jnp.diag(gA, 1))
    gk = gk.at[1:].add(-jnp.diag(gA, -1))
    return l1, H * gk, H * (l1 + l2)


def draw_heat(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5,)), 2.0 + 3 * jax.random.uniform(b, (5,)), 4 * jax.random.normal(c, (5,))


SEVERAL = [
    *wrong_rules(
        gp_nll,
        right_gp,
        draw_gp,
        """
gp_a
- d_ls = jnp.sum(dK * Kf * D2) * jnp.exp(-2 * log_ls)
+ d_ls = jnp.sum(dK * D2) * jnp.exp(-2 * log_ls)
- d_noise = 2 * noise * jnp.trace(dK)
+ d_noise = 2 * noise * jnp.sum(dK)
factor: kernel missing in the derivative of its exponent
@ d_ls = jnp.sum(dK * D2) * jnp.exp(-2 * log_ls)
reduction: all entries summed in place of the diagonal
@ d_noise = 2 * noise * jnp.sum(dK)
    """,
    ),
    *wrong_rules(
        gauss_kl,
        right_gauss_kl,
        normals((3,), (3, 3), (3, 3)),
        """
gauss_kl_b
- g_mu = ct * Pi @ mu
+ g_mu = 0.5 * ct * Pi @ mu
- g_P = 0.5 * ct * (Pi - Pi @ (S + jnp.outer(mu, mu)) @ Pi)
+ g_P = -0.5 * ct * Pi @ (S + jnp.outer(mu, mu)) @ Pi
constant: 0.5 kept although the quadratic form gives a 2
@ g_mu = 0.5 * ct * Pi @ mu
term: log-determinant of P is missing
@ g_P = -0.5 * ct * Pi @ (S + jnp.outer(mu, mu)) @ Pi
    """,
    ),
    *wrong_rules(
        whiten,
        right_whiten,
        normals((4, 4), (4, 3)),
        """
whiten_a
- x_bar = solve_triangular(L, ct, lower=True, trans=1)
+ x_bar = solve_triangular(L, ct, lower=True)
- return jnp.tril(L_bar), x_bar
+ return jnp.triu(L_bar), x_bar
transpose: solved with L and not with its transpose
@ x_bar = solve_triangular(L, ct, lower=True)
mask: upper triangle kept instead of the lower
@ return jnp.triu(L_bar), x_bar
    """,
    ),
    *wrong_rules(
        unitary_rnn,
        right_unitary,
        cnormals((3, 2), (3, 3), (3, 2)),
        """
unitary_a
- gh = 2 * ct * jnp.conj(h)
+ gh = 2 * ct * h
- gw = gw + jnp.outer(ga, hp)
+ gw = jnp.outer(ga, hp)
conjugate: conjugate of the last state missing
@ gh = 2 * ct * h
carry: only the last step's outer product kept
@ gw = jnp.outer(ga, hp)

unitary_b
- ga = gh / s - jnp.real(gh * a) * jnp.conj(a) / s**3
+ ga = gh / s - jnp.real(gh * a) * a / s**3
- gh = w.T @ ga
+ gh = jnp.conj(w).T @ ga
conjugate: a instead of its conjugate in the radial part
@ ga = gh / s - jnp.real(gh * a) * a / s**3
conjugate: surplus conjugate of the weights
@ gh = jnp.conj(w).T @ ga
    """,
    ),
    *wrong_rules(
        spectral_loss,
        right_spectral,
        normals((8,), (8,)),
        """
spectral_a
- G = 2 * gpow * X
+ G = 2 * gpow * jnp.conj(X)
- return gs * win, gs * x
+ return gs * x, gs * x
conjugate: conjugate taken although the adjoint sum below has e^{+i}
@ G = 2 * gpow * jnp.conj(X)
@ basis = jnp.exp(2j * jnp.pi * jnp.outer(t, k) / n)
operand: signal's gradient times the signal
@ return gs * x, gs * x
    """,
    ),
    *wrong_rules(
        rk4_lv,
        right_rk4,
        draw_lv,
        """
rk4_a
- g3, t3 = pull(z + H / 2 * k2, H / 3 * lam + H * g4)
+ g3, t3 = pull(z + H / 2 * k2, H / 6 * lam + H * g4)
- gth = gth + t1 + t2 + t3 + t4
+ gth = gth + t1 + t3 + t4
constant: weight 1/6 for 1/3 of the middle stage
@ g3, t3 = pull(z + H / 2 * k2, H / 6 * lam + H * g4)
term: second stage's share of the parameters is missing
@ gth = gth + t1 + t3 + t4

rk4_b
- for z in zs[-2::-1]:
+ for z in zs[:0:-1]:
- lam = lam + g1 + g2 + g3 + g4
+ lam = g1 + g2 + g3 + g4
index: states after the steps instead of those before
@ for z in zs[:0:-1]:
carry: adjoint itself not handed on, only the stages' parts
@ lam = g1 + g2 + g3 + g4
    """,
    ),
    *wrong_rules(
        hermite,
        right_hermite,
        normals((4,), (4,)),
        """
hermite_b
- h01, h11 = t**2 * (3 - 2 * t), t**2 * (t - 1)
+ h01, h11 = t**2 * (3 - 2 * t), t**2 * (1 - t)
- gp = jnp.zeros_like(p).at[i].add(g * h00).at[i + 1].add(g * h01)
+ gp = jnp.zeros_like(p).at[i].set(g * h00).at[i + 1].add(g * h01)
sign: 1 - t for t - 1
@ h01, h11 = t**2 * (3 - 2 * t), t**2 * (1 - t)
reduction: shares of several queries at one point overwritten
@ gp = jnp.zeros_like(p).at[i].set(g * h00).at[i + 1].add(g * h01)
    """,
    ),
    *wrong_rules(
        kalman_scalar,
        right_kalman_scalar,
        draw_ks,
        """
kalman_scalar_a
- dK = dm * e - dP * Pp
+ dK = dm * e + dP * Pp
- dPp = dS + dK / S + dP * (1 - K)
+ dPp = dS + dK / S
sign: (1 - K) P differentiated without the minus
@ dK = dm * e + dP * Pp
term: direct way through (1 - K) P is missing
@ dPp = dS + dK / S

kalman_scalar_b
- de = dm * K + ct * e / S
+ de = ct * e / S
- da = da + dmp * m0 + 2 * a * P0 * dPp
+ da = da + dmp * m0
carry: state's gradient of the later step not taken in
@ de = ct * e / S
term: a's effect on the variance is forgotten
@ da = da + dmp * m0
    """,
    ),
    *wrong_rules(
        heat_implicit,
        right_heat,
        draw_heat,
        """
heat_a
- l1 = jnp.linalg.solve(A.T, l2)
+ l1 = jnp.linalg.solve(A, l2)
- gk = gk.at[1:].add(-jnp.diag(gA, -1))
+ gk = gk.at[:-1].add(-jnp.diag(gA, -1))
transpose: second adjoint solve with A itself
@ l1 = jnp.linalg.solve(A, l2)
index: lower diagonal's share at the upper one's places
@ gk = gk.at[:-1].add(-jnp.diag(gA, -1))
    """,
    ),
]
