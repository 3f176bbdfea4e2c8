"""Checkpoints: a folder of safetensors and JSON, written atomically, read without executing anything.

    RUN/checkpoints/iteration_000050_1f2e3d4c/
        state.safetensors    networks, optimisers, normalisers, duals, generator
        state.json           counters, task, SHA-256 of the tensors
    RUN/checkpoints/last -> iteration_000050_1f2e3d4c    where `--resume` goes on
    RUN/checkpoints/best -> iteration_000025_5a6b7c8d    highest evaluation so far

A folder is written under a temporary name, flushed to disk and then renamed to one that says its iteration and its
hash, and the links are replaced by a rename too: a kill at any moment leaves the previous checkpoint or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from trudi.runtime.durable import sync_folder
from trudi.train.errors import TrainError

FORMAT_VERSION = 1
TENSORS, STATE = "state.safetensors", "state.json"
LAST, BEST = "last", "best"


@dataclass(frozen=True)
class Counters:
    """Where a run stands."""

    iteration: int
    """Iterations done."""
    env_steps: int
    """Environment steps done, all environments together."""
    elapsed_s: float
    """Training time so far, over all resumptions, in seconds."""
    best_return: float | None
    """Highest mean return of the evaluations so far."""
    best_iteration: int | None
    """The iteration it belongs to."""
    cpu_s: float = 0.0
    """Processor time of the training so far, all threads of the (first) process; without it in older checkpoints."""


REQUIRED = frozenset(field.name for field in fields(Counters) if field.default is MISSING)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    task: str
    counters: Counters
    tensors: Mapping[str, Tensor]


def save(folder: Path, checkpoint: Checkpoint, *, link: str, keep: int) -> Path:
    """Writes a checkpoint below `folder`, points `link` to it and removes all but the newest `keep` and linked ones.

    TrainError where the disk is full or the folder cannot be written; what was there before is then still intact.
    """
    payload = save_tensors({key: tensor.contiguous().cpu() for key, tensor in checkpoint.tensors.items()})
    digest = hashlib.sha256(payload).hexdigest()
    final = folder / f"iteration_{checkpoint.counters.iteration:06d}_{digest[:8]}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    state = {
        "format": FORMAT_VERSION,
        "task": checkpoint.task,
        "sha256": digest,
        **asdict(checkpoint.counters),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        if not final.exists():  # It does where one state is both last and best, or a resumed run comes past it again.
            temporary.mkdir()
            _write_synced(temporary / TENSORS, payload)
            _write_synced(temporary / STATE, json.dumps(state, indent=2).encode())
            temporary.rename(final)
            sync_folder(folder)
        _point(folder / link, final.name)
        _prune(folder, keep)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainError(_explain(error, folder, len(payload))) from None
    return final


def find(folder: Path, which: str) -> Path:
    """The checkpoint that `which` names below `folder`: `last`, `best` or an iteration's number."""
    if which.isdigit():
        found = sorted(folder.glob(f"iteration_{int(which):06d}_*"))
        if not found:
            raise TrainError(f"no checkpoint of iteration {which} in {folder}; available: {_names(folder)}")
        return found[-1]
    if which not in (LAST, BEST):
        raise TrainError(f"unknown checkpoint '{which}'; use {LAST}, {BEST} or an iteration's number")
    return folder / which


def load(folder: Path) -> Checkpoint:
    """Reads one checkpoint folder (or a link to it); TrainError where it is missing, truncated or altered."""
    try:
        state = _read_state(folder / STATE)
        payload = (folder / TENSORS).read_bytes()
    except FileNotFoundError as error:
        raise TrainError(f"no checkpoint at {folder}: {Path(str(error.filename)).name} is missing") from None
    except OSError as error:
        raise TrainError(f"the checkpoint at {folder} cannot be read: {error.strerror}") from None
    if hashlib.sha256(payload).hexdigest() != state["sha256"]:
        raise TrainError(
            f"the checkpoint at {folder} is damaged: {TENSORS} does not match its hash (truncated or altered); "
            f"available beside it: {_names(folder.parent, folder)}"
        )
    try:
        tensors = load_tensors(payload)
    except SafetensorError as error:
        raise TrainError(f"the checkpoint at {folder} is damaged: {error}") from None
    return Checkpoint(
        str(state["task"]), Counters(**{key: state[key] for key in Counters.__annotations__ if key in state}), tensors
    )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text())
        missing = {"format", "task", "sha256", *REQUIRED} - set(state)
    except (ValueError, TypeError):
        raise TrainError(f"the checkpoint at {path.parent} is damaged: {path.name} is not valid JSON") from None
    if missing:
        raise TrainError(f"the checkpoint at {path.parent} is damaged: {path.name} lacks {', '.join(sorted(missing))}")
    if state["format"] != FORMAT_VERSION:
        raise TrainError(
            f"the checkpoint at {path.parent} has format {state['format']}, this version reads {FORMAT_VERSION}: "
            "use the trudi version that wrote it"
        )
    return state


def _names(folder: Path, left_out: Path | None = None) -> str:
    unwanted = left_out.resolve().name if left_out is not None else None
    names = sorted(path.name for path in folder.glob("iteration_*") if path.name != unwanted)
    return ", ".join(names) if names else "none"


def _write_synced(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _point(link: Path, target: str) -> None:
    """Points a symbolic link to a sibling, replacing it in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_folder(link.parent)


def _prune(folder: Path, keep: int) -> None:
    protected = {(folder / name).resolve() for name in (LAST, BEST)}
    complete = sorted(path for path in folder.glob("iteration_*") if path.is_dir())
    for path in complete[:-keep]:
        if path.resolve() not in protected:
            doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            path.rename(doomed)  # A kill while it is being emptied then leaves no half of a checkpoint under its name.
            shutil.rmtree(doomed)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        remove: Callable[[Path], Any] = shutil.rmtree if path.is_dir() and not path.is_symlink() else Path.unlink
        remove(path)


def _explain(error: OSError, folder: Path, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk is full: a checkpoint of {size / 1e6:.1f} MB could not be written to {folder}. Free some space "
            "and continue with `trudi train --resume RUN`; earlier checkpoints are intact"
        )
    return f"a checkpoint could not be written to {folder}: {error.strerror}"
