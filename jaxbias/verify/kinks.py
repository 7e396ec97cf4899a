"""Points where the derivative jumps or autodiff gives no number, and what a rule may return there.

At a kink (relu at 0, a tie of a maximum) the one-sided derivatives differ, and any value between them is a convention.
The one-sided derivatives are sampled: the reference at points a tiny step away, in many directions. A rule is within
the interval if every element lies between the smallest and largest sample, and so do the sums over every axis: for a
tie of a maximum each element may get anything from 0 to 1, but both together get 1. A sum over many kinks hides its
ends from the samples, so there the interval is taken a little wider; not where few values recur in all of them.

A tie may persist wherever x moves, as that of clip(round(x)) at its border does. There the compared value itself takes
the step, on its way through the program.
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import depends_on
from jaxbias._trees import is_float

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

STEP = 1e-7
SAMPLES = 24

MOST_VALUES = 4
"""Of two independent ties, all of which are seen in some thirty samples; of three there are eight."""

MOST_BORDERS = 3
"""Constants that are compared with, up to which both sides of each are tried together."""


def _size(x: Any) -> float:
    """Of the largest number of an array that a step is taken in; 1 where there is none."""
    return float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0)) or 1.0


def _at(case: "Case", directions: list[np.ndarray | None], step: float = STEP) -> list[np.ndarray]:
    """True gradients a tiny step away from the probe, in one direction for each primal."""
    primals = [x if d is None else x + step * _size(x) * d for x, d in zip(case.probe.primals, directions)]
    values = _jaxpr.evaluate(case.program, [*primals, *case.probe.seeds])
    return [np.asarray(values[i]) for i in case.program.outputs][: len(case.expected)]


def _near(case: "Case", pairs: int, rng: np.random.Generator, step: float = STEP) -> list[list[np.ndarray]]:
    """True gradients at random points a tiny step away, each with the one opposite, so that both sides are seen."""
    gradients = []
    for _ in range(pairs):
        signs = [
            rng.choice([-1.0, 1.0], np.shape(x)) * rng.uniform(0.5, 1.0, np.shape(x)) if is_float(x) else None
            for x in case.probe.primals
        ]
        for side in (1.0, -1.0):
            gradients.append(_at(case, [None if d is None else np.asarray(side * d) for d in signs], step))
    return gradients


COMPARED = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "max", "min", "clamp"))


def _off_ties(case: "Case", count: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """True gradients where computed values that tie with what they are compared to have taken a tiny step.

    In random directions; and where the border is a constant, as those of relu and clip are, to one side of it at all of
    them, as a convention goes: over many ties random directions seldom do.
    """
    program, values = case.program, case.values
    computed = depends_on(program, program.inputs)
    makers = {number: k for k, equation in enumerate(program.equations) for number in equation.outputs}
    tied: dict[int, Any] = {}
    borders: set[float] = set()

    def chosen_from(number: int, where: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """What a value is a copy of, where: a maximum moves with the larger operand."""
        if number not in makers or np.shape(values[number]) != where.shape or not np.any(where):
            return
        maker = program.equations[makers[number]]
        if maker.name in COMPARED:
            for operand in maker.inputs:
                yield from chosen_from(operand, np.asarray(where & (values[operand] == values[number])))
        else:
            yield number, where

    for equation in program.equations:
        numbers = [i for i in equation.inputs if isinstance(values[i], np.ndarray)]
        real = all(is_float(values[i]) and np.isrealobj(values[i]) for i in numbers)
        if equation.name not in COMPARED or not real:
            continue
        for i, j in itertools.combinations(numbers, 2):
            ties = np.asarray(values[i] == values[j])
            fixed = [np.unique(values[k][...]) for k in (i, j) if k not in computed]
            borders.update(float(border[0]) for border in fixed if border.size == 1 and np.any(ties))
            for number in (i, j):
                for moved, where in chosen_from(number, ties):
                    tied[moved] = np.asarray(tied.get(moved, False) | where)
    if not tied:
        return []

    def stepped(number: int, ties: np.ndarray, sides: dict[float, float]):
        x = values[number]
        size = STEP * np.where(ties, np.maximum(min(1.0, _size(x)), np.abs(x)), 0.0)  # beside a mask of −1e30 too
        sign = rng.choice([-1.0, 1.0], ties.shape)
        for border, side in sides.items():
            sign = np.where(values[number] == border, side, sign)
        step = size * sign * rng.uniform(0.5, 1.0, ties.shape)
        equation = program.equations[makers[number]]

        def rewrite(_, inputs):
            outs = _jaxpr.apply(equation, inputs)
            return [out + step if i == number else out for i, out in zip(equation.outputs, outs)]

        return rewrite

    gradients = []
    to_one_side = [dict(zip(borders, signs)) for signs in itertools.product((-1.0, 1.0), repeat=len(borders))]
    for sides in [*([{}] * count), *(to_one_side if 0 < len(borders) <= MOST_BORDERS else [])]:
        changed = _jaxpr.rerun(
            program, values, {makers[number]: stepped(number, ties, sides) for number, ties in tied.items()}
        )
        outs = [np.asarray(changed.get(i, values[i])) for i in program.outputs]
        gradients.append(outs[: len(case.expected)])
    return gradients


def _aimed(case: "Case", where: list[int] | None, i: int, step: float = STEP) -> list[list[np.ndarray]]:
    """True gradients in the directions that usual conventions amount to, which random directions seldom hit.

    The first (or last) of several equal values wins if values fall (or rise) with their index; and the entries to which
    the rule gives more than autodiff win if they are raised.
    """
    gradients = []
    for order in ("C", "F"):
        for sign in (1.0, -1.0):
            ranks = [
                sign * np.linspace(-1, 1, np.size(x)).reshape(np.shape(x), order=order) if is_float(x) else None
                for x in case.probe.primals
            ]
            gradients.append(_at(case, ranks, step))
    if where is None:
        return gradients
    actual, expected = case.actual[i], np.where(np.isfinite(case.expected[i]), case.expected[i], 0.0)
    for gain in (actual - expected, np.abs(actual) - np.abs(expected)):
        size = np.max(np.abs(gain), initial=0.0)
        if not np.isfinite(size) or size == 0:
            continue
        for sign in (1.0, -1.0):
            aim = [sign * gain / size if k == where[i] else None for k in range(len(case.probe.primals))]
            gradients.append(_at(case, aim, step))
    return gradients


def judge_kinks(checker: "Checker", case: "Case", wrong: list[int], rng: np.random.Generator) -> None:
    """Set `case.convention[i]` where leaf i differs only at kinks and within the interval; `case.kink` names them."""
    off_ties = _off_ties(case, SAMPLES // 2, rng)
    near = _near(case, 2, rng) + off_ties
    jumps = {i: case.wrong[i] & ~case.smooth[i] & _jumps(near, case, i) for i in wrong}
    if any(map(np.any, jumps.values())):
        # a derivative that is only steep moves less with a smaller step, and one that jumps does not
        nearer = _near(case, 2, rng, STEP / 1000) + off_ties
        jumps = {i: mask & _jumps_alike(near, nearer, case, i) for i, mask in jumps.items()}
    jumps = [i for i, mask in jumps.items() if np.any(mask)]
    if not jumps:
        return
    near += _near(case, SAMPLES // 2, rng)
    case.kink = kink_lines(case, near, rng) or ["its derivative jumps there"]
    for i in jumps:
        samples = near + _aimed(case, checker.problem.leaf_primal, i)
        # where no convention excuses anything
        elsewhere = case.wrong[i] & (case.smooth[i] | ~_jumps(samples, case, i))
        if np.any(elsewhere & ~case.smooth[i]):  # a jump that is small beside other entries shows at a smaller step
            step = STEP / 1000
            nearer = _near(case, SAMPLES // 2, rng, step) + _aimed(case, checker.problem.leaf_primal, i, step)
            elsewhere &= case.smooth[i] | ~_jumps(nearer, case, i, step)
        case.convention[i] = not np.any(elsewhere) and _inside(case, samples, i)


def _slack(case: "Case", i: int, scale: Any, step: float = STEP) -> Any:
    """Difference that a step of this size may cause where the function is smooth."""
    return 1e4 * step * scale + case.tolerance[i]


def _jumps(near: list[list[np.ndarray]], case: "Case", i: int, step: float = STEP) -> Any:
    expected = case.expected[i]
    scale = np.max(np.abs(np.where(np.isfinite(expected), expected, 0)), initial=0.0)
    with np.errstate(all="ignore"):
        return np.any([np.abs(n[i] - expected) > _slack(case, i, scale, step) for n in near], axis=0)


def _jumps_alike(near: list[list[np.ndarray]], nearer: list[list[np.ndarray]], case: "Case", i: int) -> Any:
    with np.errstate(all="ignore"):
        far, close = (np.max([np.abs(n[i] - case.expected[i]) for n in some], axis=0) for some in (near, nearer))
        return ~(close < 0.1 * far)


def _inside(case: "Case", near: list[list[np.ndarray]], i: int) -> bool:
    actual, expected = case.actual[i], case.expected[i]
    if not np.all(np.isfinite(actual)):
        return False
    samples = np.stack([*(n[i] for n in near), expected])
    scale = np.max(np.abs(samples), initial=0.0)
    for size in range(actual.ndim + 1):
        for axes in itertools.combinations(range(actual.ndim), size):
            some = samples.sum(axis=tuple(a + 1 for a in axes))
            low, high = some.min(axis=0), some.max(axis=0)
            got = actual.sum(axis=axes)
            slack = _slack(case, i, scale) if not axes else 1e4 * STEP * scale * np.sqrt(actual.size)
            slack = np.max(slack)
            share = np.where(_few_values(some[:-1], some[-1], slack), 0.0, 0.5 if axes or actual.ndim == 0 else 0.25)
            wide = share * (high - low)
            if not np.all((got >= low - wide - slack) & (got <= high + wide + slack)):
                return False
    return True


def _few_values(samples: np.ndarray, at_kink: np.ndarray, slack: Any) -> np.ndarray:
    """Where the samples, beside those that never left the kink, take so few values that their ends are among them."""
    with np.errstate(all="ignore"):
        left = np.sort(np.where(np.abs(samples - at_kink) > slack, samples, np.inf), axis=0)
        steps = np.sum(np.isfinite(left[1:]) & (np.diff(left, axis=0) > slack), axis=0)
    return steps < MOST_VALUES


def kink_lines(case: "Case", near: list[list[np.ndarray]], rng: np.random.Generator) -> list[str]:
    """Source lines of the comparisons whose outcome changes within the step: they are where the kink is."""
    primals = [
        x + STEP * _size(x) * rng.choice([-1.0, 1.0], np.shape(x)) if is_float(x) else x for x in case.probe.primals
    ]
    moved = _jaxpr.evaluate(case.program, [*primals, *case.probe.seeds])
    lines: dict[str, None] = {}
    for equation in case.program.equations:
        for number in equation.outputs:
            before, after = case.values[number], moved[number]
            if isinstance(before, np.ndarray) and before.dtype.kind == "b" and not np.array_equal(before, after):
                where = f"{int(np.sum(before != after))} elements"
                lines.setdefault(f"{where}: {equation.source.text}" if equation.source else where)
                break
    return list(lines)


def limit_from_differences(checker: "Checker", case: "Case", i: int) -> tuple[bool, bool]:
    """Does the rule agree with differences of the forward where autodiff gives NaN or infinity? And do they decide?

    Central differences of Σ seed · forward with two step sizes; they decide where both are finite and agree.
    """
    where = checker.problem.leaf_primal
    if where is None or any(np.iscomplexobj(x) for x in case.probe.inputs):
        return False, False
    mask = case.undefined[i]
    actual = case.actual[i]
    if not np.all(np.isfinite(actual[mask])):
        return False, False
    count = len(checker.problem.leaves)

    def objective(x):
        primals = list(case.probe.primals)
        primals[where[i]] = x
        values = _jaxpr.evaluate(case.program, [*primals, *case.probe.seeds])
        outs = [np.asarray(values[k]) for k in case.program.outputs][count:]
        return sum(float(np.sum(o * s)) for o, s in zip(outs, case.probe.seeds))

    base = np.asarray(case.probe.primals[where[i]])
    decided, agrees = True, True
    for index in list(zip(*np.nonzero(mask)))[:32] if mask.ndim else [()]:
        slopes, one_sided = [], []
        for step in np.array([1e-3, 1e-4, 1e-5]) * _size(base):
            up, down = np.array(base), np.array(base)
            up[index] += step
            down[index] -= step
            high, mid, low = objective(up), objective(base), objective(down)
            slopes.append((high - low) / (2 * step))
            one_sided.append(((high - mid) / step, (mid - low) / step))
        ends = [s for pair in one_sided for s in pair if np.isfinite(s)]
        last = slopes[-1] if np.isfinite(slopes[-1]) else None
        if not ends or (last is None and len(ends) < 3):
            decided = False
            continue
        changes = np.abs(np.diff(one_sided, axis=0))  # to both sides, from one step to the next
        known = np.isfinite(changes)
        drift = float(np.max(changes[known], initial=0.0))
        unit = 1 + abs(float(actual[index]))
        grows = known.all(axis=0) & (changes[1] > np.maximum(changes[0] / 2, 1e-4 * unit))
        if drift > 1e2 * unit or np.any(grows):
            decided = False  # the slope has no limit
            continue
        slack = 2 * drift + 1e-4 * unit
        if not min(ends) - slack <= float(actual[index]) <= max(ends) + slack:
            agrees = False
    return decided and agrees, decided
