"""Which loop form of `train.fit` is the fastest, does "auto" choose it, and what does a stream cost beside it.

Three nets on random data of the digits' shape and the language model of the workload "text", "scan" against "steps" and
against the same rows streamed from a mapped file and from a loader, for each way to the gradient, in turns in one
process. Compiling is left out: the time is that of the epochs between the first and the last call of `progress`.
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
from benchmarks.workloads import epoch_order, language_model
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
NOTES = {
    "auto": 'what "auto" chooses',
    "stream": "rows of a mapped file, read while steps run",
    "loader": "batches of an iterable, read while steps run",
}
TEXT = {"batch": 16, "context": 64, "classes": 128}
KEY = 1
BATCH = 64
LOSS_BOUND = 1e-3
"""All must have trained the same net: their last losses may differ by this much, relatively."""


def seconds_per_step(network, params, data, how, loop, epochs, *, batch=BATCH, **where):
    """Seconds and seconds of the processor for a step, from the first to the last call of the program; the loss."""
    seen = []
    fitted = jb.train.fit(
        network, jb.losses.cross_entropy, params, data, optax.adam(1e-3), epochs=epochs, batch_size=batch,
        key=jax.random.key(KEY), how=how, loop=loop, **where,
        progress=lambda p: seen.append((time.perf_counter(), time.process_time(), p.epoch)),
    )  # fmt: skip
    steps = fitted.history["step_loss"].shape[1]
    (began, by_processor, first), (ended, processor_ended, last) = seen[0], seen[-1]
    taken = (last - first) * steps
    loss = float(fitted.history["loss"][-1])
    return (ended - began) / taken, (processor_ended - by_processor) / taken, loss


def run(setting: Setting) -> Iterator[list[Record]]:
    rows, epochs, repeats = {"tiny": (128, 2, 1), "quick": (1437, 10, 5), "full": (1437, 30, 9)}[setting.scale]
    names = {"tiny": ["two units"], "quick": ["dense", "conv"], "full": list(NETS)}[setting.scale]
    generator = np.random.default_rng(0)
    for name in names:
        network, shape = NETS[name]
        x = generator.normal(size=(rows, *shape)).astype(np.float32)
        data = x, generator.integers(0, 10, rows).astype(np.int32)
        for how in ("delta", "autodiff") if setting.scale == "full" else ("delta",):
            if setting.asks_for(f"{name}, {how}"):
                yield _compare(f"{name}, {how}", network, data, how, BATCH, epochs, repeats)
    if setting.scale != "tiny" and setting.asks_for("language model, delta"):
        ids = generator.integers(0, TEXT["classes"], (rows // 4, TEXT["context"] + 1)).astype(np.int32)
        network = language_model(TEXT["context"], classes=TEXT["classes"])
        yield _compare(
            "language model, delta", network, (ids[:, :-1], ids[:, 1:]), "delta", TEXT["batch"], epochs, repeats
        )


class _Loader:
    """The rows that `fit` draws from arrays, as the batches of a loader."""

    def __init__(self, data, batch, epochs):
        self.data, self.batch, self.epoch = data, batch, 0
        self.orders = [np.asarray(epoch_order(jax.random.key(KEY), i, len(data[0]), batch)) for i in range(epochs)]

    def __len__(self):
        return len(self.data[0]) // self.batch

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for rows in self.orders[self.epoch]:
            yield tuple(array[rows] for array in self.data)


def _compare(case, network, data, how, batch, epochs, repeats) -> list[Record]:
    params = network.init(jax.random.key(0), data[0][:1])
    ways = ("scan", "steps", "stream", "loader")
    times: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        np.savez(f"{directory}/rows.npz", x=data[0], y=data[1])
        rows = jb.data.mapped(f"{directory}/rows.npz")
        given = {"stream": (rows["x"], rows["y"]), "loader": _Loader(data, batch, epochs)}
        for _ in range(repeats):
            for way in ways:
                loop = "auto" if way in given else way
                taken, by_processor, losses[way] = seconds_per_step(
                    network, params, given.get(way, data), how, loop, epochs, batch=batch
                )
                times[way].append(taken)
                processor[way].append(by_processor)
            ways = (*ways[1:], ways[0])
        del rows, given  # systems that lock mapped files delete them then
    chosen = jb.train.choose_loop(network, how)
    error = max(abs(losses["scan"] / loss - 1) for loss in losses.values())
    if not error <= LOSS_BOUND:
        note = f"they end at the losses {losses}"
        return [Record(SUITE, case, "scan", status="wrong", note=note, error=error)]
    return [
        Record(
            SUITE, case, way, {"rows": len(data[0]), "batch": batch}, samples=found, baseline=chosen, error=error,
            times_baseline=list(ratio(found, times[chosen])), note=NOTES.get("auto" if way == chosen else way, ""),
            extra={"processor_times_baseline": list(ratio(processor[way], processor[chosen]))},
        )
        for way, found in times.items()
    ]  # fmt: skip
