"""Everything that learns, in one module: policy, critic, normalisers, duals and their optimisers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trudi.train.critic import Critic, CriticCfg
from trudi.train.distributed import ALONE, Ranks
from trudi.train.envs.base import Observation
from trudi.train.errors import TrainError
from trudi.train.gaussian import GaussianPolicy
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy, Policy, PolicyCfg

Algorithm = Literal["trudi", "reppo", "ppo"]

POLICIES: dict[Algorithm, type[Policy]] = {"trudi": DenoisingPolicy, "reppo": GaussianPolicy}
"""Those of the algorithms that are this package's own; PPO's is rsl_rl's (`ppo.agent`)."""


@dataclass(frozen=True)
class OptimCfg:
    """Adam for actor and critic, without weight decay."""

    learning_rate: float = 3e-4
    """Adam's step size at the start, for the actor (with its duals) and the critic."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the step size falls over the run, to `final_fraction` of its start."""
    final_fraction: float = 0.0
    """Step size at the end of the run as a fraction of the start (linear and cosine schedules)."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm, for actor and critic each."""
    dual_learning_rate: float | None = None
    """Adam's step size for the two duals; the actor's by default."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0.0 or not self.max_grad_norm > 0.0:
            raise TrainError("optim.learning_rate and optim.max_grad_norm must be positive")
        if not 0.0 <= self.final_fraction <= 1.0:
            raise TrainError(f"optim.final_fraction is {self.final_fraction}; it must be in [0, 1]")

    def scale(self, progress: float) -> float:
        """The factor on every learning rate at `progress` in [0, 1] of the run."""
        if self.schedule == "constant":
            return 1.0
        left = 1.0 - progress if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final_fraction + (1.0 - self.final_fraction) * left


@dataclass(frozen=True)
class DualsCfg:
    """The two multipliers: alpha weighs entropy, lambda the trust region."""

    alpha: float = 0.01
    """alpha at the start (0.01 for locomotion and DMC, 1.0 for manipulation and dexterous humanoids)."""
    lam: float = 0.01
    """lambda at the start."""
    entropy_per_action: float = -4.0
    """Target of H = -mean(run_cost) per action dimension. It is on the bound's scale, not a Gaussian's."""
    gaussian_entropy_per_action: float = -0.5
    """The same for `--algo reppo`, where H is the entropy itself (arXiv 2507.11019)."""
    entropy_change: float = 0.0
    """Added to the target evenly over the run, per action dimension: -2 takes it from -1 at the start to -3 at the end. Much
    noise finds out how to move, and the noise-free policy that a robot gets is a good one only near what was trained."""

    def __post_init__(self) -> None:
        if not self.alpha > 0.0 or not self.lam > 0.0:
            raise TrainError(f"duals.alpha is {self.alpha} and duals.lam {self.lam}; both must be positive")

    def entropy_target(self, algo: Algorithm, progress: float = 0.0) -> float:
        """Target of H per action dimension, in nats, at `progress` in [0, 1] of the run; PPO has none."""
        targets: dict[Algorithm, float] = {"trudi": self.entropy_per_action, "reppo": self.gaussian_entropy_per_action}
        return targets[algo] + self.entropy_change * progress


class Duals(nn.Module):
    """alpha and lambda, kept positive in log space."""

    def __init__(self, cfg: DualsCfg) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(cfg.alpha)))
        self.log_lambda = nn.Parameter(torch.tensor(math.log(cfg.lam)))

    @property
    def alpha(self) -> Tensor:
        """Entropy weight ()."""
        return self.log_alpha.exp()

    @property
    def lam(self) -> Tensor:
        """Trust-region weight ()."""
        return self.log_lambda.exp()


class Agent(nn.Module):
    """The learner's networks and statistics; its `state_dict` is the whole of what a checkpoint says of them."""

    def __init__(
        self,
        policy: PolicyCfg,
        critic: CriticCfg,
        duals: DualsCfg,
        *,
        actor_size: int,
        critic_size: int,
        action_size: int,
        algo: Algorithm = "trudi",
    ) -> None:
        super().__init__()
        self.policy = POLICIES[algo](policy, actor_size, action_size)
        self.critic = Critic(critic, critic_size, action_size)
        self.duals = Duals(duals)
        self.actor_norm = RunningNorm(actor_size)
        self.critic_norm = RunningNorm(critic_size)
        self.old_policy = copy.deepcopy(self.policy).requires_grad_(False)

    @property
    def denoising(self) -> DenoisingPolicy:
        """The policy of a TruDi run; TrainError where it is another kind of policy."""
        if not isinstance(self.policy, DenoisingPolicy):
            raise TrainError(
                "this is a run of --algo reppo: its Gaussian policy has no denoising steps to export or distill"
            )
        return self.policy

    def sync_old_policy(self) -> None:
        """Freezes the present policy as the one that the trust region is measured from."""
        self.old_policy.load_state_dict(self.policy.state_dict())

    def update_normalizers(self, raw: Observation, ranks: Ranks = ALONE) -> None:
        """Merges an iteration's raw observations (..., size), those of all `ranks`, into the running statistics."""
        self.actor_norm.update(raw.actor.flatten(0, -2), ranks)
        self.critic_norm.update(raw.critic.flatten(0, -2), ranks)

    def normalize(self, observation: Observation) -> Observation:
        """Both observations, normalised by the present statistics; once where they are the same tensor."""
        actor = self.actor_norm(observation.actor)
        same = observation.critic is observation.actor
        return Observation(actor, actor if same else self.critic_norm(observation.critic))


class Optimizers:
    """Adam for the actor with its duals, and for the critic. Steps are along the mean of the gradients of all `ranks`."""

    def __init__(self, agent: Agent, cfg: OptimCfg, ranks: Ranks = ALONE) -> None:
        self.cfg, self.ranks = cfg, ranks
        dual_rate = cfg.learning_rate if cfg.dual_learning_rate is None else cfg.dual_learning_rate
        policy = [parameter for parameter in agent.policy.parameters() if parameter.requires_grad]
        duals = list(agent.duals.parameters())
        groups = [
            {"params": policy, "lr": cfg.learning_rate, "base_lr": cfg.learning_rate},
            {"params": duals, "lr": dual_rate, "base_lr": dual_rate},
        ]
        critic = {"params": list(agent.critic.parameters()), "lr": cfg.learning_rate, "base_lr": cfg.learning_rate}
        self.actor = torch.optim.Adam(groups, fused=True)
        self.critic = torch.optim.Adam([critic], fused=True)
        self._actor_parameters = [*policy, *duals]

    def set_progress(self, progress: float, factor: float = 1.0) -> None:
        """Sets the learning rates for `progress` in [0, 1] of the run, times `factor`."""
        for optimizer in (self.actor, self.critic):
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * self.cfg.scale(progress) * factor

    def step_actor(self) -> Tensor:
        """One descent step along the gradients that the parameters hold; returns their norm before clipping ()."""
        self.ranks.average(_gradients(self._actor_parameters))
        norm = nn.utils.clip_grad_norm_(self._actor_parameters, self.cfg.max_grad_norm)
        self.actor.step()
        return norm

    def step_critic(self, loss: Tensor, weight: Tensor | None = None) -> Tensor:
        """One descent step; returns the gradient's norm before clipping ().

        `weight` (batch,) are the weights of the samples in `loss`, a mean over this rank's.
        """
        parameters: list[Tensor] = self.critic.param_groups[0]["params"]
        self.critic.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average(_gradients(parameters), weight)
        norm = nn.utils.clip_grad_norm_(parameters, self.cfg.max_grad_norm)
        self.critic.step()
        return norm


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
