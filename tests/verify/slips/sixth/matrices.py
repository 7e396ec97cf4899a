"""Rules with mistakes in graphs, sequences, matrices and transforms."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def cnormal(key, shape):
    a, b = jax.random.split(key)
    return (normal(a, shape) + 1j * normal(b, shape)).astype(jnp.complex64)


SRC = jnp.array([0, 1, 1, 2, 3, 4, 4, 0, 2])

DST = jnp.array([1, 0, 2, 3, 2, 0, 3, 4, 4])

NODES = 5


def sage_layer(h, ew, Wself, Wnb):
    msg = ew[:, None] * h[SRC]
    deg = jax.ops.segment_sum(jnp.ones(SRC.shape), DST, NODES)
    agg = jax.ops.segment_sum(msg, DST, NODES) / deg[:, None]
    return jax.nn.relu(h @ Wself + agg @ Wnb)


def draw_sage_layer(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (5, 3)), normal(k[1], (9,)), normal(k[2], (3, 4)), normal(k[3], (3, 4))


def right_sage_layer(args, dy):
    h, ew, Wself, Wnb = args
    deg = jnp.bincount(DST, length=NODES).astype(h.dtype)[:, None]
    msg = ew[:, None] * h[SRC]
    agg = jnp.zeros_like(h).at[DST].add(msg) / deg
    pre = h @ Wself + agg @ Wnb
    d_pre = jnp.where(pre > 0, dy, 0)
    d_Wself = h.T @ d_pre
    d_Wnb = agg.T @ d_pre
    d_h = d_pre @ Wself.T
    d_agg = d_pre @ Wnb.T / deg
    d_msg = d_agg[DST]
    d_ew = jnp.sum(d_msg * h[SRC], axis=1)
    d_h = d_h.at[SRC].add(d_msg * ew[:, None])
    return d_h, d_ew, d_Wself, d_Wnb


E_FROM = jnp.array([0, 1, 2, 3, 1, 3, 0, 2, 2])

E_TO = jnp.array([0, 0, 0, 1, 2, 2, 3, 3, 1])


def gat(x, W, a_src, a_dst):
    z = x @ W
    e = jnp.tanh((z @ a_src)[E_FROM] + (z @ a_dst)[E_TO])
    w = jnp.exp(e)
    alpha = w / jax.ops.segment_sum(w, E_TO, 4)[E_TO]
    return jax.ops.segment_sum(alpha[:, None] * z[E_FROM], E_TO, 4)


def draw_gat(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (4, 3)), normal(k[1], (3, 3)), normal(k[2], (3,)), normal(k[3], (3,))


def right_gat(args, ct):
    x, W, a_src, a_dst = args
    gather_sum = lambda vals: jax.ops.segment_sum(vals, E_TO, 4)[E_TO]
    z = x @ W
    raw = (z @ a_src)[E_FROM] + (z @ a_dst)[E_TO]
    w = jnp.exp(jnp.tanh(raw))
    alpha = w / gather_sum(w)
    ct_e = ct[E_TO]
    z_bar = jnp.zeros_like(z).at[E_FROM].add(alpha[:, None] * ct_e)
    alpha_bar = jnp.sum(ct_e * z[E_FROM], axis=-1)
    e_bar = alpha * (alpha_bar - gather_sum(alpha * alpha_bar))
    raw_bar = e_bar * (1 - jnp.tanh(raw) ** 2)
    s_bar = jax.ops.segment_sum(raw_bar, E_FROM, 4)
    d_bar = jax.ops.segment_sum(raw_bar, E_TO, 4)
    z_bar = z_bar + jnp.outer(s_bar, a_src) + jnp.outer(d_bar, a_dst)
    return z_bar @ W.T, x.T @ z_bar, z.T @ s_bar, z.T @ d_bar


TAGS = jnp.array([1, 0, 2, 2, 1])


def crf_nll(emit, trans):
    alpha = emit[0]
    for t in range(1, emit.shape[0]):
        alpha = jax.nn.logsumexp(alpha[:, None] + trans, axis=0) + emit[t]
    gold = emit[jnp.arange(5), TAGS].sum() + trans[TAGS[:-1], TAGS[1:]].sum()
    return jax.nn.logsumexp(alpha) - gold


def draw_crf_nll(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (5, 3)), normal(k[1], (3, 3))


def right_crf_nll(args, g):
    emit, trans = args
    T, K = emit.shape
    alpha = [emit[0]]
    for t in range(1, T):
        alpha.append(jax.nn.logsumexp(alpha[t - 1][:, None] + trans, axis=0) + emit[t])
    logz = jax.nn.logsumexp(alpha[-1])
    beta = jnp.zeros(K)
    d_emit = jnp.zeros_like(emit)
    d_trans = jnp.zeros_like(trans)
    for t in range(T - 1, 0, -1):
        d_emit = d_emit.at[t].set(jnp.exp(alpha[t] + beta - logz))
        right_part = emit[t] + beta
        pair = jnp.exp(alpha[t - 1][:, None] + trans + right_part[None, :] - logz)
        d_trans = d_trans + pair
        beta = jax.nn.logsumexp(trans + right_part[None, :], axis=1)
    d_emit = d_emit.at[0].set(jnp.exp(alpha[0] + beta - logz))
    d_emit = d_emit.at[jnp.arange(T), TAGS].add(-1.0)
    d_trans = d_trans.at[TAGS[:-1], TAGS[1:]].add(-1.0)
    return g * d_emit, g * d_trans


def hmm_forward(log_pi, log_a, log_e):
    def step(al, e):
        return jax.nn.logsumexp(al[:, None] + log_a, axis=0) + e, None

    al, _ = lax.scan(step, log_pi + log_e[0], log_e[1:])
    return jax.nn.logsumexp(al)


def draw_hmm_forward(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (3,)), normal(k[1], (3, 3)), normal(k[2], (5, 3))


def right_hmm_forward(args, g):
    log_pi, log_a, log_e = args
    first = log_pi + log_e[0]

    def step(al, e):
        return jax.nn.logsumexp(al[:, None] + log_a, axis=0) + e, al

    last, before = lax.scan(step, first, log_e[1:])

    def back(carry, al_prev):
        bar, a_bar = carry
        resp = jax.nn.softmax(al_prev[:, None] + log_a, axis=0) * bar[None, :]
        a_bar = a_bar + resp
        return (resp.sum(axis=1), a_bar), bar

    start = (g * jax.nn.softmax(last), jnp.zeros_like(log_a))
    (pi_bar, a_bar), e_bar = lax.scan(back, start, before, reverse=True)
    e_all = jnp.concatenate([pi_bar[None], e_bar], axis=0)
    return pi_bar, a_bar, e_all


def ridge_solve(A, b, lam):
    n = A.shape[1]
    return jnp.linalg.solve(A.T @ A + lam * jnp.eye(n), A.T @ b)


def draw_ridge_solve(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 3)), normal(k[1], (6, 2)), 1.0 + jax.random.uniform(k[2])


def right_ridge_solve(args, w_bar):
    A, b, lam = args
    M = A.T @ A + lam * jnp.eye(A.shape[1])
    w = jnp.linalg.solve(M, A.T @ b)
    u = jnp.linalg.solve(M.T, w_bar)
    M_bar = -u @ w.T
    A_bar = b @ u.T
    A_bar = A_bar + A @ (M_bar + M_bar.T)
    b_bar = A @ u
    lam_bar = jnp.trace(M_bar)
    return A_bar, b_bar, lam_bar


def gauss_logpdf(x, mu, L):
    z = jax.scipy.linalg.solve_triangular(L, (x - mu).T, lower=True)
    return -0.5 * jnp.sum(z**2, axis=0) - jnp.sum(jnp.log(jnp.diag(L)))


def draw_gauss_logpdf(key):
    k = jax.random.split(key, 4)
    L = 0.5 * jnp.tril(normal(k[2], (3, 3)), -1) + jnp.diag(0.8 + jax.random.uniform(k[3], (3,)))
    return normal(k[0], (5, 3)), normal(k[1], (3,)), L


def right_gauss_logpdf(args, g):
    x, mu, L = args
    tri = jax.scipy.linalg.solve_triangular
    z = tri(L, (x - mu).T, lower=True)
    dz = -z * g[None, :]
    dr = tri(L, dz, lower=True, trans=1)
    dL = -jnp.tril(dr @ z.T)
    dL = dL - jnp.diag(g.sum() / jnp.diag(L))
    dx = dr.T
    dmu = -dr.sum(axis=1)
    return dx, dmu, dL


PTS = jnp.array([[0.0, 0.3], [0.7, -0.4], [1.1, 1.0], [-0.8, 0.5], [0.2, -1.2]])

SQD = jnp.sum((PTS[:, None] - PTS[None]) ** 2, axis=-1)


def gp_nll(y, log_len, log_amp, log_noise):
    K = jnp.exp(2 * log_amp) * jnp.exp(-0.5 * SQD / jnp.exp(2 * log_len))
    K = K + jnp.exp(2 * log_noise) * jnp.eye(5)
    return 0.5 * y @ jnp.linalg.solve(K, y) + 0.5 * jnp.linalg.slogdet(K)[1]


def draw_gp_nll(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (5,)), 0.3 * normal(k[1], ()), 0.3 * normal(k[2], ()), -0.5 + 0.3 * normal(k[3], ())


def right_gp_nll(args, ct):
    y, log_len, log_amp, log_noise = args
    K = jnp.exp(2 * log_amp) * jnp.exp(-0.5 * SQD / jnp.exp(2 * log_len))
    noise = jnp.exp(2 * log_noise)
    Kinv = jnp.linalg.inv(K + noise * jnp.eye(5))
    a = Kinv @ y
    dK = 0.5 * ct * (Kinv - jnp.outer(a, a))
    d_len = jnp.sum(dK * K * SQD) / jnp.exp(2 * log_len)
    d_amp = 2 * jnp.sum(dK * K)
    d_noise = 2 * noise * jnp.trace(dK)
    return ct * a, d_len, d_amp, d_noise


def cayley(x, W):
    S = W - W.T
    eye = jnp.eye(W.shape[0])
    return x @ jnp.linalg.solve(eye - S, eye + S)


def draw_cayley(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (4, 3)), 0.6 * normal(k[1], (3, 3))


def right_cayley(args, G):
    x, W = args
    eye = jnp.eye(W.shape[0])
    S = W - W.T
    Q = jnp.linalg.solve(eye - S, eye + S)
    dQ = x.T @ G
    dN = jnp.linalg.solve((eye - S).T, dQ)
    dM = -dN @ Q.T
    dS = dN - dM
    dW = dS - dS.T
    dx = G @ Q.T
    return dx, dW


EPS = jnp.array([[0.5, -1.0, 0.2], [1.3, 0.4, -0.6]])


def chol_sample(B, mu):
    A = B @ B.T + 0.5 * jnp.eye(3)
    return mu + EPS @ jnp.linalg.cholesky(A).T


def draw_chol_sample(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (3, 4)), normal(k[1], (3,))


def right_chol_sample(args, y_bar):
    B, mu = args
    L = jnp.linalg.cholesky(B @ B.T + 0.5 * jnp.eye(3))
    mu_bar = y_bar.sum(axis=0)
    L_bar = jnp.tril(y_bar.T @ EPS)
    phi = jnp.tril(L.T @ L_bar)
    phi = phi - 0.5 * jnp.diag(jnp.diag(phi))
    Linv = jnp.linalg.inv(L)
    S = Linv.T @ phi @ Linv
    A_bar = 0.5 * (S + S.T)
    B_bar = 2 * A_bar @ B
    return B_bar, mu_bar


def fft_corr(x, h):
    return jnp.fft.ifft(jnp.fft.fft(x) * jnp.conj(jnp.fft.fft(h))).real


def draw_fft_corr(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (8,)), normal(k[1], (8,))


def right_fft_corr(args, g):
    x, h = args
    X, H = jnp.fft.fft(x), jnp.fft.fft(h)
    gP = jnp.fft.ifft(g)
    gX = gP * jnp.conj(H)
    gH = jnp.conj(gP * X)
    gx = jnp.fft.fft(gX).real
    gh = jnp.fft.fft(gH).real
    return gx, gh


def log_power(x, w):
    X = jnp.fft.fft(x * w)
    return jnp.log(X.real**2 + X.imag**2 + 0.1)


def draw_log_power(key):
    k = jax.random.split(key, 2)
    return normal(k[0], (2, 8)), 0.5 + jax.random.uniform(k[1], (8,))


def right_log_power(args, ct):
    x, w = args
    X = jnp.fft.fft(x * w)
    power = jnp.abs(X) ** 2 + 0.1
    d_power = ct / power
    d_X = 2 * d_power * jnp.conj(X)
    d_xw = jnp.fft.fft(d_X).real
    d_x = d_xw * w
    d_w = (d_xw * x).sum(0)
    return d_x, d_w


def diag_ssm(nu, theta, B, C, u):
    lam = jnp.exp(-jnp.exp(nu) + 1j * theta)

    def step(h, ut):
        h = lam * h + B @ ut
        return h, (C @ h).real

    return lax.scan(step, jnp.zeros(nu.shape, jnp.complex64), u)[1]


def draw_diag_ssm(key):
    k = jax.random.split(key, 5)
    return (
        -1 + 0.3 * normal(k[0], (3,)),
        normal(k[1], (3,)),
        cnormal(k[2], (3, 2)),
        cnormal(k[3], (2, 3)),
        normal(k[4], (5, 2)),
    )


def right_diag_ssm(args, gy):
    nu, theta, B, C, u = args
    lam = jnp.exp(-jnp.exp(nu) + 1j * theta)
    h = jnp.zeros(nu.shape, jnp.complex64)
    hs = [h]
    for t in range(u.shape[0]):
        h = lam * h + B @ u[t]
        hs.append(h)
    g_lam, gB, gC = jnp.zeros_like(lam), jnp.zeros_like(B), jnp.zeros_like(C)
    gu = [None] * u.shape[0]
    gh = jnp.zeros_like(h)
    for t in reversed(range(u.shape[0])):
        gh = gh + C.T @ gy[t]
        gC = gC + jnp.outer(gy[t], hs[t + 1])
        g_lam = g_lam + gh * hs[t]
        gB = gB + jnp.outer(gh, u[t])
        gu[t] = (B.T @ gh).real
        gh = lam * gh
    g_nu = (g_lam * lam).real * -jnp.exp(nu)
    g_theta = (1j * g_lam * lam).real
    return g_nu, g_theta, gB, gC, jnp.stack(gu)


def mod_relu(x, W, b):
    z = W @ x
    r = jnp.abs(z)
    return jax.nn.relu(r + b) * z / r


def draw_mod_relu(key):
    k = jax.random.split(key, 3)
    return cnormal(k[0], (3,)), cnormal(k[1], (5, 3)), -3.0 + 1.5 * normal(k[2], (5,))


def right_mod_relu(args, c):
    x, W, b = args
    z = W @ x
    r = jnp.abs(z)
    unit = z / r
    s = jax.nn.relu(r + b)
    along = (c * unit).real
    d_s = along * (s > 0)
    d_r = d_s - along * s / r
    d_z = c * s / r + d_r * jnp.conj(unit)
    d_W = jnp.outer(d_z, x)
    d_x = W.T @ d_z
    return d_x, d_W, d_s


SINGLE = [
    *wrong_rules(
        sage_layer,
        right_sage_layer,
        draw_sage_layer,
        """
sage_layer_gather_src
- d_msg = d_agg[DST]
+ d_msg = d_agg[SRC]
index: gathered at the sources instead of the destinations
    """,
    ),
    *wrong_rules(
        gat,
        right_gat,
        draw_gat,
        """
gat_score_slope
- raw_bar = e_bar * (1 - jnp.tanh(raw) ** 2)
+ raw_bar = e_bar
activation: slope of the tanh on the scores missing
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf_nll,
        draw_crf_nll,
        """
crf_nll_gold_emit
- d_emit = d_emit.at[0].set(jnp.exp(alpha[0] + beta - logz))
-     d_emit = d_emit.at[jnp.arange(T), TAGS].add(-1.0)
+ d_emit = d_emit.at[0].set(jnp.exp(alpha[0] + beta - logz))
term: gold emissions never subtracted
@ return g * d_emit, g * d_trans
    """,
    ),
    *wrong_rules(
        hmm_forward,
        right_hmm_forward,
        draw_hmm_forward,
        """
hmm_forward_a_overwritten
- a_bar = a_bar + resp
+ a_bar = resp
carry: transition gradient of earlier steps thrown away
    """,
    ),
    *wrong_rules(
        ridge_solve,
        right_ridge_solve,
        draw_ridge_solve,
        """
ridge_solve_one_side
- A_bar = A_bar + A @ (M_bar + M_bar.T)
+ A_bar = A_bar + A @ M_bar
term: transposed half of the product rule for A.T @ A forgotten
    """,
    ),
    *wrong_rules(
        gauss_logpdf,
        right_gauss_logpdf,
        draw_gauss_logpdf,
        """
gauss_logpdf_trans
- dr = tri(L, dz, lower=True, trans=1)
+ dr = tri(L, dz, lower=True)
transpose: solved with L instead of its transpose

gauss_logpdf_no_tril
- dL = -jnp.tril(dr @ z.T)
+ dL = -(dr @ z.T)
mask: upper triangle not masked away
    """,
    ),
    *wrong_rules(
        gp_nll,
        right_gp_nll,
        draw_gp_nll,
        """
gp_nll_logdet_left_out
- dK = 0.5 * ct * (Kinv - jnp.outer(a, a))
+ dK = -0.5 * ct * jnp.outer(a, a)
term: log-determinant part of the kernel gradient forgotten
    """,
    ),
    *wrong_rules(
        cayley,
        right_cayley,
        draw_cayley,
        """
cayley_not_skew
- dW = dS - dS.T
+ dW = dS + dS.T
sign: plus instead of minus in the skew part
    """,
    ),
    *wrong_rules(
        chol_sample,
        right_chol_sample,
        draw_chol_sample,
        """
chol_sample_diag
- phi = jnp.tril(L.T @ L_bar)
-     phi = phi - 0.5 * jnp.diag(jnp.diag(phi))
+ phi = jnp.tril(L.T @ L_bar)
constant: diagonal not halved before the triangular factors are applied
@ S = Linv.T @ phi @ Linv
    """,
    ),
    *wrong_rules(
        fft_corr,
        right_fft_corr,
        draw_fft_corr,
        """
fft_corr_conj_h
- gX = gP * jnp.conj(H)
+ gX = gP * H
conjugate: conjugate of the filter spectrum missing
    """,
    ),
    *wrong_rules(
        log_power,
        right_log_power,
        draw_log_power,
        """
log_power_no_conj
- d_X = 2 * d_power * jnp.conj(X)
+ d_X = 2 * d_power * X
conjugate: conjugate of the spectrum forgotten
    """,
    ),
    *wrong_rules(
        diag_ssm,
        right_diag_ssm,
        draw_diag_ssm,
        """
diag_ssm_conj_lam
- gh = lam * gh
+ gh = jnp.conj(lam) * gh
conjugate: conjugate of the pole, which this convention does not have
    """,
    ),
    *wrong_rules(
        mod_relu,
        right_mod_relu,
        draw_mod_relu,
        """
mod_relu_hermitian
- d_x = W.T @ d_z
+ d_x = W.conj().T @ d_z
conjugate: conjugate transpose where the plain transpose belongs
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        gat,
        right_gat,
        draw_gat,
        """
gat_three
- z_bar = jnp.zeros_like(z).at[E_FROM].add(alpha[:, None] * ct_e)
+ z_bar = jnp.zeros_like(z).at[E_FROM].add(ct_e)
- alpha_bar = jnp.sum(ct_e * z[E_FROM], axis=-1)
+ alpha_bar = jnp.mean(ct_e * z[E_FROM], axis=-1)
- d_bar = jax.ops.segment_sum(raw_bar, E_TO, 4)
+ d_bar = jax.ops.segment_sum(raw_bar, E_FROM, 4)
factor: attention weight missing on the message path
@ z_bar = jnp.zeros_like(z).at[E_FROM].add(ct_e)
index: summed at the wrong end of the edge
@ d_bar = jax.ops.segment_sum(raw_bar, E_FROM, 4)
reduction: mean over the features in place of the sum
@ alpha_bar = jnp.mean(ct_e * z[E_FROM], axis=-1)
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf_nll,
        draw_crf_nll,
        """
crf_nll_trans_pair
- pair = jnp.exp(alpha[t - 1][:, None] + trans + right_part[None, :] - logz)
+ pair = jnp.exp(alpha[t][:, None] + trans + right_part[None, :] - logz)
- d_trans = d_trans + pair
+ d_trans = pair
carry: only the last pair kept, not accumulated
@ d_trans = pair
index: alpha of the same step instead of the previous one
@ pair = jnp.exp(alpha[t][:, None] + trans + right_part[None, :] - logz)
    """,
    ),
    *wrong_rules(
        hmm_forward,
        right_hmm_forward,
        draw_hmm_forward,
        """
hmm_forward_two
- return (resp.sum(axis=1), a_bar), bar
+ return (resp.sum(axis=0), a_bar), bar
- start = (g * jax.nn.softmax(last), jnp.zeros_like(log_a))
+ start = (g * jnp.ones_like(last), jnp.zeros_like(log_a))
axis: message summed over the previous states, so it only hands bar back
@ return (resp.sum(axis=0), a_bar), bar
factor: softmax of the last alpha missing at the start
@ start = (g * jnp.ones_like(last), jnp.zeros_like(log_a))
    """,
    ),
    *wrong_rules(
        gauss_logpdf,
        right_gauss_logpdf,
        draw_gauss_logpdf,
        """
gauss_logpdf_three
- dz = -z * g[None, :]
+ dz = -2.0 * z * g[None, :]
- dL = -jnp.tril(dr @ z.T)
+ dL = -jnp.tril(dr @ z.T, -1)
- dmu = -dr.sum(axis=1)
+ dmu = dr.sum(axis=1)
mask: diagonal masked away together with the upper triangle
@ dL = -jnp.tril(dr @ z.T, -1)
sign: minus of mu lost
@ dmu = dr.sum(axis=1)
constant: the one half already cancels the 2
@ dz = -2.0 * z * g[None, :]
    """,
    ),
    *wrong_rules(
        chol_sample,
        right_chol_sample,
        draw_chol_sample,
        """
chol_sample_two
- S = Linv.T @ phi @ Linv
+ S = Linv @ phi @ Linv.T
- B_bar = 2 * A_bar @ B
+ B_bar = A_bar @ B
transpose: inverse factor transposed on the wrong side
@ S = Linv @ phi @ Linv.T
constant: factor two of the symmetric product missing
@ B_bar = A_bar @ B
    """,
    ),
    *wrong_rules(
        fft_corr,
        right_fft_corr,
        draw_fft_corr,
        """
fft_corr_two
- gH = jnp.conj(gP * X)
+ gH = gP * X
- gx = jnp.fft.fft(gX).real
+ gx = jnp.fft.fft(gX).real / g.shape[0]
conjugate: cotangent not conjugated back
@ gH = gP * X
factor: divided by n a second time
@ gx = jnp.fft.fft(gX).real / g.shape[0]
    """,
    ),
    *wrong_rules(
        log_power,
        right_log_power,
        draw_log_power,
        """
log_power_three
- d_power = ct / power
+ d_power = ct * power
- d_xw = jnp.fft.fft(d_X).real
+ d_xw = jnp.fft.fft(d_X).imag
- d_w = (d_xw * x).sum(0)
+ d_w = (d_x * x).sum(0)
operand: imaginary part taken
@ d_xw = jnp.fft.fft(d_X).imag
factor: product in place of division
@ d_power = ct * power
operand: windowed gradient d_x in place of d_xw
@ d_w = (d_x * x).sum(0)
    """,
    ),
    *wrong_rules(
        diag_ssm,
        right_diag_ssm,
        draw_diag_ssm,
        """
diag_ssm_two
- gB = gB + jnp.outer(gh, u[t])
+ gB = gB + jnp.outer(jnp.conj(gh), u[t])
- g_theta = (1j * g_lam * lam).real
+ g_theta = (g_lam * lam).imag
sign: real part of 1j*z is minus its imaginary part
@ g_theta = (g_lam * lam).imag
conjugate: stray conjugate on the state gradient
@ gB = gB + jnp.outer(jnp.conj(gh), u[t])

diag_ssm_three
- gh = gh + C.T @ gy[t]
+ gh = C.T @ gy[t]
- gC = gC + jnp.outer(gy[t], hs[t + 1])
+ gC = gC + jnp.outer(gy[t], jnp.conj(hs[t + 1]))
- gu[t] = (B.T @ gh).real
+ gu[t] = (B.T @ gh).real / 2
carry: gradient of later steps thrown away
@ gh = C.T @ gy[t]
conjugate: state conjugated
@ gC = gC + jnp.outer(gy[t], jnp.conj(hs[t + 1]))
constant: halved for no reason
@ gu[t] = (B.T @ gh).real / 2
    """,
    ),
    *wrong_rules(
        mod_relu,
        right_mod_relu,
        draw_mod_relu,
        """
mod_relu_two
- d_s = along * (s > 0)
+ d_s = along
- d_z = c * s / r + d_r * jnp.conj(unit)
+ d_z = c * s / r + d_r * unit
conjugate: direction not conjugated
@ d_z = c * s / r + d_r * unit
mask: gate of the relu missing
@ d_s = along
    """,
    ),
]
