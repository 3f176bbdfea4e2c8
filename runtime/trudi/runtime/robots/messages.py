"""Datagrams between the runtime and a robot: states, commands, and requests with their replies.

Everything is little-endian. A state and a command start with a header of 40 bytes, followed by float64 numbers:

| state                | bytes | command                  | bytes |
|----------------------|-------|--------------------------|-------|
| magic `TDS1`         | 4     | magic `TDC1`             | 4     |
| version, padding     | 2 + 2 | version, supervisor      | 2 + 1 |
| layout hash          | 4     | padding, count of drives | 1 + 4 |
| sequence             | 8     | sequence                 | 8     |
| stamp, ns            | 8     | stamp, ns; valid, ns     | 8 + 8 |
| count of values, pad | 4 + 4 |                          |       |
| CRC-32               | 4     | CRC-32                   | 4     |

The CRC covers the header before it and the numbers after it. Numbers that are not finite travel as they are, and so do
messages that arrive out of order: judging them is the supervisor's and the robot's own checker's task, not the wire's.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from trudi.runtime.robots.base import (
    Float64,
    JointCommand,
    RobotDescription,
    RobotError,
    RobotState,
    StateRejected,
    SupervisorState,
)

VERSION = 1
HEADER_SIZE = 40
COMMAND_ROWS = 5
MAX_DATAGRAM = 65_507
"""The most bytes that UDP over IPv4 carries."""

_STATE_MAGIC, _COMMAND_MAGIC, _JSON_MAGIC, _HELLO = b"TDS1", b"TDC1", b"TDJ1", b"TDH1"
_STATE = struct.Struct("<4sHxxIQqIxxxx")
_COMMAND = struct.Struct("<4sHBxIQqq")
_CRC = struct.Struct("<I")
_CRC_AT = HEADER_SIZE - _CRC.size
# Room for a message that is too long to be seen as such: the kernel cuts what does not fit.
_SLACK = 64


class CommandRejected(RobotError):
    """A message that is no command for this robot: damaged, or for another number of drives."""


def layout_hash(joint_names: Sequence[str], custom: Sequence[tuple[str, int]]) -> int:
    """CRC-32 of what the numbers of a state mean: joint names in order, custom sensors with their sizes in order."""
    return zlib.crc32(json.dumps([list(joint_names), [list(sensor) for sensor in custom]]).encode())


def layout_of(description: RobotDescription) -> int:
    """`layout_hash` of a description's states."""
    return layout_hash(description.joint_names, [(sensor.name, sensor.size) for sensor in description.custom])


def _sign(packet: bytearray, header: memoryview, payload: memoryview) -> None:
    _CRC.pack_into(packet, _CRC_AT, zlib.crc32(payload, zlib.crc32(header)))


def _signed(header: memoryview, payload: memoryview, packet: bytearray) -> bool:
    return _CRC.unpack_from(packet, _CRC_AT)[0] == zlib.crc32(payload, zlib.crc32(header))


class StateEncoder:
    """Packs states into one buffer of its own."""

    def __init__(self, layout: int, count: int) -> None:
        self._layout = layout
        self.count = count
        """Numbers in a state."""
        self._packet = bytearray(HEADER_SIZE + 8 * count)
        self._view = memoryview(self._packet)
        self._values = np.frombuffer(self._packet, "<f8", count, HEADER_SIZE)

    def encode(self, values: Float64, stamp_ns: int, sequence: int) -> memoryview:
        """The datagram of `values` (count,); the next call overwrites it."""
        _STATE.pack_into(self._packet, 0, _STATE_MAGIC, VERSION, self._layout, sequence, stamp_ns, self.count)
        np.copyto(self._values, values)
        _sign(self._packet, self._view[:_CRC_AT], self._view[HEADER_SIZE:])
        return self._view


class StateDecoder:
    """Reads states of one description: receive into `buffer`, then `decode` the bytes received."""

    def __init__(self, description: RobotDescription) -> None:
        self._name, self._layout, self._count = description.name, layout_of(description), description.value_count
        self._joints = description.joint_names
        self.size = HEADER_SIZE + 8 * self._count
        """Bytes of a state."""
        self.buffer = bytearray(MAX_DATAGRAM)  # of any robot's states, so that another robot's are recognised
        self._view = memoryview(self.buffer)
        self._values = np.frombuffer(self.buffer, "<f8", self._count, HEADER_SIZE)
        self._state = RobotState.zeros(description)

    def decode(self, size: int) -> RobotState:
        """The state in the first `size` bytes of `buffer`, without `received_ns`; the next call overwrites it.

        StateRejected says how the bytes are no state, or that they are one of other joints or sensors.
        """
        if size < HEADER_SIZE:
            raise StateRejected("malformed", f"a state of {size} bytes is shorter than its header of {HEADER_SIZE} bytes")
        magic, version, layout, sequence, stamp_ns, count = _STATE.unpack_from(self.buffer)
        if magic != _STATE_MAGIC:
            raise StateRejected("malformed", f"a message starts with {magic!r}, not with {_STATE_MAGIC!r}: it is no state")
        if version != VERSION:
            raise StateRejected("malformed", f"a state of protocol version {version}; this runtime speaks version {VERSION}")
        if size != HEADER_SIZE + 8 * count:
            raise StateRejected("malformed", f"a state of {size} bytes says that it carries {count} numbers")
        if not _signed(self._view[:_CRC_AT], self._view[HEADER_SIZE:size], self.buffer):
            raise StateRejected("malformed", "a state's checksum is wrong: it was damaged on the way")
        self._check_fits(layout, count)
        state = self._state
        np.copyto(state.values, self._values)
        state.stamp_ns, state.sequence = stamp_ns, sequence
        return state

    def _check_fits(self, layout: int, count: int) -> None:
        if layout != self._layout:
            joints = ", ".join(self._joints)
            raise StateRejected(
                "layout",
                f"a state of other joints or sensors (layout {layout:08x}) than those of {self._name} "
                f"(layout {self._layout:08x}; joints in order: {joints})",
            )
        if count != self._count:
            raise StateRejected("malformed", f"a state of {count} numbers; {self._name}'s has {self._count}")


class CommandEncoder:
    """Packs commands into one buffer of its own."""

    def __init__(self, drives: int) -> None:
        self._drives = drives
        self._packet = bytearray(HEADER_SIZE + 8 * COMMAND_ROWS * drives)
        self._view = memoryview(self._packet)
        self._values = np.frombuffer(self._packet, "<f8", COMMAND_ROWS * drives, HEADER_SIZE).reshape(COMMAND_ROWS, drives)

    def encode(self, command: JointCommand) -> memoryview:
        """The datagram of `command`; the next call overwrites it."""
        _COMMAND.pack_into(
            self._packet,
            0,
            _COMMAND_MAGIC,
            VERSION,
            int(command.state),
            self._drives,
            command.sequence,
            command.stamp_ns,
            command.valid_ns,
        )
        np.copyto(self._values, command.values)
        _sign(self._packet, self._view[:_CRC_AT], self._view[HEADER_SIZE:])
        return self._view


class CommandDecoder:
    """Reads commands for `drives` drives from a buffer that other messages may arrive in, too."""

    def __init__(self, drives: int) -> None:
        self._drives = drives
        self.size = HEADER_SIZE + 8 * COMMAND_ROWS * drives
        """Bytes of a command."""
        self.buffer = bytearray(max(self.size, 1024) + _SLACK)
        self._view = memoryview(self.buffer)
        self._values = np.frombuffer(self.buffer, "<f8", COMMAND_ROWS * drives, HEADER_SIZE).reshape(COMMAND_ROWS, drives)

    def is_hello(self, size: int) -> bool:
        """Whether a runtime asks for the stream of states."""
        return size == len(_HELLO) and self.buffer.startswith(_HELLO)

    def request(self, size: int) -> tuple[int, str] | None:
        """Number and name of the request in the first `size` bytes; None where they are none."""
        message = decode_json(bytes(self._view[:size]))
        if message is None or not isinstance(message.get("request"), str) or not isinstance(message.get("id"), int):
            return None
        return message["id"], message["request"]

    def decode(self, size: int, into: JointCommand) -> None:
        """Fills `into` with the command in the first `size` bytes of `buffer`. CommandRejected where they are none."""
        if size < HEADER_SIZE:
            raise CommandRejected(f"a command of {size} bytes is shorter than its header of {HEADER_SIZE} bytes")
        magic, version, state, drives, sequence, stamp_ns, valid_ns = _COMMAND.unpack_from(self.buffer)
        if magic != _COMMAND_MAGIC:
            raise CommandRejected(f"a message starts with {magic!r}, not with {_COMMAND_MAGIC!r}: it is no command")
        if version != VERSION:
            raise CommandRejected(f"a command of protocol version {version}; this robot speaks version {VERSION}")
        if size != self.size or drives != self._drives:
            raise CommandRejected(f"a command of {size} bytes for {drives} drives; this robot has {self._drives}")
        if not _signed(self._view[:_CRC_AT], self._view[HEADER_SIZE:size], self.buffer):
            raise CommandRejected("a command's checksum is wrong: it was damaged on the way")
        if state not in SupervisorState.__members__.values():
            raise CommandRejected(f"a command of the unknown supervisor state {state}")
        np.copyto(into.values, self._values)
        into.state, into.sequence, into.stamp_ns, into.valid_ns = SupervisorState(state), sequence, stamp_ns, valid_ns


def encode_hello() -> bytes:
    """The datagram by which a runtime asks for the stream of states at its address."""
    return _HELLO


def encode_json(message: dict[str, Any]) -> bytes:
    """A request or reply as a datagram."""
    return _JSON_MAGIC + json.dumps(message).encode()


def decode_json(packet: bytes) -> dict[str, Any] | None:
    """The request or reply in `packet`; None where it holds none."""
    if packet[:4] != _JSON_MAGIC:
        return None
    try:
        message = json.loads(packet[4:])
    except ValueError:
        return None
    return cast("dict[str, Any]", message) if isinstance(message, dict) else None
