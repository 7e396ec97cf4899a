"""The rule in narrow dtypes: is what it loses explained by rounding, and does autodiff lose more?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import coarsest_constant
from jaxbias._trees import first_line
from jaxbias.verify.case import SLACK_IN_FLOAT64
from jaxbias.verify.checker import SLACK_IN_ARGUMENT_DTYPE
from jaxbias.verify.measured import COARSE
from jaxbias.verify.problem import Arrays, RuleError, narrow_np, widen
from jaxbias.verify.report import Diagnosis

if TYPE_CHECKING:
    from jaxbias.verify.calls import Calls
    from jaxbias.verify.checker import Case, Checker
    from jaxbias.verify.truths import Truth

LOWER = jnp.float32, jnp.bfloat16
"""Dtypes that the rule is tried in besides the one of its arguments, where they are narrower."""

NARROW = jnp.float32, jnp.float16, jnp.bfloat16
"""Dtypes that a gradient may have been cast to on the way."""

REMARKED = 0.01
"""Of its largest entry: what a gradient may lose in operations that the rule casts to a narrower dtype, as products in
half precision are, and still be right, with a remark. Beyond it too few digits are left to use it."""


@dataclass
class Judged:
    """What was found for one leaf.

    Attributes:
        wrong, convention: the case that shows it best.
        undefined: autodiff gives NaN where the rule gives the limit.
        imprecise: autodiff in the dtype of the arguments loses much more than the rule.
        better: cases in which autodiff is wrong in any dtype, and the rule is not.
        expected, elements: for precision lost by the rule, the true values and where.
    """

    wrong: "Case | None" = None
    convention: "Case | None" = None
    undefined: bool = False
    imprecise: bool = False
    better: Sequence["Case"] = ()
    expected: Any = None
    elements: Any = None


@dataclass
class LeafErrors:
    """How one leaf fares in one dtype.

    Attributes:
        wrong: elements whose error neither rounding nor autodiff's own error explains.
        own, autodiff: largest errors.
        scale: largest true entry.
        allowed: what rounding explains.
    """

    wrong: np.ndarray
    own: float
    autodiff: float
    scale: float
    allowed: float


def _dtypes(checker: "Checker", dtype: Any) -> list[Any]:
    """Of primals and seeds: those given, or the narrower `dtype`."""

    def narrower(given):
        return dtype if given is not None and jnp.finfo(given).eps < jnp.finfo(dtype).eps else given

    return [narrower(given) for given in checker.given_dtypes]


def _inputs(case: "Case", dtypes: list[Any]) -> tuple[Arrays, Arrays]:
    """Primals and seeds rounded to what these dtypes can hold, in float64."""
    count = len(case.probe.primals)
    held = [x if d is None else widen(narrow_np(x, d)) for x, d in zip(case.probe.inputs, dtypes)]
    return held[:count], held[count:]


def _truth(checker: "Checker", dtypes: list[Any], eps: float, primals: Arrays, seeds: Arrays) -> "Truth | None":
    """True gradients, with the bound on rounding and autodiff's values in these dtypes."""
    if checker.by_differences:  # which round by themselves
        return None
    try:
        program = checker.traced_in(dtypes)[0].program(primals, seeds)
    except Exception:  # the forward does not run in this dtype
        return None
    if program is None:
        return None
    # a lost digit is no mistake where there are 16
    factors = SLACK_IN_FLOAT64 if eps <= jnp.finfo(jnp.float64).eps else SLACK_IN_ARGUMENT_DTYPE
    return checker.truth(program, [*primals, *seeds], eps, factors, narrow=True, rounded=True)


def _leaf_errors(truth: "Truth", i: int, actual: Any) -> LeafErrors:
    expected, tolerance = truth.expected[i], truth.tolerance[i]
    assert truth.rounded is not None
    defined = np.isfinite(expected)
    with np.errstate(all="ignore"):
        error = np.where(defined, np.abs(actual - expected), 0.0)
        lost = np.where(defined, np.abs(truth.rounded[i] - expected), 0.0)
    return LeafErrors(
        np.asarray(~(error <= tolerance) & defined & ~(error <= 4 * lost)),
        float(np.max(error, initial=0.0)),
        float(np.max(np.nan_to_num(lost, nan=np.inf), initial=0.0)),
        float(np.max(np.abs(np.where(defined, expected, 0.0)), initial=0.0)),
        float(np.max(tolerance, initial=0.0)),
    )


def _passed_through(truth: "Truth", i: int, actual: Any, dtype: Any) -> tuple[Any, np.ndarray]:
    """A narrower dtype that a gradient went through, and which elements lost digits there; None and none otherwise.

    The bound on rounding can exceed what such a cast loses. But then the gradient holds nothing except numbers of the
    narrow dtype, each the true one rounded to it, which autodiff's gradient does not.
    """
    assert truth.rounded is not None
    expected, autodiff, eps = truth.expected[i], np.asarray(truth.rounded[i]), float(jnp.finfo(dtype).eps)
    with np.errstate(all="ignore"):
        error, rounding = np.abs(actual - expected), np.abs(autodiff - expected)
    if np.iscomplexobj(actual) or not np.all(np.isfinite(error + rounding)):
        return None, np.zeros(np.shape(expected), bool)
    lost = error > 64 * eps * np.abs(expected) + 4 * rounding
    for narrow in NARROW:
        coarse = float(jnp.finfo(narrow).eps)
        if coarse <= eps or not np.any(lost):
            continue
        whole = [np.array_equal(x, widen(narrow_np(x, narrow))) for x in (actual, autodiff)]
        explained = (coarse / 2 + 64 * eps) * np.abs(expected) + 4 * np.max(rounding, initial=0.0)
        if whole == [True, False] and np.all(error <= explained):
            return narrow, lost
    return None, np.zeros(np.shape(expected), bool)


def judge_precision(
    checker: "Checker", calls: "Calls", case: "Case", judged: list[Judged], notes: list[str]
) -> tuple[dict[int, Diagnosis], list[int]]:
    """Leaves whose formula is right and whose values in the dtype of the arguments are not; and those found wrong
    whose values in that dtype are right all the same.

    Args:
        calls: of the rule as it is, on the input of `case`.
    """
    eps = float(jnp.finfo(checker.dtype).eps)
    primals, seeds = _inputs(case, checker.given_dtypes)
    truth = _truth(checker, checker.given_dtypes, eps, primals, seeds)
    diagnoses, contradicted = {}, []
    if truth is None:
        return diagnoses, contradicted
    for i, (path, shape, dtype) in enumerate(checker.problem.leaves):
        actual = calls.first[i]
        if actual is None or np.shape(actual) != tuple(shape):
            continue
        loss = _leaf_errors(truth, i, actual)
        with np.errstate(all="ignore"):  # what the formula may be off by, it may be when it is called
            loss.wrong &= ~(np.abs(actual - truth.expected[i]) <= 2 * case.tolerance[i])
        if judged[i].wrong is not None:
            if judged[i].wrong is case and not np.any(loss.wrong) and np.all(np.isfinite(actual)):
                contradicted.append(i)
            continue
        if not np.any(loss.wrong) and loss.scale > 0 and loss.autodiff > max(1e4 * eps * loss.scale, 100 * loss.own):
            judged[i].imprecise = checker.dtype != np.float64
            if judged[i].imprecise:
                notes.append(
                    f"{path}: in {checker.dtype} autodiff is off by {loss.autodiff:.2g}, the rule by {loss.own:.2g} "
                    f"(largest entry {loss.scale:.2g}); judged against float64"
                )
        narrow, elements = None, loss.wrong
        if checker.rtol is None and checker.atol is None:
            narrow, lost = _passed_through(truth, i, actual, checker.dtype)
            elements = elements | lost
        no_reference = judged[i].convention, *judged[i].better
        if any(case is other for other in no_reference) or not np.any(elements):
            continue
        with np.errstate(all="ignore"):
            worst = np.max(np.abs(actual - truth.expected[i])[elements])
        finite = np.all(np.isfinite(actual))
        lowest = f"off by {worst / (loss.scale or 1):.1g} of its largest entry" if finite else "not finite"
        why = f"rounding to {dtype} explains {loss.allowed / (loss.scale or 1):.1g}"
        if narrow is not None:
            why = f"it holds only numbers of {jnp.dtype(narrow).name}, which it went through on the way"
        diagnoses[i] = Diagnosis(
            path,
            "dtype-precision",
            f"The formula is right in float64, but in {dtype} the gradient is {lowest}; {why}.",
            "accumulate and store in the dtype of the argument (at least float32), and avoid differences of large "
            "numbers and exponentials that overflow",
            f"{int(elements.sum())} of {elements.size} elements",
            "right in float64",
        )
        judged[i].elements, judged[i].expected = elements, truth.expected[i]
    return diagnoses, contradicted


def remark(checker: "Checker", calls: "Calls", case: "Case", precision: dict[int, Diagnosis]) -> tuple[Diagnosis, ...]:
    """Take out of what `judge_precision` found that where nothing but rounding is behind it: it is a remark.

    The verdict is on the formula. Where the program of the rule as it is called, in the dtypes of the arguments, gives
    the true gradient when nothing in it rounds, what it loses is a property of the operations that it chose.
    """
    if checker.rtol is not None or checker.atol is not None:
        return ()
    primals, seeds = _inputs(case, checker.given_dtypes)
    truth = _truth(checker, checker.given_dtypes, checker.eps, primals, seeds)
    runner = checker.traced_in(checker.given_dtypes)[1]
    try:
        program = runner.program(primals, seeds)
    except RuleError:
        return ()
    if program is None or truth is None:
        return ()
    read = runner.placed(primals, seeds, _jaxpr.run(program, [*primals, *seeds]))
    held = min(COARSE, 16 * max(float(jnp.finfo(jnp.float32).eps), coarsest_constant(program)))
    remarks = []
    for i in list(precision):
        expected = truth.expected[i]
        largest = np.max(np.abs(np.where(np.isfinite(expected), expected, 0.0)), initial=0.0)
        with np.errstate(all="ignore"):
            formula = np.abs(np.asarray(read[i]) - expected) <= held * largest
            little = np.abs(calls.first[i] - expected) <= REMARKED * largest
        if np.all(formula & little):
            remarks.append(precision.pop(i))
    return tuple(remarks)


def in_lower_dtypes(checker: "Checker", case: "Case", notes: list[str]) -> None:
    """Note where a right rule loses more in a narrower dtype than rounding and autodiff do, or does not run there."""
    problem = checker.problem
    for dtype in LOWER:
        dtypes, eps = _dtypes(checker, dtype), float(jnp.finfo(dtype).eps)
        if checker.short_of_time(0.4):
            return
        if not checker.exact or checker.dtype not in (np.float64, np.float32) or eps <= jnp.finfo(checker.dtype).eps:
            continue
        primals, seeds = _inputs(case, dtypes)
        truth = _truth(checker, dtypes, eps, primals, seeds)
        if truth is None or not all(np.all(np.isfinite(x)) for x in (*truth.expected, *(truth.rounded or ()))):
            continue
        name = jnp.dtype(dtype).name
        runner = checker.traced_in(dtypes)[1]
        try:
            program = runner.program(primals, seeds)
            if program is None:
                continue
            outs = _jaxpr.run(program, [*primals, *seeds], rounded=True)
        except Exception as error:
            notes.append(f"the rule does not run in {name}: {first_line(error)}")
            continue
        for i, ((path, _, _), out) in enumerate(zip(problem.leaves, runner.placed(primals, seeds, outs))):
            if out is None or np.shape(out) != np.shape(truth.expected[i]):
                continue
            loss = _leaf_errors(truth, i, np.asarray(out))
            if np.any(loss.wrong):
                scale = loss.scale or 1.0
                notes.append(
                    f"{path}: in {name} the rule would be off by {loss.own / scale:.1g} of the largest entry, autodiff "
                    f"by {loss.autodiff / scale:.1g}; rounding explains {loss.allowed / scale:.1g}"
                )
