"""What every room asks of a leaf or an exception. The errors of leaves: tests/test_derivations.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias._trees import first_line, in_one_line, is_float, path_name


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (jnp.zeros(2, jnp.bfloat16), True),
        (np.zeros(2, np.complex64), True),
        (1.0, True),
        (jax.ShapeDtypeStruct((2,), jnp.float16), True),
        (np.zeros(2, bool), False),
        (3, False),
        (jax.random.key(0), False),
    ],
)
def test_floats_have_gradients(leaf, expected):
    assert is_float(leaf) is expected


def test_an_exception_in_one_line():
    error = ValueError("\n  rows differ: 3 and 4\n  in line 7")
    assert first_line(error) == "rows differ: 3 and 4"
    assert in_one_line(error) == "ValueError: rows differ: 3 and 4"
    assert first_line(KeyError()) == "" and in_one_line(KeyError()) == "KeyError"


def test_paths_as_text():
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(({"weight": 1}, [2]))]
    assert paths == ["0.weight", "1.0"] and path_name(()) == ""
