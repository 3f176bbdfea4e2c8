"""Reach around: a disc must get past a round obstacle that stands exactly between it and its target, left or right alike.

Seen from above, in the world's frame (metres, the obstacle's centre is the origin), with the scene turned by an angle phi:

    target     0.135 (cos phi, sin phi)      obstacle   radius 0.09 m
    start      -target, at rest              effector   radius 0.03 m

phi is drawn for each episode, and is all that differs between episodes: the context. Mirroring a path at the line from start
to target gives a path with the same rewards, in every context, so neither way is better than the other by anything. That
needs more than a symmetric scene: commands are limited in length and not by axis (a box would favour its corners), a contact
pushes along the line between the centres alone (no friction), and both slides have the same mass and servo.

Why the numbers are what they are:

    0.135 m    from start to the obstacle's centre, 0.015 m more than where the two touch: the shortest way leaves at
               asin(0.12 / 0.135) = 63 degrees from straight ahead, so the mean of the two good first actions is half an
               action straight at the obstacle
    0.05 s     the servo's time constant: a velocity once taken up needs time to be turned
    0.5 m/s    the speed, with which that mean is a bad action: after one tick of it, a touch follows also where all speed
               goes sideways from then on; straight ahead at full speed touches in the first tick
    0.1 s      a tick, 10 steps of 0.01 s: a decision has weight, 0.05 m of a way of 0.386 m
    20 ticks   an episode: the shortest way takes 8, and as many and some are left to stay at the target
    1          what touching costs in a tick, as much as a tick at the target earns: leaning on the obstacle pays nowhere

    reward = 1 - |target - p| / 0.27 - [touched in this tick]        at most 1; 0 at the start, before touching

The sum over ticks counts being at the target, and being there soon. An episode always has all of its ticks and is then
truncated: nothing terminates, neither reaching nor touching. It is a success where the effector covers the target point at
the end, whether or not it touched on the way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

START_DISTANCE = 0.135
"""From start and target to the obstacle's centre (m)."""
CONTACT_DISTANCE = 0.12
"""Between the centres of effector and obstacle where they touch (m)."""
EFFECTOR_RADIUS = 0.03
"""How far from the target the effector's centre may be where it covers it (m)."""
SPEED = 0.5
"""Length of the longest velocity command (m/s)."""
TOUCH_COST = 1.0


class ReachAround:
    """The task, for all environments at once. A scene is its angle phi (rad)."""

    name = "ReachAround-v1"
    model = Path(__file__).parent / "models" / "reach_around.xml"
    substeps = 10
    max_episode_steps = 20
    observation: dict[str, int] = {"position": 2, "velocity": 2, "target": 2}  # noqa: RUF012 - never written to
    action_size = 2

    def draw_scene(self, rng: np.random.Generator) -> float:
        """The angle of one episode (rad)."""
        return float(rng.uniform(0.0, 2.0 * np.pi))

    def start(self, scene: Array) -> tuple[Array, Array]:
        """Position and velocity at the start (envs, 2) of scenes (envs,)."""
        return -target(scene), np.zeros((len(scene), 2))

    def control(self, action: Array) -> Array:
        """Velocity commands (m/s, world frame) of actions in [-1, 1] (envs, 2): longer ones than 1 are shortened to 1."""
        length = np.linalg.norm(action, axis=1, keepdims=True)
        return SPEED * action / np.maximum(length, 1.0)

    def observe(self, position: Array, velocity: Array, scene: Array) -> Array:
        """Position (m), velocity (m/s) and target (m), all in the world's frame (envs, 6)."""
        return np.concatenate([position, velocity, target(scene)], axis=1)

    def reward(self, positions: Array, scene: Array) -> Array:
        """Of one tick (envs,), from the positions after each of its steps (envs, substeps, 2)."""
        left = np.linalg.norm(target(scene) - positions[:, -1], axis=1)
        touched = (np.linalg.norm(positions, axis=2) < CONTACT_DISTANCE).any(1)
        return 1.0 - left / (2.0 * START_DISTANCE) - TOUCH_COST * touched


def target(scene: Array) -> Array:
    """Where the target is (envs, 2), in m, for angles (envs,)."""
    return START_DISTANCE * np.stack([np.cos(scene), np.sin(scene)], axis=1)


def reached(observation: Array) -> NDArray[np.bool_]:
    """Whether the effector covers the target, for observations (..., 6)."""
    return np.linalg.norm(observation[..., 0:2] - observation[..., 4:6], axis=-1) <= EFFECTOR_RADIUS


def way(positions: Array) -> NDArray[np.int64]:
    """The side on which paths (ticks, ..., 2) pass the origin, as seen by who walks them: 0 left, 1 right (...,).

    The sum of the angles between neighbouring points, as seen from the origin, is the angle swept: negative, which is
    clockwise, where the origin stays on the right hand and the path passes on its left.
    """
    before, after = positions[:-1], positions[1:]
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    swept = np.arctan2(cross, (before * after).sum(-1)).sum(0)
    return (swept > 0.0).astype(np.int64)
