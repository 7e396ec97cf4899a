"""Errata on what a network computes, and on the steps of backpropagation: the article's version and the true one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import article0
from jaxbias.claims._claim import REFUTED, claim
from jaxbias.claims._conditions import above, at_most, exactly, near
from jaxbias.claims._tools import affine, difference, generator, largest, once, predict, randomized
from jaxbias.claims.article3 import NETWORK, problem
from jaxbias.layers import dense, identity, leaky_relu, relu, sigmoid, softmax, tanh
from jaxbias.losses import mean_squared_error
from jaxbias.params import run_forward


@claim(
    "E1",
    "A ReLU unit is zero exactly where its weighted sum is at most −b.",
    REFUTED,
    {"output at b = 2, sum −1": exactly(1.0), "output at b = −2, sum 1": exactly(0.0)},
    article="ReLU is zero when the weighted sum is below the bias.",
    equation="5.2",
)
def relu_threshold(key):
    del key
    outs = [relu.forward((), jnp.array([s + b]))[0][0] for b, s in ((2.0, -1.0), (-2.0, 1.0))]
    return {"output at b = 2, sum −1": outs[0], "output at b = −2, sum 1": outs[1]}


@claim(
    "E2",
    "Kernels are stored [input, unit]: x1→h2 is 0.9812743 and x2→h1 is −0.5948815.",
    REFUTED,
    {"printed prediction, kernel as stored": near(13.94088, 5e-6), "with the two labels swapped": near(7.597099, 5e-7)},
    article="x2→h1 is 0.9812743 and x1→h2 is −0.5948815.",
    equation="(2)",
)
def swapped_labels(key):
    del key
    first, _, last = article0.printed_params()
    outs = [
        article0.hidden_and_output((first._replace(weight=weight), (), last), article0.POINT)[2][0, 0]
        for weight in (first.weight, first.weight.T)
    ]
    return {"printed prediction, kernel as stored": outs[0], "with the two labels swapped": outs[1]}


@claim(
    "E3",
    "The printed 2-2-1 network fits 2x₁ + 3x₂ + 1; only its effective map has such numbers, no parameter is 2 or 1.",
    REFUTED,
    {
        "distance of the nearest parameter to 2, to 1": above(0.01),
        "effective slopes and intercept": near([2, 3, 1], 0.1),
    },
    article="One neuron learns y = 2x + 1: its weight becomes 2, its bias 1.",
    equation="(2)",
)
def no_single_parameter(key):
    del key
    params = article0.printed_params()
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    first, _, last = params
    return {
        "distance of the nearest parameter to 2, to 1": [np.min(np.abs(flat - value)) for value in (2, 1)],
        "effective slopes and intercept": [
            *(first.weight[:, 1] * last.weight[1, 0]),
            first.bias[1] * last.weight[1, 0] + last.bias[0],
        ],
    }


def without_biases(*widths, activation, last=identity):
    """A dense network without biases."""
    layers = [layer for width in widths[:-1] for layer in (dense.layer(width, use_bias=False), activation)]
    return jb.chain(*layers, dense.layer(widths[-1], use_bias=False), last)


@claim(
    "E4",
    "Without biases the pre-activation is 0 at x = 0; what the network is there depends on its activations.",
    REFUTED,
    {
        "ReLU and leaky ReLU: f(cx) − c f(x), c = 0, 0.5, 3": at_most(1e-13),
        "tanh: f(−x) + f(x)": at_most(1e-15),
        "sigmoid: f(0) − Σv/2": at_most(1e-15),
        "sigmoid: |f(0)|": above(0.01),
        "softmax: f(0) − 1/K": at_most(1e-15),
        "bias-free ReLU fit of the constant 1 on [−1, 1]: best possible MSE (theory 1/4)": near(0.25, 1e-3),
        "AND on ±1 inputs: rows right with a bias, best without": exactly([4, 3]),
    },
    article="Without a bias every function, every neuron passes through the origin.",
    equation="section 6",
)
def through_the_origin(key):
    rng = generator(key)
    x = rng.standard_normal((6, 3))
    networks = {
        name: without_biases(5, 4, 2, activation=activation)
        for name, activation in (("relu", relu), ("leaky", leaky_relu), ("tanh", tanh))
    }
    networks["sigmoid"] = without_biases(5, 2, activation=sigmoid)
    networks["softmax"] = without_biases(5, 2, activation=tanh, last=softmax)
    params = {name: randomized(rng, network, x) for name, network in networks.items()}

    @once
    def outputs(params):
        at = {name: lambda x, name=name: predict(networks[name], params[name], x) for name in networks}
        scaled = [at[name](c * x) - c * at[name](x) for name in ("relu", "leaky") for c in (0.0, 0.5, 3.0)]
        return scaled, at["tanh"](-x) + at["tanh"](x), at["sigmoid"](0 * x), at["softmax"](0 * x)

    scaled, odd, logistic, uniform = outputs(params)
    # In one dimension every bias-free ReLU net is u relu(x) + d relu(−x): least squares finds the best of them.
    points = np.linspace(0, 1, 2000)
    features = np.concatenate([np.stack([points, 0 * points], 1), np.stack([0 * points, points], 1)])
    _, residual, *_ = np.linalg.lstsq(features, np.ones(4000))
    corners = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    wanted = np.array([False, False, False, True])
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False) + 1e-4
    sums = corners @ np.stack([np.cos(angles), np.sin(angles)])
    return {
        "ReLU and leaky ReLU: f(cx) − c f(x), c = 0, 0.5, 3": largest(scaled),
        "tanh: f(−x) + f(x)": largest(odd),
        "sigmoid: f(0) − Σv/2": difference(logistic[0], params["sigmoid"][2].weight.sum(axis=0) / 2),
        "sigmoid: |f(0)|": np.abs(logistic[0]),
        "softmax: f(0) − 1/K": np.max(np.abs(uniform - 0.5)),
        "bias-free ReLU fit of the constant 1 on [−1, 1]: best possible MSE (theory 1/4)": residual[0] / 4000,
        "AND on ±1 inputs: rows right with a bias, best without": [
            np.sum((corners.sum(1) - 1 > 0) == wanted),
            np.max(np.sum((sums > 0) == wanted[:, None], axis=0)),
        ],
    }


@claim(
    "E12",
    "A weight tells the importance of an input only at equal scales: ten times the input takes a tenth of the weight.",
    REFUTED,
    {"w of the scaled input · 10 − w": near(0, 1e-10), "predictions": near(np.zeros(30), 1e-10)},
    article="The weight is the importance of its input.",
    equation="(2)",
)
def importance(key):
    rng = generator(key)
    x = rng.standard_normal((30, 3))
    y = x @ [1.0, -2, 3] + 0.5 + 0.1 * rng.standard_normal(30)
    scaled = x * [1, 10, 1]
    fit, fit_scaled = (np.linalg.lstsq(np.column_stack([features, np.ones(30)]), y)[0] for features in (x, scaled))
    return {
        "w of the scaled input · 10 − w": 10 * fit_scaled[1] - fit[1],
        "predictions": np.column_stack([scaled, np.ones(30)]) @ fit_scaled - np.column_stack([x, np.ones(30)]) @ fit,
    }


@claim(
    "E22",
    "An epoch is a pass over the data, an iteration one update; (10), (14) are per sample, a mean divides by n once.",
    REFUTED,
    {
        "updates in one epoch of 12 rows, batches of 4": exactly(3),
        "batch gradient − mean of per-sample gradients": at_most(1e-15),
        "one step with the mean at α − with the sum at α/n": at_most(1e-15),
        "gradient pass changes the params": exactly(0.0),
    },
    article="An epoch is an iteration; backpropagation updates the weights; how a batch is reduced is left unsaid.",
    equation="section 3",
)
def epoch_and_iteration(key):
    params, x, targets = problem(key, n=12)
    mean = jb.value_and_grad(NETWORK, mean_squared_error)
    total = jb.value_and_grad(NETWORK, mean_squared_error.loss(reduction="sum"))

    @once
    def run(params, x, targets):
        per_sample = jax.vmap(lambda a, t: mean(params, a[None], t[None])[1])(x, targets)
        _, by_mean = mean(params, x, targets)
        _, by_sum = total(params, x, targets)
        stepped = [
            jax.tree.map(lambda p, g, alpha=alpha: p - alpha * g, params, grads)
            for alpha, grads in ((0.1, by_mean), (0.1 / 12, by_sum))
        ]
        return jax.tree.map(lambda g: g.mean(axis=0), per_sample), by_mean, stepped

    before = jax.tree.map(np.copy, params)
    averaged, by_mean, stepped = run(params, x, targets)
    updates = (
        jb.train.fit(
            NETWORK, mean_squared_error, params, (x, targets), optax.adam(0.1), epochs=1, batch_size=4, key=key
        )
        .opt_state[0]
        .count
    )
    return {
        "updates in one epoch of 12 rows, batches of 4": updates,
        "batch gradient − mean of per-sample gradients": difference(averaged, by_mean),
        "one step with the mean at α − with the sum at α/n": difference(*stepped),
        "gradient pass changes the params": difference(before, params),
    }


@claim(
    "E23",
    "All error signals need the weights of the forward pass: updating in place on the way back gives another result.",
    REFUTED,
    {
        "library − gradients with the old weights": at_most(1e-14),
        "in-place update − correct update, layers 1 and 2": above(1e-3),
        "in-place update − correct update, last layer": at_most(1e-15),
    },
    article="Equations (11) and (15) update each layer on the way back, as they read.",
    equation="(8), (11), (15)",
)
def in_place(key):
    params, x, targets = problem(key)
    alpha = 0.5

    @once
    def run(params):
        out, residuals = run_forward(NETWORK, params, x)
        _, loss_residuals = mean_squared_error.forward(out, targets)
        first = delta = mean_squared_error.backward(loss_residuals)
        grads, _ = NETWORK.backward(residuals, first)
        right = jax.tree.map(lambda p, g: p - alpha * g, params, grads)
        wrong = []
        for layer, p, r in zip(reversed(NETWORK.parts), reversed(params), reversed(residuals)):
            g, handed_down = layer.backward(r, delta)
            new = jax.tree.map(lambda q, h: q - alpha * h, p, g)
            if isinstance(r, dense.Residuals):
                handed_down = delta @ new.weight.T  # the mistake: the weight that was just updated
            wrong.insert(0, new)
            delta = handed_down
        expected = jax.grad(lambda p: jnp.mean((predict(NETWORK, p, x) - targets) ** 2))(params)
        return right, tuple(wrong), grads, expected

    right, wrong, grads, expected = run(params)
    return {
        "library − gradients with the old weights": difference(grads, expected),
        "in-place update − correct update, layers 1 and 2": [difference(right[i], wrong[i]) for i in (0, 2)],
        "in-place update − correct update, last layer": difference(right[4], wrong[4]),
    }


@claim(
    "E24",
    "A hidden bias moves its unit along the input by −b/w; only a linear output's bias moves the curve vertically.",
    REFUTED,
    {
        "f(wx + b) − f(w(x + b/w))": at_most(1e-14),
        "spread over x of f(wx + b) − f(wx), over its maximum": above(0.5),
        "output bias: change of the output − b": near(np.zeros(61), 1e-14),
    },
    article="The offset shifts the activation vertically.",
    equation="(2)",
)
def shift(key):
    rng = generator(key)
    x, b = np.linspace(-3, 3, 61)[:, None], 0.8
    network = jb.chain(dense.layer(1), tanh, dense.layer(1))
    params = (affine(np.array([[1.7]]), np.array([b])), (), affine(np.ones((1, 1)), np.array([rng.standard_normal()])))
    off = (params[0]._replace(bias=np.zeros(1)), *params[1:])
    raised = (*params[:2], params[2]._replace(bias=params[2].bias + b))
    f = once(lambda p, x: predict(network, p, x)[:, 0])
    change = np.asarray(f(params, x)) - np.asarray(f(off, x))
    return {
        "f(wx + b) − f(w(x + b/w))": np.max(np.abs(f(params, x) - f(off, x + b / 1.7))),
        "spread over x of f(wx + b) − f(wx), over its maximum": np.ptp(change) / np.max(change),
        "output bias: change of the output − b": np.asarray(f(raised, x)) - np.asarray(f(params, x)) - b,
    }


@claim(
    "E26",
    "A bias is the part of the map that does not depend on the input: the pre-activation at x = 0, nothing more.",
    REFUTED,
    {"z(0) − b": exactly(0.0), "z(x) − z(0) − xW": at_most(1e-15), "∂z/∂b at any x − 1": exactly(0.0)},
    article="The bias captures what the input cannot.",
    equation="(2), (14)",
)
def input_independent_part(key):
    rng = generator(key)
    x = rng.standard_normal((5, 3))
    params = randomized(rng, dense.layer(2), x)
    z = once(lambda p, x: dense.forward(p, x)[0])
    by_bias = once(jax.jacobian(lambda b: dense.forward(params._replace(bias=b), jnp.asarray(x))[0]))(params.bias)
    return {
        "z(0) − b": difference(z(params, 0 * x), np.tile(params.bias, (5, 1))),
        "z(x) − z(0) − xW": difference(np.asarray(z(params, x)) - np.asarray(z(params, 0 * x)), x @ params.weight),
        "∂z/∂b at any x − 1": difference(by_bias, np.tile(np.eye(2), (5, 1, 1))),
    }
