"""The bank of forwards: what is written is right, in the user's names, and runs by itself."""

import ast
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias._derive import statements
from jaxbias.symbols.latex import symbol
from tests.derive.bank import FORWARDS, libraries, research
from tests.derive.bank.further import FURTHER
from tests.derive.bank.unseen import KEPT_ASIDE, TRIED

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

SAMPLE = (
    "dense_tanh",
    "layer_norm",
    "softmax_cross_entropy",
    "attention",
    "mlp",
    "lstm_cell",
    "cross_entropy",
)


SOME_UNSEEN = (
    "small_cnn",
    "graph_convolution",
    "bayesian_regression",
    "generalised_advantage",
    "vector_quantised_bottleneck",
    "direct_preference",
    "hyperbolic_distance",
    "separable_convolution",
    "retention",
    "hidden_markov",
)
"""`python -m tests.derive.bank unseen research further` runs all of them."""


def derived(name):
    return jb.derive(*FORWARDS[name])


def assert_written(name, bank=FORWARDS):
    """The check is `derive`'s own; here `function` is compared with autodiff too, which the check does not run."""
    forward, args = bank[name]
    written = jb.derive(forward, args)
    assert written.report.ok
    assert not written.unwritten, written.unwritten
    ast.parse(written.code)
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
@pytest.mark.parametrize("name", [n for n in FORWARDS if n not in SAMPLE])
def test_every_forward_is_written(name):
    assert_written(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME_UNSEEN)
def test_forwards_that_no_rule_was_made_for(name):
    assert_written(name, {**TRIED, **KEPT_ASIDE, **research.FORWARDS, **FURTHER})


@pytest.mark.slow
@pytest.mark.parametrize("library", libraries.LIBRARIES)
def test_functions_of_installed_libraries(library):
    if library not in libraries.INSTALLED:
        pytest.skip(f"{library} is not installed")
    for name in libraries.BY_LIBRARY[library]:
        assert_written(name, libraries.FORWARDS)


def test_a_function_of_a_library_in_its_own_names():
    code = jb.derive(*libraries.FORWARDS["huber_loss"]).code
    assert "def forward(predictions, targets):" in code and "quadratic = jnp.minimum(abs_errors, 1)" in code


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


def test_what_is_left_to_jax_is_said():
    written = jb.derive(lambda x: jnp.tanh(jax.lax.cumprod(x)), (jnp.arange(1.0, 4.0),))
    assert len(written.unwritten) == 1 and "cumprod in line" in written.unwritten[0]
    assert "not written: cumprod" in str(written) and "cumprod_pull(" in written.code


def test_a_loop_is_a_loop_backward():
    assert (
        derived("rnn_by_scan").code
        == """import jax
import jax.numpy as jnp


def forward(xs, U, h0):
    def step(h, x):
        h_2 = jnp.tanh(x + h @ U)
        return h_2, h_2

    _, hs = jax.lax.scan(step, h0, xs)
    return hs, (U, h0, hs)


def backward(residuals, d_hs):
    U, h0, hs = residuals

    def step_back(carry, at):
        d_h, d_U = carry
        d_hs_t, h, h_2 = at
        d_h_2 = d_h + d_hs_t
        d = d_h_2 * (1 - h_2**2)
        return (U @ d, d_U + jnp.outer(h, d)), d

    (d_h0, d_U), d_xs = jax.lax.scan(
        step_back,
        (jnp.zeros_like(h0), jnp.zeros_like(U)),
        (d_hs, jnp.concatenate([h0[None], hs[:-1]]), hs),
        reverse=True,
    )
    return d_xs, d_U, d_h0
"""
    )


def test_what_a_loop_does_not_change_is_computed_before_it():
    code = derived("ssm_by_scan").code
    assert code.index("sigmoid_a = jax.nn.sigmoid(a)") < code.index("def step(")
    assert code.count("jax.nn.sigmoid") == 1


def test_a_wrong_loop_is_never_shown(monkeypatch):
    """Planted: the last pass first in the backward too."""
    monkeypatch.setattr(statements.Loop, "write", _forwards(statements.Loop.write))
    with pytest.raises(jb.NotDerived, match="is not the gradient"):
        derived("rnn_by_scan")


def _forwards(write):
    def planted(loop, *args):
        loop.reverse = False
        return write(loop, *args)

    return planted


def test_a_mask_that_a_forward_draws_is_a_constant():
    with jax.enable_x64(False):
        code = derived("dropout").code
    assert "def forward(x, keep):" in code and "d_x = jnp.where(keep, d_out, 0) / 0.8" in code


@pytest.mark.slow
def test_the_code_is_formatted(tmp_path):
    """As `ruff format` leaves it, but for the length of lines."""
    ruff = shutil.which("ruff", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("ruff")
    assert ruff, "ruff is not installed"
    for name in ("dense_tanh", "lstm_cell", "rnn_by_scan", "ssm_by_scan", "by_switch", "cosine_similarity"):
        (tmp_path / f"{name}.py").write_text(derived(name).code)
    line = [ruff, "format", "--diff", "--isolated", "--line-length", "320", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_the_same_as_mathematics():
    written = derived("dense_tanh")
    assert r"\delta_{z} = \delta_{a} \odot \left(1 - {a}^{2}\right)" in written.formulas
    assert r"\delta_{W} = {x}^{\top} \, \delta_{z}" in written.formulas
    assert written.latex.startswith("\\begin{aligned}\nz &= x \\, W + b \\\\\n") and r"\end{aligned}" in written.latex
    assert "d_z = d_a * (1 - a**2)</td>" in written._repr_html_() and written._repr_latex_().startswith("$$")


@pytest.mark.parametrize(
    ("name", "latex"),
    [("d_xhat", r"\delta_{\hat{x}}"), ("gamma", r"\gamma"), ("h_2", "h_{2}"), ("d_2", "d_{2}"),
     ("log_var", r"\mathrm{log\_var}"), ("W1", "W_{1}"), ("d_h_2", r"\delta_{h_{2}}")],
)  # fmt: skip
def test_variables_as_symbols(name, latex):
    assert symbol(name) == latex


def test_what_is_drawn_from_a_key_argument_is_constant():
    def noisy(key, x):
        eps = jax.random.normal(key, x.shape)
        return jnp.tanh(x) * eps

    x = jnp.asarray([0.5, -1.0, 2.0], jnp.float32)
    written = jb.derive(noisy, (jax.random.key(0), x))
    assert "eps = draw_eps(key)" in written.code and "random numbers" in written.unwritten[0]
    grads = (jax.grad(lambda x, f=f: f(jax.random.key(5), x).sum())(x) for f in (noisy, written.function))
    np.testing.assert_allclose(*grads, rtol=1e-6)


def test_what_is_computed_of_draws_is_written():
    """A draw is only what a call of jax.random returns; near 1 - alpha**2 = 0 a rounded draw would be another one."""

    def noised(key, x):
        at, noise_key = jax.random.split(key)
        t = jax.random.uniform(at, (x.shape[0], 1))
        alpha = jnp.cos(0.5 * jnp.pi * t)
        return jnp.tanh(alpha * x + jnp.sqrt(1 - alpha**2) * jax.random.normal(noise_key, x.shape))

    x = jnp.asarray([[0.5, -1.0, 2.0], [1.5, 0.1, -0.3]], jnp.float32)
    with jax.enable_x64(False):
        written = jb.derive(noised, (jax.random.key(3), x))
    assert "alpha = jnp.cos(1.5707963267948966 * t)" in written.code and len(written.unwritten) == 2


def test_whole_exponents_and_the_kinks_of_relu6():
    def decayed(x, n):
        return jax.nn.relu6(x) * 2.0 ** (-1 - n)

    x = jnp.asarray([-1.0, 0.0, 3.0, 6.0, 7.0], jnp.float32)
    written = jb.derive(decayed, (x, jnp.arange(5)))
    np.testing.assert_allclose(written.function(x, jnp.arange(5)), decayed(x, jnp.arange(5)), rtol=1e-6)
    grads = (jax.grad(lambda x, f=f: f(x, jnp.arange(5)).sum())(x) for f in (decayed, written.function))
    np.testing.assert_allclose(*grads, rtol=1e-6)


def test_what_is_drawn_from_a_key_that_it_closes_over_is_judged_as_it_was_rounded():
    """Noise in float32 is a constant of the code; of exact noise y would be another number, and so its slope."""

    def gumbel_softmax(z):
        noise = jax.random.gumbel(jax.random.key(0), (5, 3), jnp.float32)
        return jax.nn.softmax((z + noise) / 0.5, axis=-1)

    z = jnp.linspace(-1, 1, 15, dtype=jnp.float32).reshape(5, 3)
    written = jb.derive(gumbel_softmax, (z,))
    assert written.report.verdict == "right" and "gumbel" not in written.code
    pulled = [jax.vjp(function, z)[1](jnp.sin(9 * z))[0] for function in (gumbel_softmax, written.function)]
    np.testing.assert_allclose(*pulled, rtol=0, atol=4 * float(jnp.finfo(jnp.float32).eps))


def test_second_order():
    """The backward of a backward, against autodiff of autodiff."""
    forward, args = FORWARDS["dense_tanh"]
    first = jb.derive(forward, args)
    out, residuals = first.forward(*args)
    delta = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
    second = jb.derive(first.backward, (residuals, delta))
    assert second.report.verdict == "right" and "d_d_z" in second.code
    direction = jax.tree.map(jnp.sin, args)

    def product(function):
        return jax.grad(lambda args: sum(map(jnp.vdot, jax.vjp(function, *args)[1](delta), direction)))(args)

    errors = jb.verify.relative_errors(actual=product(first.function), expected=product(forward))
    assert all(error < 1e-5 for error in errors.values()), errors
