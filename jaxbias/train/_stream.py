"""Data that are not at rest on the devices: batches of a loader, or rows of a file that is mapped into memory.

Several batches go to the devices together, as what one call and one transfer cost would else be a good part of a small
step. A thread reads them ahead while steps run, never beyond the epochs of one call of the program, so that what a
loader has handed out when a checkpoint is written is what was trained on.
"""

import itertools
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, cast

import jax
import numpy as np
from jaxtyping import Array

from jaxbias.train._data import check_count, check_data

AHEAD = 2
"""Chunks that are read, and calls that are begun, before they are needed."""

TOGETHER, CHUNK_BYTES = 16, 2**22
"""Batches of a chunk: so many, or fewer where they have more bytes than that."""

T = TypeVar("T")
_END = object()


class Stream(Protocol):
    """Batches for training.

    Attributes:
        steps: of an epoch.
        first: the first batch as arrays (x, targets), to learn shapes from.
    """

    steps: int
    first: tuple[Any, Any]

    def epoch(self, epoch: int, together: int) -> Iterator[tuple[Any, Any]]:
        """The batches of one epoch in chunks (x, targets), each with a first axis of `together` batches.

        A last chunk that has fewer repeats some. Epochs are asked for in order, each when the one before was read.
        """
        ...

    def skip(self, epochs: int, state: bytes) -> None:
        """Begin behind so many epochs, which `state` was saved after."""
        ...

    def state(self) -> bytes:
        """What a checkpoint keeps of it; nothing where there is nothing to keep."""
        ...

    def identity(self) -> str:
        """What tells it from others in a checkpoint."""
        ...


def stream_of(
    data: Any, batch_size: int, steps_per_epoch: int | None, order: Callable[[int, int], Array], rows_here: int
) -> Stream | None:
    """The data as a stream; None for arrays, which go to the devices as a whole.

    Args:
        order: `(epoch, rows) -> (steps, batch_size)` row numbers, for rows of files.
        rows_here: rows of a batch that this process holds.

    Raises:
        TypeError, ValueError: as `fit` says of data.
    """
    if steps_per_epoch is not None:
        check_count(steps_per_epoch, "steps_per_epoch")
    pair = isinstance(data, tuple) or (isinstance(data, list) and not (data and _is_batch(data[0])))
    if pair and any(isinstance(array, np.memmap) for array in data):
        rows = MappedRows(data, batch_size, order)
    elif not pair and isinstance(data, Iterable) and not isinstance(data, dict | str | np.ndarray | jax.Array):
        return Loader(data, rows_here, steps_per_epoch)
    else:
        rows = None
    if steps_per_epoch is not None:
        raise ValueError("fit: steps_per_epoch is for batches of a loader; arrays have ⌊rows / batch_size⌋ steps.")
    return rows


def _is_batch(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(hasattr(part, "shape") for part in value)


class MappedRows:
    """Rows of arrays that stay in their files, in the order that arrays at rest are taken in."""

    def __init__(self, data: Any, batch_size: int, order: Callable[[int, int], Array]):
        if len(data) != 2:
            raise TypeError(f"fit: data must be a pair (x, targets) of arrays, got {len(data)} entries.")
        self._data, self._order = tuple(map(np.asanyarray, data)), order
        x, targets = self._data
        if len(x) != len(targets) or len(x) < batch_size:
            raise ValueError(
                f"fit: data x has {len(x)} rows and targets has {len(targets)}; both need one row per example, and at "
                f"least batch_size={batch_size} of them."
            )
        self.steps = len(x) // batch_size
        self.first = check_data((x[:batch_size], targets[:batch_size]), "data")

    def epoch(self, epoch: int, together: int) -> Iterator[tuple[Any, Any]]:
        order = np.asarray(self._order(epoch, len(self._data[0])))
        for i in range(0, self.steps, together):
            rows = np.stack(_filled(list(order[i : i + together]), together))
            yield _Chosen(self._data[0], rows), _Chosen(self._data[1], rows)

    def skip(self, epochs: int, state: bytes) -> None:
        del epochs, state  # the order of an epoch comes from its number

    def state(self) -> bytes:
        return b""

    def identity(self) -> str:
        parts = [f"{array.dtype}{array.shape} in {getattr(array, 'filename', None)}" for array in self._data]
        return f"mapped: {', '.join(parts)}"


class _Chosen:
    """The rows of some batches, read when they are asked for: on several processes each reads its own."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self.array, self.rows, self.shape = array, rows, (*rows.shape, *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        batches, rows, *others = index
        return self.array[self.rows[batches, rows]][(slice(None), slice(None), *others)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return np.asarray(self.array[self.rows], dtype)


def _filled(batches: list[Any], together: int) -> list[Any]:
    """As many as asked for: the last one stands for those that are missing, and is not trained on again."""
    return batches + batches[-1:] * (together - len(batches))


class Loader:
    """Batches (x, targets) of anything that can be iterated over.

    With `steps_per_epoch` one iterator goes on from epoch to epoch, and begins anew where it ends; without, every epoch
    is one iteration, of `len(loader)` batches.
    """

    def __init__(self, loader: Iterable[Any], rows: int, steps_per_epoch: int | None):
        self._loader, self._rows, self._goes_on = loader, rows, steps_per_epoch is not None
        try:
            self.steps = steps_per_epoch or len(loader)  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(
                "fit: data is a stream that does not say how many batches it has (it has no len). Pass steps_per_epoch."
            ) from None
        self._tell(0)  # it may have been gone through before
        self._iterator = iter(loader)
        batch = next(self._iterator, _END)
        if batch is _END:
            raise ValueError("fit: data is a stream without a batch. An iterator can be gone through once only.")
        self.first = self._checked(batch)
        self._forms = _forms(self.first)
        self._peeked: list[Any] = [batch]

    def _checked(self, batch: Any) -> tuple[Any, Any]:
        x, targets = check_data(tuple(batch) if isinstance(batch, list) else batch, "a batch of data")
        if len(x) != self._rows:
            raise ValueError(
                f"fit: a batch of data has {len(x)} rows where this process takes {self._rows} for a step. Let the "
                f"loader make them so, and drop a smaller last one (drop_last, drop_remainder)."
            )
        return x, targets

    def _read(self) -> tuple[Any, Any]:
        batch = self._peeked.pop() if self._peeked else next(self._iterator, _END)
        if batch is _END and self._goes_on:
            self._iterator = iter(self._loader)
            batch = next(self._iterator, _END)
        if batch is _END:
            raise ValueError(f"fit: data ended before the {self.steps} batches of an epoch were read.")
        x, targets = map(np.asarray, batch)  # type: ignore[call-overload]
        if _forms((x, targets)) != self._forms:
            self._checked((x, targets))
            raise ValueError(f"fit: a batch of data is {_forms((x, targets))}, the first one was {self._forms}.")
        return x, targets

    def _read_last(self) -> tuple[Any, Any]:
        """And goes on to the end, where samplers of PyTorch draw from their generator once more."""
        last = self._read()
        if next(self._iterator, _END) is not _END:
            raise ValueError(
                f"fit: data has more than the {self.steps} batches that its len says. Pass steps_per_epoch."
            )
        return last

    def epoch(self, epoch: int, together: int) -> Iterator[tuple[Any, Any]]:
        batches = self._batches(epoch)
        for _ in range(0, self.steps, together):
            x, targets = zip(*_filled(list(itertools.islice(batches, together)), together))
            yield (x[0][None], targets[0][None]) if together == 1 else (np.stack(x), np.stack(targets))

    def _batches(self, epoch: int) -> Iterator[tuple[Any, Any]]:
        if not self._goes_on and not self._peeked:
            self._tell(epoch)
            self._iterator = iter(self._loader)
        for _ in range(self.steps - 1):
            yield self._read()
        yield self._read() if self._goes_on else self._read_last()

    def _tell(self, epoch: int) -> None:
        for part in () if self._goes_on else self._numbered:
            part.set_epoch(epoch)

    @property
    def _numbered(self) -> list[Any]:
        """What is told the number of an epoch, as samplers of PyTorch are."""
        parts = (self._loader, getattr(self._loader, "sampler", None))
        return [part for part in parts if hasattr(part, "set_epoch")]

    def skip(self, epochs: int, state: bytes) -> None:
        if state or (epochs and self._numbered and not self._goes_on):
            self._peeked.clear()
        if state:
            self._iterator.set_state(_decoded(state))  # type: ignore[attr-defined]
        if not self._peeked:
            return
        for epoch in range(epochs):
            for _ in self._batches(epoch):
                pass

    def state(self) -> bytes:
        """Of an iterator that goes on and can be told, in one process; others are read again up to where they were."""
        told = all(hasattr(self._iterator, name) for name in ("get_state", "set_state"))
        if not (self._goes_on and told) or jax.process_count() > 1:
            return b""
        state = self._iterator.get_state()  # type: ignore[attr-defined]
        return b"b" + state if isinstance(state, bytes) else b"j" + json.dumps(state).encode()

    def identity(self) -> str:
        return f"stream of {self._forms}, {self.steps} an epoch"


def _decoded(state: bytes) -> Any:
    return state[1:] if state[:1] == b"b" else json.loads(state[1:])


def _forms(batch: tuple[Any, Any]) -> str:
    return " and ".join(f"{jax.dtypes.canonicalize_dtype(array.dtype)}{list(array.shape)}" for array in batch)


def together(first: tuple[Any, Any], batch_size: int, steps: int) -> int:
    """How many batches with rows like those of the first make a chunk, of an epoch of so many steps."""
    size = batch_size * sum(math.prod(part.shape[1:]) * part.dtype.itemsize for part in first)
    most = max(1, min(TOGETHER, steps, CHUNK_BYTES // max(size, 1)))
    return -(-steps // -(-steps // most))  # chunks that are alike, so that the last one is hardly filled up


def read_ahead(chunks: Iterator[T], place: Callable[[T], Any]) -> Iterator[Any]:
    """The chunks on the devices; a thread reads and sends some of them while the one before is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="jaxbias-batches") as thread:
        read = lambda: _END if (chunk := next(chunks, _END)) is _END else place(cast(T, chunk))
        waiting = deque(thread.submit(read) for _ in range(AHEAD + 1))
        while (chunk := waiting.popleft().result()) is not _END:
            yield chunk
            waiting.append(thread.submit(read))
