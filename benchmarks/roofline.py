"""The physical limit, measured in the same run: the matrix-product peak and the memory bandwidth of this device.

A program with F floating-point operations and B bytes of unavoidable traffic (its arguments and outputs, once each)
cannot be faster than t = max(F / peak, B / bandwidth). The share of the roofline is t over the measured time. It can
exceed 1 where the data stay in a cache that is faster than memory.
"""

import statistics
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import compile_apart, measure


def matmul_peak(n: int, dtype: Any, *, rounds: int = 7) -> float:
    """Floating-point operations per second of one n × n matrix product (2 n³ of them), median."""
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    program = compile_apart(lambda a, b: a @ b, a, a + jnp.ones((), dtype))
    return 2 * n**3 / statistics.median(measure({"matmul": program.call}, rounds=rounds)["matmul"].samples)


def bandwidth(entries: int, *, rounds: int = 7) -> dict[str, float]:
    """Bytes per second of z = a x + y over float32 arrays of `entries` (two read, one written), and of a sum."""
    x = jnp.ones(entries, jnp.float32)
    triad = compile_apart(lambda x, y: 2.5 * x + y, x, x)
    read = compile_apart(jnp.sum, x)
    times = measure({"triad": triad.call, "read": read.call}, rounds=rounds)
    return {
        "triad": 3 * 4 * entries / statistics.median(times["triad"].samples),
        "read": 4 * entries / statistics.median(times["read"].samples),
    }


def limits(scale: str) -> dict[str, float]:
    """Peaks in FLOP/s by dtype, and memory bandwidth in bytes/s, of this device."""
    on_cpu = jax.default_backend() == "cpu"
    n = {"tiny": 64, "quick": 2048 if on_cpu else 8192, "full": 2048 if on_cpu else 8192}[scale]
    entries = 2**12 if scale == "tiny" else 2**24 if on_cpu else 2**28
    memory = bandwidth(entries)
    return {
        "matmul_float32": matmul_peak(n, jnp.float32),
        "matmul_bfloat16": matmul_peak(n, jnp.bfloat16, rounds=3),
        "memory_triad": memory["triad"],
        "memory_read": memory["read"],
    }


def share(limits: dict[str, float], dtype: str, seconds: float, flops: float | None, traffic: float | None):
    """Share of the roofline that `seconds` reaches; None where the limit or the counts are unknown."""
    peak, memory = limits.get(f"matmul_{dtype}"), limits.get("memory_triad")
    bounds = [flops / peak] if flops and peak else []
    bounds += [traffic / memory] if traffic and memory else []
    return max(bounds) / seconds if bounds else None
