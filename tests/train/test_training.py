"""Real, short trainings on the real simulator."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from support import run_in as run
from support import tensors, without_clock

from trudi import cli
from trudi.train import checkpoint
from trudi.train.agent import DualsCfg
from trudi.train.config import TrainCfg, load_config
from trudi.train.critic import CriticCfg
from trudi.train.envs.base import SimCfg
from trudi.train.envs.registry import make_env
from trudi.train.errors import TrainError
from trudi.train.evaluation import EvalCfg
from trudi.train.loop import Learner, simulator_seed
from trudi.train.policy import PolicyCfg
from trudi.train.runfolder import METRICS, MetricsLog, RunFolder, read_metrics
from trudi.train.update import UpdateCfg

pytestmark = pytest.mark.usefixtures("short_episodes")

GO1 = "envpool:MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
TINY = TrainCfg(
    task="envpool:CartpoleSwingup-v1",
    num_envs=2,
    rollout_steps=64,
    max_iterations=6,
    save_every=2,
    keep_checkpoints=10,
    threads=1,
    policy=PolicyCfg(width=16, steps=4),
    critic=CriticCfg(width=16, bins=51),
    update=UpdateCfg(epochs=2, minibatch_size=32),
    evaluation=EvalCfg(every=3, episodes=1),
)


@pytest.mark.parametrize("cut_at", ["2", "4"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, cut_at):
    """Every tensor of the final checkpoint and every metric: networks, Adam, normalisers, duals, random numbers."""
    run(tmp_path / "whole", TINY)
    run(tmp_path / "cut", replace(TINY, max_iterations=6))
    folder = RunFolder.open(tmp_path / "cut")
    run(tmp_path / "cut", TINY, resume=folder.load_checkpoint(cut_at))
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert without_clock(tmp_path / "whole") == without_clock(tmp_path / "cut")
    superseded = folder.path / "metrics.superseded.jsonl"
    assert len(superseded.read_text().splitlines()) == 6 - int(cut_at)


def test_training_overrides_are_for_training_alone(tmp_path):
    """In training every tilt costs; the evaluation is of the task as it is, whose rewards are clipped at 0."""
    harder = SimCfg(training_overrides=("clip_reward=false", "orientation_scale=-500"))
    go1 = replace(TINY, task=GO1, max_iterations=1, rollout_steps=16, sim=harder)
    learner = Learner(go1)
    assert learner.iterate()["rollout/reward_mean"] < -0.1
    assert learner.evaluate().mean >= 0.0
    learner.close()


def test_what_is_easier_to_begin_with_moves_to_what_counts(tmp_path):
    """A tilt costs 500 at first, 250 from the first checkpoint on, and nothing from the second, half of the run."""
    sim = SimCfg(
        training_overrides=("clip_reward=false", "orientation_scale=-500"),
        final_overrides=("orientation_scale=0",),
        final_span=(0.0, 0.5),
    )
    go1 = replace(TINY, task=GO1, max_iterations=8, save_every=2, rollout_steps=16, sim=sim)
    run(tmp_path / "whole", go1)
    rewards = [row["rollout/reward_mean"] for row in read_metrics(tmp_path / "whole" / METRICS)]
    assert min(rewards[4:]) > -0.2 > max(rewards[:4]), rewards  # the other terms cost 0.1
    whole = tensors(tmp_path / "whole")
    run(tmp_path / "whole", go1, resume=RunFolder.open(tmp_path / "whole").load_checkpoint("2"))
    assert all(torch.equal(whole[key], value) for key, value in tensors(tmp_path / "whole").items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"final_overrides": ("orientation_scale=-5",)},
            "orientation_scale needs a number here and in sim.training_overrides",
        ),
        ({"training_overrides": ("x=-5",), "final_overrides": ("x=false",)}, "x needs a number here"),
        ({"final_span": (0.5, 0.5)}, "final_span is 0.5 to 0.5"),
        ({"final_span": (-0.1, 0.5)}, "final_span is -0.1 to 0.5"),
    ],
)
def test_overrides_that_cannot_move_are_named(settings, says):
    with pytest.raises(TrainError, match=says):
        SimCfg(**settings)


def test_overrides_move_evenly_over_their_span():
    cfg = SimCfg(
        overrides=("a=1",),
        training_overrides=("b=1", "c=true", "d=0"),
        final_overrides=("d=0.0001", "b=3"),
        final_span=(0.2, 0.6),
    )
    for progress, b, d in ((0.0, 1.0, 0.0), (0.2, 1.0, 0.0), (0.3, 1.5, 2.5e-5), (0.6, 3.0, 1e-4), (1.0, 3.0, 1e-4)):
        first, *moved = cfg.for_training(progress).overrides
        values = dict(one.split("=") for one in moved)
        assert first == "a=1" and values["c"] == "true"
        assert (float(values["b"]), float(values["d"])) == pytest.approx((b, d))


def test_a_simulator_that_keeps_its_settings_refuses_to_move_them():
    sim = SimCfg(training_overrides=("x=1",), final_overrides=("x=2",))
    with pytest.raises(TrainError, match=r"--sim\.final-overrides would never come"):
        Learner(TrainCfg(task="mjlab:Mjlab-Cartpole-Balance", sim=sim))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, replace(TINY, seed=seed, max_iterations=2))
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["agent.policy.score.input.weight"], c["agent.policy.score.input.weight"])


def test_evaluating_more_often_does_not_change_the_training(tmp_path):
    run(tmp_path / "often", replace(TINY, evaluation=EvalCfg(every=1, episodes=2)))
    run(tmp_path / "never", replace(TINY, evaluation=EvalCfg(every=0, episodes=1)))
    often, never = tensors(tmp_path / "often"), tensors(tmp_path / "never")
    assert all(torch.equal(often[key], never[key]) for key in often)


def test_the_run_folder_says_everything(tmp_path):
    run(tmp_path / "r", TINY)
    assert load_config(tmp_path / "r" / "config.yaml", None) == TINY
    about = json.loads((tmp_path / "r" / "run.json").read_text())
    assert about["packages"]["torch"] and about["python"]
    assert list((tmp_path / "r").glob("events.*"))
    rows = read_metrics(tmp_path / "r" / METRICS)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["time/env_steps"] == 128
    assert {row["actor/entropy_target"] for row in rows} == {-4.0}  # per action, of one
    assert [row["iteration"] for row in rows if "eval/return_mean" in row] == [3, 6]
    best = RunFolder.open(tmp_path / "r").load_checkpoint("best").counters
    assert best.best_return == max(row.get("eval/return_mean", -1.0) for row in rows)


def test_the_entropy_target_moves_evenly_over_the_run(tmp_path):
    run(tmp_path / "r", replace(TINY, duals=DualsCfg(entropy_per_action=-1.0, entropy_change=-3.0)))
    targets = [row["actor/entropy_target"] for row in read_metrics(tmp_path / "r" / METRICS)]
    assert targets == pytest.approx([-1.0, -1.5, -2.0, -2.5, -3.0, -3.5])  # per action, of one; -4 is the end


def test_processor_time_goes_on_in_a_resumed_run(tmp_path):
    run(tmp_path / "r", TINY)
    folder = RunFolder.open(tmp_path / "r")
    before = folder.load_checkpoint("4")
    spent = [row["time/cpu_s"] for row in read_metrics(tmp_path / "r" / METRICS)]
    assert spent[0] > 0.0 and spent == sorted(spent)
    assert before.counters.cpu_s == spent[3]
    run(tmp_path / "r", TINY, resume=before)
    assert read_metrics(tmp_path / "r" / METRICS)[4]["time/cpu_s"] > spent[3]


def test_a_metrics_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"iteration": 1}\n{"iterat')
    assert read_metrics(path) == [{"iteration": 1}]


def test_a_non_finite_value_goes_back_and_on(tmp_path):
    """A reward of NaN, once: the state before that iteration comes back and the run ends well."""
    poisoned = []

    def poison(learner):
        collect = learner.collector.collect

        def once(steps):
            rollout = collect(steps)
            if learner.counters.iteration == 2 and not poisoned:
                poisoned.append(True)
                rollout.reward[0, 0] = float("nan")
            return rollout

        learner.collector.collect = once

    learner = run(tmp_path / "r", replace(TINY, save_every=100), before=poison)
    assert poisoned
    assert learner.counters.iteration == 6
    assert all(bool(torch.isfinite(value).all()) for value in tensors(tmp_path / "r").values() if value.is_floating_point())


def test_values_that_stay_non_finite_end_the_run_by_name(tmp_path):
    def poison(learner):
        with torch.no_grad():
            learner.agent.critic.prior[0] = float("nan")

    with pytest.raises(TrainError, match=r"return target is not finite in iteration 1, after 3 retries"):
        run(tmp_path / "r", TINY, before=poison)


def test_broken_parameters_are_restored_and_named(tmp_path, capsys):
    """An actor that breaks inside an update: its parameters come back to what they were."""
    learner = Learner(TINY)
    before = learner.agent.policy.score.input.weight.detach().clone()
    learner.optimizers.actor.param_groups[0]["base_lr"] = 1e38
    folder = RunFolder.create(tmp_path / "r", TINY)
    log = MetricsLog(folder)
    with pytest.raises(TrainError, match=r"(actor|parameter).* is not finite in .*iteration 1"):
        learner.train(folder.checkpoints, log, lambda progress: None)
    log.close()
    learner.close()
    assert torch.equal(learner.agent.policy.score.input.weight, before)


def test_simulator_seeds_are_apart():
    seeds = {
        simulator_seed(seed, iteration, attempt) for seed in range(20) for iteration in range(50) for attempt in range(3)
    }
    assert len(seeds) == 3000
    assert max(seeds) + 100_000 < 2**31


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_exit_cleanly(tmp_path, number):
    """The real command: stopped in the middle, it says how to go on, and goes on."""
    out = tmp_path / "run"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    small = ["--num-envs", "2", "--rollout-steps", "64", "--policy.width", "16", "--critic.width", "16", "--threads", "1"]
    small += ["--evaluation.every", "0", "--evaluation.episodes", "1"]
    start = [sys.executable, "-m", "trudi.cli", "train", TINY.task, "--out", str(out), "--max-iterations", "100000", *small]
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    metrics = out / METRICS
    deadline = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert f"trudi train --resume {out}" in stdout
    reached = checkpoint.load(out / "checkpoints" / "last").counters.iteration
    assert reached == read_metrics(metrics)[-1]["iteration"] >= 3
    assert cli.main(["train", "--resume", str(out), "--max-iterations", str(reached + 1)]) == 0
    assert checkpoint.load(out / "checkpoints" / "last").counters.iteration == reached + 1


def test_eval_env_is_fresh_every_time():
    env = make_env(TINY.task, 2, 5, device=torch.device("cpu"), stagger=False)
    again = make_env(TINY.task, 2, 5, device=torch.device("cpu"), stagger=False)
    assert torch.equal(env.reset().actor, again.reset().actor)
    env.close()
    again.close()
