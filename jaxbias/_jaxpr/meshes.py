"""Names of JAX's that have to do with manual axes; they move from release to release."""

from collections.abc import Sequence

import jax
from jaxtyping import Array


def varying(x: Array, axes: Sequence[str]) -> Array:
    """Inside of a shard_map that checks it: x, marked as one that may differ along all of these axes."""
    kind = jax.typeof(x)
    known = kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma
    missing = tuple(axis for axis in axes if axis not in known)
    return jax.lax.pcast(x, missing, to="varying") if missing else x
