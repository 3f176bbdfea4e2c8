"""From the policy's action to what the motors are sent.

u = offset + scale * a          where the runtime applies them; the graph's output is u otherwise
u = clip(u, clip), then at most rate_limit * control_period_s away from the last u, then within the joints' limits
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.contract import Contract
from trudi.runtime.limits import Thresholds
from trudi.runtime.robots.base import Float64, JointCommand, RobotDescription, RobotError
from trudi.runtime.site_file import SiteFile


class ActionMap:
    """Turns actions into targets u (m,), in policy order and the command's unit."""

    def __init__(self, contract: Contract, robot: RobotDescription, limits: Thresholds) -> None:
        action = contract.action
        self.kind = action.kind
        self._in_graph = action.scale_offset_applied_by == "graph"
        self._scale, self._offset = np.array(action.scale), np.array(action.offset)
        self._low, self._high = _bounds(contract, robot, limits)
        rate = action.rate_limit
        self._step = None if rate is None else np.array(rate) * contract.control_period_s

    def unscaled(self, output: NDArray[np.float32], out: Float64) -> None:
        """The action a before scale and offset, from the graph's output (1, m), in double precision."""
        out[:] = output[0]
        if self._in_graph:
            np.divide(np.subtract(out, self._offset, out=out), self._scale, out=out)

    def target(self, action: Float64, last: Float64, out: Float64) -> None:
        """The target of action a (m,), behind the target `last` (m,)."""
        np.multiply(action, self._scale, out=out)
        out += last if self.kind == "joint_position_increment" else self._offset
        np.clip(out, self._low, self._high, out=out)
        if self._step is not None:
            np.clip(out, last - self._step, last + self._step, out=out)
            np.clip(out, self._low, self._high, out=out)

    def bound(self, target: Float64) -> None:
        """Keeps a target, whoever made it, within clip and limits."""
        np.clip(target, self._low, self._high, out=target)


class CommandWriter:
    """Fills the one `JointCommand` that is sent, in the robot's order of drives."""

    def __init__(self, contract: Contract, robot: RobotDescription, file: SiteFile) -> None:
        self.command = JointCommand.zeros(len(robot.drives))
        self.kind = contract.action.kind
        self._place = np.array([robot.drives.index(name) for name in contract.action.names], np.intp)
        joints = {joint.name: joint for joint in contract.robot.joints} if contract.robot is not None else {}
        self._stiffness = np.array([joints[name].stiffness if name in joints else 0.0 for name in robot.drives])
        self._damping = np.array([joints[name].damping if name in joints else 0.0 for name in robot.drives])
        self._rest = self._rest_damping(robot, file)

    def _rest_damping(self, robot: RobotDescription, file: SiteFile) -> Float64:
        """Gains of DAMP: the site file's, else the robot's, else the policy's own."""
        gains = np.array(robot.damping) if robot.damping else self._damping.copy()
        for index, name in enumerate(robot.drives):
            site = file.joints.get(name)
            if site is not None and site.damping is not None:
                gains[index] = site.damping
            elif robot.pd and not gains[index]:
                raise RobotError(f"joint {name} has no damping, so that a fault would let it fall: give it in the site file")
        return gains

    def damp(self) -> JointCommand:
        """No stiffness, only damping; an actuator's control is 0."""
        self.command.values[:] = 0.0
        self.command.damping[:] = self._rest
        return self.command

    def hold(self, target: Float64) -> JointCommand:
        """Joint positions (m,) in policy order, with the policy's gains: standing, whatever kind of action it has."""
        self.command.values[:] = 0.0
        self.command.position[self._place] = target
        self.command.stiffness[:] = self._stiffness
        self.command.damping[:] = self._damping
        return self.command

    def act(self, target: Float64) -> JointCommand:
        """The policy's targets (m,) in policy order, in the sense of its kind of action."""
        if self.kind in ("joint_position", "joint_position_increment"):
            return self.hold(target)
        self.command.values[:] = 0.0
        self.command.damping[:] = self._damping
        if self.kind == "joint_velocity":
            self.command.velocity[self._place] = target
        else:
            self.command.effort[self._place] = target
        return self.command

    def stand_within(self, pose: Float64, weight: float) -> None:
        """Adds to the command of an effort or velocity policy a part of the stiffness that holds `pose` (m,)."""
        self.command.position[self._place] = pose
        self.command.stiffness[:] = weight * self._stiffness


def _bounds(contract: Contract, robot: RobotDescription, limits: Thresholds) -> tuple[Float64, Float64]:
    """The narrowest range of each target: the contract's clip and what the limits allow of its kind of action."""
    count = contract.action.size
    low, high = np.full(count, -np.inf), np.full(count, np.inf)
    if contract.action.clip is not None:
        low, high = (np.array(side) for side in zip(*contract.action.clip, strict=True))
    if contract.robot is None:
        return _bounded(contract, low, high)
    place = [robot.joint_names.index(name) for name in contract.action.names]
    kind = contract.action.kind
    if kind in ("joint_position", "joint_position_increment"):
        low, high = np.maximum(low, limits.position_low[place]), np.minimum(high, limits.position_high[place])
    else:
        most = (limits.velocity if kind == "joint_velocity" else limits.effort)[place]
        low, high = np.maximum(low, -most), np.minimum(high, most)
    if (low > high).any():  # A clip between such bounds would give a target beyond one of them.
        index = int((low > high).argmax())
        raise RobotError(f"joint {contract.action.names[index]}: no target is within both its action's clip and its limits")
    return _bounded(contract, low, high)


def _bounded(contract: Contract, low: Float64, high: Float64) -> tuple[Float64, Float64]:
    endless = ~(np.isfinite(low) & np.isfinite(high))
    if endless.any():
        name = contract.action.names[int(endless.argmax())]
        raise RobotError(
            f"nothing bounds the targets of {name} ({contract.action.kind}): give it a limit in the site file, or a clip in "
            "the bundle"
        )
    return low, high
