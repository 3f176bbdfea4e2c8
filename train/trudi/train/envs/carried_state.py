"""What a manager-based environment carries from episode to episode: curricula, and what commands are drawn from.

common_step_counter        steps since training began, by which curricula go
terrain.*                  each environment's level, type and origin
command.TERM.ranges.*      numbers in the term's `cfg.ranges`, which curricula widen
command.TERM.*             the term's tensors that are no environment's own (statistics of what failed, say)
curriculum.TERM.*          numbers and tensors of a curriculum term that is an object
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from trudi.train.errors import TrainError

TERRAIN = ("terrain_levels", "terrain_types", "env_origins")


@dataclass(frozen=True)
class _Slot:
    """One value that is carried, and how to put it back."""

    value: Tensor
    put: Callable[[Tensor], None]


def capture(env: Any) -> dict[str, Tensor]:
    """Copies of all values, by name."""
    return {name: slot.value.detach().clone() for name, slot in _slots(env)}


def restore(env: Any, state: Mapping[str, Tensor]) -> None:
    """Puts captured values back; TrainError where they are of another task or another number of environments."""
    slots = dict(_slots(env))
    if odd := sorted(set(slots) ^ set(state)):
        where = "simulator" if odd[0] in slots else "checkpoint"
        raise TrainError(f"the checkpoint's simulator state is another task's: only the {where} has '{odd[0]}'")
    for name, slot in slots.items():
        if state[name].shape != slot.value.shape:
            given, wanted = tuple(state[name].shape), tuple(slot.value.shape)
            raise TrainError(f"the checkpoint's simulator state '{name}' has shape {given}, this simulator's has {wanted}")
    for name, slot in slots.items():
        slot.put(state[name])


def _slots(env: Any) -> Iterator[tuple[str, _Slot]]:
    yield "common_step_counter", _number(env, "common_step_counter")
    terrain = getattr(getattr(env, "scene", None), "terrain", None)
    for name in TERRAIN:
        if isinstance(getattr(terrain, name, None), Tensor):
            yield f"terrain.{name}", _tensor(terrain, name)
    commands = getattr(env, "command_manager", None)
    for name in getattr(commands, "active_terms", []):
        term = cast("Any", commands).get_term(name)
        ranges = getattr(term.cfg, "ranges", None)
        for key in vars(ranges) if ranges is not None else ():
            if _is_numeric(getattr(ranges, key)):
                yield f"command.{name}.ranges.{key}", _number(ranges, key)
        for key, value in vars(term).items():
            if isinstance(value, Tensor) and (value.ndim == 0 or len(value) != env.num_envs):
                yield f"command.{name}.{key.lstrip('_')}", _tensor(term, key)
    curriculum = getattr(env, "curriculum_manager", None)
    for name in getattr(curriculum, "active_terms", []):
        judge = _curriculum_term(curriculum, name)
        for key, value in getattr(judge, "__dict__", {}).items():  # a plain function holds nothing
            if isinstance(value, Tensor):
                yield f"curriculum.{name}.{key.lstrip('_')}", _tensor(judge, key)
            elif _is_numeric(value):
                yield f"curriculum.{name}.{key.lstrip('_')}", _number(judge, key)


def _curriculum_term(manager: Any, name: str) -> Any:
    return manager._term_cfgs[list(manager.active_terms).index(name)].func


def _is_numeric(value: Any) -> bool:
    entries = value if isinstance(value, (tuple, list)) else (value,)
    return all(isinstance(entry, (int, float)) and not isinstance(entry, bool) for entry in cast("tuple[Any, ...]", entries))


def _tensor(owner: Any, name: str) -> _Slot:
    value: Tensor = getattr(owner, name)
    return _Slot(value, lambda saved: cast("None", value.copy_(saved)))


def _number(owner: Any, name: str) -> _Slot:
    """An int, a float or a tuple of them, as a float64 tensor: exact for both."""
    before = getattr(owner, name)

    def put(saved: Tensor) -> None:
        if isinstance(before, (tuple, list)):
            kinds = [type(entry) for entry in cast("tuple[Any, ...]", before)]
            setattr(owner, name, type(before)(kind(entry) for kind, entry in zip(kinds, saved.tolist(), strict=True)))
        else:
            setattr(owner, name, type(before)(saved.item()))

    return _Slot(torch.tensor(before, dtype=torch.float64), put)
