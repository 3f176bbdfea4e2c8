"""`trudi export`, `verify` and `bench` on a real run, and what they refuse."""

import json
import shutil
import zipfile

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trudi.cli import main
from trudi.runtime.bundle import Bundle
from trudi.runtime.golden import GOLDEN, GoldenCases
from trudi.runtime.metadata import CONTRACT_KEY
from trudi.runtime.reading import parse_contract
from trudi.runtime.writing import write_bundle
from trudi.train.trained import TrainedRun


def refused(capsys, code, *argv):
    """The one line that a command says as it exits with `code`."""
    assert main([str(one) for one in argv]) == code
    captured = capsys.readouterr()
    text = captured.err if code == 2 else captured.out
    lines = [line for line in text.splitlines() if "error:" in line or "FAILED" in line or "failed" in line]
    assert len(lines) == 1, captured
    return lines[0]


def rebuilt(bundle, target, contract=None, **files):
    """A copy of a bundle with other contents and a manifest that fits them."""
    with Bundle.open(bundle) as opened:
        content = {name: opened.read(name) for name in opened.files if name != "bundle.json"} | files
        return write_bundle(target, contract or opened.contract, content)


def test_the_bundle_says_what_the_run_was(bundle, run):
    trained = TrainedRun.open(run)
    with Bundle.open(bundle) as opened:
        contract = opened.contract
    assert contract.task.id == "CartpoleSwingup-v1" and contract.task.backend == "envpool"
    assert contract.control_period_s == pytest.approx(trained.control_period_s)
    assert (contract.observation_size, contract.action.size) == (5, 1)
    assert (contract.sampler.steps, contract.sampler.noise, contract.sampler.latent_std) == (8, "zero", 2.5)
    assert contract.provenance.iteration == 2 and contract.provenance.seed == trained.cfg.seed
    low, high = contract.safety.observation_range.low, contract.safety.observation_range.high
    mean = trained.agent.actor_norm.mean.numpy()
    assert all(low[i] < mean[i] < high[i] for i in range(5))
    score = contract.provenance.evaluations[0]
    assert score.episodes == 2 and score.sampler == "ode_8_steps_zero_noise"


def test_the_graph_carries_the_same_contract_as_the_bundle(bundle):
    with Bundle.open(bundle) as opened:
        model = onnx.load_from_string(opened.read("policy.onnx"))
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert parse_contract(json.loads(metadata[CONTRACT_KEY]))[0] == opened.contract
        assert metadata["observation_names"] == ",".join(term.name for term in opened.contract.observation)


def test_golden_cases_hold_the_evaluation_and_its_edges(bundle):
    with Bundle.open(bundle) as opened:
        cases = GoldenCases.from_bytes(opened.read(GOLDEN), opened.contract)
    assert len(cases.observation) > 1024
    assert (cases.observation == 0.0).all(1).any()  # the zero observation
    assert np.abs(cases.action_float64).max() <= 1.0
    assert 0.0 < np.abs(cases.action_float32 - cases.action_float64).max() < 1e-5


def test_verify_passes_and_says_what_a_machine_without_a_gpu_cannot_check(bundle, run, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main(["verify", str(bundle), "--run", str(run), "--episodes", "2", "--json", str(report)]) == 0
    values = json.loads(report.read_text())
    by_name = {check["engine"]: check for check in values["engines"]}
    assert by_name["onnx"]["verdict"] == "ok" and by_name["onnx"]["max_error"] <= 1e-5
    (rtx,) = [check for name, check in by_name.items() if "tensorrt-rtx" in name]
    assert rtx["verdict"] == "ok" or (rtx["verdict"] == "not run" and "not checked" in rtx["detail"])
    assert values["paired_returns"]["relative_difference"] <= 0.005
    assert "same seeds" in capsys.readouterr().out


def test_a_graph_of_another_policy_fails(bundle, tmp_path, capsys):
    with Bundle.open(bundle) as opened:
        model = onnx.load_from_string(opened.read("policy.onnx"))
    for constant in model.graph.initializer:
        if constant.name == "final_shift":
            constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) + np.float32(1e-3), constant.name))
    other = rebuilt(bundle, tmp_path / "other", **{"policy.onnx": model.SerializeToString()})
    line = refused(capsys, 1, "verify", other, "--engine", "onnx")
    assert line.startswith("onnx") and "does not compute the policy" in line


def test_a_graph_that_carries_another_contract_fails(bundle, tmp_path, capsys):
    """Somebody edited bundle.json by hand, hashes included: an ONNX and its description that drift apart."""
    with Bundle.open(bundle) as opened:
        drifted = opened.contract.model_copy(update={"control_period_s": 0.5})
    other = rebuilt(bundle, tmp_path / "other", drifted)
    assert main(["verify", str(other), "--engine", "onnx"]) == 1
    assert "the contract inside policy.onnx differs from bundle.json" in capsys.readouterr().out


def test_a_zip_is_verified_like_a_folder(run, tmp_path):
    target = tmp_path / "policy.zip"
    assert main(["export", str(run), "--out", str(target), "--episodes", "1", "--noise", "seeded", "--noise-seed", "3"]) == 0
    assert zipfile.is_zipfile(target)
    assert main(["verify", str(target), "--run", str(run), "--episodes", "2"]) == 0
    with Bundle.open(target) as opened:
        assert [port.name for port in opened.contract.graph.inputs] == ["observation", "latent"]
        assert opened.contract.sampler.seed == 3


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_and_step_counts(run, tmp_path, precision):
    target = tmp_path / precision
    argv = ["export", str(run), "--out", str(target), "--episodes", "1", "--precision", precision, "--steps", "4"]
    assert main(argv) == 0
    assert main(["verify", str(target)]) == 0
    with Bundle.open(target) as opened:
        assert (opened.contract.graph.precision, opened.contract.sampler.steps) == (precision, 4)


def test_a_signed_bundle_is_trusted_and_an_altered_one_is_not(run, tmp_path, capsys):
    key = tmp_path / "key.pem"
    assert main(["keygen", str(key)]) == 0
    target = tmp_path / "signed"
    assert main(["export", str(run), "--out", str(target), "--episodes", "1", "--sign", str(key)]) == 0
    public = next(path for path in tmp_path.iterdir() if path.suffix == ".pub")
    assert main(["verify", str(target), "--trust", str(public)]) == 0
    capsys.readouterr()
    other = rebuilt(target, tmp_path / "unsigned")
    assert "FAILED" in refused(capsys, 1, "verify", other, "--trust", public)


def test_one_changed_byte_in_any_file_is_found(bundle, tmp_path, capsys):
    for name in sorted(path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bundle, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        assert "FAILED" in refused(capsys, 1, "verify", copy)


def test_bench_times_the_engine_the_baselines_and_the_floor(bundle, run, tmp_path, capsys):
    report, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    argv = ["bench", bundle, "--run", run, "--calls", "60", "--json", report, "--picture", picture]
    assert main([str(one) for one in argv]) == 0
    values = json.loads(report.read_text())
    names = [one["name"] for one in values["engines"]]
    assert "ours, onnx" in names and "torch.onnx.export, plain" in names and "products alone, numpy" in names
    assert values["floor_us"] == min(one["p50_us"] for one in values["engines"] if one["name"].startswith("products"))
    assert all(one["calls"] == 60 and 0 < one["p50_us"] <= one["p99_us"] <= one["max_us"] for one in values["engines"])
    assert picture.stat().st_size > 1000
    capsys.readouterr()


def test_bad_input_is_refused_in_one_line(run, bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert "is not a run folder" in refused(capsys, 2, "export", tmp_path, "--out", out)
    assert "exists already" in refused(capsys, 2, "export", run, "--out", bundle)
    assert "take a divisor or a multiple of 8" in refused(capsys, 2, "export", run, "--out", out, "--steps", "3")
    int8 = refused(capsys, 2, "export", run, "--out", out, "--precision", "int8", "--engine", "tensorrt-rtx")
    assert "int8 is for ONNX Runtime" in int8
    assert "add --engine tensorrt" in refused(capsys, 2, "export", run, "--out", out, "--version-compatible")
    capabilities = ("--compute-capabilities", "8.9")
    assert "are for --engine tensorrt-rtx" in refused(capsys, 2, "export", run, "--out", out, *capabilities)
    assert "cannot run bf16" in refused(capsys, 2, "export", run, "--out", out, "--precision", "bf16")
    assert "9 iterations" not in refused(capsys, 2, "export", run, "--out", out, "--checkpoint", "9")
    assert "has no engine 'onxx'" in refused(capsys, 2, "verify", bundle, "--engine", "onxx")
    assert "--calls 0" in refused(capsys, 2, "bench", bundle, "--calls", "0")
    assert "state_age_lost_s" in refused(capsys, 2, "export", run, "--out", out, "--safety", "state_age_lost=0.1")
    assert not out.exists()


def test_thresholds_that_were_measured_are_in_the_bundle(run, tmp_path):
    given = ("--safety", "state_age_warn_s=0.03", "command_lost_s=4")
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--episodes", "1", *given]) == 0
    with Bundle.open(tmp_path / "out") as opened:
        safety = opened.contract.safety
    assert (safety.state_age_warn_s, safety.state_age_lost_s, safety.command_lost_s) == (0.03, 0.5, 4.0)
    assert safety.max_tilt_rad is None  # of the cart's robot file, as before


def test_a_run_that_was_never_evaluated_is_refused(run, tmp_path, capsys):
    copy = tmp_path / "run"
    options = "--num-envs 4 --rollout-steps 4 --max-iterations 2 --policy.width 8 --critic.width 8 --save-every 1"
    argv = ["train", "envpool:CartpoleSwingup-v1", "--out", str(copy), *options.split(), "--evaluation.episodes", "1"]
    assert main(argv) == 0
    capsys.readouterr()
    line = refused(capsys, 2, "export", copy, "--out", tmp_path / "out", "--checkpoint", "1")
    assert "was never evaluated" in line


def test_a_robot_file_for_another_machine_is_refused(run, tmp_path, capsys):
    line = refused(capsys, 2, "export", run, "--out", tmp_path / "out", "--robot", "unitree_go1")
    assert "describes 48 observations" in line and "the policy takes 5" in line


def test_the_bundle_of_another_run_is_not_replayed(bundle, run, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(run, other, symlinks=True)
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5", 1))
    assert "with seed 5" in refused(capsys, 2, "verify", bundle, "--engine", "onnx", "--run", other)


def test_a_bundle_that_nothing_here_can_run_is_not_called_proven(run, tmp_path, capsys):
    """ONNX Runtime has no bf16 products on a CPU, so only the engine on its GPU could show anything."""
    target = tmp_path / "bf16"
    argv = ["export", str(run), "--out", str(target), "--episodes", "1", "--precision", "bf16", "--engine", "tensorrt-rtx"]
    assert main(argv) == 0
    assert "not run here" in capsys.readouterr().out
    assert main(["verify", str(target), "--engine", "onnx"]) == 1
    assert "no engine of this bundle could be run here" in capsys.readouterr().out
