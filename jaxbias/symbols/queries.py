"""What is asked of expressions: their parts, how much there is to compute, a word for one without a name."""

import re
from collections.abc import Container, Iterator, Sequence

from jaxbias.symbols.expressions import Expression, bare

CHEAP = {"name", "number", "size", "spread", "expand", "drop", "reshape", "transpose", "negative", "cast", "compare"}
"""What is as soon computed again as kept."""


def parts(x: Expression) -> Iterator[Expression]:
    """x and all that it is made of, each once, operands first."""
    seen: set[Expression] = set()

    def visit(node: Expression) -> Iterator[Expression]:
        if node in seen:
            return
        seen.add(node)
        for arg in node.args:
            yield from visit(arg)
        yield node

    yield from visit(x)


def weight(x: Expression) -> int:
    """How much there is to compute: functions, sums and products count, layout does not."""
    return sum(node.op not in CHEAP for node in parts(x))


def shared(roots: Sequence[Expression], named: Container[Expression]) -> list[Expression]:
    """Parts that occur more than once and are worth a line of their own, in order of need."""
    uses: dict[Expression, int] = {}
    order: list[Expression] = []

    opened: set[Expression] = set()

    def visit(node: Expression, whole: bool = False) -> None:
        uses[node] = uses.get(node, 0) + 1
        if (whole or node not in named) and node.op != "size" and (node not in opened or node.op in CHEAP):
            opened.add(node)
            for arg in node.args:
                visit(arg)
        order.append(node)

    for root in dict.fromkeys(roots):
        visit(root, True)
    return [n for n in dict.fromkeys(order) if uses[n] > 1 and n not in named and n.op not in CHEAP and _long(n)]


def _long(x: Expression) -> bool:
    return weight(x) > 1 or x.op in ("contract", "total", "call")


_WORDS = {"contract": "z", "total": "total", "div": "ratio", "add": "s", "mul": "product", "power": "power",
          "where": "chosen", "expand": "e"}  # fmt: skip
_SHORT = {"exp": "e", "sqrt": "root", "max": "largest", "min": "smallest"}


def word_for(x: Expression) -> str:
    """A name for a value that the user gave none."""
    words: list[str] = re.findall(r"([a-z]\w*)\(", f"{x.detail}(") if x.op in ("apply", "call") else []
    if words:
        of = bare(x.args[0]) if x.args else x
        return f"{words[0]}_{of.detail}" if of.op == "name" else _SHORT.get(words[0], words[0])
    if x.op in ("expand", "spread", "drop", "reshape", "transpose", "cast", "negative"):
        return word_for(x.args[0])
    return _WORDS.get(x.op, "value")


def is_of_sizes(x: Expression) -> bool:
    """Whether it is a number that only sizes go into."""
    return x.op in ("number", "size") or (bool(x.args) and all(map(is_of_sizes, x.args)))
