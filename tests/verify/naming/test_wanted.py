"""Operations turned round: the operand for which an operation gives a wanted value."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import _jaxpr
from jaxbias.verify.naming.wanted import wanted_operand

RNG = np.random.default_rng(5)


def positive(*shape):
    return 0.5 + RNG.uniform(size=shape)


CASES = {
    "mul": (lambda a, b: a * b, 0, (positive(3, 4), positive(3, 4))),
    "mul, broadcast": (lambda a, b: a * b[:, None], 0, (positive(3, 4), positive(3))),
    "sub, second": (lambda a, b: a - b, 1, (positive(3), positive(3))),
    "div, second": (lambda a, b: a / b, 1, (positive(3), positive(3))),
    "add": (lambda a, b: a + b, 0, (positive(3), positive(3))),
    "exp": (lambda a: jnp.exp(a), 0, (positive(3),)),
    "log": (lambda a: jnp.log(a), 0, (positive(3),)),
    "neg": (lambda a: -a, 0, (positive(3),)),
    "transpose": (lambda a: a.transpose(2, 0, 1), 0, (positive(2, 3, 4),)),
    "reshape": (lambda a: a.reshape(6), 0, (positive(2, 3),)),
    "reversed": (lambda a: lax.rev(a, (1,)), 0, (positive(2, 3),)),
    "broadcast": (lambda a: jnp.broadcast_to(a, (4, 3)), 0, (positive(3),)),
    "product, first": (lambda a, b: a @ b, 0, (positive(5, 3), positive(3, 4))),
    "product, second": (lambda a, b: a @ b, 1, (positive(5, 3), positive(3, 4))),
    "product of batches": (
        lambda a, b: jnp.einsum("bhij,bhjd->bhid", a, b), 0, (positive(2, 2, 5, 3), positive(2, 2, 3, 4))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_operand_that_was_there(name):
    """From the output and the other operands; probes along the first axis."""
    function, k, args = CASES[name]
    program = _jaxpr.trace(lambda *xs: [function(*xs)], *args)
    probes = [args, tuple(positive(*np.shape(x)) for x in args)]
    values = [_jaxpr.evaluate(program, probe) for probe in probes]
    stacked = lambda number: np.stack([np.asarray(v[number]) for v in values])
    equation = program.equations[-1]
    operands = [stacked(number) for number in equation.inputs]
    wrong = list(operands)
    k = min(k, len(operands) - 1)
    wrong[k] = RNG.uniform(size=operands[k].shape)
    found = wanted_operand(equation, k, stacked(equation.outputs[0]), wrong)
    assert found is not None
    np.testing.assert_allclose(found, operands[k], rtol=1e-9)


def test_what_a_mask_leaves_out_is_as_wrong_as_the_rest():
    lower = _jaxpr.trace(lambda a: [jnp.tril(a)], positive(3, 3)).equations[-1]
    own = positive(2, 3, 3)
    mask = np.broadcast_to(np.tril(np.ones((3, 3), bool)), own.shape)
    operands = {"select_n": [mask.astype(int), np.zeros_like(own), own], "mul": [own, mask.astype(float)]}[lower.name]
    k = [lower.inputs.index(n) for n in lower.inputs if n not in lower.program.constants][-1]
    turned = wanted_operand(lower, k, np.where(mask, -own, 0), operands)
    assert turned is not None and np.array_equal(turned, -own)
    assert wanted_operand(lower, k, -own, operands) is None


def test_no_operand_where_there_is_none_or_more_than_one():
    square = _jaxpr.trace(lambda a: [a * a], positive(3)).equations[-1]
    assert wanted_operand(square, 0, positive(2, 3), [positive(2, 3)] * 2) is None
    product = _jaxpr.trace(lambda a, b: [a @ b], positive(5, 3), positive(3, 2)).equations[-1]
    assert wanted_operand(product, 0, positive(2, 5, 2), [positive(2, 5, 3), positive(2, 3, 2)]) is None
