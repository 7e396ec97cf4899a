"""The figures of the claims: one function each, one style, vector output. Importing this imports no plotting library.

Colours are those of M. Okabe and K. Ito (2008), which stay apart for colour-blind readers; what differs in colour also
differs in line style, marker, sign or label. Their vermillion is seen as a red or as an orange, so it never stands
beside `ORANGE`: there `VIOLET` takes its place. A legend names a colour as it is seen.
"""

import threading
from contextlib import contextmanager
from typing import Any

import numpy as np

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
VIOLET = "#6A3D9A"  # darker than all of them, so that text in it can be read
INK, FAINT, PAPER = "#222222", "#8A8A8A", "#FFFFFF"

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",  # the page looks alike without our fonts
    "svg.hashsalt": "jaxbias",  # the same figure is the same file
}

_lock = threading.Lock()  # matplotlib's settings are global


@contextmanager
def styled():
    """The style of all figures, while one of them is drawn or written."""
    import matplotlib

    with _lock, matplotlib.rc_context(_STYLE):
        yield


def _figure(width: float | int, height: float | int):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


# --- curves -----------------------------------------------------------------------------------------------------------


def activation_shift():
    """ReLU, sigmoid and tanh of x + b for b = −2, 0, 2: the bias moves the curve along the input (A1.2, A4.4, E24)."""
    x = np.linspace(-5, 5, 401)
    functions = {
        "ReLU": lambda z: np.maximum(z, 0),
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
    }
    with styled():
        figure = _figure(10, 3.4)
        for axes, (name, f) in zip(figure.subplots(1, 3), functions.items()):
            for b, colour, line in ((-2, VERMILLION, "--"), (0, INK, "-"), (2, BLUE, "-.")):
                axes.plot(x, f(x + b), line, color=colour, label=f"$b = {b}$".replace("-", "−"))
                axes.plot(-b, f(np.zeros(1))[0], "o", color=colour, markersize=6, markeredgecolor=PAPER, zorder=3)
            axes.set(title=name, xlabel="input $x$", xlim=(-5, 5))
        first = figure.axes[0]
        first.set_ylabel("$f(x + b)$")
        first.set_ylim(-0.7, 5)
        first.legend(loc="upper left")
        first.text(4.9, -0.5, "kink at $x = −b$", color=VERMILLION, ha="right")
        return figure


def regression():
    """The article's plot: data, the fit through the origin, and the fit with a bias, with their errors (A4.8)."""
    from jaxbias.claims import _regression

    x, y = _regression.article_data()
    fit, without = _regression.with_bias(x, y), _regression.without_bias(x, y)
    ends = np.array([-0.6, 10.6])
    with styled():
        figure = _figure(7, 4.6)
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.axvline(0, color=FAINT, linewidth=0.8)
        axes.plot(x, y, "o", color=BLUE, markersize=5, alpha=0.85, markeredgecolor=PAPER, label="data")
        axes.plot(ends, without.weight * ends, "--", color=ORANGE, label=f"without bias (MSE: {without.mse:.2f})")
        axes.plot(ends, fit.weight * ends + fit.bias, "-", color=GREEN, label=f"with bias (MSE: {fit.mse:.2f})")
        axes.plot(0, fit.bias, "s", color=GREEN, markersize=7, markeredgecolor=PAPER, zorder=3)
        axes.annotate(f"$b = {fit.bias:.2f}$", (0, fit.bias), (1.1, 0.55), color=GREEN,
                      arrowprops={"arrowstyle": "-", "color": GREEN})  # fmt: skip
        axes.set(title="Linear regression with and without a bias", xlabel="Input", ylabel="Output", xlim=ends)
        axes.legend(loc="upper left")
        return figure


def depth():
    """rms of signal and error signal over 30 ReLU layers of width 128, by initialisation (A1.17-A1.19, E18, E19)."""
    from jaxbias.claims import article1_init as init

    n = init.WIDTH
    styles = {
        "normal, $s = 1$": (1.0, VERMILLION, "-"),
        "He, $s^2 = 2/n$": ((2 / n) ** 0.5, GREEN, "-"),
        "Xavier, $s^2 = 1/n$": (n**-0.5, BLUE, "--"),
        "normal, $s = 0.01$": (0.01, PURPLE, "-."),
    }
    rng = np.random.default_rng(0)
    runs = [init.propagate(rng, tuple(s for s, _, _ in styles.values())) for _ in range(40)]
    layers = np.arange(1, init.DEPTH + 1)
    with styled():
        figure = _figure(10, 4)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, values in zip(panels, zip(*runs)):
            for i, (label, (_, colour, line)) in enumerate(styles.items()):
                rms = np.array(values)[:, i]
                axes.fill_between(layers, rms.min(axis=0), rms.max(axis=0), color=colour, alpha=0.18, linewidth=0)
                axes.semilogy(layers, np.median(rms, axis=0), line, color=colour, label=label)
            axes.set(xlabel="layer $l$", xlim=(1, 31.5))
            axes.set_xticks([1, 5, 10, 15, 20, 25, 30])
        panels[0].set(title="Forward: rms of $z^l$", ylabel="rms")
        panels[1].set(title=r"Backward: rms of $\delta^l$, put in at layer 30")
        panels[1].legend(loc="upper right")
        panels[0].text(
            15.5, 1e-31, "line: median, band: range of 40 networks", fontsize=9, color="#555555", ha="center"
        )
        return figure


def learning_curves():
    """Training loss with and without biases: median and band of 100 seeds (A1.13)."""
    from jaxbias.claims import experiments

    curves = experiments.offset_curves()
    with styled():
        figure = _figure(10, 3.9)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (title, by_bias) in zip(panels, curves.items()):
            for use_bias, colour, line in ((True, GREEN, "-"), (False, ORANGE, "--")):
                losses = by_bias[use_bias]
                epochs = np.arange(1, losses.shape[1] + 1)
                low, middle, high = np.quantile(losses, (0.05, 0.5, 0.95), axis=0)
                axes.fill_between(epochs, low, high, color=colour, alpha=0.25, linewidth=0)
                axes.semilogy(epochs, middle, line, color=colour, label="with biases" if use_bias else "without biases")
            axes.set(title=title, xlabel="epoch")
        panels[0].set_ylabel("training loss")
        panels[0].legend(loc="lower left")
        panels[1].text(0.98, 0.9, "median and 90 % band of 100 seeds", transform=panels[1].transAxes, fontsize=9,
                       color="#555555", ha="right")  # fmt: skip
        return figure


def decision_boundaries():
    """Logistic units and ReLU nets on two classes away from the origin, with and without biases (E4)."""
    from matplotlib.colors import LinearSegmentedColormap

    from jaxbias.claims import experiments

    x, labels, grid, probabilities = experiments.boundaries()
    colours = LinearSegmentedColormap.from_list("classes", ["#F6C9A8", "#FFFFFF", "#A9CDE6"])
    with styled():
        figure = _figure(10, 3.1)
        for axes, (title, values) in zip(figure.subplots(1, 4, sharey=True), probabilities.items()):
            axes.contourf(grid[0], grid[1], values, levels=np.linspace(0, 1, 21), cmap=colours, zorder=0)
            axes.contour(grid[0], grid[1], values, levels=[0.5], colors=[INK], linewidths=1.6)
            for label, colour, marker in ((0, VERMILLION, "o"), (1, BLUE, "^")):
                chosen = x[labels == label]
                axes.plot(chosen[:, 0], chosen[:, 1], marker, color=colour, markersize=5, markeredgecolor=PAPER,
                          markeredgewidth=0.5)  # fmt: skip
            axes.plot(0, 0, "+", color=INK, markersize=10, markeredgewidth=1.6)
            right = np.mean((experiments.nearest(grid, values, x) > 0.5) == labels)
            axes.set(title=title, xlabel=f"$x_1$      {right:.0%} right", aspect="equal")
            axes.grid(False)
        figure.axes[0].set_ylabel("$x_2$")
        return figure


def feature_maps():
    """ReLU feature maps of one filter over a digit, as its bias moves: the bias is the threshold (A4.1-A4.3)."""
    import jax.numpy as jnp
    from sklearn.datasets import load_digits

    from jaxbias.layers import conv, relu
    from jaxbias.params import Params

    digits: Any = load_digits()
    image = np.asarray(digits.images[3] / 16)
    kernel = np.array([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]])[:, :, None, None]
    biases = (-2.0, -1.0, 0.0, 1.0, 2.0)
    maps = []
    for b in biases:
        params = Params(jnp.asarray(kernel), jnp.full(1, b))
        z, _ = conv.forward(params, jnp.asarray(image)[None, :, :, None], padding="SAME")
        maps.append(np.asarray(relu.forward((), z)[0])[0, :, :, 0])
    with styled():
        figure = _figure(11, 2.75)
        panels = figure.subplots(1, 7, gridspec_kw={"width_ratios": [1, 0.5, 1, 1, 1, 1, 1]})
        for axes in panels:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        panels[0].imshow(image, cmap="gray_r")
        panels[0].set_title("image")
        panels[1].imshow(kernel[:, :, 0, 0], cmap="PuOr", vmin=-1.6, vmax=1.6)
        for (i, j), value in np.ndenumerate(kernel[:, :, 0, 0]):
            panels[1].text(
                j, i, f"{value:+.0f}".replace("-", "−") if value else "0", ha="center", va="center", fontsize=9
            )
        panels[1].set_title("kernel")
        last = None
        for axes, b, values in zip(panels[2:], biases, maps):
            last = axes.imshow(values, cmap="cividis", vmin=0, vmax=max(m.max() for m in maps))
            axes.set_title(f"$b = {b:.0f}$".replace("-", "−"))
            axes.set_xlabel(f"{np.mean(values > 0):.0%} active")
        assert last is not None
        figure.colorbar(last, ax=panels[-1], label=r"$\mathrm{relu}(s + b)$", shrink=0.8)
        return figure
