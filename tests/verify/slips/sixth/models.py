"""Rules with mistakes in densities, transport and other models."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

normal = jax.random.normal


def mdn_nll(pi, mu, log_s, y):
    logp = jax.nn.log_softmax(pi, axis=1) - 0.5 * ((y[:, None] - mu) / jnp.exp(log_s)) ** 2 - log_s
    return -jax.nn.logsumexp(logp, axis=1)


def draw_mdn_nll(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (5, 3)), normal(k[1], (5, 3)), 0.3 * normal(k[2], (3,)), normal(k[3], (5,))


def right_mdn_nll(args, g):
    pi, mu, log_s, y = args
    sd = jnp.exp(log_s)
    e = (y[:, None] - mu) / sd
    resp = jax.nn.softmax(jax.nn.log_softmax(pi, axis=1) - 0.5 * e**2 - log_s, axis=1)
    d_logp = -g[:, None] * resp
    d_pi = g[:, None] * (jax.nn.softmax(pi, axis=1) - resp)
    d_mu = d_logp * e / sd
    d_y = -d_mu.sum(axis=1)
    d_log_s = jnp.sum(d_logp * (e**2 - 1), axis=0)
    return d_pi, d_mu, d_log_s, d_y


def sinkhorn_plan(cost):
    f, h = jnp.zeros(cost.shape[0]), jnp.zeros(cost.shape[1])
    M = -cost / 0.5
    for _ in range(3):
        f = -jax.nn.logsumexp(M + h[None, :], axis=1)
        h = -jax.nn.logsumexp(M + f[:, None], axis=0)
    return jnp.exp(M + f[:, None] + h[None, :])


def draw_sinkhorn_plan(key):
    return (jax.random.uniform(key, (3, 4)),)


def right_sinkhorn_plan(args, G):
    (cost,) = args
    M = -cost / 0.5
    f, h = jnp.zeros(cost.shape[0]), jnp.zeros(cost.shape[1])
    hist = []
    for _ in range(3):
        f_new = -jax.nn.logsumexp(M + h[None, :], axis=1)
        hist.append((h, f_new))
        h = -jax.nn.logsumexp(M + f_new[:, None], axis=0)
    P = jnp.exp(M + hist[-1][1][:, None] + h[None, :])
    dM = G * P
    df = dM.sum(axis=1)
    dh = dM.sum(axis=0)
    for h_in, f_out in reversed(hist):
        B = jax.nn.softmax(M + f_out[:, None], axis=0) * dh[None, :]
        dM = dM - B
        df = df - B.sum(axis=1)
        A = jax.nn.softmax(M + h_in[None, :], axis=1) * df[:, None]
        dM = dM - A
        dh = -A.sum(axis=0)
        df = jnp.zeros_like(f)
    return (-dM / 0.5,)


def lj_energy(x, eps, sig):
    d = x[:, None, :] - x[None, :, :]
    r2 = jnp.sum(d**2, axis=-1) + jnp.eye(x.shape[0])
    s6 = (sig**2 / r2) ** 3
    pair = 4 * eps * (s6**2 - s6) * (1 - jnp.eye(x.shape[0]))
    return 0.5 * pair.sum(axis=1)


def draw_lj_energy(key):
    k = jax.random.split(key, 3)
    base = jnp.array([[0.0, 0, 0], [1.3, 0, 0], [0, 1.2, 0], [1.1, 1.2, 0.5]])
    return base + 0.1 * normal(k[0], (4, 3)), 1 + jax.random.uniform(k[1]), 1 + 0.1 * jax.random.uniform(k[2])


def right_lj_energy(args, g):
    x, eps, sig = args
    n = x.shape[0]
    off = 1 - jnp.eye(n)
    d = x[:, None, :] - x[None, :, :]
    r2 = jnp.sum(d**2, axis=-1) + jnp.eye(n)
    s6 = (sig**2 / r2) ** 3
    g_pair = 0.5 * g[:, None] * off
    g_eps = jnp.sum(g_pair * 4 * (s6**2 - s6))
    g_s6 = g_pair * 4 * eps * (2 * s6 - 1)
    g_sig = jnp.sum(g_s6 * 6 * s6) / sig
    g_r2 = -3 * g_s6 * s6 / r2
    g_d = 2 * g_r2[:, :, None] * d
    g_x = g_d.sum(axis=1) - g_d.sum(axis=0)
    return g_x, g_eps, g_sig


DONE = jnp.array([0.0, 0, 1, 0, 0, 0])

DISC, LAM = 0.9, 0.8


def gae(rewards, values, last):
    adv, out = 0.0, []
    nxt = last
    for t in reversed(range(6)):
        live = 1 - DONE[t]
        adv = rewards[t] + DISC * nxt * live - values[t] + DISC * LAM * live * adv
        nxt = values[t]
        out.append(adv)
    return jnp.stack(out[::-1])


def draw_gae(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (6,)), normal(k[1], (6,)), normal(k[2], ())


def right_gae(args, ct):
    rewards, values, last = args
    run = 0.0
    d_delta = []
    for t in range(6):
        run = run + ct[t]
        d_delta.append(run)
        run = DISC * LAM * (1 - DONE[t]) * run
    d_delta = jnp.stack(d_delta)
    boot = DISC * (1 - DONE) * d_delta
    d_values = -d_delta
    d_values = d_values.at[1:].add(boot[:-1])
    return d_delta, d_values, boot[-1]


def squeeze_excite(x, w1, w2):
    s = x.mean(axis=(1, 2))
    e = jax.nn.sigmoid(jax.nn.relu(s @ w1) @ w2)
    return x * e[:, None, None, :]


def draw_squeeze_excite(key):
    k = jax.random.split(key, 4)
    x = normal(k[0], (4, 2, 2, 4)) + normal(k[3], (4, 1, 1, 4))
    return x, normal(k[1], (4, 8)), 0.5 * normal(k[2], (8, 4))


def right_squeeze_excite(args, dy):
    x, w1, w2 = args
    area = x.shape[1] * x.shape[2]
    s = x.mean(axis=(1, 2))
    hid = s @ w1
    act = jnp.maximum(hid, 0)
    e = jax.nn.sigmoid(act @ w2)
    de = jnp.einsum("bhwc,bhwc->bc", dy, x)
    dze = de * e * (1 - e)
    dw2 = act.T @ dze
    dhid = (dze @ w2.T) * (hid > 0)
    dw1 = s.T @ dhid
    ds = dhid @ w1.T
    dx = dy * e[:, None, None, :] + ds[:, None, None, :] / area
    return dx, dw1, dw2


def factor_machine(x, w0, w, V):
    xv = x @ V
    return w0 + x @ w + 0.5 * jnp.sum(xv**2 - (x**2) @ (V**2), axis=1)


def draw_factor_machine(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (5, 4)), normal(k[1], ()), normal(k[2], (4,)), normal(k[3], (4, 3))


def right_factor_machine(args, g):
    x, w0, w, V = args

    def one(xi, gi):
        xv = xi @ V
        d_w = gi * xi
        d_V = gi * (jnp.outer(xi, xv) - (xi**2)[:, None] * V)
        d_x = gi * (w + V @ xv - xi * jnp.sum(V**2, axis=1))
        return d_x, d_w, d_V

    d_x, d_w, d_V = jax.vmap(one)(x, g)
    return d_x, g.sum(), d_w.sum(0), d_V.sum(0)


def weight_norm(x, v, gain):
    W = gain[:, None] * v / jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    return jax.nn.softplus(x @ W.T)


def draw_weight_norm(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (5, 3)), normal(k[1], (4, 3)), 1 + 0.5 * normal(k[2], (4,))


def right_weight_norm(args, ct):
    x, v, gain = args
    norm = jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    unit = v / norm
    W = gain[:, None] * unit
    pre_bar = ct * jax.nn.sigmoid(x @ W.T)
    W_bar = pre_bar.T @ x
    gain_bar = jnp.sum(W_bar * unit, axis=1)
    radial = unit * gain_bar[:, None]
    v_bar = (gain[:, None] / norm) * (W_bar - radial)
    x_bar = pre_bar @ W
    return x_bar, v_bar, gain_bar


def advect_react(u, c, D, r):
    for _ in range(3):
        lap = jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)
        u = u + 0.1 * (D * lap - c * (u - jnp.roll(u, 1)) + r * u * (1 - u))
    return u


def draw_advect_react(key):
    k = jax.random.split(key, 4)
    return (
        normal(k[0], (6,)),
        1 + jax.random.uniform(k[1]),
        0.5 + jax.random.uniform(k[2]),
        1 + jax.random.uniform(k[3]),
    )


def right_advect_react(args, lam):
    u, c, D, r = args
    laplace = lambda a: jnp.roll(a, 1) - 2 * a + jnp.roll(a, -1)
    states = []
    for _ in range(3):
        states.append(u)
        u = u + 0.1 * (D * laplace(u) - c * (u - jnp.roll(u, 1)) + r * u * (1 - u))
    gc = gD = gr = 0.0
    for u in states[::-1]:
        q = 0.1 * lam
        gD = gD + q @ laplace(u)
        gc = gc - q @ (u - jnp.roll(u, 1))
        gr = gr + q @ (u * (1 - u))
        adv = q - jnp.roll(q, -1)
        lam = lam + D * laplace(q) - c * adv + r * q * (1 - 2 * u)
    return lam, gc, gD, gr


def student_nll(x, loc, log_scale):
    nu = 4.0
    z = (x - loc) * jnp.exp(-log_scale)
    return jnp.sum(0.5 * (nu + 1) * jnp.log1p(z**2 / nu) + log_scale)


def draw_student_nll(key):
    k = jax.random.split(key, 3)
    return 2 * normal(k[0], (6, 3)), normal(k[1], (3,)), 0.4 * normal(k[2], (6, 1))


def right_student_nll(args, g):
    x, loc, log_scale = args
    nu = 4.0
    inv = jnp.exp(-log_scale)
    z = (x - loc) * inv
    dz = g * (nu + 1) * z / (nu + z**2)
    dx = dz * inv
    dloc = -dx.sum(axis=0)
    dls = jnp.sum(g - dz * z, axis=1, keepdims=True)
    return dx, dloc, dls


def attn_pool(x, query, W):
    def one(xi):
        a = jax.nn.softmax(jnp.tanh(xi @ W) @ query)
        return a @ xi

    return jax.vmap(one)(x)


def draw_attn_pool(key):
    k = jax.random.split(key, 3)
    return normal(k[0], (4, 5, 3)), normal(k[1], (2,)), normal(k[2], (3, 2))


def right_attn_pool(args, ct):
    x, query, W = args

    def one(xi, gi):
        t = jnp.tanh(xi @ W)
        a = jax.nn.softmax(t @ query)
        ga = xi @ gi
        gs = a * (ga - a @ ga)
        gq = t.T @ gs
        gt = jnp.outer(gs, query)
        gz = gt * (1 - t**2)
        gW = xi.T @ gz
        gx = jnp.outer(a, gi)
        gx = gx + gz @ W.T
        return gx, gq, gW

    gx, gq, gW = jax.vmap(one)(x, ct)
    return gx, gq.sum(0), gW.sum(0)


def highway(x, Wt, Wh, bt):
    gate = jax.nn.sigmoid(x @ Wt + bt)
    return gate * jax.nn.elu(x @ Wh) + (1 - gate) * x


def draw_highway(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (5, 4)), normal(k[1], (4, 4)), normal(k[2], (4, 4)), -0.5 + normal(k[3], (4,))


def right_highway(args, dy):
    x, Wt, Wh, bt = args
    T = jax.nn.sigmoid(x @ Wt + bt)
    zh = x @ Wh
    Hh = jnp.where(zh > 0, zh, jnp.expm1(zh))
    dT = dy * (Hh - x)
    dzt = dT * T * (1 - T)
    dzh = dy * T * jnp.where(zh > 0, 1.0, Hh + 1.0)
    dx = dy * (1 - T)
    dx += dzt @ Wt.T
    dx += dzh @ Wh.T
    return dx, x.T @ dzt, x.T @ dzh, dzt.sum(0)


NOISE = jnp.array([[0.4, -1.1], [1.2, 0.3], [-0.5, 0.8], [0.1, -0.7]])


def vae_elbo(mu, logvar, W, x):
    z = mu + jnp.exp(0.5 * logvar) * NOISE
    rec = 0.5 * jnp.sum((x - jnp.tanh(z @ W)) ** 2)
    kl = -0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))
    return (rec + kl) / x.shape[0]


def draw_vae_elbo(key):
    k = jax.random.split(key, 4)
    return normal(k[0], (4, 2)), 0.7 * normal(k[1], (4, 2)), normal(k[2], (2, 3)), normal(k[3], (4, 3))


def right_vae_elbo(args, g):
    mu, logvar, W, x = args
    n = x.shape[0]
    std = jnp.exp(0.5 * logvar)
    z = mu + std * NOISE
    recon = jnp.tanh(z @ W)
    err = (recon - x) * g / n
    grad_x = -err
    delta = err * (1 - recon**2)
    grad_W = z.T @ delta
    grad_z = delta @ W.T
    grad_mu = grad_z + g * mu / n
    grad_logvar = 0.5 * grad_z * std * NOISE
    grad_logvar = grad_logvar + 0.5 * g * (jnp.exp(logvar) - 1) / n
    return grad_mu, grad_logvar, grad_W, grad_x


SINGLE = [
    *wrong_rules(
        mdn_nll,
        right_mdn_nll,
        draw_mdn_nll,
        """
mdn_nll_log_s
- d_log_s = jnp.sum(d_logp * (e**2 - 1), axis=0)
+ d_log_s = jnp.sum(d_logp * e**2, axis=0)
term: derivative of the normaliser -log_s forgotten
    """,
    ),
    *wrong_rules(
        sinkhorn_plan,
        right_sinkhorn_plan,
        draw_sinkhorn_plan,
        """
sinkhorn_plan_axis
- B = jax.nn.softmax(M + f_out[:, None], axis=0) * dh[None, :]
+ B = jax.nn.softmax(M + f_out[:, None], axis=1) * dh[None, :]
axis: column update normalised along the rows

sinkhorn_plan_reset
- dh = -A.sum(axis=0)
+ dh = dh - A.sum(axis=0)
carry: column gradient of the later iteration kept where it should be replaced
    """,
    ),
    *wrong_rules(
        lj_energy,
        right_lj_energy,
        draw_lj_energy,
        """
lj_energy_partner
- g_x = g_d.sum(axis=1) - g_d.sum(axis=0)
+ g_x = g_d.sum(axis=1)
term: reaction on the partner particle forgotten
    """,
    ),
    *wrong_rules(
        gae,
        right_gae,
        draw_gae,
        """
gae_boot_shift
- d_values = d_values.at[1:].add(boot[:-1])
+ d_values = d_values.at[:-1].add(boot[1:])
index: bootstrap gradient moved one step the wrong way
    """,
    ),
    *wrong_rules(
        squeeze_excite,
        right_squeeze_excite,
        draw_squeeze_excite,
        """
squeeze_excite_gate_detached
- dx = dy * e[:, None, None, :] + ds[:, None, None, :] / area
+ dx = dy * e[:, None, None, :]
detached: gate taken for constant with respect to x
    """,
    ),
    *wrong_rules(
        factor_machine,
        right_factor_machine,
        draw_factor_machine,
        """
factor_machine_square
- d_V = gi * (jnp.outer(xi, xv) - (xi**2)[:, None] * V)
+ d_V = gi * (jnp.outer(xi, xv) - xi[:, None] * V)
factor: x not squared in the correction
    """,
    ),
    *wrong_rules(
        weight_norm,
        right_weight_norm,
        draw_weight_norm,
        """
weight_norm_radial
- v_bar = (gain[:, None] / norm) * (W_bar - radial)
+ v_bar = (gain[:, None] / norm) * W_bar
detached: norm of v taken for constant

weight_norm_axis
- norm = jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
+ norm = jnp.sqrt(jnp.sum(v**2, axis=0, keepdims=True))
axis: norm over the wrong axis of v
    """,
    ),
    *wrong_rules(
        advect_react,
        right_advect_react,
        draw_advect_react,
        """
advect_react_roll
- adv = q - jnp.roll(q, -1)
+ adv = q - jnp.roll(q, 1)
transpose: upwind difference not transposed, rolled the same way as forward
    """,
    ),
    *wrong_rules(
        student_nll,
        right_student_nll,
        draw_student_nll,
        """
student_nll_broadcast
- dls = jnp.sum(g - dz * z, axis=1, keepdims=True)
+ dls = g - jnp.sum(dz * z, axis=1, keepdims=True)
reduction: broadcast log scale counted once, not once per column
    """,
    ),
    *wrong_rules(
        attn_pool,
        right_attn_pool,
        draw_attn_pool,
        """
attn_pool_mean
- return gx, gq.sum(0), gW.sum(0)
+ return gx, gq.mean(0), gW.sum(0)
reduction: mean over the vmapped examples for the query

attn_pool_scores_fixed
- gx = jnp.outer(a, gi)
-         gx = gx + gz @ W.T
+ gx = jnp.outer(a, gi)
detached: attention weights taken for constant in the gradient of x
@ return gx, gq, gW
    """,
    ),
    *wrong_rules(
        highway,
        right_highway,
        draw_highway,
        """
highway_elu
- dzh = dy * T * jnp.where(zh > 0, 1.0, Hh + 1.0)
+ dzh = dy * T * jnp.where(zh > 0, 1.0, Hh)
activation: elu slope without the + 1
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        mdn_nll,
        right_mdn_nll,
        draw_mdn_nll,
        """
mdn_nll_two
- d_pi = g[:, None] * (jax.nn.softmax(pi, axis=1) - resp)
+ d_pi = g[:, None] * (jax.nn.softmax(pi, axis=1) + resp)
- d_mu = d_logp * e / sd
+ d_mu = d_logp * e
factor: second division by the standard deviation missing
@ d_mu = d_logp * e
sign: responsibilities added instead of subtracted
@ d_pi = g[:, None] * (jax.nn.softmax(pi, axis=1) + resp)
    """,
    ),
    *wrong_rules(
        vae_elbo,
        right_vae_elbo,
        draw_vae_elbo,
        """
vae_elbo_three
- grad_W = z.T @ delta
+ grad_W = z.T @ err
- grad_mu = grad_z + g * mu / n
+ grad_mu = grad_z
- grad_logvar = grad_logvar + 0.5 * g * (jnp.exp(logvar) - 1) / n
+ grad_logvar = grad_logvar + 0.5 * g * (std - 1) / n
term: KL part of the mean forgotten
@ grad_mu = grad_z
operand: standard deviation in place of the variance
@ grad_logvar = grad_logvar + 0.5 * g * (std - 1) / n
operand: error before the tanh slope used
@ grad_W = z.T @ err
    """,
    ),
    *wrong_rules(
        sinkhorn_plan,
        right_sinkhorn_plan,
        draw_sinkhorn_plan,
        """
sinkhorn_plan_two
- dM = dM - A
+ dM = dM + A
- return (-dM / 0.5,)
+ return (-dM * 0.5,)
sign: row update added instead of subtracted
@ dM = dM + A
factor: product in place of division by the temperature
@ return (-dM * 0.5,)
    """,
    ),
    *wrong_rules(
        gae,
        right_gae,
        draw_gae,
        """
gae_two
- run = DISC * LAM * (1 - DONE[t]) * run
+ run = DISC * LAM * run
- d_values = -d_delta
+ d_values = d_delta
mask: episode end not cut off in the recursion
@ run = DISC * LAM * run
sign: baseline enters with a minus
@ d_values = d_delta
    """,
    ),
    *wrong_rules(
        squeeze_excite,
        right_squeeze_excite,
        draw_squeeze_excite,
        """
squeeze_excite_two
- de = jnp.einsum("bhwc,bhwc->bc", dy, x)
+ de = jnp.einsum("bhwc,bhwc->bc", dy, x) / area
- dze = de * e * (1 - e)
+ dze = de * (1 - e**2)
activation: tanh slope on a sigmoid
@ dze = de * (1 - e**2)
reduction: averaged over the pixels instead of summed
@ de = jnp.einsum("bhwc,bhwc->bc", dy, x) / area
    """,
    ),
    *wrong_rules(
        weight_norm,
        right_weight_norm,
        draw_weight_norm,
        """
weight_norm_two
- pre_bar = ct * jax.nn.sigmoid(x @ W.T)
+ pre_bar = ct * (x @ W.T > 0)
- gain_bar = jnp.sum(W_bar * unit, axis=1)
+ gain_bar = jnp.sum(W_bar * v, axis=1)
activation: relu step in place of the softplus slope
@ pre_bar = ct * (x @ W.T > 0)
operand: unnormalised v in place of the direction
@ gain_bar = jnp.sum(W_bar * v, axis=1)
    """,
    ),
    *wrong_rules(
        advect_react,
        right_advect_react,
        draw_advect_react,
        """
advect_react_two
- gr = gr + q @ (u * (1 - u))
+ gr = q @ (u * (1 - u))
- lam = lam + D * laplace(q) - c * adv + r * q * (1 - 2 * u)
+ lam = lam + D * laplace(q) - c * adv + r * q * (1 - u)
constant: 2 of the logistic slope missing
@ lam = lam + D * laplace(q) - c * adv + r * q * (1 - u)
carry: rate gradient not accumulated over the steps
@ gr = q @ (u * (1 - u))
    """,
    ),
    *wrong_rules(
        attn_pool,
        right_attn_pool,
        draw_attn_pool,
        """
attn_pool_two
- gs = a * (ga - a @ ga)
+ gs = a * (1 - a) * ga
- gz = gt * (1 - t**2)
+ gz = gt
activation: elementwise sigmoid slope on a softmax
@ gs = a * (1 - a) * ga
activation: tanh slope forgotten
@ gz = gt
    """,
    ),
    *wrong_rules(
        highway,
        right_highway,
        draw_highway,
        """
highway_two
- dT = dy * (Hh - x)
+ dT = dy * Hh
- dx += dzt @ Wt.T
+ dx += dzt @ Wt
term: carry part of the gate forgotten
@ dT = dy * Hh
transpose: gate weights not transposed
@ dx += dzt @ Wt
    """,
    ),
]
