"""Rules with mistakes in the derivatives of attn."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

EPS = 1e-5


def normals(*shapes):
    def draw(key):
        keys = jax.random.split(key, len(shapes))
        return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))

    return draw


def batchnorm(x, gamma, beta):
    mu = x.mean(0)
    var = ((x - mu) ** 2).mean(0)
    return gamma * (x - mu) / jnp.sqrt(var + EPS) + beta


def right_batchnorm(args, ct):
    x, gamma, beta = args
    N = x.shape[0]
    xmu = x - x.mean(axis=0)
    ivar = 1.0 / jnp.sqrt((xmu**2).mean(axis=0) + EPS)
    xhat = xmu * ivar
    dbeta = ct.sum(axis=0)
    dgamma = (ct * xhat).sum(axis=0)
    dxhat = ct * gamma
    divar = (dxhat * xmu).sum(axis=0)
    dvar = -0.5 * divar * ivar**3
    dxmu = dxhat * ivar + 2.0 / N * xmu * dvar
    dx = dxmu - dxmu.mean(axis=0)
    return dx, dgamma, dbeta


def scaled_bn(key):
    a, b, c = jax.random.split(key, 3)
    return 2.0 * jax.random.normal(a, (7, 4)) + 1, jax.random.normal(b, (4,)), jax.random.normal(c, (4,))


def gated_rms(x, z, scale):
    y = x * jax.nn.silu(z)
    ms = jnp.mean(y**2, axis=-1, keepdims=True)
    return y * jax.lax.rsqrt(ms + EPS) * scale


def right_gated_rms(args, ct):
    x, z, scale = args
    sig = jax.nn.sigmoid(z)
    gate = z * sig
    y = x * gate
    r = jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + EPS)
    gscale = jnp.sum(ct * y * r, axis=(0, 1))
    gn = ct * scale
    gy = r * gn - y * r**3 * jnp.mean(gn * y, axis=-1, keepdims=True)
    gx = gy * gate
    gz = gy * x * (sig + gate * (1 - sig))
    return gx, gz, gscale


def causal_attention(q, k, v):
    s = q @ k.T / jnp.sqrt(q.shape[-1])
    s = jnp.where(jnp.tril(jnp.ones(s.shape, bool)), s, -1e9)
    return jax.nn.softmax(s, axis=-1) @ v


def right_causal(args, ct):
    q, k, v = args
    T, d = q.shape
    scale = 1.0 / d**0.5
    keep = jnp.tril(jnp.ones((T, T), dtype=bool))
    logits = jnp.where(keep, (q @ k.T) * scale, -1e9)
    probs = jax.nn.softmax(logits, axis=-1)
    grad_v = probs.T @ ct
    grad_p = ct @ v.T
    grad_s = probs * (grad_p - jnp.sum(grad_p * probs, axis=-1, keepdims=True))
    grad_q = grad_s @ k * scale
    grad_k = grad_s.T @ q * scale
    return grad_q, grad_k, grad_v


def linear_attention(q, k, v):
    fq, fk = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    kv = jnp.einsum("nd,ne->de", fk, v)
    z = fq @ fk.sum(0)
    return jnp.einsum("nd,de->ne", fq, kv) / z[:, None]


def right_linear_attention(args, ct):
    q, k, v = args

    def phi(t):
        return jnp.where(t > 0, t + 1, jnp.exp(t))

    def dphi(t):
        return jnp.where(t > 0, 1.0, jnp.exp(t))

    fq, fk = phi(q), phi(k)
    kv = jnp.einsum("nd,ne->de", fk, v)
    ksum = fk.sum(axis=0)
    z = fq @ ksum
    out = (fq @ kv) / z[:, None]
    dnum = ct / z[:, None]
    dz = -jnp.sum(ct * out, axis=1) / z
    dfq = dnum @ kv.T + jnp.outer(dz, ksum)
    dkv = jnp.einsum("nd,ne->de", fq, dnum)
    dfk = v @ dkv.T + fq.T @ dz
    dv = fk @ dkv
    return dfq * dphi(q), dfk * dphi(k), dv


def rope_scores(q, k, freq):
    ang = jnp.arange(q.shape[0])[:, None] * freq[None, :]
    c, s = jnp.cos(ang), jnp.sin(ang)

    def rot(t):
        t1, t2 = jnp.split(t, 2, axis=-1)
        return jnp.concatenate([t1 * c - t2 * s, t1 * s + t2 * c], axis=-1)

    return rot(q) @ rot(k).T


def right_rope(args, ct):
    q, k, freq = args
    half = q.shape[1] // 2
    pos = jnp.arange(q.shape[0])[:, None]
    c, s = jnp.cos(pos * freq), jnp.sin(pos * freq)

    def rot(t):
        a, b = t[:, :half], t[:, half:]
        return jnp.concatenate([a * c - b * s, a * s + b * c], axis=1)

    def unrot(g):
        ga, gb = g[:, :half], g[:, half:]
        return jnp.concatenate([ga * c + gb * s, gb * c - ga * s], axis=1)

    rq, rk = rot(q), rot(k)
    drq, drk = ct @ rk, ct.T @ rq
    dq, dk = unrot(drq), unrot(drk)
    dang = rq[:, :half] * drq[:, half:] - rq[:, half:] * drq[:, :half]
    dang = dang + rk[:, :half] * drk[:, half:] - rk[:, half:] * drk[:, :half]
    dfreq = (dang * pos).sum(axis=0)
    return dq, dk, dfreq


SINGLE = [
    *wrong_rules(
        batchnorm,
        right_batchnorm,
        scaled_bn,
        """
batchnorm_a
- dvar = -0.5 * divar * ivar**3
+ dvar = -0.5 * divar * ivar**2
constant: power of the inverse standard deviation: 2 for 3

batchnorm_b
- dxmu = dxhat * ivar + 2.0 / N * xmu * dvar
+ dxmu = dxhat * ivar
detached: the variance treated as a constant

batchnorm_c
- dx = dxmu - dxmu.mean(axis=0)
+ dx = dxmu - dxmu.mean(axis=1, keepdims=True)
axis: mean subtracted over the features instead of the batch
    """,
    ),
    *wrong_rules(
        gated_rms,
        right_gated_rms,
        normals((2, 3, 5), (2, 3, 5), (5,)),
        """
gated_rms_a
- gy = r * gn - y * r**3 * jnp.mean(gn * y, axis=-1, keepdims=True)
+ gy = r * gn - y * r**3 * jnp.sum(gn * y, axis=-1, keepdims=True)
reduction: sum in place of the mean of the squares' path

gated_rms_b
- gz = gy * x * (sig + gate * (1 - sig))
+ gz = gy * x * (sig * (1 - sig))
activation: slope of sigmoid instead of that of silu

gated_rms_c
- gy = r * gn - y * r**3 * jnp.mean(gn * y, axis=-1, keepdims=True)
+ gy = r * gn
detached: root mean square treated as a constant
    """,
    ),
    *wrong_rules(
        causal_attention,
        right_causal,
        normals((5, 4), (5, 4), (5, 3)),
        """
causal_a
- grad_v = probs.T @ ct
+ grad_v = probs @ ct
transpose: probs not transposed

causal_c
- keep = jnp.tril(jnp.ones((T, T), dtype=bool))
+ keep = jnp.triu(jnp.ones((T, T), dtype=bool))
mask: upper triangle kept instead of the lower one
@ keep = jnp.triu(jnp.ones((T, T), dtype=bool))
@ logits = jnp.where(keep, (q @ k.T) * scale, -1e9)
    """,
    ),
    *wrong_rules(
        linear_attention,
        right_linear_attention,
        normals((6, 3), (6, 3), (6, 2)),
        """
linear_attention_a
- dfq = dnum @ kv.T + jnp.outer(dz, ksum)
+ dfq = dnum @ kv.T
term: the normaliser's path to the queries is dropped

linear_attention_b
- dfk = v @ dkv.T + fq.T @ dz
+ dfk = v @ dkv.T + fk.T @ dz
operand: keys' features in place of the queries'
    """,
    ),
    *wrong_rules(
        rope_scores,
        right_rope,
        normals((4, 6), (4, 6), (3,)),
        """
rope_a
- return jnp.concatenate([ga * c + gb * s, gb * c - ga * s], axis=1)
+ return jnp.concatenate([ga * c + gb * s, gb * c + ga * s], axis=1)
sign: rotates forward again instead of back in the second half

rope_b
- dang = rq[:, :half] * drq[:, half:] - rq[:, half:] * drq[:, :half]
-     dang = dang + rk[:, :half] * drk[:, half:] - rk[:, half:] * drk[:, :half]
+ dang = rq[:, :half] * drq[:, half:] - rq[:, half:] * drq[:, :half]
term: contribution of the rotated keys to the angles is left out
@ dfreq = (dang * pos).sum(axis=0)
@ dang = rq[:, :half] * drq[:, half:] - rq[:, half:] * drq[:, :half]
    """,
    ),
]
