"""Article 1, second half: the initialisation studies, signals and gradients through depth."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import deep
from jaxbias.claims._claim import CONDITIONAL, HOLDS, REFUTED, claim
from jaxbias.claims._conditions import above, below, exactly, mean_above, mean_near, near, reported
from jaxbias.claims._tools import descend, generator, once
from jaxbias.layers import dense, relu, sigmoid, tanh
from jaxbias.losses import mean_squared_error

WIDTH, DEPTH = 128, 30


FINITE_WIDTH = -5 / (4 * math.log(2) * WIDTH)
"""What E[log₂ rms] of one random ReLU layer falls short of log₂ √E[rms²]: 2 relu(g)² of a standard normal g has mean 1
and variance 5, so ln of a mean over n units is −5/(2n) on average; halved for the root, in base 2."""


def propagate(rng: np.random.Generator, deviations: tuple[float, ...], *, uniform: bool = False, depth: int = DEPTH):
    """rms of z and of the error signal at every layer of one random ReLU network, for each deviation of its weights.

    The input is standard normal, and so is the error signal put in at the last z; biases are zero.

    Returns:
        Two arrays (deviations, depth).
    """
    a = np.tile(rng.standard_normal(WIDTH), (len(deviations), 1))
    scale, signal, kept = np.array(deviations)[:, None], [], []
    for _ in range(depth):
        if uniform:
            weight = rng.uniform(-math.sqrt(3), math.sqrt(3), (WIDTH, WIDTH))
        else:
            weight = rng.standard_normal((WIDTH, WIDTH))
        z = scale * (a @ weight)
        signal.append(np.sqrt(np.mean(z * z, axis=1)))
        kept.append((weight, z))
        a = np.maximum(z, 0)
    delta, error = np.tile(rng.standard_normal(WIDTH), (len(deviations), 1)), []
    for i in range(depth - 1, -1, -1):
        error.append(np.sqrt(np.mean(delta * delta, axis=1)))
        if i:
            delta = scale * (delta @ kept[i][0].T) * (kept[i - 1][1] > 0)
    return np.array(signal).T, np.array(error[::-1]).T


def growth(key, deviations: tuple[float, ...], networks: int = 100, **options):
    """log₂ of the factor per layer by which the rms of z and of the error signal change: two (deviations, networks)."""
    rng = generator(key)
    signals, errors = zip(*(propagate(rng, deviations, **options) for _ in range(networks)))
    signals, errors = np.array(signals), np.array(errors)
    layers = signals.shape[2] - 1
    return np.log2(signals[..., -1] / signals[..., 0]).T / layers, np.log2(errors[..., 0] / errors[..., -1]).T / layers


@claim(
    "A1.16",
    "Zero or equal initial params keep hidden units identical forever; from zero only the output bias learns.",
    HOLDS,
    {
        "all zero, tanh and ReLU: largest |W1|, |b1|, |W2|": exactly(0.0),
        "all zero: output bias − mean y": near([0, 0], 1e-9),
        "all zero: loss / Var y": near([1, 1], 1e-9),
        "constant 0.3: spread between units, tanh, ReLU, sigmoid": exactly(0.0),
        "constant 0.3: final loss / initial loss": below(0.9),
        "all zero, sigmoid: largest |W2|": above(0.01),
        "all zero, sigmoid: spread between units": exactly(0.0),
    },
    equation="section 6",
)
def symmetry(key):
    rng = generator(key)
    x = rng.uniform(-1, 1, (40, 2))
    y = x @ np.array([[2.0], [3.0]]) + 1
    start = jax.eval_shape(jb.chain(dense.layer(4), tanh, dense.layer(1)).init, key, x)

    @once
    def run(x, y):
        trained = {}
        for name, activation in (("tanh", tanh), ("relu", relu), ("sigmoid", sigmoid)):
            network = jb.chain(dense.layer(4), activation, dense.layer(1))
            gradient = jb.value_and_grad(network, mean_squared_error)
            for value in (0.0, 0.3):
                params = jax.tree.map(lambda leaf, value=value: jnp.full(leaf.shape, value), start)
                trained[name, value] = descend(lambda p, g=gradient: g(p, x, y), params, optax.sgd(0.05), 2000)
        return trained

    trained = run(x, y)

    def spread(params):
        """Largest difference between the hidden units' weights, biases and outgoing weights."""
        rows = np.concatenate([params[0].weight, params[0].bias[None], params[2].weight.T])
        return np.max(np.ptp(rows, axis=1))

    zeros = [trained[name, 0.0] for name in ("tanh", "relu")]
    constant = [trained[name, 0.3] for name in ("tanh", "relu", "sigmoid")]
    logistic = trained["sigmoid", 0.0][0]
    return {
        "all zero, tanh and ReLU: largest |W1|, |b1|, |W2|": [
            max(np.max(np.abs(leaf)) for leaf in (p[0].weight, p[0].bias, p[2].weight)) for p, _ in zeros
        ],
        "all zero: output bias − mean y": [p[2].bias[0] - y.mean() for p, _ in zeros],
        "all zero: loss / Var y": [losses[-1] / np.var(y) for _, losses in zeros],
        "constant 0.3: spread between units, tanh, ReLU, sigmoid": [spread(p) for p, _ in constant],
        "constant 0.3: final loss / initial loss": [losses[-1] / losses[0] for _, losses in constant],
        "all zero, sigmoid: largest |W2|": np.max(np.abs(logistic[2].weight)),
        "all zero, sigmoid: spread between units": spread(logistic),
    }


@claim(
    "A1.17",
    "Normal(0, s) weights scale signals and gradients by √(n s²/2) per ReLU layer; at s = 1 a unit bias is drowned.",
    CONDITIONAL,
    {
        "log₂ growth of z per layer, s = 1 (theory 3)": mean_near(3 + FINITE_WIDTH, 0.012),
        "log₂ growth of the gradient per layer, s = 1": mean_near(3 + FINITE_WIDTH, 0.012),
        "log₂ growth of z, s = 0.01 (theory −3.644)": mean_near(math.log2(0.08) + FINITE_WIDTH, 0.012),
        "log₂ growth of the gradient, s = 0.01": mean_near(math.log2(0.08) + FINITE_WIDTH, 0.012),
        "shift of z by b = 1 over its sd at s = 1, Xavier, He": near([128**-0.5, 1, 0.5**0.5], 0.01),
    },
    article="Names normality as the reason; it is the variance (E18).",
    equation="section 6",
    statistical=True,
)
def normal_initialisation(key):
    signal, error = growth(key, (1.0, 0.01))
    rng = generator(key)
    a = rng.standard_normal((2000, WIDTH))
    z = a @ rng.standard_normal((WIDTH, 400))  # unit second moment of a: the spread of z is √n s
    return {
        "log₂ growth of z per layer, s = 1 (theory 3)": signal[0],
        "log₂ growth of the gradient per layer, s = 1": error[0],
        "log₂ growth of z, s = 0.01 (theory −3.644)": signal[1],
        "log₂ growth of the gradient, s = 0.01": error[1],
        "shift of z by b = 1 over its sd at s = 1, Xavier, He": [
            1 / (s * np.std(z)) for s in (1, WIDTH**-0.5, (2 / WIDTH) ** 0.5)
        ],
    }


@claim(
    "A1.18",
    "Xavier keeps a tanh net's signal in its linear range; before ReLU it loses a factor 2^−1/2 per layer.",
    CONDITIONAL,
    {
        "ReLU: log₂ growth of z per layer (theory −1/2)": mean_near(-0.5 + FINITE_WIDTH, 0.012),
        "ReLU: log₂ growth of the gradient per layer": mean_near(-0.5 + FINITE_WIDTH, 0.012),
        "tanh at small signals (input rms 0.01): log₂ growth of z": mean_near(0, 0.012),
    },
    article="Balanced scale, whatever the activation (E19).",
    equation="section 6",
    statistical=True,
)
def xavier(key):
    signal, error = growth(key, (WIDTH**-0.5,))
    rng = generator(jax.random.fold_in(key, 1))
    linear = []
    for _ in range(100):
        a = 0.01 * rng.standard_normal((16, WIDTH))
        sizes = []
        for _ in range(DEPTH):
            z = a @ (rng.standard_normal((WIDTH, WIDTH)) * WIDTH**-0.5)
            a = np.tanh(z)
            sizes.append(np.sqrt(np.mean(z * z)))
        linear.append(np.log2(sizes[-1] / sizes[0]) / (DEPTH - 1))
    return {
        "ReLU: log₂ growth of z per layer (theory −1/2)": signal[0],
        "ReLU: log₂ growth of the gradient per layer": error[0],
        "tanh at small signals (input rms 0.01): log₂ growth of z": linear,
    }


@claim(
    "A1.19",
    "He keeps signal and gradient of a deep ReLU net at one scale, half the units active, and trains 30 layers better.",
    HOLDS,
    {
        "log₂ growth of z per layer (theory 0)": mean_near(FINITE_WIDTH, 0.012),
        "log₂ growth of the gradient per layer": mean_near(FINITE_WIDTH, 0.012),
        "share of active units in the first layer": mean_near(0.5, 0.01),
        "depth 30: final loss of Xavier − He, 100 steps of Adam": mean_above(0),
        # Less is lost at depth 20, 2^−10: too little for four standard errors of 100 seeds.
        "depth 20: the same": reported(),
    },
    equation="section 6",
    statistical=True,
)
def he(key):
    signal, error = growth(key, ((2 / WIDTH) ** 0.5,))
    rng = generator(key)
    swept = [deep.trained(key, depth) for depth in (20, 30)]
    lower = [deep.finals(sweep, "xavier") - deep.finals(sweep, "he") for sweep in swept]
    active = [np.mean(rng.standard_normal((16, WIDTH)) @ rng.standard_normal((WIDTH, WIDTH)) > 0) for _ in range(100)]
    return {
        "log₂ growth of z per layer (theory 0)": signal[0],
        "log₂ growth of the gradient per layer": error[0],
        "share of active units in the first layer": active,
        "depth 30: final loss of Xavier − He, 100 steps of Adam": lower[1],
        "depth 20: the same": lower[0],
    }


@claim(
    "A1.20",
    "A neuron's expected initial loss on one pair is t² + s_w²‖x‖² + s_b²: lowest from zero, highest from N(0, 1).",
    REFUTED,
    {
        "loss from zeros": exactly(1.0),
        "mean loss, Xavier (theory 8)": near(8, 0.15),
        "mean loss, He (theory 10.333)": near(31 / 3, 0.2),
        "mean loss, Normal(0, 1) with bias (theory 16)": near(16, 0.3),
    },
    article="Concludes from such a loss that zero initialisation fails (E11).",
    equation="E[(w·x + b − t)²]",
)
def one_pair_loss(key):
    rng = generator(key)
    x, target, draws = np.array([1.0, 2, 3]), 1.0, 100_000
    weight = rng.standard_normal((draws, 3))
    losses = {s: np.mean((s * weight @ x - target) ** 2) for s in (0.0, math.sqrt(2 / 4), math.sqrt(2 / 3))}
    normal = np.mean((weight @ x + rng.standard_normal(draws) - target) ** 2)
    return {
        "loss from zeros": losses[0.0],
        "mean loss, Xavier (theory 8)": losses[math.sqrt(2 / 4)],
        "mean loss, He (theory 10.333)": losses[math.sqrt(2 / 3)],
        "mean loss, Normal(0, 1) with bias (theory 16)": normal,
    }
