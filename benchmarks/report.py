"""One HTML page from the stored results: tables and plots, all generated, none typed."""

import base64
import html
import io
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import goals, sentence, tables
from benchmarks.record import RESULTS, Record, load

PAGE = RESULTS / "index.html"
STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2430; --paper: #fff; --rule: #d5dbe3; --dim: #697586; --good: #0b7a4b; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #14181e; --rule: #333b46; --dim: #93a0b1; --good: #53c990; --bad: #ff8a80; }
  img { filter: invert(.91) hue-rotate(180deg); }
}
body {
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 0 auto; padding: 1.5rem;
}
h1 { font-size: 1.7rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--rule); }
h3 { margin-bottom: .3rem; }
.wide { overflow-x: auto; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
td:nth-child(-n+2) { white-space: normal; }
tr.good td:last-child { color: var(--good); }
tr.bad td { color: var(--bad); }
tr.dim td { color: var(--dim); }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--dim); }
ul.first { padding-left: 1.1rem; max-width: 64rem; }
ul.first li { margin: .35rem 0; }
p.note { color: var(--dim); max-width: 60rem; }
"""
TITLES = {
    "canaries": "Canaries: wrong answers that backends have given",
    "bias": "What a bias costs",
    "derivations": "By hand against autodiff",
    "derived": "Written by jb.derive against autodiff",
    "training": "Training",
    "fit_loop": "One compiled program or a step from Python",
    "sweep": "Many networks at once",
    "per_example": "Per-example gradient norms",
    "verify": "Checking a derivation",
    "startup": "Start-up",
    "scaling": "Scaling",
    "backends": "Other backends",
}
NOTES = {
    "bias": "Time over the bare products x W, xᵀ δ and δ Wᵀ of the same shapes (for convolutions: over the layer "
    "without bias). Every contender returns the output, all gradients and the error signal for the layer below.",
    "derivations": "Autodiff's time over the hand-derived backward's: above 1, the formula by hand is faster. “kept” "
    "is what stays in memory from forward to backward beside params, input and output. A red dot's whole interval says "
    "that the formula by hand is slower; a pale one is the same compiled program, so it shows the clock.",
    "training": "Every contender starts from the same params and sees the same rows in the same order; each runs in "
    "fresh processes, in turns. “over baseline” is over this library's fit.",
    "sweep": "Time per network. All train the same networks with the same rows in the same order; each contender runs "
    "in fresh processes, in turns. The loop in PyTorch trains a few of the networks: its time per network does not "
    "depend on their number. “over baseline” is over this library's sweep.",
    "backends": "Records that say “compiled, not run” come from the real TPU compiler on a machine without a TPU: they "
    "hold what that compiler counts and plans, and no measured time.",
    "scaling": "The exponent p of t = c nᵖ, fitted by least squares of log t on log n.",
}


def main(page: Path | None = None, results: Path = RESULTS) -> int:
    """Write the page; one line where there is nothing to show or no place to write."""
    files = sorted(results.glob("*.json"))
    if not files:
        print(f"no results in {results}: run python -m benchmarks first.", file=sys.stderr)
        return 1
    page = page or PAGE
    try:
        page.write_text(render([load(path) for path in files]), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"the page cannot be written: {error}", file=sys.stderr)
        return 1
    print(f"page: {page}")
    if page == PAGE:
        sentence.write()
    return 0


def render(files: Sequence[dict[str, Any]]) -> str:
    """The page for some results files."""
    body = "".join(part for file in files for part in _file(file))
    platforms = {file["machine"]["platform"] for file in files}
    run = next((file for file in files if any(r.samples for r in file["records"])), files[0])
    compiled = sum(r.measured != "run" for file in files for r in file["records"])
    absent = [f"No {name} results on this machine." for name in ("GPU", "TPU") if name.lower() not in platforms]
    absent += [f"{compiled} programs were compiled for a TPU, not run."] * bool(compiled)
    first = "".join(f"<li>{_escape(line)}</li>" for line in (*first_lines(run), " ".join(absent)) if line)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>jaxbias benchmarks</title><style>{STYLE}</style><h1>jaxbias benchmarks</h1>"
        f"<ul class='first'>{first}</ul>"
        "<p class='note'>Generated by <code>python -m benchmarks report</code> from the files beside it; how it was "
        f"measured: <a href='../README.md'>benchmarks/README.md</a>.</p>{body}</html>\n"
    )


def _file(file: dict[str, Any]) -> Iterator[str]:
    machine = file["machine"]
    newest, *_ = keys = sorted(file["environments"], reverse=True)
    for key in keys:
        environment = file["environments"][key]
        records = [r for r in file["records"] if r.environment == key]
        if not records:
            continue
        device = machine["processor"] if machine["platform"] == "cpu" else machine["device_kind"]
        yield f"<h2>{_escape(device)}: {_escape(key)}</h2>"
        yield _described(machine, environment)
        reached = goals.table(records)
        measured = [row for row in reached if row[-1] != "not measured"]
        if measured:
            yield "<h3>Figures to reach</h3>"
            spread = goals.intervals(records)
            rows = [(*row[:3], _spread(spread.get(row[0])), row[3]) for row in (reached if key == newest else measured)]
            yield tables.as_html(("figure", "goal", "here", "[95 % interval]", ""), rows)
            limits = "".join(f"<dt>{_escape(what)}</dt><dd>{_escape(why)}</dd>" for what, why in goals.gaps(records))
            yield f"<h4>What limits those not met</h4><dl>{limits}</dl>" * bool(limits)
        for suite, title in TITLES.items():
            if own := [r for r in records if r.suite == suite]:
                yield from _suite(suite, title, own)


def _spread(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.3g}, {interval[1]:.3g}]"


def first_lines(file: dict[str, Any]) -> list[str]:
    """Five lines: on which machine, when and how busy; what was met, what was not, and what was not measured."""
    machine, key = file["machine"], max(file["environments"])
    runs = file["environments"][key].get("runs", ())
    records = [r for r in file["records"] if r.environment == key]
    rows: dict[str, list[str]] = {"met": [], "not met": [], "not measured": []}
    for what, wanted, here, verdict in goals.table(records):
        rows[verdict].append(f"{what}: {here} ({wanted})" if verdict == "not met" else what)
    listed = lambda names: "; ".join(dict.fromkeys(names)) or "none"
    size = f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    loads = [run["load_1min"] for run in runs]
    dates = sorted(run["date"][:10] for run in runs)
    device = machine["processor"] if machine["platform"] == "cpu" else machine["device_kind"]
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if runs else ""
    measured = f", measured {when} at a load of {min(loads):.1f} to {max(loads):.1f} before" if runs else ""
    count, topics = sum(map(len, rows.values())), [what.split(",")[0] for what in rows["met"]]
    return [
        f"Machine: {device}, {size}; {key}{measured}.",
        f"Met, {len(rows['met'])} of {count} figures, of: {listed(topics)}.",
        f"Not met, {len(rows['not met'])}: {listed(rows['not met'])}.",
        f"Not measured, {len(rows['not measured'])}: {listed(rows['not measured'])}.",
    ]


def _described(machine: dict[str, Any], environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    head = f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}. {versions}."
    busy = [r for r in environment.get("runs", ()) if r["load_1min"] > machine["cores"] / 2]
    warning = (
        "<p><strong>Some of these runs began at a load of more than half the cores (see “load before”): read the "
        "intervals, not the medians, and measure again before you quote a figure.</strong></p>"
    )
    rows = [
        (r["date"], r["scale"], ", ".join(r["suites"]), r["load_1min"], _limits(r.get("limits", {})))
        for r in environment.get("runs", ())
    ]
    table = tables.as_html(("run", "scale", "suites", "load before", "limits measured in it"), rows)
    runs = f"<details><summary>{len(rows)} runs</summary>{table}</details>" if rows else ""
    return f"<p class='note'>{_escape(head)}</p>" + warning * bool(busy) + runs


def _limits(limits: dict[str, float]) -> str:
    unit = lambda name: "GFLOP/s" if name.startswith("matmul") else "GB/s"
    return ", ".join(f"{k.replace('_', ' ')} {v / 1e9:.0f} {unit(k)}" for k, v in limits.items()) or "none"


def _suite(suite: str, title: str, records: list[Record]) -> Iterator[str]:
    yield f"<h3>{_escape(title)}</h3>"
    if suite in NOTES:
        yield f"<p class='note'>{_escape(NOTES[suite])}</p>"
    figure = PLOTS.get(suite)
    if figure is not None and any(r.status == "ok" for r in records):
        yield from figure(records)
    compiled = [r for r in records if r.measured != "run" and r.status == "ok"]
    exponents = [r for r in records if "exponent" in r.extra]
    rest = [r for r in records if r not in compiled and r not in exponents]
    if suite == "training":
        yield _training_table(rest)
    elif rest:
        table = tables.as_html(tables.HEAD, [tables.row(r) for r in rest])
        yield f"<details{' open' * (len(rest) < 12)}><summary>{len(rest)} results</summary>{table}</details>"
    if exponents:
        yield _exponent_table(exponents)
    if split := [r for r in records if "efficiency" in r.extra]:
        yield _devices_table(split)
    if compiled:
        yield _compiled_table(compiled)


def _training_table(records: list[Record]) -> str:
    head = (
        "workload",
        "contender",
        "per step",
        "over ours",
        "[95 % interval]",
        "first step",
        "to the end",
        "imports",
        "to accuracy",
        "score",
        "processes",
        "tokens per second",
    )
    rows = []
    for r in sorted(records, key=lambda r: (r.case, r.median or 1e9)):
        tokens = r.extra.get("tokens_per_s")
        case, name, step, ratio, interval, *_ = tables.row(r)
        more = [tables.seconds(r.extra.get(k)) for k in ("first_step_s", "total_s", "import_s", "to_accuracy_s")]
        score = r.extra.get("score")
        rows.append(
            (
                case,
                name,
                step,
                ratio,
                interval,
                *more,
                "" if score is None else f"{score:.4g}",
                r.extra.get("processes", ""),
                "" if tokens is None else f"{tokens:,.0f}",
            )
        )
    return tables.as_html(head, rows)


def _exponent_table(records: list[Record]) -> str:
    rows = [
        (r.case, r.contender, f"{r.extra['exponent']:.2f}", f"[{r.extra['low']:.2f}, {r.extra['high']:.2f}]",
         f"{r.extra['ideal']:g}",
         f"{r.extra['points'][0]} … {r.extra['points'][-1]}")
        for r in records
    ]  # fmt: skip
    fitted = tables.as_html(("size", "fit", "exponent", "[95 % interval]", "of the operations", "range"), rows)
    bends = [f"<li>{_escape(f'{r.case} {bend}')}</li>" for r in records for bend in r.extra.get("bends", ())]
    if not bends:
        return fitted
    return f"{fitted}<p>Where a curve leaves that exponent by more than 30 %:</p><ul>{''.join(bends)}</ul>"


def _devices_table(records: list[Record]) -> str:
    """How much of the ideal speed-up is reached by splitting the batch over devices."""
    rows = [(r.contender, f"{100 * r.extra['efficiency']:.0f} %", r.extra["all_reduces"]) for r in records]
    on_cpu = "On a CPU they are host devices of one process and share the cores that a single one already uses."
    return f"<p>The batch split over devices. {on_cpu}</p>" + tables.as_html(
        ("devices", "of the ideal speed-up", "all-reduces"), rows
    )


def _compiled_table(records: list[Record]) -> str:
    head = (
        "topology",
        "program",
        "GFLOP per chip",
        "bytes accessed",
        "scratch per chip",
        "fusions",
        "collectives",
        "compiler's estimate",
        "compile",
    )
    rows = [
        (
            r.case, r.contender, "–" if r.flops is None else f"{r.flops / 1e9:.4g}", tables.size(r.bytes),
            tables.size(r.temp_bytes),
            r.extra.get("fusions", "–"), r.extra.get("collectives", "–"), tables.seconds(r.extra.get("optimal_s")),
            tables.seconds(r.compile_s),
        )
        for r in records
    ]  # fmt: skip
    return "<p><strong>Compiled, not run.</strong></p>" + tables.as_html(head, rows)


# --- plots ------------------------------------------------------------------------------------------------------------

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
    return f"<p><img alt='{_escape(alternative)}' src='data:image/svg+xml;base64,{data}'></p>"


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
        axes.annotate(f"{value:.3g}{spread}", (high, i), (7, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    low, high = (min(low, 0.9), max(high, 1.1)) if one else (low, high)
    axes.set_xlim(low, high * (high / low) ** 0.25)  # room for the last label
    if one:
        axes.axvline(1, color="#222222", linewidth=0.8)
    _log_ticks(axes.xaxis, *axes.get_xlim())
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(label, fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _log_ticks(axis: Any, low: float, high: float) -> None:
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
    for case in dict.fromkeys(r.case for r in records):
        own = sorted((r for r in records if r.case == case and r.samples), key=lambda r: r.median or 0.0)
        if not own:
            continue
        figure = _dots(
            [r.contender for r in own], [1e6 * (r.median or 0.0) for r in own], [None for _ in own],
            [OURS if r.contender.startswith("jaxbias") else OTHER for r in own], f"{case}: µs per step", one=False,
        )  # fmt: skip
        yield _image(figure, f"Time per training step, {case}")


def _plain(records: list[Record]) -> Iterator[str]:
    """Times, one figure per case."""
    for case in dict.fromkeys(r.case for r in records):
        own = sorted((r for r in records if r.case == case and r.samples), key=lambda r: r.median or 0.0)
        if len(own) < 2:
            continue
        figure = _dots(
            [r.contender for r in own], [1e3 * (r.median or 0.0) for r in own], [None for _ in own],
            [OURS if r.contender.startswith("jaxbias") else OTHER for r in own], f"{case}: ms", one=False,
        )  # fmt: skip
        yield _image(figure, f"Time, {case}")


def _scaling(records: list[Record]) -> Iterator[str]:
    plt = _pyplot()
    sweeps = [
        case for case in ("batch", "width", "depth", "devices") if any(r.case == case and r.samples for r in records)
    ]
    figure, all_axes = plt.subplots(1, len(sweeps), figsize=(3.1 * len(sweeps), 3), squeeze=False)
    for axes, case in zip(all_axes[0], sweeps):
        own = sorted((r for r in records if r.case == case and r.samples), key=lambda r: int(r.contender))
        x, y = [int(r.contender) for r in own], [1e3 * (r.median or 0.0) for r in own]
        axes.loglog(x, y, "o-", color=OURS, label="measured")
        if all(r.roofline for r in own):
            axes.loglog(x, [t * (r.roofline or 0.0) for t, r in zip(y, own)], "--", color=OTHER, label="roofline")
            axes.legend(fontsize=8, frameon=False)
        if case == "devices":
            axes.loglog(x, [y[0] * x[0] / n for n in x], "--", color=OTHER, label="ideal")
        _log_ticks(axes.xaxis, *axes.get_xlim())
        axes.set_xticks(x[:: -(-len(x) // 5)])
        _log_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_xlabel(case, fontsize=9)
        axes.set_ylabel("ms", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    yield _image(figure, "Time as batch, width, depth and devices grow")


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


def _escape(text: Any) -> str:
    return html.escape(str(text), quote=True)
