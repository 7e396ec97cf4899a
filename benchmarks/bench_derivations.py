"""Every layer and loss: its hand-derived backward against autodiff of its forward, and against other forwards.

"autodiff" differentiates the library's own forward; a contender named after another library or function differentiates
that library's forward (with its own custom rules, where it has some). All return the output, the gradients and the
error signal for the layer below. Residual bytes: what must be kept from forward to backward beside params, input and
output, which the network holds anyway.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.case import Case, Setting, run_case
from benchmarks.long_forms import LONG
from benchmarks.peers import WorkerFailed, missing, skipped, torch_in_turns
from benchmarks.record import Record
from benchmarks.sized import SIZED as USUAL
from benchmarks.sized import Sized, reduce_window_max, reshape_max
from benchmarks.timing import compile_apart
from jaxbias import Layer, chain, layers, losses, selfcheck, value_and_grad
from jaxbias.derivation import random_like

SUITE = "derivations"
SIZED = USUAL | LONG


def derivation_names() -> list[str]:
    """Every layer and loss of the library, and the further configurations that have a size of their own."""
    known = [*selfcheck.layer_derivations(), *selfcheck.loss_derivations()]
    return known + [name for name in SIZED if name not in known]


def _example(name: str):
    derivations = {**selfcheck.layer_derivations(), **selfcheck.loss_derivations()}
    return derivations[name.split(",")[0]].examples[0]


def _sized(name: str, scale: str) -> Sized:
    """The layer and its shapes at this scale; for "tiny" those of the first example."""
    example: Any = _example(name)
    is_loss = not isinstance(getattr(example, "layer", None), Layer)
    if name not in SIZED:
        if is_loss:
            dtype_of = lambda out: jax.tree.leaves(out)[0].dtype
            return Sized(example.loss, example.out, targets=lambda key, out: example.targets(key, dtype_of(out)))
        return Sized(example.layer, example.x)
    sized = SIZED[name]()
    if scale == "tiny":
        shape = {"max_pool, overlapping 3×3 stride 2": (2, 7, 5, 3), "group_norm": (2, 3, 2, 16)}
        own = example.out if is_loss else example.x
        return sized._replace(x=shape.get(name, own), quick=None)
    return sized._replace(x=sized.quick) if scale == "quick" and sized.quick else sized


def _layer_case(sized: Sized):
    layer = sized.layer

    def build(sizes, dtype):
        keys = jax.random.split(jax.random.key(3), 4)
        x = sizes["make"](keys[0], dtype) if "make" in sizes else jax.random.normal(keys[0], sizes["x"], dtype)
        params = jax.tree.map(lambda leaf: sized.scale * leaf, random_like(keys[1], layer.init(keys[1], x)))
        state = () if layer.state is None else (layer.state.init(keys[2], x),)
        out = jax.eval_shape(lambda: layer.forward(params, x, *state)[0])
        delta = random_like(keys[3], out)

        def hand(params, x, state, delta):
            out, residuals = layer.forward(params, x, *state)
            return out, *layer.backward(residuals, delta)

        def differentiated(forward):
            def run(params, x, state, delta):
                out, pull_back = jax.vjp(lambda params, x: forward(params, x, state), params, x)
                return out, *_without_float0(pull_back(delta), (params, x))

            return run

        contenders = {
            "hand": hand,
            "autodiff": differentiated(lambda params, x, state: layer.forward(params, x, *state)[0]),
            **{name: differentiated(lambda p, x, s, f=f: f(p, x)) for name, f in sized.peers.items()},
        }
        return contenders, (params, x, state, delta)

    return build


def _without_float0(grads, like):
    """The gradient of an integer leaf carries no number: None, as in a hand-derived backward."""
    return jax.tree.map(lambda g, leaf: g if jnp.issubdtype(leaf.dtype, jnp.floating) else None, grads, like)


def _loss_case(sized: Sized):
    loss, draw_targets = sized.layer, sized.targets
    assert draw_targets is not None

    def build(sizes, dtype):
        keys = jax.random.split(jax.random.key(3))
        out = sizes["make"](keys[0], dtype) if "make" in sizes else jax.random.normal(keys[0], sizes["x"], dtype)
        targets = draw_targets(keys[1], out)

        def hand(out, targets):
            value, residuals = loss.forward(out, targets)
            return value, loss.backward(residuals)

        contenders = {
            "hand": hand,
            "autodiff": jax.value_and_grad(lambda out, targets: loss.forward(out, targets)[0]),
            **{name: jax.value_and_grad(f) for name, f in sized.peers.items()},
        }
        return contenders, (out, targets)

    return build


def residual_bytes(sized: Sized, build) -> Callable[[dict[str, Any], Any], dict[str, int]]:
    """Bytes kept between forward and backward, by contender: run once, eagerly, and look at the arrays."""

    def kept(sizes, dtype):
        _, args = build(sizes, dtype)
        if sized.targets is not None:
            out, targets = args
            value, residuals = sized.layer.forward(out, targets)
            _, pull_back = jax.vjp(lambda out: sized.layer.forward(out, targets)[0], out)
            known = (out, targets, value)
        else:
            params, x, state, _ = args
            value, residuals = sized.layer.forward(params, x, *state)
            _, pull_back = jax.vjp(lambda params, x: sized.layer.forward(params, x, *state)[0], params, x)
            known = (params, x, state, value)
        own = {_place(leaf) for leaf in jax.tree.leaves(known)}
        return {"hand": _bytes_beside(residuals, own), "autodiff": _bytes_beside(pull_back, own)}

    return kept


def _place(array: Any) -> Any:
    try:
        return array.unsafe_buffer_pointer()
    except Exception:  # a PRNG key has no buffer of its own to show
        return id(array)


def _bytes_beside(tree: Any, known: set[Any]) -> int:
    arrays = {_place(leaf): leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes")}
    return sum(leaf.nbytes for place, leaf in arrays.items() if place not in known)


def _case(name: str, setting: Setting) -> Case:
    sized, small = _sized(name, setting.scale), _sized(name, "tiny")
    build = _loss_case(sized) if sized.targets is not None else _layer_case(sized)

    def sizes_of(sized):
        return {"make": sized.x} if callable(sized.x) else {"x": sized.x}

    notes = {} if name in SIZED else {"hand": "at the size of its first example"}
    return Case(
        SUITE,
        name,
        sizes_of(sized),
        build,
        sizes_of(small),
        baseline="hand",
        reference="autodiff",
        flops=sized.flops,
        residual_bytes=residual_bytes(sized, build),
        notes=notes,
    )


# --- where autodiff falls off a cliff: a convolution inside a loop; and a whole small network -------------------------

SCANNED = {
    "tiny": [(2, 4, 2, 3)],
    "quick": [(64, 8, 16, 32)],
    "full": [(64, 8, 1, 16), (64, 8, 16, 32), (32, 32, 16, 32)],
}


def _scanned_conv(sizes, dtype):
    """Two steps of gradient descent in one scan, so that no step can be moved out of the loop."""
    n, size, c_in, c_out = (sizes[k] for k in ("batch", "size", "channels_in", "channels_out"))
    layer = layers.conv.layer(c_out, 3, padding="SAME")
    keys = jax.random.split(jax.random.key(3), 3)
    x = jax.random.normal(keys[0], (n, size, size, c_in), dtype)
    params = random_like(keys[1], layer.init(keys[1], x))
    delta = jax.random.normal(keys[2], (n, size, size, c_out), dtype)

    def hand(params, x, delta):
        _, residuals = layer.forward(params, x)
        return layer.backward(residuals, delta)

    def autodiff(params, x, delta):
        return jax.vjp(lambda params, x: layer.forward(params, x)[0], params, x)[1](delta)

    def scanned(gradient):
        def step(carry, _):
            params, x = carry
            grads, delta_x = gradient(params, x, delta)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, (params, x), (grads, delta_x)), grads.bias

        return lambda params, x, delta: jax.lax.scan(step, (params, x), length=2)

    return {"hand": scanned(hand), "autodiff": scanned(autodiff)}, (params, x, delta)


def _small_cnn(sizes, dtype):
    """conv 3×3×16, relu, pool 2, conv 3×3×32, relu, pool 2, dense 10, cross-entropy: loss and gradient."""
    conv, pool = layers.conv.layer, layers.max_pool.layer
    network = chain(
        conv(16, 3, padding="SAME"), layers.relu, pool(2), conv(32, 3, padding="SAME"), layers.relu, pool(2),
        layers.reshape.layer(), layers.dense.layer(10),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(3), 3)
    x = jax.random.normal(keys[0], (sizes["batch"], sizes["size"], sizes["size"], 1), dtype)
    params = jax.tree.map(lambda leaf: 0.1 * leaf, random_like(keys[1], network.init(keys[1], x)))
    targets = jax.random.randint(keys[2], (len(x),), 0, 10)

    def plain(pool):
        def loss(params, x, targets):
            for i in (0, 3):
                z = jax.lax.conv_general_dilated(
                    x, params[i].weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = pool((), jax.nn.relu(z + jnp.broadcast_to(params[i].bias, z.shape)))
            out = x.reshape(len(x), -1) @ params[7].weight + params[7].bias[None, :]
            return optax.softmax_cross_entropy_with_integer_labels(out, targets).mean()

        return jax.value_and_grad(loss)

    return {
        "hand": value_and_grad(network, losses.cross_entropy),
        "autodiff": value_and_grad(network, losses.cross_entropy, how="autodiff"),
        "lax.conv and reduce_window": plain(reduce_window_max(2, 2)),
        "lax.conv and reshape-max": plain(reshape_max),
    }, (params, x, targets)


TINY = ("dense", "max_pool", "cross_entropy")
"""What the tests run; every derivation is checked in tests/test_derivations.py."""


def cases(setting: Setting) -> Iterator[Case]:
    for name in TINY if setting.scale == "tiny" else derivation_names():
        yield _case(name, setting)
    for n, size, c_in, c_out in SCANNED[setting.scale]:
        yield Case(
            SUITE,
            f"conv 3×3 {n}×{size}×{size}×{c_in}→{c_out} inside lax.scan",
            {"batch": n, "size": size, "channels_in": c_in, "channels_out": c_out, "steps": 2},
            _scanned_conv,
            {"batch": 2, "size": 4, "channels_in": 2, "channels_out": 3},
            baseline="hand",
            reference="autodiff",
            flops=2 * 3 * 2 * 9 * n * size * size * c_in * c_out,
        )
    if setting.scale == "tiny":
        return
    n, size = 256, 16
    yield Case(
        SUITE,
        f"gradient of a small CNN {n}×{size}×{size}×1",
        {"batch": n, "size": size},
        _small_cnn,
        {"batch": 2, "size": 8},
        baseline="hand",
        reference="autodiff",
    )


# --- PyTorch, in processes of its own ---------------------------------------------------------------------------------

TORCH = ("max_pool", "max_pool, overlapping 3×3 stride 2", "gradient of a small CNN")


def _with_torch(records: list[Record], case: Case, setting: Setting) -> list[Record]:
    """The records with PyTorch's at its best of 1 and 2 threads; tests/test_against_torch.py compares values."""
    name = next((n for n in TORCH if case.name == n or (n == TORCH[2] and case.name.startswith(n))), None)
    if name is None or setting.scale == "tiny" or not any(r.contender == "hand" and r.samples for r in records):
        return records
    if why := missing("torch", setting):
        return [*records, skipped(SUITE, case.name, "torch", why)]
    contenders, args = case.build(case.sizes, case.dtype)
    shape = case.sizes.get("x") or (case.sizes["batch"], case.sizes["size"], case.sizes["size"], 1)
    job = {"kind": "op", "name": name, "shape": shape}
    try:
        _, fields = torch_in_turns(job, compile_apart(contenders["hand"], *args).call, setting)
    except WorkerFailed as error:
        return [*records, Record(SUITE, case.name, "torch", status="failed", note=str(error))]
    return [*records, Record(SUITE, case.name, "torch", records[0].sizes, baseline="hand", **fields)]


def run(setting: Setting) -> Iterator[list[Record]]:
    for case in cases(setting):
        if setting.asks_for(case.name):
            yield _with_torch(run_case(case, setting), case, setting)
