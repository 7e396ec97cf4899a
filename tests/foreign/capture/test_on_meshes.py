"""Capture and `as_function` inside of shard_map, and on automatic and explicit axes of a mesh."""

import pytest

from tests.devices import run_script

SCRIPT = "foreign/capture/on_eight_devices.py"


@pytest.mark.slow
def test_inside_shard_map_every_device_has_its_own_examples():
    assert run_script(SCRIPT, "params_that_all_devices_share") == ["params_that_all_devices_share"]


@pytest.mark.slow
def test_what_marks_are_for_and_what_vmap_of_grad_means_there():
    checks = ["without_marks_it_is_refused_or_wrong", "vmap_of_grad_as_the_docs_say"]
    assert run_script(SCRIPT, *checks) == checks


@pytest.mark.slow
def test_the_gradient_of_a_hand_derived_function_inside_shard_map_is_that_of_autodiff():
    assert run_script(SCRIPT, "as_function_inside_shard_map") == ["as_function_inside_shard_map"]


@pytest.mark.slow
def test_examples_or_hidden_units_shared_by_devices_and_axes_that_the_compiler_cuts():
    checks = ["params_marked_as_varying_and_float32"]
    checks += ["hidden_units_cut_over_devices", "time_cut_over_devices", "automatic_and_explicit_axes"]
    assert run_script(SCRIPT, *checks) == checks
