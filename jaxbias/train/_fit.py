"""`fit`: shuffle, step, record; a whole epoch, or many, in one compiled program."""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike

from jaxbias._doors import check_key, describe
from jaxbias._numerics import accumulation_dtype
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
from jaxbias.train._checkpoint import Checkpoint, array_digest, like, program_digest
from jaxbias.train._data import check_batch_size, check_compute_dtype, check_count, check_data, check_dtype
from jaxbias.train._optimizer import as_optax_computes, extra_arguments, masked, prepared, trained
from jaxbias.train._placement import Placement
from jaxbias.train._processes import (
    SharedStore,
    all_arrive,
    broadcast,
    is_whole,
    leaving_on_error,
    must_agree,
    while_all_are_here,
)
from jaxbias.train._program import Carry, Program
from jaxbias.train._step import Learned, Metric, Objective, row_order, state_key
from jaxbias.train._stream import stream_of

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
        diverged: first epoch (from 1) with a loss, or a validation loss, that is not finite; the last one where params
            are not finite after it; None where there is none.
        resumed: epochs that came from a checkpoint.
        compile_s: seconds spent tracing and compiling.
        unsaved: why the last checkpoints could not be written, and which is the newest; empty where all were.
        train_s: seconds spent training, checkpoints included; what came from a checkpoint is not in it.
    """

    params: P
    state: Tree
    opt_state: Tree
    history: dict[str, np.ndarray]
    diverged: int | None
    resumed: int
    compile_s: float
    unsaved: str = ""
    train_s: float = 0.0


def accuracy(out: Array, targets: Array) -> Array:
    """Share of the rows whose largest output is the target: an integer class, or the largest entry of a dense row.

    Args:
        out: (..., classes), with two classes or more.
        targets: integers (...,), or (..., classes).

    Returns:
        A float32 scalar.

    Raises:
        ValueError: a single column, or targets of another shape.
    """
    classes = jnp.issubdtype(targets.dtype, jnp.integer)
    if out.ndim == 0 or out.shape[-1] < 2 or targets.shape != (out.shape[:-1] if classes else out.shape):
        raise ValueError(
            f"accuracy: out must have one column for each of two or more classes, and targets be whole numbers of "
            f"shape {out.shape[:-1]} or rows of shape {out.shape}, got {describe(out)} and {describe(targets)}. "
            f"Where one column stands for two classes compare its sign, for example (out[:, 0] > 0) == targets."
        )
    wanted = targets if classes else targets.argmax(axis=-1)
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


def _remedy(store: SharedStore | None) -> str:
    """For a process that others have left."""
    goes_on = "" if store is None else f": training goes on from the newest checkpoint in {store.directory}"
    return f"Start all again{goes_on}."


def _saved(store: SharedStore, epoch: int, carry: Carry, seen: bytes, unsaved: str) -> str:
    """ "" after a checkpoint that was written, else why it was not; a row of failures is warned of once."""
    try:
        store.save(epoch, (carry, np.frombuffer(seen, np.uint8)))
        return ""
    except OSError as error:
        newest = store.newest()
        why = f"the checkpoint after epoch {epoch} cannot be written to {store.directory} ({error.strerror}); " + (
            f"the newest whole one is {newest.name}" if newest else "there is no whole one yet"
        )
    if not unsaved:
        warnings.warn(f"fit: {why}. Training goes on.", stacklevel=3)
    return why


def _check_state(state: Tree, wanted: Tree) -> None:
    """Raise a ValueError unless state is a tree as the network's own."""
    if jax.tree.structure(wanted) != jax.tree.structure(state):
        own = "keeps none: leave state=None" if wanted is None else f"has {describe(wanted)}: take a Fit's state"
        raise ValueError(f"fit: state must be that of the network, which {own}; got {describe(state)}.")


@jax.jit
def _all_finite(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _is_finite(params: Tree) -> bool:
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return not leaves or bool(_all_finite(leaves))


def fit(
    network: Layer,
    loss: Loss,
    params: SomeTree,
    data: tuple[Any, Any] | Iterable[Any],
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    *,
    epochs: int,
    batch_size: int,
    key: Array,
    state: Tree = None,
    steps_per_epoch: int | None = None,
    validation: tuple[Any, Any] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
    trainable: Tree = None,
    metrics: Mapping[str, Metric] | None = None,
    how: str = "delta",
    loop: str = "auto",
    mesh: Mesh | None = None,
    shardings: Tree = None,
    compute_dtype: DTypeLike | None = None,
    wait_s: float = 300,
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
        data: (x, targets), arrays with one row per example, which go to the devices as a whole. For more than fits
            there: the same memory-mapped (`np.load(..., mmap_mode="r")`, `jb.data.mapped`), of which a batch is read
            while steps run; or batches (x, targets) of batch_size rows from anything that can be iterated over, a
            loader of grain or PyTorch. Their order is the loader's, and each epoch is one iteration.
        optimizer: any optax gradient transformation.
        epochs: passes over the data.
        batch_size: rows per step.
        key: PRNG key for the order of the rows (and for the initial state, where the network keeps one).
        steps_per_epoch: of a stream that does not end or does not say when; it goes on from epoch to epoch.
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
        loop: "scan" compiles all steps into one program, "steps" calls a compiled step from Python, "auto" chooses;
            of a stream, several small batches or, with "steps", one batch at a call.
        mesh: devices to train on. Its axis "data", or its first where none has that name, parts the rows of each
            batch; batch_size is still that of the whole step. Data become whole on every device, except arrays that
            lie on the mesh already. The result is that of one device up to the order in which sums over rows are
            added, and bit-identical when repeated on the same mesh. By default that of params, or one device.
        shardings: a PartitionSpec for each leaf of params, or for the top of the tree, as `jb.shardings` gives them;
            by default as params lie on the mesh, else whole on every device. What the optimizer keeps for a leaf lies
            as the leaf does.
        compute_dtype: in which the network computes, for example jnp.bfloat16: params, and x, are rounded to it at
            each step; params, optimizer state, loss, metrics and sums over rows stay in float32 (or what they were).
            In float16 the error signal is scaled by a power of two before the backward pass and grads are scaled back.
        wait_s: seconds that processes wait for each other at the start.

    Raises:
        TypeError: a network that is no `Layer`, a loss that is none, data that is no pair of real arrays, an x of
            another float dtype than params, no optax optimizer, no mesh, shardings without PartitionSpecs.
        ValueError: empty data, NaN or infinity in it, mismatching rows, an impossible batch_size or epochs, a
            batch_size that the devices cannot share equally, a leaf that its sharding cannot cut, a
            checkpoint of another run, a checkpoint directory that cannot be written or that another run uses, an
            unknown loop or how; processes that were called with different arguments; and whatever the layers and the
            loss say of a wrong shape. All before any work starts.
        TimeoutError: another process did not call `fit` in time.
        ConnectionError: another process ended while this one trained. Start all again.
        MemoryError: params, optimizer state and one step need more memory than is free, by the compiler's figures.

    Warns:
        RuntimeWarning: a loss was not finite; `Fit.diverged` says since which epoch.
        UserWarning: a damaged checkpoint was skipped, or one cannot be written; training goes on, and `Fit.unsaved`
            says so too.
    """
    as_layer(network, "fit")
    as_loss(loss, "fit")
    check_count(batch_size, "batch_size")
    check_count(epochs, "epochs")
    if loop not in LOOPS:
        raise ValueError(f'fit: loop must be "auto", "scan" or "steps", got {loop!r}.')
    check_compute_dtype(compute_dtype, how)
    check_key(key, "fit")
    if progress is not None and not callable(progress):
        raise TypeError(f"fit: progress must be a function of a Progress, got {describe(progress)}.")
    optimizer = prepared(optimizer, "fit")
    placement = Placement.of(mesh, shardings, trained(params))
    placement.check_batch_size(batch_size)
    if placement.processes > 1:
        all_arrive(wait_s)
    order = jax.jit(lambda epoch, rows: row_order(key, epoch, rows, batch_size), static_argnums=1)
    stream = stream_of(data, batch_size, steps_per_epoch, order, placement.rows_here(batch_size))
    x, targets = stream.first if stream else check_data(data, "data")
    check_dtype(trained(params), x)
    if stream is None:
        check_batch_size(batch_size, len(x))
    checked = None if validation is None else check_data(validation, "validation")
    if stream and loop == "scan":
        raise ValueError('fit: batches of a stream come from outside of the program. Leave loop="auto".')
    loop = choose_loop(network, how) if loop == "auto" else loop
    if stream:
        loop = "fed" if loop == "scan" else "fed singly"
    optimizer = prepared(masked(optimizer, params, trainable), "fit")
    params, state = placement.on_own_mesh((params, state))
    network_params = trained(params)
    if stream is None:
        x, targets = placement.data((x, targets))
    checked = placement.data(checked)

    objective = Objective.of(network, loss, metrics, how, compute_dtype, placement.batch)
    first = _whole_batch(stream.first, batch_size) if stream else (x[:batch_size], targets[:batch_size])
    own_state = lambda: init_state(network, state_key(key), network_input(loss, *first))
    if state is None:
        state = own_state()
    else:
        _check_state(state, jax.eval_shape(own_state))
    # The layers' and the loss' own errors, and those of the metrics, before any work.
    (value, (out, _)), _ = jax.eval_shape(objective.gradient, network_params, *first, state)
    record = jax.eval_shape(objective.measured, value, out, first[1])
    device = placement.devices[0] if placement.devices else _device(params)
    unallocated = jax.eval_shape(lambda *of: Learned.at_start(optimizer, *of), params, state)
    _memory.require(
        placement.bytes_here(unallocated), device, "fit: params and optimizer state need",
        f"Params have {_memory.size(params):,} bytes: take fewer units, or an optimizer that keeps less, such as sgd.",
    )  # fmt: skip
    initial = params, state
    steps = stream.steps if stream else len(x) // batch_size
    recorded = int(epochs) * (steps + (checked is not None)) * sum(result.dtype.itemsize for result in record.values())
    _memory.require(
        recorded, device, f"fit: the history of {epochs:,} epochs needs",
        "Take fewer epochs, and go on from the params that they give.",
    )  # fmt: skip
    learned = Learned.at_start(optimizer, params, state)
    # Copied: the program gives its inputs' memory away, and some optimizers keep params themselves in their state.
    learned = placement.put(learned, None if placement.mesh is None else placement.of_learned(learned))
    program = Program(objective, optimizer, key, batch_size, placement)
    carry = program.before(learned, first, steps, checked, epochs)
    given = stream or (x, targets)

    with ExitStack() as held:
        store, done, save_every = None, 0, epochs
        held.enter_context(while_all_are_here(lambda: f"after epoch {done} of {epochs}. {_remedy(store)}"))
        identity: dict[str, str] = {}
        if checkpoint is not None or placement.processes > 1:
            identity = {
                "JAX version": jax.__version__,
                "params (tree, shapes, dtypes)": str(jax.tree.structure(params)) + str(_shapes(params)),
                "network or loss": program_digest(objective.gradient, network_params, *first, state),
                "optimizer": _optimizer_digest(optimizer, learned),
                "initial params or state": array_digest(*jax.tree.leaves(initial)),
                "data": stream.identity() if stream else array_digest(x, targets),
                "validation data": array_digest(*(checked or ())),
                "metrics": ", ".join(objective.metrics),
                "batch_size": str(batch_size),
                "key": array_digest(key),
                "loop": loop,
                **({} if compute_dtype is None else {"compute_dtype": jnp.dtype(compute_dtype).name}),
                **placement.identity(),
            }
        if placement.processes > 1:
            parts = {
                "data": (x, targets),
                "validation data": checked or (),
                "initial params or state": jax.tree.leaves(initial),
            }
            own = {name: "" for name, arrays in parts.items() if not all(map(is_whole, arrays))}
            # Not the network: the text of its program may name sets, whose order is that of a process.
            own |= {"network or loss": ""} | ({"data": ""} if stream else {})
            numbers = {"epochs": epochs, "steps of an epoch": steps, "compute_dtype": compute_dtype}
            must_agree(identity | own | {name: str(number) for name, number in numbers.items()})
        if checkpoint is not None:
            checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
            save_every = checkpoint.every
            store = held.enter_context(SharedStore.held(checkpoint, identity))
            done, carry, seen = _resumed(store, carry, epochs, placement)
            if stream and done:
                stream.skip(done, seen)
        resumed, unsaved = done, ""

        too_large = (
            f"Activations grow with batch_size (now {batch_size}): take a smaller one, or fewer units or channels."
        )
        began = time.perf_counter()
        compiled = program.compiled(loop, carry, given, checked)
        compile_s = time.perf_counter() - began
        _memory.require(compiled.needed, device, "fit: one step of this network needs", too_large)

        at_once, trained_from = 1, time.perf_counter()
        while done < epochs:
            stop = min(done + at_once, done - done % save_every + save_every, epochs)
            began = time.perf_counter()
            too_much = f"fit: one step of this network does not fit into memory. {too_large}"
            with leaving_on_error(), _memory.exhausted(too_much):
                carry = jax.block_until_ready(compiled.run(carry, given, checked, done, stop))
            per_epoch = (time.perf_counter() - began) / (stop - done)
            at_once = max(1, min(int(_SECONDS_PER_CALL / per_epoch), epochs))
            if placement.processes > 1:  # all must call the program for the same epochs, and their clocks differ
                at_once = int(broadcast(np.int32(at_once)))
            done = stop
            if store is not None and (done % save_every == 0 or done == epochs):
                unsaved = _saved(store, done, carry, stream.state() if stream else b"", unsaved)
            if progress is not None:
                latest = {name: float(values[done - 1]) for name, values in _history(carry).items() if values.ndim == 1}
                progress(Progress(done, epochs, latest, compile_s, time.perf_counter() - trained_from))

        train_s = time.perf_counter() - trained_from

    history = _history(carry)
    params, opt_state, state = carry.learned
    losses = [history[name] for name in ("loss", "validation_loss") if name in history]
    not_finite = np.flatnonzero(~np.isfinite(np.stack(losses)).all(axis=0))
    diverged = int(not_finite[0]) + 1 if not_finite.size else None if _is_finite(params) else epochs
    if diverged is not None:
        cause = f"the loss is not finite from epoch {diverged} on" if not_finite.size else "params are not finite"
        warnings.warn(f"fit: {cause}: training diverged. Try a smaller learning rate.", RuntimeWarning, stacklevel=2)
    return Fit(params, state, opt_state, history, diverged, resumed, compile_s, unsaved, train_s)


def _optimizer_digest(optimizer: optax.GradientTransformationExtraArgs, learned: Learned) -> str:
    """Of its update on a stand-in for the gradient; what line searches ask for is in the network's own digest.

    Of the update alone where that takes no more: checkpoints of fit as it was before optimizers were told more say so.
    """
    params = trained(learned.params)
    with as_optax_computes(), suppress(TypeError, ValueError):  # which is how optax asks for what it misses
        return program_digest(optimizer.update, params, learned.opt_state, learned.params)

    def update(grads, opt_state, params, value):
        asked = extra_arguments(lambda _: (value, grads), grads, value, grads, opt_state)
        return optimizer.update(grads, opt_state, params, **asked)

    value = jnp.zeros((), accumulation_dtype(jax.tree.leaves(params)[0].dtype))
    with as_optax_computes():
        return program_digest(update, params, learned.opt_state, learned.params, value)


def _shapes(tree: Tree) -> list[str]:
    return [f"{leaf.dtype}{leaf.shape}" for leaf in jax.tree.leaves(tree)]


def _history(carry: Carry) -> dict[str, np.ndarray]:
    train = {name: np.asarray(values) for name, values in carry.train.items()}
    validation = {f"validation_{name}": np.asarray(values) for name, values in carry.validation.items()}
    means = {name: values.mean(axis=1) for name, values in train.items()}
    return {**means, **validation, "step_loss": train["loss"]}


def _resumed(store: SharedStore, carry: Carry, epochs: int, placement: Placement) -> tuple[int, Carry, bytes]:
    """(epochs done, carry, state of the stream) of the newest complete checkpoint.

    The history is as long as that run was to be.
    """

    def refill(done: int, newest: tuple[Carry, Any]) -> tuple[Carry, Any]:
        saved, seen = newest
        if done > epochs:
            raise ValueError(
                f"fit: the newest checkpoint in {store.directory} is after epoch {done}, beyond epochs={epochs}. "
                f"Ask for at least epochs={done}, or name another checkpoint directory."
            )

        def copied(buffer, values):
            buffer = np.array(buffer)
            buffer[:done] = values[:done]
            return buffer

        train = jax.tree.map(copied, carry.train, saved.train)
        return Carry(saved.learned, train, jax.tree.map(copied, carry.validation, saved.validation)), seen

    newest = store.restore((carry, np.zeros(0, np.uint8)), refill)
    if newest is None:
        return 0, carry, b""
    done, (saved, seen) = newest
    # The keys among the leaves are keys again, and every array lies where that of the first epoch did.
    saved = jax.tree.map(like, carry, saved)
    shardings = None if placement.mesh is None else jax.tree.map(lambda array: array.sharding, carry)
    return done, placement.put(saved, shardings), np.asarray(seen).tobytes()


def _whole_batch(part: tuple[Any, Any], batch_size: int) -> tuple[Any, Any]:
    """Shapes of the batch that the processes hold parts of, like this one; the arrays themselves where it is whole."""
    if len(part[0]) == batch_size:
        return part
    whole = lambda array: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype)
    return whole(part[0]), whole(part[1])
