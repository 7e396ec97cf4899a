"""Whether a program fits into memory, by the compiler's own figures, before it runs.

Linux lets a program allocate more than there is and kills it later, so asking first is the only way to an answer.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

_CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/memory")


def available(device: Any) -> int | None:
    """Bytes that a program may still allocate on `device`; None where nothing says.

    On the CPU the least of: what the system calls available, what is left of the limit of this process's control group
    (of a container), and of the limit on its address space.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu":
        return None
    bounds = [_of_system(), *(_left_in(group) for group in _control_groups()), _of_address_space()]
    return min((bound for bound in bounds if bound is not None), default=None)


def _of_system() -> int | None:
    entry = _entry("/proc/meminfo", "MemAvailable:")
    if entry is not None:
        return entry * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _control_groups() -> list[Path]:
    """The group that this process is in and all that hold it, as far as they are mounted here; versions 1 and 2."""
    groups = []
    for line in (_text("/proc/self/cgroup") or "").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory") or "memory" in kinds.split(","):
            root = Path(_CGROUPS[bool(kinds)])
            group = root / path.lstrip("/")
            groups += [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    return groups


def _left_in(group: Path) -> int | None:
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        allowed, used = _text(group / limit), _text(group / usage)
        if allowed and used and allowed.strip().isdigit():
            files = _entry(group / "memory.stat", "inactive_file") or 0  # the kernel drops these pages first
            return max(0, int(allowed) - max(0, int(used) - files))
    return None


def _of_address_space() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _entry("/proc/self/status", "VmSize:")
    return None if limit == resource.RLIM_INFINITY or used is None else max(0, limit - used * 1024)


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def _entry(path: str | Path, name: str) -> int | None:
    """The number after `name` at the beginning of a line."""
    lines = (line.split() for line in (_text(path) or "").splitlines())
    return next((int(words[1]) for words in lines if len(words) > 1 and words[0] == name), None)


def size(tree: Any) -> int:
    """Bytes of a tree of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def require(needed: int, device: Any, of: str, remedy: str) -> None:
    """Raise unless `needed` more bytes fit.

    Args:
        of: what needs them, for the message.

    Raises:
        MemoryError: they do not; the message has the figures and the remedy.
    """
    free = available(device)
    if free is not None and needed > free:
        raise MemoryError(f"{of} {_gigabytes(needed)} of memory, but {_gigabytes(free)} are free. {remedy}")


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 // 10 else f"{size / 2**20:,.1f} MiB"


@contextmanager
def exhausted(text: str) -> Iterator[None]:
    """What an accelerator says of exhausted memory becomes a MemoryError with `text`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(text) from error
