"""Distillation: the warm start, the labels, the losses, and real short runs of the command."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from trudi import cli
from trudi.train import checkpoint
from trudi.train.agent import Agent, DualsCfg, OptimCfg
from trudi.train.config import TrainCfg
from trudi.train.critic import CriticCfg
from trudi.train.distill.gate import Ratio, Verdict, judge, paired_ratio, relative
from trudi.train.distill.labels import Labelled, Labeller, Memory
from trudi.train.distill.loop import Distiller
from trudi.train.distill.losses import regression, uphill
from trudi.train.distill.score import ScoreMatcher, noised
from trudi.train.distill.settings import DistillCfg, GateCfg, open_teacher, read_settings, run_config
from trudi.train.distill.student import student_policy, warm_start
from trudi.train.envs import envpool
from trudi.train.envs.base import Observation, SimCfg
from trudi.train.envs.registry import make_env
from trudi.train.errors import TrainError
from trudi.train.evaluation import EvalResult
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy, PolicyCfg
from trudi.train.runfolder import METRICS, MetricsLog, RunFolder, read_metrics
from trudi.train.trained import TrainedRun
from trudi.train.update import UpdateCfg

pytestmark = pytest.mark.usefixtures("short_episodes")

TASK = "envpool:CartpoleBalance-v1"
CPU = torch.device("cpu")


def teacher_policy(steps=8, width=16, layers=3, **options) -> DenoisingPolicy:
    """A teacher of 3 observations and 2 actions that is not the prior, in float64."""
    torch.manual_seed(0)
    policy = DenoisingPolicy(PolicyCfg(steps=steps, width=width, layers=layers, frequencies=8, **options), 3, 2).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def student_of(teacher: DenoisingPolicy, steps: int, width: int | None = None) -> DenoisingPolicy:
    cfg = student_policy(teacher.cfg, steps, width)
    student = DenoisingPolicy(cfg, teacher.observation_size, teacher.action_size).double()
    warm_start(student, teacher)
    return student


# The warm start


@pytest.mark.parametrize("learn_dt", ["no", "shared", "per-step"])
@pytest.mark.parametrize(("trained", "steps"), [(8, 1), (8, 2), (8, 4), (6, 1), (6, 3)])
def test_a_student_starts_as_the_teachers_ode_in_its_steps(trained, steps, learn_dt):
    teacher = teacher_policy(trained, learn_dt=learn_dt)
    student = student_of(teacher, steps)
    observation, latent = torch.randn(7, 3).double(), 2.5 * torch.randn(7, 2).double()
    expected = teacher.sample_ode(observation, latent, steps)
    found = student.sample_ode(observation, latent)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert student.cfg.steps == steps


def test_one_step_by_hand():
    # N = 2, dt = 1/2, friction 1: eta = 0.5 c(k), c = 0.999 * (0.99984459, 0.49376694) + 0.001, so eta' = 0.74705...
    # With no output weights u = b everywhere, so from x_0 = 2 with sigma0 = 2.5: x_1 = 2 + eta' (-2 / 6.25 + b)
    teacher = DenoisingPolicy(PolicyCfg(steps=2, width=4), 3, 1).double()
    with torch.no_grad():
        teacher.score.out.weight.zero_()
        teacher.score.out.bias.fill_(0.3)
    eta = 0.5 * (0.999 * (0.99984459 + 0.49376694) + 0.002)
    student = student_of(teacher, 1)
    assert float(student.step_sizes().eta[0, 0].detach()) == pytest.approx(eta, abs=1e-7)
    action, states = student.sample_ode(torch.zeros(1, 3).double(), torch.full((1, 1), 2.0).double())
    assert float(states[1].detach()) == pytest.approx(2.0 + eta * (-2.0 / 6.25 + 0.3), abs=1e-7)
    assert float(action.detach()) == pytest.approx(math.tanh(2.0 + eta * (-2.0 / 6.25 + 0.3)), abs=1e-7)


def test_one_step_can_be_the_teachers_whole_map():
    """u' = (x_N(x_0, s) - x_0) / eta' + x_0 / sigma0^2, given by an oracle in the network's place."""
    teacher = teacher_policy()
    student = student_of(teacher, 1)
    observation, latent = torch.randn(7, 3).double(), 2.5 * torch.randn(7, 2).double()
    action, states = teacher.sample_ode(observation, latent)
    eta = student.step_sizes().eta[0]
    assert torch.allclose(eta, teacher.step_sizes().eta.sum(0), rtol=1e-9)

    class Oracle(torch.nn.Module):
        def condition(self, seen):
            return None, torch.zeros(len(seen), 1).double(), torch.zeros(1, 1).double()

        def forward(self, x, weight_x, rest):
            return (states[-1] - x) / eta + x / 2.5**2

    student.score = Oracle()
    found = student.sample_ode(observation, latent)[0]
    torch.testing.assert_close(found, action, rtol=1e-9, atol=1e-9)


def test_a_narrow_student_keeps_the_units_that_count():
    """Two layers have no norm between them, so a teacher whose other units lead nowhere fits into fewer."""
    teacher = teacher_policy(width=16, layers=2)
    with torch.no_grad():
        teacher.score.out.weight[:, ::2] = 0.0
    student = student_of(teacher, 2, 8)
    observation, latent = torch.randn(7, 3).double(), 2.5 * torch.randn(7, 2).double()
    torch.testing.assert_close(student.sample_ode(observation, latent)[0], teacher.sample_ode(observation, latent, 2)[0])


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_a_wide_student_starts_as_the_same_policy_with_copies_that_differ(layers):
    teacher = teacher_policy(width=8, layers=layers)
    student = student_of(teacher, 2, 24)
    observation, latent = torch.randn(7, 3).double(), 2.5 * torch.randn(7, 2).double()
    torch.testing.assert_close(student.sample_ode(observation, latent)[0], teacher.sample_ode(observation, latent, 2)[0])
    copies = student.score.out.weight.view(2, 3, 8)
    assert torch.allclose(copies.sum(1), teacher.score.out.weight) and not torch.allclose(copies[:, 0], copies[:, 1])


def test_a_narrow_student_of_three_layers_has_the_asked_shape():
    student = student_of(teacher_policy(width=16), 1, 5)
    assert student.score.middle[0].weight.shape == (5, 5)
    action, _ = student.sample_ode(torch.randn(4, 3).double(), torch.zeros(4, 2).double())
    assert bool(torch.isfinite(action).all())


@pytest.mark.parametrize(
    ("steps", "width", "said"),
    [
        (16, None, "available: 1, 2, 4"),
        (8, None, "below it"),
        (3, None, "available: 1, 2, 4"),
        (1, 17, "or a multiple"),
    ],
)
def test_a_student_that_does_not_fit_is_refused(steps, width, said):
    with pytest.raises(TrainError, match=said):
        student_policy(PolicyCfg(steps=8, width=16), steps, width)


def test_few_steps_of_the_teacher_by_hand():
    """Uniform steps are equal and take the index of the trained step they begin in; the sum of all is the same."""
    policy = DenoisingPolicy(PolicyCfg(steps=2, width=4), 1, 1).double()
    eta = policy.step_sizes().eta[:, 0]  # 0.49992 and 0.24712: the first is two thirds of the way
    for steps, expected in ((1, [0]), (2, [0, 0]), (3, [0, 0, 0]), (4, [0, 0, 0, 1])):
        first, sizes = policy.ode_grid(steps, "uniform")
        assert first == expected
        assert torch.allclose(sizes[:, 0], eta.sum() / steps)
    assert policy.ode_grid(1)[1].tolist() == policy.ode_grid(1, "uniform")[1].tolist()
    with pytest.raises(TrainError):
        policy.ode_grid(0, "uniform")


# Labels


def small(task=TASK) -> Agent:
    """An agent for the task whose policy acts."""
    env = make_env(task, 1, 0, device=CPU, stagger=False)
    env.close()
    torch.manual_seed(1)
    sizes = {"actor_size": env.actor_size, "critic_size": env.critic_size, "action_size": env.action_size}
    agent = Agent(PolicyCfg(steps=4, width=16), CriticCfg(width=16, bins=21), DualsCfg(), **sizes)
    with torch.no_grad():
        agent.policy.score.out.weight.normal_(0.0, 0.3)
        agent.actor_norm.update(2.0 * torch.randn(64, env.actor_size))
    return agent


@pytest.mark.parametrize("latent", ["zero", "seeded"])
def test_labels_are_the_teachers_own_ode_for_the_same_latent(latent):
    student, teacher = small(), small().policy
    with torch.no_grad():
        student.policy.score.out.weight.mul_(0.5)
    env = make_env(TASK, 4, 3, device=CPU, stagger=False)
    visit = Labeller(env, student, teacher, latent, torch.Generator().manual_seed(0)).visit(5, 0.5)
    env.close()
    samples = visit.samples
    assert len(samples) == 20
    assert bool((samples.latent == 0.0).all()) == (latent == "zero")
    with torch.no_grad():
        normalised = student.actor_norm(visit.raw.actor.flatten(0, 1))
        assert torch.equal(normalised, samples.observation.actor)
        action, states = teacher.sample_ode(normalised, samples.latent)
        torch.testing.assert_close(samples.label, states[-1])
        own, _ = student.policy.sample_ode(normalised, samples.latent)
        by_student = (own - action).view(5, 4, 1)[:, 2:].flatten(0, 1)
    torch.testing.assert_close(visit.gap, by_student, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_teacher_drives_its_share_of_the_environments(share):
    """Rewards are those of a raw loop in which the first environments get the teacher's actions."""
    student, teacher = small(), small().policy
    with torch.no_grad():
        student.policy.score.out.weight.mul_(-1.0)
    env = make_env(TASK, 4, 3, device=CPU, stagger=False)
    visit = Labeller(env, student, teacher, "zero", torch.Generator().manual_seed(0)).visit(6, share)
    env.close()
    raw = make_env(TASK, 4, 3, device=CPU, stagger=False)
    observation = raw.reset()
    with torch.no_grad():
        for t in range(6):
            seen, zero = student.actor_norm(observation.actor), torch.zeros(4, 1)
            action = student.policy.sample_ode(seen, zero)[0]
            driven = round(4 * share)
            action[:driven] = teacher.sample_ode(seen, zero)[0][:driven]
            step = raw.step(action)
            assert torch.equal(step.reward, visit.reward[t])
            observation = step.observation
    raw.close()
    assert len(visit.gap) == 6 * (4 - round(4 * share))


class Watched:
    """A simulator whose actions are kept."""

    def __init__(self, env):
        self.env, self.actions = env, []

    def __getattr__(self, name):
        return getattr(self.env, name)

    def step(self, action):
        self.actions.append(action.clone())
        return self.env.step(action)


def test_noise_of_the_actions_grows_over_the_environments_and_leaves_the_labels():
    """Five environments under 0.4: standard deviations of 0, 0.1, 0.2, 0.3 and 0.4 about what the student would do."""
    student, teacher = small(), small().policy
    with torch.no_grad():
        student.policy.score.out.weight.mul_(0.02)
        student.policy.score.out.bias.zero_()
    env = Watched(make_env(TASK, 5, 3, device=CPU, stagger=False))
    visit = Labeller(env, student, teacher, "zero", torch.Generator().manual_seed(0), 0.4).visit(800, 0.0)
    env.close()
    with torch.no_grad():
        own = student.policy.sample_ode(visit.samples.observation.actor, visit.samples.latent)[0].view(800, 5)
        states = teacher.sample_ode(visit.samples.observation.actor, visit.samples.latent)[1]
    sent = torch.stack(env.actions)[:, :, 0]
    assert float(own.abs().max()) < 0.2 and float(sent.abs().max()) == 1.0  # 1 is as far as an action goes
    noise = sent - own
    torch.testing.assert_close(noise[:, 0], torch.zeros(800), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(noise.mean(0), torch.zeros(5), rtol=0.0, atol=0.05)
    torch.testing.assert_close(noise.std(0), torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]), rtol=0.1, atol=1e-6)
    torch.testing.assert_close(visit.samples.label, states[-1])


def test_a_student_is_made_where_its_teacher_ended():
    """A penalty went from -1 to -5 over the first half of the run; a student of a quarter of it has -3 throughout."""
    sim = SimCfg(training_overrides=("a=-1", "b=true"), final_overrides=("a=-5",), final_span=(0.0, 0.5))
    teacher = TrainCfg(task=TASK, sim=sim)
    assert run_config(DistillCfg(), teacher, 0.25).sim.training_overrides == ("a=-3.0", "b=true")
    for progress in (0.0, 0.5, 1.0):
        assert run_config(DistillCfg(), teacher).sim.for_training(progress).overrides == ("a=-5.0", "b=true")


def test_a_student_visits_a_simulator_of_its_own(teacher, tmp_path, capsys):
    """What it is told stands behind what its teacher ended with, in its visits alone; what a task does not take is named."""
    sim = SimCfg(overrides=("c=1",), training_overrides=("a=-1",), final_overrides=("a=-5",), final_span=(0.0, 0.5))
    its = run_config(DistillCfg(training_overrides=("b=0.5", "a=-2")), TrainCfg(task=TASK, sim=sim)).sim
    assert its.for_training().overrides == ("c=1", "a=-5.0", "b=0.5", "a=-2") and its.overrides == ("c=1",)
    command = ["distill", str(teacher), "--training-overrides", "quiet_sensors=0.5", "--out", str(tmp_path / "none")]
    assert cli.main(command) == 2
    assert "no 'quiet_sensors' in the task's configuration" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def labelled(value: float, count=3) -> Labelled:
    actor = torch.full((count, 2), value)
    return Labelled(Observation(actor, actor), torch.full((count, 1), value), torch.full((count, 1), -value))


def test_memory_forgets_the_oldest_and_comes_back_whole():
    memory = Memory(2)
    for value in (1.0, 2.0, 3.0):
        known = memory.add(labelled(value))
    assert known.label[:, 0].tolist() == [-2.0] * 3 + [-3.0] * 3
    again = Memory(2)
    again.restore(memory.tensors())
    assert again.tensors().keys() == memory.tensors().keys()
    assert all(torch.equal(again.tensors()[key], value) for key, value in memory.tensors().items())
    joined = again.add(labelled(4.0))
    assert joined.label[:, 0].tolist() == [-3.0] * 3 + [-4.0] * 3
    assert joined.observation.critic is joined.observation.actor
    again.restore({})
    assert again.tensors() == {}


def test_the_teacher_hands_over():
    cfg = DistillCfg(teacher_until=0.5)
    assert [cfg.teacher_share(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.5, 0.0, 0.0]
    assert DistillCfg(teacher_until=0.0).teacher_share(0.0) == 0.0


# Losses


def test_regression_by_hand():
    own, label = torch.tensor([[0.5, 3.0]]), torch.zeros(1, 2)
    # tanh 0.5 = 0.46211716, tanh 3 = 0.99505475; huber 0.5^2 / 2 = 0.125 and 3 - 0.5 = 2.5
    expected = (0.46211716**2 + 0.99505475**2) / 2 + 0.1 * (0.125 + 2.5) / 2
    assert float(regression(own, label, 0.1)) == pytest.approx(expected, rel=1e-6)
    assert float(regression(label, label, 0.1)) == 0.0


class Slope(torch.nn.Module):
    """Q(s, a) = slope . a."""

    def __init__(self, *slope: float) -> None:
        super().__init__()
        self.slope = torch.tensor(slope).double()

    def forward(self, observation, action):
        return action @ self.slope


def test_uphill_by_hand():
    # Slope (3, 0): g = sqrt((9 + 0) / 2) = 2.12132, d = 2. At x = y = 0, dL/dx_0 = -2 r / (2 g) * 3 = -1.41421 r.
    own = torch.zeros(1, 2, requires_grad=True, dtype=torch.float64)
    loss = uphill(own, torch.zeros(1, 2).double(), torch.zeros(1, 1), Slope(3.0, 0.0), 0.05, 0.1)
    loss.sum().backward()
    assert own.grad is not None and own.grad[0].tolist() == pytest.approx([-math.sqrt(2.0) * 0.05, 0.0])


@pytest.mark.parametrize("x", [0.02, 1.0])
def test_gradients_agree_with_finite_differences(x):
    """Inside the region and far outside, where it is the regression's."""
    torch.manual_seed(0)
    label = torch.zeros(3, 2).double()
    own = (x + 0.01 * torch.randn(3, 2).double()).requires_grad_()
    critic, seen = Slope(2.0, -1.0), torch.zeros(3, 1)
    loss = lambda value: uphill(value, label, seen, critic, 0.1, 0.1)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (own,), eps=1e-6, atol=1e-6)
    if x == 1.0:
        torch.testing.assert_close(loss(own), regression(own, label, 0.1))


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_uphill_moves_by_the_region_whatever_the_critics_units(scale):
    label = torch.tensor([[0.3]]).double()
    own = label.clone().requires_grad_()
    optimizer = torch.optim.SGD([own], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        uphill(own, label, torch.zeros(1, 1), Slope(scale), 0.05, 0.1).sum().backward()
        optimizer.step()
    assert float((torch.tanh(own) - torch.tanh(label)).detach()) == pytest.approx(0.05, rel=1e-3)


# The gate's arithmetic


def test_the_ratio_by_hand():
    ratio = paired_ratio(torch.tensor([100.0, 200.0]), torch.tensor([90.0, 210.0]))
    assert ratio.value == 1.0
    # Both episodes, or one of them twice: 90 / 100 and 210 / 200 are the extremes.
    assert (ratio.low, ratio.high) == (pytest.approx(0.9), pytest.approx(1.05))
    assert paired_ratio(torch.ones(3), torch.ones(3)) == paired_ratio(2 * torch.ones(5), 2 * torch.ones(5))


def test_the_ratio_keeps_its_order_where_returns_are_negative():
    import numpy as np

    teacher, student = np.array([-100.0, -100.0, 0.0, 0.0]), np.array([-110.0, -90.0, 0.0, -1.0])
    assert relative(teacher, student).tolist() == [pytest.approx(0.9), pytest.approx(1.1), 1.0, -math.inf]


def test_pairs_narrow_the_interval():
    """Episodes differ far more than the two policies do: in pairs that difference cancels."""
    torch.manual_seed(0)
    teacher = 500.0 + 200.0 * torch.randn(64)
    student = teacher - 2.0 + torch.randn(64)
    ratio = paired_ratio(teacher, student)
    assert ratio.value == pytest.approx(0.996, abs=0.001)
    assert ratio.high - ratio.low < 0.005


# Real runs

SMALL = ["--num-envs", "4", "--rollout-steps", "128", "--policy.width", "16", "--critic.width", "16"]
SMALL += ["--max-iterations", "4", "--evaluation.episodes", "2", "--policy.steps", "4"]
QUICK = ["--num-envs", "4", "--rollout-steps", "64", "--update.minibatch-size", "64", "--evaluate-episodes", "2"]
QUICK += [
    "--gate-episodes",
    "4",
    "--gate-max-episodes",
    "4",
    "--max-iterations",
    "4",
    "--save-every",
    "2",
    "--keep-checkpoints",
    "9",
]
ANY = ["--min-ratio", "-1000", "--min-low", "-1000"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A short real training; not a good policy, but one that acts."""
    out = tmp_path_factory.mktemp("distill") / "teacher"
    assert cli.main(["train", TASK, "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="module")
def student(teacher):
    """Its student of one step."""
    out = teacher.parent / "student"
    assert cli.main(["distill", str(teacher), "--out", str(out), *QUICK, *ANY]) == 0
    return out


def refused(capsys, *argv):
    """Runs a command that must be refused; returns its one line."""
    assert cli.main([str(one) for one in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_students_run_is_a_run_like_any_other(student, teacher):
    folder = RunFolder.open(student)
    assert folder.is_student and not RunFolder.open(teacher).is_student
    assert folder.config().policy.steps == 1 and folder.config().evaluation.sampler == "zero"
    rows = read_metrics(student / METRICS)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert [row["distill/teacher_share"] for row in rows] == [1.0, 0.5, 0.0, 0.0]
    assert "eval/return_mean" in rows[-1] and list(student.glob("events.*"))
    made, taught = TrainedRun.open(student), TrainedRun.open(teacher)
    kept = TrainedRun.open(student / "teacher")
    for key, value in taught.agent.state_dict().items():
        assert torch.equal(kept.agent.state_dict()[key], value)
        if key.startswith(("critic", "actor_norm", "duals")):
            assert torch.equal(made.agent.state_dict()[key], value)
    torch.testing.assert_close(made.agent.policy.step_sizes().eta, taught.agent.policy.step_sizes().eta.sum(0, keepdim=True))


def test_the_verdict_says_what_it_rests_on(student):
    found = json.loads((student / "distill.json").read_text())
    assert found["passed"] is True and (found["steps"], found["method"], found["latent"]) == (1, "dagger", "zero")
    assert len(found["student"]["returns"]) == len(found["teacher"]["returns"]) == found["episodes"] == 4
    mean_of = lambda who: sum(found[who]["returns"]) / 4  # noqa: E731
    assert found["ratio"] == pytest.approx(mean_of("student") / mean_of("teacher"), rel=1e-5)
    assert found["ratio_ci95"][0] <= found["ratio"] <= found["ratio_ci95"][1]
    assert found["share_of_teacher_time"] == pytest.approx(found["elapsed_s"] / found["teacher_elapsed_s"])


def test_the_gate_exits_with_its_verdict(student, capsys):
    """A finished student is measured again, against other thresholds."""
    assert cli.main(["distill", "--resume", str(student), "--min-ratio", "1000"]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert json.loads((student / "distill.json").read_text())["passed"] is False
    assert cli.main(["distill", "--resume", str(student), "--min-ratio", "-1000", "--min-low", "1000"]) == 1
    assert cli.main(["distill", "--resume", str(student), *ANY]) == 0
    assert "PASS" in capsys.readouterr().out


def test_eval_takes_the_latent_a_student_was_made_for(student, teacher, tmp_path):
    for run, sampler in ((student, "zero"), (teacher, "ode")):
        out = tmp_path / "eval.json"
        assert cli.main(["eval", str(run), "--episodes", "2", "--json", str(out)]) == 0
        found = json.loads(out.read_text())
        assert found["sampler"] == sampler
        assert found["action_variation_per_s"] >= 0.0 and found["action_jumps_per_s"] >= 0.0


@pytest.mark.parametrize(
    ("method", "latent"), [("dagger", "zero"), ("dagger", "seeded"), ("critic", "zero"), ("score", "seeded")]
)
def test_resumed_equals_uninterrupted_bit_for_bit(teacher, tmp_path, method, latent):
    taught = open_teacher(teacher, "last")
    cfg = DistillCfg(
        method=method,
        latent=latent,
        num_envs=2,
        rollout_steps=32,
        max_iterations=4,
        save_every=2,
        keep_checkpoints=9,
        memory=3,
        evaluate_episodes=1,
        update=UpdateCfg(epochs=1, minibatch_size=16),
    )

    def run(path, resume=None):
        whole = run_config(cfg, taught.cfg)
        folder = RunFolder.create(path, whole) if resume is None else RunFolder.open(path)
        distiller = Distiller(cfg, whole, taught.agent, resume)
        log = MetricsLog(folder, distiller.counters.iteration)
        distiller.train(folder.checkpoints, log, lambda progress: None)
        log.close()
        distiller.close()
        return folder

    whole, cut = run(tmp_path / "whole"), run(tmp_path / "cut")
    run(tmp_path / "cut", cut.load_checkpoint("2"))
    expected, found = whole.load_checkpoint().tensors, cut.load_checkpoint().tensors
    assert expected.keys() == found.keys() and "memory.label" in found
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_command_goes_on_where_it_was_cut(student, tmp_path):
    """A longer run resumed from the command line, with what it needs of the teacher in its own folder."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(student, copy, symlinks=True)
    assert cli.main(["distill", "--resume", str(copy), "--max-iterations", "5", *ANY]) == 0
    assert checkpoint.load(copy / "checkpoints" / "last").counters.iteration == 5
    assert json.loads((copy / "distill.json").read_text())["iteration"] == 5


BALANCE = torch.tensor([1.0, 0.0, 10.0, 1.0, 2.0])  # cart, cosine, sine, and their speeds: keeps the pole up


def balancing() -> Agent:
    """A teacher made in a second: its ODE from the zero latent is a feedback that balances the pole."""
    agent = small()
    agent.actor_norm.load_state_dict(small_norm())
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(agent.policy.score.parameters(), lr=5e-3)
    for _ in range(400):
        observation = 0.3 * torch.randn((128, 5), generator=generator)
        observation[:, 1] = 1.0
        states = agent.policy.sample_ode(observation, torch.zeros(128, 1))[1]
        loss = (states[-1][:, 0] - observation @ BALANCE).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return agent


def small_norm() -> dict[str, torch.Tensor]:
    """Statistics that leave observations as they are."""
    return RunningNorm(5, epsilon=0.0).state_dict()


def test_a_student_comes_to_do_what_its_teacher_does(short_episodes, monkeypatch):
    """From a start that does nothing, the loss falls and the return on the teacher's episodes rises to the teacher's."""
    monkeypatch.setattr(envpool, "make", short_episodes)  # a pole that nobody holds takes longer to fall
    teacher = balancing()
    gate = GateCfg(gate_episodes=4, gate_max_episodes=4)
    cfg = DistillCfg(num_envs=4, rollout_steps=128, max_iterations=10, gate=gate, update=UpdateCfg(6, 64))
    base = TrainCfg(task=TASK, policy=teacher.policy.cfg, critic=teacher.critic.cfg)
    distiller = Distiller(cfg, run_config(cfg, base), teacher)
    with torch.no_grad():
        distiller.agent.policy.score.out.weight.zero_()
        distiller.agent.policy.score.out.bias.zero_()
    before = judge(teacher, distiller.agent, TASK, cfg)
    losses = []
    for _ in range(cfg.max_iterations):
        losses.append(distiller.iterate()["distill/action_gap"])
        distiller.counters = replace(distiller.counters, iteration=distiller.counters.iteration + 1)
    after = judge(teacher, distiller.agent, TASK, cfg)
    distiller.close()
    assert losses[-1] < 0.5 * losses[0]
    assert before.teacher.mean > 990.0 and before.ratio.value < 0.9 and not before.passed
    assert after.ratio.value > 0.99 and after.passed


def test_the_gate_measures_until_the_ratio_is_known(capsys):
    """Blocks of episodes are those of one large measurement, and there are as many as the precision asks for."""
    teacher = balancing()
    distiller_cfg = DistillCfg(gate=GateCfg(gate_episodes=4, gate_max_episodes=10, precision=1e-9))
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.policy.score.out.weight.mul_(0.2)
    fine = judge(teacher, student, TASK, distiller_cfg)
    assert fine.episodes == len(fine.student.returns) == len(fine.student.lengths) == 10
    whole = judge(
        teacher, student, TASK, replace(distiller_cfg, gate=GateCfg(gate_episodes=10, precision=1e-9, gate_max_episodes=4))
    )
    torch.testing.assert_close(fine.student.returns, whole.student.returns, rtol=1e-3, atol=0.1)
    assert not torch.equal(fine.student.returns[:4], fine.student.returns[4:8])  # a block is not measured twice
    assert fine.ratio.half_width > 1e-9 and fine.to_plain()["episodes"] == 10
    rough = judge(teacher, student, TASK, replace(distiller_cfg, gate=GateCfg(gate_episodes=4, precision=1e9)))
    assert rough.episodes == 4
    same = judge(teacher, teacher, TASK, replace(distiller_cfg, gate=GateCfg(gate_episodes=4)))
    assert same.episodes == 4 and same.ratio == Ratio(1.0, 1.0, 1.0) and same.passed


def test_a_verdict_for_want_of_episodes_says_so():
    teacher = EvalResult(torch.tensor([100.0, 900.0, 100.0, 900.0]), torch.ones(4))
    student = EvalResult(torch.tensor([900.0, 100.0, 120.0, 900.0]), torch.ones(4))
    cfg = GateCfg(gate_episodes=4, gate_max_episodes=4)
    found = Verdict(cfg, "zero", "zero", teacher, student, paired_ratio(teacher.returns, student.returns))
    assert not found.passed and found.ratio.value > 1.0
    assert "decide it with more episodes, --resume and --gate-max-episodes above 4" in found.text()
    worse = replace(found, ratio=Ratio(0.9, 0.8, 1.0))
    assert "more episodes" not in worse.text()


def test_a_verdict_for_want_of_precision_asks_for_that():
    """More episodes alone would end where these did: at an interval that is narrow enough, and still too low."""
    equal = EvalResult(torch.tensor([100.0, 100.0, 100.0, 100.0]), torch.ones(4))
    cfg = GateCfg(min_low=0.985, gate_episodes=4)
    found = Verdict(cfg, "zero", "zero", equal, equal, Ratio(0.995, 0.978, 1.012))
    assert not found.passed
    assert found.text().endswith("decide it with more episodes, --resume and --precision below 0.017")
    most = replace(found, cfg=replace(cfg, gate_max_episodes=4))
    assert most.text().endswith("--resume and --precision below 0.017 and --gate-max-episodes above 4")


def test_a_students_export_says_so_and_verifies(student, tmp_path, capsys):
    from trudi.runtime.bundle import Bundle

    out = tmp_path / "bundle"
    assert cli.main(["export", str(student), "--out", str(out), "--episodes", "2"]) == 0
    with Bundle.open(out) as opened:
        sampler = opened.contract.sampler
        assert (sampler.network, sampler.steps, sampler.noise) == ("student", 1, "zero")
        assert opened.contract.provenance.evaluations[0].sampler == "student_ode_1_steps_zero_noise"
    assert cli.main(["verify", str(out), "--run", str(student), "--episodes", "2"]) == 0
    capsys.readouterr()
    assert "student of 1 step(s)" in refused(capsys, "export", student, "--out", tmp_path / "x", "--steps", "2")
    assert "--latent seeded" in refused(capsys, "export", student, "--out", tmp_path / "x", "--noise", "seeded")


# What is refused


def test_bad_input_is_one_line(teacher, student, tmp_path, capsys):
    out = ("--out", tmp_path / "x")
    assert "available: 1, 2" in refused(capsys, "distill", teacher, "--steps", "8", *out)
    assert "take 1 to 16, or a multiple" in refused(capsys, "distill", teacher, "--width", "24", *out)
    assert "is a student itself" in refused(capsys, "distill", student, *out)
    assert "no run given" in refused(capsys, "distill")
    assert "is not a run folder" in refused(capsys, "distill", tmp_path, *out)
    assert f"trudi distill --resume {student}" in refused(capsys, "distill", teacher, "--out", student)
    assert "use --latent seeded" in refused(capsys, "distill", teacher, "--method", "score", *out)
    assert "invalid choice 'bc'" in refused(capsys, "distill", teacher, "--method", "bc", *out)
    assert f"trudi distill --resume {student}" in refused(capsys, "train", "--resume", student)
    assert "is no student's run" in refused(capsys, "distill", "--resume", teacher)
    assert "keeps its latent (zero, not seeded)" in refused(capsys, "distill", "--resume", student, "--latent", "seeded")
    assert "without naming one" in refused(capsys, "distill", teacher, "--resume", student)
    assert not (tmp_path / "x").exists()


def test_a_teacher_without_the_checkpoint_asked_for(teacher, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(teacher, copy, symlinks=True)
    (copy / "checkpoints" / "best").unlink()
    assert "has no best checkpoint" in refused(capsys, "distill", copy, "--checkpoint", "best", "--out", tmp_path / "x")
    assert "no checkpoint of iteration 99" in refused(capsys, "distill", copy, "--checkpoint", "99")
    shutil.rmtree(copy / "checkpoints")
    assert "no checkpoint at" in refused(capsys, "distill", copy, "--out", tmp_path / "x")


def test_a_teacher_of_another_task(teacher, student, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(teacher, copy, symlinks=True)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("CartpoleBalance-v1", "CheetahRun-v1"))
    line = refused(capsys, "distill", copy, "--out", tmp_path / "x")
    assert f"another task: it was trained on {TASK}, config.yaml says envpool:CheetahRun-v1" in line
    line = refused(capsys, "distill", copy, "--resume", student)
    assert "of another task, envpool:CheetahRun-v1" in line


def test_settings_come_from_the_teacher_and_are_kept(student):
    cfg = read_settings(RunFolder.open(student))
    assert (cfg.steps, cfg.rollout_steps, cfg.gate.gate_episodes) == (1, 64, 4)


# Distribution matching


def test_noise_is_the_reverse_kernel():
    """By hand, one step: x_0 = (1 - eta / sigma0^2) x_1 + sqrt(2 eta) eps; with all steps the prior's spread comes back."""
    policy = DenoisingPolicy(PolicyCfg(steps=1, width=4), 3, 1).double()
    last = torch.full((5, 1), 2.0).double()
    states = noised(policy, last, torch.Generator().manual_seed(0))
    eps = torch.randn((1, 5, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eta = policy.step_sizes().eta[0, 0].detach()
    torch.testing.assert_close(states[1], last)
    torch.testing.assert_close(states[0], (1.0 - eta / 6.25) * last + torch.sqrt(2.0 * eta) * eps[0])


def test_a_student_like_its_teacher_has_nowhere_to_go():
    """The auxiliary policy starts as the teacher: no difference of scores, exactly."""
    policy = teacher_policy(4).requires_grad_(False)
    matcher = ScoreMatcher(policy, OptimCfg())
    observation = torch.randn(6, 3).double()
    states = noised(policy, torch.randn(6, 2).double(), torch.Generator().manual_seed(0))
    assert float(matcher.direction(observation, states).abs().max()) == 0.0


def test_scores_pull_a_shifted_student_back():
    """The prior is its own teacher: actions at Normal(0, sigma0^2). A student around 3 is told to come down, in time."""
    torch.manual_seed(0)
    policy = DenoisingPolicy(PolicyCfg(steps=4, width=32, friction=0.3), 3, 1).requires_grad_(False)
    matcher = ScoreMatcher(policy, OptimCfg(learning_rate=1e-3))
    generator, observation = torch.Generator().manual_seed(0), torch.zeros(256, 3)
    losses = []
    for _ in range(300):
        own = 3.0 + 2.5 * torch.randn((256, 1), generator=generator)
        losses.append(float(matcher.learn(observation, noised(policy, own, generator))))
    assert sum(losses[-30:]) < sum(losses[:30])
    own = 3.0 + 2.5 * torch.randn((256, 1), generator=generator)
    assert float(matcher.direction(observation, noised(policy, own, generator)).mean()) > 0.0


def test_a_matcher_comes_back_whole():
    policy = teacher_policy(4).requires_grad_(False)
    matcher, again = (ScoreMatcher(policy, OptimCfg(learning_rate=1e-2)) for _ in range(2))
    observation = torch.randn(6, 3).double()
    states = noised(policy, torch.randn(6, 2).double(), torch.Generator().manual_seed(0))
    matcher.learn(observation, states)
    again.restore(matcher.tensors())
    for one in (matcher, again):
        one.learn(observation, states)
    assert all(torch.equal(again.tensors()[key], value) for key, value in matcher.tensors().items())
