"""Rules with mistakes in the derivatives of densities."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules

EPSN = jnp.array([[0.3, -1.1, 0.7], [-0.5, 0.2, 1.4]])


def vae_fwd(mu, logvar, W):
    std = jnp.exp(0.5 * logvar)
    z = mu + std * EPSN
    kl = -0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar), axis=1)
    return jnp.sum(jnp.tanh(z @ W), 1) + 0.3 * kl


def vae_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (2, 3)), jax.random.normal(b, (2, 3)), jax.random.normal(c, (3, 4)) * 0.5


def right_vae(args, ct):
    mu, logvar, W = args
    std = jnp.exp(0.5 * logvar)
    z = mu + std * EPSN
    t = jnp.tanh(z @ W)
    da = ct[:, None] * (1 - t**2)
    dW = z.T @ da
    dz = da @ W.T
    dkl = 0.3 * ct[:, None]
    dmu = dz + dkl * mu
    dlogvar = dz * EPSN * std * 0.5
    dlogvar += dkl * 0.5 * (jnp.exp(logvar) - 1)
    return dmu, dlogvar, dW


def mixture_fwd(x, logits, mu, log_s):
    lp = jax.nn.log_softmax(logits)
    e = (x[:, None] - mu) / jnp.exp(log_s)
    return jax.nn.logsumexp(lp - 0.5 * e**2 - log_s, axis=1)


def mixture_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (6,)),
        jax.random.normal(b, (3,)),
        jax.random.normal(c, (3,)),
        jax.random.normal(d, (3,)) * 0.3,
    )


def right_mixture(args, ct):
    x, logits, mu, log_s = args
    sig = jnp.exp(log_s)
    u = (x[:, None] - mu) / sig
    joint = jax.nn.log_softmax(logits) - 0.5 * u**2 - log_s
    resp = jax.nn.softmax(joint, axis=1)
    g = ct[:, None] * resp
    g_logits = g.sum(0) - jax.nn.softmax(logits) * g.sum()
    g_mu = jnp.sum(g * u / sig, axis=0)
    g_s = jnp.sum(g * (u**2 - 1), axis=0)
    g_x = -jnp.sum(g * u / sig, axis=1)
    return g_x, g_logits, g_mu, g_s


def klcat_fwd(a, b):
    p = jax.nn.softmax(a / 2.0)
    return jnp.sum(p * (jax.nn.log_softmax(a / 2.0) - jax.nn.log_softmax(b / 2.0)), -1)


def klcat_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (3, 5)), jax.random.normal(b, (3, 5))


def right_klcat(args, ct):
    a, b = args
    T = 2.0
    logp, logq = jax.nn.log_softmax(a / T), jax.nn.log_softmax(b / T)
    p, q = jnp.exp(logp), jnp.exp(logq)
    diff = logp - logq
    kl = (p * diff).sum(-1, keepdims=True)
    d_a = p * (diff - kl) / T
    d_b = (q - p) / T
    return ct[:, None] * d_a, ct[:, None] * d_b


def infonce_fwd(u, v):
    un = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    vn = v / jnp.linalg.norm(v, axis=1, keepdims=True)
    s = un @ vn.T / 0.5
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(s, axis=1)))


def infonce_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 3)), jax.random.normal(b, (4, 3))


def right_infonce(args, ct):
    u, v = args
    B = u.shape[0]
    nu = jnp.linalg.norm(u, axis=1, keepdims=True)
    nv = jnp.linalg.norm(v, axis=1, keepdims=True)
    un, vn = u / nu, v / nv
    P = jax.nn.softmax(un @ vn.T / 0.5, axis=1)
    ds = (P - jnp.eye(B)) * ct / B
    dun = ds @ vn / 0.5
    dvn = ds.T @ un / 0.5
    du = (dun - un * jnp.sum(dun * un, axis=1, keepdims=True)) / nu
    dv = (dvn - vn * jnp.sum(dvn * vn, axis=1, keepdims=True)) / nv
    return du, dv


def rbf_fwd(X, Y, ls, alpha):
    d2 = jnp.sum((X[:, None] - Y[None]) ** 2, -1)
    return jnp.exp(-d2 / (2 * ls**2)) @ alpha


def rbf_draw(key):
    a, b, c, d = jax.random.split(key, 4)
    return (
        jax.random.normal(a, (4, 2)),
        jax.random.normal(b, (5, 2)),
        0.8 + jax.random.uniform(c, ()),
        jax.random.normal(d, (5,)),
    )


def right_rbf(args, ct):
    X, Y, ls, alpha = args
    diff = X[:, None, :] - Y[None, :, :]
    d2 = (diff**2).sum(-1)
    K = jnp.exp(-0.5 * d2 / ls**2)
    d_alpha = K.T @ ct
    dK = jnp.outer(ct, alpha)
    w = dK * K
    d_ls = jnp.sum(w * d2) / ls**3
    d_diff = -w[..., None] * diff / ls**2
    d_X = d_diff.sum(axis=1)
    d_Y = -d_diff.sum(axis=0)
    return d_X, d_Y, d_ls, d_alpha


def triplet_fwd(a, p, n):
    dp = jnp.sqrt(jnp.sum((a - p) ** 2, -1) + 1e-6)
    dn = jnp.sqrt(jnp.sum((a - n) ** 2, -1) + 1e-6)
    return jnp.sum(jax.nn.relu(dp - dn + 1.0))


def triplet_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (6, 3)), jax.random.normal(b, (6, 3)), jax.random.normal(c, (6, 3))


def right_triplet(args, ct):
    a, p, n = args

    def one(ai, pi, ni):
        ep, en = ai - pi, ai - ni
        dp = jnp.sqrt(ep @ ep + 1e-6)
        dn = jnp.sqrt(en @ en + 1e-6)
        on = (dp - dn + 1.0 > 0).astype(ai.dtype)
        gp = on * ep / dp
        gn = on * en / dn
        return gp - gn, -gp, gn

    ga, gp, gn = jax.vmap(one)(a, p, n)
    return ct * ga, ct * gp, ct * gn


def poisson_fwd(w, X, offset):
    eta = X @ w + offset
    y = jnp.array([1.0, 0.0, 3.0, 2.0])
    return jnp.sum(jnp.exp(eta) - y * eta)


def poisson_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (3,)) * 0.5, jax.random.normal(b, (4, 3)), jax.random.normal(c, ()) * 0.5


def right_poisson(args, ct):
    w, X, offset = args
    y = jnp.array([1.0, 0.0, 3.0, 2.0])
    rate = jnp.exp(X @ w + offset)
    delta = ct * (rate - y)
    return X.T @ delta, delta[:, None] * w, delta.sum()


def student_fwd(x, loc, raw):
    s = jax.nn.softplus(raw)
    z = (x - loc) / s
    return -2.5 * jnp.log1p(z**2 / 4.0) - jnp.log(s)


def student_draw(key):
    a, b, c = jax.random.split(key, 3)
    return jax.random.normal(a, (5, 3)), jax.random.normal(b, (3,)), jax.random.normal(c, ())


def right_student(args, ct):
    x, loc, raw = args
    s = jnp.logaddexp(raw, 0.0)
    z = (x - loc) / s
    dz = ct * -5.0 * z / (4.0 + z**2)
    dx = dz / s
    dloc = -dx.sum(0)
    ds = jnp.sum(-dz * z / s)
    ds = ds - jnp.sum(ct) / s
    draw = ds * jax.nn.sigmoid(raw)
    return dx, dloc, draw


def ppo_fwd(logits, adv):
    old = jnp.array([-1.0, -1.2, -0.9, -1.6])
    act = jnp.array([0, 2, 1, 1])
    lp = jax.nn.log_softmax(logits)[jnp.arange(4), act]
    ent = -jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), -1)
    return -jnp.mean(jnp.exp(lp - old) * adv + 0.4 * ent)


def ppo_draw(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (4, 3)), jax.random.normal(b, (4,))


def right_ppo(args, ct):
    logits, adv = args
    old = jnp.array([-1.0, -1.2, -0.9, -1.6])
    act = jnp.array([0, 2, 1, 1])
    logp = jax.nn.log_softmax(logits)
    pi = jnp.exp(logp)
    ratio = jnp.exp(logp[jnp.arange(4), act] - old)
    d_ratio = -ct * adv / 4
    d_adv = -ct * ratio / 4
    d_lp = d_ratio * ratio
    d_logits = d_lp[:, None] * (jax.nn.one_hot(act, 3) - pi)
    H = -(pi * logp).sum(-1, keepdims=True)
    d_ent = -pi * (logp + H)
    d_logits = d_logits - ct * 0.4 / 4 * d_ent
    return d_logits, d_adv


SINGLE = [
    *wrong_rules(
        vae_fwd,
        right_vae,
        vae_draw,
        """
vae_a
- dlogvar = dz * EPSN * std * 0.5
+ dlogvar = dz * EPSN * std
constant: 0.5 of exp(0.5 logvar) missing
    """,
    ),
    *wrong_rules(
        mixture_fwd,
        right_mixture,
        mixture_draw,
        """
mixture_a
- g_logits = g.sum(0) - jax.nn.softmax(logits) * g.sum()
+ g_logits = g.sum(0)
term: normaliser of the mixture weights left out
    """,
    ),
    *wrong_rules(
        klcat_fwd,
        right_klcat,
        klcat_draw,
        """
klcat_a
- d_a = p * (diff - kl) / T
+ d_a = p * diff / T
term: KL mean not subtracted
    """,
    ),
    *wrong_rules(
        infonce_fwd,
        right_infonce,
        infonce_draw,
        """
infonce_a
- dvn = ds.T @ un / 0.5
+ dvn = ds @ un / 0.5
transpose: ds not transposed
    """,
    ),
    *wrong_rules(
        rbf_fwd,
        right_rbf,
        rbf_draw,
        """
rbf_a
- d_Y = -d_diff.sum(axis=0)
+ d_Y = d_diff.sum(axis=0)
sign: sign of Y in the difference
    """,
    ),
    *wrong_rules(
        triplet_fwd,
        right_triplet,
        triplet_draw,
        """
triplet_a
- on = (dp - dn + 1.0 > 0).astype(ai.dtype)
+ on = (dp - dn > 0).astype(ai.dtype)
mask: margin missing in the hinge mask
    """,
    ),
    *wrong_rules(
        poisson_fwd,
        right_poisson,
        poisson_draw,
        """
poisson_a
- delta = ct * (rate - y)
+ delta = ct * (X @ w + offset - y)
operand: linear predictor in place of its exponential

poisson_b
- return X.T @ delta, delta[:, None] * w, delta.sum()
+ return X.T @ delta, delta[:, None] * w, delta.mean()
reduction: mean in place of the broadcast sum
    """,
    ),
    *wrong_rules(
        student_fwd,
        right_student,
        student_draw,
        """
student_a
- ds = jnp.sum(-dz * z / s)
-     ds = ds - jnp.sum(ct) / s
+ ds = jnp.sum(-dz * z / s)
term: derivative of -log s left out
@ draw = ds * jax.nn.sigmoid(raw)
    """,
    ),
    *wrong_rules(
        ppo_fwd,
        right_ppo,
        ppo_draw,
        """
ppo_a
- d_lp = d_ratio * ratio
+ d_lp = d_ratio
factor: ratio missing in the chain through exp
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        vae_fwd,
        right_vae,
        vae_draw,
        """
vae_b
- dz = da @ W.T
+ dz = ct[:, None] * t @ W.T
- dmu = dz + dkl * mu
+ dmu = dz
- dlogvar += dkl * 0.5 * (jnp.exp(logvar) - 1)
+ dlogvar += dkl * 0.5 * (1 - jnp.exp(logvar))
term: KL term of the mean missing
@ dmu = dz
sign: sign of the KL term
@ dlogvar += dkl * 0.5 * (1 - jnp.exp(logvar))
operand: output in place of the delta
@ dz = ct[:, None] * t @ W.T
    """,
    ),
    *wrong_rules(
        mixture_fwd,
        right_mixture,
        mixture_draw,
        """
mixture_b
- resp = jax.nn.softmax(joint, axis=1)
+ resp = jax.nn.softmax(joint, axis=0)
- g_s = jnp.sum(g * (u**2 - 1), axis=0)
+ g_s = jnp.sum(g * u**2, axis=0)
term: -1 from the log scale missing
@ g_s = jnp.sum(g * u**2, axis=0)
axis: responsibilities normalised over the data
@ resp = jax.nn.softmax(joint, axis=0)
    """,
    ),
    *wrong_rules(
        klcat_fwd,
        right_klcat,
        klcat_draw,
        """
klcat_b
- d_a = p * (diff - kl) / T
+ d_a = p * (diff - kl)
- d_b = (q - p) / T
+ d_b = (p - q) / T
sign: sign of the gradient of q
@ d_b = (p - q) / T
factor: 1/T missing
@ d_a = p * (diff - kl)
    """,
    ),
    *wrong_rules(
        infonce_fwd,
        right_infonce,
        infonce_draw,
        """
infonce_b
- ds = (P - jnp.eye(B)) * ct / B
+ ds = (P - jnp.eye(B)) * ct
- du = (dun - un * jnp.sum(dun * un, axis=1, keepdims=True)) / nu
+ du = dun / nu
detached: norm taken for constant
@ du = dun / nu
reduction: 1/B of the mean missing
@ ds = (P - jnp.eye(B)) * ct
    """,
    ),
    *wrong_rules(
        rbf_fwd,
        right_rbf,
        rbf_draw,
        """
rbf_b
- w = dK * K
+ w = dK
- d_ls = jnp.sum(w * d2) / ls**3
+ d_ls = jnp.sum(w * d2) / ls**2
- d_X = d_diff.sum(axis=1)
+ d_X = d_diff.mean(axis=1)
constant: wrong power of the length scale
@ d_ls = jnp.sum(w * d2) / ls**2
reduction: mean over the centres in place of the sum
@ d_X = d_diff.mean(axis=1)
factor: K missing from the derivative of the exponential
@ w = dK
    """,
    ),
    *wrong_rules(
        triplet_fwd,
        right_triplet,
        triplet_draw,
        """
triplet_b
- gn = on * en / dn
+ gn = on * en / dp
- return gp - gn, -gp, gn
+ return gp + gn, -gp, gn
operand: distance of the positive in place of the negative
@ gn = on * en / dp
sign: sign of the negative pair
@ return gp + gn, -gp, gn
    """,
    ),
    *wrong_rules(
        student_fwd,
        right_student,
        student_draw,
        """
student_b
- dz = ct * -5.0 * z / (4.0 + z**2)
+ dz = ct * -5.0 * z / (1.0 + z**2)
- draw = ds * jax.nn.sigmoid(raw)
+ draw = ds * jax.nn.sigmoid(s)
constant: nu of 4 missing in the denominator
@ dz = ct * -5.0 * z / (1.0 + z**2)
activation: softplus slope at its output
@ draw = ds * jax.nn.sigmoid(s)
    """,
    ),
    *wrong_rules(
        ppo_fwd,
        right_ppo,
        ppo_draw,
        """
ppo_b
- d_adv = -ct * ratio / 4
+ d_adv = -ct * ratio
- d_ent = -pi * (logp + H)
+ d_ent = -pi * (logp + 1)
term: entropy slope without projecting on the simplex
@ d_ent = -pi * (logp + 1)
reduction: 1/n of the mean missing
@ d_adv = -ct * ratio
    """,
    ),
]
