"""Training that starts as a clone of a given policy."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from chase import Chase
from onnx import TensorProto, helper, numpy_helper
from support import run_in

from trudi import cli
from trudi.train.checkpoint import LAST
from trudi.train.config import TrainCfg, load_config
from trudi.train.critic import CriticCfg
from trudi.train.envs.base import TaskInfo
from trudi.train.errors import TrainError
from trudi.train.evaluation import EvalCfg
from trudi.train.init.clone import Fitted
from trudi.train.init.given import LEAST_STD, open_given
from trudi.train.init.loop import WarmStart
from trudi.train.init.settings import InitCfg
from trudi.train.loop import Learner, make_agent
from trudi.train.policy import PolicyCfg
from trudi.train.ppo.loop import PpoLearner
from trudi.train.runfolder import METRICS, RunFolder, read_metrics
from trudi.train.update import UpdateCfg

pytestmark = pytest.mark.usefixtures("short_episodes")

SMALL = TrainCfg(
    task="envpool:CartpoleBalance-v1",
    num_envs=8,
    rollout_steps=32,
    max_iterations=4,
    save_every=2,
    keep_checkpoints=10,
    policy=PolicyCfg(width=16, steps=4),
    critic=CriticCfg(width=16, bins=51),
    update=UpdateCfg(epochs=1, minibatch_size=64),
    evaluation=EvalCfg(every=0, episodes=2),
    init=InitCfg(iterations=3, updates=20, critic_iterations=2),
)
FULL = replace(
    SMALL,
    num_envs=64,
    rollout_steps=16,
    policy=PolicyCfg(width=32),
    update=UpdateCfg(epochs=2, minibatch_size=256),
    init=InitCfg(iterations=8, updates=60),
)
"""Enough to be a good clone."""


def linear(path, weight, bias, *, batch="N", inputs=("obs",), metadata=None):
    """An ONNX file as rsl_rl writes it: actions = obs @ weight + bias."""
    weight, bias = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", [inputs[0], "weight", "bias"], ["actions"])],
        "policy",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, weight.shape[0]]) for name in inputs],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, [batch, weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return str(path)


def best(path):
    """The best policy of `Chase`."""
    return linear(path, [[-2.0]], [0.4])


def balancing(path):
    """Pushes the cart under the pole: the sine of its angle is the third observation, its rate the fifth."""
    return linear(path, [[0.0], [0.0], [2.0], [0.0], [0.3]], [0.0])


def from_policy(cfg, policy, **changes):
    return replace(cfg, init=replace(cfg.init, policy=policy, **changes))


class OnChase:
    """On the simulator whose best action is 0.4 - 2 x, whatever task the configuration names."""

    def _simulator(self):
        return Chase(self.cfg.num_envs)

    def evaluate(self, measure=None):
        return (measure or self.measure)(Chase(self.cfg.num_envs))


class Warm(OnChase, WarmStart):
    pass


class Plain(OnChase, Learner):
    pass


class Ppo(OnChase, PpoLearner):
    pass


def run(path, cfg, resume=None, kind=Warm):
    run_in(path, cfg, resume, kind=kind)
    return RunFolder.open(path)


def tensors(folder, which=LAST):
    return dict(folder.load_checkpoint(which).tensors)


@pytest.mark.parametrize("algo", ["trudi", "reppo"])
def test_a_clone_acts_like_the_given_policy_and_explores_as_asked(tmp_path, algo):
    policy = best(tmp_path / "best.onnx")
    learner = Warm(replace(from_policy(FULL, policy, std=0.3), algo=algo))
    start = learner.start(learner.given)
    assert start.closeness.action_gap < 0.06
    assert start.closeness.std == pytest.approx(0.3)
    assert start.closeness.spread == pytest.approx(0.3, rel=0.25)
    assert start.given.mean == pytest.approx(0.0, abs=1e-3)  # the best policy: x' is 0 after a step
    assert start.clone.mean > -0.1
    assert start.env_steps == 64 * 16 * (8 + 1)
    # Fresh states by hand, those of the simulator's starts: the same answer as the closeness said.
    x = torch.linspace(-0.3, 0.5, 101)[:, None]
    agent = learner.agent
    action = agent.policy.sample_ode(agent.actor_norm(x), torch.zeros(101, 1))[0].detach()
    assert float((action - (0.4 - 2.0 * x).clamp(-1, 1)).abs().mean()) < 0.06


def test_the_statistics_are_those_of_the_states_visited(tmp_path):
    learner = Warm(from_policy(FULL, best(tmp_path / "best.onnx"), iterations=2, updates=1))
    visited = []
    visit = learner.visitor.visit
    learner.visitor.visit = lambda steps, share: visited.append((share, visit(steps, share))) or visited[-1][1]
    learner.start(learner.given)
    seen = torch.cat([part.raw.actor for _, part in visited[:2]]).double()
    assert [share for share, _ in visited] == [1.0, 0.0, 0.0]
    assert float(learner.agent.actor_norm.count) == len(seen) == 2 * 64 * 16
    assert learner.agent.actor_norm.mean == pytest.approx(seen.mean(0))
    assert learner.agent.actor_norm.variance == pytest.approx(seen.var(0, unbiased=False))


def test_the_given_policy_drives_with_its_noise(tmp_path):
    """After a step from x by tanh(m + 0.5 eps), x' tells the action: m is 0 here, so atanh of it has a deviation of 0.5."""
    learner = Warm(from_policy(FULL, linear(tmp_path / "zero.onnx", [[0.0]], [0.0]), std=0.5))
    part = learner.visitor.visit(3, 1.0)
    x = part.raw.actor.view(3, 64)
    action = (2.0 * (x[1:] - x[:-1] + 0.2)).flatten()
    action = action[(learner.env.steps.repeat(2) >= 0) & (action.abs() < 1.0)]  # starts of new episodes give others
    assert float(torch.atanh(action).abs().median()) == pytest.approx(0.6745 * 0.5, rel=0.25)


def test_the_fit_holds_the_samples_as_far_from_the_mean_as_asked():
    """log_prob without tanh's part is that of x_N: for a Gaussian policy the exact log-density, here by hand."""
    agent = make_agent(replace(SMALL, algo="reppo"), Chase())
    observation, noise = torch.zeros(2, 1), agent.policy.draw_noise(2, torch.Generator().manual_seed(0))
    fitted = Fitted.sample(agent.policy, observation, torch.full((2, 1), 0.5), torch.full((2, 1), 2.0), noise)
    mean, std = agent.policy.gaussian(observation)
    last = mean + std * noise.steps[0]
    assert torch.allclose(fitted.log_prob, torch.distributions.Normal(mean, std).log_prob(last).sum(-1), atol=1e-5)
    assert torch.allclose(fitted.distance, (last - 0.5).square() / 4.0)


def test_the_critic_learns_alone_at_first(tmp_path):
    """Policy, statistics and duals stay to the last bit for two iterations; then all of them move."""
    cfg = replace(from_policy(SMALL, best(tmp_path / "p.onnx")), save_every=1)
    folder = run(tmp_path / "r", cfg)
    start, before, after = (tensors(folder, which) for which in ("0", "2", "3"))
    held = [key for key in start if key.startswith(("agent.policy", "agent.old_policy", "agent.duals", "agent.actor_norm"))]
    assert len(held) > 20 and all(torch.equal(start[key], before[key]) for key in held)
    assert not any(key.startswith("optim.actor") for key in before)
    for key in ("agent.policy.score.input.weight", "agent.duals.log_alpha", "agent.actor_norm.mean"):
        assert not torch.equal(before[key], after[key])
    assert not torch.equal(start["agent.critic.prior"], before["agent.critic.prior"])
    rows = read_metrics(folder.path / METRICS)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["actor/kl"] for row in rows[1:3]] == [0.0, 0.0] and rows[3]["actor/kl"] > 0.0
    assert rows[0]["time/env_steps"] == 8 * 32 * (3 + 1) and rows[4]["time/env_steps"] == 8 * 32 * (3 + 1 + 4)
    assert {"init/action_gap", "init/given_return", "eval/return_mean"} <= set(rows[0])


@pytest.mark.parametrize("cut_at,kind,make", [("0", Warm, best), ("2", WarmStart, balancing)])
def test_resumed_equals_uninterrupted_without_the_given_policy(tmp_path, cut_at, kind, make):
    policy = tmp_path / "p.onnx"
    cfg = replace(from_policy(SMALL, make(policy)), max_iterations=3)
    whole = run(tmp_path / "whole", cfg, kind=kind)
    cut = run(tmp_path / "cut", cfg, kind=kind)
    policy.unlink()
    run(tmp_path / "cut", cfg, cut.load_checkpoint(cut_at), kind)
    one, other = tensors(whole), tensors(cut)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_another_seed_gives_another_clone(tmp_path):
    cfg = replace(from_policy(SMALL, best(tmp_path / "p.onnx")), max_iterations=1)
    a, b = (tensors(run(tmp_path / str(seed), replace(cfg, seed=seed)), "0") for seed in (0, 1))
    assert not torch.equal(a["agent.policy.score.input.weight"], b["agent.policy.score.input.weight"])


def test_a_run_ended_while_it_cloned_starts_over(tmp_path, capsys):
    out, policy = tmp_path / "r", tmp_path / "p.onnx"
    cfg = replace(from_policy(SMALL, balancing(policy)), max_iterations=1)
    RunFolder.create(out, cfg)  # all that there is before the first checkpoint
    assert cli.main(["train", "--resume", str(out)]) == 0, capsys.readouterr().err
    assert RunFolder.open(out).load_checkpoint().counters.iteration == 1
    assert json.loads((out / "init.json").read_text())["kind"] == "onnx"


def test_the_command_says_what_it_started_from(tmp_path, capsys):
    policy, out = balancing(tmp_path / "p.onnx"), tmp_path / "r"
    options = "--num-envs 8 --rollout-steps 32 --max-iterations 1 --policy.width 16 --critic.width 16 --init.iterations 2"
    options += " --init.updates 5 --evaluation.episodes 2 --update.minibatch-size 64 --init.std 0.2"
    code = cli.main(["train", SMALL.task, "--init-from", policy, *options.split(), "--out", str(out)])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "actions differ by" in told.out and "0.20 asked" in told.out and "return of the given policy" in told.out
    assert "warning: the clone keeps less than 90% of the return" in told.out  # after ten gradient steps
    source = json.loads((out / "init.json").read_text())
    assert source["policy"] == policy and source["kind"] == "onnx" and len(source["sha256"]) == 64
    cfg = load_config(out / "config.yaml", None)
    assert cfg.init.policy == policy and cfg.init.std == 0.2


def test_runs_of_every_algorithm_can_be_cloned(tmp_path):
    """A run of PPO gives its own deviation, one of REPPO the one of each state; all give their action without noise."""
    ppo = run(tmp_path / "ppo", replace(SMALL, algo="ppo", max_iterations=1), kind=lambda cfg, _: Ppo(cfg))
    reppo = run(tmp_path / "reppo", replace(SMALL, algo="reppo", max_iterations=1), kind=Plain)
    trudi = run(tmp_path / "trudi", replace(SMALL, max_iterations=1), kind=Plain)
    seen = torch.randn(7, 1, generator=torch.Generator().manual_seed(0))
    for folder in (ppo, reppo, trudi):
        learner = Warm(from_policy(replace(SMALL, policy=PolicyCfg(width=24)), str(folder.path)))
        learner.close()
        given = learner.given
        assert given.source.kind == folder.config().algo
        with torch.no_grad():
            action, mean, std = given.gaussian(seen)
        assert action.shape == mean.shape == std.shape == (7, 1)
        if folder is ppo:
            agent = tensors(ppo)
            assert std[0] == pytest.approx(agent["agent.actor.distribution.log_std_param"].exp())
        elif folder is reppo:
            assert float(std.min()) > LEAST_STD
            assert torch.allclose(std, given.agent.policy.gaussian(given.agent.actor_norm(seen))[1])
            assert torch.allclose(action, torch.tanh(given.agent.policy.gaussian(given.agent.actor_norm(seen))[0]))
        else:
            assert torch.equal(std, torch.full((7, 1), 0.3))


def test_a_run_of_the_same_shape_is_taken_over_as_it_is(tmp_path):
    first = run(tmp_path / "first", replace(SMALL, max_iterations=2), kind=Plain)
    second = run(tmp_path / "second", replace(from_policy(SMALL, str(first.path)), seed=5, max_iterations=1))
    theirs, ours = tensors(first), tensors(second, "0")
    taken = [key for key in theirs if key.startswith(("agent.policy.", "agent.actor_norm.", "agent.critic_norm."))]
    assert taken and all(torch.equal(theirs[key], ours[key]) for key in taken)


class Raw(Chase):
    """Takes raw actions from -4 to 2, and names its observations as simulators with managers do."""

    action_low, action_high = torch.tensor([-4.0]), torch.tensor([2.0])
    info = TaskInfo("test:raw", {"angle": 1}, {"angle": 1}, 1, 0.02, 4)


def test_raw_actions_become_shares_of_the_simulators_bounds(tmp_path):
    """Raw -1 is the middle of -4 and 2, so 0; 2 is 1; 5 is 2, which is beyond, and clipped."""
    given = open_given(from_policy(FULL, linear(tmp_path / "p.onnx", [[1.0]], [0.0])), Raw())
    raw = torch.tensor([[-1.0], [2.0], [5.0]])
    assert given.act(raw).flatten().tolist() == pytest.approx([0.0, 1.0, 2.0])
    action, mean, _ = given.gaussian(raw)
    assert action.flatten().tolist() == pytest.approx([0.0, 1.0, 1.0])
    assert mean.flatten().tolist() == pytest.approx([0.0, 1.8318, 1.8318], abs=1e-3)  # atanh 0.95
    plain = open_given(from_policy(FULL, linear(tmp_path / "p.onnx", [[1.0]], [0.0])), Chase())
    assert plain.act(raw).flatten().tolist() == [-1.0, 2.0, 5.0]


def test_a_graph_for_one_robot_is_run_once_for_each(tmp_path):
    given = open_given(from_policy(FULL, linear(tmp_path / "p.onnx", [[2.0]], [1.0], batch=1)), Chase())
    assert given.act(torch.tensor([[0.0], [1.0], [-2.0]])).flatten().tolist() == [1.0, 3.0, -3.0]


def test_actions_that_are_not_finite_are_named(tmp_path):
    learner = Warm(from_policy(FULL, linear(tmp_path / "p.onnx", [[float("nan")]], [0.0])))
    with pytest.raises(TrainError, match=r"p\.onnx gives actions that are not finite"):
        learner.start(learner.given)


@pytest.mark.parametrize(
    "make,says",
    [
        (lambda path: linear(path, np.zeros((1, 1)), [0.0], inputs=("obs", "h_in")), "not one input and one output .*h_in"),
        (lambda path: linear(path, np.zeros((7, 1)), [0.0]), "has 7 observations, the simulator 1"),
        (lambda path: linear(path, np.zeros((1, 3)), [0.0] * 3), "has 3 actions, the simulator 1"),
        (lambda path: path.write_text("no graph"), "is no ONNX file that ONNX Runtime can load"),
        (lambda path: None, "no policy to start from at .*p.onnx"),
        (lambda path: path.mkdir(), "is not a run folder"),
    ],
)
def test_what_cannot_be_cloned_is_refused_by_name(tmp_path, make, says):
    make(tmp_path / "p.onnx")
    with pytest.raises(TrainError, match=says):
        open_given(from_policy(FULL, str(tmp_path / "p.onnx")), Chase())


def test_observations_in_another_order_are_refused(tmp_path):
    env = Raw()
    env.info = replace(env.info, actor={"angle": 1, "rate": 1})
    path = linear(tmp_path / "p.onnx", [[1.0]], [0.0], metadata={"observation_names": "rate,angle"})
    with pytest.raises(TrainError, match="observations are rate, angle; those of test:chase are angle, rate"):
        open_given(from_policy(FULL, path), env)


def test_another_tasks_run_is_refused(tmp_path):
    other = run(tmp_path / "other", replace(SMALL, task="envpool:CartpoleSwingup-v1", max_iterations=1), kind=Plain)
    with pytest.raises(TrainError, match=r"is a run of envpool:CartpoleSwingup-v1, not of envpool:CartpoleBalance-v1"):
        open_given(from_policy(SMALL, str(other.path)), Chase())
    wider = Chase()
    wider.actor_size = 2
    with pytest.raises(TrainError, match=r"does not fit .*has shape \(16, .*, this configuration needs \(16, "):
        open_given(replace(from_policy(SMALL, str(other.path)), task="envpool:CartpoleSwingup-v1"), wider)


@pytest.mark.parametrize(
    "argv,says",
    [
        (["envpool:CartpoleBalance-v1", "--init-from", "p.onnx", "--algo", "ppo"], "--algo ppo does not start from"),
        (["envpool:CartpoleBalance-v1", "--init-from", "p.onnx", "--distributed"], "leave out --distributed"),
        (["envpool:CartpoleBalance-v1", "--init-from=nowhere.onnx"], "no policy to start from at nowhere.onnx"),
        (["--resume", "r", "--init-from", "p.onnx"], "cannot be combined with --resume"),
        (["envpool:CartpoleBalance-v1", "--init-from", "p.onnx", "--init.std", "0"], "init.std is 0.0"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    RunFolder.create(tmp_path / "r", SMALL)
    assert cli.main(["train", *argv]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert not (tmp_path / "runs").exists()
