"""What a simulator does when its state is put back, when it is started over and when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trudi.train.envs.base import Observation, Restartable, TaskInfo, VectorEnv
from trudi.train.envs.conformance.comparing import is_same, unlike
from trudi.train.envs.conformance.recording import copied
from trudi.train.envs.conformance.takes import rows
from trudi.train.errors import TrainError


@dataclass
class Lifecycle:
    """What was wrong; "" is nothing."""

    info: TaskInfo
    first: Observation
    state_fault: str = ""
    foreign_fault: str = ""
    restart_fault: str | None = None
    """None where it is not `Restartable`."""
    close_fault: str = ""
    closed_fault: str = ""


def live(env: VectorEnv, state: dict[str, Tensor], actions: Tensor, seeds: tuple[int, int]) -> Lifecycle:
    """Puts a `state` back into a fresh simulator, starts it over under `actions` (steps, envs, actions), and closes it."""
    life = Lifecycle(env.info, copied(env.reset()))
    life.state_fault = raised(lambda: env.restore(state)) or _state_difference(state, env.state())
    life.foreign_fault = _unrefused(lambda: env.restore({"of_another_task": torch.zeros(1)}))
    if not life.state_fault and isinstance(env, Restartable):
        life.restart_fault = _restart_fault(env, actions, seeds)
    action = torch.zeros(env.num_envs, env.action_size, device=env.device)
    env.step(action)
    life.close_fault = raised(env.close) or raised(env.close)
    life.closed_fault = _unrefused(lambda: env.step(action))
    return life


class _RestartableEnv(VectorEnv, Restartable, Protocol): ...


def _restart_fault(env: _RestartableEnv, actions: Tensor, seeds: tuple[int, int]) -> str:
    """Whether restarts with the same seed, from the same state, give other runs, or one with another seed the same."""
    state = {name: tensor.clone() for name, tensor in env.state().items()}

    def restarted(seed: int) -> Tensor:
        env.restore(state)
        env.restart(seed, stagger=True)
        seen = [env.reset(), *(env.step(action.clamp(-1.0, 1.0).to(env.device)).observation for action in actions)]
        return torch.stack([rows(copied(one)) for one in seen])

    one, again, other = (restarted(seed) for seed in (seeds[0], *seeds))
    if is_same(one, other):
        return "another seed gives the same run"
    differs = unlike(one, again, 0.0).flatten(1).any(1).nonzero()
    return f"the same seed gives another run after {int(differs[0])} steps" if len(differs) else ""


def _state_difference(put: dict[str, Tensor], back: dict[str, Tensor]) -> str:
    if put.keys() != back.keys():
        return f"put {sorted(put)}, got {sorted(back)} back"
    return "".join(f"'{key}' came back with other numbers; " for key in put if not is_same(put[key], back[key].cpu()))


def raised(call: Callable[[], object]) -> str:
    """What a call that must succeed raised."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _unrefused(call: Callable[[], object]) -> str:
    """What a call that must raise TrainError did instead."""
    try:
        call()
    except TrainError:
        return ""
    except Exception as error:
        return f"{type(error).__name__} and no TrainError: {error}"
    return "it was accepted"
