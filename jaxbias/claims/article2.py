"""Article 2: weights and biases, an overview; optimisers, penalties, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import _regression as regression
from jaxbias.claims._claim import CONDITIONAL, HOLDS, claim
from jaxbias.claims._conditions import above, at_most, exactly, near
from jaxbias.claims._tools import descend, difference, generator, once, predict
from jaxbias.claims.article3 import NETWORK, forward_by_element, problem
from jaxbias.layers import dense
from jaxbias.losses import mean_squared_error


@claim(
    "A2.1",
    "Every connection has one weight, the derivative of the receiver's weighted sum by the sender's activation.",
    CONDITIONAL,
    {"∂z_k/∂a_j − w_kj": exactly(0.0), "weights of a 3-4-3-2 network": exactly(12 + 12 + 6)},
    article="The weight is the importance of its input: only if inputs have one scale (E12).",
    equation="(2)",
)
def one_weight_per_connection(key):
    params, x, _ = problem(key)
    jacobian = once(jax.jacobian(lambda a: dense.forward(params[0], a)[0]))(x[0])
    return {
        "∂z_k/∂a_j − w_kj": difference(jacobian, params[0].weight.T),
        "weights of a 3-4-3-2 network": sum(layer.weight.size for layer in params[::2]),
    }


@claim(
    "A2.2",
    "The bias is one more parameter per unit: it widens what can be fitted, and helps where the target has an offset.",
    CONDITIONAL,
    {
        "training MSE saved by the bias, offset 1 (theory b²(1 − (Σx)²/(nΣx²)))": near(np.zeros(100), 1e-12),
        "smallest saving of 100 data sets": above(0),
    },
    article="It reduces underfitting and improves generalisation: the second only with an offset (E10, E13).",
    equation="section 6",
)
def more_to_fit(key):
    rng = generator(key)
    xs = rng.uniform(-2, 4, (100, 40))
    ys = 2 * xs + 1 + rng.standard_normal(xs.shape)
    saved = np.array([regression.without_bias(x, y).mse - regression.with_bias(x, y).mse for x, y in zip(xs, ys)])
    return {
        "training MSE saved by the bias, offset 1 (theory b²(1 − (Σx)²/(nΣx²)))": saved
        - [regression.gap(x, y) for x, y in zip(xs, ys)],
        "smallest saving of 100 data sets": saved.min(),
    }


@claim(
    "A2.3",
    "The forward pass goes layer by layer: weighted inputs plus bias, then the activation.",
    HOLDS,
    {"loops over units − library": at_most(1e-14)},
    equation="(2)",
)
def forward_pass(key):
    params, x, _ = problem(key)
    out = once(lambda params, x: predict(NETWORK, params, x))(params, x)
    return {"loops over units − library": difference(out, np.array([forward_by_element(params, r)[1][-1] for r in x]))}


def sgd_by_hand(gradient, theta, steps, alpha, momentum):
    """θ after `steps` of SGD with momentum, by the formulas of the derivation sheet, section 7."""
    v = np.zeros_like(theta)
    for _ in range(steps):
        v = momentum * v + gradient(theta)
        theta = theta - alpha * v
    return theta


def rmsprop_by_hand(gradient, theta, steps, alpha, rho, eps):
    """θ after `steps` of RMSprop; eps stands outside the root."""
    v = np.zeros_like(theta)
    for _ in range(steps):
        g = gradient(theta)
        v = rho * v + (1 - rho) * g * g
        theta = theta - alpha * g / (np.sqrt(v) + eps)
    return theta


def adam_by_hand(gradient, theta, steps, alpha, beta1, beta2, eps):
    """θ after `steps` of Adam, with bias correction."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, steps + 1):
        g = gradient(theta)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        theta = theta - alpha * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return theta


@claim(
    "A2.5",
    "SGD, RMSprop and Adam treat weights and biases alike, by one elementwise rule each; all reach the closed form.",
    HOLDS,
    {
        "optax − formula after 1 step": at_most(1e-12),
        "optax − formula after 10 steps": at_most(1e-12),
        "SGD with momentum: (w, b) − closed form": at_most(1e-6),
        "RMSprop: (w, b) − closed form": at_most(1e-4),
        "Adam: (w, b) − closed form": at_most(1e-4),
    },
    equation="section 7",
)
def optimizers(key):
    del key
    x, y = regression.article_data()
    columns = jnp.asarray(x)[:, None], jnp.asarray(y)[:, None]
    library = jb.value_and_grad(regression.NEURON, mean_squared_error)
    optimizers = {
        "SGD": optax.sgd(0.01, momentum=0.9),
        "RMSprop": optax.rmsprop(0.1, decay=0.9, eps=1e-8, eps_in_sqrt=False),
        "Adam": optax.adam(0.1),
    }
    by_hand = {
        "SGD": lambda g, start, n: sgd_by_hand(g, start, n, 0.01, 0.9),
        "RMSprop": lambda g, start, n: rmsprop_by_hand(g, start, n, 0.1, 0.9, 1e-8),
        "Adam": lambda g, start, n: adam_by_hand(g, start, n, 0.1, 0.9, 0.999, 1e-8),
    }

    @once
    def run(start):
        trained = {}
        for name, optimizer in optimizers.items():
            for steps in (1, 10):
                trained[f"{name} {steps}"] = descend(lambda p: library(p, *columns), start, optimizer, steps)[0]
            # The first steps as above, then with a rate that decays, for RMSprop's steps do not shrink by themselves.
            decaying = optax.chain(optimizer, optax.scale_by_schedule(optax.exponential_decay(1.0, 8000, 1e-5)))
            trained[f"{name} end"] = descend(lambda p: library(p, *columns), start, decaying, 8000)[0]
        return trained

    def gradient(theta):
        residual = theta[0] * x + theta[1] - y
        return np.array([2 * np.mean(residual * x), 2 * np.mean(residual)])

    points = {k: np.array([p.weight[0, 0], p.bias[0]]) for k, p in run(regression.start()).items()}
    fit = np.array(regression.with_bias(x, y)[:2])
    errors = {
        steps: [
            np.max(np.abs(points[f"{name} {steps}"] - by_hand[name](gradient, np.zeros(2), steps)))
            for name in optimizers
        ]
        for steps in (1, 10)
    }
    return {
        "optax − formula after 1 step": errors[1],
        "optax − formula after 10 steps": errors[10],
        "SGD with momentum: (w, b) − closed form": np.abs(points["SGD end"] - fit),
        "RMSprop: (w, b) − closed form": np.abs(points["RMSprop end"] - fit),
        "Adam: (w, b) − closed form": np.abs(points["Adam end"] - fit),
    }


def ridge(x, y, lam, penalize_bias=False):
    """(w, b) that minimise MSE + λ w², with λ b² added on demand."""
    n = x.size
    normal = np.array([[x @ x / n + lam, x.mean()], [x.mean(), 1 + lam * penalize_bias]])
    return np.linalg.solve(normal, [x @ y / n, y.mean()])


def lasso(x, y, lam):
    """(w, b) that minimise MSE + λ |w|: soft thresholding (section 7)."""
    centred = x - x.mean()
    sxx, sxy = centred @ centred / x.size, centred @ (y - y.mean()) / x.size
    w = np.sign(sxy) * max(abs(sxy) - lam / 2, 0) / sxx
    return np.array([w, y.mean() - w * x.mean()])


@claim(
    "A2.6",
    "L2 shrinks the weight, L1 can zero it; the residuals balance with the bias exempt, not with b penalised.",
    HOLDS,
    {
        "L2, λ = 0.1: w, b": near([2.851161, 2.293247], 5e-7),
        "L2, λ = 1: w, b": near([2.585895, 3.619578], 5e-7),
        "L2, λ = 10: w, b": near([1.339578, 9.851161], 5e-7),
        "mean residual, bias exempt": near(np.zeros(3), 1e-12),
        "L2 on w and b, λ = 1: w, b": near([2.993993, 0.789544], 5e-7),
        "mean residual there, and λ b": near([0.789544, 0.789544], 5e-7),
        "L1, λ = 1, 10: w": near([2.826386, 2.307563], 5e-7),
        "L1, λ = 50.029148: w, b": near([0, 16.549052], 5e-7),
        "smallest λ with w = 0": near(50.029147, 5e-7),
        "gradient of the L2 costs at these points, by autodiff": near(np.zeros((4, 2)), 1e-12),
    },
    article="'Penalise large weights' (E20).",
    equation="section 7",
)
def penalties(key):
    del key
    x, y = regression.article_data()
    solutions = [ridge(x, y, lam) for lam in (0.1, 1.0, 10.0)]
    both = ridge(x, y, 1.0, penalize_bias=True)

    def cost(theta, lam, on_bias):
        fit = jnp.mean((theta[0] * x + theta[1] - y) ** 2)
        return fit + lam * (theta[0] ** 2 + on_bias * theta[1] ** 2)

    gradients = once(jax.vmap(jax.grad(cost)))(
        jnp.array([*solutions, both]), jnp.array([0.1, 1, 10, 1]), jnp.array([0.0, 0, 0, 1])
    )
    centred = x - x.mean()
    return {
        "L2, λ = 0.1: w, b": solutions[0],
        "L2, λ = 1: w, b": solutions[1],
        "L2, λ = 10: w, b": solutions[2],
        "mean residual, bias exempt": [np.mean(y - w * x - b) for w, b in solutions],
        "L2 on w and b, λ = 1: w, b": both,
        "mean residual there, and λ b": [np.mean(y - both[0] * x - both[1]), both[1]],
        "L1, λ = 1, 10: w": [lasso(x, y, 1.0)[0], lasso(x, y, 10.0)[0]],
        "L1, λ = 50.029148: w, b": lasso(x, y, 50.029148),
        "smallest λ with w = 0": 2 * abs(centred @ (y - y.mean())) / x.size,
        "gradient of the L2 costs at these points, by autodiff": gradients,
    }
