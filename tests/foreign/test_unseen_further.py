"""Architectures of an author who had not read the code, each leaf's role written down before `roles` saw it.

A leaf has one role, or several ("a | b") of which each is fine. At the first run 322 of 324 were right. Latents that
attend to data and are then added to what they found were a "bias", and are "other" since; the strength of noise, which
was written down as a "scale", is a "bias", as the standard deviation of a noisy bias is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.foreign.cases import KEY, check_or_warned, entering_models, form, ints, normalised

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them

X, IMAGE, IDS = form(5, 6), form(2, 8, 8, 3), ints(5)

MODELS = []
model = entering_models(MODELS)


def conv(x, kernel, stride=1, groups=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


@model(
    X,
    latents=((3, 4), "other | other+bias | bias+other"),
    q=((4, 4), "weight"),
    k=((6, 4), "weight"),
    v=((6, 4), "weight"),
    o=((4, 4), "weight"),
    o_bias=((4,), "bias"),
    gain=((4,), "scale"),
    offset=((4,), "bias"),
    up=((4, 8), "weight"),
    up_bias=((8,), "bias"),
    down=((8, 4), "weight"),
    down_bias=((4,), "bias"),
    head=((4, 2), "weight"),
)
def perceiver(p, x):
    q, k, v = p["latents"] @ p["q"], x @ p["k"], x @ p["v"]
    z = p["latents"] + jax.nn.softmax(q @ k.T / 2.0, axis=-1) @ v @ p["o"] + p["o_bias"]
    y = normalised(z) * p["gain"] + p["offset"]
    z = z + jax.nn.gelu(y @ p["up"] + p["up_bias"]) @ p["down"] + p["down_bias"]
    return z.mean(0) @ p["head"]


_grid = np.stack(np.meshgrid(np.arange(2), np.arange(2), indexing="ij"), -1).reshape(-1, 2)
_relative = (_grid[:, None] - _grid[None] + 1) @ np.array([3, 1])


@model(
    form(8, 8, 4),
    gain=((4,), "scale"), offset=((4,), "bias"), qkv=((4, 12), "weight"), qkv_bias=((12,), "bias"),
    table=((9, 2), "bias"), proj=((4, 4), "weight"), proj_bias=((4,), "bias"), merge=((16, 8), "weight"),
    merge_gain=((16,), "scale"), merge_offset=((16,), "bias"),
)  # fmt: skip
def shifted_windows(p, x):
    y = jnp.roll(normalised(x) * p["gain"] + p["offset"], (-1, -1), (0, 1))
    windows = y.reshape(4, 2, 4, 2, 4).transpose(0, 2, 1, 3, 4).reshape(16, 4, 4)
    q, k, v = jnp.split((windows @ p["qkv"] + p["qkv_bias"]).reshape(16, 4, 2, 6), 3, axis=-1)
    bias = p["table"][_relative].transpose(2, 0, 1)
    a = jax.nn.softmax(jnp.einsum("wnhd,wmhd->whnm", q, k) / 2**0.5 + bias, axis=-1)
    out = jnp.einsum("whnm,wmhd->wnhd", a, v).reshape(16, 4, 4) @ p["proj"] + p["proj_bias"]
    out = out.reshape(4, 4, 2, 2, 4).transpose(0, 2, 1, 3, 4).reshape(8, 8, 4)
    x = x + jnp.roll(out, (1, 1), (0, 1))
    merged = jnp.concatenate([x[::2, ::2], x[1::2, ::2], x[::2, 1::2], x[1::2, 1::2]], axis=-1)
    return (normalised(merged) * p["merge_gain"] + p["merge_offset"]) @ p["merge"]


@model(
    IMAGE,
    expand=((1, 1, 3, 12), "weight"), g1=((12,), "scale"), b1=((12,), "bias"), depth=((3, 3, 1, 12), "weight"),
    g2=((12,), "scale"), b2=((12,), "bias"), squeeze=((12, 3), "weight"), squeeze_bias=((3,), "bias"),
    excite=((3, 12), "weight"), excite_bias=((12,), "bias"), project=((1, 1, 12, 3), "weight"), g3=((3,), "scale"),
    b3=((3,), "bias"),
)  # fmt: skip
def inverted_residual_with_squeeze_excite(p, x):
    bn = lambda y, i: (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-3) * p[f"g{i}"] + p[f"b{i}"]
    y = jax.nn.silu(bn(conv(x, p["expand"]), 1))
    y = jax.nn.silu(bn(conv(y, p["depth"], groups=12), 2))
    s = jax.nn.silu(y.mean((1, 2)) @ p["squeeze"] + p["squeeze_bias"])
    y = y * jax.nn.sigmoid(s @ p["excite"] + p["excite_bias"])[:, None, None]
    return x + bn(conv(y, p["project"]), 3)


@model(
    form(2, 12, 3),
    v1=((2, 3, 4), "weight"), g1=((4,), "scale | weight"), c1=((4,), "bias"), v2=((2, 4, 4), "weight"),
    g2=((4,), "scale | weight"), c2=((4,), "bias"), skip=((3, 4), "weight"), head=((4, 1), "weight"),
    head_bias=((1,), "bias"),
)  # fmt: skip
def temporal_convolutions(p, x):
    def causal(x, v, g, dilation):
        w = g * v / jnp.sqrt((v**2).sum((0, 1)))
        return lax.conv_general_dilated(
            x, w, (1,), [(dilation, 0)], rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
        )

    y = jax.nn.relu(causal(x, p["v1"], p["g1"], 1) + p["c1"])
    y = jax.nn.relu(causal(y, p["v2"], p["g2"], 2) + p["c2"])
    return jax.nn.relu(y + x @ p["skip"])[:, -1] @ p["head"] + p["head_bias"]


@model(
    X, jax.ShapeDtypeStruct((5,), jnp.bool_),
    w1=((6, 7), "weight"), b1=((7,), "bias"), own=((7, 4), "weight"), pooled=((7, 4), "weight"), b2=((4,), "bias"),
    rho=((4, 2), "weight"), rho_bias=((2,), "bias"),
)  # fmt: skip
def deep_sets(p, x, present):
    h = jnp.where(present[:, None], jax.nn.elu(x @ p["w1"] + p["b1"]), 0)
    h = jax.nn.elu(h @ p["own"] - h.max(axis=0) @ p["pooled"] + p["b2"])
    return jnp.where(present[:, None], h, 0).sum(0) @ p["rho"] + p["rho_bias"]


@model(
    X, ints(9), ints(9),
    w=((6, 2, 4), "weight"), a_src=((2, 4), "weight"), a_dst=((2, 4), "weight"), b=((8,), "bias"),
    w2=((8, 3), "weight"), a2=((6,), "weight"), b2=((3,), "bias"),
)  # fmt: skip
def graph_attention(p, x, senders, receivers):
    def normalise(e):
        e = jnp.exp(e - jax.ops.segment_max(e, receivers, 5)[receivers])
        return e / (jax.ops.segment_sum(e, receivers, 5)[receivers] + 1e-9)

    h = jnp.einsum("nf,fhd->nhd", x, p["w"])
    e = (h * p["a_src"]).sum(-1)[senders] + (h * p["a_dst"]).sum(-1)[receivers]
    a = normalise(jax.nn.leaky_relu(e, 0.2))
    h = jax.nn.elu(jax.ops.segment_sum(a[..., None] * h[senders], receivers, 5).reshape(5, 8) + p["b"])
    h = h @ p["w2"]
    a = normalise(jax.nn.leaky_relu(jnp.concatenate([h[senders], h[receivers]], -1) @ p["a2"], 0.2))
    return jax.ops.segment_sum(a[:, None] * h[senders], receivers, 5) + p["b2"]


@model(
    X, form(5, 3),
    e1=((13, 8), "weight"), e1_bias=((8,), "bias"), e2=((8, 4), "weight"), e2_bias=((4,), "bias"),
    gate=((4, 1), "weight"), gate_bias=((1,), "bias"), x1=((4, 4), "weight"), x1_bias=((4,), "bias"),
    x2=((4, 1), "weight"), h1=((10, 6), "weight"), h1_bias=((6,), "bias"),
)  # fmt: skip
def equivariant_graph(p, h, x):
    gap = x[:, None] - x[None]
    square = (gap**2).sum(-1, keepdims=True)
    both = jnp.concatenate(
        [jnp.broadcast_to(h[:, None], (5, 5, 6)), jnp.broadcast_to(h[None], (5, 5, 6)), square], axis=-1
    )
    m = jax.nn.silu(jax.nn.silu(both @ p["e1"] + p["e1_bias"]) @ p["e2"] + p["e2_bias"])
    m = m * jax.nn.sigmoid(m @ p["gate"] + p["gate_bias"]) * (1 - jnp.eye(5))[..., None]
    x = x + (gap * (jax.nn.silu(m @ p["x1"] + p["x1_bias"]) @ p["x2"])).mean(1)
    h = h + jnp.concatenate([h, m.sum(1)], -1) @ p["h1"] + p["h1_bias"]
    return h, x


@model(
    form(7, 3), form(7, 3), form(7),
    w1=((27, 8), "weight"), b1=((8,), "bias"), w2=((35, 8), "weight"), b2=((8,), "bias"), sigma=((8,), "weight"),
    sigma_bias=((), "bias"), feature=((8, 8), "weight"), color=((11, 4), "weight"), color_bias=((4,), "bias"),
    rgb=((4, 3), "weight"), rgb_bias=((3,), "bias"), background=((3,), "other | scale | bias"),
)  # fmt: skip
def radiance_field(p, x, direction, step):
    angles = x[:, :, None] * 2.0 ** jnp.arange(4)
    code = jnp.concatenate([x, jnp.sin(angles).reshape(7, 12), jnp.cos(angles).reshape(7, 12)], -1)
    h = jax.nn.relu(code @ p["w1"] + p["b1"])
    h = jax.nn.relu(jnp.concatenate([h, code], -1) @ p["w2"] + p["b2"])
    density = jax.nn.softplus(h @ p["sigma"] + p["sigma_bias"])
    c = jax.nn.relu(jnp.concatenate([h @ p["feature"], direction], -1) @ p["color"] + p["color_bias"])
    c = jax.nn.sigmoid(c @ p["rgb"] + p["rgb_bias"])
    alpha = 1 - jnp.exp(-density * step)
    clear = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - alpha + 1e-10)])
    return ((alpha * clear[:-1])[:, None] * c).sum(0) + clear[-1] * jax.nn.sigmoid(p["background"])


@model(
    form(9, 2), form(9, 3),
    w1=((2, 8), "weight"), b1=((8,), "bias"), w2=((8, 8), "weight"), b2=((8,), "bias"), w3=((8, 3), "weight"),
    b3=((3,), "bias"), log_omega=((), "scale"),
)  # fmt: skip
def sine_network(p, x, target):
    h = jnp.sin(jnp.exp(p["log_omega"]) * (x @ p["w1"] + p["b1"]))
    h = jnp.sin(30.0 * (h @ p["w2"] + p["b2"]))
    return ((h @ p["w3"] + p["b3"] - target) ** 2).mean() + 1e-4 * sum((p[k] ** 2).sum() for k in ("w1", "w2", "w3"))


@model(
    X, form(3),
    t1=((3, 5), "weight"), t1_bias=((5,), "bias"), make_w=((5, 24), "weight"),
    make_w_bias=((24,), "bias | weight | bias+weight"), make_b=((5, 4), "weight"), make_b_bias=((4,), "bias"),
    head=((4, 2), "weight"),
)  # fmt: skip
def hypernetwork(p, x, task):
    e = jnp.tanh(task @ p["t1"] + p["t1_bias"])
    w = (e @ p["make_w"] + p["make_w_bias"]).reshape(6, 4)
    b = e @ p["make_b"] + p["make_b_bias"]
    return jax.nn.relu(x @ w + b) @ p["head"]


@model(
    X, form(5, 2),
    w=((6, 8), "weight"), b=((8,), "bias"), mix=((8, 3), "weight"), mix_bias=((3,), "bias"), mean=((8, 3, 2), "weight"),
    mean_bias=((3, 2), "bias"), spread=((8, 3), "weight"), spread_bias=((3,), "bias"), temperature=((), "scale"),
)  # fmt: skip
def mixture_density(p, x, y):
    h = jnp.tanh(x @ p["w"] + p["b"])
    log_mix = jax.nn.log_softmax((h @ p["mix"] + p["mix_bias"]) / jnp.exp(p["temperature"]), axis=-1)
    mean = jnp.einsum("nh,hkd->nkd", h, p["mean"]) + p["mean_bias"]
    sd = jax.nn.softplus(h @ p["spread"] + p["spread_bias"]) + 1e-3
    log_prob = -0.5 * (((y[:, None] - mean) / sd[..., None]) ** 2).sum(-1) - 2 * jnp.log(sd)
    return -jax.nn.logsumexp(log_mix + log_prob, axis=-1).mean()


@model(
    X,
    act_scale=((6,), "scale"), act_shift=((6,), "bias"), w1=((3, 8), "weight"), b1=((8,), "bias"),
    w2=((8, 6), "weight"), b2=((6,), "bias"), limit=((3,), "scale"), rotation=((6, 6), "weight"),
)  # fmt: skip
def coupling_flow(p, x):
    x = (x + p["act_shift"]) * jnp.exp(p["act_scale"])
    log_det = p["act_scale"].sum()
    x = x @ p["rotation"]
    log_det = log_det + jnp.linalg.slogdet(p["rotation"])[1]
    a, b = jnp.split(x, 2, axis=-1)
    s, t = jnp.split(jnp.tanh(a @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], 2, axis=-1)
    s = jnp.tanh(s) * p["limit"]
    z = jnp.concatenate([a, b * jnp.exp(s) + t], axis=-1)
    return (-0.5 * (z**2).sum(-1) + s.sum(-1) + log_det).mean()


@model(
    X,
    nu_log=((4,), "scale"), theta_log=((4,), "scale"), b_re=((6, 4), "weight"), b_im=((6, 4), "weight"),
    c_re=((4, 6), "weight"), c_im=((4, 6), "weight"), gamma_log=((4,), "scale"), d=((6,), "scale"),
    glu=((6, 12), "weight"), glu_bias=((12,), "bias"), norm=((6,), "scale"),
)  # fmt: skip
def linear_recurrent_unit(p, x):
    u = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["norm"]
    lam = jnp.exp(-jnp.exp(p["nu_log"]) + 1j * jnp.exp(p["theta_log"]))
    drive = (u @ (p["b_re"] + 1j * p["b_im"])) * jnp.exp(p["gamma_log"])

    def join(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    h = lax.associative_scan(join, (jnp.broadcast_to(lam, drive.shape), drive))[1]
    y = (h @ (p["c_re"] + 1j * p["c_im"])).real + p["d"] * u
    a, b = jnp.split(jax.nn.gelu(y) @ p["glu"] + p["glu_bias"], 2, axis=-1)
    return x + a * jax.nn.sigmoid(b)


@model(
    X,
    patterns=((7, 4), "weight"), lookup=((6, 4), "weight"), log_beta=((), "scale"), gain=((4,), "scale"),
    out=((4, 3), "weight"),
)  # fmt: skip
def modern_hopfield(p, x):
    state = normalised(x @ p["lookup"]) * p["gain"]
    for _ in range(3):
        state = jax.nn.softmax(jnp.exp(p["log_beta"]) * state @ p["patterns"].T, axis=-1) @ p["patterns"]
    return state @ p["out"]


@model(
    X,
    q=((6, 2, 3), "weight"), k=((6, 2, 3), "weight"), v=((6, 2, 3), "weight"), decay=((2,), "scale"),
    norm=((2, 3), "scale"), gate=((6, 6), "weight"), o=((6, 6), "weight"),
)  # fmt: skip
def retention(p, x):
    q, k, v = (jnp.einsum("nf,fhd->nhd", x, p[name]) for name in "qkv")
    gamma = jax.nn.sigmoid(p["decay"])

    def step(s, inputs):
        q_t, k_t, v_t = inputs
        s = gamma[:, None, None] * s + k_t[:, :, None] * v_t[:, None, :]
        return s, jnp.einsum("hd,hde->he", q_t, s)

    y = lax.scan(step, jnp.zeros((2, 3, 3)), (q, k, v))[1]
    y = normalised(y) * p["norm"]
    return (jax.nn.silu(x @ p["gate"]) * y.reshape(5, 6)) @ p["o"]


@model(
    X,
    base=((6, 6), "weight"), base_bias=((6,), "bias"), low=((6, 2), "weight"), high=((2, 6), "weight"),
    down=((6, 3), "weight"), down_bias=((3,), "bias"), up=((3, 6), "weight"), up_bias=((6,), "bias"),
    adapter_scale=((), "scale"), vector=((6,), "scale"),
)  # fmt: skip
def adapters(p, x):
    h = x @ (p["base"] + 2.0 * p["low"] @ p["high"]) + p["base_bias"]
    h = h + p["adapter_scale"] * (jax.nn.relu(h @ p["down"] + p["down_bias"]) @ p["up"] + p["up_bias"])
    return h * p["vector"]


@model(
    IDS,
    table=((11, 6), "embedding+weight | weight+embedding"), positions=((5, 6), "bias"), q=((6, 6), "weight"),
    k=((6, 6), "weight"), v=((6, 6), "weight"), prefix_k=((3, 6), "other"), prefix_v=((3, 6), "other"),
    prompt=((2, 6), "other"), gain=((6,), "scale"),
)  # fmt: skip
def prefix_tuning(p, ids):
    x = jnp.concatenate([p["prompt"], p["table"][ids] + p["positions"]])
    y = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["gain"]
    k = jnp.concatenate([p["prefix_k"], y @ p["k"]])
    v = jnp.concatenate([p["prefix_v"], y @ p["v"]])
    x = x + jax.nn.softmax(y @ p["q"] @ k.T / 6**0.5, axis=-1) @ v
    return x[2:] @ p["table"].T


@model(
    form(2, 8, 4),
    w=((8, 3, 4, 5), "weight"), b=((3, 5), "bias"), recon=((15, 6), "weight"), recon_bias=((6,), "bias"),
)  # fmt: skip
def capsules(p, u):
    squash = lambda s: s * jnp.sqrt((s**2).sum(-1, keepdims=True) + 1e-9) / (1 + (s**2).sum(-1, keepdims=True))
    votes = jnp.einsum("nid,ijde->nije", squash(u), p["w"])
    logits = jnp.zeros((2, 8, 3))
    for _ in range(3):
        v = squash((jax.nn.softmax(logits, axis=-1)[..., None] * votes).sum(1) + p["b"])
        logits = logits + jnp.einsum("nije,nje->nij", votes, v)
    return jnp.sqrt((v**2).sum(-1) + 1e-9), v.reshape(2, 15) @ p["recon"] + p["recon_bias"]


@model(
    IMAGE,
    loc=((192, 8), "weight"), loc_bias=((8,), "bias"), theta=((8, 6), "weight"), theta_bias=((6,), "bias"),
    kernel=((3, 3, 3, 4), "weight"), kernel_bias=((4,), "bias"), head=((4, 2), "weight"),
)  # fmt: skip
def spatial_transformer(p, x):
    h = jnp.tanh(x.reshape(2, -1) @ p["loc"] + p["loc_bias"])
    theta = (h @ p["theta"] + p["theta_bias"]).reshape(2, 2, 3)
    axis = jnp.linspace(-1, 1, 8)
    grid = jnp.stack([*jnp.meshgrid(axis, axis, indexing="ij"), jnp.ones((8, 8))])
    places = (jnp.einsum("nij,jhw->nihw", theta, grid) + 1) * 3.5
    sample = lambda image, at: jax.scipy.ndimage.map_coordinates(image, [at[0], at[1]], order=1)
    x = jax.vmap(jax.vmap(sample, (-1, None), -1))(x, places)
    return (jax.nn.relu(conv(x, p["kernel"]) + p["kernel_bias"])).mean((1, 2)) @ p["head"]


@model(
    IMAGE, form(2),
    t1=((8, 8), "weight"), t1_bias=((8,), "bias"), t2=((8, 4), "weight"), t2_bias=((4,), "bias"),
    enter=((3, 3, 3, 4), "weight"), enter_bias=((4,), "bias"), gain=((4,), "scale"), offset=((4,), "bias"),
    down=((3, 3, 4, 8), "weight"), down_bias=((8,), "bias"), up=((2, 2, 8, 4), "weight"), up_bias=((4,), "bias"),
    leave=((3, 3, 8, 3), "weight"), leave_bias=((3,), "bias"),
)  # fmt: skip
def diffusion_unet(p, x, t):
    angles = t[:, None] * jnp.exp(-jnp.arange(4.0, dtype=x.dtype))
    e = jax.nn.silu(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1) @ p["t1"] + p["t1_bias"])
    e = e @ p["t2"] + p["t2_bias"]
    a = conv(x, p["enter"]) + p["enter_bias"] + e[:, None, None]
    g = normalised(a.reshape(2, 64, 2, 2), (1, 3)).reshape(a.shape)
    a = jax.nn.silu(g * p["gain"] + p["offset"])
    b = jax.nn.silu(conv(a, p["down"], stride=2) + p["down_bias"])
    b = lax.conv_transpose(b, p["up"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + p["up_bias"]
    return conv(jnp.concatenate([a, b], -1), p["leave"]) + p["leave_bias"]


@model(
    X,
    queries=((3, 6), "other | bias | other+bias | bias+other"), where=((5, 6), "bias"), q=((6, 6), "weight"),
    k=((6, 6), "weight"), v=((6, 6), "weight"), sq=((6, 6), "weight"), sk=((6, 6), "weight"), sv=((6, 6), "weight"),
    gain=((6,), "scale"), offset=((6,), "bias"), classes=((6, 4), "weight"), classes_bias=((4,), "bias"),
    box=((6, 4), "weight"), box_bias=((4,), "bias"),
)  # fmt: skip
def detection_queries(p, x):
    attend = lambda a, b, c: jax.nn.softmax(a @ b.T / 6**0.5, axis=-1) @ c
    memory = x + p["where"]
    y = attend(p["queries"] @ p["q"], memory @ p["k"], x @ p["v"])
    y = normalised(y) * p["gain"] + p["offset"]
    y = y + attend((y + p["queries"]) @ p["sq"], (y + p["queries"]) @ p["sk"], y @ p["sv"])
    return y @ p["classes"] + p["classes_bias"], jax.nn.sigmoid(y @ p["box"] + p["box_bias"])


@model(
    form(12, 1), jax.ShapeDtypeStruct((6,), jnp.bool_), KEY,
    kernel=((4, 1, 6), "weight"), gain=((6,), "scale"), offset=((6,), "bias"), mask_token=((6,), "other"),
    to_codes=((6, 8), "weight"), to_codes_bias=((8,), "bias"), codebook=((2, 4, 3), "weight | embedding"),
    project=((6, 5), "weight"), project_bias=((5,), "bias"), context=((6, 5), "weight"), context_bias=((5,), "bias"),
    temperature=((), "scale"),
)  # fmt: skip
def speech_quantiser(p, x, masked, key):
    h = lax.conv_general_dilated(x[None], p["kernel"], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))[0]
    h = normalised(jax.nn.gelu(h)) * p["gain"] + p["offset"]
    logits = (h @ p["to_codes"] + p["to_codes_bias"]).reshape(6, 2, 4)
    soft = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / 2.0, axis=-1)
    hard = jax.nn.one_hot(soft.argmax(-1), 4)
    picked = hard + soft - lax.stop_gradient(soft)
    target = jnp.einsum("ngv,gvd->ngd", picked, p["codebook"]).reshape(6, 6) @ p["project"] + p["project_bias"]
    seen = jnp.where(masked[:, None], p["mask_token"], h)
    context = seen @ p["context"] + p["context_bias"]
    unit = lambda a: a / jnp.linalg.norm(a, axis=-1, keepdims=True)
    scores = unit(context) @ unit(target).T * jnp.exp(p["temperature"])
    return -jnp.diag(jax.nn.log_softmax(scores, axis=-1)).mean()


@model(
    IDS, IDS, form(5),
    users=((9, 4), "embedding"), items=((7, 4), "embedding"), user_bias=((9,), "embedding | bias"),
    item_bias=((7,), "embedding | bias"), mean=((), "bias"),
)  # fmt: skip
def matrix_factorisation(p, user, item, rating):
    said = (p["users"][user] * p["items"][item]).sum(-1) + p["user_bias"][user] + p["item_bias"][item] + p["mean"]
    return ((said - rating) ** 2).mean() + 0.01 * ((p["users"] ** 2).sum() + (p["items"] ** 2).sum())


@model(
    X,
    h1=((6, 6), "weight"), h1_bias=((6,), "bias"), t1=((6, 6), "weight"), t1_bias=((6,), "bias"),
    h2=((6, 6), "weight"), t2=((6, 6), "weight"), t2_bias=((6,), "bias"), head=((6,), "weight"), head_bias=((), "bias"),
)  # fmt: skip
def highway(p, x):
    t = jax.nn.sigmoid(x @ p["t1"] + p["t1_bias"])
    x = t * jax.nn.relu(x @ p["h1"] + p["h1_bias"]) + (1 - t) * x
    t = jax.nn.sigmoid(x @ p["t2"] + p["t2_bias"])
    x = t * jnp.tanh(x @ p["h2"]) + (1 - t) * x
    return x @ p["head"] + p["head_bias"]


@model(
    X,
    w=((6, 4), "weight"), u=((4,), "scale"), b=((4,), "bias"), w2=((4, 4), "weight"), u2=((4,), "scale"),
    b2=((4,), "bias"), start=((4,), "other | scale | other+scale | scale+other"),
)  # fmt: skip
def independent_recurrence(p, x):
    def layer(x, w, u, b, start):
        def step(h, z):
            h = jax.nn.relu(z + u * h + b)
            return h, h

        return lax.scan(step, start, x @ w)[1]

    h = layer(x, p["w"], p["u"], p["b"], jnp.zeros(4, x.dtype))
    return layer(h, p["w2"], p["u2"], p["b2"], p["start"])[-1]


@model(
    X,
    w=((6, 16), "weight"), u=((4, 16), "weight"), b=((16,), "bias"), peep_i=((4,), "scale"), peep_f=((4,), "scale"),
    peep_o=((4,), "scale"), norm=((4,), "scale"), norm_bias=((4,), "bias"), head=((4, 3), "weight"),
)  # fmt: skip
def peephole_lstm(p, x):
    def step(state, x_t):
        h, c = state
        i, f, g, o = jnp.split(x_t @ p["w"] + h @ p["u"] + p["b"], 4)
        i, f = jax.nn.sigmoid(i + p["peep_i"] * c), jax.nn.sigmoid(f + p["peep_f"] * c + 1.0)
        c = f * c + i * jnp.tanh(g)
        o = jax.nn.sigmoid(o + p["peep_o"] * c)
        h = o * jnp.tanh(normalised(c) * p["norm"] + p["norm_bias"])
        return (h, c), h

    return lax.scan(step, (jnp.zeros(4), jnp.zeros(4)), x)[1] @ p["head"]


@model(
    form(2, 5), KEY,
    map1=((5, 6), "weight"), map1_bias=((6,), "bias"), constant=((4, 4, 3), "other | weight"), style=((6, 3), "weight"),
    style_bias=((3,), "bias"), kernel=((3, 3, 3, 4), "weight"), noise=((), "bias"), bias=((4,), "bias"),
    rgb=((4, 3), "weight"), rgb_bias=((3,), "bias"),
)  # fmt: skip
def style_generator(p, z, key):
    w = jax.nn.leaky_relu(z @ p["map1"] + p["map1_bias"], 0.2)
    s = w @ p["style"] + p["style_bias"]

    def one(s, key):
        kernel = p["kernel"] * s[:, None]
        kernel = kernel * lax.rsqrt((kernel**2).sum((0, 1, 2)) + 1e-8)
        y = conv(p["constant"][None], kernel)[0]
        y = y + p["noise"] * jax.random.normal(key, (4, 4, 1)) + p["bias"]
        return jax.nn.leaky_relu(y, 0.2) @ p["rgb"] + p["rgb_bias"]

    return jax.vmap(one)(s, jax.random.split(key, 2))


@model(
    form(2, 4, 12),
    patch=((12, 6), "weight"), patch_bias=((6,), "bias"), cls=((6,), "other"), positions=((1, 5, 6), "bias"),
    gain=((6,), "scale"), offset=((6,), "bias"), qkv=((6, 3, 2, 3), "weight"), qkv_bias=((3, 2, 3), "bias"),
    logit_scale=((2, 1, 1), "scale"), out=((2, 3, 6), "weight"), out_bias=((6,), "bias"), layer_scale=((6,), "scale"),
    head=((6, 3), "weight"), head_bias=((3,), "bias"),
)  # fmt: skip
def vision_transformer_cosine(p, patches):
    x = patches @ p["patch"] + p["patch_bias"]
    x = jnp.concatenate([jnp.broadcast_to(p["cls"], (2, 1, 6)), x], axis=1) + p["positions"]
    y = normalised(x) * p["gain"] + p["offset"]
    q, k, v = jnp.moveaxis(jnp.einsum("nte,eshd->nsthd", y, p["qkv"]) + p["qkv_bias"][:, None], 1, 0)
    unit = lambda a: a / (jnp.linalg.norm(a, axis=-1, keepdims=True) + 1e-6)
    a = jnp.einsum("nthd,nshd->nhts", unit(q), unit(k)) * jnp.exp(jnp.minimum(p["logit_scale"], 4.6))
    y = jnp.einsum("nhts,nshd,hde->nte", jax.nn.softmax(a, axis=-1), v, p["out"]) + p["out_bias"]
    x = x + y * p["layer_scale"]
    return x[:, 0] @ p["head"] + p["head_bias"]


_buckets = np.minimum(np.abs(np.arange(5)[:, None] - np.arange(5)), 3)


@model(
    IDS,
    table=((11, 6), "embedding"),
    q=((6, 6), "weight"),
    k=((6, 6), "weight"),
    v=((6, 6), "weight"),
    o=((6, 6), "weight"),
    buckets=((4, 2), "bias"),
    norm=((6,), "scale"),
    wi0=((6, 8), "weight"),
    wi1=((6, 8), "weight"),
    wo=((8, 6), "weight"),
    last=((6,), "scale"),
    head=((6, 11), "weight"),
)
def relative_buckets(p, ids):
    rms = lambda x, g: x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * g
    x = p["table"][ids]
    y = rms(x, p["norm"])
    q, k, v = ((y @ p[name]).reshape(5, 2, 3) for name in "qkv")
    s = jnp.einsum("thd,shd->hts", q, k) + p["buckets"][_buckets].transpose(2, 0, 1)
    x = x + jnp.einsum("hts,shd->thd", jax.nn.softmax(s, axis=-1), v).reshape(5, 6) @ p["o"]
    x = x + (jax.nn.gelu(x @ p["wi0"]) * (x @ p["wi1"])) @ p["wo"]
    return rms(x, p["last"]) @ p["head"]


@model(
    X,
    centres=((4, 6), "bias"), log_widths=((4,), "scale"), out=((4, 2), "weight"), out_bias=((2,), "bias"),
    linear=((6, 2), "weight"),
)  # fmt: skip
def radial_basis(p, x):
    square = ((x[:, None] - p["centres"]) ** 2).sum(-1)
    phi = jnp.exp(-square * jnp.exp(-2 * p["log_widths"]))
    return phi @ p["out"] + p["out_bias"] + x @ p["linear"]


@model(
    X,
    w0=((), "bias"), w=((6,), "weight"), v=((6, 3), "weight"), cross=((6,), "weight"), cross_bias=((6,), "bias"),
    d1=((6, 5), "weight"), d1_bias=((5,), "bias"), out=((11,), "weight"),
)  # fmt: skip
def factorisation_and_cross(p, x):
    pairs = 0.5 * ((x @ p["v"]) ** 2 - (x**2) @ (p["v"] ** 2)).sum(-1)
    crossed = x * (x @ p["cross"])[:, None] + p["cross_bias"] + x
    deep = jax.nn.relu(x @ p["d1"] + p["d1_bias"])
    return p["w0"] + x @ p["w"] + pairs + jnp.concatenate([crossed, deep], -1) @ p["out"]


@model(
    X, IDS,
    table=((9, 4), "embedding"), wk=((6, 5), "weight"), wq=((4, 5), "weight"), energy_bias=((5,), "bias"),
    energy=((5,), "weight"), w=((10, 12), "weight"), u=((4, 12), "weight"), b=((12,), "bias"),
    start=((4,), "other | weight | other+weight | weight+other"), out=((10, 9), "weight"), out_bias=((9,), "bias"),
)  # fmt: skip
def additive_attention_decoder(p, memory, words):
    keys = memory @ p["wk"]

    def step(h, word):
        a = jax.nn.softmax(jnp.tanh(keys + h @ p["wq"] + p["energy_bias"]) @ p["energy"])
        context = a @ memory
        i, r, n = jnp.split(jnp.concatenate([p["table"][word], context]) @ p["w"] + p["b"], 3)
        hi, hr, hn = jnp.split(h @ p["u"], 3)
        z = jax.nn.sigmoid(i + hi)
        h = z * h + (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn)
        return h, jnp.concatenate([h, context]) @ p["out"] + p["out_bias"]

    return lax.scan(step, p["start"], words)[1]


@model(
    X,
    router=((6, 3), "weight"), router_bias=((3,), "bias"), w1=((3, 6, 8), "weight"), b1=((3, 8), "bias"),
    w2=((3, 8, 6), "weight"), b2=((3, 6), "bias"), shared=((6, 6), "weight"),
)  # fmt: skip
def soft_experts(p, x):
    gates = jax.nn.softmax(x @ p["router"] + p["router_bias"], axis=-1)
    h = jax.nn.gelu(jnp.einsum("nf,efh->neh", x, p["w1"]) + p["b1"])
    y = jnp.einsum("neh,ehf->nef", h, p["w2"]) + p["b2"]
    return jnp.einsum("ne,nef->nf", gates, y) + x @ p["shared"]


@model(
    X,
    w_hat=((6, 4), "weight"), m_hat=((6, 4), "weight | scale"), gate=((6, 4), "weight"), head=((4, 1), "weight"),
)  # fmt: skip
def arithmetic_units(p, x):
    w = jnp.tanh(p["w_hat"]) * jax.nn.sigmoid(p["m_hat"])
    g = jax.nn.sigmoid(x @ p["gate"])
    return (g * (x @ w) + (1 - g) * jnp.exp(jnp.log(jnp.abs(x) + 1e-7) @ w)) @ p["head"]


@model(
    form(4), form(6),
    w1=((5, 8), "weight"), b1=((8,), "bias"), w2=((8, 4), "weight"), b2=((4,), "bias"), log_rate=((4,), "scale"),
    read=((4,), "weight"),
)  # fmt: skip
def neural_ode_with_leak(p, y, times):
    def field(y, t):
        return jnp.tanh(jnp.append(y, t) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"] - jnp.exp(p["log_rate"]) * y

    def step(y, ends):
        t, h = ends[0], ends[1] - ends[0]
        half = y + 0.5 * h * field(y, t)
        return y + h * field(half, t + 0.5 * h), None

    return lax.scan(step, y, jnp.stack([times[:-1], times[1:]], axis=1))[0] @ p["read"]


@model(
    IMAGE,
    local=((3, 3, 3, 6), "weight"), local_bias=((6,), "bias"), point=((6, 4), "weight"), gain=((4,), "scale"),
    offset=((4,), "bias"), qkv=((4, 12), "weight"), out=((4, 4), "weight"), out_bias=((4,), "bias"),
    back=((4, 3), "weight"), fuse=((3, 3, 6, 5), "weight"), slope=((5,), "scale"),
)  # fmt: skip
def mobile_vision_transformer(p, x):
    y = jax.nn.hard_swish(conv(x, p["local"]) + p["local_bias"]) @ p["point"]
    y = y.reshape(2, 4, 2, 4, 2, 4).transpose(0, 2, 4, 1, 3, 5).reshape(2, 4, 16, 4)
    z = normalised(y) * p["gain"] + p["offset"]
    q, k, v = jnp.split(z @ p["qkv"], 3, axis=-1)
    a = jax.nn.softmax(jnp.einsum("bptd,bpsd->bpts", q, k) / 2.0, axis=-1)
    y = y + jnp.einsum("bpts,bpsd->bptd", a, v) @ p["out"] + p["out_bias"]
    y = y.reshape(2, 2, 2, 4, 4, 4).transpose(0, 3, 1, 4, 2, 5).reshape(2, 8, 8, 4)
    z = conv(jnp.concatenate([x, y @ p["back"]], axis=-1), p["fuse"])
    return jnp.maximum(z, 0) + p["slope"] * jnp.minimum(z, 0)


@pytest.mark.parametrize(("fn", "params", "args", "expected"), MODELS)
def test_roles(fn, params, args, expected):
    check_or_warned(fn, params, args, expected)
