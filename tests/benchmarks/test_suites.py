"""Every suite at tiny sizes: it agrees with its references, and its results have the format of the file. Not: times."""

import json
import sys

import pytest

from benchmarks import __main__ as command
from benchmarks import bench_derivations, bench_norms, peers, report, tables
from benchmarks.case import Case, Setting
from benchmarks.record import STATUSES, Record, load
from benchmarks.tables import HEAD, row

LONG = ("bias", "derivations", "fit_loop", "per_example", "startup", "sweep", "training", "verify", "weak_scaling")
"""Suites that compile for long, or start many processes, even at tiny sizes."""


@pytest.mark.parametrize(
    "suite", [pytest.param(suite, marks=pytest.mark.slow) if suite in LONG else suite for suite in command.SUITES]
)
def test_suite(as_users_run_it, tmp_path, capsys, suite):
    path = tmp_path / "results.json"
    code = command.main([suite, "--tiny", "--json", str(path), "--peers", "numpy"])
    content = load(path)
    own = [r for r in content["records"] if r.suite == suite]
    assert own, capsys.readouterr()
    failed = [(r.case, r.contender, r.note) for r in own if r.status in ("failed", "wrong", "out of memory")]
    assert (code, failed) == (0, [])
    for r in own:
        assert r.status in STATUSES
        assert all(sample > 0 for sample in r.samples)
        assert (r.status == "skipped") == (r.note != "" and not r.samples and not r.extra and not r.flops)
        assert len(row(r)) == len(HEAD)
    assert any(r.samples or r.extra for r in own if r.status == "ok") or suite == "backends"

    page = tmp_path / "page.html"
    assert report.main(page, tmp_path) == 0
    text = page.read_text()
    assert report.TITLES[suite] in text and "No GPU results on this machine." in text
    assert text.count("<table>") == text.count("</table>") >= 2


def test_unknown_suite_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["dense"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("unknown suite 'dense': choose among bias, derivations, derived, training,")


def test_unknown_peer_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit):
        command.main(["bias", "--peers", "pytorch", "--json", str(tmp_path / "r.json")])
    assert "unknown peer 'pytorch': choose among numpy, optax" in capsys.readouterr().err


def test_unwritable_results_are_one_line_before_any_work(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert command.main(["bias", "--tiny", "--json", str(tmp_path / "file" / "r.json")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "results cannot be written to" in err


def test_only_the_cases_asked_for(capsys, tmp_path):
    path = tmp_path / "results.json"
    assert command.main(["bias", "--tiny", "--case", "alone", "--json", str(path)]) == 0
    assert {r.case for r in load(path)["records"] if r.suite == "bias"} == {"bias gradient alone 4×3"}
    assert command.main(["scaling", "--tiny", "--case", "alone", "--json", str(path)]) == 2
    assert capsys.readouterr().err == "no case of scaling has 'alone' in its name.\n"


def test_a_false_conviction_is_a_record_and_the_suite_goes_on():
    from benchmarks import bench_checking

    def raises():
        raise AssertionError("\nNot equal\nMax relative difference among violations: 0.1")

    calls = {"jaxbias": lambda: None, "check_grads": raises}
    right, wrong = bench_checking._compare("a network", calls, list, Setting("tiny"))
    assert right.status == "ok" and right.samples
    assert (wrong.status, wrong.samples) == ("wrong", [])
    assert wrong.note == "calls the right gradient wrong: Max relative difference among violations: 0.1"


def test_columns_that_say_nothing_are_left_out():
    text = tables.text(("case", "contender", "time", "compile", "scratch"), [("a", "b", "–", "1 s", "–")])
    assert text.splitlines()[0].split() == ["case", "contender", "time", "compile"]


def test_an_interrupted_run_keeps_what_is_finished(monkeypatch, capsys, tmp_path):
    from benchmarks import bench_bias
    from benchmarks.record import Record

    def run(setting):
        yield [Record("bias", "first", "bias", samples=[1.0])]
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_bias, "run", run)
    path = tmp_path / "results.json"
    assert command.main(["bias", "--tiny", "--json", str(path)]) == 130
    assert "interrupted: the finished cases are in" in capsys.readouterr().err
    assert "first" in {r.case for r in load(path)["records"]}
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_a_missing_peer_is_named_with_its_command():
    setting = Setting("tiny")
    found = {peer: peers.missing(peer, setting) for peer in peers.PEERS}
    for peer, why in found.items():
        assert why is None or why == f"{peer} is not installed: {peers.PEERS[peer][1]}"
    assert peers.missing("torch", Setting("tiny", ("numpy",))) == "not asked for (--peers)"
    assert peers.missing("torch", Setting("tiny", pythons={"torch": sys.executable})) is None
    assert peers.missing("jax_scan", Setting("tiny", ())) is None


def test_pytorch_at_its_best_is_over_the_samples_taken_in_turns(monkeypatch):
    asked = []

    def worker(job, sample, *, python):
        asked.append((job["threads"], python))
        for _ in range(job["rounds"]):
            sample()
        return {"samples": [3.0 / job["threads"]] * job["rounds"], "versions": {"torch": "2"}}

    monkeypatch.setattr(peers, "in_turns", worker)
    monkeypatch.setattr(peers, "sampler", lambda call: call)
    setting = Setting("full", pythons={"torch": "other"})
    _, fields = peers.torch_in_turns({"kind": "op"}, lambda: 0.5, setting)
    assert asked == [(threads, "other") for threads in (1, 2)] * 4
    assert fields["samples"] == [1.5] * 4 * setting.rounds
    assert fields["times_baseline"] == [3.0, 3.0, 3.0]
    assert fields["extra"] == {"threads": 2, "baseline_in_turns_s": 0.5, "torch": "2"}


@pytest.mark.parametrize("beside", [bench_derivations._with_torch, bench_norms._with_peers])
def test_peers_are_not_asked_beside_a_case_that_failed(beside):
    def build(sizes, dtype):
        raise MemoryError

    case = Case("suite", "max_pool", {}, build, {}, baseline="hand", reference="autodiff")
    failed = [Record("suite", "max_pool", "all", status="out of memory")]
    assert beside(failed, case, Setting("full", pythons={"torch": sys.executable})) == failed


def test_a_worker_takes_each_sample_after_ours_and_a_failed_one_says_why(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, sys\n"
        "kind = json.loads(sys.argv[1])['kind']\n"
        "for i in range(3):\n"
        "    print(flush=True)\n"
        "    if kind == 'gone' and i == 1:\n"
        "        sys.exit('gone before the second sample')\n"
        "    sys.stdin.readline()\n"
        "while kind == 'slow':\n"
        "    pass\n"
        "if kind == 'bad':\n"
        "    sys.exit('no such kind')\n"
        "print(json.dumps({'in_turns': json.loads(sys.argv[1])['in_turns']}))\n"
    )
    own = lambda module, job, python, env: {"args": [sys.executable, str(worker), json.dumps(job)], "text": True}
    monkeypatch.setattr(peers, "_worker", own)
    taken = []
    assert peers.in_turns({"kind": "op"}, lambda: taken.append(None), python=None) == {"in_turns": True}
    assert len(taken) == 3
    for kind, why in (
        ("bad", "no such kind"),
        ("gone", "gone before the second sample"),
        ("slow", "no answer within 1 s"),
    ):
        with pytest.raises(peers.WorkerFailed, match=why):
            peers.in_turns({"kind": kind}, lambda: None, python=None, timeout=1)


def test_a_failing_worker_gives_its_last_line():
    with pytest.raises(peers.WorkerFailed, match="ModuleNotFoundError: No module named 'no_such_module'"):
        peers.in_process("benchmarks.startup_worker", {"import": "no_such_module"})


def test_no_results_is_one_line(capsys, tmp_path):
    assert report.main(tmp_path / "page.html", tmp_path) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_committed_results_can_be_read():
    for path in report.RESULTS.glob("*.json"):
        content = load(path)
        assert {r.environment for r in content["records"]} <= content["environments"].keys()
        json.dumps(content["machine"])
