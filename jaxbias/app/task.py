"""From the words of a command line to a call of `train.fit`: data, network, optimizer and mask by name."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxbias import data as datasets
from jaxbias import leaves, losses, train
from jaxbias.app import spec
from jaxbias.leaves import FREEZE, TRAIN
from jaxbias.params import Layer, Tree, init_state, out_shape
from jaxbias.train import _memory


class Task(NamedTuple):
    """Everything `train.fit` needs but how long."""

    data: datasets.Data
    network: Layer
    loss: Any
    metrics: dict[str, Callable[..., Array]]
    params: Tree
    trainable: Tree
    optimizer: optax.GradientTransformation
    key: Array


def optimizer_by_name(name: str, learning_rate: float) -> optax.GradientTransformation:
    """`optax.<name>(learning_rate)`.

    Raises:
        ValueError: optax has no such optimizer, or the learning rate is not positive.
    """
    known = sorted(
        each
        for each, value in vars(optax).items()
        if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), "") == "learning_rate"
    )
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"optimizer: optax has no optimizer {name!r}.{hint} Known: {', '.join(known)}.")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning rate: must be a positive number, got {learning_rate}.")
    return getattr(optax, name)(learning_rate)


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


def prepare(
    data: str,
    network: str,
    *,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    seed: int = 0,
    use_bias: bool = True,
    bias_only: bool = False,
    freeze: Sequence[str] = (),
) -> Task:
    """Read the data, build and check everything.

    Raises:
        ValueError: whatever is wrong with one of the words, and an output that does not fit the targets.
    """
    built = spec.parse(network, use_bias=use_bias)
    chosen = optimizer_by_name(optimizer, learning_rate)
    wants_images = built.parts[0].name in ("conv", "max_pool", "avg_pool")
    found = datasets.digits(images=wants_images) if data == "digits" else datasets.load(data)
    init_key, fit_key = jax.random.split(jax.random.key(seed))
    x = jnp.asarray(found.x_train[:1])
    try:
        shapes = jax.eval_shape(built.init, init_key, x)
        out = out_shape(built, shapes, x, init_state(built, init_key, x)).shape
    except (ValueError, TypeError) as error:
        raise ValueError(f"network: {network!r} does not fit rows of shape {x.shape[1:]}: {error}") from None
    wanted = found.classes or found.y_train.shape[1]
    if out != (1, wanted):
        meaning = f"the {wanted} classes" if found.classes else f"the {wanted} values per row"
        raise ValueError(
            f"network: {network!r} gives rows of shape {out[1:]}, but {found.name} needs ({wanted},) for {meaning}. "
            f"End it with dense:{wanted}."
        )
    _memory.check(
        _memory.size(shapes),
        jax.devices()[0],
        f"network: the params of {network!r} need",
        "Take fewer units or channels.",
    )
    params = built.init(init_key, x)
    loss = losses.cross_entropy if found.classes else losses.mean_squared_error
    metrics = {"accuracy": train.accuracy} if found.classes else {}
    labels = trainable_labels(params, bias_only=bias_only, freeze=freeze) if bias_only or freeze else None
    return Task(found, built, loss, metrics, params, labels, chosen, fit_key)


def run(
    task: Task,
    *,
    epochs: int,
    batch_size: int,
    checkpoint: str | Path | None = None,
    progress: Callable[[train.Progress], None] | None = None,
) -> train.Fit:
    """Call `train.fit`, with the held-out rows as validation data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # divergence: `Fit.diverged` says it
        return train.fit(
            task.network, task.loss, task.params, (task.data.x_train, task.data.y_train), task.optimizer,
            epochs=epochs, batch_size=batch_size, key=task.key, validation=(task.data.x_test, task.data.y_test),
            checkpoint=checkpoint, progress=progress, trainable=task.trainable, metrics=task.metrics,
        )  # fmt: skip


def describe(latest: dict[str, float]) -> str:
    """The last epoch in one line."""
    text = f"loss {latest['loss']:.4f}, test loss {latest['validation_loss']:.4f}"
    return text + (f", test accuracy {latest['validation_accuracy']:.4f}" if "validation_accuracy" in latest else "")
