"""A cart-pole as pure functions, and the task on it: the same MDP for any reset semantics.

    (M + m) x'' + m l cos(q) q'' - m l sin(q) q'^2 = F - c x'
    m l cos(q) x'' + (I + m l^2) q'' - m g l sin(q) = 0

x: the cart's position; q: the pole's angle from upright, positive where the pole leans towards positive x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

JOINT_NAMES = ("slider_to_cart", "cart_to_pole")


@dataclass(frozen=True)
class CartPole:
    """The two bodies. Round numbers; they are not read from Isaac Lab's asset."""

    cart_mass_kg: float = 1.0
    pole_mass_kg: float = 0.5
    pole_com_m: float = 0.5
    """From the hinge to the pole's centre of mass: half a uniform rod of one metre."""
    gravity_m_s2: float = 9.81

    def acceleration(self, position: Tensor, velocity: Tensor, effort: Tensor) -> Tensor:
        """Joint accelerations under the joint efforts, which hold the actuators' damping (envs, 2)."""
        mass, length = self.pole_mass_kg, self.pole_com_m
        angle, rate = position[:, 1], velocity[:, 1]
        sin, cos = torch.sin(angle), torch.cos(angle)
        inertia = mass * length**2 * 4.0 / 3.0  # a uniform rod about its end
        total = self.cart_mass_kg + mass
        coupling = mass * length * cos
        cart_force = effort[:, 0] + mass * length * sin * rate**2
        pole_torque = effort[:, 1] + mass * self.gravity_m_s2 * length * sin
        determinant = total * inertia - coupling**2
        cart = (inertia * cart_force - coupling * pole_torque) / determinant
        pole = (total * pole_torque - coupling * cart_force) / determinant
        return torch.stack((cart, pole), dim=-1)


Acceleration = Callable[[Tensor, Tensor, Tensor], Tensor]


def euler_step(
    acceleration: Acceleration, position: Tensor, velocity: Tensor, effort: Tensor, dt: float
) -> tuple[Tensor, Tensor]:
    """Semi-implicit Euler: the new velocity moves the position."""
    velocity = velocity + dt * acceleration(position, velocity, effort)
    return position + dt * velocity, velocity


@dataclass(frozen=True)
class CartPoleTask:
    """Balance the pole, on the numbers of `Isaac-Cartpole-v0`: one policy step, its reward, its end, its start."""

    body: CartPole = CartPole()
    physics_dt: float = 1 / 120
    decimation: int = 2
    episode_steps: int = 300
    force_n: float = 100.0
    """For a raw action of 1."""
    cart_damping: float = 10.0
    effort_limit: float = 400.0
    cart_bound_m: float = 3.0

    @property
    def step_dt(self) -> float:
        return self.physics_dt * self.decimation

    def initial(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Starts of `count` episodes: position and velocity (envs, 2)."""
        half = 0.25 * math.pi
        unit = torch.rand(2, count, 2, generator=generator) * 2.0 - 1.0
        return unit[0] * torch.tensor([1.0, half]), unit[1] * torch.tensor([0.5, half])

    def step(self, position: Tensor, velocity: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Position and velocity after one policy step of the raw action (envs, 1)."""
        for _ in range(self.decimation):
            effort = torch.zeros_like(position)
            effort[:, 0] = self.force_n * action[:, 0] - self.cart_damping * velocity[:, 0]
            effort = effort.clamp(-self.effort_limit, self.effort_limit)
            position, velocity = euler_step(self.body.acceleration, position, velocity, effort, self.physics_dt)
        return position, velocity

    def terminated(self, position: Tensor) -> Tensor:
        return position[:, 0].abs() > self.cart_bound_m

    def reward(self, position: Tensor, velocity: Tensor, terminated: Tensor) -> Tensor:
        """Of the state that a step led to (envs,)."""
        ended = terminated.float()
        angle = torch.remainder(position[:, 1] + math.pi, 2.0 * math.pi) - math.pi
        upright = -angle.square()
        calm = -0.01 * velocity[:, 0].abs() - 0.005 * velocity[:, 1].abs()
        return self.step_dt * (1.0 - ended - 2.0 * ended + upright + calm)

    def observe(self, position: Tensor, velocity: Tensor) -> Tensor:
        """(envs, 4)."""
        return torch.cat((position, velocity), dim=-1)
