"""Programs compiled for devices that are not here, and what is read from the compiler's text.

The package libtpu brings the compiler for TPUs, JAX's CUDA plugin (the extra gpu-compile: no toolkit, no driver) that
for GPUs. What they say is "compiled, not run": there are no times in it.
"""

import importlib.util
import math
import os
import re
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.cuda_targets import H100
from benchmarks.record import Record, note_of

COMPILED = "compiled, not run"
_FOR_TPU = {
    # the compiler is used alone: no metadata server, no device to look for, none that two processes could not share
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Target(NamedTuple):
    """Devices to compile for.

    Attributes:
        chip: "H100", a generation of TPUs as "v5e", or "CPU", of which fake devices are made.
        topology: of TPUs, as "4x4"; nothing for GPUs, of which each host has eight.
        chips: how many; fewer than the topology has where that is 1.
        library: whether products of GPUs go to cuBLASLt. On a GPU that is there XLA tries it beside its own kernels and
            takes the faster; the compiler alone takes its own.
    """

    chip: str
    topology: str
    chips: int
    library: bool = False

    @classmethod
    def tpu(cls, name: str) -> "Target":
        """All chips of a topology, as "v5e:4x4"."""
        chip, topology = name.split(":")
        return cls(chip, topology, math.prod(map(int, topology.split("x"))))

    @property
    def name(self) -> str:
        return f"{self.chip}:{self.topology}"

    @property
    def platform(self) -> str:
        return {"H100": "cuda", "CPU": "cpu"}.get(self.chip, "tpu")

    @property
    def missing(self) -> str:
        """What must be installed to compile for it; nothing where it is."""
        if self.platform == "cpu":
            return ""
        if self.platform == "cuda":
            here = importlib.util.find_spec("jax_cuda13_plugin") is not None
            return "" if here else "JAX's CUDA plugin is not installed: pip install 'jaxbias[gpu-compile]'"
        return "" if importlib.util.find_spec("libtpu") is not None else "libtpu is not installed: pip install libtpu"

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that compiles for it."""
        if self.platform == "cpu":
            flags = f"--xla_force_host_platform_device_count={self.chips}"
            return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
        if self.platform == "cuda":
            flags = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_triton_gemm=false" * self.library
            return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        return {**_FOR_TPU, "TPU_ACCELERATOR_TYPE": "v5litepod-4" if self.chip == "v5e" else f"{self.chip}-8"}

    def mesh(self, **axes: int) -> Mesh:
        """Its chips, along these axes."""
        from jax.experimental import topologies

        if self.platform == "cpu":
            return Mesh(np.array(jax.devices()[: self.chips]).reshape(tuple(axes.values())), tuple(axes))
        if self.platform == "cuda":
            of_each = min(8, self.chips)
            shape = f"1x{self.chips // of_each}x{of_each}"  # partitions, hosts, devices of each
            described = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=shape)
        else:
            described = topologies.get_topology_desc(topology_name=self.name, platform="tpu")
        devices = np.array(described.devices[: self.chips])
        return Mesh(devices.reshape(tuple(axes.values())), tuple(axes))


def facts_of_compiled(function: Any, args: tuple[Any, ...], platform: str, chips: int, **jit: Any) -> dict[str, Any]:
    """Compiles for shapes that carry shardings; what the compiler says, for one device, or why it failed.

    Returns:
        of a record `compile_s`, `flops`, `bytes`, `temp_bytes`, or `status` and `note`; and the facts of `facts_of`.
    """
    began = time.perf_counter()
    try:
        compiled = jax.jit(function, **jit).trace(*args).lower(lowering_platforms=(platform,)).compile()
    except Exception as error:
        missing = dict.fromkeys(("compile_s", "temp_bytes", "flops", "bytes"))
        return {**missing, "status": "failed", "note": note_of(error)}
    cost, memory, text = compiled.cost_analysis() or {}, compiled.memory_analysis(), compiled.as_text() or ""
    return {
        "compile_s": time.perf_counter() - began,
        "flops": cost.get("flops"),
        "bytes": cost.get("bytes accessed"),
        "temp_bytes": getattr(memory, "temp_size_in_bytes", None),
        # negative where the compiler has no estimate for some operation
        "optimal_s": cost["optimal_seconds"] if cost.get("optimal_seconds", -1) > 0 else None,
        "fusions": len(re.findall(r"= \S+ fusion\(|\) fusion\(", text)),
        **facts_of(text, chips),
    }


def compiled_record(suite: str, case: str, answer: dict[str, Any]) -> Record:
    """Of what a worker answered; the facts that no field of a record has are further figures."""
    named = {k: answer.pop(k) for k in ("contender", "dtype", "sizes", "compile_s", "temp_bytes", "flops", "bytes")}
    record = Record(suite, case, measured=COMPILED, flops_from="compiler", **named)
    record.status, record.note = answer.pop("status", "ok"), answer.pop("note", "")
    record.extra = answer
    return record


# --- the compiler's text ----------------------------------------------------------------------------------------------


class Collective(NamedTuple):
    """One exchange between devices.

    Attributes:
        kind: as "all-reduce".
        bytes: of the arrays that each device has afterwards.
        group: how many devices take part together.
    """

    kind: str
    bytes: int
    group: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends where the group is a ring: no way to do it sends less."""
        others = self.group - 1
        shares = {"all-reduce": 2 * others / self.group, "reduce-scatter": others, "collective-permute": 1}
        return self.bytes * shares.get(self.kind, others / self.group)


_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<types>.*?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?P<half>-start|-done)?"
    r"\(%?(?P<operand>[\w.-]*)(?P<rest>.*)",
    re.MULTILINE,
)


def collectives_of(text: str, chips: int) -> list[Collective]:
    """In the order of the text. What is begun and ended apart counts once, where it ends."""
    begun: dict[str, int] = {}
    collectives = []
    for match in _INSTRUCTION.finditer(text):
        kind, half = match["kind"], match["half"]
        if half == "-start":
            begun[match["name"]] = _group(match["rest"], chips)
        else:
            group = begun[match["operand"]] if half else _group(match["rest"], chips)
            collectives.append(Collective(kind, _bytes_of(match["types"]), group))
    return collectives


def _group(attributes: str, chips: int) -> int:
    """Of {{0,1},{2,3}}, [2,2]<=[4] or mesh['a'=2,'b'=2] {'a'} the size of one group."""
    if by_mesh := re.search(r"replica_groups=\w*mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", by_mesh[1]))
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", by_mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(counted[1])
    return chips


def _bytes_of(types: str) -> int:
    """Of "(bf16[8,4]{1,0}, f32[])"."""
    arrays = re.findall(r"\b[a-z]+(\d+)\[([\d,]*)\]", types)
    return sum(int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n) for bits, shape in arrays)


def facts_of(text: str, chips: int) -> dict[str, Any]:
    """What is read from a compiled program, for one device.

    Returns:
        collectives: how many. kinds: name → how many. summed_bytes: of the arrays that all-reduces add up. groups:
            "all-reduce over 4" → how many, and bytes of their arrays. sent_bytes: what each device sends on rings.
        custom_calls: their targets. transfers: to or from the host.
        products, products_with_bias, products_with_activation: fusions with a product, and those of them into which a
            vector goes, or in which a maximum or a transcendental function comes after the product. Only in programs
            for GPUs is a product a fusion.
        epilogues: of the products that cuBLASLt computes, what each does where it writes: "BIAS_RELU" → how many.
    """
    collectives = collectives_of(text, chips)
    groups: dict[str, list[int]] = {}
    for c in collectives:
        count, size = groups.get(f"{c.kind} over {c.group}", [0, 0])
        groups[f"{c.kind} over {c.group}"] = [count + 1, size + c.bytes]
    bodies = re.split(r"\n\n+", text)
    products = [body for body in bodies if not body.lstrip().startswith("ENTRY") and re.search(r" dot\(", body)]
    with_bias = [body for body in products if re.search(r"= \w+\[\d+\]\S* parameter\(", body)]
    activated = [
        body for body in products if re.search(r" dot\(.* (?:maximum|tanh|exponential|erf|logistic)\(", body, re.DOTALL)
    ]
    return {
        "collectives": len(collectives),
        "kinds": dict(Counter(c.kind for c in collectives)),
        "summed_bytes": sum(c.bytes for c in collectives if c.kind == "all-reduce"),
        "sent_bytes": sum(c.sent for c in collectives),
        "groups": groups,
        "custom_calls": sorted(set(re.findall(r'custom_call_target="([^"]*)"', text))),
        "transfers": len(re.findall(r" (?:infeed|outfeed|send|recv)\(|S\(5\)", text)),  # S(5): memory of the host
        "products": len(products),
        "products_with_bias": len(with_bias),
        "products_with_activation": len(activated),
        "epilogues": dict(Counter(re.findall(r'"epilogue":"(\w+)"', text))),
    }
