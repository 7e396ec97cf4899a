"""What `test_mesh.py` runs in a process with eight devices: fit and sweep on a mesh against one device."""

import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbias as jb
from jaxbias.train._step import Objective

NETWORK = jb.chain(jb.layers.dense.layer(8), jb.layers.tanh, jb.layers.dense.layer(4))
LOSS = jb.losses.mean_squared_error
CUT: Any = P(None, "model"), P("model")
ROWS: Any = P("model", None), P()
SPECS: Any = jb.Params(*CUT), (), jb.Params(*ROWS)
EPOCHS, BATCH = 3, 8
MESH = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
EXPLICIT = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)


def problem(dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    x, y = jax.random.normal(keys[0], (43, 6), dtype), jax.random.normal(keys[1], (43, 4), dtype)
    params = jax.tree.map(lambda p: p + jnp.asarray(0.1, dtype), NETWORK.init(keys[2], x))
    return params, (x, y)


def fit(params, data, optimizer=None, **changes):
    x, y = data
    size = lambda out, targets: jnp.abs(out - targets).mean()
    arguments = {"epochs": EPOCHS, "batch_size": BATCH, "key": jax.random.key(3), "metrics": {"size": size}}
    arguments["validation"] = x[:11], y[:11]
    return jb.train.fit(NETWORK, LOSS, params, data, optimizer or optax.adam(1e-2), **arguments | changes)


def identical(a, b):
    pairs = zip(
        jax.tree.leaves((a.params, a.opt_state, a.history)), jax.tree.leaves((b.params, b.opt_state, b.history))
    )
    return all(np.array_equal(first, second) for first, second in pairs)


def assert_same_up_to_the_order_of_sums(got, want, dtype):
    """A sum of n terms in another order is off by at most n · eps of them; every step does so once."""
    steps = EPOCHS * (43 // BATCH)
    for first, second in zip(jax.tree.leaves((got.params, got.history)), jax.tree.leaves((want.params, want.history))):
        first, second = np.asarray(first), np.asarray(second)
        bound = steps * BATCH * jnp.finfo(dtype).eps * np.abs(second).max()
        assert np.abs(first - second).max() <= bound, (np.abs(first - second).max(), bound)


def specs_of(tree):
    return [leaf.sharding.spec for leaf in jax.tree.leaves(list(tree))]


def on_a_mesh_as_on_one_device(directory):
    for dtype in (jnp.float32, jnp.float64):
        params, data = problem(dtype)
        single = fit(params, data, optax.sgd(0.1))
        replicated = fit(params, data, optax.sgd(0.1), mesh=MESH)
        cut = fit(params, data, optax.sgd(0.1), mesh=MESH, shardings=SPECS)
        assert_same_up_to_the_order_of_sums(replicated, single, dtype)
        assert_same_up_to_the_order_of_sums(cut, single, dtype)
    for leaf in jax.tree.leaves(replicated.params):
        assert leaf.sharding.is_fully_replicated and len(leaf.devices()) == 8

    wanted = fit(params, data, mesh=MESH, shardings=SPECS)  # adam: moments lie as params do
    moments = [leaf for leaf in jax.tree.leaves(wanted.opt_state) if leaf.ndim]
    assert specs_of(wanted.params) * 2 == specs_of(moments)
    assert wanted.params[0].weight.addressable_shards[0].data.shape == (6, 2)

    lying = jax.device_put(params, jax.tree.map(lambda s: NamedSharding(EXPLICIT, s), SPECS))
    whole = directory / "whole"
    for other in (
        fit(params, data, mesh=MESH, shardings=SPECS),
        fit(params, data, mesh=EXPLICIT, shardings=SPECS, checkpoint=whole),
        fit(lying, data, mesh=MESH),
    ):
        assert identical(other, wanted)
    for leaf in jax.tree.leaves(params):
        assert not leaf.is_deleted() and len(leaf.devices()) == 1

    fit(lying, data)  # params on a mesh and no mesh named: this could not be called twice
    steps = fit(params, data, mesh=MESH, shardings=SPECS, loop="steps", how="autodiff")
    for got, want in zip(jax.tree.leaves(steps.params), jax.tree.leaves(wanted.params)):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)

    fit(params, data, mesh=MESH, shardings=SPECS, checkpoint=directory / "run", epochs=2)
    resumed = fit(params, data, mesh=MESH, shardings=SPECS, checkpoint=directory / "run")
    assert resumed.resumed == 2 and identical(resumed, wanted) and specs_of(resumed.params) == specs_of(wanted.params)
    assert fit(params, data, mesh=MESH, shardings=SPECS, checkpoint=whole).resumed == EPOCHS
    for other in ({"mesh": MESH}, {}):
        with refused(ValueError, "another run: .*shardings"):
            fit(params, data, checkpoint=whole, **other)

    frozen = fit(params, data, mesh=MESH, shardings=SPECS, trainable=jb.freeze(params, "biases"))
    assert np.array_equal(frozen.params[0].bias, params[0].bias)
    assert not np.array_equal(frozen.params[0].weight, params[0].weight)
    assert [leaf.sharding.spec for leaf in jax.tree.leaves(frozen.opt_state) if leaf.ndim][:2] == [
        SPECS[0].weight,
        SPECS[2].weight,
    ]

    for optimizer in (optax.contrib.prodigy(), optax.flatten(optax.adam(1e-2))):
        got = fit(params, data, optimizer, mesh=MESH, shardings=SPECS)
        assert_same_up_to_the_order_of_sums(got, fit(params, data, optimizer), jnp.float32)


def in_short(directory):
    """One comparison, one repetition, one resume."""
    params, data = problem(jnp.float32)
    single = fit(params, data, optax.sgd(0.1))
    arguments = {"mesh": MESH, "shardings": SPECS, "checkpoint": directory / "short"}
    first = fit(params, data, optax.sgd(0.1), epochs=1, **arguments)
    cut = fit(params, data, optax.sgd(0.1), **arguments)
    assert cut.resumed == 1 and specs_of(cut.params) == [P(None, "model"), P("model"), P("model", None), P()]
    assert np.array_equal(cut.history["step_loss"][:1], first.history["step_loss"])
    assert_same_up_to_the_order_of_sums(cut, single, jnp.float32)


def _own_rows(gradient, params, x, targets, state):
    """Of the rows of the first devices along "data" alone: the sum over the axis is missing."""
    return gradient(params, x[: len(x) // 2], targets[: len(x) // 2], state)


def _times(factor):
    def planted(gradient, params, x, targets, state):
        (value, (out, state)), grads = gradient(params, x, targets, state)
        return (value, (out, state)), jax.tree.map(lambda g: factor * g, grads)

    return planted


def _bias_once_per_device(gradient, params, x, targets, state):
    (value, (out, state)), grads = gradient(params, x, targets, state)
    last = grads[-1]
    return (value, (out, state)), (*grads[:-1], last._replace(bias=4 * last.bias))


def _loss_of_own_rows(gradient, params, x, targets, state):
    (_, aux), grads = gradient(params, x, targets, state)
    (value, _), _ = gradient(params, x[: len(x) // 2], targets[: len(x) // 2], state)
    return (value, aux), grads


PLANTED = {
    "not summed over 'data'": _own_rows,
    "divided by the size of 'data'": _times(1 / 2),
    "counted once per device of 'model'": _times(4),
    "a bias counted once per device of 'model'": _bias_once_per_device,
    "a loss of own rows": _loss_of_own_rows,
}


def planted_mistakes(directory):
    """What the comparison with one device is there to catch, each in the step of a run on the mesh."""
    del directory
    params, data = problem(jnp.float64)
    alone = {"epochs": 1, "metrics": {}}  # a mistake may leave rows out, whose targets a metric would miss
    single = fit(params, data, optax.sgd(0.1), **alone)
    right = Objective.step

    def assert_right(planted):
        def step(self, *args, **options):
            gradient = self.gradient
            if planted is not None:
                self = self._replace(gradient=lambda *of: planted(gradient, *of))
            return right(self, *args, **options)

        Objective.step = step
        try:
            got = fit(params, data, optax.sgd(0.1), mesh=MESH, shardings=SPECS, **alone)
        finally:
            Objective.step = right
        assert_same_up_to_the_order_of_sums(got, single, jnp.float64)

    assert_right(None)
    for name, planted in PLANTED.items():
        with refused(AssertionError, r"\("):  # the error and its bound
            assert_right(planted)
        print(name)


def bad_input(directory):
    params, data = problem(jnp.float32)
    del directory
    for error, message, arguments in [
        (TypeError, "mesh must be a jax.sharding.Mesh, got 8", {"mesh": 8}),
        (ValueError, "mesh has no axis to part rows over", {"mesh": Mesh(np.array(jax.devices()[0]), ())}),
        (ValueError, "batch_size=9 .*axis 'data'. Take a multiple of 2", {"mesh": MESH, "batch_size": 9}),
        (ValueError, "shardings need a mesh", {"shardings": SPECS}),
        (ValueError, "shardings must be a tree of PartitionSpecs like params", {"mesh": MESH, "shardings": SPECS[:2]}),
        (TypeError, "must hold PartitionSpecs, got 'model' for 0.weight", {"mesh": MESH, "shardings": "model"}),
        (ValueError, r"0.weight of shape \(6, 8\) cannot be laid out as", {"mesh": MESH, "shardings": P("model")}),
        (ValueError, "0.bias of shape", {"mesh": MESH, "shardings": P(None, "model")}),
        (ValueError, "0.weight of shape", {"mesh": MESH, "shardings": P(None, "expert")}),
    ]:  # fmt: skip
        with refused(error, message):
            fit(params, data, **arguments)


def refused(error, message):
    import pytest

    return pytest.raises(error, match=message)


def sweep_on_a_mesh(directory):
    params, data = problem(jnp.float64)
    del params
    arguments = {"keys": jax.random.split(jax.random.key(1), 5), "epochs": 1, "batch_size": 8, "keep_params": True}
    four = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[4:], axis_types=(AxisType.Explicit,) * 2)
    single = jax.make_mesh((1,), ("a",), devices=jax.devices()[:1])
    results = [
        jb.train.sweep(NETWORK, LOSS, data, optax.sgd(0.1), mesh=mesh, directory=where, **arguments)
        for mesh, where in ((single, None), (four, directory / "sweep"), (four, directory / "sweep"))
    ]
    wanted = results[0]
    for result in results[1:]:
        for got, want in zip(
            jax.tree.leaves((result.params, result.results)), jax.tree.leaves((wanted.params, wanted.results))
        ):
            np.testing.assert_allclose(got, want, rtol=1e-12)
    assert [result.resumed for result in results] == [0, 0, 10]
    with refused(TypeError, "sweep: mesh must be a jax.sharding.Mesh"):
        jb.train.sweep(NETWORK, LOSS, data, optax.sgd(0.1), mesh=4, **arguments)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    assert jax.device_count() == 8
    for check in sys.argv[2:]:
        globals()[check](Path(sys.argv[1]))
        print(check, flush=True)
