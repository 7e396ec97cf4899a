"""Matrix functions, sequence models, graphs, convolutions."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules


def gp_nll(X, y, log_ell, log_noise):
    d2 = ((X[:, None] - X[None]) ** 2).sum(-1)
    K = jnp.exp(-0.5 * d2 * jnp.exp(-2 * log_ell)) + jnp.exp(log_noise) * jnp.eye(len(y))
    return 0.5 * y @ jnp.linalg.solve(K, y) + 0.5 * jnp.linalg.slogdet(K)[1]


def draw_gp_nll(key):
    k = jax.random.split(key, 4)
    return (
        jax.random.normal(k[0], (6, 2)),
        jax.random.normal(k[1], (6,)),
        0.2 * jax.random.normal(k[2], ()),
        -0.5 + 0.2 * jax.random.normal(k[3], ()),
    )


def right_gp_marginal_grad(args, ct):
    X, y, log_ell, log_noise = args
    diff = X[:, None, :] - X[None, :, :]
    inv_ell2 = jnp.exp(-2 * log_ell)
    d2 = (diff**2).sum(-1)
    Kf = jnp.exp(-0.5 * d2 * inv_ell2)
    Kinv = jnp.linalg.inv(Kf + jnp.exp(log_noise) * jnp.eye(len(y)))
    alpha = Kinv @ y
    dK = 0.5 * (Kinv - jnp.outer(alpha, alpha))
    dy = alpha
    W = dK * Kf
    dX = -2 * inv_ell2 * jnp.einsum("ij,ijd->id", W, diff)
    dell = (W * d2).sum() * inv_ell2
    dnoise = jnp.trace(dK) * jnp.exp(log_noise)
    return ct * dX, ct * dy, ct * dell, ct * dnoise


def chol_logpdf(x, mu, L):
    L = jnp.tril(L)
    z = jax.scipy.linalg.solve_triangular(L, (x - mu).T, lower=True)
    return -0.5 * (z**2).sum(0) - jnp.log(jnp.diag(L)).sum()


def draw_chol_logpdf(key):
    k = jax.random.split(key, 3)
    return (
        jax.random.normal(k[0], (5, 3)),
        jax.random.normal(k[1], (3,)),
        0.5 * jax.random.normal(k[2], (3, 3)) + jnp.eye(3) * 2,
    )


def right_mvn_chol_bwd(args, g):
    x, mu, L = args
    L = jnp.tril(L)
    z = jax.scipy.linalg.solve_triangular(L, (x - mu).T, lower=True)
    dz = -z * g
    dr = jax.scipy.linalg.solve_triangular(L, dz, lower=True, trans=1)
    dL = -dr @ z.T
    dL = jnp.tril(dL) - jnp.diag(g.sum() / jnp.diag(L))
    dx = dr.T
    dmu = -dr.sum(1)
    return dx, dmu, dL


def ridge(A, B, lam):
    M = A.T @ A + jnp.exp(lam) * jnp.eye(A.shape[1])
    return jnp.linalg.solve(M, A.T @ B)


def draw_ridge(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (6, 3)), jax.random.normal(k[1], (6, 2)), 0.5 * jax.random.normal(k[2], ())


def right_ridge_vjp(args, W_bar):
    A, B, lam = args
    M = A.T @ A + jnp.exp(lam) * jnp.eye(A.shape[1])
    W = jnp.linalg.solve(M, A.T @ B)
    S = jnp.linalg.solve(M, W_bar)
    M_bar = -S @ W.T
    B_bar = A @ S
    A_bar = B @ S.T
    A_bar = A_bar + A @ (M_bar + M_bar.T)
    lam_bar = jnp.trace(M_bar) * jnp.exp(lam)
    return A_bar, B_bar, lam_bar


def hmm_loglik(log_pi, log_T, log_E):
    T = jax.nn.log_softmax(log_T, axis=1)
    a = log_pi + log_E[0]
    for t in range(1, log_E.shape[0]):
        a = jax.nn.logsumexp(a[:, None] + T, axis=0) + log_E[t]
    return jax.nn.logsumexp(a)


def draw_hmm(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (3,)), jax.random.normal(k[1], (3, 3)), jax.random.normal(k[2], (5, 3))


def right_hmm_posteriors(args, ct):
    log_pi, log_T, log_E = args
    T = jax.nn.log_softmax(log_T, axis=1)
    n = log_E.shape[0]
    alphas = [log_pi + log_E[0]]
    for t in range(1, n):
        alphas.append(jax.nn.logsumexp(alphas[-1][:, None] + T, axis=0) + log_E[t])
    gamma = jax.nn.softmax(alphas[-1]) * ct
    dT = jnp.zeros_like(T)
    dE = [gamma]
    for t in range(n - 1, 0, -1):
        back = jax.nn.softmax(alphas[t - 1][:, None] + T, axis=0)
        xi = back * gamma[None, :]
        dT = dT + xi
        gamma = xi.sum(1)
        dE.append(gamma)
    dE = jnp.stack(dE[::-1])
    d_log_T = dT - jnp.exp(T) * dT.sum(1, keepdims=True)
    return gamma, d_log_T, dE


SRC = jnp.array([0, 1, 2, 3, 0, 2, 4])

DST = jnp.array([1, 2, 0, 0, 3, 4, 1])


def graph_attention(x, w, a_src, a_dst):
    h = x @ w
    e = jax.nn.leaky_relu((h @ a_src)[SRC] + (h @ a_dst)[DST], 0.2)
    p = jnp.exp(e)
    den = jax.ops.segment_sum(p, DST, 5)
    return jax.ops.segment_sum(p[:, None] * h[SRC], DST, 5) / den[:, None]


def draw_graph_attention(key):
    k = jax.random.split(key, 4)
    return (
        jax.random.normal(k[0], (5, 3)),
        jax.random.normal(k[1], (3, 4)) * 0.7,
        jax.random.normal(k[2], (4,)),
        jax.random.normal(k[3], (4,)),
    )


def right_gat_backward(args, ct):
    x, w, a_src, a_dst = args
    h = x @ w
    pre = (h @ a_src)[SRC] + (h @ a_dst)[DST]
    p = jnp.exp(jax.nn.leaky_relu(pre, 0.2))
    alpha = p / jax.ops.segment_sum(p, DST, 5)[DST]
    msg_g = ct[DST]
    d_alpha = (msg_g * h[SRC]).sum(-1)
    inner = jax.ops.segment_sum(alpha * d_alpha, DST, 5)
    d_e = alpha * (d_alpha - inner[DST])
    d_pre = d_e * jnp.where(pre > 0, 1.0, 0.2)
    s_src = jax.ops.segment_sum(d_pre, SRC, 5)
    s_dst = jax.ops.segment_sum(d_pre, DST, 5)
    dh = jax.ops.segment_sum(alpha[:, None] * msg_g, SRC, 5)
    dh = dh + jnp.outer(s_src, a_src) + jnp.outer(s_dst, a_dst)
    return dh @ w.T, x.T @ dh, s_src @ h, s_dst @ h


ADJ = jnp.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0]], jnp.float32)


def gcn_two(x, w1, w2):
    a = ADJ / ADJ.sum(1, keepdims=True)
    return a @ jax.nn.relu(a @ x @ w1) @ w2


def draw_gcn_two(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (4, 3)), jax.random.normal(k[1], (3, 5)), jax.random.normal(k[2], (5, 2))


def right_gcn_grad(args, delta):
    x, w1, w2 = args
    a = ADJ / ADJ.sum(1, keepdims=True)
    ax = a @ x
    z = ax @ w1
    h = jax.nn.relu(z)
    g_w2 = (a @ h).T @ delta
    g_h = a.T @ delta @ w2.T
    g_z = jnp.where(z > 0, g_h, 0.0)
    g_w1 = ax.T @ g_z
    g_x = a.T @ g_z @ w1.T
    return g_x, g_w1, g_w2


def conv1d(x, w, b):
    y = lax.conv_general_dilated(x, w, (1,), "VALID", dimension_numbers=("NCW", "OIW", "NCW"))
    return jax.nn.relu(y + b[None, :, None])


def draw_conv1d(key):
    k = jax.random.split(key, 3)
    return (
        jax.random.normal(k[0], (2, 3, 8)),
        jax.random.normal(k[1], (4, 3, 3)) * 0.5,
        jax.random.normal(k[2], (4,)) * 0.3,
    )


def right_conv1d_loops(args, gy):
    x, w, b = args
    k, n = w.shape[-1], gy.shape[-1]
    y = sum(jnp.einsum("bcw,oc->bow", x[:, :, j : j + n], w[:, :, j]) for j in range(k)) + b[None, :, None]
    gy = gy * (y > 0)
    gb = gy.sum((0, 2))
    gx, gw = jnp.zeros_like(x), jnp.zeros_like(w)
    for j in range(k):
        gw = gw.at[:, :, j].set(jnp.einsum("bow,bcw->oc", gy, x[:, :, j : j + n]))
        gx = gx.at[:, :, j : j + n].add(jnp.einsum("bow,oc->bcw", gy, w[:, :, j]))
    return gx, gw, gb


def im2col(x, kh, kw):
    H, W = x.shape[0] - kh + 1, x.shape[1] - kw + 1
    cols = [x[i : i + H, j : j + W] for i in range(kh) for j in range(kw)]
    return jnp.stack(cols, axis=2)


def conv2d_pool(x, w):
    y = jnp.einsum("hwkc,kco->hwo", im2col(x, 2, 2), w)
    H, W, O = y.shape
    return jnp.tanh(y).reshape(H // 2, 2, W // 2, 2, O).mean((1, 3))


def draw_conv2d_pool(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (5, 5, 2)), jax.random.normal(b, (4, 2, 3)) * 0.5


def right_conv_pool_bwd(args, dout):
    x, w = args
    cols = im2col(x, 2, 2)
    t = jnp.tanh(jnp.einsum("hwkc,kco->hwo", cols, w))
    H, W, _ = t.shape
    up = jnp.repeat(jnp.repeat(dout, 2, axis=0), 2, axis=1) / 4
    dy = up * (1 - t * t)
    dw = jnp.einsum("hwkc,hwo->kco", cols, dy)
    dcols = jnp.einsum("hwo,kco->hwkc", dy, w)
    dx = jnp.zeros_like(x)
    for i in range(2):
        for j in range(2):
            dx = dx.at[i : i + H, j : j + W].add(dcols[:, :, 2 * i + j])
    return dx, dw


def max_pool(x, w):
    y = (x * w).reshape(4, 3, 5)
    return y.max(axis=1)


def draw_max_pool(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (12, 5)), jax.random.normal(b, (5,))


def right_max_pool_rule(args, g):
    x, w = args
    y = (x * w).reshape(4, 3, 5)
    first = jax.nn.one_hot(jnp.argmax(y, axis=1), 3, axis=1)
    gy = (first * g[:, None, :]).reshape(12, 5)
    return gy * w, (gy * x).sum(0)


SINGLE = [
    *wrong_rules(
        gp_nll,
        right_gp_marginal_grad,
        draw_gp_nll,
        """
gp_marginal_grad_1
- dK = 0.5 * (Kinv - jnp.outer(alpha, alpha))
+ dK = 0.5 * Kinv - jnp.outer(alpha, alpha)
constant: 0.5 of the data term missing

gp_marginal_grad_2
- dX = -2 * inv_ell2 * jnp.einsum("ij,ijd->id", W, diff)
+ dX = -inv_ell2 * jnp.einsum("ij,ijd->id", W, diff)
factor: 2 missing: each X is in a row and in a column

gp_marginal_grad_3
- dell = (W * d2).sum() * inv_ell2
+ dell = (dK * d2).sum() * inv_ell2
operand: kernel Kf missing, dK in place of W

gp_marginal_grad_4
- dnoise = jnp.trace(dK) * jnp.exp(log_noise)
+ dnoise = jnp.trace(dK)
factor: exp(log_noise) missing
    """,
    ),
    *wrong_rules(
        chol_logpdf,
        right_mvn_chol_bwd,
        draw_chol_logpdf,
        """
mvn_chol_bwd_1
- dz = -z * g
+ dz = -z
factor: upstream gradient missing

mvn_chol_bwd_2
- dr = jax.scipy.linalg.solve_triangular(L, dz, lower=True, trans=1)
+ dr = jax.scipy.linalg.solve_triangular(L, dz, lower=True)
transpose: solve with L instead of its transpose

mvn_chol_bwd_3
- dL = -dr @ z.T
+ dL = -z @ dr.T
transpose: outer product the wrong way round

mvn_chol_bwd_4
- dL = jnp.tril(dL) - jnp.diag(g.sum() / jnp.diag(L))
+ dL = jnp.tril(dL) - jnp.diag(g.mean() / jnp.diag(L))
reduction: mean in place of sum over the batch
    """,
    ),
    *wrong_rules(
        ridge,
        right_ridge_vjp,
        draw_ridge,
        """
ridge_vjp_1
- M_bar = -S @ W.T
+ M_bar = S @ W.T
sign: minus of the solve's derivative missing

ridge_vjp_2
- A_bar = B @ S.T
+ A_bar = B @ W.T
operand: solution W in place of the adjoint S

ridge_vjp_3
- A_bar = A_bar + A @ (M_bar + M_bar.T)
+ A_bar = A_bar + 2 * A @ M_bar
transpose: M_bar is not symmetric, its transpose is missing
    """,
    ),
    *wrong_rules(
        hmm_loglik,
        right_hmm_posteriors,
        draw_hmm,
        """
hmm_posteriors_1
- gamma = xi.sum(1)
+ gamma = xi.sum(0)
axis: summed over the old states instead of the new ones

hmm_posteriors_2
- back = jax.nn.softmax(alphas[t - 1][:, None] + T, axis=0)
+ back = jax.nn.softmax(alphas[t][:, None] + T, axis=0)
index: alphas[t] in place of alphas[t - 1]

hmm_posteriors_3
- xi = back * gamma[None, :]
+ xi = back * gamma[:, None]
axis: gamma broadcast along the wrong axis

hmm_posteriors_4
- d_log_T = dT - jnp.exp(T) * dT.sum(1, keepdims=True)
+ d_log_T = dT - jnp.exp(T) * dT.sum(0, keepdims=True)
axis: sum over rows instead of columns
    """,
    ),
    *wrong_rules(
        graph_attention,
        right_gat_backward,
        draw_graph_attention,
        """
gat_backward_1
- alpha = p / jax.ops.segment_sum(p, DST, 5)[DST]
+ alpha = p / jax.ops.segment_sum(p, SRC, 5)[SRC]
index: normalised over the source nodes instead of the destinations

gat_backward_2
- d_alpha = (msg_g * h[SRC]).sum(-1)
+ d_alpha = (msg_g * h[DST]).sum(-1)
index: DST in place of SRC

gat_backward_3
- d_pre = d_e * jnp.where(pre > 0, 1.0, 0.2)
+ d_pre = d_e * (pre > 0)
activation: slope 0.2 of the leaky relu is missing

gat_backward_4
- dh = jax.ops.segment_sum(alpha[:, None] * msg_g, SRC, 5)
+ dh = jax.ops.segment_sum(alpha[:, None] * msg_g, DST, 5)
index: gradient gathered at the destinations instead of the sources
    """,
    ),
    *wrong_rules(
        gcn_two,
        right_gcn_grad,
        draw_gcn_two,
        """
gcn_grad_1
- g_h = a.T @ delta @ w2.T
+ g_h = a @ delta @ w2.T
transpose: adjacency not transposed

gcn_grad_2
- g_w2 = (a @ h).T @ delta
+ g_w2 = h.T @ delta
factor: adjacency missing in the gradient of w2

gcn_grad_3
- g_z = jnp.where(z > 0, g_h, 0.0)
+ g_z = jnp.where(z > 0, 0.0, g_h)
mask: relu mask inverted
    """,
    ),
    *wrong_rules(
        conv1d,
        right_conv1d_loops,
        draw_conv1d,
        """
conv1d_loops_1
- gb = gy.sum((0, 2))
+ gb = gy.mean((0, 2))
reduction: mean in place of sum in the bias gradient

conv1d_loops_2
- gx = gx.at[:, :, j : j + n].add(jnp.einsum("bow,oc->bcw", gy, w[:, :, j]))
+ gx = gx.at[:, :, j : j + n].set(jnp.einsum("bow,oc->bcw", gy, w[:, :, j]))
carry: set overwrites what the other taps added

conv1d_loops_3
- gx = gx.at[:, :, j : j + n].add(jnp.einsum("bow,oc->bcw", gy, w[:, :, j]))
+ gx = gx.at[:, :, j : j + n].add(jnp.einsum("bow,oc->bcw", gy, w[:, :, k - 1 - j]))
index: kernel flipped
    """,
    ),
    *wrong_rules(
        conv2d_pool,
        right_conv_pool_bwd,
        draw_conv2d_pool,
        """
conv_pool_bwd_1
- up = jnp.repeat(jnp.repeat(dout, 2, axis=0), 2, axis=1) / 4
+ up = jnp.repeat(jnp.repeat(dout, 2, axis=0), 2, axis=1)
factor: 1/4 of the mean pooling is missing

conv_pool_bwd_2
- up = jnp.repeat(jnp.repeat(dout, 2, axis=0), 2, axis=1) / 4
+ up = jnp.tile(dout, (2, 2, 1)) / 4
index: tile instead of repeat

conv_pool_bwd_3
- dx = dx.at[i : i + H, j : j + W].add(dcols[:, :, 2 * i + j])
+ dx = dx.at[i : i + H, j : j + W].add(dcols[:, :, i + 2 * j])
index: rows and columns of the patch swapped

conv_pool_bwd_4
- dx = dx.at[i : i + H, j : j + W].add(dcols[:, :, 2 * i + j])
+ dx = dx.at[:H, :W].add(dcols[:, :, 2 * i + j])
index: offsets i, j missing
    """,
    ),
    *wrong_rules(
        max_pool,
        right_max_pool_rule,
        draw_max_pool,
        """
max_pool_rule_1
- first = jax.nn.one_hot(jnp.argmax(y, axis=1), 3, axis=1)
+ first = jax.nn.one_hot(jnp.argmin(y, axis=1), 3, axis=1)
mask: argmin in place of argmax

max_pool_rule_2
- gy = (first * g[:, None, :]).reshape(12, 5)
+ gy = (first * g.mean(1)[:, None, None]).reshape(12, 5)
reduction: mean over the channels of the gradient

max_pool_rule_3
- return gy * w, (gy * x).sum(0)
+ return gy, (gy * x).sum(0)
factor: scale w missing in the gradient of x
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        gp_nll,
        right_gp_marginal_grad,
        draw_gp_nll,
        """
gp_marginal_grad_5
- dK = 0.5 * (Kinv - jnp.outer(alpha, alpha))
+ dK = 0.5 * (Kinv + jnp.outer(alpha, alpha))
- dX = -2 * inv_ell2 * jnp.einsum("ij,ijd->id", W, diff)
+ dX = -2 * inv_ell2 * jnp.einsum("ij,ijd->jd", W, diff)
sign: sign of the data term
@ dK = 0.5 * (Kinv + jnp.outer(alpha, alpha))
transpose: summed to j instead of i
@ dX = -2 * inv_ell2 * jnp.einsum("ij,ijd->jd", W, diff)
    """,
    ),
    *wrong_rules(
        chol_logpdf,
        right_mvn_chol_bwd,
        draw_chol_logpdf,
        """
mvn_chol_bwd_5
- dL = -dr @ z.T
+ dL = dr @ z.T
- dmu = -dr.sum(1)
+ dmu = dr.sum(1)
sign: minus missing
@ dL = dr @ z.T
sign: minus missing for mu
@ dmu = dr.sum(1)
    """,
    ),
    *wrong_rules(
        hmm_loglik,
        right_hmm_posteriors,
        draw_hmm,
        """
hmm_posteriors_5
- back = jax.nn.softmax(alphas[t - 1][:, None] + T, axis=0)
+ back = jax.nn.softmax(alphas[t - 1][:, None] + T, axis=1)
- d_log_T = dT - jnp.exp(T) * dT.sum(1, keepdims=True)
+ d_log_T = dT - jnp.exp(log_T) * dT.sum(1, keepdims=True)
axis: normalised over the wrong axis
@ back = jax.nn.softmax(alphas[t - 1][:, None] + T, axis=1)
operand: unnormalised log_T in place of T
@ d_log_T = dT - jnp.exp(log_T) * dT.sum(1, keepdims=True)
    """,
    ),
    *wrong_rules(
        graph_attention,
        right_gat_backward,
        draw_graph_attention,
        """
gat_backward_5
- d_pre = d_e * jnp.where(pre > 0, 1.0, 0.2)
+ d_pre = d_e
- dh = dh + jnp.outer(s_src, a_src) + jnp.outer(s_dst, a_dst)
+ dh = dh + jnp.outer(s_dst, a_src) + jnp.outer(s_src, a_dst)
activation: slope of the leaky relu is missing
@ d_pre = d_e
operand: sums of sources and destinations swapped
@ dh = dh + jnp.outer(s_dst, a_src) + jnp.outer(s_src, a_dst)
    """,
    ),
    *wrong_rules(
        gcn_two,
        right_gcn_grad,
        draw_gcn_two,
        """
gcn_grad_4
- g_w1 = ax.T @ g_z
+ g_w1 = x.T @ g_z
- g_x = a.T @ g_z @ w1.T
+ g_x = g_z @ w1.T
operand: x in place of the aggregated ax
@ g_w1 = x.T @ g_z
factor: adjacency missing in the gradient of x
@ g_x = g_z @ w1.T
    """,
    ),
    *wrong_rules(
        conv2d_pool,
        right_conv_pool_bwd,
        draw_conv2d_pool,
        """
conv_pool_bwd_5
- dy = up * (1 - t * t)
+ dy = up
- dx = dx.at[i : i + H, j : j + W].add(dcols[:, :, 2 * i + j])
+ dx = dx.at[j : j + H, i : i + W].add(dcols[:, :, 2 * i + j])
activation: tanh slope is missing
@ dy = up
index: offsets i and j swapped
@ dx = dx.at[j : j + H, i : i + W].add(dcols[:, :, 2 * i + j])
    """,
    ),
]
