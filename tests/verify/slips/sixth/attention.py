"""Rules with mistakes in networks and attention."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def mlp_gelu(x, w1, b1, w2, b2):
    h = jax.nn.gelu(x @ w1 + b1, approximate=True)
    return h @ w2 + b2


def draw_mlp_gelu(key):
    k = jax.random.split(key, 5)
    return normal(k[0], (5, 4)), normal(k[1], (4, 6)), normal(k[2], (6,)), normal(k[3], (6, 3)), normal(k[4], (3,))


def right_mlp_gelu(args, dy):
    x, w1, b1, w2, b2 = args
    z = x @ w1 + b1
    c = jnp.sqrt(2.0 / jnp.pi)
    t = jnp.tanh(c * (z + 0.044715 * z**3))
    h = 0.5 * z * (1.0 + t)
    dw2 = h.T @ dy
    db2 = dy.sum(axis=0)
    dh = dy @ w2.T
    d_inner = c * (1.0 + 3 * 0.044715 * z**2)
    slope = 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t**2) * d_inner
    dz = dh * slope
    dw1 = x.T @ dz
    db1 = dz.sum(axis=0)
    return dz @ w1.T, dw1, db1, dw2, db2


LABELS = jnp.array([0, 3, 2, 1, 3, 0])

SMOOTH = 0.2


def smooth_ce(feats, W, b):
    logits = feats @ W + b
    n, k = logits.shape
    target = (1 - SMOOTH) * jax.nn.one_hot(LABELS, k) + SMOOTH / k
    return -jnp.sum(target * jax.nn.log_softmax(logits)) / n


def draw_smooth_ce(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 5)), 0.7 * normal(k[1], (5, 4)), normal(k[2], (4,))


def right_smooth_ce(args, g):
    feats, W, b = args
    logits = feats @ W + b
    n, k = logits.shape
    probs = jax.nn.softmax(logits, axis=-1)
    target = (1 - SMOOTH) * jax.nn.one_hot(LABELS, k) + SMOOTH / k
    grad_logits = probs - target
    grad_logits = g * grad_logits / n
    grad_feats = grad_logits @ W.T
    grad_W = feats.T @ grad_logits
    grad_b = jnp.sum(grad_logits, axis=0)
    return grad_feats, grad_W, grad_b


TRIL = jnp.tril(jnp.ones((5, 5), bool))


def causal_attn(q, k, v):
    s = q @ k.T / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(jnp.where(TRIL, s, -1e9), axis=-1)
    return p @ v


def draw_causal_attn(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 4)), normal(k[1], (5, 4)), normal(k[2], (5, 3))


def right_causal_attn(args, dO):
    q, k, v = args
    scale = 1.0 / jnp.sqrt(q.shape[-1])
    s = jnp.where(TRIL, q @ k.T * scale, -1e9)
    p = jax.nn.softmax(s, axis=-1)
    dv = p.T @ dO
    dp = dO @ v.T
    inner = jnp.sum(dp * p, axis=-1, keepdims=True)
    ds = p * (dp - inner)
    dq = scale * ds @ k
    dk = scale * ds.T @ q
    return dq, dk, dv


HEADS = 2


def mha(x, wqkv, wo):
    n, d = x.shape
    qkv = (x @ wqkv).reshape(n, 3, HEADS, d // HEADS)
    q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    att = jax.nn.softmax(jnp.einsum("ihd,jhd->hij", q, k) * (d // HEADS) ** -0.5, axis=-1)
    o = jnp.einsum("hij,jhd->ihd", att, v)
    return o.reshape(n, d) @ wo


def draw_mha(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 6)), 0.6 * normal(k[1], (6, 18)), normal(k[2], (6, 6))


def right_mha(args, grad_out):
    x, wqkv, wo = args
    n, d = x.shape
    dh = d // HEADS
    qkv = (x @ wqkv).reshape(n, 3, HEADS, dh)
    q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    att = jax.nn.softmax(jnp.einsum("ihd,jhd->hij", q, k) * dh**-0.5, axis=-1)
    o = jnp.einsum("hij,jhd->ihd", att, v).reshape(n, d)
    grad_wo = o.T @ grad_out
    grad_o = (grad_out @ wo.T).reshape(n, HEADS, dh)
    grad_v = jnp.einsum("hij,ihd->jhd", att, grad_o)
    grad_att = jnp.einsum("ihd,jhd->hij", grad_o, v)
    grad_s = att * (grad_att - jnp.einsum("hij,hij->hi", grad_att, att)[..., None])
    grad_s = grad_s * dh**-0.5
    grad_q = jnp.einsum("hij,jhd->ihd", grad_s, k)
    grad_k = jnp.einsum("hij,ihd->jhd", grad_s, q)
    grad_qkv = jnp.stack([grad_q, grad_k, grad_v], axis=1).reshape(n, 3 * d)
    grad_wqkv = x.T @ grad_qkv
    grad_x = grad_qkv @ wqkv.T
    return grad_x, grad_wqkv, grad_wo


def lin_attn(q, k, v):
    phi = lambda u: jax.nn.elu(u) + 1.0
    fq, fk = phi(q), phi(k)
    num = fq @ (fk.T @ v)
    den = fq @ fk.sum(axis=0)
    return num / den[:, None]


def draw_lin_attn(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 3)), normal(k[1], (6, 3)), normal(k[2], (6, 4))


def right_lin_attn(args, ct):
    q, k, v = args
    fq, fk = jax.nn.elu(q) + 1.0, jax.nn.elu(k) + 1.0
    kv = fk.T @ v
    ksum = fk.sum(axis=0)
    den = fq @ ksum
    out = (fq @ kv) / den[:, None]
    d_num = ct / den[:, None]
    d_den = -jnp.sum(ct * out, axis=1) / den
    d_fq = d_num @ kv.T + d_den[:, None] * ksum[None, :]
    d_kv = fq.T @ d_num
    d_ksum = fq.T @ d_den
    d_fk = v @ d_kv.T + d_ksum[None, :]
    d_v = fk @ d_kv
    d_q = d_fq * jnp.where(q > 0, 1.0, jnp.exp(q))
    d_k = d_fk * jnp.where(k > 0, 1.0, jnp.exp(k))
    return d_q, d_k, d_v


PAD = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], jnp.float32)


def cross_attn(x, mem, wq, wk):
    q = jnp.einsum("btd,de->bte", x, wq)
    k = jnp.einsum("bsd,de->bse", mem, wk)
    s = jnp.einsum("bte,bse->bts", q, k) + (PAD[:, None, :] - 1.0) * 1e9
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(s, axis=-1), mem)


def draw_cross_attn(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (3, 4, 3)), normal(k[1], (3, 5, 3)), 0.6 * normal(k[2], (3, 2)), 0.6 * normal(k[3], (3, 2))


def right_cross_attn(args, delta):
    x, mem, wq, wk = args
    q = x @ wq
    k = mem @ wk
    s = jnp.einsum("bte,bse->bts", q, k)
    e = jnp.exp(s - s.max(axis=-1, keepdims=True)) * PAD[:, None, :]
    a = e / e.sum(axis=-1, keepdims=True)
    delta_mem = jnp.einsum("bts,btd->bsd", a, delta)
    delta_a = jnp.einsum("btd,bsd->bts", delta, mem)
    delta_s = a * (delta_a - (a * delta_a).sum(-1, keepdims=True))
    delta_q = delta_s @ k
    delta_k = jnp.swapaxes(delta_s, 1, 2) @ q
    delta_wq = jnp.einsum("btd,bte->de", x, delta_q)
    delta_wk = jnp.einsum("bsd,bse->de", mem, delta_k)
    delta_mem = delta_mem + delta_k @ wk.T
    delta_x = delta_q @ wq.T
    return delta_x, delta_mem, delta_wq, delta_wk


def res_layernorm(x, r, gamma, beta):
    u = x + r
    mu = u.mean(axis=-1, keepdims=True)
    var = jnp.var(u, axis=-1, keepdims=True)
    return gamma * (u - mu) / jnp.sqrt(var + 1e-5) + beta


def draw_res_layernorm(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (4, 5)), normal(k[1], (4, 5)), 1 + 0.5 * normal(k[2], (5,)), normal(k[3], (5,))


def right_res_layernorm(args, gy):
    x, r, gamma, beta = args
    u = x + r
    n = u.shape[-1]
    uc = u - u.mean(-1, keepdims=True)
    istd = 1.0 / jnp.sqrt((uc**2).mean(-1, keepdims=True) + 1e-5)
    xhat = uc * istd
    g_gamma = jnp.sum(gy * xhat, axis=0)
    g_beta = jnp.sum(gy, axis=0)
    g_xhat = gy * gamma
    g_var = -0.5 * jnp.sum(g_xhat * uc, axis=-1, keepdims=True) * istd**3
    g_mu = -jnp.sum(g_xhat * istd, axis=-1, keepdims=True)
    g_u = g_xhat * istd + 2.0 * g_var * uc / n + g_mu / n
    return g_u, g_u, g_gamma, g_beta


def rms_swiglu(x, gain, wa, wb):
    y = gain * x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    return jax.nn.silu(y @ wa) * (y @ wb)


def draw_rms_swiglu(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (4, 5)), 1 + 0.3 * normal(k[1], (5,)), normal(k[2], (5, 3)), normal(k[3], (5, 3))


def right_rms_swiglu(args, dout):
    x, gain, wa, wb = args
    rinv = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    xn = x * rinv
    y = gain * xn
    a, b = y @ wa, y @ wb
    sig = jax.nn.sigmoid(a)
    db = dout * (a * sig)
    da = dout * b
    da = da * (sig + a * sig * (1 - sig))
    dwa, dwb = y.T @ da, y.T @ db
    dy = da @ wa.T + db @ wb.T
    dgain = (dy * xn).sum(0)
    dxn = dy * gain
    dx = rinv * (dxn - xn * jnp.mean(dxn * xn, axis=-1, keepdims=True))
    return dx, dgain, dwa, dwb


def batchnorm_relu(x, g, b):
    m = jnp.mean(x, axis=0)
    v = jnp.mean((x - m) ** 2, axis=0)
    return jax.nn.relu(g * (x - m) / jnp.sqrt(v + 1e-3) + b)


def draw_batchnorm_relu(key):
    k = jax.random.split(key, 3)
    return 1.5 * normal(k[0], (7, 4)), 1 + 0.4 * normal(k[1], (4,)), 0.5 + 0.5 * normal(k[2], (4,))


def right_batchnorm_relu(args, up):
    x, g, b = args
    N = x.shape[0]
    xc = x - x.mean(0)
    s = jnp.sqrt((xc * xc).mean(0) + 1e-3)
    xh = xc / s
    pre = g * xh + b
    up = up * (pre > 0)
    db = up.sum(0)
    dg = (up * xh).sum(0)
    dxh = up * g
    dx = (N * dxh - dxh.sum(0) - xh * (dxh * xh).sum(0)) / (N * s)
    return dx, dg, db


SINGLE = [
    *wrong_rules(
        mlp_gelu,
        right_mlp_gelu,
        draw_mlp_gelu,
        """
mlp_gelu_cubic_slope
- d_inner = c * (1.0 + 3 * 0.044715 * z**2)
+ d_inner = c * (1.0 + 0.044715 * z**2)
constant: the 3 from the derivative of the cube is missing
    """,
    ),
    *wrong_rules(
        smooth_ce,
        right_smooth_ce,
        draw_smooth_ce,
        """
smooth_ce_softmax_batch
- probs = jax.nn.softmax(logits, axis=-1)
+ probs = jax.nn.softmax(logits, axis=0)
axis: softmax taken over the batch axis rather than the classes
    """,
    ),
    *wrong_rules(
        causal_attn,
        right_causal_attn,
        draw_causal_attn,
        """
causal_attn_upper
- s = jnp.where(TRIL, q @ k.T * scale, -1e9)
+ s = jnp.where(TRIL.T, q @ k.T * scale, -1e9)
mask: causal mask the wrong way round
    """,
    ),
    *wrong_rules(
        mha,
        right_mha,
        draw_mha,
        """
mha_einsum_v
- grad_v = jnp.einsum("hij,ihd->jhd", att, grad_o)
+ grad_v = jnp.einsum("hij,jhd->ihd", att, grad_o)
transpose: attention applied forward instead of transposed (letters of the einsum)
    """,
    ),
    *wrong_rules(
        lin_attn,
        right_lin_attn,
        draw_lin_attn,
        """
lin_attn_no_ksum
- d_fk = v @ d_kv.T + d_ksum[None, :]
+ d_fk = v @ d_kv.T
detached: path of k through the normaliser dropped
    """,
    ),
    *wrong_rules(
        cross_attn,
        right_cross_attn,
        draw_cross_attn,
        """
cross_attn_no_pad
- e = jnp.exp(s - s.max(axis=-1, keepdims=True)) * PAD[:, None, :]
+ e = jnp.exp(s - s.max(axis=-1, keepdims=True))
mask: padding mask missing when the attention is recomputed
    """,
    ),
    *wrong_rules(
        res_layernorm,
        right_res_layernorm,
        draw_res_layernorm,
        """
res_layernorm_mean_detached
- g_u = g_xhat * istd + 2.0 * g_var * uc / n + g_mu / n
+ g_u = g_xhat * istd + 2.0 * g_var * uc / n
detached: mean taken for a constant
    """,
    ),
    *wrong_rules(
        rms_swiglu,
        right_rms_swiglu,
        draw_rms_swiglu,
        """
rms_swiglu_sigmoid_slope
- da = da * (sig + a * sig * (1 - sig))
+ da = da * sig * (1 - sig)
activation: slope of the sigmoid, not of silu
    """,
    ),
    *wrong_rules(
        batchnorm_relu,
        right_batchnorm_relu,
        draw_batchnorm_relu,
        """
batchnorm_relu_sum_axis
- dx = (N * dxh - dxh.sum(0) - xh * (dxh * xh).sum(0)) / (N * s)
+ dx = (N * dxh - dxh.sum(1, keepdims=True) - xh * (dxh * xh).sum(0)) / (N * s)
axis: mean correction summed over the features
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        mlp_gelu,
        right_mlp_gelu,
        draw_mlp_gelu,
        """
mlp_gelu_two
- dw2 = h.T @ dy
+ dw2 = z.T @ dy
- db1 = dz.sum(axis=0)
+ db1 = dz.mean(axis=0)
operand: pre-activation z used where the activation h belongs
@ dw2 = z.T @ dy
reduction: mean over the batch in place of the sum
@ db1 = dz.mean(axis=0)
    """,
    ),
    *wrong_rules(
        causal_attn,
        right_causal_attn,
        draw_causal_attn,
        """
causal_attn_three
- inner = jnp.sum(dp * p, axis=-1, keepdims=True)
+ inner = jnp.mean(dp * p, axis=-1, keepdims=True)
- dq = scale * ds @ k
+ dq = -scale * ds @ k
- dk = scale * ds.T @ q
+ dk = scale * ds.T @ k
reduction: mean in place of sum in the softmax backward
@ inner = jnp.mean(dp * p, axis=-1, keepdims=True)
operand: k used where q belongs
@ dk = scale * ds.T @ k
sign: stray minus in dq
@ dq = -scale * ds @ k
    """,
    ),
    *wrong_rules(
        mha,
        right_mha,
        draw_mha,
        """
mha_order_and_corr
- grad_s = att * (grad_att - jnp.einsum("hij,hij->hi", grad_att, att)[..., None])
+ grad_s = att * grad_att
- grad_qkv = jnp.stack([grad_q, grad_k, grad_v], axis=1).reshape(n, 3 * d)
+ grad_qkv = jnp.stack([grad_k, grad_q, grad_v], axis=1).reshape(n, 3 * d)
index: q and k gradients stacked in the wrong order
@ grad_qkv = jnp.stack([grad_k, grad_q, grad_v], axis=1).reshape(n, 3 * d)
term: the softmax mean correction forgotten
@ grad_s = att * grad_att
    """,
    ),
    *wrong_rules(
        lin_attn,
        right_lin_attn,
        draw_lin_attn,
        """
lin_attn_three
- d_den = -jnp.sum(ct * out, axis=1) / den
+ d_den = -jnp.sum(ct * out, axis=1)
- d_v = fk @ d_kv
+ d_v = fk @ d_kv / fk.shape[0]
- d_k = d_fk * jnp.where(k > 0, 1.0, jnp.exp(k))
+ d_k = d_fk * (k > 0)
factor: second division by the denominator forgotten
@ d_den = -jnp.sum(ct * out, axis=1)
activation: relu slope instead of elu slope
@ d_k = d_fk * (k > 0)
reduction: mean over the keys instead of sum
@ d_v = fk @ d_kv / fk.shape[0]
    """,
    ),
    *wrong_rules(
        cross_attn,
        right_cross_attn,
        draw_cross_attn,
        """
cross_attn_two
- delta_s = a * (delta_a - (a * delta_a).sum(-1, keepdims=True))
+ delta_s = a * (delta_a - (a * delta_a).sum(1, keepdims=True))
- delta_k = jnp.swapaxes(delta_s, 1, 2) @ q
+ delta_k = jnp.swapaxes(delta_s, 1, 2) @ x[..., :2]
operand: x used in place of its projection q
@ delta_k = jnp.swapaxes(delta_s, 1, 2) @ x[..., :2]
axis: softmax correction summed over the queries
@ delta_s = a * (delta_a - (a * delta_a).sum(1, keepdims=True))
    """,
    ),
    *wrong_rules(
        res_layernorm,
        right_res_layernorm,
        draw_res_layernorm,
        """
res_layernorm_three
- istd = 1.0 / jnp.sqrt((uc**2).mean(-1, keepdims=True) + 1e-5)
+ istd = 1.0 / jnp.sqrt((uc**2).sum(-1, keepdims=True) + 1e-5)
- g_xhat = gy * gamma
+ g_xhat = gy
- return g_u, g_u, g_gamma, g_beta
+ return g_u, gy, g_gamma, g_beta
factor: gamma forgotten
@ g_xhat = gy
reduction: sum of squares instead of their mean
@ istd = 1.0 / jnp.sqrt((uc**2).sum(-1, keepdims=True) + 1e-5)
operand: residual branch gets gy, not the gradient through the norm
@ return g_u, gy, g_gamma, g_beta
    """,
    ),
    *wrong_rules(
        rms_swiglu,
        right_rms_swiglu,
        draw_rms_swiglu,
        """
rms_swiglu_three
- db = dout * (a * sig)
+ db = dout * sig
- dy = da @ wa.T + db @ wb.T
+ dy = da @ wa.T
- dgain = (dy * xn).sum(0)
+ dgain = (dy * x).sum(0)
term: gradient through the linear branch forgotten
@ dy = da @ wa.T
operand: raw x instead of the normalised x
@ dgain = (dy * x).sum(0)
factor: factor a of silu missing
@ db = dout * sig
    """,
    ),
]
