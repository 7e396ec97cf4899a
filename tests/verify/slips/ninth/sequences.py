"""Rules with mistakes in the derivatives of sequences."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def rnn_fwd(xs, h0, Wx, Wh, b):
    def step(h, x):
        h = jnp.tanh(x @ Wx + h @ Wh + b)
        return h, h

    return jax.lax.scan(step, h0, xs)[1]


def rnn_draw(key):
    k = jax.random.split(key, 5)
    n = jax.random.normal
    return n(k[0], (5, 3)), n(k[1], (4,)), n(k[2], (3, 4)) * 0.5, n(k[3], (4, 4)) * 0.5, n(k[4], (4,)) * 0.2


def right_rnn(args, ct):
    xs, h0, Wx, Wh, b = args
    hs = [h0]
    for x in xs:
        hs.append(jnp.tanh(x @ Wx + hs[-1] @ Wh + b))
    dWx, dWh, db = jnp.zeros_like(Wx), jnp.zeros_like(Wh), jnp.zeros_like(b)
    dh_next = jnp.zeros_like(h0)
    dxs = [None] * len(xs)
    for t in reversed(range(len(xs))):
        dh = ct[t] + dh_next
        dz = dh * (1 - hs[t + 1] ** 2)
        dWx += jnp.outer(xs[t], dz)
        dWh += jnp.outer(hs[t], dz)
        db += dz
        dxs[t] = Wx @ dz
        dh_next = Wh @ dz
    return jnp.stack(dxs), dh_next, dWx, dWh, db


def gru_fwd(x, h, Wz, Wr, Wc):
    xh = jnp.concatenate([x, h], 1)
    z = jax.nn.sigmoid(xh @ Wz)
    r = jax.nn.sigmoid(xh @ Wr)
    c = jnp.tanh(jnp.concatenate([x, r * h], 1) @ Wc)
    return (1 - z) * h + z * c


def gru_draw(key):
    k = jax.random.split(key, 5)
    n = jax.random.normal
    return n(k[0], (3, 2)), n(k[1], (3, 4)), n(k[2], (6, 4)), n(k[3], (6, 4)), n(k[4], (6, 4))


def right_gru(args, ct):
    x, h, Wz, Wr, Wc = args
    D = x.shape[1]
    xh = jnp.concatenate([x, h], axis=1)
    z, r = jax.nn.sigmoid(xh @ Wz), jax.nn.sigmoid(xh @ Wr)
    xrh = jnp.concatenate([x, r * h], axis=1)
    c = jnp.tanh(xrh @ Wc)
    dz = ct * (c - h)
    dc = ct * z
    dh = ct * (1 - z)
    da_c = dc * (1 - c * c)
    dxrh = da_c @ Wc.T
    dr = dxrh[:, D:] * h
    dh = dh + dxrh[:, D:] * r
    da_z = dz * z * (1 - z)
    da_r = dr * r * (1 - r)
    dxh = da_z @ Wz.T + da_r @ Wr.T
    dx = dxh[:, :D] + dxrh[:, :D]
    dh = dh + dxh[:, D:]
    return dx, dh, xh.T @ da_z, xh.T @ da_r, xrh.T @ da_c


def lstm_fwd(xs, h0, c0, W, U):
    def cell(carry, x):
        h, c = carry
        i, f, o, g = jnp.split(x @ W + h @ U, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(cell, (h0, c0), xs)[1]


def lstm_draw(key):
    k = jax.random.split(key, 5)
    n = jax.random.normal
    return n(k[0], (4, 2)), n(k[1], (3,)), n(k[2], (3,)), n(k[3], (2, 12)), n(k[4], (3, 12))


def right_lstm(args, ct):
    xs, h0, c0, W, U = args

    def fwd(carry, x):
        h, c = carry
        i, f, o, g = jnp.split(x @ W + h @ U, 4)
        i, f, o, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(g)
        cn = f * c + i * g
        return (o * jnp.tanh(cn), cn), (x, h, c, cn, i, f, o, g)

    _, saved = jax.lax.scan(fwd, (h0, c0), xs)

    def bwd(carry, inp):
        dh, dc, dW, dU = carry
        g_out, (x, h, c, cn, i, f, o, g) = inp
        dh = dh + g_out
        tc = jnp.tanh(cn)
        do = dh * tc * o * (1 - o)
        dc = dc + dh * o * (1 - tc**2)
        df = dc * c * f * (1 - f)
        di = dc * g * i * (1 - i)
        dg = dc * i * (1 - g**2)
        dgates = jnp.concatenate([di, df, do, dg])
        dW = dW + jnp.outer(x, dgates)
        dU = dU + jnp.outer(h, dgates)
        return (U @ dgates, dc * f, dW, dU), W @ dgates

    start = (jnp.zeros_like(h0), jnp.zeros_like(c0), jnp.zeros_like(W), jnp.zeros_like(U))
    (dh0, dc0, dW, dU), dxs = jax.lax.scan(bwd, start, (ct, saved), reverse=True)
    return dxs, dh0, dc0, dW, dU


def ema_fwd(x, logit_a, s0):
    a = jax.nn.sigmoid(logit_a)

    def f(s, xt):
        s = a * s + (1 - a) * xt
        return s, s

    return jax.lax.scan(f, s0, x)[1]


def ema_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 2)), jax.random.normal(b, (2,)), jax.random.normal(c, (2,))


def right_ema(args, ct):
    x, logit_a, s0 = args
    a = jax.nn.sigmoid(logit_a)
    states = [s0]
    for t in range(x.shape[0]):
        states.append(a * states[t] + (1 - a) * x[t])
    lam = jnp.zeros_like(s0)
    a_bar = jnp.zeros_like(a)
    x_bar = jnp.zeros_like(x)
    for t in range(x.shape[0] - 1, -1, -1):
        lam = lam + ct[t]
        a_bar = a_bar + lam * (states[t] - x[t])
        x_bar = x_bar.at[t].set((1 - a) * lam)
        lam = a * lam
    return x_bar, a_bar * a * (1 - a), lam


def ssm_fwd(u, A, B, C, D):
    def f(h, ut):
        h = A * h + B @ ut
        return h, C @ h + D * ut

    return jax.lax.scan(f, jnp.zeros(A.shape), u)[1]


def ssm_draw(key):
    k = jax.random.split(key, 5)
    n = jax.random.normal
    return n(k[0], (5, 2)), jax.random.uniform(k[1], (4,)), n(k[2], (4, 2)), n(k[3], (2, 4)), n(k[4], (2,))


def right_ssm(args, ct):
    u, A, B, C, D = args

    def run(h, ut):
        hn = A * h + B @ ut
        return hn, (h, hn)

    _, (prev, cur) = jax.lax.scan(run, jnp.zeros_like(A), u)

    def back(gh, inp):
        g, hp, ut = inp
        gh = gh + C.T @ g
        gA = gh * hp
        gB = jnp.outer(gh, ut)
        gu = B.T @ gh + D * g
        return A * gh, (gu, gA, gB)

    _, (gu, gA, gB) = jax.lax.scan(back, jnp.zeros_like(A), (ct, prev, u), reverse=True)
    gC = jnp.einsum("to,th->oh", ct, cur)
    gD = jnp.sum(ct * u, axis=0)
    return gu, gA.sum(0), gB.sum(0), gC, gD


OBS = jnp.array([0, 2, 1, 1, 0])


def hmm_fwd(log_pi, log_A, log_B):
    alpha = log_pi + log_B[:, OBS[0]]
    for o in OBS[1:]:
        alpha = jax.nn.logsumexp(alpha[:, None] + log_A, axis=0) + log_B[:, o]
    return jax.nn.logsumexp(alpha)


def hmm_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (3,)), jax.random.normal(b, (3, 3)), jax.random.normal(c, (3, 4))


def right_hmm(args, ct):
    log_pi, log_A, log_B = args
    alphas = [log_pi + log_B[:, OBS[0]]]
    for o in OBS[1:]:
        alphas.append(jax.nn.logsumexp(alphas[-1][:, None] + log_A, axis=0) + log_B[:, o])
    g_alpha = ct * jax.nn.softmax(alphas[-1])
    g_A = jnp.zeros_like(log_A)
    g_B = jnp.zeros_like(log_B)
    for t in range(len(OBS) - 1, 0, -1):
        g_B = g_B.at[:, OBS[t]].add(g_alpha)
        post = jax.nn.softmax(alphas[t - 1][:, None] + log_A, axis=0)
        xi = post * g_alpha[None, :]
        g_A = g_A + xi
        g_alpha = xi.sum(axis=1)
    g_B = g_B.at[:, OBS[0]].add(g_alpha)
    return g_alpha, g_A, g_B


TAGS = jnp.array([1, 0, 2, 2])


def crf_fwd(emit, trans):
    a = emit[0]
    for t in range(1, 4):
        a = jax.nn.logsumexp(a[:, None] + trans, 0) + emit[t]
    gold = emit[jnp.arange(4), TAGS].sum() + trans[TAGS[:-1], TAGS[1:]].sum()
    return jax.nn.logsumexp(a) - gold


def crf_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 3)), jax.random.normal(b, (3, 3))


def right_crf(args, ct):
    emit, trans = args
    T = emit.shape[0]
    fw = [emit[0]]
    for t in range(1, T):
        fw.append(jax.nn.logsumexp(fw[-1][:, None] + trans, axis=0) + emit[t])
    bw = [jnp.zeros(3)]
    for t in range(T - 1, 0, -1):
        bw.insert(0, jax.nn.logsumexp(trans + emit[t] + bw[0], axis=1))
    logZ = jax.nn.logsumexp(fw[-1])
    unary = jnp.exp(jnp.stack(fw) + jnp.stack(bw) - logZ)
    pair = jnp.zeros_like(trans)
    for t in range(1, T):
        pair += jnp.exp(fw[t - 1][:, None] + trans + emit[t] + bw[t] - logZ)
    d_emit = unary.at[jnp.arange(T), TAGS].add(-1.0)
    d_trans = pair.at[TAGS[:-1], TAGS[1:]].add(-1.0)
    return ct * d_emit, ct * d_trans


SINGLE = [
    *wrong_rules(
        rnn_fwd,
        right_rnn,
        rnn_draw,
        """
rnn_a
- dWh += jnp.outer(hs[t], dz)
+ dWh += jnp.outer(hs[t + 1], dz)
index: new state in place of the previous one
    """,
    ),
    *wrong_rules(
        gru_fwd,
        right_gru,
        gru_draw,
        """
gru_a
- dr = dxrh[:, D:] * h
-     dh = dh + dxrh[:, D:] * r
+ dr = dxrh[:, D:] * h
term: path of h through the reset product left out
@ dh = dh + dxh[:, D:]
@ return dx, dh, xh.T @ da_z, xh.T @ da_r, xrh.T @ da_c
    """,
    ),
    *wrong_rules(
        lstm_fwd,
        right_lstm,
        lstm_draw,
        """
lstm_a
- return (U @ dgates, dc * f, dW, dU), W @ dgates
+ return (U @ dgates, dc, dW, dU), W @ dgates
factor: forget gate missing in the carried cell gradient

lstm_c
- dc = dc + dh * o * (1 - tc**2)
+ dc = dh * o * (1 - tc**2)
carry: cell gradient from the later step dropped
    """,
    ),
    *wrong_rules(
        ema_fwd,
        right_ema,
        ema_draw,
        """
ema_a
- a_bar = a_bar + lam * (states[t] - x[t])
+ a_bar = a_bar + lam * (states[t + 1] - x[t])
index: state after the step instead of before
    """,
    ),
    *wrong_rules(
        ssm_fwd,
        right_ssm,
        ssm_draw,
        """
ssm_a
- return A * gh, (gu, gA, gB)
+ return gh, (gu, gA, gB)
factor: transition A missing in the carried adjoint
    """,
    ),
    *wrong_rules(
        hmm_fwd,
        right_hmm,
        hmm_draw,
        """
hmm_a
- g_alpha = xi.sum(axis=1)
+ g_alpha = xi.sum(axis=0)
axis: sum over the wrong state
    """,
    ),
    *wrong_rules(
        crf_fwd,
        right_crf,
        crf_draw,
        """
crf_a
- d_trans = pair.at[TAGS[:-1], TAGS[1:]].add(-1.0)
+ d_trans = pair.at[TAGS[1:], TAGS[:-1]].add(-1.0)
index: from and to tags swapped
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        rnn_fwd,
        right_rnn,
        rnn_draw,
        """
rnn_b
- dWx += jnp.outer(xs[t], dz)
+ dWx = jnp.outer(xs[t], dz)
- dh_next = Wh @ dz
+ dh_next = Wh @ dh
operand: dh instead of dz handed to the earlier step
@ dh_next = Wh @ dh
carry: overwritten, not accumulated over time
@ dWx = jnp.outer(xs[t], dz)
    """,
    ),
    *wrong_rules(
        gru_fwd,
        right_gru,
        gru_draw,
        """
gru_b
- dz = ct * (c - h)
+ dz = ct * (h - c)
- dh = ct * (1 - z)
+ dh = ct * z
- da_r = dr * r * (1 - r)
+ da_r = dr * (1 - r**2)
sign: sign of the update gate gradient
@ dz = ct * (h - c)
activation: tanh slope for a sigmoid gate
@ da_r = dr * (1 - r**2)
operand: z in place of 1 - z
@ dh = ct * z
    """,
    ),
    *wrong_rules(
        lstm_fwd,
        right_lstm,
        lstm_draw,
        """
lstm_b
- dc = dc + dh * o * (1 - tc**2)
+ dc = dc + dh * (1 - tc**2)
- df = dc * c * f * (1 - f)
+ df = dc * cn * f * (1 - f)
- dU = dU + jnp.outer(h, dgates)
+ dU = jnp.outer(h, dgates)
operand: new cell state in place of the old
@ df = dc * cn * f * (1 - f)
factor: output gate missing in the path to the cell
@ dc = dc + dh * (1 - tc**2)
carry: overwritten, not accumulated over time
@ dU = jnp.outer(h, dgates)
    """,
    ),
    *wrong_rules(
        ema_fwd,
        right_ema,
        ema_draw,
        """
ema_b
- lam = lam + ct[t]
+ lam = ct[t]
- return x_bar, a_bar * a * (1 - a), lam
+ return x_bar, a_bar, lam
carry: adjoint of later steps overwritten
@ lam = ct[t]
activation: sigmoid slope missing
@ return x_bar, a_bar, lam
    """,
    ),
    *wrong_rules(
        ssm_fwd,
        right_ssm,
        ssm_draw,
        """
ssm_b
- _, (gu, gA, gB) = jax.lax.scan(back, jnp.zeros_like(A), (ct, prev, u), reverse=True)
+ _, (gu, gA, gB) = jax.lax.scan(back, jnp.zeros_like(A), (ct, prev, u))
- gD = jnp.sum(ct * u, axis=0)
+ gD = jnp.mean(ct * u, axis=0)
index: scan not run in reverse
@ _, (gu, gA, gB) = jax.lax.scan(back, jnp.zeros_like(A), (ct, prev, u))
reduction: mean over time in place of sum
@ gD = jnp.mean(ct * u, axis=0)
    """,
    ),
    *wrong_rules(
        hmm_fwd,
        right_hmm,
        hmm_draw,
        """
hmm_b
- post = jax.nn.softmax(alphas[t - 1][:, None] + log_A, axis=0)
+ post = jax.nn.softmax(alphas[t][:, None] + log_A, axis=0)
- g_alpha = xi.sum(axis=1)
-     g_B = g_B.at[:, OBS[0]].add(g_alpha)
+ g_alpha = xi.sum(axis=1)
index: alpha of the wrong step
@ post = jax.nn.softmax(alphas[t][:, None] + log_A, axis=0)
term: emission of the first step left out
@ return g_alpha, g_A, g_B
    """,
    ),
    *wrong_rules(
        crf_fwd,
        right_crf,
        crf_draw,
        """
crf_b
- pair += jnp.exp(fw[t - 1][:, None] + trans + emit[t] + bw[t] - logZ)
+ pair += jnp.exp(fw[t - 1][:, None] + trans + bw[t] - logZ)
- d_emit = unary.at[jnp.arange(T), TAGS].add(-1.0)
+ d_emit = unary.at[jnp.arange(T), TAGS].add(1.0)
term: emission missing in the pair marginal
@ pair += jnp.exp(fw[t - 1][:, None] + trans + bw[t] - logZ)
sign: sign of the gold score
@ d_emit = unary.at[jnp.arange(T), TAGS].add(1.0)
    """,
    ),
]
