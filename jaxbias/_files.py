"""Output files that are whole or not there: written beside, then renamed."""

import os
import tempfile
from pathlib import Path


def check_writable(path: str | Path, argument: str) -> Path:
    """The path, after making sure that a file can be written there; for use before the work whose result it takes.

    Raises:
        ValueError: it is a directory, or its directory does not exist or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{argument}: {path} is a directory, wanted the path of a file.")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
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
