"""Functions of installed libraries: optax, which is always here, Flax and Equinox, which may not be."""

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tests.derive.bank.forward import Forward, entering, labels, normal, positive

LIBRARIES = ("optax", "flax", "equinox")
INSTALLED = tuple(name for name in LIBRARIES if importlib.util.find_spec(name) is not None)
BY_LIBRARY: dict[str, dict[str, Forward]] = {name: {} for name in INSTALLED}


def _of_optax() -> None:
    of = entering(BY_LIBRARY["optax"])
    of(normal(4, 5), labels(4, 5))(optax.softmax_cross_entropy_with_integer_labels)
    of(normal(4, 5), jax.nn.softmax(normal(4, 5)))(optax.safe_softmax_cross_entropy)
    of(normal(4, 5), normal(4, 5))(optax.huber_loss)
    of(normal(4, 5), normal(4, 5))(optax.cosine_similarity)
    of(normal(4, 5), labels(20, 2).reshape(4, 5).astype(jnp.float32))(optax.sigmoid_focal_loss)
    of(jax.nn.log_softmax(normal(4, 5)), jax.nn.softmax(normal(4, 5)))(optax.losses.kl_divergence)
    of(normal(4, 5), normal(4, 5))(optax.log_cosh)
    of(positive(6), normal(6))(optax.losses.poly_loss_cross_entropy)


def _of_flax() -> None:
    from flax import linen as nn

    of = entering(BY_LIBRARY["flax"])
    key = jax.random.key(0)

    def enter(name: str, module: nn.Module, *inputs: jax.Array) -> None:
        params = jax.tree.map(lambda leaf: normal(*leaf.shape), jax.eval_shape(module.init, key, *inputs)["params"])

        def forward(params, *inputs):
            return module.apply({"params": params}, *inputs)

        forward.__name__ = name
        of(params, *inputs)(forward)

    enter("flax_dense", nn.Dense(5), normal(4, 6))
    enter("flax_layer_norm", nn.LayerNorm(), normal(4, 6))
    # Without biases: the gradient of a key bias is 0 but for rounding, and has no size to compare with.
    enter("flax_attention", nn.MultiHeadDotProductAttention(num_heads=2, use_bias=False), normal(2, 3, 4))


def _of_equinox() -> None:
    import equinox as eqx

    of = entering(BY_LIBRARY["equinox"])
    key = jax.random.key(0)

    def enter(name: str, module: eqx.Module, *inputs: jax.Array) -> None:
        params, static = eqx.partition(module, eqx.is_array)

        def forward(params, *inputs):
            call: Callable = eqx.combine(params, static)  # type: ignore[assignment]
            return call(*inputs)

        forward.__name__ = name
        of(params, *inputs)(forward)

    enter("equinox_mlp", eqx.nn.MLP(4, 3, 5, 1, key=key), normal(4))
    enter("equinox_gru_cell", eqx.nn.GRUCell(3, 4, key=key), normal(3), normal(4))
    enter("equinox_rms_norm", eqx.nn.RMSNorm(5), normal(5))


for _library, _enter in (("optax", _of_optax), ("flax", _of_flax), ("equinox", _of_equinox)):
    if _library in INSTALLED:
        _enter()
FORWARDS = {name: forward for bank in BY_LIBRARY.values() for name, forward in bank.items()}
