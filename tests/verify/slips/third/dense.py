"""Rules with mistakes in the derivatives of dense."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


N, D, H, K = 6, 5, 7, 4

LABELS = jnp.array([0, 3, 1, 1, 2, 0])

SMOOTH = 0.1


def mlp(x, w1, b1, w2, b2):
    h = jnp.tanh(x @ w1 + b1)
    return h @ w2 + b2


def draw_mlp(key):
    x, w1, b1, w2, b2 = normal(key, (N, D), (D, H), (H,), (H, K), (K,))
    return x, w1 * 0.5, b1, w2, b2


def smoothed_xent(x, w, b):
    logits = x @ w + b
    logp = jax.nn.log_softmax(logits, axis=-1)
    target = (1.0 - SMOOTH) * jax.nn.one_hot(LABELS, K) + SMOOTH / K
    return -jnp.mean(jnp.sum(target * logp, axis=-1))


def draw_xent(key):
    return normal(key, (N, D), (D, K), (K,))


def swiglu(x, w_gate, w_up, w_down):
    g = x @ w_gate
    u = x @ w_up
    return (g * jax.nn.sigmoid(g) * u) @ w_down


def draw_swiglu(key):
    return normal(key, (N, D), (D, H), (D, H), (H, D))


def residual_block(x, w1, w2, alpha):
    h = jax.nn.leaky_relu(x @ w1, 0.1)
    return x + alpha * (h @ w2)


def draw_residual(key):
    x, w1, w2, alpha = normal(key, (N, D), (D, H), (H, D), ())
    return x, w1, w2, alpha + 2.0


def weighted_autoencoder(x, w, b, c):
    code = jax.nn.softplus(x @ w + b)
    recon = code @ w.T + c
    return 0.5 * jnp.sum((recon - x) ** 2) / x.shape[0]


def draw_autoencoder(key):
    x, w, b, c = normal(key, (N, D), (D, 3), (3,), (D,))
    return x, w, b, c


def right_mlp(args, ct):
    x, w1, b1, w2, b2 = args
    h = jnp.tanh(x @ w1 + b1)
    d_w2 = h.T @ ct
    d_b2 = ct.sum(axis=0)
    d_h = ct @ w2.T
    d_z = d_h * (1.0 - h**2)
    d_w1 = x.T @ d_z
    d_b1 = d_z.sum(axis=0)
    d_x = d_z @ w1.T
    return d_x, d_w1, d_b1, d_w2, d_b2


def right_smoothed_xent(args, ct):
    x, w, b = args
    logits = x @ w + b
    probs = jax.nn.softmax(logits, axis=-1)
    target = (1.0 - SMOOTH) * jax.nn.one_hot(LABELS, K) + SMOOTH / K
    delta = ct * (probs - target)
    delta = delta / x.shape[0]
    return delta @ w.T, x.T @ delta, delta.sum(0)


def right_swiglu(args, ct):
    x, w_gate, w_up, w_down = args
    g, u = x @ w_gate, x @ w_up
    sig = jax.nn.sigmoid(g)
    silu = g * sig
    grad_hidden = ct @ w_down.T
    grad_down = (silu * u).T @ ct
    grad_u = grad_hidden * silu
    grad_g = grad_hidden * u * (sig + g * sig * (1 - sig))
    grad_gate = x.T @ grad_g
    grad_up = x.T @ grad_u
    grad_x = grad_g @ w_gate.T + grad_u @ w_up.T
    return grad_x, grad_gate, grad_up, grad_down


def right_residual_block(args, ct):
    x, w1, w2, alpha = args
    pre = x @ w1
    h = jnp.where(pre > 0, pre, 0.1 * pre)
    dalpha = jnp.sum(ct * (h @ w2))
    dbranch = alpha * ct
    dw2 = h.T @ dbranch
    dpre = (dbranch @ w2.T) * jnp.where(pre > 0, 1.0, 0.1)
    dw1 = x.T @ dpre
    dx = ct + dpre @ w1.T
    return dx, dw1, dw2, dalpha


def right_weighted_autoencoder(args, ct):
    x, w, b, c = args
    pre = x @ w + b
    code = jnp.log1p(jnp.exp(pre))
    recon = code @ w.T + c
    err = ct * (recon - x) / x.shape[0]
    g_code = err @ w
    g_pre = g_code * jax.nn.sigmoid(pre)
    g_w = err.T @ code + x.T @ g_pre
    g_b = jnp.sum(g_pre, 0)
    g_c = jnp.sum(err, 0)
    g_x = g_pre @ w.T - err
    return g_x, g_w, g_b, g_c


SINGLE = [
    *wrong_rules(
        mlp,
        right_mlp,
        draw_mlp,
        """
mlp_bwd_2
- d_b2 = ct.sum(axis=0)
+ d_b2 = ct.mean(axis=0)
reduction: mean over the batch in place of the sum
    """,
    ),
    *wrong_rules(
        smoothed_xent,
        right_smoothed_xent,
        draw_xent,
        """
smoothed_xent_bwd_1
- target = (1.0 - SMOOTH) * jax.nn.one_hot(LABELS, K) + SMOOTH / K
+ target = (1.0 - SMOOTH) * jax.nn.one_hot(LABELS, K) + SMOOTH
constant: SMOOTH must be divided by the number of classes
    """,
    ),
    *wrong_rules(
        swiglu,
        right_swiglu,
        draw_swiglu,
        """
swiglu_bwd_2
- grad_x = grad_g @ w_gate.T + grad_u @ w_up.T
+ grad_x = grad_g @ w_gate.T
term: path through the up projection missing in grad_x
    """,
    ),
    *wrong_rules(
        residual_block,
        right_residual_block,
        draw_residual,
        """
residual_block_bwd_2
- dpre = (dbranch @ w2.T) * jnp.where(pre > 0, 1.0, 0.1)
+ dpre = (dbranch @ w2.T) * jnp.where(pre > 0, 1.0, 0.0)
activation: slope of relu in place of leaky relu
    """,
    ),
    *wrong_rules(
        weighted_autoencoder,
        right_weighted_autoencoder,
        draw_autoencoder,
        """
weighted_autoencoder_bwd_1
- g_w = err.T @ code + x.T @ g_pre
+ g_w = err.T @ code
term: w is tied: the encoder's part of its gradient is missing
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        mlp,
        right_mlp,
        draw_mlp,
        """
mlp_bwd_3
- d_z = d_h * (1.0 - h**2)
+ d_z = d_h * (1.0 - h)
- d_w1 = x.T @ d_z
+ d_w1 = x.T @ d_h
- d_b1 = d_z.sum(axis=0)
+ d_b1 = d_h.sum(axis=0)
activation: slope of tanh is 1 - h**2, not 1 - h
@ d_z = d_h * (1.0 - h)
operand: bias gradient from d_h in place of d_z
@ d_b1 = d_h.sum(axis=0)
operand: d_h used where d_z belongs: slope of tanh not in the gradient of w1
@ d_w1 = x.T @ d_h
    """,
    ),
    *wrong_rules(
        swiglu,
        right_swiglu,
        draw_swiglu,
        """
swiglu_bwd_3
- grad_down = (silu * u).T @ ct
+ grad_down = silu.T @ ct
- grad_u = grad_hidden * silu
+ grad_u = grad_hidden * sig
- grad_g = grad_hidden * u * (sig + g * sig * (1 - sig))
+ grad_g = grad_hidden * u * (sig + sig * (1 - sig))
operand: sigmoid in place of silu(g)
@ grad_u = grad_hidden * sig
factor: hidden is silu * u; the factor u is missing
@ grad_down = silu.T @ ct
factor: factor g missing in the second term of the slope of silu
@ grad_g = grad_hidden * u * (sig + sig * (1 - sig))
    """,
    ),
    *wrong_rules(
        residual_block,
        right_residual_block,
        draw_residual,
        """
residual_block_bwd_3
- dw2 = h.T @ dbranch
+ dw2 = h.T @ ct
- dx = ct + dpre @ w1.T
+ dx = dbranch + dpre @ w1.T
operand: ct in place of alpha * ct
@ dw2 = h.T @ ct
operand: the skip connection takes ct, not alpha * ct
@ dx = dbranch + dpre @ w1.T
    """,
    ),
    *wrong_rules(
        weighted_autoencoder,
        right_weighted_autoencoder,
        draw_autoencoder,
        """
weighted_autoencoder_bwd_2
- g_pre = g_code * jax.nn.sigmoid(pre)
+ g_pre = g_code * jax.nn.sigmoid(code)
- g_x = g_pre @ w.T - err
+ g_x = g_pre @ w.T + err
activation: slope of softplus taken at the output, not at the pre-activation
@ g_pre = g_code * jax.nn.sigmoid(code)
sign: the target x enters the error with a minus
@ g_x = g_pre @ w.T + err
    """,
    ),
]
