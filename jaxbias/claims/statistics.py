"""Claims that need many seeds: every number is a mean with its 95 % interval, never one lucky run."""

import jax
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import article1_init, deep, experiments
from jaxbias.claims._claim import CONDITIONAL, HOLDS, REFUTED, claim
from jaxbias.claims._conditions import (
    above,
    below,
    mean_above,
    mean_below,
    mean_near,
    mean_within,
    near,
    reported,
)
from jaxbias.claims._tools import affine, generator, predict
from jaxbias.claims.experiments import PENALTIES
from jaxbias.layers import dense, softmax


@claim(
    "A1.3",
    "Without a bias a blank image gets 0.1 for each of ten classes; on the digits the bias adds almost nothing.",
    CONDITIONAL,
    {
        "softmax of a blank image without a bias": near(np.full(10, 0.1), 1e-15),
        "test accuracy with a bias, 100 splits": mean_within(0.95, 0.98),
        "test accuracy gained by the bias": mean_within(-0.002, 0.004),
        "test log-loss with a bias": mean_within(0.1, 0.2),
    },
    article="The bias supplies the starting point; no measurement.",
    equation="softmax(0) = 1/K",
    statistical=True,
)
def digits(key):
    accuracy, log_loss = experiments.digits_with_and_without(key)
    head = jb.chain(dense.layer(10, use_bias=False), softmax)
    weight = affine(generator(key).standard_normal((64, 10)), None)
    return {
        "softmax of a blank image without a bias": predict(head, (weight, ()), np.zeros((1, 64)))[0],
        "test accuracy with a bias, 100 splits": accuracy[0],
        "test accuracy gained by the bias": accuracy[0] - accuracy[1],
        "test log-loss with a bias": log_loss[0],
    }


@claim(
    "E9",
    "On the digits the last layer's bias changes test accuracy by less than 0.4 percentage points.",
    REFUTED,
    {"test accuracy gained by the bias, 100 splits": mean_within(-0.004, 0.004), "log-loss saved by it": reported()},
    article="The bias is essential for recognising digits.",
    statistical=True,
)
def digits_effect(key):
    accuracy, log_loss = experiments.digits_with_and_without(jax.random.fold_in(key, 1))
    return {
        "test accuracy gained by the bias, 100 splits": accuracy[0] - accuracy[1],
        "log-loss saved by it": log_loss[1] - log_loss[0],
    }


@claim(
    "A2.4",
    "Xavier and He initialise with a variance that fits the width; what avoids vanishing and exploding is that scale.",
    CONDITIONAL,
    {
        "log₂ growth of z per ReLU layer, He, normal (theory 0)": mean_near(article1_init.FINITE_WIDTH, 0.015),
        "the same, uniform": mean_near(article1_init.FINITE_WIDTH, 0.015),
        "log₂ growth of z per ReLU layer, small random (s = 0.01)": mean_below(-3),
    },
    article="'Small random values' are on the list: at s = 0.01 and width 128 the signal vanishes.",
    equation="section 6",
    statistical=True,
)
def scales(key):
    he = (2 / article1_init.WIDTH) ** 0.5
    normal, _ = article1_init.growth(key, (he, 0.01))
    uniform, _ = article1_init.growth(jax.random.fold_in(key, 1), (he,), uniform=True)
    return {
        "log₂ growth of z per ReLU layer, He, normal (theory 0)": normal[0],
        "the same, uniform": uniform[0],
        "log₂ growth of z per ReLU layer, small random (s = 0.01)": normal[1],
    }


@claim(
    "A2.8",
    "L2, L1 and dropout shrink the gap between test and training error on a small noisy set.",
    HOLDS,
    {"gap without": mean_above(0.5)}
    | {f"gap saved by {name}": mean_above(0) for name in list(PENALTIES)[1:]}
    | {f"test error saved by {name}": reported() for name in list(PENALTIES)[1:]},
    equation="section 7, 5.5",
    statistical=True,
)
def generalization_gap(key):
    train, test = experiments.regularized(key)
    gap = test - train
    names = list(PENALTIES)
    return (
        {"gap without": gap[0]}
        | {f"gap saved by {name}": gap[0] - gap[i] for i, name in enumerate(names) if i}
        | {f"test error saved by {name}": test[0] - test[i] for i, name in enumerate(names) if i}
    )


@claim(
    "E14",
    "Drawing initial biases from Normal(0, 1) has no general benefit for generalisation: its test loss is no lower.",
    REFUTED,
    {
        # "No lower": by no more than 0.01 nats, a seventieth of log 2.
        "test loss with normal biases − with zero ones, balanced classes": mean_above(-0.01),
        "the same, 5 % in one class": mean_above(-0.01),
    },
    article="Normal initialisation of the bias adds variability for better generalisation.",
    statistical=True,
)
def normal_biases(key):
    losses = [experiments.bias_starts(k, share)[2] for k, share in zip(jax.random.split(key), (0.5, 0.05))]
    return {
        "test loss with normal biases − with zero ones, balanced classes": losses[0][2] - losses[0][0],
        "the same, 5 % in one class": losses[1][2] - losses[1][0],
    }


@claim(
    "E17",
    "A bias start moves the share of active units, Φ(b/sd z); against vanishing gradients only W's scale helps.",
    REFUTED,
    {
        "share of active units at b = −1, 0, 1 and unit sd of z": near([0.158655, 0.5, 0.841345], 0.005),
        "log₂ growth of the gradient per layer at s = 0.01, b = 0 (theory −3.64)": mean_within(-3.8, -3.5),
        "the same with b = 1, all units active (theory −3.14)": mean_within(-3.3, -3.0),
        "gradient left after 30 layers with b = 1": below(1e-25),
    },
    article="Custom bias initialisation prevents vanishing gradients.",
    equation="(8)",
    statistical=True,
)
def bias_and_vanishing(key):
    rng = generator(key)
    z = rng.standard_normal(200_000)
    width, depth, growth = 128, 30, {0.0: [], 1.0: []}
    for bias, rates in growth.items():
        for _ in range(100):
            a, kept = rng.standard_normal(width), []
            for _ in range(depth):
                weight = 0.01 * rng.standard_normal((width, width))
                kept.append((weight, a @ weight + bias))
                a = np.maximum(kept[-1][1], 0)
            delta = first = rng.standard_normal(width)
            for l in range(depth - 1, 0, -1):
                delta = (delta @ kept[l][0].T) * (kept[l - 1][1] > 0)
            rates.append(np.log2(np.linalg.norm(delta) / np.linalg.norm(first)) / (depth - 1))
    return {
        "share of active units at b = −1, 0, 1 and unit sd of z": [np.mean(z + b > 0) for b in (-1, 0, 1)],
        "log₂ growth of the gradient per layer at s = 0.01, b = 0 (theory −3.64)": growth[0.0],
        "the same with b = 1, all units active (theory −3.14)": growth[1.0],
        "gradient left after 30 layers with b = 1": 2 ** ((depth - 1) * np.array(growth[1.0])),
    }


@claim(
    "E19",
    "Before ReLU Xavier loses 2^−1/2 per layer and He keeps the scale; in tanh's linear range Xavier keeps it.",
    REFUTED,
    {
        "log₂ growth of z per ReLU layer, Xavier (theory −1/2)": mean_near(-0.5 + article1_init.FINITE_WIDTH, 0.012),
        "log₂ growth of z per ReLU layer, He (theory 0)": mean_near(article1_init.FINITE_WIDTH, 0.012),
        "log₂ of the factor per linear layer, Xavier, He (theory 0, 1/2)": near([0, 0.5], 0.02),
    },
    article="Xavier before ReLU balances.",
    equation="section 6",
    statistical=True,
)
def xavier_before_relu(key):
    n = article1_init.WIDTH
    signal, _ = article1_init.growth(key, (n**-0.5, (2 / n) ** 0.5))
    rng = generator(jax.random.fold_in(key, 1))
    a = 0.01 * rng.standard_normal((400, n))
    factors = []
    for s in (n**-0.5, (2 / n) ** 0.5):
        out = [np.tanh(a @ (s * rng.standard_normal((n, n)))) for _ in range(20)]
        factors.append(np.log2(np.sqrt(np.mean(np.square(out)) / np.mean(a * a))))
    return {
        "log₂ growth of z per ReLU layer, Xavier (theory −1/2)": signal[0],
        "log₂ growth of z per ReLU layer, He (theory 0)": signal[1],
        "log₂ of the factor per linear layer, Xavier, He (theory 0, 1/2)": factors,
    }


@claim(
    "S1",
    "He trains at every depth to 30, and ends lower than Xavier; zero and Normal(0, 1) starts do not train at all.",
    HOLDS,
    {
        # Only the output bias learns from zero, so the output stays a constant, and no constant beats Var y.
        "zeros: least loss / Var y of any depth and seed": above(1 - 1e-5),
        # z grows by √(16/2) per layer; a step of Adam moves no weight by more than 0.003, 100 of them by 0.3.
        "depth 30: normal, log₁₀ of the loss / Var y": mean_above(5),
        # Signal and error signal lose 2^−1/2 per layer, 2^−15 in all, and SGD does not rescale: the output is constant.
        "depth 30, SGD: Xavier, loss / Var y": mean_within(0.99, 1.01),
        "depth 30, SGD: share of seeds in which He is lower": mean_above(0.5),
        "depth 30, Adam: Xavier − He": mean_above(0),
    }
    | {f"depth {d}: He, loss / Var y (a constant: 1)": mean_below(1) for d in deep.DEPTHS}
    | {f"depth {d}: Xavier, loss / Var y": reported() for d in deep.DEPTHS},
    equation="section 6",
    source="K. He et al., Delving Deep into Rectifiers (2015), sec. 2.2",
    statistical=True,
)
def depth_and_start(key):
    sweeps = {depth: deep.trained(key, depth) for depth in deep.DEPTHS}
    he, xavier = ({d: deep.finals(sweep, start) for d, sweep in sweeps.items()} for start in ("he", "xavier"))
    by_sgd = deep.trained_by_sgd(key, 30)
    slow = deep.finals(by_sgd, "xavier")
    return {
        "zeros: least loss / Var y of any depth and seed": np.min([deep.finals(s, "zeros") for s in sweeps.values()]),
        "depth 30: normal, log₁₀ of the loss / Var y": np.log10(deep.finals(sweeps[30], "normal")),
        "depth 30, SGD: Xavier, loss / Var y": slow,
        "depth 30, SGD: share of seeds in which He is lower": deep.finals(by_sgd, "he") < slow,
        "depth 30, Adam: Xavier − He": xavier[30] - he[30],
    } | {
        f"depth {d}: {name}": losses[d]
        for d in deep.DEPTHS
        for name, losses in (
            ("He, loss / Var y (a constant: 1)", he),
            ("Xavier, loss / Var y", xavier),
        )
    }


@claim(
    "E25",
    "No law makes a bias worth more in a deep net: at the optimum of |x| + ½ it saves the same error at every depth.",
    REFUTED,
    {
        "loss / Var y of the best nets with biases, depths 2 … 30": near(np.zeros(len(deep.DEPTHS)), 1e-12),
        "of the best without, − 1-D theory": near(np.zeros(len(deep.DEPTHS)), 1e-12),
        # Float32 sums of 16 squares, against the theory in float64.
        "least loss without biases of any depth and seed, over that theory": above(1 - 1e-4),
    }
    | {f"depth {d}: training loss saved by the biases, He, 100 steps": reported() for d in deep.DEPTHS}
    | {f"depth {d}: test loss saved by them": reported() for d in deep.DEPTHS}
    | {"training loss saved, depth 30 − depth 2": reported(), "test loss, Xavier − He, depth 10": reported()},
    article="Bias helps especially in deep networks; a good initialisation generalises better.",
    equation="a bias-free ReLU net of one input is u relu(x) + d relu(−x)",
    statistical=True,
)
def biases_and_depth(key):
    slope, least = deep.best_without_bias()
    sweeps = {depth: deep.trained(key, depth) for depth in deep.DEPTHS}
    without = [deep.finals(s, start, use_bias=False) for s in sweeps.values() for start in deep.STARTS]

    def saved(depth, name):
        return deep.finals(sweeps[depth], "he", False, name) - deep.finals(sweeps[depth], "he", True, name)

    return (
        {
            "loss / Var y of the best nets with biases, depths 2 … 30": [
                deep.best_network(d, 1.0, 0.5) for d in deep.DEPTHS
            ],
            "of the best without, − 1-D theory": [deep.best_network(d, slope, 0.0) - least for d in deep.DEPTHS],
            "least loss without biases of any depth and seed, over that theory": np.min(without) / least,
        }
        | {f"depth {d}: training loss saved by the biases, He, 100 steps": saved(d, "loss") for d in deep.DEPTHS}
        | {f"depth {d}: test loss saved by them": saved(d, "validation_loss") for d in deep.DEPTHS}
        | {
            "training loss saved, depth 30 − depth 2": saved(30, "loss") - saved(2, "loss"),
            "test loss, Xavier − He, depth 10": deep.finals(sweeps[10], "xavier", True, "validation_loss")
            - deep.finals(sweeps[10], "he", True, "validation_loss"),
        }
    )


@claim(
    "S2",
    "With an offset in the target biases lower the final loss for every seed; without one the gain is tiny.",
    CONDITIONAL,
    {
        "offset 1: smallest loss saved by the biases": above(0),
        "offset 1: loss saved by the biases": mean_above(0.5),
        "no offset, odd target: loss saved by the biases": mean_within(-0.05, 0.05),
    },
    statistical=True,
)
def offset(key):
    with_offset = experiments.with_and_without(key, 1).final("loss")[0]
    none = experiments.with_and_without(key, 0).final("loss")[0]
    return {
        "offset 1: smallest loss saved by the biases": np.min(with_offset[1] - with_offset[0]),
        "offset 1: loss saved by the biases": with_offset[1] - with_offset[0],
        "no offset, odd target: loss saved by the biases": none[1] - none[0],
    }


@claim(
    "S3",
    "SGD, RMSprop and Adam all need the biases to fit an offset.",
    HOLDS,
    {f"{name}: loss saved by the biases": mean_above(0.3) for name in ("SGD", "RMSprop", "Adam")},
    equation="section 7",
    statistical=True,
)
def optimizers(key):
    chosen = {"SGD": optax.sgd(0.05, momentum=0.9), "RMSprop": optax.rmsprop(0.01), "Adam": optax.adam(0.02)}
    saved = {}
    for name, optimizer in chosen.items():
        losses = experiments.with_and_without(key, 1, optimizer, epochs=100).final("loss")[0]
        saved[f"{name}: loss saved by the biases"] = losses[1] - losses[0]
    return saved


@claim(
    "S4",
    "A log-prior bias lowers the first loss on unbalanced classes, and changes nothing on balanced ones.",
    CONDITIONAL,
    {
        "5 % in one class: first loss saved by log prior": mean_above(0.3),
        "5 % in one class: loss after 20 steps saved": mean_above(0.05),
        "balanced: first loss saved by log prior": near(np.zeros(experiments.SEEDS), 1e-6),
    }
    | {
        f"{classes}: test loss, {name} − zeros": reported()
        for classes in ("5 % in one class", "balanced")
        for name in experiments.BIAS_STARTS[1:]
    },
    equation="sigmoid(b) = p",
    source="T. Lin et al., Focal Loss (2017), sec. 3.3",
    statistical=True,
)
def bias_starts(key):
    first, early, test = experiments.bias_starts(key, 0.05)
    balanced, _, even = experiments.bias_starts(key, 0.5)
    return {
        "5 % in one class: first loss saved by log prior": first[0] - first[4],
        "5 % in one class: loss after 20 steps saved": early[0] - early[4],
        "balanced: first loss saved by log prior": balanced[0] - balanced[4],
    } | {
        f"{classes}: test loss, {name} − zeros": losses[i] - losses[0]
        for classes, losses in (("5 % in one class", test), ("balanced", even))
        for i, name in enumerate(experiments.BIAS_STARTS)
        if i
    }
