"""The controller under random states, requests, outcomes and missed slots: whatever happens, what is sent is safe.

Each tick is judged by what went in and what can be seen of it, and run a second time by a controller that was restored from
the first one's memory at some earlier tick.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from bundles import go1_values
from control import MS, Bench, go1_robot, state_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from trudi.runtime.controller import MOVING, Outcome
from trudi.runtime.npz import read_npz
from trudi.runtime.recorder import _npz
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.checker import is_safe
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import ALWAYS_DAMP, Event, FaultCode, Motors, Violation

GOOD = ("good", "frozen", "none")
BAD_VALUES = {
    "nan": ("joint_velocity", 3, math.nan),
    "inf": ("angular_velocity", 1, math.inf),
    "position": ("joint_position", 4, 4.501 + 0.11),
    "velocity": ("joint_velocity", 5, -30.2),
    "effort": ("joint_effort", 6, 23.7 * 1.06),
    "long": ("quaternion_xyzw", 3, 1.06),
}
PENDING = ("malformed", "layout", "future", "backwards")
KINDS = (*GOOD, *BAD_VALUES, "tilted", *PENDING)
OPERATOR = [None, *(event for event in Event if event is not Event.FAULT)]
NAN_OUTPUT = 99.0


def values_of(kind):
    """The Go1's contract with another kind of action; a rate limit of 25 a second, as for positions."""
    values = go1_values()
    if kind != "joint_position":
        values["action"] |= {"kind": kind, "clip": None, "offset": [0.0] * 12}
    for term in values["observation"]:
        term["delay_steps"] = 0.0 if term["kind"] == "last_action" else term.get("delay_steps", 0.0)
    return values


@dataclass
class Flight:
    """A controller, its twin, and what is known of both without asking them."""

    kind: str = "joint_position"
    freeze: bool = False
    between: str = "hold"
    fade_in_s: float = 0.05
    halt_s: float = 0.04
    fade_out_s: float = 0.04
    bench: Bench = field(init=False)
    twin: object = None
    fresh_ns: int | None = None
    stamp_ns: int = 0
    latest_bad: bool = False
    faults: set = field(default_factory=set)
    states: dict = field(default_factory=lambda: dict.fromkeys(State, 0))
    codes: set = field(default_factory=set)

    def __post_init__(self):
        file = SiteFile(
            joints={},
            stand_s=0.1,
            stand_speed=6.0,
            fade_in_s=self.fade_in_s,
            halt_s=self.halt_s,
            fade_out_s=self.fade_out_s,
            on_fault="freeze" if self.freeze else "damp",
        )
        self.bench = Bench(values_of(self.kind), go1_robot(), file, between=self.between)
        self.sent, self.motors, self.fault = None, Motors.NOTHING, None

    def fork(self):
        """From here on another controller, made anew, runs beside the first."""
        self.twin = self.bench.fresh()
        self.twin.restore(read_npz(_npz(self.bench.controller.memory())))

    def tick(self, *, state="good", event=None, outcome=Outcome.TEACHER, output=0.0, missed=0, command=None):
        bench = self.bench
        bench.slot += 1 + missed
        bench.now_ns += (1 + missed) * bench.controller.period_ns
        results = []
        pending = self.look_at(state)
        for controller in filter(None, (bench.controller, self.twin)):
            self.receive(controller, state)
            if command is not None:
                controller.command(0, [command] * 3, bench.now_ns)
            refused = controller.request(event, bench.now_ns) if event is not None else None
            results.append([refused is None])
            begun = controller.supervisor.state
            results[-1].append(controller.begin(bench.now_ns, bench.slot, missed))
            given = outcome if controller.awaiting else Outcome.NONE
            fresh = given in (Outcome.TEACHER, Outcome.STUDENT)
            made = np.full((1, 12), math.nan if output == NAN_OUTPUT else output, np.float32) if fresh else None
            sent = controller.finish(bench.now_ns, given, made)
            results[-1] += [sent.values.tobytes(), sent.state, controller.target.tobytes(), controller.action.tobytes()]
            results[-1] += [controller.observer.observation.tobytes()] if results[-1][1] else []
            fault = controller.supervisor.fault
            results[-1] += [controller.supervisor.motors, controller.supervisor.more_faults, controller.latent]
            results[-1] += [None if fault is None else (fault.violation.code, fault.at_ns, fault.state)]
            results[-1] += [controller.ramp_left_s(bench.now_ns), controller.age_s(bench.now_ns), controller.awaiting]
        assert results[0] == results[-1], "the restored controller went on otherwise"
        self.moved_on(begun, pending, event, refused)
        answered = given in (Outcome.TEACHER, Outcome.STUDENT)
        causes = pending or given is not Outcome.NONE or missed or event is not None
        self.judge(bench.controller.sent, begun, pending, causes)
        broken = given is Outcome.FAILED or (answered and output == NAN_OUTPUT)
        if broken and begun is State.ACTIVE:
            assert bench.at is State.FAULT, f"{given!r} of {output} is no fault"

    def look_at(self, kind):
        """What the latest state, and what came instead of one, is worth; whether a moving robot must be stopped."""
        now_ns = self.bench.now_ns
        moving = self.bench.at in MOVING
        if kind in ("malformed", "layout", "future") or (kind == "backwards" and moving and self.stamp_ns):
            pending = True
        else:
            pending = False
            if kind != "none":
                self.latest_bad = kind in BAD_VALUES or kind == "tilted"
                if kind == "frozen" and self.stamp_ns:
                    pass
                elif kind == "backwards":
                    self.fresh_ns, self.stamp_ns = now_ns, self.stamp_ns - 10 * MS
                else:
                    self.fresh_ns = self.stamp_ns = now_ns
        lost = self.fresh_ns is not None and now_ns - self.fresh_ns > 500 * MS
        return pending or (self.fresh_ns is not None and self.latest_bad) or lost

    def receive(self, controller, kind):
        bench = self.bench
        if kind in ("malformed", "layout"):
            controller.reject(kind, "a message that was no state")
        if kind in ("none", "malformed", "layout"):
            return
        made = state_of(bench.robot, bench.now_ns, joint_position=bench.pose, linear_velocity=[0.1, 0.2, -0.3])
        if kind in BAD_VALUES:
            name, index, value = BAD_VALUES[kind]
            getattr(made, name)[index] = value
        if kind == "tilted":
            made.quaternion_xyzw[:] = [math.sin(0.51), 0.0, 0.0, math.cos(0.51)]  # 1.02 rad
        last = controller._stamp_ns
        made.stamp_ns += 6 * MS if kind == "future" else 0
        made.stamp_ns = last if kind == "frozen" and last else made.stamp_ns
        made.stamp_ns = last - 10 * MS if kind == "backwards" else made.stamp_ns
        controller.receive(made)

    def moved_on(self, begun, pending, event, refused):
        now, supervisor = self.bench.at, self.bench.controller.supervisor
        self.states[now] += 1
        if begun in MOVING and pending:
            assert now is State.FAULT, "nothing was found"
        if self.fault is not None and supervisor.fault is not self.fault:
            assert event is Event.RESET and refused is None, "the fault was lost"
            self.faults = set()
        if supervisor.fault is not None:
            assert now is State.FAULT
            self.codes.add(supervisor.fault.violation.code)

    def judge(self, sent, begun, pending, causes):
        """The command of this tick by itself, and behind the last one."""
        bench, supervisor = self.bench, self.bench.controller.supervisor
        state, motors = supervisor.state, supervisor.motors
        low, high = bench.controller.limits.position_low, bench.controller.limits.position_high
        assert np.isfinite(sent.values).all() and sent.state is state
        assert (sent.damping >= 0).all() and sent.damping.any()
        if state in (State.STAND, State.ACTIVE) or motors is Motors.FREEZE:
            if sent.stiffness.any():
                assert (sent.position >= low - 1e-12).all() and (sent.position <= high + 1e-12).all()
            assert (sent.stiffness <= 35.0).all() and (np.abs(sent.velocity) <= 30.1).all()
            assert (np.abs(sent.effort) <= 35.55).all()
        else:
            assert is_safe(sent, pd=True), f"{state.name} drives"
        if supervisor.fault is not None and self.fault is None:
            assert causes, f"{supervisor.fault} out of nothing"
            if motors is not Motors.FREEZE:
                assert is_safe(sent, pd=True), "the tick that found the fault drives"
        if motors is Motors.FREEZE:
            assert self.freeze and supervisor.fault.violation.code not in ALWAYS_DAMP
            assert supervisor.fault.state in (State.STAND, State.ACTIVE)
            # A policy of efforts or speeds has no target to be held at: STAND, from there, begins where the joints are.
            by_position = self.kind in ("joint_position", "joint_position_increment")
            held = (Motors.RAMP, Motors.FREEZE, Motors.POLICY) if by_position else (Motors.RAMP, Motors.FREEZE)
            if self.sent is not None and self.motors in held:
                assert (sent.position == self.sent).all(), "a frozen robot moves"
            else:
                assert np.abs(sent.position - bench.pose).max() < 1e-12, "frozen far from where it was"
        if motors is Motors.RAMP and self.motors is Motors.RAMP and self.sent is not None:
            step_s = (bench.now_ns - self.at_ns) * 1e-9
            assert np.abs(sent.position - self.sent).max() <= 6.0 * step_s + 1e-9, "too fast a ramp"
        if motors is Motors.POLICY and self.motors is Motors.RAMP and self.fade_in_s and sent.stiffness.any():
            assert np.abs(sent.position - bench.pose).max() < 1e-12, "the policy comes in at once"
        self.sent, self.motors, self.at_ns = sent.position.copy(), motors, bench.now_ns
        self.fault = supervisor.fault


FLIGHTS = [
    ("joint_position", False, "hold", 0.05),
    ("joint_position", True, "linear", 0.05),
    ("joint_position", False, "hold", 0.0),
    ("joint_position_increment", True, "hold", 0.05),
    ("joint_velocity", True, "hold", 0.05),
    ("joint_effort", True, "linear", 0.0),
]


@pytest.mark.parametrize(("kind", "freeze", "between", "fade_in_s"), FLIGHTS)
def test_random_flights_are_safe(kind, freeze, between, fade_in_s):
    """8000 ticks, most of them good, the operator leading on more often than back: every state is often met."""
    generator = np.random.default_rng(11)
    flight = Flight(kind, freeze, between, fade_in_s)
    way = [Event.CONFIGURE, Event.ACTIVATE, Event.STAND, Event.START, Event.RESET]
    for _ in range(8000):
        chance = generator.random(6)
        bad = str(generator.choice(KINDS)) if chance[0] < 0.02 else "good"
        event = None
        if chance[1] < 0.15:
            event = generator.choice(way) if chance[1] < 0.135 else generator.choice(OPERATOR[1:])
        outcomes = [Outcome.TEACHER, Outcome.STUDENT, Outcome.PENDING, Outcome.LATE, Outcome.FAILED]
        outcome = Outcome(generator.choice(outcomes, p=[0.75, 0.08, 0.1, 0.06, 0.01]))
        output = NAN_OUTPUT if chance[3] < 0.003 else float(generator.uniform(-1.2, 1.2))
        flight.tick(
            state=bad,
            event=None if event is None else Event(event),
            outcome=outcome,
            output=output,
            missed=int(generator.integers(1, 30)) if chance[4] < 0.01 else 0,
            command=float(generator.uniform(-2, 2)) if generator.random() < 0.5 else None,
        )
        if chance[5] < 0.01:
            flight.fork()
    assert min(flight.states[state] for state in (*MOVING, State.FAULT)) > 50, flight.states
    assert len(flight.codes) >= 8, flight.codes


class ControllerMachine(RuleBasedStateMachine):
    @initialize(flight=st.sampled_from(FLIGHTS))
    def begin(self, flight):
        self.flight = Flight(*flight)

    @rule(
        state=st.sampled_from(KINDS),
        event=st.sampled_from(OPERATOR),
        outcome=st.sampled_from([o for o in Outcome if o is not Outcome.NONE]),
        output=st.sampled_from([-1.0, 0.0, 0.3, 1.0, 1e30, NAN_OUTPUT]),
        missed=st.sampled_from([0, 0, 0, 1, 4, 21]),
        command=st.sampled_from([None, 0.1, 5.0]),
    )
    def tick(self, **inputs):
        self.flight.tick(**inputs)

    @rule(ticks=st.integers(1, 30))
    def quiet(self, ticks):
        for _ in range(ticks):
            self.flight.tick(command=0.2)

    @rule(ticks=st.integers(20, 110))
    def silence(self, ticks):
        for _ in range(ticks):
            self.flight.tick(state="none")

    @rule(until=st.sampled_from([State.STANDBY, State.STAND, State.ACTIVE]))
    def lead(self, until):
        """The operator's way, from wherever the robot is, with all well."""
        self.flight.tick(event=Event.RESET)
        for event in (Event.CONFIGURE, Event.ACTIVATE, Event.STAND, Event.START)[: until.value]:
            self.flight.tick(event=event, command=0.1)
            if event is Event.STAND:
                for _ in range(25):
                    self.flight.tick(command=0.1)

    @rule()
    def fork(self):
        self.flight.fork()

    @rule(code=st.sampled_from(list(FaultCode)))
    def fail(self, code):
        """The loop's own faults."""
        flight = self.flight
        for controller in filter(None, (flight.bench.controller, flight.twin)):
            controller.fail(Violation(code, "from outside", 0.0, 0.0), flight.bench.now_ns)
        flight.fault = flight.bench.controller.supervisor.fault
        assert flight.bench.at is State.FAULT
        flight.tick()


TestControllerMachine = ControllerMachine.TestCase
TestControllerMachine.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
