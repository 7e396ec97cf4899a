"""Checkpoints that survive `kill -9`: written beside, checksummed, then renamed; read only when every byte is right.

A checkpoint is the directory `epoch-<number>`: arrays written by orbax, and `manifest.json` with the SHA-256 of every
file and the identity of the run. A directory has that name only once it is complete. Saving is synchronous.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias._files import check_room
from jaxbias.params import Tree
from jaxbias.train._lock import locked

_MANIFEST = "manifest.json"
_NAME = re.compile(r"epoch-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """Where, how often and how many.

    Attributes:
        directory: of this one run; made when missing.
        every: epochs between two checkpoints. The last epoch is always saved.
        keep: how many of the newest to keep.
    """

    directory: str | Path
    every: int = 1
    keep: int = 3

    def __post_init__(self) -> None:
        if not str(self.directory):
            raise ValueError("Checkpoint: the directory has no name. Give a path, such as runs/1.")
        for name in ("every", "keep"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"Checkpoint: {name} must be a whole number from 1, got {getattr(self, name)!r}.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(*arrays: Any) -> str:
    """SHA-256 over shapes, dtypes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        array = to_numpy(array)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def program_digest(function: Any, *args: Any) -> str:
    """SHA-256 of the jaxpr of `function`: another layer, stride, loss or learning rate is another program.

    Addresses are cut out; they differ from one process to the next.
    """
    text = str(jax.make_jaxpr(function)(*args))
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", text).encode()).hexdigest()


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_numpy(leaf: Any) -> np.ndarray:
    """The array, or the data of a key; of one that lies on several processes the parts of this one."""
    array = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        return np.concatenate([np.ravel(shard.data) for shard in array.addressable_shards])
    return np.asarray(array)


def like(leaf: Any, saved: np.ndarray) -> Any:
    """What was saved as numpy, as the kind of leaf that it was."""
    return (
        jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else jnp.asarray(saved)
    )


def _named_leaves(tree: Tree) -> dict[str, Any]:
    """Leaves by position; tensorstore cannot hold an array without entries, and restoring one needs no file."""
    leaves = jax.tree.leaves(tree)
    return {f"leaf-{i}": leaf for i, leaf in enumerate(leaves) if np.size(leaf)}


class CheckpointStore:
    """The checkpoints of one run in one directory."""

    def __init__(self, checkpoint: Checkpoint, identity: dict[str, str]):
        """Make the directory, and check that it can be written.

        Raises:
            ValueError: it cannot.
        """
        import orbax.checkpoint as ocp

        self.keep, self.identity = checkpoint.keep, identity
        self.directory = Path(checkpoint.directory).absolute()
        self._orbax = ocp
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:  # the first process writes for all, and waits for nobody
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxbias"
            )
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
        self._checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            check_room(self.directory)
        except OSError as error:
            raise ValueError(
                f"fit: checkpoint directory {self.directory} cannot be written ({error.strerror}). Name another one."
            ) from None

    @classmethod
    @contextmanager
    def held(cls, checkpoint: Checkpoint, identity: dict[str, str]) -> Iterator["CheckpointStore"]:
        """The directory for this run alone, cleared of what a kill left behind.

        Raises:
            ValueError: the directory cannot be written, is in use, or its checkpoints belong to another run.
        """
        store = cls(checkpoint, identity)
        with locked(store.directory, "fit"):
            store._check_identity()
            for leftover in store.directory.glob("writing-*"):
                shutil.rmtree(leftover)
            yield store

    def _check_identity(self) -> None:
        for path in self._newest_first():
            manifest = self._manifest(path)
            if manifest is None:
                continue
            stored = manifest["identity"]
            differs = [name for name in self.identity | stored if self.identity.get(name) != stored.get(name)]
            if differs:
                raise ValueError(
                    f"fit: checkpoint {path} belongs to another run: {', '.join(differs)} differ. "
                    f"Name another checkpoint directory, or repeat that run with the same arguments."
                )

    def _newest_first(self) -> list[Path]:
        whole = [path for path in self.directory.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(whole, key=_epoch, reverse=True)

    @staticmethod
    def _manifest(path: Path) -> dict[str, Any] | None:
        try:
            manifest = json.loads((path / _MANIFEST).read_text())
            return manifest if {"identity", "files"} <= manifest.keys() else None
        except (OSError, ValueError, AttributeError):
            return None

    def save(self, epoch: int, tree: Tree) -> None:
        """Write `tree` as the checkpoint after `epoch` epochs, and drop the oldest beyond `keep`. Ctrl-C waits.

        Raises:
            OSError: the disk is full, or refuses otherwise; the checkpoints before this one stay whole.
        """
        writing = self.directory / f"writing-{epoch}"
        with _interrupt_held():
            try:
                self._save(epoch, tree, writing)
            except BaseException:
                shutil.rmtree(writing, ignore_errors=True)  # its room may be what the next one needs
                raise

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(iter(self._newest_first()), None)

    def _save(self, epoch: int, tree: Tree, writing: Path) -> None:
        final = self.directory / f"epoch-{epoch}"
        writing.mkdir()
        arrays = {name: to_numpy(leaf) for name, leaf in _named_leaves(tree).items()}
        # Asked before orbax writes: its own answer is a ValueError and many lines from its threads.
        check_room(self.directory, sum(array.nbytes for array in arrays.values()) or 1)
        with _system_errors():
            self._checkpointer.save(writing / "arrays", args=self._orbax.args.StandardSave(arrays))
        files = {str(p.relative_to(writing)): _sha256(p) for p in sorted(writing.rglob("*")) if p.is_file()}
        (writing / _MANIFEST).write_text(json.dumps({"identity": self.identity, "files": files}))
        writing.rename(final)
        for old in self._newest_first()[self.keep :]:
            # Renamed first: a kill in the middle of deleting must not leave half a checkpoint under a valid name.
            shutil.rmtree(old.rename(old.with_name(f"writing-old-{_epoch(old)}")))

    def restore(self, template: Tree) -> tuple[int, Tree] | None:
        """(epoch, tree) of the newest complete checkpoint, or None. A damaged one is named, put aside and skipped."""
        for path in self._newest_first():
            damage = self._damage(path)
            if damage is None:
                saved = self._checkpointer.restore(path / "arrays", args=self._orbax.args.StandardRestore())
                leaves, treedef = jax.tree.flatten(template)
                names = [f"leaf-{i}" for i in range(len(leaves))]
                restored = [like(leaf, saved[name]) if name in saved else leaf for name, leaf in zip(names, leaves)]
                return _epoch(path), treedef.unflatten(restored)
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            warnings.warn(
                f"fit: checkpoint {path} is damaged ({damage}); it was put aside as {aside.name} and skipped.",
                stacklevel=3,
            )
        return None

    def _damage(self, path: Path) -> str | None:
        manifest = self._manifest(path)
        if manifest is None:
            return f"{_MANIFEST} is missing or unreadable"
        for name, wanted in manifest["files"].items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if _sha256(path / name) != wanted:
                return f"{name} does not match its checksum"
        return None


@contextmanager
def _system_errors() -> Iterator[None]:
    """What the system refused to orbax becomes the OSError that it was, and orbax's threads do not log it as well."""
    logger = logging.getLogger("absl")
    logger.addFilter(_no_refusals)
    try:
        yield
    except ValueError as error:
        code = _SYSTEM_CODE.search(str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    finally:
        logger.removeFilter(_no_refusals)


_SYSTEM_CODE = re.compile(r"\[os_error_code='(\d+)'\]")


def _no_refusals(record: logging.LogRecord) -> bool:
    return not _SYSTEM_CODE.search(record.getMessage())


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Ctrl-C takes effect after the block: in the middle of it, orbax's threads would be left without their pool."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    held: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *args: held.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    if held:
        raise KeyboardInterrupt


def _epoch(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
