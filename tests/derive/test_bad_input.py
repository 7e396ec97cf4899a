"""What users hand in: code without a source, lambdas, decorators, long forwards, names that clash, and mistakes."""

import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")
X = jnp.asarray([0.5, -1.0, 2.0], jnp.float32)
W = jnp.asarray([[1.0, 0.5], [-0.3, 2.0], [0.7, 0.1]], jnp.float32)


def looks_at_values(x):
    return x if x.sum() > 0 else -x


def doubles_until_large(x):
    return jax.lax.while_loop(lambda c: c.sum() < 10, lambda c: c * 2, x)


NOT_A_FUNCTION: object = 3
BAD = [
    (lambda: jb.derive(looks_at_values, (X,)), TypeError, "looks at the values of its arguments .*where"),
    (lambda: jb.derive(NOT_A_FUNCTION, (X,)), TypeError, "forward must be a function"),  # type: ignore[arg-type]
    (lambda: jb.derive(lambda x, s: x, (X, "a")), TypeError, r"args\[1\] holds the str 'a'"),
    (lambda: jb.derive(lambda x: None, (X,)), TypeError, "returns nothing"),
    (lambda: jb.derive(jnp.argmax, (X,)), TypeError, "at least one float output"),
    (lambda: jb.derive(lambda x: x @ jnp.ones(5), (X,)), TypeError, "cannot be traced: TypeError: dot"),
    (lambda: jb.derive(doubles_until_large, (X,)), TypeError, "JAX cannot differentiate the forward: .*Reverse-mode"),
    (lambda: jb.derive(jnp.sin, X), TypeError, "args must be a tuple"),  # type: ignore[arg-type]
    (lambda: jb.derive(jnp.sin, (X,), keep="all"), ValueError, 'keep must be "named" or "least", got'),
    (lambda: jb.derive(jnp.sin, (X,), style="short"), ValueError, 'style must be "steps" or "closed", got \'short\''),
    (lambda: jb.derive(jnp.sin, (X,), argnums=4), ValueError, "argnums names argument 4"),
    (lambda: jb.derive(jnp.sin, (X,), names=("a", "b")), ValueError, "names must name each"),
    (
        lambda: jb.derive(jnp.sin, (X,), names=("class",)),
        ValueError,
        "different names of Python variables, got 'class'",
    ),
    (lambda: jb.derive(jnp.sin, (X,), names=("a b",)), ValueError, "different names of Python variables, got 'a b'"),
    (lambda: jb.derive(jnp.sin, (X,), names=(3,)), ValueError, "different names .* got 3"),  # type: ignore[arg-type]
    (lambda: jb.derive(jnp.add, (X, X), names=("a", "a")), ValueError, "names must be different .* got 'a'"),
    (lambda: jb.derive(jnp.sin, (X,), argnums="x"), TypeError, "argnums must be a whole number"),  # type: ignore[arg-type]
    (lambda: jb.derive(jnp.sin, (X,), argnums=0.0), TypeError, "got the float 0.0"),  # type: ignore[arg-type]
    (lambda: jb.derive(jnp.sin, (jnp.full(3, jnp.nan),)), ValueError, "not finite, so nothing .* can be compared"),
    (lambda: jb.derive(jnp.exp, (jnp.full(3, 1e3),)), ValueError, "not finite"),
    (lambda: jb.derive(lambda i: i + 1, (jnp.arange(3),)), TypeError, "no argument holds floating-point"),
]


@pytest.mark.parametrize(("call", "error", "match"), BAD)
def test_it_is_named_in_one_line(call, error, match):
    with pytest.raises(error, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)


def gate_called_i(x, w):
    """Stacked over the passes it would be `is`."""

    def step(c, x):
        i = jax.nn.sigmoid(x @ w + c)
        return i * c, c

    return jax.lax.scan(step, w[0], x)[1]


def test_the_passes_of_a_value_are_no_word_of_python():
    derived = jb.derive(gate_called_i, (W, jnp.tile(X[:2], (2, 1))), names=("x", "w"))
    assert derived.report.ok and " is_" in derived.code


# --- where the source is not at hand, or not the function's own -------------------------------------------------------


@pytest.mark.parametrize("file", ["<string>", "<stdin>"])
def test_names_are_made_up_without_a_source(file):
    """What `exec` was handed, and what was typed into a session."""
    namespace = {}
    text = "import jax.numpy as jnp\ndef f(u, v):\n    w = u * v\n    return jnp.tanh(w) * w\n"
    exec(compile(text, file, "exec"), namespace)
    written = jb.derive(namespace["f"], (X, X))
    assert str(written).count("the source is not at hand") == 1 and "tanh = jnp.tanh(u * v)" in written.code


def doubled(function):
    @functools.wraps(function)
    def inside(*args):
        return 2 * function(*args)

    return inside


@jax.jit
@doubled
def decorated(x, w):
    z = x @ w
    return jnp.tanh(z)


def test_a_decorated_function_keeps_its_names():
    code = jb.derive(decorated, (X, W)).code
    assert "def forward(x, w):" in code and "z = x @ w" in code and "d_z = " in code


def test_a_lambda_and_a_partial_name_their_arguments():
    code = jb.derive(functools.partial(lambda power, x, w: (x @ w) ** power, 2), (X, W)).code
    assert "def forward(x, w):" in code and "d_w = jnp.outer(x, d)" in code


def test_functions_of_other_modules_have_their_own_names(tmp_path, monkeypatch):
    (tmp_path / "their_module.py").write_text(
        "import jax.numpy as jnp\n\ndef gated(x, w):\n    gate = jnp.tanh(x @ w)\n    return gate * gate.sum()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("their_module")
    try:
        written = jb.derive(lambda x, w: theirs.gated(x, w), (X, W))
    finally:
        del sys.modules["their_module"]
    assert "gate = jnp.tanh(x @ w)" in written.code and "d_gate = " in written.code


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_closed_over_array_keeps_its_name():
    table = np.asarray([[1.0, 2.0, 0.5], [3.0, 5.0, 1.5]], np.float32).T
    written = jb.derive(lambda x: jnp.tanh(x @ table), (X,))
    assert "def forward(x, table):" in written.code and written.report.verdict == "right"


def test_names_of_the_user_are_kept_apart_from_those_made():
    def clash(forward, d_out, residuals):
        d = forward * d_out
        x = jnp.tanh(d) * residuals
        x = x * d
        return x

    code = jb.derive(clash, (X, X, X)).code
    assert "def forward(forward, d_out, residuals_):" in code and "x_2 = x * d" in code


def test_a_value_that_is_named_only_later_has_that_name_before():
    def late(x):
        first = jnp.where(jnp.arange(3) == 0, x, 0)
        place = jnp.arange(3)
        return first * jnp.where(place == 1, 2 * x, x)

    code = jb.derive(late, (X,)).code
    assert 0 < code.index("place = jnp.arange(3") < code.index("first = jnp.where(place == 0, x, 0)")


# --- long ones --------------------------------------------------------------------------------------------------------


def first_half(x, w):
    for _ in range(12):
        h = jnp.tanh(x * w)
        x = 0.1 * h + x
    return x


def second_half(x, w):
    for _ in range(12):
        g = jax.nn.sigmoid(x + w)
        x = g * x
    return x


def long(x, w):
    y = first_half(x, w)
    z = second_half(y, w)
    return y + z


def test_a_long_forward_has_sections_by_function():
    code = jb.derive(long, (X, X)).code
    forward, backward = code.split("def backward")
    headings = [
        [line.strip() for line in part.splitlines() if line.strip().startswith("#")] for part in (forward, backward)
    ]
    assert headings[0] == ["# first_half", "# long", "# second_half", "# long"]
    assert headings[1] == ["# second_half", "# long", "# first_half"]


def three_hundred_lines():
    """A function of 300 lines, as text."""
    lines = ["import jax.numpy as jnp", "", "def deep(x, w):"]
    for k in range(0, 300, 3):
        lines += [f"    a{k} = jnp.tanh(x * w[{k % 3}])", f"    b{k} = a{k} * x", f"    x = 0.01 * b{k} + x"]
    return "\n".join([*lines, "    return x", ""])


@pytest.mark.slow
def test_three_hundred_lines(tmp_path, monkeypatch):
    (tmp_path / "deep_module.py").write_text(three_hundred_lines())
    monkeypatch.syspath_prepend(tmp_path)
    written = jb.derive(importlib.import_module("deep_module").deep, (X, X))
    del sys.modules["deep_module"]
    assert written.report.ok and "d_a297 = " in written.code and len(written.code.splitlines()) > 500
