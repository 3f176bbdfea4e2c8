"""PPO's iterations: acting, storage, advantages and learning are rsl_rl's; simulators, runs and evaluations are ours."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from trudi.train import state
from trudi.train.checkpoint import Checkpoint
from trudi.train.config import TrainCfg
from trudi.train.distributed import combined
from trudi.train.envs.base import EpisodeStats, Observation, StepResult, VectorEnv
from trudi.train.evaluation import EvalResult, evaluate
from trudi.train.loop import Loop
from trudi.train.ppo.agent import PPO, PpoAgent, RolloutStorage, drawing_from, grouped, make_agent
from trudi.train.update import require_finite

RATE = "learning_rate"  # of Adam, in a checkpoint


def make_algorithm(cfg: TrainCfg, agent: PpoAgent, env: VectorEnv) -> PPO:
    """rsl_rl's PPO with its storage, around the networks of `agent`."""
    settings, device, steps = cfg.ppo, str(env.device), cfg.ppo.round_of(cfg.rollout_steps)
    empty = Observation(torch.zeros(cfg.num_envs, env.actor_size), torch.zeros(cfg.num_envs, env.critic_size))
    return PPO(
        agent.actor,
        agent.critic,
        RolloutStorage("rl", cfg.num_envs, steps, grouped(empty), [env.action_size], device),
        num_learning_epochs=settings.epochs,
        num_mini_batches=settings.mini_batches,
        clip_param=settings.clip,
        gamma=cfg.gamma,
        lam=cfg.lam,
        value_loss_coef=settings.value_loss_coef,
        entropy_coef=settings.entropy_coef,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        use_clipped_value_loss=settings.clip_value_loss,
        schedule="adaptive" if settings.schedule == "adaptive" else "fixed",  # a linear one is set by `PpoLearner`
        desired_kl=settings.desired_kl,
        device=device,
    )


class PpoLearner(Loop):
    """Training by rsl_rl's PPO, in one process."""

    advice = "Lower ppo.learning_rate, or ppo.desired_kl where the schedule is adaptive"

    def __init__(self, cfg: TrainCfg, resume: Checkpoint | None = None) -> None:
        super().__init__(cfg, resume)

    def build(self) -> None:
        self.agent = make_agent(self.cfg, self.env)
        self.algorithm = make_algorithm(self.cfg, self.agent, self.env)

    def start_collecting(self) -> None:
        self.observation = self.env.reset()

    def capture(self) -> state.TensorDict:
        optimizers = {"ppo": self.algorithm.optimizer}
        rate = {RATE: torch.tensor(self.algorithm.learning_rate, dtype=torch.float64)}
        return state.capture(self.agent, optimizers, self.generator) | rate | super().capture()

    def restore(self, tensors: state.TensorDict) -> None:
        state.restore(tensors, self.agent, {"ppo": self.algorithm.optimizer}, self.generator)
        self.algorithm.learning_rate = float(tensors[RATE])  # which it sets before every step of an adaptive schedule
        self.algorithm.storage.clear()  # of what an iteration that failed left in it
        super().restore(tensors)

    def measure(self, env: VectorEnv) -> EvalResult:
        return evaluate(self.agent, env, self.cfg.evaluation)

    def iterate(self) -> dict[str, float]:
        """T steps of M environments, in rounds of `ppo.rollout_steps` with an update after each."""
        started = time.monotonic()
        self.set_learning_rate()
        rounds = self.cfg.rollout_steps // self.algorithm.storage.num_transitions_per_env
        with drawing_from(self.generator):
            parts, ended = zip(*(self.learn() for _ in range(rounds)), strict=True)
        require_finite({f"parameter {name}": parameter for name, parameter in self.agent.named_parameters()})
        metrics = combined(parts) | self.simulator_metrics(joined(ended))
        metrics["time/collect_s"] *= rounds
        return metrics | {"time/steps_per_s": self.cfg.steps_per_iteration / (time.monotonic() - started)}

    def set_learning_rate(self) -> None:
        """The step size of this iteration, where the schedule is linear."""
        settings, algorithm = self.cfg.ppo, self.algorithm
        if settings.schedule == "linear":
            algorithm.learning_rate = settings.learning_rate * (1.0 - self.counters.iteration / self.cfg.max_iterations)
            for group in algorithm.optimizer.param_groups:
                group["lr"] = algorithm.learning_rate

    def learn(self) -> tuple[dict[str, float], EpisodeStats]:
        """One round: collect, compute returns and advantages, update. Returns its metrics and the episodes that ended."""
        started = time.monotonic()
        algorithm, storage = self.algorithm, self.algorithm.storage
        reward, episodes = self.collect()
        seen = storage.observations
        require_finite({"observation": seen["policy"], "critic observation": seen["critic"], "reward": reward})
        collected = time.monotonic()
        with torch.no_grad():
            algorithm.compute_returns(grouped(self.observation))
        require_finite({"return target": storage.returns})
        losses = algorithm.update()
        kl = self.divergence()
        require_finite({f"{name} loss": torch.tensor(value) for name, value in losses.items()} | {"KL divergence": kl})
        metrics = {
            "actor/loss": losses["surrogate"],
            "actor/kl": float(kl.mean()),
            "actor/kl_max": float(kl.max()),
            "actor/entropy": losses["entropy"],
            "critic/loss": losses["value"],
            "critic/target_mean": float(storage.returns.mean()),
            "critic/target_max": float(storage.returns.max()),
            "policy/step_std_mean": float(self.agent.actor.output_std.mean()),
            "ppo/learning_rate": algorithm.learning_rate,
            "rollout/reward_mean": float(reward.mean()),
            "rollout/log_prob": float(storage.actions_log_prob.mean()),
            "time/collect_s": collected - started,
        }
        return metrics, episodes

    @torch.no_grad()
    def collect(self) -> tuple[Tensor, EpisodeStats]:
        """Fills rsl_rl's storage; returns the rewards (steps, envs) and the episodes that ended."""
        rewards: list[Tensor] = []
        ended: list[EpisodeStats] = []
        for _ in range(self.algorithm.storage.num_transitions_per_env):
            action = self.algorithm.act(grouped(self.observation))
            step = self.env.step(action.clamp(-1.0, 1.0))
            self.keep(step)
            rewards.append(step.reward)
            ended.append(step.episodes)
            self.observation = step.observation
        return torch.stack(rewards), joined(ended)

    def keep(self, step: StepResult) -> None:
        """Hands a step to rsl_rl's PPO, with what follows a truncated episode added to its last reward: gamma V(s').

        s' is the true terminal observation. rsl_rl, whose simulators do not tell it, takes V(s) of the last observation
        before it in its place; so does this where the simulator does not tell it either.
        """
        reward, extras = step.reward, dict[str, Tensor]()
        if step.terminal is not None:
            index = step.ended.nonzero().squeeze(-1)
            value = self.agent.values(step.terminal) * step.truncated[index]
            reward = reward.index_add(0, index, self.cfg.gamma * value)
        elif bool(step.truncated.any()):
            extras["time_outs"] = step.truncated
        self.algorithm.process_env_step(grouped(step.observation), reward, step.ended, extras)

    @torch.no_grad()
    def divergence(self) -> Tensor:
        """KL(policy that acted || policy after the update) at every sample (samples,), in nats."""
        storage, actor = self.algorithm.storage, self.agent.actor
        actor(storage.observations.flatten(0, 1), stochastic_output=True)
        acted = tuple(part.flatten(0, 1) for part in storage.distribution_params or ())
        return actor.get_kl_divergence(acted, actor.output_distribution_params)


def joined(parts: Sequence[EpisodeStats]) -> EpisodeStats:
    """The episodes of several steps, in order."""
    return EpisodeStats(torch.cat([one.returns for one in parts]), torch.cat([one.lengths for one in parts]))
