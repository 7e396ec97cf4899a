"""Forwards written down without looking at `derive`: what is left of them measures it, so no rule is made for one."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln, logsumexp

from tests.derive.bank.forward import Forward, entering, labels, normal, positive

FURTHER: dict[str, Forward] = {}

further = entering(FURTHER)


@further(normal(5, 6), normal(6, 8), normal(6, 8), normal(8, 6))
def gated_feed_forward(x, W_gate, W_up, W_down):
    return (jax.nn.silu(x @ W_gate) * (x @ W_up)) @ W_down


@further(normal(2, 3, 5, 4), normal(2, 3, 5, 4), normal(2, 3, 5, 4))
def retention(q, k, v):
    heads, length = q.shape[1], q.shape[2]
    gamma = 1 - 2.0 ** (-5 - jnp.arange(heads))
    steps = jnp.arange(length)
    distance = steps[:, None] - steps[None, :]
    decay = jnp.where(distance >= 0, gamma[:, None, None] ** distance, 0.0)
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k) * decay[None]
    out = scores @ v
    mean = out.mean(-1, keepdims=True)
    return (out - mean) / jnp.sqrt(out.var(-1, keepdims=True) + 1e-5)


@further(normal(6, 4), normal(6, 4), normal(4), normal(4))
def receptance_weighted(k, v, decay, bonus):
    w = jnp.exp(decay)

    def step(state, kv):
        num, den, top = state
        k_t, v_t = kv
        here = jnp.maximum(top, bonus + k_t)
        old, new = jnp.exp(top - here), jnp.exp(bonus + k_t - here)
        out = (old * num + new * v_t) / (old * den + new)
        after = jnp.maximum(top - w, k_t)
        old, new = jnp.exp(top - w - after), jnp.exp(k_t - after)
        return (old * num + new * v_t, old * den + new, after), out

    start = (jnp.zeros_like(k[0]), jnp.zeros_like(k[0]), jnp.full_like(k[0], -1e30))
    return lax.scan(step, start, (k, v))[1]


@further(normal(2, 5, 8), normal(4), normal(4), normal(5, 5), normal(5))
def spatial_gating(x, scale, offset, W, b):
    u, v = jnp.split(jax.nn.gelu(x), 2, axis=-1)
    v = (v - v.mean(-1, keepdims=True)) * lax.rsqrt(v.var(-1, keepdims=True) + 1e-6) * scale + offset
    v = jnp.einsum("nm,bmc->bnc", W, v) + b[None, :, None]
    return u * v


@further(normal(7, 2), normal(2, 6), normal(6), normal(6, 6), normal(6), normal(6, 3))
def sine_network(coordinates, W0, b0, W1, b1, W2):
    omega = 30.0
    h = jnp.sin(omega * (coordinates @ W0 + b0) / omega)
    h = jnp.sin(h @ W1 + b1)
    return h @ W2


@further(normal(6, 5), normal(4, 5), labels(6, 4))
def angular_margin(x, W, y):
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    W = W / jnp.linalg.norm(W, axis=1, keepdims=True)
    cosine = x @ W.T
    onehot = jax.nn.one_hot(y, W.shape[0])
    logits = 8.0 * (cosine - 0.35 * onehot)
    return -(jax.nn.log_softmax(logits) * onehot).sum(axis=1).mean()


@further(normal(2, 6, 6), positive(2, 6, 6))
def dice_and_cross_entropy(logits, mask):
    mask = (mask > 1).astype(logits.dtype)
    p = jax.nn.sigmoid(logits)
    overlap = (p * mask).sum(axis=(1, 2))
    dice = 1 - (2 * overlap + 1) / (p.sum(axis=(1, 2)) + mask.sum(axis=(1, 2)) + 1)
    entropy = (jnp.logaddexp(0.0, logits) - mask * logits).mean(axis=(1, 2))
    return (dice + entropy).mean()


@further(positive(5, 4), positive(5, 4))
def box_overlap(a, b):
    lo = jnp.maximum(a[:, :2], b[:, :2])
    hi = jnp.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    side = jnp.clip(hi - lo, 0)
    inter = side[:, 0] * side[:, 1]
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - inter
    return 1 - inter / (union + 1e-7)


@further(normal(3, 6), normal(3, 6))
def list_wise_ranking(scores, relevance):
    target = jax.nn.softmax(relevance, axis=1)
    return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(scores, axis=1), axis=1))


@further(normal(8, 5), normal(8, 5))
def variance_and_covariance(a, b):
    def regularised(z):
        z = z - z.mean(axis=0)
        spread = jnp.sqrt(z.var(axis=0) + 1e-4)
        covariance = z.T @ z / (z.shape[0] - 1)
        off = covariance - jnp.diag(jnp.diag(covariance))
        return jnp.mean(jax.nn.relu(1 - spread)), (off**2).sum() / z.shape[1]

    (va, ca), (vb, cb) = regularised(a), regularised(b)
    return 25.0 * ((a - b) ** 2).mean() + 25.0 * (va + vb) + ca + cb


@further(normal(6, 5), normal(6, 5), normal(5, 5))
def predicted_target(online, target, W):
    p = online @ W
    p = p / jnp.linalg.norm(p, axis=-1, keepdims=True)
    z = lax.stop_gradient(target)
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    return 2 - 2 * (p * z).sum(-1).mean()


@further(positive(7), positive(7), normal(7), normal())
def negative_binomial(counts, exposure, eta, log_alpha):
    mu = exposure * jnp.exp(eta)
    r = jnp.exp(-log_alpha)
    log_p = gammaln(counts + r) - gammaln(r) - gammaln(counts + 1)
    log_p = log_p + r * jnp.log(r / (r + mu)) + counts * jnp.log(mu / (r + mu))
    return -log_p.sum()


@further(positive(6), positive(6), normal(6, 3), normal(3), normal())
def censored_weibull(times, seen, x, beta, log_shape):
    event = seen > 1.0
    shape = jnp.exp(log_shape)
    log_rate = x @ beta
    log_hazard = log_rate + log_shape + (shape - 1) * jnp.log(times)
    survival = jnp.exp(log_rate) * times**shape
    return jnp.mean(survival - jnp.where(event, log_hazard, 0.0))


@further(normal(6, 3), normal(3), positive(6))
def partial_likelihood(x, beta, times):
    order = jnp.argsort(-times)
    risk = (x @ beta)[order]
    top = risk.max()
    log_sums = jnp.log(jnp.cumsum(jnp.exp(risk - top))) + top
    return (log_sums - risk).mean()


@further(normal(5, 2), normal(5), normal(2), normal())
def gaussian_process(x, y, log_length, log_noise):
    z = x / jnp.exp(log_length)
    squares = ((z[:, None] - z[None]) ** 2).sum(-1)
    K = jnp.exp(-0.5 * squares) + (jnp.exp(log_noise) + 0.1) * jnp.eye(len(y))
    L = jnp.linalg.cholesky(K)
    alpha = jax.scipy.linalg.cho_solve((L, True), y)
    return 0.5 * y @ alpha + jnp.log(jnp.diag(L)).sum()


@further(normal(5, 4), normal(4, 4), normal(4), normal(4, 4), normal(4))
def highway(x, W, b, W_t, b_t):
    t = jax.nn.sigmoid(x @ W_t + b_t)
    return t * jnp.tanh(x @ W + b) + (1 - t) * x


@further(normal(5, 4), normal(4, 3, 6), normal(3, 6))
def maxout(x, W, b):
    return (jnp.einsum("ni,iko->nko", x, W) + b).max(axis=1)


@further(normal(1, 4, 4, 3), normal(3, 3, 3, 8), normal(8))
def sub_pixel(x, kernel, b):
    y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
    n, h, w, c = y.shape
    y = y.reshape(n, h, w, 2, 2, c // 4)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


@further(normal(2, 4, 4, 3), normal(2, 5), normal(5, 6))
def adaptive_instance_norm(x, style, W):
    mean = x.mean((1, 2), keepdims=True)
    std = x.std((1, 2), keepdims=True) + 1e-5
    scale, offset = jnp.split(style @ W, 2, axis=-1)
    return (1 + scale[:, None, None]) * (x - mean) / std + offset[:, None, None]


@further(normal(5, 4), normal(4, 6), normal(6))
def standardised_weight(x, W, gain):
    W = W - W.mean(axis=0)
    W = W / jnp.sqrt((W**2).sum(axis=0) / (W.shape[0] - 1) + 1e-4)
    return jax.nn.relu(x @ (W * gain))


@further(normal(5, 6), normal(6), normal(6, 3), normal())
def factorisation_machine(x, w, V, b):
    pairs = 0.5 * ((x @ V) ** 2 - (x**2) @ (V**2)).sum(axis=1)
    return b + x @ w + pairs


@further(normal(2, 5, 4), normal(5, 3, 4, 6))
def routed_capsules(u, W):
    def squash(s):
        square = (s**2).sum(-1, keepdims=True)
        return square / (1 + square) * s / jnp.sqrt(square + 1e-8)

    u_hat = jnp.einsum("nid,ijde->nije", u, W)
    logits = jnp.zeros(u_hat.shape[:3])
    for _ in range(2):
        c = jax.nn.softmax(logits, axis=2)
        v = squash((c[..., None] * u_hat).sum(axis=1))
        logits = logits + (u_hat * v[:, None]).sum(-1)
    return v


@further(normal(8), normal(), positive(8))
def heat_equation(u, source, conductivity):
    def step(u, _):
        flux = conductivity * (jnp.roll(u, -1) - u)
        u = u + 0.1 * (flux - jnp.roll(flux, 1)) + 0.01 * source
        return u, None

    return lax.scan(step, u, None, length=5)[0]


@further(normal(5, 3), normal(6), normal(3, 6, 4), normal(3, 4))
def radial_spline_network(x, centres, coefficients, W):
    basis = jnp.exp(-((x[..., None] - centres) ** 2))
    return jnp.einsum("nik,iko->no", basis, coefficients) + jax.nn.silu(x) @ W


@further(normal(1, 5, 5, 3), normal(1, 5, 5, 3))
def style_and_variation(image, style):
    def gram(x):
        n, h, w, c = x.shape
        flat = x.reshape(n, h * w, c)
        return jnp.einsum("npc,npd->ncd", flat, flat) / (h * w)

    variation = jnp.abs(image[:, 1:] - image[:, :-1]).sum() + jnp.abs(image[:, :, 1:] - image[:, :, :-1]).sum()
    return ((gram(image) - gram(style)) ** 2).sum() + 0.1 * variation


@further(normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 4))
def causal_linear_attention(q, k, v):
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    states = jnp.cumsum(jnp.einsum("btd,bte->btde", k, v), axis=1)
    norm = jnp.einsum("btd,btd->bt", q, jnp.cumsum(k, axis=1))
    return jnp.einsum("btd,btde->bte", q, states) / (norm[..., None] + 1e-6)


@further(normal(6, 4), normal(4, 4), normal(4))
def hidden_markov(log_emissions, transitions, start):
    log_T = jax.nn.log_softmax(transitions, axis=1)

    def step(alpha, log_e):
        alpha = logsumexp(alpha[:, None] + log_T, axis=0) + log_e
        return alpha, None

    first = jax.nn.log_softmax(start) + log_emissions[0]
    alpha, _ = lax.scan(step, first, log_emissions[1:])
    return logsumexp(alpha)


@further(normal(5, 6), normal(6, 3), normal(6, 3, 6), normal(6, 7))
def mixture_of_softmaxes(h, W_prior, W_latent, W_out):
    prior = jax.nn.softmax(h @ W_prior)
    latent = jnp.tanh(jnp.einsum("nd,dke->nke", h, W_latent))
    p = jax.nn.softmax(latent @ W_out, axis=-1)
    return jnp.log((prior[..., None] * p).sum(axis=1))


@further(normal(4, 6))
def sparsemax(z):
    ordered = jnp.sort(z, axis=-1)[:, ::-1]
    ranks = jnp.arange(1, z.shape[-1] + 1)
    cumulative = jnp.cumsum(ordered, axis=-1)
    support = 1 + ranks * ordered > cumulative
    size = support.sum(-1, keepdims=True)
    tau = (jnp.where(support, ordered, 0).sum(-1, keepdims=True) - 1) / size
    return jnp.maximum(z - tau, 0)


@further(normal(5, 4), normal(4, 3, 2))
def minibatch_discrimination(x, T):
    M = jnp.einsum("ni,ijk->njk", x, T)
    distance = jnp.abs(M[:, None] - M[None]).sum(-1)
    return jnp.concatenate([x, jnp.exp(-distance).sum(axis=1) - 1], axis=1)
