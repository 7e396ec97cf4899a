"""JAX's persistent compilation cache, set up for programs as small as these, and counted.

`use = enable(default_directory())`, before anything is compiled, turns the cache on for this process; `use.sentence()`
says at its end how many programs came from there. The command line does it unless told `--no-cache`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import jax
import platformdirs

from jaxbias._files import check_room

_REQUEST, _HIT = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"


@dataclass
class CacheUse:
    """How much the cache has spared.

    Attributes:
        directory: None where the cache is off.
        requests: programs that had to be compiled or found.
        hits: how many of them were found.
        problem: why the cache is off though it was asked for; empty where it is on, or was not asked for.
    """

    directory: Path | None
    requests: int = 0
    hits: int = 0
    problem: str = ""

    def sentence(self) -> str:
        """For people."""
        if self.directory is None:
            return "compilation cache: off" + (f", {self.problem}" if self.problem else "")
        share = f"{self.hits} of {self.requests} programs"
        if self.hits < self.requests / 2:
            return f"compilation cache: {share} were there, the others are now kept in {self.directory} for next time"
        return f"compilation cache: {share} came ready from {self.directory}"


def default_directory() -> Path:
    """`$JAXBIAS_CACHE_DIR`, else `$JAX_COMPILATION_CACHE_DIR`, else jaxbias in the user's cache directory."""
    for name in ("JAXBIAS_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"):
        if os.environ.get(name):
            return Path(os.environ[name])
    return platformdirs.user_cache_path("jaxbias", appauthor=False)


def enable(directory: Path | None) -> CacheUse:
    """Turn the cache on for this process and count its use; a directory that cannot be used leaves it off."""
    if directory is None:
        return CacheUse(None)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        any(directory.iterdir())
        check_room(directory)
    except OSError as error:
        return CacheUse(None, problem=f"{directory} cannot be used ({error.strerror})")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    use = CacheUse(directory)

    def count(event: str, **_: object) -> None:
        use.requests += event == _REQUEST
        use.hits += event == _HIT

    jax.monitoring.register_event_listener(count)
    return use
