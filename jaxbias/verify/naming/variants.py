"""Small changes of an expression, as a person makes them by mistake: for each what would be written, and what it is
called when that is right.

Most are tried on values alone (`trying`), thousands a second, so none is too far-fetched to be among them; `COST` says
which of several that are right is meant.
"""

import ast
import functools
import itertools
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxbias.verify.naming.alignment import varies
from jaxbias.verify.naming.code import (
    bracketed,
    kind_instead_of,
    names_in,
    names_within,
    put,
    put_at_all,
    root_of,
    source_of,
)

COST = {
    "sign": 0.9, "operator": 1.0, "left out": 1.2, "axis": 0.8, "flag": 0.9, "function": 1.0, "index": 1.0,
    "comparison": 1.1, "bracket": 1.0, "transposed": 1.0, "exchanged": 1.1, "letters": 1.0, "constant": 1.2,
    "rest": 1.25, "power": 1.3, "name": 1.4, "condition": 1.2, "factor": 1.6, "divisor": 1.65, "term": 1.8,
    "summed": 1.3, "called": 1.7, "turned": 1.3, "product": 1.7,
}  # fmt: skip
"""How far-fetched a change is, by what is done."""

HOLE = "__jaxbias_part__"
"""A name for what is put in the place of a part."""

OF_LENGTH = 0.003
"""What each letter of what is put in costs more."""

OF_A_BORDER = 1.0
"""What it costs more to say that a number which something is compared with is another: many give the same outcomes."""

FAR_FETCHED = 0.6
"""What costs as much has a name in common with the part in whose place it stands, if that is no number."""

OF_A_TERM = 0.1
"""What it costs less to say that a part lacks a term, than that another value stands in the place of all around it."""

OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.MatMult: "@", ast.Pow: "**", ast.BitAnd: "&",
    ast.BitOr: "|", ast.FloorDiv: "//",
}  # fmt: skip

COMPARISONS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}

TAKEN_FOR_EACH_OTHER = {
    ("sum", "mean"): "batch-mean-vs-sum", ("argmin", "argmax"): "missing-mask", ("tril", "triu"): "missing-mask",
    ("min", "max"): "wrong-operand", ("minimum", "maximum"): "wrong-operand", ("sin", "cos"): "wrong-operand",
    ("real", "imag"): "wrong-operand", ("set", "add"): "overwritten-not-accumulated", ("log", "log1p"): "wrong-operand",
    ("tanh", "sigmoid"): "missing-activation-derivative", ("floor", "ceil"): "wrong-operand",
    ("softplus", "sigmoid"): "missing-activation-derivative", ("exp", "expm1"): "wrong-operand",
    ("exp", "sigmoid"): "missing-activation-derivative", ("sin", "sinh"): "wrong-operand", ("cos", "cosh"): "sign",
    ("sqrt", "square"): "wrong-operand", ("std", "var"): "wrong-operand", ("sqrt", "rsqrt"): "wrong-operand",
    ("softmax", "log_softmax"): "wrong-operand", ("prod", "sum"): "wrong-operand", ("abs", "sign"): "wrong-operand",
    ("sinh", "cosh"): "wrong-operand", ("exp", "log"): "wrong-operand", ("fft", "ifft"): "wrong-operand",
    ("rfft", "irfft"): "wrong-operand", ("fft2", "ifft2"): "wrong-operand",
}  # fmt: skip
"""Functions, and what kind of mistake that is."""

WORDS = {
    ("sum", "mean"): "sums, and must take the mean",
    ("mean", "sum"): "takes the mean, and must sum",
    ("set", "add"): "overwrites what is there, and must add to it",
}
"""What is said of such a function in the place of another."""

OF_EXP = 0.25
"""What it costs more to take an exponential for something else, which nobody does."""

OF_AN_ARGUMENT = 0.7
"""What it costs more to take another axis than the one that the function is given: it is called with a wrong one."""

ORDERING = frozenset(("argmax", "argmin", "max", "min", "maximum", "minimum", "sort", "argsort"))
"""Functions that say which of their operands' entries is larger: there another function is meant, and not a sign."""

REDUCING = frozenset((
    "sum", "mean", "max", "min", "var", "std", "prod", "norm", "logsumexp", "cumsum", "softmax", "log_softmax",
    "argmax", "argmin", "flip",
))  # fmt: skip
"""Functions that take an axis, of all axes or of the last if none is given."""

LAYING_OUT = ("reshape", "transpose", "swapaxes", "squeeze", "ravel", "flatten", "astype")
"""Methods that leave what an array holds."""

MOST_AXES = 5


def _axes(rank: int) -> list[str]:
    """Axes that something of a rank may be taken over, as code; the last, by its number, after the first ones."""
    its = itertools.chain(*(itertools.combinations(range(rank), k) for k in range(1, rank + 1)))
    codes = [str(a[0]) if len(a) == 1 else str(a) for a in its]
    return [*codes[:2], "-1", *codes[2:]]


SAID_OF_ARRAYS = ("shape", "size", "ndim", "dtype")
"""What an array says of itself; no change of its values changes that."""


class Variant(NamedTuple):
    """A changed expression.

    Attributes:
        cost: how far-fetched it is.
        kind: of mistake that it mends.
        words: what is wrong, if it is right.
        node: the part that gives way.
        by: what is written there.
        about: name of the value of the forward that it speaks of.
    """

    cost: float
    kind: str
    words: str
    node: ast.AST
    by: str
    about: str = ""


class Named(NamedTuple):
    """A value and its code."""

    code: str
    value: Any
    cost: float = 0.0
    terms: tuple[tuple[str, Any], ...] = ()
    """Where the code is a sum, those that it adds up."""
    of: tuple[str, ...] = ()
    """What a part must be made of, and of no function, to be meant as this."""


class Variants:
    """Of one expression.

    Args:
        text, tree: the expression.
        counters: names of whole numbers in scope.
        numbers: that stand in the forward.
        value_of: code → its value there, on the first probe; None if it has none.
        modules: names of modules.
        aliases: of functions, what they are called where they are defined.
        functions: of the user's that are called here.
    """

    def __init__(
        self,
        text: str,
        tree: ast.expr,
        counters: Sequence[str],
        numbers: Sequence[float],
        value_of: Callable[[str], Any],
        modules: Container[str] = ("jnp", "np", "jax", "lax"),
        aliases: Mapping[str, str] = MappingProxyType({}),
        functions: Sequence[str] = (),
    ):
        self.functions = functions
        self.value_of, self.numbers, self.modules, self.aliases = value_of, numbers, modules, aliases
        self.text, self.tree, self.counters = text, tree, list(counters)
        self._kinds: dict[str, str] = {}
        self.role: dict[int, str] = {}
        self.compared: set[int] = set()
        self.deciding: set[int] = set()
        self.branching = {id(n) for node in ast.walk(tree) if isinstance(node, ast.IfExp) for n in ast.walk(node.test)}
        self._roles(tree, "")
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        self.arguments = {id(its) for node in ast.walk(tree) if isinstance(node, ast.Call) for its in node.args}
        plain = lambda n: isinstance(n, ast.Name | ast.BinOp | ast.UnaryOp | ast.Call | ast.Attribute | ast.Subscript)
        usable = [node for node in ast.walk(tree) if self.role[id(node)] != "off"]
        self.parts = [n for n in usable if plain(n) and id(n) not in called and self.code(n) not in modules]
        self.constants = [n for n in usable if isinstance(n, ast.Constant)]
        operators = [n for n in usable if isinstance(n, ast.BinOp) and not isinstance(n.op, ast.Add | ast.Sub)]
        self.factors = {id(side) for n in operators for side in (n.left, n.right)}
        methods = [(n.func, n.args) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        ordering = [(f, args) for f, args in methods if isinstance(f, ast.Attribute) and f.attr in ORDERING]
        self.ordered = {id(part) for f, args in ordering for part in (f.value, *args)}

    @functools.cached_property
    def alone(self) -> set[int]:
        """Identities of the parts around which no brackets are needed, whatever is written there."""
        raw, inside = self.text.encode(), {id(self.tree), *self.arguments}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.List | ast.Tuple):
                inside.update(map(id, node.elts))
            elif isinstance(node, ast.expr):
                start, end = node.col_offset, node.end_col_offset or 0
                inside |= {id(node)} if raw[start - 1 : start] + raw[end : end + 1] == b"()" else set()
        return inside

    @functools.cached_property
    def leading(self) -> set[int]:
        """Identities of the parts that need no brackets with a sign: those, and the first factors of products."""
        products = (node for node in ast.walk(self.tree) if isinstance(node, ast.BinOp) and _is_product(node))
        return self.alone | {id(node.left) for node in products if id(node) in self.alone}

    @functools.cached_property
    def terms(self) -> set[int]:
        """Identities of the terms of the sum that it is, and of what it adds up."""
        terms, todo = set(), [self.tree]
        while todo:
            match node := todo.pop():
                case ast.BinOp(op=ast.Add() | ast.Sub()):
                    its = [node.left, node.right]
                case ast.Call(func=ast.Attribute(attr="sum" | "mean", value=operand)) if not node.args:
                    its = [operand]
                case ast.Call(func=ast.Attribute(attr=method, value=operand)) if (
                    method in LAYING_OUT and self._is_method(node.func)
                ):
                    its = [operand]
                case ast.Attribute(attr="T", value=operand):
                    its = [operand]
                case ast.Call(args=[operand, *_]):
                    its = [operand]
                case ast.Subscript(value=operand):
                    its = [operand]
                case ast.BinOp(op=ast.Mult() | ast.Div()):
                    todo += [node.left, node.right]
                    its = []
                case _:
                    its = []
            terms |= {id(part) for part in its}
            todo += its
        return terms

    def code(self, node: ast.AST) -> str:
        return source_of(self.text, node)

    def tight(self, node: ast.AST) -> str:
        return bracketed(self.code(node), products=True)

    def _roles(self, node: ast.AST, role: str) -> None:
        """What a part says: an axis, an index, or a value."""
        self.role[id(node)] = role
        for name, field in ast.iter_fields(node):
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.AST):
                    its = role
                    if isinstance(node, ast.Compare) or id(node) in self.compared:
                        self.compared.add(id(child))
                    if id(node) in self.deciding or (_is_where(node) and name == "args" and child is field[0]):
                        self.deciding.add(id(child))
                    if isinstance(node, ast.Subscript):
                        its = "index" if name == "slice" else role
                    elif isinstance(node, ast.Attribute) and node.attr in SAID_OF_ARRAYS:
                        its = "off"
                    elif isinstance(node, ast.Call) and name == "args" and field.index(child) > 0 and _is_roll(node):
                        its = "index"
                    elif isinstance(node, ast.keyword):
                        its = (
                            "axis"
                            if node.arg in ("axis", "axes", "dims", "dimension", "axis1", "axis2")
                            else ("off" if node.arg in ("dtype", "mode", "indices_are_sorted") else role)
                        )
                    elif isinstance(node, ast.Lambda | ast.comprehension) or (
                        name == "func" and not isinstance(child, ast.Attribute)
                    ):
                        its = role if isinstance(node, ast.Lambda | ast.comprehension) else "off"
                    self._roles(child, its)

    def make(self, how: str, kind: str, node: ast.AST, by: str, words: str = "", more: float = 0.0) -> Variant:
        part = self.code(node)
        if self.role[id(node)] == "index":
            kind = "wrong-index"
        if id(node) in self.branching:
            kind = "missing-mask"
        if id(node) in self.deciding | self.compared and kind in ("transpose", "missing-term", "sign"):
            kind = "missing-mask"
        words = words or (f"must be {by}" if node is self.tree else f"has {part} where {by} is needed")
        length = max(0, len(by) - len(part))
        return Variant(COST[how] + OF_LENGTH * length + more, kind, words, node, by)

    # --- of its form ---------------------------------------------------------------------------------------------

    def of_form(self) -> Iterator[Variant]:
        """Changes that need no other value."""
        for node in ast.walk(self.tree):
            match node:
                case ast.BinOp():
                    yield from self._of_operator(node)
                case ast.UnaryOp(op=ast.USub()):
                    yield self.make("sign", "sign", node, self.tight(node.operand), "has the wrong sign")
                case ast.UnaryOp(op=ast.Invert()):
                    yield self.make("condition", "missing-mask", node, self.tight(node.operand))
                case ast.Compare(comparators=[right]):
                    for operator, sign in COMPARISONS.items():
                        by = f"{self.tight(node.left)} {sign} {self.tight(right)}"
                        outcomes = self.value_of(by)  # the same everywhere, it only takes the mask away
                        if not isinstance(node.ops[0], operator) and np.unique(np.asarray(outcomes)).size > 1:
                            now = COMPARISONS.get(type(node.ops[0]), "it")
                            yield self.make(
                                "comparison", "missing-mask", node, by, f"compares by {now} in place of {sign}"
                            )
                    if not isinstance(right, ast.Constant):
                        yield self.make("comparison", "missing-mask", right, "0", more=0.1)
                case ast.IfExp():
                    yield self.make("condition", "missing-mask", node.test, f"not {self.tight(node.test)}")
                case ast.Call():
                    yield from self._of_call(node)
                case ast.Constant():
                    yield from self._of_constant(node)
                case ast.Subscript():
                    yield from self._of_index(node)
                case ast.List() | ast.Tuple() if not self.role[id(node)]:
                    yield from self._of_entries(node)
        for node in self.parts:
            yield from self._around(node)
        yield from self._of_names()
        yield from self._of_slices()

    def _of_entries(self, node: ast.List | ast.Tuple) -> Iterator[Variant]:
        """Two entries of a list or a tuple, as of what is put together, the wrong way round."""
        first, last = "[]" if isinstance(node, ast.List) else "()"
        for a, b in itertools.combinations(node.elts, 2):
            its = ", ".join(self.code(b if entry is a else a if entry is b else entry) for entry in node.elts)
            words = f"has {self.code(a)} and {self.code(b)} the wrong way round"
            yield self.make("exchanged", "wrong-index", node, f"{first}{its}{last}", words)

    def _of_names(self) -> Iterator[Variant]:
        """Two names the wrong way round."""
        places: dict[str, list[ast.Name]] = {}
        for node in self.parts:
            if isinstance(node, ast.Name):
                places.setdefault(node.id, []).append(node)
        for a, b in itertools.combinations(places, 2):
            text = put_at_all(self.text, {node: b if node.id == a else a for node in (*places[a], *places[b])})
            yield self.make("exchanged", "wrong-operand", self.tree, text, f"has {a} and {b} the wrong way round")

    def _axes_within(self, node: ast.Call) -> list[str]:
        """Axes of what a function takes."""
        function = node.func
        operand = node.args[0] if node.args else None
        if isinstance(function, ast.Attribute) and self._is_method(function):
            operand = function.value
        value = self.value_of(self.code(operand)) if operand is not None else None
        return _axes(min(np.ndim(value), MOST_AXES) if value is not None else 3)

    def _axis_of(self, node: ast.Call) -> ast.expr | None:
        """The axis that a function takes."""
        given = next((k.value for k in node.keywords if k.arg in ("axis", "axes")), None)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else self.code(node.func)
        place = 0 if self._is_method(node.func) else 1
        return node.args[place] if given is None and called in REDUCING and len(node.args) > place else given

    def _is_method(self, function: ast.expr) -> bool:
        return isinstance(function, ast.Attribute) and self.code(root_of(function)) not in self.modules

    def _of_slices(self) -> Iterator[Variant]:
        """Two slices the wrong way round; a value that is turned round before and after, left as it is."""
        sliced = [n for n in ast.walk(self.tree) if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Slice)]
        for a, b in itertools.combinations(sliced, 2):  # of two in each other, the outer one comes first
            first, second = self.code(a.slice), self.code(b.slice)
            if first != second:
                text = put_at_all(self.text, {a.slice: second, b.slice: first})
                words = f"has [{first}] and [{second}] the wrong way round"
                yield self.make("exchanged", "wrong-index", self.tree, text, words)
            elif first == "::-1" and any(part is b for part in ast.walk(a.value)):
                inner = self.code(b.value) if id(b) in self.arguments else self.tight(b.value)
                as_it_is = self.code(a.value).replace(self.code(b), inner, 1)
                yield self.make("exchanged", "wrong-index", a, as_it_is, "goes through it in the other direction")

    def _of_operator(self, node: ast.BinOp) -> Iterator[Variant]:
        left, right, now = self.tight(node.left), self.tight(node.right), OPERATORS.get(type(node.op), "")
        product, total = now in "*/@", now in ("+", "-")
        for sign in ("+", "-", "*", "/", "@", "**") if now in ("+", "-", "*", "/", "@", "**") else ("&", "|"):
            if sign != now and not (sign in "*/**" and self.code(node.right) in ("1", "1.0")):
                kind = "sign" if total and sign in "+-" else "wrong-operand"
                words = "has the wrong sign in it" if kind == "sign" else ""
                words = words or f"has {left} {now} {right} where {left} {sign} {right} is needed"
                how = "name" if sign in "@**" else "operator"
                yield self.make(
                    how, kind, node, self._joined(node.left, sign, node.right), words, -0.15 * (kind == "sign")
                )
        if now == "*" and isinstance(node.right, ast.Call) and node.right.args and not node.right.keywords:
            call, (first, *rest) = node.right, node.right.args
            inner = ", ".join([f"{left} * {self.tight(first)}", *map(self.code, rest)])
            words = f"has the factor {left} outside of {self.code(call.func)}, and must have it inside"
            yield self.make("bracket", "wrong-operand", node, f"{self.code(call.func)}({inner})", words)
        if now in ("-", "/", "@", "**"):
            kind = "sign" if now == "-" else "transpose" if now == "@" else "wrong-operand"
            yield self.make("exchanged", kind, node, self._joined(node.right, now, node.left))
        if now == "@":
            yield self.make("exchanged", "transpose", node, f"{right}.T @ {left}")
            yield self.make("exchanged", "transpose", node, f"{right} @ {left}.T", more=0.1)
        if now == "*":
            words = f"takes {left} and {right} of the same place, and must take those one apart"
            for first, second in (
                ("[1:]", "[:-1]"),
                ("[:-1]", "[1:]"),
                ("[:, 1:]", "[:, :-1]"),
                ("[:, :-1]", "[:, 1:]"),
            ):
                yield self.make("index", "wrong-index", node, f"{left}{first} * {right}{second}", words, 0.2)
        for side, other in ((node.right, node.left), (node.left, node.right)):
            kept, gone = self.code(other) if node is self.tree else self.tight(other), self.code(side)
            if side is node.left and now == "-":
                kept = f"-{self.tight(other)}"
            elif side is node.left and now == "/":
                kept = f"1 / {self.tight(other)}"
            for times in (0.5, 2.0) if total else ():
                by = f"{times:g} * {bracketed(gone)}"
                words = f"has {gone} where {by} is needed"
                yield self.make("constant", "scale-constant", side, by, words, 0.1)
            if total:
                twice = self.code(other).count(gone) > 0
                words = f"counts the term {gone} twice" if twice else f"has the term {gone} too much"
                yield self.make("left out", "double-count" if twice else "extra-term", node, kept, words)
            elif product and now != "@":
                kind = "scale-constant" if isinstance(side, ast.Constant) else "wrong-operand"
                gone = f"1/{bracketed(gone, products=True)}" if now == "/" and side is node.right else gone
                yield self.make("left out", kind, node, kept, f"has the factor {gone} too much")
            elif now == "**" and side is node.right:
                yield self.make("power", "scale-constant", node, kept, f"has the power {gone}, and must not")
        for inner, first in ((node.left, True), (node.right, False)):
            if not isinstance(inner, ast.BinOp) or type(inner.op) not in OPERATORS or now == "**":
                continue
            a, b, sign = self.tight(inner.left), self.tight(inner.right), OPERATORS[type(inner.op)]
            by = f"{a} {sign} ({b} {now} {right})" if first else f"({left} {now} {a}) {sign} {b}"
            yield self.make("bracket", "wrong-operand", node, by)
            if first and total is not (sign in ("+", "-")) and sign in ("+", "-"):  # (a + b) c meant for a + b c
                yield self.make("bracket", "wrong-operand", node, f"{a} {now} {right} {sign} {b}")

    def _joined(self, left: ast.expr, sign: str, right: ast.expr) -> str:
        """Two parts with an operator between them, with as few brackets as it takes."""
        first, second = self.code(left), self.code(right)
        if sign in "+-":
            return f"{bracketed(first, sums=False)} {sign} {bracketed(second, sums=sign == '-')}"
        power = sign == "**"
        return f"{bracketed(first, products=power)} {sign} {bracketed(second, products=True)}"

    def _of_call(self, node: ast.Call) -> Iterator[Variant]:
        function, text = node.func, self.code(node)
        called = function.attr if isinstance(function, ast.Attribute) else self.code(function)
        called = self.aliases.get(called, called)
        method, taken = self._is_method(function), self._axis_of(node)
        place = 0 if method else 1
        yield from self._of_entries_set(node) if called == "set" else self._of_function(function, called, method)
        yield from self._of_axes(node, called, taken)
        yield from self._of_flags(node, called)
        operand = function.value if isinstance(function, ast.Attribute) else None
        operand = node.args[0] if node.args and not method else operand
        if operand is not None and called not in ("set", "add", "zeros_like", "at", "astype"):
            kind = {
                "ones_like": "missing-mask",
                "sum": "wrong-reduction-axis",
                "mean": "wrong-reduction-axis",
                "flip": "wrong-index",
                "roll": "wrong-index",
                "conj": "sign",
            }.get(called, "wrong-operand")
            yield self.make("left out", kind, node, self.tight(operand), f"must not take the {called}")
        yield from self._of_arguments(node, called)
        if called == "where" and len(node.args) == 3:
            for branch in node.args[1:]:
                if not isinstance(branch, ast.Constant):
                    yield self.make("condition", "missing-mask", branch, "0.0")
                    yield self.make("condition", "missing-activation-derivative", branch, "1.0")
            for const, other in (node.args[1:], node.args[:0:-1]):
                for number in self.numbers if isinstance(const, ast.Constant) else ():
                    by = f"{number:.12g} * {bracketed(self.code(other))}"
                    yield self.make("condition", "missing-activation-derivative", const, by)
            yield self.make(
                "condition",
                "missing-mask",
                node.args[0],
                f"~{self.tight(node.args[0])}",
                f"takes the opposite of {self.code(node.args[0])}",
            )
        if called == "roll" and len(node.args) > place:
            now = self.code(node.args[place])
            yield self.make(
                "index", "wrong-index", node.args[place], now[1:] if now.startswith("-") else f"-{bracketed(now)}"
            )
        if called in ("cumsum", "cumprod") and operand is not None:
            axis = self.code(taken) if taken is not None else "0"
            rest = text[len(self.code(function)) + 1 :]
            inner = self.code(operand)
            if not method and rest.startswith(inner):
                new = f"jnp.flip({self.code(function)}(jnp.flip({inner}, {axis}){rest[len(inner) :]}, {axis})"
                yield self.make("index", "wrong-index", node, new, "adds up in the other direction")
        if called in ("tril", "triu") and operand is not None:
            words = f"takes the diagonal of {self.code(operand)} whole, and must take half of it"
            by = f"{text} - 0.5 * jnp.diag(jnp.diag({self.code(operand)}))"
            by = by if id(node) in self.alone else f"({by})"
            yield self.make("constant", "scale-constant", node, by, words)
        if called == "einsum" and node.args and isinstance(node.args[0], ast.Constant):
            yield from self._of_letters(node.args[0])

    def _of_entries_set(self, node: ast.Call) -> Iterator[Variant]:
        """Entries of an array set, as those of `x.at[i].set(y)`: what they are to be may be added to what they are."""
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Subscript(value=ast.Attribute(value=array, attr="at"))), args=[held]
            ) if (value := self.value_of(self.code(held))) is not None and not np.any(value):
                by = self.code(array) if node is self.tree else self.tight(array)
                words = f"sets entries of {self.code(array)} to 0, and must leave them as they are"
                yield self.make("left out", "only-some-elements", node, by, words)
            case _:
                yield from self._of_function(node.func, "set", True)

    def _of_function(self, function: ast.expr, called: str, method: bool) -> Iterator[Variant]:
        """Another function."""
        for other in self.functions if called in self.functions else ():
            if other != called:
                words = f"calls {called} where {other} is needed"
                yield self.make("function", "wrong-operand", function, other, words)
        for pair, kind in TAKEN_FOR_EACH_OTHER.items():
            for now, other in (pair, pair[::-1]):
                if called == now and isinstance(function, ast.Attribute):
                    base = self.tight(function.value)
                    for module in dict.fromkeys((base, *(("jnp", "jax.nn", "jax.lax") if not method else ()))):
                        words, more = WORDS.get((now, other), ""), OF_EXP * ("exp" in pair)
                        yield self.make("function", kind, function, f"{module}.{other}", words, more)

    def _of_axes(self, node: ast.Call, called: str, taken: ast.expr | None) -> Iterator[Variant]:
        """Another axis, or one where none is `taken`."""
        text = self.code(node)
        comma = ", " if node.args or node.keywords else ""
        if taken is not None:
            kind = "wrong-index" if called == "flip" else "wrong-reduction-axis"
            verb = "sums" if called == "sum" else "takes the mean" if called == "mean" else f"takes the {called}"
            now, more = self.code(taken), OF_AN_ARGUMENT * isinstance(taken, ast.Name)
            for by in (*self._axes_within(node), "None"):
                yield self.make("axis", kind, taken, by, f"{verb} over axis {now}, and must over axis {by}", more)
        elif called in REDUCING:
            for by in self._axes_within(node):
                new = f"{text[:-1]}{comma}axis={by})"
                yield self.make(
                    "axis", "wrong-reduction-axis", node, new, f"takes the {called} over no axis, and must over {by}"
                )
                if called in ("sum", "mean", "max", "min", "var", "std"):
                    yield self.make("axis", "wrong-reduction-axis", node, f"{new[:-1]}, keepdims=True)")
        if called in REDUCING and not any(k.arg == "keepdims" for k in node.keywords):
            yield self.make("axis", "wrong-reduction-axis", node, f"{text[:-1]}{comma}keepdims=True)", more=0.2)

    def _of_flags(self, node: ast.Call, called: str) -> Iterator[Variant]:
        """What is on or off the other way round."""
        text = self.code(node)
        for k in node.keywords:
            if isinstance(k.value, ast.Constant) and isinstance(k.value.value, bool) and k.arg != "keepdims":
                kind = "transpose" if k.arg in ("lower", "transpose_a", "trans") else "wrong-index"
                yield self.make("flag", kind, k.value, str(not k.value.value))
            elif k.arg == "trans" and isinstance(k.value, ast.Constant):
                yield self.make("flag", "transpose", k.value, "0" if k.value.value else "1")
        less = next((k.value for k in node.keywords if k.arg == "ddof"), None)
        if called in ("std", "var") and less is None:
            words = "divides by the number of entries, and must by one less"
            yield self.make("flag", "scale-constant", node, f"{text[:-1]}, ddof=1)", words)
        elif less is not None:
            words = f"divides by the number of entries less {self.code(less)}, and must by all"
            yield self.make("flag", "scale-constant", less, "0", words)
        if called in ("solve_triangular", "cho_solve") and not any(k.arg == "trans" for k in node.keywords):
            yield self.make("flag", "transpose", node, f"{text[:-1]}, trans=1)")
        if called in ("solve_triangular", "cholesky", "eigh") and not any(k.arg == "lower" for k in node.keywords):
            yield self.make("flag", "transpose", node, f"{text[:-1]}, lower=True)")

    def _of_arguments(self, node: ast.Call, called: str) -> Iterator[Variant]:
        """Two arguments exchanged."""
        text, function = self.code(node), node.func
        for a, b in itertools.combinations(node.args, 2):
            if not isinstance(a, ast.Constant) or not isinstance(b, ast.Constant):
                args = [self.code(b) if x is a else self.code(a) if x is b else self.code(x) for x in node.args]
                start = len(self.code(function))
                tail = [f"{k.arg}={self.code(k.value)}" if k.arg else f"**{self.code(k.value)}" for k in node.keywords]
                new = f"{text[:start]}({', '.join([*args, *tail])})"
                kind = "transpose" if called == "outer" else "missing-mask" if called == "where" else "wrong-operand"
                words = f"takes {self.code(a)} and {self.code(b)} the wrong way round"
                yield self.make("exchanged", kind, node, new, words)

    def _of_letters(self, node: ast.Constant) -> Iterator[Variant]:
        before, arrow, out = str(node.value).partition("->")
        terms = before.split(",")
        letters = sorted({c for c in before if c.isalpha()})
        for k, term in enumerate([*terms, out] if arrow else terms):
            turned = {
                term[:i] + term[j] + term[i + 1 : j] + term[i] + term[j + 1 :]
                for i, j in itertools.combinations(range(len(term)), 2)
            }
            other = {term[:i] + c + term[i + 1 :] for i in range(len(term)) for c in letters}
            for new in sorted((turned | other) - {term}):
                its = [*terms, out] if arrow else list(terms)
                its[k] = new
                code = ",".join(its[:-1]) + "->" + its[-1] if arrow else ",".join(its)
                kind = "transpose" if new in turned else "wrong-index"
                yield self.make("letters", kind, node, f'"{code}"', more=0.1 * (new not in turned))

    def _of_constant(self, node: ast.Constant) -> Iterator[Variant]:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        role = self.role[id(node)]
        kind = {"axis": "wrong-reduction-axis", "index": "wrong-index"}.get(role, "scale-constant")
        others: list[Any] = [0, 1, -1, 2, -2, value + 1, value - 1] if isinstance(value, int) else [-value]
        if role == "":
            others += [0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 4.0, 0.25, 1.5, 1 / value if value else 0.0, -value]
            others += [2.0 * value, value / 2] if isinstance(value, float) else []
        for other in dict.fromkeys(others):
            if other != value or type(other) is not type(value):
                more = 0.0 if other in (value + 1, value - 1, -value, 0, 1) else 0.2
                more += OF_A_BORDER * (id(node) in self.compared)
                by = f"{other:.12g}"
                by += ".0" * (isinstance(value, float) and by.removeprefix("-").isdigit())
                by = by if id(node) in self.leading else bracketed(by)
                its = "sign" if other == -value and not role else kind
                yield self.make("index" if role else "constant", its, node, by, more=more)

    def _of_index(self, node: ast.Subscript) -> Iterator[Variant]:
        whole = self.code(node.value)
        of_shape = whole.endswith(".shape")
        kind = "scale-constant" if of_shape else "wrong-index"
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            now = self.code(part)
            if isinstance(part, ast.Slice):
                ends = [self.code(x) if x is not None else "" for x in (part.lower, part.upper, part.step)]
                for lower, upper in _other_ends(ends[0], ends[1], self.counters):
                    if (lower, upper) != (ends[0], ends[1]):
                        new = f"{lower}:{upper}" + (f":{ends[2]}" if ends[2] else "")
                        yield self.make("index", kind, part, new)
                step = "" if ends[2] == "-1" else "-1"
                yield self.make("index", kind, part, f"{ends[0]}:{ends[1]}:{step}", more=0.1)
            elif not isinstance(part, ast.Constant):
                plus, minus = now.removesuffix(" + 1"), now.removesuffix(" - 1")
                shorter = plus if plus != now else minus
                for new in dict.fromkeys((shorter, f"{shorter} - 1", f"{shorter} + 1", *self.counters, "0", "-1")):
                    if new != now:
                        yield self.make("index", kind, part, new, more=0.05 * (new in ("0", "-1")))
            elif part.value is not None:
                for new in self.counters:
                    yield self.make("index", kind, part, new)
        if (entry := _number(node.slice)) is not None and not of_shape:
            words = "takes one entry alone, and must add them up"
            kind = "overwritten-not-accumulated" if entry < 0 else "broadcast-not-summed"
            yield self.make("function", kind, node, f"{whole}.sum(0)", words)
        if len(parts) > 1:
            for sign in ("+", "-"):
                its = ", ".join(_further(self.code(part), sign) for part in parts)
                yield self.make("index", kind, node.slice, its, more=0.1)
            laid_out = {self.code(part) for part in parts} <= {"None", ":", "..."}
            for a, b in itertools.combinations(range(len(parts)), 2):
                its = [self.code(part) for part in parts]
                its[a], its[b] = its[b], its[a]
                if laid_out:
                    words = f"stands along another axis than {whole}[{', '.join(its)}], which is needed"
                    yield self.make("axis", "wrong-reduction-axis", node, f"{whole}[{', '.join(its)}]", words)
                else:
                    yield self.make("index", kind, node.slice, ", ".join(its))

    def _around(self, node: ast.AST) -> Iterator[Variant]:
        """What may be put around a part."""
        role, part, tight = self.role[id(node)], self.code(node), self.tight(node)
        if role in ("axis", "index"):
            if role == "index" and not isinstance(node, ast.Subscript):
                yield self.make("index", "wrong-index", node, f"{part} + 1")
                yield self.make("index", "wrong-index", node, f"{part} - 1")
            return
        brackets = lambda code: code if id(node) in self.alone else f"({code})"
        if id(node) not in self.ordered:
            yield self._of_other_sign(node)
        match node:
            case ast.BinOp(left=ast.Constant(value=1), op=ast.Sub(), right=rest):
                yield self.make("rest", "wrong-operand", node, self.tight(rest))
            case _:
                yield self.make("rest", "wrong-operand", node, brackets(f"1 - {tight}"))
        yield self.make(
            "power", "missing-factor", node, f"{tight}**2", f"lacks the factor {part}" if node is self.tree else ""
        )
        yield self.make("power", "wrong-operand", node, brackets(f"1 / {tight}"), more=0.1)
        yield self.make("power", "missing-factor", node, f"{tight}**3", more=0.2)
        for function, kind in AROUND.items():
            yield self.make("called", kind, node, f"{function}({part})")
        yield self.make("transposed", "transpose", node, f"{tight}.T", f"takes {part} where its transpose is needed")
        if isinstance(node, ast.Attribute) and node.attr == "T":
            yield self.make(
                "transposed", "transpose", node, self.code(node.value), f"takes {part} transposed, and must not"
            )
        yield self.make(
            "transposed",
            "transpose",
            node,
            f"jnp.swapaxes({part}, -1, -2)",
            f"takes {part} where its transpose is needed",
            0.1,
        )
        for axis in ("0", "1", "-1", "(0, 1)"):
            for keep in ("", ", keepdims=True"):
                words = f"takes {part} where its sum over axis {axis} is needed"
                yield self.make("summed", "broadcast-not-summed", node, f"{tight}.sum({axis}{keep})", words)
            words = f"takes {part} where its mean over axis {axis} is needed"
            yield self.make("summed", "broadcast-not-summed", node, f"{tight}.mean({axis}, keepdims=True)", words, 0.5)
            yield self.make("turned", "wrong-index", node, f"jnp.flip({part}, {axis})")
        if np.ndim(self.value_of(part)) > 2:
            for axes in ("(1, 2)", "(2, 3)", "(-2, -1)"):
                yield self.make("turned", "wrong-index", node, f"jnp.flip({part}, {axes})")
        yield self.make(
            "summed", "broadcast-not-summed", node, f"{tight}.sum()", f"takes {part} where its sum is needed"
        )
        yield self.make("turned", "transpose", node, brackets(f"({tight} + {tight}.T) / 2"), more=0.2)
        yield self.make("condition", "missing-mask", node, brackets(f"{tight} > 0"), more=0.3)
        for index in ("[:, None]", "[None, :]", "[..., None]"):
            yield self.make("axis", "wrong-reduction-axis", node, f"{tight}{index}", more=0.3)

    def _of_other_sign(self, node: ast.AST) -> Variant:
        part, tight = self.code(node), self.tight(node)
        words = "has the wrong sign" if node is self.tree else f"takes {part} with the wrong sign"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            turned, more = self._joined(node.right, "-", node.left), 0.02 * isinstance(node.left, ast.Constant)
            by = turned if id(node) in self.alone else f"({turned})"
            return self.make("sign", "sign", node, by, words, more=0.06 + more)
        signed = f"-{tight}" if id(node) in self.leading else f"(-{tight})"
        return self.make("sign", "sign", node, signed, words, more=0.06)

    # --- with other values ----------------------------------------------------------------------------------------

    def _made_of(self, node: ast.AST, names: Sequence[str]) -> bool:
        taken = names_within(node) if names else set()
        return taken.issuperset(names) and not (names and any(isinstance(n, ast.Call) for n in ast.walk(node)))

    def _holds(self, node: ast.Subscript, entries: Any) -> bool:
        """Are these entries of what the part takes entries of?"""
        whole = self.value_of(self.code(node.value))
        return isinstance(whole, np.ndarray) and whole.size > np.size(entries) and bool(np.all(np.isin(entries, whole)))

    def swapped(self, node: ast.AST, value: Any, named: Sequence[Named]) -> Iterator[tuple[Variant, Any]]:
        """A part replaced by another value; with what is put there."""
        part, role, number = self.code(node), self.role[id(node)], isinstance(node, ast.Constant)
        for its in named:
            for code, other in [*its_layouts(its, value), *_reshaped(its, part, value)]:
                if code == part or not self._made_of(node, its.of):
                    continue
                if its.cost >= FAR_FETCHED and not number and names_in(code).isdisjoint(names_within(node)):
                    continue
                if number and np.ndim(other) and (role or id(node) in self.factors):
                    continue  # nobody writes 2 for an array
                kind = _kind_of_swap(part, value, code, other, role, number)
                words = f"takes {part} where {code} is needed" if not number else ""
                lacking = [term for term, held in its.terms if _same(held, value)]
                if kind == "wrong-operand" and isinstance(node, ast.Subscript) and self._holds(node, other):
                    kind = "wrong-index"
                if lacking and not number:
                    rest = {term: held for term, held in its.terms if term not in lacking}
                    terms, kinds = f"the term {' and '.join(rest)}", {*map(kind_of_term, rest.values())}
                    kind = kinds.pop() if len(kinds) == 1 else "missing-term"
                    words = f"lacks {terms}" if node is self.tree else f"takes {part} without {terms}"
                elif factor := _beside(code, part):
                    kind = _kind_of_factor(self.value_of(factor), factor)
                    words = f"takes {part} without the factor {factor}"
                alone = id(node) in self.alone
                by = bracketed(code, sums=not alone, products=not alone)
                border = OF_A_BORDER * (id(node) in self.compared and np.ndim(value) == 0)
                more = its.cost + border - OF_A_TERM * bool(lacking and not number)
                yield self.make("name", kind, node, by, words, more), other

    def combined(self, node: ast.AST, value: Any, named: Sequence[Named]) -> Iterator[tuple[Variant, Any]]:
        """A part times another value, divided by it, plus or less it."""
        for its in named if not isinstance(node, ast.Constant) and not self.role[id(node)] else ():
            for code, other in its_layouts(its, value):
                yield from self._combined(node, value, code, other, its.cost)
            if np.ndim(its.value) == 2 and np.ndim(value) in (1, 2):
                yield from self._multiplied(node, value, its)

    def _multiplied(self, node: ast.AST, value: Any, its: Named) -> Iterator[tuple[Variant, Any]]:
        """A part times a matrix or its transpose, from either side, or times its inverse."""
        part, tied = self.tight(node), bracketed(its.code, products=True)
        turned, inverse = f"{tied}.T", f"jnp.linalg.solve({its.code}, {self.code(node)})"
        ways: list[tuple[str, str, Callable[..., Any], Any, Any]] = [
            (f"{part} @ {tied}", tied, np.matmul, value, its.value),
            (f"{part} @ {turned}", turned, np.matmul, value, its.value.T),
            (f"{tied} @ {part}", tied, np.matmul, its.value, value),
            (f"{turned} @ {part}", turned, np.matmul, its.value.T, value),
        ]
        if its.value.shape[0] == its.value.shape[1]:
            ways.append((inverse, f"{tied}⁻¹", np.linalg.solve, its.value, value))
        for by, code, operation, first, second in ways:
            if (product := _tried(operation, first, second)) is not None:
                words = f"lacks the factor {code}" if node is self.tree else f"takes {part} without the factor {code}"
                by = by if id(node) in self.alone or by is inverse else f"({by})"
                yield self.make("factor", "missing-factor", node, by, words, its.cost + 0.1), product

    def _combined(self, node: ast.AST, value: Any, code: str, other: Any, cost: float) -> Iterator[tuple[Variant, Any]]:
        whole, part = node is self.tree, self.code(node)
        factor, tied, divisor = bracketed(part), bracketed(code), bracketed(code, products=True)
        ways = (
            ("factor", self._kind_of_factor(other, code), np.multiply, f"{factor} * {tied}", f"factor {code}"),
            ("divisor", _kind_of_divisor(other, code), np.divide, f"{factor} / {divisor}", f"factor 1/{divisor}"),
            ("term", kind_of_term(other), np.add, f"{part} + {tied}", f"term {code}"),
            ("term", kind_of_term(other), np.subtract, f"{part} - {tied}", f"term −{tied}"),
        )
        for how, kind, operation, by, lacking in ways:
            if how == "term" and _same(other, value):
                continue  # it is a factor of 2
            if how == "divisor" and self._kind_of_factor(other, code) == "missing-mask":
                continue  # nobody divides by what is 0 or 1
            if (together := _tried(operation, value, other)) is not None:
                words = f"lacks the {lacking}" if whole else f"takes {part} without the {lacking}"
                by = by if id(node) in self.alone else f"({by})"
                yield self.make(how, kind, node, by, words, cost), together
        if isinstance(other, float) and other > 0 and np.ndim(value) and not np.iscomplexobj(value):
            words = f"does not cut {part} off at ±{code}"
            clipped = np.clip(value, -other, other)
            yield self.make("called", "missing-mask", node, f"jnp.clip({part}, -{code}, {code})", words, cost), clipped

    def _kind_of_factor(self, x: Any, code: str) -> str:
        if code not in self._kinds:
            self._kinds[code] = _kind_of_factor(x, code)
        return self._kinds[code]

    def distributed(self, named: Sequence[Named]) -> Iterator[tuple[Variant, Any]]:
        """One factor of both terms of a sum, of which one term has another."""
        for node in self.parts:
            match node:
                case ast.BinOp(
                    left=factor, op=ast.Mult(), right=ast.BinOp(left=a, op=ast.Add() | ast.Sub() as sign, right=b)
                ):
                    held = [self.value_of(self.code(part)) for part in (factor, a, b)]
                case _:
                    continue
            operation = np.add if isinstance(sign, ast.Add) else np.subtract
            first = _tried(np.multiply, held[0], held[1]) if held[0] is not None and held[1] is not None else None
            for its in named if first is not None and held[2] is not None else ():
                second = _tried(np.multiply, its.value, held[2])
                value = _tried(operation, first, second) if second is not None else None
                if value is not None:
                    code = f"{self.tight(factor)} * {self.tight(a)} {OPERATORS[type(sign)]} "
                    code += f"{bracketed(its.code)} * {self.tight(b)}"
                    words = f"has {self.code(b)} times {self.code(factor)}, and must have it times {its.code}"
                    yield self.make("product", "wrong-operand", node, code, words, its.cost), value

    def everywhere(self, named: Sequence[Named]) -> Iterator[tuple[str, Variant, Any]]:
        """A name times another value at all of its places, or that value there: the text with a hole for what is put
        there, the change, and the value that is put there."""
        places: dict[str, list[ast.AST]] = {}
        for node in self.parts:
            if isinstance(node, ast.Name) and not self.role[id(node)]:
                places.setdefault(node.id, []).append(node)
        for name, nodes in places.items():
            now, holed = self.value_of(name), put_at_all(self.text, dict.fromkeys(nodes, HOLE))
            for its in named if len(nodes) > 1 and np.ndim(now) else ():
                where = f"at {len(nodes)} places"
                if its.code != name and np.shape(its.value) == np.shape(now):
                    by, words = bracketed(its.code, products=True), f"takes {name} {where} where {its.code} is needed"
                    text = put_at_all(self.text, dict.fromkeys(nodes, by))
                    yield holed, self.make("name", "wrong-operand", self.tree, text, words, its.cost + 0.2), its.value
                if (product := _tried(np.multiply, now, its.value)) is not None and np.shape(product) == np.shape(now):
                    by, words = (
                        f"({name} * {bracketed(its.code)})",
                        f"takes {name} {where} without the factor {its.code}",
                    )
                    text = put_at_all(self.text, dict.fromkeys(nodes, by))
                    kind = _kind_of_factor(its.value, its.code)
                    yield holed, self.make("factor", kind, self.tree, text, words, its.cost + 0.1), product

    def of_products(self, named: Sequence[Named]) -> Iterator[tuple[Variant, Any]]:
        """Two factors of a product, as of a slope, with one value in their place."""
        inner = {id(node.left) for node in ast.walk(self.tree) if isinstance(node, ast.BinOp) and _is_product(node)}
        for node in self.parts:
            if not isinstance(node, ast.BinOp) or not _is_product(node) or id(node) in inner:
                continue
            factors = [*_factors(node)]
            values = [self.value_of(self.code(factor)) for factor, _ in factors]
            if not 2 < len(factors) <= MOST_FACTORS or any(value is None for value in values):
                continue
            for gone in itertools.combinations(range(len(factors)), 2):
                kept = [k for k in range(len(factors)) if k not in gone]
                if not factors[kept[0]][1]:
                    continue  # it would begin with a divisor
                rest, code = values[kept[0]], self.tight(factors[kept[0]][0])
                for k in kept[1:]:
                    code += f" {'*' if factors[k][1] else '/'} {self.tight(factors[k][0])}"
                    rest = _tried(np.multiply if factors[k][1] else np.divide, rest, values[k])
                part = " · ".join(self.tight(factors[k][0]) for k in gone)
                for its in named:
                    product = _tried(np.multiply, rest, its.value) if rest is not None else None
                    if product is not None and np.ndim(its.value):
                        words = f"has {part} where {its.code} is needed"
                        kind = _kind_of_factor(its.value, its.code)
                        kind = "missing-activation-derivative" if kind == "missing-factor" else kind
                        yield (
                            self.make("product", kind, node, f"{code} * {bracketed(its.code)}", words, its.cost),
                            product,
                        )


def condition_with(text: str, tree: ast.expr, variant: Variant) -> str:
    """The condition of an expression that a change is in, changed; empty if it is in none."""
    conditions = [n.args[0] for n in ast.walk(tree) if isinstance(n, ast.Call) and _is_where(n) and n.args]
    conditions += [n for n in ast.walk(tree) if isinstance(n, ast.Compare)]
    for node in conditions:
        if any(part is variant.node for part in ast.walk(node)):
            code = put(text, variant.node, variant.by).encode()
            end = (node.end_col_offset or 0) + len(code) - len(text.encode())
            return code[node.col_offset : end].decode()
    return ""


MOST_FACTORS = 5


def _number(node: ast.expr) -> int | None:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None
    return value if isinstance(value, int) else None


def _further(index: str, sign: str) -> str:
    """The entry after an index, or before it."""
    other = {"+": " - 1", "-": " + 1"}[sign]
    return index.removesuffix(other) if index.endswith(other) else f"{bracketed(index)} {sign} 1"


def _is_roll(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and node.func.attr == "roll"


def _is_where(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("where", "select")


def _is_product(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div)


def _factors(node: ast.expr, up: bool = True) -> Iterator[tuple[ast.expr, bool]]:
    """Of a product, and whether each stands above the line."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div) and up:
        yield from _factors(node.left)
        yield node.right, isinstance(node.op, ast.Mult)
    else:
        yield node, up


AROUND = {
    "jnp.conj": "sign", "jnp.abs": "sign", "jnp.sign": "missing-factor", "jnp.sqrt": "wrong-operand",
    "jnp.exp": "missing-factor", "jnp.log": "wrong-operand", "jnp.tanh": "wrong-operand", "jnp.tril": "missing-mask",
    "jnp.triu": "missing-mask", "jax.nn.sigmoid": "wrong-operand", "jnp.diag": "wrong-index",
}  # fmt: skip
"""Functions that may be forgotten, and what kind of mistake that is."""


def _other_ends(lower: str, upper: str, counters: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Of a slice."""
    yield "", ""
    yield "1", ""
    yield "", "-1"
    for end in ("0", "1", "-1", *counters):
        yield end, upper
        yield lower, end
    for shift in (" + 1", " - 1"):
        if lower:
            yield lower + shift, upper
        if upper:
            yield lower, upper + shift
        if lower and upper:
            yield lower + shift, upper + shift
    for counter in counters:
        joined = [f"{counter} + {bracketed(end)}" if end else counter * (end is lower) for end in (lower, upper)]
        yield joined[0], joined[1]


def its_layouts(named: Named, like: Any) -> Iterator[tuple[str, Any]]:
    """A value as it is written beside one of this shape."""
    value, rank = named.value, np.ndim(like)
    yield named.code, value
    own = np.ndim(value)
    if own == 2 and rank == 2:
        yield f"{bracketed(named.code, products=True)}.T", value.T
    if 0 < own < rank:
        code = bracketed(named.code, products=True)
        yield f"{code}[..., None]" if rank > 2 else f"{code}[:, None]", value[..., None]
        if rank == own + 2:
            yield f"{code}[..., None, None]", value[..., None, None]


def _reshaped(named: Named, part: str, like: Any) -> Iterator[tuple[str, Any]]:
    """A value with as many entries, in the shape of a part."""
    value = named.value
    arrays = part.isidentifier() and np.ndim(value) > 1 and np.ndim(like) > 1
    if arrays and value.size == like.size and value.shape != like.shape:
        yield f"{bracketed(named.code, products=True)}.reshape({part}.shape)", value.reshape(like.shape)


def _tried(operation: Any, a: Any, b: Any) -> Any:
    try:
        with np.errstate(all="ignore"):
            return operation(a, b)
    except (ValueError, TypeError):
        return None


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return False
    return np.shape(a) == np.shape(b) and bool(np.all(_kept(b, a)))


def _kept(now: Any, other: Any) -> np.ndarray:
    """Which entries are the same."""
    now, other = (np.asarray(x, complex) for x in (now, other))  # booleans cannot be subtracted
    with np.errstate(all="ignore"):
        return np.abs(other - now) <= 1e-9 * np.max(np.abs(now), initial=0.0)


MASKED = 1e4
"""What is added to a number of ordinary size to leave it out of a softmax or a maximum is at least as large."""


def kind_of_term(x: Any) -> str:
    """Of mistake, where it is not added: of what is 0 here and without bounds there, a mask."""
    size = np.abs(np.asarray(0 if x is None else x))  # of the sign of a term nothing is held
    return "missing-mask" if np.any(size >= MASKED) and np.all((size == 0) | (size >= MASKED)) else "missing-term"


def _kind_of_divisor(x: Any, code: str) -> str:
    if ".shape[0]" in code or "len(" in code:
        return "batch-mean-vs-sum"
    number = np.ndim(x) == 0 and not code.isidentifier()
    return "scale-constant" if number or not (np.ndim(x) == 0 or varies(np.asarray(x, complex))) else "missing-factor"


def _kind_of_factor(x: Any, code: str) -> str:
    held = np.unique(np.asarray(x))
    inside = {-1.0, 0.0, 1.0}.issuperset(held.tolist())
    if inside and -1 in held:
        return "sign"
    if inside:
        return "missing-mask"
    if any(mark in code for mark in ("**2", "* (1 - ", "> 0")):
        return "missing-activation-derivative"
    if np.ndim(x) == 0 and (".shape[0]" in code or "len(" in code):
        return "batch-mean-vs-sum"
    return "scale-constant" if re.fullmatch(r"[\d.]+", code) else "missing-factor"


def _beside(code: str, part: str) -> str:
    """What a part is multiplied by in a product of two, as code; empty if it is none."""
    match ast.parse(code, mode="eval").body:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            sides = source_of(code, left), source_of(code, right)
            return sides[1 - sides.index(part)] if part in sides else ""
    return ""


def _kind_of_swap(part: str, now: Any, code: str, other: Any, role: str, number: bool) -> str:
    if role == "index":
        return "wrong-index"
    if role == "axis":
        return "wrong-reduction-axis"
    variables = part.isidentifier() and code.isidentifier() and not isinstance(now, int)
    if np.ndim(other) == 0 and (number or isinstance(now, int | float)) and not variables:
        return "scale-constant"
    if (kind := kind_instead_of(part, code)) != "wrong-operand":
        return kind
    if np.shape(now) == np.shape(other) and np.ndim(now):
        kept, left_out = _kept(now, other), np.isinf(other) & ~np.isinf(now)
        if np.any(left_out) and np.all(kept | left_out):
            return "missing-mask"
        if np.any(kept) and not np.all(kept) and not np.any(np.asarray(other)[~kept]):
            return "missing-activation-derivative"
        held = np.unique(np.asarray(other))
        if held.size == 2 and {0.0, 1.0}.issuperset(held.tolist()):
            return "missing-mask"
    return "wrong-operand"
