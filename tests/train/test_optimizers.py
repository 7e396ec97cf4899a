"""Every public optimizer of the installed optax, by `fit`: those that keep params, that ask for the loss, that wrap."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxbias as jb
from jaxbias import train
from jaxbias.train._optimizer import prepared
from jaxbias.train._step import Learned, Objective, row_order

NETWORK = jb.chain(jb.layers.dense.layer(4), jb.layers.tanh, jb.layers.dense.layer(2))
LOSS = jb.losses.mean_squared_error
SGD = optax.sgd(0.1)

ARGUMENTS = {
    "adv_optimizer": SGD, "args": SGD, "base_optimizer": SGD, "clipping": 1.0, "decay": 0.9, "eta": 0.01,
    "f": lambda updates, params=None: updates, "fast_optimizer": SGD, "freeze_mask": False, "gamma": 0.5, "inner": SGD,
    "inner_factory": optax.sgd, "l2_norm_clip": 1.0, "learning_rate": 0.01, "mask": True,
    "max_backtracking_steps": 5, "max_consecutive_errors": 3, "max_delta": 1.0, "max_linesearch_steps": 5,
    "max_norm": 1.0, "measure": optax.tree.norm, "measure_name": "norm", "noise_multiplier": 0.1, "optimizer": SGD,
    "param_labels": "all", "seed": 0, "should_transform_fn": lambda step, **_: step % 2 == 0,
    "slow_step_size": 0.5, "step_size": -0.1, "step_size_fn": lambda count: -0.1, "sync_period": 2, "threshold": 1.0,
    "transforms": {"all": SGD}, "tx": SGD,
}  # fmt: skip
"""A value for whatever an optimizer cannot be made without."""


def _every_leaf_is_a_matrix(params):
    return jax.tree.map(lambda leaf: optax.contrib.MuonDimensionNumbers(), params)


SPECIAL = {
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.sgd)(learning_rate=0.1),
    "named_chain": lambda: optax.named_chain(("sgd", SGD)),
    "selective_transform": lambda: optax.selective_transform(SGD, freeze_mask=False),
    "snapshot": lambda: optax.snapshot("norm", lambda updates: optax.tree.norm(updates)),
    "scale_by_muon": lambda: optax.partition(
        {"matrix": optax.contrib.scale_by_muon(weight_dimension_numbers=_every_leaf_is_a_matrix), "other": SGD},
        lambda params: jax.tree.map(lambda leaf: "matrix" if leaf.ndim == 2 else "other", params),
    ),
}

REFUSED = {
    "differentially_private_aggregate": "batch dimension",
    "dpsgd": "batch dimension",
    "measure_with_ema": "pytree structure error|Expected named tuple",
}
"""Name → what optax says. The first two take a gradient for each example (`jb.clipped_grad` sums without forming
them); the last gives a measurement where an optimizer gives updates."""


def public_optimizers():
    for module in (optax, optax.contrib):
        for name, function in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            signature = inspect.signature(function)
            if "GradientTransformation" in str(signature.return_annotation) or name in ("dog", "dowg"):  # not annotated
                yield name, function, signature


def make(name, function, signature):
    if name in SPECIAL:
        return SPECIAL[name]()
    needed = [
        ARGUMENTS[p.name] for p in signature.parameters.values() if p.default is p.empty and p.kind != p.VAR_KEYWORD
    ]
    made = function(*needed)
    # A part of an optimizer takes no steps of its own: without a rate, and a sign, it climbs.
    return optax.chain(made, optax.scale(-0.01)) if name.startswith("scale_by_") else made


@pytest.fixture
def problem(key):
    x_key, y_key, init_key = jax.random.split(key, 3)
    x, y = jax.random.normal(x_key, (22, 3)), jax.random.normal(y_key, (22, 2))
    params = jax.tree.map(lambda p: p + 0.1, NETWORK.init(init_key, x))
    return params, (x, y)


def ten_steps(problem, optimizer, key, **changes):
    params, data = problem
    if changes.pop("lookahead", False):
        params = optax.LookaheadParams.init_synced(params)
    return train.fit(NETWORK, LOSS, params, data, optimizer, **{"epochs": 2, "batch_size": 4, "key": key} | changes)


def test_the_walk_below_sees_every_kind():
    names = {name for name, *_ in public_optimizers()}
    assert len(names) > 100, len(names)
    assert {
        "adam",
        "lbfgs",
        "polyak_sgd",
        "prodigy",
        "momo",
        "sam",
        "lookahead",
        "muon",
        "sophia",
        "dpsgd",
        "dog",
    } <= names
    assert REFUSED.keys() | SPECIAL.keys() <= names


@pytest.mark.slow
def test_every_public_optimizer_runs_ten_steps(problem, key):
    """Step by step as fit takes them, but without compiling a hundred programs; what is carried keeps its form."""
    _, (x, y) = problem
    network = jb.layers.dense.layer(2)  # of two leaves: every operation is compiled for every shape
    objective, failures = Objective.of(network, LOSS, None, "delta"), {}
    params = network.init(key, x)
    for name, function, signature in public_optimizers():
        try:
            optimizer = prepared(make(name, function, signature), "fit")
            start = optax.LookaheadParams.init_synced(params) if name == "lookahead" else params
            learned = first = Learned.at_start(optimizer, start, None)
            losses = []
            for i in range(10):
                rows = slice(2 * i, 2 * i + 4)
                learned, record = objective.step(learned, (x[rows], y[rows]), optimizer)
                losses.append(float(record["loss"]))
            forms = [jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree) for tree in (first, learned)]
            if not np.isfinite(losses).all() or forms[0] != forms[1]:
                failures[name] = losses, forms
        except (TypeError, ValueError) as error:
            if not re.search(REFUSED.get(name, "nothing is refused"), str(error)):
                failures[name] = f"{type(error).__name__}: {error}"
    assert not failures, "\n".join(f"{name}: {failure}" for name, failure in failures.items())


def written_out(problem, key, optimizer, steps, ask):
    """optax as its documentation has it, on the batches that fit draws."""
    params, (x, y) = problem
    loss = lambda params, rows: jnp.mean((NETWORK.forward(params, x[rows])[0] - y[rows]) ** 2)
    opt_state, losses = optimizer.init(params), []
    for rows in row_order(key, 0, len(x), 4)[:steps]:
        value, grads = jax.value_and_grad(loss)(params, rows)
        with jax.numpy_dtype_promotion("standard"):
            asked = ask(value, grads, lambda params, rows=rows: loss(params, rows))
            updates, opt_state = optimizer.update(grads, opt_state, params, **asked)
            params = optax.apply_updates(params, updates)
        losses.append(value)
    return params, np.array(losses)


@pytest.mark.slow
def test_those_that_ask_and_those_that_keep_params_do_as_optax_documents(problem, key):
    asking = lambda value, grads, value_fn: {"value": value, "grad": grads, "value_fn": value_fn}
    for optimizer, ask in [
        (optax.lbfgs(), asking),
        (optax.chain(SGD, optax.contrib.reduce_on_plateau(patience=1)), lambda value, *_: {"value": value}),
        (optax.contrib.prodigy(), lambda *_: {}),
        (optax.apply_if_finite(optax.MultiSteps(SGD, 2).gradient_transformation(), 3), lambda *_: {}),
    ]:
        params, losses = written_out(problem, key, optimizer, 5, ask)
        fitted = ten_steps(problem, optimizer, key, epochs=1)
        np.testing.assert_allclose(fitted.history["step_loss"][0], losses, rtol=1e-9)
        for got, want in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_line_search_sees_only_the_leaves_that_are_trained(problem, key):
    params, _ = problem
    fitted = ten_steps(problem, optax.lbfgs(), key, trainable=jb.freeze(params, "weights"))
    assert np.array_equal(fitted.params[0].weight, params[0].weight)
    assert not np.array_equal(fitted.params[0].bias, params[0].bias)
    assert fitted.history["loss"][1] < fitted.history["loss"][0]


def test_accumulated_gradients_are_those_of_the_larger_batch(problem, key):
    """Two steps of 4 rows with MultiSteps are one of 8: on average the loss has the same gradient."""
    params, (x, y) = problem
    rows = params, (x[:8], y[:8])
    accumulated = ten_steps(rows, optax.MultiSteps(SGD, 2, accumulator_dtype=jnp.float64), key, epochs=1)
    whole = ten_steps(rows, SGD, key, epochs=1, batch_size=8)
    for got, want in zip(jax.tree.leaves(accumulated.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_lookahead_steps_with_its_fast_params_and_is_judged_by_its_slow_ones(problem, key):
    _, (x, y) = problem
    optimizer = optax.lookahead(SGD, sync_period=4, slow_step_size=0.5)
    fitted = ten_steps(problem, optimizer, key, lookahead=True, validation=(x, y))
    assert isinstance(fitted.params, optax.LookaheadParams)
    for params, same in ((fitted.params.slow, True), (fitted.params.fast, False)):
        loss = np.mean((NETWORK.forward(params, x)[0] - y) ** 2)
        assert np.isclose(fitted.history["validation_loss"][-1], loss, rtol=1e-12) == same
    with pytest.raises(ValueError, match="inside of it"):
        ten_steps(problem, optimizer, key, lookahead=True, trainable=True)


def test_computing_in_bfloat16_keeps_params_and_sums_in_float32(problem, key):
    params, data = jax.tree.map(lambda array: array.astype(jnp.float32), problem)
    in_float32 = ten_steps((params, data), optax.adam(1e-2), key, epochs=4, validation=data)
    in_bfloat16 = ten_steps((params, data), optax.adam(1e-2), key, epochs=4, validation=data, compute_dtype="bfloat16")
    for leaf in jax.tree.leaves((in_bfloat16.params, in_bfloat16.history)):
        assert leaf.dtype == jnp.float32
    losses, wanted = in_bfloat16.history["loss"], in_float32.history["loss"]
    assert not np.array_equal(losses, wanted)
    # A product of two rounded factors is off by 2 · 2⁻⁸ of itself, a loss of two layers by a few of these.
    np.testing.assert_allclose(losses, wanted, rtol=10 * 2**-8)
    for wrong, name in ((jnp.int8, "int8"), ("bf16", "'bf16'")):
        with pytest.raises(TypeError, match=f"compute_dtype must be a float, as jnp.bfloat16, got {name}"):
            ten_steps((params, data), SGD, key, compute_dtype=wrong)


def test_float16_keeps_the_small_error_signals_that_it_cannot_hold(problem, key):
    """A loss scaled by 2⁻²² has error signals of 2⁻²⁵, which float16 rounds to nothing; scaled, no bit is lost."""
    params, data = jax.tree.map(lambda array: array.astype(jnp.float32), problem)
    small = 2.0**-22

    class Small:
        forward = staticmethod(lambda out, targets: (small * LOSS.forward(out, targets)[0], (out, targets)))
        backward = staticmethod(lambda residuals: small * LOSS.backward(LOSS.forward(*residuals)[1]))

    def trained(loss, rate, **changes):
        arguments = {"epochs": 2, "batch_size": 4, "key": key, "compute_dtype": jnp.float16} | changes
        return train.fit(NETWORK, loss, params, data, optax.sgd(rate), **arguments)

    wanted, scaled = trained(LOSS, 0.1), trained(Small, 0.1 / small)
    in_float32 = trained(LOSS, 0.1, compute_dtype=None)
    for got, want, exact, before in zip(
        *map(jax.tree.leaves, (scaled.params, wanted.params, in_float32.params, params))
    ):
        assert got.dtype == jnp.float32 and not np.array_equal(got, before)
        np.testing.assert_array_equal(got, want)  # powers of two throughout
        # Ten steps, each with a few roundings of 2⁻¹¹ in grads whose steps are 0.1 of them.
        np.testing.assert_allclose(got, exact, atol=20 * 2.0**-11 * np.abs(exact).max())
    with pytest.raises(ValueError, match='float16 needs how="delta"'):
        trained(LOSS, 0.1, how="autodiff")


def test_without_the_scale_float16_learns_nothing_from_them(problem, key, monkeypatch):
    from jaxbias.train import _mixed_precision

    params, data = jax.tree.map(lambda array: array.astype(jnp.float32), problem)
    network = _mixed_precision.in_dtype(NETWORK, jnp.float16)
    out, residuals = network.forward(params, data[0])
    delta = 2.0**-26 * jnp.ones_like(out)
    grads = jax.tree.leaves(network.backward(residuals, delta)[0])
    monkeypatch.setattr(_mixed_precision, "_scale", lambda delta: None)
    unscaled = jax.tree.leaves(network.backward(residuals, delta)[0])
    assert all(np.abs(g).max() > 0 for g in grads) and not any(np.abs(g).max() for g in unscaled)
