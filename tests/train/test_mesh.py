"""fit and sweep on more than one device. JAX counts its devices when it starts, so they run in their own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}


def run_script(name, *arguments):
    """The printed lines of a script of this directory on eight devices."""
    script = Path(__file__).parent / name
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(script), *map(str, arguments)]
    process = subprocess.run(command, env=os.environ | EIGHT | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-5000:]
    return process.stdout.splitlines()


def test_in_short(tmp_path):
    checks = ["in_short", "bad_input"]
    assert run_script("on_eight_devices.py", tmp_path, *checks) == checks


@pytest.mark.slow
def test_fit_and_sweep_on_eight_devices(tmp_path):
    checks = ["on_a_mesh_as_on_one_device", "sweep_on_a_mesh"]
    assert run_script("on_eight_devices.py", tmp_path, *checks) == checks
