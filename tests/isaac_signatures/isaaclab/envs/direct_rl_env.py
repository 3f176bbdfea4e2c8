"""A task that is one class. The order of events in `step` is the real one's, call by call."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from isaaclab.managers import EventManager
from isaaclab.managers.manager_base import EnvIds
from isaaclab.scene import InteractiveScene
from isaaclab.sim import SimulationContext
from isaaclab.utils.seed import configure_seed

from .common import VecEnvObs, VecEnvStepReturn
from .direct_rl_env_cfg import DirectRLEnvCfg
from .utils.render import render_scene
from .utils.spaces import sample_space, spec_to_gym_space


class DirectRLEnv(gym.Env[Any, Any]):
    """Resets ended environments within the step and returns their first observation."""

    is_vector_env: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = {"render_modes": [None, "human", "rgb_array"]}  # type: ignore[misc]

    def __init__(self, cfg: DirectRLEnvCfg, render_mode: str | None = None, **kwargs: Any) -> None:
        cfg.validate()  # type: ignore[attr-defined] - configclass adds it
        self.cfg = cfg
        self.render_mode = render_mode
        self._is_closed = False
        if self.cfg.seed is not None:
            self.cfg.seed = self.seed(self.cfg.seed)
        if SimulationContext.instance() is not None:
            raise RuntimeError("Simulation context already exists. Cannot create a new one.")
        self.sim = SimulationContext(self.cfg.sim)
        print("[INFO]: Base environment:")
        print(f"\tEnvironment device    : {self.device}")
        self.scene = InteractiveScene(self.cfg.scene)
        self._setup_scene()
        if self.cfg.events:
            self.event_manager = EventManager(self.cfg.events, self)
            if "prestartup" in self.event_manager.available_modes:
                self.event_manager.apply(mode="prestartup")
        self.sim.reset()
        self.scene.update(dt=self.physics_dt)
        self.extras: dict[str, Any] = {}
        self._sim_step_counter = 0
        self.common_step_counter = 0
        self.episode_length_buf = torch.zeros(self.num_envs, device=self.device, dtype=torch.long)
        self.reset_terminated = torch.zeros(self.num_envs, device=self.device, dtype=torch.bool)
        self.reset_time_outs = torch.zeros_like(self.reset_terminated)
        self.reset_buf = torch.zeros_like(self.reset_terminated)
        self._configure_gym_env_spaces()
        self._create_noise()
        if self.cfg.events and "startup" in self.event_manager.available_modes:
            self.event_manager.apply(mode="startup")
        self.metadata["render_fps"] = 1 / self.step_dt
        print("[INFO]: Completed setting up the environment...")

    def __del__(self) -> None:
        self.close()

    @property
    def num_envs(self) -> int:
        return self.scene.num_envs

    @property
    def physics_dt(self) -> float:
        return self.cfg.sim.dt

    @property
    def step_dt(self) -> float:
        return self.cfg.sim.dt * self.cfg.decimation

    @property
    def device(self) -> str:
        return self.sim.device

    @property
    def max_episode_length_s(self) -> float:
        return self.cfg.episode_length_s

    @property
    def max_episode_length(self) -> int:
        return math.ceil(self.max_episode_length_s / (self.cfg.sim.dt * self.cfg.decimation))

    def reset(  # type: ignore[override]
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[VecEnvObs, dict[str, Any]]:
        """Without the observation noise, which only `step` adds."""
        if seed is not None:
            self.seed(seed)
        self._reset_idx(torch.arange(self.num_envs, dtype=torch.int64, device=self.device))
        self.scene.write_data_to_sim()
        self.sim.forward()
        return self._get_observations(), self.extras

    def step(self, action: Tensor) -> VecEnvStepReturn:  # type: ignore[override]
        action = action.to(self.device)
        if self.cfg.action_noise_model:
            action = self._action_noise_model(action)
        self._pre_physics_step(action)
        for _ in range(self.cfg.decimation):
            self._sim_step_counter += 1
            self._apply_action()
            self.scene.write_data_to_sim()
            self.sim.step(render=False)
            self.scene.update(dt=self.physics_dt)

        self.episode_length_buf += 1
        self.common_step_counter += 1
        self.reset_terminated[:], self.reset_time_outs[:] = self._get_dones()
        self.reset_buf = self.reset_terminated | self.reset_time_outs
        self.reward_buf = self._get_rewards()

        reset_env_ids = self.reset_buf.nonzero(as_tuple=False).squeeze(-1)
        if len(reset_env_ids) > 0:
            if getattr(self.cfg, "compute_final_obs", False):  # Isaac Lab 3.0
                self.extras["final_obs"] = self._noisy(self._get_observations())
            self._reset_idx(reset_env_ids)

        if self.cfg.events and "interval" in self.event_manager.available_modes:
            self.event_manager.apply(mode="interval", dt=self.step_dt)
        self.obs_buf = self._noisy(self._get_observations())
        return self.obs_buf, self.reward_buf, self.reset_terminated, self.reset_time_outs, self.extras

    @staticmethod
    def seed(seed: int = -1) -> int:
        """Seeds the process's global generators."""
        return configure_seed(seed)

    def render(self, recompute: bool = False) -> np.ndarray[Any, Any] | None:  # type: ignore[override]
        return render_scene(self, recompute)

    def close(self) -> None:
        if self._is_closed:
            return
        if self.cfg.events:
            del self.event_manager
        del self.scene
        self.sim.clear_all_callbacks()
        self.sim.clear_instance()
        self._is_closed = True

    def _noisy(self, observations: VecEnvObs) -> VecEnvObs:
        """Noise on the group `policy` alone, in place of the dictionary's entry."""
        if self.cfg.observation_noise_model:
            observations["policy"] = self._observation_noise_model(observations["policy"])
        return observations

    def _create_noise(self) -> None:
        """Two attributes, each only where the configuration has its model."""
        for name in ("action", "observation"):
            cfg = getattr(self.cfg, f"{name}_noise_model")
            if cfg:
                setattr(self, f"_{name}_noise_model", cfg.class_type(cfg, num_envs=self.num_envs, device=self.device))

    _action_noise_model: Any
    _observation_noise_model: Any

    def _configure_gym_env_spaces(self) -> None:
        self.single_observation_space = gym.spaces.Dict({"policy": spec_to_gym_space(self.cfg.observation_space)})
        self.single_action_space = spec_to_gym_space(self.cfg.action_space)
        policy = self.single_observation_space["policy"]
        self.observation_space = gym.vector.utils.batch_space(policy, self.num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self.state_space = None
        if self.cfg.state_space:
            critic = spec_to_gym_space(self.cfg.state_space)
            self.single_observation_space["critic"] = critic
            self.state_space = gym.vector.utils.batch_space(critic, self.num_envs)
        self.actions = sample_space(self.single_action_space, self.device, batch_size=self.num_envs, fill_value=0)

    def _reset_idx(self, env_ids: EnvIds) -> None:
        self.scene.reset(env_ids)  # type: ignore[arg-type]
        if self.cfg.events and "reset" in self.event_manager.available_modes:
            count = self._sim_step_counter // self.cfg.decimation
            self.event_manager.apply(mode="reset", env_ids=env_ids, global_env_step_count=count)
        if self.cfg.action_noise_model:
            self._action_noise_model.reset(env_ids)
        if self.cfg.observation_noise_model:
            self._observation_noise_model.reset(env_ids)
        self.episode_length_buf[env_ids] = 0  # type: ignore[index]

    def _setup_scene(self) -> None:
        """What the configuration of the scene does not list."""

    def _pre_physics_step(self, actions: Tensor) -> None:
        raise NotImplementedError

    def _apply_action(self) -> None:
        raise NotImplementedError

    def _get_observations(self) -> VecEnvObs:
        raise NotImplementedError

    def _get_states(self) -> VecEnvObs | None:
        """Never called by this class: a critic's observations are the key `critic` of `_get_observations`."""
        return None

    def _get_rewards(self) -> Tensor:
        raise NotImplementedError

    def _get_dones(self) -> tuple[Tensor, Tensor]:
        """Terminated, timed out."""
        raise NotImplementedError
