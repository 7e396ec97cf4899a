"""fit over two processes of two devices each, by gloo: as one process, and again after a kill."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxbias.train._lock import OWNER
from tests.devices import environment

SCRIPT = Path(__file__).with_name("two_processes.py")

HANGS = 400
"""Seconds after which a process is taken to hang: on a busy machine all of this takes several times as long."""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(directory, *words, processes=2):
    port = free_port()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(index), str(processes), str(port), str(directory), *words],
            env=environment(4 // processes, keeps=False), **pipes,
        )
        for index in range(processes)
    ]  # fmt: skip


def last_lines(processes):
    """What each printed last, of processes of one group, the first of which is JAX's coordinator."""
    outcomes = [(*process.communicate(timeout=HANGS), process.returncode) for process in processes]
    everything = "\n".join(f"exit {code}\n{out[-1000:]}\n{said[-3000:]}" for out, said, code in outcomes)
    assert all(code == 0 for _, _, code in outcomes[1:]) and all(out for out, _, _ in outcomes), everything
    # Its service can abort when it is taken down, after all others have left it in order and all is done.
    assert outcomes[0][2] in (0, -signal.SIGABRT), everything
    return [out.splitlines()[-1] for out, _, _ in outcomes]


def run(directory, *words, processes=2):
    """(digest of params, epochs resumed, last validation loss), which all processes agree on."""
    lines = set(last_lines(start(directory, *words, processes=processes)))
    assert len(lines) == 1, lines
    digest, resumed, loss = lines.pop().split()
    return digest, int(resumed), float(loss)


def test_a_process_that_never_comes_is_named_after_a_while(tmp_path):
    first, second = start(tmp_path, "absent")
    try:
        lines = []
        while not lines or not re.match(r"\w*Error", lines[-1]):
            lines.append(first.stderr.readline())
            assert lines[-1], "".join(lines)
        wanted = "TimeoutError: fit: process 1 of 2 did not call fit within 2 s (wait_s). Every process must run"
        assert lines[-1].startswith(wanted), lines[-1]
        assert first.wait(timeout=HANGS) == 1  # and does not wait for the other at its end
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_processes_that_do_not_agree_are_told_on_what(tmp_path):
    for process in start(tmp_path, "others"):
        _, said = process.communicate(timeout=HANGS)
        wanted = "ValueError: fit: the processes do not agree on: initial params or state, data, epochs. Every process"
        assert process.returncode == 1 and said.splitlines()[-1].startswith(wanted), said[-2000:]
    assert not list(tmp_path.glob("epoch-*"))


@pytest.mark.slow
def test_an_error_of_one_process_alone_ends_them_all(tmp_path):
    first, second = start(tmp_path, "loader", "short")
    for process, wanted in (
        (second, "ValueError: fit: data ended before the 3 batches of an epoch were read."),
        (
            first,
            "ConnectionError: fit: another process of 2 ended, or no longer answers: this one trained, after epoch 0",
        ),
    ):
        _, said = process.communicate(timeout=HANGS)
        assert process.returncode == 1 and said.splitlines()[-1].startswith(wanted), said[-3000:]


@pytest.mark.slow
def test_the_script_of_the_page_on_devices_runs_as_printed(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "devices.md").read_text()
    (script,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "# added" in code)
    promised = re.findall(r"^loss [\d.]+ on \d devices$", page, re.MULTILINE)
    (tmp_path / "train.py").write_text(script.replace("12321", str(free_port())))
    alone = "".join(line for line in script.splitlines(keepends=True) if "# added" not in line)
    (tmp_path / "alone.py").write_text(alone)
    places = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(
            [sys.executable, *words.split()], env=environment(devices, keeps=False) | {"JAX_ENABLE_X64": "0"}, **places
        )
        for words, devices in (("train.py 0", 1), ("train.py 1", 1), ("train.py", 4), ("alone.py", 1))
    ]
    *of_two, of_one, of_alone = last_lines(started)  # gloo says before that it is connected
    assert [of_one, *of_two] == promised and len(promised) == 3
    assert of_alone == promised[0].replace("4 devices", "1 devices")


@pytest.mark.slow
def test_a_sweep_over_two_processes_is_that_of_one(tmp_path):
    """18 members in chunks of 4: the last turn is one half chunk, for one of the processes."""
    digest, resumed, loss = run(tmp_path / "two", "sweep")
    assert resumed == 0 and len(list((tmp_path / "two").glob("members-*"))) == 5
    alone = run(tmp_path / "alone", "sweep", processes=1)
    assert loss == pytest.approx(alone[2], rel=1e-12)
    sorted((tmp_path / "two").glob("members-*"))[2].unlink()
    assert run(tmp_path / "two", "sweep") == (digest, 14, loss)


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_after_a_kill(tmp_path):
    digest, resumed, loss = run(tmp_path / "whole")
    assert resumed == 0
    alone = run(tmp_path / "alone", processes=1)
    assert loss == pytest.approx(alone[2], rel=1e-12)
    for words in ("own rows", "mapped", "loader"):
        assert run(tmp_path / words, words)[2] == pytest.approx(loss, rel=1e-12)
    assert run(tmp_path / "loader", "loader")[1] == 4  # all of it came from checkpoints

    processes = start(tmp_path / "kill all", "wait")
    for process in processes:
        guard = threading.Timer(HANGS, process.kill)
        guard.start()
        while (line := process.stdout.readline()) not in ("waits\n", ""):
            pass
        guard.cancel()
        assert line, process.stderr.read()[-3000:]
    owner = json.loads((tmp_path / "kill all" / OWNER).read_text())
    assert owner["process"] == processes[0].pid  # the lock is that of the first process alone
    for process in processes:
        process.kill()
        assert process.wait(timeout=HANGS) == -signal.SIGKILL
    again, resumed, _ = run(tmp_path / "kill all")
    assert again == digest and 1 <= resumed <= 3

    for words, survivor in (("kill last", 0), ("kill first", 1)):
        processes = start(tmp_path / words, words)
        processes[1 - survivor].communicate(timeout=HANGS)
        assert processes[1 - survivor].returncode == -signal.SIGKILL
        _, said = processes[survivor].communicate(timeout=HANGS)
        wanted = r"ConnectionError: fit: another process of 2 ended, or no longer answers: .* after epoch [1-3] of 4\."
        assert re.search(wanted, said), said[-3000:]
        # The first process is the coordinator: without it JAX ends the others by itself, after its own words.
        assert processes[survivor].returncode in ((1,) if survivor == 0 else (1, -signal.SIGABRT))
        assert survivor or said.splitlines()[-1].startswith("ConnectionError"), said[-3000:]
        assert list((tmp_path / words).glob("epoch-*")), "killed before it saved anything"
        again, resumed, _ = run(tmp_path / words)
        assert again == digest and 1 <= resumed <= 3
