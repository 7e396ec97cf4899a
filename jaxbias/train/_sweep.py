"""`sweep`: many networks, seeds × initialisations × bias on/off × hyper-parameters, trained by one compiled program."""

import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from jaxbias._trees import path_name
from jaxbias.leaves import is_bias
from jaxbias.params import Layer, Loss, Tree, as_layer, as_loss, init_state, network_input
from jaxbias.train import _memory
from jaxbias.train._checkpoint import array_digest, program_digest
from jaxbias.train._data import check_batch_size, check_count, check_data
from jaxbias.train._optimizer import as_optax_computes, prepared
from jaxbias.train._processes import broadcast, held_by_the_first, of_all
from jaxbias.train._step import Learned, Metric, Objective, row_order, state_key, take
from jaxbias.train._sweep_store import SweepStore
from jaxbias.train._sweep_table import Sweep

Init = Callable[[Array, Any], Tree]
"""`(key, x) -> params`, as the init of a network."""

_SMALL = 20_000
"""Multiplications of one step below which a member's time is the loop's own, so that members go faster side by side."""


class SweepProgress(NamedTuple):
    """What `progress` is told: members done, those read from disk included, and members in all."""

    done: int
    members: int


def sweep(
    network: Layer,
    loss: Loss,
    data: tuple[Any, Any],
    optimizer: optax.GradientTransformation | Callable[..., optax.GradientTransformation],
    *,
    keys: Array,
    inits: Mapping[str, Layer | Init] | None = None,
    use_bias: Sequence[bool] = (True, False),
    hyper: Mapping[str, Sequence[float]] | None = None,
    epochs: int,
    batch_size: int,
    validation: tuple[Any, Any] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    how: str = "delta",
    keep_params: bool = False,
    together: int | None = None,
    chunk: int | None = None,
    directory: str | Path | None = None,
    progress: Callable[[SweepProgress], None] | None = None,
    mesh: Mesh | None = None,
) -> Sweep:
    """Train every combination of seed, initialisation, bias on or off, and hyper-parameters.

    The member of key k is the run `fit(network, loss, init(init_key, x), data, optimizer, key=fit_key, ...)` with
    `init_key, fit_key = jax.random.split(k)` and x the first batch: members of one key see the same rows in the same
    order. With the bias off, every leaf named `bias` starts at 0, its gradient and its update are 0, and so it is the
    network without that leaf.

    The members are cut into chunks, and a chunk is spread over all local devices, or those of a mesh. On an accelerator
    the members of a device train side by side (`vmap`); on the CPU one after another (`lax.map`), which is faster there
    unless the network is tiny, and chunks run on as many threads as there are cores for each device.

    Args:
        network: any layer, so any network; with its biases.
        loss: a module of `jb.losses`, or any `Loss`.
        data: (x, targets), arrays with one row per example.
        optimizer: an optax gradient transformation; with `hyper`, a function of these hyper-parameters that makes one.
        keys: (seeds,) PRNG keys, `jax.random.split(key, seeds)`.
        inits: name → network whose init to use, or `(key, x) -> params`; by default `network.init` alone.
        use_bias: which of True and False to train.
        hyper: name → values, for example {"learning_rate": (1e-3, 1e-2)}.
        epochs: passes over the data.
        batch_size: rows per step.
        validation: (x, targets), evaluated after the last epoch with `jb.inference(network)`.
        metrics: name → `(out, targets) -> scalar`, a mean over rows.
        how: "delta" (hand-derived backward passes) or "autodiff".
        keep_params: return the final params of every member.
        together: members that one device trains side by side; chosen by backend and network size by default.
        chunk: members per call of the compiled program; progress and resuming happen between two calls.
        directory: where to keep finished chunks; a rerun of the same sweep resumes from it.
        progress: called with a `SweepProgress` after each chunk.
        mesh: whose devices to use, whatever its axes are called: members never wait for each other. A mesh over
            several processes, all of them with as many devices, parts the chunks over these too; every process returns
            all results, and the first alone keeps the directory.

    Raises:
        TypeError: an optimizer, data or a mesh of a wrong kind.
        ValueError: no keys, nothing to sweep on an axis, an impossible chunk, batch_size or epochs, empty data, NaN in
            it, a directory that cannot be written, is in use or belongs to another sweep. All before any work starts.
        MemoryError: a chunk does not fit into memory.

    Warns:
        UserWarning: a file in `directory` is damaged, or finished members cannot be written to it.
    """
    as_layer(network, "sweep")
    as_loss(loss, "sweep")
    x, targets = check_data(data, "data")
    check_batch_size(batch_size, len(x))
    check_count(epochs, "epochs")
    checked = None if validation is None else check_data(validation, "validation")
    axes, inits, hyper = _check_axes(network, keys, inits, use_bias, hyper, optimizer)
    keys = _typed(keys)
    wrap = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(keys))
    objective = Objective.of(network, loss, metrics, how)
    member = _member(objective, optimizer, list(inits.values()), list(hyper), epochs, batch_size, wrap)

    float_dtype = jnp.result_type(float)
    grids = jnp.meshgrid(
        jnp.arange(len(inits)),
        jnp.array(axes["use_bias"]),
        *(jnp.asarray(values, float_dtype) for values in hyper.values()),
        jnp.arange(len(keys)),
        indexing="ij",
    )
    init_index, on, *values, seed = (grid.reshape(-1) for grid in grids)
    members = init_index, on, tuple(values), jax.random.key_data(keys)[seed]
    count = len(seed)

    example = jax.tree.map(lambda array: array[0], members)
    shapes = jax.eval_shape(member, example, (x, targets), checked)  # the layers' own errors, before anything runs
    devices, processes = _devices(mesh)
    devices = devices[:count]
    on_cpu = devices[0].platform == "cpu"
    together = _together(shapes[0], batch_size, on_cpu, count) if together is None else together
    check_count(together, "together")
    threads = max(1, _cores() // len(devices)) if on_cpu else 1
    if chunk is None:
        chunk = _chunk(math.ceil(count / processes), len(devices), together, threads)
    else:
        check_count(chunk, "chunk")
        chunk = math.ceil(min(chunk, count) / len(devices)) * len(devices)

    def run(members, data, validation):
        def train_member(settings):
            params, results = member(settings, data, validation)
            return (params if keep_params else None), results

        return jax.lax.map(train_member, members, batch_size=min(together, chunk // len(devices)))

    of_members = Mesh(np.array(devices), ("member",))
    spread, everywhere = PartitionSpec("member"), PartitionSpec()
    sharded = jax.shard_map(
        run, mesh=of_members, in_specs=(spread, everywhere, everywhere), out_specs=spread, check_vma=False
    )

    with ExitStack() as held:
        store, finished = None, {}
        share = processes > 1
        starts = list(range(0, count, chunk))
        treedef = jax.tree.structure((shapes[0] if keep_params else None, shapes[1]))
        if directory is not None:
            identity = {
                "JAX version": jax.__version__,
                "program (network, inits, loss, optimizer, epochs, batch_size, metrics)": program_digest(
                    member, example, (x, targets), checked
                ),
                "data": array_digest(x, targets, *(checked or ())),
                "members (keys, inits, use_bias, hyper)": array_digest(*jax.tree.leaves(members)),
                "chunk": str(chunk),
                "keep_params": str(keep_params),
            }
            holder = SweepStore.held(directory, identity)
            store = held.enter_context(held_by_the_first(holder) if share else holder)
            loaded = {start: store.load(start, min(start + chunk, count)) for start in starts} if store else {}
            finished = {start: leaves for start, leaves in loaded.items() if leaves is not None}
            if share:
                finished = _told(finished, starts, chunk, count, shapes if keep_params else (None, shapes[1]))
        resumed = sum(min(start + chunk, count) - start for start in finished)
        if progress is not None:
            progress(SweepProgress(resumed, count))

        def piece(start):
            """Members of a chunk; the last one is filled up with copies, so that every call has one shape."""
            rows = jnp.minimum(jnp.arange(start, start + chunk), count - 1)
            return jax.tree.map(lambda array: array[rows], members)

        waiting = [start for start in starts if start not in finished]
        compile_s = train_s = 0.0
        if waiting:
            began = time.perf_counter()
            compiled = jax.jit(sharded).lower(piece(0), (x, targets), checked).compile()
            compile_s = time.perf_counter() - began
            _check_memory(compiled, devices[0], len(devices), chunk, threads)

            def work(start):
                with _memory.exhausted(f"sweep: chunk={chunk} members do not fit into memory. {_smaller(chunk)}"):
                    return [np.asarray(leaf) for leaf in jax.tree.leaves(compiled(piece(start), (x, targets), checked))]

            def chunks(pool):
                """(start, leaves) of all that wait, in turns of one chunk for each process."""
                turns = [waiting[i : i + processes] for i in range(0, len(waiting), processes)]
                mine = (turn[min(jax.process_index() * share, len(turn) - 1)] for turn in turns)
                for turn, leaves in zip(turns, pool.map(work, mine)):
                    yield from zip(turn, of_all(leaves) if share else [leaves])

            began, done, kept = time.perf_counter(), resumed, True
            with ThreadPoolExecutor(max_workers=threads) as pool:
                for start, leaves in chunks(pool):
                    stop = min(start + chunk, count)
                    finished[start] = leaves = [leaf[: stop - start] for leaf in leaves]
                    if store is not None:
                        kept = _kept(store, start, stop, leaves, kept)
                    done += stop - start
                    if progress is not None:
                        progress(SweepProgress(done, count))
            train_s = time.perf_counter() - began

    pieces = zip(*(finished[start] for start in starts))
    shape = tuple(len(values) for values in axes.values())
    leaves = [np.concatenate(chunks).reshape(*shape, *chunks[0].shape[1:]) for chunks in pieces]
    params, results = jax.tree.unflatten(treedef, leaves)
    results = {name: results[name] for name in sorted(results, key=lambda name: (not name.endswith("loss"), name))}
    finite = [np.isfinite(result).reshape(*shape, -1).all(axis=-1) for result in results.values()]
    return Sweep(axes, results, ~np.logical_and.reduce(finite), params, resumed, compile_s, train_s)


def _kept(store: SweepStore, start: int, stop: int, leaves: list[np.ndarray], before: bool) -> bool:
    """Whether these members' results are on disk now; a row of failures is warned of once."""
    try:
        store.save(start, stop, leaves)
        return True
    except OSError as error:
        if before:
            warnings.warn(
                f"sweep: members from {start} on cannot be kept in {store.directory} ({error.strerror}); those before "
                f"are, and training goes on.",
                stacklevel=3,
            )
        return False


def _member(objective, optimizer, inits, hyper_names, epochs, batch_size, wrap):
    """The function that trains one member: `(member, data, validation) -> (params, results)`."""

    def train(member, data, validation):
        init_index, on, values, key_data = member
        init_key, fit_key = jax.random.split(wrap(key_data))
        first = jax.tree.map(lambda array: array[:batch_size], network_input(objective.loss, *data))

        def without_bias(tree):
            """Every leaf named bias times 0 where the bias is off."""
            return jax.tree_util.tree_map_with_path(
                lambda path, leaf: jnp.where(on, leaf, jnp.zeros_like(leaf)) if is_bias(path_name(path)) else leaf, tree
            )

        with as_optax_computes():
            chosen = prepared(optimizer(**dict(zip(hyper_names, values))) if hyper_names else optimizer, "sweep")
        params = without_bias(jax.lax.switch(init_index, [lambda key, f=f: f(key, first) for f in inits], init_key))
        learned = Learned.at_start(chosen, params, init_state(objective.network, state_key(fit_key), first))

        def one_epoch(learned, epoch):
            learned, records = jax.lax.scan(
                lambda learned, rows: objective.step(learned, take(data, rows), chosen, only=without_bias),
                learned,
                row_order(fit_key, epoch, len(data[0]), batch_size),
            )
            return learned, {name: record.mean() for name, record in records.items()}

        learned, results = jax.lax.scan(one_epoch, learned, jnp.arange(epochs))
        if validation is not None:
            scores = objective.evaluate(learned, validation, min(1024, len(validation[0])))
            results |= {f"validation_{name}": score for name, score in scores.items()}
        return learned.params, results

    return train


def _typed(keys: Array) -> Array:
    return keys if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(keys)


def _check_axes(network, keys, inits, use_bias, hyper, optimizer):
    """The axes of the results, inits as functions, hyper as a dictionary; every error the arguments can make."""
    if not isinstance(keys, jax.Array) or _typed(keys).ndim != 1:
        raise ValueError("sweep: keys must be a one-dimensional array of PRNG keys, as of jax.random.split(key, 100).")
    if len(keys) == 0:
        raise ValueError("sweep: keys is empty, so there is no seed to train. Pass jax.random.split(key, seeds).")
    use_bias = tuple(bool(value) for value in use_bias)
    if not use_bias or len(set(use_bias)) != len(use_bias):
        raise ValueError(f"sweep: use_bias must be (True, False), (True,) or (False,), got {use_bias}.")
    inits = {"default": network.init} if inits is None else dict(inits)
    if not inits:
        raise ValueError("sweep: inits is empty. Leave it out to use network.init.")
    inits = {name: init.init if isinstance(init, Layer) else init for name, init in inits.items()}
    hyper = {name: tuple(values) for name, values in (hyper or {}).items()}
    taken = [name for name in hyper if name in ("init", "use_bias", "seed")]
    empty = [name for name, values in hyper.items() if not values]
    if taken or empty:
        raise ValueError(
            f"sweep: hyper {(taken or empty)[0]!r} " + ("is the name of an axis." if taken else "has no values.")
        )
    is_optimizer = isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps)
    if hyper and is_optimizer:
        raise TypeError(
            f"sweep: with hyper={list(hyper)}, optimizer must be a function of them that makes an optimizer, for "
            f"example optax.adam; got an optimizer."
        )
    if not hyper and not is_optimizer:
        raise TypeError(f"sweep: optimizer must be an optax gradient transformation, got {optimizer!r}.")
    axes = {"init": tuple(inits), "use_bias": use_bias, **hyper, "seed": tuple(range(len(keys)))}
    return axes, inits, hyper


# --- how many at once -------------------------------------------------------------------------------------------------


def _told(
    finished: dict[int, list[np.ndarray]], starts: list[int], chunk: int, count: int, shapes: Any
) -> dict[int, list[np.ndarray]]:
    """What the first process found finished, on all."""
    told: dict[int, list[np.ndarray]] = {}
    for start, is_finished in zip(starts, broadcast(np.array([start in finished for start in starts]))):
        if is_finished:
            empty = [np.zeros((min(chunk, count - start), *s.shape), s.dtype) for s in jax.tree.leaves(shapes)]
            told[start] = broadcast(finished.get(start, empty))
    return told


def _devices(mesh: Mesh | None) -> tuple[list[Any], int]:
    """Devices of this process, and how many processes take part."""
    if mesh is None:
        return jax.local_devices(), 1
    if not isinstance(mesh, Mesh):
        raise TypeError(f"sweep: mesh must be a jax.sharding.Mesh, got {mesh!r}. Make it with jax.make_mesh.")
    counts = Counter(device.process_index for device in mesh.devices.flat)
    alone = set(counts) == {jax.process_index()}
    if not alone and (len(counts) < jax.process_count() or len(set(counts.values())) > 1):
        raise ValueError(
            f"sweep: mesh must have devices of this process alone, or as many of each of the {jax.process_count()} "
            f"processes; got {dict(counts)}, by process. Take jax.make_mesh((jax.device_count(),), ('member',))."
        )
    return list(mesh.local_devices), len(counts)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _together(params: Tree, batch_size: int, on_cpu: bool, members: int) -> int:
    """Members that one device trains side by side: all on an accelerator; on the CPU one, or 64 of tiny networks."""
    if not on_cpu:
        return members
    return 64 if batch_size * sum(leaf.size for leaf in jax.tree.leaves(params)) < _SMALL else 1


def _chunk(members: int, devices: int, together: int, threads: int) -> int:
    """Members per call: some rounds for each thread, so that progress moves, but few calls."""
    per_device = math.ceil(members / devices)
    rounds = max(1, min(8, math.ceil(per_device / together / threads)))
    return devices * min(per_device, together * rounds, 4096)


def _smaller(chunk: int) -> str:
    return f"Pass a smaller one, for example chunk={max(1, chunk // 4)}, and together=1."


def _check_memory(compiled: Any, device: Any, devices: int, chunk: int, threads: int) -> None:
    analysis = compiled.memory_analysis()
    if analysis is None:
        return
    needed = analysis.argument_size_in_bytes + (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) * threads
    if device.platform == "cpu":  # all host devices share it
        needed *= devices
    _memory.require(needed, device, f"sweep: chunk={chunk} members on {devices} device(s) need", _smaller(chunk))
