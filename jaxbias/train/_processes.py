"""Several processes that run one script: what the first does for all, and what all must agree on.

Every process calls every function here, in the same order; the arrays travel by `jax.experimental.multihost_utils`.
"""

import ctypes
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxbias.params import Tree
from jaxbias.train._checkpoint import Checkpoint, CheckpointStore, to_numpy

T = TypeVar("T")
_LONGEST = 2000
_ERRORS = {kind.__name__: kind for kind in (ValueError, OSError)}


_calls = itertools.count()


def all_arrive(seconds: float) -> None:
    """Wait until every process is here, but no longer than that.

    Raises:
        TimeoutError: one is not.
    """
    if jax.process_count() == 1:
        return
    from jax._src import distributed  # `multihost_utils` waits without end

    client = distributed.global_state.client
    assert client is not None
    try:
        client.wait_at_barrier(f"jaxbias_fit_{next(_calls)}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        missing = re.findall(r"^\d+$", str(error).partition("timed out task names:")[2], re.MULTILINE)
        who = f"process {', '.join(missing)}" if missing else "another process"
        _leave()
        raise TimeoutError(
            f"fit: {who} of {jax.process_count()} did not call fit within {seconds:g} s (wait_s). Every process must "
            f"run the same script; look whether it still runs."
        ) from None


def must_agree(arguments: dict[str, str]) -> None:
    """Raise a ValueError on every process unless all were called with the same.

    Each would else train on with its own: replicas that differ are no error of JAX, and a process that makes fewer
    steps leaves the others waiting.

    Args:
        arguments: what they are called → text that is the same where they are.
    """
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:4], np.uint8) for text in arguments.values()]
    of_first, *of_others = of_all(digests)
    differ = [
        name
        for name, first, *others in zip(arguments, of_first, *of_others)
        if any(not np.array_equal(first, other) for other in others)
    ]
    if differ:
        raise ValueError(
            f"fit: the processes do not agree on: {', '.join(differ)}. Every process must run the same script, with "
            f"the same keys and numbers."
        )


def is_whole(leaf: Any) -> bool:
    """Whether this process holds all of it; else the processes hold different parts."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


@contextmanager
def while_all_are_here(where: Callable[[], str]) -> Iterator[None]:
    """What collectives say when another process does not answer becomes one line, and this process leaves the group.

    Args:
        where: how far this process is, for the message.

    Raises:
        ConnectionError: another process has ended, or is so late that the collective gave it up.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # an unknown error of the runtime is a ValueError
        if jax.process_count() == 1 or not _ENDED.search(str(error)):
            raise
        _leave()
        raise ConnectionError(
            f"fit: another process of {jax.process_count()} ended, or no longer answers: this one trained, {where()} "
            f"({str(error).splitlines()[0]:.150})"
        ) from None


@contextmanager
def leaving_on_error() -> Iterator[None]:
    """What one process alone meets, as an error of its loader, ends it at once.

    It would else wait for the others at its end, and they in a sum for its part.
    """
    try:
        yield
    except Exception:
        if jax.process_count() > 1:
            _leave()
        raise


_ENDED = re.compile(r"Gloo .*failed|remote process exited|Connection (?:reset|closed|refused)|UNAVAILABLE")


def _leave() -> None:
    """At its end JAX would wait for the process that is gone, until the service ends this one by a signal."""
    from jax._src import distributed

    state = distributed.global_state
    for part in (state.client, state.service):
        if part is not None:  # never taken down, which would be an error of the service that ends this process too
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))
    state.client = state.service = None


def broadcast(tree: Tree) -> Tree:
    """The arrays of the first process, on all; the others hand in some of the same shapes."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def by_the_first(function: Callable[[], T]) -> T | None:
    """`function()` by the first process, None elsewhere; a ValueError or OSError of it is raised by all."""
    if jax.process_count() == 1:
        return function()
    outcome, failure = None, None
    if jax.process_index() == 0:
        try:
            outcome = function()
        except (ValueError, OSError) as error:
            failure = error
    kind = "" if failure is None else "OSError" if isinstance(failure, OSError) else "ValueError"
    text = f"{kind}\n{failure}".encode()[:_LONGEST] if failure is not None else b""
    told = bytes(broadcast(np.frombuffer(text.ljust(_LONGEST, b"\0"), np.uint8))).rstrip(b"\0").decode(errors="ignore")
    if failure is not None:
        raise failure
    if told:
        kind, _, message = told.partition("\n")
        raise _ERRORS[kind](message)
    return outcome


@contextmanager
def held_by_the_first(holder: AbstractContextManager[T]) -> Iterator[T | None]:
    """What the first process holds, on that process; a ValueError or OSError of taking hold is raised by all."""
    held = by_the_first(holder.__enter__)
    try:
        yield held
    finally:
        if held is not None:
            holder.__exit__(None, None, None)


def of_all(arrays: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The arrays of every process, in order of the processes; all hand in as many of the same shapes."""
    if jax.process_count() == 1:
        return [arrays]
    from jax.experimental import multihost_utils

    return [list(own) for own in zip(*multihost_utils.process_allgather(arrays))]


def whole(tree: Tree) -> Tree:
    """Every array of the tree in full, as numpy where it lies on several processes."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    def gathered(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return to_numpy(leaf)
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(gathered, tree)


class SharedStore:
    """The checkpoints of one run, written and read by the first process alone.

    Attributes:
        directory: of the run.
    """

    def __init__(self, directory: Path, store: CheckpointStore | None):
        self.directory, self._store = directory, store

    @classmethod
    @contextmanager
    def held(cls, checkpoint: Checkpoint, identity: dict[str, str]) -> Iterator["SharedStore"]:
        """The directory for this run; the first process holds its lock.

        Raises:
            ValueError: on every process: it cannot be written, is in use, or its checkpoints belong to another run.
        """
        with held_by_the_first(CheckpointStore.held(checkpoint, identity)) as store:
            yield cls(Path(checkpoint.directory).absolute(), store)

    def save(self, epoch: int, tree: Tree) -> None:
        """Write the tree as the checkpoint after `epoch` epochs.

        Raises:
            OSError: on every process: the disk is full, or refuses otherwise.
        """
        arrays = whole(tree)
        by_the_first(lambda: self._store and self._store.save(epoch, arrays))

    def newest(self) -> Path | None:
        """The newest complete checkpoint; None on the other processes."""
        return None if self._store is None else self._store.newest()

    def restore(self, template: Tree, refill: Callable[[int, Tree], Tree]) -> tuple[int, Tree] | None:
        """(epochs done, tree as numpy) of the newest complete checkpoint, or None.

        Args:
            refill: `(epochs done, tree as saved) -> tree` with the shapes of the template; what it raises is raised by
                every process.
        """

        def read() -> tuple[int, Tree] | None:
            newest = None if self._store is None else self._store.restore(template)
            return None if newest is None else (newest[0], jax.tree.map(to_numpy, refill(*newest)))

        newest = by_the_first(read)
        done = int(broadcast(np.int32(-1 if newest is None else newest[0])))
        if done < 0:
            return None
        empty = jax.tree.map(lambda leaf: np.zeros_like(to_numpy(leaf)), whole(template)) if newest is None else None
        return done, broadcast(empty if newest is None else newest[1])
