"""Carries a check out on its probes, and nearer to the given values where a probe lies beyond what the rule is for.

The probes are drawn without knowing what the arguments mean. A closed form may not be defined there, as arccos is not
beyond 1, though the forward is; and a rule of the limit of an iteration, or of the function that a series approximates,
is none of the forward where the steps do not converge. Such a rule is right on its domain, and the domain is the
user's: what holds is looked for on the way from the given values to the probe, and a note says where it ends.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import Decision, borders, decisions, lacks_rank, left_open
from jaxbias._trees import in_one_line, is_float
from jaxbias.verify.checker import Case, Checker
from jaxbias.verify.probes import Probe, random_seeds, redraw, simplex_axis, unrestricted, without_symmetry
from jaxbias.verify.problem import Problem, RuleError, exact_context

NEAREST, FARTHEST, FINEST = -6.0, 40.0, 1 / 8
"""Where on the way to a probe it is asked where a rule stops being right, in powers of 2: of the part of the way that
is gone in its first half, of the part that is left in its second."""


LARGEST_SEARCHED = 100_000
"""Numbers in the arguments up to which inputs are searched for another outcome of a comparison."""

MOST_BRANCHES = 16
"""Of a switch, that are each tried for themselves; of more, as many as are met by chance."""

SCALES = 1.0, 1.0, 4.0, 4.0, 16.0, 16.0, 64.0, 256.0, 1024.0, 2.0**-4, 2.0**-8, 2.0**-12, 2.0**-16, 2.0**-20
"""Times the given values, of the inputs that are searched: the ends of saturation, and the series around 0."""

MOST_AT_BORDERS, BY_CHANCE, ORDINARY = 16, 7, (1e-3, 30.0)
"""Of inputs whose entries lie between the constants that comparisons are with, if these are so large; and how few
entries may be of one sign by chance, so that they take the other too."""

SHORTEST_LOOP = 1.0
"""Seconds that any loop is given, however fast the given values were judged."""

SHORTENED = 1 / 2, 1 / 8, 1 / 64
"""Parts of the way to a probe at which the forward is tried, where it is not finite at the probe itself."""

NEGLIGIBLE = 1e-30
"""A difference this small, at 128 bits or more, is none."""

GROWTH = 1e3
"""Times that the difference of a limit or an approximation grows at least, on its way out of the domain."""


def cases_of(checker: Checker, probes: list[Probe], rng: np.random.Generator, notes: list[str]) -> list[Case]:
    """Reference and rule on each probe that lies in the forward's domain, the given values first; notes are added to.

    Raises:
        RuleError: the rule does not run at the given values.
        ValueError: the forward does not.
    """
    cases: list[Case] = []

    def judged(probe: Probe) -> tuple[Case | None, list[str]]:
        case = checker.case(probe)
        if case is None and cases and not (probe.kink or probe.of_user):
            case = _nearer_in_the_forwards_domain(checker, cases[0], probe)
        if case is not None and cases and (nearer := _in_the_domain(checker, cases[0], case)) is not None:
            part, within = nearer
            return within, [_beyond(checker, case, part)]
        return case, []

    def judge(probe: Probe) -> None:
        if not _with_seeds(checker.problem, probe, rng):
            return
        try:
            case, note = judged(probe)
        except RuleError as error:
            if not cases:
                raise
            notes.append(f'on the probe "{probe.name}" {error.explanation}')
            return
        except RuntimeError as error:  # of the forward or of a solver in it, which checks its values as it runs
            if probe is probes[0]:
                raise ValueError(
                    f"verify: the forward cannot be evaluated at the given arguments: {in_one_line(error)}"
                ) from error
            notes.append(f'the forward cannot be evaluated on the probe "{probe.name}": {in_one_line(error)}')
            return
        notes.extend(note)
        if case is not None:
            cases.append(case)

    for probe in probes:
        if len(cases) > 1 and checker.short_of_time(0.5):
            notes.append(f"{len(probes) - len(cases)} of {len(probes)} probes were left out for lack of time")
            return cases
        began = time.process_time()
        judge(probe)
        if probe is probes[0]:  # where a loop goes on for much longer it may never end
            _jaxpr.let_loops_take(max(SHORTEST_LOOP, 10 * (time.process_time() - began)))
    if len(cases) > 1:
        for probe in _other_outcomes(checker, cases, rng):
            judge(probe)
            if cases[-1].probe is probe:
                _excuse_saturation(checker, cases[0], cases[-1])
    for probe in filter(None, (_inward(checker, cases, rng), _without_zeros(checker, cases, rng))):
        judge(probe)
    return cases


def never_compared(cases: list[Case], i: int) -> int:
    """How many elements of a gradient autodiff gives at no probe of the given sizes."""
    alike = [
        np.isfinite(case.expected[i]) for case in cases if np.shape(case.expected[i]) == np.shape(cases[0].expected[i])
    ]
    return int(np.sum(~np.any(alike, axis=0))) if alike else 0


def _inward(checker: Checker, cases: list[Case], rng: np.random.Generator) -> Probe | None:
    """Given values moved halfway to their mean, where autodiff gives no number of an element at any probe.

    A value at the border of the forward's domain, as 1 is for arctanh and 0 for log, leads whatever is drawn like it
    out of that domain, or stays there; the middle of the given values lies in it if it is convex.
    """
    missed = [i for i in range(len(checker.problem.leaves)) if never_compared(cases, i)]
    if not missed or checker.short_of_time(0.5):
        return None
    numbers = checker.problem.leaf_primal
    moved = set(range(len(cases[0].probe.primals)) if numbers is None else (numbers[i] for i in missed))
    primals = [_halfway(x) if k in moved else x for k, x in enumerate(cases[0].probe.primals)]
    return Probe("halfway to the mean of the given values", primals, random_seeds(checker.problem, rng))


def _without_zeros(checker: Checker, cases: list[Case], rng: np.random.Generator) -> Probe | None:
    """Given values with none of their zeros, where these leave nothing of a gradient at any probe.

    What is drawn keeps the zeros of the given values; a product with two of them has no slope by any of its entries.
    """
    leaves = range(len(checker.problem.leaves))
    nothing = any(not any(np.any(case.expected[i]) for case in cases) for i in leaves)
    given = cases[0].probe.primals
    if not nothing or not any(is_float(x) and np.any(x == 0) for x in given) or checker.short_of_time(0.5):
        return None
    filled = [np.where(x == 0, 0.5 + rng.uniform(size=np.shape(x)), x) if is_float(x) else x for x in given]
    return Probe("given values without their zeros", filled, random_seeds(checker.problem, rng))


def only_at_symmetric_matrices(checker: Checker, given: Case, rng: np.random.Generator) -> str:
    """A note on a rule that is right at symmetric matrices, as the given ones are, and not at others; "" of any other.

    A quadratic form's gradient is 2 A x for a symmetric A, and an inverse needs no transpose: that is right as long as
    symmetric matrices are all that there are, and what is drawn for a given one is symmetric too.
    """
    moved = without_symmetry(given.probe, rng)
    if moved is None or checker.short_of_time(0.4):
        return ""
    probe, symmetric = moved
    try:
        case = checker.case(probe)
    except (RuleError, RuntimeError):  # neither needs to take such a matrix
        return ""
    if case is None or not _any(case.wrong):
        return ""
    leaves, numbers = [path for path, _, _ in checker.problem.leaves], checker.problem.leaf_primal or ()
    paths = ", ".join(path for path, mask in zip(leaves, case.wrong) if np.any(mask))
    which = ", ".join(path for path, k in zip(leaves, numbers) if k in symmetric) or "the matrix"
    return (
        f"{paths}: right where {which} is symmetric, as given; where it is not, the rule is off by up to "
        f"{max(_errors(case)):.2g}"
    )


def _halfway(x: np.ndarray) -> np.ndarray:
    """To the mean of the entries, or to 0 where they are all alike; matrices keep what they are."""
    if not is_float(x) or not np.size(x) or (x.ndim >= 2 and x.shape[-1] == x.shape[-2]):
        return x
    return x / 2 if np.all(x == x.flat[0]) else (x + np.mean(x)) / 2


def _other_outcomes(checker: Checker, cases: list[Case], rng: np.random.Generator) -> list[Probe]:
    """Probes at which reference or rule goes a way that it went on no other: a mistake may stand in that branch.

    What happens at a zero or a tie counts for nothing, where a branch can be right by the zero alone.
    """
    first = cases[0]
    if sum(map(np.size, first.probe.primals)) > LARGEST_SEARCHED:
        return []
    programs = [p for p in (first.program, checker.rule.program(first.probe.primals, first.probe.seeds)) if p]
    choices = {program: made for program in programs if (made := decisions(program))}
    every = [(program, decision) for program, made in choices.items() for decision in made]

    def taken(values: dict[_jaxpr.Program, list[Any]]) -> list[frozenset[int]]:
        return [decision.taken(values[program]) for program, decision in every]

    def evaluated(inputs: list[Any]) -> dict[_jaxpr.Program, list[Any]]:
        return {program: _jaxpr.evaluate(program, inputs) for program in {first.program: None} | choices}

    def with_new(seen: list[frozenset[int]], now: list[frozenset[int]]) -> list[frozenset[int]]:
        return [before | ways for before, ways in zip(seen, now)]

    def left(seen: list[frozenset[int]]) -> list[Decision]:
        """Those that have not gone every way."""
        return [decision for ways, (_, decision) in zip(seen, every) if len(ways) < decision.ways]

    seen: list[frozenset[int]] = [frozenset()] * len(every)
    constants: set[float] = set()
    for case in cases:
        if not left(seen) or checker.short_of_time(0.7):
            return []
        if case is first or (case.program is first.program and not case.probe.kink):
            values = {case.program: case.values} | {
                program: _jaxpr.evaluate(program, case.probe.inputs) for program in choices if program != case.program
            }
            seen = with_new(seen, taken(values))
            constants.update(*(borders(program, values[program], made) for program, made in choices.items()))
    probes: list[Probe] = []
    branches = max((decision.ways for decision in left(seen) if decision.of_branches), default=0)
    for primals in _searched(first.probe.primals, branches, constants, rng):
        if not left(seen) or checker.short_of_time(0.7):
            break
        for some in (primals, _of_any_value(first.probe.primals, primals)):
            probe = Probe("another outcome of a comparison", some, random_seeds(checker.problem, rng))
            try:
                values = evaluated(probe.inputs)
            except RuntimeError:  # a solver in it refuses them
                continue
            if not left_open(first.program, values[first.program]):  # else nothing is held against a rule there
                break
        else:
            continue
        more = with_new(seen, taken(values))
        if more != seen and all(np.all(np.isfinite(values[first.program][i])) for i in first.program.outputs):
            seen = more
            probes.append(probe)
    return probes


def _searched(given: list[Any], branches: int, constants: set[float], rng: np.random.Generator) -> Iterator[list[Any]]:
    """Inputs, one after another, that may lead to outcomes of comparisons which have not been seen."""
    # each branch first where values are as given: far out its slope may be nothing, and any rule right
    at_size = [(1.0, [branch]) for branch in range(min(branches, MOST_BRANCHES))]
    for scale, chosen in at_size + [(scale, list(range(branches))) for scale in SCALES]:
        yield [_elsewhere(x, scale, chosen, rng) for x in given]
    least, most = ORDINARY
    ends = np.unique([0.0, *(sign * c for c in constants for sign in (-1, 1) if least <= abs(c) <= most)])
    near = ends[ends != 0, None] * (0.98, 1.02)
    beyond = 1.5 * ends[-1] + 0.5
    places = np.concatenate([(ends[1:] + ends[:-1]) / 2, near.ravel(), [beyond, -beyond]])
    for k in range(min(len(places), MOST_AT_BORDERS)):
        yield [_at_places(x, np.roll(places, k), rng) for x in given]


def _at_places(x: Any, places: np.ndarray, rng: np.random.Generator) -> Any:
    """Values at these places in turn; moduli, of complex ones; only where any may stand, or few, of one sign by chance.

    So one entry comes to each place, as the places are turned, and several do so in another order.
    """
    few = is_float(x) and not np.iscomplexobj(x) and 0 < np.size(x) <= BY_CHANCE and simplex_axis(x) is None
    if not (unrestricted(x) or (few and np.all(np.isfinite(x)) and (np.all(x >= 0) or np.all(x <= 0)))):
        return x
    order = rng.permutation(np.size(x)).reshape(np.shape(x))
    turn = np.exp(1j * rng.uniform(-np.pi, np.pi, np.shape(x))) if np.iscomplexobj(x) else 1.0
    apart = rng.uniform(0.99, 1.01, np.shape(x))  # no ties, and no singular matrices
    return places[order % len(places)] * apart * turn


def _of_any_value(given: list[Any], primals: list[Any]) -> list[Any]:
    """These inputs where any may stand, and the given ones for the others, as are the two borders of a clamp."""
    return [x if unrestricted(start) else start for start, x in zip(given, primals)]


def _excuse_saturation(checker: Checker, given: Case, case: Case) -> None:
    """Take for right what differs, far out, by less than the arguments' dtype holds beside the gradient as given.

    A rule that cuts off its exponentials does so where the gradient has become nothing.
    """
    for i, (mask, expected) in enumerate(zip(case.wrong, given.expected)):
        held = min(checker.eps, float(jnp.finfo(jnp.float32).eps)) * np.max(
            np.abs(np.where(np.isfinite(expected), expected, 0.0)), initial=0.0
        )
        with np.errstate(all="ignore"):
            case.wrong[i] = mask & ~(np.abs(case.actual[i] - case.expected[i]) <= held)


def _elsewhere(x: Any, scale: float, branches: list[int], rng: np.random.Generator) -> Any:
    """New values of another size, of one sign where the given ones are, and below 1; for an integer that may choose a
    branch, one of these."""
    if isinstance(x, jax.Array):  # a random key
        return x
    if not is_float(x):
        return np.asarray(rng.choice(branches), x.dtype) if branches and np.ndim(x) == 0 else x
    new = redraw(x, rng)
    positive = np.size(x) and not np.iscomplexobj(x) and np.all(x > 0) and simplex_axis(x) is None
    return scale * new if unrestricted(x) or (positive and (scale < 1 or np.max(x) > 1)) else new


def _turned(x: Any, rng: np.random.Generator) -> Any:
    """Values of which few are given, all of one sign as it happens, with signs drawn anew."""
    if not is_float(x) or np.iscomplexobj(x) or not 0 < np.size(x) <= BY_CHANCE or simplex_axis(x) is not None:
        return x
    return x * rng.choice([-1.0, 1.0], np.shape(x)) if np.all(x >= 0) or np.all(x <= 0) else x


def _with_seeds(problem: Problem, probe: Probe, rng: np.random.Generator) -> bool:
    """Give the probe its cotangents, whose shapes may follow from its values; False if it can have none."""
    if probe.seeds or not problem.seeds:
        return True
    if problem.seed_shapes is None:
        return False
    try:
        with exact_context():
            shapes = problem.seed_shapes(probe.primals)
    except Exception:
        return False
    probe.seeds = [rng.standard_normal(shape) for shape in shapes]
    return True


def _nearer_in_the_forwards_domain(checker: Checker, given: Case, probe: Probe) -> Case | None:
    """The case at the first of a few points on the way from the given values at which the forward is finite."""
    for part in SHORTENED:
        if checker.short_of_time(0.5):
            return None
        if (case := _near(checker, given, probe, part)) is not None:
            return case
    return None


def _in_the_domain(checker: Checker, given: Case, case: Case) -> tuple[float, Case] | None:
    """The part of the way to a probe up to which the rule is right, and the case there; None if the verdict stands.

    Right near the given values and wrong beyond is what a mistake in the other branch of a condition is, too. So what
    is excused is a closed form that gives no number, and a rule that is another function than the derivative of the
    forward, seen to leave it on the way: by less than the arguments' dtype holds, and more than at the given values. A
    right branch leaves it by nothing, or everywhere by the rounding of a constant. Where a rule gives no number at a
    zero or a tie, and does beside it, it forgot that point, unless the forward jumps there, or is made of factors that
    are not determined there.
    """
    if case.probe.of_user or _right(case) or not _right(given):
        return None
    undefined = _undefined(case)
    if undefined and case.probe.kink:
        beside = _near(checker, given, case.probe, 1 - 2.0**-20)
        forgotten = beside is not None and not _undefined(beside) and not lacks_rank(case.program, case.values)
        if beside is None or (forgotten and not _jumps(checker, given, case)):
            return None
    least = None if undefined else GROWTH * max(checker.apart(given), NEGLIGIBLE)
    right, wrong, middle = NEAREST, FARTHEST, -1.0
    while wrong - right > FINEST and not checker.short_of_time(0.3):
        part = 2.0**middle if middle <= -1 else 1 - 2.0 ** -(middle + 2)
        nearer = _near(checker, given, case.probe, part)
        if nearer is None or not _right(nearer):
            wrong = middle
        elif least is None or checker.apart(nearer) > least:
            return part, nearer
        else:
            right = middle
        middle = (right + wrong) / 2
    return None


def _any(masks: list[np.ndarray]) -> bool:
    return any(bool(np.any(mask)) for mask in masks)


def _undefined(case: Case) -> bool:
    """Whether the rule is wrong, and gives no number wherever it is."""
    numbers = (mask & np.isfinite(actual) for mask, actual in zip(case.wrong, case.actual))
    return _any(case.wrong) and not any(bool(np.any(mask)) for mask in numbers)


def _right(case: Case | None) -> bool:
    return case is not None and not _any(case.wrong) and not _any(case.undecided)


def _near(checker: Checker, given: Case, probe: Probe, part: float) -> Case | None:
    """The case this part of the way from the given values to those of a probe; None outside of the forward's domain."""
    primals = [
        start + part * (end - start) if is_float(start) and jnp.shape(start) == jnp.shape(end) else end
        for start, end in zip(given.probe.primals, probe.primals)
    ]
    name = f"{probe.name}, {_shown(part)} of the way"
    return checker.case(dataclasses.replace(probe, primals=primals, name=name))


def _jumps(checker: Checker, given: Case, case: Case) -> bool:
    """Does the forward jump at a probe, as a pseudoinverse does where a rank is lost, so that it has no derivative?"""
    values = lambda case: [np.asarray(case.values[i]) for i in case.program.outputs[len(case.expected) :]]
    here, steps = values(case), []
    for part in (1 - 2.0**-20, 1 - 2.0**-30):
        if (beside := _near(checker, given, case.probe, part)) is None:
            return False
        steps.append(
            max((float(np.max(np.abs(a - b), initial=0.0)) for a, b in zip(values(beside), here)), default=0.0)
        )
    return steps[1] > steps[0] / 2 > 0


def _shown(part: float) -> str:
    return f"{part:.2g}" if part <= 0.99 else f"all but {1 - part:.0e}"


def _beyond(checker: Checker, case: Case, part: float) -> str:
    """What happens at the probe itself."""
    paths = ", ".join(path for (path, _, _), mask in zip(checker.problem.leaves, case.wrong) if np.any(mask))
    how = "gives no number" if _undefined(case) else f"differs by up to {max(_errors(case)):.2g}"
    if not _undefined(case):
        how += "; it is no identity, but a limit or an approximation that holds near the given values"
    where = f'{_shown(part)} of the way to the probe "{case.probe.name}"'
    return f"{paths}: right as given and near it, {where}; at that probe itself the rule {how}"


def _errors(case: Case) -> Iterator[float]:
    for actual, expected, mask in zip(case.actual, case.expected, case.wrong):
        with np.errstate(all="ignore"):
            yield float(np.max(np.where(mask & np.isfinite(actual), np.abs(actual - expected), 0.0), initial=0.0))
