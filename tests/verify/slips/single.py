"""Rules with exactly one mistake. What is wrong with each stands in the table `SINGLE` at the end."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from . import right, slip
from .right import COS, IDS, KEEP, KEPT, LABELS, SIN, SMOOTHING

# --- attention --------------------------------------------------------------------------------------------------------


def attention_without_total(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(scale * (q @ k.T))
    dv = p.T @ ct
    dp = ct @ v.T
    ds = p * dp
    dq = scale * (ds @ k)
    dk = scale * (ds.T @ q)
    return dq, dk, dv


def attention_total_over_queries(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(scale * (q @ k.T))
    dv = p.T @ ct
    dp = ct @ v.T
    total = (p * dp).sum(axis=0, keepdims=True)
    ds = p * (dp - total)
    dq = scale * (ds @ k)
    dk = scale * (ds.T @ q)
    return dq, dk, dv


def attention_keys_unscaled(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(scale * (q @ k.T))
    dv = p.T @ ct
    dp = ct @ v.T
    total = jnp.sum(p * dp, axis=-1, keepdims=True)
    ds = p * (dp - total)
    dq = scale * (ds @ k)
    dk = ds.T @ q
    return dq, dk, dv


def attention_total_of_squares(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.softmax(scale * (q @ k.T))
    dp = ct @ v.T
    total = (p * p).sum(axis=-1, keepdims=True)
    ds = scale * p * (dp - total)
    return ds @ k, ds.T @ q, p.T @ ct


def heads_values_by_p_not_transposed(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v, p, o = right.heads_parts(x, wq, wk, wv)
    scale = 1 / math.sqrt(q.shape[-1])
    dwo = jnp.einsum("bthe,btd->hed", o, ct)
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bshe->bthe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    ds = scale * p * (dp - jnp.einsum("bhts,bhts->bht", p, dp)[..., None])
    dq = jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = jnp.einsum("bhts,bthe->bshe", ds, q)
    dx = sum(jnp.einsum("bthe,dhe->btd", d, w) for d, w in ((dq, wq), (dk, wk), (dv, wv)))
    dwq, dwk, dwv = (jnp.einsum("btd,bthe->dhe", x, d) for d in (dq, dk, dv))
    return dx, dwq, dwk, dwv, dwo


def heads_keys_from_keys(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v, p, o = right.heads_parts(x, wq, wk, wv)
    scale = 1 / math.sqrt(q.shape[-1])
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bthe->bshe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    ds = scale * p * (dp - (p * dp).sum(-1, keepdims=True))
    dq = jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = jnp.einsum("bhts,bthe->bshe", ds, k)
    dx = sum(jnp.einsum("bthe,dhe->btd", d, w) for d, w in ((dq, wq), (dk, wk), (dv, wv)))
    dwq, dwk, dwv = (jnp.einsum("btd,bthe->dhe", x, d) for d in (dq, dk, dv))
    return dx, dwq, dwk, dwv, jnp.einsum("bthe,btd->hed", o, ct)


def heads_without_causal_mask(args, ct):
    x, wq, wk, wv, wo = args
    scale = 1 / math.sqrt(wq.shape[-1])
    q = jnp.einsum("btd,dhe->bthe", x, wq)
    k = jnp.einsum("btd,dhe->bthe", x, wk)
    v = jnp.einsum("btd,dhe->bthe", x, wv)
    s = scale * jnp.einsum("bthe,bshe->bhts", q, k)
    p = jax.nn.softmax(s)
    o = jnp.einsum("bhts,bshe->bthe", p, v)
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bthe->bshe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    ds = scale * p * (dp - (p * dp).sum(-1, keepdims=True))
    dq = jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = jnp.einsum("bhts,bthe->bshe", ds, q)
    dx = sum(jnp.einsum("bthe,dhe->btd", d, w) for d, w in ((dq, wq), (dk, wk), (dv, wv)))
    dwq, dwk, dwv = (jnp.einsum("btd,bthe->dhe", x, d) for d in (dq, dk, dv))
    return dx, dwq, dwk, dwv, jnp.einsum("bthe,btd->hed", o, ct)


def heads_input_without_values(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v, p, o = right.heads_parts(x, wq, wk, wv)
    scale = 1 / math.sqrt(q.shape[-1])
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bthe->bshe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    ds = scale * p * (dp - jnp.einsum("bhts,bhts->bht", p, dp)[..., None])
    dq = jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = jnp.einsum("bhts,bthe->bshe", ds, q)
    dwq = jnp.einsum("btd,bthe->dhe", x, dq)
    dwk = jnp.einsum("btd,bthe->dhe", x, dk)
    dwv = jnp.einsum("btd,bthe->dhe", x, dv)
    dx = jnp.einsum("bthe,dhe->btd", dq, wq) + jnp.einsum("bthe,dhe->btd", dk, wk)
    return dx, dwq, dwk, dwv, jnp.einsum("bthe,btd->hed", o, ct)


def heads_queries_scaled_twice(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v, p, o = right.heads_parts(x, wq, wk, wv)
    scale = 1 / math.sqrt(q.shape[-1])
    do = jnp.einsum("btd,hed->bthe", ct, wo)
    dv = jnp.einsum("bhts,bthe->bshe", p, do)
    dp = jnp.einsum("bthe,bshe->bhts", do, v)
    ds = scale * p * (dp - (p * dp).sum(-1, keepdims=True))
    dq = scale * jnp.einsum("bhts,bshe->bthe", ds, k)
    dk = jnp.einsum("bhts,bthe->bshe", ds, q)
    dx = sum(jnp.einsum("bthe,dhe->btd", d, w) for d, w in ((dq, wq), (dk, wk), (dv, wv)))
    dwq, dwk, dwv = (jnp.einsum("btd,bthe->dhe", x, d) for d in (dq, dk, dv))
    return dx, dwq, dwk, dwv, jnp.einsum("bthe,btd->hed", o, ct)


def flash_delta_is_a_mean(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    o, lse = right.flash_saved(q, k, v)
    delta = (ct * o).mean(axis=-1, keepdims=True)
    dq = jnp.zeros_like(q)
    dk, dv = [], []
    for start in range(0, k.shape[0], 4):
        kj, vj = k[start : start + 4], v[start : start + 4]
        p = jnp.exp(scale * (q @ kj.T) - lse)
        ds = p * (ct @ vj.T - delta) * scale
        dq = dq + ds @ kj
        dk.append(ds.T @ q)
        dv.append(p.T @ ct)
    return dq, jnp.concatenate(dk), jnp.concatenate(dv)


def flash_queries_of_the_last_block(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    o, lse = right.flash_saved(q, k, v)
    delta = (ct * o).sum(axis=-1, keepdims=True)
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


def flash_first_block_of_values(args, ct):
    q, k, v = args
    scale = 1 / math.sqrt(q.shape[-1])
    o, lse = right.flash_saved(q, k, v)
    delta = (ct * o).sum(axis=-1, keepdims=True)

    def block(dq, kj):
        p = jnp.exp(scale * (q @ kj.T) - lse)
        dp = ct @ v[: kj.shape[0]].T
        ds = scale * p * (dp - delta)
        return dq + ds @ kj, (ds.T @ q, p.T @ ct)

    dq, (dk, dv) = lax.scan(block, jnp.zeros_like(q), k.reshape(2, 4, -1))
    return dq, dk.reshape(k.shape), dv.reshape(v.shape)


def rotary_turned_forwards(args, ct):
    x, w = args
    dq = right.rotate(ct, COS, SIN)
    dw = x.T @ dq
    dx = dq @ w.T
    return dx, dw


# --- normalisation ----------------------------------------------------------------------------------------------------


def layer_norm_without_variance(args, ct):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    rstd = lax.rsqrt(var + 0.1)
    x_hat = (x - mean) * rstd
    dgamma = (ct * x_hat).sum(axis=0)
    dbeta = ct.sum(axis=0)
    dx_hat = ct * gamma
    c1 = dx_hat.mean(axis=-1, keepdims=True)
    dx = rstd * (dx_hat - c1)
    return dx, dgamma, dbeta


def layer_norm_mean_over_rows(args, ct):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    rstd = lax.rsqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 0.1)
    x_hat = (x - mean) * rstd
    dx_hat = ct * gamma
    c1 = dx_hat.mean(axis=0, keepdims=True)
    c2 = (dx_hat * x_hat).mean(axis=-1, keepdims=True)
    dx = rstd * (dx_hat - c1 - x_hat * c2)
    return dx, (ct * x_hat).sum(axis=0), ct.sum(axis=0)


def layer_norm_gamma_from_input(args, ct):
    x, gamma, beta = args
    mean = x.mean(axis=-1, keepdims=True)
    rstd = lax.rsqrt(x.var(axis=-1, keepdims=True) + 0.1)
    x_hat = (x - mean) * rstd
    dgamma = (ct * x).sum(axis=0)
    dbeta = ct.sum(axis=0)
    dx_hat = ct * gamma
    c1 = dx_hat.mean(axis=-1, keepdims=True)
    c2 = (dx_hat * x_hat).mean(axis=-1, keepdims=True)
    dx = rstd * (dx_hat - c1 - x_hat * c2)
    return dx, dgamma, dbeta


def layer_norm_without_eps(args, ct):
    x, gamma, beta = args
    n = x.shape[-1]
    centred = x - x.mean(axis=-1, keepdims=True)
    var = (centred * centred).sum(axis=-1, keepdims=True) / n
    rstd = lax.rsqrt(var)
    x_hat = centred * rstd
    g = ct * gamma
    dx = n * g - g.sum(axis=-1, keepdims=True) - x_hat * (g * x_hat).sum(axis=-1, keepdims=True)
    dx = dx * rstd / n
    return dx, (ct * x_hat).sum(axis=0), ct.sum(axis=0)


def layer_norm_row_without_gamma(args, ct):
    x, gamma, beta = args

    def row(x, g):
        centred = x - x.mean()
        rstd = lax.rsqrt((centred**2).mean() + 0.1)
        y = centred * rstd
        dx = rstd * (g - g.mean() - y * (g * y).mean())
        return dx, g * y

    dx, dgamma = jax.vmap(row)(x, ct)
    return dx, dgamma.sum(axis=0), ct.sum(axis=0)


def layer_norm_rows_gamma_is_a_mean(args, ct):
    x, gamma, beta = args
    dx, dgamma_rows, dbeta_rows = jax.vmap(right.layer_norm_row, in_axes=(0, None, 0))(x, gamma, ct)
    dgamma = dgamma_rows.mean(axis=0)
    dbeta = dbeta_rows.sum(axis=0)
    return dx, dgamma, dbeta


def batch_norm_square_for_cube(args, ct):
    x, gamma, beta = args
    n = x.shape[0]
    mean = x.mean(axis=0)
    std = jnp.sqrt(((x - mean) ** 2).mean(axis=0) + 0.1)
    dbeta = ct.sum(axis=0)
    dgamma = (ct * (x - mean) / std).sum(axis=0)
    dx_hat = ct * gamma
    dvar = (dx_hat * (x - mean)).sum(axis=0) * -0.5 / std**2
    dmean = -dx_hat.sum(axis=0) / std
    dx = dx_hat / std + dvar * 2 * (x - mean) / n + dmean / n
    return dx, dgamma, dbeta


def batch_norm_without_mean(args, ct):
    x, gamma, beta = args
    n = x.shape[0]
    mean = x.mean(axis=0)
    std = jnp.sqrt(x.var(axis=0) + 0.1)
    dbeta = ct.sum(axis=0)
    dgamma = (ct * (x - mean) / std).sum(axis=0)
    dx_hat = ct * gamma
    dvar = (dx_hat * (x - mean)).sum(axis=0) * -0.5 / std**3
    dx = dx_hat / std + dvar * 2 * (x - mean) / n
    return dx, dgamma, dbeta


def batch_norm_counts_features(args, ct):
    x, gamma, beta = args
    n = x.shape[1]
    rstd = lax.rsqrt(x.var(axis=0) + 0.1)
    x_hat = (x - x.mean(axis=0)) * rstd
    dbeta = ct.sum(axis=0)
    dgamma = (ct * x_hat).sum(axis=0)
    dx = gamma * rstd * (ct - dbeta / n - x_hat * dgamma / n)
    return dx, dgamma, dbeta


def rms_norm_mean_and_count(args, ct):
    x, gamma = args
    n = x.shape[-1]
    r = lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + 0.1)
    dy = ct * gamma
    dot = (dy * x).mean(axis=-1, keepdims=True)
    dx = r * dy - r**3 * x * dot / n
    dgamma = (ct * x * r).sum(axis=0)
    return dx, dgamma


def rms_norm_cotangent_for_dy(args, ct):
    x, gamma = args
    r = lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + 0.1)
    x_hat = x * r
    dy = ct * gamma
    projection = x_hat * (ct * x_hat).mean(axis=-1, keepdims=True)
    dx = r * (dy - projection)
    dgamma = jnp.einsum("ni,ni->i", ct, x_hat)
    return dx, dgamma


def add_norm_one_branch(args, ct):
    x, residual, gamma = args
    dy, ds_next = ct
    s = x + residual
    r = lax.rsqrt((s * s).mean(axis=-1, keepdims=True) + 0.1)
    s_hat = s * r
    dgamma = (dy * s_hat).sum(axis=0)
    ds_hat = dy * gamma
    ds = r * (ds_hat - s_hat * (ds_hat * s_hat).mean(axis=-1, keepdims=True))
    dx = ds + ds_next
    dresidual = ds
    return dx, dresidual, dgamma


def group_norm_over_places(args, ct):
    x, gamma = args
    shape = (x.shape[0], 2, -1, x.shape[-1])
    groups = x.reshape(shape)
    rstd = lax.rsqrt(groups.var(axis=(2, 3), keepdims=True) + 0.1)
    x_hat = (groups - groups.mean(axis=(2, 3), keepdims=True)) * rstd
    dgamma = (ct * x_hat.reshape(x.shape)).sum(axis=(0, 2))
    dx_hat = (ct * gamma[:, None]).reshape(shape)
    c1 = dx_hat.mean(axis=(2, 3), keepdims=True)
    c2 = (dx_hat * x_hat).mean(axis=3, keepdims=True)
    dx = rstd * (dx_hat - c1 - x_hat * c2)
    return dx.reshape(x.shape), dgamma


def weight_norm_not_projected(args, ct):
    x, v, g = args
    norm = jnp.linalg.norm(v, axis=0)
    u = v / norm
    dw = x.T @ ct
    dg = (dw * u).sum(axis=0)
    dv = g / norm * dw
    dx = ct @ (g * u).T
    return dx, dv, dg


def weight_norm_length_kept(args, ct):
    x, v, g = args
    norm = jnp.sqrt((v * v).sum(axis=0))
    u = v / norm
    dw = x.T @ ct
    dg = (dw * u).sum(axis=0)
    dv = g / norm * (dw - v * dg)
    dx = ct @ (g * u).T
    return dx, dv, dg


def weight_norm_gain_detached(args, ct):
    x, v, g = args
    norm = jnp.sqrt((v * v).sum(axis=0))
    u = v / norm
    dw = x.T @ ct
    along = (dw * u).sum(axis=0)
    dv = g / norm * (dw - u * along)
    dx = ct @ (g * u).T
    dg = jnp.zeros_like(g)
    return dx, dv, dg


# --- recurrent layers -------------------------------------------------------------------------------------------------


def lstm_cell_state_for_candidate(args, ct):
    x, h, c, w, u, b = args
    dh_new, dc_new = ct
    i, f, g, o = right.lstm_gates(x, h, w, u, b)
    tanh_c = jnp.tanh(f * c + i * g)
    dc = dc_new + dh_new * o * (1 - tanh_c**2)
    di = dc * c * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * (1 - g**2)
    do = dh_new * tanh_c * o * (1 - o)
    dz = jnp.concatenate([di, df, dg, do], axis=-1)
    return dz @ w.T, dz @ u.T, dc * f, x.T @ dz, h.T @ dz, dz.sum(axis=0)


def lstm_cell_one_cotangent(args, ct):
    x, h, c, w, u, b = args
    dh_new, dc_new = ct
    i, f, g, o = right.lstm_gates(x, h, w, u, b)
    c_new = f * c + i * g
    tanh_c = jnp.tanh(c_new)
    do = dh_new * tanh_c
    dc = dh_new * o * (1 - tanh_c**2)
    dzi = dc * g * i * (1 - i)
    dzf = dc * c * f * (1 - f)
    dzg = dc * i * (1 - g**2)
    dzo = do * o * (1 - o)
    dz = jnp.concatenate([dzi, dzf, dzg, dzo], axis=-1)
    return dz @ w.T, dz @ u.T, dc * f, x.T @ dz, h.T @ dz, dz.sum(axis=0)


def lstm_cell_sigmoid_slope_for_tanh(args, ct):
    x, h, c, w, u, b = args
    dh_new, dc_new = ct
    i, f, g, o = right.lstm_gates(x, h, w, u, b)
    tanh_c = jnp.tanh(f * c + i * g)
    dc = dc_new + dh_new * o * (1 - tanh_c**2)
    di = dc * g * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * g * (1 - g)
    do = dh_new * tanh_c * o * (1 - o)
    dz = jnp.concatenate([di, df, dg, do], axis=-1)
    dx = dz @ w.T
    dh = dz @ u.T
    return dx, dh, dc * f, x.T @ dz, h.T @ dz, dz.sum(axis=0)


def gru_cell_without_direct_path(args, ct):
    x, h, w, u, b, c = args
    z, r, n, hn = right.gru_gates(x, h, w, u, b, c)
    dn = ct * (1 - z) * (1 - n**2)
    dz = ct * (h - n) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    dxs = jnp.concatenate([dz, dr, dn], axis=-1)
    dhs = jnp.concatenate([dz, dr, dn * r], axis=-1)
    dx = dxs @ w.T
    dh = dhs @ u.T
    return dx, dh, x.T @ dxs, h.T @ dhs, dxs.sum(axis=0), dhs.sum(axis=0)


def gru_cell_update_gate_turned(args, ct):
    x, h, w, u, b, c = args
    z, r, n, hn = right.gru_gates(x, h, w, u, b, c)
    dn = ct * (1 - z) * (1 - n**2)
    dz = ct * (n - h) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    dxs = jnp.concatenate([dz, dr, dn], axis=-1)
    dhs = jnp.concatenate([dz, dr, dn * r], axis=-1)
    dx = dxs @ w.T
    dh = dhs @ u.T + ct * z
    return dx, dh, x.T @ dxs, h.T @ dhs, dxs.sum(axis=0), dhs.sum(axis=0)


def gru_cell_reset_forgotten(args, ct):
    x, h, w, u, b, c = args
    z, r, n, hn = right.gru_gates(x, h, w, u, b, c)
    dn = ct * (1 - z) * (1 - n**2)
    dz = ct * (h - n) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    dxs = jnp.concatenate([dz, dr, dn], axis=-1)
    dhs = jnp.concatenate([dz, dr, dn], axis=-1)
    dx = dxs @ w.T
    dh = dhs @ u.T + ct * z
    return dx, dh, x.T @ dxs, h.T @ dhs, dxs.sum(axis=0), dhs.sum(axis=0)


def lstm_scan_cell_carry_undamped(args, ct):
    xs, w, u, b = args
    hs, cs = right.lstm_states(xs, w, u, b)

    def back(carry, at):
        dh, dc = carry
        x, h, c, cot = at
        i, f, g, o = right.lstm_gates(x, h, w, u, b)
        tanh_c = jnp.tanh(f * c + i * g)
        dh = dh + cot
        dc = dc + dh * o * (1 - tanh_c**2)
        di = dc * g * i * (1 - i)
        df = dc * c * f * (1 - f)
        dg = dc * i * (1 - g**2)
        do = dh * tanh_c * o * (1 - o)
        dz = jnp.concatenate([di, df, dg, do], axis=-1)
        carry = dz @ u.T, dc
        return carry, dz

    start = jnp.zeros_like(hs[0])
    _, dz = lax.scan(back, (start, start), (xs, hs, cs, ct), reverse=True)
    dw = jnp.einsum("tbi,tbj->ij", xs, dz)
    du = jnp.einsum("tbi,tbj->ij", hs, dz)
    return dz @ w.T, dw, du, dz.sum(axis=(0, 1))


def lstm_scan_forget_gate_one_early(args, ct):
    xs, w, u, b = args
    hs, cs = right.lstm_states(xs, w, u, b)
    dh, dc = jnp.zeros_like(hs[0]), jnp.zeros_like(hs[0])
    dzs = []
    for t in reversed(range(xs.shape[0])):
        i, f, g, o = right.lstm_gates(xs[t], hs[t], w, u, b)
        tanh_c = jnp.tanh(f * cs[t] + i * g)
        dh = dh + ct[t]
        dc = dc + dh * o * (1 - tanh_c**2)
        di = dc * g * i * (1 - i)
        df = dc * cs[max(t - 1, 0)] * f * (1 - f)
        dg = dc * i * (1 - g**2)
        do = dh * tanh_c * o * (1 - o)
        dz = jnp.concatenate([di, df, dg, do], axis=-1)
        dzs.append(dz)
        dh = dz @ u.T
        dc = dc * f
    dz = jnp.stack(dzs[::-1])
    dw = jnp.einsum("tbi,tbj->ij", xs, dz)
    du = jnp.einsum("tbi,tbj->ij", hs, dz)
    return dz @ w.T, dw, du, dz.sum(axis=(0, 1))


def rnn_state_of_the_same_step(args, ct):
    xs, h0, w, u, b = args
    hs = right.rnn_forward(xs, h0, w, u, b)

    def back(carry, at):
        dh, dw, du, db = carry
        x, h, g = at
        dz = (dh + g) * (1 - h * h)
        dw = dw + x.T @ dz
        du = du + h.T @ dz
        db = db + dz.sum(axis=0)
        dh = dz @ u.T
        return (dh, dw, du, db), dz @ w.T

    start = jnp.zeros_like(h0), jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    (dh0, dw, du, db), dxs = lax.scan(back, start, (xs, hs, ct), reverse=True)
    return dxs, dh0, dw, du, db


def rnn_recurrent_weight_not_transposed(args, ct):
    xs, h0, w, u, b = args
    hs = right.rnn_forward(xs, h0, w, u, b)
    before = jnp.concatenate([h0[None], hs[:-1]])

    def back(dh, at):
        h, g = at
        dz = (dh + g) * (1 - h * h)
        dh = dz @ u
        return dh, dz

    dh0, dz = lax.scan(back, jnp.zeros_like(h0), (hs, ct), reverse=True)
    dw = jnp.einsum("tbi,tbj->ij", xs, dz)
    du = jnp.einsum("tbi,tbj->ij", before, dz)
    db = dz.sum(axis=(0, 1))
    return dz @ w.T, dh0, dw, du, db


def rnn_carry_dropped(args, ct):
    xs, h0, w, u, b = args
    hs = right.rnn_forward(xs, h0, w, u, b)
    before = jnp.concatenate([h0[None], hs[:-1]])
    dw, du, db = jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b)
    dh = jnp.zeros_like(h0)
    dxs = []
    for t in range(xs.shape[0])[::-1]:
        dz = ct[t] * (1 - hs[t] ** 2)
        dw = dw + xs[t].T @ dz
        du = du + before[t].T @ dz
        db = db + dz.sum(axis=0)
        dh = dz @ u.T
        dxs.insert(0, dz @ w.T)
    return jnp.stack(dxs), dh, dw, du, db


def rnn_first_state_detached(args, ct):
    xs, h0, w, u, b = args
    hs = right.rnn_forward(xs, h0, w, u, b)
    before = jnp.concatenate([h0[None], hs[:-1]])
    dzs = []
    dh = jnp.zeros_like(h0)
    for g, h in zip(ct[::-1], hs[::-1]):
        dz = (dh + g) * (1 - h**2)
        dzs.append(dz)
        dh = dz @ u.T
    dz = jnp.stack(dzs[::-1])
    dw = jnp.einsum("tbi,tbj->ij", xs, dz)
    du = jnp.einsum("tbi,tbj->ij", before, dz)
    dh0 = jnp.zeros_like(h0)
    return dz @ w.T, dh0, dw, du, dz.sum(axis=(0, 1))


def rnn_last_slope_of_the_step_before(args, ct):
    xs, w, u = args
    hs = [jnp.zeros_like(ct)]
    for x in xs:
        hs.append(jnp.tanh(x @ w + hs[-1] @ u))
    dw = jnp.zeros_like(w)
    du = jnp.zeros_like(u)
    dxs = jnp.zeros_like(xs)
    dh = ct
    for t in range(len(xs) - 1, -1, -1):
        dz = dh * (1 - hs[t] ** 2)
        dw += xs[t].T @ dz
        du += hs[t].T @ dz
        dxs = dxs.at[t].set(dz @ w.T)
        dh = dz @ u.T
    return dxs, dw, du


def rnn_last_weight_of_the_first_step(args, ct):
    xs, w, u = args
    hs = [jnp.zeros_like(ct)]
    for x in xs:
        hs.append(jnp.tanh(x @ w + hs[-1] @ u))
    du = jnp.zeros_like(u)
    dxs = []
    dh = ct
    for t in reversed(range(len(xs))):
        dz = dh * (1 - hs[t + 1] ** 2)
        dw = xs[t].T @ dz
        du = du + hs[t].T @ dz
        dxs.append(dz @ w.T)
        dh = dz @ u.T
    return jnp.stack(dxs[::-1]), dw, du


def decay_carry_undamped(args, ct):
    x, a = args
    s = jax.nn.sigmoid(a)
    hs = right.decay_forward(x, a)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

    def back(dh, g):
        dh = g + dh
        return dh, dh

    dx = lax.scan(back, jnp.zeros_like(x[0]), ct, reverse=True)[1]
    ds = (dx * before).sum(axis=(0, 1))
    da = ds * s * (1 - s)
    return dx, da


def decay_state_of_the_same_step(args, ct):
    x, a = args
    s = jax.nn.sigmoid(a)
    hs = right.decay_forward(x, a)
    dh = jnp.zeros_like(x[0])
    dx = jnp.zeros_like(x)
    for t in reversed(range(len(x))):
        dh = ct[t] + s * dh
        dx = dx.at[t].set(dh)
    ds = (dx * hs).sum(axis=(0, 1))
    da = ds * s * (1 - s)
    return dx, da


def decay_without_sigmoid(args, ct):
    x, a = args
    s = jax.nn.sigmoid(a)
    hs = right.decay_forward(x, a)

    def back(carry, at):
        g, before = at
        dh = carry[0] * s + g
        ds = carry[1] + (dh * before).sum(axis=0)
        return (dh, ds), dh

    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
    (_, da), dx = lax.scan(back, (jnp.zeros_like(x[0]), jnp.zeros_like(a)), (ct, before), reverse=True)
    return dx, da


# --- dense layers -----------------------------------------------------------------------------------------------------


def tanh_mlp_bias_before_slope(args, ct):
    x, w1, b1, w2, b2 = args
    h = jnp.tanh(x @ w1 + b1)
    dw2 = h.T @ ct
    db2 = ct.sum(axis=0)
    dh = ct @ w2.T
    dz = dh * (1 - h * h)
    dw1 = x.T @ dz
    db1 = dh.sum(axis=0)
    dx = dz @ w1.T
    return dx, dw1, db1, dw2, db2


def tanh_mlp_bias_over_everything(args, ct):
    x, w1, b1, w2, b2 = args
    h = jnp.tanh(x @ w1 + b1)
    dw2 = h.T @ ct
    db2 = jnp.full_like(b2, ct.sum())
    dz = (ct @ w2.T) * (1 - h**2)
    dw1 = x.T @ dz
    db1 = dz.sum(axis=0)
    dx = dz @ w1.T
    return dx, dw1, db1, dw2, db2


def tanh_mlp_pre_activation_in_slope(args, ct):
    x, w1, b1, w2, b2 = args
    z = x @ w1 + b1
    h = jnp.tanh(z)
    dh = ct @ w2.T
    dz = dh * (1 - z * z)
    return dz @ w1.T, x.T @ dz, dz.sum(0), h.T @ ct, ct.sum(0)


def relu_mlp_first_mask_forgotten(args, ct):
    x, w1, b1, w2, b2, w3 = args
    z1 = x @ w1 + b1
    a1 = jnp.maximum(z1, 0)
    z2 = a1 @ w2 + b2
    a2 = jnp.maximum(z2, 0)
    dw3 = a2.T @ ct
    delta2 = jnp.where(z2 > 0, ct @ w3.T, 0)
    dw2 = a1.T @ delta2
    db2 = jnp.sum(delta2, axis=0)
    delta1 = delta2 @ w2.T
    dw1 = x.T @ delta1
    db1 = jnp.sum(delta1, axis=0)
    return delta1 @ w1.T, dw1, db1, dw2, db2, dw3


def relu_mlp_weight_from_pre_activation(args, ct):
    x, w1, b1, w2, b2, w3 = args
    z1 = x @ w1 + b1
    a1 = jax.nn.relu(z1)
    z2 = a1 @ w2 + b2
    a2 = jax.nn.relu(z2)
    dz2 = (ct @ w3.T) * (z2 > 0)
    dw2 = z1.T @ dz2
    dz1 = (dz2 @ w2.T) * (z1 > 0)
    dw1 = x.T @ dz1
    return dz1 @ w1.T, dw1, dz1.sum(0), dw2, dz2.sum(0), a2.T @ ct


def gelu_mlp_density_without_z(args, ct):
    x, w1, b1, w2 = args

    def slope(z):
        cumulated = 0.5 * (1 + lax.erf(z / math.sqrt(2)))
        density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return cumulated + density

    z = x @ w1 + b1
    a = jax.nn.gelu(z, approximate=False)
    delta = (ct @ w2.T) * slope(z)
    return delta @ w1.T, x.T @ delta, delta.sum(0), a.T @ ct


def gelu_mlp_slope_of_silu(args, ct):
    x, w1, b1, w2 = args
    z = x @ w1 + b1
    a = jax.nn.gelu(z, approximate=False)
    s = jax.nn.sigmoid(z)
    slope = s + z * s * (1 - s)
    da = ct @ w2.T
    dz = da * slope
    dw1 = x.T @ dz
    db1 = dz.sum(axis=0)
    dw2 = a.T @ ct
    return dz @ w1.T, dw1, db1, dw2


def softplus_regression_sigmoid_of_output(args, ct):
    x, w, b, v, y = args
    a = jax.nn.softplus(x @ w + b)
    error = a @ v - y
    derror = ct * error / error.size
    dv = a.T @ derror
    da = derror @ v.T
    dz = da * jax.nn.sigmoid(a)
    dw = x.T @ dz
    db = dz.sum(axis=0)
    dx = dz @ w.T
    return dx, dw, db, dv, -derror


def softplus_regression_counts_rows(args, ct):
    x, w, b, v, y = args
    z = x @ w + b
    a = jax.nn.softplus(z)
    error = a @ v - y
    derror = ct * error / error.shape[0]
    dz = (derror @ v.T) * jax.nn.sigmoid(z)
    return dz @ w.T, x.T @ dz, dz.sum(axis=0), a.T @ derror, -derror


def softplus_regression_target_detached(args, ct):
    x, w, b, v, y = args
    z = x @ w + b
    a = jax.nn.softplus(z)
    error = a @ v - y
    derror = ct * error / error.size
    dv = a.T @ derror
    da = derror @ v.T
    dz = da * jax.nn.sigmoid(z)
    dy = jnp.zeros_like(y)
    return dz @ w.T, x.T @ dz, dz.sum(axis=0), dv, dy


def glu_half_a_slope(args, ct):
    x, w, b, v, c = args
    gate = jax.nn.sigmoid(x @ w + b)
    value = x @ v + c
    dvalue = ct * gate
    dgate = ct * value
    dz = dgate * gate
    dx = dz @ w.T + dvalue @ v.T
    return dx, x.T @ dz, dz.sum(axis=0), x.T @ dvalue, dvalue.sum(axis=0)


def glu_input_by_one_path(args, ct):
    x, w, b, v, c = args
    gate = jax.nn.sigmoid(x @ w + b)
    value = x @ v + c
    dvalue = ct * gate
    dz = ct * value * gate * (1 - gate)
    dw, db = x.T @ dz, dz.sum(axis=0)
    dv, dc = x.T @ dvalue, dvalue.sum(axis=0)
    dx = dvalue @ v.T
    return dx, dw, db, dv, dc


def swiglu_slope_of_sigmoid(args, ct):
    x, wg, wu, wd = args
    gate = x @ wg
    up = x @ wu
    s = jax.nn.sigmoid(gate)
    act = gate * s
    dwd = jnp.einsum("btf,btd->fd", act * up, ct)
    dy = jnp.einsum("btd,fd->btf", ct, wd)
    dup = dy * act
    dact = dy * up
    dgate = dact * s * (1 - s)
    dwg = jnp.einsum("btd,btf->df", x, dgate)
    dwu = jnp.einsum("btd,btf->df", x, dup)
    dx = dgate @ wg.T + dup @ wu.T
    return dx, dwg, dwu, dwd


def swiglu_gate_for_activation(args, ct):
    x, wg, wu, wd = args
    gate, up = x @ wg, x @ wu
    s = jax.nn.sigmoid(gate)
    act = gate * s
    dy = ct @ wd.T
    dup = dy * gate
    dgate = dy * up * (s + act * (1 - s))
    dwg = jnp.einsum("btd,btf->df", x, dgate)
    dwu = jnp.einsum("btd,btf->df", x, dup)
    dwd = jnp.einsum("btf,btd->fd", act * up, ct)
    return dgate @ wg.T + dup @ wu.T, dwg, dwu, dwd


def prelu_alpha_of_the_other_half(args, ct):
    x, w, alpha = args
    z = x @ w
    positive = z > 0
    dz = jnp.where(positive, ct, alpha * ct)
    dalpha = jnp.where(positive, ct * z, 0).sum(axis=0)
    return dz @ w.T, x.T @ dz, dalpha


def prelu_as_relu(args, ct):
    x, w, alpha = args
    z = x @ w
    dz = jnp.where(z > 0, ct, 0)
    dalpha = (ct * z * (z <= 0)).sum(axis=0)
    dw = x.T @ dz
    dx = dz @ w.T
    return dx, dw, dalpha


def dropout_mask_forgotten(args, ct):
    x, w, b, v = args
    h = jnp.tanh(x @ w + b)
    dropped = h * KEPT / KEEP
    dv = dropped.T @ ct
    ddropped = ct @ v.T
    dh = ddropped / KEEP
    dz = dh * (1 - h**2)
    dw = x.T @ dz
    db = dz.sum(axis=0)
    return dz @ w.T, dw, db, dv


def dropout_keep_forgotten(args, ct):
    x, w, b, v = args
    h = jnp.tanh(x @ w + b)
    dv = (h * KEPT / KEEP).T @ ct
    dh = (ct @ v.T) * KEPT
    dz = dh * (1 - h**2)
    dw = x.T @ dz
    db = dz.sum(axis=0)
    return dz @ w.T, dw, db, dv


def dropout_weight_from_undropped(args, ct):
    x, w, b, v = args
    h = jnp.tanh(x @ w + b)
    dv = h.T @ ct
    dh = (ct @ v.T) * KEPT / KEEP
    dz = dh * (1 - h**2)
    return dz @ w.T, x.T @ dz, dz.sum(axis=0), dv


def tied_decoder_use_forgotten(args, ct):
    x, e, b, c = args
    h = jnp.tanh(x @ e + b)
    dc = ct.sum(axis=0)
    dh = ct @ e
    dz = dh * (1 - h**2)
    de = x.T @ dz
    db = dz.sum(axis=0)
    dx = dz @ e.T
    return dx, de, db, dc


def tied_slope_twice(args, ct):
    x, e, b, c = args
    h = jnp.tanh(x @ e + b)
    slope = 1 - h**2
    dz = (ct @ e) * slope
    de = x.T @ dz + ct.T @ h
    db = (dz * slope).sum(axis=0)
    return dz @ e.T, de, db, ct.sum(axis=0)


def bilinear_bias_is_a_mean(args, ct):
    x, w, y, b = args
    return (
        jnp.einsum("no,ijo,nj->ni", ct, w, y),
        jnp.einsum("ni,no,nj->ijo", x, ct, y),
        jnp.einsum("ni,ijo,no->nj", x, w, ct),
        ct.mean(0),
    )


def bilinear_rows_mixed(args, ct):
    x, w, y, b = args
    dx = jnp.einsum("no,ijo,nj->ni", ct, w, y)
    dw = jnp.einsum("ni,no,mj->ijo", x, ct, y)
    dy = jnp.einsum("ni,ijo,no->nj", x, w, ct)
    db = ct.sum(axis=0)
    return dx, dw, dy, db


# --- convolution, pooling, gathers ------------------------------------------------------------------------------------


def conv_overwritten(args, ct):
    x, w, b = args
    reach = 2 * ct.shape[1] - 1
    dx = jnp.zeros_like(x)
    dw = []
    for u in range(w.shape[0]):
        seen = x[:, u : u + reach : 2]
        dw.append(jnp.einsum("npc,npo->co", seen, ct))
        dx = dx.at[:, u : u + reach : 2].set(ct @ w[u].T)
    db = ct.sum(axis=(0, 1))
    return dx, jnp.stack(dw), db


def conv_first_places_for_every_tap(args, ct):
    x, w, b = args
    reach = 2 * ct.shape[1] - 1
    dx = jnp.zeros_like(x)
    dw = jnp.zeros_like(w)
    for u in range(w.shape[0]):
        seen = x[:, :reach:2]
        dw = dw.at[u].set(jnp.einsum("npc,npo->co", seen, ct))
        dx = dx.at[:, u : u + reach : 2].add(ct @ w[u].T)
    return dx, dw, ct.sum(axis=(0, 1))


def conv_kernel_flipped(args, ct):
    x, w, b = args
    taps = w.shape[0]
    reach = 2 * ct.shape[1] - 1
    dx = jnp.zeros_like(x)
    dw = []
    for u in range(taps):
        there = slice(u, u + reach, 2)
        dw.append(jnp.einsum("npc,npo->co", x[:, there], ct))
        back = ct @ w[taps - 1 - u].T
        dx = dx.at[:, there].add(back)
    return dx, jnp.stack(dw), ct.sum(axis=(0, 1))


def im2col_bias_is_a_mean_over_places(args, ct):
    x, w, b = args
    kh, kw, cin, cout = w.shape
    n, h, width, _ = ct.shape
    rows = right.patches(x, kh, kw).reshape(-1, kh * kw * cin)
    d = ct.reshape(-1, cout)
    dw = (rows.T @ d).reshape(w.shape)
    db = ct.mean(axis=(1, 2)).sum(axis=0)
    dpatches = (d @ w.reshape(-1, cout).T).reshape(n, h, width, kh, kw, cin)
    dx = jnp.zeros_like(x)
    for u in range(kh):
        for v in range(kw):
            dx = dx.at[:, u : u + h, v : v + width].add(dpatches[:, :, :, u, v])
    return dx, dw, db


def im2col_one_column_left_out(args, ct):
    x, w, b = args
    kh, kw, cin, cout = w.shape
    n, h, width, _ = ct.shape
    rows = right.patches(x, kh, kw).reshape(-1, kh * kw * cin)
    d = ct.reshape(-1, cout)
    dpatches = (d @ w.reshape(-1, cout).T).reshape(n, h, width, kh, kw, cin)
    dx = jnp.zeros_like(x)
    for u in range(kh):
        for v in range(1, kw):
            dx = dx.at[:, u : u + h, v : v + width].add(dpatches[:, :, :, u, v])
    return dx, (rows.T @ d).reshape(w.shape), d.sum(axis=0)


def max_pool_shared_out(args, ct):
    (x,) = args
    windows = x.reshape(x.shape[0], -1, 3, x.shape[-1])
    chosen = jnp.ones_like(windows) / 3
    dx = chosen * ct[:, :, None]
    return (dx.reshape(x.shape),)


def max_pool_first_of_each_window(args, ct):
    (x,) = args
    windows = x.reshape(x.shape[0], -1, 3, x.shape[-1])
    first = jnp.argmax(windows, axis=2)
    chosen = jax.nn.one_hot(jnp.zeros_like(first), 3, axis=2, dtype=x.dtype)
    dx = chosen * ct[:, :, None]
    return (dx.reshape(x.shape),)


def mean_pool_as_sum(args, ct):
    (x,) = args
    share = ct
    dx = jnp.zeros_like(x)
    for u in range(3):
        dx = dx.at[:, u : u + 7 : 2].add(share)
    return (dx,)


def mean_pool_overwritten(args, ct):
    (x,) = args
    dx = jnp.zeros_like(x)
    for place in range(ct.shape[1]):
        share = ct[:, place : place + 1] / 3
        dx = dx.at[:, 2 * place : 2 * place + 3].set(share)
    return (dx,)


def embedding_overwritten(args, ct):
    table, position = args
    flat = ct.reshape(-1, ct.shape[-1]) * math.sqrt(table.shape[-1])
    dtable = jnp.zeros_like(table)
    dtable = dtable.at[IDS.reshape(-1)].set(flat)
    dposition = ct.sum(axis=0)
    return dtable, dposition


def embedding_unscaled(args, ct):
    table, position = args
    flat = ct.reshape(-1, ct.shape[-1])
    dtable = jax.ops.segment_sum(flat, IDS.reshape(-1), num_segments=table.shape[0])
    dposition = ct.sum(axis=0)
    return dtable, dposition


def embedding_position_of_one_sentence(args, ct):
    table, position = args
    scaled = ct * math.sqrt(table.shape[-1])
    dtable = jnp.zeros_like(table).at[IDS].add(scaled)
    dposition = ct[0]
    return dtable, dposition


def cumulative_not_reversed(args, ct):
    x, w = args
    dprod = jnp.cumsum(ct, axis=1)
    dx = dprod * w
    dw = (dprod * x).sum(axis=0)
    return dx, dw


def cumulative_without_itself(args, ct):
    x, w = args
    whole = ct.sum(axis=1, keepdims=True)
    dprod = whole - jnp.cumsum(ct, axis=1)
    dx = dprod * w
    dw = (dprod * x).sum(axis=0)
    return dx, dw


def cumulative_down_the_rows(args, ct):
    x, w = args
    turned = jnp.flip(ct, axis=1)
    summed = jnp.cumsum(turned, axis=0)
    dprod = jnp.flip(summed, axis=1)
    return dprod * w, (dprod * x).sum(axis=0)


# --- losses -----------------------------------------------------------------------------------------------------------


def smoothed_hard_labels(args, ct):
    x, w, b = args
    logits = x @ w + b
    p = jax.nn.softmax(logits)
    target = jax.nn.one_hot(LABELS, p.shape[-1], dtype=p.dtype)
    dlogits = ct * (p - target) / p.shape[0]
    dw = x.T @ dlogits
    db = dlogits.sum(axis=0)
    dx = dlogits @ w.T
    return dx, dw, db


def smoothed_sum_for_mean(args, ct):
    x, w, b = args
    logits = x @ w + b
    p = jnp.exp(logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
    target = (1 - SMOOTHING) * jax.nn.one_hot(LABELS, 5, dtype=p.dtype) + SMOOTHING / 5
    dlogits = ct * (p - target)
    return dlogits @ w.T, x.T @ dlogits, dlogits.sum(axis=0)


def huber_border_without_sign(args, ct):
    x, w, b, y = args
    r = x @ w + b - y
    slope = jnp.where(jnp.abs(r) < 0.8, r, 0.8)
    dr = ct * slope / r.size
    dw = x.T @ dr
    db = dr.sum(axis=0)
    dx = dr @ w.T
    return dx, dw, db, -dr


def huber_not_bent(args, ct):
    x, w, b, y = args
    r = x @ w + b - y
    dr = ct * r / r.size
    dx = dr @ w.T
    dw = x.T @ dr
    db = dr.sum(axis=0)
    dy = -dr
    return dx, dw, db, dy


def cosine_one_projection_forgotten(args, ct):
    a, b = args
    na = jnp.linalg.norm(a, axis=-1, keepdims=True)
    nb = jnp.linalg.norm(b, axis=-1, keepdims=True)
    c = (a * b).sum(axis=-1, keepdims=True) / (na * nb)
    g = ct[:, None]
    da = g * (b / (na * nb) - c * a / na**2)
    db = g * a / (na * nb)
    return da, db


def cosine_length_for_square(args, ct):
    a, b = args
    na = jnp.linalg.norm(a, axis=-1, keepdims=True)
    nb = jnp.linalg.norm(b, axis=-1, keepdims=True)
    c = (a * b).sum(axis=-1, keepdims=True) / (na * nb)
    g = ct[:, None]
    da = g * (b / (na * nb) - c * a / na)
    db = g * (a / (na * nb) - c * b / nb**2)
    return da, db


def soft_maximum_half_of_beta(args, ct):
    x, beta = args
    p = jax.nn.softmax(x * beta[:, None])
    dx = ct[:, None] * p
    mean_x = (p * x).sum(axis=-1)
    dbeta = ct * mean_x / beta
    return dx, dbeta


def soft_maximum_beta_too_much(args, ct):
    x, beta = args
    scaled = x * beta[:, None]
    lse = jax.nn.logsumexp(scaled, axis=-1)
    p = jnp.exp(scaled - lse[:, None])
    dx = ct[:, None] * p * beta[:, None]
    mean_x = (p * x).sum(axis=-1)
    dbeta = ct * (mean_x / beta - lse / beta**2)
    return dx, dbeta


def contrastive_not_transposed(args, ct):
    a, b, log_scale = args
    scale = jnp.exp(log_scale)
    logits = scale * (a @ b.T)
    dlogits = ct * (jax.nn.softmax(logits) - jnp.eye(len(a))) / len(a)
    da = scale * (dlogits @ b)
    db = scale * (dlogits @ a)
    dlog_scale = (dlogits * logits).sum()
    return da, db, dlog_scale


def contrastive_scale_of_products(args, ct):
    a, b, log_scale = args
    scale = jnp.exp(log_scale)
    products = a @ b.T
    p = jax.nn.softmax(scale * products)
    dlogits = ct * (p - jnp.eye(len(a))) / len(a)
    da = scale * (dlogits @ b)
    db = scale * (dlogits.T @ a)
    dlog_scale = (dlogits * products).sum()
    return da, db, dlog_scale


def contrastive_scale_detached(args, ct):
    a, b, log_scale = args
    scale = jnp.exp(log_scale)
    p = jax.nn.softmax(scale * (a @ b.T))
    dlogits = ct * (p - jnp.eye(len(a))) / len(a)
    da = scale * (dlogits @ b)
    db = scale * (dlogits.T @ a)
    dlog_scale = jnp.zeros_like(log_scale)
    return da, db, dlog_scale


def likelihood_half_forgotten(args, ct):
    mean, log_var, y = args
    precision = jnp.exp(-log_var)
    g = ct[:, None]
    dmean = g * (mean - y) * precision
    dlog_var = g * (1 - (y - mean) ** 2 * precision)
    dy = -dmean
    return dmean, dlog_var, dy


def likelihood_mean_turned(args, ct):
    mean, log_var, y = args
    g = ct[:, None]
    standard = (y - mean) * jnp.exp(-log_var)
    dmean = g * standard
    dlog_var = 0.5 * g * (1 - standard * (y - mean))
    dy = g * standard
    return dmean, dlog_var, dy


def softmax_rows_temperature_once(args, ct):
    x, tau = args

    def row(x, g):
        p = jax.nn.softmax(x / tau)
        ds = p * (g - jnp.dot(p, g))
        dtau = -jnp.dot(ds, x) / tau
        return ds / tau, dtau

    dx, dtau = jax.vmap(row)(x, ct)
    return dx, dtau.sum()


def softmax_rows_unweighted_total(args, ct):
    x, tau = args

    def row(x, g):
        p = jax.nn.softmax(x / tau)
        total = g.mean()
        ds = p * (g - total)
        return ds / tau, -jnp.dot(ds, x) / tau**2

    dx, dtau = jax.vmap(row)(x, ct)
    return dx, dtau.sum()


# --- linear algebra, Fourier transforms, complex numbers --------------------------------------------------------------


def process_one_side_of_the_product(args, ct):
    x, y = args
    chol = jnp.linalg.cholesky(x @ x.T + jnp.eye(len(x)))
    inverse = cho_solve((chol, True), jnp.eye(len(x)))
    alpha = inverse @ y
    dkernel = 0.5 * ct * (jnp.outer(alpha, alpha) - inverse)
    dx = dkernel @ x
    dy = -ct * alpha
    return dx, dy


def process_without_determinant(args, ct):
    x, y = args
    chol = jnp.linalg.cholesky(x @ x.T + jnp.eye(len(x)))
    alpha = cho_solve((chol, True), y)
    dkernel = 0.5 * ct * jnp.outer(alpha, alpha)
    dx = (dkernel + dkernel.T) @ x
    return dx, -ct * alpha


def cholesky_diagonal_not_halved(args, ct):
    (m,) = args
    l = right.cholesky_forward(m)
    inside = jnp.tril(l.T @ ct)
    left = solve_triangular(l, inside, lower=True, trans=1)
    s = solve_triangular(l, left.T, lower=True, trans=1).T
    dm = (s + s.T) @ m
    return (dm,)


def cholesky_one_triangle(args, ct):
    (m,) = args
    l = right.cholesky_forward(m)
    inside = jnp.tril(l.T @ ct)
    inside = inside - 0.5 * jnp.diag(jnp.diag(inside))
    inverse = solve_triangular(l, jnp.eye(len(l)), lower=True)
    s = inverse.T @ inside @ inverse
    dm = 2 * s @ m
    return (dm,)


def triangular_not_transposed(args, ct):
    l, b = args
    x = solve_triangular(l, b, lower=True)
    db = solve_triangular(l, ct, lower=True)
    dl = -jnp.tril(db @ x.T)
    return dl, db


def triangular_whole_square(args, ct):
    l, b = args
    x = solve_triangular(l, b, lower=True)
    db = solve_triangular(l, ct, lower=True, trans="T")
    dl = -db @ x.T
    return dl, db


def solve_matrix_transposed(args, ct):
    a, b = args
    x = jnp.linalg.solve(a, b)
    db = jnp.linalg.solve(a.T, ct)
    da = -x @ db.T
    return da, db


def solve_matrix_turned(args, ct):
    a, b = args
    inverse = jnp.linalg.inv(a)
    x = inverse @ b
    db = inverse.T @ ct
    da = jnp.einsum("ik,jk->ij", db, x)
    return da, db


def fourier_without_conjugate(args, ct):
    x, k = args
    n = x.shape[-1]
    spectrum = jnp.fft.rfft(ct)
    dx = jnp.fft.irfft(spectrum * jnp.fft.rfft(k), n=n)
    dk_rows = jnp.fft.irfft(spectrum * jnp.conj(jnp.fft.rfft(x)), n=n)
    dk = dk_rows.sum(axis=0)
    return dx, dk


def fourier_kernel_is_a_mean(args, ct):
    x, k = args
    n = x.shape[-1]
    spectrum = jnp.fft.rfft(ct)
    response = jnp.conj(jnp.fft.rfft(k))
    dx = jnp.fft.irfft(spectrum * response, n=n)
    cross = spectrum * jnp.conj(jnp.fft.rfft(x))
    dk = jnp.fft.irfft(cross.mean(axis=0), n=n)
    return dx, dk


def power_without_conjugate(args, ct):
    z, w = args
    y = z * w
    dy = 2 * ct * y
    dz = dy * w
    dw = (dy * z).sum(axis=0)
    return dz, dw


def power_without_two(args, ct):
    z, w = args
    y = z * w
    dy = ct * jnp.conj(y)
    dz = dy * w
    dw = jnp.einsum("ni,ni->i", dy, z)
    return dz, dw


def power_conjugate_too_much(args, ct):
    z, w = args
    y = z * w
    dy = 2 * ct * jnp.conj(y)
    dz = dy * jnp.conj(w)
    dw = (dy * z).sum(axis=0)
    return dz, dw


def modulation_turned_forwards(args, ct):
    re, im, phase = args
    turn = jnp.exp(1j * phase)
    rotated = lax.complex(re, im) * turn
    drotated = ct * lax.complex(2 * rotated.real, jnp.full_like(re, 3.0))
    dz = drotated * turn
    dphase = (drotated * jnp.conj(1j * rotated)).real.sum(axis=0)
    return dz.real, dz.imag, dphase


def modulation_phase_turned(args, ct):
    re, im, phase = args
    cos, sin = jnp.cos(phase), jnp.sin(phase)
    real = re * cos - im * sin
    imag = re * sin + im * cos
    dreal = 2 * ct * real
    dimag = 3 * ct
    dre = dreal * cos + dimag * sin
    dim = dimag * cos - dreal * sin
    dphase = (dreal * imag + dimag * real).sum(axis=0)
    return dre, dim, dphase


def entry(rule, line, kind, family, *others):
    """One mistake: its line, what is wrong, its family, and further lines that count as its place."""
    return slip(right.named(rule), rule, (line, *others), kind, family)


SINGLE = (
    entry(attention_without_total, "ds = p * dp", "lacks the second softmax term", "term"),
    entry(
        attention_total_over_queries,
        "total = (p * dp).sum(axis=0, keepdims=True)",
        "sums over axis 0 (queries), not over the keys",
        "axis",
    ),
    entry(attention_keys_unscaled, "dk = ds.T @ q", "the factor scale is missing", "factor"),
    entry(attention_total_of_squares, "total = (p * p).sum(axis=-1, keepdims=True)", "p in place of dp", "operand"),
    entry(
        heads_values_by_p_not_transposed,
        'dv = jnp.einsum("bhts,bshe->bthe", p, do)',
        "p is not transposed: sums over the keys, not over the queries",
        "transpose",
    ),
    entry(heads_keys_from_keys, 'dk = jnp.einsum("bhts,bthe->bshe", ds, k)', "k in place of q", "operand"),
    entry(
        heads_without_causal_mask,
        "p = jax.nn.softmax(s)",
        "the causal mask is forgotten in the recomputed softmax",
        "mask",
        's = scale * jnp.einsum("bthe,bshe->bhts", q, k)',
    ),
    entry(
        heads_input_without_values,
        'dx = jnp.einsum("bthe,dhe->btd", dq, wq) + jnp.einsum("bthe,dhe->btd", dk, wk)',
        "lacks the path through the values",
        "term",
    ),
    entry(
        heads_queries_scaled_twice,
        'dq = scale * jnp.einsum("bhts,bshe->bthe", ds, k)',
        "scale twice: ds has it already",
        "factor",
    ),
    entry(
        flash_delta_is_a_mean, "delta = (ct * o).mean(axis=-1, keepdims=True)", "mean in place of the sum", "reduction"
    ),
    entry(
        flash_queries_of_the_last_block,
        "dq = ds @ kj",
        "overwrites dq in each block in place of adding: only the last block remains",
        "carry",
    ),
    entry(
        flash_first_block_of_values,
        "dp = ct @ v[: kj.shape[0]].T",
        "always the first block of v, not the block at hand",
        "index",
    ),
    entry(rotary_turned_forwards, "dq = right.rotate(ct, COS, SIN)", "the sign of the sine: rotates forwards", "sign"),
    entry(
        layer_norm_without_variance,
        "dx = rstd * (dx_hat - c1)",
        "lacks the term of the variance, x_hat * mean(dx_hat * x_hat)",
        "term",
    ),
    entry(
        layer_norm_mean_over_rows,
        "c1 = dx_hat.mean(axis=0, keepdims=True)",
        "mean over axis 0 (batch), not over the features",
        "axis",
    ),
    entry(layer_norm_gamma_from_input, "dgamma = (ct * x).sum(axis=0)", "x in place of x_hat", "operand"),
    entry(layer_norm_without_eps, "rstd = lax.rsqrt(var)", "eps is forgotten", "constant"),
    entry(
        layer_norm_row_without_gamma,
        "dx = rstd * (g - g.mean() - y * (g * y).mean())",
        "the factor gamma is missing",
        "factor",
    ),
    entry(
        layer_norm_rows_gamma_is_a_mean,
        "dgamma = dgamma_rows.mean(axis=0)",
        "mean over the batch in place of the sum",
        "reduction",
    ),
    entry(
        batch_norm_square_for_cube,
        "dvar = (dx_hat * (x - mean)).sum(axis=0) * -0.5 / std**2",
        "std squared in place of std cubed",
        "constant",
    ),
    entry(
        batch_norm_without_mean,
        "dx = dx_hat / std + dvar * 2 * (x - mean) / n",
        "lacks the term of the mean, dmean / n",
        "term",
    ),
    entry(
        batch_norm_counts_features,
        "n = x.shape[1]",
        "the number of features in place of that of rows",
        "axis",
        "dx = gamma * rstd * (ct - dbeta / n - x_hat * dgamma / n)",
    ),
    entry(
        rms_norm_mean_and_count,
        "dot = (dy * x).mean(axis=-1, keepdims=True)",
        "mean in place of the sum: divided by n twice",
        "reduction",
        "dx = r * dy - r**3 * x * dot / n",
    ),
    entry(
        rms_norm_cotangent_for_dy,
        "projection = x_hat * (ct * x_hat).mean(axis=-1, keepdims=True)",
        "the cotangent in place of dy: gamma is missing in the projection",
        "operand",
    ),
    entry(
        add_norm_one_branch,
        "dresidual = ds",
        "lacks the cotangent of the second output",
        "term",
        "return dx, dresidual, dgamma",
    ),
    entry(
        group_norm_over_places,
        "c2 = (dx_hat * x_hat).mean(axis=3, keepdims=True)",
        "mean over the places alone, not over the channels of the group",
        "axis",
    ),
    entry(weight_norm_not_projected, "dv = g / norm * dw", "lacks the projection, u * dg", "term"),
    entry(weight_norm_length_kept, "dv = g / norm * (dw - v * dg)", "v in place of the unit vector u", "operand"),
    entry(weight_norm_gain_detached, "dg = jnp.zeros_like(g)", "zero: the gain g is treated as a constant", "detached"),
    entry(lstm_cell_state_for_candidate, "di = dc * c * i * (1 - i)", "c in place of g", "operand"),
    entry(
        lstm_cell_one_cotangent, "dc = dh_new * o * (1 - tanh_c**2)", "lacks the cotangent of the cell state", "term"
    ),
    entry(
        lstm_cell_sigmoid_slope_for_tanh,
        "dg = dc * i * g * (1 - g)",
        "derivative of the sigmoid in place of tanh's",
        "activation",
    ),
    entry(gru_cell_without_direct_path, "dh = dhs @ u.T", "lacks the direct path, ct * z", "term"),
    entry(gru_cell_update_gate_turned, "dz = ct * (n - h) * z * (1 - z)", "the sign: n - h in place of h - n", "sign"),
    entry(
        gru_cell_reset_forgotten,
        "dhs = jnp.concatenate([dz, dr, dn], axis=-1)",
        "the factor r (reset gate) is missing",
        "factor",
    ),
    entry(
        lstm_scan_cell_carry_undamped,
        "carry = dz @ u.T, dc",
        "the carried dc is not multiplied by the forget gate",
        "carry",
    ),
    entry(
        lstm_scan_forget_gate_one_early,
        "df = dc * cs[max(t - 1, 0)] * f * (1 - f)",
        "the cell state one step too early",
        "index",
    ),
    entry(
        rnn_state_of_the_same_step,
        "du = du + h.T @ dz",
        "the state of the same step in place of the step before",
        "index",
    ),
    entry(rnn_recurrent_weight_not_transposed, "dh = dz @ u", "u is not transposed", "transpose"),
    entry(
        rnn_carry_dropped,
        "dz = ct[t] * (1 - hs[t] ** 2)",
        "lacks the carried dh of the later steps",
        "carry",
    ),
    entry(
        rnn_first_state_detached,
        "dh0 = jnp.zeros_like(h0)",
        "zero: the first state is treated as a constant",
        "detached",
    ),
    entry(
        rnn_last_slope_of_the_step_before,
        "dz = dh * (1 - hs[t] ** 2)",
        "the state of the step before in the slope: hs[t] for hs[t + 1]",
        "index",
    ),
    entry(
        rnn_last_weight_of_the_first_step,
        "dw = xs[t].T @ dz",
        "overwrites dw in each step in place of adding",
        "carry",
    ),
    entry(decay_carry_undamped, "dh = g + dh", "the carried dh is not multiplied by the decay s", "carry"),
    entry(
        decay_state_of_the_same_step,
        "ds = (dx * hs).sum(axis=(0, 1))",
        "the state of the same step in place of the step before",
        "index",
    ),
    entry(
        decay_without_sigmoid,
        "(_, da), dx = lax.scan(back, (jnp.zeros_like(x[0]), jnp.zeros_like(a)), (ct, before), reverse=True)",
        "the derivative of the sigmoid, s * (1 - s), is missing",
        "activation",
        "ds = carry[1] + (dh * before).sum(axis=0)",
        "return dx, da",
    ),
    entry(
        tanh_mlp_bias_before_slope,
        "db1 = dh.sum(axis=0)",
        "dh in place of dz: the derivative of tanh is missing",
        "operand",
    ),
    entry(
        tanh_mlp_bias_over_everything,
        "db2 = jnp.full_like(b2, ct.sum())",
        "sums over both axes and broadcasts, not over axis 0 alone",
        "axis",
    ),
    entry(
        tanh_mlp_pre_activation_in_slope,
        "dz = dh * (1 - z * z)",
        "the pre-activation z in place of the activation h",
        "operand",
    ),
    entry(relu_mlp_first_mask_forgotten, "delta1 = delta2 @ w2.T", "the mask z1 > 0 of relu is missing", "mask"),
    entry(
        relu_mlp_weight_from_pre_activation,
        "dw2 = z1.T @ dz2",
        "the pre-activation z1 in place of the activation a1",
        "operand",
    ),
    entry(gelu_mlp_density_without_z, "return cumulated + density", "the factor z of the density is missing", "factor"),
    entry(
        gelu_mlp_slope_of_silu,
        "slope = s + z * s * (1 - s)",
        "derivative of silu in place of gelu's",
        "activation",
        "s = jax.nn.sigmoid(z)",
    ),
    entry(
        softplus_regression_sigmoid_of_output,
        "dz = da * jax.nn.sigmoid(a)",
        "the activation a in place of the pre-activation z",
        "operand",
    ),
    entry(
        softplus_regression_counts_rows,
        "derror = ct * error / error.shape[0]",
        "divides by the number of rows, not of all entries",
        "constant",
    ),
    entry(
        softplus_regression_target_detached,
        "dy = jnp.zeros_like(y)",
        "the target's gradient is zero: it is treated as a constant",
        "detached",
    ),
    entry(
        glu_half_a_slope, "dz = dgate * gate", "the factor 1 - gate of the sigmoid's derivative is missing", "factor"
    ),
    entry(glu_input_by_one_path, "dx = dvalue @ v.T", "lacks the path through the gate, dz @ w.T", "term"),
    entry(
        swiglu_slope_of_sigmoid,
        "dgate = dact * s * (1 - s)",
        "derivative of the sigmoid in place of silu's",
        "activation",
    ),
    entry(swiglu_gate_for_activation, "dup = dy * gate", "the pre-activation gate in place of act", "operand"),
    entry(
        prelu_alpha_of_the_other_half,
        "dalpha = jnp.where(positive, ct * z, 0).sum(axis=0)",
        "the mask is the wrong way round",
        "mask",
    ),
    entry(
        prelu_as_relu, "dz = jnp.where(z > 0, ct, 0)", "the slope alpha of the negative half is missing", "activation"
    ),
    entry(dropout_mask_forgotten, "dh = ddropped / KEEP", "the dropout mask is forgotten", "mask"),
    entry(dropout_keep_forgotten, "dh = (ct @ v.T) * KEPT", "the factor 1 / KEEP is missing", "factor"),
    entry(dropout_weight_from_undropped, "dv = h.T @ ct", "h before dropout in place of after it", "operand"),
    entry(
        tied_decoder_use_forgotten,
        "de = x.T @ dz",
        "lacks the second use of e, in the decoder",
        "term",
    ),
    entry(tied_slope_twice, "db = (dz * slope).sum(axis=0)", "the slope of tanh twice: dz has it already", "factor"),
    entry(bilinear_bias_is_a_mean, "ct.mean(0),", "mean over the batch in place of the sum", "reduction"),
    entry(
        bilinear_rows_mixed,
        'dw = jnp.einsum("ni,no,mj->ijo", x, ct, y)',
        "y is summed over all rows apart: index m in place of n",
        "index",
    ),
    entry(
        conv_overwritten,
        "dx = dx.at[:, u : u + reach : 2].set(ct @ w[u].T)",
        "overwrites the places that taps share in place of adding",
        "reduction",
    ),
    entry(
        conv_first_places_for_every_tap,
        "seen = x[:, :reach:2]",
        "the places are not shifted by the tap u",
        "index",
    ),
    entry(conv_kernel_flipped, "back = ct @ w[taps - 1 - u].T", "the kernel is flipped: wrong tap", "index"),
    entry(
        im2col_bias_is_a_mean_over_places,
        "db = ct.mean(axis=(1, 2)).sum(axis=0)",
        "mean over the places in place of the sum",
        "reduction",
    ),
    entry(
        im2col_one_column_left_out,
        "for v in range(1, kw):",
        "the loop starts at 1: the first column of taps is left out",
        "index",
        "dx = dx.at[:, u : u + h, v : v + width].add(dpatches[:, :, :, u, v])",
    ),
    entry(
        max_pool_shared_out,
        "chosen = jnp.ones_like(windows) / 3",
        "shared out over the window: the mask of the maximum is missing",
        "mask",
    ),
    entry(
        max_pool_first_of_each_window,
        "chosen = jax.nn.one_hot(jnp.zeros_like(first), 3, axis=2, dtype=x.dtype)",
        "always the first place of the window, not that of the maximum",
        "index",
    ),
    entry(
        mean_pool_as_sum,
        "share = ct",
        "the factor 1/3 is missing",
        "factor",
        "dx = dx.at[:, u : u + 7 : 2].add(share)",
    ),
    entry(
        mean_pool_overwritten,
        "dx = dx.at[:, 2 * place : 2 * place + 3].set(share)",
        "overwrites where windows overlap in place of adding",
        "reduction",
    ),
    entry(
        embedding_overwritten,
        "dtable = dtable.at[IDS.reshape(-1)].set(flat)",
        "repeated ids overwrite each other in place of adding up",
        "reduction",
    ),
    entry(
        embedding_unscaled,
        "flat = ct.reshape(-1, ct.shape[-1])",
        "the factor sqrt(d) is missing",
        "factor",
        "dtable = jax.ops.segment_sum(flat, IDS.reshape(-1), num_segments=table.shape[0])",
    ),
    entry(
        embedding_position_of_one_sentence,
        "dposition = ct[0]",
        "the first entry of the batch, not the sum over axis 0",
        "reduction",
    ),
    entry(
        cumulative_not_reversed,
        "dprod = jnp.cumsum(ct, axis=1)",
        "summed from the front, not from the end: the sum is not transposed",
        "transpose",
    ),
    entry(
        cumulative_without_itself,
        "dprod = whole - jnp.cumsum(ct, axis=1)",
        "the entry itself is left out: shifted by one",
        "index",
    ),
    entry(
        cumulative_down_the_rows,
        "summed = jnp.cumsum(turned, axis=0)",
        "cumulative sum over axis 0, not 1",
        "axis",
    ),
    entry(
        smoothed_hard_labels,
        "target = jax.nn.one_hot(LABELS, p.shape[-1], dtype=p.dtype)",
        "label smoothing is forgotten",
        "constant",
    ),
    entry(
        smoothed_sum_for_mean,
        "dlogits = ct * (p - target)",
        "the 1/N of the mean over the batch is missing",
        "factor",
    ),
    entry(
        huber_border_without_sign,
        "slope = jnp.where(jnp.abs(r) < 0.8, r, 0.8)",
        "the sign of r is missing in the linear part",
        "sign",
    ),
    entry(
        huber_not_bent,
        "dr = ct * r / r.size",
        "the linear part is forgotten: the slope is not clipped",
        "mask",
    ),
    entry(
        cosine_one_projection_forgotten,
        "db = g * a / (na * nb)",
        "lacks the second term, c * b / nb**2",
        "term",
    ),
    entry(
        cosine_length_for_square,
        "da = g * (b / (na * nb) - c * a / na)",
        "na in place of its square",
        "constant",
    ),
    entry(
        soft_maximum_half_of_beta,
        "dbeta = ct * mean_x / beta",
        "lacks the term of the divisor, lse / beta**2",
        "term",
    ),
    entry(
        soft_maximum_beta_too_much,
        "dx = ct[:, None] * p * beta[:, None]",
        "a factor beta too much",
        "factor",
    ),
    entry(contrastive_not_transposed, "db = scale * (dlogits @ a)", "dlogits is not transposed", "transpose"),
    entry(
        contrastive_scale_of_products,
        "dlog_scale = (dlogits * products).sum()",
        "the products before scaling in place of the logits: the factor scale is missing",
        "operand",
    ),
    entry(
        contrastive_scale_detached,
        "dlog_scale = jnp.zeros_like(log_scale)",
        "zero: the scale is treated as a constant",
        "detached",
    ),
    entry(
        likelihood_half_forgotten,
        "dlog_var = g * (1 - (y - mean) ** 2 * precision)",
        "the factor 1/2 is missing",
        "constant",
    ),
    entry(likelihood_mean_turned, "dmean = g * standard", "the sign is wrong", "sign"),
    entry(
        softmax_rows_temperature_once,
        "dtau = -jnp.dot(ds, x) / tau",
        "tau in place of its square",
        "constant",
    ),
    entry(
        softmax_rows_unweighted_total,
        "total = g.mean()",
        "plain mean in place of the sum weighted by p",
        "reduction",
    ),
    entry(
        process_one_side_of_the_product,
        "dx = dkernel @ x",
        "the factor 2 is missing: x stands twice in the kernel",
        "constant",
    ),
    entry(
        process_without_determinant,
        "dkernel = 0.5 * ct * jnp.outer(alpha, alpha)",
        "lacks the term of the log determinant, the inverse",
        "term",
    ),
    entry(
        cholesky_diagonal_not_halved,
        "inside = jnp.tril(l.T @ ct)",
        "the diagonal is not halved",
        "constant",
        "left = solve_triangular(l, inside, lower=True, trans=1)",
    ),
    entry(
        cholesky_one_triangle,
        "dm = 2 * s @ m",
        "s is not symmetrised: 2 * s in place of s + s.T",
        "transpose",
    ),
    entry(
        triangular_not_transposed,
        "db = solve_triangular(l, ct, lower=True)",
        "solves with l, not with its transpose",
        "transpose",
    ),
    entry(
        triangular_whole_square,
        "dl = -db @ x.T",
        "the mask of the lower triangle is missing",
        "mask",
    ),
    entry(solve_matrix_transposed, "da = -x @ db.T", "the outer product is transposed", "transpose"),
    entry(
        solve_matrix_turned,
        'da = jnp.einsum("ik,jk->ij", db, x)',
        "the minus sign is missing",
        "sign",
    ),
    entry(
        fourier_without_conjugate,
        "dx = jnp.fft.irfft(spectrum * jnp.fft.rfft(k), n=n)",
        "the conjugate of the kernel's spectrum is missing",
        "conjugate",
    ),
    entry(
        fourier_kernel_is_a_mean,
        "dk = jnp.fft.irfft(cross.mean(axis=0), n=n)",
        "mean over the batch in place of the sum",
        "reduction",
    ),
    entry(power_without_conjugate, "dy = 2 * ct * y", "the conjugate of y is missing", "conjugate"),
    entry(power_without_two, "dy = ct * jnp.conj(y)", "the factor 2 is missing", "constant"),
    entry(power_conjugate_too_much, "dz = dy * jnp.conj(w)", "a conjugate too much", "conjugate"),
    entry(modulation_turned_forwards, "dz = drotated * turn", "the conjugate of turn is missing", "conjugate"),
    entry(
        modulation_phase_turned,
        "dphase = (dreal * imag + dimag * real).sum(axis=0)",
        "the sign of the first term is wrong",
        "sign",
    ),
)

ASIDE = (
    "attention_total_over_queries",
    "attention_total_of_squares",
    "heads_keys_from_keys",
    "heads_input_without_values",
    "flash_delta_is_a_mean",
    "flash_first_block_of_values",
    "layer_norm_without_variance",
    "layer_norm_gamma_from_input",
    "layer_norm_row_without_gamma",
    "batch_norm_square_for_cube",
    "batch_norm_counts_features",
    "rms_norm_cotangent_for_dy",
    "group_norm_over_places",
    "weight_norm_length_kept",
    "lstm_cell_state_for_candidate",
    "lstm_cell_sigmoid_slope_for_tanh",
    "gru_cell_update_gate_turned",
    "lstm_scan_cell_carry_undamped",
    "rnn_state_of_the_same_step",
    "rnn_carry_dropped",
    "rnn_last_slope_of_the_step_before",
    "decay_carry_undamped",
    "decay_without_sigmoid",
    "tanh_mlp_bias_over_everything",
    "relu_mlp_first_mask_forgotten",
    "gelu_mlp_density_without_z",
    "softplus_regression_sigmoid_of_output",
    "softplus_regression_target_detached",
    "glu_input_by_one_path",
    "swiglu_gate_for_activation",
    "prelu_as_relu",
    "dropout_keep_forgotten",
    "tied_decoder_use_forgotten",
    "bilinear_bias_is_a_mean",
    "conv_overwritten",
    "conv_kernel_flipped",
    "im2col_one_column_left_out",
    "max_pool_first_of_each_window",
    "mean_pool_overwritten",
    "embedding_unscaled",
    "cumulative_not_reversed",
    "cumulative_down_the_rows",
    "smoothed_sum_for_mean",
    "huber_not_bent",
    "cosine_length_for_square",
    "soft_maximum_beta_too_much",
    "contrastive_scale_of_products",
    "likelihood_half_forgotten",
    "softmax_rows_temperature_once",
    "process_one_side_of_the_product",
    "cholesky_diagonal_not_halved",
    "triangular_not_transposed",
    "solve_matrix_transposed",
    "fourier_without_conjugate",
    "power_without_conjugate",
    "power_conjugate_too_much",
    "modulation_phase_turned",
)
"""Every second one: not to be looked at while the code that is judged by them is being improved."""
