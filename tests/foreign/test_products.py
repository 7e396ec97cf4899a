"""Leaves that data multiply, entry by entry or as a whole: scales, unless what follows says more; each kind on several.

When these architectures were first tried, 109 of 156 leaves were right, of those in test_corners.py 193 of 194.
"""

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


# --- mixed by complementary weights -----------------------------------------------------------------------------------


@model(
    form(2, 5, 6),
    form(2, 5),
    w=((6, 4), "weight"),
    b=((4,), "bias"),
    cls=((1, 1, 4), "other"),
    mask_token=((1, 1, 4), "other"),
    pos=((1, 6, 4), "bias"),
    head=((4, 3), "weight"),
)
def beit(p, x, mask):
    x = x @ p["w"] + p["b"]
    m = mask[..., None]
    x = x * (1 - m) + p["mask_token"] * m
    x = jnp.concatenate([jnp.broadcast_to(p["cls"], (2, 1, 4)), x], 1) + p["pos"]
    return x[:, 1:] @ p["head"]


@model(form(2, 5, 6), jax.ShapeDtypeStruct((2, 5), jnp.bool_), mask_token=((6,), "other"), head=((6, 3), "weight"))
def masked_by_bools(p, x, mask):
    m = mask[..., None]
    x = x * ~m + p["mask_token"] * m
    return x @ p["head"]


@model(
    form(3, 5, 6),
    gate=((6,), "weight"),
    wa=((6, 4), "weight"),
    ba=((4,), "bias"),
    wb=((4, 4), "weight"),
    start=((4,), "other"),
)
def gated_pool_with_default(p, x):
    a = jax.nn.sigmoid(x @ p["gate"])[..., None]
    v = jnp.tanh(x @ p["wa"] + p["ba"])
    return (a * v + (1 - a) * p["start"]).mean(1) @ p["wb"]


@model(X, KEY, token=((6,), "other"), w=((6, 3), "weight"))
def tokens_where_a_key_says(p, x, key):
    m = jax.random.bernoulli(key, 0.3, (5, 1)).astype(jnp.float32)
    return (x * (1 - m) + m * p["token"]) @ p["w"]


@model(X, form(5, 4), KEY, null=((4,), "other"), c=((4, 6), "weight"), cb=((6,), "bias"), w=((6, 3), "weight"))
def guidance_without_classifier(p, x, c, key):
    drop = jax.random.bernoulli(key, 0.1, (5, 1))
    c = c * ~drop + p["null"] * drop
    return (x + c @ p["c"] + p["cb"]) @ p["w"]


@model(X, token=((6,), "other"), w=((6, 3), "weight"))
def tokens_at_fixed_places(p, x):
    m = (jnp.arange(5) % 2).astype(jnp.float32)[:, None]
    return (x * (1 - m) + m * p["token"]) @ p["w"]


@model(X, form(5, 1), token=((6,), "other"), w=((6, 3), "weight"))
def interpolated_to_a_token(p, x, m):
    return (x + m * (p["token"] - x)) @ p["w"]


@model(X, form(5, 1), token=((6,), "other"), w=((6, 3), "weight"))
def interpolated_from_a_token(p, x, m):
    return (p["token"] + m * (x - p["token"])) @ p["w"]


@model(IDS, form(5, 6), table=((9, 4), "embedding"), w=((6, 4), "weight"), gate=((6, 4), "weight"), gb=((4,), "bias"))
def words_or_characters(p, ids, chars):
    g = jax.nn.sigmoid(chars @ p["gate"] + p["gb"])
    return g * p["table"][ids] + (1 - g) * jnp.tanh(chars @ p["w"])


@model(
    form(6),
    gate=((6,), "weight"),
    gb=((), "bias"),
    w0=((6, 4), "weight"),
    w1=((6, 4), "weight"),
    b0=((4,), "bias"),
    b1=((4,), "bias"),
)
def two_kernels_by_a_gate(p, x):
    g = jax.nn.sigmoid(x @ p["gate"] + p["gb"])
    w = g * p["w0"] + (1 - g) * p["w1"]
    b = g * p["b0"] + (1 - g) * p["b1"]
    return x @ w + b


@model(X, g=((6, 2), "weight"), w0=((6, 4), "weight"), w1=((6, 4), "weight"), b0=((4,), "bias"), b1=((4,), "bias"))
def experts_by_slices(p, x):
    g = jax.nn.softmax(x @ p["g"])
    w = g[:, 0, None, None] * p["w0"] + g[:, 1, None, None] * p["w1"]
    return jnp.einsum("ni,nio->no", x, w) + (g[:, :1] * p["b0"] + g[:, 1:] * p["b1"])


@model(
    X,
    jax.ShapeDtypeStruct((5,), jnp.bool_),
    w0=((6, 4), "weight"),
    w1=((6, 4), "weight"),
    b0=((4,), "bias"),
    b1=((4,), "bias"),
)
def experts_by_where(p, x, bits):
    w = jnp.where(bits[:, None, None], p["w0"], p["w1"])
    return jnp.einsum("ni,nio->no", x, w) + jnp.where(bits[:, None], p["b0"], p["b1"])


@model(X, form(5, 4), h0=((4,), "other"), wi=((6, 12), "weight"), wh=((4, 12), "weight"), bi=((12,), "bias"))
def unrolled_gru_with_a_start(p, x, _):
    h = jnp.broadcast_to(p["h0"], (5, 4))
    zi, ri, ni = jnp.split(x @ p["wi"] + p["bi"], 3, -1)
    zh, rh, nh = jnp.split(h @ p["wh"], 3, -1)
    z, r = jax.nn.sigmoid(zi + zh), jax.nn.sigmoid(ri + rh)
    return (1 - z) * jnp.tanh(ni + r * nh) + z * h


# --- changed by data, then used ---------------------------------------------------------------------------------------


@model(
    form(2, 8, 8, 3),
    form(2, 4),
    form(2, 8, 8, 1),
    style=((4, 3), "weight"),
    style_bias=((3,), "bias"),
    kernel=((3, 3, 3, 6), "weight"),
    strength=((), "scale"),
    bias=((6,), "bias"),
)
def stylegan2_layer(p, x, w, noise):
    s = w @ p["style"] + p["style_bias"] + 1
    k = p["kernel"][None] * s[:, None, None, :, None]
    k = k * lax.rsqrt((k**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    y = jax.vmap(lambda x, k: convolved(x[None], k)[0])(x, k)
    return jax.nn.leaky_relu(y + noise * p["strength"] + p["bias"], 0.2)


@model(form(2, 8, 8, 3), form(2, 3), kernel=((3, 3, 3, 6), "weight"))
def stylegan2_by_groups(p, x, s):
    k = p["kernel"][None] * s[:, None, None, :, None]
    d = lax.rsqrt(jnp.sum(k**2, (1, 2, 3)) + 1e-8)
    k = k * d[:, None, None, None, :]
    x = x.transpose(1, 2, 0, 3).reshape(1, 8, 8, 6)
    k = k.transpose(1, 2, 3, 0, 4).reshape(3, 3, 3, 12)
    return convolved(x, k, 2)


@model(
    form(2, 4),
    style=((4, 8), "weight"),
    sb=((8,), "bias"),
    const=((4, 4, 8), "other"),
    kernel=((3, 3, 8, 6), "weight"),
    bias=((6,), "bias"),
)
def generator_with_a_learned_constant(p, w):
    s = w @ p["style"] + p["sb"]
    x = jnp.broadcast_to(p["const"], (2, 4, 4, 8)) * s[:, None, None, :]
    return convolved(x, p["kernel"]) + p["bias"]


@model(X, form(4), form(6), w=((6, 4), "weight"), b=((4,), "bias"))
def spectral_norm_with_a_state(p, x, u, v):
    sigma = v @ p["w"] @ u
    return x @ (p["w"] / sigma) + p["b"]


@model(X, form(5, 3), a=((6, 4), "weight"), bb=((4, 6), "weight"), gate=((3,), "weight"), base=((6, 6), "weight"))
def gated_low_rank(p, x, c):
    g = jax.nn.sigmoid(c @ p["gate"])
    w = p["base"] + g[:, None, None] * (p["a"] @ p["bb"])
    return jnp.einsum("nd,nde->ne", x, w)


@model(X, form(5), w=((6, 4), "weight"), dw=((6, 4), "weight"), b=((4,), "bias"), db=((4,), "scale"))
def weights_along_a_line(p, x, t):
    w = p["w"] + t[:, None, None] * p["dw"]
    return jnp.einsum("nd,nde->ne", x, w) + p["b"] + t[:, None] * p["db"]


@model(X, form(5, 2), X, form(5, 2), w1=((6, 4), "weight"), b1=((4,), "bias"), w2=((4, 2), "weight"), b2=((2,), "bias"))
def maml(p, x, y, x2, y2):
    net = lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    loss = lambda p, x, y: jnp.mean((net(p, x) - y) ** 2)
    g = jax.grad(loss)(p, x, y)
    p = jax.tree.map(lambda a, b: a - 0.1 * b, p, g)
    return loss(p, x2, y2)


@model(
    form(3, 5, 6),
    form(3, 5, 2),
    form(3, 5, 6),
    form(3, 5, 2),
    w1=((6, 4), "weight"),
    b1=((4,), "bias"),
    w2=((4, 2), "weight"),
    b2=((2,), "bias"),
)
def maml_over_tasks(p, *tasks):
    return jax.vmap(lambda *t: maml(p, *t))(*tasks).mean()


@model(
    X,
    form(5, 2),
    X,
    form(5, 2),
    w1=((6, 4), "weight"),
    b1=((4,), "bias"),
    w2=((4, 2), "weight"),
    b2=((2,), "bias"),
    rate=((), "scale"),
)
def meta_sgd(p, x, y, x2, y2):
    q = {k: v for k, v in p.items() if k != "rate"}
    net = lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    loss = lambda p, x, y: jnp.mean((net(p, x) - y) ** 2)
    g = jax.grad(loss)(q, x, y)
    q = jax.tree.map(lambda a, b: a - p["rate"] * b, q, g)
    return loss(q, x2, y2)


@model(X, u=((6,), "scale"), w=((6,), "weight"), b=((), "bias"))
def planar_flow(p, x):
    a = x @ p["w"] + p["b"]
    h = jnp.tanh(a)
    z = x + h[:, None] * p["u"]
    return z, jnp.log(jnp.abs(1 + (1 - h**2) * (p["w"] @ p["u"])))


# --- multiplied, then added up ----------------------------------------------------------------------------------------


@model(
    X, ints(7), ints(7), w=((6, 8), "weight"), a_src=((2, 4), "weight"), a_dst=((2, 4), "weight"), bias=((8,), "bias")
)
def gat_by_products(p, x, s, r):
    h = (x @ p["w"]).reshape(5, 2, 4)
    e = jax.nn.leaky_relu((h * p["a_src"]).sum(-1)[s] + (h * p["a_dst"]).sum(-1)[r], 0.2)
    e = jnp.exp(e - jax.ops.segment_max(e, r, 5)[r])
    a = e / jax.ops.segment_sum(e, r, 5)[r]
    return jax.ops.segment_sum(a[..., None] * h[s], r, 5).reshape(5, 8) + p["bias"]


@model(X, ints(7), ints(7), wl=((6, 8), "weight"), wr=((6, 8), "weight"), a=((2, 4), "weight"), b=((8,), "bias"))
def gat_v2(p, x, s, r):
    l, q = (x @ p["wl"]).reshape(5, 2, 4), (x @ p["wr"]).reshape(5, 2, 4)
    e = (jax.nn.leaky_relu(l[s] + q[r]) * p["a"]).sum(-1)
    e = jnp.exp(e - jax.ops.segment_max(e, r, 5)[r])
    e = e / jax.ops.segment_sum(e, r, 5)[r]
    return jax.ops.segment_sum(e[..., None] * l[s], r, 5).reshape(5, 8) + p["b"]


@model(
    form(4, 6),
    form(5, 6),
    q=((6, 8), "weight"),
    k=((6, 8), "weight"),
    b=((8,), "bias"),
    v=((8,), "weight"),
    g=((), "scale"),
)
def normed_additive_attention(p, q, k):
    v = p["g"] * p["v"] * lax.rsqrt(jnp.sum(p["v"] ** 2))
    s = jnp.sum(v * jnp.tanh((q @ p["q"])[:, None] + (k @ p["k"])[None] + p["b"]), -1)
    return jax.nn.softmax(s) @ k


@model(X, w=((6, 4), "weight"), b=((4,), "bias"), read=((4,), "weight"), rb=((), "bias"))
def read_by_a_sum(p, x):
    return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) * p["read"], axis=-1) + p["rb"]


@model(X, mix=((3,), "weight"), gamma=((), "scale"), w=((3, 6, 6), "weight"))
def mixture_of_layers(p, x):
    h = jnp.stack([jnp.tanh(x @ p["w"][i]) for i in range(3)])
    return p["gamma"] * (jax.nn.softmax(p["mix"])[:, None, None] * h).sum(0)


@model(X, g=((6,), "scale"), g2=((6,), "scale"), b2=((6,), "bias"), w=((6, 3), "weight"))
def scaled_then_normed(p, x):
    return (normalised(x * p["g"]) * p["g2"] + p["b2"]) @ p["w"]


@model(X, form(7, 6), g=((6,), "scale"), b=((6,), "bias"), w=((6, 6), "weight"))
def one_norm_in_every_layer(p, x, memory):
    def layer(h, _):
        q = normalised(h) * p["g"] + p["b"]
        h = h + jax.nn.softmax((normalised(h) * p["g"]) @ memory.T) @ memory + jnp.tanh(q @ p["w"])
        return h, None

    return lax.scan(layer, x, None, length=3)[0]


# --- rows that data chose, multiplied ---------------------------------------------------------------------------------


@model(ints(5, 3), form(5, 3), v=((9, 4), "embedding"), w0=((), "bias"))
def factorization_machine(p, ids, x):
    e = p["v"][ids] * x[..., None]
    return p["w0"] + 0.5 * ((e.sum(1) ** 2) - (e**2).sum(1)).sum(-1)


@model(ints(5, 3), form(5, 3), table=((9, 4), "embedding"), w=((4, 2), "weight"))
def embedding_bag(p, ids, weights):
    return jnp.einsum("nk,nkd->nd", weights, p["table"][ids]) @ p["w"]


@model(ints(5, 8), form(5, 8), grid=((16, 2), "embedding"), w=((2, 4), "weight"), b=((4,), "bias"))
def hash_grid(p, idx, weights):
    return jax.nn.relu((p["grid"][idx] * weights[..., None]).sum(1) @ p["w"] + p["b"])


@model(IDS, IDS, IDS, ent=((9, 4), "embedding"), rel=((7, 4, 4), "weight"))
def rescal(p, h, r, t):
    return jnp.einsum("nd,nde,ne->n", p["ent"][h], p["rel"][r], p["ent"][t])


@model(IDS, IDS, IDS, ent=((9, 4), "embedding"), rel=((7, 3), "embedding"), proj=((7, 4, 3), "weight"))
def trans_r(p, h, r, t):
    m = p["proj"][r]
    d = jnp.einsum("nd,nde->ne", p["ent"][h], m) + p["rel"][r] - jnp.einsum("nd,nde->ne", p["ent"][t], m)
    return jnp.abs(d).sum(-1)


@model(X, IDS, ints(7), w=((9, 6), "weight"), b=((9,), "bias"), hid=((6, 6), "weight"))
def sampled_softmax(p, x, y, neg):
    h = jnp.tanh(x @ p["hid"])
    true = jnp.einsum("nd,nd->n", h, p["w"][y]) + p["b"][y]
    other = h @ p["w"][neg].T + p["b"][neg]
    return jax.nn.logsumexp(jnp.concatenate([true[:, None], other], 1), axis=1) - true


@model(X, router=((6, 3), "weight"), w=((3, 6, 4), "weight"), b=((3, 4), "bias"))
def ragged_experts(p, x):
    e = jnp.argmax(x @ p["router"], -1)
    order = jnp.argsort(e)
    xs = x[order]
    sizes = jnp.bincount(e, length=3)
    y = lax.ragged_dot(xs, p["w"], sizes) + p["b"][e[order]]
    return y[jnp.argsort(order)]


# --- one-hot constants and Fourier transforms -------------------------------------------------------------------------


@model(X, q=((6, 2, 4), "weight"), k=((6, 2, 4), "weight"), table=((8, 2), "bias"))
def t5x_one_hot_buckets(p, x):
    q = jnp.einsum("td,dhe->hte", x, p["q"])
    k = jnp.einsum("td,dhe->hte", x, p["k"])
    rel = jnp.arange(5)[None] - jnp.arange(5)[:, None]
    bucket = jnp.clip(rel + 4, 0, 7)
    hot = (bucket[..., None] == lax.broadcasted_iota(jnp.int32, (1, 1, 8), 2)).astype(jnp.float32)
    values = lax.dot_general(p["table"], hot, (((0,), (2,)), ((), ())))
    return jax.nn.softmax(jnp.einsum("hqe,hke->hqk", q, k) + values)


@model(X, p=((9, 6), "bias"), w=((6, 3), "weight"))
def positions_by_one_hot_numpy(p, x):
    return (x + np.eye(9, dtype=np.float32)[:5] @ p["p"]) @ p["w"]


@model(
    form(7, 2),
    w1=((2, 8), "weight"),
    b1=((8,), "bias"),
    w2=((8, 8), "weight"),
    b2=((8,), "bias"),
    w3=((8, 1), "weight"),
    b3=((1,), "bias"),
)
def physics_informed(p, xs):
    def u(x):
        return (jnp.tanh(jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]) @ p["w3"] + p["b3"])[0]

    def residual(x):
        h = jax.hessian(u)(x)
        return jnp.trace(h) + u(x) ** 2 - jax.grad(u)(x)[0]

    return jnp.mean(jax.vmap(residual)(xs) ** 2)


@model(form(2, 16, 3), kernel=((16, 3), "weight"), skip=((3,), "scale"), w=((3, 4), "weight"))
def long_convolution(p, x):
    k = jnp.fft.rfft(p["kernel"], n=32, axis=0)
    u = jnp.fft.rfft(x, n=32, axis=1)
    y = jnp.fft.irfft(k * u, n=32, axis=1)[:, :16]
    return jax.nn.gelu(y + p["skip"] * x) @ p["w"]


@model(X, c=((6,), "weight"), b=((6,), "bias"))
def circulant(p, x):
    return jnp.fft.ifft(jnp.fft.fft(p["c"]) * jnp.fft.fft(x)).real + p["b"]


@model(
    form(16, 3),
    log_dt=((3,), "scale"),
    c=((3, 4, 2), "weight"),
    log_a=((3, 4), "scale"),
    a_im=((3, 4), "scale"),
    d=((3,), "scale"),
    out=((3, 5), "weight"),
    ob=((5,), "bias"),
)
def s4d(p, u):
    dt = jnp.exp(p["log_dt"])
    c = lax.complex(p["c"][..., 0], p["c"][..., 1])
    a = lax.complex(-jnp.exp(p["log_a"]), p["a_im"])
    dta = a * dt[:, None]
    k = dta[..., None] * jnp.arange(16)
    c = c * (jnp.exp(dta) - 1) / a
    k = 2 * jnp.einsum("hn,hnl->hl", c, jnp.exp(k)).real
    y = jnp.fft.irfft(jnp.fft.rfft(k, n=32) * jnp.fft.rfft(u.T, n=32), n=32)[:, :16].T
    return jax.nn.gelu(y + u * p["d"]) @ p["out"] + p["ob"]


@model(X, b=((6,), "bias"), spectrum=((4,), "bias"), w=((6, 3), "weight"))
def periodic_offset(p, x):
    return (x + p["b"] + jnp.fft.irfft(p["spectrum"].astype(jnp.complex64), n=6)) @ p["w"]


@pytest.mark.parametrize(("fn", "params", "args", "expected"), MODELS)
def test_roles(fn, params, args, expected):
    check_or_warned(fn, params, args, expected)
