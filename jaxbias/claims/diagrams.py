"""Networks drawn: neuron, layers, nodes and links, and the forward/backward cycle with real numbers."""

from typing import Any

import numpy as np

from jaxbias.claims.figures import BLUE, FAINT, GREEN, INK, ORANGE, PAPER, VIOLET, _figure, styled

_RADIUS = 0.36


def _canvas(width, height, xlim, ylim):
    """Axes without frame in which one unit is the same on both axes."""
    figure = _figure(width, height)
    axes = figure.subplots()
    axes.set(xlim=xlim, ylim=ylim, aspect="equal")
    axes.axis("off")
    return figure, axes


def _node(axes, at, text, *, colour=INK, fill=PAPER, size: float | int = 11, radius=_RADIUS, dashed=False):
    from matplotlib.patches import Circle

    style = (0, (2.5, 1.8)) if dashed else "-"
    axes.add_patch(Circle(at, radius, facecolor=fill, edgecolor=colour, linewidth=1.6, linestyle=style, zorder=3))
    axes.text(*at, text, ha="center", va="center", fontsize=size, color=INK, zorder=4)


def _edge(axes, start, stop, *, colour=FAINT, width=1.4, arrow=True, shrink=(_RADIUS, _RADIUS), line: Any = "-"):
    """A line from node to node, cut off at their rims."""
    start, stop = np.array(start, float), np.array(stop, float)
    way = (stop - start) / np.linalg.norm(stop - start)
    tail, head = start + shrink[0] * way, stop - (shrink[1] + 0.04 * arrow) * way
    style = {"arrowstyle": "-|>" if arrow else "-", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", head, tail, zorder=2,
                  arrowprops=style | {"color": colour, "linewidth": width, "linestyle": line})  # fmt: skip


def _label(axes, start, stop, text, share=0.5, *, colour=INK, size=9.5):
    """Text on an edge, at this share of its way, on a patch of paper."""
    at = np.array(start, float) + share * (np.array(stop, float) - np.array(start, float))
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}
    axes.text(*at, text, ha="center", va="center", fontsize=size, color=colour, bbox=box, zorder=2.5)


def _signed(value: Any, digits: int = 2) -> str:
    return f"{float(value):.{digits}f}".replace("-", "−")


def neuron():
    """An artificial neuron: weighted inputs and the bias, as the weight of a constant 1, then f (A0.1, A3.13)."""
    with styled():
        figure, axes = _canvas(6.6, 3.4, (-0.7, 7.6), (-2.2, 2.2))
        body, out = (3.2, 0.0), (5.2, 0.0)
        inputs = [("$x_1$", "$w_1$", 1.55), ("$x_2$", "$w_2$", 0.5), ("$x_k$", "$w_k$", -0.65)]
        for name, weight, y in inputs:
            _node(axes, (0, y), name, colour=BLUE)
            _edge(axes, (0, y), body, shrink=(_RADIUS, 0.52))
            _label(axes, (0, y), body, weight, 0.42)
        axes.text(0, -0.02, "⋮", ha="center", va="center", fontsize=13)
        _node(axes, (0, -1.7), "1", colour=ORANGE, dashed=True)
        _edge(axes, (0, -1.7), body, colour=ORANGE, shrink=(_RADIUS, 0.52))
        _label(axes, (0, -1.7), body, "$b$", 0.42)
        _node(axes, body, r"$\Sigma$", radius=0.52, size=17)
        _node(axes, out, "$f$", radius=0.46, size=14, colour=GREEN)
        _edge(axes, body, out, shrink=(0.52, 0.46), colour=INK)
        _label(axes, body, out, "$z$", 0.47)
        _edge(axes, out, (7.2, 0), shrink=(0.46, 0), colour=INK)
        axes.text(7.25, 0.28, "$f(z)$", ha="right", fontsize=11)
        axes.text(2.1, 1.85, r"$z = w_1 x_1 + \dots + w_k x_k + b$", fontsize=11)
        axes.text(0.55, -2.05, "bias unit: no inputs, always 1", fontsize=9.5, color=INK)
        return figure


def layers(network: Any = None, params: Any = None, x: Any = None):
    """A box for each layer with its type, output shape and parameters; by default the 2-2-1 network (A0.17).

    Args:
        network, params, x: as for `jb.summary`.
    """
    import jax
    from matplotlib.patches import FancyBboxPatch

    import jaxbias as jb
    from jaxbias.claims import article0

    if network is None:
        network, x = article0.NETWORK, jax.ShapeDtypeStruct((1, 2), np.float32)
        params = jax.eval_shape(network.init, jax.random.key(0), x)
    table = jb.summary(params, network, x)
    boxes = [("input", str((None, *x.shape[1:])), "")]
    for row in table.rows:
        held = f"{row.weights} weights + {row.biases} biases" if row.weights else "no parameters"
        boxes.append((row.type, row.out_shape, held))
    with styled():
        figure, axes = _canvas(2.4 * len(boxes), 1.7, (-0.1, 2.6 * len(boxes) - 0.4), (-0.2, 1.6))
        for i, (kind, shape, held) in enumerate(boxes):
            left = 2.6 * i
            colour = BLUE if i == 0 else (GREEN if held != "no parameters" else FAINT)
            style: Any = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": PAPER, "edgecolor": colour}
            axes.add_patch(FancyBboxPatch((left, 0), 2.0, 1.4, linewidth=1.8, **style))
            axes.text(left + 1, 1.08, kind, ha="center", va="center", fontsize=12, weight="bold")
            axes.text(left + 1, 0.7, shape, ha="center", va="center", fontsize=10.5)
            axes.text(left + 1, 0.3, held, ha="center", va="center", fontsize=8.5, color="#444444")
            if i:
                _edge(axes, (left - 0.6, 0.7), (left, 0.7), shrink=(0, 0), colour=INK)
        return figure


def node_link(params: Any = None):
    """A dense network as nodes and links: width and colour of a link show its weight, bias units emit 1 (A0.11, A0.17).

    Args:
        params: of a chain of dense layers and activations; by default those that article 0 prints.
    """
    from jaxbias.claims import article0

    held = [layer for layer in (article0.printed_params() if params is None else params) if layer]
    sizes = [held[0].weight.shape[0], *(layer.weight.shape[1] for layer in held)]
    tallest = max(sizes) + 1
    names = ["x", *["h"] * (len(held) - 1), "y"]
    largest = max(float(np.max(np.abs(leaf))) for layer in held for leaf in layer)

    def place(level, unit, size):
        return 3.0 * level, 1.5 * ((size - 1) / 2 - unit) + 0.45

    with styled():
        figure, axes = _canvas(2.7 * len(sizes), 1.25 * tallest, (-0.6, 3.0 * len(held) + 0.6),
                               (-0.75 * tallest - 0.75, 0.75 * tallest - 0.2))  # fmt: skip
        for level, layer in enumerate(held):
            weight, bias = np.asarray(layer.weight), np.asarray(layer.bias)
            unit_one = (3.0 * level + 0.9, -0.75 * sizes[level] - 0.75)
            for k in range(sizes[level + 1]):
                stop = place(level + 1, k, sizes[level + 1])
                links = [(place(level, j, sizes[level]), weight[j, k], 0.26) for j in range(sizes[level])]
                for start, value, share in [*links, (unit_one, bias[k], 0.42)]:
                    colour, line = (BLUE, "-") if value > 0 else (VIOLET, (0, (4, 2)))
                    colour = FAINT if value == 0 else colour
                    _edge(axes, start, stop, colour=colour, width=0.7 + 3.6 * abs(float(value)) / largest, line=line)
                    _label(axes, start, stop, _signed(value), share, size=9)
            _node(axes, unit_one, "1", colour=ORANGE, dashed=True)
        for level, size in enumerate(sizes):
            for unit in range(size):
                subscript = f"_{unit + 1}" if size > 1 else ""
                _node(axes, place(level, unit, size), f"${names[level]}{subscript}$")
        bottom = -0.75 * tallest - 0.65
        legend = "blue, solid: positive    violet, dashed: negative    grey: zero    orange: bias unit"
        axes.text(3.0 * len(held) + 0.55, bottom, legend, fontsize=9, color="#444444", ha="right")
        return figure


def snippet(path: bool = False):
    """Unit k of layer l: what feeds it and what it feeds; with the chain rule's way marked on demand (A3.13)."""
    with styled():
        figure, axes = _canvas(8.2, 4.1, (-0.9, 9.6), (-2.9, 2.5))
        left = [(0, 1.5, "$a_1^{l-1}$"), (0, 0, "$a_j^{l-1}$"), (0, -1.5, "$a_n^{l-1}$")]
        right = [(7.6, 1.5, "$z_1^{l+1}$"), (7.6, 0, "$z_m^{l+1}$"), (7.6, -1.5, "$z_n^{l+1}$")]
        centre = (3.8, 0)
        for i, (x, y, name) in enumerate(left):
            colour, width = (VIOLET, 2.6) if path and i == 1 else (FAINT, 1.3)
            _edge(axes, (x, y), centre, colour=colour, width=width, shrink=(0.44, 0.6))
            _node(axes, (x, y), name, radius=0.44, colour=BLUE)
        _label(axes, left[1][:2], centre, "$w_{kj}^l$", 0.45, size=11, colour=VIOLET if path else INK)
        bias = (2.3, -2.05)
        _edge(axes, bias, centre, colour=ORANGE, shrink=(0.32, 0.6))
        _label(axes, bias, centre, "$b_k^l$", 0.4, size=11)
        _node(axes, bias, "1", colour=ORANGE, dashed=True, radius=0.32)
        for x, y, name in right:
            colour, width = (VIOLET, 2.6) if path else (FAINT, 1.3)
            _edge(axes, centre, (x, y), colour=colour, width=width, shrink=(0.6, 0.44))
            _node(axes, (x, y), name, radius=0.44)
        _label(axes, centre, right[0][:2], "$w_{1k}^{l+1}$", 0.5, size=11)
        _label(axes, centre, right[1][:2], "$w_{mk}^{l+1}$", 0.5, size=11)
        _label(axes, centre, right[2][:2], "$w_{nk}^{l+1}$", 0.5, size=11)
        _node(axes, centre, "$z_k^l\\,|\\,a_k^l$", radius=0.6, size=10.5, colour=GREEN)
        for x, text in ((0, "layer $l-1$"), (3.8, "layer $l$: unit $k$"), (7.6, "layer $l+1$")):
            axes.text(x, 2.2, text, ha="center", fontsize=10.5)
        if path:
            chain = r"\left(\sum_m \delta_m^{l+1} w_{mk}^{l+1}\right) \sigma'(z_k^l)\; a_j^{l-1}"
            axes.text(9.5, -2.55, rf"$\frac{{\partial C}}{{\partial w_{{kj}}^l}} = {chain}$", ha="right", fontsize=13)
        return figure


def snippet_path():
    """`snippet` with the way of the chain rule marked: equation (5)."""
    return snippet(path=True)


def flow_problem():
    """Network, params, sample and target that `flow` shows: 2-2-1, tanh in the hidden layer, a linear output."""
    import jax.numpy as jnp

    import jaxbias as jb
    from jaxbias.layers import dense, tanh
    from jaxbias.params import Params

    network = jb.chain(dense.layer(2), tanh, dense.layer(1))
    first = Params(jnp.array([[0.8, -0.5], [0.4, 0.9]]), jnp.array([0.1, -0.3]))
    last = Params(jnp.array([[1.2], [-0.7]]), jnp.array([0.2]))
    x, target = jnp.array([[1.0, 0.5]]), jnp.array([[0.5]])
    return network, (first, (), last), x, target


def flow():
    """The forward/backward cycle of a real 2-2-1 network, tanh then linear, on one sample (A3.3, A3.13).

    Above, the values a on the nodes and the weights on the links; below, the error signals δ = ∂C/∂z on the nodes, and
    on the links what they hand back, δ w. All numbers are computed by the library: `jb.deltas`, `jb.value_and_grad`.
    """
    import jaxbias as jb
    from jaxbias.losses import mean_squared_error

    params: Any
    network, params, x, target = flow_problem()
    deltas_at = jb.deltas(network, mean_squared_error)(params, x, target)
    loss, grads = jb.value_and_grad(network, mean_squared_error)(params, x, target)
    hidden = np.asarray(network.parts[1].forward((), network.parts[0].forward(params[0], x)[0])[0])[0]
    out = float(network.forward(params, x)[0][0, 0])
    deltas = [np.asarray(deltas_at["0"])[0], np.asarray(deltas_at["2"])[0]]
    w1, w2 = np.asarray(params[0].weight), np.asarray(params[2].weight)[:, 0]
    values = [np.asarray(x)[0], hidden, [out]]

    columns, rows, single = (0.0, 4.4, 8.8), (0.95, -0.95), 0.0
    places = [[(columns[i], y) for y in rows] for i in (0, 1)] + [[(columns[2], single)]]
    ones = [(1.75, -2.35), (6.15, -2.35)]
    cost = (11.3, single)
    radius = 0.52

    with styled():
        figure = _figure(10.2, 8.6)
        forward, backward = figure.subplots(2, 1)
        for axes in (forward, backward):
            axes.set(xlim=(-0.8, 12.6), ylim=(-3.35, 2.25), aspect="equal")
            axes.axis("off")

        def box(axes, text, colour):
            frame = {"boxstyle": "round,pad=0.55", "facecolor": PAPER, "edgecolor": colour, "linewidth": 1.6}
            axes.text(*cost, text, ha="center", va="center", fontsize=11.5, zorder=4, bbox=frame)

        for axes, colour in ((forward, BLUE), (backward, VIOLET)):
            for level in (0, 1):
                biases = np.asarray(params[2 * level].bias)
                given = np.asarray(grads[2 * level].bias)
                for k, stop in enumerate(places[level + 1]):
                    for j, start in enumerate(places[level]):
                        weight = w1[j, k] if level == 0 else w2[j]
                        handed = deltas[level][k] * weight
                        ends = (start, stop) if axes is forward else (stop, start)
                        faded = axes is backward and level == 0
                        shown, width = (FAINT, 1.2) if faded else (colour, 1.7)
                        _edge(axes, *ends, colour=shown, width=width, shrink=(radius, radius))
                        share = 0.3 if level == 0 else 0.42
                        change = float(np.asarray(grads[0].weight)[j, k]) if level == 0 else 0.0
                        text = _signed(weight if axes is forward else change if faded else handed)
                        _label(axes, start, stop, text, share, colour="#555555" if faded else colour, size=10.5)
                    ends = (ones[level], stop) if axes is forward else (stop, ones[level])
                    rims = (_RADIUS, radius) if axes is forward else (radius, _RADIUS)
                    _edge(axes, *ends, colour=ORANGE, width=1.5, shrink=rims)
                    text = _signed(biases[k]) if axes is forward else _signed(given[k])
                    _label(axes, ones[level], stop, text, 0.26 if level == 0 and k == 0 else 0.55, size=10.5)
                _node(axes, ones[level], "1", colour=ORANGE, dashed=True, size=12)
            for level, column in enumerate(places):
                for unit, at in enumerate(column):
                    if axes is forward:
                        text = _signed(values[level][unit])
                    else:
                        text = _signed(deltas[level - 1][unit]) if level else f"$x_{unit + 1}$"
                    edge = FAINT if axes is backward and level == 0 else colour
                    _node(axes, at, text, colour=edge, radius=radius, size=12)
            ends = (places[2][0], cost) if axes is forward else (cost, places[2][0])
            _edge(axes, *ends, colour=colour, width=1.7, shrink=(radius, 0.95) if axes is forward else (0.95, radius))

        box(forward, f"$C = (a - t)^2$\n$t = {float(target[0, 0]):.1f}$\n$C = {float(loss):.3f}$", BLUE)
        box(backward, r"$\partial C/\partial a$" + f"\n$= 2\\,(a - t)$\n= {_signed(deltas[1][0])}", VIOLET)
        by_error, by_bias, by_weight = (
            r"\delta w",
            r"\partial C/\partial b = \delta",
            r"\partial C/\partial w = \delta\, a",
        )
        rule = r"output $\delta^2 = \partial C/\partial a^2$,   hidden $\delta^1 = (\sum \delta^2 w)\,(1 - (a^1)^2)$"
        units = "hidden $a^1 = \\tanh z^1$,   output $a^2 = z^2$: a linear unit"
        forward.set_title(f"Forward     $z = xW + b$,   {units}", fontsize=13, color=BLUE)
        backward.set_title(f"Backward     {rule}", fontsize=13, color=VIOLET)
        for x_at, name in zip(columns, ("input $x$", "hidden $a^1$", "output $a^2$")):
            forward.text(x_at, 1.85, name, ha="center", fontsize=11)
        for x_at, name in zip(columns[1:], (r"$\delta^1$", r"$\delta^2$")):
            backward.text(x_at, 1.8, name, ha="center", fontsize=12)
        small: Any = {"ha": "right", "fontsize": 10, "color": "#444444"}
        gap = " " * 6
        handed_back = f"violet: ${by_error}$, the error handed back"
        forward.text(12.5, -3.25, f"blue: weights $w${gap}orange: biases $b$, weights of a constant 1", **small)
        backward.text(12.5, -3.25, f"{handed_back}{gap}grey: ${by_weight}${gap}orange: ${by_bias}$", **small)
        return figure
