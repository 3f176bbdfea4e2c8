"""A recorded flight computed again: the same states, commands, requests and times, through the same bundle, tick by tick."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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
    SHADOW,
    STATES,
    TICKS,
    machine,
    shadow_dtype,
    state_dtype,
    tick_dtype,
    version_of,
)
from trudi.runtime.robots.base import RobotDescription, RobotState
from trudi.runtime.shadow import ShadowOutcome
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event, FaultCode, Violation

COMPARED = ("stepped", "observation", "output", "action", "target", "command", "supervisor", "motors", "fault")
"""Fields that must come out the same, to the last bit."""
NEEDED = frozenset({"bundle", "robot", "site_file", "controller"})
"""What a replay must know of a flight."""
MAX_SHOWN = 10
"""Differences that are kept."""


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
    shadows: int
    """Control steps in which the policy that rode along was computed again."""
    fault: str
    """The fault that the flight ended with, computed again; empty where there was none."""
    note: str = ""
    """What was another machine or engine than in flight, and may give other last digits; empty where nothing was."""

    @property
    def identical(self) -> bool:
        """Whether every bit is the same."""
        return self.differences == 0 and self.ticks > 0


def replay(path: Path, bundle: Bundle, teacher: Engine, student: Engine | None) -> Replay:
    """Computes the flight in `path` again. RecordingError where the file is none of this bundle's flights."""
    recording = read_recording(path)
    about = recording.metadata.get(ABOUT)
    if about is None or not about.keys() >= NEEDED:
        raise RecordingError(f"{path} is no flight of `trudi run`: its metadata lack what a replay needs")
    controller = rebuild_controller(about, bundle, str(path))
    ticks, states = _rows(path, recording, controller)
    start = _first_keyframe(path, recording)
    _restore(controller, path, recording, start)
    latents = controller.latents = GivenLatents()
    player = Player(controller, teacher, student)
    flight = _Flight(player)
    shadow = _Shadow(path, recording, {"teacher": teacher, "student": student}.get(about.get("shadow", "")), flight)
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
        flight.tick(row, states[place:end], compared=not resumed)
        if not resumed:
            shadow.tick(row)
        place = end
        if resumed:
            _restore(controller, path, recording, int(row["tick"]) + 1)
    fault = controller.supervisor.fault
    return Replay(
        ticks=flight.ticks,
        steps=player.steps,
        seconds=float(rows["now_ns"][-1] - rows["now_ns"][0]) * 1e-9,
        skipped=len(ticks) - flight.ticks,
        shadows=shadow.steps,
        differences=flight.comparison.differences,
        first=tuple(flight.comparison.first),
        fault="" if fault is None else str(fault),
        note=what_was_other(about, teacher),
    )


@dataclass(frozen=True)
class Inputs:
    """What went into a tick beside the robot's states, and what became of the action."""

    now_ns: int
    slot: int
    missed: int
    failure: FaultCode | None
    """A fault that the controller did not find by itself."""
    given: Sequence[tuple[int | None, Sequence[float]]]
    """Of each of the policy's commands when it was given, None for never, and its values."""
    request: Event | None
    outcome: Outcome
    spread: float


class GivenLatents:
    """Gives the controller the latents that were drawn in flight."""

    def __init__(self) -> None:
        self.latent: NDArray[np.float32] | None = None

    def next(self, batch: int = 1) -> NDArray[np.float32] | None:
        del batch
        return self.latent


class Player:
    """Gives a controller one recorded tick after the other, and asks the graph again."""

    def __init__(self, controller: Controller, teacher: Engine, student: Engine | None) -> None:
        self.controller, self._teacher, self._student = controller, teacher, student
        self._observation = np.zeros((1, teacher.observation_size), np.float32)
        self._latent: NDArray[np.float32] | None = None
        self.steps = 0
        """Times that the graph was asked."""

    def tick(self, inputs: Inputs, flown: NDArray[np.float32] | None = None) -> tuple[bool, NDArray[np.float32] | None]:
        """One tick, its states received: whether a control step began, and the graph's output, (1, m) or None.

        Where the answer that was `flown` is known, the controller goes on with it, so that an engine which erred is found
        alone.
        """
        controller, now_ns = self.controller, inputs.now_ns
        if inputs.failure is not None:
            cause = f"{inputs.failure.name}, which came to the controller from outside"
            controller.fail(Violation(inputs.failure, cause, math.nan, math.nan), now_ns)
        for index, (at_ns, values) in enumerate(inputs.given):
            if at_ns is not None:
                controller.command(index, values, at_ns)
        if inputs.request is not None:
            controller.request(inputs.request, now_ns)
        stepped = controller.begin(now_ns, inputs.slot, inputs.missed)
        if stepped:
            self._observation[:] = controller.observer.observation
            self._latent = None if controller.latent is None else controller.latent.copy()
        output = self._compute(inputs.outcome)
        controller.finish(now_ns, inputs.outcome, output if output is None or flown is None else flown, inputs.spread)
        return stepped, output

    def ask(self, engine: Engine) -> NDArray[np.float32]:
        """What an engine makes of the observation and latent of the control step begun last, (1, m)."""
        return engine.infer(self._observation, self._latent if engine.takes_latent else None)

    def _compute(self, outcome: Outcome) -> NDArray[np.float32] | None:
        if outcome not in (Outcome.TEACHER, Outcome.STUDENT):
            return None
        engine = self._teacher if outcome is Outcome.TEACHER else self._student
        if engine is None:
            raise TrudiRuntimeError("the flight used the bundle's student, and this bundle has none")
        self.steps += 1
        return self.ask(engine)


class Comparison:
    """Counts what came out otherwise, and keeps the first of it."""

    def __init__(self) -> None:
        self.differences = 0
        self.first: list[Difference] = []

    def field(self, tick: int, name: str, recorded: NDArray[Any], computed: NDArray[Any]) -> None:
        """Two arrays that must be the same to the last bit, numbers of the same type."""
        if recorded.tobytes() == computed.tobytes():
            return
        if recorded.shape != computed.shape:
            self.differ(tick, name, f"{recorded.size} numbers", f"{computed.size} numbers")
            return
        distance = np.abs(recorded.astype(float) - computed.astype(float)).ravel()
        index = int(np.nanargmax(distance)) if np.isfinite(distance).any() else 0
        flown, mine = (repr(array.ravel()[index].item()) for array in (recorded, computed))
        self.differ(tick, f"{name}[{index}]" if distance.size > 1 else name, flown, mine, float(distance[index]))

    def differ(self, tick: int, name: str, recorded: str, computed: str, largest: float = math.nan) -> None:
        """Takes note of a field that differs."""
        self.differences += 1
        if len(self.first) < MAX_SHOWN:
            self.first.append(Difference(tick, name, recorded, computed, largest))


class _Flight:
    """The rows of a flight recording, given to a player and compared."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self._state = RobotState.zeros(player.controller.robot)
        self.comparison = Comparison()
        self.ticks = 0

    def tick(self, row: Any, states: NDArray[Any], *, compared: bool) -> None:
        """One row, and the messages that came since the last."""
        for message in states:
            self._receive(message)
        inputs = Inputs(
            now_ns=int(row["now_ns"]),
            slot=int(row["slot"]),
            missed=int(row["missed"]),
            failure=None if row["failure"] == NO_FAULT else FaultCode(int(row["failure"])),
            given=self._given(row),
            request=None if row["request"] == NO_EVENT else Event(int(row["request"])),
            outcome=Outcome(int(row["outcome"])),
            spread=float(row["spread"]),
        )
        stepped, output = self.player.tick(inputs, row["output"][None])
        if compared:
            self.ticks += 1
            self._compare(row, stepped, output)

    def _receive(self, message: Any) -> None:
        controller = self.player.controller
        if message["rejected"]:
            kind = "malformed" if message["rejected"] == REJECTED["malformed"] else "layout"
            controller.reject(kind, "a message that was no state")
            return
        state = self._state
        state.values[:] = message["values"]
        state.stamp_ns, state.received_ns = int(message["stamp_ns"]), int(message["received_ns"])
        state.sequence = int(message["sequence"])
        controller.receive(state)

    def _given(self, row: Any) -> list[tuple[int | None, Sequence[float]]]:
        given: list[tuple[int | None, Sequence[float]]] = []
        start = 0
        for index, values in enumerate(self.player.controller.commands):
            at_ns, end = int(row["given_ns"][index]), start + len(values)
            given.append((None if at_ns == NEVER else at_ns, row["given"][start:end].tolist()))
            start = end
        return given

    def _compare(self, row: Any, stepped: bool, output: NDArray[np.float32] | None) -> None:
        controller = self.player.controller
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
            self.comparison.field(int(row["tick"]), name, recorded, np.asarray(computed[name]).astype(recorded.dtype))


class _Shadow:
    """The policy that rode along: its recorded actions, and their differences from what was sent, computed again."""

    def __init__(self, path: Path, recording: Recording, engine: Engine | None, flight: _Flight) -> None:
        self._engine, self._flight, self.steps = engine, flight, 0
        self._rows: dict[int, Any] = {}
        rows = recording.channels.get(SHADOW)
        if rows is None:
            return
        if rows.dtype != shadow_dtype(flight.player.controller):
            raise RecordingError(f"{path}: the rows of {SHADOW} are of another TruDi or another bundle")
        self._rows = {int(row["tick"]): row for row in rows if row["outcome"] == ShadowOutcome.COMPARED}
        if self._rows and engine is None:
            raise RecordingError(f"{path} has the actions of a shadow, and does not say of which policy of this bundle")

    def tick(self, row: Any) -> None:
        """Of a tick that was computed again just now."""
        recorded = self._rows.get(int(row["tick"]))
        if recorded is None or self._engine is None:
            return
        self.steps += 1
        controller, comparison = self._flight.player.controller, self._flight.comparison
        output = self._flight.player.ask(self._engine)
        away, sent = np.zeros(controller.contract.action.size), np.zeros(controller.contract.action.size)
        controller.unscaled(output, away)
        controller.unscaled(row["output"][None], sent)
        away -= sent
        comparison.field(int(row["tick"]), SHADOW, recorded["output"], output[0])
        comparison.field(int(row["tick"]), f"{SHADOW}_difference", recorded["difference"], away)


def rebuild_controller(about: Mapping[str, str], bundle: Bundle, source: str) -> Controller:
    """The controller that `source` was flown with, of which `about` has what is `NEEDED`.

    RecordingError where that was another bundle, or `about` is damaged.
    """
    if about["bundle"] != bundle.digest:
        raise RecordingError(
            f"{source} was flown with the bundle {about['bundle'][:16]}..., this one is {bundle.digest[:16]}...: "
            "give the bundle that was flown"
        )
    try:
        robot = RobotDescription.model_validate_json(about["robot"])
        file = SiteFile.model_validate_json(about["site_file"])
        cfg = ControllerCfg(**json.loads(about["controller"]))
    except (ValueError, TypeError) as error:
        raise RecordingError(f"{source}: its description of the flight is damaged: {error}") from None
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


def what_was_other(about: Mapping[str, str], engine: Engine) -> str:
    """What computes otherwise here than in flight, and may give other last digits; empty where nothing does."""
    pairs = (("engine", engine.info.described), ("machine", machine()), ("trudi", version_of("trudi")))
    return "; ".join(f"{name}: flown {about.get(name)}, here {here}" for name, here in pairs if about.get(name) != here)
