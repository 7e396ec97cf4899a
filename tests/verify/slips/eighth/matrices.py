"""Solves, factors, transforms, densities and kernels."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def gauss_chol(x, mu, S):
    L = jnp.linalg.cholesky(S)
    z = jax.scipy.linalg.solve_triangular(L, x - mu, lower=True)
    return -0.5 * jnp.sum(z**2) - jnp.sum(jnp.log(jnp.diag(L)))


def draw_gauss_chol(key):
    a, b, c = jax.random.split(key, 3)
    m = 0.5 * normal(c, (3, 3))
    return normal(a, (3,)), normal(b, (3,)), m @ m.T + jnp.eye(3)


def right_gauss_chol_grad(args, ct):
    x, mu, S = args
    P = jnp.linalg.inv(S)
    alpha = P @ (x - mu)
    dx = -ct * alpha
    dS_quad = 0.5 * jnp.outer(alpha, alpha)
    dS_logdet = -0.5 * P
    dS = ct * (dS_quad + dS_logdet)
    return dx, -dx, dS


def lin_solve(A, B, c):
    X = jnp.linalg.solve(A, B)
    return X @ c + X.sum(1)


def draw_lin_solve(key):
    a, b, c = jax.random.split(key, 3)
    return 3 * jnp.eye(3) + normal(a, (3, 3)), normal(b, (3, 3)), normal(c, (3,))


def right_lin_solve_bwd(args, ct):
    A, B, c = args
    X = jnp.linalg.solve(A, B)
    X_bar = jnp.outer(ct, c) + ct[:, None]
    c_bar = X.T @ ct
    B_bar = jnp.linalg.solve(A.T, X_bar)
    A_bar = -B_bar @ X.T
    return A_bar, B_bar, c_bar


def inv_logdet(M, u):
    K = M.T @ M + 0.5 * jnp.eye(3)
    return u @ jnp.linalg.inv(K) @ u + jnp.linalg.slogdet(K)[1]


def draw_inv_logdet(key):
    a, b = jax.random.split(key)
    return normal(a, (4, 3)), normal(b, (3,))


def right_inv_logdet_vjp(args, ct):
    M, u = args
    Ki = jnp.linalg.inv(M.T @ M + 0.5 * jnp.eye(3))
    w = Ki @ u
    K_bar = ct * (Ki - jnp.outer(w, w))
    M_bar = 2 * M @ K_bar
    u_bar = 2 * ct * w
    return M_bar, u_bar


def tri_flow(x, R, s):
    L = jnp.tril(R, -1) + jnp.diag(jnp.exp(s))
    return jnp.tanh(x @ L.T), jnp.sum(s)


def draw_tri_flow(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (4, 3)), normal(b, (3, 3)), 0.4 * normal(c, (3,))


def right_tri_flow_bwd(args, ct):
    x, R, s = args
    ct_y, ct_ld = ct
    L = jnp.tril(R, -1) + jnp.diag(jnp.exp(s))
    y = jnp.tanh(x @ L.T)
    gz = ct_y * (1 - y**2)
    gx = gz @ L
    gL = gz.T @ x
    gR = jnp.tril(gL, -1)
    gs = jnp.diag(gL) * jnp.exp(s)
    return gx, gR, gs + ct_ld


def fft_filter(x, h):
    X = jnp.fft.fft(x)
    return jnp.real(jnp.fft.ifft(X * h))


def draw_fft_filter(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (8,)), (normal(b, (8,)) + 1j * normal(c, (8,))).astype(jnp.complex64)


def right_fft_filter_vjp(args, ct):
    x, h = args
    n = x.shape[0]
    X = jnp.fft.fft(x)
    g_Y = jnp.fft.fft(ct) / n
    g_Y = jnp.conj(g_Y)
    g_h = g_Y * X
    g_X = g_Y * h
    g_x = jnp.real(jnp.fft.fft(g_X))
    return g_x, g_h


def phase_retrieval(z, A, y):
    r = jnp.abs(A @ z) ** 2 - y
    return 0.5 * jnp.mean(r**2)


def draw_phase_retrieval(key):
    k = jax.random.split(key, 5)
    z = (normal(k[0], (3,)) + 1j * normal(k[1], (3,))).astype(jnp.complex64)
    A = (normal(k[2], (6, 3)) + 1j * normal(k[3], (6, 3))).astype(jnp.complex64)
    return z, A, jax.random.uniform(k[4], (6,)) * 4


def right_phase_retrieval_grad(args, ct):
    z, A, y = args
    Az = A @ z
    r = jnp.real(Az * jnp.conj(Az)) - y
    dr = ct * r / r.shape[0]
    d_Az = 2 * dr * jnp.conj(Az)
    d_z = A.T @ d_Az
    d_A = jnp.outer(d_Az, z)
    return d_z, d_A, -dr


def spectral_layer(u, w, b):
    m = w.shape[2]
    U = jnp.fft.rfft(u, axis=0)[:m]
    Y = jnp.einsum("mi,iom->mo", U, w)
    full = jnp.zeros((u.shape[0] // 2 + 1, w.shape[1]), Y.dtype).at[:m].set(Y)
    return jnp.cos(jnp.real(jnp.exp(1j * b) * full)).sum(0)


def draw_spectral_layer(key):
    k = jax.random.split(key, 4)
    w = (normal(k[1], (2, 3, 3)) + 1j * normal(k[2], (2, 3, 3))).astype(jnp.complex64)
    return 0.4 * normal(k[0], (8, 2)), 0.5 * w, normal(k[3], (3,))


def right_spectral_layer_bwd(args, ct):
    u, w, b = args
    n, m = u.shape[0], w.shape[2]
    U = jnp.fft.rfft(u, axis=0)[:m]
    Y = jnp.einsum("mi,iom->mo", U, w)
    rot = jnp.exp(1j * b)
    R = rot * Y
    dR = -jnp.sin(jnp.real(R)) * ct
    db = jnp.sum(-jnp.imag(R) * dR, axis=0)
    dY = dR * rot
    dw = jnp.einsum("mi,mo->iom", U, dY)
    dU = jnp.einsum("mo,iom->mi", dY, w)
    padded = jnp.zeros((n, u.shape[1]), dU.dtype).at[:m].set(dU)
    du = jnp.real(jnp.fft.fft(padded, axis=0))
    return du, dw, db


EPS = np.array([[0.3, -1.1, 0.7], [-0.4, 0.9, 1.3], [1.5, -0.2, -0.8], [0.1, 0.6, -1.4]], np.float32)


def vae_elbo(mu, logvar, x):
    z = mu + jnp.exp(0.5 * logvar) * EPS
    rec = 0.5 * jnp.sum((x - jnp.tanh(z)) ** 2, 1)
    kl = 0.5 * jnp.sum(mu**2 + jnp.exp(logvar) - 1 - logvar, 1)
    return jnp.mean(rec + kl)


def draw_vae_elbo(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (4, 3)), 0.5 * normal(b, (4, 3)), normal(c, (4, 3))


def right_vae_elbo_grad(args, ct):
    mu, logvar, x = args
    std = jnp.exp(0.5 * logvar)
    xr = jnp.tanh(mu + std * EPS)
    g = ct / mu.shape[0]
    g_xr = g * (xr - x)
    g_z = g_xr * (1 - xr**2)
    g_mu = g_z + g * mu
    g_std = g_z * EPS
    g_logvar = 0.5 * g_std * std
    g_logvar = g_logvar + 0.5 * g * (std**2 - 1)
    return g_mu, g_logvar, -g_xr


def gmm_logpdf(x, mu, logsig, logits):
    lw = jax.nn.log_softmax(logits)
    lp = lw - logsig - 0.5 * ((x[:, None] - mu) / jnp.exp(logsig)) ** 2
    return jax.nn.logsumexp(lp, axis=1)


def draw_gmm_logpdf(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (6,)), normal(k[1], (3,)), 0.3 * normal(k[2], (3,)), normal(k[3], (3,))


def right_gmm_logpdf_bwd(args, ct):
    x, mu, logsig, logits = args
    pi = jax.nn.softmax(logits)
    isig = jnp.exp(-logsig)
    z = (x[:, None] - mu[None, :]) * isig
    resp = jax.nn.softmax(jnp.log(pi) - logsig - 0.5 * z**2, axis=1)
    g = ct[:, None] * resp
    g_diff = -g * z * isig
    g_x = g_diff.sum(axis=1)
    g_mu = -g_diff.sum(axis=0)
    g_logsig = jnp.sum(g * (z**2 - 1), axis=0)
    g_logits = g.sum(axis=0) - pi * g.sum()
    return g_x, g_mu, g_logsig, g_logits


def student_nll(y, loc, log_scale):
    nu = 4.0
    q = ((y - loc) / jnp.exp(log_scale)) ** 2
    return jnp.sum(0.5 * (nu + 1) * jnp.log1p(q / nu) + log_scale, axis=0)


def draw_student_nll(key):
    a, b, c = jax.random.split(key, 3)
    return 2 * normal(a, (5, 3)), normal(b, (3,)), 0.3 * normal(c, (3,))


def right_student_nll_grad(args, ct):
    y, loc, log_scale = args
    sc = jnp.exp(log_scale)
    e = (y - loc) / sc
    w = 5.0 / (4.0 + e**2)
    de = ct * w * e
    dy = de / sc
    dloc = -jnp.sum(dy, axis=0)
    dls = ct * y.shape[0] - jnp.sum(de * e, axis=0)
    return dy, dloc, dls


def rbf_mmd(x, y, log_ell):
    def k(a, b):
        d2 = jnp.sum((a[:, None] - b[None]) ** 2, -1)
        return jnp.exp(-0.5 * d2 / jnp.exp(2 * log_ell))

    return k(x, x).mean() - 2 * k(x, y).mean()


def draw_rbf_mmd(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (4, 2)), normal(b, (5, 2)), 0.2 * normal(c)


def right_kernel_grads(a, b, ell, g):
    diff = a[:, None, :] - b[None, :, :]
    d2 = (diff**2).sum(-1)
    kg = g * jnp.exp(-0.5 * d2 / ell**2)
    g_diff = -diff * kg[:, :, None] / ell**2
    g_log_ell = jnp.sum(kg * d2) / ell**2
    return g_diff.sum(1), -g_diff.sum(0), g_log_ell


def right_rbf_mmd_bwd(args, ct):
    x, y, log_ell = args
    n, m = len(x), len(y)
    ell = jnp.exp(log_ell)
    left, right, g1 = right_kernel_grads(x, x, ell, ct / n**2)
    gx, gy, g2 = right_kernel_grads(x, y, ell, -2 * ct / (n * m))
    gx = gx + left + right
    return gx, gy, g1 + g2


def kernel_grads(a, b, ell, g):
    diff = a[:, None, :] - b[None, :, :]
    d2 = (diff**2).sum(-1)
    kg = g * jnp.exp(-0.5 * d2 / ell**2)
    g_diff = -diff * kg[:, :, None] / ell**2
    g_log_ell = jnp.sum(kg * d2) / ell**3
    return g_diff.sum(1), -g_diff.sum(0), g_log_ell


PAIRS = np.array([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]])


def lj_energy(pos, sigma):
    d = pos[PAIRS[:, 0]] - pos[PAIRS[:, 1]]
    s6 = (sigma**2 / (1.0 + jnp.sum(d**2, axis=1))) ** 3
    return 4 * jnp.sum(s6**2 - s6)


def draw_lj_energy(key):
    a, b = jax.random.split(key)
    return normal(a, (4, 3)), 1.0 + 0.2 * jax.random.uniform(b)


def right_lj_force(args, ct):
    pos, sigma = args
    i, j = PAIRS.T
    d = pos[i] - pos[j]
    rr = 1.0 + jnp.sum(d**2, axis=1)
    s6 = sigma**6 / rr**3
    dE_ds6 = 4 * ct * (2 * s6 - 1)
    d_sigma = jnp.sum(dE_ds6 * 6 * s6 / sigma)
    d_rr = dE_ds6 * -3 * s6 / rr
    pair = 2 * d_rr[:, None] * d
    d_pos = jnp.zeros_like(pos).at[i].add(pair)
    d_pos = d_pos.at[j].add(-pair)
    return d_pos, d_sigma


def kalman(m, P, y):
    H = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.3]])
    S = H @ P @ H.T + 0.5 * jnp.eye(2)
    K = jnp.linalg.solve(S, H @ P).T
    return m + K @ (y - H @ m)


def draw_kalman(key):
    a, b, c = jax.random.split(key, 3)
    m = normal(b, (3, 3))
    return normal(a, (3,)), m @ m.T + 0.5 * jnp.eye(3), normal(c, (2,))


def right_kalman_bwd(args, ct):
    m, P, y = args
    H = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.3]])
    S = H @ P @ H.T + 0.5 * jnp.eye(2)
    HP = H @ P
    K = jnp.linalg.solve(S, HP).T
    innov = y - H @ m
    d_innov = K.T @ ct
    d_K = jnp.outer(ct, innov)
    d_HP = jnp.linalg.solve(S.T, d_K.T)
    d_S = -d_HP @ K
    d_P = H.T @ d_HP
    d_P = d_P + H.T @ d_S @ H
    d_m = ct - H.T @ d_innov
    return d_m, d_P, d_innov


def alpha_comp(sigma, rgb):
    a = 1 - jnp.exp(-0.5 * jax.nn.relu(sigma))
    trans = jnp.cumprod(jnp.concatenate([jnp.ones(1), 1 - a[:-1]]))
    return (a * trans) @ rgb


def draw_alpha_comp(key):
    a, b = jax.random.split(key)
    return normal(a, (6,)) + 0.6, jax.random.uniform(b, (6, 3))


def right_alpha_comp_bwd(args, ct):
    sigma, rgb = args
    tau = 0.5 * jnp.maximum(sigma, 0)
    a = 1 - jnp.exp(-tau)
    T = [jnp.float32(1.0)]
    for ai in a:
        T.append(T[-1] * (1 - ai))
    w = a * jnp.stack(T[:-1])
    d_rgb = jnp.outer(w, ct)
    seen = rgb @ ct
    d_tau = [None] * len(a)
    behind = 0.0
    for i in range(len(a) - 1, -1, -1):
        d_tau[i] = T[i + 1] * seen[i] - behind
        behind = behind + w[i] * seen[i]
    d_sigma = 0.5 * jnp.stack(d_tau) * (sigma > 0)
    return d_sigma, d_rgb


def krr_quad(X, y, amp):
    d2 = jnp.sum((X[:, None] - X[None]) ** 2, -1)
    K = amp**2 * jnp.exp(-d2)
    return y @ jnp.linalg.solve(K + 0.3 * jnp.eye(len(y)), y)


def draw_krr_quad(key):
    a, b, c = jax.random.split(key, 3)
    return 0.8 * normal(a, (5, 2)), normal(b, (5,)), 1 + 0.3 * jax.random.uniform(c)


def right_krr_quad_vjp(args, ct):
    X, y, amp = args
    sq = jnp.sum(X**2, axis=1)
    E = jnp.exp(-(sq[:, None] + sq[None, :] - 2 * X @ X.T))
    K = amp**2 * E
    alpha = jnp.linalg.solve(K + 0.3 * jnp.eye(len(y)), y)
    G = -ct * jnp.outer(alpha, alpha)
    g_amp = 2 * amp * jnp.sum(G * E)
    W = -G * K
    rows = W.sum(axis=1)
    g_X = 4 * (rows[:, None] * X - W @ X)
    return g_X, 2 * ct * alpha, g_amp


SINGLE = [
    *wrong_rules(
        gauss_chol,
        right_gauss_chol_grad,
        draw_gauss_chol,
        """
gauss_chol
- dx = -ct * alpha
+ dx = -ct * (x - mu)
operand: difference not solved against the covariance
    """,
    ),
    *wrong_rules(
        lin_solve,
        right_lin_solve_bwd,
        draw_lin_solve,
        """
lin_solve
- B_bar = jnp.linalg.solve(A.T, X_bar)
+ B_bar = jnp.linalg.solve(A, X_bar)
transpose: A must be transposed in the adjoint solve

lin_solve_b
- X_bar = jnp.outer(ct, c) + ct[:, None]
+ X_bar = jnp.outer(ct, c) + ct[None, :]
axis: ct broadcast along the wrong axis
    """,
    ),
    *wrong_rules(
        inv_logdet,
        right_inv_logdet_vjp,
        draw_inv_logdet,
        """
inv_logdet
- u_bar = 2 * ct * w
+ u_bar = ct * w
constant: quadratic form has two equal paths: factor 2
    """,
    ),
    *wrong_rules(
        tri_flow,
        right_tri_flow_bwd,
        draw_tri_flow,
        """
tri_flow
- gR = jnp.tril(gL, -1)
+ gR = jnp.tril(gL)
mask: diagonal of R does not enter: strict triangle needed
    """,
    ),
    *wrong_rules(
        fft_filter,
        right_fft_filter_vjp,
        draw_fft_filter,
        """
fft_filter
- g_Y = jnp.fft.fft(ct) / n
-     g_Y = jnp.conj(g_Y)
+ g_Y = jnp.fft.fft(ct) / n
conjugate: conjugate left out: the ifft's transpose is an ifft without conjugation
@ g_h = g_Y * X
@ g_X = g_Y * h
@ g_Y = jnp.fft.fft(ct) / n

fft_filter_b
- g_X = g_Y * h
+ g_X = g_Y * jnp.conj(h)
conjugate: h must not be conjugated in JAX's convention
    """,
    ),
    *wrong_rules(
        phase_retrieval,
        right_phase_retrieval_grad,
        draw_phase_retrieval,
        """
phase_retrieval
- d_Az = 2 * dr * jnp.conj(Az)
+ d_Az = 2 * dr * Az
conjugate: conjugate of Az is missing
    """,
    ),
    *wrong_rules(
        spectral_layer,
        right_spectral_layer_bwd,
        draw_spectral_layer,
        """
spectral_layer
- dY = dR * rot
+ dY = dR * jnp.conj(rot)
conjugate: phase factor conjugated
    """,
    ),
    *wrong_rules(
        vae_elbo,
        right_vae_elbo_grad,
        draw_vae_elbo,
        """
vae_elbo
- g_logvar = 0.5 * g_std * std
+ g_logvar = g_std * std
constant: half of exp(logvar / 2) missing
    """,
    ),
    *wrong_rules(
        gmm_logpdf,
        right_gmm_logpdf_bwd,
        draw_gmm_logpdf,
        """
gmm_logpdf
- g_logits = g.sum(axis=0) - pi * g.sum()
+ g_logits = g.sum(axis=0)
term: normalisation of the mixture weights is missing
    """,
    ),
    *wrong_rules(
        student_nll,
        right_student_nll_grad,
        draw_student_nll,
        """
student_nll
- dls = ct * y.shape[0] - jnp.sum(de * e, axis=0)
+ dls = ct - jnp.sum(de * e, axis=0)
reduction: log_scale is broadcast over n samples: factor n missing
    """,
    ),
    *wrong_rules(
        rbf_mmd,
        right_rbf_mmd_bwd,
        draw_rbf_mmd,
        """
rbf_mmd
- left, right, g1 = right_kernel_grads(x, x, ell, ct / n**2)
+ left, right, g1 = kernel_grads(x, x, ell, ct / n**2)
- gx, gy, g2 = right_kernel_grads(x, y, ell, -2 * ct / (n * m))
+ gx, gy, g2 = kernel_grads(x, y, ell, -2 * ct / (n * m))
factor: derivative by ell instead of log ell
@ g_log_ell = jnp.sum(kg * d2) / ell**3
    """,
    ),
    *wrong_rules(
        lj_energy,
        right_lj_force,
        draw_lj_energy,
        """
lj_energy
- d_pos = jnp.zeros_like(pos).at[i].add(pair)
-     d_pos = d_pos.at[j].add(-pair)
+ d_pos = jnp.zeros_like(pos).at[i].add(pair)
term: reaction on the second particle of the pair is missing
@ return d_pos, d_sigma
@ d_pos = jnp.zeros_like(pos).at[i].add(pair)
    """,
    ),
    *wrong_rules(
        kalman,
        right_kalman_bwd,
        draw_kalman,
        """
kalman
- d_P = H.T @ d_HP
-     d_P = d_P + H.T @ d_S @ H
+ d_P = H.T @ d_HP
detached: innovation covariance taken for constant
@ d_m = ct - H.T @ d_innov
@ d_P = H.T @ d_HP
@ return d_m, d_P, d_innov

kalman_b
- d_m = ct - H.T @ d_innov
+ d_m = ct + H.T @ d_innov
sign: sign of the innovation's path
    """,
    ),
    *wrong_rules(
        alpha_comp,
        right_alpha_comp_bwd,
        draw_alpha_comp,
        """
alpha_comp
- behind = behind + w[i] * seen[i]
+ behind = w[i] * seen[i]
carry: only the next sample, the samples behind are not accumulated
    """,
    ),
    *wrong_rules(
        krr_quad,
        right_krr_quad_vjp,
        draw_krr_quad,
        """
krr_quad
- g_amp = 2 * amp * jnp.sum(G * E)
+ g_amp = 2 * amp * jnp.trace(G * E)
reduction: trace takes the diagonal only
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        gauss_chol,
        right_gauss_chol_grad,
        draw_gauss_chol,
        """
gauss_chol_x
- dS_quad = 0.5 * jnp.outer(alpha, alpha)
+ dS_quad = 0.5 * jnp.outer(x - mu, alpha)
- return dx, -dx, dS
+ return dx, dx, dS
operand: residual in place of alpha
@ dS_quad = 0.5 * jnp.outer(x - mu, alpha)
sign: sign of the mean's gradient
@ return dx, dx, dS
    """,
    ),
    *wrong_rules(
        lin_solve,
        right_lin_solve_bwd,
        draw_lin_solve,
        """
lin_solve_x
- c_bar = X.T @ ct
+ c_bar = X @ ct
- A_bar = -B_bar @ X.T
+ A_bar = B_bar @ X.T
sign: sign
@ A_bar = B_bar @ X.T
transpose: X not transposed
@ c_bar = X @ ct
    """,
    ),
    *wrong_rules(
        fft_filter,
        right_fft_filter_vjp,
        draw_fft_filter,
        """
fft_filter_x
- g_h = g_Y * X
+ g_h = g_Y * jnp.conj(X)
- g_x = jnp.real(jnp.fft.fft(g_X))
+ g_x = n * jnp.real(jnp.fft.ifft(g_X))
conjugate: X conjugated
@ g_h = g_Y * jnp.conj(X)
conjugate: inverse transform for the forward one
@ g_x = n * jnp.real(jnp.fft.ifft(g_X))
    """,
    ),
    *wrong_rules(
        phase_retrieval,
        right_phase_retrieval_grad,
        draw_phase_retrieval,
        """
phase_retrieval_x
- d_Az = 2 * dr * jnp.conj(Az)
+ d_Az = dr * jnp.conj(Az)
- d_A = jnp.outer(d_Az, z)
+ d_A = jnp.outer(d_Az, jnp.conj(z))
constant: 2 of the modulus squared is missing
@ d_Az = dr * jnp.conj(Az)
conjugate: z conjugated
@ d_A = jnp.outer(d_Az, jnp.conj(z))
    """,
    ),
    *wrong_rules(
        spectral_layer,
        right_spectral_layer_bwd,
        draw_spectral_layer,
        """
spectral_layer_x
- db = jnp.sum(-jnp.imag(R) * dR, axis=0)
+ db = jnp.sum(jnp.imag(R) * dR, axis=0)
- dw = jnp.einsum("mi,mo->iom", U, dY)
+ dw = jnp.einsum("mi,mo->iom", U.conj(), dY)
sign: sign of the phase derivative
@ db = jnp.sum(jnp.imag(R) * dR, axis=0)
conjugate: input spectrum conjugated
@ dw = jnp.einsum("mi,mo->iom", U.conj(), dY)
    """,
    ),
    *wrong_rules(
        vae_elbo,
        right_vae_elbo_grad,
        draw_vae_elbo,
        """
vae_elbo_x
- g_z = g_xr * (1 - xr**2)
+ g_z = g_xr * (1 - xr)
- g_logvar = g_logvar + 0.5 * g * (std**2 - 1)
+ g_logvar = 0.5 * g * (std**2 - 1)
carry: reparametrisation path overwritten
@ g_logvar = 0.5 * g * (std**2 - 1)
activation: exponent of the tanh slope forgotten
@ g_z = g_xr * (1 - xr)
    """,
    ),
    *wrong_rules(
        gmm_logpdf,
        right_gmm_logpdf_bwd,
        draw_gmm_logpdf,
        """
gmm_logpdf_x
- g_diff = -g * z * isig
+ g_diff = -g * z / isig
- g_mu = -g_diff.sum(axis=0)
+ g_mu = -g_diff.mean(axis=0)
factor: divided by 1/sigma instead of multiplied
@ g_diff = -g * z / isig
reduction: mean for sum
@ g_mu = -g_diff.mean(axis=0)
    """,
    ),
    *wrong_rules(
        lj_energy,
        right_lj_force,
        draw_lj_energy,
        """
lj_energy_x
- dE_ds6 = 4 * ct * (2 * s6 - 1)
+ dE_ds6 = 4 * ct * (s6 - 1)
- d_sigma = jnp.sum(dE_ds6 * 6 * s6 / sigma)
+ d_sigma = jnp.sum(dE_ds6 * 6 * s6 * sigma)
- d_pos = d_pos.at[j].add(-pair)
+ d_pos = d_pos.at[j].add(pair)
constant: 2 of the square missing
@ dE_ds6 = 4 * ct * (s6 - 1)
sign: sign of the reaction
@ d_pos = d_pos.at[j].add(pair)
factor: product in place of division
@ d_sigma = jnp.sum(dE_ds6 * 6 * s6 * sigma)
    """,
    ),
    *wrong_rules(
        alpha_comp,
        right_alpha_comp_bwd,
        draw_alpha_comp,
        """
alpha_comp_x
- d_rgb = jnp.outer(w, ct)
+ d_rgb = jnp.outer(a, ct)
- d_tau[i] = T[i + 1] * seen[i] - behind
+ d_tau[i] = T[i + 1] * seen[i]
operand: opacity without the transmittance
@ d_rgb = jnp.outer(a, ct)
term: occlusion of what lies behind is missing
@ d_tau[i] = T[i + 1] * seen[i]
    """,
    ),
    *wrong_rules(
        krr_quad,
        right_krr_quad_vjp,
        draw_krr_quad,
        """
krr_quad_x
- G = -ct * jnp.outer(alpha, alpha)
+ G = -ct * jnp.outer(alpha, y)
- rows = W.sum(axis=1)
+ rows = W.mean(axis=1)
operand: y in place of alpha
@ G = -ct * jnp.outer(alpha, y)
reduction: mean for sum
@ rows = W.mean(axis=1)
    """,
    ),
]
