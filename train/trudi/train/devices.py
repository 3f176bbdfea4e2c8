"""Choosing where to compute."""

from __future__ import annotations

import ctypes
import os

import torch

from trudi.train.errors import TrainError

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_CACHED_BYTES = 1 << 30


def pick_device(name: str) -> torch.device:
    """The device of a `--device` flag; TrainError says why it cannot be used."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TrainError(f"unknown device '{name}'; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise TrainError(f"device '{name}' is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            why = "this torch is a CPU build" if not torch.backends.cuda.is_built() else "no NVIDIA driver or GPU was found"
            raise TrainError(f"--device {name}: CUDA is not available ({why}); use --device cpu, or see `trudi doctor`")
        if (device.index or 0) >= torch.cuda.device_count():
            raise TrainError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def available_cores() -> int:
    """How many cores this process may use: those it is pinned to, where it is."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure_cpu() -> None:
    """Settings that make small networks fast on a CPU; for the whole process.

    One thread a matrix product, since the critic's and the actor's updates run side by side. Denormal numbers become
    zero: Adam's second moments of unused outputs decay into them, and they are many times slower. Freed memory is kept:
    by default glibc gives every large tensor back to the system at once, and the page faults of getting it again cost
    as much as the arithmetic on it.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    libc = _glibc()
    if libc is not None:
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, LARGEST_CACHED_BYTES)


def release_free_memory() -> None:
    """Gives freed memory back to the system now, after something large was closed for good."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
