"""Finished members of a sweep on disk, so that a run that was killed goes on where it stopped."""

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jaxbias._files import check_room, write
from jaxbias.train._lock import locked

_IDENTITY = "sweep.json"


class SweepStore:
    """One file for each finished chunk, written beside and renamed; `sweep.json` says which sweep it is."""

    def __init__(self, directory: Path):
        self.directory = directory

    @classmethod
    @contextmanager
    def held(cls, directory: str | Path, identity: dict[str, str]) -> Iterator["SweepStore"]:
        """The directory for this sweep alone: made, or found to hold this very sweep.

        Raises:
            ValueError: it cannot be written, is in use, or holds another sweep.
        """
        store = cls(Path(directory))
        try:
            store.directory.mkdir(parents=True, exist_ok=True)
            check_room(store.directory)
        except OSError as error:
            raise ValueError(
                f"sweep: directory {store.directory} cannot be written ({error.strerror}). Name another one."
            ) from None
        with locked(store.directory, "sweep"):
            store._check_identity(identity)
            yield store

    def _check_identity(self, identity: dict[str, str]) -> None:
        path = self.directory / _IDENTITY
        if not path.exists():
            write(path, json.dumps(identity, indent=1))
        try:
            written = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"sweep: {path} cannot be read ({error}). Name another directory.") from None
        different = [name for name in identity if written.get(name) != identity[name]]
        if different:
            raise ValueError(
                f"sweep: directory {self.directory} holds another sweep; different: {', '.join(different)}. "
                f"Name another directory, or remove this one."
            )

    def _path(self, start: int, stop: int) -> Path:
        return self.directory / f"members-{start:06d}-{stop:06d}.npz"

    def load(self, start: int, stop: int) -> list[np.ndarray] | None:
        """Leaves of the results of members start … stop − 1, or None where there is no such file or it is damaged."""
        path = self._path(start, stop)
        if not path.exists():
            return None
        try:
            with np.load(path) as file:  # every entry carries a checksum
                return [file[f"leaf-{i}"] for i in range(len(file.files))]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(f"sweep: {path} is damaged ({error}); its members are trained again.", stacklevel=3)
            return None

    def save(self, start: int, stop: int, leaves: list[np.ndarray]) -> None:
        """Write the leaves of these members' results, whole or not at all."""
        content = io.BytesIO()
        np.savez(content, **{f"leaf-{i}": leaf for i, leaf in enumerate(leaves)})  # pyright: ignore[reportArgumentType]
        write(self._path(start, stop), content.getvalue())
