"""Rules with mistakes in the derivatives of physics."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def leapfrog_fwd(q, p, k):
    dt = 0.2
    for _ in range(3):
        p = p - 0.5 * dt * k * q**3
        q = q + dt * p
        p = p - 0.5 * dt * k * q**3
    return q, p


def leapfrog_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (4,)), jax.random.normal(b, (4,)), 1 + jax.random.uniform(c, ())


def right_leapfrog(args, ct):
    q, p, k = args
    dt = 0.2
    qs = [q]
    for _ in range(3):
        p = p - 0.5 * dt * k * qs[-1] ** 3
        qs.append(qs[-1] + dt * p)
        p = p - 0.5 * dt * k * qs[-1] ** 3
    gq, gp = ct
    gk = 0.0
    for i in (2, 1, 0):
        gq = gq - 1.5 * dt * k * qs[i + 1] ** 2 * gp
        gk = gk - 0.5 * dt * jnp.sum(gp * qs[i + 1] ** 3)
        gp = gp + dt * gq
        gq = gq - 1.5 * dt * k * qs[i] ** 2 * gp
        gk = gk - 0.5 * dt * jnp.sum(gp * qs[i] ** 3)
    return gq, gp, gk


def heun_fwd(y, W):
    h = 0.3
    k1 = jnp.tanh(W @ y)
    k2 = jnp.tanh(W @ (y + h * k1))
    return y + h / 2 * (k1 + k2)


def heun_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4,)), jax.random.normal(b, (4, 4))


def right_heun(args, ct):
    y, W = args
    h = 0.3
    k1 = jnp.tanh(W @ y)
    ymid = y + h * k1
    k2 = jnp.tanh(W @ ymid)
    gk1 = h / 2 * ct
    gk2 = h / 2 * ct
    ga2 = gk2 * (1 - k2**2)
    gW = jnp.outer(ga2, ymid)
    gmid = W.T @ ga2
    gk1 = gk1 + h * gmid
    ga1 = gk1 * (1 - k1**2)
    gW = gW + jnp.outer(ga1, y)
    gy = ct + gmid + W.T @ ga1
    return gy, gW


def heat_fwd(u, kappa):
    for _ in range(3):
        lap = jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)
        u = u + 0.2 * kappa * lap
    return u


def heat_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (6,)), jax.random.uniform(b, (6,)) + 0.5


def right_heat(args, ct):
    u, kappa = args
    lap = lambda v: jnp.roll(v, 1) - 2 * v + jnp.roll(v, -1)
    laps = []
    for _ in range(3):
        laps.append(lap(u))
        u = u + 0.2 * kappa * laps[-1]
    lam, g_kappa = ct, jnp.zeros_like(kappa)
    for L in reversed(laps):
        g_kappa = g_kappa + 0.2 * lam * L
        lam = lam + lap(0.2 * kappa * lam)
    return lam, g_kappa


def burgers_fwd(u, nu):
    def step(u, _):
        ux = (jnp.roll(u, -1) - jnp.roll(u, 1)) / 2
        uxx = jnp.roll(u, -1) - 2 * u + jnp.roll(u, 1)
        return u + 0.1 * (nu * uxx - u * ux), None

    return jax.lax.scan(step, u, None, length=4)[0]


def burgers_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (7,)), jax.random.uniform(b, ()) + 0.3


def right_burgers(args, ct):
    u, nu = args
    dx = lambda v: (jnp.roll(v, -1) - jnp.roll(v, 1)) / 2
    dxx = lambda v: jnp.roll(v, -1) - 2 * v + jnp.roll(v, 1)

    def fwd(v, _):
        return v + 0.1 * (nu * dxx(v) - v * dx(v)), v

    _, us = jax.lax.scan(fwd, u, None, length=4)

    def adj(carry, v):
        lam, gnu = carry
        gnu = gnu + 0.1 * jnp.vdot(lam, dxx(v))
        diffusion = nu * dxx(lam)
        advect = -lam * dx(v) + dx(lam * v)
        lam = lam + 0.1 * (diffusion + advect)
        return (lam, gnu), None

    (gu, gnu), _ = jax.lax.scan(adj, (ct, 0.0), us, reverse=True)
    return gu, gnu


def pairpot_fwd(r, eps):
    i, j = jnp.triu_indices(4, 1)
    d = r[i] - r[j]
    r2 = jnp.sum(d**2, 1) + 0.5
    return eps * jnp.sum(1 / r2**2 - 1 / r2)


def pairpot_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 3)), jax.random.uniform(b, ()) + 0.5


def right_pairpot(args, ct):
    r, eps = args
    i, j = jnp.triu_indices(4, 1)
    d = r[i] - r[j]
    r2 = jnp.sum(d * d, axis=1) + 0.5
    energy = jnp.sum(r2**-2 - 1 / r2)
    dE_dr2 = -2 / r2**3 + 1 / r2**2
    force = ct * eps * 2 * d * dE_dr2[:, None]
    r_bar = jnp.zeros_like(r)
    r_bar = r_bar.at[i].add(force)
    r_bar = r_bar.at[j].add(-force)
    return r_bar, ct * energy


KNOT = jnp.array([0, 1, 2, 2, 0, 3])


def interp_fwd(vals, t):
    lo, hi = vals[KNOT], vals[KNOT + 1]
    s = t * t * (3 - 2 * t)
    return lo + s * (hi - lo)


def interp_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (5,)), jax.random.uniform(b, (6,))


def right_interp(args, ct):
    vals, t = args
    s = t**2 * (3 - 2 * t)
    g = jnp.zeros_like(vals)
    g = g.at[KNOT].add(ct * (1 - s))
    g = g.at[KNOT + 1].add(ct * s)
    ds_dt = 6 * t * (1 - t)
    gt = ct * ds_dt * (vals[KNOT + 1] - vals[KNOT])
    return g, gt


def spring_fwd(x, rest, stiff):
    d = x[1:] - x[:-1]
    ln = jnp.sqrt(jnp.sum(d**2, -1))
    return 0.5 * jnp.sum(stiff * (ln - rest) ** 2)


def spring_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5, 2)), jax.random.uniform(b, (4,)), jax.random.uniform(c, (4,)) + 0.5


def right_spring(args, ct):
    x, rest, stiff = args
    seg = x[1:] - x[:-1]
    length = jnp.linalg.norm(seg, axis=-1)
    stretch = length - rest
    tension = ct * stiff * stretch
    unit = seg / length[:, None]
    pull = tension[:, None] * unit
    dx = jnp.zeros_like(x).at[1:].add(pull)
    dx = dx.at[:-1].add(-pull)
    dstiff = ct * 0.5 * stretch**2
    return dx, -tension, dstiff


def adam_fwd(g, m, v):
    m2 = 0.9 * m + 0.1 * g
    v2 = 0.8 * v + 0.2 * g**2
    return m2 / (jnp.sqrt(v2) + 0.1)


def adam_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5,)), jax.random.normal(b, (5,)), jax.random.uniform(c, (5,)) + 0.2


def right_adam(args, ct):
    g, m, v = args
    m2 = 0.9 * m + 0.1 * g
    v2 = 0.8 * v + 0.2 * g**2
    root = jnp.sqrt(v2)
    den = root + 0.1
    dm2 = ct / den
    dden = -ct * m2 / den**2
    dv2 = dden * 0.5 / root
    dg = 0.1 * dm2
    dg = dg + 0.4 * g * dv2
    return dg, 0.9 * dm2, 0.8 * dv2


def render_fwd(sigma, rgb):
    alpha = 1 - jnp.exp(-sigma * 0.4)
    T = 1.0
    col = jnp.zeros(3)
    for i in range(5):
        col = col + T * alpha[i] * rgb[i]
        T = T * (1 - alpha[i])
    return col


def render_draw(key):
    a, b = jax.random.split(key)
    return jax.random.uniform(a, (5,)) * 2, jax.random.uniform(b, (5, 3))


def right_render(args, ct):
    sigma, rgb = args
    alpha = 1 - jnp.exp(-0.4 * sigma)
    trans = [jnp.array(1.0)]
    for i in range(5):
        trans.append(trans[i] * (1 - alpha[i]))
    d_rgb, d_alpha = jnp.zeros_like(rgb), jnp.zeros(5)
    dT = 0.0
    for i in range(4, -1, -1):
        c = ct @ rgb[i]
        d_rgb = d_rgb.at[i].set(trans[i] * alpha[i] * ct)
        d_alpha = d_alpha.at[i].set(trans[i] * (c - dT))
        dT = dT * (1 - alpha[i]) + alpha[i] * c
    d_sigma = d_alpha * 0.4 * (1 - alpha)
    return d_sigma, d_rgb


SINGLE = [
    *wrong_rules(
        leapfrog_fwd,
        right_leapfrog,
        leapfrog_draw,
        """
leapfrog_a
- gq = gq - 1.5 * dt * k * qs[i] ** 2 * gp
+ gq = gq - 0.5 * dt * k * qs[i] ** 2 * gp
constant: 3 of the cubed position missing in the first kick
    """,
    ),
    *wrong_rules(
        heun_fwd,
        right_heun,
        heun_draw,
        """
heun_a
- gmid = W.T @ ga2
-     gk1 = gk1 + h * gmid
+ gmid = W.T @ ga2
term: path of k1 through the second stage missing
@ ga1 = gk1 * (1 - k1**2)
    """,
    ),
    *wrong_rules(
        heat_fwd,
        right_heat,
        heat_draw,
        """
heat_a
- lam = lam + lap(0.2 * kappa * lam)
+ lam = lam + 0.2 * kappa * lap(lam)
transpose: adjoint operator in the wrong order: kappa outside the Laplacian

heat_b
- for L in reversed(laps):
+ for L in laps:
index: stored Laplacians in forward order
    """,
    ),
    *wrong_rules(
        burgers_fwd,
        right_burgers,
        burgers_draw,
        """
burgers_a
- advect = -lam * dx(v) + dx(lam * v)
+ advect = -lam * dx(v)
term: path through u_x left out
    """,
    ),
    *wrong_rules(
        pairpot_fwd,
        right_pairpot,
        pairpot_draw,
        """
pairpot_a
- r_bar = r_bar.at[j].add(-force)
+ r_bar = r_bar.at[j].add(force)
sign: reaction force with the same sign
    """,
    ),
    *wrong_rules(
        interp_fwd,
        right_interp,
        interp_draw,
        """
interp_a
- g = g.at[KNOT + 1].add(ct * s)
+ g = g.at[KNOT].add(ct * s)
index: upper knot index off by one
    """,
    ),
    *wrong_rules(
        spring_fwd,
        right_spring,
        spring_draw,
        """
spring_a
- unit = seg / length[:, None]
+ unit = seg
factor: not normalised by the length
    """,
    ),
    *wrong_rules(
        adam_fwd,
        right_adam,
        adam_draw,
        """
adam_a
- dg = 0.1 * dm2
-     dg = dg + 0.4 * g * dv2
+ dg = 0.1 * dm2
detached: second moment taken for constant
@ return dg, 0.9 * dm2, 0.8 * dv2
@ dg = 0.1 * dm2
    """,
    ),
    *wrong_rules(
        render_fwd,
        right_render,
        render_draw,
        """
render_a
- dT = dT * (1 - alpha[i]) + alpha[i] * c
+ dT = dT + alpha[i] * c
carry: transmittance factor not carried
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        leapfrog_fwd,
        right_leapfrog,
        leapfrog_draw,
        """
leapfrog_b
- gk = gk - 0.5 * dt * jnp.sum(gp * qs[i + 1] ** 3)
+ gk = gk - 0.5 * dt * jnp.sum(gp * qs[i + 1])
- gp = gp + dt * gq
+ gp = dt * gq
- gk = gk - 0.5 * dt * jnp.sum(gp * qs[i] ** 3)
+ gk = gk + 0.5 * dt * jnp.sum(gp * qs[i] ** 3)
carry: momentum adjoint overwritten
@ gp = dt * gq
sign: sign of the force
@ gk = gk + 0.5 * dt * jnp.sum(gp * qs[i] ** 3)
constant: cube of the position missing
@ gk = gk - 0.5 * dt * jnp.sum(gp * qs[i + 1])
    """,
    ),
    *wrong_rules(
        heun_fwd,
        right_heun,
        heun_draw,
        """
heun_b
- gW = jnp.outer(ga2, ymid)
+ gW = jnp.outer(ga2, y)
- gy = ct + gmid + W.T @ ga1
+ gy = ct + W.T @ ga1
operand: y in place of the predicted state
@ gW = jnp.outer(ga2, y)
term: path of y through the predicted state missing
@ gy = ct + W.T @ ga1
    """,
    ),
    *wrong_rules(
        burgers_fwd,
        right_burgers,
        burgers_draw,
        """
burgers_b
- gnu = gnu + 0.1 * jnp.vdot(lam, dxx(v))
+ gnu = 0.1 * jnp.vdot(lam, dxx(v))
- diffusion = nu * dxx(lam)
+ diffusion = -nu * dxx(lam)
carry: not accumulated over the steps
@ gnu = 0.1 * jnp.vdot(lam, dxx(v))
sign: the even Laplacian taken as antisymmetric
@ diffusion = -nu * dxx(lam)
    """,
    ),
    *wrong_rules(
        pairpot_fwd,
        right_pairpot,
        pairpot_draw,
        """
pairpot_b
- dE_dr2 = -2 / r2**3 + 1 / r2**2
+ dE_dr2 = -2 / r2**3 + 1 / r2
- r_bar = r_bar.at[i].add(force)
+ r_bar = r_bar.at[i].set(force)
constant: wrong power of r2
@ dE_dr2 = -2 / r2**3 + 1 / r2
carry: forces overwritten at repeated indices
@ r_bar = r_bar.at[i].set(force)
    """,
    ),
    *wrong_rules(
        interp_fwd,
        right_interp,
        interp_draw,
        """
interp_b
- g = g.at[KNOT].add(ct * (1 - s))
+ g = g.at[KNOT].add(ct * (1 - t))
- ds_dt = 6 * t * (1 - t)
+ ds_dt = 6 * t * (1 - s)
operand: s in place of t in the slope of the smoothstep
@ ds_dt = 6 * t * (1 - s)
operand: linear weight in place of the smooth one
@ g = g.at[KNOT].add(ct * (1 - t))
    """,
    ),
    *wrong_rules(
        spring_fwd,
        right_spring,
        spring_draw,
        """
spring_b
- tension = ct * stiff * stretch
+ tension = ct * stiff * length
- dx = dx.at[:-1].add(-pull)
-     dstiff = ct * 0.5 * stretch**2
+ dstiff = ct * stretch**2
term: force on the left node missing
@ return dx, -tension, dstiff
constant: 0.5 missing
@ dstiff = ct * stretch**2
operand: length in place of the stretch
@ tension = ct * stiff * length
    """,
    ),
    *wrong_rules(
        adam_fwd,
        right_adam,
        adam_draw,
        """
adam_b
- dm2 = ct / den
+ dm2 = ct * den
- dden = -ct * m2 / den**2
+ dden = -ct * m2 / v2
constant: squared root without the epsilon
@ dden = -ct * m2 / v2
factor: product in place of division
@ dm2 = ct * den
    """,
    ),
    *wrong_rules(
        render_fwd,
        right_render,
        render_draw,
        """
render_b
- d_rgb = d_rgb.at[i].set(trans[i] * alpha[i] * ct)
+ d_rgb = d_rgb.at[i].set(trans[i + 1] * alpha[i] * ct)
- d_sigma = d_alpha * 0.4 * (1 - alpha)
+ d_sigma = d_alpha * 0.4 * alpha
index: transmittance one step late
@ d_rgb = d_rgb.at[i].set(trans[i + 1] * alpha[i] * ct)
activation: wrong slope of 1 - exp
@ d_sigma = d_alpha * 0.4 * alpha
    """,
    ),
]
