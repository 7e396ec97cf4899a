"""How the type of an array says where it lies on a mesh: along which axes it varies, by which ones it is cut.

Names of JAX's that have to do with this move from release to release.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array


def varying_axes(x: Any) -> frozenset[str]:
    """Inside of a shard_map that checks it: the axes along which x may differ; none elsewhere."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def varying(x: Array, axes: Collection[str]) -> Array:
    """Inside of a shard_map that checks it: x, marked as one that may differ along all of these axes too."""
    missing = tuple(sorted(set(axes) - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def summed_to(x: Array, axes: Collection[str]) -> Array:
    """x, summed over the axes along which it varies beyond these: the transpose of `varying`."""
    beyond = tuple(sorted(varying_axes(x) - set(axes)))
    return jax.lax.psum(x, beyond) if beyond else x


def of_one(x: Any) -> jax.ShapeDtypeStruct:
    """The type of an entry along the first axis, at its place on the mesh."""
    return beside(x, x.shape[1:], x.dtype, jax.typeof(x).sharding.spec[1:])


def beside(x: Any, shape: tuple[int, ...], dtype: DTypeLike, spec: Collection[Any] = ()) -> jax.ShapeDtypeStruct:
    """The type of another array on the mesh of x, which varies along the axes along which x does."""
    kind = jax.typeof(x)
    sharding = None if kind.sharding.mesh.empty else NamedSharding(kind.sharding.mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding, manual_axis_type=kind.manual_axis_type)


def repeated(x: Array, of: Array) -> Array:
    """x once for each entry along the first axis of another array, cut as that axis is."""
    mesh, spec = jax.typeof(of).sharding.mesh, jax.typeof(of).sharding.spec
    explicit = not mesh.empty and AxisType.Explicit in mesh.axis_types
    sharding = NamedSharding(mesh, PartitionSpec(spec[0], *jax.typeof(x).sharding.spec)) if explicit else None
    return jax.lax.broadcast(x, (len(of),), out_sharding=sharding)


def einsum(subscripts: str, x: Array, y: Array, dtype: DTypeLike) -> Array:
    """`jnp.einsum`, accumulated in dtype; on explicit axes the result is cut as x and y are, along what remains."""
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty or AxisType.Explicit not in mesh.axis_types:
        return jnp.einsum(subscripts, x, y, preferred_element_type=dtype)
    inputs, out = subscripts.split("->")
    specs = [zip(letters, jax.typeof(operand).sharding.spec) for letters, operand in zip(inputs.split(","), (x, y))]
    cut: dict[str, Any] = {}
    for letter, axes in (entry for spec in specs for entry in spec):
        if axes is not None and letter in out and axes not in cut.values():
            cut.setdefault(letter, axes)
    sharding = NamedSharding(mesh, PartitionSpec(*map(cut.get, out)))
    return jnp.einsum(subscripts, x, y, preferred_element_type=dtype, out_sharding=sharding)
