"""Dense layer and cross-entropy in one: the plain formula, memory, planted mistakes, how networks end in it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.derivation import instance
from jaxbias.layers import dense, dropout, linear_cross_entropy, relu
from jaxbias.losses import cross_entropy, of_network
from jaxbias.verify import relative_errors
from tests.planted import assert_caught

EXAMPLES = {example.label: example for example in linear_cross_entropy.DERIVATIONS[0].examples}
EVERYTHING = "blocks, smoothing, z-loss, softcap, ignored rows"


def test_by_hand():
    """h = 2, W = (0, ½ log 3), b = (0, 0): p = (1/4, 3/4), and the label is the first."""
    params = jb.Params(jnp.array([[0, np.log(3) / 2]]), jnp.zeros(2))
    loss, residuals = jax.jit(linear_cross_entropy.forward)(params, (jnp.array([[2.0]]), jnp.array([0])))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-15)
    grads, (delta_h, of_labels) = linear_cross_entropy.backward(residuals, jnp.array(2.0))
    np.testing.assert_allclose(grads.weight, [[-3, 3]], rtol=1e-15)
    np.testing.assert_allclose(grads.bias, [-3 / 2, 3 / 2], rtol=1e-15)
    np.testing.assert_allclose(delta_h, [[3 / 4 * np.log(3)]], rtol=1e-15)
    assert of_labels is None


def plain(params, h, labels, label_smoothing=0.0, z_loss=0.0, softcap=None, ignore_label=None):
    """The formula as a paper writes it, with all logits."""
    a = h @ params.weight + params.bias
    z = a if softcap is None else softcap * jnp.tanh(a / softcap)
    target = (1 - label_smoothing) * jax.nn.one_hot(labels, z.shape[1], dtype=z.dtype) + label_smoothing / z.shape[1]
    log_total = jax.nn.logsumexp(z, axis=1)
    per_row = log_total - (target * z).sum(axis=1) + z_loss * log_total**2
    counts = labels != (-1 if ignore_label is None else ignore_label)
    return jnp.where(counts, per_row, 0).sum() / counts.sum(dtype=z.dtype)


OPTIONS = {"label_smoothing": 0.3, "z_loss": 0.1, "softcap": 3.0, "ignore_label": 2}


def test_all_options_in_uneven_blocks_are_the_plain_formula():
    rng = np.random.default_rng(0)
    params = jb.Params(jnp.asarray(rng.standard_normal((5, 9))), jnp.asarray(rng.standard_normal(9)))
    h, labels = jnp.asarray(rng.standard_normal((8, 5))), jnp.asarray(rng.integers(9, size=8))

    @jax.jit
    def run(params, h):
        with jax.numpy_rank_promotion("allow"):
            expected = jax.value_and_grad(plain, argnums=(0, 1))(params, h, labels, **OPTIONS)
        loss, residuals = linear_cross_entropy.forward(params, (h, labels), **OPTIONS, block_rows=3, chunk=4)
        grads, (delta_h, _) = linear_cross_entropy.backward(residuals, jnp.ones(()))
        return (loss, (grads, delta_h)), expected

    found, expected = run(params, h)
    errors = relative_errors(actual=found, expected=expected)
    assert len(errors) == 4 and all(error < 1e-12 for error in errors.values()), errors


def test_logits_of_ten_thousand_and_a_class_that_cannot_occur():
    params = jb.Params(jnp.array([[1e4, -1e4, 1e4]]), jnp.array([0.0, 0, -jnp.inf]))
    run = jax.jit(lambda params, x: linear_cross_entropy.forward(params, x, chunk=2))
    loss, residuals = run(params, (jnp.array([[1.0], [-1.0]]), jnp.array([0, 0])))
    assert loss == 1e4 and residuals.bias.tolist() == [-0.5, 0.5, 0]


def test_an_ignored_row_may_hold_nan_and_if_all_are_the_loss_is_zero():
    params = jb.Params(jnp.ones((1, 3)), jnp.zeros(3))
    run = jax.jit(lambda params, x: linear_cross_entropy.forward(params, x, ignore_label=-1))
    loss, residuals = run(params, (jnp.array([[1.0], [jnp.nan]]), jnp.array([0, -1])))
    assert jnp.isfinite(loss) and np.isfinite(np.asarray(residuals.h)).all() and residuals.h[1].tolist() == [0]
    loss, residuals = run(params, (jnp.array([[1.0], [2.0]]), jnp.array([-1, -1])))
    assert loss == 0 and not np.asarray(residuals.weight).any()


def test_one_constant_on_all_logits_changes_nothing_unless_the_total_counts(key):
    """Σ ∂L/∂b = 0, but not with a z-loss or a softcap."""
    case = instance(EXAMPLES["plain"], key, jnp.float64)
    options = {}, {"z_loss": 0.1}, {"softcap": 1.0}
    sums = jax.jit(lambda p, x: [linear_cross_entropy.forward(p, x, **o)[1].bias.sum() for o in options])
    none, with_z_loss, with_softcap = sums(case.params, case.x)
    assert abs(none) < 1e-15 and abs(with_z_loss) > 1e-2 and abs(with_softcap) > 1e-2


ROWS, FAN_IN, CLASSES = 2048, 256, 32_768
SHAPES = (
    jb.Params(jax.ShapeDtypeStruct((FAN_IN, CLASSES), jnp.float32), jax.ShapeDtypeStruct((CLASSES,), jnp.float32)),
    jax.ShapeDtypeStruct((ROWS, FAN_IN), jnp.float32),
    jax.ShapeDtypeStruct((ROWS,), jnp.int32),
)


def scratch(function):
    """What the compiler needs beside arguments and results, in bytes: nothing is run."""
    return jax.jit(function).lower(*SHAPES).compile().memory_analysis().temp_size_in_bytes


def by_hand(params, h, labels):
    loss, residuals = linear_cross_entropy.forward(params, (h, labels))
    grads, (delta_h, _) = linear_cross_entropy.backward(residuals, jnp.ones((), loss.dtype))
    return loss, (grads, delta_h)


def test_memory_is_a_fifteenth_of_autodiff():
    """2,048 rows, 32,768 classes, float32: 768 MiB by autodiff of the plain form, with or without remat."""

    def usual(params, h, labels):
        z = h @ params.weight + params.bias[None, :]
        return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], axis=1).mean()

    autodiff = scratch(jax.value_and_grad(usual, argnums=(0, 1)))
    assert autodiff >= 2 * 4 * ROWS * CLASSES
    assert scratch(by_hand) <= autodiff / 15


def test_the_loss_alone_forms_no_gradient():
    products = lambda function: jax.jit(function).lower(*SHAPES).compile().as_text().count(" dot(")
    loss_alone = lambda params, h, labels: linear_cross_entropy.forward(params, (h, labels))[0]
    assert products(by_hand) == 3 and products(loss_alone) == 1


# The gradients are formed in forward, from what `_error_signal` says: a wrong one stands in its place.


def signal(z, log_total, labels, r, at, classes, options):
    """δa, for one chunk, in other words; each argument below is a mistake in it."""
    p = jnp.exp(z - log_total[:, None])
    epsilon = options.label_smoothing
    target = (1 - epsilon) * jax.nn.one_hot(labels - at, z.shape[1], dtype=z.dtype) + epsilon / classes
    return p, target, r[:, None], 1 + 2 * options.z_loss * log_total[:, None], 1 - (z / options.softcap) ** 2


WRONG = {
    "none": lambda p, t, r, of_z_loss, slope: r * (of_z_loss * p - t) * slope,
    "z-loss forgotten": lambda p, t, r, of_z_loss, slope: r * (p - t) * slope,
    "z-loss without its 2": lambda p, t, r, of_z_loss, slope: r * ((1 + of_z_loss) / 2 * p - t) * slope,
    "softcap without its slope": lambda p, t, r, of_z_loss, slope: r * (of_z_loss * p - t),
    "target with the wrong sign": lambda p, t, r, of_z_loss, slope: r * (of_z_loss * p + t) * slope,
    "z-loss on the target too": lambda p, t, r, of_z_loss, slope: r * of_z_loss * (p - t) * slope,
    "ignored rows in the mean": lambda p, t, r, of_z_loss, slope: r * 3 / 5 * (of_z_loss * p - t) * slope,
}
_autodiff = {}


def errors_with(key, wrong, monkeypatch):
    """Of the gradients, when δa is what `wrong` makes of its parts."""
    case = instance(EXAMPLES[EVERYTHING], key, jnp.float64)
    if not _autodiff:
        pull_back = jax.jit(lambda p, x: jax.vjp(case.forward, p, x, has_aux=True)[1](case.delta))
        _autodiff["expected"] = pull_back(case.params, case.x)
    monkeypatch.setattr(linear_cross_entropy, "_error_signal", lambda *parts: wrong(*signal(*parts)))
    residuals = jax.jit(lambda p, x: case.forward(p, x)[1])(case.params, case.x)
    return relative_errors(actual=case.backward(residuals, case.delta), expected=_autodiff["expected"])


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_error_signal_is_wrong_in_every_leaf(key, fault, monkeypatch):
    errors = errors_with(key, WRONG[fault], monkeypatch)
    assert set(errors) == {"0.weight", "0.bias", "1.0"}
    assert all(error < 1e-12 if fault == "none" else error > 1e-3 for error in errors.values()), errors


def test_a_chunk_counted_twice_is_caught(key, monkeypatch):
    """7 classes in chunks of 3: the last chunk begins at 4, and has two classes that the one before has had."""
    columns = linear_cross_entropy._columns
    monkeypatch.setattr(linear_cross_entropy, "_columns", lambda *a: (columns(*a)[0], jnp.ones_like(columns(*a)[1])))
    errors = errors_with(key, WRONG["none"], monkeypatch)
    assert errors["0.weight"] > 1e-3 and errors["0.bias"] > 1e-3 and errors["1.0"] > 1e-3


@pytest.mark.parametrize(
    ("wrong", "leaves"),
    [
        (lambda r, d: linear_cross_entropy.backward(r, d**2), {"0.weight", "0.bias", "1.0"}),
        (lambda r, d: (jb.Params(d * r.weight, r.bias), (d * r.h, None)), {"0.bias"}),
        (lambda r, d: (jb.Params(d * r.weight, d * r.bias / 5), (d * r.h, None)), {"0.bias"}),
        (lambda r, d: (jb.Params(d * r.weight, d * r.bias), (r.h, None)), {"1.0"}),
    ],
)
def test_a_cotangent_that_is_lost_is_caught(key, wrong, leaves):
    assert_caught(EXAMPLES["plain"], key, wrong, leaves)


# --- networks that end in it ------------------------------------------------------------------------------------------


@pytest.fixture
def task(key):
    x, labels = jax.random.normal(key, (6, 4), jnp.float64), jnp.array([0, 3, 1, 4, 4, 2])
    trunk, head = jb.chain(dense.layer(3), relu), linear_cross_entropy.layer(5)
    network = linear_cross_entropy.network(trunk, head)
    return network, network.init(key, (x, labels)), x, labels


def test_value_and_grad_and_deltas_take_it(task):
    """And give what the two parts give as a dense layer and a loss."""
    network, params, x, labels = task
    usual = jb.chain(dense.layer(3), relu, dense.layer(5))
    expected = jb.value_and_grad(usual, cross_entropy)((*params[0], params[1]), x, labels)
    for how in ("delta", "autodiff"):
        loss, grads = jb.value_and_grad(network, of_network, how)(params, x, labels)
        errors = relative_errors(actual=(loss, (*grads[0], grads[1])), expected=expected)
        assert all(error < 1e-12 for error in errors.values()), errors
    deltas = jb.deltas(network, of_network)(params, x, labels)
    np.testing.assert_allclose(
        deltas["0.0"], jb.deltas(usual, cross_entropy)((*params[0], params[1]), x, labels)["0"], atol=1e-15
    )
    assert deltas["1"] == 1


def test_fit_trains_it(task, key):
    network, params, x, labels = task
    fit = jb.train.fit(
        network, of_network, params, (x, labels), optax.sgd(0.5), validation=(x, labels), key=key, epochs=40,
        batch_size=6, loop="scan",
    )  # fmt: skip
    assert fit.history["loss"][-1] < 0.5 * fit.history["loss"][0]
    assert fit.history["validation_loss"][-1] < 0.5 * fit.history["validation_loss"][0]


@pytest.mark.slow
def test_sweep_trains_it(task, key):
    network, _, x, labels = task
    sweep = jb.train.sweep(network, of_network, (x, labels), optax.adam(0.1), keys=key[None], epochs=2, batch_size=6)
    assert np.isfinite(sweep.final("loss")).all()


def test_a_trunk_with_a_state(key):
    trunk = jb.chain(dense.layer(3), dropout.layer(0.5))
    network = linear_cross_entropy.network(trunk, linear_cross_entropy.layer(5))
    x, labels = jnp.ones((6, 4)), jnp.arange(6) % 5
    params, state = network.init(key, (x, labels)), network.state.init(key, (x, labels))
    (_, (_, after)), _ = jb.value_and_grad(network, of_network, has_aux=True)(params, x, labels, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    when_not_training = jb.inference(network)
    assert when_not_training is not network
    trunk_out, _ = jb.inference(trunk).forward(params[0], x, state[0])
    expected, _ = linear_cross_entropy.forward(params[1], (trunk_out, labels))
    np.testing.assert_allclose(when_not_training.forward(params, (x, labels), state)[0], expected, rtol=1e-14)


H, LABELS = jnp.ones((3, 2)), jnp.array([0, 1, 2])
PARAMS = jb.Params(jnp.ones((2, 3)), jnp.ones(3))
forward = linear_cross_entropy.forward


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: forward(PARAMS, H), ValueError, r"forward: x must be a pair \(h, labels\) of arrays, got a float64"),
        (lambda: forward(PARAMS, (H, H)), TypeError, "forward: labels must be integers, got a float64 array"),
        (lambda: forward(PARAMS, (H.T, LABELS)), ValueError, "forward: x has 3 features but weight has fan_in=2"),
        (lambda: forward(PARAMS, (H, LABELS + 1)), ValueError, r"forward: labels must lie in \[0, 3\) .* got 3"),
        (lambda: forward(PARAMS, (H, LABELS[:2])), ValueError, r"forward: one label per row is wanted, shape \(3,\)"),
        (lambda: forward(PARAMS, (H, LABELS), reduction="none"), ValueError, r'"mean" or "sum" .* A loss per row is'),
        (lambda: linear_cross_entropy.layer(3, softcap=0.0), ValueError, "layer: softcap must be positive, or None"),
        (lambda: linear_cross_entropy.layer(3, z_loss=-1.0), ValueError, "layer: z_loss must be at least 0, got -1.0"),
        (lambda: linear_cross_entropy.layer(3, label_smoothing=2), ValueError, r"label_smoothing must lie in \[0, 1\]"),
        (lambda: linear_cross_entropy.layer(3, ignore_label="pad"), ValueError, "ignore_label must be an int or None"),
        (lambda: linear_cross_entropy.layer(3, chunk=0), ValueError, "chunk must be a whole number of at least 1"),
        (lambda: linear_cross_entropy.layer(0), ValueError, "layer: classes must be a whole number of at least 1"),
        (
            lambda: linear_cross_entropy.backward(forward(PARAMS, (H, LABELS))[1], jnp.ones(3)),
            ValueError,
            r"backward: delta has shape \(3,\)",
        ),
        (
            lambda: jb.value_and_grad(linear_cross_entropy.network(relu, linear_cross_entropy.layer(3)), cross_entropy)(
                ((), PARAMS), H, LABELS
            ),
            ValueError,
            r"network.forward: x must be a pair \(x, labels\), got .* loss is jb.losses.of_network",
        ),
        (lambda: linear_cross_entropy.network(relu, cross_entropy), TypeError, "network: .* is no layer, but a loss"),
    ],
)
def test_bad_input(as_users_run_it, call, error, match):
    with pytest.raises(error, match=r"linear_cross_entropy\..*" + match if "network: " not in match else match):
        call()


def test_a_label_outside_poisons_the_loss_inside_jit():
    loss, _ = jax.jit(forward)(PARAMS, (H, LABELS + 1))
    assert jnp.isnan(loss)
