"""What a check answers: `Report`, with one `Leaf` per gradient and a `Diagnosis` for each mistake."""

import dataclasses
import html
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

Verdict = Literal["right", "wrong", "right up to convention", "reference imprecise", "reference undefined", "undecided"]

KINDS: dict[str, str] = {
    "sign": "the gradient, or one term of it, has the wrong sign",
    "scale-constant": "a constant factor is wrong",
    "batch-mean-vs-sum": "divided by the number of rows where the forward sums, or the other way round",
    "transpose": "a matrix is transposed, or axes are swapped",
    "missing-term": "one term of the sum is left out",
    "extra-term": "a term too many is added",
    "missing-factor": "a factor of a product is left out",
    "missing-activation-derivative": "the derivative of an elementwise function is left out",
    "wrong-reduction-axis": "summed over the wrong axis",
    "broadcast-not-summed": "the forward broadcasts a value, and its gradient is not summed over that axis",
    "wrong-operand": "a product takes the wrong one of two values",
    "wrong-index": "values are at the wrong position along an axis",
    "swapped-outputs": "gradients of two arguments are exchanged",
    "double-count": "a term is counted twice",
    "overwritten-not-accumulated": "an argument is used several times, and only one use is kept",
    "index-collision": "repeated indices: the last writer wins where their gradients must add",
    "missing-mask": "a mask or a condition is left out",
    "edge-point": "wrong only at special points, such as a zero or a tie",
    "dtype-precision": "the formula is right, but too much precision is lost on the way",
    "only-some-elements": "right for some elements, missing for the others",
    "stale-value": "a value of another step or an earlier call is used",
    "detached": "no gradient where there is one",
    "wrong-shape": "the gradient has another shape than its argument",
    "wrong-structure": "the rule returns another structure, or raises",
    "nondeterministic": "two calls with the same arguments differ",
    "not-linear-in-cotangent": "the rule is not linear in the cotangent",
    "unexplained": "wrong, and no hypothesis explains it on every probe",
}
"""The closed vocabulary of `Diagnosis.kind`."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """How one gradient compares with its reference.

    Attributes:
        path: of the argument leaf, for example "params.weight".
        ok: every element within its tolerance on every probe.
        max_error: largest |actual − expected| over the elements and probes, in the gradient's unit.
        worst_index: where; on the probe named by `probe`.
        expected, actual: the two values there.
        shape, dtype: of the argument.
        wrong_elements: how many elements are out of tolerance on that probe.
        tolerance: what the error may be at that element.
        wrong: mask of those elements, or None.
    """

    path: str
    ok: bool
    max_error: float | int
    worst_index: tuple[int, ...]
    expected: float | int
    actual: float | int
    shape: tuple[int, ...]
    dtype: str
    tolerance: float | int = 0.0
    probe: str = "as given"
    wrong_elements: int = 0
    wrong: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def compared(self) -> bool:
        """Whether there were values to compare; not where the rule gave another structure or shape, or none at all."""
        return bool(self.probe)


LineStatus = Literal["ok", "wrong", "given", "own"]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the rule, and what it computes.

    Attributes:
        text: the code: an assignment, or an expression that is returned.
        file, number: where it stands.
        status: "ok"; "wrong"; "given": right, given that the wrong lines above are mended; "own": an intermediate value
            of the rule's own, that the forward and autodiff do not have.
        meaning: what it is, "∂L/∂p"; of a wrong line, what it must be, or how it differs from that.
    """

    text: str
    file: str
    number: int
    status: LineStatus
    meaning: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """One mistake.

    Attributes:
        leaf: path of the gradient; several are joined by ", " where one mistake explains them all.
        kind: one of `KINDS`.
        explanation: one sentence.
        fix: what to write instead.
        evidence: how many elements and probes it explains, to what accuracy.
        condition: when the rule would be right; empty if never.
        source: line of the user's forward whose term is affected, "file:line: text"; empty if unknown.
        also: kinds that describe the same values equally well.
        rule_line: line of the user's rule that is wrong, "file:line: code"; empty if unknown.
        wanted: what that line must be, in a name such as "∂L/∂p"; empty if it has none.
        patch: code to write in that line's place, in the rule's own names; the rule was seen to be right with it. Empty
            if there is none.
    """

    leaf: str
    kind: str
    explanation: str
    fix: str = ""
    evidence: str = ""
    condition: str = ""
    source: str = ""
    also: tuple[str, ...] = ()
    rule_line: str = ""
    wanted: str = ""
    patch: str = ""

    def __post_init__(self) -> None:
        unknown = [kind for kind in (self.kind, *self.also) if kind not in KINDS]
        if unknown:
            raise ValueError(f"Diagnosis: kind {unknown[0]!r} is not one of {sorted(KINDS)}.")


class Leaves(dict[str, Leaf]):
    """Path → `Leaf`; a path may also be written with the position of the argument, "0.weight" for "params.weight"."""

    def __init__(self, leaves: Mapping[str, Leaf], aliases: Mapping[str, str]):
        super().__init__(leaves)
        self._aliases = dict(aliases)

    def __missing__(self, path: Any) -> Leaf:
        if (name := self._aliases.get(str(path))) is not None:
            return self[name]
        raise KeyError(f"{path!r} is not a leaf of this report; it has {sorted(self)}.")


@dataclasses.dataclass(frozen=True)
class Report:
    """Answer of a check. `ok` says whether the rule may be used; `verdict` and `diagnoses` say why.

    Attributes:
        verdict: "right": the formula is; what it loses in the dtype of the arguments, up to a percent, is a remark;
            "wrong"; "right up to convention": differs only where the function has a kink, within the
            interval of the one-sided derivatives; "reference imprecise": autodiff in the dtype of the arguments loses
            against float64, the rule does not; "reference undefined": autodiff gives NaN, the rule the limit;
            "undecided": neither proved different nor seen to be equal, and a note says what would decide.
        leaves: path → `Leaf`.
        diagnoses: what is wrong, the most important first.
        notes: what else is worth knowing.
        remarks: what a right rule loses all the same, one kind and leaf each, as mistakes are told.
        probes: names of the inputs that were tried.
        reproduction: code to paste with a smallest failing case; empty if none was made.
        seconds: how long the check took.
        subject: the kind of rule, in words, such as "Hessian-vector rule".
        evidence: what the verdict rests on, in words: to how many digits at how many probes, or what was proved.
        certificate: the enclosures behind it, to be evaluated again; see `certificate`. Empty where there are none.
        lines: the rule, line by line, of a wrong rule and in `explain`; empty where it cannot be listed, and a note
            says why.
    """

    verdict: Verdict
    leaves: Leaves
    diagnoses: tuple[Diagnosis, ...] = ()
    notes: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    reproduction: str = ""
    seconds: float = 0.0
    subject: str = "rule"
    evidence: str = ""
    certificate: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    lines: tuple[Line, ...] = ()
    remarks: tuple[Diagnosis, ...] = ()

    @property
    def ok(self) -> bool:
        return self.verdict not in ("wrong", "undecided")

    def __bool__(self) -> bool:
        raise TypeError("The truth value of a Report is not defined. Use report.ok, or print the report.")

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON; a NaN becomes None."""
        leaves = {}
        for path, leaf in self.leaves.items():
            row = {f.name: getattr(leaf, f.name) for f in dataclasses.fields(leaf) if f.name != "wrong"}
            leaves[path] = {k: _plain(v) for k, v in row.items()}
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "leaves": leaves,
            "diagnoses": [_as_row(diagnosis) for diagnosis in self.diagnoses],
            "notes": list(self.notes),
            "remarks": [_as_row(remark) for remark in self.remarks],
            "probes": list(self.probes),
            "reproduction": self.reproduction,
            "seconds": self.seconds,
            "evidence": self.evidence,
            "certificate": dict(self.certificate),
            "lines": [dataclasses.asdict(line) for line in self.lines],
        }

    def to_json(self, **kwargs: Any) -> str:
        """`to_dict()` as JSON text; keywords go to `json.dumps`."""
        return json.dumps(self.to_dict(), **kwargs)


def _as_row(diagnosis: Diagnosis) -> dict[str, Any]:
    return dataclasses.asdict(diagnosis) | {"also": list(diagnosis.also)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


# --- text -------------------------------------------------------------------------------------------------------------


def _number(x: float) -> str:
    return f"{x:.4g}"


def _rows(report: Report) -> list[tuple[str, ...]]:
    rows = []
    for leaf in report.leaves.values():
        shape = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        if not leaf.compared:
            rows.append(("" if leaf.ok else "WRONG", leaf.path or "(all)", shape, "", "", "not compared"))
            continue
        at = "[" + ", ".join(str(i) for i in leaf.worst_index) + "]"
        size = int(np.prod(leaf.shape))
        worst = "" if leaf.ok else f"{at}: {_number(leaf.actual)}, not {_number(leaf.expected)}"
        count = "" if leaf.ok else f"{leaf.wrong_elements} of {size}"
        rows.append(
            ("right" if leaf.ok else "WRONG", leaf.path or "(all)", shape, _number(leaf.max_error), count, worst)
        )
    return rows


def _notes(report: Report) -> list[str]:
    """Remarks and notes, in words."""
    return [*(f"{d.leaf}: {d.kind}. {d.explanation}" for d in report.remarks), *report.notes]


HEADER = ("", "gradient of", "shape", "max error", "wrong", "worst element")


def as_text(report: Report) -> str:
    """Table of the gradients, then each diagnosis in words."""
    rows = [HEADER, *_rows(report)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [f"{report.subject}: {report.verdict}"]
    if report.evidence:
        lines.append(f"  {report.evidence}")
    lines += ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    lines += _listing(report.lines)
    for diagnosis in report.diagnoses:
        lines += ["", f"{diagnosis.leaf}: {diagnosis.kind}", f"  {diagnosis.explanation}"]
        for label, value in (
            ("fix", diagnosis.fix),
            ("right", diagnosis.condition),
            ("rule", diagnosis.rule_line),
            ("wanted", diagnosis.wanted),
            ("write", diagnosis.patch),
            ("forward", diagnosis.source),
            ("evidence", diagnosis.evidence),
            ("also", ", ".join(diagnosis.also)),
        ):
            if value:
                lines.append(f"  {label + ':':<10}{value}")
    if notes := _notes(report):
        lines += ["", *(f"note: {note}" for note in notes)]
    if report.reproduction:
        lines += ["", "smallest failing case:", *("    " + line for line in report.reproduction.splitlines())]
    return "\n".join(lines)


MARKS = {"ok": "ok", "wrong": "WRONG", "given": "ok", "own": "·"}


def _said(line: Line) -> str:
    return line.meaning + (" (given what is mended above)" if line.status == "given" else "")


WIDEST = 60
"""Code of a line that is shown beside its meaning; a longer one has its meaning below."""


LONGEST_ROW = 112


def _listing(lines: tuple[Line, ...]) -> list[str]:
    """The rule, line by line."""
    if not lines:
        return []
    width = max([len(line.text) for line in lines if len(line.text) <= WIDEST], default=0)
    rows = ["", "the rule, line by line:"]
    for line in lines:
        start = f"  {MARKS[line.status]:<5}  "
        if len(line.text) <= WIDEST and len(start) + width + len(_said(line)) < LONGEST_ROW:
            rows.append(f"{start}{line.text:<{width}}  {_said(line)}".rstrip())
        else:
            rows += [f"{start}{line.text}", f"         {_said(line)}"]
    return rows


# --- HTML -------------------------------------------------------------------------------------------------------------


class Undecided(AssertionError):
    """Neither right nor proved wrong; the message is the report, which says what would decide."""


COLOURS = {
    "right": "#1a7f37",
    "wrong": "#b42318",
    "right up to convention": "#1a7f37",
    "reference imprecise": "#9a6700",
    "reference undefined": "#9a6700",
    "undecided": "#9a6700",
}


def _picture(leaf: Leaf) -> str:
    """Which elements are wrong, as a small grid: rows are the leading axes, columns the last one."""
    if leaf.wrong is None or leaf.wrong.size == 0:
        return ""
    mask = leaf.wrong.reshape(-1, leaf.wrong.shape[-1]) if leaf.wrong.ndim else leaf.wrong.reshape(1, 1)
    rows, columns = (np.array_split(np.arange(n), min(n, 32)) for n in mask.shape)
    side = 9 if max(len(rows), len(columns)) > 12 else 14
    cells = []
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            share = mask[r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean()
            shade = "#d7e8dc" if share == 0 else f"rgb(180,35,24,{0.35 + 0.65 * share:.2f})"
            cells.append(
                f'<rect x="{j * side}" y="{i * side}" width="{side - 1}" height="{side - 1}" fill="{shade}"></rect>'
            )
    width, height = len(columns) * side, len(rows) * side
    label = f"{leaf.path}: wrong elements in red"
    return f'<svg width="{width}" height="{height}" role="img" aria-label="{html.escape(label)}">{"".join(cells)}</svg>'


def _line_row(line: Line) -> str:
    e = html.escape
    colour = COLOURS["wrong"] if line.status == "wrong" else COLOURS["right"]
    mark = f'<b style="color:{colour}">{e(MARKS[line.status])}</b>' if line.status != "own" else "·"
    cell = 'style="text-align:left;padding:1px 14px 1px 0;vertical-align:top"'
    return f"<tr><td {cell}>{mark}</td><td {cell}><code>{e(line.text)}</code></td><td {cell}>{e(_said(line))}</td></tr>"


def as_html(report: Report) -> str:
    """The report for a notebook: table, a picture of where each wrong gradient is wrong, diagnoses in words."""
    e = html.escape
    colour = COLOURS[report.verdict]
    cell = 'style="text-align:left;padding:3px 14px 3px 0;vertical-align:top"'
    head = "".join(f"<th {cell}>{e(title)}</th>" for title in (*HEADER, "where"))
    body = []
    for row, leaf in zip(_rows(report), report.leaves.values()):
        mark = f'<td {cell}><b style="color:{COLOURS["right" if leaf.ok else "wrong"]}">{e(row[0])}</b></td>'
        cells = "".join(f"<td {cell}>{e(value)}</td>" for value in row[1:])
        body.append(f"<tr>{mark}{cells}<td {cell}>{'' if leaf.ok else _picture(leaf)}</td></tr>")
    parts = [
        '<div style="font-family:system-ui,sans-serif;font-size:14px;line-height:1.5;max-width:70em">',
        f'<p style="font-size:16px"><b style="color:{colour}">{e(report.subject)}: {e(report.verdict)}</b></p>',
        f"<p>{e(report.evidence)}</p>" if report.evidence else "",
        f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>',
    ]
    if report.lines:
        parts.append(
            f'<table style="border-collapse:collapse;margin:12px 0">{"".join(map(_line_row, report.lines))}</table>'
        )
    for d in report.diagnoses:
        rows = [("Fix", d.fix), ("Right", d.condition), ("Rule", d.rule_line), ("Wanted", d.wanted)]
        rows += [("Write", d.patch), ("Forward", d.source), ("Evidence", d.evidence)]
        rows = "".join(
            f'<div><span style="display:inline-block;width:6em;opacity:.7">{label}</span>{e(value)}</div>'
            for label, value in rows
            if value
        )
        parts.append(
            f'<div style="border-left:3px solid {COLOURS["wrong"]};padding:2px 12px;margin:12px 0">'
            f"<b>{e(d.leaf)}: {e(d.kind)}</b><div>{e(d.explanation)}</div>{rows}</div>"
        )
    parts += [f'<p style="margin:4px 0;opacity:.8">{e(note)}</p>' for note in _notes(report)]
    if report.reproduction:
        parts.append(f"<details><summary>Smallest failing case</summary><pre>{e(report.reproduction)}</pre></details>")
    return "".join(parts) + "</div>"
