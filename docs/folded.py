"""Batch norms of public ResNets folded into their weights: the last table of models.md.

Beside the change stands what rounding alone does to the model: a fold writes other weights, so each is rounded anew.
"""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbias as jb
from docs.zoo import installed

HEAD = """
## Batch norms folded

`jb.surgery.fold_batch_norms` on whole models, in float32, with random statistics, scales and biases and 4 random images
of 32 × 32: max |after − before| / max |before| of the logits. "Rounding" is the largest such change of three where no
norm is folded and every param is rounded once more, up or down at random: a fold writes other weights, so its own
change is of that size. In float64 it is 1.6e-15 for jax_resnet; flaxmodels rounds to float32 inside of every block.

| package | version | model | norms folded | change | rounding |
|---|---|---|---|---|---|"""

Apply = Callable[[Any, Any, jax.Array], jax.Array]


def jax_resnet_18(x: jax.Array) -> tuple[Apply, Any]:
    import jax_resnet

    model = jax_resnet.ResNet18(n_classes=10)
    apply = lambda params, stats, x: model.apply({"params": params, "batch_stats": stats}, x, mutable=False)
    return apply, jax.jit(model.init)(jax.random.key(0), x)


def flaxmodels_resnet_18(x: jax.Array) -> tuple[Apply, Any]:
    import flaxmodels

    model = flaxmodels.ResNet18(pretrained=None, normalize=False, output="logits", num_classes=10)
    apply = lambda params, stats, x: model.apply({"params": params, "batch_stats": stats}, x, train=False)
    return apply, jax.jit(lambda key, x: model.init(key, x, train=False))(jax.random.key(0), x)


FOLDED = {
    "ResNet18": ("jax_resnet", jax_resnet_18),
    "ResNet18 (flaxmodels)": ("flaxmodels", flaxmodels_resnet_18),
}


def _drawn(tree: Any) -> Any:
    """Statistics, scales and biases as after training; weights as the package draws them."""
    random = np.random.default_rng(0)
    draws = {
        "var": lambda shape: random.uniform(0.5, 2, shape),
        "mean": lambda shape: 0.3 * random.normal(size=shape),
        "scale": lambda shape: random.uniform(0.5, 1.5, shape),
        "bias": lambda shape: 0.2 * random.normal(size=shape),
    }

    def leaf(path: Any, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        draw = next((draw for word, draw in draws.items() if word in name), None)
        return x if draw is None else jnp.asarray(draw(x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def row(name: str, package: str, make: Callable[[jax.Array], tuple[Apply, Any]]) -> tuple[str, ...]:
    """package, version, model, norms folded, change, rounding."""
    x = jnp.asarray(np.random.default_rng(5).normal(size=(4, 32, 32, 3)), jnp.float32)
    apply, variables = make(x)
    params, stats = _drawn(variables["params"]), _drawn(variables["batch_stats"])
    norms = jb.surgery.batch_norms(apply, params, stats, x)
    change = jb.surgery.fold_batch_norms(apply, params, stats, x).change
    random, eps = np.random.default_rng(9), float(jnp.finfo(jnp.float32).eps)
    fn = lambda params, x: apply(params, stats, x)

    def rounded(leaf: jax.Array) -> jax.Array:
        wide = np.asarray(leaf, np.float64)
        return jnp.asarray(wide * (1 + eps * random.uniform(-0.5, 0.5, wide.shape)), leaf.dtype)

    rounding = max(jb.surgery.output_change(fn, params, jax.tree.map(rounded, params), x) for _ in range(3))
    folded = f"{sum(not norm.why for norm in norms)} of {len(norms)}"
    return package, importlib.metadata.version(package), name, folded, f"{change:.1e}", f"{rounding:.1e}"


def table() -> list[str]:
    """The section of the page, with the models whose packages are installed."""
    lines = [HEAD]
    for name, package, make in installed(FOLDED):
        with jax.numpy_dtype_promotion("standard"):
            cells = row(name, package, make)
        print(*cells, flush=True)
        lines.append(f"| {' | '.join(cells)} |")
    return lines
