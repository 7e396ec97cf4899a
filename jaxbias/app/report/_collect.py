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

from jaxbias._summary import Summary, summary
from jaxbias.app import task as tasks
from jaxbias.selfcheck import Check, check_all, layer_derivations, loss_derivations
from jaxbias.train import Fit, Progress

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


class Run(NamedTuple):
    """One trained network.

    Attributes:
        fitted: what `train.fit` returned.
        accuracy: share of the test rows that the last epoch's params classify correctly.
        summary: its table.
        seconds: wall time, compiling included.
    """

    name: str
    setting: Setting
    fitted: Fit
    params: Any
    accuracy: float
    summary: Summary
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether training stayed finite and reached the wanted accuracy."""
        return self.fitted.diverged is None and self.accuracy >= self.setting.wanted


class PageData(NamedTuple):
    """Everything on the page."""

    checks: list[Check]
    runs: list[Run]
    machine: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every derivation and every network is as it should be."""
        return all(each.ok for each in (*self.checks, *self.runs))


def collect(
    *,
    epochs: int = EPOCHS,
    names: tuple[str, ...] = tuple(NETWORKS),
    checks: list[Check] | None = None,
    on_check: Callable[[Check, int, int], None] | None = None,
    on_start: Callable[[str], None] | None = None,
    on_epoch: Callable[[str, Progress], None] | None = None,
) -> PageData:
    """Do the work of the report.

    Args:
        epochs: of every network.
        names: which of `NETWORKS` to train.
        checks: results at hand; by default every derivation is checked now.
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
        found = check_all(progress=checked) if checks is None else checks
        return PageData(found, [run.result() for run in runs], machine())


def _train(
    name: str,
    epochs: int,
    on_start: Callable[[str], None] | None,
    on_epoch: Callable[[str, Progress], None] | None,
) -> Run:
    setting = NETWORKS[name]
    if on_start is not None:
        on_start(name)
    began = time.perf_counter()
    task = tasks.prepare(
        "digits", setting.spec, learning_rate=LEARNING_RATE, epochs=epochs, batch_size=BATCH_SIZE,
        use_bias=setting.use_bias,
    )  # fmt: skip
    progress = None if on_epoch is None else lambda each: on_epoch(name, each)
    fitted = tasks.run(task, progress=progress)
    params = jax.tree.map(np.asarray, fitted.params)
    return Run(
        name,
        setting,
        fitted,
        params,
        accuracy=float(fitted.history["validation_accuracy"][-1]),
        summary=summary(fitted.params, task.network, task.data.x_train[:1]),
        seconds=time.perf_counter() - began,
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
