"""Losses, optimizers, schedules and frozen leaves, by the names that a command line has for them."""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax

from jaxbias import data as datasets
from jaxbias import leaves, losses
from jaxbias._trees import first_line
from jaxbias.app import spec
from jaxbias.leaves import FREEZE, TRAIN
from jaxbias.params import Tree

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
    "dice": "its targets are masks, of which no data set here has any",
    "info_nce": "it compares the embeddings of two networks",
    "kl_divergence": "it takes the logits of a teacher in the place of labels",
    "negative_binomial_nll": "its outputs are a log mean and a log concentration, not the value that errors are of",
    "poisson_nll": "its output is a log rate, not the value of which errors are printed",
    "triplet": "it compares the embeddings of three rows",
}
"""Loss → why no command line takes it."""

PER_STEP = ("cross_entropy", "focal")
"""Losses of them that take a class for each step of a row."""


def check_known(kind: str, name: str, known: Iterable[str], owner: str) -> None:
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
    check_known("optimizer", name, optimizers(), "optax")
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
        ValueError: optax has no such schedule, an unknown option, or values of them that give no rates.
    """
    name, options = spec.call(text)
    known = schedules()
    check_known("schedule", name, known, "optax")
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"schedule: {option} of {name} must be a number, got {value!r}. {_options(known[name])}")
    parameters = inspect.signature(known[name]).parameters
    rises = "peak_value" in parameters
    warm = options.get("warmup_steps", max(1, steps // 20)) if "warmup_steps" in parameters else 0
    filled = {
        "init_value": 0.0 if rises else learning_rate, "peak_value": learning_rate, "end_value": 0.0, "power": 2.0,
        "decay_rate": 0.01, "warmup_steps": warm, "decay_steps": steps, "transition_steps": max(1, steps - warm),
    }  # fmt: skip
    needed = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    schedule = _built("schedule", name, known[name], {key: filled[key] for key in needed} | options)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes dtypes
        rates = [float(schedule(step)) for step in (0, steps // 2, steps)]
    if not all(0 <= rate < math.inf for rate in rates):
        raise ValueError(
            f"schedule: {text} gives the rates {', '.join(f'{rate:g}' for rate in rates)} at the start, in the middle "
            f"and at the end of {steps} steps; a rate is at least 0. {_options(known[name])}"
        )
    return schedule


def loss_by_name(text: str | None, data: datasets.Data) -> losses.ConfiguredLoss:
    """`huber`, or `huber:threshold=0.5`; without a name the first of `LOSSES` for this task.

    Raises:
        ValueError: there is no such loss, it is for another task, or an unknown option.
    """
    fitting = [name for name, task in LOSSES.items() if task == data.task and (name in PER_STEP or not data.per_step)]
    name, options = spec.call(text or fitting[0])
    if name in NOT_OFFERED:
        raise ValueError(f"loss: {name} is for Python: {NOT_OFFERED[name]}. Here: {', '.join(fitting)}.")
    check_known("loss", name, LOSSES, "jaxbias")
    if name not in fitting:
        kind = "a class for each step" if data.per_step else data.task
        raise ValueError(f"loss: {name} is for {LOSSES[name]}, but {data.name} is {kind}: {', '.join(fitting)}.")
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
