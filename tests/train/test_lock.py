import subprocess
import sys
from socket import gethostname

import pytest

from jaxbias.train._lock import locked

HOLDER = """
import sys
from pathlib import Path
from jaxbias.train._lock import locked
with locked(Path(sys.argv[1]), "fit"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path` until its standard input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], **pipes)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_directory_in_use_names_its_user(holder, tmp_path):
    match = rf"^fit: .* is in use by another run: process {holder.pid} on {gethostname()} since 20.*\. Wait for it"
    with pytest.raises(ValueError, match=match), locked(tmp_path, "fit"):
        pass
    holder.communicate("")
    with locked(tmp_path, "fit"):
        pass
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


def test_a_dead_user_does_not_block(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".owner.json").exists()
    with locked(tmp_path, "sweep"):
        pass


def test_a_run_that_fails_leaves_the_directory_free(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "fit"):
        1 / 0  # noqa: B018
    with locked(tmp_path, "fit"):
        pass
