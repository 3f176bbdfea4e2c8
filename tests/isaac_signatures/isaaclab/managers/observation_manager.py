"""Observations: groups of terms, with noise, clip, scale and history."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from isaaclab.utils.buffers import CircularBuffer
from isaaclab.utils.noise import NoiseCfg, NoiseModelCfg

from .manager_base import EnvIds, ManagerBase, ManagerTermBase
from .manager_term_cfg import ObservationGroupCfg, ObservationTermCfg

_SETTINGS = {"enable_corruption", "concatenate_terms", "history_length", "flatten_history_dim", "concatenate_dim"}
_OVERLOADS = {"clip", "scale", "history_length", "flatten_history_dim"}
GroupObs = Tensor | dict[str, Tensor]
Dims = tuple[int, ...]


class ObservationManager(ManagerBase):
    """Computes the groups."""

    def __init__(self, cfg: object, env: Any) -> None:
        if cfg is None:
            raise ValueError("an environment needs observations")
        self._group_obs_term_names: dict[str, list[str]] = {}
        self._group_obs_term_dim: dict[str, list[Dims]] = {}
        self._group_obs_term_cfgs: dict[str, list[ObservationTermCfg]] = {}
        self._group_obs_class_term_cfgs: dict[str, list[ObservationTermCfg]] = {}
        self._group_obs_concatenate: dict[str, bool] = {}
        self._group_obs_concatenate_dim: dict[str, int] = {}
        self._group_obs_term_history_buffer: dict[str, dict[str, CircularBuffer]] = {}
        self._group_obs_class_instances: list[Any] = []  # of all groups, in one list
        super().__init__(cfg, env)
        self._group_obs_dim: dict[str, Dims | list[Dims]] = {
            group: self._joined(group, dims) if self._group_obs_concatenate[group] else dims
            for group, dims in self._group_obs_term_dim.items()
        }
        self._obs_buffer: dict[str, GroupObs] | None = None

    @property
    def active_terms(self) -> dict[str, list[str]]:
        return self._group_obs_term_names

    @property
    def group_obs_dim(self) -> dict[str, Dims | list[Dims]]:
        return self._group_obs_dim

    @property
    def group_obs_term_dim(self) -> dict[str, list[Dims]]:
        """Of a term with a flattened history the size is a numpy integer, as in the real manager."""
        return self._group_obs_term_dim

    @property
    def group_obs_concatenate(self) -> dict[str, bool]:
        return self._group_obs_concatenate

    @property
    def get_IO_descriptors(  # noqa: PLR0206 - the real signature
        self, group_names_to_export: Sequence[str] = ("policy",)
    ) -> dict[str, list[dict[str, Any]]]:
        """Of the group `policy` only, since a property takes no argument. Calls every term once more."""
        return {group: self._describe(group) for group in self._group_obs_term_names if group in group_names_to_export}

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        for group, cfgs in self._group_obs_class_term_cfgs.items():
            for cfg in cfgs:
                cfg.func.reset(env_ids=env_ids)
            for buffer in self._group_obs_term_history_buffer[group].values():
                buffer.reset(batch_ids=env_ids)  # type: ignore[arg-type]
        for instance in self._group_obs_class_instances:
            instance.reset(env_ids=env_ids)
        return {}

    def compute(self, update_history: bool = False) -> dict[str, GroupObs]:
        """All groups."""
        self._obs_buffer = {group: self.compute_group(group, update_history) for group in self._group_obs_term_names}
        return self._obs_buffer

    def compute_group(self, group_name: str, update_history: bool = False) -> GroupObs:
        """One group. Noise is drawn anew; without `update_history` a term with history returns what it held before."""
        if group_name not in self._group_obs_term_names:
            raise ValueError(f"no observation group {group_name!r}. Available: {list(self._group_obs_term_names)}")
        values = {
            name: self._with_history(group_name, name, cfg, self._term_value(cfg), update_history)
            for name, cfg in zip(self._group_obs_term_names[group_name], self._group_obs_term_cfgs[group_name], strict=True)
        }
        if not self._group_obs_concatenate[group_name]:
            return values
        return torch.cat(list(values.values()), dim=self._group_obs_concatenate_dim[group_name])

    def _term_value(self, cfg: ObservationTermCfg) -> Tensor:
        """Modifiers, noise, clip and scale, in this order (envs, ...)."""
        value = cfg.func(self._env, **cfg.params).clone()
        for modifier in cfg.modifiers or ():
            value = modifier.func(value, **modifier.params)
        if isinstance(cfg.noise, NoiseCfg):
            value = cfg.noise.func(value, cfg.noise)
        elif isinstance(cfg.noise, NoiseModelCfg) and cfg.noise.func is not None:
            value = cfg.noise.func(value)
        if cfg.clip:
            value = value.clip_(min=cfg.clip[0], max=cfg.clip[1])
        return value if cfg.scale is None else value.mul_(cfg.scale)  # type: ignore[arg-type] - a tensor by now

    def _with_history(self, group: str, name: str, cfg: ObservationTermCfg, value: Tensor, update: bool) -> Tensor:
        if cfg.history_length == 0:
            return value
        buffer = self._group_obs_term_history_buffer[group][name]
        if update:
            buffer.append(value)
        elif buffer._buffer is None:  # nothing yet: answered from a buffer that is thrown away
            buffer = CircularBuffer(buffer.max_length, buffer.batch_size, buffer.device)
            buffer.append(value)
        return buffer.buffer.reshape(self.num_envs, -1) if cfg.flatten_history_dim else buffer.buffer

    def _describe(self, group: str) -> list[dict[str, Any]]:
        described = []
        for name, cfg in zip(self._group_obs_term_names[group], self._group_obs_term_cfgs[group], strict=True):
            try:
                cfg.func(self._env, **cfg.params, inspect=True)
                item = dict(vars(cfg.func._descriptor))  # type: ignore[attr-defined]
            except Exception as error:  # a term without a descriptor is left out, with a printed line
                print(f"Error getting IO descriptor for term '{name}' in group '{group}': {error}")
                continue
            item |= {key: value for key, value in vars(cfg).items() if key in _OVERLOADS | {"modifiers"}}
            entry: dict[str, Any] = {"name": item.pop("name"), "overloads": {}, "extras": item.pop("extras")}
            for key, value in item.items():
                plain = list(value) if isinstance(value, tuple) else value
                plain = plain.detach().cpu().tolist() if isinstance(plain, Tensor) else plain
                where = entry["extras"] if key in {"modifiers", "description", "units"} else entry
                (entry["overloads"] if key in _OVERLOADS else where)[key] = plain
            described.append(entry)
        return described

    def _joined(self, group: str, dims: list[Dims]) -> Dims:
        """Shape of the concatenated terms, without the batch."""
        axis = self._group_obs_concatenate_dim[group]
        axis = axis - 1 if axis >= 0 else axis
        shape = [int(size) for size in dims[0]]
        shape[axis] = sum(int(dim[axis]) for dim in dims)
        return tuple(shape)

    def _prepare_terms(self) -> None:
        for group, cfg in self._term_items(self.cfg, ObservationGroupCfg):
            self._group_obs_term_names[group] = []
            self._group_obs_term_dim[group] = []
            self._group_obs_term_cfgs[group] = []
            self._group_obs_class_term_cfgs[group] = []
            self._group_obs_term_history_buffer[group] = {}
            self._group_obs_concatenate[group] = cfg.concatenate_terms
            self._group_obs_concatenate_dim[group] = cfg.concatenate_dim + (cfg.concatenate_dim >= 0)
            terms = {name: term for name, term in vars(cfg).items() if name not in _SETTINGS}
            for name, term in self._term_items(terms, ObservationTermCfg):
                self._prepare_term(group, cfg, name, term)

    def _prepare_term(self, group: str, cfg: ObservationGroupCfg, name: str, term: ObservationTermCfg) -> None:
        self._resolve_common_term_cfg(f"{group}/{name}", term, min_argc=1)
        if not cfg.enable_corruption:
            term.noise = None
        if cfg.history_length is not None:
            term.history_length, term.flatten_history_dim = cfg.history_length, cfg.flatten_history_dim
        shape: Any = tuple(term.func(self._env, **term.params).shape)
        if term.scale is not None:
            term.scale = torch.tensor(term.scale, dtype=torch.float, device=self.device)  # type: ignore[assignment]
        for modifier in term.modifiers or ():
            if inspect.isclass(modifier.func):
                modifier.func = cast("Any", modifier.func)(cfg=modifier, data_dim=shape, device=self.device)
                self._group_obs_class_instances.append(modifier.func)
        if isinstance(term.noise, NoiseModelCfg):
            term.noise.func = term.noise.class_type(term.noise, num_envs=self.num_envs, device=self.device)
            self._group_obs_class_instances.append(term.noise.func)
        if term.history_length > 0:
            self._group_obs_term_history_buffer[group][name] = CircularBuffer(
                term.history_length, self.num_envs, self.device
            )
            shape = (shape[0], term.history_length, *shape[1:])
            if term.flatten_history_dim:
                shape = (shape[0], np.prod(shape[1:]))
        self._group_obs_term_names[group].append(name)
        self._group_obs_term_cfgs[group].append(term)
        self._group_obs_term_dim[group].append(shape[1:])
        if isinstance(term.func, ManagerTermBase):
            self._group_obs_class_term_cfgs[group].append(term)
            term.func.reset()
