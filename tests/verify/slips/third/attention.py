"""Rules with mistakes in the derivatives of attention."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


T, D, HEADS, S = 5, 4, 2, 6

CAUSAL = jnp.tril(jnp.ones((T, T), bool))

KEYMASK = jnp.array([True, True, False, True, True, False])

DECAY = 0.8

RELPOS = jnp.arange(T)[:, None] - jnp.arange(T)[None, :] + T - 1


def causal_attention(q, k, v):
    s = q @ k.T / np.sqrt(D)
    p = jax.nn.softmax(jnp.where(CAUSAL, s, -1e9), axis=-1)
    return p @ v


def draw_qkv(key):
    return normal(key, (T, D), (T, D), (T, D))


def multi_head(x, wq, wk, wv, wo):
    q = jnp.einsum("td,hde->hte", x, wq)
    k = jnp.einsum("td,hde->hte", x, wk)
    v = jnp.einsum("td,hde->hte", x, wv)
    a = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k) * 0.5, axis=-1)
    return jnp.einsum("hts,hse,hed->td", a, v, wo)


def draw_heads(key):
    x, wq, wk, wv, wo = normal(key, (T, D), (HEADS, D, D), (HEADS, D, D), (HEADS, D, D), (HEADS, D, D))
    return x, wq * 0.5, wk * 0.5, wv, wo


def feature(z):
    return jax.nn.elu(z) + 1.0


def linear_attention(q, k, v):
    fq, fk = feature(q), feature(k)
    kv = fk.T @ v
    num = fq @ kv
    den = fq @ fk.sum(0)
    return num / den[:, None]


def cross_attention(x, mem, wq, wkv):
    q = x @ wq
    kv = mem @ wkv
    k, v = kv[:, :D], kv[:, D:]
    s = jnp.where(KEYMASK[None, :], q @ k.T * D**-0.5, -jnp.inf)
    return jax.nn.softmax(s, axis=-1) @ v


def draw_cross(key):
    return normal(key, (T, D), (S, 3), (D, D), (3, 2 * D))


def relative_attention(q, k, v, bias):
    s = q @ k.T + bias[RELPOS]
    p = jax.nn.softmax(s, axis=-1)
    return p @ v


def draw_relative(key):
    return normal(key, (T, D), (T, D), (T, D), (2 * T - 1,))


def retention(q, k, v):
    state = jnp.zeros((D, D))
    outs = []
    for t in range(T):
        state = DECAY * state + jnp.outer(k[t], v[t])
        outs.append(q[t] @ state)
    return jnp.stack(outs)


def right_causal_attention(args, ct):
    q, k, v = args
    scale = 1.0 / np.sqrt(D)
    s = q @ k.T * scale
    p = jax.nn.softmax(jnp.where(CAUSAL, s, -1e9), axis=-1)
    dv = p.T @ ct
    dp = ct @ v.T
    ds = p * (dp - jnp.sum(dp * p, axis=-1, keepdims=True))
    dq = ds @ k * scale
    dk = ds.T @ q * scale
    return dq, dk, dv


def right_multi_head(args, ct):
    x, wq, wk, wv, wo = args
    q = jnp.einsum("td,hde->hte", x, wq)
    k = jnp.einsum("td,hde->hte", x, wk)
    v = jnp.einsum("td,hde->hte", x, wv)
    a = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k) * 0.5, axis=-1)
    ctx = jnp.einsum("hts,hse->hte", a, v)
    d_wo = jnp.einsum("hte,td->hed", ctx, ct)
    d_ctx = jnp.einsum("td,hed->hte", ct, wo)
    d_a = jnp.einsum("hte,hse->hts", d_ctx, v)
    d_v = jnp.einsum("hts,hte->hse", a, d_ctx)
    d_s = a * (d_a - (a * d_a).sum(-1, keepdims=True)) * 0.5
    d_q = jnp.einsum("hts,hse->hte", d_s, k)
    d_k = jnp.einsum("hts,hte->hse", d_s, q)
    d_wq = jnp.einsum("td,hte->hde", x, d_q)
    d_wk = jnp.einsum("td,hte->hde", x, d_k)
    d_wv = jnp.einsum("td,hte->hde", x, d_v)
    d_x = jnp.einsum("hte,hde->td", d_q, wq)
    d_x = d_x + jnp.einsum("hte,hde->td", d_k, wk)
    d_x = d_x + jnp.einsum("hte,hde->td", d_v, wv)
    return d_x, d_wq, d_wk, d_wv, d_wo


def right_linear_attention(args, ct):
    q, k, v = args
    fq, fk = feature(q), feature(k)
    kv, z = fk.T @ v, fk.sum(0)
    num, den = fq @ kv, (fq @ z)[:, None]
    d_num = ct / den
    d_den = -jnp.sum(ct * num, axis=1) / den[:, 0] ** 2
    d_fq = d_num @ kv.T + d_den[:, None] * z
    d_kv = fq.T @ d_num
    d_z = fq.T @ d_den
    d_fk = v @ d_kv.T + d_z
    d_v = fk @ d_kv
    d_q = d_fq * jnp.where(q > 0, 1.0, jnp.exp(q))
    d_k = d_fk * jnp.where(k > 0, 1.0, jnp.exp(k))
    return d_q, d_k, d_v


def right_cross_attention(args, ct):
    x, mem, wq, wkv = args
    q = x @ wq
    k, v = jnp.split(mem @ wkv, 2, axis=1)
    s = jnp.where(KEYMASK[None, :], q @ k.T * D**-0.5, -jnp.inf)
    p = jax.nn.softmax(s, axis=-1)
    gp = ct @ v.T
    gs = p * (gp - (gp * p).sum(-1, keepdims=True))
    gs = gs * D**-0.5
    gq = gs @ k
    gkv = jnp.concatenate([gs.T @ q, p.T @ ct], axis=1)
    return gq @ wq.T, gkv @ wkv.T, x.T @ gq, mem.T @ gkv


def right_relative_attention(args, ct):
    q, k, v, bias = args
    p = jax.nn.softmax(q @ k.T + bias[RELPOS], axis=-1)
    d_v = p.T @ ct
    d_p = ct @ v.T
    d_s = p * d_p
    d_s = d_s - p * d_s.sum(-1, keepdims=True)
    d_bias = jnp.zeros_like(bias).at[RELPOS].add(d_s)
    return d_s @ k, d_s.T @ q, d_v, d_bias


def right_retention(args, ct):
    q, k, v = args
    state = jnp.zeros((D, D))
    states = []
    for t in range(T):
        state = DECAY * state + jnp.outer(k[t], v[t])
        states.append(state)
    d_q, d_k, d_v = jnp.zeros_like(q), jnp.zeros_like(k), jnp.zeros_like(v)
    d_state = jnp.zeros((D, D))
    for t in reversed(range(T)):
        d_q = d_q.at[t].set(states[t] @ ct[t])
        d_state = d_state + jnp.outer(q[t], ct[t])
        d_k = d_k.at[t].set(d_state @ v[t])
        d_v = d_v.at[t].set(d_state.T @ k[t])
        d_state = DECAY * d_state
    return d_q, d_k, d_v


SINGLE = [
    *wrong_rules(
        causal_attention,
        right_causal_attention,
        draw_qkv,
        """
causal_attention_bwd_2
- dk = ds.T @ q * scale
+ dk = ds.T @ q
factor: scale missing in dk
    """,
    ),
    *wrong_rules(
        multi_head,
        right_multi_head,
        draw_heads,
        """
multi_head_bwd_2
- d_k = jnp.einsum("hts,hte->hse", d_s, q)
+ d_k = jnp.einsum("hst,hte->hse", d_s, q)
transpose: d_s contracted over keys in place of queries
    """,
    ),
    *wrong_rules(
        linear_attention,
        right_linear_attention,
        draw_qkv,
        """
linear_attention_bwd_1
- d_fk = v @ d_kv.T + d_z
+ d_fk = v @ d_kv.T
detached: the normaliser is taken for constant in k

linear_attention_bwd_2
- d_k = d_fk * jnp.where(k > 0, 1.0, jnp.exp(k))
+ d_k = d_fk * jnp.where(k > 0, 1.0, fk - 1.0)
activation: slope of elu + 1 for negative k is exp(k) = fk, not fk - 1
    """,
    ),
    *wrong_rules(
        cross_attention,
        right_cross_attention,
        draw_cross,
        """
cross_attention_bwd_1
- s = jnp.where(KEYMASK[None, :], q @ k.T * D**-0.5, -jnp.inf)
+ s = q @ k.T * D**-0.5
mask: key mask missing where the scores are recomputed
    """,
    ),
    *wrong_rules(
        relative_attention,
        right_relative_attention,
        draw_relative,
        """
relative_attention_bwd_1
- d_bias = jnp.zeros_like(bias).at[RELPOS].add(d_s)
+ d_bias = jnp.zeros_like(bias).at[RELPOS].set(d_s)
reduction: set in place of add: repeated positions overwrite one another
    """,
    ),
    *wrong_rules(
        retention,
        right_retention,
        draw_qkv,
        """
retention_bwd_2
- d_v = d_v.at[t].set(d_state.T @ k[t])
+ d_v = d_v.at[t].set(d_state @ k[t])
transpose: state gradient must be transposed for v
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        multi_head,
        right_multi_head,
        draw_heads,
        """
multi_head_bwd_3
- d_s = a * (d_a - (a * d_a).sum(-1, keepdims=True)) * 0.5
+ d_s = a * (d_a - (a * d_a).sum(1, keepdims=True)) * 0.5
- d_wv = jnp.einsum("td,hte->hde", x, d_v)
+ d_wv = jnp.einsum("td,hte->hed", x, d_v)
- d_x = d_x + jnp.einsum("hte,hde->td", d_k, wk)
+ d_x = d_x + jnp.einsum("hte,hde->td", d_k, wq)
operand: wq in place of wk
@ d_x = d_x + jnp.einsum("hte,hde->td", d_k, wq)
axis: sum over the queries in place of the keys
@ d_s = a * (d_a - (a * d_a).sum(1, keepdims=True)) * 0.5
transpose: letters of the output exchanged
@ d_wv = jnp.einsum("td,hte->hed", x, d_v)
    """,
    ),
    *wrong_rules(
        linear_attention,
        right_linear_attention,
        draw_qkv,
        """
linear_attention_bwd_3
- d_den = -jnp.sum(ct * num, axis=1) / den[:, 0] ** 2
+ d_den = jnp.sum(ct * num, axis=1) / den[:, 0] ** 2
- d_v = fk @ d_kv
+ d_v = k @ d_kv
sign: minus of the quotient rule missing
@ d_den = jnp.sum(ct * num, axis=1) / den[:, 0] ** 2
operand: k in place of its feature map fk
@ d_v = k @ d_kv
    """,
    ),
    *wrong_rules(
        cross_attention,
        right_cross_attention,
        draw_cross,
        """
cross_attention_bwd_3
- s = jnp.where(KEYMASK[None, :], q @ k.T * D**-0.5, -jnp.inf)
+ s = jnp.where(KEYMASK[None, :], -jnp.inf, q @ k.T * D**-0.5)
- gs = p * (gp - (gp * p).sum(-1, keepdims=True))
-     gs = gs * D**-0.5
+ gs = p * (gp - (gp * p).sum(-1, keepdims=True))
- gkv = jnp.concatenate([gs.T @ q, p.T @ ct], axis=1)
+ gkv = jnp.concatenate([p.T @ ct, gs.T @ q], axis=1)
mask: mask the wrong way round
@ s = jnp.where(KEYMASK[None, :], -jnp.inf, q @ k.T * D**-0.5)
factor: scale missing
@ gq = gs @ k
index: halves for keys and values exchanged
@ gkv = jnp.concatenate([p.T @ ct, gs.T @ q], axis=1)
    """,
    ),
    *wrong_rules(
        retention,
        right_retention,
        draw_qkv,
        """
retention_bwd_3
- d_q = d_q.at[t].set(states[t] @ ct[t])
+ d_q = d_q.at[t].set(states[t - 1] @ ct[t])
- d_state = d_state + jnp.outer(q[t], ct[t])
+ d_state = jnp.outer(q[t], ct[t])
carry: gradient from later steps overwritten
@ d_state = jnp.outer(q[t], ct[t])
index: state of the step before in place of the step's own
@ d_q = d_q.at[t].set(states[t - 1] @ ct[t])
    """,
    ),
]
