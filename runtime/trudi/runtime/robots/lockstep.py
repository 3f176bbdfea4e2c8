"""The runtime and the simulated robot in one thread, on a clock that counts simulated time: as fast as the machine goes.

In the loop are the whole `Controller` (terms with their delays and histories, latents, limits, every watch, the supervisor,
actions), the policy's graph, and the whole `SimulatedRobot` (physics, noise, lost states, late commands, variation, faults,
the judge of commands). Not in the loop is what takes real time: a state is read at the instant it is measured and the graph
answers at once, so that `MujocoCfg.command_latency_s` stands for all of it, up to the next physics step. Nothing is sent or
recorded, and no student stands in for a teacher that is late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trudi.runtime.contract import Contract
from trudi.runtime.controller import Controller, ControllerCfg, Outcome
from trudi.runtime.engines.base import Engine
from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulated import SimulatedRobot
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event

BEGIN_NS = 1_000_000_000
PERIOD_TOLERANCE = 1e-6


class LockStep:
    """One policy on one simulated robot. Time is `now_ns`, and passes in `start` and `step` alone."""

    def __init__(
        self, contract: Contract, engine: Engine, cfg: MujocoCfg, file: SiteFile | None = None, *, ticks_per_step: int = 1
    ) -> None:
        """`ticks_per_step`: commands, and looks of the watches, in a control step. TrudiRuntimeError where something
        does not fit, as in a session."""
        self.contract = contract
        self.now_ns = BEGIN_NS
        self.robot = SimulatedRobot(cfg, clock=lambda: self.now_ns)
        self.robot.streaming = True
        rate_hz = ticks_per_step / contract.control_period_s
        self.controller = Controller(contract, self.robot.description, file or SiteFile(joints={}), ControllerCfg(rate_hz))
        self._engine, self._latency_s = engine, cfg.command_latency_s
        step_s = self.robot.simulation.physics_step_s
        self.substeps = round(1.0 / rate_hz / step_s)
        """Physics steps in a tick."""
        if self.substeps < 1 or abs(self.substeps * step_s * rate_hz - 1.0) > PERIOD_TOLERANCE:
            raise RobotError(f"a tick of {1.0 / rate_hz:g} s is no whole number of physics steps of {step_s:g} s")
        self._step_ns, self._slot = round(step_s * 1e9), 0
        self.after_physics: Callable[[], None] = lambda: None
        """Called after every physics step."""
        refused = self.controller.request(Event.CONFIGURE, self.now_ns)
        assert refused is None, refused

    def start(self, commands: Sequence[Sequence[float]]) -> bool:
        """Puts the robot into its initial pose; the supervisor forgets what was, stands and starts the policy.

        `commands` as for `step`. False where a fault stopped the robot before that. RobotError where there is no fault, and
        the supervisor refuses.
        """
        if self.controller.supervisor.state in (State.STANDBY, State.STAND, State.ACTIVE):
            self._ask(Event.DEACTIVATE)
        for _ in range(1 + math.ceil(self._latency_s * self.controller.cfg.rate_hz)):
            self._tick(commands)  # until no command of the last flight is on its way
        self.robot.reset_pose()
        self._advance()
        self._tick(commands)  # judges the robot as it is now
        self._ask(Event.RESET if self.controller.supervisor.state is State.FAULT else Event.ACTIVATE)
        self._tick(commands)  # so that the robot hears of STANDBY
        if self._stopped:
            return False
        self._ask(Event.STAND)
        while self.controller.ramp_left_s(self.now_ns) > 0.0 and not self._stopped:
            self._tick(commands)
        if not self._stopped:
            self._ask(Event.START)
        return not self._stopped

    def step(self, commands: Sequence[Sequence[float]]) -> bool:
        """One control step under `commands`, an array for each of the contract's; False where the policy drives no more."""
        for _ in range(self.controller.decimation):
            self._tick(commands)
        return self.controller.supervisor.state is State.ACTIVE

    @property
    def _stopped(self) -> bool:
        return self.controller.supervisor.state is State.FAULT

    def _ask(self, event: Event) -> None:
        if (refused := self.controller.request(event, self.now_ns)) is not None:
            raise RobotError(refused)

    def _tick(self, commands: Sequence[Sequence[float]]) -> None:
        controller, now_ns = self.controller, self.now_ns
        for index, values in enumerate(commands):
            controller.command(index, values, now_ns)
        output, outcome = None, Outcome.NONE
        if controller.begin(now_ns, self._slot, 0):
            output, outcome = self._engine.infer(controller.observer.observation, controller.latent), Outcome.TEACHER
        command = controller.finish(now_ns, outcome, output)
        self.robot.take(command, now_ns)  # where a loop may be silent, it damps
        self._slot += 1
        for _ in range(self.substeps):
            self._advance()

    def _advance(self) -> None:
        """One physics step; its state arrives at the instant of which it is."""
        begins_ns = self.now_ns
        self.now_ns += self._step_ns
        state = self.robot.tick(begins_ns)
        if state is not None:
            state.received_ns = self.now_ns
            self.controller.receive(state)
        self.after_physics()
