"""How equations reach an output: by numbers or only by what they choose (an argmax, an index); by nothing but sums."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxbias._jaxpr import Equation, Program
from jaxbias._jaxpr.queries import LAYOUT, depends_on
from jaxbias.foreign._walk import NOT_BODIES

SUMS = LAYOUT | frozenset(("add", "add_any", "sub", "neg", "reduce_sum", "concatenate"))
"""Operations after which what was added is still added; so it is after a product with constants."""


def by_sums(program: Program) -> set[int]:
    """`id` of every equation from which nothing but sums leads to the outputs, as from a log-determinant; no body's."""
    varying = depends_on(program, program.inputs)
    needed, bent, ending = set(program.outputs), set[int](), set[int]()
    for equation in reversed(program.equations):
        if needed.isdisjoint(equation.outputs):
            continue
        needed.update(equation.inputs)
        scales = equation.name in ("mul", "div") and len(varying.intersection(equation.inputs)) == 1
        if bent.isdisjoint(equation.outputs):
            ending.add(id(equation))
        if not bent.isdisjoint(equation.outputs) or not (equation.name in SUMS or scales):
            bent.update(equation.inputs)
    return ending


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
