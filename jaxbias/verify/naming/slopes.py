"""What the forward computes as code in the names of a rule, and slopes of that: of the functions that JAX has, and of
what is written of them."""

import ast
import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from jaxbias.symbols.reference_values import UNNAMED, ReferenceValue
from jaxbias.verify.naming.code import bracketed, is_code, names_within, root_of, value_of

if TYPE_CHECKING:
    from jaxbias.verify.naming.alignment import Alignment

OF_SLOPE, OF_COMPOSED = 0.3, 0.6
"""What the slope of a function costs more, and that of several."""

LONGEST, MOST_CODES = 80, 120

OF_FUNCTIONS = {
    "tanh": "(1 - jnp.tanh({0})**2)", "sigmoid": "jax.nn.sigmoid({0}) * (1 - jax.nn.sigmoid({0}))",
    "softplus": "jax.nn.sigmoid({0})", "relu": "({0} > 0)", "sin": "jnp.cos({0})", "cos": "-jnp.sin({0})",
    "silu": "(jax.nn.sigmoid({0}) * (1 + {0} * (1 - jax.nn.sigmoid({0}))))", "exp": "jnp.exp({0})", "log": "1 / {0}",
    "swish": "(jax.nn.sigmoid({0}) * (1 + {0} * (1 - jax.nn.sigmoid({0}))))", "log1p": "1 / (1 + {0})",
    "elu": "jnp.where({0} > 0, 1.0, jnp.exp({0}))", "sqrt": "0.5 / jnp.sqrt({0})", "expm1": "jnp.exp({0})",
    "arctan": "1 / (1 + {0}**2)", "sinh": "jnp.cosh({0})", "cosh": "jnp.sinh({0})", "tan": "(1 + jnp.tan({0})**2)",
    "log_sigmoid": "jax.nn.sigmoid(-{0})", "soft_sign": "1 / (1 + jnp.abs({0}))**2", "square": "2 * {0}",
    "arcsinh": "1 / jnp.sqrt(1 + {0}**2)", "arctanh": "1 / (1 - {0}**2)", "abs": "jnp.sign({0})",
    "erf": "2 * jnp.exp(-{0}**2) / jnp.sqrt(jnp.pi)", "clip": "(({0} > {1}) & ({0} < {2}))",
}  # fmt: skip
"""What the slope of each is at {0}, with other arguments {1} and {2}."""


class Slopes:
    """In the names that a rule has for what the forward computes.

    Args:
        own: code of the forward → what the rule calls that.
    """

    def __init__(self, own: Mapping[str, str]):
        self.own = {ast.unparse(tree): text for code, text in own.items() if (tree := value_of(code)[1]) is not None}

    def of_call(self, code: str) -> str:
        """By the operand of an expression that is a call; empty if it is none of a function whose slope is known."""
        _, tree = value_of(code)
        if isinstance(tree, ast.Call):
            with contextlib.suppress(ValueError):
                return self._of_call(tree)
        return ""

    def by_variable(self, code: str) -> str:
        """Of an expression of several operations, by its one variable; empty if it has others, or is linear in it."""
        _, tree = value_of(code)
        called = (
            {ast.unparse(root_of(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            if tree is not None
            else set()
        )
        variables = names_within(tree) - called - {"jnp", "np", "jax"} if tree is not None else set()
        if tree is None or len(variables) != 1 or _is_of_a_name(tree):
            return ""
        (variable,) = variables
        with contextlib.suppress(ValueError):
            slope = self._derivative(tree, variable)
            if self._text(ast.Name(variable)) in names_within(ast.parse(slope)):
                return ast.unparse(ast.parse(slope, mode="eval"))
        return ""

    def of_determinants(self, code: str) -> Iterator[str]:
        """Of log-determinants, by the matrices that an expression takes them of, or factors, as is done for them."""
        _, tree = value_of(code) if "linalg" in code else (code, None)
        for node in ast.walk(tree) if tree is not None else ():
            match node:
                case ast.Call(func=ast.Attribute(attr="slogdet" | "cholesky" | "cho_factor"), args=[matrix, *_]):
                    yield f"jnp.linalg.inv({ast.unparse(_InOwnNames(self.own).visit(copy.deepcopy(matrix)))})"

    def _text(self, node: ast.expr) -> str:
        """A part in the rule's names, to be a factor."""
        return bracketed(ast.unparse(_InOwnNames(self.own).visit(copy.deepcopy(node))), products=True)

    def _of_call(self, call: ast.Call) -> str:
        """The slope of a function that is called, by its first argument.

        Raises:
            ValueError: of this one none is known.
        """
        called = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if called not in OF_FUNCTIONS or call.keywords or len(call.args) != (3 if called == "clip" else 1):
            raise ValueError(called)
        return ast.unparse(ast.parse(OF_FUNCTIONS[called].format(*map(self._text, call.args)), mode="eval"))

    def _derivative(self, node: ast.expr, variable: str) -> str:
        """Of a part of an expression by a variable.

        Raises:
            ValueError: it has operations of which none is known.
        """
        text, by = self._text, lambda part: self._derivative(part, variable)
        if variable not in names_within(node):
            return "0"
        match node:
            case ast.Name():
                return "1"
            case ast.UnaryOp(op=ast.USub(), operand=a):
                return _product("-1", by(a))
            case ast.BinOp(left=a, op=ast.Add(), right=b):
                return _sum(by(a), by(b))
            case ast.BinOp(left=a, op=ast.Sub(), right=b):
                return _sum(by(a), _product("-1", by(b)))
            case ast.BinOp(left=a, op=ast.Mult(), right=b):
                return _sum(_product(by(a), text(b)), _product(text(a), by(b)))
            case ast.BinOp(left=a, op=ast.Div(), right=b):
                return _sum(_product(by(a), f"(1 / {text(b)})"), _product(f"-{text(a)} / {text(b)}**2", by(b)))
            case ast.BinOp(left=a, op=ast.Pow(), right=ast.Constant(value=int(power))):
                return _product(f"{power} * {text(a)}" + (f"**{power - 1}" if power != 2 else ""), by(a))
            case ast.Call(args=[a, *_]):
                return _product(self._of_call(node), by(a))
        raise ValueError(ast.dump(node))


class _InOwnNames(ast.NodeTransformer):
    def __init__(self, own: Mapping[str, str]):
        self.own = own

    def visit(self, node: ast.AST) -> ast.AST:
        name = self.own.get(ast.unparse(node)) if isinstance(node, ast.expr) else None
        return ast.parse(name, mode="eval").body if name else self.generic_visit(node)


def _is_of_a_name(tree: ast.expr) -> bool:
    """Is it a call of nothing but a variable, or that?"""
    return isinstance(tree, ast.Name) or (
        isinstance(tree, ast.Call) and all(isinstance(a, ast.Name) for a in tree.args)
    )


def _sum(a: str, b: str) -> str:
    if "0" in (a, b):
        return b if a == "0" else a
    return f"{a} - {b[1:]}" if b.startswith("-") else f"{a} + {b}"


def _product(a: str, b: str) -> str:
    if "0" in (a, b):
        return "0"
    if a == "-1":
        return f"-{bracketed(b)}"
    return " * ".join(bracketed(x) for x in (a, b) if x != "1") or "1"


def codes_of(alignment: "Alignment") -> list[tuple[str, float]]:
    """What the forward computes, and slopes of that, as code in the rule's names."""
    codes: dict[str, float] = {}
    slopes = Slopes({code: name.text for code, name in alignment.own.items()})
    for value in alignment.matcher.values:
        if not value.linear and value.rank <= UNNAMED:
            if is_code(code := alignment.own_name(value)) and len(code) < LONGEST:
                codes.setdefault(code, 0.2 + 0.1 * value.rank)
            codes.setdefault(slopes.of_call(value.name), OF_SLOPE)
    for value in alignment.matcher.named.values():
        definition = _definition(value)
        codes.setdefault(definition, 0.25)
        composed = definition or (value.name if is_code(value.name) and not value.linear | value.derivative else "")
        codes.setdefault(slopes.by_variable(composed), OF_COMPOSED)
        for inverse in slopes.of_determinants(composed or value.name):
            codes.setdefault(inverse, OF_SLOPE)
    codes.pop("", None)
    return list(codes.items())[:MOST_CODES]


def _definition(value: ReferenceValue) -> str:
    """What the forward assigns to a variable, as code; empty if that is not known."""
    statement = value.line.partition(": ")[2]
    assigned = statement.partition(" = ")
    return assigned[2] if assigned[0] == value.name and value_of(statement)[1] is not None else ""
