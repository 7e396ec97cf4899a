"""What a data set is: rows to train on, rows held out, and what their numbers mean."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np


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
        x_train, x_test: float32, (n, ...); characters are int32, (n, context).
        y_train, y_test: int32 classes (n,) from 0, or (n, context), a class for each step; or float32 values (n, k).
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

    @property
    def per_step(self) -> bool:
        """Whether each step of a row has its class, as each character of a text has."""
        return self.classes is not None and self.y_train.ndim > 1


Form = Literal["flat", "image", "sequence"]
"""What a network takes of a row of pixels."""


def shortened(names: Sequence[str], most: int = 10) -> str:
    """The names, for people: all of a few, the first of many."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
