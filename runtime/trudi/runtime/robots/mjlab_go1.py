"""mjlab's Go1 on flat ground as a robot: its MJCF under plain MuJoCo, with the motors, contacts and solver of mjlab's task.

The MJCF is read out of the installed package `mjlab`, which is not imported: it would bring torch. What mjlab's Python adds
to that file is written here, from version 1.6.0; a test holds the compiled model against mjlab's own, number by number.
mjlab computes in single precision (MuJoCo Warp), this in double.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from trudi.runtime.robots.base import JointCommand, RobotError
from trudi.runtime.robots.simulation import MJLAB_GO1_TASK, Legged, drop_visual_meshes, find_asset, load_mujoco

MODEL = "asset_zoo/robots/unitree_go1/xmls/go1.xml"
PHYSICS_STEP_S, CONTROL_SUBSTEPS = 0.005, 4
ROTOR_INERTIA = 0.000111842
"""Of every motor, before its gears; kg m^2."""
GEARS = {"hip": 6.0, "thigh": 6.0, "calf": 9.0}
EFFORT_LIMITS = {"hip": 23.7, "thigh": 23.7, "calf": 35.55}
NATURAL_FREQUENCY, DAMPING_RATIO = 10 * 2.0 * 3.1415926535, 2.0
"""Of a motor's rotor under its own gains: 10 Hz in rad/s, with mjlab's digits; what training's gains are made of."""
FOOT, COLLIDES = re.compile(r"[FR][LR]_foot_collision"), re.compile(r".*_collision\d*")
CONTACT_SOLREF, FOOT_FRICTION = (0.01, 1.0), (1.0, 5e-3, 5e-4)
# Feet of this pose are up to 16 mm below a floor at mjlab's 0.278 m; training starts 10 to 50 mm higher.
INITIAL_HEIGHT_M = 0.278 + 0.03
INITIAL_POSITION = {"hip": 0.1, "thigh": 0.9, "calf": -1.8}
"""rad; a left hip's is negative."""
# Lets the 12 kg robot sink to the floor within a second. Damping is integrated implicitly, but where the force range clips
# it, a motor pulls with all of its torque for a whole step: above 2 * inertia / dt = 2 * 0.0077 kg m^2 / 0.005 s = 3.1 (a
# free hip) that turns a fast joint around, again and again. Training has 1.0 and, at the calves, 2.3.
SAFE_DAMPING, MAX_DAMPING = 2.0, 3.0


class MjlabGo1(Legged):
    """`Mjlab-Velocity-Flat-Unitree-Go1`: the whole robot meets the floor, and itself.

    A motor gives stiffness (position - q) + damping (velocity - dq) + effort, and the whole of it is kept within the force
    range, as in training: mjlab's position actuator has its damping inside.
    """

    control_substeps, max_damping = CONTROL_SUBSTEPS, MAX_DAMPING

    def __init__(self, *, command_timeout_s: float, base_contact: bool, visual: bool) -> None:
        if not base_contact:
            raise RobotError(f"base_contact is false: in {MJLAB_GO1_TASK} the whole robot meets the floor; leave it out")
        path = find_asset("mjlab", MODEL, extra="mjlab")
        mj = load_mujoco()
        try:
            spec = mj.MjSpec.from_file(str(path))
            if not visual:
                drop_visual_meshes(mj, spec)
            _edit(mj, spec)
            model = spec.compile()
        except ValueError as error:
            raise RobotError(f"{path} is not the Go1 of mjlab 1.6: {error}") from error
        super().__init__(model, str(path), name="mjlab_go1", damping=SAFE_DAMPING, command_timeout_s=command_timeout_s)

    def apply(self, command: JointCommand | None) -> None:
        feed, rate = self.model.actuator_biasprm[:, 0], self.model.actuator_biasprm[:, 2]
        if command is None:
            self._gain[:], self._bias[:], feed[:] = 0.0, 0.0, 0.0
            np.negative(self._damping, out=rate)
            return
        np.copyto(self._gain, command.stiffness)
        np.negative(command.stiffness, out=self._bias)
        np.negative(command.damping, out=rate)
        np.multiply(command.damping, command.velocity, out=feed)
        feed += command.effort
        self.data.ctrl[:] = command.position


def _motor(joint: str) -> tuple[float, float, float, float]:
    """Rotor inertia behind the gears (kg m^2), training's stiffness (N m/rad) and damping (N m s/rad), limit (N m)."""
    kind = joint.removesuffix("_joint").rpartition("_")[2]
    if kind not in GEARS:
        raise ValueError(f"no motor is known for the joint {joint}")
    armature = ROTOR_INERTIA * GEARS[kind] ** 2
    stiffness, damping = armature * NATURAL_FREQUENCY**2, 2 * DAMPING_RATIO * armature * NATURAL_FREQUENCY
    return armature, stiffness, damping, EFFORT_LIMITS[kind]


def _edit(mj: Any, spec: Any) -> None:
    """Adds to the MJCF of the bare robot what mjlab's configuration does."""
    floor = spec.worldbody.add_body(name="terrain")
    floor.add_geom(name="terrain", type=mj.mjtGeom.mjGEOM_PLANE, size=[0.0, 0.0, 0.01])
    for geom in spec.geoms:
        if geom.name != "terrain":
            _set_contact(geom)
    joints = [joint for joint in spec.joints if joint.type == mj.mjtJoint.mjJNT_HINGE]
    for joint in joints:
        _add_motor(mj, spec, joint)
    pose = [0.0, 0.0, INITIAL_HEIGHT_M, 1.0, 0.0, 0.0, 0.0, *(_initial_position(joint.name) for joint in joints)]
    spec.add_key(name="home", qpos=pose)
    _set_options(mj, spec.option)


def _set_contact(geom: Any) -> None:
    if not COLLIDES.fullmatch(geom.name):
        geom.contype = geom.conaffinity = 0
        return
    foot = FOOT.fullmatch(geom.name) is not None
    geom.contype = geom.conaffinity = 1
    geom.solref[:2] = CONTACT_SOLREF
    geom.condim, geom.priority = (6, 1) if foot else (1, 0)
    if foot:
        geom.friction[:] = FOOT_FRICTION


def _add_motor(mj: Any, spec: Any, joint: Any) -> None:
    joint.armature, stiffness, damping, limit = _motor(joint.name)
    drive = spec.add_actuator(name=joint.name, target=joint.name, trntype=mj.mjtTrn.mjTRN_JOINT)
    drive.gaintype, drive.biastype = mj.mjtGain.mjGAIN_FIXED, mj.mjtBias.mjBIAS_AFFINE
    drive.gainprm[0], drive.biasprm[1], drive.biasprm[2] = stiffness, -stiffness, -damping
    drive.ctrllimited, drive.forcelimited = False, True
    drive.forcerange[:] = -limit, limit


def _set_options(mj: Any, option: Any) -> None:
    option.timestep = PHYSICS_STEP_S
    option.integrator = mj.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver, option.iterations, option.tolerance = mj.mjtSolver.mjSOL_NEWTON, 10, 1e-8
    option.ls_iterations, option.ls_tolerance = 20, 0.01
    option.cone, option.impratio = mj.mjtCone.mjCONE_ELLIPTIC, 10.0
    option.ccd_iterations = 50


def _initial_position(joint: str) -> float:
    leg, kind, _ = joint.split("_")
    return INITIAL_POSITION[kind] * (-1.0 if kind == "hip" and leg.endswith("L") else 1.0)
