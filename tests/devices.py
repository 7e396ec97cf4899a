"""Scripts on several fake devices. JAX counts its devices when it starts, so they run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jax

TESTS = Path(__file__).parent


def environment(devices, keeps=True):
    """Of a process with so many devices, which compiles as the tests do and keeps what took long to compile.

    Processes of a group keep nothing: jaxlib 0.10 was seen to wait without end for a program that it had read back.
    """
    path = os.pathsep.join(filter(None, [str(TESTS.parent), os.environ.get("PYTHONPATH")]))
    return os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir or "") if keeps else "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": path,
    }


def run_script(script, *arguments, devices=8):
    """The printed lines of a script, named from this folder."""
    command = [sys.executable, str(TESTS / script), *map(str, arguments)]
    process = subprocess.run(command, env=environment(devices), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-5000:]
    return process.stdout.splitlines()
