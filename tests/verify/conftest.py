import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def args(key):
    """Of `tanh_layer`: x and weight."""
    first, second = jax.random.split(key)
    return jax.random.normal(first, (4, 3), jnp.float32), jax.random.normal(second, (3, 2), jnp.float32)
