"""Judge the rules of the packages that are installed, and write docs/published_rules.md."""

import argparse
import importlib
import importlib.metadata
import re
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax

from docs.published_rules import of_distributions, of_jax, of_solvers, of_transport
from docs.published_rules.judge import NOT_CHECKED, Row, outcome
from docs.published_rules.rule import Package

PAGE = Path(__file__).parent.with_suffix(".md")

PACKAGES = {**of_jax.PACKAGES, **of_solvers.PACKAGES, **of_distributions.PACKAGES, **of_transport.PACKAGES}
"""Title of a table → its package."""

HEAD = """\
# Published rules, checked

<!-- This page is written by `python -m docs.published_rules`, which judges the packages that are installed. -->

Derivative rules that packages bring themselves, as `jax.custom_jvp`, `jax.custom_vjp`, a linear solve or an implicit
function, each held against autodiff of the function without its rule and differences of it in ball arithmetic, or
against autodiff of a closed form where the function is the limit of an iteration; in float64, at the checker's probes.
"Within" a tolerance stands where the published values themselves have fewer digits than a float64. What is wrong is
described in [found.md](found.md), with 50 digits.
"""

COLUMNS = "| rule | kind | verdict | evidence |\n|---|---|---|---|"
ROW = re.compile(r"^\| (.*?) \| (.*?) \| (.*?) \| (.*) \|$", flags=re.MULTILINE)
VERTICAL = "\\|"
SECTION = re.compile(r"^## (.+?) \S+\n(?:.*\n)*?(?=^## |\Z)", flags=re.MULTILINE)


def version_of(module: str) -> str:
    """Of the distribution that brings a module."""
    top = module.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(top, [top])
    return importlib.metadata.version(sorted(names)[-1])


def row_of(row: Row) -> str:
    """A line of a table; `|` would end a cell."""
    return f"| {' | '.join(cell.replace('|', VERTICAL) for cell in row)} |"


def rows_of(page: str) -> list[Row]:
    """The rows of all tables of a page."""
    rows = [Row(*(cell.replace(VERTICAL, "|") for cell in cells)) for cells in ROW.findall(page)]
    return [row for row in rows if row.verdict not in ("verdict", "---")]


def section(title: str, package: Package) -> str:
    """The table of a package; each row is also printed as it comes, with its seconds of processor time.

    Raises:
        Exception: whatever a package raises that does not fit the versions around it.
    """
    importlib.import_module(package.module)
    lines = [f"## {title} {version_of(package.module)}", "", COLUMNS]
    try:
        start = time.process_time()
        for rule in package.rules():
            row = outcome(rule)
            seconds, start = time.process_time() - start, time.process_time()
            print(f"{title}: {row.rule}: {row.verdict} ({seconds:.1f} s): {row.evidence}", flush=True)
            lines.append(row_of(row))
    except (ImportError, AttributeError) as error:  # another version of the package has moved something
        lines += ["", f"The rest is not checked: {error}."]
    return "\n".join(lines) + "\n\n"


def counts(rows: Sequence[Row]) -> str:
    """How many rules were judged, and how; those without a kind are read by autodiff and not counted."""
    verdicts = Counter(row.verdict for row in rows if row.kind)
    judged = verdicts.total() - verdicts[NOT_CHECKED]
    plain = [row.rule for row in rows if not row.kind]
    told = f"{judged} rules judged: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return f"{told}." + (f" Without a rule of their own, and not counted: {', '.join(plain)}." if plain else "")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m docs.published_rules", description="Check derivative rules of installed packages."
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(PACKAGES)}; all by default")
    asked = parser.parse_args(argv).packages
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    kept = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    sections = {shown[1]: shown[0] for shown in SECTION.finditer(kept)}
    for title, package in PACKAGES.items():
        if asked and title not in asked:
            continue
        try:
            sections[title] = section(title, package)
        except Exception as error:
            print(f"skipped: {title} ({type(error).__name__}: {error})")
            continue
        tables = "".join(sections[title] for title in PACKAGES if title in sections)
        text = f"{HEAD}\n{counts(rows_of(tables))}\n\n{tables}".rstrip("\n") + "\n"
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
