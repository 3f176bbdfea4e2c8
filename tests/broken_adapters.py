"""A small simulator that keeps every promise of `VectorEnv`, and versions of it that each break one."""

import itertools
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from trudi.train.envs.base import EpisodeStats, EpisodeTracker, Observation, Stateless, StepResult, TaskInfo
from trudi.train.envs.envpool import describe, make_pool
from trudi.train.errors import TrainError

LIMIT = 30


class PointMass:
    """Points that are pushed about in the plane, and terminate 0.8 from its middle; the critic also sees their goal."""

    exceptions: ClassVar[dict[str, str]] = {}

    def __init__(self, num_envs, seed, stagger):
        actor = {"position": 2, "velocity": 2}
        self.info = TaskInfo("test:PointMass-v1", actor, actor | {"goal": 2}, 2, 0.1, LIMIT)
        self.task, self.num_envs, self.device = self.info.task, num_envs, torch.device("cpu")
        self.actor_size, self.critic_size, self.action_size = 4, 6, 2
        self.control_period_s, self.max_episode_steps = 0.1, LIMIT
        self.closed, self.logged = False, False
        self.level = torch.zeros(num_envs)  # of a curriculum: where episodes start
        PointMass.restart(self, seed, stagger=stagger)
        self.position, self.velocity, self.goal = (torch.zeros(num_envs, 2) for _ in range(3))

    def first_lengths(self):
        return torch.from_numpy(np.random.default_rng([self.seed, self.num_envs]).integers(1, LIMIT + 1, self.num_envs))

    def numbers(self, env):
        """What decides an environment's next episode."""
        return np.random.default_rng([self.seed + env, int(self.episode[env])])

    def reset(self):
        self.begin(torch.ones(self.num_envs, dtype=torch.bool))
        return self.observe()

    def begin(self, ended):
        """Starts the next episode of some environments."""
        drawn = torch.zeros(self.num_envs, 2, 2)
        for env in ended.nonzero().flatten().tolist():
            drawn[env] = torch.from_numpy(self.numbers(env).uniform(-1.0, 1.0, (2, 2)))
        at, new = drawn[:, 0] * (0.1 + 0.001 * self.level[:, None]), ended[:, None]
        self.position = torch.where(new, at, self.position)
        self.velocity = torch.where(new, 0.0, self.velocity)
        self.goal = torch.where(new, drawn[:, 1], self.goal)

    def observe(self):
        actor = torch.cat([self.position, self.velocity], 1)
        return Observation(actor, torch.cat([actor, self.goal], 1))

    def push(self, action):
        self.velocity = self.velocity + 0.3 * action
        self.position = self.position + 0.1 * self.velocity

    def clip(self, action):
        return action.clamp(-1.0, 1.0)

    def step(self, action):
        if self.closed:
            raise TrainError("it was closed")
        self.logged = False
        self.push(self.clip(action))
        self.age = self.age + 1
        reward = -(self.position - self.goal).norm(dim=1)
        terminated = self.position.norm(dim=1) > 0.8
        truncated = (self.age >= self.length) & ~terminated
        self.cut = truncated & (self.age < LIMIT)
        ended = terminated | truncated
        observation, terminal = self.observe(), None
        if ended.any():
            terminal = observation[ended.nonzero().flatten()]
            self.end(ended)
            observation = self.observe()
        return StepResult(observation, reward, terminated, truncated, terminal, self.statistics(reward, ended))

    def statistics(self, reward, ended):
        return self.tracker.step(reward, ended, ~self.cut)

    def end(self, ended):
        self.episode = self.episode + ended
        self.level = self.level + ended
        self.age = torch.where(ended, 0, self.age)
        self.length = torch.where(ended, LIMIT, self.length)
        self.begin(ended)

    def state(self):
        return {"level": self.level}

    def restore(self, state):
        if state.keys() != {"level"}:
            raise TrainError("another task's")
        self.level = state["level"].to(self.device)

    def restart(self, seed, *, stagger=True):
        self.seed, none = seed, torch.zeros(self.num_envs, dtype=torch.int64)
        self.tracker = EpisodeTracker(self.num_envs, self.device)
        self.episode, self.age = none, none
        self.length = self.first_lengths() if stagger else none + LIMIT

    def log(self):
        reported = {} if self.logged else {"level": float(self.level.mean())}
        self.logged = True
        return reported

    def close(self):
        self.closed = True


class OneStreamOfNumbers(PointMass):
    """Keeps every promise too; all environments draw from one stream, so that each reset changes what the next ones draw.

    As simulators do that draw from torch's generator. The noise makes that visible in every step.
    """

    def restart(self, seed, *, stagger=True):
        super().restart(seed, stagger=stagger)
        self.stream = np.random.default_rng(seed)

    def __init__(self, num_envs, seed, stagger):
        super().__init__(num_envs, seed, stagger)
        self.stream = np.random.default_rng(seed)

    def numbers(self, env):
        return self.stream

    def push(self, action):
        super().push(action)
        self.position = self.position + 0.01 * torch.from_numpy(self.stream.normal(size=(self.num_envs, 2))).float()


FAULTS = {}


def breaks(*checks):
    """Enters a class of simulators with the checks that must fail, and no others."""

    def enter(cls):
        FAULTS[cls.__name__] = (cls, set(checks))
        return cls

    return enter


class Altered(PointMass):
    """What a step returns, changed by `alter`."""

    def step(self, action):
        before = self.observe()
        return self.alter(super().step(action), before)


@breaks("terminal-true")
class ResetObservationAsTerminal(Altered):
    def alter(self, step, before):
        return step if step.terminal is None else replace(step, terminal=step.observation[step.ended.nonzero().flatten()])


@breaks("terminal-true")
class ResetObservationWithOtherNoiseAsTerminal(Altered):
    """Computed once more after the reset."""

    def alter(self, step, before):
        if step.terminal is None:
            return step
        first = step.observation[step.ended.nonzero().flatten()]
        return replace(step, terminal=Observation(first.actor + 0.001, first.critic + 0.001))


@breaks("terminal-true")
class ResetObservationAsTerminalOfTerminated(Altered):
    """And right at time limits: a twin that is cut has nothing to say of it."""

    def alter(self, step, before):
        if not step.terminated.any():
            return step
        ended = step.ended.nonzero().flatten()
        wrong, right = step.observation[ended], step.terminal
        where = step.terminated[ended][:, None]
        actor = torch.where(where, wrong.actor + 0.001, right.actor)
        return replace(step, terminal=Observation(actor, torch.where(where, wrong.critic + 0.001, right.critic)))


@breaks("terminal-true")
class ObservationBeforeAsTerminal(Altered):
    def alter(self, step, before):
        return step if step.terminal is None else replace(step, terminal=before[step.ended.nonzero().flatten()])


@breaks("terminal-true")
class TerminalOfTheActorAlone(Altered):
    """The critic's rows are the reset's."""

    def alter(self, step, before):
        if step.terminal is None:
            return step
        return replace(step, terminal=Observation(step.terminal.actor, step.observation.critic[step.ended]))


@breaks("terminal-rows")
class RowsReversed(Altered):
    def alter(self, step, before):
        if step.terminal is None:
            return step
        return replace(step, terminal=Observation(step.terminal.actor.flip(0), step.terminal.critic.flip(0)))


@breaks("terminal-rows")
class RowForEveryEnvironment(Altered):
    def alter(self, step, before):
        return step if step.terminal is None else replace(step, terminal=before)


@breaks("terminal-given")
class TerminalMissing(Altered):
    def alter(self, step, before):
        return replace(step, terminal=None)


class TerminalMissingAsDeclared(TerminalMissing):
    exceptions: ClassVar = {"terminal-given": "the simulator resets before it observes"}


@breaks("exceptions")
class UnknownException(PointMass):
    exceptions: ClassVar = {"terminal-givn": "a slip of the pen"}


@breaks("exceptions")
class UnexplainedException(TerminalMissing):
    exceptions: ClassVar = {"terminal-given": ""}


class NeedlessException(PointMass):
    exceptions: ClassVar = {"finite": "once upon a time"}


@breaks("no-reset-step")
class ResetStepWithOneStreamOfNumbers(OneStreamOfNumbers):
    def push(self, action):
        super().push(torch.where(((self.age == 0) & (self.episode > 0))[:, None], 0.0, action))


@breaks("terminal-true")
class ResetObservationWithOneStreamOfNumbers(OneStreamOfNumbers):
    def step(self, action):
        step = super().step(action)
        if step.terminal is None:
            return step
        first = step.observation[step.ended.nonzero().flatten()]
        return replace(step, terminal=Observation(first.actor + 0.001, first.critic + 0.001))


@breaks("no-reset-step")
class ResetStepInTheData(PointMass):
    """The first action of an episode is not taken."""

    def push(self, action):
        super().push(torch.where(((self.age == 0) & (self.episode > 0))[:, None], 0.0, action))


@breaks("no-reset-step", "next-first")
class ResetInTheNextStep(PointMass):
    """As EnvPool does it: the terminal observation is returned as the next one, and the step after it is the reset."""

    def reset(self):
        self.waiting = torch.zeros(self.num_envs, dtype=torch.bool)
        return super().reset()

    def push(self, action):
        kept = self.position, self.velocity
        super().push(action)
        self.position = torch.where(self.waiting[:, None], kept[0], self.position)
        self.velocity = torch.where(self.waiting[:, None], kept[1], self.velocity)

    def step(self, action):
        step = super().step(action)
        if step.terminal is None:
            self.waiting = torch.zeros(self.num_envs, dtype=torch.bool)
            return step
        self.waiting = step.ended
        index = step.ended.nonzero().flatten()
        actor = step.observation.actor.index_copy(0, index, step.terminal.actor)
        return replace(
            step, observation=Observation(actor, step.observation.critic.index_copy(0, index, step.terminal.critic))
        )


@breaks("limit-truncates")
class LimitTerminates(Altered):
    def alter(self, step, before):
        at_limit = step.truncated & ~self.cut
        return replace(step, terminated=step.terminated | at_limit, truncated=step.truncated & ~at_limit)


@breaks("limit-truncates", "episode-statistics")
class CutTerminates(Altered):
    """Which then also lacks in the statistics."""

    def alter(self, step, before):
        return replace(step, terminated=step.terminated | self.cut, truncated=step.truncated & ~self.cut)


@breaks("early-truncation")
class TerminationTruncates(Altered):
    def alter(self, step, before):
        return replace(step, terminated=torch.zeros_like(step.terminated), truncated=step.ended)


@breaks("never-both")
class BothAtOnce(Altered):
    def alter(self, step, before):
        return replace(step, truncated=step.ended)


@breaks("time-limit")
class OneStepTooMany(PointMass):
    def __init__(self, *args):
        super().__init__(*args)
        self.length = torch.where(self.length == LIMIT, LIMIT + 1, self.length)

    def end(self, ended):
        super().end(ended)
        self.length = torch.where(ended, LIMIT + 1, self.length)


@breaks("time-limit")
class LongerFromTheSecondOn(PointMass):
    def end(self, ended):
        super().end(ended)
        self.length = torch.where(ended, LIMIT + 1, self.length)


@breaks("returned-tensors-stay")
class OneBuffer(Altered):
    def alter(self, step, before):
        if not hasattr(self, "buffer"):
            self.buffer = torch.zeros_like(step.reward)
        return replace(step, reward=self.buffer.copy_(step.reward))


@breaks("returned-tensors-stay")
class ClosingWrites(Altered):
    def alter(self, step, before):
        self.last = step.observation.actor
        return step

    def close(self):
        super().close()
        self.last.zero_()


@breaks("nothing-shared")
class StateIsReturned(PointMass):
    def observe(self):
        observation = super().observe()
        self.position = observation.actor[:, :2]
        return observation


@breaks("nothing-shared")
class StateIsReturnedAndGuarded(StateIsReturned):
    def push(self, action):
        if not self.position.isfinite().all():
            raise RuntimeError("diverged")
        super().push(action)


@breaks("nothing-shared")
class ActionIsKept(PointMass):
    def reset(self):
        self.last = torch.zeros(1)
        return super().reset()

    def clip(self, action):
        smooth = super().clip(action) + 0.1 * super().clip(self.last)
        self.last = action
        return super().clip(smooth)


@breaks("action-untouched")
class ActionClippedInPlace(PointMass):
    def clip(self, action):
        return action.clamp_(-1.0, 1.0)


@breaks("actions-clipped")
class ActionUnclipped(PointMass):
    def clip(self, action):
        return action


@breaks("episode-statistics")
class ReturnWithoutTheLastReward(PointMass):
    def statistics(self, reward, ended):
        return super().statistics(torch.where(ended, 0.0, reward), ended)


@breaks("episode-statistics")
class LengthFromZero(Altered):
    def alter(self, step, before):
        return replace(step, episodes=EpisodeStats(step.episodes.returns, step.episodes.lengths - 1))


@breaks("episode-statistics")
class ReportedTwice(Altered):
    def alter(self, step, before):
        if not len(step.episodes.returns) or self.cut.any():
            return step
        return replace(step, episodes=EpisodeStats(step.episodes.returns.repeat(2), step.episodes.lengths.repeat(2)))


@breaks("cuts-left-out")
class CutsCounted(PointMass):
    def statistics(self, reward, ended):
        return self.tracker.step(reward, ended, ended)


@breaks("staggered-starts")
class NotStaggered(PointMass):
    def first_lengths(self):
        return torch.full((self.num_envs,), LIMIT)


@breaks("staggered-starts")
class AllCutTogether(PointMass):
    def first_lengths(self):
        return torch.full((self.num_envs,), 5)


@breaks("early-truncation", "episode-statistics")
class AlwaysStaggered(PointMass):
    """And so leaves out whole episodes."""

    def __init__(self, num_envs, seed, stagger):
        super().__init__(num_envs, seed, True)


@breaks("seeds-reproduce")
class SeedIgnored(PointMass):
    counter = itertools.count()

    def __init__(self, num_envs, seed, stagger):
        super().__init__(num_envs, seed, stagger)
        self.seed = 10_000 * next(self.counter)


@breaks("seeds-differ")
class OneSeed(PointMass):
    def __init__(self, num_envs, seed, stagger):
        super().__init__(num_envs, 0, stagger)


@breaks("environments-differ")
class CopiesOfOneEnvironment(PointMass):
    def numbers(self, env):
        return super().numbers(0) if not self.episode[env] else super().numbers(env)


@breaks("own-random-numbers")
class NumbersOfTheProcess(PointMass):
    def reset(self):
        torch.manual_seed(self.seed)
        return super().reset()

    def push(self, action):
        super().push(action + 0.1 * torch.randn(self.num_envs, 2))


@breaks("observation-order")
class OrderOfKeysChanges(PointMass):
    turn = itertools.cycle([False, True])

    def __init__(self, *args):
        super().__init__(*args)
        if next(self.turn):
            actor = dict(reversed(self.info.actor.items()))
            self.info = replace(self.info, actor=actor)


@breaks("sizes")
class SizesContradictInfo(PointMass):
    def __init__(self, *args):
        super().__init__(*args)
        self.info = replace(self.info, critic=self.info.actor)


@breaks("sizes")
class RewardColumn(Altered):
    def alter(self, step, before):
        return replace(step, reward=step.reward[:, None])


@breaks("sizes")
class OneEnvironmentSqueezed(Altered):
    def alter(self, step, before):
        return replace(step, reward=step.reward.squeeze())


@breaks("dtypes")
class Float64(Altered):
    def alter(self, step, before):
        return replace(step, observation=Observation(step.observation.actor.double(), step.observation.critic))


@breaks("dtypes")
class FlagsAreNumbers(Altered):
    def alter(self, step, before):
        return replace(step, truncated=step.truncated.float())


@breaks("dtypes")
class InferenceMode(PointMass):
    def step(self, action):
        with torch.inference_mode():
            return super().step(action)


@breaks("dtypes")
class NumpyReward(Altered):
    def alter(self, step, before):
        return replace(step, reward=step.reward.numpy())


@breaks("devices")
class RewardElsewhere(Altered):
    def alter(self, step, before):
        return replace(step, reward=step.reward.to("meta"))


@breaks("finite")
class NotANumber(Altered):
    def alter(self, step, before):
        actor = step.observation.actor.clone()
        actor[0, 0] = torch.where(self.episode[0] > 0, float("nan"), actor[0, 0])
        return replace(step, observation=Observation(actor, step.observation.critic))


@breaks("state-returns")
class StateIsNotRestored(PointMass):
    def restore(self, state):
        if state.keys() != {"level"}:
            raise TrainError("another task's")


@breaks("state-returns")
class StateOfItsOwnIsRefused(PointMass):
    def restore(self, state):
        raise TrainError("another task's")


@breaks("foreign-state-refused")
class ForeignStateTaken(PointMass):
    def restore(self, state):
        self.level = state.get("level", self.level)


@breaks("foreign-state-refused")
class ForeignStateIsAKeyError(PointMass):
    def restore(self, state):
        self.level = state["level"]


@breaks("restarts")
class RestartGoesOn(PointMass):
    def restart(self, seed, *, stagger=True):
        pass


@breaks("restarts")
class RestartKnowsOneSeed(PointMass):
    def restart(self, seed, *, stagger=True):
        super().restart(0, stagger=stagger)


@breaks("log-reports")
class LogIsATensor(PointMass):
    def log(self):
        return {"level": self.level.mean()} if super().log() else {}


@breaks("log-reports")
class LogRepeatsItself(PointMass):
    def log(self):
        return {"level": float(self.level.mean())}


@breaks("close-twice")
class ClosesOnce(PointMass):
    def close(self):
        if self.closed:
            raise RuntimeError("it is closed")
        super().close()


@breaks("closed-refuses")
class StepsWhenClosed(PointMass):
    def close(self):
        pass


class NaiveEnvPool(Stateless):
    """EnvPool as one would first wrap it: whatever a step says is passed on."""

    def __init__(self, num_envs, seed, stagger):
        self.pool = make_pool("CartpoleSwingup-v1", num_envs, seed, 1, max_episode_steps=LIMIT)
        self.info = describe("CartpoleSwingup-v1", self.pool)
        self.task, self.num_envs, self.device = self.info.task, num_envs, torch.device("cpu")
        self.actor_size, self.critic_size, self.action_size = 5, 5, 1
        self.control_period_s, self.max_episode_steps = 0.01, LIMIT
        self.tracker = EpisodeTracker(num_envs, self.device)

    def tensors(self, observed):
        flat = torch.from_numpy(np.concatenate([observed["position"], observed["velocity"]], 1).astype(np.float32))
        return Observation(flat, flat)

    def reset(self):
        return self.tensors(self.pool.reset()[0])

    def step(self, action):
        observed, reward, terminated, truncated, _ = self.pool.step(action.numpy().astype(np.float64))
        reward, terminated, truncated = (
            torch.from_numpy(part) for part in (reward.astype(np.float32), terminated, truncated)
        )
        ended = terminated | truncated
        stats = self.tracker.step(reward, ended, ended)
        return StepResult(self.tensors(observed), reward, terminated, truncated, None, stats)

    def close(self):
        self.pool.close()
