"""`fit`: shuffle, step, record; a whole epoch, or many, in one compiled program."""

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxbias.leaves import TRAIN, read_labels, with_frozen
from jaxbias.params import (
    Layer,
    Loss,
    P,
    SomeTree,
    Tree,
    as_layer,
    as_loss,
    init_state,
    network_input,
    plain_at_runtime,
)
from jaxbias.train import _memory
from jaxbias.train._checkpoint import Checkpoint, CheckpointStore, array_digest, program_digest
from jaxbias.train._data import check_batch_size, check_count, check_data, check_dtype
from jaxbias.train._step import Learned, Metric, Objective, row_order, state_key, take

LOOPS = ("auto", "scan", "steps")
_SECONDS_PER_CALL = 0.2
"""About how long one call of the compiled program may take: progress and Ctrl-C are served between two calls."""


class Progress(NamedTuple):
    """What `progress` is told.

    Attributes:
        epoch: epochs done, those before a resume included.
        epochs: epochs in all.
        latest: history entries of the last epoch done.
        compile_s: seconds spent tracing and compiling.
        train_s: seconds spent training since then, checkpoints included.
    """

    epoch: int
    epochs: int
    latest: dict[str, float]
    compile_s: float
    train_s: float


@plain_at_runtime
class Fit(NamedTuple, Generic[P]):
    """What `fit` returns.

    Attributes:
        params: after the last step.
        state: of the network after the last step; None for a stateless network.
        opt_state: of the optimizer after the last step.
        history: name → array. "loss" (epochs,): mean over the steps of an epoch; "step_loss" (epochs, steps); one
            (epochs,) entry per metric; with validation data also "validation_loss" and "validation_<metric>".
        diverged: first epoch (from 1) with a loss that is not finite; None where there is none.
        resumed: epochs that came from a checkpoint.
        compile_s: seconds spent tracing and compiling.
        unsaved: why the last checkpoints could not be written, and which is the newest; empty where all were.
    """

    params: P
    state: Tree
    opt_state: Tree
    history: dict[str, np.ndarray]
    diverged: int | None
    resumed: int
    compile_s: float
    unsaved: str = ""


class _Carry(NamedTuple):
    learned: Learned
    train: dict[str, Array]  # (epochs, steps)
    validation: dict[str, Array]  # (epochs,)


class _Compiled(NamedTuple):
    """A program and the bytes that one call of it allocates.

    Attributes:
        run: `(carry, data, validation, start, stop) -> carry`.
    """

    run: Callable[..., _Carry]
    needed: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled, run: Callable[..., _Carry]) -> "_Compiled":
        figures = compiled.memory_analysis()
        if figures is None:  # a backend that does not say
            return cls(run, 0)
        return cls(run, figures.temp_size_in_bytes + figures.output_size_in_bytes - figures.alias_size_in_bytes)


class _Program(NamedTuple):
    """The steps of all epochs, compiled as one program or called one by one."""

    objective: Objective
    optimizer: optax.GradientTransformation
    key: Array
    batch_size: int

    def order(self, epoch: Any, rows: int) -> Array:
        return row_order(self.key, epoch, rows, self.batch_size)

    def step(self, learned: Learned, data: Any, rows: Array) -> tuple[Learned, dict[str, Array]]:
        return self.objective.step(learned, take(data, rows), self.optimizer)

    def before(self, learned: Learned, data: Any, validation: Any, epochs: int) -> _Carry:
        """Nothing recorded yet."""
        steps = len(data[0]) // self.batch_size
        rows = jax.ShapeDtypeStruct((self.batch_size,), jnp.int32)
        record = jax.eval_shape(self.step, learned, data, rows)[1]
        return _Carry(
            learned,
            {name: _zeros((epochs, steps), result.dtype) for name, result in record.items()},
            {name: _zeros((epochs,), result.dtype) for name, result in record.items() if validation is not None},
        )

    def after_epoch(self, carry: _Carry, validation: Any, epoch: Any) -> _Carry:
        if validation is None:
            return carry
        results = self.objective.evaluate(carry.learned, validation, self.batch_size)
        return carry._replace(validation=_set(carry.validation, epoch, results))

    def compiled(self, loop: str, carry: _Carry, data: Any, validation: Any) -> "_Compiled":
        """The epochs from start to before stop."""
        return (self._one_program if loop == "scan" else self._step_by_step)(carry, data, validation)

    def _one_program(self, carry, data, validation):
        def run(carry, data, validation, start, stop):
            def one_epoch(epoch, carry):
                learned, records = jax.lax.scan(
                    lambda learned, rows: self.step(learned, data, rows), carry.learned, self.order(epoch, len(data[0]))
                )
                carry = _Carry(learned, _set(carry.train, epoch, records), carry.validation)
                return self.after_epoch(carry, validation, epoch)

            return jax.lax.fori_loop(start, stop, one_epoch, carry)

        compiled = jax.jit(run, donate_argnums=0).lower(carry, data, validation, 0, 0).compile()
        return _Compiled.of(compiled, compiled)

    def _step_by_step(self, carry, data, validation):
        del validation
        order = jax.jit(lambda epoch: self.order(epoch, len(data[0])))
        after_epoch = jax.jit(self.after_epoch, donate_argnums=0)

        def step(carry, data, order, epoch, i):
            learned, record = self.step(carry.learned, data, order[i])
            return carry._replace(learned=learned, train=_set(carry.train, (epoch, i), record))

        compiled_step = jax.jit(step, donate_argnums=0).lower(carry, data, order(0), 0, 0).compile()

        def run(carry, data, validation, start, stop):
            for epoch in range(start, stop):
                rows = order(epoch)
                for i in range(len(rows)):
                    carry = compiled_step(carry, data, rows, epoch, i)
                carry = after_epoch(carry, validation, epoch)
            return carry

        return _Compiled.of(compiled_step, run)


def accuracy(out: Array, targets: Array) -> Array:
    """Share of the rows whose largest output is the target: an integer class, or the largest entry of a dense row."""
    wanted = targets if jnp.issubdtype(targets.dtype, jnp.integer) else targets.argmax(axis=-1)
    return (out.argmax(axis=-1).astype(wanted.dtype) == wanted).mean(dtype=jnp.float32)


def choose_loop(network: Layer, how: str, backend: str | None = None) -> str:
    """The loop form that "auto" stands for: "scan", one compiled program, except where the CPU backend makes it slow.

    XLA on CPU misses its fast convolution for the gradients that autodiff writes, once they are inside a loop (4 to
    88 times slower; jax issue 12868). The hand-derived backward is not affected.
    """
    backend = backend or jax.default_backend()
    slow = backend == "cpu" and how == "autodiff" and _convolves(network)
    return "steps" if slow else "scan"


def _convolves(network: Layer) -> bool:
    return network.convolves or any(map(_convolves, network.parts))


def _device(params: Tree) -> Any:
    """The device that most is computed on."""
    leaves = jax.tree.leaves(params)
    devices = leaves[0].devices() if leaves and isinstance(leaves[0], jax.Array) else jax.devices()
    return next(iter(devices))


def _saved(store: CheckpointStore, epoch: int, carry: _Carry, unsaved: str) -> str:
    """ "" after a checkpoint that was written, else why it was not; a row of failures is warned of once."""
    try:
        store.save(epoch, carry)
        return ""
    except OSError as error:
        newest = store.newest()
        why = f"the checkpoint after epoch {epoch} cannot be written to {store.directory} ({error.strerror}); " + (
            f"the newest whole one is {newest.name}" if newest else "there is no whole one yet"
        )
    if not unsaved:
        warnings.warn(f"fit: {why}. Training goes on.", stacklevel=3)
    return why


def _copied(tree: Tree) -> Tree:
    """The program gives its inputs' memory away; the caller's arrays must stay."""
    return jax.device_put(tree, may_alias=False)


def _masked(optimizer: optax.GradientTransformation, params: Tree, trainable: Tree) -> optax.GradientTransformation:
    if trainable is None:
        return optimizer
    labels = read_labels(trainable, params, "fit")
    if TRAIN not in jax.tree.leaves(labels):
        raise ValueError("fit: trainable freezes every leaf, so there is nothing to train.")
    return with_frozen(optimizer, labels)


def fit(
    network: Layer,
    loss: Loss,
    params: SomeTree,
    data: tuple[Any, Any],
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    key: Array,
    state: Tree = None,
    validation: tuple[Any, Any] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
    trainable: Tree = None,
    metrics: Mapping[str, Metric] | None = None,
    how: str = "delta",
    loop: str = "auto",
) -> Fit[SomeTree]:
    """Train a network: params ← params + optimizer(grads), batch after batch.

    Each epoch draws a new order of the rows from `fold_in(key, epoch)` and cuts it into ⌊n / batch_size⌋ whole batches;
    the n mod batch_size rows at the end of that order sit this epoch out, so every step has the same shape and weighs
    every row alike. The result depends on the arguments alone: it is bit-identical when repeated on the same backend
    and versions, with or without progress, checkpoints and resuming.

    Args:
        network: any layer, so any network.
        loss: a module of `jb.losses`, or any `Loss`; a mean over rows keeps the step size independent of
            batch_size. `jb.losses.of_network` for a network that ends in its loss, which metrics then get as out.
        params: initial parameters; the caller's arrays are left untouched.
        data: (x, targets), arrays with one row per example.
        optimizer: any optax gradient transformation.
        epochs: passes over the data.
        batch_size: rows per step.
        key: PRNG key for the order of the rows (and for the initial state, where the network keeps one).
        state: initial state of the network (running statistics, dropout keys); by default made from `key`.
        validation: (x, targets), evaluated after each epoch with `jb.inference(network)`, batch by batch, the value of
            each batch weighted by its share of the rows: the mean over all rows where loss and metrics are means over
            rows; with a loss that is a sum over rows, the sum that a batch holds on (weighted) average, which compares
            with the training loss as long as batch_size divides the number of rows.
        checkpoint: directory, or a `Checkpoint` with the interval. A run whose directory holds checkpoints of the
            same run resumes from the newest complete one.
        progress: called with a `Progress` several times a second, and after the last epoch.
        trainable: labels "train" and "freeze", as `jb.freeze` and `jb.bias_only` give them, in a tree like params or
            like the top of it; or a mask of bools. A frozen leaf stays bit-identical.
        metrics: name → `(out, targets) -> scalar`, a mean over rows, for example {"accuracy": jb.train.accuracy}.
        how: "delta" (hand-derived backward passes) or "autodiff".
        loop: "scan" compiles all steps into one program, "steps" calls a compiled step from Python, "auto" chooses.

    Raises:
        TypeError: a network that is no `Layer`, a loss that is none, data that is no pair of real arrays, an x of
            another float dtype than params, no optax optimizer.
        ValueError: empty data, NaN or infinity in it, mismatching rows, an impossible batch_size or epochs, a
            checkpoint of another run, a checkpoint directory that cannot be written or that another run uses, an
            unknown loop or how; and whatever the layers and the loss say of a wrong shape. All before any work starts.
        MemoryError: params, optimizer state and one step need more memory than is free, by the compiler's figures.

    Warns:
        RuntimeWarning: a loss was not finite; `Fit.diverged` says since which epoch.
        UserWarning: a damaged checkpoint was skipped, or one cannot be written; training goes on, and `Fit.unsaved`
            says so too.
    """
    as_layer(network, "fit")
    as_loss(loss, "fit")
    x, targets = check_data(data, "data")
    check_batch_size(batch_size, len(x))
    check_count(epochs, "epochs")
    check_dtype(params, x)
    if loop not in LOOPS:
        raise ValueError(f'fit: loop must be "auto", "scan" or "steps", got {loop!r}.')
    if not hasattr(optimizer, "update"):
        raise TypeError(f"fit: optimizer must be an optax gradient transformation, got {optimizer!r}.")
    checked = None if validation is None else check_data(validation, "validation")
    loop = choose_loop(network, how) if loop == "auto" else loop
    optimizer = _masked(optimizer, params, trainable)

    objective = Objective.of(network, loss, metrics, how)
    first = x[:batch_size], targets[:batch_size]
    if state is None:
        state = init_state(network, state_key(key), network_input(loss, *first))
    jax.eval_shape(objective.gradient, params, *first, state)  # the layers' and the loss' own errors, before any work
    device = _device(params)
    unallocated = jax.eval_shape(lambda *of: Learned.at_start(optimizer, *of), params, state)
    _memory.require(
        _memory.size(unallocated), device, "fit: params and optimizer state need",
        f"Params have {_memory.size(params):,} bytes: take fewer units, or an optimizer that keeps less, such as sgd.",
    )  # fmt: skip
    params, state = _copied(params), _copied(state)
    learned = Learned.at_start(optimizer, params, state)
    program = _Program(objective, optimizer, key, batch_size)
    carry = program.before(learned, (x, targets), checked, epochs)

    with ExitStack() as held:
        store, done, save_every = None, 0, epochs
        if checkpoint is not None:
            checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
            save_every = checkpoint.every
            identity = {
                "JAX version": jax.__version__,
                "params (tree, shapes, dtypes)": str(jax.tree.structure(params)) + str(_shapes(params)),
                "network or loss": program_digest(objective.gradient, params, *first, state),
                "optimizer": _optimizer_digest(optimizer, learned),
                "initial params or state": array_digest(*jax.tree.leaves((params, state))),
                "data": array_digest(x, targets),
                "validation data": array_digest(*(checked or ())),
                "metrics": ", ".join(objective.metrics),
                "batch_size": str(batch_size),
                "key": array_digest(key),
                "loop": loop,
            }
            store = held.enter_context(CheckpointStore.held(checkpoint, identity))
            done, carry = _resumed(store, carry, epochs)
        resumed, unsaved = done, ""

        too_large = (
            f"Activations grow with batch_size (now {batch_size}): take a smaller one, or fewer units or channels."
        )
        began = time.perf_counter()
        compiled = program.compiled(loop, carry, (x, targets), checked)
        compile_s = time.perf_counter() - began
        _memory.require(compiled.needed, device, "fit: one step of this network needs", too_large)

        at_once, trained_from = 1, time.perf_counter()
        while done < epochs:
            stop = min(done + at_once, done - done % save_every + save_every, epochs)
            began = time.perf_counter()
            with _memory.exhausted(f"fit: one step of this network does not fit into memory. {too_large}"):
                carry = jax.block_until_ready(compiled.run(carry, (x, targets), checked, done, stop))
            per_epoch = (time.perf_counter() - began) / (stop - done)
            at_once = max(1, min(int(_SECONDS_PER_CALL / per_epoch), epochs))
            done = stop
            if store is not None and (done % save_every == 0 or done == epochs):
                unsaved = _saved(store, done, carry, unsaved)
            if progress is not None:
                latest = {name: float(values[done - 1]) for name, values in _history(carry).items() if values.ndim == 1}
                progress(Progress(done, epochs, latest, compile_s, time.perf_counter() - trained_from))

    history = _history(carry)
    not_finite = np.flatnonzero(~np.isfinite(history["loss"]))
    diverged = int(not_finite[0]) + 1 if not_finite.size else None
    if diverged is not None:
        warnings.warn(
            f"fit: the loss is not finite from epoch {diverged} on: training diverged. Try a smaller learning rate.",
            RuntimeWarning,
            stacklevel=2,
        )
    params, opt_state, state = carry.learned
    return Fit(params, state, opt_state, history, diverged, resumed, compile_s, unsaved)


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Without a program to compile, which `jnp.zeros` is for every new shape."""
    return jax.device_put(np.zeros(shape, dtype))


def _set(buffers: dict[str, Array], index: Any, values: dict[str, Array]) -> dict[str, Array]:
    return {name: buffer.at[index].set(values[name]) for name, buffer in buffers.items()}


def _optimizer_digest(optimizer: optax.GradientTransformation, learned: Learned) -> str:
    with jax.numpy_dtype_promotion("standard"):
        return program_digest(optimizer.update, learned.params, learned.opt_state, learned.params)


def _shapes(tree: Tree) -> list[str]:
    return [f"{leaf.dtype}{leaf.shape}" for leaf in jax.tree.leaves(tree)]


def _history(carry: _Carry) -> dict[str, np.ndarray]:
    train = {name: np.asarray(values) for name, values in carry.train.items()}
    validation = {f"validation_{name}": np.asarray(values) for name, values in carry.validation.items()}
    means = {name: values.mean(axis=1) for name, values in train.items()}
    return {**means, **validation, "step_loss": train["loss"]}


def _resumed(store: CheckpointStore, carry: _Carry, epochs: int) -> tuple[int, _Carry]:
    """(epochs done, carry) from the newest complete checkpoint; its history is as long as that run was to be."""
    newest = store.restore(carry)
    if newest is None:
        return 0, carry
    done, saved = newest
    if done > epochs:
        raise ValueError(
            f"fit: the newest checkpoint in {store.directory} is after epoch {done}, beyond epochs={epochs}. "
            f"Ask for at least epochs={done}, or name another checkpoint directory."
        )

    def refill(buffer, values):
        return buffer.at[:done].set(values[:done])

    train = jax.tree.map(refill, carry.train, saved.train)
    return done, _Carry(saved.learned, train, jax.tree.map(refill, carry.validation, saved.validation))
