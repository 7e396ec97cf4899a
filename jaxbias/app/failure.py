"""What the program says of an error, in one line, and the exit status that goes with it.

An error is bad input where the library itself refuses: where a `raise` statement of this package raised it. Whatever
Python or another library raises by itself is a defect of ours, unless it is the machine's answer: no room on the disk,
no memory, no permission. Code that has no input left to refuse runs under `no_input_left`: nothing there is bad input.
"""

import dis
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

FAILED, BAD_INPUT, INTERNAL, INTERRUPTED = 1, 2, 70, 130
STATUSES = (
    "Exit status: 0 done; 1 a check failed, training diverged, or disk or memory did not suffice; 2 bad input; "
    "70 internal error; 130 interrupted."
)
DEBUG = "JAXBIAS_DEBUG"
"""Environment variable that stands for --debug."""

_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE,
    errno.ENFILE, errno.ENAMETOOLONG, errno.ESTALE,
}  # fmt: skip


class Failure(NamedTuple):
    """One line for people, and an exit status for scripts."""

    text: str
    status: int


class InternalError(Exception):
    """An error, its cause, where no input can be at fault."""


@contextmanager
def no_input_left() -> Iterator[None]:
    """What the block's code refuses is not the user's: the input was checked before."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InternalError from error


def of(error: BaseException) -> Failure:
    """What to say of `error`, and the exit status."""
    if isinstance(error, InternalError):
        return _internal(error.__cause__ or error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return Failure(str(error) or "out of memory", FAILED)
    if isinstance(error, ValueError | TypeError | OSError | ModuleNotFoundError) and _refused_here(error):
        return Failure(str(error), BAD_INPUT)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "jaxbias").startswith("jaxbias"):
        return Failure(f"this needs the package {error.name}, which is not installed. Install jaxbias[cli].", BAD_INPUT)
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return Failure(f"cannot read or write {error.filename or 'the output'}: {reason(error)}", FAILED)
    return _internal(error)


def say(failure: Failure, error: BaseException | None = None) -> int:
    """Print the line, below the traceback where --debug asks for it; return the exit status."""
    if error is not None and os.environ.get(DEBUG):
        traceback.print_exception(error)
    print("jaxbias: " + " ".join(failure.text.split()), file=sys.stderr, flush=True)
    return failure.status


_SPOKEN: set[tuple[str, int]] = set()


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """`warnings.showwarning` in one line; a line of another package speaks once, however many files it complains of."""
    if not filename.startswith(_PACKAGE) and (filename, lineno) in _SPOKEN:
        return
    _SPOKEN.add((filename, lineno))
    print("jaxbias: warning: " + " ".join(str(message).split()), file=file or sys.stderr, flush=True)


def reason(error: BaseException) -> str:
    """Why, without where: the system's own words, if it was the system that refused."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _frames(error: BaseException) -> list[tuple[str, int, bool]]:
    """(file, line, whether it stands at a `raise` statement) of every frame, the innermost last."""
    frames, at = [], error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        frames.append((code.co_filename, at.tb_lineno, dis.opname[code.co_code[at.tb_lasti]] == "RAISE_VARARGS"))
        at = at.tb_next
    return frames


def _refused_here(error: BaseException) -> bool:
    frames = _frames(error)
    return bool(frames) and frames[-1][0].startswith(_PACKAGE) and frames[-1][2]


def _internal(error: BaseException) -> Failure:
    ours = [(file, line) for file, line, _ in _frames(error) if file.startswith(_PACKAGE)]
    place = f" (jaxbias/{Path(ours[-1][0]).relative_to(_PACKAGE).as_posix()}:{ours[-1][1]})" if ours else ""
    said = traceback.format_exception_only(error)[0].strip().splitlines()[0]
    return Failure(
        f"internal error: {said}{place}. Your input is not at fault: run again with --debug, which shows the "
        f"traceback, and report it{_issues()}.",
        INTERNAL,
    )


def _issues() -> str:
    """Where to report, from the metadata of the installed package."""
    try:
        addresses = metadata("jaxbias").get_all("Project-URL") or []
    except PackageNotFoundError:  # a source tree that was never installed
        addresses = []
    pairs = (entry.partition(", ")[::2] for entry in addresses)
    address = next((url for name, url in pairs if name.lower() in ("issues", "tracker", "bug tracker")), "")
    return f" at {address}" if address else ""
