"""What `jaxbias train` does: trains, measures, keeps the params, and shows what else was asked for."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxbias import io
from jaxbias.app import bias_comparison, failure, keep, language, progress
from jaxbias.app import task as tasks
from jaxbias.train import Fit


def run(
    data: str,
    network: str | None,
    words: Mapping[str, Any],
    *,
    checkpoint: Path | None,
    save: Path | None,
    sample: int,
    compare: int,
) -> int:
    """Train, print the last epoch in one line, and below it a sample and a comparison.

    Args:
        words: of `task.prepare`.
        save: file for the trained params.
        sample: characters to draw from a language model.
        compare: seeds of the comparison of biases; 0 for none.

    Returns:
        The exit status.

    Raises:
        ValueError: whatever is wrong with one of the words; a sample of what is no text, a comparison without biases.
    """
    task = tasks.prepare(data, network, **words)
    if sample and not task.data.per_step:
        raise ValueError(f"sample: {task.data.name} is no text. Write: jaxbias train text --sample {sample}.")
    if compare:
        bias_comparison.check(task)
    print("\n".join(tasks.describe(task)), file=sys.stderr)
    with progress.Bars() as bars:
        row = bars.row(f"training on {task.data.name}", task.epochs, note="compiling")
        fitted = tasks.run(task, checkpoint=checkpoint, progress=lambda told: bars.trained(row, told))
    latest = {name: float(values[-1]) for name, values in fitted.history.items() if values.ndim == 1}
    problems = []
    try:
        resumed = f", {fitted.resumed} of them from {checkpoint}" if fitted.resumed else ""
        print(f"{tasks.counted(task.epochs, 'epoch')}{resumed}: {tasks.measured(task, latest)}", flush=True)
    finally:  # whatever becomes of standard output
        problems += _kept(task, fitted, save)
    if fitted.diverged is not None:
        text = f"training diverged: the loss is not finite from epoch {fitted.diverged} on"
        problems.append(failure.Failure(text, failure.FAILED))
    status = max((failure.say(problem) for problem in problems), default=0)
    if sample:
        before, text = language.sample(
            task.network, fitted.params, fitted.state, task.data, sample, words.get("seed", 0)
        )
        print(f"\n{sample} characters drawn after {before[-20:]!r}:\n{text}", flush=True)
    if compare:
        with progress.Bars() as bars:
            row = bars.row("training without biases", note="compiling")
            table = bias_comparison.run(
                task, compare, lambda told: bars.update(row, completed=told.done, total=told.members, note="")
            )
        Console().print(table)
    return status


def _kept(task: tasks.Task, fitted: Fit, save: Path | None) -> list[failure.Failure]:
    """Write the params; what went wrong with them and with the checkpoints."""

    def write(path: Path) -> None:
        io.save(path, fitted.params, metadata=tasks.metadata(task))

    problems = []
    if save is not None:
        problems.append(keep.write(save, write, "the trained params"))
    elif fitted.unsaved:
        problems.append(keep.elsewhere(Path("params.safetensors"), write, "the trained params", fitted.unsaved))
    if save is not None and fitted.unsaved:
        text = f"{fitted.unsaved}; the trained params are in {save}."
        problems.append(failure.Failure(text, failure.FAILED))
    return [problem for problem in problems if problem is not None]
