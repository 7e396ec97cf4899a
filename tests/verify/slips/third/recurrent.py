"""Rules with mistakes in the derivatives of recurrent."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


T, I, H = 5, 3, 4


def simple_rnn(xs, wx, wh, b):
    h = jnp.zeros(H)
    hs = []
    for t in range(T):
        h = jnp.tanh(xs[t] @ wx + h @ wh + b)
        hs.append(h)
    return jnp.stack(hs)


def draw_rnn(key):
    return normal(key, (T, I), (I, H), (H, H), (H,))


def lstm_cell(x, h, c, wx, wh):
    z = x @ wx + h @ wh
    i, f, g, o = jnp.split(z, 4, axis=-1)
    i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
    g = jnp.tanh(g)
    c_new = f * c + i * g
    return o * jnp.tanh(c_new), c_new


def draw_lstm(key):
    return normal(key, (2, I), (2, H), (2, H), (I, 4 * H), (H, 4 * H))


def gru_seq(xs, h0, wz, wr, wn):
    def step(h, x):
        xh = jnp.concatenate([x, h])
        z = jax.nn.sigmoid(xh @ wz)
        r = jax.nn.sigmoid(xh @ wr)
        n = jnp.tanh(jnp.concatenate([x, r * h]) @ wn)
        h = (1.0 - z) * h + z * n
        return h, h

    return jax.lax.scan(step, h0, xs)[1]


def draw_gru(key):
    return normal(key, (T, I), (H,), (I + H, H), (I + H, H), (I + H, H))


def diag_ssm(u, log_a, b, c):
    a = jax.nn.sigmoid(log_a)

    def step(s, u_t):
        s = a * s + b * u_t
        return s, jnp.dot(c, s)

    return jax.lax.scan(step, jnp.zeros_like(b), u)[1]


def draw_ssm(key):
    return normal(key, (T,), (H,), (H,), (H,))


def leaky_echo(xs, w, alpha):
    h = jnp.zeros((H,))
    total = 0.0
    for t in range(T):
        h = (1.0 - alpha) * h + alpha * jnp.sin(w @ h + xs[t])
        total = total + jnp.sum(h**2)
    return total


def draw_echo(key):
    xs, w, a = normal(key, (T, H), (H, H), ())
    return xs, w, 0.4 + 0.05 * jnp.tanh(a)


def lstm_scan(xs, w, u):
    def step(carry, x):
        h, c = carry
        i, f, g, o = (x @ w + h @ u).reshape(4, H)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(step, (jnp.zeros(H), jnp.zeros(H)), xs)[1]


def draw_lstm_scan(key):
    return normal(key, (T, I), (I, 4 * H), (H, 4 * H))


def right_simple_rnn(args, ct):
    xs, wx, wh, b = args
    hs = [jnp.zeros(H)]
    for t in range(T):
        hs.append(jnp.tanh(xs[t] @ wx + hs[-1] @ wh + b))
    g_wx, g_wh, g_b = jnp.zeros_like(wx), jnp.zeros_like(wh), jnp.zeros_like(b)
    g_xs = [None] * T
    g_next = jnp.zeros(H)
    for t in reversed(range(T)):
        g_h = ct[t] + g_next
        g_a = g_h * (1.0 - hs[t + 1] ** 2)
        g_wx += jnp.outer(xs[t], g_a)
        g_wh += jnp.outer(hs[t], g_a)
        g_b += g_a
        g_xs[t] = wx @ g_a
        g_next = wh @ g_a
    return jnp.stack(g_xs), g_wx, g_wh, g_b


def right_lstm_cell(args, ct):
    x, h, c, wx, wh = args
    dh_new, dc_new = ct
    zi, zf, zg, zo = jnp.split(x @ wx + h @ wh, 4, axis=-1)
    i, f, o, g = jax.nn.sigmoid(zi), jax.nn.sigmoid(zf), jax.nn.sigmoid(zo), jnp.tanh(zg)
    tc = jnp.tanh(f * c + i * g)
    do = dh_new * tc
    dc = dc_new + dh_new * o * (1 - tc**2)
    di = dc * g
    df = dc * c
    dg = dc * i
    d_zi = di * i * (1 - i)
    d_zf = df * f * (1 - f)
    d_zg = dg * (1 - g**2)
    d_zo = do * o * (1 - o)
    dz = jnp.concatenate([d_zi, d_zf, d_zg, d_zo], axis=-1)
    return dz @ wx.T, dz @ wh.T, dc * f, x.T @ dz, h.T @ dz


def right_gru_seq(args, ct):
    xs, h0, wz, wr, wn = args
    hs = jnp.concatenate([h0[None], gru_seq(*args)[:-1]])

    def back(dh, inp):
        x, h, g = inp
        dh = dh + g
        xh = jnp.concatenate([x, h])
        z, r = jax.nn.sigmoid(xh @ wz), jax.nn.sigmoid(xh @ wr)
        xrh = jnp.concatenate([x, r * h])
        n = jnp.tanh(xrh @ wn)
        da_n = dh * z * (1.0 - n * n)
        da_z = dh * (n - h) * z * (1.0 - z)
        d_xrh = wn @ da_n
        da_r = d_xrh[I:] * h * r * (1.0 - r)
        d_xh = wz @ da_z + wr @ da_r
        dx = d_xh[:I] + d_xrh[:I]
        dh_prev = dh * (1.0 - z) + d_xh[I:] + d_xrh[I:] * r
        return dh_prev, (dx, jnp.outer(xh, da_z), jnp.outer(xh, da_r), jnp.outer(xrh, da_n))

    dh0, (dxs, gz, gr, gn) = jax.lax.scan(back, jnp.zeros_like(h0), (xs, hs, ct), reverse=True)
    return dxs, dh0, gz.sum(0), gr.sum(0), gn.sum(0)


def right_diag_ssm(args, ct):
    u, log_a, b, c = args
    a = jax.nn.sigmoid(log_a)

    def fwd(s, u_t):
        s_new = a * s + b * u_t
        return s_new, (s, s_new)

    _, (prev, states) = jax.lax.scan(fwd, jnp.zeros_like(b), u)

    def bwd(lam, inp):
        g, s_old, u_t = inp
        lam = lam + g * c
        return a * lam, (lam * s_old, lam * u_t, jnp.dot(lam, b))

    _, (ga, gb, gu) = jax.lax.scan(bwd, jnp.zeros_like(b), (ct, prev, u), reverse=True)
    g_log_a = ga.sum(0) * a * (1.0 - a)
    g_c = ct @ states
    return gu, g_log_a, gb.sum(0), g_c


def right_leaky_echo(args, ct):
    xs, w, alpha = args
    h = jnp.zeros((H,))
    tape = []
    for t in range(T):
        pre = w @ h + xs[t]
        new = (1.0 - alpha) * h + alpha * jnp.sin(pre)
        tape.append((h, pre, new))
        h = new
    dxs, dw, dalpha, dh = [], jnp.zeros_like(w), 0.0, jnp.zeros((H,))
    for old, pre, new in tape[::-1]:
        dh = dh + 2.0 * ct * new
        dalpha = dalpha + jnp.dot(dh, jnp.sin(pre) - old)
        dpre = alpha * dh * jnp.cos(pre)
        dxs.insert(0, dpre)
        dw = dw + jnp.outer(dpre, old)
        dh = (1.0 - alpha) * dh + w.T @ dpre
    return jnp.stack(dxs), dw, dalpha


def right_lstm_scan(args, ct):
    xs, w, u = args

    def fwd(carry, x):
        h, c = carry
        i, f, g, o = (x @ w + h @ u).reshape(4, H)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c_new = f * c + i * g
        return (o * jnp.tanh(c_new), c_new), (h, c, c_new, i, f, g, o)

    def bwd(carry, inp):
        dh, dc = carry
        g_out, x, (h, c, c_new, i, f, g, o) = inp
        dh = dh + g_out
        tc = jnp.tanh(c_new)
        dc = dc + dh * o * (1 - tc**2)
        dz = jnp.concatenate([dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * tc * o * (1 - o)])
        return (u @ dz, dc * f), (w @ dz, jnp.outer(x, dz), jnp.outer(h, dz))

    zero = (jnp.zeros(H), jnp.zeros(H))
    _, tape = jax.lax.scan(fwd, zero, xs)
    _, (dxs, dw, du) = jax.lax.scan(bwd, zero, (ct, xs, tape), reverse=True)
    return dxs, dw.sum(0), du.sum(0)


SINGLE = [
    *wrong_rules(
        simple_rnn,
        right_simple_rnn,
        draw_rnn,
        """
simple_rnn_bwd_2
- g_h = ct[t] + g_next
+ g_h = ct[t]
carry: gradient of the later steps is not added
    """,
    ),
    *wrong_rules(
        lstm_cell,
        right_lstm_cell,
        draw_lstm,
        """
lstm_cell_bwd_2
- d_zg = dg * (1 - g**2)
+ d_zg = dg * g * (1 - g)
activation: slope of the sigmoid for the tanh candidate
    """,
    ),
    *wrong_rules(
        gru_seq,
        right_gru_seq,
        draw_gru,
        """
gru_seq_bwd_2
- dh_prev = dh * (1.0 - z) + d_xh[I:] + d_xrh[I:] * r
+ dh_prev = dh * (1.0 - z) + d_xh[I:]
term: path through the reset state r * h missing
    """,
    ),
    *wrong_rules(
        diag_ssm,
        right_diag_ssm,
        draw_ssm,
        """
diag_ssm_bwd_2
- g_log_a = ga.sum(0) * a * (1.0 - a)
+ g_log_a = ga.sum(0)
activation: slope of the sigmoid missing
    """,
    ),
    *wrong_rules(
        leaky_echo,
        right_leaky_echo,
        draw_echo,
        """
leaky_echo_bwd_2
- dh = (1.0 - alpha) * dh + w.T @ dpre
+ dh = w.T @ dpre
carry: leak part of the carry missing
    """,
    ),
    *wrong_rules(
        lstm_scan,
        right_lstm_scan,
        draw_lstm_scan,
        """
lstm_scan_bwd_2
- dc = dc + dh * o * (1 - tc**2)
+ dc = dh * o * (1 - tc**2)
carry: carry of the cell state overwritten
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        simple_rnn,
        right_simple_rnn,
        draw_rnn,
        """
simple_rnn_bwd_3
- g_a = g_h * (1.0 - hs[t + 1] ** 2)
+ g_a = g_h * (1.0 - hs[t] ** 2)
- g_wh += jnp.outer(hs[t], g_a)
+ g_wh += jnp.outer(hs[t + 1], g_a)
- g_next = wh @ g_a
+ g_next = wh.T @ g_a
index: slope of tanh taken at the state of the step before
@ g_a = g_h * (1.0 - hs[t] ** 2)
transpose: wh must not be transposed here
@ g_next = wh.T @ g_a
index: new state in place of the state before the step
@ g_wh += jnp.outer(hs[t + 1], g_a)
    """,
    ),
    *wrong_rules(
        lstm_cell,
        right_lstm_cell,
        draw_lstm,
        """
lstm_cell_bwd_3
- dc = dc_new + dh_new * o * (1 - tc**2)
+ dc = dh_new * o * (1 - tc**2)
- df = dc * c
+ df = dc * i
- dz = jnp.concatenate([d_zi, d_zf, d_zg, d_zo], axis=-1)
+ dz = jnp.concatenate([d_zi, d_zf, d_zo, d_zg], axis=-1)
operand: input gate in place of the old cell state
@ df = dc * i
index: order of the gates: candidate and output exchanged
@ dz = jnp.concatenate([d_zi, d_zf, d_zo, d_zg], axis=-1)
term: incoming gradient of the new cell state missing
@ dc = dh_new * o * (1 - tc**2)
    """,
    ),
    *wrong_rules(
        lstm_scan,
        right_lstm_scan,
        draw_lstm_scan,
        """
lstm_scan_bwd_3
- dc = dc + dh * o * (1 - tc**2)
+ dc = dc + dh * o * (1 - o**2)
- return dxs, dw.sum(0), du.sum(0)
+ return dxs, dw.sum(0), du.mean(0)
activation: slope of tanh in the wrong variable: o in place of tanh(c)
@ dc = dc + dh * o * (1 - o**2)
reduction: mean over time in place of the sum
@ return dxs, dw.sum(0), du.mean(0)
    """,
    ),
]
