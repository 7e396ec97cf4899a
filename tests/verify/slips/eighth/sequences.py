"""Recurrences, chains and unrolled steps."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def elman(xs, wx, wh, b, h0):
    h = h0
    out = []
    for t in range(xs.shape[0]):
        h = jnp.tanh(xs[t] @ wx + h @ wh + b)
        out.append(h)
    return jnp.stack(out)


def draw_elman(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (5, 3)),
        0.6 * normal(k[1], (3, 4)),
        0.6 * normal(k[2], (4, 4)),
        0.3 * normal(k[3], (4,)),
        normal(k[4], (4,)),
    )


def right_elman_bptt(args, ct):
    xs, wx, wh, b, h0 = args
    hs = [h0]
    for x in xs:
        hs.append(jnp.tanh(x @ wx + hs[-1] @ wh + b))
    T = len(xs)
    d_xs = [None] * T
    d_wx, d_wh, d_b = jnp.zeros_like(wx), jnp.zeros_like(wh), jnp.zeros_like(b)
    d_h = jnp.zeros_like(h0)
    for t in reversed(range(T)):
        d_h = d_h + ct[t]
        delta = d_h * (1 - hs[t + 1] ** 2)
        d_wx = d_wx + jnp.outer(xs[t], delta)
        d_wh = d_wh + jnp.outer(hs[t], delta)
        d_b = d_b + delta
        d_xs[t] = wx @ delta
        d_h = wh @ delta
    return jnp.stack(d_xs), d_wx, d_wh, d_b, d_h


def gru(x, h, Wz, Wr, Wn, Un):
    v = jnp.concatenate([x, h])
    z = jax.nn.sigmoid(Wz @ v)
    r = jax.nn.sigmoid(Wr @ v)
    n = jnp.tanh(Wn @ x + r * (Un @ h))
    return (1 - z) * n + z * h


def draw_gru(key):
    k = jax.random.split(key, 6)
    return (
        normal(k[0], (3,)),
        normal(k[1], (3,)),
        normal(k[2], (3, 6)),
        normal(k[3], (3, 6)),
        normal(k[4], (3, 3)),
        normal(k[5], (3, 3)),
    )


def right_gru_backward(args, ct):
    x, h, Wz, Wr, Wn, Un = args
    v = jnp.concatenate([x, h])
    z = jax.nn.sigmoid(Wz @ v)
    r = jax.nn.sigmoid(Wr @ v)
    uh = Un @ h
    n = jnp.tanh(Wn @ x + r * uh)
    gz = ct * (h - n)
    gn = ct * (1 - z)
    gn_pre = gn * (1 - n**2)
    gr = gn_pre * uh
    guh = gn_pre * r
    gz_pre = gz * z * (1 - z)
    gr_pre = gr * r * (1 - r)
    gv = Wz.T @ gz_pre + Wr.T @ gr_pre
    gx = Wn.T @ gn_pre + gv[:3]
    gh = ct * z + Un.T @ guh
    gh = gh + gv[3:]
    return gx, gh, jnp.outer(gz_pre, v), jnp.outer(gr_pre, v), jnp.outer(gn_pre, x), jnp.outer(guh, h)


def lstm_scan(xs, W, h0, c0):
    def step(hc, x):
        h, c = hc
        i, f, o, g = jnp.split(W @ jnp.concatenate([x, h]), 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    (h, c), hs = lax.scan(step, (h0, c0), xs)
    return hs, c


def draw_lstm_scan(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (4, 2)),
        0.8 * normal(k[1], (12, 5)),
        normal(k[2], (3,)),
        normal(k[3], (3,)),
    )


def right_gates(W, x, h):
    a = W @ jnp.concatenate([x, h])
    return jax.nn.sigmoid(a[:3]), jax.nn.sigmoid(a[3:6]), jax.nn.sigmoid(a[6:9]), jnp.tanh(a[9:])


def right_lstm_scan_bwd(args, ct):
    xs, W, h0, c0 = args
    ct_hs, ct_c = ct

    def fwd(hc, x):
        h, c = hc
        i, f, o, g = right_gates(W, x, h)
        c_new = f * c + i * g
        return (o * jnp.tanh(c_new), c_new), (x, h, c, c_new)

    _, saved = lax.scan(fwd, (h0, c0), xs)

    def back(carry, inp):
        dh, dc, dW = carry
        (x, h, c, c_new), g_out = inp
        i, f, o, g = right_gates(W, x, h)
        dh = dh + g_out
        tc = jnp.tanh(c_new)
        do = dh * tc
        dc = dc + dh * o * (1 - tc**2)
        di, df, dg = dc * g, dc * c, dc * i
        da = jnp.concatenate([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2)])
        dW = dW + jnp.outer(da, jnp.concatenate([x, h]))
        dxh = W.T @ da
        return (dxh[2:], dc * f, dW), dxh[:2]

    start = (jnp.zeros_like(h0), ct_c, jnp.zeros_like(W))
    (dh0, dc0, dW), dxs = lax.scan(back, start, (saved, ct_hs), reverse=True)
    return dxs, dW, dh0, dc0


def gates(W, x, h):
    a = W @ jnp.concatenate([x, h])
    return jax.nn.sigmoid(a[:3]), jax.nn.sigmoid(a[3:6]), jax.nn.sigmoid(a[6:9]), jnp.tanh(a[9:])


def gates_b(W, x, h):
    a = W @ jnp.concatenate([x, h])
    return jax.nn.sigmoid(a[:3]), jax.nn.sigmoid(a[3:6]), jax.nn.sigmoid(a[6:9]), jnp.tanh(a[9:])


def ssm_diag(u, a, b, c):
    lam = -jnp.exp(a)

    def step(s, u_t):
        s = jnp.exp(0.1 * lam) * s + b * u_t
        return s, jnp.dot(c, s)

    return lax.scan(step, jnp.zeros_like(a), u)[1]


def draw_ssm_diag(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (6,)), 0.5 * normal(k[1], (4,)) + 1.0, normal(k[2], (4,)), normal(k[3], (4,))


def right_ssm_diag_adjoint(args, ct):
    u, a, b, c = args
    lam = -jnp.exp(a)
    decay = jnp.exp(0.1 * lam)
    states = [jnp.zeros_like(a)]
    for u_t in u:
        states.append(decay * states[-1] + b * u_t)
    adj = jnp.zeros_like(a)
    g_decay = g_b = g_c = jnp.zeros_like(a)
    g_u = []
    for t in range(len(u) - 1, -1, -1):
        g_c = g_c + ct[t] * states[t + 1]
        adj = adj + c * ct[t]
        g_decay = g_decay + adj * states[t]
        g_b = g_b + adj * u[t]
        g_u.append(jnp.dot(adj, b))
        adj = decay * adj
    g_lam = 0.1 * decay * g_decay
    g_a = g_lam * lam
    return jnp.stack(g_u[::-1]), g_a, g_b, g_c


DT = 0.2

STEPS = 4


def euler_node(y, W, b):
    for _ in range(STEPS):
        y = y + DT * jnp.sin(W @ y + b)
    return y


def draw_euler_node(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (4,)), normal(k[1], (4, 4)), normal(k[2], (4,))


def right_euler_node_adjoint(args, ct):
    y, W, b = args
    path = []
    for _ in range(STEPS):
        path.append(y)
        y = y + DT * jnp.sin(W @ y + b)
    lam, gW, gb = ct, 0.0, 0.0
    while path:
        yk = path.pop()
        mu = DT * lam * jnp.cos(W @ yk + b)
        gW = gW + jnp.outer(mu, yk)
        gb = gb + mu
        lam = lam + W.T @ mu
    return lam, gW, gb


H = 0.3


def midpoint_pend(th, om, damp):
    def acc(a, w):
        return -jnp.sin(a) - damp * w

    tm = th + 0.5 * H * om
    wm = om + 0.5 * H * acc(th, om)
    return th + H * wm, om + H * acc(tm, wm)


def draw_midpoint_pend(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5,)), normal(k[1], (5,)), 0.8 + 0.4 * jax.random.uniform(k[2], (5,))


def right_midpoint_pend_vjp(args, ct):
    th, om, damp = args
    g_th1, g_om1 = ct
    tm = th + 0.5 * H * om
    wm = om + 0.5 * H * (-jnp.sin(th) - damp * om)
    g_am = H * g_om1
    g_tm = -jnp.cos(tm) * g_am
    g_wm = H * g_th1 - damp * g_am
    g_damp = -wm * g_am
    g_a0 = 0.5 * H * g_wm
    g_th = g_th1 + g_tm - jnp.cos(th) * g_a0
    g_om = g_om1 + g_wm + 0.5 * H * g_tm
    g_om = g_om - damp * g_a0
    g_damp = g_damp - om * g_a0
    return g_th, g_om, g_damp


OBS = jnp.array([0, 2, 1, 1, 0])


def hmm_forward(log_pi, log_A, log_B):
    alpha = log_pi + log_B[:, OBS[0]]
    for o in OBS[1:]:
        alpha = jax.nn.logsumexp(alpha[:, None] + log_A, axis=0) + log_B[:, o]
    return jax.nn.logsumexp(alpha)


def draw_hmm_forward(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (3,)), normal(k[1], (3, 3)), normal(k[2], (3, 3))


def right_hmm_posteriors(args, ct):
    log_pi, log_A, log_B = args
    T = len(OBS)
    alphas = [log_pi + log_B[:, OBS[0]]]
    for t in range(1, T):
        m = alphas[-1][:, None] + log_A
        alphas.append(jax.nn.logsumexp(m, axis=0) + log_B[:, OBS[t]])
    g = ct * jax.nn.softmax(alphas[-1])
    dA = jnp.zeros_like(log_A)
    dB = jnp.zeros_like(log_B)
    for t in range(T - 1, 0, -1):
        dB = dB.at[:, OBS[t]].add(g)
        trans = jax.nn.softmax(alphas[t - 1][:, None] + log_A, axis=0)
        pair = trans * g[None, :]
        dA = dA + pair
        g = pair.sum(axis=1)
    dB = dB.at[:, OBS[0]].add(g)
    return g, dA, dB


TAGS = np.array([1, 0, 2, 2, 1])


def crf_nll(emit, trans):
    score = emit[np.arange(5), TAGS].sum() + trans[TAGS[:-1], TAGS[1:]].sum()

    def step(a, e):
        return jax.nn.logsumexp(a[:, None] + trans, axis=0) + e, None

    a, _ = lax.scan(step, emit[0], emit[1:])
    return jax.nn.logsumexp(a) - score


def draw_crf_nll(key):
    a, b = jax.random.split(key)
    return normal(a, (5, 3)), normal(b, (3, 3))


def right_crf_nll_grad(args, ct):
    emit, trans = args
    alpha = [emit[0]]
    for t in range(1, 5):
        alpha.append(jax.nn.logsumexp(alpha[-1][:, None] + trans, axis=0) + emit[t])
    beta = [jnp.zeros(3)]
    for t in range(4, 0, -1):
        beta.insert(0, jax.nn.logsumexp(trans + emit[t] + beta[0], axis=1))
    logz = jax.nn.logsumexp(alpha[4])
    d_emit = jnp.exp(jnp.stack(alpha) + jnp.stack(beta) - logz)
    d_trans = jnp.zeros((3, 3))
    for t in range(1, 5):
        joint = alpha[t - 1][:, None] + trans + (emit[t] + beta[t])[None, :]
        d_trans = d_trans + jnp.exp(joint - logz)
    d_emit = d_emit.at[np.arange(5), TAGS].add(-1.0)
    d_trans = d_trans.at[TAGS[:-1], TAGS[1:]].add(-1.0)
    return ct * d_emit, ct * d_trans


def gates_x(W, x, h):
    a = W @ jnp.concatenate([x, h])
    return jax.nn.sigmoid(a[:3]), jax.nn.sigmoid(a[3:6]), jax.nn.sigmoid(a[6:9]), jnp.tanh(a[9:])


def gates_y(W, x, h):
    a = W @ jnp.concatenate([x, h])
    return jax.nn.sigmoid(a[:3]), jax.nn.sigmoid(a[3:6]), jax.nn.sigmoid(a[6:9]), jnp.tanh(a[9:])


SINGLE = [
    *wrong_rules(
        elman,
        right_elman_bptt,
        draw_elman,
        """
elman
- d_h = d_h + ct[t]
+ d_h = ct[t]
carry: the gradient handed back from the next step is dropped

elman_b
- d_h = wh @ delta
+ d_h = delta @ wh
transpose: wh must be transposed
    """,
    ),
    *wrong_rules(
        gru,
        right_gru_backward,
        draw_gru,
        """
gru
- gz = ct * (h - n)
+ gz = ct * (n - h)
sign: sign: derivative by z is h - n
    """,
    ),
    *wrong_rules(
        lstm_scan,
        right_lstm_scan_bwd,
        draw_lstm_scan,
        """
lstm_scan
- h, c = hc
-         i, f, o, g = right_gates(W, x, h)
+ h, c = hc
+         i, f, o, g = gates(W, x, h)
- (x, h, c, c_new), g_out = inp
-         i, f, o, g = right_gates(W, x, h)
+ (x, h, c, c_new), g_out = inp
+         i, f, o, g = gates(W, x, h)
- di, df, dg = dc * g, dc * c, dc * i
+ di, df, dg = dc * g, dc * c_new, dc * i
operand: new cell in place of the old cell for the forget gate
@ di, df, dg = dc * g, dc * c_new, dc * i

lstm_scan_b
- h, c = hc
-         i, f, o, g = right_gates(W, x, h)
+ h, c = hc
+         i, f, o, g = gates_b(W, x, h)
- (x, h, c, c_new), g_out = inp
-         i, f, o, g = right_gates(W, x, h)
+ (x, h, c, c_new), g_out = inp
+         i, f, o, g = gates_b(W, x, h)
- dc = dc + dh * o * (1 - tc**2)
+ dc = dh * o * (1 - tc**2)
carry: cell gradient of the later steps is dropped
@ dc = dh * o * (1 - tc**2)
    """,
    ),
    *wrong_rules(
        ssm_diag,
        right_ssm_diag_adjoint,
        draw_ssm_diag,
        """
ssm_diag
- return jnp.stack(g_u[::-1]), g_a, g_b, g_c
+ return jnp.stack(g_u), g_a, g_b, g_c
index: list built backwards in time is not reversed
    """,
    ),
    *wrong_rules(
        euler_node,
        right_euler_node_adjoint,
        draw_euler_node,
        """
euler_node
- lam = lam + W.T @ mu
+ lam = W.T @ mu
term: identity part of the Euler step is missing
    """,
    ),
    *wrong_rules(
        midpoint_pend,
        right_midpoint_pend_vjp,
        draw_midpoint_pend,
        """
midpoint_pend
- g_om = g_om - damp * g_a0
-     g_damp = g_damp - om * g_a0
+ g_om = g_om - damp * g_a0
detached: damping in the first stage is taken for constant
@ return g_th, g_om, g_damp
@ g_damp = -wm * g_am

midpoint_pend_b
- g_tm = -jnp.cos(tm) * g_am
+ g_tm = -jnp.cos(th) * g_am
operand: start angle in place of the midpoint angle
    """,
    ),
    *wrong_rules(
        hmm_forward,
        right_hmm_posteriors,
        draw_hmm_forward,
        """
hmm_forward
- trans = jax.nn.softmax(alphas[t - 1][:, None] + log_A, axis=0)
+ trans = jax.nn.softmax(alphas[t - 1][:, None] + log_A, axis=1)
axis: normalised over the target states instead of the source states
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf_nll_grad,
        draw_crf_nll,
        """
crf_nll
- d_trans = d_trans.at[TAGS[:-1], TAGS[1:]].add(-1.0)
+ d_trans = d_trans.at[TAGS[1:], TAGS[:-1]].add(-1.0)
index: from and to tags swapped
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        elman,
        right_elman_bptt,
        draw_elman,
        """
elman_x
- delta = d_h * (1 - hs[t + 1] ** 2)
+ delta = d_h * (1 - hs[t] ** 2)
- d_b = d_b + delta
+ d_b = delta
index: old state in the slope
@ delta = d_h * (1 - hs[t] ** 2)
carry: bias gradient not accumulated
@ d_b = delta
    """,
    ),
    *wrong_rules(
        gru,
        right_gru_backward,
        draw_gru,
        """
gru_x
- gr = gn_pre * uh
+ gr = gn_pre * h
- gz_pre = gz * z * (1 - z)
+ gz_pre = gz * (1 - z)
- gh = ct * z + Un.T @ guh
-     gh = gh + gv[3:]
+ gh = ct * z + Un.T @ guh
operand: h in place of Un @ h
@ gr = gn_pre * h
term: the gates' path to h is missing
@ return gx, gh, jnp.outer(gz_pre, v), jnp.outer(gr_pre, v), jnp.outer(gn_pre, x), jnp.outer(guh, h)
@ gh = ct * z + Un.T @ guh
activation: factor z of the sigmoid slope missing
@ gz_pre = gz * (1 - z)
    """,
    ),
    *wrong_rules(
        lstm_scan,
        right_lstm_scan_bwd,
        draw_lstm_scan,
        """
lstm_scan_x
- h, c = hc
-         i, f, o, g = right_gates(W, x, h)
+ h, c = hc
+         i, f, o, g = gates_x(W, x, h)
- (x, h, c, c_new), g_out = inp
-         i, f, o, g = right_gates(W, x, h)
+ (x, h, c, c_new), g_out = inp
+         i, f, o, g = gates_x(W, x, h)
- do = dh * tc
+ do = dh * c_new
- dc = dc + dh * o * (1 - tc**2)
+ dc = dc + dh * o * (1 - c_new**2)
activation: slope in the cell instead of its tanh
@ dc = dc + dh * o * (1 - c_new**2)
operand: tanh of the cell missing for the output gate
@ do = dh * c_new

lstm_scan_y
- h, c = hc
-         i, f, o, g = right_gates(W, x, h)
+ h, c = hc
+         i, f, o, g = gates_y(W, x, h)
- i, f, o, g = right_gates(W, x, h)
-         dh = dh + g_out
+ i, f, o, g = gates_y(W, x, h)
+         dh = dh - g_out
- dW = dW + jnp.outer(da, jnp.concatenate([x, h]))
+ dW = jnp.outer(da, jnp.concatenate([x, h]))
carry: weight gradient overwritten at every step
@ dW = jnp.outer(da, jnp.concatenate([x, h]))
sign: sign of the incoming cotangent
@ dh = dh - g_out
    """,
    ),
    *wrong_rules(
        ssm_diag,
        right_ssm_diag_adjoint,
        draw_ssm_diag,
        """
ssm_diag_x
- adj = adj + c * ct[t]
+ adj = adj + b * ct[t]
- g_lam = 0.1 * decay * g_decay
+ g_lam = decay * g_decay
constant: step size 0.1 missing
@ g_lam = decay * g_decay
operand: input vector b in place of the readout c
@ adj = adj + b * ct[t]
    """,
    ),
    *wrong_rules(
        euler_node,
        right_euler_node_adjoint,
        draw_euler_node,
        """
euler_node_x
- mu = DT * lam * jnp.cos(W @ yk + b)
+ mu = lam * jnp.cos(W @ yk + b)
- gW = gW + jnp.outer(mu, yk)
+ gW = gW + jnp.outer(yk, mu)
factor: step size missing
@ mu = lam * jnp.cos(W @ yk + b)
transpose: outer product transposed
@ gW = gW + jnp.outer(yk, mu)
    """,
    ),
    *wrong_rules(
        hmm_forward,
        right_hmm_posteriors,
        draw_hmm_forward,
        """
hmm_forward_x
- dB = dB.at[:, OBS[t]].add(g)
+ dB = dB.at[:, OBS[t - 1]].add(g)
- trans = jax.nn.softmax(alphas[t - 1][:, None] + log_A, axis=0)
+ trans = jax.nn.softmax(alphas[t][:, None] + log_A, axis=0)
index: observation off by one
@ dB = dB.at[:, OBS[t - 1]].add(g)
index: alpha of the wrong step
@ trans = jax.nn.softmax(alphas[t][:, None] + log_A, axis=0)
    """,
    ),
]
