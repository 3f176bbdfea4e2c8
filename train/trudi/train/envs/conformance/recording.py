"""Running a simulator while copying all that it gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trudi.train.envs.base import EpisodeStats, Observation, StepResult, VectorEnv
from trudi.train.envs.conformance.comparing import is_same
from trudi.train.envs.conformance.layout import size_faults, tensor_faults
from trudi.train.envs.conformance.takes import Take

STEPS_AFTER = 5
"""Steps that a run goes on for after it has seen enough episodes end: what follows an end is checked too."""


class Make(Protocol):
    """Gives a fresh simulator."""

    def __call__(self, num_envs: int, seed: int, stagger: bool, /) -> VectorEnv: ...


@dataclass(frozen=True)
class Interference:
    """What a run does beside stepping, and what must not matter to the simulator."""

    random_state: bool = False
    """Seeds the process's random numbers (torch, NumPy, Python) anew before every step."""
    scribbling: bool = False
    """Overwrites what a step returned, and its action, as soon as they are copied."""
    excess: bool = False
    """Gives actions beyond [-1, 1] as they were drawn; without it they are clipped first."""


@dataclass(frozen=True)
class Enough:
    """What a run may stop after: episodes that ended, and those of them that did not terminate."""

    ends: int
    cuts: int


def drawn_actions(steps: int, num_envs: int, action_size: int, seed: int) -> Tensor:
    """Actions (steps, envs, actions) in [-1.5, 1.5] for even environments, and small ones for odd ones.

    A third of the bold ones lies outside [-1, 1]. They make robots fall; the others let episodes reach the time limit.
    """
    generator = torch.Generator().manual_seed(seed)
    actions = 3.0 * torch.rand(steps, num_envs, action_size, generator=generator) - 1.5
    actions[:, 1::2] *= 0.1
    return actions


def play(
    make: Make,
    seed: int,
    num_envs: int,
    draw: Callable[[VectorEnv], Tensor],
    *,
    stagger: bool,
    enough: Enough | None = None,
    interference: Interference = Interference(),
) -> Take:
    """A fresh simulator's run under the actions (steps, envs, actions) that `draw` gives for it."""
    with random_state_kept():
        env = make(num_envs, seed, stagger)
        try:
            recorder = _Recorder(env, num_envs, interference)
            recorder.run(draw(env), enough)
        finally:
            env.close()
    return recorder.take(stagger)


@contextmanager
def random_state_kept() -> Generator[None]:
    """Leaves the process's random numbers as they were before."""
    python, numpy, torch_cpu, torch_cuda = random.getstate(), np.random.get_state(), torch.get_rng_state(), _cuda_states()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_cpu)
        if torch_cuda:
            torch.cuda.set_rng_state_all(torch_cuda)


def _cuda_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


@dataclass
class _Recorder:
    env: VectorEnv
    num_envs: int
    interference: Interference
    first: Observation = field(default_factory=lambda: Observation(torch.empty(0), torch.empty(0)))
    steps: list[StepResult] = field(default_factory=list[StepResult])
    state: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    layout: dict[str, str] = field(default_factory=dict[str, str])
    broken: bool = True
    ends: int = 0
    cuts: int = 0
    action_changed: str = ""
    logs: tuple[dict[str, float], dict[str, float]] = field(default_factory=lambda: ({}, {}))
    returned: list[tuple[str, Tensor, Tensor]] = field(default_factory=list[tuple[str, Tensor, Tensor]])
    """Name, what was returned, and its copy."""

    def run(self, actions: Tensor, enough: Enough | None) -> None:
        self.layout |= size_faults(self.env, self.num_envs)
        self._disturb(0)
        first = self.env.reset()
        if not self._keep("reset()", _named(first)):
            return
        self.first = copied(first)
        self._scribble(_named(first))
        left = len(actions)
        for t, action in enumerate(actions):
            if not self._step(t, action):
                return
            left -= 1
            if enough is not None and self.ends >= enough.ends and self.cuts >= enough.cuts:
                left, enough = min(left, STEPS_AFTER), None
            if not left:
                break
        self.state = {key: value.detach().to("cpu", copy=True) for key, value in self.env.state().items()}
        self.logs = self.env.log(), self.env.log()
        self.broken = False

    def take(self, stagger: bool) -> Take:
        """The run, once the simulator is closed."""
        changed = next((name for name, now, before in self.returned if not is_same(now, before)), "")
        return Take(
            info=self.env.info,
            exceptions=dict(self.env.exceptions),
            stagger=stagger,
            first=self.first,
            steps=self.steps,
            state=self.state,
            layout=self.layout,
            broken=self.broken,
            changed=changed,
            action_changed=self.action_changed,
            logs=self.logs,
        )

    def _step(self, t: int, drawn: Tensor) -> bool:
        """One step; False where what it returned cannot be looked at any further."""
        self._disturb(t + 1)
        wanted = drawn if self.interference.excess else drawn.clamp(-1.0, 1.0)
        action = wanted.to(self.env.device, copy=True)
        step = self.env.step(action)
        if not self.action_changed and not is_same(action, wanted.to(action.device)):
            self.action_changed = f"the action of step {t}"
        named = _named(step.observation) | {
            "reward": step.reward,
            "terminated": step.terminated,
            "truncated": step.truncated,
            **({} if step.terminal is None else _named(step.terminal, "terminal")),
            "episodes.returns": step.episodes.returns,
            "episodes.lengths": step.episodes.lengths,
        }
        if not self._keep(f"step {t}", named):
            return False
        terminal = None if step.terminal is None else copied(step.terminal)
        episodes = EpisodeStats(*(_copy(tensor) for tensor in (step.episodes.returns, step.episodes.lengths)))
        flags = (_copy(step.terminated).bool(), _copy(step.truncated).bool())
        self.steps.append(StepResult(copied(step.observation), _copy(step.reward), *flags, terminal, episodes))
        self.ends += int(self.steps[-1].ended.sum())
        self.cuts += int((self.steps[-1].truncated & ~self.steps[-1].terminated).sum())
        self._scribble(named | {"action": action})
        return True

    def _keep(self, when: str, named: Mapping[str, object]) -> bool:
        """Remembers tensors, and what is wrong with their layout; False where they cannot be compared at all."""
        for name, tensor in named.items():
            for check, fault in tensor_faults(self.env, name, tensor, self.num_envs).items():
                self.layout.setdefault(check, f"{name} of {when} {fault}")
        tensors = {name: one for name, one in named.items() if isinstance(one, Tensor)}
        if len(tensors) < len(named) or self.layout.keys() & {"sizes", "devices"}:
            return False
        if not self.interference.scribbling:
            self.returned += [(f"{name} of {when}", tensor, tensor.detach().clone()) for name, tensor in tensors.items()]
        return True

    def _disturb(self, t: int) -> None:
        if self.interference.random_state:
            random.seed(1000 + t)
            np.random.seed(1000 + t)
            torch.default_generator.manual_seed(1000 + t)  # torch.manual_seed queues a call for a CUDA that is not used
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(1000 + t)

    def _scribble(self, named: Mapping[str, Tensor]) -> None:
        if self.interference.scribbling:
            with torch.inference_mode():  # where a simulator returns tensors that were made in it
                for tensor in named.values():
                    tensor.fill_(True if tensor.dtype == torch.bool else float("nan") if tensor.is_floating_point() else -1)


def _named(observation: Observation, of: str = "observation") -> dict[str, Tensor]:
    return {f"{of}.actor": observation.actor, f"{of}.critic": observation.critic}


def copied(observation: Observation) -> Observation:
    """A copy on the CPU."""
    return Observation(_copy(observation.actor), _copy(observation.critic))


def _copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU; floating point as float32, so that runs compare."""
    copied = tensor.detach().to("cpu", copy=True)
    return copied.float() if copied.is_floating_point() else copied
