"""Pieces of Python as text: what they are, and what is written in their place."""

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence


def written(code: str, templates: Iterable[str]) -> Iterator[str]:
    """The code with the expression that it is or assigns in the place of {}, and of {0} as a factor.

    None where it cannot be read.
    """
    text, tree = value_of(code)
    for template in templates if tree is not None else ():
        tight = re.search(r"\{\}(\.|\[|\*\*)", template) is not None
        call = re.search(r"[(,] ?\{\}[,)]", template) is not None
        by = text if call else bracketed(text, sums=not re.match(r"\{\} [+-] ", template), products=tight)
        plain = template.replace("{0}", bracketed(text, products=True)).replace("{}", by)
        plain = _undone(text, tree, template) or plain
        for changed in filter(None, (_summed(text, tree, template), plain)):
            if _parsed(changed) is not None:
                yield code.replace(text, changed)


def _undone(text: str, tree: ast.expr | None, template: str) -> str:
    """Without the transpose, the conjugate or the factor that the template would undo; empty if there is none."""
    match template, tree:
        case "{}.T", ast.Attribute(value=inner, attr="T"):
            return source_of(text, inner)
        case "jnp.conj({})", ast.Call(func=ast.Attribute(value=inner, attr="conj"), args=[]):
            return source_of(text, inner)
        case "jnp.conj({})", ast.Call(func=ast.Name(id="conj") | ast.Attribute(attr="conj"), args=[inner]):
            return source_of(text, inner)
        case _, ast.BinOp(left=inner, op=ast.Div(), right=factor):
            return source_of(text, inner) if template == f"{{}} * {source_of(text, factor)}" else ""
        case _, ast.BinOp(left=inner, op=ast.Mult(), right=factor):
            return source_of(text, inner) if template == f"{{}} / {source_of(text, factor)}" else ""
    return ""


def _summed(text: str, tree: ast.expr | None, template: str) -> str:
    """The sum in the place of a mean that the template would multiply by a number; empty if it is none."""
    match tree:
        case ast.Call(func=ast.Attribute(attr="mean") as mean) if re.fullmatch(r"\{\} \* \d+", template):
            return put(text, mean, f"{source_of(text, mean).removesuffix('mean')}sum")
    return ""


@functools.lru_cache(20_000)
def _parsed(text: str) -> ast.expr | None:
    """The tree of an expression, which nobody may change; None of what is none."""
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def value_of(code: str) -> tuple[str, ast.expr | None]:
    """The expression that a piece of code is, or that it assigns, and its tree."""
    if (tree := _parsed(code)) is not None:
        return code, tree
    try:
        statement = ast.parse(code).body[0]
    except (SyntaxError, ValueError, IndexError):
        return code, None
    value = getattr(statement, "value", None)
    if not isinstance(statement, ast.Assign | ast.AugAssign | ast.Return | ast.AnnAssign) or value is None:
        return code, None
    text = ast.get_source_segment(code, value) or ""
    return text, _parsed(text)


def is_code(name: str) -> bool:
    """Whether the name of a value is an expression; ∂L/∂p is none."""
    return name.isascii() and "`" not in name and _parsed(name) is not None


@functools.lru_cache(256)
def names_in(text: str) -> frozenset[str]:
    """The names that an expression takes."""
    tree = _parsed(text)
    return names_within(tree) if tree is not None else frozenset()


def names_within(tree: ast.AST) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def root_of(function: ast.expr) -> ast.expr:
    """What a function is an attribute of, as `jax` of `jax.nn.relu`."""
    return root_of(function.value) if isinstance(function, ast.Attribute) else function


def put(text: str, node: ast.AST, by: str) -> str:
    """The text with another one in the place of a node."""
    raw = text.encode()
    start, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", len(raw))
    return raw[:start].decode() + by + raw[end:].decode()


def put_at_all(text: str, by: Mapping[ast.AST, str]) -> str:
    """The text with others in the place of nodes that do not stand in each other."""
    for node in sorted(by, key=lambda n: -getattr(n, "col_offset", 0)):
        text = put(text, node, by[node])
    return text


def source_of(text: str, node: ast.AST) -> str:
    return ast.get_source_segment(text, node) or ""


def kind_instead_of(taken: str, meant: str) -> str:
    """Of mistake, where one piece of code stands in the place of another."""
    if meant in (f"{taken}.T", f"({taken}).T") or taken == f"{meant}.T":
        return "transpose"
    if meant.startswith((f"{taken} + ", f"{taken} - ")) or meant.endswith(f" + {taken}"):
        return "missing-term"
    return "wrong-operand"


LOOSE = (ast.Compare, ast.BoolOp, ast.IfExp, ast.Lambda, ast.Tuple)


def bracketed(text: str, sums: bool = True, products: bool = False) -> str:
    """In brackets where it is a sum, a product, or what binds less than either."""
    node = _parsed(text)
    if node is not None and node.col_offset:
        return text  # it has brackets around it
    loose = isinstance(node, LOOSE)
    if isinstance(node, ast.BinOp):
        loose = (
            products or isinstance(node.op, ast.BitAnd | ast.BitOr) or (sums and isinstance(node.op, ast.Add | ast.Sub))
        )
    if isinstance(node, ast.UnaryOp):
        loose = sums or products
    return f"({text})" if loose else text


def listed(numbers) -> str:
    return ", ".join(map(str, numbers))


def axes_code(axes: Sequence[int]) -> str:
    """Axes as an argument."""
    return str(axes[0]) if len(axes) == 1 else f"({listed(axes)})"
