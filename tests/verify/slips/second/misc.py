"""Complex signals, densities, kernels, splines, experts and unusual losses."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def spectral_filter(x, h):
    return jnp.fft.ifft(jnp.fft.fft(x) * h).real


def draw_spectral_filter(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (3, 8)), jax.lax.complex(jax.random.normal(b, (8,)), jax.random.normal(c, (8,)))


def right_spectral_filter_bwd(args, ct):
    x, h = args
    X = jnp.fft.fft(x)
    dY = jnp.fft.ifft(ct)
    dX = dY * h
    dh = (dY * X).sum(0)
    dx = jnp.fft.fft(dX).real
    return dx, dh


def power(z, w):
    y = z @ w
    return jnp.log1p(jnp.abs(y) ** 2)


def draw_power(key):
    k = jax.random.split(key, 4)
    return (
        jax.lax.complex(jax.random.normal(k[0], (4, 3)), jax.random.normal(k[1], (4, 3))),
        jax.lax.complex(jax.random.normal(k[2], (3, 2)), jax.random.normal(k[3], (3, 2))),
    )


def right_log_power_vjp(args, g):
    z, w = args
    y = z @ w
    p = y.real**2 + y.imag**2
    gp = g / (1 + p)
    gy = 2 * gp * jnp.conj(y)
    gz = gy @ w.T
    gw = z.T @ gy
    return gz, gw


def gauss_kl(mu_q, logvar_q, mu_p, logvar_p):
    r = logvar_q - logvar_p
    return 0.5 * (jnp.exp(r) + (mu_q - mu_p) ** 2 * jnp.exp(-logvar_p) - 1 - r).sum(-1)


def draw_gauss_kl(key):
    k = jax.random.split(key, 4)
    return (
        jax.random.normal(k[0], (4, 3)),
        0.5 * jax.random.normal(k[1], (4, 3)),
        jax.random.normal(k[2], (3,)),
        0.5 * jax.random.normal(k[3], (3,)),
    )


def right_kl_gradients(args, ct):
    mu_q, lv_q, mu_p, lv_p = args
    c = ct[:, None]
    diff = mu_q - mu_p
    ratio = jnp.exp(lv_q - lv_p)
    g_mu_q = c * diff * jnp.exp(-lv_p)
    g_lv_q = 0.5 * c * (ratio - 1)
    g_mu_p = -g_mu_q.sum(0)
    g_lv_p = 0.5 * (c * (1 - ratio - diff**2 * jnp.exp(-lv_p))).sum(0)
    return g_mu_q, g_lv_q, g_mu_p, g_lv_p


def rbf_mmd(x, y, log_s):
    def k(a, b):
        return jnp.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / jnp.exp(log_s)).mean()

    return k(x, x) - 2 * k(x, y)


def draw_rbf_mmd(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5, 2)), jax.random.normal(b, (4, 2)) + 0.5, 0.6 + 0.2 * jax.random.normal(c, ())


def right_mmd_backward(args, g):
    x, y, log_s = args
    s = jnp.exp(log_s)
    n, m = x.shape[0], y.shape[0]
    dxx = x[:, None] - x[None]
    dxy = x[:, None] - y[None]
    sq_xx, sq_xy = (dxx**2).sum(-1), (dxy**2).sum(-1)
    kxx = jnp.exp(-sq_xx / s) / n**2
    kxy = -2 * jnp.exp(-sq_xy / s) / (n * m)
    g_x = -4 / s * jnp.einsum("ij,ijd->id", kxx, dxx)
    g_x = g_x - 2 / s * jnp.einsum("ij,ijd->id", kxy, dxy)
    g_y = 2 / s * jnp.einsum("ij,ijd->jd", kxy, dxy)
    g_s = ((kxx * sq_xx).sum() + (kxy * sq_xy).sum()) / s
    return g * g_x, g * g_y, g * g_s


def moe(x, wg, we):
    gate = jax.nn.softmax(x @ wg, -1)
    out = jnp.tanh(jnp.einsum("bd,edo->beo", x, we))
    return jnp.einsum("be,beo->bo", gate, out)


def draw_moe(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (4, 3)), jax.random.normal(k[1], (3, 5)), jax.random.normal(k[2], (5, 3, 2)) * 0.7


def right_moe_grads(args, dy):
    x, wg, we = args
    gate = jax.nn.softmax(x @ wg, -1)
    out = jnp.tanh(jnp.einsum("bd,edo->beo", x, we))
    dgate = jnp.einsum("bo,beo->be", dy, out)
    dlog = gate * (dgate - (gate * dgate).sum(-1, keepdims=True))
    dout = gate[..., None] * dy[:, None, :]
    dpre = dout * (1 - out**2)
    dwe = jnp.einsum("bd,beo->edo", x, dpre)
    dx = dlog @ wg.T + jnp.einsum("beo,edo->bd", dpre, we)
    return dx, x.T @ dlog, dwe


KNOT_X = jnp.array([0.1, 0.9, 1.4, 2.2, 2.9, 3.3])


def lerp(q, knots, shift):
    u = q + shift
    i = jnp.clip(jnp.floor(u).astype(int), 0, knots.shape[0] - 2)
    t = u - i
    s = t * t * (3 - 2 * t)
    return (1 - s) * knots[i] + s * knots[i + 1]


def draw_lerp(key):
    k = jax.random.split(key, 3)
    return (
        KNOT_X + 0.3 * jax.random.uniform(k[0], (6,)),
        jax.random.normal(k[1], (6,)),
        jnp.float32(0.2) + 0.2 * jax.random.uniform(k[2], ()),
    )


def right_smoothstep_interp_bwd(args, g):
    q, knots, shift = args
    u = q + shift
    i = jnp.clip(jnp.floor(u).astype(int), 0, knots.shape[0] - 2)
    t = u - i
    s = t * t * (3 - 2 * t)
    g_knots = jnp.zeros_like(knots).at[i].add(g * (1 - s))
    g_knots = g_knots.at[i + 1].add(g * s)
    g_s = g * (knots[i + 1] - knots[i])
    g_t = g_s * 6 * t * (1 - t)
    return g_t, g_knots, g_t.sum()


TOKENS = jnp.array([[1, 3, 0, 2], [2, 1, 4, 0]])

PAD = (TOKENS != 0).astype(jnp.float32)


def bag_of_words(table, w, b):
    e = table[TOKENS] * PAD[..., None]
    mean = e.sum(1) / PAD.sum(1, keepdims=True)
    return jax.nn.sigmoid(mean @ w + b)


def draw_bag(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (6, 4)), jax.random.normal(k[1], (4, 3)), jax.random.normal(k[2], (3,))


def right_bag_backward(args, ct):
    table, w, b = args
    count = PAD.sum(1, keepdims=True)
    mean = (table[TOKENS] * PAD[..., None]).sum(1) / count
    y = jax.nn.sigmoid(mean @ w + b)
    delta = ct * y * (1 - y)
    dmean = delta @ w.T
    de = jnp.broadcast_to(dmean[:, None, :], (2, 4, 4)) / count[..., None]
    de = de * PAD[..., None]
    dtable = jnp.zeros_like(table).at[TOKENS].add(de)
    dw = mean.T @ delta
    return dtable, dw, delta.sum(0)


TARGET = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])


def focal(logit, gamma):
    p = jax.nn.sigmoid(logit)
    pt = jnp.where(TARGET > 0, p, 1 - p)
    return -((1 - pt) ** gamma * jnp.log(pt)).sum()


def draw_focal(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (7,)), 1.5 + jax.random.uniform(b, ())


def right_focal_grad(args, ct):
    logit, gamma = args
    p = jax.nn.sigmoid(logit)
    pt = jnp.where(TARGET > 0, p, 1 - p)
    q = 1 - pt
    dpt = gamma * q ** (gamma - 1) * jnp.log(pt) - q**gamma / pt
    dp = jnp.where(TARGET > 0, dpt, -dpt)
    dlogit = ct * dp * p * (1 - p)
    dgamma = -ct * (q**gamma * jnp.log(q) * jnp.log(pt)).sum()
    return dlogit, dgamma


def soft_dice(logits, w):
    p = jax.nn.sigmoid(logits)
    inter = (w * p * TARGET).sum(-1)
    return 1 - 2 * inter / ((w * (p**2 + TARGET)).sum(-1) + 1e-3)


def draw_soft_dice(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (3, 7)), 0.5 + jax.random.uniform(b, (7,))


def right_dice_rule(args, ct):
    logits, w = args
    p = jax.nn.sigmoid(logits)
    inter = (w * p * TARGET).sum(-1, keepdims=True)
    union = (w * (p**2 + TARGET)).sum(-1, keepdims=True) + 1e-3
    g = ct[:, None]
    d_inter = -2 * g / union
    d_union = 2 * g * inter / union**2
    d_p = w * (d_inter * TARGET + d_union * 2 * p)
    d_w = (d_inter * p * TARGET + d_union * (p**2 + TARGET)).sum(0)
    return d_p * p * (1 - p), d_w


def triplet(a, p, n, margin):
    dp = jnp.sqrt(((a - p) ** 2).sum(-1))
    dn = jnp.sqrt(((a - n) ** 2).sum(-1))
    return jnp.maximum(dp - dn + margin, 0).mean()


def draw_triplet(key):
    k = jax.random.split(key, 3)
    return (*(jax.random.normal(x, (8, 3)) for x in k), jnp.float32(0.7))


def right_triplet_bwd(args, g):
    a, p, n, margin = args
    ap, an = a - p, a - n
    dist_p = jnp.linalg.norm(ap, axis=-1, keepdims=True)
    dist_n = jnp.linalg.norm(an, axis=-1, keepdims=True)
    active = (dist_p - dist_n + margin > 0).astype(a.dtype)
    coef = g * active / a.shape[0]
    up, un = ap / dist_p, an / dist_n
    return coef * (up - un), -coef * up, coef * un, coef.sum()


def pinball(x, w, b, tau):
    r = jnp.sin(3 * x[:, 0]) - (x @ w + b)
    return jnp.where(r > 0, tau * r, (tau - 1) * r).sum() + 0.05 * (w**2).sum()


def draw_pinball(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (9, 3)), jax.random.normal(k[1], (3,)), jax.random.normal(k[2], ()), jnp.float32(0.3)


def right_quantile_reg_grad(args, ct):
    x, w, b, tau = args
    r = jnp.sin(3 * x[:, 0]) - x @ w - b
    gr = jnp.where(r > 0, tau, tau - 1) * ct
    gw = -gr @ x + 0.1 * w * ct
    gb = -gr.sum()
    gx = -gr[:, None] * w
    gx = gx.at[:, 0].add(gr * 3 * jnp.cos(3 * x[:, 0]))
    return gx, gw, gb, ct * r.sum()


def huber_track(x, v, z):
    total = 0.0
    for t in range(z.shape[0]):
        x = x + 0.5 * v
        v = 0.9 * v
        e = z[t] - x
        total = total + jnp.where(jnp.abs(e) < 1, 0.5 * e**2, jnp.abs(e) - 0.5).sum()
    return total


def draw_huber_track(key):
    k = jax.random.split(key, 3)
    return jax.random.normal(k[0], (3,)), jax.random.normal(k[1], (3,)), 1.5 * jax.random.normal(k[2], (5, 3))


def right_huber_track_adjoint(args, ct):
    x, v, z = args
    errs = []
    for t in range(z.shape[0]):
        x = x + 0.5 * v
        v = 0.9 * v
        errs.append(z[t] - x)
    gx, gv = jnp.zeros_like(x), jnp.zeros_like(v)
    gz = []
    for e in errs[::-1]:
        ge = ct * jnp.clip(e, -1, 1)
        gz.insert(0, ge)
        gx = gx - ge
        gv = 0.9 * gv + 0.5 * gx
    return gx, gv, jnp.stack(gz)


SINGLE = [
    *wrong_rules(
        spectral_filter,
        right_spectral_filter_bwd,
        draw_spectral_filter,
        """
spectral_filter_bwd_1
- dY = jnp.fft.ifft(ct)
+ dY = jnp.fft.fft(ct)
operand: fft in place of ifft

spectral_filter_bwd_2
- dX = dY * h
+ dX = dY * jnp.conj(h)
conjugate: conjugate too much

spectral_filter_bwd_3
- dh = (dY * X).sum(0)
+ dh = (jnp.conj(dY) * X).sum(0)
conjugate: conjugate of dY too much
    """,
    ),
    *wrong_rules(
        power,
        right_log_power_vjp,
        draw_power,
        """
log_power_vjp_1
- gp = g / (1 + p)
+ gp = g / p
constant: 1 of log1p missing

log_power_vjp_2
- gy = 2 * gp * jnp.conj(y)
+ gy = 2 * gp * y
conjugate: conjugate missing

log_power_vjp_3
- gy = 2 * gp * jnp.conj(y)
+ gy = gp * jnp.conj(y)
constant: factor 2 missing

log_power_vjp_4
- gz = gy @ w.T
+ gz = gy @ jnp.conj(w).T
conjugate: w conjugated: jax takes the plain transpose
    """,
    ),
    *wrong_rules(
        gauss_kl,
        right_kl_gradients,
        draw_gauss_kl,
        """
kl_gradients_1
- g_mu_q = c * diff * jnp.exp(-lv_p)
+ g_mu_q = c * diff * jnp.exp(-lv_q)
operand: variance of q in place of p

kl_gradients_2
- g_lv_q = 0.5 * c * (ratio - 1)
+ g_lv_q = 0.5 * c * ratio
term: the term of the log variance is missing

kl_gradients_3
- g_mu_p = -g_mu_q.sum(0)
+ g_mu_p = g_mu_q.sum(0)
sign: minus missing for the prior's mean

kl_gradients_4
- g_lv_p = 0.5 * (c * (1 - ratio - diff**2 * jnp.exp(-lv_p))).sum(0)
+ g_lv_p = 0.5 * (c * (1 - ratio)).sum(0)
detached: prior's variance in the quadratic term taken for constant
    """,
    ),
    *wrong_rules(
        rbf_mmd,
        right_mmd_backward,
        draw_rbf_mmd,
        """
mmd_backward_1
- kxx = jnp.exp(-sq_xx / s) / n**2
+ kxx = jnp.exp(-sq_xx / s) / n
factor: 1/n**2, not 1/n

mmd_backward_2
- g_x = -4 / s * jnp.einsum("ij,ijd->id", kxx, dxx)
+ g_x = -2 / s * jnp.einsum("ij,ijd->id", kxx, dxx)
detached: second argument of k(x, x) taken for constant

mmd_backward_3
- g_y = 2 / s * jnp.einsum("ij,ijd->jd", kxy, dxy)
+ g_y = -2 / s * jnp.einsum("ij,ijd->jd", kxy, dxy)
sign: sign of the second argument

mmd_backward_4
- g_s = ((kxx * sq_xx).sum() + (kxy * sq_xy).sum()) / s
+ g_s = (kxx * sq_xx).sum() / s
term: cross kernel missing
    """,
    ),
    *wrong_rules(
        moe,
        right_moe_grads,
        draw_moe,
        """
moe_grads_1
- dlog = gate * (dgate - (gate * dgate).sum(-1, keepdims=True))
+ dlog = gate * (dgate - (gate * dgate).mean(-1, keepdims=True))
reduction: mean in place of sum in the softmax

moe_grads_2
- dout = gate[..., None] * dy[:, None, :]
+ dout = jnp.broadcast_to(dy[:, None, :], out.shape)
factor: gate weight missing

moe_grads_3
- dx = dlog @ wg.T + jnp.einsum("beo,edo->bd", dpre, we)
+ dx = jnp.einsum("beo,edo->bd", dpre, we)
detached: gate taken for constant in x
    """,
    ),
    *wrong_rules(
        lerp,
        right_smoothstep_interp_bwd,
        draw_lerp,
        """
smoothstep_interp_bwd_1
- g_knots = jnp.zeros_like(knots).at[i].add(g * (1 - s))
+ g_knots = jnp.zeros_like(knots).at[i].set(g * (1 - s))
carry: set in place of add for repeated cells

smoothstep_interp_bwd_2
- g_knots = g_knots.at[i + 1].add(g * s)
+ g_knots = g_knots.at[i].add(g * s)
index: right knot i + 1 missed

smoothstep_interp_bwd_3
- g_t = g_s * 6 * t * (1 - t)
+ g_t = g_s * 6 * s * (1 - s)
activation: slope taken in s instead of t

smoothstep_interp_bwd_4
- return g_t, g_knots, g_t.sum()
+ return g_t, g_knots, g_t.mean()
reduction: mean in place of sum for the shift
    """,
    ),
    *wrong_rules(
        bag_of_words,
        right_bag_backward,
        draw_bag,
        """
bag_backward_1
- delta = ct * y * (1 - y)
+ delta = ct * (1 - y**2)
activation: tanh slope for a sigmoid

bag_backward_2
- de = jnp.broadcast_to(dmean[:, None, :], (2, 4, 4)) / count[..., None]
+ de = jnp.broadcast_to(dmean[:, None, :], (2, 4, 4)) / TOKENS.shape[1]
constant: divided by the padded length

bag_backward_3
- de = de * PAD[..., None]
+ de = de * (1 - PAD[..., None])
mask: padding mask inverted
    """,
    ),
    *wrong_rules(
        focal,
        right_focal_grad,
        draw_focal,
        """
focal_grad_1
- dpt = gamma * q ** (gamma - 1) * jnp.log(pt) - q**gamma / pt
+ dpt = -(q**gamma) / pt
detached: modulating factor taken for constant

focal_grad_2
- dp = jnp.where(TARGET > 0, dpt, -dpt)
+ dp = dpt
sign: sign of the negative class missing

focal_grad_3
- dgamma = -ct * (q**gamma * jnp.log(q) * jnp.log(pt)).sum()
+ dgamma = -ct * (q**gamma * jnp.log(pt) * jnp.log(pt)).sum()
operand: log(pt) in place of log(q)
    """,
    ),
    *wrong_rules(
        soft_dice,
        right_dice_rule,
        draw_soft_dice,
        """
dice_rule_1
- d_union = 2 * g * inter / union**2
+ d_union = 2 * g * inter / union
constant: union is squared in the quotient rule

dice_rule_2
- d_p = w * (d_inter * TARGET + d_union * 2 * p)
+ d_p = w * (d_inter * TARGET + d_union * p)
constant: 2 of p**2 missing

dice_rule_3
- d_w = (d_inter * p * TARGET + d_union * (p**2 + TARGET)).sum(0)
+ d_w = (d_inter * p * TARGET + d_union * p**2).sum(0)
term: TARGET in the union missing
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet_bwd,
        draw_triplet,
        """
triplet_bwd_1
- coef = g * active / a.shape[0]
+ coef = g * active
factor: 1/n of the mean missing

triplet_bwd_2
- active = (dist_p - dist_n + margin > 0).astype(a.dtype)
+ active = (dist_p - dist_n > 0).astype(a.dtype)
mask: margin missing in the hinge's mask

triplet_bwd_3
- return coef * (up - un), -coef * up, coef * un, coef.sum()
+ return coef * up, -coef * up, coef * un, coef.sum()
term: anchor lacks the negative's part
    """,
    ),
    *wrong_rules(
        pinball,
        right_quantile_reg_grad,
        draw_pinball,
        """
quantile_reg_grad_1
- gr = jnp.where(r > 0, tau, tau - 1) * ct
+ gr = jnp.where(r > 0, tau, 1 - tau) * ct
sign: slope below zero is tau - 1

quantile_reg_grad_2
- gw = -gr @ x + 0.1 * w * ct
+ gw = -gr @ x
term: weight decay missing

quantile_reg_grad_3
- gx = gx.at[:, 0].add(gr * 3 * jnp.cos(3 * x[:, 0]))
+ gx = gx.at[:, 0].add(gr * jnp.cos(3 * x[:, 0]))
factor: 3 of the chain rule missing
    """,
    ),
    *wrong_rules(
        huber_track,
        right_huber_track_adjoint,
        draw_huber_track,
        """
huber_track_adjoint_1
- ge = ct * jnp.clip(e, -1, 1)
+ ge = ct * e
activation: not clipped: slope of the square outside of 1

huber_track_adjoint_2
- gx = gx - ge
+ gx = gx + ge
sign: sign of the residual

huber_track_adjoint_3
- gv = 0.9 * gv + 0.5 * gx
+ gv = gv + 0.5 * gx
factor: damping 0.9 missing
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        spectral_filter,
        right_spectral_filter_bwd,
        draw_spectral_filter,
        """
spectral_filter_bwd_4
- dY = jnp.fft.ifft(ct)
+ dY = jnp.fft.ifft(ct) * ct.shape[0]
- dx = jnp.fft.fft(dX).real
+ dx = jnp.fft.fft(dX).imag
factor: factor of the batch size too much
@ dY = jnp.fft.ifft(ct) * ct.shape[0]
operand: imaginary part in place of the real part
@ dx = jnp.fft.fft(dX).imag
    """,
    ),
    *wrong_rules(
        rbf_mmd,
        right_mmd_backward,
        draw_rbf_mmd,
        """
mmd_backward_5
- g_x = g_x - 2 / s * jnp.einsum("ij,ijd->id", kxy, dxy)
+ g_x = -2 / s * jnp.einsum("ij,ijd->id", kxy, dxy)
- g_s = ((kxx * sq_xx).sum() + (kxy * sq_xy).sum()) / s
+ g_s = ((kxx * sq_xx).sum() + (kxy * sq_xy).sum()) / s**2
carry: part of k(x, x) overwritten
@ g_x = -2 / s * jnp.einsum("ij,ijd->id", kxy, dxy)
factor: chain factor s of log_s is missing
@ g_s = ((kxx * sq_xx).sum() + (kxy * sq_xy).sum()) / s**2
    """,
    ),
    *wrong_rules(
        moe,
        right_moe_grads,
        draw_moe,
        """
moe_grads_4
- dwe = jnp.einsum("bd,beo->edo", x, dpre)
+ dwe = jnp.einsum("bd,beo->edo", x, dout)
- dx = dlog @ wg.T + jnp.einsum("beo,edo->bd", dpre, we)
+ dx = dlog @ wg.T - jnp.einsum("beo,edo->bd", dpre, we)
operand: dout in place of dpre
@ dwe = jnp.einsum("bd,beo->edo", x, dout)
sign: experts subtracted
@ dx = dlog @ wg.T - jnp.einsum("beo,edo->bd", dpre, we)
    """,
    ),
    *wrong_rules(
        bag_of_words,
        right_bag_backward,
        draw_bag,
        """
bag_backward_4
- de = jnp.broadcast_to(dmean[:, None, :], (2, 4, 4)) / count[..., None]
-     de = de * PAD[..., None]
+ de = jnp.broadcast_to(dmean[:, None, :], (2, 4, 4)) / count[..., None]
- dw = mean.T @ delta
+ dw = mean.T @ ct
mask: padding mask is missing
@ dtable = jnp.zeros_like(table).at[TOKENS].add(de)
operand: ct in place of delta
@ dw = mean.T @ ct
    """,
    ),
    *wrong_rules(
        focal,
        right_focal_grad,
        draw_focal,
        """
focal_grad_4
- dpt = gamma * q ** (gamma - 1) * jnp.log(pt) - q**gamma / pt
+ dpt = gamma * q**gamma * jnp.log(pt) - q**gamma / pt
- dgamma = -ct * (q**gamma * jnp.log(q) * jnp.log(pt)).sum()
+ dgamma = -ct * (q**gamma * jnp.log(q) * jnp.log(pt)).mean()
constant: exponent gamma - 1
@ dpt = gamma * q**gamma * jnp.log(pt) - q**gamma / pt
reduction: mean in place of sum
@ dgamma = -ct * (q**gamma * jnp.log(q) * jnp.log(pt)).mean()
    """,
    ),
    *wrong_rules(
        soft_dice,
        right_dice_rule,
        draw_soft_dice,
        """
dice_rule_4
- d_union = 2 * g * inter / union**2
+ d_union = -2 * g * inter / union**2
- d_w = (d_inter * p * TARGET + d_union * (p**2 + TARGET)).sum(0)
+ d_w = (d_inter * p * TARGET + d_union * (p + TARGET)).sum(0)
sign: sign of the quotient rule
@ d_union = -2 * g * inter / union**2
operand: p in place of p**2
@ d_w = (d_inter * p * TARGET + d_union * (p + TARGET)).sum(0)
    """,
    ),
    *wrong_rules(
        triplet,
        right_triplet_bwd,
        draw_triplet,
        """
triplet_bwd_4
- active = (dist_p - dist_n + margin > 0).astype(a.dtype)
+ active = (dist_p - dist_n + margin < 0).astype(a.dtype)
- return coef * (up - un), -coef * up, coef * un, coef.sum()
+ return coef * (up - un), -coef * up, -coef * un, coef.sum()
mask: hinge's mask the wrong way
@ active = (dist_p - dist_n + margin < 0).astype(a.dtype)
sign: sign of the negative
@ return coef * (up - un), -coef * up, -coef * un, coef.sum()
    """,
    ),
    *wrong_rules(
        pinball,
        right_quantile_reg_grad,
        draw_pinball,
        """
quantile_reg_grad_4
- gr = jnp.where(r > 0, tau, tau - 1) * ct
+ gr = jnp.where(r > 0, tau - 1, tau) * ct
- gb = -gr.sum()
+ gb = -gr.mean()
mask: the two sides swapped
@ gr = jnp.where(r > 0, tau - 1, tau) * ct
reduction: mean in place of sum
@ gb = -gr.mean()
    """,
    ),
    *wrong_rules(
        huber_track,
        right_huber_track_adjoint,
        draw_huber_track,
        """
huber_track_adjoint_4
- gz.insert(0, ge)
+ gz.append(ge)
- gv = 0.9 * gv + 0.5 * gx
+ gv = 0.9 * gv + 0.5 * ge
index: order of the steps is reversed
@ gz.append(ge)
operand: ge in place of the accumulated gx
@ gv = 0.9 * gv + 0.5 * ge
    """,
    ),
]
