"""What a docstring promises can be passed: what it names exists, every keyword is named, every option runs."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import jaxbias as jb
from jaxbias.layers import dense, tanh

ROOMS = ["jaxbias", *(f"jaxbias.{name}" for name in ("initializers", "io", "layers", "losses", "penalties", "train"))]
ROOMS += [f"jaxbias.{name}" for name in ("data", "selfcheck", "foreign.surgery", "verify")]
ROOMS += [
    f"{room}.{module.name}"
    for room in ("jaxbias.layers", "jaxbias.losses")
    for module in pkgutil.iter_modules(importlib.import_module(room).__path__)
    if not module.name.startswith("_")
]


def public_functions():
    """Dotted name -> function, of every room."""
    functions = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        for name in names:
            value = getattr(module, name)
            if isinstance(value, types.FunctionType) and value.__module__.startswith("jaxbias"):
                functions.setdefault(f"{value.__module__}.{value.__qualname__}", value)
    return functions


FUNCTIONS = public_functions()


def documented(function):
    """Names in the section Args of its docstring."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", text, flags=re.MULTILINE)
    entries = re.findall(
        r"(?:^    |\. )((?:\*{0,2}\w+, )*\*{0,2}\w+): ", section[1] if section else "", flags=re.MULTILINE
    )
    return [name.lstrip("*") for entry in entries for name in entry.split(", ")]


def parameters(function):
    """Names of its parameters, those of its overloads included."""
    tree = ast.parse(inspect.getsource(sys.modules[function.__module__]))
    forms = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function.__name__]
    overloads = {
        node.arg for form in forms if form.decorator_list for node in ast.walk(form.args) if isinstance(node, ast.arg)
    }
    return overloads | set(inspect.signature(function).parameters)


def test_the_public_functions_are_found():
    assert len(FUNCTIONS) > 150
    assert {"jaxbias.layers.dense.forward", "jaxbias.verify.entrances.vjp", "jaxbias.train._fit.fit"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_documented_argument_exists(name):
    unknown = set(documented(FUNCTIONS[name])) - set(parameters(FUNCTIONS[name]))
    assert not unknown, f"{name}: Args names {unknown}, which are no parameters"


def says(function, keyword):
    """Whether the docstring names it, among Args or in backticks."""
    return keyword in documented(function) or re.search(rf"`{keyword}\b", inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_keyword_is_documented(name):
    """In its own docstring, or in that of a function beside it that the docstring names: "as for `forward`"."""
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    beside = vars(sys.modules[function.__module__])
    named = [beside[word] for word in set(re.findall(r"\w+", text)) if isinstance(beside.get(word), types.FunctionType)]
    keywords = [n for n, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY]
    silent = [k for k in keywords if not any(says(f, k) for f in (function, *named))]
    assert not silent, f"{name}: no docstring says what {silent} are"


# --- every option runs ------------------------------------------------------------------------------------------------

KEY = jax.random.key(3)
W = {"w": jax.random.normal(jax.random.fold_in(KEY, 0), (3, 2), jnp.float64), "b": jnp.array([0.3, -0.2])}
X = jax.random.normal(jax.random.fold_in(KEY, 1), (4, 3), jnp.float64)


def plain(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]))


def with_everything(scale, x, params):
    """Batch first, params last, one row kept as a batch of one, and something returned beside the loss."""
    out = scale * plain(params, x[0])
    return out, {"twice": 2 * out}


EVERYTHING = {"argnums": 2, "has_aux": True, "batch_argnums": (1,), "keep_batch_dim": True}
CAPTURES = {
    "capture": (
        {"memory_limit": 100, "verify": True},
        lambda c: (c.values, c.norms.leaves, c.norms.total, c.gradient()),
    ),
    "per_example_norms": ({"memory_limit": 100, "verify": True}, lambda norms: norms.leaves),
    "second_moments": ({}, lambda moments: moments),
    "gradient_dots": ({}, lambda dots: dots),
    "noise_scale": ({"memory_limit": 100, "verify": True}, lambda noise: tuple(noise)),
    "kfac_factors": ({"approximation": "reduce"}, lambda factors: {k: f[:2] for k, f in factors.items()}),
    "delta_histograms": ({"lowest": -5, "highest": 2}, lambda histograms: {k: tuple(h) for k, h in histograms.items()}),
}


@pytest.mark.parametrize("name", CAPTURES)
def test_every_option_of_a_capture_runs_and_changes_only_how_the_loss_is_called(name):
    function = getattr(jb, name)
    more, reading = CAPTURES[name]
    options = {**EVERYTHING, **more}
    keywords = {n for n, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    assert set(options) == keywords, "this test passes every option once"
    kept = {k: v for k, v in more.items() if k in ("approximation", "lowest", "highest")}
    expected = reading(function(plain, **kept)(W, X))
    actual = reading(function(with_everything, **options)(jnp.float64(1), X, W))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_grand_scores_takes_the_same_options():
    expected = jb.grand_scores(plain)([W, W], X)
    scores = jb.grand_scores(with_everything, **EVERYTHING, memory_limit=100, verify=True)
    np.testing.assert_allclose(scores(jnp.float64(1), X, [W, W]), expected, rtol=1e-10)


def test_a_capture_keeps_what_the_loss_returns_beside_and_names_its_methods():
    captured = jb.capture(with_everything, **EVERYTHING)(jnp.float64(1), X, W)
    np.testing.assert_allclose(captured.aux["twice"], 2 * captured.values, rtol=1e-14)
    assert captured.norms.methods == jb.per_example_norms(plain)(W, X).methods | captured.norms.methods
    assert set(captured.norms.methods) == {"w", "b"} and all(captured.norms.methods.values())
    assert jb.capture(plain)(W, X).aux == ()


WRONG_OPTIONS = [
    ({"arg_nums": 0}, TypeError, "unexpected keyword argument 'arg_nums'"),
    ({"argnums": "0"}, TypeError, "argnums must be a whole number of at least 0, got the str '0'"),
    ({"argnums": -1}, ValueError, "argnums must be a whole number of at least 0, got the int -1"),
    ({"batch_argnums": ()}, ValueError, r"batch_argnums must name one argument or more, each once, got \(\)"),
    ({"batch_argnums": (1, 1)}, ValueError, r"each once, got \(1, 1\)"),
    ({"batch_argnums": (0, 1)}, ValueError, r"arguments \[0\] are both in argnums and in batch_argnums"),
    ({"batch_argnums": 2}, ValueError, "name argument 2, but loss takes 2 arguments"),
    ({"has_aux": "no"}, TypeError, "has_aux must be True or False, got the str 'no'"),
    ({"keep_batch_dim": 1}, TypeError, "keep_batch_dim must be True or False, got the int 1"),
    ({"memory_limit": 0}, ValueError, "memory_limit must be a whole number of at least 1, got the int 0"),
    ({"memory_limit": 1e6}, TypeError, "memory_limit must be a whole number"),
    ({"verify": None}, TypeError, "verify must be True or False, got None"),
]


@pytest.mark.parametrize("name", [*CAPTURES, "grand_scores", "clipped_grad"])
@pytest.mark.usefixtures("as_users_run_it")
def test_a_wrong_option_is_refused_when_the_function_is_made(name):
    function = getattr(jb, name)
    needed = {"l2_clip_norm": 1.0} if name == "clipped_grad" else {}
    tried = 0
    for options, error, words in WRONG_OPTIONS:
        if set(options) <= set(inspect.signature(function).parameters) or "arg_nums" in options:
            with pytest.raises(error, match=words) as raised:
                function(plain, **needed, **options)
            assert "arg_nums" in options or str(raised.value).startswith(f"{name}: ")
            tried += 1
    assert tried >= 9


def test_every_option_of_the_checker_runs():
    report = jb.verify.vjp(
        lambda a: jnp.tanh(a), lambda args, c: ((1 - jnp.tanh(args[0]) ** 2) * c,), (X,), cotangent=X, key=KEY,
        names=("a",), rtol=1e-9, atol=1e-12, diagnose=False,
    )  # fmt: skip
    assert report.ok and set(report.leaves) == {"a"}
    options = {"key": KEY, "names": ("z",), "rtol": 1e-9, "atol": 1e-12, "diagnose": False}
    square, twice = lambda a: jnp.sum(a * a), lambda a: 2 * a
    assert jb.verify.gradient(square, twice, (X,), **options).ok
    assert jb.verify.jvp(jnp.sin, lambda args, t: jnp.cos(args[0]) * t[0], (X,), **options).ok
    assert jb.verify.hessian_vector(square, lambda args, v: (2 * v[0],), (X,), **options).ok
    with_rule = lambda a: jb.as_function(tanh)((), a)
    assert jb.verify.custom_vjp(with_rule, jnp.tanh, (X,), cotangent=X, **options).ok
    options["names"] = ("params", "z")
    assert jb.verify.layer(tanh, (), X, state=None, cotangent=X, **options).ok
    assert jb.verify.assert_vjp(jnp.sin, lambda args, c: (jnp.cos(args[0]) * c,), (X,), diagnose=False).ok


@pytest.mark.usefixtures("as_users_run_it")
def test_a_door_of_the_checker_shows_its_options_and_names_itself():
    options = keyword_only(jb.verify.vjp)
    assert keyword_only(jb.verify.assert_vjp) == options
    assert keyword_only(jb.verify.layer) == options | {"state"}
    with pytest.raises(TypeError, match=r"layer\(\) got an unexpected keyword argument 'sekonds'"):
        jb.verify.layer(tanh, (), X, sekonds=1)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match=r"^verify\.layer: rtol must be finite and not negative"):
        jb.verify.layer(tanh, (), X, rtol=-1)
    with pytest.raises(TypeError, match=r"^verify\.assert_vjp: rule must be a function"):
        jb.verify.assert_vjp(jnp.sin, None, (X,))  # pyright: ignore[reportArgumentType]


def test_the_largest_error_of_a_leaf_is_over_all_probes():
    """A rule that is off by a hundredth of |x|: its error grows with the probe, not only where it was found."""
    report = jb.verify.vjp(lambda a: 3 * a, lambda args, c: ((3 + 0.01 * jnp.abs(args[0])) * c,), (X,), diagnose=False)
    leaf = report.leaves["a"]
    assert not leaf.ok
    assert leaf.max_error >= abs(leaf.actual - leaf.expected)


def test_every_option_of_training_runs(tmp_path):
    network = jb.chain(dense.layer(2))
    data = np.asarray(X), np.ones((4, 2))
    params = network.init(KEY, X)
    told, metric = [], {"size": lambda out, targets: jnp.mean(jnp.abs(out))}
    options = {
        "state": None, "validation": data, "checkpoint": tmp_path / "fit", "progress": told.append,
        "trainable": jb.freeze(params, "biases"), "metrics": metric, "how": "autodiff", "loop": "steps",
        "mesh": jax.make_mesh((1,), ("data",)), "shardings": PartitionSpec(), "compute_dtype": X.dtype,
        "steps_per_epoch": 2, "wait_s": 10,
    }  # fmt: skip
    batches = [tuple(array[i : i + 2] for array in data) for i in (0, 2)]
    fit = jb.train.fit(
        network, jb.losses.huber, params, batches, optax.sgd(0.1), epochs=1, batch_size=2, key=KEY, **options
    )
    assert set(options) | {"epochs", "batch_size", "key"} == keyword_only(jb.train.fit)
    assert told and set(fit.history) >= {"loss", "size", "validation_loss", "validation_size"}
    assert np.array_equal(fit.params[0].bias, params[0].bias)
    told.clear()
    options = {
        "inits": {"a": network}, "use_bias": (True,), "hyper": {"learning_rate": (0.1,)}, "validation": data,
        "metrics": metric, "how": "autodiff", "keep_params": True, "together": 1, "chunk": 1,
        "directory": tmp_path / "sweep", "progress": told.append, "mesh": jax.make_mesh((1,), ("data",)),
    }  # fmt: skip
    sweep = jb.train.sweep(
        network, jb.losses.huber, data, optax.sgd, keys=jax.random.split(KEY, 1), epochs=1, batch_size=2, **options
    )
    assert set(options) | {"keys", "epochs", "batch_size"} == keyword_only(jb.train.sweep)
    assert told and sweep.params is not None


def keyword_only(function):
    return {name for name, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY}
