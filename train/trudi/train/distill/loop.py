"""The distillation loop: visit states, label them, learn from what is kept of them."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from trudi.train import state
from trudi.train.agent import Agent
from trudi.train.checkpoint import Checkpoint
from trudi.train.config import TrainCfg
from trudi.train.distill.labels import Labelled, Labeller, Memory
from trudi.train.distill.losses import regression, uphill
from trudi.train.distill.score import ScoreMatcher, noised
from trudi.train.distill.settings import DistillCfg
from trudi.train.distill.student import freeze_steps, warm_start
from trudi.train.loop import Learner
from trudi.train.update import require_finite


class Distiller(Learner):
    """Makes a student of `teacher`; checkpoints, evaluations, retries and signals are as in training.

    What a checkpoint holds is a whole agent: the student as its policy, with the teacher's critic and statistics, which do
    not change.
    """

    def __init__(self, settings: DistillCfg, cfg: TrainCfg, teacher: Agent, resume: Checkpoint | None = None) -> None:
        self.settings, self.teacher = settings, teacher.requires_grad_(False)
        self.memory = Memory(settings.memory)
        super().__init__(cfg, resume)

    def new_agent(self) -> Agent:
        agent, teacher = super().new_agent(), self.teacher.to(self.device)
        for part in ("critic", "duals", "actor_norm", "critic_norm"):
            agent.get_submodule(part).load_state_dict(teacher.get_submodule(part).state_dict())
        warm_start(agent.denoising, teacher.denoising)
        freeze_steps(agent.denoising)
        agent.critic.requires_grad_(False)
        agent.sync_old_policy()
        self.matcher = ScoreMatcher(teacher.denoising, self.cfg.optim) if self.settings.method == "score" else None
        return agent

    def start_collecting(self) -> None:
        settings, teacher = self.settings, self.teacher.denoising
        self.labeller = Labeller(self.env, self.agent, teacher, settings.latent, self.generator, settings.action_noise)

    def capture(self) -> state.TensorDict:
        tensors = super().capture() | self.memory.tensors()
        return tensors if self.matcher is None else tensors | self.matcher.tensors()

    def restore(self, tensors: state.TensorDict) -> None:
        super().restore(tensors)
        self.memory.restore(tensors)
        if self.matcher is not None:
            self.matcher.restore(tensors)

    def iterate(self) -> dict[str, float]:
        """One iteration: visit and label, learn."""
        cfg, settings = self.cfg, self.settings
        progress = self.progress
        share = settings.teacher_share(progress)
        started = time.monotonic()

        visit = self.labeller.visit(cfg.rollout_steps, share)
        require_finite({"observation": visit.raw.actor, "label": visit.samples.label, "reward": visit.reward})
        visited = time.monotonic()
        known = self.memory.add(visit.samples)
        self.optimizers.set_progress(progress, settings.matching_rate if self.is_matching else 1.0)
        metrics = self.learn(known, settings.update.epochs * max(1, len(visit.samples) // settings.update.minibatch_size))
        self.agent.sync_old_policy()

        self.recent_returns.extend(visit.episodes.returns.tolist())
        if self.recent_returns:
            metrics["rollout/return_mean"] = sum(self.recent_returns) / len(self.recent_returns)
        if len(visit.gap):
            metrics["distill/visited_gap"] = float(visit.gap.square().mean().sqrt())
        return metrics | {
            "distill/teacher_share": share,
            "rollout/reward_mean": float(visit.reward.mean()),
            "time/collect_s": visited - started,
            "time/steps_per_s": cfg.steps_per_iteration / (time.monotonic() - started),
        }

    @property
    def is_matching(self) -> bool:
        """Whether the student follows the score difference now, and the regression no longer."""
        progress = self.progress
        return self.matcher is not None and progress >= self.settings.teacher_until

    def learn(self, known: Labelled, count: int) -> dict[str, float]:
        """`count` gradient steps on minibatches of what is known; their metrics, averaged."""
        size = min(self.settings.update.minibatch_size, len(known))
        records: list[dict[str, Tensor]] = []
        for _ in range(count):
            index = torch.randint(len(known), (size,), generator=self.generator, device=self.device)
            records.append(self.descend(known[index]))
        require_finite({key: torch.stack([record[key] for record in records]) for key in records[0]})
        require_finite({f"parameter {name}": value for name, value in self.agent.policy.named_parameters()})
        return {key: float(torch.stack([record[key] for record in records]).mean()) for key in records[0]}

    def descend(self, part: Labelled) -> dict[str, Tensor]:
        """One gradient step of the student."""
        settings, agent = self.settings, self.agent
        action, states = agent.policy.sample_ode(part.observation.actor, part.latent)
        own = states[-1]
        if settings.method == "critic":
            seen = part.observation.critic
            losses = uphill(own, part.label, seen, agent.critic, settings.region, settings.latent_weight)
        else:
            losses = regression(own, part.label, settings.latent_weight)
        if self.matcher is not None:
            losses = self.match(self.matcher, part, own, losses)
        loss = losses.mean()
        self.optimizers.actor.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            gap = (action - torch.tanh(part.label)).square().mean().sqrt()
        return {"distill/loss": loss.detach(), "distill/action_gap": gap, "distill/grad_norm": self.optimizers.step_actor()}

    def match(self, matcher: ScoreMatcher, part: Labelled, own: Tensor, losses: Tensor) -> Tensor:
        """The losses whose gradient is the score difference; until the student drives alone, those of the regression."""
        seen = part.observation.actor
        for _ in range(self.settings.auxiliary_steps if self.is_matching else 1):
            states = noised(self.teacher.denoising, own.detach(), self.generator)
            matcher.learn(seen, states)
        if not self.is_matching:
            return losses
        states = noised(self.teacher.denoising, own.detach(), self.generator)
        return (matcher.direction(seen, states) * own).mean(-1)
