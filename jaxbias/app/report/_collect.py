"""What the page shows: checks, training runs, and the machine they ran on."""

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import stdtrit

from jaxbias._summary import Summary, summary
from jaxbias.app import task as tasks
from jaxbias.selfcheck import Check, check_all, layer_derivations, loss_derivations
from jaxbias.train import Fit, Progress, sweep

_DENSE = "dense:128,relu,dense:10"
_CONV = "conv:16x3x3,relu,max_pool:2,conv:32x3x3,relu,max_pool:2,flatten,dense:10"


class Setting(NamedTuple):
    """A network of the report: its spec, with or without biases, and the least test accuracy that is expected."""

    spec: str
    use_bias: bool
    wanted: float


NETWORKS = {
    "dense": Setting(_DENSE, True, 0.96),
    "dense, no biases": Setting(_DENSE, False, 0.96),
    "convolutional": Setting(_CONV, True, 0.97),
    "convolutional, no biases": Setting(_CONV, False, 0.97),
}
EPOCHS, BATCH_SIZE, LEARNING_RATE = 40, 32, 1e-3
SEEDS, SWEEP_EPOCHS = 16, 20


class Run(NamedTuple):
    """One trained network.

    Attributes:
        fitted: what `train.fit` returned.
        accuracy: share of the test rows that the last epoch's params classify correctly.
        summary: its table.
    """

    name: str
    setting: Setting
    fitted: Fit
    params: Any
    accuracy: float
    summary: Summary

    @property
    def ok(self) -> bool:
        """Whether training stayed finite and reached the wanted accuracy."""
        return self.fitted.diverged is None and self.accuracy >= self.setting.wanted


class BiasEffect(NamedTuple):
    """Test accuracy with biases less that without, of the dense network, seed by seed.

    Attributes:
        differences: (seeds,) both networks of a seed start from the same weights and see the same rows in one order.
        with_biases, without: mean test accuracies.
        epochs: of each network.
        seconds: wall time of the sweep, compiling included.
    """

    differences: np.ndarray
    with_biases: float
    without: float
    epochs: int
    seconds: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean difference: mean ± t · sd / √n, with Student's t."""
        n = len(self.differences)
        half = stdtrit(n - 1, 0.975) * float(np.std(self.differences, ddof=1)) / np.sqrt(n)
        mean = float(np.mean(self.differences))
        return mean - half, mean + half

    def sentence(self) -> str:
        """What this says of biases."""
        low, high = (100 * bound for bound in self.interval)
        mean = round(100 * float(np.mean(self.differences)), 2) + 0.0  # no −0.00
        means = f"{100 * self.with_biases:.1f} % with, {100 * self.without:.1f} % without"
        measured = (
            f"{mean:+.2f} percentage points of test accuracy for the biases, 95 % interval {low:+.2f} to {high:+.2f}, "
            f"over {len(self.differences)} seeds ({means})"
        ).replace("-", "−")
        if low <= 0 <= high:
            return f"No measurable difference here: {measured}."
        return f"Biases {'help' if mean > 0 else 'hurt'} here: {measured}."


class PageData(NamedTuple):
    """Everything on the page."""

    checks: list[Check]
    runs: list[Run]
    machine: dict[str, str]
    biases: BiasEffect | None = None

    @property
    def ok(self) -> bool:
        """Whether every derivation and every network is as it should be."""
        return all(part.ok for part in (*self.checks, *self.runs))


def collect(
    *,
    epochs: int = EPOCHS,
    names: tuple[str, ...] = tuple(NETWORKS),
    checks: list[Check] | None = None,
    seeds: int = SEEDS,
    on_check: Callable[[Check, int, int], None] | None = None,
    on_start: Callable[[str], None] | None = None,
    on_epoch: Callable[[str, Progress], None] | None = None,
) -> PageData:
    """Do the work of the report.

    Args:
        epochs: of every network.
        names: which of `NETWORKS` to train.
        checks: results at hand; by default every derivation is checked now.
        seeds: of the sweep that measures what biases do; 0 for none.
        on_check: called with a check, how many are done, and how many there are.
        on_start: called with a network's name when work on it starts.
        on_epoch: called with the network's name and its progress.
    """
    total = len(layer_derivations()) + len(loss_derivations())
    done = 0

    def checked(check):
        nonlocal done
        done += 1
        if on_check is not None:
            on_check(check, done, total)

    # Compiling is most of the work and runs without Python's lock: the nets beside the derivations keep two cores busy.
    with ThreadPoolExecutor(1) as beside:
        runs = [beside.submit(_train, name, epochs, on_start, on_epoch) for name in names]
        biases = beside.submit(measure_biases, seeds, min(epochs, SWEEP_EPOCHS)) if seeds else None
        derivations = check_all(progress=checked) if checks is None else checks
        return PageData(derivations, [run.result() for run in runs], machine(), biases and biases.result())


def measure_biases(seeds: int, epochs: int = SWEEP_EPOCHS) -> BiasEffect:
    """Train the dense network with and without biases from `seeds` starts in one sweep."""
    began = time.perf_counter()
    task = tasks.prepare("digits", _DENSE, learning_rate=LEARNING_RATE, epochs=epochs, batch_size=BATCH_SIZE)
    data, (y_train, y_test) = task.data, task.targets
    swept = sweep(
        task.network, task.loss, (data.x_train, y_train), task.optimizer, keys=jax.random.split(task.key, seeds),
        epochs=epochs, batch_size=BATCH_SIZE, validation=(data.x_test, y_test), metrics=task.metrics,
    )  # fmt: skip
    accuracy = swept.final("validation_accuracy")[0].astype(np.float64)  # (bias on and off, seeds)
    seconds = time.perf_counter() - began
    return BiasEffect(accuracy[0] - accuracy[1], float(accuracy[0].mean()), float(accuracy[1].mean()), epochs, seconds)


def _train(
    name: str,
    epochs: int,
    on_start: Callable[[str], None] | None,
    on_epoch: Callable[[str, Progress], None] | None,
) -> Run:
    setting = NETWORKS[name]
    if on_start is not None:
        on_start(name)
    task = tasks.prepare(
        "digits", setting.spec, learning_rate=LEARNING_RATE, epochs=epochs, batch_size=BATCH_SIZE,
        use_bias=setting.use_bias,
    )  # fmt: skip
    progress = None if on_epoch is None else lambda epoch: on_epoch(name, epoch)
    fitted = tasks.run(task, progress=progress)
    params = jax.tree.map(np.asarray, fitted.params)
    return Run(
        name,
        setting,
        fitted,
        params,
        accuracy=float(fitted.history["validation_accuracy"][-1]),
        summary=summary(fitted.params, task.network, task.data.x_train[:1]),
    )


def machine() -> dict[str, str]:
    """Machine and versions, name → text."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    packages = ("jaxbias", "jax", "jaxlib", "optax", "numpy")
    return {
        "Backend": f"{jax.default_backend()} ({len(devices)} × {', '.join(kinds)})",
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # running from a source tree that was never installed
        import jaxbias

        return jaxbias.__version__ if name == "jaxbias" else "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
