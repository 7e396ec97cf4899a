"""`fit` on batches that come from outside: files mapped into memory, iterables, loaders of grain and PyTorch."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.train._stream import AHEAD, read_ahead, together
from tests.peers import torch_or_skip

NETWORK = jb.chain(jb.layers.dense.layer(5), jb.layers.tanh, jb.layers.dense.layer(2))
LOSS = jb.losses.mean_squared_error
EPOCHS, BATCH, ROWS = 3, 4, 18
OPTIMIZER = optax.sgd(0.1)


@pytest.fixture
def problem(key):
    keys = jax.random.split(key, 3)
    data = tuple(np.asarray(jax.random.normal(k, (ROWS, n))) for k, n in zip(keys, (3, 2)))
    return jax.tree.map(lambda p: p + 0.1, NETWORK.init(keys[2], data[0])), data


def fit(params, data, key, **changes):
    arguments = {"epochs": EPOCHS, "batch_size": BATCH, "key": key} | changes
    return jb.train.fit(NETWORK, LOSS, params, data, OPTIMIZER, **arguments)


def same(a, b):
    leaves = jax.tree.leaves
    return all(np.array_equal(x, y) for x, y in zip(leaves((a.params, a.history)), leaves((b.params, b.history))))


def mapped(data, directory):
    for name, array in zip("xy", data):
        np.save(directory / f"{name}.npy", array)
    return tuple(np.load(directory / f"{name}.npy", mmap_mode="r") for name in "xy")


def batches_of(data, epoch=0):
    """In an order that differs from epoch to epoch, as a loader's does."""
    rows = np.random.default_rng(epoch).permutation(ROWS)
    return [tuple(a[rows[i : i + BATCH]] for a in data) for i in range(0, ROWS - BATCH + 1, BATCH)]


def by_hand(params, batches):
    losses = []
    gradient = jax.jit(jax.value_and_grad(lambda p, x, y: jnp.mean((NETWORK.forward(p, x)[0] - y) ** 2)))
    for x, y in batches:
        value, grads = gradient(params, x, y)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        losses.append(value)
    return params, np.array(losses)


class Reshuffled:
    """A loader that counts its epochs, as a sampler of PyTorch does once it is told them."""

    def __init__(self, data):
        self.data, self.epoch, self.read = data, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return ROWS // BATCH

    def __iter__(self):
        for batch in batches_of(self.data, self.epoch):
            self.read += 1
            yield list(batch)


class Endless:
    """An iterable whose iterators go on, with a state that can be told, as those of grain."""

    def __init__(self, data):
        self.data, self.read = data, 0

    def __iter__(self):
        return EndlessIterator(self)


class EndlessIterator:
    def __init__(self, source):
        self.source, self.position = source, 0

    def __next__(self):
        epoch, i = divmod(self.position, ROWS // BATCH)
        self.position += 1
        self.source.read += 1
        return batches_of(self.source.data, epoch)[i]

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


class Silent(Endless):
    """The same without a state."""

    def __iter__(self):
        iterator = EndlessIterator(self)
        return iter(iterator.__next__, None)


def test_rows_of_mapped_files_are_taken_in_the_order_of_arrays(problem, key, tmp_path):
    params, data = problem
    files = mapped(data, tmp_path)
    validation = data[0][:5], data[1][:5]
    at_rest = fit(params, data, key, loop="steps", validation=validation, checkpoint=tmp_path / "at rest")
    streamed = fit(params, files, key, validation=validation)
    assert same(streamed, at_rest) and streamed.history["step_loss"].shape == (EPOCHS, ROWS // BATCH)
    assert same(fit(params, (files[0], data[1]), key, validation=validation), at_rest)
    arguments = {"validation": validation, "checkpoint": tmp_path / "run"}
    fit(params, files, key, epochs=2, **arguments)
    resumed = fit(params, files, key, **arguments)
    assert resumed.resumed == 2 and same(resumed, at_rest)


def test_batches_of_a_loader_are_taken_as_they_come(problem, key):
    params, data = problem
    wanted = [batch for epoch in range(EPOCHS) for batch in batches_of(data, epoch)]
    params_wanted, losses = by_hand(params, wanted)
    for stream, steps in ((Reshuffled(data), None), (Endless(data), 4), (Silent(data), 4), (iter(wanted), 4)):
        fitted = fit(params, stream, key, steps_per_epoch=steps)
        np.testing.assert_allclose(fitted.history["step_loss"].ravel(), losses, rtol=1e-12)
        for got, want in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(params_wanted), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)
    loader = Reshuffled(data)
    assert same(fit(params, loader, key), fit(params, loader, key))  # that it was gone through before does not matter
    again = fit(params, batches_of(data) * 1, key)  # a list is gone through once an epoch, in its order
    np.testing.assert_allclose(again.history["step_loss"].ravel(), by_hand(params, batches_of(data) * EPOCHS)[1])


def test_resuming_goes_on_where_the_stream_was(problem, key, tmp_path):
    params, data = problem
    whole = fit(params, Reshuffled(data), key)
    for make, steps, reads in (
        (Reshuffled, None, 4 + 1),  # told the number of its epoch; one batch tells the shapes
        (Endless, 4, 4 + 1),  # its state was kept
        (Silent, 4, 12),  # what was seen is read again
    ):
        arguments = {"steps_per_epoch": steps, "checkpoint": tmp_path / make.__name__}
        first = make(data)
        fit(params, first, key, epochs=2, **arguments)
        assert first.read == 8 + (make is not Reshuffled) * 0  # nothing beyond the end of an epoch
        second = make(data)
        resumed = fit(params, second, key, **arguments)
        assert resumed.resumed == 2 and same(resumed, whole) and second.read == reads, (make, second.read)
    with pytest.raises(ValueError, match="another run: data"):
        fit(params, Endless(data), key, steps_per_epoch=3, checkpoint=tmp_path / "Endless")


def test_batches_are_read_while_steps_run_and_never_many_more():
    read, placed = [], threading.Event()

    def batches():
        for i in range(6):
            read.append(i)
            yield i

    ahead = read_ahead(batches(), lambda batch: placed.set() or batch)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(read) < AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert read == list(range(AHEAD + 1))  # by another thread, while this one worked on the first
    assert list(ahead) == [1, 2, 3, 4, 5] and read == list(range(6))


def test_what_a_loader_raises_comes_out_and_bad_streams_are_refused(problem, key):
    params, data = problem
    good = batches_of(data)

    class Broken(Reshuffled):
        def __iter__(self):
            yield good[0]
            raise OSError("disk gone")

    class Longer(Reshuffled):
        def __len__(self):
            return 3

    short = [good[0], tuple(a[:3] for a in good[1])]
    other = [good[0], (good[1][0], good[1][1][:, :1])]
    for error, message, stream, changes in [
        (OSError, "disk gone", Broken(data), {}),
        (ValueError, "3 rows where this process takes 4.*drop_last", short, {}),
        (ValueError, r"a batch of data is .*\[4, 1\], the first one was", other, {}),
        (ValueError, "has no len.*steps_per_epoch", iter(good), {}),
        (ValueError, "more than the 3 batches that its len says", Longer(data), {}),
        (ValueError, "a stream without a batch", iter([]), {"steps_per_epoch": 1}),
        (ValueError, "ended before the 9 batches", iter(good), {"steps_per_epoch": 9}),
        (ValueError, "steps_per_epoch is for batches", data, {"steps_per_epoch": 2}),
        (ValueError, "come from outside of the program", good, {"loop": "scan"}),
        (ValueError, "steps_per_epoch must be at least 1", good, {"steps_per_epoch": 0}),
        (TypeError, "data must be a pair", {"x": 1}, {}),
        (TypeError, "a batch of data must be a pair", iter([(1, 2, 3)]), {"steps_per_epoch": 1}),
    ]:
        with pytest.raises(error, match=message):
            fit(params, stream, key, **changes)


def test_a_last_chunk_with_fewer_batches_trains_on_each_of_them_once(problem, key, tmp_path):
    """Seventeen steps: a chunk of nine batches, and one of eight that is filled up."""
    params, data = problem[0], tuple(a[:17] for a in problem[1])
    files = mapped(data, tmp_path)
    rows = [tuple(a[i : i + 1] for a in data) for i in range(17)]
    assert [together(rows[0], size, 17) for size in (1, 2**15, 2**20)] == [9, 3, 1] and together(rows[0], 1, 16) == 16
    arguments = {"batch_size": 1, "checkpoint": tmp_path / "run"}
    at_rest = fit(params, data, key, batch_size=1)
    fit(params, files, key, epochs=1, **arguments)
    resumed = fit(params, files, key, **arguments)
    assert resumed.resumed == 1 and resumed.history["step_loss"].shape == (EPOCHS, 17) and same(resumed, at_rest)
    step_by_step = fit(params, data, key, batch_size=1, loop="steps")
    assert same(fit(params, files, key, batch_size=1, loop="steps"), step_by_step)
    wanted, losses = by_hand(params, rows * EPOCHS)
    fitted = fit(params, rows, key, batch_size=1)
    np.testing.assert_allclose(fitted.history["step_loss"].ravel(), losses, rtol=1e-12)
    for got, want in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)
    with pytest.raises(ValueError, match="another run: loop"):
        fit(params, files, key, loop="steps", **arguments)


def test_a_language_model_from_a_stream_is_that_from_arrays(key, tmp_path):
    L = jb.layers
    mix = jb.residual(jb.chain(L.layer_norm.layer(), L.attention.layer(2, 3, causal=True)))
    network = jb.chain(L.embedding.layer(7, 6), L.positions.layer(4), mix, L.dense.layer(7))
    ids = np.random.default_rng(0).integers(0, 7, (ROWS, 5)).astype(np.int32)
    data = ids[:, :-1], ids[:, 1:]
    arguments = {"epochs": 2, "batch_size": 2, "key": key, "metrics": {"accuracy": jb.train.accuracy}}
    params = network.init(jax.random.key(1), data[0][:1])
    trained = lambda given, **how: jb.train.fit(
        network, jb.losses.cross_entropy, params, given, optax.adam(1e-2), **arguments, **how
    )
    at_rest = trained(data, loop="steps")
    assert same(trained(mapped(data, tmp_path)), at_rest) and at_rest.history["step_loss"].shape == (2, 9)


def test_loaders_of_pytorch(problem, key):
    torch = torch_or_skip()
    params, data = problem
    rows = torch.utils.data.TensorDataset(*(torch.from_numpy(array.copy()) for array in data))
    loader = lambda: torch.utils.data.DataLoader(
        rows, BATCH, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(3)
    )
    seen = loader()
    wanted = [tuple(part.numpy() for part in batch) for _ in range(EPOCHS) for batch in seen]
    fitted = fit(params, loader(), key)
    np.testing.assert_allclose(fitted.history["step_loss"].ravel(), by_hand(params, wanted)[1], rtol=1e-12)


def test_data_sets_of_grain_go_on_from_their_state(problem, key, tmp_path):
    grain = pytest.importorskip("grain")
    params, data = problem
    rows = list(zip(*data))
    endless = lambda: grain.MapDataset.source(rows).seed(3).shuffle().repeat().batch(BATCH).to_iter_dataset()
    batches = iter(endless())
    wanted = by_hand(params, [next(batches) for _ in range(4 * EPOCHS)])[1]
    arguments = {"steps_per_epoch": 4, "checkpoint": tmp_path}
    fit(params, endless(), key, epochs=2, **arguments)
    resumed = fit(params, endless(), key, **arguments)
    assert resumed.resumed == 2
    np.testing.assert_allclose(resumed.history["step_loss"].ravel(), wanted, rtol=1e-12)
