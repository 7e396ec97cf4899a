"""Models that `jb.roles` was not written on: the list, and what each leaf is, was fixed before the first run.

What a leaf is follows from the package's documentation, as in `zoo`. The figures of the first run stand in models.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from docs.zoo import IMAGES, KEY, USUAL, Model, X, haiku, linen

FRAMES = jax.ShapeDtypeStruct((3, 8, 8, 2), jnp.float32)


def linen_conv_lstm():
    import flax.linen as nn

    return linen(nn.RNN(nn.ConvLSTMCell(4, (3, 3))), jax.ShapeDtypeStruct((1, 3, 8, 8, 2), jnp.float32))


def linen_bidirectional():
    import flax.linen as nn

    both = nn.Bidirectional(nn.RNN(nn.OptimizedLSTMCell(5)), nn.RNN(nn.GRUCell(5)))
    return linen(both, jax.ShapeDtypeStruct((1, 4, 6), jnp.float32))


def linen_spectral_norm():
    import flax.linen as nn

    class Critic(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.SpectralNorm(nn.Conv(4, (3, 3)))(x, update_stats=False)
            x = nn.InstanceNorm()(nn.leaky_relu(x))
            return nn.SpectralNorm(nn.Dense(1))(x.mean(axis=(1, 2)), update_stats=False)

    return linen(Critic(), IMAGES)


def haiku_mobile_net():
    import haiku as hk

    make = lambda training: hk.transform_with_state(
        lambda x: hk.nets.MobileNetV1((1, 2), (8, 16), 10)(x, is_training=training)
    )
    params, state = jax.eval_shape(make(True).init, KEY, IMAGES)
    state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
    return Model(lambda p, x: make(False).apply(p, state, KEY, x)[0], params, (IMAGES,))


def haiku_conv_lstm():
    import haiku as hk

    def model(frames):
        core = hk.Conv2DLSTM((8, 8), 4, 3)
        state = jax.tree.map(lambda x: x.astype(frames.dtype), core.initial_state(None))
        return hk.dynamic_unroll(core, frames, state)[0]

    return haiku(model, FRAMES)


def haiku_vector_quantizer():
    import haiku as hk

    def model(x):
        z = hk.nets.MLP([8, 5])(x)
        quantized = hk.nets.VectorQuantizer(5, 7, 0.25)(z, is_training=True)
        return hk.nets.MLP([8, 6])(quantized["quantize"]), quantized["loss"]

    return haiku(model, X, roles=((r"embeddings$", "embedding"), *USUAL))


def equinox_attention():
    import equinox as eqx

    class Block(eqx.Module):
        norm: eqx.nn.RMSNorm
        attention: eqx.nn.MultiheadAttention
        rope: eqx.nn.RotaryPositionalEmbedding
        out: eqx.nn.LayerNorm

        def __call__(self, x):
            h = jax.vmap(self.norm)(x)
            turned = lambda q, k, v: (jax.vmap(self.rope, 1, 1)(q), jax.vmap(self.rope, 1, 1)(k), v)
            return jax.vmap(self.out)(x + self.attention(h, h, h, process_heads=turned))

    block = Block(eqx.nn.RMSNorm(6), eqx.nn.MultiheadAttention(3, 6, use_query_bias=True, key=KEY),
                  eqx.nn.RotaryPositionalEmbedding(2), eqx.nn.LayerNorm(6))  # fmt: skip
    norms = (r"^(norm|out)\.weight$", "scale")
    return Model(lambda m, x: m(x), block, (X,), (norms, *USUAL))


def equinox_weight_norm():
    import equinox as eqx

    keys = jax.random.split(KEY, 2)
    normed = (eqx.nn.WeightNorm(eqx.nn.Linear(6, 5, key=keys[0])), eqx.nn.PReLU(0.2),
              eqx.nn.WeightNorm(eqx.nn.Linear(5, 3, key=keys[1])))  # fmt: skip
    slope = (r"negative_slope$", "scale")
    vector = jax.ShapeDtypeStruct((6,), jnp.float32)
    return Model(lambda m, x: m[2](m[1](m[0](x))), normed, (vector,), (slope, *USUAL))


def equinox_lstm():
    import equinox as eqx

    def run(cell, xs):
        zeros = jnp.zeros(5)
        return jax.lax.scan(lambda state, x: (cell(x, state), None), (zeros, zeros), xs)[0]

    return Model(run, eqx.nn.LSTMCell(6, 5, key=KEY), (X,))


def nnx_adapted():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.LoRALinear(6, 8, lora_rank=2, rngs=rngs)
            self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
            self.second = nnx.Einsum("nk,kd->nd", (8, 5), (5,), rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.relu(self.norm(self.first(x))))

    lora = (r"lora_(a|b)$", "weight")
    return Model(lambda m, x: m(x), Net(nnx.Rngs(0)), (X,), (lora, *USUAL))


def nnx_recurrent():
    from flax import nnx

    cell = nnx.OptimizedLSTMCell(6, 5, rngs=nnx.Rngs(0))
    return Model(lambda m, x: m(x), nnx.RNN(cell), (jax.ShapeDtypeStruct((2, 4, 6), jnp.float32),))


def flowjax_block_neural():
    import equinox as eqx
    import flowjax.distributions
    import flowjax.flows
    import paramax

    base = flowjax.distributions.Normal(jnp.zeros(6))
    flow = flowjax.flows.block_neural_autoregressive_flow(KEY, base_dist=base, nn_block_dim=3)
    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    names = ((r"loc$", "bias"), (r"scale\.args\.\d$", "scale"), (r"args\.\d$|weight\..*", "weight"), *USUAL)
    return Model(lambda p, x: paramax.unwrap(eqx.combine(p, static)).log_prob(x).mean(), params, (X,), names)


def numpyro_block_neural():
    from numpyro.nn import BlockNeuralAutoregressiveNN

    init, apply = BlockNeuralAutoregressiveNN(6, [3])
    params = jax.eval_shape(lambda key: init(key, (6,))[1], KEY)
    names = ((r"\.0$", "weight"), (r"\.1$", "scale"), (r"\.2$", "bias"))
    return Model(apply, params, (jax.ShapeDtypeStruct((6,), jnp.float32),), names)


def ott_convex():
    from ott.neural.networks.icnn import ICNN

    model = ICNN(dim_data=6, dim_hidden=[8, 8])
    return linen(model, X, roles=((r"diag_kernel$", "scale"), (r"(quad|lin)_kernel$", "weight"), *USUAL))


def jraph_interaction():
    import haiku as hk
    import jraph

    def model(nodes, edges, senders, receivers):
        graph = jraph.GraphsTuple(nodes, edges, senders, receivers, None, jnp.array([4]), jnp.array([3]))
        update = lambda size: jraph.concatenated_args(lambda x: hk.nets.MLP([size, size], activate_final=True)(x))
        graph = jraph.InteractionNetwork(update(5), update(6))(graph)
        return jraph.GraphConvolution(hk.Linear(3), add_self_edges=True)(graph).nodes

    index = jax.ShapeDtypeStruct((3,), jnp.int32)
    return haiku(model, X, jax.ShapeDtypeStruct((3, 2), jnp.float32), index, index)


def diffrax_cde():
    import diffrax
    import equinox as eqx

    class Field(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, t, y, args):
            return jnp.tanh(self.mlp(y)).reshape(5, 3)

    class Model_(eqx.Module):
        start: eqx.nn.Linear
        field: Field
        read: eqx.nn.Linear

        def __call__(self, ts, xs):
            path = diffrax.LinearInterpolation(ts, xs)
            term = diffrax.ControlTerm(self.field, path).to_ode()
            y = self.start(xs[0])
            solved = diffrax.diffeqsolve(term, diffrax.Heun(), ts[0], ts[-1], 0.1, y, max_steps=32)
            return self.read(solved.ys[-1])

    keys = jax.random.split(KEY, 3)
    model = Model_(eqx.nn.Linear(3, 5, key=keys[0]), Field(eqx.nn.MLP(5, 15, 8, 1, key=keys[1])),
                   eqx.nn.Linear(5, 2, key=keys[2]))  # fmt: skip
    times = jnp.linspace(0.0, 1.0, 7)
    return Model(lambda m, xs: m(times, xs), model, (jax.ShapeDtypeStruct((7, 3), jnp.float32),))


def distrax_multiscale():
    import distrax
    import haiku as hk

    def model(x):
        spread = hk.get_parameter("log_scale", (6,), init=jnp.zeros)
        middle = hk.get_parameter("middle", (6,), init=jnp.zeros)
        matrix = hk.get_parameter("matrix", (6, 6), init=hk.initializers.RandomNormal())
        affine = distrax.Block(distrax.ScalarAffine(middle, log_scale=spread), 1)
        mixing = distrax.LowerUpperTriangularAffine(matrix, jnp.zeros(6))
        base = distrax.MultivariateNormalDiag(jnp.zeros(6), jnp.ones(6))
        return distrax.Transformed(base, distrax.Inverse(distrax.Chain([mixing, affine]))).log_prob(x)

    names = ((r"log_scale$", "scale"), (r"middle$", "bias"), (r"matrix$", "weight"))
    return haiku(model, X, roles=names)


def equimo_vision():
    import equimo.vision.models as models

    model = models.VisionTransformer(
        img_size=8, in_channels=3, dim=12, patch_size=4, num_heads=[2], depths=[1], num_classes=3, key=KEY
    )
    names = (
        (r"(norm\w*|ls\d?)\.(weight|gamma)$|gamma$", "scale"),
        (r"pos_embed\.weight$", "bias"),
        (r"(cls_token|reg_tokens|mask_token)$", "other"),
        *USUAL,
    )
    image = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
    return Model(lambda m, x: m(x, key=KEY, inference=True), model, (image,), names)


UNSEEN: dict[str, tuple[str, Callable[[], Model]]] = {
    "ConvLSTMCell": ("flax", linen_conv_lstm),
    "Bidirectional(LSTM, GRU)": ("flax", linen_bidirectional),
    "SpectralNorm, InstanceNorm": ("flax", linen_spectral_norm),
    "nnx LoRALinear, BatchNorm, Einsum": ("flax", nnx_adapted),
    "nnx OptimizedLSTMCell": ("flax", nnx_recurrent),
    "MobileNetV1": ("dm-haiku", haiku_mobile_net),
    "Conv2DLSTM": ("dm-haiku", haiku_conv_lstm),
    "VectorQuantizer": ("dm-haiku", haiku_vector_quantizer),
    "attention with rotary positions": ("equinox", equinox_attention),
    "WeightNorm, PReLU": ("equinox", equinox_weight_norm),
    "LSTMCell": ("equinox", equinox_lstm),
    "block neural autoregressive flow": ("flowjax", flowjax_block_neural),
    "BlockNeuralAutoregressiveNN": ("numpyro", numpyro_block_neural),
    "ICNN": ("ott-jax", ott_convex),
    "InteractionNetwork, GraphConvolution": ("jraph", jraph_interaction),
    "neural CDE": ("diffrax", diffrax_cde),
    "LowerUpperTriangularAffine": ("distrax", distrax_multiscale),
    "VisionTransformer": ("equimo", equimo_vision),
}
