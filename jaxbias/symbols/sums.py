"""Sums and signs, which look alike in Python and in LaTeX."""

from collections.abc import Callable

from jaxbias.symbols.expressions import Expression, elementwise
from jaxbias.symbols.expressions import negative as negated


class Sums:
    """The part of a printer that writes a + b, a − b and −a.

    Attributes:
        text_of: the name of an expression that has one, and so no sign that shows.
        sum_level, product_level: how tightly a sum and a product bind.
    """

    text_of: Callable[[Expression], str | None]
    sum_level: int
    product_level: int

    def __call__(self, x: Expression, level: int = 0) -> str:
        """The text of x, in parentheses where it binds less tightly than its surroundings."""
        raise NotImplementedError

    def negative(self, x: Expression) -> tuple[str, int]:
        return f"-{self(x.args[0], self.product_level)}", self.sum_level

    def add(self, x: Expression) -> tuple[str, int]:
        first, second = x.args
        if (other := self._taken_away(second)) is not None:
            return f"{self(first, self.sum_level)} - {self(other, self.product_level)}", self.sum_level
        return f"{self(first, self.sum_level)} + {self(second, self.sum_level)}", self.sum_level

    def _taken_away(self, x: Expression) -> Expression | None:
        """What a sum that ends in x takes away, as people write it: a + (−b) and a + (−2 b) are a − b and a − 2 b."""
        if self.text_of(x) is not None:
            return None
        if x.op == "negative":
            return x.args[0]
        number = x
        while number.op in ("mul", "div") and self.text_of(number) is None:
            number = number.args[0]
        signed = number.op == "number" and number.dtype.kind in "fiu" and number.detail < 0
        return _positive(x) if signed else None


def _positive(x: Expression) -> Expression:
    """Without the sign of the number that it begins with."""
    return negated(x) if x.op == "number" else elementwise(x.op, (_positive(x.args[0]), x.args[1]), x.detail, x.dtype)
