import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.foreign import surgery
from tests.models import build


def normal(key, **shapes):
    return {n: jax.random.normal(jax.random.fold_in(key, i), s) for i, (n, s) in enumerate(shapes.items())}


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 5, 3)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_fold_batch_norm(key, shape, with_bias):
    p = normal(key, w=shape, b=(3,), scale=(3,), shift=(3,), mean=(3,))
    variance = jnp.array([0.3, 1.7, 2.0])
    bias = p["b"] if with_bias else None
    (w, b), change = surgery.fold_batch_norm(p["w"], bias, p["scale"], p["shift"], p["mean"], variance, epsilon=1e-3)
    assert change < 1e-13 and w.shape == shape

    def affine(x, w, b):
        if len(shape) == 2:
            return x @ w + b[None]
        out = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return out + b[None, None, None]

    x = jax.random.normal(key, (6, 4) if len(shape) == 2 else (2, 3, 3, 5))
    z = affine(x, p["w"], p["b"] if with_bias else jnp.zeros(3))
    vectors = [v.reshape(*(1,) * (z.ndim - 1), 3) for v in (p["mean"], variance, p["scale"], p["shift"])]
    normed = (z - vectors[0]) / jnp.sqrt(vectors[1] + 1e-3) * vectors[2] + vectors[3]
    assert np.allclose(affine(x, w, b), normed, rtol=1e-12, atol=1e-12)


def test_fold_batch_norm_wants_vectors_of_the_output():
    one = jnp.ones(3)
    with pytest.raises(ValueError, match=r"fold_batch_norm: mean has shape \(4,\), but weight \(2, 3\) wants \(3,\)"):
        surgery.fold_batch_norm(jnp.ones((2, 3)), None, one, one, jnp.ones(4), one, epsilon=1e-5)


def test_fold_batch_norm_of_a_square_weight(key):
    """Which axis holds the outputs is read from the layer, and the change measured on it."""
    p, x = normal(key, w=(4, 4), b=(4,), scale=(4,), shift=(4,), mean=(4,), kernel=(4, 4, 2)), jnp.eye(5, 4) + 0.5
    vectors, variance = (p["scale"], p["shift"], p["mean"]), jnp.array([0.3, 1.7, 2.0, 0.6])
    options = {"epsilon": 1e-3, "x": x}
    with pytest.raises(ValueError, match=r"axes \[0, 1\] of weight \(4, 4\) are as long as scale \(4,\)"):
        surgery.fold_batch_norm(p["w"], p["b"], *vectors, variance, **options)
    gain = p["scale"] / jnp.sqrt(variance + 1e-3)
    for layer, shape in ((lambda w, b, x: x @ w + b[None], (1, 4)), (lambda w, b, x: x @ w.T + b[None], (4, 1))):
        (w, b), change = surgery.fold_batch_norm(p["w"], p["b"], *vectors, variance, **options, layer=layer)
        assert change < 1e-13
        np.testing.assert_allclose(w, p["w"] * gain.reshape(shape), rtol=1e-13)
        normed = (layer(p["w"], p["b"], x) - p["mean"][None]) * gain[None] + p["shift"][None]
        np.testing.assert_allclose(layer(w, b, x), normed, rtol=1e-12, atol=1e-12)

    def channels_first(w, b, x):
        out = jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NCH", "OIH", "NCH"))
        return out + b[None, :, None]

    options["x"] = jax.random.normal(key, (2, 4, 4))
    (w, _), change = surgery.fold_batch_norm(p["kernel"], p["b"], *vectors, variance, **options, layer=channels_first)
    assert change < 1e-13 and np.allclose(w, p["kernel"] * gain[:, None, None])
    with pytest.raises(ValueError, match="layer came without x"):
        surgery.fold_batch_norm(p["w"], p["b"], *vectors, variance, epsilon=1e-3, layer=channels_first)
    with pytest.raises(ValueError, match="the weight is in no product"):
        surgery.fold_batch_norm(
            p["w"], p["b"], *vectors, variance, **options, layer=lambda w, b, x: x + b[None, :, None]
        )


def attention(p, x):
    q, k, v = (x @ p[n]["w"] + p[n]["b"][None] for n in "qkv")
    return jax.nn.softmax(q @ k.T) @ v @ p["o"]["w"] + p["o"]["b"][None]


def attention_params(key):
    return {n: normal(jax.random.fold_in(key, i), w=(4, 4), b=(4,)) for i, n in enumerate("qkvo")}


def test_fold_value_bias(key):
    p, x = attention_params(key), jax.random.normal(key, (5, 4))
    folded, change = surgery.fold_value_bias(attention, p, x, value_bias="v.b", out_weight="o.w", out_bias="o.b")
    assert change < 1e-12 and not folded["v"]["b"].any() and bool(jnp.any(folded["o"]["b"] != p["o"]["b"]))
    with pytest.raises(ValueError, match=r"want an output weight of 4 × 4 entries, got \(4,\)"):
        surgery.fold_value_bias(attention, p, x, value_bias="v.b", out_weight="q.b", out_bias="o.b")
    with pytest.raises(KeyError, match=r"params have no leaf 'v\.bias'; the leaves are k\.b, k\.w"):
        surgery.fold_value_bias(attention, p, x, value_bias="v.bias", out_weight="o.w", out_bias="o.b")


def test_fold_value_bias_of_flax_attention():
    model = build("linen attention")
    x = model.batch[0].astype(jnp.float64)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.params)
    names = {part: f"MultiHeadDotProductAttention_0.{part}" for part in ("value", "out")}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (_, change) = surgery.fold_value_bias(
            lambda p, x: jax.vmap(lambda x, y: model.loss(p, (x, y)))(x, model.batch[1]),
            params,
            x,
            value_bias=f"{names['value']}.bias",
            out_weight=f"{names['out']}.kernel",
            out_bias=f"{names['out']}.bias",
        )
    assert change < 1e-13


def test_drop_and_add_bias_measure_the_change(key):
    p, x = normal(key, w=(4, 3), b=(3,)), jax.random.normal(key, (5, 4))
    fn = lambda p, x: x @ p["w"] + p["b"][None]
    dropped, change = surgery.drop_bias(fn, p, x, bias="b")
    assert not dropped["b"].any()
    assert change == pytest.approx(float(jnp.abs(p["b"]).max() / jnp.abs(fn(p, x)).max()))
    (w, b), change = surgery.add_bias(p["w"], x)
    assert change == 0 and b.tolist() == [0, 0, 0] and w is p["w"]


def test_homogeneous_coordinates(key):
    p, x = normal(key, w=(4, 3), b=(3,)), jax.random.normal(key, (5, 4))
    together = surgery.to_homogeneous(p["w"], p["b"])
    assert np.allclose(jnp.pad(x, ((0, 0), (0, 1)), constant_values=1.0) @ together, x @ p["w"] + p["b"][None])
    w, b = surgery.from_homogeneous(together)
    assert bool(jnp.all(w == p["w"])) and bool(jnp.all(b == p["b"]))


def test_shift_prior_by_bayes_rule(key):
    p, x = normal(key, w=(4, 3), b=(3,)), jax.random.normal(key, (5, 4))
    fn = lambda p, x: jax.nn.softmax(x @ p["w"] + p["b"][None])
    old, new = jnp.array([5.0, 3.0, 2.0]), jnp.array([0.1, 0.1, 0.8])
    shifted, change = surgery.shift_prior(fn, p, x, bias="b", old=old, new=new)
    posterior = fn(p, x) * (new / old)[None]
    assert np.allclose(fn(shifted, x), posterior / posterior.sum(axis=1, keepdims=True), rtol=1e-12) and change > 0.1
    with pytest.raises(ValueError, match="old must hold positive frequencies"):
        surgery.shift_prior(fn, p, x, bias="b", old=jnp.array([0.0, 1, 1]), new=new)
    with pytest.raises(ValueError, match=r"new has shape \(2,\), but the bias b \(3,\) wants \(3,\)"):
        surgery.shift_prior(fn, p, x, bias="b", old=old, new=new[:2])


def test_correct_bias_takes_the_mean_error_away(key):
    p, x = normal(key, w=(4, 3), b=(3,)), jax.random.normal(key, (50, 4)) + 2
    quantised = jnp.round(p["w"] * 4) / 4
    bias, change = surgery.correct_bias(p["w"], p["b"], quantised, x)
    left = x @ quantised + bias[None] - (x @ p["w"] + p["b"][None])
    plain = x @ (quantised - p["w"])
    assert np.all(np.abs(left.mean(axis=0)) < 1e-13) and bool(jnp.abs(plain.mean(axis=0)).max() > 1e-2)
    assert 0 < change < float(jnp.abs(plain).max())
    with pytest.raises(ValueError, match=r"correct_bias: quantised has shape \(3, 4\), weight \(4, 3\)"):
        surgery.correct_bias(p["w"], p["b"], quantised.T, x)


def found(fn, params, *args):
    return {r.paths: r for r in surgery.redundant_biases(fn, params, *args)}


def ranks(fn, params, *args):
    return {" & ".join(paths): r.rank for paths, r in found(fn, params, *args).items()}


def test_redundant_biases_before_norms_and_softmax(key):
    p, x = normal(key, w=(4, 3), bn=(3,), v=(3, 5), ln=(5,), u=(5, 2), last=(2,)), jax.random.normal(key, (6, 4))

    def fn(p, x):
        z = x @ p["w"] + p["bn"][None]
        z = jnp.tanh((z - z.mean(axis=0, keepdims=True)) / z.std(axis=0, keepdims=True))
        z = z @ p["v"] + p["ln"][None]
        z = jnp.tanh(z - z.mean(axis=1, keepdims=True))
        return jax.nn.softmax(z @ p["u"] + p["last"][None])

    redundant = found(fn, p, x)
    assert {paths: r.rank for paths, r in redundant.items()} == {("bn",): 0, ("ln",): 4, ("last",): 1}
    assert redundant["bn",].whole and not redundant["ln",].whole
    assert np.allclose(np.abs(redundant["ln",].directions), 5**-0.5)  # the common part
    fixed, change = surgery.fix_gauge(fn, p, x)
    assert change < 1e-12 and np.allclose(fixed["bn"], 0) and abs(float(fixed["ln"].sum())) < 1e-12
    assert bool(jnp.any(fixed["ln"] != p["ln"]))


def test_redundant_biases_of_attention(key):
    p, x = attention_params(key), jax.random.normal(key, (5, 4))
    pair = ("v.b", "o.b")
    redundant = found(attention, p, x)
    assert {paths: r.rank for paths, r in redundant.items()} == {("k.b",): 0, pair: 4}
    # each direction moves the output bias by what the value bias adds: (d, -d W_o)
    d, moved = np.split(redundant[pair].directions, [4], axis=1)
    assert np.allclose(moved, -d @ p["o"]["w"], rtol=1e-9, atol=1e-9)
    fixed, change = surgery.fix_gauge(attention, p, x)
    by_name, _ = surgery.fold_value_bias(attention, p, x, value_bias="v.b", out_weight="o.w", out_bias="o.b")
    assert change < 1e-12 and np.allclose(fixed["k"]["b"], 0)
    assert np.allclose(fixed["v"]["b"], 0) and np.allclose(fixed["o"]["b"], by_name["o"]["b"], rtol=1e-9)
    assert bool(jnp.all(fixed["q"]["b"] == p["q"]["b"]))

    def rotary(p, x):
        angle = jnp.arange(5.0)[:, None] * jnp.array([[1.0, 0.1]])
        turn = lambda z: jnp.concatenate(
            [
                z[:, :2] * jnp.cos(angle) - z[:, 2:] * jnp.sin(angle),
                z[:, :2] * jnp.sin(angle) + z[:, 2:] * jnp.cos(angle),
            ],
            axis=1,
        )
        q, k, v = (x @ p[n]["w"] + p[n]["b"][None] for n in "qkv")
        return jax.nn.softmax(turn(q) @ turn(k).T) @ v @ p["o"]["w"] + p["o"]["b"][None]

    assert ranks(rotary, p, x) == {"v.b & o.b": 4}  # the key bias matters
    assert surgery.redundant_biases(lambda w, x: x @ w, p["q"]["w"], x) == ()


def test_redundant_biases_of_flax_attention():
    model = build("linen attention")
    fn = lambda p, x: jax.vmap(lambda x, y: model.loss(p, (x, y)))(x, model.batch[1])
    params, x = (jax.tree.map(lambda a: a.astype(jnp.float64), t) for t in (model.params, model.batch[0]))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        redundant = surgery.redundant_biases(fn, params, x)
        fixed, change = surgery.fix_gauge(fn, params, x, redundant=redundant)
    part = lambda name: f"MultiHeadDotProductAttention_0.{name}.bias"
    # 3 outputs behind a softmax: 2 directions of the 6 value biases matter, and the output bias takes up both
    assert {r.paths: (r.rank, len(r.directions)) for r in redundant} == {
        (part("key"),): (0, 6),
        (part("value"),): (2, 4),
        (part("out"),): (2, 1),
        (part("value"), part("out")): (7, 2),
    }
    together = redundant[-1]
    assert str(together) == f"Redundant({' + '.join(together.paths)}: 2 of 9 directions change no output)"
    layer = fixed["MultiHeadDotProductAttention_0"]
    assert change < 1e-13 and np.allclose(layer["value"]["bias"], 0, atol=1e-12)
    assert np.allclose(layer["key"]["bias"], 0, atol=1e-12) and abs(float(layer["out"]["bias"].sum())) < 1e-12


def deep(p, x):
    for w, b in p[:-1]:
        x = jax.nn.relu(x @ w + b[None])
    return x @ p[-1][0] + p[-1][1][None]


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_biases_that_are_needed_are_not_redundant(key, dtype):
    p = [tuple(normal(jax.random.fold_in(key, i), w=(4, 4), b=(4,)).values()) for i in range(3)]
    p[0] = p[0][0], jnp.array([-50.0, 0, 1e-3, 0])  # a unit that is dead on all of the data, and small entries
    p, x = jax.tree.map(lambda a: a.astype(dtype), (p, jax.random.normal(key, (6, 4))))
    assert surgery.redundant_biases(deep, p, x) == ()


def test_a_weight_of_zeros_does_not_make_the_bias_before_it_redundant(key):
    p, x = [tuple(normal(key, w=(4, 4), b=(4,)).values())] * 2, jax.random.normal(key, (6, 4))
    with pytest.warns(UserWarning, match="at these weights more directions are redundant than at weights near them"):
        assert surgery.redundant_biases(deep, [p[0], (jnp.zeros((4, 4)), p[1][1])], x) == ()
    with pytest.raises(ValueError, match="a gradient at random biases is not finite"):
        surgery.redundant_biases(deep, [p[0], (p[1][0] * jnp.nan, p[1][1])], x)
    with pytest.raises(ValueError, match="fn returns no floats"):
        surgery.redundant_biases(lambda p, x: deep(p, x).argmax(axis=1), p, x)


def test_biases_in_a_row_fold_into_the_last(key):
    p, x = normal(key, w=(4, 3), b=(3,), v=(3, 5), c=(5,)), jax.random.normal(key, (6, 4))
    fn = lambda p, x: jnp.tanh((x @ p["w"] + p["b"][None]) @ p["v"] + p["c"][None])
    fixed, change = surgery.fix_gauge(fn, p, x)
    assert change < 1e-13 and np.allclose(fixed["b"], 0, atol=1e-13)
    assert np.allclose(fixed["c"], p["c"] + p["b"] @ p["v"], rtol=1e-12)
