"""Where a bundle's files lie: a folder or one .zip, both given by strangers.

Neither source follows a link, writes anything, or reads past the size it was told in advance.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from trudi.runtime.errors import BundleError, quoted
from trudi.runtime.paths import MAX_DEPTH, check_paths

MAX_FILES = 256
MAX_FILE_BYTES = 256 << 20
MAX_TOTAL_BYTES = 512 << 20
MAX_DIRECTORY_BYTES = 1 << 18
CHUNK = 1 << 20

ENCRYPTED = 0x1 | 0x40 | 0x2000
END_RECORD = struct.Struct("<4s4H2LH")
ZIP64_LOCATOR, ZIP64_LOCATOR_SIZE = b"PK\x06\x07", 20
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError)


class Source(Protocol):
    """Named files to read."""

    sizes: dict[str, int]
    """Name -> size in bytes, as the source states it."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The file in pieces, exactly `sizes[name]` bytes in all; BundleError where it is unsafe, damaged or changing."""
        ...

    def close(self) -> None: ...


def open_source(path: Path) -> Source:
    """The files of a folder or zip; BundleError where there is none, or it holds what is no plain file."""
    try:
        if path.is_dir():
            return FolderSource(path)
        if path.is_file():
            return ZipSource(path.open("rb"), str(path))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
    raise BundleError(f"there is no bundle at {path}; give a bundle's folder or its .zip")


class FolderSource:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sizes = dict(_walk(root, "", 1))
        _check_listing(self.sizes, str(root))

    def chunks(self, name: str) -> Iterator[bytes]:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(self.root / name, flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise BundleError(f"{self.root}: {name} is no plain file any more; the bundle changed while it was read")
                yield from _exactly(file, self.sizes[name], f"{self.root}: {name}")
        except OSError as error:
            raise BundleError(f"{self.root}: {name} cannot be read: {error.strerror or error}") from None

    def close(self) -> None:
        """Nothing is held open."""


def _walk(root: Path, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    with os.scandir(root / prefix) as entries:
        for count, entry in enumerate(entries):
            if count > MAX_FILES or depth > MAX_DEPTH:
                raise BundleError(
                    f"{root} holds more than {MAX_FILES} files or {MAX_DEPTH} folders in each other; is it a bundle?"
                )
            name = prefix + entry.name
            if entry.is_symlink():
                raise BundleError(f"{root}: {quoted(name)} is a symbolic link; a bundle holds plain files only")
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, name + "/", depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield name, entry.stat(follow_symlinks=False).st_size
            else:
                raise BundleError(f"{root}: {quoted(name)} is a device, pipe or socket; a bundle holds plain files only")


class ZipSource:
    """The files of one .zip: stored or deflated, unencrypted, without links."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self._where = file, where
        try:
            _check_end_record(file, where)
            self._zip = zipfile.ZipFile(file)
            wanted = [info for info in self._zip.infolist() if _is_wanted(info, where)]
            check_paths([info.filename for info in wanted], where)
            self._members = {info.filename: info for info in wanted}
            self.sizes = {info.filename: info.file_size for info in wanted}
            _check_listing(self.sizes, where)
        except ZIP_FAULTS as error:
            self.close()
            raise BundleError(f"{where} is not a zip that can be read: {error}; copy it again") from None
        except BaseException:
            self.close()
            raise

    def chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self._members[name]) as file:
                yield from _exactly(file, self.sizes[name], f"{self._where}: {name}")
        except ZIP_FAULTS as error:
            raise BundleError(f"{self._where}: {name} is damaged: {error}; copy the bundle again") from None
        except OSError as error:
            raise BundleError(f"{self._where}: {name} cannot be read: {error.strerror or error}") from None

    def close(self) -> None:
        self._file.close()


def _check_end_record(file: IO[bytes], where: str) -> None:
    """Bounds the zip's directory before Python's reader takes it into memory."""
    size = file.seek(0, os.SEEK_END)
    if size > MAX_TOTAL_BYTES:
        raise BundleError(f"{where} has {size} bytes; at most {MAX_TOTAL_BYTES} are read")
    tail_size = min(size, END_RECORD.size + ZIP64_LOCATOR_SIZE)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    if len(tail) < END_RECORD.size:
        raise BundleError(f"{where} is not a zip that can be read: it has {size} bytes; copy it again")
    signature, _, _, _, entries, directory_size, directory_at, _ = END_RECORD.unpack(tail[-END_RECORD.size :])
    if signature != b"PK\x05\x06":
        raise BundleError(f"{where} is not a zip, or ends early or in a comment; copy it again, or zip it without a comment")
    if entries > 2 * MAX_FILES or directory_size > MAX_DIRECTORY_BYTES or tail.startswith(ZIP64_LOCATOR):
        raise BundleError(f"{where} lists {entries} files in {directory_size} bytes, or is in zip64 form; that is no bundle")
    if directory_at + directory_size + END_RECORD.size != size:
        raise BundleError(f"{where} does not fit its own directory (something before, after or cut out); copy it again")


def _is_wanted(info: zipfile.ZipInfo, where: str) -> bool:
    """Whether a zip's entry is a plain file; False for a folder, BundleError for anything else."""
    name = quoted(info.orig_filename)
    if info.orig_filename != info.filename:
        raise BundleError(f"{where}: the file name {name} is refused: it holds a NUL byte or a backslash")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise BundleError(f"{where}: {name} is a symbolic link; a bundle holds plain files only")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BundleError(f"{where}: {name} is a device, pipe or socket; a bundle holds plain files only")
    if info.flag_bits & ENCRYPTED:
        raise BundleError(f"{where}: {name} is encrypted; zip the bundle without a password")
    if info.filename.endswith("/"):
        if info.file_size:
            raise BundleError(f"{where}: the folder {name} has content")
        check_paths([info.filename.rstrip("/")], where)
        return False
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"{where}: {name} is compressed by method {info.compress_type}; only stored and deflated are read")
    return True


def _check_listing(sizes: dict[str, int], where: str) -> None:
    check_paths(sizes, where)
    if len(sizes) > MAX_FILES:
        raise BundleError(f"{where} holds {len(sizes)} files; at most {MAX_FILES} are read")
    for name, size in sizes.items():
        if size > MAX_FILE_BYTES:
            raise BundleError(f"{where}: {name} has {size} bytes; at most {MAX_FILE_BYTES} are read")
    if (total := sum(sizes.values())) > MAX_TOTAL_BYTES:
        raise BundleError(f"{where} has {total} bytes in all; at most {MAX_TOTAL_BYTES} are read")


def _exactly(file: IO[bytes], size: int, what: str) -> Iterator[bytes]:
    left = size
    while left and (piece := file.read(min(CHUNK, left))):
        left -= len(piece)
        yield piece
    if left or file.read(1):
        raise BundleError(
            f"{what} is {'shorter' if left else 'longer'} than the {size} bytes it is said to have; copy it again"
        )
