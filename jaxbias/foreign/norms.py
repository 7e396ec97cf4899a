"""Batch norms of a whole model, in anyone's tree: which stand behind a weight, and that weight with the norm folded in.

With running statistics a batch norm is z ↦ g ⊙ z + t for each channel, g = γ/√(σ² + ε), t = β − g μ. Behind a product
z = a·W + b that nothing else uses, both go into the product,

    W′ = W g,     b′ = g b + t,     and the norm becomes the identity: γ′ = √(σ² + ε), β′ = μ

or, where the product has no bias and no place for one, β′ = μ + t keeps the shift. g and t are not read from names or
from ε: they are the derivative and the value of that part of the traced model, so γ ≤ 0, norms written in another way
and kernels in any layout are nothing special.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias._jaxpr import Equation
from jaxbias.foreign._graph import Body, Contact, Graph, Step, run_chain
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
    """A norm that was found, and what lies between the product and its end; leaves by number, in a loop of its body."""

    pair: NormPair
    contact: Contact | None = None
    chain: tuple[Step, ...] = ()
    scale: int | None = None
    shift: int | None = None
    bias: int | None = None
    loop: Body | None = None


def batch_norms(fn: Callable, params: Any, batch_stats: Any, *args: Any) -> tuple[NormPair, ...]:
    """Every norm with running statistics in `fn(params, batch_stats, *args)`, and whether a weight can take it in.

    Args:
        fn, params, batch_stats, args: as for `fold_batch_norms`; nothing is computed.

    Example: `for pair in jb.surgery.batch_norms(fn, params, batch_stats, x): print(pair)`.
    """
    return tuple(norm.pair for norm in _find(Graph(fn, params, batch_stats, args)))


def fold_batch_norms(fn: Callable, params: Any, batch_stats: Any, *args: Any) -> Surgery:
    """Params with every batch norm folded into the weight before it, as far as it must not be left alone.

    The norms stay in fn, as the identity (γ′ = √(σ² + ε), β′ = μ, with batch_stats as they are), so that a model
    without them takes the same weights and biases. Left alone, as `batch_norms` says with the reason, is a norm

    - behind something else than one product: an activation, a sum, a pooling, another norm;
    - whose product is used elsewhere too, or whose weight, scale or shift is;
    - that takes the statistics of the batch (training mode), or has no scale that could undo it;
    - in a branch, a while loop or a loop in a loop. In a `lax.scan` over layers the norms of every layer are folded.

    A product without a bias gets one where the model has a place for it, a None beside the weight that fn adds if it is
    an array (`jb.Params`, `eqx.nn.Linear`); elsewhere the norm's own shift holds what the bias would.

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
    graph, placed = Graph(fn, params, batch_stats, args), params
    norms = _foldable(graph)
    if bare := [norm.pair.weight for norm in norms if norm.bias is None and norm.loop is None]:
        placed = with_places(with_held, params, args, bare)
    if placed is not params:
        graph = Graph(fn, placed, batch_stats, args)
        norms = _foldable(graph)
    if not norms:
        return Surgery(params, 0.0)
    split = split_params(placed)
    leaves, undone = jax.jit(lambda leaves, held: _folded(graph, norms, leaves, held))(split.leaves, graph.held)
    if not all(undone):
        first = next(norm for norm, fine in zip(norms, undone) if not fine)
        warnings.warn(
            f"fold_batch_norms: at these values no scale undoes {sum(not fine for fine in undone)} of {len(norms)} "
            f"norms, which are left alone; the first is {first.pair}. Another factor or a variance is 0 or not finite.",
            stacklevel=2,
        )
    return measured(with_held, params, split.rebuild(leaves), args)


# --- finding ----------------------------------------------------------------------------------------------------------


def _foldable(graph: Graph) -> list[_Norm]:
    return [norm for norm in _find(graph) if not norm.pair.why]


def _find(graph: Graph) -> list[_Norm]:
    norms = []
    for equation in graph.program.equations:
        for body in equation.bodies:
            loop = Graph.of_body(graph, equation, body)
            norms += [_in_loop(norm, loop, equation) for norm in _find(loop.graph)]
        step = graph.step(equation)
        if step is None or equation.name not in ("mul", "div") or step.other is None:
            continue
        if step.other in graph.rooted and graph.made_of[step.other]:
            norms.append(_norm(graph, step))
    return norms


def _in_loop(norm: _Norm, loop: Body, equation: Equation) -> _Norm:
    """A norm of a body; only a scan's own are folded."""
    if norm.loop is None and equation.name == "scan":
        return norm._replace(loop=loop)
    why = norm.pair.why or f"it stands in a {'loop in a loop' if norm.loop else equation.name}"
    return norm._replace(pair=replace(norm.pair, why=why), loop=loop)


def _norm(graph: Graph, at: Step) -> _Norm:
    """The norm that divides by a deviation at this step."""
    before, contact, why = _back(graph, at)
    after = _forward(graph, at)
    chain = (*before, at, *after)
    factors = [step for step in (at, *after, *reversed(before)) if step.equation.name in ("mul", "div")]
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
            between = f"{equation.called or equation.name} lies before it"
            return steps, None, "it takes the statistics of the data" if statistics else between
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
        if step is None or (step.other in graph.rooted and use.equation.name in ("mul", "div")):
            break
        held_alone = step.other is not None and bool(graph.made_of.get(step.other)) and not graph.leaves_in(step.other)
        if held_alone and step.other not in graph.rooted:  # the mean of the next norm
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


def _folded(
    graph: Graph, norms: Sequence[_Norm], leaves: Sequence[Array], held: Sequence[Array]
) -> tuple[list[Array], list[Array]]:
    """The new leaves, and of each norm whether it could be undone."""
    new, undone = list(leaves), []
    for norm in norms:
        fold = _fold if norm.loop is None else _fold_in_loop
        changed, fine = fold(graph, norm, leaves, held)
        for leaf, value in changed.items():
            new[leaf] = jnp.where(fine, value, leaves[leaf])
        undone.append(fine)
    return new, undone


def _fold(graph: Graph, norm: _Norm, leaves: Sequence[Array], held: Sequence[Array]) -> tuple[dict[int, Array], Array]:
    """The leaves of one norm and its product, by number, and whether the norm is undone by them."""
    contact, chain, scale = norm.contact, norm.chain, norm.scale
    assert contact is not None and scale is not None
    z = contact.equation.outputs[0]
    zero = jnp.zeros(graph.program.shapes[z], graph.program.dtypes[z])
    operands = [step.other for step in chain if step.other is not None]
    # one entry of each channel stands for all: sums over positions would round
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
        now, pull = jax.vjp(lambda x: offset(changed | {leaf: x}), zeros := jnp.zeros_like(leaves[leaf]))
        return zeros + pull((wanted - now) * once_out)[0] / pull(once_out)[0]

    old_gain, old_offset = gain({}), offset({})
    ones = jnp.ones_like(leaves[scale])
    of_scale = jax.grad(lambda x: jnp.sum(once * gain({scale: x})))(ones)
    # an entry of the scale stands for so many channels, and is in each of them
    new: dict[int, Array] = {scale: float(first.sum()) / ones.size / of_scale}
    if norm.bias is not None:
        new[norm.bias] = jnp.zeros_like(leaves[norm.bias])
    if norm.shift is not None:
        new[norm.shift] = solved(norm.shift, jnp.zeros_like(old_offset) if norm.bias is not None else old_offset, new)
    if norm.bias is not None:
        new[norm.bias] = solved(norm.bias, old_offset, new)
    left = gain(new)  # 1 but for rounding, which the weight takes too
    undone = jnp.max(jnp.abs(left - 1)) < jnp.finfo(zero.dtype).eps ** 0.5  # NaN is not
    new[contact.leaf] = leaves[contact.leaf] * _over_leaf(graph, contact, old_gain / left, leaves[contact.leaf])
    return new, undone


def _fold_in_loop(
    graph: Graph, norm: _Norm, leaves: Sequence[Array], held: Sequence[Array]
) -> tuple[dict[int, Array], Array]:
    """As `_fold`, of all turns of a scan at once."""
    assert norm.loop is not None
    body, numbers, values, sliced = norm.loop
    outside = graph.without_data(values, leaves, held)
    axes = [0 if along else None for along in sliced]
    fold = lambda leaves, held: _fold(body, norm, leaves, held)
    over = jax.vmap(fold, in_axes=(axes[: len(numbers)], axes[len(numbers) :]))
    changed, fine = over([leaves[i] for i in numbers], [outside[v] for v in values])
    return {numbers[i]: value for i, value in changed.items()}, fine.all()


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
        return graph.without_data([operand], [leaf if i == contact.leaf else x for i, x in enumerate(whole)], held)[
            operand
        ]

    out, pull = jax.vjp(laid_out, leaf)
    return pull(factors.astype(out.dtype))[0]
