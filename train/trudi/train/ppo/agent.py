"""rsl_rl's actor and critic for our observations. It needs rsl_rl, so only what uses them imports it."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trudi.train.config import TrainCfg
from trudi.train.envs.base import Observation, VectorEnv
from trudi.train.errors import TrainError
from trudi.train.evaluation import Act, Sampler

try:
    from rsl_rl.algorithms import PPO
    from rsl_rl.models import MLPModel
    from rsl_rl.modules.distribution import GaussianDistribution
    from rsl_rl.storage import RolloutStorage
    from tensordict import TensorDict
except ImportError as error:
    raise TrainError(f"--algo ppo needs rsl_rl 5.0 or newer: pip install 'trudi[ppo]' ({error})") from None

__all__ = ["PPO", "PpoAgent", "RolloutStorage", "drawing_from", "grouped", "make_agent"]

GROUPS = {"actor": ["policy"], "critic": ["critic"]}
"""Which of an observation's groups each network sees."""
ACTOR_GAIN = 0.01
"""Scale of the actor's last layer at the start."""


def grouped(observation: Observation) -> TensorDict:
    """An observation as rsl_rl takes it: the groups `policy` and `critic`, each (envs, size)."""
    return TensorDict({"policy": observation.actor, "critic": observation.critic}, batch_size=[len(observation.actor)])


def _gains(mlp: nn.Sequential, last: float) -> Any:
    """The scale of each layer's orthogonal matrix, in the form in which rsl_rl takes a list of them."""
    return [math.sqrt(2.0)] * (len(mlp) - 1) + [last]


@contextmanager
def drawing_from(generator: torch.Generator) -> Generator[None]:
    """Lets torch's global generators, from which rsl_rl draws, follow from `generator` inside the block.

    Outside they are as if the block had not been.
    """
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class PpoAgent(nn.Module):
    """A Gaussian actor, with one standard deviation for all states, and a critic of states; each normalises what it sees."""

    def __init__(self, cfg: TrainCfg, env: VectorEnv) -> None:
        super().__init__()
        settings = cfg.ppo
        example = grouped(Observation(torch.zeros(1, env.actor_size), torch.zeros(1, env.critic_size)))
        # In log space the standard deviation cannot be stepped to below zero, where rsl_rl's clamp would hold it for good.
        distribution = {"class_name": GaussianDistribution, "init_std": settings.init_std, "std_type": "log"}

        def model(name: str, outputs: int, distribution: dict[str, Any] | None) -> MLPModel:
            return MLPModel(
                example,
                GROUPS,
                name,
                outputs,
                hidden_dims=settings.hidden,
                activation=settings.activation,
                obs_normalization=settings.normalize,
                distribution_cfg=distribution,
            )

        self.actor = model("actor", env.action_size, distribution)
        self.critic = model("critic", 1, None)
        if settings.orthogonal:
            self.actor.mlp.init_weights(_gains(self.actor.mlp, ACTOR_GAIN))
            self.critic.mlp.init_weights(_gains(self.critic.mlp, 1.0))

    @property
    def std(self) -> Tensor:
        """Standard deviation of each action, the same in all states (actions,)."""
        distribution = self.actor.distribution
        assert isinstance(distribution, GaussianDistribution)
        return distribution.log_std_param.exp()

    def values(self, observation: Observation) -> Tensor:
        """V(s) of each observation (envs,)."""
        return self.critic(grouped(observation)).squeeze(-1)

    def make_act(self, sampler: Sampler, generator: torch.Generator) -> Act:
        """The mean action for `ode` and `zero`, a sample for `sde`, each clipped to [-1, 1] as in training."""
        if sampler == "best":
            raise TrainError("the sampler best needs a critic of actions, which a run of --algo ppo has not: use ode or sde")

        def act(observation: Observation) -> Tensor:
            if sampler != "sde":
                return self.actor(grouped(observation)).clamp(-1.0, 1.0)
            with drawing_from(generator):
                return self.actor(grouped(observation), stochastic_output=True).clamp(-1.0, 1.0)

        return act


def make_agent(cfg: TrainCfg, env: VectorEnv) -> PpoAgent:
    """Networks for the simulator's sizes, initialised from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return PpoAgent(cfg, env).to(env.device)
