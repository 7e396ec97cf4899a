import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias import train

NETWORK = jb.chain(jb.layers.dense.layer(5), jb.layers.tanh, jb.layers.dense.layer(2))
LOSS = jb.losses.mean_squared_error


@pytest.fixture
def problem(key):
    x_key, y_key, init_key, bias_key = jax.random.split(key, 4)
    x, y = jax.random.normal(x_key, (23, 3)), jax.random.normal(y_key, (23, 2))
    params = NETWORK.init(init_key, x)
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(bias_key, p.shape), params), (x, y)


def run(problem, key, **changes):
    params, data = problem
    arguments = {"epochs": 3, "batch_size": 5, "key": key} | changes
    data = arguments.pop("data", data)
    return train.fit(NETWORK, LOSS, params, data, arguments.pop("optimizer", optax.adam(1e-2)), **arguments)


def assert_identical(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(one, other)


def test_fit_equals_gradient_descent_written_out_in_numpy(problem, key):
    """Full-batch gradient descent on the mean squared error does not depend on the order of the rows."""
    params, (x, y) = problem
    fitted = run(problem, key, batch_size=23, optimizer=optax.sgd(0.1))
    (w1, b1), _, (w2, b2) = jax.tree.map(np.asarray, params)
    x, y, losses = np.asarray(x), np.asarray(y), []
    for _ in range(3):
        hidden = np.tanh(x @ w1 + b1)
        error = hidden @ w2 + b2 - y
        losses.append(np.mean(error**2))
        delta = 2 * error / error.size
        delta_hidden = delta @ w2.T * (1 - hidden**2)
        w2, b2 = w2 - 0.1 * hidden.T @ delta, b2 - 0.1 * delta.sum(0)
        w1, b1 = w1 - 0.1 * x.T @ delta_hidden, b1 - 0.1 * delta_hidden.sum(0)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-12)
    for got, want in zip(jax.tree.leaves(fitted.params), (w1, b1, w2, b2), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


def test_repetition_is_bit_identical_and_another_key_is_not(problem, key):
    first, again = run(problem, key), run(problem, key, progress=lambda _: None)
    assert_identical((first.params, first.opt_state, first.history), (again.params, again.opt_state, again.history))
    other = run(problem, jax.random.key(1))
    assert not np.array_equal(first.params[0].weight, other.params[0].weight)


def test_both_loops_and_both_gradients_agree(problem, key):
    wanted = run(problem, key, loop="scan")
    for other in (run(problem, key, loop="steps"), run(problem, key, how="autodiff")):
        for got, want in zip(jax.tree.leaves(other.params), jax.tree.leaves(wanted.params), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_every_epoch_uses_whole_batches_of_distinct_rows(key):
    """The gradient of each step is the mean of its rows: with one-hot rows and plain SGD the weight counts them."""
    rows, batch = 7, 3
    network = jb.layers.dense.layer(1, use_bias=False, weight_init=jb.initializers.zeros)
    count = jb.losses.ConfiguredLoss(  # ∂L/∂out = -1 whatever the targets are
        lambda out, targets: (-out.sum() + 0 * targets.sum(), jnp.zeros_like(out)), lambda r: -jnp.ones_like(r)
    )
    x, y = jnp.eye(rows), jnp.zeros((rows, 1))
    params = network.init(key, x)
    seen = train.fit(network, count, params, (x, y), optax.sgd(1.0), epochs=4, batch_size=batch, key=key).params.weight
    assert seen.sum() == 4 * 6  # 7 // 3 = 2 batches of 3, four times
    assert seen.max() <= 4 and len(set(seen.ravel().tolist())) > 1  # never twice an epoch; not the same rows always


def test_history_holds_losses_and_metrics(problem, key):
    params, (x, y) = problem
    largest = {"largest": lambda out, targets: jnp.abs(out - targets).max()}
    told = []
    fitted = run(problem, key, validation=(x[:7], y[:7]), metrics=largest, progress=told.append)
    assert {name: values.shape for name, values in fitted.history.items()} == {
        "loss": (3,),
        "step_loss": (3, 4),
        "largest": (3,),
        "validation_loss": (3,),
        "validation_largest": (3,),
    }
    np.testing.assert_allclose(fitted.history["loss"], fitted.history["step_loss"].mean(1))
    out, _ = NETWORK.forward(fitted.params, x[:7])
    np.testing.assert_allclose(fitted.history["validation_loss"][-1], np.mean((out - y[:7]) ** 2), rtol=1e-12)
    assert told[-1].epoch == told[-1].epochs == 3
    assert told[-1].latest["loss"] == fitted.history["loss"][-1]


def test_accuracy_by_hand():
    out = jnp.array([[1.0, 2], [3, 0], [0, 1]])
    assert train.accuracy(out, jnp.array([1, 1, 1])) == pytest.approx(2 / 3)
    assert train.accuracy(out, jnp.array([[0.0, 1], [0, 1], [0, 1]])) == pytest.approx(2 / 3)


def test_frozen_leaves_do_not_move_and_the_callers_arrays_stay(problem, key):
    params, _ = problem
    before = jax.tree.map(np.array, params)
    biases = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].name == "bias", params)
    fitted = run(problem, key, trainable=biases)
    assert_identical(params, before)
    for layer in (0, 2):
        assert np.array_equal(fitted.params[layer].weight, before[layer].weight)
        assert not np.any(fitted.params[layer].bias == before[layer].bias)
    assert_identical(run(problem, key, trainable=jb.freeze(params, "weights")).params, fitted.params)
    head = run(problem, key, trainable=(False, False, True))
    assert_identical(head.params[0], before[0])
    assert not np.any(head.params[2].weight == before[2].weight)


def test_state_is_carried_from_step_to_step_and_not_used_in_validation(key):
    silent = jb.Layer(lambda key, x: (), lambda params, x: (x, ()), lambda residuals, delta: ((), delta), "silent")
    counter = jb.Layer(
        lambda key, x: (),
        lambda params, x, state: (x + state, ()),
        lambda residuals, delta: ((), delta),
        "counter",
        state=jb.State(lambda key, x: jnp.zeros(()), lambda state, residuals: state + 1, silent),
    )
    network = jb.chain(counter, jb.layers.dense.layer(2))
    x, y = jax.random.normal(key, (8, 3)), jnp.ones((8, 2))
    params = network.init(key, x)
    fitted = train.fit(network, LOSS, params, (x, y), optax.sgd(0.01), epochs=3, batch_size=4, key=key,
                       validation=(x, y))  # fmt: skip
    assert fitted.state[0] == 3 * 2
    out, _ = jb.layers.dense.forward(fitted.params[1], x)
    np.testing.assert_allclose(fitted.history["validation_loss"][-1], np.mean((out - y) ** 2), rtol=1e-12)


def test_divergence_is_reported(problem, key):
    with pytest.warns(RuntimeWarning, match="not finite from epoch 2 on: training diverged"):
        fitted = run(problem, key, optimizer=optax.sgd(1e200), batch_size=23)
    assert fitted.diverged == 2 and not np.isfinite(fitted.history["loss"][1:]).any()


def test_divergence_in_the_last_step_is_seen_in_params(problem, key):
    with pytest.warns(RuntimeWarning, match="params are not finite"):
        fitted = run(problem, key, optimizer=optax.sgd(np.nan), batch_size=23, epochs=1)
    assert fitted.diverged == 1 and np.isfinite(fitted.history["loss"]).all()


def test_divergence_of_validation_counts(problem, key):
    _, (x, y) = problem
    with pytest.warns(RuntimeWarning, match="not finite from epoch 1 on"):
        fitted = run(problem, key, optimizer=optax.sgd(1e200), batch_size=23, epochs=1, validation=(x, y))
    assert fitted.diverged == 1 and np.isfinite(fitted.history["loss"]).all()


@pytest.mark.parametrize(
    ("out", "targets"),
    [((4, 1), (4,)), ((4, 2), (4, 5)), ((4, 2), (3,)), ((), ()), ((4, 2), (4, 2, 1))],
)
def test_accuracy_of_other_shapes_is_refused(out, targets):
    dtype = int if len(targets) < len(out) else float
    with pytest.raises(ValueError, match="one column for each of two or more classes"):
        train.accuracy(jnp.ones(out), jnp.ones(targets, dtype))


@pytest.mark.parametrize(("how", "expected"), [("delta", "scan"), ("autodiff", "steps")])
def test_loop_choice_for_convolutions_on_cpu(how, expected):
    network = jb.chain(jb.residual(jb.layers.tanh._replace(convolves=True)))
    assert train.choose_loop(network, how, "cpu") == expected
    assert train.choose_loop(network, how, "gpu") == "scan"
    assert train.choose_loop(NETWORK, how, "cpu") == "scan"


def test_bfloat16(key):
    network = jb.layers.dense.layer(1)
    x = jax.random.normal(key, (8, 3), jnp.bfloat16)
    params = network.init(key, x)
    fitted = train.fit(network, LOSS, params, (x, x[:, :1]), optax.adam(1e-2), epochs=2, batch_size=4, key=key)
    assert fitted.params.weight.dtype == jnp.bfloat16 and fitted.history["loss"].dtype == np.float32
    assert not np.any(fitted.params.weight == params.weight)


BAD = [
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"batch_size": 2.5}, TypeError, r"batch_size must be a whole number, got 2\.5"),
    ({"batch_size": 24}, ValueError, "batch_size=24 is larger than the data, which has 23 rows. Take at most"),
    ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    ({"loop": "while"}, ValueError, 'loop must be "auto", "scan" or "steps", got \'while\''),
    ({"how": "magic"}, ValueError, 'how must be "delta" or "autodiff"'),
    ({"optimizer": "adam"}, TypeError, "optimizer must be an optax gradient transformation, got 'adam'"),
    ({"data": np.ones((3, 3))}, TypeError, r"data must be a pair \(x, targets\) of arrays, got ndarray"),
    ({"data": (np.ones((3, 3)), np.ones((4, 2)))}, ValueError, r"x has 3 rows but targets has 4 \(shapes"),
    ({"data": (np.ones((0, 3)), np.ones((0, 2)))}, ValueError, "larger than the data|data is empty"),
    ({"data": (np.array([["a"]]), np.ones((1, 2)))}, TypeError, "data x must be an array of real numbers, got dtype"),
    ({"data": (np.float64(1), np.ones((1, 2)))}, ValueError, "data x must have one row per example"),
    ({"data": (np.full((9, 3), np.nan), np.ones((9, 2)))}, ValueError, "data x holds 27 values that are NaN .* row 0"),
    ({"validation": (np.ones((0, 3)), np.ones((0, 2)))}, ValueError, "validation is empty"),
    ({"data": (np.ones((9, 3), np.float32), np.ones((9, 2)))}, TypeError, "x is float32 but params are float64"),
    ({"data": (np.ones((9, 3), int), np.ones((9, 2)))}, TypeError, "x must be a floating-point array, got int"),
    ({"data": (np.ones((9, 4)), np.ones((9, 2)))}, ValueError, "x has 4 features but weight has fan_in=3"),
    ({"data": (np.ones((9, 3)), np.ones((9, 1)))}, ValueError, "must have one shape"),
    ({"trainable": (True, False)}, ValueError, "fit: trainable must be a tree like params"),
    ({"trainable": "bias"}, TypeError, 'fit: trainable must hold "train" and "freeze"'),
    ({"trainable": False}, ValueError, "nothing to train"),
    ({"metrics": {"loss": train.accuracy}}, ValueError, "no metric may be called loss: the history has loss and step_"),
    ({"metrics": [train.accuracy]}, TypeError, "metrics must be a dict such as .* got a list of 1"),
    ({"metrics": {"a": 3}}, TypeError, "a metric is a name and a function, got 'a' and the int 3"),
    ({"metrics": {"a": lambda out, _: out}}, ValueError, r"the metric a must return a scalar.* got shape \(\d+, 2\)"),
    ({"checkpoint": ""}, ValueError, "the directory has no name"),
    ({"key": 0}, TypeError, "fit: key must be a JAX key"),
    ({"state": {"a": 1}}, ValueError, "state must be that of the network, which keeps none: leave state=None; got a d"),
    ({"progress": "yes"}, TypeError, "progress must be a function of a Progress, got the str 'yes'"),
    ({"epochs": 2**70}, MemoryError, "the history of 1,180,591,620,717,411,303,424 epochs needs"),
    ({"epochs": 10**12}, MemoryError, "Take fewer epochs"),
]


@pytest.mark.parametrize(("changes", "error", "match"), BAD)
def test_bad_input_is_refused_before_any_work(problem, key, changes, error, match, tmp_path, as_users_run_it):
    with pytest.raises(error, match=match):
        run(problem, **{"key": key, "checkpoint": tmp_path / "run"} | changes)
    assert not (tmp_path / "run").exists()
