"""For the optimizer Muon: which axes of every weight are its rows and its columns, read from the use of the weight."""

from collections.abc import Callable
from typing import Any

import optax

from jaxbias.foreign import _axes, _nnx
from jaxbias.foreign.traced import split_params
from jaxbias.foreign.uses import Uses, trace_uses
from jaxbias.params import Tree


def muon_dimension_numbers(fn: Callable, params: Tree, *args: Any, **options: Any) -> Tree:
    """`optax.contrib.MuonDimensionNumbers` of every weight of `fn(params, *args, **options)`, None elsewhere.

    Muon makes the update of a matrix orthogonal, so it must know what the matrix is: of the kernel (d, heads, size) of
    an attention's query the axes (0) and (1, 2), of its output kernel (heads, size, d) the axes (0, 1) and (2), of
    layers stacked as (layers, in, out) one matrix for each layer. Both groups are read at the product in which the
    weight meets data: the axes that are summed over, and those that the output runs along; all others count matrices.
    optax gives leaves with None to Adam: biases, scales, embeddings (a tied table too), and weights whose axes cannot
    be told.

    Args:
        fn, params, args, options: as for `roles`.

    Returns:
        A tree like params; a function that gives it where optax would call the tree, or for a State of Flax nnx.

    Raises:
        ValueError: a leaf never meets data.

    Example: `optax.contrib.muon(1e-3, muon_weight_dimension_numbers=jb.muon_dimension_numbers(model, params, x))`.

    Source: K. Jordan and others, Muon: an optimizer for hidden layers in neural networks (2024).
    """
    uses = trace_uses(fn, params, args, options)
    uses.check_all_met("muon_dimension_numbers")
    _, params = _nnx.split_module(fn, params)
    return _nnx.for_optax(split_params(params).rebuild([_dimensions(uses, i) for i in range(len(uses.paths))], None))


def _dimensions(uses: Uses, leaf: int) -> optax.contrib.MuonDimensionNumbers | None:
    if uses.role(leaf) != "weight":
        return None
    for use in uses.of(leaf):
        groups = _axes.contraction(*use.place)
        if groups is not None and all(groups):
            return optax.contrib.MuonDimensionNumbers(*groups)
    return None
