"""Entries picked by index: rows of tables, points, entries along an axis."""

from collections.abc import Sequence

from jaxbias import _jaxpr
from jaxbias._derive.rules.rule import NoRule, rule, shape_of
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.python import places_in_brackets


def _picked(eq: _jaxpr.Equation) -> tuple[int, ...] | None:
    """The first axes of a table that a gather takes single entries of, by one index each; None for other gathers."""
    numbers, sizes = eq.params["dimension_numbers"], eq.params["slice_sizes"]
    table, indices = eq.shapes.inputs
    axes = tuple(numbers.start_index_map)
    count = len(indices) - 1
    rest = [k for k in range(len(table)) if k not in axes]
    offsets = tuple(range(count, count + len(rest)))
    if axes == tuple(range(len(axes))) or len(axes) == 1:
        whole = tuple(numbers.collapsed_slice_dims) == axes and all(sizes[k] == table[k] for k in rest)
        if len(axes) == 1:
            offsets = (*range(axes[0]), *range(axes[0] + count, count + len(rest)))
        if whole and not numbers.operand_batching_dims and tuple(numbers.offset_dims) == offsets:
            return axes
    return None


def _along(eq: _jaxpr.Equation) -> int | None:
    """The axis of a `take_along_axis`; None for other gathers."""
    numbers, (table, indices) = eq.params["dimension_numbers"], eq.shapes.inputs
    rest = tuple(numbers.operand_batching_dims)
    axes = [k for k in range(len(table)) if k not in rest]
    single = len(axes) == 1 and tuple(numbers.start_index_map) == tuple(axes) == tuple(numbers.collapsed_slice_dims)
    usual = not numbers.offset_dims and tuple(numbers.start_indices_batching_dims) == tuple(
        k for k in range(len(rest) + 1) if k != axes[0]
    )
    return axes[0] if single and usual and len(indices) == len(table) + 1 else None


@rule("gather")
class _Gather:
    @staticmethod
    def parts(eq, args):
        x, indices = args
        axes = _picked(eq)
        if axes is None:
            raise NoRule
        columns = [_undo_wrap(c, x.shape[k]) for c, k in zip(_columns(indices), axes)]
        places = [*[":"] * axes[0], *(f"{{{1 + k}}}" for k in range(len(columns)))]
        return x, columns, ", ".join(places)

    @staticmethod
    def read(eq, args):
        if (axis := _along(eq)) is not None:
            ids = _undo_wrap(ex.drop(args[1], [args[1].ndim - 1]), args[0].shape[axis])
            return ex.call(
                f"jnp.take_along_axis({{0}}, {{1}}, axis={axis})", [args[0], ids], shape_of(eq), args[0].dtype
            )
        x, columns, places = _Gather.parts(eq, args)
        return ex.call(f"{{0}}[{places}]", [x, *columns], shape_of(eq), x.dtype)

    @staticmethod
    def pull(eq, args, out, d):
        if (axis := _along(eq)) is not None:
            x, ids = args[0], _undo_wrap(ex.drop(args[1], [args[1].ndim - 1]), args[0].shape[axis])
            if ids.shape[axis] != 1:  # an entry may be picked twice
                places = [f"jnp.arange({n}){_after(x.ndim - 1 - k)}" for k, n in enumerate(x.shape)]
                places[axis] = "{1}"
                text = f"jnp.zeros_like({{0}}).at[{', '.join(places)}].add({{2}})"
                return [ex.call(text, [x, ids, d], x.shape, x.dtype), None]
            text = f"jnp.put_along_axis(jnp.zeros_like({{0}}), {{1}}, {{2}}, axis={axis}, inplace=False)"
            return [ex.call(text, [x, ids, d], x.shape, x.dtype), None]
        x, columns, places = _Gather.parts(eq, args)
        text = f"jnp.zeros_like({{0}}).at[{places}].add({{{1 + len(columns)}}})"
        return [ex.call(text, [x, *columns, d], x.shape, x.dtype), None]


def _after(count: int) -> str:
    """So many unit axes behind."""
    return f"[:{', None' * count}]" if count else ""


def _scattered(eq: _jaxpr.Equation, args: Sequence[Expression]) -> tuple[str, list[Expression]]:
    """What stands in the brackets of `.at[…]`, and the indices that go there.

    Raises:
        NoRule: something else than whole entries of the first axes, or of one axis.
    """
    numbers, (table, indices, updates) = eq.params["dimension_numbers"], eq.shapes.inputs
    axes = tuple(numbers.scatter_dims_to_operand_dims)
    count = len(indices) - 1
    rest = [k for k in range(len(table)) if k not in axes]
    first = axes == tuple(range(len(axes))) and tuple(numbers.update_window_dims) == tuple(range(count, len(updates)))
    whole = tuple(numbers.inserted_window_dims) == axes and [updates[k] for k in numbers.update_window_dims] == [
        table[k] for k in rest
    ]
    if not first or not whole or numbers.operand_batching_dims:
        raise NoRule
    columns = [_undo_wrap(c, table[k]) for c, k in zip(_columns(args[1]), axes)]
    if any(column is raw for column, raw in zip(columns, _columns(args[1]))) and not _of_segments(eq, args):
        raise NoRule  # negative indices mean something else
    return ", ".join(f"{{{1 + k}}}" for k in range(len(columns))), columns


def _of_segments(eq: _jaxpr.Equation, args: Sequence[Expression]) -> bool:
    """Whether it is a `segment_sum`: into zeros, by one index."""
    return ex.is_zero(args[0]) and eq.shapes.inputs[1][-1] == 1


@rule("scatter-add")
class _ScatterAdd:
    @staticmethod
    def read(eq, args):
        places, columns = _scattered(eq, args)
        table, updates = args[0], args[2]
        if _of_segments(eq, args):
            text = f"jax.ops.segment_sum({{0}}, {{1}}, {table.shape[0]})"
            return ex.call(text, [updates, *columns], table.shape, table.dtype)
        text = f"{{0}}.at[{places}].add({{{1 + len(columns)}}})"
        return ex.call(text, [table, *columns, updates], table.shape, table.dtype)

    @staticmethod
    def pull(eq, args, out, d):
        """To the table all of it, to what was added what lies at its place, 0 where there was none."""
        places, columns = _scattered(eq, args)
        text = f'{{0}}.at[{places}].get(mode="fill", fill_value=0)'
        return [d, None, ex.call(text, [d, *columns], args[2].shape, args[2].dtype)]


@rule("scatter")
class _Set:
    """`x.at[a:b].set(part)` of a span along one axis, whose place is a number."""

    @staticmethod
    def spans(eq, args):
        numbers, (table, _, updates) = eq.params["dimension_numbers"], eq.shapes.inputs
        start, axes = ex.value_of(ex.bare(args[1])), tuple(numbers.scatter_dims_to_operand_dims)
        whole = tuple(numbers.update_window_dims) == tuple(range(len(table))) and not numbers.inserted_window_dims
        if start is None or len(axes) != 1 or not whole or numbers.operand_batching_dims:
            raise NoRule
        begins = [int(start) if k == axes[0] else 0 for k in range(len(table))]
        if any(begin < 0 or begin + n > m for begin, n, m in zip(begins, updates, table)):
            raise NoRule
        return [(begin, begin + n, 1) for begin, n in zip(begins, updates)]

    @staticmethod
    def put(spans, x, part):
        text = f"{{0}}.at[{places_in_brackets(spans, x.shape)}].set({{1}})"
        return ex.call(text, [x, part], x.shape, x.dtype)

    @staticmethod
    def read(eq, args):
        return _Set.put(_Set.spans(eq, args), args[0], args[2])

    @staticmethod
    def pull(eq, args, out, d):
        spans = _Set.spans(eq, args)
        return [_Set.put(spans, d, ex.number(0, d.dtype)), None, ex.part(d, spans)]


def _moving(eq: _jaxpr.Equation, sizes: Sequence[int], starts: Sequence[Expression]) -> tuple[int, Expression]:
    """The one axis along which a part is taken, and where it starts.

    Raises:
        NoRule: it is taken along several.
    """
    axes = [k for k, (n, m) in enumerate(zip(eq.shapes.inputs[0], sizes)) if n != m]
    if len(axes) != 1 or any(not ex.is_zero(x) for k, x in enumerate(starts) if k != axes[0]):
        raise NoRule
    return axes[0], starts[axes[0]]


def _taken(x: Expression, start: Expression, shape: Sequence[int], axis: int) -> Expression:
    text = f"jax.lax.dynamic_slice_in_dim({{0}}, {{1}}, {shape[axis]}, axis={axis})"
    return ex.call(text, [x, start], shape, x.dtype)


def _put(x: Expression, part: Expression, start: Expression, axis: int) -> Expression:
    text = f"jax.lax.dynamic_update_slice_in_dim({{0}}, {{1}}, {{2}}, axis={axis})"
    return ex.call(text, [x, part, start], x.shape, x.dtype)


@rule("dynamic_slice")
class _DynamicSlice:
    @staticmethod
    def read(eq, args):
        axis, start = _moving(eq, eq.params["slice_sizes"], args[1:])
        return _taken(args[0], start, shape_of(eq), axis)

    @staticmethod
    def pull(eq, args, out, d):
        axis, start = _moving(eq, eq.params["slice_sizes"], args[1:])
        zeros = ex.call("jnp.zeros_like({0})", [args[0]], args[0].shape, args[0].dtype)
        return [_put(zeros, d, start, axis), *[None] * (len(args) - 1)]


@rule("dynamic_update_slice")
class _DynamicUpdate:
    @staticmethod
    def read(eq, args):
        axis, start = _moving(eq, args[1].shape, args[2:])
        return _put(args[0], args[1], start, axis)

    @staticmethod
    def pull(eq, args, out, d):
        axis, start = _moving(eq, args[1].shape, args[2:])
        outside = _put(d, ex.zeros(args[1]), start, axis)
        return [outside, _taken(d, start, args[1].shape, axis), *[None] * (len(args) - 2)]


def _columns(indices: Expression) -> list[Expression]:
    """Index arrays, one for each axis."""
    last = indices.ndim - 1
    if indices.shape[last] == 1:
        return [ex.drop(indices, [last])]
    if indices.op == "call" and indices.detail.startswith("jnp.concatenate"):
        return [ex.drop(x, [last]) for x in indices.args]
    spans = [(0, n, 1) for n in indices.shape[:-1]]
    return [ex.part(indices, [*spans, k]) for k in range(indices.shape[last])]


def _undo_wrap(ids: Expression, n: int) -> Expression:
    """Indices as the user gave them: JAX adds n to negative ones, and so does what is printed."""
    core = ex.bare(ids)
    if core.op == "where" and core.args[0].op == "compare" and core.args[0].detail == "<":
        given = core.args[2]
        wrapped = core.args[1]
        plus_n = wrapped.op == "add" and wrapped.args[0] is given and ex.value_of(wrapped.args[1]) == n
        if core.args[0].args[0] is given and plus_n:
            return ex.spread(given, ids.shape)
    return ids
