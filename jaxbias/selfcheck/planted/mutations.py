"""Mistakes planted in a right rule: at its outputs, and in its source, one place at a time."""

import ast
import copy
import functools
import inspect
import linecache
import textwrap
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias.selfcheck.planted.registry import Rule

SHAPE = {"wrong-shape", "broadcast-not-summed"}
FACTOR = {"missing-factor", "missing-activation-derivative", "missing-mask", "scale-constant", "wrong-operand"}
LINEAR = {"not-linear-in-cotangent"}  # the mistake removed the cotangent itself
TERM = {"missing-term", "missing-factor", "extra-term", "wrong-operand", "missing-activation-derivative"}

ACCEPTED: dict[str, set[str]] = {
    "sign": {"sign"},
    "scale-constant": {"scale-constant", "double-count", "batch-mean-vs-sum"},
    "batch-mean-vs-sum": {"batch-mean-vs-sum", "scale-constant"},
    "transpose": {"transpose", "wrong-shape", "swapped-outputs"},
    "missing-term": LINEAR | SHAPE | TERM | {"detached", "overwritten-not-accumulated", "sign"},
    "flipped-sign-of-term": {"sign", "missing-term", "extra-term", "wrong-operand"},
    "extra-term": {"extra-term", "double-count", "scale-constant", "wrong-operand"},
    "missing-factor": LINEAR | SHAPE | FACTOR | {"missing-term", "batch-mean-vs-sum"},
    "missing-activation-derivative": LINEAR | FACTOR,
    "wrong-reduction-axis": SHAPE | {"wrong-reduction-axis", "missing-term"},
    "sum-left-out": {"broadcast-not-summed", "wrong-shape", "missing-term", "wrong-reduction-axis", "wrong-structure"},
    "broadcast-not-summed": {"broadcast-not-summed", "wrong-shape"},
    "wrong-operand": LINEAR
    | SHAPE
    | FACTOR
    | TERM
    | {"stale-value", "transpose", "sign", "swapped-outputs", "double-count"},
    "wrong-index": {"wrong-index", "stale-value", "wrong-operand", "only-some-elements"},
    "swapped-outputs": {"swapped-outputs", "wrong-operand"},
    "double-count": {"double-count", "scale-constant", "extra-term"},
    "overwritten-not-accumulated": {"overwritten-not-accumulated", "missing-term", "only-some-elements"},
    "index-collision": {"index-collision", "overwritten-not-accumulated", "missing-term", "only-some-elements"},
    "missing-mask": {"missing-mask", "missing-factor", "missing-activation-derivative", "extra-term", "wrong-operand"},
    "edge-point": {"edge-point"},
    "dtype-precision": {"dtype-precision"},
    "only-some-elements": {"only-some-elements", "wrong-index", "missing-mask"},
    "stale-value": {"stale-value", "nondeterministic"},
    "detached": {"detached", "missing-term"},
    "wrong-shape": {"wrong-shape", "broadcast-not-summed", "transpose"},
    "wrong-structure": {"wrong-structure"},
    "nondeterministic": {"nondeterministic"},
    "not-linear-in-cotangent": {"not-linear-in-cotangent"},
    "wrong-function": LINEAR | FACTOR | TERM | {"sign"},
    "wrong-power": LINEAR | FACTOR | TERM | {"double-count"},
    "flipped-condition": {
        "missing-mask",
        "wrong-operand",
        "sign",
        "missing-activation-derivative",
        "only-some-elements",
    },
}
"""Planted mistake → kinds that name it: the same kind, or one that speaks of the same change of the formula."""


@dataclass(frozen=True)
class Source:
    """Code of a mutant, each statement of it on a line of its own.

    Attributes:
        file: the name under which its lines are at hand.
        planted: numbers of the lines that differ from those of the right rule.
        build: a rule from code.
    """

    file: str
    lines: tuple[str, ...]
    planted: frozenset[int]
    build: Callable[[str], Callable[..., Any]]

    def with_statement(self, number: int, statement: str) -> Callable[..., Any]:
        """The rule with another statement on one line.

        Raises:
            SyntaxError: it is no statement there.
        """
        line = self.lines[number - 1]
        indent = line[: len(line) - len(line.lstrip())]
        return self.build("\n".join((*self.lines[: number - 1], indent + statement, *self.lines[number:])))


@dataclass
class Mutant:
    """A rule with one planted mistake.

    Attributes:
        planted: what was done, a key of `ACCEPTED`.
        where: the place, for the table of failures.
        source: of a mistake that was planted in code.
    """

    planted: str
    where: str
    rule: Callable[..., Any]
    source: Source | None = None


# --- at the outputs ---------------------------------------------------------------------------------------------------


def _on_output(rule: Rule, i: int, change: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(args, cotangent):
        outs = list(rule.rule(args, cotangent))
        outs[i] = change(outs[i], args, cotangent)
        return tuple(outs)

    return mutated


def _last_zero(g):
    return g.at[-1].set(0)


def output_mutants(rule: Rule, args: tuple[Any, ...]) -> Iterator[Mutant]:
    """Mistakes in what the rule returns."""
    outs = [i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating)]
    rng = np.random.default_rng(0)
    first_ct = jax.tree.leaves(jax.eval_shape(rule.forward, *args))[0]
    batch = first_ct.shape[0] if first_ct.shape else args[0].shape[0]
    for i in outs:
        x = args[i]
        where = f"gradient {i}"
        simple: list[tuple[str, Callable[..., Any]]] = [
            ("sign", lambda g, a, c: -g),
            ("scale-constant", lambda g, a, c: 0.5 * g),
            ("scale-constant", lambda g, a, c: g / jnp.sqrt(2.0).astype(g.dtype)),
            ("double-count", lambda g, a, c: g + g),
            ("detached", lambda g, a, c: jnp.zeros_like(g)),
            ("wrong-shape", lambda g, a, c: g[None]),
            ("dtype-precision", lambda g, a, c: g.astype(jnp.bfloat16).astype(g.dtype)),
            ("not-linear-in-cotangent", lambda g, a, c: g + 1),
            ("not-linear-in-cotangent", lambda g, a, c: g * jnp.abs(g)),
        ]
        if batch > 1:
            simple.append(("batch-mean-vs-sum", lambda g, a, c: g / batch))
        if x.ndim and x.shape[0] > 1:
            simple += [
                ("only-some-elements", lambda g, a, c: _last_zero(g)),
                ("wrong-index", lambda g, a, c: jnp.roll(g, 1, axis=0)),
            ]
        if x.ndim == 2 and x.shape[0] == x.shape[1]:
            simple.append(("transpose", lambda g, a, c: g.T))
        if x.ndim >= 1:
            simple.append(("edge-point", lambda g, a, c, i=i: jnp.where(a[i] == 0, g + 3, g)))
        for planted, change in simple:
            yield Mutant(planted, where, _on_output(rule, i, change))
        for j in outs:
            if j > i and args[j].shape == x.shape:

                def swapped(args, cotangent, i=i, j=j):
                    got = list(rule.rule(args, cotangent))
                    got[i], got[j] = got[j], got[i]
                    return tuple(got)

                yield Mutant("swapped-outputs", f"gradients {i} and {j}", swapped)

    def noisy(args, cotangent):
        got = list(rule.rule(args, cotangent))
        got[outs[0]] = got[outs[0]] * (1 + float(rng.uniform()))
        return tuple(got)

    yield Mutant("nondeterministic", f"gradient {outs[0]}", noisy)
    memory: list[Any] = []

    def stale(args, cotangent):
        got = rule.rule(args, cotangent)
        memory.append(got)
        return memory[-2] if len(memory) > 1 else got

    yield Mutant("stale-value", "all", stale)
    if len(args) > 1:
        yield Mutant("wrong-structure", "all", lambda args, cotangent: rule.rule(args, cotangent)[:-1])


# --- in the source ----------------------------------------------------------------------------------------------------


class _Edit(ast.NodeTransformer):
    """Applies a change at the k-th place where it is possible; counts the places.

    Attributes:
        place: "index", "axes" or "size" where the changed expression says which elements, over which axes, or how
            many, and is no value itself.
        axes, counting: names of variables that hold axes, and of functions that give a number of elements.
    """

    def __init__(
        self,
        change: Callable[[ast.AST], ast.AST | None],
        k: int,
        axes: Collection[str] = (),
        counting: Collection[str] = (),
    ):
        self.change, self.k, self.count, self.line = change, k, 0, ""
        self.axes, self.counting, self.inside, self.place = axes, counting, [""], ""

    def generic_visit(self, node):
        where = self.inside[-1]
        if isinstance(node, ast.Name) and node.id in self.axes:
            where = "axes"
        replacement = self.change(node)
        if replacement is not None:
            if self.count == self.k:
                self.count += 1
                self.line, self.place = ast.unparse(node), where
                return ast.copy_location(replacement, node)
            self.count += 1
        if isinstance(node, ast.Subscript):
            node.value = self.visit(node.value)
            node.slice = self.visit_inside(where or "index", node.slice)
            return node
        if (isinstance(node, ast.keyword) and node.arg in ("axis", "axes")) or (
            isinstance(node, ast.Call) and _gives_axes(node)
        ):
            where = "axes"
        elif (isinstance(node, ast.Attribute) and node.attr in ("shape", "size")) or (
            isinstance(node, ast.Call) and ast.unparse(node.func) in self.counting
        ):
            where = where or "size"
        self.inside.append(where)
        node = super().generic_visit(node)
        self.inside.pop()
        return node

    def visit_inside(self, where: str, node: ast.expr) -> ast.expr:
        self.inside.append(where)
        node = self.visit(node)
        self.inside.pop()
        return node


def _gives_axes(node: ast.AST) -> bool:
    """A call such as range(...), tuple(...) or other_axes(...)."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func).rsplit(".", 1)[-1]
    return name in ("range", "tuple") or "axes" in name


def _axes_names(function: ast.FunctionDef) -> set[str]:
    """Variables that hold axes."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts))
            names |= {t.id for t, v in pairs if isinstance(t, ast.Name) and _gives_axes(v)}
    return names


def _binary(operators, make):
    def change(node):
        if isinstance(node, ast.BinOp) and isinstance(node.op, operators):
            return make(copy.deepcopy(node))
        return None

    return change


def _negated(node):
    return ast.UnaryOp(ast.USub(), node)


def _flip(node):
    node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
    return node


def _method(names, make):
    def change(node):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
            return make(copy.deepcopy(node))
        return None

    return change


def _renamed(new):
    def make(node):
        node.func.attr = new
        return node

    return make


def _other_axis(node):
    for keyword in node.keywords:
        if keyword.arg == "axis" and isinstance(keyword.value, ast.Constant | ast.UnaryOp):
            keyword.value = ast.Constant(1 if ast.unparse(keyword.value) == "0" else 0)
            return node
    return None


def _not_summed(node):
    return node.func.value if ast.unparse(node.func.value) not in ("jnp", "np") else None


def _where_branch(k):
    def make(node):
        is_jnp = ast.unparse(node.func.value) == "jnp"
        return node.args[k] if is_jnp and len(node.args) == 3 else None

    return make


def _without_transpose(node):
    return copy.deepcopy(node.value) if isinstance(node, ast.Attribute) and node.attr == "T" else None


MODULES = ("jnp", "jax", "lax", "args", "range", "solve_triangular")


def _operand(node, new, values):
    """Another variable, once it has a value."""
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load) or node.id in (new, *MODULES):
        return None
    if node.id not in values or node.lineno <= values[new]:
        return None
    return ast.Name(new, ast.Load())


FUNCTIONS = {
    "tanh": "sin",
    "exp": "tanh",
    "sigmoid": "tanh",
    "log": "exp",
    "sqrt": "square",
    "sign": "abs",
    "abs": "square",
}


def _other_function(node):
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    name = FUNCTIONS.get(node.func.attr)
    if name is None or ast.unparse(node.func.value) not in ("jnp", "jax.nn"):
        return None
    node = copy.deepcopy(node)
    node.func = ast.Attribute(ast.Name("jnp", ast.Load()), name, ast.Load())
    return node


def _other_power(node):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
        return copy.deepcopy(node.left)
    return None


def _other_comparison(node):
    flips = {ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.NotEq: ast.Eq, ast.Eq: ast.NotEq}
    if isinstance(node, ast.Compare) and type(node.ops[0]) in flips:
        node = copy.deepcopy(node)
        node.ops = [flips[type(node.ops[0])]()]
        return node
    return None


def _shifted_index(node):
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and isinstance(node.slice, ast.Name):
        node = copy.deepcopy(node)
        node.slice = ast.BinOp(node.slice, ast.Sub(), ast.Constant(1))
        return node
    return None


def _other_constant(node):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.left, ast.Constant):
        return ast.BinOp(ast.Constant(3 * node.left.value), ast.Mult(), copy.deepcopy(node.right))  # type: ignore
    return None


CHANGES: list[tuple[str, Callable[[ast.AST], ast.AST | None]]] = [
    ("missing-term", _binary((ast.Add, ast.Sub), lambda n: n.left)),
    ("missing-term", _binary((ast.Add,), lambda n: n.right)),
    ("missing-term", _binary((ast.Sub,), lambda n: _negated(n.right))),
    ("flipped-sign-of-term", _binary((ast.Add, ast.Sub), _flip)),
    ("missing-factor", _binary((ast.Mult, ast.Div), lambda n: n.left)),
    ("missing-factor", _binary((ast.Mult,), lambda n: n.right)),
    ("double-count", _binary((ast.Add,), lambda n: ast.BinOp(n, ast.Add(), copy.deepcopy(n.right)))),
    ("batch-mean-vs-sum", _method(("sum",), _renamed("mean"))),
    ("batch-mean-vs-sum", _method(("mean",), _renamed("sum"))),
    ("wrong-reduction-axis", _method(("sum", "mean", "cumsum", "flip"), _other_axis)),
    ("sum-left-out", _method(("sum",), _not_summed)),
    ("index-collision", _method(("add",), _renamed("set"))),
    ("missing-mask", _method(("where",), _where_branch(1))),
    ("transpose", _without_transpose),
    ("wrong-function", _other_function),
    ("wrong-power", _other_power),
    ("flipped-condition", _other_comparison),
    ("wrong-index", _shifted_index),
    ("scale-constant", _other_constant),
]


ARITHMETIC = {"missing-term", "flipped-sign-of-term", "missing-factor", "double-count", "scale-constant"}
"""Changes that, made to an index, move values."""


def source_mutants(rule: Rule, limit: int = 6) -> Iterator[Mutant]:
    """One change in one place of the rule's source: at most `limit` places for each kind of change."""
    for body, build in rule.bodies or ((rule.rule, lambda new: new),):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(body)))
        except (OSError, SyntaxError):
            continue
        function = tree.body[0]
        if isinstance(function, ast.FunctionDef):
            yield from _mutants_of(rule.name, body, function, build, limit)


def _mutants_of(name, body, function: ast.FunctionDef, build, limit: int) -> Iterator[Mutant]:
    function.decorator_list, function.returns = [], None
    for argument in function.args.args:
        argument.annotation = None
    free = inspect.getclosurevars(body).nonlocals
    values = {argument.arg: 0 for argument in function.args.args}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            values[node.id] = min(node.lineno, values.get(node.id, node.lineno))
    names = sorted(
        values.keys() - {a.arg for a in function.args.args} - {"t", "i", "n", "_", "rows", "width", "length"}
    )
    axes = _axes_names(function)
    counting = [name for name, f in body.__globals__.items() if getattr(f, "__annotations__", {}).get("return") is int]
    changes, right = [*CHANGES], ast.unparse(function).splitlines()

    def built(file: str, code: str) -> Callable[..., Any]:
        space: dict[str, Any] = {}
        exec(compile(code, file, "exec"), {**body.__globals__, **free}, space)
        return build(space[function.name])

    for new in names:
        changes.append(("wrong-operand", lambda node, new=new: _operand(node, new, values)))
    for number, (planted, change) in enumerate(changes):
        for k in range(limit):
            edit = _Edit(change, k, axes, counting)
            wrong = copy.deepcopy(function)
            wrong.body = [edit.visit(statement) for statement in wrong.body]
            if edit.count <= k:
                break
            # with its source at hand, as that of a user's rule is
            mutated, file = ast.unparse(ast.fix_missing_locations(wrong)), f"<{name}: {planted} {number}.{k}>"
            linecache.cache[file] = len(mutated), None, mutated.splitlines(keepends=True), file
            lines = tuple(mutated.splitlines())
            there = frozenset(n for n, (old, new) in enumerate(zip(right, lines), 1) if old != new)
            source = Source(file, lines, there, functools.partial(built, file))
            kind = planted
            if edit.place and (planted in ARITHMETIC or edit.place != "index"):
                kind = {"index": "wrong-index", "axes": "wrong-reduction-axis", "size": "scale-constant"}[edit.place]
            yield Mutant(kind, edit.line, source.build(mutated), source)
