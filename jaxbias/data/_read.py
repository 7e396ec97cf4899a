"""What a file holds: arrays of `.npz`, columns of a table."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxbias.data import _table
from jaxbias.data._rows import Question, shortened

MOST_LEVELS = 20
"""A column of text becomes one column for each of its different texts, up to this many."""


class FileRows(NamedTuple):
    """What a file holds, before targets are told apart and rows are held out.

    Attributes:
        x: float64 (n, ...), NaN where a value is missing.
        y: float64 (n,) or (n, k), NaN where a value is missing; or text (n,), "" where it is missing.
        test: rows (x, y) that the file itself holds out.
        levels: (features,) whether a column stands for one text of a column of text.
        subject: how messages call the targets.
        first_missing: where the first missing value stands, in words; "" where there is none.
    """

    x: np.ndarray
    y: np.ndarray
    test: tuple[np.ndarray, np.ndarray] | None
    features: tuple[str, ...]
    targets: tuple[str, ...]
    levels: np.ndarray
    subject: str
    first_missing: str
    notes: tuple[str, ...]


def read_npz(path: Path) -> FileRows:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array alone, as np.save writes it")
        with loaded as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        hint = " Save text with np.array(labels, dtype=str)." if "Object arrays" in str(error) else ""
        raise ValueError(f"data: {path} cannot be read as .npz ({error}).{hint}") from None
    if not {"x", "y"} <= arrays.keys():
        raise ValueError(f"data: {path} must hold the arrays x and y, it holds {', '.join(sorted(arrays)) or 'none'}.")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"data: {path} must hold both of x_test and y_test, or neither.")
    names = [name for name in ("x", "y", "x_test", "y_test") if name in arrays]
    x, y, *test = (_as_rows(path, name, arrays[name]) for name in names)
    for prefix, pair in ("", (x, y)), ("_test", tuple(test)):
        if pair and len(pair[0]) != len(pair[1]):
            raise ValueError(
                f"data: {path}: {len(pair[0])} rows of x{prefix} but {len(pair[1])} of y{prefix} (shapes "
                f"{pair[0].shape} and {pair[1].shape})."
            )
    for name, array, held_out in zip("xy", (x, y), test):
        if array.shape[1:] != held_out.shape[1:] or array.dtype != held_out.dtype:
            raise ValueError(
                f"data: {path}: {name} has rows of shape {array.shape[1:]} but {name}_test {held_out.shape[1:]} "
                f"({arrays[name].dtype} and {arrays[name + '_test'].dtype})."
            )
    gaps = [(name, gap) for name, array in zip(names, (x, y, *test)) if len(gap := np.argwhere(is_missing(array)))]
    first = f"{gaps[0][0]}[{', '.join(map(str, gaps[0][1][0]))}] is missing or not finite" if gaps else ""
    pair = (test[0], test[1]) if test else None
    return FileRows(x, y, pair, (), (), np.zeros(x.shape[1:], bool), "y", first, ())


def _as_rows(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """float64, or text for targets; targets of shape (n, 1) as (n,)."""
    is_x = name.startswith("x")
    if array.dtype.kind not in "fiub" and (is_x or array.dtype.kind not in "US"):
        wanted = "real numbers" if is_x else "real numbers or text"
        raise ValueError(f"data: {path}: {name} must hold {wanted}, got dtype {array.dtype}.")
    if array.ndim == 0 or (is_x and array.ndim < 2) or array.size == 0:
        wanted = "(rows, features) or (rows, height, width, channels)" if is_x else "(rows,) or (rows, values)"
        raise ValueError(f"data: {path}: {name} has shape {array.shape}, wanted {wanted} with at least one row.")
    if not is_x and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "US" or (array.dtype.kind == "b" and not is_x):
        if array.ndim > 1:
            raise ValueError(f"data: {path}: {name} has shape {array.shape}; text must be one label per row.")
        return np.char.strip(array.astype(str)).astype(object)
    array = np.where(np.isfinite(array), array.astype(np.float64), np.nan)
    return array.reshape(len(array), *(array.shape[1:] if is_x or array.ndim == 1 else (-1,)))


def read_table(
    path: Path,
    targets: Sequence[str | int],
    task: str | None,
    drop: Sequence[str | int],
    header: bool | None,
    delimiter: str | None,
) -> FileRows:
    as_text = targets if task == "classification" and len(targets) == 1 else ()
    try:
        table = _table.read(path, header=header, delimiter=delimiter, text=[*as_text, *drop])
    except _table.OddCell as odd:
        raise _about_odd_cell(path, odd, targets, drop) from None
    features, wanted, left_out = _chosen(path, table, targets, drop)
    if wide := [column for column in features if column.is_text and _is_wide(column)]:
        counts = ", ".join(f"{column.title} holds {len(_levels(column))} different texts" for column in wide)
        raise Question(
            f"data: {path}: {counts}, such as {_levels(wide[0])[0]!r}, too many to become a column each (at most "
            f"{MOST_LEVELS}, with two rows or more for each). Leave out?",
            [{"drop": [*drop, *(_table.reference(column.number, table.names) for column in wide)]}],
        )
    encoded = [_encoded(column) for column in features]
    y = wanted[0].values if len(wanted) == 1 else np.stack([column.values for column in wanted], axis=1)
    texts = [column for column in wanted if column.is_text]
    if texts and (task == "regression" or len(wanted) > 1):
        cell, line = next(pair for pair in zip(texts[0].values, table.lines) if not _table.is_number(pair[0] or "0"))
        raise ValueError(
            f"data: {path}, line {line}, {texts[0].title}: the target {cell!r} is not a number, as the targets of a "
            f"regression must be. Name another column, or one alone for classes."
        )
    gaps = [(column.missing, column.title) for column in (*features, *wanted) if column.missing]
    first_missing = ""
    if gaps:
        (line, text), title = min(gaps)
        first_missing = f"line {line}, {title}: the cell {f'holds {text!r}' if text else 'is empty'}"
    return FileRows(
        x=np.concatenate([array for array, _ in encoded], axis=1),
        y=y,
        test=None,
        features=tuple(name for _, names in encoded for name in names),
        targets=tuple(column.name or str(column.number) for column in wanted),
        levels=np.repeat([column.is_text for column in features], [len(names) for _, names in encoded]),
        subject=f"the target, {' and '.join(column.title for column in wanted)},",
        first_missing=first_missing,
        notes=(*table.notes, *left_out, *(_text_note(column) for column in features if column.is_text)),
    )


def _about_odd_cell(
    path: Path, odd: _table.OddCell, targets: Sequence[str | int], drop: Sequence[str | int]
) -> Question:
    if odd.number in {_table.number_of(target, odd.names, path) for target in targets}:
        return Question(f"{odd} Are the targets labels? If not, mend the cell.", [{"task": "classification"}])
    answer = {"drop": [*drop, _table.reference(odd.number, odd.names)]}
    return Question(f"{odd} Mend the cell, or leave out the column.", [answer])


def _chosen(
    path: Path, table: _table.Table, targets: Sequence[str | int], drop: Sequence[str | int]
) -> tuple[list[_table.Column], list[_table.Column], list[str]]:
    """The features, the targets, and in words what is left out."""
    names = table.names
    dropped = {_table.number_of(reference, names, path) for reference in drop}
    named = {_table.number_of(reference, names, path) for reference in targets if str(reference) != "-1"}
    kept, notes = [], []
    for column in table.columns:
        reason = "as asked for" if column.number in dropped else _why_no_feature(column, any(names))
        if reason and column.number not in named - dropped:
            notes.append(f"{column.title} left out, {reason}")
        else:
            kept.append(column)
    if kept and any(str(reference) == "-1" for reference in targets):  # the last that holds anything
        named.add(kept[-1].number)
    wanted = [column for column in kept if column.number in named]
    features = [column for column in kept if column.number not in named]
    if not features or len(wanted) < len(named):
        left = ", ".join(column.title for column in kept) or "nothing"
        raise ValueError(f"data: {path}: features and a target are wanted, but what is not left out is {left}.")
    return features, wanted, notes


def _encoded(column: _table.Column) -> tuple[np.ndarray, list[str]]:
    """(n, k) numbers and their names: the column itself, or a column of 0 and 1 for each of its texts."""
    if not column.is_text:
        return column.values[:, None], [column.name or str(column.number)]
    texts = _levels(column)
    ones = column.values[:, None] == np.array(texts, dtype=object)[None, :]
    return np.where(column.values[:, None] == "", np.nan, ones), [f"{column.name or column.number}={t}" for t in texts]


def _text_note(column: _table.Column) -> str:
    return f"{column.title} is text: a column of 0 and 1 each for {shortened(_levels(column))}"


def _why_no_feature(column: _table.Column, named: bool) -> str:
    """Why a column is no use: nothing in it, or the row numbers that pandas and R write before the first column."""
    empty = (column.values == "").all() if column.is_text else np.isnan(column.values).all()
    if empty:
        return "since it is empty"
    if named and column.number == 1 and column.name in ("", "Unnamed: 0") and not column.is_text:
        first = column.values[0]
        if first in (0, 1) and np.array_equal(column.values, np.arange(first, first + len(column.values))):
            return "since it only counts the rows"
    return ""


def _levels(column: _table.Column) -> list[str]:
    return sorted(set(column.values) - {""})


def _is_wide(column: _table.Column) -> bool:
    levels = len(_levels(column))
    return levels > MOST_LEVELS or 2 * levels > len(column.values)


def is_missing(array: np.ndarray) -> np.ndarray:
    return np.equal(array, "").astype(bool) if array.dtype == object else np.isnan(array)
