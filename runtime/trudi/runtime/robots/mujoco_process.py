"""The process of a simulated robot: real physics against the wall clock, behind a UDP port.

`python -m trudi.runtime.robots.mujoco_process --config JSON`, JSON being the fields of `MujocoCfg`. It prints one line of
JSON when it is ready, with its port, and one at its end, with its report. Every physics step:

    wait for the step's deadline; take what commands arrived, judge each; step under the newest that is still valid, or
    else damp; measure; send the state.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections import deque
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from trudi.runtime.realtime import RealtimeCfg, Sleeper, enter_realtime, monotonic_ns, quiet_interpreter
from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotError, RobotReport, RobotState, SupervisorState
from trudi.runtime.robots.checker import Checker, CheckerCfg, Watch
from trudi.runtime.robots.disturbance import Disturbance, SensorCfg
from trudi.runtime.robots.messages import MAX_DATAGRAM, CommandDecoder, CommandRejected, encode_json
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulation import Simulation, load_mujoco, make_simulation

MAX_BEHIND_NS = 100_000_000
PARENT_CHECK_NS = 50_000_000
FRAME_NS = 33_000_000
MAX_QUEUED = 1024
MAX_DRAINED = 256


class Drives:
    """The commands that arrived, and the one that is obeyed."""

    def __init__(self, count: int, timeout_ns: int) -> None:
        self._timeout_ns = timeout_ns
        # Reused one after the other, so that nothing is allocated; more are never on their way at once.
        self._pool = deque(JointCommand.zeros(count) for _ in range(MAX_QUEUED))
        self._queue: deque[tuple[int, int, JointCommand]] = deque()
        self._current: JointCommand | None = None
        self._until_ns = 0

    def next(self) -> JointCommand:
        """An object to fill with the command that arrived."""
        return self._pool[0]

    def accept(self, now_ns: int, latency_ns: int) -> None:
        """The object from `next` is a command: to be obeyed after `latency_ns`, and for as long as it is valid."""
        if len(self._queue) >= MAX_QUEUED - 2:
            return
        command = self._pool.popleft()
        self._pool.append(command)
        begins_ns = now_ns + latency_ns
        if self._queue:
            begins_ns = max(begins_ns, self._queue[-1][0])
        made_ns = min(command.stamp_ns, now_ns)
        self._queue.append((begins_ns, made_ns + min(command.valid_ns, self._timeout_ns) + latency_ns, command))

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
        return 0.0 if self._current is None else float(self._current.stiffness.max())


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
            self._substeps, self._steps, self._total = 0, 0, 0.0
            self._simulation.reset(self._seed + len(self.returns))


class RobotProcess:
    """The robot: everything but the command line."""

    def __init__(self, cfg: MujocoCfg, port: int = 0) -> None:
        self._simulation = simulation = make_simulation(
            cfg.task,
            cfg.model,
            command_timeout_s=cfg.command_timeout_s,
            base_contact=cfg.base_contact,
            visual=cfg.view,
        )
        simulation.reset(cfg.seed)
        self._every = _steps_per_state(cfg.state_period_s, simulation.physics_step_s)
        self._description = description = simulation.describe().model_copy(
            update={"state_period_s": self._every * simulation.physics_step_s}
        )
        self._checker = Checker(
            description,
            CheckerCfg(simulation.max_damping, cfg.engage_distance, cfg.stand_speed),
            simulation.control_range,
        )
        sensors = SensorCfg(cfg.noise, cfg.quantise, cfg.dropout, cfg.command_latency_s)
        self._disturbance = Disturbance(simulation, cfg.faults, sensors, self._checker, cfg.seed)
        self._drives = Drives(len(description.drives), round(cfg.command_timeout_s * 1e9))
        self._episodes = Episodes(simulation, cfg.seed) if simulation.episode_steps is not None else None
        self._decoder = CommandDecoder(len(description.drives))
        self._state = RobotState.zeros(description)
        self._measured = _drive_positions(description)
        self._runtime: tuple[str, int] | None = None
        self._obeying = self._stopping = False
        self._rebased = self._ticks = 0
        self._looked_ns = monotonic_ns()
        self._notes = enter_realtime(RealtimeCfg(priority=cfg.priority, cpu=cfg.cpu, lock_memory=bool(cfg.priority)))
        self._warnings = _collect_warnings()
        self._socket = _bind(port)
        self._viewer = _open_viewer(simulation) if cfg.view else None
        self._next_frame_ns = 0
        simulation.measure(self._state)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self._socket.getsockname()[1])

    def stop(self, *_: object) -> None:
        """Ends `run` after the current step; a signal handler, too."""
        self._stopping = True

    def run(self, parent: int | None = None) -> None:
        """Steps until it is stopped, or until the other end of the pipe `parent` is closed."""
        sleeper, step_ns = Sleeper(), round(self._simulation.physics_step_s * 1e9)
        closed = _poll_of(parent)
        deadline_ns = next_check_ns = monotonic_ns()
        with quiet_interpreter():
            while not self._stopping:
                sleeper.until(deadline_ns)
                now_ns = monotonic_ns()
                if now_ns - deadline_ns > MAX_BEHIND_NS:
                    deadline_ns, self._rebased = now_ns, self._rebased + 1
                self._drain()
                self._tick(monotonic_ns())
                deadline_ns += step_ns
                if now_ns >= next_check_ns:
                    next_check_ns = now_ns + PARENT_CHECK_NS
                    self._stopping = self._stopping or (closed is not None and bool(closed.poll(0)))

    def report(self) -> RobotReport:
        """What it saw of the run."""
        notes = [*self._notes, *self._warnings]
        if self._rebased:
            notes.append(f"fell behind the wall clock by more than {MAX_BEHIND_NS / 1e6:g} ms {self._rebased} times")
        start_ns = self._disturbance.start_ns or 0
        return RobotReport(
            violations=tuple(self._checker.violations),
            violation_count=self._checker.violation_count,
            commands=self._checker.commands,
            stiffness=self._drives.stiffness,
            returns=tuple(self._episodes.returns) if self._episodes is not None else (),
            injected=tuple(_injected(watch, start_ns) for watch in self._checker.watches),
            notes=tuple(notes[:20]),
        )

    def close(self) -> None:
        """Closes the port and the viewer."""
        self._socket.close()
        if self._viewer is not None:
            self._viewer.close()

    def _drain(self) -> None:
        for _ in range(MAX_DRAINED):
            try:
                size, sender = self._socket.recvfrom_into(self._decoder.buffer)
            except BlockingIOError:
                self._looked_ns = monotonic_ns()
                return
            except ConnectionError:  # the runtime is gone
                continue
            self._take(size, sender)

    def _take(self, size: int, sender: tuple[str, int]) -> None:
        if self._decoder.is_hello(size):
            if sender != self._runtime:
                self._runtime = sender
                self._checker.new_runtime()
        elif (request := self._decoder.request(size)) is not None:
            self._answer(*request, sender)
        elif sender == self._runtime:
            self._take_command(size)
        else:
            self._checker.malformed("a command from a runtime that did not say hello, or that another one has replaced")

    def _take_command(self, size: int) -> None:
        now_ns = monotonic_ns()
        command = self._drives.next()
        try:
            self._decoder.decode(size, command)
        except CommandRejected as error:
            self._checker.malformed(str(error))
            return
        self._checker.check(command, self._state.joint_position[self._measured], now_ns, self._looked_ns)
        if command.state == SupervisorState.ACTIVE:
            self._disturbance.start(now_ns)
        if np.isfinite(command.values).all():  # drives have no way to obey any other
            self._drives.accept(now_ns, self._disturbance.latency_ns(now_ns))

    def _answer(self, number: int, request: str, sender: tuple[str, int]) -> None:
        reply: dict[str, Any] = {"id": number, "body": {}}
        if request == "describe":
            reply["body"] = self._description.model_dump(mode="json")
            reply["streams_to"] = self._runtime[1] if self._runtime is not None else None
        elif request == "report":
            reply["body"] = asdict(self.report())
        elif request == "stop":
            self._stopping = True
        else:
            reply["error"] = "unknown request; available: describe, report, stop"
        packet = encode_json(reply)
        while len(packet) > MAX_DATAGRAM and reply["body"].get("violations"):  # the count says how many there were
            reply["body"]["violations"] = reply["body"]["violations"][:-10]
            packet = encode_json(reply)
        self._send(packet, sender)

    def _tick(self, now_ns: int) -> None:
        """One physics step, and the state after it."""
        simulation = self._simulation
        self._disturbance.begin_due(now_ns)
        command = self._drives.obeyed(now_ns)
        if self._obeying and command is None:
            self._checker.damps_by_itself(now_ns)
        self._obeying = command is not None
        if self._episodes is None:
            simulation.step(command)
        elif self._disturbance.start_ns is not None:  # until then the initial state is held
            simulation.step(command)
            self._episodes.count_step()
        self._disturbance.force(now_ns)
        simulation.measure(self._state)
        self._ticks += 1
        if self._ticks % self._every == 0 and self._runtime is not None:
            packet = self._disturbance.message(self._state, monotonic_ns())
            if packet is not None:
                self._send(packet, self._runtime)
        if self._viewer is not None and now_ns >= self._next_frame_ns:
            self._next_frame_ns = now_ns + FRAME_NS
            self._viewer.sync()

    def _send(self, packet: bytes | memoryview, receiver: tuple[str, int]) -> None:
        try:
            self._socket.sendto(packet, receiver)
        except (BlockingIOError, ConnectionError):  # nobody reads it: a lost datagram
            pass
        except OSError as error:
            if len(self._notes) < 10:
                self._notes.append(f"a message could not be sent: {error.strerror}")


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


def _injected(watch: Watch, start_ns: int) -> dict[str, float | str | None]:
    def since(moment_ns: int | None) -> float | None:
        return None if moment_ns is None else (moment_ns - start_ns) / 1e9

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


def _bind(port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    try:
        one.bind(("127.0.0.1", port))
    except OSError as error:
        one.close()
        raise RobotError(f"cannot listen at 127.0.0.1:{port}: {error.strerror}") from error
    return one


def _open_viewer(simulation: Simulation) -> Any:
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise RobotError("the viewer needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; leave --view out")
    try:
        return importlib.import_module("mujoco.viewer").launch_passive(
            simulation.model, simulation.data, show_left_ui=False, show_right_ui=False
        )
    except Exception as error:
        raise RobotError(f"MuJoCo's viewer does not open: {error}; leave --view out") from error


def _poll_of(parent: int | None) -> select.poll | None:
    if parent is None:
        return None
    poll = select.poll()
    poll.register(parent, 0)  # that the other end was closed is always told
    return poll


def main(argv: list[str] | None = None) -> int:
    """Runs the robot; 2 where it cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m trudi.runtime.robots.mujoco_process", description=__doc__)
    parser.add_argument("--config", default="{}", help="fields of MujocoCfg, as JSON")
    parser.add_argument("--port", type=int, default=0, help="UDP port to listen at, on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--view", action="store_true", help="show the robot in MuJoCo's viewer")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input is closed; ignore Ctrl-C")
    args = parser.parse_args(argv)
    try:
        cfg = MujocoCfg.from_json(args.config)
        robot = RobotProcess(replace(cfg, view=cfg.view or args.view), args.port)
    except RobotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, robot.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN if args.with_parent else robot.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if args.with_parent else robot.stop)
    print(json.dumps({"port": robot.port, "pid": os.getpid()}), flush=True)
    try:
        robot.run(sys.stdin.fileno() if args.with_parent else None)
    finally:
        try:
            print(json.dumps({"report": asdict(robot.report())}), flush=True)
        except BrokenPipeError:  # the parent is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        robot.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
