"""The cart-pole as a direct task: the real one's order of observations, reward without dt, and early time-out."""

from __future__ import annotations

import math
from typing import Any

import torch
from isaaclab.assets import Articulation, ArticulationCfg
from isaaclab.envs import DirectRLEnv, DirectRLEnvCfg
from isaaclab.envs.common import VecEnvObs
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass
from isaaclab.utils.math import sample_uniform
from isaaclab.utils.noise import GaussianNoiseCfg, NoiseModelCfg, NoiseModelWithAdditiveBiasCfg, UniformNoiseCfg
from torch import Tensor

from isaaclab_tasks.manager_based.classic.cartpole.cartpole_env_cfg import CARTPOLE_CFG


@configclass
class CartpoleEnvCfg(DirectRLEnvCfg):
    """Five seconds at 60 Hz."""

    decimation: int = 2
    episode_length_s: float = 5.0
    action_scale: float = 100.0
    action_space: Any = 1
    observation_space: Any = 4
    state_space: Any = 0
    sim: SimulationCfg = SimulationCfg(dt=1 / 120, render_interval=2)
    robot_cfg: ArticulationCfg = CARTPOLE_CFG
    cart_dof_name: str = "slider_to_cart"
    pole_dof_name: str = "cart_to_pole"
    scene: InteractiveSceneCfg = InteractiveSceneCfg(num_envs=4096, env_spacing=4.0, replicate_physics=True)
    max_cart_pos: float = 3.0
    initial_pole_angle_range = [-0.25, 0.25]  # noqa: RUF012 - times pi, as the real one; configclass copies it
    rew_scale_alive: float = 1.0
    rew_scale_terminated: float = -2.0
    rew_scale_pole_pos: float = -1.0
    rew_scale_cart_vel: float = -0.01
    rew_scale_pole_vel: float = -0.005


@configclass
class CartpoleEnvCfgV3(CartpoleEnvCfg):
    """As Isaac Lab 3.0: the terminal observation on request."""

    compute_final_obs: bool = False


@configclass
class NoisyCartpoleEnvCfg(CartpoleEnvCfg):
    """Noise on actions and on the policy's observations; the critic sees the state without it."""

    state_space: Any = 4
    action_noise_model: Any = NoiseModelCfg(noise_cfg=UniformNoiseCfg(n_min=-0.01, n_max=0.01))
    observation_noise_model: Any = NoiseModelWithAdditiveBiasCfg(
        noise_cfg=GaussianNoiseCfg(std=0.01), bias_noise_cfg=UniformNoiseCfg(n_min=-0.02, n_max=0.02, operation="abs")
    )


class CartpoleEnv(DirectRLEnv):
    """Its done signals also hold a fallen pole, and its time-out comes a step before `max_episode_length`."""

    cfg: CartpoleEnvCfg

    def __init__(self, cfg: CartpoleEnvCfg, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(cfg, render_mode, **kwargs)
        (self._cart,), _ = self.cartpole.find_joints(cfg.cart_dof_name)
        (self._pole,), _ = self.cartpole.find_joints(cfg.pole_dof_name)
        self.joint_pos = self.cartpole.data.joint_pos
        self.joint_vel = self.cartpole.data.joint_vel

    def _setup_scene(self) -> None:
        self.cartpole = Articulation(self.cfg.robot_cfg)
        self.scene.clone_environments(copy_from_source=False)
        self.scene.articulations["cartpole"] = self.cartpole

    def _pre_physics_step(self, actions: Tensor) -> None:
        self.actions = self.cfg.action_scale * actions.clone()

    def _apply_action(self) -> None:
        self.cartpole.set_joint_effort_target(self.actions, joint_ids=[self._cart])

    def _get_observations(self) -> VecEnvObs:
        columns = (self.joint_pos[:, self._pole], self.joint_vel[:, self._pole])
        columns += (self.joint_pos[:, self._cart], self.joint_vel[:, self._cart])
        state = torch.stack(columns, dim=-1)
        return {"policy": state, "critic": state.clone()} if self.cfg.state_space else {"policy": state}

    def _get_rewards(self) -> Tensor:
        cfg, ended = self.cfg, self.reset_terminated.float()
        return (
            cfg.rew_scale_alive * (1.0 - ended)
            + cfg.rew_scale_terminated * ended
            + cfg.rew_scale_pole_pos * self.joint_pos[:, self._pole].square()
            + cfg.rew_scale_cart_vel * self.joint_vel[:, self._cart].abs()
            + cfg.rew_scale_pole_vel * self.joint_vel[:, self._pole].abs()
        )

    def _get_dones(self) -> tuple[Tensor, Tensor]:
        self.joint_pos = self.cartpole.data.joint_pos
        self.joint_vel = self.cartpole.data.joint_vel
        time_out = self.episode_length_buf >= self.max_episode_length - 1
        outside = self.joint_pos[:, self._cart].abs() > self.cfg.max_cart_pos
        return outside | (self.joint_pos[:, self._pole].abs() > math.pi / 2), time_out

    def _reset_idx(self, env_ids: Any) -> None:
        super()._reset_idx(env_ids)
        position = self.cartpole.data.default_joint_pos[env_ids]
        low, high = (math.pi * bound for bound in self.cfg.initial_pole_angle_range)
        position[:, self._pole] += sample_uniform(low, high, len(position), position.device)
        velocity = self.cartpole.data.default_joint_vel[env_ids]
        self.cartpole.write_joint_state_to_sim(position, velocity, None, env_ids)
