"""The library's own layers and losses: what is derived of them, beside what was written by hand."""

import statistics

import jax
import pytest

from docs import derived_layers
from docs.derived_layers import MOST, Row, rows, why

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")
SAMPLE = ("identity", "relu", "dense", "layer_norm", "embedding", "huber")


def test_a_sample_is_as_short_as_by_hand():
    with jax.enable_x64(False):
        sample = rows(SAMPLE)
    assert statistics.median(row.ratio for row in sample) <= MOST
    assert not any(row.unwritten for row in sample)


@pytest.mark.slow
def test_all_are_right_and_as_short_as_by_hand():
    """What is wrong raises. The page is written on the newest JAX; what autodiff leaves to it may differ elsewhere."""
    with jax.enable_x64(False):
        every = rows()
    assert len(every) >= 66 and statistics.median(row.ratio for row in every) <= MOST
    shown = derived_layers.PAGE.read_text(encoding="utf-8")
    assert all(f"| `{row.name}` |" in shown for row in every), "run python -m docs.derived_layers"


def test_statements_are_counted():
    """By hand: three of five stand in loops and branches; a docstring and an expression are none."""
    code = '''
def forward(x):
    return x, ()

def backward(residuals, d):
    """Not counted."""
    x, = residuals
    def step(carry, at):
        c = carry + at
        return c, None
    print(d)
    d += 1
    return d,
'''
    assert derived_layers.statements_in(code) == 5


def test_only_what_runs_of_the_hand_written_is_counted():
    """Of `dense.backward` the assignment without a bias does not run; `check_…` are no part of a derivation."""
    (row,) = rows(["dense"])
    assert (row.hand, row.whole, row.helpers) == (4, 4, ())


def test_the_reason_names_what_is_called():
    assert why(Row("softplus", 5, 2, 9, ("_helper",), ())) == "calls `_helper`: 9 statements with them"
    assert why(Row("softplus", 5, 2, 2, (), ())).startswith("returns at once")
