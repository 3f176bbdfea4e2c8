"""The training loop of TruDi (arXiv 2606.15260), from top to bottom as in the paper."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from trudi.train import checkpoint, state
from trudi.train.agent import Agent, Optimizers
from trudi.train.checkpoint import Checkpoint, Counters
from trudi.train.config import TrainCfg, differences
from trudi.train.devices import configure_cpu
from trudi.train.distributed import ALONE, Ranks, combined, generator_seed
from trudi.train.envs.base import EpisodeStats, Observation, Restartable, VectorEnv
from trudi.train.envs.registry import backend_of, make_env
from trudi.train.errors import TrainError
from trudi.train.evaluation import EvalResult, borrowed, evaluate
from trudi.train.policy import DenoisingPolicy
from trudi.train.rollout import Batch, Collector, Rollout
from trudi.train.runfolder import MetricsLog
from trudi.train.update import Metrics, NonFiniteError, require_finite, update

MAX_RETRIES = 3
RETURN_WINDOW = 100
OF_EACH_RANK = frozenset({"device", "sim.render"})  # settings that may differ between ranks
SIMULATOR = "simulator."  # prefix of the simulator's entries in a checkpoint

Report = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """What a display is told after every iteration."""

    counters: Counters
    max_iterations: int
    metrics: dict[str, float]
    evaluation: EvalResult | None


@dataclass
class Outcome:
    """How a call of `train` ended."""

    counters: Counters
    interrupted: bool
    """A signal ended it; `--resume` goes on."""


class StopRequest:
    """SIGINT and SIGTERM ask for a checkpoint and a clean end; a second signal ends at once.

    Not so in a process of torchrun's (`is_patient`): torchrun passes on what the scheduler may have sent to all processes
    already, and sends a signal when another process has failed, while this one says so. It ends by itself those that take
    too long.
    """

    def __init__(self, is_patient: bool = False) -> None:
        self.received: signal.Signals | None = None
        self._is_patient = is_patient

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and not self._is_patient:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Handles both signals inside the block (the main thread's alone), and from then on where it is patient."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items() if not self._is_patient else ():
                signal.signal(number, handler)


def make_agent(cfg: TrainCfg, env: VectorEnv) -> Agent:
    """Networks for the simulator's sizes, initialised from the run's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)
        sizes = {"actor_size": env.actor_size, "critic_size": env.critic_size, "action_size": env.action_size}
        return Agent(cfg.policy, cfg.critic, cfg.duals, algo=cfg.algo, **sizes).to(env.device)


def simulator_seed(seed: int, iteration: int, attempt: int, rank: int = 0) -> int:
    """The simulator's seed from a cut at `iteration` on; a retry after a failure gets another one, and so does each rank.

    EnvPool seeds environment i with seed + i, so seeds are spread far apart.
    """
    entropy = [seed, iteration, attempt, *([rank] if rank else [])]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0] >> 2)


class Loop(ABC):
    """One run of an algorithm: its iterations, with evaluations, checkpoints, retries and signals.

    Each of several `ranks` has all of it; they meet where `distributed` says.
    """

    advice: str
    """What a user may do about values that stay non-finite."""

    def __init__(self, cfg: TrainCfg, resume: Checkpoint | None = None, ranks: Ranks = ALONE) -> None:
        self.cfg, self.ranks = cfg, ranks
        self.device = ranks.device(cfg.device)
        configure_cpu()
        torch.set_float32_matmul_precision("high" if cfg.tf32 else "highest")
        self.counters = resume.counters if resume else Counters(0, 0, 0.0, None, None)
        self.attempt = 0
        self.cut_at = self.counters.iteration
        self.generator = torch.Generator(device=self.device).manual_seed(generator_seed(cfg.seed, ranks.rank))
        self.env = self._simulator()
        self.build()
        if resume is not None:
            self.restore(state.of_rank(dict(resume.tensors), ranks.rank, ranks.size))
        self.require_same_start()
        self.start_collecting()
        self.recent_returns: deque[float] = deque(maxlen=RETURN_WINDOW)

    def train(self, checkpoints: Path, log: MetricsLog | None, report: Report) -> Outcome:
        """Runs to `max_iterations` or to a signal; every return leaves a `last` checkpoint behind in `checkpoints`.

        The first rank writes; others need no `log`.
        """
        cfg, stop = self.cfg, StopRequest(is_patient=self.ranks.size > 1)
        started, cpu_started = time.monotonic() - self.counters.elapsed_s, time.process_time() - self.counters.cpu_s
        with stop.listening():
            while self.counters.iteration < cfg.max_iterations and not self.ranks.is_any(stop.received is not None):
                good = self.capture()
                try:
                    metrics = combined(self.ranks.exchange(self.iterate()))
                except NonFiniteError as error:
                    self.go_back(checkpoints, good, error)
                    continue
                self.attempt = 0
                iteration = self.counters.iteration + 1
                env_steps = self.counters.env_steps + cfg.steps_per_iteration * self.ranks.size
                spent = {"elapsed_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu_started}
                self.counters = replace(self.counters, iteration=iteration, env_steps=env_steps, **spent)
                metrics |= {"time/env_steps": env_steps} | {f"time/{key}": value for key, value in spent.items()}
                evaluation = self.ranks.of_first(self.evaluate) if self.is_due(cfg.evaluation.every) else None
                if evaluation is not None:
                    metrics |= evaluation.metrics()
                if log is not None:
                    log.write(iteration, metrics)
                report(Progress(self.counters, cfg.max_iterations, metrics, evaluation))
                if evaluation is not None and self.is_best(evaluation):
                    self.counters = replace(self.counters, best_return=evaluation.mean, best_iteration=iteration)
                    self.save(checkpoints, checkpoint.BEST)
                if self.is_due(cfg.save_every):
                    self.cut(checkpoints)
            if self.cut_at != self.counters.iteration:
                self.cut(checkpoints)
        return Outcome(self.counters, interrupted=self.counters.iteration < cfg.max_iterations)

    @abstractmethod
    def build(self) -> None:
        """Makes what learns, as it is before the first iteration."""

    @abstractmethod
    def start_collecting(self) -> None:
        """Starts the simulator's first episodes."""

    @abstractmethod
    def iterate(self) -> dict[str, float]:
        """One iteration's metrics; NonFiniteError where it met a value that is not finite."""

    @abstractmethod
    def measure(self, env: VectorEnv) -> EvalResult:
        """The policy's score on a fresh simulator."""

    def require_same_start(self) -> None:
        """TrainError where the ranks do not start from the same settings, networks and iteration."""
        if self.ranks.size == 1:
            return
        changed = differences(self.ranks.exchange(self.cfg)[0], self.cfg)
        if changed := {key: pair for key, pair in changed.items() if key not in OF_EACH_RANK}:
            key, (theirs, ours) = next(iter(changed.items()))
            raise TrainError(
                f"process {self.ranks.rank} has {key} {ours}, the first one {theirs}: give all the same options"
            )
        shared = {key: value for key, value in self.capture().items() if state.is_shared(key)}
        place = torch.tensor(self.counters.iteration)
        self.ranks.require_same(shared | {"iteration": place}, "networks at the start")

    def capture(self) -> state.TensorDict:
        """Everything that decides how the run goes on, but for the episodes that the simulator is in."""
        return {f"{SIMULATOR}{key}": value for key, value in self.env.state().items()}

    def restore(self, tensors: state.TensorDict) -> None:
        """Puts a captured state back."""
        self.env.restore({key.removeprefix(SIMULATOR): value for key, value in tensors.items() if key.startswith(SIMULATOR)})

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1)."""
        return self.counters.iteration / self.cfg.max_iterations

    def is_due(self, every: int) -> bool:
        """Whether something done `every` so many iterations (0: never) and at the end is due now."""
        iteration = self.counters.iteration
        return iteration == self.cfg.max_iterations or (every > 0 and iteration % every == 0)

    def simulator_metrics(self, episodes: EpisodeStats) -> dict[str, float]:
        """The mean return of the last episodes, with those that ended in this iteration, and what the simulator reports."""
        self.recent_returns.extend(episodes.returns.tolist())
        recent = self.recent_returns
        mean = {"rollout/return_mean": sum(recent) / len(recent)} if recent else {}
        return mean | {f"simulator/{name}": value for name, value in self.env.log().items()}

    def evaluate(self, measure: Callable[[VectorEnv], EvalResult] | None = None) -> EvalResult:
        """The policy's score, or what `measure` finds in its place; training's random numbers are untouched.

        On fresh environments, or on training's own where the process can have no others: all of them take part then, and
        training starts them over.
        """
        cfg, measure = self.cfg.evaluation, measure or self.measure
        if not backend_of(self.cfg.task).is_alone:
            env = make_env(
                self.cfg.task,
                cfg.episodes,
                cfg.seed,
                device=self.device,
                stagger=False,
                sim=replace(self.cfg.sim, render=False),
            )
            return measure(env)
        with borrowed(self.env, cfg.seed) as env:
            result = measure(env)
        self.restart_simulator()
        return result

    def is_best(self, evaluation: EvalResult) -> bool:
        """Whether no earlier evaluation was as good."""
        return self.counters.best_return is None or evaluation.mean > self.counters.best_return

    def cut(self, checkpoints: Path) -> None:
        """Writes the `last` checkpoint and restarts the simulator, as a resumed run does: both go on alike."""
        self.save(checkpoints, checkpoint.LAST)
        self.cut_at = self.counters.iteration
        self.restart_simulator()

    def save(self, checkpoints: Path, link: str) -> None:
        """Writes a checkpoint and points `link` to it."""
        mine = self.capture()
        self.ranks.require_same({key: value for key, value in mine.items() if state.is_shared(key)}, "networks")
        own = {key: value.cpu() for key, value in mine.items() if not state.is_shared(key)} if self.ranks.rank else {}
        whole = state.joined(mine, self.ranks.exchange(own)[1:])
        if self.ranks.is_first:
            saved = Checkpoint(self.cfg.task, self.counters, whole)
            checkpoint.save(checkpoints, saved, link=link, keep=self.cfg.keep_checkpoints)

    def go_back(self, checkpoints: Path, good: state.TensorDict, error: NonFiniteError) -> None:
        """Back to the state before this iteration, with other data; gives up after a few tries in a row.

        Giving up leaves that state behind as the `last` checkpoint.
        """
        self.restore(good)
        if self.attempt == MAX_RETRIES:
            self.cut(checkpoints)
            raise TrainError(
                f"{error} in iteration {self.counters.iteration + 1}, after {MAX_RETRIES} retries from the last good state, "
                f"which is saved as the last checkpoint. {self.advice}"
            ) from None
        self.attempt += 1
        self.restart_simulator()

    def restart_simulator(self) -> None:
        """Fresh episodes, seeded from the iteration and the attempt."""
        if isinstance(self.env, Restartable):
            self.env.restart(self._simulator_seed())
        else:
            self.env.close()
            self.env = self._simulator()
        self.start_collecting()
        self.recent_returns.clear()

    def close(self) -> None:
        """Frees the simulator."""
        self.env.close()

    def _simulator(self) -> VectorEnv:
        """A new simulator, where the run stands: what one that is started over draws once is drawn as in iteration 0."""
        cfg, seed = self.cfg, self._simulator_seed()
        if cfg.sim.training_overrides and backend_of(cfg.task).is_alone:
            raise TrainError(
                f"{cfg.task}: this simulator evaluates in training's own environments, so that there can be no "
                "--sim.training-overrides; use --sim.overrides, and evaluations are of the changed task"
            )
        is_restartable = backend_of(cfg.task).is_restartable
        if cfg.sim.final_overrides and is_restartable:
            raise TrainError(
                f"{cfg.task}: this simulator keeps the settings that it was made with, so that --sim.final-overrides would "
                "never come; use the task's own curriculum"
            )
        first = simulator_seed(cfg.seed, 0, 0, self.ranks.rank) if is_restartable else seed
        env = make_env(cfg.task, cfg.num_envs, first, device=self.device, sim=cfg.sim.for_training(self.progress))
        if isinstance(env, Restartable):
            env.restart(seed)
        return env

    def _simulator_seed(self) -> int:
        return simulator_seed(self.cfg.seed, self.counters.iteration, self.attempt, self.ranks.rank)


class Learner(Loop):
    """TruDi, and REPPO, which differs in the policy alone."""

    advice = "Lower optim.learning_rate, or check that critic.v_min and v_max hold the returns"

    def build(self) -> None:
        self.agent = self.new_agent()
        self.optimizers = Optimizers(self.agent, self.cfg.optim, self.ranks)

    def new_agent(self) -> Agent:
        """What learns, as it is before the first iteration."""
        return make_agent(self.cfg, self.env)

    def start_collecting(self) -> None:
        self.collector = Collector(self.env, self.agent, self.generator)

    def capture(self) -> state.TensorDict:
        return state.capture(self.agent, self.optimizers, self.generator) | super().capture()

    def restore(self, tensors: state.TensorDict) -> None:
        state.restore(tensors, self.agent, self.optimizers, self.generator)
        super().restore(tensors)

    def measure(self, env: VectorEnv) -> EvalResult:
        return evaluate(self.agent, env, self.cfg.evaluation)

    def iterate(self) -> dict[str, float]:
        """One iteration: collect, compute targets, update, synchronise."""
        cfg, agent = self.cfg, self.agent
        self.optimizers.set_progress(self.progress)
        started = time.monotonic()

        with self.ranks.sharing(NonFiniteError):
            rollout = self.collector.collect(cfg.rollout_steps)
            require_finite(
                {"observation": rollout.raw.actor, "critic observation": rollout.raw.critic, "reward": rollout.reward}
            )
            collected = time.monotonic()
            batch = rollout.to_batch(agent, cfg.gamma, self.lam)
            require_finite({"return target": batch.target})
        metrics = self.improve(batch, rollout.raw)

        means = {key: float(value) for key, value in metrics.items()}
        means |= self.rollout_metrics(rollout)
        means["actor/entropy_target"] = self.entropy_target
        means["critic/target_mean"] = float(batch.target.mean())
        means["critic/target_max"] = float(batch.target.max())
        means["time/collect_s"] = collected - started
        means["time/steps_per_s"] = cfg.steps_per_iteration / (time.monotonic() - started)
        return means

    @property
    def entropy_target(self) -> float:
        """Target of H in this iteration, in nats, over all action dimensions."""
        return self.cfg.duals.entropy_target(self.cfg.algo, self.progress) * self.agent.policy.action_size

    @property
    def lam(self) -> float:
        """lambda of this iteration's returns."""
        return self.cfg.lam

    def improve(self, batch: Batch, raw: Observation) -> Metrics:
        """Critic, policy and duals from an iteration's samples, the statistics from their `raw` observations (T, M, ...)."""
        cfg, agent = self.cfg, self.agent
        with self.ranks.sharing(NonFiniteError):
            metrics = update(
                agent, self.optimizers, batch, cfg.update, cfg.trust_region, self.entropy_target, self.generator, cfg.threads
            )
        agent.update_normalizers(raw, self.ranks)
        agent.sync_old_policy()
        return metrics

    def rollout_metrics(self, rollout: Rollout) -> dict[str, float]:
        """What the collected data says of the policy as it trains, under SDE noise."""
        metrics = {
            "rollout/reward_mean": float(rollout.reward.mean()),
            "rollout/log_prob": float(rollout.next_log_prob.mean()),
            "policy/step_std_mean": float(rollout.stds.mean()),
        }
        if isinstance(self.agent.policy, DenoisingPolicy):
            metrics["policy/friction_mean"] = float(self.agent.policy.friction.detach().mean())
        return metrics | self.simulator_metrics(rollout.episodes)
