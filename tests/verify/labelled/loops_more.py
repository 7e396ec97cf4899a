"""Rules with loops whose verdict is certain."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.labelled import group, normals

CASES = []

# ---- Sinkhorn in the log domain, 25 rounds
LA = np.log(np.array([0.2, 0.5, 0.3]))
LBB = np.log(np.array([0.1, 0.4, 0.25, 0.25]))


def _lse(a, axis):
    return jax.nn.logsumexp(a, axis=axis)


def sinkhorn(C):
    la, lb = jnp.asarray(LA, C.dtype), jnp.asarray(LBB, C.dtype)

    def step(i, fg):
        f, g = fg
        f = la - _lse(g[None] - C, 1)
        g = lb - _lse(f[:, None] - C, 0)
        return f, g

    f, g = lax.fori_loop(0, 25, step, (jnp.zeros_like(la), jnp.zeros_like(lb)))
    return jnp.exp(f[:, None] + g[None] - C)


def _sk_rule(args, ct, variant="ok"):
    (C,) = args
    la, lb = jnp.asarray(LA, C.dtype), jnp.asarray(LBB, C.dtype)

    def fwd(g, _):
        f = la - _lse(g[None] - C, 1)
        g2 = lb - _lse(f[:, None] - C, 0)
        return g2, (g, f)

    g, (gs, fs) = lax.scan(fwd, jnp.zeros_like(lb), None, length=25)
    P = jnp.exp(fs[-1][:, None] + g[None] - C)
    gP = ct * P
    bf, bg, bC = gP.sum(1), gP.sum(0), -gP
    if variant == "frozen":
        return (bC,)

    def bwd(c, s):
        bf, bg, bC = c
        g0, f = s
        S = jax.nn.softmax(f[:, None] - C, axis=1 if variant == "axis" else 0)
        bf = bf - S @ bg
        bC = bC + S * bg[None]
        T = jax.nn.softmax(g0[None] - C, axis=1)
        if variant != "noT":
            bC = bC + T * bf[:, None]
        return (jnp.zeros_like(bf), -(bf @ T), bC), None

    (_, _, bC), _ = lax.scan(bwd, (bf, bg, bC), (gs, fs), reverse=True)
    return (-bC if variant == "minus" else bC,)


def sk_steps(args, ct):
    # the same adjoint, a Python loop over vector-Jacobian products of one half step
    (C,) = args
    la, lb = jnp.asarray(LA, C.dtype), jnp.asarray(LBB, C.dtype)
    rows = lambda g, C: la - _lse(g[None] - C, 1)
    cols = lambda f, C: lb - _lse(f[:, None] - C, 0)
    g, tape = jnp.zeros_like(lb), []
    for _ in range(25):
        f, v1 = jax.vjp(rows, g, C)
        g, v2 = jax.vjp(cols, f, C)
        tape.append((v1, v2))
    w = ct * jnp.exp(f[:, None] + g[None] - C)
    bC, bf, bg = -w, w.sum(1), w.sum(0)
    for v1, v2 in reversed(tape):
        df, dC = v2(bg)
        bf, bC = bf + df, bC + dC
        bg, dC = v1(bf)
        bf, bC = jnp.zeros_like(bf), bC + dC
    return (bC,)


CASES += group(
    "loops",
    "sinkhorn",
    sinkhorn,
    normals((3, 4)),
    [_sk_rule, sk_steps],
    [
        (lambda a, c: _sk_rule(a, c, "frozen"), "potentials held fixed"),
        (lambda a, c: _sk_rule(a, c, "axis"), "softmax over the wrong axis"),
        (lambda a, c: _sk_rule(a, c, "noT"), "row update's term missing"),
        (lambda a, c: _sk_rule(a, c, "minus"), "sign"),
    ],
)


# ---- fixed point z = sin(B z + x) / 2, 60 rounds, contraction < 0.5
def fixp(W, x):
    B = 0.3 * jnp.tanh(W)
    return lax.fori_loop(0, 60, lambda i, z: 0.5 * jnp.sin(B @ z + x), jnp.zeros_like(x))


def _fix_rule(args, ct, variant="ok"):
    W, x = args
    T = jnp.tanh(W)
    B = 0.3 * T
    z = fixp(W, x)
    d = 0.5 * jnp.cos(B @ z + x)
    J = jnp.eye(3, dtype=x.dtype) - d[:, None] * B
    u = ct if variant == "onestep" else jnp.linalg.solve(J if variant == "noT" else J.T, ct)
    gB = jnp.outer(d * u, x if variant == "x" else z)
    return gB * 0.3 if variant == "tanh" else gB * 0.3 * (1 - T * T), d * u


def fix_unrolled(args, ct):
    W, x = args
    T = jnp.tanh(W)
    B = 0.3 * T
    _, zs = lax.scan(lambda z, _: (0.5 * jnp.sin(B @ z + x), z), jnp.zeros_like(x), None, length=60)

    def bwd(c, z):
        gz, gB, gx = c
        a = 0.5 * jnp.cos(B @ z + x) * gz
        return (B.T @ a, gB + jnp.outer(a, z), gx + a), None

    (_, gB, gx), _ = lax.scan(bwd, (ct, jnp.zeros_like(B), jnp.zeros_like(x)), zs, reverse=True)
    return gB * 0.3 * (1 - T * T), gx


CASES += group(
    "loops",
    "fixed_point",
    fixp,
    normals((3, 3), (3,)),
    [_fix_rule, fix_unrolled],
    [
        (lambda a, c: _fix_rule(a, c, "onestep"), "one step only, no implicit solve"),
        (lambda a, c: _fix_rule(a, c, "noT"), "Jacobian not transposed"),
        (lambda a, c: _fix_rule(a, c, "x"), "x for z in the weight gradient"),
        (lambda a, c: _fix_rule(a, c, "tanh"), "derivative of tanh(W) missing"),
    ],
)


# ---- exponential average, 64 steps
def ema(x, w):
    a = jax.nn.sigmoid(w)

    def step(s, u):
        s = a * s + (1 - a) * u
        return s, s

    return lax.scan(step, jnp.zeros_like(w), x)[1]


def _ema_rule(args, ct, variant="ok"):
    x, w = args
    a, na = jax.nn.sigmoid(w), jax.nn.sigmoid(-w)
    s = ema(x, w)
    prev = jnp.concatenate([jnp.zeros_like(s[:1]), s[:-1]])

    def bwd(c, i):
        g, ga = c
        u, sp, k = i
        g = g + k
        ga = ga + g * (sp if variant == "half" else sp - u)
        return (a * g, ga), (g if variant == "w" else na * g)

    n = {"short": 63}.get(variant, 64)
    (_, ga), gx = lax.scan(bwd, (jnp.zeros_like(w), jnp.zeros_like(w)), (x[:n], prev[:n], ct[:n]), reverse=True)
    gx = jnp.pad(gx, ((0, 64 - n), (0, 0)))
    return gx, ga if variant == "chain" else ga * a * na


def ema_loop(args, ct):
    x, w = args
    a = jax.nn.sigmoid(w)
    s = jnp.zeros_like(w)

    # sensitivity of the state to a runs forward, the rest backward
    def fwd(c, i):
        s, ds, ga = c
        u, k = i
        ds = s - u + a * ds
        s = a * s + (1 - a) * u
        return (s, ds, ga + k * ds), None

    (_, _, ga), _ = lax.scan(fwd, (s, s, s), (x, ct))
    gx, g = [], jnp.zeros_like(w)
    for t in range(63, -1, -1):
        g = a * g + ct[t]
        gx.append((1 - a) * g)
    return jnp.stack(gx[::-1]), ga * a * (1 - a)


CASES += group(
    "loops",
    "ema64",
    ema,
    normals((64, 2), (2,)),
    [_ema_rule, ema_loop],
    [
        (lambda a, c: _ema_rule(a, c, "half"), "term -x_t in da missing"),
        (lambda a, c: _ema_rule(a, c, "w"), "factor 1-a missing"),
        (lambda a, c: _ema_rule(a, c, "short"), "63 of 64 steps"),
        (lambda a, c: _ema_rule(a, c, "chain"), "derivative of the sigmoid missing"),
    ],
)
