"""Writing bundles: whole or not at all, never over something that is no bundle, the same content to the same bytes."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

from trudi.runtime.archive import MAX_FILE_BYTES
from trudi.runtime.bundle import CONTRACT, MANIFEST, SIGNATURE, Bundle, manifest_json
from trudi.runtime.contract import SCHEMA_VERSION, Contract
from trudi.runtime.durable import sync_folder
from trudi.runtime.errors import BundleError
from trudi.runtime.paths import check_paths
from trudi.runtime.reading import contract_json, is_newer_schema

EPOCH = (1980, 1, 1, 0, 0, 0)
Signer = Callable[[bytes], bytes]


def write_bundle(
    target: Path | str, contract: Contract, files: dict[str, bytes], *, overwrite: bool = False, signer: Signer | None = None
) -> Path:
    """Writes a bundle to a folder, or to one file where `target` ends in .zip, and returns its path.

    `files` are all but bundle.json and the manifest; `signer` (see `signing.signer`) signs the manifest. The bundle is
    written under another name, flushed to disk, read back and then renamed. BundleError where the target exists (unless
    `overwrite` and it is a bundle), a name is unsafe, or the reader would refuse the result.
    """
    target = Path(target)
    content = _complete(contract, files, signer)
    check_target(target, overwrite)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        if target.suffix.lower() == ".zip":
            _write_zip(temporary, content)
        else:
            _write_folder(temporary, content)
        Bundle.open(temporary).close()
        _rename(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise BundleError(f"the bundle {target} cannot be written: {error.strerror or error}") from None
    finally:
        _remove(temporary)
    return target


def _complete(contract: Contract, files: dict[str, bytes], signer: Signer | None) -> dict[str, bytes]:
    """Every file of the bundle, in the order it is written."""
    if is_newer_schema(contract.schema_version, "the contract"):
        raise BundleError(
            f"the contract was read from schema {contract.schema_version}, whose new fields {SCHEMA_VERSION} would lose; "
            "update TruDi to write it"
        )
    contract = contract.model_copy(update={"schema_version": SCHEMA_VERSION})  # an older one says nothing that this cannot
    check_paths(files, "files to write")
    if reserved := {CONTRACT, MANIFEST, SIGNATURE} & {name.lower() for name in files}:
        raise BundleError(f"files to write may not include {min(reserved)}: it is made here")
    for name, data in files.items():
        if len(data) > MAX_FILE_BYTES:
            raise BundleError(f"{name} has {len(data)} bytes; a bundle's files have at most {MAX_FILE_BYTES}")
    listed = {CONTRACT: contract_json(contract), **files}
    manifest = manifest_json(listed)
    signature = {SIGNATURE: signer(manifest)} if signer is not None else {}
    return {MANIFEST: manifest, **signature, **dict(sorted(listed.items()))}


def check_target(target: Path, overwrite: bool) -> None:
    """BundleError where `target` is taken: it exists, and is no bundle or may not be overwritten."""
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise BundleError(f"{target} exists already; choose another name or ask to overwrite it")
    if (
        target.is_symlink()
        or (target.is_dir() and not (target / MANIFEST).is_file())
        or not (target.is_dir() or target.is_file())
    ):
        raise BundleError(f"{target} is no bundle, so it is not overwritten; choose another name")
    if target.is_file() and not zipfile.is_zipfile(target):
        raise BundleError(f"{target} is no bundle, so it is not overwritten; choose another name")


def _write_folder(folder: Path, content: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for parent in {(folder / name).parent for name in content}:
        sync_folder(parent)


def _write_zip(path: Path, content: dict[str, bytes]) -> None:
    """Stored, not deflated: weights hardly shrink, and compressors differ from machine to machine."""
    with path.open("xb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in content.items():
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system = 3
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, data)
        file.flush()
        os.fsync(file.fileno())


def _rename(temporary: Path, target: Path) -> None:
    """Puts the new bundle in place; an old folder is moved aside first, since no folder can replace another."""
    if not target.is_dir():
        temporary.replace(target)
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    _remove(aside)
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
