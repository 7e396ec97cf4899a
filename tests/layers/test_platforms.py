"""The forms that never hold all scores, logits, gates or states are the same program on CUDA and TPU as on a CPU.

A branch that only one platform has, or a call of a library of the host, would show in the lowered text.
"""

import re

import jax
import jax.numpy as jnp
import pytest

import jaxbias as jb
from jaxbias.layers import attention, glu, linear_attention, linear_cross_entropy, lstm, ssm
from jaxbias.train._mixed_precision import in_dtype

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


def test_on_cuda_a_product_has_the_dtype_of_its_bias_and_params_are_rounded_once():
    """Elsewhere it is in float32 until it was summed up, and nothing holds the compiler up."""
    narrow, x = jax.ShapeDtypeStruct((6, 5), jnp.bfloat16), jax.ShapeDtypeStruct((6, 5), jnp.float32)
    for platform in PLATFORMS:
        forward, _ = lowered(jb.layers.dense.layer(7), narrow, platform)
        rounded, _ = lowered(in_dtype(jb.layers.dense.layer(7), jnp.bfloat16), x, platform)
        on_cuda = platform == "cuda"
        assert ("-> tensor<6x7xbf16>" in "".join(re.findall(r"dot_general.*", forward))) == on_cuda
        assert rounded.count("optimization_barrier") == (3 if on_cuda else 0)  # x, weight, bias


def test_params_that_are_wider_than_x_are_taken_as_they_were(key):
    layer, x = jb.layers.dense.layer(7), jax.random.normal(key, (6, 8), jnp.bfloat16)
    params = layer.init(key, x.astype(jnp.float32))._replace(bias=None)
    out, _ = layer.forward(params, x)
    assert out.dtype == x.dtype
    wanted = (x.astype(jnp.float64) @ params.weight.astype(jnp.float64)).astype(jnp.bfloat16)
    assert bool((jnp.abs(out - wanted) <= 2**-8 * jnp.abs(wanted).max()).all())


def test_both_forms_of_a_product_and_of_rounding_have_the_same_values(key, monkeypatch):
    """What is written for CUDA, run here."""
    network = in_dtype(jb.chain(jb.layers.dense.layer(7), jb.layers.relu), jnp.bfloat16)
    params, x = network.init(key, X), jax.random.normal(key, (6, 8), jnp.float32)
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)
    here, _ = network.forward(params, x)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *of, cuda, default: cuda(*of))
    there, _ = network.forward(params, x)
    largest = jnp.abs(here).max()
    assert there.shape == here.shape == (6, 7) and bool((jnp.abs(there - here) <= 2**-8 * largest).all())
