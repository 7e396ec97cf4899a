"""Expressions as Python and as LaTeX: sums and signs, as people write them."""

import pytest

from jaxbias.symbols import expressions as ex
from jaxbias.symbols.latex import Latex
from jaxbias.symbols.python import Printer

A, B, C = (ex.name(text, (3,), "float32") for text in "abc")


def number(value):
    return ex.number(value, "float32")


MINUS_2B = ex.multiply(number(-2), B)


@pytest.mark.parametrize(
    ("value", "python", "latex"),
    [
        (ex.add(A, B), "a + b", "a + b"),
        (ex.subtract(A, B), "a - b", "a - b"),
        (ex.add(A, number(-0.5)), "a - 0.5", "a - 0.5"),
        (ex.add(A, MINUS_2B), "a - 2 * b", r"a - 2 \, b"),
        (ex.add(A, ex.divide(MINUS_2B, C)), "a - 2 * b / c", r"a - \frac{2 \, b}{c}"),
        (ex.add(A, ex.divide(ex.multiply(MINUS_2B, C), B)), "a - 2 * b * c / b", None),
        (ex.subtract(A, ex.add(B, C)), "a - (b + c)", r"a - \left(b + c\right)"),
        (ex.add(A, ex.subtract(B, C)), "a + b - c", "a + b - c"),
        (ex.negative(ex.add(A, B)), "-(a + b)", r"-\left(a + b\right)"),
        (ex.multiply(A, ex.add(B, MINUS_2B)), "a * (b - 2 * b)", None),
    ],
)
def test_sums_and_signs(value, python, latex):
    assert Printer()(value) == python
    assert latex is None or Latex()(value) == latex


def test_a_name_has_no_sign_that_shows():
    assert Printer(lambda x: "d" if x is MINUS_2B else None)(ex.add(A, MINUS_2B)) == "a + d"
