"""The values that names have where a piece of code stands: on every probe, each time that the rule comes there.

The rule is traced once more, with a call around the piece that marks what its function holds at that moment. Then any
expression can be carried out there in NumPy, and nothing else of the rule.
"""

import functools
import itertools
import types
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.core import Tracer

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import opaque
from jaxbias._jaxpr.sources import Segment, first_line
from jaxbias.verify.naming.pieces import names_around
from jaxbias.verify.naming.rewrite import reached, rewritten
from jaxbias.verify.problem import exact_context

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

HERE, MARK = "__jaxbias_here_", "jaxbias: "

MOST_LEAVES = 40
"""Of one variable."""

Names = dict[str, Any]
"""Name → its value, arrays and functions as those of NumPy."""


class Visit(NamedTuple):
    """One time that the rule comes to a piece of code.

    Attributes:
        names: what stands there under which name, on each probe; of a function under `vmap` in each example of each.
        examples: how many of each probe; 0 outside of `vmap`.
        local: the names that are the function's own.
    """

    names: list[Names]
    examples: int
    local: tuple[str, ...]


class _Traced(NamedTuple):
    """An array of this shape, whose values are known when the program has been carried out; the label that it has
    there."""

    shape: tuple[int, ...]
    label: str


class _Marked(NamedTuple):
    """What a function holds at one call of a hook: of each variable its leaves and its tree; names from outside."""

    piece: int
    variables: dict[str, tuple[list[Any], Any]]
    around: Names


class _Place(NamedTuple):
    """One time that the program comes to a piece: numbers of the leaves of variables, and of the piece's value."""

    marked: _Marked
    numbers: dict[tuple[str, int], int]
    value: int
    examples: int


class Site:
    """Expressions in the code of a rule, and the rule's program, in which it is known what the names there hold.

    Args:
        made: changes of the rule that have been made.

    Attributes:
        values: of the program on every probe, by number.
        places: of each expression, the times that the program comes there.
    """

    def __init__(
        self,
        checker: "Checker",
        pieces: Sequence[Segment],
        made: Sequence[tuple[Segment, str]],
        cases: Sequence["Case"],
    ):
        self.pieces, self.cases, seen, labels = list(pieces), cases, [], {}
        called = {(code.co_name, code.co_firstlineno) for code in reached(checker.problem.rule)}
        changes = [
            (piece, f"{HERE}{k}__({_scope(piece, called)}, globals(), ({piece.text}))")
            for k, piece in enumerate(pieces)
        ]
        hooks = {f"{HERE}{k}__": functools.partial(_mark, seen, labels, k) for k in range(len(pieces))}
        rule = rewritten(checker.problem.rule, [*made, *changes], hooks)
        self.runner = checker.rule.of(rule) if rule is not None else None
        inputs = cases[0].probe.primals, cases[0].probe.seeds
        self.program = self.runner.program(*inputs) if self.runner is not None else None
        self.values, self.places = [], [[] for _ in pieces]
        if self.program is not None:
            for place in _places(self.program, seen):
                self.places[place.marked.piece].append(place)
            self.values = [_jaxpr.evaluate(self.program, case.probe.inputs) for case in cases]

    def visits(self, piece: int) -> list[Visit]:
        """In the order in which the rule comes to an expression."""
        return [self.visit(piece, turn, self.values) for turn in range(len(self.places[piece]))]

    def visit(self, piece: int, turn: int, values: Sequence[Sequence[Any]]) -> Visit:
        """One time that the rule comes to an expression, where the program holds these values on each probe."""
        place = self.places[piece][turn]
        rows = [its for held in values for its in _rows(place, held)]
        return Visit(rows, place.examples, tuple(place.marked.variables))

    def changed(
        self, k: int, pieces: Mapping[int, Callable[[Names], Any]], until: int | None = None, known: Any = None
    ) -> list[Any]:
        """All values on probe k where expressions give others, made of the names each time; `until` a value.

        Args:
            known: that value, if it is one expression and the program comes there once.

        Raises:
            ValueError: the value has not the shape of the expression's.
        """
        program, held = self.program, list(self.values[k])
        at = {place.value: (place, value) for piece, value in pieces.items() for place in self.places[piece]}
        changed: set[int] = set()
        assert program is not None
        with np.errstate(all="ignore"):
            for equation in itertools.islice(program.equations, min(map(self._starts.__getitem__, pieces)), None):
                out = equation.outputs[0]
                if out == until:
                    break
                if out in at:
                    place, value = at[out]
                    alone = known is not None and len(at) == 1 and not place.examples
                    rows: list[Any] = [known] if alone else [value(names) for names in _rows(place, held)]
                    new = np.stack(rows) if place.examples else np.asarray(rows[0])
                    if new.shape != np.shape(held[out]) or new.dtype.kind not in "fiubc":
                        raise ValueError(new.shape)
                    held[out] = new
                    changed.add(out)
                elif not changed.isdisjoint(equation.inputs):
                    for number, its in zip(
                        equation.outputs, _jaxpr.apply(equation, [held[n] for n in equation.inputs])
                    ):
                        held[number] = its
                        changed.add(number)
        return held

    @functools.cached_property
    def _starts(self) -> list[int]:
        """Of each expression, the position in the program at which it is come to first."""
        assert self.program is not None
        position = {e.outputs[0]: k for k, e in enumerate(self.program.equations)}
        return [min((position[place.value] for place in places), default=0) for places in self.places]

    def gradients(self, k: int, held: Sequence[Any]) -> list[Any]:
        """Those of probe k, where the program holds these values."""
        program, probe = self.program, self.cases[k].probe
        assert program is not None and self.runner is not None
        return self.runner.placed(probe.primals, probe.seeds, [held[n] for n in program.outputs])

    def names(self, piece: int, held: Sequence[Any], turn: int = 0, only: Container[str] | None = None) -> Names | None:
        """What stands at an expression one time that the program comes there, where it holds these values.

        None where it does not come there so often, or for every example by itself.

        Args:
            only: these variables, beside what is outside of the function.
        """
        place = next(iter(self.places[piece][turn : turn + 1]), None)
        return next(_rows(place, held, only)) if place is not None and not place.examples else None

    def number(self, piece: int, turn: int) -> int | None:
        """Of the value of an expression that time."""
        return next((place.value for place in self.places[piece][turn : turn + 1]), None)

    def comes_first(self, piece: Segment, other: Segment) -> bool:
        """Does the program come to an expression before it comes to another?"""
        first, second = (self.places[self.pieces.index(its)] for its in (piece, other))
        return bool(first and second) and first[0].value < second[0].value


def _scope(piece: Segment, called: Container[tuple[str, int]]) -> str:
    """Code of what a function holds where a piece stands, and of what the function holds that it is defined in: it can
    take more from that than it does.

    Args:
        called: names and lines of the functions that the rule calls; of others the copy holds on to what it takes.
    """
    outer, names = names_around(piece)
    if outer is None or (outer.name, first_line(outer)) not in called:
        return "locals()"
    return f"{{{', '.join(f'{name!r}: {name}' for name in names)}}} | locals()"


VALUE = "="
"""In the place of a name, of the value of the expression."""


def _mark(
    seen: list[_Marked], labels: dict[int, tuple[Tracer, str]], piece: int, variables: Names, around: Names, value: Any
) -> Any:
    """The value, labelled in the program; and so are the variables, each array once, however often it is come to."""

    def labelled(leaf: Any) -> Any:
        if not isinstance(leaf, Tracer):
            return in_numpy(leaf)
        if id(leaf) not in labels:
            labels[id(leaf)] = leaf, f"{MARK}{len(labels)}"
            checkpoint_name(leaf, labels[id(leaf)][1])
        return _Traced(leaf.shape, labels[id(leaf)][1])

    marked: dict[str, tuple[list[Any], Any]] = {}
    for name, held in variables.items():
        leaves, tree = jax.tree.flatten(_opened(held))
        if len(leaves) <= MOST_LEAVES:
            marked[name] = [*map(labelled, leaves)], tree
    if isinstance(value, Tracer):
        value = checkpoint_name(value, f"{MARK}{VALUE}{len(seen)}")
    seen.append(_Marked(piece, marked, {name: in_numpy(x) for name, x in around.items()}))
    return value


@jax.tree_util.register_pytree_node_class
class _Local:
    """A function that takes arrays of the rule from around it: these are its leaves.

    Args:
        function: as it stands in the rule.
        held: what of that which it takes from around it holds arrays, by position.
        carried_out: of what it holds and its arguments; made once for all the values that it may hold.
    """

    def __init__(self, function: types.FunctionType, held: dict[int, Any], carried_out: "_Function | None" = None):
        self.function, self.held = function, held
        self.carried_out = carried_out or _Function(lambda held, *args, **its: self._with(held)(*args, **its))

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        return tuple(self.held.values()), (self.function, tuple(self.held), self.carried_out)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Sequence[Any]) -> "_Local":
        function, places, carried_out = aux
        return cls(function, dict(zip(places, children)), carried_out)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.carried_out(self.held, *args, **options)

    def _with(self, held: Mapping[int, Any]) -> types.FunctionType:
        """The function, with other arrays."""
        f, own = self.function, lambda x: x._with(x.held) if isinstance(x, _Local) else x
        opened = {k: jax.tree.map(own, x, is_leaf=lambda x: isinstance(x, _Local)) for k, x in held.items()}
        cells = [types.CellType(opened[k]) if k in opened else c for k, c in enumerate(f.__closure__ or ())]
        copy = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, tuple(cells))
        copy.__kwdefaults__ = f.__kwdefaults__
        return copy


def _opened(held: Any, depth: int = 3) -> Any:
    """With the functions in it that take arrays of the rule from around them as `_Local`."""

    def opened(leaf: Any) -> Any:
        if not isinstance(leaf, types.FunctionType) or not leaf.__closure__ or not depth:
            return leaf
        cells = {k: _opened(_contents(cell), depth - 1) for k, cell in enumerate(leaf.__closure__)}
        traced = {k: x for k, x in cells.items() if any(isinstance(its, Tracer) for its in jax.tree.leaves(x))}
        return _Local(leaf, traced) if traced else leaf

    return jax.tree.map(opened, held)


def _contents(cell: types.CellType) -> Any:
    """None of one that is empty yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _places(program: _jaxpr.Program, seen: Sequence[_Marked]) -> Iterator[_Place]:
    marks: dict[str, list[int]] = {}
    kept: list[_jaxpr.Equation] = []
    for equation in program.equations:
        label = str(equation.params.get("name")) if equation.name == "name" else ""
        if label.startswith(MARK):
            of_value = label.startswith(f"{MARK}{VALUE}")
            marks.setdefault(label, []).append(equation.outputs[0] if of_value else equation.inputs[0])
            if not of_value:
                continue  # nothing uses it
            equation.name = "copy"  # which NumPy knows
        kept.append(equation)
    program.equations = kept
    places: list[_Place] = []
    for k, marked in enumerate(seen):
        leaves = {
            (name, j): part
            for name, (parts, _) in marked.variables.items()
            for j, part in enumerate(parts)
            if isinstance(part, _Traced)
        }
        turns = marks.get(f"{MARK}{VALUE}{k}", ())  # those of a scan have one call of the hook
        for turn, value in enumerate(turns):
            groups = {leaf: marks.get(part.label, []) for leaf, part in leaves.items()}
            # what is labelled outside of a loop, and taken in it, is there once
            its = {
                leaf: group[turn] if len(group) > 1 else group[0] for leaf, group in groups.items() if _has(group, turn)
            }
            batches = {
                shape[: len(shape) - len(part.shape)]
                for leaf, part in leaves.items()
                if leaf in its and (shape := program.shapes[its[leaf]]) != part.shape
            }
            if len(batches) < 2 and all(len(batch) == 1 for batch in batches):  # not of one vmap in another
                places.append(_Place(marked, its, value, *next(iter(batches), (0,))))
    yield from sorted(places, key=lambda place: place.value)


def _has(group: Sequence[int], turn: int) -> bool:
    return len(group) > turn or len(group) == 1


def _rows(place: _Place, held: Sequence[Any], only: Container[str] | None = None) -> Iterator[Names]:
    """What stands there under which name, in every example."""
    for row in range(place.examples or 1):
        its = dict(place.marked.around)
        for name, (parts, tree) in place.marked.variables.items():
            if only is not None and name not in only:
                continue
            if all((name, k) in place.numbers or not isinstance(part, _Traced) for k, part in enumerate(parts)):
                leaves = [
                    _example(held[place.numbers[name, k]], part.shape, row) if isinstance(part, _Traced) else part
                    for k, part in enumerate(parts)
                ]
                its[name] = jax.tree.unflatten(tree, leaves)
        yield its


def _example(x: Any, shape: tuple[int, ...], row: int) -> np.ndarray:
    x = np.asarray(x)
    return (x if x.ndim == len(shape) else x[row]).view(Array)


# --- NumPy in the place of JAX ----------------------------------------------------------------------------------------


class Array(np.ndarray):
    """NumPy's, with `x.at[i].add(y)`."""

    @property
    def at(self) -> "_At":
        return _At(self)


class _At:
    """Copies of an array with other entries at an index."""

    def __init__(self, array: np.ndarray, index: Any = None):
        self.array, self.index = array, index

    def __getitem__(self, index: Any) -> "_At":
        return _At(self.array, index)

    def __getattr__(self, name: str) -> Callable[..., np.ndarray]:
        def changed(values: Any, **_: Any) -> np.ndarray:
            out = self.array.copy()
            if name == "set":
                out[self.index] = values
            else:
                getattr(np, {"min": "minimum", "max": "maximum", "mul": "multiply"}.get(name, name)).at(
                    out, self.index, values
                )
            return out

        return changed


LIKE_NUMPY = ("jax.numpy", "jax.numpy.linalg", "jax.numpy.fft")
"""Modules whose functions have NumPy's names."""


class _Module:
    """A module of JAX, or of the user's, whose functions are carried out in NumPy."""

    def __init__(self, module: types.ModuleType):
        self.module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        if self.module.__name__ in LIKE_NUMPY and callable(value):
            if name in ("float32", "float16", "bfloat16", "float64"):
                value = np.float64
            elif (same := _in(np, f"{self.module.__name__}.{name}".split(".")[2:])) is not None:
                value = same if isinstance(same, type) else _viewed(same)
        else:
            value = in_numpy(value)
        setattr(self, name, value)
        return value


def _in(module: Any, path: Sequence[str]) -> Any:
    for name in path:
        module = getattr(module, name, None)
    return module


def _viewed(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: in_numpy(function(*args, **options))


MOST_TRACES = 6
"""Of one function, each of which takes as long as a thousand changes that are tried."""


class _Function:
    """A function of JAX's or the user's: traced for arrays of given shapes, then carried out in NumPy."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.programs = function, {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, options))
        leaves = [getattr(x, "function", x) if isinstance(x, _Function) else x for x in leaves]
        at = [k for k, x in enumerate(leaves) if isinstance(x, np.ndarray | np.generic)]
        arrays = [np.asarray(leaves[k]) for k in at]
        key = repr([tree, [(x.shape, x.dtype) for x in arrays], [x for k, x in enumerate(leaves) if k not in at]])
        if key not in self.programs:
            if len(self.programs) > MOST_TRACES:
                raise TypeError("it is called with so many shapes only by changes that make no sense")
            trees: list[Any] = []

            def flat(*arrays: Any) -> list[Any]:
                its = dict(zip(at, arrays))
                args, options = jax.tree.unflatten(tree, [its.get(k, x) for k, x in enumerate(leaves)])
                outs, of_outs = jax.tree.flatten(self.function(*args, **options))
                trees.append(of_outs)
                return [jnp.asarray(out) for out in outs]

            with exact_context():
                if not arrays:
                    return in_numpy(self.function(*args, **options))
                self.programs[key] = _jaxpr.trace(flat, *arrays), trees[0]
        program, of_outs = self.programs[key]
        if opaque(program):
            raise TypeError("it runs what is no program, and what may complain of other values")
        return jax.tree.unflatten(of_outs, [in_numpy(np.asarray(x)) for x in _jaxpr.run(program, arrays)])


def in_numpy(value: Any) -> Any:
    """The same of NumPy's: an array, a module, a function; anything else as it is."""
    if isinstance(value, jax.Array | np.ndarray) and not isinstance(value, Tracer):
        return np.asarray(value).view(Array) if getattr(value.dtype, "kind", "") in tuple("fiubc") else value
    if isinstance(value, types.ModuleType):
        return _Module(value) if value.__name__.split(".")[0] not in ("numpy", "math") else value
    if isinstance(value, dict | list | tuple):
        return jax.tree.map(in_numpy, value) if len(value) <= MOST_LEAVES else value
    if isinstance(value, type | types.BuiltinFunctionType | _Function | Tracer):
        return value
    return _Function(value) if callable(value) else value
