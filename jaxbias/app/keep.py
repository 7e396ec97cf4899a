"""A result that cannot be written where it was wanted goes elsewhere: no work of hours is lost to a full disk."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxbias.app.failure import FAILED, Failure, reason

Write = Callable[[Path], None]


def write(path: Path, write_to: Write, contents: str) -> Failure | None:
    """Write a result to `path`; where that fails, to the path that the user names, or where there is room.

    Args:
        write_to: writes the file at a path, whole or not at all.
        what: the result's name, for the message.

    Returns:
        None, or what went wrong and where the result is now.
    """
    try:
        write_to(path)
    except (OSError, ValueError) as error:
        return elsewhere(path, write_to, contents, f"{contents} cannot be written to {path} ({reason(error)})")
    return None


def elsewhere(path: Path, write_to: Write, contents: str, problem: str) -> Failure:
    """Write a result somewhere else than at `path`, for the reason `problem`; say where it is now."""
    kept = _asked(write_to, problem) if sys.stdin.isatty() and sys.stderr.isatty() else _anywhere(path, write_to)
    if kept is None:
        return Failure(f"{problem}, nor anywhere else; {contents} are lost.", FAILED)
    return Failure(f"{problem}; {contents} are in {kept} instead.", FAILED)


def _asked(write_to: Write, problem: str) -> Path | None:
    """Ask until a path can be written; nothing, or the end of the input, gives up."""
    while True:
        print(f"jaxbias: {problem}.", file=sys.stderr)
        print("Another path, or nothing to give up: ", end="", file=sys.stderr, flush=True)
        path = Path(sys.stdin.readline().strip()).expanduser()
        if path == Path():
            return None
        try:
            write_to(path)
            return path
        except (OSError, ValueError) as error:
            problem = f"{path} cannot be written either ({reason(error)})"


def _anywhere(path: Path, write_to: Write) -> Path | None:
    """The first of the working directory, the temporary one and the user's home that takes a file of a new name."""
    for directory in (Path.cwd(), Path(tempfile.gettempdir()), Path.home()):
        try:
            other = Path(tempfile.mkdtemp(prefix="jaxbias-", dir=directory)) / path.name
        except OSError:
            continue
        try:
            write_to(other)
            return other
        except (OSError, ValueError):
            other.parent.rmdir()
    return None
