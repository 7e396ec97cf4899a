"""Run benchmarks and show their results: `python -m benchmarks --help`."""

import argparse
import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SUITES = {
    "bias": "what a bias costs, over the bare products; and its gradient alone",
    "derivations": "every layer and loss: hand-derived backward against autodiff and other libraries' rules",
    "derived": "what jb.derive writes against autodiff: time, and bytes kept for the backward pass",
    "training": "the articles' networks against PyTorch, Keras, Flax, Equinox, Haiku, JAX by hand, NumPy, scikit-learn",
    "fit_loop": "training in one compiled program against a step called from Python, and which of them fit chooses",
    "sweep": "many small networks at once",
    "per_example": "per-example gradient norms and clipped sums, over one batch gradient; Opacus, BackPACK",
    "verify": "time to check and to diagnose a derivation, against check_grads and torch's gradcheck",
    "startup": "import, first gradient, first training step, without and with the compilation cache",
    "scaling": "time and memory as batch, width and depth grow, with fitted exponents",
    "weak_scaling": "a step on 1 to 1,024 devices: bytes moved by formula and by compiler; fake devices and processes",
    "backends": "an attached GPU or TPU; and the real compilers for TPUs and GPUs without either",
}

DEFAULT = ("bias", "derivations", "training", "sweep", "per_example")
"""Suites that run where none is named."""

MODULES = {"sweep": "bench_networks", "per_example": "bench_norms", "verify": "bench_checking"}
"""Suites whose module has another name than theirs."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; an unknown suite ends the program with one line."""
    names = "\n".join(f"  {name:12} {what}" for name, what in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Without a name: the quick set ({', '.join(DEFAULT)}), in under 5 minutes on 2 cores.",
        epilog=f"suites:\n{names}\n  report       renders the stored results to a page",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="suites to run, or report")
    parser.add_argument("--full", action="store_true", help="all sizes, contenders and dtypes, more samples")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test of the benchmarks themselves")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="results file (default: that of this kind of machine)"
    )
    parser.add_argument("--case", metavar="TEXT", default="", help="only cases with TEXT in their names")
    parser.add_argument("--peers", metavar="A,B", help="only these peers, of those installed; 'none' for none")
    parser.add_argument(
        "--python", action="append", default=[], metavar="PEER=PATH",
        help="an interpreter that has a peer that this one lacks, for example torch=/opt/torch/bin/python",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="PAGE", help="report: where to write the page")
    asked = parser.parse_args(argv)
    unknown = [name for name in asked.names if name not in (*SUITES, "report")]
    if unknown:
        parser.exit(2, f"unknown suite {unknown[0]!r}: choose among {', '.join(SUITES)}, or report.\n")
    if not all("=" in each for each in asked.python):
        parser.exit(2, "--python wants PEER=PATH, for example torch=/opt/torch/bin/python.\n")
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    asked = arguments(argv)
    if "report" in asked.names:
        from benchmarks import report

        return report.main(asked.output)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from benchmarks.record import Unwritable

    try:
        return _run(asked)
    except Unwritable as error:
        print(error, file=sys.stderr)
        return 1


def _setting(asked: argparse.Namespace):
    from benchmarks.case import Setting
    from benchmarks.peers import PEERS

    peers = None
    if asked.peers is not None:
        peers = () if asked.peers == "none" else tuple(asked.peers.split(","))
        unknown = [peer for peer in peers if peer not in PEERS]
        if unknown:
            print(f"unknown peer {unknown[0]!r}: choose among {', '.join(PEERS)}.", file=sys.stderr)
            raise SystemExit(2)
    scale = "tiny" if asked.tiny else "full" if asked.full else "quick"
    return Setting(scale, peers, pythons=dict(each.split("=", 1) for each in asked.python), case=asked.case)


def _run(asked: argparse.Namespace) -> int:
    import dataclasses

    from benchmarks import agree, goals, record, roofline, tables
    from benchmarks.record import ResultStore

    setting = _setting(asked)
    began = time.perf_counter()
    machine = record.machine()
    path = asked.json or record.RESULTS / f"{record.machine_name(machine)}.json"
    key = f"jax {record.versions()['jax']}"
    store = ResultStore(path, key, record.environment())  # an unwritable file is found before any work
    print(f"{machine['device_kind']}, {machine['processor']}, {machine['cores']} cores; {setting.scale} set; {path}")
    compiling_only = asked.names and {*asked.names} <= {"backends", "weak_scaling"} and machine["platform"] == "cpu"
    limits = {} if compiling_only else roofline.limits(setting.scale)
    setting = dataclasses.replace(setting, limits=limits)
    names = asked.names or DEFAULT
    store.began(record.run_of(names, setting.scale, limits))
    shown = (f"{limits[k] / 1e9:.0f} {'GFLOP/s' if k.startswith('matmul') else 'GB/s'} {k}" for k in limits)
    print("limits of this device, measured now: " + (", ".join(shown) or "none"))
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")

    canaries = [agree.canary(name) for name in agree.CANARIES]
    store.add(canaries)
    for canary in canaries:
        print(f"canary: {canary.case}: {canary.status}{': ' * bool(canary.note)}{canary.note}")

    done = list(canaries)
    try:
        for name in names:
            for records in _suite(name, setting):
                store.add(records)
                done += records
                rows = [tables.row(r) for r in records]
                if rows:
                    print(
                        f"\n{name} ({time.perf_counter() - began:.0f} s)\n{tables.text(tables.HEAD, rows)}", flush=True
                    )
    except KeyboardInterrupt:
        print(f"\ninterrupted: the finished cases are in {path}.", file=sys.stderr)
        return 130
    if len(done) == len(canaries):
        print(f"no case of {', '.join(names)} has {asked.case!r} in its name.", file=sys.stderr)
        return 2
    print("\n" + tables.text(("figure to reach", "goal", "here", ""), goals.table(done)))
    for what, limit in goals.gaps(done):
        print(f"not met: {what}{': ' * bool(limit)}{limit}")
    _print_counts(done, time.perf_counter() - began, path)
    return 1 if any(r.status == "wrong" for r in done) else 0


def _suite(name: str, setting) -> Iterator[list]:
    """The records of a suite, case after case; one that fails as a whole says so and the next suite goes on."""
    from benchmarks.record import Record

    try:
        yield from importlib.import_module(f"benchmarks.{MODULES.get(name, f'bench_{name}')}").run(setting)
    except Exception as error:
        yield [Record(name, "all", "all", status="failed", note=f"{type(error).__name__}: {error}"[:300])]


def _print_counts(records: list, seconds: float, path: Path) -> None:
    counts = {}
    for record in records:
        counts[record.status] = counts.get(record.status, 0) + 1
    named = ", ".join(f"{n} {status}" for status, n in counts.items())
    print(f"\n{len(records)} results ({named}) in {seconds:.0f} s, kept in {path}. Page: python -m benchmarks report")
    for note in sorted({r.note for r in records if r.status == "skipped"}):
        print(f"skipped {sum(r.note == note for r in records)}: {note}")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
