"""The values of a rule, line by line, each with the reference value that it is.

Of every value of the rule on a few probes it is known whether it is a forward value or a gradient by one (up to layout
and a constant factor), whether a right gradient needs it, and what the gradients become when another value is put in
its place.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import depends_on
from jaxbias._jaxpr.sources import Segment
from jaxbias.symbols.names import Name, names_of
from jaxbias.symbols.passes import passes
from jaxbias.symbols.reference_values import IN_LOOP, ReferenceValue, bracketed, gradient_by
from jaxbias.verify.naming.returned import entries_of_return
from jaxbias.verify.naming.slopes import codes_of

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case

SAME = 1e-8
"""How far two values may differ, relative to the larger one's largest entry, to be one."""

LAYOUT = frozenset((
    "broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "expand_dims", "transpose", "copy", "copy_p",
    "stop_gradient", "optimization_barrier", "loop_index", "rev",
))  # fmt: skip
"""Primitives that only lay values out otherwise."""


OF_LEAF = 0.5
"""Rank of the gradients that a rule returns."""

PICKS = frozenset(("slice", "dynamic_slice", "gather", "squeeze", "split", "select_n", "loop_index"))
"""Primitives whose output may hold some entries of what they take and not others."""


def same(a: np.ndarray, b: np.ndarray, tolerance: float = SAME) -> bool:
    """Equal up to rounding, the first axis being the probes."""
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype == bool:
        return np.array_equal(a, b)
    with np.errstate(all="ignore"):
        size = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
        return bool(np.all((np.abs(a - b) <= tolerance * size + 1e-300) | (a == b)))


def is_right(gradient: np.ndarray, expected: np.ndarray, tolerance: np.ndarray) -> bool:
    """Is it the gradient that is expected, where that is finite?"""
    if gradient.shape != expected.shape:
        return False
    with np.errstate(all="ignore"):
        size = np.max(np.abs(np.where(np.isfinite(expected), expected, 0)), initial=0.0)
        close = np.abs(gradient - expected) <= np.maximum(tolerance, SAME * size)
    return bool(np.all(close | (gradient == expected) | ~np.isfinite(expected)))


def varies(x: np.ndarray) -> bool:
    """Whether its entries are of several sizes; without an entry none is."""
    return x.size > 0 and bool(np.max(np.abs(x)) > np.min(np.abs(x)))


def layouts(x: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """The array on each probe, laid out in this shape: as it is, transposed, or broadcast."""
    own = x.shape[1:]
    if own == shape:
        yield "", x
    if len(own) == len(shape) > 1:
        for order in itertools.permutations(range(len(own))):
            if order != tuple(range(len(own))) and tuple(own[a] for a in order) == shape:
                yield "transposed", x.transpose((0, *(a + 1 for a in order)))
    kept = tuple(n for n in own if n != 1)
    if own != shape and len(kept) <= len(shape):
        for axes in itertools.combinations(range(len(shape)), len(kept)):
            if all(shape[a] == n for a, n in zip(axes, kept)):
                full = [1] * len(shape)
                for a, n in zip(axes, kept):
                    full[a] = n
                laid = x.reshape(x.shape[0], *full)
                yield ("broadcast" if kept != shape else ""), np.broadcast_to(laid, (x.shape[0], *shape))


@dataclass(frozen=True)
class Match:
    """A value of the rule is `factor` times this reference value, laid out otherwise where `layout` says so."""

    value: ReferenceValue
    layout: str = ""
    factor: float | complex | int = 1.0

    @property
    def exact(self) -> bool:
        return self.factor == 1.0

    @property
    def itself(self) -> bool:
        """Is it that value, neither scaled nor laid out otherwise?"""
        return self.exact and not self.layout

    @property
    def cost(self) -> float | int:
        return self.value.rank + (0.0 if self.exact else 0.6 if self.factor == -1 else 2.0) + 0.2 * bool(self.layout)

    def __str__(self) -> str:
        factor = "" if self.exact else "−" if self.factor == -1 else f"{self.factor:.4g} · "
        return f"{factor}{self.value.said}" + (f" ({self.layout})" if self.layout == "transposed" else "")


def _varying(x: np.ndarray) -> np.ndarray:
    """Without the axes along which nothing changes."""
    for axis in range(x.ndim - 1, 0, -1):
        first = np.take(x, [0], axis=axis)
        if x.shape[axis] == 1 or np.array_equal(x, np.broadcast_to(first, x.shape)):
            x = first.reshape(first.shape[:axis] + first.shape[axis + 1 :])
    return x


def _features(x: np.ndarray) -> np.ndarray:
    """Of each probe, two numbers that neither layout nor a constant factor changes.

    How large it is beside the other probes is in the first: of single numbers there is nothing else to tell.
    """
    size = np.abs(x).reshape(x.shape[0], -1)
    largest = size.max(axis=1)
    with np.errstate(all="ignore"):
        first = size.sum(axis=1) / largest + largest / largest.max()
        return np.concatenate([first, (size * size).sum(axis=1) / largest**2])


def usable(x: np.ndarray) -> bool:
    return x.size > 0 and x.dtype.kind in "fiubc" and bool(np.all(np.isfinite(x)) and np.any(x))


class Matcher:
    """Finds the reference value that an array is.

    Attributes:
        values: those that may be found, each once.
        named: all of them, by name and pass.
        parts: of gradients by values that are used more than once, by value.
        masked: forward values with infinities, by which entries are left out of a softmax or a maximum.
    """

    def __init__(self, values: Iterable[ReferenceValue]):
        self.values: list[ReferenceValue] = []
        self.named: dict[tuple[str, int], ReferenceValue] = {}
        self.buckets: dict[tuple[tuple[int, ...], int], list[_Held]] = {}
        self.parts: dict[str, list[ReferenceValue]] = {}
        self.masked: list[ReferenceValue] = []
        for value in sorted(values, key=lambda v: v.rank):
            if value.through_use:
                self.parts.setdefault(value.name, []).append(value)
                continue
            self.named.setdefault((value.name, value.iteration), value)
            x = value.array
            if not value.linear and x.dtype.kind == "f" and np.any(np.isinf(x)) and not np.any(np.isnan(x)):
                self.masked.append(value)
            if usable(value.array):
                x = _varying(np.asarray(value.array, complex if value.array.dtype.kind == "c" else float))
                features, shape = _features(x), value.array.shape
                alike = self._alike(x, features, value.linear)
                equal = [held for held in alike if held.value.array.shape == shape and same(x, held.array)]
                if not equal:
                    self.values.append(value)
                    self.buckets.setdefault(_bucket(x, features), []).append(_Held(value, x, features))
                elif value.through and not equal[0].value.through:  # it is the operand of a function as well
                    self._put(equal[0], replace(equal[0].value, through=value.through))

    def _put(self, held: "_Held", value: ReferenceValue) -> None:
        """In the place of one that is held."""
        self.values[next(k for k, v in enumerate(self.values) if v is held.value)] = value
        bucket = self.buckets[_bucket(held.array, held.features)]
        bucket[next(k for k, other in enumerate(bucket) if other is held)] = held._replace(value=value)

    def _alike(self, x: np.ndarray, features: np.ndarray, linear: bool) -> Iterator["_Held"]:
        """Values held that may be a multiple of this one, laid out otherwise."""
        sizes, number = _bucket(x, features)
        for near in (number - 1, number, number + 1):
            for held in self.buckets.get((sizes, near), ()):
                if held.value.linear == linear and np.all(abs(held.features - features) <= 1e-7 * features):
                    yield held

    def after(self, value: ReferenceValue | None) -> ReferenceValue | None:
        """Of the gradient by the operand of a function, that by its value."""
        return self.named.get((gradient_by(value.through), value.iteration)) if value and value.through else None

    def __call__(self, array: np.ndarray, linear: bool) -> Match | None:
        if not usable(array):
            return None
        x = _varying(np.asarray(array, complex if array.dtype.kind == "c" else float))
        if x.ndim == 1 and not linear and not varies(x):
            return None  # a constant
        matches = []
        for held in self._alike(x, _features(x), linear):
            for layout, z in layouts(held.array, x.shape[1:]):
                at = np.unravel_index(int(np.argmax(np.abs(z))), z.shape)
                factor = x[at] / z[at]
                if same(x, factor * z):
                    near = next((f for f in (1.0, -1.0) if abs(factor - f) < SAME), None)
                    matches.append(Match(held.value, layout, near or factor.item()))
        return min(matches, key=lambda match: match.cost, default=None)


class _Held(NamedTuple):
    value: ReferenceValue
    array: np.ndarray
    features: np.ndarray


def _bucket(x: np.ndarray, features: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Values in other buckets than this one and its neighbours are no multiples of the array."""
    first = float(features[0])  # NaN where the value is zero on the first probe
    return tuple(sorted(x.shape[1:])), round(math.log(first) * 1e6) if math.isfinite(first) else 0


class Alignment:
    """A rule on a few probes of one size, its values matched.

    Args:
        program: the rule's.
        leaves: number of the value that each gradient is; None where the rule gives none.
        cases: the probes, with what is expected.
        values: what the rule's values may be.
        input_names: of the program's inputs.
        n_primals: how many of them are no cotangents.
    """

    def __init__(
        self,
        program: _jaxpr.Program,
        leaves: Sequence[int | None],
        cases: Sequence["Case"],
        values: Sequence[ReferenceValue],
        input_names: Sequence[str],
        n_primals: int,
    ):
        self.program, self.leaves, self.cases = program, list(leaves), cases
        self.expected = [np.stack([case.expected[i] for case in cases]) for i in range(len(leaves))]
        tolerance = lambda case, i: np.broadcast_to(case.tolerance[i], case.expected[i].shape)
        self.tolerance = [np.stack([tolerance(case, i) for case in cases]) for i in range(len(leaves))]
        self.values = [_jaxpr.evaluate(program, case.probe.inputs) for case in cases]
        self.position = {n: k for k, equation in enumerate(program.equations) for n in equation.outputs}
        self.linear = depends_on(program, program.inputs[n_primals:])
        self.constant = set(program.constants)
        for equation in program.equations:
            if self.constant.issuperset(equation.inputs):
                self.constant.update(equation.outputs)
        self.names: dict[int, Name] = names_of(program, in_each_call=True)
        self.of_forward = {s for e in cases[0].program.equations for s in e.segments}  # what both call is right
        float_zero = lambda x: x.dtype.kind in "fc" and x.ndim > 0 and not np.any(x)
        self.zeros = {  # variables that stand for a gradient that is left out
            n
            for n in self.constant & self.names.keys() & self.position.keys()
            if self.names[n].variable and float_zero(np.asarray(self.values[0][n]))
        }
        self.above = {i: self._ancestors(n) for i, n in enumerate(self.leaves) if n is not None}
        self.matcher = Matcher(values)
        self.passes = passes(program)
        self.last_pass = {n: group[-1] for group in self.passes for n in group}
        self.families: dict[str, list[ReferenceValue]] = {}
        for value in values:
            if value.place and not value.through_use:
                self.families.setdefault(value.place, []).append(value)
        self.mended: set[int] = set()
        self._committed: set[int] = set()
        self._ways_down: dict[tuple[frozenset[int], frozenset[int]], list[_jaxpr.Equation]] = {}
        self.matches: dict[int, Match] = {}
        for number, name in zip(program.inputs, input_names):
            array = self.column(number)
            if array.dtype.kind in "fiubc":
                self.matches[number] = Match(ReferenceValue(name, array, number in self.linear, 0))
        self._match(n for n in self.position)
        self.own: dict[str, Name] = {}
        for n, name in self.names.items():
            match = self.matches.get(n)
            if match is not None and match.itself:
                known = self.own.get(match.value.name)
                shorter = name.variable or len(name.text) < len(match.value.name)
                if shorter and (known is None or name.rank < known.rank):
                    self.own[match.value.name] = name
        self.right = {i for i in range(len(leaves)) if self.is_right(i, self.gradient(i))}
        self._above_right = set().union(*(self.above[i] for i in self.right if i in self.above and self._tells(i)))
        for n, name in self.names.items():  # what a variable is computed from that is a gradient is right
            match = self.matches.get(n)
            exact = match is not None and match.itself and match.value.rank < IN_LOOP
            if exact and match is not None and match.value.rank == OF_LEAF:  # what that gradient is computed from
                its = (above for i, above in self.above.items() if same(self.expected[i], match.value.array))
                exact = any(n in above for above in its)
            if name.variable and exact and n in self.linear and n in self.position:
                equation = program.equations[self.position[n]]
                self._above_right.update(*map(self._ancestors, () if equation.name in LAYOUT else equation.inputs))
        picks = [e.inputs[0] for e in program.equations if e.name in PICKS and e.inputs[0] in self.linear]
        self._picked_from = set().union(*map(self._ancestors, picks))
        self._feeds: dict[int, bool] = {}

    def feeds_right(self, number: int) -> bool:
        """Does a gradient that is right, and that nothing was replaced for, need the value?

        What it is computed from, it needs; but where only some entries of a value are picked, others may be wrong.
        """
        if number not in self._above_right or number not in self._picked_from:
            return number in self._above_right
        if number not in self._feeds:
            x = self.column(number)
            leaves = [i for i in self.right if number in self.above.get(i, ())]
            self._feeds[number] = number not in self.position or not self.right_after(
                {number: x + (1 + np.abs(x)) * 0.5}, leaves
            ).issuperset(leaves)
        return self._feeds[number]

    def _tells(self, i: int) -> bool:
        return bool(np.any(np.abs(self.expected[i]) > self.tolerance[i]))

    def _ancestors(self, number: int, ends: Set[int] = frozenset()) -> set[int]:
        """The value and what it is computed from; not what these are."""
        ancestors, todo = set(), [number]
        while todo:
            n = todo.pop()
            if n not in ancestors:
                ancestors.add(n)
                if n in self.position and n not in ends:
                    todo += self.program.equations[self.position[n]].inputs
        return ancestors

    def source(self, number: int) -> int:
        """The value that is handed on by another name."""
        while number in self.position and (equation := self.program.equations[self.position[number]]).name == "copy":
            (number,) = equation.inputs
        return number

    def place(self, number: int) -> int:
        """Position of the equation that computes a value; of what comes in, of the one that takes it first."""
        users = (k for k, equation in enumerate(self.program.equations) if number in equation.inputs)
        return self.position[number] if number in self.position else next(users, len(self.program.equations))

    def column(self, number: int) -> np.ndarray:
        """A value on all probes, which are the first axis."""
        return np.stack([np.asarray(values[number]) for values in self.values])

    def gradient(self, i: int) -> np.ndarray:
        number = self.leaves[i]
        return np.zeros_like(self.expected[i]) if number is None else self.column(number)

    def is_right(self, i: int, gradient: np.ndarray, probes: slice = slice(None)) -> bool:
        """Is it gradient i, on all probes or on some of them?"""
        return is_right(gradient, self.expected[i][probes], self.tolerance[i][probes])

    def _match(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.matches.pop(number, None)
            array = self.column(number)
            if array[0].size <= 50_000 and (match := self.matcher(array, number in self.linear)) is not None:
                self.matches[number] = match

    def known(self, number: int) -> bool:
        """Is the value certainly right: an argument, a constant, a reference value, or what a right gradient needs?"""
        if number not in self.position or number in self.constant or number in self.mended:
            return True
        match = self.matches.get(number)
        if (match is not None and (match.exact or number not in self.linear)) or self.feeds_right(number):
            return True
        equation = self.program.equations[self.position[number]]
        put_together = equation.name == "loop_stack" and number not in self.linear
        return (equation.name in LAYOUT or put_together) and all(map(self.known, equation.inputs))

    def is_part(self, number: int) -> bool:
        """Is the value what comes to a gradient through one use of a value of the forward, up to a sign?"""
        x = self.column(number)
        parts = [part.array for its in self.matcher.parts.values() for part in its]
        return any(same(x, sign * part) for part in parts if np.any(part) for sign in (1, -1))

    def own_name(self, value: ReferenceValue) -> str:
        """What the rule itself calls a reference value; its reference name where it has no shorter one for it."""
        if value.name not in self.own and value.of in self.own:
            return value.form.format(bracketed(self.own[value.of].text))
        return self.own[value.name].text if value.name in self.own else value.said

    @functools.cached_property
    def entries(self) -> dict[Segment, int]:
        """Where the rule returns its gradients, with the values that it returns there."""
        pieces = entries_of_return(self.program, self.leaves)
        return {piece: number for piece, number in zip(pieces, self.leaves) if number is not None}

    @functools.cached_property
    def codes(self) -> list[tuple[str, float]]:
        """What the forward computes, and slopes of that, as code in the rule's names, with how far-fetched each is."""
        return codes_of(self)

    def text(self, number: int) -> str:
        """How to write a value of the rule: its variable, what it is, its code."""
        name = self.names.get(number) or self.names.get(self.last_pass.get(number, number))
        if name is not None and name.variable:
            return name.text
        if number in self.program.constants:
            held = np.asarray(self.program.constants[number])
            return f"{held:.4g}" if held.ndim == 0 and held.dtype.kind in "fiu" else "a constant"
        match = self.matches.get(number)
        if number not in self.position and match is not None:
            return match.value.said
        if name is not None:
            return name.text
        equation = self.program.equations[self.position[number]]
        if equation.name in LAYOUT and equation.inputs:
            return self.text(equation.inputs[0])
        return str(match) if match is not None else equation.segments[0].text if equation.segments else equation.name

    def matters(self, number: int) -> np.ndarray:
        """The elements of a value that what takes it does not multiply by zero or leave out."""
        every = np.ones_like(self.column(number), bool)
        for equation in self.program.equations[self.position.get(number, len(self.position)) + 1 :]:
            if number not in equation.inputs:
                continue
            others = [n for n in equation.inputs if n != number]
            if equation.name == "mul" and len(others) == 1 and others[0] not in self.linear:
                return self.column(others[0]) != 0
            if equation.name == "select_n" and equation.inputs[0] != number:
                return self.column(equation.inputs[0]) == equation.inputs.index(number) - 1
            if equation.name not in LAYOUT and equation.name not in ("add", "add_any", "sub", "neg"):
                break
            number = equation.outputs[0]
        return every

    def right_after(self, changes: Mapping[int, np.ndarray], leaves: Iterable[int]) -> frozenset[int]:
        """Which of these gradients are right where other values, the probes along their first axis, stand in the
        place of some."""
        left = list(leaves)
        below = self._below(frozenset(changes), frozenset(left))
        for k in range(len(self.cases)):
            if not left:
                break
            changed = self._changed(k, changes, below)
            at = lambda i, k=k, changed=changed: np.asarray(changed.get(self.leaves[i], self.values[k][self.leaves[i]]))
            left = [i for i in left if self.is_right(i, at(i)[None], slice(k, k + 1))]
        return frozenset(left)

    def _below(self, numbers: frozenset[int], leaves: frozenset[int]) -> list[_jaxpr.Equation]:
        """Equations through which these values reach these gradients, but for what was put in the place of others."""
        if (numbers, leaves) not in self._ways_down:
            needed, changed, below = set().union(*(self.above[i] for i in leaves)), set(numbers), []
            for equation in self.program.equations:
                outputs = needed.intersection(equation.outputs) - self._committed - numbers
                if outputs and not changed.isdisjoint(equation.inputs):
                    changed |= outputs
                    below.append(equation)
            self._ways_down[numbers, leaves] = below
        return self._ways_down[numbers, leaves]

    def _changed(self, k: int, changes: Mapping[int, np.ndarray], below: Sequence[_jaxpr.Equation]) -> dict[int, Any]:
        values, changed = self.values[k], {number: array[k] for number, array in changes.items()}
        with np.errstate(all="ignore"):
            for equation in below:
                outs = _jaxpr.apply(equation, [changed[i] if i in changed else values[i] for i in equation.inputs])
                for number, out in zip(equation.outputs, outs):
                    if number not in changes and number not in self._committed:
                        changed[number] = out
        return changed

    def commit(self, changes: Mapping[int, np.ndarray]) -> None:
        """From here on the rule runs with these values; what depends on them is matched again."""
        touched: set[int] = set()
        below = self._below(frozenset(changes), frozenset(self.above))
        for k in range(len(self.cases)):
            changed = self._changed(k, changes, below)
            touched.update(changed)
            for number, value in changed.items():
                self.values[k][number] = value
        self._committed |= changes.keys() & self.position.keys()
        self._ways_down.clear()
        self.mended.update(changes)
        self._match(n for n in touched if n in self.position)
        self._feeds.clear()
        now = {i for i in range(len(self.leaves)) if self.is_right(i, self.gradient(i))}
        for i in now - self.right:
            if (number := self.leaves[i]) is not None:  # what was put in its place says nothing of what it was made of
                self._above_right |= self._ancestors(number, self.mended)
        self.right |= now

    def unknown_above(self, number: int) -> list[int]:
        """Positions of the equations between right values and this one."""
        positions, todo = set(), [number]
        while todo:
            n = todo.pop()
            if n in self.position and (n == number or not self.known(n)) and self.position[n] not in positions:
                positions.add(self.position[n])
                todo += self.program.equations[self.position[n]].inputs
        return sorted(positions)


def addends(alignment: Alignment, number: int, sign: float = 1.0, within: int = -1) -> Iterator[tuple[int, float]]:
    """Values that are added up to this one, with their signs; as one, what an earlier pass of the same code has added
    up, if it is `within` a value."""
    at = alignment.position.get(number)
    e = None if at is None else alignment.program.equations[at]
    group = alignment.last_pass.get(number)
    if e is None or (number != within and group is not None and group == alignment.last_pass.get(within)):
        yield number, sign
    elif e.name in ("add", "add_any", "sub"):
        yield from addends(alignment, e.inputs[0], sign, within)
        yield from addends(alignment, e.inputs[1], -sign if e.name == "sub" else sign, within)
    elif e.name == "neg":
        yield from addends(alignment, e.inputs[0], -sign, within)
    else:
        yield number, sign
