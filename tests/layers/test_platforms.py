"""The forms that never hold all scores, logits, gates or states are the same program on CUDA and TPU as on a CPU.

A branch that only one platform has, or a call of a library of the host, would show in the lowered text.
"""

import re

import jax
import jax.numpy as jnp
import pytest

import jaxbias as jb
from jaxbias.layers import attention, glu, linear_attention, linear_cross_entropy, lstm, ssm

PLATFORMS = ("cpu", "cuda", "tpu")
X = jax.ShapeDtypeStruct((2, 9, 8), jnp.float32)
FORMS = {
    "attention": (attention.layer(2, 4, causal=True, window=3, rotary="half", block=4), X),
    "linear_cross_entropy": (linear_cross_entropy.layer(64, chunk=16), None),
    "lstm": (lstm.layer(4), X),
    "ssm": (ssm.layer(2, chunk=4), X),
    "glu": (glu.layer(8, gate="gelu"), X),
}


def lowered(layer, x, platform):
    """The text of both passes, and the custom calls in it."""
    if x is None:
        x = jax.ShapeDtypeStruct((6, 8), jnp.float32), jax.ShapeDtypeStruct((6,), jnp.int32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def both(params, x, delta):
        out, residuals = layer.forward(params, x)
        return out, layer.backward(residuals, delta)

    delta = jax.eval_shape(lambda p, x: layer.forward(p, x)[0], params, x)
    text = jax.jit(both).trace(params, x, delta).lower(lowering_platforms=(platform,)).as_text()
    return text, set(re.findall(r"custom_call @(\w+)", text))


@pytest.mark.parametrize("name", FORMS)
def test_no_platform_has_a_program_of_its_own(name):
    texts = {platform: lowered(*FORMS[name], platform) for platform in PLATFORMS}
    text, calls = texts["cpu"]
    assert "dot_general" in text and not calls
    assert all(other == texts["cpu"] for other in texts.values())


def test_linear_attention_is_one_program_but_for_the_running_sums_of_jax():
    """JAX lowers `cumsum` itself, since 0.12 as a scan on CUDA and as a window elsewhere; all around it is the same."""
    texts = {platform: lowered(linear_attention.layer(2, 4, chunk=4), X, platform) for platform in PLATFORMS}
    around = {re.sub(r"func\.func private @cumsum.*?\n  }\n", "", text, flags=re.DOTALL) for text, _ in texts.values()}
    assert len(around) == 1 and "dot_general" in around.pop()
    assert all(not calls for _, calls in texts.values()) and texts["cpu"] == texts["tpu"]


def test_a_call_of_the_host_would_be_seen():
    """A Cholesky factor is LAPACK's on a CPU and another library's elsewhere."""
    layer = jb.Layer(lambda key, x: (), lambda p, x: (jnp.linalg.cholesky(x), x), lambda x, delta: ((), x), "cholesky")
    texts = [lowered(layer, jax.ShapeDtypeStruct((8, 8), jnp.float32), platform) for platform in ("cpu", "cuda")]
    assert texts[0][1] and texts[0] != texts[1]
