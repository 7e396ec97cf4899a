"""Which equations reach an output by numbers, and which only by what they choose: an argmax, a comparison, an index."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxbias._jaxpr import Equation, Program
from jaxbias.foreign._walk import NOT_BODIES


def by_numbers(program: Program) -> set[int]:
    """`id` of every equation from which floats lead to an output, through floats alone; into every body.

    A `stop_gradient` hands numbers on: a code that reaches the output by a straight-through estimate is used there.
    """
    reaching: set[int] = set()
    _mark(program, set(program.outputs), reaching)
    return reaching


def _mark(program: Program, wanted: set[int], reaching: set[int]) -> set[int]:
    """Of a program of which these values are wanted, the values that lead to them."""
    needed = {i for i in wanted if _is_float(program, i)}
    for equation in reversed(program.equations):
        if needed.isdisjoint(equation.outputs):
            continue
        reaching.add(id(equation))
        inputs: Sequence[int] = equation.inputs
        if equation.bodies and equation.name not in NOT_BODIES:
            inputs = _through_bodies(equation, needed, reaching)
        needed.update(i for i in inputs if _is_float(program, i))
    return needed


def _through_bodies(equation: Equation, needed: set[int], reaching: set[int]) -> list[int]:
    """The inputs of an equation that lead to those of its outputs that are needed."""
    inputs = equation.body_inputs(equation.inputs)
    leading: list[int] = []
    for body in equation.bodies:
        wanted = {inner for outer, inner in zip(equation.outputs, body.outputs) if outer in needed}
        reached = _mark(body, wanted, reaching)
        if equation.name in ("scan", "while"):
            first, count = equation.carried
            carries = list(zip(body.inputs[first : first + count], body.outputs))
            while more := {out for carry, out in carries if carry in reached} - wanted:
                wanted |= more
                reached = _mark(body, wanted, reaching)
        leading += [outer for outer, inner in zip(inputs, body.inputs) if inner in reached]
    return leading


def _is_float(program: Program, number: int) -> bool:
    return jnp.issubdtype(program.dtypes[number], jnp.inexact)
