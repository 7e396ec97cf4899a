"""Decides: draws the probes, compares rule and reference on them, and gives the verdict and the report."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import let_loops_take, loops_end_within
from jaxbias._trees import in_one_line
from jaxbias.verify import explanations
from jaxbias.verify import shapes as shape_mistakes
from jaxbias.verify.calls import batched_differs, eager_differs, hidden_state, not_linear, other_dtypes, real_calls
from jaxbias.verify.cases import cases_of, never_compared, only_at_symmetric_matrices
from jaxbias.verify.certificate import certificate
from jaxbias.verify.checker import SECONDS, Case, Checker
from jaxbias.verify.kinks import judge_kinks, limit_from_differences
from jaxbias.verify.naming.diagnoses import diagnoses_of, with_lines
from jaxbias.verify.naming.localise import Listing, list_lines
from jaxbias.verify.precision import Judged, in_lower_dtypes, judge_precision, remark
from jaxbias.verify.probes import make_probes, singular_probes
from jaxbias.verify.problem import Problem, RuleError, widen
from jaxbias.verify.report import Diagnosis, Leaf, Leaves, Report, Verdict
from jaxbias.verify.slopes import has_a_slope, shares_the_fault_of_autodiff, where_autodiff_is_wrong


@loops_end_within(SECONDS)
def check(
    problem: Problem,
    *,
    key: Any,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
    explain: bool = False,
    checker: Checker | None = None,
) -> Report:
    """Check a flat problem; see `entrances` for the doors.

    Args:
        seconds: of processor time, for all of it.
        explain: list the rule's lines, also where it is right.
        checker: of the same problem, to use what it has traced.
    """
    start = time.perf_counter()
    let_loops_take(float(seconds))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key), np.uint32).ravel())
    checker = checker or Checker(problem, rtol, atol, float(seconds))
    probes = make_probes(problem, rng, key)
    how = checker.trace_reference(probes[0])
    problem = checker.problem
    leaves = problem.leaves
    notes: list[str] = [how] if how else []

    def broken(diagnosis: Diagnosis, wrong: Sequence[str]) -> Report:
        report_leaves = {
            path: Leaf(path, path not in wrong, np.nan, (), np.nan, np.nan, shape, str(dtype), probe="")
            for path, shape, dtype in leaves
        }
        took = time.perf_counter() - start
        return Report(
            "wrong", Leaves(report_leaves, problem.aliases), (diagnosis,), seconds=took, subject=problem.subject
        )

    every = [path for path, _, _ in leaves]
    try:
        calls = real_calls(problem, probes[0], rng)
    except RuleError as error:
        wrong = [path for path in every if error.leaf and (path == error.leaf or path.startswith(error.leaf + "."))]
        where = error.leaf or ", ".join(every)
        return broken(Diagnosis(where, "wrong-structure", error.explanation, error.fix), wrong or every)
    shape_found = shape_mistakes.find(problem, checker, probes, calls.first)
    hidden = hidden_state(problem, calls)
    if hidden is not None:
        return broken(hidden, hidden.leaf.split(", "))
    notes += [*calls.notes, *other_dtypes(problem, calls)]
    if not checker.exact:
        notes.append("the rule runs only in the dtype of the arguments, so it was compared in that dtype")

    if checker.eliminates(probes[0]):
        probes += singular_probes(problem, rng)
    try:
        cases = cases_of(checker, probes, rng, notes)
    except RuleError as error:
        return broken(Diagnosis(", ".join(every), "wrong-structure", error.explanation, error.fix), every)
    judged = _judge(problem, checker, cases, rng, notes)
    precision, contradicted = judge_precision(checker, calls, cases[0], judged, notes)
    if contradicted or precision:
        differs = eager_differs(checker, cases[0], [*contradicted, *precision])
        if differs is not None:
            return broken(differs, differs.leaf.split(", "))
    remarked = remark(checker, calls, cases[0], precision)
    for i, (path, shape, _) in enumerate(leaves):
        missed = never_compared(cases, i)
        if missed:
            judged[i].undefined = True
            entries = "" if missed == int(np.prod(shape)) else f" in {missed} of {int(np.prod(shape))} elements"
            notes.append(
                f"{path}: autodiff gives no finite number{entries} on any probe, so nothing was compared there"
            )
        if _cancels(cases, i):
            notes.append(
                f"{path}: the true gradient is zero on every probe, because its terms cancel; None, zeros and the sum "
                f"of these terms are all right"
            )
    if problem.values is not None:
        _compare_values(problem, cases[0], notes)

    wrong = {i for i, j in enumerate(judged) if j.wrong is not None} | set(shape_found)
    nonlinear = not_linear(checker, cases[0], calls, rng, notes)
    if nonlinear is not None and not wrong:
        return broken(nonlinear, nonlinear.leaf.split(", "))
    if not wrong and not precision:
        differs = batched_differs(checker, cases[0], notes)
        if differs is not None:
            return broken(differs, differs.leaf.split(", "))
        in_lower_dtypes(checker, cases[0], notes)
        notes += filter(None, [only_at_symmetric_matrices(checker, cases[0], rng)])
    listing = Listing()
    if cases and (explain or (diagnose and wrong)):
        try:
            listing = list_lines(checker, cases, sorted(wrong), rng)
        except Exception as error:  # the verdict must not depend on whether its lines can be told
            listing = Listing(reason=f"an operation of the rule is in the way: {in_one_line(error)}")
        notes += [f"no listing: {listing.reason}"] if listing.reason else []
    diagnoses = with_lines(list(shape_found.values()), listing, every)
    mended = {every[i] for slip in listing.slips if slip.patch for i in slip.leaves}
    also: tuple[str, ...] = ()
    if nonlinear is not None and mended.issuperset(nonlinear.leaf.split(", ")):  # a line says why
        also = (nonlinear.kind,)
    elif nonlinear is not None:
        diagnoses += with_lines([nonlinear], listing, every)
    reproduction = ""
    if diagnose:
        without_lines = [i for i in sorted(wrong - set(shape_found)) if every[i] not in mended]
        broken_numbers = _not_a_number(problem, cases, without_lines)
        diagnoses += broken_numbers.values()
        unnamed = [i for i in sorted(wrong) if i not in shape_found and i not in broken_numbers]
        explained = nonlinear is not None
        named, reproduction = diagnoses_of(checker, cases, listing, unnamed, rng, explained=explained)
        diagnoses += [replace(d, also=d.also + also) if d.patch else d for d in named]
    else:
        diagnoses += [Diagnosis(every[i], "unexplained", "differs from the reference") for i in sorted(wrong)]
    diagnoses += [d for i, d in precision.items() if i not in wrong]
    wrong |= set(precision)
    undecided = [i for i in range(len(leaves)) if i not in wrong and _undecided(cases, i)]
    notes += _open(cases, [every[i] for i in undecided])
    verdict = _verdict(wrong, judged, undecided)
    if verdict in ("right", "right up to convention"):
        rule = checker.rule.program(probes[0].primals, probes[0].seeds)
        if rule is not None:
            notes += explanations.of_right_rule(cases[0], rule)
    for name, count in checker.without_value().items():
        equations = f"{count} equation" + "s" * (count > 1)
        notes.append(f"the checker has no value of its own for `{name}` ({equations}): JAX computed it")
    report_leaves = {}
    for i, (path, shape, dtype) in enumerate(leaves):
        report_leaves[path] = _leaf(path, shape, dtype, i, cases, judged[i], i in wrong, precision, calls, shape_found)
    return Report(
        verdict,
        Leaves(report_leaves, problem.aliases),
        tuple(diagnoses),
        tuple(dict.fromkeys(notes)),
        tuple(case.probe.name for case in cases),
        reproduction,
        time.perf_counter() - start,
        problem.subject,
        _evidence(checker, cases, wrong),
        certificate(checker, cases),
        listing.lines,
        remarked,
    )


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _judge(problem, checker, cases: list[Case], rng, notes: list[str]) -> list[Judged]:
    judged = [Judged() for _ in problem.leaves]
    for case in cases:
        wrong = [i for i, mask in enumerate(case.wrong) if np.any(mask)]
        if wrong:
            judge_kinks(checker, case, wrong, rng)
        for i in wrong:
            case.convention[i] = case.convention[i] and not has_a_slope(checker, cases, case, i)
    for i, (path, _, _) in enumerate(problem.leaves):
        if shared := shares_the_fault_of_autodiff(checker, cases, i):
            where = ", ".join(f'"{case.probe.name}"' for case in shared)
            notes.append(
                f"{path}: autodiff of the forward is wrong at {where}, and the rule gives the same; differences of the "
                f"forward, in ball arithmetic, give another slope"
            )
        better = where_autodiff_is_wrong(checker, cases, i)
        for case in better:
            case.expected[i] = np.where(case.wrong[i], case.actual[i], case.expected[i])
            case.wrong[i], case.convention[i] = np.zeros_like(case.wrong[i]), False
        if better:
            judged[i].imprecise, judged[i].better = True, better
            where = ", ".join(f'"{case.probe.name}"' for case in better)
            notes.append(
                f"{path}: autodiff of the forward is wrong at {where}, and the rule is not: it gives what differences "
                f"of the forward give, in ball arithmetic"
            )
    for case in cases:
        for i in [i for i, mask in enumerate(case.wrong) if np.any(mask)]:
            if case.convention[i]:
                judged[i].convention = judged[i].convention or case
                continue
            shown = judged[i].wrong
            if shown is None or (shown.kink and not case.kink) or _share(case, i) > 1e3 * _share(shown, i):
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


def _cancels(cases: list[Case], i: int) -> bool:
    """Is the true gradient nothing but rounding on every probe?"""
    if not cases or not cases[0].expected[i].size or np.iscomplexobj(cases[0].expected[i]):
        return False
    if any(np.any(case.undecided[i]) for case in cases):
        return False
    terms = any(np.any(case.tolerance[i] > 0) for case in cases)
    return terms and all(bool(np.all(np.abs(case.expected[i]) <= case.tolerance[i])) for case in cases)


def _share(case: Case, i: int) -> float:
    """Largest error of a leaf, relative to its largest entry."""
    finite = np.isfinite(case.expected[i]) & np.isfinite(case.actual[i])
    with np.errstate(all="ignore"):
        error = np.where(finite, np.abs(case.actual[i] - case.expected[i]), 0.0)
    return float(np.max(error, initial=0.0) / (np.max(np.abs(case.expected[i][finite]), initial=0.0) or 1.0))


def _not_a_number(problem: Problem, cases: list[Case], wrong: list[int]) -> dict[int, Diagnosis]:
    """A diagnosis for each gradient that is NaN or infinite at an ordinary point where the true one is finite."""
    diagnoses = {}
    for i in wrong:
        for case in cases:
            broken = ~np.isfinite(case.actual[i]) & case.wrong[i]
            if case.kink or case.probe.kink or not np.any(broken):
                continue
            path = problem.leaves[i][0]
            at = tuple(int(k) for k in np.argwhere(broken)[0])
            where = f" at {path}{list(at)}" if at else ""
            diagnoses[i] = Diagnosis(
                path,
                "unexplained",
                f"The rule gives {case.actual[i][at]:.3g}{where}, where the true gradient is "
                f"{case.expected[i][at]:.4g}; it is not finite in {int(broken.sum())} of {broken.size} elements.",
                "look for 0/0, the logarithm or the root of zero or of a negative number, ∞ − ∞ and 0 · ∞",
                f'on the probe "{case.probe.name}"',
            )
            break
    return diagnoses


def _undecided(cases: list[Case], i: int) -> bool:
    """Is a gradient open at the given input, or on every other probe?"""
    opened = [bool(np.any(case.undecided[i])) for case in cases]
    return bool(opened) and (opened[0] or (len(opened) > 1 and all(opened[1:])))


def _verdict(wrong, judged: list[Judged], undecided: list[int]) -> Verdict:
    if wrong:
        return "wrong"
    if undecided:
        return "undecided"
    if any(j.undefined for j in judged):
        return "reference undefined"
    if any(j.imprecise for j in judged):
        return "reference imprecise"
    if any(j.convention for j in judged):
        return "right up to convention"
    return "right"


def _evidence(checker: Checker, cases: list[Case], wrong: set[int]) -> str:
    """What the verdict rests on: the largest proved difference, or to how many digits the rule agrees."""
    enclosed = [(case, case.enclosure) for case in cases if case.enclosure is not None]
    proved = [
        (case, checker.problem.leaves[i][0], leaf)
        for i in sorted(wrong)
        for case, enclosure in enclosed
        if np.any((leaf := enclosure.leaves[i]).proved) and not case.convention[i]
    ]
    if wrong:
        if not proved:
            reasons = [case.reason for case in cases if case.reason and any(np.any(case.wrong[i]) for i in wrong)]
            return f"measured in float64, not proved: {reasons[0]}" if reasons else ""
        case, path, leaf = proved[0]
        at = "[" + ", ".join(map(str, leaf.at)) + "]" if leaf.at else ""
        return (
            f'proved different: {path}{at} is off by {_interval(leaf.low, leaf.high)} at the probe "{case.probe.name}"'
        )
    whole = [(case, enclosure) for case, enclosure in enclosed if not enclosure.reason]
    equal = [leaf for _, enclosure in whole for leaf in enclosure.leaves if np.any(leaf.equal)]
    measured = max((case.measured for case in cases), default=0.0)
    if measured:
        return f"seen to {-np.log10(measured):.0f} digits only: the rule cannot be read, or keeps to its own dtype"
    if estimated := [case.reason for case in cases if case.estimated and case.reason]:
        return f"equal in float64, to what rounding was seen to lose there; not enclosed: {estimated[0]}"
    if not equal:
        return ""
    digits = min(leaf.digits for leaf in equal)
    where = (
        f"{len(whole)} of {len(cases)} probes"
        if len(whole) < len(cases)
        else f"{len(cases)} probe" + "s" * (len(cases) > 1)
    )
    up_to = ", up to how float constants are rounded" if any(leaf.rounded_constants for leaf in equal) else ""
    return f"equal {'exactly' if digits == np.inf else f'to {digits:.0f} digits'} at {where}{up_to}"


def _interval(low: str, high: str) -> str:
    """Two ends as far as they differ: one number where the ends agree in all digits that are shown."""
    short = [f"{float(end):.6g}" for end in (low, high)]
    return short[0] if short[0] == short[1] else f"[{low}, {high}]"


def _open(cases: list[Case], undecided: list[str]) -> list[str]:
    """A note on what stayed open, and what would decide it."""
    if not undecided:
        return []
    reasons = dict.fromkeys(case.reason for case in cases if case.reason) or {"none was to be had": None}
    note = (
        f"{', '.join(undecided)}: undecided. The bound on rounding in float64 is too wide to tell, and no enclosure "
        f"does: {'; '.join(reasons)}. Smaller arguments, or a rule and a forward that stay in JAX, would decide it"
    )
    return [note]


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


def _leaf(path, shape, dtype, i, cases, judged: Judged, is_wrong: bool, precision, calls, shape_found) -> Leaf:
    base: dict[str, Any] = {"path": path, "shape": tuple(shape), "dtype": str(dtype)}
    if i in shape_found:
        return Leaf(ok=False, max_error=np.nan, worst_index=(), expected=np.nan, actual=np.nan, probe="", **base)
    if judged.wrong is None and i in precision:
        expected, actual = judged.expected, calls.first[i]
        wrong = judged.elements
        return Leaf(ok=False, **_worst(actual, expected, wrong), **base, probe=f"as given, in {dtype}", wrong=wrong)
    case = judged.wrong or cases[0]
    worst = _worst(case.actual[i], case.expected[i], case.wrong[i] if is_wrong else ~case.undefined[i])
    judged_elements = [c.wrong[i] if is_wrong else np.isfinite(c.expected[i]) & ~c.wrong[i] for c in cases]
    largest = [_worst(c.actual[i], c.expected[i], mask)["max_error"] for c, mask in zip(cases, judged_elements)]
    worst["max_error"] = float(np.max(largest, initial=0.0))  # np.max, for a NaN is an error of its own
    if not is_wrong:
        worst["wrong_elements"] = 0
    index = worst["worst_index"]
    tolerance = case.tolerance[i][index] if case.tolerance[i].size else 0.0
    wrong = case.wrong[i] if is_wrong else None
    return Leaf(ok=not is_wrong, **worst, **base, tolerance=float(tolerance), probe=case.probe.name, wrong=wrong)


def _worst(actual: Any, expected: Any, among: Any) -> dict[str, Any]:
    if not np.any(among):
        return {"max_error": 0.0, "worst_index": (), "expected": 0.0, "actual": 0.0, "wrong_elements": 0} | (
            {"worst_index": (0,) * actual.ndim} if actual.size else {}
        )
    with np.errstate(all="ignore"):
        apart = np.abs(actual - expected)
    error = np.where(among, np.nan_to_num(apart, nan=np.inf), -1.0)
    index = tuple(int(k) for k in np.unravel_index(int(np.argmax(error)), error.shape))
    real = lambda x: float(np.real(x))
    return {
        "max_error": float(apart[index]),
        "worst_index": index,
        "expected": real(expected[index]),
        "actual": real(actual[index]),
        "wrong_elements": int(np.sum(among)),
    }
