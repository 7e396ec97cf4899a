"""The other libraries: which are here, how to get those that are not, and how to run one in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.case import Setting
from benchmarks.record import Record

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
