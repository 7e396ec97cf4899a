"""Likelihoods. Gradients from my notes, section numbers omitted."""

import jax
import jax.numpy as np
import numpy as onp

from tests.verify.slips.changes import wrong_rules

R = onp.random.RandomState(3)

NOISE = np.asarray(R.randn(5, 2), np.float32)

XGRID = np.asarray(R.randn(6, 2), np.float32)

Y = onp.array([1, 0, 2, 2])

TAU = np.array([0.1, 0.5, 0.9], np.float32)

OBS = np.asarray(R.randn(7), np.float32)

EVENT = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], np.float32)

PAIRS = onp.array([[0, 3], [1, 2], [4, 0], [1, 4]])

NEGS = onp.array([[1, 2], [4, 0], [3, 3], [0, 2]])


def sample(*shapes):
    return lambda key: tuple(jax.random.normal(jax.random.fold_in(key, i), s) for i, s in enumerate(shapes))


def elbo(x, wm, wv, dec):
    m, lv = x @ wm, x @ wv
    z = m + np.exp(0.5 * lv) * NOISE
    rec = 0.5 * ((z @ dec - x) ** 2).sum(1)
    kl = 0.5 * (m**2 + np.exp(lv) - 1 - lv).sum(1)
    return (rec + kl).mean()


def right_elbo_grad(args, out_bar):
    x, wm, wv, dec = args
    m, lv = x @ wm, x @ wv
    sd = np.exp(0.5 * lv)
    z = m + sd * NOISE
    c = out_bar / x.shape[0]
    e_bar = c * (z @ dec - x)
    dec_bar = z.T @ e_bar
    z_bar = e_bar @ dec.T
    m_bar = z_bar + c * m
    lv_bar = 0.5 * z_bar * sd * NOISE + 0.5 * c * (sd**2 - 1)
    x_bar = m_bar @ wm.T + lv_bar @ wv.T - e_bar
    return x_bar, x.T @ m_bar, x.T @ lv_bar, dec_bar


def mixture(x, mu, logit, log_s):
    d2 = ((x[:, None] - mu) ** 2).sum(-1)
    comp = jax.nn.log_softmax(logit) - 0.5 * d2 * np.exp(-2 * log_s) - x.shape[1] * log_s
    return jax.nn.logsumexp(comp, axis=1)


def right_mixture_grad(args, out_bar):
    x, mu, logit, log_s = args
    diff = x[:, None] - mu
    d2 = (diff**2).sum(-1)
    prec = np.exp(-2 * log_s)
    comp = jax.nn.log_softmax(logit) - 0.5 * d2 * prec - x.shape[1] * log_s
    resp = jax.nn.softmax(comp, axis=1) * out_bar[:, None]
    logit_bar = resp.sum(0) - jax.nn.softmax(logit) * out_bar.sum()
    mu_bar = np.einsum("nk,nkd,k->kd", resp, diff, prec)
    s_bar = (resp * (d2 * prec - x.shape[1])).sum(0)
    x_bar = -np.einsum("nk,nkd,k->nd", resp, diff, prec)
    return x_bar, mu_bar, logit_bar, s_bar


def gp_nlml(log_len, log_amp, y):
    d2 = ((XGRID[:, None] - XGRID) ** 2).sum(-1)
    K = np.exp(2 * log_amp - 0.5 * d2 * np.exp(-2 * log_len)) + 0.2 * np.eye(6)
    return 0.5 * y @ np.linalg.solve(K, y) + 0.5 * np.linalg.slogdet(K)[1]


def right_gp_nlml_grad(args, out_bar):
    log_len, log_amp, y = args
    d2 = ((XGRID[:, None] - XGRID) ** 2).sum(-1)
    il2 = np.exp(-2 * log_len)
    Kf = np.exp(2 * log_amp - 0.5 * d2 * il2)
    Kinv = np.linalg.inv(Kf + 0.2 * np.eye(6))
    alpha = Kinv @ y
    K_bar = 0.5 * out_bar * (Kinv - np.outer(alpha, alpha))
    len_bar = (K_bar * Kf * d2).sum() * il2
    amp_bar = 2 * (K_bar * Kf).sum()
    y_bar = out_bar * alpha
    return len_bar, amp_bar, y_bar


def cosine_head(x, w, s):
    xn = x / np.sqrt((x**2).sum(1, keepdims=True))
    wn = w / np.sqrt((w**2).sum(1, keepdims=True))
    return -jax.nn.log_softmax(s * xn @ wn.T)[onp.arange(4), Y].mean()


def right_cosine_head_grad(args, out_bar):
    x, w, s = args
    rx = np.sqrt((x**2).sum(1, keepdims=True))
    rw = np.sqrt((w**2).sum(1, keepdims=True))
    xn, wn = x / rx, w / rw
    cos = xn @ wn.T
    l_bar = out_bar * (jax.nn.softmax(s * cos) - jax.nn.one_hot(Y, 3)) / 4
    s_bar = (l_bar * cos).sum()
    c_bar = s * l_bar
    xn_bar, wn_bar = c_bar @ wn, c_bar.T @ xn
    x_bar = (xn_bar - xn * (xn_bar * xn).sum(1, keepdims=True)) / rx
    w_bar = (wn_bar - wn * (wn_bar * wn).sum(1, keepdims=True)) / rw
    return x_bar, w_bar, s_bar


def quantile_huber(x, w, b):
    u = OBS[:, None] - (x @ w + b)
    hub = np.where(np.abs(u) < 1, 0.5 * u**2, np.abs(u) - 0.5)
    return np.mean(np.where(u > 0, TAU, 1 - TAU) * hub)


def right_quantile_huber_grad(args, out_bar):
    x, w, b = args
    u = OBS[:, None] - (x @ w + b)
    weight = np.where(u > 0, TAU, 1 - TAU)
    u_bar = out_bar * weight * np.clip(u, -1, 1) / u.size
    p_bar = -u_bar
    w_bar = x.T @ p_bar
    b_bar = p_bar.sum(0)
    return p_bar @ w.T, w_bar, b_bar


def cox(x, beta):
    s = x @ beta
    risk = np.cumsum(np.exp(s)[::-1])[::-1]
    return np.sum(EVENT * (np.log(risk) - s))


def right_cox_grad(args, out_bar):
    x, beta = args
    e = np.exp(x @ beta)
    risk = np.cumsum(e[::-1])[::-1]
    hazard = np.cumsum(EVENT / risk)
    s_bar = out_bar * (e * hazard - EVENT)
    return np.outer(s_bar, beta), x.T @ s_bar


def skipgram(center, context):
    v = center[PAIRS[:, 0]]
    pos = (v * context[PAIRS[:, 1]]).sum(1)
    neg = np.einsum("nd,nkd->nk", v, context[NEGS])
    return -jax.nn.log_sigmoid(pos) - jax.nn.log_sigmoid(-neg).sum(1)


def right_skipgram_grad(args, out_bar):
    center, context = args
    v, c, n = center[PAIRS[:, 0]], context[PAIRS[:, 1]], context[NEGS]
    pos_bar = out_bar * (jax.nn.sigmoid((v * c).sum(1)) - 1)
    neg_bar = out_bar[:, None] * jax.nn.sigmoid(np.einsum("nd,nkd->nk", v, n))
    v_bar = pos_bar[:, None] * c + np.einsum("nk,nkd->nd", neg_bar, n)
    center_bar = np.zeros_like(center).at[PAIRS[:, 0]].add(v_bar)
    context_bar = np.zeros_like(context).at[PAIRS[:, 1]].add(pos_bar[:, None] * v)
    context_bar = context_bar.at[NEGS].add(neg_bar[..., None] * v[:, None])
    return center_bar, context_bar


SEVERAL = [
    *wrong_rules(
        elbo,
        right_elbo_grad,
        sample((5, 4), (4, 2), (4, 2), (2, 4)),
        """
elbo_grad
- m_bar = z_bar + c * m
+ m_bar = c * (z_bar + m)
- lv_bar = 0.5 * z_bar * sd * NOISE + 0.5 * c * (sd**2 - 1)
+ lv_bar = z_bar * sd * NOISE + 0.5 * c * (sd**2 - 1)
factor: z_bar carries 1/n already, it is applied twice
@ m_bar = c * (z_bar + m)
constant: half from exp(lv / 2) lost
@ lv_bar = z_bar * sd * NOISE + 0.5 * c * (sd**2 - 1)
    """,
    ),
    *wrong_rules(
        mixture,
        right_mixture_grad,
        sample((6, 2), (3, 2), (3,), (3,)),
        """
mixture_grad
- logit_bar = resp.sum(0) - jax.nn.softmax(logit) * out_bar.sum()
+ logit_bar = resp.sum(0)
- s_bar = (resp * (d2 * prec - x.shape[1])).sum(0)
+ s_bar = (resp * (d2 * prec - 1)).sum(0)
term: normalisation of the mixing weights forgotten
@ logit_bar = resp.sum(0)
constant: log_s is counted once per dimension
@ s_bar = (resp * (d2 * prec - 1)).sum(0)
    """,
    ),
    *wrong_rules(
        gp_nlml,
        right_gp_nlml_grad,
        sample((), (), (6,)),
        """
gp_nlml_grad
- K_bar = 0.5 * out_bar * (Kinv - np.outer(alpha, alpha))
+ K_bar = 0.5 * out_bar * (Kinv + np.outer(alpha, alpha))
- len_bar = (K_bar * Kf * d2).sum() * il2
+ len_bar = (K_bar * d2).sum() * il2
- y_bar = out_bar * alpha
+ y_bar = 0.5 * out_bar * alpha
sign: data fit term has the wrong sign
@ K_bar = 0.5 * out_bar * (Kinv + np.outer(alpha, alpha))
factor: kernel itself missing in its derivative
@ len_bar = (K_bar * d2).sum() * il2
constant: quadratic form gives 2, half of it lost
@ y_bar = 0.5 * out_bar * alpha
    """,
    ),
    *wrong_rules(
        cosine_head,
        right_cosine_head_grad,
        sample((4, 3), (3, 3), ()),
        """
cosine_head_grad
- x_bar = (xn_bar - xn * (xn_bar * xn).sum(1, keepdims=True)) / rx
+ x_bar = xn_bar / rx
- w_bar = (wn_bar - wn * (wn_bar * wn).sum(1, keepdims=True)) / rw
+ w_bar = (wn_bar - wn * (wn_bar * wn).sum(0, keepdims=True)) / rw
detached: norm of x treated as a constant
@ x_bar = xn_bar / rx
axis: inner product must run over features of a row, axis 1
@ w_bar = (wn_bar - wn * (wn_bar * wn).sum(0, keepdims=True)) / rw
    """,
    ),
    *wrong_rules(
        quantile_huber,
        right_quantile_huber_grad,
        sample((7, 2), (2, 3), (3,)),
        """
quantile_huber_grad
- weight = np.where(u > 0, TAU, 1 - TAU)
+ weight = np.where(u > 0, 1 - TAU, TAU)
- b_bar = p_bar.sum(0)
+ b_bar = u_bar.sum(0)
mask: weights for over- and underestimation exchanged
@ weight = np.where(u > 0, 1 - TAU, TAU)
sign: prediction enters u with a minus
@ b_bar = u_bar.sum(0)
    """,
    ),
    *wrong_rules(
        cox,
        right_cox_grad,
        sample((6, 3), (3,)),
        """
cox_grad
- hazard = np.cumsum(EVENT / risk)
+ hazard = np.cumsum((EVENT / risk)[::-1])[::-1]
- s_bar = out_bar * (e * hazard - EVENT)
+ s_bar = out_bar * (e * hazard - 1.0)
index: subject j is in the risk sets of the earlier events, sum runs the wrong way
@ hazard = np.cumsum((EVENT / risk)[::-1])[::-1]
mask: censored subjects must not be subtracted, event indicator missing
@ s_bar = out_bar * (e * hazard - 1.0)
    """,
    ),
    *wrong_rules(
        skipgram,
        right_skipgram_grad,
        sample((5, 3), (5, 3)),
        """
skipgram_grad
- center_bar = np.zeros_like(center).at[PAIRS[:, 0]].add(v_bar)
+ center_bar = np.zeros_like(center).at[PAIRS[:, 0]].set(v_bar)
- context_bar = context_bar.at[NEGS].add(neg_bar[..., None] * v[:, None])
+ context_bar = context_bar.at[NEGS].add(-neg_bar[..., None] * v[:, None])
carry: a word that is centre twice keeps only the last share
@ center_bar = np.zeros_like(center).at[PAIRS[:, 0]].set(v_bar)
sign: negatives are pushed the wrong way
@ context_bar = context_bar.at[NEGS].add(-neg_bar[..., None] * v[:, None])
    """,
    ),
]
