"""The program as its users start it: a process of its own, with signals, full disks and too little memory."""

import io
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxbias as jb
from jaxbias import train
from jaxbias.app import failure, progress

SMALL = ("--network", "dense:4,relu,dense:2", "--batch-size", "8", "--no-cache")
WIDE = ("--network", "dense:40000,relu,dense:2", "--batch-size", "8", "--no-cache", "--optimizer", "sgd")  # 1 MB


AT_IMPORT = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupting(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == place:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

place = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting())
from jaxbias.__main__ import program
program()
"""


@pytest.mark.parametrize("module", ["jaxbias.app.cli", "typer", "jax", "jaxbias.selfcheck.derivations"])
def test_an_early_ctrl_c_is_one_line(run, module):
    command = (sys.executable, "-c", AT_IMPORT, module, "check", "--no-cache")
    assert run(command=command) == (130, "", ["jaxbias: interrupted"])


def test_under_nohup_ctrl_c_is_not_for_the_program(run):
    status, out, _ = run(command=(sys.executable, "-c", AT_IMPORT, "typer", "--version"), ignoring_interrupts=True)
    assert status == 0 and out.startswith("jaxbias 0")


def test_what_needs_no_jax_does_not_import_it(run):
    code = """
import sys
from jaxbias.app.cli import main
for words in ("--help", "train --help", "--version", "chek", "check --jason", "train --seed -1"):
    print(main(words.split()))
print("jax" in sys.modules, "numpy" in sys.modules)
"""
    status, out, lines = run(command=(sys.executable, "-c", code))
    assert status == 0 and [line for line in out.splitlines() if line in ("0", "2")] == ["0", "0", "0", "2", "2", "2"]
    assert out.endswith("False False\n") and "Exit status: 0 done" in out and f"JAX {jax.__version__}" in out
    assert len(lines) == 3 and "Did you mean 'check'?" in lines[0] and "No such option: --jason" in lines[1]


def test_ctrl_c_ends_what_python_cannot_interrupt(start):
    """A hash of a billion rounds stands for a compiler: it holds the main thread and lets other threads run."""
    code = """
import hashlib, jaxbias.__main__ as module
from jaxbias.app import cli
module._GRACE = 0.2
cli.main = lambda: (print("busy", flush=True), hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9))
module.program()
"""
    process = start(sys.executable, "-c", code)
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "jaxbias: interrupted\n")


def _wait_for_a_checkpoint(directory, process):
    deadline = time.monotonic() + 120
    while not list(directory.glob("epoch-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow
def test_one_run_at_a_time_and_ctrl_c_leaves_it_resumable(blobs, start, run, tmp_path):
    words = ("train", blobs, *SMALL, "--epochs", "100000", "--checkpoint", str(tmp_path / "run"))
    first = start(sys.executable, "-m", "jaxbias", *words)
    _wait_for_a_checkpoint(tmp_path / "run", first)
    status, out, (line,) = run(*words)
    assert status == 2 and out == "" and re.search(rf"in use by another run: process {first.pid} on \S+ since 20", line)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 130 and err.splitlines()[-1] == "jaxbias: interrupted" and "Traceback" not in err
    newest = max((tmp_path / "run").glob("epoch-*"), key=lambda path: int(path.name.removeprefix("epoch-")))
    assert (newest / "manifest.json").is_file() and not list((tmp_path / "run").glob(".owner*"))


@pytest.mark.slow
def test_an_owner_that_was_killed_blocks_nobody(blobs, start, run, tmp_path):
    words = ("train", blobs, *SMALL, "--checkpoint", str(tmp_path / "run"))
    first = start(sys.executable, "-m", "jaxbias", *words, "--epochs", "100000")
    _wait_for_a_checkpoint(tmp_path / "run", first)
    first.kill()
    first.wait(timeout=60)
    done = max(int(path.name.removeprefix("epoch-")) for path in (tmp_path / "run").glob("epoch-*"))
    status, out, lines = run(*words, "--epochs", str(done + 2))
    assert status == 0 and out.startswith(f"{done + 2} epochs, {done} of them from {tmp_path / 'run'}: loss "), lines


@pytest.mark.slow
def test_what_a_full_disk_refuses_is_said_after_the_result(blobs, run, tmp_path):
    """No file of the process may exceed 20 kB: neither a checkpoint nor the params, wherever they are put."""
    limited = ("sh", "-c", 'ulimit -f 40; exec "$@"', "sh", sys.executable, "-m", "jaxbias")
    words = ("train", blobs, *WIDE, "--epochs", "3", "--checkpoint", "run", "--save", "params.safetensors")
    status, out, lines = run(*words, command=limited, HOME=str(tmp_path))
    assert status == 1 and out.startswith("3 epochs: loss ")
    warning, lost, unsaved = lines
    assert "warning: fit: the checkpoint after epoch 1 cannot be written" in warning and "File too large" in warning
    assert "params.safetensors (File too large), nor anywhere else; the trained params are lost" in lost
    assert "after epoch 3 cannot be written" in unsaved and "there is no whole one yet" in unsaved
    assert not list((tmp_path / "run").glob("writing*")) and not list(tmp_path.glob("*params*"))


def _may_mount(directory):
    """A command that runs another one with a disk of 2.6 MB at `directory`, where this system lets us make one."""
    make = 'mount -t tmpfs -o size=2600k none "$0" && exec "$@"'
    for unshare in (("unshare", "-m"), ("unshare", "-rm")):
        command = (*unshare, "sh", "-c", make, str(directory))
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return None


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_no_result(blobs, run, tmp_path):
    (tmp_path / "small").mkdir()
    mounted = _may_mount(tmp_path / "small")
    if mounted is None:
        pytest.skip("making a small disk takes a right that this system does not give")
    words = ("train", blobs, *WIDE, "--epochs", "8", "--checkpoint", "small/run")
    status, out, (warning, line) = run(*words, command=(*mounted, sys.executable, "-m", "jaxbias"))
    assert status == 1 and out.startswith("8 epochs: loss ")
    assert re.search(r"warning: fit: .*\(No space left on device\); the newest whole one is epoch-\d", warning)
    match = re.search(r"the newest whole one is epoch-\d; the trained params are in (\S+) instead", line)
    assert match, line
    network = jb.chain(jb.layers.dense.layer(40000), jb.layers.relu, jb.layers.dense.layer(2))
    params = jb.io.load(match[1], jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 3), np.float32)))
    assert np.isfinite(params[0].weight).all()


ASKED = """
import sys
from pathlib import Path
from jaxbias.app import failure, keep
sys.exit(failure.say(keep.write(Path("no/params"), lambda path: path.write_text("trained"), "the trained params")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of a test is a Unix matter")
@pytest.mark.parametrize(("answers", "last"), [("nor/this\nhere\n", "are in here instead"), ("\n", "params are lost")])
def test_a_person_at_a_terminal_is_asked_for_another_path(terminal, tmp_path, answers, last):
    status, text = terminal(sys.executable, "-c", ASKED, answers=answers)
    assert status == failure.FAILED
    assert "cannot be written to no/params (No such file or directory)." in text and "Another path, or nothing" in text
    assert last in text.splitlines()[-1] and (tmp_path / "here").exists() == ("here" in answers)
    assert ("nor/this cannot be written either" in text) == ("nor" in answers)


def test_a_full_standard_output_is_one_line(start):
    process = start("sh", "-c", f"{sys.executable} -m jaxbias --help > /dev/full")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "jaxbias: cannot read or write the output: No space left on device\n")


def test_a_network_too_large_for_memory_is_refused_before_it_is_drawn(run):
    status, out, (line,) = run("train", "--network", "dense:400000,relu,dense:400000,relu,dense:10", "--no-cache")
    assert status == 1 and out == ""
    assert re.search(r"need 596\.2 GiB of memory, but [\d.]+ [GM]iB are free\. Take fewer units", line)


@pytest.mark.slow
def test_a_step_too_large_for_memory_is_refused_before_it_runs(run):
    words = ("--network", "conv:3000000x1x1,global_avg_pool,dense:10", "--batch-size", "1437", "--no-cache")
    status, out, (line,) = run("train", *words)
    assert status == 1 and out == ""
    assert re.search(r"one step of this network needs [12],\d{3}\.\d GiB of memory, but .* free\. .*batch_size", line)


@pytest.mark.slow
def test_a_cache_that_cannot_be_used_is_one_line(run, tmp_path):
    (tmp_path / "file").touch()
    status, out, lines = run("check", "tanh", JAXBIAS_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert status == 0 and "1 derivations" in out
    assert lines == [f"jaxbias: compilation cache: off, {tmp_path}/file/cache cannot be used (Not a directory)"]
    assert run("check", "tanh")[2] == []
    entries = list((tmp_path / "cache").glob("*-cache"))
    assert len(entries) > 2
    for entry in entries:
        entry.write_bytes(b"damaged")
    status, out, (line,) = run("check", "tanh")
    assert status == 0 and "jaxbias: warning: Error reading persistent compilation cache entry" in line


BROKEN = """
import jax.numpy as jnp
import jaxbias as jb

def report():
    made = jb.verify.vjp(jnp.tanh, lambda args, cotangent: (cotangent * (1 - jnp.tanh(args[0]) ** 2),), (jnp.ones(2),))
    type(made).ok = property(lambda self: [][0])
    return made
"""


def test_an_internal_error_is_none_of_the_input(run, start, tmp_path):
    """The library is broken on purpose, from a file that `verify` reads."""
    (tmp_path / "broken.py").write_text(BROKEN)
    process = start(sys.executable, "-m", "jaxbias", "verify", "broken.py:report", "--debug")
    _, err = process.communicate(timeout=120)
    *trace, line = err.splitlines()
    assert process.returncode == 70 and "Traceback (most recent call last):" in trace and "IndexError" in trace[-1]
    assert re.match(r"jaxbias: internal error: IndexError: list index out of range \(jaxbias/.*\.py:\d+\)\. Your", line)
    assert "run again with --debug" in line


# --- in this process: how errors are told apart, and how progress looks ----------------------------------------------


def _error_of(function):
    with pytest.raises(Exception) as info:
        function()
    return info.value


def test_bad_input_is_what_the_library_itself_refuses(as_users_run_it):
    refused = _error_of(lambda: jb.layers.dense.forward(jb.Params(np.ones((2, 2)), None), np.ones((1, 3))))
    assert failure.of(refused) == (str(refused), failure.BAD_INPUT)
    by_python = _error_of(lambda: int("one"))
    assert failure.of(by_python).status == failure.INTERNAL and "ValueError" in failure.of(by_python).text
    inside = _error_of(lambda: train.accuracy(1, 2))  # Python's own error, in a line of the library
    assert failure.of(inside).status == failure.INTERNAL and "(jaxbias/train/_fit.py:" in failure.of(inside).text

    def without_input():
        with failure.no_input_left():
            raise refused

    assert failure.of(_error_of(without_input)).status == failure.INTERNAL


def test_errors_of_the_machine_are_no_internal_errors(tmp_path):
    (tmp_path / "there").mkdir()
    missing = ModuleNotFoundError("No module named 'orbax'", name="orbax.checkpoint")
    assert failure.of(missing) == (
        "this needs the package orbax.checkpoint, which is not installed. Install jaxbias[cli].", failure.BAD_INPUT
    )  # fmt: skip
    assert failure.of(OSError(28, "No space left on device", "page")).status == failure.FAILED
    assert failure.of(MemoryError()) == ("out of memory", failure.FAILED)
    assert failure.of(_error_of(lambda: (tmp_path / "no").read_text())).status == failure.INTERNAL


@pytest.mark.parametrize(("width", "name", "room"), [(40, 8, 3), (60, 12, 16), (80, 18, 20), (200, 18, 20)])
def test_progress_keeps_bar_count_and_time_at_any_width(width, name, room):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    bars = progress.Bars(console)
    row = bars.row("training on digits", 100000)
    latest = {"loss": 0.1234, "validation_loss": 0.2, "validation_accuracy": 0.9821}
    bars.trained(row, train.Progress(50000, 100000, latest, 2.5, 61.0))
    console.file = io.StringIO()
    console.print(bars.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    assert len(line) == width and "━" * (width // 8 // 2) in line and " 50000/100000 0:01:01 " in line
    assert line.startswith("training on digits"[: name - 1]) and "test accuracy 0.982"[: room - 1] in line


def test_a_clock_starts_with_its_row_and_compiling_stands_apart():
    console = Console(width=80, file=io.StringIO())
    now = 100.0
    bars = progress.Bars(console)
    bars.get_time = lambda: now
    first = bars.row("dense", 40, note="compiling")
    now = 130.0
    second = bars.row("convolutional", 40, note="compiling")
    now = 140.0
    bars.trained(second, train.Progress(1, 40, {"validation_loss": 1.0}, 6.0, 4.0))
    assert bars._tasks[first].elapsed == 40.0 and bars._tasks[second].elapsed == 4.0
    assert console.file.getvalue() == "convolutional: compiled in 6.0 s\n"
