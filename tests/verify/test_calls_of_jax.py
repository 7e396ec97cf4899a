"""`verify.check_grads` on calls of JAX, each as it is and with its derivative spoilt in two ways."""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias._trees import is_float
from tests.verify.calls_of_jax import CALLS, FAULTS, Call
from tests.verify.test_verdict import check_grads_unnamed

EVERY = [(kind, name) for kind, calls in CALLS.items() for name in calls]

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")
"""Checking the types of every call on a ball takes longer than the check."""


def gradients(call: Call) -> list[np.ndarray]:
    """Of a weighted sum of what the call gives, for each leaf of its arguments; zeros for those without any."""
    leaves, tree = jax.tree.flatten(call.args)
    floats = [k for k, leaf in enumerate(leaves) if is_float(leaf)]

    def outputs(*some):
        full = list(leaves)
        for k, leaf in zip(floats, some):
            full[k] = leaf
        return [out for out in jax.tree.leaves(call.f(*tree.unflatten(full))) if is_float(out)]

    def summed(outs):
        return sum(jnp.sum(jnp.cos(1 + jnp.arange(out.size)).reshape(out.shape) * out.real) for out in outs)

    some = [leaves[k] for k in floats]
    if "rev" in call.modes:
        found = jax.jit(jax.grad(lambda *some: summed(outputs(*some)), tuple(range(len(some)))))(*some)
    else:
        found = jax.jit(jax.jacfwd(lambda *some: summed(outputs(*some)), tuple(range(len(some)))))(*some)
    out = [np.zeros(np.shape(leaf)) for leaf in leaves]
    for k, gradient in zip(floats, found):
        out[k] = np.nan_to_num(np.abs(np.asarray(gradient)).astype(float))
    return out


def factors_of_a_leaf(call: Call) -> list[float] | None:
    """1.01 for the last leaf with a gradient, 1 for the others; None where every gradient is zero."""
    sizes = [np.max(g, initial=0.0) for g in gradients(call)]
    if not any(sizes):
        return None
    last = max(k for k, size in enumerate(sizes) if size > 1e-3 * max(sizes))
    return [1.01 if k == last else 1.0 for k in range(len(sizes))]


def factors_of_an_element(call: Call) -> list[np.ndarray] | None:
    """1.001 for the middle one of those elements of the first leaf that have a gradient; 1 for the others."""
    found = gradients(call)
    largest = max((np.max(g, initial=0.0) for g in found), default=0.0)
    if not largest:
        return None
    first = next(k for k, g in enumerate(found) if np.max(g, initial=0.0) > 1e-3 * largest)
    out = [np.ones(g.shape) for g in found]
    clear = np.flatnonzero(found[first] > 1e-3 * largest)
    out[first].flat[clear[np.argsort(found[first].flat[clear])[len(clear) // 2]]] = 1.001
    return out


def spoilt(call: Call, factors) -> Call:
    """The same function with a rule of its own: JAX's derivative, times a factor for each leaf of the arguments."""
    f = call.f

    def scaled(tangents):
        leaves, tree = jax.tree.flatten(tangents)
        times = lambda t, c: t if t.dtype == jax.dtypes.float0 else t * jnp.asarray(c, t.dtype)
        return tree.unflatten([times(t, c) for t, c in zip(leaves, factors, strict=True)])

    if "fwd" in call.modes:
        wrong = jax.custom_jvp(lambda *args: f(*args))
        wrong.defjvp(lambda primals, tangents: jax.jvp(f, primals, scaled(tangents)))
    else:
        wrong = jax.custom_vjp(lambda *args: f(*args))
        wrong.defvjp(lambda *args: (f(*args), args), lambda args, delta: scaled(jax.vjp(f, *args)[1](delta)))
    return call._replace(f=wrong)


def assert_right(call: Call, mode: int) -> None:
    check_grads_unnamed(call.f, call.args, call.modes)


def assert_found(call: Call, mode: int, factors_of: Callable[[Call], Any]) -> None:
    """With the derivative spoilt by such factors the call is wrong, in the given one of its modes."""
    factors = factors_of(call)
    if factors is None:  # the gradient is zero, and so is its multiple
        return
    with pytest.raises(AssertionError) as wrong:
        check_grads_unnamed(spoilt(call, factors).f, call.args, (call.modes[mode % len(call.modes)],))
    assert not isinstance(wrong.value, verify.Undecided), wrong.value


FORMS = {
    "right": assert_right,
    "a leaf times 1.01": functools.partial(assert_found, factors_of=factors_of_a_leaf),
    "an element times 1.001": functools.partial(assert_found, factors_of=factors_of_an_element),
}


@pytest.mark.parametrize(("kind", "form"), list(zip(CALLS, itertools.cycle(FORMS))))
def test_the_first_of_each_kind_in_one_form(kind, form):
    FORMS[form](next(iter(CALLS[kind].values())), list(CALLS).index(kind))


WHOLE = [(*call, form) for call in EVERY for form in FORMS]
SAMPLE = [(*call, form) for call, form in zip(EVERY, itertools.cycle(FORMS))][::4]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "form"), WHOLE if "JAXBIAS_WHOLE_SWEEPS" in os.environ else SAMPLE)
def test_a_call(kind, name, form):
    """Every fourth call, each in one form, for a minute; with JAXBIAS_WHOLE_SWEEPS=1 all of them in all, for ten."""
    FORMS[form](CALLS[kind][name], EVERY.index((kind, name)) + list(FORMS).index(form))


LONG = ("spence between 1 and 2",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in FAULTS])
def test_a_fault_of_jax_is_found(name):
    fault = FAULTS[name]
    with pytest.raises(AssertionError, match=fault.finding) as wrong:
        verify.check_grads(fault.f, fault.args, 1, fault.modes)
    assert not isinstance(wrong.value, verify.Undecided)
