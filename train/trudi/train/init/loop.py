"""Training that starts as a clone of a given policy; all else is `Learner`'s."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trudi.train.agent import Agent
from trudi.train.checkpoint import Checkpoint
from trudi.train.config import TrainCfg
from trudi.train.distill.gate import relative
from trudi.train.envs.base import Observation
from trudi.train.errors import TrainError
from trudi.train.evaluation import EvalResult, run_episodes
from trudi.train.init.clone import Fit, Visit, Visitor
from trudi.train.init.given import Given, open_given
from trudi.train.loop import Learner, Outcome, Report
from trudi.train.rollout import Batch
from trudi.train.runfolder import MetricsLog
from trudi.train.update import Metrics, NonFiniteError, learn_critic, require_finite

ENOUGH = 0.9
"""Share of the given policy's return that a clone should keep."""
MANY_CLIPPED = 0.05
"""Share of actions at the bounds from which on the user is told."""


@dataclass(frozen=True)
class Closeness:
    """How near the clone is to the given policy, at states that the clone's SDE gets into and was not fitted to."""

    action_gap: float
    """|a - a_given| of the ODE from random latents, mean over states and actions, in [-1, 1]."""
    spread: float
    """Of the SDE's x_N around the given mean (root of the mean square), before tanh."""
    std: float
    """What the spread should be."""
    entropy: float
    """The clone's H, in nats, as training measures it."""
    clipped: float
    """Share of the given policy's actions at the bounds or beyond."""


@dataclass(frozen=True)
class Start:
    """What came of the cloning."""

    closeness: Closeness
    given: EvalResult
    """The given policy without noise, on the run's evaluation episodes."""
    clone: EvalResult
    """The clone by the run's own sampler, on the same."""
    env_steps: int
    """Environment steps that it took."""
    elapsed_s: float
    cpu_s: float

    def metrics(self) -> dict[str, float]:
        """The row of iteration 0 in a run's log."""
        found = self.closeness
        return self.clone.metrics() | {
            "init/given_return": self.given.mean,
            "init/action_gap": found.action_gap,
            "init/spread": found.spread,
            "init/std": found.std,
            "init/entropy": found.entropy,
            "init/clipped_fraction": found.clipped,
            "time/env_steps": self.env_steps,
            "time/elapsed_s": self.elapsed_s,
            "time/cpu_s": self.cpu_s,
        }

    def lines(self) -> list[str]:
        """For the user, with a warning where one is due."""
        found, count = self.closeness, len(self.given.returns)
        told = [
            f"cloned in {self.env_steps:,} steps, {self.elapsed_s:.0f} s: actions differ by {found.action_gap:.3f} on "
            f"average; noise before tanh {found.spread:.2f}, {found.std:.2f} asked",
            f"return of the given policy {self.given.mean:.1f} +- {self.given.std:.1f}, of the clone "
            f"{self.clone.mean:.1f} +- {self.clone.std:.1f} ({count} episodes)",
        ]
        if found.clipped > MANY_CLIPPED:
            told.append(
                f"warning: {found.clipped:.0%} of the given policy's actions are at the bounds or beyond; where the "
                "simulator takes raw actions, a larger --sim.action-bound keeps them"
            )
        share = float(relative(self.given.returns.double().mean().numpy(), self.clone.returns.double().mean().numpy()))
        if share < ENOUGH:
            told.append(
                f"warning: the clone keeps less than {ENOUGH:.0%} of the return: try more --init.iterations or "
                "--init.updates, a smaller --init.std, or a wider policy (--policy.width)"
            )
        return told


class WarmStart(Learner):
    """Starts as a clone of the policy that `cfg.init` names; a resumed run does not need it again.

    The first `init.critic_iterations` iterations leave the policy, its statistics and the duals as they are.
    """

    given: Given | None

    def __init__(self, cfg: TrainCfg, resume: Checkpoint | None = None, tell: Callable[[str], None] = print) -> None:
        self._is_new, self._tell = resume is None, tell
        super().__init__(cfg, resume)

    def build(self) -> None:
        super().build()
        self.given = open_given(self.cfg, self.env) if self._is_new else None

    def start_collecting(self) -> None:
        if self.given is None:
            super().start_collecting()
        else:
            self.visitor = Visitor(self.env, self.agent, self.given, self.generator)

    def train(self, checkpoints: Path, log: MetricsLog | None, report: Report) -> Outcome:
        """Clones before the first iteration; the clone is in the log, and in a checkpoint, as iteration 0."""
        if self.given is not None:
            start = self.start(self.given)
            spent = {"env_steps": start.env_steps, "elapsed_s": start.elapsed_s, "cpu_s": start.cpu_s}
            self.counters, self.given = replace(self.counters, **spent), None
            self.cut(checkpoints)
            if log is not None:
                log.write(0, start.metrics())
            for line in start.lines():
                self._tell(line)
        return super().train(checkpoints, log, report)

    def start(self, given: Given) -> Start:
        """Makes the agent a clone of `given`, and measures both."""
        started, cpu_started = time.monotonic(), time.process_time()
        cfg, agent = self.cfg, self.agent
        visits = 1
        if not take_over(agent, given):
            try:
                self.clone()
            except NonFiniteError as error:
                raise TrainError(f"{error} while cloning {given.source.policy}: lower init.learning_rate") from None
            visits += cfg.init.iterations
        agent.sync_old_policy()
        closeness = self.closeness(self.visitor.visit(cfg.rollout_steps, 0.0))
        by_given = self.evaluate(lambda env: run_episodes(env, lambda seen: given.gaussian(seen.actor)[0]))
        by_clone = self.evaluate()
        spent = time.monotonic() - started, time.process_time() - cpu_started
        return Start(closeness, by_given, by_clone, visits * cfg.steps_per_iteration, *spent)

    def clone(self) -> None:
        """Visits states and fits, `init.iterations` times. The statistics that normalise are those of all states visited."""
        cfg, agent = self.cfg.init, self.agent
        fit = Fit(agent.policy, self.cfg.optim.max_grad_norm)
        parts: list[Visit] = []
        for iteration in range(cfg.iterations):
            part = self.visitor.visit(self.cfg.rollout_steps, cfg.given_share(iteration))
            require_finite({"observation": part.raw.actor, "critic observation": part.raw.critic})
            agent.update_normalizers(part.raw)
            parts.append(part)
            seen = agent.actor_norm(torch.cat([one.raw.actor for one in parts]))
            mean, std = (torch.cat([getattr(one, name) for one in parts]) for name in ("mean", "std"))
            size, losses = min(self.cfg.update.minibatch_size, len(seen)), list[Tensor]()
            for _ in range(cfg.updates):
                rows = torch.randint(len(seen), (size,), generator=self.generator, device=self.device)
                noise = agent.policy.draw_noise(size, self.generator)
                losses.append(fit.step(seen[rows], mean[rows], std[rows], noise, cfg.rate(iteration)))
            require_finite({"loss": torch.stack(losses)})
            require_finite({f"parameter {name}": value for name, value in agent.policy.named_parameters()})

    @torch.no_grad()
    def closeness(self, visit: Visit) -> Closeness:
        """Of the clone to the given policy, at the visited states."""
        policy, seen = self.agent.policy, self.agent.actor_norm(visit.raw.actor)
        chain = policy.sample(seen, policy.draw_noise(len(seen), self.generator))
        action, _ = policy.sample_ode(seen, policy.draw_latent(len(seen), self.generator))
        return Closeness(
            action_gap=float((action - visit.action).abs().mean()),
            spread=float((chain.states[-1] - visit.mean).square().mean().sqrt()),
            std=float(visit.std.square().mean().sqrt()),
            entropy=-float(chain.run_cost.mean()),
            clipped=float(visit.clipped.float().mean()),
        )

    @property
    def is_held(self) -> bool:
        """Whether the critic learns alone in this iteration."""
        return self.counters.iteration < self.cfg.init.critic_iterations

    @property
    def lam(self) -> float:
        """1 while the policy is held: what came of its actions, as far as the rollout goes, not what the critic thinks."""
        return 1.0 if self.is_held else super().lam

    def improve(self, batch: Batch, raw: Observation) -> Metrics:
        if not self.is_held:
            return super().improve(batch, raw)
        return learn_critic(self.agent, self.optimizers, batch, self.cfg.update, self.generator)


def take_over(agent: Agent, given: Given) -> bool:
    """Copies policy and statistics where the given policy is one of the same shape; returns whether it is."""
    theirs = given.agent
    if theirs is None or type(theirs.policy) is not type(agent.policy) or theirs.policy.cfg != agent.policy.cfg:
        return False
    for part in ("policy", "actor_norm", "critic_norm"):
        agent.get_submodule(part).load_state_dict(theirs.get_submodule(part).state_dict())
    return True
