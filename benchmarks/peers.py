"""The other libraries: which are here, how to get those that are not, and how to run one in a process of its own."""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.case import Setting
from benchmarks.record import Record
from benchmarks.timing import measure, ratio_of_processes

TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
PEERS = {
    "numpy": ("numpy", "pip install numpy"),
    "optax": ("optax", "pip install optax"),
    "linen": ("flax", "pip install flax"),
    "nnx": ("flax", "pip install flax"),
    "equinox": ("equinox", "pip install equinox"),
    "haiku": ("haiku", "pip install dm-haiku"),
    "keras": ("keras", "pip install keras"),
    "sklearn": ("sklearn", "pip install scikit-learn"),
    "torch": ("torch", TORCH),
    "opacus": ("opacus", "pip install opacus"),
    "backpack": ("backpack", "pip install backpack-for-pytorch"),
}
"""Peer → (module to import, command that installs it)."""


def missing(peer: str, setting: Setting) -> str | None:
    """None where the peer can run; otherwise the one line that says why it is skipped."""
    if peer not in PEERS:  # ours, or plain JAX
        return None
    if not setting.wants(peer):
        return "not asked for (--peers)"
    module, command = PEERS[peer]
    if peer in setting.pythons or importlib.util.find_spec(module) is not None:
        return None
    return f"{peer} is not installed: {command}"


def skipped(suite: str, case: str, peer: str, why: str, **fields: Any) -> Record:
    return Record(suite, case, peer, status="skipped", note=why, **fields)


class WorkerFailed(RuntimeError):
    """A worker process failed; the message is its last line."""


def in_process(module: str, job: dict[str, Any], *, python: str | None = None, timeout: float = 400, env=None) -> Any:
    """Run `python -m module JOB` in a fresh process from the repository root; it prints its answer as a last JSON line.

    Raises:
        WorkerFailed: it failed, or did not end in time.
    """
    command = [python or sys.executable, "-m", module, json.dumps(job)]
    root = Path(__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3", **(env or {})}
    try:
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"no answer within {timeout:.0f} s") from None
    if done.returncode != 0:
        raise WorkerFailed((done.stderr.strip().splitlines() or ["no message"])[-1][:300])
    return json.loads(done.stdout.strip().splitlines()[-1])


def torch_in_turns(
    job: dict[str, Any], baseline: Callable[[], Any], setting: Setting, *, peer: str = "torch"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """PyTorch at its best of 1 and 2 threads, in 1 (quick) or 4 (full) fresh processes each, against a call of ours.

    After each of its processes the call is timed again, by itself as PyTorch is: a process that does nothing else has
    its arrays in the cache, and what slows the machine down for a minute slows both.

    Returns:
        the first answer of the best; and the fields `samples`, `times_baseline` and `extra` of its record.

    Raises:
        WorkerFailed: a process failed.
    """
    answers: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    ours: list[list[float]] = []
    for _ in range(4 if setting.scale == "full" else 1):
        for threads, given in answers.items():
            asked = {**job, "threads": threads, "rounds": setting.rounds}
            given.append(in_process("benchmarks.torch_worker", asked, python=setting.pythons.get(peer)))
            ours.append(measure({"": baseline}, rounds=setting.rounds, seconds=setting.seconds)[""].samples)
    samples = {threads: [answer["samples"] for answer in given] for threads, given in answers.items()}
    best = min(samples, key=lambda threads: statistics.median(itertools.chain(*samples[threads])))
    first = answers[best][0]
    return first, {
        "samples": [*itertools.chain(*samples[best])],
        "times_baseline": list(ratio_of_processes(samples[best], ours)),
        "extra": {
            "threads": best,
            "baseline_in_turns_s": statistics.median(itertools.chain(*ours)),
            **first["versions"],
        },
    }
