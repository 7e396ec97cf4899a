"""The tables of primitives agree: value, bound, what is exact, remarks. See `in_numpy` for adding one."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src.interpreters import mlir

import jaxbias as jb
from jaxbias import _jaxpr
from jaxbias._jaxpr.ball_primitives import BALL
from jaxbias._jaxpr.in_numpy import FUNCTIONS, LEFT_TO_JAX, VALUE
from jaxbias._jaxpr.queries import LAYOUT, without_value
from jaxbias._jaxpr.rounding import BOUND, EXACT, MEASURED
from jaxbias.verify import explanations

REMARKS = {*explanations._EXPONENTIALS, *explanations._LOGARITHMS, *explanations._FROM_OUTPUT}
OWN = {"loop_index", "loop_stack", *FUNCTIONS}
"""Names of our own, which no primitive of JAX has."""

NOT_EVERYWHERE = {"log2", "one_minus_square", "stack", "unstack"}
"""Primitives that only one of the supported releases of JAX has."""


def test_every_primitive_with_a_value_has_a_bound_or_the_reason_why_not():
    assert VALUE.keys() - BOUND.keys() == MEASURED.keys()
    assert VALUE.keys().isdisjoint(LEFT_TO_JAX) and all([*MEASURED.values(), *LEFT_TO_JAX.values()])


def test_every_primitive_with_a_value_has_an_enclosure_but_those_of_bits():
    bits = {"and", "or", "xor", "not", "nextafter", "population_count", "reduce_and", "reduce_or"}
    bits |= {"shift_left", "shift_right_arithmetic", "shift_right_logical"}
    assert VALUE.keys() - BALL.keys() == bits
    assert BALL.keys() - VALUE.keys() <= LEFT_TO_JAX.keys()


def test_every_other_table_names_primitives_with_value_and_bound():
    for table in (BOUND, EXACT, REMARKS):
        assert set(table) <= VALUE.keys() - MEASURED.keys()


def test_what_only_moves_entries_is_exact_and_no_activation():
    moved = LAYOUT & VALUE.keys() - {"convert_element_type", "reduce_precision", "optimization_barrier"}
    assert moved <= EXACT


def test_every_name_is_a_primitive_of_jax():
    tables = [mlir._lowerings, *mlir._platform_specific_lowerings.values()]
    known = {primitive.name for table in tables for primitive in table}
    assert VALUE.keys() - OWN - NOT_EVERYWHERE <= known


def parity(x):
    """Of the rounded values, by a primitive that has no value here."""
    return lax.reduce_xor_p.bind(x.astype(int), axes=(0,)).astype(x.dtype)


def test_a_primitive_without_a_value_is_named_in_the_report_and_only_there():
    x = np.array([0.3, 1.7, -2.2])
    rule = lambda args, delta: (delta * jnp.cos(args[0]),)
    assert not jb.verify.vjp(jnp.sin, rule, (x,)).notes
    report = jb.verify.vjp(lambda x: jnp.sin(x) + 0 * parity(x), rule, (x,))
    assert report.verdict == "right"
    assert [note for note in report.notes if "`reduce_xor`" in note and "JAX computed it" in note], report.notes


def test_primitives_without_a_value_are_counted_in_bodies_too():
    def function(x):
        return [lax.while_loop(lambda v: v.sum() < 9 + parity(v), lambda v: v + parity(v) + 1, x), parity(x)]

    assert without_value(_jaxpr.trace(function, np.ones(3))) == {"reduce_xor": 3}
