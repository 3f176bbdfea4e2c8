"""A bundle: what a robot is given. A folder or one .zip, read-only, checked whole before anything of it is used.

    bundle.json      the contract
    policy.onnx      the graph the contract names (its name is the contract's to choose), engines, golden.npz, ...
    manifest.json    size and SHA-256 of every file above; no other file may lie beside them
    manifest.sig     optional: an Ed25519 signature of manifest.json, and so of everything

The manifest is a file of its own because bundle.json cannot hold its own hash, and because signing it signs all files.
Order of the checks: names, kinds and sizes; manifest; signature (where trust is asked for); hashes; contract.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from trudi.runtime.archive import Source, open_source
from trudi.runtime.contract import Contract
from trudi.runtime.errors import BundleError, quoted
from trudi.runtime.paths import check_paths
from trudi.runtime.reading import MAX_JSON_BYTES, parse_json, read_contract

CONTRACT, MANIFEST, SIGNATURE = "bundle.json", "manifest.json", "manifest.sig"
MANIFEST_FORMAT = 1
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileInfo:
    """What the manifest says of a file."""

    size: int
    """Bytes."""
    sha256: str
    """64 lower-case hexadecimal digits."""


class Bundle:
    """A bundle whose every file matches its hash. Use `Bundle.open`, and close it (or use `with`)."""

    def __init__(self, path: Path, source: Source, trust: Path | None) -> None:
        self.path_given = path
        self._source = source
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        manifest = self._read_small(MANIFEST)
        self.digest = hashlib.sha256(manifest).hexdigest()
        """SHA-256 of the manifest: names this bundle's exact content."""
        self.files = parse_manifest(manifest, f"{path}: {MANIFEST}")
        """Name -> size and hash of every file but the manifest and its signature."""
        self.is_signed = SIGNATURE in source.sizes
        """Whether there is a signature; it was verified only where `trust` was given."""
        self.trusted_key = self._check_signature(manifest, trust) if trust is not None else None
        """Id of the key that was trusted and whose signature is valid."""
        self._check_listed()
        for name in self.files:
            for _ in self._verified(name):
                pass
        contract, ignored = read_contract(self.read(CONTRACT), f"{path}: {CONTRACT}")
        self.contract: Contract = contract
        self.ignored_fields: tuple[str, ...] = ignored
        """Fields of a newer minor schema that this TruDi does not know."""
        check_files_named(contract, set(self.files), str(path))

    @classmethod
    def open(cls, path: Path | str, *, trust: Path | None = None) -> Bundle:
        """Reads and checks a bundle's folder or zip.

        `trust` is a public key file; without a valid signature by it the bundle is refused. BundleError says what is
        wrong with the bundle.
        """
        source = open_source(Path(path))
        try:
            return cls(Path(path), source, trust)
        except BaseException:
            source.close()
            raise

    def read(self, name: str) -> bytes:
        """A file's content, checked against its hash once more; BundleError on a name the manifest does not list."""
        return b"".join(self._verified(name))

    def path(self, name: str) -> Path:
        """A file's path, for libraries that want one; of a zip, a private copy that goes when the bundle is closed."""
        if self.path_given.is_dir():
            for _ in self._verified(name):
                pass
            return self.path_given / name
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="trudi-bundle-")
        target = Path(self._scratch.name) / name
        if not target.exists():
            content = self.read(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return target

    def close(self) -> None:
        """Closes the file and removes private copies."""
        self._source.close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read_small(self, name: str) -> bytes:
        if name not in self._source.sizes:
            raise BundleError(f"{self.path_given} has no {name}; it is no bundle, or a part of one")
        if (size := self._source.sizes[name]) > MAX_JSON_BYTES:
            raise BundleError(f"{self.path_given}: {name} has {size} bytes; at most {MAX_JSON_BYTES} are read")
        return b"".join(self._source.chunks(name))

    def _check_listed(self) -> None:
        present = set(self._source.sizes) - {MANIFEST, SIGNATURE}
        if missing := sorted(set(self.files) - present):
            raise BundleError(f"{self.path_given}: {missing[0]} is in the manifest but missing; copy the bundle again")
        if unlisted := sorted(present - set(self.files)):
            raise BundleError(
                f"{self.path_given}: {unlisted[0]} is not in the manifest; remove it, or write the bundle again"
            )
        if CONTRACT not in self.files:
            raise BundleError(f"{self.path_given}: the manifest does not list {CONTRACT}; write the bundle again")
        if self.files[CONTRACT].size > MAX_JSON_BYTES:
            raise BundleError(f"{self.path_given}: {CONTRACT} is larger than the {MAX_JSON_BYTES} bytes that are read")
        for name, info in self.files.items():
            if self._source.sizes[name] != info.size:
                raise BundleError(
                    f"{self.path_given}: {name} has {self._source.sizes[name]} bytes, the manifest says {info.size}; "
                    "it was truncated or altered"
                )

    def _verified(self, name: str) -> Iterator[bytes]:
        """The pieces of a file; BundleError after the last one where they do not match the hash."""
        if name not in self.files:
            raise BundleError(f"{self.path_given} has no file {quoted(name)}; it has {', '.join(sorted(self.files))}")
        digest = hashlib.sha256()
        for piece in self._source.chunks(name):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != self.files[name].sha256:
            raise BundleError(f"{self.path_given}: {name} does not match its SHA-256; it was damaged or altered")

    def _check_signature(self, manifest: bytes, trust: Path) -> str:
        from trudi.runtime.signing import verify

        if not self.is_signed:
            raise BundleError(f"{self.path_given} is not signed, and {trust} was to be trusted; sign it when it is exported")
        return verify(manifest, self._read_small(SIGNATURE), trust, f"{self.path_given}: {SIGNATURE}")


def parse_manifest(data: bytes, where: str) -> dict[str, FileInfo]:
    """The manifest's files by name; BundleError where it is malformed."""
    values = parse_json(data, where)
    if values.get("format") != MANIFEST_FORMAT or set(values) != {"format", "files"}:
        raise BundleError(f"{where}: format is {quoted(values.get('format'))}; this TruDi reads {MANIFEST_FORMAT}")
    listed = values["files"]
    if not isinstance(listed, dict):
        raise BundleError(f"{where}: files must name the files, not {quoted(listed)}")
    check_paths(listed, where)
    files: dict[str, FileInfo] = {}
    for name, entry in listed.items():
        match entry:
            case {"size": int(size), "sha256": str(digest), **rest} if (
                not rest and type(size) is int and SHA256.fullmatch(digest)
            ):
                files[name] = FileInfo(size, digest)
            case _:
                raise BundleError(f"{where}: {name} must have a size and a sha256 of 64 digits, not {quoted(entry)}")
    if reserved := {MANIFEST, SIGNATURE} & {name.lower() for name in files}:
        raise BundleError(f"{where}: it may not list {min(reserved)}")
    return files


def manifest_json(files: dict[str, bytes]) -> bytes:
    """The manifest of these files; the same files give the same bytes."""
    listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in sorted(files.items())}
    return (json.dumps({"format": MANIFEST_FORMAT, "files": listed}, indent=1) + "\n").encode()


def check_files_named(contract: Contract, names: set[str], where: str) -> None:
    """BundleError where the contract names a file that is not there."""
    graphs = [("graph.file", contract.graph)]
    if contract.student is not None:
        graphs.append(("student.graph.file", contract.student.graph))
    for field, graph in graphs:
        if graph.file not in names:
            raise BundleError(f"{where}: {field} is {graph.file}; the files are {', '.join(sorted(names))}")
