"""What a sweep returns: arrays with named axes, and the same as a tidy table."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxbias._files import check_writable, write
from jaxbias.params import Tree


@dataclass(frozen=True)
class Sweep:
    """Results of all members; each array has the axes of `axes`, in that order, before its own.

    Attributes:
        axes: axis name → its values: "init", "use_bias", each hyper-parameter, "seed".
        results: name → array. "loss" and each metric: (*axes, epochs), mean over the steps of an epoch; with
            validation data also "validation_loss" and "validation_<metric>": (*axes,), after the last epoch.
        diverged: (*axes,) whether any result of a member is not finite.
        params: final params with the axes before each leaf's own, or None unless they were asked for.
        resumed: members whose results were read from `directory`.
        compile_s: seconds spent tracing and compiling.
        train_s: seconds spent training, over all members.
    """

    axes: Mapping[str, Sequence[Any]]
    results: Mapping[str, np.ndarray]
    diverged: np.ndarray
    params: Tree
    resumed: int
    compile_s: float
    train_s: float

    def final(self, name: str) -> np.ndarray:
        """(*axes,) the result after the last epoch.

        Raises:
            KeyError: there is no such result.
        """
        if name not in self.results:
            raise KeyError(f"Sweep.final: there is no result {name!r}; there are {', '.join(self.results)}.")
        values = self.results[name]
        return values[..., -1] if values.ndim > len(self.axes) else values

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each member: its place on every axis, `diverged`, and its final results."""
        finals = {name: self.final(name) for name in self.results}
        names = list(self.axes)
        rows = []
        for place in np.ndindex(self.diverged.shape):
            row = {name: _plain(self.axes[name][i]) for name, i in zip(names, place)}
            row["diverged"] = bool(self.diverged[place])
            rows.append(row | {name: float(values[place]) for name, values in finals.items()})
        return rows

    def summary(self, name: str) -> list[dict[str, Any]]:
        """One dictionary for each combination but the seed: mean, standard deviation and 95 % interval of the mean.

        Diverged members are counted and left out of the statistics. The interval is mean ± t · sd / √n, with
        Student's t; it is NaN for fewer than two members.
        """
        values = self.final(name)
        names = [axis for axis in self.axes if axis != "seed"]  # the seed is the last axis
        table = []
        for place in np.ndindex(values.shape[:-1]):
            sound = np.asarray(values[place], np.float64)[~self.diverged[place]]
            n = sound.size
            mean = float(sound.mean()) if n else float("nan")
            deviation = float(sound.std(ddof=1)) if n > 1 else float("nan")
            half = _t95(n - 1) * deviation / np.sqrt(n) if n > 1 else float("nan")
            row = {axis: _plain(self.axes[axis][i]) for axis, i in zip(names, place)}
            table.append(
                row
                | {"n": n, "diverged": int(self.diverged[place].sum()), "mean": mean, "sd": deviation}
                | {"low": float(mean - half), "high": float(mean + half)}
            )
        return table

    def to_csv(self, path: str | Path) -> None:
        """Write `rows()`, whole or not at all.

        Raises:
            ValueError: the path cannot be written.
        """
        path, rows = check_writable(path, "Sweep.to_csv"), self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write(path, text.getvalue())

    def to_json(self, path: str | Path) -> None:
        """Write `rows()`, whole or not at all; a result that is not finite becomes null.

        Raises:
            ValueError: the path cannot be written.
        """
        path = check_writable(path, "Sweep.to_json")
        rows = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
            for row in self.rows()
        ]
        write(path, json.dumps(rows, indent=1))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _t95(degrees: int) -> float:
    """97.5 % point of Student's t."""
    from scipy.special import stdtrit  # JAX depends on scipy; imported here, since only the summary needs it

    return float(stdtrit(degrees, 0.975))
