"""The process of a simulated robot: `SimulatedRobot` behind a UDP port.

`python -m trudi.runtime.robots.mujoco_process --config JSON`, JSON being the fields of `MujocoCfg`. It prints one line of
JSON when it is ready, with its port, and one at its end, with its report.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import sys
from dataclasses import asdict, replace
from typing import Any

from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotError, RobotState
from trudi.runtime.robots.disturbance import UNKNOWN_JOINT, Layout
from trudi.runtime.robots.messages import (
    MAX_DATAGRAM,
    CommandDecoder,
    CommandRejected,
    StateEncoder,
    encode_json,
    layout_hash,
    layout_of,
)
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulated import SimulatedRobot, print_report
from trudi.runtime.viewer.choice import HELP as VIEW_HELP
from trudi.runtime.viewer.choice import with_view

PARENT_CHECK_NS = 50_000_000
MAX_DRAINED = 256


class RobotPort:
    """The transport of a robot: datagrams on 127.0.0.1. States go to the runtime that said hello last; only it commands."""

    def __init__(self, robot: SimulatedRobot, port: int = 0, parent: int | None = None) -> None:
        """`parent` is a pipe: when its other end is closed, the robot stops."""
        self._robot, self._closed = robot, _poll_of(parent)
        drives = len(robot.description.drives)
        self._decoder, self._command = CommandDecoder(drives), JointCommand.zeros(drives)
        self._encoders = _encoders(robot.description)
        self._runtime: tuple[str, int] | None = None
        self._looked_ns = monotonic_ns()
        self._next_check_ns = 0
        self._socket = _bind(port)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self._socket.getsockname()[1])

    def receive(self) -> None:
        """Takes what has arrived, and looks after the parent."""
        self._drain()
        now_ns = monotonic_ns()
        if self._closed is not None and now_ns >= self._next_check_ns:
            self._next_check_ns = now_ns + PARENT_CHECK_NS
            if self._closed.poll(0):
                self._robot.stop()

    def send(self, state: RobotState, layout: Layout) -> None:
        """Sends a state to the runtime, if one said hello."""
        if self._runtime is not None:
            encoder = self._encoders[layout]
            self._send(encoder.encode(state.values[: encoder.count], state.stamp_ns, state.sequence), self._runtime)

    def close(self) -> None:
        """Closes the port."""
        self._socket.close()

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
                self._robot.streaming = True
                self._robot.new_runtime()
        elif (request := self._decoder.request(size)) is not None:
            self._answer(*request, sender)
        elif sender == self._runtime:
            self._take_command(size)
        else:
            self._robot.malformed("a command from a runtime that did not say hello, or that another one has replaced")

    def _take_command(self, size: int) -> None:
        now_ns = monotonic_ns()
        try:
            self._decoder.decode(size, self._command)
        except CommandRejected as error:
            self._robot.malformed(str(error))
        else:
            self._robot.take(self._command, now_ns, self._looked_ns)

    def _answer(self, number: int, request: str, sender: tuple[str, int]) -> None:
        reply: dict[str, Any] = {"id": number, "body": {}}
        if request == "describe":
            reply["body"] = self._robot.description.model_dump(mode="json")
            reply["streams_to"] = self._runtime[1] if self._runtime is not None else None
        elif request == "report":
            reply["body"] = asdict(self._robot.report())
        elif request == "stop":
            self._robot.stop()
        else:
            reply["error"] = "unknown request; available: describe, report, stop"
        packet = encode_json(reply)
        while len(packet) > MAX_DATAGRAM and reply["body"].get("violations"):  # the count says how many there were
            reply["body"]["violations"] = reply["body"]["violations"][:-10]
            packet = encode_json(reply)
        self._send(packet, sender)

    def _send(self, packet: bytes | memoryview, receiver: tuple[str, int]) -> None:
        try:
            self._socket.sendto(packet, receiver)
        except (BlockingIOError, ConnectionError):  # nobody reads it: a lost datagram
            pass
        except OSError as error:
            self._robot.note(f"a message could not be sent: {error.strerror}")


def _encoders(description: RobotDescription) -> dict[Layout, StateEncoder]:
    """The encoder of good states, and those of states of the wrong size and of other joints."""
    joints = (UNKNOWN_JOINT, *description.joint_names[1:])
    other = layout_hash(joints, [(sensor.name, sensor.size) for sensor in description.custom])
    layout, count = layout_of(description), description.value_count
    return {
        Layout.RIGHT: StateEncoder(layout, count),
        Layout.SHORT: StateEncoder(layout, count - 1),
        Layout.OTHER: StateEncoder(other, count),
    }


def _bind(port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    try:
        one.bind(("127.0.0.1", port))
    except OSError as error:
        one.close()
        raise RobotError(f"cannot listen at 127.0.0.1:{port}: {error.strerror}") from error
    return one


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
    parser.add_argument("--view", default="", help=VIEW_HELP)
    parser.add_argument("--with-parent", action="store_true", help="end when standard input is closed; ignore Ctrl-C")
    args = parser.parse_args(with_view(sys.argv[1:] if argv is None else argv))
    try:
        cfg = MujocoCfg.from_json(args.config)
        robot = SimulatedRobot(replace(cfg, view=args.view or cfg.view))
        robot.enter_realtime()
        port = RobotPort(robot, args.port, sys.stdin.fileno() if args.with_parent else None)
    except RobotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, robot.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN if args.with_parent else robot.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if args.with_parent else robot.stop)
    viewer = None if robot.viewer is None else asdict(robot.viewer)
    print(json.dumps({"port": port.port, "pid": os.getpid(), "viewer": viewer}), flush=True)
    try:
        robot.run(port)
    finally:
        print_report(robot)
        port.close()
        robot.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
