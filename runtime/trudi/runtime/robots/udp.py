"""A robot behind a UDP port: the transport between the runtime and a simulated robot in a process of its own.

States and commands share one socket, and the robot streams to whoever said hello from there last. Requests (describe,
report, stop) go through a second socket, so that a reply never stands in the queue of states.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from pydantic import ValidationError

from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import JointCommand, Robot, RobotDescription, RobotError, RobotReport, RobotState
from trudi.runtime.robots.messages import (
    MAX_DATAGRAM,
    CommandEncoder,
    StateDecoder,
    decode_json,
    encode_hello,
    encode_json,
)

# What the kernel may hold of states that were not read. A control loop that was late for this long finds the states of
# all that time, oldest first; what comes after them is dropped, so no reader works through more.
QUEUE_S = 1.0
# The kernel counts its own bookkeeping for each message.
_OVERHEAD = 1024
_MIN_QUEUE = 65_536
_RETRY_S = 0.2
_MAX_REFUSALS = 8


class UdpRobot(Robot):
    """A robot at `host`:`port`. `describe` comes first: it also starts the stream of states."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 2.0) -> None:
        """Opens the sockets; nothing is sent. `timeout_s` is how long a request may take."""
        self._address, self._timeout_s = (host, port), timeout_s
        self._description: RobotDescription | None = None
        self._decoder: StateDecoder | None = None
        self._encoder: CommandEncoder | None = None
        self._asked = 0
        self.refused = 0
        """How often the kernel said that nobody listens at the robot's port."""
        self.unsent = 0
        """Commands that did not leave, because nobody listened or the queue was full."""
        try:
            self._stream, self._requests = self._connect(), self._connect()
        except (OSError, OverflowError, UnicodeError) as error:  # the latter two: a port or a name that cannot be
            reason = getattr(error, "strerror", None) or error
            raise RobotError(f"cannot reach {host}:{port}: {reason}; check the address") from error
        self._stream.setblocking(False)

    @property
    def port(self) -> int:
        """The robot's port; another process may take the robot over there."""
        return self._address[1]

    def _connect(self) -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            one.connect(self._address)
        except OSError:
            one.close()
            raise
        return one

    def describe(self) -> RobotDescription:
        """What the robot is; the first call asks it, and starts the stream of states."""
        if self._description is None:
            body = self._ask("describe", hello=True)
            try:
                description = RobotDescription.model_validate_json(json.dumps(body))
            except ValidationError as error:
                where = "{}:{}".format(*self._address)
                raise RobotError(f"the robot at {where} describes itself in a way not understood: {error}") from error
            self._decoder, self._encoder = StateDecoder(description), CommandEncoder(len(description.drives))
            queue = int(QUEUE_S / description.state_period_s * (self._decoder.size + _OVERHEAD))
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(queue, _MIN_QUEUE))
            self._description = description
        return self._description

    def read(self) -> RobotState | None:
        decoder = self._decoder
        if decoder is None:
            raise RobotError("describe() comes before read(): a state cannot be read without it")
        for _ in range(_MAX_REFUSALS):
            try:
                size = self._stream.recv_into(decoder.buffer)
            except BlockingIOError:
                return None
            except ConnectionError:  # the news of an earlier command that found nobody; states may still lie behind it
                self.refused += 1
                continue
            received_ns = monotonic_ns()
            state = decoder.decode(size)
            state.received_ns = received_ns
            return state
        return None

    def write(self, command: JointCommand) -> None:
        if self._encoder is None:
            raise RobotError("describe() comes before write(): a command cannot be sent without it")
        packet = self._encoder.encode(command)
        for _ in range(2):  # the kernel tells of the last command's fate before it takes the next
            try:
                self._stream.send(packet)
            except BlockingIOError:
                break
            except ConnectionError:
                self.refused += 1
                continue
            except OSError as error:
                raise RobotError("a command cannot be sent to {}:{}: {}".format(*self._address, error.strerror)) from error
            return
        self.unsent += 1

    def report(self) -> RobotReport:
        """What the robot saw of the run so far."""
        try:
            return report_from(self._ask("report"))
        except TypeError as error:
            raise RobotError(f"the robot's report is not understood: {error}") from error

    def stop(self) -> None:
        """Asks the robot's process to end, and waits until it says that it will."""
        self._ask("stop")

    def close(self) -> None:
        self._stream.close()
        self._requests.close()

    def _ask(self, request: str, *, hello: bool = False) -> dict[str, Any]:
        """The body of the reply to `request`; asked again until it comes, because a datagram may be lost."""
        deadline = time.monotonic() + self._timeout_s
        self._asked += 1
        while (left := deadline - time.monotonic()) > 0:
            self._requests.settimeout(min(_RETRY_S, left))
            try:
                if hello:
                    self._stream.send(encode_hello())
                self._requests.send(encode_json({"id": self._asked, "request": request}))
                if (body := self._answer(hello)) is not None:
                    return body
            except TimeoutError:
                continue
            except ConnectionError:
                time.sleep(min(_RETRY_S / 4, left))
        raise RobotError(
            "the robot at {}:{} did not answer `{}` within {:g} s; check that its process runs, and that it listens at "
            "this address and port".format(*self._address, request, self._timeout_s)
        )

    def _answer(self, hello: bool) -> dict[str, Any] | None:
        while True:
            reply = decode_json(self._requests.recv(MAX_DATAGRAM))
            if reply is None or reply.get("id") != self._asked:
                continue
            if hello and reply.get("streams_to") != self._stream.getsockname()[1]:
                return None  # the hello was lost
            body = reply.get("body")
            return body if isinstance(body, dict) else {}


def report_from(body: dict[str, Any]) -> RobotReport:
    """A report from its JSON form, whose lists were tuples. TypeError on unknown fields."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    return RobotReport(**fields)
