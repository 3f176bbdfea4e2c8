"""Tasks of the Control Suite (dm_control) with a MJCF: initial states and rewards as published there and in EnvPool.

`tolerance` is dm_control's: 1 within the bounds, falling to `at_margin` at a distance of `margin` from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trudi.runtime.robots.base import CustomSensor, JointCommand, RobotDescription, RobotJoint, RobotState
from trudi.runtime.robots.simulation import Simulation, find_asset, load_mujoco

ASSETS = "envpool_assets"
EPISODE_STEPS = 1000
CHEETAH_SETTLE_STEPS = 200


@dataclass(frozen=True)
class _Domain:
    """What the tasks on one MJCF share."""

    joints: tuple[str, ...]
    """As the robot file names them, and the MJCF."""
    control_substeps: int
    custom: tuple[tuple[str, int], ...] = ()


DOMAINS = {
    "cartpole": _Domain(("slider", "hinge_1"), 1, (("position", 3),)),
    "cheetah": _Domain(("rootx", "rootz", "rooty", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"), 1),
    "walker": _Domain(
        ("rootz", "rootx", "rooty", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
        10,
        (("orientations", 14), ("height", 1)),
    ),
}


def gaussian(value: float, margin: float) -> float:
    """dm_control's tolerance around 0 with a Gaussian that is 0.1 at `margin`."""
    return math.exp(-0.5 * (value / margin) ** 2 * (-2.0 * math.log(0.1)))


def linear(value: float, bound: float, margin: float, at_margin: float) -> float:
    """dm_control's tolerance above `bound` that falls in a line to `at_margin` at `margin` below it, and on to 0."""
    if value >= bound:
        return 1.0
    return max(0.0, 1.0 - (1.0 - at_margin) * (bound - value) / margin)


class SuiteTask(Simulation):
    """One task: actuators take controls, and a control step has a reward between 0 and 1."""

    def __init__(self, task: str, *, command_timeout_s: float) -> None:
        """`task` is EnvPool's name: `CheetahRun-v1`."""
        self.task = task.removesuffix("-v1")
        self._domain_name = next(name for name in DOMAINS if self.task.lower().startswith(name))
        self._domain = DOMAINS[self._domain_name]
        path = find_asset(ASSETS, f"mujoco/assets_dmc/{self._domain_name}.xml")
        model: Any = load_mujoco().MjModel.from_xml_path(str(path))
        super().__init__(model, command_timeout_s)
        self._runge_kutta = model.opt.integrator == self._mj.mjtIntegrator.mjINT_RK4
        self.control_substeps, self.episode_steps = self._domain.control_substeps, EPISODE_STEPS
        self.control_range = np.array(model.actuator_ctrlrange)
        self._qpos, self._dof = self.joint_addresses(self._domain.joints)
        self._reward, self._reset = self._choose()
        self.reset(0)

    def _choose(self) -> tuple[Callable[[], float], Callable[[np.random.Generator], None]]:
        if self._domain_name == "cartpole":
            return (self._cartpole_sparse if "Sparse" in self.task else self._cartpole), self._reset_cartpole
        if self._domain_name == "cheetah":
            return self._cheetah, self._reset_cheetah
        self._walker_speed = {"WalkerStand": 0.0, "WalkerWalk": 1.0, "WalkerRun": 8.0}[self.task]
        return self._walker, self._reset_walker

    def describe(self) -> RobotDescription:
        """Joints and actuators. Joints have no limits here: the suite's are soft stops that its tasks play against."""
        model = self.model
        return RobotDescription(
            name=f"dm_control_{self._domain_name}",
            joints=tuple(RobotJoint(name=name) for name in self._domain.joints),
            drives=tuple(str(model.actuator(index).name) for index in range(model.nu)),
            pd=False,
            state_period_s=self.physics_step_s,
            command_timeout_s=self._timeout_s,
            shared_clock=True,
            sensor_frame="world",
            has_imu=False,
            custom=tuple(CustomSensor(name=name, size=size) for name, size in self._domain.custom),
        )

    def reset(self, seed: int) -> None:
        self._mj.mj_resetData(self.model, self.data)
        self._reset(np.random.default_rng(seed))

    def measure(self, state: RobotState) -> None:
        data = self.data
        state.joint_position[:] = data.qpos[self._qpos]
        state.joint_velocity[:] = data.qvel[self._dof]
        state.joint_effort[:] = data.qfrc_actuator[self._dof]
        if self._domain_name == "cartpole":
            pole = data.xmat[-1]
            state.custom[0], state.custom[1], state.custom[2] = data.qpos[0], pole[8], pole[2]  # zz and xz
        elif self._domain_name == "walker":
            state.custom[:14] = data.xmat[1:][:, [0, 2]].ravel()  # xx and xz
            state.custom[14] = data.xpos[1, 2]

    def apply(self, command: JointCommand | None) -> None:
        self.data.ctrl[:] = 0.0 if command is None else command.effort

    def step(self, command: JointCommand | None) -> None:
        if not self._runge_kutta:
            super().step(command)
            return
        self.apply(command)
        self._mj.mj_step(self.model, self.data)  # Runge-Kutta cannot be split in two halves
        self._mj.mj_step1(self.model, self.data)

    def reward(self) -> float:
        return self._reward()

    def _reset_cartpole(self, rng: np.random.Generator) -> None:
        if "Swingup" in self.task:
            qpos = 0.01 * rng.standard_normal(2) + [0.0, math.pi]
        else:
            qpos = rng.uniform([-0.1, -0.034], [0.1, 0.034])
        self.set_state(qpos, 0.01 * rng.standard_normal(2))

    def _reset_cheetah(self, rng: np.random.Generator) -> None:
        limited = self.model.jnt_limited == 1
        qpos = self.model.qpos0.copy()
        qpos[limited] = rng.uniform(*self.model.jnt_range[limited].T)
        self.set_state(qpos, np.zeros(self.model.nv))
        for _ in range(CHEETAH_SETTLE_STEPS):
            self.step(None)
        self.data.time = 0.0

    def _reset_walker(self, rng: np.random.Generator) -> None:
        model = self.model
        qpos = model.qpos0.copy()
        for joint in range(model.njnt):
            if model.jnt_limited[joint]:
                qpos[joint] = rng.uniform(*model.jnt_range[joint])
            elif model.jnt_type[joint] == self._mj.mjtJoint.mjJNT_HINGE:
                qpos[joint] = rng.uniform(-math.pi, math.pi)
        self.set_state(qpos, np.zeros(model.nv))

    def _cartpole(self) -> float:
        data = self.data
        upright = (data.xmat[-1, 8] + 1.0) / 2.0
        centred = (1.0 + gaussian(data.qpos[0], 2.0)) / 2.0
        small_control = (4.0 + max(0.0, 1.0 - data.ctrl[0] ** 2)) / 5.0
        small_velocity = (1.0 + gaussian(data.qvel[1], 5.0)) / 2.0
        return float(upright * small_control * small_velocity * centred)

    def _cartpole_sparse(self) -> float:
        return float(abs(self.data.qpos[0]) <= 0.25 and self.data.xmat[-1, 8] >= 0.995)

    def _cheetah(self) -> float:
        return linear(float(self.data.sensordata[0]), 10.0, 10.0, 0.0)

    def _walker(self) -> float:
        data = self.data
        height = float(data.xpos[1, 2])
        standing = 1.0 if height >= 1.2 else gaussian(1.2 - height, 0.6)
        stand = (3.0 * standing + (1.0 + float(data.xmat[1, 8])) / 2.0) / 4.0
        if self._walker_speed == 0.0:
            return stand
        move = linear(float(data.sensordata[0]), self._walker_speed, self._walker_speed / 2.0, 0.5)
        return stand * (5.0 * move + 1.0) / 6.0
