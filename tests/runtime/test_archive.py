"""Folders and zips by strangers: links, special files, names that escape, bombs."""

import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from bundles import contents, go1_files, refusal, with_manifest, zip_of

from trudi.runtime import archive
from trudi.runtime.bundle import Bundle, manifest_json
from trudi.runtime.errors import BundleError
from trudi.runtime.writing import write_bundle

NAMES = ("bundle.json", "golden.npz", "manifest.json", "policy.onnx")


@pytest.mark.parametrize("name", NAMES)
def test_a_symbolic_link_in_a_folder(tmp_path, folder, name):
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"'{name}' is a symbolic link" in refusal(folder)


def test_a_linked_folder_and_a_pipe_in_a_folder(tmp_path, folder):
    (folder / "engines").symlink_to(tmp_path)
    assert "'engines' is a symbolic link" in refusal(folder)
    (folder / "engines").unlink()
    os.mkfifo(folder / "pipe")
    assert "'pipe' is a device, pipe or socket" in refusal(folder)


def test_a_link_that_takes_a_files_place_while_it_is_read(tmp_path, folder):
    with Bundle.open(folder) as bundle:
        (folder / "policy.onnx").rename(tmp_path / "elsewhere")
        (folder / "policy.onnx").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BundleError, match=r"policy\.onnx cannot be read"):
            bundle.read("policy.onnx")


def test_a_ten_gigabyte_json_is_refused_unread(folder):
    os.truncate(folder / "bundle.json", 10 << 30)
    assert "bundle.json has 10737418240 bytes" in refusal(folder)


def test_a_folder_with_too_many_files_or_too_deep(folder):
    (folder / "a/b/c/d/e").mkdir(parents=True)
    assert "4 folders in each other" in refusal(folder)
    (folder / "a").rename(folder.parent / "a")
    for index in range(archive.MAX_FILES + 1):
        (folder / f"f{index}").touch()
    assert "holds more than 256 files" in refusal(folder)


ESCAPES = {
    "../evil": "it leaves the bundle",
    "a/../../evil": "it leaves the bundle",
    "/tmp/evil": "it is absolute",
    "C:/evil": "it is absolute",
    "a\\..\\evil": "backslash",
    "a\0evil": "NUL",
    "./a": "starts with a letter",
    "a//b": "starts with a letter",
    ".hidden": "starts with a letter",
    "a b": "starts with a letter",
    "dot.": "starts with a letter",
    "x" * 201: "longer than 200",
    "a/b/c/d/e": "deeper than 4",
    "POLICY.ONNX": "stands twice",
    "policy.onnx/x": "both a file and a folder",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_escape_or_mislead(tmp_path, archived, name):
    files = with_manifest(contents(archived))
    placeholder = "#" * len(name)
    data = zip_of(tmp_path / "evil.zip", files | {placeholder: b"x"}).read_bytes()
    (tmp_path / "evil.zip").write_bytes(data.replace(placeholder.encode(), name.encode()))  # zipfile would tidy the name
    assert ESCAPES[name] in refusal(tmp_path / "evil.zip")
    listed = zip_of(tmp_path / "listed.zip", files | {"manifest.json": manifest_json({name: b"x", **files})})
    assert "listed.zip: manifest.json" in refusal(listed)
    assert not (tmp_path / "evil").exists() and not Path("/tmp/evil").exists()


def test_a_name_without_a_letter(tmp_path, archived):
    data = bytearray(archived.read_bytes())
    at = central(bytes(data), b"policy.onnx")
    data[at + 28 : at + 34] = struct.pack("<HHH", 0, 0, 11)  # no name, and its letters as a comment
    (tmp_path / "nameless.zip").write_bytes(data)
    assert "the file name '' is refused" in refusal(tmp_path / "nameless.zip")


def test_a_duplicate_name_in_a_zip(tmp_path, archived):
    path = tmp_path / "twice.zip"
    data = zip_of(path, contents(archived) | {"policy.onnY": b"x"}).read_bytes()
    path.write_bytes(data.replace(b"policy.onnY", b"policy.onnx"))
    assert "'policy.onnx' stands twice" in refusal(path)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(stat.S_IFLNK, "is a symbolic link"), (stat.S_IFIFO, "is a device"), (stat.S_IFCHR, "is a device")],
    ids=["link", "pipe", "device"],
)
def test_special_files_in_a_zip(tmp_path, archived, mode, reason):
    def spoil(info):
        if info.filename == "policy.onnx":
            info.external_attr = (mode | 0o777) << 16

    files = with_manifest(contents(archived) | {"policy.onnx": b"/etc/passwd"})
    assert f"'policy.onnx' {reason}" in refusal(zip_of(tmp_path / "special.zip", files, spoil))


def central(data: bytes, name: bytes) -> int:
    """Where the directory's entry of a file starts."""
    at = data.rfind(name) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return at


def patched(path, archived, offset, packed) -> Path:
    data = bytearray(archived.read_bytes())
    at = central(bytes(data), b"policy.onnx") + offset
    data[at : at + len(packed)] = packed
    path.write_bytes(data)
    return path


def test_encrypted_and_oddly_compressed_members(tmp_path, archived):
    path = tmp_path / "spoiled.zip"
    assert "'policy.onnx' is encrypted" in refusal(patched(path, archived, 8, struct.pack("<H", 1)))
    assert "compressed by method 14" in refusal(patched(path, archived, 10, struct.pack("<H", 14)))


def test_a_declared_size_of_gigabytes(tmp_path, archived):
    path = patched(tmp_path / "large.zip", archived, 24, struct.pack("<L", 0xF0000000))
    assert "policy.onnx has 4026531840 bytes; at most" in refusal(path)


def test_a_bomb_that_unpacks_to_more_than_it_says(tmp_path, archived):
    files = contents(archived)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in (files | {"policy.onnx": bytes(50 << 20)}).items():
            file.writestr(name, data)
    assert "policy.onnx has 52428800 bytes, the manifest says 1024" in refusal(path)
    path = patched(path, path, 24, struct.pack("<L", 1024))  # it says 1024, holds 50 MB
    assert "policy.onnx" in refusal(path)


def test_a_bomb_in_bytes_all_told(tmp_path, archived, monkeypatch):
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 12_000)
    assert "at most 12000 are read" in refusal(archived)
    packed = zip_of(
        tmp_path / "x.zip", contents(archived), lambda info: setattr(info, "compress_type", zipfile.ZIP_DEFLATED)
    )
    assert "bytes in all; at most 12000" in refusal(packed)


def test_a_zip_with_something_around_it(tmp_path, archived):
    path, data = tmp_path / "x.zip", archived.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + data)
    assert "does not fit its own directory" in refusal(path)
    path.write_bytes(data + b"\0")
    assert "ends early or in a comment" in refusal(path)
    path.write_bytes(data[:-30])
    assert "ends early" in refusal(path)
    assert "comment" in refusal(zip_of(path, contents(archived), comment=b"hello"))


def test_a_directory_of_thousands_of_entries(tmp_path):
    path = zip_of(tmp_path / "many.zip", {f"f{index}": b"" for index in range(2000)})
    assert "lists 2000 files" in refusal(path)


def test_a_zip_made_by_hand_from_the_folder_is_read(tmp_path, folder, go1):
    """With entries for folders, deflated, as `zip -r` makes it."""
    write_bundle(tmp_path / "b", go1, go1_files() | {"engines/a.engine": b"x"})
    path = tmp_path / "hand.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry in sorted((tmp_path / "b").rglob("*")):
            file.write(entry, entry.relative_to(tmp_path / "b"))
    with Bundle.open(path) as bundle:
        assert bundle.read("engines/a.engine") == b"x"
