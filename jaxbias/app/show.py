"""Results as tables and sentences for the terminal."""

from rich.table import Table

from jaxbias.selfcheck import DTYPES, Check


def check_summary(checks: list[Check]) -> str:
    """Whether all gradients are within tolerance, or how many are not and which is the first."""
    leaves = [leaf for check in checks for leaf in check.leaves]
    failed = [leaf for leaf in leaves if not leaf.ok]
    if not failed:
        return f"{len(checks)} derivations, {len(leaves)} gradients: all within tolerance of float64 autodiff"
    first = failed[0]
    return (
        f"{len(failed)} of {len(leaves)} gradients are wrong, the first: {first.derivation} ({first.example}), "
        f"{first.leaf} in {first.dtype}: {first.note or f'error {first.error:.2g}, tolerance {first.tolerance:.2g}'}"
    )


def check_table(checks: list[Check]) -> Table:
    """The largest error of every leaf of every derivation, by dtype."""
    table = Table("derivation", "leaf", title="Largest error against float64 autodiff, relative to the leaf's scale")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    for check in checks:
        for i, (leaf, row) in enumerate(check.worst().items()):
            cells = [
                f"{row[dtype].error:.1e}" if row[dtype].ok else f"[bold red]{row[dtype].error:.1e} ✗[/]"
                for dtype in DTYPES
            ]
            table.add_row(check.derivation.name if i == 0 else "", leaf or "all", *cells)
    return table
