"""Article 0: bias neurons in a small dense network, and the 2-2-1 network whose weights it prints."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import _regression as regression
from jaxbias.claims._claim import CONDITIONAL, HOLDS, claim
from jaxbias.claims._conditions import above, at_most, exactly, mean_near, near, true
from jaxbias.claims._tools import affine, descend, difference, generator, largest, once, predict, randomized, train
from jaxbias.layers import bias_neuron, dense, identity, relu, sigmoid, tanh
from jaxbias.losses import mean_squared_error

NETWORK = jb.chain(dense.layer(2), relu, dense.layer(1))
"""The article's model B: two inputs, two ReLU units, one linear output."""

KERNEL1 = [[-1.1044016, 0.9812743], [-0.5948815, 1.4780935]]
BIAS1 = [0.0, 0.3192987]
KERNEL2 = [[0.1048971], [2.0368812]]
BIAS2 = [0.2609277]


def printed_params(dtype: Any = float) -> tuple:
    """The weights that the article prints, in the library's layout [input, unit] (A0.11)."""
    first = affine(jnp.array(KERNEL1, dtype), jnp.array(BIAS1, dtype))
    return first, (), affine(jnp.array(KERNEL2, dtype), jnp.array(BIAS2, dtype))


@once
def hidden_and_output(params, x):
    """z, h and the output of the 2-2-1 network."""
    z = dense.forward(params[0], x)[0]
    return z, relu.forward((), z)[0], predict(NETWORK, params, x)


POINT = np.array([[2.0, 3.0]])


def tanh_problem(key):
    """A 3-4-2 tanh network with random params, a batch of 5 and a random cotangent."""
    network = jb.chain(dense.layer(4), tanh, dense.layer(2))
    rng = generator(key)
    x, delta = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    return network, randomized(rng, network, x), x, delta


@claim(
    "A0.1",
    "A bias vector and a constant-1 unit with trainable connections are one thing: equal outputs, equal gradients.",
    HOLDS,
    {"output difference": at_most(1e-12), "gradient difference": at_most(1e-12)},
    equation="4.4",
)
def constant_unit(key):
    network, params, x, delta = tanh_problem(key)

    @once
    def run(params, x, delta):
        out, residuals = network.forward(params, x)
        grads, delta_x = network.backward(residuals, delta)
        neurons = tuple(bias_neuron.from_dense(p) if p else () for p in params)
        homogeneous = jb.chain(bias_neuron.layer(4), tanh, bias_neuron.layer(2))
        expected, pull_back = jax.vjp(lambda p, x: predict(homogeneous, p, x), neurons, x)
        as_neurons = tuple(bias_neuron.from_dense(g) if g else () for g in grads)
        return (out, (as_neurons, delta_x)), (expected, pull_back(delta))

    by_vector, by_neuron = run(params, x, delta)
    return {
        "output difference": difference(by_vector[0], by_neuron[0]),
        "gradient difference": difference(by_vector[1], by_neuron[1]),
    }


@claim(
    "A0.2",
    "Every layer but the output carries one bias neuron, fully connected forwards; the conversion is exact both ways.",
    HOLDS,
    {"round-trip difference": exactly(0.0), "bias neurons of a 3-4-2 network": exactly(2)},
    equation="4.4",
)
def bias_neuron_round_trip(key):
    network, params, x, _ = tanh_problem(key)
    neurons = [bias_neuron.from_dense(layer) for layer in params if layer]
    back = [bias_neuron.to_dense(layer) for layer in neurons]
    return {
        "round-trip difference": max(difference(p, q) for p, q in zip(back, params[::2])),
        "bias neurons of a 3-4-2 network": sum(n.weight.shape[0] - p.weight.shape[0] for n, p in zip(neurons, back)),
    }


@claim(
    "A0.3",
    "The bias joins the weighted sum before the activation: f(xW + b), not f(xW) + b; they differ unless f is linear.",
    HOLDS,
    {
        "library − f(xW + b)": at_most(1e-15),
        "f(xW + b) − (f(xW) + b): tanh, ReLU, sigmoid": above(0.1),
        "the same, identity": at_most(1e-15),
    },
    equation="(2)",
)
def bias_before_activation(key):
    rng = generator(key)
    weight, bias, x = (rng.standard_normal(shape) for shape in [(3, 4), (4,), (5, 3)])
    functions = {tanh: jnp.tanh, relu: jax.nn.relu, sigmoid: jax.nn.sigmoid, identity: lambda z: z}

    @once
    def run(weight, bias, x):
        z = x @ weight
        library = [predict(jb.chain(dense.layer(4), f), (affine(weight, bias), ()), x) for f in functions]
        before = [f(z + bias) for f in functions.values()]
        return library, before, [f(z) + bias for f in functions.values()]

    library, before, after = run(weight, bias, x)
    apart = [difference(a, b) for a, b in zip(before, after)]
    return {
        "library − f(xW + b)": difference(library, before),
        "f(xW + b) − (f(xW) + b): tanh, ReLU, sigmoid": apart[:3],
        "the same, identity": apart[3],
    }


@claim(
    "A0.4",
    "Biases are trained like weights: one SGD step moves b by exactly −α ∂C/∂b and W by exactly −α ∂C/∂W.",
    HOLDS,
    {"step − (−α gradient)": exactly(0.0), "gradient − autodiff": at_most(1e-12), "smallest bias step": above(0)},
    equation="(11), (15)",
)
def sgd_step(key):
    network, params, x, targets = tanh_problem(key)

    @once
    def run(params, x, targets):
        _, grads = jb.value_and_grad(network, mean_squared_error)(params, x, targets)
        _, expected = jb.value_and_grad(network, mean_squared_error, "autodiff")(params, x, targets)
        optimizer = optax.sgd(0.1)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return grads, expected, updates

    grads, expected, updates = run(params, x, targets)
    return {
        "step − (−α gradient)": difference(updates, jax.tree.map(lambda g: -0.1 * g, grads)),
        "gradient − autodiff": difference(grads, expected),
        "smallest bias step": min(np.min(np.abs(updates[0].bias)), np.min(np.abs(updates[2].bias))),
    }


@claim(
    "A0.5",
    "At the optimum of a linear neuron under squared error the residuals balance: the first-order condition of b.",
    HOLDS,
    {"mean residual": near(0, 1e-10), "gradient": at_most(1e-10)},
    equation="(14) = 0",
)
def optimum_bias(key):
    x, y = (jnp.asarray(column)[:, None] for column in regression.article_data())
    params, _ = train(regression.NEURON, mean_squared_error, regression.start(), x, y, optax.sgd(0.02), 3000)
    _, grads = jb.value_and_grad(regression.NEURON, mean_squared_error)(params, x, y)
    return {"mean residual": jnp.mean(y - predict(regression.NEURON, params, x)), "gradient": largest(grads)}


@claim(
    "A0.6",
    "One linear neuron with a bias learns y = 2x + 1 from noisy samples: weight near 2, bias near 1.",
    HOLDS,
    {
        "gradient descent − least squares": at_most(1e-5),
        "|w − 2| in units of its sd, per seed": at_most(4),
        "|b − 1| in units of its sd, per seed": at_most(4),
        "w": mean_near(2, 0.05),
        "b": mean_near(1, 0.1),
    },
    article="n, noise, optimiser and epochs are not given; here n = 100, x ~ U(0, 5), noise sd 0.5, 100 data sets.",
    equation="(11), (15)",
)
def experiment_a(key):
    rng = generator(key)
    xs = rng.uniform(0, 5, (100, 100, 1))
    ys = 2 * xs + 1 + 0.5 * rng.standard_normal(xs.shape)
    gradient = jb.value_and_grad(regression.NEURON, mean_squared_error)

    @jax.jit
    @jax.vmap
    def fit(x, y):
        return descend(lambda p: gradient(p, x, y), regression.start(), optax.sgd(0.05), 3000)[0]

    learned = fit(xs, ys)
    w, b = np.asarray(learned.weight[:, 0, 0]), np.asarray(learned.bias[:, 0])
    lines = [regression.with_bias(x, y) for x, y in zip(xs[..., 0], ys[..., 0])]
    x = xs[..., 0]
    sxx = ((x - x.mean(1, keepdims=True)) ** 2).sum(1)
    return {
        "gradient descent − least squares": np.abs([w - [l.weight for l in lines], b - [l.bias for l in lines]]),
        "|w − 2| in units of its sd, per seed": np.abs(w - 2) * np.sqrt(sxx) / 0.5,
        "|b − 1| in units of its sd, per seed": np.abs(b - 1) / (0.5 * np.sqrt(1 / 100 + x.mean(1) ** 2 / sxx)),
        "w": w,
        "b": b,
    }


@claim(
    "A0.7",
    "Switching the bias off tilts the slope to w + b Σx/Σx² and costs b²(1 − (Σx)²/(nΣx²)) of training error.",
    HOLDS,
    {"slope − formula": near(np.zeros(100), 1e-12), "cost gap − formula": near(np.zeros(100), 1e-12)},
    equation="section 6",
)
def control_without_bias(key):
    rng = generator(key)
    xs = rng.uniform(0, 5, (100, 50))
    ys = 2 * xs + 1 + 0.5 * rng.standard_normal(xs.shape)
    slopes, gaps = [], []
    for x, y in zip(xs, ys):
        fit, without = regression.with_bias(x, y), regression.without_bias(x, y)
        slopes.append(without.weight - (fit.weight + fit.bias * x.sum() / (x @ x)))
        gaps.append(without.mse - fit.mse - regression.gap(x, y))
    return {"slope − formula": slopes, "cost gap − formula": gaps}


@claim(
    "A0.8",
    "The printed hidden value 0 shows that the hidden layer is a ReLU: a linear one would give 13.521981.",
    HOLDS,
    {"output with a linear hidden layer": near(13.521981, 5e-7), "output with ReLU": near(13.94088, 5e-6)},
    equation="(2)",
)
def hidden_is_relu(key):
    del key
    params = printed_params()
    z, _, out = hidden_and_output(params, POINT)
    linear = dense.forward(params[2], z)[0]
    return {"output with a linear hidden layer": linear[0, 0], "output with ReLU": out[0, 0]}


@claim(
    "A0.11",
    "With the printed parameters the library's 2-2-1 network answers 13.94088 at (2, 3), the number that is printed.",
    HOLDS,
    {"output": near(13.94088, 5e-6), "parameters": exactly(9)},
    equation="(2)",
)
def reference_parameters(key):
    del key
    params = printed_params()
    return {
        "output": hidden_and_output(params, POINT)[2][0, 0],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }


@claim(
    "A0.12",
    "Read by role, x1→h1 is −1.1044016, x1→h2 0.9812743, x2→h1 −0.5948815 and x2→h2 1.4780935.",
    CONDITIONAL,
    {"∂h2/∂x1, ∂h2/∂x2": exactly([0.9812743, 1.4780935]), "∂z1/∂x1, ∂z1/∂x2": exactly([-1.1044016, -0.5948815])},
    article="The listing swaps the labels x2→h1 and x1→h2 (E2).",
    equation="A2.1: ∂z_k/∂a_j = w_kj",
)
def weights_by_role(key):
    del key
    first = printed_params()[0]
    jacobian = jax.jacobian(lambda x: dense.forward(first, x)[0])(jnp.asarray(POINT[0]))
    return {"∂h2/∂x1, ∂h2/∂x2": jacobian[1], "∂z1/∂x1, ∂z1/∂x2": jacobian[0]}


@claim(
    "A0.13",
    "At (2, 3): z = (−3.9934477, 6.7161278), h = (0, 6.7161278), output 13.9408822; float32 is within one ulp.",
    HOLDS,
    {
        "z": near([-3.9934477, 6.7161278], 1e-6),
        "h": near([0, 6.7161278], 1e-6),
        "output": near(13.9408822, 1e-6),
        "library − by hand": near(0, 1e-6),
        "float32": near(13.9408822, 9.6e-7),  # 2⁻²⁰, the spacing at 13.94: 13.940882 or 13.940883 by the order of sums
    },
    equation="(2)",
)
def printed_prediction(key):
    del key
    z, h, out = hidden_and_output(printed_params(), POINT)
    single = hidden_and_output(printed_params(np.float32), POINT.astype(np.float32))[2]
    z2 = 2 * 0.9812743 + 3 * 1.4780935 + 0.3192987
    by_hand = 2.0368812 * z2 + 0.2609277
    return {
        "z": z[0],
        "h": h[0],
        "output": out[0, 0],
        "library − by hand": out[0, 0] - by_hand,
        "float32": single[0, 0],
    }


@claim(
    "A0.14",
    "With the article's own labels, the kernel transposed, the output would be 7.597099: the layout is [input, unit].",
    HOLDS,
    {"h": near([0.735020, 3.563816], 5e-7), "output": near(7.597099, 5e-7)},
    equation="sheet 1, sender-first storage",
)
def layout_pin(key):
    del key
    first, _, last = printed_params()
    _, h, out = hidden_and_output((first._replace(weight=first.weight.T), (), last), POINT)
    return {"h": h[0], "output": out[0, 0]}


def article_data(rng: np.random.Generator, n: int = 200):
    """y = 2 x₁ + 3 x₂ + 1 + noise of sd 0.1 on x ~ U(0, 5)² (A0.16)."""
    x = rng.uniform(0, 5, (n, 2))
    return x, x @ np.array([[2.0], [3.0]]) + 1 + 0.1 * rng.standard_normal((n, 1))


def half_dead_params():
    """Initial params whose first hidden unit is the article's: both weights negative, bias 0, so it never fires."""
    first = affine(jnp.array([[-1.1044016, 0.5], [-0.5948815, 0.8]]), jnp.zeros(2))
    return first, (), affine(jnp.array([[0.1048971], [1.1]]), jnp.zeros(1))


@claim(
    "A0.15",
    "Hidden unit 1 is dead: both weights negative, bias 0, inputs not negative, so training never changes it.",
    HOLDS,
    {
        "change of its weights, bias and outgoing weight, SGD": exactly(0.0),
        "change, RMSprop": exactly(0.0),
        "change, Adam": exactly(0.0),
        "change of the living unit, each optimiser": above(0.1),
        "printed weights inside the Glorot bounds": true(),
    },
    article="Not remarked on: the printed bias of this unit is still its initial 0.",
    equation="(8), (10), (14)",
)
def dead_unit(key):
    x, y = article_data(generator(key))
    gradient = jb.value_and_grad(NETWORK, mean_squared_error)
    start = half_dead_params()
    optimizers = {"SGD": optax.sgd(0.01), "RMSprop": optax.rmsprop(0.01), "Adam": optax.adam(0.01)}

    @once
    def run(start, x, y):
        return [descend(lambda p: gradient(p, x, y), start, optimizer, 300)[0] for optimizer in optimizers.values()]

    dead, living = {}, []
    for name, params in zip(optimizers, run(start, x, y)):
        moved = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), params, start)
        dead[name] = largest((moved[0].weight[:, 0], moved[0].bias[0], moved[2].weight[0]))
        living.append(largest((moved[0].weight[:, 1], moved[0].bias[1], moved[2].weight[1])))
    first = np.max(np.abs(np.array(KERNEL1)[:, 0])) <= np.sqrt(6 / 4)
    return {
        "change of its weights, bias and outgoing weight, SGD": dead["SGD"],
        "change, RMSprop": dead["RMSprop"],
        "change, Adam": dead["Adam"],
        "change of the living unit, each optimiser": living,
        "printed weights inside the Glorot bounds": first and abs(KERNEL2[0][0]) <= np.sqrt(6 / 3),
    }


@claim(
    "A0.16",
    "Model B fitted y = 2x₁ + 3x₂ + 1: its effective map is affine with slopes near 2 and 3 and intercept near 1.",
    HOLDS,
    {
        "slopes and intercept of the printed network": near([1.998739, 3.010701, 0.911301], 1e-6),
        "slopes − (2, 3), retrained": near([0, 0], 0.05),
        "intercept − 1, retrained": near(0, 0.1),
        "prediction at (2, 3) − 14": near(0, 0.1),
        "share of units born dead, d = 1, 2, 3": near([1 / 2, 1 / 4, 1 / 8], 0.005),
        "share of networks with both units dead": near(1 / 16, 0.005),
        "output of a network with both units dead − mean y": near(0, 1e-6),
    },
    article="The text speaks of y = 2x + 1 and one neuron (E3).",
    equation="(2)",
)
def effective_map(key):
    rng = generator(key)
    x, y = article_data(rng)
    start = half_dead_params()
    both_dead = (start[0]._replace(weight=-jnp.abs(start[0].weight)), *start[1:])
    gradient = jb.value_and_grad(NETWORK, mean_squared_error)

    @jax.jit
    def fit(params, x, y):
        params, _ = descend(
            lambda p: gradient(p, x, y), params, optax.adam(optax.linear_schedule(0.05, 1e-4, 4000)), 4000
        )
        return predict(NETWORK, params, jnp.array([[2.0, 3], [3, 3], [2, 4]]))[:, 0]

    at, right, up = fit(start, x, y)
    slopes = np.array([right - at, up - at])
    printed = printed_params()
    kernel, bias = printed[0].weight[:, 1], printed[0].bias[1]
    out_weight, out_bias = printed[2].weight[1, 0], printed[2].bias[0]
    draws = rng.uniform(-1, 1, (200_000, 3))
    return {
        "slopes and intercept of the printed network": [*(kernel * out_weight), bias * out_weight + out_bias],
        "slopes − (2, 3), retrained": slopes - [2, 3],
        "intercept − 1, retrained": at - slopes @ [2, 3] - 1,
        "prediction at (2, 3) − 14": at - 14,
        "share of units born dead, d = 1, 2, 3": [np.mean(np.all(draws[:, :d] <= 0, axis=1)) for d in (1, 2, 3)],
        "share of networks with both units dead": np.mean(np.all(rng.uniform(-1, 1, (200_000, 4)) <= 0, axis=1)),
        "output of a network with both units dead − mean y": fit(both_dead, x, y) - y.mean(),
    }
