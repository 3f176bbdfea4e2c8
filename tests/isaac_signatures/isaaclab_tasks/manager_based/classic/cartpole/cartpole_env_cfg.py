"""The cart-pole's configuration: the real task's terms, weights and ranges."""

from __future__ import annotations

import math
from typing import Any

from cartpole_dynamics import JOINT_NAMES, CartPole
from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg
from isaaclab.envs import ManagerBasedRLEnvCfg
from isaaclab.managers import EventTermCfg, ObservationGroupCfg, ObservationTermCfg, RewardTermCfg, SceneEntityCfg
from isaaclab.managers import TerminationTermCfg as DoneTerm
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.utils import configclass
from torch import Tensor

from isaaclab_tasks.manager_based.classic.cartpole import mdp

CART = SceneEntityCfg("robot", joint_names=["slider_to_cart"])
POLE = SceneEntityCfg("robot", joint_names=["cart_to_pole"])


class CartPoleDynamics(CartPole):
    """The cart-pole as a robot of the scene."""

    joint_names = JOINT_NAMES
    joint_pos_limits = ((-4.0, 4.0), (-100.0 * math.pi, 100.0 * math.pi))

    def base_acceleration(self, base_vel: Tensor, position: Tensor, velocity: Tensor) -> Tensor:
        return base_vel * 0.0


CARTPOLE_CFG = ArticulationCfg(
    spawn=CartPoleDynamics,
    actuators={
        "cart": ImplicitActuatorCfg(
            joint_names_expr=["slider_to_cart"], effort_limit_sim=400.0, stiffness=0.0, damping=10.0
        ),
        "pole": ImplicitActuatorCfg(joint_names_expr=["cart_to_pole"], effort_limit_sim=400.0, stiffness=0.0, damping=0.0),
    },
)


@configclass
class CartpoleSceneCfg(InteractiveSceneCfg):
    """The robot alone."""

    robot: ArticulationCfg = CARTPOLE_CFG


@configclass
class ActionsCfg:
    """A force on the cart."""

    joint_effort = mdp.JointEffortActionCfg(asset_name="robot", joint_names=["slider_to_cart"], scale=100.0)


@configclass
class PolicyCfg(ObservationGroupCfg):
    """Position of cart and pole, then their velocities."""

    joint_pos_rel = ObservationTermCfg(func=mdp.joint_pos_rel)
    joint_vel_rel = ObservationTermCfg(func=mdp.joint_vel_rel)


@configclass
class ObservationsCfg:
    """One group, for actor and critic."""

    policy: PolicyCfg = PolicyCfg()


@configclass
class EventCfg:
    """Starts."""

    reset_cart_position = EventTermCfg(
        func=mdp.reset_joints_by_offset,
        mode="reset",
        params={"asset_cfg": CART, "position_range": (-1.0, 1.0), "velocity_range": (-0.5, 0.5)},
    )
    reset_pole_position = EventTermCfg(
        func=mdp.reset_joints_by_offset,
        mode="reset",
        params={
            "asset_cfg": POLE,
            "position_range": (-0.25 * math.pi, 0.25 * math.pi),
            "velocity_range": (-0.25 * math.pi, 0.25 * math.pi),
        },
    )


@configclass
class RewardsCfg:
    """Upright, alive, calm."""

    alive = RewardTermCfg(func=mdp.is_alive, weight=1.0)
    terminating = RewardTermCfg(func=mdp.is_terminated, weight=-2.0)
    pole_pos = RewardTermCfg(func=mdp.joint_pos_target_l2, weight=-1.0, params={"asset_cfg": POLE, "target": 0.0})
    cart_vel = RewardTermCfg(func=mdp.joint_vel_l1, weight=-0.01, params={"asset_cfg": CART})
    pole_vel = RewardTermCfg(func=mdp.joint_vel_l1, weight=-0.005, params={"asset_cfg": POLE})


@configclass
class TerminationsCfg:
    """Time and space."""

    time_out = DoneTerm(func=mdp.time_out, time_out=True)
    cart_out_of_bounds = DoneTerm(func=mdp.joint_pos_out_of_manual_limit, params={"asset_cfg": CART, "bounds": (-3.0, 3.0)})


@configclass
class CartpoleEnvCfg(ManagerBasedRLEnvCfg):
    """Five seconds at 60 Hz."""

    scene: CartpoleSceneCfg = CartpoleSceneCfg(num_envs=4096, env_spacing=4.0, clone_in_fabric=True)
    observations: Any = ObservationsCfg()
    actions: Any = ActionsCfg()
    events: Any = EventCfg()
    rewards: Any = RewardsCfg()
    terminations: Any = TerminationsCfg()

    def __post_init__(self) -> None:
        self.decimation = 2
        self.episode_length_s = 5
        self.viewer.eye = (8.0, 0.0, 5.0)
        self.sim.dt = 1 / 120
        self.sim.render_interval = self.decimation


@configclass
class CartpoleEnvCfgV3(CartpoleEnvCfg):
    """As Isaac Lab 3.0: the terminal observation on request."""

    compute_final_obs: bool = False
