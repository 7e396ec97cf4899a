"""What experiments and figures share: JAX's settings, compiling for one run, full-batch training, random params."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxbias as jb
from jaxbias.params import Layer, Params, Tree, run_forward

scan: Any = jax.lax.scan
"""`jax.lax.scan` without its static type, which cannot tell the parts of a carry apart."""


def own_settings() -> ExitStack:
    """float64, standard promotion and the CPU, whatever the caller's configuration is; theirs is restored.

    Experiments and figures run in it alike, so that a figure prints the number that its claim measures.
    """
    stack = ExitStack()
    stack.enter_context(jax.enable_x64(True))
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    stack.enter_context(jax.default_matmul_precision("highest"))
    with suppress(RuntimeError):  # where JAX was told to see the accelerator only, its float64 must do
        stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
    return stack


def once(f: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for a program that runs once: on the CPU compiling costs more than optimised code would save."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def generator(key: Array) -> np.random.Generator:
    """NumPy's generator seeded by a JAX key: draws without compiling a program for each shape."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def randomized(rng: np.random.Generator, network: Layer, x: Any) -> Tree:
    """Params of the network with standard normal values in every leaf, so that no bias is zero."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), shapes)


def affine(weight: Any, bias: Any) -> Any:
    """`Params` made of any arrays; no bias for None."""
    return Params(jnp.asarray(weight), None if bias is None else jnp.asarray(bias))


def predict(network: Layer, params: Tree, x: Any) -> Any:
    """The network's output."""
    return run_forward(network, params, jnp.asarray(x))[0]


def descend(
    gradient: Callable[[Tree], tuple[Array, Tree]], params: Tree, optimizer: optax.GradientTransformation, steps: int
) -> tuple[Tree, Any]:
    """`steps` updates from `params`, inside the caller's jit; returns the params and the loss before each step."""

    def step(carry, _):
        params, state = carry
        loss, grads = gradient(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params, losses


def train(
    network: Layer,
    loss: Any,
    params: Tree,
    x: Any,
    targets: Any,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> tuple[Tree, Any]:
    """Full-batch training by the hand-derived gradients, in one compiled scan."""
    gradient = jb.value_and_grad(network, loss)
    return jax.jit(lambda params, x, y: descend(lambda p: gradient(p, x, y), params, optimizer, steps))(
        params, x, targets
    )


def largest(tree: Tree) -> Any:
    """Largest absolute entry of any leaf; NaN if there is one."""
    return np.max([np.max(np.abs(np.asarray(leaf)), initial=0.0) for leaf in jax.tree.leaves(tree)])


def difference(a: Tree, b: Tree) -> Any:
    """Largest absolute difference of any entry of two trees of one structure."""
    return largest(jax.tree.map(lambda p, q: np.asarray(p) - np.asarray(q), a, b))


def relative_difference(a: Tree, b: Tree) -> Any:
    """Largest difference of two trees, each leaf relative to the largest entry of b's leaf."""
    return largest(jax.tree.map(lambda p, q: (np.asarray(p) - np.asarray(q)) / np.max(np.abs(q)), a, b))
