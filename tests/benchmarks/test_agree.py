"""Wrong answers are found before a clock starts: canaries sing for planted mistakes, and disagreement has no time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import agree
from benchmarks.case import Case, Setting, run_cases

TINY = Setting("tiny", limits={"matmul_float32": 1e9, "memory_triad": 1e9})


@pytest.mark.parametrize("name", agree.CANARIES)
def test_canary_is_right_here(name):
    assert agree.canary(name).status == "ok"


def wrong_attention(query, key, value, bias, cotangent):
    return jnp.zeros_like(bias)


PLANTED = {
    "α(AB + b)": lambda a, b, bias, alpha: alpha * (a @ b) + bias[None, :],
    "bias on the right axis": lambda x, w, bias: (
        jnp.maximum(x @ w + bias[:, None], 0),
        jnp.maximum(w.T @ x.T + bias[:, None], 0),
    ),
    "attention bias gradient": wrong_attention,
    "float32 bias, bfloat16 weights": lambda x, w, bias: (
        jnp.matmul(x, w, preferred_element_type=jnp.float32) + bias.astype(jnp.bfloat16).astype(jnp.float32)[None, :]
    ),
}


@pytest.mark.parametrize("name", agree.CANARIES)
def test_canary_sings_for_the_known_mistake(name):
    record = agree.canary(name, PLANTED[name])
    assert record.status == "wrong" and not record.samples
    assert "this backend computes" in record.note


def test_nan_is_a_disagreement():
    error = agree.disagreement({"a": jnp.array([1.0, jnp.nan])}, {"a": jnp.array([1.0, 2.0])})
    assert not error <= agree.bound(jnp.float32)


def test_what_is_left_of_a_zero_gradient_is_judged_against_the_rest():
    reference = {"key_bias": np.array([1e-16]), "weight": np.array([2.0])}
    actual = {"key_bias": np.array([-1e-7]), "weight": np.array([2.0])}
    assert agree.zero_leaves(reference) == ["key_bias"]
    assert agree.disagreement(actual, reference) > 1.0
    assert agree.disagreement(actual, reference, ["key_bias"]) == pytest.approx(5e-8)


def case(**contenders):
    def build(sizes, dtype):
        return contenders, (jnp.arange(1, sizes["n"] + 1, dtype=dtype),)

    return Case("test", "sum", {"n": 8}, build, {"n": 3}, baseline="right", reference="right")


def test_a_wrong_contender_has_no_time():
    [records] = run_cases([case(right=jnp.sum, wrong=jnp.mean)], TINY)
    by_name = {r.contender: r for r in records}
    assert by_name["right"].status == "ok" and len(by_name["right"].samples) == 3
    assert by_name["wrong"].status == "wrong" and by_name["wrong"].samples == []
    assert "disagrees with right: 0.67 in float64, 0.88 here" in by_name["wrong"].note


def test_a_contender_that_is_wrong_in_float64_only_has_no_time():
    def lossy(x):
        return x.astype(jnp.float32).astype(x.dtype).sum() * (1 + 1e-8)

    [records] = run_cases([case(right=jnp.sum, lossy=lossy)], TINY)
    assert {r.contender: r.status for r in records} == {"right": "ok", "lossy": "wrong"}


def test_no_memory_is_recorded_and_the_next_case_goes_on():
    def greedy(x):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1099511627776 bytes.")

    first, second = run_cases([case(right=greedy), case(right=jnp.sum)], TINY)
    assert [(r.contender, r.status) for r in first] == [("all", "out of memory")]
    assert [(r.contender, r.status) for r in second] == [("right", "ok")]


def test_any_other_failure_is_recorded_too():
    def broken(x):
        raise TypeError("no such thing\nmore lines")

    [[record]] = run_cases([case(right=broken)], TINY)
    assert (record.status, record.note) == ("failed", "TypeError: no such thing")
