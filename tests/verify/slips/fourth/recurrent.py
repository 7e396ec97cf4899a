"""Rules with mistakes in the derivatives of recurrent."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

K = jax.random.split


def rnn(xs, h0, Wx, Wh):
    def step(h, x):
        h = jnp.tanh(Wx @ x + Wh @ h)
        return h, h

    return lax.scan(step, h0, xs)[1]


def right_rnn_bptt(args, dhs):
    xs, h0, Wx, Wh = args
    hs = [h0]
    for x in xs:
        hs.append(jnp.tanh(Wx @ x + Wh @ hs[-1]))
    dWx, dWh = jnp.zeros_like(Wx), jnp.zeros_like(Wh)
    dxs = []
    dh = jnp.zeros_like(h0)
    for t in reversed(range(len(xs))):
        dh = dh + dhs[t]
        dz = dh * (1 - hs[t + 1] ** 2)
        dWx += jnp.outer(dz, xs[t])
        dWh += jnp.outer(dz, hs[t])
        dxs.append(Wx.T @ dz)
        dh = Wh.T @ dz
    return jnp.stack(dxs[::-1]), dh, dWx, dWh


def gru_final(xs, h0, Wz, Wr, Wn):
    h = h0
    for x in xs:
        xh = jnp.concatenate([x, h])
        z, r = jax.nn.sigmoid(Wz @ xh), jax.nn.sigmoid(Wr @ xh)
        n = jnp.tanh(Wn @ jnp.concatenate([x, r * h]))
        h = (1 - z) * n + z * h
    return h


def gru_gates(x, h, Wz, Wr, Wn):
    xh = jnp.concatenate([x, h])
    z, r = jax.nn.sigmoid(Wz @ xh), jax.nn.sigmoid(Wr @ xh)
    xrh = jnp.concatenate([x, r * h])
    return xh, z, r, xrh, jnp.tanh(Wn @ xrh)


def right_gru_final_bptt(args, dh):
    xs, h0, *W = args
    prev = [h0]
    for x in xs:
        _, z, _, _, n = gru_gates(x, prev[-1], *W)
        prev.append((1 - z) * n + z * prev[-1])
    d = xs.shape[1]
    dWs, dxs = [0.0, 0.0, 0.0], []
    for x, h in zip(xs[::-1], prev[-2::-1]):
        xh, z, r, xrh, n = gru_gates(x, h, *W)
        an = dh * (1 - z) * (1 - n * n)
        az = dh * (h - n) * z * (1 - z)
        dxrh = W[2].T @ an
        ar = dxrh[d:] * h * r * (1 - r)
        dxh = W[0].T @ az + W[1].T @ ar
        dWs = [A + jnp.outer(g, v) for A, g, v in zip(dWs, (az, ar, an), (xh, xh, xrh))]
        dxs.insert(0, dxh[:d] + dxrh[:d])
        dh = dh * z + dxh[d:] + dxrh[d:] * r
    return (jnp.stack(dxs), dh, *dWs)


def leaky(u, v0, alpha):
    """v_t = a v_{t-1} + (1-a) u_t, a = sigmoid(alpha)."""
    a = jax.nn.sigmoid(alpha)

    def f(v, ut):
        v = a * v + (1 - a) * ut
        return v, v

    return lax.scan(f, v0, u)[1]


def right_leaky_bptt(args, gv):
    u, v0, alpha = args
    a = jax.nn.sigmoid(alpha)
    vs = leaky(u, v0, alpha)
    old = jnp.concatenate([v0[None], vs[:-1]])

    def f(carry, inp):
        gt, vt, ut = inp
        g = carry + gt
        return a * g, ((1 - a) * g, g * (vt - ut))

    g0, (gu, ga) = lax.scan(f, jnp.zeros_like(v0), (gv, old, u), reverse=True)
    galpha = ga.sum(0) * a * (1 - a)
    return gu, g0, galpha


def lstm_cell(x, h, c, W, b):
    i, f, o, g = jnp.split(W @ jnp.concatenate([x, h]) + b, 4)
    c2 = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c2), c2


def right_lstm_cell_bwd(args, ct):
    x, h, c, W, b = args
    dh2, dc2 = ct
    xh = jnp.concatenate([x, h])
    ai, af, ao, ag = jnp.split(W @ xh + b, 4)
    i, f, o, g = jax.nn.sigmoid(ai), jax.nn.sigmoid(af), jax.nn.sigmoid(ao), jnp.tanh(ag)
    tc = jnp.tanh(f * c + i * g)
    dc2 = dc2 + dh2 * o * (1 - tc**2)
    di = dc2 * g * i * (1 - i)
    df = dc2 * c * f * (1 - f)
    do = dh2 * tc * o * (1 - o)
    dg = dc2 * i * (1 - g**2)
    da = jnp.concatenate([di, df, do, dg])
    dxh = W.T @ da
    return dxh[: x.size], dxh[x.size :], dc2 * f, jnp.outer(da, xh), da


def cumulative_gate(x, w):
    """y_t = prod_{s<=t} sigmoid(x_s) * w_t"""
    return jnp.cumprod(jax.nn.sigmoid(x)) * w


def right_cumulative_gate_bwd(args, gy):
    x, w = args
    s = jax.nn.sigmoid(x)
    p = jnp.cumprod(s)
    gp = gy * w
    tail = jnp.cumsum((gp * p)[::-1])[::-1]
    gs = tail / s
    return gs * s * (1 - s), gy * p


def draw_rnn(key):
    a, b, c, d = K(key, 4)
    return (
        jax.random.normal(a, (4, 3)),
        jax.random.normal(b, (3,)),
        jax.random.normal(c, (3, 3)) * 0.6,
        jax.random.normal(d, (3, 3)) * 0.6,
    )


def draw_gru(key):
    a, b, *cs = K(key, 5)
    return (jax.random.normal(a, (3, 2)), jax.random.normal(b, (4,)), *(jax.random.normal(c, (4, 6)) for c in cs))


def draw_leaky(key):
    a, b, c = K(key, 3)
    return jax.random.normal(a, (6, 3)), jax.random.normal(b, (3,)), jax.random.normal(c, (3,))


def draw_lstm(key):
    a, b, c, d, e = K(key, 5)
    n = jax.random.normal
    return n(a, (2,)), n(b, (3,)), n(c, (3,)), n(d, (12, 5)), n(e, (12,))


def draw_gate(key):
    a, b = K(key)
    return jax.random.normal(a, (6,)) + 1.0, jax.random.normal(b, (6,))


SINGLE = [
    *wrong_rules(
        rnn,
        right_rnn_bptt,
        draw_rnn,
        """
rnn_bptt
- dWh += jnp.outer(dz, hs[t])
+ dWh += jnp.outer(dz, hs[t + 1])
index: recurrent weight saw the old state h[t], not the new one
    """,
    ),
    *wrong_rules(
        gru_final,
        right_gru_final_bptt,
        draw_gru,
        """
gru_final_bptt
- az = dh * (h - n) * z * (1 - z)
+ az = dh * (n - h) * z * (1 - z)
sign: update gate: new state is n + z (h - n), sign turned

gru_final_bptt_2
- ar = dxrh[d:] * h * r * (1 - r)
+ ar = dxrh[d:] * h * r
activation: slope of the reset gate's sigmoid incomplete, (1 - r) missing
    """,
    ),
    *wrong_rules(
        leaky,
        right_leaky_bptt,
        draw_leaky,
        """
leaky_bptt
- return a * g, ((1 - a) * g, g * (vt - ut))
+ return g, ((1 - a) * g, g * (vt - ut))
carry: decay factor a missing on the carried adjoint
    """,
    ),
    *wrong_rules(
        lstm_cell,
        right_lstm_cell_bwd,
        draw_lstm,
        """
lstm_cell_bwd
- dc2 = dc2 + dh2 * o * (1 - tc**2)
+ dc2 = dh2 * o * (1 - tc**2)
carry: cotangent of the cell state output thrown away

lstm_cell_bwd_2
- da = jnp.concatenate([di, df, do, dg])
+ da = jnp.concatenate([di, df, dg, do])
index: order of the gates differs from the forward split
    """,
    ),
    *wrong_rules(
        cumulative_gate,
        right_cumulative_gate_bwd,
        draw_gate,
        """
cumulative_gate_bwd
- tail = jnp.cumsum((gp * p)[::-1])[::-1]
+ tail = jnp.cumsum(gp * p)
index: sum must run over the later steps, not the earlier ones
    """,
    ),
]
