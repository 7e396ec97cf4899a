"""Rules with mistakes in the derivatives of seq."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.slips.changes import wrong_rules

OBS = jnp.asarray([0, 2, 1, 2, 0, 1])


def normals(*shapes, s=0.7):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(s * jax.random.normal(k, sh) for k, sh in zip(keys, shapes))

    return draw


def rnn(xs, h0, wx, wh, b):
    def step(h, x):
        h = jnp.tanh(wx @ x + wh @ h + b)
        return h, h

    return lax.scan(step, h0, xs)[1]


def right_rnn(args, ct):
    xs, h0, wx, wh, b = args

    def fwd(h, x):
        h_new = jnp.tanh(wx @ x + wh @ h + b)
        return h_new, (h, h_new)

    _, (h_prev, h_all) = lax.scan(fwd, h0, xs)

    def bwd(carry, inp):
        dh_next, dwx, dwh, db = carry
        x, hp, h, g = inp
        da = (g + dh_next) * (1 - h * h)
        dwx = dwx + jnp.outer(da, x)
        dwh = dwh + jnp.outer(da, hp)
        db = db + da
        dh_prev = wh.T @ da
        dx = wx.T @ da
        return (dh_prev, dwx, dwh, db), dx

    init = (jnp.zeros_like(h0), jnp.zeros_like(wx), jnp.zeros_like(wh), jnp.zeros_like(b))
    (dh0, dwx, dwh, db), dxs = lax.scan(bwd, init, (xs, h_prev, h_all, ct), reverse=True)
    return dxs, dh0, dwx, dwh, db


def gru(xs, h, wz, wr, wn):
    for x in xs:
        xh = jnp.concatenate([x, h])
        z = jax.nn.sigmoid(wz @ xh)
        r = jax.nn.sigmoid(wr @ xh)
        n = jnp.tanh(wn @ jnp.concatenate([x, r * h]))
        h = (1 - z) * n + z * h
    return h


def right_gru(args, ct):
    xs, h0, wz, wr, wn = args
    D = xs.shape[1]
    h, tape = h0, []
    for x in xs:
        xh = jnp.concatenate([x, h])
        z, r = jax.nn.sigmoid(wz @ xh), jax.nn.sigmoid(wr @ xh)
        xrh = jnp.concatenate([x, r * h])
        n = jnp.tanh(wn @ xrh)
        tape.append((xh, xrh, z, r, n, h))
        h = (1 - z) * n + z * h
    dwz, dwr, dwn = jnp.zeros_like(wz), jnp.zeros_like(wr), jnp.zeros_like(wn)
    dxs, dh = [], ct
    for xh, xrh, z, r, n, hp in reversed(tape):
        daz = dh * (hp - n) * z * (1 - z)
        dan = dh * (1 - z) * (1 - n**2)
        dxrh = wn.T @ dan
        dar = dxrh[D:] * hp * r * (1 - r)
        dxh = wz.T @ daz + wr.T @ dar
        dwz += jnp.outer(daz, xh)
        dwr += jnp.outer(dar, xh)
        dwn += jnp.outer(dan, xrh)
        dxs.append(dxrh[:D] + dxh[:D])
        dh = dh * z + dxrh[D:] * r + dxh[D:]
    return jnp.stack(dxs[::-1]), dh, dwz, dwr, dwn


def leaky(u, alpha_raw):
    alpha = jax.nn.sigmoid(alpha_raw)

    def step(m, x):
        m = alpha * m + (1 - alpha) * x
        return m, m

    return lax.scan(step, jnp.zeros(u.shape[1]), u)[1]


def right_leaky(args, ct):
    u, alpha_raw = args
    alpha = jax.nn.sigmoid(alpha_raw)
    T = u.shape[0]
    m = [jnp.zeros(u.shape[1])]
    for t in range(T):
        m.append(alpha * m[-1] + (1 - alpha) * u[t])
    lam = jnp.zeros(u.shape[1])
    du, dalpha = jnp.zeros_like(u), jnp.zeros_like(alpha)
    for t in reversed(range(T)):
        lam = ct[t] + alpha * lam
        du = du.at[t].set((1 - alpha) * lam)
        dalpha = dalpha + lam * (m[t] - u[t])
    return du, dalpha * alpha * (1 - alpha)


def hmm_loglik(log_pi, log_a, log_b):
    la = log_pi + log_b[:, OBS[0]]
    for t in range(1, len(OBS)):
        la = jax.nn.logsumexp(la[:, None] + log_a, axis=0) + log_b[:, OBS[t]]
    return jax.nn.logsumexp(la)


def right_hmm(args, ct):
    log_pi, log_a, log_b = args
    T = OBS.shape[0]
    alphas = [log_pi + log_b[:, OBS[0]]]
    for t in range(1, T):
        alphas.append(jax.nn.logsumexp(alphas[-1][:, None] + log_a, axis=0) + log_b[:, OBS[t]])
    g = ct * jax.nn.softmax(alphas[-1])
    d_a, d_b = jnp.zeros_like(log_a), jnp.zeros_like(log_b)
    for t in range(T - 1, 0, -1):
        d_b = d_b.at[:, OBS[t]].add(g)
        resp = jax.nn.softmax(alphas[t - 1][:, None] + log_a, axis=0)
        joint = resp * g[None, :]
        d_a = d_a + joint
        g = joint.sum(axis=1)
    d_b = d_b.at[:, OBS[0]].add(g)
    return g, d_a, d_b


RS = np.random.RandomState(5)

PAD = jnp.asarray([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1]], bool)

TAGS = jnp.asarray([1, 0, 2, 2, 0])

HEADS = 2


def multihead(x, wq, wk, wv, wo):
    q = jnp.einsum("btd,dhk->bhtk", x, wq)
    k = jnp.einsum("btd,dhk->bhtk", x, wk)
    v = jnp.einsum("btd,dhk->bhtk", x, wv)
    a = jax.nn.softmax(jnp.einsum("bhtk,bhsk->bhts", q, k) / jnp.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("bhts,bhsk,hkd->btd", a, v, wo)


def right_multihead(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v = (jnp.einsum("btd,dhk->bhtk", x, w) for w in (wq, wk, wv))
    scale = q.shape[-1] ** -0.5
    a = jax.nn.softmax(jnp.einsum("bhtk,bhsk->bhts", q, k) * scale, axis=-1)
    o = jnp.einsum("bhts,bhsk->bhtk", a, v)
    d_wo = jnp.einsum("bhtk,btd->hkd", o, ct)
    d_o = jnp.einsum("btd,hkd->bhtk", ct, wo)
    d_v = jnp.einsum("bhts,bhtk->bhsk", a, d_o)
    d_a = jnp.einsum("bhtk,bhsk->bhts", d_o, v)
    d_s = a * (d_a - (d_a * a).sum(-1, keepdims=True)) * scale
    d_q = jnp.einsum("bhts,bhsk->bhtk", d_s, k)
    d_k = jnp.einsum("bhts,bhtk->bhsk", d_s, q)
    pairs = ((d_q, wq), (d_k, wk), (d_v, wv))
    d_x = sum(jnp.einsum("bhtk,dhk->btd", g, w) for g, w in pairs)
    d_wq, d_wk, d_wv = (jnp.einsum("btd,bhtk->dhk", x, g) for g, _ in pairs)
    return d_x, d_wq, d_wk, d_wv, d_wo


def cross_attention(q, mem, bias):
    s = jnp.einsum("btd,bsd->bts", q, mem) + bias
    s = jnp.where(PAD[:, None, :], s, -1e9)
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(s, -1), mem)


def right_cross(args, ct):
    q, mem, bias = args

    def example(qb, mb, keep, g):
        s = jnp.where(keep[None, :], qb @ mb.T + bias, -1e9)
        p = jax.nn.softmax(s, axis=-1)
        gp = g @ mb.T
        gs = p * (gp - (p * gp).sum(axis=-1, keepdims=True))
        gm = gs.T @ qb + p.T @ g
        return gs @ mb, gm, gs

    gq, gmem, gbias = jax.vmap(example)(q, mem, PAD, ct)
    return gq, gmem, gbias.sum(axis=0)


def causal_linear(q, k, v, decay):
    def step(S, qkv):
        qt, kt, vt = qkv
        S = decay * S + jnp.outer(kt, vt)
        return S, qt @ S

    return lax.scan(step, jnp.zeros((q.shape[1], v.shape[1])), (q, k, v))[1]


def right_causal_linear(args, ct):
    q, k, v, decay = args

    def fwd(S, kv):
        S_new = decay * S + jnp.outer(kv[0], kv[1])
        return S_new, (S, S_new)

    _, (S_prev, S_all) = lax.scan(fwd, jnp.zeros((k.shape[1], v.shape[1])), (k, v))

    def bwd(dS, inp):
        qt, kt, vt, So, Sn, g = inp
        dq = Sn @ g
        dS = dS + jnp.outer(qt, g)
        dk = dS @ vt
        dv = dS.T @ kt
        ddecay = jnp.sum(dS * So)
        return decay * dS, (dq, dk, dv, ddecay)

    _, (dq, dk, dv, dd) = lax.scan(bwd, jnp.zeros_like(S_all[0]), (q, k, v, S_prev, S_all, ct), reverse=True)
    return dq, dk, dv, dd.sum()


def draw_decay(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (5, 3)),
        jax.random.normal(b, (5, 3)),
        jax.random.normal(c, (5, 2)),
        0.8 + 0.05 * jax.random.normal(d, ()),
    )


def lstm(xs, w, u, b):
    def step(hc, x):
        h, c = hc
        i, f, g, o = jnp.split(w @ x + u @ h + b, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    z = jnp.zeros(u.shape[1])
    return lax.scan(step, (z, z), xs)[1]


def right_lstm(args, ct):
    xs, w, u, b = args
    sig = jax.nn.sigmoid
    H = u.shape[1]
    h = c = jnp.zeros(H)
    cache = []
    for x in xs:
        i, f, g, o = jnp.split(w @ x + u @ h + b, 4)
        i, f, g, o = sig(i), sig(f), jnp.tanh(g), sig(o)
        c_new = f * c + i * g
        cache.append((x, h, c, i, f, g, o, jnp.tanh(c_new)))
        h, c = o * jnp.tanh(c_new), c_new
    dW, dU, db = jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    dh, dc, dxs = jnp.zeros(H), jnp.zeros(H), [None] * len(cache)
    for t in range(len(cache) - 1, -1, -1):
        x, h_prev, c_prev, i, f, g, o, tc = cache[t]
        dh = dh + ct[t]
        dc = dc + dh * o * (1 - tc**2)
        di = dc * g * i * (1 - i)
        df = dc * c_prev * f * (1 - f)
        dg = dc * i * (1 - g**2)
        do = dh * tc * o * (1 - o)
        dz = jnp.concatenate([di, df, dg, do])
        dW, dU, db = dW + jnp.outer(dz, x), dU + jnp.outer(dz, h_prev), db + dz
        dxs[t] = w.T @ dz
        dh = u.T @ dz
        dc = dc * f
    return jnp.stack(dxs), dW, dU, db


def ssm(u, log_dt, a, bmat, cmat):
    dt = jnp.exp(log_dt)
    abar = jnp.exp(-dt * jnp.exp(a))

    def step(s, x):
        s = abar * s + dt * (bmat @ x)
        return s, cmat @ s

    return lax.scan(step, jnp.zeros_like(a), u)[1]


def right_ssm(args, ct):
    u, log_dt, a, bmat, cmat = args
    dt, ea = jnp.exp(log_dt), jnp.exp(a)
    abar = jnp.exp(-dt * ea)
    _, S = lax.scan(lambda s, x: (abar * s + dt * (bmat @ x),) * 2, jnp.zeros_like(a), u)
    S_prev = jnp.concatenate([jnp.zeros_like(S[:1]), S[:-1]])

    def back(lam, g):
        lam = abar * lam + cmat.T @ g
        return lam, lam

    _, lam = lax.scan(back, jnp.zeros_like(a), ct, reverse=True)
    g_c = jnp.einsum("to,ts->os", ct, S)
    g_abar = jnp.sum(lam * S_prev, axis=0)
    g_b = jnp.einsum("ts,ti->si", dt * lam, u)
    g_dt = jnp.sum(lam * (u @ bmat.T), axis=0) - g_abar * abar * ea
    g_a = -g_abar * abar * dt * ea
    g_u = (dt * lam) @ bmat
    return g_u, g_dt * dt, g_a, g_b, g_c


def draw_ssm(key):
    ks = jax.random.split(key, 5)
    return (
        jax.random.normal(ks[0], (6, 2)),
        -0.7 + 0.2 * jax.random.normal(ks[1], (3,)),
        0.4 * jax.random.normal(ks[2], (3,)),
        jax.random.normal(ks[3], (3, 2)),
        jax.random.normal(ks[4], (2, 3)),
    )


def crf_nll(emit, trans, start):
    a = start + emit[0]
    score = start[TAGS[0]] + emit[0, TAGS[0]]
    for t in range(1, len(TAGS)):
        a = jax.nn.logsumexp(a[:, None] + trans, axis=0) + emit[t]
        score = score + trans[TAGS[t - 1], TAGS[t]] + emit[t, TAGS[t]]
    return jax.nn.logsumexp(a) - score


def right_crf(args, ct):
    emit, trans, start = args
    T, K = emit.shape
    alpha = [start + emit[0]]
    for t in range(1, T):
        alpha.append(jax.nn.logsumexp(alpha[-1][:, None] + trans, axis=0) + emit[t])
    beta = [jnp.zeros(K)]
    for t in range(T - 1, 0, -1):
        beta.insert(0, jax.nn.logsumexp(trans + emit[t] + beta[0], axis=1))
    logz = jax.nn.logsumexp(alpha[-1])
    marg = jnp.exp(jnp.stack(alpha) + jnp.stack(beta) - logz)
    g_emit = marg - jax.nn.one_hot(TAGS, K)
    g_trans = jnp.zeros_like(trans)
    for t in range(1, T):
        pair = alpha[t - 1][:, None] + trans + emit[t] + beta[t] - logz
        g_trans = g_trans + jnp.exp(pair)
    g_trans = g_trans.at[TAGS[:-1], TAGS[1:]].add(-1.0)
    g_start = marg[0] - jax.nn.one_hot(TAGS[0], K)
    return ct * g_emit, ct * g_trans, ct * g_start


SINGLE = [
    *wrong_rules(
        rnn,
        right_rnn,
        normals((5, 2), (3,), (3, 2), (3, 3), (3,)),
        """
rnn_a
- da = (g + dh_next) * (1 - h * h)
+ da = g * (1 - h * h)
carry: gradient handed on from the later step is not added

rnn_b
- dwh = dwh + jnp.outer(da, hp)
+ dwh = dwh + jnp.outer(da, h)
operand: new state in place of the previous one

rnn_c
- return (dh_prev, dwx, dwh, db), dx
+ return (dh_next, dwx, dwh, db), dx
carry: hands on the gradient it received and not that of the previous state
    """,
    ),
    *wrong_rules(
        gru,
        right_gru,
        normals((4, 2), (3,), (3, 5), (3, 5), (3, 5)),
        """
gru_a
- daz = dh * (hp - n) * z * (1 - z)
+ daz = dh * (n - hp) * z * (1 - z)
sign: update gate's gradient: n - h for h - n

gru_c
- dar = dxrh[D:] * hp * r * (1 - r)
+ dar = dxrh[D:] * n * r * (1 - r)
operand: candidate n where the previous state must stand

gru_d
- return jnp.stack(dxs[::-1]), dh, dwz, dwr, dwn
+ return jnp.stack(dxs), dh, dwz, dwr, dwn
index: list of the steps not turned round
@ return jnp.stack(dxs), dh, dwz, dwr, dwn
@ dxs.append(dxrh[:D] + dxh[:D])
    """,
    ),
    *wrong_rules(
        leaky,
        right_leaky,
        normals((6, 3), (3,), s=1.0),
        """
leaky_a
- lam = ct[t] + alpha * lam
+ lam = ct[t] + lam
factor: decay of the adjoint is missing

leaky_c
- lam = ct[t] + alpha * lam
+ lam = ct[t]
carry: adjoint of the later steps overwritten
    """,
    ),
    *wrong_rules(
        hmm_loglik,
        right_hmm,
        normals((3,), (3, 3), (3, 3), s=1.0),
        """
hmm_b
- g = joint.sum(axis=1)
+ g = joint.sum(axis=0)
axis: summed over the previous instead of the following states
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        multihead,
        right_multihead,
        normals((2, 4, 3), (3, 2, 3), (3, 2, 3), (3, 2, 3), (2, 3, 3)),
        """
multihead_a
- d_v = jnp.einsum("bhts,bhtk->bhsk", a, d_o)
+ d_v = jnp.einsum("bhst,bhtk->bhsk", a, d_o)
- d_k = jnp.einsum("bhts,bhtk->bhsk", d_s, q)
+ d_k = jnp.einsum("bhts,bhtk->bhsk", d_s, k)
- d_x = sum(jnp.einsum("bhtk,dhk->btd", g, w) for g, w in pairs)
+ d_x = sum(jnp.einsum("bhtk,dhk->btd", g, w) for g, w in pairs[:2])
transpose: weights' letters not exchanged (t and s)
@ d_v = jnp.einsum("bhst,bhtk->bhsk", a, d_o)
operand: keys for queries
@ d_k = jnp.einsum("bhts,bhtk->bhsk", d_s, k)
term: values' path to the input is left out
@ d_x = sum(jnp.einsum("bhtk,dhk->btd", g, w) for g, w in pairs[:2])

multihead_c
- d_s = a * (d_a - (d_a * a).sum(-1, keepdims=True)) * scale
+ d_s = a * (d_a - (d_a * a).sum(-2, keepdims=True)) * scale
- d_wq, d_wk, d_wv = (jnp.einsum("btd,bhtk->dhk", x, g) for g, _ in pairs)
+ d_wq, d_wk, d_wv = (jnp.einsum("btd,bhsk->dhk", x, g) for g, _ in pairs)
axis: softmax's sum over the queries
@ d_s = a * (d_a - (d_a * a).sum(-2, keepdims=True)) * scale
transpose: heads' letter dropped by a sum over the heads
@ d_wq, d_wk, d_wv = (jnp.einsum("btd,bhsk->dhk", x, g) for g, _ in pairs)
    """,
    ),
    *wrong_rules(
        cross_attention,
        right_cross,
        normals((2, 3, 4), (2, 5, 4), (3, 5)),
        """
cross_a
- gs = p * (gp - (p * gp).sum(axis=-1, keepdims=True))
+ gs = p * gp
- return gq, gmem, gbias.sum(axis=0)
+ return gq, gmem, gbias.mean(axis=0)
term: coupling of the softmax over the row is missing
@ gs = p * gp
reduction: mean over the batch in place of the sum for the shared bias
@ return gq, gmem, gbias.mean(axis=0)
    """,
    ),
    *wrong_rules(
        causal_linear,
        right_causal_linear,
        draw_decay,
        """
causal_linear_b
- dq = Sn @ g
+ dq = So @ g
- return dq, dk, dv, dd.sum()
+ return dq, dk, dv, dd.mean()
operand: state before the update in place of that after it
@ dq = So @ g
reduction: mean over the steps in place of the sum
@ return dq, dk, dv, dd.mean()

causal_linear_c
- dS = dS + jnp.outer(qt, g)
+ dS = jnp.outer(qt, g)
- ddecay = jnp.sum(dS * So)
+ ddecay = jnp.sum(dS * Sn)
carry: later steps' state gradient overwritten
@ dS = jnp.outer(qt, g)
operand: new state in place of the old one
@ ddecay = jnp.sum(dS * Sn)
    """,
    ),
    *wrong_rules(
        lstm,
        right_lstm,
        normals((4, 2), (12, 2), (12, 3), (12,), s=0.8),
        """
lstm_a
- dc = dc + dh * o * (1 - tc**2)
+ dc = dh * o * (1 - tc**2)
- df = dc * c_prev * f * (1 - f)
+ df = dc * c_prev * (1 - f**2)
carry: cell gradient of the later step overwritten
@ dc = dh * o * (1 - tc**2)
activation: slope of tanh on the forget gate
@ df = dc * c_prev * (1 - f**2)

lstm_b
- dc = dc + dh * o * (1 - tc**2)
+ dc = dc + dh * o
- dz = jnp.concatenate([di, df, dg, do])
+ dz = jnp.concatenate([di, df, do, dg])
- dc = dc * f
+ dc = dc * i
factor: slope of tanh at the cell missing
@ dc = dc + dh * o
index: gates put together in another order than they were split
@ dz = jnp.concatenate([di, df, do, dg])
operand: input gate instead of the forget gate hands the cell on
@ dc = dc * i
    """,
    ),
    *wrong_rules(
        ssm,
        right_ssm,
        draw_ssm,
        """
ssm_a
- S_prev = jnp.concatenate([jnp.zeros_like(S[:1]), S[:-1]])
+ S_prev = jnp.concatenate([jnp.zeros_like(S[:1]), S[1:]])
- g_u = (dt * lam) @ bmat
+ g_u = lam @ bmat
index: states not shifted by a step
@ S_prev = jnp.concatenate([jnp.zeros_like(S[:1]), S[1:]])
factor: dt missing
@ g_u = lam @ bmat

ssm_b
- _, lam = lax.scan(back, jnp.zeros_like(a), ct, reverse=True)
+ _, lam = lax.scan(back, jnp.zeros_like(a), ct)
- g_dt = jnp.sum(lam * (u @ bmat.T), axis=0) - g_abar * abar * ea
+ g_dt = jnp.sum(lam * (u @ bmat.T), axis=0)
index: adjoint run forwards in time
@ _, lam = lax.scan(back, jnp.zeros_like(a), ct)
term: the step in the discretised A is left out
@ g_dt = jnp.sum(lam * (u @ bmat.T), axis=0)
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf,
        normals((5, 3), (3, 3), (3,), s=1.0),
        """
crf_a
- beta.insert(0, jax.nn.logsumexp(trans + emit[t] + beta[0], axis=1))
+ beta.insert(0, jax.nn.logsumexp(trans + beta[0], axis=1))
- g_trans = g_trans.at[TAGS[:-1], TAGS[1:]].add(-1.0)
+ g_trans = g_trans.at[TAGS[1:], TAGS[:-1]].add(-1.0)
term: emission of the following step left out of beta
@ beta.insert(0, jax.nn.logsumexp(trans + beta[0], axis=1))
transpose: from and to exchanged in the observed transitions
@ g_trans = g_trans.at[TAGS[1:], TAGS[:-1]].add(-1.0)

crf_c
- beta.insert(0, jax.nn.logsumexp(trans + emit[t] + beta[0], axis=1))
+ beta.insert(0, jax.nn.logsumexp(trans.T + emit[t] + beta[0], axis=1))
- g_emit = marg - jax.nn.one_hot(TAGS, K)
+ g_emit = marg + jax.nn.one_hot(TAGS, K)
transpose: transition matrix transposed in the backward recursion
@ beta.insert(0, jax.nn.logsumexp(trans.T + emit[t] + beta[0], axis=1))
sign: observed counts added
@ g_emit = marg + jax.nn.one_hot(TAGS, K)
    """,
    ),
]
