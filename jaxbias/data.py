"""Data sets: scikit-learn's embedded 8×8 digits, and the user's own `.npz` and `.csv` files."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS_TEST_ROWS = 360


class Data(NamedTuple):
    """Rows for training and rows held out.

    Attributes:
        name: for tables.
        x_train, x_test: float32, (n, ...).
        y_train, y_test: int32 classes (n,) from 0, or float32 values (n, k).
        classes: how many classes there are; None where the targets are values.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int | None


def digits(*, images: bool = False) -> Data:
    """1437 training and 360 test rows of the 8×8 digits (UCI, 1998), in a fixed random split, scaled to [0, 1].

    Args:
        images: rows of shape (8, 8, 1) in the place of (64,).

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
    x = (x[order] / 16).astype(np.float32).reshape(-1, *((8, 8, 1) if images else (64,)))
    y = y[order].astype(np.int32)
    return Data(
        "digits", x[:-DIGITS_TEST_ROWS], y[:-DIGITS_TEST_ROWS], x[-DIGITS_TEST_ROWS:], y[-DIGITS_TEST_ROWS:], 10
    )


def load(path: str | Path, *, test_share: float = 0.2, seed: int = 0) -> Data:
    """The user's own rows.

    `.npz` holds the arrays `x` and `y`, and may hold `x_test` and `y_test`. `.csv` holds one row per example, comma
    separated, the target in the last column, with or without a line of column names. Targets that are all whole
    numbers from 0 are classes, others are values. Without test arrays, `test_share` of the rows is held out at random.

    Raises:
        ValueError: no such file, another suffix, a missing array, a cell that is no number, rows of different
            lengths, NaN or infinity, another number of rows in x than in y, or too few rows to hold any out.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data: there is no file {path}. Give digits, or the path of an .npz or .csv file.")
    if path.suffix not in (".npz", ".csv"):
        raise ValueError(f"data: {path} has suffix {path.suffix!r}, wanted .npz or .csv.")
    found = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    x, y, *test = (_checked(path, name, array) for name, array in found.items())
    _check_rows(path, x, y)
    if test:
        _check_rows(path, *test)
        if x.shape[1:] != test[0].shape[1:]:
            raise ValueError(f"data: {path}: x has rows of shape {x.shape[1:]} but x_test {test[0].shape[1:]}.")
        x_test, y_test = test
    else:
        held_out = round(len(x) * test_share)
        if not 0 < held_out < len(x):
            raise ValueError(
                f"data: {path} has {len(x)} rows, too few to hold out {test_share:.0%} for testing. Add rows."
            )
        order = np.random.RandomState(seed).permutation(len(x))
        x, y = x[order], y[order]
        x, x_test, y, y_test = x[held_out:], x[:held_out], y[held_out:], y[:held_out]
    every = np.concatenate([y, y_test])
    if every.ndim == 1 and (every == np.floor(every)).all() and every.min() >= 0:
        targets, classes = (y.astype(np.int32), y_test.astype(np.int32)), int(every.max()) + 1
    else:
        targets, classes = tuple(each.astype(np.float32).reshape(len(each), -1) for each in (y, y_test)), None
    return Data(path.name, x.astype(np.float32), targets[0], x_test.astype(np.float32), targets[1], classes)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"data: {path} cannot be read as .npz ({error}).") from None
    if not {"x", "y"} <= arrays.keys():
        raise ValueError(f"data: {path} must hold the arrays x and y, it holds {', '.join(sorted(arrays)) or 'none'}.")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"data: {path} must hold both of x_test and y_test, or neither.")
    return {name: arrays[name] for name in ("x", "y", "x_test", "y_test") if name in arrays}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, line) for number, line in enumerate(csv.reader(file), start=1) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"data: {path} cannot be read as .csv ({error}).") from None
    if lines and not any(_is_number(cell) for cell in lines[0][1]):
        lines = lines[1:]  # column names
    if not lines:
        raise ValueError(f"data: {path} holds no rows.")
    width = len(lines[0][1])
    if width < 2:
        raise ValueError(f"data: {path} has {width} column, wanted features and, in the last column, the target.")
    for number, line in lines:
        if len(line) != width:
            raise ValueError(f"data: {path}, line {number}: {len(line)} cells, wanted {width} as in the first row.")
        for column, cell in enumerate(line, start=1):
            if not _is_number(cell):
                raise ValueError(f"data: {path}, line {number}, column {column}: {cell!r} is not a number.")
    table = np.array([[float(cell) for cell in line] for _, line in lines])
    return {"x": table[:, :-1], "y": table[:, -1]}


def _checked(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"data: {path}: {name} must hold real numbers, got dtype {array.dtype}.")
    if array.ndim == 0 or (name.startswith("x") and array.ndim < 2) or len(array) == 0:
        wanted = "(rows, features) or (rows, height, width, channels)" if name.startswith("x") else "(rows,)"
        raise ValueError(f"data: {path}: {name} has shape {array.shape}, wanted {wanted} with at least one row.")
    array = array.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(
            f"data: {path}: {name} holds {int(bad.sum())} values that are NaN or infinite, the first in row "
            f"{int(np.argwhere(bad)[0][0])} (counted from 0). Drop or fill those rows first."
        )
    return array


def _check_rows(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise ValueError(f"data: {path}: {len(x)} rows of x but {len(y)} of y (shapes {x.shape} and {y.shape}).")
