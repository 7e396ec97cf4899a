"""What a step costs on more devices than one, with as many rows on each: bytes moved and work, compiled, not run.

A training step is compiled for 1 to 1,024 TPU chips and 1 to 16 GPUs, cut by rows, and cut by rows and by role
(`jb.shardings`). The collectives of the compiled program stand beside what they must be by formula. `step_of` says how
much of a step is work by the figures of a data sheet. What this machine can run itself are fake devices of one CPU and
processes with gloo: the same rows in all, so the ratio is overhead, and the loss must be the same.

`python -m docs.beyond_one_chip` writes the page from the results file.
"""

import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbias as jb
from benchmarks.bench_backends import training_step
from benchmarks.bench_fit_loop import LOSS_BOUND, seconds_per_step
from benchmarks.case import Setting
from benchmarks.compiled import COMPILED, Target, compiled_record, facts_of_compiled
from benchmarks.peers import WorkerFailed, in_process
from benchmarks.record import Record
from benchmarks.timing import ratio
from jaxbias.layers import dense, gelu, layer_norm, relu

SUITE = "weak_scaling"
TOPOLOGIES = {
    "tiny": [],
    "quick": ["v5e:2x2"],
    "full": ["v5e:2x2", "v5e:8x8", "v5e:16x16", "v5p:8x8x16"],
}
GPUS = {"tiny": [], "quick": [8], "full": [8, 16]}
CPUS = {"tiny": [4], "quick": [8], "full": [8]}
"""Fake devices of a CPU, for which a program can be compiled everywhere."""
PROGRAMS = ("rows", "rows and roles")
MODEL = 4
"""Devices that the params of "rows and roles" are cut over."""

HERE = {"tiny": (1, 2), "quick": (1, 2, 4, 8), "full": (1, 2, 4, 8)}
"""Fake devices of one CPU; as many processes as two are tried as well."""


class Chip(NamedTuple):
    """Of a data sheet: FLOP/s in bfloat16, bytes per second of memory, and bytes per second sent over all links."""

    flops: float
    memory: float
    links: float


CHIPS = {
    # Google Cloud's pages on TPU v5e and v5p (1,600 and 4,800 Gbit/s between chips); NVIDIA's on H100 SXM (NVLink 4:
    # 900 GB/s in both directions).
    "v5e": Chip(197e12, 819e9, 200e9),
    "v5p": Chip(459e12, 2765e9, 600e9),
    "H100": Chip(989e12, 3352e9, 450e9),
}
BETWEEN_HOSTS = 400e9
"""Bytes per second from one host with eight H100 to another, at 400 Gbit/s for each of them."""


# --- compiled ---------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A training step for a mesh.

    Attributes:
        function, args: to compile; args are shapes with their shardings.
        formula_bytes: what each device must send, with gradients and activations in bfloat16, the loss in float32.
        products: floating-point operations of the products on each device.
    """

    function: Any
    args: tuple[Any, ...]
    formula_bytes: float
    products: float

    @property
    def out_shardings(self) -> Any:
        return jax.tree.map(lambda leaf: leaf.sharding, self.args[0]), None


def by_rows(mesh: Any, rows: int, width: int) -> Step:
    """Params whole on every device: a dense layer, GELU and ten outputs. The gradient is summed over all devices."""
    network = jb.chain(dense.layer(width), gelu, dense.layer(10))
    step, args, _ = training_step(network, jax.ShapeDtypeStruct((rows * mesh.shape["data"], width), jnp.bfloat16))
    entries = width * width + width + width * 10 + 10
    moved = ring(2 * entries + 4, mesh.shape["data"])
    return Step(step, _placed(args, mesh, P()), moved, 2 * rows * (2 * width * width + 3 * width * 10))


def by_rows_and_roles(mesh: Any, rows: int, width: int, blocks: int = 2) -> Step:
    """Blocks of norm, dense to four times the width, GELU, dense and back, cut by `jb.shardings` over "model".

    Each block sums over "model" what its second product gives, and in the backward pass the error signal that its first
    hands down; each device sums over "data" the gradient of the params that it has.
    """
    data, model = mesh.shape["data"], mesh.shape["model"]
    block = lambda: jb.residual(jb.chain(layer_norm.layer(), dense.layer(4 * width), gelu, dense.layer(width)))
    network = jb.chain(*(block() for _ in range(blocks)), dense.layer(10))
    step, args, _ = training_step(network, jax.ShapeDtypeStruct((rows * data, width), jnp.bfloat16))
    specs = jb.shardings(lambda p, x: network.forward(p, x)[0], args[0][0], args[1], mesh=mesh)
    cut, whole = 4 * width * (2 * width + 1), 3 * width
    entries = blocks * (cut // model + whole) + width * 10 + 10
    moved = ring(2 * entries + 4, data) + 2 * blocks * ring(2 * rows * width, model)
    return Step(step, _placed(args, mesh, specs), moved, 6 * rows * (blocks * 8 * width * width // model + width * 10))


def ring(size: float, devices: int) -> float:
    """Bytes that each of so many devices sends to sum arrays of that size: reduce-scatter, then all-gather."""
    return 2 * (devices - 1) / devices * size


def _placed(args: tuple[Any, ...], mesh: Any, specs: Any) -> tuple[Any, ...]:
    """Params and Adam's moments as the specs say, x and labels by rows."""
    import optax

    (params, opt_state), *data = args
    if isinstance(specs, P):
        specs = jax.tree.map(lambda _: specs, params)
    of_state = optax.tree.map_params(
        optax.adam(1e-3), lambda _, spec: spec, opt_state, specs, transform_non_params=lambda _: P()
    )

    def place(leaf, spec):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, (params, opt_state), (specs, of_state)), *(place(array, P("data")) for array in data)


def _targets(scale: str) -> Iterator[Target]:
    """With one chip of the first topology of each generation, as what the others are set beside."""
    seen = set()
    for name in TOPOLOGIES[scale]:
        target = Target.tpu(name)
        if target.chip not in seen:
            yield target._replace(chips=1)
        seen.add(target.chip)
        yield target
    for gpus in ([1] if GPUS[scale] else []) + GPUS[scale]:
        yield Target("H100", "", gpus)
    for devices in CPUS[scale]:
        yield Target("CPU", "", devices)


def _compiled(setting: Setting) -> Iterator[list[Record]]:
    for target in _targets(setting.scale):
        case = f"{target.chips} {target.chip}"
        if not setting.asks_for(case):
            continue
        python = setting.pythons.get("libtpu") if target.platform == "tpu" else None
        if target.missing and not python:
            yield [Record(SUITE, case, "all", status="skipped", note=target.missing, measured=COMPILED)]
            continue
        rows, width = (8, 16) if setting.scale == "tiny" else (1024, 2048)
        job = {"target": target, "rows": rows, "width": width}
        try:
            answers = in_process(
                "benchmarks.bench_weak_scaling", job, python=python, env=target.environment, timeout=900
            )
        except WorkerFailed as error:
            yield [Record(SUITE, case, "all", status="failed", note=str(error), measured=COMPILED)]
            continue
        yield [compiled_record(SUITE, case, answer) for answer in answers]


def compile_for(target: Target, rows: int, width: int) -> list[dict[str, Any]]:
    """What the compiler makes of each program, in this process, and what it must be by formula."""
    answers = []
    for name in PROGRAMS:
        if name == "rows":
            step = by_rows(target.mesh(data=target.chips), rows, width)
        elif target.chips % MODEL:
            continue
        else:
            step = by_rows_and_roles(target.mesh(data=target.chips // MODEL, model=MODEL), rows, width)
        sizes = {"chips": target.chips, "rows": rows, "width": width}
        facts = facts_of_compiled(
            step.function, step.args, target.platform, target.chips, out_shardings=step.out_shardings
        )
        formula = {"formula_bytes": step.formula_bytes, "products_flops": step.products}
        answers.append({"contender": name, "dtype": "bfloat16", "sizes": sizes, **facts, **formula})
    return answers


def step_of(record: Record, chip: str) -> tuple[float, float]:
    """Seconds of work and seconds on the links, at the full rates of the data sheet: neither is ever that fast.

    Work is what the compiler counts, operations or bytes of memory, whichever takes longer; for GPUs it counts neither,
    and the operations of the products stand for it.
    """
    rates = CHIPS[chip]
    work = max((record.flops or record.extra["products_flops"]) / rates.flops, (record.bytes or 0) / rates.memory)
    links = min(rates.links, BETWEEN_HOSTS) if chip == "H100" and record.sizes["chips"] > 8 else rates.links
    return work, record.extra["sent_bytes"] / links


# --- run here ---------------------------------------------------------------------------------------------------------


def _measured(setting: Setting) -> Iterator[list[Record]]:
    """Fresh processes in turns, as the number of devices cannot change in one."""
    rounds = {"tiny": 1, "quick": 2, "full": 5}[setting.scale]
    settings = [("devices of one CPU", n) for n in HERE[setting.scale]] + [("processes", n) for n in (1, 2)]
    settings = [(case, n) for case, n in settings if setting.asks_for(case)]
    answers: dict[tuple[str, int], list[dict[str, Any]]] = {asked: [] for asked in settings}
    failed: dict[tuple[str, int], str] = {}
    for _ in range(rounds):
        for case, n in settings:
            try:
                answers[case, n].append(_run_here(case, n, setting.scale))
            except WorkerFailed as error:
                failed[case, n] = str(error)
    for case in dict.fromkeys(case for case, _ in settings):
        yield [_here(case, n, answers, failed) for _, n in settings if _ == case]


def _here(case: str, n: int, answers: dict[tuple[str, int], list[dict[str, Any]]], failed: Any) -> Record:
    if (case, n) in failed or (case, 1) in failed:
        return Record(SUITE, case, str(n), status="failed", note=failed.get((case, n)) or failed[case, 1])
    own, one = answers[case, n], answers[case, 1]
    times = [answer["seconds"] for answer in own]
    error = max(abs(answer["loss"] / one[0]["loss"] - 1) for answer in own)
    record = Record(SUITE, case, str(n), own[0]["sizes"], samples=times, baseline="1", error=error)
    record.times_baseline = list(ratio(times, [answer["seconds"] for answer in one]))
    record.extra = {"processor_s": float(np.median([answer["processor"] for answer in own]))}
    if not error <= LOSS_BOUND:
        record.status, record.note, record.samples = "wrong", f"the last loss differs by {error:.1e}", []
    return record


def _run_here(case: str, n: int, scale: str) -> dict[str, Any]:
    """What the first of the processes says; of the processor's time, what all have taken."""
    processes = n if case == "processes" else 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={n // processes}"}
    jobs = [{"processes": processes, "index": i, "port": port, "scale": scale} for i in range(processes)]
    with ThreadPoolExecutor(processes) as threads:
        of_all = [*threads.map(lambda job: in_process("benchmarks.bench_weak_scaling", job, env=env), jobs)]
    return {**of_all[0], "processor": sum(answer["processor"] for answer in of_all)}


def _train_here(job: dict[str, Any]) -> dict[str, Any]:
    if job["processes"] > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{job['port']}", job["processes"], job["index"])
    rows, width, epochs = (64, 8, 2) if job["scale"] == "tiny" else (2048, 256, 20)
    generator = np.random.default_rng(0)
    data = generator.normal(size=(rows, 64)).astype(np.float32), generator.integers(0, 10, rows).astype(np.int32)
    network = jb.chain(dense.layer(width), relu, dense.layer(10))
    params = network.init(jax.random.key(0), data[0][:1])
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    batch = rows // 8
    seconds, processor, loss = seconds_per_step(network, params, data, "delta", "auto", epochs, batch=batch, mesh=mesh)
    sizes = {"rows": rows, "batch": batch, "width": width}
    return {"seconds": seconds, "processor": processor, "loss": loss, "sizes": sizes}


def run(setting: Setting) -> Iterator[list[Record]]:
    yield from _measured(setting)
    yield from _compiled(setting)


def _worker(job: dict[str, Any]) -> Any:
    if "target" in job:
        return compile_for(Target(*job["target"]), job["rows"], job["width"])
    return _train_here(job)


if __name__ == "__main__":
    print(json.dumps(_worker(json.loads(sys.argv[1]))))
