"""Actions: processed once a policy step, applied once a physics step."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isaaclab.envs.utils.io_descriptors import GenericActionIODescriptor

from .manager_base import EnvIds, ManagerBase, ManagerTermBase
from .manager_term_cfg import ActionTermCfg


class ActionTerm(ManagerTermBase):
    """A part of the action, for one entity."""

    def __init__(self, cfg: ActionTermCfg, env: Any) -> None:
        super().__init__(cfg, env)
        self._asset = env.scene[cfg.asset_name]
        self._IO_descriptor = GenericActionIODescriptor()
        self._export_IO_descriptor = True

    @property
    @abstractmethod
    def action_dim(self) -> int:
        """Width."""

    @property
    @abstractmethod
    def raw_actions(self) -> Tensor:
        """As the policy gave them."""

    @property
    @abstractmethod
    def processed_actions(self) -> Tensor:
        """As the entity gets them."""

    @property
    def IO_descriptor(self) -> Any:
        """One object, filled anew at every read."""
        cls = type(self)
        self._IO_descriptor.name = re.sub(r"([a-z])([A-Z])", r"\1_\2", cls.__name__).lower()
        self._IO_descriptor.full_path = f"{cls.__module__}.{cls.__name__}"
        self._IO_descriptor.description = " ".join((cls.__doc__ or "").split())
        self._IO_descriptor.export = self.export_IO_descriptor
        return self._IO_descriptor

    @property
    def export_IO_descriptor(self) -> bool:
        return self._export_IO_descriptor

    @abstractmethod
    def process_actions(self, actions: Tensor) -> None:
        """Once a policy step."""

    @abstractmethod
    def apply_actions(self) -> None:
        """Once a physics step."""


class ActionManager(ManagerBase):
    """Splits the action among the terms."""

    def __init__(self, cfg: object, env: Any) -> None:
        if cfg is None:
            raise ValueError("an environment needs actions")
        self._terms: dict[str, ActionTerm] = {}
        super().__init__(cfg, env)
        self._action = torch.zeros(self.num_envs, self.total_action_dim, device=self.device)
        self._prev_action = torch.zeros_like(self._action)

    @property
    def total_action_dim(self) -> int:
        return sum(self.action_term_dim)

    @property
    def active_terms(self) -> list[str]:
        return list(self._terms)

    @property
    def action_term_dim(self) -> list[int]:
        return [term.action_dim for term in self._terms.values()]

    @property
    def action(self) -> Tensor:
        """The buffer itself (envs, actions)."""
        return self._action

    @property
    def prev_action(self) -> Tensor:
        return self._prev_action

    @property
    def get_IO_descriptors(self) -> list[dict[str, Any]]:
        """A property despite its name. Not all of it can be written as YAML: `scale` may be a tensor."""
        descriptors = [dict(vars(term.IO_descriptor)) for term in self._terms.values()]
        exported = []
        for item in descriptors:
            entry = {"name": item.pop("name"), "extras": item.pop("extras")}
            if not item.pop("export"):
                continue
            for key, value in item.items():
                where = entry["extras"] if key in {"description", "units"} else entry
                where[key] = list(value) if isinstance(value, tuple) else value
            exported.append(entry)
        return exported

    def get_active_iterable_terms(self, env_idx: int) -> Sequence[tuple[str, Sequence[float]]]:
        parts = self._action[env_idx].cpu().split(self.action_term_dim)
        return [(name, part.tolist()) for name, part in zip(self._terms, parts, strict=True)]

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        rows = slice(None) if env_ids is None else env_ids
        self._prev_action[rows] = 0.0
        self._action[rows] = 0.0
        for term in self._terms.values():
            term.reset(env_ids=rows)
        return {}

    def process_action(self, action: Tensor) -> None:
        if action.shape[1] != self.total_action_dim:
            raise ValueError(f"the action has {action.shape[1]} columns; expected {self.total_action_dim}")
        self._prev_action[:] = self._action
        self._action[:] = action.to(self.device)
        for term, part in zip(self._terms.values(), action.split(self.action_term_dim, dim=1), strict=True):
            term.process_actions(part)

    def apply_action(self) -> None:
        for term in self._terms.values():
            term.apply_actions()

    def get_term(self, name: str) -> ActionTerm:
        return self._terms[name]

    def _prepare_terms(self) -> None:
        for name, cfg in self._term_items(self.cfg, ActionTermCfg):
            self._terms[name] = cfg.class_type(cfg, self._env)
