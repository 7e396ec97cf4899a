"""Whose lines a report shows: a user's, wherever the file lies; never those of JAX or of the checker."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import jaxbias as jb
from jaxbias import _jaxpr

USER = """
import jax.numpy as jnp

def forward(x, weight):
    return jnp.tanh(x @ weight)

def wrong(args, delta):
    x, weight = args
    return delta @ weight.T, x.T @ delta  # without 1 - a²

def unused(params, x):
    return x @ params["weight"], jnp.sin(params["bias"])

def raises(args, delta):
    x, weight = args
    return x @ delta, weight  # does not fit
"""


@pytest.fixture(params=["jax/_src", "jaxbias/verify"])
def user(request, tmp_path):
    """A user's module in a folder that is called as one of ours or of JAX's is."""
    path = tmp_path / request.param / "problem.py"
    path.parent.mkdir(parents=True)
    path.write_text(USER)
    spec = importlib.util.spec_from_file_location("users_derivation", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def args(key):
    return jax.random.normal(key, (4, 3)), jax.random.normal(key, (3, 2))


def test_a_users_line_is_shown_whatever_the_folder_is_called(user, args):
    report = jb.verify.vjp(user.forward, user.wrong, args)
    assert {d.source for d in report.diagnoses} == {"problem.py:5: return jnp.tanh(x @ weight)"}, str(report)


def test_roles_name_a_users_line_whatever_the_folder_is_called(user, args):
    x, weight = args
    (contact,) = jb.contacts(lambda weight, x: user.forward(x, weight), weight, x)
    assert contact.where.startswith(f"{user.__file__}:5:") and contact.where.endswith("(forward)")
    with pytest.raises(ValueError, match=rf"it stops at operation sin at {re.escape(user.__file__)}:12:\d+ \(unused\)"):
        jb.roles(user.unused, {"weight": weight, "bias": weight[0]}, x)


def test_the_place_of_a_users_exception_is_shown_whatever_the_folder_is_called(user, args):
    report = jb.verify.vjp(user.forward, user.raises, args)
    assert "(problem.py:16: return x @ delta, weight  # does not fit)" in report.diagnoses[0].explanation


def test_lines_of_a_layer_are_shown_when_it_is_what_is_checked(args):
    x, weight = args
    layer = jb.layers.dense.layer(2)
    program = _jaxpr.trace(lambda w, b: [layer.forward(jb.Params(w, b), x)[0]], weight, weight[0])
    assert "dense.py" in {pathlib.Path(e.source.file).name for e in program.equations if e.source}


def test_no_equation_of_a_check_comes_from_the_checker(args):
    rooms = [pathlib.Path(module.__file__ or "").parent for module in (_jaxpr, jb.verify)]
    gradient = lambda x, w: jax.vjp(lambda x, w: jnp.tanh(x @ w), x, w)[1](jnp.ones((4, 2)))
    program = _jaxpr.trace(lambda *args: list(gradient(*args)), *args)
    files = [pathlib.Path(e.source.file) for e in program.equations if e.source]
    assert len(files) > 5 and all(file.parent not in rooms for file in files)
