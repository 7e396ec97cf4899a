"""Recurrent cells, scans, ODE steps and filters, backward through time by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules


def rnn(xs, h0, Wx, Wh, b):
    h, out = h0, []
    for t in range(xs.shape[0]):
        h = jnp.tanh(xs[t] @ Wx + h @ Wh + b)
        out.append(h)
    return jnp.stack(out)


def draw_rnn(key):
    k = jax.random.split(key, 5)
    return (
        jax.random.normal(k[0], (5, 3)),
        jax.random.normal(k[1], (4,)),
        jax.random.normal(k[2], (3, 4)) * 0.6,
        jax.random.normal(k[3], (4, 4)) * 0.5,
        jax.random.normal(k[4], (4,)) * 0.2,
    )


def right_bptt(args, gs):
    xs, h0, Wx, Wh, b = args
    hs = [h0]
    for x in xs:
        hs.append(jnp.tanh(x @ Wx + hs[-1] @ Wh + b))
    dWx, dWh, db = jnp.zeros_like(Wx), jnp.zeros_like(Wh), jnp.zeros_like(b)
    dxs = [None] * len(xs)
    dh = jnp.zeros_like(h0)
    for t in reversed(range(len(xs))):
        dh = dh + gs[t]
        dz = dh * (1 - hs[t + 1] ** 2)
        dWx = dWx + jnp.outer(xs[t], dz)
        dWh = dWh + jnp.outer(hs[t], dz)
        db = db + dz
        dxs[t] = Wx @ dz
        dh = Wh @ dz
    return jnp.stack(dxs), dh, dWx, dWh, db


def gru(xs, h0, wz, wr, wn):
    def step(h, x):
        xh = jnp.concatenate([x, h])
        z = jax.nn.sigmoid(xh @ wz)
        r = jax.nn.sigmoid(xh @ wr)
        n = jnp.tanh(jnp.concatenate([x, r * h]) @ wn)
        return (1 - z) * n + z * h, None

    return lax.scan(step, h0, xs)[0]


def draw_gru(key):
    k = jax.random.split(key, 5)
    return (
        jax.random.normal(k[0], (4, 2)),
        jax.random.normal(k[1], (3,)),
        *(jax.random.normal(k[i], (5, 3)) * 0.7 for i in (2, 3, 4)),
    )


def right_gru_bwd(args, g):
    xs, h0, wz, wr, wn = args
    D = xs.shape[1]

    def gates(h, x):
        xh = jnp.concatenate([x, h])
        z, r = jax.nn.sigmoid(xh @ wz), jax.nn.sigmoid(xh @ wr)
        xrh = jnp.concatenate([x, r * h])
        return xh, z, r, xrh, jnp.tanh(xrh @ wn)

    def forward(h, x):
        _, z, _, _, n = gates(h, x)
        return (1 - z) * n + z * h, h

    _, olds = lax.scan(forward, h0, xs)

    def right_back(carry, inp):
        dh, dwz, dwr, dwn = carry
        x, h = inp
        xh, z, r, xrh, n = gates(h, x)
        dz = dh * (h - n) * z * (1 - z)
        da = dh * (1 - z) * (1 - n**2)
        dxrh = wn @ da
        drh = dxrh[D:]
        dr = drh * h * r * (1 - r)
        dxh = wz @ dz + wr @ dr
        dh_prev = dxh[D:] + drh * r + dh * z
        dx = dxh[:D] + dxrh[:D]
        new = (dh_prev, dwz + jnp.outer(xh, dz), dwr + jnp.outer(xh, dr), dwn + jnp.outer(xrh, da))
        return new, dx

    zero = jnp.zeros_like(wz)
    (dh0, dwz, dwr, dwn), dxs = lax.scan(right_back, (g, zero, zero, zero), (xs, olds), reverse=True)
    return dxs, dh0, dwz, dwr, dwn


def lstm_step(x, h, c, W, U, b):
    i, f, o, g = jnp.split(x @ W + h @ U + b, 4, axis=-1)
    c2 = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c2), c2


def draw_lstm_step(key):
    k = jax.random.split(key, 6)
    return (
        jax.random.normal(k[0], (3, 2)),
        jax.random.normal(k[1], (3, 4)),
        jax.random.normal(k[2], (3, 4)),
        jax.random.normal(k[3], (2, 16)) * 0.6,
        jax.random.normal(k[4], (4, 16)) * 0.6,
        jax.random.normal(k[5], (16,)) * 0.3,
    )


def right_lstm_cell_backward(args, cts):
    x, h, c, W, U, b = args
    dh_new, dc_new = cts
    i, f, o, g = jnp.split(x @ W + h @ U + b, 4, axis=-1)
    i, f, o, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(g)
    c_new = f * c + i * g
    tc = jnp.tanh(c_new)
    do = dh_new * tc * o * (1 - o)
    dc = dc_new + dh_new * o * (1 - tc**2)
    di = dc * g * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * (1 - g**2)
    d_pre = jnp.concatenate([di, df, do, dg], axis=-1)
    dc_prev = dc * f
    return d_pre @ W.T, d_pre @ U.T, dc_prev, x.T @ d_pre, h.T @ d_pre, d_pre.sum(0)


def leaky_scan(xs, h0, logit, w):
    a = jax.nn.sigmoid(logit)

    def step(h, x):
        h = a * h + (1 - a) * (x @ w)
        return h, h

    return lax.scan(step, h0, xs)[1]


def draw_leaky_scan(key):
    k = jax.random.split(key, 4)
    return (
        jax.random.normal(k[0], (6, 3)),
        jax.random.normal(k[1], (4,)),
        jax.random.normal(k[2], (4,)),
        jax.random.normal(k[3], (3, 4)),
    )


def right_leaky_scan_vjp(args, ct):
    xs, h0, logit, w = args
    a = jax.nn.sigmoid(logit)
    u = xs @ w
    _, hs = lax.scan(lambda h, u_t: (a * h + (1 - a) * u_t,) * 2, h0, u)
    prev = jnp.concatenate([h0[None], hs[:-1]])

    def right_step(lam, g):
        lam = lam + g
        return a * lam, lam

    h0_bar, lams = lax.scan(right_step, jnp.zeros_like(h0), ct, reverse=True)
    a_bar = (lams * (prev - u)).sum(0)
    logit_bar = a_bar * a * (1 - a)
    u_bar = (1 - a) * lams
    return u_bar @ w.T, h0_bar, logit_bar, xs.T @ u_bar


def pendulum(theta, omega, g, dt):
    for _ in range(4):
        omega = omega - dt * g * jnp.sin(theta)
        theta = theta + dt * omega
    return theta, omega


def draw_pendulum(key):
    k = jax.random.split(key, 3)
    return (
        jax.random.normal(k[0], (5,)),
        jax.random.normal(k[1], (5,)),
        2 + jax.random.uniform(k[2], ()),
        jnp.float32(0.3),
    )


def right_symplectic_adjoint(args, cts):
    theta, omega, g, dt = args
    tape = []
    for _ in range(4):
        omega = omega - dt * g * jnp.sin(theta)
        tape.append((theta, omega))
        theta = theta + dt * omega
    lt, lo = cts
    dg = ddt = 0.0
    for th, om in reversed(tape):
        lo = lo + dt * lt
        ddt = ddt + jnp.sum(lt * om)
        lt = lt - lo * dt * g * jnp.cos(th)
        dg = dg - jnp.sum(lo * dt * jnp.sin(th))
        ddt = ddt - jnp.sum(lo * g * jnp.sin(th))
    return lt, lo, dg, ddt


def kalman(m, P, y, F, R):
    m = F @ m
    P = F @ P @ F.T + 0.1 * jnp.eye(3)
    S = P[:2, :2] + R @ R.T + 0.5 * jnp.eye(2)
    K = P[:, :2] @ jnp.linalg.inv(S)
    return m + K @ (y - m[:2])


def draw_kalman(key):
    k = jax.random.split(key, 5)
    A = jax.random.normal(k[1], (3, 3))
    return (
        jax.random.normal(k[0], (3,)),
        A @ A.T / 3 + jnp.eye(3),
        jax.random.normal(k[2], (2,)),
        jnp.eye(3) + 0.3 * jax.random.normal(k[3], (3, 3)),
        jax.random.normal(k[4], (2, 2)) * 0.5,
    )


def right_kalman_mean_bwd(args, g):
    m, P, y, F, R = args
    mp = F @ m
    Pp = F @ P @ F.T + 0.1 * jnp.eye(3)
    Sinv = jnp.linalg.inv(Pp[:2, :2] + R @ R.T + 0.5 * jnp.eye(2))
    K = Pp[:, :2] @ Sinv
    e = y - mp[:2]
    de = K.T @ g
    dK = jnp.outer(g, e)
    dmp = g.at[:2].add(-de)
    dSinv = Pp[:, :2].T @ dK
    dS = -Sinv.T @ dSinv @ Sinv.T
    dPp = jnp.zeros_like(P).at[:, :2].add(dK @ Sinv.T)
    dPp = dPp.at[:2, :2].add(dS)
    dR = (dS + dS.T) @ R
    dF = jnp.outer(dmp, m) + dPp @ F @ P.T + dPp.T @ F @ P
    dP = F.T @ dPp @ F
    return F.T @ dmp, dP, de, dF, dR


def rk2(x, A, b, h):
    def f(x):
        return jnp.tanh(A @ x + b)

    k1 = f(x)
    return x + h * f(x + 0.5 * h * k1)


def draw_rk2(key):
    k = jax.random.split(key, 4)
    return (
        jax.random.normal(k[0], (4,)),
        jax.random.normal(k[1], (4, 4)) * 0.6,
        jax.random.normal(k[2], (4,)) * 0.5,
        1.5 + 0.3 * jax.random.uniform(k[3], ()),
    )


def right_midpoint_vjp(args, ct):
    x, A, b, h = args
    k1 = jnp.tanh(A @ x + b)
    xm = x + 0.5 * h * k1
    k2 = jnp.tanh(A @ xm + b)
    dk2 = h * ct
    du2 = dk2 * (1 - k2**2)
    dxm = A.T @ du2
    dk1 = 0.5 * h * dxm
    du1 = dk1 * (1 - k1**2)
    dx = ct + dxm + A.T @ du1
    dA = jnp.outer(du2, xm) + jnp.outer(du1, x)
    db = du2 + du1
    dh = jnp.dot(ct, k2) + 0.5 * jnp.dot(dxm, k1)
    return dx, dA, db, dh


SINGLE = [
    *wrong_rules(
        rnn,
        right_bptt,
        draw_rnn,
        """
bptt_1
- dh = dh + gs[t]
+ dh = gs[t]
carry: gradient from the later step overwritten

bptt_2
- dz = dh * (1 - hs[t + 1] ** 2)
+ dz = dh * (1 - hs[t] ** 2)
index: slope taken at the old state hs[t]

bptt_3
- dWh = dWh + jnp.outer(hs[t], dz)
+ dWh = dWh + jnp.outer(hs[t + 1], dz)
index: new state in place of the old one

bptt_4
- dh = Wh @ dz
+ dh = Wh.T @ dz
transpose: Wh transposed the wrong way

bptt_5
- dh = Wh @ dz
+ dh = Wh @ dh
operand: dh in place of dz
    """,
    ),
    *wrong_rules(
        gru,
        right_gru_bwd,
        draw_gru,
        """
gru_bwd_1
- dz = dh * (h - n) * z * (1 - z)
+ dz = dh * (n - h) * z * (1 - z)
sign: update gate's gradient has the wrong sign

gru_bwd_2
- da = dh * (1 - z) * (1 - n**2)
+ da = dh * z * (1 - n**2)
operand: z in place of 1 - z

gru_bwd_3
- dr = drh * h * r * (1 - r)
+ dr = drh * h
activation: slope of the reset gate's sigmoid is missing

gru_bwd_4
- dh_prev = dxh[D:] + drh * r + dh * z
+ dh_prev = dxh[D:] + dh * z
term: path through r * h is missing

gru_bwd_5
- dh_prev = dxh[D:] + drh * r + dh * z
+ dh_prev = dxh[D:] + drh * r
carry: direct path z * h is not handed on
    """,
    ),
    *wrong_rules(
        lstm_step,
        right_lstm_cell_backward,
        draw_lstm_step,
        """
lstm_cell_backward_1
- tc = jnp.tanh(c_new)
+ tc = jnp.tanh(c)
operand: old cell in place of the new one

lstm_cell_backward_2
- dc = dc_new + dh_new * o * (1 - tc**2)
+ dc = dh_new * o * (1 - tc**2)
carry: incoming cell gradient is lost

lstm_cell_backward_3
- df = dc * c * f * (1 - f)
+ df = dc * c_new * f * (1 - f)
operand: new cell in place of the old one

lstm_cell_backward_4
- dg = dc * i * (1 - g**2)
+ dg = dc * i * g * (1 - g)
activation: sigmoid slope for a tanh

lstm_cell_backward_5
- d_pre = jnp.concatenate([di, df, do, dg], axis=-1)
+ d_pre = jnp.concatenate([di, df, dg, do], axis=-1)
index: gates in the wrong order
    """,
    ),
    *wrong_rules(
        leaky_scan,
        right_leaky_scan_vjp,
        draw_leaky_scan,
        """
leaky_scan_vjp_1
- return a * lam, lam
+ return lam, lam
factor: decay a is missing on the carry

leaky_scan_vjp_2
- h0_bar, lams = lax.scan(right_step, jnp.zeros_like(h0), ct, reverse=True)
+ h0_bar, lams = lax.scan(right_step, jnp.zeros_like(h0), ct)
index: scan runs forward instead of reverse
@ h0_bar, lams = lax.scan(step_2, jnp.zeros_like(h0), ct)

leaky_scan_vjp_3
- a_bar = (lams * (prev - u)).sum(0)
+ a_bar = (lams * (hs - u)).sum(0)
index: new states in place of the previous ones

leaky_scan_vjp_4
- a_bar = (lams * (prev - u)).sum(0)
+ a_bar = (lams * prev).sum(0)
term: the term of 1 - a is missing

leaky_scan_vjp_5
- u_bar = (1 - a) * lams
+ u_bar = a * lams
operand: a in place of 1 - a
    """,
    ),
    *wrong_rules(
        pendulum,
        right_symplectic_adjoint,
        draw_pendulum,
        """
symplectic_adjoint_1
- for th, om in reversed(tape):
+ for th, om in tape:
index: steps visited in forward order

symplectic_adjoint_2
- lo = lo + dt * lt
+ lo = dt * lt
carry: adjoint of omega overwritten

symplectic_adjoint_3
- lt = lt - lo * dt * g * jnp.cos(th)
+ lt = lt - lo * dt * g * jnp.sin(th)
activation: sin in place of cos

symplectic_adjoint_4
- ddt = ddt - jnp.sum(lo * g * jnp.sin(th))
+ ddt = ddt - jnp.sum(lo * jnp.sin(th))
factor: g is missing

symplectic_adjoint_5
- ddt = ddt - jnp.sum(lo * g * jnp.sin(th))
+ ddt = -jnp.sum(lo * g * jnp.sin(th))
carry: accumulator overwritten
    """,
    ),
    *wrong_rules(
        kalman,
        right_kalman_mean_bwd,
        draw_kalman,
        """
kalman_mean_bwd_1
- dmp = g.at[:2].add(-de)
+ dmp = g
term: the innovation's path to the mean is missing

kalman_mean_bwd_2
- dS = -Sinv.T @ dSinv @ Sinv.T
+ dS = Sinv.T @ dSinv @ Sinv.T
sign: minus of the inverse's derivative missing

kalman_mean_bwd_3
- dPp = dPp.at[:2, :2].add(dS)
+ dPp = dPp.at[:2, :2].set(dS)
carry: set in place of add

kalman_mean_bwd_4
- dR = (dS + dS.T) @ R
+ dR = dS @ R
term: dS.T is missing
    """,
    ),
    *wrong_rules(
        rk2,
        right_midpoint_vjp,
        draw_rk2,
        """
midpoint_vjp_1
- du2 = dk2 * (1 - k2**2)
+ du2 = dk2 * (1 - k1**2)
operand: slope at the first stage in place of the second

midpoint_vjp_2
- dk1 = 0.5 * h * dxm
+ dk1 = h * dxm
constant: 0.5 of the midpoint missing

midpoint_vjp_3
- dx = ct + dxm + A.T @ du1
+ dx = ct + A.T @ du1
term: direct path of x to the midpoint is missing

midpoint_vjp_4
- dh = jnp.dot(ct, k2) + 0.5 * jnp.dot(dxm, k1)
+ dh = 0.5 * jnp.dot(dxm, k1)
term: direct part ct . k2 of the step size is missing
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        rnn,
        right_bptt,
        draw_rnn,
        """
bptt_6
- db = db + dz
+ db = db + dh
- dh = Wh @ dz
+ dh = dz
operand: dh in place of dz
@ db = db + dh
factor: recurrent weight missing
@ dh = dz
    """,
    ),
    *wrong_rules(
        gru,
        right_gru_bwd,
        draw_gru,
        """
gru_bwd_6
- dr = drh * h * r * (1 - r)
+ dr = drh * r * r * (1 - r)
- dxh = wz @ dz + wr @ dr
+ dxh = wz @ dz - wr @ dr
operand: r in place of h
@ dr = drh * r * r * (1 - r)
sign: reset gate's part subtracted
@ dxh = wz @ dz - wr @ dr
    """,
    ),
    *wrong_rules(
        pendulum,
        right_symplectic_adjoint,
        draw_pendulum,
        """
symplectic_adjoint_6
- lo = lo + dt * lt
+ lo = lo - dt * lt
- dg = dg - jnp.sum(lo * dt * jnp.sin(th))
+ dg = dg - jnp.mean(lo * dt * jnp.sin(th))
sign: sign of the drift
@ lo = lo - dt * lt
reduction: mean in place of sum over the particles
@ dg = dg - jnp.mean(lo * dt * jnp.sin(th))
    """,
    ),
    *wrong_rules(
        kalman,
        right_kalman_mean_bwd,
        draw_kalman,
        """
kalman_mean_bwd_5
- dK = jnp.outer(g, e)
+ dK = jnp.outer(g, y)
- dF = jnp.outer(dmp, m) + dPp @ F @ P.T + dPp.T @ F @ P
+ dF = dPp @ F @ P.T + dPp.T @ F @ P
operand: y in place of the innovation
@ dK = jnp.outer(g, y)
term: path of F through the mean is missing
@ dF = dPp @ F @ P.T + dPp.T @ F @ P
    """,
    ),
    *wrong_rules(
        rk2,
        right_midpoint_vjp,
        draw_rk2,
        """
midpoint_vjp_5
- dxm = A.T @ du2
+ dxm = A @ du2
- db = du2 + du1
+ db = du2
transpose: A not transposed
@ dxm = A @ du2
term: first stage is missing
@ db = du2
    """,
    ),
]
