"""Bundles: what is written is read, and whatever is not exactly that is refused with a reason."""

import json
import os
import stat

import pytest
from bundles import contract, go1_files, go1_values, refusal, with_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from trudi.runtime import writing
from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import SCHEMA_VERSION
from trudi.runtime.errors import BundleError
from trudi.runtime.reading import contract_json
from trudi.runtime.writing import write_bundle

NAMES = ("bundle.json", "golden.npz", "manifest.json", "policy.onnx")


@pytest.mark.parametrize("kind", ["folder", "archived"])
def test_what_is_written_is_read(kind, request, go1):
    with Bundle.open(request.getfixturevalue(kind)) as bundle:
        assert bundle.contract == go1
        assert {name: bundle.read(name) for name in bundle.files} == {"bundle.json": contract_json(go1), **go1_files()}
        assert bundle.path("policy.onnx").read_bytes() == go1_files()["policy.onnx"]
        assert (bundle.is_signed, bundle.trusted_key, bundle.ignored_fields) == (False, None, ())


def test_a_folder_and_a_zip_of_the_same_content_have_one_digest(folder, archived):
    with Bundle.open(folder) as one, Bundle.open(archived) as other:
        assert one.digest == other.digest


def test_the_same_content_gives_the_same_zip(tmp_path, go1, archived):
    files = dict(reversed(go1_files().items()))
    assert write_bundle(tmp_path / "again.zip", go1, files).read_bytes() == archived.read_bytes()


def test_private_copies_go_when_the_bundle_is_closed(archived):
    with Bundle.open(archived) as bundle:
        copy = bundle.path("policy.onnx")
        assert copy.is_file() and stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert not copy.parent.exists()


def test_files_may_lie_in_subfolders(tmp_path, go1):
    files = go1_files() | {"engines/ab12.engine": b"engine"}
    for name in ("a", "a.zip"):
        with Bundle.open(write_bundle(tmp_path / name, go1, files)) as bundle:
            assert bundle.path("engines/ab12.engine").read_bytes() == b"engine"


@pytest.mark.parametrize("name", NAMES)
def test_one_byte_changed_in_any_file_of_a_folder(folder, name):
    path = folder / name
    original = path.read_bytes()
    for at in {0, len(original) // 2, len(original) - 1}:
        path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        assert name in refusal(folder) or name == "manifest.json"
    path.write_bytes(original)
    Bundle.open(folder).close()


@settings(deadline=None)
@given(st.data())
def test_any_bit_changed_in_a_zip_is_refused_or_does_not_matter(tmp_path_factory, data):
    """A bit of a time stamp in the zip changes nothing that is read; every other one is noticed."""
    original = write_bundle(tmp_path_factory.mktemp("z") / "go1.zip", contract(go1_values()), go1_files())
    spoiled = bytearray(original.read_bytes())
    at = data.draw(st.integers(0, len(spoiled) - 1))
    spoiled[at] ^= 1 << data.draw(st.integers(0, 7))
    original.write_bytes(spoiled)
    try:
        with Bundle.open(original) as bundle:
            assert {name: bundle.read(name) for name in go1_files()} == go1_files()
            assert bundle.contract == contract(go1_values())
    except BundleError:
        pass


def test_a_file_that_changes_after_it_was_opened(folder):
    with Bundle.open(folder) as bundle:
        (folder / "policy.onnx").write_bytes(b"x" * 1024)
        for use in (bundle.read, bundle.path):
            with pytest.raises(BundleError, match=r"policy\.onnx does not match its SHA-256"):
                use("policy.onnx")


def test_files_missing_unlisted_and_truncated(folder):
    (folder / "notes.txt").write_text("hello")
    assert "notes.txt is not in the manifest" in refusal(folder)
    (folder / "notes.txt").unlink()
    os.truncate(folder / "policy.onnx", 1000)
    assert "policy.onnx has 1000 bytes, the manifest says 1024" in refusal(folder)
    (folder / "policy.onnx").unlink()
    assert "policy.onnx is in the manifest but missing" in refusal(folder)
    (folder / "manifest.json").unlink()
    assert "has no manifest.json" in refusal(folder)


def test_no_bundle_at_all(tmp_path):
    assert "there is no bundle at" in refusal(tmp_path / "nothing")
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert "is not a zip" in refusal(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(b"x" * 100)
    assert "is not a zip" in refusal(tmp_path / "a.zip")


def test_an_unknown_file_names_those_there_are(folder):
    with (
        Bundle.open(folder) as bundle,
        pytest.raises(BundleError, match=r"no file '\.\./x'; it has bundle\.json, golden\.npz"),
    ):
        bundle.read("../x")


MANIFESTS = {
    "another format": ({"format": 2, "files": {}}, "format is 2; this TruDi reads 1"),
    "no files": ({"format": 1, "files": []}, "files must name the files"),
    "more": ({"format": 1, "files": {}, "x": 1}, "format is 1"),
    "size": ({"format": 1, "files": {"a": {"size": True, "sha256": "0" * 64}}}, "a must have a size and a sha256"),
    "hash": ({"format": 1, "files": {"a": {"size": 1, "sha256": "0" * 63}}}, "a must have a size and a sha256"),
    "itself": ({"format": 1, "files": {"manifest.json": {"size": 1, "sha256": "0" * 64}}}, "may not list manifest.json"),
    "nothing": ({"format": 1, "files": {}}, "bundle.json is not in the manifest"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_malformed_manifest(folder, case):
    values, reason = MANIFESTS[case]
    (folder / "manifest.json").write_text(json.dumps(values))
    assert reason in refusal(folder)


def test_a_manifest_with_a_key_twice_or_nested_endlessly(folder):
    (folder / "manifest.json").write_text('{"format": 1, "format": 1, "files": {}}')
    assert "'format' stands twice" in refusal(folder)
    (folder / "manifest.json").write_text("[" * 300_000)
    assert "nested 300000 deep" in refusal(folder)


def test_a_graph_that_the_contract_names_but_that_is_not_there(tmp_path, go1):
    with pytest.raises(BundleError, match=r"graph\.file is policy\.onnx; the files are bundle\.json, golden\.npz"):
        write_bundle(tmp_path / "x", go1, {"golden.npz": b""})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unless_asked(tmp_path, go1, folder, archived):
    for target in (folder, archived):
        with pytest.raises(BundleError, match="exists already"):
            write_bundle(target, go1, go1_files())
        write_bundle(target, go1, go1_files() | {"more.txt": b"x"}, overwrite=True)
        with Bundle.open(target) as bundle:
            assert "more.txt" in bundle.files
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["go1", "go1.zip"]


def test_what_is_no_bundle_is_never_overwritten(tmp_path, go1):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    (tmp_path / "notes.zip").write_text("not a zip")
    for name in ("home", "notes.zip"):
        with pytest.raises(BundleError, match="is no bundle, so it is not overwritten"):
            write_bundle(tmp_path / name, go1, go1_files(), overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("name", ["go1", "go1.zip"])
def test_a_disk_that_fails_leaves_the_old_bundle(tmp_path, go1, name, monkeypatch):
    target = write_bundle(tmp_path / name, go1, go1_files())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        write_bundle(target, go1, go1_files() | {"more.txt": b"x"}, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    with Bundle.open(target) as bundle:
        assert bundle.contract == go1


@pytest.mark.parametrize("name", ["../x", "bundle.json", "Manifest.json", "manifest.sig"])
def test_names_that_are_not_written(tmp_path, go1, name):
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "x", go1, go1_files() | {name: b""})


def test_a_contract_of_a_newer_schema_is_not_written(tmp_path, go1):
    with pytest.raises(BundleError, match=r"read from schema 1\.7, whose new fields 1\.3 would lose"):
        write_bundle(tmp_path / "x", go1.model_copy(update={"schema_version": "1.7"}), go1_files())


def test_a_contract_of_an_older_schema_is_written_as_this_one(tmp_path, go1):
    with Bundle.open(write_bundle(tmp_path / "x", go1.model_copy(update={"schema_version": "1.0"}), go1_files())) as bundle:
        assert bundle.contract == go1 and bundle.contract.schema_version == SCHEMA_VERSION


def test_a_bundle_of_the_first_schema_is_read(folder):
    """What 1.1 to 1.3 added is optional: kinds of terms, the clock of a phase, a student's divergence, commands' slew."""
    values = go1_values() | {"schema_version": "1.0"}
    files = {name: (folder / name).read_bytes() for name in ("golden.npz", "policy.onnx")}
    for name, data in with_manifest(files | {"bundle.json": json.dumps(values).encode()}).items():
        (folder / name).write_bytes(data)
    with Bundle.open(folder) as bundle:
        assert bundle.contract.schema_version == "1.0" and bundle.ignored_fields == ()
        assert all(term.phase_frequency_hz is None for term in bundle.contract.observation)


def test_a_newer_minor_bundle_is_read_and_says_what_it_left_out(folder):
    values = go1_values() | {"schema_version": "1.7", "mood": "good"}
    files = {name: (folder / name).read_bytes() for name in ("golden.npz", "policy.onnx")}
    for name, data in with_manifest(files | {"bundle.json": json.dumps(values).encode()}).items():
        (folder / name).write_bytes(data)
    with Bundle.open(folder) as bundle:
        assert bundle.ignored_fields == ("mood",)
