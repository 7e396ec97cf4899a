"""Recurrences, chains and unrolled steps."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def fwd_gru(xs, h0, W, U):
    def step(h, x):
        az, ar, an = jnp.split(W @ x, 3)
        uz, ur, un = jnp.split(U @ h, 3)
        z = jax.nn.sigmoid(az + uz)
        r = jax.nn.sigmoid(ar + ur)
        n = jnp.tanh(an + r * un)
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(step, h0, xs)[1]


def draw_gru(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (5, 2)),
        normal(k[1], (3,)),
        0.7 * normal(k[2], (9, 2)),
        0.7 * normal(k[3], (9, 3)),
    )


def right_gru(args, ct):
    xs, h0, W, U = args

    def gates(h, x):
        a, u = (W @ x).reshape(3, -1), (U @ h).reshape(3, -1)
        z, r = jax.nn.sigmoid(a[0] + u[0]), jax.nn.sigmoid(a[1] + u[1])
        return z, r, jnp.tanh(a[2] + r * u[2]), u[2]

    def fwd(h, x):
        z, r, n, un = gates(h, x)
        return (1 - z) * n + z * h, (h, z, r, n, un)

    _, (hp, Z, R, N, UN) = lax.scan(fwd, h0, xs)
    dh, dW, dU, dxs = jnp.zeros_like(h0), jnp.zeros_like(W), jnp.zeros_like(U), []
    for t in reversed(range(xs.shape[0])):
        dh = dh + ct[t]
        z, r, n = Z[t], R[t], N[t]
        dn = dh * (1 - z) * (1 - n**2)
        dz = dh * (hp[t] - n) * z * (1 - z)
        dr = dn * UN[t] * r * (1 - r)
        da = jnp.concatenate([dz, dr, dn])
        du = jnp.concatenate([dz, dr, dn * r])
        dW = dW + jnp.outer(da, xs[t])
        dU = dU + jnp.outer(du, hp[t])
        dxs.append(W.T @ da)
        dh = dh * z + U.T @ du
    return jnp.stack(dxs[::-1]), dh, dW, dU


def fwd_lstm(xs, h, c, K, b):
    for x in xs:
        i, f, o, g = jnp.split(jnp.concatenate([x, h]) @ K + b, 4)
        c = jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h, c


def draw_lstm(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (4, 2)),
        normal(k[1], (3,)),
        normal(k[2], (3,)),
        0.6 * normal(k[3], (5, 12)),
        0.3 * normal(k[4], (12,)),
    )


def right_lstm(args, ct):
    xs, h, c, K, b = args
    tape = []
    for x in xs:
        v = jnp.concatenate([x, h])
        i, f, o, g = jnp.split(v @ K + b, 4)
        i, f, o, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f + 1.0), jax.nn.sigmoid(o), jnp.tanh(g)
        c_new = f * c + i * g
        tape.append((v, i, f, o, g, c, c_new))
        h, c = o * jnp.tanh(c_new), c_new
    dh, dc = ct
    dK, db, dxs = jnp.zeros_like(K), jnp.zeros_like(b), []
    for v, i, f, o, g, c_old, c_new in reversed(tape):
        tc = jnp.tanh(c_new)
        dc = dc + dh * o * (1 - tc**2)
        di, df, do = dc * g, dc * c_old, dh * tc
        dgates = jnp.concatenate([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dc * i * (1 - g**2)])
        dK = dK + jnp.outer(v, dgates)
        db = db + dgates
        dv = K @ dgates
        dxs.insert(0, dv[:2])
        dh = dv[2:]
        dc = dc * f
    return jnp.stack(dxs), dh, dc, dK, db


def fwd_ssm_diag(u, loga, B, C, D):
    a = jnp.exp(-jnp.exp(loga))

    def step(s, x):
        s = a * s + (1 - a) * (B @ x)
        return s, C @ s + D * x

    return lax.scan(step, jnp.zeros(4), u)[1]


def draw_ssm_diag(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (7, 2)),
        -0.5 + 0.4 * normal(k[1], (4,)),
        normal(k[2], (4, 2)),
        normal(k[3], (2, 4)),
        normal(k[4], (2,)),
    )


def right_ssm_diag(args, ct):
    u, loga, B, C, D = args
    a = jnp.exp(-jnp.exp(loga))
    Bu = u @ B.T

    def up(s, bu):
        new = a * s + (1 - a) * bu
        return new, (s, new)

    _, (s_prev, s_now) = lax.scan(up, jnp.zeros(4), Bu)
    dC = ct.T @ s_now
    dD = jnp.sum(ct * u, axis=0)

    def down(lam, g):
        lam = a * lam + C.T @ g
        return lam, lam

    _, lam = lax.scan(down, jnp.zeros(4), ct, reverse=True)
    da = jnp.sum(lam * (s_prev - Bu), axis=0)
    dloga = da * a * -jnp.exp(loga)
    dBu = (1 - a) * lam
    dB = dBu.T @ u
    du = dBu @ B + ct * D
    return du, dloga, dB, dC, dD


def fwd_learned_ema(x, logit):
    b = jax.nn.sigmoid(logit)
    m, out = jnp.zeros(x.shape[1]), []
    for t in range(x.shape[0]):
        m = b * m + (1 - b) * x[t]
        out.append(m / (1 - b ** (t + 1)))
    return jnp.stack(out)


def draw_learned_ema(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (6, 3)), 0.5 + 0.3 * normal(k2, ())


def right_learned_ema(args, ct):
    x, logit = args
    b = jax.nn.sigmoid(logit)
    T = x.shape[0]
    m = [jnp.zeros(x.shape[1])]
    for t in range(T):
        m.append(b * m[t] + (1 - b) * x[t])
    gm, gb = jnp.zeros(x.shape[1]), 0.0
    gx = jnp.zeros_like(x)
    for t in range(T - 1, -1, -1):
        corr = 1 - b ** (t + 1)
        gm = gm + ct[t] / corr
        gb += jnp.dot(ct[t], m[t + 1]) * (t + 1) * b**t / corr**2
        gb += jnp.dot(gm, m[t] - x[t])
        gx = gx.at[t].set((1 - b) * gm)
        gm = b * gm
    return gx, gb * b * (1 - b)


SEQ = jnp.array([0, 2, 1, 1, 2, 0])


def fwd_hmm(pi_l, A_l, B_l):
    lp, lA, lB = jax.nn.log_softmax(pi_l), jax.nn.log_softmax(A_l, 1), jax.nn.log_softmax(B_l, 1)
    alpha = lp + lB[:, SEQ[0]]
    for o in SEQ[1:]:
        alpha = jax.scipy.special.logsumexp(alpha[:, None] + lA, axis=0) + lB[:, o]
    return jax.scipy.special.logsumexp(alpha)


def draw_hmm(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (3,)), normal(k[1], (3, 3)), normal(k[2], (3, 3))


def right_hmm(args, ct):
    pi, A, B = jax.nn.softmax(args[0]), jax.nn.softmax(args[1], 1), jax.nn.softmax(args[2], 1)
    T = SEQ.shape[0]
    al = [pi * B[:, SEQ[0]]]
    for t in range(1, T):
        al.append((al[-1] @ A) * B[:, SEQ[t]])
    be = [jnp.ones(3)]
    for t in range(T - 1, 0, -1):
        be.insert(0, A @ (B[:, SEQ[t]] * be[0]))
    like = al[-1].sum()
    xi, em = jnp.zeros((3, 3)), jnp.zeros((3, 3))
    for t in range(T):
        gam = al[t] * be[t] / like
        em = em.at[:, SEQ[t]].add(gam)
        if t > 0:
            xi = xi + al[t - 1][:, None] * A * (B[:, SEQ[t]] * be[t])[None, :] / like
    g_pi = al[0] * be[0] / like - pi
    g_A = xi - xi.sum(1, keepdims=True) * A
    g_B = em - em.sum(1, keepdims=True) * B
    return ct * g_pi, ct * g_A, ct * g_B


TAGS = jnp.array([1, 0, 2, 2, 3])


def fwd_crf(unary, trans):
    idx = jnp.arange(5)
    gold = unary[idx, TAGS].sum() + trans[TAGS[:-1], TAGS[1:]].sum()

    def step(a, u):
        return jax.scipy.special.logsumexp(a[:, None] + trans, axis=0) + u, None

    a, _ = lax.scan(step, unary[0], unary[1:])
    return jax.scipy.special.logsumexp(a) - gold


def draw_crf(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (5, 4)), normal(k2, (4, 4))


def right_crf(args, ct):
    unary, trans = args

    def fstep(a, u):
        new = jax.scipy.special.logsumexp(a[:, None] + trans, axis=0) + u
        return new, a

    last, prevs = lax.scan(fstep, unary[0], unary[1:])

    def bstep(abar, a):
        w = jax.nn.softmax(a[:, None] + trans, axis=0)
        pair = w * abar[None, :]
        return pair.sum(1), (abar, pair)

    first, (ubar, pairs) = lax.scan(bstep, jax.nn.softmax(last), prevs, reverse=True)
    du = jnp.concatenate([first[None], ubar])
    du = du.at[jnp.arange(5), TAGS].add(-1.0)
    dt = pairs.sum(0).at[TAGS[:-1], TAGS[1:]].add(-1.0)
    return ct * du, ct * dt


DT = 0.15


def fwd_leapfrog(q, p, omega):
    for _ in range(3):
        p = p - 0.5 * DT * omega * jnp.sin(q)
        q = q + DT * p
        p = p - 0.5 * DT * omega * jnp.sin(q)
    return q, p


def draw_leapfrog(key):
    k = jax.random.split(key, 3)
    return 1.2 * normal(k[0], (4,)), normal(k[1], (4,)), 3 + normal(k[2], ())


def right_leapfrog(args, ct):
    q, p, omega = args
    qs = [q]
    for _ in range(3):
        p = p - 0.5 * DT * omega * jnp.sin(q)
        q = q + DT * p
        p = p - 0.5 * DT * omega * jnp.sin(q)
        qs.append(q)
    q_bar, p_bar = ct
    w_bar = 0.0
    for n in (2, 1, 0):
        w_bar = w_bar - 0.5 * DT * jnp.sum(p_bar * jnp.sin(qs[n + 1]))
        q_bar = q_bar - 0.5 * DT * omega * jnp.cos(qs[n + 1]) * p_bar
        p_bar = p_bar + DT * q_bar
        w_bar = w_bar - 0.5 * DT * jnp.sum(p_bar * jnp.sin(qs[n]))
        q_bar = q_bar - 0.5 * DT * omega * p_bar * jnp.cos(qs[n])
    return q_bar, p_bar, w_bar


H_OBS = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.3]])

R_OBS = 0.5 * jnp.eye(2)


def fwd_kalman(mu, L, y):
    P = L @ L.T + 0.2 * jnp.eye(3)
    S = H_OBS @ P @ H_OBS.T + R_OBS
    K = P @ H_OBS.T @ jnp.linalg.inv(S)
    return mu + K @ (y - H_OBS @ mu)


def draw_kalman(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (3,)), normal(k[1], (3, 3)), 2 * normal(k[2], (2,))


def right_kalman(args, ct):
    mu, L, y = args
    P = L @ L.T + 0.2 * jnp.eye(3)
    S = H_OBS @ P @ H_OBS.T + R_OBS
    Sinv = jnp.linalg.inv(S)
    innov = y - H_OBS @ mu
    K = P @ H_OBS.T @ Sinv
    dK = jnp.outer(ct, innov)
    d_innov = K.T @ ct
    dP = dK @ Sinv.T @ H_OBS
    dSinv = H_OBS @ P.T @ dK
    dS = -Sinv.T @ dSinv @ Sinv.T
    dP = dP + H_OBS.T @ dS @ H_OBS
    dL = (dP + dP.T) @ L
    dmu = ct - H_OBS.T @ d_innov
    return dmu, dL, d_innov


LR, MOM = 0.1, 0.6


def fwd_unrolled_gd(w, v, A, b):
    for _ in range(4):
        g = A.T @ (A @ w - b)
        v = MOM * v + g
        w = w - LR * v
    return w


def draw_unrolled_gd(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (3,)),
        normal(k[1], (3,)),
        0.8 * normal(k[2], (4, 3)),
        normal(k[3], (4,)),
    )


def right_unrolled_gd(args, ct):
    w, v, A, b = args
    ws = []
    for _ in range(4):
        ws.append(w)
        v = MOM * v + A.T @ (A @ w - b)
        w = w - LR * v
    dw, dv, dA, db = ct, jnp.zeros(3), jnp.zeros_like(A), jnp.zeros_like(b)
    for wt in ws[::-1]:
        dv = dv - LR * dw
        Adv = A @ dv
        dA = dA + jnp.outer(A @ wt - b, dv) + jnp.outer(Adv, wt)
        db = db - Adv
        dw = dw + A.T @ Adv
        dv = MOM * dv
    return dw, dv, dA, db


DISC, LAM = 0.9, 0.8

DONE = jnp.array([0, 0, 1, 0, 0, 0.0])


def fwd_gae(rew, val):
    adv, last = [None] * 6, 0.0
    for t in reversed(range(6)):
        live = 1 - DONE[t]
        delta = rew[t] + DISC * val[t + 1] * live - val[t]
        last = delta + DISC * LAM * live * last
        adv[t] = last
    return jnp.stack(adv)


def draw_gae(key):
    k1, k2 = jax.random.split(key)
    return normal(k1, (6,)), normal(k2, (7,))


def right_gae(args, ct):
    rew, val = args
    carry = 0.0
    d_rew, d_val = jnp.zeros(6), jnp.zeros(7)
    for t in range(6):
        carry = carry + ct[t]
        d_rew = d_rew.at[t].set(carry)
        d_val = d_val.at[t].add(-carry)
        d_val = d_val.at[t + 1].add(DISC * (1 - DONE[t]) * carry)
        carry = DISC * LAM * (1 - DONE[t]) * carry
    return d_rew, d_val


LENS = jnp.array([4, 2, 5])

LIVE = (jnp.arange(5)[:, None] < LENS[None, :]).astype(jnp.float32)


def fwd_rnn_readout(x, wx, wh, wo):
    def step(h, inp):
        xt, m = inp
        new = jnp.tanh(xt @ wx + h @ wh)
        h = m[:, None] * new + (1 - m)[:, None] * h
        return h, None

    h, _ = lax.scan(step, jnp.zeros((3, 4)), (x, LIVE))
    return jax.nn.relu(h @ wo)


def draw_rnn_readout(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (5, 3, 2)),
        normal(k[1], (2, 4)),
        0.6 * normal(k[2], (4, 4)),
        normal(k[3], (4, 5)),
    )


def right_rnn_readout(args, ct):
    x, wx, wh, wo = args

    def step(h, inp):
        xt, m = inp
        new = jnp.tanh(xt @ wx + h @ wh)
        return m[:, None] * new + (1 - m)[:, None] * h, (h, new)

    hT, (h_old, h_new) = lax.scan(step, jnp.zeros((3, 4)), (x, LIVE))
    d_o = ct * (hT @ wo > 0)
    d_wo = hT.T @ d_o

    def back(carry, inp):
        dh, dwx, dwh = carry
        xt, m, ho, hn = inp
        m = m[:, None]
        dpre = m * dh * (1 - hn**2)
        dh = dpre @ wh.T + (1 - m) * dh
        return (dh, dwx + xt.T @ dpre, dwh + ho.T @ dpre), dpre @ wx.T

    start = (d_o @ wo.T, jnp.zeros_like(wx), jnp.zeros_like(wh))
    (_, d_wx, d_wh), d_x = lax.scan(back, start, (x, LIVE, h_old, h_new), reverse=True)
    return d_x, d_wx, d_wh, d_wo


SINGLE = [
    *wrong_rules(
        fwd_gru,
        right_gru,
        draw_gru,
        """
gru_f
- return jnp.stack(dxs[::-1]), dh, dW, dU
+ return jnp.stack(dxs), dh, dW, dU
index: input grads left in reversed order
    """,
    ),
    *wrong_rules(
        fwd_lstm,
        right_lstm,
        draw_lstm,
        """
lstm_a
- tape.append((v, i, f, o, g, c, c_new))
+ tape.append((v, i, f, o, g, c_new, c_new))
operand: new cell state kept as the old one
    """,
    ),
    *wrong_rules(
        fwd_ssm_diag,
        right_ssm_diag,
        draw_ssm_diag,
        """
ssm_diag_b
- da = jnp.sum(lam * (s_prev - Bu), axis=0)
+ da = jnp.sum(lam * s_prev, axis=0)
term: a also sits in the input gain 1 - a
    """,
    ),
    *wrong_rules(
        fwd_learned_ema,
        right_learned_ema,
        draw_learned_ema,
        """
learned_ema_b
- gm = gm + ct[t] / corr
-         gb += jnp.dot(ct[t], m[t + 1]) * (t + 1) * b**t / corr**2
+ gm = gm + ct[t] / corr
detached: bias correction taken for constant in b
@ gb += jnp.dot(gm, m[t] - x[t])
    """,
    ),
    *wrong_rules(
        fwd_hmm,
        right_hmm,
        draw_hmm,
        """
hmm_b
- be.insert(0, A @ (B[:, SEQ[t]] * be[0]))
+ be.insert(0, A @ (B[:, SEQ[t - 1]] * be[0]))
index: emission of the wrong time step
    """,
    ),
    *wrong_rules(
        fwd_crf,
        right_crf,
        draw_crf,
        """
crf_b
- return pair.sum(1), (abar, pair)
+ return pair.sum(0), (abar, pair)
axis: summed over the previous tag
    """,
    ),
    *wrong_rules(
        fwd_leapfrog,
        right_leapfrog,
        draw_leapfrog,
        """
leapfrog_d
- q_bar = q_bar - 0.5 * DT * omega * p_bar * jnp.cos(qs[n])
+ q_bar = q_bar - 0.5 * DT * omega * p_bar * jnp.cos(qs[n + 1])
index: position after the step in the first kick
    """,
    ),
    *wrong_rules(
        fwd_kalman,
        right_kalman,
        draw_kalman,
        """
kalman_c
- dS = -Sinv.T @ dSinv @ Sinv.T
-     dP = dP + H_OBS.T @ dS @ H_OBS
+ dS = -Sinv.T @ dSinv @ Sinv.T
detached: innovation covariance taken for constant
@ dL = (dP + dP.T) @ L
    """,
    ),
    *wrong_rules(
        fwd_unrolled_gd,
        right_unrolled_gd,
        draw_unrolled_gd,
        """
unrolled_gd_d
- dv = MOM * dv
+ dv = (1 - MOM) * dv
factor: 1 - momentum in place of momentum
    """,
    ),
    *wrong_rules(
        fwd_gae,
        right_gae,
        draw_gae,
        """
gae_d
- carry = DISC * LAM * (1 - DONE[t]) * carry
+ carry = DISC * LAM * carry
mask: episode end not cut in the carried sum
    """,
    ),
    *wrong_rules(
        fwd_rnn_readout,
        right_rnn_readout,
        draw_rnn_readout,
        """
rnn_readout_e
- dpre = m * dh * (1 - hn**2)
+ dpre = dh * (1 - hn**2)
mask: padding steps not masked
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        fwd_gru,
        right_gru,
        draw_gru,
        """
gru_abe
- dz = dh * (hp[t] - n) * z * (1 - z)
+ dz = dh * (n - hp[t]) * z * (1 - z)
- dr = dn * UN[t] * r * (1 - r)
+ dr = dn * hp[t] * r * (1 - r)
- dU = dU + jnp.outer(du, hp[t])
+ dU = jnp.outer(du, hp[t])
sign: old state minus candidate the wrong way round
@ dz = dh * (n - hp[t]) * z * (1 - z)
operand: old state in place of U h
@ dr = dn * hp[t] * r * (1 - r)
carry: weight grad overwritten in place of accumulated
@ dU = jnp.outer(du, hp[t])
    """,
    ),
    *wrong_rules(
        fwd_crf,
        right_crf,
        draw_crf,
        """
crf_ace
- w = jax.nn.softmax(a[:, None] + trans, axis=0)
+ w = jax.nn.softmax(a[:, None] + trans, axis=1)
- du = du.at[jnp.arange(5), TAGS].add(-1.0)
-     dt = pairs.sum(0).at[TAGS[:-1], TAGS[1:]].add(-1.0)
+ dt = pairs.mean(0).at[TAGS[:-1], TAGS[1:]].add(-1.0)
axis: normalised over the next tag, not the previous
@ w = jax.nn.softmax(a[:, None] + trans, axis=1)
term: gold unary scores left out
@ return ct * du, ct * dt
reduction: time steps averaged in place of summed
@ dt = pairs.mean(0).at[TAGS[:-1], TAGS[1:]].add(-1.0)
    """,
    ),
    *wrong_rules(
        fwd_kalman,
        right_kalman,
        draw_kalman,
        """
kalman_ade
- dK = jnp.outer(ct, innov)
+ dK = jnp.outer(ct, y)
- dL = (dP + dP.T) @ L
+ dL = dP @ L
- dmu = ct - H_OBS.T @ d_innov
+ dmu = ct
operand: measurement in place of the innovation
@ dK = jnp.outer(ct, y)
term: only one side of L L^T
@ dL = dP @ L
term: path of the mean through the innovation lost
@ dmu = ct
    """,
    ),
    *wrong_rules(
        fwd_unrolled_gd,
        right_unrolled_gd,
        draw_unrolled_gd,
        """
unrolled_gd_ae
- dv = dv - LR * dw
+ dv = -LR * dw
- dA = dA + jnp.outer(A @ wt - b, dv) + jnp.outer(Adv, wt)
+ dA = dA + jnp.outer(A @ wt, dv) + jnp.outer(Adv, wt)
carry: momentum adjoint of the later step thrown away
@ dv = -LR * dw
operand: prediction in place of the residual
@ dA = dA + jnp.outer(A @ wt, dv) + jnp.outer(Adv, wt)
    """,
    ),
    *wrong_rules(
        fwd_rnn_readout,
        right_rnn_readout,
        draw_rnn_readout,
        """
rnn_readout_acd
- d_o = ct * (hT @ wo > 0)
+ d_o = ct * (ct > 0)
- dh = dpre @ wh.T + (1 - m) * dh
+ dh = dpre @ wh.T
- return (dh, dwx + xt.T @ dpre, dwh + ho.T @ dpre), dpre @ wx.T
+ return (dh, dwx + xt.T @ dpre, dwh + hn.T @ dpre), dpre @ wx.T
mask: relu mask from the cotangent
@ d_o = ct * (ct > 0)
term: finished sequences do not hand their state on
@ dh = dpre @ wh.T
operand: new state for the old one in the recurrent weights
@ return (dh, dwx + xt.T @ dpre, dwh + hn.T @ dpre), dpre @ wx.T
    """,
    ),
]
