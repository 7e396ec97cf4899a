"""How the per-example gradient of each leaf is handled: by the Gram form where that is cheaper, else formed.

Sums of weighted gradients cost the Gram form beside the one product that every gradient needs. So where the gradients
of all examples fit into a cache they are formed, as `vmap(grad)` would, unless a contact has one row, of which the norm
is ‖a‖ ‖δ‖, or a loop uses the whole leaf, and would add to its gradient in every turn.

For each leaf one of

    gram       one contact; ‖G‖² is computed in the backward pass, at the contact, and only that number is kept
    shared     several contacts, or one that a scan repeats: (a, δ) of all of them are kept, and cross products counted
    formed     the per-example gradient is formed, as `vmap(grad)` would: biases, scales, small kernels
    unused     no contact: the gradient is zero
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jaxbias._jaxpr import Equation, Program
from jaxbias._jaxpr.queries import backward_slice
from jaxbias._numerics import accumulation_dtype
from jaxbias.foreign.capture import _factors
from jaxbias.foreign.sites import Analysis, Origin, Site

SAME_NORM = frozenset(
    "convert_element_type reshape transpose squeeze rev copy reduce_precision slice split name "  # noqa: SIM905
    "optimization_barrier sharding_constraint layout_constraint mesh_cast reshard".split()
)
"""Operations whose backward keeps the norm of a gradient: they move entries and drop none that has a gradient.

Not `pvary`, by which a leaf meets data that other devices have other parts of: its backward sums over these devices."""

PRODUCTS = frozenset(("dot_general", "conv_general_dilated", "gather", "dynamic_slice"))
ELEMENTWISE = frozenset(("add", "add_any", "sub", "mul"))
"""Contacts that are linear in the leaf, and so can be read by taps."""

CACHE = 16 * 2**20
"""Bytes of gradients that are written and read at little cost; measured, between 13 MiB (gain) and 25 MiB (loss)."""

TURN = 32 * 2**10
"""Bytes that a turn of a loop writes in about the time that its operations take at the least."""


@dataclass(frozen=True, eq=False)
class Tap:
    """A contact at which (a, δ) are read.

    Attributes:
        links: for each scope from the outside in, how the leaf enters it: "sliced" or "whole" by a scan, "call".
        lengths: of those scans, 1 for a call.
        permutation: axis of the leaf that each axis of the operand is; None where there is more than permutation.
        operand: the operand as a program of what enters the innermost scope.
    """

    number: int
    leaf: int
    site: Site
    sizes: _factors.Sizes | None
    links: tuple[str, ...]
    lengths: tuple[int, ...]
    permutation: tuple[int, ...] | None
    operand: Program


@dataclass(frozen=True)
class Method:
    """How one leaf is handled.

    Attributes:
        name: "gram", "shared", "formed" or "unused".
        block: rows (gram, shared) or columns (formed at a contact) at a time; None for all at once.
        taps: contacts that are read; empty where the gradient is formed at the leaf.
        at_contact: formed at the contact, block by block, rather than at the leaf.
    """

    name: str
    taps: tuple[Tap, ...] = ()
    block: int | None = None
    at_contact: bool = False

    @property
    def text(self) -> str:
        """For the user: what is done, and in blocks of how many rows or columns."""
        if self.name in ("formed", "unused") and not self.at_contact:
            return self.name
        unit = "columns" if self.at_contact else "rows"
        return self.name + (f", {self.block} {unit} at a time" if self.block else "")


def plan(
    analysis: Analysis, shapes: Sequence, batch: int, memory_limit: int, form_at_leaf: bool = False
) -> list[Method]:
    """Method of every leaf.

    Args:
        shapes: arrays or shape structs of the leaves.
        batch: examples that are processed together.
        form_at_leaf: form gradients at the leaf, where they can be kept, rather than at the contact.
        memory_limit: bytes that one intermediate may take for the whole batch; decides the blocks.
    """
    methods = []
    small = _small(shapes, batch, memory_limit)
    for leaf, array in enumerate(shapes):
        sites = list({(s.scope, s.index, s.position): s for s in analysis.sites if leaf in s.origin.leaves}.values())
        sites = [site for site in sites if _has_gradient(site)]
        if not sites:
            methods.append(Method("unused"))
            continue
        taps = [_tap(analysis, site, leaf) for site in sites]
        method = _choose(taps, array, batch, memory_limit, form_at_leaf)
        methods.append(Method("formed") if form_at_leaf and small and not _gains(method) else method)
    return _numbered(methods)


def forming_is_enough(methods: Sequence[Method], shapes: Sequence, batch: int, memory_limit: int) -> bool:
    """Whether to form every gradient rather than to go back a second time: less than half of them would gain by it."""
    small = _small(shapes, batch, memory_limit)
    sizes = [math.prod(x.shape) for x in shapes]
    gains = lambda m: _gains(m) and batch * max(map(_turn_bytes, m.taps)) >= TURN if small else bool(m.taps)
    gaining = sum(n for n, m in zip(sizes, methods) if gains(m))
    return 2 * gaining < sum(n for n, m in zip(sizes, methods) if m.name != "unused")


def form_all(methods: Sequence[Method]) -> list[Method]:
    """Every gradient formed at its leaf."""
    return [method if method.name == "unused" else Method("formed") for method in methods]


def _small(shapes: Sequence, batch: int, memory_limit: int) -> bool:
    """Whether the gradients of all examples fit into a cache."""
    size = sum(math.prod(x.shape) * accumulation_dtype(x.dtype).itemsize for x in shapes)
    return batch * size <= min(CACHE, memory_limit)


def _gains(method: Method) -> bool:
    """Whether (a, δ) are cheaper than a gradient that fits into a cache."""
    one_row = all(tap.sizes is not None and tap.sizes.rows == 1 for tap in method.taps)
    return not method.at_contact and bool(method.taps) and one_row


def _turn_bytes(tap: Tap) -> int:
    """Bytes of the gradient of one example that one turn of a loop makes at this contact."""
    shapes, dtypes = tap.site.equation.shapes, tap.site.equation.dtypes
    return math.prod(shapes.inputs[tap.site.position]) * accumulation_dtype(dtypes.outputs[0]).itemsize


def tap_products(analysis: Analysis, shapes: Sequence) -> list[Method]:
    """Taps at every contact with factors, whatever it costs; leaves that have other contacts too get none."""
    methods = []
    for leaf in range(len(shapes)):
        sites = {(s.scope, s.index, s.position): s for s in analysis.sites if leaf in s.origin.leaves}.values()
        taps = [_tap(analysis, site, leaf) for site in sites if _has_gradient(site)]
        known = tuple(tap for tap in taps if tap is not None and tap.sizes is not None and "call" not in tap.links)
        methods.append(Method("shared", known) if taps and len(known) == len(taps) else Method("unused"))
    return _numbered(methods)


def _numbered(methods: list[Method]) -> list[Method]:
    numbers = itertools.count()
    return [replace(m, taps=tuple(replace(tap, number=next(numbers)) for tap in m.taps)) for m in methods]


def _has_gradient(site: Site) -> bool:
    return any(jnp.issubdtype(dtype, jnp.floating) for dtype in site.equation.dtypes.outputs)


def _choose(taps: list[Tap | None], array, batch: int, memory_limit: int, form_at_leaf: bool) -> Method:
    formed = Method("formed")
    known = [tap for tap in taps if tap is not None]
    if len(known) < len(taps):
        return formed
    if len(taps) == len(known) == 1 and known[0].sizes is None:  # one contact without factors: a grouped convolution
        sliced = all(link != "whole" for link in known[0].links)
        return Method("formed", tuple(known), at_contact=True) if sliced and not form_at_leaf else formed
    if any(tap.sizes is None for tap in known):
        return formed
    sizes = [tap.sizes for tap in known if tap.sizes is not None]
    itemsize = accumulation_dtype(array.dtype).itemsize
    loops = [[(link, n) for link, n in zip(tap.links, tap.lengths) if link != "call"] for tap in known]
    if len(known) == 1 and all(link == "sliced" for link, _ in loops[0]):
        (tap,) = known
        (size,) = sizes
        if size.rows * (size.left + size.right) <= size.left * size.right:
            return Method("gram", (tap,), _block(batch * size.groups * size.rows, size.rows, memory_limit, itemsize))
        if form_at_leaf:
            return formed
        if tap.site.equation.name != "dot_general":
            return Method("formed", (tap,), at_contact=True)
        columns = _block(batch * size.groups * size.left, size.right, memory_limit, itemsize)
        return Method("formed", (tap,), columns, at_contact=True)
    sliced_lookup = any("sliced" in tap.links and tap.site.equation.name == "gather" for tap in known)
    if sliced_lookup or any("call" in tap.links for tap in known) or not _compatible(known):
        return formed
    rows = 0
    for size, loop in zip(sizes, loops):
        count = size.rows
        for link, n in loop:
            count *= n if link == "whole" else 1
        rows += count
    size = sizes[0]
    if rows * (size.left + size.right) > size.left * size.right:
        return formed
    return Method("shared", tuple(known), _block(batch * size.groups * rows, rows, memory_limit, itemsize))


def _block(bytes_per_row: int, rows: int, memory_limit: int, itemsize: int) -> int | None:
    """How many of `rows` rows fit into the limit; None for all of them."""
    fitting = max(1, memory_limit // max(1, bytes_per_row * itemsize))
    return None if fitting >= rows else fitting


def _compatible(taps: list[Tap]) -> bool:
    """Whether the factors of all taps run over the same two groups of the leaf's axes."""
    if len(taps) == 1:
        return True
    groups = set()
    for tap in taps:
        if tap.permutation is None or tap.links or tap.sizes is None or tap.sizes.groups != 1:
            return False
        left, right = leaf_axes(tap)
        if list(left) != sorted(left) or list(right) != sorted(right):
            return False
        groups.add(frozenset((left, right)))
    return len(groups) == 1


def leaf_axes(tap: Tap) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of the leaf that the tap's left and right factors run over."""
    assert tap.permutation is not None and tap.sizes is not None
    sides = (tap.sizes.left_axes, tap.sizes.right_axes)
    left, right = (tuple(tap.permutation[i] for i in axes) for axes in sides)
    return left, right


def _tap(analysis: Analysis, site: Site, leaf: int) -> Tap | None:
    """The tap at this site; None where the way from the leaf to it is more than moving entries."""
    if site.equation.bodies or site.origin.leaves != (leaf,) or site.equation.under_another_mesh:
        return None
    elementwise = site.equation.name in ELEMENTWISE and bool(site.scope)  # elsewhere the leaf itself serves
    if not elementwise and site.equation.name not in PRODUCTS:
        return None
    size = _factors.sizes(site.equation, site.position)
    value = site.equation.inputs[site.position]
    operand = backward_slice(analysis.programs[site.scope], [value])
    links, lengths = [], []
    permutation: list[int] | None = list(range(len(site.equation.shapes.inputs[site.position])))
    for depth in range(len(site.scope), -1, -1):
        program = analysis.programs[site.scope[:depth]]
        kinds = analysis.kinds[site.scope[:depth]]
        equations = backward_slice(program, [value]).equations
        innermost = depth == len(site.scope)
        if not all(
            equation.name in SAME_NORM or _broadcasts(equation, elementwise and innermost) for equation in equations
        ):
            return None
        for equation in reversed(equations):
            permutation = _permute(equation, permutation)
        value = next(
            (equation.inputs[0] for equation in equations), value
        )  # a chain: each operation reads the one before
        if not isinstance(kinds[value], Origin) or value not in program.inputs:
            return None
        if depth == 0:
            break
        outer = analysis.programs[site.scope[: depth - 1]].equations[site.scope[depth - 1][0]]
        position = program.inputs.index(value)
        if outer.name == "scan":
            link = _scan_link(outer, position)
            if link is None:
                return None
            links.append(link)
            lengths.append(outer.params["length"])
            permutation = permutation if link == "whole" else None
        else:
            links.append("call")
            lengths.append(1)
        value = outer.inputs[position + (len(outer.inputs) - len(program.inputs))]
    order = None if permutation is None else tuple(permutation)
    return Tap(0, leaf, site, size, tuple(reversed(links)), tuple(reversed(lengths)), order, operand)


def _scan_link(equation: Equation, position: int) -> str | None:
    n_consts, n_carry = equation.carried
    if position < n_consts:
        return "whole"
    return None if position < n_consts + n_carry else "sliced"


def _broadcasts(equation: Equation, repeats: bool) -> bool:
    """A broadcast; unless it may repeat entries, one that only adds axes of size 1."""
    same_size = math.prod(equation.shapes.inputs[0]) == math.prod(equation.shapes.outputs[0])
    return equation.name == "broadcast_in_dim" and (repeats or same_size)


def _permute(equation: Equation, permutation: list[int] | None) -> list[int] | None:
    """Permutation of the operand in terms of the input of `equation`, given that in terms of its output."""
    if permutation is None or equation.name in (
        "convert_element_type",
        "copy",
        "optimization_barrier",
        "name",
    ):
        return permutation
    if equation.name == "transpose":
        return [equation.params["permutation"][i] for i in permutation]
    return None
