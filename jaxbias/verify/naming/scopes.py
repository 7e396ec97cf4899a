"""The values that names have where a piece of code stands: on every probe, each time that the rule comes there.

The rule is traced once more, with a call around the piece that marks what its function holds at that moment. Then any
expression can be carried out there in NumPy, and nothing else of the rule.
"""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.core import Tracer

from jaxbias import _jaxpr
from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.rewrite import rewritten
from jaxbias.verify.problem import exact_context

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

HERE, MARK = "__jaxbias_here__", "jaxbias: "

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


def visits_of(
    checker: "Checker", segment: Segment, made: Sequence[tuple[Segment, str]], cases: Sequence["Case"]
) -> list[Visit]:
    """In the order in which the rule, with changes that have been made, comes to an expression of its code."""
    seen: list[_Marked] = []
    change = segment, f"{HERE}(locals(), globals(), {segment.text})"
    rule = rewritten(checker.problem.rule, [*made, change], {HERE: lambda *its: _mark(seen, *its)})
    if rule is None:
        return []
    program = checker.rule.of(rule).program(cases[0].probe.primals, cases[0].probe.seeds)
    return [] if program is None else [*_visits(program, seen, cases)]


class _Traced(NamedTuple):
    """An array of this shape, whose values are known when the program has been carried out."""

    shape: tuple[int, ...]


class _Marked(NamedTuple):
    """What a function holds at one call of the hook: of each variable its leaves and its tree; names from outside."""

    variables: dict[str, tuple[list[Any], Any]]
    around: Mapping[str, Any]


def _mark(seen: list[_Marked], variables: Names, around: Names, value: Any) -> Any:
    marked: dict[str, tuple[list[Any], Any]] = {}
    for name, held in variables.items():
        leaves, tree = jax.tree.flatten(held)
        if len(leaves) > MOST_LEAVES:
            continue
        for k, leaf in enumerate(leaves):
            if isinstance(leaf, Tracer):
                checkpoint_name(leaf, f"{MARK}{len(seen)} {name} {k}")
        marked[name] = [_Traced(x.shape) if isinstance(x, Tracer) else in_numpy(x) for x in leaves], tree
    seen.append(_Marked(marked, around))
    return value


def _visits(program: _jaxpr.Program, seen: Sequence[_Marked], cases: Sequence["Case"]) -> Iterator[Visit]:
    marks: dict[str, list[int]] = {}
    for equation in program.equations:
        if equation.name == "name" and (label := str(equation.params.get("name"))).startswith(MARK):
            marks.setdefault(label.removeprefix(MARK), []).append(equation.outputs[0])
            equation.name = "copy"  # which NumPy knows
    values = [_jaxpr.evaluate(program, case.probe.inputs) for case in cases]
    found: list[tuple[int, _Marked, dict[tuple[str, int], int]]] = []
    for place, marked in enumerate(seen):
        leaves = [(name, k) for name, (parts, _) in marked.variables.items() for k in range(len(parts))]
        numbers = {(name, k): marks.get(f"{place} {name} {k}", []) for name, k in leaves}
        for turn in range(max(map(len, numbers.values()), default=0)):  # those of a scan have one call of the hook
            its = {leaf: group[turn] for leaf, group in numbers.items() if len(group) > turn}
            found.append((min(its.values()), marked, its))
    for _, marked, its in sorted(found, key=lambda visit: visit[0]):
        if (visit := _visit(marked, its, values)) is not None:
            yield visit


def _visit(marked: _Marked, numbers: dict[tuple[str, int], int], values: Sequence[list[Any]]) -> Visit | None:
    rank = lambda name, k: len(marked.variables[name][0][k].shape)
    shapes = {key: np.shape(values[0][n]) for key, n in numbers.items()}
    batches = {shape[: len(shape) - rank(*key)] for key, shape in shapes.items()} - {()}
    if len(batches) > 1 or any(len(batch) > 1 for batch in batches):
        return None  # of several vmaps, one in the other
    (examples,) = next(iter(batches), (0,))
    around = {name: in_numpy(x) for name, x in marked.around.items()}
    names = []
    for held, row in ((held, row) for held in values for row in range(examples or 1)):
        its = dict(around)
        for name, (parts, tree) in marked.variables.items():
            if any(isinstance(part, _Traced) and (name, k) not in numbers for k, part in enumerate(parts)):
                continue
            leaves = [
                part if not isinstance(part, _Traced) else _example(held[numbers[name, k]], part.shape, row)
                for k, part in enumerate(parts)
            ]
            its[name] = jax.tree.unflatten(tree, leaves)
        names.append(its)
    return Visit(names, examples, tuple(marked.variables))


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
        return jax.tree.unflatten(of_outs, [in_numpy(np.asarray(x)) for x in _jaxpr.run(program, arrays)])


def in_numpy(value: Any) -> Any:
    """The same of NumPy's: an array, a module, a function; anything else as it is."""
    if isinstance(value, jax.Array | np.ndarray) and not isinstance(value, Tracer):
        return np.asarray(value).view(Array) if value.dtype.kind in "fiubc" else value
    if isinstance(value, types.ModuleType):
        return _Module(value) if value.__name__.split(".")[0] not in ("numpy", "math") else value
    if isinstance(value, dict | list | tuple):
        return jax.tree.map(in_numpy, value) if len(value) <= MOST_LEAVES else value
    plain = isinstance(value, type | types.BuiltinFunctionType | _Function | Tracer) or not callable(value)
    return value if plain else _Function(value)
