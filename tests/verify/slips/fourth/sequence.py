"""Rules with mistakes in the derivatives of sequence."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.slips.changes import wrong_rules

sigm = jax.nn.sigmoid


def lstm(xs, Wx, Wh):
    n = Wh.shape[1]

    def step(hc, x):
        h, c = hc
        i, f, o, g = jnp.split(Wx @ x + Wh @ h, 4)
        c = sigm(f) * c + sigm(i) * jnp.tanh(g)
        h = sigm(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (jnp.zeros(n), jnp.zeros(n)), xs)[1]


def right_lstm_pullback(args, ys):
    xs, Wx, Wh = args
    zero = jnp.zeros(Wh.shape[1])

    def fwd(hc, x):
        h, c = hc
        i, f, o, g = jnp.split(Wx @ x + Wh @ h, 4)
        i, f, o, g = sigm(i), sigm(f), sigm(o), jnp.tanh(g)
        c2 = f * c + i * g
        return (o * jnp.tanh(c2), c2), (x, h, c, i, f, o, g, jnp.tanh(c2))

    def bwd(carry, saved):
        dh, dc = carry
        (x, h, c, i, f, o, g, tc), dy = saved
        dh = dh + dy
        dc = dc + dh * o * (1 - tc * tc)
        d_in = [dc * g * i * (1 - i), dc * c * f * (1 - f)]
        d_in += [dh * tc * o * (1 - o), dc * i * (1 - g * g)]
        da = jnp.concatenate(d_in)
        return (Wh.T @ da, dc * f), (Wx.T @ da, jnp.outer(da, x), jnp.outer(da, h))

    _, saved = lax.scan(fwd, (zero, zero), xs)
    _, (dx, dWx, dWh) = lax.scan(bwd, (zero, zero), (saved, ys), reverse=True)
    return dx, dWx.sum(0), dWh.sum(0)


TAGS = np.array([0, 2, 1, 1, 2])


def crf_nll(unary, trans):
    al = unary[0]
    for u in unary[1:]:
        al = u + jax.nn.logsumexp(al[:, None] + trans, axis=0)
    gold = unary[np.arange(5), TAGS].sum() + trans[TAGS[:-1], TAGS[1:]].sum()
    return jax.nn.logsumexp(al) - gold


def right_crf_nll_pullback(args, y):
    unary, trans = args
    T, S = unary.shape
    al, be = [unary[0]], [jnp.zeros(S)]
    for t in range(1, T):
        al.append(unary[t] + jax.nn.logsumexp(al[-1][:, None] + trans, axis=0))
        be.insert(0, jax.nn.logsumexp(trans + unary[T - t] + be[0], axis=1))
    logZ = jax.nn.logsumexp(al[-1])
    node = jnp.exp(jnp.stack(al) + jnp.stack(be) - logZ)
    edge = jnp.zeros_like(trans)
    for t in range(1, T):
        edge = edge + jnp.exp(al[t - 1][:, None] + trans + unary[t] + be[t] - logZ)
    d_unary = node.at[np.arange(T), TAGS].add(-1.0)
    d_trans = edge.at[TAGS[:-1], TAGS[1:]].add(-1.0)
    return y * d_unary, y * d_trans


REL = np.arange(4)[None, :] - np.arange(4)[:, None] + 3


def rel_attention(q, k, v, bias):
    s = jnp.einsum("bhqd,bhkd->bhqk", q, k) / np.sqrt(3.0) + bias[:, REL]
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(s, -1), v)


def right_rel_attention_pullback(args, y):
    q, k, v, bias = args
    s = jnp.einsum("bhqd,bhkd->bhqk", q, k) / np.sqrt(3.0) + bias[:, REL]
    w = jax.nn.softmax(s, -1)
    dv = jnp.einsum("bhqk,bhqd->bhkd", w, y)
    dw = jnp.einsum("bhqd,bhkd->bhqk", y, v)
    ds = w * (dw - (w * dw).sum(-1, keepdims=True))
    dbias = jnp.zeros_like(bias).at[:, REL].add(ds.sum(0))
    dq = jnp.einsum("bhqk,bhkd->bhqd", ds, k) / np.sqrt(3.0)
    dk = jnp.einsum("bhqk,bhqd->bhkd", ds, q) / np.sqrt(3.0)
    return dq, dk, dv, dbias


def additive_attention(h, q, W, U, v):
    e = jnp.tanh(h @ W + q @ U) @ v
    return jax.nn.softmax(e) @ h


def right_additive_attention_pullback(args, y):
    h, q, W, U, v = args
    m = jnp.tanh(h @ W + q @ U)
    p = jax.nn.softmax(m @ v)
    dp = h @ y
    de = p * (dp - jnp.dot(p, dp))
    dv = m.T @ de
    dm = jnp.outer(de, v) * (1 - m**2)
    dW = h.T @ dm
    dqU = dm.sum(axis=0)
    dU = jnp.outer(q, dqU)
    dq = U @ dqU
    dh = jnp.outer(p, y) + dm @ W.T
    return dh, dq, dW, dU, dv


def ssm(x, log_a, b, c, d):
    a = jnp.exp(-jnp.exp(log_a))
    h = jnp.zeros_like(a)
    ys = []
    for t in range(x.shape[0]):
        h = a * h + b * x[t]
        ys.append(c @ h + d * x[t])
    return jnp.stack(ys)


def right_ssm_pullback(args, y):
    x, log_a, b, c, d = args
    a = jnp.exp(-jnp.exp(log_a))
    hs = [jnp.zeros_like(a)]
    for xt in x:
        hs.append(a * hs[-1] + b * xt)
    da = db = dc = lam = jnp.zeros_like(a)
    dx = [None] * len(x)
    for t in range(len(x) - 1, -1, -1):
        lam = lam + y[t] * c
        dc = dc + y[t] * hs[t + 1]
        db = db + lam * x[t]
        da = da + lam * hs[t]
        dx[t] = jnp.dot(lam, b) + y[t] * d
        lam = a * lam
    dlog_a = -da * a * jnp.exp(log_a)
    return jnp.stack(dx), dlog_a, db, dc, jnp.sum(y * x)


def randn(*shapes):
    def f(key):
        return tuple(jax.random.normal(k, s) for k, s in zip(jax.random.split(key, len(shapes)), shapes))

    return f


SEVERAL = [
    *wrong_rules(
        lstm,
        right_lstm_pullback,
        randn((4, 2), (12, 2), (12, 3)),
        """
lstm_pullback
- dh = dh + dy
+ dh = dy
- d_in += [dh * tc * o * (1 - o), dc * i * (1 - g * g)]
+ d_in += [dh * tc * o * (1 - o), dc * i * g * (1 - g)]
carry: adjoint of the hidden state from the later steps dropped
@ dh = dy
activation: candidate g is a tanh, sigmoid slope used
@ d_in += [dh * tc * o * (1 - o), dc * i * g * (1 - g)]
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf_nll_pullback,
        randn((5, 3), (3, 3)),
        """
crf_nll_pullback
- edge = edge + jnp.exp(al[t - 1][:, None] + trans + unary[t] + be[t] - logZ)
+ edge = edge + jnp.exp(al[t - 1][:, None] + trans + be[t] - logZ)
- d_unary = node.at[np.arange(T), TAGS].add(-1.0)
+ d_unary = node.at[np.arange(T), TAGS].add(1.0)
- d_trans = edge.at[TAGS[:-1], TAGS[1:]].add(-1.0)
+ d_trans = edge.at[TAGS[1:], TAGS[:-1]].add(-1.0)
term: emission score of the later tag missing in the pair marginal
@ edge = edge + jnp.exp(al[t - 1][:, None] + trans + be[t] - logZ)
sign: gold score enters with a minus
@ d_unary = node.at[np.arange(T), TAGS].add(1.0)
index: from and to of the gold transitions exchanged
@ d_trans = edge.at[TAGS[1:], TAGS[:-1]].add(-1.0)
    """,
    ),
    *wrong_rules(
        rel_attention,
        right_rel_attention_pullback,
        randn((2, 2, 4, 3), (2, 2, 4, 3), (2, 2, 4, 3), (2, 7)),
        """
rel_attention_pullback
- ds = w * (dw - (w * dw).sum(-1, keepdims=True))
+ ds = w * (dw - dw.sum(-1, keepdims=True))
- dk = jnp.einsum("bhqk,bhqd->bhkd", ds, q) / np.sqrt(3.0)
+ dk = jnp.einsum("bhkq,bhqd->bhkd", ds, q) / np.sqrt(3.0)
factor: softmax backward: weighted sum needed, weights w left out
@ ds = w * (dw - dw.sum(-1, keepdims=True))
transpose: letters k and q of ds exchanged
@ dk = jnp.einsum("bhkq,bhqd->bhkd", ds, q) / np.sqrt(3.0)
    """,
    ),
    *wrong_rules(
        additive_attention,
        right_additive_attention_pullback,
        randn((5, 3), (3,), (3, 4), (3, 4), (4,)),
        """
additive_attention_pullback
- dq = U @ dqU
+ dq = W @ dqU
- dh = jnp.outer(p, y) + dm @ W.T
+ dh = jnp.outer(p, y)
operand: query is projected by U
@ dq = W @ dqU
detached: the states' influence on the scores is left out
@ dh = jnp.outer(p, y)
    """,
    ),
    *wrong_rules(
        ssm,
        right_ssm_pullback,
        randn((6,), (3,), (3,), (3,), ()),
        """
ssm_pullback
- dc = dc + y[t] * hs[t + 1]
+ dc = dc + y[t] * hs[t]
- dx[t] = jnp.dot(lam, b) + y[t] * d
+ dx[t] = jnp.dot(lam, b)
- dlog_a = -da * a * jnp.exp(log_a)
+ dlog_a = da * a * jnp.exp(log_a)
index: output reads the state after the update, one step late
@ dc = dc + y[t] * hs[t]
term: direct feed-through d left out
@ dx[t] = jnp.dot(lam, b)
sign: minus from exp(-exp(.)) lost
@ dlog_a = da * a * jnp.exp(log_a)
    """,
    ),
]
