"""Time steppers, filters and potentials: discrete adjoints."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

DT = 0.3


def leapfrog(q, p, k):
    p = p - 0.5 * DT * k * jnp.sin(q)
    q = q + DT * p
    p = p - 0.5 * DT * k * jnp.sin(q)
    return q, p


def right_leapfrog_adj(state, lam):
    q0, p0, k = state
    lq, lp = lam
    ph = p0 - 0.5 * DT * k * jnp.sin(q0)
    q1 = q0 + DT * ph
    # second kick
    lk = -0.5 * DT * lp * jnp.sin(q1)
    lq = lq - 0.5 * DT * lp * k * jnp.cos(q1)
    # drift
    lp = lp + DT * lq
    # first kick
    lk = lk - 0.5 * DT * lp * jnp.sin(q0)
    lq = lq - 0.5 * DT * k * jnp.cos(q0) * lp
    return lq, lp, lk


def heat(u, kappa):
    for _ in range(3):
        lap = u[:-2] - 2 * u[1:-1] + u[2:]
        u = u.at[1:-1].add(kappa * lap)
    return u


def right_heat_adj(state, lam):
    u, kappa = state
    us = [u]
    for _ in range(2):
        v = us[-1]
        us.append(v.at[1:-1].add(kappa * (v[:-2] - 2 * v[1:-1] + v[2:])))
    lkappa = jnp.zeros_like(kappa)
    for v in reversed(us):
        lap = v[:-2] - 2 * v[1:-1] + v[2:]
        inner = lam[1:-1]
        lkappa = lkappa + inner * lap
        flux = kappa * inner
        lam = lam.at[1:-1].add(-2 * flux).at[:-2].add(flux).at[2:].add(flux)
    return lam, lkappa


def kalman_gain(P, m, z):
    h = jnp.array([1.0, 0.5, 0.0])
    s = h @ P @ h + 0.3
    k = P @ h / s
    return m + k * (z - h @ m)


def right_kalman_gain_adj(state, lam):
    P, m, z = state
    h = jnp.array([1.0, 0.5, 0.0])
    Ph = P @ h
    s = h @ Ph + 0.3
    innov = z - h @ m
    lk = lam * innov
    li = jnp.sum(lam * Ph) / s
    ls = -(lk @ Ph) / s**2
    lP = jnp.outer(lk / s, h) + ls * jnp.outer(h, h)
    lm = lam - li * h
    return lP, lm, li


XQ = np.array([0.2, 1.7, 2.4, 0.9, 2.1])

SEGMENT = np.floor(XQ).astype(int)

FRAC = jnp.asarray(XQ - SEGMENT, jnp.float32)


def interp(y, amp):
    return amp * ((1 - FRAC) * y[SEGMENT] + FRAC * y[SEGMENT + 1])


def right_interp_adj(state, lam):
    y, amp = state
    lamp = lam @ ((1 - FRAC) * y[SEGMENT] + FRAC * y[SEGMENT + 1])
    w = amp * lam
    ly = jnp.zeros_like(y).at[SEGMENT].add((1 - FRAC) * w)
    ly = ly.at[SEGMENT + 1].add(FRAC * w)
    return ly, lamp


def lj(x, sigma):
    i, j = np.triu_indices(4, 1)
    r2 = jnp.sum((x[i] - x[j]) ** 2, axis=1)
    s6 = (sigma**2 / r2) ** 3
    return jnp.sum(s6**2 - s6)


def right_lj_adj(state, lam):
    x, sigma = state
    i, j = np.triu_indices(4, 1)
    d = x[i] - x[j]
    r2 = jnp.sum(d**2, axis=1)
    s6 = (sigma**2 / r2) ** 3
    ls6 = lam * (2 * s6 - 1)
    lsigma = jnp.sum(ls6 * 6 * s6 / sigma)
    f = (-6 * ls6 * s6 / r2)[:, None] * d
    lx = jnp.zeros_like(x).at[i].add(f)
    lx = lx.at[j].add(-f)
    return lx, lsigma


def draw_pendulum(key):
    return tuple(jax.random.normal(k, (5,)) * s for k, s in zip(jax.random.split(key, 3), (1.0, 1.0, 4.0)))


def draw_heat(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (7,)), 0.2 + 0.2 * jax.random.uniform(b, (5,))


def draw_kalman(key):
    a, b, c = jax.random.split(key, 3)
    return jnp.eye(3) + 0.3 * jax.random.normal(a, (3, 3)), jax.random.normal(b, (3,)), jax.random.normal(c, ())


def draw_interp(key):
    return jax.random.normal(key, (4,)), jnp.float32(1.3)


def draw_lj(key):
    base = jnp.array([[0.0, 0, 0], [1.2, 0, 0], [0, 1.2, 0], [0, 0, 1.2]])
    return base + 0.1 * jax.random.normal(key, (4, 3)), jnp.float32(1.0)


SINGLE = [
    *wrong_rules(
        leapfrog,
        right_leapfrog_adj,
        draw_pendulum,
        """
leapfrog_adj
- lq = lq - 0.5 * DT * k * jnp.cos(q0) * lp
+ lq = lq - 0.5 * DT * k * jnp.cos(q1) * lp
operand: first kick is evaluated at the old position q0
    """,
    ),
    *wrong_rules(
        heat,
        right_heat_adj,
        draw_heat,
        """
heat_adj
- lkappa = lkappa + inner * lap
+ lkappa = inner * lap
carry: diffusivity acts in each step, only one step is kept

heat_adj_2
- lam = lam.at[1:-1].add(-2 * flux).at[:-2].add(flux).at[2:].add(flux)
+ lam = lam.at[1:-1].add(-flux).at[:-2].add(flux).at[2:].add(flux)
constant: centre of the stencil has weight two
    """,
    ),
    *wrong_rules(
        kalman_gain,
        right_kalman_gain_adj,
        draw_kalman,
        """
kalman_gain_adj
- lP = jnp.outer(lk / s, h) + ls * jnp.outer(h, h)
+ lP = jnp.outer(lk / s, h)
detached: innovation variance s treated as constant in P
    """,
    ),
    *wrong_rules(
        interp,
        right_interp_adj,
        draw_interp,
        """
interp_adj
- ly = ly.at[SEGMENT + 1].add(FRAC * w)
+ ly = ly.at[SEGMENT].add(FRAC * w)
index: right hand knot is SEGMENT + 1
    """,
    ),
    *wrong_rules(
        lj,
        right_lj_adj,
        draw_lj,
        """
lj_adj
- lx = lx.at[j].add(-f)
+ lx = lx.at[j].add(f)
sign: action and reaction: partner gets the opposite force
    """,
    ),
]
