"""Recordings: named channels of rows in one MCAP file, which Foxglove and PlotJuggler plot and `read_recording` rebuilds."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from trudi.runtime.durable import sync_folder
from trudi.runtime.errors import quoted
from trudi.runtime.flight.reading import DESCRIPTION, FORMAT_RECORD, FORMAT_VERSION, MAX_CONTENT, Recording, read_recording
from trudi.runtime.flight.wire import NAME, PACKAGE, Layout, RecordingError, describe, descriptor_set, layout

__all__ = ["Channel", "Recording", "RecordingError", "read_recording", "write_recording"]

_MESSAGE_OVERHEAD = 31
# A piece of encoding keeps the interpreter for about 0.1 ms, so that a control loop in another thread gets its turn.
_BLOCK_BYTES = 1 << 17


@dataclass(frozen=True)
class Channel:
    """Rows to record: a structured array, (n,), and its integer field with each row's time in nanoseconds, not negative."""

    rows: NDArray[Any]
    time_field: str


def write_recording(
    path: Path | str,
    channels: Mapping[str, Channel],
    metadata: Mapping[str, Mapping[str, str]] | None = None,
    attachments: Mapping[str, bytes] | None = None,
) -> Path:
    """Writes a recording and returns its path; a file of that name is replaced.

    The file is written under another name, flushed to disk and renamed: under its own name it is whole or not there.
    Padding between a dtype's fields is not recorded. RecordingError where the rows are not plain numbers, or the file
    cannot be written.
    """
    path = Path(path)
    metadata, attachments = metadata or {}, attachments or {}
    layouts = {name: _checked(name, channel) for name, channel in channels.items()}
    _check_extent(channels, layouts, metadata, attachments)
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(4).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            _write(file, channels, layouts, metadata, attachments)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RecordingError(f"the recording {path} cannot be written: {error.strerror or error}") from None
    except UnicodeEncodeError:
        raise RecordingError(f"the recording {path} cannot be written: a text of it is no Unicode") from None
    finally:
        _remove(temporary)
    return path


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # what made the writing fail, as a parent that is a file, is reported already
        return


def _checked(name: str, channel: Channel) -> Layout:
    """The layout of a channel. RecordingError where it is not recorded."""
    if not NAME.fullmatch(name):
        raise RecordingError(f"the channel name {quoted(name)}: a name is up to 64 letters, digits and _, a letter first")
    try:
        of = layout(channel.rows.dtype)
    except RecordingError as error:
        raise RecordingError(f"the channel {name}: {error}") from None
    if channel.rows.ndim != 1:
        raise RecordingError(f"the channel {name} has rows of shape {channel.rows.shape}; they are one-dimensional")
    if (form := next((f for f in of.fields if f.name == channel.time_field), None)) is None:
        known = ", ".join(field.name for field in of.fields)
        raise RecordingError(f"the channel {name} has no field {quoted(channel.time_field)} for the time; it has {known}")
    if form.format[1] not in "iu" or form.shape:
        raise RecordingError(f"the channel {name}: its time {form.name} is to be one integer of nanoseconds")
    if len(channel.rows) and int(channel.rows[form.name].min()) < 0:
        raise RecordingError(f"the channel {name}: {form.name} has the time {channel.rows[form.name].min()}, before zero")
    return of


def _check_extent(
    channels: Mapping[str, Channel],
    layouts: Mapping[str, Layout],
    metadata: Mapping[str, Mapping[str, str]],
    attachments: Mapping[str, bytes],
) -> None:
    if FORMAT_RECORD in metadata:
        raise RecordingError(f"the metadata {FORMAT_RECORD} is written here; choose another name")
    size = sum(len(data) for data in attachments.values())
    size += sum(len(channels[name].rows) * (of.wire.itemsize + _MESSAGE_OVERHEAD) for name, of in layouts.items())
    if size > MAX_CONTENT:
        raise RecordingError(f"a recording of {size} bytes: at most {MAX_CONTENT} are written; keep fewer rows")


def _write(
    file: IO[bytes],
    channels: Mapping[str, Channel],
    layouts: Mapping[str, Layout],
    metadata: Mapping[str, Mapping[str, str]],
    attachments: Mapping[str, bytes],
) -> None:
    writer = Writer(file, compression=CompressionType.ZSTD, enable_data_crcs=True)
    writer.start(library="trudi")
    # First, so that a reader of another version stops before it meets anything that it does not know.
    writer.add_metadata(FORMAT_RECORD, {"format": str(FORMAT_VERSION)})
    for name, entries in metadata.items():
        writer.add_metadata(name, dict(entries))
    for name, data in attachments.items():
        writer.add_attachment(create_time=0, log_time=0, name=name, media_type="application/octet-stream", data=data)
    ids = {name: _register(writer, name, channel, layouts[name]) for name, channel in channels.items()}
    streams = [_messages(ids[name], channel, layouts[name]) for name, channel in channels.items()]
    # In the order of time across channels, as viewers read it; the rows of one channel keep their own order.
    for time_ns, sequence, channel_id, data in heapq.merge(*streams, key=lambda message: message[0]):
        writer.add_message(channel_id, time_ns, data, publish_time=time_ns, sequence=sequence)
    writer.finish()


def _register(writer: Writer, name: str, channel: Channel, of: Layout) -> int:
    schema = writer.register_schema(f"{PACKAGE}.{name}", "protobuf", descriptor_set(name, of, channel.rows))
    entries = {DESCRIPTION: describe(of), "time_field": channel.time_field}
    return writer.register_channel(name, "protobuf", schema, entries)


def _messages(channel_id: int, channel: Channel, of: Layout) -> Iterator[tuple[int, int, int, bytes]]:
    """Time, number, channel and bytes of each row."""
    size = of.wire.itemsize
    step = max(1, _BLOCK_BYTES // size)
    block = of.blank(min(step, len(channel.rows)))
    for start in range(0, len(channel.rows), step):
        rows = channel.rows[start : start + step]
        of.encode(rows, block[: len(rows)])
        data = block.view(np.uint8).tobytes()
        for i, time_ns in enumerate(rows[channel.time_field].tolist()):
            yield time_ns, start + i, channel_id, data[i * size : (i + 1) * size]
