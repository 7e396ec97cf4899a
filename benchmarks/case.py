"""A case: several ways to compute the same thing, checked against each other and then timed in turns."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import agree, roofline
from benchmarks.record import Record, note_of
from benchmarks.timing import Program, compile_apart, measure, ratio

SCALES = ("tiny", "quick", "full")


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a run was asked for.

    Attributes:
        scale: "tiny" (tests), "quick" or "full".
        peers: names of the peers to include; None for all that are installed.
        limits: measured limits of the device, for the roofline.
        pythons: peer → the interpreter that has it, where this one has not.
        case: only cases with this text in their names.
    """

    scale: str = "quick"
    peers: tuple[str, ...] | None = None
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pythons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    case: str = ""

    @property
    def seconds(self) -> float:
        """Rough limit for the timing of one case."""
        return {"tiny": 0.01, "quick": 0.3, "full": 10.0}[self.scale]

    @property
    def rounds(self) -> int:
        return {"tiny": 3, "quick": 11, "full": 31}[self.scale]

    def wants(self, peer: str) -> bool:
        return self.peers is None or peer in self.peers

    def asks_for(self, case: str) -> bool:
        return self.case in case


Contender = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        build: `(sizes, dtype) -> (contenders, args)`; contenders is name → function of args. All of them return the
            same values, but for those named in `no_reference`.
        check_sizes: sizes for the comparison in float64, which runs before that at full size.
        baseline: the contender whose time the others are divided by.
        reference: the contender that the others must agree with.
        no_reference: contenders that compute something else (the bare matrix products) and are not compared.
        flops: floating-point operations of one call, where the compiler's count is not to be used (loops).
        residual_bytes: contender → what it keeps between forward and backward, beside params, input and output.
        notes: contender → remark.
    """

    suite: str
    name: str
    sizes: dict[str, Any]
    build: Callable[[dict[str, Any], Any], tuple[dict[str, Contender], tuple[Any, ...]]]
    check_sizes: dict[str, Any]
    baseline: str
    reference: str
    dtype: Any = jnp.float32
    no_reference: tuple[str, ...] = ()
    flops: float | None = None
    residual_bytes: Callable[[dict[str, Any], Any], dict[str, int]] | None = None
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory was not enough."""
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


def run_cases(cases: Iterable[Case], setting: Setting) -> Iterator[list[Record]]:
    """The records of one case after another; one that fails leaves a record that says so, and the next goes on."""
    for case in cases:
        if setting.asks_for(case.name):
            yield run_case(case, setting)


def run_case(case: Case, setting: Setting) -> list[Record]:
    """Check all contenders in float64 at the small sizes, then at full size, then time those that agree."""

    def record(contender, **fields):
        dtype = str(jnp.dtype(case.dtype))
        note = case.notes.get(contender, "")
        sizes = {k: v for k, v in case.sizes.items() if not callable(v)}
        return Record(case.suite, case.name, contender, sizes, dtype, **{"note": note, **fields})

    try:
        exact, zeros = _float64_on_host(case) if jax.default_backend() == "tpu" else _float64(case)
        contenders, args = case.build(case.sizes, case.dtype)
        programs = {name: compile_apart(f, *args) for name, f in contenders.items()}
        errors = _errors(case, {name: program.call() for name, program in programs.items()}, zeros)
        bound = agree.bound(case.dtype)
        right = {n for n in programs if exact.get(n, 0.0) <= agree.FLOAT64_BOUND and errors.get(n, 0.0) <= bound}
        times = measure({n: programs[n].call for n in right}, rounds=setting.rounds, seconds=setting.seconds)
        kept = case.residual_bytes(case.sizes, case.dtype) if case.residual_bytes else {}
    except Exception as error:
        status = "out of memory" if out_of_memory(error) else "failed"
        return [record("all", status=status, note=note_of(error))]

    records = []
    for name, program in programs.items():
        fields = _compiled(program, case) | {"error": errors.get(name), "residual_bytes": kept.get(name)}
        if name not in right:
            note = f"disagrees with {case.reference}: {exact.get(name, 0):.2g} in float64, {errors[name]:.2g} here"
            records.append(record(name, status="wrong", **fields | {"note": note}))
            continue
        each = times[name]
        timed = record(name, samples=each.samples, first_s=each.first_s, baseline=case.baseline, **fields)
        if name != case.baseline and program.fingerprint == programs[case.baseline].fingerprint:
            timed.extra["same_program_as"] = case.baseline
        if case.baseline in right:
            timed.times_baseline = list(ratio(each.samples, times[case.baseline].samples))
        assert timed.median is not None
        timed.roofline = roofline.share(dict(setting.limits), timed.dtype, timed.median, timed.flops, timed.bytes)
        records.append(timed)
    return records


def _compiled(program: Program, case: Case) -> dict[str, Any]:
    traffic = None
    if program.argument_bytes is not None and program.output_bytes is not None:
        traffic = program.argument_bytes + program.output_bytes
    return {
        "compile_s": program.compile_s,
        "temp_bytes": program.temp_bytes,
        "flops": program.flops if case.flops is None else case.flops,
        "flops_from": "compiler" if case.flops is None else "counted",
        "bytes": traffic,
    }


def _errors(case: Case, outputs: Mapping[str, Any], zeros: Collection[str]) -> dict[str, float]:
    reference = outputs[case.reference]
    compared = [name for name in outputs if name not in case.no_reference]
    return {name: agree.disagreement(outputs[name], reference, zeros) for name in compared}


def _float64(case: Case) -> tuple[dict[str, float], list[str]]:
    """Errors of the contenders in float64, and the leaves that are zero there."""
    with jax.enable_x64(True):
        contenders, args = case.build(case.check_sizes, jnp.float64)
        # One program for all of them, which runs once: not worth the optimizer of the CPU backend.
        options: Any = {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
        together = jax.jit(lambda args: {name: f(*args) for name, f in contenders.items()})
        outputs = together.lower(args).compile(compiler_options=options)(args)
        zeros = agree.zero_leaves(outputs[case.reference])
        return _errors(case, outputs, zeros), zeros


def _float64_on_host(case: Case) -> tuple[dict[str, float], list[str]]:
    with jax.default_device(jax.devices("cpu")[0]):  # a TPU has no float64
        return _float64(case)
