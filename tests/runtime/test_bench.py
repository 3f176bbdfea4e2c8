"""Latency figures: who is called how often, and what the percentiles are of."""

import json

import numpy as np
import pytest
from flights import made_bundle

from trudi.cli import main
from trudi.runtime import bench
from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.bench import student_ratio
from trudi.runtime.writing import write_bundle


def test_candidates_take_turns_and_every_counted_call_is_made(monkeypatch):
    monkeypatch.setattr(bench, "TURN_CALLS", 3)
    monkeypatch.setattr(bench, "WARM_UP_CALLS", 2)
    seen = []
    results = bench.measure({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, calls=5)
    # 2 warm-up calls each, then turns of 3 and 2 counted calls, each after one that is not counted
    assert "".join(seen) == "aabb" + "aaaa" + "bbbb" + "aaa" + "bbb"
    assert [one.calls for one in results.values()] == [5, 5]


def test_percentiles_are_those_of_the_times():
    one = bench._latency("x", np.arange(1, 1001) * 1000.0)  # 1, 2, ..., 1000 us
    assert one.p50_us == pytest.approx(500.5)
    assert one.p99_us == pytest.approx(990.01)
    assert one.max_us == 1000.0
    assert one.p50_us < one.p90_us < one.p99_us < one.p999_us < one.max_us


def test_the_table_gives_the_ratio_of_the_medians():
    one = bench._latency("ours", np.full(10, 150_000.0))
    assert bench.table({"ours": one}, floor_us=100.0).splitlines()[1].endswith("1.50")


def timed(bundle, folder, *options):
    """What `trudi bench` says for machines."""
    report = folder / "bench.json"
    assert main(["bench", str(bundle), "--calls", "40", "--json", str(report), *options]) == 0
    return json.loads(report.read_text())


def test_the_ratio_by_hand():
    results = {name: bench._latency(name, np.full(10, us * 1000.0)) for name, us in (("ours, onnx", 24.0), ("other", 1.0))}
    assert student_ratio(results) is None
    results["ours, student"] = bench._latency("ours, student", np.full(10, 3000.0))
    assert student_ratio(results) == {"p50_us": 3.0, "teacher_p50_us": 24.0, "ratio": 0.125}


@pytest.mark.parametrize("latent", [False, True])
def test_teacher_and_student_take_turns_and_their_ratio_is_said(tmp_path, latent, capsys):
    bundle = made_bundle(tmp_path / "both", student=True, latent=latent, student_scale=0.9)
    values = timed(bundle, tmp_path)
    p50 = {one["name"]: one["p50_us"] for one in values["engines"]}
    assert list(p50) == ["ours, onnx", "ours, student"]
    assert values["student"]["ratio"] == pytest.approx(p50["ours, student"] / p50["ours, onnx"])
    assert f"the student takes 1/{1 / values['student']['ratio']:.1f} of the teacher's time" in capsys.readouterr().out
    assert timed(bundle, tmp_path, "--engine", "onnx")["student"] is None
    alone = timed(bundle, tmp_path, "--engine", "student")
    assert alone["student"] is None and [one["name"] for one in alone["engines"]] == ["ours, student"]


def test_it_is_the_students_own_graph(tmp_path, capsys):
    """One that does not load is not run, and says so; the teacher is timed all the same."""
    with Bundle.open(made_bundle(tmp_path / "both", student=True)) as bundle:
        files = {name: bundle.read(name) for name in bundle.files if name != "bundle.json"}
        broken = write_bundle(tmp_path / "broken", bundle.contract, files | {"student.onnx": b"no graph"})
    values = timed(broken, tmp_path)
    assert [one["name"] for one in values["engines"]] == ["ours, onnx"] and values["student"] is None
    assert "cannot load the graph" in values["not_run"]["student"]
    assert "student: not run: ONNX Runtime" in capsys.readouterr().out


def test_a_bundle_without_a_student_has_no_ratio(tmp_path, capsys):
    assert timed(made_bundle(tmp_path / "go1"), tmp_path)["student"] is None
    assert "the student takes" not in capsys.readouterr().out
