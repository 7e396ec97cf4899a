"""What every leaf of params is used for, read from the jaxpr of the user's own function.

Every leaf is followed through the program until it meets data; the operation there says what the leaf is, whatever its
rank or name:

    dot_general, convolution, solve  ->  weight       z = a·w
    add, subtract                    ->  bias         z = a + b        ∂L/∂b = δ summed over the broadcast      (14)
    multiply, divide                 ->  scale        z = a ⊙ s; a dot_general that contracts nothing is one too
    rows chosen by data              ->  embedding    unless what follows tells: x·w[i] is a weight
    anything else                    ->  other

On its way a leaf meets constants, noise (what keys alone make) and other leaves. These meetings claim a role where they
tell one: a matrix product with constants, or with what other leaves made, makes a weight of it (a network on fixed
positions, a GRU that starts at zero, W + A·B); what is spread over rows of such a value and added or multiplied is a
bias or a scale (the gain of a weight norm); what weights are applied to as they are to data is a token ("other").
What multiplies data as an exponential is a logarithm; where what is computed of it is added to data too, that is a
log-determinant. The leaf itself counts as one where it is added to what was made of it, or where nothing but sums
follows; a logarithm of a rate, which is added and then multiplied with counts, is a bias.

What data multiply is a scale unless what follows says more (`_products`): mixed in by complementary weights, g a +
(1 − g) x, it stands in the place of a value, as a token does ("other"); changed as a whole and then contracted with
other data it is a weight (a modulated kernel, a spectral norm), and so is what is multiplied and then added up along
its own axis, and a kernel whose Fourier transform multiplies that of data. What is a weight stays one where an update
made of it is added to it.

How much a use counts: 0, nothing but layout between the leaf and data; 1, computed from params; 2, that went through a
reduction too (penalties, priors, log-determinants); 3, no data at all. Where no number leads on to the output (a
product whose argmax says which row is taken) it counts less than 1 and more than 2: a codebook is an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxbias._jaxpr import Program
from jaxbias._jaxpr.queries import depends_on
from jaxbias.foreign import _axes
from jaxbias.foreign._reach import by_numbers, by_sums
from jaxbias.foreign._values import NOISE, PARAMS, TOKEN, Thread, Use, Value, data_from
from jaxbias.foreign._walk import Walk
from jaxbias.foreign.traced import traced


@dataclass(frozen=True, eq=False)
class Uses:
    """The uses of every leaf of a traced function, in the order of the program."""

    program: Program
    paths: tuple[str, ...]
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    uses: tuple[Use, ...]

    def of(self, leaf: int) -> list[Use]:
        """The uses of one leaf that count the most, without the log-determinant of what it multiplies."""
        uses = [use for use in self.uses if use.leaf == leaf]
        factors = [use for use in uses if use.role in ("weight", "scale") and use.level < 2]
        logarithms = [use.level for use in factors if use.logarithm]
        # What is compared with data too, as a sink of attention is, is a score and no determinant.
        only_added = all(use.role == "bias" for use in uses if use.level == 0)
        is_sum = lambda use: only_added and (use.again or use.ends)  # of what it scaled, or of scalars at the end
        drops = lambda use: (use.determinant and factors) or any(n <= use.level or is_sum(use) for n in logarithms)
        uses = [use for use in uses if not (use.role == "bias" and drops(use))]
        if any(use.role == "weight" and use.level == 0 for use in uses):  # w − rate · (a gradient by w): w is one
            uses = [use for use in uses if not (use.again and use.role in ("bias", "scale"))]
        return [use for use in uses if use.counts == min(use.counts for use in uses)]

    def roles(self, unused: str = "other") -> list[str]:
        """The role of every leaf; `unused` for one without a use."""
        return [self.role(leaf) or unused for leaf in range(len(self.paths))]

    def role(self, leaf: int) -> str:
        """Its roles, joined in the order of use; "" without one."""
        uses = [use for use in self.uses if use.leaf == leaf]
        if any(use.role == TOKEN and use.level < 2 for use in uses):
            return "other"
        multiplied = any(use.place.equation.name == "dot_general" and use.level == 1 for use in uses)
        if multiplied and any(use.role == "bias" and use.level == 0 for use in uses):
            return "other"  # weights are applied to what is added to data: latents, from which queries are made
        uses = self.of(leaf)
        names = list(dict.fromkeys("other" if use.role == TOKEN else use.role for use in uses))
        if len(names) > 1 and "other" in names:  # a known use says more than an unknown one
            names.remove("other")
        added = [use.place.equation.name for use in uses if use.role == "bias"]
        if "embedding" in names and added and all(name in ("add", "add_any") for name in added):
            names.remove("embedding")  # scores that are added; some are read as well, as a path is scored
        return "+".join(names)

    def check_all_met(self, function: str) -> None:
        """Raise a ValueError that names the first leaf without a use, and where it went instead."""
        met = {use.leaf for use in self.uses}
        unused = "the output does not use it"
        for i, path in enumerate(self.paths):
            if i in met:
                continue
            reached = depends_on(self.program, [self.program.inputs[i]])
            last = [equation for equation in self.program.equations if not reached.isdisjoint(equation.inputs)]
            stop = f"it stops at operation {last[-1].name} at {last[-1].source}" if last else unused
            raise ValueError(
                f"{function}: the params leaf {path} never meets data: {stop}. Leave it out of params, or pass "
                f'unused="other" where the function takes it.'
            )


def uses_of(program: Program, paths: tuple[str, ...]) -> Uses:
    """The uses of the program's first inputs, whose paths these are; the others are data."""
    forms = [jax.ShapeDtypeStruct(program.shapes[i], program.dtypes[i]) for i in program.inputs]
    leaves, data = forms[: len(paths)], forms[len(paths) :]
    values = [Value(PARAMS, (Thread(i, _axes.of_shape(x.shape)),)) for i, x in enumerate(leaves)]
    values += [Value(NOISE) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else data_from(()) for x in data]
    walk = Walk(leaves)
    walk.run(program, values)
    reaching, ending = by_numbers(program), by_sums(program)
    at = lambda use: id(use.place.equation)
    uses = (replace(use, chooses=at(use) not in reaching, ends=at(use) in ending) for use in walk.resolved())
    return Uses(program, paths, tuple(leaves), tuple(uses))


def trace_uses(fn: Callable, params: Any, args: tuple[Any, ...], options: dict[str, Any] | None = None) -> Uses:
    """Trace `fn(params, *args, **options)`, and find every use of every leaf.

    Raises:
        TypeError: fn is no function.
    """
    made = traced(fn, params, args, options or {})
    return uses_of(made.program, made.paths)
