"""Rules with two or three independent mistakes, each on its own line, as the table `SEVERAL` at the end says."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from . import right, slip
from .right import COS, IDS, KEEP, KEPT, LABELS, SIN, SMOOTHING

# --- attention --------------------------------------------------------------------------------------------------------


def attention_total_and_scale(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(scale * (q @ k.T))
    dv = p.T @ ct
    dp = ct @ v.T
    ds = p * dp
    dq = ds @ k
    dk = scale * (ds.T @ q)
    return dq, dk, dv


def attention_mean_and_sign(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(scale * (q @ k.T))
    dv = p.T @ ct
    dp = ct @ v.T
    total = (p * dp).mean(axis=-1, keepdims=True)
    ds = scale * p * (dp - total)
    dq = ds @ k
    dk = -ds.T @ q
    return dq, dk, dv


def heads_three(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v, p, o = right.heads_parts(x, wq, wk, wv)
    scale = 1 / math.sqrt(q.shape[-1])
    dwo = jnp.einsum("bthe,btd->hed", v, ct)
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bshe->bthe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    ds = scale * p * (dp - jnp.einsum("bhts,bhts->bht", p, dp)[..., None])
    dq = jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = scale * jnp.einsum("bhts,bthe->bshe", ds, q)
    dwq = jnp.einsum("btd,bthe->dhe", x, dq)
    dwk = jnp.einsum("btd,bthe->dhe", x, dk)
    dwv = jnp.einsum("btd,bthe->dhe", x, dv)
    dx = jnp.einsum("bthe,dhe->btd", dq, wq)
    dx = dx + jnp.einsum("bthe,dhe->btd", dk, wk)
    dx = dx + jnp.einsum("bthe,dhe->btd", dv, wv)
    return dx, dwq, dwk, dwv, dwo


def heads_query_path_and_total(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v, p, o = right.heads_parts(x, wq, wk, wv)
    scale = 1 / math.sqrt(q.shape[-1])
    dwo = jnp.einsum("bthe,btd->hed", o, ct)
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bthe->bshe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    total = (p * dp).sum(axis=-2, keepdims=True)
    ds = scale * p * (dp - total)
    dq = jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = jnp.einsum("bhts,bthe->bshe", ds, q)
    dx = jnp.einsum("bthe,dhe->btd", dk, wk) + jnp.einsum("bthe,dhe->btd", dv, wv)
    dwq, dwk, dwv = (jnp.einsum("btd,bthe->dhe", x, d) for d in (dq, dk, dv))
    return dx, dwq, dwk, dwv, dwo


def flash_overwritten_and_delta(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    o, lse = right.flash_saved(q, k, v)
    delta = (o * o).sum(axis=-1, keepdims=True)
    dk, dv = [], []
    for start in range(0, k.shape[0], 4):
        kj = k[start : start + 4]
        vj = v[start : start + 4]
        p = jnp.exp(scale * (q @ kj.T) - lse)
        dv.append(p.T @ ct)
        dp = ct @ vj.T
        ds = p * (dp - delta) * scale
        dq = ds @ kj
        dk.append(ds.T @ q)
    return dq, jnp.concatenate(dk), jnp.concatenate(dv)


def rotary_sign_and_operand(args, ct):
    x, w = args
    q = x @ w
    half = q.shape[-1] // 2
    ga, gb = ct[:, :half], ct[:, half:]
    da = ga * COS + gb * SIN
    db = gb * COS + ga * SIN
    dq = jnp.concatenate([da, db], axis=-1)
    dx = ct @ w.T
    dw = x.T @ dq
    return dx, dw


# --- normalisation ----------------------------------------------------------------------------------------------------


def layer_norm_term_and_operand(args, ct):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    rstd = lax.rsqrt(var + 0.1)
    x_hat = (x - mean) * rstd
    dgamma = (ct * (x - mean)).sum(axis=0)
    dbeta = ct.sum(axis=0)
    dx_hat = ct * gamma
    c2 = (dx_hat * x_hat).mean(axis=-1, keepdims=True)
    dx = rstd * (dx_hat - x_hat * c2)
    return dx, dgamma, dbeta


def layer_norm_three(args, ct):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    rstd = lax.rsqrt(var + 0.1)
    x_hat = (x - mean) * rstd
    dgamma = (ct * x_hat).mean(axis=0)
    dbeta = jnp.zeros_like(beta)
    dx_hat = ct * gamma
    c1 = dx_hat.mean(axis=-1, keepdims=True)
    c2 = (dx_hat * x_hat).sum(axis=-1, keepdims=True)
    dx = rstd * (dx_hat - c1 - x_hat * c2)
    return dx, dgamma, dbeta


def layer_norm_rows_two(args, ct):
    x, gamma, beta = args

    def row(x, g):
        centred = x - x.mean()
        rstd = lax.rsqrt((centred**2).mean() + 0.1)
        y = centred * rstd
        dy = g * gamma
        dx = rstd**2 * (dy - dy.mean() - y * (dy * y).mean())
        return dx, g * y

    dx, dgamma = jax.vmap(row)(x, ct)
    dbeta = ct.mean(axis=0)
    return dx, dgamma.sum(axis=0), dbeta


def batch_norm_power_and_gamma(args, ct):
    x, gamma, beta = args
    n = x.shape[0]
    mean = x.mean(axis=0)
    std = jnp.sqrt(((x - mean) ** 2).mean(axis=0) + 0.1)
    dbeta = ct.sum(axis=0)
    dgamma = (ct * (x - mean)).sum(axis=0)
    dx_hat = ct * gamma
    dvar = (dx_hat * (x - mean)).sum(axis=0) * -0.5 / std
    dmean = -dx_hat.sum(axis=0) / std
    dx = dx_hat / std + dvar * 2 * (x - mean) / n + dmean / n
    return dx, dgamma, dbeta


def batch_norm_sign_and_two(args, ct):
    x, gamma, beta = args
    n = x.shape[0]
    mean = x.mean(axis=0)
    std = jnp.sqrt(x.var(axis=0) + 0.1)
    dbeta = ct.sum(axis=0)
    dgamma = (ct * (x - mean) / std).sum(axis=0)
    dx_hat = ct * gamma
    dvar = (dx_hat * (x - mean)).sum(axis=0) * -0.5 / std**3
    dmean = dx_hat.sum(axis=0) / std
    from_var = dvar * (x - mean) / n
    dx = dx_hat / std + from_var + dmean / n
    return dx, dgamma, dbeta


def rms_norm_eps_and_operand(args, ct):
    x, gamma = args
    r = lax.rsqrt((x * x).mean(axis=-1, keepdims=True))
    x_hat = x * r
    dy = ct * gamma
    dot = (dy * x).mean(axis=-1, keepdims=True)
    dx = r * (dy - x_hat * dot)
    dgamma = (ct * x_hat).sum(axis=0)
    return dx, dgamma


def add_norm_residual_and_gamma(args, ct):
    x, residual, gamma = args
    dy, ds_next = ct
    s = x + residual
    r = lax.rsqrt((s * s).mean(axis=-1, keepdims=True) + 0.1)
    s_hat = s * r
    dgamma = (dy * x * r).sum(axis=0)
    ds_hat = dy * gamma
    dot = (ds_hat * s_hat).mean(axis=-1, keepdims=True)
    ds = r * (ds_hat - s_hat * dot)
    dx = ds + ds_next
    dresidual = ds
    return dx, dresidual, dgamma


def group_norm_axis_and_operand(args, ct):
    x, gamma = args
    shape = (x.shape[0], 2, -1, x.shape[-1])
    groups = x.reshape(shape)
    mean = groups.mean(axis=(2, 3), keepdims=True)
    rstd = lax.rsqrt(groups.var(axis=(2, 3), keepdims=True) + 0.1)
    x_hat = (groups - mean) * rstd
    dgamma = (ct * x).sum(axis=(0, 2))
    dx_hat = (ct * gamma[:, None]).reshape(shape)
    c1 = dx_hat.mean(axis=2, keepdims=True)
    c2 = (dx_hat * x_hat).mean(axis=(2, 3), keepdims=True)
    dx = rstd * (dx_hat - c1 - x_hat * c2)
    return dx.reshape(x.shape), dgamma


def weight_norm_direction_and_input(args, ct):
    x, v, g = args
    norm = jnp.sqrt((v * v).sum(axis=0))
    u = v / norm
    dw = x.T @ ct
    dg = (dw * v).sum(axis=0)
    dv = g / norm * (dw - u * (dw * u).sum(axis=0))
    dx = ct @ u.T
    return dx, dv, dg


# --- recurrent layers -------------------------------------------------------------------------------------------------


def lstm_cell_gates_crossed(args, ct):
    x, h, c, w, u, b = args
    dh_new, dc_new = ct
    i, f, g, o = right.lstm_gates(x, h, w, u, b)
    tanh_c = jnp.tanh(f * c + i * g)
    dc = dc_new + dh_new * o * (1 - tanh_c**2)
    di = dc * g * i * (1 - i)
    df = dc * g * f * (1 - f)
    dg = dc * i * (1 - g)
    do = dh_new * tanh_c * o * (1 - o)
    dz = jnp.concatenate([di, df, dg, do], axis=-1)
    return dz @ w.T, dz @ u.T, dc * f, x.T @ dz, h.T @ dz, dz.sum(axis=0)


def lstm_cell_three(args, ct):
    x, h, c, w, u, b = args
    dh_new, dc_new = ct
    i, f, g, o = right.lstm_gates(x, h, w, u, b)
    c_new = f * c + i * g
    tanh_c = jnp.tanh(c_new)
    dc = dc_new + dh_new * (1 - tanh_c**2)
    di = dc * g * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * (1 - g**2)
    do = dh_new * c_new * o * (1 - o)
    dz = jnp.concatenate([di, df, dg, do], axis=-1)
    dx = dz @ w.T
    dh = dz @ u.T
    dc_old = dc * i
    return dx, dh, dc_old, x.T @ dz, h.T @ dz, dz.sum(axis=0)


def gru_cell_sign_and_path(args, ct):
    x, h, w, u, b, c = args
    z, r, n, hn = right.gru_gates(x, h, w, u, b, c)
    dn = ct * (1 - z) * (1 - n**2)
    dz = ct * (n - h) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    dxs = jnp.concatenate([dz, dr, dn], axis=-1)
    dhs = jnp.concatenate([dz, dr, dn * r], axis=-1)
    dx = dxs @ w.T
    dh = dhs @ u.T + ct * (1 - z)
    return dx, dh, x.T @ dxs, h.T @ dhs, dxs.sum(axis=0), dhs.sum(axis=0)


def gru_cell_three(args, ct):
    x, h, w, u, b, c = args
    z, r, n, hn = right.gru_gates(x, h, w, u, b, c)
    dn = ct * (1 - z) * (1 - n**2)
    dz = ct * (h - n) * z
    dr = dn * h * r * (1 - r)
    dxs = jnp.concatenate([dz, dr, dn], axis=-1)
    dhs = jnp.concatenate([dz, dr, dn * r], axis=-1)
    dx = dxs @ w.T
    dh = dhs @ u.T + ct * z
    dw = x.T @ dxs
    du = h.T @ dhs
    db = dxs.sum(axis=0)
    dc = db
    return dx, dh, dw, du, db, dc


def lstm_scan_two(args, ct):
    xs, w, u, b = args
    hs, cs = right.lstm_states(xs, w, u, b)
    dh = jnp.zeros_like(hs[0])
    dc = jnp.zeros_like(hs[0])
    du, db = jnp.zeros_like(u), jnp.zeros_like(b)
    dxs = []
    for t in reversed(range(xs.shape[0])):
        i, f, g, o = right.lstm_gates(xs[t], hs[t], w, u, b)
        tanh_c = jnp.tanh(f * cs[t] + i * g)
        dh = dh + ct[t]
        dc = dh * o * (1 - tanh_c**2)
        di = dc * g * i * (1 - i)
        df = dc * cs[t] * f * (1 - f)
        dg = dc * i * (1 - g**2)
        do = dh * tanh_c * o * (1 - o)
        dz = jnp.concatenate([di, df, dg, do], axis=-1)
        dw = xs[t].T @ dz
        du = du + hs[t].T @ dz
        db = db + dz.sum(axis=0)
        dxs.append(dz @ w.T)
        dh = dz @ u.T
    return jnp.stack(dxs[::-1]), dw, du, db


def rnn_slope_and_transpose(args, ct):
    xs, h0, w, u, b = args
    hs = right.rnn_forward(xs, h0, w, u, b)
    before = jnp.concatenate([h0[None], hs[:-1]])

    def back(carry, at):
        dh, dw, du, db = carry
        x, h, h_before, g = at
        dz = (dh + g) * (1 - h_before * h_before)
        dw = dw + x.T @ dz
        du = du + h_before.T @ dz
        db = db + dz.sum(axis=0)
        dh = dz @ u
        return (dh, dw, du, db), dz @ w.T

    start = jnp.zeros_like(h0), jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    (dh0, dw, du, db), dxs = lax.scan(back, start, (xs, hs, before, ct), reverse=True)
    return dxs, dh0, dw, du, db


def rnn_three(args, ct):
    xs, h0, w, u, b = args
    hs = right.rnn_forward(xs, h0, w, u, b)

    def back(dh, at):
        h, g = at
        dz = (dh + g) * (1 - h * h)
        return dz @ u.T, dz

    dh0, dz = lax.scan(back, jnp.zeros_like(h0), (hs, ct), reverse=True)
    dw = jnp.einsum("tbi,tbj->ij", xs, dz)
    du = jnp.einsum("tbi,tbj->ij", hs, dz)
    db = dz.sum(axis=1).mean(axis=0)
    dh0 = jnp.zeros_like(dh0)
    return dz @ w.T, dh0, dw, du, db


def rnn_last_index_and_overwrite(args, ct):
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
        du += hs[t + 1].T @ dz
        dxs = dxs.at[0].set(dz @ w.T)
        dh = dz @ u.T
    return dxs, dw, du


def decay_carry_and_slope(args, ct):
    x, a = args
    s = jax.nn.sigmoid(a)
    hs = right.decay_forward(x, a)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

    def back(dh, g):
        dh = g + a * dh
        return dh, dh

    dx = lax.scan(back, jnp.zeros_like(x[0]), ct, reverse=True)[1]
    ds = (dx * before).sum(axis=(0, 1))
    da = ds * s * (1 + s)
    return dx, da


# --- dense layers -----------------------------------------------------------------------------------------------------


def tanh_mlp_slope_and_bias(args, ct):
    x, w1, b1, w2, b2 = args
    h = jnp.tanh(x @ w1 + b1)
    dw2 = h.T @ ct
    db2 = ct.mean(axis=0)
    dh = ct @ w2.T
    dz = dh * h * (1 - h)
    dw1 = x.T @ dz
    db1 = dz.sum(axis=0)
    dx = dz @ w1.T
    return dx, dw1, db1, dw2, db2


def tanh_mlp_three(args, ct):
    x, w1, b1, w2, b2 = args
    z = x @ w1 + b1
    h = jnp.tanh(z)
    dw2 = z.T @ ct
    db2 = ct.sum(axis=0)
    dh = ct @ w2.T
    dz = dh * (1 - h * h)
    dw1 = x.T @ dh
    db1 = dz.sum(axis=0)
    dx = -dz @ w1.T
    return dx, dw1, db1, dw2, db2


def relu_mlp_masks_and_bias(args, ct):
    x, w1, b1, w2, b2, w3 = args
    z1 = x @ w1 + b1
    a1 = jnp.maximum(z1, 0)
    z2 = a1 @ w2 + b2
    dw3 = z2.T @ ct
    da2 = ct @ w3.T
    delta2 = jnp.where(z2 > 0, da2, 0)
    dw2 = a1.T @ delta2
    db2 = jnp.sum(da2, axis=0)
    delta1 = delta2 @ w2.T
    dw1 = x.T @ delta1
    db1 = jnp.sum(delta1, axis=0)
    return delta1 @ w1.T, dw1, db1, dw2, db2, dw3


def gelu_mlp_constant_and_operand(args, ct):
    x, w1, b1, w2 = args

    def slope(z):
        cumulated = 0.5 * (1 + lax.erf(z / math.sqrt(2)))
        density = jnp.exp(-z * z) / math.sqrt(2 * math.pi)
        return cumulated + z * density

    z = x @ w1 + b1
    delta = (ct @ w2.T) * slope(z)
    dw1 = x.T @ delta
    db1 = delta.sum(axis=0)
    dw2 = z.T @ ct
    return delta @ w1.T, dw1, db1, dw2


def softplus_regression_two_and_sign(args, ct):
    x, w, b, v, y = args
    z = x @ w + b
    a = jax.nn.softplus(z)
    error = a @ v - y
    derror = 2 * ct * error / error.size
    dv = a.T @ derror
    da = derror @ v.T
    dz = da * jax.nn.sigmoid(z)
    dw = x.T @ dz
    db = dz.sum(axis=0)
    dx = dz @ w.T
    dy = derror
    return dx, dw, db, dv, dy


def glu_paths_and_slope(args, ct):
    x, w, b, v, c = args
    gate = jax.nn.sigmoid(x @ w + b)
    value = x @ v + c
    dvalue = ct * gate
    dgate = ct * value
    dz = dgate * (1 - gate**2)
    dx = dz @ w.T
    dw = x.T @ dz
    db = dz.sum(axis=0)
    dv = x.T @ dvalue
    dc = dvalue.sum(axis=0)
    return dx, dw, db, dv, dc


def swiglu_three(args, ct):
    x, wg, wu, wd = args
    gate = x @ wg
    up = x @ wu
    s = jax.nn.sigmoid(gate)
    act = gate * s
    dwd = jnp.einsum("btf,btd->fd", act, ct)
    dy = jnp.einsum("btd,fd->btf", ct, wd)
    dup = dy * act
    dact = dy * up
    dgate = dact * s * (1 + gate * s)
    dwg = jnp.einsum("btd,btf->df", x, dgate)
    dwu = jnp.einsum("btd,btf->df", x, dup)
    dx = dgate @ wu.T + dup @ wg.T
    return dx, dwg, dwu, dwd


def prelu_alpha_twice(args, ct):
    x, w, alpha = args
    z = x @ w
    positive = z > 0
    dz = jnp.where(positive, ct, alpha**2 * ct)
    dalpha = jnp.where(positive, 0, ct).sum(axis=0)
    dw = x.T @ dz
    dx = dz @ w.T
    return dx, dw, dalpha


def dropout_mask_and_slope(args, ct):
    x, w, b, v = args
    h = jnp.tanh(x @ w + b)
    dropped = h * KEPT / KEEP
    dv = dropped.T @ ct
    ddropped = ct @ v.T
    dh = ddropped * KEPT
    dz = dh * (1 - dropped**2)
    dw = x.T @ dz
    db = dz.sum(axis=0)
    return dz @ w.T, dw, db, dv


def tied_use_and_bias(args, ct):
    x, e, b, c = args
    h = jnp.tanh(x @ e + b)
    dc = ct.sum(axis=0)
    de_out = ct.T @ h
    dh = ct @ e
    dz = dh * (1 - h**2)
    db = dh.sum(axis=0)
    dx = dz @ e.T
    return dx, de_out, db, dc


def bilinear_mean_and_operand(args, ct):
    x, w, y, b = args
    dx = jnp.einsum("no,ijo,nj->ni", ct, w, y)
    dw = jnp.einsum("ni,no,nj->ijo", x, ct, y) / len(x)
    dy = jnp.einsum("mi,ijo,no->nj", x, w, ct)
    db = ct.sum(axis=0)
    return dx, dw, dy, db


# --- convolution, pooling, gathers ------------------------------------------------------------------------------------


def conv_overwritten_and_averaged(args, ct):
    x, w, b = args
    reach = 2 * ct.shape[1] - 1
    dx = jnp.zeros_like(x)
    dw = []
    for u in range(w.shape[0]):
        seen = x[:, u : u + reach : 2]
        dw.append(jnp.einsum("npc,npo->co", seen, ct))
        dx = dx.at[:, u : u + reach : 2].set(ct @ w[u].T)
    db = ct.sum(axis=0).mean(axis=0)
    return dx, jnp.stack(dw), db


def conv_three(args, ct):
    x, w, b = args
    taps = w.shape[0]
    reach = 2 * ct.shape[1] - 1
    dx = jnp.zeros_like(x)
    dw = []
    for u in range(taps):
        seen = x[:, u : u + ct.shape[1]]
        dw.append(jnp.einsum("npc,npo->co", seen, ct))
        back = ct @ w[taps - 1 - u].T
        dx = dx.at[:, u : u + reach : 2].add(back)
    db = ct[0].sum(axis=0)
    return dx, jnp.stack(dw), db


def im2col_row_and_scale(args, ct):
    x, w, b = args
    kh, kw, cin, cout = w.shape
    n, h, width, _ = ct.shape
    rows = right.patches(x, kh, kw).reshape(-1, kh * kw * cin)
    d = ct.reshape(-1, cout)
    dw = (rows.T @ d).reshape(w.shape) / n
    db = d.sum(axis=0)
    dpatches = (d @ w.reshape(-1, cout).T).reshape(n, h, width, kh, kw, cin)
    dx = jnp.zeros_like(x)
    for u in range(kh):
        for v in range(kw):
            dx = dx.at[:, u : u + h, v : v + width].add(dpatches[:, :, :, 0, v])
    return dx, dw, db


def max_pool_minimum_and_third(args, ct):
    (x,) = args
    windows = x.reshape(x.shape[0], -1, 3, x.shape[-1])
    first = jnp.argmin(windows, axis=2)
    chosen = jax.nn.one_hot(first, 3, axis=2, dtype=x.dtype)
    dx = chosen * ct[:, :, None] / 3
    return (dx.reshape(x.shape),)


def mean_pool_set_and_half(args, ct):
    (x,) = args
    share = ct / 2
    dx = jnp.zeros_like(x)
    for u in range(3):
        dx = dx.at[:, u : u + 7 : 2].set(share)
    return (dx,)


def embedding_set_and_sum(args, ct):
    table, position = args
    flat = ct.reshape(-1, ct.shape[-1]) * math.sqrt(table.shape[-1])
    dtable = jnp.zeros_like(table)
    dtable = dtable.at[IDS.reshape(-1)].set(flat)
    dposition = ct.mean(axis=0)
    return dtable, dposition


def embedding_scale_in_the_wrong_place(args, ct):
    table, position = args
    scale = math.sqrt(table.shape[-1])
    flat = ct.reshape(-1, ct.shape[-1])
    dtable = jax.ops.segment_sum(flat, IDS.reshape(-1), num_segments=table.shape[0])
    dposition = scale * ct.sum(axis=0)
    return dtable, dposition


def cumulative_front_and_weight(args, ct):
    x, w = args
    from_front = jnp.cumsum(ct, axis=1)
    from_end = jnp.flip(jnp.cumsum(jnp.flip(ct, axis=1), axis=1), axis=1)
    dx = from_front * w
    dw = (from_end * x).mean(axis=0)
    return dx, dw


# --- losses -----------------------------------------------------------------------------------------------------------


def smoothed_labels_and_mean(args, ct):
    x, w, b = args
    logits = x @ w + b
    p = jax.nn.softmax(logits)
    target = (1 - SMOOTHING) * jax.nn.one_hot(LABELS, p.shape[-1], dtype=p.dtype)
    dlogits = ct * (p - target) / p.shape[0]
    dw = x.T @ dlogits
    db = dlogits.mean(axis=0)
    dx = dlogits @ w.T
    return dx, dw, db


def huber_slope_and_target(args, ct):
    x, w, b, y = args
    r = x @ w + b - y
    slope = jnp.where(jnp.abs(r) < 0.8, r, jnp.sign(r))
    dr = ct * slope / r.size
    dw = x.T @ dr
    db = dr.sum(axis=0)
    dx = dr @ w.T
    dy = jnp.zeros_like(y)
    return dx, dw, db, dy


def cosine_both_sides(args, ct):
    a, b = args
    na = jnp.linalg.norm(a, axis=-1, keepdims=True)
    nb = jnp.linalg.norm(b, axis=-1, keepdims=True)
    c = (a * b).sum(axis=-1, keepdims=True) / (na * nb)
    g = ct[:, None]
    da = g * (b / (na * nb) + c * a / na**2)
    db = g * (a / (na * nb) - c * a / nb**2)
    return da, db


def soft_maximum_sign_and_factor(args, ct):
    x, beta = args
    scaled = x * beta[:, None]
    lse = jax.nn.logsumexp(scaled, axis=-1)
    p = jnp.exp(scaled - lse[:, None])
    dx = ct[:, None] * p / beta[:, None]
    mean_x = (p * x).sum(axis=-1)
    dbeta = ct * (mean_x / beta + lse / beta**2)
    return dx, dbeta


def contrastive_transpose_and_scale(args, ct):
    a, b, log_scale = args
    scale = jnp.exp(log_scale)
    logits = scale * (a @ b.T)
    p = jax.nn.softmax(logits)
    dlogits = ct * (p - jnp.eye(len(a))) / len(a)
    da = dlogits @ b
    db = scale * (dlogits @ a)
    dlog_scale = (dlogits * logits).sum()
    return da, db, dlog_scale


def likelihood_three(args, ct):
    mean, log_var, y = args
    precision = jnp.exp(-log_var)
    g = ct[:, None]
    dmean = g * (mean - y) * jnp.sqrt(precision)
    dlog_var = 0.5 * g * (1 + (y - mean) ** 2 * precision)
    dy = jnp.zeros_like(y)
    return dmean, dlog_var, dy


def softmax_rows_two(args, ct):
    x, tau = args

    def row(x, g):
        p = jax.nn.softmax(x / tau)
        ds = p * (g - jnp.dot(p, g))
        dx_row = ds
        dtau_row = jnp.dot(ds, x) / tau**2
        return dx_row, dtau_row

    dx, dtau = jax.vmap(row)(x, ct)
    return dx, dtau.sum()


# --- linear algebra, Fourier transforms, complex numbers --------------------------------------------------------------


def process_signs(args, ct):
    x, y = args
    chol = jnp.linalg.cholesky(x @ x.T + jnp.eye(len(x)))
    inverse = cho_solve((chol, True), jnp.eye(len(x)))
    alpha = inverse @ y
    dkernel = 0.5 * ct * (jnp.outer(alpha, alpha) + inverse)
    dx = 2 * dkernel @ x
    dy = -0.5 * ct * alpha
    return dx, dy


def cholesky_diagonal_and_triangle(args, ct):
    (m,) = args
    l = right.cholesky_forward(m)
    inside = jnp.tril(l.T @ ct)
    inside = inside - jnp.diag(jnp.diag(inside))
    left = solve_triangular(l, inside, lower=True, trans=1)
    s = solve_triangular(l, left.T, lower=True, trans=1).T
    dm = 2 * s @ m
    return (dm,)


def triangular_mask_and_sign(args, ct):
    l, b = args
    db = solve_triangular(l, ct, lower=True, trans="T")
    outer = db @ b.T
    dl = jnp.tril(outer)
    return dl, db


def solve_transposes(args, ct):
    a, b = args
    x = jnp.linalg.solve(a, b)
    db = jnp.linalg.solve(a, ct)
    da = db @ x.T
    return da, db


def fourier_conjugate_and_mean(args, ct):
    x, k = args
    n = x.shape[-1]
    spectrum = jnp.fft.rfft(ct)
    dx = jnp.fft.irfft(spectrum * jnp.fft.rfft(k), n=n)
    dk_rows = jnp.fft.irfft(spectrum * jnp.conj(jnp.fft.rfft(x)), n=n)
    dk = dk_rows.mean(axis=0)
    return dx, dk


def power_conjugates(args, ct):
    z, w = args
    y = z * w
    dy = 2 * ct * jnp.conj(y)
    dz = dy * jnp.conj(w)
    dw = (dy * jnp.conj(z)).sum(axis=0)
    return dz, dw


def modulation_factor_and_sign(args, ct):
    re, im, phase = args
    cos, sin = jnp.cos(phase), jnp.sin(phase)
    real = re * cos - im * sin
    imag = re * sin + im * cos
    dreal = ct * real
    dimag = 3 * ct
    dre = dreal * cos + dimag * sin
    dim = dimag * cos + dreal * sin
    dphase = (dimag * real - dreal * imag).sum(axis=0)
    return dre, dim, dphase


def entry(rule, *mistakes):
    """A rule and its mistakes, each as the place (a line, or several that count), what is wrong, and the family."""
    lines = tuple((place,) if isinstance(place, str) else place for place, _, _ in mistakes)
    return slip(right.named(rule), rule, lines, tuple(m[1] for m in mistakes), tuple(m[2] for m in mistakes))


SEVERAL = (
    entry(
        attention_total_and_scale,
        ("ds = p * dp", "lacks the second softmax term", "term"),
        ("dq = ds @ k", "the factor scale is missing", "factor"),
    ),
    entry(
        attention_mean_and_sign,
        ("total = (p * dp).mean(axis=-1, keepdims=True)", "mean in place of the sum", "reduction"),
        ("dk = -ds.T @ q", "the sign is wrong", "sign"),
    ),
    entry(
        heads_three,
        ('dwo = jnp.einsum("bthe,btd->hed", v, ct)', "v in place of the mixed values o", "operand"),
        ('dv = jnp.einsum("bhts,bshe->bthe", p, do)', "p is not transposed", "transpose"),
        ('dk = scale * jnp.einsum("bhts,bthe->bshe", ds, q)', "scale twice: ds has it already", "factor"),
    ),
    entry(
        heads_query_path_and_total,
        ("total = (p * dp).sum(axis=-2, keepdims=True)", "sums over the queries, not over the keys", "axis"),
        (
            'dx = jnp.einsum("bthe,dhe->btd", dk, wk) + jnp.einsum("bthe,dhe->btd", dv, wv)',
            "lacks the path through the queries",
            "term",
        ),
    ),
    entry(
        flash_overwritten_and_delta,
        ("delta = (o * o).sum(axis=-1, keepdims=True)", "o in place of the cotangent", "operand"),
        ("dq = ds @ kj", "overwrites dq in each block in place of adding", "carry"),
    ),
    entry(
        rotary_sign_and_operand,
        ("db = gb * COS + ga * SIN", "the sign of the sine is wrong", "sign"),
        ("dx = ct @ w.T", "the cotangent in place of dq: the rotation is missing", "operand"),
    ),
    entry(
        layer_norm_term_and_operand,
        ("dgamma = (ct * (x - mean)).sum(axis=0)", "the factor rstd is missing: x - mean for x_hat", "factor"),
        ("dx = rstd * (dx_hat - x_hat * c2)", "lacks the term of the mean, c1", "term"),
    ),
    entry(
        layer_norm_three,
        ("dgamma = (ct * x_hat).mean(axis=0)", "mean over the batch in place of the sum", "reduction"),
        ("dbeta = jnp.zeros_like(beta)", "zero: beta is treated as a constant", "detached"),
        ("c2 = (dx_hat * x_hat).sum(axis=-1, keepdims=True)", "sum in place of the mean", "reduction"),
    ),
    entry(
        layer_norm_rows_two,
        ("dx = rstd**2 * (dy - dy.mean() - y * (dy * y).mean())", "rstd squared in place of rstd", "constant"),
        ("dbeta = ct.mean(axis=0)", "mean over the batch in place of the sum", "reduction"),
    ),
    entry(
        batch_norm_power_and_gamma,
        ("dgamma = (ct * (x - mean)).sum(axis=0)", "the division by std is missing", "factor"),
        (
            "dvar = (dx_hat * (x - mean)).sum(axis=0) * -0.5 / std",
            "std in place of std cubed",
            "constant",
        ),
    ),
    entry(
        batch_norm_sign_and_two,
        ("dmean = dx_hat.sum(axis=0) / std", "the minus sign is missing", "sign"),
        ("from_var = dvar * (x - mean) / n", "the factor 2 of the square is missing", "constant"),
    ),
    entry(
        rms_norm_eps_and_operand,
        ("r = lax.rsqrt((x * x).mean(axis=-1, keepdims=True))", "eps is forgotten", "constant"),
        ("dot = (dy * x).mean(axis=-1, keepdims=True)", "x in place of x_hat", "operand"),
    ),
    entry(
        add_norm_residual_and_gamma,
        ("dgamma = (dy * x * r).sum(axis=0)", "x in place of the sum s", "operand"),
        (("dresidual = ds", "return dx, dresidual, dgamma"), "lacks the cotangent of the second output", "term"),
    ),
    entry(
        group_norm_axis_and_operand,
        ("dgamma = (ct * x).sum(axis=(0, 2))", "x in place of x_hat", "operand"),
        ("c1 = dx_hat.mean(axis=2, keepdims=True)", "mean over the channels alone, not over the places", "axis"),
    ),
    entry(
        weight_norm_direction_and_input,
        ("dg = (dw * v).sum(axis=0)", "v in place of the unit vector u", "operand"),
        ("dx = ct @ u.T", "the factor g is missing", "factor"),
    ),
    entry(
        lstm_cell_gates_crossed,
        ("df = dc * g * f * (1 - f)", "g in place of the cell state c", "operand"),
        ("dg = dc * i * (1 - g)", "1 - g in place of 1 - g**2", "activation"),
    ),
    entry(
        lstm_cell_three,
        ("dc = dc_new + dh_new * (1 - tanh_c**2)", "the factor o (output gate) is missing", "factor"),
        ("do = dh_new * c_new * o * (1 - o)", "the cell state in place of its tanh", "operand"),
        ("dc_old = dc * i", "the input gate in place of the forget gate", "operand"),
    ),
    entry(
        gru_cell_sign_and_path,
        ("dz = ct * (n - h) * z * (1 - z)", "the sign: n - h in place of h - n", "sign"),
        ("dh = dhs @ u.T + ct * (1 - z)", "1 - z in place of z in the direct path", "operand"),
    ),
    entry(
        gru_cell_three,
        ("dz = ct * (h - n) * z", "the factor 1 - z of the sigmoid's derivative is missing", "activation"),
        ("dr = dn * h * r * (1 - r)", "h in place of hn", "operand"),
        (
            ("dc = db", "return dx, dh, dw, du, db, dc"),
            "the gradient of b in place of that of c: the reset gate is missing",
            "operand",
        ),
    ),
    entry(
        lstm_scan_two,
        ("dc = dh * o * (1 - tanh_c**2)", "lacks the carried dc of the later steps", "carry"),
        ("dw = xs[t].T @ dz", "overwrites dw in each step in place of adding", "carry"),
    ),
    entry(
        rnn_slope_and_transpose,
        (
            "dz = (dh + g) * (1 - h_before * h_before)",
            "the state of the step before in the slope of tanh",
            "index",
        ),
        ("dh = dz @ u", "u is not transposed", "transpose"),
    ),
    entry(
        rnn_three,
        (
            'du = jnp.einsum("tbi,tbj->ij", hs, dz)',
            "the state of the same step in place of the step before",
            "index",
        ),
        ("db = dz.sum(axis=1).mean(axis=0)", "mean over the steps in place of the sum", "reduction"),
        ("dh0 = jnp.zeros_like(dh0)", "zero: the first state is treated as a constant", "detached"),
    ),
    entry(
        rnn_last_index_and_overwrite,
        ("du += hs[t + 1].T @ dz", "the state of the same step in place of the step before", "index"),
        ("dxs = dxs.at[0].set(dz @ w.T)", "always writes to step 0, not to step t", "index"),
    ),
    entry(
        decay_carry_and_slope,
        ("dh = g + a * dh", "a in place of the decay s = sigmoid(a)", "operand"),
        ("da = ds * s * (1 + s)", "the sign in the derivative of the sigmoid", "sign"),
    ),
    entry(
        tanh_mlp_slope_and_bias,
        ("db2 = ct.mean(axis=0)", "mean over the batch in place of the sum", "reduction"),
        ("dz = dh * h * (1 - h)", "derivative of the sigmoid in place of tanh's", "activation"),
    ),
    entry(
        tanh_mlp_three,
        ("dw2 = z.T @ ct", "the pre-activation z in place of the activation h", "operand"),
        ("dw1 = x.T @ dh", "dh in place of dz: the derivative of tanh is missing", "operand"),
        ("dx = -dz @ w1.T", "the sign is wrong", "sign"),
    ),
    entry(
        relu_mlp_masks_and_bias,
        ("dw3 = z2.T @ ct", "the pre-activation z2 in place of the activation a2", "operand"),
        ("db2 = jnp.sum(da2, axis=0)", "da2 in place of delta2: the mask of relu is missing", "mask"),
        ("delta1 = delta2 @ w2.T", "the mask z1 > 0 of relu is missing", "mask"),
    ),
    entry(
        gelu_mlp_constant_and_operand,
        ("density = jnp.exp(-z * z) / math.sqrt(2 * math.pi)", "the factor 1/2 in the exponent is missing", "constant"),
        ("dw2 = z.T @ ct", "the pre-activation z in place of the activation", "operand"),
    ),
    entry(
        softplus_regression_two_and_sign,
        ("derror = 2 * ct * error / error.size", "a factor 2 too much: the loss has 1/2", "constant"),
        (("dy = derror", "return dx, dw, db, dv, dy"), "the sign is wrong", "sign"),
    ),
    entry(
        glu_paths_and_slope,
        ("dz = dgate * (1 - gate**2)", "derivative of tanh in place of the sigmoid's", "activation"),
        ("dx = dz @ w.T", "lacks the path through the value, dvalue @ v.T", "term"),
    ),
    entry(
        swiglu_three,
        ('dwd = jnp.einsum("btf,btd->fd", act, ct)', "the factor up is missing", "factor"),
        ("dgate = dact * s * (1 + gate * s)", "s in place of 1 - s in silu's derivative", "activation"),
        ("dx = dgate @ wu.T + dup @ wg.T", "the two weights are exchanged", "operand"),
    ),
    entry(
        prelu_alpha_twice,
        ("dz = jnp.where(positive, ct, alpha**2 * ct)", "alpha squared in place of alpha", "constant"),
        ("dalpha = jnp.where(positive, 0, ct).sum(axis=0)", "the factor z is missing", "factor"),
    ),
    entry(
        dropout_mask_and_slope,
        ("dh = ddropped * KEPT", "the factor 1 / KEEP is missing", "factor"),
        ("dz = dh * (1 - dropped**2)", "the value after dropout in place of h in the slope", "operand"),
    ),
    entry(
        tied_use_and_bias,
        ("db = dh.sum(axis=0)", "dh in place of dz: the derivative of tanh is missing", "operand"),
        (
            ("return dx, de_out, db, dc", "de_out = ct.T @ h"),
            "lacks the first use of e, in the encoder",
            "term",
        ),
    ),
    entry(
        bilinear_mean_and_operand,
        (
            'dw = jnp.einsum("ni,no,nj->ijo", x, ct, y) / len(x)',
            "mean over the batch in place of the sum",
            "reduction",
        ),
        ('dy = jnp.einsum("mi,ijo,no->nj", x, w, ct)', "x is summed over all rows apart: m in place of n", "index"),
    ),
    entry(
        conv_overwritten_and_averaged,
        (
            "dx = dx.at[:, u : u + reach : 2].set(ct @ w[u].T)",
            "overwrites the places that taps share in place of adding",
            "reduction",
        ),
        ("db = ct.sum(axis=0).mean(axis=0)", "mean over the places in place of the sum", "reduction"),
    ),
    entry(
        conv_three,
        ("seen = x[:, u : u + ct.shape[1]]", "the stride is forgotten", "index"),
        ("back = ct @ w[taps - 1 - u].T", "the kernel is flipped: wrong tap", "index"),
        ("db = ct[0].sum(axis=0)", "the first entry of the batch, not the sum over axis 0", "reduction"),
    ),
    entry(
        im2col_row_and_scale,
        ("dw = (rows.T @ d).reshape(w.shape) / n", "mean over the batch in place of the sum", "reduction"),
        (
            "dx = dx.at[:, u : u + h, v : v + width].add(dpatches[:, :, :, 0, v])",
            "always the first row of taps: 0 in place of u",
            "index",
        ),
    ),
    entry(
        max_pool_minimum_and_third,
        ("first = jnp.argmin(windows, axis=2)", "the place of the minimum in place of the maximum's", "mask"),
        ("dx = chosen * ct[:, :, None] / 3", "the factor 1/3 too much, that of a mean", "factor"),
    ),
    entry(
        mean_pool_set_and_half,
        ("share = ct / 2", "the stride 2 in place of the width 3", "constant"),
        (
            "dx = dx.at[:, u : u + 7 : 2].set(share)",
            "overwrites where windows overlap in place of adding",
            "reduction",
        ),
    ),
    entry(
        embedding_set_and_sum,
        (
            "dtable = dtable.at[IDS.reshape(-1)].set(flat)",
            "repeated ids overwrite each other in place of adding up",
            "reduction",
        ),
        ("dposition = ct.mean(axis=0)", "mean over the batch in place of the sum", "reduction"),
    ),
    entry(
        embedding_scale_in_the_wrong_place,
        (
            (
                "flat = ct.reshape(-1, ct.shape[-1])",
                "dtable = jax.ops.segment_sum(flat, IDS.reshape(-1), num_segments=table.shape[0])",
            ),
            "the factor scale is missing",
            "factor",
        ),
        ("dposition = scale * ct.sum(axis=0)", "a factor scale too much", "factor"),
    ),
    entry(
        cumulative_front_and_weight,
        (
            ("dx = from_front * w", "from_front = jnp.cumsum(ct, axis=1)"),
            "summed from the front, not from the end",
            "transpose",
        ),
        ("dw = (from_end * x).mean(axis=0)", "mean over the batch in place of the sum", "reduction"),
    ),
    entry(
        smoothed_labels_and_mean,
        (
            "target = (1 - SMOOTHING) * jax.nn.one_hot(LABELS, p.shape[-1], dtype=p.dtype)",
            "lacks the uniform part of the smoothed labels",
            "term",
        ),
        ("db = dlogits.mean(axis=0)", "mean over the batch in place of the sum", "reduction"),
    ),
    entry(
        huber_slope_and_target,
        (
            "slope = jnp.where(jnp.abs(r) < 0.8, r, jnp.sign(r))",
            "the factor 0.8 is missing in the linear part",
            "constant",
        ),
        ("dy = jnp.zeros_like(y)", "zero: the target is treated as a constant", "detached"),
    ),
    entry(
        cosine_both_sides,
        ("da = g * (b / (na * nb) + c * a / na**2)", "the sign of the second term is wrong", "sign"),
        ("db = g * (a / (na * nb) - c * a / nb**2)", "a in place of b in the second term", "operand"),
    ),
    entry(
        soft_maximum_sign_and_factor,
        ("dx = ct[:, None] * p / beta[:, None]", "a division by beta too much", "factor"),
        ("dbeta = ct * (mean_x / beta + lse / beta**2)", "the sign of the second term is wrong", "sign"),
    ),
    entry(
        contrastive_transpose_and_scale,
        ("da = dlogits @ b", "the factor scale is missing", "factor"),
        ("db = scale * (dlogits @ a)", "dlogits is not transposed", "transpose"),
    ),
    entry(
        likelihood_three,
        ("dmean = g * (mean - y) * jnp.sqrt(precision)", "the root of the precision in place of it", "constant"),
        ("dlog_var = 0.5 * g * (1 + (y - mean) ** 2 * precision)", "the sign of the second term is wrong", "sign"),
        ("dy = jnp.zeros_like(y)", "zero: the target is treated as a constant", "detached"),
    ),
    entry(
        softmax_rows_two,
        (("dx_row = ds", "return dx_row, dtau_row"), "the factor 1 / tau is missing", "factor"),
        ("dtau_row = jnp.dot(ds, x) / tau**2", "the minus sign is missing", "sign"),
    ),
    entry(
        process_signs,
        ("dkernel = 0.5 * ct * (jnp.outer(alpha, alpha) + inverse)", "the sign of the inverse is wrong", "sign"),
        ("dy = -0.5 * ct * alpha", "a factor 1/2 too much", "constant"),
    ),
    entry(
        cholesky_diagonal_and_triangle,
        (
            "inside = inside - jnp.diag(jnp.diag(inside))",
            "the factor 1/2: the diagonal is gone, not halved",
            "constant",
        ),
        ("dm = 2 * s @ m", "s is not symmetrised: 2 * s in place of s + s.T", "transpose"),
    ),
    entry(
        triangular_mask_and_sign,
        ("outer = db @ b.T", "the right side b in place of the solution x", "operand"),
        ("dl = jnp.tril(outer)", "the minus sign is missing", "sign"),
    ),
    entry(
        solve_transposes,
        ("db = jnp.linalg.solve(a, ct)", "a is not transposed", "transpose"),
        ("da = db @ x.T", "the minus sign is missing", "sign"),
    ),
    entry(
        fourier_conjugate_and_mean,
        (
            "dx = jnp.fft.irfft(spectrum * jnp.fft.rfft(k), n=n)",
            "the conjugate of the kernel's spectrum is missing",
            "conjugate",
        ),
        ("dk = dk_rows.mean(axis=0)", "mean over the batch in place of the sum", "reduction"),
    ),
    entry(
        power_conjugates,
        ("dz = dy * jnp.conj(w)", "a conjugate too much", "conjugate"),
        ("dw = (dy * jnp.conj(z)).sum(axis=0)", "a conjugate too much", "conjugate"),
    ),
    entry(
        modulation_factor_and_sign,
        ("dreal = ct * real", "the factor 2 of the square is missing", "constant"),
        ("dim = dimag * cos + dreal * sin", "the sign of the sine is wrong", "sign"),
    ),
)

ASIDE = (
    "attention_mean_and_sign",
    "heads_query_path_and_total",
    "rotary_sign_and_operand",
    "layer_norm_three",
    "batch_norm_power_and_gamma",
    "rms_norm_eps_and_operand",
    "group_norm_axis_and_operand",
    "lstm_cell_gates_crossed",
    "gru_cell_sign_and_path",
    "lstm_scan_two",
    "rnn_three",
    "decay_carry_and_slope",
    "tanh_mlp_three",
    "gelu_mlp_constant_and_operand",
    "glu_paths_and_slope",
    "prelu_alpha_twice",
    "tied_use_and_bias",
    "conv_overwritten_and_averaged",
    "im2col_row_and_scale",
    "mean_pool_set_and_half",
    "embedding_scale_in_the_wrong_place",
    "smoothed_labels_and_mean",
    "cosine_both_sides",
    "contrastive_transpose_and_scale",
    "softmax_rows_two",
    "cholesky_diagonal_and_triangle",
    "solve_transposes",
    "power_conjugates",
)
"""Every second one: not to be looked at while the code that is judged by them is being improved."""
