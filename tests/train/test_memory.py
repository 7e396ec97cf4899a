import jax
import jax.numpy as jnp
import optax
import pytest

import jaxbias as jb
from jaxbias import train
from jaxbias.train import _memory

KIB = 2**10


def fit(rows, units, **options):
    x = jnp.ones((rows, 3))
    network = jb.chain(jb.layers.dense.layer(units), jb.layers.tanh, jb.layers.dense.layer(1))
    key = jax.random.key(0)
    return train.fit(
        network, jb.losses.mean_squared_error, network.init(key, x), (x, x[:, :1]), optax.adam(1e-2),
        epochs=1, batch_size=rows, key=key, **options,
    )  # fmt: skip


def with_free(monkeypatch, size):
    monkeypatch.setattr(_memory, "available", lambda device: size)


def test_params_and_optimizer_state_are_asked_for_before_they_are_copied(monkeypatch):
    """Three times 5·1000 + 1 numbers of 8 bytes, with Adam's two moments, and its counter."""
    with_free(monkeypatch, 100 * KIB)
    monkeypatch.setattr("jaxbias.train._fit.Placement.put", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(MemoryError, match=r"params and optimizer state need 0\.1 MiB of .* 40,008 bytes: take fewer"):
        fit(4, 1000)


@pytest.mark.parametrize("loop", ["scan", "steps"])
def test_a_step_is_asked_for_before_it_runs(monkeypatch, loop):
    """The activations of 2000 rows of 100 units take 1.5 MiB for each array of them; the params less than 4 KiB."""
    with_free(monkeypatch, 1024 * KIB)
    told = []
    match = r"one step of this network needs [\d.]+ MiB of memory, but 1\.0 MiB are free\. .*batch_size \(now 2000\)"
    with pytest.raises(MemoryError, match=match):
        fit(2000, 100, loop=loop, progress=told.append)
    assert not told
    with_free(monkeypatch, 1024 * 1024 * KIB)
    fit(2000, 100, loop=loop, progress=told.append)
    assert told[0].epoch == 1 and told[0].compile_s > 0 and told[0].train_s > 0


def group(tmp_path, limit, usage, stat=""):
    for name, text in {"memory.max": limit, "memory.current": usage, "memory.stat": stat}.items():
        (tmp_path / name).write_text(f"{text}\n")
    return tmp_path


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    here = group(tmp_path, 5000, 1500, "anon 900\ninactive_file 500")
    assert _memory._left_in(here) == 4000  # file pages that nobody uses are free
    monkeypatch.setattr(_memory, "_control_groups", lambda: [here])
    assert _memory.available(jax.devices("cpu")[0]) == 4000
    monkeypatch.setattr(_memory, "_control_groups", list)
    assert _memory.available(jax.devices("cpu")[0]) > 2**20
    assert _memory._left_in(group(tmp_path, "max", 1500)) is None and _memory._left_in(tmp_path / "none") is None


def test_what_an_accelerator_says_of_exhausted_memory():
    with pytest.raises(MemoryError, match="too large"), _memory.exhausted("too large"):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 12 bytes")
    with pytest.raises(jax.errors.JaxRuntimeError, match="other"), _memory.exhausted("too large"):
        raise jax.errors.JaxRuntimeError("INTERNAL: other")
