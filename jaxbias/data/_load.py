"""The user's own rows, from a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxbias.data._read import read_npz, read_table
from jaxbias.data._rows import Data
from jaxbias.data._targets import MISSING, TASKS, filled, read_targets, scale_note, scaling_of, stored, without_missing

SUFFIXES = (".csv", ".tsv", ".txt", ".data")
"""Of tables; each may be followed by .gz."""


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
        raise ValueError(f"data: there is no file {path}. Give digits, text, or the path of a .csv, .tsv or .npz file.")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".npz":
        if target is not None or drop or header is not None or delimiter is not None:
            raise ValueError(f"data: {path} has no columns to name: target, drop, header and delimiter are for tables.")
        rows = read_npz(path)
    elif suffix in SUFFIXES:
        targets = [-1] if target is None else [target] if isinstance(target, str | int) else list(target)
        rows = read_table(path, targets, task, drop, header, delimiter)
    else:
        raise ValueError(
            f"data: {path} has suffix {suffix!r}, wanted .npz, or a table: {', '.join(SUFFIXES)}, perhaps with .gz."
        )
    rows = without_missing(path, rows, missing)
    count = len(rows.x)
    held_out = 0 if rows.test else round(count * test_share)
    if rows.test is None and not 0 < held_out < count:
        raise ValueError(f"data: {path} has {count} rows, too few to hold out {test_share:.0%} for testing. Add rows.")
    every = rows.y if rows.test is None else np.concatenate([rows.y, rows.test[1]])
    every, labels, reason = read_targets(path, rows, every, task)
    if rows.test is None:
        order = np.random.RandomState(seed).permutation(count)
        train, test = order[held_out:], order[:held_out]
        x, y, x_test, y_test = rows.x[train], every[train], rows.x[test], every[test]
    else:
        x, y, x_test, y_test = rows.x, every[:count], rows.test[0], every[count:]
    x, x_test = filled(x, x_test)
    x_scaling = scaling_of(x, rows.levels) if scale else None
    y_scaling = scaling_of(y, np.zeros(y.shape[1:], bool)) if scale and not labels else None
    chosen = "classification" if labels else "regression"
    notes = [f"{chosen}, {'as asked for' if task else 'since ' + reason}", *rows.notes]
    if x_scaling is not None:
        notes.append(scale_note(x, rows.levels, y_scaling))
    return Data(
        name=path.name,
        x_train=stored(path, x, x_scaling),
        y_train=stored(path, y, y_scaling),
        x_test=stored(path, x_test, x_scaling),
        y_test=stored(path, y_test, y_scaling),
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
