"""Goals computed from records, worked by hand."""

import pytest

from benchmarks import goals
from benchmarks.record import Record


def derivation(case, contender, ratio, **extra):
    return Record("derivations", case, contender, samples=[1.0], times_baseline=[ratio, ratio, ratio], extra=extra)


def test_ratios_take_the_plain_forward_where_one_is_named():
    records = [
        derivation("max_pool", "autodiff", 2.0),
        derivation("max_pool", "lax.reduce_window", 8.0),
        derivation("tanh", "autodiff", 0.5),
        derivation("dense", "autodiff", 0.7, same_program_as="hand"),
        derivation("gradient of a small CNN", "autodiff", 0.1),
    ]
    assert goals.derivation_ratios(records) == {"max_pool": 8.0, "tanh": 0.5, "dense": 1.0}
    assert goals.derivation_ratios(records, "autodiff") == {"max_pool": 2.0, "tanh": 0.5, "dense": 1.0}
    assert goals._geometric_mean(None)(records) == pytest.approx(4.0 ** (1 / 3))


def test_a_case_is_found_by_its_own_name_first():
    longer = Record("derivations", "max_pool, overlapping", "hand", samples=[9.0])
    own = Record("derivations", "max_pool", "hand", samples=[1.0])
    assert goals.find([longer, own], "derivations", "max_pool", "hand") is own
    assert goals.find([longer], "derivations", "max_pool", "hand") is longer


def test_training_goal_is_against_the_fastest_other():
    def trained(contender, seconds):
        return Record("training", "digits_dense", contender, samples=[seconds])

    records = [trained("jaxbias", 2.0), trained("jax scan", 1.6), trained("jax loop", 4.0), trained("torch", 0.1)]
    goal = goals.GOALS[0]
    assert goal.verdict(records) == (pytest.approx(1.25), "not met")
    assert goal.verdict(records[:1]) == (None, "not measured")


def test_without_records_nothing_is_met():
    assert {row[-1] for row in goals.table([])} == {"not measured"}
