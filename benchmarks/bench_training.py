"""Training the articles' networks and a language model: time per step, to accuracy and in all, beside the peers.

Each contender runs in fresh processes, starts from the same params and sees the same rows in the same order
(scikit-learn takes neither: only its score is compared). Times start when imports are done, unless they say otherwise.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.case import Setting
from benchmarks.peers import WorkerFailed, in_process, missing, skipped
from benchmarks.record import Record
from benchmarks.timing import ratio_of_processes
from benchmarks.workloads import CONTEXT, WORKLOADS, Workload, steps_after_accuracy, write

SUITE = "training"
OURS = "jaxbias"
LOSS_BOUND = 1e-4
"""The first ten losses may differ by this much, relatively: rounding of float32, through ten steps of Adam."""
SCORE_BOUND = 0.03


class Contender(NamedTuple):
    """How to start one: the function of `benchmarks.contenders` and its options, or PyTorch with its options."""

    name: str
    peer: str
    options: Mapping[str, Any] = MappingProxyType({})
    only: tuple[str, ...] = tuple(name for name in WORKLOADS if name != "text")
    quick: bool = True
    processes: int = 2


DENSE = ("lin", "xor", "digits_dense")
CONV = ("digits_conv",)
DIGITS = ("digits_dense", "digits_conv")
ALL = tuple(WORKLOADS)
SLICES = {"convolution": "slices", "pool": "reshape"}
TORCH = [
    Contender(
        f"torch, {threads} threads{', fused' * fused}" if threads > 1 else f"torch, 1 thread{', fused' * fused}",
        "torch",
        {"threads": threads, "fused": fused, "compile": False},
        quick=fused,
        only=ALL,
        processes=4,
    )
    for threads in (1, 2)
    for fused in (True, False)
]
CONTENDERS = (
    Contender(OURS, OURS, only=ALL),
    Contender("jaxbias, step from Python", OURS, {"loop": "steps"}, ALL, quick=False),
    Contender("jax scan", "jax_scan", only=(*DENSE, "text")),
    Contender("jax scan", "jax_scan", only=CONV, quick=False),
    Contender("jax scan, slices and reshape-max", "jax_scan", SLICES, CONV),
    Contender("jax loop", "jax_loop", only=ALL),
    Contender("jax loop, slices and reshape-max", "jax_loop", SLICES, CONV, quick=False),
    Contender("linen", "linen"),
    Contender("nnx", "nnx", only=ALL, quick=False),
    Contender("nnx, cached", "nnx", {"cached": True}, ALL, quick=False),
    Contender("equinox", "equinox", only=ALL, quick=False),
    Contender("haiku", "haiku", quick=False),
    Contender("keras", "keras", quick=False),
    Contender("numpy", "numpy", only=DENSE),
    Contender("sklearn", "sklearn", only=("digits_dense",), quick=False),
    *TORCH,
    Contender("torch, compiled", "torch", {"threads": 2, "fused": True, "compile": True}, ALL, quick=False),
)
TINY = (OURS, "numpy")
PROCESSES = {"tiny": 1, "quick": 1, "full": None}
STEADY_S = {"tiny": 0.05, "quick": 0.5, "full": 2.0}
ROUNDS = {"tiny": 2, "quick": 4, "full": 10}


def chosen(workload: Workload, setting: Setting) -> list[Contender]:
    """The contenders of a workload at this scale."""
    own = [c for c in CONTENDERS if workload.name in c.only]
    if setting.scale == "tiny":
        return [c for c in own if c.name in TINY]
    return [c for c in own if c.quick or setting.scale == "full"]


def run(setting: Setting) -> Iterator[list[Record]]:
    names = {"tiny": ["xor"], "quick": (*DIGITS, "text"), "full": (*DIGITS, "text", "xor", "lin")}[setting.scale]
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(setting.asks_for, names):
            workload = WORKLOADS[name]
            if setting.scale == "tiny":
                workload = workload._replace(epochs=12)
            path = Path(folder) / f"{name}.npz"
            write(workload, path)
            yield compare(workload, path, setting)


def compare(workload: Workload, path: Path, setting: Setting) -> list[Record]:
    """One workload: all contenders in turns, one process after another."""
    answers: dict[str, list[dict[str, Any]]] = {}
    records: dict[str, Record] = {}
    contenders = chosen(workload, setting)
    for turn in range(max(c.processes for c in contenders)):
        for c in contenders:
            if turn >= (PROCESSES[setting.scale] or c.processes) or c.name in records:
                continue
            why = missing(c.peer, setting)
            if why:
                records[c.name] = skipped(SUITE, workload.name, c.name, why)
                continue
            try:
                answers.setdefault(c.name, []).append(_ask(c, workload, path, setting))
            except WorkerFailed as error:
                records[c.name] = Record(SUITE, workload.name, c.name, status="failed", note=str(error))
    spared = steps_after_accuracy(workload, path)
    for name, each in answers.items():
        if name not in records:
            records[name] = _record(workload, name, each, answers.get(OURS), spared)
    return list(records.values())


def _ask(contender: Contender, workload: Workload, path: Path, setting: Setting) -> dict[str, Any]:
    job = {
        "workload": workload._asdict(),
        "arrays": str(path),
        "rounds": ROUNDS[setting.scale],
        "steady_s": STEADY_S[setting.scale],
        "guess_s": {"digits_conv": 1e-3, "digits_dense": 1.5e-4, "text": 2e-2}.get(workload.name, 5e-6),
        **contender.options,
    }
    if contender.peer == "torch":
        return in_process("benchmarks.torch_worker", {"kind": "train", **job}, python=setting.pythons.get("torch"))
    python = setting.pythons.get(contender.peer)
    return in_process("benchmarks.training_worker", {"contender": contender.peer, **job}, python=python)


def _record(workload: Workload, name: str, answers: list[dict], ours: list[dict] | None, spared: int | None) -> Record:
    error, note = (0.0, "") if not ours else _disagreement(workload, answers[0], ours[0])
    groups = [answer["samples"] for answer in answers]
    record = Record(
        SUITE,
        workload.name,
        name,
        sizes={"batch": workload.batch, "epochs": workload.epochs},
        status="wrong" if note else "ok",
        note=note,
        samples=[] if note else [s for group in groups for s in group],
        baseline=OURS,
        error=error,
        extra={
            "processes": len(answers),
            "first_step_s": _median(answers, "first_step_s"),
            "total_s": _median(answers, "total_s"),
            "import_s": _median(answers, "import_s"),
            "score": answers[0]["score"],
            **({"torch": answers[0]["versions"]["torch"]} if "versions" in answers[0] else {}),
        },
    )
    if record.median and workload.name == "text":
        record.extra["tokens_per_s"] = workload.batch * CONTEXT / record.median
    if record.median and spared is not None and answers[0]["losses"]:
        record.extra["to_accuracy_s"] = record.extra["import_s"] + record.extra["total_s"] - spared * record.median
    if ours and not note:
        record.times_baseline = list(ratio_of_processes(groups, [answer["samples"] for answer in ours]))
    return record


def _median(answers: list[dict], what: str) -> float:
    return statistics.median(answer[what] for answer in answers)


def _disagreement(workload: Workload, answer: dict, ours: dict) -> tuple[float, str]:
    """Largest relative difference of the first losses, and what is wrong ("" for nothing)."""
    error = 0.0
    if answer["losses"] and answer["losses"][1:]:
        a, b = np.array(answer["losses"][:10]), np.array(ours["losses"][:10])
        error = float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-6)))
        if not error <= LOSS_BOUND:
            return error, f"losses of the first steps differ by {error:.2g} from {OURS}'s"
    bound = SCORE_BOUND if workload.loss == "cross_entropy" else SCORE_BOUND * max(abs(ours["score"]), 1.0)
    if not abs(answer["score"] - ours["score"]) <= bound:
        return error, f"score {answer['score']:.4g}, {OURS} has {ours['score']:.4g}"
    return error, ""
