"""The figures to reach, each computed from the records; a goal whose records are missing is named as not measured."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.record import Record

Records = Sequence[Record]


class Goal(NamedTuple):
    """One figure to reach.

    Attributes:
        what: in words.
        limit: the figure.
        better: "below" or "above" the limit is met.
        value: from records; None where they are missing.
        gap: what limits the figure where it is not met, as found by profiling; may be worked out from the records.
    """

    what: str
    limit: float
    better: str
    value: Callable[[Records], float | None]
    gap: str | Callable[[Records], str] = ""

    def verdict(self, records: Records) -> tuple[float | None, str]:
        """(figure, "met" | "not met" | "not measured")."""
        value = self.value(records)
        if value is None or not math.isfinite(value):
            return None, "not measured"
        met = value <= self.limit if self.better == "below" else value >= self.limit
        return value, "met" if met else "not met"


def find(records: Records, suite: str, case: str, contender: str) -> Record | None:
    """The record with times of this case, or else of the first whose name begins so."""
    timed = [r for r in records if (r.suite, r.contender) == (suite, contender) and r.samples]
    exact = [r for r in timed if r.case == case]
    return next(iter(exact or [r for r in timed if r.case.startswith(case)]), None)


def _median(records: Records, suite: str, case: str, contender: str) -> float | None:
    record = find(records, suite, case, contender)
    return record.median if record else None


def over(top: float | None, bottoms: Iterable[float | None]) -> float | None:
    """top over the least of the bottoms that are there."""
    known = [b for b in bottoms if b]
    return top / min(known) if top and known else None


def _training(workload: str, against: Sequence[str]):
    def value(records: Records):
        ours = _median(records, "training", workload, "jaxbias")
        named = [
            r for r in records if (r.suite, r.case) == ("training", workload) and r.contender.startswith(tuple(against))
        ]
        return over(ours, [r.median for r in named])

    return value


def _fastest_torch(records: Records, workload: str) -> float | None:
    times = [
        r.median for r in records if (r.suite, r.case) == ("training", workload) and r.contender.startswith("torch")
    ]
    known = [t for t in times if t]
    return min(known) if known else None


def _times_torch(workload: str):
    def value(records: Records):
        ours, torch = _median(records, "training", workload, "jaxbias"), _fastest_torch(records, workload)
        return torch / ours if ours and torch else None

    return value


def _quotient(suite: str, case: str, top: str, bottom: str):
    """Time of one contender over another's; from their own ratio, measured in turns, where one is the baseline."""

    def value(records: Records):
        above, below = find(records, suite, case, top), find(records, suite, case, bottom)
        if above and below and below.baseline == top and below.times_baseline:
            return 1 / below.times_baseline[0]
        return over(above and above.median, [below and below.median])

    return value


def derivation_ratios(records: Records, contender: str | None = None) -> dict[str, float]:
    """Layer or loss → time of another gradient over time of the hand-derived one.

    Args:
        contender: whose gradient; None takes that of the plain forward: the usual operation of JAX or optax where
            ours is written in another way, else our own forward.
    """
    return {
        # one program twice: what differs is the clock
        r.case: 1.0 if "same_program_as" in r.extra else r.times_baseline[0]
        for r in _ratio_records(records, contender)
        if r.times_baseline
    }


def _ratio_records(records: Records, contender: str | None) -> list[Record]:
    return [
        r
        for r in records
        if r.suite == "derivations" and r.times_baseline and r.status == "ok" and not _is_network(r.case)
        and r.contender == (PLAIN.get(r.case, "autodiff") if contender is None else contender)
    ]  # fmt: skip


PLAIN = {
    "max_pool": "lax.reduce_window",
    "max_pool, overlapping 3×3 stride 2": "lax.reduce_window",
    "avg_pool": "lax.reduce_window",
    "cross_entropy": "optax",
    "binary_cross_entropy": "optax",
    "mean_squared_error": "optax",
    "huber": "optax",
}


def _is_network(case: str) -> bool:
    """Cases that are no single layer or loss: the scan and the small CNN."""
    return "scan" in case or "CNN" in case


def _least(contender: str | None):
    return lambda records: min(derivation_ratios(records, contender).values(), default=None)


PARITY = 0.98
"""Autodiff over hand that no layer or loss should fall below."""

FROM_THE_OUTPUT = (
    "taken from the output, so that nothing more is kept; its loop waits for the forward one, where autodiff's, from "
    "what it keeps, runs beside it, which no δ from a layer above allows"
)
SLOWER_BECAUSE = {
    "relu": FROM_THE_OUTPUT,
    "leaky_relu": FROM_THE_OUTPUT,
    "softmax": FROM_THE_OUTPUT,
    "log_softmax": "a second exp, e^a of the output, instead of an array kept between forward and backward",
    "rms_norm": "autodiff's program passes over the array as often; as two matrix-vector products it is faster on the "
    "newest JAX and slower on the oldest",
    "softplus": "1 − e^−a by expm1, accurate where a is small, costs more than autodiff's exp of what it keeps",
    "cross_entropy": "the one-hot rows are subtracted in the pass over all entries; optax's scatter changes one entry "
    "a row after it, which is faster from about a thousand classes on and slower for ten",
    "mean_squared_error": "rows are summed before the batch; one sum over both is faster on the newest JAX and slower "
    "on the oldest",
}
"""Layer or loss → why its derivation loses to autodiff, as seen in the two compiled programs."""


def surely_slower(record: Record) -> bool:
    """Whether the whole interval says that this other gradient is faster than the hand-derived one."""
    return bool(record.times_baseline) and record.times_baseline[2] < PARITY and "same_program_as" not in record.extra


def _with_interval(record: Record) -> str:
    """Time over the baseline's, and its interval."""
    assert record.times_baseline is not None
    ratio, low, high = record.times_baseline
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def _surely_slower(contender: str | None):
    """Those whose whole interval lies below the goal; a least ratio also falls with the number of noisy ratios."""

    def gap(records: Records) -> str:
        slower: dict[str, list[str]] = {}
        for r in filter(surely_slower, _ratio_records(records, contender)):
            why = SLOWER_BECAUSE.get(r.case) or _operations(r, find(records, "derivations", r.case, "hand"))
            slower.setdefault(why, []).append(f"{r.case} {_with_interval(r)}")
        named = "; ".join(f"{', '.join(cases)} ({why})" for why, cases in slower.items())
        return f"interval wholly below the goal: {named or 'none'}. Of all others it reaches {PARITY}."

    return gap


def _operations(other: Record, hand: Record | None) -> str:
    if hand is None or not hand.flops or not other.flops:
        return "reason not found"
    return f"with {hand.flops / other.flops:.2f} of that program's operations, by the compiler's count"


def _geometric_mean(contender: str | None):
    def value(records: Records) -> float | None:
        ratios = derivation_ratios(records, contender).values()
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None

    return value


def _worst_bias(records: Records) -> Record | None:
    """The size at which a bias, forward and backward, costs most over the bare products."""
    found = [
        r
        for r in records
        if r.suite == "bias" and r.contender == "bias" and r.case.endswith("forward + backward") and r.times_baseline
        and r.sizes.get("width", 0) >= 256 and r.sizes.get("batch", 0) >= 64 and r.dtype == "float32"
    ]  # fmt: skip
    return max(found, key=lambda r: r.times_baseline or [], default=None)


def _bias_over_products(records: Records) -> float | None:
    worst = _worst_bias(records)
    return worst.times_baseline[0] if worst and worst.times_baseline else None


def _what_the_bias_adds(records: Records) -> str:
    record = _worst_bias(records)
    if record is None or not record.times_baseline:
        return ""
    size = f"{record.sizes['batch']}×{record.sizes['width']}"
    without = [r.times_baseline[0] for r in records if r.contender == "no bias" and r.times_baseline
               and (r.case, r.dtype) == (record.case, record.dtype)]  # fmt: skip
    beside = f"; ReLU alone, without a bias, is {without[0]:.2f} there" if without else ""
    return f"{_with_interval(record)} at {size}{beside}: a pass over the output for bias and ReLU, one for db"


def _interval_of(case: str, bottom: str):
    """The interval of hand over another contender, for a quotient that misses its goal."""

    def gap(records: Records) -> str:
        record = find(records, "derivations", case, bottom)
        if record is None or not record.times_baseline or record.baseline != "hand":
            return ""
        _, low, high = record.times_baseline
        return f"95 % interval of this quotient: [{1 / high:.2f}, {1 / low:.2f}]"

    return gap


def _norms_over_gradient(records: Records) -> float | None:
    return _quotient("per_example", "norms, 784-1024-1024-10", "jaxbias", "one batch gradient")(records)


def _norms_by_hand(records: Records) -> str:
    record = find(records, "per_example", "norms, 784-1024-1024-10", "by hand for this network")
    if record is None or not record.times_baseline:
        return ""
    return f"the same products and passes, written out for this network: {_with_interval(record)}"


def _cnn_norms(records: Records) -> float | None:
    ours, *others = (
        _median(records, "per_example", "norms, small CNN", name) for name in ("jaxbias", "vmap(grad)", "ghost forms")
    )
    return over(ours, others)


def sweep_over(records: Records, case: str, torch: bool) -> Record | None:
    """Of a case of the suite `sweep`, the fastest of the loops in PyTorch, or of those written by hand in JAX."""
    found = [
        r
        for r in records
        if r.suite == "sweep" and r.case == case and r.samples and r.times_baseline
        and not r.contender.startswith("jaxbias") and r.contender.startswith("torch") == torch
    ]  # fmt: skip
    return min(found, key=lambda r: r.median or math.inf, default=None)


SWEEP = "digits 64-128-10, 256 networks, 20 epochs"


def _sweep_against_torch(records: Records) -> float | None:
    best = sweep_over(records, SWEEP, torch=True)
    return best.times_baseline[0] if best and best.times_baseline else None


def _sweep_against_hand(records: Records) -> float | None:
    best = sweep_over(records, SWEEP, torch=False)
    return 1 / best.times_baseline[0] if best and best.times_baseline else None


def _first_call(contender: str):
    """Seconds of the first call, tracing and compiling included, of a check of the large dense layer."""

    def value(records: Records) -> float | None:
        record = find(records, "verify", "dense 256×512, batch 64", contender)
        return record.extra.get("first_call_s") if record else None

    return value


def _start_up(cache: str):
    def gap(records: Records) -> str:
        hand = _median(records, "startup", "first training step", f"jax by hand, {cache}")
        compared = f"; one step written by hand in JAX took {hand:.2f} s in the same run" if hand else ""
        work = {
            "cold": "XLA compiling the draws of the weights and the epoch's program with its random order of the rows",
            "warm cache": "imports, and JAX tracing and lowering the programs whose compiled form it then reads",
        }
        return f"nearly all of it is {work[cache]}{compared}"

    return gap


def _over_plain(cases: Sequence[str], plain: str):
    """The most of hand over autodiff of a plain form, of some cases."""

    def value(records: Records):
        ratios = [_quotient("derivations", case, "hand", plain)(records) for case in cases]
        return max((ratio for ratio in ratios if ratio), default=None)

    return value


HAND_WRITTEN = ("jax scan", "jax loop")
ATTENTION = ("attention", "attention, longer", "attention, long")
GOALS = (
    Goal("digits dense, step, over the best hand-written JAX", 1.05, "below", _training("digits_dense", HAND_WRITTEN)),
    Goal(
        "digits convolutional, step, over the best of all others", 1.0, "below",
        _training("digits_conv", (*HAND_WRITTEN, "linen", "nnx", "equinox", "haiku", "keras", "torch")),
    ),
    Goal("digits convolutional, torch at its best over ours", 2.0, "above", _times_torch("digits_conv")),
    Goal(
        "max pool 2×2, over autodiff of reduce_window", 0.1, "below",
        _quotient("derivations", "max_pool", "hand", "lax.reduce_window"),
    ),
    Goal(
        "max pool 2×2, over torch", 1.0, "below", _quotient("derivations", "max_pool", "hand", "torch"),
        _interval_of("max_pool", "torch"),
    ),
    Goal(
        "max pool 3×3 stride 2 (overlapping), over autodiff of reduce_window", 0.1, "below",
        _quotient("derivations", "max_pool, overlapping", "hand", "lax.reduce_window"),
    ),
    Goal(
        "max pool 3×3 stride 2 (overlapping), over torch", 1.0, "below",
        _quotient("derivations", "max_pool, overlapping", "hand", "torch"),
        lambda records: (
            "XLA's CPU backend gives a loop one result, so on each axis the maxima and their places are two passes, "
            "where PyTorch's kernel makes both for both axes in one; "
            f"{_interval_of('max_pool, overlapping', 'torch')(records)}"
        ),
    ),
    Goal(
        "gradient of a small CNN, over torch", 0.7, "below",
        _quotient("derivations", "gradient of a small CNN", "hand", "torch"),
        lambda records: (
            "most of the step is the second convolution, 16 to 32 channels at 8×8, which is XLA's on CPU, forward and "
            f"both gradients; {_interval_of('gradient of a small CNN', 'torch')(records)}"
        ),
    ),
    Goal(
        "convolution inside lax.scan, C_in ≥ 16: autodiff over hand", 30.0, "above",
        _quotient("derivations", "conv 3×3 64×8×8×16→32 inside lax.scan", "autodiff", "hand"),
    ),
    Goal(
        "convolution alone: hand over autodiff", 1.05, "below", _quotient("derivations", "conv", "hand", "autodiff"),
        _interval_of("conv", "autodiff"),
    ),
    Goal(
        "causal attention of 512, 1,024 and 4,096 steps, worst, over autodiff of all scores", 1.1, "below",
        _over_plain(ATTENTION, "softmax of all scores"),
    ),
    Goal(
        "dense and cross-entropy in one, 2,048 rows × 32,768 classes, over autodiff of all logits", 0.95, "below",
        _over_plain(("linear_cross_entropy",), "all logits"),
    ),
    Goal("LSTM, 512 steps, autodiff over hand", 1.3, "above", _quotient("derivations", "lstm", "lax.scan", "hand")),
    Goal(
        "state-space model, 4,096 steps, over autodiff of one scan", 1.2, "below",
        _over_plain(("ssm",), "one associative scan"),
    ),
    Goal("256 digit nets, per network, PyTorch's loop at its best over ours", 13.0, "above", _sweep_against_torch),
    Goal("256 digit nets, per network, over the best hand-written JAX", 1.1, "below", _sweep_against_hand),
    Goal(
        "per-example gradient norms (MLP), over one batch gradient", 0.65, "below", _norms_over_gradient,
        _norms_by_hand,
    ),
    Goal("per-example gradient norms (small CNN), over the best of the others", 1.1, "below", _cnn_norms),
    Goal(
        "autodiff of the plain forward over hand, least over layers and losses", PARITY, "above", _least(None),
        _surely_slower(None),
    ),
    Goal(
        "autodiff of the plain forward over hand, geometric mean", 1.3, "above", _geometric_mean(None),
        "most layers are one or two passes over an array in either form; the mean moves by hundredths between runs",
    ),
    Goal(
        "autodiff of our own forward over hand, least over layers and losses", PARITY, "above", _least("autodiff"),
        _surely_slower("autodiff"),
    ),
    Goal(
        "autodiff of our own forward over hand, geometric mean", 1.3, "above", _geometric_mean("autodiff"),
        "our forwards are written so that XLA derives nearly the same program for most layers; the gain is in the "
        "forward, and shows in the mean against the plain forwards",
    ),
    Goal(
        "dense bias + relu + db over three products, ≥ 256 wide, worst size", 1.05, "below", _bias_over_products,
        _what_the_bias_adds,
    ),
    Goal("check of a right rule, dense 256×512, first call, seconds", 3.0, "below", _first_call("jaxbias")),
    Goal(
        "check of a second rule for the same forward, seconds", 0.3, "below",
        lambda records: _median(records, "verify", "dense 256×512, batch 64", "jaxbias, another rule"),
    ),
    Goal(
        "diagnosis of a wrong rule, dense 256×512, first call, seconds", 10.0, "below",
        _first_call("jaxbias, with one mistake, diagnosed"),
    ),
    Goal(
        "first training step beyond import jax, cold cache, seconds", 1.0, "below",
        lambda records: _median(records, "startup", "first training step", "jaxbias, cold"),
        _start_up("cold"),
    ),
    Goal(
        "first training step beyond import jax, warm cache, seconds", 0.35, "below",
        lambda records: _median(records, "startup", "first training step", "jaxbias, warm cache"),
        _start_up("warm cache"),
    ),
    Goal(
        "H200, bfloat16, dense 8192 wide with bias and GELU, share of the matrix-product peak", 0.8, "above",
        lambda records: _accelerator_share(records),
    ),
)  # fmt: skip


def _accelerator_share(records: Records) -> float | None:
    found = [
        r.roofline
        for r in records
        if r.suite == "backends" and r.contender == "bias" and r.dtype == "bfloat16" and r.measured == "run"
        and r.sizes.get("width") == 8192 and r.roofline
    ]  # fmt: skip
    return max(found, default=None)


def intervals(records: Records, draws: int = 60) -> dict[str, tuple[float, float]]:
    """Goal → 95 % interval of its figure, by drawing all records anew and working the figure out from each draw.

    A time that was measured in turns with another is drawn from its ratio's interval, log-normal; any other from its
    samples. So a mean, a least or a worst of many ratios has an interval too: figure · exp(±1.96 sd of its logarithm).
    """
    rng = np.random.default_rng(0)
    timed = [record for record in records if record.samples]
    figures = {goal: value for goal in GOALS if (value := goal.value(timed))}
    again = [[_drawn(record, rng) for record in timed] for _ in range(draws if figures else 0)]
    found = {}
    for goal, figure in figures.items():
        spread = 1.96 * float(np.std([math.log(goal.value(drawn) or figure) for drawn in again]))
        found[goal.what] = figure * math.exp(-spread), figure * math.exp(spread)
    return found


def _drawn(record: Record, rng: np.random.Generator) -> Record:
    if not record.samples:
        return record
    if record.times_baseline and record.contender != record.baseline:
        ratio, low, high = record.times_baseline
        factor = math.exp(math.log(high / low) / (2 * 1.96) * rng.standard_normal())
        return replace(record, samples=[(record.median or 0.0) * factor], times_baseline=[ratio * factor, low, high])
    return replace(record, samples=list(rng.choice(record.samples, len(record.samples))))


def gaps(records: Records) -> list[tuple[str, str]]:
    """(what, what limits it) of every goal that is not met."""
    missed = [goal for goal in GOALS if goal.verdict(records)[1] == "not met"]
    return [(goal.what, goal.gap(records) if callable(goal.gap) else goal.gap) for goal in missed]


def table(records: Records) -> list[tuple[str, str, str, str]]:
    """(what, goal, figure, verdict) of every goal."""
    rows = []
    for goal in GOALS:
        value, verdict = goal.verdict(records)
        sign = "≤" if goal.better == "below" else "≥"
        rows.append((goal.what, f"{sign} {goal.limit:g}", "–" if value is None else f"{value:.3g}", verdict))
    return rows
