"""Start-up: import, first value and gradient, first training step; without and with the persistent compilation cache.

Each figure is the median over fresh processes, after one that is not counted: it leaves the bytecode of what it imports
and a file system that has read it. "beyond import" starts when `import jax` is done.
"""

import statistics
import tempfile
from collections.abc import Iterator

from benchmarks.case import Setting
from benchmarks.peers import WorkerFailed, in_process, missing, skipped
from benchmarks.record import Record
from benchmarks.timing import ratio

SUITE = "startup"
IMPORTS = {
    "jax": "jax",
    "jaxbias": "jaxbias",
    "optax": "optax",
    "linen": "flax.linen",
    "nnx": "flax.nnx",
    "equinox": "equinox",
    "haiku": "haiku",
    "torch": "torch",
    "keras": "keras",
    "sklearn": "sklearn.neural_network",
}
IMPORT, FIRST_STEP = "import", "first training step, digits dense, beyond import jax"
STEPS = ("jaxbias", "jaxbias, value_and_grad", "jax by hand", "nnx")
PROCESSES = {"tiny": 1, "quick": 3, "full": 7}


def run(setting: Setting) -> Iterator[list[Record]]:
    for case, of in ((IMPORT, _imports), (FIRST_STEP, _first_steps)):
        if setting.asks_for(case):
            yield of(setting)


def _times(jobs, setting: Setting, suite_case: str, baseline: str) -> list[Record]:
    """Run the jobs in turns, each time in a fresh process; jobs: name → (peer, job, environment variables)."""
    answers: dict[str, list[dict]] = {}
    records = {}
    for turn in range(1 + PROCESSES[setting.scale]):
        for name, (peer, job, env) in jobs.items():
            if name in records:
                continue
            if why := missing(peer, setting):
                records[name] = skipped(SUITE, suite_case, name, why)
                continue
            try:
                # with bytecode written and read, as of an installed package
                env = {**env, "PYTHONDONTWRITEBYTECODE": ""}
                answer = in_process("benchmarks.startup_worker", job, python=setting.pythons.get(peer), env=env)
                if turn > 0:
                    answers.setdefault(name, []).append(answer)
            except WorkerFailed as error:
                records[name] = Record(SUITE, suite_case, name, status="failed", note=str(error))
    for name, each in answers.items():
        if name in records:
            continue
        samples = [answer["seconds"] for answer in each]
        records[name] = Record(SUITE, suite_case, name, samples=samples, baseline=baseline, dtype="")
        records[name].extra = {
            k: statistics.median(a[k] for a in each) for k in each[0] if k != "seconds" and each[0][k] is not None
        }
    base = records.get(baseline)
    for record in records.values():
        if record.samples and base is not None and base.samples:
            record.times_baseline = list(ratio(record.samples, base.samples, paired=False))
    return list(records.values())


def _imports(setting: Setting) -> list[Record]:
    names = ("jaxbias",) if setting.scale == "tiny" else tuple(IMPORTS)
    if setting.scale == "quick":
        names = ("jax", "jaxbias", "linen", "nnx", "equinox", "torch")
    jobs = {name: (name, {"import": IMPORTS[name]}, {"KERAS_BACKEND": "jax"}) for name in names}
    return _times(jobs, setting, IMPORT, "jax")


def _first_steps(setting: Setting) -> list[Record]:
    """First value and gradient, and first training step, of the digits dense network."""
    with tempfile.TemporaryDirectory() as cache:
        jobs = {}
        for name in STEPS if setting.scale != "tiny" else STEPS[1:2]:
            job = {"step": name}
            peer = {"nnx": "nnx"}.get(name, "")
            jobs[f"{name}, cold"] = peer, job, {}
            folder = f"{cache}/{name.replace(' ', '-')}"
            warm = {
                "JAX_COMPILATION_CACHE_DIR": folder,
                # without these two, programs this small are not kept
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            jobs[f"{name}, warm cache"] = peer, job, warm
        return _times(jobs, setting, FIRST_STEP, f"{STEPS[0]}, cold")
