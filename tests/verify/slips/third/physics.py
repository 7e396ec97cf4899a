"""Rules with mistakes in the derivatives of physics."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


STEPS, DT = 4, 0.1

GRAV = 9.81

KNOTS = 6


def pendulum(theta, omega, length):
    for _ in range(STEPS):
        acc = -(GRAV / length) * jnp.sin(theta)
        omega = omega + DT * acc
        theta = theta + DT * omega
    return theta, omega


def draw_pendulum(key):
    a, b, c = normal(key, (3,), (3,), (3,))
    return a, b, 1.5 + 0.3 * jnp.tanh(c)


def verlet(x, v, k):
    for _ in range(STEPS):
        v = v - 0.5 * DT * 4.0 * (k @ x)
        x = x + DT * v
        v = v - 0.5 * DT * 4.0 * (k @ x)
    return x, v


def draw_verlet(key):
    x, v, k = normal(key, (3,), (3,), (3, 3))
    return x, v, 2.0 * k


def heun_lotka(y, par):
    def f(s):
        return jnp.stack([par[0] * s[0] - par[1] * s[0] * s[1], par[2] * s[0] * s[1] - par[3] * s[1]])

    k1 = f(y)
    k2 = f(y + 0.5 * k1)
    return y + 0.25 * (k1 + k2)


def draw_lotka(key):
    y, p = normal(key, (2,), (4,))
    return 1.0 + jnp.abs(y), 0.5 + jnp.abs(p)


def kalman_update(m, p, y, h, r):
    s = h @ p @ h.T + r
    gain = jnp.linalg.solve(s, h @ p).T
    return m + gain @ (y - h @ m)


def draw_kalman(key):
    m, a, y, h, b = normal(key, (4,), (4, 4), (2,), (2, 4), (2, 2))
    return m, a @ a.T + jnp.eye(4), y, h, b @ b.T + jnp.eye(2)


def lerp_table(x, table):
    pos = jax.nn.sigmoid(x) * (KNOTS - 1)
    lo = jnp.clip(jnp.floor(pos).astype(jnp.int32), 0, KNOTS - 2)
    frac = pos - lo
    return table[lo] * (1 - frac) + table[lo + 1] * frac


def draw_lerp(key):
    return normal(key, (7,), (KNOTS,))


def hermite(t, p0, m0, p1, m1):
    t2, t3 = t * t, t * t * t
    return (2 * t3 - 3 * t2 + 1) * p0 + (t3 - 2 * t2 + t) * m0 + (3 * t2 - 2 * t3) * p1 + (t3 - t2) * m1


def draw_hermite(key):
    return normal(key, (5,), (5,), (5,), (5,), (5,))


def heat_rod(u, kappa):
    for _ in range(STEPS):
        lap = u[2:] - 2.0 * u[1:-1] + u[:-2]
        u = u.at[1:-1].add(0.2 * kappa * lap)
    return u


def draw_rod(key):
    u, k = normal(key, (7,), (5,))
    return u, 1.0 + 0.3 * jnp.tanh(k)


def soft_moe(x, wg, we):
    gate = jax.nn.softmax(x @ wg, axis=-1)
    h = jnp.tanh(jnp.einsum("nd,edk->nek", x, we))
    return jnp.einsum("ne,nek->nk", gate, h)


def draw_moe(key):
    return normal(key, (5, 3), (3, 4), (4, 3, 2))


def lennard_jones(pos, sigma):
    r = jnp.abs(pos[1:] - pos[:-1]) + 1.0
    q = (sigma / r) ** 6
    return jnp.sum(4.0 * (q**2 - q))


def draw_lj(key):
    p, s = normal(key, (6,), ())
    return p, 1.2 + 0.1 * jnp.tanh(s)


def right_pendulum(args, ct):
    theta, omega, length = args
    thetas = []
    for _ in range(STEPS):
        thetas.append(theta)
        omega = omega - DT * (GRAV / length) * jnp.sin(theta)
        theta = theta + DT * omega
    d_theta, d_omega = ct
    d_length = jnp.zeros_like(length)
    for th in reversed(thetas):
        d_omega = d_omega + DT * d_theta
        d_acc = DT * d_omega
        d_length = d_length + d_acc * GRAV / length**2 * jnp.sin(th)
        d_theta = d_theta - d_acc * (GRAV / length) * jnp.cos(th)
    return d_theta, d_omega, d_length


def right_verlet(args, ct):
    x, v, k = args
    tape = []
    for _ in range(STEPS):
        half = v - 2.0 * DT * (k @ x)
        nxt = x + DT * half
        tape.append((x, nxt))
        x, v = nxt, half - 2.0 * DT * (k @ nxt)
    gx, gv = ct
    gk = jnp.zeros_like(k)
    for old, new in tape[::-1]:
        gx = gx - 2.0 * DT * (k.T @ gv)
        gk = gk - 2.0 * DT * jnp.outer(gv, new)
        gv = gv + DT * gx
        gx = gx - 2.0 * DT * (k.T @ gv)
        gk = gk - 2.0 * DT * jnp.outer(gv, old)
    return gx, gv, gk


def right_jac(s, par):
    return jnp.array([[par[0] - par[1] * s[1], -par[1] * s[0]], [par[2] * s[1], par[2] * s[0] - par[3]]])


def right_dpar(s, g):
    return jnp.array([g[0] * s[0], -g[0] * s[0] * s[1], g[1] * s[0] * s[1], -g[1] * s[1]])


def right_heun_lotka(args, ct):
    y, par = args
    k1 = jnp.stack([par[0] * y[0] - par[1] * y[0] * y[1], par[2] * y[0] * y[1] - par[3] * y[1]])
    mid = y + 0.5 * k1
    g_k2 = 0.25 * ct
    g_mid = right_jac(mid, par).T @ g_k2
    g_k1 = 0.25 * ct + 0.5 * g_mid
    g_par = right_dpar(mid, g_k2) + right_dpar(y, g_k1)
    g_y = ct + g_mid + right_jac(y, par).T @ g_k1
    return g_y, g_par


def _jac_1(s, par):
    return jnp.array([[par[0] - par[1] * s[1], -par[1] * s[0]], [par[2] * s[1], par[2] * s[0] - par[3]]])


def _dpar_1(s, g):
    return jnp.array([g[0] * s[0], -g[0] * s[0] * s[1], g[1] * s[0] * s[1], -g[1] * s[1]])


def right_kalman_update(args, ct):
    m, p, y, h, r = args
    s = h @ p @ h.T + r
    innov = y - h @ m
    u = jnp.linalg.solve(s.T, innov)
    lam = jnp.linalg.solve(s, h @ p @ ct)
    d_m = ct - h.T @ lam
    d_s = -jnp.outer(u, lam)
    d_p = jnp.outer(h.T @ u, ct) + h.T @ d_s @ h
    d_h = jnp.outer(u, p @ ct) - jnp.outer(lam, m)
    d_h = d_h + d_s @ h @ p.T + d_s.T @ h @ p
    return d_m, d_p, lam, d_h, d_s


def right_lerp_table(args, ct):
    x, table = args
    sig = jax.nn.sigmoid(x)
    pos = sig * (KNOTS - 1)
    lo = jnp.clip(jnp.floor(pos).astype(jnp.int32), 0, KNOTS - 2)
    frac = pos - lo
    d_table = jnp.zeros_like(table).at[lo].add(ct * (1 - frac))
    d_table = d_table.at[lo + 1].add(ct * frac)
    d_frac = ct * (table[lo + 1] - table[lo])
    d_x = d_frac * (KNOTS - 1) * sig * (1 - sig)
    return d_x, d_table


def right_hermite(args, ct):
    t, p0, m0, p1, m1 = args
    t2, t3 = t**2, t**3
    dp0 = ct * (2 * t3 - 3 * t2 + 1)
    dm0 = ct * (t3 - 2 * t2 + t)
    dp1 = ct - dp0
    dm1 = ct * (t3 - t2)
    slope = 6 * (t2 - t) * (p0 - p1)
    slope = slope + (3 * t2 - 4 * t + 1) * m0 + (3 * t2 - 2 * t) * m1
    return ct * slope, dp0, dm0, dp1, dm1


def right_heat_rod(args, ct):
    u, kappa = args
    laps = []
    for _ in range(STEPS):
        laps.append(u[2:] - 2.0 * u[1:-1] + u[:-2])
        u = u.at[1:-1].add(0.2 * kappa * laps[-1])
    du, dkappa = ct, jnp.zeros_like(kappa)
    for lap in reversed(laps):
        inner = du[1:-1]
        dkappa = dkappa + 0.2 * inner * lap
        dlap = 0.2 * kappa * inner
        du = du.at[2:].add(dlap)
        du = du.at[1:-1].add(-2.0 * dlap)
        du = du.at[:-2].add(dlap)
    return du, dkappa


def right_soft_moe(args, ct):
    x, wg, we = args
    gate = jax.nn.softmax(x @ wg, axis=-1)
    h = jnp.tanh(jnp.einsum("nd,edk->nek", x, we))
    g_gate = jnp.einsum("nk,nek->ne", ct, h)
    g_logit = gate * (g_gate - jnp.sum(gate * g_gate, -1, keepdims=True))
    g_h = gate[:, :, None] * ct[:, None, :]
    g_pre = g_h * (1 - h**2)
    g_we = jnp.einsum("nd,nek->edk", x, g_pre)
    g_x = jnp.einsum("nek,edk->nd", g_pre, we) + g_logit @ wg.T
    return g_x, x.T @ g_logit, g_we


def right_lennard_jones(args, ct):
    pos, sigma = args
    step = pos[1:] - pos[:-1]
    r = jnp.abs(step) + 1.0
    q = (sigma / r) ** 6
    dq = 4.0 * ct * (2.0 * q - 1.0)
    dsigma = jnp.sum(dq * 6.0 * q) / sigma
    dr = -6.0 * dq * q / r
    dstep = dr * jnp.sign(step)
    dpos = jnp.zeros_like(pos).at[1:].add(dstep)
    dpos = dpos.at[:-1].add(-dstep)
    return dpos, dsigma


SINGLE = [
    *wrong_rules(
        pendulum,
        right_pendulum,
        draw_pendulum,
        """
pendulum_bwd_2
- d_length = d_length + d_acc * GRAV / length**2 * jnp.sin(th)
+ d_length = d_length - d_acc * GRAV / length**2 * jnp.sin(th)
sign: minus of -g/l and of the derivative of 1/l cancel
    """,
    ),
    *wrong_rules(
        verlet,
        right_verlet,
        draw_verlet,
        """
verlet_bwd_1
- gk = gk - 2.0 * DT * jnp.outer(gv, new)
+ gk = gk - 2.0 * DT * jnp.outer(gx, new)
operand: position's gradient in place of the velocity's in the second half kick
    """,
    ),
    *wrong_rules(
        heun_lotka,
        right_heun_lotka,
        draw_lotka,
        """
heun_lotka_bwd_1
- g_mid = right_jac(mid, par).T @ g_k2
+ g_mid = _jac_1(mid, par).T @ g_k2
- g_k1 = 0.25 * ct + 0.5 * g_mid
+ g_k1 = 0.25 * ct
- g_par = right_dpar(mid, g_k2) + right_dpar(y, g_k1)
+ g_par = _dpar_1(mid, g_k2) + _dpar_1(y, g_k1)
- g_y = ct + g_mid + right_jac(y, par).T @ g_k1
+ g_y = ct + g_mid + _jac_1(y, par).T @ g_k1
detached: first slope inside the second stage is taken for a constant
@ g_k1 = 0.25 * ct
    """,
    ),
    *wrong_rules(
        kalman_update,
        right_kalman_update,
        draw_kalman,
        """
kalman_update_bwd_1
- d_m = ct - h.T @ lam
+ d_m = ct + h.T @ lam
sign: innovation is y - h m

kalman_update_bwd_2
- d_h = jnp.outer(u, p @ ct) - jnp.outer(lam, m)
-     d_h = d_h + d_s @ h @ p.T + d_s.T @ h @ p
+ d_h = jnp.outer(u, p @ ct) - jnp.outer(lam, m)
detached: innovation covariance is taken for constant in h
@ return d_m, d_p, lam, d_h, d_s
    """,
    ),
    *wrong_rules(
        lerp_table,
        right_lerp_table,
        draw_lerp,
        """
lerp_table_bwd_1
- d_table = d_table.at[lo + 1].add(ct * frac)
+ d_table = d_table.at[lo].add(ct * frac)
index: weight of the upper knot put on the lower one
    """,
    ),
    *wrong_rules(
        hermite,
        right_hermite,
        draw_hermite,
        """
hermite_bwd_1
- slope = slope + (3 * t2 - 4 * t + 1) * m0 + (3 * t2 - 2 * t) * m1
+ slope = slope + (3 * t2 - 4 * t) * m0 + (3 * t2 - 2 * t) * m1
term: derivative of the linear part of m0's basis missing
    """,
    ),
    *wrong_rules(
        heat_rod,
        right_heat_rod,
        draw_rod,
        """
heat_rod_bwd_1
- dlap = 0.2 * kappa * inner
+ dlap = 0.2 * inner
factor: conductivity missing
    """,
    ),
    *wrong_rules(
        soft_moe,
        right_soft_moe,
        draw_moe,
        """
soft_moe_bwd_1
- g_x = jnp.einsum("nek,edk->nd", g_pre, we) + g_logit @ wg.T
+ g_x = jnp.einsum("nek,edk->nd", g_pre, we)
detached: gate is taken for constant in x

soft_moe_bwd_2
- g_pre = g_h * (1 - h**2)
+ g_pre = g_h * (1 - jnp.tanh(h) ** 2)
activation: tanh applied twice in the slope
    """,
    ),
    *wrong_rules(
        lennard_jones,
        right_lennard_jones,
        draw_lj,
        """
lennard_jones_bwd_2
- dstep = dr * jnp.sign(step)
+ dstep = dr
sign: sign of the step (slope of abs) missing
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        pendulum,
        right_pendulum,
        draw_pendulum,
        """
pendulum_bwd_3
- for th in reversed(thetas):
-         d_omega = d_omega + DT * d_theta
+ for th in reversed(thetas):
- d_length = d_length + d_acc * GRAV / length**2 * jnp.sin(th)
+ d_length = d_length + d_acc * GRAV / length * jnp.sin(th)
carry: position's gradient not handed to the velocity
@ d_acc = DT * d_omega
factor: 1/l must be squared
@ d_length = d_length + d_acc * GRAV / length * jnp.sin(th)
    """,
    ),
    *wrong_rules(
        verlet,
        right_verlet,
        draw_verlet,
        """
verlet_bwd_2
- gv = gv + DT * gx
+ gv = DT * gx
- gk = gk - 2.0 * DT * jnp.outer(gv, old)
+ gk = gk - 2.0 * DT * jnp.outer(old, gv)
carry: velocity's gradient overwritten
@ gv = DT * gx
transpose: outer product the wrong way round
@ gk = gk - 2.0 * DT * jnp.outer(old, gv)
    """,
    ),
    *wrong_rules(
        heat_rod,
        right_heat_rod,
        draw_rod,
        """
heat_rod_bwd_2
- dkappa = dkappa + 0.2 * inner * lap
+ dkappa = 0.2 * inner * lap
- du = du.at[1:-1].add(-2.0 * dlap)
-         du = du.at[:-2].add(dlap)
+ du = du.at[1:-1].add(-2.0 * dlap)
carry: overwritten in each step in place of added up
@ dkappa = 0.2 * inner * lap
term: left neighbour's part missing
@ return du, dkappa
@ inner = du[1:-1]
    """,
    ),
    *wrong_rules(
        lennard_jones,
        right_lennard_jones,
        draw_lj,
        """
lennard_jones_bwd_3
- dq = 4.0 * ct * (2.0 * q - 1.0)
+ dq = 4.0 * ct * (q - 1.0)
- dr = -6.0 * dq * q / r
+ dr = -6.0 * dq * q
- dpos = dpos.at[:-1].add(-dstep)
+ dpos = dpos.at[:-1].add(dstep)
constant: derivative of q**2 is 2 q
@ dq = 4.0 * ct * (q - 1.0)
sign: left end moves against the step
@ dpos = dpos.at[:-1].add(dstep)
factor: division by r missing
@ dr = -6.0 * dq * q
    """,
    ),
]
