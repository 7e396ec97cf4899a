"""Sums of products: what expressions are in, to be simplified.

What does not vary along a Σ stands before it. Like terms are added, exponents merged. A factor of a named product is
written by that name, `xc` as `xhat / r`, so that `r * xc` meets `xhat`. And Σ(x − mean(x)) is 0, which is tried on the
definitions of names.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from jaxbias.symbols import expressions as ex
from jaxbias.symbols import queries
from jaxbias.symbols.expressions import Expression, bare

Monomial = tuple[tuple[Expression, int], ...]
"""Factors with their exponents, each once, in order of their number."""

Polynomial = dict[Monomial, Fraction]

MOST_TERMS = 24
"""A longer sum is no closed form."""

ELEMENTWISE = {"add", "mul", "div", "negative", "power", "spread"}
POSITIVE = {"jax.lax.rsqrt", "jnp.exp", "jnp.cosh", "jax.nn.sigmoid", "jax.nn.softplus"}

DEPTH = 4
"""Definitions put into each other in the proof that a sum is 0."""


class TooLong(Exception):
    """More terms than a person would write."""


def names_of(roots: Iterable[Expression]) -> set[Expression]:
    return {node for root in roots for node in queries.parts(root) if node.op == "name"}


def is_sum(x: Expression) -> bool:
    """Whether it is a Σ that broadcasts back to where it was taken."""
    if x.op == "expand":
        return x.args[0].op == "total" and x.args[0].detail == x.detail
    return x.op == "total" and x.detail in (tuple(range(len(x.detail))), tuple(range(x.args[0].ndim)))


class Form:
    """Sums of products.

    Args:
        inlined: error signals to be written out.
        signals: all of them.
        defined: names of the forward → their values.
    """

    def __init__(self, inlined: dict[Expression, Expression], signals: set[Expression], defined: dict):
        self._inlined, self._signals, self._defined = inlined, signals, defined
        self._numbers: dict[Expression, int] = {}
        self._sizes: dict[int, Expression] = {}
        self._known: dict[Expression, Polynomial] = {}
        self._variables = {value: name for name, value in defined.items()}
        self._by_product: dict[Expression, tuple[Expression, Monomial]] = {}
        self._by_product = self._products()
        self._known.clear()

    def of(self, x: Expression) -> Expression:
        """x in closed form, in its shape."""
        core = bare(x)
        if core.op == "total" and not is_sum(core):
            return ex.spread(ex.total(self.of(core.args[0]), core.detail), x.shape)
        if core.op not in ELEMENTWISE and not is_sum(core):
            return x
        made = self._written(self._polynomial(core), core)
        return ex.spread(made, x.shape)

    # --- into sums of products ---

    def _products(self) -> dict[Expression, tuple[Expression, Monomial]]:
        """A factor → the named product that it is part of, and what the name is to be divided by."""
        made: dict[Expression, tuple[Expression, Monomial]] = {}
        for name, value in self._defined.items():
            terms = self._polynomial(value)
            if len(terms) != 1:
                continue
            ((factors, coefficient),) = terms.items()
            whole = [f for f, e in factors if e == 1 and f.shape == name.shape]
            rest = [f for f, _ in factors if f.shape == name.shape]
            others = all(e < 0 or self._is_positive(f) for f, e in factors if f not in whole)
            alone = len(factors) > 1 and len(whole) == len(rest) == 1 and whole[0] not in made
            if coefficient == 1 and alone and others:
                made[whole[0]] = name, tuple((f, -e) for f, e in factors if f is not whole[0])
        return made

    def _is_positive(self, x: Expression) -> bool:
        """Whether it may be divided by, by what it is."""
        value = self._defined.get(x, x)
        return value.op == "apply" and value.detail in POSITIVE

    def _number(self, x: Expression) -> int:
        return self._numbers.setdefault(x, len(self._numbers))

    def _atom(self, x: Expression) -> Polynomial:
        self._number(x)
        if x in self._by_product:
            name, rest = self._by_product[x]
            self._number(name)
            return {self._merged([(name, 1), *rest]): Fraction(1)}
        return {((x, 1),): Fraction(1)}

    def _merged(self, factors: Iterable[tuple[Expression, int]]) -> Monomial:
        exponents: dict[Expression, int] = {}
        for factor, exponent in factors:
            exponents[factor] = exponents.get(factor, 0) + exponent
        return tuple(sorted(((f, e) for f, e in exponents.items() if e), key=lambda pair: self._number(pair[0])))

    def _added(self, *parts: Polynomial) -> Polynomial:
        total: Polynomial = {}
        for part in parts:
            for factors, coefficient in part.items():
                total[factors] = total.get(factors, Fraction(0)) + coefficient
        total = {factors: c for factors, c in total.items() if c}
        if len(total) > MOST_TERMS:
            raise TooLong
        return total

    def _times(self, a: Polynomial, b: Polynomial) -> Polynomial:
        return self._added(*({self._merged([*f, *g]): c * d} for f, c in a.items() for g, d in b.items()))

    def _raised(self, a: Polynomial, exponent: int) -> Polynomial | None:
        """To a whole power: of one product, None of a sum."""
        if len(a) != 1:
            return None
        ((factors, c),) = a.items()
        return {tuple((f, e * exponent) for f, e in factors): c**exponent}

    def _named(self, x: Expression) -> Expression:
        """A sum of the forward, its parts by the names that they have."""
        if x.op not in ("add", "negative"):
            return self._variables.get(x, x)
        parts = [self._named(bare(arg)) for arg in x.args]
        made = bare(ex.add(*parts) if x.op == "add" else ex.negative(*parts))
        return self._variables.get(made, made)

    def _polynomial(self, x: Expression) -> Polynomial:
        x = bare(x)
        if x not in self._known:
            self._known[x] = self._read(x)
        return self._known[x]

    def _read(self, x: Expression) -> Polynomial:
        if x in self._inlined:
            return self._polynomial(self._inlined[x])
        value = ex.value_of(x)
        if value is not None and not isinstance(value, complex | bool) and abs(value) < float("inf"):
            if x.op == "size":
                self._sizes[int(value)] = x
            return {(): Fraction(value)} if value else {}
        if x.op == "negative":
            return {factors: -c for factors, c in self._polynomial(x.args[0]).items()}
        if x.op == "add":
            if not names_of([x]) & self._signals:
                return self._atom(self._named(x))  # of the forward alone: it stays together
            return self._added(*map(self._polynomial, x.args))
        if x.op == "mul":
            return self._times(*map(self._polynomial, x.args))
        raised = None
        if x.op == "div":
            raised = self._raised(self._polynomial(x.args[1]), -1)
            raised = None if raised is None else self._times(self._polynomial(x.args[0]), raised)
        if x.op == "power" and (exponent := _whole(x.detail)) is not None:
            raised = self._raised(self._polynomial(x.args[0]), exponent)
        if raised is not None:
            return raised
        if x.op == "expand" and not is_sum(x) and (inside := with_axes(x.args[0], x.detail)) is not None:
            return self._polynomial(inside)
        if is_sum(x):
            inner = x.args[0] if x.op == "expand" else x
            return self._sum(self._polynomial(inner.args[0]), [k - inner.args[0].ndim for k in inner.detail],
                             inner.args[0])  # fmt: skip
        if x.op == "expand" and len(inner := self._polynomial(x.args[0])) == 1:
            ((factors, c),) = inner.items()
            core = bare(ex.expand(self._product(factors, Fraction(1), x.args[0]), x.detail))
            return dict.fromkeys(self._atom(core), c)
        return self._atom(x)

    def _sum(self, terms: Polynomial, axes: Sequence[int], of: Expression) -> Polynomial:
        """Σ over axes, counted from the last, that broadcasts back."""
        outer: dict[Monomial, Polynomial] = {}
        for factors, c in terms.items():
            before = tuple((f, e) for f, e in factors if not _varies(f, axes))
            inside = tuple((f, e) for f, e in factors if _varies(f, axes))
            outer.setdefault(before, {})[inside] = c
        parts: list[Polynomial] = []
        for before, inside in outer.items():
            for factors, c in inside.items():
                parts.append(self._times({before: c}, self._sum_of(factors, axes, of)))
        return self._added(*parts)

    def _sum_of(self, factors: Monomial, axes: Sequence[int], of: Expression) -> Polynomial:
        """Σ of a product whose factors all vary."""
        missing = [k for k in axes if not any(_varies(f, [k]) for f, _ in factors)]
        count = Fraction(1)
        for k in missing:
            count *= of.shape[k]
        axes = [k for k in axes if k not in missing]
        if not axes:
            return {factors: count}
        if len(factors) == 1 and factors[0][1] == 1 and self._is_zero(factors[0][0], axes):
            return {}
        inside = self._product(factors, Fraction(1), of)
        places = [k + inside.ndim for k in axes]
        atom = bare(ex.expand(ex.total(inside, places), places))
        return {factors: count for factors in [((atom, 1),)] if self._number(atom) >= 0}

    def _is_zero(self, x: Expression, axes: Sequence[int]) -> bool:
        """Whether Σ x is 0 by what its names stand for."""
        proof = Proof(self._defined)
        try:
            return not proof.sum_of(x, tuple(axes))
        except TooLong:
            return False

    # --- and back ---

    def _product(self, factors: Monomial, c: Fraction, like: Expression) -> Expression:
        above: Expression | None = None
        below: Expression | None = None
        for factor, exponent in factors:
            power = ex.power(factor, abs(exponent))
            if exponent > 0:
                above = power if above is None else ex.multiply(above, power)
            else:
                below = power if below is None else ex.multiply(below, power)
        above = ex.number(1, like.dtype) if above is None else above
        if (n := abs(c).denominator) in self._sizes:
            count = ex.cast(self._sizes[n], like.dtype)
            c, below = c * n, count if below is None else ex.multiply(count, below)
        if abs(c) != 1 or not factors:
            above = ex.multiply(ex.number(_plain(abs(c)), like.dtype), above)
        return above if below is None else ex.divide(above, below)

    def _term(self, factors: Monomial, c: Fraction, like: Expression) -> Expression:
        """A product, its Σ as means where a count divides it."""
        means = []
        for factor, exponent in factors:
            inner = factor.args[0] if factor.op == "expand" else factor
            if exponent == 1 and inner.op == "total":
                count = _count(inner)
                if (c * count).denominator == 1 and (c.denominator > 2 or c.denominator == count):
                    c *= count
                    factor = bare(ex.divide(factor, ex.number(count, like.dtype)))
            means.append((factor, exponent))
        return self._product(tuple(means), abs(c), like)

    def _written(self, terms: Polynomial, like: Expression) -> Expression:
        if not terms:
            return ex.zeros(like)
        shared = dict(next(iter(terms)))
        for factors in terms:
            others = dict(factors)
            for factor, exponent in list(shared.items()):
                other = others.get(factor, 0)
                same = exponent * other > 0
                shared[factor] = (min(abs(exponent), abs(other)) * (1 if exponent > 0 else -1)) if same else 0
        common = tuple((f, e) for f, e in shared.items() if e)
        if len(terms) == 1:
            ((factors, c),) = terms.items()
            made = self._term(factors, c, like)
            return ex.negative(made) if c < 0 else made
        inside: Expression | None = None
        back = tuple((f, -e) for f, e in common)
        for factors, c in sorted(terms.items(), key=lambda term: term[1] < 0):
            term = self._term(self._merged([*factors, *back]), c, like)
            term = ex.negative(term) if c < 0 else term
            inside = term if inside is None else ex.add(inside, term)
        assert inside is not None
        if not common:
            return inside
        above = tuple((f, e) for f, e in common if e > 0)
        below = tuple((f, -e) for f, e in common if e < 0)
        made = ex.multiply(self._product(above, Fraction(1), like), inside) if above else inside
        return ex.divide(made, self._product(below, Fraction(1), like)) if below else made


class Proof(Form):
    """Sums written out to the arguments, for the proof that they are 0."""

    def __init__(self, defined: dict):
        super().__init__({}, set(), {})
        self._values, self._deep = defined, 0

    def sum_of(self, x: Expression, axes: tuple[int, ...]) -> Polynomial:
        return self._sum(self._polynomial(x), axes, x)

    def _read(self, x: Expression) -> Polynomial:
        if x in self._values and self._deep < DEPTH:
            self._deep += 1
            made = self._polynomial(self._values[x])
            self._deep -= 1
            return made
        if x.op == "add":
            return self._added(*map(self._polynomial, x.args))
        return super()._read(x)

    def _is_zero(self, x: Expression, axes: Sequence[int]) -> bool:
        return False


def _varies(x: Expression, axes: Sequence[int]) -> bool:
    """Whether it has entries along any of these axes, which count from the last."""
    return any(-k <= x.ndim and x.shape[k] != 1 for k in axes)


def with_axes(x: Expression, axes: tuple[int, ...]) -> Expression | None:
    """x with unit axes put into each of its operands, where they were taken out there; None where they were not."""
    if not x.shape and x.op in ("number", "size"):
        return x
    if x.op == "total" and x.detail == axes:
        return ex.expand(x, axes)
    if x.op == "drop" and x.detail == axes:
        return x.args[0]
    if x.op not in (*ELEMENTWISE, "apply") or x.op == "spread":
        return None
    parts = [with_axes(arg, axes) for arg in x.args]
    if None in parts or x.op == "apply":
        return None if None in parts else ex.expand(x, axes)
    return bare(ex.elementwise(x.op, parts, x.detail, x.dtype))  # type: ignore[arg-type]


def _count(total: Expression) -> int:
    count = 1
    for k in total.detail:
        count *= total.args[0].shape[k]
    return count


def _whole(exponent: int | float) -> int | None:
    return exponent if isinstance(exponent, int) else None


def _plain(c: Fraction) -> int | float:
    return int(c) if c.denominator == 1 else float(c)
