"""How time and memory grow with batch, width, depth and parameters: fitted exponents, and where they bend.

For each sweep of one size n the time t = c n^p of a loss and its gradient is fitted by least squares of log t on log n;
the interval is a bootstrap over the rounds, in which the sizes take turns. The ideal exponent is that of the operations
counted.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import roofline
from benchmarks.case import Setting, out_of_memory
from benchmarks.record import Record, note_of
from benchmarks.timing import compile_apart, measure
from jaxbias import chain, losses, value_and_grad
from jaxbias.layers import dense, relu

SUITE = "scaling"
SWEEPS: dict[str, dict[str, Sequence[int]]] = {
    "batch": {"tiny": (1, 2), "quick": (16, 64, 256, 1024), "full": (1, 4, 16, 64, 256, 1024, 4096)},
    "width": {"tiny": (2, 4), "quick": (64, 128, 256, 512), "full": (32, 64, 128, 256, 512, 1024, 2048)},
    "depth": {"tiny": (1, 2), "quick": (1, 2, 4, 8), "full": (1, 2, 4, 8, 16, 32)},
}
IDEAL = {"batch": 1.0, "width": 2.0, "depth": 1.0}
"""Exponents of the operations of a square dense network in each size."""


def sizes_of(sweep: str, n: int, scale: str) -> dict[str, int]:
    """batch, width and depth of the network at point n of a sweep."""
    rest = {"batch": 4, "width": 4, "depth": 2} if scale == "tiny" else {"batch": 256, "width": 256, "depth": 2}
    return {**rest, sweep: n}


def flops(batch: int, width: int, depth: int) -> float:
    """Three products per layer (z, ∂L/∂W, δ for the layer below; the first layer needs no δ) of 2 n width² each."""
    return 2 * batch * width * width * (3 * depth - 1)


def problem(batch: int, width: int, depth: int) -> tuple[Any, tuple[Any, ...]]:
    """(value_and_grad, args) of `depth` dense layers with ReLU and mean squared error."""
    layers = [layer for _ in range(depth) for layer in (dense.layer(width, weight_init=_he), relu)]
    network = chain(*layers[:-1])
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, width))
    targets = jax.random.normal(keys[1], (batch, width))
    return value_and_grad(network, losses.mean_squared_error), (network.init(keys[2], x), x, targets)


def _he(key, shape, dtype):
    return jax.nn.initializers.he_normal()(key, shape, dtype)


def run(setting: Setting) -> Iterator[list[Record]]:
    for sweep in filter(setting.asks_for, SWEEPS):
        yield _sweep(sweep, setting)


def _sweep(sweep: str, setting: Setting) -> list[Record]:
    """All sizes that compile and run once, timed in turns, and what is fitted to them."""
    records, programs = {}, {}
    for n in SWEEPS[sweep][setting.scale]:
        sizes = sizes_of(sweep, n, setting.scale)
        records[n] = record = Record(SUITE, sweep, str(n), sizes=sizes)
        try:
            gradient, args = problem(**sizes)
            program = compile_apart(gradient, *args)
            jax.block_until_ready(program.call())
        except Exception as error:
            record.status = "out of memory" if out_of_memory(error) else "failed"
            record.note = note_of(error)
            continue
        programs[str(n)] = program
        record.compile_s, record.temp_bytes = program.compile_s, program.temp_bytes
        record.flops, record.flops_from = flops(**sizes), "counted"
        record.bytes = (program.argument_bytes or 0) + (program.output_bytes or 0)
        record.extra = {"params": sum(leaf.size for leaf in jax.tree.leaves(args[0]))}
    calls = {n: program.call for n, program in programs.items()}
    times = measure(calls, rounds=setting.rounds, seconds=len(calls) * setting.seconds)
    timed = [record for record in records.values() if record.contender in times]
    for record in timed:
        record.samples, record.first_s = times[record.contender].samples, times[record.contender].first_s
        assert record.median is not None
        record.roofline = roofline.share(dict(setting.limits), record.dtype, record.median, record.flops, record.bytes)
    fits = [_fitted(sweep, timed, "all sizes")] if len(timed) >= 2 else []
    if len(timed) >= 4:
        fits.append(_fitted(sweep, timed[len(timed) // 2 :], "upper half"))  # beyond the fixed costs
    if fits:
        fits[0].extra["bends"] = bends(timed, IDEAL[sweep], dict(setting.limits))
    return [*records.values(), *fits]


def _fitted(sweep: str, timed: Sequence[Record], which: str) -> Record:
    points = [int(record.contender) for record in timed]
    exponent, low, high = exponent_of(points, [record.samples for record in timed])
    figures = {"exponent": exponent, "low": low, "high": high, "ideal": IDEAL[sweep], "points": points}
    return Record(SUITE, sweep, f"exponent, {which}", extra=figures)


def exponent_of(points: Sequence[int], samples: Sequence[Sequence[float]], draws: int = 2000) -> tuple[float, ...]:
    """(p, low, high) of t = c n^p, with a 95 % bootstrap interval over the rounds, each with one sample of a point."""
    x, table = np.log(points), np.asarray(samples)
    rounds = np.random.default_rng(0).integers(table.shape[1], size=(draws, table.shape[1]))
    drawn = np.polyfit(x, np.log(np.median(table[:, rounds], axis=-1)), 1)[0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.polyfit(x, np.log(np.median(table, axis=1)), 1)[0]), float(low), float(high)


def bends(timed: Sequence[Record], ideal: float, limits: dict[str, float]) -> list[str]:
    """Where the exponent between neighbouring sizes is more than 30 % off the ideal one, and what changes there.

    The bound of the roofline is the larger of operations over peak and bytes over bandwidth, so a time leaves the
    ideal power where memory is the bound, or where its share of the roofline changes.
    """
    if not all(record.roofline for record in timed):
        return []
    found = []
    for small, large in itertools.pairwise(timed):
        growth = math.log(int(large.contender) / int(small.contender))
        exponent = math.log((large.median or 1) / (small.median or 1)) / growth
        if abs(exponent - ideal) <= 0.3 * ideal:
            continue
        share = [100 * (record.roofline or 0) for record in (small, large)]
        shares = f"the share of the roofline goes from {share[0]:.0f} to {share[1]:.0f} %"
        by_memory = (small.bytes or 0) / limits["memory_triad"] > (small.flops or 0) / limits["matmul_float32"]
        if exponent < ideal and by_memory:
            why = "reading the params and writing their gradients takes longer than the products"
        elif exponent < ideal:
            why = f"{shares}: smaller products stay further below the peak"
        else:
            held = [((r.bytes or 0) + (r.temp_bytes or 0)) / 2**20 for r in (small, large)]
            why = f"{shares}: the arrays of a call grow from {held[0]:.1f} to {held[1]:.1f} MiB, out of the caches"
        found.append(f"{small.contender} → {large.contender}: exponent {exponent:.2f}; {why}")
    return found
