"""Attention, experts and embeddings."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal

HEADS, DH = 2, 3

TRI = jnp.tril(jnp.ones((5, 5), bool))


def fwd_causal_mha(x, wq, wk, wv, wo):
    q = jnp.einsum("td,dhe->the", x, wq)
    k = jnp.einsum("td,dhe->the", x, wk)
    v = jnp.einsum("td,dhe->the", x, wv)
    s = jnp.einsum("the,she->hts", q, k) / jnp.sqrt(DH)
    a = jax.nn.softmax(jnp.where(TRI, s, -1e9), axis=-1)
    o = jnp.einsum("hts,she->the", a, v)
    return jnp.einsum("the,hed->td", o, wo)


def draw_causal_mha(key):
    k = jax.random.split(key, 5)
    shp = (4, HEADS, DH)
    return (
        normal(k[0], (5, 4)),
        0.6 * normal(k[1], shp),
        0.6 * normal(k[2], shp),
        0.6 * normal(k[3], shp),
        0.6 * normal(k[4], (HEADS, DH, 4)),
    )


def right_causal_mha(args, ct):
    x, wq, wk, wv, wo = args
    q, k, v = (jnp.einsum("td,dhe->the", x, w) for w in (wq, wk, wv))
    s = jnp.einsum("the,she->hts", q, k) / jnp.sqrt(DH)
    s = jnp.where(TRI, s, -1e9)
    a = jax.nn.softmax(s, axis=-1)
    o = jnp.einsum("hts,she->the", a, v)
    dwo = jnp.einsum("the,td->hed", o, ct)
    do = jnp.einsum("td,hed->the", ct, wo)
    dv = jnp.einsum("hts,the->she", a, do)
    da = jnp.einsum("the,she->hts", do, v)
    ds = a * (da - jnp.sum(a * da, axis=-1, keepdims=True))
    ds = ds / jnp.sqrt(DH)
    dq = jnp.einsum("hts,she->the", ds, k)
    dk = jnp.einsum("hts,the->she", ds, q)
    dwq, dwk, dwv = (jnp.einsum("td,the->dhe", x, g) for g in (dq, dk, dv))
    dx = jnp.einsum("the,dhe->td", dq, wq) + jnp.einsum("the,dhe->td", dv, wv)
    dx = dx + jnp.einsum("the,dhe->td", dk, wk)
    return dx, dwq, dwk, dwv, dwo


DIST = jnp.abs(jnp.arange(4.0)[:, None] - jnp.arange(6.0)[None, :])


def fwd_alibi_cross(q, mem, Wkv, slope):
    k, v = jnp.split(mem @ Wkv, 2, axis=1)
    w = jax.nn.softmax(q @ k.T - jax.nn.softplus(slope) * DIST, axis=1)
    return w @ v


def draw_alibi_cross(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (4, 3)),
        normal(k[1], (6, 5)),
        0.5 * normal(k[2], (5, 6)),
        normal(k[3], ()),
    )


def right_alibi_cross(args, ct):
    q, mem, Wkv, slope = args
    kv = mem @ Wkv
    k, v = kv[:, :3], kv[:, 3:]
    w = jax.nn.softmax(q @ k.T - jax.nn.softplus(slope) * DIST, axis=1)
    v_bar = w.T @ ct
    w_bar = ct @ v.T
    z_bar = w * (w_bar - (w * w_bar).sum(1, keepdims=True))
    slope_bar = -jnp.sum(z_bar * DIST) * jax.nn.sigmoid(slope)
    q_bar = z_bar @ k
    k_bar = z_bar.T @ q
    kv_bar = jnp.concatenate([k_bar, v_bar], axis=1)
    return q_bar, kv_bar @ Wkv.T, mem.T @ kv_bar, slope_bar


def feat(u):
    return jnp.where(u > 0, u + 1, jnp.exp(jnp.minimum(u, 0.0)))


def fwd_linear_attn(q, k, v):
    fq, fk = feat(q), feat(k)
    kv = fk.T @ v
    z = fq @ fk.sum(0)
    return (fq @ kv) / z[:, None]


def draw_linear_attn(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 3)), normal(k[1], (6, 3)), normal(k[2], (6, 4))


def right_linear_attn(args, ct):
    q, k, v = args
    fq, fk = feat(q), feat(k)
    ksum = fk.sum(0)
    kv = fk.T @ v
    z = (fq @ ksum)[:, None]
    y = fq @ kv / z
    d_num = ct / z
    d_z = -(ct * y).sum(1, keepdims=True) / z
    d_fq = d_num @ kv.T + d_z * ksum
    d_kv = fq.T @ d_num
    d_ksum = (d_z * fq).sum(0)
    d_fk = v @ d_kv.T + d_ksum
    d_v = fk @ d_kv
    slope_q = jnp.where(q > 0, 1.0, feat(q))
    slope_k = jnp.where(k > 0, 1.0, jnp.exp(k))
    return d_fq * slope_q, d_fk * slope_k, d_v


DECAY = 0.8


def fwd_retention(q, k, v):
    def step(S, qkv):
        qi, ki, vi = qkv
        S = DECAY * S + jnp.outer(ki, vi)
        return S, qi @ S

    return lax.scan(step, jnp.zeros((3, 2)), (q, k, v))[1]


def draw_retention(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 3)), normal(k[1], (6, 3)), normal(k[2], (6, 2))


def right_retention(args, ct):
    q, k, v = args

    def fstep(S, kv):
        S = DECAY * S + jnp.outer(*kv)
        return S, S

    _, states = lax.scan(fstep, jnp.zeros((3, 2)), (k, v))

    def bstep(dS, inp):
        qi, ki, vi, Si, gi = inp
        dS = dS + jnp.outer(qi, gi)
        dq = Si @ gi
        dk = dS @ vi
        dv = ki @ dS
        return DECAY * dS, (dq, dk, dv)

    _, (dq, dk, dv) = lax.scan(bstep, jnp.zeros((3, 2)), (q, k, v, states, ct), reverse=True)
    return dq, dk, dv


FREQ = 0.5 ** jnp.arange(2.0)

ANG = jnp.arange(5.0)[:, None] * FREQ[None, :]


def turn(u, ang):
    a, b = u[:, 0::2], u[:, 1::2]
    c, s = jnp.cos(ang), jnp.sin(ang)
    return jnp.stack([a * c - b * s, a * s + b * c], axis=-1).reshape(u.shape)


def fwd_rope_scores(q, k, temp):
    return turn(q, ANG) @ turn(k, ANG).T / temp


def draw_rope_scores(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 4)), normal(k[1], (5, 4)), 1.5 + 0.2 * normal(k[2], ())


def right_rope_scores(args, ct):
    q, k, temp = args
    qr, kr = turn(q, ANG), turn(k, ANG)
    scores = qr @ kr.T / temp
    d_temp = -jnp.sum(ct * scores) / temp
    d_qr = ct @ kr / temp
    d_kr = ct.T @ qr / temp
    d_q = turn(d_qr, -ANG)
    d_k = turn(d_kr, -ANG)
    return d_q, d_k, d_temp


CAP = 2.0

PAD = jnp.array([1, 1, 0, 1, 1, 0], bool)


def fwd_softcap(q, k, v):
    s = CAP * jnp.tanh(q @ k.T / CAP)
    e = jnp.where(PAD, jnp.exp(s), 0.0)
    return e / e.sum(-1, keepdims=True) @ v


def draw_softcap(key):
    k = jax.random.split(key, 3)
    return 1.3 * normal(k[0], (4, 3)), 1.3 * normal(k[1], (6, 3)), normal(k[2], (6, 2))


def right_softcap(args, ct):
    q, k, v = args
    th = jnp.tanh(q @ k.T / CAP)
    e = jnp.exp(CAP * th) * PAD
    p = e / e.sum(-1, keepdims=True)
    dp = ct @ v.T
    ds = p * (dp - (dp * p).sum(-1, keepdims=True))
    dl = ds * (1 - th**2)
    return dl @ k, dl.T @ q, p.T @ ct


def fwd_cosine_attn(x, wq, wk, logs):
    q, k = x @ wq, x @ wk
    qn = q / jnp.sqrt((q * q).sum(-1, keepdims=True) + 1e-4)
    kn = k / jnp.sqrt((k * k).sum(-1, keepdims=True) + 1e-4)
    return jax.nn.softmax(jnp.exp(logs) * qn @ kn.T, axis=-1) @ x


def draw_cosine_attn(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (5, 4)),
        normal(k[1], (4, 3)),
        normal(k[2], (4, 3)),
        0.5 + 0.1 * normal(k[3], ()),
    )


def right_cosine_attn(args, ct):
    x, wq, wk, logs = args
    q, k = x @ wq, x @ wk
    rq = 1 / jnp.sqrt((q * q).sum(-1, keepdims=True) + 1e-4)
    rk = 1 / jnp.sqrt((k * k).sum(-1, keepdims=True) + 1e-4)
    qn, kn = q * rq, k * rk
    sc = jnp.exp(logs)
    att = jax.nn.softmax(sc * qn @ kn.T, axis=-1)
    datt = ct @ x.T
    dz = att * (datt - jnp.einsum("ij,ij->i", att, datt)[:, None])
    dlogs = jnp.sum(dz * (qn @ kn.T)) * sc
    dqn = sc * dz @ kn
    dkn = sc * dz.T @ qn
    dq = rq * dqn - rq**3 * q * (q * dqn).sum(-1, keepdims=True)
    dk = rk * dkn - rk**3 * k * (k * dkn).sum(-1, keepdims=True)
    dx = att.T @ ct + dq @ wq.T + dk @ wk.T
    return dx, x.T @ dq, x.T @ dk, dlogs


TOPK = jnp.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1.0]])


def fwd_moe(x, wg, we):
    e = jnp.exp(x @ wg) * TOPK
    p = e / e.sum(1, keepdims=True)
    outs = jnp.tanh(jnp.einsum("nd,kdo->nko", x, we))
    return jnp.einsum("nk,nko->no", p, outs)


def draw_moe(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 4)), normal(k[1], (4, 3)), 0.6 * normal(k[2], (3, 4, 2))


def right_moe(args, ct):
    x, wg, we = args
    e = jnp.exp(x @ wg) * TOPK
    p = e / e.sum(1, keepdims=True)
    outs = [jnp.tanh(x @ we[j]) for j in range(3)]
    g_p = jnp.stack([jnp.sum(ct * o, axis=1) for o in outs], axis=1)
    g_gate = p * (g_p - jnp.sum(p * g_p, axis=1, keepdims=True))
    g_x = g_gate @ wg.T
    g_we = []
    for j in range(3):
        pre = ct * p[:, j : j + 1] * (1 - outs[j] ** 2)
        g_we.append(x.T @ pre)
        g_x = g_x + pre @ we[j].T
    return g_x, x.T @ g_gate, jnp.stack(g_we)


def fwd_bahdanau(h, s, wh, ws, u):
    e = jnp.tanh(h @ wh + s @ ws) @ u
    return jax.nn.softmax(e) @ h


def draw_bahdanau(key):
    k = jax.random.split(key, 5)
    return (
        normal(k[0], (6, 4)),
        normal(k[1], (3,)),
        0.5 * normal(k[2], (4, 5)),
        0.5 * normal(k[3], (3, 5)),
        normal(k[4], (5,)),
    )


def right_bahdanau(args, ct):
    h, s, wh, ws, u = args
    m = jnp.tanh(h @ wh + s @ ws)
    alpha = jax.nn.softmax(m @ u)
    dalpha = h @ ct
    de = alpha * (dalpha - alpha @ dalpha)
    du = m.T @ de
    dm = jnp.outer(de, u)
    dpre = dm * (1 - m**2)
    dwh = h.T @ dpre
    dpre_s = dpre.sum(0)
    dws = jnp.outer(s, dpre_s)
    ds = ws @ dpre_s
    dh = jnp.outer(alpha, ct) + dpre @ wh.T
    return dh, ds, dwh, dws, du


IDS = jnp.array([[0, 2, 2, 5], [1, 2, 4, 0]])


def fwd_embed_ln(table, posn, g):
    e = table[IDS] * 2.0 + posn
    mu = e.mean(-1, keepdims=True)
    r = 1 / jnp.sqrt(((e - mu) ** 2).mean(-1, keepdims=True) + 1e-5)
    return (e - mu) * r * g


def draw_embed_ln(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6, 5)), normal(k[1], (4, 5)), 1 + 0.3 * normal(k[2], (5,))


def right_embed_ln(args, ct):
    table, posn, g = args
    e = table[IDS] * 2.0 + posn
    c = e - e.mean(-1, keepdims=True)
    r = lax.rsqrt((c * c).mean(-1, keepdims=True) + 1e-5)
    n = c * r
    dg = jnp.einsum("btd,btd->d", ct, n)
    dn = ct * g
    dc = dn - n * (dn * n).mean(-1, keepdims=True)
    de = r * (dc - dn.mean(-1, keepdims=True))
    dpos = de.sum(0)
    dtable = jnp.zeros_like(table).at[IDS].add(2.0 * de)
    return dtable, dpos, dg


SINGLE = [
    *wrong_rules(
        fwd_causal_mha,
        right_causal_mha,
        draw_causal_mha,
        """
causal_mha_b
- ds = a * (da - jnp.sum(a * da, axis=-1, keepdims=True))
+ ds = a * (da - jnp.sum(a * da, axis=-2, keepdims=True))
axis: softmax correction summed over queries
    """,
    ),
    *wrong_rules(
        fwd_alibi_cross,
        right_alibi_cross,
        draw_alibi_cross,
        """
alibi_cross_d
- kv_bar = jnp.concatenate([k_bar, v_bar], axis=1)
+ kv_bar = jnp.concatenate([v_bar, k_bar], axis=1)
index: key and value halves swapped
    """,
    ),
    *wrong_rules(
        fwd_linear_attn,
        right_linear_attn,
        draw_linear_attn,
        """
linear_attn_f
- slope_k = jnp.where(k > 0, 1.0, jnp.exp(k))
+ slope_k = jnp.where(k > 0, 1.0, 0.0)
activation: relu slope in place of that of elu + 1
    """,
    ),
    *wrong_rules(
        fwd_retention,
        right_retention,
        draw_retention,
        """
retention_a
- dS = dS + jnp.outer(qi, gi)
+ dS = jnp.outer(qi, gi)
carry: carry overwritten in place of added to
    """,
    ),
    *wrong_rules(
        fwd_rope_scores,
        right_rope_scores,
        draw_rope_scores,
        """
rope_scores_c
- d_q = turn(d_qr, -ANG)
+ d_q = turn(d_qr, ANG)
sign: rotated forwards in place of back
    """,
    ),
    *wrong_rules(
        fwd_softcap,
        right_softcap,
        draw_softcap,
        """
softcap_c
- dl = ds * (1 - th**2)
+ dl = ds * (1 - th**2) * CAP
factor: cap counted though it cancels with the inner 1/cap
    """,
    ),
    *wrong_rules(
        fwd_cosine_attn,
        right_cosine_attn,
        draw_cosine_attn,
        """
cosine_attn_d
- dx = att.T @ ct + dq @ wq.T + dk @ wk.T
+ dx = dq @ wq.T + dk @ wk.T
term: value path to x forgotten
    """,
    ),
    *wrong_rules(
        fwd_moe,
        right_moe,
        draw_moe,
        """
moe_e
- g_x = g_x + pre @ we[j].T
+ g_x = pre @ we[j].T
carry: sum over the experts overwritten
    """,
    ),
    *wrong_rules(
        fwd_bahdanau,
        right_bahdanau,
        draw_bahdanau,
        """
bahdanau_c
- dpre_s = dpre.sum(0)
+ dpre_s = dpre[-1]
reduction: broadcast state: only the last position in place of the sum
    """,
    ),
    *wrong_rules(
        fwd_embed_ln,
        right_embed_ln,
        draw_embed_ln,
        """
embed_ln_d
- dtable = jnp.zeros_like(table).at[IDS].add(2.0 * de)
+ dtable = jnp.zeros_like(table).at[IDS].set(2.0 * de)
index: set overwrites repeated ids
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        fwd_causal_mha,
        right_causal_mha,
        draw_causal_mha,
        """
causal_mha_ah
- s = jnp.where(TRI, s, -1e9)
+ s = jnp.where(TRI.T, s, -1e9)
- dv = jnp.einsum("hts,the->she", a, do)
+ dv = jnp.einsum("hts,she->the", a, do)
transpose: attention matrix not transposed for dv
@ dv = jnp.einsum("hts,she->the", a, do)
mask: causal mask transposed
@ s = jnp.where(TRI.T, s, -1e9)
    """,
    ),
    *wrong_rules(
        fwd_linear_attn,
        right_linear_attn,
        draw_linear_attn,
        """
linear_attn_bc
- d_fq = d_num @ kv.T + d_z * ksum
+ d_fq = d_num @ kv.T
- d_kv = fq.T @ d_num
+ d_kv = fq.T @ ct
detached: normaliser taken for constant in q
@ d_fq = d_num @ kv.T
operand: ct in place of ct / z
@ d_kv = fq.T @ ct
    """,
    ),
    *wrong_rules(
        fwd_retention,
        right_retention,
        draw_retention,
        """
retention_dc
- dv = ki @ dS
+ dv = qi @ dS
- _, (dq, dk, dv) = lax.scan(bstep, jnp.zeros((3, 2)), (q, k, v, states, ct), reverse=True)
+ _, (dq, dk, dv) = lax.scan(bstep, jnp.zeros((3, 2)), (q, k, v, states, ct))
operand: q in place of k
@ dv = qi @ dS
index: scan backward runs forwards in time
@ _, (dq, dk, dv) = lax.scan(bstep, jnp.zeros((3, 2)), (q, k, v, states, ct))
    """,
    ),
    *wrong_rules(
        fwd_softcap,
        right_softcap,
        draw_softcap,
        """
softcap_ba
- e = jnp.exp(CAP * th) * PAD
+ e = jnp.exp(CAP * th)
- dl = ds * (1 - th**2)
+ dl = ds * (1 - th)
activation: slope of tanh without the square
@ dl = ds * (1 - th)
mask: padding mask left out
@ e = jnp.exp(CAP * th)
    """,
    ),
    *wrong_rules(
        fwd_moe,
        right_moe,
        draw_moe,
        """
moe_acd
- g_p = jnp.stack([jnp.sum(ct * o, axis=1) for o in outs], axis=1)
+ g_p = jnp.stack([jnp.sum(ct * o, axis=1) for o in outs[::-1]], axis=1)
- g_x = g_gate @ wg.T
+ g_x = jnp.zeros_like(x)
- pre = ct * p[:, j : j + 1] * (1 - outs[j] ** 2)
+ pre = ct * (1 - outs[j] ** 2)
index: experts in the wrong order
@ g_p = jnp.stack([jnp.sum(ct * o, axis=1) for o in outs[::-1]], axis=1)
term: router path to x forgotten
@ g_x = jnp.zeros_like(x)
factor: gate weight missing on the expert path
@ pre = ct * (1 - outs[j] ** 2)
    """,
    ),
    *wrong_rules(
        fwd_bahdanau,
        right_bahdanau,
        draw_bahdanau,
        """
bahdanau_abd
- de = alpha * (dalpha - alpha @ dalpha)
+ de = alpha * (dalpha - dalpha.mean())
- dpre = dm * (1 - m**2)
+ dpre = dm * m * (1 - m)
- dh = jnp.outer(alpha, ct) + dpre @ wh.T
+ dh = jnp.outer(alpha, ct)
reduction: plain mean in place of the weighted one
@ de = alpha * (dalpha - dalpha.mean())
activation: sigmoid slope for a tanh
@ dpre = dm * m * (1 - m)
detached: attention weights taken for constant in h
@ dh = jnp.outer(alpha, ct)
    """,
    ),
    *wrong_rules(
        fwd_embed_ln,
        right_embed_ln,
        draw_embed_ln,
        """
embed_ln_cf
- de = r * (dc - dn.mean(-1, keepdims=True))
+ de = dc - dn.mean(-1, keepdims=True)
- dpos = de.sum(0)
+ dpos = de.mean(0)
reduction: positions averaged over the batch
@ dpos = de.mean(0)
factor: inverse standard deviation left out
@ de = dc - dn.mean(-1, keepdims=True)
    """,
    ),
]
