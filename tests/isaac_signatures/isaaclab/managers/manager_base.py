"""What the managers and their terms share."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from isaaclab.utils.string import resolve_matching_names

from .manager_term_cfg import ManagerTermBaseCfg
from .scene_entity_cfg import SceneEntityCfg

EnvIds = Sequence[int] | Tensor | slice | None


class ManagerTermBase(ABC):  # noqa: B024 - as the real one
    """A term with a memory."""

    def __init__(self, cfg: Any, env: Any) -> None:
        self.cfg = cfg
        self._env = env

    @property
    def num_envs(self) -> int:
        return self._env.num_envs

    @property
    def device(self) -> str:
        return self._env.device

    @property
    def __name__(self) -> str:  # type: ignore[override]
        return type(self).__name__

    def reset(self, env_ids: EnvIds = None) -> Any:
        """Forgets these environments."""
        return None

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError


class ManagerBase(ABC):
    """Reads its terms from a configuration, of which it keeps a copy."""

    def __init__(self, cfg: object, env: Any) -> None:
        self.cfg: Any = copy.deepcopy(cfg)
        self._env = env
        if self.cfg:
            self._prepare_terms()

    @property
    def num_envs(self) -> int:
        return self._env.num_envs

    @property
    def device(self) -> str:
        return self._env.device

    @property
    @abstractmethod
    def active_terms(self) -> list[str] | dict[str, list[str]]:
        """Names of the terms."""

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        """Starts new episodes of these environments; returns what to log of the old ones."""
        return {}

    def find_terms(self, name_keys: str | Sequence[str]) -> list[str]:
        active = self.active_terms
        names = [name for group in active.values() for name in group] if isinstance(active, dict) else active
        return resolve_matching_names(name_keys, names)[1]

    @abstractmethod
    def _prepare_terms(self) -> None: ...

    def _term_items(self, cfg: Any, kind: type) -> Iterator[tuple[str, Any]]:
        """The terms of a configuration (class or dict), without those set to None."""
        for name, term in (cfg if isinstance(cfg, dict) else vars(cfg)).items():
            if term is None:
                continue
            if not isinstance(term, kind):
                raise TypeError(f"term {name!r} is a {type(term).__name__}; expected a {kind.__name__}")
            yield name, term

    def _resolve_common_term_cfg(self, term_name: str, term_cfg: ManagerTermBaseCfg, min_argc: int = 1) -> None:
        """Looks up scene entities, checks the parameters against the function, makes an object of a class."""
        func: Any = term_cfg.func
        is_class = inspect.isclass(func)
        parameters = inspect.signature(func.__call__ if is_class else func).parameters
        own = list(parameters)[min_argc + is_class :]
        needed = {name for name in own if parameters[name].default is inspect.Parameter.empty}
        if not needed <= term_cfg.params.keys() <= set(own):
            raise ValueError(f"term {term_name!r} takes {own} (needs {sorted(needed)}), not {sorted(term_cfg.params)}")
        # A default SceneEntityCfg of the function itself stays unresolved, as in the real manager.
        for value in term_cfg.params.values():
            if isinstance(value, SceneEntityCfg):
                value.resolve(self._env.scene)
        if is_class:
            term_cfg.func = term_cfg.func(cfg=term_cfg, env=self._env)
