"""Samples, ratios and their intervals; what counts as one program."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.timing import compile_apart, measure, ratio, ratio_of_processes


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when `clock.sleep` says so, and not with what else the machine does."""

    class Clock:
        now = 0.0

        def sleep(self, seconds):
            self.now += seconds

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("benchmarks.timing.time", clock)
    return clock


def test_contenders_take_turns_and_are_all_waited_for(clock):
    calls = []

    def call(name):
        calls.append(name)
        clock.sleep(0.002)

    times = measure({name: lambda name=name: call(name) for name in "ab"}, rounds=4, sample_s=0.001)
    assert all(np.allclose(times[name].samples, [0.002] * 4) for name in "ab")
    assert calls[-8:] == list("abbaabba")  # after the first and the warm calls


def test_a_call_that_is_not_counted_goes_before_a_sample_of_several(clock):
    calls = []

    def call():
        calls.append(None)
        clock.sleep(0.5 if len(calls) > 3 and len(calls) % 4 == 0 else 0.002)  # what is not counted is slow

    times = measure({"a": call}, rounds=4, seconds=10.0, sample_s=0.006)
    assert len(calls) == 3 + 4 * (1 + 3)  # the first and two warm ones; then one that is not counted before three
    assert np.allclose(times["a"].samples, [0.002] * 4)


def test_a_short_budget_still_gives_three_rounds(clock):
    times = measure({"a": lambda: clock.sleep(0.01)}, rounds=50, seconds=0.001)
    assert len(times["a"].samples) == 3


def test_ratio_by_hand():
    found = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found == (2.0, 2.0, 2.0)  # every round has the same ratio, so the interval is a point


def test_ratio_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        a, b = random.lognormal(np.log(1.5), 0.2, 31), random.lognormal(0.0, 0.2, 31)
        found = ratio(a, b, paired=False, draws=300)
        covered += found.low <= 1.5 <= found.high
    assert covered >= 175  # 95 % of 200 are 190; a bootstrap of medians is a little narrow


def test_processes_are_drawn_as_wholes():
    fast, slow = [1.0] * 10, [3.0] * 10
    found = ratio_of_processes([fast, slow], [fast, fast])
    assert (found.low, found.high) == (1.0, 3.0)


def test_samples_taken_in_turns_are_drawn_together():
    slow_phase = [1.0] * 10, [4.0] * 10
    twice = [[2 * sample for sample in group] for group in slow_phase]
    assert ratio_of_processes(twice, slow_phase, paired=True) == (2.0, 2.0, 2.0)
    apart = ratio_of_processes(twice, slow_phase)
    assert apart.low < 1.0 and apart.high > 4.0


def test_ratio_refuses_unequal_pairs():
    with pytest.raises(ValueError, match="as many of each if paired; got 2, 1"):
        ratio([1.0, 2.0], [1.0])


def test_compiling_is_apart_and_the_arguments_are_counted():
    x, y = jnp.ones((3, 4), jnp.float32), jnp.ones((4, 5), jnp.float32)
    program = compile_apart(lambda x, y: x @ y, x, y)
    assert (program.argument_bytes, program.output_bytes) == (4 * (12 + 20), 4 * 15)
    assert program.compile_s > 0
    assert program.call().shape == (3, 5)


def test_one_program_under_two_names_has_one_fingerprint():
    x = jnp.ones((3, 4), jnp.float32)

    def named(x):
        return x * 2 + 1

    prints = [compile_apart(f, x).fingerprint for f in (named, lambda y: y * 2 + 1, lambda y: y * 3 + 1)]
    assert prints[0] == prints[1] != prints[2]
