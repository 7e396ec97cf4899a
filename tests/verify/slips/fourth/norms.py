"""Normalisations. Notation: v_bar is the adjoint of v."""

import jax
import jax.numpy as jnp
import jax.random as jr

from tests.verify.slips.changes import wrong_rules

EPS = 1e-5


def layer_norm(x, gamma, beta):
    mu = x.mean(-1, keepdims=True)
    var = ((x - mu) ** 2).mean(-1, keepdims=True)
    return gamma * (x - mu) / jnp.sqrt(var + EPS) + beta


def right_layer_norm_adjoint(primals, y_bar):
    x, gamma, _ = primals
    mu = x.mean(-1, keepdims=True)
    rstd = 1.0 / jnp.sqrt(x.var(-1, keepdims=True) + EPS)
    xhat = (x - mu) * rstd
    gamma_bar = (y_bar * xhat).sum(axis=(0, 1))
    beta_bar = y_bar.sum(axis=(0, 1))
    xhat_bar = y_bar * gamma
    m1 = xhat_bar.mean(-1, keepdims=True)
    m2 = (xhat_bar * xhat).mean(-1, keepdims=True)
    x_bar = rstd * (xhat_bar - m1 - xhat * m2)
    return x_bar, gamma_bar, beta_bar


def rms_norm(x, g):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPS) * g


def right_rms_norm_adjoint(primals, y_bar):
    x, g = primals
    n = x.shape[-1]
    r = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPS)
    g_bar = jnp.sum(y_bar * x * r, axis=0)
    u_bar = y_bar * g
    r_bar = jnp.sum(u_bar * x, axis=-1, keepdims=True)
    ms_bar = -0.5 * r_bar * r**3
    x_bar = u_bar * r + ms_bar * 2.0 * x / n
    return x_bar, g_bar


def batch_norm(x, gamma, beta):
    mu = jnp.mean(x, axis=0)
    v = jnp.mean((x - mu) ** 2, axis=0)
    return (x - mu) / jnp.sqrt(v + EPS) * gamma + beta


def right_batch_norm_adjoint(primals, y_bar):
    x, gamma, beta = primals
    n = x.shape[0]
    xc = x - jnp.mean(x, axis=0)
    v = jnp.mean(xc**2, axis=0)
    istd = (v + EPS) ** -0.5
    beta_bar = jnp.sum(y_bar, axis=0)
    gamma_bar = jnp.sum(y_bar * xc * istd, axis=0)
    z_bar = y_bar * gamma
    v_bar = jnp.sum(z_bar * xc, axis=0) * (-0.5) * istd**3
    xc_bar = z_bar * istd + 2.0 * xc * v_bar / n
    x_bar = xc_bar - jnp.mean(xc_bar, axis=0)
    return x_bar, gamma_bar, beta_bar


def weight_norm_linear(x, v, g):
    w = g[:, None] * v / jnp.linalg.norm(v, axis=1, keepdims=True)
    return x @ w.T


def right_weight_norm_linear_adjoint(primals, y_bar):
    x, v, g = primals
    nrm = jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    d = v / nrm
    w = g[:, None] * d
    x_bar = y_bar @ w
    w_bar = y_bar.T @ x
    g_bar = jnp.sum(w_bar * d, axis=1)
    # project away the component along the direction
    v_bar = g[:, None] / nrm * (w_bar - g_bar[:, None] * d)
    return x_bar, v_bar, g_bar


def unit_rows_gram(x):
    u = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return u @ u.T


def right_unit_rows_gram_adjoint(primals, s_bar):
    (x,) = primals
    r = jnp.linalg.norm(x, axis=1, keepdims=True)
    u = x / r
    u_bar = (s_bar + s_bar.T) @ u
    radial = jnp.sum(u_bar * u, axis=1, keepdims=True)
    return ((u_bar - radial * u) / r,)


def xgb(key, shape):
    a, b, c = jr.split(key, 3)
    return jr.normal(a, shape) * 1.5 + 0.5, 1 + 0.3 * jr.normal(b, shape[-1:]), jr.normal(c, shape[-1:])


def draw_wn(key):
    a, b, c = jr.split(key, 3)
    return jr.normal(a, (5, 4)), jr.normal(b, (3, 4)), 1.0 + jr.uniform(c, (3,))


SINGLE = [
    *wrong_rules(
        layer_norm,
        right_layer_norm_adjoint,
        lambda key: xgb(key, (2, 3, 5)),
        """
layer_norm_adjoint
- x_bar = rstd * (xhat_bar - m1 - xhat * m2)
+ x_bar = rstd * (xhat_bar - m1)
detached: the path through the variance is missing
    """,
    ),
    *wrong_rules(
        rms_norm,
        right_rms_norm_adjoint,
        lambda key: xgb(key, (4, 5))[:2],
        """
rms_norm_adjoint
- ms_bar = -0.5 * r_bar * r**3
+ ms_bar = -0.5 * r_bar * r
constant: derivative of (.)**-0.5 is -0.5 r**3
    """,
    ),
    *wrong_rules(
        batch_norm,
        right_batch_norm_adjoint,
        lambda key: xgb(key, (4, 3)),
        """
batch_norm_adjoint
- xc_bar = z_bar * istd + 2.0 * xc * v_bar / n
+ xc_bar = z_bar * istd + 2.0 * xc * v_bar / (n - 1)
constant: biased variance divides by n, not n - 1
    """,
    ),
    *wrong_rules(
        weight_norm_linear,
        right_weight_norm_linear_adjoint,
        draw_wn,
        """
weight_norm_linear_adjoint
- v_bar = g[:, None] / nrm * (w_bar - g_bar[:, None] * d)
+ v_bar = g[:, None] / nrm * (w_bar - g_bar[:, None] * v)
operand: projection along v instead of the unit direction d
    """,
    ),
    *wrong_rules(
        unit_rows_gram,
        right_unit_rows_gram_adjoint,
        lambda key: (jr.normal(key, (4, 3)),),
        """
unit_rows_gram_adjoint
- u_bar = (s_bar + s_bar.T) @ u
+ u_bar = 2.0 * s_bar @ u
transpose: cotangent is not symmetric, needs s_bar + s_bar.T
    """,
    ),
]
