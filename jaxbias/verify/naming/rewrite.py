"""A function with a piece of its code replaced, wherever it stands: in itself, or in what it calls.

The functions that the user handed in are left as they are. What is made is a copy, with copies of the functions between
it and the replaced code; a function that holds it by other ways than its closure, its globals, its defaults or a
module's attribute keeps the old code.
"""

import ast
import functools
import itertools
import linecache
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxbias._jaxpr.sources import Segment, first_line, is_users, tree_of

DEEPEST = 12
"""Calls between a rule and the code that is replaced."""


def rewritten(
    function: Callable[..., Any],
    changes: list[tuple[Segment, str]],
    names: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[..., Any] | None:
    """The function with these pieces of code replaced; None where they are not reached from it.

    Args:
        names: that the new code needs.

    Raises:
        SyntaxError: the code that is put in makes no sense there.
    """
    by_file: dict[str, list[tuple[Segment, str]]] = {}
    for segment, code in changes:
        by_file.setdefault(segment.file, []).append((segment, code))
    pairs: dict[Any, types.CodeType] = {}
    for file, its in by_file.items():
        pairs.update(_codes(file, its))
    return _copied(function, _Copier(lambda code: pairs.get(_key(code)), names))


def with_copies(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function with an operation of its own where it calls a value by another name, as in `delta_c = ct_c`; None
    where it does not."""
    replaced = lambda code: _with_copies(code.co_filename, tuple(linecache.getlines(code.co_filename))).get(_key(code))
    return _copied(function, _Copier(replaced, {TRACED: _is_traced, COPY: jnp.copy}))


def reached(function: Callable[..., Any]) -> list[types.CodeType]:
    """Code of the user's functions that it is made of, or that it calls."""
    codes: list[types.CodeType] = []
    _Copier(lambda code: codes.append(code))(function, 0)
    return [code for code in codes if is_users(code.co_filename)]


def widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with what the user's functions close over in 64 bits, where that is narrower floats."""
    return _Copier(lambda code: None, of_values=_wide)(function, 0)


def _wide(value: Any) -> Any:
    if not isinstance(value, jax.Array | np.ndarray | np.generic) or isinstance(value, Tracer):
        return value
    if not jnp.issubdtype(value.dtype, jnp.inexact) or value.dtype in (np.float64, np.complex128):
        return value
    dtype = np.complex128 if jnp.issubdtype(value.dtype, jnp.complexfloating) else np.float64
    return value.astype(dtype)


def _copied(function: Callable[..., Any], copier: "_Copier") -> Callable[..., Any] | None:
    copy = copier(function, 0)
    return copy if copy is not function and copier.used else None


TRACED, COPY = "__jaxbias_traced__", "__jaxbias_copy__"


def _is_traced(x: Any) -> bool:
    return isinstance(x, Tracer)


class _Copies(ast.NodeTransformer):
    """`a = b` becomes `a = copy(b) if traced(b) else b`, at the same place."""

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        target, value = node.targets[0], node.value
        if isinstance(value, ast.Name) and isinstance(target, ast.Name):
            node.value = self._copy(value)
        elif isinstance(value, ast.Tuple) and isinstance(target, ast.Tuple) and len(value.elts) == len(target.elts):
            value.elts = [self._copy(entry) if isinstance(entry, ast.Name) else entry for entry in value.elts]
        return node

    def _copy(self, name: ast.Name) -> ast.expr:
        call = lambda function: ast.Call(ast.Name(function, ast.Load()), [name], [])
        copy = ast.copy_location(ast.IfExp(call(TRACED), call(COPY), name), name)
        for part in ast.walk(copy):
            ast.copy_location(part, name)
        return copy


@functools.lru_cache(64)
def _with_copies(file: str, lines: tuple[str, ...]) -> dict[Any, types.CodeType]:
    """Code of the file's functions in which values have two names, and what it becomes."""
    if not is_users(file):
        return {}
    try:
        tree = ast.parse("".join(lines))
        before = compile(tree, file, "exec", dont_inherit=True)
        after = compile(_Copies().visit(tree), file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return {}
    return {_key(old): new for old, new in zip(_nested(before), _nested(after), strict=True) if old != new}


def replaced_line(segment: Segment, code: str) -> str:
    """The statement on which a piece of code begins, with another one in its place."""
    return _with_changes(segment.file, [(segment, code)])[segment.line - 1].strip()


def _with_changes(file: str, changes: list[tuple[Segment, str]]) -> list[str]:
    lines = list(linecache.getlines(file))
    statements = [*itertools.chain(*_statements(tree_of(file)))]
    for segment, code in sorted(changes, key=lambda c: (c[0].line, c[0].column), reverse=True):
        first, last = segment.line - 1, segment.end_line - 1
        start = lines[first].encode()[: segment.column].decode()
        end = lines[last].encode()[segment.end_column :].decode()
        around = next(span for span in statements if segment.line in span)
        both = []
        for written in (code, f"({code})"):
            changed = list(lines)
            # lines keep their numbers, so that what is below is recognised
            changed[first : last + 1] = [start + written + end, *["\n"] * (last - first)]
            both.append((changed, _parsed("".join(changed[around.start - 1 : around.stop - 1]))))
        (plain, its), (bracketed, meant) = both
        lines = plain if meant is None or its == meant else bracketed
    return lines


def _parsed(code: str) -> str | None:
    try:
        return ast.dump(ast.parse(code))
    except SyntaxError:
        return None


def _key(code: types.CodeType) -> Any:
    return code.co_filename, code.co_name, code.co_firstlineno, tuple(code.co_positions())


def _codes(file: str, changes: list[tuple[Segment, str]]) -> Iterator[tuple[Any, types.CodeType]]:
    """Code of the file's functions that changes, and what it becomes."""
    lines = tuple(linecache.getlines(file))
    imports, others = _statements(tree_of(file))
    places = range(min(segment.line for segment, _ in changes), max(segment.line for segment, _ in changes) + 1)
    its = [*imports, *(span for span in others if set(span).intersection(places))]
    kept = {number for span in its for number in span}
    blank = lambda lines: [line if k in kept else "\n" for k, line in enumerate(lines, 1)]
    build = lambda lines: compile("".join(blank(lines)), file, "exec", dont_inherit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of the user's line it was said when the file was read
        before, after = build(lines), build(_with_changes(file, changes))
    for old, new in zip(_nested(before), _nested(after), strict=False):
        if old != new:
            yield _key(old), new


@functools.lru_cache(16)
def _statements(tree: ast.Module) -> tuple[list[range], list[range]]:
    """Lines of the imports of a file, which decide on the code of what follows, and of each of its other statements."""
    imports: list[range] = []
    others: list[range] = []
    for node in tree.body:
        function = isinstance(node, ast.FunctionDef | ast.ClassDef)
        importing = any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in ast.walk(node))
        statements = imports if importing and not function else others
        statements.append(range(first_line(node), (node.end_lineno or node.lineno) + 1))
    return imports, others


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _nested(constant)


MOST_ENTRIES = 200
"""Of a table of functions."""


class _Copier:
    """Copies functions whose code is replaced, and those that call them.

    Args:
        replaced: code → what it becomes; None where it stays.
        names: that the new code needs.
        of_values: what becomes of what is no function.
    """

    def __init__(
        self,
        replaced: Callable[[types.CodeType], types.CodeType | None],
        names: Mapping[str, Any] = MappingProxyType({}),
        of_values: Callable[[Any], Any] = lambda value: value,
    ):
        self.replaced, self.names, self.of_values, self.used = replaced, names, of_values, False
        self.seen: dict[int, Any] = {}

    def __call__(self, value: Any, depth: int) -> Any:
        """The value, or a copy of it that calls the changed code."""
        if isinstance(value, functools.partial):
            inner = self(value.func, depth)
            return value if inner is value.func else functools.partial(inner, *value.args, **value.keywords)
        if isinstance(value, dict | list | tuple) and not hasattr(value, "_fields") and len(value) <= MOST_ENTRIES:
            return self._container(value, depth)
        if not isinstance(value, types.FunctionType):
            wrapped = getattr(value, "__wrapped__", None)  # jax.jit and the like; a trace sees what is inside
            if isinstance(wrapped, types.FunctionType) and callable(value) and type(value).__name__ == "PjitFunction":
                copy = self(wrapped, depth)
                return value if copy is wrapped else copy
            return self.of_values(value)
        if id(value) in self.seen or depth > DEEPEST:
            return self.seen.get(id(value), value)
        self.seen[id(value)] = value  # while it is being looked at: functions may call themselves
        self.seen[id(value)] = copy = self._function(value, depth)
        return copy

    def _container(self, value: Any, depth: int) -> Any:
        """A table of functions."""
        if depth > DEEPEST or type(value) not in (dict, list, tuple):
            return value
        pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        copies = [(key, self(entry, depth + 1)) for key, entry in pairs]
        if all(copy is entry for (_, copy), (_, entry) in zip(copies, pairs)):
            return value
        return dict(copies) if isinstance(value, dict) else type(value)(copy for _, copy in copies)

    def _function(self, function: types.FunctionType, depth: int) -> types.FunctionType:
        code = self.replaced(function.__code__)
        self.used = self.used or code is not None
        changed = code is not None
        code = code or function.__code__
        cells = []
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # empty
                cells.append(cell)
                continue
            copy = self(content, depth + 1)
            changed = changed or copy is not content
            cells.append(cell if copy is content else types.CellType(copy))
        defaults = self(function.__defaults__, depth + 1), self(function.__kwdefaults__, depth + 1)
        changed = changed or defaults[0] is not function.__defaults__ or defaults[1] is not function.__kwdefaults__
        names = function.__globals__
        if is_users(code.co_filename):
            put = dict(self._globals(code, names, depth + 1)) | (dict(self.names) if changed else {})
            if put:
                names, changed = {**names, **put}, True
        if not changed or len(code.co_freevars) != len(cells):
            return function
        if code.co_freevars != function.__code__.co_freevars:
            return function
        copy = types.FunctionType(code, names, function.__name__, defaults[0], tuple(cells) or None)
        copy.__kwdefaults__, copy.__module__ = defaults[1], function.__module__
        copy.__qualname__ = function.__qualname__
        return copy

    def _globals(self, code: types.CodeType, names: dict[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
        used = set(code.co_names).union(*(inner.co_names for inner in _nested(code)))
        for name in used & names.keys():
            value = names[name]
            if isinstance(value, types.ModuleType):
                if is_users(getattr(value, "__file__", None) or ""):
                    put = {}
                    for attribute in used & vars(value).keys():
                        its = vars(value)[attribute]
                        if (copy := self(its, depth)) is not its:
                            put[attribute] = copy
                    if put:
                        module = types.ModuleType(value.__name__)
                        vars(module).update({**vars(value), **put})
                        yield name, module
            elif (copy := self(value, depth)) is not value:
                yield name, copy
