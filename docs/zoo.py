"""Models of other packages as they come from them, and what their leaves are: for `docs.models`.

A package is imported where its model is made, so that one that is not installed is missed by its own models alone.
These models were looked at while `jb.roles` was written; those of `zoo_unseen` were not.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

X = jax.ShapeDtypeStruct((4, 6), jnp.float32)
IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
KEY = jax.random.key(0)

USUAL = (
    (r"(^|\.|/)(kernel|weight\w*|w|hh|kernel_\w+)$", "weight"),
    (r"(^|\.|/)(bias\w*|b|offset|beta)$", "bias"),
    (r"(^|\.|/)(scale|gamma|g)$", "scale"),
    (r"(^|\.|/)(embedding|embeddings)$", "embedding"),
)
"""Last part of a path → role, where names of a package say what a leaf is."""


Maker = TypeVar("Maker")


def installed(models: Mapping[str, tuple[str, Maker]]) -> Iterator[tuple[str, str, Maker]]:
    """Name, package and maker of each model whose package is here; on the console those that are left out."""
    for name, (package, make) in models.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{package} is not installed: {name} is left out")
            continue
        yield name, package, make


class Model(NamedTuple):
    """A function of (params, *args), and patterns for its leaves, the first that fits."""

    fn: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]
    roles: tuple[tuple[str, str], ...] = USUAL


def linen(module: Any, *args: Any, roles=USUAL, apply: dict[str, Any] | None = None, **options: Any) -> Model:
    """A model of Flax linen; what is no param is closed over. `apply`: keywords that `init` does not take."""
    variables = jax.eval_shape(lambda key, *xs: module.init(key, *xs, **options), KEY, *args)
    rest = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), {k: v for k, v in variables.items() if k != "params"})
    return Model(lambda p, *xs: module.apply({"params": p, **rest}, *xs, **options, **(apply or {})),
                 variables["params"], args, roles)  # fmt: skip


def haiku(function: Callable[..., Any], *args: Any, roles=USUAL) -> Model:
    """A model of Haiku, without state."""
    import haiku as hk

    model = hk.transform(function)
    return Model(lambda p, *xs: model.apply(p, KEY, *xs), jax.eval_shape(model.init, KEY, *args), args, roles)


FLOW = ((r"loc$", "bias"), (r"scale\.args\.\d$", "scale"), (r"weight\.args\.\d$", "weight"), *USUAL)


def jax_resnet_18():
    import jax_resnet

    return linen(jax_resnet.ResNet18(n_classes=10), IMAGES, apply={"mutable": False})


def flaxmodels_resnet():
    import flaxmodels

    return linen(
        flaxmodels.ResNet18(pretrained=None, normalize=False, output="logits", num_classes=10), IMAGES, train=False
    )


def flaxmodels_vgg():
    import flaxmodels

    model = flaxmodels.VGG16(pretrained=None, normalize=False, output="logits", num_classes=10, include_head=False)
    return linen(model, IMAGES, train=False)


def haiku_resnet():
    import haiku as hk

    model = hk.transform_with_state(lambda x: hk.nets.ResNet18(10)(x, is_training=False))
    training = hk.transform_with_state(lambda x: hk.nets.ResNet18(10)(x, is_training=True))
    params, state = jax.eval_shape(training.init, KEY, IMAGES)
    state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
    return Model(lambda p, x: model.apply(p, state, KEY, x)[0], params, (IMAGES,))


def haiku_lstm():
    import haiku as hk

    return haiku(lambda x: hk.dynamic_unroll(hk.LSTM(5), x, hk.LSTM(5).initial_state(None))[0], X)


def haiku_attention():
    import haiku as hk

    def model(ids):
        x = hk.Embed(11, 8)(ids)
        x = x + hk.get_parameter("positions", (7, 8), init=jnp.zeros)[: x.shape[0]]
        h = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(2, 4, w_init_scale=1.0, model_size=8)(h, h, h)
        return hk.nets.MLP([8, 11])(x)

    ids = jax.ShapeDtypeStruct((5,), jnp.int32)
    return haiku(model, ids, roles=((r"positions$", "bias"), *USUAL))


def jraph_network():
    import haiku as hk
    import jraph

    def update(size):
        return jraph.concatenated_args(lambda x: hk.nets.MLP([size, size])(x))

    def model(nodes, edges, senders, receivers):
        graph = jraph.GraphsTuple(nodes, edges, senders, receivers, jnp.ones((1, 2)), jnp.array([4]), jnp.array([3]))
        return jraph.GraphNetwork(update(5), update(6), update(3))(graph).globals

    index = jax.ShapeDtypeStruct((3,), jnp.int32)
    return haiku(model, X, jax.ShapeDtypeStruct((3, 2), jnp.float32), index, index)


def jraph_attention():
    import haiku as hk
    import jraph

    def model(nodes, senders, receivers):
        query = lambda x: hk.Linear(5, name="query")(x)
        logits = lambda s, r, e: hk.Linear(1, name="logits")(jax.nn.leaky_relu(jnp.concatenate([s, r], axis=-1)))
        graph = jraph.GraphsTuple(nodes, None, senders, receivers, None, jnp.array([4]), jnp.array([3]))
        return jraph.GAT(query, logits, lambda x: hk.Linear(2, name="update")(x))(graph).nodes

    index = jax.ShapeDtypeStruct((3,), jnp.int32)
    return haiku(model, X, index, index)


def flowjax_coupling():
    import equinox as eqx
    import flowjax.distributions
    import flowjax.flows
    import paramax

    base = flowjax.distributions.Normal(jnp.zeros(6))
    flow = flowjax.flows.coupling_flow(KEY, base_dist=base, invert=True, flow_layers=2, nn_width=8)
    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    return Model(lambda p, x: paramax.unwrap(eqx.combine(p, static)).log_prob(x).mean(), params, (X,), FLOW)


def flowjax_autoregressive():
    import equinox as eqx
    import flowjax.distributions
    import flowjax.flows
    import paramax

    base = flowjax.distributions.Normal(jnp.zeros(6))
    flow = flowjax.flows.masked_autoregressive_flow(KEY, base_dist=base, flow_layers=2, nn_width=8)
    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    return Model(lambda p, x: paramax.unwrap(eqx.combine(p, static)).log_prob(x).mean(), params, (X,), FLOW)


def distrax_coupling():
    import distrax
    import haiku as hk

    def model(x):
        mask = jnp.arange(6) % 2 == 0
        conditioner = hk.Sequential([hk.nets.MLP([8, 12]), hk.Reshape((6, 2))])
        bijector = lambda p: distrax.ScalarAffine(shift=p[..., 0], log_scale=p[..., 1])
        flow = distrax.MaskedCoupling(mask=mask, bijector=bijector, conditioner=conditioner)
        base = distrax.MultivariateNormalDiag(jnp.zeros(6), jnp.ones(6))
        return distrax.Transformed(base, distrax.Inverse(flow)).log_prob(x)

    return haiku(model, X)


def tfp_triangular():
    from tensorflow_probability.substrates import jax as tfp

    def loss(p, x):
        lower = tfp.math.fill_triangular(p["scale"])
        lower = lower + jnp.diag(jax.nn.softplus(jnp.diag(lower)) + 1e-3)
        return -tfp.distributions.MultivariateNormalTriL(p["loc"], lower).log_prob(x).mean()

    forms = {"loc": jax.ShapeDtypeStruct((6,), jnp.float32), "scale": jax.ShapeDtypeStruct((21,), jnp.float32)}
    return Model(loss, forms, (X,), (("loc", "bias"), ("scale", "weight")))


def diffrax_ode():
    import diffrax
    import equinox as eqx

    mlp = eqx.nn.MLP(6, 6, 8, 2, key=KEY)

    def solve(mlp, y):
        term = diffrax.ODETerm(lambda t, y, args: mlp(y))
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.1, y, max_steps=64).ys

    return Model(solve, mlp, (jax.ShapeDtypeStruct((6,), jnp.float32),))


def numpyro_autoregressive():
    from numpyro.nn import AutoregressiveNN

    init, apply = AutoregressiveNN(6, [8, 8], param_dims=[1, 1])
    params = jax.eval_shape(lambda key: init(key, (6,))[1], KEY)
    arn = ((r"\.0$", "weight"), (r"\.1$", "bias"))
    return Model(apply, params, (jax.ShapeDtypeStruct((6,), jnp.float32),), arn)


def linen_bert_like():
    import flax.linen as nn

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, ids, kinds, places):
            x = nn.Embed(11, 8)(ids) + nn.Embed(2, 8)(kinds) + nn.Embed(7, 8)(places)
            x = nn.LayerNorm()(x)
            x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(num_heads=2)(x, x))
            return nn.LayerNorm()(x + nn.Dense(8)(nn.gelu(nn.Dense(16)(x))))

    ids = jax.ShapeDtypeStruct((5,), jnp.int32)
    return linen(Encoder(), ids, ids, ids)


def linen_weight_norm():
    import flax.linen as nn

    return linen(nn.Sequential([nn.WeightNorm(nn.Dense(4), variable_filter={"kernel"}), nn.relu, nn.Dense(2)]), X,
                 roles=((r"/kernel/scale$|kernel.*scale$", "scale"), *USUAL))  # fmt: skip


def nnx_transformer():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 6, rngs=rngs, decode=False)
            self.rms = nnx.RMSNorm(6, rngs=rngs)
            self.dense = nnx.Linear(6, 6, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norm(x))
            return x + self.drop(self.dense(self.rms(x)))

    return Model(lambda m, x: m(x), Block(nnx.Rngs(0)), (X,))


def equinox_conv():
    import equinox as eqx

    keys = jax.random.split(KEY, 3)
    model = eqx.nn.Sequential([eqx.nn.Conv2d(3, 4, 3, key=keys[0]), eqx.nn.GroupNorm(2, 4), eqx.nn.Lambda(jax.nn.relu),
                               eqx.nn.ConvTranspose2d(4, 2, 3, key=keys[1])])  # fmt: skip
    norm = ((r"layers\.1\.weight$", "scale"),)
    return Model(lambda m, x: m(x), model, (jax.ShapeDtypeStruct((3, 8, 8), jnp.float32),), (*norm, *USUAL))


def equinox_gru():
    import equinox as eqx

    def run(cell, xs):
        return jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(5), xs)[0]

    return Model(run, eqx.nn.GRUCell(6, 5, key=KEY), (X,))


def stax_network():
    from jax.example_libraries import stax

    init, apply = stax.serial(stax.Conv(4, (3, 3)), stax.BatchNorm(), stax.Relu, stax.Flatten, stax.Dense(5))
    params = jax.eval_shape(lambda key: init(key, IMAGES.shape)[1], KEY)
    names = ((r"^1\.0$", "bias"), (r"^1\.1$", "scale"), (r"\.0$", "weight"), (r"\.1$", "bias"))
    return Model(apply, params, (IMAGES,), names)


MODELS: dict[str, tuple[str, Callable[[], Model]]] = {
    "ResNet18": ("jax_resnet", jax_resnet_18),
    "ResNet18 (flaxmodels)": ("flaxmodels", flaxmodels_resnet),
    "VGG16": ("flaxmodels", flaxmodels_vgg),
    "ResNet18 (haiku)": ("dm-haiku", haiku_resnet),
    "LSTM": ("dm-haiku", haiku_lstm),
    "transformer": ("dm-haiku", haiku_attention),
    "GraphNetwork": ("jraph", jraph_network),
    "GAT": ("jraph", jraph_attention),
    "coupling flow": ("flowjax", flowjax_coupling),
    "masked autoregressive flow": ("flowjax", flowjax_autoregressive),
    "MaskedCoupling": ("distrax", distrax_coupling),
    "MultivariateNormalTriL": ("tensorflow-probability", tfp_triangular),
    "neural ODE": ("diffrax", diffrax_ode),
    "AutoregressiveNN": ("numpyro", numpyro_autoregressive),
    "BERT's embeddings and a layer": ("flax", linen_bert_like),
    "WeightNorm": ("flax", linen_weight_norm),
    "nnx transformer block": ("flax", nnx_transformer),
    "Conv2d, GroupNorm, ConvTranspose2d": ("equinox", equinox_conv),
    "GRUCell": ("equinox", equinox_gru),
    "stax Conv, BatchNorm, Dense": ("jax", stax_network),
}
"""Model → (package, how it is made)."""
