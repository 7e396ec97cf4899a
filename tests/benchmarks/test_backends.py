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
  c = f32[4]{0} custom-call(g), custom_call_target="__cublas$gemm", backend_config={"gemm":{"epilogue":"BIAS_RELU"}}
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
        "epilogues": {"BIAS_RELU": 1},
    }
    assert facts_of(PROGRAM.replace("bf16[4]{0} parameter(2)", "bf16[4,1]{1,0} parameter(2)"), 4) == {
        **facts, "products_with_bias": 0,
    }  # fmt: skip
    for activation in ("tanh(z)", "maximum(z, x)"):
        activated = PROGRAM.replace("ROOT out = f32[8,4]{1,0} add(z, z)", f"ROOT out = f32[8,4]{{1,0}} {activation}")
        assert facts_of(activated, 4) == {**facts, "products_with_activation": 1}
    before = PROGRAM.replace("  z = f32[8,4]{1,0} dot(x, w)", "  t = f32[8,4] tanh(x)\n  z = f32[8,4]{1,0} dot(t, w)")
    assert facts_of(before, 4) == facts
    for transfer in ("  t = token[] outfeed(g)\n", "  h = bf16[4]{0:S(5)} copy(g)\n", "  t = u32[] send(g)\n"):
        assert facts_of(PROGRAM.replace("  g =", transfer + "  g ="), 4)["transfers"] == 1


FOR_GPUS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None, reason="the extra gpu-compile is missing"
    ),
]


def marked(test):
    for mark in FOR_GPUS:
        test = mark(test)
    return test


@marked
@pytest.mark.parametrize(
    ("only", "leaves", "products", "entries", "epilogue"),
    [
        # XLA carries out behind a product what has one use alone: GELU takes z twice, so it is a loop of its own.
        ("dense + tanh, bias", 2, 3, 4096 * 4096 + 4096, (1, 1)),
        ("dense + ReLU, bias", 2, 3, 4096 * 4096 + 4096, (1, 1)),
        ("dense + GELU, bias", 2, 3, 4096 * 4096 + 4096, (1, 0)),
        ("dense + GELU, no bias", 1, 3, 4096 * 4096, (0, 0)),
        # Its second layer has ten columns, whose product is summed in pieces.
        ("training step, two layers, Adam", 4, 5, 4096 * 4096 + 4096 + 4096 * 10 + 10, (1, 0)),
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
        if gpus == 1:
            assert (answer["products_with_bias"], answer["products_with_activation"]) == epilogue, answer


@marked
@pytest.mark.parametrize(
    ("only", "epilogues"),
    [
        ("dense + tanh, bias", {"BIAS": 1, "DEFAULT": 2}),  # cuBLASLt has ReLU and GELU only
        ("dense + ReLU, bias", {"BIAS_RELU": 1, "DEFAULT": 2}),
        ("dense + GELU, bias", {"BIAS": 1, "DEFAULT": 2}),
        ("dense + GELU, no bias", {"DEFAULT": 3}),
        ("training step, two layers, Adam", {"BIAS": 2, "DEFAULT": 3}),
        # XLA knows one form of GELU, and takes it only where nothing else wants what comes before it.
        ("jax.nn.gelu in its tanh form, forward alone", {"BIAS_GELU": 1}),
        ("jax.nn.gelu in its tanh form, autodiff", {"BIAS": 1, "DEFAULT": 2}),
    ],
)
def test_what_cublaslt_does_where_it_writes_a_product(only, epilogues):
    target = Target("H100", "", 1, library=True)
    (answer,) = in_process(
        "benchmarks.bench_backends", {"target": target, "scale": "quick", "only": only}, env=target.environment
    )
    assert answer.get("status", "ok") == "ok" and answer["epilogues"] == epilogues, answer


@marked
def test_the_step_of_fit_in_bfloat16_adds_bias_and_activation_where_products_are_written():
    for library in (False, True):
        target = Target("H100", "", 1, library=library)
        answer = in_process("tests.benchmarks.step_of_fit", {"target": target}, env=target.environment)
        assert answer.get("status", "ok") == "ok" and answer["transfers"] == 0, answer
        if library:
            assert answer["epilogues"] == {"BIAS_RELU": 1, "BIAS": 2, "DEFAULT": 5}, answer
        else:
            assert (answer["products"], answer["products_with_bias"], answer["products_with_activation"]) == (8, 2, 2)
