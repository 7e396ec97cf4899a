"""One HTML page from the stored results: tables and plots, all generated, none typed."""

import html
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import goals, plots, sentence, tables
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
    "weak_scaling": "A step on more devices than one",
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
    absent += [f"{compiled} programs were compiled for TPUs and GPUs, not run."] * bool(compiled)
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
    figure = plots.PLOTS.get(suite)
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


def _escape(text: Any) -> str:
    return html.escape(str(text), quote=True)
