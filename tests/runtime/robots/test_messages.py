"""Datagrams: what is sent arrives, and what was damaged is refused with the reason."""

import math
import socket
import struct
import threading
import zlib

import numpy as np
import pytest

from trudi.runtime.robots.base import (
    CustomSensor,
    JointCommand,
    RobotDescription,
    RobotError,
    RobotJoint,
    StateRejected,
    SupervisorState,
)
from trudi.runtime.robots.messages import (
    HEADER_SIZE,
    CommandDecoder,
    CommandEncoder,
    CommandRejected,
    StateDecoder,
    StateEncoder,
    decode_json,
    encode_hello,
    encode_json,
    layout_of,
)
from trudi.runtime.robots.udp import UdpRobot


def describe(joints=("a", "b"), custom=(("eye", 2),), **fields):
    return RobotDescription(
        name="arm",
        joints=tuple(RobotJoint(name=name) for name in joints),
        drives=joints,
        state_period_s=0.01,
        command_timeout_s=0.1,
        custom=tuple(CustomSensor(name=name, size=size) for name, size in custom),
        **fields,
    )


ARM = describe()


def state_packet(description=ARM, stamp_ns=5, sequence=7, values=None):
    values = np.arange(description.value_count, dtype=float) if values is None else values
    return bytes(StateEncoder(layout_of(description), len(values)).encode(values, stamp_ns, sequence))


def decode(packet, description=ARM):
    decoder = StateDecoder(description)
    decoder.buffer[: len(packet)] = packet
    return decoder.decode(len(packet))


def test_a_state_arrives():
    # 2 joints and 2 custom numbers: 3 * 2 + 4 + 3 + 3 + 1 + 2 = 19 numbers.
    state = decode(state_packet(stamp_ns=-3, sequence=2**40))
    np.testing.assert_array_equal(state.values, np.arange(19.0))
    np.testing.assert_array_equal(state.joint_velocity, [2.0, 3.0])
    np.testing.assert_array_equal(state.custom, [17.0, 18.0])
    assert (state.stamp_ns, state.sequence) == (-3, 2**40)


def test_numbers_that_are_not_finite_arrive():
    state = decode(state_packet(values=np.array([math.nan, math.inf] + [0.0] * 17)))
    assert math.isnan(state.values[0]) and math.isinf(state.values[1])


def test_an_old_state_arrives_after_a_newer_one():
    decoder = StateDecoder(ARM)
    stamps = []
    for stamp, sequence in ((10, 2), (5, 1)):
        packet = state_packet(stamp_ns=stamp, sequence=sequence)
        decoder.buffer[: len(packet)] = packet
        stamps.append(decoder.decode(len(packet)).stamp_ns)
    assert stamps == [10, 5]


@pytest.mark.parametrize("at", range(0, HEADER_SIZE + 8 * 19, 3))
def test_a_flipped_bit_is_noticed(at):
    packet = bytearray(state_packet())
    packet[at] ^= 0x10
    with pytest.raises(StateRejected) as caught:
        decode(bytes(packet))
    assert caught.value.kind == "malformed"


def resigned(packet):
    """`packet` with a CRC that fits it."""
    crc = zlib.crc32(packet[HEADER_SIZE:], zlib.crc32(packet[: HEADER_SIZE - 4]))
    return packet[: HEADER_SIZE - 4] + struct.pack("<I", crc) + packet[HEADER_SIZE:]


@pytest.mark.parametrize(
    "packet,says",
    [
        (b"", "0 bytes is shorter than its header of 40"),
        (state_packet()[:39], "39 bytes is shorter"),
        (state_packet()[:-1], "191 bytes says that it carries 19 numbers"),
        (state_packet() + b"\0", "193 bytes says"),
        (b"XXXX" + state_packet()[4:], "starts with b'XXXX', not with b'TDS1': it is no state"),
        (resigned(state_packet()[:4] + b"\2\0" + state_packet()[6:]), "version 2; this runtime speaks version 1"),
        (state_packet(values=np.zeros(18)), "a state of 18 numbers; arm's has 19"),
        (bytes(65_507), "starts with"),
    ],
)
def test_what_is_no_state_is_refused(packet, says):
    with pytest.raises(StateRejected, match=says) as caught:
        decode(packet)
    assert caught.value.kind == "malformed" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        describe(joints=("b", "a")),
        describe(joints=("a", "c")),
        describe(joints=("a", "b", "c")),
        describe(custom=(("ear", 2),)),
        describe(custom=(("eye", 1),)),
        describe(custom=(("e", 1), ("ye", 1))),
    ],
)
def test_a_state_of_another_robot_is_refused(other):
    with pytest.raises(StateRejected, match=r"arm \(layout [0-9a-f]{8}; joints in order: a, b\)") as caught:
        decode(state_packet(other))
    assert caught.value.kind == "layout"


def test_decoding_makes_no_new_arrays():
    decoder, packet = StateDecoder(ARM), state_packet()
    decoder.buffer[: len(packet)] = packet
    first = decoder.decode(len(packet))
    assert decoder.decode(len(packet)) is first


def command_packet(drives=2, **fields):
    command = JointCommand.zeros(drives)
    command.values[:] = np.arange(5.0 * drives).reshape(5, drives)
    command.state, command.sequence, command.stamp_ns, command.valid_ns = SupervisorState.STAND, 9, 11, 13
    for name, value in fields.items():
        setattr(command, name, value)
    return bytes(CommandEncoder(drives).encode(command))


def decode_command(packet, drives=2):
    decoder, command = CommandDecoder(drives), JointCommand.zeros(drives)
    decoder.buffer[: len(packet)] = packet
    decoder.decode(len(packet), command)
    return command


def test_a_command_arrives():
    command = decode_command(command_packet())
    np.testing.assert_array_equal(command.stiffness, [6.0, 7.0])
    assert (command.state, command.sequence, command.stamp_ns, command.valid_ns) == (SupervisorState.STAND, 9, 11, 13)
    assert isinstance(command.state, SupervisorState)


@pytest.mark.parametrize(
    "packet,says",
    [
        (command_packet()[:10], "10 bytes is shorter"),
        (command_packet()[:-8], "a command of 112 bytes for 2 drives; this robot has 2"),
        (command_packet(3), "for 3 drives; this robot has 2"),
        (b"XXXX" + command_packet()[4:], "starts with b'XXXX'"),
        (command_packet()[:-1] + b"\7", "checksum is wrong"),
        (resigned(command_packet()[:4] + b"\2\0" + command_packet()[6:]), "version 2"),
        (resigned(command_packet()[:6] + b"\6" + command_packet()[7:]), "unknown supervisor state 6"),
    ],
)
def test_what_is_no_command_is_refused(packet, says):
    with pytest.raises(CommandRejected, match=says):
        decode_command(packet)


def test_requests_and_hellos_are_told_from_commands():
    decoder = CommandDecoder(2)
    for packet, hello, request in (
        (encode_hello(), True, None),
        (encode_json({"id": 3, "request": "stop"}), False, (3, "stop")),
        (encode_json({"id": "3", "request": "stop"}), False, None),
        (b"TDJ1[", False, None),
        (b"TDJ1[]", False, None),
        (b"TDJ1\xff", False, None),
        (command_packet(), False, None),
    ):
        decoder.buffer[: len(packet)] = packet
        assert (decoder.is_hello(len(packet)), decoder.request(len(packet))) == (hello, request)
    assert decode_json(b"nothing") is None


class Stub(threading.Thread):
    """A robot that answers `describe` after `deaf` requests and then streams what it is told to."""

    def __init__(self, deaf=0, streams=True):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port, self.deaf, self.streams, self.client, self.got = self.socket.getsockname()[1], deaf, streams, None, []

    def run(self):
        decoder = CommandDecoder(2)
        while True:
            size, sender = self.socket.recvfrom_into(decoder.buffer)
            if decoder.is_hello(size):
                self.client = sender
            elif (request := decoder.request(size)) is None:
                self.got.append(bytes(decoder.buffer[:size]))
            elif request[1] == "end":
                return
            elif self.deaf:
                self.deaf -= 1
            else:
                to = self.client[1] if self.streams else 1
                body = ARM.model_dump(mode="json")
                self.socket.sendto(encode_json({"id": request[0] - 1, "body": {}}), sender)  # a late answer to another
                self.socket.sendto(encode_json({"id": request[0], "body": body, "streams_to": to}), sender)

    def stop(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(encode_json({"id": 0, "request": "end"}), ("127.0.0.1", self.port))
        self.join()
        self.socket.close()


@pytest.fixture
def stub():
    stub = Stub(deaf=2)
    stub.start()
    yield stub
    if stub.is_alive():
        stub.stop()


def read_within(robot, seconds=5.0):
    deadline = threading.Event()
    timer = threading.Timer(seconds, deadline.set)
    timer.start()
    try:
        while not deadline.is_set():
            if (state := robot.read()) is not None:
                return state
    finally:
        timer.cancel()
    return None


def test_a_robot_that_answers_late_is_asked_again_and_its_states_are_read_one_by_one(stub):
    with UdpRobot(stub.port) as robot:
        with pytest.raises(RobotError, match=r"describe\(\) comes before read"):
            robot.read()
        assert robot.describe() == ARM and robot.describe() is robot.describe()
        assert robot.read() is None
        for sequence in (1, 2):
            stub.socket.sendto(state_packet(sequence=sequence), stub.client)
        first = read_within(robot)
        assert first.sequence == 1 and first.received_ns > 0
        assert read_within(robot).sequence == 2 and robot.read() is None
        stub.socket.sendto(b"noise", stub.client)
        with pytest.raises(StateRejected):
            read_within(robot)
        command = JointCommand.zeros(2)
        command.sequence = 4
        robot.write(command)
        stub.stop()  # in turn: what was sent before it has been received
        assert decode_command(stub.got[-1]).sequence == 4


def test_a_robot_that_is_gone_is_silent_and_nothing_is_raised(stub):
    with UdpRobot(stub.port) as robot:
        robot.describe()
        stub.stop()
        for _ in range(5):
            robot.write(JointCommand.zeros(2))
            assert robot.read() is None
        assert robot.refused > 0


def test_a_robot_that_does_not_answer_is_named():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with (
            UdpRobot(port, timeout_s=0.3) as robot,
            pytest.raises(RobotError, match=rf"{port} did not answer `describe`.*check"),
        ):
            robot.describe()
    with UdpRobot(port, timeout_s=0.3) as robot, pytest.raises(RobotError, match="check that its process runs"):
        robot.describe()
    with pytest.raises(RobotError, match=r"cannot reach .*check the address"):
        UdpRobot(1, host="999.999.999.999")


def test_a_stream_that_goes_elsewhere_is_not_accepted():
    stub = Stub(streams=False)
    stub.start()
    with UdpRobot(stub.port, timeout_s=0.5) as robot, pytest.raises(RobotError, match="did not answer"):
        robot.describe()
    stub.stop()
