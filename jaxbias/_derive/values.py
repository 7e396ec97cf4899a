"""The values of a derivation by number, and the names that are taken in it; its functions and loops share them."""

import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbias import _jaxpr
from jaxbias._derive.sizes import Digits, Sizes, is_short
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression

Variables = Sequence[tuple[str, Any]]
"""What a function closes over, by name."""

RESERVED = ("jax", "jnp", "residuals", "forward", "backward")


@dataclass(frozen=True)
class Unwritten:
    """An equation that has no rule: what it is, and where it stands."""

    name: str
    equation: _jaxpr.Equation

    def __str__(self) -> str:
        source = self.equation.source
        return self.name + (f" in line {source.line}: `{source.text}`" if source else "")


@dataclass(frozen=True)
class Draw:
    """Random numbers that are made of keys alone, which JAX carries out as it is.

    Attributes:
        number: of the value.
        keys: numbers of what it is drawn from.
    """

    number: int
    keys: tuple[int, ...]
    equation: _jaxpr.Equation

    def __str__(self) -> str:
        return f"random numbers: {Unwritten('drawn', self.equation)}"


class Later(NamedTuple):
    """A value that depends on no argument, not yet computed: its equation, the numbers that go in, its place."""

    equation: _jaxpr.Equation
    inputs: tuple[int, ...]
    place: int


class Values:
    """Numbered values.

    Attributes:
        of: number of a value → its expression; a variable where it has a name.
        known: number of a value that is the same whatever the arguments → what it is, or how to compute it.
        functions: variable → the user's function that assigns it.
        captured: name → array, of what the function closes over.
        drawn: names of captured arrays that are random numbers.
        unwritten: variable of a function that JAX carries out → what it is.
        of_keys: number of a value that is made of keys alone → its equation, the equation's inputs, its place there.
        draws: variable of a function that draws random numbers → what it draws.
    """

    def __init__(self, arguments: Sequence[Expression], closed_over: Variables, sizes: Sizes, digits: Digits):
        self.of: list[Expression] = []
        self.known: dict[int, Any] = {}
        self._computed: dict[int, Any] = {}
        self.functions: dict[Any, str] = {}
        self.captured: dict[str, Any] = {}
        self.drawn: set[str] = set()
        self.unwritten: dict[str, Unwritten] = {}
        self.of_keys: dict[int, tuple[_jaxpr.Equation, tuple[int, ...], int]] = {}
        self.draws: dict[str, Draw] = {}
        self.taken = {*RESERVED, *(x.detail for x in arguments)}
        self._closed_over, self._sizes, self._digits = closed_over, sizes, digits

    def new(self, value: Expression) -> int:
        self.of.append(value)
        return len(self.of) - 1

    def unique(self, text: str) -> str:
        """The text, with a number where it is taken; `is`, the values of i in all passes, is a word of Python's."""
        made, k = f"{text}_" if keyword.iskeyword(text) else text, 1
        while made in self.taken:
            k += 1
            made = f"{text}_{k}"
        self.taken.add(made)
        return made

    def variable(self, text: str, shape: Sequence[int], dtype: Any) -> Expression:
        """A variable of this name, or of the next that is free."""
        return ex.name(self.unique(text), shape, dtype)

    def held(self, number: int) -> Any:
        """What a known value is, computed when first asked for."""
        value = self.known[number]
        if not isinstance(value, Later):
            return value
        if number not in self._computed:
            inputs = [self.held(number) for number in value.inputs]
            with jax.ensure_compile_time_eval():  # it may first be asked for inside of a trace
                self._computed[number] = value.equation.bind(*inputs)[value.place]
        return self._computed[number]

    def keys_of(self, number: int) -> tuple[int, ...]:
        """The keys that a value is made of."""
        if number in self.known:
            return ()
        if number not in self.of_keys:
            return (number,)
        _, inputs, _ = self.of_keys[number]
        return tuple(dict.fromkeys(key for i in inputs for key in self.keys_of(i)))

    def drawn_by(self, draw: Draw) -> Callable[..., Any]:
        """The function of the keys that a draw is: the forward's own operations, those on numbers too."""

        def run(*keys: Any) -> Any:
            made = dict(zip(draw.keys, keys))

            def value(number: int) -> Any:
                known = self.known.get(number)
                if known is not None and not isinstance(known, Later):
                    return known
                if number not in made:
                    equation, inputs, place = known or self.of_keys[number]
                    made[number] = equation.bind(*map(value, inputs))[place]
                return made[number]

            return value(draw.number)

        return run

    def constant(self, program: _jaxpr.Program, place: int) -> int:
        """Number of a constant of a program: a size, a number, or an array that the function closes over."""
        held, dtype = program.constants[place], program.dtypes[place]
        size = self._sizes.get((id(program), place))
        exact = self._digits.get((id(program), place), held)
        number = self.new(self._constant(exact, dtype) if size is None else size(dtype))
        self.known[number] = held
        return number

    def _constant(self, held: Any, dtype: Any) -> Expression:
        if hasattr(dtype, "_rules"):  # keys of random numbers
            return self._captured(held, np.shape(held), dtype)
        array = np.asarray(held, dtype)
        if array.size and (array.ndim == 0 or (array == array.flat[0]).all()):
            scalar = held if isinstance(held, int | float | complex) else array.flat[0].item()  # as it was written
            if array.dtype == np.float32 and is_short(array.flat[0]):
                scalar = float(str(np.float32(array.flat[0])))  # as it is printed
            kind = {"b": bool, "i": int, "u": int, "c": complex}.get(array.dtype.kind, float)
            return ex.spread(ex.number(kind(scalar), array.dtype), array.shape)
        return self._captured(held, array.shape, array.dtype)

    def _captured(self, held: Any, shape: Sequence[int], dtype: Any) -> Expression:
        for text, known in self.captured.items():
            if known is held:
                return ex.name(text, shape, dtype)
        text = self.unique(next((text for text, value in self._closed_over if _equal(value, held)), "constant"))
        self.captured[text] = held
        return ex.name(text, shape, dtype)


def _equal(value: Any, held: Any) -> bool:
    if value is held:
        return True
    plain = not any(hasattr(x.dtype, "_rules") for x in (value, held) if hasattr(x, "dtype"))
    return plain and np.shape(value) == np.shape(held) and bool((np.asarray(value) == np.asarray(held)).all())
