"""Mutations for fuzz_bundle.py: each takes the random generator and a good bundle's files, and spoils something."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

Files = dict[str, bytes]
Rng = random.Random

NUMBERS = [0, -0.0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, 5e-324, 0.1, 3.14159, 4097, 257]
STRINGS = [
    "",
    "a",
    "a" * 129,
    "a" * 100_000,
    "..",
    "../x",
    "/etc/passwd",
    "C:/x",
    "a\\b",
    "a\0b",
    "\ud800",
    "\x1b[2J",
    "é",
    "1.0",
    "99.0",
]
VALUES = [
    *NUMBERS,
    *STRINGS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None] * 5000,
    {"a": {"b": {}}},
    [0.5] * 12,
    [[1, -1]] * 12,
    "any",
]
NAMES = [
    "../x",
    "/tmp/x",
    "C:/x",
    "a\\..\\b",
    "a/../../x",
    "BUNDLE.JSON",
    "policy.onnx/x",
    "x" * 300,
    "a//b",
    "./a",
    ".hidden",
    "ü",
    "con.",
    "a/b/c/d/e/f",
]
WORDS = [
    b"\xff" * 2,
    b"\xff" * 4,
    b"\0" * 4,
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"\x01\0\0\0",
    b"\xff\xff\xff\x7f",
]
LITERALS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-",
    "01",
    "1" * 5000,
    "[" * 5000,
    '{"a":' * 5000,
    '"',
    "\\u0000",
    "//",
    "{}",
    "\ufeff",
    "0x1",
    "'",
]


warnings.filterwarnings("ignore", "Duplicate name", UserWarning)


def pack(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these files, as a well-meaning writer makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def listed(files: Files) -> Files:
    """The files with a manifest that fits them, so that a mutation gets past the hashes."""
    inner = {name: data for name, data in files.items() if not name.startswith("manifest.")}
    entries = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in inner.items()}
    return {"manifest.json": json.dumps({"format": 1, "files": entries}).encode(), **inner}


def spoil_bytes(rng: Rng, data: bytes, other: bytes = b"") -> bytes:
    """Bit flips, truncation, splices, deletions, insertions and words that formats give a meaning to."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(spoiled) + 1) if rng.random() < 0.7 else max(0, len(spoiled) - rng.randrange(1, 400))
        kind = rng.randrange(6)
        if kind == 0 and at < len(spoiled):
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            word = rng.choice(WORDS)
            spoiled[at : at + len(word)] = word
        elif kind == 2:
            del spoiled[at : at + rng.choice((1, 2, 4, 100, 5000))]
        elif kind == 3:
            spoiled[at:at] = rng.randbytes(rng.choice((1, 2, 22, 300)))
        elif kind == 4:
            source = other or data
            start = rng.randrange(len(source) + 1)
            spoiled[at:at] = source[start : start + rng.randrange(1, 2000)]
        elif rng.random() < 0.2:
            del spoiled[at:]
    return bytes(spoiled)


def zip_bytes(rng: Rng, files: Files) -> bytes:
    """A good zip with its bytes spoiled."""
    return spoil_bytes(rng, pack(files, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))))


def zip_fields(rng: Rng, files: Files) -> bytes:
    """A good zip with fields of its headers set to something else."""
    return spoil_headers(rng, pack(files))


def spoil_headers(rng: Rng, archive: bytes) -> bytes:
    """A zip with sizes, offsets, flags, methods, attributes or counts changed."""
    data = bytearray(archive)
    signature, first, last = rng.choice(((b"PK\x01\x02", 6, 46), (b"PK\x03\x04", 4, 30), (b"PK\x05\x06", 4, 22)))
    starts = [at for at in range(len(data) - 4) if data[at : at + 4] == signature]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.choice(starts) + rng.randrange(first, last)
        value = rng.choice((0, 1, 8, 0xFF, 0x41, 0xA1, rng.randrange(256)))
        for offset in range(rng.choice((1, 2, 4))):
            if at + offset < len(data):
                data[at + offset] = value if value < 256 else 0
    return bytes(data)


def zip_entries(rng: Rng, files: Files) -> bytes:
    """Entries that no bundle has: escaping names, duplicates, links, devices, folders with content, comments, bombs."""
    buffer = io.BytesIO()
    bad = dict(files)
    kind = rng.randrange(8)
    if kind == 0:
        bad[rng.choice(NAMES)] = rng.randbytes(10)
        bad = listed(bad) if rng.random() < 0.5 else bad
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in bad.items():
            info = zipfile.ZipInfo(name)
            if kind == 1 and rng.random() < 0.4:
                mode = rng.choice((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK, stat.S_IFDIR, 0xF000))
                info.external_attr = (mode | 0o777) << 16
            archive.writestr(info, data, rng.choice((8, 0, 12, 14)) if kind == 2 else 8)
            if kind == 3 and rng.random() < 0.3:
                archive.writestr(zipfile.ZipInfo(rng.choice((name, name.upper()))), data)
        if kind == 4:
            archive.writestr(zipfile.ZipInfo(rng.choice(("x/", "../", "/", "x/../../y/"))), rng.choice((b"", b"x")))
        if kind == 5:
            archive.comment = rng.choice((b"x", b"PK\x05\x06" + bytes(18), rng.randbytes(60)))
        if kind == 6:
            for index in range(rng.choice((10, 300, 700))):
                archive.writestr(f"f{index}", b"")
        if kind == 7:
            archive.writestr("bomb.bin", bytes(rng.choice((1, 1 << 16, 1 << 22))))
    data = buffer.getvalue()
    if kind == 7 and rng.random() < 0.5:  # the bomb's size in the directory is a lie
        at = data.rfind(b"PK\x01\x02")
        data = data[: at + 24] + struct.pack("<L", rng.choice((0, 5, 0x7FFFFFFF, 0xFFFFFFFE))) + data[at + 28 :]
    return data


def _value(rng: Rng) -> object:
    return copy.deepcopy(rng.choice(VALUES))


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, item in inner for place in _places(item, (*path, key))]


def spoil_json(rng: Rng, data: bytes) -> bytes:
    """JSON text with a value, key or piece of text changed."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = _places(tree)[1:]
        if not 0 < len(places) < 20_000:
            break
        place = rng.choice(places)
        parent = tree
        for key in place[:-1]:
            parent = parent[key]
        key, kind = place[-1], rng.randrange(6)
        if kind < 3:
            parent[key] = _value(rng)
        elif kind == 3:
            del parent[key]
        elif kind == 4 and isinstance(parent, dict):
            parent[rng.choice(("extra", str(key) + "s", str(key).upper(), *STRINGS))] = copy.deepcopy(parent[key])
        elif isinstance(parent, list):
            size = len(json.dumps(parent[key]))
            count = rng.choice((1, 12, 5000 if size < 100 else 300 if size < 1000 else 1))
            parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(count)]
    text = json.dumps(tree)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(LITERALS) + text[at + rng.choice((0, 1, 4)) :]
    if rng.random() < 0.1:
        at = text.find(",") + 1
        text = text[: at - 1] + "," + text[1:at] + text[at:]  # the first key stands twice
    return text.encode("utf-8", "surrogatepass")


def contract_json(rng: Rng, files: Files) -> bytes:
    """A bundle whose contract is changed and whose hashes fit."""
    return pack(listed(files | {"bundle.json": spoil_json(rng, files["bundle.json"])}), zipfile.ZIP_STORED)


def contract_version(rng: Rng, files: Files) -> bytes:
    """A contract of another schema version, with unknown fields in it."""
    tree = json.loads(files["bundle.json"])
    tree["schema_version"] = rng.choice(
        ("1.1", "1.9999", "2.0", "0.9", "1", "1.0.0", "1.00001", "-1.0", "\u0661.0", 1.0, None, _value(rng))
    )
    tree["action"][rng.choice(("future", "Names", "scal"))] = _value(rng)
    tree["observation"][0]["future"] = _value(rng)
    text = json.dumps(tree).encode()
    return pack(listed(files | {"bundle.json": spoil_json(rng, text) if rng.random() < 0.5 else text}), zipfile.ZIP_STORED)


def manifest_json(rng: Rng, files: Files) -> bytes:
    """A changed manifest."""
    return pack(files | {"manifest.json": spoil_json(rng, files["manifest.json"])}, zipfile.ZIP_STORED)


def file_bytes(rng: Rng, files: Files) -> bytes:
    """One file of the bundle spoiled in an otherwise good zip."""
    name = rng.choice(list(files))
    return pack(files | {name: spoil_bytes(rng, files[name], files["policy.onnx"])}, zipfile.ZIP_STORED)


def write_spoiled_folder(rng: Rng, files: Files, folder: Path) -> None:
    """A bundle's folder with a file spoiled, missing, unlisted, or replaced by a link, pipe or folder."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    victim = folder / rng.choice(list(files))
    kind = rng.randrange(8)
    if kind == 0:
        victim.write_bytes(spoil_bytes(rng, victim.read_bytes()))
        return
    if kind == 1:
        os.truncate(victim, rng.choice((0, 1, 10 << 30)))
        return
    if kind < 6:
        victim = victim if kind < 4 else folder / rng.choice(("extra", "x.y", ".hidden", "a b", "ü", "x" * 250))
        if victim.exists():
            victim.unlink()
    if kind in (2, 4):
        victim.symlink_to(rng.choice(("/etc/passwd", "/dev/zero", "policy.onnx", "..", victim.name, "nowhere")))
    elif kind == 3:
        os.mkfifo(victim)
    elif kind == 5:
        victim.mkdir()
        (victim / "inner").write_bytes(b"x")
    elif kind == 6:
        (folder / "a" / "b" / "c" / "d" / "e").mkdir(parents=True)
    else:
        victim.rename(folder / "elsewhere")


ZIPS: dict[str, Callable[[Rng, Files], bytes]] = {
    "bytes of the zip": zip_bytes,
    "headers of the zip": zip_fields,
    "entries of the zip": zip_entries,
    "bytes of one file": file_bytes,
    "contract, hashes fitting": contract_json,
    "contract of another version": contract_version,
    "manifest": manifest_json,
}
