import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias import train

NETWORK = jb.chain(jb.layers.dense.layer(4), jb.layers.tanh, jb.layers.dense.layer(2))


def run(key, directory, epochs=4, *, network=NETWORK, optimizer=None, shift=0.0, every=1, **changes):
    x = jax.random.normal(key, (12, 3)) + shift
    params = network.init(key, x)
    return train.fit(
        network, jb.losses.mean_squared_error, params, (x, x[:, :2]), optimizer or optax.adam(1e-2), epochs=epochs,
        key=key, checkpoint=directory and train.Checkpoint(directory, every=every), **{"batch_size": 5} | changes,
    )  # fmt: skip


def identical(a, b):
    leaves = zip(
        jax.tree.leaves((a.params, a.opt_state, a.history)), jax.tree.leaves((b.params, b.opt_state, b.history))
    )
    return all(np.array_equal(one, other) for one, other in leaves)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A run of four epochs, and its directory."""
    directory = tmp_path_factory.mktemp("four")
    return run(jax.random.key(20261122), directory), directory


@pytest.fixture
def done(four, tmp_path):
    """That run, and a copy of its directory to work on."""
    whole, directory = four
    return whole, shutil.copytree(directory, tmp_path / "run")


@pytest.mark.parametrize("loop", ["scan", "steps"])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(key, tmp_path, loop):
    whole = run(key, None, 5, loop=loop)
    run(key, tmp_path, 3, loop=loop)
    resumed = run(key, tmp_path, 5, loop=loop)
    assert resumed.resumed == 3 and identical(resumed, whole)
    finished = run(key, tmp_path, 5, loop=loop)
    assert finished.resumed == 5 and identical(finished, whole)


def test_the_newest_are_kept_at_the_wanted_interval(key, tmp_path):
    run(key, tmp_path, 11, every=2)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["epoch-10", "epoch-11", "epoch-8"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_checkpoint_is_named_put_aside_and_skipped(key, done, damage):
    whole, directory = done
    newest = directory / "epoch-4"
    files = sorted(p for p in (newest / "arrays").rglob("*") if p.is_file())
    victim = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "truncate":
        victim.write_bytes(content[:-3])
    elif damage == "delete":
        victim.unlink()
    else:
        (newest / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match=r"epoch-4 is damaged .* put aside as damaged-epoch-4 and skipped"):
        resumed = run(key, directory, 4)
    assert resumed.resumed == 3 and identical(resumed, whole)
    assert (directory / "damaged-epoch-4").is_dir() and (directory / "epoch-4").is_dir()


def test_what_a_kill_left_half_written_is_cleared(key, done):
    whole, directory = done
    (directory / "writing-5" / "arrays").mkdir(parents=True)
    assert identical(run(key, directory), whole)
    assert not (directory / "writing-5").exists()


OTHERS = [
    (
        {"network": jb.chain(jb.layers.dense.layer(3), jb.layers.tanh, jb.layers.dense.layer(2))},
        r"params \(tree, shapes",
    ),
    (
        {"network": jb.chain(jb.layers.dense.layer(4), jb.layers.relu, jb.layers.dense.layer(2))},
        "network or loss differ",
    ),
    ({"optimizer": optax.adam(2e-2)}, "optimizer differ"),
    ({"optimizer": optax.sgd(1e-2)}, "optimizer differ"),
    ({"shift": 1.0}, "another run: data differ"),
    ({"batch_size": 4}, "batch_size differ"),
]


@pytest.mark.parametrize(("changes", "match"), OTHERS)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(key, done, changes, match):
    _, directory = done
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(ValueError, match=match):
        run(key, directory, 5, **changes)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path != directory} == before


def test_fewer_epochs_than_already_done(key, done):
    _, directory = done
    with pytest.raises(ValueError, match=r"newest checkpoint .* is after epoch 4, beyond epochs=2. Ask for"):
        run(key, directory, 2)


def test_a_directory_that_cannot_be_written(key, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"checkpoint directory .*file/run cannot be written \(Not a directory\)"):
        run(key, tmp_path / "file" / "run")


def test_a_checkpoint_that_cannot_be_written_costs_nothing_but_itself(key, tmp_path, monkeypatch):
    from jaxbias.train import _checkpoint

    def full(directory, size=4096, asked=[]):  # noqa: B006
        asked.append(size)
        if 3 <= len(asked) <= 4:  # asked when the directory is taken, then for each of four checkpoints
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(_checkpoint, "check_room", full)
    match = (
        r"after epoch 2 cannot be written to .* \(No space left on device\); the newest whole one is epoch-1\. Training"
    )
    with pytest.warns(UserWarning, match=match) as warned:
        done = run(key, tmp_path)
    assert len(warned) == 1 and done.unsaved == "" and identical(done, run(key, None))
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["epoch-1", "epoch-4"]


def test_a_system_error_that_orbax_words_is_a_system_error_again():
    from jaxbias.train._checkpoint import _system_errors

    with pytest.raises(OSError, match="No space left on device"), _system_errors():
        raise ValueError("RESOURCE_EXHAUSTED: Error writing \"leaf-0\": No space left [os_error_code='28']")
    with pytest.raises(ValueError, match=r"^another$"), _system_errors():
        raise ValueError("another")


def test_bad_interval():
    with pytest.raises(ValueError, match="every must be a whole number from 1, got 0"):
        train.Checkpoint("runs", every=0)


def test_random_keys_and_empty_leaves_survive(tmp_path, key):
    from jaxbias.train._checkpoint import CheckpointStore

    tree = {"key": key, "empty": np.zeros((0, 3)), "half": jax.numpy.ones(3, "bfloat16") / 3, "count": np.int32(4)}
    CheckpointStore(train.Checkpoint(tmp_path), {"run": "a"}).save(7, tree)
    epoch, back = CheckpointStore(train.Checkpoint(tmp_path), {"run": "a"}).restore(
        jax.tree.map(lambda leaf: leaf, tree)
    )
    assert epoch == 7 and back["half"].dtype == "bfloat16"
    assert jax.random.key_data(back["key"]).tolist() == jax.random.key_data(key).tolist()
    assert np.array_equal(back["half"], tree["half"]) and back["count"] == 4


VICTIM = """
import sys, jax, optax, numpy as np, jaxbias as jb
from jaxbias import train
directory, out = sys.argv[1:]
key = jax.random.key(3)
x = jax.random.normal(key, (64, 8))
network = jb.chain(jb.layers.dense.layer(16), jb.layers.tanh, jb.layers.dense.layer(2))
said = lambda p: print(p.epoch, flush=True)
fitted = train.fit(network, jb.losses.mean_squared_error, network.init(key, x), (x, x[:, :2]), optax.adam(1e-2),
                   epochs=40, batch_size=8, key=key, checkpoint=None if directory == "-" else directory, progress=said)
np.savez(out, *jax.tree.leaves((fitted.params, fitted.opt_state)), loss=fitted.history["loss"])
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_ends_bit_identical(tmp_path):
    """The process is killed again and again, each time a random while after its first new epoch, until it finishes."""
    script = tmp_path / "victim.py"
    script.write_text(VICTIM)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}

    def start(directory, out):
        command = [sys.executable, str(script), str(directory), str(out)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    reference = start("-", tmp_path / "whole.npz")
    waits = np.random.default_rng().uniform(0.0, 0.5, size=6)
    kills, epochs = 0, []
    for wait in waits:
        process = start(tmp_path / "run", tmp_path / "resumed.npz")
        line = process.stdout.readline()  # the first new epoch is done: compiling is over, saving is going on
        if not line:  # no new epoch: the last one was done before the kill before this
            assert process.wait() == 0, "the process died by itself"
            break
        epochs.append(int(line))
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    last = start(tmp_path / "run", tmp_path / "resumed.npz")
    last.communicate(timeout=120)
    reference.communicate(timeout=120)
    assert last.returncode == reference.returncode == 0
    assert kills >= 1, f"no kill came in time (waits {waits})"
    assert epochs == sorted(epochs), "a rerun went back behind a complete checkpoint"
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "resumed.npz") as resumed:
        assert whole.files == resumed.files
        assert all(np.array_equal(whole[name], resumed[name]) for name in whole.files)
    manifest = json.loads((tmp_path / "run" / "epoch-40" / "manifest.json").read_text())
    assert manifest["identity"]["batch_size"] == "8"
