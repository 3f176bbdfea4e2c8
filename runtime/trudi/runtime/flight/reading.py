"""Reading recordings, from strangers too: every byte is checked first, nothing is evaluated, and memory is bounded."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Attachment, Chunk, Metadata
from mcap.records import Channel as ChannelRecord
from numpy.typing import NDArray

from trudi.runtime.errors import quoted
from trudi.runtime.flight.wire import Layout, RecordingError, parse

FORMAT_VERSION = 1
FORMAT_RECORD = "trudi.recording"
DESCRIPTION = "numpy_dtype"
MAX_CONTENT = 512 << 20
"""Bytes of messages and attachments in a recording."""
_MAX_FILE = 2 * MAX_CONTENT
_MAX_CHUNK = 16 << 20

_MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")
_DATA_END = struct.Struct("<BQI")
_FOOTER = struct.Struct("<BQQQI")
_MESSAGE = struct.Struct("<HIQQ")


@dataclass(frozen=True)
class Recording:
    """What a recording holds: rows by channel, each (n,) of its own structured dtype; texts and files by name."""

    channels: dict[str, NDArray[Any]]
    metadata: dict[str, dict[str, str]]
    attachments: dict[str, bytes]


class _Damage(ValueError):
    """What is wrong with a recording, to follow its path in a sentence."""


def read_recording(path: Path | str) -> Recording:
    """Reads a recording; its rows are bit for bit those that were written.

    RecordingError where the file is missing, is no recording, is cut off or altered anywhere, was written by a newer TruDi,
    or asks for more memory than a recording may.
    """
    where = f"the recording {path}"
    try:
        return _parse(_content(Path(path)))
    except OSError as error:
        raise RecordingError(f"{where} cannot be read: {error.strerror or error}") from None
    except (_Damage, RecordingError) as error:
        raise RecordingError(f"{where} is refused: {error}") from None
    except (ValueError, KeyError, OverflowError, struct.error, McapError, zstandard.ZstdError) as error:
        raise RecordingError(
            f"{where} is not laid out as TruDi lays out recordings ({type(error).__name__}: {error})"
        ) from None


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise _Damage("it is no file")
    with path.open("rb") as file:
        # Asked first: read() takes memory for all that it is asked for, not for what there is.
        if (size := os.fstat(file.fileno()).st_size) > _MAX_FILE:
            raise _Damage(f"it has {size} bytes; at most {_MAX_FILE} are read")
        return file.read(size)


def _parse(data: bytes) -> Recording:
    body, summary = _sections(data)
    layouts = dict(_channel(content) for opcode, content in _records(summary) if opcode == Opcode.CHANNEL)
    if len({name for name, _ in layouts.values()}) < len(layouts):
        raise _Damage("a channel stands there twice")
    messages = {number: bytearray() for number in layouts}
    metadata: dict[str, dict[str, str]] = {}
    attachments: dict[str, bytes] = {}
    expanded = 0
    for opcode, content in _records(body):
        if opcode == Opcode.METADATA:
            record = Metadata.read(_stream(content))
            _put(metadata, record.name, record.metadata)
            _check_version(metadata)
        elif opcode == Opcode.ATTACHMENT:
            file = Attachment.read(_stream(content))
            _put(attachments, file.name, file.data)
        elif opcode == Opcode.CHUNK:
            _check_version(metadata)
            chunk = _expand(Chunk.read(_stream(content)))
            if (expanded := expanded + len(chunk)) > _MAX_FILE:
                raise _Damage(f"its rows take more than {_MAX_FILE} bytes")
            _collect(chunk, layouts, messages)
    _check_version(metadata)
    del metadata[FORMAT_RECORD]
    return Recording({name: of.decode(messages[i]) for i, (name, of) in layouts.items()}, metadata, attachments)


def _sections(data: bytes) -> tuple[memoryview, memoryview]:
    """The records before and after the end of the data, once every byte of the file has been checked.

    MCAP ends: DATA_END (opcode, length 4, CRC of all before it), summary, FOOTER (opcode, length 20, where the summary
    starts, where its offsets do, CRC of summary and footer up to here), magic.
    """
    if not data.startswith(_MAGIC):
        raise _Damage("it is no MCAP file")
    if not data.endswith(_MAGIC) or len(data) < 2 * len(_MAGIC) + _DATA_END.size + _FOOTER.size:
        raise _Damage("it is cut off; only its beginning was copied or written (`mcap recover` may save its plots)")
    view = memoryview(data)
    footer = len(data) - len(_MAGIC) - _FOOTER.size
    opcode, length, start, _, summary_crc = _FOOTER.unpack_from(data, footer)
    end = start - _DATA_END.size
    if (opcode, length) != (Opcode.FOOTER, 20) or not len(_MAGIC) <= end <= footer - _DATA_END.size:
        raise _Damage("its end is damaged, or TruDi did not write it; copy it again from where it was recorded")
    if _DATA_END.unpack_from(data, end) != (Opcode.DATA_END, 4, zlib.crc32(view[:end])):
        raise _Damage(
            "its data is not what was written, or TruDi did not write it; copy it again from where it was recorded"
        )
    if zlib.crc32(view[start : footer + _FOOTER.size - 4]) != summary_crc:
        raise _Damage("its index is not what was written; copy it again from where it was recorded")
    return view[len(_MAGIC) : end], view[start:footer]


def _records(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Opcode and content of each record. ValueError where one is longer than what is left."""
    offset = 0
    while offset < len(view):
        opcode, length = _RECORD.unpack_from(view, offset)
        offset += _RECORD.size
        if length > len(view) - offset:
            raise ValueError("a record is longer than what holds it")
        yield opcode, view[offset : offset + length]
        offset += length


def _stream(content: memoryview) -> ReadDataStream:
    return ReadDataStream(BytesIO(content))


def _put(into: dict[str, Any], name: str, value: Any) -> None:
    if name in into:
        raise _Damage(f"it has {quoted(name)} twice")
    into[name] = value


def _check_version(metadata: dict[str, dict[str, str]]) -> None:
    if FORMAT_RECORD not in metadata:
        raise _Damage("it is an MCAP file, but TruDi did not write it")
    version = metadata[FORMAT_RECORD].get("format", "")
    if version != str(FORMAT_VERSION):
        raise _Damage(f"it has the format {quoted(version)}, this TruDi reads {FORMAT_VERSION}; update TruDi to read it")


def _channel(content: memoryview) -> tuple[int, tuple[str, Layout]]:
    record = ChannelRecord.read(_stream(content))
    if DESCRIPTION not in record.metadata:
        raise _Damage(f"its channel {quoted(record.topic)} does not say what its rows are; TruDi did not write it")
    try:
        return record.id, (record.topic, parse(record.metadata[DESCRIPTION]))
    except RecordingError as error:
        raise _Damage(f"its channel {quoted(record.topic)}: {error}") from None


def _expand(chunk: Chunk) -> memoryview:
    """A chunk's records. The size that it claims is checked before any memory is taken for it."""
    if chunk.compression != "zstd":
        raise _Damage(f"it is compressed by {quoted(chunk.compression)}; TruDi writes zstd")
    size = zstandard.frame_content_size(chunk.data)
    if not 0 <= size <= _MAX_CHUNK or size != chunk.uncompressed_size:
        raise _Damage(f"a chunk of it claims to have {size} bytes; at most {_MAX_CHUNK} are read")
    data = zstandard.ZstdDecompressor(max_window_size=_MAX_CHUNK).decompress(chunk.data)
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise _Damage("a chunk of it is not what was written")
    return memoryview(data)


def _collect(chunk: memoryview, layouts: dict[int, tuple[str, Layout]], messages: dict[int, bytearray]) -> None:
    """Appends the chunk's messages to those of their channels."""
    for opcode, content in _records(chunk):
        if opcode != Opcode.MESSAGE:
            continue
        number = _MESSAGE.unpack_from(content)[0]
        name, of = layouts[number]
        if len(content) != _MESSAGE.size + of.wire.itemsize:
            raise _Damage(f"a message of {quoted(name)} has {len(content) - _MESSAGE.size} bytes, not {of.wire.itemsize}")
        messages[number] += content[_MESSAGE.size :]
