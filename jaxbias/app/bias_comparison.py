"""What each kind of bias is worth: a network trained with all of them, and with one kind after another left out.

A bias that stays at 0, where it starts, is not there: nothing else of the network changes. With and without it training
starts from the same weights and sees the same rows, so a difference is taken seed by seed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table
from scipy.special import stdtrit

from jaxbias._trees import path_name
from jaxbias.app.task import Task
from jaxbias.leaves import is_bias, named_parameters, with_frozen
from jaxbias.params import Layer, Tree, map_layers
from jaxbias.train import Sweep, SweepProgress, sweep

ALL, NONE = "(all biases)", "all"
MEASURES = {
    "validation_bits": "bits per held-out character",
    "validation_accuracy": "test accuracy",
    "validation_loss": "test loss",
}
"""Result of a sweep → its words; the first that a task has is shown."""


def kinds(network: Layer, params: Tree) -> dict[str, list[str]]:
    """Kind of bias, such as "dense" or "attention key" → paths of its leaves, in the order of the forward pass."""
    names: dict[str, str] = {}

    def note(layer: Layer, path: tuple[str, ...]) -> Layer:
        names[".".join(path)] = layer.name
        return layer

    map_layers(note, network)
    by_kind: dict[str, list[str]] = {}
    for path in filter(is_bias, named_parameters(params)):
        layer = max((place for place in names if f"{path}.".startswith(f"{place}." if place else "")), key=len)
        inside = path.removeprefix(layer).strip(".").split(".")[:-1]
        by_kind.setdefault(" ".join([names[layer], *inside]), []).append(path)
    return by_kind


def check(task: Task) -> None:
    """Raise a ValueError where there is no bias to leave out."""
    if not kinds(task.network, task.params):
        raise ValueError(f"compare-biases: {task.words['network']!r} has no bias. Leave --no-bias out.")


def without(task: Task) -> tuple[list[str], Callable[..., optax.GradientTransformation]]:
    """What is left out, case by case, and the optimizer of a case, which leaves these leaves as they are."""
    by_kind = kinds(task.network, task.params)
    left_out = {ALL: [], **by_kind, NONE: [path for paths in by_kind.values() for path in paths]}
    if len(by_kind) == 1:
        del left_out[NONE]
    optimizer = task.optimizer if task.trainable is None else with_frozen(task.optimizer, task.trainable)

    def of_case(case: jax.Array) -> optax.GradientTransformation:
        def kept(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            cases = [i for i, paths in enumerate(left_out.values()) if path_name(path) in paths]
            is_left_out = jnp.isin(case, jnp.asarray(cases, case.dtype))
            return jnp.where(is_left_out, jnp.zeros_like(leaf), leaf) if cases else leaf

        keep = optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(kept, updates))
        return optax.chain(optimizer, keep)

    return list(left_out), of_case


def run(task: Task, seeds: int, progress: Callable[[SweepProgress], None] | None = None) -> Table:
    """Train every case from every seed; each case, what it reaches, and how far that is from all biases."""
    names, optimizer = without(task)
    data = task.data
    result = sweep(
        task.network, task.loss, (data.x_train, task.targets[0]), optimizer, keys=jax.random.split(task.key, seeds),
        use_bias=(True,), hyper={"case": range(len(names))}, epochs=task.epochs, batch_size=task.batch_size,
        validation=(data.x_test, task.targets[1]), metrics=task.metrics, progress=progress,
    )  # fmt: skip
    return table(names, result)


def table(names: Sequence[str], result: Sweep) -> Table:
    """The cases in rows; ± is half a 95 % interval of the mean over seeds, by Student's t."""
    measure = next(name for name in MEASURES if name in result.results)
    values = result.final(measure)[0, 0]  # (cases, seeds)
    seeds = values.shape[1]
    shown = Table("left out", MEASURES[measure], "change", title=f"With and without each kind of bias, {seeds} seeds")
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, of_case in zip(names, values):
        differences = (of_case - values[0]).astype(np.float64)
        change = "" if name == ALL else f"{differences.mean():+.4f}"
        if change and seeds > 1:
            change += f" ± {stdtrit(seeds - 1, 0.975) * differences.std(ddof=1) / np.sqrt(seeds):.4f}"
        shown.add_row(name, f"{of_case.mean():.4f}", change)
    return shown
