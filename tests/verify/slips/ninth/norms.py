"""Rules with mistakes in the derivatives of norms."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

EPS = 1e-5


def ln_fwd(x, gamma, beta):
    mu = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    return (x - mu) / jnp.sqrt(var + EPS) * gamma + beta


def ln_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (4, 5)), jax.random.normal(b, (5,)), jax.random.normal(c, (5,))


def right_ln(args, ct):
    x, gamma, beta = args
    mu = jnp.mean(x, axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.var(x, axis=-1, keepdims=True) + EPS)
    xhat = (x - mu) * rstd
    dbeta = ct.sum(0)
    dgamma = (ct * xhat).sum(0)
    dxhat = ct * gamma
    m1 = dxhat.mean(-1, keepdims=True)
    m2 = (dxhat * xhat).mean(-1, keepdims=True)
    dx = rstd * (dxhat - m1 - xhat * m2)
    return dx, dgamma, dbeta


def bn_fwd(x, g, b):
    m = x.mean(0)
    xc = x - m
    v = (xc**2).mean(0)
    return jax.nn.relu(g * xc / jnp.sqrt(v + 1e-3) + b)


def bn_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 3)) * 2, jax.random.normal(b, (3,)) + 1, jax.random.normal(c, (3,))


def right_bn(args, ct):
    x, g, b = args
    N = x.shape[0]
    xc = x - x.mean(0)
    v = (xc**2).mean(0)
    istd = (v + 1e-3) ** -0.5
    y = g * xc * istd + b
    dy = ct * (y > 0)
    db = dy.sum(axis=0)
    dg = (dy * xc * istd).sum(axis=0)
    dxn = dy * g
    dv = jnp.sum(dxn * xc, axis=0) * -0.5 * istd**3
    dxc = dxn * istd
    dxc = dxc + 2.0 / N * xc * dv
    dm = -dxc.sum(axis=0)
    dx = dxc + dm / N
    return dx, dg, db


def gn_fwd(x, w):
    n, h, c = x.shape
    xg = x.reshape(n, h, 2, c // 2)
    mu = xg.mean((1, 3), keepdims=True)
    s = jnp.sqrt(((xg - mu) ** 2).mean((1, 3), keepdims=True) + EPS)
    return ((xg - mu) / s).reshape(x.shape) * w


def gn_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (2, 3, 4)) + 0.5, jax.random.normal(b, (4,)) + 1.0


def right_gn(args, ct):
    x, w = args
    n, h, c = x.shape
    xg = x.reshape(n, h, 2, c // 2)
    centred = xg - xg.mean((1, 3), keepdims=True)
    s = jnp.sqrt((centred**2).mean((1, 3), keepdims=True) + EPS)
    z = centred / s
    grad_w = jnp.einsum("nhc,nhc->c", ct, z.reshape(x.shape))
    gz = (ct * w).reshape(xg.shape)
    proj = (gz * z).mean((1, 3), keepdims=True)
    gx = (gz - z * proj) / s
    gx = gx - gx.mean((1, 3), keepdims=True)
    return gx.reshape(x.shape), grad_w


def rms_fwd(x, scale, W):
    r = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    return (r * scale) @ W


def rms_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (2, 3, 4)), jax.random.normal(b, (4,)), jax.random.normal(c, (4, 3))


def right_rms(args, ct):
    x, scale, W = args
    inv = 1.0 / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    normed = x * inv
    d_scaled = ct @ W.T
    d_W = jnp.einsum("btd,bto->do", normed * scale, ct)
    d_scale = jnp.sum(d_scaled * normed, axis=(0, 1))
    d_normed = d_scaled * scale
    dot = jnp.sum(d_normed * x, -1, keepdims=True)
    d_x = d_normed * inv - x * inv**3 * dot / x.shape[-1]
    return d_x, d_scale, d_W


def wnorm_fwd(x, v, g):
    n = jnp.linalg.norm(v, axis=0)
    return x @ (g * v / n)


def wnorm_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (4, 3)), jax.random.normal(b, (3, 5)), jax.random.normal(c, (5,))


def right_wnorm(args, ct):
    x, v, g = args
    nrm = jnp.sqrt((v * v).sum(0))
    u = v / nrm
    x_bar = ct @ (g * u).T
    w_bar = x.T @ ct
    g_bar = (w_bar * u).sum(0)
    radial = u * g_bar
    v_bar = g / nrm * (w_bar - radial)
    return x_bar, v_bar, g_bar


def zca_fwd(x):
    xc = x - x.mean(0)
    C = xc.T @ xc / (x.shape[0] - 1)
    d = jnp.sqrt(jnp.diag(C))
    return C / jnp.outer(d, d)


def zca_draw(key):
    return (jax.random.normal(key, (5, 3)),)


def right_zca(args, ct):
    (x,) = args
    n = x.shape[0]
    xc = x - x.mean(axis=0)
    cov = xc.T @ xc / (n - 1)
    sd = jnp.sqrt(jnp.diagonal(cov))
    g_cov = ct / (sd[:, None] * sd[None, :])
    corr = cov / jnp.outer(sd, sd)
    g_sd = -((ct * corr).sum(1) + (ct * corr).sum(0)) / sd
    g_cov = g_cov + jnp.diag(0.5 * g_sd / sd)
    sym = g_cov + g_cov.T
    g_xc = xc @ sym / (n - 1)
    return (g_xc - g_xc.mean(axis=0),)


SINGLE = [
    *wrong_rules(
        ln_fwd,
        right_ln,
        ln_draw,
        """
ln_a
- dx = rstd * (dxhat - m1 - xhat * m2)
+ dx = rstd * (dxhat - m1)
term: term of the variance path missing
    """,
    ),
    *wrong_rules(
        bn_fwd,
        right_bn,
        bn_draw,
        """
bn_a
- dv = jnp.sum(dxn * xc, axis=0) * -0.5 * istd**3
+ dv = jnp.sum(dxn * xc, axis=0) * -0.5 * istd**2
constant: wrong power of the inverse standard deviation

bn_c
- dxc = dxc + 2.0 / N * xc * dv
+ dxc = dxc + 2.0 * xc * dv
factor: 1/N of the variance mean missing
    """,
    ),
    *wrong_rules(
        gn_fwd,
        right_gn,
        gn_draw,
        """
gn_a
- gx = gx - gx.mean((1, 3), keepdims=True)
+ gx = gx - gx.mean((1, 2), keepdims=True)
axis: mean over the group axis instead of the channels of the group
    """,
    ),
    *wrong_rules(
        rms_fwd,
        right_rms,
        rms_draw,
        """
rms_a
- d_x = d_normed * inv - x * inv**3 * dot / x.shape[-1]
+ d_x = d_normed * inv - x * inv**3 * dot
factor: 1/d of the mean square missing
    """,
    ),
    *wrong_rules(
        wnorm_fwd,
        right_wnorm,
        wnorm_draw,
        """
wnorm_a
- v_bar = g / nrm * (w_bar - radial)
+ v_bar = g / nrm * w_bar
detached: norm taken for constant
    """,
    ),
    *wrong_rules(
        zca_fwd,
        right_zca,
        zca_draw,
        """
zca_a
- g_xc = xc @ sym / (n - 1)
+ g_xc = xc @ sym / n
constant: n in place of n - 1
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        ln_fwd,
        right_ln,
        ln_draw,
        """
ln_b
- dgamma = (ct * xhat).sum(0)
+ dgamma = (ct * (x - mu)).sum(0)
- m1 = dxhat.mean(-1, keepdims=True)
+ m1 = dxhat.mean(0, keepdims=True)
operand: not divided by the standard deviation
@ dgamma = (ct * (x - mu)).sum(0)
axis: mean over the batch instead of the features
@ m1 = dxhat.mean(0, keepdims=True)
    """,
    ),
    *wrong_rules(
        bn_fwd,
        right_bn,
        bn_draw,
        """
bn_b
- dy = ct * (y > 0)
+ dy = ct * (x > 0)
- dx = dxc + dm / N
+ dx = dxc
detached: path through the batch mean left out
@ dx = dxc
mask: relu mask of the input instead of the pre-activation
@ dy = ct * (x > 0)
    """,
    ),
    *wrong_rules(
        gn_fwd,
        right_gn,
        gn_draw,
        """
gn_b
- gz = (ct * w).reshape(xg.shape)
+ gz = ct.reshape(xg.shape)
- gx = (gz - z * proj) / s
+ gx = (gz - z * proj) * s
factor: multiplied by the standard deviation instead of divided
@ gx = (gz - z * proj) * s
factor: channel weight left out
@ gz = ct.reshape(xg.shape)
    """,
    ),
    *wrong_rules(
        rms_fwd,
        right_rms,
        rms_draw,
        """
rms_b
- d_scale = jnp.sum(d_scaled * normed, axis=(0, 1))
+ d_scale = jnp.sum(d_scaled * x, axis=(0, 1))
- dot = jnp.sum(d_normed * x, -1, keepdims=True)
+ dot = jnp.sum(d_scaled * x, -1, keepdims=True)
operand: x instead of the normalised x
@ d_scale = jnp.sum(d_scaled * x, axis=(0, 1))
operand: gradient before the scale in the dot
@ dot = jnp.sum(d_scaled * x, -1, keepdims=True)
    """,
    ),
    *wrong_rules(
        wnorm_fwd,
        right_wnorm,
        wnorm_draw,
        """
wnorm_b
- nrm = jnp.sqrt((v * v).sum(0))
+ nrm = jnp.sqrt((v * v).sum(0) + 1.0)
- radial = u * g_bar
+ radial = u + g_bar
constant: constant 1 added under the root
@ nrm = jnp.sqrt((v * v).sum(0) + 1.0)
factor: added in place of multiplied
@ radial = u + g_bar
    """,
    ),
    *wrong_rules(
        zca_fwd,
        right_zca,
        zca_draw,
        """
zca_b
- g_cov = g_cov + jnp.diag(0.5 * g_sd / sd)
+ g_cov = g_cov + jnp.diag(g_sd / sd)
- sym = g_cov + g_cov.T
+ sym = 2 * g_cov
transpose: not symmetrised
@ sym = 2 * g_cov
constant: 0.5 of the square root missing
@ g_cov = g_cov + jnp.diag(g_sd / sd)
    """,
    ),
]
