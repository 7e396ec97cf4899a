"""Attention, norms and experts."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal

LN_EPS = 1e-5


def layer_norm(x, gamma, beta):
    mu = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    return gamma * (x - mu) / jnp.sqrt(var + LN_EPS) + beta


def draw_layer_norm(key):
    k = jax.random.split(key, 3)
    return 1.5 * normal(k[0], (2, 3, 6)) + 0.7, 1 + 0.4 * normal(k[1], (6,)), normal(k[2], (6,))


def right_layer_norm_bwd(args, ct):
    x, gamma, beta = args
    xc = x - jnp.mean(x, axis=-1, keepdims=True)
    inv = jax.lax.rsqrt(jnp.mean(xc**2, axis=-1, keepdims=True) + LN_EPS)
    xhat = xc * inv
    d_beta = jnp.sum(ct, axis=(0, 1))
    d_gamma = jnp.sum(ct * xhat, axis=(0, 1))
    gh = ct * gamma
    m1 = jnp.mean(gh, axis=-1, keepdims=True)
    m2 = jnp.mean(gh * xhat, axis=-1, keepdims=True)
    d_x = (gh - m1 - xhat * m2) * inv
    return d_x, d_gamma, d_beta


GROUPS = 2


def group_norm(x, scale):
    n, c, l = x.shape
    xg = x.reshape(n, GROUPS, c // GROUPS, l)
    mu = xg.mean(axis=(2, 3), keepdims=True)
    sd = jnp.sqrt(xg.var(axis=(2, 3), keepdims=True) + 1e-5)
    return ((xg - mu) / sd).reshape(n, c, l) * scale[:, None]


def draw_group_norm(key):
    a, b = jax.random.split(key)
    return normal(a, (3, 4, 3)), 1 + 0.5 * normal(b, (4,))


def right_group_norm_bwd(args, ct):
    x, scale = args
    n, c, l = x.shape
    xg = x.reshape(n, GROUPS, c // GROUPS, l)
    mu = xg.mean(axis=(2, 3), keepdims=True)
    sd = jnp.sqrt(((xg - mu) ** 2).mean(axis=(2, 3), keepdims=True) + 1e-5)
    z = (xg - mu) / sd
    g_scale = (ct * z.reshape(x.shape)).sum(axis=(0, 2))
    g_z = (ct * scale[:, None]).reshape(z.shape)
    g_mean = g_z.mean(axis=(2, 3), keepdims=True)
    g_var = (g_z * z).mean(axis=(2, 3), keepdims=True)
    g_x = (g_z - g_mean - z * g_var) / sd
    return g_x.reshape(x.shape), g_scale


def batch_norm_relu(x, gamma, beta):
    mu = x.mean(0)
    s2 = jnp.sum((x - mu) ** 2, 0) / (x.shape[0] - 1)
    return jnp.maximum(gamma * (x - mu) / jnp.sqrt(s2 + 1e-4) + beta, 0.0)


def draw_batch_norm_relu(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 4)), 1 + 0.3 * normal(k[1], (4,)), 0.3 * normal(k[2], (4,))


def right_batch_norm_relu_bwd(args, ct):
    x, gamma, beta = args
    n = x.shape[0]
    xmu = x - x.mean(0)
    s2 = jnp.sum(xmu**2, 0) / (n - 1)
    istd = 1 / jnp.sqrt(s2 + 1e-4)
    out = gamma * xmu * istd + beta
    dout = ct * (out > 0)
    dbeta = dout.sum(0)
    dgamma = (dout * xmu * istd).sum(0)
    dxhat = dout * gamma
    ds2 = (dxhat * xmu).sum(0) * -0.5 * istd**3
    dxmu = dxhat * istd
    dxmu = dxmu + ds2 * 2 * xmu / (n - 1)
    dmu = -dxmu.sum(0)
    return dxmu + dmu / n, dgamma, dbeta


def causal_attn(q, k, v):
    t, d = q.shape
    s = q @ k.T / jnp.sqrt(d)
    s = jnp.where(jnp.tril(jnp.ones((t, t), bool)), s, -1e9)
    return jax.nn.softmax(s, axis=-1) @ v


def draw_causal_attn(key):
    return tuple(normal(kk, (5, 4)) for kk in jax.random.split(key, 3))


def right_causal_attn_row(q, k, v, dy, i):
    scale = 1 / np.sqrt(q.shape[1])
    ki, vi = k[: i + 1], v[: i + 1]
    p = jax.nn.softmax(ki @ q[i] * scale)
    dv = jnp.outer(p, dy[i])
    dp = vi @ dy[i]
    ds = p * (dp - jnp.dot(p, dp)) * scale
    dq = ds @ ki
    dk = jnp.outer(ds, q[i])
    return dq, dk, dv


def right_causal_attn_bwd(args, ct):
    q, k, v = args
    gq, gk, gv = jnp.zeros_like(q), jnp.zeros_like(k), jnp.zeros_like(v)
    for i in range(q.shape[0]):
        dq, dk, dv = right_causal_attn_row(q, k, v, ct, i)
        gq = gq.at[i].set(dq)
        gk = gk.at[: i + 1].add(dk)
        gv = gv.at[: i + 1].add(dv)
    return gq, gk, gv


def causal_attn_row(q, k, v, dy, i):
    scale = 1 / np.sqrt(q.shape[1])
    ki, vi = k[: i + 1], v[: i + 1]
    p = jax.nn.softmax(ki @ q[i] * scale)
    dv = jnp.outer(p, dy[i])
    dp = vi @ dy[i]
    ds = p * dp * scale
    dq = ds @ ki
    dk = jnp.outer(ds, q[i])
    return dq, dk, dv


def multihead(x, wq, wk, wv, wo):
    q = jnp.einsum("td,dhk->htk", x, wq)
    k = jnp.einsum("td,dhk->htk", x, wk)
    v = jnp.einsum("td,dhk->htk", x, wv)
    a = jax.nn.softmax(jnp.einsum("htk,hsk->hts", q, k) / jnp.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("hts,hsk,hkd->td", a, v, wo)


def draw_multihead(key):
    k = jax.random.split(key, 5)
    w = [0.7 * normal(kk, (4, 2, 3)) for kk in k[:3]]
    return (normal(k[3], (3, 4)), *w, normal(k[4], (2, 3, 4)))


def right_multihead_backward(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v = [jnp.einsum("td,dhk->htk", x, w) for w in (wq, wk, wv)]
    inv = 1.0 / jnp.sqrt(q.shape[-1])
    a = jax.nn.softmax(jnp.einsum("htk,hsk->hts", q, k) * inv, axis=-1)
    o = jnp.einsum("hts,hsk->htk", a, v)
    d_wo = jnp.einsum("htk,td->hkd", o, ct)
    d_o = jnp.einsum("td,hkd->htk", ct, wo)
    d_a = jnp.einsum("htk,hsk->hts", d_o, v)
    d_v = jnp.einsum("hts,htk->hsk", a, d_o)
    inner = jnp.sum(d_a * a, axis=-1, keepdims=True)
    d_s = a * (d_a - inner) * inv
    d_q = jnp.einsum("hts,hsk->htk", d_s, k)
    d_k = jnp.einsum("hts,htk->hsk", d_s, q)
    d_wq = jnp.einsum("td,htk->dhk", x, d_q)
    d_wk = jnp.einsum("td,htk->dhk", x, d_k)
    d_wv = jnp.einsum("td,htk->dhk", x, d_v)
    d_x = jnp.einsum("htk,dhk->td", d_q, wq)
    d_x += jnp.einsum("htk,dhk->td", d_k, wk)
    d_x += jnp.einsum("htk,dhk->td", d_v, wv)
    return d_x, d_wq, d_wk, d_wv, d_wo


def phi(z):
    return jnp.where(z > 0, z + 1, jnp.exp(z))


def linear_attn(q, k, v):
    fq, fk = phi(q), phi(k)
    s = jnp.cumsum(fk[:, :, None] * v[:, None, :], axis=0)
    z = jnp.cumsum(fk, axis=0)
    return jnp.einsum("td,tde->te", fq, s) / jnp.sum(fq * z, axis=1, keepdims=True)


def draw_linear_attn(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (5, 3)), normal(b, (5, 3)), normal(c, (5, 2))


def right_phi_slope(z):
    return jnp.where(z > 0, 1.0, jnp.exp(z))


def right_linear_attn_grad(args, ct):
    q, k, v = args
    fq, fk = phi(q), phi(k)
    S = jnp.cumsum(fk[:, :, None] * v[:, None, :], axis=0)
    Z = jnp.cumsum(fk, axis=0)
    num = jnp.einsum("td,tde->te", fq, S)
    den = jnp.sum(fq * Z, axis=1, keepdims=True)
    dnum = ct / den
    dden = -jnp.sum(ct * num, axis=1, keepdims=True) / den**2
    dfq = jnp.einsum("te,tde->td", dnum, S) + dden * Z

    def back(carry, inp):
        aS, aZ = carry
        fq_t, dnum_t, dden_t, fk_t, v_t = inp
        aS = aS + jnp.outer(fq_t, dnum_t)
        aZ = aZ + dden_t * fq_t
        dfk_t = aS @ v_t + aZ
        dv_t = fk_t @ aS
        return (aS, aZ), (dfk_t, dv_t)

    start = (jnp.zeros_like(S[0]), jnp.zeros_like(Z[0]))
    _, (dfk, dv) = lax.scan(back, start, (fq, dnum, dden, fk, v), reverse=True)
    return dfq * right_phi_slope(q), dfk * right_phi_slope(k), dv


def phi_slope(z):
    return jnp.where(z > 0, 1.0, jnp.exp(z))


def phi_slope_b(z):
    return jnp.where(z > 0, z + 1, jnp.exp(z))


KEEP = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)


def cross_padded(q, mem, w):
    k = mem @ w
    s = jnp.einsum("bqd,bkd->bqk", q, k)
    s = jnp.where(KEEP[:, None, :], s, -jnp.inf)
    return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(s, -1), mem)


def draw_cross_padded(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (2, 3, 3)), normal(b, (2, 4, 3)), 0.7 * normal(c, (3, 3))


def right_cross_padded_one(q, mem, keep, w, g):
    keys = mem @ w
    scores = jnp.where(keep, q @ keys.T, -jnp.inf)
    att = jax.nn.softmax(scores, axis=1)
    g_att = g @ mem.T
    g_mem = att.T @ g
    g_scores = att * g_att
    g_scores = g_scores - att * g_scores.sum(1, keepdims=True)
    g_keys = g_scores.T @ q
    g_q = g_scores @ keys
    g_w = mem.T @ g_keys
    g_mem = g_mem + g_keys @ w.T
    return g_q, g_mem, g_w


def right_cross_padded_bwd(args, ct):
    q, mem, w = args
    gq, gm, gw = jax.vmap(right_cross_padded_one, in_axes=(0, 0, 0, None, 0))(q, mem, KEEP, w, ct)
    return gq, gm, gw.sum(axis=0)


def cross_padded_one(q, mem, keep, w, g):
    keys = mem @ w
    scores = jnp.where(keep, q @ keys.T, -jnp.inf)
    att = jax.nn.softmax(scores, axis=1)
    g_att = g @ mem.T
    g_mem = att.T @ g
    g_scores = att * g_att
    g_scores = g_scores - att * g_scores.sum(1, keepdims=True)
    g_keys = g_scores.T @ q
    g_q = g_scores @ keys
    g_w = mem.T @ g_keys
    g_mem = g_mem + g_keys @ w.T
    return g_q, g_mem, g_w


POS = jnp.arange(5.0)[:, None] * jnp.array([1.0, 0.3])


def rope_dot(q, k):
    c, s = jnp.cos(POS), jnp.sin(POS)

    def rot(x):
        a, b = jnp.split(x, 2, axis=1)
        return jnp.concatenate([a * c - b * s, a * s + b * c], axis=1)

    return rot(q) @ rot(k).T


def draw_rope_dot(key):
    a, b = jax.random.split(key)
    return normal(a, (5, 4)), normal(b, (5, 4))


def right_rotate(x, s):
    c = jnp.cos(POS)
    a, b = x[:, :2], x[:, 2:]
    return jnp.hstack([a * c - b * s, a * s + b * c])


def right_unrotate(g, s):
    c = jnp.cos(POS)
    ga, gb = g[:, :2], g[:, 2:]
    first = ga * c + gb * s
    second = gb * c - ga * s
    return jnp.hstack([first, second])


def right_rope_dot_grad(args, ct):
    q, k = args
    sin = jnp.sin(POS)
    g_rq = ct @ right_rotate(k, sin)
    g_rk = ct.T @ right_rotate(q, sin)
    return right_unrotate(g_rq, sin), right_unrotate(g_rk, sin)


def rotate(x, s):
    c = jnp.cos(POS)
    a, b = x[:, :2], x[:, 2:]
    return jnp.hstack([a * c - b * s, a * s + b * c])


def unrotate(g, s):
    c = jnp.cos(POS)
    ga, gb = g[:, :2], g[:, 2:]
    first = ga * c + gb * s
    second = gb * c + ga * s
    return jnp.hstack([first, second])


def moe_dense(x, wr, we):
    p = jax.nn.softmax(x @ wr, axis=-1)
    y = jnp.tanh(jnp.einsum("nd,edo->neo", x, we))
    return jnp.einsum("ne,neo->no", p, y)


def draw_moe_dense(key):
    a, b, c = jax.random.split(key, 3)
    return normal(a, (4, 3)), normal(b, (3, 3)), normal(c, (3, 3, 2))


def right_moe_dense_vjp(args, ct):
    x, wr, we = args
    p = jax.nn.softmax(x @ wr, axis=-1)
    x_bar = jnp.zeros_like(x)
    we_bar, p_bar = [], []
    for e in range(we.shape[0]):
        y = jnp.tanh(x @ we[e])
        p_bar.append(jnp.sum(ct * y, axis=1))
        y_bar = p[:, e : e + 1] * ct
        pre_bar = y_bar * (1 - y * y)
        we_bar.append(x.T @ pre_bar)
        x_bar = x_bar + pre_bar @ we[e].T
    p_bar = jnp.stack(p_bar, axis=1)
    mean_bar = jnp.sum(p * p_bar, axis=1, keepdims=True)
    r_bar = p * (p_bar - mean_bar)
    wr_bar = x.T @ r_bar
    x_bar = x_bar + r_bar @ wr.T
    return x_bar, wr_bar, jnp.stack(we_bar)


def phi_slope_x(z):
    return jnp.where(z > 0, 1.0, jnp.exp(z))


def cross_padded_one_x(q, mem, keep, w, g):
    keys = mem @ w
    scores = jnp.where(keep, q @ keys.T, -jnp.inf)
    att = jax.nn.softmax(scores, axis=1)
    g_att = g @ mem.T
    g_mem = jnp.zeros_like(mem)
    g_scores = att * g_att
    g_scores = g_scores - att * g_scores.sum(1, keepdims=True)
    g_keys = g_att.T @ q
    g_q = g_scores @ keys
    g_w = mem.T @ g_keys
    g_mem = g_mem + g_keys @ w.T
    return g_q, g_mem, g_w


SINGLE = [
    *wrong_rules(
        layer_norm,
        right_layer_norm_bwd,
        draw_layer_norm,
        """
layer_norm
- d_x = (gh - m1 - xhat * m2) * inv
+ d_x = (gh - m1) * inv
detached: the path through the variance is missing
    """,
    ),
    *wrong_rules(
        group_norm,
        right_group_norm_bwd,
        draw_group_norm,
        """
group_norm
- g_mean = g_z.mean(axis=(2, 3), keepdims=True)
+ g_mean = g_z.mean(axis=3, keepdims=True)
axis: mean over the positions only, not over the channels of the group
    """,
    ),
    *wrong_rules(
        batch_norm_relu,
        right_batch_norm_relu_bwd,
        draw_batch_norm_relu,
        """
batch_norm_relu
- dout = ct * (out > 0)
+ dout = ct * (xmu > 0)
mask: relu mask taken of the centred input instead of the pre-activation

batch_norm_relu_b
- return dxmu + dmu / n, dgamma, dbeta
+ return dxmu, dgamma, dbeta
detached: the path through the batch mean is missing
    """,
    ),
    *wrong_rules(
        causal_attn,
        right_causal_attn_bwd,
        draw_causal_attn,
        """
causal_attn
- dq, dk, dv = right_causal_attn_row(q, k, v, ct, i)
+ dq, dk, dv = causal_attn_row(q, k, v, ct, i)
term: softmax Jacobian's second term is missing
@ ds = p * dp * scale
    """,
    ),
    *wrong_rules(
        multihead,
        right_multihead_backward,
        draw_multihead,
        """
multihead
- d_v = jnp.einsum("hts,htk->hsk", a, d_o)
+ d_v = jnp.einsum("hts,hsk->htk", a, d_o)
transpose: attention contracted over the wrong index: not transposed

multihead_b
- inner = jnp.sum(d_a * a, axis=-1, keepdims=True)
+ inner = jnp.sum(d_a * a, axis=1, keepdims=True)
axis: softmax correction summed over the queries instead of the keys

multihead_c
- d_s = a * (d_a - inner) * inv
+ d_s = a * (d_a - inner)
factor: 1/sqrt(d) left out
    """,
    ),
    *wrong_rules(
        linear_attn,
        right_linear_attn_grad,
        draw_linear_attn,
        """
linear_attn
- _, (dfk, dv) = lax.scan(back, start, (fq, dnum, dden, fk, v), reverse=True)
+ _, (dfk, dv) = lax.scan(back, start, (fq, dnum, dden, fk, v))
- return dfq * right_phi_slope(q), dfk * right_phi_slope(k), dv
+ return dfq * phi_slope(q), dfk * phi_slope(k), dv
index: the scan must run backwards in time
@ _, (dfk, dv) = lax.scan(back, start, (fq, dnum, dden, fk, v))

linear_attn_b
- return dfq * right_phi_slope(q), dfk * right_phi_slope(k), dv
+ return dfq * phi_slope_b(q), dfk * phi_slope_b(k), dv
activation: value of the feature map in place of its slope
@ return jnp.where(z > 0, z + 1, jnp.exp(z))
    """,
    ),
    *wrong_rules(
        cross_padded,
        right_cross_padded_bwd,
        draw_cross_padded,
        """
cross_padded
- gq, gm, gw = jax.vmap(right_cross_padded_one, in_axes=(0, 0, 0, None, 0))(q, mem, KEEP, w, ct)
+ gq, gm, gw = jax.vmap(cross_padded_one, in_axes=(0, 0, 0, None, 0))(q, mem, KEEP, w, ct)
- return gq, gm, gw.sum(axis=0)
+ return gq, gm, gw.mean(axis=0)
reduction: shared weight averaged over the batch instead of summed
@ return gq, gm, gw.mean(axis=0)
    """,
    ),
    *wrong_rules(
        rope_dot,
        right_rope_dot_grad,
        draw_rope_dot,
        """
rope_dot
- g_rq = ct @ right_rotate(k, sin)
+ g_rq = ct @ rotate(k, sin)
- g_rk = ct.T @ right_rotate(q, sin)
+ g_rk = ct.T @ rotate(q, sin)
- return right_unrotate(g_rq, sin), right_unrotate(g_rk, sin)
+ return unrotate(g_rq, sin), unrotate(g_rk, sin)
sign: sign: the inverse rotation has -sin here
@ second = gb * c + ga * s
    """,
    ),
    *wrong_rules(
        moe_dense,
        right_moe_dense_vjp,
        draw_moe_dense,
        """
moe_dense
- x_bar = x_bar + pre_bar @ we[e].T
+ x_bar = pre_bar @ we[e].T
carry: overwritten at every expert instead of accumulated

moe_dense_b
- y_bar = p[:, e : e + 1] * ct
+ y_bar = ct
factor: gate probability of the expert is missing
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        layer_norm,
        right_layer_norm_bwd,
        draw_layer_norm,
        """
layer_norm_x
- d_beta = jnp.sum(ct, axis=(0, 1))
+ d_beta = jnp.mean(ct, axis=(0, 1))
- d_gamma = jnp.sum(ct * xhat, axis=(0, 1))
+ d_gamma = jnp.sum(ct * x, axis=(0, 1))
- m1 = jnp.mean(gh, axis=-1, keepdims=True)
+ m1 = jnp.mean(ct, axis=-1, keepdims=True)
operand: ct without gamma in the mean
@ m1 = jnp.mean(ct, axis=-1, keepdims=True)
operand: raw x in place of the normalised xhat
@ d_gamma = jnp.sum(ct * x, axis=(0, 1))
reduction: mean in place of sum
@ d_beta = jnp.mean(ct, axis=(0, 1))
    """,
    ),
    *wrong_rules(
        group_norm,
        right_group_norm_bwd,
        draw_group_norm,
        """
group_norm_x
- g_z = (ct * scale[:, None]).reshape(z.shape)
+ g_z = ct.reshape(z.shape)
- g_var = (g_z * z).mean(axis=(2, 3), keepdims=True)
+ g_var = (g_z * z).mean(axis=(1, 2, 3), keepdims=True)
factor: the scale is missing
@ g_z = ct.reshape(z.shape)
axis: mean over the groups as well
@ g_var = (g_z * z).mean(axis=(1, 2, 3), keepdims=True)
    """,
    ),
    *wrong_rules(
        batch_norm_relu,
        right_batch_norm_relu_bwd,
        draw_batch_norm_relu,
        """
batch_norm_relu_x
- dgamma = (dout * xmu * istd).sum(0)
+ dgamma = (ct * xmu * istd).sum(0)
- ds2 = (dxhat * xmu).sum(0) * -0.5 * istd**3
+ ds2 = (dxhat * xmu).sum(0) * 0.5 * istd**3
sign: sign of the derivative of 1/sqrt
@ ds2 = (dxhat * xmu).sum(0) * 0.5 * istd**3
mask: unmasked cotangent
@ dgamma = (ct * xmu * istd).sum(0)
    """,
    ),
    *wrong_rules(
        multihead,
        right_multihead_backward,
        draw_multihead,
        """
multihead_x
- d_wo = jnp.einsum("htk,td->hkd", o, ct)
+ d_wo = jnp.einsum("htk,td->hkd", v, ct)
- d_wq = jnp.einsum("td,htk->dhk", x, d_q)
+ d_wq = jnp.einsum("td,htk->dhk", x, d_k)
- d_x += jnp.einsum("htk,dhk->td", d_k, wk)
+ d_x = jnp.einsum("htk,dhk->td", d_k, wk)
carry: overwrites d_x so that the query path is lost
@ d_x = jnp.einsum("htk,dhk->td", d_k, wk)
operand: v in place of the attention output o
@ d_wo = jnp.einsum("htk,td->hkd", v, ct)
operand: d_k for d_q
@ d_wq = jnp.einsum("td,htk->dhk", x, d_k)
    """,
    ),
    *wrong_rules(
        linear_attn,
        right_linear_attn_grad,
        draw_linear_attn,
        """
linear_attn_x
- dden = -jnp.sum(ct * num, axis=1, keepdims=True) / den**2
+ dden = -jnp.sum(ct * num, axis=1, keepdims=True) / den
- aZ = aZ + dden_t * fq_t
+ aZ = dden_t * fq_t
- return dfq * right_phi_slope(q), dfk * right_phi_slope(k), dv
+ return dfq * phi_slope_x(q), dfk * phi_slope_x(k), dv
carry: normaliser adjoint not accumulated
@ aZ = dden_t * fq_t
factor: denominator should be squared
@ dden = -jnp.sum(ct * num, axis=1, keepdims=True) / den
    """,
    ),
    *wrong_rules(
        cross_padded,
        right_cross_padded_bwd,
        draw_cross_padded,
        """
cross_padded_x
- gq, gm, gw = jax.vmap(right_cross_padded_one, in_axes=(0, 0, 0, None, 0))(q, mem, KEEP, w, ct)
+ gq, gm, gw = jax.vmap(cross_padded_one_x, in_axes=(0, 0, 0, None, 0))(q, mem, KEEP, w, ct)
operand: cotangent before the softmax Jacobian
@ g_keys = g_att.T @ q
detached: the memory as values is taken for constant
@ g_mem = jnp.zeros_like(mem)
    """,
    ),
    *wrong_rules(
        moe_dense,
        right_moe_dense_vjp,
        draw_moe_dense,
        """
moe_dense_x
- p_bar.append(jnp.sum(ct * y, axis=1))
+ p_bar.append(jnp.mean(ct * y, axis=1))
- pre_bar = y_bar * (1 - y * y)
+ pre_bar = y_bar * y * (1 - y)
reduction: mean for sum over the outputs
@ p_bar.append(jnp.mean(ct * y, axis=1))
activation: sigmoid slope used for a tanh
@ pre_bar = y_bar * y * (1 - y)
    """,
    ),
]
