"""The user's loss, traced for one example, and checks of what came in."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbias._doors import check_flag, check_size, describe
from jaxbias._jaxpr import Program
from jaxbias._meshes import of_one, varying, varying_axes
from jaxbias._trees import path_name
from jaxbias.foreign.sites import DATA, Analysis, analyse
from jaxbias.foreign.traced import split_params

MEMORY_LIMIT = 64 * 2**20
"""Default bytes for one intermediate of a norm, over the whole batch."""

BATCH_NORM = (
    "batch norm in training mode makes every example depend on the others, so no example has a gradient of its own. "
    "Use running averages (use_running_average=True), or a norm within one example (LayerNorm, GroupNorm)."
)


class TracedLoss(NamedTuple):
    """A per-example loss at given params and batch.

    Attributes:
        leaves: array leaves of params; paths: their names; rebuild: see `Split`.
        data: array leaves of the other arguments, batched or not.
        in_axes: 0 or None for each of `data`.
        batch: number of examples.
        loss: `(leaves, data of one example) -> (scalar, aux)`.
        analysis: contacts of that loss; the first output of its program is the loss.
    """

    leaves: list[Any]
    paths: tuple[str, ...]
    rebuild: Callable[..., Any]
    data: list[Any]
    in_axes: list[int | None]
    batch: int
    loss: Callable[..., Any]
    analysis: Analysis
    spmd_axis_name: str | None = None

    def vmap(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f of one example's data, mapped over the batch."""
        return jax.vmap(f, in_axes=(self.in_axes,), spmd_axis_name=self.spmd_axis_name)


def as_tuple(x: int | Sequence[int]) -> tuple[int, ...]:
    return (x,) if isinstance(x, int) else tuple(x)


@dataclass(frozen=True)
class PerExample:
    """A per-example loss and how to call it, checked when it is made: no wrong option waits for the first batch.

    Attributes:
        function: name of the public function, for messages.
        loss, argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit, verify: as for `per_example_norms`.
        prng_argnum, spmd_axis_name: as for `clipped_grad`.

    Raises:
        TypeError: loss is no function, or an option is of another kind.
        ValueError: arguments that are both params and batch, or that the loss does not take.
    """

    function: str
    loss: Callable[..., Any]
    argnums: int | Sequence[int] = 0
    has_aux: bool = False
    batch_argnums: int | Sequence[int] = 1
    keep_batch_dim: bool = False
    memory_limit: int = MEMORY_LIMIT
    verify: bool = False
    prng_argnum: int | None = None
    spmd_axis_name: str | None = None

    def __post_init__(self):
        if not callable(self.loss):
            raise TypeError(
                f"{self.function}: loss must be a function (params, example) -> scalar, got {describe(self.loss)}. "
                f"Write one, for example lambda params, example: loss.forward(network.forward(params, example[0])[0], "
                f"example[1])[0]."
            )
        for name in ("argnums", "batch_argnums"):
            self._check_argnums(name, getattr(self, name))
        for name in ("has_aux", "keep_batch_dim", "verify"):
            check_flag(getattr(self, name), self.function, name)
        check_size(self.memory_limit, self.function, "memory_limit")
        if self.prng_argnum is not None:
            check_size(self.prng_argnum, self.function, "prng_argnum", least=0)
        if shared := set(as_tuple(self.argnums)) & set(self.batched):
            raise ValueError(
                f"{self.function}: arguments {sorted(shared)} are both in argnums and in batch_argnums. Params have no "
                f"batch axis: name each argument once."
            )
        self._check_signature()

    @property
    def batched(self) -> tuple[int, ...]:
        """The arguments with a leading batch axis."""
        return (*as_tuple(self.batch_argnums), *(() if self.prng_argnum is None else (self.prng_argnum,)))

    def _check_argnums(self, name: str, argnums: Any) -> None:
        numbers = argnums if isinstance(argnums, tuple | list) else (argnums,)
        for number in numbers:
            check_size(number, self.function, name if numbers is not argnums else f"every entry of {name}", least=0)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"{self.function}: {name} must name one argument or more, each once, got {argnums!r}.")

    def _check_signature(self) -> None:
        """Whether the loss has the arguments that are named, as far as its signature is known."""
        try:
            parameters = inspect.signature(self.loss).parameters.values()
        except (TypeError, ValueError):  # a built-in function shows none
            return
        if any(p.kind == inspect.Parameter.VAR_POSITIONAL for p in parameters):
            return
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        count = sum(p.kind in kinds for p in parameters)
        last = max(*as_tuple(self.argnums), *self.batched)
        if last >= count:
            raise ValueError(
                f"{self.function}: argnums={self.argnums} and batch_argnums={self.batch_argnums} count from 0 and name "
                f"argument {last}, but loss takes {count} arguments. Change them, or the loss."
            )


def trace_loss(asked: PerExample, args: tuple[Any, ...], remat: bool = True) -> TracedLoss:
    """Check the arguments and trace the loss of one example.

    Args:
        remat: evaluate rematerialised calls as such; False: keep what they would compute again, so that taps see it.

    Raises:
        TypeError: a params leaf is not of a float dtype, or the loss returns no pair with `has_aux`.
        ValueError: the batch axes disagree, the loss is no scalar, or it mixes the examples.
    """
    function, loss, argnums, has_aux = asked.function, asked.loss, asked.argnums, asked.has_aux
    batched, keep_batch_dim = asked.batched, asked.keep_batch_dim
    if len(args) <= max(*batched, *as_tuple(argnums)):
        raise ValueError(
            f"{function}: argument {max(*batched, *as_tuple(argnums))} is wanted, got {len(args)} arguments."
        )
    params = args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)
    others = [i for i in range(len(args)) if i not in as_tuple(argnums)]
    leaves, paths, rebuild = split_params(params)
    if not leaves:
        raise ValueError(f"{function}: argument {argnums}, which should be params, holds no arrays.")
    for path, leaf in zip(paths, leaves):
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.complexfloating):
            raise TypeError(
                f"{function}: the params leaf {path} is complex ({jnp.asarray(leaf).dtype}), and only real leaves are "
                f"handled here. Keep its real and imaginary parts as two leaves and join them in the loss, "
                f"jax.lax.complex(real, imaginary); or form the gradients, jax.vmap(jax.grad(loss), (None, 0))."
            )
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            raise TypeError(
                f"{function}: the params leaf {path} has dtype {jnp.asarray(leaf).dtype}, and only float leaves have a "
                f"gradient. Take it out of params, for example into the closure of the loss."
            )
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    data, in_axes, rebuilds = [], [], []
    for i in others:
        split = split_params(args[i])
        data.extend(split.leaves)
        in_axes.extend([0 if i in batched else None] * len(split.leaves))
        rebuilds.append((split.rebuild, len(split.leaves)))
    keeps_axis = [
        keep_batch_dim and axis == 0 and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        for x, axis in zip(data, in_axes)
    ]
    batch = _batch_size(function, [(i, args[i]) for i in batched])

    def example_loss(leaves, data):
        data = [x[None] if keep else x for x, keep in zip(data, keeps_axis)]
        arguments: list[Any] = [None] * len(args)
        if isinstance(argnums, int):
            arguments[argnums] = rebuild(leaves)
        else:
            for i, part in zip(argnums, rebuild(leaves)):
                arguments[i] = part
        for i, (rebuild_one, count) in zip(others, rebuilds):
            arguments[i], data = rebuild_one(data[:count]), data[count:]
        out = loss(*arguments)
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError(
                f"{function}: with has_aux=True loss must return a pair (scalar, aux), got {describe(out)}."
            )
        return out if has_aux else (out, ())

    shapes = [of_one(x) if axis == 0 else x for x, axis in zip(data, in_axes)]
    try:
        leaves = _of_own_examples(example_loss, leaves, shapes)
        analysis = analyse(example_loss, leaves, (shapes,), remat)
    except NameError as error:  # a collective over a named batch axis
        if "unbound axis name" not in str(error):
            raise
        raise ValueError(f"{function}: the loss uses a named axis ({error}), as {BATCH_NORM}") from error
    value = analysis.out_shape[0]
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{function}: loss(params, example) must return one float number for one example, got "
            f"{jax.tree.map(lambda x: f'{x.dtype}{list(x.shape)}', value)}. "
            + (
                "With keep_batch_dim=True the loss is called with a batch axis of size 1: return its mean or sum over "
                "that axis, or pass keep_batch_dim=False."
                if keep_batch_dim
                else "The loss is called without the batch axis; with keep_batch_dim=True an axis of size 1 stays."
            )
        )
    if analysis.kinds[()][analysis.program.outputs[0]] != DATA:
        raise ValueError(f"{function}: the loss does not depend on the batch, so every example has the same gradient.")
    if any(_batch_statistics(program) for program in analysis.programs.values()):
        raise ValueError(f"{function}: the loss takes statistics over a batch axis: {BATCH_NORM}")
    return TracedLoss(leaves, paths, rebuild, data, in_axes, batch, example_loss, analysis, asked.spmd_axis_name)


def _of_own_examples(loss: Callable[..., Any], leaves: list[Any], example: list[Any]) -> list[Any]:
    """The leaves, marked as varying along the axes of a shard_map along which the loss does.

    Devices with another loss have other examples, over which no gradient is summed; what is left unmarked is summed
    over the devices that share an example, as under autodiff.
    """
    if not any(map(varying_axes, [*leaves, *example])):
        return leaves
    value = jax.eval_shape(loss, leaves, example)[0]
    return [varying(leaf, varying_axes(value)) for leaf in leaves]


def _batch_size(function: str, args: list[tuple[int, Any]]) -> int:
    shapes = {}
    for i, arg in args:
        for path, leaf in jax.tree_util.tree_leaves_with_path(arg):
            name = f"argument {i} {path_name(path)}" if path else f"argument {i}"
            if not getattr(leaf, "shape", ()):
                raise ValueError(f"{function}: {name} has no batch axis (shape ()). Give it one entry per example.")
            shapes[name] = leaf.shape
    if not shapes:
        raise ValueError(f"{function}: the batch holds no arrays.")
    if len({shape[0] for shape in shapes.values()}) > 1:
        given = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function}: the first axis is the batch axis and must agree, got {given}.")
    return next(iter(shapes.values()))[0]


def _batch_statistics(program: Program) -> bool:
    """Whether data is centred or scaled by a mean over its own leading axis of size 1: batch norm of one example."""
    keeps = {"div", "mul", "add", "sub", "square", "integer_pow", "rsqrt", "sqrt", "max"}
    layout = {"broadcast_in_dim", "reshape", "convert_element_type", "expand_dims", "squeeze"}
    means: dict[int, tuple[int, ...]] = {}  # value made of such a mean -> shape of the data it came from
    for equation in program.equations:
        shapes = equation.shapes.inputs
        if equation.name == "reduce_sum":
            axes, shape = tuple(equation.params["axes"]), shapes[0]
            if len(shape) > 1 and shape[0] == 1 and 0 in axes and len(axes) < len(shape):
                means[equation.outputs[0]] = shape
        elif equation.name in keeps | layout:
            source = next((means[i] for i in equation.inputs if i in means), None)
            if source is None:
                continue
            if equation.name in ("sub", "mul") and any(
                i not in means and shape == source for i, shape in zip(equation.inputs, shapes)
            ):
                return True
            means[equation.outputs[0]] = source
    return False
