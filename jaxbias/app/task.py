"""From the words of a command line to a call of `train.fit`: data, network, loss, optimizer and mask by name."""

import json
import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxbias import data as datasets
from jaxbias import losses, train
from jaxbias.app import language, spec
from jaxbias.app.choices import (
    check_known,
    loss_by_name,
    optimizer_by_name,
    optimizers,
    schedule_by_name,
    trainable_labels,
)
from jaxbias.params import Layer, Tree, init_state, out_shape
from jaxbias.train import _memory
from jaxbias.train._data import check_batch_size, check_count

LEARNING_RATE = 1e-3
BATCH_SIZE = 64
EPOCHS = 20
LEAST_STEPS = 400
"""Few rows make few steps per epoch: the default number of epochs gives at least this many in all."""

OF_TEXT = {"from", "context", "characters"}
"""Options of `read` for `data.text`; the others are of `data.load`."""


class Task(NamedTuple):
    """Everything `train.fit` needs.

    Attributes:
        targets: of the training and of the held-out rows, in the form that the loss takes.
        words: what was chosen, for the user: network, batch, epochs, loss, optimizer.
    """

    data: datasets.Data
    network: Layer
    loss: losses.ConfiguredLoss
    targets: tuple[np.ndarray, np.ndarray]
    metrics: dict[str, Callable[..., Array]]
    params: Tree
    trainable: Tree
    optimizer: optax.GradientTransformation
    epochs: int
    batch_size: int
    key: Array
    words: dict[str, str]


# --- data -------------------------------------------------------------------------------------------------------------


def read(
    path: str, options: Mapping[str, Any], *, form: datasets.Form = "flat", command: str = "train"
) -> datasets.Data:
    """The digits, text as characters, or the rows of a file.

    Args:
        form: of the digits' rows.
        options: of `data.text`, its path as "from", or of `data.load`; those that are None, or empty, are left to them.
            Tables are standardised unless they say otherwise: columns in different units train badly.
        command: that the answers to a question are commands of.

    Raises:
        ValueError: whatever is wrong with the file; a question is put with the commands that answer it.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None and value != []}
    if path == "digits":
        if given:
            raise ValueError(f"data: digits take no --{next(iter(given))}: that is for other data.")
        return datasets.digits(form=form)
    if path == "text":
        if wrong := sorted(given.keys() - OF_TEXT):
            raise ValueError(f"data: text takes no --{wrong[0]}: that is for tables and arrays.")
        return datasets.text(given.pop("from", None), **given)
    if wrong := sorted(given.keys() & OF_TEXT):
        raise ValueError(f"data: --{wrong[0]} is for text: jaxbias {command} text --from {shlex.quote(path)}.")
    try:
        scale = given.get("scale", not path.endswith(".npz"))
        return datasets.load(path, **{**given, "scale": scale})
    except datasets.Question as question:
        commands = [
            f"jaxbias {command} {shlex.quote(path)}{_flags({**given, **answer})}" for answer in question.answers
        ]
        raise ValueError(f"{question.question} {' or '.join(commands)}") from None


def _flags(options: Mapping[str, Any]) -> str:
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{name} {shlex.quote(str(entry))}" for entry in values]
    return "".join(" " + word for word in words)


def default_network(data: datasets.Data, outputs: int) -> str:
    """One hidden layer; of characters two transformer blocks."""
    if data.per_step:
        return language.default_network(outputs)
    return ("flatten," if data.x_train.ndim > 2 else "") + f"dense:128,relu,dense:{outputs}"


def default_batch_size(rows: int, largest: int = BATCH_SIZE) -> int:
    """The largest; with few rows a smaller one, so that next to none of them sit out an epoch."""
    return largest if rows >= 16 * largest else rows // math.ceil(rows / largest)


def _for_loss(data: datasets.Data, loss: losses.ConfiguredLoss) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """The targets in the form that the loss takes, and how many outputs belong to them."""
    targets = data.y_train, data.y_test
    if data.classes is None:
        per_target = 2 if loss.name == "gaussian_nll" else 1  # a mean, and then a log variance
        return targets, per_target * data.y_train.shape[1]
    if loss.name != "binary_cross_entropy":
        return targets, data.classes
    if data.classes == 2:  # one output: the log-odds of the second class
        return (data.y_train[:, None].astype(np.float32), data.y_test[:, None].astype(np.float32)), 1
    one_hot = np.eye(data.classes, dtype=np.float32)
    return (one_hot[data.y_train], one_hot[data.y_test]), data.classes


def _accuracy(out: Array, targets: Array) -> Array:
    if out.shape[-1] > 1:
        return train.accuracy(out, targets)
    return ((out > 0) == (targets > 0.5)).mean(dtype=jnp.float32)


def _squared_error(column: int, unit: float) -> Callable[[Array, Array], Array]:
    """Mean over rows, in the squared unit of the file's column."""
    return lambda out, targets: ((out[:, column] - targets[:, column]) ** 2).mean(dtype=jnp.float32) * unit**2


def _metrics(data: datasets.Data) -> dict[str, Callable[..., Array]]:
    if data.per_step:
        return {"accuracy": _accuracy, "bits": language.bits}
    if data.classes is not None:
        return {"accuracy": _accuracy}
    units = np.ones(data.y_train.shape[1]) if data.y_scaling is None else data.y_scaling.std
    return {f"squared_error_{i}": _squared_error(i, float(unit)) for i, unit in enumerate(units)}


def prepare(
    data: str,
    network: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    loss: str | None = None,
    optimizer: str = "adam",
    learning_rate: float = LEARNING_RATE,
    schedule: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    use_bias: bool = True,
    bias_only: bool = False,
    freeze: Sequence[str] = (),
    command: str = "train",
) -> Task:
    """Read the data, build and check everything.

    Args:
        options, command: see `read`.

    Raises:
        ValueError: whatever is wrong with one of the words, and an output that does not fit the targets.
    """
    check_known("optimizer", spec.call(optimizer)[0], optimizers(), "optax")  # before the data are read
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning rate: must be a positive number, got {learning_rate}.")
    if data == "text":  # how many characters there are is part of the network
        rows = read(data, options or {}, command=command)
        built = None if network is None else spec.parse(network, use_bias=use_bias, vocabulary=rows.classes)
    else:
        built = None if network is None else spec.parse(network, use_bias=use_bias)
        form = "flat" if built is None else spec.form_of_rows(built)
        rows = read(data, options or {}, form=form, command=command)
    chosen_loss = loss_by_name(loss, rows)
    targets, outputs = _for_loss(rows, chosen_loss)
    if built is None:
        network = default_network(rows, outputs)
        built = spec.parse(network, use_bias=use_bias, vocabulary=rows.classes)

    init_key, fit_key = jax.random.split(jax.random.key(seed))
    x = jnp.asarray(rows.x_train[:1])
    try:
        shapes = jax.eval_shape(built.init, init_key, x)
        out = out_shape(built, shapes, x, init_state(built, init_key, x)).shape
    except (ValueError, TypeError) as error:
        raise ValueError(f"network: {network!r} does not fit rows of shape {x.shape[1:]}: {error}") from None
    wanted = (*(rows.y_train.shape[1:] if rows.per_step else ()), outputs)
    if out != (1, *wanted):
        meaning = (
            f"the {rows.classes} classes" if rows.classes else f"the {outputs} values per row of {chosen_loss.name}"
        )
        meaning += f" at each of {wanted[0]} steps" if rows.per_step else ""
        raise ValueError(
            f"network: {network!r} gives rows of shape {out[1:]}, but {rows.name} needs {wanted} for {meaning}. "
            f"End it with dense:{outputs}."
        )
    _memory.require(
        _memory.size(shapes),
        jax.devices()[0],
        f"network: the params of {network!r} need",
        "Take fewer units or channels.",
    )
    params = built.init(init_key, x)
    if rows.per_step:
        language.check_causal(built, params, rows.x_train[:1], outputs, str(network))
    labels = trainable_labels(params, bias_only=bias_only, freeze=freeze) if bias_only or freeze else None

    if batch_size is None:
        batch_size = default_batch_size(len(rows.x_train), language.BATCH_SIZE if rows.per_step else BATCH_SIZE)
    check_batch_size(batch_size, len(rows.x_train))
    per_epoch = len(rows.x_train) // batch_size
    if epochs is None:
        epochs = language.EPOCHS if rows.per_step else max(EPOCHS, math.ceil(LEAST_STEPS / per_epoch))
    check_count(epochs, "epochs")
    rate = schedule_by_name(schedule, learning_rate, epochs * per_epoch) if schedule else learning_rate
    words = {
        "network": str(network),
        "loss": loss or chosen_loss.name,
        "optimizer": f"{optimizer}, learning rate {learning_rate:g}" + (f", schedule {schedule}" if schedule else ""),
        "steps": " of ".join([counted(epochs, "epoch"), counted(per_epoch, "step"), counted(batch_size, "row")]),
    }
    return Task(
        rows, built, chosen_loss, targets, _metrics(rows), params, labels, optimizer_by_name(optimizer, rate, params),
        epochs, batch_size, fit_key, words,
    )  # fmt: skip


def run(
    task: Task,
    *,
    checkpoint: str | Path | None = None,
    progress: Callable[[train.Progress], None] | None = None,
) -> train.Fit:
    """Call `train.fit`, with the held-out rows as validation data."""
    (y_train, y_test), data = task.targets, task.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # divergence: `Fit.diverged` says it
        return train.fit(
            task.network, task.loss, task.params, (data.x_train, y_train), task.optimizer, epochs=task.epochs,
            batch_size=task.batch_size, key=task.key, validation=(data.x_test, y_test), checkpoint=checkpoint,
            progress=progress, trainable=task.trainable, metrics=task.metrics,
        )  # fmt: skip


# --- words ------------------------------------------------------------------------------------------------------------


def counted(number: int, noun: str) -> str:
    """1 epoch, 2 epochs."""
    return f"{number} {noun}" + "s" * (number != 1)


def describe(task: Task) -> list[str]:
    """What was read and chosen, one line each."""
    data, shape = task.data, "×".join(map(str, task.data.x_train.shape[1:]))
    things = "characters" if data.per_step else "features"
    size = f"{data.name}: {len(data.x_train)} rows to train, {len(data.x_test)} held out, {shape} {things}"
    if data.per_step:
        size += f", {data.classes} different ones"
    elif data.classes is not None:
        size += f", {data.classes} classes: {datasets.shortened(data.labels)}"
    elif data.targets:
        size += f", target {datasets.shortened(data.targets)}"
    return [size, *(f"  {note}" for note in data.notes), *(f"  {name}: {word}" for name, word in task.words.items())]


def measured(task: Task, latest: Mapping[str, float]) -> str:
    """The last epoch in one line: losses, and metrics of the held-out rows beside what a constant answer reaches."""
    data, lines = task.data, [brief(latest)]
    if data.classes is not None:
        frequent = np.bincount(data.y_train.reshape(-1)).argmax()
        accuracy, alone = latest["validation_accuracy"], (data.y_test == frequent).mean()
        label = repr(data.labels[frequent]) if data.per_step else data.labels[frequent]
        lines += [language.measured(data, latest["validation_bits"])] if data.per_step else []
        return f"{', '.join(lines)}, test accuracy {accuracy:.4f} (always {label}: {alone:.4f})"
    unit = 1.0 if data.y_scaling is None else data.y_scaling.std
    y_train, y_test = data.y_train * unit, data.y_test * unit
    for i in range(y_test.shape[1]):
        error = latest[f"validation_squared_error_{i}"]
        alone, variance = ((y_test[:, i] - y_train[:, i].mean()) ** 2).mean(), y_test[:, i].var()
        name = f" of {data.targets[i]}" if data.targets else f" {i}" if y_test.shape[1] > 1 else ""
        lines.append(f"test RMSE{name} {error**0.5:.4g} (always the mean: {alone**0.5:.4g})")
        lines.append(f"R² {1 - error / variance:.4f}" if variance else "R² undefined")
    return ", ".join(lines)


def brief(latest: Mapping[str, float]) -> str:
    """The last epoch beside a progress bar."""
    return f"loss {latest['loss']:.4f}, test loss {latest['validation_loss']:.4f}"


def metadata(task: Task) -> dict[str, str]:
    """What a reader of the saved params needs to use them, as JSON."""
    data = task.data
    entries = {"network": task.words["network"], "task": data.task, "labels": data.labels, "features": data.features,
               "targets": data.targets}  # fmt: skip
    for name, scaling in ("x", data.x_scaling), ("y", data.y_scaling):
        if scaling is not None:
            entries |= {f"{name}_mean": scaling.mean.tolist(), f"{name}_std": scaling.std.tolist()}
    return {name: json.dumps(value) for name, value in entries.items()}
