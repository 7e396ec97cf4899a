"""fit and sweep on more than one device."""

import pytest

from tests.devices import run_script

SCRIPT = "train/on_eight_devices.py"


def test_in_short(tmp_path):
    checks = ["in_short", "bad_input"]
    assert run_script(SCRIPT, tmp_path, *checks) == checks


@pytest.mark.slow
def test_planted_mistakes_in_the_step_are_caught(tmp_path):
    lines = run_script(SCRIPT, tmp_path, "planted_mistakes")
    assert len(lines) == 6 and lines[-1] == "planted_mistakes", lines


@pytest.mark.slow
def test_fit_and_sweep_on_eight_devices(tmp_path):
    checks = ["on_a_mesh_as_on_one_device", "sweep_on_a_mesh"]
    assert run_script(SCRIPT, tmp_path, *checks) == checks
