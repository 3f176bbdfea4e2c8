"""Recordings: the same bits back, readable by any MCAP tool, whole or not there."""

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader

from trudi.runtime.flight import recording
from trudi.runtime.flight.recording import Channel, RecordingError, read_recording, write_recording

FORMATS = ["|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8", "|b1", "|S1", "|S5", "|S200"]
ROW = np.dtype(
    [("t_ns", "<i8"), ("observation", "<f4", (3,)), ("gain", "<f8"), ("state", "S6"), ("map", "<i2", (2, 2)), ("up", "?")]
)


def rows(count=4):
    made = np.zeros(count, ROW)
    for i in range(count):
        made[i] = (1000 + i, [i, -0.0, np.nan], i / 3, b"ACTIVE", [[1, -2], [3, i]], i % 2)
    return made


@st.composite
def any_rows(draw):
    shapes = st.just(()) | st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple)
    fields = draw(st.lists(st.tuples(st.sampled_from(FORMATS), shapes), max_size=20))
    dtype = np.dtype([("t", "<u8"), *((f"x{i}", form, shape) for i, (form, shape) in enumerate(fields))])
    count = draw(st.integers(0, 5))
    made = np.frombuffer(draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), dtype).copy()
    for name in dtype.names:
        if dtype[name].base.kind == "b":
            made[name] = made[name].view(np.uint8) & 1
    return made


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(any_rows())
def test_any_bits_come_back(tmp_path, made):
    path = write_recording(tmp_path / "any.mcap", {"rows": Channel(made, "t")})
    read = read_recording(path).channels["rows"]
    assert read.dtype == made.dtype and read.shape == made.shape
    assert read.tobytes() == made.tobytes()
    assert read.flags.writeable


F4 = [0x7F800001, 0xFFBFFFFF, 0x7FC00123, 0x7F800000, 0xFF800000, 0x80000000, 0, 1, 0x807FFFFF]
F8 = [
    0x7FF0000000000001,
    0xFFF7FFFFFFFFFFFF,
    0x7FF8000000000ABC,
    0x7FF << 52,
    0xFFF << 52,
    1 << 63,
    0,
    1,
    0x800FFFFFFFFFFFFF,
]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_signalling_nans_negative_zeros_and_subnormals(tmp_path, shape):
    made = np.zeros(len(F4), [("t", "<i8"), ("single", "<f4", shape), ("double", "<f8", shape)])
    made["single"] = np.array(F4, np.uint32).view(np.float32).reshape(-1, *[1] * len(shape))
    made["double"] = np.array(F8, np.uint64).view(np.float64).reshape(-1, *[1] * len(shape))
    path = write_recording(tmp_path / "floats.mcap", {"rows": Channel(made, "t")})
    read = read_recording(path).channels["rows"]
    assert read["single"].reshape(len(F4), -1)[:, 0].copy().view(np.uint32).tolist() == F4
    assert read["double"].reshape(len(F8), -1)[:, 0].copy().view(np.uint64).tolist() == F8


def test_channels_metadata_and_attachments_come_back(tmp_path):
    other = np.zeros(2, [("when", "<u4"), ("empty", "<f8", (0,))])
    other["when"] = [7, 2]  # a channel's rows keep their order, whatever their times
    metadata = {"run": {"task": "Go1 „stand“", "": ""}, "none": {}}
    attachments = {"bundle.json": b"{}", "empty": b"", "random": os.urandom(100_000)}
    channels = {"tick": Channel(rows(), "t_ns"), "other": Channel(other, "when"), "quiet": Channel(rows(0), "t_ns")}
    read = read_recording(write_recording(tmp_path / "new" / "a.mcap", channels, metadata, attachments))
    assert read.metadata == metadata and read.attachments == attachments
    assert list(read.channels) == ["tick", "other", "quiet"]
    for name, channel in channels.items():
        assert read.channels[name].tobytes() == channel.rows.tobytes()
    assert read_recording(write_recording(tmp_path / "none.mcap", {})).channels == {}


def test_a_view_a_padded_row_and_a_replaced_file(tmp_path):
    padded = np.zeros(6, np.dtype([("flag", "u1"), ("t", "<i8"), ("raw_bool", "?")], align=True))
    padded["t"] = range(6)
    padded["raw_bool"].view(np.uint8)[:] = 200  # numpy takes any byte but 0 as true
    for part in (padded[::2], padded[::-1]):
        path = write_recording(tmp_path / "a.mcap", {"rows": Channel(part, "t")})
        read = read_recording(path).channels["rows"]
        assert read["t"].tolist() == part["t"].tolist() and read.dtype.itemsize == 10
        assert read["raw_bool"].view(np.uint8).tolist() == [1] * len(part)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mcap"]


def test_large_channels_span_chunks_and_blocks(tmp_path):
    made = np.zeros(5000, [("t", "<i8"), ("x", "<f8", (100,))])
    made["t"] = np.arange(5000)
    made["x"] = np.random.default_rng(0).normal(size=(5000, 100))
    channels = {"a": Channel(made, "t"), "b": Channel(made[::-1], "t")}
    read = read_recording(write_recording(tmp_path / "a.mcap", channels)).channels
    assert read["a"].tobytes() == made.tobytes() and read["b"].tobytes() == made[::-1].tobytes()


def messages(path):
    """What a viewer does: the generic reader, and messages made from the descriptors in the file."""
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file, validate_crcs=True).iter_messages():
            pool = descriptor_pool.DescriptorPool()
            for proto in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
                pool.Add(proto)
            made = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
            assert (schema.encoding, channel.message_encoding) == ("protobuf", "protobuf")
            yield channel, message, made.FromString(message.data)


def test_any_viewer_decodes_the_messages(tmp_path):
    path = write_recording(tmp_path / "a.mcap", {"tick": Channel(rows(), "t_ns")}, {"run": {"a": "b"}}, {"x": b"y"})
    decoded = list(messages(path))
    assert [(c.topic, m.log_time, m.publish_time, m.sequence) for c, m, _ in decoded] == [
        ("tick", 1000 + i, 1000 + i, i) for i in range(4)
    ]
    message = decoded[3][2]
    assert message.t_ns == 1003 and message.gain == 1.0 and message.state == "ACTIVE" and message.up is True
    assert list(message.map) == [1, -2, 3, 3]
    assert message.observation[0] == 3 and str(message.observation[1]) == "-0.0" and np.isnan(message.observation[2])
    assert [field.name for field in message.DESCRIPTOR.fields] == list(ROW.names)
    with path.open("rb") as file:
        reader = make_reader(file)
        assert {m.name: m.metadata for m in reader.iter_metadata()} == {
            "trudi.recording": {"format": "1"},
            "run": {"a": "b"},
        }
        assert [a.data for a in reader.iter_attachments()] == [b"y"]
        assert reader.get_summary().statistics.message_count == 4


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=80)
@given(any_rows())
def test_any_row_is_a_message_that_protobuf_reads(tmp_path, made):
    path = write_recording(tmp_path / "any.mcap", {"rows": Channel(made, "t")})
    for row, (_, message, decoded) in zip(sorted(made, key=lambda r: r["t"]), messages(path), strict=True):
        assert message.log_time == row["t"]
        for name in made.dtype.names:
            values, got = np.ravel(row[name]).tolist(), getattr(decoded, name)
            got = list(got) if made.dtype[name].shape else [got]
            if made.dtype[name].base.kind == "S":
                got = [(v.encode() if isinstance(v, str) else v).rstrip(b"\0") for v in got]
            np.testing.assert_array_equal(np.array(got), np.array(values))


def test_times_of_several_channels_are_merged(tmp_path):
    early, late = rows(3), rows(3)
    early["t_ns"], late["t_ns"] = [1, 5, 9], [2, 6, 7]
    path = write_recording(tmp_path / "a.mcap", {"b": Channel(early, "t_ns"), "a": Channel(late, "t_ns")})
    with path.open("rb") as file:
        in_file = make_reader(file).iter_messages(log_time_order=False)
        assert [(c.topic, m.log_time) for _, c, m in in_file] == list(zip("babaab", [1, 2, 5, 6, 7, 9], strict=True))


def one(form, shape=(), name="x"):
    return Channel(np.zeros(1, [("t", "<i8"), (name, form, shape)]), "t")


NOT_RECORDED = {
    "big-endian": (one(">f8"), "the channel c: the field x is of '>f8'; recorded are little-endian"),
    "half": (one("<f2"), "is of '<f2'"),
    "text": (one("<U4"), "is of '<U4'"),
    "complex": (one("<c8"), "is of '<c8'"),
    "date": (one("<M8[ns]"), "is of "),
    "raw": (one("V4"), "is of "),
    "object": (one("O"), "plain numbers and S bytes are recorded"),
    "nested": (one([("a", "<f8")]), "plain numbers and S bytes are recorded"),
    "name": (one("<f8", (), "a b"), "the field name 'a b'"),
    "json name": (
        Channel(np.zeros(1, [("t", "<i8"), ("a_b", "i4"), ("aB", "i4")]), "t"),
        "a_b and aB are one to protobuf's",
    ),
    "huge": (one("<f8", (1 << 20,)), "a row of 8388616 bytes: at most 1048576"),
    "no names": (Channel(np.zeros(3), "t"), "'float64' has no named fields"),
    "2-D": (Channel(np.zeros((3, 3), ROW), "t_ns"), r"has rows of shape \(3, 3\)"),
    "no time": (Channel(rows(), "when"), "has no field 'when' for the time; it has t_ns, observation"),
    "float time": (Channel(rows(), "gain"), "gain is to be one integer"),
    "many times": (Channel(rows(), "map"), "map is to be one integer"),
}


@pytest.mark.parametrize("case", NOT_RECORDED)
def test_what_is_not_recorded(tmp_path, case):
    channel, message = NOT_RECORDED[case]
    with pytest.raises(RecordingError, match=message):
        write_recording(tmp_path / "a.mcap", {"c": channel})
    assert list(tmp_path.iterdir()) == []


def test_other_arguments_that_are_refused(tmp_path, monkeypatch):
    negative = rows()
    negative["t_ns"][2] = -3
    for arguments, message in [
        (({"c": Channel(negative, "t_ns")},), "t_ns has the time -3, before zero"),
        (({"a/b": Channel(rows(), "t_ns")},), "the channel name 'a/b'"),
        (({}, {"trudi.recording": {}}), "the metadata trudi.recording is written here"),
        (({}, {"a": {"b": "\ud800"}}), "a text of it is no Unicode"),
    ]:
        with pytest.raises(RecordingError, match=message):
            write_recording(tmp_path / "a.mcap", *arguments)
    monkeypatch.setattr(recording, "MAX_CONTENT", 500)
    with pytest.raises(RecordingError, match="at most 500 are written; keep fewer rows"):
        write_recording(tmp_path / "a.mcap", {"c": Channel(rows(10), "t_ns")})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_leaves_nothing(tmp_path):
    """A real failure in the middle of writing: the process may not write files of more than 100 kB."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            import resource, sys, numpy as np
            from trudi.runtime.flight.recording import Channel, RecordingError, write_recording
            rows = np.zeros(1000, [("t", "<i8"), ("x", "<u1", (1000,))])
            rows["x"] = np.random.default_rng(0).integers(0, 256, (1000, 1000))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            try:
                write_recording(sys.argv[1], {"rows": Channel(rows, "t")})
            except RecordingError as error:
                print(error)
        """), str(tmp_path / "a.mcap")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("a.mcap cannot be written: File too large\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_flush_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_recording(tmp_path / "a.mcap", {"c": Channel(rows(), "t_ns")})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recording.os, "fsync", full)
    with pytest.raises(RecordingError, match="cannot be written: No space left on device"):
        write_recording(path, {"c": Channel(rows(9), "t_ns")})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.mcap"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, message in [
        ("file/a.mcap", "File exists|Not a directory"),
        ("folder", "Is a directory"),
        ("x" * 300, "too long"),
    ]:
        with pytest.raises(RecordingError, match=message):
            write_recording(tmp_path / path, {"c": Channel(rows(), "t_ns")})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RecordingError, match="Permission denied"):
        write_recording(tmp_path / "a.mcap", {"c": Channel(rows(), "t_ns")})
