import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.layers import batch_norm, dense, dropout, relu, tanh
from jaxbias.losses import mean_squared_error
from jaxbias.train import fit, sweep

HE, GLOROT = jax.nn.initializers.he_normal(), jax.nn.initializers.glorot_normal()


def net(use_bias=True, init=HE):
    bias = jax.nn.initializers.normal(0.5)  # not zero, so that switching it off is seen
    layer = partial(dense.layer, use_bias=use_bias, weight_init=init, bias_init=bias)
    return jb.chain(layer(4), tanh, layer(1))


NETWORK = net()
XAVIER = net(init=GLOROT)


@pytest.fixture
def task(key):
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (13, 3), jnp.float64)
    y = jnp.sin(x.sum(axis=1, keepdims=True)) + 1 + 0.1 * jax.random.normal(keys[1], (13, 1), jnp.float64)
    return (x, y), jax.random.split(keys[2], 3)


def by_fit(network, data, key, optimizer, **options):
    init_key, fit_key = jax.random.split(key)
    params = network.init(init_key, data[0][:4])
    return fit(network, mean_squared_error, params, data, optimizer, epochs=5, batch_size=4, key=fit_key, **options)


def test_every_member_is_the_run_of_fit_and_bias_off_is_the_network_without_the_leaf(task):
    data, keys = task
    hyper = {"learning_rate": (0.01, 0.1), "weight_decay": (0.0, 0.3)}
    found = sweep(
        NETWORK, mean_squared_error, data, optax.adamw, keys=keys, inits={"he": NETWORK, "xavier": XAVIER.init},
        hyper=hyper, epochs=5, batch_size=4, validation=data, keep_params=True,
    )  # fmt: skip
    assert list(found.axes) == ["init", "use_bias", "learning_rate", "weight_decay", "seed"]
    assert found.results["loss"].shape == (2, 2, 2, 2, 3, 5)
    assert not found.diverged.any()
    for place in [(0, 0, 1, 1, 2), (1, 1, 0, 1, 0)]:
        init, off, rate, decay, seed = place
        maker = GLOROT if init else HE
        optimizer = optax.adamw(hyper["learning_rate"][rate], weight_decay=hyper["weight_decay"][decay])
        one = by_fit(net(not off, maker), data, keys[seed], optimizer, validation=data)
        assert np.abs(found.results["loss"][place] - one.history["loss"]).max() < 1e-12
        assert abs(found.results["validation_loss"][place] - one.history["validation_loss"][-1]) < 1e-12
        params = jax.tree.map(lambda leaf, place=place: leaf[place], found.params)
        for i in (0, 2):
            assert np.abs(params[i].weight - one.params[i].weight).max() < 1e-12
            if off:
                assert one.params[i].bias is None and (params[i].bias == 0).all()
            else:
                assert np.abs(params[i].bias - one.params[i].bias).max() < 1e-12 and (params[i].bias != 0).all()


@pytest.mark.slow
def test_members_with_a_state_and_keys_of_another_generator(task):
    data, _ = task
    keys = jax.random.split(jax.random.key(3, impl="rbg"), 2)  # its draws depend on what is drawn side by side
    network = jb.chain(dense.layer(4), batch_norm.layer(), relu, dropout.layer(rate=0.3), dense.layer(1))
    optimizer = optax.sgd(0.05)
    found = sweep(
        network, mean_squared_error, data, optimizer, keys=keys, use_bias=(True,), epochs=5, batch_size=4,
        validation=data, together=1,
    )  # fmt: skip
    one = by_fit(network, data, keys[1], optimizer, validation=data)
    assert np.abs(found.results["loss"][0, 0, 1] - one.history["loss"]).max() < 1e-12
    assert abs(found.results["validation_loss"][0, 0, 1] - one.history["validation_loss"][-1]) < 1e-12


def small(task, **options):
    data, keys = task
    arguments = {"keys": keys, "epochs": 2, "batch_size": 4} | options
    optimizer = optax.sgd if "hyper" in arguments else optax.sgd(0.1)
    return sweep(NETWORK, mean_squared_error, data, arguments.pop("optimizer", optimizer), **arguments)


@pytest.mark.slow
def test_chunks_and_batching_do_not_change_the_results(task):
    expected = small(task, together=1, chunk=6).results["loss"]
    assert np.abs(small(task, together=3, chunk=5).results["loss"] - expected).max() < 1e-12


def test_a_diverged_member_is_reported_and_poisons_no_statistics(task, tmp_path):
    found = small(
        task, hyper={"learning_rate": (0.05, 1e40)}, metrics={"error": lambda out, y: jnp.abs(out - y).mean()}
    )
    assert found.diverged.shape == (1, 2, 2, 3)
    assert not found.diverged[:, :, 0].any() and found.diverged[:, :, 1].all()
    sound, broken = found.summary("error")[:2]
    values = found.final("error")[0, 0, 0]
    assert sound["n"] == 3 and sound["diverged"] == 0
    assert sound["mean"] == pytest.approx(values.mean()) and sound["sd"] == pytest.approx(values.std(ddof=1))
    assert sound["high"] - sound["mean"] == pytest.approx(4.302652730 * values.std(ddof=1) / np.sqrt(3))
    assert broken["n"] == 0 and broken["diverged"] == 3 and np.isnan(broken["mean"])
    found.to_csv(tmp_path / "rows.csv")
    found.to_json(tmp_path / "rows.json")
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert len(rows) == 12
    assert list(rows[0]) == ["init", "use_bias", "learning_rate", "seed", "diverged", "loss", "error"]
    assert rows[0]["learning_rate"] == "0.05" and float(rows[0]["error"]) == pytest.approx(values[0])
    assert json.loads((tmp_path / "rows.json").read_text())[3]["loss"] is None
    with pytest.raises(KeyError, match="no result 'accuracy'; there are loss, error"):
        found.final("accuracy")


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_killed_sweep_resumes_and_ends_alike(task, tmp_path):
    expected = small(task, chunk=2).results["loss"]

    def kill(progress):
        if progress.done >= 4:
            raise Killed

    with pytest.raises(Killed):
        small(task, chunk=2, directory=tmp_path, progress=kill)
    seen = []
    found = small(task, chunk=2, directory=tmp_path, progress=seen.append)
    assert found.resumed >= 4 and seen[0].done == found.resumed and seen[-1] == (6, 6)
    assert (found.results["loss"] == expected).all()
    again = small(task, chunk=2, directory=tmp_path)
    assert again.resumed == 6 and again.compile_s == 0 and (again.results["loss"] == expected).all()

    damaged = tmp_path / "members-000002-000004.npz"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match=r"members-000002-000004\.npz is damaged"):
        mended = small(task, chunk=2, directory=tmp_path)
    assert mended.resumed == 4 and (mended.results["loss"] == expected).all()

    with pytest.raises(ValueError, match="holds another sweep; different: program"):
        small(task, chunk=2, directory=tmp_path, optimizer=optax.sgd(0.2))
    with pytest.raises(ValueError, match="different: members"):
        small(task, chunk=2, directory=tmp_path, keys=task[1][::-1])


VICTIM = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jaxbias.layers import dense, tanh
import jaxbias as jb
directory, out = sys.argv[1:]
x = jnp.linspace(-1, 1, 96).reshape(32, 3)
found = jb.train.sweep(
    jb.chain(dense.layer(32), tanh, dense.layer(1)), jb.losses.mean_squared_error, (x, x[:, :1] ** 2 + 1), optax.adam,
    keys=jax.random.split(jax.random.key(1), 10), hyper={"learning_rate": (0.01, 0.1)}, epochs=400, batch_size=4,
    keep_params=True, chunk=2, together=1, directory=None if directory == "-" else directory,
    progress=lambda progress: print(progress.done, flush=True),
)
np.savez(out, *jax.tree.leaves(found.params), **found.results, diverged=found.diverged)
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_ends_bit_identical(tmp_path):
    """Killed again and again, each time a random while after its first new chunk, until it finishes."""
    script = tmp_path / "victim.py"
    script.write_text(VICTIM)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}

    def start(directory, out):
        command = [sys.executable, str(script), str(directory), str(out)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    whole = start("-", tmp_path / "whole.npz")
    assert whole.communicate(timeout=300)[0].split()[-1] == "40" and whole.returncode == 0
    resumed, kills = [], 0
    for wait in np.random.default_rng().uniform(0.0, 0.3, size=8):
        process = start(tmp_path / "run", tmp_path / "resumed.npz")
        resumed.append(int(process.stdout.readline()))
        first_new = process.stdout.readline()
        time.sleep(wait if first_new else 0)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    last = start(tmp_path / "run", tmp_path / "resumed.npz")
    seen = [int(line) for line in last.communicate(timeout=300)[0].split()]
    assert last.returncode == 0 and seen[-1] == 40
    assert kills >= 2, "no kill came in time"
    assert resumed[1] > 0, "the chunk that was said to be done was not on disk"
    assert [*resumed, seen[0]] == sorted([*resumed, seen[0]]), "a rerun went back behind a finished chunk"
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "resumed.npz") as resumed:
        assert whole.files == resumed.files
        assert all(np.array_equal(whole[name], resumed[name]) for name in whole.files)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"keys": jax.random.split(jax.random.key(0), 0)}, ValueError, "keys is empty"),
        ({"keys": jax.random.key(0)}, ValueError, "one-dimensional array of PRNG keys"),
        ({"use_bias": ()}, ValueError, "use_bias must be"),
        ({"inits": {}}, ValueError, "inits is empty"),
        ({"hyper": {"learning_rate": ()}}, ValueError, "'learning_rate' has no values"),
        ({"hyper": {"seed": (1,)}}, ValueError, "'seed' is the name of an axis"),
        ({"hyper": {"momentum": (0.9,)}, "optimizer": optax.sgd(0.1)}, TypeError, "must be a function of them"),
        ({"optimizer": "adam"}, TypeError, "optax gradient transformation, got 'adam'"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1"),
        ({"together": 0}, ValueError, "together must be at least 1"),
        ({"batch_size": 14}, ValueError, "Take at most batch_size=13"),
        ({"directory": "/proc/none"}, ValueError, "cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(task, as_users_run_it, options, error, text):
    with pytest.raises(error, match=text):
        small(task, **options)


def test_too_little_memory_names_the_chunk(task, monkeypatch):
    from jaxbias.train import _memory

    monkeypatch.setattr(_memory, "available", lambda device: 1024)
    text = r"chunk=6 members on 1 device\(s\) need .* of memory, but 0\.0 MiB are free\. Pass .* chunk=1"
    with pytest.raises(MemoryError, match=text):
        small(task, chunk=6)


ON_DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_enable_x64", True)
from jaxbias.layers import dense, tanh
import jaxbias as jb
x = jnp.linspace(-1, 1, 24).reshape(8, 3)
found = jb.train.sweep(
    jb.chain(dense.layer(4), tanh, dense.layer(1)), jb.losses.mean_squared_error, (x, x[:, :1] ** 2 + 1), optax.adam,
    keys=jax.random.split(jax.random.key(1), 5), hyper={"learning_rate": (0.01, 0.1)}, epochs=3, batch_size=4,
    together=int(sys.argv[2]),
)
assert len(jax.local_devices()) == int(sys.argv[1])
np.save(sys.stdout.buffer, found.results["loss"])
"""


def on_devices(devices, together):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ON_DEVICES, str(devices), str(together)]
    return np.load(io.BytesIO(subprocess.run(command, env=environment, check=True, capture_output=True).stdout))


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one():
    expected = on_devices(1, 1)
    assert expected.shape == (1, 2, 2, 5, 3)
    assert np.abs(on_devices(8, 2) - expected).max() < 1e-12
