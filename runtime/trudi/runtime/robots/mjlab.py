"""mjlab's pole on a cart as a robot: its MJCF under plain MuJoCo, with the physics, starts and reward of mjlab's task.

The MJCF is read out of the installed package `mjlab`, which is not imported: it would bring torch. mjlab computes in single
precision (MuJoCo Warp), this in double.
"""

from __future__ import annotations

import math

import numpy as np

from trudi.runtime.robots.base import CustomSensor, JointCommand, RobotDescription, RobotJoint, RobotState
from trudi.runtime.robots.simulation import MAX_STIFFNESS, Simulation, find_asset, load_mujoco
from trudi.runtime.robots.suite import gaussian

MODEL = "tasks/cartpole/cartpole.xml"
PHYSICS_STEP_S, CONTROL_SUBSTEPS = 0.01, 5
CONTROL_PERIOD_S = PHYSICS_STEP_S * CONTROL_SUBSTEPS
EPISODE_STEPS = 1000
SLIDER, HINGE = "slider", "hinge_1"
# Brakes 1.1 kg within about a second from any speed that the rail allows; 5 N s/m ask for all of the motor's 10 N at 2 m/s.
SAFE_DAMPING, MAX_DAMPING = 5.0, 10.0
# Half widths of the uniform starts about the nominal pose: cart (balance only), pole, and both velocities.
CART_SPREAD_M, POLE_SPREAD_RAD, VELOCITY_SPREAD = 0.1, 0.034, 0.01


class CartPole(Simulation):
    """`Mjlab-Cartpole-Balance` or `-Swingup`: a motor pushes the cart along the rail, the pole on it swings freely.

    The motor gives stiffness (position - q) + damping (velocity - dq) + effort, in N, within the MJCF's range; the part
    `- damping dq` is the joint's viscous damping, as in training, and so not limited.
    """

    control_substeps, episode_steps, max_damping = CONTROL_SUBSTEPS, EPISODE_STEPS, MAX_DAMPING

    def __init__(self, task: str, *, command_timeout_s: float) -> None:
        """`task` is mjlab's name, without a prefix."""
        mj, path = load_mujoco(), find_asset("mjlab", MODEL, extra="mjlab")
        model = mj.MjModel.from_xml_path(str(path))
        model.opt.timestep = PHYSICS_STEP_S
        model.opt.integrator = mj.mjtIntegrator.mjINT_IMPLICITFAST
        model.opt.disableflags |= mj.mjtDisableBit.mjDSBL_CONTACT
        super().__init__(model, command_timeout_s)
        self._swings_up = task.endswith("Swingup")
        self._qpos, self._dof = self.joint_addresses((SLIDER, HINGE))
        (self._cart, self._cart_dof), (self._pole, self._pole_dof) = map(self.joint_address, (SLIDER, HINGE))
        self._newtons = float(model.actuator_gear[0, 0])  # of a control of 1
        self._low, self._high = (float(end) for end in model.actuator_ctrlrange[0])
        self.reset(0)

    def describe(self) -> RobotDescription:
        """The driven cart and the free pole; `pole_angle` is the cosine and sine of the pole's angle from upright."""
        push = self._newtons * self._high
        return RobotDescription(
            name="mjlab_cartpole",
            joints=(
                RobotJoint(name=SLIDER, position_limit=self.joint_range(SLIDER), effort_limit=push),
                RobotJoint(name=HINGE),
            ),
            drives=(SLIDER,),
            damping=(SAFE_DAMPING,),
            max_stiffness=MAX_STIFFNESS,
            state_period_s=self.physics_step_s,
            command_timeout_s=self._timeout_s,
            shared_clock=True,
            sensor_frame="world",
            has_imu=False,
            custom=(CustomSensor(name="pole_angle", size=2),),
        )

    def reset(self, seed: int) -> None:
        """Near upright, or near hanging with the cart in the middle; uniform, as mjlab draws it."""
        rng = np.random.default_rng(seed)
        nominal, cart_m = ((0.0, math.pi), 0.0) if self._swings_up else ((0.0, 0.0), CART_SPREAD_M)
        qpos, qvel = np.zeros(2), np.zeros(2)
        qpos[self._qpos] = np.add(nominal, (cart_m, POLE_SPREAD_RAD) * rng.uniform(-1.0, 1.0, 2))
        qvel[self._dof] = VELOCITY_SPREAD * rng.uniform(-1.0, 1.0, 2)
        self.set_state(qpos, qvel)

    def measure(self, state: RobotState) -> None:
        data = self.data
        state.joint_position[:] = data.qpos[self._qpos]
        state.joint_velocity[:] = data.qvel[self._dof]
        state.joint_effort[:] = data.qfrc_actuator[self._dof]
        angle = float(data.qpos[self._pole])
        state.custom[0], state.custom[1] = math.cos(angle), math.sin(angle)

    def apply(self, command: JointCommand | None) -> None:
        if command is None:
            self._set_damping(SAFE_DAMPING)
            self.data.ctrl[0] = 0.0
            return
        self._set_damping(float(command.damping[0]))
        force = command.stiffness[0] * (command.position[0] - self.data.qpos[self._cart])
        force += command.damping[0] * command.velocity[0] + command.effort[0]
        self.data.ctrl[0] = min(max(force / self._newtons, self._low), self._high)

    def reward(self) -> float:
        """dm_control's smooth reward times the control step, as mjlab counts it: 50 for a perfect episode."""
        data = self.data
        upright = (math.cos(data.qpos[self._pole]) + 1.0) / 2.0
        centred = (1.0 + gaussian(data.qpos[self._cart], 2.0)) / 2.0
        # mjlab's tolerance is 0.1 at a control of 1, where the Control Suite's is 0.
        small_control = (4.0 + max(0.0, 1.0 - 0.9 * data.ctrl[0] ** 2)) / 5.0
        small_velocity = (1.0 + gaussian(data.qvel[self._pole_dof], 5.0)) / 2.0
        return float(CONTROL_PERIOD_S * upright * centred * small_control * small_velocity)

    def _set_damping(self, damping: float) -> None:
        if self.model.dof_damping[self._cart_dof] != damping:
            self.model.dof_damping[self._cart_dof] = damping
            self._mj.mj_fwdVelocity(self.model, self.data)  # where damping forces are computed
