"""The language model of the workload "text" is the same function in every library: logits, and the loss's gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from benchmarks.contenders import language
from benchmarks.contenders.trainer import params_from
from benchmarks.workloads import filled, language_model, named

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")
CONTEXT, CLASSES = 5, 7


@pytest.fixture(scope="module")
def model():
    """The network, params whose every leaf is random, and tokens."""
    network = language_model(CONTEXT, heads=2, head_size=3, depth=1, classes=CLASSES)
    x = jnp.asarray(np.random.default_rng(0).integers(CLASSES, size=(3, CONTEXT)), jnp.int32)
    like = jax.eval_shape(network.init, jax.random.key(0), x)
    params = jb.derivation.random_like(jax.random.key(1), like)
    pairs = [(p.weight, p.bias) for p in jax.tree.leaves(params, is_leaf=lambda p: isinstance(p, jb.Params))]
    return network, params, pairs, x


def test_the_arrays_written_are_read_back(model):
    network, params, _, x = model
    arrays = named(params)
    again = filled(jax.eval_shape(network.init, jax.random.key(0), x), arrays)
    weights = lambda tree: [leaf for path, leaf in jax.tree.leaves_with_path(tree) if "weight" in str(path[-1])]
    assert len(weights(params)) == len(params_from(arrays)) == 12
    assert all((a == b).all() for a, b in zip(weights(again), weights(params), strict=True))


def nnx(pairs, x):
    pytest.importorskip("flax")
    return language.nnx_network(pairs)(x)


def equinox(pairs, x):
    pytest.importorskip("equinox")
    return jax.vmap(language.equinox_network(pairs))(x)


def torch(pairs, x):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_worker import language_model as in_torch

    arrays = {f"weight{i}": np.asarray(weight) for i, (weight, _) in enumerate(pairs)}
    arrays |= {f"bias{i}": np.asarray(bias) for i, (_, bias) in enumerate(pairs) if bias is not None}
    return in_torch(arrays)(torch.from_numpy(np.array(x)).long()).detach().numpy()


@pytest.mark.parametrize("library", [language.plain_forward, nnx, equinox, torch])
def test_logits_are_the_same(model, library):
    network, params, pairs, x = model
    expected, _ = network.forward(params, x)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(library(pairs, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_gradients_of_the_plain_form_are_those_by_hand(model):
    network, params, pairs, x = model
    targets = jnp.roll(x, -1, axis=1)
    _, by_hand = jax.jit(jb.value_and_grad(network, jb.losses.cross_entropy))(params, x, targets)

    def loss(pairs):
        log_p = jax.nn.log_softmax(language.plain_forward(pairs, x))
        return -jnp.take_along_axis(log_p, targets[..., None], -1).mean()

    plain = jax.tree.leaves(jax.jit(jax.grad(loss))(pairs))
    scale = max(np.abs(leaf).max() for leaf in plain)
    for actual, expected in zip(jax.tree.leaves(by_hand), plain, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * scale)
