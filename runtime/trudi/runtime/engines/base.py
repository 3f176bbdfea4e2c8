"""The one interface to everything that turns an observation into an action, and the contract its graph must keep.

A graph has the inputs `observation` (batch, n) and, where the sampler's noise is an input, `latent` (batch, m), and the
output `action` (batch, m). All three are float32 whatever the precision inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.errors import EngineError

if TYPE_CHECKING:
    from typing_extensions import Self

Float32 = NDArray[np.float32]

OBSERVATION: Final = "observation"
LATENT: Final = "latent"
ACTION: Final = "action"


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is, for logs, tables and reports."""

    name: str
    """The engine's name in a preference list: onnx, tensorrt or tensorrt-rtx."""
    library: str
    """The library that runs it, with its version."""
    provider: str
    """What computes: the execution provider of ONNX Runtime, or the GPU."""
    precision: str
    """The precision of the weights, as the exporter states it."""

    @property
    def described(self) -> str:
        """Name, library and what computes, in words."""
        return f"{self.name} ({self.library}, {self.provider})"


@dataclass(frozen=True)
class Port:
    """An input or output of a graph, as the graph declares it."""

    name: str
    shape: tuple[int | None, ...]
    """None for a dimension that is free."""
    dtype: str
    """Numpy's name of the element type."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join('any' if size is None else str(size) for size in self.shape)})"


@dataclass(frozen=True)
class Signature:
    """The sizes of a graph that keeps the contract."""

    observation_size: int
    action_size: int
    takes_latent: bool
    batch: int | None
    """None where the graph takes any batch."""


def read_signature(inputs: Sequence[Port], outputs: Sequence[Port]) -> Signature:
    """The sizes of a graph with these ports; an EngineError says which port breaks the contract."""
    given = {port.name: port for port in inputs}
    wanted = [OBSERVATION, LATENT] if LATENT in given else [OBSERVATION]
    if sorted(given) != sorted(wanted) or len(inputs) != len(wanted) or [port.name for port in outputs] != [ACTION]:
        named = f"inputs {[port.name for port in inputs]}, outputs {[port.name for port in outputs]}"
        raise EngineError(f"the graph has {named}; the contract has {OBSERVATION}, optionally {LATENT}, and {ACTION}")
    ports = [*(given[name] for name in wanted), outputs[0]]
    for port in ports:
        if port.dtype != "float32" or len(port.shape) != 2 or not port.shape[1] or port.shape[0] == 0:
            raise EngineError(f"the graph's {port}: the contract has float32 (batch, size), with the size fixed")
    if len({port.shape[0] for port in ports}) != 1:
        raise EngineError(f"the graph's batch sizes differ: {', '.join(map(str, ports))}")
    action_size = ports[-1].shape[1] or 0
    if LATENT in given and given[LATENT].shape[1] != action_size:
        raise EngineError(
            f"the graph's {given[LATENT]} differs in size from its {outputs[0]}: a latent is an action before its steps"
        )
    return Signature(given[OBSERVATION].shape[1] or 0, action_size, LATENT in given, ports[0].shape[0])


def choose_batch(signature: Signature, wanted: int | None) -> int:
    """The batch that the buffers are made for: the graph's, or the one wanted, or 1."""
    batch = wanted or signature.batch or 1
    if batch < 1 or signature.batch not in (None, batch):
        raise EngineError(
            f"batch {wanted} asked of a graph whose batch is {signature.batch or 'free'}: export it with that batch"
        )
    return batch


@dataclass(frozen=True)
class Buffers:
    """The arrays that a call reads and writes; made once, so that a call makes none."""

    observation: Float32
    """(batch, n)."""
    latent: Float32 | None
    """(batch, m); None where the graph takes none."""
    action: Float32
    """(batch, m)."""

    @classmethod
    def zeros(cls, signature: Signature, batch: int) -> Buffers:
        """Plain arrays of these sizes."""
        action = np.zeros((batch, signature.action_size), np.float32)
        observation = np.zeros((batch, signature.observation_size), np.float32)
        return cls(observation, np.zeros_like(action) if signature.takes_latent else None, action)


class Engine(ABC):
    """Computes actions from observations. One thread at a time; ready after `warm_up`; a context manager that closes it."""

    def __init__(self, info: EngineInfo, buffers: Buffers) -> None:
        self.info = info
        self._buffers = buffers
        self._closed = False

    @property
    def name(self) -> str:
        """The engine's name in a preference list."""
        return self.info.name

    @property
    def batch(self) -> int:
        """Rows of every array in a call."""
        return self._buffers.observation.shape[0]

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return self._buffers.observation.shape[1]

    @property
    def action_size(self) -> int:
        """Numbers in an action, and in a latent."""
        return self._buffers.action.shape[1]

    @property
    def buffers(self) -> Buffers:
        """The arrays that a call reads and writes."""
        return self._buffers

    @property
    def takes_latent(self) -> bool:
        """Whether `infer` must be given a latent."""
        return self._buffers.latent is not None

    def infer(self, observation: Float32, latent: Float32 | None = None) -> Float32:
        """The action (batch, m) for an observation (batch, n) and, where the graph takes one, a latent (batch, m), float32.

        The array that comes back is the engine's own: the next call overwrites it. Copy it to keep it.
        An EngineError says what does not fit, or why the library failed.
        """
        if self._closed:
            raise EngineError(f"the engine {self.name} is closed: load it again")
        _fill(OBSERVATION, self._buffers.observation, observation)
        if self._buffers.latent is not None:
            if latent is None:
                raise EngineError(f"latent missing: the graph takes one, float32 {self._buffers.latent.shape}")
            _fill(LATENT, self._buffers.latent, latent)
        elif latent is not None:
            raise EngineError(f"latent float32 {latent.shape} given, but the graph has none: leave it out")
        self._run()
        return self._buffers.action

    def warm_up(self, calls: int = 20) -> None:
        """Makes `calls` calls on zeros, so that none of a loop's calls is a first one."""
        observation = np.zeros_like(self._buffers.observation)
        latent = np.zeros_like(self._buffers.action) if self.takes_latent else None
        for _ in range(calls):
            self.infer(observation, latent)

    def close(self) -> None:
        """Gives the library's memory back; a second call does nothing. The last action stays readable."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _run(self) -> None:
        """Computes `_buffers.action` from the buffers beside it."""

    @abstractmethod
    def _release(self) -> None:
        """Frees what the library holds; called once."""


def _fill(name: str, buffer: Float32, array: Float32) -> None:
    if array.dtype != buffer.dtype or array.shape != buffer.shape:
        raise EngineError(f"{name} is {array.dtype} {array.shape}; the engine takes {buffer.dtype} {buffer.shape}")
    np.copyto(buffer, array)
