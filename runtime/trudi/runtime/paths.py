"""Names of files inside a bundle: relative, plain and unambiguous on every system, so that none can point outside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, Strict

from trudi.runtime.errors import BundleError, quoted

MAX_PATH, MAX_DEPTH = 200, 4
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", re.ASCII)
DRIVE = re.compile(r"[A-Za-z]:")


def path_fault(name: str) -> str | None:
    """Why `name` may not name a file in a bundle; None where it may."""
    parts = name.split("/")
    plain = all(PART.fullmatch(part) and not part.endswith(".") for part in parts)
    faults = {
        "it holds a NUL byte": "\0" in name,
        "it holds a backslash": "\\" in name,
        "it is absolute": name.startswith("/") or DRIVE.match(name) is not None,
        "it leaves the bundle": ".." in parts,
        f"it is longer than {MAX_PATH} characters or deeper than {MAX_DEPTH} folders": (
            len(name) > MAX_PATH or len(parts) > MAX_DEPTH
        ),
        "a file's name is letters, digits and _ . + = -, and starts with a letter, digit or _": not plain,
    }
    return next((fault for fault, applies in faults.items() if applies), None)


def check_paths(names: Iterable[str], where: str) -> None:
    """BundleError where a name is unsafe, stands twice (any case), or is a file here and a folder there."""
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        if (fault := path_fault(name)) is not None:
            raise BundleError(f"{where}: the file name {quoted(name)} is refused: {fault}")
        folded = name.lower()
        if folded in seen:
            raise BundleError(f"{where}: the file name {quoted(name)} stands twice (upper and lower case count as equal)")
        seen.add(folded)
        parents = folded.split("/")[:-1]
        folders.update("/".join(parents[: depth + 1]) for depth in range(len(parents)))
    if both := seen & folders:
        raise BundleError(f"{where}: {quoted(min(both))} is both a file and a folder")


def _check_file_name(name: str) -> str:
    if (fault := path_fault(name)) is not None:
        raise ValueError(f"the file name is refused: {fault}")
    return name


FileName = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_PATH), AfterValidator(_check_file_name)]
