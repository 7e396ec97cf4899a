"""Other sizes and simpler values: a case to paste, and the condition under which a wrong rule is right."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias._trees import is_float
from jaxbias.verify.naming.fixed_sizes import fixed_sizes, numbers_of
from jaxbias.verify.probes import Probe, redraw, simplex_axis
from jaxbias.verify.problem import exact_context

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

LARGE = 1_000_000
"""Entries of all arguments together."""

LAST = 0.05
"""Of the time for a check: what is left of it is for the report."""

OTHERS = 2
"""Probes that are drawn at other sizes, beside the given values cut down to them."""

NEW_SIZES = (3, 4, 5, 6, 7, 8, 9)


def _array(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic)


def resize(primals: list[Any], sizes: dict[int, int]) -> list[Any]:
    """The first entries along every axis whose size is a key of `sizes`, and more like them where the size is larger;
    integers are kept inside the new sizes."""
    out = []
    for x in primals:
        if not _array(x):
            out.append(x)
            continue
        x = np.asarray(x)
        cut = x
        for axis, n in enumerate(x.shape):
            cut = _of_size(cut, axis, sizes[n]) if n in sizes else cut
        if cut is not x and is_float(x) and (along := simplex_axis(x)) is not None:
            cut = cut / cut.sum(axis=along, keepdims=True)
        if cut.dtype.kind in "iu" and x.ndim:
            tops = [new for old, new in sizes.items() if int(np.max(x, initial=0)) < old]
            cut = cut % max(min(tops), 1) if tops else cut
        out.append(cut)
    return out


def _of_size(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The first entries along an axis; beyond its end they come again, no two floats alike, or in equal steps."""
    n = x.shape[axis]
    if size <= n:
        return x if size == n else x.take(range(size), axis)
    more = x.take(np.arange(n, size) % n, axis)
    if is_float(x) and np.any(x != np.round(x)):
        steps = np.diff(x) if x.ndim == 1 else np.zeros(1)
        in_order = np.all(steps > 0) or np.all(steps < 0)
        more = x[-1] + steps.mean() * np.arange(1, size - n + 1) if in_order else more * 0.93 ** (axis + 1)
    return np.concatenate([x, more], axis)


def _seeds_for(checker: "Checker", primals: list[Any], rng: np.random.Generator) -> list[Any] | None:
    shapes = checker.problem.seed_shapes
    if shapes is None:
        return None
    try:
        with exact_context():
            return [rng.standard_normal(shape) for shape in shapes(primals)]
    except Exception:
        return None


def _case(checker: "Checker", name: str, primals: list[Any], rng: np.random.Generator) -> "Case | None":
    """Reference and rule on changed arguments; None where either does not accept them, or the time is over."""
    if checker.short_of_time(LAST):
        return None
    seeds = _seeds_for(checker, primals, rng)
    if seeds is None:
        return None
    try:
        case = checker.case(Probe(name, primals, seeds))
    except Exception:
        return None
    if case is None or not all(np.all(np.isfinite(e)) for e in case.expected):
        return None
    return case


def axis_sizes(primals: list[Any]) -> list[int]:
    return sorted({n for x in primals if _array(x) for n in np.shape(x) if n > 1})


def shrink(checker: "Checker", cases: list["Case"], off: list[int], rng: np.random.Generator) -> list["Case"]:
    """The same mistake at small sizes, on a few random probes; empty where the functions insist on their sizes."""
    given = cases[0].probe.primals
    old = axis_sizes(given)
    large = [n for n in old if n > 9]
    if not large:
        return []
    if sum(np.size(x) for x in given) > LARGE:  # values of a corner are drawn anew, rather than all of them
        given = resize(given, dict.fromkeys(large, 100))
        old, large = axis_sizes(given), [n for n in axis_sizes(given) if n > 9]
    free = [n for n in NEW_SIZES if n not in old]
    if len(large) > len(free):
        free = list(range(3, 3 + len(large)))
    for chosen in (large, large[-1:], large[:1]):
        sizes = dict(zip(chosen, free))
        small = []
        for k in range(4):
            primals = resize([redraw(x, rng) if k else x for x in given], sizes)
            case = _case(checker, f"small {k + 1}", primals, rng)
            if case is None:
                break
            small.append(case)
        wrong = all(any(np.any(case.wrong[i]) for case in small) for i in off)
        if len(small) == 4 and wrong and all(_only(case, off) for case in small):
            return small
    return []


def other_sizes(checker: "Checker", cases: Sequence["Case"], rng: np.random.Generator) -> list["Case"]:
    """The same mistake with more entries along the axes, or with one less, so that a factor 1/n is told from a fixed
    number: as it was given, and drawn anew, so that what is wrong in some elements is told from what is wrong at some
    places. More come first: positions and classes that a function closes over are within it. Sizes that the rule
    holds as numbers stay."""
    given = cases[0].probe.primals
    off = [i for i in range(len(cases[0].wrong)) if any(np.any(case.wrong[i]) for case in cases)]
    leading = [np.shape(s)[0] for s in cases[0].probe.seeds if np.ndim(s)]
    fixed, numbers = fixed_sizes(checker.problem.rule), numbers_of(checker.problem.rule) - {*axis_sizes(given)}
    products = itertools.combinations_with_replacement(axis_sizes(given), 2)  # as of height and width
    fixed |= {n for pair in products if math.prod(pair) in numbers and math.prod(pair) > 4 for n in pair}
    sizes = [n for n in axis_sizes(given) if n not in fixed]
    chosen = (sizes, [n for n in sizes if n in leading], *([n] for n in sizes))
    larger: dict[int, int] = {}
    for n in sizes:  # none of which is another's size
        taken = {*axis_sizes(given), *larger.values()}
        larger[n] = next(m for m in itertools.count(n + 1) if m not in taken)
    ways = [way for its in chosen for way in ({n: larger[n] for n in its}, {n: n - 1 for n in its if n > 2})]
    for way in [way for k, way in enumerate(ways) if way and way not in ways[:k]]:
        resized = resize(given, way)
        drawn = [resized, *([redraw(x, rng) for x in resized] for _ in range(OTHERS))]
        others = [case for x in drawn if (case := _case(checker, "other sizes", x, rng)) is not None]
        others = [case for case in others if _of_the_size(case, others[0])]
        wrong = others and all(np.any(others[0].wrong[i]) for i in off)
        if wrong and all(_only(case, off) and _of_the_shapes(case, cases[0]) for case in others):
            return others
    return []


WILD = 1e6
"""Times a gradient at the given values: it is not where an iteration converges, or a solution exists."""


def _of_the_size(case: "Case", given: "Case") -> bool:
    size = lambda x: np.max(np.abs(x), initial=0.0)
    return all(size(x) <= WILD * max(size(y), 1.0) for x, y in zip(case.expected, given.expected))


def _of_the_shapes(case: "Case", given: "Case") -> bool:
    """Has every gradient entries, if it has at the given sizes? One of another shape counts as none."""
    none = lambda x: x.size > 0 and bool(np.all(np.isnan(x)))
    return not any(none(x) and not none(y) for x, y in zip(case.actual, given.actual))


def _only(case: "Case", off: list[int]) -> bool:
    """No gradient is wrong but these; where others are, the rule has a size written into it as a number."""
    return not any(np.any(mask) for i, mask in enumerate(case.wrong) if i not in off)


def find_condition(checker: "Checker", cases: list["Case"], leaves: list[int], rng: np.random.Generator) -> str:
    """When the rule is right: the first simple change of the arguments that makes these leaves right; or ""."""
    start = next((c for c in cases if not c.probe.kink and any(np.any(c.wrong[i]) for i in leaves)), None)
    if start is None:
        return ""
    problem = checker.problem
    base = start.probe.primals

    def right(primals, tries=2) -> bool:
        for _ in range(tries):
            case = _case(checker, "condition", primals, rng)
            if case is None or any(np.any(case.wrong[i]) for i in leaves):
                return False
            if not any(np.any(case.expected[i]) for i in leaves):
                return False
        return True

    for k, x in enumerate(base):
        if not _array(x):
            continue
        x = np.asarray(x)
        if x.dtype.kind in "iu" and x.size > 1 and len(np.unique(x)) < x.size:
            top = int(max(np.max(np.asarray(c.probe.primals[k])) for c in cases if np.size(c.probe.primals[k]))) + 1
            if top >= x.size and right(_with(base, k, rng.permutation(top)[: x.size].reshape(x.shape).astype(x.dtype))):
                return "right only without repeated indices"
            unique = _unique_rows(base, k, rng)
            if unique is not None and right(unique):
                return "right only without repeated indices"
    leading = {np.shape(s)[0] for s in start.probe.seeds if np.ndim(s) > 0}
    off = [start.wrong[i] for i in leaves if np.any(start.wrong[i])]
    for size in sorted(axis_sizes(base), key=lambda n: n not in leading):
        firsts = {0, size // 2, size - 1, *(int(np.argwhere(x)[0][0]) for x in off if np.shape(x)[:1] == (size,))}
        if all(right(resize(_from(base, size, first), {size: 1}), 1) for first in sorted(firsts)):
            where = [name for name, x in zip(problem.primal_names, base) if _array(x) and size in np.shape(x)]
            if size in leading and any(np.shape(x)[:1] == (size,) for x in base if _array(x)):
                return "right only for batch 1"
            return f"right only where the axis of size {size} (of {', '.join(where)}) has size 1"
    for name, x, k in zip(problem.primal_names, base, range(len(base))):
        if not _array(x):
            continue
        x = np.asarray(x)
        if x.dtype == bool and x.size > 1:
            for value in (True, False):
                if right(_with(base, k, np.full_like(x, value))):
                    return f"right only where {name} is {value} everywhere"
        if is_float(x) and x.dtype.kind == "f":
            for value in (1.0, 0.0):
                if right(_with(base, k, np.full_like(x, value))):
                    return f"right only when {name} = {value:.0f}"
            if x.size > 1 and right(_with(base, k, np.full_like(x, 0.7))):
                return f"right only where {name} is constant"
            if x.ndim == 2 and x.shape[0] == x.shape[1] and right(_with(base, k, x + x.T)):
                return f"right only if {name} is symmetric"
            if np.any(x < 0) and right(_with(base, k, np.abs(x) + 0.1)):
                return f"right only where {name} is positive"
    ones = [np.ones(np.shape(s)) for s in start.probe.seeds]
    try:
        case = checker.case(Probe("ones", base, ones))
    except Exception:
        return ""
    if case is not None and all(np.any(case.expected[i]) and not np.any(case.wrong[i]) for i in leaves):
        return f"right only for a {problem.seed_word} of ones"
    return ""


def _from(primals: list[Any], size: int, first: int) -> list[Any]:
    """Axes of this size begin with another of their entries."""
    order = np.roll(np.arange(size), -first)
    axes = lambda x: [order if length == size else np.arange(length) for length in x.shape]
    return [x[np.ix_(*axes(x))] if _array(x) and np.ndim(x) else x for x in primals]


def _with(primals: list[Any], k: int, value: Any) -> list[Any]:
    return [value if j == k else x for j, x in enumerate(primals)]


def _unique_rows(base: list[Any], k: int, rng: np.random.Generator) -> list[Any] | None:
    """Fewer indices, all different: every axis of the size of the index array is cut to the number of distinct ones."""
    x = np.asarray(base[k])
    if x.ndim != 1:
        return None
    distinct = np.unique(x)
    if len(distinct) < 2:
        return None
    cut = resize(base, {x.shape[0]: len(distinct)})
    return _with(cut, k, distinct.astype(x.dtype))


def reproduce(checker: "Checker", cases: list["Case"], off: list[int]) -> str:
    """Code that builds the arguments of a failing case, small enough to paste."""
    shown = [case for case in cases if any(np.any(case.wrong[i]) for i in off)]
    if not shown:
        return ""
    case = min(shown, key=lambda c: sum(np.size(x) for x in c.probe.primals))
    names = [n.replace(".", "_").replace("[", "_").replace("]", "") for n in checker.problem.primal_names]
    names = [n if n.isidentifier() else f"arg_{n}" for n in names]
    lines = []
    total = sum(np.size(x) for x in case.probe.inputs)
    if total > 400:
        return ""
    rounded = [np.round(np.asarray(x), 2) if _array(x) and is_float(x) else x for x in case.probe.primals]
    seeds = [np.round(np.asarray(s), 1) for s in case.probe.seeds]
    try:
        simple = checker.case(Probe("rounded", rounded, seeds))
        keep = simple is not None and any(np.any(simple.wrong[i]) for i in off)
    except Exception:
        keep = False
    if not keep:
        rounded, seeds = case.probe.primals, case.probe.seeds
    for name, x in zip(names, rounded):
        lines.append(f"{name} = {_literal(x)}")
    for name, s in zip(checker.problem.seed_names, seeds):
        plain = "".join(c if c.isalnum() else "_" for c in name).strip("_")
        lines.append(f"{plain} = {_literal(s)}")
    return "\n".join(lines)


def _literal(x: Any) -> str:
    if not _array(x):
        return "jax.random.key(0)"
    x = np.asarray(x)
    return f"jnp.array({x.tolist()})" if x.size else f"jnp.zeros({x.shape})"
