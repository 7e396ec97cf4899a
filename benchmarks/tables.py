"""Records as tables: plain text for the terminal, HTML for the page."""

import html
from collections.abc import Iterable, Sequence

from benchmarks.record import Record

HEAD = ("case", "contender", "time", "over baseline", "[95 % interval]", "compile", "scratch", "kept", "of roofline")

IN_CACHE = 1.5
"""Shares of the roofline above this one say only that the data stay in a cache, which is faster than memory."""


def seconds(value: float | None) -> str:
    """A time with three digits and a unit."""
    if value is None:
        return "–"
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def size(value: float | None) -> str:
    """Bytes with a unit."""
    if value is None:
        return "–"
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def row(record: Record) -> tuple[str, ...]:
    """One record under `HEAD`."""
    name = record.contender + (" (baseline)" if record.contender == record.baseline else "")
    case = record.case if record.dtype in ("", "float32") else f"{record.case}, {record.dtype}"
    if record.status != "ok":
        return case, name, record.status.upper(), record.note, "", "", "", "", ""
    if "exponent" in record.extra:
        power, low, high = (f"{record.extra[k]:.2f}" for k in ("exponent", "low", "high"))
        return case, name, f"∝ n^{power}", "", f"[{low}, {high}]", "", "", "", ""
    ratio, interval = "", ""
    if record.times_baseline and record.contender != record.baseline:
        value, low, high = record.times_baseline
        ratio, interval = f"{value:.2f}", f"[{low:.2f}, {high:.2f}]"
        if "same_program_as" in record.extra:
            interval += " same program"
    share = "–" if record.roofline is None else f"{100 * record.roofline:.0f} %"
    if record.roofline is not None and record.roofline > IN_CACHE:
        share = "in cache"
    time = "ok" if record.suite == "canaries" else seconds(record.median)
    return (
        case, name, time, ratio, interval, seconds(record.compile_s), size(record.temp_bytes),
        size(record.residual_bytes), share,
    )  # fmt: skip


def text(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of equal width; the last row of a status runs on."""
    head, rows = _without_empty_columns(head, [tuple(map(str, each)) for each in rows])
    # a note in place of a ratio may run on to the end of the line
    notes = lambda r, i: i == 3 and r[2].isupper()
    widths = [max(len(r[i]) for r in [head, *rows] if not notes(r, i)) for i in range(len(head))]
    line = lambda r: "  ".join(cell.ljust(w) for cell, w in zip(r, widths)).rstrip()
    return "\n".join([line(head), line(["─" * w for w in widths]), *map(line, rows)])


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns that say nothing for any row; the first three always stay."""
    kept = [i for i in range(len(head)) if i < 3 or any(row[i] not in ("", "–") for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def as_html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table."""
    head, rows = _without_empty_columns(head, [tuple(map(str, each)) for each in rows])
    cells = lambda r, tag: "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in r)
    body = "\n".join(f"<tr class='{_mark(r)}'>{cells(r, 'td')}</tr>" for r in rows)
    return f"<div class='wide'><table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def _mark(row: Sequence[str]) -> str:
    if "not met" in row or "WRONG" in row or "FAILED" in row:
        return "bad"
    return "good" if row[-1] == "met" else "dim" if row[-1] == "not measured" or "SKIPPED" in row else ""
