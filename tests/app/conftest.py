import contextlib
import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture
def blobs(tmp_path):
    """Two well separated clouds."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 2
    np.savez(tmp_path / "blobs.npz", x=generator.normal(size=(60, 3)) + 4 * y[:, None], y=y)
    return str(tmp_path / "blobs.npz")


@contextlib.contextmanager
def _interrupts(disposition):
    before = signal.signal(signal.SIGINT, disposition)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def start(tmp_path):
    """Start a process in `tmp_path`; whatever happens in the test, it does not outlive it."""
    started = []

    def start(*command, ignoring_interrupts=False, **changes):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu", "COLUMNS": "80",
            "JAXBIAS_CACHE_DIR": str(tmp_path / "cache"), "JAXBIAS_DEBUG": "",
        }  # fmt: skip
        # A process inherits an ignored Ctrl-C, as under nohup, and no handler: say which it is to have.
        with _interrupts(signal.SIG_IGN if ignoring_interrupts else signal.default_int_handler):
            process = subprocess.Popen(
                command, env=environment | changes, cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """(exit status, standard output, lines of standard error that are the program's) of `jaxbias ...`."""

    def run(*words, command=(sys.executable, "-m", "jaxbias"), **changes):
        process = start(*command, *words, **changes)
        out, err = process.communicate(timeout=180)
        assert "Traceback" not in err or changes.get("JAXBIAS_DEBUG"), err
        return process.returncode, out, [line for line in err.splitlines() if line.startswith("jaxbias: ")]

    return run


@pytest.fixture
def terminal(tmp_path):
    """(exit status, what the terminal showed) of a command whose input and errors are a terminal."""

    def terminal(*command, answers="", columns=80, **changes):
        import fcntl
        import termios

        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu", "TERM": "xterm"} | changes
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs
        ) as process:
            os.close(theirs)
            os.write(ours, answers.encode())
            said = b""
            with contextlib.suppress(OSError):  # how Linux ends the reading of a terminal whose last user has left
                while chunk := os.read(ours, 4096):
                    said += chunk
            status = process.wait(timeout=60)
        os.close(ours)
        return status, said.decode()

    return terminal
