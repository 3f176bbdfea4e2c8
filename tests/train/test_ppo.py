"""PPO as rsl_rl has it, in this package's runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from chase import Chase
from support import run_in, tensors, without_clock

from trudi import cli
from trudi.train.config import TrainCfg, load_config
from trudi.train.envs.base import EpisodeStats, Observation, Stateless, StepResult
from trudi.train.errors import TrainError
from trudi.train.evaluation import EvalCfg
from trudi.train.ppo.agent import grouped
from trudi.train.ppo.loop import PpoLearner
from trudi.train.ppo.settings import PpoCfg
from trudi.train.results import result_of
from trudi.train.runfolder import METRICS, RunFolder, read_metrics

pytestmark = pytest.mark.usefixtures("short_episodes")

TINY = TrainCfg(
    task="envpool:CartpoleSwingup-v1",
    algo="ppo",
    num_envs=2,
    rollout_steps=64,
    max_iterations=6,
    save_every=2,
    keep_checkpoints=10,
    ppo=PpoCfg(hidden=(16,), rollout_steps=32, epochs=2, mini_batches=4, schedule="adaptive"),
    evaluation=EvalCfg(every=3, episodes=2),
)


class OnEnv(PpoLearner):
    """Trains on a simulator that the test made."""

    def __init__(self, cfg, env):
        self.given = env
        super().__init__(cfg)

    def _simulator(self):
        return self.given


class Scripted(Stateless):
    """Three environments that see 1, 2 and 3 and are rewarded by 1; after the first step 0 is cut at 4 and 1 ends at 4."""

    task, num_envs, action_size, actor_size, critic_size = "test:scripted", 3, 2, 1, 1
    device = torch.device("cpu")

    def __init__(self, blind=False):
        self.blind, self.clock, self.actions = blind, 0, []

    def seen(self):
        x = torch.full((3, 1), 1.0 + self.clock)
        return Observation(x, x)

    def reset(self):
        return self.seen()

    def step(self, action):
        self.actions.append(action)
        self.clock += 1
        is_first = self.clock == 1
        terminal = Observation(torch.full((2, 1), 4.0), torch.full((2, 1), 4.0)) if is_first and not self.blind else None
        terminated, truncated = torch.tensor([False, is_first, False]), torch.tensor([is_first, False, False])
        none = EpisodeStats(torch.empty(0), torch.empty(0))
        return StepResult(self.seen(), torch.ones(3), terminated, truncated, terminal, none)

    def close(self):
        pass


run = partial(run_in, kind=PpoLearner)


@pytest.mark.parametrize("blind", [False, True], ids=["terminal-observation", "none"])
def test_returns_by_hand(blind):
    """V(x) = 2 x + 1, so it is 3, 5, 7 along the way and 9 at the cut; gamma = lam = 1/2."""
    cfg = replace(TINY, num_envs=3, rollout_steps=2, gamma=0.5, lam=0.5)
    cfg = replace(cfg, ppo=PpoCfg(hidden=(1,), activation="relu", normalize=False, mini_batches=1))
    learner = OnEnv(cfg, Scripted(blind))
    first, last = learner.agent.critic.mlp[0], learner.agent.critic.mlp[2]
    with torch.no_grad():
        for layer, weight, bias in ((first, 1.0, 0.0), (last, 2.0, 1.0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    reward, _ = learner.collect()
    with torch.no_grad():
        learner.algorithm.compute_returns(grouped(learner.observation))
    # The last step: 1 + 7/2. The first, where it goes on: 3 + (1 + 5/2 - 3) + (1 + 7/2 - 5) / 4; where it ends, 1; where it
    # is cut, 1 + 9/2, or 1 + 3/2 by the value of what was seen before, where nobody knows what was seen there.
    cut = 2.5 if blind else 5.5
    assert learner.algorithm.storage.returns[..., 0].tolist() == [[cut, 1.0, 3.375], [4.5, 4.5, 4.5]]
    assert reward.tolist() == [[1.0] * 3] * 2  # what is reported is the simulator's own


def test_actions_are_clipped_at_the_simulator_and_stored_as_drawn():
    learner = OnEnv(replace(TINY, num_envs=3, ppo=PpoCfg(hidden=(4,), init_std=3.0)), Scripted())
    learner.collect()
    sent, stored = torch.stack(learner.env.actions), learner.algorithm.storage.actions
    assert float(sent.abs().max()) == 1.0 < float(stored.abs().max())
    assert torch.equal(sent, stored.clamp(-1.0, 1.0))


def test_the_best_action_is_found():
    cfg = replace(TINY, num_envs=64, rollout_steps=16, gamma=0.9, ppo=PpoCfg(hidden=(32,), mini_batches=8, init_std=0.5))
    learner = OnEnv(cfg, Chase())
    for _ in range(60):
        metrics = learner.iterate()
    x = torch.linspace(-0.1, 0.4, 26)[:, None]
    act = learner.agent.make_act("ode", torch.Generator())
    with torch.no_grad():
        error = (act(Observation(x, x)) - (0.4 - 2 * x)).abs().max()
    assert float(error) < 0.2
    assert metrics["rollout/reward_mean"] > -0.35


def test_an_iteration_is_several_rounds():
    """Two rounds of 32 steps, each with two passes of four minibatches: 16 steps of Adam, and 64 steps of the simulator."""
    learner = PpoLearner(TINY)
    metrics = learner.iterate()
    learner.close()
    moments = learner.algorithm.optimizer.state_dict()["state"]
    assert {int(one["step"]) for one in moments.values()} == {16}
    assert int(learner.agent.actor.obs_normalizer.count) == 2 * 64
    assert metrics["actor/kl_max"] > metrics["actor/kl"] > 0.0


def test_the_step_size_falls_to_zero_over_the_run(tmp_path):
    """A linear schedule: 1, 3/4, 2/4 and 1/4 of the start; resumed in the middle it goes on there."""
    cfg = replace(TINY, max_iterations=4, ppo=replace(TINY.ppo, schedule="linear", learning_rate=0.008))
    run(tmp_path / "r", cfg)
    folder = RunFolder.open(tmp_path / "r")
    learner = run(tmp_path / "r", cfg, resume=folder.load_checkpoint("2"))
    assert [row["ppo/learning_rate"] for row in read_metrics(tmp_path / "r" / METRICS)] == [0.008, 0.006, 0.004, 0.002]
    assert learner.algorithm.optimizer.param_groups[0]["lr"] == 0.002


def test_mean_actions_start_near_zero_and_spread_as_told():
    learner = OnEnv(replace(TINY, num_envs=3, ppo=PpoCfg(init_std=0.7)), Scripted())
    x = torch.linspace(-3.0, 3.0, 50)[:, None]
    actor = learner.agent.actor
    actor(grouped(Observation(x, x)), stochastic_output=True)
    assert float(actor.output_mean.detach().abs().max()) < 0.05
    assert actor.output_std[0].tolist() == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize("cut_at", ["2", "4"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, cut_at):
    """Every tensor of the final checkpoint and every metric: networks, statistics, Adam with its rate, random numbers."""
    run(tmp_path / "whole", TINY)
    run(tmp_path / "cut", TINY)
    folder = RunFolder.open(tmp_path / "cut")
    run(tmp_path / "cut", TINY, resume=folder.load_checkpoint(cut_at))
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert float(whole["learning_rate"]) != TINY.ppo.learning_rate  # it had moved
    assert without_clock(tmp_path / "whole") == without_clock(tmp_path / "cut")


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))  # whatever the process's own generator is at
        outside = torch.get_rng_state()
        run(tmp_path / name, replace(TINY, seed=seed, max_iterations=2))
        assert torch.equal(torch.get_rng_state(), outside)
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["agent.actor.mlp.0.weight"], c["agent.actor.mlp.0.weight"])


def test_evaluating_more_often_does_not_change_the_training(tmp_path):
    run(tmp_path / "often", replace(TINY, evaluation=EvalCfg(every=1, episodes=2, sampler="sde")))
    run(tmp_path / "never", replace(TINY, evaluation=EvalCfg(every=0, episodes=1)))
    often, never = tensors(tmp_path / "often"), tensors(tmp_path / "never")
    assert all(torch.equal(often[key], never[key]) for key in often)


def test_a_non_finite_value_goes_back_and_on(tmp_path):
    """A reward of NaN, once: the state before that iteration comes back and the run ends well."""
    poisoned = []

    def poison(learner):
        collect = learner.collect

        def once():
            reward, episodes = collect()
            if learner.counters.iteration == 2 and not poisoned:
                poisoned.append(True)
                learner.algorithm.storage.rewards[0, 0] = float("nan")
            return reward, episodes

        learner.collect = once

    learner = run(tmp_path / "r", replace(TINY, save_every=100), before=poison)
    assert poisoned
    assert learner.counters.iteration == 6
    assert all(bool(torch.isfinite(value).all()) for value in tensors(tmp_path / "r").values() if value.is_floating_point())


def test_values_that_stay_non_finite_end_the_run_by_name(tmp_path):
    def poison(learner):
        with torch.no_grad():
            learner.agent.critic.mlp[0].bias[0] = float("nan")

    match = r"return target is not finite in iteration 1, after 3 retries .* Lower ppo.learning_rate"
    with pytest.raises(TrainError, match=match):
        run(tmp_path / "r", TINY, before=poison)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training by the command."""
    out = tmp_path_factory.mktemp("ppo") / "run"
    argv = ["train", "envpool:CartpoleSwingup-v1", "--algo", "ppo", "--num-envs", "4", "--rollout-steps", "64"]
    argv += ["--ppo.hidden", "16", "8", "--max-iterations", "2", "--evaluation.episodes", "2", "--out", str(out)]
    assert cli.main(argv) == 0
    return out


def test_a_run_says_what_any_other_says(trained):
    assert load_config(trained / "config.yaml", None).ppo.hidden == (16, 8)
    assert json.loads((trained / "run.json").read_text())["packages"]["rsl-rl-lib"]
    assert list(trained.glob("events.*")) and (trained / "checkpoints" / "best" / "state.safetensors").is_file()
    rows = read_metrics(trained / METRICS)
    assert [row["time/env_steps"] for row in rows] == [256, 512]
    common = {
        "time/elapsed_s",
        "time/cpu_s",
        "time/steps_per_s",
        "time/collect_s",
        "rollout/reward_mean",
        "rollout/return_mean",
    }
    assert common | {"eval/return_mean", "eval/return_std", "actor/kl", "actor/entropy", "critic/loss"} <= rows[-1].keys()
    result = result_of(RunFolder.open(trained), name="r")
    assert (result.algo, result.variant, result.bound) == ("ppo", "ppo", None)
    assert result.curve["return_mean"] and "actor/kl" in result.diagnostics


def test_a_run_is_evaluated_by_its_mean_action_or_a_sample(trained, tmp_path, capsys):
    returns = {}
    for name in ("ode", "zero", "sde", "sde again"):
        path = tmp_path / f"{name}.json"
        assert cli.main(["eval", str(trained), "--sampler", name.split()[0], "--episodes", "2", "--json", str(path)]) == 0
        returns[name] = json.loads(path.read_text())["returns"]
    assert returns["ode"] == returns["zero"] != returns["sde"] == returns["sde again"]
    assert sum(returns["ode"]) / 2 == pytest.approx(read_metrics(trained / METRICS)[-1]["eval/return_mean"])
    capsys.readouterr()
    assert cli.main(["eval", str(trained), "--sampler", "best"]) == 2
    assert "the sampler best needs a critic of actions" in capsys.readouterr().err


def test_a_run_goes_on(trained, capsys):
    assert cli.main(["train", "--resume", str(trained), "--max-iterations", "3"]) == 0
    assert RunFolder.open(trained).load_checkpoint().counters.iteration == 3
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(trained), "--ppo.clip", "0.1"]) == 2
    assert "a resumed run keeps its ppo.clip (0.2, not 0.1)" in capsys.readouterr().err


def test_what_it_cannot_do_is_said(trained, tmp_path, capsys):
    assert cli.main(["distill", str(trained), "--out", str(tmp_path / "student")]) == 2
    assert "is a run of --algo ppo, whose policy has one step: nothing to distill" in capsys.readouterr().err
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "bundle")]) == 2
    assert "is a run of --algo ppo: its Gaussian policy has no denoising steps to export" in capsys.readouterr().err
    assert cli.main(["train", TINY.task, "--algo", "ppo", "--distributed"]) == 2
    assert "--algo ppo trains in one process" in capsys.readouterr().err
    assert cli.main(["train", TINY.task, "--algo", "ppo", "--evaluation.sampler", "best"]) == 2
    assert "has no value of actions" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_rsl_rl_it_says_how_to_install_it():
    code = "import sys; sys.modules['rsl_rl'] = None; from trudi import cli; sys.exit(cli.main(sys.argv[1:]))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", code, "train", TINY.task, "--algo", "ppo"]
    ended = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and "pip install 'trudi[ppo]'" in ended.stderr


def test_other_algorithms_do_without_rsl_rl():
    code = "import sys; import trudi.train.commands.train, trudi.train.commands.evaluate; assert 'rsl_rl' not in sys.modules"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=env, timeout=60, check=True)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"hidden": ()}, "ppo.hidden is \\[\\]"),
        ({"epochs": 0}, "ppo.epochs is 0"),
        ({"clip": 0.0}, "ppo.clip is 0.0; it must be positive"),
        ({"entropy_coef": -0.1}, "ppo.entropy_coef is -0.1"),
        ({"mini_batches": 65}, "ppo.mini_batches is 65, more than the 64 samples of an update"),
        ({"rollout_steps": 48}, "rollout_steps is 64, not a multiple of ppo.rollout_steps, 48"),
    ],
)
def test_settings_are_checked(values, match):
    with pytest.raises(TrainError, match=match):
        replace(TINY, ppo=replace(TINY.ppo, **values))
