"""MLPs, losses and norms with hand-derived backward passes."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def two_layer(x, w1, b1, w2, b2):
    h = jnp.tanh(x @ w1 + b1)
    return h @ w2 + b2


def draw_two_layer(key):
    k = jax.random.split(key, 5)
    return (
        jax.random.normal(k[0], (6, 4)),
        jax.random.normal(k[1], (4, 5)) * 0.6,
        jax.random.normal(k[2], (5,)) * 0.3,
        jax.random.normal(k[3], (5, 5)) * 0.6,
        jax.random.normal(k[4], (5,)),
    )


def right_two_layer_bwd(args, ct):
    x, w1, b1, w2, b2 = args
    z1 = x @ w1 + b1
    h = jnp.tanh(z1)
    d_b2 = ct.sum(axis=0)
    d_w2 = h.T @ ct
    d_h = ct @ w2.T
    d_z = d_h * (1.0 - h**2)
    d_b1 = d_z.sum(axis=0)
    d_w1 = x.T @ d_z
    d_x = d_z @ w1.T
    return d_x, d_w1, d_b1, d_w2, d_b2


Y_CLASS = jnp.array([0, 2, 1, 3, 2, 0, 1])


def xent(logits, tau):
    logp = jax.nn.log_softmax(logits / tau, axis=-1)
    return -jnp.take_along_axis(logp, Y_CLASS[:, None], axis=-1).mean()


def draw_xent(key):
    k1, k2 = jax.random.split(key)
    return jax.random.normal(k1, (7, 4)) * 2, 0.7 + jax.random.uniform(k2, ())


def right_xent_grad(args, ct):
    logits, tau = args
    n, c = logits.shape
    p = jax.nn.softmax(logits / tau, axis=-1)
    onehot = jax.nn.one_hot(Y_CLASS, c)
    delta = (p - onehot) / n
    delta = delta * ct
    grad_logits = delta / tau
    grad_tau = -(delta * logits).sum() / tau**2
    return grad_logits, grad_tau


def layer_norm(x, g, b):
    mu = x.mean(-1, keepdims=True)
    var = ((x - mu) ** 2).mean(-1, keepdims=True)
    return (x - mu) / jnp.sqrt(var + 1e-5) * g + b


def draw_layer_norm(key):
    k = jax.random.split(key, 3)
    return (
        jax.random.normal(k[0], (3, 5, 6)) * 1.5 + 0.5,
        1 + 0.4 * jax.random.normal(k[1], (6,)),
        jax.random.normal(k[2], (6,)),
    )


def right_ln_backward(args, dout):
    x, gamma, beta = args
    D = x.shape[-1]
    mu = x.mean(-1, keepdims=True)
    xc = x - mu
    istd = 1.0 / jnp.sqrt((xc**2).mean(-1, keepdims=True) + 1e-5)
    xhat = xc * istd
    dbeta = dout.sum((0, 1))
    dgamma = (dout * xhat).sum((0, 1))
    dxhat = dout * gamma
    dvar = (dxhat * xc).sum(-1, keepdims=True) * -0.5 * istd**3
    dmu = -(dxhat * istd).sum(-1, keepdims=True)
    dx = dxhat * istd + dvar * 2 * xc / D + dmu / D
    return dx, dgamma, dbeta


def layer_norm_free(x):
    mu = x.mean(-1, keepdims=True)
    xc = x - mu
    return xc / jnp.sqrt((xc * xc).mean(-1, keepdims=True) + 1e-6)


def draw_layer_norm_free(key):
    return (jax.random.normal(key, (4, 7)),)


def right_ln_three_term(args, g):
    (x,) = args
    xc = x - x.mean(-1, keepdims=True)
    r = jax.lax.rsqrt((xc * xc).mean(-1, keepdims=True) + 1e-6)
    y = xc * r
    m1 = g.mean(-1, keepdims=True)
    m2 = (g * y).mean(-1, keepdims=True)
    gx = r * (g - m1 - y * m2)
    return (gx,)


def batch_norm(x, gamma, beta):
    mean = jnp.mean(x, axis=0)
    var = jnp.var(x, axis=0)
    return gamma * (x - mean) / jnp.sqrt(var + 1e-3) + beta


def draw_batch_norm(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (8, 3)) + 1.0, 1 + 0.5 * jax.random.normal(k[1], (3,)), jax.random.normal(k[2], (3,))


def right_bn_compact(args, dy):
    x, gamma, beta = args
    N = x.shape[0]
    inv = 1 / jnp.sqrt(jnp.var(x, axis=0) + 1e-3)
    x_hat = (x - jnp.mean(x, axis=0)) * inv
    dgamma = jnp.sum(dy * x_hat, axis=0)
    dbeta = jnp.sum(dy, axis=0)
    inner = N * dy - dbeta - x_hat * dgamma
    dx = gamma * inv / N * inner
    return dx, dgamma, dbeta


def rms_head(x, scale, w):
    ms = jnp.mean(x**2, axis=-1, keepdims=True)
    return jax.nn.silu(x / jnp.sqrt(ms + 1e-5) * scale) @ w


def draw_rms_head(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (5, 6)), 1 + 0.3 * jax.random.normal(k[1], (6,)), jax.random.normal(k[2], (6, 3))


def right_rms_head_vjp(args, ct):
    x, scale, w = args
    n = x.shape[-1]
    inv_rms = 1.0 / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)
    normed = x * inv_rms
    a = normed * scale
    sig = jax.nn.sigmoid(a)
    w_bar = (a * sig).T @ ct
    s_bar = ct @ w.T
    a_bar = s_bar * (sig + a * sig * (1 - sig))
    scale_bar = jnp.sum(a_bar * normed, axis=0)
    n_bar = a_bar * scale
    proj = jnp.sum(n_bar * x, axis=-1, keepdims=True)
    x_bar = n_bar * inv_rms - x * inv_rms**3 * proj / n
    return x_bar, scale_bar, w_bar


def gelu_mlp(x, w_in, w_gate, w_out):
    return (jax.nn.gelu(x @ w_gate, approximate=True) * (x @ w_in)) @ w_out


def draw_gelu_mlp(key):
    k = jax.random.split(key, 4)
    return (
        jax.random.normal(k[0], (5, 4)),
        jax.random.normal(k[1], (4, 6)) * 0.5,
        jax.random.normal(k[2], (4, 6)) * 0.5,
        jax.random.normal(k[3], (6, 4)) * 0.5,
    )


def right_dgelu(u):
    c = 0.7978845608028654
    t = jnp.tanh(c * (u + 0.044715 * u**3))
    return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * c * (1 + 3 * 0.044715 * u**2)


def right_geglu_bwd(args, g):
    x, w_in, w_gate, w_out = args
    u = x @ w_gate
    v = x @ w_in
    act = jax.nn.gelu(u, approximate=True)
    grad_w_out = (act * v).T @ g
    g_hidden = g @ w_out.T
    g_v = g_hidden * act
    g_u = g_hidden * v * right_dgelu(u)
    grad_w_in = x.T @ g_v
    grad_w_gate = x.T @ g_u
    grad_x = g_v @ w_in.T + g_u @ w_gate.T
    return grad_x, grad_w_in, grad_w_gate, grad_w_out


def dgelu_1(u):
    c = 0.7978845608028654
    t = jnp.tanh(c * (u + 0.044715 * u**3))
    return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * c * (1 + 0.044715 * u**2)


def dgelu_2(u):
    c = 0.7978845608028654
    t = jnp.tanh(c * (u + 0.044715 * u**3))
    return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * c * (1 + 3 * 0.044715 * u**2)


def dgelu_3(u):
    c = 0.7978845608028654
    t = jnp.tanh(c * (u + 0.044715 * u**3))
    return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * c * (1 + 3 * 0.044715 * u**2)


def dgelu_4(u):
    c = 0.7978845608028654
    t = jnp.tanh(c * (u + 0.044715 * u**3))
    return 0.5 * (1 + t) + 0.5 * u * (1 - t) * c * (1 + 3 * 0.044715 * u**2)


def residual_block(x, w, b, alpha):
    return x + alpha * jax.nn.relu(x @ w + b)


def draw_residual_block(key):
    k = jax.random.split(key, 4)
    return (
        jax.random.normal(k[0], (6, 5)),
        jax.random.normal(k[1], (5, 5)),
        jax.random.normal(k[2], (5,)),
        jax.random.uniform(k[3], (5,)) + 0.5,
    )


def right_residual_rule(args, dy):
    x, w, b, alpha = args
    pre = x @ w + b
    r = jnp.maximum(pre, 0)
    dalpha = (dy * r).sum(0)
    dr = dy * alpha
    dpre = dr * (pre > 0)
    db = dpre.sum(0)
    dw = x.T @ dpre
    dx = dpre @ w.T + dy
    return dx, dw, db, dalpha


SINGLE = [
    *wrong_rules(
        two_layer,
        right_two_layer_bwd,
        draw_two_layer,
        """
two_layer_bwd_1
- d_h = ct @ w2.T
+ d_h = ct @ w2
transpose: w2 is not transposed

two_layer_bwd_2
- d_w2 = h.T @ ct
+ d_w2 = z1.T @ ct
operand: pre-activation z1 in place of h in the gradient of w2

two_layer_bwd_3
- d_z = d_h * (1.0 - h**2)
+ d_z = d_h * (1.0 - z1**2)
activation: tanh slope taken in z1 instead of h

two_layer_bwd_4
- d_b1 = d_z.sum(axis=0)
+ d_b1 = d_h.sum(axis=0)
operand: d_h summed in place of d_z
    """,
    ),
    *wrong_rules(
        xent,
        right_xent_grad,
        draw_xent,
        """
xent_grad_1
- p = jax.nn.softmax(logits / tau, axis=-1)
+ p = jax.nn.softmax(logits, axis=-1)
factor: temperature missing in the softmax

xent_grad_2
- delta = (p - onehot) / n
+ delta = (p - onehot) / c
constant: divided by the number of classes instead of the batch size

xent_grad_3
- grad_logits = delta / tau
+ grad_logits = delta * tau
factor: multiplied by tau instead of divided
    """,
    ),
    *wrong_rules(
        layer_norm,
        right_ln_backward,
        draw_layer_norm,
        """
ln_backward_1
- dgamma = (dout * xhat).sum((0, 1))
+ dgamma = (dout * xc).sum((0, 1))
operand: centred x in place of the normalised xhat

ln_backward_2
- dxhat = dout * gamma
+ dxhat = dout
factor: gamma forgotten

ln_backward_3
- dvar = (dxhat * xc).sum(-1, keepdims=True) * -0.5 * istd**3
+ dvar = (dxhat * xc).sum(-1, keepdims=True) * -0.5 * istd**2
constant: power of istd is 3, not 2

ln_backward_4
- dmu = -(dxhat * istd).sum(-1, keepdims=True)
+ dmu = (dxhat * istd).sum(-1, keepdims=True)
sign: minus missing in dmu
    """,
    ),
    *wrong_rules(
        layer_norm_free,
        right_ln_three_term,
        draw_layer_norm_free,
        """
ln_three_term_1
- m1 = g.mean(-1, keepdims=True)
+ m1 = g.mean()
axis: mean over everything instead of the last axis

ln_three_term_2
- m2 = (g * y).mean(-1, keepdims=True)
+ m2 = (g * y).sum(-1, keepdims=True)
reduction: sum in place of mean

ln_three_term_3
- gx = r * (g - m1 - y * m2)
+ gx = r * (g - y * m2)
term: the term of the mean is missing
    """,
    ),
    *wrong_rules(
        batch_norm,
        right_bn_compact,
        draw_batch_norm,
        """
bn_compact_1
- inner = N * dy - dbeta - x_hat * dgamma
+ inner = dy - dbeta - x_hat * dgamma
factor: N missing in front of dy

bn_compact_2
- inner = N * dy - dbeta - x_hat * dgamma
+ inner = N * dy - dbeta
term: term through the variance is missing

bn_compact_3
- dx = gamma * inv / N * inner
+ dx = inv / N * inner
factor: gamma missing
    """,
    ),
    *wrong_rules(
        rms_head,
        right_rms_head_vjp,
        draw_rms_head,
        """
rms_head_vjp_1
- w_bar = (a * sig).T @ ct
+ w_bar = a.T @ ct
activation: silu not applied to the layer's input

rms_head_vjp_2
- a_bar = s_bar * (sig + a * sig * (1 - sig))
+ a_bar = s_bar * sig * (1 - sig)
activation: slope of the sigmoid in place of silu

rms_head_vjp_3
- x_bar = n_bar * inv_rms - x * inv_rms**3 * proj / n
+ x_bar = n_bar * inv_rms - x * inv_rms**3 * proj
factor: 1/n missing in the second term

rms_head_vjp_4
- x_bar = n_bar * inv_rms - x * inv_rms**3 * proj / n
+ x_bar = n_bar * inv_rms
detached: the rms is taken for a constant
    """,
    ),
    *wrong_rules(
        gelu_mlp,
        right_geglu_bwd,
        draw_gelu_mlp,
        """
geglu_bwd_1
- g_u = g_hidden * v * right_dgelu(u)
+ g_u = g_hidden * v * dgelu_1(u)
constant: factor 3 of the cube's derivative is missing
@ return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * c * (1 + 0.044715 * u**2)

geglu_bwd_2
- g_v = g_hidden * act
+ g_v = g_hidden * u
- g_u = g_hidden * v * right_dgelu(u)
+ g_u = g_hidden * v * dgelu_2(u)
operand: u before the activation in place of gelu(u)
@ g_v = g_hidden * u

geglu_bwd_3
- g_u = g_hidden * v * right_dgelu(u)
+ g_u = g_hidden * v * dgelu_3(u)
- grad_x = g_v @ w_in.T + g_u @ w_gate.T
+ grad_x = g_u @ w_gate.T
term: path of x through w_in is missing
@ grad_x = g_u @ w_gate.T

geglu_bwd_4
- g_u = g_hidden * v * right_dgelu(u)
+ g_u = g_hidden * v * dgelu_4(u)
activation: tanh slope is 1 - t*t
@ return 0.5 * (1 + t) + 0.5 * u * (1 - t) * c * (1 + 3 * 0.044715 * u**2)
    """,
    ),
    *wrong_rules(
        residual_block,
        right_residual_rule,
        draw_residual_block,
        """
residual_rule_1
- dpre = dr * (pre > 0)
+ dpre = dr * (x > 0)
activation: relu mask from x, not from pre

residual_rule_2
- dx = dpre @ w.T + dy
+ dx = dpre @ w.T
term: skip connection missing

residual_rule_3
- dx = dpre @ w.T + dy
+ dx = dpre @ w.T + dpre
operand: skip carries dy, not dpre

residual_rule_4
- dalpha = (dy * r).sum(0)
+ dalpha = (dy * pre).sum(0)
operand: pre in place of the relu's value
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        residual_block,
        right_residual_rule,
        draw_residual_block,
        """
residual_rule_5
- dpre = dr * (pre > 0)
+ dpre = dr
- dx = dpre @ w.T + dy
+ dx = dpre @ w + dy
mask: relu mask is missing
@ dpre = dr
transpose: w not transposed
@ dx = dpre @ w + dy
    """,
    ),
]
