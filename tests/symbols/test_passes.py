"""Values of a loop, pass by pass: of scans, of Python loops, and of no code that only looks like one."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols.passes import passes

X = np.arange(6.0).reshape(2, 3)


def lengths(function):
    program = _jaxpr.trace(function, X)
    makers = {n: equation.name for equation in program.equations for n in equation.outputs}
    return sorted((makers[group[0]], len(group)) for group in passes(program))


def in_python(x):
    total = x
    for _ in range(4):
        total = jnp.tanh(total * x)
    return [total + 1]


def scanned(x):
    return list(jax.lax.scan(lambda c, row: (jnp.tanh(c * row), c + row), jnp.zeros(3), x))


def test_what_is_computed_in_each_pass():
    assert lengths(in_python) == [("mul", 4), ("tanh", 4)]
    assert lengths(scanned) == [("add", 2), ("mul", 2), ("tanh", 2)]


def twice(x):
    return jnp.tanh(x * 2)


def test_a_function_called_at_two_places_has_not_run_twice():
    assert lengths(lambda x: [twice(x) + 1, twice(x + 3)]) == []


def test_the_numbers_come_in_the_order_of_the_passes():
    program = _jaxpr.trace(in_python, X)
    values = _jaxpr.evaluate(program, [X])
    (tanhs,) = (g for g in passes(program) if program.equations[-2].outputs[0] == g[-1])
    expected = X
    for number in tanhs:
        expected = np.tanh(expected * X)
        np.testing.assert_allclose(values[number], expected)
