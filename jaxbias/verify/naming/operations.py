"""One operation of a rule changed: which change gives the wanted value?"""

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import backward_slice, depends_on
from jaxbias.verify.naming.alignment import LAYOUT, Alignment, layouts, same, varies
from jaxbias.verify.naming.at_hand import at_hand
from jaxbias.verify.naming.difference import Relation, constant_factor
from jaxbias.verify.naming.operands import (
    HIDDEN,
    SIGNS,
    Change,
    Changed,
    distributed,
    factors,
    hidden,
    masked,
    other_operands,
    other_reductions,
    with_operand,
)
from jaxbias.verify.naming.repairs import Repair, axes_code, bracketed, kind_instead_of, listed

MOST_OPERATIONS = 60
"""Between right values and a wrong one, for all changes to be tried."""

COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}


def edits(
    alignment: Alignment, number: int, wanted: np.ndarray, deadline: float | int, *, exact: bool = True
) -> Iterator[Relation]:
    """Every change of one operation, between right values and this one, that gives it the wanted value.

    Args:
        exact: else a constant times it.
    """
    region = unknown_above(alignment, number)
    if len(region) > MOST_OPERATIONS:
        return
    # of what is done in every pass of a loop one may be right by chance, as that with which it begins
    places = [[alignment.position[n] for n in group] for group in alignment.passes]
    also = {p for group in places if not set(region).isdisjoint(group) for p in group}
    trial = _Trial(alignment, _onwards(alignment, also.union(region), number), number, wanted, exact)
    for edit in itertools.chain(
        *(find(alignment, trial) for find in (_shared_operands, _turned, _in_all_passes, _all_reductions))
    ):
        if time.process_time() > deadline:
            return
        yield edit
    for position in region:
        equation = alignment.program.equations[position]
        for changed in _changes(alignment, equation):
            if time.process_time() > deadline:
                return
            if trial({position: changed.change}):
                place = equation.outputs[0] if changed.number is None else changed.number
                mending = {equation.outputs[0]: trial.outputs(position, changed.change)}
                its = Relation(changed.kind, changed.text, changed.cost, place, changed.repairs, changed.about, mending)
                yield its if exact else replace(its, factor=1 / trial.factor)


def _shared_operands(alignment: Alignment, trial: "_Trial") -> Iterator[Relation]:
    """Another value in the place of one that several operations take, as softmax does what it is the softmax of."""
    equations = [alignment.program.equations[p] for p in trial.region]
    inside = {n for e in equations for n in e.outputs}
    uses = Counter(n for e in equations for n in set(e.inputs) if n not in inside)
    for n, count in uses.items():
        shape, program = alignment.program.shapes[n], alignment.program
        dtype = program.dtypes[n]
        if count < 2 or n in program.constants or not shape or dtype is None or np.dtype(dtype).kind != "f":
            continue
        now = alignment.column(n)
        for value in at_hand(alignment, n, shape, n in alignment.linear):
            if same(value.array, now) or hidden(alignment, n, value) or not trial({}, {n: value.array}):
                continue
            if value.name == alignment.text(n):
                continue  # its own line is wrong, and says more
            with np.errstate(all="ignore"):
                kept = np.abs(value.array - now) <= 1e-9 * np.abs(now)
            left_out = bool(np.any(kept)) and np.unique(value.array[~kept]).size == 1  # all the others are one number
            taken = alignment.text(n)
            kind = "missing-mask" if left_out else kind_instead_of(taken, value.name)
            users = [e for e in equations if n in e.inputs]  # of one piece of code in every pass of a loop that piece
            place = users[-1].outputs[0] if len({e.segments for e in users}) == 1 else trial.number
            words = f"takes {taken} where {value.name} is needed"
            cost = 1.35 + 0.1 * value.cost + (HIDDEN if n in alignment.linear and not value.code else 0.0)
            yield Relation(kind, words, cost, place, value.instead_of(taken))


def _turned(alignment: Alignment, trial: "_Trial") -> Iterator[Relation]:
    """The sign of what several operations take, as a helper does the sine that it turns by."""
    equations = [alignment.program.equations[p] for p in trial.region]
    inside = {n for e in equations for n in e.outputs}
    alike: dict[bytes, set[int]] = {}
    for n in {n for e in equations for n in e.inputs if n not in inside}:
        now = alignment.column(n)
        if now.dtype.kind == "f" and varies(now):
            alike.setdefault(now.tobytes(), set()).add(n)
    for numbers in alike.values():
        users = [e for e in equations if numbers.intersection(e.inputs)]
        if len(users) > 1 and trial({}, {n: -alignment.column(n) for n in numbers}):
            words = f"takes {alignment.text(min(numbers))} with the wrong sign"
            yield Relation("sign", words, 1.2, trial.number)


def _in_all_passes(alignment: Alignment, trial: "_Trial") -> Iterator[Relation]:
    """In every pass of a loop another operand: that of the pass before or after, a value at hand, one of the loop."""
    for group in alignment.passes:
        places = [alignment.position[n] for n in group]
        if set(trial.region).isdisjoint(places):
            continue
        equations = [alignment.program.equations[p] for p in places]
        for j, numbers in enumerate(zip(*(e.inputs for e in equations))):
            columns = [alignment.column(n) for n in numbers]
            if len({x.shape for x in columns}) > 1 or columns[0].dtype.kind not in "fc":
                continue
            taken, linear = alignment.text(numbers[-1]), numbers[0] in alignment.linear
            values = at_hand(alignment, numbers[-1], columns[0].shape[1:], linear)

            def replaced(arrays: Sequence[np.ndarray], j: int = j) -> dict[int, Change]:
                return {p: with_operand(e, j, array) for p, e, array in zip(places, equations, arrays)}  # noqa: B023

            if all(same(x, columns[0]) for x in columns):
                for value in values:
                    usable = not same(value.array, columns[0]) and not hidden(alignment, numbers[-1], value)
                    if usable and trial(replaced([value.array] * len(group))):
                        words = f"takes {taken} where {value.name} is needed"
                        cost = 1.4 + 0.1 * value.cost + (HIDDEN if linear and not value.code else 0.0)
                        kind = kind_instead_of(taken, value.name)
                        yield Relation(kind, words, cost, group[-1], value.instead_of(taken))
                continue
            if len(set(numbers)) < len(numbers) or len(numbers) < 3:  # of two, one given freely proves nothing
                continue
            ends = [np.zeros_like(columns[0])] + [value.array for value in values if value.cost < 1]
            for end, (word, shift) in itertools.product(ends, (("next", 1), ("previous", -1))):
                if trial(replaced([*columns[1:], end] if shift > 0 else [end, *columns[:-1]])):
                    words = f"takes {taken} of this pass of the loop, and must take that of the {word} one"
                    yield Relation("wrong-index", words, 0.9, group[-1], (Repair("index"),))
            yield from _of_the_loop(alignment, trial, numbers, columns, group[-1])


def _of_the_loop(
    alignment: Alignment, trial: "_Trial", numbers: Sequence[int], columns: Sequence[np.ndarray], place: int
) -> Iterator[Relation]:
    """In every pass a value of the forward's loop, or the gradient by it, in the place of one, wherever it is taken."""
    shape = columns[0].shape[1:]
    if numbers[0] in alignment.linear and not all(map(alignment.known, numbers)):
        return  # its own line may be what is wrong
    for family in alignment.families.values():
        first = family[0]
        if len(family) != len(numbers) or first.linear != (numbers[0] in alignment.linear):
            continue
        for laid in zip(*([array for _, array in layouts(value.array, shape)] for value in family)):
            for arrays in (laid[::-1], laid):
                if all(map(same, arrays, columns)) or not trial({}, dict(zip(numbers, arrays))):
                    continue
                taken = alignment.text(numbers[-1])
                words, kind = f"takes {taken} where {first.name} is needed", "wrong-operand"
                if masked(np.stack(columns), np.stack(arrays)):
                    kind = "missing-activation-derivative"
                yield Relation(kind, words, 1.5 + 0.1 * first.rank, place, about=first.through)


def _all_reductions(alignment: Alignment, trial: "_Trial") -> Iterator[Relation]:
    """The means or sums of a line all over other axes, as where a helper takes them."""
    by_axes: dict[tuple[int, ...], dict[int, list[Changed]]] = {}
    for position in trial.region:
        equation = alignment.program.equations[position]
        if equation.name not in LAYOUT:
            for changed in other_reductions(alignment, equation):
                by_axes.setdefault(changed.axes, {}).setdefault(position, []).append(changed)
    for its in by_axes.values():
        changes = {position: changed[0].change for position, changed in its.items()}
        if len(changes) > 1 and trial(changes):
            first = next(iter(its.values()))[0]
            places = {changed[0].number for changed in its.values()}  # of one that several operations take its own
            place = first.number if len(places) == 1 else trial.number
            yield Relation(first.kind, first.text, first.cost, place, first.repairs)


def unknown_above(alignment: Alignment, number: int) -> list[int]:
    """Positions of the equations between right values and this one."""
    positions, todo = set(), [number]
    while todo:
        n = todo.pop()
        if (
            n in alignment.position
            and (n == number or not alignment.known(n))
            and alignment.position[n] not in positions
        ):
            positions.add(alignment.position[n])
            todo += alignment.program.equations[alignment.position[n]].inputs
    return sorted(positions)


def _onwards(alignment: Alignment, positions: set[int], number: int) -> list[int]:
    """These equations, and those through which what they give reaches a value."""
    program, equations = alignment.program, alignment.program.equations
    below = depends_on(program, [n for position in positions for n in equations[position].outputs])
    above = {n for equation in backward_slice(program, [number]).equations for n in equation.outputs}
    return sorted(positions.union(alignment.position[n] for n in below & above))


class _Trial:
    """Carries a region out with one operation changed."""

    def __init__(self, alignment: Alignment, region: list[int], number: int, wanted: np.ndarray, exact: bool):
        self.alignment, self.region, self.number, self.exact = alignment, region, number, exact
        self.factor = 1.0
        matters = alignment.matters(number)
        self.matters = matters if matters.shape == wanted.shape else np.ones(wanted.shape, bool)
        self.wanted = np.where(self.matters, wanted, 0)

    def __call__(self, changes: Mapping[int, Change], arrays: Mapping[int, np.ndarray] = MappingProxyType({})) -> bool:
        """Is what is wanted got, where the operations at these positions are changed, and these values others?"""
        for k, values in enumerate(self.alignment.values):
            changed = {number: array[k] for number, array in arrays.items()}
            try:
                self._run(k, values, changes, changed)
            except (ValueError, IndexError, RuntimeError):  # the shapes of a change need not fit, nor its loops end
                return False
            out = changed.get(self.number)
            if out is None or not self._is_wanted(np.asarray(out), k):
                return False
        return True

    def _run(self, k: int, values: Sequence[Any], changes: Mapping[int, Change], changed: dict[int, Any]) -> None:
        """Adds to what is changed all that comes of it."""
        given, first = set(changed), self.region.index(min(changes)) if changes else 0
        with np.errstate(all="ignore"):
            for p in self.region[first:]:
                equation = self.alignment.program.equations[p]
                operands = [changed.get(i, values[i]) for i in equation.inputs]
                if p in changes:
                    changed[equation.outputs[0]] = changes[p](k, operands)
                elif any(i in changed for i in equation.inputs):
                    outs = zip(equation.outputs, _jaxpr.apply(equation, operands))
                    changed.update((n, out) for n, out in outs if n not in given)

    def outputs(self, position: int, change: Change) -> np.ndarray:
        """What the operation gives with the change, on all probes."""
        inputs = self.alignment.program.equations[position].inputs
        with np.errstate(all="ignore"):
            outs = [change(k, [values[i] for i in inputs]) for k, values in enumerate(self.alignment.values)]
        return np.stack([np.asarray(out) for out in outs])

    def _is_wanted(self, out: np.ndarray, k: int) -> bool:
        matters = self.matters[k]
        if out.shape != matters.shape:
            return False
        given, wanted = np.where(matters, out, 0)[None], self.wanted[k : k + 1]
        if k == 0 and not self.exact:
            self.factor = constant_factor(given, wanted) or np.nan
        return same(given, self.factor * wanted)


def _changes(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
    """What may be wrong with one operation, and the operation as it would be right."""
    program, name = alignment.program, equation.name
    (output,) = equation.outputs[:1]
    shape = program.shapes[output]
    apply = lambda e, operands: _jaxpr.apply(e, operands)[0]
    if name in SIGNS:
        other, index = SIGNS[name], program.dtypes[output] is not None and np.dtype(program.dtypes[output]).kind in "iu"
        yield Changed(
            "wrong-index" if index else "sign",
            f"must {'add' if other == 'add' else 'subtract'} here",
            0.9,
            (lambda k, x: x[0] + x[1] if other == "add" else x[0] - x[1]),
            repairs=(Repair("signs"),),
        )
    if name in COMPARISONS:
        for other, sign in COMPARISONS.items():
            flipped = replace(equation, name=other)
            outcomes = np.concatenate(
                [np.ravel(apply(flipped, x)) for x in zip(*map(alignment.column, equation.inputs))]
            )
            if (
                other != name and outcomes.any() and not outcomes.all()
            ):  # what comes out the same everywhere only takes the mask away
                yield Changed(
                    "missing-mask",
                    f"compares by {COMPARISONS[name]} in place of {sign}",
                    1.1,
                    (lambda k, x, e=flipped: apply(e, x)),
                    repairs=(Repair("compares", sign),),
                )
    if name == "reduce_sum":
        rank = len(program.shapes[equation.inputs[0]])
        for count in range(rank + 1):
            for axes in itertools.combinations(range(rank), count):
                if axes != tuple(equation.params["axes"]) and count == len(equation.params["axes"]):
                    turned = replace(equation, params={**equation.params, "axes": axes})
                    text = f"sums over axis {listed(equation.params['axes'])}, and must sum over axis {listed(axes)}"
                    repairs = (Repair("axes", axes_code(axes)), Repair("letters"))
                    change = lambda k, x, e=turned: apply(e, x)
                    yield Changed("wrong-reduction-axis", text, 0.8, change, repairs=repairs)
    if name == "scatter":
        adding = replace(equation, name="scatter-add")
        indices = alignment.column(equation.inputs[1])[0]
        rows = indices.reshape(-1, indices.shape[-1] if indices.ndim else 1)
        words, kind = "overwrites what is there, and must add to it", "only-some-elements"
        if len(np.unique(rows, axis=0)) < len(rows):
            words, kind = "overwrites where indices are repeated, and must add", "index-collision"
        repairs = (Repair("calls", "add", "set"),)
        yield Changed(kind, words, 0.7, lambda k, x: apply(adding, x), repairs=repairs)
    if name == "dynamic_update_slice":
        words, repairs = "overwrites what is there, and must add to it", (Repair("calls", "add", "set"),)
        change = lambda k, x: x[0] + apply(equation, [np.zeros_like(x[0]), *x[1:]])
        yield Changed("overwritten-not-accumulated", words, 0.7, change, repairs=repairs)
    if name in ("slice", "dynamic_slice"):
        yield from _other_entries(alignment, equation)
    if name == "integer_pow":
        y = equation.params["y"]
        for power in (y - 1, y + 1, -y):
            turned = replace(equation, params={**equation.params, "y": power})
            text = f"has the power {y}, and must have {power}"
            operand = alignment.text(equation.inputs[0])
            by = operand if power == 1 else f"{bracketed(operand, products=True)}**{power}"
            repairs = tuple(Repair("swap", by, code) for code in (f"{operand}**{y}", f"{operand} * {operand}"))
            yield Changed("scale-constant", text, 1.2, lambda k, x, e=turned: apply(e, x), repairs=repairs)
    linear = output in alignment.linear
    if name not in LAYOUT and len(equation.inputs) == 1 and program.shapes[equation.inputs[0]] == shape:
        kind = (
            "not-linear-in-cotangent" if equation.inputs[0] in alignment.linear and name != "neg" else "wrong-operand"
        )
        kind, repairs = ("sign", (Repair("signs"),)) if name == "neg" else (kind, (Repair("calls", "", name),))
        yield Changed(kind, f"must not take the {_word(name)}", 1.3, lambda k, x: x[0], repairs=repairs)
    if name in ("mul", "div", "add", "add_any", "sub"):
        for j, n in enumerate(equation.inputs):
            if program.shapes[equation.inputs[1 - j]] == shape and (
                n not in alignment.linear or name not in ("mul", "div")
            ):
                kind, words = "wrong-operand", f"has the factor {alignment.text(n)} too much"
                if name not in ("mul", "div"):
                    twice = _occurs(alignment, equation.inputs[1 - j], n)
                    kind = "double-count" if twice else "extra-term"
                    term = alignment.text(n)
                    words = f"counts the term {term} twice" if twice else f"has the term {term} too much"
                    if name == "sub" and j == 0:  # and with it the sign
                        kind, words = "wrong-operand", f"must be {alignment.text(equation.inputs[1 - j])}"
                repairs = (Repair("without", code=alignment.text(n)),)
                yield Changed(kind, words, 1.5, lambda k, x, j=j: x[1 - j], repairs=repairs)
    if name == "mul":
        yield from distributed(alignment, equation)
    if name not in LAYOUT:
        yield from other_reductions(alignment, equation)
        yield from other_operands(alignment, equation)
        if not equation.bodies and program.dtypes[output] is not None and np.dtype(program.dtypes[output]).kind in "fc":
            yield from factors(alignment, output, shape, linear)


def _other_entries(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
    """As many entries along an axis, from another one on."""
    whole, sizes = equation.inputs[0], alignment.program.shapes[equation.outputs[0]]
    if any(step != 1 for step in equation.params.get("strides") or ()):
        return
    static = equation.params.get("start_indices")
    in_loop = any(equation.outputs[0] in group for group in alignment.passes)
    for axis, (size, length) in enumerate(zip(sizes, alignment.program.shapes[whole])):
        for start in range(length - size + 1):

            def change(k: int, x: list[Any], axis: int = axis, start: int = start) -> Any:
                starts = [int(s) for s in (static if static is not None else x[1:])]
                starts = [max(0, min(s, n - m)) for s, n, m in zip(starts, x[0].shape, sizes)]
                starts[axis] = start
                return x[0][tuple(slice(s, s + m) for s, m in zip(starts, sizes))]

            its = f"entries {start}:{start + size}" if size > 1 else f"entry {start}"
            words = f"takes other entries of {alignment.text(whole)} than {its}"
            if in_loop:
                words = f"takes entries of {alignment.text(whole)} that are not those of this pass of the loop"
            yield Changed(
                "wrong-index", words + f" along axis {axis}" * (not in_loop), 1.3, change, repairs=(Repair("index"),)
            )


def _occurs(alignment: Alignment, number: int, term: int) -> bool:
    """Is the term among those of a sum?"""
    if same(alignment.column(number), alignment.column(term)):
        return True
    at = alignment.position.get(number)
    e = None if at is None else alignment.program.equations[at]
    return e is not None and e.name in ("add", "add_any") and any(_occurs(alignment, i, term) for i in e.inputs)


def _word(name: str) -> str:
    return {"neg": "negative", "tanh": "tanh", "exp": "exponential", "sqrt": "root", "log": "logarithm"}.get(name, name)
