"""Forwards of the kinds that research brings, written before any rule was made for them.

The first figures: see `tests/derive/bank/__main__.py`, which derives all of them and counts.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tests.derive.bank.forward import Forward, entering, labels, normal, positive

FORWARDS: dict[str, Forward] = {}
of = entering(FORWARDS)


# --- sequences --------------------------------------------------------------------------------------------------------


@of(normal(2, 5, 8), normal(8, 4, 4), normal(8, 2, 4), normal(8, 2, 4), normal(4, 4, 8))
def grouped_queries_with_interleaved_rope(x, wq, wk, wv, wo):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, w) for w in (wq, wk, wv))
    b, t, heads, width = q.shape
    groups = heads // k.shape[2]
    frequency = 1.0 / 10000.0 ** (jnp.arange(0, width, 2) / width)
    angle = jnp.einsum("t,f->tf", jnp.arange(t, dtype=jnp.float32), frequency)
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]

    def turn(u):
        even, odd = u[..., ::2], u[..., 1::2]
        return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(u.shape)

    q, k = turn(q), turn(k)
    q = q.reshape(b, t, k.shape[2], groups, width)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k) * width**-0.5
    causal = jnp.arange(t)[:, None] >= jnp.arange(t)
    weights = jax.nn.softmax(scores, axis=-1, where=causal)
    mixed = jnp.einsum("bkgts,bskd->btkgd", weights, v).reshape(b, t, heads, width)
    return jnp.einsum("bthk,hkd->btd", mixed, wo)


@of(normal(6, 3), normal(3, 16), normal(2, 16), normal(16), normal(4, 2), normal(3, 4))
def lstm_with_projection(xs, Wx, Wh, b, P, peephole):
    def cell(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ Wx + h @ Wh + b, 4)
        i = jax.nn.sigmoid(i + peephole[0] * c)
        f = jax.nn.sigmoid(f + peephole[1] * c + 1.0)
        c = f * c + i * jnp.tanh(g)
        o = jax.nn.sigmoid(o + peephole[2] * c)
        h = (o * jnp.tanh(c)) @ P
        return (h, c), h

    _, hs = lax.scan(cell, (jnp.zeros(2), jnp.zeros(4)), xs)
    return hs


@of(normal(2, 6, 3, 4), normal(2, 6, 3), normal(2, 6, 5), normal(2, 6, 5), normal(3))
def state_space_dual_chunk(x, dt, B, C, a_log):
    dt = jax.nn.softplus(dt)
    decay = jnp.cumsum(-jnp.exp(a_log) * dt, axis=1)
    gap = decay[:, :, None, :] - decay[:, None, :, :]
    lower = jnp.tril(jnp.ones((6, 6), dtype=bool))[None, :, :, None]
    L = jnp.where(lower, jnp.exp(gap), 0.0)
    scores = jnp.einsum("bln,bsn->bls", C, B)
    y = jnp.einsum("bls,blsh,bsh,bshp->blhp", scores, L, dt, x)
    state = jnp.einsum("bsn,bsh,bsh,bshp->bhpn", B, jnp.exp(decay[:, -1:] - decay), dt, x)
    return y, state


@of(normal(5, 3), normal(5, 3), normal(5, 4), normal(5))
def gated_delta_rule(q, k, v, beta):
    k = k / jnp.sqrt((k**2).sum(-1, keepdims=True) + 1e-6)

    def step(S, at):
        q_t, k_t, v_t, b_t = at
        S = S + jax.nn.sigmoid(b_t) * jnp.outer(v_t - S @ k_t, k_t)
        return S, S @ q_t

    _, out = lax.scan(step, jnp.zeros((4, 3)), (q, k, v, beta))
    return out


@of(normal(6, 4), normal(4, 4), normal(4), normal(4), labels(6, 4))
def crf_log_likelihood(emissions, transitions, start, end, tags):
    def step(alpha, emission):
        alpha = jax.nn.logsumexp(alpha[:, None] + transitions + emission[None, :], axis=0)
        return alpha, None

    alpha, _ = lax.scan(step, start + emissions[0], emissions[1:])
    log_z = jax.nn.logsumexp(alpha + end)
    path = emissions[jnp.arange(6), tags].sum() + transitions[tags[:-1], tags[1:]].sum()
    return path + start[tags[0]] + end[tags[-1]] - log_z


# --- models -----------------------------------------------------------------------------------------------------------


@of(normal(5, 3), normal(7, 3), normal(3, 3))
def vector_quantised_bottleneck(z, codebook, decoder):
    distance = (z**2).sum(1, keepdims=True) - 2 * z @ codebook.T + (codebook**2).sum(1)
    nearest = jnp.argmin(distance, axis=1)
    quantised = codebook[nearest]
    commitment = ((z - lax.stop_gradient(quantised)) ** 2).mean()
    embedding = ((quantised - lax.stop_gradient(z)) ** 2).mean()
    straight = z + lax.stop_gradient(quantised - z)
    return ((straight @ decoder - z) ** 2).mean() + embedding + 0.25 * commitment


@of({"w1": normal(2, 8), "b1": normal(8), "w2": normal(8, 4), "b2": normal(4)}, normal(5, 4))
def coupling_flow_density(params, x):
    kept, moved = x[:, :2], x[:, 2:]
    hidden = jnp.tanh(kept @ params["w1"] + params["b1"])
    log_scale, shift = jnp.split(hidden @ params["w2"] + params["b2"], 2, axis=1)
    log_scale = 2.0 * jnp.tanh(log_scale / 2.0)
    z = jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift], axis=1)
    log_density = jax.scipy.stats.norm.logpdf(z).sum(axis=1) + log_scale.sum(axis=1)
    return -log_density.mean()


@of(normal(6, 4), normal(4, 3), normal(3, 4, 8), normal(3, 8, 4))
def switch_experts_of_squared_relu(x, router, up, down):
    probabilities = jax.nn.softmax(x @ router, axis=-1)
    expert = jnp.argmax(probabilities, axis=-1)
    gate = jnp.take_along_axis(probabilities, expert[:, None], axis=-1)[:, 0]
    dispatch = jax.nn.one_hot(expert, 3, dtype=x.dtype)
    inside = jnp.einsum("ne,nd,edh->neh", dispatch, x, up)
    out = jnp.einsum("neh,ehd->nd", jnp.square(jax.nn.relu(inside)), down)
    balance = 3 * (dispatch.mean(axis=0) * probabilities.mean(axis=0)).sum()
    return gate[:, None] * out, balance


@of(normal(7, 3), normal(9, 2), labels(9, 7), labels(9, 7), normal(3, 4), normal(4), normal(2))
def graph_attention(nodes, edges, senders, receivers, W, a, edge_weight):
    h = nodes @ W
    score = jax.nn.leaky_relu((h[senders] + h[receivers]) @ a + edges @ edge_weight)
    largest = jax.ops.segment_max(score, receivers, 7)
    weight = jnp.exp(score - lax.stop_gradient(largest)[receivers])
    total = jax.ops.segment_sum(weight, receivers, num_segments=7)
    weight = weight / (total[receivers] + 1e-9)
    return jax.nn.elu(jax.ops.segment_sum(weight[:, None] * h[senders], receivers, num_segments=7))


@of(normal(6, 7, 3), normal(5, 2))
def deformable_sampling(image, offsets):
    y = jnp.clip(3.0 + offsets[:, 0], 0.0, 4.999)
    x = jnp.clip(3.0 + offsets[:, 1], 0.0, 5.999)
    y0, x0 = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    wy, wx = (y - y0)[:, None], (x - x0)[:, None]
    top = (1 - wx) * image[y0, x0] + wx * image[y0, x0 + 1]
    bottom = (1 - wx) * image[y0 + 1, x0] + wx * image[y0 + 1, x0 + 1]
    return (1 - wy) * top + wy * bottom


@of(normal(2, 8, 3), normal(3, 4, 3), normal(3, 4, 3), normal(3, 4))
def spectral_convolution(u, real, imaginary, skip):
    modes = 3
    spectrum = jnp.fft.rfft(u, axis=1)
    weight = real + 1j * imaginary
    low = jnp.einsum("bki,iok->bko", spectrum[:, :modes], weight)
    full = jnp.zeros((u.shape[0], spectrum.shape[1], 4), dtype=spectrum.dtype).at[:, :modes].set(low)
    return jax.nn.gelu(jnp.fft.irfft(full, n=u.shape[1], axis=1) + u @ skip)


@of(normal(3, 2), normal(2, 5), normal(5), normal(5, 2))
def neural_ode_by_rk4(y, W1, b1, W2):
    def field(y):
        return jnp.tanh(y @ W1 + b1) @ W2

    h = 0.1

    def step(_, y):
        k1 = field(y)
        k2 = field(y + h / 2 * k1)
        k3 = field(y + h / 2 * k2)
        k4 = field(y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return lax.fori_loop(0, 4, step, y)


# --- losses -----------------------------------------------------------------------------------------------------------


@of(normal(3, 4, 5), normal(3, 4, 5), labels(12, 5).reshape(3, 4), labels(12, 5).reshape(3, 4), normal(3), normal(3))
def direct_preference(chosen_logits, rejected_logits, chosen, rejected, reference_chosen, reference_rejected):
    def log_probability(logits, tokens):
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)
        return logp.squeeze(-1).sum(-1)

    margin = log_probability(chosen_logits, chosen) - reference_chosen
    margin -= log_probability(rejected_logits, rejected) - reference_rejected
    return -jax.nn.log_sigmoid(0.1 * margin).mean()


@of(normal(6, 3), normal(6), labels(6, 3), normal(6), normal(6), normal(6), normal(6))
def clipped_policy_and_value(logits, value, action, old_logp, old_value, advantage, target):
    logp_all = jax.nn.log_softmax(logits)
    logp = jnp.take_along_axis(logp_all, action[:, None], axis=-1).squeeze(-1)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = jnp.exp(logp - old_logp)
    policy = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage).mean()
    clipped = old_value + jnp.clip(value - old_value, -0.2, 0.2)
    critic = 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2).mean()
    entropy = -(jnp.exp(logp_all) * logp_all).sum(axis=-1).mean()
    return policy + 0.5 * critic - 0.01 * entropy


@of(normal(6, 4), normal(), labels(6, 3))
def supervised_contrastive(z, log_temperature, y):
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    logits = z @ z.T / jnp.exp(log_temperature)
    others = ~jnp.eye(6, dtype=bool)
    alike = (y[:, None] == y[None, :]) & others
    logp = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True, where=others)
    return -(jnp.where(alike, logp, 0).sum(1) / jnp.maximum(alike.sum(1), 1)).mean()


@of(normal(5, 4), normal(5, 4))
def redundancy_reduction(a, b):
    a = (a - a.mean(0)) / a.std(0)
    b = (b - b.mean(0)) / b.std(0)
    c = a.T @ b / a.shape[0]
    on = ((jnp.diagonal(c) - 1) ** 2).sum()
    off = (jnp.where(jnp.eye(4, dtype=bool), 0, c) ** 2).sum()
    return on + 0.005 * off


@of(normal(4, 5), normal(4, 6))
def quantile_huber(theta, target):
    tau = (jnp.arange(5) + 0.5) / 5
    u = target[:, None, :] - theta[:, :, None]
    loss = jnp.where(jnp.abs(u) <= 1.0, 0.5 * u**2, jnp.abs(u) - 0.5)
    weight = jnp.abs(tau[None, :, None] - (u < 0).astype(u.dtype))
    return (weight * loss).sum(axis=1).mean()


@of(jax.random.key(3), normal(4, 6), normal(6, 6), normal(6))
def denoising_score(key, x, W, b):
    kt, kn = jax.random.split(key)
    t = jax.random.uniform(kt, (x.shape[0], 1))
    noise = jax.random.normal(kn, x.shape)
    alpha = jnp.cos(0.5 * jnp.pi * t)
    noisy = alpha * x + jnp.sqrt(1 - alpha**2) * noise
    prediction = jax.nn.silu(noisy @ W + b + t)
    return jnp.mean(jnp.square(prediction - noise))


# --- likelihoods and numerics -----------------------------------------------------------------------------------------


@of(normal(5), normal(5), normal(5, 2), normal(5))
def low_rank_gaussian_likelihood(y, mean, factor, log_diagonal):
    d = jnp.exp(log_diagonal)
    scaled = factor / d[:, None]
    capacitance = jnp.eye(2) + factor.T @ scaled
    L = jnp.linalg.cholesky(capacitance)
    r = y - mean
    half = jax.scipy.linalg.solve_triangular(L, scaled.T @ r, lower=True)
    mahalanobis = (r**2 / d).sum() - (half**2).sum()
    log_det = log_diagonal.sum() + 2 * jnp.log(jnp.diagonal(L)).sum()
    return -0.5 * (mahalanobis + log_det + 5 * jnp.log(2 * jnp.pi))


@of(normal(5, 2), normal(3, 3), normal(2, 3), normal(3), normal(2))
def kalman_filter(ys, F, H, log_q, log_r):
    Q, R = jnp.diag(jnp.exp(log_q)), jnp.diag(jnp.exp(log_r))

    def step(carry, y):
        m, P = carry
        m, P = F @ m, F @ P @ F.T + Q
        S = H @ P @ H.T + R
        innovation = y - H @ m
        K = jnp.linalg.solve(S, H @ P).T
        m = m + K @ innovation
        P = (jnp.eye(3) - K @ H) @ P
        _, logdet = jnp.linalg.slogdet(S)
        return (m, P), -0.5 * (innovation @ jnp.linalg.solve(S, innovation) + logdet)

    (m, P), terms = lax.scan(step, (jnp.zeros(3), jnp.eye(3)), ys)
    return terms.sum(), m


@of(normal(6), normal(), normal(), normal())
def student_t_likelihood(y, location, log_scale, log_freedom):
    nu = 2 + jax.nn.softplus(log_freedom)
    z = (y - location) / jnp.exp(log_scale)
    constant = jax.scipy.special.gammaln((nu + 1) / 2) - jax.scipy.special.gammaln(nu / 2)
    return (constant - 0.5 * jnp.log(nu * jnp.pi) - log_scale - (nu + 1) / 2 * jnp.log1p(z**2 / nu)).sum()


@of(0.1 * normal(4, 3), 0.1 * normal(4, 3))
def hyperbolic_distance(u, v):
    uu, vv = (u**2).sum(-1), (v**2).sum(-1)
    gap = ((u - v) ** 2).sum(-1)
    return jnp.arccosh(1 + 2 * gap / ((1 - uu) * (1 - vv)))


@of(positive(5), positive(7), normal(5, 7))
def entropic_transport_in_logs(a, b, cost):
    f, g = jnp.zeros(5), jnp.zeros(7)
    for _ in range(3):
        f = 0.1 * (jnp.log(a) - jax.nn.logsumexp((g[None, :] - cost) / 0.1, axis=1))
        g = 0.1 * (jnp.log(b) - jax.nn.logsumexp((f[:, None] - cost) / 0.1, axis=0))
    return f @ a + g @ b


@of(normal(5, 4), normal(4, 4), normal(4))
def checkpointed_blocks(x, W, b):
    @jax.checkpoint
    def block(x, scale):
        return x + jnp.tanh(x @ W + b) * scale

    for scale in (1.0, 0.5, 0.25):
        x = block(x, scale)
    return jnp.mean(lax.map(lambda row: (row**2).sum(), x))
