"""Time contenders side by side: compile apart, first call apart, steady state interleaved A B A B.

A sample is the wall time of calls in a row that last about 10 ms together, divided by their number, after one call that
is not counted: what is timed is a program that runs again and again, its arrays in the cache if they fit there, not one
that follows another contender's 30 MB.
The contenders of one comparison take turns within each round, in an order that rotates, so that whatever slows the
machine down for a moment slows all of them; sample i of one contender and sample i of another belong together.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

SAMPLE_S = 10e-3


class Program(NamedTuple):
    """A compiled program and what its compiler says about it.

    Attributes:
        call: runs it on the arguments it was compiled for.
        compile_s: seconds of tracing, lowering and compiling.
        temp_bytes: scratch memory of one call; None where the backend does not say.
        argument_bytes, output_bytes: what goes in and comes out: the traffic that no compiler can avoid.
        flops: the compiler's count, in which the body of a loop counts once; None where the backend does not say.
        fingerprint: of the optimized program; two programs of one fingerprint differ in names only.
    """

    call: Callable[[], Any]
    compile_s: float
    temp_bytes: int | None
    argument_bytes: int | None
    output_bytes: int | None
    flops: float | None
    fingerprint: str


def fingerprint(text: str) -> str:
    """Hash of a program's text without the names that come from the source, each name numbered as it appears."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match.group(), f"%{len(numbers)}")

    code = "\n".join(line for line in text.splitlines() if line.startswith(("%", "ENTRY", " ", "}")))
    code = re.sub(r"[\w.\-]+: ", "", code)  # names of parameters in the head of a computation
    body = re.sub(r", metadata=\{[^}]*\}|, backend_config=\{.*\}$", "", code, flags=re.MULTILINE)
    return hashlib.sha256(re.sub(r"%[\w.\-]+", number, body).encode()).hexdigest()[:16]


def compile_apart(f: Callable[..., Any], *args: Any) -> Program:
    """Compile `f` for `args`."""
    began = time.perf_counter()
    compiled = jax.jit(f).lower(*args).compile()
    compile_s = time.perf_counter() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    flops = cost.get("flops")
    return Program(
        lambda: compiled(*args),
        compile_s,
        getattr(memory, "temp_size_in_bytes", None),
        getattr(memory, "argument_size_in_bytes", None),
        getattr(memory, "output_size_in_bytes", None),
        None if flops is None or flops <= 0 else float(flops),
        fingerprint(compiled.as_text() or ""),
    )


class Times(NamedTuple):
    """Seconds: the first call after compiling, and one sample per round."""

    first_s: float
    samples: list[float]


def _elapsed(call: Callable[[], Any], times: int) -> float:
    """Seconds of `times` calls; where they are several, one more goes before them."""
    if times > 1:
        jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(times):
        out = call()
        jax.block_until_ready(out)
    return time.perf_counter() - began


def _repeats(seconds: float, sample_s: float) -> int:
    return max(1, round(sample_s / max(seconds, 1e-7)))


def sampler(call: Callable[[], Any], sample_s: float = SAMPLE_S) -> Callable[[], float]:
    """A function that takes one sample of the call, in seconds per call."""
    _elapsed(call, 1)
    times = _repeats(min(_elapsed(call, 1) for _ in range(2)), sample_s)
    return lambda: _elapsed(call, times) / times


def measure(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int = 15, seconds: float = 2.0, sample_s: float = SAMPLE_S
) -> dict[str, Times]:
    """Time every contender, in turns.

    Args:
        calls: name → call; what it returns is waited for.
        rounds: samples per contender; fewer, but at least 3, where `seconds` would not suffice.
        seconds: rough limit for the whole comparison.
        sample_s: a sample repeats its call until it lasts about this long; less where `seconds` would not suffice.

    Returns:
        name → Times.
    """
    first = {name: _elapsed(call, 1) for name, call in calls.items()}
    warm = {name: min(_elapsed(call, 1) for _ in range(2)) for name, call in calls.items()}
    sample_s = min(sample_s, seconds / (3 * len(calls)))
    repeats = {name: _repeats(t, sample_s) for name, t in warm.items()}
    one_round = sum(warm[name] * (repeats[name] + (repeats[name] > 1)) for name in calls)
    rounds = max(min(3, rounds), min(rounds, int(seconds / max(one_round, 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        for name in order:
            samples[name].append(_elapsed(calls[name], repeats[name]) / repeats[name])
        order = order[1:] + order[:1]
    return {name: Times(first[name], samples[name]) for name in calls}


class Ratio(NamedTuple):
    """Median of a over median of b, with a 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def ratio(a: Sequence[float], b: Sequence[float], *, paired: bool = True, draws: int = 2000) -> Ratio:
    """How many times as long a takes as b: ratio of medians and its 95 % percentile bootstrap interval.

    Args:
        paired: a[i] and b[i] come from one round and are drawn together; False draws each side by itself.

    Raises:
        ValueError: no samples, or paired samples of different number.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.size == 0 or y.size == 0 or (paired and x.size != y.size):
        raise ValueError(f"ratio: samples of both sides are needed, as many of each if paired; got {x.size}, {y.size}.")
    random = np.random.default_rng(0)
    rows = random.integers(x.size, size=(draws, x.size))
    columns = rows if paired else random.integers(y.size, size=(draws, y.size))
    drawn = np.median(x[rows], axis=1) / np.median(y[columns], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Ratio(float(np.median(x) / np.median(y)), float(low), float(high))


def ratio_of_processes(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, paired: bool = False, draws: int = 2000
) -> Ratio:
    """As `ratio`, for samples from several processes each: processes are drawn first, then samples within them.

    A process has a speed of its own (where its memory lies, how its threads are placed), so its samples are no
    substitute for more processes.

    Args:
        paired: a[i] and b[i] were taken in turns, sample by sample, and are drawn together.
    """
    random = np.random.default_rng(0)

    def draw(sizes: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """Processes, and the samples within each."""
        return [(i, random.integers(sizes[i], size=sizes[i])) for i in random.integers(len(sizes), size=len(sizes))]

    def median(groups: Sequence[Sequence[float]], drawn: list[tuple[int, np.ndarray]]) -> float:
        return float(np.median([np.median(np.asarray(groups[i])[rows]) for i, rows in drawn]))

    ratios = []
    for _ in range(draws):
        drawn = draw([len(group) for group in a])
        ratios.append(median(a, drawn) / median(b, drawn if paired else draw([len(group) for group in b])))
    low, high = np.percentile(ratios, [2.5, 97.5])
    centre = np.median([np.median(group) for group in a]) / np.median([np.median(group) for group in b])
    return Ratio(float(centre), float(low), float(high))
