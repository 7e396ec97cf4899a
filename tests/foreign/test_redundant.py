"""The rows of table 9.14 that have a layer and no test beside it: `redundant_biases` finds each, and nothing else."""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from docs.zoo import MODELS
from jaxbias._trees import path_name
from jaxbias.layers import attention, conv, dense, embedding, layer_norm, positions

X = np.random.default_rng(0).normal(size=(2, 3, 4))
IDS = np.array([[0, 2, 1], [2, 1, 1]])


def drawn(layer, x):
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape)), shapes)


def of_layer(layer, x=X, also=None):
    """(fn, params) of a layer, whose biases are all random; `also` are leaves that its input takes from params."""
    params = drawn(layer, x)
    if also is None:
        return lambda params, x: layer.forward(params, jnp.asarray(x))[0], params, x
    leaves = {name: np.random.default_rng(2).normal(size=shape) for name, shape in also.items()}

    def forward(params, x):
        inputs = attention.Inputs(jnp.asarray(x), bias=params["also"]["bias"])
        return layer.forward(params["layer"], inputs)[0]

    return forward, {"layer": params, "also": leaves}, x


def with_positions():
    """Positions, then a bias: an affine map of one feature after another would hide which is which."""
    network = jb.chain(embedding.layer(3, 4), positions.layer(3))
    params = drawn(network, IDS)

    def forward(params, ids):
        table, bias = params
        return jnp.tanh(network.forward(table, jnp.asarray(ids))[0] + bias[None, None])

    return forward, (params, np.random.default_rng(3).normal(size=4)), IDS


def depthwise():
    """A kernel for each channel, then 1×1: nothing between them."""
    x = np.random.default_rng(4).normal(size=(2, 4, 4, 3))
    network = jb.chain(conv.layer(3, (2, 2), groups=3), conv.layer(4, (1, 1)))
    return of_layer(network, x)


CASES = {
    # 9.1.9: a bias of each query is constant in j, so that no gradient is left at all; with a sink it counts, but for
    # what is the same for all queries and moves with the sink
    "attention core, constant in j": (
        lambda: of_layer(attention.layer(2, 2, use_bias=False), also={"bias": (2, 3, 1)}),
        {("also.bias",): 6},
    ),
    "attention core with a sink": (
        lambda: of_layer(attention.layer(2, 2, use_bias=False, sink=True), also={"bias": (2, 3, 1)}),
        {("also.bias", "layer.sink"): 2},
    ),
    # 9.2.10, 9.2.11: the appended key and value have the role of weights, and alone no bias is redundant beside them
    "an appended key": (lambda: of_layer(attention.layer(1, 2, append_key=True)), {}),
    "depthwise convolution": (depthwise, {("0.bias", "1.bias"): 3}),  # 9.8.1
    "a bias after positions": (with_positions, {("0.1.weight", "1"): 4}),  # 9.12.4
    "β of a norm before an affine map": (
        lambda: of_layer(jb.chain(layer_norm.layer(), dense.layer(5))),
        {("0.bias", "1.bias"): 4},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rows_of_table_9_14(case):
    build, wanted = CASES[case]
    fn, params, x = build()
    groups = jb.surgery.redundant_biases(fn, params, x)
    assert {tuple(sorted(group.paths)): len(group.directions) for group in groups} == {
        tuple(sorted(paths)): number for paths, number in wanted.items()
    }
    for group in groups:  # and going along them changes nothing
        leaves = jb.named_parameters(params)
        ends = np.cumsum([leaves[path].size for path in group.paths])
        for direction in group.directions:
            moves = dict(zip(group.paths, np.split(direction, ends[:-1])))

            def moved(path, leaf, moves=moves):
                return leaf + moves[path_name(path)].reshape(leaf.shape) if path_name(path) in moves else leaf

            out = fn(jax.tree_util.tree_map_with_path(moved, params), x)
            np.testing.assert_allclose(out, fn(params, x), rtol=1e-10, atol=1e-10)


def test_an_appended_key_and_the_key_bias_move_together():
    """(9.2.10): only β_k − b_k counts, and b_v only together with β_v and b_o."""
    layer = attention.layer(1, 2, append_key=True)
    params = drawn(layer, X)
    out, residuals = layer.forward(params, jnp.asarray(X))
    grads, _ = layer.backward(residuals, jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))
    of_key, of_value = np.asarray(grads.bias_k), np.asarray(grads.bias_v)
    np.testing.assert_allclose(of_key, -np.asarray(grads.key.bias), rtol=1e-12)
    through = jnp.einsum("hef,f->he", params.out.weight, grads.out.bias)
    np.testing.assert_allclose(grads.value.bias + of_value, through, rtol=1e-12)
    assert np.abs(grads.key.bias).min() > 1e-3


@pytest.mark.parametrize("held", [True, False])
def test_a_gradient_of_zero_proves_nothing_where_part_is_held_constant(held):
    """Batch renorm (9.13.5): r and d are constants, so Σ_n δx = 0; yet a bias before it moves the output through d."""
    generator = np.random.default_rng(5)
    params = {
        "weight": generator.normal(size=(4, 3)),
        "bias": generator.normal(size=3),
        "beta": generator.normal(size=3),
    }
    running_mean, running_deviation = generator.normal(size=(1, 3)), 1 + generator.random((1, 3))

    def renorm(params, x):
        z = x @ params["weight"] + params["bias"][None]
        mean, deviation = z.mean(axis=0, keepdims=True), z.std(axis=0, keepdims=True)
        r, d = deviation / running_deviation, (mean - running_mean) / running_deviation
        if held:
            r, d = jax.lax.stop_gradient((r, d))
        else:  # plain batch norm: then the bias is nothing
            r, d = jnp.ones_like(r), jnp.zeros_like(d)
        return (z - mean) / deviation * r + d + params["beta"][None]

    x = generator.normal(size=(5, 4))
    pull_back = jax.vjp(lambda bias: renorm(params | {"bias": bias}, x), params["bias"])[1]
    (gradient,) = pull_back(jnp.asarray(generator.normal(size=(5, 3))))
    assert np.abs(gradient).max() < 1e-13
    groups = jb.surgery.redundant_biases(renorm, params, x)
    assert [(group.paths, group.whole) for group in groups] == ([] if held else [(("bias",), True)])


def batch_normed():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for features in (4, 3):
                x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(features, (3, 3))(x)))
            return nn.Dense(2)(x.mean((1, 2)))

    x = jax.random.normal(jax.random.key(3), (4, 6, 6, 2))
    variables = jax.eval_shape(Net().init, jax.random.key(0), x)
    stats = {"batch_stats": jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables["batch_stats"])}
    apply = lambda p, x: Net().apply({"params": p, **stats}, x, mutable=["batch_stats"])[0]
    return apply, variables["params"], (x,), {"Conv_0.bias", "Conv_1.bias"}


def layer_of_bert():
    model = MODELS["BERT's embeddings and a layer"][1]()
    args = tuple(jnp.asarray(ids) for ids in ([7, 1, 10, 4, 2], [0, 0, 1, 1, 1], [0, 1, 2, 3, 4]))
    return model.fn, model.params, args, {"MultiHeadDotProductAttention_0.key.bias"}


@pytest.mark.slow
@pytest.mark.parametrize("make", [batch_normed, layer_of_bert])
def test_whole_models_within_a_minute(make, by_the_rules_of_jax):
    fn, shapes, args, whole = make()
    keys = iter(jax.random.split(jax.random.key(1), 40))
    params = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), shapes)
    start = time.process_time()
    redundant = jb.surgery.redundant_biases(fn, params, *args)
    assert time.process_time() - start < 60
    assert {item.paths[0] for item in redundant if item.whole} == whole
    change = jb.surgery.fix_gauge(fn, params, *args, redundant=redundant).change
    assert change < 1e-10
