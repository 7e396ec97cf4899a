"""Models that other people wrote: `python -m docs.models` writes models.md from what is installed here.

`python -m docs.models NAME ...` measures only the models of these names, and writes their rows anew.

Each model is taken from its package as it comes; what every leaf is stands in its names, as the package's own pages say
(kernel, w, scale, offset, embedding, ...). A package that is not installed is left out of the table, and says so.
"""

import importlib.metadata
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbias as jb
from docs import folded
from docs.zoo import MODELS, Model, installed
from docs.zoo_unseen import UNSEEN

PAGE = Path(__file__).with_name("models.md")
BATCH = 8
TURNS = 9

HEAD = """# Other people's models

Written by `python -m docs.models`, which takes each model as its package gives it and compares `jb.roles` with what the
names of its leaves say (a leaf that the function does not use cannot be wrong).
"""

COLUMNS = """
| package | version | model | leaves | right | not right | memory | time |
|---|---|---|---|---|---|---|---|"""

BETWEEN = """
Memory and time are those of `jb.clipped_grad` over those of a clipped sum by `vmap(grad)`: temporary bytes that the
compiler plans for {batch} examples of random data in float32 on a CPU, and processor time, the least of {turns} turns
of 20 ms each on a machine with other work. A model that is larger there by less than 64 KiB counts as equal: "=". A
dash stands for a model whose examples are no data of their own. Models of packages that are not installed are left out.

## Models that roles were not written on

Chosen, and the role of each leaf written down, before the first run (`docs/zoo_unseen.py`). Then {first}.
"""

FIRST = (
    "155 of 159 leaves were right; the other four were wrong without a warning: VectorQuantizer's codebook, and three "
    "leaves of BlockNeuralAutoregressiveNN whose logarithms are added to a log-determinant entry by entry. Five leaves "
    "had been written down under wrong names, and one model (WeightNorm, PReLU) was called wrongly and did not run. "
    "Both kinds have rules since, which the table shows: what multiplies data as an exponential is no bias, and what "
    "only chooses says less than what reaches the output. Of 17 further architectures, in plain JAX and written down "
    "in the same way (`tests/foreign/test_unseen.py`), 137 of 140 leaves were right at the first run. Of 87 more that "
    "look for rules that err (`test_products.py`, `test_corners.py`) 302 of 350 were; all are now, by rules on what "
    "follows a product with data, on one-hot constants and on Fourier transforms. Of 36 by somebody who had not read "
    "the code (`test_unseen_further.py`) 322 of 324 were: latents were a bias, and the strength of added noise still is"
)


def expected(model: Model, path: str) -> str:
    """Role that the names of the package say."""
    plain = path.removesuffix(".value")
    return next((role for pattern, role in model.roles if re.search(pattern, plain)), "?")


def _single(leaf: Any) -> Any:
    """float64, which JAX draws where it is told to, as float32."""
    if getattr(leaf, "dtype", None) != jnp.float64:
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32)


def made(make: Callable[[], Model]) -> Model:
    """The model, in float32."""
    model = make()
    return model._replace(params=jax.tree.map(_single, model.params))


def read(package: str, name: str, model: Model) -> tuple[str, ...]:
    """package, version, model, leaves, right, what was not."""
    version = importlib.metadata.version(package)
    with warnings.catch_warnings(record=True) as caught, jax.numpy_dtype_promotion("standard"):
        warnings.simplefilter("always")
        roles = jb.named_parameters(jb.roles(model.fn, model.params, *model.args, unused="other"))
        said = "".join(str(w.message) for w in caught)
        contacts = jb.contacts(model.fn, model.params, *model.args, unused="left out")
    used = {path for contact in contacts for path in contact.leaves}
    wrong = {
        path: f"{path}: {role} for {expected(model, path)}"
        for path, role in roles.items()
        if path in used and role != expected(model, path)
    }
    warned = sum(path in said for path in wrong)
    misses = "; ".join([*wrong.values()][:4]) + (f" ({warned} with a warning)" if warned else "")
    return package, version, name, str(len(roles)), str(len(roles) - len(wrong)), misses or "-"


def row(name: str, package: str, make: Callable[[], Model]) -> tuple[str, ...]:
    """As `read`, of a model that is made here."""
    with jax.numpy_dtype_promotion("standard"):
        return read(package, name, made(make))


# --- memory and time --------------------------------------------------------------------------------------------------


def _drawn(tree: Any, seed: int, batch: tuple[int, ...] = ()) -> Any:
    """The tree with random numbers in place of shapes; indices are 0 and 1."""
    random = np.random.default_rng(seed)

    def leaf(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        shape, index = (*batch, *x.shape), jnp.issubdtype(x.dtype, jnp.integer)
        values = random.integers(0, 2, shape) if index else 0.3 * random.normal(size=shape)
        return jnp.asarray(values, x.dtype)

    return jax.tree.map(leaf, tree)


def _of_arrays(model: Model) -> tuple[Callable[..., Any], list[Any]]:
    """The loss of one example as a function of the arrays of params that are learned, and these."""
    params, fn = model.params, model.fn
    if type(params).__module__.startswith("flax.nnx") or hasattr(params, "__nnx_repr__"):
        from flax import nnx

        graph, params, rest = nnx.split(params, nnx.Param, ...)
        fn = lambda p, *args: model.fn(nnx.merge(graph, p, rest, copy=True), *args)
    leaves, treedef = jax.tree.flatten(_drawn(params, 1))
    learned = [i for i, x in enumerate(leaves) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)]

    def loss(arrays: list[Any], args: tuple[Any, ...]) -> jax.Array:
        values = list(leaves)
        for i, x in zip(learned, arrays):
            values[i] = x
        outs = jax.tree.leaves(fn(treedef.unflatten(values), *args))
        squares = [jnp.sum(jnp.square(x)) for x in outs if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(squares, jnp.zeros(()))

    return loss, [leaves[i] for i in learned]


def _by_vmap(loss: Callable[..., Any]) -> Callable[..., Any]:
    def clipped(arrays, args):
        gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))(arrays, args)
        norms = jnp.sqrt(sum(jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in gradients))
        factors = jnp.where(jnp.isfinite(norms), jnp.minimum(1, 1 / norms), 0)
        return [jnp.tensordot(factors, g, axes=1) for g in gradients]

    return clipped


def _temporary_bytes(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


def ratios(model: Model) -> tuple[str, str]:
    """Memory and time of a clipped sum over those by `vmap(grad)`, as text.

    Raises:
        RuntimeError: the two sums differ.
    """
    loss, arrays = _of_arrays(model)
    args = _drawn(model.args, 2, (BATCH,))
    ways = _by_vmap(loss), jb.clipped_grad(loss, l2_clip_norm=1.0, keep_batch_dim=False)
    programs = [jax.jit(way).lower(arrays, args).compile() for way in ways]
    sums = [program(arrays, args) for program in programs]
    for theirs, ours in zip(*sums):
        if not jnp.all(jnp.abs(theirs - ours) <= 1e-3 * jnp.max(jnp.abs(theirs)) + 1e-6):
            raise RuntimeError("the clipped sums differ")
    times: list[list[float]] = [[], []]
    calls = 1
    for turn in range(TURNS + 1):
        for program, spent in zip(programs, times):
            start = time.process_time()
            for _ in range(calls):
                jax.block_until_ready(program(arrays, args))
            spent.append((time.process_time() - start) / calls)
        if not turn:  # the first turn says how many calls take 20 ms
            calls = 1 + int(0.02 / max(times[0][0], 1e-5))
            times = [[], []]
    theirs, ours = (_temporary_bytes(program) for program in programs)
    memory = "=" if theirs < ours < theirs + 2**16 else f"{ours / max(theirs, 1):.2f}"
    return memory, f"{min(times[1]) / min(times[0]):.2f}"


# --- the page ---------------------------------------------------------------------------------------------------------


def table(models: dict[str, tuple[str, Callable[[], Model]]]) -> list[str]:
    """The rows of a table, and on the console what is not installed."""
    lines = [COLUMNS]
    for name, package, make in installed(models):
        try:
            model = made(make)
            cells = read(package, name, model)
        except Exception as error:  # another version of a package than this script was written for
            reason = (str(error).splitlines() or [""])[0]
            print(f"{package}: {name} could not be made: {type(error).__name__}: {reason}")
            continue
        try:
            cells += ratios(model)
        except (TypeError, ValueError) as error:
            print(f"{package}: {name} has no examples: {(str(error).splitlines() or [''])[0]}")
            cells += ("-", "-")
        print(*cells, flush=True)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def renew(names: Sequence[str]) -> None:
    """Measure these models alone, and replace their rows of the page.

    Raises:
        KeyError: a model that is not on the page.
    """
    models = MODELS | UNSEEN
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for row in table({name: models[name] for name in names})[1:]:
        package, name = row.split(" | ")[0], row.split(" | ")[2]
        at = next(i for i, old in enumerate(lines) if old.startswith(f"{package} | ") and old.split(" | ")[2] == name)
        lines[at] = row
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write the page, and say what is not installed."""
    between = BETWEEN.format(batch=BATCH, turns=TURNS, first=FIRST)
    sections = [HEAD, *table(MODELS), between, *table(UNSEEN), *folded.table()]
    PAGE.write_text("\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    renew(sys.argv[1:]) if sys.argv[1:] else main()
