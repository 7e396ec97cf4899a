"""NumPy arrays that a function closes over are taken in the precision that is set, whatever was traced before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import _jaxpr, verify

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax", "in_32_bits")


@pytest.fixture
def in_32_bits():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.complex128])
def test_a_function_compiled_in_32_bits_is_traced_in_64(dtype):
    held = np.array([1 / 3, 4, 1], float).astype(dtype)
    compiled = jax.jit(lambda x: jnp.sum(x * held).real)
    x = np.ones(3, np.float32)
    compiled(x)
    with jax.enable_x64(True):
        program = _jaxpr.trace(lambda x: [compiled(x)], x)
    (constant,) = [value for value in program.constants.values() if np.shape(value) == (3,)]
    np.testing.assert_array_equal(constant, held)


def test_ids_in_64_bits_lose_neither_precision_nor_listing():
    ids = np.array([1, 4, 1])
    assert ids.dtype == np.int64

    @jax.jit
    def rows(table):
        return jnp.take(table, ids, axis=0) + table[ids]

    def rule(args, ct):
        return (jnp.zeros((6, 3)).at[ids].set(2 * ct),)

    table = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))
    before = rows(table)
    report = verify.vjp(rows, rule, (table,))
    assert report.verdict == "wrong" and [d.kind for d in report.diagnoses] == ["index-collision"], report
    assert [line.status for line in report.lines] == ["wrong"] and not report.notes, report
    np.testing.assert_array_equal(jax.jit(lambda table: rows(table))(table), before)  # in 32 bits, as before
