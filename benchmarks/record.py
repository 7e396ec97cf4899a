"""What one measurement leaves behind, and the JSON file it is kept in: one file per kind of machine."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1
STATUSES = ("ok", "wrong", "skipped", "out of memory", "failed")
PACKAGES = [
    "jax",
    "jaxlib",
    "libtpu",
    "jax-cuda13-plugin",
    "optax",
    "flax",
    "equinox",
    "dm-haiku",
    "keras",
    "torch",
    "numpy",
    "scikit-learn",
    "opacus",
    "backpack-for-pytorch",
]


@dataclasses.dataclass
class Record:
    """One contender of one case.

    Attributes:
        suite, case, contender: what was measured; together with dtype and environment they name the record.
        sizes: name → number or shape.
        dtype: of the values, for example "float32".
        status: "ok", "wrong" (it disagrees with the reference: it then has no times), "skipped" (a peer is missing),
            "out of memory" or "failed".
        note: why, for everything but "ok"; or what there is to know about this contender.
        measured: "run", or "compiled, not run".
        samples: seconds per call, one entry per round; sample i of two contenders of one case belong to one round.
        compile_s, first_s: seconds of compiling, and of the first call after it.
        temp_bytes: scratch memory of one call, as the compiler says.
        residual_bytes: what is kept between forward and backward beside params, input and output.
        flops, bytes: floating-point operations and unavoidable memory traffic of one call.
        flops_from: "counted" by hand, or "compiler".
        roofline: share of the device's limit that is reached; see roofline.py.
        baseline: the contender that times are divided by.
        times_baseline: [median ratio, low, high], time over the baseline's time.
        error: largest disagreement with the reference, relative to the largest entry of its leaf.
        extra: further figures, by name.
        environment: key into the file's environments.
    """

    suite: str
    case: str
    contender: str
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    status: str = "ok"
    note: str = ""
    measured: str = "run"
    samples: list[float] = dataclasses.field(default_factory=list)
    compile_s: float | None = None
    first_s: float | None = None
    temp_bytes: int | None = None
    residual_bytes: int | None = None
    flops: float | None = None
    bytes: float | None = None
    flops_from: str = ""
    roofline: float | None = None
    baseline: str = ""
    times_baseline: list[float] | None = None
    error: float | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return self.suite, self.case, self.contender, self.dtype, self.environment

    @property
    def median(self) -> float | None:
        """Median of the samples, in seconds."""
        ordered = sorted(self.samples)
        middle = len(ordered) // 2
        return None if not ordered else (ordered[middle] + ordered[~middle]) / 2


def note_of(error: BaseException) -> str:
    """For a record's note: the exception's class and the beginning of what it says."""
    first, *_ = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {first:.200}"


# --- the machine ------------------------------------------------------------------------------------------------------


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1) if found else platform.machine()


def machine() -> dict[str, Any]:
    """What kind of machine this is: device, processor, cores, memory."""
    device = jax.devices()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "processor": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
    }


def machine_name(machine: dict[str, Any]) -> str:
    """A name for the results file, for example "cpu-amd-epyc-2-cores"."""
    if machine["platform"] == "cpu":
        text = f"cpu {machine['processor']} {machine['cores']} cores"
    else:
        text = f"{machine['platform']} {machine['device_kind']} x{machine['devices']}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def versions() -> dict[str, str]:
    """Python's version and those of the packages that take part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Versions and flags; `runs` lists what was run under them."""
    return {
        "versions": versions(),
        "xla_flags": os.environ.get("XLA_FLAGS", "").strip(),
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"] or "default"),
        "x64": bool(jax.config.values["jax_enable_x64"]),
        "runs": [],
    }


def run_of(names: Iterable[str], scale: str, limits: dict[str, float]) -> dict[str, Any]:
    """One run: when, what, how loaded the machine was before it, and the limits measured in it."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "suites": list(names),
        "scale": scale,
        "load_1min": round(os.getloadavg()[0], 2),
        "limits": limits,
    }


# --- the file ---------------------------------------------------------------------------------------------------------


class Unwritable(RuntimeError):
    """The results file cannot be written; the message says why."""


class ResultStore:
    """A results file that is complete after every case, so that an interrupted run keeps what was finished.

    A record replaces the older one of the same suite, case, contender and dtype, made under the same `environment`.
    """

    def __init__(self, path: Path, environment_key: str, environment: dict[str, Any]):
        self.path = path
        self.environment_key = environment_key
        self.content = load(path) if path.exists() else {"schema": SCHEMA, "machine": machine(), "environments": {}}
        self.records: dict[tuple[str, ...], Record] = {r.key: r for r in self.content.pop("records", [])}
        earlier = self.content["environments"].get(environment_key, {}).get("runs", [])
        self.content["environments"][environment_key] = {**environment, "runs": earlier}
        self.save()

    def began(self, run: dict[str, Any]) -> None:
        """Note a run of this environment."""
        self.content["environments"][self.environment_key]["runs"].append(run)
        self.save()

    def add(self, records: Iterable[Record]) -> None:
        """Keep the records of one finished case, and no longer that it, or its suite, failed as a whole before."""
        records = list(records)
        for suite, case in {(record.suite, record.case) for record in records}:
            whole = {(suite, case, "all"), (suite, "all", "all")}
            self.records = {
                key: kept
                for key, kept in self.records.items()
                if kept.environment != self.environment_key or (kept.suite, kept.case, kept.contender) not in whole
            }
        for record in records:
            record.environment = self.environment_key
            self.records.pop(record.key, None)  # so that the records of a case stand in the order of its last run
            self.records[record.key] = record
        self.save()

    def save(self) -> None:
        """Write all, by way of a second file, so that there is always one whole file.

        Raises:
            Unwritable: no such directory, no permission, or no space.
        """
        rows = [dataclasses.asdict(record) for record in self.records.values()]
        content = {**self.content, "records": [_rounded(row) for row in rows]}
        unfinished = self.path.with_suffix(".unfinished")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(_as_text(content), encoding="utf-8")
            os.replace(unfinished, self.path)
        except OSError as error:
            raise Unwritable(f"results cannot be written to {self.path}: {error.strerror or error}.") from None


def _rounded(value: Any) -> Any:
    """Floats to 6 significant digits: the file is for reading and diffing too."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items() if v is not None and v != "" and v != {} and v != []}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _as_text(content: dict[str, Any]) -> str:
    """JSON with one record per line."""
    records = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in content["records"])
    head = json.dumps({k: v for k, v in content.items() if k != "records"}, indent=1, ensure_ascii=False)
    return f'{head[:-2]},\n "records": [\n{records}\n ]\n}}\n'


def load(path: Path) -> dict[str, Any]:
    """A results file, with its records as `Record`s.

    Raises:
        ValueError: not a results file of this schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        content["records"] = [Record(**row) for row in content["records"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a results file of schema {SCHEMA} ({error}).") from None
    return content
