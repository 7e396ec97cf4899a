"""Claims that gather others, and those about what the figures show."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import _regression as regression
from jaxbias.claims import article0, diagrams, experiments, figures
from jaxbias.claims._claim import CONDITIONAL, HOLDS, claim
from jaxbias.claims._conditions import above, at_most, below, exactly, near, true, within
from jaxbias.claims._tools import descend, generator, once, predict
from jaxbias.layers import dense, identity, relu, tanh
from jaxbias.losses import binary_cross_entropy, mean_squared_error


def texts(figure) -> list[str]:
    """Every text that stands in a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@claim(
    "A0.17",
    "plot(model) draws a box per layer with type and output shape; a node-link view shows bias units as constant 1.",
    HOLDS,
    {
        "boxes: input and three layers": exactly(4),
        "types and shapes shown": true(),
        "constant-1 nodes in the node-link view": exactly(2),
        "printed weights shown on the links": true(),
    },
    article="Its plot has three boxes: there the ReLU is part of the dense layer.",
)
def model_diagram(key):
    del key
    from matplotlib.patches import FancyBboxPatch

    drawn = diagrams.layers()
    shown, links = texts(drawn), texts(diagrams.node_link())
    rounded = [diagrams._signed(w) for leaf in jb.get_weights(article0.printed_params()) for w in np.ravel(leaf)]
    return {
        "boxes: input and three layers": sum(type(p) is FancyBboxPatch for p in drawn.findobj(FancyBboxPatch)),
        "types and shapes shown": [
            shown.count("dense") == 2, shown.count("relu") == 1, shown.count("(None, 2)") == 3, "(None, 1)" in shown
        ],
        "constant-1 nodes in the node-link view": links.count("1"),
        "printed weights shown on the links": [label in links for label in rounded],
    }  # fmt: skip


@claim(
    "A0.18",
    "A bias gives an intercept, learns an offset and lets a unit do AND; it breaks symmetry only if biases differ.",
    CONDITIONAL,
    {
        "MSE without − with the intercept": near(1.1673736146, 5e-11),
        "kink of relu(x + 2) at": near(-2, 1e-12),
        "rows of AND right with a bias, best without": exactly([4, 3]),
        "spread of hidden units with equal biases": exactly(0.0),
        "spread with distinct biases": above(0.1),
    },
    article="Breaking symmetry is listed without the condition (E5).",
    equation="(2)",
)
def four_purposes(key):
    from jaxbias.claims import errata, errata_training

    x, y = regression.article_data()
    grid = jnp.linspace(-4, 4, 1025)
    lifted = relu.forward((), grid + 2)[0]
    power, symmetry = errata.through_the_origin(key), errata_training.symmetry(key)
    return {
        "MSE without − with the intercept": regression.without_bias(x, y).mse - regression.with_bias(x, y).mse,
        "kink of relu(x + 2) at": grid[lifted == 0][-1],
        "rows of AND right with a bias, best without": power["AND on ±1 inputs: rows right with a bias, best without"],
        "spread of hidden units with equal biases": symmetry["spread between units, all biases 0.5"],
        "spread with distinct biases": symmetry["spread between units, distinct biases"],
    }


@claim(
    "A0.19",
    "Biases serve classification, regression and deep networks: each trained with and without, on data with an offset.",
    HOLDS,
    {
        "classification: accuracy with, without": within(0.5, 1),
        "classification: accuracy gained": above(0.1),
        "regression: MSE with / without": below(0.8),
        "deep network (6 layers): MSE / Var y with biases": below(0.2),
        "deep network: MSE with / without": below(0.5),
    },
    equation="(2)",
)
def three_uses(key):
    rng = generator(key)
    points, labels = experiments.two_classes(rng)
    x, y = regression.article_data()
    line = np.linspace(-1, 1, 32)[:, None]
    tasks = {
        "classification": (
            lambda on: jb.chain(dense.layer(1, use_bias=on), identity),
            binary_cross_entropy, points.astype(np.float64), labels[:, None].astype(np.float64), optax.adam(0.1), 400,
        ),
        "regression": (
            lambda on: dense.layer(1, use_bias=on), mean_squared_error, x[:, None], y[:, None], optax.sgd(0.02), 3000,
        ),
        "deep": (
            lambda on: jb.chain(
                *(part for _ in range(5) for part in (dense.layer(8, use_bias=on, weight_init="xavier_normal"), tanh)),
                dense.layer(1, use_bias=on),
            ),
            mean_squared_error, line, np.cos(3 * line) + 1, optax.adam(0.01), 500,
        ),
    }  # fmt: skip

    @once
    def run():
        results = {}
        for name, (make, loss, inputs, targets, optimizer, steps) in tasks.items():
            for on in (True, False):
                network = make(on)
                gradient = jb.value_and_grad(network, loss)
                given, wanted = jnp.asarray(inputs), jnp.asarray(targets)
                start = network.init(key, given)
                params, losses = descend(lambda p, g=gradient, a=given, t=wanted: g(p, a, t), start, optimizer, steps)
                results[f"{name} {on}"] = losses[-1], predict(network, params, given)
        return results

    results = run()
    accuracy = [np.mean((results[f"classification {on}"][1][:, 0] > 0) == labels) for on in (True, False)]
    fit = [results[f"regression {on}"][0] for on in (True, False)]
    deep = [results[f"deep {on}"][0] for on in (True, False)]
    variance = np.var(np.cos(3 * line))
    return {
        "classification: accuracy with, without": accuracy,
        "classification: accuracy gained": accuracy[0] - accuracy[1],
        "regression: MSE with / without": fit[0] / fit[1],
        "deep network (6 layers): MSE / Var y with biases": deep[0] / variance,
        "deep network: MSE with / without": deep[0] / deep[1],
    }


@claim(
    "A3.13",
    "Four diagrams show the derivation: a neuron, the cycle, a unit's surroundings, and the way of the chain rule.",
    HOLDS,
    {
        "all four drawn, with a text for each symbol": true(),
        "δ on the cycle's nodes − δ by hand": at_most(0.005),
        "∂C/∂b shown for all three biases": true(),
    },
    equation="(1), (2), (5), (8)",
)
def derivation_diagrams(key):
    del key
    wanted = {
        diagrams.neuron: ("$x_1$", "$w_k$", "$b$", "$f$"),
        diagrams.snippet: ("$a_j^{l-1}$", "$w_{kj}^l$", "$b_k^l$", "$w_{mk}^{l+1}$"),
        diagrams.snippet_path: ("$a_j^{l-1}$", "$w_{kj}^l$", "$b_k^l$", "$w_{mk}^{l+1}$"),
    }
    drawn = [all(text in texts(draw()) for text in symbols) for draw, symbols in wanted.items()]
    shown = texts(diagrams.flow())
    # By hand: z = (1.1, −0.35), a = tanh z, out = 1.2 a₁ − 0.7 a₂ + 0.2, δ² = 2 (out − 0.5), δ¹ = δ² w (1 − a²).
    a = np.tanh([0.8 + 0.2 + 0.1, -0.5 + 0.45 - 0.3])
    last = 2 * (1.2 * a[0] - 0.7 * a[1] + 0.2 - 0.5)
    first = last * np.array([1.2, -0.7]) * (1 - a * a)
    numbers = [float(text.replace("−", "-")) for text in shown if text.replace("−", "").replace(".", "").isdigit()]
    nearest = [min(numbers, key=lambda v: abs(v - delta)) - delta for delta in (*first, last)]
    return {
        "all four drawn, with a text for each symbol": [*drawn, len(shown) > 20],
        "δ on the cycle's nodes − δ by hand": np.abs(nearest),
        "∂C/∂b shown for all three biases": [shown.count(diagrams._signed(d)) >= 2 for d in (*first, last)],
    }


@claim(
    "A4.8",
    "The plot shows the data, the line without a bias (MSE 4.47) and the line with one (MSE 3.30).",
    HOLDS,
    {
        "legend holds 4.47 and 3.30": true(),
        "data and two lines in the legend": exactly(3),
        "labels Input and Output, title": true(),
    },
)
def regression_plot(key):
    del key
    axes: Any = figures.regression().axes[0]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    return {
        "legend holds 4.47 and 3.30": ["4.47" in "".join(legend), "3.30" in "".join(legend)],
        "data and two lines in the legend": len(legend),
        "labels Input and Output, title": [
            axes.get_xlabel() == "Input", axes.get_ylabel() == "Output", "egression" in axes.get_title(loc="left")
        ],
    }  # fmt: skip
