"""Where data are multiplied with a leaf that is a scale all the same, and other neighbours of the rules on products."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.foreign.cases import check_or_warned, convolved, entering_models, form, ints, normalised

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them

X, IDS = form(5, 6), ints(5)

MODELS = []
model = entering_models(MODELS)


@model(X, form(7, 6), g=((6,), "scale"), b=((6,), "bias"), wq=((6, 6), "weight"), wo=((6, 6), "weight"))
def fused_norm_in_every_layer(p, x, memory):
    def layer(h, _):
        m = lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-6) * p["g"]
        q = (h * m) @ p["wq"]
        return h + jax.nn.softmax(q @ memory.T) @ memory @ p["wo"] + p["b"], None

    return lax.scan(layer, x, None, length=3)[0]


@model(X, g=((6,), "scale"), b=((6,), "bias"), w=((6, 6), "weight"))
def fused_norm_unrolled(p, x):
    h = x
    for _ in range(2):
        m = lax.rsqrt(h.var(-1, keepdims=True) + 1e-6) * p["g"]
        h = h + jnp.tanh(((h - h.mean(-1, keepdims=True)) * m + p["b"]) @ p["w"])
    return h


@model(X, form(7, 6), g=((6,), "scale"), b=((6,), "bias"))
def norm_then_scores(p, x, y):
    m = lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * p["g"]
    return ((x - x.mean(-1, keepdims=True)) * m + p["b"]) @ y.T


@model(
    form(2, 4),
    style=((4, 8), "weight"),
    sb=((8,), "bias"),
    const=((4, 4, 8), "other"),
    kernel=((3, 3, 8, 6), "weight"),
    bias=((6,), "bias"),
)
def stylegan2_first_layer(p, w):
    s = w @ p["style"] + p["sb"]
    k = p["kernel"][None] * s[:, None, None, :, None]
    k = k * lax.rsqrt((k**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    return jax.vmap(lambda k: convolved(p["const"][None], k)[0])(k) + p["bias"]


@model(
    form(2, 4), const=((4, 4, 8), "other"), kernel=((3, 3, 8, 6), "weight"), bias=((6,), "bias"), mod=((4, 6), "weight")
)
def constant_through_a_convolution(p, w):
    return (convolved(p["const"][None], p["kernel"]) + p["bias"]) * (w @ p["mod"])[:, None, None]


@model(X, logit=((6,), "scale"))
def independent_bernoulli(p, x):
    return (x * jax.nn.log_sigmoid(p["logit"]) + (1 - x) * jax.nn.log_sigmoid(-p["logit"])).sum(-1)


@model(X, form(5, 2), X, w1=((6, 4), "weight"), b1=((4,), "bias"), w2=((4, 2), "weight"), b2=((2,), "bias"))
def two_inner_steps(p, x, y, x2):
    net = lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    q = p
    for _ in range(2):
        g = jax.grad(lambda q: jnp.mean((net(q, x) - y) ** 2))(q)
        q = jax.tree.map(lambda a, b: a - 0.1 * b, q, g)
    return net(q, x2)


@model(form(2, 6, 6, 4), form(2, 9), kernel=((3, 3, 4, 5), "weight"), g=((5,), "scale"), b=((5,), "bias"))
def norm_of_a_batch_folded_in_the_kernel(p, x, _):
    z = convolved(x, p["kernel"])
    m = z.mean((0, 1, 2))
    r = lax.rsqrt(z.var((0, 1, 2)) + 1e-5)
    return convolved(x, p["kernel"] * (p["g"] * r)) + p["b"] - m * p["g"] * r


@model(X, w=((6, 4), "weight"), g=((4,), "scale"), b=((4,), "bias"), scale=((4,), "scale"), u=((4, 4), "weight"))
def layer_scale_between_norms(p, x):
    h = x @ p["w"]
    h = h * p["scale"]
    h = normalised(h) * p["g"] + p["b"]
    return h @ p["u"]


@model(form(5, 6, 4), a=((4,), "scale"), w=((4, 3), "weight"))
def scale_then_mean_pool(p, x):
    return (x * p["a"]).mean(1) @ p["w"]


@model(form(5, 6, 4), a=((4,), "scale"), w=((4, 3), "weight"))
def scale_then_rms(p, x):
    h = x * p["a"]
    return (h * lax.rsqrt((h * h).mean(-1, keepdims=True))) @ p["w"]


@model(X, form(5), w=((6, 4), "weight"), b=((4,), "bias"), film=((6, 8), "weight"), fb=((8,), "bias"))
def film(p, x, _):
    h = x @ p["w"] + p["b"]
    s, t = jnp.split(x @ p["film"] + p["fb"], 2, -1)
    return h * (1 + s) + t


@model(X, h0=((4,), "other"), u=((4, 4), "weight"), w=((6, 4), "weight"), b=((4,), "bias"), z=((6, 4), "weight"))
def minimal_gate_from_a_start(p, xs):
    def step(h, x):
        z = jax.nn.sigmoid(x @ p["z"])
        return (1 - z) * h + z * jnp.tanh(x @ p["w"] + h @ p["u"] + p["b"]), None

    return lax.scan(step, p["h0"], xs)[0]


@model(X, alpha=((4,), "scale"), w=((6, 4), "weight"), b=((4,), "bias"), v=((6, 4), "weight"))
def leaf_gate(p, x):
    return p["alpha"] * (x @ p["w"] + p["b"]) + (1 - p["alpha"]) * (x @ p["v"])


@model(X, form(5, 6), w=((6, 4), "weight"), b=((4,), "bias"), gw=((6, 4), "weight"), gb=((4,), "bias"))
def highway(p, x, y):
    g = jax.nn.sigmoid(x @ p["gw"] + p["gb"])
    return g * (x @ p["w"] + p["b"]) + (1 - g) * y[:, :4]


@model(X, table=((8, 4), "embedding"), w=((6, 8), "weight"), b=((4,), "bias"))
def soft_codes(p, x):
    a = jax.nn.one_hot(jnp.argmax(x @ p["w"], -1), 8, dtype=jnp.float32)
    return a @ p["table"] + p["b"]


@model(ints(5, 3), form(5), table=((9, 4), "embedding"), w=((4, 1), "weight"), b=((1,), "bias"))
def mean_pool_with_lengths(p, ids, n):
    return (p["table"][ids] * (ids > 0)[..., None]).sum(1) / n[:, None] @ p["w"] + p["b"]


@model(IDS, IDS, e=((9, 4), "embedding"), r=((7, 4), "embedding"))
def rotations(p, h, r):
    a = p["e"][h]
    t = p["r"][r]
    return jnp.concatenate(
        [
            a[:, :2] * jnp.cos(t[:, :2]) - a[:, 2:] * jnp.sin(t[:, :2]),
            a[:, :2] * jnp.sin(t[:, :2]) + a[:, 2:] * jnp.cos(t[:, :2]),
        ],
        -1,
    ).sum()


@model(form(5, 4), ints(5), gamma=((9, 4), "scale"), beta=((9, 4), "bias"), temps=((9,), "scale"))
def class_conditional(p, x, y):
    return (normalised(x) * p["gamma"][y] + p["beta"][y]) / p["temps"][y][:, None]


@model(X, X, w=((6, 4), "weight"), loss_w=((4,), "scale"))
def weighted_errors(p, x, y):
    return jnp.mean(((x - y) @ p["w"]) ** 2 * jax.nn.softplus(p["loss_w"]))


# --- logarithms that are added: of rates and densities ----------------------------------------------------------------


@model(X, form(5), form(5), w=((6,), "weight"), rate=((), "bias"))
def poisson_process(p, x, events, exposure):
    log_rate = x @ p["w"] + p["rate"]
    return (events * log_rate).sum() - (jnp.exp(p["rate"]) * jnp.exp(x @ p["w"]) * exposure).sum()


@model(X, form(5, 4), form(5, 4), w=((6,), "weight"), log_hazard=((4,), "bias"))
def piecewise_hazard(p, x, died, at_risk):
    r = x @ p["w"]
    return (died * (p["log_hazard"] + r[:, None])).sum() - (
        (at_risk * jnp.exp(p["log_hazard"])).sum(-1) * jnp.exp(r)
    ).sum()


@model(X, enc=((6, 4), "weight"), ls=((6, 4), "weight"), pm=((4,), "bias"), pls=((4,), "scale"))
def kl_to_a_learned_prior(p, x):
    m, s = x @ p["enc"], x @ p["ls"]
    return p["pls"] - s + (jnp.exp(2 * s) + (m - p["pm"]) ** 2) / (2 * jnp.exp(2 * p["pls"])) - 0.5


@model(form(5), mu=((), "bias"), s=((), "scale"))
def weibull(p, t):
    z = (jnp.log(t) - p["mu"]) / jnp.exp(p["s"])
    return z - jnp.exp(z) - p["s"]


@model(X, sink=((5,), "bias"), w=((6, 5), "weight"))
def sink_in_the_sum(p, x):
    s = x @ p["w"]
    m = jnp.maximum(s.max(-1, keepdims=True), p["sink"][:1])
    e = jnp.exp(s - m)
    return e / (e.sum(-1, keepdims=True) + jnp.exp(p["sink"] - m))


@pytest.mark.parametrize(("fn", "params", "args", "expected"), MODELS)
def test_roles(fn, params, args, expected):
    check_or_warned(fn, params, args, expected)
