"""Bags as rosbag2 keeps them: a folder with metadata.yaml and one MCAP file. Without rclpy.

`rosbags` writes and reads them. A bag whose recorder was killed has no metadata.yaml, and its file no end; what is whole of
it is read all the same, chunk by chunk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

from trudi.runtime.errors import TrudiRuntimeError

if TYPE_CHECKING:
    from rosbags.interfaces import Connection, Qos
    from rosbags.typesys.store import Typestore

METADATA = "metadata.yaml"
BAG_VERSION = 9
MAX_RECORD_BYTES = 1 << 28
"""Of a damaged file: what says that it is longer is no record."""


class BagError(TrudiRuntimeError):
    """A bag that cannot be written, or that is none."""


class BagWriter:
    """Writes a new bag. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder. BagError where it exists, or cannot be made."""
        _check_new(folder)
        rosbag2 = _rosbags().rosbag2
        self.folder = folder
        self.count = 0
        """Messages written."""
        self._typestore = make_typestore()
        self._pending = 0
        self._writer = rosbag2.Writer(folder, version=BAG_VERSION, storage_plugin=rosbag2.StoragePlugin.MCAP)
        self._writer.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
        try:
            self._writer.open()
        except (OSError, rosbag2.WriterError) as error:
            raise BagError(f"output {folder} cannot be made: {getattr(error, 'strerror', None) or error}") from None

    def knows(self, kind: str) -> bool:
        """Whether messages of a type, pkg/msg/Name, can be written."""
        return kind in self._typestore.fielddefs

    def add(self, topic: str, kind: str, offered: Sequence[Qos]) -> Connection:
        """A topic whose messages follow, with the qualities of service that its publishers offer."""
        return self._writer.add_connection(topic, kind, typestore=self._typestore, offered_qos_profiles=offered)

    def write(self, connection: Connection, received_ns: int, data: bytes) -> None:
        """A serialized message. OSError where the disk fails."""
        self._writer.write(connection, received_ns, data)
        self.count += 1
        self._pending += 1

    def flush(self) -> None:
        """Hands what was written to the operating system, so that it stays when this process is killed."""
        if self._pending:
            self._pending = 0
            self._writer.storage.close_chunk()
            self._writer.storage.bio.flush()

    def close(self) -> None:
        """Completes the bag. OSError where the disk fails."""
        self._writer.close()

    def break_off(self) -> None:
        """Lets go of a bag that cannot be completed, as it is."""
        with contextlib.suppress(Exception):
            self._writer.abort()


class Bag:
    """A bag that is read. A context manager."""

    def __init__(self, path: Path) -> None:
        """`path`: its folder, or its .mcap file. BagError where it is neither."""
        if not path.exists():
            raise BagError(f"{path} does not exist: give the folder of a bag, or its .mcap file")
        self.path = path
        self.damage = ""
        """Why the bag is not whole; empty of a whole one."""
        self.types: dict[str, str] = {}
        """Topic -> type of its messages, pkg/msg/Name."""
        self._stack = contextlib.ExitStack()
        self._reader: Any = None
        self._file = path
        if reason := self._open():
            self.damage = f"{path} is not whole ({reason}): read as far as it goes"
            for _ in self._as_far_as_it_goes(()):
                pass
            if not self.types:
                raise BagError(f"{path} is no bag that can be read: {reason}")

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        """Topic, time of arrival (ns, wall clock) and serialized message, in the order of arrival."""
        if self._reader is None:
            yield from self._as_far_as_it_goes(topics)
            return
        wanted = [connection for connection in self._reader.connections if connection.topic in topics]
        try:
            for connection, received_ns, data in self._reader.messages(wanted) if wanted else ():
                yield connection.topic, received_ns, bytes(data)
        except Exception as error:  # The library says in many ways that a file is damaged.
            self.damage = f"{self.path} is damaged ({_words(error)}): read as far as it goes"

    def close(self) -> None:
        """Closes its files."""
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> str:
        """Opens a whole bag; otherwise says why it is none."""
        described = self.path.is_file() or (self.path / METADATA).exists()
        if self.path.is_dir():
            files = sorted(self.path.glob("*.mcap"))
            if len(files) == 1:
                self._file = files[0]
            elif not described:
                raise BagError(f"{self.path} is no bag: it has no {METADATA}, and {len(files)} .mcap files")
        rosbag2 = _rosbags().rosbag2
        try:
            self._reader = self._stack.enter_context(rosbag2.Reader(self.path if described else self._file))
            self.types = {connection.topic: connection.msgtype for connection in self._reader.connections}
        except Exception as error:  # as in `messages`
            self._reader = None
            return _words(error) if described else f"it has no {METADATA}, and {_words(error)}"
        return ""

    def _as_far_as_it_goes(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        if not self._file.is_file():
            return
        schemas: dict[int, str] = {}
        channels: dict[int, str] = {}
        with self._file.open("rb") as file:
            for record in _whole_records(file):
                if isinstance(record, Schema):
                    schemas[record.id] = record.name
                elif isinstance(record, Channel):
                    channels[record.id] = record.topic
                    self.types[record.topic] = schemas.get(record.schema_id, "")
                elif isinstance(record, Message) and (topic := channels.get(record.channel_id, "")) in topics:
                    yield topic, record.log_time, record.data


def make_typestore() -> Typestore:
    """The message types of this environment's ROS 2, or the newest that are known."""
    typesys = _rosbags().typesys
    name = f"ROS2_{os.environ.get('ROS_DISTRO', '').upper()}"
    return typesys.get_typestore(getattr(typesys.Stores, name, typesys.Stores.LATEST))


def _check_new(folder: Path) -> None:
    if os.path.lexists(folder):
        raise BagError(f"output is {folder}: that exists already; name a new folder, or move the old bag away")
    if not folder.parent.is_dir():
        raise BagError(f"output is {folder}: there is no folder {folder.parent}; make it first")


def _whole_records(file: IO[bytes]) -> Iterator[Any]:
    records = StreamReader(file, record_size_limit=MAX_RECORD_BYTES).records
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except Exception:  # A file that was broken off ends in the middle of anything.
            return
        yield record


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _Rosbags:
    """The parts of the library that are used."""

    def __init__(self) -> None:
        import rosbags.rosbag2
        import rosbags.typesys

        self.rosbag2: Any = rosbags.rosbag2
        self.typesys: Any = rosbags.typesys


def _rosbags() -> _Rosbags:
    try:
        return _Rosbags()
    except ImportError as error:
        raise BagError(f"bags need the package rosbags ({error}): pip install rosbags") from None
