"""Loops whose carry begins in a dtype that is written out are checked in float64, and are left alone elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from jaxbias.verify.problem import exact_context

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax", "in_32_bits")


@pytest.fixture
def in_32_bits():
    with jax.enable_x64(False):
        yield


def filtered(x, pole, dtype):
    def step(h, row):
        h = pole * h + row
        return h, h

    return lax.scan(step, jnp.zeros(3, dtype), x)


def filtered_rule(dtype, of_pole):
    def rule(args, ct):
        x, pole = args
        hs = filtered(x, pole, dtype)[1]
        before = jnp.concatenate([jnp.zeros((1, 3), hs.dtype), hs[:-1]])

        def back(dh, row):
            given, h = row
            dh = dh + given
            return pole * dh, (dh, of_pole(dh, h))

        _, (dx, dpole) = lax.scan(back, jnp.zeros(3, dtype), (ct, before), reverse=True)
        return dx, jnp.sum(dpole, axis=0)

    return rule


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_a_rule_is_gone_through_line_by_line(dtype):
    x, pole = jnp.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3), jnp.array([0.5, -0.3, 0.2], dtype)
    forward = lambda x, pole: filtered(x, pole, dtype)[1]
    assert verify.vjp(forward, filtered_rule(dtype, lambda dh, h: dh * h), (x, pole)).ok
    report = verify.vjp(forward, filtered_rule(dtype, lambda dh, h: dh * h * h), (x, pole))
    assert not report.ok and not any("no listing" in note for note in report.notes), str(report)
    (diagnosis,) = report.diagnoses
    assert diagnosis.leaf == "pole" and diagnosis.patch


def test_loops_of_every_kind_begin_in_the_wider_dtype():
    start = np.zeros(2, np.float32)
    step = lambda k, h: h + jnp.ones(2, jnp.float64)
    with exact_context():
        assert lax.fori_loop(0, 3, step, start).dtype == jnp.float64
        assert lax.fori_loop(0, jnp.array(3), step, start).dtype == jnp.float64
        assert lax.while_loop(lambda h: h[0] < 3, lambda h: step(0, h), start).dtype == jnp.float64


@pytest.mark.parametrize("start", [np.zeros(2, np.int32), np.zeros(3, np.float32), np.zeros(2, np.complex64)])
def test_what_does_not_fit_the_body_is_refused_all_the_same(start):
    with exact_context(), pytest.raises(TypeError, match="carry"):
        lax.scan(lambda h, _: (jnp.ones(2, jnp.float64), None), start, length=3)


def test_outside_the_check_jax_is_as_it_was():
    with exact_context():
        pass
    with jax.enable_x64(True), pytest.raises(TypeError, match="carry"):
        lax.scan(lambda h, _: (h + jnp.ones(2, jnp.float64), None), jnp.zeros(2, jnp.float32), length=3)
