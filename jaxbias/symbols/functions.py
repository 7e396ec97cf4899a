"""Elementwise functions of one value that a program calls, or writes of several calls: those have slopes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import depends_on
from jaxbias._jaxpr.sources import Segment, inside
from jaxbias.symbols.names import Name

PLAIN = frozenset(
    ("add", "add_any", "sub", "mul", "div", "neg", "copy", "copy_p", "convert_element_type", "real", "imag")
)
"""Primitives of which no function is made that has a slope worth a name."""

MIXING = frozenset((
    "cholesky", "triangular_solve", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "fft", "sort", "rev",
    "transpose", "dot_general", "gather", "scatter", "scatter-add", "dynamic_slice", "dynamic_update_slice",
    "reduce_precision", "lu", "eigh", "qr", "svd", "householder_product", "conv_general_dilated", "custom_linear_solve",
))  # fmt: skip
"""Primitives whose output may have the shape of what they take, though no entry of it is made of that entry alone."""

MOST_OPERATIONS = 40
"""Of a function that has a slope worth a name."""


class Function(NamedTuple):
    """An elementwise function of one value: the number of what it gives, and the equations that compute it."""

    value: int
    equations: tuple[_jaxpr.Equation, ...]


def elementwise_functions(program: _jaxpr.Program, names: Mapping[int, Name]) -> dict[int, Function]:
    """Operand of an elementwise function that the forward calls → the function; sums and products are none."""
    functions: dict[int, Function] = {}
    makers = {number: equation for equation in program.equations for number in equation.outputs}
    floats = {*_jaxpr.float_values(program), *(n for n in program.inputs if program.dtypes[n].kind == "f")}
    constants = program.constants.keys()
    varying = depends_on(program, program.inputs)
    place = {number: k for k, equation in enumerate(program.equations) for number in equation.outputs}
    users: dict[int, list[_jaxpr.Equation]] = {}
    for equation in program.equations:
        for number in equation.inputs:
            users.setdefault(number, []).append(equation)

    called = lambda equation, piece: piece in equation.segments
    written = lambda equation, piece: any(inside(segment, piece) for segment in equation.segments)

    def function(number: int, piece: Segment, belongs: Callable[[_jaxpr.Equation, Segment], bool]) -> int | None:
        """The one operand of the equations that belong to a piece of code, if they act entry by entry."""
        todo, operands = [number], set()
        within: set[int] = set()
        while todo:
            n = todo.pop()
            equation = makers.get(n)
            if equation is None or (n != number and not belongs(equation, piece)):
                operands.add(n)
            elif n not in within:
                within.add(n)
                shapes = {program.shapes[i] for i in equation.inputs}
                if equation.name in MIXING or len(equation.outputs) > 1 or not shapes <= {(), program.shapes[number]}:
                    return None
                its = (i for i in equation.inputs if i not in constants and program.shapes[i] == program.shapes[number])
                todo += its
            if len(operands) > 1 or len(within) > MOST_OPERATIONS:
                return None
        if len(operands) != 1 or all(makers[n].name in PLAIN for n in within):
            return None
        todo = [*within]
        while todo:  # those of the constants that it takes too
            free = [n for n in makers[todo.pop()].inputs if n not in varying and n not in constants and n not in within]
            within.update(free)
            todo += free
        equations = sorted({id(makers[n]): makers[n] for n in within}.values(), key=lambda e: place[e.outputs[0]])
        taken = {n for equation in equations for n in equation.inputs} - within - constants
        (operand,) = operands
        alone = operand not in program.outputs and all(belongs(user, piece) for user in users[operand])
        if operand in taken <= floats and alone:
            functions.setdefault(operand, Function(number, tuple(equations)))
            return operand
        return None

    for number, name in names.items():
        if number not in makers or "(" not in name.segment.text or program.dtypes[number].kind != "f":
            continue
        if function(number, name.segment, called) is None:  # else of what is written of several calls
            function(number, name.segment, written)
    return functions
