"""Many small networks at once: digits 64-128-10 nets of different seeds, time per network.

`train.sweep` against a loop in PyTorch and against the ways to write such a sweep by hand in JAX: one network after
another from one compiled program, on one thread or two; `lax.map`; `vmap`; and `lax.map` over host devices, one for
each of two cores, as many as XLA is told before it starts. On a CPU small batched products lose to sequential networks,
on an accelerator they win. All train the same networks, from the same initial params with the same rows in the same
order, and return the mean loss of every epoch and the final loss on the test rows. The loop in PyTorch takes as long
for each network however many there are, so it trains the first few.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.case import Setting
from benchmarks.peers import WorkerFailed, in_process, missing, skipped
from benchmarks.record import Record
from benchmarks.timing import ratio_of_processes
from benchmarks.workloads import WORKLOADS, Workload, data, epoch_order

SUITE = "sweep"
OURS = "jaxbias"
LOSS_BOUND = 1e-4
"""The mean losses of the first epoch may differ by this much, relatively, for every network: rounding of float32."""
TEST_BOUND = 0.03
"""The same for the final loss on the test rows, after all steps of Adam."""


class Size(NamedTuple):
    """How much of it: networks in all, networks of the loop in PyTorch, epochs, processes, samples in each of them.

    With no rounds the sample is the first call, which warms up otherwise.
    """

    networks: int
    torch_networks: int
    epochs: int
    processes: int
    rounds: int


SIZES = {"tiny": Size(2, 1, 2, 1, 0), "quick": Size(32, 2, 20, 1, 2), "full": Size(256, 6, 20, 3, 2)}


class Contender(NamedTuple):
    """How to start one; a contender that is not quick is left out of the quick set, a slow one takes one sample."""

    name: str
    options: dict[str, Any]
    quick: bool = True
    slow: bool = False

    @property
    def peer(self) -> str:
        return "torch" if "threads" in self.options else "jax"


TWO_DEVICES = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"}
CONTENDERS = (
    Contender(OURS, {"way": OURS}),
    Contender("jaxbias on 2 host devices", {"way": OURS, "env": TWO_DEVICES}),
    Contender("lax.map on 2 host devices", {"way": "lax.map on devices", "env": TWO_DEVICES}),
    Contender("one program on 2 threads", {"way": "threads"}, quick=False),
    Contender("one program in a loop", {"way": "loop"}, quick=False, slow=True),
    Contender("lax.map", {"way": "lax.map"}, quick=False, slow=True),
    Contender("vmap", {"way": "vmap"}, slow=True),
    *(
        Contender(
            f"torch loop, {threads} thread{'s' * (threads > 1)}{', fused' * fused}",
            {"threads": threads, "fused": fused},
            quick=fused and threads == 1,
        )
        for threads in (1, 2)
        for fused in (True, False)
    ),
)
TINY = (OURS, "lax.map", "torch loop, 1 thread, fused")


def chosen(setting: Setting) -> list[Contender]:
    """The contenders at this scale."""
    if setting.scale == "tiny":
        return [c for c in CONTENDERS if c.name in TINY]
    return [c for c in CONTENDERS if c.quick or setting.scale == "full"]


def run(setting: Setting) -> Iterator[list[Record]]:
    size = SIZES[setting.scale]
    workload = WORKLOADS["digits_dense"]._replace(epochs=size.epochs)
    case = f"digits 64-128-10, {size.networks} networks, {size.epochs} epochs"
    if not setting.asks_for(case):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npz"
        write(workload, size.torch_networks, path)
        answers: dict[str, list[dict[str, Any]]] = {}
        stopped: dict[str, Record] = {}
        for _ in range(size.processes):
            for contender in chosen(setting):
                if contender.name in stopped:
                    continue
                why = missing(contender.peer, setting)
                if why:
                    stopped[contender.name] = skipped(SUITE, case, contender.name, why)
                    continue
                try:
                    answers.setdefault(contender.name, []).append(_ask(contender, workload, path, size, setting))
                except WorkerFailed as error:
                    stopped[contender.name] = Record(SUITE, case, contender.name, status="failed", note=str(error))
        timed = {c.name: answers[c.name] for c in chosen(setting) if c.name in answers and c.name not in stopped}
        yield [*(_record(case, name, each, timed.get(OURS), size) for name, each in timed.items()), *stopped.values()]


def _ask(contender: Contender, workload: Workload, path: Path, size: Size, setting: Setting) -> dict[str, Any]:
    job = {"workload": workload._asdict(), "arrays": str(path), **contender.options}
    if contender.peer == "torch":
        job |= {"kind": "networks", "networks": size.torch_networks}
        return in_process("benchmarks.torch_worker", job, python=setting.pythons.get("torch"))
    job |= {"networks": size.networks, "rounds": min(1, size.rounds) if contender.slow else size.rounds}
    return in_process("benchmarks.bench_networks", job, env=job.pop("env", None))


def _record(case: str, name: str, answers: list[dict], ours: list[dict] | None, size: Size) -> Record:
    error, note = _disagreement(answers[0], ours[0]) if ours else (None, "")
    groups = [answer["samples"] for answer in answers]
    record = Record(
        SUITE, case, name, {"networks": size.networks, "epochs": size.epochs},
        status="wrong" if note else "ok",
        note=note,
        samples=[] if note else [s for group in groups for s in group],
        baseline=OURS,
        error=error,
        compile_s=statistics.median(answer["compile_s"] for answer in answers),
        extra={"processes": len(answers), "networks_trained": len(answers[0]["test_loss"])},
    )  # fmt: skip
    if "versions" in answers[0]:
        record.extra |= answers[0]["versions"]
    if ours and not note:
        record.times_baseline = list(ratio_of_processes(groups, [answer["samples"] for answer in ours]))
    return record


def _disagreement(answer: dict, ours: dict) -> tuple[float, str]:
    """Largest relative difference of the losses of any network both trained, and what is wrong ("" for nothing)."""
    count = len(answer["test_loss"])
    differences = {
        what: float(np.max(np.abs(np.divide(answer[what], ours[what][:count]) - 1)))
        for what in ("first_loss", "test_loss")
    }
    error = max(differences.values()) if np.all(np.isfinite(list(differences.values()))) else float("nan")
    if not differences["first_loss"] <= LOSS_BOUND:
        return error, f"losses of the first epoch differ by {differences['first_loss']:.2g} from {OURS}'s"
    if not differences["test_loss"] <= TEST_BOUND:
        return error, f"final losses differ by {differences['test_loss']:.2g} from {OURS}'s"
    return error, ""


# --- the networks -----------------------------------------------------------------------------------------------------


def network() -> Any:
    """64-128-10 with biases that are random, not zero, so that a contender that drops one is found out."""
    import jax

    from jaxbias import chain
    from jaxbias.layers import dense, relu

    bias = jax.nn.initializers.normal(0.1)
    return chain(dense.layer(128, bias_init=bias), relu, dense.layer(10, bias_init=bias))


def seeds(networks: int) -> Any:
    """The key of every network."""
    import jax

    return jax.random.split(jax.random.key(7), networks)


def start(key: Any, x: Any) -> tuple[Any, Any]:
    """Initial params and the key of the row orders, as the member of this key has them in `jb.train.sweep`."""
    import jax

    init_key, fit_key = jax.random.split(key)
    first, _, last = network().init(init_key, x)
    return [(first.weight, first.bias), (last.weight, last.bias)], fit_key


def write(workload: Workload, networks: int, path: Path) -> None:
    """Data, and for the first networks their initial params and row orders, for PyTorch to read."""
    arrays = data(workload)
    rows, batch = len(arrays["x"]), workload.batch
    for i, key in enumerate(seeds(max(SIZES["full"].torch_networks, networks))[:networks]):
        params, order_key = start(key, arrays["x"][:batch])
        for j, (weight, bias) in enumerate(params):
            arrays[f"network{i}_weight{j}"], arrays[f"network{i}_bias{j}"] = np.asarray(weight), np.asarray(bias)
        orders = [np.asarray(epoch_order(order_key, epoch, rows, batch)) for epoch in range(workload.epochs)]
        arrays[f"network{i}_order"] = np.concatenate(orders)
    np.savez(path, allow_pickle=False, **arrays)


# --- in the worker ----------------------------------------------------------------------------------------------------


def _worker(job: dict[str, Any]) -> dict[str, Any]:
    arrays = dict(np.load(job["arrays"]))
    return _sweep(job, arrays) if job["way"] == OURS else _by_hand(job, arrays)


def _training(job: dict[str, Any], arrays: dict[str, np.ndarray]) -> Callable[[Any], Any]:
    """`key -> (mean loss of each epoch, final test loss)`, written by hand with autodiff."""
    import jax
    import jax.numpy as jnp

    from benchmarks.contenders.plain import plain_forward
    from benchmarks.contenders.trainer import jax_step, loss_from

    workload = job["workload"]
    forward, loss_of = plain_forward("digits_dense"), loss_from(workload)
    optimizer, step = jax_step(forward, workload)
    x, y, x_test, y_test = (jnp.asarray(arrays[name]) for name in ("x", "y", "x_test", "y_test"))

    def train(key):
        params, order_key = start(key, x[: workload["batch"]])

        def one_epoch(carry, epoch):
            order = epoch_order(order_key, epoch, len(x), workload["batch"])
            carry, losses = jax.lax.scan(lambda carry, rows: step(carry, (x[rows], y[rows])), carry, order)
            return carry, losses.mean()

        carry = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(one_epoch, carry, jnp.arange(workload["epochs"]))
        return losses, loss_of(forward(params, x_test), y_test)

    return train


def _program(way: str, train: Callable, keys: Any) -> tuple[Callable[[], Any], float]:
    """(call that trains all networks, seconds of compiling)."""
    from concurrent.futures import ThreadPoolExecutor

    import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("seed",))
    spec = jax.sharding.PartitionSpec("seed")
    function = {
        "vmap": lambda: jax.vmap(train),
        "lax.map": lambda: lambda keys: jax.lax.map(train, keys),
        "lax.map on devices": lambda: jax.shard_map(
            lambda keys: jax.lax.map(train, keys), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        ),
        "loop": lambda: train,
        "threads": lambda: train,
    }[way]()
    if way == "lax.map on devices":
        keys = jax.device_put(keys, jax.sharding.NamedSharding(mesh, spec))
    one_by_one = list(keys) if way in ("loop", "threads") else [keys]
    began = time.perf_counter()
    compiled = jax.jit(function).lower(one_by_one[0]).compile()
    compile_s = time.perf_counter() - began
    pool = ThreadPoolExecutor(max_workers=2 if way == "threads" else 1)

    def call():
        found = list(pool.map(lambda key: jax.tree.map(np.asarray, compiled(key)), one_by_one))
        return found[0] if len(found) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *found)

    return call, compile_s


def _by_hand(job: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    call, compile_s = _program(job["way"], _training(job, arrays), seeds(job["networks"]))
    samples, losses, test_loss = [], np.empty(0), np.empty(0)
    for _ in range(1 + job["rounds"]):
        began = time.perf_counter()
        losses, test_loss = call()
        samples.append((time.perf_counter() - began) / job["networks"])
    return {
        "samples": samples[1:] or samples,
        "compile_s": compile_s,
        "first_loss": losses[:, 0].tolist(),
        "test_loss": test_loss.tolist(),
    }


def _sweep(job: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    import optax

    import jaxbias as jb

    workload = job["workload"]

    def call():
        return jb.train.sweep(
            network(), jb.losses.cross_entropy, (arrays["x"], arrays["y"]), optax.adam(workload["learning_rate"]),
            keys=seeds(job["networks"]), use_bias=(True,), epochs=workload["epochs"], batch_size=workload["batch"],
            validation=(arrays["x_test"], arrays["y_test"]),
        )  # fmt: skip

    done = [call() for _ in range(1 + job["rounds"])]  # each compiles its program anew, apart from its train_s
    samples = [each.train_s / job["networks"] for each in done]
    return {
        "samples": samples[1:] or samples,
        "compile_s": done[0].compile_s,
        "first_loss": done[0].results["loss"][0, 0, :, 0].tolist(),
        "test_loss": done[0].results["validation_loss"][0, 0].tolist(),
    }


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(_worker(json.loads(sys.argv[1]))))
