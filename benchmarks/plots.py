"""Figures of the page, as pictures inside it: one function for each suite that has them."""

import base64
import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import goals
from benchmarks.record import Record

OURS, OTHER, FAINT, SLOWER = "#0b6e99", "#6f7b8b", "#b4bfcb", "#c25b3f"


def _image(figure: Any, alternative: str) -> str:
    """The figure as an SVG image, inside the page."""
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "jaxbias"}):  # the same results give the same file
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    data = base64.b64encode(svg.encode()).decode()
    return f"<p><img alt='{html.escape(alternative)}' src='data:image/svg+xml;base64,{data}'></p>"


def _pyplot() -> Any:
    """Matplotlib without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _dots(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[Any],
    colors: Sequence[str],
    label: str,
    one: bool = True,
):
    """Dots on a logarithmic axis, which has no zero for a bar to stand on; with intervals, values, and a line at 1."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8.5, 0.27 * len(names) + 0.9))
    for i, (value, interval, color) in enumerate(zip(values, intervals, colors)):
        low, high = interval[1:] if interval else (value, value)
        axes.plot([low, high], [i, i], color=color, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
        axes.plot(value, i, "o", color=color, markersize=6)
        spread = f" [{low:.3g}, {high:.3g}]" if interval else ""
        number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
        axes.annotate(f"{number}{spread}", (high, i), (7, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    low, high = (min(low, 0.9), max(high, 1.1)) if one else (low, high)
    axes.set_xlim(low, high * (high / low) ** 0.25)  # room for the last label
    if one:
        axes.axvline(1, color="#222222", linewidth=0.8)
    log_ticks(axes.xaxis, *axes.get_xlim())
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(label, fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def log_ticks(axis: Any, low: float, high: float) -> None:
    """At most eight round numbers on a logarithmic axis, written out, and no labels between them."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) <= 8:
            break
    while len(ticks) > 8:
        ticks = ticks[::2]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _grid(records: list[Record], label: str):
    """Ratios over batch and width, a panel for each contender and dtype; white is 1, red is slower, blue is faster."""
    plt = _pyplot()
    contenders, dtypes = (list(dict.fromkeys(getattr(r, what) for r in records)) for what in ("contender", "dtype"))
    batches, widths = (sorted({r.sizes[what] for r in records}) for what in ("batch", "width"))
    size = 1.5 + 0.62 * len(widths) * len(contenders), 0.9 + 0.42 * len(batches) * len(dtypes)
    figure, panels = plt.subplots(len(dtypes), len(contenders), figsize=size, squeeze=False, sharex=True, sharey=True)
    for row, dtype in zip(panels, dtypes):
        for axes, contender in zip(row, contenders):
            shown, written = np.full((len(batches), len(widths)), np.nan), {}
            for r in records:
                if (r.contender, r.dtype) == (contender, dtype):
                    place = batches.index(r.sizes["batch"]), widths.index(r.sizes["width"])
                    ratio, low, high = r.times_baseline or (_ratio(r),) * 3
                    shown[place], written[place] = ratio, f"{ratio:.2f}\n{low:.2f}–{high:.2f}"
            axes.imshow(np.log(shown), cmap="RdBu_r", vmin=-0.7, vmax=0.7, aspect="auto")
            for (i, k), ratio in np.ndenumerate(shown):
                if np.isfinite(ratio):
                    axes.text(k, i, written[i, k], ha="center", va="center", fontsize=7, linespacing=1.1)
            axes.set_xticks(range(len(widths)), widths, fontsize=8)
            axes.set_yticks(range(len(batches)), batches, fontsize=8)
            axes.set_title(f"{contender}, {dtype}", fontsize=8)
            axes.spines[:].set_visible(False)
    figure.supxlabel("width", fontsize=9)
    figure.supylabel("batch", fontsize=9)
    figure.suptitle(label, fontsize=9)
    figure.tight_layout()
    return figure


def _derivations(records: list[Record]) -> Iterator[str]:
    own = [r for r in records if r.contender == "autodiff" and r.times_baseline and r.status == "ok"]
    own.sort(key=lambda r: -_ratio(r))
    figure = _dots(
        [r.case for r in own], [_ratio(r) for r in own], [r.times_baseline for r in own],
        [_ratio_color(r, OURS) for r in own],
        "time of autodiff of the same forward over time by hand (above 1: by hand is faster)",
    )  # fmt: skip
    yield _image(figure, "Autodiff's time over the hand-derived backward's, by layer and loss")
    others = [r for r in records if r.contender not in ("hand", "autodiff") and r.times_baseline and r.status == "ok"]
    if others:
        others.sort(key=lambda r: -_ratio(r))
        figure = _dots(
            [f"{r.case}: {r.contender}" for r in others], [_ratio(r) for r in others],
            [r.times_baseline for r in others],
            [_ratio_color(r, OTHER) for r in others],
            "time of another library's or another forward's gradient over time by hand",
        )  # fmt: skip
        yield _image(figure, "Other libraries' gradients over the hand-derived backward, by layer and loss")


def _ratio_color(record: Record, color: str) -> str:
    if "same_program_as" in record.extra:
        return FAINT
    return SLOWER if goals.surely_slower(record) else color


def _ratio(record: Record) -> float:
    assert record.times_baseline is not None
    return record.times_baseline[0]


def _bias(records: list[Record]) -> Iterator[str]:
    for which, baseline in (("forward + backward", "bare products"), ("forward", "bare product")):
        own = [
            r
            for r in records
            if r.case.startswith("dense") and r.sizes.get("pass") == which and r.contender != baseline
        ]
        own = [r for r in own if r.times_baseline and r.status == "ok"]
        if not own:
            continue
        if len({r.case for r in own}) > 4:
            yield _image(
                _grid(own, f"{which} with ReLU: time over the {baseline}"), f"Dense layer, {which}, every size"
            )
            continue
        colors = {"no bias": FAINT, "bias": OURS}
        figure = _dots(
            [f"{r.case.split(',')[0]}{'' if r.dtype == 'float32' else ' ' + r.dtype}: {r.contender}" for r in own],
            [_ratio(r) for r in own], [r.times_baseline for r in own], [colors.get(r.contender, OTHER) for r in own],
            f"{which} with ReLU: time over the {baseline}",
        )  # fmt: skip
        yield _image(figure, f"Dense layer, {which}, over the bare products")


def _training(records: list[Record]) -> Iterator[str]:
    yield from _times(records, 1e6, "µs per step", "Time per training step", least=1)


def _plain(records: list[Record]) -> Iterator[str]:
    yield from _times(records, 1e3, "ms", "Time", least=2)


def _times(records: list[Record], per_second: float, unit: str, title: str, least: int) -> Iterator[str]:
    """A figure for each case with so many contenders at the least, the fastest first."""
    for case in dict.fromkeys(r.case for r in records):
        own = sorted((r for r in records if r.case == case and r.samples), key=lambda r: r.median or 0.0)
        if len(own) < least:
            continue
        figure = _dots(
            [r.contender for r in own], [per_second * (r.median or 0.0) for r in own], [None for _ in own],
            [OURS if r.contender.startswith("jaxbias") else OTHER for r in own], f"{case}: {unit}", one=False,
        )  # fmt: skip
        yield _image(figure, f"{title}, {case}")


def _scaling(records: list[Record]) -> Iterator[str]:
    plt = _pyplot()
    sweeps = [case for case in ("batch", "width", "depth") if any(r.case == case and r.samples for r in records)]
    figure, all_axes = plt.subplots(1, len(sweeps), figsize=(3.1 * len(sweeps), 3), squeeze=False)
    for axes, case in zip(all_axes[0], sweeps):
        own = sorted((r for r in records if r.case == case and r.samples), key=lambda r: int(r.contender))
        x, y = [int(r.contender) for r in own], [1e3 * (r.median or 0.0) for r in own]
        axes.loglog(x, y, "o-", color=OURS, label="measured")
        if all(r.roofline for r in own):
            axes.loglog(x, [t * (r.roofline or 0.0) for t, r in zip(y, own)], "--", color=OTHER, label="roofline")
            axes.legend(fontsize=8, frameon=False)
        log_ticks(axes.xaxis, *axes.get_xlim())
        axes.set_xticks(x[:: -(-len(x) // 5)])
        log_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_xlabel(case, fontsize=9)
        axes.set_ylabel("ms", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    yield _image(figure, "Time as batch, width and depth grow")


PLOTS = {
    "derivations": _derivations,
    "bias": _bias,
    "derived": _plain,
    "training": _training,
    "sweep": _plain,
    "per_example": _plain,
    "verify": _plain,
    "startup": _plain,
    "scaling": _scaling,
}
