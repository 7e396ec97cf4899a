"""Rules with mistakes in the derivatives of norms."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


N, C, G = 6, 8, 2

EPS = 1e-5


def layer_norm(x, gamma, beta):
    mu = x.mean(-1, keepdims=True)
    var = ((x - mu) ** 2).mean(-1, keepdims=True)
    return gamma * (x - mu) / jnp.sqrt(var + EPS) + beta


def draw_ln(key):
    x, gamma, beta = normal(key, (N, C), (C,), (C,))
    return x * 2.0, gamma + 1.0, beta


def batch_norm(x, scale, shift):
    mean = jnp.mean(x, axis=0)
    var = jnp.var(x, axis=0)
    return scale * (x - mean) / jnp.sqrt(var + EPS) + shift


def group_norm(x, gamma):
    xg = x.reshape(N, G, C // G)
    mu = xg.mean(2, keepdims=True)
    sd = jnp.sqrt(xg.var(2, keepdims=True) + 1e-3)
    return ((xg - mu) / sd).reshape(N, C) * gamma


def draw_gn(key):
    x, gamma = normal(key, (N, C), (C,))
    return x, gamma + 1.0


def rms_norm(x, g):
    ms = jnp.mean(x**2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(ms + EPS) * g


def weight_norm(x, v, g):
    n = jnp.sqrt(jnp.sum(v**2, axis=0))
    return x @ (v * (g / n))


def draw_wn(key):
    return normal(key, (N, 4), (4, 3), (3,))


def standardise(x):
    m = x.mean(0)
    s = jnp.sqrt(((x - m) ** 2).sum(0) / (x.shape[0] - 1))
    return (x - m) / s


def draw_x(key):
    return normal(key, (N, 4))


def right_layer_norm(args, ct):
    x, gamma, beta = args
    mu = x.mean(-1, keepdims=True)
    var = ((x - mu) ** 2).mean(-1, keepdims=True)
    inv = 1.0 / jnp.sqrt(var + EPS)
    xhat = (x - mu) * inv
    dgamma = jnp.sum(ct * xhat, axis=0)
    dbeta = jnp.sum(ct, axis=0)
    dxhat = ct * gamma
    m1 = dxhat.mean(-1, keepdims=True)
    m2 = (dxhat * xhat).mean(-1, keepdims=True)
    dx = inv * (dxhat - m1 - xhat * m2)
    return dx, dgamma, dbeta


def right_batch_norm(args, ct):
    x, scale, shift = args
    n = x.shape[0]
    xc = x - jnp.mean(x, axis=0)
    std = jnp.sqrt(jnp.var(x, axis=0) + EPS)
    d_xhat = ct * scale
    d_var = jnp.sum(d_xhat * xc, axis=0) * -0.5 * std**-3
    d_mean = -jnp.sum(d_xhat, axis=0) / std
    d_x = d_xhat / std + 2.0 * xc * d_var / n + d_mean / n
    d_scale = jnp.sum(ct * xc / std, axis=0)
    d_shift = jnp.sum(ct, axis=0)
    return d_x, d_scale, d_shift


def right_unit_back(g, z, sd):
    a = g.mean(2, keepdims=True)
    b = (g * z).mean(2, keepdims=True)
    return (g - a - z * b) / sd


def right_group_norm(args, ct):
    x, gamma = args
    xg = x.reshape(N, G, C // G)
    sd = jnp.sqrt(xg.var(2, keepdims=True) + 1e-3)
    z = (xg - xg.mean(2, keepdims=True)) / sd
    g_gamma = (ct * z.reshape(N, C)).sum(0)
    gz = (ct * gamma).reshape(N, G, C // G)
    gx = right_unit_back(gz, z, sd)
    return gx.reshape(N, C), g_gamma


def _unit_back_1(g, z, sd):
    a = g.mean(2, keepdims=True)
    b = (g * z).mean((1, 2), keepdims=True)
    return (g - a - z * b) / sd


def right_rms_norm(args, ct):
    x, g = args
    r = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPS)
    dg = jnp.sum(ct * x * r, axis=0)
    dn = ct * g
    dot = jnp.sum(dn * x, axis=-1, keepdims=True)
    dx = r * dn - x * r**3 * dot / x.shape[-1]
    return dx, dg


def right_weight_norm(args, ct):
    x, v, g = args
    n = jnp.linalg.norm(v, axis=0)
    vhat = v / n
    dW = x.T @ ct
    dx = ct @ (vhat * g).T
    dg = jnp.sum(dW * vhat, axis=0)
    dv = g / n * (dW - vhat * dg)
    return dx, dv, dg


def right_standardise(args, ct):
    (x,) = args
    n = x.shape[0]
    s = jnp.std(x, axis=0, ddof=1)
    z = (x - x.mean(0)) / s
    proj = jnp.sum(ct * z, axis=0) / (n - 1)
    return ((ct - ct.mean(0) - z * proj) / s,)


def _unit_back_2(g, z, sd):
    a = g.mean(1, keepdims=True)
    b = (g * z).mean(2, keepdims=True)
    return (g - a - z * b) / sd


SINGLE = [
    *wrong_rules(
        layer_norm,
        right_layer_norm,
        draw_ln,
        """
layer_norm_bwd_2
- dgamma = jnp.sum(ct * xhat, axis=0)
+ dgamma = jnp.sum(ct * (x - mu), axis=0)
operand: centred x in place of the normalised xhat
    """,
    ),
    *wrong_rules(
        batch_norm,
        right_batch_norm,
        draw_ln,
        """
batch_norm_bwd_1
- d_x = d_xhat / std + 2.0 * xc * d_var / n + d_mean / n
+ d_x = d_xhat / std + 2.0 * xc * d_var / n
detached: the mean is taken for a constant
    """,
    ),
    *wrong_rules(
        group_norm,
        right_group_norm,
        draw_gn,
        """
group_norm_bwd_1
- gx = right_unit_back(gz, z, sd)
+ gx = _unit_back_1(gz, z, sd)
axis: mean over the groups, too, in place of within each group
@ b = (g * z).mean((1, 2), keepdims=True)
    """,
    ),
    *wrong_rules(
        rms_norm,
        right_rms_norm,
        draw_gn,
        """
rms_norm_bwd_1
- dx = r * dn - x * r**3 * dot / x.shape[-1]
+ dx = r * dn - x * r**3 * dot
factor: 1/n of the mean square missing
    """,
    ),
    *wrong_rules(
        weight_norm,
        right_weight_norm,
        draw_wn,
        """
weight_norm_bwd_1
- dv = g / n * (dW - vhat * dg)
+ dv = g / n * dW
detached: the norm of v is taken for a constant
    """,
    ),
    *wrong_rules(
        standardise,
        right_standardise,
        draw_x,
        """
standardise_bwd_2
- s = jnp.std(x, axis=0, ddof=1)
+ s = jnp.std(x, axis=0)
constant: standard deviation with n in place of n - 1
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        layer_norm,
        right_layer_norm,
        draw_ln,
        """
layer_norm_bwd_3
- dxhat = ct * gamma
+ dxhat = ct
- m2 = (dxhat * xhat).mean(-1, keepdims=True)
+ m2 = (dxhat * xhat).sum(-1, keepdims=True)
- dx = inv * (dxhat - m1 - xhat * m2)
+ dx = inv * (dxhat - m1 - m2)
factor: gamma missing
@ dxhat = ct
reduction: sum in place of mean
@ m2 = (dxhat * xhat).sum(-1, keepdims=True)
factor: xhat missing before the second mean
@ dx = inv * (dxhat - m1 - m2)
    """,
    ),
    *wrong_rules(
        batch_norm,
        right_batch_norm,
        draw_ln,
        """
batch_norm_bwd_3
- d_var = jnp.sum(d_xhat * xc, axis=0) * -0.5 * std**-3
+ d_var = jnp.sum(d_xhat * xc, axis=0) * -0.5 * std**-2
- d_mean = -jnp.sum(d_xhat, axis=0) / std
+ d_mean = jnp.sum(d_xhat, axis=0) / std
- d_scale = jnp.sum(ct * xc / std, axis=0)
+ d_scale = jnp.sum(ct * xc / std**2, axis=0)
sign: minus of x - mean missing
@ d_mean = jnp.sum(d_xhat, axis=0) / std
constant: divided by the variance in place of the standard deviation
@ d_scale = jnp.sum(ct * xc / std**2, axis=0)
constant: the power must be -3 (var ** -1.5)
@ d_var = jnp.sum(d_xhat * xc, axis=0) * -0.5 * std**-2
    """,
    ),
    *wrong_rules(
        group_norm,
        right_group_norm,
        draw_gn,
        """
group_norm_bwd_2
- gz = (ct * gamma).reshape(N, G, C // G)
+ gz = ct.reshape(N, G, C // G)
- gx = right_unit_back(gz, z, sd)
+ gx = _unit_back_2(gz, z, sd)
factor: gamma missing
@ gz = ct.reshape(N, G, C // G)
axis: mean over groups in place of the channels of a group
@ a = g.mean(1, keepdims=True)
    """,
    ),
    *wrong_rules(
        weight_norm,
        right_weight_norm,
        draw_wn,
        """
weight_norm_bwd_2
- dx = ct @ (vhat * g).T
+ dx = ct @ vhat.T
- dg = jnp.sum(dW * vhat, axis=0)
+ dg = jnp.sum(dW * v, axis=0)
operand: v in place of the unit direction v / n
@ dg = jnp.sum(dW * v, axis=0)
factor: gain g missing
@ dx = ct @ vhat.T
    """,
    ),
]
