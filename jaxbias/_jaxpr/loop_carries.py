"""Loops whose carry begins in a dtype that is written out, carried out in a wider one.

`jnp.zeros(n, jnp.float32)` as the start of a `lax.scan` fits a body of float32 arguments alone: in float64 JAX raises a
TypeError, as the carry comes in narrower than it goes out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax._src.lax.control_flow import loops
from jax.core import ShapedArray


@contextmanager
def carries_widened() -> Iterator[None]:
    """Within, a carry of `lax.scan`, `while_loop` or `fori_loop` begins in the float dtype that the body gives back, if
    that holds all values of its own."""
    before = loops._promote_weak_typed_input

    def promoted(start: jax.Array, given: ShapedArray, returned: ShapedArray) -> tuple[jax.Array, bool]:
        start, changed = before(start, given, returned)
        if changed or not _wider(given, returned):
            return start, changed
        return jax.lax.convert_element_type(start, returned.dtype), True

    loops._promote_weak_typed_input = promoted
    try:
        yield
    finally:
        loops._promote_weak_typed_input = before


def _wider(given: ShapedArray, returned: ShapedArray) -> bool:
    """Is the second the first in a float dtype that holds it?"""
    if not all(isinstance(x, ShapedArray) and jnp.issubdtype(x.dtype, jnp.inexact) for x in (given, returned)):
        return False
    return given.dtype != returned.dtype and jnp.promote_types(given.dtype, returned.dtype) == returned.dtype
