"""Bad input: each has its own verdict or an error that names it; a wrong rule never makes the checker fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from tests.verify.tanh_layer import forward, rule


def calls_counted():
    calls = []

    def counting(x, weight):
        calls.append(1)
        return forward(x, weight) * jnp.float32(len(calls))

    return counting


def noisy():
    rng = np.random.default_rng(0)
    return lambda x, weight: forward(x, weight) * rng.uniform(size=(4, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (lambda x, w: np.tanh(np.asarray(x)), ValueError, r"cannot be traced.*Write it with jax\.numpy"),
        (lambda x, w: {}["kernel"], ValueError, "the forward raises KeyError: 'kernel'"),
        (lambda x, w: None, TypeError, "returns nothing; a gradient needs at least one float output"),
        (lambda x, w: (x @ w).argmax(), TypeError, r"returns int\d+\[\]"),
        (calls_counted(), ValueError, r"two calls of the forward .* differ: output\[\d\]\[\d\] is .* side effects"),
        (noisy(), ValueError, "random numbers outside of its arguments"),
        (None, TypeError, "forward must be a function, got NoneType"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_a_forward_that_cannot_be_checked(args, bad, error, words):
    with pytest.raises(error, match=words):
        verify.vjp(bad, rule, args)


@pytest.mark.parametrize(
    ("bad", "leaves", "words"),
    [
        (lambda a, c: None, ["x", "weight"], r"\(2 entries\): expected \(float32\[4,3\], float32\[3,2\]\), got None"),
        (lambda a, c: [*rule(a, c), c], ["x", "weight"], r"got 3: \(float32\[4,3\], float32\[3,2\], float32\[4,2\]\)"),
        (lambda a, c: dict(zip("xw", rule(a, c))), ["x", "weight"], r"got \{'w': float32\[3,2\], 'x'"),
        (lambda a, c: (rule(a, c)[0], {"w": c}), ["weight"], r"expected float32\[3,2\], got \{'w': float32\[4,2\]\}"),
        (lambda a, c: (rule(a, c)[0].astype(int), rule(a, c)[1]), ["x"], r"has dtype int\d+, but x has dtype float32"),
        (lambda a, c: (rule(a, c)[0] * (1 + 0j), rule(a, c)[1]), ["x"], r"has dtype complex\d+, but x has dtype float"),
        (lambda a, c: [][3], ["x", "weight"], r"raised IndexError: list index out of range \(test_bad_input\.py:\d+"),
        (lambda x, w, c: c, ["x", "weight"], "raised TypeError: .*missing 1 required positional argument"),
        (lambda a, c: (np.array([object()]), rule(a, c)[1]), ["x", "weight"], "no array: dtype object"),
    ],
)
def test_a_rule_that_cannot_be_compared(args, bad, leaves, words):
    with jax.numpy_dtype_promotion("standard"):
        report = verify.vjp(forward, bad, args)
    assert not report.ok and [path for path, leaf in report.leaves.items() if not leaf.ok] == leaves
    assert report.diagnoses[0].kind == "wrong-structure"
    assert "not compared" in str(report) and not any(leaf.compared for leaf in report.leaves.values())
    import re

    assert re.search(words, report.diagnoses[0].explanation), report.diagnoses[0].explanation


def test_values_of_an_earlier_trace_are_named(args):
    kept = []

    def leaking(x, weight):
        kept.append(forward(x, weight))
        return kept[-1]

    using = lambda args, ct: rule(args, ct + 0 * kept[-1])
    report = verify.vjp(leaking, using, args)
    assert not report.ok and "an earlier trace" in report.diagnoses[0].explanation


def test_a_number_that_a_loop_within_the_rule_does_not_have_is_said_with_its_place(args):
    def rows(args, ct):
        return lax.fori_loop(0, 3, lambda k, total: total + args[k], jnp.zeros(3)), args[1]

    report = verify.vjp(forward, rows, args)
    assert not report.ok and report.diagnoses[0].kind == "wrong-structure"
    assert (
        "TracerIntegerConversionError" in report.diagnoses[0].explanation
        and "args[k]" in report.diagnoses[0].explanation
    )


def test_not_a_number_is_said_where(args):
    report = verify.vjp(forward, lambda a, c: (rule(a, c)[0].at[1, 2].set(jnp.nan), rule(a, c)[1]), args)
    assert [path for path, leaf in report.leaves.items() if not leaf.ok] == ["x"]
    assert "nan at x[1, 2]" in report.diagnoses[0].explanation and "1 of 12" in report.diagnoses[0].explanation


def test_another_float_dtype_is_noted(args):
    report = verify.vjp(forward, lambda a, c: tuple(g.astype(jnp.float64) for g in rule(a, c)), args)
    assert (
        report.verdict == "right" and sum("returns float64 for an argument in float32" in n for n in report.notes) == 2
    )


@pytest.mark.usefixtures("as_users_run_it")
def test_options(args):
    for wrong, error, words in (
        ({"rtol": -1}, ValueError, "rtol must be finite and not negative, got -1"),
        ({"atol": "1e-3"}, TypeError, "atol must be a number, got str '1e-3'"),
        ({"key": 3}, TypeError, r"key must be a JAX key such as jax\.random\.key\(0\), got int 3"),
        ({"names": ["x"]}, ValueError, "names must name the 2 arguments"),
    ):
        with pytest.raises(error, match=words):
            verify.vjp(forward, rule, args, **wrong)
    for bad, error, words in (
        (lambda: args, ValueError, r"args\(key\) raises TypeError"),
        (lambda key: args[0], TypeError, r"args\(key\) must return a tuple.*return \(x,\)"),
        ((), TypeError, "there are no arguments"),
        ((args[0], forward), TypeError, "argument 1 holds function .* which is no array"),
    ):
        with pytest.raises(error, match=words):
            verify.vjp(lambda *a: forward(*args), rule, bad)


def test_whole_numbers_are_tolerances(args):
    assert verify.vjp(forward, lambda a, c: tuple(1.5 * g for g in rule(a, c)), args, rtol=1, atol=0).ok
    assert verify.gradient(lambda x: (x**2).sum(), lambda x: 2 * x, args[:1], rtol=0, atol=1).ok


def test_nothing_to_compare_is_said(args):
    report = verify.vjp(forward, rule, (args[0], args[1].at[0, 0].set(jnp.nan)))
    assert report.verdict == "reference undefined" and "nothing was compared" in " ".join(report.notes)
