"""The results file: whole after every case, replaced record by record, refused where it cannot be written or read."""

import json

import pytest

from benchmarks import record
from benchmarks.record import Record, ResultStore, Unwritable, load


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results.json", "here", record.environment())


def test_every_finished_case_is_in_the_file(store):
    store.add([Record("bias", "dense", "bias", samples=[2.0, 1.0, 4.0], times_baseline=[1.5, 1.0, 2.0])])
    store.add([Record("bias", "conv", "all", status="out of memory", note="RESOURCE_EXHAUSTED")])
    first, second = load(store.path)["records"]
    assert (first.median, first.times_baseline, first.environment) == (2.0, [1.5, 1.0, 2.0], "here")
    assert (second.status, second.samples, second.median) == ("out of memory", [], None)


def test_a_later_run_replaces_its_own_records_only(store):
    store.add([Record("bias", "dense", "bias", samples=[1.0]), Record("bias", "dense", "no bias", samples=[1.0])])
    again = ResultStore(store.path, "here", record.environment())
    again.add([Record("bias", "dense", "bias", samples=[3.0])])
    elsewhere = ResultStore(store.path, "another JAX", record.environment())
    elsewhere.add([Record("bias", "dense", "bias", samples=[5.0])])
    found = {(r.contender, r.environment): r.samples for r in load(store.path)["records"]}
    assert found == {("bias", "here"): [3.0], ("no bias", "here"): [1.0], ("bias", "another JAX"): [5.0]}


def test_a_case_that_runs_again_no_longer_failed(store):
    store.add([Record("verify", "all", "all", status="failed", note="first")])
    store.add([Record("bias", "dense", "all", status="failed", note="second")])
    store.add([Record("bias", "conv", "bias", samples=[1.0])])
    assert [r.note for r in load(store.path)["records"]] == ["first", "second", ""]
    store.add([Record("bias", "dense", "bias", samples=[1.0])])
    store.add([Record("verify", "dense", "jaxbias", samples=[1.0])])
    assert [(r.suite, r.case) for r in load(store.path)["records"]] == [
        ("bias", "conv"),
        ("bias", "dense"),
        ("verify", "dense"),
    ]


def test_the_file_names_machine_versions_and_flags(store):
    content = json.loads(store.path.read_text())
    assert content["machine"]["cores"] >= 1 and content["machine"]["platform"] == "cpu"
    environment = content["environments"]["here"]
    assert {"python", "jax", "numpy"} <= environment["versions"].keys()
    assert environment["matmul_precision"] == "default" and environment["x64"] is True


def test_no_place_to_write_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match=r"results cannot be written to .*results\.json: File exists"):
        ResultStore(tmp_path / "file" / "results.json", "here", {})


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 99}', '{"schema": 1, "records": [{"unknown": 1}]}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is not a results file of schema 1"):
        load(path)


def test_name_of_a_machine():
    cpu = {"platform": "cpu", "processor": "AMD EPYC", "cores": 2, "device_kind": "cpu", "devices": 1}
    gpu = {"platform": "gpu", "processor": "AMD EPYC", "cores": 2, "device_kind": "NVIDIA H200", "devices": 8}
    assert record.machine_name(cpu) == "cpu-amd-epyc-2-cores"
    assert record.machine_name(gpu) == "gpu-nvidia-h200-x8"
