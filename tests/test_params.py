import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import random_like
from jaxbias.layers import bilinear, dense, embedding, relu, tanh
from jaxbias.params import Params, State, map_layers, out_shape, run_forward


def made(network, key, x):
    return random_like(key, network.init(key, x))


@pytest.fixture
def x(key):
    return jax.random.normal(jax.random.fold_in(key, 1), (5, 3), jnp.float64)


NETWORKS = {
    "chain": jb.chain(dense.layer(4), tanh, dense.layer(2)),
    "empty chain": jb.chain(),
    "nested": jb.chain(dense.layer(4), jb.chain(relu, dense.layer(3, use_bias=False))),
    "residual": jb.residual(jb.chain(dense.layer(4), tanh, dense.layer(3))),
    "parallel sum": jb.parallel(dense.layer(4), jb.chain(dense.layer(2), tanh, dense.layer(4))),
    "parallel concatenate": jb.parallel(dense.layer(4), dense.layer(2), combine="concatenate"),
    "all of them": jb.chain(
        jb.parallel(dense.layer(2), jb.residual(dense.layer(3)), combine=jnp.concatenate),
        jb.residual(jb.parallel(dense.layer(5), tanh, combine=sum)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_a_layer_and_its_backward_matches_autodiff(key, x, name):
    network = NETWORKS[name]
    params = made(network, key, x)
    delta = random_like(key, out_shape(network, params, x))
    errors = jb.verify.leaf_errors(network.forward, network.backward, params, x, delta)
    assert all(error < 1e-12 for error in errors.values()), errors


def test_chain_uses_the_weights_of_the_forward_pass(key, x):
    """Equation (8) with weights already updated on the way back gives another gradient (E23)."""
    network = NETWORKS["chain"]
    params = made(network, key, x)
    out, residuals = network.forward(params, x)
    grads, _ = network.backward(residuals, out)
    # in place: the last layer is updated before its delta is handed down
    last, delta_below = dense.backward(residuals[2], out)
    updated = jax.tree.map(lambda p, g: p - 0.1 * g, params[2], last)
    _, stale_residuals = dense.forward(updated, residuals[2].x)
    _, delta_in_place = dense.backward(stale_residuals, out)
    assert not np.allclose(delta_below, delta_in_place, rtol=1e-3)
    _, delta_z = tanh.backward(residuals[1], delta_in_place)
    in_place, _ = dense.backward(residuals[0], delta_z)
    assert not np.allclose(in_place.weight, grads[0].weight, rtol=1e-3)


@pytest.mark.parametrize("combine", ["sum", "concatenate"])
def test_parallel_takes_integer_inputs_and_pairs(key, x, combine):
    """An integer input has no delta_x (None); a pair has a pair of them."""
    ids = jnp.array([0, 2, 2])
    tables = jb.parallel(*[embedding.layer(3, 2, dtype=jnp.float64)] * 2, combine=combine)
    pairs = jb.parallel(*[bilinear.layer(4)] * 2, combine=combine)
    for network, inputs in ((tables, ids), (pairs, (x, x[:, :2]))):
        params = made(network, key, inputs)
        delta = random_like(key, out_shape(network, params, inputs))
        errors = jb.verify.leaf_errors(network.forward, network.backward, params, inputs, delta)
        assert all(error < 1e-12 for error in errors.values()), errors


def test_init_hands_on_shapes_and_dtype(key):
    network = jb.chain(dense.layer(4), tanh, dense.layer(2, use_bias=False))
    params = network.init(key, jax.ShapeDtypeStruct((7, 3), jnp.bfloat16))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), params) == (
        Params(((3, 4), "bfloat16"), ((4,), "bfloat16")),
        (),
        Params(((4, 2), "bfloat16"), None),
    )
    assert len(jax.tree.leaves(params)) == 3


def counting():
    """A layer without params whose state counts the training steps and is added to x; not so at inference."""

    def forward(params, x, state):
        return x + state, ()

    def backward(residuals, delta):
        return (), delta

    def plain(params, x, state):
        return x, ()

    def same(state, residuals):
        return state

    def zero(key, x):
        return jnp.zeros((), x.dtype)

    none = lambda key, x: ()
    asleep = jb.Layer(none, plain, backward, "counting", state=State(zero, same, None))
    return jb.Layer(none, forward, backward, "counting", state=State(zero, lambda s, r: s + 1, asleep))


@pytest.mark.parametrize(
    "around",
    [
        lambda layer: jb.chain(dense.layer(3), layer),
        lambda layer: jb.residual(jb.chain(layer)),
        lambda layer: jb.parallel(dense.layer(3), layer),
        lambda layer: jb.parallel(dense.layer(3), layer, combine="concatenate"),
    ],
    ids=["chain", "residual", "parallel", "concatenate"],
)
def test_state_goes_in_and_comes_out_as_an_argument(key, x, around):
    network = around(counting())
    params, state = made(network, key, x), network.state.init(key, x)
    first, residuals = network.forward(params, x, state)
    state = network.state.step(state, residuals)
    second, residuals = network.forward(params, x, state)
    network.backward(residuals, second)
    assert float(jnp.max(second - first)) == pytest.approx(1.0)
    assert jax.tree.leaves(state) == [1.0]
    resting, residuals = run_forward(jb.inference(network), params, x, state)
    assert np.array_equal(resting, first)
    assert jax.tree.leaves(jb.inference(network).state.step(state, residuals)) == [1.0]


def test_map_layers_visits_leaf_layers_with_their_params_path():
    seen = []
    map_layers(lambda layer, path: seen.append((".".join(path), layer.name)) or layer, NETWORKS["all of them"])
    assert seen == [
        ("0.0", "dense"),
        ("0.1", "dense"),
        ("1.0", "dense"),
        ("1.1", "tanh"),
    ]


def test_errors_name_what_came_and_what_was_wanted(key, x):
    network = NETWORKS["chain"]
    params = made(network, key, x)
    with pytest.raises(ValueError, match="tuple with one entry for each of the 3 layers, got a tuple of 2"):
        network.forward(params[:2], x)
    with pytest.raises(ValueError, match=r"got Params\(weight, bias\)\..* network\.init"):
        jb.chain(dense.layer(2)).forward(params[0], x)
    with pytest.raises(ValueError, match=r"keep the shape, got out \(5, 4\) for x \(5, 3\)"):
        jb.residual(dense.layer(4)).forward(params[0], x)
    wrong = jb.parallel(dense.layer(4), dense.layer(2))
    with pytest.raises(ValueError, match=r'"sum" cannot join outputs of shapes \(5, 4\), \(5, 2\)'):
        wrong.forward(wrong.init(key, x), x)
    with pytest.raises(ValueError, match="combine must be"):
        jb.parallel(dense.layer(4), combine="product")
    with pytest.raises(ValueError, match="at least one layer"):
        jb.parallel()
    with pytest.raises(ValueError, match=r"keeps a state .* jb\.inference"):
        run_forward(counting(), (), x)
