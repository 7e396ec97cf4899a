"""Architectures whose roles were written down before `roles` saw them: every leaf right, or `other` with a warning.

At the first run 137 of 140 leaves were right. Two were a bias of which one entry is read as well, one a value that a
gate of data mixes in, (1 - gate) * leaf; both kinds have rules since.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.foreign.cases import KEY, check_or_warned, convolved, entering_models, normalised

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them

X = jax.ShapeDtypeStruct((5, 6), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
IDS = jax.ShapeDtypeStruct((5,), jnp.int32)

MODELS = []
model = entering_models(MODELS)


@model(
    X,
    g1=((6,), "scale"), o1=((6,), "bias"), t1=((5, 7), "weight"), tb1=((7,), "bias"), t2=((7, 5), "weight"),
    tb2=((5,), "bias"), g2=((6,), "scale"), o2=((6,), "bias"), c1=((6, 8), "weight"), cb1=((8,), "bias"),
    c2=((8, 6), "weight"), cb2=((6,), "bias"), head=((6, 3), "weight"), head_bias=((3,), "bias"),
)  # fmt: skip
def mlp_mixer(p, x):
    y = (normalised(x) * p["g1"] + p["o1"]).T
    y = jax.nn.gelu(y @ p["t1"] + p["tb1"]) @ p["t2"] + p["tb2"]
    x = x + y.T
    y = normalised(x) * p["g2"] + p["o2"]
    x = x + jax.nn.gelu(y @ p["c1"] + p["cb1"]) @ p["c2"] + p["cb2"]
    return x.mean(axis=0) @ p["head"] + p["head_bias"]


@model(
    X,
    w_in=((6, 16), "weight"), conv=((4, 1, 8), "weight"), conv_bias=((8,), "bias"), w_bc=((8, 6), "weight"),
    w_dt=((8, 2), "weight"), w_dt2=((2, 8), "weight"), dt_bias=((8,), "bias"), a_log=((8, 3), "scale"),
    d=((8,), "scale"), w_out=((8, 6), "weight"),
)  # fmt: skip
def selective_state_space(p, x):
    u, z = jnp.split(x @ p["w_in"], 2, axis=-1)
    u = lax.conv_general_dilated(
        u[None], p["conv"], (1,), [(3, 0)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=8
    )[0]
    u = jax.nn.silu(u + p["conv_bias"])
    b, c = jnp.split(u @ p["w_bc"], 2, axis=-1)
    dt = jax.nn.softplus(u @ p["w_dt"] @ p["w_dt2"] + p["dt_bias"])
    decay = jnp.exp(dt[..., None] * -jnp.exp(p["a_log"]))
    drive = (dt * u)[..., None] * b[:, None]

    def step(h, inputs):
        a, v, c_t = inputs
        h = a * h + v
        return h, h @ c_t

    y = lax.scan(step, jnp.zeros((8, 3)), (decay, drive, c))[1]
    return (y + p["d"] * u) * jax.nn.silu(z) @ p["w_out"]


@model(
    X,
    mix_k=((6,), "scale"), mix_v=((6,), "scale"), mix_r=((6,), "scale"), decay=((6,), "scale"), bonus=((6,), "bias"),
    wk=((6, 6), "weight"), wv=((6, 6), "weight"), wr=((6, 6), "weight"), wo=((6, 6), "weight"),
)  # fmt: skip
def time_mixing(p, x):
    before = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    mixed = lambda m: x * m + before * (1 - m)
    k, v = mixed(p["mix_k"]) @ p["wk"], mixed(p["mix_v"]) @ p["wv"]
    r = jax.nn.sigmoid(mixed(p["mix_r"]) @ p["wr"])
    w = jnp.exp(-jnp.exp(p["decay"]))

    def step(state, kv):
        num, den = state
        k_t, v_t = kv
        e = jnp.exp(p["bonus"] + k_t)
        out = (num + e * v_t) / (den + e)
        return (w * num + jnp.exp(k_t) * v_t, w * den + jnp.exp(k_t)), out

    start = (jnp.zeros(6), jnp.zeros(6))
    return (r * lax.scan(step, start, (k, v))[1]) @ p["wo"]


@model(
    X, jax.ShapeDtypeStruct((7, 2), jnp.float32),
    b1=((6, 8), "weight"), bb1=((8,), "bias"), b2=((8, 4), "weight"), t1=((2, 8), "weight"), tb1=((8,), "bias"),
    t2=((8, 4), "weight"), tb2=((4,), "bias"), offset=((), "bias"),
)  # fmt: skip
def operator_network(p, u, y):
    branch = jnp.tanh(u @ p["b1"] + p["bb1"]) @ p["b2"]
    trunk = jnp.tanh(jnp.tanh(y @ p["t1"] + p["tb1"]) @ p["t2"] + p["tb2"])
    return branch @ trunk.T + p["offset"]


@model(
    IMAGE, jax.ShapeDtypeStruct((2, 4), jnp.float32),
    kernel=((3, 3, 3, 6), "weight"), kernel_bias=((6,), "bias"), film=((4, 12), "weight"),
    film_bias=((12,), "bias"), depth=((5, 5, 1, 6), "weight"), gain=((6,), "scale"), offset=((6,), "bias"),
    up=((6, 12), "weight"), up_bias=((12,), "bias"), down=((12, 6), "weight"), layer_scale=((6,), "scale"),
)  # fmt: skip
def modulated_conv_next(p, x, condition):
    x = convolved(x, p["kernel"]) + p["kernel_bias"]
    scale, shift = jnp.split(condition @ p["film"] + p["film_bias"], 2, axis=-1)
    x = jax.nn.relu((1 + scale[:, None, None]) * x + shift[:, None, None])
    y = normalised(convolved(x, p["depth"], 6)) * p["gain"] + p["offset"]
    y = jax.nn.gelu(y @ p["up"] + p["up_bias"]) @ p["down"]
    return x + p["layer_scale"] * y


@model(
    X, IDS, jax.ShapeDtypeStruct((5, 3), jnp.int32),
    users=((9, 4), "embedding"), tags=((11, 4), "embedding"), bottom=((6, 4), "weight"), bottom_bias=((4,), "bias"),
    top=((7, 5), "weight"), top_bias=((5,), "bias"), out=((5,), "weight"), out_bias=((), "bias"),
)  # fmt: skip
def recommendation(p, dense, user, tags):
    d = jax.nn.relu(dense @ p["bottom"] + p["bottom_bias"])
    fields = jnp.stack([d, p["users"][user], p["tags"][tags].sum(axis=1)], axis=1)
    products = jnp.einsum("nfd,ngd->nfg", fields, fields)
    i, j = jnp.triu_indices(3, 1)
    features = jnp.concatenate([d, products[:, i, j]], axis=-1)
    return jax.nn.relu(features @ p["top"] + p["top_bias"]) @ p["out"] + p["out_bias"]


@model(
    X, jax.ShapeDtypeStruct((8,), jnp.int32), jax.ShapeDtypeStruct((8,), jnp.int32),
    eps=((), "scale"), w1=((6, 8), "weight"), b1=((8,), "bias"), w2=((8, 6), "weight"), gain=((6,), "scale"),
    offset=((6,), "bias"), read=((6, 2), "weight"),
)  # fmt: skip
def graph_isomorphism(p, x, senders, receivers):
    gathered = jax.ops.segment_sum(x[senders], receivers, 5)
    h = jax.nn.relu(((1 + p["eps"]) * x + gathered) @ p["w1"] + p["b1"]) @ p["w2"]
    h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5) * p["gain"] + p["offset"]
    return h.sum(axis=0) @ p["read"]


@model(X, base=((6, 4), "weight"), spline=((6, 5, 4), "weight"), per_edge=((6, 4), "scale"))
def spline_edges(p, x):
    centres = jnp.linspace(-1, 1, 5)
    basis = jnp.exp(-((x[..., None] - centres) ** 2))
    return jax.nn.silu(x) @ p["base"] + jnp.einsum("nik,iko,io->no", basis, p["spline"], p["per_edge"])


@model(
    X,
    slots=((3, 4), "other"), k=((6, 4), "weight"), v=((6, 4), "weight"), q=((4, 4), "weight"), wi=((4, 12), "weight"),
    wh=((4, 12), "weight"), bi=((12,), "bias"), gain=((4,), "scale"), up=((4, 8), "weight"), up_bias=((8,), "bias"),
    down=((8, 4), "weight"),
)  # fmt: skip
def slot_attention(p, x):
    k, v, slots = x @ p["k"], x @ p["v"], p["slots"]
    for _ in range(2):
        a = jax.nn.softmax(k @ (normalised(slots) * p["gain"] @ p["q"]).T / 2.0, axis=-1)
        updates = (a / (a.sum(0) + 1e-8)).T @ v
        zi, ri, ni = jnp.split(updates @ p["wi"] + p["bi"], 3, axis=-1)
        zh, rh, nh = jnp.split(slots @ p["wh"], 3, axis=-1)
        z, r = jax.nn.sigmoid(zi + zh), jax.nn.sigmoid(ri + rh)
        slots = (1 - z) * jnp.tanh(ni + r * nh) + z * slots
        slots = slots + jax.nn.relu(slots @ p["up"] + p["up_bias"]) @ p["down"]
    return slots


@model(
    jax.ShapeDtypeStruct((2, 16, 3), jnp.float32),
    real=((4, 3, 5), "weight"), imag=((4, 3, 5), "weight"), skip=((3, 5), "weight"), bias=((5,), "bias"),
)  # fmt: skip
def fourier_operator(p, x):
    modes = jnp.fft.rfft(x, axis=1)[:, :4]
    mixed = jnp.einsum("nkc,kcd->nkd", modes, p["real"] + 1j * p["imag"])
    mixed = jnp.pad(mixed, ((0, 0), (0, 5), (0, 0)))
    return jax.nn.gelu(jnp.fft.irfft(mixed, n=16, axis=1) + x @ p["skip"] + p["bias"])


@model(
    IDS, IDS,
    table=((11, 4), "embedding"), w=((4, 3), "weight"), b=((3,), "bias"), transitions=((3, 3), "bias"),
    start=((3,), "bias"),
)  # fmt: skip
def tagger(p, words, tags):
    scores = p["table"][words] @ p["w"] + p["b"]

    def step(alpha, s):
        return jax.nn.logsumexp(alpha[:, None] + p["transitions"], axis=0) + s, None

    alpha, _ = lax.scan(step, p["start"] + scores[0], scores[1:])
    path = scores[jnp.arange(5), tags].sum() + p["start"][tags[0]] + p["transitions"][tags[:-1], tags[1:]].sum()
    return jax.nn.logsumexp(alpha) - path


@model(
    X, jax.ShapeDtypeStruct((), jnp.int32),
    w=((6, 4), "weight"), r=((3, 6), "scale"), s=((3, 4), "scale"), b=((3, 4), "bias"),
)  # fmt: skip
def batch_ensemble(p, x, member):
    return jax.nn.relu(((x * p["r"][member]) @ p["w"]) * p["s"][member] + p["b"][member])


@model(
    X,
    q=((6, 6), "weight"), k=((6, 6), "weight"), v=((6, 6), "weight"), lk=((6,), "scale"), lv=((6,), "scale"),
    up=((6, 8), "weight"), lff=((8,), "scale"), down=((8, 6), "weight"), alpha=((), "scale"), beta=((), "scale"),
)  # fmt: skip
def rescaled_activations(p, x):
    k, v = (x @ p["k"]) * p["lk"], (x @ p["v"]) * p["lv"]
    x = x + p["alpha"] * (jax.nn.softmax((x @ p["q"]) @ k.T / 6**0.5) @ v)
    return x + p["beta"] * ((jax.nn.relu(x @ p["up"]) * p["lff"]) @ p["down"])


@model(
    IDS, jax.ShapeDtypeStruct((7, 4), jnp.int32),
    question=((11, 4), "embedding"), memory=((11, 4), "embedding"), answers=((11, 4), "embedding"),
    times=((7, 4), "bias"), read_times=((7, 4), "bias"), h=((4, 4), "weight"), out=((4, 11), "weight"),
)  # fmt: skip
def memory_network(p, question, sentences):
    u = p["question"][question].sum(axis=0)
    m = p["memory"][sentences].sum(axis=1) + p["times"]
    c = p["answers"][sentences].sum(axis=1) + p["read_times"]
    o = jax.nn.softmax(m @ u) @ c
    return (u @ p["h"] + o) @ p["out"]


@model(
    X, X, jax.ShapeDtypeStruct((5, 6), jnp.float32),
    decay=((6, 4), "weight"), decay_bias=((4,), "bias"), fill=((6,), "other"), rate=((6,), "scale"),
    rate_bias=((6,), "bias"), w=((12, 4), "weight"), u=((4, 4), "weight"), b=((4,), "bias"),
)  # fmt: skip
def recurrence_with_gaps(p, xs, seen, gaps):
    def step(carry, inputs):
        h, last = carry
        x, m, gap = inputs
        gamma = jnp.exp(-jax.nn.relu(gap * p["rate"] + p["rate_bias"]))
        last = jnp.where(m > 0, x, last)
        x = jnp.where(m > 0, x, gamma * last + (1 - gamma) * p["fill"])
        h = jnp.exp(-jax.nn.relu(gap @ p["decay"] + p["decay_bias"])) * h
        h = jnp.tanh(jnp.concatenate([x, m]) @ p["w"] + h @ p["u"] + p["b"])
        return (h, last), None

    return lax.scan(step, (jnp.zeros(4), jnp.zeros(6)), (xs, seen, gaps))[0][0]


@model(
    X, KEY,
    enc=((6, 8), "weight"), enc_bias=((8,), "bias"), mean=((8, 3), "weight"), mean_bias=((3,), "bias"),
    spread=((8, 3), "weight"), spread_bias=((3,), "bias"), prior_mean=((4, 3), "bias"),
    prior_log_scale=((4, 3), "scale"), mixture=((4,), "bias"), dec=((3, 6), "weight"), dec_bias=((6,), "bias"),
    log_noise=((), "scale"),
)  # fmt: skip
def autoencoder_with_a_mixture_prior(p, x, key):
    h = jnp.tanh(x @ p["enc"] + p["enc_bias"])
    mean, log_scale = h @ p["mean"] + p["mean_bias"], h @ p["spread"] + p["spread_bias"]
    z = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
    out = z @ p["dec"] + p["dec_bias"]
    likelihood = -0.5 * (((x - out) / jnp.exp(p["log_noise"])) ** 2).sum() - 30 * p["log_noise"]
    scaled = (z[:, None] - p["prior_mean"]) / jnp.exp(p["prior_log_scale"])
    each = -0.5 * (scaled**2).sum(-1) - p["prior_log_scale"].sum(-1) + jax.nn.log_softmax(p["mixture"])
    entropy = log_scale.sum()
    return likelihood + jax.nn.logsumexp(each, axis=-1).sum() + entropy


@model(
    jax.ShapeDtypeStruct((2, 9, 3), jnp.float32),
    t1=((3, 8), "weight"), t_bias=((8,), "bias"), t2=((8, 9), "weight"), t2_bias=((9,), "bias"),
    w1=((3, 8), "weight"), b1=((8,), "bias"), w2=((16, 4), "weight"), b2=((4,), "bias"), slope=((8,), "scale"),
)  # fmt: skip
def points_in_their_own_frame(p, x):
    h = jax.nn.relu(x @ p["t1"] + p["t_bias"]).max(axis=1)
    frame = (h @ p["t2"] + p["t2_bias"]).reshape(-1, 3, 3) + jnp.eye(3)
    h = jnp.einsum("npi,nij->npj", x, frame) @ p["w1"] + p["b1"]
    h = jnp.where(h > 0, h, p["slope"] * h)
    whole = jnp.broadcast_to(h.max(axis=1, keepdims=True), h.shape)
    return jnp.concatenate([h, whole], axis=-1) @ p["w2"] + p["b2"]


@pytest.mark.parametrize(("fn", "params", "args", "expected"), MODELS)
def test_unseen(fn, params, args, expected):
    check_or_warned(fn, params, args, expected)
