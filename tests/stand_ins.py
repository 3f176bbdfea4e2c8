"""A CUDA runtime and a TensorRT that compute on the CPU, where no GPU is.

They prove the order of calls, the copies and the clean-up of our own code, and nothing of the libraries. Memory is real, so
a wrong address or size reads wrong numbers; queued work runs when it is waited for, captured work only when it is launched.
"""

import ctypes
import itertools
from enum import IntEnum
from types import SimpleNamespace

import numpy as np


class Status(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorStreamCaptureUnsupported = 900


Kind = IntEnum("Kind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"])
Attribute = IntEnum("Attribute", ["cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor"])


class CudaRuntime:
    """As `cuda.bindings.runtime`: every function returns its status first."""

    cudaStreamNonBlocking, cudaHostAllocDefault = 1, 0
    cudaMemcpyKind, cudaDeviceAttr = Kind, Attribute
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, devices=1):
        self.devices, self.memory, self.alive = devices, {}, set()
        self.handles = itertools.count(1)
        self.queue, self.capturing, self.launches = [], None, 0

    def _new(self, kind):
        handle = next(self.handles)
        self.alive.add((kind, handle))
        return handle

    def _end(self, kind, handle):
        if (kind, handle) not in self.alive:
            return (Status.cudaErrorInvalidValue,)
        self.alive.remove((kind, handle))
        return (Status.cudaSuccess,)

    def _allocate(self, kind, size):
        buffer = ctypes.create_string_buffer(size)
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        self.alive.add((kind, address))
        return Status.cudaSuccess, address

    def enqueue(self, work):
        (self.queue if self.capturing is None else self.capturing).append(work)

    def cudaGetDeviceCount(self):
        return Status.cudaSuccess, self.devices

    def cudaSetDevice(self, device):
        return (Status.cudaSuccess,)

    def cudaDeviceGetAttribute(self, name, device):
        return Status.cudaSuccess, {"Major": 8, "Minor": 9}[name.name[-5:]]

    def cudaStreamCreateWithFlags(self, flags):
        return Status.cudaSuccess, self._new("stream")

    def cudaStreamDestroy(self, stream):
        return self._end("stream", stream)

    def cudaHostAlloc(self, size, flags):
        return self._allocate("host", size)

    def cudaMalloc(self, size):
        return self._allocate("device", size)

    def cudaFreeHost(self, address):
        return self._end("host", address)

    def cudaFree(self, address):
        return self._end("device", address)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        self.enqueue(lambda: ctypes.memmove(target, source, size))
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.capturing = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        graph, self.capturing = self.capturing, None
        handle = self._new("graph")
        self.memory[handle] = graph
        return Status.cudaSuccess, handle

    def cudaGraphInstantiate(self, graph, flags):
        handle = self._new("executable")
        self.memory[handle] = self.memory[graph]
        return Status.cudaSuccess, handle

    def cudaGraphDestroy(self, graph):
        return self._end("graph", graph)

    def cudaGraphExecDestroy(self, executable):
        return self._end("executable", executable)

    def cudaGraphLaunch(self, executable, stream):
        if ("executable", executable) not in self.alive:
            return (Status.cudaErrorInvalidValue,)
        self.launches += 1
        self.queue.extend(self.memory[executable])
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        if self.capturing is not None:
            return (Status.cudaErrorStreamCaptureUnsupported,)
        for work in self.queue:
            work()
        self.queue.clear()
        return (Status.cudaSuccess,)


WEIGHT = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def tensorrt(cuda, *, batch=1, capturable=True, dtype="FLOAT"):
    """As `tensorrt`, with one engine: action = observation @ WEIGHT + 10 latent, for the plan b"plan"."""
    shapes = {"observation": (batch, 3), "latent": (batch, 2), "action": (batch, 2)}
    order = list(shapes)

    class Context:
        def __init__(self):
            self.addresses, self.shapes, self.settled = {}, dict(shapes), 0

        def set_input_shape(self, name, shape):
            fits = all(mine in (-1, theirs) for mine, theirs in zip(shapes[name], shape, strict=True)) and shape[0] <= 8
            self.shapes[name] = shape if fits else self.shapes[name]
            return fits

        def set_tensor_address(self, name, address):
            self.addresses[name] = address
            return True

        def is_stream_capturable(self, stream):
            return capturable

        def array(self, name):
            shape = (self.shapes["observation"][0], shapes[name][1])
            return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])).reshape(
                shape
            )

        def execute_async_v3(self, stream):
            if cuda.capturing is not None and self.settled == 0:
                return False  # the first call allocates, which a capture forbids
            self.settled += 1
            cuda.enqueue(
                lambda: np.copyto(self.array("action"), self.array("observation") @ WEIGHT + 10 * self.array("latent"))
            )
            return True

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            if plan != b"plan":
                self.logger.log(
                    SimpleNamespace(name="ERROR"), "IRuntime::deserializeCudaEngine: Error Code 1: Serialization"
                )
                return None
            return SimpleNamespace(
                num_io_tensors=3,
                get_tensor_name=order.__getitem__,
                get_tensor_shape=shapes.__getitem__,
                get_tensor_dtype=lambda name: SimpleNamespace(name=dtype),
                get_tensor_mode=lambda name: SimpleNamespace(name="OUTPUT" if name == "action" else "INPUT"),
                create_execution_context=Context,
            )

    return SimpleNamespace(__name__=f"stand_in_{id(cuda)}", __version__="10.3.0", ILogger=object, Runtime=Runtime)
