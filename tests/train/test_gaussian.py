"""The Gaussian policy of `--algo reppo`."""

import json
import math
from dataclasses import replace

import pytest
import torch
from support import along, small_agent, small_batch

from trudi import cli
from trudi.train.config import TrainCfg
from trudi.train.envs.base import Observation
from trudi.train.errors import TrainError
from trudi.train.gaussian import GaussianPolicy
from trudi.train.loop import Learner
from trudi.train.policy import Noise, PolicyCfg
from trudi.train.runfolder import RunFolder
from trudi.train.trust_region import TrustRegionCfg, forward_kl, reverse_kl
from trudi.train.update import actor_terms, draw

pytestmark = pytest.mark.usefixtures("short_episodes")


def made(mean, log_std, min_std=0.1):
    """A policy with the same Gaussian everywhere."""
    policy = GaussianPolicy(PolicyCfg(width=8, min_std=min_std), 3, 2).double()
    with torch.no_grad():
        policy.network.out.weight.zero_()
        policy.network.out.bias.copy_(torch.tensor([*mean, *log_std]))
    return policy


def test_action_and_density_by_hand():
    """mu = (0, 1), sigma = (0.1 + 1, 0.1 + e), eps = (1, -0.5)."""
    policy = made([0.0, 1.0], [0.0, 1.0])
    chain = policy.sample(
        torch.zeros(1, 3).double(), Noise(torch.zeros(1, 2).double(), torch.tensor([[[1.0, -0.5]]]).double())
    )
    std = [1.1, 0.1 + math.e]
    x = [std[0], 1.0 - 0.5 * std[1]]
    assert chain.action[0].tolist() == pytest.approx([math.tanh(value) for value in x])
    density = sum(
        -0.5 * eps**2 - math.log(s) - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(value) ** 2)
        for eps, s, value in zip((1.0, -0.5), std, x, strict=True)
    )
    assert float(chain.log_prob.detach()) == pytest.approx(density)
    assert float(chain.run_cost.detach()) == pytest.approx(density)


def test_density_integrates_to_one():
    """Over the actions of one element: the tanh determinant is in it, once."""
    policy = GaussianPolicy(PolicyCfg(width=8), 3, 1).double()
    eps = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)
    with torch.no_grad():
        chain = policy.sample(torch.ones(4001, 3).double(), Noise(torch.zeros(4001, 1).double(), eps[None, :, None]))
    assert float(torch.trapezoid(chain.log_prob.exp(), chain.action[:, 0])) == pytest.approx(1.0, abs=1e-5)


def test_entropy_of_the_start_is_what_sampling_says():
    """-E log pi, against the Gaussian's own entropy and the determinant's mean."""
    policy = made([0.0, 0.0], [0.0, 0.0])
    observation = torch.zeros(200_000, 3).double()
    with torch.no_grad():
        chain = policy.sample(observation, policy.draw_noise(200_000, torch.Generator().manual_seed(0)))
    gaussian = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(1.1))
    determinant = float(torch.log1p(-chain.action.square()).sum(-1).mean())
    assert -float(chain.run_cost.mean()) == pytest.approx(gaussian + determinant, abs=0.01)


@pytest.mark.parametrize("form", ["full", "simplified"])
def test_kl_is_the_closed_form_of_two_gaussians(form):
    """N(0, 1.1) to N(0.5, 0.1 + e^-1) and N(1, 1.1) to N(1, 0.1 + e), with torch's own divergence."""
    old, new = made([0.0, 1.0], [0.0, 0.0]), made([0.5, 1.0], [-1.0, 1.0])
    observation = torch.zeros(4, 3).double()
    with torch.no_grad():
        chain = old.sample(observation, old.draw_noise(4, torch.Generator().manual_seed(0)))
        kl = forward_kl(new, observation, *along(chain), form)
        backward = reverse_kl(new, observation, chain, form)
    normal = torch.distributions.Normal
    p = normal(torch.tensor([0.0, 1.0]), torch.tensor([1.1, 1.1]))
    q = normal(torch.tensor([0.5, 1.0]), torch.tensor([0.1 + math.exp(-1.0), 0.1 + math.e]))
    expected = float(torch.distributions.kl_divergence(p, q).sum()) if form == "full" else 0.25 / (2 * 1.1**2)
    assert kl.tolist() == pytest.approx([expected] * 4, rel=1e-5)
    assert backward.tolist() == pytest.approx([expected] * 4, rel=1e-5)


def test_first_kl_is_exactly_zero():
    agent = small_agent(algo="reppo")
    batch = small_batch(agent, 64)
    kl = forward_kl(
        agent.policy, batch.observation.actor, batch.states[:, None], batch.means[:, None], batch.stds[:, None], "full"
    )
    assert float(kl.detach().abs().max()) == 0.0


def test_deterministic_action_is_tanh_of_the_mean_from_any_latent():
    policy = made([0.3, -2.0], [0.0, 0.0])
    action, states = policy.sample_ode(torch.zeros(5, 3).double(), torch.randn(5, 2).double())
    assert action.detach().tolist() == [pytest.approx([math.tanh(0.3), math.tanh(-2.0)])] * 5
    assert states.shape == (2, 5, 2)
    with pytest.raises(TrainError, match="one step, not 4"):
        policy.sample_ode(torch.zeros(5, 3).double(), torch.zeros(5, 2).double(), 4)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("bound", [1e-9, 0.3, 1e9])
def test_gradient_of_the_switched_loss_agrees_with_finite_differences(direction, bound):
    agent = small_agent(algo="reppo").double()
    batch = small_batch(agent, 24)
    with torch.no_grad():  # away from the old policy
        for parameter in agent.policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    region = TrustRegionCfg(bound=bound, direction=direction)
    draws = draw(agent, len(batch), region, torch.Generator().manual_seed(1))

    def loss():
        return actor_terms(agent, agent.critic, batch, draws, region).loss

    loss().backward()
    for parameter in (agent.policy.network.out.weight, agent.policy.network.input.bias):
        flat, step = parameter.data.view(-1), 1e-6
        for index in (0, len(flat) // 2, len(flat) - 1):
            kept = float(flat[index])
            values = []
            for sign in (1, -1):
                flat[index] = kept + sign * step
                values.append(float(loss().detach()))
            flat[index] = kept
            assert float(parameter.grad.view(-1)[index]) == pytest.approx(
                (values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6
            )


def test_two_iterations_of_training():
    """The first from the starting spread, the second away from the first's policy."""
    cfg = TrainCfg(task="envpool:CartpoleSwingup-v1", algo="reppo", num_envs=4, rollout_steps=32, max_iterations=2)
    learner = Learner(replace(cfg, policy=PolicyCfg(width=16)))
    try:
        first = learner.iterate()
        second = learner.iterate()
    finally:
        learner.close()
    assert isinstance(learner.agent.policy, GaussianPolicy)
    assert first["policy/step_std_mean"] == pytest.approx(1.1, rel=1e-3)
    assert "policy/friction_mean" not in first
    assert second["actor/kl"] > 0.0
    with pytest.raises(TrainError, match="no denoising steps"):
        learner.agent.denoising  # noqa: B018


def test_entropy_target_is_the_algorithms_own():
    cfg = TrainCfg(task="envpool:CartpoleSwingup-v1")
    assert (cfg.duals.entropy_target("trudi"), cfg.duals.entropy_target("reppo")) == (-4.0, -0.5)


def test_observation_reaches_mean_and_spread():
    agent = small_agent(algo="reppo")
    mean, std = agent.policy.gaussian(Observation(torch.eye(4), torch.eye(4)).actor)
    assert len({tuple(row) for row in mean.detach().tolist()}) == len({tuple(row) for row in std.detach().tolist()}) == 4
    assert bool((std > agent.policy.cfg.min_std).all())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short real training."""
    out = tmp_path_factory.mktemp("reppo") / "run"
    argv = ["train", "envpool:CartpoleSwingup-v1", "--algo", "reppo", "--num-envs", "4", "--rollout-steps", "64"]
    argv += ["--policy.width", "16", "--critic.width", "16", "--max-iterations", "2", "--evaluation.episodes", "2"]
    assert cli.main([*argv, "--out", str(out)]) == 0
    return out


def test_a_run_is_evaluated_and_resumed_as_any_other(run, tmp_path, capsys):
    assert cli.main(["eval", str(run), "--episodes", "2", "--json", str(tmp_path / "eval.json")]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["returns"]
    assert cli.main(["train", "--resume", str(run), "--max-iterations", "3"]) == 0
    assert RunFolder.open(run).config().algo == "reppo"
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(run), "--algo", "trudi"]) == 2
    assert "a resumed run keeps its algo (reppo, not trudi)" in capsys.readouterr().err


def test_what_needs_denoising_steps_says_so(run, tmp_path, capsys):
    assert cli.main(["distill", str(run), "--out", str(tmp_path / "student")]) == 2
    assert "is a run of --algo reppo, whose policy has one step: nothing to distill" in capsys.readouterr().err
    assert cli.main(["export", str(run), "--out", str(tmp_path / "bundle")]) == 2
    assert "its Gaussian policy has no denoising steps to export or distill" in capsys.readouterr().err
    assert not (tmp_path / "student").exists() and not (tmp_path / "bundle").exists()
