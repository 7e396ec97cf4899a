import json

from benchmarks import bench_fit_loop


def test_runs_small_and_names_the_choice(monkeypatch, capsys):
    arguments = ["--rows", "128", "--epochs", "3", "--repeats", "1", "--nets", "two_units", "--how", "delta"]
    monkeypatch.setattr("sys.argv", ["bench_fit_loop", *arguments])
    bench_fit_loop.main()
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["auto"] == "scan" and found["auto_over_best"] >= 1
    assert all(seconds > 0 for seconds in found["seconds_per_step"].values())
