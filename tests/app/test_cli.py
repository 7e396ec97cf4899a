import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import compilation_cache, data, selfcheck
from jaxbias.app import cli
from jaxbias.app import task as tasks
from jaxbias.compilation_cache import CacheUse
from jaxbias.selfcheck import LeafCheck


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the user's cache, nor turns JAX's cache on for the tests after it."""
    monkeypatch.setenv("JAXBIAS_CACHE_DIR", str(tmp_path / "cache"))
    real = compilation_cache.enable
    monkeypatch.setattr(
        "jaxbias.compilation_cache.enable",
        lambda directory: real(directory) if directory == Path("/proc/nowhere") else CacheUse(None),
    )


TINY = ("--network", "dense:4,relu,dense:2", "--epochs", "4", "--batch-size", "8", "--learning-rate", "0.05")


def test_train_on_own_rows_and_save(blobs, capsys, tmp_path):
    saved = tmp_path / "params.safetensors"
    saved.write_text("old")
    assert cli.main(["train", blobs, *TINY, "--save", str(saved)]) == 0
    assert "4 epochs: loss " in capsys.readouterr().out
    task = tasks.prepare(blobs, "dense:4,relu,dense:2")
    params = jb.io.load(saved, task.params)
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(task.params), strict=True))
    assert [path.name for path in tmp_path.glob("*params*")] == ["params.safetensors"]


@pytest.mark.slow
def test_train_resumes_from_its_checkpoints(blobs, capsys, tmp_path):
    arguments = ["train", blobs, *TINY, "--checkpoint", str(tmp_path / "run")]
    assert cli.main(arguments) == 0
    first = capsys.readouterr().out
    assert cli.main(arguments) == 0
    second = capsys.readouterr().out
    assert "4 of them from" in second and second.split(": ")[1] == first.split(": ")[1]
    assert cli.main([*arguments, "--seed", "1"]) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_divergence_is_exit_status_1(blobs, capsys):
    arguments = ["train", blobs, "--network", "dense:2", "--optimizer", "sgd", "--learning-rate", "1e300"]
    assert cli.main([*arguments, "--batch-size", "8"]) == 1
    assert "training diverged: the loss is not finite from epoch" in capsys.readouterr().err


BAD = [
    (["train", "--network", "dens:10"], "unknown layer 'dens' .*Did you mean dense"),
    (["train", "--network", "dense:3"], "gives rows of shape .* End it with dense:10"),
    (["train", "--network", "moe:3"], "moe in .* cannot be written as text"),
    (["train", "--network", "embedding:9x3"], "'embedding:9x3' does not fit rows of shape .* integer ids"),
    (["train", "--network", "dense:6,group_norm:4,dense:10"], "does not fit rows of shape"),
    (["train", "--optimizer", "adm"], "optax has no optimizer 'adm'. Did you mean adam"),
    (["train", "--learning-rate", "-1"], "must be a positive number, got -1"),
    (["train", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
    (["train", "--batch-size", "2000"], "batch_size=2000 is larger than the data, which has 1437 rows"),
    (["train", "--epochs", "0"], "epochs must be at least 1"),
    (["train", "--epochs", "many"], "Invalid value for '--epochs'"),
    (["train", "--freeze", "7.weight"], "params has no '7.weight'. Its leaves are 0.weight, 0.bias"),
    (["train", "--no-bias", "--bias-only"], "nothing is left to train"),
    (["train", "nowhere.npz"], "there is no file nowhere.npz"),
    (["train", "--checkpoint", "/proc/nowhere"], "checkpoint directory /proc/nowhere cannot be written"),
    (["train", "--save", "/proc/nowhere/params"], "--save: cannot write /proc/nowhere/params"),
    (["report", "--out", "/proc/nowhere/page.html"], "--out: cannot write"),
    (["report", "--out", "/"], "--out: / is a directory"),
    (["train", "--seed", "-1"], "Invalid value for '--seed'.* 0"),
    (["train", "--seed", "4294967296"], "Invalid value for '--seed'.* 4294967295"),
    (["train", "--seed", "1.5"], "Invalid value for '--seed'.*integer"),
    (["check", "dens"], "there is no derivation 'dens'. Did you mean dense"),
    (["check", "--cache-dir", "/proc/nowhere"], "--cache-dir: /proc/nowhere cannot be used"),
    (["chek"], "No such command 'chek'. Did you mean 'check'"),
    (["check", "--jason"], "No such option"),
]


@pytest.mark.parametrize(("arguments", "match"), BAD, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_bad_input_is_one_line_and_exit_status_2(arguments, match, capsys, as_users_run_it):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("jaxbias: ")]
    assert re.search(match, line), line
    assert "Traceback" not in captured.err and captured.out == ""


def test_unwritable_output_is_found_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr("jaxbias.app.report.collect", lambda **_: pytest.fail("work started"))
    assert cli.main(["report", "--out", str(tmp_path / "no" / "page.html")]) == 2


def test_bias_only_and_freeze(blobs):
    task = tasks.prepare(blobs, "dense:4,relu,dense:2", bias_only=True)
    assert task.trainable[0] == ("freeze", "train") and task.trainable[2] == ("freeze", "train")
    task = tasks.prepare(blobs, "dense:4,relu,dense:2", freeze=["0", "2.weight"], epochs=1, batch_size=8)
    assert task.trainable[0] == ("freeze", "freeze") and task.trainable[2] == ("freeze", "train")
    fitted = tasks.run(task)
    assert np.array_equal(fitted.params[2].weight, task.params[2].weight)
    assert not np.array_equal(fitted.params[2].bias, task.params[2].bias)


@pytest.fixture
def two_derivations(monkeypatch):
    found = {name: selfcheck.layer_derivations()[name] for name in ("relu", "dense")}
    monkeypatch.setattr("jaxbias.selfcheck.derivations.layer_derivations", lambda: found)
    monkeypatch.setattr("jaxbias.selfcheck.derivations.loss_derivations", dict)


def test_check_prints_a_table(two_derivations, capsys):
    assert cli.main(["check"]) == 0
    out = capsys.readouterr().out
    assert "dense" in out and "bias" in out and "2 derivations" in out and "all within tolerance" in out


def test_check_json(two_derivations, capsys):
    assert cli.main(["check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert {leaf["leaf"] for leaf in found["leaves"] if leaf["derivation"] == "dense"} == {"weight", "bias", "x"}


def test_a_failed_check_is_exit_status_1(monkeypatch, capsys):
    wrong = selfcheck.Check(
        selfcheck.layer_derivations()["dense"],
        (LeafCheck("dense", "matrix", "bias", "float64", float("nan"), 1e-15),),
        0.0,
    )
    monkeypatch.setattr(selfcheck, "check_all", lambda *_, **__: [wrong])
    assert cli.main(["check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["leaves"][0]["error"] is None
    monkeypatch.setattr("jaxbias.app.show.check_table", lambda found: "")
    assert cli.main(["check"]) == 1
    assert "1 of 1 gradients are wrong, the first: dense (matrix), bias in float64" in capsys.readouterr().out


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("report", "check", "train", "summary"))


def test_summary(capsys):
    assert cli.main(["summary", "--network", "conv:16x3x3,relu,flatten,dense:10", "--bias-only"]) == 0
    out = capsys.readouterr().out
    assert "conv" in out and "biases" in out
    (trainable,) = [line.split() for line in out.splitlines() if line.startswith("trainable")]
    assert trainable == ["trainable", "26", "0", "26", "104"]


def test_the_digits_are_not_read_for_a_bad_spec(monkeypatch):
    monkeypatch.setattr(data, "digits", lambda **_: pytest.fail("data was read"))
    assert cli.main(["train", "--network", "dens:10"]) == 2
