"""Many small networks at once: digits 64-128-10 nets of different seeds, time per network.

The ways to batch them: one after another from one compiled program, `lax.map`, `vmap`, and this library's sweep. On a
CPU small batched products lose to sequential networks, on an accelerator they win: the choice is by backend. `lax.map`
over host devices, one per core, needs a process of its own: XLA is told the number of devices before it starts.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Setting
from benchmarks.peers import WorkerFailed, in_process
from benchmarks.record import Record
from benchmarks.timing import ratio_of_processes
from benchmarks.workloads import WORKLOADS, write

SUITE = "sweep"
NETWORKS = {"tiny": 2, "quick": 16, "full": 256}
WAYS = ("jaxbias", "lax.map", "vmap", "loop over one program", "lax.map on 2 host devices")
SLOW = ("vmap", "loop over one program")
LOSS_BOUND = 1e-3
"""Mean training losses over all steps may differ by this much, relatively, between two ways to batch."""


def run(setting: Setting) -> Iterator[list[Record]]:
    count = NETWORKS[setting.scale]
    workload = WORKLOADS["digits_dense"]._replace(epochs=20 if setting.scale == "full" else 2)
    processes = 2 if setting.scale == "full" else 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npz"
        write(workload, path)
        answers: dict[str, list[dict]] = {}
        records: dict[str, Record] = {}
        case = f"digits 64-128-10, {count} networks, {workload.epochs} epochs"
        for _ in range(processes):
            for way in WAYS[:2] if setting.scale == "tiny" else WAYS:
                if way in records:
                    continue
                job = {"way": way, "networks": count, "workload": workload._asdict(), "arrays": str(path)}
                flags = "--xla_force_host_platform_device_count=2" if way.endswith("host devices") else ""
                try:
                    answer = in_process("benchmarks.bench_networks", job, env={"XLA_FLAGS": flags} if flags else {})
                except WorkerFailed as error:
                    records[way] = Record(SUITE, case, way, status="failed", note=str(error))
                    continue
                answers.setdefault(way, []).append(answer)
        yield [*records.values(), *_records(case, count, answers)]


def _records(case: str, count: int, answers: dict[str, list[dict]]) -> list[Record]:
    """Seconds per network; the reference loss is that of lax.map."""
    expected = answers["lax.map"][0]["mean_loss"] if "lax.map" in answers else None
    found = []
    for way, each in answers.items():
        error = abs(each[0]["mean_loss"] / expected - 1) if expected else None
        record = Record(SUITE, case, way, {"networks": count}, baseline="lax.map", error=error)
        record.compile_s = each[0]["compile_s"]
        record.extra = {"mean_loss": each[0]["mean_loss"], "score": each[0]["score"]}
        # jaxbias draws its own networks and orders, so only its score can be compared
        if way != "jaxbias" and error is not None and not error <= LOSS_BOUND:
            record.status, record.note = "wrong", f"mean loss differs by {error:.2g} from lax.map's"
        else:
            groups = [answer["samples"] for answer in each]
            record.samples = [s for group in groups for s in group]
            if "lax.map" in answers:
                base = [answer["samples"] for answer in answers["lax.map"]]
                record.times_baseline = list(ratio_of_processes(groups, base))
        found.append(record)
    return found


# --- in the worker ----------------------------------------------------------------------------------------------------


def _training(job: dict[str, Any], arrays: dict[str, np.ndarray]):
    """(train of one seed, seeds): a scanned training of one network, with the rows of `arrays["order"]`."""
    import jax
    import jax.numpy as jnp

    from benchmarks.training_worker import _jax_step, _plain_forward

    workload = job["workload"]
    optimizer, step = _jax_step(_plain_forward(workload["name"]), workload)
    x, y, order = (jnp.asarray(arrays[k]) for k in ("x", "y", "order"))
    draw = jax.nn.initializers.he_normal()

    def train(seed):
        keys = jax.random.split(jax.random.key(seed), 2)
        params = [(draw(k, s), jnp.zeros(s[1])) for k, s in zip(keys, [(64, 128), (128, 10)])]
        carry = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(lambda carry, rows: step(carry, (x[rows], y[rows])), carry, order)
        return params, losses.mean()

    return train, jnp.arange(job["networks"])


def _by_hand(way: str, train: Callable, seeds: Any):
    import jax

    if way == "lax.map":
        return jax.jit(lambda seeds: jax.lax.map(train, seeds)), seeds
    if way == "vmap":
        return jax.jit(jax.vmap(train)), seeds
    if way == "loop over one program":
        return jax.jit(train), seeds
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("seeds",))
    spec = jax.sharding.PartitionSpec("seeds")
    mapped = jax.shard_map(
        lambda seeds: jax.lax.map(train, seeds), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return jax.jit(mapped), jax.device_put(seeds, jax.sharding.NamedSharding(mesh, spec))


def _worker(job: dict[str, Any]) -> dict[str, Any]:
    import jax

    arrays = dict(np.load(job["arrays"]))
    if job["way"] == "jaxbias":
        return _sweep(job, arrays)
    train, seeds = _training(job, arrays)
    function, seeds = _by_hand(job["way"], train, seeds)
    looped = job["way"] == "loop over one program"
    began = time.perf_counter()
    compiled = function.lower(seeds[0] if looped else seeds).compile()
    compile_s = time.perf_counter() - began

    def call():
        if looped:
            results = [compiled(seed) for seed in seeds]
            return jax.tree.map(lambda *leaves: np.stack(leaves), *results)
        return jax.block_until_ready(compiled(seeds))

    call()  # warms up
    began = time.perf_counter()
    params, losses = call()
    per_network = (time.perf_counter() - began) / job["networks"]
    from benchmarks.training_worker import _plain_forward

    first = jax.tree.map(lambda leaf: leaf[0], params)
    out = _plain_forward(job["workload"]["name"])(first, arrays["x_test"])
    score = float((np.asarray(out).argmax(1) == arrays["y_test"]).mean())
    return {"samples": [per_network], "compile_s": compile_s, "mean_loss": float(np.mean(losses)), "score": score}


def _sweep(job: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    import jax
    import optax

    import jaxbias as jb
    from benchmarks.workloads import network

    workload = job["workload"]
    done = jb.train.sweep(
        network(workload["name"]), jb.losses.cross_entropy, (arrays["x"], arrays["y"]),
        optax.adam(workload["learning_rate"]), keys=jax.random.split(jax.random.key(0), job["networks"]),
        use_bias=(True,), epochs=workload["epochs"], batch_size=workload["batch"],
        validation=(arrays["x_test"], arrays["y_test"]), metrics={"accuracy": jb.train.accuracy},
    )  # fmt: skip
    return {
        "samples": [done.train_s / job["networks"]],
        "compile_s": done.compile_s,
        "mean_loss": float(done.results["loss"].mean()),
        "score": float(done.final("validation_accuracy").mean()),
    }


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(_worker(json.loads(sys.argv[1]))))
