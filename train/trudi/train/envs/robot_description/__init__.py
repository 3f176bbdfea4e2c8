"""The robot file of a run, as the simulator itself tells it: joints, gains, limits, the action's meaning, observation terms.

For environments with Isaac Lab's managers, mjlab's among them. What is known of a task is said at one of three levels, and
the file's header says why it is not a higher one:

1. the robot: joints by name, joint targets, every term that a robot can measure; others are `custom`;
2. actuators only: raw actions as they are, where action terms or motors are of no kind that the contract has; terms as in 1;
3. sizes only, with invented names (direct workflows, which have no managers).
"""

from trudi.train.envs.robot_description.describe import ROBOT_FILE, describe_robot
from trudi.train.envs.robot_description.text import robot_yaml

__all__ = ["ROBOT_FILE", "describe_robot", "robot_yaml"]
