"""Rules with mistakes in the derivatives of graphs."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


NV, NE, D = 5, 8, 3

SRC = jnp.array([0, 1, 2, 3, 4, 0, 2, 1])

DST = jnp.array([1, 2, 3, 4, 0, 2, 0, 1])

DEG = jnp.array([2.0, 2.0, 2.0, 1.0, 1.0])

STATES, STEPS = 3, 5

OBS = jnp.array([0, 2, 1, 1, 3])

TAGS = jnp.array([0, 2, 1, 1, 0])


def graph_conv(x, w, e):
    msg = (x @ w)[SRC] * e[:, None]
    agg = jax.ops.segment_sum(msg, DST, NV) / DEG[:, None]
    return jax.nn.relu(agg + x)


def draw_gcn(key):
    return normal(key, (NV, D), (D, D), (NE,))


def graph_attention(x, a_src, a_dst):
    score = jnp.tanh((x @ a_src)[SRC] + (x @ a_dst)[DST])
    ex = jnp.exp(score)
    alpha = ex / jax.ops.segment_sum(ex, DST, NV)[DST]
    return jax.ops.segment_sum(alpha[:, None] * x[SRC], DST, NV)


def draw_gat(key):
    return normal(key, (NV, D), (D,), (D,))


def edge_energy(pos, k):
    d = pos[SRC] - pos[DST]
    r2 = jnp.sum(d * d, axis=-1) + 1.0
    return jnp.sum(k * jnp.log(r2))


def draw_edges(key):
    return normal(key, (NV, D), (NE,))


def hmm_loglik(log_pi, log_a, log_b):
    pi, a, b = jax.nn.log_softmax(log_pi), jax.nn.log_softmax(log_a, -1), jax.nn.log_softmax(log_b, -1)
    alpha = pi + b[:, OBS[0]]
    for t in range(1, STEPS):
        alpha = jax.nn.logsumexp(alpha[:, None] + a, axis=0) + b[:, OBS[t]]
    return jax.nn.logsumexp(alpha)


def draw_hmm(key):
    return normal(key, (STATES,), (STATES, STATES), (STATES, 4))


def crf_nll(unary, trans):
    score = jnp.sum(unary[jnp.arange(STEPS), TAGS]) + jnp.sum(trans[TAGS[:-1], TAGS[1:]])
    alpha = unary[0]
    for t in range(1, STEPS):
        alpha = unary[t] + jax.nn.logsumexp(alpha[:, None] + trans, axis=0)
    return jax.nn.logsumexp(alpha) - score


def draw_crf(key):
    return normal(key, (STEPS, STATES), (STATES, STATES))


def right_graph_conv(args, ct):
    x, w, e = args
    xw = x @ w
    agg = jnp.zeros((NV, D)).at[DST].add(xw[SRC] * e[:, None]) / DEG[:, None]
    delta = ct * (agg + x > 0)
    d_msg = (delta / DEG[:, None])[DST]
    d_e = jnp.sum(d_msg * xw[SRC], axis=1)
    d_xw = jax.ops.segment_sum(d_msg * e[:, None], SRC, NV)
    d_w = x.T @ d_xw
    d_x = d_xw @ w.T + delta
    return d_x, d_w, d_e


def right_graph_attention(args, ct):
    x, a_src, a_dst = args
    score = jnp.tanh((x @ a_src)[SRC] + (x @ a_dst)[DST])
    ex = jnp.exp(score)
    alpha = ex / jax.ops.segment_sum(ex, DST, NV)[DST]
    g_alpha = jnp.sum(ct[DST] * x[SRC], axis=-1)
    mean_g = jax.ops.segment_sum(alpha * g_alpha, DST, NV)
    g_score = alpha * (g_alpha - mean_g[DST])
    g_raw = g_score * (1.0 - score**2)
    gs = jax.ops.segment_sum(g_raw, SRC, NV)
    gd = jax.ops.segment_sum(g_raw, DST, NV)
    g_x = jax.ops.segment_sum(alpha[:, None] * ct[DST], SRC, NV)
    g_x = g_x + jnp.outer(gs, a_src) + jnp.outer(gd, a_dst)
    return g_x, x.T @ gs, x.T @ gd


def right_edge_energy(args, ct):
    pos, k = args
    d = pos[SRC] - pos[DST]
    r2 = jnp.sum(d * d, axis=-1) + 1.0
    f = 2.0 * ct * (k / r2)[:, None] * d
    d_pos = jnp.zeros_like(pos).at[SRC].add(f)
    d_pos = d_pos.at[DST].add(-f)
    return d_pos, ct * jnp.log(r2)


def right_soft_back(g, logp):
    return g - jnp.exp(logp) * g.sum(-1, keepdims=True)


def right_hmm_loglik(args, ct):
    pi, a, b = [jax.nn.log_softmax(v, axis=-1) for v in args]
    alphas = [pi + b[:, OBS[0]]]
    for t in range(1, STEPS):
        alphas.append(jax.nn.logsumexp(alphas[-1][:, None] + a, axis=0) + b[:, OBS[t]])
    g_a, g_b = jnp.zeros_like(a), jnp.zeros_like(b)
    g_alpha = ct * jax.nn.softmax(alphas[-1])
    for t in range(STEPS - 1, 0, -1):
        g_b = g_b.at[:, OBS[t]].add(g_alpha)
        xi = jax.nn.softmax(alphas[t - 1][:, None] + a, axis=0) * g_alpha[None, :]
        g_a = g_a + xi
        g_alpha = xi.sum(axis=1)
    g_b = g_b.at[:, OBS[0]].add(g_alpha)
    return right_soft_back(g_alpha, pi), right_soft_back(g_a, a), right_soft_back(g_b, b)


def _soft_back_1(g, logp):
    return g - jnp.exp(logp) * g.sum(-1, keepdims=True)


def _soft_back_2(g, logp):
    return g - jnp.exp(logp) * g.sum(-1, keepdims=True)


def right_crf_nll(args, ct):
    unary, trans = args
    alphas = [unary[0]]
    for t in range(1, STEPS):
        alphas.append(unary[t] + jax.nn.logsumexp(alphas[t - 1][:, None] + trans, axis=0))
    du, dt = jnp.zeros_like(unary), jnp.zeros_like(trans)
    marg = jax.nn.softmax(alphas[-1])
    for t in reversed(range(1, STEPS)):
        du = du.at[t].set(marg)
        pair = jax.nn.softmax(alphas[t - 1][:, None] + trans, axis=0) * marg
        dt = dt + pair
        marg = pair.sum(1)
    du = du.at[0].set(marg)
    du = du.at[jnp.arange(STEPS), TAGS].add(-1.0)
    dt = dt.at[TAGS[:-1], TAGS[1:]].add(-1.0)
    return ct * du, ct * dt


def _soft_back_3(g, logp):
    return g - jnp.exp(logp) * g.sum(-1, keepdims=True)


SINGLE = [
    *wrong_rules(
        graph_conv,
        right_graph_conv,
        draw_gcn,
        """
graph_conv_bwd_1
- d_xw = jax.ops.segment_sum(d_msg * e[:, None], SRC, NV)
+ d_xw = jax.ops.segment_sum(d_msg * e[:, None], DST, NV)
index: gradient gathered at the target nodes in place of the sources
    """,
    ),
    *wrong_rules(
        graph_attention,
        right_graph_attention,
        draw_gat,
        """
graph_attention_bwd_2
- g_x = g_x + jnp.outer(gs, a_src) + jnp.outer(gd, a_dst)
+ g_x = g_x + jnp.outer(gs, a_dst) + jnp.outer(gd, a_src)
operand: a_src and a_dst exchanged
    """,
    ),
    *wrong_rules(
        edge_energy,
        right_edge_energy,
        draw_edges,
        """
edge_energy_bwd_1
- d_pos = d_pos.at[DST].add(-f)
+ d_pos = d_pos.at[DST].add(f)
sign: reaction on the target has the opposite sign
    """,
    ),
    *wrong_rules(
        hmm_loglik,
        right_hmm_loglik,
        draw_hmm,
        """
hmm_loglik_bwd_1
- g_b = g_b.at[:, OBS[0]].add(g_alpha)
-     return right_soft_back(g_alpha, pi), right_soft_back(g_a, a), right_soft_back(g_b, b)
+ return _soft_back_1(g_alpha, pi), _soft_back_1(g_a, a), _soft_back_1(g_b, b)
term: emission of the first observation missing

hmm_loglik_bwd_2
- xi = jax.nn.softmax(alphas[t - 1][:, None] + a, axis=0) * g_alpha[None, :]
+ xi = jax.nn.softmax(alphas[t - 1][:, None] + a, axis=1) * g_alpha[None, :]
- return right_soft_back(g_alpha, pi), right_soft_back(g_a, a), right_soft_back(g_b, b)
+ return _soft_back_2(g_alpha, pi), _soft_back_2(g_a, a), _soft_back_2(g_b, b)
axis: posterior over the next state in place of the previous one
@ xi = jax.nn.softmax(alphas[t - 1][:, None] + a, axis=1) * g_alpha[None, :]
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf_nll,
        draw_crf,
        """
crf_nll_bwd_1
- dt = dt.at[TAGS[:-1], TAGS[1:]].add(-1.0)
+ dt = dt.at[TAGS[1:], TAGS[:-1]].add(-1.0)
transpose: from and to exchanged
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        graph_attention,
        right_graph_attention,
        draw_gat,
        """
graph_attention_bwd_3
- mean_g = jax.ops.segment_sum(alpha * g_alpha, DST, NV)
+ mean_g = jax.ops.segment_sum(g_alpha, DST, NV)
- g_raw = g_score * (1.0 - score**2)
+ g_raw = g_score * (1.0 - alpha**2)
- g_x = jax.ops.segment_sum(alpha[:, None] * ct[DST], SRC, NV)
+ g_x = jax.ops.segment_sum(alpha[:, None] * ct[SRC], SRC, NV)
activation: slope of tanh in the wrong variable: alpha in place of the score
@ g_raw = g_score * (1.0 - alpha**2)
index: ct taken at the source in place of the target
@ g_x = jax.ops.segment_sum(alpha[:, None] * ct[SRC], SRC, NV)
factor: weights alpha missing in the sum of the softmax backward
@ mean_g = jax.ops.segment_sum(g_alpha, DST, NV)
    """,
    ),
    *wrong_rules(
        hmm_loglik,
        right_hmm_loglik,
        draw_hmm,
        """
hmm_loglik_bwd_3
- g_a = g_a + xi
+ g_a = xi
- g_alpha = xi.sum(axis=1)
+ g_alpha = xi.sum(axis=0)
- return right_soft_back(g_alpha, pi), right_soft_back(g_a, a), right_soft_back(g_b, b)
+ return _soft_back_3(g_alpha, pi), _soft_back_3(g_a, a), _soft_back_3(g_b, b)
axis: summed over the old state in place of the new one
@ g_alpha = xi.sum(axis=0)
carry: transitions overwritten in each step
@ g_a = xi
    """,
    ),
    *wrong_rules(
        crf_nll,
        right_crf_nll,
        draw_crf,
        """
crf_nll_bwd_3
- dt = dt + pair
+ dt = pair
- du = du.at[jnp.arange(STEPS), TAGS].add(-1.0)
+ du = du.at[jnp.arange(STEPS), TAGS].add(1.0)
sign: score of the tags enters with a minus
@ du = du.at[jnp.arange(STEPS), TAGS].add(1.0)
carry: pair marginals overwritten in place of added up
@ dt = pair
    """,
    ),
]
