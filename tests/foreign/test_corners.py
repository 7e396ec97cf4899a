"""Architectures in which a rule of `roles` might err, as their authors write them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.foreign.cases import KEY, check_or_warned, convolved, entering_models, form, ints

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them

X, IDS = form(5, 6), ints(5)

MODELS = []
model = entering_models(MODELS)


@model(form(3), log_var=((3,), "scale"))
def uncertainty_weights(p, losses):
    return jnp.sum(jnp.exp(-p["log_var"]) * losses + p["log_var"])


@model(
    X,
    a1=((6, 2), "weight"),
    b1=((2, 4), "weight"),
    a2=((6, 2), "weight"),
    b2=((2, 4), "weight"),
    l=((2, 2), "weight"),
    r=((3, 2), "weight"),
)
def loha_and_lokr(p, x):
    base = jnp.ones((6, 4), jnp.float32)
    return x @ (base + (p["a1"] @ p["b1"]) * (p["a2"] @ p["b2"]) + jnp.kron(p["l"], p["r"]))


@model(X, q=((6, 8), "weight"), k=((6, 8), "weight"), r=((6, 8), "weight"), u=((2, 4), "bias"), v=((2, 4), "bias"))
def transformer_xl(p, x):
    h = lambda z: z.reshape(-1, 2, 4)
    q, k = h(x @ p["q"]), h(x @ p["k"])
    pos = jnp.arange(5.0)[:, None] * jnp.ones((1, 6), jnp.float32)
    r = h(jnp.sin(pos.astype(jnp.float32)) @ p["r"])
    ac = jnp.einsum("qhd,khd->hqk", q + p["u"], k)
    bd = jnp.einsum("qhd,khd->hqk", q + p["v"], r)
    return jax.nn.softmax(ac + bd)


@model(
    X,
    router=((6, 3), "weight"),
    up=((3, 6, 8), "weight"),
    upb=((3, 8), "bias"),
    down=((3, 8, 6), "weight"),
    downb=((3, 6), "bias"),
)
def capacity_moe(p, x):
    g = jax.nn.softmax(x @ p["router"])
    i = jnp.argmax(g, -1)
    hot = jax.nn.one_hot(i, 3, dtype=jnp.float32)
    place = (jnp.cumsum(hot, 0) * hot).sum(-1).astype(jnp.int32) - 1
    d = hot[..., None] * jax.nn.one_hot(place, 4, dtype=jnp.float32)[:, None]
    xe = jnp.einsum("nec,nd->ecd", d, x)
    h = jax.nn.relu(jnp.einsum("ecd,edf->ecf", xe, p["up"]) + p["upb"][:, None])
    y = jnp.einsum("ecf,efd->ecd", h, p["down"]) + p["downb"][:, None]
    return jnp.einsum("nec,ecd->nd", d * g[..., None] * hot[..., None], y)


@model(X, q=((6, 4), "weight"), k=((6, 4), "weight"), rel=((9, 4), "weight"))
def shaw_keys(p, x):
    q, k = x @ p["q"], x @ p["k"]
    r = p["rel"][np.arange(5)[:, None] - np.arange(5)[None] + 4]
    return jax.nn.softmax(q @ k.T + jnp.einsum("qd,qkd->qk", q, r))


@model(form(6), IDS, z=((3, 5), "other"), a=((5, 24), "weight"), ab=((24,), "bias"), bias=((3, 4), "bias"))
def hypernetwork(p, x, _):
    k = (p["z"] @ p["a"] + p["ab"]).reshape(3, 6, 4)
    return sum(x @ k[i] + p["bias"][i] for i in range(3))


@model(
    X,
    prefix=((3, 6), "other"),
    w1=((6, 8), "weight"),
    b1=((8,), "bias"),
    w2=((8, 4), "weight"),
    b2=((4,), "bias"),
    q=((6, 4), "weight"),
    k=((6, 4), "weight"),
)
def prefix_tuning(p, x):
    pre = jnp.tanh(p["prefix"] @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    k = jnp.concatenate([pre, x @ p["k"]])
    return jax.nn.softmax((x @ p["q"]) @ k.T)


@model(X, b=((4,), "bias"), w=((6, 4), "weight"), c=((4,), "bias"))
def adds_in_place(p, x):
    y = x @ p["w"]
    return y.at[:, :].add(p["b"]).at[0].add(p["c"])


@model(X, a=((6, 6), "weight"), b=((6,), "bias"))
def orthogonal_by_expm(p, x):
    return x @ jax.scipy.linalg.expm(p["a"] - p["a"].T) + p["b"]


@model(X, theta=((8,), "other"), w=((6, 8), "weight"), b=((8,), "bias"), d=((8, 6), "weight"), db=((6,), "bias"))
def jump_relu_autoencoder(p, x):
    z = (x - p["db"]) @ p["w"] + p["b"]
    return (z * (z > p["theta"])) @ p["d"] + p["db"]


@model(X, row=((5, 3), "bias"), col=((2, 3), "bias"), w=((3, 4), "weight"))
def factorised_positions(p, x):
    return (x.reshape(5, 2, 3) + p["row"][:, None] + p["col"]) @ p["w"]


@model(X, u=((6, 3), "weight"), s=((3,), "scale"), v=((4, 3), "weight"), b=((4,), "bias"))
def svd_layer(p, x):
    return x @ jnp.einsum("ir,r,or->io", p["u"], p["s"], p["v"]) + p["b"]


@model(X, a=((6, 3), "weight"), s=((3,), "scale"), c=((4, 3), "weight"))
def svd_layer_applied_in_steps(p, x):
    return jnp.einsum("ni,ir,r,or->no", x, p["a"], p["s"], p["c"])


@model(X, w=((6, 4), "weight"), b=((4,), "bias"), w2=((4, 6), "weight"), b2=((6,), "bias"), skip=((6, 6), "weight"))
def masked_autoregressive(p, x):
    d1 = np.arange(6)[:, None] <= np.arange(4)[None]
    d2 = np.arange(4)[:, None] < np.arange(6)[None]
    h = jax.nn.relu(x @ (p["w"] * d1) + p["b"])
    return h @ (p["w2"] * d2) + p["b2"] + x @ (p["skip"] * np.tril(np.ones((6, 6), np.float32), -1))


@model(ints(2, 9), kernel=((3, 11, 4), "weight"), b=((4,), "bias"))
def characters_by_convolution(p, ids):
    x = jax.nn.one_hot(ids, 11, dtype=jnp.float32)
    return lax.conv_general_dilated(x, p["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")) + p["b"]


@model(X, wx=((6, 4), "weight"), wh=((4, 4), "weight"), b=((4,), "bias"), t0=((4,), "scale"), d=((4,), "bias"))
def liquid_time_constants(p, xs):
    def step(h, x):
        f = jax.nn.sigmoid(x @ p["wx"] + h @ p["wh"] + p["b"])
        return h + 0.1 * (-h / jax.nn.softplus(p["t0"]) - f * (h - p["d"])), None

    return lax.scan(step, jnp.zeros(4, jnp.float32), xs)[0]


@model(X, low=((4, 6), "weight"), high=((4, 6), "weight"), lb=((4,), "bias"), w=((4, 4), "weight"))
def ensembles_in_a_map(p, x):
    return (
        lax.map(
            lambda a: jnp.tanh(x @ a[0].T + a[1]) @ a[2],
            (
                p["low"][:, None] * jnp.ones((4, 4, 6), jnp.float32),
                p["lb"][:, None] * jnp.ones((4, 4), jnp.float32),
                p["w"][:, :, None] * jnp.ones((4, 4, 4), jnp.float32),
            ),
        ).sum()
        + (x @ p["high"].T).sum()
    )


@model(X, IDS, table=((9, 6), "embedding"), gain=((6,), "scale"), w=((6, 3), "weight"))
def normed_embeddings_gated(p, x, ids):
    e = p["table"][ids]
    e = e * lax.rsqrt(jnp.mean(e**2, -1, keepdims=True)) * p["gain"]
    return (e * jax.nn.sigmoid(x.sum(-1, keepdims=True))) @ p["w"]


@model(
    form(2, 7, 7, 3), k=((3, 3, 3, 4), "weight"), b=((4,), "bias"), off=((3, 3, 3, 18), "weight"), offb=((18,), "bias")
)
def dynamic_offsets(p, x):
    o = convolved(x, p["off"]) + p["offb"]
    return convolved(x + o.mean(-1, keepdims=True), p["k"]) + p["b"]


@model(
    X,
    w=((6, 12), "weight"),
    b=((12,), "bias"),
    c0=((4,), "other"),
    h0=((4,), "other"),
    u=((4, 16), "weight"),
    wi=((6, 16), "weight"),
)
def learned_start_of_a_memory(p, xs):
    def step(s, x):
        h, c = s
        i, f, g, o = jnp.split(x @ p["wi"] + h @ p["u"], 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (p["h0"], p["c0"]), xs)[1], xs @ p["w"] + p["b"]


@model(X, form(5, 3), wq=((6, 4), "weight"), wk=((6, 4), "weight"), slope=((2,), "scale"))
def attention_that_decays_with_time(p, x, t):
    d = jnp.abs(t[:, None, 0] - t[None, :, 0])
    s = (x @ p["wq"]) @ (x @ p["wk"]).T
    return jax.nn.softmax(s[None] - jax.nn.softplus(p["slope"])[:, None, None] * d)


@model(X, router=((6, 4), "weight"), rb=((4,), "bias"), w=((4, 6, 5), "weight"), b=((4, 5), "bias"))
def routing_with_a_bias_that_only_chooses(p, x):
    s = jax.nn.sigmoid(x @ p["router"])
    _, i = lax.top_k(s + p["rb"], 2)
    g = jnp.take_along_axis(s, i, -1)
    g = g / g.sum(-1, keepdims=True)
    y = jnp.einsum("nd,nkdf->nkf", x, p["w"][i]) + p["b"][i]
    return (y * g[..., None]).sum(1)


@model(
    X,
    KEY,
    enc=((6, 8), "weight"),
    eb=((8,), "bias"),
    mu=((8, 2), "weight"),
    mb=((2,), "bias"),
    ls=((8, 2), "weight"),
    lb=((2,), "bias"),
    pseudo=((3, 6), "other"),
    dec=((2, 6), "weight"),
    db=((6,), "bias"),
)
def vamp_prior(p, x, key):
    def q(v):
        h = jnp.tanh(v @ p["enc"] + p["eb"])
        return h @ p["mu"] + p["mb"], h @ p["ls"] + p["lb"]

    m, s = q(x)
    z = m + jnp.exp(s) * jax.random.normal(key, m.shape)
    pm, ps = q(p["pseudo"])
    prior = jax.nn.logsumexp((-0.5 * ((z[:, None] - pm) / jnp.exp(ps)) ** 2 - ps).sum(-1), -1)
    return ((z @ p["dec"] + p["db"] - x) ** 2).sum(-1) - prior - s.sum(-1)


@model(form(2, 8, 8, 6), gamma=((1, 1, 1, 6), "scale"), beta=((1, 1, 1, 6), "bias"), w=((6, 4), "weight"))
def global_response_norm(p, x):
    g = jnp.sqrt((x**2).sum((1, 2), keepdims=True))
    n = g / (g.mean(-1, keepdims=True) + 1e-6)
    return (p["gamma"] * (x * n) + p["beta"] + x) @ p["w"]


@model(X, w=((3, 6), "weight"), b=((3, 6), "bias"), head=((6,), "weight"), hb=((), "bias"))
def cross_network(p, x):
    h = x
    for i in range(3):
        h = x * (h @ p["w"][i])[:, None] + p["b"][i] + h
    return h @ p["head"] + p["hb"]


@model(X, w=((6, 4), "weight"), u=((4,), "scale"), b=((4,), "bias"), out=((4, 2), "weight"))
def independent_recurrence(p, xs):
    return (
        lax.scan(lambda h, x: (jax.nn.relu(x @ p["w"] + p["u"] * h + p["b"]), None), jnp.zeros(4, jnp.float32), xs)[0]
        @ p["out"]
    )


@model(X, w=((6, 12), "weight"), vf=((4,), "scale"), vr=((4,), "scale"), bf=((4,), "bias"), br=((4,), "bias"))
def simple_recurrent_unit(p, xs):
    def step(c, x):
        a, f, r = jnp.split(x @ p["w"], 3)
        f = jax.nn.sigmoid(f + p["vf"] * c + p["bf"])
        r = jax.nn.sigmoid(r + p["vr"] * c + p["br"])
        c = f * c + (1 - f) * a
        return c, r * jnp.tanh(c) + (1 - r) * x[:4]

    return lax.scan(step, jnp.zeros(4, jnp.float32), xs)[1]


@model(
    IDS,
    IDS,
    form(5),
    wi=((9, 4), "embedding"),
    wj=((9, 4), "embedding"),
    bi=((9,), "embedding"),
    bj=((9,), "embedding"),
)
def glove(p, i, j, logx):
    return jnp.mean(((p["wi"][i] * p["wj"][j]).sum(-1) + p["bi"][i] + p["bj"][j] - logx) ** 2)


@model(
    X,
    form(5, 3),
    q=((6, 4), "weight"),
    k=((6, 4), "weight"),
    pq=((6, 2, 3), "weight"),
    pk=((6, 2, 3), "weight"),
    gamma=((), "scale"),
    pair=((3,), "weight"),
)
def invariant_point_attention(p, x, t):
    q, k = x @ p["q"], x @ p["k"]
    a = jnp.einsum("nd,dpc->npc", x, p["pq"]) + t[:, None]
    b = jnp.einsum("nd,dpc->npc", x, p["pk"]) + t[:, None]
    d = ((a[:, None] - b[None]) ** 2).sum((-1, -2))
    return jax.nn.softmax(q @ k.T - 0.5 * jax.nn.softplus(p["gamma"]) * d + (t[:, None] - t[None]) @ p["pair"])


@model(
    X,
    form(5, 2),
    w=((6, 2), "weight"),
    b=((2,), "bias"),
    log_std=((2,), "scale"),
    v=((6, 1), "weight"),
    vb=((1,), "bias"),
)
def actor_critic(p, x, a):
    m = x @ p["w"] + p["b"]
    logp = -0.5 * ((a - m) / jnp.exp(p["log_std"])) ** 2 - p["log_std"] - 0.92
    ent = (p["log_std"] + 1.42).sum()
    return logp.sum(-1) * (x @ p["v"] + p["vb"])[:, 0], ent


@model(X, f=((6, 3), "weight"), t=((3,), "bias"), lt=((3,), "scale"), response=((8, 2), "weight"))
def oblivious_tree(p, x):
    s = jax.nn.sigmoid((x @ jax.nn.softmax(p["f"], 0) - p["t"]) * jnp.exp(-p["lt"]))
    bits = jnp.asarray((np.arange(8)[:, None] >> np.arange(3)) & 1, jnp.float32)
    prob = jnp.prod(jnp.where(bits[None] > 0, s[:, None], 1 - s[:, None]), -1)
    return prob @ p["response"]


@model(
    form(7, 2),
    w1=((2, 8), "weight"),
    b1=((8,), "bias"),
    w2=((8, 1), "weight"),
    b2=((1,), "bias"),
    l1=((), "scale"),
    nu=((), "scale"),
)
def inverse_problem(p, xt):
    u = lambda z: (jnp.tanh(z @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])[0]

    def res(z):
        g = jax.grad(u)(z)
        h = jax.hessian(u)(z)
        return g[1] + p["l1"] * u(z) * g[0] - jnp.exp(p["nu"]) * h[0, 0]

    return jnp.mean(jax.vmap(res)(xt) ** 2)


@model(
    form(16, 3),
    nu=((4,), "scale"),
    theta=((4,), "scale"),
    gamma=((4,), "scale"),
    bre=((4, 3), "weight"),
    bim=((4, 3), "weight"),
    cre=((3, 4), "weight"),
    cim=((3, 4), "weight"),
    d=((3,), "scale"),
)
def linear_recurrent_unit(p, u):
    lam = jnp.exp(-jnp.exp(p["nu"]) + 1j * jnp.exp(p["theta"]))
    bn = (p["bre"] + 1j * p["bim"]) * jnp.exp(p["gamma"])[:, None]
    bu = u.astype(jnp.complex64) @ bn.T

    def op(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    _, h = lax.associative_scan(op, (jnp.broadcast_to(lam, (16, 4)), bu))
    return (h @ (p["cre"] + 1j * p["cim"]).T).real + p["d"] * u


@model(
    form(16, 3),
    lre=((4,), "scale"),
    lim=((4,), "scale"),
    ld=((4,), "scale"),
    b=((4, 3, 2), "weight"),
    c=((3, 4, 2), "weight"),
    d=((3,), "scale"),
)
def s5(p, u):
    lam = lax.complex(-jax.nn.softplus(p["lre"]), p["lim"])
    dt = jnp.exp(p["ld"])
    bar = jnp.exp(lam * dt)
    b = lax.complex(p["b"][..., 0], p["b"][..., 1])
    c = lax.complex(p["c"][..., 0], p["c"][..., 1])
    bb = ((bar - 1) / lam)[:, None] * b
    bu = u.astype(jnp.complex64) @ bb.T

    def op(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    _, h = lax.associative_scan(op, (jnp.broadcast_to(bar, (16, 4)), bu))
    return 2 * (h @ c.T).real + p["d"] * u


@model(X, e=((3, 5), "weight"), f=((3, 5), "weight"), q=((6, 4), "weight"), k=((6, 4), "weight"), v=((6, 4), "weight"))
def linformer(p, x):
    k, v = p["e"] @ (x @ p["k"]), p["f"] @ (x @ p["v"])
    return jax.nn.softmax(x @ p["q"] @ k.T) @ v


@model(form(5), freq=((4,), "scale"), phase=((4,), "bias"), w0=((), "scale"), b0=((), "bias"), head=((5, 3), "weight"))
def time_to_vector(p, t):
    v = jnp.concatenate([(t * p["w0"] + p["b0"])[:, None], jnp.sin(t[:, None] * p["freq"] + p["phase"])], -1)
    return v @ p["head"]


@model(
    X,
    w1=((6, 8), "weight"),
    b1=((8,), "bias"),
    mix=((8, 3), "weight"),
    mixb=((3,), "bias"),
    mu=((8, 3), "weight"),
    mub=((3,), "bias"),
    ls=((3,), "scale"),
)
def mixture_density(p, x):
    h = jnp.tanh(x[:, :] @ p["w1"] + p["b1"])
    lp = jax.nn.log_softmax(h @ p["mix"] + p["mixb"])
    mu = h @ p["mu"] + p["mub"]
    return jax.nn.logsumexp(lp - 0.5 * ((x[:, :1] - mu) / jnp.exp(p["ls"])) ** 2 - p["ls"], -1)


@model(X, mu=((3,), "bias"), ls=((3,), "scale"), logits=((3,), "bias"))
def scalar_mixture(p, x):
    v = x[:, :1]
    return jax.nn.logsumexp(
        jax.nn.log_softmax(p["logits"]) - 0.5 * ((v - p["mu"]) * jnp.exp(-p["ls"])) ** 2 - p["ls"], -1
    )


@model(
    form(2, 5, 6),
    g=((2, 4), "scale"),
    wq=((6, 2, 4), "weight"),
    wk=((6, 2, 4), "weight"),
    bq=((2, 4), "bias"),
    gk=((4,), "scale"),
    sink=((2,), "other"),
    v=((6, 2, 4), "weight"),
    o=((2, 4, 6), "weight"),
    ob=((6,), "bias"),
)
def attention_with_norms_and_a_sink(p, x):
    q = jnp.einsum("btd,dhe->bthe", x, p["wq"]) + p["bq"]
    k = jnp.einsum("btd,dhe->bthe", x, p["wk"])
    n = lambda z: z * lax.rsqrt((z**2).mean(-1, keepdims=True) + 1e-6)
    s = jnp.einsum("bqhe,bkhe->bhqk", n(q) * p["g"], n(k) * p["gk"])
    sink = jnp.broadcast_to(p["sink"][None, :, None, None], (2, 2, 5, 1))
    a = jax.nn.softmax(jnp.concatenate([s, sink], -1))[..., :-1]
    return jnp.einsum("bhqk,bkhe,hed->bqd", a, jnp.einsum("btd,dhe->bthe", x, p["v"]), p["o"]) + p["ob"]


@model(form(2, 5, 6), q=((2, 6), "weight"), kq=((6, 3), "weight"))
def pooled_by_queries(p, x):
    a = jax.nn.softmax(jnp.einsum("hd,btd->bht", p["q"], x), -1)
    return jnp.einsum("bht,btd->bhd", a, x) @ p["kq"]


@model(X, w=((6, 4), "weight"), b=((4,), "bias"), mean=((4,), "bias"), log_scale=((4,), "scale"), c=((4, 2), "weight"))
def learned_whitening(p, x):
    h = x @ p["w"] + p["b"]
    return ((h - p["mean"]) * jnp.exp(p["log_scale"])) @ p["c"]


@model(X, form(7, 6), w=((6, 4), "weight"), temp=((), "scale"), offset=((), "bias"))
def sigmoid_contrast(p, x, y):
    n = lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True)
    return jax.nn.log_sigmoid(n(x @ p["w"]) @ n(y @ p["w"]).T * jnp.exp(p["temp"]) + p["offset"])


@model(X, w1=((6, 4), "weight"), alpha=((4,), "scale"), beta=((4,), "scale"), w2=((4, 3), "weight"))
def learned_activations(p, x):
    h = x @ p["w1"]
    h = h * jax.nn.sigmoid(p["beta"] * h)
    h = h + jnp.sin(p["alpha"] * h) ** 2 / p["alpha"]
    return h @ p["w2"]


@pytest.mark.parametrize(("fn", "params", "args", "expected"), MODELS)
def test_roles(fn, params, args, expected):
    check_or_warned(fn, params, args, expected)
