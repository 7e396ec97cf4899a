"""Forwards of arrays without an entry: nothing stumbles, and a parameter beside them is still checked."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from tests.verify.test_verdict import scaled

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

X = np.zeros((0, 3), np.float32)
WINDOW = (1, 2, 1), (1, 1, 1), "VALID"


def matrices(x):
    return jnp.zeros((0, 3, 3), x.dtype) * x[:, None] + jnp.eye(3, dtype=x.dtype)[None]


FORWARDS = {
    "one row after another": lambda x, w: sum([row @ w for row in x], jnp.zeros(2, x.dtype)),
    "maximum of a window": lambda x, w: lax.reduce_window(x[:, :, None], -jnp.inf, lax.max, *WINDOW)[..., 0] @ w[:2],
    "windows longer than the axis": lambda x, w: lax.reduce_window(x.T @ x @ w, 0.0, lax.add, (4, 1), (1, 1), "VALID"),
    "Cholesky": lambda x, w: jnp.linalg.cholesky(matrices(x)) @ w,
    "linear systems": lambda x, w: jnp.linalg.solve(matrices(x), x[..., None]) * w[0],
    "sorted": lambda x, w: jnp.sort(x, axis=0) @ w,
    "scan": lambda x, w: lax.scan(lambda h, row: (jnp.tanh(h + row @ w), h), jnp.zeros(2, x.dtype), x),
    "scattered": lambda x, w: jnp.zeros((4, 3), x.dtype).at[jnp.zeros(0, int)].add(x) @ w + w.sum(),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_an_axis_of_no_entries(name):
    forward, w = FORWARDS[name], np.linspace(0.5, 2, 6, dtype=np.float32).reshape(3, 2)
    assert verify.vjp(forward, scaled(forward, 1.0), (X, w)).verdict == "right"


def test_a_factor_that_only_the_parameter_beside_it_shows():
    forward = FORWARDS["scattered"]
    w = np.ones((3, 2), np.float32)
    assert verify.vjp(forward, scaled(forward, 1.01), (X, w), diagnose=False).verdict == "wrong"
