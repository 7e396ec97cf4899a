"""Models of several libraries, written as their users write them: per-example losses, and the role of every leaf.

`build(name)` gives a `Model`: params with random non-zero biases, a batch, the loss of one example, and the expected
roles by path. Each case is small: what varies is how the library stores and uses its params.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

BATCH = 5


@dataclass(frozen=True)
class Model:
    loss: Callable
    params: Any
    batch: Any
    roles: Callable[[str], str]
    """Expected role from the path of a leaf."""


def by_last(**roles):
    """Role from the last part of the path that names one."""

    def role(path):
        for part in reversed(path.split(".")):
            if part in roles:
                return roles[part]
        raise KeyError(path)

    return role


USUAL = {"kernel": "weight", "weight": "weight", "w": "weight", "bias": "bias", "b": "bias", "scale": "scale"}


def fill(params, seed=0):
    """The same tree (of arrays or shapes) with random float32 entries, so that no bias and no scale is special."""
    rng = np.random.default_rng(seed)

    def leaf(x):
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.asarray(0.4 * rng.standard_normal(x.shape) + 0.1, jnp.float32)

    return jax.tree.map(leaf, params)


def images(channels=1, size=6):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.standard_normal((BATCH, size, size, channels)), jnp.float32)


def vectors(*shape):
    return jnp.asarray(np.random.default_rng(2).standard_normal((BATCH, *shape)), jnp.float32)


def tokens(length=6, vocabulary=11):
    return jnp.asarray(np.random.default_rng(3).integers(0, vocabulary, (BATCH, length)))


def labels(classes):
    return jnp.asarray(np.random.default_rng(4).integers(0, classes, BATCH))


def cross_entropy(logits, label):
    return jax.nn.logsumexp(logits, axis=-1).sum() - jnp.take_along_axis(logits, label[..., None], axis=-1).sum()


def classifier(apply, params, x, classes, roles=None):
    """A model `apply(params, x)` with one row of logits per example, under cross-entropy."""

    def loss(params, example):
        x, label = example
        return cross_entropy(apply(params, x), label)

    return Model(loss, params, (x, labels(classes)), roles or by_last(**USUAL))


# --- plain JAX --------------------------------------------------------------------------------------------------------


def mlp_params(sizes=(4, 6, 3)):
    return fill([{"w": jnp.zeros((m, n)), "b": jnp.zeros(n)} for m, n in pairwise(sizes)])


def mlp(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def plain():
    return classifier(mlp, mlp_params(), vectors(4), 3)


def plain_jit():
    @jax.jit
    def dense(layer, x):
        return x @ layer["w"] + layer["b"]

    return classifier(lambda p, x: dense(p[1], jax.nn.gelu(dense(p[0], x))), mlp_params(), vectors(4), 3)


def plain_remat():
    @jax.checkpoint
    def hidden(layer, x):
        return jax.nn.silu(x @ layer["w"] + layer["b"])

    return classifier(lambda p, x: hidden(p[0], x) @ p[1]["w"] + p[1]["b"], mlp_params(), vectors(4), 3)


def torch_layout():
    """Weights (out, in) and a sequence axis; the second one is stored flat."""
    params = fill({"w1": jnp.zeros((6, 4)), "b1": jnp.zeros((6, 1)), "w2": jnp.zeros(18), "b2": jnp.zeros(3)})

    def apply(p, x):
        h = jax.nn.relu(jnp.matmul(p["w1"], x.T) + p["b1"]).T
        return (jnp.einsum("ti,oi->to", h, p["w2"].reshape(3, 6)) + p["b2"]).mean(axis=0)

    roles = by_last(w1="weight", b1="bias", w2="weight", b2="bias")
    return classifier(apply, params, vectors(3, 4), 3, roles)


def bf16_params():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), mlp_params())

    def apply(p, x):
        return mlp(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), p), x)

    return classifier(apply, params, vectors(4), 3)


def rnn_in_scan():
    params = fill(
        {
            "w": jnp.zeros((3, 4)),
            "u": jnp.zeros((4, 4)),
            "b": jnp.zeros(4),
            "start": jnp.zeros(4),
            "out": jnp.zeros((4, 2)),
        }
    )

    def apply(p, xs):
        def step(h, x):
            return jnp.tanh(x @ p["w"] + h @ p["u"] + p["b"]), None

        h, _ = lax.scan(step, p["start"], xs)
        return h @ p["out"]

    roles = by_last(w="weight", u="weight", b="bias", start="other", out="weight")
    return classifier(apply, params, vectors(4, 3), 2, roles)


# --- Flax linen -------------------------------------------------------------------------------------------------------


def linen(module, x, classes=3, roles=None):
    params = fill(jax.eval_shape(module.init, jax.random.key(0), x[0])["params"])
    return classifier(lambda p, x: module.apply({"params": p}, x), params, x, classes, roles)


class DenseNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.LayerNorm()(nn.gelu(nn.Dense(6)(x))))


class Conv(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(x))
        x = nn.GroupNorm(num_groups=2)(x)
        x = nn.tanh(nn.Conv(4, (2, 2), feature_group_count=2, padding="VALID")(x))
        x = nn.ConvLocal(2, (2, 2), padding="VALID")(x)
        return nn.Dense(3)(x.reshape(-1))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=2, out_features=3)(x, x).mean(axis=0)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h)
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(20)(nn.LayerNorm()(x)))), None


class TiedTransformer(nn.Module):
    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(64, 16, name="table")
        x = embed(ids) + nn.Embed(6, 16, name="position")(jnp.arange(ids.shape[0]))
        x, _ = Block()(x)
        return embed.attend(nn.LayerNorm()(x))


class FeedForward(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x)))), None


class ScanOverLayers(nn.Module):
    remat: bool

    @nn.compact
    def __call__(self, x):
        block = nn.remat(FeedForward, prevent_cse=False) if self.remat else FeedForward
        layers = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers()(x, None)
        return nn.Dense(3)(x.mean(axis=0))


def tied_transformer():
    module, ids = TiedTransformer(), tokens(vocabulary=64)
    params = fill(jax.eval_shape(module.init, jax.random.key(0), ids[0])["params"])

    def loss(params, ids):
        return cross_entropy(module.apply({"params": params}, ids[:-1]), ids[1:])

    return Model(loss, params, ids, by_last(**USUAL, table="embedding+weight", position="bias"))


# --- nnx, Equinox, Haiku ----------------------------------------------------------------------------------------------


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.silu(self.norm(self.first(x))))


def nnx_model():
    graph, state = nnx.split(NnxModel(nnx.Rngs(0)))
    return classifier(lambda state, x: nnx.merge(graph, state)(x), fill(state), vectors(4), 3)


def equinox_mlp():
    return classifier(lambda m, x: m(x), fill(eqx.nn.MLP(4, 3, 6, 2, key=jax.random.key(0))), vectors(4), 3)


class EquinoxConv(eqx.Module):
    conv: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(1, 4, 3, key=key)
        self.head = eqx.nn.Linear(4 * 16, 3, key=key)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(jnp.moveaxis(x, -1, 0))).reshape(-1))


def equinox_conv():
    return classifier(lambda m, x: m(x), fill(EquinoxConv(jax.random.key(0))), images(), 3)


def equinox_attention():
    attention = eqx.nn.MultiheadAttention(
        2, 4, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=jax.random.key(0)
    )
    return classifier(lambda m, x: m(x, x, x).mean(axis=0)[:3], fill(attention), vectors(5, 4), 3)


def haiku_model():
    def forward(x):
        x = jax.nn.relu(hk.Conv2D(3, 3)(x[None])[0])
        x = hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(x)
        return hk.Linear(3)(x.reshape(-1))

    model = hk.without_apply_rng(hk.transform(forward))
    x = images(size=5)
    params = fill(jax.eval_shape(model.init, jax.random.key(0), x[0]))
    return classifier(model.apply, params, x, 3, by_last(**USUAL, offset="bias"))


MODELS = {
    "plain": plain,
    "plain jit": plain_jit,
    "plain remat": plain_remat,
    "torch layout": torch_layout,
    "bf16 params": bf16_params,
    "RNN in scan": rnn_in_scan,
    "linen dense and LayerNorm": lambda: linen(DenseNorm(), vectors(4)),
    "linen conv, GroupNorm, ConvLocal": lambda: linen(Conv(), images(size=8)),
    "linen attention": lambda: linen(Attention(), vectors(4, 6)),
    "linen tied transformer": tied_transformer,
    "linen scan over layers": lambda: linen(ScanOverLayers(remat=False), vectors(4, 8)),
    "linen scan over layers, remat": lambda: linen(ScanOverLayers(remat=True), vectors(4, 8)),
    "nnx": nnx_model,
    "Equinox MLP": equinox_mlp,
    "Equinox conv": equinox_conv,
    "Equinox attention": equinox_attention,
    "Haiku conv and LayerNorm": haiku_model,
}


@cache
def build(name: str) -> Model:
    """The model under the promotion rules that these libraries are written for, in float32 as they come."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return MODELS[name]()
