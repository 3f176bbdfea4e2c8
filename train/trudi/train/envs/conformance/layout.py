"""Sizes, types and devices of what a simulator returns."""

from __future__ import annotations

import torch
from torch import Tensor

from trudi.train.envs.base import VectorEnv


def size_faults(env: VectorEnv, num_envs: int) -> dict[str, str]:
    """`sizes`, where a simulator's attributes contradict its `info` or what was asked for."""
    info = env.info
    pairs: dict[str, tuple[object, object]] = {
        "num_envs": (env.num_envs, num_envs),
        "task": (env.task, info.task),
        "actor_size": (env.actor_size, sum(info.actor.values())),
        "critic_size": (env.critic_size, sum(info.critic.values())),
        "action_size": (env.action_size, info.action_size),
        "control_period_s": (env.control_period_s, info.control_period_s),
        "max_episode_steps": (env.max_episode_steps, info.max_episode_steps),
    }
    wrong = [f"{name} is {has!r}, not {should!r}" for name, (has, should) in pairs.items() if has != should]
    return {"sizes": "; ".join(wrong)} if wrong else {}


def tensor_faults(env: VectorEnv, name: str, tensor: object, num_envs: int) -> dict[str, str]:
    """What is wrong with a returned tensor's type, size and device, by the name of the check."""
    if not isinstance(tensor, Tensor):
        return {"dtypes": f"is a {type(tensor).__name__}, not a tensor"}
    faults: dict[str, str] = {}
    dtype = torch.bool if name in ("terminated", "truncated") else torch.float32
    if tensor.dtype != dtype:
        faults["dtypes"] = f"is {tensor.dtype}, not {dtype}"
    elif tensor.requires_grad or tensor.is_inference():
        faults["dtypes"] = (
            "has a gradient" if tensor.requires_grad else "was made in inference mode: nothing can train on it"
        )
    of, _, field_name = name.rpartition(".")
    count = num_envs if of in ("", "observation") else len(tensor) if tensor.dim() else -1  # rows of ends: checked elsewhere
    wanted = [count, *([getattr(env, f"{field_name}_size")] if of in ("observation", "terminal") else [])]
    if list(tensor.shape) != wanted:
        faults["sizes"] = f"has the shape {list(tensor.shape)}, not {wanted}"
    if not _is_on(tensor.device, env.device):
        faults["devices"] = f"is on {tensor.device}, not on {env.device}"
    return faults


def _is_on(device: torch.device, wanted: torch.device) -> bool:
    return device == wanted or torch.device(device.type) == wanted
