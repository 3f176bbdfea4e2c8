"""Recordings from strangers: every damage is one RecordingError, whether or not its checksums were made to fit."""

import io
import json
import random
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType, Writer

from trudi.runtime.flight import reading
from trudi.runtime.flight.recording import Channel, RecordingError, read_recording, write_recording

ROW = np.dtype([("t", "<i8"), ("x", "<f4", (3,)), ("small", "i1"), ("up", "?"), ("state", "S6", (2,))])


@pytest.fixture
def whole(tmp_path):
    rows = np.zeros(30, ROW)
    rows["t"] = range(30)
    rows["x"] = np.random.default_rng(0).normal(size=(30, 3))
    path = write_recording(tmp_path / "a.mcap", {"a": Channel(rows, "t")}, {"run": {"task": "go1"}}, {"b.json": b"{}"})
    return path.read_bytes()


@pytest.fixture
def refused(tmp_path):
    def check(data, match):
        path = tmp_path / "b.mcap"
        path.write_bytes(data)
        with pytest.raises(RecordingError, match=match) as error:
            read_recording(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)

    return check


def test_cut_off_anywhere(whole, refused):
    for end in range(len(whole)):
        refused(whole[:end], "is cut off" if end >= 8 else "is no MCAP file")


def test_any_flipped_bit(whole, refused):
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        refused(data, "refused: it")


def test_what_is_no_recording(tmp_path, refused, whole):
    with pytest.raises(RecordingError, match=r"missing.mcap cannot be read: No such file"):
        read_recording(tmp_path / "missing.mcap")
    with pytest.raises(RecordingError, match="it is no file"):
        read_recording(tmp_path)
    with pytest.raises(RecordingError, match="embedded null byte"):
        read_recording("a\0b")
    refused(b"", "is no MCAP file")
    refused(b"PK\x03\x04" + bytes(1000), "is no MCAP file")
    refused(b"\x89MCAP0\r\n\x89MCAP0\r\n", "is cut off")
    refused(whole + b"\0", "is cut off")
    refused(written(lambda writer: None), "TruDi did not write it")
    refused(written(lambda writer: writer.add_metadata("other", {})), "TruDi did not write it")


def written(fill, compression=CompressionType.ZSTD, data_crcs=True):
    """An MCAP file with sound checksums, whatever is in it."""
    stream = io.BytesIO()
    writer = Writer(stream, compression=compression, enable_data_crcs=data_crcs)
    writer.start()
    fill(writer)
    writer.finish()
    return stream.getvalue()


def hostile(dtype='[["t", "<i8"]]', message=b"\x09" + bytes(8), version="1", topic="a", times=1, **options):
    def fill(writer):
        writer.add_metadata("trudi.recording", {"format": version})
        for _ in range(times):
            channel = writer.register_channel(topic, "protobuf", 0, {"numpy_dtype": dtype} if dtype is not None else {})
            writer.add_message(channel, 0, message, 0)

    return written(fill, **options)


def test_the_smallest_recording_written_by_hand(tmp_path):
    path = tmp_path / "hand.mcap"
    # sfixed64 field 1: tag 1 << 3 | 1 = 9, then eight bytes.
    path.write_bytes(hostile(message=b"\x09" + (-5).to_bytes(8, "little", signed=True)))
    assert read_recording(path).channels["a"]["t"].tolist() == [-5]


HOSTILE = {
    "newer": ({"version": "2"}, "it has the format '2', this TruDi reads 1; update TruDi"),
    "no version": ({"version": ""}, "it has the format ''"),
    "no dtype": ({"dtype": None}, "does not say what its rows are"),
    "object": ({"dtype": '[["t", "|O"]]'}, r"the field t is of '\|O'"),
    "code": ({"dtype": "__import__('os').system('true')"}, "does not describe a row of plain numbers"),
    "tuple": ({"dtype": "[('t', '<i8')]"}, "does not describe a row"),
    "nesting": ({"dtype": "[" * 100_000}, "does not describe a row"),
    "long": ({"dtype": " " * 300_000}, "description has 300000 characters"),
    "nested dtype": ({"dtype": '[["t", [["a", "<i8"]]]]'}, "does not describe a row"),
    "title": ({"dtype": '[[["title", "t"], "<i8"]]'}, "does not describe a row"),
    "number": ({"dtype": "7"}, "does not describe a row"),
    "no fields": ({"dtype": "[]"}, "a row of 0 fields"),
    "many fields": ({"dtype": json.dumps([[f"x{i}", "|i1"] for i in range(1001)])}, "a row of 1001 fields"),
    "big field": ({"dtype": '[["t", "<i8", [999999999999]]]'}, "has the shape"),
    "big row": ({"dtype": '[["t", "<i8", [1048576, 1048576, 1048576]]]'}, "a row of 9223372036854775808 bytes"),
    "negative": ({"dtype": '[["t", "<i8", [-1]]]'}, "has the shape"),
    "deep shape": ({"dtype": '[["t", "<i8", [1, 1, 1, 1, 1, 1, 1, 1, 1]]]'}, "up to 8 sizes"),
    "boolean shape": ({"dtype": '[["t", "<i8", [true]]]'}, "does not describe a row"),
    "shape of text": ({"dtype": '[["t", "<i8", "8"]]'}, "does not describe a row"),
    "twice the name": ({"dtype": '[["t", "<i8"], ["t", "<i8"]]'}, "are one to protobuf"),
    "long string": ({"dtype": '[["t", "|S9999999"]]'}, "is of"),
    "empty string": ({"dtype": '[["t", "|S0"]]'}, "is of"),
    "short message": ({"message": b""}, "has 0 bytes, not 9"),
    "long message": ({"message": bytes(10)}, "has 10 bytes, not 9"),
    "other field": ({"message": bytes(9)}, "does not have its field t"),
    "overflow": (
        {"dtype": '[["t", "|i1"]]', "message": b"\x0d" + struct.pack("<i", 128)},
        "t has a value that .i1 cannot hold",
    ),
    "no bool": ({"dtype": '[["t", "|b1"]]', "message": b"\x08\x02"}, "t has a value that .b1 cannot hold"),
    "lz4": ({"compression": CompressionType.LZ4}, "compressed by 'lz4'; TruDi writes zstd"),
    "no checksum": ({"data_crcs": False}, "or TruDi did not write it"),
    "twice": ({"times": 2}, "a channel stands there twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_recording_with_sound_checksums(refused, case):
    options, match = HOSTILE[case]
    refused(hostile(**options), match)


def resealed(data):
    """The file with its two checksums made to fit, where its end can still be found."""
    out = bytearray(data)
    start = int.from_bytes(out[-28:-20], "little")
    if 13 <= start <= len(out) - 37:
        out[start - 4 : start] = struct.pack("<I", zlib.crc32(out[: start - 13]))
        out[-12:-8] = struct.pack("<I", zlib.crc32(out[start:-12]))
    return bytes(out)


def test_the_fuzzer_makes_checksums_fit(whole, tmp_path):
    data = bytearray(whole)
    data[data.index(b"go1") + 2] = ord("2")
    path = tmp_path / "c.mcap"
    path.write_bytes(resealed(data))
    assert read_recording(path).metadata == {"run": {"task": "go2"}}


def test_fuzz(whole, tmp_path):
    """Mutations with sound checksums reach the parsers; the file is read or refused, and takes no memory to speak of."""
    path, rng, read, words = tmp_path / "fuzz.mcap", random.Random(4), 0, set()
    tracemalloc.start()
    try:
        for _ in range(500):
            path.write_bytes(resealed(mutated(bytearray(whole), rng)))
            try:
                read_recording(path)
                read += 1
            except RecordingError as error:
                words.add(re.sub(r"'.*?'|\d+", "", str(error)).split(": ", 1)[-1][:25])
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert read > 10 and len(words) > 10  # both happen, and in many ways


def mutated(data, rng):
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(8, len(data) - 37)
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**16, 2**31, 2**32 - 1]))
        else:
            source = rng.randrange(8, len(data) - 37)
            data[at : at + 16] = data[source : source + 16]
    return data


def test_a_chunk_that_claims_or_takes_too_much_memory(refused, monkeypatch):
    def chunk(size, data):
        body = struct.pack("<QQQI", 0, 0, size, 0) + struct.pack("<I", 4) + b"zstd"
        return b"\x06" + struct.pack("<Q", len(body) + 8 + len(data)) + body + struct.pack("<Q", len(data)) + data

    def with_chunk(extra):
        data = written(lambda writer: writer.add_metadata("trudi.recording", {"format": "1"}))
        start = int.from_bytes(data[-28:-20], "little")
        moved = bytearray(data[: start - 13] + extra + data[start - 13 :])
        moved[-28:-20] = struct.pack("<Q", start + len(extra))
        return resealed(moved)

    bomb = zstandard.compress(bytes(20 << 20))
    assert len(bomb) < 5000
    endless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(20 << 20))
    tracemalloc.start()
    try:
        refused(with_chunk(chunk(20 << 20, bomb)), "claims to have 20971520 bytes; at most 16777216")
        refused(with_chunk(chunk(100, bomb)), "claims to have 20971520")
        refused(with_chunk(chunk(100, endless)), "claims to have")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(reading, "_MAX_FILE", 3000)
    filler = chunk(1009, zstandard.compress(b"\x80" + struct.pack("<Q", 1000) + bytes(1000)))
    read = with_chunk(filler * 2)
    refused(with_chunk(chunk(1008, zstandard.compress(bytes(1009)))), "claims to have 1009 bytes")
    refused(with_chunk(b"\x80" + struct.pack("<Q", 2**63)), "a record is longer than what holds it")
    refused(with_chunk(filler * 3), "its rows take more than 3000 bytes")
    refused(read + bytes(3000), "it has [0-9]+ bytes; at most 3000 are read")
