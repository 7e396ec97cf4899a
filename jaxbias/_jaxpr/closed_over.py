"""NumPy arrays that a function closes over, as JAX must take them in the precision that is set now.

JAX makes a typed array of each, keeps it for as long as anything holds it, and hands out the same one whatever
`jax_enable_x64` says by then. So a function that was compiled in 32 bits is traced with int32 positions among int64
numbers in 64 bits, which raises a TypeError, or with weights that are rounded to float32; and the other way round.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jax._src import dtypes
from jax._src.literals import TypedNdArray


@contextmanager
def taken_anew() -> Iterator[None]:
    """Within, JAX makes its typed arrays anew, once each, and keeps none of them for later."""
    before = dtypes.canonicalize_value
    held: dict[tuple[int, Any], tuple[np.ndarray, TypedNdArray]] = {}  # the array too, so that its id stays its own

    def canonical(value: Any) -> Any:
        if type(value) is not np.ndarray:
            return before(value)
        dtype = dtypes.canonicalize_dtype(value.dtype)
        if (id(value), dtype) not in held:
            held[id(value), dtype] = value, TypedNdArray(np.asarray(value, dtype))
        return held[id(value), dtype][1]

    dtypes.canonicalize_value = canonical
    try:
        yield
    finally:
        dtypes.canonicalize_value = before
