"""`golden.npz`: recorded observations with the actions that every engine must reproduce, and how closely.

`golden_student.npz` is the same for the graph of the student that stands beside the policy.

observation      (cases, n) float32     from evaluation episodes, then edge cases
latent           (cases, m) float32     where the graph takes one
action_float64   (cases, m)             PyTorch's, in double precision: the reference
action_float32   (cases, m)             PyTorch's, as the policy was trained
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.contract import Contract, Student
from trudi.runtime.engines.choose import Golden
from trudi.runtime.errors import BundleError
from trudi.runtime.npz import read_npz

GOLDEN: Final = "golden.npz"
STUDENT_GOLDEN: Final = "golden_student.npz"

# Largest absolute error of an action in [-1, 1] that is still the same policy. Float32 differs by rounding alone. The others
# are what the format itself costs on this chain (docs/export.md has measurements), with room for another library's order of
# summation; what they cost in return is measured when the bundle is made.
TOLERANCES: Final = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-1, "int8": 1e-1}


@dataclass(frozen=True)
class GoldenCases:
    """The arrays of `golden.npz`, or of `golden_student.npz`."""

    observation: NDArray[np.float32]
    latent: NDArray[np.float32] | None
    action_float64: NDArray[np.float64]
    action_float32: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The .npz file."""
        arrays = {
            "observation": self.observation,
            "action_float64": self.action_float64,
            "action_float32": self.action_float32,
        }
        if self.latent is not None:
            arrays["latent"] = self.latent
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, contract: Contract) -> GoldenCases:
        """Reads the policy's file and checks its arrays against the contract; BundleError says what does not fit."""
        return cls._read(data, contract, GOLDEN, latent=contract.sampler.needs_latent)

    @classmethod
    def of_student(cls, data: bytes, contract: Contract) -> GoldenCases:
        """The same of the file of the contract's student, which must have one."""
        assert contract.student is not None
        return cls._read(data, contract, STUDENT_GOLDEN, latent=contract.student.sampler.needs_latent)

    @classmethod
    def _read(cls, data: bytes, contract: Contract, name: str, *, latent: bool) -> GoldenCases:
        arrays = read_npz(data, name)
        n, m = contract.observation_size, contract.action.size
        wanted = {"observation": ("float32", n), "action_float64": ("float64", m), "action_float32": ("float32", m)}
        if latent:
            wanted["latent"] = ("float32", m)
        if set(arrays) != set(wanted):
            raise BundleError(f"{name} holds {', '.join(sorted(arrays))}; the contract needs {', '.join(sorted(wanted))}")
        cases = len(arrays["observation"])
        for field, (dtype, size) in wanted.items():
            array = arrays[field]
            if array.dtype != dtype or array.shape != (cases, size) or cases == 0:
                raise BundleError(
                    f"{name}: {field} is {array.dtype} {array.shape}; the contract needs {dtype} (cases, {size})"
                )
            if not bool(np.isfinite(array).all()):
                raise BundleError(f"{name}: {field} holds values that are not finite: export the run again")
        return cls(arrays["observation"], arrays.get("latent"), arrays["action_float64"], arrays["action_float32"])

    def for_engine(self, part: Contract | Student) -> Golden:
        """What the self-test of an engine takes: the float64 actions, and the tolerance of its graph's precision."""
        tolerance = TOLERANCES[part.graph.precision]
        return Golden(self.observation, self.latent, self.action_float64, tolerance)
