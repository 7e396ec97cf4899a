"""Bytes that devices exchange: by formula, and as read from compiled programs. No times."""

import importlib.util

import pytest

from benchmarks import bench_weak_scaling as suite
from benchmarks.compiled import COMPILED, Collective, Target, collectives_of, facts_of
from benchmarks.peers import in_process
from benchmarks.record import Record
from docs import beyond_one_chip

TEXT = """
ENTRY main {
  a = f32[8,4]{1,0:T(8,128)} all-reduce(x), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=add
  b = (bf16[6]{0}, f32[]) all-reduce(x, y), channel_id=2, replica_groups={{0,2},{1,3}}, to_apply=add
  s = ((f32[16]{0}), f32[16]{0}) all-reduce-start(x), channel_id=3, replica_groups=[2,4]<=[8], to_apply=add
  t = f32[16]{0} all-reduce-done(s)
  g = f32[16]{0} all-gather(x), channel_id=4, replica_groups={}, dimensions={0}
  r = f32[4]{0} reduce-scatter(x), channel_id=5, replica_groups=mesh['a'=8] {'a':(2)4}, to_apply=add
  p = f32[4]{0} collective-permute(x), channel_id=6, source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_are_read_with_their_bytes_and_groups():
    assert collectives_of(TEXT, chips=8) == [
        Collective("all-reduce", 128, 4),
        Collective("all-reduce", 16, 2),
        Collective("all-reduce", 64, 4),
        Collective("all-gather", 64, 8),
        Collective("reduce-scatter", 16, 4),
        Collective("collective-permute", 16, 8),
    ]
    facts = facts_of(TEXT, 8)
    assert facts["groups"] == {
        "all-reduce over 4": [2, 192], "all-reduce over 2": [1, 16], "all-gather over 8": [1, 64],
        "reduce-scatter over 4": [1, 16], "collective-permute over 8": [1, 16],
    }  # fmt: skip
    assert facts["sent_bytes"] == 2 * 3 / 4 * 192 + 16 + 7 / 8 * 64 + 3 * 16 + 16


def sent_on_a_ring(n, values):
    """Numbers that each of n devices sends, seen by doing it: reduce-scatter, then all-gather, a block at a time."""
    block = values // n
    return sum(block for _ in range(n - 1)) + sum(block for _ in range(n - 1))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_ring_sends_what_the_formula_says(n):
    assert suite.ring(4 * 64, n) == 4 * sent_on_a_ring(n, 64) == Collective("all-reduce", 4 * 64, n).sent
    halves = Collective("reduce-scatter", 4 * 64 // n, n).sent + Collective("all-gather", 4 * 64, n).sent
    assert halves == suite.ring(4 * 64, n)


def test_work_and_links_are_set_beside_each_other_by_the_data_sheet():
    facts = {"sent_bytes": 200e9, "products_flops": 989e12}
    tpu = Record("weak_scaling", "4 v5e", "rows", {"chips": 4}, flops=197e12, bytes=2 * 819e9, extra=facts)
    assert suite.step_of(tpu, "v5e") == (2.0, 1.0)
    gpu = Record("weak_scaling", "16 H100", "rows", {"chips": 16}, extra=facts)
    assert suite.step_of(gpu, "H100") == (1.0, 0.5)


def test_the_page_is_what_the_results_say():
    files = beyond_one_chip.stored()
    page = beyond_one_chip.PAGE.read_text(encoding="utf-8")
    assert page == beyond_one_chip.render(files), "python -m docs.beyond_one_chip writes it"
    figures = [line for line in page.splitlines() if line.endswith(f"{COMPILED} |")]
    records = [record for file in files for record in file["records"]]
    compiled = [r for r in records if r.suite == suite.SUITE and r.measured == COMPILED and r.status == "ok"]
    assert len(figures) == len(compiled) > 0
    assert all(r.extra["kinds"].keys() == {"all-reduce"} for r in compiled if r.extra["collectives"])


def compiled(target, width=64):
    job = {"target": target, "rows": 16, "width": width}
    answers = in_process("benchmarks.bench_weak_scaling", job, env=target.environment)
    assert all(answer.get("status", "ok") == "ok" for answer in answers), answers
    return {answer["contender"]: answer for answer in answers}


def test_a_step_sums_what_the_formula_says_on_devices_of_a_cpu():
    """XLA for CPUs sums in float32 or bfloat16, so bytes are right but for a factor of two."""
    answers = compiled(Target("CPU", "", 8))
    for answer in answers.values():
        assert answer["kinds"].keys() == {"all-reduce"} and answer["transfers"] == 0, answer
        assert answer["formula_bytes"] <= answer["sent_bytes"] <= 2 * answer["formula_bytes"], answer
    over_model, size = answers["rows and roles"]["groups"]["all-reduce over 4"]
    assert over_model == 4 and size in (4 * 16 * 64 * 2, 4 * 16 * 64 * 4)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x2"])
def test_programs_for_tpus_send_exactly_what_the_formula_says(topology):
    for answer in compiled(Target.tpu(topology)).values():
        assert answer["kinds"].keys() == {"all-reduce"} and answer["transfers"] == 0, answer
        assert answer["sent_bytes"] == answer["formula_bytes"], answer


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="the extra gpu-compile is missing")
def test_programs_for_gpus_send_up_to_twice_that_as_they_sum_gradients_in_float32():
    for answer in compiled(Target("H100", "", 8)).values():
        assert answer["kinds"].keys() == {"all-reduce"} and answer["transfers"] == 0, answer
        assert answer["formula_bytes"] <= answer["sent_bytes"] <= 2 * answer["formula_bytes"], answer
