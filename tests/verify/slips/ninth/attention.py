"""Rules with mistakes in the derivatives of attention."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

CAUSAL = jnp.tril(jnp.ones((5, 5), bool))

PAD = jnp.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])


def causal_fwd(Q, K, V):
    S = Q @ K.T / jnp.sqrt(Q.shape[-1])
    S = jnp.where(CAUSAL, S, -1e9)
    return jax.nn.softmax(S, -1) @ V


def causal_draw(key):
    return tuple(jax.random.normal(k, (5, 4)) for k in jax.random.split(key, 3))


def right_causal(args, ct):
    Q, K, V = args
    scale = Q.shape[-1] ** -0.5
    S = jnp.where(CAUSAL, (Q @ K.T) * scale, -jnp.inf)
    P = jax.nn.softmax(S, axis=-1)
    dV = P.T @ ct
    dP = ct @ V.T
    D = (dP * P).sum(-1, keepdims=True)
    dS = P * (dP - D)
    dS = dS * scale
    dQ = dS @ K
    dK = dS.T @ Q
    return dQ, dK, dV


def mha_fwd(x, Wq, Wk, Wv, Wo):
    q = jnp.einsum("btd,dhe->bhte", x, Wq)
    k = jnp.einsum("btd,dhe->bhte", x, Wk)
    v = jnp.einsum("btd,dhe->bhte", x, Wv)
    a = jax.nn.softmax(jnp.einsum("bhte,bhse->bhts", q, k) / jnp.sqrt(3.0), axis=-1)
    o = jnp.einsum("bhts,bhse->bhte", a, v)
    return jnp.einsum("bhte,hed->btd", o, Wo)


def mha_draw(key):
    k = jax.random.split(key, 5)
    n = jax.random.normal
    return n(k[0], (2, 3, 4)), n(k[1], (4, 2, 3)), n(k[2], (4, 2, 3)), n(k[3], (4, 2, 3)), n(k[4], (2, 3, 4))


def right_mha(args, ct):
    x, Wq, Wk, Wv, Wo = args
    q, k, v = (jnp.einsum("btd,dhe->bhte", x, W) for W in (Wq, Wk, Wv))
    a = jax.nn.softmax(jnp.einsum("bhte,bhse->bhts", q, k) / jnp.sqrt(3.0), -1)
    o = a @ v
    gWo = jnp.einsum("bhte,btd->hed", o, ct)
    go = jnp.einsum("btd,hed->bhte", ct, Wo)
    gv = jnp.einsum("bhts,bhte->bhse", a, go)
    ga = jnp.einsum("bhte,bhse->bhts", go, v)
    gs = a * (ga - jnp.sum(ga * a, -1, keepdims=True))
    gs = gs / jnp.sqrt(3.0)
    gq = jnp.einsum("bhts,bhse->bhte", gs, k)
    gk = jnp.einsum("bhts,bhte->bhse", gs, q)
    gWq = jnp.einsum("btd,bhte->dhe", x, gq)
    gWk = jnp.einsum("btd,bhte->dhe", x, gk)
    gWv = jnp.einsum("btd,bhte->dhe", x, gv)
    gx = jnp.einsum("bhte,dhe->btd", gq, Wq)
    gx += jnp.einsum("bhte,dhe->btd", gk, Wk)
    gx += jnp.einsum("bhte,dhe->btd", gv, Wv)
    return gx, gWq, gWk, gWv, gWo


def phi(u):
    return jax.nn.elu(u) + 1.0


def linattn_fwd(q, k, v):
    fq, fk = phi(q), phi(k)
    kv = fk.T @ v
    z = fk.sum(0)
    return (fq @ kv) / (fq @ z)[:, None]


def linattn_draw(key):
    return tuple(jax.random.normal(s, (4, 3)) for s in jax.random.split(key, 3))


def right_linattn(args, ct):
    q, k, v = args
    fq, fk = phi(q), phi(k)
    KV = fk.T @ v
    z = fk.sum(0)
    n = fq @ KV
    d = fq @ z
    n_bar = ct / d[:, None]
    d_bar = -(ct * n).sum(1) / d**2
    fq_bar = n_bar @ KV.T + d_bar[:, None] * z
    KV_bar = fq.T @ n_bar
    z_bar = fq.T @ d_bar
    fk_bar = v @ KV_bar.T
    fk_bar = fk_bar + z_bar
    v_bar = fk @ KV_bar
    slope = lambda u: jnp.where(u > 0, 1.0, jnp.exp(u))
    q_bar = fq_bar * slope(q)
    k_bar = fk_bar * slope(k)
    return q_bar, k_bar, v_bar


def cross_fwd(x, mem, Wq, Wkv):
    q = x @ Wq
    kv = mem @ Wkv
    s = jnp.einsum("bid,bjd->bij", q, kv) * 0.5
    s = jnp.where(PAD[:, None, :] > 0, s, -1e9)
    w = jax.nn.softmax(s, -1)
    return jnp.einsum("bij,bjd->bid", w, kv) + x


def cross_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (2, 3, 4)),
        jax.random.normal(b, (2, 4, 5)),
        jax.random.normal(c, (4, 4)) * 0.5,
        jax.random.normal(d, (5, 4)) * 0.5,
    )


def right_cross(args, ct):
    x, mem, Wq, Wkv = args
    q = x @ Wq
    kv = mem @ Wkv
    e = jnp.exp(jnp.einsum("bid,bjd->bij", q, kv) * 0.5) * PAD[:, None, :]
    w = e / e.sum(-1, keepdims=True)
    dw = jnp.einsum("bid,bjd->bij", ct, kv)
    dkv_val = jnp.einsum("bij,bid->bjd", w, ct)
    ds = w * (dw - jnp.einsum("bij,bij->bi", w, dw)[..., None])
    dq = jnp.einsum("bij,bjd->bid", ds, kv) * 0.5
    dkv_key = jnp.einsum("bij,bid->bjd", ds, q) * 0.5
    dkv = dkv_val + dkv_key
    dWq = jnp.einsum("bid,bie->de", x, dq)
    dWkv = jnp.einsum("bjd,bje->de", mem, dkv)
    dx = dq @ Wq.T + ct
    dmem = dkv @ Wkv.T
    return dx, dmem, dWq, dWkv


COS = jnp.cos(jnp.arange(4)[:, None] * jnp.array([1.0, 0.3]))

SIN = jnp.sin(jnp.arange(4)[:, None] * jnp.array([1.0, 0.3]))


def rope_fwd(q, k):
    def rot(u):
        a, b = u[..., :2], u[..., 2:]
        return jnp.concatenate([a * COS - b * SIN, a * SIN + b * COS], -1)

    return rot(q) @ rot(k).T


def rope_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 4)), jax.random.normal(b, (4, 4))


def right_rope(args, ct):
    q, k = args

    def rot(u):
        a, b = u[:, :2], u[:, 2:]
        return jnp.concatenate([a * COS - b * SIN, a * SIN + b * COS], -1)

    def unrot(g):
        ga, gb = g[:, :2], g[:, 2:]
        first = ga * COS + gb * SIN
        second = gb * COS - ga * SIN
        return jnp.concatenate([first, second], axis=-1)

    g_rq = ct @ rot(k)
    g_rk = ct.T @ rot(q)
    return unrot(g_rq), unrot(g_rk)


def moe_fwd(x, Wg, We):
    gate = jax.nn.softmax(x @ Wg, axis=-1)
    h = jax.nn.relu(jnp.einsum("nd,edf->nef", x, We))
    return jnp.einsum("ne,nef->nf", gate, h)


def moe_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 3)), jax.random.normal(b, (3, 4)), jax.random.normal(c, (4, 3, 3))


def right_moe(args, ct):
    x, Wg, We = args
    g = jax.nn.softmax(x @ Wg, axis=-1)
    pre = jnp.einsum("nd,edf->nef", x, We)
    h = jnp.maximum(pre, 0)
    dL_dg = jnp.einsum("nf,nef->ne", ct, h)
    dL_dh = g[:, :, None] * ct[:, None, :]
    dL_dpre = jnp.where(pre > 0, dL_dh, 0.0)
    dL_dWe = jnp.einsum("nd,nef->edf", x, dL_dpre)
    dL_dlogit = g * (dL_dg - (g * dL_dg).sum(axis=1, keepdims=True))
    dL_dWg = x.T @ dL_dlogit
    dL_dx = dL_dlogit @ Wg.T
    dL_dx = dL_dx + jnp.einsum("nef,edf->nd", dL_dpre, We)
    return dL_dx, dL_dWg, dL_dWe


SINGLE = [
    *wrong_rules(
        causal_fwd,
        right_causal,
        causal_draw,
        """
causal_a
- D = (dP * P).sum(-1, keepdims=True)
+ D = (dP * P).sum(0, keepdims=True)
axis: row sum of the softmax Jacobian over the wrong axis

causal_c
- dS = P * (dP - D)
-     dS = dS * scale
+ dS = P * (dP - D)
factor: 1/sqrt(d) scale left out
@ dQ = dS @ K
@ dK = dS.T @ Q
    """,
    ),
    *wrong_rules(
        mha_fwd,
        right_mha,
        mha_draw,
        """
mha_a
- gv = jnp.einsum("bhts,bhte->bhse", a, go)
+ gv = jnp.einsum("bhts,bhse->bhte", a, go)
transpose: attention weights not transposed for the values
    """,
    ),
    *wrong_rules(
        linattn_fwd,
        right_linattn,
        linattn_draw,
        """
linattn_a
- fk_bar = v @ KV_bar.T
-     fk_bar = fk_bar + z_bar
+ fk_bar = v @ KV_bar.T
term: path of the keys through the normaliser left out
@ k_bar = fk_bar * slope(k)
@ fk_bar = v @ KV_bar.T
    """,
    ),
    *wrong_rules(
        cross_fwd,
        right_cross,
        cross_draw,
        """
cross_a
- dkv = dkv_val + dkv_key
+ dkv = dkv_val
term: key path of the shared kv left out
    """,
    ),
    *wrong_rules(
        rope_fwd,
        right_rope,
        rope_draw,
        """
rope_a
- second = gb * COS - ga * SIN
+ second = gb * COS + ga * SIN
sign: sign of the inverse rotation
    """,
    ),
    *wrong_rules(
        moe_fwd,
        right_moe,
        moe_draw,
        """
moe_a
- dL_dlogit = g * (dL_dg - (g * dL_dg).sum(axis=1, keepdims=True))
+ dL_dlogit = g * (1 - g) * dL_dg
term: only the diagonal of the softmax Jacobian
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        causal_fwd,
        right_causal,
        causal_draw,
        """
causal_b
- S = jnp.where(CAUSAL, (Q @ K.T) * scale, -jnp.inf)
+ S = (Q @ K.T) * scale
- dK = dS.T @ Q
+ dK = dS @ Q
mask: causal mask missing in the recomputed scores
@ S = (Q @ K.T) * scale
transpose: dS not transposed for the keys
@ dK = dS @ Q
    """,
    ),
    *wrong_rules(
        mha_fwd,
        right_mha,
        mha_draw,
        """
mha_b
- gWo = jnp.einsum("bhte,btd->hed", o, ct)
+ gWo = jnp.einsum("bhte,btd->hed", v, ct)
- gs = a * (ga - jnp.sum(ga * a, -1, keepdims=True))
+ gs = a * (ga - jnp.sum(ga, -1, keepdims=True))
- gx += jnp.einsum("bhte,dhe->btd", gk, Wk)
+ gx += jnp.einsum("bhte,dhe->btd", gk, Wq)
operand: Wq in place of Wk
@ gx += jnp.einsum("bhte,dhe->btd", gk, Wq)
factor: weights a missing in the sum of the softmax Jacobian
@ gs = a * (ga - jnp.sum(ga, -1, keepdims=True))
operand: v in place of the attended o
@ gWo = jnp.einsum("bhte,btd->hed", v, ct)
    """,
    ),
    *wrong_rules(
        linattn_fwd,
        right_linattn,
        linattn_draw,
        """
linattn_b
- d_bar = -(ct * n).sum(1) / d**2
+ d_bar = -(ct * n).sum(1) / d
- q_bar = fq_bar * slope(q)
+ q_bar = fq_bar * slope(fq)
factor: denominator not squared
@ d_bar = -(ct * n).sum(1) / d
activation: elu slope taken at its own output
@ q_bar = fq_bar * slope(fq)
    """,
    ),
    *wrong_rules(
        cross_fwd,
        right_cross,
        cross_draw,
        """
cross_b
- dq = jnp.einsum("bij,bjd->bid", ds, kv) * 0.5
+ dq = jnp.einsum("bij,bjd->bid", ds, kv)
- dWkv = jnp.einsum("bjd,bje->de", mem, dkv)
+ dWkv = jnp.einsum("bjd,bje->de", mem, dkv_val)
- dx = dq @ Wq.T + ct
+ dx = dq @ Wq + ct
factor: score scale missing in the query gradient
@ dq = jnp.einsum("bij,bjd->bid", ds, kv)
transpose: Wq not transposed
@ dx = dq @ Wq + ct
term: only the value path for Wkv
@ dWkv = jnp.einsum("bjd,bje->de", mem, dkv_val)
    """,
    ),
    *wrong_rules(
        rope_fwd,
        right_rope,
        rope_draw,
        """
rope_b
- first = ga * COS + gb * SIN
+ first = ga * COS - gb * SIN
- g_rk = ct.T @ rot(q)
+ g_rk = ct.T @ q
sign: rotated forward again instead of back
@ first = ga * COS - gb * SIN
operand: unrotated q used
@ g_rk = ct.T @ q
    """,
    ),
    *wrong_rules(
        moe_fwd,
        right_moe,
        moe_draw,
        """
moe_b
- dL_dpre = jnp.where(pre > 0, dL_dh, 0.0)
+ dL_dpre = dL_dh
- dL_dx = dL_dlogit @ Wg.T
+ dL_dx = dL_dg @ Wg.T
mask: relu mask left out
@ dL_dpre = dL_dh
operand: gradient before the softmax Jacobian used for x
@ dL_dx = dL_dg @ Wg.T
    """,
    ),
]
