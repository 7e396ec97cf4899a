"""Write docs/layers.md from the derivations themselves: `python -m docs`, in the repository.

Formulas and sources are those of each module's `DERIVATIONS`. Errors are measured: those of rows that have none yet, or
of all rows with `--measure`, which takes a minute.
"""

import re
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from jaxbias import selfcheck
from jaxbias.derivation import Derivation

PAGE = Path(__file__).with_name("layers.md")
HEAD = """\
# Layers and losses

<!-- This page is written by `python -m docs`: change the DERIVATIONS of a module, then run it. -->

Every hand-derived backward pass of the library. Equation numbers are those of [the derivation sheet](equations.md);
how each formula is carried out stands in the docstring of its module, `jaxbias/layers/<name>.py` (activations together
in `activations.py`) or `jaxbias/losses/<name>.py`.

The last column is the largest difference from autodiff of the plain forward in float64, over all configurations and
relative to the largest entry of a leaf, rounded up to a power of ten; "exact" because the values drawn are short enough
for their sums and products not to round. The same holds in float32 and bfloat16 to 16 units in the last place, and
`jaxbias check` measures all of it on your machine.
"""
LOSSES = "Losses: the backward gives the first error signal δ = ∂L/∂z, and only here the sum over rows is divided by n."
COLUMNS = "forward, then each gradient | source | float64 error |\n|---|---|---|---|"
ROW = re.compile(r"^\| `(\w+)` \|.*\| (\S+) \|$", flags=re.MULTILINE)


def errors_shown(page: str) -> dict[str, str]:
    """Name -> what the last column of its row says."""
    return dict(ROW.findall(page))


def derivations() -> list[Derivation]:
    """All of them, layers first."""
    return [*selfcheck.layer_derivations().values(), *selfcheck.loss_derivations().values()]


def measured(names: Container[str]) -> dict[str, str]:
    """Name -> its largest float64 error as a row shows it.

    Raises:
        RuntimeError: a derivation that does not pass its own check has no place on the page.
    """
    errors = {}
    for check in selfcheck.check_all([each for each in derivations() if each.name in names], dtypes=["float64"]):
        if not check.ok:
            raise RuntimeError(f"{check.derivation.name} does not pass `jaxbias check`; mend it first.")
        errors[check.derivation.name] = bound(max(leaf.error for leaf in check.leaves))
    return errors


def bound(error: float) -> str:
    """The smallest power of ten that is not below the error: it stands on every machine where the error does not."""
    return "exact" if error == 0 else next(f"1e-{n}" for n in range(20, -300, -1) if error <= 10.0**-n)


def row(derivation: Derivation, error: str) -> str:
    """A line of the table; `|` would end a cell."""
    formulas = "<br>".join(f"${formula}$".replace("|", r"\vert ") for formula in derivation.formulas)
    return f"| `{derivation.name}` | {formulas} | {derivation.source.replace('derivation sheet', 'sheet')} | {error} |"


def page(errors: Mapping[str, str]) -> str:
    """The page, with these errors by name."""
    layers, losses = (
        "\n".join([f"| {kind} | {COLUMNS}", *(row(each, errors[each.name]) for each in named.values())])
        for kind, named in (("layer", selfcheck.layer_derivations()), ("loss", selfcheck.loss_derivations()))
    )
    return f"{HEAD}\n{layers}\n\n{LOSSES}\n\n{losses}\n"


def main(argv: Sequence[str]) -> None:
    if set(argv) - {"--measure"}:
        sys.exit("python -m docs [--measure]: writes docs/layers.md; --measure measures the errors of all rows again.")
    errors = {} if "--measure" in argv else errors_shown(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page(errors | measured({each.name for each in derivations()} - errors.keys())), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
