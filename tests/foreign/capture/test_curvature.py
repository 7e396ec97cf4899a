"""Second moments, Fisher, Gauss-Newton, K-FAC, noise scale, dot products against per-example gradients and Hessians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb

N = 5


@pytest.fixture(scope="module")
def case():
    """Params with every kind of leaf, a batch, a loss with one row and with several rows per example, its gradients."""
    shapes = {"one": (4, 6), "b": (6,), "rows": (2, 3), "stack": (2, 6, 6), "head": (6, 3), "c": (3,)}
    keys = jax.random.split(jax.random.key(5), len(shapes) + 1)
    params = {name: 0.7 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items())}
    batch = jax.random.normal(keys[-1], (N, 4)), jnp.arange(N) % 3

    def model(p, x):
        h = jnp.tanh(x @ p["one"] + p["b"])
        h = jnp.tanh(h.reshape(3, 2) @ p["rows"]).sum(axis=0)
        h = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), jnp.concatenate([h, h]), p["stack"])[0]
        return h @ p["head"] + p["c"]

    def loss(p, example):
        x, label = example
        return -jax.nn.log_softmax(model(p, x))[label]

    gradients = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(params, batch)
    return params, batch, model, loss, gradients


def flat(gradients):
    return np.concatenate([np.asarray(g).reshape(N, -1) for g in jax.tree.leaves(gradients)], axis=1)


def assert_trees_close(found, expected, rtol=1e-11):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.allclose(ours, theirs, rtol=rtol, atol=rtol * float(np.abs(theirs).max()))


def test_capture_pulls_back_any_weighting(case):
    params, batch, _, loss, gradients = case
    weights = jnp.linspace(-1.5, 2.5, N)

    @jax.jit
    def run(params, batch):
        c = jb.capture(loss)(params, batch)
        return c.values, c.norms.total, c.pullback(weights), c.gradient(), c.noise_scale()

    values, total, pulled, mean, scale = run(params, batch)
    assert np.allclose(values, jax.jit(jax.vmap(loss, (None, 0)))(params, batch), rtol=1e-12)
    assert np.allclose(total, np.linalg.norm(flat(gradients), axis=1), rtol=1e-12)
    assert_trees_close(pulled, jax.tree.map(lambda g: np.tensordot(weights, g, 1), gradients))
    assert_trees_close(mean, jax.tree.map(lambda g: np.mean(g, axis=0), gradients))
    # tr Σ and |G|² by NumPy: the unbiased variance, and |mean|² less its own share of noise
    rows = flat(gradients)
    trace = rows.var(axis=0, ddof=1).sum()
    assert scale.total == pytest.approx(trace / (np.square(rows.mean(axis=0)).sum() - trace / N), rel=1e-9)
    bias = flat([gradients["b"], gradients["c"]])
    trace = bias.var(axis=0, ddof=1).sum()
    assert scale.roles["bias"] == pytest.approx(trace / (np.square(bias.mean(axis=0)).sum() - trace / N), rel=1e-9)
    assert set(scale.leaves) == set(params)


def test_noise_scale_needs_two_examples(case):
    params, batch, _, loss, _ = case
    with pytest.raises(ValueError, match="noise_scale: two examples or more are wanted, got 1"):
        jax.eval_shape(jb.noise_scale(loss), params, jax.tree.map(lambda x: x[:1], batch))


def test_second_moments_and_dot_products(case):
    params, batch, _, loss, gradients = case
    moments, dots = jax.jit(lambda p, b: (jb.second_moments(loss)(p, b), jb.gradient_dots(loss)(p, b)))(params, batch)
    assert_trees_close(moments, jax.tree.map(lambda g: np.mean(np.square(g), axis=0), gradients))
    assert np.allclose(dots, flat(gradients) @ flat(gradients).T, rtol=1e-11)


def test_dot_products_of_leaves_in_a_cond_and_of_tables_in_a_scan(key):
    p = {"w": jax.random.normal(key, (6, 5)), "tables": jax.random.normal(key, (2, 30, 6))}
    ids = jnp.array([[1, 2], [2, 2], [29, 1]])

    def loss(p, ids):
        x = lax.scan(lambda x, t: (x + jnp.tanh(t[ids]).sum(axis=0), None), jnp.zeros(6), p["tables"])[0]
        return jnp.sum(lax.cond(x[0] > 0, lambda x: jnp.sin(x @ p["w"]), lambda x: x[:5], x) ** 2)

    gradients = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(p, ids)
    rows = np.concatenate([np.asarray(g).reshape(3, -1) for g in jax.tree.leaves(gradients)], axis=1)
    assert np.allclose(jax.jit(jb.gradient_dots(loss))(p, ids), rows @ rows.T, rtol=1e-11)


@pytest.mark.parametrize("kind", ["cross_entropy", "squared_error"])
def test_gauss_newton_diagonal_by_explicit_jacobians(case, kind):
    params, (x, _), model, _, _ = case
    losses = {"cross_entropy": lambda f: jax.nn.logsumexp(f), "squared_error": lambda f: 0.5 * jnp.sum(f**2)}

    def of_one(x):
        hessian = jax.hessian(losses[kind])(model(params, x))
        return jax.tree.map(
            lambda j: jnp.einsum("ap,ab,bp->p", j.reshape(3, -1), hessian, j.reshape(3, -1)).reshape(j.shape[1:]),
            jax.jacrev(model)(params, x),
        )

    found, by_example = jax.jit(lambda x: (jb.ggn_diagonal(model, kind)(params, x), jax.vmap(of_one)(x)))(x)
    assert_trees_close(found, jax.tree.map(lambda d: np.mean(d, axis=0), by_example))


def test_sampled_fisher_tends_to_gauss_newton():
    # one linear layer and many equal examples: the mean over drawn labels must come near to the exact expectation
    params, x = {"w": jnp.array([[0.3, -0.8, 0.1], [1.1, 0.2, -0.4]])}, jnp.tile(jnp.array([0.7, -1.2]), (4000, 1))
    model = lambda p, x: x @ p["w"]
    for kind in ("cross_entropy", "squared_error"):
        exact = jax.jit(jb.ggn_diagonal(model, kind))(params, x[:1])["w"]
        sampled = jax.jit(jb.fisher_diagonal(model, kind))(params, x, jax.random.key(0))["w"]
        assert np.all(np.abs(np.asarray(sampled) / exact - 1) < 0.1)  # standard error of χ² from 4000 draws: 2.2 %


def test_kfac_blocks_are_exact_for_one_example_and_one_row(key):
    p = {"w": jax.random.normal(key, (4, 3)), "b": jnp.ones(3), "free": jnp.eye(3)}
    x = jax.random.normal(key, (1, 4))
    loss = lambda p, x: jnp.sum(jnp.sin((x @ p["w"] + p["b"]) @ p["free"]))
    names = {}

    @jax.jit
    def run(p, x):
        factors = jb.kfac_factors(loss)(p, x)
        names.update({leaf: factor.bias for leaf, factor in factors.items()})
        return factors["w"].inputs, factors["w"].outputs, jax.grad(loss)(p, x[0])

    inputs, outputs, g = run(p, x)
    assert names["w"] == "b" and names["free"] is None
    rows = np.concatenate([g["w"], g["b"][None]])  # [W; b], the homogeneous weight
    assert np.allclose(np.kron(inputs, outputs), np.outer(rows.ravel(), rows.ravel()))


def test_kfac_expand_and_reduce_by_hand():
    # two examples of two rows, one input and one output: L = Σ_t c_t w a_t, so δ_t = c_t
    a, c = jnp.array([[1.0, 2], [3, 4]]), jnp.array([[1.0, 1], [2, 0]])
    loss = lambda p, example: jnp.sum((example[0][:, None] @ p["w"]) * example[1][:, None])
    p = {"w": jnp.ones((1, 1))}
    expand = jb.kfac_factors(loss)(p, (a, c))["w"]
    assert expand.inputs.item() == 30 / 4 and expand.outputs.item() == 6 / 2
    reduced = jb.kfac_factors(loss, "reduce")(p, (a, c))["w"]
    assert reduced.inputs.item() == (1.5**2 + 3.5**2) / 2 and reduced.outputs.item() == (2**2 + 2**2) / 2


def test_kfac_of_stacked_layers_has_one_block_each(case):
    params, batch, _, loss, _ = case
    factors = jax.jit(lambda p, b: {k: f[:2] for k, f in jb.kfac_factors(loss)(p, b).items()})(params, batch)
    assert factors["stack"][0].shape == (2, 6, 6) and factors["one"][0].shape == (5, 5)
    assert set(factors) == {"one", "rows", "stack", "head"}


def test_kfac_of_a_weight_that_is_cut_before_its_use(key):
    """As Haiku's GRU does it: one leaf, two products. Of one row, each part's block is exact."""
    keys = jax.random.split(key, 3)
    p = {"w": jax.random.normal(keys[0], (3, 5)), "b": jax.random.normal(keys[1], (5,))}

    def loss(p, x):
        gates, candidate = jnp.split(p["w"], [2], axis=1)
        z = jax.nn.sigmoid(x @ gates + p["b"][:2])
        return jnp.sum(jnp.tanh((x * z.sum()) @ candidate + p["b"][2:]) * z.prod())

    x = jax.random.normal(keys[2], (1, 3))
    biases = {}

    @jax.jit
    def run(p, x):
        factors = jb.kfac_factors(loss)(p, x)
        biases.update({part: factor.bias for part, factor in factors.items()})
        return {part: factor[:2] for part, factor in factors.items()}, jax.grad(loss)(p, x[0])

    factors, g = run(p, x)
    assert biases == {"w[0:3, 0:2]": "b[0:2]", "w[0:3, 2:5]": "b[2:5]"}
    for part, columns in (("w[0:3, 0:2]", slice(0, 2)), ("w[0:3, 2:5]", slice(2, 5))):
        inputs, outputs = factors[part]
        flat = np.concatenate([g["w"][:, columns], g["b"][None, columns]]).ravel()
        assert np.allclose(np.kron(inputs, outputs), np.outer(flat, flat), rtol=1e-12)


def test_kfac_inside_remat_and_in_scans(case):
    params, batch, _, loss, _ = case
    stack = params["stack"]

    def layers(step):
        body = lambda h, w: (jnp.tanh(h @ w), None)
        return lambda p, x: lax.scan(step(body), jnp.concatenate([x, x[:2]]), p)[0].sum()

    def factors(step):
        return jax.jit(lambda p, x: {path: f[:2] for path, f in jb.kfac_factors(layers(step))(p, x).items()})

    plain, saved = (factors(step)(stack, batch[0]) for step in (lambda body: body, jax.checkpoint))
    assert set(saved) == {"params"} and saved["params"][0].shape == (2, 6, 6)
    assert_trees_close(saved, plain)


def test_kfac_names_what_is_left_out(case):
    params, (x, _), *_ = case
    w = params["stack"][0, :4, :4]
    with pytest.warns(UserWarning, match="without factors are params, used in several products"):
        assert jb.kfac_factors(lambda w, x: (jnp.tanh(x @ w) @ w).sum())(w, x) == {}
    # parts that overlap, and one that does not
    loss = lambda p, x: (x @ p[0][:, :3]).sum() * (jnp.sin(x) @ p[0][:, 2:]).sum() * (x @ p[1]).sum()
    with pytest.warns(UserWarning, match=r"without factors are 0, used in"):
        assert set(jb.kfac_factors(loss)((w, w), x)) == {"1"}


def test_curvature_of_an_equinox_module(key, by_the_rules_of_jax):
    mlp = eqx.nn.MLP(4, 3, 5, 1, key=key)
    x = jax.random.normal(key, (N, 4))
    diagonal = eqx.filter_jit(jb.ggn_diagonal(lambda m, x: m(x), "squared_error"))(mlp, x)
    assert diagonal.layers[0].weight.shape == (5, 4) and diagonal.activation is None
    jacobian = eqx.filter_jit(jax.vmap(lambda x: eqx.filter_jacrev(lambda m: m(x))(mlp)))(x)
    expected = jax.tree.map(lambda j: (j**2).sum(axis=1).mean(axis=0), jacobian)
    assert_trees_close(jax.tree.leaves(diagonal), jax.tree.leaves(eqx.filter(expected, eqx.is_array)))


def test_delta_histograms_by_hand():
    # δ = the coefficients: 1 and 0.3 in [2⁻², 2⁰] bins, a zero apart
    loss = lambda w, x: jnp.vdot(jnp.array([1.0, 0.3, 0.0]), w @ x)
    histograms = jax.jit(jb.delta_histograms(loss, lowest=-3, highest=1))
    found = histograms(np.ones((3, 2)), np.ones((4, 2)))["params"]
    assert found.edges.tolist() == [0.125, 0.25, 0.5, 1, 2]
    assert found.counts.tolist() == [0, 4, 0, 4] and found.zeros == 4


def test_wrong_choices_are_refused(case):
    params, (x, _), model, loss, _ = case
    with pytest.raises(ValueError, match="ggn_diagonal: kind must be one of cross_entropy, squared_error, got 'hinge'"):
        jb.ggn_diagonal(model, "hinge")
    with pytest.raises(ValueError, match="fisher_diagonal: kind must be one of"):
        jb.fisher_diagonal(model, "hinge")
    with pytest.raises(ValueError, match=r"must return a vector for one example, got shape \(1, 3\)"):
        jb.ggn_diagonal(lambda p, x: model(p, x)[None])(params, x)
    with pytest.raises(ValueError, match="approximation must be 'expand' or 'reduce', got 'sum'"):
        jb.kfac_factors(loss, "sum")
