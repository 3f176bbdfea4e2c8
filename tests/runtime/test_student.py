"""The student in a bundle: its golden cases, who checks them, and what an altered graph or an older bundle meets."""

import json

import onnx
import pytest
from flights import made_bundle, small_policy

from trudi.cli import main
from trudi.runtime.bundle import Bundle
from trudi.runtime.engines.base import Engine
from trudi.runtime.errors import BundleError, EngineError
from trudi.runtime.golden import GOLDEN, STUDENT_GOLDEN, GoldenCases
from trudi.runtime.metadata import csv_metadata
from trudi.runtime.session import load_student
from trudi.runtime.writing import write_bundle


@pytest.fixture(scope="module", params=[False, True], ids=["zero", "seeded"])
def both(request, tmp_path_factory):
    """A bundle of a policy and a student whose actions are nine tenths of the policy's."""
    folder = tmp_path_factory.mktemp("both")
    return described(made_bundle(folder / "plain", student=True, latent=request.param, student_scale=0.9), folder / "go1")


def described(bundle, target):
    """The bundle with its contract in the policy's graph, as exported ones have it."""
    with Bundle.open(bundle) as opened:
        model = onnx.load_from_string(opened.read("policy.onnx"))
        onnx.helper.set_model_props(model, csv_metadata(opened.contract))
    return rewritten(bundle, target, policy__onnx=model.SerializeToString())


def rewritten(bundle, target, *, without=(), **files):
    """The bundle with other content of some files: whole, its hashes right."""
    with Bundle.open(bundle) as opened:
        kept = {name: opened.read(name) for name in opened.files if name != "bundle.json" and name not in without}
        changed = {name.replace("__", "."): data for name, data in files.items()}
        return write_bundle(target, opened.contract, kept | changed)


def verify(bundle, folder, *options):
    """Exit code and the checks, by engine."""
    report = folder / "verify.json"
    code = main(["verify", str(bundle), "--json", str(report), *options])
    return code, {check["engine"]: check for check in json.loads(report.read_text())["engines"]}


def test_the_student_is_recomputed_like_the_teacher(both, tmp_path, capsys):
    code, checks = verify(both, tmp_path)
    assert code == 0 and list(checks) == ["onnx", "student"]
    assert checks["student"]["verdict"] == "ok" and checks["student"]["threshold"] == 1e-5
    assert "\nstudent  " in capsys.readouterr().out
    code, checks = verify(both, tmp_path, "--engine", "student")
    assert code == 0 and list(checks) == ["student"]
    with Bundle.open(both) as bundle:
        engine, sentence = load_student(bundle)
        assert isinstance(engine, Engine) and sentence.startswith("student: golden error ")
        engine.close()


def test_an_altered_student_is_refused(both, tmp_path, capsys):
    """Its hash is right, as of a bundle that was written again; its actions are a thousandth larger."""
    with Bundle.open(both) as bundle:
        contract = bundle.contract
    n, m = contract.observation_size, contract.action.size
    graph, _ = small_policy(n, m, latent=contract.sampler.needs_latent, largest=0.09 * 1.001)
    altered = rewritten(both, tmp_path / "altered", student__onnx=graph)
    code, checks = verify(altered, tmp_path)
    assert code == 1 and checks["onnx"]["verdict"] == "ok"
    assert checks["student"]["verdict"] == "failed" and 1e-5 < checks["student"]["max_error"] < 1e-4
    with (
        Bundle.open(altered) as bundle,
        pytest.raises(EngineError, match="the bundle's student may not be used: golden case"),
    ):
        load_student(bundle)
    capsys.readouterr()
    with Bundle.open(both) as bundle:
        golden = bundle.read(STUDENT_GOLDEN)
    swapped = rewritten(both, tmp_path / "swapped", **{"student__onnx": graph, GOLDEN.replace(".", "__"): golden})
    assert verify(swapped, tmp_path)[0] == 1


def test_a_graph_that_does_not_load_is_refused(both, tmp_path):
    broken = rewritten(both, tmp_path / "broken", student__onnx=b"no graph")
    code, checks = verify(broken, tmp_path)
    assert code == 1 and checks["student"]["verdict"] == "failed"
    with Bundle.open(broken) as bundle, pytest.raises(EngineError, match=r"may not be used: .* cannot load the graph"):
        load_student(bundle)


def test_an_older_bundle_is_taken_and_told_of(both, tmp_path, capsys):
    older = rewritten(both, tmp_path / "older", without=[STUDENT_GOLDEN])
    code, checks = verify(older, tmp_path)
    assert code == 0 and checks["student"]["verdict"] == "not run"
    assert "has no golden_student.npz, so nothing shows that the student's graph is right" in checks["student"]["detail"]
    with Bundle.open(older) as bundle:
        engine, sentence = load_student(bundle)
        assert sentence.startswith("student: the bundle has no golden_student.npz")
        engine.close()
    assert verify(older, tmp_path, "--engine", "student")[0] == 1, "nothing was shown"
    assert "nothing shows that it is the policy" in capsys.readouterr().out


def test_golden_cases_that_do_not_fit_the_student(both, tmp_path):
    with Bundle.open(both) as bundle:
        contract = bundle.contract
        golden = GoldenCases.of_student(bundle.read(STUDENT_GOLDEN), contract)
    short = GoldenCases(golden.observation[:, :-1], golden.latent, golden.action_float64, golden.action_float32)
    with pytest.raises(BundleError, match=r"golden_student\.npz: observation is float32 \(16, 47\)"):
        GoldenCases.of_student(short.to_bytes(), contract)


def test_a_bundle_without_a_student_has_nothing_more(tmp_path):
    code, checks = verify(described(made_bundle(tmp_path / "plain"), tmp_path / "go1"), tmp_path)
    assert code == 0 and list(checks) == ["onnx"]
