"""The report as one HTML page that needs nothing else: styles, formulas, charts and pictures are inside."""

import html
import re
from collections.abc import Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any

import numpy as np

from jaxbias.app.report._collect import BiasEffect, PageData, Run
from jaxbias.app.report._formulas import Typesetter
from jaxbias.app.report._pictures import bars, curves, tiles
from jaxbias.app.report._sources import linked
from jaxbias.derivation import Derivation
from jaxbias.selfcheck import DTYPES, TOLERANCE, Check

_e = html.escape


def page(report: PageData, *, cache: str = "", seconds: float | None = None, claims: str = "") -> str:
    """The whole page as text; `claims` is a section of HTML, from `claims_section`."""
    typesetter = Typesetter()
    body = "".join(
        [
            _head(report),
            _derivations(report.checks, typesetter),
            _training(report.runs, report.biases),
            _first_layers(report.runs),
            _summaries(report.runs),
            claims,
            _machine(report.machine, cache, seconds),
        ]
    )
    style = resources.files("jaxbias.app.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>jaxbias report</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n{typesetter.definitions()}\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _table(head: list[tuple[str, bool]], body: str, foot: str = "", kind: str = "") -> str:
    """A table that scrolls sideways where the window is narrow; head is (title, whether numbers stand below)."""
    cells = "".join(f'<th class="number">{t}</th>' if number else f"<th>{t}</th>" for t, number in head)
    foot = f"<tfoot>{foot}</tfoot>" if foot else ""
    kind = f' class="{kind}"' if kind else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{cells}</tr></thead>{body}{foot}</table></div>\n'


def _number(text: str, *, ok: bool = True) -> str:
    return f'<td class="number">{text}</td>' if ok else f'<td class="number bad">{text} ✗</td>'


def _head(report: PageData) -> str:
    right = sum(check.ok for check in report.checks)
    leaves = [leaf for check in report.checks for leaf in check.leaves]
    wrong = [check.derivation.name for check in report.checks if not check.ok]
    short = [run.name for run in report.runs if not run.ok]
    if wrong:
        verdict = f'<span class="bad">Wrong: {_e(", ".join(wrong))}.</span>'
    else:
        verdict = "Every derivation agrees with autodiff."
    if short:
        verdict += f' <span class="bad">Below the wanted accuracy: {_e("; ".join(short))}.</span>'
    best = "".join(
        _fact(
            f"{run.name.capitalize()} net",
            f"{100 * run.accuracy:.1f} %",
            f"test accuracy, wanted {100 * run.setting.wanted:.0f} %",
        )
        for run in report.runs
        if run.setting.use_bias
    )
    return (
        "<h1>Weights, biases and their gradients</h1>\n"
        f'<p class="lead">Derived by hand, checked by machine. {verdict}</p>\n<dl class="facts">'
        + _fact("Derivations within tolerance", f"{right} of {len(report.checks)}", f"{len(DTYPES)} dtypes each")
        + _fact("Gradients compared", f"{len(leaves)}", "leaf by leaf, with float64 autodiff")
        + best
        + "</dl>\n"
    )


def _fact(name: str, value: str, note: str) -> str:
    return f"<div><dt>{_e(name)}</dt><dd>{_e(value)}<small>{_e(note)}</small></dd></div>"


# --- derivations ------------------------------------------------------------------------------------------------------


def _derivations(checks: list[Check], typesetter: Typesetter) -> str:
    tolerances = ", ".join(f"{TOLERANCE[dtype]:.1e} in {dtype}" for dtype in DTYPES)
    head = [("Derivation", False), ("Forward, then each gradient", False), ("Gradient of", False)]
    head += [(dtype, True) for dtype in DTYPES]
    rows = "".join(_derivation(check, typesetter) for check in checks)
    return (
        "<h2>Derivations</h2>\n<p>Largest difference between the hand-derived gradient and autodiff of the plain "
        "forward in float64, on the same values, over all configurations of a layer or loss; relative to the largest "
        "entry of that leaf. Each gradient stands level with its own formula; equations and sheet are those of "
        f"docs/equations.md. Tolerance: 16 units in the last place of that entry, {tolerances}. No bias is zero, and "
        "the error signal is random.</p>\n" + _table(head, rows, kind="derivations")
    )


_GRADIENT = re.compile(r"\\partial L/\\partial\s*(?:\\tilde\s*)?((\\?[A-Za-z]+(?:\^\d)?)(?:_\w|_\{[^}]*\})?)\s*=")
_LEAVES = {
    "W": ("weight",), "w": ("weight",), r"\gamma": ("weight",), "b": ("bias",), r"\beta": ("bias",),
    "x": ("x", "x.0"), "z": ("x",), "a": ("x",), "x^1": ("x.0",), "x^2": ("x.1",),
}  # fmt: skip
"""Symbol in ∂L/∂… → the leaves whose gradient that formula gives; in an activation or a loss z or a is the input."""


def leaf_formulas(derivation: Derivation, leaves: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Formulas of the forward and of what gradients share, and leaf → those of its own gradient."""
    shared, own = [], {leaf: [] for leaf in leaves}
    for tex in derivation.formulas:
        patterns: set[str] = set()
        for whole, letter in _GRADIENT.findall(tex):
            named = derivation.symbols
            patterns.update(named.get(whole, named.get(letter, _LEAVES.get(letter, ()))))
        targets = [leaf for leaf in leaves if any(fnmatchcase(leaf, pattern) for pattern in patterns)]
        for leaf in targets:
            own[leaf].append(tex)
        if not targets:
            shared.append(tex)
    return shared, own


def _derivation(check: Check, typesetter: Typesetter) -> str:
    worst = check.worst()
    shared, own = leaf_formulas(check.derivation, list(worst))
    count = len(check.derivation.examples)
    name = _e(check.derivation.name).replace("_", "_<wbr>")
    first = (
        f'<td rowspan="{1 + len(worst)}" class="name">{name}<span class="source">{linked(check.derivation.source)}'
        f"<br>{count} configuration{'s' if count > 1 else ''}</span></td>"
    )
    rows = [f'<tr>{first}<td>{_formulas(shared, typesetter)}</td><td colspan="{1 + len(DTYPES)}"></td></tr>']
    for leaf, row in worst.items():
        cells = "".join(_number(f"{row[d].error:.1e}" if row[d].error else "0", ok=row[d].ok) for d in DTYPES)
        notes = sorted({entry.note for entry in row.values() if entry.note})
        label = f'<span class="leaf">{_e(leaf)}</span>' if leaf else f'<span class="bad">{_e("; ".join(notes))}</span>'
        rows.append(f"<tr><td>{_formulas(own[leaf], typesetter)}</td><td>{label}</td>{cells}</tr>")
    return f'<tbody class="group">{"".join(rows)}</tbody>'


def _formulas(formulas: Sequence[str], typesetter: Typesetter) -> str:
    return "".join(f'<div class="formula">{_formula(tex, typesetter)}</div>' for tex in formulas)


def _formula(tex: str, typesetter: Typesetter) -> str:
    try:
        return typesetter.svg(tex)
    except ValueError:  # a formula that cannot be set is still worth reading
        return f"<code>{_e(tex)}</code>"


# --- training ---------------------------------------------------------------------------------------------------------


def _classes(run: Run) -> str:
    return ("dense" if run.name.startswith("dense") else "conv") + ("" if run.setting.use_bias else " bare")


def _training(runs: list[Run], biases: BiasEffect | None) -> str:
    if not runs:
        return ""
    epochs = len(runs[0].fitted.history["loss"])
    rows = "".join(
        f"<tr><td>{_e(run.name.capitalize())}</td>"
        + _number(f"{run.summary.total.weights:,}")
        + _number(f"{run.summary.total.biases:,}")
        + _number(f"{run.fitted.history['loss'][-1]:.4f}")
        + _number(f"{run.fitted.history['validation_loss'][-1]:.4f}")
        + _number(f"{run.accuracy:.4f}", ok=run.ok)
        + _number(f"{run.setting.wanted:.2f}")
        + _number(f"{run.fitted.compile_s:.1f} s")
        + _number(f"{run.fitted.train_s:.1f} s")
        + "</tr>"
        for run in runs
    )
    numbers = ("Weights", "Biases", "Loss", "Test loss", "Test accuracy", "Wanted", "Compiling", "Training")
    head = [("Network", False), *((title, True) for title in numbers)]
    legend = "".join(
        f'<li><svg viewBox="0 0 28 10"><polyline class="line {_classes(run)}" points="0,5 28,5"/></svg>'
        f"{_e(run.name.capitalize())}</li>"
        for run in runs
    )
    losses = [(run.name, run.fitted.history["loss"], _classes(run)) for run in runs]
    accuracies = [(run.name, run.fitted.history["validation_accuracy"], _classes(run)) for run in runs]
    finite = np.concatenate([values[np.isfinite(values) & (values > 0)] for _, values, _ in losses])
    low, high = (finite.min(), finite.max()) if finite.size else (0.1, 1.0)
    bottom = max(0.0, float(np.floor(10 * min(values.min() for _, values, _ in accuracies)) / 10))
    diverged = "".join(
        f'<p class="bad">{_e(run.name.capitalize())}: the loss is not finite from epoch {run.fitted.diverged} on.</p>'
        for run in runs
        if run.fitted.diverged is not None
    )
    return (
        "<h2>Training on real digits</h2>\n<p>8×8 handwritten digits (UCI, 1998; scikit-learn's copy): 1437 rows for "
        f"training, 360 held out. Adam, {epochs} epochs, gradients by the hand-derived backward passes. The accuracy "
        "is that of the last epoch, not of the best. Derivations are checked meanwhile, so the times say how long this "
        "page took and not what a bias costs.</p>\n"
        + _table(head, f"<tbody>{rows}</tbody>")
        + diverged
        + '<div class="pair">'
        + curves(losses, title="Training loss, nats (logarithmic)", low=float(low), high=float(high), log=True)
        + curves(accuracies, title="Test accuracy", low=bottom, high=1.0, log=False)
        + f'</div>\n<ul class="legend">{legend}</ul>\n'
        + _biases(biases)
    )


def _biases(biases: BiasEffect | None) -> str:
    if biases is None:
        return ""
    return (
        f'<h3>What biases do here</h3>\n<p class="answer">{_e(biases.sentence())}</p>\n<p class="note">One sweep: the '
        f"dense net from {len(biases.differences)} seeds, each with and without its biases, with the same weights at "
        f"the start and the same rows in the same order; {biases.epochs} epochs each, {biases.seconds:.1f} s in all. "
        "The curves above are of one seed.</p>\n"
    )


def _first_layers(runs: list[Run]) -> str:
    parts = []
    for run in runs:
        weight, bias = run.params[0]
        if bias is None:
            continue
        images = weight.T.reshape(-1, 8, 8) if weight.ndim == 2 else np.moveaxis(weight[:, :, 0, :], -1, 0)
        if weight.ndim == 2:
            kind, columns, pixel = "units, each with its 64 weights", 16, 4
        else:
            kind, columns, pixel = f"filters of {images.shape[1]}×{images.shape[2]}", 8, 16
        alt = f"First-layer weights of the {run.name} net: {len(images)} {kind}"
        grid = tiles(images, columns, alt=alt, pixel=pixel)
        picture = f"<figure><figcaption>{len(images)} {kind}</figcaption>{grid}</figure>"
        chart = bars(bias, title=f"Their {len(bias)} biases, all 0 before training")
        parts.append(f'<h3>{_e(run.name.capitalize())}</h3><div class="pair">{picture}{chart}</div>\n')
    return f"<h2>What the first layers learned</h2>\n{''.join(parts)}" if parts else ""


def _summaries(runs: list[Run]) -> str:
    return "<h2>Summary</h2>\n" + "".join(_summary(run) for run in runs if run.setting.use_bias) if runs else ""


def _summary(run: Run) -> str:
    numbers = [(title, True) for title in ("Weights", "Biases", "Bytes")]
    head = [("Layer", False), ("Type", False), ("Output shape", False), *numbers]

    def counts(part: Any) -> str:
        return "".join(_number(f"{n:,}") for n in (part.weights, part.biases, part.bytes))

    rows = "".join(
        f"<tr><td><code>{_e(row.name)}</code></td><td>{_e(row.type)}</td><td>{_e(row.out_shape)}</td>{counts(row)}</tr>"
        for row in run.summary.rows
    )
    totals = {"Total": run.summary.total, "Trainable": run.summary.trainable, "Frozen": run.summary.frozen}
    foot = "".join(f'<tr><td colspan="3">{name}</td>{counts(total)}</tr>' for name, total in totals.items())
    return f"<h3>{_e(run.name.capitalize())}</h3>" + _table(head, f"<tbody>{rows}</tbody>", foot)


def _machine(machine: dict[str, Any], cache: str, seconds: float | None) -> str:
    entries = dict(machine)
    entries["Written"] = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    if seconds is not None:
        entries["Time"] = f"{seconds:.1f} s"
    if cache:
        entries["Cache"] = cache.removeprefix("compilation cache: ")
    rows = "".join(f"<tr><td>{_e(name)}</td><td>{_e(text)}</td></tr>" for name, text in entries.items())
    return f"<h2>Machine and versions</h2>\n{_table([('', False), ('', False)], f'<tbody>{rows}</tbody>')}"
