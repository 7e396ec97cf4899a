"""Sums of clipped gradients against `vmap(grad)`, and the figures for memory and operations."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb
from jaxbias.foreign.traced import split_params
from tests.foreign.capture.test_capture import cast, foreign, norms_of, reference
from tests.models import build

clipped_grad = functools.partial(jb.clipped_grad, keep_batch_dim=False)
"""For losses of one example, which is what most of these are."""


def expected_sum(gradients, clip, counts=None):
    """(clipped sum of each leaf, norms) in NumPy."""
    total = np.sqrt(sum(np.square(n) for n in norms_of(gradients)))
    factors = np.minimum(1, clip / np.where(total > 0, total, 1))
    factors = factors if counts is None else factors * counts
    return [np.tensordot(factors, np.asarray(g), axes=1) for g in gradients], total


def assert_close(found, expected, tolerance=1e-12):
    for ours, theirs in zip(jax.tree.leaves(found), expected, strict=True):
        assert np.all(np.abs(np.asarray(ours) - theirs) <= tolerance * max(np.abs(theirs).max(initial=0), 1e-3))


WAYS = {
    "plain": "book-keeping",
    "torch layout": "book-keeping",
    "linen tied transformer": "book-keeping",
    "linen conv, GroupNorm, ConvLocal": "book-keeping",
    "RNN in scan": "two-pass",
    "linen scan over layers, remat": "two-pass",
}


LONG = ("linen tied transformer", "linen conv, GroupNorm, ConvLocal")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in WAYS])
def test_clipped_sum_of_several_libraries(name):
    model = build(name)
    params, batch = cast(model.params, jnp.float64), cast(model.batch, jnp.float64)
    split = split_params(params)

    def run(leaves, batch):
        params = split.rebuild(leaves)
        options = {"l2_clip_norm": clip, "return_grad_norms": True, "how": WAYS[name]}
        return clipped_grad(model.loss, **options)(params, batch), reference(model.loss, params, batch)

    clip = 0.8
    with foreign()[0], foreign()[1]:
        (found, aux), gradients = jax.jit(run)(split.leaves, batch)
    expected, norms = expected_sum(gradients, clip)
    assert norms.min() < clip < norms.max() or norms.min() > clip  # the bound is felt
    assert_close(found, expected)
    assert np.allclose(aux.grad_norms, norms, rtol=1e-12)


def problem(key, n=6):
    p = {"w": jax.random.normal(key, (4, 3)), "b": jnp.linspace(0.5, 1, 3)}
    x = 2 * jax.random.normal(jax.random.fold_in(key, 1), (n, 4))
    return p, x


def loss(p, x):
    return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2)


def remat_loss(p, x):
    return jax.checkpoint(loss)(p, x)


def gradients_of(p, x):
    return jax.tree.leaves(jax.vmap(jax.grad(loss), in_axes=(None, 0))(p, x))


@pytest.mark.parametrize("f", [loss, remat_loss])
def test_every_option_at_once(key, f):
    p, x = problem(key)
    with_aux = lambda p, x: (f(p, x), x[0])
    padding = jnp.array([False, True, False, False, False, False])
    g = clipped_grad(
        with_aux,
        has_aux=True,
        l2_clip_norm=0.7,
        rescale_to_unit_norm=True,
        normalize_by=3.0,
        microbatch_size=2,
        return_values=True,
        return_grad_norms=True,
        dtype=jnp.float32,
    )
    found, aux = jax.jit(g)(p, x, is_padding_example=padding)
    expected, norms = expected_sum(gradients_of(p, x), 0.7, counts=~np.asarray(padding))
    assert_close(found, [e / 0.7 / 3 for e in expected], 1e-6)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    assert np.allclose(aux.grad_norms, norms) and np.allclose(aux.values, jax.vmap(loss, (None, 0))(p, x))
    assert aux.aux.tolist() == x[:, 0].tolist()
    assert g.l2_norm_bound == pytest.approx(1 / 3) and g.sensitivity("REPLACE_ONE") == pytest.approx(2 / 3)


@pytest.mark.parametrize("f", [loss, remat_loss])
def test_an_example_that_is_not_finite_adds_nothing(key, f):
    p, x = problem(key)
    good = jnp.array([True, True, False, True, False, True])
    bad = x.at[2, 1].set(jnp.nan).at[4, 0].set(jnp.inf)
    f_inf = lambda p, x: f(p, x) + 0 * jnp.sum(x) * jnp.sum(p["w"])  # 0 · ∞ is NaN
    found = jax.jit(clipped_grad(f_inf, l2_clip_norm=0.7))(p, bad)
    expected, _ = expected_sum(gradients_of(p, x), 0.7, counts=np.asarray(good))
    assert_close(found, expected)
    everything_bad = jax.jit(clipped_grad(f_inf, l2_clip_norm=0.7))(p, jnp.full_like(x, jnp.nan))
    assert not any(leaf.any() for leaf in jax.tree.leaves(everything_bad))
    unsafe = clipped_grad(f_inf, l2_clip_norm=0.7, nan_safe=False)(p, bad)
    assert bool(jnp.isnan(unsafe["b"]).any())


# Parameters of jax_privacy.clipped_grad and their defaults: jax-privacy 2.0.0, jax_privacy/clipping.py.
EMPTY = inspect.Parameter.empty
JAX_PRIVACY = {
    "fun": EMPTY,
    "argnums": 0,
    "has_aux": False,
    "l2_clip_norm": EMPTY,  # this one and all below by keyword only
    "rescale_to_unit_norm": False,
    "normalize_by": 1.0,
    "batch_argnums": 1,
    "keep_batch_dim": True,
    "return_values": False,
    "return_grad_norms": False,
    "pre_clipping_transform": lambda x: x,
    "microbatch_size": None,
    "nan_safe": True,
    "dtype": None,
    "prng_argnum": None,
    "spmd_axis_name": None,
}


def test_signature_is_that_of_jax_privacy():
    ours = inspect.signature(jb.clipped_grad).parameters
    assert list(ours) == [*JAX_PRIVACY, "how", "memory_limit"]
    by_keyword = list(JAX_PRIVACY).index("l2_clip_norm")
    assert [p.kind for p in ours.values()] == [
        inspect.Parameter.POSITIONAL_OR_KEYWORD if i < by_keyword else inspect.Parameter.KEYWORD_ONLY
        for i in range(len(ours))
    ]
    defaults = {name: ours[name].default for name in JAX_PRIVACY}
    assert defaults.pop("pre_clipping_transform")(EMPTY) is EMPTY  # both leave the gradient as it is
    assert defaults == {k: v for k, v in JAX_PRIVACY.items() if k != "pre_clipping_transform"}


def test_by_default_the_loss_is_that_of_a_batch_of_one(key):
    p, x = problem(key)
    batch_loss = lambda p, x: jnp.mean(jnp.sum(jnp.tanh(x @ p["w"] + p["b"][None]) ** 2, axis=1))
    assert_close(jb.clipped_grad(batch_loss, l2_clip_norm=0.7)(p, x), expected_sum(gradients_of(p, x), 0.7)[0])
    with pytest.raises(ValueError, match=r"got float64\[1\]\. With keep_batch_dim=True .* pass keep_batch_dim=False"):
        jb.clipped_grad(lambda p, x: jnp.sum(x @ p["w"], axis=1), l2_clip_norm=0.7)(p, x)


def test_limits_of_the_clip_norm(key):
    p, x = problem(key)
    plain = [np.asarray(g).sum(axis=0) for g in gradients_of(p, x)]
    assert_close(clipped_grad(loss, l2_clip_norm=jnp.inf)(p, x), plain)
    assert_close(clipped_grad(loss, l2_clip_norm=0.0)(p, x), [0 * g for g in plain])
    _, norms = expected_sum(gradients_of(p, x), 1.0)
    unit = [np.tensordot(1 / norms, np.asarray(g), axes=1) for g in gradients_of(p, x)]
    assert_close(clipped_grad(loss, l2_clip_norm=0.0, rescale_to_unit_norm=True)(p, x), unit)
    zero = clipped_grad(lambda p, x: 0.0 * loss(p, x), l2_clip_norm=1.0)(p, x)
    assert not any(leaf.any() for leaf in jax.tree.leaves(zero))


def test_a_prng_key_is_split_over_the_examples(key):
    p, x = problem(key)

    def noisy(p, x, key):
        return loss(p, x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype))

    found = clipped_grad(noisy, l2_clip_norm=0.7, prng_argnum=2)(p, x, key)
    keys = jax.random.split(key, len(x))
    gradients = jax.vmap(jax.grad(noisy), in_axes=(None, 0, 0))(p, x, keys)
    assert_close(found, expected_sum(jax.tree.leaves(gradients), 0.7)[0])


def test_bad_input_is_refused_with_a_remedy(key):
    p, x = problem(key)
    with pytest.raises(ValueError, match="how must be one of auto, book-keeping, two-pass, formed, got 'ghost'"):
        clipped_grad(loss, l2_clip_norm=1.0, how="ghost")
    with pytest.raises(ValueError, match=r"l2_clip_norm must be 0 or larger, got -1\.0"):
        clipped_grad(loss, l2_clip_norm=-1.0)
    with pytest.raises(ValueError, match=r"normalize_by must be larger than 0, got 0\.0"):
        clipped_grad(loss, l2_clip_norm=1.0, normalize_by=0.0)
    with pytest.raises(ValueError, match="pre_clipping_transform would need the gradient of each example"):
        clipped_grad(loss, l2_clip_norm=1.0, pre_clipping_transform=lambda g: g)
    with pytest.raises(ValueError, match=r"arguments \[1\] are both in argnums and in batch_argnums"):
        clipped_grad(loss, argnums=1, l2_clip_norm=1.0)
    with pytest.raises(ValueError, match="microbatch_size=4 does not divide the batch of 6 examples"):
        clipped_grad(loss, l2_clip_norm=1.0, microbatch_size=4)(p, x)
    with pytest.raises(ValueError, match=r'the leaf w is used inside a scan, a remat or a cond .* Use how="two-pass"'):
        clipped_grad(remat_loss, l2_clip_norm=1.0, how="book-keeping")(p, x)


# --- figures, of the compiled program: no timer -----------------------------------------------------------------------


def figures(f, *shapes):
    """(MiB of temporary memory, 10⁹ floating-point operations) that XLA reports."""
    compiled = jax.jit(f).lower(*shapes).compile()
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return compiled.memory_analysis().temp_size_in_bytes / 2**20, cost["flops"] / 1e9


def shapes(**named):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in named.items()}


def mlp_case(batch):
    params = shapes(w1=(5120, 2560), b1=(2560,), w2=(2560, 1280), b2=(1280,))

    def mlp(p, example):
        h = jax.nn.relu(example["x"] @ p["w1"] + p["b1"])
        return jnp.mean((h @ p["w2"] + p["b2"] - example["y"]) ** 2)

    return mlp, params, shapes(x=(batch, 5120), y=(batch, 1280))


def ffn(p, x):
    return jax.nn.gelu(x @ p["w1"] + p["b1"][None]) @ p["w2"] + p["b2"][None]


def scanned_case(batch, remat):
    params = shapes(w1=(12, 256, 1024), b1=(12, 1024), w2=(12, 1024, 256), b2=(12, 256))

    def deep(p, x):
        layer = lambda x, p: (x + ffn(p, x), None)
        layer = jax.checkpoint(layer, prevent_cse=False) if remat else layer
        return jnp.mean(lax.scan(layer, x, p)[0] ** 2)

    return deep, params, jax.ShapeDtypeStruct((batch, 128, 256), jnp.float32)


def clipped(f):
    return clipped_grad(f, l2_clip_norm=1.0)


@pytest.mark.parametrize(("batch", "most"), [(32, 1.2), (256, 8.0)])
def test_figures_of_a_wide_mlp(batch, most):
    # vmap(grad) and a clip: 3,600 MiB and 4.41 G at 32, 28,801 MiB at 256; one plain gradient: 0.8 MiB and 2.31 G
    f, params, examples = mlp_case(batch)
    memory, operations = figures(clipped(f), params, examples)
    assert memory <= most, memory
    assert batch != 32 or operations <= 2.4, operations


def test_figures_of_scanned_layers_with_remat():
    # vmap(grad) and a clip: 3,841 MiB; one plain gradient: 249 MiB
    memory, _ = figures(clipped(scanned_case(64, remat=True)[0]), *scanned_case(64, remat=True)[1:])
    assert memory <= 290, memory


def test_figures_of_norms_of_scanned_layers():
    # vmap(grad): 464 MiB; one plain gradient: 266 MiB with JAX 0.12, and 314 MiB with 0.10, which keeps more residuals
    f, params, examples = scanned_case(8, remat=False)
    memory, _ = figures(lambda p, x: jb.per_example_norms(f)(p, x).total, params, examples)
    plain, _ = figures(jax.grad(lambda p, x: jax.vmap(f, (None, 0))(p, x).sum()), params, examples)
    assert memory <= 275 / 266 * plain, (memory, plain)


def test_figures_of_a_transformer_feed_forward():
    params = shapes(w1=(512, 2048), b1=(2048,), w2=(2048, 512), b2=(512,))
    examples = jax.ShapeDtypeStruct((32, 64, 512), jnp.float32)
    f = lambda p, x: jnp.mean(ffn(p, x) ** 2)
    _, ours = figures(clipped(f), params, examples)
    _, plain = figures(jax.grad(lambda p, x: jax.vmap(f, (None, 0))(p, x).sum()), params, examples)
    assert ours <= 1.08 * plain, (ours, plain)
