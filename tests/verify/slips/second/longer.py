"""Longer rules, written step by step or per example, with their derivations' slips."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules


def deep_mlp(x, ws, bs):
    h = x
    for l in range(3):
        h = jax.nn.softplus(h @ ws[l] + bs[l])
    return jnp.mean((h - 1.0) ** 2)


def draw_deep_mlp(key):
    k = jax.random.split(key, 3)
    return (
        jax.random.normal(k[0], (6, 4)),
        0.6 * jax.random.normal(k[1], (3, 4, 4)),
        0.4 * jax.random.normal(k[2], (3, 4)),
    )


def right_backprop_list(args, ct):
    x, ws, bs = args
    acts, pre = [x], []
    for l in range(3):
        pre.append(acts[-1] @ ws[l] + bs[l])
        acts.append(jnp.logaddexp(pre[-1], 0.0))
    delta = ct * 2 * (acts[-1] - 1.0) / acts[-1].size
    gw, gb = [], []
    for l in (2, 1, 0):
        delta = delta * jax.nn.sigmoid(pre[l])
        gw.append(acts[l].T @ delta)
        gb.append(delta.sum(0))
        delta = delta @ ws[l].T
    return delta, jnp.stack(gw[::-1]), jnp.stack(gb[::-1])


def ssm(u, logA, B, C, D):
    A = jnp.exp(-jnp.exp(logA))

    def step(s, u_t):
        s = A * s + B @ u_t
        return s, C @ s + D * u_t

    return lax.scan(step, jnp.zeros(logA.shape), u)[1]


def draw_ssm(key):
    k = jax.random.split(key, 5)
    return (
        jax.random.normal(k[0], (6, 2)),
        0.4 * jax.random.normal(k[1], (4,)) - 0.5,
        jax.random.normal(k[2], (4, 2)),
        jax.random.normal(k[3], (2, 4)),
        jax.random.normal(k[4], (2,)),
    )


def right_ssm_adjoint(args, y_bar):
    u, logA, B, C, D = args
    A = jnp.exp(-jnp.exp(logA))
    s0 = jnp.zeros(logA.shape)
    _, s_in = lax.scan(lambda s, x: (A * s + B @ x, s), s0, u)
    s_out = A * s_in + u @ B.T

    def right_reverse(lam, inp):
        g, s_prev, s_new, x = inp
        lam = lam + C.T @ g
        grads = {
            "A": lam * s_prev,
            "B": jnp.outer(lam, x),
            "C": jnp.outer(g, s_new),
            "u": B.T @ lam + D * g,
        }
        return A * lam, grads

    _, gr = lax.scan(right_reverse, s0, (y_bar, s_in, s_out, u), reverse=True)
    dlogA = -gr["A"].sum(0) * A * jnp.exp(logA)
    dD = (y_bar * u).sum(0)
    return gr["u"], dlogA, gr["B"].sum(0), gr["C"].sum(0), dD


GROUPS = 2


def group_norm(x, gamma, beta):
    b, c, l = x.shape
    xg = x.reshape(b, GROUPS, -1)
    m = xg.mean(-1, keepdims=True)
    v = xg.var(-1, keepdims=True)
    y = ((xg - m) / jnp.sqrt(v + 1e-5)).reshape(b, c, l)
    return jax.nn.relu(y * gamma[:, None] + beta[:, None])


def draw_group_norm(key):
    k = jax.random.split(key, 3)
    return (
        jax.random.normal(k[0], (3, 4, 5)),
        1 + 0.4 * jax.random.normal(k[1], (4,)),
        0.4 * jax.random.normal(k[2], (4,)),
    )


def right_gn_bwd(args, dz):
    x, gamma, beta = args
    b, c, l = x.shape
    xg = x.reshape(b, GROUPS, -1)
    rstd = 1 / jnp.sqrt(xg.var(-1, keepdims=True) + 1e-5)
    xn = (xg - xg.mean(-1, keepdims=True)) * rstd
    y = xn.reshape(b, c, l)
    dz = jnp.where(y * gamma[:, None] + beta[:, None] > 0, dz, 0)
    d_beta = dz.sum((0, 2))
    d_gamma = (dz * y).sum((0, 2))
    dn = (dz * gamma[:, None]).reshape(xg.shape)
    a = dn.mean(-1, keepdims=True)
    k = (dn * xn).mean(-1, keepdims=True)
    dx = (dn - a - xn * k) * rstd
    return dx.reshape(x.shape), d_gamma, d_beta


TAGS = jnp.array([1, 0, 2, 2, 1])


def crf_nll(emit, trans, start):
    def step(a, e):
        return jax.nn.logsumexp(a[:, None] + trans, axis=0) + e, None

    a, _ = lax.scan(step, start + emit[0], emit[1:])
    gold = start[TAGS[0]] + emit[jnp.arange(5), TAGS].sum() + trans[TAGS[:-1], TAGS[1:]].sum()
    return jax.nn.logsumexp(a) - gold


def draw_crf(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (5, 3)), jax.random.normal(k[1], (3, 3)), jax.random.normal(k[2], (3,))


def right_crf_forward_backward(args, ct):
    emit, trans, start = args
    n = emit.shape[0]
    alpha = [start + emit[0]]
    for t in range(1, n):
        alpha.append(jax.nn.logsumexp(alpha[t - 1][:, None] + trans, axis=0) + emit[t])
    beta = [jnp.zeros_like(start)]
    for t in range(n - 1, 0, -1):
        beta.insert(0, jax.nn.logsumexp(trans + (emit[t] + beta[0])[None, :], axis=1))
    logZ = jax.nn.logsumexp(alpha[-1])
    unary = jnp.exp(jnp.stack(alpha) + jnp.stack(beta) - logZ)
    pair = jnp.zeros_like(trans)
    for t in range(1, n):
        pair = pair + jnp.exp(alpha[t - 1][:, None] + trans + (emit[t] + beta[t])[None, :] - logZ)
    d_emit = unary.at[jnp.arange(n), TAGS].add(-1.0)
    d_trans = pair.at[TAGS[:-1], TAGS[1:]].add(-1.0)
    return ct * d_emit, ct * d_trans, ct * d_emit[0]


def mixture(x, logit, mu, logsig):
    lp = jax.nn.log_softmax(logit) - logsig - 0.5 * ((x[:, None] - mu) * jnp.exp(-logsig)) ** 2
    return -jax.nn.logsumexp(lp, axis=1).sum()


def draw_mixture(key):
    k = jax.random.split(key, 4)
    return (
        1.5 * jax.random.normal(k[0], (8,)),
        jax.random.normal(k[1], (3,)),
        jax.random.normal(k[2], (3,)),
        0.3 * jax.random.normal(k[3], (3,)),
    )


def right_gmm_nll_grads(args, ct):
    x, logit, mu, logsig = args
    pi = jax.nn.softmax(logit)
    z = (x[:, None] - mu) * jnp.exp(-logsig)
    resp = jax.nn.softmax(jnp.log(pi) - logsig - 0.5 * z**2, axis=1)
    d_logit = -(resp - pi).sum(0)
    d_mu = -(resp * z * jnp.exp(-logsig)).sum(0)
    d_sig = -(resp * (z**2 - 1)).sum(0)
    d_x = (resp * z * jnp.exp(-logsig)).sum(1)
    return ct * d_x, ct * d_logit, ct * d_mu, ct * d_sig


def unitary_layer(z, theta, w):
    rot = jnp.exp(1j * theta)
    y = (z * rot) @ w
    return jnp.real(y * jnp.conj(y)).sum(-1), jnp.imag(y)


def draw_unitary_layer(key):
    k = jax.random.split(key, 5)
    return (
        jax.lax.complex(jax.random.normal(k[0], (4, 3)), jax.random.normal(k[1], (4, 3))),
        jax.random.normal(k[2], (3,)),
        jax.lax.complex(jax.random.normal(k[3], (3, 2)), jax.random.normal(k[4], (3, 2))),
    )


def right_phase_layer_vjp(args, cts):
    z, theta, w = args
    g_pow, g_im = cts
    rot = jnp.exp(1j * theta)
    x = z * rot
    y = x @ w
    gy = 2 * g_pow[:, None] * jnp.conj(y) - 1j * g_im
    gw = x.T @ gy
    gx = gy @ w.T
    gz = gx * rot
    gtheta = jnp.real(gx * 1j * x).sum(0)
    return gz, gtheta, gw


def bilinear_gru_free(q, k, v, beta):
    def step(S, inp):
        q_t, k_t, v_t, b_t = inp
        S = S + b_t * jnp.outer(v_t - S @ k_t, k_t)
        return S, S @ q_t

    return lax.scan(step, jnp.zeros((v.shape[1], k.shape[1])), (q, k, v, beta))[1]


def draw_delta_rule(key):
    ks = jax.random.split(key, 4)
    return (
        jax.random.normal(ks[0], (5, 3)),
        0.6 * jax.random.normal(ks[1], (5, 3)),
        jax.random.normal(ks[2], (5, 2)),
        0.3 + 0.5 * jax.random.uniform(ks[3], (5,)),
    )


def right_delta_rule_bwd(args, do):
    q, k, v, beta = args
    S = jnp.zeros((v.shape[1], k.shape[1]))
    before, after = [], []
    for t in range(len(beta)):
        before.append(S)
        S = S + beta[t] * jnp.outer(v[t] - S @ k[t], k[t])
        after.append(S)
    dS = jnp.zeros_like(S)
    dq, dk, dv, db = [], [], [], []
    for t in reversed(range(len(beta))):
        e = v[t] - before[t] @ k[t]
        dq.append(after[t].T @ do[t])
        dS = dS + jnp.outer(do[t], q[t])
        de = beta[t] * dS @ k[t]
        db.append(e @ dS @ k[t])
        dv.append(de)
        dk.append(beta[t] * dS.T @ e - before[t].T @ de)
        dS = dS - jnp.outer(de, k[t])
    return tuple(jnp.stack(d[::-1]) for d in (dq, dk, dv, db))


def heat(u, kappa, src):
    for _ in range(3):
        flux = kappa * (u[1:] - u[:-1])
        div = jnp.concatenate([flux[:1], flux[1:] - flux[:-1], -flux[-1:]])
        u = u + 0.2 * div + src * jnp.tanh(u)
    return u


def draw_heat(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (7,)), 0.5 + jax.random.uniform(k[1], (6,)), 0.5 * jax.random.normal(k[2], (7,))


def right_heat_reverse(args, ct):
    u, kappa, src = args
    states = []
    for _ in range(3):
        states.append(u)
        flux = kappa * (u[1:] - u[:-1])
        u = u + 0.2 * jnp.concatenate([flux[:1], flux[1:] - flux[:-1], -flux[-1:]]) + src * jnp.tanh(u)
    lam, g_kappa, g_src = ct, jnp.zeros_like(kappa), jnp.zeros_like(src)
    while states:
        u = states.pop()
        th = jnp.tanh(u)
        g_src = g_src + lam * th
        g_flux = 0.2 * (lam[:-1] - lam[1:])
        g_kappa = g_kappa + g_flux * (u[1:] - u[:-1])
        g_du = g_flux * kappa
        lam = lam + lam * src * (1 - th**2)
        lam = lam.at[1:].add(g_du).at[:-1].add(-g_du)
    return lam, g_kappa, g_src


VALID = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)


def attn_pool(x, w, v):
    s = jnp.where(VALID, jnp.tanh(x @ w) @ v, -1e9)
    return jnp.einsum("bt,btd->bd", jax.nn.softmax(s, 1), x)


def draw_attn_pool(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (3, 4, 3)), jax.random.normal(k[1], (3, 5)), jax.random.normal(k[2], (5,))


def right_pool_one(w, v, x, ok, g):
    h = jnp.tanh(x @ w)
    a = jax.nn.softmax(jnp.where(ok, h @ v, -1e9))
    da = x @ g
    ds = a * (da - jnp.dot(a, da))
    dh = jnp.outer(ds, v) * (1 - h**2)
    dx = jnp.outer(a, g) + dh @ w.T
    return dx, x.T @ dh, h.T @ ds


def right_attn_pool_per_example(args, ct):
    x, w, v = args
    each = functools.partial(right_pool_one, w, v)
    dx, dw, dv = jax.vmap(each)(x, VALID, ct)
    return dx, dw.sum(0), dv.sum(0)


def pool_one_1(w, v, x, ok, g):
    h = jnp.tanh(x @ w)
    a = jax.nn.softmax(h @ v)
    da = x @ g
    ds = a * (da - jnp.dot(a, da))
    dh = jnp.outer(ds, v) * (1 - h**2)
    dx = jnp.outer(a, g) + dh @ w.T
    return dx, x.T @ dh, dh.T @ ds


def pool_one_2(w, v, x, ok, g):
    h = jnp.tanh(x @ w)
    a = jax.nn.softmax(jnp.where(ok, h @ v, -1e9))
    da = x @ g
    ds = a * (da - da.mean())
    dh = jnp.outer(ds, v) * (1 - h**2)
    dx = jnp.outer(a, g)
    return dx, x.T @ dh, h.T @ ds


def pool_one_3(w, v, x, ok, g):
    h = jnp.tanh(x @ w)
    a = jax.nn.softmax(jnp.where(ok, h @ v, -1e9))
    da = x @ g
    ds = a * (da - jnp.dot(a, da))
    dh = jnp.outer(ds, v)
    dx = jnp.outer(a, g) + dh @ w.T
    return dx, x.T @ dh, h.T @ ds


def whiten(x):
    xc = x - x.mean(0)
    cov = xc.T @ xc / (x.shape[0] - 1) + 0.1 * jnp.eye(x.shape[1])
    L = jnp.linalg.cholesky(cov)
    return jax.scipy.linalg.solve_triangular(L, xc.T, lower=True).T


def draw_whiten(key):
    return (jax.random.normal(key, (8, 3)) @ jnp.array([[1.0, 0.4, 0.0], [0.0, 1.0, -0.5], [0.3, 0.0, 0.8]]),)


def right_whiten_bwd(args, dY):
    (x,) = args
    n, d = x.shape
    xc = x - x.mean(0)
    L = jnp.linalg.cholesky(xc.T @ xc / (n - 1) + 0.1 * jnp.eye(d))
    Linv = jnp.linalg.inv(L)
    Y = xc @ Linv.T
    dXc = dY @ Linv
    dL = -jnp.tril(Linv.T @ dY.T @ Y)
    Phi = jnp.tril(L.T @ dL)
    Phi = Phi - 0.5 * jnp.diag(jnp.diag(Phi))
    S = Linv.T @ Phi @ Linv
    S = 0.5 * (S + S.T)
    dXc = dXc + 2 * xc @ S / (n - 1)
    return (dXc - dXc.mean(0),)


def edge_mlp(x, w1, w2):
    m = jax.nn.relu(jnp.concatenate([x[EI], x[EJ]], -1) @ w1)
    agg = jax.ops.segment_sum(m, EJ, 4) / DEG[:, None]
    return x + agg @ w2


EI = jnp.array([0, 1, 1, 2, 3, 0])

EJ = jnp.array([1, 0, 2, 3, 0, 3])

DEG = jnp.array([2.0, 1.0, 1.0, 2.0])


def draw_edge_mlp(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (4, 3)), jax.random.normal(k[1], (6, 5)), jax.random.normal(k[2], (5, 3))


def right_message_passing_bwd(args, gy):
    x, w1, w2 = args
    pair = jnp.concatenate([x[EI], x[EJ]], -1)
    pre = pair @ w1
    agg = jax.ops.segment_sum(jax.nn.relu(pre), EJ, 4) / DEG[:, None]
    gw2 = agg.T @ gy
    gagg = gy @ w2.T / DEG[:, None]
    gpre = gagg[EJ] * (pre > 0)
    gw1 = pair.T @ gpre
    gpair = gpre @ w1.T
    gx = gy + jax.ops.segment_sum(gpair[:, :3], EI, 4)
    gx = gx.at[EJ].add(gpair[:, 3:])
    return gx, gw1, gw2


SEVERAL = [
    *wrong_rules(
        deep_mlp,
        right_backprop_list,
        draw_deep_mlp,
        """
backprop_list_1
- delta = ct * 2 * (acts[-1] - 1.0) / acts[-1].size
+ delta = ct * 2 * (acts[-1] - 1.0) / acts[-1].shape[0]
- delta = delta * jax.nn.sigmoid(pre[l])
+ delta = delta * jax.nn.sigmoid(acts[l + 1])
- delta = delta @ ws[l].T
+ delta = delta @ ws[2 - l].T
constant: divided by the batch size instead of the size
@ delta = ct * 2 * (acts[-1] - 1.0) / acts[-1].shape[0]
activation: softplus slope taken at the activation, not at pre
@ delta = delta * jax.nn.sigmoid(acts[l + 1])
index: weight of the wrong layer
@ delta = delta @ ws[2 - l].T

backprop_list_2
- delta = ct * 2 * (acts[-1] - 1.0) / acts[-1].size
+ delta = ct * (acts[-1] - 1.0) / acts[-1].size
- gb.append(delta.sum(0))
+ gb.append(delta.mean(0))
- delta = delta @ ws[l].T
+ delta = delta @ ws[l]
constant: 2 of the square missing
@ delta = ct * (acts[-1] - 1.0) / acts[-1].size
reduction: mean in place of sum for the bias
@ gb.append(delta.mean(0))
transpose: weight not transposed
@ delta = delta @ ws[l]

backprop_list_3
- delta = delta * jax.nn.sigmoid(pre[l])
+ delta = delta * (pre[l] > 0)
- gw.append(acts[l].T @ delta)
+ gw.append(acts[l + 1].T @ delta)
activation: relu slope for a softplus
@ delta = delta * (pre[l] > 0)
index: output of the layer in place of its input
@ gw.append(acts[l + 1].T @ delta)
    """,
    ),
    *wrong_rules(
        ssm,
        right_ssm_adjoint,
        draw_ssm,
        """
ssm_adjoint_1
- lam = lam + C.T @ g
+ lam = C.T @ g
- "C": jnp.outer(g, s_new),
+ "C": jnp.outer(g, s_prev),
- dlogA = -gr["A"].sum(0) * A * jnp.exp(logA)
+ dlogA = gr["A"].sum(0) * A * jnp.exp(logA)
carry: adjoint from later steps is overwritten
@ lam = C.T @ g
index: previous state in place of the new one
@ "C": jnp.outer(g, s_prev),
sign: minus of the exponent missing
@ dlogA = gr["A"].sum(0) * A * jnp.exp(logA)

ssm_adjoint_2
- "A": lam * s_prev,
+ "A": lam * s_new,
- "u": B.T @ lam + D * g,
+ "u": B.T @ lam,
- dlogA = -gr["A"].sum(0) * A * jnp.exp(logA)
+ dlogA = -gr["A"].sum(0) * A
index: new state in place of the previous one
@ "A": lam * s_new,
term: feedthrough D is missing
@ "u": B.T @ lam,
factor: inner exp(logA) missing
@ dlogA = -gr["A"].sum(0) * A

ssm_adjoint_3
- "C": jnp.outer(g, s_new),
+ "C": jnp.outer(s_new, g).T * A,
- return A * lam, grads
+ return lam, grads
- dD = (y_bar * u).sum(0)
+ dD = (y_bar * u).mean(0)
factor: decay A too much
@ "C": jnp.outer(s_new, g).T * A,
factor: decay A missing on the carried adjoint
@ return lam, grads
reduction: mean over time in place of sum
@ dD = (y_bar * u).mean(0)
    """,
    ),
    *wrong_rules(
        group_norm,
        right_gn_bwd,
        draw_group_norm,
        """
gn_bwd_1
- dz = jnp.where(y * gamma[:, None] + beta[:, None] > 0, dz, 0)
+ dz = jnp.where(y > 0, dz, 0)
- dn = (dz * gamma[:, None]).reshape(xg.shape)
+ dn = dz.reshape(xg.shape)
mask: relu mask from y without gamma and beta
@ dz = jnp.where(y > 0, dz, 0)
factor: gamma missing
@ dn = dz.reshape(xg.shape)

gn_bwd_2
- d_gamma = (dz * y).sum((0, 2))
+ d_gamma = (dz * x).sum((0, 2))
- k = (dn * xn).mean(-1, keepdims=True)
+ k = (dn * xn).sum(-1, keepdims=True)
operand: x in place of its normalised value
@ d_gamma = (dz * x).sum((0, 2))
reduction: sum in place of mean
@ k = (dn * xn).sum(-1, keepdims=True)

gn_bwd_3
- a = dn.mean(-1, keepdims=True)
+ a = dn.mean(1, keepdims=True)
- dx = (dn - a - xn * k) * rstd
+ dx = (dn - a - xn * k) / rstd
axis: mean over the groups instead of the last axis
@ a = dn.mean(1, keepdims=True)
factor: divided by 1/std instead of multiplied
@ dx = (dn - a - xn * k) / rstd
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf_forward_backward,
        draw_crf,
        """
crf_forward_backward_1
- beta.insert(0, jax.nn.logsumexp(trans + (emit[t] + beta[0])[None, :], axis=1))
+ beta.insert(0, jax.nn.logsumexp(trans + beta[0][None, :], axis=1))
- d_emit = unary.at[jnp.arange(n), TAGS].add(-1.0)
+ d_emit = unary.at[jnp.arange(n), TAGS].add(1.0)
term: emission missing in the backward recursion
@ beta.insert(0, jax.nn.logsumexp(trans + beta[0][None, :], axis=1))
sign: gold tags added instead of subtracted
@ d_emit = unary.at[jnp.arange(n), TAGS].add(1.0)

crf_forward_backward_2
- beta.insert(0, jax.nn.logsumexp(trans + (emit[t] + beta[0])[None, :], axis=1))
+ beta.insert(0, jax.nn.logsumexp(trans + (emit[t] + beta[0])[None, :], axis=0))
- pair = pair + jnp.exp(alpha[t - 1][:, None] + trans + (emit[t] + beta[t])[None, :] - logZ)
+ pair = jnp.exp(alpha[t - 1][:, None] + trans + (emit[t] + beta[t])[None, :] - logZ)
axis: summed over the old tags instead of the new ones
@ beta.insert(0, jax.nn.logsumexp(trans + (emit[t] + beta[0])[None, :], axis=0))
carry: sum over the steps is overwritten
@ pair = jnp.exp(alpha[t - 1][:, None] + trans + (emit[t] + beta[t])[None, :] - logZ)

crf_forward_backward_3
- pair = pair + jnp.exp(alpha[t - 1][:, None] + trans + (emit[t] + beta[t])[None, :] - logZ)
+ pair = pair + jnp.exp(alpha[t - 1][:, None] + trans + (emit[t] + beta[t - 1])[None, :] - logZ)
- d_trans = pair.at[TAGS[:-1], TAGS[1:]].add(-1.0)
+ d_trans = pair.at[TAGS[1:], TAGS[:-1]].add(-1.0)
index: beta of the step before
@ pair = pair + jnp.exp(alpha[t - 1][:, None] + trans + (emit[t] + beta[t - 1])[None, :] - logZ)
index: gold transitions the wrong way round
@ d_trans = pair.at[TAGS[1:], TAGS[:-1]].add(-1.0)
    """,
    ),
    *wrong_rules(
        mixture,
        right_gmm_nll_grads,
        draw_mixture,
        """
gmm_nll_grads_1
- resp = jax.nn.softmax(jnp.log(pi) - logsig - 0.5 * z**2, axis=1)
+ resp = jax.nn.softmax(jnp.log(pi) - 0.5 * z**2, axis=1)
- d_mu = -(resp * z * jnp.exp(-logsig)).sum(0)
+ d_mu = -(resp * z).sum(0)
term: log sigma missing in the responsibilities
@ resp = jax.nn.softmax(jnp.log(pi) - 0.5 * z**2, axis=1)
factor: 1/sigma missing
@ d_mu = -(resp * z).sum(0)

gmm_nll_grads_2
- d_logit = -(resp - pi).sum(0)
+ d_logit = -resp.sum(0)
- d_mu = -(resp * z * jnp.exp(-logsig)).sum(0)
+ d_mu = (resp * z * jnp.exp(-logsig)).sum(0)
- d_sig = -(resp * (z**2 - 1)).sum(0)
+ d_sig = -(resp * z**2).sum(0)
term: normalisation of the weights missing
@ d_logit = -resp.sum(0)
sign: sign of the mean
@ d_mu = (resp * z * jnp.exp(-logsig)).sum(0)
term: the -1 of log sigma is missing
@ d_sig = -(resp * z**2).sum(0)

gmm_nll_grads_3
- resp = jax.nn.softmax(jnp.log(pi) - logsig - 0.5 * z**2, axis=1)
+ resp = jax.nn.softmax(jnp.log(pi) - logsig - 0.5 * z**2, axis=0)
- d_sig = -(resp * (z**2 - 1)).sum(0)
+ d_sig = -(resp * (0.5 * z**2 - 1)).sum(0)
axis: normalised over the points instead of the components
@ resp = jax.nn.softmax(jnp.log(pi) - logsig - 0.5 * z**2, axis=0)
constant: 0.5 too much
@ d_sig = -(resp * (0.5 * z**2 - 1)).sum(0)
    """,
    ),
    *wrong_rules(
        unitary_layer,
        right_phase_layer_vjp,
        draw_unitary_layer,
        """
phase_layer_vjp_1
- gy = 2 * g_pow[:, None] * jnp.conj(y) - 1j * g_im
+ gy = 2 * g_pow[:, None] * y - 1j * g_im
- gz = gx * rot
+ gz = gx * jnp.conj(rot)
conjugate: conjugate of y missing
@ gy = 2 * g_pow[:, None] * y - 1j * g_im
conjugate: rot conjugated
@ gz = gx * jnp.conj(rot)

phase_layer_vjp_2
- gy = 2 * g_pow[:, None] * jnp.conj(y) - 1j * g_im
+ gy = 2 * g_pow[:, None] * jnp.conj(y) + 1j * g_im
- gw = x.T @ gy
+ gw = z.T @ gy
- gtheta = jnp.real(gx * 1j * x).sum(0)
+ gtheta = jnp.real(gx * x).sum(0)
conjugate: sign of the imaginary part
@ gy = 2 * g_pow[:, None] * jnp.conj(y) + 1j * g_im
operand: z before the rotation in place of x
@ gw = z.T @ gy
factor: 1j of the phase's derivative is missing
@ gtheta = jnp.real(gx * x).sum(0)

phase_layer_vjp_3
- gy = 2 * g_pow[:, None] * jnp.conj(y) - 1j * g_im
+ gy = 2 * g_pow[:, None] * jnp.conj(y)
- gw = x.T @ gy
+ gw = jnp.conj(x).T @ gy
- gtheta = jnp.real(gx * 1j * x).sum(0)
+ gtheta = jnp.imag(gx * 1j * x).sum(0)
term: gradient of the second output is missing
@ gy = 2 * g_pow[:, None] * jnp.conj(y)
conjugate: x conjugated
@ gw = jnp.conj(x).T @ gy
operand: imaginary part in place of the real part
@ gtheta = jnp.imag(gx * 1j * x).sum(0)
    """,
    ),
    *wrong_rules(
        bilinear_gru_free,
        right_delta_rule_bwd,
        draw_delta_rule,
        """
delta_rule_bwd_1
- e = v[t] - before[t] @ k[t]
+ e = v[t] - after[t] @ k[t]
- dk.append(beta[t] * dS.T @ e - before[t].T @ de)
+ dk.append(beta[t] * dS.T @ e)
index: state after the update in place of the one before
@ e = v[t] - after[t] @ k[t]
term: the key's path through the prediction is missing
@ dk.append(beta[t] * dS.T @ e)

delta_rule_bwd_2
- dq.append(after[t].T @ do[t])
+ dq.append(before[t].T @ do[t])
- dS = dS - jnp.outer(de, k[t])
+ dS = dS + jnp.outer(de, k[t])
index: state before the update in place of the one after
@ dq.append(before[t].T @ do[t])
sign: sign of the erased part
@ dS = dS + jnp.outer(de, k[t])

delta_rule_bwd_3
- de = beta[t] * dS @ k[t]
+ de = dS @ k[t]
- dk.append(beta[t] * dS.T @ e - before[t].T @ de)
+ dk.append(beta[t] * dS.T @ e + before[t].T @ de)
factor: beta missing
@ de = dS @ k[t]
sign: sign of the prediction's path
@ dk.append(beta[t] * dS.T @ e + before[t].T @ de)
    """,
    ),
    *wrong_rules(
        heat,
        right_heat_reverse,
        draw_heat,
        """
heat_reverse_1
- g_src = g_src + lam * th
+ g_src = g_src + lam * u
- g_kappa = g_kappa + g_flux * (u[1:] - u[:-1])
+ g_kappa = g_flux * (u[1:] - u[:-1])
operand: u in place of tanh(u)
@ g_src = g_src + lam * u
carry: accumulator overwritten
@ g_kappa = g_flux * (u[1:] - u[:-1])

heat_reverse_2
- g_flux = 0.2 * (lam[:-1] - lam[1:])
+ g_flux = 0.2 * (lam[1:] - lam[:-1])
- lam = lam + lam * src * (1 - th**2)
+ lam = lam + lam * src
sign: sign of the divergence's adjoint
@ g_flux = 0.2 * (lam[1:] - lam[:-1])
activation: tanh slope missing
@ lam = lam + lam * src

heat_reverse_3
- u = states.pop()
+ u = states.pop(0)
- g_du = g_flux * kappa
+ g_du = g_flux
index: states taken from the front, in forward order
@ u = states.pop(0)
factor: kappa missing
@ g_du = g_flux
    """,
    ),
    *wrong_rules(
        attn_pool,
        right_attn_pool_per_example,
        draw_attn_pool,
        """
attn_pool_per_example_1
- each = functools.partial(right_pool_one, w, v)
+ each = functools.partial(pool_one_1, w, v)
mask: padding mask missing
@ a = jax.nn.softmax(h @ v)
operand: dh in place of h
@ return dx, x.T @ dh, dh.T @ ds

attn_pool_per_example_2
- each = functools.partial(right_pool_one, w, v)
+ each = functools.partial(pool_one_2, w, v)
reduction: mean instead of the weighted sum
@ ds = a * (da - da.mean())
detached: weights taken for constant in x
@ dx = jnp.outer(a, g)

attn_pool_per_example_3
- each = functools.partial(right_pool_one, w, v)
+ each = functools.partial(pool_one_3, w, v)
- return dx, dw.sum(0), dv.sum(0)
+ return dx, dw.sum(0), dv.mean(0)
activation: tanh slope missing
@ dh = jnp.outer(ds, v)
reduction: mean in place of sum over the batch
@ return dx, dw.sum(0), dv.mean(0)
    """,
    ),
    *wrong_rules(
        whiten,
        right_whiten_bwd,
        draw_whiten,
        """
whiten_bwd_1
- dXc = dY @ Linv
+ dXc = dY @ Linv.T
- Phi = Phi - 0.5 * jnp.diag(jnp.diag(Phi))
+ Phi = Phi - jnp.diag(jnp.diag(Phi))
transpose: Linv transposed
@ dXc = dY @ Linv.T
constant: diagonal is halved, not removed
@ Phi = Phi - jnp.diag(jnp.diag(Phi))

whiten_bwd_2
- dL = -jnp.tril(Linv.T @ dY.T @ Y)
+ dL = jnp.tril(Linv.T @ dY.T @ Y)
- dXc = dXc + 2 * xc @ S / (n - 1)
+ dXc = dXc + 2 * xc @ S / n
sign: minus of the solve missing
@ dL = jnp.tril(Linv.T @ dY.T @ Y)
constant: n in place of n - 1
@ dXc = dXc + 2 * xc @ S / n

whiten_bwd_3
- dXc = dXc + 2 * xc @ S / (n - 1)
+ dXc = dXc + xc @ S / (n - 1)
- return (dXc - dXc.mean(0),)
+ return (dXc,)
constant: 2 missing
@ dXc = dXc + xc @ S / (n - 1)
detached: mean taken for constant
@ return (dXc,)
    """,
    ),
    *wrong_rules(
        edge_mlp,
        right_message_passing_bwd,
        draw_edge_mlp,
        """
message_passing_bwd_1
- agg = jax.ops.segment_sum(jax.nn.relu(pre), EJ, 4) / DEG[:, None]
+ agg = jax.ops.segment_sum(pre, EJ, 4) / DEG[:, None]
- gpre = gagg[EJ] * (pre > 0)
+ gpre = gagg[EI] * (pre > 0)
activation: relu missing in the messages
@ agg = jax.ops.segment_sum(pre, EJ, 4) / DEG[:, None]
index: sender in place of receiver
@ gpre = gagg[EI] * (pre > 0)

message_passing_bwd_2
- gagg = gy @ w2.T / DEG[:, None]
+ gagg = gy @ w2.T
- gx = gy + jax.ops.segment_sum(gpair[:, :3], EI, 4)
+ gx = jax.ops.segment_sum(gpair[:, :3], EI, 4)
factor: 1/degree missing
@ gagg = gy @ w2.T
term: skip connection missing
@ gx = jax.ops.segment_sum(gpair[:, :3], EI, 4)

message_passing_bwd_3
- gpre = gagg[EJ] * (pre > 0)
+ gpre = gagg[EJ]
- gx = gx.at[EJ].add(gpair[:, 3:])
+ gx = gx.at[EJ].set(gpair[:, 3:])
mask: relu mask missing
@ gpre = gagg[EJ]
carry: set in place of add
@ gx = gx.at[EJ].set(gpair[:, 3:])
    """,
    ),
]
