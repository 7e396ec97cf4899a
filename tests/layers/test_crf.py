"""Conditional random field: every path summed, decoding by trying them all, redundant biases, planted faults."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import normal, random_like
from jaxbias.layers import crf, dense, linear_cross_entropy
from jaxbias.layers.crf import CrfParams
from tests.planted import assert_caught

EXAMPLE, LENGTHS = crf.DERIVATIONS[0].examples[:2]
SIZES = np.array([4, 2, 1])


@pytest.fixture
def task(key):
    """Three sequences of 4, 2 and 1 steps, with 3 labels."""
    emissions, labels = crf._drawn(3, 4, 3, tuple(SIZES.tolist()))(key, jnp.float64)
    return random_like(key, CrfParams(jnp.zeros(3), jnp.zeros((3, 3)), jnp.zeros(3))), emissions, labels


def scores(params, e):
    """S of every path through e (T, K), by its labels."""
    start, transitions, end = map(np.asarray, params)

    def score(path):
        steps = sum(e[t, label] for t, label in enumerate(path))
        return start[path[0]] + steps + sum(transitions[pair] for pair in itertools.pairwise(path)) + end[path[-1]]

    return {path: score(path) for path in itertools.product(range(e.shape[1]), repeat=len(e))}


def test_loss_is_that_of_all_paths_summed(task):
    params, emissions, labels = task
    expected = []
    for e, y, size in zip(np.asarray(emissions), np.asarray(labels), SIZES, strict=True):
        of_paths = scores(params, e[:size])
        expected.append(np.logaddexp.reduce(list(of_paths.values())) - of_paths[tuple(y[:size].tolist())])
    none, _ = crf.forward(params, (emissions, labels), reduction="none")
    np.testing.assert_allclose(none, expected, rtol=1e-13)
    np.testing.assert_allclose(crf.forward(params, (emissions, labels))[0], np.mean(expected), rtol=1e-13)


def test_gradients_are_expectations_over_all_paths(task):
    """∂L/∂A counts pairs of labels, ∂L/∂e labels: those of all paths by their probability, less the true one's."""
    params, emissions, labels = task
    _, residuals = crf.forward(params, (emissions, labels), reduction="sum")
    grads, (delta_e, _) = crf.backward(residuals, jnp.ones(()))
    pairs, at_steps, ends = np.zeros((3, 3)), np.zeros((3, 4, 3)), np.zeros(3)
    for n, (e, y, size) in enumerate(zip(np.asarray(emissions), np.asarray(labels), SIZES, strict=True)):
        of_paths = scores(params, e[:size])
        total = np.logaddexp.reduce(list(of_paths.values()))
        weights = {path: np.exp(score - total) for path, score in of_paths.items()}
        weights[tuple(y[:size].tolist())] -= 1
        for path, weight in weights.items():
            ends[path[-1]] += weight
            for t, label in enumerate(path):
                at_steps[n, t, label] += weight
            for pair in itertools.pairwise(path):
                pairs[pair] += weight
    np.testing.assert_allclose(delta_e, at_steps, atol=1e-13)
    np.testing.assert_allclose(grads.transitions, pairs, atol=1e-13)
    np.testing.assert_allclose(grads.start, at_steps[:, 0].sum(0), atol=1e-13)
    np.testing.assert_allclose(grads.end, ends, atol=1e-13)


def test_decoding_is_the_best_of_all_paths(task):
    params, emissions, _ = task
    found = np.asarray(crf.decode(params, emissions, jnp.asarray(SIZES)))
    for e, path, size in zip(np.asarray(emissions), found, SIZES, strict=True):
        of_paths = scores(params, e[:size])
        assert tuple(path[:size].tolist()) == max(of_paths, key=of_paths.__getitem__)
        assert (path[size:] == -1).all()
    assert np.array_equal(crf.decode(params, emissions[:1]), found[:1])


def test_a_bias_of_the_emissions_is_in_start_and_in_the_columns_of_the_transitions(task, key):
    params, _, labels = task
    network = linear_cross_entropy.network(dense.layer(3), crf.layer())
    x = normal(key, (3, 4, 2), jnp.float64)
    (of_dense, _) = random_like(key, jax.eval_shape(network.init, key, (x, labels)))
    _, grads = jb.value_and_grad(network, jb.losses.of_network)((of_dense, params), x, labels)
    expected = grads[1].start + grads[1].transitions.sum(0)
    assert np.abs(grads[0].bias).max() > 0.1
    np.testing.assert_allclose(grads[0].bias, expected, rtol=1e-12)
    found = jb.surgery.redundant_biases(
        lambda p, x: network.forward(p, (jnp.asarray(x), labels))[0], (of_dense, params), np.asarray(x)
    )
    together = {path for group in found for path in group.paths}
    assert "0.bias" in together


def test_long_sequences_in_float32_keep_their_digits():
    """2,000 steps whose log Z is 1e4: probabilities come from differences of what is near 0."""
    rng = np.random.default_rng(0)
    e = (5 + rng.normal(size=(1, 2000, 3))).astype(np.float32)
    labels = jnp.asarray(rng.integers(3, size=(1, 2000)).astype(np.int32))
    params = CrfParams(*(rng.normal(size=shape).astype(np.float32) for shape in ((3,), (3, 3), (3,))))

    @jax.jit
    def run(params, e):
        return crf.backward(crf.forward(params, (e, labels))[1], jnp.ones((), e.dtype))

    narrow = run(jax.tree.map(jnp.asarray, params), jnp.asarray(e))
    wide = run(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params), jnp.asarray(e, jnp.float64))
    for actual, expected in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max() + 1e-6)


def test_on_disk_it_has_the_names_of_pytorch_crf(task):
    params, *_ = task
    network = jb.chain(crf.layer())
    arrays = jb.io.to_pytorch(network, (params,))
    assert list(arrays) == ["0.start_transitions", "0.transitions", "0.end_transitions"]
    assert jax.tree.all(jax.tree.map(np.array_equal, jb.io.from_pytorch(network, (params,), arrays), (params,)))


def one_hot(residuals):
    return jax.nn.one_hot(residuals.labels, 2, dtype=jnp.float64)


def faulty(**changes):
    """Backward of EXAMPLE, three sequences of four steps, with other gradients."""

    def wrong(residuals, delta):
        grads, (delta_e, _) = crf.backward(residuals, delta)
        changed = {name: change(residuals, grads, delta_e) for name, change in changes.items()}
        delta_e = changed.pop("emissions", delta_e)
        return grads._replace(**changed), (delta_e, None)

    return wrong


def pairs_of_labels(residuals):
    y = one_hot(residuals)
    return jnp.einsum("nti,ntj->ij", y[:, :-1], y[:, 1:]) / 3


FAULTS = {
    "counts transposed": (
        faulty(transitions=lambda r, g, d: g.transitions + pairs_of_labels(r) - pairs_of_labels(r).T),
        {"0.transitions"},
    ),
    "transitions transposed": (faulty(transitions=lambda r, g, d: g.transitions.T), {"0.transitions"}),
    "pairs as if steps were independent": (
        faulty(
            transitions=lambda r, g, d: (
                jnp.einsum("nti,ntj->ij", (3 * d + one_hot(r))[:, :-1], (3 * d + one_hot(r))[:, 1:]) / 3
                - pairs_of_labels(r)
            )
        ),
        {"0.transitions"},
    ),
    "α alone": (
        faulty(emissions=lambda r, g, d: (jnp.swapaxes(jax.nn.softmax(r.alpha), 0, 1) - one_hot(r)) / 3),
        {"1.0"},
    ),
    "start of every step": (faulty(start=lambda r, g, d: d.sum((0, 1))), {"0.start"}),
    "end at the first step": (faulty(end=lambda r, g, d: d[:, 0].sum(0)), {"0.end"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(EXAMPLE, key, *FAULTS[name])


def test_the_end_at_the_last_step_of_all_is_caught_where_lengths_differ(key):
    def wrong(residuals, delta):
        grads, delta_x = crf.backward(residuals, delta)
        return grads._replace(end=delta_x[0][:, -1].sum(0)), delta_x

    assert_caught(LENGTHS, key, wrong, {"0.end"})


@pytest.mark.parametrize(("place", "label"), [((1, 0), 7), ((0, 1), -1)], ids=["outside", "behind an ignored one"])
def test_a_label_that_makes_no_sense_makes_nan_inside_jit(task, place, label):
    params, emissions, labels = task
    run = jax.jit(lambda labels: crf.forward(params, (emissions, labels), reduction="none"))
    value, residuals = run(labels.at[place].set(label))
    wanted = [row == place[0] for row in range(3)]
    assert np.isnan(value).tolist() == wanted
    assert np.isnan(crf.backward(residuals, jnp.ones(3))[1][0]).any(axis=(1, 2)).tolist() == wanted


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(task, key):
    params, emissions, labels = task
    with pytest.raises(ValueError, match=r"crf\.forward: labels must lie in \[0, 3\) .* got 3"):
        crf.forward(params, (emissions, labels.at[0, 0].set(3)))
    with pytest.raises(ValueError, match=r"crf\.forward: a label stands behind an ignored one"):
        crf.forward(params, (emissions, labels.at[0, 1].set(-1)))
    with pytest.raises(ValueError, match=r"crf\.forward: x must be a pair \(emissions, labels\), got a float64 array"):
        crf.forward(params, emissions)
    with pytest.raises(TypeError, match=r"crf\.forward: labels must be integers, one for each step, got a float64"):
        crf.forward(params, (emissions, emissions[..., 0]))
    with pytest.raises(ValueError, match=r"crf\.init: emissions must be \(n, time, labels\) with a step"):
        crf.layer().init(key, (emissions[:, :0], labels[:, :0]))
    with pytest.raises(ValueError, match=r"crf\.forward: transitions must have the shape \(3, 3\) .* got \(2, 2\)"):
        crf.forward(params._replace(transitions=jnp.zeros((2, 2))), (emissions, labels))
    with pytest.raises(
        TypeError, match=r"crf\.decode: params must be CrfParams\(start, transitions, end\), got a tuple"
    ):
        crf.decode(tuple(params), emissions)
    _, residuals = crf.forward(params, (emissions, labels))
    with pytest.raises(ValueError, match=r"crf\.backward: delta has shape \(3,\) but the output of forward has \(\)"):
        crf.backward(residuals, jnp.ones(3))
    with pytest.raises(TypeError, match=r"crf\.backward: delta must be a floating-point array, got int"):
        crf.backward(residuals, jnp.ones((), int))
    with pytest.raises(ValueError, match=r"crf\.decode: lengths must have the shape \(3,\), got \(2,\)"):
        crf.decode(params, emissions, jnp.array([1, 2]))
    with pytest.raises(TypeError, match=r"crf\.layer: ignore_label must be a whole number, got None"):
        crf.layer(ignore_label=None)
    with pytest.raises(ValueError, match=r'crf\.layer: reduction must be "mean" or "sum" over rows, or "none"'):
        crf.layer(reduction="max")
