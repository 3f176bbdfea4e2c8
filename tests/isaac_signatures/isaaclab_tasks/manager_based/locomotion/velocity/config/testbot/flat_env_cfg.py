"""The made-up robot's task: two groups, noise, history, clips, scales, two action terms, commands, a curriculum, pushes."""

from __future__ import annotations

from typing import Any

from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg
from isaaclab.envs import ManagerBasedRLEnvCfg
from isaaclab.managers import CurriculumTermCfg, EventTermCfg, ObservationGroupCfg, RewardTermCfg, SceneEntityCfg
from isaaclab.managers import ObservationTermCfg as ObsTerm
from isaaclab.managers import TerminationTermCfg as DoneTerm
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.utils import configclass
from isaaclab.utils.modifiers import IntegratorCfg
from isaaclab.utils.noise import AdditiveUniformNoiseCfg as Unoise
from isaaclab.utils.noise import NoiseModelWithAdditiveBiasCfg
from testbot_dynamics import DEFAULT_JOINT_POS, TestBot

from isaaclab_tasks.manager_based.locomotion.velocity import mdp

ROBOT = SceneEntityCfg("robot")
HIPS = SceneEntityCfg("robot", joint_names=[".*_hip"])
COMMAND = {"command_name": "base_velocity"}

TESTBOT_CFG = ArticulationCfg(
    spawn=TestBot,
    init_state=ArticulationCfg.InitialStateCfg(joint_pos=DEFAULT_JOINT_POS),
    soft_joint_pos_limit_factor=0.9,
    actuators={
        "legs": ImplicitActuatorCfg(
            joint_names_expr=[".*_hip", ".*_knee"],
            effort_limit_sim=8.0,
            velocity_limit_sim=20.0,
            stiffness={".*_hip": 20.0, ".*_knee": 15.0},
            damping=0.5,
        ),
        "waist": ImplicitActuatorCfg(
            joint_names_expr=["waist"], effort_limit_sim=4.0, velocity_limit_sim=10.0, stiffness=10.0, damping=0.4
        ),
    },
)


@configclass
class TestBotSceneCfg(InteractiveSceneCfg):
    """The robot alone."""

    robot: ArticulationCfg = TESTBOT_CFG


@configclass
class ActionsCfg:
    """Position targets: legs with their own scales and a clip on the knees, then the waist."""

    legs = mdp.JointPositionActionCfg(
        asset_name="robot",
        joint_names=[".*_hip", ".*_knee"],
        scale={".*_hip": 0.5, ".*_knee": 0.25},
        clip={".*_knee": (-0.6, -0.2)},
    )
    waist = mdp.JointPositionActionCfg(asset_name="robot", joint_names=["waist"], scale=0.3, use_default_offset=False)


@configclass
class PolicyCfg(ObservationGroupCfg):
    """What a robot can measure, with noise; three steps of the joints."""

    base_ang_vel = ObsTerm(func=mdp.base_ang_vel, noise=Unoise(n_min=-0.2, n_max=0.2), scale=0.25)
    projected_gravity = ObsTerm(func=mdp.projected_gravity, noise=Unoise(n_min=-0.05, n_max=0.05))
    velocity_commands = ObsTerm(func=mdp.generated_commands, params=COMMAND, scale=(2.0, 2.0, 0.25))
    joint_pos = ObsTerm(func=mdp.joint_pos_rel, noise=Unoise(n_min=-0.01, n_max=0.01), history_length=3)
    joint_vel = ObsTerm(
        func=mdp.joint_vel_rel,
        noise=Unoise(n_min=-1.5, n_max=1.5),
        clip=(-20.0, 20.0),
        scale=0.05,
        history_length=3,
    )
    actions = ObsTerm(func=mdp.last_action)

    def __post_init__(self) -> None:
        self.enable_corruption = True


@configclass
class CriticCfg(ObservationGroupCfg):
    """The state, without noise."""

    base_lin_vel = ObsTerm(func=mdp.base_lin_vel)
    base_ang_vel = ObsTerm(func=mdp.base_ang_vel)
    velocity_commands = ObsTerm(func=mdp.generated_commands, params=COMMAND)
    joint_pos = ObsTerm(func=mdp.joint_pos_rel)
    joint_vel = ObsTerm(func=mdp.joint_vel_rel)
    actions = ObsTerm(func=mdp.last_action)


@configclass
class ObservationsCfg:
    """Of actor and critic."""

    policy: PolicyCfg = PolicyCfg()
    critic: CriticCfg = CriticCfg()


@configclass
class CommandsCfg:
    """A velocity, for two seconds."""

    base_velocity = mdp.UniformVelocityCommandCfg(
        asset_name="robot",
        resampling_time_range=(2.0, 2.0),
        rel_standing_envs=0.1,
        ranges=mdp.UniformVelocityCommandCfg.Ranges(lin_vel_x=(-0.2, 0.2), lin_vel_y=(-0.2, 0.2), ang_vel_z=(-0.5, 0.5)),
    )


@configclass
class EventCfg:
    """Gains differ from robot to robot; starts and pushes."""

    gains = EventTermCfg(
        func=mdp.randomize_actuator_gains,
        mode="startup",
        params={"asset_cfg": ROBOT, "stiffness_distribution_params": (0.9, 1.1), "operation": "scale"},
    )
    to_default = EventTermCfg(func=mdp.reset_scene_to_default, mode="reset")
    joints = EventTermCfg(
        func=mdp.reset_joints_by_offset,
        mode="reset",
        params={"asset_cfg": ROBOT, "position_range": (-0.1, 0.1), "velocity_range": (-0.5, 0.5)},
    )
    push = EventTermCfg(
        func=mdp.push_by_setting_velocity,
        mode="interval",
        interval_range_s=(3.0, 5.0),
        params={"velocity_range": {"x": (-0.5, 0.5), "y": (-0.5, 0.5)}},
    )


@configclass
class RewardsCfg:
    """Follow the command, quietly."""

    track_lin_vel_xy_exp = RewardTermCfg(func=mdp.track_lin_vel_xy_exp, weight=1.0, params={**COMMAND, "std": 0.25})
    track_ang_vel_z_exp = RewardTermCfg(func=mdp.track_ang_vel_z_exp, weight=0.5, params={**COMMAND, "std": 0.5})
    action_rate_l2 = RewardTermCfg(func=mdp.action_rate_l2, weight=-0.01)
    joint_vel_l1 = RewardTermCfg(func=mdp.joint_vel_l1, weight=0.0, params={"asset_cfg": HIPS})


@configclass
class TerminationsCfg:
    """Time, or hips too far."""

    time_out = DoneTerm(func=mdp.time_out, time_out=True)
    # Within reach of a full swing of the raw action: exploration ends episodes, a calm policy does not.
    hips_too_far = DoneTerm(func=mdp.joint_pos_out_of_manual_limit, params={"asset_cfg": HIPS, "bounds": (-0.5, 0.7)})


@configclass
class CurriculumCfg:
    """Faster commands and, later, a cost of joint velocities."""

    command = CurriculumTermCfg(func=mdp.widen_command, params={**COMMAND, "widest": 1.0, "num_steps": 1000})
    joint_vel = CurriculumTermCfg(
        func=mdp.modify_reward_weight, params={"term_name": "joint_vel_l1", "weight": -0.001, "num_steps": 1000}
    )


@configclass
class TestBotFlatEnvCfg(ManagerBasedRLEnvCfg):
    """Ten seconds at 50 Hz."""

    scene: TestBotSceneCfg = TestBotSceneCfg(num_envs=4096, env_spacing=2.5)
    observations: Any = ObservationsCfg()
    actions: Any = ActionsCfg()
    commands: Any = CommandsCfg()
    events: Any = EventCfg()
    rewards: Any = RewardsCfg()
    terminations: Any = TerminationsCfg()
    curriculum: Any = CurriculumCfg()

    def __post_init__(self) -> None:
        self.decimation = 4
        self.episode_length_s = 10.0
        self.sim.dt = 0.005
        self.sim.render_interval = self.decimation


@configclass
class TestBotFlatEnvCfg_PLAY(TestBotFlatEnvCfg):
    """To look at: few robots, no noise, no pushes, the widest commands."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scene.num_envs = 50
        self.observations.policy.enable_corruption = False
        self.events.push = None
        self.curriculum = None
        self.commands.base_velocity.ranges.lin_vel_x = (-1.0, 1.0)


@configclass
class TestBotHistoryEnvCfg(TestBotFlatEnvCfg):
    """Five steps of everything the policy sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.observations.policy.history_length = 5


@configclass
class TestBotStatefulEnvCfg(TestBotFlatEnvCfg):
    """Terms that remember: an integral of the turning rate, and a bias of the joint positions, drawn once an episode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        policy = self.observations.policy
        policy.base_ang_vel.modifiers = [IntegratorCfg(dt=self.sim.dt * self.decimation)]
        policy.base_ang_vel.noise = policy.base_ang_vel.scale = None
        policy.joint_pos.noise = NoiseModelWithAdditiveBiasCfg(
            noise_cfg=Unoise(n_min=-0.01, n_max=0.01), bias_noise_cfg=Unoise(n_min=-0.05, n_max=0.05, operation="abs")
        )


@configclass
class TestBotDictEnvCfg(TestBotFlatEnvCfg):
    """The policy's terms one by one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.observations.policy.concatenate_terms = False


@configclass
class TestBotFinalObsEnvCfg(TestBotFlatEnvCfg):
    """As Isaac Lab 3.0: the terminal observation on request."""

    compute_final_obs: bool = False
