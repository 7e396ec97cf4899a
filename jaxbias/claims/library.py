"""Claims about what the library shows and draws: summaries, weights by position, initialisers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import jaxbias as jb
from jaxbias import initializers
from jaxbias.claims._claim import HOLDS, claim
from jaxbias.claims._conditions import exactly, near, true, within
from jaxbias.claims._tools import difference, generator, once
from jaxbias.claims.article0 import BIAS1, BIAS2, KERNEL1, KERNEL2, NETWORK, printed_params
from jaxbias.layers import conv, dense, relu


@claim(
    "A0.9",
    "The summary of the 2-2-1 network: shapes (None, 2) and (None, 1), 6 + 3 = 9 parameters, 36 bytes in float32.",
    HOLDS,
    {
        "type, output shape and parameters in the text": true(),
        "totals in the text": true(),
        "parameters by layer": exactly([6, 0, 3]),
        "total, trainable, frozen, bytes": exactly([9, 9, 0, 36]),
        "the same without biases": exactly([6, 6, 0, 24]),
        "trainable and frozen with frozen biases": exactly([6, 3]),
    },
)
def summary(key):
    x = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    params = jax.eval_shape(NETWORK.init, key, x)
    without = jb.chain(dense.layer(2, use_bias=False), relu, dense.layer(1, use_bias=False))
    table = jb.summary(params, NETWORK, x)
    bare = jb.summary(jax.eval_shape(without.init, key, x), without, x)
    frozen = jb.summary(params, NETWORK, x, trainable=jb.freeze(params, "biases"))
    lines = [line.split() for line in str(table).splitlines()]
    shown = [any(line[1:5] == ["dense", "(None,", f"{n})", size] for line in lines) for n, size in ((2, "6"), (1, "3"))]
    text = {line[0]: (line[1], line[-1]) for line in lines if len(line) == 5}

    def totals(s):
        return [s.total.parameters, s.trainable.parameters, s.frozen.parameters, s.total.bytes]

    return {
        "type, output shape and parameters in the text": shown,
        "totals in the text": [
            text["total"] == ("9", "36"),
            text["trainable"] == ("9", "36"),
            text["frozen"] == ("0", "0"),
        ],
        "parameters by layer": [row.weights + row.biases for row in table.rows],
        "total, trainable, frozen, bytes": totals(table),
        "the same without biases": totals(bare),
        "trainable and frozen with frozen biases": [frozen.trainable.parameters, frozen.frozen.parameters],
    }


@claim(
    "A0.10",
    "get_weights gives kernel, bias, kernel, bias with kernels stored [input, unit]; set_weights is its inverse.",
    HOLDS,
    {"shapes are (2, 2), (2,), (2, 1), (1,)": true(), "values − printed": exactly(0.0), "round trip": exactly(0.0)},
)
def get_and_set_weights(key):
    del key
    params = printed_params()
    weights = jb.get_weights(params)
    empty = jax.tree.map(jnp.zeros_like, params)
    return {
        "shapes are (2, 2), (2,), (2, 1), (1,)": [w.shape for w in weights] == [(2, 2), (2,), (2, 1), (1,)],
        "values − printed": max(
            difference(w, np.array(v)) for w, v in zip(weights, (KERNEL1, BIAS1, KERNEL2, BIAS2), strict=True)
        ),
        "round trip": difference(jb.set_weights(empty, weights), params),
    }


def moments(samples, bound):
    """Largest entry over the bound, variance over that of U(−bound, bound), and the p-value of a KS test of it."""
    flat = np.ravel(samples).astype(np.float64)
    p = stats.kstest(flat, "uniform", args=(-bound, 2 * bound)).pvalue
    return np.max(np.abs(flat)) / bound, np.var(flat) / (bound**2 / 3), p


@claim(
    "A1.6",
    "PyTorch's Linear(3, 1) has a bias by default; weight and bias are U(±1/√3) = U(±0.577350), four parameters.",
    HOLDS,
    {
        "shapes of weight and bias": exactly([3, 1, 1]),
        "largest entry / 0.577350, weight and bias": within(0.99, 1),
        "variance / (bound²/3), weight and bias": near([1, 1], 0.02),
        "p-value against uniform, weight and bias": within(0.001, 1),
    },
    article="States the default, not the distribution.",
)
def pytorch_default(key):
    init = dense.layer(1, **initializers.preset("pytorch")).init
    x = jnp.zeros((1, 3))
    drawn = once(jax.vmap(lambda k: init(k, x)))(jax.random.split(key, 20_000))
    statistics = [moments(leaf, 1 / math.sqrt(3)) for leaf in (drawn.weight, drawn.bias)]
    return {
        "shapes of weight and bias": [*drawn.weight.shape[1:], *drawn.bias.shape[1:]],
        "largest entry / 0.577350, weight and bias": [row[0] for row in statistics],
        "variance / (bound²/3), weight and bias": [row[1] for row in statistics],
        "p-value against uniform, weight and bias": [row[2] for row in statistics],
    }


@claim(
    "A1.12",
    "Biases can be drawn by any rule after construction: zeros exactly, Normal(0, 0.1) with that mean and deviation.",
    HOLDS,
    {"zeros": exactly(0.0), "mean, n = 1000": near(0, 4 * 0.1 / math.sqrt(1000)), "sd": near(0.1, 0.01)},
)
def chosen_biases(key):
    draw = once(lambda key: (initializers.zeros(key, (1000,)), initializers.normal(0.1)(key, (1000,))))
    zeros, normal = draw(key)
    return {"zeros": zeros, "mean, n = 1000": np.mean(normal), "sd": np.std(normal)}


@claim(
    "A1.14",
    "Xavier's uniform bound is gain √(6/(fan_in + fan_out)), Kaiming's √(6/fan_in); normal forms have its variance.",
    HOLDS,
    {
        "largest entry / bound: Xavier, with tanh gain, Kaiming, conv Kaiming": within(0.99, 1),
        "variance / bound²·3 of these": near(np.ones(4), 0.03),
        "p-value against uniform": within(0.001, 1),
        "variance · (fan_in + fan_out)/2 of Xavier normal, · fan_in/2 of Kaiming normal": near([1, 1], 0.03),
        "difference to jax.nn.initializers": exactly(0.0),
        "gain of linear, sigmoid, tanh, ReLU, leaky 0.2": near([1, 1, 5 / 3, 2**0.5, (2 / 1.04) ** 0.5], 1e-15),
    },
)
def named_initializers(key):
    shape, kernel = (150, 100), (3, 3, 40, 60)
    tanh_gain = initializers.gain("tanh")

    @once
    def draw(key):
        drawn = [
            (initializers.xavier_uniform, shape),
            (initializers.scaled(tanh_gain, "fan_avg"), shape),
            (initializers.kaiming_uniform, shape),
            (initializers.kaiming_uniform, kernel),
            (initializers.xavier_normal, shape),
            (initializers.kaiming_normal, shape),
            (jax.nn.initializers.glorot_uniform(), shape),
            (jax.nn.initializers.he_normal(), shape),
        ]
        return [init(k, size, jnp.float64) for (init, size), k in zip(drawn, [*jax.random.split(key, 6), key, key])]

    *uniform, xavier_normal, kaiming_normal, glorot, he = draw(key)
    named = once(
        lambda k: (initializers.xavier_uniform(k, shape, jnp.float64), initializers.he_normal(k, shape, jnp.float64))
    )
    bounds = [math.sqrt(6 / 250), tanh_gain * math.sqrt(6 / 250), math.sqrt(6 / 150), math.sqrt(6 / (9 * 40))]
    statistics = [moments(samples, bound) for samples, bound in zip(uniform, bounds)]
    return {
        "largest entry / bound: Xavier, with tanh gain, Kaiming, conv Kaiming": [row[0] for row in statistics],
        "variance / bound²·3 of these": [row[1] for row in statistics],
        "p-value against uniform": [row[2] for row in statistics],
        "variance · (fan_in + fan_out)/2 of Xavier normal, · fan_in/2 of Kaiming normal": [
            np.var(xavier_normal) * 125,
            np.var(kaiming_normal) * 75,
        ],
        "difference to jax.nn.initializers": difference(named(key), (glorot, he)),
        "gain of linear, sigmoid, tanh, ReLU, leaky 0.2": [
            *(initializers.gain(name) for name in ("linear", "sigmoid", "tanh", "relu")),
            initializers.gain("leaky_relu", 0.2),
        ],
    }


@claim(
    "A1.15",
    "With weights and bias zero a layer's output is 0 for every input.",
    HOLDS,
    {"weights and biases": exactly(0.0), "output of dense and conv": exactly(0.0)},
    equation="(2)",
)
def all_zero(key):
    x = jnp.asarray(generator(key).standard_normal((2, 4, 4, 3)))
    layers = [dense.layer(5, weight_init="zeros"), conv.layer(5, 2, weight_init="zeros")]
    params = [layer.init(key, x) for layer in layers]
    outs = [layer.forward(p, x)[0] for layer, p in zip(layers, params)]
    return {
        "weights and biases": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]),
        "output of dense and conv": np.concatenate([np.ravel(out) for out in outs]),
    }
