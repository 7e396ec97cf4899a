"""Output files that are whole or not there: written beside, then renamed."""

import os
import tempfile
from pathlib import Path


def check_room(directory: str | Path, size: int = 4096) -> None:
    """Make sure that a file of `size` bytes can be written in the directory; none stays there.

    The default shows whether the disk takes anything at all: an empty file fits on a full one.

    Raises:
        OSError: it cannot.
    """
    with tempfile.TemporaryFile(dir=directory) as probe:  # without a name where the system can: a kill leaves nothing
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(probe.fileno(), 0, size)
        else:
            for start in range(0, size, 1 << 20):
                probe.write(bytes(min(1 << 20, size - start)))
            probe.flush()


def check_writable(path: str | Path, argument: str) -> Path:
    """The path, after making sure that a file can be written there; for use before the work whose result it takes.

    Raises:
        ValueError: it is a directory, or its directory does not exist or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{argument}: {path} is a directory, wanted the path of a file.")
    try:
        check_room(path.parent)
    except OSError as error:
        raise ValueError(
            f"{argument}: cannot write {path} ({error.strerror}). Name a file in a directory that exists and can be "
            f"written."
        ) from None
    return path


def write(path: str | Path, content: str | bytes) -> None:
    """Write the file beside its place, then rename it: a reader sees the old content or the new, nothing between."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
