"""Which small changes of a line give what is wanted there: each is carried out on the values that its names have."""

import ast
import contextlib
import functools
import itertools
import re
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy
import numpy as np

from jaxbias._jaxpr.sources import Segment
from jaxbias.symbols.names import targets
from jaxbias.verify.naming.alignment import Alignment, same
from jaxbias.verify.naming.code import names_in, names_within, put, source_of, value_of
from jaxbias.verify.naming.constants import close
from jaxbias.verify.naming.difference import Relation, constant_factor
from jaxbias.verify.naming.pieces import functions_beside, outwards, parts_around, piece_of
from jaxbias.verify.naming.scopes import Names, Site, Visit, in_numpy
from jaxbias.verify.naming.slips import Slip
from jaxbias.verify.naming.variants import HOLE, Named, Variant, Variants, condition_with

if TYPE_CHECKING:
    from jaxbias.verify.checker import Checker

MOST_ENTRIES = 20_000
"""Of a value that is tried on."""

OUTSIDE = 0.1
"""What a change further out costs more."""

MOST_TIMES = 6
"""That the rule comes to a line in a loop, at which two changes of it are told apart."""

OF_LINE = 0.04
"""Share of the time for a check, for the changes of one line."""


@dataclass(frozen=True)
class Fit:
    """A changed line that gives what is wanted."""

    segment: Segment
    code: str
    variant: Variant

    @property
    def relation(self) -> Relation:
        v = self.variant
        return Relation(v.kind, v.words, v.cost, about=v.about, by_change=True)

    @property
    def of_the_whole(self) -> bool:
        """Is the whole expression changed, and not a part?"""
        return source_of(self.segment.text, self.variant.node) == self.segment.text

    def likelier(self, by: float) -> "Fit":
        return replace(self, variant=self.variant._replace(cost=self.variant.cost - by))


def fits(
    checker: "Checker",
    alignment: Alignment,
    slip: Slip,
    segments: Sequence[Segment],
    made: Sequence[tuple[Segment, str]],
) -> list[Fit]:
    """Changes of these pieces of code, in each of which the wrong value is computed; the likeliest first."""
    fitting: list[Fit] = []
    for further_out, segment in enumerate(segments):
        line = Line.at(checker, alignment, slip, segment, made)
        if line is not None:
            for v in line.fitting(time.process_time() + OF_LINE * checker.seconds):
                v = line.as_slope(alignment, v._replace(cost=v.cost + OUTSIDE * (further_out + line.outside(v))))
                fitting.append(line.fit(v))
    fitting.sort(key=lambda fit: fit.variant.cost)
    return fitting


def statement_of(segment: Segment) -> Segment | None:
    """The whole expression of the statement that a piece of code stands in; of a tuple or a list, the entry."""
    its = ((piece, value_of(piece.text)[1]) for piece, _, _ in _expressions(segment))
    return next(
        (piece for piece, tree in its if not (isinstance(tree, ast.Tuple | ast.List) or _adds_entry(tree))), None
    )


def _adds_entry(tree: ast.expr | None) -> bool:
    """Is it the call that puts an entry into a list?"""
    function = tree.func if isinstance(tree, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr in ("append", "insert", "extend")


class Wanted(NamedTuple):
    """What a statement's expression must give on each probe, and which time it is that the rule comes there."""

    values: np.ndarray
    turn: int


def wanted_of(alignment: Alignment, slip: Slip, statement: Segment) -> Wanted | None:
    """None where that is not known."""
    number = value_computed_by(alignment, statement, slip.number)
    wanted = None if number is None else _wanted(alignment, slip, number)
    if number is None or wanted is None:
        return None
    group = next((group for group in alignment.passes if number in group), (number,))
    return Wanted(wanted, group.index(number))


def _numpy_of(names: Names) -> tuple[str, Names]:
    """What `jax.numpy` is called there, and that module under the name by which changes call it."""
    called = [name for name, its in names.items() if getattr(its, "module", None) is jax.numpy]
    return ("jnp", {}) if "jnp" in called or not called else (called[0], {"jnp": names[called[0]]})


OF_AN_ENTRY = 0.45
"""What a row or a column costs more."""

OF_THE_FUNCTION = 0.3
"""What an expression costs more that stands elsewhere in the function."""


class Line:
    """An expression, the names that stand there, and what it must give.

    Attributes:
        rows: names on every probe, each with what is wanted there.
        elsewhere: names on the first probe at other times that the rule comes there.
    """

    def __init__(
        self,
        alignment: Alignment,
        segment: Segment,
        tree: ast.expr,
        before: str,
        visit: Visit,
        wanted: Sequence[np.ndarray],
        elsewhere: Sequence[Names] = (),
    ):
        self.segment, self.text, self.tree, self.before = segment, segment.text, tree, before
        self.numpy, named = _numpy_of(visit.names[0])
        self.rows: list[tuple[Names, np.ndarray]] = list(zip([its | named for its in visit.names], wanted))
        self.elsewhere = [its | named for its in elsewhere]
        self.local, self.inside = visit.local, segment
        self.codes, self.numbers = (
            _in_terms_of(alignment.codes, self._called_otherwise(alignment)),
            _numbers(alignment),
        )

    @classmethod
    def of(cls, alignment: Alignment, segment: Segment, visits: Sequence[Visit]) -> "Line | None":
        """The expression of a statement, of which it is not known what it must give: what it gives the last time."""
        tree, visit = value_of(segment.text)[1], visits[-1]
        given = [evaluated(segment.text, names) for names in visit.names]
        if tree is None or any(value is None for value in given):
            return None
        among = len(visits) - 1  # a few, the first and the last among them
        others = [visits[k].names[0] for k in sorted({k * among // MOST_TIMES for k in range(MOST_TIMES)}) if k < among]
        return cls(alignment, segment, tree, "", visit, [*map(np.asarray, given)], others)

    @classmethod
    def at(
        cls,
        checker: "Checker",
        alignment: Alignment,
        slip: Slip,
        segment: Segment,
        made: Sequence[tuple[Segment, str]],
    ) -> "Line | None":
        """The whole expression of its statement; None where the names there cannot be told."""
        for piece, of_value, before in _expressions(segment):
            tree = value_of(piece.text)[1]
            number = value_computed_by(alignment, of_value, slip.number)
            if tree is None or number is None or alignment.column(number)[0].size > MOST_ENTRIES:
                continue
            wanted = _wanted(alignment, slip, number)
            if wanted is None:
                continue
            try:
                visits = Site(checker, [piece], made, alignment.cases).visits(0)
            except Exception:
                return None
            given = alignment.column(number)
            for visit in visits:
                rows = by_row(given, visit)
                line = cls(alignment, piece, tree, before, visit, by_row(wanted, visit))
                if rows and is_close(line.result(line.text, visit.names[0]), rows[0]):
                    line.inside = segment
                    return line
        return None

    def _called_otherwise(self, alignment: Alignment) -> dict[str, str]:
        """Arguments of the forward that have another name here, with that."""
        names = self.rows[0][0] if self.rows else {}
        own: dict[str, str] = {}
        for number in alignment.program.inputs:
            match, x = alignment.matches.get(number), np.asarray(alignment.values[0][number])
            if match is not None and match.value.name.isidentifier() and match.value.name not in names and x.ndim:
                held = (n for n in self.local if isinstance(y := names.get(n), np.ndarray) and np.array_equal(x, y))
                own[match.value.name] = next(held, match.value.name)
        return own

    def fit(self, variant: Variant) -> Fit:
        """The change in the names that the user's module has for those of JAX."""
        own = lambda code: re.sub(r"\bjnp\.", f"{self.numpy}.", code)
        variant = variant._replace(by=own(variant.by), words=own(variant.words))
        variable, *others = targets(self.segment) or ("",)
        if variable and not others and variant.node is self.tree and variant.by == f"{self.text} + {variable}":
            words = f"overwrites {variable}, and must add to it"
            variant = variant._replace(kind="overwritten-not-accumulated", words=words)
        return Fit(self.segment, put(self.text, variant.node, variant.by), variant)

    def outside(self, variant: Variant) -> bool:
        """Does it change another part of the statement than the one whose value is wrong?"""
        return self.inside.text not in (part := ast.get_source_segment(self.text, variant.node) or "") and (
            part not in self.inside.text
        )

    def result(self, code: str, names: Names) -> Any:
        """What the whole comes to with this code in the place of the expression; None where that makes no sense."""
        return evaluated(self.before + code, names)

    def fitting(self, deadline: float) -> Iterator[Variant]:
        names, wanted = self.rows[0]
        seen: set[tuple[str, str]] = set()
        with np.errstate(all="ignore"):
            for variant in self._variants(names, wanted, deadline):
                code = put(self.text, variant.node, variant.by)
                if (said := (code, variant.kind)) not in seen and code != self.text:
                    seen.add(said)
                    if all(is_close(self.result(code, its), x) for its, x in self.rows) and self._decides(variant):
                        yield variant

    def _decides(self, variant: Variant) -> bool:
        """Has a condition that is changed both outcomes? With one of them it only takes a mask away."""
        condition = condition_with(self.text, self.tree, variant)
        outcomes = [evaluated(condition, names) for names, _ in self.rows] if condition else []
        held = [np.ravel(x) for x in outcomes if x is not None]
        return not held or np.unique(np.concatenate(held)).size > 1

    def changes(self, deadline: float) -> Iterator[tuple[Variant, np.ndarray]]:
        """Those of its form, of single values, and of products of the whole or of a term with another value, that give
        another value on the first probe, and that value."""
        names, given = self.rows[0]
        form, there = self._form(names), dict(names)
        seen, values = {self.text}, _Values(lambda code: (self.result(code, its) for its in self.elsewhere))
        values.holds(self.text, given)
        fitting: list[tuple[Variant, Any]] = [(variant, None) for variant in form.of_form()]
        named = [its for its in self._named(names) if its.cost < 0.45]
        near = [its for its in named if its.cost < 0.4]
        for node in [*form.parts, *form.constants]:
            value = evaluated(form.code(node), names)
            if value is not None and type(value) not in (bool, complex):
                fitting += form.swapped(node, value, near)
                if node is self.tree or id(node) in form.terms:
                    fitting += form.combined(node, value, named)
        fitting += [(variant, None) for _, variant, _ in form.everywhere([its for its in near if np.ndim(its.value)])]
        for variant, other in sorted(fitting, key=lambda its: its[0].cost):
            code = put(self.text, variant.node, variant.by)
            if code in seen or time.process_time() > deadline:
                continue
            seen.add(code)
            there[HOLE] = other
            holed = code if other is None else put(self.text, variant.node, HOLE)
            with np.errstate(all="ignore"):
                value = self.result(holed, there)
                # of what comes to the same, the first is meant
                if value is not None and not values.holds(code, value):
                    yield variant, np.asarray(value)

    def _variants(self, names: Names, wanted: np.ndarray, deadline: float) -> Iterator[Variant]:
        """Those that are right on the first probe."""
        form = self._form(names)
        for variant in form.of_form():
            if time.process_time() > deadline:
                return
            if is_close(self.result(put(self.text, variant.node, variant.by), names), wanted):
                yield variant
        named = [*self._named(names)]
        there = dict(names)

        def right(holed: str, other: Any) -> bool:
            """Is what is wanted got with another value in the hole?"""
            there[HOLE] = other
            return is_close(evaluated(compiled(self.before + holed), there), wanted)

        holes = {id(node): put(self.text, node, HOLE) for node in [*form.parts, *form.constants]}
        arrays = [its for its in named if np.ndim(its.value)]
        for variant, other in itertools.chain(form.of_products(arrays), form.distributed(arrays)):
            if time.process_time() > deadline:
                return
            if right(holes[id(variant.node)], other):
                yield variant
        for holed, variant, other in form.everywhere(arrays):
            if time.process_time() > deadline:
                return
            if right(holed, other):
                yield variant
        yield from self._terms(form, names, wanted, named)
        parts = [(node, evaluated(form.code(node), names)) for node in [*form.parts, *form.constants]]
        parts = [(node, x) for node, x in parts if x is not None and type(x) not in (bool, complex)]
        variables = [its for its in named if its.code.isidentifier()]
        others = [its for its in named if not its.code.isidentifier()]
        for (node, value), those in itertools.chain(
            itertools.product(parts, [variables]), itertools.product(parts, [others])
        ):
            for variant, other in itertools.chain(form.swapped(node, value, those), form.combined(node, value, those)):
                if time.process_time() > deadline:
                    return
                if right(holes[id(node)], other):
                    yield variant

    def _terms(self, form: Variants, names: Names, wanted: np.ndarray, named: Sequence[Named]) -> Iterator[Variant]:
        """A term that the whole lacks, the product of two values or of three, over a size."""
        given = self.result(self.text, names)
        if self.before or given is None or np.shape(given) != wanted.shape or wanted.dtype == bool:
            return
        lacking, size = wanted - given, np.max(np.abs(wanted - given))
        if constant_factor(np.asarray(given)[None], wanted[None]) is not None:
            return  # it lacks a factor
        usable = lambda its: (its.code.isidentifier() and its.cost < 0.2) or its.code.endswith("]")
        arrays = [its for its in named if isinstance(its.value, np.ndarray) and usable(its)]
        sizes = {its.value: its.code for its in named[::-1] if isinstance(its.value, int) and its.value > 1}
        for code, product in _products(arrays):
            if product.shape != lacking.shape or not np.any(product):
                continue
            factor = np.vdot(product, lacking) / np.vdot(product, product)
            if np.iscomplexobj(factor) or not np.all(np.abs(factor * product - lacking) <= 1e-8 * size):
                continue
            for count, of in [(1, ""), *sizes.items()]:
                near = next((f for f in (1.0, 2.0, 0.5, 3.0, 0.25, 4.0) if close(abs(factor) * count, f)), 0.0)
                if near:
                    term = ("" if near == 1 else f"{near:g} * ") + code + (f" / {of}" if of else "")
                    sign, said = ("+", "") if factor > 0 else ("-", "−")
                    by = f"{self.text} {sign} {term}"
                    yield form.make("term", "missing-term", self.tree, by, f"lacks the term {said}{term}", 0.1)
                    break

    def _entries(self, names: Names) -> Iterator[Named]:
        """Rows and columns of the function's arrays that its counters tell."""
        arrays = [(name, x) for name in self.local if isinstance(x := names.get(name), np.ndarray)]
        for k, (name, x) in itertools.product(self._counters(names), arrays):
            for axis, index in enumerate((f"[{k}]", f"[:, {k}]")[: x.ndim]):
                if 0 <= names[k] < x.shape[axis] and x.dtype.kind in "fc":
                    yield Named(f"{name}{index}", np.take(x, names[k], axis), OF_AN_ENTRY)

    def _counters(self, names: Names) -> list[str]:
        return [n for n in self.local if isinstance(names.get(n), int) and not isinstance(names.get(n), bool)][:4]

    def _addends(self, code: str, names: Names) -> Iterator[tuple[str, Any]]:
        tree = value_of(code)[1]
        if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
            for side in (tree.left, tree.right):
                its = ast.get_source_segment(code, side) or ""
                if (value := evaluated(its, names)) is not None:
                    yield its, value

    def as_slope(self, alignment: Alignment, variant: Variant) -> Variant:
        """With the name of a slope, where what is put in is what stood there times one."""
        part = ast.get_source_segment(self.text, variant.node) or ""
        if variant.kind != "wrong-operand" or self.before:
            return variant
        columns = [[evaluated(code, names) for names, _ in self.rows] for code in (part, variant.by)]
        if any(x is None or np.shape(x) != np.shape(columns[0][0]) for column in columns for x in column):
            return variant
        now, wanted = (np.stack([np.asarray(x) for x in column]) for column in columns)
        match = alignment.matcher(wanted, True) if len(now) == len(alignment.cases) and now.ndim > 1 else None
        after = alignment.matcher.after(match.value) if match is not None and match.exact else None
        if match is None or after is None or not same(now, after.array):
            return variant
        words = f"takes {part} without the slope of {match.value.through}"
        return variant._replace(kind="missing-activation-derivative", words=words, about=after.name)

    def _form(self, names: Names) -> Variants:
        modules = {n for n, its in names.items() if isinstance(getattr(its, "module", its), types.ModuleType)}
        value_of = lambda code: evaluated(code, names)
        own = ((n, getattr(getattr(names.get(n), "function", None), "__name__", "")) for n in names_in(self.text))
        aliases = {n: defined for n, defined in own if defined}
        called = functions_beside(self.segment)
        functions = [n for n in called if isinstance(getattr(names.get(n), "function", None), types.FunctionType)]
        return Variants(
            self.text, self.tree, self._counters(names), self.numbers, value_of, modules, aliases, functions
        )

    def _named(self, names: Names) -> Iterator[Named]:
        """Values in scope, and what the forward computes of these."""
        used = names_within(self.tree)
        outside = [n for n, x in names.items() if n not in self.local and (n in used or (n.isupper() and len(n) > 1))]
        held: list[Named] = []
        for name in (*self.local, *outside):
            held += _parts(name, names.get(name), 0.0 if name in self.local else 0.2)
        yield from held
        for its in held:
            for axis, size in enumerate(np.shape(its.value) if its.code.isidentifier() else ()):
                yield Named(f"{its.code}.shape[{axis}]", size, 0.4)
            if isinstance(its.value, np.ndarray) and its.code.isidentifier():
                if {0.0, 1.0}.issuperset(np.unique(its.value).tolist()):
                    yield Named(f"{its.code}.sum()", its.value.sum(), 0.4)
                yield Named(f"{its.code}.size", its.value.size, 0.45)
        for number in self.numbers:
            yield Named(f"{number:.12g}", number, 0.3)
        yield from self._entries(names)
        held_codes = {its.code for its in held}
        for code in parts_around(self.segment):
            if code not in held_codes and (value := evaluated(code, names)) is not None:
                yield Named(code, value, OF_THE_FUNCTION)
        yield from _jacobians(held)
        codes = {its.code for its in held}
        for code, cost in self.codes:
            if code not in codes and (value := evaluated(code, names)) is not None:
                yield Named(code, value, cost, tuple(self._addends(code, names)))
        for its in held:
            if isinstance(its.value, np.ndarray) and its.value.dtype.kind == "f" and its.value.ndim:
                x, code = its.value, its.code
                for form, other in (
                    ("1 - {}", 1 - x),
                    ("1 - {0}**2", 1 - x**2),
                    ("{0} * (1 - {0})", x * (1 - x)),
                    ("{}**2", x**2),
                    ("{} > 0", 1.0 * (x > 0)),
                    ("jnp.sign({})", np.sign(x)),
                ):
                    yield Named(form.format(code), other, its.cost + 0.1)


def _parts(name: str, value: Any, cost: float) -> Iterator[Named]:
    """A variable's value; of a tuple, a named tuple or a dictionary those of its entries."""
    if isinstance(value, np.ndarray | np.generic | int | float) and not isinstance(value, bool):
        if np.asarray(value).dtype.kind in "fiubc" and np.size(value) <= MOST_ENTRIES:
            value = value.astype(float) if isinstance(value, np.ndarray) and value.dtype.kind == "b" else value
            yield Named(name, value, cost)
    elif isinstance(value, dict) and len(value) <= 12:
        for key, its in value.items():
            yield from _parts(f"{name}[{key!r}]", its, cost + 0.1)
    elif isinstance(value, tuple) and len(value) <= 12:
        fields = getattr(value, "_fields", None)
        for k, its in enumerate(value):
            yield from _parts(f"{name}.{fields[k]}" if fields else f"{name}[{k}]", its, cost + (0.1 if fields else 0.4))


MOST_FACTORS = 16
"""From which products of three are made."""


def _products(arrays: Sequence[Named]) -> Iterator[tuple[str, np.ndarray]]:
    """Of two or three values, entry by entry, and of two matrices."""
    pairs = itertools.combinations_with_replacement(arrays, 2)
    for its in itertools.chain(pairs, itertools.combinations(arrays[:MOST_FACTORS], 3)):
        with contextlib.suppress(ValueError):  # shapes that do not go together
            yield " * ".join(value.code for value in its), functools.reduce(np.multiply, [value.value for value in its])
    for a, b in itertools.product([its for its in arrays if its.value.ndim == 2], repeat=2):
        for (left, x), (right, y) in itertools.product(
            (("", a.value), (".T", a.value.T)), (("", b.value), (".T", b.value.T))
        ):
            if x.shape[1] == y.shape[0]:
                yield f"{a.code}{left} @ {b.code}{right}", np.asarray(x @ y)


class _Values:
    """Codes that differ in what they give, here or elsewhere, where it is looked at for those that agree here.

    Args:
        elsewhere: code → what it gives at other times.
    """

    def __init__(self, elsewhere: Callable[[str], Iterator[Any]]):
        self.elsewhere = elsewhere
        self.alike: dict[bytes, tuple[str, set[bytes]]] = {}

    def holds(self, code: str, value: Any) -> bool:
        """Does a code before give the same? From now on this one is among them."""
        first, others = self.alike.setdefault(_digits(value), (code, set()))
        if first == code:
            return False
        there = lambda code: b"".join(map(_digits, self.elsewhere(code)))
        if not others:
            others.add(there(first))
        known = len(others)
        others.add(there(code))
        return len(others) == known


def _jacobians(held: Sequence[Named]) -> Iterator[Named]:
    """What a softmax hands back of what comes to it."""
    arrays = [its for its in held if isinstance(its.value, np.ndarray) and its.value.dtype.kind == "f"]
    for its in arrays:
        p = its.value
        for axis in {0, p.ndim - 1} if p.ndim and np.all(p >= 0) else ():
            if p.shape[axis] > 1 and np.allclose(p.sum(axis=axis), 1):
                for other in arrays:
                    g, at = other.value, axis if axis == 0 < p.ndim - 1 else -1
                    if g.shape == p.shape and g is not p:
                        with np.errstate(all="ignore"):
                            given, diagonal = p * g, p * (1 - p) * g
                            value = given - p * given.sum(axis=at, keepdims=True)
                        code = f"{its.code} * ({other.code} - ({its.code} * {other.code}).sum({at}, keepdims=True))"
                        terms = (
                            (f"{its.code} * {other.code}", given),
                            (f"−{its.code} * ({its.code} * {other.code}).sum({at})", None),
                        )
                        of = its.code, other.code
                        yield Named(code, value, 0.2, terms, of)
                        rest = (f"−{its.code} · ({its.code} · {other.code}) of the other entries", None)
                        yield Named(code, value, 0.2, (("", diagonal), rest), of)


def _in_terms_of(codes: list[tuple[str, float]], own: Mapping[str, str]) -> list[tuple[str, float]]:
    """With other names of variables."""
    if not own:
        return codes
    name = re.compile(rf"(?<![\w.])({'|'.join(own)})(?!\w)")
    return [(name.sub(lambda its: own[its[1]], code), cost) for code, cost in codes]


def _numbers(alignment: Alignment) -> list[float]:
    """Numbers that stand in the forward."""
    held = [np.asarray(x) for x in alignment.cases[0].program.constants.values()]
    return sorted(
        {float(x) for x in held if x.ndim == 0 and x.dtype.kind == "f" and abs(x) not in (0, 1) and np.isfinite(x)}
    )[:12]


def _digits(x: Any) -> bytes:
    """Equal for values that rounding alone tells apart."""
    x = np.asarray(np.nan if x is None else x, complex)
    with np.errstate(all="ignore"):
        size = np.max(np.abs(x), initial=0.0)
        return np.round(x / (size or 1.0), 9).tobytes() + f"{x.shape} {size:.8g}".encode()


def _array(x: Any) -> Any:
    """An array or a number; None of anything else."""
    x = in_numpy(x) if hasattr(x, "dtype") else x
    return x if isinstance(x, np.ndarray | np.generic | int | float | complex) else None


def evaluated(code: str | types.CodeType, names: Names) -> Any:
    """An array or a number; None where the code gives none, or makes no sense there."""
    try:
        with np.errstate(all="ignore"):
            return _array(eval(compiled(code) if isinstance(code, str) else code, names))
    except Exception:  # what a change may raise is anything
        return None


def carried_out(fit: Fit) -> Callable[[Names], Any]:
    """The changed line as a function of what its names hold."""
    code = compiled(fit.code)
    return lambda names: eval(code, names)


@functools.lru_cache(20_000)
def compiled(code: str) -> types.CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of a change that makes no sense
        return compile(code, "<changed>", "eval")


def is_close(given: Any, wanted: np.ndarray) -> bool:
    if given is None:
        return False
    given = np.asarray(given)
    if given.shape != wanted.shape or given.dtype.kind not in "fiubc":
        return False
    return same(given[None], wanted[None])


def by_row(x: np.ndarray, visit: Visit) -> list[np.ndarray]:
    """A value of the program on each probe, of a function under `vmap` in each of its examples."""
    if not visit.examples:
        return list(x)
    if x.ndim < 2 or x.shape[1] != visit.examples:
        return []
    return [row for probe in x for row in probe]


def value_computed_by(alignment: Alignment, segment: Segment, number: int | None = None) -> int | None:
    """What a piece of code gives the time that it computes a value; without one, the last time."""
    equations = alignment.program.equations
    places = [k for k, e in enumerate(equations) if segment in e.segments]
    last = equations[places[-1]].outputs[-1] if places else alignment.entries.get(segment)
    if last is None or number is None:
        return last
    if number not in alignment.position:
        return None
    group = next((group for group in alignment.passes if last in group), (last,))
    return next((n for n in group if alignment.position[n] >= alignment.position[number]), None)


def _wanted(alignment: Alignment, slip: Slip, number: int) -> np.ndarray | None:
    """What a value becomes where the slip is mended."""
    if number == slip.number:
        return _narrowed(slip.wanted, alignment.column(number))
    below = alignment._below(frozenset(slip.mending), slip.leaves)
    arrays = [alignment._changed(k, slip.mending, below).get(number) for k in range(len(alignment.cases))]
    return None if any(x is None for x in arrays) else np.stack([np.asarray(x) for x in arrays])


def _narrowed(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
    """With one entry along the axes along which it is the same, if it has not the shape of the value, as a sum over
    another axis has not."""
    if wanted.shape == given.shape or wanted.ndim != given.ndim:
        return wanted
    for axis in range(1, wanted.ndim):
        first = np.take(wanted, [0], axis) if wanted.shape[axis] > 1 else wanted
        wanted = first if same(np.broadcast_to(first, wanted.shape), wanted) else wanted
    return wanted


def _expressions(segment: Segment) -> Iterator[tuple[Segment, Segment, str]]:
    """Expressions that a piece of code stands in, the outermost first: where, where the code is whose value it is, and
    what that is added to, as code."""
    around = outwards(segment)
    inside = len([*itertools.takewhile(lambda node: not isinstance(node, ENDS), around[1:])]) + 1
    for node in around[:inside][::-1]:
        if isinstance(node, ast.AugAssign):
            sign = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}.get(type(node.op))
            if sign:
                yield (
                    piece_of(segment, node.value),
                    piece_of(segment, node),
                    f"{piece_of(segment, node.target).text} {sign} ",
                )
        elif isinstance(node, ast.stmt):
            value = getattr(node, "value", None)
            if isinstance(value, ast.expr):
                yield piece_of(segment, value), piece_of(segment, value), ""
        elif isinstance(node, ast.expr):
            yield piece_of(segment, node), piece_of(segment, node), ""


ENDS = (
    ast.Lambda,
    ast.ListComp,
    ast.GeneratorExp,
    ast.DictComp,
    ast.SetComp,
    ast.FunctionDef,
    ast.Module,
    ast.For,
    ast.If,
)
