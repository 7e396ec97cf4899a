"""Where arrays live when there is more than one device: rows over one axis of a mesh, params as their shardings say.

Everything here is a `NamedSharding` handed to JAX, whose compiler then parts the work and writes the collectives.
"""

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxbias._trees import path_name
from jaxbias.params import Tree

EVERYWHERE = PartitionSpec()


class Placement(NamedTuple):
    """Of one run.

    Attributes:
        mesh: with axes that the compiler sees to; None for one device.
        rows: the axis that parts the rows of every batch; None where the compiler chooses.
        specs: path of each leaf of params → its PartitionSpec and its shape.
    """

    mesh: Mesh | None
    rows: str | None
    specs: dict[tuple[str, ...], tuple[PartitionSpec, tuple[int, ...]]]

    @classmethod
    def of(cls, mesh: Mesh | None, shardings: Tree, params: Tree) -> "Placement":
        """As asked for; without a mesh, that of params which are spread over one already.

        Raises:
            TypeError: another mesh, or an entry of shardings that is no PartitionSpec.
            ValueError: shardings without a mesh, in another tree, or that a leaf cannot be cut by.
        """
        if mesh is not None and not isinstance(mesh, Mesh):
            raise TypeError(f"fit: mesh must be a jax.sharding.Mesh, got {mesh!r}. Make it with jax.make_mesh.")
        if mesh is not None and not mesh.axis_names:
            raise ValueError("fit: mesh has no axis to part rows over. Take jax.make_mesh((devices,), ('data',)).")
        own = [leaf.sharding for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
        spread = [sharding for sharding in own if isinstance(sharding, NamedSharding) and sharding.num_devices > 1]
        rows = None if mesh is None else "data" if "data" in mesh.axis_names else mesh.axis_names[0]
        if mesh is None and not spread:
            if shardings is not None:
                raise ValueError("fit: shardings need a mesh. Pass mesh=jax.make_mesh((devices,), ('data',)).")
            return cls(None, None, {})
        if mesh is None:
            mesh = cast(Mesh, spread[0].mesh)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        if shardings is None:
            given = [_own_spec(leaf, mesh) for _, leaf in leaves]
        else:
            given = jax.tree.leaves(_broadcast(shardings, params), is_leaf=_is_spec)
        specs = {
            _words(path): (_checked(spec, leaf, mesh, path_name(path)), leaf.shape)
            for spec, (path, leaf) in zip(given, leaves, strict=True)
        }
        automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
        return cls(automatic, rows, specs)

    @property
    def devices(self) -> list[Any]:
        """Of this process."""
        return [] if self.mesh is None else list(self.mesh.local_devices)

    @property
    def processes(self) -> int:
        """How many processes the mesh spans."""
        return 1 if self.mesh is None else len({device.process_index for device in self.mesh.devices.flat})

    def check_batch_size(self, batch_size: int) -> None:
        """Raise a ValueError unless every device gets as many rows as any other."""
        parts = 1 if self.mesh is None or self.rows is None else self.mesh.shape[self.rows]
        if batch_size % parts:
            raise ValueError(
                f"fit: batch_size={batch_size} cannot be cut into equal parts for the {parts} devices of the axis "
                f"{self.rows!r}. Take a multiple of {parts}."
            )

    def shardings(self, tree: Tree) -> Tree:
        """A sharding for each leaf of params, or of what an optimizer keeps for them.

        A leaf belongs to the leaf of params whose path its own path ends in, if its shape does too: moments do, the
        history of L-BFGS does, and a count does not. All others are whole on every device.
        """
        mesh = self.mesh
        assert mesh is not None

        def sharding(path, leaf):
            words = _words(path)
            for start in range(len(words) + 1):
                spec, shape = self.specs.get(words[start:], (EVERYWHERE, ()))
                before = len(leaf.shape) - len(shape)
                if shape and leaf.shape[before:] == shape:
                    return NamedSharding(mesh, PartitionSpec(*[None] * before, *spec))
            return NamedSharding(mesh, EVERYWHERE)

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def of_learned(self, learned: Any) -> Any:
        """Shardings of all that changes from step to step; the state of a network is whole on every device."""
        state = jax.tree.map(lambda _: self.everywhere, learned.state)
        return learned._replace(
            params=self.shardings(learned.params), opt_state=self.shardings(learned.opt_state), state=state
        )

    @property
    def everywhere(self) -> NamedSharding | None:
        """Whole on every device of the mesh."""
        return None if self.mesh is None else NamedSharding(self.mesh, EVERYWHERE)

    def put(self, tree: Tree, shardings: Tree = None) -> Tree:
        """The tree in memory of its own, which a program may reuse: by default whole on every device."""
        if self.mesh is None:
            return jax.device_put(tree, may_alias=False)
        if shardings is None:
            shardings = jax.tree.map(lambda _: self.everywhere, tree)
        # In two steps: on its way to a mesh an array keeps its memory on the device that it comes from.
        on_mesh = jax.tree.map(_put, tree, shardings)
        return jax.device_put(on_mesh, may_alias=False) if self.processes == 1 else jax.tree.map(jnp.copy, on_mesh)

    def on_own_mesh(self, tree: Tree) -> Tree:
        """Arrays that lie on the mesh with axes of other types, as `jax.make_mesh` makes them, now lie on this one."""
        mesh = self.mesh
        if mesh is None:
            return tree
        return jax.tree.map(
            lambda leaf: _put(leaf, NamedSharding(mesh, leaf.sharding.spec)) if _lies_on(leaf, mesh) else leaf, tree
        )

    def data(self, tree: Tree) -> Tree:
        """Arrays that lie on the mesh stay as they are; all others become whole on every device."""
        if self.mesh is None:
            return tree
        everywhere = NamedSharding(self.mesh, EVERYWHERE)
        tree = self.on_own_mesh(tree)
        return jax.tree.map(lambda leaf: leaf if _lies_on(leaf, self.mesh) else _put(leaf, everywhere), tree)

    def batch(self, batch: Tree) -> Tree:
        """Inside of a program: each device of the axis takes its part of the rows."""
        if self.mesh is None or self.rows is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, NamedSharding(self.mesh, PartitionSpec(self.rows)))

    def rows_here(self, batch_size: int) -> int:
        """Rows of a batch that the devices of this process hold."""
        if self.mesh is None:
            return batch_size
        rows = NamedSharding(self.mesh, PartitionSpec(self.rows))
        parts = filter(None, rows.addressable_devices_indices_map((batch_size,)).values())
        return len({row for (part,) in parts for row in range(batch_size)[part]})

    def sent(self, chunk: tuple[Any, ...], batch_size: int) -> tuple[jax.Array, ...]:
        """Stacked batches of the host on the devices: their rows here, or what is indexed by what is wanted of it."""

        if self.mesh is None:
            return jax.device_put(tuple(map(np.asarray, chunk)))
        sharding = NamedSharding(self.mesh, PartitionSpec(None, self.rows))

        def on_devices(part):
            shape = (len(part), batch_size, *part.shape[2:])
            if isinstance(part, np.ndarray):
                return jax.make_array_from_process_local_data(sharding, part, shape)
            return jax.make_array_from_callback(shape, sharding, lambda index: part[index])

        return tuple(map(on_devices, chunk))

    def bytes_here(self, tree: Tree) -> int:
        """Bytes that a tree of params, or of what is kept for them, takes on one device (all of them, on a CPU)."""
        leaves = jax.tree.leaves(tree)
        if self.mesh is None:
            return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        shapes = [s.shard_shape(leaf.shape) for leaf, s in zip(leaves, jax.tree.leaves(self.shardings(tree)))]
        return self.sharing_memory * sum(math.prod(s) * leaf.dtype.itemsize for s, leaf in zip(shapes, leaves))

    @property
    def sharing_memory(self) -> int:
        """How many devices of this process share the memory of one: those of a CPU do."""
        return len(self.devices) if self.devices and self.devices[0].platform == "cpu" else 1

    def identity(self) -> dict[str, str]:
        """What a checkpoint says of it; a run on one device says nothing, as it always has."""
        if self.mesh is None:
            return {}
        kinds = sorted({device.device_kind for device in self.mesh.devices.flat})
        specs = {".".join(path): str(spec) for path, (spec, _) in self.specs.items()}
        return {"mesh": f"{dict(self.mesh.shape)} of {', '.join(kinds)}", "shardings": str(specs)}


def constrained(tree: Tree, shardings: Tree) -> Tree:
    """Inside of a program: the tree, laid out as the shardings say; None says nothing."""
    return tree if shardings is None else jax.lax.with_sharding_constraint(tree, shardings)


def _words(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(path_name((entry,)) for entry in path)


def _is_spec(entry: Any) -> bool:
    return entry is None or isinstance(entry, PartitionSpec | NamedSharding)


def _broadcast(shardings: Tree, params: Tree) -> Tree:
    try:
        return jax.tree.map(
            lambda spec, below: jax.tree.map(lambda _: spec, below), shardings, params, is_leaf=_is_spec
        )
    except ValueError:
        raise ValueError(
            "fit: shardings must be a tree of PartitionSpecs like params, or like the top of it; "
            f"got {jax.tree.structure(shardings, is_leaf=_is_spec)} for {jax.tree.structure(params)}."
        ) from None


def _checked(spec: Any, leaf: Any, mesh: Mesh, name: str) -> PartitionSpec:
    if isinstance(spec, NamedSharding):
        spec = spec.spec
    if not isinstance(spec, PartitionSpec | None):
        raise TypeError(f"fit: shardings must hold PartitionSpecs, got {spec!r} for {name}.")
    spec = EVERYWHERE if spec is None else spec
    try:
        if len(spec) > len(leaf.shape):
            raise ValueError(f"it has {len(leaf.shape)} axes.")
        NamedSharding(mesh, spec).shard_shape(leaf.shape)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"fit: {name} of shape {leaf.shape} cannot be laid out as {spec}: {reason}") from None
    return spec


def _own_spec(leaf: Any, mesh: Mesh) -> PartitionSpec:
    return leaf.sharding.spec if _lies_on(leaf, mesh) else EVERYWHERE


def _lies_on(leaf: Any, mesh: Mesh | None) -> bool:
    sharding = getattr(leaf, "sharding", None)
    if mesh is None or not isinstance(sharding, NamedSharding):
        return False
    own = sharding.mesh
    if not isinstance(own, Mesh) or own.axis_names != mesh.axis_names:
        return False
    return np.array_equal(own.devices, mesh.devices)


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    """One array on the mesh; where that spans processes, each takes its part of what all of them hold."""
    if sharding.is_fully_addressable or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
