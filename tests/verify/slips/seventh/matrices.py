"""Linear algebra, densities, transforms and dynamics."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal

XG = jnp.linspace(0.0, 2.0, 6)

D2 = (XG[:, None] - XG[None, :]) ** 2


def fwd_gp_mll(log_l, log_s, y):
    K = jnp.exp(2 * log_s) * jnp.exp(-0.5 * D2 * jnp.exp(-2 * log_l)) + 0.3 * jnp.eye(6)
    L = jnp.linalg.cholesky(K)
    al = jax.scipy.linalg.cho_solve((L, True), y)
    return -0.5 * y @ al - jnp.sum(jnp.log(jnp.diag(L)))


def draw_gp_mll(key):
    k = jax.random.split(key, 3)
    return (
        -0.4 + 0.1 * normal(k[0], ()),
        0.3 + 0.1 * normal(k[1], ()),
        1.5 * normal(k[2], (6,)),
    )


def right_gp_mll(args, ct):
    log_l, log_s, y = args
    E = jnp.exp(2 * log_s) * jnp.exp(-0.5 * D2 * jnp.exp(-2 * log_l))
    K = E + 0.3 * jnp.eye(6)
    Kinv = jnp.linalg.inv(K)
    alpha = Kinv @ y
    Kbar = 0.5 * ct * (jnp.outer(alpha, alpha) - Kinv)
    g_l = jnp.sum(Kbar * E * D2) * jnp.exp(-2 * log_l)
    g_s = 2 * jnp.sum(Kbar * E)
    g_y = -ct * alpha
    return g_l, g_s, g_y


def fwd_ridge_solve(X, y, loglam):
    A = X.T @ X + jnp.exp(loglam) * jnp.eye(3)
    return jnp.linalg.solve(A, X.T @ y)


def draw_ridge_solve(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 3)), normal(k[1], (6,)), 0.5 * normal(k[2], ())


def right_ridge_solve(args, ct):
    X, y, loglam = args
    lam = jnp.exp(loglam)
    A = X.T @ X + lam * jnp.eye(3)
    beta = jnp.linalg.solve(A, X.T @ y)
    adj = jnp.linalg.solve(A, ct)
    A_bar = -jnp.outer(adj, beta)
    X_bar = X @ (A_bar + A_bar.T)
    X_bar = X_bar + jnp.outer(y, adj)
    y_bar = X @ adj
    lam_bar = lam * jnp.trace(A_bar)
    return X_bar, y_bar, lam_bar


def fwd_logdet_tr(A, B):
    S = A @ A.T + jnp.eye(4)
    return jnp.linalg.slogdet(S)[1] + jnp.trace(jnp.linalg.solve(S, B))


def draw_logdet_tr(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (4, 3)), normal(k2, (4, 4))


def right_logdet_tr(args, ct):
    A, B = args
    S_inv = jnp.linalg.inv(A @ A.T + jnp.eye(4))
    gB = ct * S_inv.T
    gS = S_inv - S_inv @ B.T @ S_inv
    gS = ct * (gS + gS.T)
    return gS @ A, gB


def fwd_whiten(M, x):
    L = jnp.tril(M, -1) + jnp.diag(jnp.exp(jnp.diag(M)))
    return jax.scipy.linalg.solve_triangular(L, x.T, lower=True).T


def draw_whiten(key):
    k1, k2 = jax.random.split(key)
    return 0.5 * normal(k1, (4, 4)), normal(k2, (5, 4))


def right_whiten(args, ct):
    M, x = args
    dvec = jnp.exp(jnp.diag(M))
    L = jnp.tril(M, -1) + jnp.diag(dvec)
    Y = jax.scipy.linalg.solve_triangular(L, x.T, lower=True)
    G = jax.scipy.linalg.solve_triangular(L, ct.T, lower=True, trans=1)
    Lbar = -G @ Y.T
    Mbar = jnp.tril(Lbar, -1)
    Mbar = Mbar + jnp.diag(jnp.diag(Lbar) * dvec)
    return Mbar, G.T


def fwd_kl_full(m, rho, m2, T):
    s = jax.nn.softplus(rho)
    P = T @ T.T + 0.5 * jnp.eye(3)
    d = m2 - m
    return 0.5 * (jnp.sum(jnp.diag(P) * s**2) + d @ P @ d - 3 - jnp.linalg.slogdet(P)[1]) - jnp.sum(jnp.log(s))


def draw_kl_full(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (3,)),
        normal(k[1], (3,)),
        normal(k[2], (3,)),
        normal(k[3], (3, 3)),
    )


def right_kl_full(args, ct):
    m, rho, m2, T = args
    s = jnp.log1p(jnp.exp(rho))
    P = T @ T.T + 0.5 * jnp.eye(3)
    d = m2 - m
    gm2 = ct * P @ d
    gs = jnp.diag(P) * s - 1 / s
    grho = ct * gs * jax.nn.sigmoid(rho)
    gP = 0.5 * (jnp.diag(s**2) + jnp.outer(d, d) - jnp.linalg.inv(P))
    gT = ct * (gP + gP.T) @ T
    return -gm2, grho, gm2, gT


def fwd_gmm_ll(x, mu, logsig, wlog):
    z = (x[:, None, :] - mu[None]) / jnp.exp(logsig)[None, :, None]
    lp = -0.5 * jnp.sum(z**2, -1) - 2 * logsig + jax.nn.log_softmax(wlog)
    return jnp.mean(jax.scipy.special.logsumexp(lp, axis=1))


def draw_gmm_ll(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (8, 2)),
        normal(k[1], (3, 2)),
        0.3 * normal(k[2], (3,)),
        normal(k[3], (3,)),
    )


def right_gmm_ll(args, ct):
    x, mu, logsig, wlog = args
    sig = jnp.exp(logsig)
    diff = x[:, None, :] - mu
    maha = jnp.einsum("nkd,nkd->nk", diff, diff) / sig**2
    pw = jax.nn.softmax(wlog)
    r = jax.nn.softmax(-0.5 * maha - 2 * logsig + jnp.log(pw), axis=1)
    r = r * ct / x.shape[0]
    g_mu = jnp.einsum("nk,nkd->kd", r, diff) / sig[:, None] ** 2
    g_x = -jnp.einsum("nk,nkd->nd", r / sig**2, diff)
    g_ls = jnp.sum(r * (maha - 2), axis=0)
    g_w = r.sum(0) - pw * r.sum()
    return g_x, g_mu, g_ls, g_w


def fwd_student_t(y, loc, logs, x):
    u = (y - loc * x) * jnp.exp(-logs)
    nu = 4.0
    return jnp.sum(0.5 * (nu + 1) * jnp.log1p(u**2 / nu) + logs)


def draw_student_t(key):
    k = jax.random.split(key, 4)
    return (
        2 * normal(k[0], (7,)),
        normal(k[1], ()),
        0.3 * normal(k[2], ()),
        normal(k[3], (7,)),
    )


def right_student_t(args, ct):
    y, loc, logs, x = args
    nu = 4.0
    u = (y - loc * x) * jnp.exp(-logs)
    du = ct * (nu + 1) * u / (nu + u**2)
    dr = du * jnp.exp(-logs)
    dlogs = ct * y.shape[0] - jnp.sum(du * u)
    return dr, -jnp.dot(dr, x), dlogs, -dr * loc


def fwd_fft_filter(x, H):
    X = jnp.fft.fft(x)
    return jnp.fft.ifft(X * H * H)


def draw_fft_filter(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (8,)) + 1j * normal(k[1], (8,)),
        normal(k[2], (8,)) + 1j * normal(k[3], (8,)),
    )


def right_fft_filter(args, ct):
    x, H = args
    X = jnp.fft.fft(x)
    P_bar = jnp.fft.ifft(ct)
    X_bar = P_bar * H**2
    H_bar = 2 * P_bar * X * H
    x_bar = jnp.fft.fft(X_bar)
    return x_bar, H_bar


Y_INT = jnp.abs(jnp.asarray(np.random.RandomState(5).randn(6), jnp.float32)) + 0.5


def fwd_phase_ret(A, z):
    f = A @ z
    return jnp.sum((jnp.real(f) ** 2 + jnp.imag(f) ** 2 - Y_INT) ** 2) / 6


def draw_phase_ret(key):
    k = jax.random.split(key, 4)
    return (
        0.5 * (normal(k[0], (6, 3)) + 1j * normal(k[1], (6, 3))),
        normal(k[2], (3,)) + 1j * normal(k[3], (3,)),
    )


def right_phase_ret(args, ct):
    A, z = args
    f = A @ z
    res = jnp.abs(f) ** 2 - Y_INT
    gI = 2 * ct * res / 6
    gf = 2 * gI * jnp.conj(f)
    return jnp.outer(gf, z), A.T @ gf


def fwd_lru(lam, u, C):
    s = jnp.zeros(3, jnp.complex64)
    out = []
    for t in range(5):
        s = lam * s + u[t]
        out.append(jnp.real(C @ s))
    return jnp.stack(out)


def draw_lru(key):
    k = jax.random.split(key, 5)
    lam = 0.8 * jnp.exp(1j * jax.random.uniform(k[0], (3,), maxval=3.0))
    return lam, normal(k[1], (5, 3)), normal(k[2], (2, 3)) + 1j * normal(k[3], (2, 3))


def right_lru(args, ct):
    lam, u, C = args
    states = [jnp.zeros(3, jnp.complex64)]
    for t in range(5):
        states.append(lam * states[-1] + u[t])
    adj = jnp.zeros(3, jnp.complex64)
    g_lam, g_C, g_u = jnp.zeros_like(lam), jnp.zeros_like(C), []
    for t in reversed(range(5)):
        adj = lam * adj + C.T @ ct[t]
        g_lam = g_lam + adj * states[t]
        g_C = g_C + jnp.outer(ct[t], states[t + 1])
        g_u.append(jnp.real(adj))
    return g_lam, jnp.stack(g_u[::-1]), g_C


def sq(a, b):
    return jnp.sum((a[:, None] - b[None]) ** 2, -1)


def fwd_rbf_mmd(x, y):
    k = lambda a, b: jnp.exp(-sq(a, b) / 2.0)
    return k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()


def draw_rbf_mmd(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (5, 2)), 0.6 + normal(k2, (4, 2))


def right_rbf_mmd(args, ct):
    x, y = args
    n, m = x.shape[0], y.shape[0]
    kxx = jnp.exp(-sq(x, x) / 2.0) / n**2
    kyy = jnp.exp(-sq(y, y) / 2.0) / m**2
    kxy = jnp.exp(-sq(x, y) / 2.0) / (n * m)
    d_x = -2 * (kxx.sum(1)[:, None] * x - kxx @ x)
    d_x += 2 * (kxy.sum(1)[:, None] * x - kxy @ y)
    d_y = -2 * (kyy.sum(1)[:, None] * y - kyy @ y)
    d_y += 2 * (kxy.sum(0)[:, None] * y - kxy.T @ x)
    return ct * d_x, ct * d_y


def fwd_nadaraya(q, c, v, logh):
    w = jax.nn.softmax(-jnp.sum((q[:, None] - c[None]) ** 2, -1) * jnp.exp(-logh), axis=1)
    return w @ v


def draw_nadaraya(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (4, 2)),
        normal(k[1], (5, 2)),
        normal(k[2], (5, 3)),
        0.4 + 0.2 * normal(k[3], ()),
    )


def right_nadaraya(args, ct):
    q, c, v, logh = args
    ih = jnp.exp(-logh)
    diff = q[:, None] - c[None]
    d2 = (diff**2).sum(-1)
    w = jax.nn.softmax(-d2 * ih, axis=1)
    y = w @ v
    ge = w * (ct @ v.T - jnp.sum(ct * y, axis=1, keepdims=True))
    gdiff = -2 * ih * ge[:, :, None] * diff
    gh = ih * jnp.sum(ge * d2)
    return gdiff.sum(1), -gdiff.sum(0), w.T @ ct, gh


def fwd_sinkhorn(M, a):
    K = jnp.exp(-M)
    v = jnp.ones(4)
    for _ in range(2):
        u = a / (K @ v)
        v = 0.25 / (K.T @ u)
    return u[:, None] * K * v[None, :]


def draw_sinkhorn(key):
    k1, k2 = jax.random.split(key)
    return jax.random.uniform(k1, (3, 4), maxval=6.0), jax.nn.softmax(normal(k2, (3,)))


def right_sinkhorn(args, ct):
    M, a = args
    K = jnp.exp(-M)
    vs, us = [jnp.ones(4)], []
    for _ in range(2):
        us.append(a / (K @ vs[-1]))
        vs.append(0.25 / (K.T @ us[-1]))
    u, v = us[-1], vs[-1]
    gK = ct * jnp.outer(u, v)
    gu = (ct * K) @ v
    gv = (ct * K).T @ u
    ga = jnp.zeros_like(a)
    for k in (1, 0):
        gden = -gv * vs[k + 1] ** 2 / 0.25
        gK = gK + jnp.outer(us[k], gden)
        gu = gu + K @ gden
        ga = ga + gu * us[k] / a
        gden = -gu * us[k] ** 2 / a
        gK = gK + jnp.outer(gden, vs[k])
        gv = K.T @ gden
        gu = jnp.zeros_like(gu)
    return -gK * K, ga


def fwd_cayley(W, x):
    A = W - W.T
    I = jnp.eye(4)
    return jnp.linalg.solve(I + A, (I - A) @ x)


def draw_cayley(key):
    k1, k2 = jax.random.split(key)
    return 0.5 * normal(k1, (4, 4)), normal(k2, (4, 3))


def right_cayley(args, ct):
    W, x = args
    A, I = W - W.T, jnp.eye(4)
    y = jnp.linalg.solve(I + A, (I - A) @ x)
    lam = jnp.linalg.solve((I + A).T, ct)
    gA = -lam @ y.T - lam @ x.T
    gW = gA - gA.T
    gx = (I - A).T @ lam
    return gW, gx


KN = jnp.array([1, 2, 3, 1, 4])

BASIS = 0.5 * jnp.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1.0]])


def fwd_catmull_rom(pts, t):
    pw = jnp.stack([jnp.ones_like(t), t, t**2, t**3], axis=1)
    nb = pts[KN[:, None] + jnp.arange(-1, 3)]
    return jnp.einsum("ni,ij,njd->nd", pw, BASIS, nb)


def draw_catmull_rom(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (7, 2)), jax.random.uniform(k2, (5,))


def right_catmull_rom(args, ct):
    pts, t = args
    ids = KN[:, None] + jnp.arange(-1, 3)
    o, z = jnp.ones_like(t), jnp.zeros_like(t)
    pw = jnp.stack([o, t, t**2, t**3], axis=1)
    dpw = jnp.stack([z, o, 2 * t, 3 * t**2], axis=1)
    weights = pw @ BASIS
    gpts = jnp.zeros_like(pts).at[ids].add(weights[:, :, None] * ct[:, None, :])
    gt = jnp.einsum("ni,ij,njd,nd->n", dpw, BASIS, pts[ids], ct)
    return gpts, gt


def fwd_lotka_rk2(y, th):
    f = lambda s: jnp.array([th[0] * s[0] - th[1] * s[0] * s[1], -th[2] * s[1] + th[3] * s[0] * s[1]])
    for _ in range(3):
        y = y + 0.1 * f(y + 0.05 * f(y))
    return y


def draw_lotka_rk2(key):
    k1, k2 = jax.random.split(key)
    return 1 + jax.random.uniform(k1, (2,)), 1 + 2 * jax.random.uniform(k2, (4,))


def right_lotka_rk2(args, ct):
    y, th = args
    a, b, c, d = th
    field = lambda s: jnp.array([a * s[0] - b * s[0] * s[1], -c * s[1] + d * s[0] * s[1]])
    jac = lambda s: jnp.array([[a - b * s[1], -b * s[0]], [d * s[1], -c + d * s[0]]])
    dth = lambda s: jnp.array([[s[0], -s[0] * s[1], 0, 0], [0, 0, -s[1], s[0] * s[1]]])
    traj = [y]
    for _ in range(2):
        traj.append(traj[-1] + 0.1 * field(traj[-1] + 0.05 * field(traj[-1])))
    lam, g = ct, jnp.zeros(4)
    for s in reversed(traj):
        mid = s + 0.05 * field(s)
        lam_mid = 0.1 * jac(mid).T @ lam
        g = g + 0.1 * dth(mid).T @ lam + 0.05 * dth(s).T @ lam_mid
        lam = lam + lam_mid + 0.05 * jac(s).T @ lam_mid
    return lam, g


def fwd_camera(pts, f, rot, tr):
    c, s = jnp.cos(rot), jnp.sin(rot)
    R = jnp.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    p = pts @ R.T + tr
    return f * p[:, :2] / p[:, 2:]


def draw_camera(key):
    k = jax.random.split(key, 4)
    return (
        0.5 * normal(k[0], (5, 3)),
        1 + 0.2 * normal(k[1], ()),
        normal(k[2], ()),
        jnp.array([0.0, 0.0, 3.0]) + 0.3 * normal(k[3], (3,)),
    )


def right_camera(args, ct):
    pts, f, rot, tr = args
    c, s = jnp.cos(rot), jnp.sin(rot)
    R = jnp.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    p = pts @ R.T + tr
    z = p[:, 2:]
    df = jnp.sum(ct * p[:, :2] / z)
    dxy = f * ct / z
    dz = -jnp.sum(f * ct * p[:, :2], axis=1, keepdims=True) / z**2
    dp = jnp.concatenate([dxy, dz], axis=1)
    dR = dp.T @ pts
    drot = -s * dR[0, 0] + c * dR[0, 2] - c * dR[2, 0] - s * dR[2, 2]
    dpts = dp @ R
    dtr = dp.sum(0)
    return dpts, df, drot, dtr


def fwd_horner(x, c):
    y = jnp.zeros_like(x)
    for k in range(4):
        y = y * x + c[k]
    return jnp.arctan(y)


def draw_horner(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (6,)), normal(k2, (4,))


def right_horner(args, ct):
    x, c = args
    part = [jnp.zeros_like(x)]
    for k in range(4):
        part.append(part[-1] * x + c[k])
    bar = ct / (1 + part[-1] ** 2)
    gx, gc = jnp.zeros_like(x), jnp.zeros(4)
    for k in (3, 2, 1, 0):
        gc = gc.at[k].set(bar.sum())
        gx = gx + bar * part[k]
        bar = bar * x
    return gx, gc


SINGLE = [
    *wrong_rules(
        fwd_gp_mll,
        right_gp_mll,
        draw_gp_mll,
        """
gp_mll_d
- g_s = 2 * jnp.sum(Kbar * E)
+ g_s = 2 * jnp.sum(Kbar * K)
operand: noise counted in the amplitude gradient
    """,
    ),
    *wrong_rules(
        fwd_ridge_solve,
        right_ridge_solve,
        draw_ridge_solve,
        """
ridge_solve_f
- lam_bar = lam * jnp.trace(A_bar)
+ lam_bar = lam * jnp.sum(A_bar)
reduction: sum of all entries in place of the trace
    """,
    ),
    *wrong_rules(
        fwd_logdet_tr,
        right_logdet_tr,
        draw_logdet_tr,
        """
logdet_tr_b
- gS = S_inv - S_inv @ B.T @ S_inv
+ gS = S_inv - S_inv @ B.T
factor: second inverse forgotten
    """,
    ),
    *wrong_rules(
        fwd_whiten,
        right_whiten,
        draw_whiten,
        """
whiten_a
- G = jax.scipy.linalg.solve_triangular(L, ct.T, lower=True, trans=1)
+ G = jax.scipy.linalg.solve_triangular(L, ct.T, lower=True)
transpose: adjoint solve needs L transposed
    """,
    ),
    *wrong_rules(
        fwd_kl_full,
        right_kl_full,
        draw_kl_full,
        """
kl_full_d
- grho = ct * gs * jax.nn.sigmoid(rho)
+ grho = ct * gs * jax.nn.sigmoid(s)
activation: softplus slope in its output
    """,
    ),
    *wrong_rules(
        fwd_gmm_ll,
        right_gmm_ll,
        draw_gmm_ll,
        """
gmm_ll_e
- g_ls = jnp.sum(r * (maha - 2), axis=0)
+ g_ls = jnp.sum(r * (maha - 1), axis=0)
constant: dimension is two, not one
    """,
    ),
    *wrong_rules(
        fwd_student_t,
        right_student_t,
        draw_student_t,
        """
student_t_c
- dlogs = ct * y.shape[0] - jnp.sum(du * u)
+ dlogs = ct - jnp.sum(du * u)
reduction: broadcast log scale counted once in place of n times
    """,
    ),
    *wrong_rules(
        fwd_fft_filter,
        right_fft_filter,
        draw_fft_filter,
        """
fft_filter_b
- x_bar = jnp.fft.fft(X_bar)
+ x_bar = x.shape[0] * jnp.fft.ifft(X_bar)
conjugate: adjoint of the transform in place of its transpose
    """,
    ),
    *wrong_rules(
        fwd_phase_ret,
        right_phase_ret,
        draw_phase_ret,
        """
phase_ret_e
- return jnp.outer(gf, z), A.T @ gf
+ return jnp.outer(gf, z), A.T.conj() @ gf
conjugate: hermitian transpose in place of the plain one
    """,
    ),
    *wrong_rules(
        fwd_lru,
        right_lru,
        draw_lru,
        """
lru_a
- adj = lam * adj + C.T @ ct[t]
+ adj = jnp.conj(lam) * adj + C.T @ ct[t]
conjugate: conjugated decay in the adjoint
    """,
    ),
    *wrong_rules(
        fwd_rbf_mmd,
        right_rbf_mmd,
        draw_rbf_mmd,
        """
rbf_mmd_b
- d_x = -2 * (kxx.sum(1)[:, None] * x - kxx @ x)
+ d_x = -(kxx.sum(1)[:, None] * x - kxx @ x)
constant: each point stands in rows and columns, factor two
    """,
    ),
    *wrong_rules(
        fwd_nadaraya,
        right_nadaraya,
        draw_nadaraya,
        """
nadaraya_a
- ge = w * (ct @ v.T - jnp.sum(ct * y, axis=1, keepdims=True))
+ ge = w * (ct @ v.T)
detached: normaliser of the kernel weights taken for constant
    """,
    ),
    *wrong_rules(
        fwd_sinkhorn,
        right_sinkhorn,
        draw_sinkhorn,
        """
sinkhorn_c
- gK = gK + jnp.outer(gden, vs[k])
+ gK = gK + jnp.outer(gden, vs[k + 1])
index: v of the later half step
    """,
    ),
    *wrong_rules(
        fwd_cayley,
        right_cayley,
        draw_cayley,
        """
cayley_a
- lam = jnp.linalg.solve((I + A).T, ct)
+ lam = jnp.linalg.solve(I + A, ct)
transpose: adjoint system not transposed
    """,
    ),
    *wrong_rules(
        fwd_catmull_rom,
        right_catmull_rom,
        draw_catmull_rom,
        """
catmull_rom_b
- weights = pw @ BASIS
+ weights = pw @ BASIS.T
transpose: basis matrix transposed
    """,
    ),
    *wrong_rules(
        fwd_lotka_rk2,
        right_lotka_rk2,
        draw_lotka_rk2,
        """
lotka_rk2_d
- lam_mid = 0.1 * jac(mid).T @ lam
+ lam_mid = 0.1 * jac(mid) @ lam
transpose: jacobian not transposed
    """,
    ),
    *wrong_rules(
        fwd_camera,
        right_camera,
        draw_camera,
        """
camera_b
- dz = -jnp.sum(f * ct * p[:, :2], axis=1, keepdims=True) / z**2
+ dz = jnp.zeros_like(z)
detached: depth taken for constant
    """,
    ),
    *wrong_rules(
        fwd_horner,
        right_horner,
        draw_horner,
        """
horner_d
- bar = bar * x
+ bar = bar * c[k]
operand: coefficient in place of x
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        fwd_gp_mll,
        right_gp_mll,
        draw_gp_mll,
        """
gp_mll_ce
- g_l = jnp.sum(Kbar * E * D2) * jnp.exp(-2 * log_l)
+ g_l = jnp.sum(Kbar * E * D2) * jnp.exp(-log_l)
- g_y = -ct * alpha
+ g_y = -0.5 * ct * alpha
constant: squared length scale expected
@ g_l = jnp.sum(Kbar * E * D2) * jnp.exp(-log_l)
constant: quadratic form gives twice alpha
@ g_y = -0.5 * ct * alpha
    """,
    ),
    *wrong_rules(
        fwd_kl_full,
        right_kl_full,
        draw_kl_full,
        """
kl_full_aeg
- gm2 = ct * P @ d
+ gm2 = 0.5 * ct * P @ d
- gP = 0.5 * (jnp.diag(s**2) + jnp.outer(d, d) - jnp.linalg.inv(P))
+ gP = 0.5 * (jnp.diag(s**2) + jnp.outer(d, d))
- return -gm2, grho, gm2, gT
+ return gm2, grho, gm2, gT
constant: the half cancels in the quadratic form
@ gm2 = 0.5 * ct * P @ d
term: log determinant of the precision left out
@ gP = 0.5 * (jnp.diag(s**2) + jnp.outer(d, d))
sign: mean enters the difference with a minus
@ return gm2, grho, gm2, gT
    """,
    ),
    *wrong_rules(
        fwd_gmm_ll,
        right_gmm_ll,
        draw_gmm_ll,
        """
gmm_ll_bcd
- r = r * ct / x.shape[0]
+ r = r * ct
- g_mu = jnp.einsum("nk,nkd->kd", r, diff) / sig[:, None] ** 2
+ g_mu = jnp.einsum("nk,nkd->kd", r, diff) / sig[:, None]
- g_x = -jnp.einsum("nk,nkd->nd", r / sig**2, diff)
+ g_x = jnp.einsum("nk,nkd->nd", r / sig**2, diff)
factor: 1/n of the mean forgotten
@ r = r * ct
factor: variance expected, not standard deviation
@ g_mu = jnp.einsum("nk,nkd->kd", r, diff) / sig[:, None]
sign: density falls with the distance
@ g_x = jnp.einsum("nk,nkd->nd", r / sig**2, diff)
    """,
    ),
    *wrong_rules(
        fwd_fft_filter,
        right_fft_filter,
        draw_fft_filter,
        """
fft_filter_ad
- P_bar = jnp.fft.ifft(ct)
+ P_bar = jnp.fft.fft(ct)
- H_bar = 2 * P_bar * X * H
+ H_bar = P_bar * X * H
conjugate: ifft is its own transpose, fft (without 1/n) is not
@ P_bar = jnp.fft.fft(ct)
constant: filter enters squared
@ H_bar = P_bar * X * H
    """,
    ),
    *wrong_rules(
        fwd_lru,
        right_lru,
        draw_lru,
        """
lru_bcd
- adj = lam * adj + C.T @ ct[t]
+ adj = lam * adj + jnp.conj(C.T) @ ct[t]
- g_lam = g_lam + adj * states[t]
+ g_lam = g_lam + adj * states[t + 1]
- g_C = g_C + jnp.outer(ct[t], states[t + 1])
+ g_C = jnp.outer(ct[t], states[t + 1])
conjugate: conjugated readout in the adjoint
@ adj = lam * adj + jnp.conj(C.T) @ ct[t]
index: state after the step in place of before
@ g_lam = g_lam + adj * states[t + 1]
carry: readout grad of the other steps thrown away
@ g_C = jnp.outer(ct[t], states[t + 1])
    """,
    ),
    *wrong_rules(
        fwd_sinkhorn,
        right_sinkhorn,
        draw_sinkhorn,
        """
sinkhorn_be
- gu = gu + K @ gden
+ gu = K @ gden
- return -gK * K, ga
+ return gK * K, ga
carry: gradient that u has from the plan thrown away
@ gu = K @ gden
sign: derivative of exp(-M) is negative
@ return gK * K, ga
    """,
    ),
    *wrong_rules(
        fwd_cayley,
        right_cayley,
        draw_cayley,
        """
cayley_ce
- gA = -lam @ y.T - lam @ x.T
+ gA = -lam @ y.T + lam @ x.T
- gx = (I - A).T @ lam
+ gx = (I - A) @ lam
sign: numerator is I minus A
@ gA = -lam @ y.T + lam @ x.T
transpose: I - A not transposed
@ gx = (I - A) @ lam
    """,
    ),
    *wrong_rules(
        fwd_lotka_rk2,
        right_lotka_rk2,
        draw_lotka_rk2,
        """
lotka_rk2_abe
- jac = lambda s: jnp.array([[a - b * s[1], -b * s[0]], [d * s[1], -c + d * s[0]]])
+ jac = lambda s: jnp.array([[a - b * s[1], b * s[0]], [d * s[1], -c + d * s[0]]])
- dth = lambda s: jnp.array([[s[0], -s[0] * s[1], 0, 0], [0, 0, -s[1], s[0] * s[1]]])
+ dth = lambda s: jnp.array([[s[0], -s[0] * s[1], 0, 0], [0, 0, -s[0], s[0] * s[1]]])
- g = g + 0.1 * dth(mid).T @ lam + 0.05 * dth(s).T @ lam_mid
+ g = 0.1 * dth(mid).T @ lam + 0.05 * dth(s).T @ lam_mid
sign: predation term of the jacobian
@ jac = lambda s: jnp.array([[a - b * s[1], b * s[0]], [d * s[1], -c + d * s[0]]])
index: prey in place of predator
@ dth = lambda s: jnp.array([[s[0], -s[0] * s[1], 0, 0], [0, 0, -s[0], s[0] * s[1]]])
carry: parameter grads of later steps thrown away
@ g = 0.1 * dth(mid).T @ lam + 0.05 * dth(s).T @ lam_mid
    """,
    ),
    *wrong_rules(
        fwd_camera,
        right_camera,
        draw_camera,
        """
camera_adf
- dz = -jnp.sum(f * ct * p[:, :2], axis=1, keepdims=True) / z**2
+ dz = -jnp.sum(f * ct * p[:, :2], axis=1, keepdims=True) / z
- drot = -s * dR[0, 0] + c * dR[0, 2] - c * dR[2, 0] - s * dR[2, 2]
+ drot = -s * dR[0, 0] + c * dR[2, 0] - c * dR[0, 2] - s * dR[2, 2]
- dtr = dp.sum(0)
+ dtr = dp.mean(0)
factor: square of the depth missing
@ dz = -jnp.sum(f * ct * p[:, :2], axis=1, keepdims=True) / z
transpose: rotation read transposed
@ drot = -s * dR[0, 0] + c * dR[2, 0] - c * dR[0, 2] - s * dR[2, 2]
reduction: translation grad averaged over the points
@ dtr = dp.mean(0)
    """,
    ),
    *wrong_rules(
        fwd_horner,
        right_horner,
        draw_horner,
        """
horner_bc
- gc = gc.at[k].set(bar.sum())
+ gc = gc.at[3 - k].set(bar.sum())
- gx = gx + bar * part[k]
+ gx = gx + bar * part[k + 1]
index: coefficients in reversed order
@ gc = gc.at[3 - k].set(bar.sum())
index: partial value after the step
@ gx = gx + bar * part[k + 1]
    """,
    ),
]
