"""`jaxbias verify module:function` on files of a user."""

import json

import jax.numpy as jnp
import pytest

from jaxbias import verify
from jaxbias.app.cli import main
from jaxbias.verify.certificate import Changed, compare

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

def rule(args, ct):
    return (ct,)

def ending():
    raise SystemExit(5)

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
    (tmp_path / "ending.py").write_text("import sys\n\nsys.exit(5)\n")
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
        ("{folder}/ending.py:f", "cannot be imported: it ends the program (sys.exit)"),
        ("{file}:nothing", "has no nothing"),
        ("{file}:rule", "takes args, ct, but what is checked takes no argument and returns a Report"),
        ("{file}:ending", "raises SystemExit"),
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


def test_undecided_has_a_status_of_its_own(file, capsys):
    text = file.read_text()
    loop = "jax.lax.scan(lambda y, _: (y - (y * y - a) / (2 * y), None), jnp.ones_like(a), None, length=30)[0]"
    text += f"\nnewton = lambda a: {loop}\n"
    text += "rule = lambda args, ct: (2 * jax.vjp(newton, *args)[1](ct)[0],)\n"
    text += "def hurried():\n    return verify.vjp(newton, rule, (jnp.array([1.5, 2.0]),), seconds=0)\n"
    text += "def required():\n    verify.assert_vjp(newton, rule, (jnp.array([1.5, 2.0]),), seconds=0)\n"
    file.write_text(text)
    assert main(["verify", f"{file}:hurried"]) == 3 and "rule: undecided" in capsys.readouterr().out
    assert main(["verify", f"{file}:required"]) == 3


def test_a_certificate_is_kept_and_evaluated_again(file, tmp_path, capsys):
    kept = tmp_path / "kept.json"
    assert main(["verify", f"{file}:wrong", "--certificate", str(kept)]) == 1
    held = json.loads(kept.read_text())
    held["checks"][0]["jax"] = "0.1"
    kept.write_text(json.dumps(held))
    assert main(["verify", f"{file}:wrong", "--recheck", str(kept)]) == 1  # the rule is as wrong as it was
    said = capsys.readouterr().err
    assert "holds: evaluated again at" in said and "note: jax was 0.1, and is" in said
    file.write_text(file.read_text() + "\n# changed\n")
    assert main(["verify", f"{file}:wrong", "--recheck", str(kept)]) == 2
    assert "derivations.py has changed since" in capsys.readouterr().err
    kept.write_text("{}")
    assert main(["verify", f"{file}:wrong", "--recheck", str(kept)]) == 2
    assert "is no certificate that --certificate wrote" in capsys.readouterr().err


@pytest.fixture(scope="module")
def report():
    x = jnp.array([0.3, -1.2, 2.0])
    return verify.vjp(jnp.sin, lambda args, ct: (-ct * jnp.cos(args[0]),), (x,), names=("x",), diagnose=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda held: held["probes"][0]["inputs"][0]["values"].reverse(),
            'the inputs of the probe "as given" are others',
        ),
        (
            lambda held: held["probes"][0]["leaves"]["x"].update(proved=0),
            "0 elements were proved different and 0 equal",
        ),
        (lambda held: held["probes"][0]["leaves"]["x"].update(low="7", high="8"), r"the difference was in \[7, 8\]"),
        (lambda held: held["probes"][0]["leaves"].update(y=held["probes"][0]["leaves"]["x"]), "no gradient of y"),
        (lambda held: held["probes"][0].update(name="elsewhere"), 'no enclosure was computed at the probe "elsewhere"'),
        (lambda held: held.update(form=9), "has form 9; this version reads form 1"),
    ],
)
def test_a_certificate_that_does_not_hold(report, change, words):
    now = json.loads(json.dumps(report.certificate))
    assert compare(report.certificate, now) == []
    held = json.loads(json.dumps(report.certificate))
    change(held)
    with pytest.raises(Changed, match=words):
        compare(held, now)
