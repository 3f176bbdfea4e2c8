"""Serialised engines on disk: named by what they were made of, and read only where all of that still holds.

An engine `tensorrt-rtx-0123456789abcdef.engine` has a sidecar `.json` (its key, part by part, and its own SHA-256) and a
`.log` of its build. The sidecar is written last: an engine without one is a build that was cut off, and counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, cast

from trudi.runtime.engines.tensorrt import MODULES, Flavour, import_flavour
from trudi.runtime.errors import EngineError

SIDECAR_VERSION: Final = 1
MAX_SIDECAR_BYTES: Final = 1_000_000


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on. Two builds with equal keys may stand for each other; no others may."""

    onnx_sha256: str
    """Of the graph's bytes."""
    flavour: Flavour
    """tensorrt or tensorrt-rtx."""
    library_version: str
    """Of the library that built it; engines do not carry over to another."""
    cuda: str
    """The CUDA that the library was packaged for (cu12, cu13), or `system` where it came with the system."""
    compute_capabilities: tuple[str, ...]
    """The GPUs it runs on (`8.9`); empty stands for TensorRT-RTX's own choice."""
    precision: str
    """What the exporter says of the weights."""
    flags: tuple[tuple[str, str], ...]
    """Every other builder option, as sorted names and values."""

    @property
    def digest(self) -> str:
        """SHA-256 over all parts, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def stem(self) -> str:
        """The file name without its ending."""
        return f"{self.flavour}-{self.digest[:16]}"

    def differences(self, other: EngineKey) -> list[str]:
        """A phrase for each part in which the keys differ."""
        pairs = [(part.name, getattr(self, part.name), getattr(other, part.name)) for part in fields(self)]
        return [f"{name} is {_short(mine)}, not {_short(theirs)}" for name, mine, theirs in pairs if mine != theirs]


def sidecar_path(engine: Path) -> Path:
    """Of an engine file."""
    return engine.with_suffix(".json")


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def library_version(flavour: Flavour) -> str:
    """Of the installed library; an EngineError says how to get it."""
    return str(import_flavour(flavour).__version__)


def cuda_variant(flavour: Flavour) -> str:
    """Which CUDA the installed library was packaged for, or `system`."""
    for variant in ("cu13", "cu12"):
        try:
            version(f"{MODULES[flavour]}_{variant}")
        except PackageNotFoundError:
            continue
        return variant
    return "system"


def read_sidecar(engine: Path) -> dict[str, Any]:
    """The sidecar of an engine, its key checked against its digest; an EngineError where it is missing or broken."""
    path = sidecar_path(engine)
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise EngineError(f"{path.name} has more than {MAX_SIDECAR_BYTES} bytes: no sidecar has; build the engine again")
        sidecar = json.loads(path.read_bytes())
        key = key_of(sidecar)
        if (
            sidecar["version"] != SIDECAR_VERSION
            or sidecar["digest"] != key.digest
            or not isinstance(sidecar["sha256"], str)
        ):
            raise ValueError("its digest is not that of its key")
    except OSError as error:
        raise EngineError(f"{engine.name} has no readable sidecar {path.name} ({error.strerror}): build it again") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"{path.name} is not an engine's sidecar ({error}): build the engine again") from error
    return cast("dict[str, Any]", sidecar)


def key_of(sidecar: dict[str, Any]) -> EngineKey:
    """The key that a sidecar states."""
    parts = dict(sidecar["key"])
    parts["compute_capabilities"] = tuple(str(one) for one in parts["compute_capabilities"])
    parts["flags"] = tuple((str(name), str(value)) for name, value in parts["flags"])
    return EngineKey(**parts)


def read_engine(engine: Path, wanted: EngineKey) -> bytes:
    """The bytes of an engine whose key is `wanted`; an EngineError names each part that differs, or what is broken."""
    sidecar = read_sidecar(engine)
    differences = key_of(sidecar).differences(wanted)
    if differences:
        raise EngineError(f"{engine.name} is for something else: {'; '.join(differences)}. Build it again")
    return _verified(engine, sidecar)


def read_engine_for(engine: Path, model: bytes) -> bytes:
    """The bytes of an engine made from this graph by the library installed here: what a robot asks for.

    Precision and flags are the builder's to choose, so the sidecar's own stand.
    """
    sidecar = read_sidecar(engine)
    key = key_of(sidecar)
    if key.flavour not in MODULES:
        raise EngineError(f"{engine.name} is of flavour '{key.flavour}'; available: {', '.join(MODULES)}")
    if key.onnx_sha256 != sha256(model):
        raise EngineError(
            f"{engine.name} was made from another graph ({key.onnx_sha256[:12]}, not {sha256(model)[:12]}): build it again"
        )
    here = library_version(key.flavour)
    if key.library_version != here:
        raise EngineError(
            f"{engine.name} was built by {key.flavour} {key.library_version}, installed is {here}: build it again"
        )
    return _verified(engine, sidecar)


def _verified(engine: Path, sidecar: dict[str, Any]) -> bytes:
    try:
        data = engine.read_bytes()
    except OSError as error:
        raise EngineError(f"{engine.name} cannot be read ({error.strerror}): build it again") from error
    if sha256(data) != sidecar["sha256"]:
        raise EngineError(f"{engine.name} is not the file that its sidecar describes: it was changed; build it again")
    return data


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
