"""A recorded flight computed again: the same states, commands, requests and times, through the same bundle, tick by tick."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.bundle import Bundle
from trudi.runtime.controller import Controller, ControllerCfg, Outcome
from trudi.runtime.engines.base import Engine
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.recording import Recording, RecordingError, read_recording
from trudi.runtime.npz import read_npz
from trudi.runtime.recorder import (
    ABOUT,
    KEYFRAME,
    NEVER,
    NO_EVENT,
    NO_FAULT,
    REJECTED,
    STATES,
    TICKS,
    machine,
    state_dtype,
    tick_dtype,
    version_of,
)
from trudi.runtime.robots.base import RobotDescription, RobotState
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event, FaultCode, Violation

COMPARED = ("stepped", "observation", "output", "action", "target", "command", "supervisor", "motors", "fault")
"""Fields that must come out the same, to the last bit."""


@dataclass(frozen=True)
class Difference:
    """A field of a tick that came out otherwise."""

    tick: int
    field: str
    recorded: str
    computed: str
    largest: float
    """Largest absolute difference; NaN where one is no number."""


@dataclass(frozen=True)
class Replay:
    """What a replay showed."""

    ticks: int
    """Ticks computed again."""
    steps: int
    """Control steps among them, each through the engine."""
    seconds: float
    """Flight time they span; s."""
    skipped: int
    """Ticks before the first keyframe, and the one behind each error of the loop's own, where another one is."""
    differences: int
    """Fields of ticks that differ."""
    first: tuple[Difference, ...]
    """The first of them."""
    fault: str
    """The fault that the flight ended with, computed again; empty where there was none."""
    note: str = ""
    """What was another machine or engine than in flight, and may give other last digits; empty where nothing was."""

    @property
    def identical(self) -> bool:
        """Whether every bit is the same."""
        return self.differences == 0 and self.ticks > 0


class _Recorded:
    """Gives the controller the latents that were drawn in flight."""

    def __init__(self) -> None:
        self.latent: NDArray[np.float32] | None = None

    def next(self, batch: int = 1) -> NDArray[np.float32] | None:
        del batch
        return self.latent


def replay(path: Path, bundle: Bundle, teacher: Engine, student: Engine | None) -> Replay:
    """Computes the flight in `path` again. RecordingError where the file is none of this bundle's flights."""
    recording = read_recording(path)
    controller = _controller(path, recording, bundle)
    ticks, states = _rows(path, recording, controller)
    start = _first_keyframe(path, recording)
    _restore(controller, path, recording, start)
    latents = controller.latents = _Recorded()
    player = _Player(controller, teacher, student)
    place = int(np.searchsorted(states["tick"], start))
    rows = ticks[int(np.searchsorted(ticks["tick"], start)) :]
    if not len(rows):
        raise RecordingError(f"{path}: no tick follows its first keyframe; record for at least two seconds")
    for row in rows:
        if "latent" in (rows.dtype.names or ()):
            latents.latent = row["latent"][None]
        resumed = row["failure"] != NO_FAULT and KEYFRAME.format(row["tick"] + 1) in recording.attachments
        end = place
        while end < len(states) and states["tick"][end] <= row["tick"]:
            end += 1
        player.tick(row, states[place:end], compared=not resumed)
        place = end
        if resumed:
            _restore(controller, path, recording, int(row["tick"]) + 1)
    fault = controller.supervisor.fault
    return Replay(
        ticks=player.ticks,
        steps=player.steps,
        seconds=float(rows["now_ns"][-1] - rows["now_ns"][0]) * 1e-9,
        skipped=len(ticks) - player.ticks,
        differences=player.differences,
        first=tuple(player.first),
        fault="" if fault is None else str(fault),
        note=_other(recording.metadata[ABOUT], teacher),
    )


class _Player:
    """Feeds rows to a controller and compares."""

    def __init__(self, controller: Controller, teacher: Engine, student: Engine | None) -> None:
        self._controller, self._teacher, self._student = controller, teacher, student
        self._state = RobotState.zeros(controller.robot)
        self._observation = np.zeros((1, teacher.observation_size), np.float32)
        self._latent: NDArray[np.float32] | None = None
        self.ticks = self.steps = self.differences = 0
        self.first: list[Difference] = []

    def tick(self, row: Any, states: NDArray[Any], *, compared: bool) -> None:
        """One row. The controller goes on with the answer that was flown, so that an engine which erred is found alone."""
        controller, now_ns = self._controller, int(row["now_ns"])
        for message in states:
            self._receive(message)
        if row["failure"] != NO_FAULT:
            controller.fail(Violation(FaultCode(int(row["failure"])), "the loop failed", math.nan, math.nan), now_ns)
        self._give(row)
        if row["request"] != NO_EVENT:
            controller.request(Event(int(row["request"])), now_ns)
        stepped = controller.begin(now_ns, int(row["slot"]), int(row["missed"]))
        if stepped:
            self._observation[:] = controller.observer.observation
            self._latent = None if controller.latent is None else controller.latent.copy()
        outcome = Outcome(int(row["outcome"]))
        output = self._compute(outcome)
        flown = row["output"][None] if output is not None else None
        controller.finish(now_ns, outcome, flown, float(row["spread"]))
        if compared:
            self.ticks += 1
            self._compare(row, stepped, output)

    def _receive(self, message: Any) -> None:
        if message["rejected"]:
            kind = "malformed" if message["rejected"] == REJECTED["malformed"] else "layout"
            self._controller.reject(kind, "a message that was no state")
            return
        state = self._state
        state.values[:] = message["values"]
        state.stamp_ns, state.received_ns = int(message["stamp_ns"]), int(message["received_ns"])
        state.sequence = int(message["sequence"])
        self._controller.receive(state)

    def _give(self, row: Any) -> None:
        start = 0
        for index, values in enumerate(self._controller.commands):
            at_ns = int(row["given_ns"][index])
            if at_ns != NEVER:
                self._controller.command(index, row["given"][start : start + len(values)].tolist(), at_ns)
            start += len(values)

    def _compute(self, outcome: Outcome) -> NDArray[np.float32] | None:
        if outcome not in (Outcome.TEACHER, Outcome.STUDENT):
            return None
        engine = self._teacher if outcome is Outcome.TEACHER else self._student
        if engine is None:
            raise TrudiRuntimeError("the flight used the bundle's student, and this bundle has none")
        self.steps += 1
        return engine.infer(self._observation, self._latent if engine.takes_latent else None)

    def _compare(self, row: Any, stepped: bool, output: NDArray[np.float32] | None) -> None:
        controller = self._controller
        supervisor = controller.supervisor
        computed: dict[str, Any] = {
            "stepped": stepped,
            "observation": controller.observer.observation[0],
            "output": np.zeros_like(row["output"]) if output is None else output[0],
            "action": controller.action,
            "target": controller.target,
            "command": controller.sent.values,
            "supervisor": supervisor.state,
            "motors": supervisor.motors,
            "fault": NO_FAULT if supervisor.fault is None else supervisor.fault.violation.code,
        }
        for name in COMPARED:
            if name == "observation" and not stepped:
                continue  # left over from an earlier control step, perhaps of before the keyframe
            recorded = np.asarray(row[name])
            mine = np.asarray(computed[name]).astype(recorded.dtype)
            if recorded.tobytes() != mine.tobytes():
                self._differ(int(row["tick"]), name, recorded, mine)

    def _differ(self, tick: int, name: str, recorded: NDArray[Any], computed: NDArray[Any]) -> None:
        self.differences += 1
        if len(self.first) < 10:
            distance = np.abs(recorded.astype(float) - computed.astype(float)).ravel()
            index = int(np.nanargmax(distance)) if np.isfinite(distance).any() else 0
            shown = [repr(array.ravel()[index].item()) for array in (recorded, computed)]
            where = f"{name}[{index}]" if distance.size > 1 else name
            self.first.append(Difference(tick, where, shown[0], shown[1], float(distance[index])))


def _controller(path: Path, recording: Recording, bundle: Bundle) -> Controller:
    about = recording.metadata.get(ABOUT)
    if about is None or not {"bundle", "robot", "site_file", "controller"} <= about.keys():
        raise RecordingError(f"{path} is no flight of `trudi run`: its metadata lack what a replay needs")
    if about["bundle"] != bundle.digest:
        raise RecordingError(
            f"{path} was flown with the bundle {about['bundle'][:16]}..., this one is {bundle.digest[:16]}...: "
            "give the bundle that was flown"
        )
    try:
        robot = RobotDescription.model_validate_json(about["robot"])
        file = SiteFile.model_validate_json(about["site_file"])
        cfg = ControllerCfg(**json.loads(about["controller"]))
    except (ValueError, TypeError) as error:
        raise RecordingError(f"{path}: its description of the flight is damaged: {error}") from None
    return Controller(bundle.contract, robot, file, cfg)


def _rows(path: Path, recording: Recording, controller: Controller) -> tuple[NDArray[Any], NDArray[Any]]:
    ticks, states = recording.channels.get(TICKS), recording.channels.get(STATES)
    if ticks is None or states is None or not len(ticks):
        raise RecordingError(f"{path} holds no ticks: nothing was recorded")
    stages = ticks.dtype["stages_ns"].shape[0] if "stages_ns" in (ticks.dtype.names or ()) else 0
    wanted = (tick_dtype(controller, stages), state_dtype(controller.robot.value_count))
    for name, rows, dtype in ((TICKS, ticks, wanted[0]), (STATES, states, wanted[1])):
        if rows.dtype != dtype:
            raise RecordingError(f"{path}: the rows of {name} are of another TruDi or another bundle")
    return ticks, states


def _restore(controller: Controller, path: Path, recording: Recording, tick: int) -> None:
    memory = read_npz(recording.attachments[KEYFRAME.format(tick)], f"{path}: keyframe")
    try:
        controller.restore(memory)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise RecordingError(f"{path}: its keyframes are of another TruDi or another bundle ({error!r})") from None


def _first_keyframe(path: Path, recording: Recording) -> int:
    prefix, _, suffix = KEYFRAME.partition("{:012d}")
    names = [name for name in recording.attachments if name.startswith(prefix) and name.endswith(suffix)]
    if not names:
        raise RecordingError(f"{path} holds no keyframe to start from; record for at least two seconds")
    return min(int(name[len(prefix) : -len(suffix)]) for name in names)


def _other(about: dict[str, str], engine: Engine) -> str:
    pairs = (("engine", engine.info.described), ("machine", machine()), ("trudi", version_of("trudi")))
    return "; ".join(f"{name}: flown {about.get(name)}, here {here}" for name, here in pairs if about.get(name) != here)
