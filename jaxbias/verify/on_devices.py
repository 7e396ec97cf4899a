"""`verify.sharded`: the gradient that every device of a mesh ends up with, against that of the whole arrays.

Every device's own value is brought home along leading axes, one for each axis of the mesh, and compared with what that
device should hold: its slice of the reference gradient. Where they differ, the simplest of these explains it:

    Σ over axes that the leaf is not cut by          a sum that was left out (or a mean)
    ∏ n(axis)^e with e = −1, 0, 1                    a sum or a division that was done once too often
    values that differ along such axes               replicas that went their own ways
    the slice of another device                      shards in another order

Sizes n tell the axes apart, so no two axes may have the same. The loss is compared first, in the same way.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbias._meshes import varying
from jaxbias._trees import is_float, path_name
from jaxbias.verify.entrances import gradient
from jaxbias.verify.on_devices_report import Finding, ShardedReport

SLACK = 2.0**12
"""Of the rounding of a leaf's largest entry: sums of thousands of terms stay below it, factors of sizes far above."""

_OF_LOSSES = ("sum", "mean")


def sharded(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    mesh: Mesh,
    args: tuple[Any, ...],
    in_specs: Any,
    *,
    rule: Callable[..., Any] | None = None,
    where: Literal["inside", "through"] = "inside",
    check_vma: bool = True,
    loss_over: Mapping[str, str] | None = None,
) -> ShardedReport:
    """Check the gradients that a program for the devices of a mesh ends with, and say what is wrong with them.

    Args:
        function: `(params, *data) -> loss` of one device, as it is given to `jax.shard_map`.
        reference: `(params, *data) -> loss` of the whole arrays; its gradient by autodiff is the truth.
        mesh: whose axes differ in size, so that a factor tells which of them it comes from: (2, 4) devices, not (2, 2).
        args: (params, *data), whole arrays with biases that are not zero; float64 tells most.
        in_specs: of args, as for `jax.shard_map`.
        rule: `(args, cotangent) -> grads`, a step of one device that ends with gradients in a tree like params, its
            sums over devices included; by default `jax.grad(function)`, taken on each device.
        where: "inside" takes gradients on each device, "through" differentiates the sharded loss as one function.
        check_vma: handed to `jax.shard_map`; False for programs in the style of Megatron, which sum by hand.
        loss_over: mesh axis → "sum" or "mean": how the losses of its devices make that of the whole. An axis that is
            not named has the same loss on all its devices. By default found by trial, sums and means that fit
            the reference.

    Raises:
        TypeError: a function, a mesh or args of a wrong kind.
        ValueError: two axes of the same size, none with two devices, an unknown axis in loss_over, or a rule that
            returns another tree; what shard_map itself refuses it says itself.

    Example:
        >>> P = jax.sharding.PartitionSpec
        >>> def loss(params, x):  # of one device: its columns, and a bias that is added once
        ...     hidden = jnp.tanh(x @ params["w1"])
        ...     return jnp.sum((jax.lax.psum(hidden @ params["w2"], "model") + params["b2"]) ** 2)
        >>> def whole(params, x):
        ...     return jnp.sum((jnp.tanh(x @ params["w1"]) @ params["w2"] + params["b2"]) ** 2)
        >>> specs = {"w1": P(None, "model"), "w2": P("model", None), "b2": P()}, P("data", None)
        >>> jb.verify.sharded(loss, whole, mesh, (params, x), specs).ok  # doctest: +SKIP
        True
    """
    _check(function, reference, rule, mesh, args, where, loss_over)
    axes = tuple(mesh.axis_names)
    args = jax.tree.map(jnp.asarray, tuple(args))
    specs = jax.tree.leaves(_broadcast(in_specs, args), is_leaf=_is_spec)
    # By positions: every leaf of args with its spec, those of params first.
    paths = [path_name(path) or "params" for path, _ in jax.tree_util.tree_leaves_with_path(args[0])]
    loss_of_whole, truth = jax.value_and_grad(reference)(*args)
    truth = [np.asarray(leaf) for leaf in jax.tree.leaves(truth)]

    def spread(leaf):
        leaf = varying(leaf, axes) if check_vma else leaf
        return leaf[(None,) * len(axes)]

    def sharded_map(body):
        return jax.shard_map(
            lambda *args: jax.tree.map(spread, body(*args)),
            mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(*axes), check_vma=check_vma,
        )  # fmt: skip

    losses = np.asarray(jax.jit(sharded_map(function))(*args))
    over, of_loss = _read_losses(losses, np.asarray(loss_of_whole), mesh, loss_over)
    if of_loss:
        of_loss = _why_the_loss_differs(of_loss, reference, losses, mesh, args, specs, loss_over)
    step = jax.grad(function) if rule is None else lambda *args: rule(args, jnp.ones((), losses.dtype))
    if where == "through":
        got = _through(sharded_map(function), over, mesh, args)
        held = [np.broadcast_to(leaf, (*mesh.devices.shape, *leaf.shape)) for leaf in got]
        specs = [PartitionSpec()] * len(specs)
    else:
        tree = jax.jit(sharded_map(step))(*args)
        if jax.tree.structure(tree) != jax.tree.structure(args[0]):
            raise ValueError(
                f"verify.sharded: rule must return gradients in a tree like params, {jax.tree.structure(args[0])}, got "
                f"{jax.tree.structure(tree)}."
            )
        held = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    largest = max((np.abs(leaf).max(initial=0.0) for leaf in truth), default=0.0)
    findings = {
        path: _compare(values, leaf, spec, mesh, over, largest)
        for path, values, leaf, spec in zip(paths, held, truth, specs)
    }
    batch_axes = {name for spec in specs[len(paths) :] for name in _names(spec)}
    unexplained = [path for path, finding in findings.items() if finding.kind == "unexplained"]
    further = None
    if unexplained and not of_loss and where == "inside":
        further = _by_verify(reference, sharded_map(step), mesh, args, specs[: len(paths)])
    return ShardedReport(findings, of_loss, over, dict(mesh.shape), frozenset(batch_axes), further)


def _check(function, reference, rule, mesh, args, where, loss_over) -> None:
    for name, value in (("function", function), ("reference", reference), ("rule", rule or function)):
        if not callable(value):
            raise TypeError(f"verify.sharded: {name} must be a function, got {type(value).__name__}.")
    if not isinstance(mesh, Mesh):
        raise TypeError(f"verify.sharded: mesh must be a jax.sharding.Mesh, got {mesh!r}. Make it with jax.make_mesh.")
    if not isinstance(args, tuple) or not args:
        raise TypeError(f"verify.sharded: args must be a tuple (params, *data), got {type(args).__name__}.")
    if where not in ("inside", "through"):
        raise ValueError(f'verify.sharded: where must be "inside" or "through", got {where!r}.')
    if where == "through" and rule is not None:
        raise ValueError('verify.sharded: a rule runs inside of shard_map; leave where="through" out, or the rule.')
    sizes = [size for size in mesh.shape.values() if size > 1]
    if not sizes:
        raise ValueError(f"verify.sharded: the mesh {dict(mesh.shape)} has one device, so nothing can go wrong on it.")
    if len(set(sizes)) < len(sizes):
        raise ValueError(
            f"verify.sharded: the mesh {dict(mesh.shape)} has two axes of one size, and a factor of {max(sizes)} could "
            f"come from either. Take sizes that differ, as (2, 4) or (2, 3)."
        )
    for axis, kind in (loss_over or {}).items():
        if axis not in mesh.axis_names or kind not in _OF_LOSSES:
            raise ValueError(
                f'verify.sharded: loss_over must name axes of {mesh.axis_names} with "sum" or "mean", got {axis!r}: '
                f"{kind!r}."
            )


def _is_spec(entry: Any) -> bool:
    return isinstance(entry, PartitionSpec)


def _broadcast(specs: Any, args: tuple[Any, ...]) -> Any:
    specs = (specs,) * len(args) if _is_spec(specs) else tuple(specs)
    return jax.tree.map(lambda spec, below: jax.tree.map(lambda _: spec, below), specs, args, is_leaf=_is_spec)


def _names(spec: PartitionSpec) -> list[str]:
    return [name for entry in spec if entry is not None for name in ((entry,) if isinstance(entry, str) else entry)]


def _slices(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> Iterator[tuple[tuple[int, ...], Any]]:
    """(position in the mesh, index of the part of an array that lies there)."""
    indices = NamedSharding(mesh, spec).devices_indices_map(shape)
    for position in np.ndindex(mesh.devices.shape):
        yield position, indices[mesh.devices[position]]


def _held_in_truth(leaf: np.ndarray, spec: PartitionSpec, mesh: Mesh) -> np.ndarray:
    """What every device should hold, along one leading axis for each axis of the mesh."""
    parts = [leaf[index] for _, index in _slices(leaf.shape, spec, mesh)]
    return np.stack(parts).reshape(*mesh.devices.shape, *parts[0].shape)


# --- the loss ---------------------------------------------------------------------------------------------------------


def _near(a: Any, b: Any, scale: Any = None) -> bool:
    scale = np.abs(b).max(initial=0.0) if scale is None else scale
    eps = np.finfo(np.asarray(b).dtype).eps
    return bool(np.abs(np.asarray(a) - b).max(initial=0.0) <= SLACK * eps * scale)


def _combined(losses: np.ndarray, over: Mapping[str, str], mesh: Mesh) -> np.ndarray:
    """The loss of the whole; along an axis that is not in `over` the devices should agree, and the first one counts."""
    for k, axis in reversed(list(enumerate(mesh.axis_names))):
        kind = over.get(axis)
        losses = losses.sum(k) if kind == "sum" else losses.mean(k) if kind == "mean" else losses.take(0, k)
    return losses


def _agree(losses: np.ndarray, over: Mapping[str, str], mesh: Mesh) -> bool:
    same = [k for k, axis in enumerate(mesh.axis_names) if axis not in over]
    return all(_near(np.broadcast_to(losses.take([0], k), losses.shape), losses) for k in same)


def _ways(mesh: Mesh, loss_over: Mapping[str, str] | None) -> list[dict[str, str]]:
    if loss_over is not None:
        return [dict(loss_over)]
    choices = itertools.product((None, *_OF_LOSSES), repeat=len(mesh.axis_names))
    ways = [{axis: kind for axis, kind in zip(mesh.axis_names, choice) if kind is not None} for choice in choices]
    return sorted(ways, key=len)


def _read_losses(losses, whole, mesh, loss_over) -> tuple[dict[str, str], Finding | None]:
    """How losses make that of the whole, and what is wrong with them; None where nothing is."""
    ways = _ways(mesh, loss_over)
    for over in ways:
        if _agree(losses, over, mesh) and _near(_combined(losses, over, mesh), whole):
            return over, None
    over = next((way for way in ways if _agree(losses, way, mesh)), ways[-1])
    return over, Finding("loss differs", value=float(_combined(losses, over, mesh)), wanted=float(whole))


def _why_the_loss_differs(finding, reference, losses, mesh, args, specs, loss_over) -> Finding:
    leaves, treedef = jax.tree.flatten(args)
    if _is_of_own_rows(reference, losses, mesh, leaves, treedef, specs):
        return finding._replace(kind="local count")
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(args[0])]
    factors = [(axis, size, e) for axis, size in mesh.shape.items() if size > 1 for e in (1, -1)]
    for k, (axis, size, e) in itertools.product(range(len(paths)), factors):
        changed = list(leaves)
        changed[k] = leaves[k] * jnp.asarray(float(size) ** e, leaves[k].dtype)
        value = np.asarray(reference(*treedef.unflatten(changed)))
        for over in _ways(mesh, loss_over):
            if _agree(losses, over, mesh) and _near(_combined(losses, over, mesh), value):
                kind = "added once per device" if e > 0 else "divided in the forward"
                return finding._replace(kind=kind, leaf=paths[k] or "params", axes=(axis,))
    value, wanted = finding.value, finding.wanted
    for factor, axes in _factors(mesh):
        if axes and _near(np.asarray(value), np.asarray(wanted * factor)):
            return finding._replace(kind="loss scaled", factor=factor, axes=axes)
    return finding


def _is_of_own_rows(reference, losses, mesh, leaves, treedef, specs) -> bool:
    """Whether each device's loss is the reference on its own part of the data, so that it counts its own rows only."""
    count = jax.tree.structure(treedef.unflatten(leaves)[0]).num_leaves
    parts = [list(_slices(leaf.shape, spec, mesh)) for leaf, spec in zip(leaves[count:], specs[count:])]
    if not any(_names(spec) for spec in specs[count:]):
        return False
    for k, position in enumerate(np.ndindex(mesh.devices.shape)):
        own = [leaf[part[k][1]] for leaf, part in zip(leaves[count:], parts)]
        if not _near(np.asarray(reference(*treedef.unflatten([*leaves[:count], *own]))), losses[position]):
            return False
    return True


# --- gradients --------------------------------------------------------------------------------------------------------


def _factors(mesh: Mesh) -> list[tuple[float, tuple[str, ...]]]:
    """Products of sizes to the powers −1, 0, 1, the simplest first: (factor, axes; "/axis" for a division)."""
    axes = [axis for axis, size in mesh.shape.items() if size > 1]
    rows = []
    for powers in itertools.product((0, 1, -1), repeat=len(axes)):
        names = tuple(("" if e > 0 else "/") + axis for axis, e in zip(axes, powers) if e)
        rows.append((math.prod(float(mesh.shape[axis]) ** e for axis, e in zip(axes, powers)), names))
    return sorted(rows, key=lambda row: len(row[1]))


def _compare(held, leaf, spec, mesh, over, largest) -> Finding:
    truth = _held_in_truth(leaf, spec, mesh)
    if held.shape != truth.shape:
        lead = len(mesh.axis_names)
        return Finding("shape", got=held.shape[lead:], want=truth.shape[lead:])
    eps = np.finfo(leaf.dtype).eps
    # The second term: of a gradient that is zero by cancellation, as that of a key bias, only rounding is left.
    scale = np.abs(truth).max(initial=0.0) + 8 / SLACK * largest
    near = lambda values: bool(np.abs(values - truth).max(initial=0.0) <= SLACK * eps * scale)
    free = [axis for axis, size in mesh.shape.items() if size > 1 and axis not in _names(spec)]
    for count in range(len(free) + 1):
        for summed in itertools.combinations(free, count):
            at = tuple(mesh.axis_names.index(axis) for axis in summed)
            total = np.broadcast_to(held.sum(at, keepdims=True), held.shape) if at else held
            averaged = math.prod(mesh.shape[axis] for axis in summed if over.get(axis) == "mean")
            for factor, axes in _factors(mesh):
                if near(total / (factor * averaged)):
                    if not summed and not axes:
                        return Finding("right")
                    return Finding("factor", summed=summed, axes=axes, factor=factor)
    # Each of a device's neighbours: do they hold what this one should?
    flat, wanted = (a.reshape(mesh.devices.size, -1) for a in (held, truth))
    tolerance = SLACK * eps * scale
    owners = [
        next((j for j, part in enumerate(wanted) if np.abs(row - part).max(initial=0.0) <= tolerance), None)
        for row in flat
    ]
    if None not in owners and any(_names(spec)):
        return Finding("order", owners=tuple(owners))
    off = [k for k, (row, part) in enumerate(zip(flat, wanted)) if not np.abs(row - part).max(initial=0.0) <= tolerance]
    differing = [axis for axis in free if _differs(held, mesh.axis_names.index(axis), tolerance)]
    if differing:
        return Finding("replicas", axes=tuple(differing), owners=tuple(off))
    return Finding("unexplained", owners=tuple(off))


def _differs(held: np.ndarray, axis: int, tolerance: float) -> bool:
    return not np.abs(held - held.take([0], axis)).max(initial=0.0) <= tolerance


def _through(
    spread: Callable[..., Any], over: Mapping[str, str], mesh: Mesh, args: tuple[Any, ...]
) -> list[np.ndarray]:
    """The gradient of the sharded loss as a function of whole arrays; where devices agree, of the mean of them."""
    weight = math.prod(1 if over.get(axis) == "sum" else 1 / size for axis, size in mesh.shape.items())
    grads = jax.jit(jax.grad(lambda *args: (spread(*args) * jnp.asarray(weight, spread(*args).dtype)).sum()))(*args)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]


def _by_verify(reference, spread_step, mesh, args, specs) -> Any:
    """`verify.gradient` on the gradients put together, as seen by the first device of every axis that does not cut."""
    leaves, treedef = jax.tree.flatten(args[0])

    def joined(params):
        rows = jax.tree.leaves(spread_step(params, *args[1:]))
        out = []
        for leaf, row, spec in zip(leaves, rows, specs):
            flat = row.reshape(mesh.devices.size, *row.shape[len(mesh.axis_names) :])
            whole = jnp.zeros_like(leaf)
            for k, (_, index) in enumerate(_slices(leaf.shape, spec, mesh)):
                whole = whole.at[index].set(flat[k])
            out.append(whole)
        return treedef.unflatten(out)

    if not all(is_float(leaf) for leaf in leaves):
        return None
    return gradient(lambda params: reference(params, *args[1:]), joined, (args[0],))
