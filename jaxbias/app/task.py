"""From the words of a command line to a call of `train.fit`: data, network, loss, optimizer and mask by name."""

import difflib
import inspect
import json
import math
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxbias import data as datasets
from jaxbias import leaves, losses, train
from jaxbias._trees import first_line
from jaxbias.app import spec
from jaxbias.leaves import FREEZE, TRAIN
from jaxbias.params import Layer, Tree, init_state, out_shape
from jaxbias.train import _memory
from jaxbias.train._data import check_batch_size, check_count

LEARNING_RATE = 1e-3
BATCH_SIZE = 64
EPOCHS = 20
LEAST_STEPS = 400
"""Few rows make few steps per epoch: the default number of epochs gives at least this many in all."""

LOSSES = {
    "cross_entropy": "classification",
    "binary_cross_entropy": "classification",
    "hinge": "classification",
    "focal": "classification",
    "mean_squared_error": "regression",
    "half_squared_error": "regression",
    "huber": "regression",
    "log_cosh": "regression",
    "pinball": "regression",
    "gaussian_nll": "regression",
}
"""Loss → what it is for; the first of a kind is its default."""

NOT_OFFERED = {
    "ctc": "its targets are sequences of labels",
    "info_nce": "it compares the embeddings of two networks",
    "kl_divergence": "it takes the logits of a teacher in the place of labels",
    "poisson_nll": "its output is a log rate, not the value of which errors are printed",
}
"""Loss → why no command line takes it."""


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


# --- names ------------------------------------------------------------------------------------------------------------


def _check_known(kind: str, name: str, known: Iterable[str], owner: str) -> None:
    known = sorted(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"{kind}: {owner} has no {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def _built(kind: str, name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return function(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind}: {name} cannot be built ({first_line(error)}). {_options(function)}") from None


def _options(function: Callable[..., Any]) -> str:
    known = [name for name in inspect.signature(function).parameters if name not in ("learning_rate", "reduction")]
    return f"Its options: {', '.join(known) or 'none'}."


def optimizers() -> list[str]:
    """Names of the optimizers of optax."""
    return [
        name
        for name, value in vars(optax).items()
        if inspect.isfunction(value)
        and next(iter(inspect.signature(value).parameters), "") == "learning_rate"
        and not name.startswith(("_", "scale_by"))
    ]


def optimizer_by_name(text: str, learning_rate: Any, params: Tree) -> optax.GradientTransformation:
    """`adam`, or `adamw:weight_decay=0.01`: `optax.adamw(learning_rate, weight_decay=0.01)`.

    Args:
        learning_rate: a number, or a schedule.
        params: that it is to train.

    Raises:
        ValueError: optax has no such optimizer, an unknown option, an optimizer that takes no schedule or that needs
            more than gradients and params.
    """
    name, options = spec.call(text)
    _check_known("optimizer", name, optimizers(), "optax")
    takes_no_schedule = callable(learning_rate) and _why_not(name, 1.0, options, params) is None
    if (problem := _why_not(name, learning_rate, options, params)) is not None:
        reason = "it takes no schedule" if takes_no_schedule else problem
        raise ValueError(f"optimizer: {name} cannot be used here: {reason}. {_options(getattr(optax, name))}")
    return getattr(optax, name)(learning_rate, **options)


def _why_not(name: str, learning_rate: Any, options: Mapping[str, Any], params: Tree) -> str | None:
    """What an optimizer says when it is made and takes a step; None where it does."""

    def step(tree: Tree) -> Tree:
        optimizer = getattr(optax, name)(learning_rate, **options)
        return optimizer.update(tree, optimizer.init(tree), tree)[0]

    try:
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes dtypes
            jax.eval_shape(step, params)
    except (TypeError, ValueError) as error:
        return first_line(error)
    return None


_RATE = {"init_value", "peak_value"}


def schedules() -> dict[str, Callable[..., Any]]:
    """The schedules of optax that a rate and a number of steps describe, by their names without `_decay_schedule`."""
    described = {}
    for name, function in vars(optax.schedules).items():
        parameters = inspect.signature(function).parameters if inspect.isfunction(function) else {}
        if _RATE & set(parameters) and "boundaries_and_scales" not in parameters:
            described[re.sub("(_decay)?(_schedule)?$", "", name)] = function
    return described


def schedule_by_name(text: str, learning_rate: float, steps: int) -> Any:
    """`cosine`, or `warmup_cosine:warmup_steps=100`: optax's schedule with its numbers of steps filled in.

    Rates start at, or rise from 0 to, `learning_rate`; what is not said otherwise ends at 0, decays to a hundredth
    (`decay_rate`) over all steps, and warms up over a twentieth of them.

    Raises:
        ValueError: optax has no such schedule, or an unknown option.
    """
    name, options = spec.call(text)
    known = schedules()
    _check_known("schedule", name, known, "optax")
    parameters = inspect.signature(known[name]).parameters
    rises = "peak_value" in parameters
    warm = options.get("warmup_steps", max(1, steps // 20)) if "warmup_steps" in parameters else 0
    filled = {
        "init_value": 0.0 if rises else learning_rate, "peak_value": learning_rate, "end_value": 0.0, "power": 2.0,
        "decay_rate": 0.01, "warmup_steps": warm, "decay_steps": steps, "transition_steps": max(1, steps - warm),
    }  # fmt: skip
    needed = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    return _built("schedule", name, known[name], {key: filled[key] for key in needed} | options)


def loss_by_name(text: str | None, data: datasets.Data) -> losses.ConfiguredLoss:
    """`huber`, or `huber:threshold=0.5`; without a name the first of `LOSSES` for this task.

    Raises:
        ValueError: there is no such loss, it is for another task, or an unknown option.
    """
    fitting = [name for name, task in LOSSES.items() if task == data.task]
    name, options = spec.call(text or fitting[0])
    if name in NOT_OFFERED:
        raise ValueError(f"loss: {name} is for Python: {NOT_OFFERED[name]}. Here: {', '.join(fitting)}.")
    _check_known("loss", name, LOSSES, "jaxbias")
    if name not in fitting:
        raise ValueError(f"loss: {name} is for {LOSSES[name]}, but {data.name} is {data.task}: {', '.join(fitting)}.")
    return _built("loss", name, getattr(losses, name).loss, options)


def trainable_labels(params: Tree, *, bias_only: bool = False, freeze: Sequence[str] = ()) -> Tree:
    """The labels of `jb.freeze`.

    Args:
        bias_only: freeze every leaf that is not the `bias` of a layer.
        freeze: paths of leaves or of whole layers, such as "2.weight" or "0".

    Raises:
        ValueError: a path that is not in params, or nothing left to train.
    """
    by_path = leaves.freeze(params, freeze)
    by_role = leaves.freeze(params, "weights" if bias_only else ())
    labels = jax.tree.map(lambda *both: FREEZE if FREEZE in both else TRAIN, by_path, by_role)
    if TRAIN not in jax.tree.leaves(labels):
        names = ", ".join(leaves.named_parameters(params)) or "none"
        raise ValueError(f"freeze: nothing is left to train. Leaves: {names}.")
    return labels


# --- data -------------------------------------------------------------------------------------------------------------


def read(
    path: str, options: Mapping[str, Any], *, form: datasets.Form = "flat", command: str = "train"
) -> datasets.Data:
    """The digits, or the rows of a file.

    Args:
        form: of the digits' rows.
        options: of `data.load`; those that are None, or empty, are left to it. Tables are standardised unless they say
            otherwise: columns in different units train badly.
        command: that the answers to a question are commands of.

    Raises:
        ValueError: whatever is wrong with the file; a question is put with the commands that answer it.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None and value != []}
    if path == "digits":
        if given:
            raise ValueError(f"data: digits take no --{next(iter(given))}: that is for files of your own.")
        return datasets.digits(form=form)
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
    """One hidden layer."""
    return ("flatten," if data.x_train.ndim > 2 else "") + f"dense:128,relu,dense:{outputs}"


def default_batch_size(rows: int) -> int:
    """`BATCH_SIZE`; with few rows a smaller one, so that next to none of them sit out an epoch."""
    return BATCH_SIZE if rows >= 16 * BATCH_SIZE else rows // math.ceil(rows / BATCH_SIZE)


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
    built = None if network is None else spec.parse(network, use_bias=use_bias)
    _check_known("optimizer", spec.call(optimizer)[0], optimizers(), "optax")  # before the data are read
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning rate: must be a positive number, got {learning_rate}.")
    form = "flat" if built is None else spec.form_of_rows(built)
    rows = read(data, options or {}, form=form, command=command)
    chosen_loss = loss_by_name(loss, rows)
    targets, outputs = _for_loss(rows, chosen_loss)
    if built is None:
        network = default_network(rows, outputs)
        built = spec.parse(network, use_bias=use_bias)

    init_key, fit_key = jax.random.split(jax.random.key(seed))
    x = jnp.asarray(rows.x_train[:1])
    try:
        shapes = jax.eval_shape(built.init, init_key, x)
        out = out_shape(built, shapes, x, init_state(built, init_key, x)).shape
    except (ValueError, TypeError) as error:
        raise ValueError(f"network: {network!r} does not fit rows of shape {x.shape[1:]}: {error}") from None
    if out != (1, outputs):
        meaning = (
            f"the {rows.classes} classes" if rows.classes else f"the {outputs} values per row of {chosen_loss.name}"
        )
        raise ValueError(
            f"network: {network!r} gives rows of shape {out[1:]}, but {rows.name} needs ({outputs},) for {meaning}. "
            f"End it with dense:{outputs}."
        )
    _memory.require(
        _memory.size(shapes),
        jax.devices()[0],
        f"network: the params of {network!r} need",
        "Take fewer units or channels.",
    )
    params = built.init(init_key, x)
    labels = trainable_labels(params, bias_only=bias_only, freeze=freeze) if bias_only or freeze else None

    batch_size = default_batch_size(len(rows.x_train)) if batch_size is None else batch_size
    check_batch_size(batch_size, len(rows.x_train))
    per_epoch = len(rows.x_train) // batch_size
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / per_epoch)) if epochs is None else epochs
    check_count(epochs, "epochs")
    rate = schedule_by_name(schedule, learning_rate, epochs * per_epoch) if schedule else learning_rate
    words = {
        "network": str(network),
        "loss": loss or chosen_loss.name,
        "optimizer": f"{optimizer}, learning rate {learning_rate:g}" + (f", schedule {schedule}" if schedule else ""),
        "steps": f"{epochs} epochs of {per_epoch} steps of {batch_size} rows",
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


def describe(task: Task) -> list[str]:
    """What was read and chosen, one line each."""
    data, shape = task.data, "×".join(map(str, task.data.x_train.shape[1:]))
    size = f"{data.name}: {len(data.x_train)} rows to train, {len(data.x_test)} held out, {shape} features"
    if data.classes is not None:
        size += f", {data.classes} classes: {datasets.shortened(data.labels)}"
    elif data.targets:
        size += f", target {datasets.shortened(data.targets)}"
    return [size, *(f"  {note}" for note in data.notes), *(f"  {name}: {word}" for name, word in task.words.items())]


def measured(task: Task, latest: Mapping[str, float]) -> str:
    """The last epoch in one line: losses, and metrics of the held-out rows beside what a constant answer reaches."""
    data, lines = task.data, [brief(latest)]
    if data.classes is not None:
        frequent = np.bincount(data.y_train).argmax()
        accuracy, alone = latest["validation_accuracy"], (data.y_test == frequent).mean()
        return f"{lines[0]}, test accuracy {accuracy:.4f} (always {data.labels[frequent]}: {alone:.4f})"
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
