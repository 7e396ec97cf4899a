"""Right rules. Each forward function here is also that of the wrong rules in `single.py` and `several.py`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from . import Right


def normal(*shapes):
    """Draws one standard normal array for each shape."""

    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))

    return draw


# --- attention --------------------------------------------------------------------------------------------------------


def attention_forward(q, k, v):
    return jax.nn.softmax(q @ k.T / math.sqrt(q.shape[-1])) @ v


def attention_rule(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(scale * (q @ k.T))
    dv = p.T @ ct
    dp = ct @ v.T
    total = (p * dp).sum(axis=-1, keepdims=True)
    ds = p * (dp - total)
    dq = scale * (ds @ k)
    dk = scale * (ds.T @ q)
    return dq, dk, dv


attention = Right("attention", attention_forward, attention_rule, normal((4, 3), (5, 3), (5, 6)))


def heads_parts(x, wq, wk, wv):
    """q, k, v, the causal softmax and the mix of values, head by head."""
    q = jnp.einsum("btd,dhe->bthe", x, wq)
    k = jnp.einsum("btd,dhe->bthe", x, wk)
    v = jnp.einsum("btd,dhe->bthe", x, wv)
    s = jnp.einsum("bthe,bshe->bhts", q, k) / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(jnp.where(np.tri(x.shape[1], dtype=bool), s, -1e30))
    return q, k, v, p, jnp.einsum("bhts,bshe->bthe", p, v)


def heads_forward(x, wq, wk, wv, wo):
    return jnp.einsum("bthe,hed->btd", heads_parts(x, wq, wk, wv)[-1], wo)


def heads_rule(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v, p, o = heads_parts(x, wq, wk, wv)
    scale = 1 / math.sqrt(q.shape[-1])
    dwo = jnp.einsum("bthe,btd->hed", o, ct)
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bthe->bshe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    ds = scale * p * (dp - jnp.einsum("bhts,bhts->bht", p, dp)[..., None])
    dq = jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = jnp.einsum("bhts,bthe->bshe", ds, q)
    dwq = jnp.einsum("btd,bthe->dhe", x, dq)
    dwk = jnp.einsum("btd,bthe->dhe", x, dk)
    dwv = jnp.einsum("btd,bthe->dhe", x, dv)
    dx = jnp.einsum("bthe,dhe->btd", dq, wq)
    dx = dx + jnp.einsum("bthe,dhe->btd", dk, wk)
    dx = dx + jnp.einsum("bthe,dhe->btd", dv, wv)
    return dx, dwq, dwk, dwv, dwo


heads = Right("multi-head attention", heads_forward, heads_rule, normal((2, 4, 5), *[(5, 3, 6)] * 3, (3, 6, 5)))


def flash_saved(q, k, v):
    """What the forward kernel keeps: its output and the logarithm of each row's sum."""
    s = q @ k.T / math.sqrt(q.shape[-1])
    lse = jax.nn.logsumexp(s, axis=-1, keepdims=True)
    return jnp.exp(s - lse) @ v, lse


def flash_rule(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    o, lse = flash_saved(q, k, v)
    delta = (ct * o).sum(axis=-1, keepdims=True)
    dq = jnp.zeros_like(q)
    dk, dv = [], []
    for start in range(0, k.shape[0], 4):
        kj = k[start : start + 4]
        vj = v[start : start + 4]
        p = jnp.exp(scale * (q @ kj.T) - lse)
        dv.append(p.T @ ct)
        dp = ct @ vj.T
        ds = p * (dp - delta) * scale
        dq = dq + ds @ kj
        dk.append(ds.T @ q)
    return dq, jnp.concatenate(dk), jnp.concatenate(dv)


flash = Right("flash attention", attention_forward, flash_rule, normal((6, 3), (8, 3), (8, 5)))


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


ANGLES = (np.arange(5)[:, None] * np.array([1.0, 0.3])).astype(np.float32)
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)


def rotary_forward(x, w):
    return rotate(x @ w, COS, SIN)


def rotary_rule(args, ct):
    x, w = args
    dq = rotate(ct, COS, -SIN)
    return dq @ w.T, x.T @ dq


rotary = Right("rotary embedding", rotary_forward, rotary_rule, normal((5, 3), (3, 4)))


# --- normalisation ----------------------------------------------------------------------------------------------------


def layer_norm_forward(x, gamma, beta):
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 0.1) * gamma + beta


def layer_norm_rule(args, ct):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    rstd = lax.rsqrt(var + 0.1)
    x_hat = (x - mean) * rstd
    dgamma = (ct * x_hat).sum(axis=0)
    dbeta = ct.sum(axis=0)
    dx_hat = ct * gamma
    c1 = dx_hat.mean(axis=-1, keepdims=True)
    c2 = (dx_hat * x_hat).mean(axis=-1, keepdims=True)
    dx = rstd * (dx_hat - c1 - x_hat * c2)
    return dx, dgamma, dbeta


layer_norm = Right("layer norm", layer_norm_forward, layer_norm_rule, normal((4, 6), (6,), (6,)))


def layer_norm_row(x, gamma, g):
    """The rule for one row, of which `layer_norm_rows_rule` makes one for all."""
    centred = x - x.mean()
    rstd = lax.rsqrt((centred**2).mean() + 0.1)
    y = centred * rstd
    dy = g * gamma
    dx = rstd * (dy - dy.mean() - y * (dy * y).mean())
    return dx, g * y, g


def layer_norm_rows_rule(args, ct):
    x, gamma, beta = args
    dx, dgamma, dbeta = jax.vmap(layer_norm_row, in_axes=(0, None, 0))(x, gamma, ct)
    return dx, dgamma.sum(axis=0), dbeta.sum(axis=0)


layer_norm_rows = Right("layer norm, vmap of a row", layer_norm_forward, layer_norm_rows_rule, layer_norm.draw)


def batch_norm_forward(x, gamma, beta):
    mean = x.mean(axis=0)
    var = ((x - mean) ** 2).mean(axis=0)
    return (x - mean) / jnp.sqrt(var + 0.1) * gamma + beta


def batch_norm_rule(args, ct):
    x, gamma, beta = args
    n = x.shape[0]
    mean = x.mean(axis=0)
    std = jnp.sqrt(((x - mean) ** 2).mean(axis=0) + 0.1)
    dbeta = ct.sum(axis=0)
    dgamma = (ct * (x - mean) / std).sum(axis=0)
    dx_hat = ct * gamma
    dvar = (dx_hat * (x - mean)).sum(axis=0) * -0.5 / std**3
    dmean = -dx_hat.sum(axis=0) / std
    dx = dx_hat / std + dvar * 2 * (x - mean) / n + dmean / n
    return dx, dgamma, dbeta


batch_norm = Right("batch norm", batch_norm_forward, batch_norm_rule, normal((6, 4), (4,), (4,)))


def rms_norm_forward(x, gamma):
    return x * lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + 0.1) * gamma


def rms_norm_rule(args, ct):
    x, gamma = args
    n = x.shape[-1]
    r = lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + 0.1)
    dy = ct * gamma
    dot = (dy * x).sum(axis=-1, keepdims=True)
    dx = r * dy - r**3 * x * dot / n
    dgamma = jnp.einsum("ni,ni->i", ct, x * r)
    return dx, dgamma


rms_norm = Right("RMS norm", rms_norm_forward, rms_norm_rule, normal((4, 6), (6,)))


def add_norm_forward(x, residual, gamma):
    s = x + residual
    return rms_norm_forward(s, gamma), s


def add_norm_rule(args, ct):
    x, residual, gamma = args
    dy, ds_next = ct
    s = x + residual
    r = lax.rsqrt((s * s).mean(axis=-1, keepdims=True) + 0.1)
    s_hat = s * r
    dgamma = (dy * s_hat).sum(axis=0)
    ds_hat = dy * gamma
    ds = r * (ds_hat - s_hat * (ds_hat * s_hat).mean(axis=-1, keepdims=True))
    ds = ds + ds_next
    return ds, ds, dgamma


add_norm = Right("residual and RMS norm, fused", add_norm_forward, add_norm_rule, normal((4, 6), (4, 6), (6,)))


def group_norm_forward(x, gamma):
    groups = x.reshape(x.shape[0], 2, -1, x.shape[-1])
    mean = groups.mean(axis=(2, 3), keepdims=True)
    var = ((groups - mean) ** 2).mean(axis=(2, 3), keepdims=True)
    return ((groups - mean) / jnp.sqrt(var + 0.1)).reshape(x.shape) * gamma[:, None]


def group_norm_rule(args, ct):
    x, gamma = args
    shape = (x.shape[0], 2, -1, x.shape[-1])
    groups = x.reshape(shape)
    mean = groups.mean(axis=(2, 3), keepdims=True)
    rstd = lax.rsqrt(((groups - mean) ** 2).mean(axis=(2, 3), keepdims=True) + 0.1)
    x_hat = (groups - mean) * rstd
    dgamma = (ct * x_hat.reshape(x.shape)).sum(axis=(0, 2))
    dx_hat = (ct * gamma[:, None]).reshape(shape)
    c1 = dx_hat.mean(axis=(2, 3), keepdims=True)
    c2 = (dx_hat * x_hat).mean(axis=(2, 3), keepdims=True)
    dx = rstd * (dx_hat - c1 - x_hat * c2)
    return dx.reshape(x.shape), dgamma


group_norm = Right("group norm", group_norm_forward, group_norm_rule, normal((2, 6, 5), (6,)))


def weight_norm_forward(x, v, g):
    return x @ (g * v / jnp.sqrt((v * v).sum(axis=0)))


def weight_norm_rule(args, ct):
    x, v, g = args
    norm = jnp.sqrt((v * v).sum(axis=0))
    u = v / norm
    dw = x.T @ ct
    dg = (dw * u).sum(axis=0)
    dv = g / norm * (dw - u * dg)
    dx = ct @ (g * u).T
    return dx, dv, dg


weight_norm = Right("weight normalisation", weight_norm_forward, weight_norm_rule, normal((4, 3), (3, 5), (5,)))


# --- recurrent layers -------------------------------------------------------------------------------------------------


def lstm_gates(x, h, w, u, b):
    i, f, g, o = jnp.split(x @ w + h @ u + b, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def lstm_cell_forward(x, h, c, w, u, b):
    i, f, g, o = lstm_gates(x, h, w, u, b)
    c = f * c + i * g
    return o * jnp.tanh(c), c


def lstm_cell_rule(args, ct):
    x, h, c, w, u, b = args
    dh_new, dc_new = ct
    i, f, g, o = lstm_gates(x, h, w, u, b)
    tanh_c = jnp.tanh(f * c + i * g)
    dc = dc_new + dh_new * o * (1 - tanh_c**2)
    di = dc * g * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * (1 - g**2)
    do = dh_new * tanh_c * o * (1 - o)
    dz = jnp.concatenate([di, df, dg, do], axis=-1)
    return dz @ w.T, dz @ u.T, dc * f, x.T @ dz, h.T @ dz, dz.sum(axis=0)


lstm_cell = Right(
    "LSTM cell", lstm_cell_forward, lstm_cell_rule, normal((4, 3), (4, 5), (4, 5), (3, 20), (5, 20), (20,))
)


def gru_gates(x, h, w, u, b, c):
    xz, xr, xn = jnp.split(x @ w + b, 3, axis=-1)
    hz, hr, hn = jnp.split(h @ u + c, 3, axis=-1)
    z, r = jax.nn.sigmoid(xz + hz), jax.nn.sigmoid(xr + hr)
    return z, r, jnp.tanh(xn + r * hn), hn


def gru_cell_forward(x, h, w, u, b, c):
    z, r, n, hn = gru_gates(x, h, w, u, b, c)
    return (1 - z) * n + z * h


def gru_cell_rule(args, ct):
    x, h, w, u, b, c = args
    z, r, n, hn = gru_gates(x, h, w, u, b, c)
    dn = ct * (1 - z) * (1 - n**2)
    dz = ct * (h - n) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    dxs = jnp.concatenate([dz, dr, dn], axis=-1)
    dhs = jnp.concatenate([dz, dr, dn * r], axis=-1)
    dx = dxs @ w.T
    dh = dhs @ u.T + ct * z
    return dx, dh, x.T @ dxs, h.T @ dhs, dxs.sum(axis=0), dhs.sum(axis=0)


gru_cell = Right("GRU cell", gru_cell_forward, gru_cell_rule, normal((4, 3), (4, 5), (3, 15), (5, 15), (15,), (15,)))


def lstm_scan_forward(xs, w, u, b):
    def step(state, x):
        h, c = lstm_cell_forward(x, *state, w, u, b)
        return (h, c), h

    start = jnp.zeros((xs.shape[1], u.shape[0]), xs.dtype)
    return lax.scan(step, (start, start), xs)[1]


def lstm_states(xs, w, u, b):
    """The states before each step."""

    def step(state, x):
        return lstm_cell_forward(x, *state, w, u, b), state

    start = jnp.zeros((xs.shape[1], u.shape[0]), xs.dtype)
    return lax.scan(step, (start, start), xs)[1]


def lstm_scan_rule(args, ct):
    xs, w, u, b = args
    hs, cs = lstm_states(xs, w, u, b)
    dh = jnp.zeros_like(hs[0])
    dc = jnp.zeros_like(hs[0])
    dw, du, db = jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    dxs = []
    for t in reversed(range(xs.shape[0])):
        i, f, g, o = lstm_gates(xs[t], hs[t], w, u, b)
        tanh_c = jnp.tanh(f * cs[t] + i * g)
        dh = dh + ct[t]
        dc = dc + dh * o * (1 - tanh_c**2)
        di = dc * g * i * (1 - i)
        df = dc * cs[t] * f * (1 - f)
        dg = dc * i * (1 - g**2)
        do = dh * tanh_c * o * (1 - o)
        dz = jnp.concatenate([di, df, dg, do], axis=-1)
        dw = dw + xs[t].T @ dz
        du = du + hs[t].T @ dz
        db = db + dz.sum(axis=0)
        dxs.append(dz @ w.T)
        dh = dz @ u.T
        dc = dc * f
    return jnp.stack(dxs[::-1]), dw, du, db


lstm_scan = Right("LSTM over a sequence", lstm_scan_forward, lstm_scan_rule, normal((6, 2, 3), (3, 20), (5, 20), (20,)))


def rnn_forward(xs, h0, w, u, b):
    def step(h, x):
        h = jnp.tanh(x @ w + h @ u + b)
        return h, h

    return lax.scan(step, h0, xs)[1]


def rnn_rule(args, ct):
    xs, h0, w, u, b = args
    hs = rnn_forward(xs, h0, w, u, b)
    before = jnp.concatenate([h0[None], hs[:-1]])

    def back(carry, at):
        dh, dw, du, db = carry
        x, h, h_before, g = at
        dz = (dh + g) * (1 - h * h)
        dw = dw + x.T @ dz
        du = du + h_before.T @ dz
        db = db + dz.sum(axis=0)
        dh = dz @ u.T
        dx = dz @ w.T
        return (dh, dw, du, db), dx

    start = jnp.zeros_like(h0), jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    (dh0, dw, du, db), dxs = lax.scan(back, start, (xs, hs, before, ct), reverse=True)
    return dxs, dh0, dw, du, db


rnn = Right("RNN, lax.scan", rnn_forward, rnn_rule, normal((6, 2, 3), (2, 5), (3, 5), (5, 5), (5,)))


def rnn_last_forward(xs, w, u):
    h = jnp.zeros((xs.shape[1], u.shape[0]), xs.dtype)
    for x in xs:
        h = jnp.tanh(x @ w + h @ u)
    return h


def rnn_last_rule(args, ct):
    xs, w, u = args
    hs = [jnp.zeros_like(ct)]
    for x in xs:
        hs.append(jnp.tanh(x @ w + hs[-1] @ u))
    dw = jnp.zeros_like(w)
    du = jnp.zeros_like(u)
    dxs = jnp.zeros_like(xs)
    dh = ct
    for t in range(len(xs) - 1, -1, -1):
        dz = dh * (1 - hs[t + 1] ** 2)
        dw += xs[t].T @ dz
        du += hs[t].T @ dz
        dxs = dxs.at[t].set(dz @ w.T)
        dh = dz @ u.T
    return dxs, dw, du


rnn_last = Right("RNN, Python loop, last state", rnn_last_forward, rnn_last_rule, normal((4, 2, 3), (3, 5), (5, 5)))


def decay_forward(x, a):
    def step(h, xt):
        h = jax.nn.sigmoid(a) * h + xt
        return h, h

    return lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def decay_rule(args, ct):
    x, a = args
    s = jax.nn.sigmoid(a)
    hs = decay_forward(x, a)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

    def back(dh, g):
        dh = g + s * dh
        return dh, dh

    dx = lax.scan(back, jnp.zeros_like(x[0]), ct, reverse=True)[1]
    ds = (dx * before).sum(axis=(0, 1))
    da = ds * s * (1 - s)
    return dx, da


decay = Right("linear recurrence with decay", decay_forward, decay_rule, normal((6, 2, 3), (3,)))


# --- dense layers -----------------------------------------------------------------------------------------------------


def tanh_mlp_forward(x, w1, b1, w2, b2):
    return jnp.tanh(x @ w1 + b1) @ w2 + b2


def tanh_mlp_rule(args, ct):
    x, w1, b1, w2, b2 = args
    h = jnp.tanh(x @ w1 + b1)
    dw2 = h.T @ ct
    db2 = ct.sum(axis=0)
    dh = ct @ w2.T
    dz = dh * (1 - h * h)
    dw1 = x.T @ dz
    db1 = dz.sum(axis=0)
    dx = dz @ w1.T
    return dx, dw1, db1, dw2, db2


tanh_mlp = Right("two layers, tanh", tanh_mlp_forward, tanh_mlp_rule, normal((4, 3), (3, 5), (5,), (5, 2), (2,)))


def relu_mlp_forward(x, w1, b1, w2, b2, w3):
    return jax.nn.relu(jax.nn.relu(x @ w1 + b1) @ w2 + b2) @ w3


def relu_mlp_rule(args, ct):
    x, w1, b1, w2, b2, w3 = args
    z1 = x @ w1 + b1
    a1 = jnp.maximum(z1, 0)
    z2 = a1 @ w2 + b2
    a2 = jnp.maximum(z2, 0)
    dw3 = a2.T @ ct
    delta2 = jnp.where(z2 > 0, ct @ w3.T, 0)
    dw2 = a1.T @ delta2
    db2 = jnp.sum(delta2, axis=0)
    delta1 = jnp.where(z1 > 0, delta2 @ w2.T, 0)
    dw1 = x.T @ delta1
    db1 = jnp.sum(delta1, axis=0)
    return delta1 @ w1.T, dw1, db1, dw2, db2, dw3


relu_mlp = Right(
    "three layers, relu", relu_mlp_forward, relu_mlp_rule, normal((7, 3), (3, 5), (5,), (5, 6), (6,), (6, 2))
)


def gelu_mlp_forward(x, w1, b1, w2):
    return jax.nn.gelu(x @ w1 + b1, approximate=False) @ w2


def gelu_slope(z):
    density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + lax.erf(z / math.sqrt(2))) + z * density


def gelu_mlp_rule(args, ct):
    x, w1, b1, w2 = args
    z = x @ w1 + b1
    a = jax.nn.gelu(z, approximate=False)
    delta = (ct @ w2.T) * gelu_slope(z)
    return delta @ w1.T, x.T @ delta, delta.sum(0), a.T @ ct


gelu_mlp = Right("two layers, gelu", gelu_mlp_forward, gelu_mlp_rule, normal((4, 3), (3, 5), (5,), (5, 2)))


def softplus_regression_forward(x, w, b, v, y):
    error = jax.nn.softplus(x @ w + b) @ v - y
    return 0.5 * (error**2).mean()


def softplus_regression_rule(args, ct):
    x, w, b, v, y = args
    z = x @ w + b
    a = jax.nn.softplus(z)
    error = a @ v - y
    derror = ct * error / error.size
    dv = a.T @ derror
    da = derror @ v.T
    dz = da * jax.nn.sigmoid(z)
    dw = x.T @ dz
    db = dz.sum(axis=0)
    dx = dz @ w.T
    return dx, dw, db, dv, -derror


softplus_regression = Right(
    "regression, softplus, mean of squares",
    softplus_regression_forward,
    softplus_regression_rule,
    normal((4, 3), (3, 5), (5,), (5, 2), (4, 2)),
)


def glu_forward(x, w, b, v, c):
    return jax.nn.sigmoid(x @ w + b) * (x @ v + c)


def glu_rule(args, ct):
    x, w, b, v, c = args
    gate = jax.nn.sigmoid(x @ w + b)
    value = x @ v + c
    dvalue = ct * gate
    dgate = ct * value
    dz = dgate * gate * (1 - gate)
    dx = dz @ w.T + dvalue @ v.T
    return dx, x.T @ dz, dz.sum(axis=0), x.T @ dvalue, dvalue.sum(axis=0)


glu = Right("GLU", glu_forward, glu_rule, normal((4, 3), (3, 5), (5,), (3, 5), (5,)))


def swiglu_forward(x, wg, wu, wd):
    return jnp.einsum("btf,fd->btd", jax.nn.silu(x @ wg) * (x @ wu), wd)


def swiglu_rule(args, ct):
    x, wg, wu, wd = args
    gate = x @ wg
    up = x @ wu
    s = jax.nn.sigmoid(gate)
    act = gate * s
    dwd = jnp.einsum("btf,btd->fd", act * up, ct)
    dy = jnp.einsum("btd,fd->btf", ct, wd)
    dup = dy * act
    dact = dy * up
    dgate = dact * s * (1 + gate * (1 - s))
    dwg = jnp.einsum("btd,btf->df", x, dgate)
    dwu = jnp.einsum("btd,btf->df", x, dup)
    dx = dgate @ wg.T + dup @ wu.T
    return dx, dwg, dwu, dwd


swiglu = Right("SwiGLU", swiglu_forward, swiglu_rule, normal((2, 4, 3), (3, 5), (3, 5), (5, 3)))


def prelu_forward(x, w, alpha):
    z = x @ w
    return jnp.where(z > 0, z, alpha * z)


def prelu_rule(args, ct):
    x, w, alpha = args
    z = x @ w
    positive = z > 0
    dz = jnp.where(positive, ct, alpha * ct)
    dalpha = jnp.where(positive, 0, ct * z).sum(axis=0)
    return dz @ w.T, x.T @ dz, dalpha


prelu = Right("PReLU layer", prelu_forward, prelu_rule, normal((6, 3), (3, 5), (5,)))

KEPT = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 0]], np.float32)
KEEP = 0.7


def dropout_forward(x, w, b, v):
    return (jnp.tanh(x @ w + b) * KEPT / KEEP) @ v


def dropout_rule(args, ct):
    x, w, b, v = args
    h = jnp.tanh(x @ w + b)
    dropped = h * KEPT / KEEP
    dv = dropped.T @ ct
    ddropped = ct @ v.T
    dh = ddropped * KEPT / KEEP
    dz = dh * (1 - h**2)
    dw = x.T @ dz
    db = dz.sum(axis=0)
    return dz @ w.T, dw, db, dv


dropout = Right("two layers with dropout", dropout_forward, dropout_rule, normal((4, 3), (3, 5), (5,), (5, 2)))


def tied_forward(x, e, b, c):
    return jnp.tanh(x @ e + b) @ e.T + c


def tied_rule(args, ct):
    x, e, b, c = args
    h = jnp.tanh(x @ e + b)
    dc = ct.sum(axis=0)
    de_out = ct.T @ h
    dh = ct @ e
    dz = dh * (1 - h**2)
    de_in = x.T @ dz
    db = dz.sum(axis=0)
    dx = dz @ e.T
    return dx, de_in + de_out, db, dc


tied = Right("autoencoder with tied weights", tied_forward, tied_rule, normal((4, 5), (5, 3), (3,), (5,)))


def bilinear_forward(x, w, y, b):
    return jnp.einsum("ni,ijo,nj->no", x, w, y) + b


def bilinear_rule(args, ct):
    x, w, y, b = args
    return (
        jnp.einsum("no,ijo,nj->ni", ct, w, y),
        jnp.einsum("ni,no,nj->ijo", x, ct, y),
        jnp.einsum("ni,ijo,no->nj", x, w, ct),
        ct.sum(0),
    )


bilinear = Right("bilinear layer", bilinear_forward, bilinear_rule, normal((4, 3), (3, 5, 2), (4, 5), (2,)))


# --- convolution, pooling, gathers ------------------------------------------------------------------------------------


def conv_forward(x, w, b):
    """One axis, stride 2, no padding: x (batch, place, channel), w (tap, channel, output)."""
    return lax.conv_general_dilated(x, w, (2,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")) + b


def conv_rule(args, ct):
    x, w, b = args
    reach = 2 * ct.shape[1] - 1
    dx = jnp.zeros_like(x)
    dw = []
    for u in range(w.shape[0]):
        seen = x[:, u : u + reach : 2]
        dw.append(jnp.einsum("npc,npo->co", seen, ct))
        dx = dx.at[:, u : u + reach : 2].add(ct @ w[u].T)
    db = ct.sum(axis=(0, 1))
    return dx, jnp.stack(dw), db


conv = Right("convolution, loop over taps", conv_forward, conv_rule, normal((2, 11, 3), (4, 3, 5), (5,)))


def patches(x, kh, kw):
    """(batch, height, width, channel) to (batch, height, width, kh * kw * channel)."""
    h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    return jnp.concatenate([x[:, u : u + h, v : v + w] for u in range(kh) for v in range(kw)], axis=-1)


def im2col_forward(x, w, b):
    return jnp.einsum("nijp,po->nijo", patches(x, *w.shape[:2]), w.reshape(-1, w.shape[-1])) + b


def im2col_rule(args, ct):
    x, w, b = args
    kh, kw, cin, cout = w.shape
    n, h, width, _ = ct.shape
    rows = patches(x, kh, kw).reshape(-1, kh * kw * cin)
    d = ct.reshape(-1, cout)
    dw = (rows.T @ d).reshape(w.shape)
    db = d.sum(axis=0)
    dpatches = (d @ w.reshape(-1, cout).T).reshape(n, h, width, kh, kw, cin)
    dx = jnp.zeros_like(x)
    for u in range(kh):
        for v in range(kw):
            dx = dx.at[:, u : u + h, v : v + width].add(dpatches[:, :, :, u, v])
    return dx, dw, db


im2col = Right("convolution, im2col", im2col_forward, im2col_rule, normal((2, 6, 7, 3), (2, 3, 3, 5), (5,)))


def max_pool_forward(x):
    return x.reshape(x.shape[0], -1, 3, x.shape[-1]).max(axis=2)


def max_pool_rule(args, ct):
    (x,) = args
    windows = x.reshape(x.shape[0], -1, 3, x.shape[-1])
    first = jnp.argmax(windows, axis=2)
    chosen = jax.nn.one_hot(first, 3, axis=2, dtype=x.dtype)
    dx = chosen * ct[:, :, None]
    return (dx.reshape(x.shape),)


max_pool = Right("max pooling", max_pool_forward, max_pool_rule, normal((2, 12, 5)))


def mean_pool_forward(x):
    """Windows of 3, stride 2."""
    return sum(x[:, u : u + 7 : 2] for u in range(3)) / 3


def mean_pool_rule(args, ct):
    (x,) = args
    share = ct / 3
    dx = jnp.zeros_like(x)
    for u in range(3):
        dx = dx.at[:, u : u + 7 : 2].add(share)
    return (dx,)


mean_pool = Right("average pooling, overlapping", mean_pool_forward, mean_pool_rule, normal((2, 9, 5)))

IDS = np.array([[0, 3, 3, 5], [1, 0, 3, 2]])


def embedding_forward(table, position):
    return table[IDS] * math.sqrt(table.shape[-1]) + position


def embedding_rule(args, ct):
    table, position = args
    flat = ct.reshape(-1, ct.shape[-1]) * math.sqrt(table.shape[-1])
    dtable = jax.ops.segment_sum(flat, IDS.reshape(-1), num_segments=table.shape[0])
    dposition = ct.sum(axis=0)
    return dtable, dposition


embedding = Right("embedding, repeated ids", embedding_forward, embedding_rule, normal((7, 3), (4, 3)))


def cumulative_forward(x, w):
    return jnp.cumsum(x * w, axis=1)


def cumulative_rule(args, ct):
    x, w = args
    dprod = jnp.flip(jnp.cumsum(jnp.flip(ct, axis=1), axis=1), axis=1)
    dx = dprod * w
    dw = (dprod * x).sum(axis=0)
    return dx, dw


cumulative = Right("cumulative sum", cumulative_forward, cumulative_rule, normal((4, 6), (6,)))


# --- losses -----------------------------------------------------------------------------------------------------------

LABELS = np.array([1, 4, 0, 1])
SMOOTHING = 0.2


def smooth(logits):
    """The smoothed labels, as wide as the logits."""
    classes = logits.shape[-1]
    return (1 - SMOOTHING) * jax.nn.one_hot(LABELS, classes, dtype=logits.dtype) + SMOOTHING / classes


def smoothed_forward(x, w, b):
    logits = x @ w + b
    return -(smooth(logits) * jax.nn.log_softmax(logits)).sum(axis=-1).mean()


def smoothed_rule(args, ct):
    x, w, b = args
    logits = x @ w + b
    p = jax.nn.softmax(logits)
    dlogits = ct * (p - smooth(logits)) / p.shape[0]
    dw = x.T @ dlogits
    db = dlogits.sum(axis=0)
    dx = dlogits @ w.T
    return dx, dw, db


smoothed = Right("cross-entropy, smoothed labels", smoothed_forward, smoothed_rule, normal((4, 3), (3, 5), (5,)))


def huber_forward(x, w, b, y):
    r = x @ w + b - y
    small = jnp.abs(r) < 0.8
    return jnp.where(small, 0.5 * r * r, 0.8 * (jnp.abs(r) - 0.4)).mean()


def huber_rule(args, ct):
    x, w, b, y = args
    r = x @ w + b - y
    slope = jnp.where(jnp.abs(r) < 0.8, r, 0.8 * jnp.sign(r))
    dr = ct * slope / r.size
    dw = x.T @ dr
    db = dr.sum(axis=0)
    dx = dr @ w.T
    return dx, dw, db, -dr


huber = Right("Huber loss", huber_forward, huber_rule, normal((4, 3), (3, 5), (5,), (4, 5)))


def cosine_forward(a, b):
    return (a * b).sum(axis=-1) / jnp.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def cosine_rule(args, ct):
    a, b = args
    na = jnp.linalg.norm(a, axis=-1, keepdims=True)
    nb = jnp.linalg.norm(b, axis=-1, keepdims=True)
    c = (a * b).sum(axis=-1, keepdims=True) / (na * nb)
    g = ct[:, None]
    da = g * (b / (na * nb) - c * a / na**2)
    db = g * (a / (na * nb) - c * b / nb**2)
    return da, db


cosine = Right("cosine similarity", cosine_forward, cosine_rule, normal((4, 3), (4, 3)))


def soft_maximum_forward(x, beta):
    return jax.nn.logsumexp(x * beta[:, None], axis=-1) / beta


def soft_maximum_rule(args, ct):
    x, beta = args
    scaled = x * beta[:, None]
    lse = jax.nn.logsumexp(scaled, axis=-1)
    p = jnp.exp(scaled - lse[:, None])
    dx = ct[:, None] * p
    mean_x = (p * x).sum(axis=-1)
    dbeta = ct * (mean_x / beta - lse / beta**2)
    return dx, dbeta


soft_maximum = Right(
    "logsumexp with temperature",
    soft_maximum_forward,
    soft_maximum_rule,
    lambda key: (normal((4, 5))(key)[0], jax.random.uniform(key, (4,), jnp.float32, 0.5, 2.0)),
)


def contrastive_forward(a, b, log_scale):
    logits = jnp.exp(log_scale) * a @ b.T
    return -jnp.diag(jax.nn.log_softmax(logits)).mean()


def contrastive_rule(args, ct):
    a, b, log_scale = args
    scale = jnp.exp(log_scale)
    logits = scale * (a @ b.T)
    dlogits = ct * (jax.nn.softmax(logits) - jnp.eye(len(a))) / len(a)
    da = scale * (dlogits @ b)
    db = scale * (dlogits.T @ a)
    dlog_scale = (dlogits * logits).sum()
    return da, db, dlog_scale


contrastive = Right(
    "contrastive loss",
    contrastive_forward,
    contrastive_rule,
    lambda key: (*normal((4, 3), (4, 3))(key), np.float32(0.3)),
)


def likelihood_forward(mean, log_var, y):
    return 0.5 * (log_var + (y - mean) ** 2 * jnp.exp(-log_var)).sum(axis=-1)


def likelihood_rule(args, ct):
    mean, log_var, y = args
    precision = jnp.exp(-log_var)
    g = ct[:, None]
    dmean = g * (mean - y) * precision
    dlog_var = 0.5 * g * (1 - (y - mean) ** 2 * precision)
    dy = -dmean
    return dmean, dlog_var, dy


likelihood = Right("Gaussian likelihood", likelihood_forward, likelihood_rule, normal((4, 3), (4, 3), (4, 3)))


def softmax_rows_forward(x, tau):
    return jax.nn.softmax(x / tau, axis=-1)


def softmax_rows_rule(args, ct):
    x, tau = args

    def row(x, g):
        p = jax.nn.softmax(x / tau)
        ds = p * (g - jnp.dot(p, g))
        return ds / tau, -jnp.dot(ds, x) / tau**2

    dx, dtau = jax.vmap(row)(x, ct)
    return dx, dtau.sum()


softmax_rows = Right(
    "softmax with temperature, vmap of a row",
    softmax_rows_forward,
    softmax_rows_rule,
    lambda key: (normal((4, 5))(key)[0], np.float32(1.7)),
)


# --- linear algebra, Fourier transforms, complex numbers --------------------------------------------------------------


def process_forward(x, y):
    """Log density of y under a Gaussian process with a linear kernel, up to its constant."""
    chol = jnp.linalg.cholesky(x @ x.T + jnp.eye(len(x)))
    return -0.5 * y @ cho_solve((chol, True), y) - jnp.log(jnp.diag(chol)).sum()


def process_rule(args, ct):
    x, y = args
    chol = jnp.linalg.cholesky(x @ x.T + jnp.eye(len(x)))
    inverse = cho_solve((chol, True), jnp.eye(len(x)))
    alpha = inverse @ y
    dkernel = 0.5 * ct * (jnp.outer(alpha, alpha) - inverse)
    dx = 2 * dkernel @ x
    dy = -ct * alpha
    return dx, dy


process = Right("Cholesky: log density", process_forward, process_rule, normal((4, 3), (4,)))


def cholesky_forward(m):
    return jnp.linalg.cholesky(m @ m.T + jnp.eye(len(m)))


def cholesky_rule(args, ct):
    (m,) = args
    l = cholesky_forward(m)
    inside = jnp.tril(l.T @ ct)
    inside = inside - 0.5 * jnp.diag(jnp.diag(inside))
    left = solve_triangular(l, inside, lower=True, trans=1)
    s = solve_triangular(l, left.T, lower=True, trans=1).T
    dm = (s + s.T) @ m
    return (dm,)


cholesky = Right("Cholesky factor", cholesky_forward, cholesky_rule, normal((4, 6)))


def triangular_forward(l, b):
    return solve_triangular(l, b, lower=True)


def triangular_rule(args, ct):
    l, b = args
    x = solve_triangular(l, b, lower=True)
    db = solve_triangular(l, ct, lower=True, trans="T")
    dl = -jnp.tril(db @ x.T)
    return dl, db


def dominant(key):
    """A square matrix with a large diagonal and a right side."""
    a, b = normal((4, 4), (4, 3))(key)
    return a + 3 * jnp.eye(4, dtype=jnp.float32), b


triangular = Right("triangular solve", triangular_forward, triangular_rule, dominant)


def solve_forward(a, b):
    return jnp.linalg.solve(a, b)


def solve_rule(args, ct):
    a, b = args
    x = jnp.linalg.solve(a, b)
    db = jnp.linalg.solve(a.T, ct)
    da = -db @ x.T
    return da, db


solve = Right("linear solve", solve_forward, solve_rule, dominant)


def filter_forward(x, k):
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(k), n=x.shape[-1])


def filter_rule(args, ct):
    x, k = args
    n = x.shape[-1]
    spectrum = jnp.fft.rfft(ct)
    dx = jnp.fft.irfft(spectrum * jnp.conj(jnp.fft.rfft(k)), n=n)
    dk_rows = jnp.fft.irfft(spectrum * jnp.conj(jnp.fft.rfft(x)), n=n)
    dk = dk_rows.sum(axis=0)
    return dx, dk


fourier = Right("Fourier filter", filter_forward, filter_rule, normal((4, 7), (7,)))


def power_forward(z, w):
    return jnp.abs(z * w) ** 2


def power_rule(args, ct):
    z, w = args
    y = z * w
    dy = 2 * ct * jnp.conj(y)
    dz = dy * w
    dw = (dy * z).sum(axis=0)
    return dz, dw


def complex_draw(*shapes):
    def draw(key):
        parts = normal(*shapes, *shapes)(key)
        return tuple(lax.complex(a, b) for a, b in zip(parts[: len(shapes)], parts[len(shapes) :]))

    return draw


power = Right("complex product, squared modulus", power_forward, power_rule, complex_draw((4, 3), (3,)))


def modulation_forward(re, im, phase):
    rotated = lax.complex(re, im) * jnp.exp(1j * phase)
    return rotated.real**2 + 3 * rotated.imag


def modulation_rule(args, ct):
    re, im, phase = args
    turn = jnp.exp(1j * phase)
    rotated = lax.complex(re, im) * turn
    drotated = ct * lax.complex(2 * rotated.real, jnp.full_like(re, 3.0))
    dz = drotated * jnp.conj(turn)
    dphase = (drotated * jnp.conj(1j * rotated)).real.sum(axis=0)
    return dz.real, dz.imag, dphase


modulation = Right("complex rotation of real parts", modulation_forward, modulation_rule, normal((4, 3), (4, 3), (3,)))

RIGHT = (
    attention,
    heads,
    flash,
    rotary,
    layer_norm,
    layer_norm_rows,
    batch_norm,
    rms_norm,
    add_norm,
    group_norm,
    weight_norm,
    lstm_cell,
    gru_cell,
    lstm_scan,
    rnn,
    rnn_last,
    decay,
    tanh_mlp,
    relu_mlp,
    gelu_mlp,
    softplus_regression,
    glu,
    swiglu,
    prelu,
    dropout,
    tied,
    bilinear,
    conv,
    im2col,
    max_pool,
    mean_pool,
    embedding,
    cumulative,
    smoothed,
    huber,
    cosine,
    soft_maximum,
    contrastive,
    likelihood,
    softmax_rows,
    process,
    cholesky,
    triangular,
    solve,
    fourier,
    power,
    modulation,
)


def named(wrong):
    """The right rule after which a wrong one is named."""
    names = [n for n, each in globals().items() if isinstance(each, Right) and wrong.__name__.startswith(n + "_")]
    return globals()[max(names, key=len)]
