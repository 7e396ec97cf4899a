"""What the compilers for other devices make of the programs: how it is read, and what must hold."""

import importlib.util

import pytest

from benchmarks.compiled import Target, facts_of
from benchmarks.peers import in_process

PROGRAM = """
fused_dot {
  x = bf16[8,4]{1,0} parameter(0)
  w = bf16[4,4]{1,0} parameter(1)
  b = bf16[4]{0} parameter(2)
  z = f32[8,4]{1,0} dot(x, w)
  ROOT out = f32[8,4]{1,0} add(z, z)
}

ENTRY main {
  g = bf16[4]{0} parameter(0)
  r = ((bf16[4]{0}), bf16[4]{0}) all-reduce-start(g), channel_id=1
  d = bf16[4]{0} all-reduce-done(r)
  s = (bf16[4]{0}, bf16[4,4]{1,0}) all-reduce(g, g), channel_id=2
  c = f32[4]{0} custom-call(g), custom_call_target="__cublas$gemm"
}
"""


def test_collectives_products_and_transfers_are_read_from_the_program():
    facts = facts_of(PROGRAM, 4)
    assert facts == {
        "collectives": 2,
        "kinds": {"all-reduce": 2},
        "summed_bytes": 2 * (4 + 4 + 16),
        "sent_bytes": 3 / 2 * 2 * (4 + 4 + 16),
        "groups": {"all-reduce over 4": [2, 2 * (4 + 4 + 16)]},
        "custom_calls": ["__cublas$gemm"],
        "transfers": 0,
        "products": 1,
        "products_with_bias": 1,
        "products_with_activation": 0,
    }
    assert facts_of(PROGRAM.replace("bf16[4]{0} parameter(2)", "bf16[4,1]{1,0} parameter(2)"), 4) == {
        **facts, "products_with_bias": 0,
    }  # fmt: skip
    activated = PROGRAM.replace("ROOT out = f32[8,4]{1,0} add(z, z)", "ROOT out = f32[8,4]{1,0} tanh(z)")
    assert facts_of(activated, 4) == {**facts, "products_with_activation": 1}
    before = PROGRAM.replace("  z = f32[8,4]{1,0} dot(x, w)", "  t = f32[8,4] tanh(x)\n  z = f32[8,4]{1,0} dot(t, w)")
    assert facts_of(before, 4) == facts
    for transfer in ("  t = token[] outfeed(g)\n", "  h = bf16[4]{0:S(5)} copy(g)\n", "  t = u32[] send(g)\n"):
        assert facts_of(PROGRAM.replace("  g =", transfer + "  g ="), 4)["transfers"] == 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="the extra gpu-compile is missing")
@pytest.mark.parametrize(
    ("only", "leaves", "products", "entries", "epilogue"),
    [
        # tanh is all that its backward keeps. GELU's wants what comes before it, so GELU is a loop of its own. Where
        # params are rounded to bfloat16 inside of the step, XLA adds the bias in a loop: no claim about that.
        ("dense + tanh, bias", 2, 3, 4096 * 4096 + 4096, (1, 1)),
        ("dense + GELU, bias", 2, 3, 4096 * 4096 + 4096, (1, 0)),
        ("dense + GELU, no bias", 1, 3, 4096 * 4096, (0, 0)),
        ("training step, two layers, Adam", 4, 5, 4096 * 4096 + 4096 + 4096 * 10 + 10, None),
    ],
)
def test_what_must_hold_of_programs_for_gpus(only, leaves, products, entries, epilogue):
    """1,024 rows, 4,096 wide; on smaller parts of it XLA sums a product in pieces, which have no epilogue."""
    for gpus in (1, 8):
        target = Target("H100", "", gpus)
        job = {"target": target, "scale": "quick", "only": only}
        (answer,) = in_process("benchmarks.bench_backends", job, env=target.environment)
        assert answer.get("status", "ok") == "ok", answer
        assert answer["kinds"].keys() <= {"all-reduce"} and answer["collectives"] <= (leaves + 1) * (gpus > 1), answer
        # The gradient in bfloat16 or, summed before it is rounded, in float32, and a loss.
        assert answer["summed_bytes"] == 0 if gpus == 1 else 2 * entries <= answer["summed_bytes"] <= 4 * entries + 4
        assert answer["transfers"] == 0 and answer["products"] == products, answer
        assert all(name.startswith(("__cublas", "__cudnn", "__triton")) for name in answer["custom_calls"]), answer
        if gpus == 1 and epilogue is not None:
            assert (answer["products_with_bias"], answer["products_with_activation"]) == epilogue, answer
