"""A student beside its teacher in one bundle."""

import json
import shutil

import numpy as np
import pytest
import torch

from trudi.cli import main
from trudi.export.recording import Recording, Reference
from trudi.export.students import divergence
from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import Sampler
from trudi.runtime.engines.onnx import OnnxEngine
from trudi.runtime.golden import STUDENT_GOLDEN, GoldenCases
from trudi.train.evaluation import EvalResult
from trudi.train.trained import TrainedRun

QUICK = ["--num-envs", "2", "--rollout-steps", "64", "--max-iterations", "2", "--evaluate-episodes", "1"]
QUICK += ["--gate-episodes", "2", "--gate-max-episodes", "2", "--min-ratio", "-1000", "--min-low", "-1000"]


@pytest.fixture(scope="module")
def students(run, tmp_path_factory):
    """One of the zero latent and one of all latents."""
    folder = tmp_path_factory.mktemp("students")
    for latent in ("zero", "seeded"):
        argv = ["distill", str(run), "--latent", latent, "--out", str(folder / latent), *QUICK]
        assert main(argv) == 0
    return folder


def refused(capsys, *argv):
    """The one line of an export that is refused."""
    capsys.readouterr()
    assert main(["export", *map(str, argv)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("noise", ["zero", "seeded"])
def test_a_bundle_of_both(run, students, tmp_path, noise, capsys):
    out = tmp_path / "both"
    argv = ["export", run, "--out", out, "--episodes", "2", "--noise", noise, "--student", students / noise]
    assert main([str(one) for one in argv]) == 0
    assert "student: 1 step(s), return" in capsys.readouterr().out
    with Bundle.open(out) as bundle:
        contract = bundle.contract
        student = contract.student
        assert contract.sampler.network == "teacher" and contract.sampler.steps == 8
        assert (student.sampler.network, student.sampler.steps, student.sampler.noise) == ("student", 1, noise)
        assert [one.sampler for one in contract.provenance.evaluations] == [
            f"ode_8_steps_{noise}_noise",
            f"student_ode_1_steps_{noise}_noise",
        ]
        away = student.divergence
        assert 0.0 < away.action_rms <= away.action_max <= 2.0 and away.observations == 2000
        trained = TrainedRun.open(students / noise)
        observation, latent = np.ones((1, 5), np.float32), np.full((1, 1), 0.5 if noise == "seeded" else 0.0, np.float32)
        reference = Reference(trained.agent.policy, trained.agent.actor_norm, None)
        expected = reference.act(torch.from_numpy(observation), torch.from_numpy(latent))
        with OnnxEngine(bundle.read(student.graph.file)) as engine:
            found = engine.infer(observation, latent if engine.takes_latent else None)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
        golden = GoldenCases.of_student(bundle.read(STUDENT_GOLDEN), contract)
        latents = (
            torch.zeros(len(golden.observation), 1) if golden.latent is None else torch.from_numpy(golden.latent.copy())
        )
        double = reference.act(torch.from_numpy(golden.observation.copy()).double(), latents.double())
        np.testing.assert_array_equal(golden.action_float64, double.numpy())
        assert (golden.latent is not None) == (noise == "seeded") and len(golden.observation) > 1024
    assert main(["verify", str(out), "--run", str(run), "--episodes", "2"]) == 0
    verdicts = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("  ok")]
    assert verdicts == ["onnx", "student", "return"]
    assert main(["inspect", str(out)]) == 0
    assert "student's actions from the teacher's" in capsys.readouterr().out


def test_divergence_by_hand(run):
    """A student that is the teacher with all its output moved by 0.25 before tanh, at two observations."""
    trained, moved = TrainedRun.open(run), TrainedRun.open(run)
    teacher = Reference(trained.agent.policy, trained.agent.actor_norm, 1)
    student = Reference(moved.agent.policy, moved.agent.actor_norm, 1)
    eta = float(moved.agent.policy.ode_grid(1)[1].detach())
    with torch.no_grad():
        moved.agent.policy.score.out.bias.add_(0.25 / eta)
    seen = np.array([[0.0] * 5, [1.0] * 5], np.float32)
    recording = Recording(EvalResult(torch.zeros(1), torch.zeros(1)), seen)
    sampler = Sampler(network="teacher", steps=1, ode=True, noise="zero", latent_std=2.5)
    found = divergence(teacher, student, sampler, recording)
    before = np.arctanh(teacher.act(torch.from_numpy(seen), torch.zeros(2, 1)).numpy().astype(np.float64))
    expected = np.abs(np.tanh(before + 0.25) - np.tanh(before))
    assert found.action_rms == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-4)
    assert found.action_max == pytest.approx(expected.max(), rel=1e-4)
    assert found.observations == 2


def test_what_does_not_belong_together_is_refused(run, students, tmp_path, capsys):
    out = ("--out", tmp_path / "x")
    zero = students / "zero"
    assert "is no student's run: make one with `trudi distill" in refused(capsys, run, *out, "--student", run)
    assert "is a student itself" in refused(capsys, zero, *out, "--student", zero)
    assert "distilled from the zero latent, --noise is fixed" in refused(
        capsys, run, *out, "--student", zero, "--noise", "fixed"
    )
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    assert main(["train", "--resume", str(other), "--max-iterations", "3"]) == 0
    assert "distilled from another policy (iteration 2)" in refused(capsys, other, *out, "--student", zero)
    changed = tmp_path / "changed"
    shutil.copytree(zero, changed, symlinks=True)
    config = changed / "config.yaml"
    config.write_text(config.read_text().replace("CartpoleSwingup-v1", "CartpoleBalance-v1"))
    assert "is a student of envpool:CartpoleBalance-v1" in refused(capsys, run, *out, "--student", changed)
    assert not (tmp_path / "x").exists()


def test_the_summary_for_machines_is_the_teachers(run, students, tmp_path):
    report = tmp_path / "export.json"
    argv = ["export", run, "--out", tmp_path / "b.zip", "--episodes", "1", "--student", students / "zero", "--json", report]
    assert main([str(one) for one in argv]) == 0
    assert json.loads(report.read_text())["evaluation"]["sampler"] == "ode_8_steps_zero_noise"
