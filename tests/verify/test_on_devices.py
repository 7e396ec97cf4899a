"""verify.sharded on fake devices: planted mistakes are named, right programs stay silent."""

import pytest

from tests.devices import run_script


def test_some_programs_and_bad_input():
    assert run_script("verify/sharded_programs.py", "short")[-1] == "refused"


@pytest.mark.slow
def test_every_planted_mistake_is_named_and_every_right_program_is_silent_on_two_meshes():
    lines = run_script("verify/sharded_programs.py", "all")
    assert lines == ["37 programs on {'data': 2, 'model': 4}", "37 programs on {'data': 2, 'model': 3}"]
