"""Rules with unusual shapes whose verdict is certain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tests.verify.labelled import group, normals

CASES = []


class Params(NamedTuple):
    w: jax.Array
    b: jax.Array


# ---- NamedTuple and list arguments
def net(p, xs):
    return [jnp.tanh(x @ p.w + p.b) for x in xs]


def net_r1(args, ct):
    p, xs = args
    d = [c * (1 - jnp.tanh(x @ p.w + p.b) ** 2) for x, c in zip(xs, ct)]
    gw = d[0][None] * xs[0][:, None] + xs[1].T @ d[1]
    return Params(gw, d[0] + d[1].sum(0)), [e @ p.w.T for e in d]


def net_r2(args, ct):
    p, (x, y) = args
    X = jnp.concatenate([x[None], y])
    D = jnp.concatenate([ct[0][None], ct[1]]) * (1 - jnp.square(jnp.tanh(X @ p.w + p.b)))
    gX = jnp.einsum("nj,ij->ni", D, p.w)
    return Params(w=jnp.einsum("ni,nj->ij", X, D), b=D.sum(0)), [gX[0], gX[1:]]


def net_w1(args, ct):
    g, gx = net_r1(args, ct)
    p, xs = args
    d = ct[1] * (1 - jnp.tanh(xs[1] @ p.w + p.b) ** 2)
    return Params(xs[1].T @ d, g.b), gx


def net_w2(args, ct):
    g, gx = net_r1(args, ct)
    return Params(g.w, g.b / 3), gx


def net_w3(args, ct):
    g, gx = net_r1(args, ct)
    return g, [gx[0], jnp.zeros_like(gx[1])]


def net_w4(args, ct):
    g, gx = net_r1(args, ct)
    return g, [gx[0], gx[1][::-1]]


def net_draw(key):
    k = jax.random.split(key, 4)
    n = lambda i, s: jax.random.normal(k[i], s, jnp.float32)
    return Params(n(0, (3, 2)), n(1, (2,))), [n(2, (3,)), n(3, (2, 3))]


CASES += group(
    "shapes",
    "namedtuple_list",
    net,
    net_draw,
    [net_r1, net_r2],
    [
        (net_w1, "first input's share of the weight missing"),
        (net_w2, "bias averaged"),
        (net_w3, "zero gradient of the second input"),
        (net_w4, "rows reversed"),
    ],
)


# ---- scalars against a (3, 1, 2) array and an empty slice
def mix(s, t, x):
    y = s * x + jnp.sin(t) * x.transpose(2, 1, 0).reshape(3, 1, 2)
    return jnp.concatenate([y, y[3:] * s], 0) + x[:, :0].sum(1, keepdims=True)


def mix_r1(args, ct):
    s, t, x = args
    gx = s * ct + jnp.sin(t) * ct.reshape(2, 1, 3).transpose(2, 1, 0)
    xt = x.transpose(2, 1, 0).reshape(3, 1, 2)
    return jnp.sum(ct * x), jnp.cos(t) * jnp.sum(ct * xt), gx


def mix_r2(args, ct):
    s, t, x = args
    gx = s * ct + jnp.sin(t) * jnp.stack([ct.ravel()[:3], ct.ravel()[3:]], -1)[:, None]
    return jnp.vdot(ct, x), jnp.cos(t) * jnp.vdot(ct.ravel(), x[:, 0].T.ravel()), gx


def mix_w1(args, ct):
    s, t, x = args
    return (*mix_r1(args, ct)[:2], s * ct + jnp.sin(t) * ct.transpose(2, 1, 0).reshape(3, 1, 2))


def mix_w2(args, ct):
    gs, gt, gx = mix_r1(args, ct)
    return gs / 6, gt, gx


def mix_w3(args, ct):
    s, t, x = args
    gs, gt, gx = mix_r1(args, ct)
    return gs, jnp.cos(t) * jnp.sum(ct * x), gx


def mix_w4(args, ct):
    s, t, x = args
    gs, gt, gx = mix_r1(args, ct)
    return gs, gt, s * ct


CASES += group(
    "shapes",
    "scalars_and_ones",
    mix,
    normals((), (), (3, 1, 2)),
    [mix_r1, mix_r2],
    [
        (mix_w1, "permutation not inverted"),
        (mix_w2, "mean for the scalar"),
        (mix_w3, "not permuted in t's gradient"),
        (mix_w4, "permuted term missing"),
    ],
)
