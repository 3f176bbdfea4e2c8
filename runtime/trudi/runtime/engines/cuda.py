"""The few CUDA calls that an engine needs, through `cuda.bindings` (no torch): pinned memory, copies, one captured graph."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from trudi.runtime.engines.base import Float32
from trudi.runtime.errors import EngineError


class Cuda:
    """One device and one stream on it. Every call that fails is an EngineError with CUDA's own name for the failure."""

    def __init__(self, device: int = 0) -> None:
        """Raises where the bindings, the driver or the device is missing."""
        try:
            self._runtime: Any = importlib.import_module("cuda.bindings.runtime")
        except (ImportError, OSError) as error:
            raise EngineError(f"cuda.bindings cannot be imported ({error}): pip install 'trudi[cuda]'") from error
        count = self._call("cudaGetDeviceCount")
        if not 0 <= device < count:
            raise EngineError(f"no CUDA device {device}: this machine has {count}")
        self.device = device
        self.use_device()
        self.stream: int = int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))
        self._frees: list[tuple[str, Any]] = [("cudaStreamDestroy", self.stream)]

    def __str__(self) -> str:
        major, minor = self.compute_capability()
        return f"CUDA device {self.device}, compute capability {major}.{minor}"

    def compute_capability(self) -> tuple[int, int]:
        """Of the device: (8, 7) is an Orin, (8, 9) an RTX 40."""
        names = self._runtime.cudaDeviceAttr
        wanted = (names.cudaDevAttrComputeCapabilityMajor, names.cudaDevAttrComputeCapabilityMinor)
        major, minor = (int(self._call("cudaDeviceGetAttribute", name, self.device)) for name in wanted)
        return major, minor

    def use_device(self) -> None:
        """Makes the device the calling thread's: CUDA keeps one for each thread."""
        self._call("cudaSetDevice", self.device)

    def pinned(self, shape: tuple[int, ...]) -> Float32:
        """An array in page-locked memory, which the GPU copies without staging. It must not be used after `close`."""
        size = int(np.prod(shape))
        address = int(self._call("cudaHostAlloc", 4 * size, self._runtime.cudaHostAllocDefault))
        self._frees.append(("cudaFreeHost", address))
        array: Float32 = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)
        array.fill(0.0)
        return array

    def device_memory(self, size_bytes: int) -> int:
        """The address of new memory on the device."""
        address = int(self._call("cudaMalloc", size_bytes))
        self._frees.append(("cudaFree", address))
        return address

    def upload(self, array: Float32, address: int) -> None:
        """Queues a copy of a pinned array to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def download(self, address: int, array: Float32) -> None:
        """Queues a copy from the device to a pinned array."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """What `work` queues, as a graph that one call launches."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        finally:
            graph = self._call("cudaStreamEndCapture", self.stream)
            self._frees.append(("cudaGraphDestroy", graph))
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._frees.append(("cudaGraphExecDestroy", executable))
        return executable

    def launch(self, executable: Any) -> None:
        """Queues a captured graph."""
        self._call("cudaGraphLaunch", executable, self.stream)

    def wait(self) -> None:
        """Returns when everything queued is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        """Frees all of it, last first; a second call does nothing."""
        self.use_device()
        while self._frees:
            self._call(*self._frees.pop())

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *values = getattr(self._runtime, function)(*arguments)
        if int(status) != 0:
            raise EngineError(f"{function} failed: {status.name} ({int(status)}); check `nvidia-smi` and the driver")
        return values[0] if values else None
