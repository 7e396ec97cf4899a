"""Slopes of functions as code, in a rule's own names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias.verify.naming.slopes import Slopes

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

OWN = {"x": "h", "jax.nn.sigmoid(x)": "s"}


@pytest.mark.parametrize(
    "code",
    [
        "jnp.tanh(x)",
        "x * jax.nn.sigmoid(x)",
        "jnp.log(1 + jnp.exp(x))",
        "0.5 * x * (1 + jax.lax.erf(x / 1.4))",
        "x**3 - x / (1 + x**2)",
        "-2.0 * jnp.sin(x) + 1",
        "(1 - x) ** 2",
        "jnp.square(x) - jnp.arctan(x)",
        "1 / (1 + jnp.exp(-x))",
    ],
)
def test_a_slope_is_that_of_autodiff(code):
    x = jnp.linspace(-1.5, 2.0, 7)
    scope = {"jnp": jnp, "jax": jax, "h": x, "s": jax.nn.sigmoid(x)}
    wanted = jax.vmap(jax.grad(lambda x: eval(code, {"jnp": jnp, "jax": jax, "x": x})))(x)
    slope = Slopes(OWN).by_variable(code) or Slopes(OWN).of_call(code)
    np.testing.assert_allclose(eval(slope, scope), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("x * jax.nn.sigmoid(x)", ("", "s + h * jax.nn.sigmoid(h) * (1 - jax.nn.sigmoid(h))")),
        ("jnp.clip(x, 0.0, top)", ("(h > 0.0) & (h < top)", "")),
        ("jnp.tanh(x @ w)", ("1 - jnp.tanh(h @ w) ** 2", "")),
        ("jnp.sin(2 * x)", ("jnp.cos(2 * h)", "jnp.cos(2 * h) * 2")),
        ("3 * x", ("", "")),
        ("x * y", ("", "")),
        ("jnp.unknown(x)", ("", "")),
        ("x", ("", "")),
        ("∂L/∂x", ("", "")),
    ],
)
def test_what_a_slope_is_called(code, wanted):
    slopes = Slopes(OWN)
    assert (slopes.of_call(code), slopes.by_variable(code)) == wanted


def gated(x, u):
    return x * jax.nn.sigmoid(x) * u


def slope_of_the_gate(args, ct):
    g, u = args
    s = jax.nn.sigmoid(g)
    dact = ct * u
    return dact * s * (1 - s), ct * g * s


def test_a_function_that_is_written_of_several_calls_has_its_slope():
    (found,) = verify.vjp(
        gated, slope_of_the_gate, (jnp.array([0.3, -0.7, 1.1]), jnp.array([0.4, 2.0, -0.5]))
    ).diagnoses
    assert found.kind == "missing-activation-derivative"
    assert found.patch == "return dact * (s + g * jax.nn.sigmoid(g) * (1 - jax.nn.sigmoid(g))), ct * g * s"
