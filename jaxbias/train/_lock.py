"""One run at a time in a directory: the operating system's lock, and a note that says whose it is.

The lock ends with the process that holds it, however it ends, so what a killed run leaves behind never blocks.
"""

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

LOCK, OWNER = ".lock", ".owner.json"


@contextmanager
def locked(directory: Path, function: str) -> Iterator[None]:
    """Hold the directory, which exists, for the length of the block.

    Args:
        function: for the message.

    Raises:
        ValueError: another run holds it; the message says which process on which machine, and since when.
        OSError: the lock cannot be written.
    """
    import filelock

    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(
            f"{function}: {directory} is in use by another run: {_owner(directory)}. Wait for it, end it, or name "
            f"another directory."
        ) from None
    except NotImplementedError:
        warnings.warn(
            f"{function}: {directory} is on a file system without locks; let no other run use it.", stacklevel=4
        )
    owner = directory / OWNER
    try:
        owner.write_text(json.dumps({
            "process": os.getpid(), "machine": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds"),
        }))  # fmt: skip
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(directory: Path) -> str:
    try:
        owner = json.loads((directory / OWNER).read_text())
        return f"process {owner['process']} on {owner['machine']} since {owner['since']}"
    except (OSError, ValueError, KeyError):  # it has the lock, and is about to say who it is
        return "its process is not known yet"
