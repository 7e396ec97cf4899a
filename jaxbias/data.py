"""Data sets: scikit-learn's embedded 8×8 digits, and the user's own tables and arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxbias import _table

DIGITS_TEST_ROWS = 360
TASKS = ("classification", "regression")
MISSING = ("drop", "mean")
SUFFIXES = (".csv", ".tsv", ".txt", ".data")
"""Of tables; each may be followed by .gz."""
MOST_GUESSED_CLASSES = 20
"""Whole numbers are taken for classes, unasked, up to this many of them."""
MOST_LEVELS = 20
"""A column of text becomes one column for each of its different texts, up to this many."""


class Question(ValueError):
    """What a file does not say by itself.

    Attributes:
        question: in words.
        answers: each of them options of `load` that answer it.
    """

    def __init__(self, question: str, answers: Sequence[Mapping[str, Any]]):
        calls = [", ".join(f"{name}={value!r}" for name, value in answer.items()) for answer in answers]
        super().__init__(f"{question} Answer with {' or '.join(f'load(..., {call})' for call in calls)}.")
        self.question = question
        self.answers = answers


class Scaling(NamedTuple):
    """What was taken off and divided by, one entry per column: stored = (value - mean) / std."""

    mean: np.ndarray
    std: np.ndarray


class Data(NamedTuple):
    """Rows for training and rows held out.

    Attributes:
        name: for tables.
        x_train, x_test: float32, (n, ...).
        y_train, y_test: int32 classes (n,) from 0, or float32 values (n, k).
        classes: how many classes there are; None where the targets are values.
        labels: what each class is called in the file.
        features, targets: names of the columns; empty where the file gives none.
        x_scaling, y_scaling: by the training rows; None where the values are the file's.
        notes: what was guessed, left out or changed, and why.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int | None
    labels: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    x_scaling: Scaling | None = None
    y_scaling: Scaling | None = None
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return "regression" if self.classes is None else "classification"


Form = Literal["flat", "image", "sequence"]
"""What a network takes of a row of pixels."""

_DIGIT_SHAPES: dict[Form, tuple[int, ...]] = {"flat": (64,), "image": (8, 8, 1), "sequence": (8, 8)}


def digits(*, form: Form = "flat") -> Data:
    """1437 training and 360 test rows of the 8×8 digits (UCI, 1998), in a fixed random split, scaled to [0, 1].

    Args:
        form: "flat" for rows of shape (64,), "image" for (8, 8, 1), "sequence" for (8, 8): the lines of the image from
            top to bottom, each with 8 features.

    Raises:
        ModuleNotFoundError: scikit-learn, which holds the data, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "data.digits: the digits come with scikit-learn, which is not installed. Install jaxbias[cli]."
        ) from error
    x, y = load_digits(return_X_y=True)
    # RandomState, not default_rng: numpy promises that its stream never changes.
    order = np.random.RandomState(0).permutation(len(x))
    x = (x[order] / 16).astype(np.float32).reshape(-1, *_DIGIT_SHAPES[form])
    y = y[order].astype(np.int32)
    train, test = slice(-DIGITS_TEST_ROWS), slice(-DIGITS_TEST_ROWS, None)
    return Data("digits", x[train], y[train], x[test], y[test], 10, tuple("0123456789"))


class _Rows(NamedTuple):
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


def load(
    path: str | Path,
    *,
    target: str | int | Sequence[str | int] | None = None,
    task: str | None = None,
    missing: str | None = None,
    scale: bool = False,
    drop: Sequence[str | int] = (),
    header: bool | None = None,
    delimiter: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
) -> Data:
    """The user's own rows: a table (`.csv`, `.tsv`, `.txt`, `.data`, each plain or `.gz`) or arrays (`.npz`).

    A table holds one row per example and in its last column the target. Delimiter, names in the first line, decimal
    commas and encoding are found out; a column of text becomes one column of 0 and 1 for each of its (at most 20)
    different texts. `.npz` holds the arrays `x` and `y`, and may hold `x_test` and `y_test`.

    Which targets are classes: text; rows of 0 with one 1; whole numbers 0…k-1 or 1…k with k ≤ 20 and two rows or more
    for each. Which are values: fractions; several columns; whole numbers with gaps of which there are more than 20, or
    fewer than two rows for each. Anything else (-1 and 1, 3 to 8, 0 to 99) is asked about: `Question`.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "plants.csv"
        >>> lines = ["height;leaf;kind"] + [f"{i},5;{'round' if i % 3 else 'long'};{'ab'[i % 2]}" for i in range(10)]
        >>> _ = path.write_text("\\n".join(lines))
        >>> plants = load(path, scale=True)
        >>> plants.task, plants.labels, plants.features
        ('classification', ('a', 'b'), ('height', 'leaf=long', 'leaf=round'))
        >>> plants.x_train.shape, plants.x_test.shape
        ((8, 3), (2, 3))

    Args:
        path: of the file.
        target: name or number of the target's column, or several; columns count from 1, -1 is the last.
        task: "classification" or "regression".
        missing: what becomes of empty cells, NA, ?, NaN and infinity: "drop" leaves out their rows, "mean" puts the
            mean of the column's training rows there and leaves out rows without a target.
        scale: take the training rows' mean off every column of features, and of targets that are values, and divide by
            their standard deviation; columns that are constant become 0, columns made of text stay 0 and 1.
        drop: names or numbers of columns to leave out.
        header: whether the first line holds names.
        delimiter: between two cells.
        test_share: share of the rows held out, at random, where the file holds no test arrays.
        seed: of that choice.

    Raises:
        Question: classes or values? what of missing values? is this column a feature?
        ValueError: no such file or column, another suffix, a missing array, a cell that is no number, rows of different
            lengths, another number of rows in x than in y, an unknown option, or too few rows to hold any out.
    """
    path = Path(path)
    _check_choice("task", task, TASKS)
    _check_choice("missing", missing, MISSING)
    if not 0 < test_share < 1:
        raise ValueError(f"data: test_share must lie between 0 and 1, got {test_share}.")
    if not path.is_file():
        raise ValueError(f"data: there is no file {path}. Give digits, or the path of a .csv, .tsv or .npz file.")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".npz":
        if target is not None or drop or header is not None or delimiter is not None:
            raise ValueError(f"data: {path} has no columns to name: target, drop, header and delimiter are for tables.")
        rows = _read_npz(path)
    elif suffix in SUFFIXES:
        targets = [-1] if target is None else [target] if isinstance(target, str | int) else list(target)
        rows = _read_table(path, targets, task, drop, header, delimiter)
    else:
        raise ValueError(
            f"data: {path} has suffix {suffix!r}, wanted .npz, or a table: {', '.join(SUFFIXES)}, perhaps with .gz."
        )
    rows = _without_missing(path, rows, missing)
    count = len(rows.x)
    held_out = 0 if rows.test else round(count * test_share)
    if rows.test is None and not 0 < held_out < count:
        raise ValueError(f"data: {path} has {count} rows, too few to hold out {test_share:.0%} for testing. Add rows.")
    every = rows.y if rows.test is None else np.concatenate([rows.y, rows.test[1]])
    every, labels, reason = _targets(path, rows, every, task)
    if rows.test is None:
        order = np.random.RandomState(seed).permutation(count)
        train, test = order[held_out:], order[:held_out]
        x, y, x_test, y_test = rows.x[train], every[train], rows.x[test], every[test]
    else:
        x, y, x_test, y_test = rows.x, every[:count], rows.test[0], every[count:]
    x, x_test = _filled(x, x_test)
    x_scaling = _scaling(x, rows.levels) if scale else None
    y_scaling = _scaling(y, np.zeros(y.shape[1:], bool)) if scale and not labels else None
    chosen = "classification" if labels else "regression"
    notes = [f"{chosen}, {'as asked for' if task else 'since ' + reason}", *rows.notes]
    if x_scaling is not None:
        notes.append(_scale_note(x, rows.levels, y_scaling))
    return Data(
        name=path.name,
        x_train=_stored(path, x, x_scaling),
        y_train=_stored(path, y, y_scaling),
        x_test=_stored(path, x_test, x_scaling),
        y_test=_stored(path, y_test, y_scaling),
        classes=len(labels) or None,
        labels=labels,
        features=rows.features,
        targets=rows.targets,
        x_scaling=x_scaling,
        y_scaling=y_scaling,
        notes=tuple(notes),
    )


def _check_choice(name: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"data: {name} must be {' or '.join(known)}, got {value!r}.")


# --- files ------------------------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> _Rows:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
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
    gaps = [(name, gap) for name, array in zip(names, (x, y, *test)) if len(gap := np.argwhere(_is_missing(array)))]
    first = f"{gaps[0][0]}[{', '.join(map(str, gaps[0][1][0]))}] is missing or not finite" if gaps else ""
    pair = (test[0], test[1]) if test else None
    return _Rows(x, y, pair, (), (), np.zeros(x.shape[1:], bool), "y", first, ())


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


def _read_table(
    path: Path,
    targets: Sequence[str | int],
    task: str | None,
    drop: Sequence[str | int],
    header: bool | None,
    delimiter: str | None,
) -> _Rows:
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
    return _Rows(
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


def shortened(names: Sequence[str], most: int = 10) -> str:
    """The names, for people: all of a few, the first of many."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


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


# --- missing values, targets, scale -----------------------------------------------------------------------------------


def _is_missing(array: np.ndarray) -> np.ndarray:
    return np.equal(array, "").astype(bool) if array.dtype == object else np.isnan(array)


def _has_missing(array: np.ndarray) -> np.ndarray:
    """Which rows."""
    return np.any(_is_missing(array).reshape(len(array), -1), axis=1)


def _without_missing(path: Path, rows: _Rows, missing: str | None) -> _Rows:
    """The rows that stay; with `missing="mean"` their features may still hold NaN."""
    if not rows.first_missing:
        return rows
    pairs = [(rows.x, rows.y), *([rows.test] if rows.test else [])]
    affected = sum(int((_has_missing(x) | _has_missing(y)).sum()) for x, y in pairs)
    count = sum(len(x) for x, _ in pairs)
    if missing is None:
        no_target = any(_has_missing(y).any() for _, y in pairs)
        raise Question(
            f"data: {path}, {rows.first_missing}. {affected} of {count} rows have such a gap: leave these rows out, or "
            f"put the mean of the training rows there{' (rows without a target are left out)' if no_target else ''}?",
            [{"missing": choice} for choice in MISSING],
        )
    kept = []
    for x, y in pairs:
        keep = ~(_has_missing(y) | _has_missing(x)) if missing == "drop" else ~_has_missing(y)
        if not keep.any():
            raise ValueError(f"data: {path}: no row is left after leaving out those with missing values.")
        kept.append((x[keep], y[keep]))
    left_out = count - sum(len(x) for x, _ in kept)
    notes = [f"{left_out} of {count} rows left out, since values are missing"] if left_out else []
    if affected > left_out:
        notes.append(f"missing values in {affected - left_out} rows replaced by the mean of the training rows")
    return rows._replace(x=kept[0][0], y=kept[0][1], test=kept[1] if rows.test else None, notes=(*rows.notes, *notes))


def _is_one_hot(y: np.ndarray) -> bool:
    return y.ndim == 2 and bool((np.isin(y, (0, 1)).all(axis=1) & (y.sum(axis=1) == 1)).all())


def _guess(path: Path, rows: _Rows, y: np.ndarray) -> tuple[str, str]:
    """The task, and why; the rule stands in the docstring of `load`."""
    subject = f"{rows.subject} holds"
    if y.ndim == 2:
        if _is_one_hot(y):
            return "classification", f"each row of {rows.subject} is 0 with one 1"
        return "regression", f"{subject} {y.shape[1]} values per row"
    values = np.unique(y)
    count, sparse = len(values), len(y) < 2 * len(values)
    if y.dtype == object:
        if not sparse:
            return "classification", f"{subject} text"
        raise Question(
            f"data: {path}: {subject} {count} different texts, such as {values[0]!r}, in {len(y)} rows. Are they "
            f"classes, or is another column the target?",
            [{"task": "classification"}, *([{"target": "COLUMN"}] if rows.targets else [])],
        )
    if (values != np.floor(values)).any():
        return "regression", f"{subject} fractions"
    low, high = int(values[0]), int(values[-1])
    gapless = low in (0, 1) and high - low + 1 == count
    if gapless and count <= MOST_GUESSED_CLASSES and not sparse:
        return "classification", f"{subject} the whole numbers {low} to {high} without gaps"
    if not gapless and count > MOST_GUESSED_CLASSES:
        return "regression", f"{subject} {count} different whole numbers with gaps"
    if not gapless and sparse:
        return "regression", f"{subject} {count} different whole numbers in {len(y)} rows"
    shown = ", ".join(str(int(value)) for value in values[:3]) + (f", … {high}" if count > 3 else "")
    raise Question(
        f"data: {path}: {subject} {count} different whole numbers ({shown}) in {len(y)} rows: are they classes or "
        f"values?",
        [{"task": task} for task in TASKS],
    )


def _targets(path: Path, rows: _Rows, y: np.ndarray, task: str | None) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Classes from 0 with their labels, or values (n, k) without; and why the one or the other."""
    if len(y) and _distinct(y) == 1:
        raise Question(
            f"data: {path}: {rows.subject} holds {y.flat[0]} in every row, so there is nothing to tell apart. Which "
            f"{'column' if rows.targets else 'other array'} is the target?",
            [{"target": "COLUMN"}],
        )
    task, reason = (task, "") if task else _guess(path, rows, y)
    if task == "regression":
        if y.dtype == object:
            raise ValueError(f"data: {path}: {rows.subject} holds text, which is no regression.")
        return y.reshape(len(y), -1), (), reason
    if y.ndim == 2:
        if not _is_one_hot(y):
            raise ValueError(
                f"data: {path}: {rows.subject} has {y.shape[1]} values per row. Classes are one column, or rows of 0 "
                f"with one 1."
            )
        return y.argmax(axis=1), rows.targets or tuple(map(str, range(y.shape[1]))), reason
    if y.dtype == object and all(map(_table.is_number, y)):
        y = y.astype(np.float64)  # 1 and 1.0 are one class, and 9 comes before 10
    values, classes = np.unique(y, return_inverse=True)
    return classes, tuple(_label(value) for value in values.tolist()), reason


def _distinct(y: np.ndarray) -> int:
    return len(np.unique(y, axis=None if y.dtype == object else 0))


def _label(value: str | float) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _filled(x: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With the mean of the training rows in the place of every NaN."""
    known = ~np.isnan(x)
    total, count = np.where(known, x, 0).sum(axis=0), known.sum(axis=0)
    mean = np.broadcast_to(total / np.maximum(count, 1), (1, *x.shape[1:]))
    return np.where(known, x, mean), np.where(np.isnan(x_test), mean, x_test)


def _scaling(train: np.ndarray, unscaled: np.ndarray) -> Scaling:
    constant = train.max(axis=0) == train.min(axis=0)
    mean = np.where(constant, train[0], train.mean(axis=0))
    return Scaling(np.where(unscaled, 0, mean), np.where(unscaled | constant, 1, train.std(axis=0)))


def _scale_note(train: np.ndarray, unscaled: np.ndarray, y_scaling: Scaling | None) -> str:
    names = [*([] if unscaled.all() else ["features"]), *([] if y_scaling is None else ["targets"])]
    constant = int(((train.max(axis=0) == train.min(axis=0)) & ~unscaled).sum())
    return f"{' and '.join(names) or 'nothing'} standardised by the training rows" + (
        f"; {constant} features are constant" if constant else ""
    )


def _stored(path: Path, array: np.ndarray, scaling: Scaling | None) -> np.ndarray:
    if array.dtype.kind == "i":
        return array.astype(np.int32)
    if scaling is not None:
        array = (array - scaling.mean) / scaling.std
    if array.size and np.abs(array).max() > np.finfo(np.float32).max:
        raise ValueError(f"data: {path} holds {np.abs(array).max():.3g}, too large for float32. Rescale the column.")
    return array.astype(np.float32)
