"""Errata on training: symmetry, speed, initialisation, dying units, penalties, under- and overfitting."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import _regression as regression
from jaxbias.claims import article2
from jaxbias.claims._claim import REFUTED, claim
from jaxbias.claims._conditions import above, at_most, below, exactly, mean_near, mean_within, near
from jaxbias.claims._tools import affine, descend, difference, generator, once, predict
from jaxbias.claims.article1 import steps_to_optimum
from jaxbias.claims.article1_init import FINITE_WIDTH, WIDTH, growth
from jaxbias.layers import dense, relu, tanh
from jaxbias.losses import mean_squared_error


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
        def trained(bias):
            start = (affine(jnp.zeros((2, 4)), bias), (), affine(jnp.zeros((4, 1)), jnp.zeros(1)))
            return descend(lambda p: gradient(p, x, y), start, optax.sgd(0.05), 4000)

        return jax.vmap(trained)(biases)

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
    errors = {}
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
        errors[offset] = np.array(rows)
    return {
        "training error without − with, offset 1": errors[1.0][:, 0],
        "test error without − with, offset 1": errors[1.0][:, 1],
        "test error without − with, offset 0": errors[0.0][:, 1],
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
    start, growth = np.mean(a * a, axis=1), {}
    for l in range(1, 11):
        # For one input, the sums over a fresh normal weight matrix are independent normals: no need to draw the matrix.
        z = rng.standard_normal(a.shape) * np.sqrt(2 * np.mean(a * a, axis=1, keepdims=True))
        growth[l] = np.log2(np.mean(z * z, axis=1) / start) / 2
        a = np.maximum(z, 0)
    return {f"log₂ rms z in layer {l} (theory 1/2, less what finite width costs)": growth[l] for l in (1, 5, 10)}


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
