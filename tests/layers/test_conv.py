import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

import jaxbias as jb
from jaxbias.derivation import normal, random_like
from jaxbias.layers import _patches, conv, dense, relu, reshape
from jaxbias.params import Params
from tests.layers.loops import convolution
from tests.planted import assert_caught

EXAMPLES = {example.label: example for example in conv.DERIVATIONS[0].examples}


@pytest.fixture
def by_convolution(monkeypatch):
    """XLA's convolution at every shape; small ones, as here, are a matrix product else."""
    monkeypatch.setattr(_patches, "pays", lambda rows, columns: False)


@pytest.fixture(params=["product", "convolution"])
def each_form(request):
    if request.param == "convolution":
        request.getfixturevalue("by_convolution")


def problem(seed, x_shape, kernel, groups, channels_out):
    rng = np.random.default_rng(seed)
    x, weight, bias = (
        rng.standard_normal(shape)
        for shape in (x_shape, (*kernel, x_shape[-1] // groups, channels_out), (channels_out,))
    )
    return Params(jnp.asarray(weight), jnp.asarray(bias)), jnp.asarray(x), rng.standard_normal


def assert_equals_loops(params, x, draw, pads, keywords):
    """The library with `keywords`, against loops over `pads`; ints in keywords count for every axis."""
    axes = x.ndim - 2
    tuples = {
        name: (keywords.get(name, 1),) * axes if isinstance(keywords.get(name, 1), int) else keywords[name]
        for name in ("stride", "input_dilation", "kernel_dilation")
    }
    drawn = []

    def delta(shape):
        drawn.append(draw(shape))
        return drawn[0]

    expected = convolution(x, *params, delta, pads=pads, groups=keywords.get("groups", 1), **tuples)

    @jax.jit
    def both(params, x, delta):
        z, residuals = conv.forward(params, x, **keywords)
        return z, *conv.backward(residuals, delta, **keywords)

    z, grads, delta_x = both(params, x, jnp.asarray(drawn[0]))
    for actual, want in zip((z, *grads, delta_x), expected, strict=True):
        assert actual.shape == want.shape
        np.testing.assert_allclose(actual, want, rtol=0, atol=1e-13 * max(np.abs(want).max(initial=0), 1))


@pytest.mark.parametrize(
    ("x_shape", "kernel", "keywords", "pads"),
    [
        ((2, 5, 4), (3,), {}, [(0, 0)]),
        ((2, 5, 4), (3,), {"padding": "CAUSAL", "kernel_dilation": 2, "groups": 2}, [(4, 0)]),
        ((2, 5, 6, 2), (2, 3), {"padding": "SAME", "stride": (2, 3)}, [(0, 1), (0, 0)]),
        ((1, 4, 3, 2), (3, 2), {"padding": 2, "input_dilation": (1, 2), "groups": 2}, [(2, 2), (2, 2)]),
        ((2, 5, 4, 2), (2, 2), {"padding": ((-1, 2), (3, -2)), "kernel_dilation": (1, 2)}, [(-1, 2), (3, -2)]),
        ((1, 2, 3, 2, 2), (1, 2, 2), {"padding": "SAME", "stride": (1, 2, 1)}, [(0, 0), (0, 1), (0, 1)]),
    ],
)
def test_per_element_loops_of_the_equations(each_form, x_shape, kernel, keywords, pads):
    params, x, draw = problem(1, x_shape, kernel, keywords.get("groups", 1), 4)
    assert_equals_loops(params, x, draw, pads, keywords)


@st.composite
def geometries(draw):
    """(x_shape, kernel, keywords): any that fit, cropping included, over one or two axes."""
    axes = draw(st.integers(1, 2))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))
    kernel, stride, e, f = per_axis(1, 3), per_axis(1, 3), per_axis(1, 2), per_axis(1, 2)
    pads, lengths = [], []
    for k, dilation, spread in zip(kernel, f, e):
        low, high = draw(st.integers(-2, 4)), draw(st.integers(-2, 4))
        least = (dilation * (k - 1) + 1 - low - high - 1) // spread + 2
        pads.append((low, high))
        lengths.append(max(least, 1) + draw(st.integers(0, 2)))
    groups = draw(st.sampled_from([1, 2]))
    x_shape = (draw(st.integers(1, 2)), *lengths, groups * draw(st.integers(1, 2)))
    keywords = {"stride": stride, "padding": pads, "input_dilation": e, "kernel_dilation": f, "groups": groups}
    return x_shape, kernel, keywords


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(geometry=geometries())
def test_any_geometry_equals_the_loops(each_form, geometry):
    x_shape, kernel, keywords = geometry
    params, x, draw = problem(2, x_shape, kernel, keywords["groups"], 2 * keywords["groups"])
    assert_equals_loops(params, x, draw, keywords["padding"], keywords)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(geometry=geometries())
def test_many_geometries_equal_the_loops(each_form, geometry):
    test_any_geometry_equals_the_loops.hypothesis.inner_test(each_form, geometry)


def test_by_hand():
    """x = 1 2 3 4, w = 1 10: z[i] = x[i] + 10 x[i+1] + 100, not flipped. δ = 1 −1 2."""
    params = Params(jnp.array([1.0, 10]).reshape(2, 1, 1), jnp.array([100.0]))
    z, residuals = conv.forward(params, jnp.array([1.0, 2, 3, 4]).reshape(1, 4, 1))
    assert z.ravel().tolist() == [121.0, 132, 143]
    grads, delta_x = conv.backward(residuals, jnp.array([1.0, -1, 2]).reshape(1, 3, 1))
    assert grads.bias.tolist() == [2.0]
    assert grads.weight.ravel().tolist() == [1.0 - 2 + 6, 2.0 - 3 + 8]
    assert delta_x.ravel().tolist() == [1.0, 9, -8, 20]


def test_the_bias_gradient_adds_up_rows_and_positions():
    """A1.10: one bias per filter, met by n · H′ · W′ positions, which are summed and not averaged."""
    params = Params(np.ones((2, 2, 1, 3)), np.zeros(3))
    backward = jax.jit(lambda params, x, delta: conv.backward(conv.forward(params, x)[1], delta))
    grads, _ = backward(params, np.ones((5, 4, 3, 1)), np.ones((5, 3, 2, 3)))
    assert grads.bias.tolist() == [5.0 * 3 * 2] * 3


def test_causal_outputs_see_no_later_input(key):
    layer = conv.layer(2, 3, padding="CAUSAL", kernel_dilation=2)
    x = np.array(normal(key, (1, 9, 2), jnp.float64))
    params = layer.init(key, x)
    forward = jax.jit(lambda x: layer.forward(params, x)[0])
    z, later = forward(x), forward(x + (np.arange(9) >= 5)[None, :, None])
    assert z.shape == (1, 9, 2)
    assert np.array_equal(np.asarray(z)[:, :5], np.asarray(later)[:, :5])
    assert np.all(np.asarray(z)[:, 5] != np.asarray(later)[:, 5])


@pytest.mark.parametrize("channels", [3, 6, 17])
def test_cropping_in_float32_reads_nothing_outside(by_convolution, channels):
    """XLA's CPU convolution reads past a row for negative low and positive high padding (openxla/xla 48713)."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    params, x, delta = Params(draw(2, 2, channels, 6), draw(6)), draw(4, 5, 6, channels), draw(4, 4, 3, 6)

    def run(params, x, delta, **keywords):
        z, residuals = conv.forward(params, x, **keywords)
        return z, conv.backward(residuals, delta, **keywords)

    actual = jax.jit(functools.partial(run, padding=((-1, 1), (0, -2))))(params, x, delta)
    padded = np.pad(x[:, 1:, :-2], ((0, 0), (0, 1), (0, 0), (0, 0)))
    want, (grads, delta_padded) = jax.jit(run)(params, padded, delta)
    expected = (want, (grads, np.pad(np.asarray(delta_padded)[:, :-1], ((0, 0), (1, 0), (0, 2), (0, 0)))))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(np.abs(b).max()))


def test_narrow_deltas_are_summed_in_float32():
    """1024 deltas of 1 per tap: a running sum in bfloat16 would stop growing at 256, where 1 is half an ulp."""
    x = jnp.ones((1, 1024, 1), jnp.bfloat16)
    _, residuals = conv.forward(Params(x[:, :1], x[0, 0]), x)
    grads, delta_x = conv.backward(residuals, x)
    assert grads.bias.tolist() == [1024.0]
    assert grads.weight.ravel().tolist() == [1024.0]
    assert {leaf.dtype for leaf in (*grads, delta_x)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("x_shape", "channels_out", "convolutions"),
    [
        ((64, 8, 8, 1), 16, 0),  # digits: the first layer, and the second below
        ((64, 4, 4, 16), 32, 0),
        ((32, 32, 32, 3), 16, 0),
        ((32, 32, 32, 16), 32, 3),
    ],
)
def test_the_form_on_cpu_is_chosen_by_shape(x_shape, channels_out, convolutions):
    layer = conv.layer(channels_out, 3, padding="SAME")

    def gradient(params, x):
        z, residuals = layer.forward(params, x)
        return layer.backward(residuals, z)

    x = jax.ShapeDtypeStruct(x_shape, jnp.float32)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
    text = jax.jit(gradient).trace(params, x).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.convolution") == convolutions


@pytest.mark.parametrize("groups", [1, 2])
def test_backward_is_two_channels_last_convolutions(by_convolution, key, groups):
    """Every convolution that reaches XLA, in a scan too, has the layout of the forward: only that one is fast there.

    Autodiff's ∂L/∂w swaps batch and features in the dimension numbers instead of transposing, and must be seen to.
    """
    layer = conv.layer(4, (3, 2), groups=groups, padding="SAME")
    x = jax.random.normal(key, (3, 5, 6, 2), jnp.float32)
    params = layer.init(key, x)

    def by_hand(params, x):
        z, residuals = layer.forward(params, x)
        return layer.backward(residuals, z)

    def by_autodiff(params, x):
        z, pull_back, _ = jax.vjp(layer.forward, params, x, has_aux=True)
        return pull_back(z)

    def layouts(gradient):
        def step(carry, _):
            grads = gradient(*carry)
            return jax.tree.map(lambda p, g: p - g, carry, grads), None

        scan = jax.jit(lambda carry: lax.scan(step, carry, None, length=2)[0])
        lines = scan.lower((params, x)).as_text().splitlines()
        return [
            line.split("dim_numbers = ")[1].split(", window")[0] for line in lines if "stablehlo.convolution" in line
        ]

    channels_last = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert layouts(by_hand) == [channels_last] * 3
    assert layouts(by_autodiff) != [channels_last] * 3


def both_ways(params, x):
    z, residuals = conv.forward(params, x)
    _, pull_back, _ = jax.vjp(conv.forward, params, x, has_aux=True)
    return conv.backward(residuals, z), pull_back(z)


def in_scan(params, x):
    return lax.scan(lambda x, _: (both_ways(params, x)[0][1], None), x, None, length=2)[0]


@pytest.mark.parametrize("function", [both_ways, in_scan, jax.vmap(both_ways, in_axes=(None, 0))])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_form_is_chosen_by_the_platform_that_a_program_is_lowered_for(function, dtype):
    """Not by the host's: lowered here for CUDA or TPU, it holds convolutions and no matrix product."""
    shape = (2, 5, 5, 3) if function in (both_ways, in_scan) else (2, 2, 5, 5, 3)
    params = Params(jax.ShapeDtypeStruct((3, 3, 3, 4), dtype), jax.ShapeDtypeStruct((4,), dtype))
    traced = jax.jit(function).trace(params, jax.ShapeDtypeStruct(shape, dtype))
    maps = 2 if function is in_scan else 5  # z, and ∂L/∂w and ∂L/∂x both ways; the scan hands on ∂L/∂x alone
    for platform, operation in (("cpu", "dot_general"), ("cuda", "convolution"), ("tpu", "convolution")):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        counts = {name: text.count(f"stablehlo.{name}") for name in ("dot_general", "convolution")}
        assert counts.pop(operation) == maps and set(counts.values()) == {0}, (platform, text)


def test_a_compiled_program_pays_nothing_for_the_choice(key):
    params, x = Params(jax.random.normal(key, (3, 3, 3, 4)), jnp.ones(4)), jax.random.normal(key, (2, 5, 5, 3))
    text = jax.jit(both_ways).lower(params, x).compile().as_text()
    assert text is not None and "conditional(" not in text and "convolution(" not in text


def test_tools_read_a_convolution_as_the_platform_here_runs_it(key):
    """verify, roles, capture and deltas: the choice is no branch of the model."""
    network = jb.chain(conv.layer(2, 2), relu, reshape.layer(), dense.layer(3))
    x, labels = normal(key, (4, 3, 3, 2), jnp.float64), jnp.array([0, 2, 1, 2])
    params = random_like(key, jax.eval_shape(network.init, key, x))
    assert jb.verify.layer(network.parts[0], params[0], x).ok
    roles = jb.roles(lambda p, x: network.forward(p, x)[0], params, x)
    assert roles[0] == Params("weight", "bias")

    def loss(p, x, label):
        return jb.losses.cross_entropy.forward(network.forward(p, x[None])[0], label[None])[0]

    @jax.jit
    def both(params, x, labels):
        norms = jb.per_example_norms(loss, batch_argnums=(1, 2))(params, x, labels)
        return norms, jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, x, labels)

    norms, grads = both(params, x, labels)
    squares = sum((np.asarray(leaf).reshape(4, -1) ** 2).sum(1) for leaf in jax.tree.leaves(grads))
    np.testing.assert_allclose(norms.total, np.sqrt(squares), rtol=1e-10)


def test_without_a_bias_there_is_no_leaf(key):
    params = conv.layer(4, 3, use_bias=False).init(key, jnp.ones((2, 5, 5, 3)))
    assert params.bias is None
    assert params.weight.shape == (3, 3, 3, 4)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "keywords", "match"),
    [
        ((2, 5, 5, 3), (3, 3, 2, 4), {}, r"conv.forward: x has 3 channels but weight wants 2 = 2 per group × 1 groups"),
        ((2, 5, 3), (3, 3, 3, 4), {}, r"2 spatial axes .* got x of shape \(2, 5, 3\). A single image needs a batch"),
        ((2, 3), (3, 4), {}, r"with 1 to 3 kernel axes, got shape \(3, 4\)"),
        ((2, 5, 4), (3, 2, 3), {"groups": 2}, r"groups must divide the channels .* got groups=2, .* channels_out=3"),
        ((2, 2, 5, 3), (3, 3, 3, 4), {}, r"kernel of spatial size \(3, 3\) \(dilated\) is larger than .* \(2, 5\)"),
        ((2, 5, 5, 3), (3, 3, 3, 4), {"kernel_dilation": 3}, r"kernel of spatial size \(7, 7\) .* smaller kernel"),
        ((2, 5, 5, 3), (3, 3, 3, 4), {"padding": "CAUSAL"}, r"CAUSAL padding needs exactly one spatial axis .* got 2"),
        ((2, 5, 5, 3), (3, 3, 3, 4), {"padding": "FULL"}, r"one of SAME, VALID, CAUSAL, an int or .* got 'FULL'"),
        (
            (2, 5, 5, 3),
            (3, 3, 3, 4),
            {"padding": ((1, 1),)},
            r"one \(low, high\) pair of ints for each of the 2",
        ),
        ((2, 5, 5, 3), (3, 3, 3, 4), {"stride": 0}, r"stride must be a whole number of at least 1, got the int 0"),
        (
            (2, 5, 5, 3),
            (3, 3, 3, 4),
            {"stride": (1, 2, 3)},
            r"stride must be an int or have one entry for each",
        ),
    ],
)
def test_bad_input_is_named(x_shape, weight_shape, keywords, match):
    with pytest.raises(ValueError, match=match):
        conv.forward(Params(jnp.ones(weight_shape), None), jnp.ones(x_shape), **keywords)


@pytest.mark.usefixtures("as_users_run_it")
def test_integer_images_are_refused():
    with pytest.raises(TypeError, match=r"conv\.forward: x must be a floating-point array, got int32"):
        conv.forward(Params(jnp.ones((3, 3, 3, 4)), None), jnp.ones((2, 5, 5, 3), jnp.int32))


def test_init_refuses_groups_that_do_not_divide(key):
    with pytest.raises(ValueError, match=r"conv.init: groups must divide .* groups=2, channels_in=3, channels_out=4"):
        conv.layer(4, 3, groups=2).init(key, jnp.ones((2, 5, 5, 3)))


# --- planted faults ---------------------------------------------------------------------------------------------------


def wrong(change):
    """The right backward of the plainest example, with its (grads, delta_x) changed."""
    example = EXAMPLES["2-D"]

    def backward(residuals, delta):
        return change(*example.layer.backward(residuals, delta), residuals, delta)

    return example, backward


@pytest.mark.parametrize(
    ("change", "leaves"),
    [
        (lambda g, dx, r, d: (g._replace(bias=d.mean((0, 1, 2))), dx), {"0.bias"}),
        (lambda g, dx, r, d: (g._replace(bias=d.sum(0).mean((0, 1))), dx), {"0.bias"}),
        (lambda g, dx, r, d: (g._replace(weight=jnp.flip(g.weight, (0, 1))), dx), {"0.weight"}),
        (lambda g, dx, r, d: (g._replace(weight=g.weight / d.shape[0]), dx), {"0.weight"}),
        (
            lambda g, dx, r, d: (g, conv.backward(r._replace(weight=jnp.flip(r.weight, (0, 1))), d)[1]),
            {"1"},
        ),
    ],
    ids=["bias: mean", "bias: mean over positions", "weight: flipped", "weight: mean over rows", "x: not flipped"],
)
def test_planted_faults_are_caught(key, change, leaves):
    example, backward = wrong(change)
    assert_caught(example, key, backward, leaves)


def test_forgetting_the_stride_in_the_weight_gradient_is_caught(by_convolution, key):
    example = EXAMPLES["3-D, stride 2"]

    def backward(residuals, delta):
        grads, delta_x = example.layer.backward(residuals, delta)
        side_by_side = conv.Geometry((1,) * 3, ((1, 1),) * 3, (1,) * 3, (1,) * 3, groups=1)
        weight = conv.grad_weight(residuals.x, delta, (2, 2, 2), side_by_side)
        return grads._replace(weight=weight), delta_x

    assert_caught(example, key, backward, {"0.weight"})
