"""What a step costs beyond one chip: `python -m docs.beyond_one_chip` writes beyond_one_chip.md.

Everything in it is read from the results of `python -m benchmarks weak_scaling backends`; nothing is compiled here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench_weak_scaling import CHIPS, MODEL, PROGRAMS, SUITE, step_of
from benchmarks.record import RESULTS, Record, load

PAGE = Path(__file__).with_name("beyond_one_chip.md")

HEAD = """\
# What a step costs beyond one chip

Written by `python -m docs.beyond_one_chip` from the results of `python -m benchmarks weak_scaling backends --full`. The
training step is forward, backward and Adam by `jb.value_and_grad`, computed in bfloat16 with params and moments in
float32. Each device has {rows} rows, however many devices there are, so a step would take as long on all of them as on
one if nothing had to be sent.

**Compiled, not run**: the compilers for TPUs (libtpu) and for GPUs (JAX's CUDA plugin) were used without the devices.
They say which collectives a program has and of how many bytes, and those for TPUs count operations and bytes of memory;
there is no measured time in these figures.

## What must be sent

On a ring of n devices each sends, for arrays of B bytes,

| collective | sends |
|---|---|
| all-reduce: every device gets the sum | 2 (n − 1)/n · B |
| all-gather, all-to-all: B bytes on each afterwards | (n − 1)/n · B |
| reduce-scatter: B bytes of the sum on each afterwards | (n − 1) · B |
| collective-permute | B |

and no other way sends less. So, with d devices along "data", m along "model" and r rows on each,

- **rows**: params whole on every device, an all-reduce of the gradient: 2 (n − 1)/n · 2 bytes · entries, of a dense
  layer {width} wide, GELU and ten outputs;
- **rows and roles**: two residual blocks (norm, {width} → {wide} → {width}, GELU between) and ten outputs, cut by
  `jb.shardings` over m = {model} devices. Each block sums twice over "model", its output and the error signal that it
  hands down: 2 (m − 1)/m · 2 bytes · r · {width} each. The gradient is summed over "data":
  2 (d − 1)/d · 2 bytes · (entries that a device has).

"By formula" is that, with the loss, at two bytes an entry. XLA for GPUs sums gradients and error signals in float32 and
rounds them to bfloat16 afterwards, so it sends up to twice that; XLA for TPUs sums in bfloat16.

"Of the step, work" sets the work beside what is sent, at the full rates of the data sheets: work is the compiler's
count of operations or of memory traffic, whichever takes longer (for GPUs, whose compiler counts neither, the
operations of the products, so their share is a lower bound), and links carry what is sent. The first figure is
work / (work + links), where a step waits for its sums; the second is work / max(work, links), where all of them pass
while it works. It is the weak-scaling efficiency that remains if chip and links keep what their data sheets say: an
estimate, no measurement.
"""

EPILOGUES = """
## Where a GPU adds the bias

A bias, and what follows it, costs no pass over memory of its own where the kernel that computes a product applies it
before it writes. XLA has two ways to a product: its own kernels, and cuBLASLt. On a GPU it tries both and takes the
faster; without one it takes its own, so both are asked for here, for one H100: {rows} rows, {width} wide, bfloat16,
forward and backward. No GPU was attached: no time in it was measured, and how near a product comes to the GPU's peak is
not known.

"""

LIMITS = """
- **XLA's own kernels** carry on along values that have one use. tanh, ReLU and sigmoid do; GELU and SiLU take z twice,
  so they are a loop that reads z, which their backward keeps anyway. The ten outputs of the training step are a product
  that is computed in pieces, and the bias is added where those are summed.
- **cuBLASLt** knows ReLU and GELU. XLA sees ReLU if it is a maximum, and GELU if it is written
  z ½ (1 + tanh(√(2/π) (z + 0.044715 z³))) in the dtype of the product and nothing else wants z: in a forward alone, and
  in no training step, autodiff of `jax.nn.gelu` included. In bfloat16 that form is off by 61 % at z = −3, where
  1 + tanh cancels; `gelu_tanh` is z sigmoid(2u) and off by less than 1 %.
- **What layers do for it**: in half precision on CUDA a product to which a bias is added has the dtype of the bias, as
  XLA looks for no bias behind a conversion (both sum in float32 all the same); ReLU is a maximum in half precision; and
  `fit(compute_dtype=)` rounds params once, as XLA would else do so inside of each product that reads them, exchange the
  operands there, and add the bias apart. Programs for CPUs and TPUs have none of this.

`tests/benchmarks/test_backends.py` holds this where the extra gpu-compile is installed, of the step of `fit` too.
"""

SHEET = """
| chip | bfloat16 | memory | sends |
|---|---|---|---|
"""


def render(files: Sequence[dict[str, Any]]) -> str:
    """The page for these results files."""
    own = [r for file in files for r in file["records"] if r.suite == SUITE and r.status == "ok"]
    compiled = [r for r in own if r.measured != "run"]
    sizes = compiled[0].sizes
    width = sizes["width"]
    parts = [HEAD.format(rows=f"{sizes['rows']:,}", width=f"{width:,}", wide=f"{4 * width:,}", model=MODEL)]
    rows = [
        f"| {name} | {chip.flops / 1e12:,.0f} TFLOP/s | {chip.memory / 1e9:,.0f} GB/s | {chip.links / 1e9:,.0f} GB/s |"
        for name, chip in CHIPS.items()
    ]
    parts.append(SHEET + "\n".join([*rows, ""]))
    for program in PROGRAMS:
        of_program = [r for r in compiled if r.contender == program]
        parts.append(f"\n## {program.capitalize()}, compiled, not run\n\n" + _compiled(of_program))
    parts.append(_epilogues([r for file in files for r in file["records"] if r.suite == "backends"]))
    for file in files:
        if measured := [r for r in file["records"] if r in own and r.measured == "run"]:
            parts.append(_here(measured, _load_before(file)))
    return "".join(parts)


def _compiled(records: Sequence[Record]) -> str:
    head = ("devices", "all-reduces", "sends by formula", "by the compiler", "ratio", "work", "of the step, work", "")
    rows = []
    order = [*CHIPS, "CPU"]
    for r in sorted(records, key=lambda r: (order.index(r.case.split()[1]), r.sizes["chips"])):
        share = "–"
        if (chip := r.case.split()[1]) in CHIPS:
            work, links = step_of(r, chip)
            share = f"{100 * work / (work + links):.0f} to {100 * work / max(work, links):.0f} %"
        sums = "; ".join(f"{count} over {kind.split()[-1]}" for kind, (count, _) in r.extra.get("groups", {}).items())
        others = {kind for kind in r.extra.get("kinds", {}) if kind != "all-reduce"}
        formula, sent = r.extra["formula_bytes"], r.extra["sent_bytes"]
        operations = r.flops or r.extra["products_flops"]
        rows.append(
            (
                r.case.replace(" v", " TPU v"),
                (sums or "none") + "".join(f", {kind}" for kind in sorted(others)),
                _megabytes(formula),
                _megabytes(sent),
                f"{sent / formula:.3f}" if formula else "–",
                f"{operations / 1e9:,.1f} GFLOP{'' if r.flops else ' (formula)'}",
                share,
                r.measured,
            )
        )
    return _table(head, rows)


def _epilogues(records: Sequence[Record]) -> str:
    """Of programs with a product that a bias is added to: what is done where it is written."""
    case = "compiled for 1 H100"
    of_xla, of_library = (
        {r.contender: r for r in records if r.case == name and r.status == "ok"}
        for name in (case, f"{case}, products by cuBLASLt")
    )
    rows = []
    for name, own in of_xla.items():
        done = {k: n for k, n in of_library[name].extra.get("epilogues", {}).items() if k != "DEFAULT"}
        if not done:
            continue
        figures = (str(own.extra[f"products{of}"]) for of in ("", "_with_bias", "_with_activation"))
        rows.append((name, *figures, ", ".join(f"{n} {k}" for k, n in sorted(done.items()))))
    rows_of, width = of_xla["dense + GELU, bias"].sizes["x"]
    head = EPILOGUES.format(rows=f"{rows_of:,}", width=f"{width:,}")
    columns = ("program", "products by XLA's kernels", "with the bias", "with the activation", "cuBLASLt adds")
    return head + _table(columns, rows) + LIMITS


def _load_before(file: dict[str, Any]) -> float:
    """The largest load average before the runs of this suite."""
    runs = [run for environment in file["environments"].values() for run in environment.get("runs", ())]
    return max(run["load_1min"] for run in runs if SUITE in run["suites"])


def _here(records: Sequence[Record], load_before: float) -> str:
    head = (
        "",
        "how many",
        "time of a step over that of one",
        "95 % interval",
        "processor time",
        "last loss differs by",
    )
    rows = []
    for r in records:
        assert r.times_baseline is not None and r.error is not None
        ratio, low, high = r.times_baseline
        processor = f"{1e3 * r.extra['processor_s']:.2f} ms"
        interval = f"[{low:.2f}, {high:.2f}]"
        rows.append((r.case, r.contender, f"{ratio:.2f}", interval, processor, f"{r.error:.0e}"))
    sizes = records[0].sizes
    return (
        "\n## Run, on one CPU with two cores\n\n"
        f"`fit` with `mesh=` on {sizes['rows']:,} rows in batches of {sizes['batch']}, dense 64-{sizes['width']}-10.\n"
        "The rows are the same in all, so what is over 1 is what meshes and collectives cost. Fake devices, and\n"
        "processes with gloo, share two cores: this says that the result is the same and what is lost, and nothing\n"
        f"about how a step scales. The load average was {load_before:.1f} before; where that is more than two, others\n"
        "shared the cores, and the processor time of all devices or processes together says more than the ratio.\n\n"
        + _table(head, rows)
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.3f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def stored() -> list[dict[str, Any]]:
    """The results files that are kept in the repository."""
    return [load(path) for path in sorted(RESULTS.glob("*.json"))]


if __name__ == "__main__":
    PAGE.write_text(render(stored()), encoding="utf-8")
    print(f"page: {PAGE}")
