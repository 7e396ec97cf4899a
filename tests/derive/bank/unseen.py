"""Forwards from before loops, convolutions and factors had rules: half tried while the rules were made, half after."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.derive.bank.forward import Forward, entering, labels, normal, positive

TRIED: dict[str, Forward] = {}
KEPT_ASIDE: dict[str, Forward] = {}


tried, kept_aside = entering(TRIED), entering(KEPT_ASIDE)


@tried(normal(6, 2, 3), normal(3, 16), normal(4, 16), normal(16), normal(2, 4), normal(2, 4))
def lstm(xs, Wx, Wh, b, h0, c0):
    def step(carry, x):
        h, c = carry
        z = x @ Wx + h @ Wh + b
        i, f, g, o = jnp.split(z, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    (h, c), hs = lax.scan(step, (h0, c0), xs)
    return hs, c


@tried(normal(2, 4, 6), normal(6, 18), normal(6, 6))
def attention_with_alibi(x, Wqkv, Wo):
    batch, length, width = x.shape
    heads = 3
    qkv = (x @ Wqkv).reshape(batch, length, 3, heads, width // heads)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    slopes = 2.0 ** (-8.0 * (jnp.arange(heads) + 1) / heads)
    distance = jnp.arange(length)[None, :] - jnp.arange(length)[:, None]
    bias = slopes[:, None, None] * distance
    scores = jnp.einsum("blhd,bmhd->bhlm", q, k) / (width // heads) ** 0.5 + bias
    scores = jnp.where(distance > 0, -1e9, scores)
    p = jax.nn.softmax(scores)
    mixed = jnp.einsum("bhlm,bmhd->blhd", p, v).reshape(batch, length, width)
    return mixed @ Wo


@tried(normal(5, 6), normal(6, 4), normal(4, 6, 8), normal(4, 8, 6))
def top_2_experts(x, router, up, down):
    gates = jax.nn.softmax(x @ router, axis=-1)
    weights, chosen = lax.top_k(gates, 2)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    hidden = jax.nn.gelu(jnp.einsum("nd,nkdh->nkh", x, up[chosen]))
    out = jnp.einsum("nkh,nkhd->nkd", hidden, down[chosen])
    return (weights[..., None] * out).sum(axis=1)


@tried(normal(2, 8, 8, 3), normal(3, 3, 3, 4), normal(4), normal(16, 5))
def small_cnn(x, kernel, bias, head):
    y = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = jax.nn.relu(y + bias)
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return y.reshape(y.shape[0], -1) @ head


@tried(normal(2, 4, 6), normal(6), normal(6), normal(6, 12), normal(12), normal(12, 6), normal(6))
def pre_norm_block(x, scale, offset, W1, b1, W2, b2):
    def norm(x):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + 1e-6)

    h = norm(x) * scale + offset
    h = jax.nn.gelu(h @ W1 + b1) @ W2 + b2
    return x + h


@tried(positive(4, 5), positive(4), positive(5))
def sinkhorn_by_scan(cost, a, b):
    K = jnp.exp(-cost / 0.5)

    def step(carry, _):
        u, v = carry
        u = a / (K @ v)
        v = b / (K.T @ u)
        return (u, v), None

    (u, v), _ = lax.scan(step, (jnp.ones_like(a), jnp.ones_like(b)), None, length=4)
    plan = u[:, None] * K * v[None, :]
    return (plan * cost).sum()


@tried(normal(5), normal(5, 5), normal(5))
def gaussian_log_density(x, root, mean):
    covariance = root @ root.T + jnp.eye(5)
    L = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(L, x - mean, lower=True)
    return -0.5 * (white**2).sum() - jnp.log(jnp.diag(L)).sum()


@tried(normal(3), normal(3, 3), normal(2, 3), normal(2))
def kalman_update(m, root, H, y):
    P = root @ root.T + jnp.eye(3)
    S = H @ P @ H.T + 0.1 * jnp.eye(2)
    K = jnp.linalg.solve(S, H @ P).T
    m = m + K @ (y - H @ m)
    P = P - K @ H @ P
    return m, P


@tried(normal(6, 3), normal(3, 4), normal(4), normal(4))
def linear_recurrence(u, B, decay, C):
    a = jnp.exp(-jnp.exp(decay))
    x = u @ B

    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    _, h = lax.associative_scan(combine, (jnp.broadcast_to(a, x.shape), x))
    return h @ C


@tried(
    {"enc": {"w": normal(6, 4), "b": normal(4)}, "dec": {"w": normal(2, 6), "b": normal(6)}}, normal(5, 6), normal(5, 2)
)
def variational_autoencoder(params, x, noise):
    stats = x @ params["enc"]["w"] + params["enc"]["b"]
    mean, log_variance = stats[:, :2], stats[:, 2:]
    z = mean + jnp.exp(0.5 * log_variance) * noise
    logits = z @ params["dec"]["w"] + params["dec"]["b"]
    likelihood = -(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits)))).sum(-1)
    kl = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)
    return (kl - likelihood).mean()


@tried(normal(4, 3), normal(4, 3), normal(4, 3))
def triplet_margin(anchor, positive, negative):
    near = jnp.linalg.norm(anchor - positive, axis=-1)
    far = jnp.linalg.norm(anchor - negative, axis=-1)
    return jnp.maximum(near - far + 1.0, 0).mean()


@tried(normal(6), normal(6), normal(6), jnp.asarray(0.2, jnp.float32))
def clipped_policy_gradient(log_p, old_log_p, advantage, epsilon):
    ratio = jnp.exp(log_p - old_log_p)
    clipped = jnp.clip(ratio, 1 - epsilon, 1 + epsilon)
    return -jnp.minimum(ratio * advantage, clipped * advantage).mean()


@tried(normal(4, 5), normal(5, 5), normal(5))
def gated_residual_by_cond(x, W, b):
    h = x @ W + b
    h = lax.cond(h.sum() > 0, lambda h: jnp.tanh(h) * 2, lambda h: h**2, h)
    return x + h


@tried(normal(7, 3), jnp.asarray([[0, 1], [1, 2], [4, 2], [6, 0]], jnp.int32), normal(3, 4))
def graph_convolution(nodes, edges, W):
    messages = (nodes @ W)[edges[:, 0]]
    gathered = jax.ops.segment_sum(messages, edges[:, 1], num_segments=7)
    return jax.nn.relu(gathered)


# --- kept aside -------------------------------------------------------------------------------------------------------


@kept_aside(normal(6, 2, 3), normal(3, 12), normal(4, 12), normal(12), normal(2, 4))
def gru(xs, Wx, Wh, b, h0):
    def step(h, x):
        gates = jax.nn.sigmoid(x @ Wx[:, :8] + h @ Wh[:, :8] + b[:8])
        r, z = jnp.split(gates, 2, axis=-1)
        n = jnp.tanh(x @ Wx[:, 8:] + r * (h @ Wh[:, 8:]) + b[8:])
        h = (1 - z) * n + z * h
        return h, None

    h, _ = lax.scan(step, h0, xs)
    return h


@kept_aside(normal(3, 5, 8), normal(8, 8), normal(8, 4), normal(8, 4), normal(8, 8))
def grouped_query_attention_with_rope(x, Wq, Wk, Wv, Wo):
    n, t, d = x.shape

    def rotate(u):
        half = u.shape[-1] // 2
        angles = jnp.arange(t)[:, None] / 100.0 ** (jnp.arange(half) / half)
        a, b = jnp.split(u, 2, axis=-1)
        return jnp.concatenate(
            [a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)], -1
        )

    q = rotate((x @ Wq).reshape(n, t, 2, 4).swapaxes(1, 2))
    k = rotate((x @ Wk).reshape(n, t, 1, 4).swapaxes(1, 2))
    v = (x @ Wv).reshape(n, t, 1, 4).swapaxes(1, 2)
    k, v = jnp.repeat(k, 2, axis=1), jnp.repeat(v, 2, axis=1)
    scores = q @ k.swapaxes(-1, -2) / 2.0
    scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -jnp.inf)
    out = jax.nn.softmax(scores, axis=-1) @ v
    return out.swapaxes(1, 2).reshape(n, t, d) @ Wo


@kept_aside(normal(2, 6, 6, 4), normal(3, 3, 1, 4), normal(4, 5))
def separable_convolution(x, depthwise, pointwise):
    y = lax.conv_general_dilated(
        x, depthwise, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )
    return jax.nn.relu6(y) @ pointwise


@kept_aside(normal(2, 6, 4), normal(4), normal(4), normal(4), positive(4))
def batch_norm_at_evaluation(x, scale, bias, mean, variance):
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


@kept_aside(normal(4, 6), normal(6, 3), labels(4, 3))
def label_smoothing(x, W, y):
    logits = x @ W
    targets = jax.nn.one_hot(y, 3) * 0.9 + 0.1 / 3
    return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()


@kept_aside(normal(4, 6), normal(4, 6))
def contrastive(a, b):
    a = a / jnp.linalg.norm(a, axis=-1, keepdims=True)
    b = b / jnp.linalg.norm(b, axis=-1, keepdims=True)
    logits = a @ b.T / 0.1
    diagonal = jnp.diagonal(logits)
    rows = jax.nn.logsumexp(logits, axis=1) - diagonal
    columns = jax.nn.logsumexp(logits, axis=0) - diagonal
    return (rows + columns).mean() / 2


@kept_aside(normal(4, 3, 5), normal(4), normal(3), normal(5))
def mixture_density(mean, log_weight, log_scale, y):
    log_p = jax.nn.log_softmax(log_weight)[:, None] + (
        -0.5 * ((y - mean) / jnp.exp(log_scale)[:, None]) ** 2 - log_scale[:, None]
    ).sum(-1)
    return -jax.nn.logsumexp(log_p, axis=0).mean()


@kept_aside(normal(8), normal(8, 3), normal(3))
def bayesian_regression(y, X, log_precision):
    A = X.T @ X + jnp.diag(jnp.exp(log_precision))
    w = jnp.linalg.solve(A, X.T @ y)
    _, logdet = jnp.linalg.slogdet(A)
    return 0.5 * ((y - X @ w) ** 2).sum() + 0.5 * logdet


@kept_aside(normal(2), normal(5, 2, 2), normal(5, 2))
def euler_ode(state, A, forcing):
    def step(s, inputs):
        matrix, f = inputs
        s = s + 0.1 * (jnp.tanh(matrix @ s) + f)
        return s, s

    _, path = lax.scan(step, state, (A, forcing))
    return (path**2).sum()


@kept_aside(normal(3, 4, 5), normal(5, 6), normal(5, 6))
def squeeze_and_excite(x, down, up):
    s = x.mean(axis=1)
    gate = jax.nn.sigmoid(jax.nn.relu(s @ down) @ up.T)
    return x * gate[:, None, :]


@kept_aside(normal(5, 3), normal(6, 3), normal())
def kernel_ridge(x, z, log_width):
    d2 = jnp.sum(x**2, 1)[:, None] + jnp.sum(z**2, 1) - 2 * x @ z.T
    K = jnp.exp(-d2 / (2 * jnp.exp(log_width) ** 2))
    return jnp.tanh(K).sum(axis=0)


@kept_aside(normal(6), normal(6), jnp.asarray(0.9, jnp.float32))
def generalised_advantage(rewards, values, discount):
    def step(advantage, inputs):
        reward, value, following = inputs
        delta = reward + discount * following - value
        advantage = delta + discount * 0.95 * advantage
        return advantage, advantage

    following = jnp.concatenate([values[1:], jnp.zeros(1)])
    _, advantages = lax.scan(step, 0.0, (rewards, values, following), reverse=True)
    return advantages


@kept_aside(normal(6, 4), normal(4, 8))
def sparse_autoencoder(x, W):
    code = jax.nn.relu(x @ W)
    values, _ = lax.top_k(code, 3)
    code = jnp.where(code >= values[:, -1:], code, 0)
    return ((code @ W.T - x) ** 2).mean() + 1e-3 * jnp.abs(code).sum()


@kept_aside(normal(2, 5, 4), normal(4, 4), jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], jnp.int32))
def masked_mean_pooling(x, W, mask):
    h = jnp.tanh(x @ W)
    m = mask[..., None].astype(h.dtype)
    return (h * m).sum(axis=1) / jnp.maximum(m.sum(axis=1), 1)
