"""Params by name: order, round trips, frozen leaves that stay bit-identical, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.layers import dense, tanh
from jaxbias.leaves import read_labels

NETWORK = jb.chain(dense.layer(4, bias_init="normal"), tanh, dense.layer(2, bias_init="normal"))


@pytest.fixture
def params(key):
    return NETWORK.init(key, jnp.ones((5, 3)))


def test_named_parameters(params):
    named = jb.named_parameters(params)
    assert list(named) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert named["2.bias"] is params[2].bias
    assert list(jb.named_parameters(jb.Params(jnp.ones(2), None))) == ["weight"]


def test_get_weights_in_the_order_of_the_article(params):
    assert [array.shape for array in jb.get_weights(params)] == [(3, 4), (4,), (4, 2), (2,)]  # A0.10


def test_set_weights_is_the_inverse(params, key):
    other = NETWORK.init(jax.random.key(1), jnp.ones((5, 3)))
    back = jb.set_weights(other, jb.get_weights(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params)))


def test_set_weights_names_what_does_not_fit(params):
    weights = jb.get_weights(params)
    with pytest.raises(ValueError, match=r"set_weights: 3 arrays came but params has 4 leaves: 0.weight, 0.bias, 2"):
        jb.set_weights(params, weights[:3])
    weights[1] = np.zeros((1, 4))
    with pytest.raises(ValueError, match=r"set_weights: 0.bias has shape \(4,\) but the array for it \(1, 4\)"):
        jb.set_weights(params, weights)


@pytest.mark.parametrize(
    ("what", "frozen"),
    [
        ("biases", {"0.bias", "2.bias"}),
        ("weights", {"0.weight", "2.weight"}),
        (["0"], {"0.weight", "0.bias"}),
        (["2.bias", "0.weight"], {"2.bias", "0.weight"}),
        (lambda path, leaf: leaf.size > 6, {"0.weight", "2.weight"}),
        ([], set()),
    ],
)
def test_frozen_leaves_stay_bit_identical_and_the_others_move(params, key, what, frozen):
    # −0.0 + 0.0 is 0.0: an added zero would change its bits
    params = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(-0.0), params)
    labels = jb.freeze(params, what)
    assert {name for name, label in jb.named_parameters(labels).items() if label == "freeze"} == frozen
    with jax.numpy_dtype_promotion("standard"):  # Adam's step count
        optimizer = jb.with_frozen(optax.adamw(0.1), labels)
        trained, state = params, optimizer.init(params)
        step = jb.value_and_grad(NETWORK, jb.losses.mean_squared_error)
        for _ in range(3):
            _, grads = step(trained, jax.random.normal(key, (5, 3)), jnp.ones((5, 2)))
            updates, state = optimizer.update(grads, state, trained)
            trained = optax.apply_updates(trained, updates)
    after = jb.named_parameters(trained)
    bits = lambda leaf: np.asarray(leaf).tobytes()
    same = {name for name, leaf in jb.named_parameters(params).items() if bits(leaf) == bits(after[name])}
    assert same == frozen


def test_frozen_leaves_have_no_optimizer_state(params):
    state = jb.with_frozen(optax.adam(0.1), jb.freeze(params, "weights")).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * (4 + 2)  # two moments of the biases


def test_labels_of_a_single_layer_reach_optax_as_they_are(key):
    params = dense.init(key, 3, 2)
    optimizer = jb.with_frozen(optax.sgd(1.0), jb.freeze(params, "biases"))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    assert (updates.weight == -1).all() and (updates.bias == 0).all()


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("bias", r"freeze: leaves must be \"biases\", \"weights\", a list .*, got 'bias'.*\['bias'\]"),
        (["1.weight"], r"freeze: params has no '1.weight'. Its leaves are 0.weight, 0.bias, 2.weight, 2.bias"),
    ],
)
def test_freeze_names_what_is_not_there(params, what, match):
    with pytest.raises(ValueError, match=match):
        jb.freeze(params, what)


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (None, "train train train train"),
        (False, "freeze freeze freeze freeze"),  # the top of any tree
        (("freeze", "train", "train"), "freeze freeze train train"),
        ((Params(weight=False, bias=True), (), Params(np.True_, np.False_)), "freeze train train freeze"),
    ],
)
def test_one_reader_of_what_is_trained(params, trainable, expected):
    labels = read_labels(trainable, params, "fit")
    assert list(jb.named_parameters(labels).values()) == expected.split()
    assert jax.tree.structure(labels) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("trainable", "error", "match"),
    [
        ("bias", TypeError, r'fit: trainable must hold "train" and "freeze", or True and False, got \'bias\''),
        (1, TypeError, "got 1"),
        (
            (True, False),
            ValueError,
            r"fit: trainable must be a tree like params.* at 0, 1; params has .* 2.bias. Make it",
        ),
    ],
)
def test_what_says_nothing_of_what_is_trained(params, trainable, error, match):
    with pytest.raises(error, match=match):
        read_labels(trainable, params, "fit")


def test_an_unknown_label_is_no_silent_training(params):
    labels = jax.tree.map(lambda leaf: "frozen", params)
    with pytest.raises(TypeError, match="with_frozen: trainable must hold"):
        jb.with_frozen(optax.sgd(1.0), labels).init(params)
