"""Files that version 0.1 wrote are read, and its runs go on where they stopped: `tests/data/runs.py` made them."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.train._checkpoint import Checkpoint, CheckpointStore
from tests.data import runs

FILES = Path(__file__).parent / "data" / "0.1"
RELEASES = sorted(path.name.removeprefix("jax-") for path in FILES.glob("jax-*"))


@pytest.fixture(params=RELEASES)
def release(request):
    """A release of JAX with which 0.1 wrote a run."""
    return request.param


@pytest.fixture
def files(release, tmp_path):
    """A copy of that run's files to work on."""
    return shutil.copytree(FILES / f"jax-{release}", tmp_path / "files")


def same(actual, expected):
    """Leaf by leaf within 32 units in the last place of its largest entry: a processor may sum in another order."""
    errors = jb.verify.relative_errors(actual=actual, expected=expected)
    assert errors and all(error <= 32 * np.finfo(np.float32).eps for error in errors.values()), errors


def test_params_are_read():
    params = jb.io.load(FILES / "params.safetensors", runs.params())
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), params, runs.params())))


def test_a_run_goes_on_with_the_same_jax_and_is_refused_with_another(release, files):
    if release != jax.__version__:
        with pytest.raises(ValueError, match=r"belongs to another run: JAX version"):
            runs.fit(files / "fit", 3)
        return
    resumed = runs.fit(files / "fit", 3)
    assert resumed.resumed == 2
    whole = runs.fit(None, 3)
    same(resumed.params, whole.params)
    same(resumed.opt_state, whole.opt_state)
    with pytest.raises(ValueError, match="belongs to another run: optimizer differ"):
        runs.fit(files / "fit", 4, optax.sgd(0.25, momentum=0.5))


def test_the_arrays_of_a_checkpoint_are_read_with_any_jax(files):
    identity = json.loads((files / "fit" / "epoch-2" / "manifest.json").read_text(encoding="utf-8"))["identity"]
    done, leaves = CheckpointStore(Checkpoint(files / "fit"), identity).restore(
        [np.zeros(())] * 9
    )  # params, then the optimizer's
    expected = jax.tree.leaves(runs.fit(None, 2).params)
    assert done == 2
    same(leaves[: len(expected)], expected)


def test_a_sweep_goes_on_with_the_same_jax_and_is_refused_with_another(release, files):
    if release != jax.__version__:
        with pytest.raises(ValueError, match=r"holds another sweep; different: JAX version"):
            runs.sweep(files / "sweep")
        return
    done = []
    resumed = runs.sweep(files / "sweep", lambda progress: done.append(progress.done))
    assert done[0] == 1, "the member that 0.1 trained is trained again"
    whole = runs.sweep(None)
    same(resumed.params, whole.params)
