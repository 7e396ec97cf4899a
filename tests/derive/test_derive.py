"""The bank of forwards: what is written is right, in the user's names, and runs by itself."""

import ast
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from tests.derive.forwards import FORWARDS

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

NOT_WRITTEN = {
    "dropout": "the check traces the forward in float64 too, where the key gives another mask",
}
"""Forwards that are refused, with the reason."""

BY_JAX = {"conv", "linear_solve", "rnn_by_scan", "ssm_by_scan", "log_determinant"}
"""Forwards of which an operation is left to JAX, and said to be."""

SAMPLE = (
    "dense_tanh",
    "layer_norm",
    "softmax_cross_entropy",
    "attention",
    "mlp",
    "lstm_cell",
    "cross_entropy_of_labels",
)


def derived(name):
    return jb.derive(*FORWARDS[name])


def assert_written(name):
    """The check is `derive`'s own; here `function` is compared with autodiff too, which the check does not run."""
    written = derived(name)
    assert written.report.verdict.startswith("right")
    assert bool(written.unwritten) == (name in BY_JAX), written.unwritten
    ast.parse(written.code)
    forward, args = FORWARDS[name]
    floats = [k for k, arg in enumerate(args) if all(map(is_float, jax.tree.leaves(arg)))]

    def loss(function):
        weigh = lambda out: sum((jnp.cos(jnp.arange(leaf.size)) * leaf.ravel()).sum() for leaf in jax.tree.leaves(out))
        return jax.value_and_grad(lambda *args: weigh(function(*args)), argnums=floats)(*args)

    errors = jb.verify.relative_errors(actual=loss(written.function), expected=loss(forward))
    assert all(error < 1e-4 for error in errors.values()), errors


def is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


@pytest.mark.parametrize("name", SAMPLE)
def test_it_is_written(name):
    assert_written(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FORWARDS if n not in SAMPLE and n not in NOT_WRITTEN])
def test_every_forward_is_written(name):
    assert_written(name)


def test_most_of_the_bank_is_written():
    assert len(FORWARDS) >= 60 and len(NOT_WRITTEN) + len(BY_JAX) <= 0.15 * len(FORWARDS)


def test_the_lines_of_a_dense_layer():
    assert (
        derived("dense_tanh").code
        == """import jax.numpy as jnp


def forward(W, b, x):
    z = x @ W + b
    a = jnp.tanh(z)
    return a, (W, x, a)


def backward(residuals, d_a):
    W, x, a = residuals
    d_z = d_a * (1 - a**2)
    d_W = x.T @ d_z
    d_b = d_z.sum(axis=0)
    d_x = d_z @ W.T
    return d_W, d_b, d_x
"""
    )


def test_attention_as_it_is_written_by_hand():
    with jax.enable_x64(False):
        lines = [line.strip() for line in derived("attention").code.splitlines()]
    assert "d_s = p * (d_p - (p * d_p).sum(axis=-1, keepdims=True))" in lines
    assert "s = q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1])" in lines


def test_the_code_runs_without_this_library(tmp_path):
    code = derived("layer_norm").code
    (tmp_path / "derived.py").write_text(code)
    script = (
        "import jax.numpy as jnp, sys, derived\n"
        "out, kept = derived.forward(jnp.ones(6), jnp.ones(6), jnp.arange(24.0).reshape(4, 6))\n"
        "assert [g.shape for g in derived.backward(kept, out)] == [(6,), (6,), (4, 6)]\n"
        "assert not any(name.startswith('jaxbias') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)


def test_a_wrong_rule_is_never_shown(monkeypatch):
    """Planted in the rule of tanh: 1 − a for 1 − a²."""
    from jaxbias._derive import rules
    from jaxbias.symbols import expressions as ex

    wrong = rules.Rule(
        rules.RULES["tanh"].read,
        lambda eq, args, out, d: [ex.multiply(d, ex.subtract(ex.number(1, out.dtype), out))],
    )
    monkeypatch.setitem(rules.RULES, "tanh", wrong)
    with pytest.raises(jb.NotDerived, match="is not the gradient"):
        derived("dense_tanh")


def test_it_keeps_less_where_asked():
    forward, args = FORWARDS["swiglu"]
    named, least = jb.derive(forward, args), jb.derive(forward, args, keep="least")
    assert least.residual_bytes < named.residual_bytes <= named.autodiff_bytes + named.residual_bytes
    assert least.report.verdict == "right"


def test_chosen_arguments_trees_and_names():
    forward, args = FORWARDS["dense_tanh"]
    chosen = jb.derive(forward, args, argnums=(0,))
    assert "return d_W," in chosen.code and "d_x" not in chosen.code
    renamed = jb.derive(forward, args, names=("kernel", "offset", "inputs"))
    assert "inputs @ kernel + offset" in renamed.code
    assert "h @ w2 + b2" in derived("mlp").code


def test_shapes_stand_for_arrays():
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in FORWARDS["dense_tanh"].args]
    assert jb.derive(FORWARDS["dense_tanh"].function, shapes).report.verdict == "right"


BAD = [
    (lambda: jb.derive(jnp.sin, jnp.ones(3)), TypeError, "args must be a tuple"),
    (lambda: jb.derive(jnp.sin, (jnp.ones(3),), keep="all"), ValueError, 'keep must be "named" or "least"'),
    (lambda: jb.derive(jnp.sin, (jnp.ones(3),), argnums=4), ValueError, "argnums names argument 4"),
    (lambda: jb.derive(jnp.sin, (jnp.ones(3),), names=("a", "b")), ValueError, "names must name each"),
    (lambda: jb.derive(lambda i: i + 1, (jnp.arange(3),)), TypeError, "no argument holds floating-point"),
]


@pytest.mark.parametrize(("call", "error", "match"), BAD)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_closed_over_array_keeps_its_name():
    table = np.asarray([[1.0, 2.0], [3.0, 5.0]], np.float32)

    def forward(x):
        return jnp.tanh(x @ table)

    written = jb.derive(forward, (jnp.ones((3, 2)),))
    assert "def forward(x, table):" in written.code and written.report.verdict == "right"


def test_what_is_left_to_jax_is_said():
    written = derived("rnn_by_scan")
    assert written.unwritten and "scan in line" in written.unwritten[0] and "lax.scan" in written.unwritten[0]
    assert "not written: scan" in str(written)
