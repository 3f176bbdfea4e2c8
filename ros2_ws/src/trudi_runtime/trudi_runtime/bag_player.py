"""The runs of a bag computed again, tick by tick, and what they commanded compared to the last bit. Without rclpy.

A replay begins where the robot is at rest: with the first tick of a run, or in INACTIVE or STANDBY, and compares once it
knows as many states as the policy's terms look back on. Behind a message that is missing it begins again, in the same way:
what lies between cannot be judged, since the controller that flew knew more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.bundle import Bundle
from trudi.runtime.engines.base import Engine
from trudi.runtime.latents import LatentSource
from trudi.runtime.replay import (
    MAX_SHOWN,
    Comparison,
    GivenLatents,
    Inputs,
    Player,
    rebuild_controller,
    what_was_other,
)
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.supervisor import Event, Motors
from trudi_runtime.about import COMMANDS, GAINS
from trudi_runtime.bag_flight import Lacking, Run, SentCommand, StateBuilder, as_sent, read_runs
from trudi_runtime.bags import Bag, BagError
from trudi_runtime.ticks import TickRow

EDGE_NS = 50_000_000
"""At a bag's end: what is missing there was still on its way when the recorder ended; ns."""
QUIET_TICKS = 3
"""Ticks in a row without a command: none is missing, the runtime is INACTIVE."""


@dataclass(frozen=True)
class Missing:
    """What the bag lacks."""

    tick: int
    """Slot of the tick that it belongs to; of lost ticks, of the next one there is."""
    topic: str
    stamp_ns: int = 0
    """In its header, ROS time; 0 where it has none."""
    count: int = 1
    """Messages."""

    def __str__(self) -> str:
        many = f"{self.count} messages" if self.count > 1 else "a message"
        stamp = f" stamped {self.stamp_ns // 10**9}.{self.stamp_ns % 10**9:09d}" if self.stamp_ns else ""
        return f"{many} on {self.topic}{stamp}"


@dataclass
class BagReplay:
    """What a replay has shown."""

    runs: int = 0
    """Times that the runtime was configured."""
    ticks: int = 0
    """Ticks computed again and compared."""
    steps: int = 0
    """Control steps, each through the engine."""
    commands: int = 0
    """Messages on joint_commands that were compared."""
    seconds: float = 0.0
    """Flight time of the ticks; s."""
    skipped: int = 0
    """Ticks before the replay could begin, and at the end of the bag, which has the last ones only in part."""
    unjudged: int = 0
    """Ticks behind something missing, until the robot was at rest again."""
    exact_ticks: int = 0
    """Compared ticks before the first difference or missing message."""
    exact_s: float = 0.0
    """Flight time of these; s."""
    missing: list[Missing] = field(default_factory=list[Missing])
    fault: str = ""
    """The last run's at its end, computed again; empty where there was none."""
    notes: list[str] = field(default_factory=list[str])
    """What was other than in flight, or is not known."""
    comparison: Comparison = field(default_factory=Comparison)

    @property
    def identical(self) -> bool:
        """Whether nothing is missing and every bit is the same."""
        return self.ticks > 0 and self.flawless

    @property
    def flawless(self) -> bool:
        """Whether nothing has differed or been missing so far."""
        return not (self.comparison.differences or self.missing)

    def to_json(self) -> dict[str, Any]:
        """For a machine; of what is missing or differs the first few."""
        plain = {name: value for name, value in vars(self).items() if name != "comparison"}
        return plain | {
            "identical": self.identical,
            "differences": self.comparison.differences,
            "first": [asdict(one) for one in self.comparison.first],
            "missing_count": len(self.missing),
            "missing": [asdict(one) for one in self.missing[:MAX_SHOWN]],
        }


def replay(path: Path, bundle: Bundle, teacher: Engine, student: Engine | None, runtime: str | None = None) -> BagReplay:
    """Computes the bag in `path` again. BagError or RecordingError where it is no bag of this bundle's flights."""
    result = BagReplay()
    with Bag(path) as bag:
        runs = read_runs(bag, runtime)
        result.notes += [bag.damage] * bool(bag.damage)
    mine = [run for run in runs if run.about.flight["bundle"] == bundle.digest] or runs
    if len(mine) < len(runs):
        result.notes.append(f"{len(runs) - len(mine)} runs of other bundles are left out")
    if other := what_was_other(mine[-1].about.flight, teacher):
        result.notes.append(other)
    for run in mine:
        if run.about.command_form != "joint_state":
            raise BagError(
                f"{path}: commands were sent in the form {run.about.command_form}, which says neither when nor in which "
                "state; fly with command_form:=joint_state, or record flights with record_dir"
            )
        _Play(result, run, run is mine[-1], bundle, (teacher, student), str(path)).all()
    if not result.ticks:
        raise BagError(
            f"{path}: nothing of it can be computed again: in none of its {sum(len(run.rows) for run in mine)} ticks is the "
            "robot at rest with its states in the bag; start record_bag before the runtime"
        )
    return result


class _Edge(Exception):
    """From here on the bag is not whole, because it ends."""


class _Play:
    """One run, while it is computed."""

    def __init__(
        self,
        result: BagReplay,
        run: Run,
        last: bool,
        bundle: Bundle,
        engines: tuple[Engine, Engine | None],
        source: str,
    ) -> None:
        """RecordingError where `bundle` is not the one that was flown."""
        self._result, self._run, self._last = result, run, last
        self._bundle, self._engines, self._path = bundle, engines, source
        self._player = self._fresh()
        contract, robot = bundle.contract, self._player.controller.robot
        self._states = StateBuilder(run, robot)
        self._source, self._latents = LatentSource(contract.sampler, contract.action.size), GivenLatents()
        self._counted = contract.sampler.noise == "seeded"
        """Whether a latent depends on how many were drawn before."""
        self._late = run.rows[0].slot != run.rows[0].missed
        """Whether ticks were before the bag began."""
        self._begun = self._settled = self._judged = self._interrupted = self._uncounted = self._cut = False
        self._gains: list[tuple[int, NDArray[np.float64]]] = []
        """Computed: slot, and what was sent."""

    def all(self) -> None:
        """Every tick."""
        result, rows = self._result, self._run.rows
        result.runs += 1
        for place, row in enumerate(rows):
            try:
                self._tick(place, row)
            except _Edge:
                self._cut = True
                result.skipped += len(rows) - place
                break
        self._compare_gains()
        fault = self._player.controller.supervisor.fault if self._begun else None
        result.fault = "" if fault is None else str(fault)
        if self._late and self._counted and self._judged:
            result.notes.append("the bag begins after configuring: latents are drawn as if the policy had not yet run")

    def _fresh(self) -> Player:
        """A controller as configuring makes it."""
        controller = rebuild_controller(self._run.about.flight, self._bundle, self._path)
        controller.request(Event.CONFIGURE, 0)
        return Player(controller, *self._engines)

    def _tick(self, place: int, row: TickRow) -> None:
        sent = self._run.command(place)
        if place:
            self._look_for_lost(place, row)
        if not self._begun:
            self._begin(place, sent)
        if self._begun and self._feed(row):
            self._compute(place, row, sent)
        else:
            self._leave_out()

    def _look_for_lost(self, place: int, row: TickRow) -> None:
        """Ticks between this one and the last one there is: lost on their way, or ended by an error of the loop's own."""
        if lost := row.slot - self._run.rows[place - 1].slot - 1 - row.missed:
            around = self._run.command(place - 1), self._run.command(place)
            flying = any(command is not None and command.state == State.ACTIVE.name for command in around)
            self._uncounted |= self._counted and flying
            self._lack(row, Missing(row.slot, self._run.ticks, count=lost))

    # Beginning, and beginning again.

    def _begin(self, place: int, sent: SentCommand | None) -> None:
        """Begins with this tick, where it shows what the supervisor's state is."""
        run, first = self._run, place == 0 and not self._late
        if not first:
            ahead = range(place, min(place + QUIET_TICKS, len(run.rows)))
            quiet = all(run.command(other) is None for other in ahead)
            if self._uncounted or not (quiet or (sent is not None and sent.state == State.STANDBY.name)):
                return
        self._player = self._fresh()
        self._player.controller.latents = self._latents
        if not first and sent is not None:
            supervisor = self._player.controller.supervisor
            supervisor.state, supervisor.motors = State.STANDBY, Motors.DAMP
        self._begun, self._settled = True, first

    def _lack(self, row: TickRow, missing: Missing) -> None:
        """The controller knows less than the one that flew. _Edge where the bag ends anyway."""
        if self._at_edge(row):
            raise _Edge
        if self._judged:
            self._result.missing.append(missing)
            self._interrupted = True
        self._begun = False

    def _leave_out(self) -> None:
        if self._judged:
            self._result.unjudged += 1
        else:
            self._result.skipped += 1

    def _at_edge(self, row: TickRow) -> bool:
        return self._last and self._run.rows[-1].now_ns - row.now_ns < EDGE_NS

    # A tick.

    def _feed(self, row: TickRow) -> bool:
        """Gives the controller the states that the tick took; False where one of them is not in the bag."""
        controller = self._player.controller
        if [len(values) for _, values in row.commands] != [len(values) for values in controller.commands]:
            raise BagError(
                f"{self._path}: tick {row.slot} has other commands than the policy takes: it is of another bundle"
            )
        for taken in row.states:
            if taken.kind != "state":
                controller.reject("malformed" if taken.kind == "malformed" else "layout", "a message that was no state")
                continue
            try:
                controller.receive(self._states.build(taken))
            except Lacking as lacking:
                self._lack(row, Missing(row.slot, lacking.topic, lacking.stamp_ns))
                return False
        return True

    def _compute(self, place: int, row: TickRow, sent: SentCommand | None) -> None:
        controller = self._player.controller
        sends = controller.supervisor.motors is not Motors.NOTHING  # the last command before silence damps
        if row.stepped:
            self._latents.latent = self._source.next()
            self._result.steps += 1
        stepped, _ = self._player.tick(_inputs(row))
        sends |= controller.supervisor.motors is not Motors.NOTHING
        if sends:
            self._note_gains(row)
        if not self._settled:
            self._settled = controller.states.count >= controller.states.depth
            self._leave_out()
        elif sends and sent is None and self._at_edge(row):
            raise _Edge
        else:
            self._compare(place, row, sent, stepped, sends)

    def _compare(self, place: int, row: TickRow, sent: SentCommand | None, stepped: bool, sends: bool) -> None:
        result, comparison = self._result, self._result.comparison
        self._judged = True
        if stepped != row.stepped:
            comparison.differ(row.slot, "stepped", str(row.stepped), str(stepped))
        if sends != self._run.sends(place) and place:
            said = f"one in {self._player.controller.supervisor.state.name}"
            comparison.differ(row.slot, "command", *(("none", said) if sends else ("one", "none")))
        elif sends and sent is None:
            result.missing.append(Missing(row.slot, self._run.about.topics[COMMANDS], self._run.sent_ns(place)))
        elif sends and sent is not None:
            self._compare_command(row, sent)
        before = self._run.rows[place - 1] if place else row
        seconds = (row.now_ns - before.now_ns) * 1e-9
        result.ticks += 1
        result.seconds += seconds
        if result.flawless:
            result.exact_ticks += 1
            result.exact_s += seconds

    def _compare_command(self, row: TickRow, sent: SentCommand) -> None:
        controller, comparison = self._player.controller, self._result.comparison
        self._result.commands += 1
        if sent.state != (state := controller.supervisor.state.name):
            comparison.differ(row.slot, "state", sent.state, state)
        computed = as_sent(controller.sent, controller.robot.pd)
        recorded = sent.position, sent.velocity, sent.effort
        for name, flown, mine in zip(("position", "velocity", "effort"), recorded, computed, strict=True):
            comparison.field(row.slot, name, flown, mine)

    def _note_gains(self, row: TickRow) -> None:
        """Gains are sent where they differ from those sent last; behind an interruption nobody knows those."""
        controller = self._player.controller
        gains = controller.sent.values[3:].ravel()
        last = self._gains[-1][1] if self._gains else None
        if controller.robot.pd and not self._interrupted and (last is None or not np.array_equal(gains, last)):
            self._gains.append((row.slot, gains.copy()))

    def _compare_gains(self) -> None:
        """One after the other, since they carry no stamp."""
        result, computed, recorded = self._result, self._gains, self._run.gains
        spare = len(recorded) - len(computed)
        first = 0
        if self._late:  # those of before the replay began are in the bag, too
            fits = (place for place in range(spare + 1) if all(map(_same, computed, recorded[place:])))
            first = next(fits, max(spare, 0))
        for (slot, mine), flown in zip(computed, recorded[first:], strict=False):
            result.comparison.field(slot, "gains", flown, mine)
        if spare < 0:
            slot = computed[spare][0]
            result.missing.append(Missing(slot, self._run.about.topics[GAINS], count=-spare))
        elif spare and self._judged and not (self._late or self._interrupted or self._cut):
            slot, said = self._run.rows[-1].slot, (f"sent {len(recorded)} times", f"{len(computed)} times")
            result.comparison.differ(slot, "gains", *said)


def _same(computed: tuple[int, NDArray[np.float64]], recorded: NDArray[np.float64]) -> bool:
    return computed[1].tobytes() == recorded.tobytes()


def _inputs(row: TickRow) -> Inputs:
    return Inputs(row.now_ns, row.slot, row.missed, row.stopped, row.commands, row.request, row.outcome, row.spread)
