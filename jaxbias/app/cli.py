"""The command line: parses, calls, prints. Bad input is one line on stderr and exit status 2."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ModuleNotFoundError as missing:
    sys.exit(f"jaxbias: the command line needs {missing.name}. Install jaxbias[cli].")

app = typer.Typer(
    help="Weights, biases and their gradients in JAX: derived by hand, checked by machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CacheDir = Annotated[Path | None, typer.Option(help="Compilation cache.  [default: the user's cache directory]")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compile everything anew.")]


_INTERRUPTED = 130  # what shells give for Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 a check failed or training diverged, 2 bad input."""
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="jaxbias", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except (ValueError, TypeError, ModuleNotFoundError) as error:  # what the library says of bad input
        return _say(str(error), 2)
    except typer.Exit as done:
        status = done.exit_code
    except Exception as error:
        message = getattr(error, "format_message", None)  # typer's own word on unknown options and the like
        if message is None:
            raise
        return _say(message(), getattr(error, "exit_code", 2)) if message() else 2
    return _say("interrupted", status) if status == _INTERRUPTED else int(status or 0)


def _say(text: str, status: int) -> int:
    print("jaxbias: " + " ".join(text.split()), file=sys.stderr)
    return status


def _console() -> Console:
    return Console(stderr=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=_console(),
    )


def _cache(directory: Path | None, off: bool):
    from jaxbias import compilation_cache

    return compilation_cache.enable(None if off else directory or compilation_cache.default_directory())


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    all_claims: Annotated[bool, typer.Option("--claims", help="Run every claim, not only the quick ones.")] = False,
    cache_dir: CacheDir = None,
    no_cache: NoCache = False,
) -> int:
    """Check every derivation, train on the digits with and without biases, and write one HTML page."""
    import time

    from jaxbias import _files, claims
    from jaxbias.app import report as reports

    began = time.perf_counter()
    _files.check_writable(out, "--out")
    use = _cache(cache_dir, no_cache)
    with _progress() as bars:
        checking = bars.add_task("checking derivations", total=None, note="")
        training = {name: bars.add_task(name, total=None, note="", visible=False) for name in reports.NETWORKS}

        def on_check(check, done, total):
            bars.update(checking, completed=done, total=total, note=check.derivation.name if done < total else "")

        def on_epoch(name, progress):
            note = f"test accuracy {progress.latest['validation_accuracy']:.3f}"
            bars.update(training[name], completed=progress.epoch, total=progress.epochs, note=note, visible=True)

        found = reports.collect(on_check=on_check, on_epoch=on_epoch)
        chosen = claims.select() if all_claims else claims.select(claims.QUICK)
        claiming = bars.add_task("claims", total=len(chosen), note="")
        results = claims.run(
            [each.number for each in chosen],
            done=lambda result: bars.update(claiming, advance=1, note=result.claim.number),
        )
        section = claims.section(results, drawn=lambda name: bars.update(claiming, note=f"drawing {name}"))
        bars.update(claiming, note="")
    _files.write(out, reports.page(found, cache=use.sentence(), seconds=time.perf_counter() - began, claims=section))
    console = Console()
    console.print(_check_summary(found.checks), highlight=False)
    for run in found.runs:
        console.print(f"{run.name:<24} test accuracy {run.accuracy:.4f}   {run.summary.total.parameters} parameters",
                      highlight=False)  # fmt: skip
    console.print(use.sentence(), highlight=False, soft_wrap=True)
    console.print(f"{out} written in {time.perf_counter() - began:.1f} s", highlight=False, soft_wrap=True)
    return 0 if found.ok and all(result.passed for result in results) else 1


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    cache_dir: CacheDir = None,
    no_cache: NoCache = False,
) -> int:
    """Check every derivation against autodiff on this machine's backend; exit status 1 when one fails."""
    import jax

    from jaxbias.selfcheck import derivations as checks

    use = _cache(cache_dir, no_cache)
    total = len(checks.layer_derivations()) + len(checks.loss_derivations())
    with _progress() as bars:
        task = bars.add_task("checking derivations", total=total, note="")
        found = checks.check_all(progress=lambda done: bars.update(task, advance=1, note=done.derivation.name))
    ok = all(each.ok for each in found)
    if as_json:
        result = {
            "ok": ok,
            "backend": jax.default_backend(),
            "jax": jax.__version__,
            "leaves": [leaf.as_dict() for each in found for leaf in each.leaves],
        }
        print(json.dumps(result, indent=1))
    else:
        Console().print(_check_table(found))
        Console().print(_check_summary(found), highlight=False)
        _console().print(use.sentence(), highlight=False, soft_wrap=True)
    return 0 if ok else 1


@app.command("claims")
def run_claims(
    numbers: Annotated[
        list[str] | None, typer.Argument(help="Such as A4.7, E6 or A4 for a group; all by default.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Directory for the figures of these claims, as SVG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on stdout.")] = False,
    cache_dir: CacheDir = None,
    no_cache: NoCache = False,
) -> int:
    """Run the claims about biases and compare what is measured with what is expected; exit status 1 when one fails."""
    from jaxbias import claims
    from jaxbias.claims import gallery

    chosen = claims.select(numbers or ())
    if figures is not None:
        gallery.check_directory(figures)
    _cache(cache_dir, no_cache)
    with _progress() as bars:
        task = bars.add_task("claims", total=len(chosen), note="")
        results = claims.run(
            [each.number for each in chosen], done=lambda result: bars.update(task, advance=1, note=result.claim.number)
        )
        names = tuple(name for each in chosen for name in gallery.UNDER.get(each.number, ()))
        if figures is not None and names:
            bars.update(task, note="drawing")
            gallery.write_all(figures, names)
        bars.update(task, note="")
    failed = [result.claim.number for result in results if not result.passed]
    if as_json:
        print(claims.to_json(results))
    else:
        Console().print(_claims_table(results))
        total = f"{len(results) - len(failed)} of {len(results)} claims checked as stated"
        Console().print(total + (f"; failed: {', '.join(failed)}" if failed else ""), highlight=False)
    return 1 if failed else 0


def _claims_table(results) -> Table:
    from rich.markup import escape

    table = Table("number", "statement", "verdict", "measured", "expected", show_lines=True)
    colours = {"holds": "green", "holds under a condition": "yellow", "refuted": "magenta", "FAILED": "bold red"}
    for result in results:
        marks = [escape(each.measured) + ("" if each.passed else " [bold red]✗[/]") for each in result.findings]
        measured = "\n".join(f"{escape(each.name)}: {mark}" for each, mark in zip(result.findings, marks))
        table.add_row(
            result.claim.number,
            escape(result.claim.statement),
            f"[{colours[result.verdict]}]{result.verdict}[/]",
            measured or escape(result.error),
            "\n".join(escape(each.expected) for each in result.findings),
        )
    return table


def _check_summary(checks) -> str:
    leaves = [leaf for each in checks for leaf in each.leaves]
    failed = [leaf for leaf in leaves if not leaf.ok]
    if not failed:
        return f"{len(checks)} derivations, {len(leaves)} gradients: all within tolerance of float64 autodiff"
    first = failed[0]
    return (
        f"{len(failed)} of {len(leaves)} gradients are wrong, the first: {first.derivation} ({first.example}), "
        f"{first.leaf} in {first.dtype}: {first.note or f'error {first.error:.2g}, tolerance {first.tolerance:.2g}'}"
    )


def _check_table(checks) -> Table:
    from jaxbias.selfcheck.derivations import DTYPES

    table = Table("derivation", "leaf", title="Largest error against float64 autodiff, relative to the leaf's scale")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    for each in checks:
        for i, (leaf, row) in enumerate(each.worst().items()):
            cells = [
                f"{row[dtype].error:.1e}" if row[dtype].ok else f"[bold red]{row[dtype].error:.1e} ✗[/]"
                for dtype in DTYPES
            ]
            table.add_row(each.derivation.name if i == 0 else "", leaf or "all", *cells)
    return table


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="digits, or the path of an .npz or .csv file.")] = "digits",
    network: Annotated[str, typer.Option(help="For example conv:16x3x3,relu,max_pool:2,flatten,dense:10.")] = (
        "dense:128,relu,dense:10"
    ),
    optimizer: Annotated[str, typer.Option(help="The name of an optax optimizer.")] = "adam",
    learning_rate: Annotated[float, typer.Option(help="Step size.")] = 1e-3,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the initial params and the order of the rows.")] = 0,
    no_bias: Annotated[bool, typer.Option("--no-bias", help="Build every layer without its bias.")] = False,
    bias_only: Annotated[bool, typer.Option("--bias-only", help="Train the biases, freeze all else.")] = False,
    freeze: Annotated[list[str] | None, typer.Option(help="Path of params to freeze, such as 0 or 2.weight.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Directory to save to and resume from.")] = None,
    save: Annotated[Path | None, typer.Option(help="File for the trained params, as safetensors.")] = None,
    cache_dir: CacheDir = None,
    no_cache: NoCache = False,
) -> int:
    """Train a network on the digits or on your own rows."""
    from jaxbias import _files, io
    from jaxbias.app import task as tasks

    if save is not None:
        _files.check_writable(save, "--save")
    _cache(cache_dir, no_cache)
    task = tasks.prepare(
        data, network, optimizer=optimizer, learning_rate=learning_rate, seed=seed, use_bias=not no_bias,
        bias_only=bias_only, freeze=freeze or (),
    )  # fmt: skip
    with _progress() as bars:
        bar = bars.add_task(f"training on {task.data.name}", total=epochs, note="")

        def on_progress(progress):
            bars.update(bar, completed=progress.epoch, note=tasks.describe(progress.latest))

        fitted = tasks.run(task, epochs=epochs, batch_size=batch_size, checkpoint=checkpoint, progress=on_progress)
    if save is not None:
        io.save(save, fitted.params)
    latest = {name: float(values[-1]) for name, values in fitted.history.items() if values.ndim == 1}
    resumed = f", {fitted.resumed} of them from {checkpoint}" if fitted.resumed else ""
    print(f"{epochs} epochs{resumed}: {tasks.describe(latest)}")
    if fitted.diverged is not None:
        return _say(f"training diverged: the loss is not finite from epoch {fitted.diverged} on", 1)
    return 0


@app.command()
def summary(
    data: Annotated[str, typer.Argument(help="digits, or the path of an .npz or .csv file.")] = "digits",
    network: Annotated[str, typer.Option(help="For example dense:128,relu,dense:10.")] = "dense:128,relu,dense:10",
    no_bias: Annotated[bool, typer.Option("--no-bias", help="Build every layer without its bias.")] = False,
    bias_only: Annotated[bool, typer.Option("--bias-only", help="Only the biases count as trainable.")] = False,
    freeze: Annotated[list[str] | None, typer.Option(help="Path of params to freeze, such as 0 or 2.weight.")] = None,
) -> None:
    """Show what each layer of a network holds: output shape, weights, biases, bytes."""
    import jaxbias
    from jaxbias.app import task as tasks

    task = tasks.prepare(data, network, use_bias=not no_bias, bias_only=bias_only, freeze=freeze or ())
    print(jaxbias.summary(task.params, task.network, task.data.x_train[:1], task.trainable))


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="module:function or file.py:function, which returns a Report.")] = "",
    self_test: Annotated[bool, typer.Option("--self-test", help="Plant mistakes in right rules instead.")] = False,
    every: Annotated[
        int, typer.Option(min=1, help="Self-test: only every n-th planted mistake; 1 for all, half an hour.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check a gradient derivation and say what is wrong with it: 0 if it may be used, 1 if not."""
    from jaxbias.app import verify_command as command

    if self_test:
        return command.run_self_test(every=every, as_json=as_json)
    if not target:
        raise ValueError("verify: name what to check as module:function or file.py:function, or give --self-test.")
    return command.run(target, as_json=as_json)
