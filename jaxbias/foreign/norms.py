"""Batch norms of a whole model, in anyone's tree: which stand behind a weight, and that weight with the norm folded in.

With running statistics a batch norm is z ↦ g ⊙ z + t for each channel, g = γ/√(σ² + ε), t = β − g μ. Behind a product
z = a·W + b that nothing else uses, both go into the product,

    W′ = W g,     b′ = g b + t,     and the norm becomes the identity: γ′ = √(σ² + ε), β′ = μ

or, where the product has no bias and no place for one, β′ = μ + t keeps the shift. g and t are not read from names or
from ε: they are the derivative and the value of that part of the traced model, so γ ≤ 0, norms written in another way
and kernels in any layout are nothing special.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias.foreign._graph import Contact, Graph, Step, run_chain
from jaxbias.foreign._measured import Surgery, measured
from jaxbias.foreign._places import with_places
from jaxbias.foreign.traced import split_params


@dataclass(frozen=True)
class NormPair:
    """A norm with running statistics, and the weight that it could be folded into.

    Attributes:
        weight, bias: paths of the product's leaves; "" where there is none, or none that is its own.
        scale, shift: paths of γ and β.
        where: the user's line at which the norm divides by its deviation.
        why: why the norm must be left alone; "" if it can be folded.
    """

    weight: str
    bias: str
    scale: str
    shift: str
    where: str
    why: str = ""

    def __str__(self) -> str:
        leaves = " + ".join(path for path in (self.weight, self.bias) if path) or "no weight"
        norm = f"{self.scale or self.shift or 'a norm without leaves'} ({self.where})"
        return f"{leaves} <- {norm}" + (f": left alone, {self.why}" if self.why else "")


class _Norm(NamedTuple):
    """A norm that was found, and what lies between the product and its end."""

    pair: NormPair
    contact: Contact | None = None
    chain: tuple[Step, ...] = ()
    scale: int | None = None
    shift: int | None = None
    bias: int | None = None


def batch_norms(fn: Callable, params: Any, batch_stats: Any, *args: Any) -> tuple[NormPair, ...]:
    """Every norm with running statistics in `fn(params, batch_stats, *args)`, and whether a weight can take it in.

    Args:
        fn, params, batch_stats, args: as for `fold_batch_norms`; nothing is computed.

    Example: `for pair in jb.surgery.batch_norms(fn, params, batch_stats, x): print(pair)`.
    """
    return tuple(norm.pair for norm in _find(Graph(fn, params, batch_stats, args)))


def fold_batch_norms(fn: Callable, params: Any, batch_stats: Any, *args: Any) -> Surgery:
    """Params with every batch norm folded into the weight before it, as far as it must not be left alone.

    The norms stay in fn, as the identity (γ′ = √(σ² + ε), β′ = μ, with batch_stats as they are), so that a model without
    them takes the same weights and biases. Left alone, as `batch_norms` says with the reason, is a norm

    - behind something else than one product: an activation, a sum, a pooling, another norm; or inside of a loop;
    - whose product is used elsewhere too, or whose weight, scale or shift is;
    - that takes the statistics of the batch (training mode), or has no scale that could undo it.

    A product without a bias gets one where the model has a place for it, a None beside the weight that fn adds if it is
    an array (Equinox before 0.11, `jb.Params`); elsewhere the norm's own shift holds what the bias would.

    Args:
        fn: `(params, batch_stats, *args) -> output`, in inference mode, any traceable function.
        params: pytree of arrays, the norms' scales and shifts among them.
        batch_stats: running means and variances, any pytree of arrays; it is not changed.
        args: data, on which the change is measured.

    Returns:
        `Surgery(params, change)`: the change of fn itself is rounding.

    Example: `params, change = jb.surgery.fold_batch_norms(fn, params, batch_stats, x)`.

    Source: B. Jacob and others, Quantization and training of neural networks (2018), eq. 14.
    """
    with_held = lambda params, *args: fn(params, batch_stats, *args)
    placed = params
    norms = _find(Graph(fn, params, batch_stats, args))
    bare = [norm.pair.weight for norm in norms if not norm.pair.why and norm.bias is None]
    if bare:
        placed = with_places(with_held, params, args, bare)
        norms = _find(Graph(fn, placed, batch_stats, args)) if placed is not params else norms
    graph = Graph(fn, placed, batch_stats, args)
    norms = [norm for norm in _find(graph) if not norm.pair.why]
    if not norms:
        return Surgery(params, 0.0)
    split = split_params(placed)
    leaves = jax.jit(lambda leaves, held: _folded(graph, norms, leaves, held))(split.leaves, graph.held)
    return measured(with_held, params, split.rebuild(leaves), args)


# --- finding ----------------------------------------------------------------------------------------------------------


def _find(graph: Graph) -> list[_Norm]:
    norms = []
    for equation in graph.program.equations:
        step = graph.step(equation)
        if step is None or equation.name not in ("mul", "div") or step.other is None:
            continue
        if step.other in graph.rooted and graph.made_of[step.other]:
            norms.append(_norm(graph, step))
    return norms


def _norm(graph: Graph, at: Step) -> _Norm:
    """The norm that divides by a deviation at this step."""
    before, contact, why = _back(graph, at)
    after = _forward(graph, at)
    chain = (*before, at, *after)
    factors = [step for step in (at, *after) if step.equation.name in ("mul", "div")]
    scaling = [i for step in factors for i in graph.leaves_in(step.other)]
    added = lambda steps: [
        i
        for step in steps
        if step.equation.name in ("add", "add_any")
        for i in graph.leaves_in(step.other)
        if i not in scaling
    ]
    scale, shift, bias = (next(iter(leaves), None) for leaves in (scaling, added(after), added(before)))
    inside = {id(step.equation) for step in chain}
    if contact is not None and not why:
        why = _shared(graph, contact, inside, {"scale": scale, "shift": shift, "bias": bias})
    if not why and scale is None:
        why = "it has no scale that could undo what the weight takes"
    if not why and shift is None and bias is None:
        why = "there is neither a shift nor a bias that could take its own"
    path = lambda leaf: "" if leaf is None else graph.paths[leaf]
    weight = contact.leaf if contact is not None else None
    source = str(at.equation.source or "")
    return _Norm(NormPair(path(weight), path(bias), path(scale), path(shift), source, why),
                 contact, chain, scale, shift, bias)  # fmt: skip


def _back(graph: Graph, at: Step) -> tuple[list[Step], Contact | None, str]:
    """(steps, product, why not) from the norm back to the product before it."""
    steps: list[Step] = []
    value = at.equation.inputs[at.position]
    while True:
        equation = graph.producer.get(value)
        if equation is None:
            return steps, None, "no weight lies before it"
        contact = graph.contact(equation)
        if graph.only_use(value) is None:
            return steps, contact, f"what it normalises ({equation.name}) is used elsewhere too"
        if contact is not None:
            return steps, contact, ""
        step = graph.step(equation)
        if step is None:
            several = sum(v in graph.on_data for v in equation.inputs) > 1
            statistics = several and equation.name == "sub"
            return steps, None, (
                "it takes the statistics of the data" if statistics else f"{equation.name} lies before it"
            )  # fmt: skip
        if step.other in graph.rooted and equation.name in ("mul", "div"):
            return steps, None, "another norm lies before it"
        steps.insert(0, step)
        value = equation.inputs[step.position]


def _forward(graph: Graph, at: Step) -> list[Step]:
    """The scale and shift that follow a norm, up to the first equation that is neither."""
    steps: list[Step] = []
    kept = 0
    value = at.equation.outputs[0]
    while (use := graph.only_use(value)) is not None:
        step = graph.step(use.equation)
        if step is None or step.other in graph.rooted and use.equation.name in ("mul", "div"):
            break
        steps.append(step)
        if step.other is not None and graph.leaves_in(step.other):
            kept = len(steps)
        value = use.equation.outputs[0]
    return steps[:kept]


def _shared(graph: Graph, contact: Contact, inside: set[int], others: dict[str, int | None]) -> str:
    """Which leaf is used elsewhere too; "" for none."""
    if graph.met[contact.leaf] != {id(contact.equation)}:
        return f"the weight {graph.paths[contact.leaf]} is used elsewhere too"
    for name, leaf in others.items():
        if leaf is not None and not graph.met[leaf] <= inside:
            return f"the {name} {graph.paths[leaf]} is used elsewhere too"
    return ""


# --- folding ----------------------------------------------------------------------------------------------------------


def _folded(graph: Graph, norms: Sequence[_Norm], leaves: Sequence[Array], held: Sequence[Array]) -> list[Array]:
    new = list(leaves)
    for norm in norms:
        for leaf, value in _fold(graph, norm, leaves, held).items():
            new[leaf] = value.astype(leaves[leaf].dtype)
    return new


def _fold(graph: Graph, norm: _Norm, leaves: Sequence[Array], held: Sequence[Array]) -> dict[int, Array]:
    """The leaves of one norm and its product, by number."""
    contact, chain = norm.contact, norm.chain
    assert contact is not None and norm.scale is not None
    z = contact.equation.outputs[0]
    zero = jnp.zeros(graph.program.shapes[z], graph.program.dtypes[z])
    operands = [step.other for step in chain if step.other is not None]
    # one entry of each channel: a sum over all positions would round
    kept = {axis for _, axis in contact.along}
    first = np.zeros(zero.shape)
    first[tuple(slice(None) if i in kept else slice(0, 1) for i in range(zero.ndim))] = 1
    once = jnp.asarray(first, zero.dtype)
    once_out = run_chain(chain, {}, once, moves_only=True)

    def with_leaves(changed: dict[int, Array]) -> dict[int, Array]:
        return graph.without_data(operands, [changed.get(i, leaf) for i, leaf in enumerate(leaves)], held)

    def gain(changed: dict[int, Array]) -> Array:
        others = with_leaves(changed)
        out, pull = jax.vjp(lambda z: run_chain(chain, others, z), zero)
        return pull(jnp.ones_like(out))[0]

    def offset(changed: dict[int, Array]) -> Array:
        return run_chain(chain, with_leaves(changed), zero)

    def solved(leaf: int, wanted: Array, changed: dict[int, Array]) -> Array:
        """The leaf at which the offset is the wanted one; the offset moves with it one to one."""
        missing = wanted - offset(changed)
        _, pull = jax.vjp(lambda x: offset(changed | {leaf: x}), changed.get(leaf, leaves[leaf]))
        return changed.get(leaf, leaves[leaf]) + pull(missing * once_out)[0] / pull(once_out)[0]

    old_gain, old_offset = gain({}), offset({})
    ones = jnp.ones_like(leaves[norm.scale])
    # each entry of the scale is seen once for each channel that it scales
    count = jax.grad(lambda scale: jnp.sum(once * gain({norm.scale: scale})))
    of_scale = count(ones) * (ones.size / once.sum())
    new = {norm.scale: 1 / of_scale}
    if norm.bias is not None:
        new[norm.bias] = jnp.zeros_like(leaves[norm.bias])
    if norm.shift is not None:
        new[norm.shift] = solved(norm.shift, jnp.zeros_like(old_offset) if norm.bias is not None else old_offset, new)
    if norm.bias is not None:
        new[norm.bias] = solved(norm.bias, old_offset, new)
    new[contact.leaf] = leaves[contact.leaf] * _over_leaf(graph, contact, old_gain, leaves[contact.leaf])
    return new


def _over_leaf(graph: Graph, contact: Contact, gain: Array, leaf: Array) -> Array:
    """The gain of every output as a factor of every entry of the leaf."""
    operand = contact.equation.inputs[contact.position]
    shape = graph.program.shapes[operand]
    along = dict(contact.along)
    rows = gain[tuple(slice(None) if i in along.values() else 0 for i in range(gain.ndim))]
    kept = sorted(along.values())  # axes of `rows`, in order
    order = sorted(along)  # axes of the operand
    rows = jnp.transpose(rows, [kept.index(along[axis]) for axis in order])
    factors = jnp.broadcast_to(rows.reshape([n if i in along else 1 for i, n in enumerate(shape)]), shape)
    whole = [leaf if i == contact.leaf else jnp.zeros(x.shape, x.dtype) for i, x in enumerate(graph.leaves)]
    held = [jnp.zeros(x.shape, x.dtype) for x in graph.held]

    def laid_out(leaf: Array) -> Array:
        return graph.without_data([operand], [leaf if i == contact.leaf else x for i, x in enumerate(whole)], held)[operand]

    out, pull = jax.vjp(laid_out, leaf)
    return pull(factors.astype(out.dtype))[0]
