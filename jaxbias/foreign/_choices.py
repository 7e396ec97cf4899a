"""Data that say which: indices, masks, one-hot rows, softmax mixtures; recognised by how they are made."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import Equation
from jaxbias._jaxpr.queries import LAYOUT
from jaxbias.foreign._values import CONSTANT, DATA, Value, fresh

ELEMENTWISE_CHOICES = frozenset(
    "select_n lt le gt ge eq ne add sub mul rem clamp max min and or not sign div convert_element_type".split()  # noqa: SIM905
)
"""Operations by which an index is wrapped or compared, and stays the same choice."""

KEEPS_MIXTURE = frozenset("mul div select_n reduce_sum top_k gather max add".split())  # noqa: SIM905
"""Operations of mixtures, rows and masks alone that make a mixture: of the best few, scaled to sum to 1."""


def selection(equation: Equation, values: list[Value]) -> dict[str, Any]:
    """Whether data made here say which: attributes of the new `Value`."""
    name, dtype = equation.name, equation.dtypes.outputs[0]
    data = [v for v in values if v.kind == DATA]
    idents = frozenset().union(*(v.idents for v in data))
    discrete = not jnp.issubdtype(dtype, jnp.inexact)
    n = data[0].sums[1] if data[0].sums else None
    if name in LAYOUT or (name in ("stop_gradient", "concatenate") and len(data) == 1):
        return {"selects": data[0].selects, "idents": data[0].idents, "sums": data[0].sums}
    if name in ("exp", "exp2"):
        return {"sums": ("exp", min(fresh()))}
    if name == "reduce_sum" and data[0].sums == ("exp", n):
        return {"sums": ("sum", n)}
    if name == "div" and [v.sums for v in data] == [("exp", n), ("sum", n)]:
        return {"selects": "mixture"}
    if all(v.selects for v in data) and name in KEEPS_MIXTURE and not discrete:
        kinds = [v.selects for v in data]
        kept = next(kind for kind in ("mixture", "rows", "mask") if kind in kinds)
        return {"selects": kept, "idents": frozenset().union(*(v.idents for v in data if v.selects == kept))}
    if discrete and name in ELEMENTWISE_CHOICES:
        same = len({v.idents for v in data}) == 1
        selects = "" if dtype != jnp.bool_ else "rows" if name == "eq" else "mask"
        return {"selects": selects, "idents": idents if same else fresh()}
    if discrete and dtype == jnp.bool_:
        return {"selects": "mask"}
    return {}


def constant(held: Any) -> Value:
    """A constant; one-hot rows of numbers say which."""
    if not np.ndim(held):
        return Value()
    if np.ndim(held) < 2 or not jnp.issubdtype(jnp.result_type(held), jnp.floating):
        return Value(idents=fresh())
    x = np.asarray(held, np.float32)
    zero_or_one = all(np.isin(part, (0, 1)).all() for part in (x.reshape(-1)[:64], x))  # most end at the first
    one_hot = zero_or_one and x.any() and not x.all() and ((x.sum(-1) <= 1).all() or (x.sum(0) <= 1).all())
    return Value(selects="rows" if one_hot else "", idents=fresh())


def without_data(equation: Equation, values: Sequence[Value], kind: int) -> Value:
    """Constants made of constants, or noise."""
    moves = equation.name in LAYOUT or equation.name == "not"
    rows = equation.name == "eq" and kind == CONSTANT and len(equation.shapes.outputs[0]) > 1
    selects = values[0].selects if equation.name in LAYOUT else "rows" if rows else ""
    return Value(kind, selects=selects, idents=values[0].idents if moves else fresh())
