"""`verify.check_grads`: called as `jax.test_util.check_grads` is, and what it finds in second derivatives."""

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest
from jax import lax, test_util

from jaxbias import verify
from tests.verify.test_verdict import check_grads_unnamed, with_rule_scaled

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def sine(second, mode):
    """sin, whose first derivative is right, and whose second is this many times −sin."""
    if mode == "fwd":
        slope, f = jax.custom_jvp(jnp.cos), jax.custom_jvp(jnp.sin)
        slope.defjvp(lambda x, t: (jnp.cos(x[0]), -second * jnp.sin(x[0]) * t[0]))
        f.defjvp(lambda x, t: (jnp.sin(x[0]), slope(x[0]) * t[0]))
        return f
    slope, f = jax.custom_vjp(jnp.cos), jax.custom_vjp(jnp.sin)
    slope.defvjp(lambda x: (jnp.cos(x), x), lambda x, ct: (-second * jnp.sin(x) * ct,))
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (slope(x) * ct,))
    return f


FORMS = {
    "elementwise": lambda f: f,
    "in a loop": lambda f: lambda x: lax.scan(lambda c, row: (f(c + row), None), jnp.zeros_like(x[0]), x)[0],
    "after a product": lambda f: lambda x: f(x @ x.T).sum(axis=0),
}


def by_bits(x):
    """|x|, its sign bit cleared."""
    kind = {4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize]
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, kind) << kind(1) >> kind(1), x.dtype)


BITS = {
    "ldexp": lambda x: jnp.ldexp(jnp.sin(x), 3),
    "frexp": lambda x: jnp.frexp(x)[0] ** 2,
    "both in a branch": lambda x: lax.cond(x.sum() > -9, lambda v: jnp.ldexp(*jnp.frexp(v)), jnp.sin, x),
    "in a loop": lambda x: lax.scan(lambda c, row: (jnp.ldexp(c, 1) + row, None), jnp.ones_like(x[0]), x)[0],
}


@pytest.mark.parametrize(("name", "dtype"), list(zip(BITS, [jnp.float32, jnp.float64] * 2)))
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_a_rule_around_what_is_computed_with_bits_is_checked(key, name, mode, dtype):
    """The rule of the function inside stays, and that around it does not."""
    f, args = BITS[name], (jax.random.normal(key, (2, 3), dtype),)
    check_grads_unnamed(with_rule_scaled(f, 1, mode), args, (mode,))
    with pytest.raises(AssertionError):
        check_grads_unnamed(with_rule_scaled(f, 1.001, mode), args, (mode,))


def test_a_rule_of_own_bits_stays_whole_with_what_it_calls(key):
    f = jax.custom_jvp(lambda x: by_bits(jax.nn.relu(x) - 2))
    f.defjvp(lambda x, t: (f(*x), t[0] * jnp.where(x[0] > 0, jnp.sign(x[0] - 2), 0)))
    verify.check_grads(f, (jax.random.normal(key, (5,), jnp.float64),), 1)


def test_the_signature_is_that_of_jax():
    own, of_jax = (inspect.signature(f).parameters for f in (verify.check_grads, test_util.check_grads))
    assert [(p.name, p.default) for p in own.values()] == [(p.name, p.default) for p in of_jax.values()]


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize(("form", "dtype"), list(zip(FORMS, [jnp.float32, jnp.float64, jnp.float32])))
def test_second_derivatives_are_checked(key, form, mode, dtype):
    x = jax.random.normal(key, (2, 3), dtype)
    check = functools.partial(verify.check_grads, args=(x,), modes=(mode,))
    check(FORMS[form](sine(1.0, mode)), order=2)
    wrong = FORMS[form](sine(1.001, mode))
    check(wrong, order=1)
    of_the_derivative = "mode of forward mode" if mode == "fwd" else "mode of reverse mode"
    with pytest.raises(AssertionError, match=of_the_derivative) as error:
        check(wrong, order=2)
    assert not isinstance(error.value, verify.Undecided)


def test_tolerances_are_those_of_the_caller(key):
    args, f = (jax.random.normal(key, (3,)),), sine(1.001, "fwd")
    verify.check_grads(f, args, order=2, modes=("fwd",), atol=1e-2, rtol=1e-2, eps=1e-3)
    with pytest.raises(AssertionError):
        verify.check_grads(f, args, order=2, modes=("fwd",), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", [0, True, 1.5])
def test_an_order_that_is_none(order):
    with pytest.raises(ValueError, match="order must be a whole number"):
        verify.check_grads(jnp.sin, (jnp.ones(2),), order)


@pytest.mark.parametrize("modes", [(), ("forward",)])
def test_modes_that_are_none(modes):
    with pytest.raises(ValueError, match="modes must be of"):
        verify.check_grads(jnp.sin, (jnp.ones(2),), 1, modes)
