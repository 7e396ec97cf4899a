"""Decides: evaluates reference and rule on every probe and compares them, element by element.

Reference: the jaxpr of autodiff, traced in float64 and evaluated in NumPy in float64, whatever dtypes the forward casts
to on the way; the rule is traced and evaluated the same way, so what is compared is the mathematics. Apart from that
the rule runs as it is, in the dtype of the arguments, where rounding, overflow and hidden state count.

Tolerance: a first-order bound on the rounding error of the reference, propagated through its forward and backward
equation by equation (`_jaxpr.errors`). It follows the magnitude of the terms that are added up, so a gradient that
cancels to zero is judged by the terms that cancel, and a small regulariser by its own size.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify import shapes as shape_mistakes
from jaxbias.verify.kinks import judge_kinks, limit_from_differences
from jaxbias.verify.naming import name_mistakes
from jaxbias.verify.probes import Probe, make_probes, random_seeds
from jaxbias.verify.problem import (
    Arrays,
    Problem,
    RuleError,
    Runner,
    call_rule,
    exact_context,
    is_float,
    narrow_np,
    widen,
)
from jaxbias.verify.report import Diagnosis, Leaf, Leaves, Report

EXACT = 1000.0, 100.0
"""In float64: how many times the bound of an element, and of its leaf's largest element, an error may be. A rule that
is right in another form rounds otherwise than the reference does; a mistake is 10⁶ times larger still."""

ROUNDED = 16.0, 2.0
"""The same in the dtype of the arguments, where rounding errors come closer to mistakes."""


@dataclass
class Case:
    """Reference and rule on one probe; lists have one entry per leaf."""

    probe: Probe
    program: _jaxpr.Program
    values: list[Any]
    expected: Arrays
    actual: Arrays
    tolerance: Arrays
    wrong: list[np.ndarray] = field(default_factory=list)
    undefined: list[np.ndarray] = field(default_factory=list)
    convention: list[bool] = field(default_factory=list)
    kink: list[str] = field(default_factory=list)

    def compare(self) -> "Case":
        self.wrong, self.undefined = [], []
        for a, e, t in zip(self.actual, self.expected, self.tolerance):
            with np.errstate(all="ignore"):
                off = ~(np.abs(a - e) <= t)
            same = (a == e) | (np.isnan(a) & np.isnan(e))
            undefined = ~np.isfinite(e) & ~same
            self.undefined.append(undefined)
            self.wrong.append(off & ~same & np.isfinite(e))
        self.convention = [False] * len(self.wrong)
        return self


class Checker:
    """One check: holds the traced reference and rule, and evaluates them on probes."""

    def __init__(self, problem: Problem, rtol: float | int | None = None, atol: float | int | None = None):
        self.problem, self.rtol, self.atol = problem, rtol, atol
        self.reference = Runner(problem.reference)
        self.rule = Runner(lambda primals, seeds: call_rule(problem, primals, seeds))
        self.exact = True
        self.given_dtypes = [jnp.result_type(x) if is_float(x) else None for x in (*problem.primals, *problem.seeds)]
        floats = [d for d in self.given_dtypes if d is not None]
        self.dtype = max(floats, key=lambda d: jnp.finfo(d).eps)

    def tolerance(self, program, values, expected, eps, factors, narrow=False) -> Arrays:
        if self.rtol is not None or self.atol is not None:
            return [(self.atol or 0.0) + (self.rtol or 0.0) * np.abs(e) for e in expected]
        bounds = _jaxpr.errors(program, values, eps, narrow)
        tolerances = []
        for number, e in zip(program.outputs, expected):
            bound = np.broadcast_to(np.abs(bounds[number]), np.shape(e))
            finite = np.isfinite(bound)
            largest = np.max(np.where(finite, bound, 0.0), initial=0.0)
            size = np.max(np.abs(np.where(np.isfinite(e), e, 0.0)), initial=0.0)
            fallback = 1e10 * eps * size + largest
            tolerances.append(factors[0] * np.where(finite, bound, fallback) + factors[1] * largest)
        return tolerances

    def expect(self, probe: Probe) -> tuple[_jaxpr.Program, list[Any], Arrays, bool]:
        """Program, its values, the true gradients, and whether the forward is finite."""
        program = self.reference.program(probe.primals, probe.seeds)
        assert program is not None
        values = _jaxpr.evaluate(program, [*probe.primals, *probe.seeds])
        outs = [np.asarray(values[i]) for i in program.outputs]
        count = len(self.problem.leaves)
        return program, values, outs[:count], all(np.all(np.isfinite(v)) for v in outs[count:])

    def run_rule(self, probe: Probe) -> Arrays:
        """What the rule gives in float64, zeros for None; falls back to the given dtype where it insists on that."""
        try:
            outs = self.rule(probe.primals, probe.seeds)
        except RuleError:
            if not self.exact or self.dtype == np.float64:
                raise
            self.use_given_dtypes()
            outs = self.rule(probe.primals, probe.seeds)
        return outs

    def use_given_dtypes(self) -> None:
        self.exact = False
        self.reference = Runner(self.problem.reference, self.given_dtypes)
        self.rule = Runner(lambda primals, seeds: call_rule(self.problem, primals, seeds), self.given_dtypes)

    def case(self, probe: Probe) -> Case | None:
        """Reference and rule on one probe; None where the forward is not finite there."""
        program, values, expected, finite = self.expect(probe)
        if not finite and probe.name != "as given":
            return None
        actual = self.run_rule(probe)
        actual = [np.zeros(np.shape(e)) if a is None else np.asarray(a) for a, e in zip(actual, expected)]
        if any(np.shape(a) != np.shape(e) for a, e in zip(actual, expected)):
            actual = [
                a if np.shape(a) == np.shape(e) else np.full(np.shape(e), np.nan) for a, e in zip(actual, expected)
            ]
        eps = 2.0**-53 if self.exact else float(jnp.finfo(self.dtype).eps)
        factors = EXACT if self.exact else ROUNDED
        tolerance = self.tolerance(program, values, expected, eps, factors, narrow=not self.exact)
        case = Case(probe, program, values, expected, actual, tolerance).compare()
        # What forward and rule close over they may have rounded while being traced, to float32 at best: an error below
        # one rounding of the value itself is then no mistake of the formula.
        if self.dtype != np.float64:
            eps32 = float(np.finfo(np.float32).eps)
            case.tolerance = [t + 2 * eps32 * np.abs(e) for t, e in zip(case.tolerance, case.expected)]
            case.compare()
        coarse = self.coarseness(probe, program)
        if coarse > 1e-15 and any(np.any(mask) for mask in case.wrong):
            case.tolerance = self.tolerance(program, values, expected, coarse, ROUNDED)
            case.compare()
        return case

    def coarseness(self, probe: Probe, program: _jaxpr.Program) -> float:
        """Relative precision of the arrays that forward and rule close over; those stay in the dtype they have."""
        mine = _jaxpr.coarsest_constant(program)
        rule = self.rule.program(probe.primals, probe.seeds)
        return max(mine, _jaxpr.coarsest_constant(rule) if rule is not None else 0.0)


def check(
    problem: Problem,
    *,
    key: Any,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
) -> Report:
    """Check a flat problem; see `entrances` for the doors."""
    start = time.perf_counter()
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key), np.uint32).ravel())
    checker = Checker(problem, rtol, atol)
    probes = make_probes(problem, rng, key)
    _trace_reference(checker, probes[0])
    leaves = problem.leaves
    notes: list[str] = []

    def broken(diagnosis: Diagnosis, bad: Sequence[str]) -> Report:
        report_leaves = {
            path: Leaf(path, path not in bad, np.nan if path in bad else 0.0, (), np.nan, np.nan, shape, str(dtype))
            for path, shape, dtype in leaves
        }
        took = time.perf_counter() - start
        return Report("wrong", Leaves(report_leaves, problem.aliases), (diagnosis,), seconds=took, what=problem.what)

    every = [path for path, _, _ in leaves]
    try:
        calls = _real_calls(problem, probes[0], rng)
    except RuleError as error:
        bad = [path for path in every if error.leaf and (path == error.leaf or path.startswith(error.leaf + "."))]
        where = error.leaf or ", ".join(every)
        return broken(Diagnosis(where, "wrong-structure", error.explanation, error.fix), bad or every)
    shape_found = shape_mistakes.find(problem, checker, probes, calls.first)
    hidden = _hidden_state(problem, calls)
    if hidden is not None and hidden.kind in ("nondeterministic", "stale-value"):
        return broken(hidden, hidden.leaf.split(", "))
    if not checker.exact:
        notes.append("the rule runs only in the dtype of the arguments, so it was compared in that dtype")

    cases: list[Case] = []
    for probe in probes:
        if not probe.seeds and problem.seeds:
            if problem.seed_shapes is None:
                continue
            try:
                with exact_context():
                    shapes = problem.seed_shapes(probe.primals)
            except Exception:
                continue
            probe.seeds = [rng.standard_normal(shape) for shape in shapes]
        try:
            case = checker.case(probe)
        except RuleError as error:
            if not cases:
                return broken(Diagnosis(", ".join(every), "wrong-structure", error.explanation, error.fix), every)
            notes.append(f'on the probe "{probe.name}" {error.explanation}')
            continue
        if case is not None:
            cases.append(case)
    judged = _judge(problem, checker, cases, rng, notes)
    precision = _judge_precision(problem, checker, calls, cases, judged, notes)
    if problem.values is not None:
        _compare_values(problem, cases[0], notes)

    bad = {i for i, j in enumerate(judged) if j.wrong is not None} | set(shape_found)
    diagnoses = list(shape_found.values())
    if hidden is not None and bad:
        diagnoses.append(hidden)
    reproduction = ""
    if diagnose:
        rest = [i for i in sorted(bad) if i not in shape_found]
        linear = hidden is None
        if rest and linear:
            found, reproduction, more = name_mistakes(checker, cases, rest, rng)
            diagnoses += found
            notes += more
        diagnoses += [d for i, d in precision.items() if i not in bad]
    else:
        diagnoses += [Diagnosis(every[i], "unexplained", "differs from the reference") for i in sorted(bad)]
    bad |= set(precision)
    verdict = _verdict(bad, judged, notes)
    report_leaves = {}
    for i, (path, shape, dtype) in enumerate(leaves):
        report_leaves[path] = _leaf(path, shape, dtype, i, cases, judged[i], i in bad, precision, calls, shape_found)
    return Report(
        verdict,
        Leaves(report_leaves, problem.aliases),
        tuple(diagnoses),
        tuple(dict.fromkeys(notes)),
        tuple(case.probe.name for case in cases),
        reproduction,
        time.perf_counter() - start,
        problem.what,
    )


def _trace_reference(checker: Checker, probe: Probe) -> None:
    """Trace in float64, or in the given dtypes where the forward insists on them.

    Raises:
        ValueError: autodiff cannot differentiate the forward.
    """
    try:
        checker.reference.program(probe.primals, probe.seeds)
    except Exception:
        checker.use_given_dtypes()
        try:
            checker.reference.program(probe.primals, probe.seeds)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise ValueError(
                f"verify: autodiff cannot differentiate the forward, so there is nothing to compare with: "
                f"{type(error).__name__}: {first}"
            ) from error
    if checker.reference.program(probe.primals, probe.seeds) is None:
        raise ValueError("verify: the forward looks at the values of its arguments, so autodiff cannot trace it.")


# --- the rule as it is ------------------------------------------------------------------------------------------------


@dataclass
class Calls:
    """What the rule gave when really called, in the dtype of the arguments: gradients for the given cotangent, for
    another one, for the first one again, for their sum, and for zero."""

    first: Arrays
    other: Arrays
    again: Arrays
    total: Arrays
    zero: Arrays


def _real_calls(problem: Problem, probe: Probe, rng: np.random.Generator) -> Calls:
    dtypes = [jnp.result_type(s) for s in problem.seeds]
    primals = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in problem.primals]
    one = [narrow_np(s, d) for s, d in zip(probe.seeds, dtypes)]
    two = [narrow_np(s, d) for s, d in zip(random_seeds(problem, rng), dtypes)]

    def call(seeds):
        outs = call_rule(problem, primals, [jnp.asarray(s) for s in seeds])
        try:
            arrays = [None if out is None else np.asarray(widen(out)) for out in outs]
            odd = next((a for a in arrays if a is not None and a.dtype.kind not in "fiubc"), None)
            if odd is not None:
                raise TypeError(f"dtype {odd.dtype}")
            return arrays
        except (TypeError, ValueError) as error:
            raise RuleError(f"the rule returned what is no array: {error}", "return arrays") from error

    try:
        first, other = call(one), call(two)
        again, zero = call(one), call([np.zeros_like(s) for s in one])
        return Calls(first, other, again, call([a + b for a, b in zip(one, two)]), zero)
    except (jax.errors.UnexpectedTracerError, *_tracer_errors()) as error:
        raise RuleError(f"the rule kept a value of an earlier trace: {type(error).__name__}", "return it") from error


def _tracer_errors():
    return (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)


def _close(a: Any, b: Any, factor: float, eps: float) -> bool:
    if a is None or b is None:
        return a is b
    if np.shape(a) != np.shape(b):
        return False
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    scale = np.max(np.abs(np.where(finite, a, 0)), initial=0.0) + np.max(np.abs(np.where(finite, b, 0)), initial=0.0)
    return bool(np.all(np.abs(np.where(finite, a - b, 0)) <= factor * eps * scale))


def _hidden_state(problem: Problem, calls: Calls) -> Diagnosis | None:
    eps = max(float(jnp.finfo(jnp.result_type(s)).eps) for s in (*problem.seeds, *_floats(problem.primals)))
    paths = [path for path, _, _ in problem.leaves]
    changed = [p for p, a, b in zip(paths, calls.first, calls.again) if not _close(a, b, 64.0, eps)]
    if changed:
        if all(_close(a, b, 64.0, eps) for a, b in zip(calls.other, calls.again)):
            return Diagnosis(
                ", ".join(changed),
                "stale-value",
                "The rule returns what belongs to the call before: two calls with the same arguments differ, and the "
                "second one equals the call between them.",
                "compute the gradient from this call's arguments, not from a stored value",
            )
        return Diagnosis(
            ", ".join(changed),
            "nondeterministic",
            "Two calls with the same arguments and cotangent give different gradients.",
            "make the rule a pure function: no global state, no new random numbers",
        )
    nonlinear = []
    for path, a, b, total, zero in zip(paths, calls.first, calls.other, calls.total, calls.zero):
        if a is None or b is None or total is None or np.shape(a) != np.shape(b):
            continue
        scale = np.max(np.abs(a), initial=0.0) + np.max(np.abs(b), initial=0.0)
        with np.errstate(all="ignore"):
            additive = np.abs(total - a - b) <= 1e4 * eps * scale
            nothing = True if zero is None else np.abs(zero) <= 1e4 * eps * scale
        if np.isfinite(scale) and not (np.all(additive) and np.all(nothing)):
            nonlinear.append((path, _close(a, b, 64.0, eps)))
    if not nonlinear:
        return None
    ignores = all(same for _, same in nonlinear)
    return Diagnosis(
        ", ".join(path for path, _ in nonlinear),
        "not-linear-in-cotangent",
        "The rule gives the same gradient whatever the cotangent is: it ignores the cotangent."
        if ignores
        else "rule(args, c₁ + c₂) is not rule(args, c₁) + rule(args, c₂), or rule(args, 0) is not 0: a gradient is "
        "linear in the cotangent.",
        f"multiply the derivative by the {problem.seed_word}" if ignores else "use the cotangent once in every term",
    )


def _floats(primals: Arrays) -> Arrays:
    return [x for x in primals if is_float(x)]


# --- verdicts ---------------------------------------------------------------------------------------------------------


@dataclass
class Judged:
    """What was found for one leaf: the case that shows it best; for lost precision, the values and where."""

    wrong: Case | None = None
    convention: Case | None = None
    undefined: bool = False
    imprecise: bool = False
    expected: Any = None
    imprecise_elements: Any = None


def _judge(problem, checker, cases: list[Case], rng, notes: list[str]) -> list[Judged]:
    judged = [Judged() for _ in problem.leaves]
    for case in cases:
        off = [i for i, mask in enumerate(case.wrong) if np.any(mask)]
        if off:
            judge_kinks(checker, case, off, rng)
        for i in off:
            if case.convention[i]:
                judged[i].convention = judged[i].convention or case
                continue
            shown = judged[i].wrong
            if shown is None or (shown.kink and not case.kink):
                judged[i].wrong = case
        for i, mask in enumerate(case.undefined):
            if not np.any(mask) or case.probe.name != "as given":
                continue
            ok, answered = limit_from_differences(checker, case, i)
            if ok:
                judged[i].undefined = True
                notes.append(
                    f"{problem.leaves[i][0]}: autodiff gives NaN or infinity at {int(mask.sum())} elements, where the "
                    f"rule gives the limit that finite differences of the forward confirm"
                )
            elif answered:
                case.wrong[i] = case.wrong[i] | mask
                judged[i].wrong = judged[i].wrong or case
            else:
                notes.append(
                    f"{problem.leaves[i][0]}: autodiff gives NaN or infinity at {int(mask.sum())} elements, and finite "
                    f"differences of the forward do not settle them"
                )
    return judged


def _verdict(bad, judged: list[Judged], notes: list[str]) -> Any:
    if bad:
        return "wrong"
    if any(j.undefined for j in judged):
        return "reference undefined"
    if any(j.imprecise for j in judged):
        return "reference imprecise"
    if any(j.convention for j in judged):
        return "right up to convention"
    return "right"


def _judge_precision(problem, checker, calls: Calls, cases: list[Case], judged, notes) -> dict[int, Diagnosis]:
    """Leaves whose formula is right, and whose values in the dtype of the arguments are not."""
    probe = cases[0].probe
    dtypes = [jnp.result_type(s) for s in problem.seeds]
    primals = [widen(x) for x in problem.primals]
    seeds = [widen(narrow_np(s, d)) for s, d in zip(probe.seeds, dtypes)]
    runner = Runner(problem.reference, checker.given_dtypes) if checker.dtype != np.float64 else checker.reference
    try:
        program = runner.program(primals, seeds)
    except Exception:
        return {}
    if program is None:
        return {}
    values = _jaxpr.evaluate(program, [*primals, *seeds])
    expected = [np.asarray(values[i]) for i in program.outputs][: len(problem.leaves)]
    eps = float(jnp.finfo(checker.dtype).eps)
    tolerance = checker.tolerance(program, values, expected, eps, ROUNDED, narrow=True)
    autodiff = None
    if checker.dtype != np.float64:
        rounded = _jaxpr.evaluate(program, [*primals, *seeds], rounded=True)
        autodiff = [np.asarray(rounded[i]) for i in program.outputs][: len(problem.leaves)]
    found = {}
    for i, (path, shape, dtype) in enumerate(problem.leaves):
        if judged[i].wrong is not None or calls.first[i] is None or np.shape(calls.first[i]) != tuple(shape):
            continue
        defined = np.isfinite(expected[i])
        with np.errstate(all="ignore"):
            error = np.where(defined, np.abs(calls.first[i] - expected[i]), 0.0)
        scale = np.max(np.abs(np.where(defined, expected[i], 0.0)), initial=0.0)
        off = ~(error <= tolerance[i]) & defined
        if autodiff is not None:
            with np.errstate(all="ignore"):
                lost = np.where(defined, np.abs(autodiff[i] - expected[i]), 0.0)
            worst, own = np.max(np.nan_to_num(lost, nan=np.inf), initial=0.0), np.max(error, initial=0.0)
            off &= ~(error <= 4 * lost)
            if not np.any(off) and scale > 0 and worst > 1e4 * eps * scale and worst > 100 * own:
                judged[i].imprecise = True
                notes.append(
                    f"{path}: in {checker.dtype} autodiff is off by {worst:.2g}, the rule by {own:.2g} (largest entry "
                    f"{scale:.2g}); judged against float64"
                )
        if case_convention(judged[i]) or not np.any(off):
            continue
        share = float(np.max(error[off], initial=0.0) / scale) if scale else float("inf")
        lowest = "not finite" if not np.all(np.isfinite(calls.first[i])) else f"off by {share:.1g} of its largest entry"
        found[i] = Diagnosis(
            path,
            "dtype-precision",
            f"The formula is right in float64, but in {dtype} the gradient is {lowest}; rounding to {dtype} explains "
            f"{np.max(tolerance[i]) / (scale or 1):.1g}.",
            "accumulate and store in the dtype of the argument (at least float32), and avoid differences of large "
            "numbers and exponentials that overflow",
            f"{int(off.sum())} of {off.size} elements",
            "right in float64",
        )
        judged[i].imprecise_elements = off
        judged[i].expected = expected[i]
    return found


def case_convention(judged: Judged) -> bool:
    return judged.convention is not None and judged.convention.probe.name == "as given"


def _compare_values(problem: Problem, case: Case, notes: list[str]) -> None:
    assert problem.values is not None
    primals = [jnp.asarray(x) for x in problem.primals]
    with np.errstate(all="ignore"):
        got = problem.values(primals)
    count = len(problem.leaves)
    want = [np.asarray(case.values[i]) for i in case.program.outputs][count:]
    for g, w in zip(got, want):
        eps = float(jnp.finfo(jnp.result_type(g)).eps)
        if not np.all(np.abs(np.asarray(widen(g)) - w) <= 1e4 * eps * (1 + np.max(np.abs(w), initial=0.0))):
            notes.append("the function and its reference give different values, so their gradients may differ too")


def _leaf(path, shape, dtype, i, cases, judged: Judged, bad: bool, precision, calls, shape_found) -> Leaf:
    base: dict[str, Any] = {"path": path, "shape": tuple(shape), "dtype": str(dtype)}
    if i in shape_found:
        return Leaf(ok=False, max_error=np.nan, worst_index=(), expected=np.nan, actual=np.nan, **base)
    if judged.wrong is None and i in precision:
        expected, actual = judged.expected, calls.first[i]
        wrong = judged.imprecise_elements
        return Leaf(ok=False, **_worst(actual, expected, wrong), **base, probe=f"as given, in {dtype}", wrong=wrong)
    case = judged.wrong or cases[0]
    worst = _worst(case.actual[i], case.expected[i], case.wrong[i] if bad else ~case.undefined[i])
    if not bad:
        largest = [_worst(c.actual[i], c.expected[i], ~c.undefined[i] & ~c.wrong[i])["max_error"] for c in cases]
        worst |= {"max_error": max(largest, default=0.0), "wrong_elements": 0}
    index = worst["worst_index"]
    tolerance = case.tolerance[i][index] if case.tolerance[i].size else 0.0
    wrong = case.wrong[i] if bad else None
    return Leaf(ok=not bad, **worst, **base, tolerance=float(tolerance), probe=case.probe.name, wrong=wrong)


def _worst(actual: Any, expected: Any, among: Any) -> dict[str, Any]:
    if not np.any(among):
        return {"max_error": 0.0, "worst_index": (), "expected": 0.0, "actual": 0.0, "wrong_elements": 0} | (
            {"worst_index": (0,) * actual.ndim} if actual.size else {}
        )
    with np.errstate(all="ignore"):
        error = np.where(among, np.nan_to_num(np.abs(actual - expected), nan=np.inf), -1.0)
    index = tuple(int(k) for k in np.unravel_index(int(np.argmax(error)), error.shape))
    real = lambda x: float(np.real(x))
    return {
        "max_error": float(np.abs(actual[index] - expected[index])),
        "worst_index": index,
        "expected": real(expected[index]),
        "actual": real(actual[index]),
        "wrong_elements": int(np.sum(among)),
    }
