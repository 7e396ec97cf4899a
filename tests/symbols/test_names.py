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


def both(x):
    low = jnp.sin(x)
    high = jnp.cos(low) + low
    return high * 2, low


def of_a_call(x):
    first, second = both(x)
    return first + second


def not_all_of_it(x):
    first, second = (lambda y: (y * y + 1, y))(x)
    return first * second


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


def test_results_of_a_call_are_those_that_it_returns():
    program = _jaxpr.trace(lambda x: [of_a_call(x)], X)
    values = _jaxpr.evaluate(program, [X])
    held = {name.text: values[number] for number, name in names_of(program).items()}
    np.testing.assert_allclose(held["first"], 2 * (np.cos(np.sin(X)) + np.sin(X)))
    assert "second" not in held or np.allclose(held["second"], np.sin(X))
    assert not {"first", "second"} & set(named(not_all_of_it, X))


def test_a_library_function_compiled_by_another_caller_keeps_no_name_of_it():
    def first(x):
        mine = jnp.where(x > 1, x, 0)
        return mine + 1

    def second(x):
        yours = jnp.where(x > 1, x, 0)
        return yours + 2

    assert "mine" in named(first, X)
    assert "yours" in named(second, X) and "mine" not in named(second, X)


def test_a_gradient_by_what_every_pass_computes_again_is_their_sum_and_passes_are_stacked():
    def forward(primals):
        (x,) = primals
        h = jnp.zeros(3)
        for row in x:
            h = jax.nn.sigmoid(x[0]) * h + row
        return [h]

    seed = np.arange(1.0, 4.0)
    found = reference_values(forward, [X], [seed], [[X, seed], [X + 1, seed]])
    by_gate = [value.array[0] for value in found if value.name == "∂L/∂jax.nn.sigmoid(x[0])"]
    assert any(np.allclose(x, seed * X[0]) for x in by_gate)  # h is zero in the first pass
    stacked = {value.name: value.array for value in found if "of every pass" in value.name}
    gate = 1 / (1 + np.exp(-X[0]))
    np.testing.assert_allclose(stacked["h of every pass"][0], np.stack([X[0], gate * X[0] + X[1]]))


def test_where_a_maximum_is():
    found = reference_values(lambda xs: [(2 * xs[0]).max(axis=1)], [X], [np.ones(2)], [[X, np.ones(2)]] * 2)
    (mask,) = [value.array[0] for value in found if "keepdims" in value.name]
    np.testing.assert_array_equal(mask, X.max(axis=1, keepdims=True) == X)


def test_only_what_acts_entry_by_entry_has_a_slope():
    def forward(primals):
        (x,) = primals
        m = x @ x.T + jnp.eye(2)
        l = jnp.linalg.cholesky(m)
        u = 2 * x @ x.T
        t = jnp.tanh(u)
        v = 3 * x @ x.T
        s = jnp.sin(v) + v
        w = 4 * x @ x.T
        return [l + t + s + jnp.sin(w) + jnp.cos(w)]  # the gradient by w is more than that by its sine, times a slope

    found = reference_values(forward, [X], [np.ones((2, 2))], [[X, np.ones((2, 2))]] * 2)
    assert {value.through for value in found if value.through} == {"t", "s"}
    held = {value.name: value.array[0] for value in found}
    np.testing.assert_allclose(held["the slope of s"], jnp.cos(held["v"]) + 1)


def test_a_slope_is_told_where_no_gradient_comes_and_of_what_is_written_of_several_calls():
    def forward(primals):
        (x,) = primals
        h = x * jax.nn.sigmoid(x)
        c = jnp.clip(h, -0.1, 0.2)
        return [c[1:]]

    found = reference_values(forward, [X], [np.ones((1, 3))], [[X, np.ones((1, 3))]] * 2)
    held = {value.name: value for value in found}
    s = jax.nn.sigmoid(X)
    np.testing.assert_allclose(held["the slope of h"].array[0], s + X * s * (1 - s))
    np.testing.assert_array_equal(held["the slope of c"].array[0], (X * s > -0.1) & (X * s < 0.2))
    assert any(value.through == "h" and value.linear for value in found)  # the gradient by an argument


def test_arrays_of_constants_are_known_and_those_that_are_alike_everywhere_are_not():
    def forward(primals):
        (x,) = primals
        labels = 0.9 * jax.nn.one_hot(jnp.array([1, 0]), 3) + 0.1 / 3
        ones = jnp.ones((2, 3))
        return [labels * x * ones]

    found = reference_values(forward, [X], [np.ones((2, 3))], [[X, np.ones((2, 3))]] * 2)
    held = {value.name: value for value in found}
    assert held["labels"].array.shape == (2, 2, 3) and not held["labels"].linear
    assert "ones" not in held


def test_a_value_without_a_name_is_said_by_where_it_is_computed():
    found = reference_values(lambda xs: [jax.nn.softmax(xs[0], axis=1)], [X], [np.ones((2, 3))], [[X, np.ones((2, 3))]])
    inside = [value for value in found if value.inside]
    assert inside and all(" in `" in value.name for value in inside)
    said = "a value inside `jax.nn.softmax(xs[0], axis=1)`"
    assert {value.said for value in inside if not value.derivative} <= {said, f"∂L/∂({said})"}


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
