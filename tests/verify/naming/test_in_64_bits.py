"""What a rule closes over in float32 is in 64 bits where its lines are told, as its arguments are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from jaxbias.verify.naming.rewrite import widened
from jaxbias.verify.problem import exact_context

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

GAIN, LIVE = 0.9, np.array([1, 0, 1, 1], np.float32)
KERNEL = np.array([[[0.5, -0.2, 0.1]]], np.float32)
TABLE = {"live": jnp.asarray(LIVE), "steps": [jnp.float16(0.25), 3], "name": "gae"}


def draw(*shape):
    return jax.random.normal(jax.random.key(2), shape)


def live(x):
    return GAIN * x * LIVE


def wrong_order(args, ct):
    dx = GAIN * jnp.asarray(LIVE) * ct
    return (dx[::-1],)


def test_the_order_of_factors_is_no_mistake():
    """0.9 times a mask in float32 is another number than 0.9 times a gradient in float64."""
    report = verify.vjp(live, wrong_order, (draw(4),))
    assert [line.status for line in report.lines] == ["ok", "wrong"], str(report)
    (diagnosis,) = report.diagnoses
    assert diagnosis.kind == "wrong-index" and diagnosis.patch, str(report)


def convolved(x):
    return lax.conv_general_dilated(x, jnp.asarray(KERNEL, x.dtype), (1,), [(1, 1)])


def with_a_kernel_in_float32(args, ct):
    (x,) = args
    dx = lax.conv_general_dilated(ct, KERNEL, (1,), [(1, 1)])
    return (dx,)


def test_an_operation_that_takes_one_dtype_is_listed():
    with jax.enable_x64(False):
        report = verify.vjp(convolved, with_a_kernel_in_float32, (np.asarray(draw(2, 1, 5), np.float32),))
    assert not report.ok and not any("no listing" in note for note in report.notes), str(report)
    assert report.diagnoses[0].patch, str(report)


def of_a_table(x, scale=TABLE["live"], *, steps=(TABLE["steps"],)):
    return x * TABLE["live"] * scale * steps[0][0]


def test_what_is_held_anywhere_is_widened_and_the_function_stays_as_it_is():
    with exact_context():
        wide = widened(lambda x: of_a_table(x) * LIVE)
        out = jax.eval_shape(wide, jax.ShapeDtypeStruct((4,), np.float64))
        texts = str(jax.make_jaxpr(wide)(np.ones(4)))
    assert out.dtype == np.float64 and "f32" not in texts and "f16" not in texts, texts
    assert of_a_table.__defaults__[0].dtype == TABLE["live"].dtype == np.float32
    assert widened(np.sum) is np.sum
