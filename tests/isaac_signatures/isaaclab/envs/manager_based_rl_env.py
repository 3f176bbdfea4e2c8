"""A task of managers. The order of events in `step` and `_reset_idx` is the real one's, call by call."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from isaaclab.managers import CommandManager, CurriculumManager, RewardManager, TerminationManager
from isaaclab.managers.manager_base import EnvIds

from .common import VecEnvStepReturn
from .manager_based_env import ManagerBasedEnv
from .manager_based_rl_env_cfg import ManagerBasedRLEnvCfg
from .utils.render import render_scene


class ManagerBasedRLEnv(ManagerBasedEnv, gym.Env[Any, Any]):  # type: ignore[misc]
    """Resets ended environments within the step and returns their first observation."""

    is_vector_env: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = {"render_modes": [None, "human", "rgb_array"]}  # type: ignore[misc]
    cfg: ManagerBasedRLEnvCfg

    def __init__(self, cfg: ManagerBasedRLEnvCfg, render_mode: str | None = None, **kwargs: Any) -> None:
        self.common_step_counter = 0
        self.episode_length_buf = torch.zeros(cfg.scene.num_envs, device=cfg.sim.device, dtype=torch.long)
        super().__init__(cfg=cfg)
        self.render_mode = render_mode
        self.metadata["render_fps"] = 1 / self.step_dt
        print("[INFO]: Completed setting up the environment...")

    @property
    def max_episode_length_s(self) -> float:
        return self.cfg.episode_length_s

    @property
    def max_episode_length(self) -> int:
        return math.ceil(self.max_episode_length_s / self.step_dt)

    def load_managers(self) -> None:
        self.command_manager = CommandManager(self.cfg.commands, self)
        super().load_managers()
        self.termination_manager = TerminationManager(self.cfg.terminations, self)
        self.reward_manager = RewardManager(self.cfg.rewards, self)
        self.curriculum_manager = CurriculumManager(self.cfg.curriculum, self)
        self._configure_gym_env_spaces()
        if "startup" in self.event_manager.available_modes:
            self.event_manager.apply(mode="startup")

    def step(self, action: Tensor) -> VecEnvStepReturn:  # type: ignore[override]
        self.action_manager.process_action(action.to(self.device))
        self.recorder_manager.record_pre_step()
        for _ in range(self.cfg.decimation):
            self._sim_step_counter += 1
            self.action_manager.apply_action()
            self.scene.write_data_to_sim()
            self.sim.step(render=False)
            self.recorder_manager.record_post_physics_decimation_step()
            self.scene.update(dt=self.physics_dt)

        self.episode_length_buf += 1
        self.common_step_counter += 1
        self.reset_buf = self.termination_manager.compute()
        self.reset_terminated = self.termination_manager.terminated
        self.reset_time_outs = self.termination_manager.time_outs
        self.reward_buf = self.reward_manager.compute(dt=self.step_dt)

        reset_env_ids = self.reset_buf.nonzero(as_tuple=False).squeeze(-1)
        if len(reset_env_ids) > 0:
            if getattr(self.cfg, "compute_final_obs", False):  # Isaac Lab 3.0
                self.extras["final_obs"] = self.observation_manager.compute()
            self.recorder_manager.record_pre_reset(reset_env_ids)
            self._reset_idx(reset_env_ids)
            self.recorder_manager.record_post_reset(reset_env_ids)

        self.command_manager.compute(dt=self.step_dt)
        if "interval" in self.event_manager.available_modes:
            self.event_manager.apply(mode="interval", dt=self.step_dt)
        self.obs_buf = self.observation_manager.compute(update_history=True)
        return self.obs_buf, self.reward_buf, self.reset_terminated, self.reset_time_outs, self.extras

    def render(self, recompute: bool = False) -> np.ndarray[Any, Any] | None:  # type: ignore[override]
        return render_scene(self, recompute)

    def close(self) -> None:
        if self._is_closed:
            return
        del self.command_manager
        del self.reward_manager
        del self.termination_manager
        del self.curriculum_manager
        super().close()

    def _configure_gym_env_spaces(self) -> None:
        manager = self.observation_manager
        # Groups keep their order since they are assigned one by one; the terms of a group that is not concatenated are
        # sorted by name, which is gymnasium's doing and not the order of the observation.
        spaces = self.single_observation_space = gym.spaces.Dict()
        for group, names in manager.active_terms.items():
            dims: Any = manager.group_obs_dim[group]
            if manager.group_obs_concatenate[group]:
                spaces[group] = gym.spaces.Box(-np.inf, np.inf, shape=dims)
                continue
            clips = [cfg.clip or (-np.inf, np.inf) for cfg in manager._group_obs_term_cfgs[group]]
            terms = zip(names, dims, clips, strict=True)
            spaces[group] = gym.spaces.Dict({name: gym.spaces.Box(*clip, shape=dim) for name, dim, clip in terms})
        self.single_action_space = gym.spaces.Box(-np.inf, np.inf, shape=(sum(self.action_manager.action_term_dim),))
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, self.num_envs)

    def _reset_idx(self, env_ids: EnvIds) -> None:
        self.curriculum_manager.compute(env_ids=env_ids)
        self.scene.reset(env_ids)  # type: ignore[arg-type]
        if "reset" in self.event_manager.available_modes:
            count = self._sim_step_counter // self.cfg.decimation
            self.event_manager.apply(mode="reset", env_ids=env_ids, global_env_step_count=count)
        log = self.extras["log"] = {}
        for manager in (
            self.observation_manager,
            self.action_manager,
            self.reward_manager,
            self.curriculum_manager,
            self.command_manager,
            self.event_manager,
            self.termination_manager,
            self.recorder_manager,
        ):
            log.update(manager.reset(env_ids))
        self.episode_length_buf[env_ids] = 0  # type: ignore[index]
