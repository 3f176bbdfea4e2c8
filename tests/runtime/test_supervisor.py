"""The supervisor: its table against one written by hand, and what must hold after any sequence of events."""

import itertools

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.supervisor import ALWAYS_DAMP, TABLE, Conditions, Event, FaultCode, Motors, Supervisor, Violation

WELL = Conditions()
STIFF = {Motors.RAMP, Motors.POLICY, Motors.FREEZE}
MAY_BE_STIFF = {State.STAND, State.ACTIVE, State.FAULT}

# From product.md, not from the code: (state, event) -> guards, next state, motors. Everything else is refused.
EXPECTED = {
    (State.UNCONFIGURED, Event.CONFIGURE): (set(), State.INACTIVE, Motors.NOTHING),
    (State.INACTIVE, Event.CLEANUP): (set(), State.UNCONFIGURED, Motors.NOTHING),
    (State.INACTIVE, Event.ACTIVATE): ({"state"}, State.STANDBY, Motors.DAMP),
    (State.STANDBY, Event.STAND): ({"state"}, State.STAND, Motors.RAMP),
    (State.STANDBY, Event.DEACTIVATE): (set(), State.INACTIVE, Motors.NOTHING),
    (State.STAND, Event.START): ({"state", "ramp", "command"}, State.ACTIVE, Motors.POLICY),
    (State.STAND, Event.STOP): (set(), State.STANDBY, Motors.DAMP),
    (State.STAND, Event.DEACTIVATE): (set(), State.INACTIVE, Motors.NOTHING),
    (State.ACTIVE, Event.STOP): (set(), State.STAND, Motors.RAMP),
    (State.ACTIVE, Event.COMMAND_LOST): (set(), State.STAND, Motors.RAMP),
    (State.ACTIVE, Event.DEACTIVATE): (set(), State.INACTIVE, Motors.NOTHING),
}
# The state in which a fault arose -> what is sent in FAULT; then the guards, next state and motors of a reset.
AFTER_FAULT = {
    State.UNCONFIGURED: (Motors.NOTHING, set(), State.UNCONFIGURED, Motors.NOTHING),
    State.INACTIVE: (Motors.NOTHING, set(), State.INACTIVE, Motors.NOTHING),
    State.STANDBY: (Motors.DAMP, {"state"}, State.STANDBY, Motors.DAMP),
    State.STAND: (Motors.DAMP, {"state"}, State.STANDBY, Motors.DAMP),
    State.ACTIVE: (Motors.DAMP, {"state"}, State.STANDBY, Motors.DAMP),
}
WAY = {
    State.UNCONFIGURED: [],
    State.INACTIVE: [Event.CONFIGURE],
    State.STANDBY: [Event.CONFIGURE, Event.ACTIVATE],
    State.STAND: [Event.CONFIGURE, Event.ACTIVATE, Event.STAND],
    State.ACTIVE: [Event.CONFIGURE, Event.ACTIVATE, Event.STAND, Event.START],
}
NORMAL = tuple(WAY)


def violation(code=FaultCode.STATE_LOST, value=1.0):
    return Violation(code, f"{code.name} was found", value, 0.5)


def supervisor_in(state, **options):
    supervisor = Supervisor(**options)
    for event in WAY[state]:
        assert supervisor.request(event, WELL) is None
    assert supervisor.state is state
    return supervisor


@pytest.mark.parametrize(("state", "event"), list(itertools.product(NORMAL, Event)), ids=lambda value: value.name)
def test_every_pair_outside_of_a_fault_does_what_the_hand_written_table_says(state, event):
    supervisor = supervisor_in(state)
    motors = supervisor.motors
    refused = supervisor.request(event, WELL)
    if (state, event) in EXPECTED:
        _, following, sent = EXPECTED[state, event]
        assert (refused, supervisor.state, supervisor.motors) == (None, following, sent)
    else:
        assert refused is not None and f"{event.name.lower()} is refused in {state.name}" in refused
        assert (supervisor.state, supervisor.motors, supervisor.fault) == (state, motors, None)


@pytest.mark.parametrize(("state", "event"), list(EXPECTED), ids=lambda value: value.name)
@pytest.mark.parametrize("broken", list(itertools.product([False, True], repeat=3)))
def test_guards_refuse_with_their_reason(state, event, broken):
    supervisor = supervisor_in(state)
    before = supervisor.motors
    names = ("state", "ramp", "command")
    conditions = Conditions(**{name: f"{name} is bad" for name, bad in zip(names, broken, strict=True) if bad})
    guards, following, motors = EXPECTED[state, event]
    asked = guards & {name for name, bad in zip(names, broken, strict=True) if bad}
    refused = supervisor.request(event, conditions)
    if asked:
        assert refused in {f"{event.name.lower()} is refused: {name} is bad" for name in asked}
        assert (supervisor.state, supervisor.motors) == (state, before)
    else:
        assert (refused, supervisor.state, supervisor.motors) == (None, following, motors)


@pytest.mark.parametrize("state", NORMAL, ids=lambda state: state.name)
def test_a_fault_leads_from_every_state_to_fault_and_only_a_reset_out(state):
    sent, guards, following, motors = AFTER_FAULT[state]
    supervisor = supervisor_in(state)
    supervisor.raise_fault(violation(), 7)
    assert (supervisor.state, supervisor.motors) == (State.FAULT, sent)
    fault = supervisor.fault
    assert (fault.violation, fault.at_ns, fault.state, str(fault)) == (
        violation(),
        7,
        state,
        "STATE_LOST: STATE_LOST was found",
    )
    for event in set(Event) - {Event.RESET, Event.DEACTIVATE}:
        refused = supervisor.request(event, WELL)
        assert "refused in FAULT by STATE_LOST: STATE_LOST was found; possible: deactivate, reset" in refused
        assert (supervisor.state, supervisor.motors) == (State.FAULT, sent) and supervisor.fault is fault
    doubtful = supervisor.request(Event.RESET, Conditions(state="too old", ramp="not there", command="none"))
    if guards:
        assert doubtful == "reset is refused: too old" and supervisor.fault is fault
        assert supervisor.request(Event.RESET, Conditions(ramp="not there", command="none")) is None
    else:
        assert doubtful is None
    assert (supervisor.state, supervisor.motors, supervisor.fault) == (following, motors, None)


def test_the_first_fault_is_latched_and_later_ones_are_counted():
    supervisor = supervisor_in(State.ACTIVE)
    supervisor.raise_fault(violation(FaultCode.OVERRUN), 1)
    for count in range(1, 4):
        supervisor.raise_fault(violation(FaultCode.TILT), 1 + count)
        assert supervisor.more_faults == count
    assert supervisor.fault.violation.code is FaultCode.OVERRUN and supervisor.fault.at_ns == 1
    assert supervisor.request(Event.RESET, WELL) is None
    assert (supervisor.fault, supervisor.more_faults) == (None, 0)
    supervisor.raise_fault(violation(FaultCode.TILT), 9)
    assert supervisor.fault.violation.code is FaultCode.TILT and supervisor.fault.state is State.STANDBY


@pytest.mark.parametrize("code", list(FaultCode), ids=lambda code: code.name)
@pytest.mark.parametrize("state", NORMAL, ids=lambda state: state.name)
def test_freeze_holds_only_what_stood_and_neither_a_falling_nor_an_unknown_robot(state, code):
    supervisor = supervisor_in(state, freeze_on_fault=True)
    supervisor.raise_fault(violation(code), 1)
    falls = code in {
        FaultCode.TILT,
        FaultCode.JOINT_EFFORT,
        FaultCode.ORIENTATION,
        FaultCode.INTERNAL,
        FaultCode.EMERGENCY_STOP,
    }
    unknown = code.name.startswith("STATE_") or code is FaultCode.ROBOT_WRITE
    held = state in {State.STAND, State.ACTIVE} and not falls and not unknown
    assert supervisor.motors is (Motors.FREEZE if held else AFTER_FAULT[state][0])
    assert supervisor.request(Event.RESET, WELL) is None and supervisor.motors not in STIFF


@pytest.mark.parametrize("code", list(FaultCode), ids=lambda code: code.name)
def test_a_frozen_robot_that_then_falls_is_let_go(code):
    supervisor = supervisor_in(State.ACTIVE, freeze_on_fault=True)
    supervisor.raise_fault(violation(FaultCode.OVERRUN), 1)
    assert supervisor.motors is Motors.FREEZE
    supervisor.raise_fault(violation(code), 2)
    assert supervisor.motors is (Motors.DAMP if code in ALWAYS_DAMP else Motors.FREEZE)
    supervisor.raise_fault(violation(FaultCode.OVERRUN), 3)
    assert supervisor.motors is (Motors.DAMP if code in ALWAYS_DAMP else Motors.FREEZE), "and stays so"
    assert supervisor.fault.violation.code is FaultCode.OVERRUN and supervisor.more_faults == 2


def test_the_table_has_one_row_for_each_expectation_and_no_other():
    normal = {(row.state, row.event) for row in TABLE if row.event not in (Event.FAULT, Event.RESET)}
    assert normal == set(EXPECTED) | {(State.FAULT, Event.DEACTIVATE)}
    assert len(TABLE) == len(EXPECTED) + 5 + 5 + 1
    assert {row.state for row in TABLE if row.event is Event.RESET} == {State.FAULT}
    assert len({code.value for code in FaultCode}) == len(FaultCode)


@pytest.mark.parametrize("state", NORMAL, ids=lambda state: state.name)
@pytest.mark.parametrize("freeze", [False, True])
def test_deactivating_in_a_fault_ends_the_commands_and_keeps_the_fault(state, freeze):
    supervisor = supervisor_in(state, freeze_on_fault=freeze)
    supervisor.raise_fault(violation(FaultCode.OVERRUN), 1)
    fault = supervisor.fault
    assert supervisor.request(Event.DEACTIVATE, Conditions(state="lost")) is None
    assert (supervisor.state, supervisor.motors, supervisor.fault) == (State.FAULT, Motors.NOTHING, fault)
    assert supervisor.request(Event.ACTIVATE, WELL) is not None
    assert supervisor.request(Event.RESET, WELL) is None
    assert (supervisor.state, supervisor.motors) == AFTER_FAULT[state][2:]


class Oracle:
    """What must hold whatever happens, told only by what goes in and what can be seen."""

    def __init__(self, freeze):
        self.supervisor = Supervisor(freeze_on_fault=freeze)
        self.faults, self.count = [], 0

    def step(self, event, conditions, code):
        supervisor = self.supervisor
        was, fault = supervisor.state, supervisor.fault
        if event is Event.FAULT:
            supervisor.raise_fault(violation(code), self.count)
            self.faults.append(code)
            refused = None
        else:
            refused = supervisor.request(event, conditions)
        self.count += 1
        now, motors = supervisor.state, supervisor.motors
        left = was is State.FAULT and now is not State.FAULT
        if left:
            assert event is Event.RESET and refused is None
            self.faults = []
        assert (now is State.FAULT) == bool(self.faults), "a fault leads to FAULT, and is never lost"
        if self.faults:
            assert supervisor.fault.violation.code is self.faults[0] and supervisor.more_faults == len(self.faults) - 1
            assert fault is None or supervisor.fault is fault
        else:
            assert supervisor.fault is None and supervisor.more_faults == 0
        assert motors not in STIFF or now in MAY_BE_STIFF
        assert (motors is Motors.POLICY) == (now is State.ACTIVE)
        assert (motors is Motors.RAMP) == (now is State.STAND)
        assert motors is not Motors.FREEZE or (now is State.FAULT and not ALWAYS_DAMP & set(self.faults))
        if now is State.ACTIVE and was is not State.ACTIVE:
            assert was is State.STAND and event is Event.START and conditions == WELL
        if refused is not None:
            assert now is was and supervisor.fault is fault


def test_fifty_thousand_random_sequences_of_events():
    """Events are drawn so that ACTIVE is often reached: those that lead on are four times as likely."""
    generator = np.random.default_rng(4)
    sequences, length = 50_000, 16
    leading = [Event.CONFIGURE, Event.ACTIVATE, Event.STAND, Event.START]
    weights = np.array([4.0 if event in leading else 1.0 for event in Event])
    events = generator.choice(list(Event), size=(sequences, length), p=weights / weights.sum()).tolist()
    bad = (generator.random((sequences, length, 3)) < 0.05).tolist()
    codes = generator.choice(list(FaultCode), size=(sequences, length)).tolist()
    known = {
        states: Conditions(*(f"{name} is bad" if one else None for name, one in zip("src", states, strict=True)))
        for states in itertools.product([False, True], repeat=3)
    }
    assert known[False, False, False] == WELL
    reached = dict.fromkeys(State, 0)
    for index in range(sequences):
        oracle = Oracle(freeze=index % 2 == 0)
        for event, doubts, code in zip(events[index], bad[index], codes[index], strict=True):
            oracle.step(Event(event), known[tuple(doubts)], FaultCode(code))
            reached[oracle.supervisor.state] += 1
    assert min(reached.values()) > 10_000, reached


class SupervisorMachine(RuleBasedStateMachine):
    """The same, for the shortest sequence where one is found."""

    def __init__(self):
        super().__init__()
        self.oracle = Oracle(freeze=True)

    @rule(
        event=st.sampled_from(list(Event)),
        doubts=st.lists(st.sampled_from(["state", "ramp", "command"]), max_size=2),
        code=st.sampled_from(list(FaultCode)),
    )
    def happen(self, event, doubts, code):
        self.oracle.step(event, Conditions(**{name: f"{name} is bad" for name in doubts}), code)

    @rule()
    def lead_on(self):
        for event in WAY[State.ACTIVE]:
            self.oracle.step(event, WELL, FaultCode.TILT)

    @invariant()
    def one_row_for_what_is_sent(self):
        supervisor = self.oracle.supervisor
        ways = {(row.next, row.motors) for row in TABLE} | {(State.UNCONFIGURED, Motors.NOTHING)}
        assert (supervisor.state, supervisor.motors) in ways | {(State.FAULT, Motors.FREEZE)}


TestSupervisorMachine = SupervisorMachine.TestCase
TestSupervisorMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
