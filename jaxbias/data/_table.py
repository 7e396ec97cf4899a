"""Delimited text as columns of numbers or text: `.csv`, `.tsv` and their kin, plain or gzipped.

Python's csv module splits the cells and NumPy keeps them. Found here, because files do not say it: the delimiter, the
encoding, decimal commas, and whether the first line holds names. What cannot be read is named by line and column.
"""

import codecs
import csv
import gzip
import io
import itertools
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

DELIMITERS = ("\t", ";", "|", ",", " ")
"""Where several split the lines evenly, the earlier one counts: commas stand in numbers and blanks in text."""
MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none"})
"""Cells that hold no value, in lower case."""
_NO_TEXT = "data: {} is not text. Give a .csv or .tsv file, or an .npz file with the arrays x and y."
_SAMPLE_LINES = 50
_CHUNK_ROWS = 16384
_WITH_COMMA = re.compile(r"[+-]?[\d.]*,\d+([eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d*)?")

Row = tuple[int, list[str]]
"""The line at which a row ends, from 1, and its cells."""


class OddCell(ValueError):
    """A cell that is no number in a column of numbers."""

    def __init__(self, where: str, cell: str, number: int, names: Sequence[str]):
        super().__init__(f"{where}, {title(number, names[number - 1])}: {cell!r} is not a number, as others there are.")
        self.number, self.names = number, names


class Cell(NamedTuple):
    """A cell, for messages."""

    line: int
    text: str


class Column(NamedTuple):
    """One column.

    Attributes:
        number: its place in the file, from 1.
        name: of the line of names; "" where there is none.
        values: float64 with NaN where a cell is missing or infinite; or text, "" where a cell is missing.
        missing: the first such cell.
    """

    number: int
    name: str
    values: np.ndarray
    missing: Cell | None

    @property
    def is_text(self) -> bool:
        return self.values.dtype == object

    @property
    def title(self) -> str:
        return title(self.number, self.name)


class Table(NamedTuple):
    """What a file holds.

    Attributes:
        lines: of the rows in the file, from 1; none where every cell is a finite number, so that there is none to name.
        notes: in words what the reader took for granted.
    """

    columns: tuple[Column, ...]
    lines: np.ndarray
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]


class _Layout(NamedTuple):
    delimiter: str
    names: tuple[str, ...]
    first_line: int  # lines before the first row
    notes: tuple[str, ...]


def title(number: int, name: str) -> str:
    """How messages call a column."""
    return f'column {number} ("{name}")' if name else f"column {number}"


def reference(number: int, names: Sequence[str]) -> str | int:
    """What `number_of` finds a column by: its name, or its number where the name is none or another's too."""
    name = names[number - 1]
    return name if name and names.count(name) == 1 else number


def number_of(reference: str | int, names: Sequence[str], path: Path) -> int:
    """The place, from 1, of the column with this name or number (-1 is the last).

    Raises:
        ValueError: there is no such column, or there are several.
    """
    places = [number for number, name in enumerate(names, start=1) if name and name == reference]
    if len(places) > 1:
        raise ValueError(f"data: {path} has {len(places)} columns {reference!r}. Name one by its number: {places}.")
    if places:
        return places[0]
    try:
        number = int(reference)
    except ValueError:
        number = 0
    number += len(names) + 1 if number < 0 else 0
    if not 1 <= number <= len(names):
        known = ", ".join(name or str(number) for number, name in enumerate(names, start=1))
        raise ValueError(f"data: {path} has no column {reference!r}. Its {len(names)} columns: {known}.")
    return number


def read(
    path: Path, *, header: bool | None = None, delimiter: str | None = None, text: Sequence[str | int] = ()
) -> Table:
    """The columns of a file.

    Args:
        header: whether the first line holds names; None finds out.
        delimiter: one character; None finds out.
        text: names or numbers of columns to keep as text, whatever they hold.

    Raises:
        OddCell: a cell that is no number in a column of numbers.
        ValueError: a file that is no text, holds no rows, fewer than two columns, or rows of different lengths.
    """
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"data: delimiter must be one character, got {delimiter!r}.")
    try:
        with path.open("rb") as file:
            start = file.read(2)
        opener = gzip.open if start == b"\x1f\x8b" else open
        with opener(path, "rb") as file:
            start = file.read(2)
        encodings = ("utf-16",) if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ("utf-8-sig", "cp1252")
        for encoding in encodings:

            def reopen(encoding=encoding) -> io.TextIOWrapper:
                return opener(path, "rt", encoding=encoding, newline="")  # type: ignore[return-value]

            try:
                table = _read(path, reopen, header, delimiter, text)
            except UnicodeDecodeError:
                continue
            note = () if encoding == "utf-8-sig" else (f"read as {encoding}, since it is not UTF-8",)
            return table._replace(notes=note + table.notes)
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise ValueError(f"data: {path} cannot be read as text with delimiters ({error}).") from None
    raise ValueError(_NO_TEXT.format(path))


def _read(
    path: Path,
    reopen: Callable[[], io.TextIOWrapper],
    header: bool | None,
    delimiter: str | None,
    text: Sequence[str | int],
) -> Table:
    with reopen() as file:
        head = list(itertools.islice(file, _SAMPLE_LINES + 1))
    if any("\0" in line for line in head):
        raise ValueError(
            f"data: {path} is not text. Give a .csv or .tsv file, or an .npz file with the arrays x and y."
        )
    layout = _layout(path, head, header, delimiter)
    as_text = {number_of(reference, layout.names, path) for reference in text}
    if not as_text and layout.delimiter != " ":
        with reopen() as file:
            numbers = _all_numbers(itertools.islice(file, layout.first_line, None), layout)
        if numbers is not None:
            columns = [Column(j + 1, name, numbers[:, j], None) for j, name in enumerate(layout.names)]
            return Table(tuple(columns), np.array([], int), layout.notes)
    with reopen() as file:
        rows = (row for row in _rows(file, layout.delimiter) if row[0] > layout.first_line)
        return _columns(path, rows, layout, as_text)


def _rows(lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    """The rows that hold anything: spreadsheets end in rows of delimiters."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != "\t")
    for cells in reader:
        if any(cells):
            yield reader.line_num, cells


def _layout(path: Path, head: list[str], header: bool | None, delimiter: str | None) -> _Layout:
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda candidate: _evenness(head, candidate))
    sample = list(_rows(head, delimiter))
    if len(head) > _SAMPLE_LINES:
        sample = sample[:-1]  # which may end inside of a quoted cell
    if not sample:
        raise ValueError(f"data: {path} holds no rows.")
    (width, _), *_ = Counter(len(cells) for _, cells in sample).most_common(1)
    notes, first_line = [], 0
    while header is None and len(sample) > 2 and len(sample[0][1]) != width and not all(map(is_number, sample[0][1])):
        line, cells = sample.pop(0)
        notes.append(f"line {line} left out: it has {len(cells)} cells, the rows have {width}")
        first_line = line
    first, *body = sample
    width = len(first[1])
    if width < 2:
        raise ValueError(
            f"data: {path} has {width} column, wanted features and, in the last column, the target; the delimiter "
            f"seems to be {delimiter!r}."
        )
    reason = "" if header else _why_names(first[1], [cells for _, cells in body])
    if header or (header is None and reason):
        names = tuple(cell.strip().removeprefix("# ") for cell in first[1])
        if reason not in ("", "no number in it"):
            notes.append(f"line {first[0]} taken for names ({', '.join(names)}): {reason}")
        return _Layout(delimiter, names, first[0], tuple(notes))
    return _Layout(delimiter, ("",) * width, first_line, tuple(notes))


def _evenness(head: list[str], delimiter: str) -> float:
    """Share of the rows that this delimiter cuts into the most frequent number of cells; 0 where it cuts none."""
    widths = Counter(len(cells) for _, cells in _rows(head, delimiter))
    if not widths:
        return 0.0
    (width, count), *_ = widths.most_common(1)
    share = count / widths.total() if width > 1 else 0.0
    return share / 2 if delimiter == " " else share  # a blank stands in dates and names: any other delimiter goes first


def _why_names(first: list[str], body: list[list[str]]) -> str:
    """Why the first line holds names; "" where it is a row."""
    below = [[cells[j] for cells in body if j < len(cells) and not is_missing(cells[j])] for j in range(len(first))]
    for j, cell in enumerate(first):
        if not is_number(cell) and not is_missing(cell) and below[j] and all(map(is_number, below[j])):
            plain = not any(map(is_number, first))
            return "no number in it" if plain else f"column {j + 1} is text there and holds numbers below"
    if any(map(is_number, first)) or all(map(is_missing, first)):
        return ""
    recurring = sum(cell in column for cell, column in zip(first, below))
    return "" if 2 * recurring >= len(first) else "no number in it"


def is_missing(cell: str) -> bool:
    """Whether a cell holds no value."""
    return cell.strip().lower() in MISSING


def is_number(cell: str) -> bool:
    """Whether a cell is a number, with a decimal point or a decimal comma."""
    try:
        _parse(cell)
    except ValueError:
        return _WITH_COMMA.fullmatch(cell.strip()) is not None
    return not is_missing(cell)


def _parse(cell: str) -> float:
    if "_" in cell:  # Python reads 1_000 as a number; in a file it is a name
        raise ValueError(cell)
    return float(cell)


def _parse_with_comma(cell: str) -> float:
    """A number with a decimal comma, and perhaps dots between thousands."""
    if "." in cell and not _GROUPED.fullmatch(cell.strip()):
        raise ValueError(cell)
    return _parse(cell.replace(".", "").replace(",", "."))


def _all_numbers(lines: Iterable[str], layout: _Layout) -> np.ndarray | None:
    """The rows of a file that holds nothing but finite numbers, by NumPy's own fast reader; else None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no rows: the caller says it
        try:
            numbers = np.loadtxt(lines, delimiter=layout.delimiter, comments=None, quotechar='"', ndmin=2)
        except ValueError:
            return None
    return numbers if numbers.shape[1] == len(layout.names) and np.isfinite(numbers).all() else None


def _columns(path: Path, rows: Iterator[Row], layout: _Layout, as_text: set[int]) -> Table:
    names, width = layout.names, len(layout.names)
    parts: list[list[np.ndarray]] = [[] for _ in names]
    missing: list[Cell | None] = [None] * width
    parse, kinds, notes, lines = _parse, [], layout.notes, []
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        for line, cells in chunk:
            if len(cells) != width:
                raise ValueError(
                    f"data: {path}, line {line}: {len(cells)} cells, wanted {width} as in the first row (the delimiter "
                    f"is {layout.delimiter!r})."
                )
        at = np.array([line for line, _ in chunk])
        lines.append(at)
        columns = [[cell.strip() for cell in column] for column in zip(*(cells for _, cells in chunk))]
        if not kinds:
            if layout.delimiter != "," and any(
                _WITH_COMMA.fullmatch(c) for cells in columns for c in cells if "," in c
            ):
                parse, notes = _parse_with_comma, (*notes, "numbers have decimal commas")
            kinds = [number in as_text or _is_text(cells, parse) for number, cells in enumerate(columns, start=1)]
        for j, cells in enumerate(columns):
            values = _texts(cells) if kinds[j] else _numbers(cells, parse)
            gaps = np.flatnonzero(values == "" if kinds[j] else np.isnan(values))
            for i in gaps:
                if not kinds[j] and not is_missing(cells[i]) and not _is(parse, cells[i]):
                    raise OddCell(f"data: {path}, line {at[i]}", cells[i], j + 1, names)
            parts[j].append(values)
            if gaps.size and missing[j] is None:
                missing[j] = Cell(int(at[gaps[0]]), cells[gaps[0]])
    if not lines:
        raise ValueError(f"data: {path} holds no rows.")
    columns = zip(names, parts, missing)
    return Table(
        tuple(Column(number, name, np.concatenate(p), gap) for number, (name, p, gap) in enumerate(columns, start=1)),
        np.concatenate(lines),
        notes,
    )


def _is_text(cells: list[str], parse: Callable[[str], float]) -> bool:
    """Whether most of the cells with a value are no numbers."""
    present = [cell for cell in cells if not is_missing(cell)]
    return 2 * sum(_is(parse, cell) for cell in present) < len(present)


def _is(parse: Callable[[str], float], cell: str) -> bool:
    try:
        parse(cell)
    except ValueError:
        return False
    return True


def _texts(cells: list[str]) -> np.ndarray:
    return np.array(["" if is_missing(cell) else cell for cell in cells], dtype=object)


def _numbers(cells: list[str], parse: Callable[[str], float]) -> np.ndarray:
    """float64, NaN for every cell that is no finite number."""
    try:
        values = np.fromiter(map(parse, cells), np.float64, len(cells))
    except ValueError:
        values = np.array([parse(cell) if _is(parse, cell) else np.nan for cell in cells])
    return np.where(np.isfinite(values), values, np.nan)
