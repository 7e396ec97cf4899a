"""Attention in several forms, rotary embedding, contrastive losses."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def causal_attention(q, k, v):
    t, d = q.shape
    s = q @ k.T / jnp.sqrt(d)
    s = jnp.where(jnp.tril(jnp.ones((t, t), bool)), s, -1e9)
    return jax.nn.softmax(s, axis=-1) @ v


def draw_causal_attention(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 4)), jax.random.normal(b, (6, 4)), jax.random.normal(c, (6, 3))


def right_causal_attn_bwd(args, dO):
    Q, K, V = args
    T, d = Q.shape
    keep = jnp.tril(jnp.ones((T, T), bool))
    S = jnp.where(keep, Q @ K.T / jnp.sqrt(d), -jnp.inf)
    P = jax.nn.softmax(S, axis=-1)
    dV = P.T @ dO
    dP = dO @ V.T
    D = jnp.sum(dP * P, axis=-1, keepdims=True)
    dS = P * (dP - D)
    dQ = dS @ K / jnp.sqrt(d)
    dK = dS.T @ Q / jnp.sqrt(d)
    return dQ, dK, dV


def multihead(x, wq, wk, wv, wo):
    q = jnp.einsum("td,dhe->hte", x, wq)
    k = jnp.einsum("td,dhe->hte", x, wk)
    v = jnp.einsum("td,dhe->hte", x, wv)
    p = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k) * wq.shape[-1] ** -0.5, -1)
    return jnp.einsum("hte,hed->td", jnp.einsum("hts,hse->hte", p, v), wo)


def draw_multihead(key):
    k = jax.random.split(key, 5)
    x = jax.random.normal(k[0], (5, 6))
    return (x, *(jax.random.normal(k[i], (6, 2, 3)) * 0.5 for i in (1, 2, 3)), jax.random.normal(k[4], (2, 3, 6)) * 0.5)


def right_mha_grads(args, ct):
    x, wq, wk, wv, wo = args
    scale = wq.shape[-1] ** -0.5
    q, k, v = (jnp.einsum("td,dhe->hte", x, w) for w in (wq, wk, wv))
    probs = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k) * scale, -1)
    heads = jnp.einsum("hts,hse->hte", probs, v)
    g_wo = jnp.einsum("hte,td->hed", heads, ct)
    g_heads = jnp.einsum("td,hed->hte", ct, wo)
    g_v = jnp.einsum("hts,hte->hse", probs, g_heads)
    g_probs = jnp.einsum("hte,hse->hts", g_heads, v)
    g_scores = probs * (g_probs - (probs * g_probs).sum(-1, keepdims=True))
    g_q = jnp.einsum("hts,hse->hte", g_scores, k) * scale
    g_k = jnp.einsum("hts,hte->hse", g_scores, q) * scale
    g_wq = jnp.einsum("td,hte->dhe", x, g_q)
    g_wk = jnp.einsum("td,hte->dhe", x, g_k)
    g_wv = jnp.einsum("td,hte->dhe", x, g_v)
    g_x = jnp.einsum("hte,dhe->td", g_q, wq)
    g_x = g_x + jnp.einsum("hte,dhe->td", g_k, wk)
    g_x = g_x + jnp.einsum("hte,dhe->td", g_v, wv)
    return g_x, g_wq, g_wk, g_wv, g_wo


def linear_attention(q, k, v):
    fq, fk = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    num = fq @ (fk.T @ v)
    den = fq @ fk.sum(0)
    return num / den[:, None]


def draw_linear_attention(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (7, 3)), jax.random.normal(b, (5, 3)), jax.random.normal(c, (5, 4))


def right_linattn_vjp(args, y_bar):
    q, k, v = args
    fq = jax.nn.elu(q) + 1
    fk = jax.nn.elu(k) + 1
    kv = fk.T @ v
    z = fk.sum(0)
    den = fq @ z
    y = (fq @ kv) / den[:, None]
    num_bar = y_bar / den[:, None]
    den_bar = -(y_bar * y).sum(-1) / den
    kv_bar = fq.T @ num_bar
    z_bar = fq.T @ den_bar
    fq_bar = num_bar @ kv.T + jnp.outer(den_bar, z)
    v_bar = fk @ kv_bar
    fk_bar = v @ kv_bar.T + z_bar
    q_bar = fq_bar * jnp.where(q > 0, 1.0, fq)
    k_bar = fk_bar * jnp.where(k > 0, 1.0, fk)
    return q_bar, k_bar, v_bar


LENGTHS = jnp.array([3, 5])

SEEN = jnp.arange(5)[None, :] < LENGTHS[:, None]


def cross_attention(x, mem, wk, wv):
    k = mem @ wk
    v = mem @ wv
    s = jnp.where(SEEN[:, None, :], jnp.einsum("bie,bje->bij", x, k), -1e30)
    return jnp.einsum("bij,bje->bie", jax.nn.softmax(s, -1), v)


def draw_cross_attention(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (2, 4, 3)),
        jax.random.normal(b, (2, 5, 4)),
        jax.random.normal(c, (4, 3)) * 0.6,
        jax.random.normal(d, (4, 3)),
    )


def right_cross_attn_rule(args, ct):
    x, mem, wk, wv = args

    def right_one(x, mem, seen, g):
        k, v = mem @ wk, mem @ wv
        a = jax.nn.softmax(jnp.where(seen, x @ k.T, -1e30), -1)
        dv = a.T @ g
        da = g @ v.T
        ds = a * (da - (a * da).sum(-1, keepdims=True))
        dx = ds @ k
        dk = ds.T @ x
        dmem = dk @ wk.T + dv @ wv.T
        return dx, dmem, mem.T @ dk, mem.T @ dv

    d_x, d_mem, d_wk, d_wv = jax.vmap(right_one)(x, mem, SEEN, ct)
    return d_x, d_mem, d_wk.sum(0), d_wv.mean(0) * ct.shape[0]


def rotary(q, k, logf):
    pos = jnp.arange(q.shape[0])[:, None]
    ang = pos * jnp.exp(logf)[None, :]
    c, s = jnp.cos(ang), jnp.sin(ang)

    def rot(x):
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * c - b * s, a * s + b * c], -1)

    return rot(q) @ rot(k).T


def draw_rotary(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5, 6)), jax.random.normal(b, (5, 6)), 0.3 * jax.random.normal(c, (3,)) - 0.5


def right_rotary_scores_bwd(args, g):
    q, k, logf = args
    pos = jnp.arange(q.shape[0])[:, None]
    ang = pos * jnp.exp(logf)
    c, s = jnp.cos(ang), jnp.sin(ang)

    def fwd(x):
        x1, x2 = jnp.split(x, 2, -1)
        return x1 * c - x2 * s, x1 * s + x2 * c

    def right_unrot(u1, u2):
        return jnp.concatenate([u1 * c + u2 * s, u2 * c - u1 * s], -1)

    (q1, q2), (k1, k2) = fwd(q), fwd(k)
    dq1, dq2 = g @ k1, g @ k2
    dk1, dk2 = g.T @ q1, g.T @ q2
    dang = dq2 * q1 - dq1 * q2
    dang = dang + dk2 * k1 - dk1 * k2
    dlogf = (dang * ang).sum(0)
    return right_unrot(dq1, dq2), right_unrot(dk1, dk2), dlogf


def info_nce(za, zb, logt):
    a = za / jnp.linalg.norm(za, axis=-1, keepdims=True)
    b = zb / jnp.linalg.norm(zb, axis=-1, keepdims=True)
    s = a @ b.T * jnp.exp(logt)
    return jnp.mean(jax.nn.logsumexp(s, axis=1) - jnp.diag(s))


def draw_info_nce(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 4)), jax.random.normal(b, (6, 4)), 0.5 + 0.2 * jax.random.normal(c, ())


def right_clip_loss_bwd(args, ct):
    za, zb, logt = args
    na = jnp.linalg.norm(za, axis=-1, keepdims=True)
    nb = jnp.linalg.norm(zb, axis=-1, keepdims=True)
    a, b = za / na, zb / nb
    n = za.shape[0]
    scale = jnp.exp(logt)
    cos = a @ b.T
    ds = ct * (jax.nn.softmax(cos * scale, axis=1) - jnp.eye(n)) / n
    dlogt = (ds * cos).sum() * scale
    da = ds @ b * scale
    db = ds.T @ a * scale
    dza = (da - a * (a * da).sum(-1, keepdims=True)) / na
    dzb = (db - b * (b * db).sum(-1, keepdims=True)) / nb
    return dza, dzb, dlogt


SINGLE = [
    *wrong_rules(
        causal_attention,
        right_causal_attn_bwd,
        draw_causal_attention,
        """
causal_attn_bwd_1
- S = jnp.where(keep, Q @ K.T / jnp.sqrt(d), -jnp.inf)
+ S = jnp.where(keep.T, Q @ K.T / jnp.sqrt(d), -jnp.inf)
mask: causal mask the wrong way round

causal_attn_bwd_2
- D = jnp.sum(dP * P, axis=-1, keepdims=True)
+ D = jnp.sum(dP * P, axis=0, keepdims=True)
axis: softmax sum over the wrong axis

causal_attn_bwd_3
- dQ = dS @ K / jnp.sqrt(d)
+ dQ = dS @ K
factor: scale 1/sqrt(d) missing in dQ

causal_attn_bwd_4
- dK = dS.T @ Q / jnp.sqrt(d)
+ dK = dS @ Q / jnp.sqrt(d)
transpose: dS not transposed in dK

causal_attn_bwd_5
- dS = P * (dP - D)
+ dS = P * dP
term: the row sum of the softmax backward is missing
    """,
    ),
    *wrong_rules(
        multihead,
        right_mha_grads,
        draw_multihead,
        """
mha_grads_1
- g_v = jnp.einsum("hts,hte->hse", probs, g_heads)
+ g_v = jnp.einsum("hst,hte->hse", probs, g_heads)
transpose: letters t and s of probs swapped

mha_grads_2
- g_scores = probs * (g_probs - (probs * g_probs).sum(-1, keepdims=True))
+ g_scores = probs * (1 - probs) * g_probs
activation: only the diagonal of the softmax jacobian

mha_grads_3
- g_k = jnp.einsum("hts,hte->hse", g_scores, q) * scale
+ g_k = jnp.einsum("hts,hse->hte", g_scores, q) * scale
transpose: contracted over s instead of t

mha_grads_4
- g_x = g_x + jnp.einsum("hte,dhe->td", g_k, wk)
+ g_x = g_x + jnp.einsum("hte,dhe->td", g_k, wq)
operand: wq used for the key path
    """,
    ),
    *wrong_rules(
        linear_attention,
        right_linattn_vjp,
        draw_linear_attention,
        """
linattn_vjp_1
- den_bar = -(y_bar * y).sum(-1) / den
+ den_bar = (y_bar * y).sum(-1) / den
sign: sign of the denominator's gradient

linattn_vjp_2
- fq_bar = num_bar @ kv.T + jnp.outer(den_bar, z)
+ fq_bar = num_bar @ kv.T
detached: denominator taken for constant in the query path

linattn_vjp_3
- k_bar = fk_bar * jnp.where(k > 0, 1.0, fk)
+ k_bar = fk_bar * jnp.where(k > 0, 1.0, k)
activation: elu slope below zero is exp(k) = fk
    """,
    ),
    *wrong_rules(
        cross_attention,
        right_cross_attn_rule,
        draw_cross_attention,
        """
cross_attn_rule_1
- a = jax.nn.softmax(jnp.where(seen, x @ k.T, -1e30), -1)
+ a = jax.nn.softmax(x @ k.T, -1)
mask: padding mask is missing

cross_attn_rule_2
- dmem = dk @ wk.T + dv @ wv.T
+ dmem = dv @ wv.T
term: key path of the memory is missing

cross_attn_rule_3
- return d_x, d_mem, d_wk.sum(0), d_wv.mean(0) * ct.shape[0]
+ return d_x, d_mem, d_wk.sum(0), d_wv.mean(0)
reduction: batch mean in place of sum for wv

cross_attn_rule_4
- ds = a * (da - (a * da).sum(-1, keepdims=True))
+ ds = a * (da - da.sum(-1, keepdims=True))
factor: weights a missing in the softmax's sum
    """,
    ),
    *wrong_rules(
        rotary,
        right_rotary_scores_bwd,
        draw_rotary,
        """
rotary_scores_bwd_1
- return jnp.concatenate([u1 * c + u2 * s, u2 * c - u1 * s], -1)
+ return jnp.concatenate([u1 * c - u2 * s, u2 * c + u1 * s], -1)
sign: rotated forward, not back

rotary_scores_bwd_2
- dang = dang + dk2 * k1 - dk1 * k2
+ dang = dang + dk1 * k2 - dk2 * k1
sign: sign of the angle gradient of the keys

rotary_scores_bwd_3
- dlogf = (dang * ang).sum(0)
+ dlogf = (dang * pos).sum(0)
factor: frequency exp(logf) is missing
    """,
    ),
    *wrong_rules(
        info_nce,
        right_clip_loss_bwd,
        draw_info_nce,
        """
clip_loss_bwd_1
- ds = ct * (jax.nn.softmax(cos * scale, axis=1) - jnp.eye(n)) / n
+ ds = ct * (jax.nn.softmax(cos * scale, axis=0) - jnp.eye(n)) / n
axis: softmax over axis 0 instead of 1

clip_loss_bwd_2
- dlogt = (ds * cos).sum() * scale
+ dlogt = (ds * cos).sum()
factor: exp(logt) missing

clip_loss_bwd_3
- dza = (da - a * (a * da).sum(-1, keepdims=True)) / na
+ dza = da / na
detached: norm taken for a constant

clip_loss_bwd_4
- dzb = (db - b * (b * db).sum(-1, keepdims=True)) / nb
+ dzb = (db - b * (b * db).sum(-1, keepdims=True)) / na
operand: norm of za used for zb
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        causal_attention,
        right_causal_attn_bwd,
        draw_causal_attention,
        """
causal_attn_bwd_6
- dV = P.T @ dO
+ dV = P @ dO
- dK = dS.T @ Q / jnp.sqrt(d)
+ dK = dS.T @ K / jnp.sqrt(d)
transpose: P not transposed
@ dV = P @ dO
operand: K in place of Q
@ dK = dS.T @ K / jnp.sqrt(d)
    """,
    ),
    *wrong_rules(
        multihead,
        right_mha_grads,
        draw_multihead,
        """
mha_grads_5
- g_q = jnp.einsum("hts,hse->hte", g_scores, k) * scale
+ g_q = jnp.einsum("hts,hse->hte", g_scores, k)
- g_x = g_x + jnp.einsum("hte,dhe->td", g_k, wk)
+ g_x = jnp.einsum("hte,dhe->td", g_k, wk)
factor: scale missing in g_q
@ g_q = jnp.einsum("hts,hse->hte", g_scores, k)
carry: g_x is overwritten, the query path is lost
@ g_x = jnp.einsum("hte,dhe->td", g_k, wk)

mha_grads_6
- g_wo = jnp.einsum("hte,td->hed", heads, ct)
+ g_wo = jnp.einsum("hte,td->hed", v, ct)
- g_x = g_x + jnp.einsum("hte,dhe->td", g_v, wv)
+ g_x = g_x - jnp.einsum("hte,dhe->td", g_v, wv)
operand: v in place of the heads' output
@ g_wo = jnp.einsum("hte,td->hed", v, ct)
sign: value path subtracted
@ g_x = g_x - jnp.einsum("hte,dhe->td", g_v, wv)
    """,
    ),
    *wrong_rules(
        linear_attention,
        right_linattn_vjp,
        draw_linear_attention,
        """
linattn_vjp_5
- num_bar = y_bar / den[:, None]
+ num_bar = y_bar * den[:, None]
- k_bar = fk_bar * jnp.where(k > 0, 1.0, fk)
+ k_bar = fk_bar * (k > 0)
factor: multiplied by the denominator
@ num_bar = y_bar * den[:, None]
activation: elu slope below zero is not zero
@ k_bar = fk_bar * (k > 0)
    """,
    ),
    *wrong_rules(
        cross_attention,
        right_cross_attn_rule,
        draw_cross_attention,
        """
cross_attn_rule_5
- a = jax.nn.softmax(jnp.where(seen, x @ k.T, -1e30), -1)
+ a = jax.nn.softmax(jnp.where(seen, -1e30, x @ k.T), -1)
- dmem = dk @ wk.T + dv @ wv.T
+ dmem = dk @ wk.T + dk @ wv.T
mask: padding mask is inverted
@ a = jax.nn.softmax(jnp.where(seen, -1e30, x @ k.T), -1)
operand: dk in place of dv
@ dmem = dk @ wk.T + dk @ wv.T
    """,
    ),
    *wrong_rules(
        rotary,
        right_rotary_scores_bwd,
        draw_rotary,
        """
rotary_scores_bwd_4
- dk1, dk2 = g.T @ q1, g.T @ q2
+ dk1, dk2 = g @ q1, g @ q2
- dang = dang + dk2 * k1 - dk1 * k2
+ dang = dk2 * k1 - dk1 * k2
transpose: g not transposed
@ dk1, dk2 = g @ q1, g @ q2
carry: angle gradient of the queries overwritten
@ dang = dk2 * k1 - dk1 * k2
    """,
    ),
    *wrong_rules(
        info_nce,
        right_clip_loss_bwd,
        draw_info_nce,
        """
clip_loss_bwd_5
- ds = ct * (jax.nn.softmax(cos * scale, axis=1) - jnp.eye(n)) / n
+ ds = ct * (jax.nn.softmax(cos * scale, axis=1) - jnp.eye(n))
- dzb = (db - b * (b * db).sum(-1, keepdims=True)) / nb
+ dzb = (db + b * (b * db).sum(-1, keepdims=True)) / nb
factor: 1/n is missing
@ ds = ct * (jax.nn.softmax(cos * scale, axis=1) - jnp.eye(n))
sign: projection added
@ dzb = (db + b * (b * db).sum(-1, keepdims=True)) / nb
    """,
    ),
]
