"""Every derivation of the library, collected, and checked against autodiff on this machine's backend.

Each example configuration gets values that bfloat16 can hold, so that they are the same numbers in every dtype. One
compiled program per derivation runs the hand-derived backward in each dtype and autodiff of the plain forward in
float64, and gives for each leaf

    error = max |hand − autodiff₆₄| / max |autodiff₆₄|            absolute where the gradient is zero everywhere

which must not exceed the tolerance of the dtype.
"""

import difflib
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxbias import layers, losses
from jaxbias._trees import in_one_line, relative_errors
from jaxbias.derivation import Derivation, instances

DTYPES = ("float64", "float32", "bfloat16")
TOLERANCE = {dtype: 16 * float(jnp.finfo(dtype).eps) for dtype in DTYPES}
"""Relative to a leaf's largest entry: 16 eps. One rounding moves a value by at most eps/2 of its size, and the longest
derivations (a norm's, a loss') round some thirty times in a row on values of the leaf's size, in the derivation and,
in float64, in the reference too; their sums run in at least float32. A wrong formula is off by far more. No tolerance
grows with the size of the arrays."""

_COMPILER_OPTIONS: dict[str, Any] = {  # run once: compiling is the cost
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
}


def _collect(package) -> dict[str, Derivation]:
    modules = (getattr(package, name) for name in sorted(vars(package)) if not name.startswith("_"))
    derivations = [d for module in modules for d in getattr(module, "DERIVATIONS", ())]
    return {derivation.name: derivation for derivation in derivations}


def layer_derivations() -> dict[str, Derivation]:
    """Name → derivation of every layer."""
    return _collect(layers)


def loss_derivations() -> dict[str, Derivation]:
    """Name → derivation of every loss."""
    return _collect(losses)


def select(names: Sequence[str] = ()) -> list[Derivation]:
    """The derivations with these names, in the order given; all layers, then all losses, without a name.

    Raises:
        ValueError: no layer and no loss has such a name.
    """
    known = layer_derivations() | loss_derivations()
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"check: there is no derivation {name!r}.{hint} Known: {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


@dataclass(frozen=True)
class LeafCheck:
    """How far one leaf of one hand-derived backward is from float64 autodiff.

    Attributes:
        derivation: name of the layer or loss.
        example: its configuration.
        leaf: "weight", "bias", ... for a gradient of params, "x" for the error signal handed to the layer below.
        dtype: of the hand-derived backward.
        error: relative to the largest entry of the leaf; NaN counts as failed.
        tolerance: what the error may be at most.
        note: the exception, where the backward did not run at all.
    """

    derivation: str
    example: str
    leaf: str
    dtype: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= self.tolerance  # False for NaN

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: None in its place."""
        return asdict(self) | {"error": self.error if self.error == self.error else None, "ok": self.ok}


@dataclass(frozen=True)
class Check:
    """All leaves of one derivation, over all its examples and dtypes.

    Attributes:
        derivation: what was checked.
        leaves: one entry per example, leaf and dtype.
        seconds: wall time, compiling included.
    """

    derivation: Derivation
    leaves: tuple[LeafCheck, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there are leaves, and every one is within its tolerance."""
        return bool(self.leaves) and all(leaf.ok for leaf in self.leaves)

    def worst(self) -> dict[str, dict[str, LeafCheck]]:
        """leaf → dtype → its worst entry over the examples; one that failed is worse than any that passed."""
        table: dict[str, dict[str, LeafCheck]] = {}
        for leaf in self.leaves:
            row = table.setdefault(leaf.leaf, {})
            before = row.get(leaf.dtype)
            if before is None or (before.ok and not (leaf.error <= before.error)):
                row[leaf.dtype] = leaf
        return table


def _leaf_name(path: str) -> str:
    """The path in (grads, delta_x) as a reader names it: "0.weight" is weight, "1" is x, "1.0" the first of several."""
    part, _, rest = path.partition(".")
    return (rest or "params") if part == "0" else ".".join(["x", rest] if rest else ["x"])


def _case(example: Any, dtypes: Sequence[str], key: Any) -> tuple[Callable, Any]:
    """(gradients, values): `gradients(values)` gives those of autodiff, and {dtype: the hand-derived ones}."""
    exact, *cases = instances(example, key, jnp.bfloat16, held_in=["float64", *dtypes])

    def gradients(values):
        # Each dtype gets its own arrays: a cast inside the program may be optimised away, and the rounding with it.
        _, pull_back, _ = jax.vjp(exact.forward, *values[0][:2], has_aux=True)
        expected = pull_back(values[0][2])
        by_hand = {}
        for dtype, case, (params, x, delta) in zip(dtypes, cases, values[1:]):
            _, residuals = case.forward(params, x)
            by_hand[dtype] = case.backward(residuals, delta)
        return expected, by_hand

    return gradients, [(case.params, case.x, case.delta) for case in (exact, *cases)]


def _leaf_errors(expected: Any, by_hand: dict[str, Any]) -> dict[str, dict[str, float]]:
    """dtype → leaf → error."""
    return {
        dtype: {_leaf_name(path): error for path, error in relative_errors(actual=grads, expected=expected).items()}
        for dtype, grads in by_hand.items()
    }


def _compile(lowered: Any) -> Callable:
    """With the options that make compiling cheap, as far as this version of XLA knows them."""
    options = dict(_COMPILER_OPTIONS)
    while True:
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            unknown = re.search(r"No such compile option: '(\w+)'", str(error))
            if unknown is None or unknown[1] not in options:
                raise
            del options[unknown[1]]


def _errors(examples: Sequence[Any], dtypes: Sequence[str], key: Any) -> list[dict[str, dict[str, Any]] | str]:
    """For each example {dtype: {leaf: error}}, or what a wrong derivation raised; all from one compiled program."""
    notes: dict[int, str] = {}
    cases: dict[int, Callable] = {}
    values: dict[int, Any] = {}

    def attempt(i, function, *args):
        try:
            return function(*args)
        except Exception as error:  # whatever a wrong derivation does is a finding, not a crash
            notes[i] = in_one_line(error)
            return None

    for i, example in enumerate(examples):
        if (case := attempt(i, _case, example, dtypes, key)) is not None:
            cases[i], values[i] = case

    def run(values):
        return {i: attempt(i, cases[i], value) for i, value in values.items()}

    gradients = jax.device_get(_compile(jax.jit(run).lower(values))(values))
    errors: dict[int, Any] = {i: attempt(i, _leaf_errors, *gradients[i]) for i in cases if i not in notes}
    return [notes[i] if i in notes else errors[i] for i in range(len(examples))]


def check_derivation(derivation: Derivation, *, dtypes: Sequence[str] = DTYPES, seed: int = 0) -> Check:
    """Check one derivation in all its example configurations; an exception in a backward is a failed leaf.

    Args:
        dtypes: names of those of `DTYPES` to check in.
        seed: of the inputs.
    """
    began = time.perf_counter()
    leaves: list[LeafCheck] = []
    # An accelerator's fast matmul modes would measure the mode, not the derivation.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        results = _errors(derivation.examples, dtypes, jax.random.key(seed))
    for example, result in zip(derivation.examples, results):
        if isinstance(result, str):
            leaves += [
                LeafCheck(derivation.name, example.label, "", dtype, float("nan"), TOLERANCE[dtype], result)
                for dtype in dtypes
            ]
            continue
        leaves += [
            LeafCheck(derivation.name, example.label, leaf, dtype, float(error), TOLERANCE[dtype])
            for dtype, errors in result.items()
            for leaf, error in errors.items()
        ]
    return Check(derivation, tuple(leaves), time.perf_counter() - began)


def check_all(
    derivations: Sequence[Derivation] | None = None,
    *,
    dtypes: Sequence[str] = DTYPES,
    progress: Callable[[Check], None] | None = None,
    threads: int = 2,
) -> list[Check]:
    """Check every derivation, in the order given; by default all layers, then all losses.

    Args:
        dtypes: as for `check_derivation`.
        progress: called with each `Check` as it is done.
        threads: XLA compiles without holding Python's lock, so two threads keep two cores busy.
    """
    if derivations is None:
        derivations = select()

    def run(derivation):
        check = check_derivation(derivation, dtypes=dtypes)
        if progress is not None:
            progress(check)
        return check

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, derivations))
