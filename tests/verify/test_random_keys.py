"""Random keys among the arguments and in loops; what is drawn is drawn in the dtypes of the arguments."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxbias import verify

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def over_keys(x, key):
    def step(carry, k):
        return jnp.tanh(carry * jax.random.bernoulli(k, 0.7, carry.shape)), None

    return lax.scan(step, x, jax.random.split(key, 3))[0]


def stacking_keys(x, key):
    def step(k, _):
        k, other = jax.random.split(k)
        return k, other

    _, keys = lax.scan(step, key, None, length=3)
    return x * jax.random.normal(keys[1], x.shape, x.dtype)


@pytest.mark.parametrize("forward", [over_keys, stacking_keys])
def test_keys_in_loops(forward):
    args = jnp.linspace(-1, 2, 4, dtype=jnp.float32), jax.random.key(3)
    rule = lambda factor: lambda args, ct: (factor * jax.vjp(forward, *args)[1](ct)[0], None)
    assert verify.vjp(forward, rule(1.0), args).verdict == "right"
    assert verify.vjp(forward, rule(1.001), args, diagnose=False).verdict == "wrong"


@pytest.mark.slow
def test_samples_by_rejection_are_those_of_the_call():
    args = jnp.array([0.7, 1.5, 3.0], jnp.float32), jax.random.key(3)
    sample = lambda x, key: jax.random.gamma(key, x)
    rule = lambda factor: lambda args, ct: (factor * jax.vjp(sample, *args)[1](ct)[0], None)
    assert verify.vjp(sample, rule(1.0), args).verdict == "right"
    assert verify.vjp(sample, rule(1.05), args, diagnose=False).verdict == "wrong"
