"""Files that are whole or absent, and a lock between processes that dies with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trudi.runtime.durable import sync_folder

LOCK_NAME = ".build.lock"
TEMPORARY = ".tmp"


@contextmanager
def build_lock(folder: Path, leftovers: str) -> Generator[None]:
    """Waits until this process is the only one that builds in `folder`.

    The kernel drops the lock of a process that dies, however it dies; its half-written files (`leftovers`, a glob) go.
    """
    path = folder / LOCK_NAME
    descriptor = _locked(path)
    try:
        for leftover in folder.glob(leftovers):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file that is either the old one or the new one after a crash, and the new one after a power cut."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock. Its holder removes the file, so a lock on a removed file is tried again."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
