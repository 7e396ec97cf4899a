"""Other backends: what this machine's accelerator runs, and what the compilers for TPUs and GPUs make of the programs.

On a GPU or an attached TPU: a wide dense layer with GELU, forward and backward, in each precision, over the
matrix-product peak measured in the same run. On a machine without a TPU, where the package libtpu is installed, the
programs are compiled for TPU topologies: FLOPs, bytes, scratch memory per chip, fusions and collectives, and the
compiler's own estimate of the time. Where JAX's CUDA plugin is installed (the extra gpu-compile, no toolkit and no
driver) they are compiled for one to sixteen H100: scratch memory, fusions, custom calls and collectives per device;
that compiler estimates no time and tunes nothing, so for one H100 they are compiled once more with cuBLASLt for their
products, which it would else only take where it was found faster. All these records say "compiled, not run".
"""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.case import Case, Setting, run_cases
from benchmarks.compiled import COMPILED, Target, compiled_record, facts_of_compiled
from benchmarks.peers import WorkerFailed, in_process
from benchmarks.record import Record
from jaxbias import Params, chain
from jaxbias.layers import dense, gelu, tanh

SUITE = "backends"
TOPOLOGIES = {
    "tiny": ["v5e:2x2"],
    "quick": ["v5e:2x2"],
    "full": ["v5e:2x2", "v6e:2x2", "v5p:8x8x16"],
}
ACCELERATOR_WIDTH = {"tiny": 8, "quick": 8192, "full": 8192}
GPUS = {"tiny": [1], "quick": [1, 4], "full": [1, 4, 8, 16]}


def run(setting: Setting) -> Iterator[list[Record]]:
    yield from _attached(setting)
    yield from _compiled(setting)


# --- what is attached -------------------------------------------------------------------------------------------------


def wide_dense(sizes: dict[str, Any], dtype: Any):
    """Dense and GELU (tanh form), forward and backward, by hand, as custom_vjp, without bias, and by autodiff."""
    from jaxbias.layers.activations import make_gelu

    n, width = sizes["batch"], sizes["width"]
    keys = jax.random.split(jax.random.key(0), 4)
    scale = jnp.asarray(1 / math.sqrt(width), dtype)
    params = Params(
        jax.random.normal(keys[0], (width, width), dtype) * scale, jax.random.normal(keys[1], (width,), dtype)
    )
    x, delta = (jax.random.normal(key, (n, width), dtype) for key in keys[2:])
    network = chain(dense.layer(width), make_gelu(approximate=True))

    def hand(params, x, delta):
        out, residuals = network.forward((params, ()), x)
        grads, delta_x = network.backward(residuals, delta)
        return out, grads[0].weight, grads[0].bias, delta_x

    def autodiff(params, x, delta):
        def plain(params, x):
            return jax.nn.gelu(x @ params.weight + params.bias[None, :], approximate=True)

        out, pull_back = jax.vjp(plain, params, x)
        grads, delta_x = pull_back(delta)
        return out, grads.weight, grads.bias, delta_x

    return {
        "bare products": lambda params, x, delta: (x @ params.weight, x.T @ delta, delta @ params.weight.T),
        "no bias": lambda params, x, delta: hand(Params(params.weight, None), x, delta),
        "bias": hand,
        "bias, autodiff": autodiff,
    }, (params, x, delta)


def _attached(setting: Setting) -> Iterator[list[Record]]:
    backend = jax.default_backend()
    if backend == "cpu" and setting.scale != "tiny":
        yield [
            Record(
                SUITE,
                "dense 8192 wide with bias and GELU",
                kind,
                status="skipped",
                note=f"no {kind} results on this machine",
            )
            for kind in ("GPU", "TPU")
        ]
        return
    width = ACCELERATOR_WIDTH[setting.scale]
    precisions = [(jnp.bfloat16, "default"), (jnp.float32, "default"), (jnp.float32, "highest")]
    for dtype, precision in precisions[: 1 if setting.scale == "tiny" else None]:
        with jax.default_matmul_precision(precision):
            case = Case(
                SUITE,
                f"dense {width} wide with bias and GELU, {precision} precision",
                {"batch": width, "width": width, "precision": precision},
                wide_dense,
                {"batch": 5, "width": 3},
                baseline="bare products",
                reference="bias, autodiff",
                dtype=dtype,
                no_reference=("bare products", "no bias"),
                flops=6.0 * width**3,
            )
            yield from run_cases([case], setting)


# --- compiled for devices that are not here ---------------------------------------------------------------------------


def _compiled(setting: Setting) -> Iterator[list[Record]]:
    tpus = list(map(Target.tpu, TOPOLOGIES[setting.scale]))
    gpus = [Target("H100", "", count) for count in GPUS[setting.scale]]
    gpus += [Target("H100", "", 1, library=True)] if setting.scale != "tiny" else []
    for target in (*tpus, *gpus):
        case = f"compiled for {target.chips} H100" if target in gpus else f"compiled for TPU {target.name}"
        case += ", products by cuBLASLt" if target.library else ""
        if not setting.asks_for(case):
            continue
        python = None if target in gpus else setting.pythons.get("libtpu")
        if target.missing and not python:
            yield [Record(SUITE, case, "all", status="skipped", note=target.missing, measured=COMPILED)]
            continue
        # the CNN takes half a minute: for one topology only
        scale = "quick" if setting.scale == "full" and target != tpus[0] else setting.scale
        job = {"target": target, "scale": scale}
        try:
            answer = in_process("benchmarks.bench_backends", job, python=python, env=target.environment, timeout=1800)
        except WorkerFailed as error:
            yield [Record(SUITE, case, "all", status="failed", note=str(error), measured=COMPILED)]
            continue
        yield [compiled_record(SUITE, case, each) for each in answer]


def programs_to_compile(scale: str):
    """name → (function, args as shapes, names of the args that are split over the chips by their first axis)."""
    from jaxbias import losses, value_and_grad
    from jaxbias.layers import attention, conv, layer_norm, max_pool, relu, reshape

    n, width, size = (8, 128, 8) if scale == "tiny" else (1024, 4096, 32)
    programs: dict[str, tuple[Any, tuple[Any, ...], tuple[bool, ...]]] = {}
    shape: Any = lambda *s: jax.ShapeDtypeStruct(s, jnp.bfloat16)
    params, x = Params(shape(width, width), shape(width)), shape(n, width)

    def both(network):
        def run(params, x, delta):
            out, residuals = network.forward(params, x)
            return out, *network.backward(residuals, delta)

        return run

    def autodiff(network):
        return autodiff_of(lambda params, x: network.forward(params, x)[0])

    def autodiff_of(function):
        def run(params, x, delta):
            out, pull_back = jax.vjp(function, params, x)
            return out, *pull_back(delta)

        return run

    network = chain(dense.layer(width), gelu)
    no_bias = (Params(params.weight, None), ())
    split = (False, True, True)
    programs["dense + GELU, no bias"] = both(network), (no_bias, x, x), split
    programs["dense + GELU, bias"] = both(network), ((params, ()), x, x), split
    programs["dense + GELU, bias, autodiff"] = autodiff(network), ((params, ()), x, x), split
    programs["dense + tanh, bias"] = both(chain(dense.layer(width), tanh)), ((params, ()), x, x), split
    programs["dense + ReLU, bias"] = both(chain(dense.layer(width), relu)), ((params, ()), x, x), split
    programs["jax.nn.gelu in its tanh form, forward alone"] = _forward_of_jax, (params, x), (False, True)
    programs["jax.nn.gelu in its tanh form, autodiff"] = autodiff_of(_forward_of_jax), (params, x, x), split
    norm, norm_params = layer_norm.layer(), Params(shape(width), shape(width))
    programs["layer norm"] = both(norm), (norm_params, x, x), split
    programs["layer norm, autodiff"] = autodiff(norm), (norm_params, x, x), split
    heads = attention.layer(width // 128 or 1, 128 if width >= 128 else width, fan_out=width)
    sequence = shape(n // 128 or 1, min(n, 128), width)
    heads_params = jax.eval_shape(heads.init, jax.random.key(0), sequence)
    programs["attention"] = both(heads), (heads_params, sequence, sequence), split
    programs["attention, autodiff"] = autodiff(heads), (heads_params, sequence, sequence), split
    two_layers = chain(dense.layer(width), gelu, dense.layer(10))
    programs["training step, two layers, Adam"] = training_step(two_layers, x)
    images, pooled = shape(n, size, size, 32), shape(n, size // 2, size // 2, 32)
    pool = max_pool.layer(2)
    programs["max pool 2×2"] = both(pool), ((), images, pooled), split
    programs["max pool 2×2, autodiff"] = autodiff(pool), ((), images, pooled), split
    for how in ("delta", "autodiff") if scale == "full" else ():
        convolve = lambda channels: conv.layer(channels, 3, padding="SAME")
        cnn = chain(convolve(32), relu, pool, convolve(64), relu, pool, reshape.layer(), dense.layer(10))
        x = shape(n, size, size, 3)
        cnn_params = jax.eval_shape(cnn.init, jax.random.key(0), x)
        labels = jax.ShapeDtypeStruct((n,), jnp.int32)
        name = "CNN value and gradient, " + ("by hand" if how == "delta" else "autodiff")
        programs[name] = value_and_grad(cnn, losses.cross_entropy, how), (cnn_params, x, labels), split
    return programs


def _forward_of_jax(params: Params, x: jax.Array) -> jax.Array:
    """The one form of GELU that XLA looks for behind a product of cuBLASLt."""
    return jax.nn.gelu(x @ params.weight + params.bias, approximate=True)


def training_step(network: Any, x: jax.ShapeDtypeStruct):
    """Forward, backward and Adam of a network in bfloat16, its params and the moments in float32.

    As `fit(compute_dtype=jnp.bfloat16)` does, it rounds params once for CUDA, in memory of their own.

    Returns:
        (step, (learned, x, labels) as shapes, what of these is split by rows); learned = (params, optimizer's state).
    """
    import optax

    from jaxbias import losses, value_and_grad

    optimizer = optax.adam(1e-3)
    gradient = value_and_grad(network, losses.cross_entropy)
    labels = jax.ShapeDtypeStruct(x.shape[:1], jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(x.shape, jnp.float32))
    learned = params, jax.eval_shape(optimizer.init, params)

    def step(learned, x, labels):
        params, opt_state = learned
        round_once = lambda leaf: jax.lax.optimization_barrier(leaf.astype(x.dtype))
        rounded = jax.tree.map(
            lambda leaf: jax.lax.platform_dependent(leaf, cuda=round_once, default=lambda leaf: leaf.astype(x.dtype)),
            params,
        )
        value, grads = gradient(rounded, x, labels)
        grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step, (learned, x, labels), (False, True, True)


def _compile_one(name, program, mesh, platform) -> dict[str, Any]:
    from jax.sharding import NamedSharding, PartitionSpec

    function, args, split = program
    chips = mesh.devices.size

    def placed(arg, rows):
        def place(leaf):
            spec = PartitionSpec("rows") if rows and leaf.shape[0] % chips == 0 else PartitionSpec()
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

        return jax.tree.map(place, arg)

    args = tuple(placed(arg, rows) for arg, rows in zip(args, split))
    sizes = {"x": args[1].shape, "chips": chips}
    answer = {"contender": name, "dtype": str(args[1].dtype), "sizes": sizes}
    return {**answer, **facts_of_compiled(function, args, platform, chips)}


def _worker(job: dict[str, Any]) -> list[dict[str, Any]]:
    target = Target(*job["target"])
    mesh = target.mesh(rows=target.chips)
    programs = {n: p for n, p in programs_to_compile(job["scale"]).items() if job.get("only", n) == n}
    return [_compile_one(name, program, mesh, target.platform) for name, program in programs.items()]


if __name__ == "__main__":
    print(json.dumps(_worker(json.loads(sys.argv[1]))))
