"""`jaxbias verify module:function` on files of a user."""

import json

import pytest

from jaxbias.app.cli import main

FILE = """
import helper
import jax, jax.numpy as jnp
from jaxbias import verify

x = jnp.array([0.3, -1.2, 2.0])

def sine():
    return verify.vjp(jnp.sin, lambda args, ct: (ct * jnp.cos(args[0]),), (x,))

def wrong():
    return verify.vjp(jnp.sin, lambda args, ct: (-ct * jnp.cos(args[0]),), (x,))

def both():
    return [sine(), wrong()]

def asserted():
    verify.assert_vjp(jnp.sin, lambda args, ct: (-ct * jnp.cos(args[0]),), (x,))

def number():
    return 3

def raising():
    return {}["rate"]

def unusable():
    return verify.vjp(jnp.argmax, lambda args, ct: (ct,), (x,))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "derivations.py"
    path.write_text(FILE)
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "held.py").write_text("import derivations\n\nreport = derivations.sine()\n")
    (tmp_path / "broken.py").write_text("import jax\n\n1 / 0\n")
    (tmp_path / "needy.py").write_text("import no_such_module\n")
    return path


def test_exit_status_and_text(file, capsys):
    assert main(["verify", f"{file}:sine"]) == 0 and "rule: right" in capsys.readouterr().out
    assert main(["verify", f"{file.parent}/held.py:report"]) == 0
    capsys.readouterr()
    assert main(["verify", f"{file}:wrong"]) == 1 and "sign" in capsys.readouterr().out
    assert main(["verify", f"{file}:both"]) == 1
    out = capsys.readouterr().out
    assert "rule: right" in out and "rule: wrong" in out
    assert main(["verify", f"{file}:asserted"]) == 1 and "wrong sign" in capsys.readouterr().out


def test_json(file, capsys):
    assert main(["verify", f"{file}:both", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["ok"] for each in found] == [True, False] and found[1]["diagnoses"][0]["kind"] == "sign"
    assert main(["verify", f"{file}:asserted", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["ok"] is False


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("{file}", "expected module:function or file.py:function"),
        ("{folder}/none.py:f", "there is no file"),
        ("no_such_module:f", "there is no module no_such_module"),
        ("{folder}/needy.py:f", "there is no module no_such_module, which"),
        ("{folder}/broken.py:f", "cannot be imported: ZeroDivisionError: division by zero (broken.py:3: 1 / 0)"),
        ("{file}:nothing", "has no nothing"),
        ("{file}:number", "must be or return a Report"),
        ("{file}:raising", "raises KeyError: 'rate' (derivations.py:"),
        ("{file}:unusable", "a gradient needs at least one float output"),
    ],
)
def test_bad_input_is_one_line_and_status_2(file, target, words, capsys):
    assert main(["verify", target.format(file=file, folder=file.parent)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_no_target(capsys):
    assert main(["verify"]) == 2 and "name what to check" in capsys.readouterr().err
