"""Names the mistake: the simplest hypothesis that reproduces the rule to rounding on every probe, or "unexplained"."""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.conditions import find_condition, other_sizes, reproduce, shrink
from jaxbias.verify.constants import name_constant
from jaxbias.verify.edits import Edit, Editor, edits
from jaxbias.verify.expressions import line
from jaxbias.verify.patterns import describe_pattern
from jaxbias.verify.report import Diagnosis
from jaxbias.verify.terms import explain

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

SECONDS = 8.0
"""Processor time to search for one report; a search cut short is noted."""

MOST_EQUATIONS = 400
"""Of a program whose loops are not shortened for the search."""

ROUNDING = 1e-9
"""A hypothesis has to agree with the rule to this share of the leaf's largest entry, on top of the tolerance."""


@dataclass
class Finding:
    """A hypothesis that reproduces the rule on every probe for some leaves."""

    leaves: frozenset[int]
    kind: str
    text: str
    fix: str
    tier: float | int
    accuracy: float | int
    source: Any = None
    also: tuple[str, ...] = ()
    harmed: frozenset[int] = frozenset()
    position: int = 0


@dataclass
class Evidence:
    """Probes of one size to compare hypotheses on."""

    checker: "Checker"
    cases: list["Case"]
    off: list[int]
    matched: dict[int, float] = field(default_factory=dict)

    def error(self, case: "Case", i: int, hypothesis: Any) -> float:
        """Largest difference from the rule, relative to the leaf's largest entry; infinite where it is no match."""
        actual = case.actual[i]
        if np.shape(hypothesis) != np.shape(actual):
            return np.inf
        scale = np.max(np.abs(actual), initial=0.0) + np.max(np.abs(case.expected[i]), initial=0.0)
        with np.errstate(all="ignore"):
            off = np.abs(hypothesis - actual)
            if not np.all(off <= case.tolerance[i] + ROUNDING * scale):
                return np.inf
        return float(np.max(off, initial=0.0) / (scale or 1.0))

    def shapes(self, case: "Case") -> list[tuple[str, tuple[int, ...]]]:
        problem = self.checker.problem
        names = [*problem.seed_names, *problem.primal_names]
        arrays = [*case.probe.seeds, *case.probe.primals]
        return [(name, np.shape(x)) for name, x in zip(names, arrays)]


def name_mistakes(
    checker: "Checker", cases: list["Case"], off: list[int], rng: np.random.Generator
) -> tuple[list[Diagnosis], str, list[str]]:
    """Diagnoses of the wrong leaves, code that reproduces the failure at small sizes, and notes."""
    deadline = time.process_time() + SECONDS
    notes: list[str] = []
    findings: dict[int, Finding] = {}
    smooth = [case for case in cases if not case.kink and not case.probe.kink]
    for i in off:
        if not any(np.any(case.wrong[i]) for case in smooth):
            findings[i] = _edge(checker, cases, i)
    rest = [i for i in off if i not in findings]
    small = shrink(checker, smooth, rest, rng) if rest else []
    if rest:
        same = [case for case in smooth if case.program is smooth[0].program]
        evidence = [Evidence(checker, small or same[:5], rest)]
        others = same[:2] if small else other_sizes(checker, same, rest, rng)
        if others:
            evidence.append(Evidence(checker, others, rest))
        if small and not _portable(small[0].program, same[0].program) and _count(same[0]) <= MOST_EQUATIONS:
            # a loop of fewer steps: what explains two steps need not explain more
            evidence = [Evidence(checker, same[:5], rest), Evidence(checker, small[:2], rest)]
        for found in _whole_leaves(evidence, rest):
            for i in found.leaves - findings.keys():
                findings[i] = found
        for i in rest:
            found = None if i in findings else describe_pattern(checker, evidence[0].cases, smooth, i)
            if found is not None and found.kind == "only-some-elements" and "is zero in" in found.text:
                findings[i] = dataclasses.replace(found, tier=0)
        unsolved = [i for i in rest if i not in findings]
        # One mistake upstream may have a simple name at one leaf and not at the others: search for all together.
        joint = rest if unsolved else []
        if joint or any(f.tier > 0 for f in findings.values()):
            for i, found in _search(evidence, rest, findings, deadline, notes).items():
                findings[i] = found
        for i in rest:
            if i not in findings:
                findings[i] = describe_pattern(checker, evidence[0].cases, smooth, i) or _unexplained(
                    checker, smooth, i
                )
    findings = _merged(findings, [path for path, _, _ in checker.problem.leaves])
    diagnoses, seen = [], set()
    for i in off:
        found = findings[i]
        if id(found) in seen:
            continue
        seen.add(id(found))
        paths = ", ".join(checker.problem.leaves[k][0] for k in sorted(k for k in findings if findings[k] is found))
        condition = find_condition(checker, small or cases, [k for k in findings if findings[k] is found], rng)
        diagnoses.append(_diagnosis(found, paths, condition, smooth))
    reproduction = reproduce(checker, small or smooth or cases, off)
    return diagnoses, reproduction, notes


def _portable(a: _jaxpr.Program, b: _jaxpr.Program) -> bool:
    """Do two programs consist of the same equations, for other sizes?"""
    return len(a.equations) == len(b.equations) and all(x.name == y.name for x, y in zip(a.equations, b.equations))


def _count(case: "Case") -> int:
    return len(case.program.equations)


def _merged(findings: dict[int, Finding], names: list[str]) -> dict[int, Finding]:
    """One finding where several leaves have the same mistake in the same words."""
    groups: dict[Any, list[int]] = {}
    for i, found in findings.items():
        words = found.text.replace(f"gradient of {names[i]}", "gradient of §")
        groups.setdefault((found.kind, words, found.fix, found.source), []).append(i)
    merged = dict(findings)
    for (_, words, _, _), leaves in groups.items():
        first = findings[leaves[0]]
        if len(leaves) > 1 and any(findings[i] is not first for i in leaves):
            together = ", ".join(names[i] for i in leaves[:-1]) + f" and {names[leaves[-1]]}"
            text = words.replace("gradient of §", f"gradient of {together}")
            one = dataclasses.replace(first, text=text, leaves=frozenset(leaves))
            merged |= dict.fromkeys(leaves, one)
    return merged


def _diagnosis(found: Finding, paths: str, condition: str, smooth) -> Diagnosis:
    text = found.text[0].upper() + found.text[1:] if found.text else ""
    evidence = ""
    if found.kind not in ("unexplained", "edge-point") and np.isfinite(found.accuracy):
        evidence = f"reproduces the rule on {len(smooth)} probes, every element, to {found.accuracy:.0e}"
    return Diagnosis(
        paths,
        found.kind,
        text if text.endswith(".") else text + ".",
        found.fix,
        evidence,
        condition,
        line(found.source),
        tuple(k for k in found.also if k != found.kind),
    )


def _unexplained(checker, smooth, i) -> Finding:
    case = next(c for c in smooth if np.any(c.wrong[i]))
    share = np.mean(case.wrong[i])
    with np.errstate(all="ignore"):
        ratio = (case.actual[i] / case.expected[i])[case.wrong[i]]
        ratio = ratio[np.isfinite(ratio)]
    spread = f"; wrong/right runs from {ratio.min():.3g} to {ratio.max():.3g}" if ratio.size else ""
    where = "every element" if share == 1 else f"{share:.0%} of the elements"
    return Finding(
        frozenset([i]),
        "unexplained",
        f"no single mistake reproduces the rule on every probe; it is wrong in {where}{spread}",
        "",
        9,
        np.inf,
    )


def _edge(checker, cases, i) -> Finding:
    shown = [case for case in cases if np.any(case.wrong[i]) and not case.convention[i]]
    case = shown[0]
    nan = not np.all(np.isfinite(case.actual[i][case.wrong[i]]))
    where = "; ".join(case.kink[:2])
    what = "gives NaN or infinity" if nan else "is outside the interval of the one-sided derivatives"
    text = f'the rule is right except at special points: on the probe "{case.probe.name}" it {what}'
    if where:
        text += f" ({where})"
    return Finding(
        frozenset([i]),
        "edge-point",
        text,
        "treat the zero or the tie apart",
        0,
        0.0,
        also=("missing-mask",) if nan else (),
    )


# --- a whole leaf against the true leaves -----------------------------------------------------------------------------


def _whole_leaves(evidence: list[Evidence], off: Sequence[int]) -> list[Finding]:
    return [found for i in off for found in _whole_leaf(evidence, i)]


def _whole_leaf(evidence: list[Evidence], i: int) -> list[Finding]:
    """Findings for one leaf that is a simple function of the true gradients."""
    found: list[Finding] = []
    names = [path for path, _, _ in evidence[0].checker.problem.leaves]
    cases = [case for e in evidence for case in e.cases]
    name, shape = names[i], cases[0].expected[i].shape

    def consider(kind: str, text: str, fix: str, tier: float | int, f: Any) -> None:
        errors = [e.error(case, i, f(case)) for e in evidence for case in e.cases]
        if errors and max(errors) < np.inf:
            found.append(Finding(frozenset([i]), kind, text, fix, tier, max(errors)))

    if all(not np.any(case.actual[i]) for case in cases):
        text = f"the gradient of {name} is zero everywhere: nothing flows to it"
        return [Finding(frozenset([i]), "detached", text, "return its gradient", 0, 0.0)]
    if (constant := _constant(evidence, i)) is not None:
        accuracy, c = constant
        also = ("swapped-outputs",) if any(_is_other(evidence, i, j) for j in range(len(names)) if j != i) else ()
        return [_scaled(frozenset([i]), c, "", None, 0, accuracy, name, also)]
    for j in range(len(names)):
        if j != i:
            text = f"the rule returns the gradient of {names[j]} as that of {name}"
            consider("swapped-outputs", text, "exchange them", 0, lambda case, j=j: case.expected[j])
            text = f"the rule returns the transpose of the gradient of {names[j]} as that of {name}"
            consider("swapped-outputs", text, "exchange them", 0.2, lambda case, j=j: case.expected[j].T)
    for axes in itertools.permutations(range(len(shape))):
        if axes != tuple(range(len(shape))):
            turned = lambda case, a=axes: case.expected[i].transpose(a)
            consider("transpose", f"the gradient of {name} is transposed (axes {axes})", "transpose it", 0, turned)
            text = f"the gradient of {name} is reshaped where it must be transposed"
            cast = lambda case, f=turned: f(case).reshape(case.expected[i].shape)
            consider("transpose", text, "transpose, not reshape", 0.5, cast)
    for axis in range(len(shape)):
        for shift in (1, -1, 2, -2):
            text = f"the gradient of {name} is shifted by {shift} along axis {axis}"
            moved = lambda case, a=axis, s=shift: _moved(case.expected[i], s, a)
            consider("wrong-index", text, "shift it back", 0.1, moved)
            rolled = lambda case, a=axis, s=shift: np.roll(case.expected[i], s, a)
            consider("wrong-index", text + ", cyclically", "shift it back", 0, rolled)
        text = f"the gradient of {name} is reversed along axis {axis}"
        consider("wrong-index", text, "reverse it", 0, lambda case, a=axis: np.flip(case.expected[i], a))
        if shape[axis] > 1:
            for word in ("mean", "sum"):
                text = f"the rule returns the {word} over axis {axis} of the gradient of {name}"
                spread = lambda case, a=axis, w=word: (
                    getattr(case.expected[i], w)(axis=a, keepdims=True) + 0 * case.expected[i]
                )
                consider("wrong-reduction-axis", text, f"drop that {word}", 0.5, spread)
    return found


def _is_other(evidence: list[Evidence], i: int, j: int) -> bool:
    """Is what the rule returns for leaf i the true gradient of leaf j?"""
    return all(e.error(case, i, case.expected[j]) < np.inf for e in evidence for case in e.cases)


def _moved(x, shift, axis):
    out = np.roll(x, shift, axis)
    edge = [slice(None)] * x.ndim
    edge[axis] = slice(0, shift) if shift > 0 else slice(shift, None)
    out[tuple(edge)] = 0
    return out


def _sharp(case: "Case", i: int) -> bool:
    """Are the values exact enough to read a constant off? Where everything saturates they are not."""
    return bool(np.max(case.tolerance[i], initial=0.0) <= 1e-6 * np.max(np.abs(case.expected[i]), initial=0.0))


def _constant(evidence: list[Evidence], i: int) -> Any:
    factors, shapes, accuracy = [], [], 0.0
    for e in evidence:
        for case in e.cases:
            expected, actual = case.expected[i], case.actual[i]
            size = float(np.sum(expected * expected))
            if size == 0:
                continue
            c = float(np.sum(expected * actual)) / size
            error = e.error(case, i, c * expected)
            if error == np.inf:
                return None
            accuracy = max(accuracy, error)
            if _sharp(case, i):
                factors.append(c)
                shapes.append(e.shapes(case))
    if not factors:
        return None
    named = name_constant(factors, shapes)
    return None if named is None else (accuracy, named)


def _scaled(leaves, constant, term, source, tier, accuracy, leaf="", also=()) -> Finding:
    """A finding about a constant factor, of a leaf or of one term of it."""
    named = f"the term {term}" if term.startswith("`") else f"a term ({term})"
    what = f"{named} of the gradient of {leaf}" if term else f"the gradient of {leaf}"
    if constant.kind == "sign":
        text, fix = f"{what} has the wrong sign", "flip the sign"
    elif constant.kind == "batch-mean-vs-sum":
        mean = constant.text.startswith("1/")
        text = f"{what} is {constant.text} times the true one: " + (
            "a mean where the forward sums" if mean else "a sum where the forward takes the mean"
        )
        fix = "sum instead of taking the mean" if mean else f"divide by {constant.text}"
    elif constant.text == "2" and term:
        text, fix = f"{what} is counted twice", "count it once"
        return Finding(leaves, "double-count", text, fix, tier, accuracy, source, ("scale-constant",))
    else:
        text, fix = f"{what} is {constant.text} times the true one", f"divide by {constant.text}"
    extra = ("double-count",) if constant.text == "2" else ()
    return Finding(leaves, constant.kind, text, fix, tier, accuracy, source, (*also, *extra))


# --- edits ------------------------------------------------------------------------------------------------------------


def _search(evidence, off, known, deadline, notes) -> dict[int, Finding]:
    """The simplest edit for each leaf; one edit that explains several leaves is preferred to one for each."""
    first = evidence[0].cases[0]
    problem = evidence[0].checker.problem
    names = [*problem.primal_names, *("ct" if len(problem.seeds) == 1 else name for name in problem.seed_names)]
    editor = Editor(first.program, evidence[0].cases, len(problem.seeds), off, names)
    trials = [_Trial(evidence, editor, off)]
    if (mirrored := _mirrored(evidence)) is not None:
        repairs = Editor(
            mirrored[0].cases[0].program, mirrored[0].cases, len(problem.seeds), off, names, repairing=True
        )
        trials.append(_Trial(mirrored, repairs, off))
    best: dict[int, Finding] = dict(known)
    open_leaves = {i for i in off if i not in known}
    for tier in (1, 2, 3, 4):
        found: list[Finding] = []
        for trial in trials:
            for edit in edits(trial.editor, tier):
                if time.process_time() > deadline:
                    notes.append("the search for the mistake was cut short")
                    break
                if edit.rewrites and (finding := trial.run(edit)) is not None:
                    found.append(finding)
        for finding in _ranked(found):
            gain = {i for i in finding.leaves if i not in best}
            joint = len(finding.leaves) > 1 and not finding.harmed and finding.leaves > gain
            # what looks like a mistake of one leaf may be one upstream that all of them share
            own = {i for i in finding.leaves if i in known or (i in best and best[i].leaves < finding.leaves)}
            spoiled = own if joint and gain else set()
            for i in gain | spoiled:
                best[i] = finding
        _add_alternatives(best, found)
        open_leaves -= best.keys()
        if not open_leaves or time.process_time() > deadline:
            break
    for i in sorted(open_leaves):
        if (finding := explain(evidence[0], editor, i, deadline)) is not None:
            best[i] = finding
    return best


def _mirrored(evidence: list[Evidence]) -> list[Evidence] | None:
    """The same probes with rule and reference exchanged: an edit of the *rule* that makes it right is sought there.

    A rule written in another form than autodiff's may hold a slip that no edit of autodiff's form reproduces.
    """
    mirrored = []
    for e in evidence:
        cases = []
        for case in e.cases:
            try:
                program = e.checker.rule.program(case.probe.primals, case.probe.seeds)
            except Exception:
                return None
            if program is None or len(program.outputs) != len(case.expected):
                return None
            values = _jaxpr.evaluate(program, [*case.probe.primals, *case.probe.seeds])
            cases.append(
                dataclasses.replace(case, program=program, held=values, expected=case.actual, actual=case.expected)
            )
        mirrored.append(Evidence(e.checker, cases, e.off))
    return mirrored


INVERSE = {
    "missing-term": "extra-term",
    "extra-term": "missing-term",
    "missing-factor": "wrong-operand",
    "missing-activation-derivative": "wrong-operand",
    "missing-mask": "wrong-operand",
    "double-count": "missing-term",
    "index-collision": "double-count",
    "overwritten-not-accumulated": "double-count",
}
"""What a slip is called whose repair bears another name: leaving a factor out repairs a factor too many."""


PREFERENCE = (
    "detached",
    "sign",
    "batch-mean-vs-sum",
    "scale-constant",
    "double-count",
    "missing-term",
    "overwritten-not-accumulated",
    "index-collision",
    "missing-activation-derivative",
    "missing-mask",
    "transpose",
    "wrong-reduction-axis",
    "missing-factor",
    "wrong-index",
    "swapped-outputs",
    "stale-value",
    "only-some-elements",
    "wrong-operand",
    "extra-term",
)


def _preference(kind: str) -> int:
    return PREFERENCE.index(kind) if kind in PREFERENCE else len(PREFERENCE)


def _ranked(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda f: (len(f.harmed) > 0, -len(f.leaves), f.tier, _preference(f.kind), -f.position))


def _add_alternatives(best: dict[int, Finding], found: list[Finding]) -> None:
    """Kinds that reproduce the same values on every probe are named beside the chosen one."""
    for chosen in {id(f): f for f in best.values()}.values():
        same = [f for f in found if f.leaves == chosen.leaves and f.harmed == chosen.harmed and f is not chosen]
        kinds = dict.fromkeys([*chosen.also, *(f.kind for f in _ranked(same) if f.tier <= chosen.tier + 0.5)])
        chosen.also = tuple(kind for kind in kinds if kind != chosen.kind)[:3]


class _Trial:
    """Evaluates edits on the probes and compares them with the rule."""

    def __init__(self, evidence: list[Evidence], editor: Editor, off: Sequence[int]):
        self.evidence, self.editor, self.off = evidence, editor, list(off)
        self.right = [i for i in range(len(evidence[0].checker.problem.leaves)) if i not in off]
        self.names = [path for path, _, _ in evidence[0].checker.problem.leaves]
        program = editor.program
        self.portable = [e for e in evidence[1:] if e.cases and _portable(e.cases[0].program, program)]

    def outputs(self, case, edit, leaves, needed=None) -> dict[int, Any]:
        """Values of some leaves under an edit; only those that change."""
        self.editor.active = case.program
        try:
            changed = _jaxpr.rerun(case.program, case.values, {**self.editor.pins, **edit.rewrites}, needed)
        except Exception:  # an edit that makes no sense for these shapes or dtypes is no hypothesis
            return {}
        outs = {}
        for i in leaves:
            number = case.program.outputs[i]
            if number in changed:
                outs[i] = np.asarray(changed[number])
        return outs

    def run(self, edit: Edit) -> Finding | None:
        cases = self.evidence[0].cases
        leaves = set(self.off)
        factors: dict[int, list[float]] = {i: [] for i in leaves}
        accuracy = 0.0
        for case in cases:
            outs = self.outputs(case, edit, sorted(leaves), self.editor.needed)
            for i in sorted(leaves):
                if i not in outs:
                    leaves.discard(i)
                    continue
                error, c = self.compare(case, i, outs[i], edit.fitted)
                if error == np.inf:
                    leaves.discard(i)
                    continue
                if c is not None:
                    factors[i].append(c)
                accuracy = max(accuracy, error)
            if not leaves:
                return None
        if edit.fitted:
            return self.fitted(edit, leaves, factors, accuracy)
        if not self.on_given_sizes(edit, leaves):
            return None
        harmed = self.harmed(edit)
        text = f"the rule {edit.text}"
        kind, also, fix = edit.kind, edit.also, edit.fix
        if self.editor.repairing and not edit.repair:
            kind, text, fix = INVERSE.get(edit.kind, edit.kind), f"the rule is right once it {edit.text}", ""
            also = ("double-count", "extra-term") if kind == "wrong-operand" and kind != edit.kind else ()
        return Finding(
            frozenset(leaves),
            kind,
            text,
            fix,
            edit.tier + edit.weight + 0.3 * self.editor.repairing,
            accuracy,
            edit.source,
            also,
            harmed,
            edit.position,
        )

    def compare(self, case, i, out, fitted) -> tuple[float, float | None]:
        evidence = self.evidence[0]
        if not fitted:
            return evidence.error(case, i, out), None
        with np.errstate(all="ignore"):
            direction, difference = out - case.expected[i], case.actual[i] - case.expected[i]
            size = float(np.sum(direction * direction))
            if not np.isfinite(size) or size == 0:
                return (0.0, None) if not np.any(case.wrong[i]) else (np.inf, None)
            b = float(np.sum(direction * difference)) / size
            c = 0.0 if abs(1 - b) < 1e-7 else 1 - b
            return evidence.error(case, i, case.expected[i] + (1 - c) * direction), c if _sharp(case, i) else None

    def fitted(self, edit, leaves, factors, accuracy) -> Finding | None:
        """The contribution counts with a constant: name it, and ask whether it is the same in every leaf and probe."""
        evidence = self.evidence[0]
        shapes = [evidence.shapes(case) for case in evidence.cases]
        values = {i: list(factors[i]) for i in leaves if factors[i]}
        if not values:
            return None
        agreed = {}
        for i, row in values.items():
            if row and (not any(row) or name_constant(row, shapes[:1] * len(row))):
                agreed[i] = row
        if not agreed:
            return None
        first = next(iter(agreed.values()))
        leaves = {i for i, row in agreed.items() if np.allclose(row, first[0], rtol=1e-6, atol=1e-8)}
        harmed = self.harmed(edit)
        given = self.factors_on_given_sizes(edit, leaves)
        if given is None:
            return None
        more, more_shapes = given
        base = {
            "leaves": frozenset(leaves),
            "tier": edit.tier + edit.weight,
            "accuracy": accuracy,
            "source": edit.source,
        }
        names = " and ".join(self.names[i] for i in sorted(leaves))
        row = [*first, *more]
        repairing = self.editor.repairing
        own = {"harmed": harmed, "position": edit.position}
        if repairing:
            base["tier"] += 0.3
        if edit.kind == "extra-term":
            amounts = [c - 1 for c in row]
            if not np.allclose(amounts, amounts[0], rtol=1e-6) or not any(row):
                return None
            term = edit.term if abs(amounts[0] - 1) < 1e-6 else f"{amounts[0]:.4g} times {edit.term}"
            where = edit.text.removeprefix(f"adds the term {edit.term}").removesuffix(", which does not belong there")
            if repairing:
                text = f"the rule lacks the term {term}{where}"
                return Finding(
                    kind="missing-term", text=text, fix="add the term", also=("wrong-operand",), **base, **own
                )
            text = f"the rule adds {term}{where}"
            return Finding(kind="extra-term", text=text, fix="leave it out", also=("wrong-operand",), **base, **own)
        if not any(row):
            where = edit.text.removeprefix("leaves out the term")
            short = edit.term.startswith("`")  # else no formula short enough to print: the line says where it is
            term = f"the term {edit.term}{where}" if short or not where else f"a term{where}"
            if repairing:
                text = f"the rule has {term} too much"
                return Finding(kind="extra-term", text=text, fix="leave it out", **base, **own)
            text = f"the rule leaves out {term}"
            return Finding(kind="missing-term", text=text, fix=edit.fix, **base, **own)
        if repairing:
            if not all(row):
                return None
            row = [1 / c for c in row]  # what the rule's term is, as a multiple of the true one
        named = name_constant(row, [*shapes[:1] * len(first), *more_shapes])
        if named is None:
            return None
        found = _scaled(base["leaves"], named, edit.term, edit.source, base["tier"], accuracy, names)
        found.harmed, found.position = harmed, edit.position
        return found

    def factors_on_given_sizes(self, edit, leaves) -> Any:
        factors, shapes = [], []
        for e in self.portable:
            for case in e.cases[:1]:
                outs = self.outputs(case, edit, sorted(leaves))
                for i in leaves:
                    if i not in outs:
                        return None
                    error, c = self.compare(case, i, outs[i], True)
                    if error == np.inf:
                        return None
                    if c is not None:
                        factors.append(c)
                        shapes.append(e.shapes(case))
        return factors, shapes

    def on_given_sizes(self, edit, leaves) -> bool:
        for e in self.portable:
            for case in e.cases[:1]:
                outs = self.outputs(case, edit, sorted(leaves))
                if any(i not in outs or e.error(case, i, outs[i]) == np.inf for i in leaves):
                    return False
        return True

    def harmed(self, edit: Edit) -> frozenset[int]:
        """Leaves that the rule has right and the edit would change: the mistake is then in one leaf's formula only."""
        case = self.evidence[0].cases[0]
        outs = self.outputs(case, edit, self.right)
        return frozenset(i for i, out in outs.items() if self.evidence[0].error(case, i, out) == np.inf)
