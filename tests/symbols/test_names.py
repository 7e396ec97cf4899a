"""Names of values: the variable that they are assigned to, or their code; whatever calls what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import _jaxpr
from jaxbias.symbols.names import names_of
from jaxbias.symbols.reference_values import reference_values

X = np.linspace(0.1, 1.2, 6).reshape(2, 3)


def named(function, *args):
    return [name.text for name in names_of(_jaxpr.trace(lambda *xs: [function(*xs)], *args)).values() if name.variable]


def plain(x):
    a = jnp.tanh(x)
    b, c = a * 2, a + 1
    total: jax.Array = b + c
    total += 1
    return total


def helped(x):
    def scale(y):
        twice = 2 * y
        return twice + 1

    return jnp.sin(scale(x))


def unpacked(x):
    first, second = jnp.split(x, [1], axis=1)
    return first + second


@jax.jit
def compiled(y):
    inner = jnp.cos(y)
    return inner * 3


def calls_compiled(x):
    outer = compiled(x)
    return outer + 1


def over_lines(x):
    long = (
        jnp.sin(x)
        + jnp.cos(x)
    )  # fmt: skip
    return long * 2


def scanned(x):
    def step(carry, row):
        after = carry * 0.5 + row
        return after, after

    last, _ = jax.lax.scan(step, jnp.zeros(3), x)
    return last


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (plain, {"a", "b", "c", "total"}),
        (helped, {"twice"}),
        (unpacked, {"first", "second"}),
        (calls_compiled, {"inner", "outer"}),
        (over_lines, {"long"}),
        (scanned, {"after"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_variables(function, names):
    assert names <= set(named(function, X))


def test_a_library_function_compiled_by_another_caller_keeps_no_name_of_it():
    def first(x):
        mine = jnp.where(x > 1, x, 0)
        return mine + 1

    def second(x):
        yours = jnp.where(x > 1, x, 0)
        return yours + 2

    assert "mine" in named(first, X)
    assert "yours" in named(second, X) and "mine" not in named(second, X)


def test_a_gradient_by_every_forward_value():
    def forward(primals):
        (x,) = primals
        h = jnp.tanh(x)
        s = h.sum(axis=0)
        return [s * s]

    seed = np.arange(3.0)
    found = {value.name: value for value in reference_values(forward, [X], [seed], [[X, seed], [X + 1, seed]])}
    h = np.tanh(X)
    np.testing.assert_allclose(found["h"].array[0], h)
    np.testing.assert_allclose(found["∂L/∂s"].array[0], 2 * h.sum(0) * seed)
    np.testing.assert_allclose(found["∂L/∂h"].array[0], np.broadcast_to(2 * h.sum(0) * seed, h.shape))
    np.testing.assert_allclose(found["1 - h**2"].array[1], 1 - np.tanh(X + 1) ** 2)
    assert found["∂L/∂h"].linear and not found["h"].linear
