"""A derivation given line by line: which line is the first wrong one?"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias import _jaxpr
from jaxbias._trees import is_float
from jaxbias.verify.as_problem import Arguments, key_or_default, outputs
from jaxbias.verify.decide import check
from jaxbias.verify.problem import Problem, argument_names, check_arrays
from jaxbias.verify.report import Diagnosis, Leaves, Report


def steps(
    forward: Callable[..., Mapping[str, Any]],
    steps: Mapping[str, Callable[..., Any]] | Sequence[tuple[str, Callable[..., Any]]],
    args: tuple[Any, ...],
    *,
    key: Array | None = None,
    names: Sequence[str] | None = None,
) -> Report:
    """Check a derivation line by line, and name its first wrong line.

    Args:
        forward: `(*args) -> {name: value}`, every intermediate value by name, in the order in which each follows from
            those before; the last one is the output.
        steps: in the order of the derivation, `{name: step}`: `step(values, done)` gives the gradient of the value or
            argument called `name`. `values` holds the arguments and the forward values by name; `done` the gradients
            of the earlier steps, and that of the output, which is the cotangent. A line after a wrong one gets the
            *true* gradients of the earlier lines, so it is judged for itself.
        args: arrays, one per argument.
        key: for the random values.
        names: of the arguments; by default those of the forward's parameters.

    Returns:
        A report with one leaf per step; the first diagnosis belongs to the first wrong line.

    Raises:
        ValueError: a step is named after no value and no argument; or the forward raises.
        TypeError: the forward returns no dict.
    """
    owner = "verify.steps"
    check_arrays(args, owner)
    arg_names = argument_names(forward, len(args), names, owner)
    values = jax.eval_shape(forward, *args)
    if not isinstance(values, Mapping) or not values:
        raise TypeError(f"{owner}: the forward must return a dict of its values by name, got {type(values).__name__}.")
    ordered = list(_order(forward, args))
    out_name = ordered[-1]
    pairs = list(steps.items()) if isinstance(steps, Mapping) else list(steps)
    unknown = [name for name, _ in pairs if name not in (*ordered, *arg_names)]
    if unknown:
        raise ValueError(
            f"{owner}: the step {unknown[0]!r} is named after no value of the forward and no argument; there are "
            f"{[*ordered, *arg_names]}."
        )
    outputs(lambda *a: forward(*a)[out_name], tuple(args), owner)
    leaves, notes, remarks, diagnoses, probes = {}, [], [], [], ()
    for k, (name, step) in enumerate(pairs):
        problem = _step_problem(forward, pairs[: k + 1], tuple(args), arg_names, ordered, name, step)
        report = check(problem, key=key_or_default(key))
        leaf = next(iter(report.leaves.values()))
        leaves[name], probes = leaf, report.probes
        notes += [f"{name}: {note}" for note in report.notes]
        remarks += [dataclasses.replace(remark, leaf=name) for remark in report.remarks]
        for d in report.diagnoses:
            first = " This is the first wrong line; the lines after it were judged with its true value."
            text = d.explanation + (first if not diagnoses else "")
            diagnoses.append(Diagnosis(name, d.kind, text, d.fix, d.evidence, d.condition, d.source, d.also))
    verdict = "wrong" if any(not leaf.ok for leaf in leaves.values()) else "right"
    said = tuple(diagnoses), tuple(notes), probes
    return Report(verdict, Leaves(leaves, {}), *said, subject="derivation", remarks=tuple(remarks))


def _order(forward, args) -> list[str]:
    """Names of the forward values as the forward lists them (a traced dict would come back sorted)."""
    names: list[str] = []

    def run(*a):
        names[:] = list(forward(*a))
        return 0

    jax.eval_shape(run, *args)
    return names


def _true_gradients(forward, primals, ordered, arg_names, cotangent):
    """Values by name, and the gradient of every value and argument, by autodiff.

    The gradient of a value is that of what is added to it where it is made: the forward is traced, and its equations
    are evaluated with an offset at each named value.
    """
    program, shape = _jaxpr.read(forward, *primals)
    flat_names = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(shape)]

    def run(offsets, primals):
        named = dict(zip(flat_names, offsets))
        outs = _jaxpr.evaluate_with_offsets(program, jax.tree.leaves(primals), named, flat_names)
        return dict(zip(flat_names, outs))[ordered[-1]]

    zeros = [jnp.zeros(s.shape, s.dtype) for s in jax.tree.leaves(shape)]
    floats = [i for i, x in enumerate(primals) if is_float(x)]

    def of_floats(offsets, some):
        merged = list(primals)
        for i, x in zip(floats, some):
            merged[i] = x
        return run(offsets, merged)

    _, pull_back = jax.vjp(of_floats, zeros, [primals[i] for i in floats])
    of_values, of_args = pull_back(cotangent)
    gradients = dict(zip(flat_names, of_values))
    gradients |= {arg_names[i]: g for i, g in zip(floats, of_args)}
    return gradients


def _step_problem(forward, pairs, args, arg_names, ordered, name, step) -> Problem:
    flat = Arguments(args, arg_names, "verify.steps")
    out = jax.eval_shape(forward, *args)[ordered[-1]]

    def reference(primals, seeds):
        arguments = list(flat.tree(primals))
        value = forward(*arguments)[ordered[-1]]
        cotangent = jnp.asarray(seeds[0]).astype(value.dtype)
        return [_true_gradients(forward, arguments, ordered, arg_names, cotangent)[name], value]

    def rule(primals, seeds):
        arguments = list(flat.tree(primals))
        values = {**dict(zip(arg_names, arguments)), **forward(*arguments)}
        true = _true_gradients(forward, arguments, ordered, arg_names, jnp.asarray(seeds[0]))
        done = {earlier: true[earlier] for earlier, _ in pairs[:-1]}
        done[ordered[-1]] = seeds[0]
        return [step(values, done)]

    like = jax.eval_shape(lambda *a: reference(jax.tree.leaves(a), [jnp.zeros(out.shape, out.dtype)])[0], *args)
    return Problem(
        primals=flat.leaves,
        seeds=[np.ones(out.shape, out.dtype)],
        reference=reference,
        rule=rule,
        primal_names=flat.paths,
        seed_names=["cotangent"],
        leaves=[(name, like.shape, like.dtype)],
        seed_shapes=lambda primals: [jax.eval_shape(forward, *flat.tree(primals))[ordered[-1]].shape],
        subject=f"step {name}",
    )
