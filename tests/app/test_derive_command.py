"""`jaxbias derive`: shapes in, code out, one clear line for all else."""

import pytest

from jaxbias.app import cli

MODEL = """
import jax
import jax.numpy as jnp

def attention(q, k, v):
    s = q @ k.T / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(s, axis=-1)
    return p @ v

def unit_length(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

def branch(x):
    return x if x.sum() > 0 else -x

def lookup(table, ids):
    return (table[ids] ** 2).mean()

number = 3
"""
pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.main(["derive", *words])


def test_it_prints_the_steps_and_writes_the_code(run, tmp_path, capsys):
    assert run("model.py:attention", "--shapes", "q=5x4,k=7x4,v=7x3", "--argnums", "0,1", "--out", "d.py") == 0
    text = capsys.readouterr().out
    assert "d_s = p * (d_p - (p * d_p).sum(axis=-1, keepdims=True))" in text and "code: d.py" in text
    assert "return d_q, d_k\n" in (tmp_path / "d.py").read_text()


def test_the_closed_form(run, capsys):
    assert run("model.py:unit_length", "--shapes", "x=4x3", "--style", "closed") == 0
    assert "d_x = (d_out - out * (d_out * out).sum(axis=-1, keepdims=True)) / root" in capsys.readouterr().out


def test_whole_numbers_are_arguments_too(run, capsys):
    assert run("model.py:lookup", "--shapes", "table=5x3,ids=i4") == 0
    assert ".at[ids].add(" in capsys.readouterr().out


BAD = [
    (("model.py:attention", "--shapes", "q=5x4"), "the shapes of k, v are missing: --shapes k=…,v=…."),
    (("model.py:attention", "--shapes", "q=5by4"), "must be written like x=8x16,W=16x4, got 'q=5by4'"),
    (("model.py:attention", "--shapes", "w=5"), "names w, but the arguments are q, k, v"),
    (("model.py:branch", "--shapes", "x=3"), "derive: the forward looks at the values of its arguments (model.py:14"),
    (("model.py:unit_length", "--shapes", "x=3", "--style", "short"), 'style must be "steps" or "closed"'),
    (("model.py:unit_length", "--shapes", "x=3", "--argnums", "x"), "--argnums must be places of arguments, counted"),
    (("model.py:unit_length", "--shapes", "x=3", "--out", "."), "--out: . is a directory, wanted the path of a file"),
    (("model.py:nothing",), "derive: model.py has no nothing"),
    (("model.py:number",), "derive: model.py:number is no function"),
]


@pytest.mark.parametrize(("words", "match"), BAD)
def test_bad_input_is_one_line(run, capsys, words, match):
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1
