"""What becomes of missing values, whether targets are classes or values, and their scale."""

from pathlib import Path

import numpy as np

from jaxbias.data import _table
from jaxbias.data._read import FileRows, is_missing
from jaxbias.data._rows import Question, Scaling

TASKS = ("classification", "regression")
MISSING = ("drop", "mean")
MOST_GUESSED_CLASSES = 20
"""Whole numbers are taken for classes, unasked, up to this many of them."""


def _has_missing(array: np.ndarray) -> np.ndarray:
    """Which rows."""
    return np.any(is_missing(array).reshape(len(array), -1), axis=1)


def without_missing(path: Path, rows: FileRows, missing: str | None) -> FileRows:
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


def _guess(path: Path, rows: FileRows, y: np.ndarray) -> tuple[str, str]:
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


def read_targets(
    path: Path, rows: FileRows, y: np.ndarray, task: str | None
) -> tuple[np.ndarray, tuple[str, ...], str]:
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


def filled(x: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With the mean of the training rows in the place of every NaN."""
    known = ~np.isnan(x)
    total, count = np.where(known, x, 0).sum(axis=0), known.sum(axis=0)
    mean = np.broadcast_to(total / np.maximum(count, 1), (1, *x.shape[1:]))
    return np.where(known, x, mean), np.where(np.isnan(x_test), mean, x_test)


def scaling_of(train: np.ndarray, unscaled: np.ndarray) -> Scaling:
    constant = train.max(axis=0) == train.min(axis=0)
    mean = np.where(constant, train[0], train.mean(axis=0))
    return Scaling(np.where(unscaled, 0, mean), np.where(unscaled | constant, 1, train.std(axis=0)))


def scale_note(train: np.ndarray, unscaled: np.ndarray, y_scaling: Scaling | None) -> str:
    names = [*([] if unscaled.all() else ["features"]), *([] if y_scaling is None else ["targets"])]
    constant = int(((train.max(axis=0) == train.min(axis=0)) & ~unscaled).sum())
    return f"{' and '.join(names) or 'nothing'} standardised by the training rows" + (
        f"; {constant} features are constant" if constant else ""
    )


def stored(path: Path, array: np.ndarray, scaling: Scaling | None) -> np.ndarray:
    if array.dtype.kind == "i":
        return array.astype(np.int32)
    if scaling is not None:
        array = (array - scaling.mean) / scaling.std
    if array.size and np.abs(array).max() > np.finfo(np.float32).max:
        raise ValueError(f"data: {path} holds {np.abs(array).max():.3g}, too large for float32. Rescale the column.")
    return array.astype(np.float32)
