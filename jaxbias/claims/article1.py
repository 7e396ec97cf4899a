"""Article 1, first half: what a bias does in a neuron, and the ways to have, drop, set or freeze one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import _regression as regression
from jaxbias.claims._claim import CONDITIONAL, HOLDS, claim
from jaxbias.claims._conditions import above, at_most, exactly, mean_above, near, reported, true
from jaxbias.claims._tools import affine, descend, difference, generator, once, predict, randomized, train
from jaxbias.layers import conv, dense, sigmoid, tanh
from jaxbias.losses import mean_squared_error


@claim(
    "A1.1",
    "A neuron computes f(xW + b), whether x is one scalar, one vector or a batch.",
    HOLDS,
    {"scalar − by hand": at_most(1e-15), "vector − loop": at_most(1e-15), "batch − vectors": at_most(1e-15)},
    equation="(1)",
)
def neuron(key):
    rng = generator(key)
    weight, bias, x = rng.standard_normal((3, 2)), rng.standard_normal(2), rng.standard_normal((5, 3))
    layer = jb.chain(dense.layer(2), tanh)
    apply = once(lambda params, x: predict(layer, params, x))
    params = (affine(weight, bias), ())
    loops = [[np.tanh(sum(row[i] * weight[i, k] for i in range(3)) + bias[k]) for k in range(2)] for row in x]
    single = apply((affine(weight[:1, :1], bias[:1]), ()), x[0, :1])
    return {
        "scalar − by hand": np.abs(single[0] - np.tanh(x[0, 0] * weight[0, 0] + bias[0])),
        "vector − loop": difference(apply(params, x[0]), np.array(loops[0])),
        "batch − vectors": difference(apply(params, x), np.array(loops)),
    }


@claim(
    "A1.2",
    "The bias moves the activation along the input by −b/w; without inputs to go on, it alone sets the answer.",
    HOLDS,
    {
        "f(wx + b) − f(w(x + b/w)), tanh and sigmoid": at_most(1e-14),
        "sigmoid at x = −b/w": near(np.full(5, 0.5), 1e-15),
        "no bias, all features zero": exactly(0.5),
        "bias of an intercept-only fit to 20 % rain": near(np.log(0.2 / 0.8), 1e-9),
    },
    equation="(1)",
)
def rain(key):
    rng = generator(key)
    x, w, b = np.linspace(-3, 3, 61), rng.uniform(0.5, 2, 5), rng.standard_normal(5)

    def logistic(z):
        return 1 / (1 + np.exp(-z))

    shifted = [np.abs(f(w[i] * x + b[i]) - f(w[i] * (x + b[i] / w[i]))) for f in (np.tanh, logistic) for i in range(5)]
    blank = sigmoid.forward((), dense.forward(affine(jnp.asarray(w)[:, None], None), jnp.zeros((1, 5)))[0])[0]
    rained = jnp.array([1.0] + [0.0] * 4)

    @once
    def fit(b):
        def gradient(b):
            return jax.value_and_grad(lambda b: jnp.mean(jnp.logaddexp(0, b) - rained * b))(b)

        return descend(gradient, b, optax.sgd(4.0), 200)[0]

    return {
        "f(wx + b) − f(w(x + b/w)), tanh and sigmoid": np.max(shifted),
        "sigmoid at x = −b/w": logistic(w * (-b / w) + b),
        "no bias, all features zero": blank,
        "bias of an intercept-only fit to 20 % rain": fit(jnp.zeros(())),
    }


@claim(
    "A1.4",
    "With c = 0 every fitted line passes through the origin.",
    HOLDS,
    {"f(0) without a bias, 20 data sets": exactly(np.zeros(20)), "|f(0)| with a bias, 20 data sets": above(0.01)},
    equation="(1)",
)
def through_the_origin(key):
    rng = generator(key)
    xs = rng.uniform(-1, 3, (20, 30))
    ys = 2 * xs + 1 + 0.5 * rng.standard_normal(xs.shape)
    apply = once(lambda params: dense.forward(params, jnp.zeros((1, 1)))[0][0, 0])
    without = [apply(affine(jnp.array([[regression.without_bias(x, y).weight]]), None)) for x, y in zip(xs, ys)]
    fits = [regression.with_bias(x, y) for x, y in zip(xs, ys)]
    return {
        "f(0) without a bias, 20 data sets": without,
        "|f(0)| with a bias, 20 data sets": [
            abs(apply(affine(jnp.array([[fit.weight]]), jnp.array([fit.bias])))) for fit in fits
        ],
    }


@claim(
    "A1.5",
    "Leaving the bias out hurts on data that are not centred, and the optimum is worse; training is not longer.",
    CONDITIONAL,
    {
        "slope on raw data, no bias": near(3.200141, 5e-7),
        "slope on centred data, no bias": near(2.884033, 5e-7),
        "centred slope − slope with a bias": near(0, 1e-12),
        "MSE gap": near(1.1673736146, 5e-11),
        "steps to within 1e-6 of the optimum without a bias": at_most(10),
        "steps with a bias": above(500),
    },
    article="Also says that training takes longer; for the linear model the opposite is true (E8).",
    equation="section 6",
)
def without_bias(key):
    del key
    x, y = regression.article_data()
    fit, raw = regression.with_bias(x, y), regression.without_bias(x, y)
    centred = regression.without_bias(x - x.mean(), y - y.mean())
    without, steps = steps_to_optimum(1e-6)
    return {
        "slope on raw data, no bias": raw.weight,
        "slope on centred data, no bias": centred.weight,
        "centred slope − slope with a bias": centred.weight - fit.weight,
        "MSE gap": raw.mse - fit.mse,
        "steps to within 1e-6 of the optimum without a bias": without,
        "steps with a bias": steps,
    }


def steps_to_optimum(tolerance: float) -> list[int]:
    """Steps of gradient descent (α = 0.01, start 0) until the MSE is within `tolerance`: without and with a bias."""
    x, y = regression.article_data()
    columns = jnp.asarray(x)[:, None], jnp.asarray(y)[:, None]
    counts = []
    for network, best in (
        (regression.NEURON_WITHOUT, regression.without_bias(x, y).mse),
        (regression.NEURON, regression.with_bias(x, y).mse),
    ):
        start = regression.start(network is regression.NEURON)
        _, losses = train(network, mean_squared_error, start, *columns, optax.sgd(0.01), 5000)
        counts.append(int(np.argmax(np.asarray(losses) < best + tolerance)))
    return counts


@claim(
    "A1.7",
    "Switching the bias off leaves None in its place: one parameter array fewer everywhere, and f(0) = 0.",
    HOLDS,
    {
        "parameters of 3 → 1 with, without": exactly([4, 3]),
        "bias is None": true(),
        "leaves of Adam's moments without": exactly(2),
        "f(0) without": exactly(0.0),
    },
    equation="(2)",
)
def bias_off(key):
    x = jnp.zeros((1, 3))
    on, off = dense.layer(1).init(key, x), dense.layer(1, use_bias=False).init(key, x)
    state = optax.adam(0.1).init(off)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 2]
    return {
        "parameters of 3 → 1 with, without": [sum(leaf.size for leaf in jax.tree.leaves(p)) for p in (on, off)],
        "bias is None": off.bias is None and on.bias is not None,
        "leaves of Adam's moments without": len(moments) + sum(leaf.ndim == 1 for leaf in jax.tree.leaves(state)),
        "f(0) without": dense.forward(off, x)[0],
    }


@claim(
    "A1.8",
    "A bias can be set to a constant after construction; the weights stay untouched.",
    HOLDS,
    {"bias": exactly([0.5, 0.5]), "change of the weights": exactly(0.0), "change of the output": near(0.5, 1e-15)},
)
def set_bias(key):
    rng = generator(key)
    x = jnp.asarray(rng.standard_normal((4, 3)))
    before = affine(jnp.asarray(rng.standard_normal((3, 2))), jnp.zeros(2))
    after = before._replace(bias=jnp.full_like(before.bias, 0.5))
    return {
        "bias": after.bias,
        "change of the weights": difference(after.weight, before.weight),
        "change of the output": np.subtract(dense.forward(after, x)[0], dense.forward(before, x)[0]),
    }


@claim(
    "A1.9",
    "In a network each layer's bias has a name of its own: it can be replaced, dropped or frozen without the others.",
    HOLDS,
    {
        "biases by name": true(),
        "change elsewhere when one is replaced": exactly(0.0),
        "parameters removed by dropping 0.bias (4 units)": exactly(4),
        "change of a frozen bias after 50 Adam steps": exactly(0.0),
        "change of the other bias": above(0.01),
    },
    equation="(15)",
)
def bias_by_name(key):
    rng = generator(key)
    network = jb.chain(dense.layer(4), tanh, dense.layer(2))
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    params = randomized(rng, network, x)
    names = list(jb.named_parameters(params))
    replaced = (params[0]._replace(bias=params[0].bias + 1), *params[1:])
    dropped = (params[0]._replace(bias=None), *params[1:])
    optimizer = jb.with_frozen(optax.adam(0.01), jb.freeze(params, ["0.bias"]))
    trained, _ = train(network, mean_squared_error, params, x, y, optimizer, 50)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    return {
        "biases by name": [name for name in names if name.endswith("bias")] == ["0.bias", "2.bias"],
        "change elsewhere when one is replaced": difference(replaced[2], params[2])
        + difference(replaced[0].weight, params[0].weight),
        "parameters removed by dropping 0.bias (4 units)": count(params) - count(dropped),
        "change of a frozen bias after 50 Adam steps": difference(trained[0].bias, params[0].bias),
        "change of the other bias": difference(trained[2].bias, params[2].bias),
    }


@claim(
    "A1.10",
    "A convolution has one bias per filter, shared over all positions: moving it moves one channel everywhere.",
    HOLDS,
    {
        "Conv2d(3, 16, 3) biases, parameters, parameters without": exactly([16, 448, 432]),
        "change in its own channel when b[2] grows by 0.25": near(0.25, 1e-14),
        "change elsewhere": exactly(0.0),
        "the same for one axis: in its channel": near(0.25, 1e-14),
        "the same for one axis: elsewhere": exactly(0.0),
    },
    equation="5.1",
)
def convolution_bias(key):
    rng = generator(key)
    changes, sizes = {}, []
    for axes in (2, 1):
        x = rng.standard_normal((2, *(6, 5)[:axes], 3))
        layer = conv.layer(16, 3)
        params = randomized(rng, layer, x)
        moved = params._replace(bias=params.bias + 0.25 * np.eye(16)[2])
        apply = once(lambda p, x, layer=layer: predict(layer, p, x))
        change = np.asarray(apply(moved, x)) - np.asarray(apply(params, x))
        changes[axes] = change[..., 2], np.delete(change, 2, axis=-1)
        if axes == 2:
            sizes = [params.bias.size, params.bias.size + params.weight.size, params.weight.size]
    return {
        "Conv2d(3, 16, 3) biases, parameters, parameters without": sizes,
        "change in its own channel when b[2] grows by 0.25": changes[2][0],
        "change elsewhere": changes[2][1],
        "the same for one axis: in its channel": changes[1][0],
        "the same for one axis: elsewhere": changes[1][1],
    }


@claim(
    "A1.13",
    "With an offset in the target the net with a bias ends lower for every seed; without an offset both end alike.",
    CONDITIONAL,
    {
        "no bias, y = 2x + 1: slope and MSE": near([2, 1], 1e-9),
        "with a bias: slope, bias and MSE": near([2, 1, 0], 1e-9),
        "y = 2x: MSE with and without": near([0, 0], 1e-9),
        "noisy y = 2x + 1: smallest advantage of the bias": above(0),
        "noisy y = 2x + 1: advantage": mean_above(0.9),
        "noisy y = 2x: advantage on the training data": reported(),
    },
    article="Says only that results may differ; no numbers, net or data.",
    equation="section 6",
)
def with_and_without(key):
    x = np.linspace(-1, 1, 21)
    exact = {}
    for offset in (1, 0):
        for use_bias, network in ((True, regression.NEURON), (False, regression.NEURON_WITHOUT)):
            columns = jnp.asarray(x)[:, None], jnp.asarray(2 * x + offset)[:, None]
            start = regression.start(use_bias)
            exact[offset, use_bias] = train(network, mean_squared_error, start, *columns, optax.sgd(0.3), 500)
    rng = generator(key)
    advantage = {}
    for offset in (1, 0):
        ys = 2 * x + offset + 0.5 * rng.standard_normal((100, x.size))
        advantage[offset] = [regression.without_bias(x, y).mse - regression.with_bias(x, y).mse for y in ys]
    (without, without_mse), (fit, fit_mse) = exact[1, False], exact[1, True]
    return {
        "no bias, y = 2x + 1: slope and MSE": [without.weight[0, 0], without_mse[-1]],
        "with a bias: slope, bias and MSE": [fit.weight[0, 0], fit.bias[0], fit_mse[-1]],
        "y = 2x: MSE with and without": [exact[0, True][1][-1], exact[0, False][1][-1]],
        "noisy y = 2x + 1: smallest advantage of the bias": np.min(advantage[1]),
        "noisy y = 2x + 1: advantage": advantage[1],
        "noisy y = 2x: advantage on the training data": advantage[0],
    }


@claim(
    "A1.21",
    "A bias starts at zero and is updated by backpropagation like any weight.",
    CONDITIONAL,
    {"biases at initialisation, dense and conv": exactly(0.0), "smallest change of a bias in one step": above(0)},
    article="'Zero or small random values': the library's default is zero; PyTorch's is uniform (A1.6).",
    equation="(15)",
)
def bias_starts_at_zero(key):
    rng = generator(key)
    x = jnp.asarray(rng.standard_normal((4, 5, 5, 2)))
    layers = [dense.layer(3), conv.layer(3, 2)]

    @once
    def run(x):
        biases_and_steps = []
        for layer in layers:
            params = layer.init(key, x)
            out, residuals = layer.forward(params, x)
            grads, _ = layer.backward(residuals, out - 1)
            biases_and_steps.append((params.bias, -0.1 * grads.bias))
        return biases_and_steps

    biases_and_steps = run(x)
    return {
        "biases at initialisation, dense and conv": np.concatenate([bias for bias, _ in biases_and_steps]),
        "smallest change of a bias in one step": np.min(np.abs(np.concatenate([step for _, step in biases_and_steps]))),
    }


@claim(
    "A1.22",
    "A unit can fire although its weighted sum is 0: its bias acts on its own, and its gradient has no input factor.",
    HOLDS,
    {
        "ReLU(0 + b), b = 0.7": exactly(0.7),
        "share of active units for z ~ N(b, 1), b = −1, 0, 1": near([0.158655, 0.5, 0.841345], 0.002),
        "∂C/∂b at inputs x and 100 x, for one δ": exactly(0.0),
    },
    equation="(14)",
)
def fires_at_zero(key):
    rng = generator(key)
    x, delta = rng.standard_normal((5, 3)), jnp.asarray(rng.standard_normal((5, 2)))
    params = randomized(rng, dense.layer(2), x)
    bias_gradients = [dense.backward(dense.forward(params, jnp.asarray(s * x))[1], delta)[0].bias for s in (1, 100)]
    z = rng.standard_normal(400_000)
    return {
        "ReLU(0 + b), b = 0.7": jb.layers.relu.forward((), jnp.array([0.7]))[0],
        "share of active units for z ~ N(b, 1), b = −1, 0, 1": [np.mean(z + b > 0) for b in (-1, 0, 1)],
        "∂C/∂b at inputs x and 100 x, for one δ": difference(*bias_gradients),
    }
