"""The command line: parses, calls, prints. JAX is imported by a command that needs it, when it runs.

What is said of an error, and the exit status, stand in `app.failure`.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from jaxbias.app import failure

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError as missing:
    sys.exit(f"jaxbias: the command line needs {missing.name}. Install jaxbias[cli].")

app = typer.Typer(
    help="Weights, biases and their gradients in JAX: derived by hand, checked by machine.",
    epilog=failure.STATUSES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CacheDir = Annotated[Path | None, typer.Option(help="Compilation cache.  [default: the user's cache directory]")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compile everything anew.")]

DataFile = Annotated[str, typer.Argument(help="digits, text, or the path of a .csv, .tsv (or .csv.gz) or .npz file.")]
Network = Annotated[
    str | None,
    typer.Option(
        help="For example conv:16x3x3,relu,max_pool:2,flatten,dense:10.  [default: dense:128,relu,dense:K, where K is "
        "what the data need; two transformer blocks for text]"
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(help="Name or number of the target's column; repeat for several.  [default: the last]"),
]
Kind = Annotated[str | None, typer.Option("--task", help="classification or regression.  [default: guessed]")]
Missing = Annotated[str | None, typer.Option(help="Of empty cells, NA, ? and NaN: drop (the row) or mean.")]
Drop = Annotated[list[str] | None, typer.Option(help="Name or number of a column to leave out; repeat for several.")]
Header = Annotated[
    bool | None, typer.Option("--header/--no-header", help="Whether the first line holds names.  [default: found out]")
]
Delimiter = Annotated[str | None, typer.Option(help="Between two cells.  [default: found out]")]
From = Annotated[
    Path | None, typer.Option("--from", help="Of text: file or directory.  [default: Python's standard library]")
]
Context = Annotated[int | None, typer.Option(help="Of text: characters per row.  [default: 64]")]
Characters = Annotated[int | None, typer.Option(help="Of text: how many to take, at most.  [default: 1000000]")]
Loss = Annotated[str | None, typer.Option(help="Such as huber:threshold=0.5.  [default: what fits the task]")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in arguments:  # wherever it stands
        arguments = ["--debug", *(word for word in arguments if word != "--debug")]
    try:
        status = app(args=arguments, prog_name="jaxbias", standalone_mode=False)
        sys.stdout.flush()  # a full disk behind a redirected output refuses here
    except (KeyboardInterrupt, typer.Abort):
        status = failure.INTERRUPTED
    except Exception as error:
        message = getattr(error, "format_message", None)  # typer's own word on unknown options and the like
        if message is not None:
            return failure.say(failure.Failure(message(), failure.BAD_INPUT)) if message() else failure.BAD_INPUT
        return failure.say(failure.of(error), error)
    if status == failure.INTERRUPTED:
        return failure.say(failure.Failure("interrupted", status))
    return int(status or 0)


def _version(wanted: bool) -> bool:
    if wanted:
        import jaxbias

        print(f"jaxbias {jaxbias.__version__} (JAX {version('jax')}, Python {platform.python_version()})")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="And exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=failure.DEBUG, help="Show the traceback of what else is one line.")
    ] = False,
) -> None:
    del version
    if debug:
        os.environ[failure.DEBUG] = "1"


def _cache(directory: Path | None, off: bool):
    """The compilation cache, on unless asked otherwise; one that was named must work."""
    from jaxbias import compilation_cache

    use = compilation_cache.enable(None if off else directory or compilation_cache.default_directory())
    if use.problem and directory is not None:
        raise ValueError(f"--cache-dir: {use.problem}. Name another directory, or give --no-cache.")
    if use.problem:
        print(f"jaxbias: {use.sentence()}", file=sys.stderr)
    return use


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
    from jaxbias.app import keep, progress, show
    from jaxbias.app import report as reports

    began = time.perf_counter()
    _files.check_writable(out, "--out")
    use = _cache(cache_dir, no_cache)
    with failure.no_input_left(), progress.Bars() as bars:
        checking = bars.row("checking derivations")
        training = {}

        def on_check(check, done, total):
            bars.update(checking, completed=done, total=total, note=check.derivation.name if done < total else "")

        def on_start(name):
            training[name] = bars.row(name, reports.EPOCHS, note="compiling")

        def on_epoch(name, told):
            bars.trained(training[name], told)

        data = reports.collect(on_check=on_check, on_start=on_start, on_epoch=on_epoch)
        chosen = claims.select() if all_claims else claims.select(reports.QUICK_CLAIMS)
        claiming = bars.row("claims", len(chosen))
        results = claims.run(
            [claim.number for claim in chosen],
            done=lambda result: bars.update(claiming, advance=1, note=result.claim.number),
        )
        section = reports.claims_section(results, drawn=lambda name: bars.update(claiming, note=f"drawing {name}"))
        bars.update(claiming, note="")
        page = reports.page(data, cache=use.sentence(), seconds=time.perf_counter() - began, claims=section)
    console = Console()
    console.print(show.check_summary(data.checks), highlight=False)
    for run in data.runs:
        trained = f"trained in {run.fitted.train_s:.1f} s, compiled in {run.fitted.compile_s:.1f} s"
        console.print(
            f"{run.name:<24} test accuracy {run.accuracy:.4f}   {run.summary.total.parameters} parameters   {trained}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(use.sentence(), highlight=False, soft_wrap=True)
    if (problem := keep.write(out, lambda path: _files.write(path, page), "the page")) is not None:
        return failure.say(problem)
    console.print(f"{out} written in {time.perf_counter() - began:.1f} s", highlight=False, soft_wrap=True)
    return 0 if data.ok and all(result.passed for result in results) else 1


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Layers and losses, such as dense; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    cache_dir: CacheDir = None,
    no_cache: NoCache = False,
) -> int:
    """Check every derivation against autodiff on this machine's backend; exit status 1 when one fails."""
    import jax

    from jaxbias import selfcheck
    from jaxbias.app import progress, show

    chosen = selfcheck.select(names or ())
    use = _cache(cache_dir, no_cache)
    with failure.no_input_left(), progress.Bars() as bars:
        row = bars.row("checking derivations", len(chosen))
        checks = selfcheck.check_all(
            chosen, progress=lambda done: bars.update(row, advance=1, note=done.derivation.name)
        )
    ok = all(entry.ok for entry in checks)
    if as_json:
        result = {
            "ok": ok,
            "backend": jax.default_backend(),
            "jax": jax.__version__,
            "leaves": [leaf.as_dict() for entry in checks for leaf in entry.leaves],
        }
        print(json.dumps(result, indent=1))
    else:
        Console().print(show.check_table(checks))
        Console().print(show.check_summary(checks), highlight=False)
        if not use.problem:  # said already
            progress.messages().print(use.sentence(), highlight=False, soft_wrap=True)
    return 0 if ok else 1


@app.command("claims")
def run_claims(
    numbers: Annotated[
        list[str] | None, typer.Argument(help="Such as A4.7, E6 or A4 for a group; all by default.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Each claim with what was measured, also where all are run.")
    ] = False,
    figures: Annotated[Path | None, typer.Option(help="Directory for the figures of these claims, as SVG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on stdout.")] = False,
    cache_dir: CacheDir = None,
    no_cache: NoCache = False,
) -> int:
    """Run the claims about biases and compare what is measured with what is expected; exit status 1 when one fails."""
    from jaxbias import claims
    from jaxbias.app import claims_table, progress
    from jaxbias.claims import gallery

    chosen = claims.select(numbers or ())
    if figures is not None:
        gallery.check_directory(figures)
    _cache(cache_dir, no_cache)
    with progress.Bars() as bars:
        task = bars.row("claims", len(chosen))
        results = claims.run(
            [claim.number for claim in chosen],
            done=lambda result: bars.update(task, advance=1, note=result.claim.number),
        )
        bars.update(task, note="")
    if as_json:
        print(claims.to_json(results), flush=True)
    else:
        claims_table.show(Console(), results, every=every or bool(numbers))
    names = tuple(name for claim in chosen for name in gallery.UNDER.get(claim.number, ()))
    if figures is not None and names:  # after the results, which a full disk must not cost
        with progress.Bars() as bars:
            bars.row("drawing", note=", ".join(names))
            gallery.write_all(figures, names)
    return 0 if all(result.passed for result in results) else 1


@app.command()
def train(
    data: DataFile = "digits",
    network: Network = None,
    target: Target = None,
    task: Kind = None,
    missing: Missing = None,
    drop: Drop = None,
    header: Header = None,
    delimiter: Delimiter = None,
    source: From = None,
    context: Context = None,
    characters: Characters = None,
    scale: Annotated[
        bool | None,
        typer.Option("--scale/--no-scale", help="Standardise by the training rows.  [default: tables yes, .npz no]"),
    ] = None,
    loss: Loss = None,
    optimizer: Annotated[str, typer.Option(help="Of optax, such as adamw:weight_decay=0.01.")] = "adam",
    learning_rate: Annotated[float, typer.Option(help="Step size, at its highest.")] = 1e-3,
    schedule: Annotated[
        str | None,
        typer.Option(help="Of the step size, by optax, such as warmup_cosine:warmup_steps=9."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data.  [default: 20, more with few rows; 4 for text]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows per step.  [default: 64, fewer with few rows; 16 for text]")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the initial params and the order of the rows.")
    ] = 0,
    no_bias: Annotated[bool, typer.Option("--no-bias", help="Build every layer without its bias.")] = False,
    bias_only: Annotated[bool, typer.Option("--bias-only", help="Train the biases, freeze all else.")] = False,
    freeze: Annotated[list[str] | None, typer.Option(help="Path of params to freeze, such as 0 or 2.weight.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Directory to save to and resume from.")] = None,
    save: Annotated[Path | None, typer.Option(help="File for the trained params, as safetensors.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Characters of text to draw from the trained network.")] = 0,
    compare_biases: Annotated[
        int,
        typer.Option(min=0, help="Then train anew from so many seeds, with each kind of bias in turn kept from it."),
    ] = 0,
    cache_dir: CacheDir = None,
    no_cache: NoCache = False,
) -> int:
    """Train a network on the digits, on text or on your own rows."""
    from jaxbias import _files
    from jaxbias.app import train_command as command

    if save is not None:
        _files.check_writable(save, "--save")
    _cache(cache_dir, no_cache)
    options = {"target": target, "task": task, "missing": missing, "drop": drop, "header": header,
               "delimiter": delimiter, "scale": scale, "from": source, "context": context,
               "characters": characters}  # fmt: skip
    words = {"options": options, "loss": loss, "optimizer": optimizer, "learning_rate": learning_rate,
             "schedule": schedule, "epochs": epochs, "batch_size": batch_size, "seed": seed, "use_bias": not no_bias,
             "bias_only": bias_only, "freeze": freeze or ()}  # fmt: skip
    return command.run(data, network, words, checkpoint=checkpoint, save=save, sample=sample, compare=compare_biases)


@app.command()
def summary(
    data: DataFile = "digits",
    network: Network = None,
    target: Target = None,
    task: Kind = None,
    missing: Missing = None,
    drop: Drop = None,
    header: Header = None,
    delimiter: Delimiter = None,
    source: From = None,
    context: Context = None,
    characters: Characters = None,
    loss: Loss = None,
    no_bias: Annotated[bool, typer.Option("--no-bias", help="Build every layer without its bias.")] = False,
    bias_only: Annotated[bool, typer.Option("--bias-only", help="Only the biases count as trainable.")] = False,
    freeze: Annotated[list[str] | None, typer.Option(help="Path of params to freeze, such as 0 or 2.weight.")] = None,
) -> None:
    """Show what each layer of a network holds: output shape, weights, biases, bytes."""
    import jaxbias
    from jaxbias.app import task as tasks

    options = {"target": target, "task": task, "missing": missing, "drop": drop, "header": header,
               "delimiter": delimiter, "from": source, "context": context, "characters": characters}  # fmt: skip
    run = tasks.prepare(
        data, network, options=options, loss=loss, use_bias=not no_bias, bias_only=bias_only, freeze=freeze or (),
        command="summary",
    )  # fmt: skip
    print(jaxbias.summary(run.params, run.network, run.data.x_train[:1], run.trainable))


@app.command()
def derive(
    target: Annotated[str, typer.Argument(help="module:function or file.py:function.")],
    shapes: Annotated[str, typer.Option(help="Of each argument: x=8x16,W=16x4; i for integers: ids=i4.")] = "",
    argnums: Annotated[
        str, typer.Option(help="Arguments to differentiate with respect to: 0,2. All if left out.")
    ] = "",
    keep: Annotated[str, typer.Option(help="named: what has a name; least: compute again what is cheap.")] = "named",
    style: Annotated[str, typer.Option(help="steps: one for each name; closed: put together where shorter.")] = "steps",
    out: Annotated[Path | None, typer.Option(help="Write the code to this file.")] = None,
) -> int:
    """Write the backward pass of a function, checked; with a function of no arguments that returns them, from those."""
    from jaxbias.app import derive_command as command

    return command.run(target, shapes=shapes, argnums=argnums, keep=keep, style=style, out=out)


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="module:function or file.py:function, which returns a Report.")] = "",
    self_test: Annotated[bool, typer.Option("--self-test", help="Plant mistakes in right rules instead.")] = False,
    every: Annotated[
        int, typer.Option(min=1, help="Self-test: only every n-th planted mistake; 1 for all, half an hour.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    certificate: Annotated[
        Path | None, typer.Option(help="Write what was decided, at which inputs, to this JSON file.")
    ] = None,
    recheck: Annotated[Path | None, typer.Option(help="Evaluate again, and compare with this certificate.")] = None,
) -> int:
    """Check a gradient derivation and say what is wrong with it: 0 if it may be used, 1 if not, 3 if undecided."""
    from jaxbias.app import verify_command as command

    if self_test:
        return command.run_self_test(every=every, as_json=as_json)
    if not target:
        raise ValueError("verify: name what to check as module:function or file.py:function, or give --self-test.")
    return command.run(target, as_json=as_json, certificate=certificate, recheck=recheck)
