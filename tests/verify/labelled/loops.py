"""Rules with loops whose verdict is certain."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.labelled import group, normals

CASES = []


# ---- Newton's iteration for sqrt(x^2 + 0.5)
def newton(x):
    a = x * x + 0.5
    return lax.fori_loop(0, 40, lambda i, y: 0.5 * (y + a / y), jnp.ones_like(x))


def newton_implicit(args, ct):
    (x,) = args
    y = newton(x)
    return (ct * x / y,)


def newton_unrolled(args, ct):
    (x,) = args
    a = x * x + 0.5

    def fwd(y, _):
        return 0.5 * (y + a / y), y

    _, ys = lax.scan(fwd, jnp.ones_like(x), None, length=40)

    def bwd(c, y):
        g, ga = c
        return (g * 0.5 * (1 - a / (y * y)), ga + 0.5 * g / y), None

    (_, ga), _ = lax.scan(bwd, (ct, jnp.zeros_like(x)), ys, reverse=True)
    return (ga * 2 * x,)


def newton_w1(args, ct):
    (x,) = args
    return (ct * 0.5 / newton(x),)


def newton_w2(args, ct):
    (x,) = args
    y = newton(x)
    return (ct * x / (y * y),)


def newton_w3(args, ct):
    (x,) = args
    y = newton(x)
    return (1.001 * ct * x / y,)


def newton_w4(args, ct):
    (x,) = args
    y = newton(x)
    return (ct * jnp.abs(x) / y,)


CASES += group(
    "loops",
    "newton_sqrt",
    newton,
    normals((5,)),
    [newton_implicit, newton_unrolled],
    [
        (newton_w1, "chain factor 2x of a = x^2+0.5 forgotten"),
        (newton_w2, "divides by y^2"),
        (newton_w3, "factor 1.001"),
        (newton_w4, "abs(x): wrong sign for negative x"),
    ],
)


# ---- tanh RNN, 60 steps, contracting recurrence
def rnn(W, U, b, xs):
    A = 0.3 * jnp.tanh(W)

    def step(h, x):
        h = jnp.tanh(A @ h + U @ x + b)
        return h, h

    return lax.scan(step, jnp.zeros_like(b), xs)[1]


def _rnn_rule(args, ct, variant="ok"):
    W, U, b, xs = args
    T = jnp.tanh(W)
    A = 0.3 * T
    hs = rnn(W, U, b, xs)
    prev = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

    def back(c, inp):
        gh, gA, gU, gb = c
        h, hp, x, g = inp
        d = (gh + g) * (1 - h * h)
        if variant == "uses_h":
            hp = h
        gA = gA + jnp.outer(d, hp)
        gU = gU + jnp.outer(d, x)
        gb = gb + d
        gx = U.T @ d
        gh = A @ d if variant == "no_transpose" else A.T @ d
        return (gh, gA, gU, gb), gx

    z = (jnp.zeros_like(b), jnp.zeros_like(W), jnp.zeros_like(U), jnp.zeros_like(b))
    seq = (hs, prev, xs, ct)
    if variant == "skip_last":
        seq = jax.tree.map(lambda a: a[:-1], seq)
        (_, gA, gU, gb), gx = lax.scan(back, z, seq, reverse=True)
        gx = jnp.concatenate([gx, jnp.zeros_like(xs[:1])])
    else:
        (_, gA, gU, gb), gx = lax.scan(back, z, seq, reverse=True)
    gW = gA * 0.3 if variant == "no_sech" else gA * 0.3 * (1 - T * T)
    return gW, gU, gb, gx


def rnn_python(args, ct):
    W, U, b, xs = args
    A = 0.3 * jnp.tanh(W)
    h = jnp.zeros_like(b)
    hs = [h]
    for t in range(60):
        h = jnp.tanh(A @ h + U @ xs[t] + b)
        hs.append(h)
    H = jnp.stack(hs)
    gh = jnp.zeros_like(b)
    ds = []
    for t in range(59, -1, -1):
        d = (gh + ct[t]) * (1 - H[t + 1] ** 2)
        gh = d @ A
        ds.append(d)
    D = jnp.stack(ds[::-1])
    gW = 0.3 / jnp.cosh(jnp.clip(W, -40, 40)) ** 2 * jnp.einsum("ti,tj->ij", D, H[:-1])
    return gW, D.T @ xs, D.sum(0), D @ U


_rnn_draw = normals((3, 3), (3, 2), (3,), (60, 2))
CASES += group(
    "loops",
    "rnn60",
    rnn,
    _rnn_draw,
    [_rnn_rule, rnn_python],
    [
        (lambda a, c: _rnn_rule(a, c, "uses_h"), "h_t in place of h_{t-1} in the weight gradient"),
        (lambda a, c: _rnn_rule(a, c, "no_transpose"), "A not transposed in the back-propagation"),
        (lambda a, c: _rnn_rule(a, c, "skip_last"), "reverse loop leaves the last step out"),
        (lambda a, c: _rnn_rule(a, c, "no_sech"), "derivative of tanh(W) forgotten"),
    ],
)

# ---- damped oscillator, 80 semi-implicit Euler steps, trajectory end
DT = 0.02


def ode(y0, k):
    kk = 1.0 + jnp.sin(k)

    def step(i, s):
        q, p = s
        p = p - DT * (kk * q + 0.1 * p)
        q = q + DT * p
        return q, p

    q, p = lax.fori_loop(0, 80, step, (y0[0], y0[1]))
    return jnp.stack([q, p])


def _ode_adj(args, ct, n=80, sens=True, damp=0.1, cos=True):
    y0, k = args
    kk = 1.0 + jnp.sin(k)

    def fwd(s, _):
        q, p = s
        p2 = p - DT * (kk * q + 0.1 * p)
        return (q + DT * p2, p2), q

    _, qs = lax.scan(fwd, (y0[0], y0[1]), None, length=80)

    def bwd(c, q):
        gq, gp, gk = c
        gp2 = gp + DT * gq
        gk = gk - DT * gp2 * q
        return (gq - DT * kk * gp2, gp2 * (1 - DT * damp), gk), None

    (gq, gp, gk), _ = lax.scan(bwd, (ct[0], ct[1], jnp.zeros_like(k)), qs[80 - n :], reverse=True)
    return jnp.stack([gq, gp]), gk * jnp.cos(k) if cos else gk


def ode_forward_sens(args, ct):
    # the step is linear: propagate the 2x2 transition matrix and its derivative by kk
    y0, k = args
    kk = 1.0 + jnp.sin(k)
    one, zero = jnp.ones_like(kk), jnp.zeros_like(kk)
    M = jnp.stack(
        [jnp.stack([1 - DT * DT * kk, DT * (1 - 0.1 * DT) * one]), jnp.stack([-DT * kk, (1 - 0.1 * DT) * one])]
    )
    dM = jnp.stack([jnp.stack([-DT * DT * one, zero]), jnp.stack([-DT * one, zero])])
    P, dP = jnp.eye(2, dtype=y0.dtype), jnp.zeros((2, 2), y0.dtype)
    P, dP = lax.fori_loop(0, 80, lambda i, s: (M @ s[0], dM @ s[0] + M @ s[1]), (P, dP))
    return P.T @ ct, (ct @ dP @ y0) * jnp.cos(k)


CASES += group(
    "loops",
    "euler80",
    ode,
    normals((2,), ()),
    [_ode_adj, ode_forward_sens],
    [
        (lambda a, c: _ode_adj(a, c, n=79), "79 steps of 80 in the adjoint"),
        (lambda a, c: _ode_adj(a, c, damp=0.0), "damping term missing from the adjoint"),
        (lambda a, c: _ode_adj(a, c, cos=False), "derivative of sin(k) forgotten"),
        (lambda a, c: (_ode_adj(a, c)[0], -_ode_adj(a, c)[1]), "sign of the gradient of k"),
    ],
)
