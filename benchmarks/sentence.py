"""The README's sentence on sweeps, written from the stored results."""

import re
import textwrap
from pathlib import Path

from benchmarks import goals
from benchmarks.record import RESULTS, load

README = RESULTS.parent.parent / "README.md"
MARKER = "<!-- sweep: this sentence is written by `python -m benchmarks report` -->"
SENTENCE = re.compile(rf"{re.escape(MARKER)}\n(?:.+\n)*")


def write(readme: Path = README, results: Path = RESULTS) -> None:
    """Bring the README's sentence on sweeps up to date with the results."""
    text = readme.read_text(encoding="utf-8")
    readme.write_text(SENTENCE.sub(lambda _: f"{MARKER}\n{on_sweeps(results)}\n", text), encoding="utf-8")


def on_sweeps(results: Path = RESULTS) -> str:
    """What the results of the largest sweep on a CPU say, newest environment first; empty where there are none."""
    for path in sorted(results.glob("cpu-*.json")):
        file = load(path)
        for key in sorted(file["environments"], reverse=True):
            records = [r for r in file["records"] if r.suite == "sweep" and r.environment == key and r.samples]
            for count, case in sorted({(r.sizes["networks"], r.case) for r in records}, reverse=True):
                torch, hand = (goals.sweep_over(records, case, torch=each) for each in (True, False))
                if not (torch and hand and torch.times_baseline and hand.times_baseline):
                    continue
                value, low, high = torch.times_baseline
                ours = 1 / hand.times_baseline[0]
                runs = [r for r in file["environments"][key].get("runs", ()) if "sweep" in r["suites"]]
                begun_at = max((r["load_1min"] for r in runs[-1:]), default=0.0)
                remark = f", begun at a load of {begun_at:.1f}" if begun_at > file["machine"]["cores"] / 2 else ""
                return textwrap.fill(
                    f"Trained by `train.sweep`, each of {count} digit networks (64-128-10, {torch.sizes['epochs']} "
                    f"epochs, {file['machine']['cores']} cores) takes 1/{value:.1f} of its time in a PyTorch loop at "
                    f"its best (95 % interval 1/{low:.1f} to 1/{high:.1f}) and {ours:.2f} of that in the "
                    f"best of the sweeps written by hand in JAX "
                    f"([results](benchmarks/results/{path.name}), {key}{remark}).",
                    119,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
    return ""
