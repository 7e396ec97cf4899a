"""Intermediate values of a traced function written as short formulas, such as `1 - tanh(x @ W + b)²`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.sources import at_line

LONGEST = 70

SILENT = {
    "broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "expand_dims", "copy", "copy_p", "stop_gradient",
    "loop_index", "loop_stack", "optimization_barrier",
}  # fmt: skip
SIGNS = {"add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "lt": "<", "ge": ">=", "le": "<=",
         "eq": "==", "ne": "!=", "and": "&", "or": "|"}  # fmt: skip
NAMES = {"reduce_sum": "Σ", "reduce_max": "max", "reduce_min": "min", "logistic": "sigmoid", "max": "max", "min": "min"}


SHORT = 24
"""Longest formula of a forward value that is written out inside another one."""


class Expressions:
    """Formulas of the values of one program, in the names of its inputs.

    Args:
        values: numbers of the forward's values; inside other formulas a long one is written "out".
    """

    def __init__(self, program: _jaxpr.Program, input_names: list[str], values: Sequence[int] = ()):
        self.program = program
        self.names = dict(zip(program.inputs, input_names))
        several = len(values) > 1
        self.outs = {n: f"out[{k}]" if several else "out" for k, n in enumerate(values) if n not in self.names}
        self.maker = {number: equation for equation in program.equations for number in equation.outputs}
        self.cache: dict[int, str] = {}

    def __call__(self, number: int) -> str:
        """The formula, or an empty string where it would be too long to read."""
        text = self._write(number, 0)
        return text if len(text) <= LONGEST and "…" not in text else ""

    def _write(self, number: int, depth: int) -> str:
        if number in self.names:
            return self.names[number]
        if number in self.program.constants:
            value = self.program.constants[number]
            return f"{np.asarray(value):.4g}" if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub" else "c"
        if number not in self.cache:
            text = "…" if depth > 24 else self._equation(self.maker[number], depth + 1)
            long = len(text) > SHORT or "…" in text
            self.cache[number] = self.outs[number] if long and number in self.outs else text
        return self.cache[number]

    def _equation(self, equation: _jaxpr.Equation, depth: int) -> str:
        name, params = equation.name, equation.params
        parts = [self._write(i, depth) for i in equation.inputs]
        if any(len(part) > 2 * LONGEST for part in parts):
            return "…"
        if name in SILENT:
            return parts[0] if parts else "0"
        if name == "max" and "-inf" in parts:  # the first value of a running maximum
            return parts[1 - parts.index("-inf")]
        if name in SIGNS:
            a, b = (f"({part})" if _loose(part) and name in ("mul", "div", "sub") else part for part in parts)
            if name == "sub" and _loose(parts[0]):
                a = parts[0]
            return f"{a} {SIGNS[name]} {b}"
        if name == "neg":
            return f"-({parts[0]})" if _loose(parts[0]) else f"-{parts[0]}"
        if name == "dot_general":
            a, b = (f"({part})" if _loose(part) else part for part in parts)
            (ca, cb), _ = params["dimension_numbers"]
            rank_a, rank_b = (len(self.program.shapes[i]) for i in equation.inputs)
            a = f"{a}.T" if ca and ca[0] == 0 and rank_a == 2 else a
            b = f"{b}.T" if cb and cb[0] == 1 and rank_b == 2 else b
            return f"{a} @ {b}"
        if name == "transpose":
            return f"({parts[0]}).T" if _loose(parts[0]) else f"{parts[0]}.T"
        if name == "integer_pow":
            return f"({parts[0]})**{params['y']}" if _loose(parts[0]) else f"{parts[0]}**{params['y']}"
        if name == "square":
            return f"({parts[0]})**2" if _loose(parts[0]) else f"{parts[0]}**2"
        if name == "one_minus_square":
            return f"1 - ({parts[0]})**2" if _loose(parts[0]) else f"1 - {parts[0]}**2"
        if name == "select_n" and len(parts) == 3:
            return f"where({parts[0]}, {parts[2]}, {parts[1]})"
        return f"{NAMES.get(name, name)}({', '.join(parts)})"


def _loose(text: str) -> bool:
    """A sum or product at the outside, which needs brackets inside another operation."""
    level = 0
    for k, letter in enumerate(text):
        level += (letter == "(") - (letter == ")")
        if level == 0 and letter in "+-*/@<>=!&|" and k and text[k - 1] == " ":
            return True
    return text.startswith("-")


def line(source: Any) -> str:
    """A line of the user's forward, "file.py:12: code"."""
    return at_line(source.file, source.line, source.text) if source is not None else ""
