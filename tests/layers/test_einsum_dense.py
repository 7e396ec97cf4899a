"""Dense over any axes: numbers worked by hand, the dense layer as a case, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import Params
from jaxbias.layers import dense, einsum_dense
from tests.planted import assert_caught

HEADS, BATCHED, _ = einsum_dense.DERIVATIONS[0].examples


def test_by_hand():
    """One row per a, each with its own weight: z[a] = Σ_d x[a,d] W[a,d] + b[a]."""
    keywords = {"equation": "nad,ad->na"}
    params = Params(jnp.array([[1.0, 2], [3, 4]]), jnp.array([10.0, 20]))
    out, residuals = einsum_dense.forward(params, jnp.array([[[5.0, 6], [7, 8]]]), **keywords)
    grads, delta_x = einsum_dense.backward(residuals, jnp.array([[1.0, 10]]), **keywords)
    assert out.tolist() == [[27, 73]]
    assert grads.weight.tolist() == [[5, 6], [70, 80]] and grads.bias.tolist() == [1, 10]
    assert delta_x.tolist() == [[[1, 2], [30, 40]]]


def test_a_matrix_is_the_dense_layer():
    x, delta = np.random.default_rng(1).standard_normal((2, 2, 5, 3))
    params = Params(np.arange(9.0).reshape(3, 3) - 4, np.array([1.0, -2, 3]))
    layer = einsum_dense.layer("...i,ij->...j", {"j": 3})

    @jax.jit
    def both(params, x, delta):
        runs = []
        for each in (layer, dense.layer(3)):
            out, residuals = each.forward(params, x)
            runs.append((out, each.backward(residuals, delta)))
        return runs

    for actual, expected in zip(*map(jax.tree.leaves, both(params, x, delta)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13)


def test_the_weight_is_drawn_by_the_contracted_axes():
    """LeCun normal: variance 1/(b d) = 1/32 although b and d are not the first axes."""
    params = einsum_dense.layer("nabd,aodb->noa", {"o": 64}).init(jax.random.key(0), jnp.ones((1, 4, 8, 4)))
    assert params.weight.shape == (4, 64, 4, 8) and params.bias.shape == (64, 4)
    np.testing.assert_allclose(params.weight.std(), 32**-0.5, rtol=0.05)


def faulty(**changes):
    def wrong(residuals, delta):
        grads, delta_x = BATCHED.layer.backward(residuals, delta)
        right = {"weight": grads.weight, "bias": grads.bias, "x": delta_x}
        right |= {name: change(right[name], residuals, delta) for name, change in changes.items()}
        return Params(right["weight"], right["bias"]), right["x"]

    return wrong


FAULTS = {
    "bias of one unit": (faulty(bias=lambda b, r, d: d[:, 0].sum(0)), {"0.bias"}),
    "bias averaged over rows": (faulty(bias=lambda b, r, d: b / len(d)), {"0.bias"}),
    "batched axis summed": (
        faulty(weight=lambda w, r, d: jnp.broadcast_to(w.sum(0, keepdims=True), w.shape)),
        {"0.weight"},
    ),
    "batched axis reversed": (faulty(x=lambda x, r, d: x[:, ::-1]), {"1"}),
    "contracted axes exchanged": (
        faulty(x=lambda x, r, d: x.swapaxes(2, 3).reshape(x.shape)),
        {"1"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(BATCHED, key, *FAULTS[name])


BAD_EQUATIONS = [
    ("nd,dk", "equation must be like"),
    ("...d,dk->nk", "equation must be like"),
    ("ndd,dk->nk", "a letter stands twice in one array of 'ndd,dk->nk'"),
    ("nda,dk->nk", "a in 'nda,dk->nk' belongs to one array alone"),
    ("nd,dk->nkm", "m in 'nd,dk->nkm' belongs to one array alone"),
]


@pytest.mark.parametrize(("equation", "words"), BAD_EQUATIONS)
def test_a_bad_equation_is_named(equation, words):
    with pytest.raises(ValueError, match=f"einsum_dense.layer: {words}"):
        einsum_dense.layer(equation, {"k": 2})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    layer = einsum_dense.layer("nd,dk->nk", {"k": 2})
    weight = jnp.ones((3, 2))
    with pytest.raises(ValueError, match=r"axis d of 'nd,dk->nk' has 4 entries in x of shape \(5, 4\) and 3 in weight"):
        layer.forward(Params(weight, None), jnp.ones((5, 4)))
    with pytest.raises(ValueError, match=r"'nd,dk->nk' does not fit x of shape \(2, 5, 3\)"):
        layer.forward(Params(weight, None), jnp.ones((2, 5, 3)))
    with pytest.raises(ValueError, match=r"bias has shape \(1,\), but the axes 'k' of z want a bias of shape \(2,\)"):
        layer.forward(Params(weight, jnp.ones(1)), jnp.ones((5, 3)))
    with pytest.raises(TypeError, match=r"einsum_dense\.forward: params must be jb\.Params"):
        layer.forward((weight, None), jnp.ones((5, 3)))
    with pytest.raises(TypeError, match=r"einsum_dense\.forward: x must be a floating-point array, got int"):
        layer.forward(Params(weight, None), jnp.ones((5, 3), int))
    with pytest.raises(ValueError, match=r"sizes must have the axes of 'nd,dk->nk' that x has not, k, got d, k"):
        einsum_dense.layer("nd,dk->nk", {"k": 2, "d": 3})
    with pytest.raises(ValueError, match=r"bias_axes must be letters of z in their order, out of 'nk', got 'kn'"):
        einsum_dense.layer("nd,dk->nk", {"k": 2}, bias_axes="kn")
    with pytest.raises(ValueError, match=r"einsum_dense\.init: 'nd,dk->nk' does not fit x of shape \(3,\)"):
        layer.init(jax.random.key(0), jnp.ones(3))
    with pytest.raises(ValueError, match=r"einsum_dense\.backward: delta has shape \(3, 2\)"):
        jax.eval_shape(lambda w, x: layer.backward(layer.forward(Params(w, None), x)[1], w), weight, jnp.ones((5, 3)))
