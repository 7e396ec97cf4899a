"""Attention against its plain form, which holds every score; its docstring's sentences, its doors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import verify
from jaxbias.derivation import normal, random_like
from jaxbias.layers import _attention as core
from jaxbias.layers import _distance, _query_norm, attention
from jaxbias.params import Params

Inputs = attention.Inputs


# --- the plain form ---------------------------------------------------------------------------------------------------


def turned(z, positions, pairing, base, size=None):
    """(9.2.2) by complex numbers: each pair of the first `size` features times e^(i t θ)."""
    if size:
        return jnp.concatenate([turned(z[..., :size], positions, pairing, base), z[..., size:]], axis=-1)
    d = z.shape[-1]
    a, b = (z[..., : d // 2], z[..., d // 2 :]) if pairing == "half" else (z[..., ::2], z[..., 1::2])
    angle = positions[:, None] * base ** (-2 * np.arange(d // 2) / d)
    pair = jax.lax.complex(a, b) * np.exp(1j * angle)[None, None]
    if pairing == "half":
        return jnp.concatenate([pair.real, pair.imag], axis=-1)
    return jnp.stack([pair.real, pair.imag], axis=-1).reshape(z.shape)


def t5_bucket(r, buckets, max_distance, two_sided):
    """Note (1) of 9.1 for one distance, by counting."""
    half = buckets // 2 if two_sided else buckets
    first = half if two_sided and r > 0 else 0
    far, exact = (abs(r) if two_sided else max(-r, 0)), half // 2
    if far < exact:
        return first + far
    shared = half - exact
    edges = [exact * (max_distance / exact) ** (i / shared) for i in range(1, shared)]
    return first + exact + sum(far >= edge - 1e-9 for edge in edges)


def plain(
    p, given, *, causal=False, window=None, softcap=None, rotary=None, rotary_size=None, alibi=False, max_distance=128,
    keep=None,
):  # fmt: skip
    """(z, nothing) with every score held; a mask `keep` (n, H, T, S or S + 1) and its probability, for dropout."""
    x, y = given.x, given.x if given.y is None else given.y
    with_bias = lambda z, bias, axes: z if bias is None else z + bias.reshape(axes)
    q, k, v = (
        with_bias(jnp.einsum("nte,ehd->nhtd", z, w.weight), w.bias, (1, *w.weight.shape[1:2], 1, -1))
        for z, w in ((x, p.query), (y, p.key), (y, p.value))
    )
    (n, heads, t, d), (groups, s) = q.shape, k.shape[1:3]
    scale = 1 / np.sqrt(d)
    if p.query_norm is not None:
        rms = lambda z, norm: z / jnp.sqrt((z**2).mean(-1, keepdims=True) + 1e-6) * norm.weight.reshape(1, 1, 1, -1)
        q, k = rms(q, p.query_norm), rms(k, p.key_norm)
    if p.temperature is not None:
        unit = lambda z: z / jnp.sqrt((z**2).sum(-1, keepdims=True))
        q, k, scale = unit(q) * jnp.exp(p.temperature).reshape(1, -1, 1, 1), unit(k), 1.0
    position = np.arange(t) + s - t
    if rotary:
        q, k = (turned(z, at, rotary, 10_000.0, rotary_size) for z, at in ((q, position), (k, np.arange(s))))
    k, v = (jnp.repeat(z, heads // groups, axis=1) for z in (k, v))
    r = np.arange(s)[None] - position[:, None]
    bias = jnp.zeros((n, heads, t, s))
    if given.bias is not None:
        bias += jnp.broadcast_to(given.bias, bias.shape)
    slopes = -jnp.asarray(_distance.alibi_slopes(heads)) if alibi else None if p.slopes is None else -p.slopes
    if slopes is not None:
        bias += slopes.reshape(1, -1, 1, 1) * (1.0 * np.abs(r))[None, None]
    if p.buckets is not None:
        bucket = np.vectorize(lambda r: t5_bucket(r, len(p.buckets), max_distance, not causal))(r)
        bias += jnp.moveaxis(p.buckets[bucket], -1, 0)[None]
    seen = np.full((t, s), True)
    if causal:
        seen &= r <= 0
    if window:
        seen &= np.abs(r) < window
    seen = jnp.asarray(seen)[None, None]
    if given.visible is not None:
        seen = seen & (given.visible[:, None, None] if given.visible.ndim == 2 else given.visible)
    if p.bias_k is not None:
        behind = lambda z, one: jnp.concatenate(
            [z, jnp.broadcast_to(jnp.repeat(one, heads // groups, axis=0)[None, :, None], (n, heads, 1, z.shape[-1]))],
            2,
        )
        k, v = behind(k, p.bias_k), behind(v, p.bias_v)
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, 1)))
        seen = jnp.pad(jnp.broadcast_to(seen, (n, heads, t, s)), ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=True)
    a = scale * jnp.einsum("nhtd,nhsd->nhts", q, k)
    z = (a if softcap is None else softcap * jnp.tanh(a / softcap)) + bias
    weights = jnp.where(seen, jnp.exp(z), 0)
    total = weights.sum(-1, keepdims=True)
    if p.sink is not None:
        total += jnp.exp(p.sink).reshape(1, -1, 1, 1)
    prob = weights / jnp.where(total > 0, total, 1)
    if keep is not None:
        prob = jnp.where(keep[0], prob / keep[1], 0)
    o = jnp.einsum("nhts,nhsd->nhtd", prob, v)
    return with_bias(jnp.einsum("nhtd,hdf->ntf", o, p.out.weight), p.out.bias, (1, 1, -1))


def drawn(key, x, y=None, bias=None, visible=None):
    keys = jax.random.split(key, 3)
    draw = lambda key, shape: None if shape is None else normal(key, shape, jnp.float64)
    return Inputs(draw(keys[0], x), draw(keys[1], y), visible, draw(keys[2], bias))


CROSS = np.array([[True, True, False, True, False], [False] * 5])  # the second row sees nothing
PLAIN = {
    "cross, one key head, empty row, full bias, softcap, sink, interleaved, learned ALiBi, tiles": (
        {"key_heads": 1, "value_size": 3, "fan_out": 3, "sink": True, "position": "learned_alibi", "block": 2},
        {"softcap": 2.0, "rotary": "interleaved"},
        {"x": (2, 3, 3), "y": (2, 5, 2), "bias": (2, 2, 3, 5), "visible": CROSS},
    ),
    "fewer queries than keys, causal, window, rotary, RMS norm, one-sided buckets, appended key, tiles": (
        {"append_key": True, "norm": "rms", "position": "buckets", "buckets": 6, "max_distance": 5, "block": 2},
        {"causal": True, "window": 3, "rotary": "half", "rotary_size": 2},
        {"x": (2, 3, 2), "y": (2, 7, 2), "bias": (3, 7)},
    ),
    "more queries than keys, causal, unit length, ALiBi, mask of each query": (
        {"norm": "unit", "position": "alibi", "use_bias": ("query", "value")},
        {"causal": True},
        {"x": (1, 4, 3), "y": (1, 3, 3), "visible": np.array([[[[1, 1, 0]]], [[[1, 0, 1]]]]).astype(bool)[:1]},
    ),
}


def assert_as_plain(key, layer, given, options, state=None):
    """z and every gradient, by hand and by autodiff of the plain form."""
    params = random_like(key, jax.eval_shape(layer.init, key, given))
    run = layer.forward if state is None else functools.partial(layer.forward, state=state)

    @jax.jit
    def program(params, given, delta):
        z, residuals = run(params, given)
        floats = given._replace(visible=None)
        expected, pull_back = jax.vjp(
            lambda p, g: plain(p, g._replace(visible=given.visible), **options), params, floats
        )
        return (z, layer.backward(residuals, delta)), (expected, pull_back(delta))

    out = jax.eval_shape(lambda: run(params, given)[0])
    actual, expected = program(params, given, random_like(jax.random.fold_in(key, 1), out))
    errors = verify.relative_errors(actual=actual, expected=expected)
    assert errors and all(error < 1e-12 for error in errors.values()), errors
    return actual


@pytest.mark.parametrize("name", PLAIN)
def test_it_is_the_plain_form(key, name):
    made, options, shapes = PLAIN[name]
    extra = {"max_distance": made["max_distance"]} if "max_distance" in made else {}
    layer = attention.layer(2, 4, **made, **options)
    options = options | extra | ({"alibi": True} if made.get("position") == "alibi" else {})
    z, (grads, found) = assert_as_plain(key, layer, drawn(key, **shapes), options)
    if "visible" in shapes and shapes["visible"] is CROSS:  # nothing but the bias leaves a row without a key
        assert not np.any(np.ptp(z[1], axis=0))
        assert not np.any(found.y[1]) and not np.any(found.bias[1]) and not np.any(found.x[1])
        assert np.all(np.isfinite(z))


def test_dropout_is_the_plain_form_under_one_mask(key, monkeypatch):
    """P~ = M P/κ, the same M in both passes, on the appended key too; without M the backward is another."""
    layer = attention.layer(2, 2, dropout=0.4, append_key=True, block=2)
    given = drawn(key, (1, 3, 2))
    mask_key, _ = jax.random.split(key)
    mask = lambda number, rows, keys: core._dropout_mask(
        mask_key, number, (1, 2, 1, rows, keys), core.Plan(1.0, dropout=0.4)
    )
    tiles = jnp.concatenate([jnp.concatenate([mask(2 * i + j, 2, 2) for j in (0, 1)], -1) for i in (0, 1)], -2)
    keep = jnp.concatenate([tiles[:, :, 0, :3, :3], mask(4, 4, 1)[:, :, 0, :3]], -1)
    assert 0 < keep.sum() < keep.size
    assert_as_plain(key, layer, given, {"keep": (keep, 0.6)}, state=key)


BROADCASTS = ((2, 4), (2, 1, 1, 4), (3, 2, 1), (1, 3, 1, 4))


def test_the_gradient_of_a_broadcast_bias_is_the_sum(key):
    """(9.1.12), and the part of B that is constant in j has gradient 0 (9.1.9)."""
    layer = attention.layer(3, 2, use_bias=False)
    x, y = (normal(jax.random.fold_in(key, i), (2, t, 2), jnp.float64) for i, t in ((0, 2), (1, 4)))
    params = random_like(key, jax.eval_shape(layer.init, key, (x, y)))
    biases = [normal(jax.random.fold_in(key, i), shape, jnp.float64) for i, shape in enumerate(BROADCASTS)]

    @jax.jit
    def program(biases):
        def grad(bias):
            _, residuals = layer.forward(params, Inputs(x, y, bias=bias))
            return layer.backward(residuals, x)[1].bias

        of_each = jnp.stack([jnp.broadcast_to(bias, (2, 3, 2, 4)) for bias in biases])
        return [grad(bias) for bias in biases], jax.lax.map(grad, of_each)

    actual, delta_z = jax.device_get(program(biases))
    for found, full, shape in zip(actual, delta_z, BROADCASTS):
        axes = tuple(axis for axis, n in enumerate((1,) * (4 - len(shape)) + shape) if n == 1)
        np.testing.assert_allclose(found, full.sum(axes, keepdims=True).reshape(shape), atol=1e-15)
    assert np.abs(delta_z).max() > 1e-3 and np.abs(actual[2]).max() < 1e-15


# --- by hand ----------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def hand(layer, params, x, delta):
    z, residuals = layer.forward(params, x)
    return z, layer.backward(residuals, delta)


def one_number(weight, bias=None):
    return Params(jnp.full((1, 1, 1), weight), None if bias is None else jnp.full((1, 1), bias))


def test_by_hand():
    """One head of size 1, x = 2, 4, Wq = 0: both keys have P = 1/2, z = 3; δ = 1, 0 and D = 3 give δZ = ∓1/2."""
    params = attention.AttentionParams(
        one_number(0.0, 0.0), one_number(1.0), one_number(1.0, 0.0), Params(jnp.ones((1, 1, 1)), jnp.zeros(1))
    )
    z, (grads, delta_x) = hand(attention, params, jnp.array([[[2.0], [4.0]]]), jnp.array([[[1.0], [0.0]]]))
    assert z.ravel().tolist() == [3.0, 3.0]
    leaves = {"query.weight": 2.0, "query.bias": 1.0, "key.weight": 0.0, "value.weight": 3.0, "value.bias": 1.0}
    named = jb.named_parameters(grads)
    assert {name: named[name].item() for name in leaves} == leaves
    assert (grads.out.weight.item(), grads.out.bias.item()) == (3.0, 1.0)
    assert delta_x.ravel().tolist() == [0.5, 0.5]


def test_the_cap_is_c_tanh_of_a_over_c():
    """✗ a tanh(a/c): scores 2 and 0 under a cap of 1 are tanh 2 and 0, and P = σ(tanh 2)."""
    params = attention.AttentionParams(
        one_number(1.0), one_number(1.0), one_number(1.0), Params(jnp.ones((1, 1, 1)), None)
    )
    z, _ = attention.forward(params, (jnp.array([[[2.0]]]), jnp.array([[[1.0], [0.0]]])), softcap=1.0)
    np.testing.assert_allclose(z.item(), 1 / (1 + np.exp(-np.tanh(2))), rtol=1e-15)


def test_slopes_and_buckets():
    assert _distance.alibi_slopes(4).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    np.testing.assert_allclose(_distance.alibi_slopes(3), [2**-4, 2**-8, 2**-2])
    r = np.arange(-40, 41)
    for two_sided in (True, False):
        expected = [t5_bucket(each, 16, 32, two_sided) for each in r]
        assert _distance.bucket_of(r, 16, 32, two_sided).tolist() == expected
    assert _distance.bucket_of(np.array([0, -1, 1, -99, 99]), 32, 128, True).tolist() == [0, 1, 17, 15, 31]


def test_rotation_makes_scores_a_function_of_the_distance_and_is_undone_by_its_transpose(key):
    z = normal(key, (1, 1, 1, 6), jnp.float64)
    every = jnp.broadcast_to(z, (1, 1, 5, 6))
    for pairing in ("half", "interleaved"):
        turned = _query_norm.rotated(every, 3, pairing, 100.0, None)
        scores = np.asarray((turned @ jnp.swapaxes(turned, -1, -2))[0, 0])
        np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-14)
        np.testing.assert_allclose(_query_norm.rotated(turned, 3, pairing, 100.0, None, back=True), every, atol=1e-15)


# --- tiles ------------------------------------------------------------------------------------------------------------


def operands(t, s):
    return core.Operands(
        *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 1, 1, t, 2), *[(1, 1, s, 2)] * 2))
    )


@pytest.mark.parametrize(
    ("t", "s", "plan", "tiles"),
    [
        (8, 8, core.Plan(1.0, block=2), 16),
        (8, 8, core.Plan(1.0, causal=True, block=2), 10),
        (8, 8, core.Plan(1.0, causal=True, window=2, block=2), 7),
        (8, 8, core.Plan(1.0, window=1, block=2), 4),
        (2, 8, core.Plan(1.0, causal=True, block=2), 4),
        (8, 2, core.Plan(1.0, causal=True, block=2), 1),
        (7, 0, core.Plan(1.0, block=2), 0),
    ],
)
def test_a_tile_without_a_visible_score_is_not_visited(t, s, plan, tiles):
    assert core._Grid(operands(t, s), plan).count == tiles


def hand_and_plain(x):
    layer = attention.layer(4, 64, causal=True, use_bias=False)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def by_hand(params, x, delta):
        z, residuals = layer.forward(params, x)
        return z, layer.backward(residuals, delta)

    def by_autodiff(params, x, delta):
        z, pull_back = jax.vjp(lambda params, x: plain_causal(params, x), params, x)
        return z, pull_back(delta)

    return [jax.jit(f).lower(params, x, x).compile().memory_analysis() for f in (by_hand, by_autodiff)]


def plain_causal(p, x):
    q, k, v = (jnp.einsum("nte,ehd->nhtd", x, w.weight) for w in (p.query, p.key, p.value))
    scores = jnp.einsum("nhtd,nhsd->nhts", q, k) / 8
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    o = jnp.einsum("nhts,nhsd->nhtd", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)), v)
    return jnp.einsum("nhtd,hdf->ntf", o, p.out.weight)


def test_scratch_of_forward_and_backward_is_a_fifteenth_of_autodiffs_by_the_compilers_figures():
    """T = 4,096, four heads of 64, causal; compiled, not run."""
    by_hand, by_autodiff = hand_and_plain(jax.ShapeDtypeStruct((1, 4096, 256), jnp.float32))
    assert by_autodiff.temp_size_in_bytes > 700 * 2**20
    assert by_hand.temp_size_in_bytes <= by_autodiff.temp_size_in_bytes / 15


# --- which biases matter (9.14) ---------------------------------------------------------------------------------------


def found_redundant(layer, x, key):
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    found = jb.surgery.redundant_biases(lambda params, x: layer.forward(params, x)[0], params, x)
    return {each.paths: each for each in found}, params


def test_a_plain_key_bias_is_null_and_a_value_bias_folds(key):
    """(9.2.8) and (9.2.11): found by `redundant_biases`, whole and as duplicates; exact in the gradients."""
    x = normal(key, (2, 3, 2), jnp.float64)
    layer = attention.layer(2, 2, key_heads=1)
    found, params = found_redundant(layer, x, key)
    assert found[("key.bias",)].whole
    assert found[("value.bias", "out.bias")].directions.shape == (2, 4)
    _, (grads, _) = hand(layer, params, x, x)
    assert np.abs(grads.key.bias).max() < 1e-14 * np.abs(grads.query.bias).max()
    through = jnp.einsum("hef,f->e", params.out.weight, grads.out.bias)
    np.testing.assert_allclose(grads.value.bias[0], through, rtol=1e-13)


def test_rotation_makes_the_key_bias_matter_and_a_sink_the_value_bias_too(key):
    x = normal(key, (2, 3, 2), jnp.float64)
    found, _ = found_redundant(attention.layer(1, 2, rotary="half"), x, key)
    assert set(found) == {("value.bias", "out.bias")}
    found, _ = found_redundant(attention.layer(1, 2, sink=True), x, key)
    assert not found


def test_sums_that_must_be_zero(key):
    """A T5 table's gradient sums to 0 over its buckets; with a sink, what is common to B and s moves nothing."""
    x = normal(key, (2, 3, 2), jnp.float64)
    for sink in (False, True):
        layer = attention.layer(2, 2, position="buckets", buckets=4, sink=sink, use_bias=False)
        params = random_like(key, jax.eval_shape(layer.init, key, x))
        _, (grads, _) = hand(layer, params, x, x)
        total = grads.buckets.sum(0)
        assert np.abs(grads.buckets).max() > 1e-3
        np.testing.assert_allclose(total, -grads.sink if sink else 0 * total, atol=1e-14)


def test_an_appended_key_feels_the_key_bias_with_the_opposite_sign(key):
    """(9.2.10): ∂L/∂β_k = −∂L/∂bk."""
    x = normal(key, (2, 3, 2), jnp.float64)
    layer = attention.layer(2, 2, append_key=True)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    _, (grads, _) = hand(layer, params, x, x)
    np.testing.assert_allclose(grads.bias_k, -grads.key.bias, rtol=1e-12)


def test_in_bfloat16_rows_of_delta_z_sum_to_zero_as_in_float32(key):
    """D in float32 (9.1.8): with D in bfloat16 the rows miss by 3e-2 of the largest entry."""
    layer = attention.layer(2, 16)
    x = normal(key, (1, 64, 32), jnp.bfloat16)
    params = random_like(key, jax.eval_shape(layer.init, key, x))
    bias = jnp.zeros((2, 64, 64), jnp.float32)

    @jax.jit
    def delta_z(params, x):
        _, residuals = layer.forward(params, Inputs(x, bias=bias))
        return layer.backward(residuals, x)[1].bias

    found = np.asarray(delta_z(params, x))
    assert np.abs(found.sum(-1)).max() < 1e-5 * np.abs(found).max()


# --- doors, and a network ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(key):
    x = jnp.ones((2, 3, 4))
    layer = attention.layer(2, 3)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(layer.init, key, x))
    forward = lambda x, **options: jax.eval_shape(lambda: attention.forward(params, x, **options)[0])
    wrong = {
        r"attention.forward: x must be \(\*batch, time, features\), got shape \(3, 4\).*x\[None\]": lambda: forward(
            x[0]
        ),
        r"attention.forward: x has 5 features but the query weight has fan_in=4": lambda: forward(jnp.ones((2, 3, 5))),
        r"attention.forward \(y\): x has 5 features": lambda: forward((x, jnp.ones((2, 3, 5)))),
        r"x must be an array, a pair \(x, y\) or attention.Inputs, got a tuple of 3": lambda: forward((x, x, x)),
        r"x and y must have the same leading axes": lambda: forward((x, x[:1])),
        r"visible with two axes is \(n, S\) = \(2, 3\), got shape \(3, 3\)": lambda: forward(
            Inputs(x, visible=np.ones((3, 3), bool))
        ),
        r"bias has shape \(4, 3\), which does not broadcast to .* = \(2, 2, 3, 3\)": lambda: forward(
            Inputs(x, bias=jnp.ones((4, 3)))
        ),
        r"2 query heads cannot share 3 key heads evenly": lambda: attention.layer(2, 3, key_heads=3),
        r"attention.layer: heads must be a whole number of at least 1, got the int 0": lambda: attention.layer(0, 3),
        r"norm must be None or one of rms, unit, got the str 'layer'": lambda: attention.layer(2, 3, norm="layer"),
        r"position must be None or one of alibi": lambda: attention.layer(2, 3, position="sin"),
        r"rotary must be None or one of half, interleaved": lambda: attention.layer(2, 3, rotary="full"),
        r"rotary positions turn pairs of features, but head_size is 3": lambda: forward(x, rotary="half"),
        r"rotary_size=4 is more than the 3 features of a head": lambda: forward(x, rotary="half", rotary_size=4),
        r"turn pairs of features, but rotary_size is 3": lambda: attention.layer(2, 4, rotary="half", rotary_size=3),
        r"rotary_size=2 needs a pairing": lambda: attention.layer(2, 4, rotary_size=2),
        r"use_bias must be True, False, or some of query, key, value, out": lambda: attention.layer(
            2, 3, use_bias="out"
        ),
        r"softcap must be positive, got 0": lambda: attention.layer(2, 3, softcap=0),
        r"dropout is the probability .*; got 1.5": lambda: attention.layer(2, 3, dropout=1.5),
        r"with dropout the state is a random key, and it is missing": lambda: forward(x, dropout=0.5),
        r"bias_k and bias_v are the key and the value": lambda: attention.forward(
            params._replace(bias_k=jnp.ones((2, 3))), x
        ),
        r"the value weight must have shape \(4, 2, 3\)": lambda: attention.forward(
            params._replace(value=Params(jnp.ones((4, 1, 3)), None)), x
        ),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"visible must be an array of bools, True where a query may look, got a float"):
        forward(Inputs(x, visible=jnp.ones((2, 3))))
    with pytest.raises(TypeError, match=r"attention.forward: params must be AttentionParams\(query, .* got Params"):
        attention.forward(Params(x, None), x)


def test_inference_drops_nothing_and_a_step_gives_another_key(key):
    x = normal(key, (2, 3, 4), jnp.float32)
    layer = attention.layer(2, 3, dropout=0.5)
    params = jax.eval_shape(layer.init, key, x)
    assert jb.inference(layer).state is None and layer.state is not None
    assert jax.eval_shape(jb.inference(layer).forward, params, x)[0].shape == (2, 3, 4)
    assert not (jax.random.key_data(layer.state.step(key, None)) == jax.random.key_data(key)).all()


def test_a_transformer_block_learns_to_copy_the_step_before(key):
    """Pre-norm attention and units, each behind a skip connection: only attention can see the step before."""
    block = jb.chain(
        jb.residual(jb.chain(jb.layers.rms_norm.layer(), attention.layer(2, 4, causal=True, rotary="half"))),
        jb.residual(
            jb.chain(jb.layers.rms_norm.layer(), jb.layers.dense.layer(16), jb.layers.gelu, jb.layers.dense.layer(8))
        ),
    )
    network = jb.chain(jb.layers.dense.layer(8), block, jb.layers.dense.layer(4))
    labels = np.random.default_rng(0).integers(4, size=(16, 6))
    x = jnp.asarray(np.eye(4, dtype=np.float32)[labels])
    targets = jnp.asarray(np.eye(4, dtype=np.float32)[np.pad(labels, ((0, 0), (1, 0)))[:, :-1]])
    value_and_grad = jb.value_and_grad(network, jb.losses.half_squared_error)

    @jax.jit
    def train(params):
        def step(params, _):
            loss, grads = value_and_grad(params, x, targets)
            return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), loss

        return jax.lax.scan(step, params, None, length=150)

    params, losses = train(network.init(key, x))
    assert losses[-1] < 0.3 * losses[0]
