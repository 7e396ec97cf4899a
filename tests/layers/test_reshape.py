import jax.numpy as jnp
import pytest

from jaxbias.layers import reshape
from tests.planted import assert_caught


def test_by_hand():
    z, residuals = reshape.layer((3, -1)).forward((), jnp.arange(12.0).reshape(2, 2, 3))
    assert z.tolist() == [[[0.0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]
    assert reshape.backward(residuals, z)[1].tolist() == jnp.arange(12.0).reshape(2, 2, 3).tolist()


def test_rows_stay_apart():
    assert reshape.layer().forward((), jnp.ones((5, 2, 3)))[0].shape == (5, 6)
    assert reshape.layer((-1, 3)).forward((), jnp.ones((0, 6)))[0].shape == (0, 2, 3)


@pytest.mark.parametrize("shape", [(4,), (-1, 4), (-1, -1), (-6,), (0, -1)])
def test_shapes_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"reshape.forward: each row of x has 6 entries, .*\(x has shape \(5, 2, 3\)"):
        reshape.layer(shape).forward((), jnp.ones((5, 2, 3)))


@pytest.mark.usefixtures("as_users_run_it")
def test_a_scalar_has_no_rows():
    with pytest.raises(ValueError, match=r"reshape.forward: x must be \(n, ...\), got a scalar"):
        reshape.layer().forward((), jnp.ones(()))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d, shape: d.T.reshape(shape),
        lambda d, shape: jnp.flip(d, 0).reshape(shape),
        lambda d, shape: jnp.swapaxes(d.reshape(shape[0], *shape[:0:-1]), 1, 2),
    ],
    ids=["rows mixed", "rows exchanged", "other memory order"],
)
def test_planted_faults_are_caught(key, wrong):
    example = reshape.DERIVATIONS[0].examples[0]
    assert_caught(example, key, lambda r, d: ((), wrong(d, r.x_shape.value)), {"1"})
