"""Which loop form of `train.fit` is the fastest, does "auto" choose it, and what does a stream cost beside it.

Three nets on random data of the digits' shape, "scan" against "steps" and against the same rows streamed from a mapped
file, for each way to the gradient, in turns in one process. Compiling is left out: the time is that of the epochs
between the first and the last call of `progress`.
"""

import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
import optax

import jaxbias as jb
from benchmarks.case import Setting
from benchmarks.record import Record
from benchmarks.timing import ratio
from jaxbias.layers import conv, dense, max_pool, relu, reshape

SUITE = "fit_loop"
NETS = {
    "two units": (jb.chain(dense.layer(2), relu, dense.layer(10)), (64,)),
    "dense": (jb.chain(dense.layer(128), relu, dense.layer(10)), (64,)),
    "conv": (
        jb.chain(
            *(conv.layer(16, (3, 3), padding="SAME"), relu, max_pool.layer(2)),
            *(conv.layer(32, (3, 3), padding="SAME"), relu, max_pool.layer(2)),
            reshape.layer(),
            dense.layer(10),
        ),
        (8, 8, 1),
    ),
}
NOTES = {"auto": 'what "auto" chooses', "stream": "rows of a mapped file, read while steps run"}
LOSS_BOUND = 1e-3
"""Both loops must have trained the same net: their last losses may differ by this much, relatively."""


def seconds_per_step(network, params, data, how, loop, epochs):
    """Time from the end of the first call of the compiled program to the end of the last, and the last loss."""
    seen = []
    fitted = jb.train.fit(
        network, jb.losses.cross_entropy, params, data, optax.adam(1e-3), epochs=epochs, batch_size=64,
        key=jax.random.key(1), how=how, loop=loop, progress=lambda p: seen.append((time.perf_counter(), p.epoch)),
    )  # fmt: skip
    (began, first), (ended, last) = seen[0], seen[-1]
    return (ended - began) / ((last - first) * (len(data[0]) // 64)), float(fitted.history["loss"][-1])


def run(setting: Setting) -> Iterator[list[Record]]:
    rows, epochs, repeats = {"tiny": (128, 2, 1), "quick": (1437, 5, 2), "full": (1437, 10, 5)}[setting.scale]
    names = {"tiny": ["two units"], "quick": ["dense", "conv"], "full": list(NETS)}[setting.scale]
    generator = np.random.default_rng(0)
    for name in names:
        network, shape = NETS[name]
        x = generator.normal(size=(rows, *shape)).astype(np.float32)
        data = x, generator.integers(0, 10, rows).astype(np.int32)
        params = network.init(jax.random.key(0), x[:1])
        for how in ("delta", "autodiff") if setting.scale == "full" else ("delta",):
            if not setting.asks_for(f"{name}, {how}"):
                continue
            yield _compare(f"{name}, {how}", network, params, data, how, epochs, repeats)


def _compare(case, network, params, data, how, epochs, repeats) -> list[Record]:
    times: dict[str, list[float]] = {"scan": [], "steps": [], "stream": []}
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        np.savez(f"{directory}/rows.npz", x=data[0], y=data[1])
        rows = jb.data.mapped(f"{directory}/rows.npz")
        ways = {"scan": (data, "scan"), "steps": (data, "steps"), "stream": ((rows["x"], rows["y"]), "auto")}
        for _ in range(repeats):
            for name, (given, loop) in ways.items():
                taken, losses[name] = seconds_per_step(network, params, given, how, loop, epochs)
                times[name].append(taken)
        del rows, ways  # systems that lock mapped files delete them then
    chosen = jb.train.choose_loop(network, how)
    error = max(abs(losses["scan"] / loss - 1) for loss in losses.values())
    if not error <= LOSS_BOUND:
        note = f"they end at the losses {losses}"
        return [Record(SUITE, case, "scan", status="wrong", note=note, error=error)]
    return [
        Record(
            SUITE, case, loop, {"rows": len(data[0]), "batch": 64}, samples=found, baseline=chosen, error=error,
            times_baseline=list(ratio(found, times[chosen])), note=NOTES.get("auto" if loop == chosen else loop, ""),
        )
        for loop, found in times.items()
    ]  # fmt: skip
