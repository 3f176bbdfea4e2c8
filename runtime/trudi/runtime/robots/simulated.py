"""A simulated robot without its transport: real physics against the wall clock, faults on schedule, a judge of commands.

A transport brings the commands and takes the states away: UDP datagrams in `mujoco_process`, topics in the ROS 2 node
`sim_robot`. Every physics step:

    wait for the step's deadline; take what commands arrived, judge each; step under the newest that is still valid, or
    else damp; measure; send the state.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from trudi.runtime.realtime import RealtimeCfg, Sleeper, enter_realtime, monotonic_ns, quiet_interpreter
from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotError, RobotReport, RobotState, SupervisorState
from trudi.runtime.robots.checker import Checker, CheckerCfg, Watch
from trudi.runtime.robots.disturbance import Disturbance, Layout, SensorCfg
from trudi.runtime.robots.injection import Fault
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulation import Simulation, load_mujoco, make_simulation
from trudi.runtime.robots.variation import Varied
from trudi.runtime.viewer.link import ViewerAddress
from trudi.runtime.viewer.of_robot import open_viewer, wants_meshes

MAX_BEHIND_NS = 100_000_000
FRAME_NS = 33_000_000
MAX_QUEUED = 1024
MAX_NOTES = 20


class Transport(Protocol):
    """How commands reach the robot, and states leave it; called by the thread that steps the physics."""

    def receive(self) -> None:
        """Hands to the robot what has arrived; never waits."""

    def send(self, state: RobotState, layout: Layout) -> None:
        """Sends a state, laid out rightly or, on schedule, wrongly; never waits. The robot overwrites it later."""


class Drives:
    """The commands that arrived, and the one that is obeyed."""

    def __init__(self, count: int, timeout_ns: int) -> None:
        self._timeout_ns = timeout_ns
        # Reused one after the other, so that nothing is allocated; more are never on their way at once.
        self._pool = deque(JointCommand.zeros(count) for _ in range(MAX_QUEUED))
        self._queue: deque[tuple[int, int, JointCommand]] = deque()
        self._current: JointCommand | None = None
        self._until_ns = 0

    def accept(self, command: JointCommand, now_ns: int, latency_ns: int) -> None:
        """A command arrived: its numbers are to be obeyed after `latency_ns`, and for as long as it is valid."""
        if len(self._queue) >= MAX_QUEUED - 2:
            return
        kept = self._pool.popleft()
        self._pool.append(kept)
        np.copyto(kept.values, command.values)
        begins_ns = now_ns + latency_ns
        if self._queue:
            begins_ns = max(begins_ns, self._queue[-1][0])
        made_ns = min(command.stamp_ns, now_ns)
        self._queue.append((begins_ns, made_ns + min(command.valid_ns, self._timeout_ns) + latency_ns, kept))

    def obeyed(self, now_ns: int) -> JointCommand | None:
        """The command in force; None where none is, and the drives damp by themselves."""
        while self._queue and self._queue[0][0] <= now_ns:
            _, self._until_ns, self._current = self._queue.popleft()
        if self._current is not None and now_ns > self._until_ns:
            self._current = None
        return self._current

    @property
    def stiffness(self) -> float:
        """Largest stiffness in force at the last step; N m/rad or N/m."""
        current = self._current  # another thread may ask
        return 0.0 if current is None else float(current.stiffness.max())


class Episodes:
    """Episodes of a task with a reward, one after the other without a pause."""

    def __init__(self, simulation: Simulation, seed: int) -> None:
        self._simulation, self._seed = simulation, seed
        self._substeps = self._steps = 0
        self._total = 0.0
        self.returns: list[float] = []

    def count_step(self) -> None:
        """A physics step was made."""
        self._substeps += 1
        if self._substeps % self._simulation.control_substeps:
            return
        self._total += self._simulation.reward() or 0.0
        self._steps += 1
        if self._steps == self._simulation.episode_steps:
            self.returns.append(self._total)
            self.restart()

    def restart(self) -> None:
        """The next episode begins; one that was not finished does not count."""
        self._substeps, self._steps, self._total = 0, 0, 0.0
        self._simulation.reset(self._seed + len(self.returns))


class SimulatedRobot:
    """The robot: everything but how messages travel. Only `stop` and `report` are for other threads than that of `run`."""

    def __init__(self, cfg: MujocoCfg, clock: Callable[[], int] = monotonic_ns) -> None:
        """`clock` tells when a state is read; ns."""
        self._clock = clock
        self._simulation = simulation = make_simulation(
            cfg.task,
            cfg.model,
            command_timeout_s=cfg.command_timeout_s,
            base_contact=cfg.base_contact,
            visual=wants_meshes(cfg.view),
        )
        described = simulation.describe()  # what the robot says of itself, which its variation does not change
        self._varied = Varied(simulation, cfg.variation, cfg.seed)
        simulation.reset(cfg.seed)
        self._seed = cfg.seed
        self._every = _steps_per_state(cfg.state_period_s, simulation.physics_step_s)
        self.description: RobotDescription = described.model_copy(
            update={"state_period_s": self._every * simulation.physics_step_s}
        )
        self._checker = Checker(
            self.description,
            CheckerCfg(simulation.max_damping, cfg.engage_distance, cfg.stand_speed),
            simulation.control_range,
        )
        sensors = SensorCfg(cfg.noise, cfg.quantise, cfg.dropout, cfg.command_latency_s)
        self._disturbance = Disturbance(simulation, cfg.faults, sensors, self._checker, cfg.seed)
        self._drives = Drives(len(self.description.drives), round(cfg.command_timeout_s * 1e9))
        self._episodes = Episodes(simulation, cfg.seed) if simulation.episode_steps is not None else None
        self._held = self._episodes is not None
        self._state = RobotState.zeros(self.description)
        self._measured = _drive_positions(self.description)
        self.streaming = False
        """Whether anybody wants states."""
        self._driver = SupervisorState.INACTIVE
        self._obeying = self._stopping = False
        self._rebased = self._ticks = 0
        self._realtime = RealtimeCfg(priority=cfg.priority, cpu=cfg.cpu, lock_memory=bool(cfg.priority))
        self._notes: list[str] = []
        self._warnings = _collect_warnings()
        self._next_frame_ns = 0
        simulation.measure(self._state)
        # Last: no process is left where the robot cannot be made. Before `enter_realtime`, which it would inherit.
        self._viewer = open_viewer(cfg.view, cfg.task, cfg.model, simulation)

    @property
    def viewer(self) -> ViewerAddress | None:
        """Where the page is that shows the robot, if there is one."""
        return None if self._viewer is None else self._viewer.address

    @property
    def simulation(self) -> Simulation:
        """Its physics, to be looked at between two ticks."""
        return self._simulation

    def enter_realtime(self) -> None:
        """Gives the calling thread, which is to call `run`, the priority and the core of the configuration."""
        self._notes += enter_realtime(self._realtime)

    def run(self, transport: Transport) -> None:
        """Steps until it is stopped."""
        sleeper, step_ns = Sleeper(), round(self._simulation.physics_step_s * 1e9)
        deadline_ns = monotonic_ns()
        with quiet_interpreter():
            while not self._stopping:
                sleeper.until(deadline_ns)
                now_ns = monotonic_ns()
                if now_ns - deadline_ns > MAX_BEHIND_NS:
                    deadline_ns, self._rebased = now_ns, self._rebased + 1
                transport.receive()
                state = self.tick(monotonic_ns())
                if state is not None:
                    transport.send(state, self._disturbance.layout)
                self._show(now_ns)
                deadline_ns += step_ns

    def stop(self, *_: object) -> None:
        """Ends `run` after the current step; a signal handler, too."""
        self._stopping = True

    def tick(self, now_ns: int) -> RobotState | None:
        """One physics step; the state after it, if one is to be sent. The next call overwrites it."""
        simulation = self._simulation
        self._disturbance.begin_due(now_ns)
        command = self._drives.obeyed(now_ns)
        if self._obeying and command is None:
            self._checker.damps_by_itself(now_ns)
        self._obeying = command is not None
        if not self._held:
            self._varied.push(self._driver)
            simulation.step(self._varied.command(command))
            if self._episodes is not None:
                self._episodes.count_step()
        self._disturbance.force(now_ns)
        simulation.measure(self._state)
        self._varied.measured(self._state)
        self._ticks += 1
        if self._ticks % self._every or not self.streaming:
            return None
        return self._disturbance.disturb(self._state, self._clock())

    def take(self, command: JointCommand, now_ns: int, earliest_ns: int | None = None) -> None:
        """A command arrived at `now_ns`, or at some time since `earliest_ns`. The object stays the caller's."""
        self._checker.check(command, self._state.joint_position[self._measured], now_ns, earliest_ns)
        self._driver = command.state
        if command.state == SupervisorState.ACTIVE:
            self._disturbance.start(now_ns)
            self._held = False
        if np.isfinite(command.values).all():  # drives have no way to obey any other
            self._drives.accept(command, now_ns, self._disturbance.latency_ns(now_ns))

    def malformed(self, sentence: str) -> None:
        """A message came that is no command."""
        self._checker.malformed(sentence)

    def new_runtime(self) -> None:
        """Another runtime has taken over."""
        self._checker.new_runtime()

    def check_faults(self, faults: Sequence[Fault]) -> None:
        """RobotError where one of `faults` cannot happen to this robot; for any thread."""
        self._disturbance.check_fits(faults)

    def inject(self, faults: Sequence[Fault]) -> None:
        """Further faults. Their `at_s` counts from now, whether the flight has begun or not."""
        self._disturbance.inject(faults, monotonic_ns())

    def reset_pose(self) -> None:
        """Back to the initial state; a task with a reward holds it until the next command of the state ACTIVE."""
        if self._episodes is None:
            self._simulation.reset(self._seed)
        else:
            self._episodes.restart()
            self._held = True

    def note(self, sentence: str) -> None:
        """Something that it could not do, for the report."""
        if len(self._notes) < MAX_NOTES // 2:
            self._notes.append(sentence)

    def report(self) -> RobotReport:
        """What it saw of the run."""
        notes = [*self._notes, *self._warnings]
        if self._rebased:
            notes.append(f"fell behind the wall clock by more than {MAX_BEHIND_NS / 1e6:g} ms {self._rebased} times")
        return RobotReport(
            violations=tuple(self._checker.violations),
            violation_count=self._checker.violation_count,
            commands=self._checker.commands,
            stiffness=self._drives.stiffness,
            returns=tuple(self._episodes.returns) if self._episodes is not None else (),
            injected=tuple(map(_injected, self._checker.watches)),
            notes=tuple(notes[:MAX_NOTES]),
        )

    def close(self) -> None:
        """Closes the viewer."""
        if self._viewer is not None:
            self._viewer.close()

    def _show(self, now_ns: int) -> None:
        if self._viewer is not None and now_ns >= self._next_frame_ns:
            self._next_frame_ns = now_ns + FRAME_NS
            self._viewer.show(self._glance())

    def _glance(self) -> dict[str, Any]:
        """What a viewer is told."""
        returns = self._episodes.returns if self._episodes is not None else []
        return {
            "qpos": self._simulation.data.qpos.tolist(),
            "time_s": self._ticks * self._simulation.physics_step_s,
            "supervisor": self._driver.name,
            "obeying": self._obeying,
            "held": self._held,
            "commands": self._checker.commands,
            "unsafe": self._checker.violation_count,
            "returns": len(returns),
            "last_return": returns[-1] if returns else 0.0,
        }


def print_report(robot: SimulatedRobot) -> None:
    """The report as one line of JSON, the last that a robot's process says."""
    try:
        print(json.dumps({"report": asdict(robot.report())}), flush=True)
    except BrokenPipeError:  # who started the process is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _steps_per_state(period_s: float | None, step_s: float) -> int:
    if period_s is None:
        return 1
    steps = round(period_s / step_s)
    if steps < 1 or abs(steps * step_s - period_s) > 1e-9:
        raise RobotError(f"state_period_s is {period_s:g}: must be a multiple of the physics step of {step_s:g} s")
    return steps


def _drive_positions(description: RobotDescription) -> Any:
    """Where the driven joints stand among the measured ones; where drives are actuators, nobody asks."""
    names = description.joint_names
    return np.array([names.index(name) if description.pd else 0 for name in description.drives])


def _injected(watch: Watch) -> dict[str, float | str | None]:
    def since(moment_ns: int | None) -> float | None:
        return None if moment_ns is None else (moment_ns - watch.zero_ns) / 1e9

    return {
        "kind": watch.kind,
        "at_s": since(watch.began_ns),
        "safe_s": since(watch.safe_ns),
        "fault_s": since(watch.fault_ns),
        "own_damping_s": since(watch.own_damping_ns),
        "at_monotonic_s": watch.began_ns / 1e9,
    }


def _collect_warnings() -> list[str]:
    """A list that MuJoCo's warnings go to, instead of a file in the current folder."""
    found: list[str] = []

    def keep(message: object) -> None:
        text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        if len(found) < 5:
            found.append(f"MuJoCo warns: {text.splitlines()[0] if text else ''}")

    load_mujoco().set_mju_user_warning(keep)
    return found
