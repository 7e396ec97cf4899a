"""What leaves are used for where more than a name or a rank is in the way: each kind on three functions or more.

The functions are written as the packages that they are named after write theirs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.foreign.cases import IDS, KEY, OLD_KEY, ROW, B, W, X, check, entering, shapes

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them

CASES = []
case = entering(CASES)


# --- a product without contraction is no weight -----------------------------------------------------------------------

PRODUCT = "a product without contraction"


@case(PRODUCT, shapes(g=(3,)), [X], g="scale")
def penzai_rms_norm(p, x):
    x = x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    return jnp.einsum("td,d->td", x, p["g"])


@case(PRODUCT, shapes(g=(2, 4), w=(3, 2, 4)), [X], g="scale", w="weight")
def scale_of_heads(p, x):
    return jnp.einsum("thd,hd->thd", jnp.einsum("ti,ihd->thd", x, p["w"]), p["g"])


@case(PRODUCT, shapes(w=(3,), v=(1, 4)), [X], w="weight", v="weight")
def one_unit_and_one_feature(p, x):
    return jnp.einsum("td,d->t", x, p["w"])[:, None] @ p["v"]


# --- noise is no data -------------------------------------------------------------------------------------------------

NOISE = "noise"


@case(NOISE, shapes(mu=W, rho=W, bias=B), [X, KEY], mu="weight", rho="weight", bias="bias")
def bayes_by_backprop(p, x, key):
    w = p["mu"] + jax.nn.softplus(p["rho"]) * jax.random.normal(key, p["mu"].shape)
    kl = 0.5 * jnp.sum(p["mu"] ** 2 + jax.nn.softplus(p["rho"]) ** 2 - 2 * jnp.log(jax.nn.softplus(p["rho"])))
    return jnp.sum(x @ w + p["bias"]) + kl


@case(NOISE, shapes(w=W, b=B), [X, OLD_KEY], w="weight", b="bias")
def drop_connect(p, x, key):
    keep = jax.random.bernoulli(key, 0.5, p["w"].shape)
    return x @ (p["w"] * keep / 0.5) + p["b"]


@case(NOISE, shapes(w=W, b=B), [X, KEY], w="weight", b="bias")
def drop_connect_by_where(p, x, key):
    return x @ jnp.where(jax.random.bernoulli(key, 0.5, p["w"].shape), p["w"], 0.0) + p["b"]


@case(
    NOISE,
    shapes(mu_w=W, sigma_w=W, mu_b=B, sigma_b=B),
    [X, KEY],
    mu_w="weight",
    sigma_w="weight",
    mu_b="bias",
    sigma_b="bias",
)
def noisy_net(p, x, key):
    k1, k2 = jax.random.split(key)
    into, out = jax.random.normal(k1, (3, 1)), jax.random.normal(k2, (4,))
    signed = lambda e: jnp.sign(e) * jnp.sqrt(jnp.abs(e))
    w = p["mu_w"] + p["sigma_w"] * signed(into) * signed(out)
    return x @ w + p["mu_b"] + p["sigma_b"] * signed(out)


# --- a leaf that meets a constant or another leaf first ---------------------------------------------------------------

FIRST = "meets constants or leaves first"


@case(FIRST, shapes(w_ih=(3, 12), w_hh=(4, 12), b_ih=(12,), b_hh=(12,)), [ROW], w_ih="weight", w_hh="weight",
      b_ih="bias", b_hh="bias")  # fmt: skip
def gru_from_zero(p, x):
    h = jnp.zeros(4)
    i_r, i_z, i_n = jnp.split(x @ p["w_ih"] + p["b_ih"], 3)
    h_r, h_z, h_n = jnp.split(h @ p["w_hh"] + p["b_hh"], 3)
    r, z = jax.nn.sigmoid(i_r + h_r), jax.nn.sigmoid(i_z + h_z)
    n = jnp.tanh(i_n + r * h_n)
    return (1 - z) * n + z * h


QUERIES = shapes(q=(2, 4), wq=(4, 6), bq=(6,), wk=(3, 6))


@case(FIRST, QUERIES, [X], q="other", wq="weight", bq="bias", wk="weight")
def learned_queries(p, x):
    q, k = p["q"] @ p["wq"] + p["bq"], x @ p["wk"]
    return jax.nn.softmax(q @ k.T) @ k


@case(FIRST, QUERIES, [X], q="other", wq="weight", bq="bias", wk="weight")
def learned_queries_transposed(p, x):
    q = (p["wq"].T @ p["q"].T + p["bq"][:, None]).T
    return jnp.einsum("qd,td->qt", q, x @ p["wk"])


@case(FIRST, shapes(q=(4,), wq=(4, 6), bq=(6,), wk=(3, 6)), [X], q="other", wq="weight", bq="bias", wk="weight")
def pooling_by_one_query(p, x):
    return jax.nn.softmax((x @ p["wk"]) @ jnp.tanh(p["q"] @ p["wq"] + p["bq"]))


@case(FIRST, shapes(w=W, b=B, a=W), [X], w="weight", b="bias", a="weight")
def constant_branch(p, x):
    c = jnp.linspace(-1, 1, 3, dtype=jnp.float32)
    return jax.nn.relu(c @ p["w"] + p["b"]) * (x @ p["a"])


@case(FIRST, shapes(latents=(2, 4), g=(4,), s=(4,), wq=(4, 6), bq=(6,), wk=(3, 6), wo=(3, 4)), [X], latents="other",
      g="scale", s="bias", wq="weight", bq="bias", wk="weight", wo="weight")  # fmt: skip
def perceiver(p, x):
    z = p["latents"]
    centred = z - z.mean(-1, keepdims=True)
    normed = centred * lax.rsqrt(centred.var(-1, keepdims=True) + 1e-5) * p["g"] + p["s"]
    scores = (normed @ p["wq"] + p["bq"]) @ (x @ p["wk"]).T
    return z + jax.nn.softmax(scores) @ x @ p["wo"]


@case(FIRST, shapes(w=W, a=(3, 2), b=(2, 4)), [X], w="weight", a="weight", b="weight")
def lora(p, x):
    return x @ (p["w"] + 2.0 * p["a"] @ p["b"])


@case(FIRST, shapes(w=(4, 4), u=(3, 4), b=B), [X], w="weight", u="weight", b="bias")
def rnn_from_zero(p, xs):
    return lax.scan(lambda h, x: (jnp.tanh(x @ p["u"] + h @ p["w"] + p["b"]), None), jnp.zeros(4), xs)[0]


# --- scalars of params only -------------------------------------------------------------------------------------------

SCALARS = "scalars of params only"


@case(SCALARS, shapes(loc=(3,), scale=(3, 3)), [X], loc="bias", scale="weight")
def scale_matvec_tril(p, x):
    lower = jnp.tril(p["scale"], -1) + jnp.diag(jax.nn.softplus(jnp.diag(p["scale"])))
    z = lax.linalg.triangular_solve(lower, (x - p["loc"]).T, left_side=True, lower=True)
    return -0.5 * jnp.sum(z**2) - len(x) * jnp.sum(jnp.log(jnp.diag(lower)))


@case(SCALARS, shapes(w=(3, 3), b=(3,)), [X], w="weight", b="bias")
def linear_flow(p, x):
    z = x @ p["w"] + p["b"]
    return -0.5 * jnp.sum(z**2) + len(x) * jnp.linalg.slogdet(p["w"])[1]


@case(SCALARS, shapes(log_scale=(3,), shift=(3,)), [X], log_scale="scale", shift="bias")
def affine_flow(p, x):
    z = (x - p["shift"]) * jnp.exp(-p["log_scale"])
    return -0.5 * jnp.sum(z**2) - jnp.sum(p["log_scale"])


@case(SCALARS, shapes(w=(3, 3), gain=(3,), b=(3,)), [X], w="weight", gain="scale", b="bias")
def block_of_a_neural_flow(p, x):
    diagonal = jnp.eye(3, dtype=bool)
    w = jnp.where(diagonal, jnp.exp(p["w"]), jnp.tril(p["w"]))
    norm = jnp.linalg.norm(w, axis=0)
    z = x @ (jnp.exp(p["gain"]) * w / norm) + p["b"]
    log_slopes = jnp.diag(p["w"]) + p["gain"] - jnp.log(norm)
    return jnp.tanh(z), jnp.log1p(-(jnp.tanh(z) ** 2)) + log_slopes


@case(SCALARS, shapes(log_scale=(3,), shift=(3,)), [X], log_scale="scale", shift="bias")
def affine_flow_entry_by_entry(p, x):
    z = (x - p["shift"]) * jnp.exp(-p["log_scale"])
    return -0.5 * z**2 - p["log_scale"]


@case(SCALARS, shapes(rho=(3,), shift=(3,)), [X], rho="scale", shift="bias")
def affine_flow_by_softplus(p, x):
    scale = jax.nn.softplus(p["rho"]) + 1e-3
    return -0.5 * (x * scale + p["shift"]) ** 2 + jnp.log(scale)


@case(SCALARS, shapes(r=(3,), shift=(3,)), [X], r="scale", shift="bias")
def affine_flow_by_sigmoid(p, x):
    return -0.5 * (x * jax.nn.sigmoid(p["r"]) + p["shift"]) ** 2 + jax.nn.log_sigmoid(p["r"])


@case(SCALARS, shapes(mean=(3,), log_sigma=(3,)), [X], mean="bias", log_sigma="scale")
def normal_density(p, x):
    return jnp.mean(0.5 * jnp.square((x - p["mean"]) / jnp.exp(p["log_sigma"])) + p["log_sigma"] + 0.92)


@case(SCALARS, shapes(b=(3,), w=(3, 4), c=(4,)), [X], b="bias", w="weight", c="bias")
def exponentials_of_data_are_no_scales(p, x):
    return jax.nn.softmax(jnp.exp(x + p["b"]) @ p["w"] + p["c"])


@case(SCALARS, shapes(w=W, b=B), [X], w="weight", b="bias")
def priors(p, x):
    prior = sum(jax.scipy.stats.norm.logpdf(leaf).sum() for leaf in p.values())
    return jnp.sum(jnp.tanh(x @ (p["w"] * 1.5) + p["b"] * 0.5)) + prior


@case(SCALARS, shapes(a=(3, 3), b=(3,)), [ROW], a="weight", b="bias")
def solved(p, x):
    return jnp.linalg.solve(p["a"], x) + p["b"]


# --- layout -----------------------------------------------------------------------------------------------------------

LAYOUT = "layout"


@case(LAYOUT, shapes(w=(3, 2), b=(2,)), [X], w="weight", b="bias")
def padded(p, x):
    return x @ jnp.pad(p["w"], ((0, 0), (0, 2))) + jnp.pad(p["b"], (0, 2))


@case(LAYOUT, shapes(q=(3, 4), k=(3, 4), bq=(4,), bk=(4,)), [X], q="weight", k="weight", bq="bias", bk="bias")
def joined(p, x):
    return x @ jnp.concatenate([p["q"], p["k"]], axis=1) + jnp.concatenate([p["bq"], p["bk"]])


@case(LAYOUT, shapes(w=W, b=(2,), table=(7, 3)), [IDS], w="weight", b="bias", table="embedding")
def tiled_and_put(p, ids):
    x = jax.device_put(p["table"])[ids]
    return x @ jax.device_put(p["w"]) + jnp.tile(p["b"], 2)


# --- positions and tokens ---------------------------------------------------------------------------------------------

POSITIONS = "positions and tokens"


@case(POSITIONS, shapes(table=(7, 3), position=(9, 3), w=W), [IDS], table="embedding", position="bias", w="weight")
def positions_by_arange(p, ids):
    return (p["table"][ids] + p["position"][jnp.arange(5)]) @ p["w"]


@case(POSITIONS, shapes(position=(9, 3), w=W), [X], position="bias", w="weight")
def positions_sliced(p, x):
    return (x + p["position"][: x.shape[0]]) @ p["w"]


@case(POSITIONS, shapes(table=(9, 2), q=(3, 4), k=(3, 4)), [X], table="bias", q="weight", k="weight")
def swin_table(p, x):
    q, k = (jnp.reshape(x @ p[name], (5, 2, 2)) for name in "qk")
    places = np.arange(5)[:, None] - np.arange(5)[None] + 4
    return jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k) + jnp.moveaxis(p["table"][places], -1, 0))


@case(POSITIONS, shapes(cls=(1, 3), registers=(2, 3), mask=(3,), position=(6, 3), w=W), [X, IDS], cls="other",
      registers="other", mask="other", position="bias", w="weight")  # fmt: skip
def tokens_of_a_vit(p, x, hidden):
    x = jnp.where((hidden > 0)[:, None], p["mask"], x)
    x = jnp.concatenate([p["cls"], x]) + p["position"]
    return jnp.concatenate([x, p["registers"]]) @ p["w"]


@case(POSITIONS, shapes(sinks=(5, 1), prompts=(2, 3), w=(3, 5)), [X], sinks="other", prompts="other", w="weight")
def sinks_and_prompts(p, x):
    scores = jnp.concatenate([x, p["prompts"]])[:5] @ p["w"]
    return jax.nn.softmax(jnp.concatenate([scores, p["sinks"]], axis=1))


@case(POSITIONS, shapes(h0=(4,), w=(3, 4), u=(4, 4)), [X], h0="other", w="weight", u="weight")
def learned_start(p, xs):
    return lax.scan(lambda h, x: (jnp.tanh(x @ p["w"] + h @ p["u"]), None), p["h0"], xs)[0]


@case(POSITIONS, shapes(grid=(4, 4, 3), w=(3, 3)), [jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)], grid="bias",
      w="weight")  # fmt: skip
def positions_resized(p, x):
    return x @ p["w"] + jax.image.resize(p["grid"], (8, 8, 3), "bilinear")


# --- gains on weights -------------------------------------------------------------------------------------------------

GAINS = "gains on weights"


def normed(w):
    return w / jnp.linalg.norm(w, axis=0, keepdims=True)


@case(GAINS, shapes(v=W, g=B, b=B), [X], v="weight", g="scale", b="bias")
def weight_norm(p, x):
    return x @ (normed(p["v"]) * p["g"]) + p["b"]


@case(GAINS, shapes(w=W, down=(3, 2), up=(2, 4), m=(1, 4)), [X], w="weight", down="weight", up="weight", m="scale")
def dora(p, x):
    return x @ (p["m"] * normed(p["w"] + p["down"] @ p["up"]))


@case(GAINS, shapes(kernel=(3, 3, 3, 4), gain=(4,), b=B), [jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32)],
      kernel="weight", gain="scale", b="bias")  # fmt: skip
def standardised_kernel(p, x):
    k = p["kernel"]
    k = (k - k.mean((0, 1, 2))) / jnp.sqrt(k.var((0, 1, 2)) + 1e-4) * p["gain"]
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + p["b"]


@case(GAINS, shapes(w=W, tau=()), [X], w="weight", tau="scale")
def temperature_of_a_weight(p, x):
    return x @ (p["w"] * jnp.exp(p["tau"]))


@case(GAINS, shapes(gate=(3, 2), w=(2, *W), b=(2, *B)), [ROW], gate="weight", w="weight", b="bias")
def mixed_kernels(p, x):
    gates = jax.nn.softmax(x @ p["gate"])
    return x @ jnp.einsum("k,kde->de", gates, p["w"]) + gates @ p["b"]


@case(GAINS, shapes(gate=(3, 2), w=(2, *W), b=(2, *B)), [X], gate="weight", w="weight", b="bias")
def soft_experts(p, x):
    gates = jax.nn.softmax(x @ p["gate"])
    return jnp.einsum("nk,nke->ne", gates, jnp.einsum("nd,kde->nke", x, p["w"])) + gates @ p["b"]


@case(GAINS, shapes(keys=(3, 8), values=(8, 3), w=(3, 3), b=(3,)), [X], keys="weight", values="weight", w="weight",
      b="bias")  # fmt: skip
def a_softmax_that_mixes_nothing_else(p, x):
    x = x + jax.nn.softmax(x @ p["keys"]) @ p["values"]
    return jax.nn.softmax(x) @ p["w"] + p["b"]


# --- networks on constants --------------------------------------------------------------------------------------------

CONSTANTS = "networks on constants"


@case(CONSTANTS, shapes(w1=(2, 8), b1=(8,), w2=(8, 2), q=(3, 4), k=(3, 4)), [X], w1="weight", b1="bias", w2="weight",
      q="weight", k="weight")  # fmt: skip
def continuous_position_bias(p, x):
    q, k = (jnp.reshape(x @ p[name], (5, 2, 2)) for name in "qk")
    offsets = np.stack(np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 3)), -1).reshape(9, 2)
    table = jax.nn.relu(jnp.asarray(offsets, jnp.float32) @ p["w1"] + p["b1"]) @ p["w2"]
    places = np.arange(5)[:, None] - np.arange(5)[None] + 4
    return jnp.einsum("qhd,khd->hqk", q, k) + jnp.moveaxis(16 * jax.nn.sigmoid(table[places]), -1, 0)


@case(CONSTANTS, shapes(w1=(4, 8), b1=(8,), w2=(8, 3), b2=(3,)), [X], w1="weight", b1="bias", w2="weight", b2="bias")
def mlp_over_positions(p, x):
    angles = jnp.arange(5.0, dtype=jnp.float32)[:, None] * jnp.asarray([1.0, 0.1], jnp.float32)
    features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return x + jax.nn.gelu(features @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


@case(CONSTANTS, shapes(table=(5, 2), w1=(2, 8), b1=(8,), w2=(8, 3)), [X], table="embedding", w1="weight", b1="bias",
      w2="weight")  # fmt: skip
def mlp_over_embedded_positions(p, x):
    return x * (jnp.tanh(p["table"][jnp.arange(5)] @ p["w1"] + p["b1"]) @ p["w2"])


@case(CONSTANTS, shapes(w1=(6, 8), b1=(8,), w2=(8, 4), b2=(4,)), [KEY], w1="weight", b1="bias", w2="weight", b2="bias")
def generator(p, key):
    return jnp.tanh(jax.random.normal(key, (5, 6)) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


@pytest.mark.parametrize(("fn", "params", "args", "expected"), CASES)
def test_role(fn, params, args, expected):
    check(fn, params, args, expected)
