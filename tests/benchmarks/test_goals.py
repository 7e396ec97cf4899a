"""Goals computed from records, worked by hand."""

import itertools

import pytest

from benchmarks import goals, plots, report, sentence
from benchmarks.record import Record, ResultStore, load


def derivation(case, contender, ratio, **extra):
    return Record("derivations", case, contender, samples=[1.0], times_baseline=[ratio, ratio, ratio], extra=extra)


def test_ratios_take_the_plain_forward_where_one_is_named():
    records = [
        derivation("max_pool", "autodiff", 2.0),
        derivation("max_pool", "lax.reduce_window", 8.0),
        derivation("tanh", "autodiff", 0.5),
        derivation("dense", "autodiff", 0.7, same_program_as="hand"),
        derivation("gradient of a small CNN", "autodiff", 0.1),
    ]
    assert goals.derivation_ratios(records) == {"max_pool": 8.0, "tanh": 0.5, "dense": 1.0}
    assert goals.derivation_ratios(records, "autodiff") == {"max_pool": 2.0, "tanh": 0.5, "dense": 1.0}
    assert goals._geometric_mean(None)(records) == pytest.approx(4.0 ** (1 / 3))


def test_a_case_is_found_by_its_own_name_first():
    longer = Record("derivations", "max_pool, overlapping", "hand", samples=[9.0])
    own = Record("derivations", "max_pool", "hand", samples=[1.0])
    assert goals.find([longer, own], "derivations", "max_pool", "hand") is own
    assert goals.find([longer], "derivations", "max_pool", "hand") is longer


def test_a_quotient_is_the_one_measured_in_turns():
    hand = Record("derivations", "max_pool", "hand", samples=[9.0])
    torch = Record("derivations", "max_pool", "torch", samples=[2.0], baseline="hand", times_baseline=[4.0, 3.0, 5.0])
    goal = next(goal for goal in goals.GOALS if goal.what == "max pool 2×2, over torch")
    assert goal.verdict([hand, torch]) == (0.25, "met")
    torch.times_baseline = None
    assert goal.verdict([hand, torch]) == (4.5, "not met")


def test_the_slower_ones_are_named_by_reason():
    records = [derivation(case, "autodiff", ratio) for case, ratio in (("relu", 0.9), ("leaky_relu", 0.8), ("tanh", 2))]
    records += [derivation("silu", "autodiff", 0.5), derivation("silu", "hand", 1.0)]
    records[3].flops, records[4].flops = 10.0, 9.0
    gap = goals._surely_slower("autodiff")(records)
    assert f"relu 0.90 [0.90, 0.90], leaky_relu 0.80 [0.80, 0.80] ({goals.FROM_THE_OUTPUT}); " in gap
    assert "silu 0.50 [0.50, 0.50] (with 0.90 of that program's operations, by the compiler's count)." in gap
    assert "tanh" not in gap


def test_training_goal_is_against_the_fastest_other():
    def trained(contender, seconds):
        return Record("training", "digits_dense", contender, samples=[seconds])

    records = [trained("jaxbias", 2.0), trained("jax scan", 1.6), trained("jax loop", 4.0), trained("torch", 0.1)]
    goal = goals.GOALS[0]
    assert goal.verdict(records) == (pytest.approx(1.25), "not met")
    assert goal.verdict(records[:1]) == (None, "not measured")


def test_without_records_nothing_is_met():
    assert {row[-1] for row in goals.table([])} == {"not measured"}


def swept(contender, seconds):
    return Record(
        "sweep", goals.SWEEP, contender, {"networks": 256, "epochs": 20}, samples=[seconds], environment="jax 0.12",
        times_baseline=None if contender == "jaxbias" else [seconds, seconds - 0.5, seconds + 0.5],
    )  # fmt: skip


SWEPT = [swept("jaxbias", 1.0), swept("torch loop, 1 thread", 20.0), swept("torch loop, 2 threads", 16.0)]
SWEPT += [swept("vmap", 2.0), swept("lax.map on 2 host devices", 1.25), swept("jaxbias on 2 host devices", 0.5)]


def test_sweep_goals_are_against_the_fastest_other():
    torch, hand = (goal for goal in goals.GOALS if goal.what.startswith("256 digit nets"))
    assert torch.verdict(SWEPT) == (16.0, "met") and hand.verdict(SWEPT) == (0.8, "met")
    assert torch.verdict(SWEPT[:1]) == (None, "not measured")


def test_the_readme_says_of_sweeps_what_the_results_say(tmp_path):
    environments = {"jax 0.12": {}}
    store = ResultStore(tmp_path / "cpu-two-cores.json", "jax 0.12", environments["jax 0.12"])
    store.add(SWEPT)
    readme = tmp_path / "README.md"
    readme.write_text(f"Before.\n\n{sentence.MARKER}\nAn older\nsentence.\n\nAfter.\n")
    sentence.write(readme, tmp_path)
    text = " ".join(readme.read_text().split())
    assert "An older" not in text and text.startswith("Before.") and text.endswith("After.")
    assert "each of 256 digit networks" in text and "takes 1/16.0 of its time in a PyTorch loop at its best" in text
    assert "(95 % interval 1/15.5 to 1/16.5) and 0.80 of that in the best" in text

    shown = sentence.SENTENCE.search(sentence.README.read_text(encoding="utf-8"))
    assert shown and shown.group() == f"{sentence.MARKER}\n{sentence.on_sweeps()}\n".replace("\n\n", "\n")


def test_a_goal_missed_says_what_limits_it():
    records = [derivation("tanh", "autodiff", 0.5), derivation("dense", "autodiff", 0.7, same_program_as="hand")]
    found = dict(goals.gaps(records))
    least = found["autodiff of our own forward over hand, least over layers and losses"]
    assert "tanh 0.50 [0.50, 0.50]" in least and "dense" not in least
    assert "digits dense, step, over the best hand-written JAX" not in found  # not measured


def biased(contender, batch, ratio):
    sizes = {"batch": batch, "width": 256, "pass": "forward + backward"}
    case = f"dense {batch}×256, forward + backward"
    return Record("bias", case, contender, sizes, samples=[1.0], times_baseline=[ratio, ratio - 0.1, ratio + 0.1])


def test_a_figure_has_the_interval_of_the_ratios_that_it_is_made_of():
    ratio = Record("derivations", "max_pool", "lax.reduce_window", samples=[9.0], baseline="hand",
                   times_baseline=[4.0, 3.0, 16 / 3])  # fmt: skip
    hand = Record("derivations", "max_pool", "hand", samples=[2.25])
    found = goals.intervals([hand, ratio], draws=400)
    for what in (
        "autodiff of the plain forward over hand, geometric mean",
        "max pool 2×2, over autodiff of reduce_window",
    ):
        low, high = found[what]
        figure = 4.0 if low > 1 else 0.25
        assert low * high == pytest.approx(figure**2)
        assert high / figure == pytest.approx(4 / 3, rel=0.05)
    assert goals.intervals([]) == {}


def test_the_page_begins_with_five_lines():
    page, file = report.PAGE.read_text(), load(next(report.RESULTS.glob("cpu-*.json")))
    lines = page.split("<ul class='first'>")[1].split("</ul>")[0].split("<li>")[1:]
    heads = ["Machine: AMD EPYC, 2 cores", "Met, ", "Not met, ", "Not measured, ", "No GPU results on this machine."]
    assert len(lines) == 5 and all(line.startswith(head) for line, head in zip(lines, heads))
    assert page.index("class='first'") < page.index("<h2>")
    assert [line.removesuffix("</li>") for line in lines[:4]] == [*map(report._escape, report.first_lines(file))]
    rows = goals.table([r for r in file["records"] if r.environment == max(file["environments"])])
    for what, _, here, verdict in rows:
        assert verdict != "not met" or report._escape(f"{what}: {here}") in lines[2]


def test_ticks_of_a_logarithmic_axis_are_few_and_round():
    import matplotlib.pyplot as plt

    for low, high in ((0.9, 1.1), (0.8, 130.0), (1e-3, 1e7), (3.0, 40.0)):
        figure, axes = plt.subplots()
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        plots.log_ticks(axes.xaxis, low, high)
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert 1 <= len(boxes) <= 8
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
        assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
        plt.close(figure)


def test_the_worst_size_of_a_bias_is_named():
    records = [biased("bias", 64, 1.02), biased("bias", 128, 1.25), biased("no bias", 128, 1.125)]
    gaps = dict(goals.gaps(records))
    (why,) = (gaps[what] for what in gaps if what.startswith("dense bias"))
    assert why.startswith("1.25 [1.15, 1.35] at 128×256; ReLU alone, without a bias, is 1.12 there")


def test_many_sizes_of_a_bias_are_one_figure():
    records = [biased(contender, 64 * n, 1.0 + n / 10) for contender in ("no bias", "bias") for n in range(1, 6)]
    (figure,) = plots.PLOTS["bias"](records)
    assert figure.startswith("<p><img alt='Dense layer, forward + backward, every size'")
