import hashlib
import os
import platform
import time
from importlib import metadata
from pathlib import Path

# Most of a JAX test's time is compiling, and these programs run once: skip the optimizer of the CPU backend, and where
# XLA has both, take the code generator that is quicker than its successor. XLA refuses to start with an unknown flag.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
if metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import jaxtyping
import platformdirs
import pytest

# What took long to compile is kept for the next run, for each kind of processor: JAX does not ask whether a program
# uses instructions that this one lacks. The processes that tests start compile as users' do.
CPUINFO = Path("/proc/cpuinfo")
LINES = CPUINFO.read_text().splitlines() if CPUINFO.exists() else [platform.processor()]
KIND = sorted({line for line in LINES if not CPUINFO.exists() or line.startswith(("model name", "flags", "Features"))})
KEPT = platformdirs.user_cache_path("jaxbias", appauthor=False) / "tests" / hashlib.md5(str(KIND).encode()).hexdigest()
jax.config.update("jax_compilation_cache_dir", str(KEPT))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_sessionfinish(session):
    """Programs of changed code are never asked for again."""
    for file in KEPT.glob("*") if not hasattr(session.config, "workerinput") else ():
        if time.time() - file.stat().st_mtime > 30 * 24 * 3600:
            file.unlink(missing_ok=True)


@pytest.fixture
def key():
    return jax.random.key(20261122)


@pytest.fixture
def as_users_run_it():
    """Without jaxtyping's checks, which only the tests install: bad input then meets the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def by_the_rules_of_jax():
    """Promotion as it is where nobody asked for less."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
