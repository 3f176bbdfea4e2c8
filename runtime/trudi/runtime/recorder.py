"""The flight recorder: the last minutes of a control loop in memory, and how they get into a file.

Two rings of rows, one a tick and one a message from the robot, and once a second a keyframe: everything that the controller
remembers. From a keyframe on, the rows hold all that went into it and all that came out, so `trudi replay` can compute the
flight again and compare it bit for bit.
"""

from __future__ import annotations

import collections
import io
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.controller import Controller, Outcome
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.recording import Channel, write_recording
from trudi.runtime.flight.ring import RowRing
from trudi.runtime.robots.base import RobotState
from trudi.runtime.supervisor import Event, FaultCode

TICKS, STATES, SHADOW = "ticks", "states", "shadow"
ABOUT: Final = "trudi"
KEYFRAME: Final = "keyframe_{:012d}.npz"
NO_EVENT, NO_FAULT, NEVER = -1, -1, -1
REJECTED: Final = {"malformed": 1, "layout": 2}
STATE_RATE_MARGIN: Final = 1.5


@dataclass(frozen=True)
class RecorderCfg:
    """What is kept."""

    seconds: float = 120.0
    """Time that the recorder looks back; s."""
    keyframe_s: float = 1.0
    """Time between keyframes; s."""

    def __post_init__(self) -> None:
        if not (0.0 < self.keyframe_s <= self.seconds < math.inf):
            raise TrudiRuntimeError(
                f"record for {self.seconds:g} s with a keyframe every {self.keyframe_s:g} s: both must be above 0, the "
                "latter the shorter"
            )


def tick_dtype(controller: Controller, stages: int) -> np.dtype[Any]:
    """A tick's row: what went in, what came out, how long it took."""
    contract = controller.contract
    m, n, drives = contract.action.size, contract.observation_size, len(controller.robot.drives)
    given = sum(len(command.element_names) for command in contract.commands)
    fields: list[tuple[Any, ...]] = [
        ("tick", "i8"),
        ("now_ns", "i8"),
        ("slot", "i8"),
        ("missed", "i8"),
        ("failure", "i4"),
        ("request", "i4"),
        ("stepped", "i4"),
        ("outcome", "i4"),
        ("output", "f4", (m,)),
        ("spread", "f8"),
        ("supervisor", "i4"),
        ("motors", "i4"),
        ("fault", "i4"),
        ("observation", "f4", (n,)),
        ("action", "f8", (m,)),
        ("target", "f8", (m,)),
        ("command", "f8", (5, drives)),
        ("stages_ns", "i8", (stages,)),
    ]
    if contract.sampler.needs_latent:
        fields.append(("latent", "f4", (m,)))
    if contract.commands:
        fields += [("given", "f8", (given,)), ("given_ns", "i8", (len(contract.commands),))]
    return np.dtype(fields)


def state_dtype(value_count: int) -> np.dtype[Any]:
    """The row of a message from the robot; `rejected` is 0 for a state."""
    fields = [("tick", "i8"), ("received_ns", "i8"), ("stamp_ns", "i8"), ("sequence", "i8"), ("rejected", "i4")]
    return np.dtype([*fields, ("values", "f8", (value_count,))])


def shadow_dtype(controller: Controller) -> np.dtype[Any]:
    """The row of a control step of the shadow: `tick` and `now_ns` are those of the tick that sent the other action."""
    m = controller.contract.action.size
    fields = [("tick", "i8"), ("now_ns", "i8"), ("outcome", "i4"), ("output", "f4", (m,)), ("difference", "f8", (m,))]
    return np.dtype([*fields, ("latency_ns", "i8")])


class FlightRecorder:
    """Keeps rows; one loop writes, and `save` may be called from any other thread while it does."""

    def __init__(self, cfg: RecorderCfg, about: dict[str, str], stages: int) -> None:
        self._cfg, self._about, self._stage_count = cfg, about, stages
        self._tick = self._now_ns = 0
        self._shadow: RowRing | None = None
        self._failure = NO_FAULT
        self._keyframe_ns = 0
        self._keyframes: collections.deque[tuple[int, dict[str, NDArray[Any]]]] = collections.deque(
            maxlen=max(2, math.ceil(cfg.seconds / cfg.keyframe_s) + 1)
        )

    def begin(self, controller: Controller, shadow: bool = False) -> None:
        """Makes the rings for this controller, every page of them; one of a shadow's rows where there is one."""
        robot, cfg = controller.robot, self._cfg
        self._ticks = RowRing(tick_dtype(controller, self._stage_count), round(cfg.seconds * controller.cfg.rate_hz) + 2)
        rate = STATE_RATE_MARGIN / robot.state_period_s
        self._states = RowRing(state_dtype(robot.value_count), round(cfg.seconds * rate) + 16)
        self._t, self._s = self._ticks.columns, self._states.columns
        if shadow:
            steps = round(cfg.seconds / controller.contract.control_period_s) + 2
            self._shadow = RowRing(shadow_dtype(controller), steps)
        self._about = {
            **self._about,
            **describe(controller),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self._keyframes.append((0, controller.memory()))

    def state(self, state: RobotState) -> None:
        """A state that the loop took."""
        i, s = self._states.claim(), self._s
        s["tick"][i], s["received_ns"][i], s["stamp_ns"][i] = self._tick, state.received_ns, state.stamp_ns
        s["sequence"][i], s["rejected"][i] = state.sequence, 0
        s["values"][i] = state.values
        self._states.commit()

    def rejected(self, kind: Literal["malformed", "layout"]) -> None:
        """A message that was no state."""
        i, s = self._states.claim(), self._s
        s["tick"][i], s["rejected"][i] = self._tick, REJECTED[kind]
        s["received_ns"][i] = s["stamp_ns"][i] = s["sequence"][i] = 0
        s["values"][i] = math.nan
        self._states.commit()

    def failure(self, code: FaultCode) -> None:
        """A tick that raised an error; the next row says so."""
        self._failure = int(code)

    def tick(
        self,
        controller: Controller,
        now_ns: int,
        slot: int,
        missed: int,
        request: Event | None,
        stepped: bool,
        outcome: Outcome,
        output: NDArray[np.float32] | None,
        spread: float,
        stages_ns: Sequence[int],
    ) -> None:
        """A whole tick, after its command was sent."""
        i, t, supervisor = self._ticks.claim(), self._t, controller.supervisor
        t["tick"][i], t["now_ns"][i], t["slot"][i], t["missed"][i] = self._tick, now_ns, slot, missed
        t["failure"][i], t["request"][i] = self._failure, NO_EVENT if request is None else request
        t["stepped"][i], t["outcome"][i], t["spread"][i] = stepped, outcome, spread
        t["output"][i] = 0.0 if output is None else output[0]
        t["supervisor"][i], t["motors"][i] = supervisor.state, supervisor.motors
        t["fault"][i] = NO_FAULT if supervisor.fault is None else supervisor.fault.violation.code
        t["observation"][i] = controller.observer.observation[0]
        t["action"][i], t["target"][i] = controller.action, controller.target
        t["command"][i] = controller.sent.values
        t["stages_ns"][i] = stages_ns
        if "latent" in t:
            t["latent"][i] = 0.0 if controller.latent is None else controller.latent[0]
        if "given" in t:
            self._given(controller, i)
        self._ticks.commit()
        self._tick, self._now_ns = self._tick + 1, now_ns
        due = now_ns - self._keyframe_ns >= self._cfg.keyframe_s * 1e9
        due = due or self._failure != NO_FAULT  # The tick that raised did more than any row says.
        self._failure = NO_FAULT
        if due and not controller.awaiting:  # Between question and answer there is more to remember than the controller's.
            self._keyframe_ns = now_ns
            self._keyframes.append((self._tick, controller.memory()))

    def shadow(self, outcome: int) -> int:
        """What became of the shadow in the control step that ended in the tick recorded last; a number for its result."""
        ring = self._shadow
        if ring is None:
            return 0
        i, s = ring.claim(), ring.columns
        s["tick"][i], s["now_ns"][i], s["outcome"][i] = self._tick - 1, self._now_ns, outcome
        s["output"][i], s["difference"][i], s["latency_ns"][i] = math.nan, math.nan, 0
        ring.commit()
        return ring.total

    def shadow_result(
        self, row: int, outcome: int, output: NDArray[np.float32], difference: NDArray[np.float64], latency_ns: int
    ) -> None:
        """The result that comes later: output (1, m), its difference (m,) from what was sent, and how long it took."""
        ring = self._shadow
        if ring is None or ring.total - row >= len(ring.array):
            return  # its row was overwritten meanwhile
        i, s = (row - 1) % len(ring.array), ring.columns
        s["output"][i], s["difference"][i], s["latency_ns"][i] = output[0], difference, latency_ns
        s["outcome"][i] = outcome

    def save(self, path: Path, event: str) -> Path:
        """Writes what is remembered to an MCAP file; `event` says why. RecordingError where that is not possible."""
        keyframes = list(self._keyframes)
        ticks = self._ticks.snapshot()
        states = self._states.snapshot()
        channels = {TICKS: Channel(ticks, "now_ns"), STATES: Channel(states, "received_ns")}
        if self._shadow is not None:
            channels[SHADOW] = Channel(self._shadow.snapshot(), "now_ns")
        about = {**self._about, "event": event, "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        return write_recording(
            path,
            channels,
            {ABOUT: about},
            {KEYFRAME.format(tick): _npz(memory) for tick, memory in _useful(keyframes, ticks, states)},
        )

    def _given(self, controller: Controller, i: int) -> None:
        start, given = 0, self._t["given"][i]
        for index, (values, at_ns) in enumerate(zip(controller.commands, controller.command_times_ns, strict=True)):
            given[start : start + len(values)] = values
            self._t["given_ns"][i, index] = NEVER if at_ns is None else at_ns
            start += len(values)


def _useful(
    keyframes: list[tuple[int, dict[str, NDArray[Any]]]], ticks: NDArray[Any], states: NDArray[Any]
) -> list[tuple[int, dict[str, NDArray[Any]]]]:
    """The keyframes behind which every row is still there."""
    if not len(ticks):
        return []
    first = int(ticks["tick"][0])
    if len(states) and (overwritten := int(states["tick"][0])) > 0:
        first = max(first, overwritten + 1)  # the states of that tick may have begun before the ring's oldest
    return [(tick, memory) for tick, memory in keyframes if first <= tick <= int(ticks["tick"][-1])]


def describe(controller: Controller) -> dict[str, str]:
    """What a controller is made of beside its bundle, and what computes it: what a replay must know, as texts."""
    return {
        "robot": controller.robot.model_dump_json(),
        "site_file": controller.file.model_dump_json(),
        "controller": json.dumps(asdict(controller.cfg)),
        "trudi": version_of("trudi"),
        "machine": machine(),
    }


def machine() -> str:
    """What computes, in words: processor, system, Python and numpy."""
    return f"{platform.machine()} {platform.system()} Python {platform.python_version()} numpy {np.__version__}"


def version_of(package: str) -> str:
    """Of an installed package; a word where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _npz(memory: dict[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **memory)
    return buffer.getvalue()
