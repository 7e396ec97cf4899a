"""Architectures of the literature, as their authors write them: what every leaf is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.foreign.cases import KEY, check_or_warned, convolved, entering_models, form, ints, normalised

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them

X, IDS = form(5, 6), ints(5)

MODELS = []
model = entering_models(MODELS)


@model(
    X, mu_r=((6,), "scale"), mu_k=((6,), "scale"), wr=((6, 6), "weight"), wk=((6, 8), "weight"), wv=((8, 6), "weight")
)
def channel_mixing(p, x):
    s = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    r = (x + (s - x) * p["mu_r"]) @ p["wr"]
    k = (x + (s - x) * p["mu_k"]) @ p["wk"]
    return jax.nn.sigmoid(r) * (jnp.square(jax.nn.relu(k)) @ p["wv"])


@model(
    X,
    w=((6, 10), "weight"),
    wb=((6, 8), "weight"),
    dtb=((2,), "bias"),
    alog=((2,), "scale"),
    d=((2,), "scale"),
    g=((10,), "scale"),
    out=((10, 6), "weight"),
    cw=((4, 10), "scale"),
    cb=((10,), "bias"),
)
def state_space_duality(p, x):
    u = x @ p["w"]
    pad = jnp.pad(u, ((3, 0), (0, 0)))
    u = jax.nn.silu(sum(pad[i : i + 5] * p["cw"][i] for i in range(4)) + p["cb"])
    bcdt = x @ p["wb"]
    b, c, dt = bcdt[:, :3], bcdt[:, 3:6], jax.nn.softplus(bcdt[:, 6:] + p["dtb"])
    a = -jnp.exp(p["alog"])
    v = u.reshape(5, 2, 5)
    cum = jnp.cumsum(dt * a, 0)
    seg = jnp.exp(cum[:, None] - cum[None]) * jnp.tril(jnp.ones((5, 5), jnp.float32))[..., None]
    y = jnp.einsum("ts,tsh,sh,shp->thp", c @ b.T, seg, dt, v) + p["d"][:, None] * v
    y = y.reshape(5, 10)
    return (y * lax.rsqrt((y**2).mean(-1, keepdims=True) + 1e-6) * p["g"]) @ p["out"]


@model(X, q=((6, 8), "weight"), k=((6, 8), "weight"), e=((9, 4), "weight"), v=((6, 8), "weight"))
def music_transformer(p, x):
    h = lambda z: (x @ p[z]).reshape(5, 2, 4)
    q, k, v = h("q"), h("k"), h("v")
    rel = jnp.einsum("thd,rd->htr", q, p["e"][4:9])
    rel = jnp.pad(rel, ((0, 0), (0, 0), (1, 0))).reshape(2, 6, 5)[:, 1:]
    return jnp.einsum("hqk,khd->qhd", jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k) + rel), v)


@model(
    X,
    induce=((3, 4), "other"),
    wq=((4, 4), "weight"),
    bq=((4,), "bias"),
    wk=((6, 4), "weight"),
    bk=((4,), "bias"),
    wv=((6, 4), "weight"),
    bv=((4,), "bias"),
    wo=((4, 4), "weight"),
    bo=((4,), "bias"),
)
def set_transformer(p, x):
    q = p["induce"] @ p["wq"] + p["bq"]
    k = x @ p["wk"] + p["bk"]
    v = x @ p["wv"] + p["bv"]
    h = q + jax.nn.softmax(q @ k.T) @ v
    return h + jax.nn.relu(h @ p["wo"] + p["bo"])


@model(
    form(2, 5, 6),
    lat=((3, 4), "other"),
    wq=((4, 4), "weight"),
    wk=((6, 4), "weight"),
    wv=((6, 4), "weight"),
    g=((4,), "scale"),
    gb=((4,), "bias"),
)
def perceiver_in_batches(p, x):
    z = jnp.broadcast_to(p["lat"], (2, 3, 4))
    q = (normalised(z) * p["g"] + p["gb"]) @ p["wq"]
    return z + jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, x @ p["wk"])) @ (x @ p["wv"])


@model(X, w=((3, 6, 5), "weight"), gate=((6, 3), "weight"), kern=((3, 3), "weight"))
def kernels_by_attention(p, x):
    a = jax.nn.softmax(x.mean(0) @ p["gate"])
    return x @ jnp.einsum("k,kio->io", a, p["w"]), jnp.einsum("k,kj->j", a, p["kern"])


@model(form(2, 8, 8, 6), red=((6, 3), "weight"), rb=((3,), "bias"), exp=((3, 18), "weight"), eb=((18,), "bias"))
def involution(p, x):
    k = (jax.nn.relu(x @ p["red"] + p["rb"]) @ p["exp"] + p["eb"]).reshape(2, 8, 8, 9, 2)
    return k.sum() * x


@model(
    form(2, 8, 8, 6),
    form(2, 8, 8, 6),
    form(2, 8, 8, 6),
    w=((3,), "scale"),
    k=((3, 3, 6, 6), "weight"),
    b=((6,), "bias"),
)
def weighted_fusion(p, a, b, c):
    w = jax.nn.relu(p["w"])
    w = w / (w.sum() + 1e-4)
    return convolved(w[0] * a + w[1] * b + w[2] * c, p["k"]) + p["b"]


@model(X, form(5, 6), alpha=((2, 2), "scale"), w1=((6, 4), "weight"), w2=((6, 4), "weight"))
def cross_stitch(p, a, b):
    a, b = a @ p["w1"], b @ p["w2"]
    return p["alpha"][0, 0] * a + p["alpha"][0, 1] * b, p["alpha"][1, 0] * a + p["alpha"][1, 1] * b


@model(X, proto=((4, 7), "weight"), g=((7,), "scale"), h=((6, 4), "weight"), hb=((4,), "bias"))
def prototypes_normed(p, x):
    z = x @ p["h"] + p["hb"]
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    return z @ (p["proto"] / jnp.linalg.norm(p["proto"], axis=0) * p["g"])


@model(X, form(7, 6), ls=((6,), "scale"), os=((), "scale"), noise=((), "bias"), mean=((), "bias"))
def gaussian_process(p, x, z):
    k = lambda a, b: (
        jax.nn.softplus(p["os"]) * jnp.exp(-0.5 * (((a[:, None] - b[None]) / jax.nn.softplus(p["ls"])) ** 2).sum(-1))
    )
    y = x[:, 0] - p["mean"]
    kk = k(x, x) + jax.nn.softplus(p["noise"]) * jnp.eye(5)
    l = jnp.linalg.cholesky(kk)
    a = jax.scipy.linalg.cho_solve((l, True), y)
    return k(z, x) @ a + p["mean"]


@model(X, w=((6, 4), "weight"), c=((4,), "bias"), vis=((6,), "weight"))
def restricted_boltzmann(p, v):
    return -v @ p["vis"] - jax.nn.softplus(v @ p["w"] + p["c"]).sum(-1)


@model(X, base=((6, 4), "weight"), coef=((6, 8, 4), "weight"), scale=((6, 4), "weight"))
def kan(p, x):
    g = jnp.linspace(-1, 1, 8)
    b = jnp.maximum(0, 1 - jnp.abs(x[..., None] - g))
    return (
        (jax.nn.silu(x)[..., None] * p["base"]).sum(1)
        + jnp.einsum("nik,iko->nio", b, p["coef"]).sum(1) * 1.0
        + (jnp.einsum("nik,iko->nio", b, p["coef"]) * p["scale"]).sum(1)
    )


@model(
    ints(5, 4),
    form(5, 3),
    tables=((4, 9, 3), "embedding"),
    wide=((4, 9), "embedding"),
    num=((3,), "weight"),
    deep=((15, 4), "weight"),
    db=((4,), "bias"),
    out=((4,), "weight"),
    ob=((), "bias"),
)
def wide_and_deep(p, cat, x):
    f = np.arange(4)
    e = p["tables"][f, cat]
    w = p["wide"][f, cat].sum(-1)
    h = jax.nn.relu(jnp.concatenate([e.reshape(5, 12), x], -1) @ p["deep"] + p["db"])
    return w + x @ p["num"] + h @ p["out"] + p["ob"]


@model(
    IDS,
    IDS,
    user=((9, 4), "embedding"),
    item=((9, 4), "embedding"),
    ub=((9,), "embedding"),
    ib=((9,), "embedding"),
    mu=((), "bias"),
)
def biased_factors(p, u, i):
    return p["mu"] + p["ub"][u] + p["ib"][i] + (p["user"][u] * p["item"][i]).sum(-1)


@model(X, IDS, w=((6, 4), "weight"), arc=((5, 5), "weight"), label=((3, 5, 5), "weight"), wb=((4,), "bias"))
def biaffine(p, x, h):
    a = jnp.tanh(x @ p["w"] + p["wb"])
    a1 = jnp.concatenate([a, jnp.ones((5, 1), jnp.float32)], -1)
    return a1 @ p["arc"] @ a1.T, jnp.einsum("nd,ldm,nm->nl", a1, p["label"], a1[h])


@model(
    form(12, 1),
    filt=((5, 1, 4), "weight"),
    fb=((4,), "bias"),
    gatek=((5, 1, 4), "weight"),
    gateb=((4,), "bias"),
    res=((1, 4, 4), "weight"),
    alpha=((4,), "scale"),
    delta=((4,), "bias"),
)
def gated_convolutions(p, x):
    c = lambda z, k: lax.conv_general_dilated(
        z[None], k, (1,), [(k.shape[0] - 1, 0)], dimension_numbers=("NWC", "WIO", "NWC")
    )[0]
    h = jnp.tanh(c(x, p["filt"]) + p["fb"]) * jax.nn.sigmoid(c(x, p["gatek"]) + p["gateb"])
    h = c(h, p["res"])
    return h / (1 + jax.nn.softplus(p["alpha"])) - p["delta"]


@model(
    X,
    wq=((6, 4), "weight"),
    wk=((6, 4), "weight"),
    wv=((6, 4), "weight"),
    beta=((6,), "weight"),
    bb=((), "bias"),
    s0=((4, 4), "other"),
)
def delta_rule(p, x):
    q, k, v = x @ p["wq"], x @ p["wk"], x @ p["wv"]
    b = jax.nn.sigmoid(x @ p["beta"] + p["bb"])

    def step(s, i):
        q, k, v, b = i
        s = s + b * jnp.outer(v - s @ k, k)
        return s, s @ q

    return lax.scan(step, p["s0"], (q, k, v, b))[1]


@model(X, w=((4, 6), "weight"), lam=((), "bias"), we=((6, 4), "weight"))
def learned_shrinkage(p, y):
    s = lambda z: jnp.sign(z) * jax.nn.relu(jnp.abs(z) - jax.nn.softplus(p["lam"]))
    z = s(y @ p["we"])
    for _ in range(2):
        z = s(z - 0.1 * (z @ p["w"] - y) @ p["we"])
    return z @ p["w"]


@model(X, w=((6, 6), "weight"), b=((6,), "bias"), u=((6, 6), "weight"))
def equilibrium(p, x):
    f = lambda z: jnp.tanh(z @ p["w"] + x @ p["u"] + p["b"])
    return lax.fori_loop(0, 8, lambda _, z: f(z), jnp.zeros((5, 6), jnp.float32))


@model(X, KEY, w=((6, 4), "weight"), b=((4,), "bias"), logit=((6,), "scale"))
def concrete_dropout(p, x, key):
    pr = jax.nn.sigmoid(p["logit"])
    u = jax.random.uniform(key, (5, 6))
    z = jax.nn.sigmoid((jnp.log(pr) - jnp.log1p(-pr) + jnp.log(u) - jnp.log1p(-u)) / 0.1)
    return (x * (1 - z) / (1 - pr)) @ p["w"] + p["b"]


@model(X, form(5), table=((10, 4), "embedding"), w=((4, 6), "weight"), b=((6,), "bias"), t1=((4, 6), "weight"))
def diffusion_step(p, x, t):
    f = jnp.exp(-jnp.arange(2) * 1.0)
    e = jnp.concatenate([jnp.sin(t[:, None] * f), jnp.cos(t[:, None] * f)], -1)
    return x + jax.nn.silu(e @ p["w"] + p["b"]) + p["table"][t.astype(jnp.int32)] @ p["t1"]


@model(form(2, 6), anchors=((3, 2), "other"), w=((6, 2), "weight"), b=((2,), "bias"))
def offsets_from_anchors(p, x):
    return jnp.concatenate([jnp.broadcast_to(p["anchors"], (2, 3, 2)), (x @ p["w"] + p["b"])[:, None]], 1)


@model(
    X,
    ints(5),
    form(5, 6),
    t1=((9, 6), "embedding+weight"),
    w=((6, 6), "weight"),
    wb=((6,), "bias"),
    ln=((6,), "scale"),
    lnb=((6,), "bias"),
    out=((9,), "bias"),
)
def tied_language_model(p, x, ids, _):
    h = p["t1"][ids]
    h = h + jnp.tanh((normalised(h) * p["ln"] + p["lnb"]) @ p["w"] + p["wb"])
    return h @ p["t1"].T + p["out"]


@model(X, freq=((3,), "scale"), w=((6, 3), "weight"), out=((6, 2), "weight"))
def spectral_mixture_features(p, x):
    z = (x @ p["w"]) * jnp.exp(p["freq"])
    return jnp.concatenate([jnp.sin(z), jnp.cos(z)], -1) @ p["out"]


@model(form(2, 3, 8, 8), k=((4, 3, 3, 3), "weight"), g=((4,), "scale"), b=((4,), "bias"), sp=((1, 2, 7, 7), "weight"))
def spatial_attention(p, x):
    c = lambda z, k: lax.conv(z, k, (1, 1), "SAME")
    h = c(x, p["k"])
    m = h.mean((2, 3), keepdims=True)
    v = h.var((2, 3), keepdims=True)
    h = (h - m) / jnp.sqrt(v + 1e-5) * p["g"][:, None, None] + p["b"][:, None, None]
    a = jax.nn.sigmoid(c(jnp.concatenate([h.mean(1, keepdims=True), h.max(1, keepdims=True)], 1), p["sp"]))
    return h * a


@pytest.mark.parametrize(("fn", "params", "args", "expected"), MODELS)
def test_roles(fn, params, args, expected):
    check_or_warned(fn, params, args, expected)
