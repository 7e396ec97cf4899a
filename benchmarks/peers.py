"""The other libraries: which are here, how to get those that are not, and how to run one in a process of its own."""

import contextlib
import importlib.util
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.case import Setting
from benchmarks.record import Record
from benchmarks.timing import ratio_of_processes, sampler

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
    try:
        done = subprocess.run(**_worker(module, job, python, env), capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"no answer within {timeout:.0f} s") from None
    return _answer(done.returncode, done.stdout, done.stderr)


def in_turns(job: dict[str, Any], sample: Callable[[], Any], *, python: str | None, timeout: float = 400) -> Any:
    """As `in_process` of PyTorch's worker; before each of its samples, `sample` is called here.

    Between the two is a pause, as the threads of one wait for work for some milliseconds before they give up the core.
    """
    command = _worker("benchmarks.torch_worker", {**job, "in_turns": True}, python, None)
    pipe, out = subprocess.PIPE, ""
    with tempfile.TemporaryFile("w+") as errors:
        # a broken pipe: the worker has failed meanwhile, and says why on stderr
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(**command, stdin=pipe, stdout=pipe, stderr=errors) as worker,
        ):
            watch = threading.Timer(timeout, worker.kill)
            watch.start()
            try:
                out = _take_turns(worker, sample)
            finally:
                watch.cancel()
        if worker.returncode == -signal.SIGKILL:
            raise WorkerFailed(f"killed: no answer within {timeout:.0f} s, or out of memory")
        errors.seek(0)
        return _answer(worker.returncode, out, errors.read())


def _take_turns(worker: subprocess.Popen[str], sample: Callable[[], Any]) -> str:
    """The last line of the worker; each empty line before it announces a sample of its own, which ours goes before."""
    assert worker.stdin is not None and worker.stdout is not None
    line = ""
    for line in worker.stdout:
        if line == "\n":
            time.sleep(PAUSE_S)
            sample()
            time.sleep(PAUSE_S)
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.write("\n")
                worker.stdin.flush()
    return line


PAUSE_S = 5e-3


def _worker(module: str, job: dict[str, Any], python: str | None, env: dict[str, str] | None) -> dict[str, Any]:
    root = str(Path(__file__).parent.parent)
    own = os.environ.get("PYTHONPATH") if python is None else None  # of no use to another interpreter
    return {
        "args": [python or sys.executable, "-m", module, json.dumps(job)],
        "cwd": root,
        "env": {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, own])),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **(env or {}),
        },
        "text": True,
    }


def _answer(code: int | None, out: str, errors: str) -> Any:
    if code != 0:
        raise WorkerFailed((errors.strip().splitlines() or ["no message"])[-1][:300])
    return json.loads(out.strip().splitlines()[-1])


def torch_in_turns(
    job: dict[str, Any], baseline: Callable[[], Any], setting: Setting, *, peer: str = "torch"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """PyTorch at its best of 1 and 2 threads, in 1 (quick) or 4 (full) fresh processes each, against a call of ours.

    The two take turns sample by sample: what slows the machine down for a moment slows both.

    Returns:
        the first answer of the best; and the fields `samples`, `times_baseline` and `extra` of its record.

    Raises:
        WorkerFailed: a process failed.
    """
    answers: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    ours: dict[int, list[list[float]]] = {1: [], 2: []}
    take = sampler(baseline)
    for _ in range(4 if setting.scale == "full" else 1):
        for threads in answers:
            taken: list[float] = []
            asked = {**job, "threads": threads, "rounds": setting.rounds}
            answers[threads].append(in_turns(asked, lambda t=taken: t.append(take()), python=setting.pythons.get(peer)))
            ours[threads].append(taken)
    samples = {threads: [answer["samples"] for answer in given] for threads, given in answers.items()}
    best = min(samples, key=lambda threads: statistics.median(itertools.chain(*samples[threads])))
    first = answers[best][0]
    return first, {
        "samples": [*itertools.chain(*samples[best])],
        "times_baseline": list(ratio_of_processes(samples[best], ours[best], paired=True)),
        "extra": {
            "threads": best,
            "baseline_in_turns_s": statistics.median(itertools.chain(*ours[best])),
            **first["versions"],
        },
    }
