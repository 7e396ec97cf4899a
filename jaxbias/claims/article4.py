"""Article 4: the bias in a convolution, and linear regression with and without a bias."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbias.claims import _regression as regression
from jaxbias.claims._claim import CONDITIONAL, HOLDS, claim
from jaxbias.claims._conditions import above, exactly, near
from jaxbias.claims._tools import generator, train
from jaxbias.layers import relu
from jaxbias.losses import mean_squared_error


@claim(
    "A4.3",
    "With ReLU the bias sets a threshold: the output is positive exactly where the weighted sum exceeds −b.",
    CONDITIONAL,
    {"sums misjudged": exactly(0), "output at s = −b": exactly(0.0)},
    article="The unit is zero when the weighted sum is below the bias (E1).",
    equation="5.2",
)
def relu_threshold(key):
    del key
    sums = np.linspace(-4, 4, 1025)  # steps of 1/128: every s + b is exact in binary
    biases = np.array([-2.0, 0.0, 2.0])
    out = np.asarray(relu.forward((), jnp.asarray(sums[:, None] + biases))[0])
    return {
        "sums misjudged": np.sum((out > 0) != (sums[:, None] > -biases)),
        "output at s = −b": [out[np.flatnonzero(sums == -b)[0], i] for i, b in enumerate(biases)],
    }


@claim(
    "A4.4",
    "The bias moves the kink of ReLU to x = −b: max(0, x + b) is max(0, x) shifted along the input.",
    HOLDS,
    {"first positive x, minus −b": exactly(0.0), "difference to the shifted curve": exactly(0.0)},
    equation="(2)",
)
def relu_shift(key):
    del key
    x = jnp.linspace(-4, 4, 1025)
    biases = jnp.array([-1.5, 0.0, 2.0])
    out = relu.forward((), x[:, None] + biases)[0]
    shifted = relu.forward((), x[:, None] - (-biases))[0]
    last_zero = [x[out[:, i] == 0][-1] for i in range(3)]
    return {
        "first positive x, minus −b": jnp.array(last_zero) + biases,
        "difference to the shifted curve": out - shifted,
    }


@claim(
    "A4.5",
    "The data of the script are those of NumPy's legacy generator with seed 42: y = 3x + 2 + noise of sd 2, 50 points.",
    HOLDS,
    {
        "y[0:3]": near([2.9934283060224653, 2.3357162956168147, 4.519866872119753], 1e-12),
        "y[49]": near(28.47391968927453, 1e-12),
        "mean y, mean x": near([16.54905218948772, 5], 1e-12),
        "Σx², Σxy": near([1683.6734693877552, 5387.991731486165], 1e-9),
        "Sxx, Sxy": near([433.6734693877552, 1250.7286841142356], 1e-9),
        "mean noise": near(-0.4509478, 5e-8),
    },
)
def regression_data(key):
    del key
    x, y = regression.article_data()
    centred = x - x.mean()
    return {
        "y[0:3]": y[:3],
        "y[49]": y[49],
        "mean y, mean x": [y.mean(), x.mean()],
        "Σx², Σxy": [x @ x, x @ y],
        "Sxx, Sxy": [centred @ centred, centred @ (y - y.mean())],
        "mean noise": np.mean(y - 3 * x - 2),
    }


@claim(
    "A4.6",
    "Without a bias the fit has slope 3.2001 and MSE 4.4679, and its residuals do not balance.",
    HOLDS,
    {
        "slope": near(3.2001405435493595, 1e-9),
        "MSE": near(4.4679407950601835, 1e-9),
        "R²": near(0.9407776011471528, 1e-9),
        "mean residual": near(0.5483495, 5e-8),
        "prediction at 0 and 10": near([0, 32.001405435493595], 1e-9),
    },
    equation="section 6",
)
def fit_without_bias(key):
    del key
    x, y = regression.article_data()
    line = regression.without_bias(x, y)
    return {
        "slope": line.weight,
        "MSE": line.mse,
        "R²": regression.r_squared(line, y),
        "mean residual": np.mean(y - line.weight * x),
        "prediction at 0 and 10": [0 * line.weight, 10 * line.weight],
    }


@claim(
    "A4.7",
    "With a bias the fit has slope 2.8840, intercept 2.1289 and MSE 3.3006, and its residuals balance.",
    HOLDS,
    {
        "slope": near(2.8840332010163547, 1e-9),
        "intercept": near(2.128886184405948, 1e-9),
        "MSE": near(3.3005671804446304, 1e-9),
        "R²": near(0.9562510975487811, 1e-9),
        "mean residual": near(0, 1e-12),
        "prediction at 0 and 10": near([2.128886184405948, 30.969218194569493], 1e-9),
        "MSE of the true line": near(3.6205645, 5e-8),
    },
    equation="section 6",
)
def fit_with_bias(key):
    del key
    x, y = regression.article_data()
    line = regression.with_bias(x, y)
    return {
        "slope": line.weight,
        "intercept": line.bias,
        "MSE": line.mse,
        "R²": regression.r_squared(line, y),
        "mean residual": np.mean(y - line.weight * x - line.bias),
        "prediction at 0 and 10": [line.bias, 10 * line.weight + line.bias],
        "MSE of the true line": regression.mse(3, 2, x, y),
    }


@claim(
    "A4.9",
    "Gradient descent reaches the same two fits: in 10 steps without a bias, in about 1000 with one.",
    HOLDS,
    {
        "MSE with a bias after 10, 100, 1000, 3000 steps": near(
            [3.942435954566, 3.559085986196, 3.300596217411, 3.300567180445], 1e-9
        ),
        "MSE without after 10, 100, 1000, 3000 steps": near(
            [4.467940860539, 4.467940795060, 4.467940795060, 4.467940795060], 1e-9
        ),
        "Hessian eigenvalues with a bias": near([0.503957, 68.842982], 5e-7),
        "condition number": near(136.605, 5e-4),
        "largest stable learning rate": near(0.029052, 5e-7),
        "Hessian eigenvalue without": near(67.346939, 5e-7),
    },
    equation="(11), (15), section 6",
)
def gradient_descent(key):
    del key
    x, y = regression.article_data()
    columns = jnp.asarray(x)[:, None], jnp.asarray(y)[:, None]
    steps = np.array([10, 100, 1000, 3000])
    losses = {}
    for use_bias, network in ((True, regression.NEURON), (False, regression.NEURON_WITHOUT)):
        start = regression.start(use_bias)
        _, history = train(network, mean_squared_error, start, *columns, optax.sgd(0.01), 3001)
        losses[use_bias] = np.asarray(history)[steps]

    def cost(flat):
        return jnp.mean((flat[0] * x + flat[1] - y) ** 2)

    eigenvalues = np.linalg.eigvalsh(np.asarray(jax.hessian(cost)(jnp.zeros(2))))
    return {
        "MSE with a bias after 10, 100, 1000, 3000 steps": losses[True],
        "MSE without after 10, 100, 1000, 3000 steps": losses[False],
        "Hessian eigenvalues with a bias": eigenvalues,
        "condition number": eigenvalues[1] / eigenvalues[0],
        "largest stable learning rate": 2 / eigenvalues[1],
        "Hessian eigenvalue without": jax.hessian(cost)(jnp.zeros(2))[0, 0],
    }


@claim(
    "A4.10",
    "On the data it was fitted to, the line with a bias is never worse: the gap is b²(1 − (Σx)²/(nΣx²)) ≥ 0.",
    HOLDS,
    {
        "gap on the article's data": near(1.1673736146, 5e-11),
        "gap − formula, article's data": near(0, 1e-12),
        "gap − formula, 200 random data sets, relative": near(np.zeros(200), 1e-10),
        "smallest gap of 200 random data sets": above(0),
    },
    equation="section 6",
)
def nested_models(key):
    x, y = regression.article_data()
    gap = regression.without_bias(x, y).mse - regression.with_bias(x, y).mse
    measured, formula = [], []
    for xs, ys in generator(key).normal(1, 1, (200, 2, 20)):
        measured.append(regression.without_bias(xs, ys).mse - regression.with_bias(xs, ys).mse)
        formula.append(regression.gap(xs, ys))
    return {
        "gap on the article's data": gap,
        "gap − formula, article's data": gap - regression.gap(x, y),
        "gap − formula, 200 random data sets, relative": (np.array(measured) - formula) / np.var(y),
        "smallest gap of 200 random data sets": np.min(measured),
    }
