"""Rules with mistakes in the derivatives of attention."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

T, D, H = 5, 4, 2

CAUSAL = jnp.tril(jnp.ones((T, T), dtype=bool))

PAD = jnp.array([True, True, True, True, False, False])


def causal_attn(q, k, v):
    s = q @ k.T / jnp.sqrt(q.shape[-1])
    s = jnp.where(CAUSAL, s, -1e9)
    return jax.nn.softmax(s, axis=-1) @ v


def right_causal_attn_bwd(res, g):
    q, k, v = res
    scale = q.shape[-1] ** -0.5
    s = jnp.where(CAUSAL, scale * (q @ k.T), -1e9)
    p = jax.nn.softmax(s, axis=-1)
    gv = p.T @ g
    gp = g @ v.T
    gs = p * (gp - jnp.sum(p * gp, axis=-1, keepdims=True))
    gq = scale * gs @ k
    gk = scale * gs.T @ q
    return gq, gk, gv


def mha(x, wq, wk, wv, wo):
    q, k, v = (jnp.einsum("td,dhe->hte", x, w) for w in (wq, wk, wv))
    a = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k) / 3**0.5)
    return jnp.einsum("hts,hse,hed->td", a, v, wo)


def right_mha_bwd(res, g):
    x, wq, wk, wv, wo = res
    proj = lambda w: jnp.einsum("td,dhe->hte", x, w)
    q, k, v = proj(wq), proj(wk), proj(wv)
    a = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k) / 3**0.5)
    o = jnp.einsum("hts,hse->hte", a, v)
    g_wo = jnp.einsum("hte,td->hed", o, g)
    g_o = jnp.einsum("td,hed->hte", g, wo)
    g_v = jnp.einsum("hts,hte->hse", a, g_o)
    g_a = jnp.einsum("hte,hse->hts", g_o, v)
    g_s = a * (g_a - (a * g_a).sum(-1, keepdims=True)) / 3**0.5
    g_q = jnp.einsum("hts,hse->hte", g_s, k)
    g_k = jnp.einsum("hts,hte->hse", g_s, q)
    back = lambda gh: jnp.einsum("td,hte->dhe", x, gh)
    g_x = sum(jnp.einsum("hte,dhe->td", gh, w) for gh, w in ((g_q, wq), (g_k, wk), (g_v, wv)))
    return g_x, back(g_q), back(g_k), back(g_v), g_wo


def linear_attn(q, k, v):
    fq, fk = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    kv = fk.T @ v
    z = fk.sum(0)
    return (fq @ kv) / (fq @ z)[:, None]


def right_linear_attn_bwd(res, g):
    q, k, v = res
    phi = lambda t: jnp.where(t > 0, t + 1, jnp.exp(t))
    dphi = lambda t: jnp.where(t > 0, 1.0, jnp.exp(t))
    fq, fk = phi(q), phi(k)
    kv, z = fk.T @ v, fk.sum(0)
    den = (fq @ z)[:, None]
    y = (fq @ kv) / den
    g_num = g / den
    g_den = -jnp.sum(g * y, axis=1) / den[:, 0]
    g_fq = g_num @ kv.T + g_den[:, None] * z
    g_kv = fq.T @ g_num
    g_z = g_den @ fq
    g_fk = v @ g_kv.T + g_z
    g_v = fk @ g_kv
    return g_fq * dphi(q), g_fk * dphi(k), g_v


def cross_attn(x, mem, wq, wk):
    s = (x @ wq) @ (mem @ wk).T
    s = jnp.where(PAD, s, -jnp.inf)
    return jax.nn.softmax(s, axis=1) @ mem


def right_cross_attn_bwd(res, g):
    x, mem, wq, wk = res
    q, k = x @ wq, mem @ wk
    p = jax.nn.softmax(jnp.where(PAD, q @ k.T, -jnp.inf), axis=1)
    g_mem = p.T @ g
    gp = g @ mem.T
    gs = p * (gp - (p * gp).sum(1, keepdims=True))
    g_q, g_k = gs @ k, gs.T @ q
    g_wq = x.T @ g_q
    g_wk = mem.T @ g_k
    g_x = g_q @ wq.T
    g_mem = g_mem + g_k @ wk.T
    return g_x, g_mem, g_wq, g_wk


ANGLES = jnp.outer(jnp.arange(T), jnp.array([1.0, 0.3]))


def rotary_scores(q, k):
    c, s = jnp.cos(ANGLES), jnp.sin(ANGLES)

    def rot(x):
        a, b = x[:, :2], x[:, 2:]
        return jnp.concatenate([a * c - b * s, a * s + b * c], axis=1)

    return rot(q) @ rot(k).T


def right_rotary_scores_bwd(res, g):
    q, k = res
    c, s = jnp.cos(ANGLES), jnp.sin(ANGLES)
    rq = jnp.concatenate([q[:, :2] * c - q[:, 2:] * s, q[:, :2] * s + q[:, 2:] * c], axis=1)
    rk = jnp.concatenate([k[:, :2] * c - k[:, 2:] * s, k[:, :2] * s + k[:, 2:] * c], axis=1)
    g_rq = g @ rk
    g_rk = g.T @ rq

    def unrot(y):
        a, b = y[:, :2], y[:, 2:]
        first = a * c + b * s
        second = b * c - a * s
        return jnp.concatenate([first, second], axis=1)

    return unrot(g_rq), unrot(g_rk)


def pooled_query(x, u, tau):
    p = jax.nn.softmax((x @ u) / tau)
    return p @ x


def right_pooled_query_bwd(res, g):
    x, u, tau = res
    e = x @ u
    p = jax.nn.softmax(e / tau)
    gp = x @ g
    gs = p * (gp - p @ gp)
    ge = gs / tau
    gtau = -jnp.sum(gs * e) / tau**2
    gx = jnp.outer(ge, u) + jnp.outer(p, g)
    return gx, x.T @ ge, gtau


def draw_qkv(key):
    return tuple(jax.random.normal(k, (T, D)) for k in jax.random.split(key, 3))


def draw_mha(key):
    ks = jax.random.split(key, 5)
    ws = [jax.random.normal(k, (6, H, 3)) * 0.5 for k in ks[:3]]
    return (jax.random.normal(ks[3], (T, 6)), *ws, jax.random.normal(ks[4], (H, 3, 6)))


def draw_cross(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (4, 3)),
        jax.random.normal(b, (6, 3)),
        jax.random.normal(c, (3, 3)),
        jax.random.normal(d, (3, 3)),
    )


def draw_qk(key):
    return draw_qkv(key)[:2]


def draw_pool(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (6, 3)), jax.random.normal(b, (3,)), jnp.float32(1.7)


SINGLE = [
    *wrong_rules(
        causal_attn,
        right_causal_attn_bwd,
        draw_qkv,
        """
causal_attn_bwd
- gs = p * (gp - jnp.sum(p * gp, axis=-1, keepdims=True))
+ gs = p * (gp - jnp.sum(p * gp, axis=0, keepdims=True))
axis: softmax backward sums over queries instead of keys
    """,
    ),
    *wrong_rules(
        mha,
        right_mha_bwd,
        draw_mha,
        """
mha_bwd
- g_k = jnp.einsum("hts,hte->hse", g_s, q)
+ g_k = jnp.einsum("hst,hte->hse", g_s, q)
transpose: letters s and t of the score gradient exchanged
    """,
    ),
    *wrong_rules(
        linear_attn,
        right_linear_attn_bwd,
        draw_qkv,
        """
linear_attn_bwd
- g_fk = v @ g_kv.T + g_z
+ g_fk = v @ g_kv.T
term: the normaliser's dependence on the keys is missing
    """,
    ),
    *wrong_rules(
        cross_attn,
        right_cross_attn_bwd,
        draw_cross,
        """
cross_attn_bwd
- g_mem = g_mem + g_k @ wk.T
+ g_mem = g_mem + g_k @ wq.T
operand: keys were made by wk, their gradient goes back through wk
    """,
    ),
    *wrong_rules(
        rotary_scores,
        right_rotary_scores_bwd,
        draw_qk,
        """
rotary_scores_bwd
- second = b * c - a * s
+ second = b * c + a * s
sign: the inverse rotation needs minus sin in the second half
    """,
    ),
    *wrong_rules(
        pooled_query,
        right_pooled_query_bwd,
        draw_pool,
        """
pooled_query_bwd
- gtau = -jnp.sum(gs * e) / tau**2
+ gtau = -jnp.sum(gs * e) / tau
factor: derivative of 1/tau is -1/tau**2
    """,
    ),
]
