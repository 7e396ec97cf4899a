"""Errata: what the articles say, what is true, and the experiment that tells the two apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import _regression as regression
from jaxbias.claims import article0, article2
from jaxbias.claims._claim import REFUTED, claim
from jaxbias.claims._conditions import above, at_most, below, exactly, mean_near, mean_within, near
from jaxbias.claims._tools import affine, descend, difference, generator, largest, once, predict, randomized
from jaxbias.claims.article1 import steps_to_optimum
from jaxbias.claims.article1_init import FINITE_WIDTH, WIDTH, growth
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
    article="The labels of these two weights are swapped.",
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
    article="Speaks of one neuron on y = 2x + 1 with learned weight 2 and bias 1.",
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
    "E5",
    "Equal biases, zero or not, never break the symmetry of hidden units; distinct ones do, even if all weights are 0.",
    REFUTED,
    {
        "spread between units, all biases 0.5": exactly(0.0),
        "spread between units, distinct biases": above(0.1),
        "final loss with distinct biases over that with equal ones": below(0.5),
        "final loss, distinct biases, over Var y": below(0.01),
    },
    article="Bias breaks symmetry; bias plays no part in telling neurons apart.",
    equation="section 6",
)
def symmetry(key):
    rng = generator(key)
    x = rng.uniform(-1, 1, (40, 2))
    y = x @ np.array([[2.0], [3.0]]) + 1
    network = jb.chain(dense.layer(4), tanh, dense.layer(1))
    gradient = jb.value_and_grad(network, mean_squared_error)

    @once
    def run(biases):
        def one(bias):
            start = (affine(jnp.zeros((2, 4)), bias), (), affine(jnp.zeros((4, 1)), jnp.zeros(1)))
            return descend(lambda p: gradient(p, x, y), start, optax.sgd(0.05), 4000)

        return jax.vmap(one)(biases)

    params, losses = run(jnp.asarray([np.full(4, 0.5), rng.standard_normal(4)]))
    rows = np.concatenate([params[0].weight, params[0].bias[:, None], params[2].weight.transpose(0, 2, 1)], axis=1)
    spread = np.max(np.ptp(rows, axis=2), axis=1)
    return {
        "spread between units, all biases 0.5": spread[0],
        "spread between units, distinct biases": spread[1],
        "final loss with distinct biases over that with equal ones": losses[1, -1] / losses[0, -1],
        "final loss, distinct biases, over Var y": losses[1, -1] / np.var(y),
    }


@claim(
    "E8",
    "Linear least squares converges faster without a bias, to a worse minimum; centring x removes the difference.",
    REFUTED,
    {
        "steps to within 1e-6 of the optimum without a bias": at_most(10),
        "steps with a bias": above(500),
        "condition number with a bias, raw x": near(136.605, 5e-4),
        "condition number with a bias, standardised x": near(1, 1e-12),
    },
    article="Without a bias training takes longer.",
    equation="section 6",
)
def training_time(key):
    del key
    without, fit = steps_to_optimum(1e-6)
    x, _ = regression.article_data()
    standard = (x - x.mean()) / x.std()
    condition = [np.linalg.cond(2 / x.size * np.array([[v @ v, v.sum()], [v.sum(), v.size]])) for v in (x, standard)]
    return {
        "steps to within 1e-6 of the optimum without a bias": without,
        "steps with a bias": fit,
        "condition number with a bias, raw x": condition[0],
        "condition number with a bias, standardised x": condition[1],
    }


@claim(
    "E10",
    "At the optimum a bias never raises the training loss; without an offset it doubles the expected excess error.",
    REFUTED,
    {
        "smallest training gap of 4000 data sets without an offset": above(0),
        "excess error with a bias (theory 0.16)": mean_near(0.16, 0.012),
        "excess error without (theory 0.08)": mean_near(0.08, 0.012),
    },
    article="With a bias the loss is lower.",
    equation="σ² p / n, p parameters",
)
def nested_models(key):
    rng = generator(key)
    x = np.linspace(0, 10, 50)
    gaps, excess = [], {"with": [], "without": []}
    for noise in 2 * rng.standard_normal((4000, x.size)):
        fit, without = regression.with_bias(x, 3 * x + noise), regression.without_bias(x, 3 * x + noise)
        gaps.append(without.mse - fit.mse)
        excess["with"].append(np.mean((fit.weight * x + fit.bias - 3 * x) ** 2))
        excess["without"].append(np.mean((without.weight * x - 3 * x) ** 2))
    return {
        "smallest training gap of 4000 data sets without an offset": np.min(gaps),
        "excess error with a bias (theory 0.16)": excess["with"],
        "excess error without (theory 0.08)": excess["without"],
    }


@claim(
    "E11",
    "A linear neuron is convex: a zero start reaches the optimum, and has the lowest expected initial loss.",
    REFUTED,
    {
        "(w, b) from zero − closed form": at_most(1e-6),
        "initial loss from zero on the pair x = (1, 2, 3), t = 1": exactly(1.0),
        "mean initial loss of Xavier, He, Normal on it": above(1.0),
        "2-4-1 tanh net from zero: final loss / Var y": near(1, 1e-9),
    },
    article="Zero initialisation of a linear model completely fails, with a high loss.",
    equation="section 6",
)
def zero_start(key):
    x, y = regression.article_data()
    columns = jnp.asarray(x)[:, None], jnp.asarray(y)[:, None]
    hidden = jb.chain(dense.layer(4), tanh, dense.layer(1))
    neuron_gradient = jb.value_and_grad(regression.NEURON, mean_squared_error)
    hidden_gradient = jb.value_and_grad(hidden, mean_squared_error)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(hidden.init, key, columns[0]))

    @once
    def run():
        line, _ = descend(lambda p: neuron_gradient(p, *columns), regression.start(), optax.sgd(0.02), 4000)
        _, losses = descend(lambda p: hidden_gradient(p, *columns), zeros, optax.sgd(0.02), 2000)
        return line, losses

    line, losses = run()
    weight = generator(key).standard_normal((100_000, 3)) @ [1.0, 2, 3]
    bias = generator(jax.random.fold_in(key, 1)).standard_normal(100_000)
    fit = regression.with_bias(x, y)
    zero = affine(jnp.zeros((3, 1)), jnp.zeros(1))
    initial, _ = mean_squared_error.forward(predict(regression.NEURON, zero, [[1.0, 2, 3]]), jnp.ones((1, 1)))
    return {
        "(w, b) from zero − closed form": np.abs([line.weight[0, 0] - fit.weight, line.bias[0] - fit.bias]),
        "initial loss from zero on the pair x = (1, 2, 3), t = 1": initial,
        "mean initial loss of Xavier, He, Normal on it": [
            np.mean((np.sqrt(0.5) * weight - 1) ** 2),
            np.mean((np.sqrt(2 / 3) * weight - 1) ** 2),
            np.mean((weight + bias - 1) ** 2),
        ],
        "2-4-1 tanh net from zero: final loss / Var y": losses[-1] / np.var(y),
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
    fit, fit_scaled = (np.linalg.lstsq(np.column_stack([each, np.ones(30)]), y)[0] for each in (x, scaled))
    return {
        "w of the scaled input · 10 − w": 10 * fit_scaled[1] - fit[1],
        "predictions": np.column_stack([scaled, np.ones(30)]) @ fit_scaled - np.column_stack([x, np.ones(30)]) @ fit,
    }


@claim(
    "E13",
    "A missing bias underfits: the training error rises; what a bias does to the test error depends on the offset.",
    REFUTED,
    {
        "training error without − with, offset 1": mean_within(0.1, 1.0),
        "test error without − with, offset 1": mean_within(0.1, 1.0),
        "test error without − with, offset 0": mean_within(-0.2, -0.005),
    },
    article="A missing bias may cause overfitting; a bias improves generalisation.",
    equation="section 6",
)
def underfitting(key):
    rng = generator(key)
    found = {}
    for offset in (1.0, 0.0):
        rows = []
        for _ in range(2000):
            x, test = rng.uniform(-1, 3, 20), rng.uniform(-1, 3, 200)
            y, wanted = 2 * x + offset + rng.standard_normal(20), 2 * test + offset + rng.standard_normal(200)
            fit, without = regression.with_bias(x, y), regression.without_bias(x, y)
            rows.append(
                (
                    without.mse - fit.mse,
                    regression.mse(without.weight, 0, test, wanted)
                    - regression.mse(fit.weight, fit.bias, test, wanted),
                )
            )
        found[offset] = np.array(rows)
    return {
        "training error without − with, offset 1": found[1.0][:, 0],
        "test error without − with, offset 1": found[1.0][:, 1],
        "test error without − with, offset 0": found[0.0][:, 1],
    }


@claim(
    "E15",
    "Under He initialisation a bias stays effective, for z keeps unit order: a unit bias moves it by 0.707 of its sd.",
    REFUTED,
    {
        f"log₂ rms z in layer {l} (theory 1/2, less what finite width costs)": mean_near(
            0.5 + (l - 1) * FINITE_WIDTH, 0.03
        )
        for l in (1, 5, 10)
    },
    article="The bias stays ineffective as weights are negated.",
    equation="section 6",
    statistical=True,
)
def leverage(key):
    rng = generator(key)
    a = rng.standard_normal((4000, WIDTH))
    start, found = np.mean(a * a, axis=1), {}
    for l in range(1, 11):
        # For one input, the sums over a fresh normal weight matrix are independent normals: no need to draw the matrix.
        z = rng.standard_normal(a.shape) * np.sqrt(2 * np.mean(a * a, axis=1, keepdims=True))
        found[l] = np.log2(np.mean(z * z, axis=1) / start) / 2
        a = np.maximum(z, 0)
    return {f"log₂ rms z in layer {l} (theory 1/2, less what finite width costs)": found[l] for l in (1, 5, 10)}


@claim(
    "E16",
    "He starts with half the units active; a bias pushed far negative still kills a unit for good on bounded inputs.",
    REFUTED,
    {
        "share of active units at initialisation": near(0.5, 0.02),
        "gradients of the killed unit over 300 steps of SGD": exactly(0.0),
        "change of its parameters": exactly(0.0),
    },
    article="He stops neurons from dying.",
    equation="(8)",
)
def dying_units(key):
    rng = generator(key)
    x, y = rng.uniform(-1, 1, (50, 3)), rng.standard_normal((50, 1))
    network = jb.chain(dense.layer(8), relu, dense.layer(1))
    first = affine(rng.standard_normal((3, 8)) * np.sqrt(2 / 3), np.where(np.arange(8) == 2, -20.0, 0.0))
    start = (first, (), affine(rng.standard_normal((8, 1)) * 0.5, np.zeros(1)))
    gradient = jb.value_and_grad(network, mean_squared_error)

    @once
    def run(params, x, y):
        def step(params, _):
            _, grads = gradient(params, x, y)
            of_unit = jnp.concatenate([grads[0].weight[:, 2], grads[0].bias[2:3], grads[2].weight[2]])
            return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), of_unit

        return jax.lax.scan(step, params, length=300)

    params, gradients = run(start, x, y)
    inputs = rng.standard_normal((500, 64))
    active = np.mean(inputs @ (rng.standard_normal((64, 200)) * np.sqrt(2 / 64)) > 0)
    return {
        "share of active units at initialisation": active,
        "gradients of the killed unit over 300 steps of SGD": gradients,
        "change of its parameters": np.concatenate(
            [params[0].weight[:, 2] - first.weight[:, 2], [params[0].bias[2] - first.bias[2]]]
        ),
    }


@claim(
    "E18",
    "Whether signals explode or vanish depends on √(n s²/2) against 1, not on normality: uniform weights do the same.",
    REFUTED,
    {
        "log₂ growth per layer, uniform, s = 1 (theory 3)": mean_near(3 + FINITE_WIDTH, 0.015),
        "log₂ growth per layer, uniform, s² = 2/n (theory 0)": mean_near(FINITE_WIDTH, 0.015),
        "log₂ growth per layer, normal, s² = 2/n": mean_near(FINITE_WIDTH, 0.015),
    },
    article="Normal(0, 1) can be effective; normal weights explode or vanish.",
    equation="section 6",
    statistical=True,
)
def normality(key):
    he = (2 / WIDTH) ** 0.5
    uniform, _ = growth(key, (1.0, he), uniform=True)
    normal, _ = growth(jax.random.fold_in(key, 1), (he,))
    return {
        "log₂ growth per layer, uniform, s = 1 (theory 3)": uniform[0],
        "log₂ growth per layer, uniform, s² = 2/n (theory 0)": uniform[1],
        "log₂ growth per layer, normal, s² = 2/n": normal[0],
    }


@claim(
    "E20",
    "L1 charges the slope λ at any size and gives exact zeros; L2 shrinks in proportion; penalising b unbalances.",
    REFUTED,
    {
        "L1: loss of Sxx/n · w per λ/2, at λ = 1, 10": near([1, 1], 1e-9),
        "L1: w at λ = 60": exactly(0.0),
        "L2: w(λ) / w(0) − 1 / (1 + nλ/Sxx)": near(np.zeros(3), 1e-12),
        "L2: smallest w over λ up to 1e6": above(0),
        "mean residual − λ b with b penalised": near(0, 1e-12),
        "Adam, L2 in the loss − AdamW, after 50 steps": above(1e-3),
    },
    article="L1 and L2 penalise large weights.",
    equation="section 7",
)
def penalties(key):
    del key
    x, y = regression.article_data()
    centred = x - x.mean()
    sxx = centred @ centred / x.size
    free = regression.with_bias(x, y).weight
    both = article2.ridge(x, y, 1.0, penalize_bias=True)

    @once
    def adam():
        def step(coupled):
            optimizer = optax.adam(0.05) if coupled else optax.adamw(0.05, weight_decay=0.2)

            def gradient(theta):
                return jax.value_and_grad(
                    lambda t: jnp.mean((t[0] * x + t[1] - y) ** 2) + coupled * 0.1 * jnp.sum(t * t)
                )(theta)

            return descend(gradient, jnp.ones(2), optimizer, 50)[0]

        return step(1.0), step(0.0)

    lambdas = np.array([0.1, 1, 10])
    return {
        "L1: loss of Sxx/n · w per λ/2, at λ = 1, 10": [
            sxx * (free - article2.lasso(x, y, lam)[0]) / (lam / 2) for lam in (1.0, 10.0)
        ],
        "L1: w at λ = 60": article2.lasso(x, y, 60.0)[0],
        "L2: w(λ) / w(0) − 1 / (1 + nλ/Sxx)": [article2.ridge(x, y, l)[0] / free - 1 / (1 + l / sxx) for l in lambdas],
        "L2: smallest w over λ up to 1e6": article2.ridge(x, y, 1e6)[0],
        "mean residual − λ b with b penalised": np.mean(y - both[0] * x - both[1]) - both[1],
        "Adam, L2 in the loss − AdamW, after 50 steps": difference(*adam()),
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
    article="Epoch (iteration); backpropagation updates the weights; the reduction over a batch is left unsaid.",
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
    article="Equations (11) and (15) read as if applied layer by layer.",
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
