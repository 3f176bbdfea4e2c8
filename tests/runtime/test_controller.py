"""The controller tick by tick: the grid of control steps, lateness, commands and their age, stamps, freezing."""

import numpy as np
import pytest
from bundles import go1_values, term
from control import ARM_JOINTS, MS, Bench, arm_robot, arm_values, go1_robot

from trudi.runtime.controller import ControllerCfg, Outcome, observation_names
from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.checker import is_safe
from trudi.runtime.site_file import SiteFile, SiteSafety
from trudi.runtime.supervisor import Event, FaultCode, Motors, Violation

QUICK = SiteFile(joints={}, stand_s=0.05, stand_speed=100.0, fade_in_s=0.0, halt_s=1.0, fade_out_s=0.0)


def quick(**fields):
    return QUICK.model_copy(update=fields)


def last_action_values(*delays):
    """A contract that observes nothing but the last action, once for each delay."""
    terms = [
        term(f"a{delay}", "last_action", 2, "1", "none", element_names=ARM_JOINTS, delay_steps=float(delay))
        for delay in delays
    ]
    return arm_values(terms, scale=[1.0, 1.0], offset=[0.0, -0.5])


def arm(values=None, **options):
    options = {"rate_hz": 50.0, "file": quick()} | options
    return Bench(values or arm_values(), arm_robot(), **options)


@pytest.mark.parametrize(("rate", "decimation"), [(50.0, 1), (100.0, 2), (200.0, 4), (500.0, 10), (50.001, 1)])
def test_whole_multiples_of_the_policys_rate(rate, decimation):
    assert ControllerCfg(rate).decimation(0.02) == decimation


@pytest.mark.parametrize("rate", [120.0, 25.0, 49.0, 0.0, -50.0, 333.0, 201.0, float("nan"), float("inf")])
def test_other_rates_are_refused(rate):
    with pytest.raises(RobotError, match=r"does not fit the policy's 50 Hz; take a multiple: 50, 100, 200"):
        ControllerCfg(rate).decimation(0.02)


def steps_of(bench, ticks, **tick):
    found = []
    for _ in range(ticks):
        bench.tick(**tick)
        if bench.stepped:
            found.append(bench.slot)
    return found


def test_control_steps_stay_on_their_grid_after_missed_slots():
    bench = Bench(file=quick()).to(State.ACTIVE)
    first = bench.slot
    bench.command(0.0, 0.0, 0.0)
    assert steps_of(bench, 12) == [first + 4, first + 8, first + 12]
    bench.tick(missed=2)  # slot first + 15
    assert not bench.stepped
    assert steps_of(bench, 3) == [first + 16]
    bench.tick(missed=3)  # slots 19, 20 (a step's), 21 are lost: the step is taken late, in slot 22
    assert bench.slot == first + 22 and bench.stepped
    assert steps_of(bench, 6) == [first + 24, first + 28], "and the next one where it would have been"
    bench.tick(missed=8)  # slots 29..36: the steps 32 and 36 are lost; slot 37 takes the latter, late
    assert bench.slot == first + 37 and bench.stepped
    assert steps_of(bench, 3) == [first + 40]


def observed(bench, output, **tick):
    bench.tick(output=output, **tick)
    assert bench.stepped
    return bench.controller.observer.observation[0].tolist()


def test_after_an_action_the_next_observation_shows_it_or_the_one_before():
    bench = arm(last_action_values(0, 1, 2)).to(State.STAND)
    bench.activate(output=[0.125, 0.25])
    assert bench.controller.observer.observation[0].tolist() == [0.0] * 6, "a policy's first: no action yet"
    assert observed(bench, [0.5, -0.125]) == [0.125, 0.25, 0, 0, 0, 0]
    assert observed(bench, [0.0625, 0.0]) == [0.5, -0.125, 0.125, 0.25, 0, 0]
    assert observed(bench, [0.0, 0.0]) == [0.0625, 0.0, 0.5, -0.125, 0.125, 0.25]
    # A late one: the robot went on under the last action, so that is what it did once more.
    assert observed(bench, None, outcome=Outcome.LATE) == [0.0, 0.0, 0.0625, 0.0, 0.5, -0.125]
    assert observed(bench, [0.25, 0.5]) == [0.0, 0.0, 0.0, 0.0, 0.0625, 0.0]
    assert observed(bench, [0.75, 1.0]) == [0.25, 0.5, 0.0, 0.0, 0.0, 0.0]
    # Two control steps that never were.
    assert observed(bench, [0.0, 0.0], missed=2) == [0.75, 1.0] * 3


def test_the_gaits_clock_goes_on_through_missed_steps():
    # Offset 0, 6.25 Hz, 20 ms: an eighth of a turn each step. cos(0), cos(pi/4), cos(2 pi/4) ...
    phase = term("gait", "phase", 1, "1", "none", element_names=["c"], phase_frequency_hz=6.25, phase_offsets_rad=[0.0])
    bench = arm(arm_values([phase])).to(State.STAND)
    bench.activate()
    seen = [bench.controller.observer.observation[0, 0]]
    for missed in (0, 0, 1, 0):
        bench.tick(missed=missed)
        seen.append(bench.controller.observer.observation[0, 0])
    assert seen == pytest.approx([1.0, 0.5**0.5, 0.0, -1.0, -(0.5**0.5)], abs=1e-6), "pi/2 to pi across the missed one"


def test_a_late_action_holds_the_target_and_counts():
    bench = arm().to(State.STAND)
    command = bench.activate(output=[0.5, 0.5])
    # hip 0.1 + 0.5 * 0.5 = 0.35, knee -0.5 + 0.25 * 0.5 = -0.375; the robot's drives are knee, hip
    assert command.position.tolist() == [-0.375, 0.35]
    for count in range(1, 5):
        assert bench.tick(outcome=Outcome.LATE).position.tolist() == [-0.375, 0.35]
        assert (bench.controller.watches.overruns, bench.at) == (count, State.ACTIVE)
    bench.tick(output=[0.0, 0.0])
    assert bench.controller.watches.overruns == 0, "one in time ends the row"
    for _ in range(4):
        bench.tick(outcome=Outcome.LATE)
    assert is_safe(bench.tick(outcome=Outcome.LATE), pd=True)
    assert bench.fault == "OVERRUN"
    violation = bench.controller.supervisor.fault.violation
    assert (violation.value, violation.threshold) == (5.0, 5.0) and "5 control periods in a row" in violation.sentence


def test_the_students_action_counts_as_in_time():
    bench = arm().to(State.ACTIVE)
    for _ in range(4):
        bench.tick(outcome=Outcome.LATE)
    command = bench.tick(outcome=Outcome.STUDENT, output=[0.5, 0.5])
    assert command.position.tolist() == [-0.375, 0.35] and bench.controller.watches.overruns == 0


def test_pending_actions_are_taken_when_they_come_and_none_is_asked_for_meanwhile():
    bench = arm(rate_hz=200.0).to(State.ACTIVE)
    commands = [bench.tick(outcome=Outcome.PENDING).position.tolist() for _ in range(4)]
    held = commands[-1]
    assert bench.stepped and held == [-0.5, 0.1]
    assert bench.controller.awaiting
    assert bench.tick(outcome=Outcome.PENDING).position.tolist() == held and bench.controller.awaiting
    assert bench.tick(output=[0.5, 0.5]).position.tolist() == [-0.375, 0.35] and not bench.controller.awaiting


@pytest.mark.parametrize(
    ("tick", "code"),
    [
        ({"outcome": Outcome.FAILED}, "ENGINE"),
        ({"output": [0.0, float("nan")]}, "ACTION_NOT_FINITE"),
        ({"output": [float("inf"), 0.0]}, "ACTION_NOT_FINITE"),
        ({"outcome": Outcome.STUDENT, "output": [0.0, float("nan")]}, "ACTION_NOT_FINITE"),
    ],
)
def test_a_bad_answer_stops_the_robot_in_the_same_tick(tick, code):
    bench = arm().to(State.ACTIVE)
    command = bench.tick(**tick)
    assert is_safe(command, pd=True) and command.state is State.FAULT and bench.fault == code
    assert np.isfinite(bench.controller.action).all()


def test_missed_periods_in_a_row_are_a_fault_in_any_moving_state():
    bench = arm().to(State.STAND)
    bench.tick(missed=4)
    assert bench.at is State.STAND
    bench.tick(missed=1)
    assert bench.fault == "OVERRUN"


def test_single_misses_an_hour_apart_are_none():
    bench = arm().to(State.STAND)
    for _ in range(20):
        bench.tick(missed=1)
        bench.tick()
    assert bench.at is State.STAND
    # Nor do misses from before the robot moved count, nor those of the fault that was reset.
    bench.tick(missed=9)
    assert bench.fault == "OVERRUN"
    bench.tick()
    assert bench.ask(Event.RESET) is None
    bench.tick(missed=1)
    assert bench.at is State.STANDBY


def test_misses_while_active_end_with_an_action_in_time_and_not_with_a_tick_in_time():
    bench = arm(rate_hz=200.0).to(State.ACTIVE)
    bench.tick(missed=8)  # two control periods
    assert bench.controller.watches.overruns == 0 and bench.stepped, "the step of this very tick came in time"
    bench.tick(missed=8, outcome=Outcome.PENDING)
    bench.tick(outcome=Outcome.PENDING)
    assert bench.controller.watches.overruns == 2


# Commands.


def shown(bench):
    return bench.controller.observer.commands[0].tolist()


def test_commands_are_clipped_to_their_range():
    bench = Bench(file=quick()).to(State.ACTIVE)
    bench.command(9.0, -9.0, 0.25)
    bench.tick()
    assert shown(bench) == [1.5, -0.8, 0.25]


def test_a_stale_command_is_neutral_at_once_and_then_the_robot_stands():
    bench = Bench(file=quick(), rate_hz=50.0).to(State.ACTIVE)  # timeout 0.5 s, lost after 2 s
    bench.command(1.0, 0.5, 0.25)
    given_ns = bench.now_ns
    for _ in range(25):
        bench.tick()
        assert shown(bench) == [1.0, 0.5, 0.25] and not bench.controller.commands_stale
    assert bench.now_ns - given_ns == 500 * MS
    for _ in range(75):
        bench.tick()
        assert shown(bench) == [0.0, 0.0, 0.0] and bench.controller.commands_stale and bench.at is State.ACTIVE
    held = bench.controller.target.copy()
    command = bench.tick()  # 2.02 s
    assert (bench.at, bench.controller.supervisor.motors) == (State.STAND, Motors.RAMP)
    assert np.abs(command.position - held).max() < 1e-12 and command.stiffness.any(), "from the last target"


def test_a_new_command_ends_staleness():
    bench = Bench(file=quick(), rate_hz=50.0).to(State.ACTIVE)
    for _ in range(30):
        bench.tick()
    assert bench.controller.commands_stale
    bench.command(1.0, 0.0, 0.0)
    bench.tick()
    assert shown(bench) == [1.0, 0.0, 0.0] and not bench.controller.commands_stale


def test_a_policy_that_is_being_blended_in_is_told_to_stand():
    """At 50 Hz over 0.1 s: five ticks at 0 to 0.8 of the policy; then what was commanded all the time."""
    bench = Bench(file=quick(fade_in_s=0.1), rate_hz=50.0).to(State.STAND)
    seen = []
    for tick in range(7):
        bench.command(1.0, 0.5, 0.25)
        bench.activate() if tick == 0 else bench.tick()
        seen.append(shown(bench))
        assert bench.at is State.ACTIVE and not bench.controller.commands_stale
    assert seen == [[0.0, 0.0, 0.0]] * 5 + [[1.0, 0.5, 0.25]] * 2


def test_a_command_that_jumps_is_shown_as_a_ramp():
    """Ranges of 3 m/s, 1.6 m/s and 2.4 rad/s crossed in 0.3 s at best, at 50 Hz: fifteenths of each, 0.2, 0.107 and 0.16."""
    bench = Bench(file=quick(safety=SiteSafety(command_slew_s=0.3)), rate_hz=50.0).to(State.ACTIVE)
    seen = []
    for given in [(0.5, 0.05, 0.0)] * 3 + [(-1.5, 0.05, 0.3)] * 3:
        bench.command(*given)
        bench.tick()
        seen.append(shown(bench))
    expected = [(0.2, 0.05, 0.0), (0.4, 0.05, 0.0), (0.5, 0.05, 0.0), (0.3, 0.05, 0.16), (0.1, 0.05, 0.3), (-0.1, 0.05, 0.3)]
    assert seen == [pytest.approx(row, abs=1e-6) for row in expected]  # float32 in the observation
    # A stop takes it back to neutral as gently, and the halt counts from there.
    bench.tick(ask=Event.STOP)
    assert shown(bench) == pytest.approx([0.0, 0.0, 0.14], abs=1e-6) and bench.controller.halting
    bench.tick()
    assert shown(bench) == [0.0, 0.0, 0.0] and bench.at is State.ACTIVE


def test_a_policy_that_is_started_again_is_shown_no_command_of_before():
    bench = driven(safety=SiteSafety(command_slew_s=10.0), halt_s=0.0)
    for _ in range(50):
        bench.command(1.0, 0.5, 0.25)
        bench.tick()
    assert shown(bench)[0] > 0.2
    bench.tick(ask=Event.STOP)
    while bench.controller.ramp_left_s(bench.now_ns) > 0.0:
        bench.tick()
    bench.command(0.0, 0.0, 0.0)
    bench.activate()
    assert shown(bench) == [0.0, 0.0, 0.0]


# --- Halting before a stop ---


def driven(halt_s=0.2, **file):
    """ACTIVE at 50 Hz and told to walk; a halt of 0.2 s is ten ticks."""
    bench = Bench(file=quick(halt_s=halt_s, **file), rate_hz=50.0).to(State.ACTIVE)
    bench.command(1.0, 0.5, 0.25)
    bench.tick()
    return bench


def test_a_stop_is_granted_at_once_and_obeyed_when_the_robot_has_halted():
    bench = driven()
    for tick in range(9):
        bench.command(1.0, 0.5, 0.25)  # whoever drives may not have heard of it
        bench.tick(ask=Event.STOP if tick == 0 else None)
        assert bench.at is State.ACTIVE and bench.controller.halting
        assert shown(bench) == [0.0, 0.0, 0.0] and not bench.controller.commands_stale
    bench.tick()
    assert (bench.at, bench.controller.supervisor.motors) == (State.STAND, Motors.RAMP) and not bench.controller.halting


def test_a_second_stop_is_obeyed_at_once():
    bench = driven()
    bench.tick(ask=Event.STOP)
    assert bench.at is State.ACTIVE
    bench.tick(ask=Event.STOP)
    assert bench.at is State.STAND


def test_time_for_which_the_commands_were_neutral_counts_as_a_halt():
    bench = driven()
    for _ in range(6):  # 0.12 s of them
        bench.command(0.0, 0.0, 0.0)
        bench.tick()
    bench.tick(ask=Event.STOP)
    ticks = 1
    while bench.at is State.ACTIVE:
        bench.tick()
        ticks += 1
    assert ticks == 4
    longer = driven()
    for _ in range(10):
        longer.command(0.0, 0.0, 0.0)
        longer.tick()
    longer.tick(ask=Event.STOP)
    assert longer.at is State.STAND


@pytest.mark.parametrize("bench", [driven(halt_s=0.0), arm(file=quick()).to(State.ACTIVE)])
def test_without_a_halt_or_without_commands_a_stop_is_obeyed_at_once(bench):
    bench.tick(ask=Event.STOP)
    assert bench.at is State.STAND


def test_a_robot_whose_commands_are_lost_early_halts_before_it_stands():
    """A site that takes commands for lost after 0.04 s, long before their timeout of 0.5 s: the last one still drives."""
    bench = driven(safety=SiteSafety(command_lost_s=0.04))
    bench.tick(), bench.tick()  # the command is 0.06 s old
    assert bench.at is State.ACTIVE and bench.controller.halting and shown(bench) == [0.0, 0.0, 0.0]
    for _ in range(8):
        bench.command(1.0, 0.5, 0.25)  # comes back too late
        bench.tick()
    assert bench.at is State.ACTIVE and shown(bench) == [0.0, 0.0, 0.0]
    bench.tick()
    assert bench.at is State.STAND and bench.fault is None


def test_a_fault_and_a_deactivation_do_not_wait_for_the_halt():
    bench = driven()
    bench.tick(ask=Event.STOP)
    bench.tick(quaternion_xyzw=[1.0, 0.0, 0.0, 0.0])
    assert (bench.at, bench.fault, bench.controller.halting) == (State.FAULT, "TILT", False)
    other = driven()
    other.tick(ask=Event.STOP)
    other.tick(ask=Event.DEACTIVATE)
    assert other.at is State.INACTIVE


def parts(bench, ticks, **tick):
    """The policy's part in each of so many targets: its action is 1, half a radian from the pose, in every joint."""
    found = []
    for _ in range(ticks):
        part = (bench.tick([1.0] * 12, **tick).position - bench.pose) / 0.5
        assert part == pytest.approx(np.full(12, part[0]))
        found.append(float(part[0]))
    return found


def test_a_policy_that_has_halted_is_blended_out_before_the_robot_stands():
    """It was driven last at 0; from 0.06 s on, and for 0.1 s, its part is 1, 0.8, ... 0.2; the ramp goes on from there."""
    bench = driven(halt_s=0.06, fade_out_s=0.1)
    assert parts(bench, 1, ask=Event.STOP) == [1.0]
    assert parts(bench, 6) == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert bench.at is State.ACTIVE and bench.controller.halting and shown(bench) == [0.0, 0.0, 0.0]
    assert parts(bench, 1) == pytest.approx([0.2]) and (bench.at, bench.controller.halting) == (State.STAND, False)
    while bench.controller.ramp_left_s(bench.now_ns) > 0.0:
        bench.tick()
    bench.activate()
    bench.command(1.0, 0.5, 0.25)
    assert parts(bench, 2) == [1.0, 1.0], "the next flight begins anew"


def test_blending_out_is_no_faster_than_standing_up():
    """Half a radian at 2.5 rad/s: 0.2 s."""
    bench = driven(halt_s=0.0, fade_out_s=0.1, stand_speed=2.5)
    parts(bench, 1)  # the pose until now
    assert parts(bench, 1, ask=Event.STOP) + parts(bench, 9) == pytest.approx(np.arange(1.0, 0.05, -0.1))
    assert bench.at is State.ACTIVE
    bench.tick()
    assert bench.at is State.STAND


def test_a_policy_that_stands_is_blended_out_and_one_that_comes_in_goes_from_there():
    still = Bench(file=quick(halt_s=0.2, fade_out_s=0.1), rate_hz=50.0).to(State.ACTIVE)
    parts(still, 1)
    assert parts(still, 1, ask=Event.STOP) + parts(still, 4) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert still.at is State.ACTIVE and parts(still, 1) == pytest.approx([0.2]) and still.at is State.STAND
    early = Bench(file=quick(fade_in_s=0.2, fade_out_s=0.1), rate_hz=50.0).to(State.ACTIVE)
    assert parts(early, 1) == pytest.approx([0.1])
    assert parts(early, 1, ask=Event.STOP) + parts(early, 4) == pytest.approx([0.2, 0.3, 0.4, 0.4, 0.2])
    parts(early, 1)
    assert early.at is State.STAND


def test_a_second_stop_does_not_wait_for_the_blending_out_but_the_first_of_a_robot_without_commands_does():
    bench = driven(halt_s=0.04, fade_out_s=0.1)
    parts(bench, 3, ask=None), bench.tick(ask=Event.STOP)
    assert bench.at is State.ACTIVE
    bench.tick(ask=Event.STOP)
    assert bench.at is State.STAND
    lost = driven(halt_s=0.1, fade_out_s=0.1, safety=SiteSafety(command_lost_s=0.04))
    lost.tick(), lost.tick()
    assert lost.at is State.ACTIVE and lost.controller.halting
    lost.tick(ask=Event.STOP)
    assert lost.at is State.ACTIVE and lost.controller.halting
    lost.tick(ask=Event.STOP)
    assert lost.at is State.STAND


def test_policies_of_efforts_or_without_commands_are_not_blended_out():
    """They give way to no pose that the joints may be far from; without commands, nothing tells them to halt."""
    efforts = go1_values()
    efforts["action"] |= {"kind": "joint_effort", "clip": None, "offset": [0.0] * 12}
    bench = Bench(efforts, file=quick(halt_s=0.0, fade_out_s=1.0), rate_hz=50.0).to(State.ACTIVE)
    for one in (bench, arm(file=quick(fade_out_s=1.0)).to(State.ACTIVE)):
        one.tick(ask=Event.STOP)
        assert one.at is State.STAND


def restored(bench):
    """The bench goes on with a controller that was made anew and restored from a keyframe."""
    memory, bench.controller = bench.controller.memory(), bench.fresh()
    bench.controller.restore(memory)


def test_a_keyframe_holds_a_halt_and_when_the_robot_was_driven_last():
    bench = driven()
    restored(bench)
    bench.tick(ask=Event.STOP)
    assert bench.at is State.ACTIVE and bench.controller.halting, "it was driven a moment ago"
    bench.tick()
    restored(bench)
    for _ in range(7):
        bench.command(1.0, 0.5, 0.25)
        bench.tick()
        assert bench.at is State.ACTIVE and shown(bench) == [0.0, 0.0, 0.0]
    bench.tick()  # the tenth since it was driven
    assert bench.at is State.STAND


def test_a_keyframe_holds_how_far_a_policy_is_blended_out():
    bench = driven(halt_s=0.0, fade_out_s=0.1)
    parts(bench, 1)
    parts(bench, 1, ask=Event.STOP)
    assert parts(bench, 1) == pytest.approx([0.8])
    restored(bench)
    assert parts(bench, 3) == pytest.approx([0.6, 0.4, 0.2])
    bench.tick()
    assert bench.at is State.STAND


def test_what_was_asked_in_one_flight_does_not_stop_the_next():
    bench = driven()
    bench.tick(ask=Event.STOP)
    bench.tick(ask=Event.STOP)
    while bench.controller.ramp_left_s(bench.now_ns) > 0.0:
        bench.tick()
    bench.activate()
    bench.command(1.0, 0.5, 0.25)
    bench.tick()
    assert bench.at is State.ACTIVE and shown(bench) == [1.0, 0.5, 0.25] and not bench.controller.halting


def test_starting_needs_a_fresh_command_and_the_stand():
    bench = Bench(file=quick(), rate_hz=50.0).to(State.STANDBY)
    bench.tick(ask=Event.STAND)
    assert bench.ask(Event.START) == "start is refused: the robot stands in 0.1 s"  # 0.05, said with one digit
    for _ in range(3):
        bench.tick()
    assert bench.ask(Event.START) == (
        "start is refused: the command velocity has not been given; it must be given at least every 0.5 s"
    )
    bench.command(0.0, 0.0, 0.0, age_s=0.75)
    assert "the command velocity is 0.75 s old" in bench.ask(Event.START)
    bench.command(0.0, 0.0, 0.0, age_s=0.5)
    assert bench.ask(Event.START) is None


# Stamps and age.


@pytest.mark.parametrize("shared", [True, False])
def test_frozen_stamps_age(shared):
    bench = Bench(robot=go1_robot(shared_clock=shared), file=quick(), rate_hz=50.0).to(State.STAND)
    stamp_ns = bench.now_ns
    for _ in range(25):
        state = bench.state()
        state.stamp_ns, state.received_ns = stamp_ns, bench.now_ns + 20 * MS
        bench.tick(state=state)
        assert bench.at is State.STAND
    assert bench.controller.age_s(bench.now_ns) == pytest.approx(0.5)
    state = bench.state()
    state.stamp_ns, state.received_ns = stamp_ns, bench.now_ns + 20 * MS
    assert is_safe(bench.tick(state=state), pd=True) and bench.fault == "STATE_LOST"
    bench.tick(state=None)
    assert "reset is refused: the robot's state is 0.5" in bench.ask(Event.RESET)


@pytest.mark.parametrize("shared", [True, False])
def test_no_states_at_all_age_too(shared):
    bench = Bench(robot=go1_robot(shared_clock=shared), file=quick(), rate_hz=50.0).to(State.STAND)
    ticks = 0
    while bench.at is State.STAND:
        bench.tick(state=None)
        ticks += 1
    assert (ticks, bench.fault) == (26, "STATE_LOST")


@pytest.mark.parametrize("state", [State.STANDBY, State.STAND, State.ACTIVE], ids=lambda state: state.name)
def test_stamps_that_go_backwards_are_a_fault_while_something_moves(state):
    bench = arm().to(state)
    back = bench.state()
    back.stamp_ns -= 1000 * MS
    bench.tick(state=back)
    assert bench.fault == "STATE_BACKWARDS"
    assert bench.controller.supervisor.fault.violation.value == pytest.approx(1.0)


def test_a_restarted_robots_time_counts_anew_where_nothing_moves():
    """The robot's clock starts at 1 s again: in FAULT it is taken, and a reset works."""
    bench = arm().to(State.ACTIVE)
    offset = bench.now_ns - 1000 * MS

    def again():
        state = bench.state()
        state.stamp_ns -= offset
        return state

    bench.tick(state=again())
    assert bench.fault == "STATE_BACKWARDS"
    bench.tick(state=again())
    bench.tick(state=again())
    assert bench.controller.age_s(bench.now_ns) == 0.02, "received a tick ago"
    bench.tick(state=again(), ask=Event.RESET)
    bench.tick(state=again(), ask=Event.STAND)
    for _ in range(30):
        bench.tick(state=again())
    assert bench.at is State.STAND and bench.fault is None


def test_a_state_from_the_future_neither_counts_nor_makes_the_latest_one_young():
    bench = Bench(file=quick(), rate_hz=50.0)  # a robot that shares this clock
    assert bench.ask(Event.CONFIGURE) is None
    bench.tick()
    future = bench.state()
    future.stamp_ns += 3_600_000 * MS
    bench.tick(state=future)
    for _ in range(30):  # and then silence for 0.6 s
        bench.tick(state=None)
    assert "0.62" in bench.ask(Event.ACTIVATE) and bench.at is State.INACTIVE


def test_a_state_from_the_future_stops_what_moves():
    bench = Bench(file=quick()).to(State.STAND)
    future = bench.state()
    future.stamp_ns += 5 * MS
    bench.tick(state=future)
    assert bench.at is State.STAND, "two processes may read one clock 5 ms apart"
    future = bench.state()
    future.stamp_ns += 5 * MS + 1
    bench.tick(state=future)
    assert bench.fault == "STATE_FUTURE"


@pytest.mark.parametrize(("kind", "code"), [("malformed", "STATE_MALFORMED"), ("layout", "STATE_LAYOUT")])
def test_messages_that_are_no_states(kind, code):
    bench = arm()
    bench.ask(Event.CONFIGURE)
    bench.tick()
    bench.controller.reject(kind, "five bytes")
    assert bench.ask(Event.ACTIVATE) == "activate is refused: five bytes"
    bench.tick()
    assert bench.at is State.INACTIVE
    bench.to(State.STAND)
    bench.controller.reject(kind, "five bytes")
    assert is_safe(bench.tick(), pd=True) and bench.fault == code


def test_nothing_is_activated_before_a_state_has_come():
    bench = arm()
    assert bench.ask(Event.CONFIGURE) is None
    bench.tick(state=None)
    assert bench.ask(Event.ACTIVATE) == "activate is refused: no state has arrived from the robot"


@pytest.mark.parametrize(("event", "state"), [(Event.ACTIVATE, State.INACTIVE), (Event.STAND, State.STANDBY)])
def test_a_guard_sees_the_state_that_has_just_come(event, state):
    """A request is answered before the tick's judgement: it must not rest on the last one's."""
    bench = arm()
    assert bench.ask(Event.CONFIGURE) is None
    bench.tick()
    if state is State.STANDBY:
        bench.tick(ask=Event.ACTIVATE)
    bench.slot, bench.now_ns = bench.slot + 1, bench.now_ns + 20 * MS
    bench.controller.receive(bench.state(joint_position=[float("nan"), 0.0, 0.0]))
    assert bench.ask(event) == f"{event.name.lower()} is refused: the state's position of knee is nan"


# Freezing.


def test_a_fault_in_the_very_tick_of_the_stand_freezes_the_robot_where_it_is():
    bench = arm(file=quick(on_fault="freeze")).to(State.STANDBY)
    where = [-1.5, 9.0, 0.75]  # knee, wheel, hip
    bench.tick(joint_position=where)
    command = bench.tick(ask=Event.STAND, missed=6, joint_position=where)  # too many misses
    assert bench.fault == "OVERRUN" and bench.controller.supervisor.motors is Motors.FREEZE
    assert command.position.tolist() == [-1.5, 0.75] and command.stiffness.tolist() == [30.0, 20.0]


def test_a_frozen_policy_keeps_its_last_target_until_the_robot_falls():
    bench = arm(file=quick(on_fault="freeze")).to(State.STAND)
    bench.activate(output=[0.5, 0.5])
    for _ in range(3):
        command = bench.tick(outcome=Outcome.FAILED)
        assert command.position.tolist() == [-0.375, 0.35] and command.stiffness.tolist() == [30.0, 20.0]
        assert command.state is State.FAULT
    # roll of 1.2 rad, and, as in a fall, a joint beyond its limits as well: sin(0.6), cos(0.6)
    fallen = {"quaternion_xyzw": [np.sin(0.6), 0, 0, np.cos(0.6)], "joint_position": [-3.0, 0.0, 0.0]}
    assert is_safe(bench.tick(**fallen), pd=True)
    assert is_safe(bench.tick(), pd=True), "and it is not stiffened again"
    assert bench.fault == "ENGINE"


def test_a_frozen_robot_whose_states_stop_is_let_go():
    """Nobody sees it fall any more."""
    bench = arm(file=quick(on_fault="freeze")).to(State.ACTIVE)
    assert bench.tick(outcome=Outcome.FAILED).stiffness.all()
    for _ in range(24):  # 24 ticks of 20 ms are within state_age_lost_s, 0.5 s, and 26 are not
        assert bench.tick(state=None).stiffness.all()
    bench.tick(state=None)
    assert is_safe(bench.tick(state=None), pd=True)
    assert is_safe(bench.tick(), pd=True) and bench.fault == "ENGINE"


def test_a_step_that_is_due_ends_the_one_that_is_still_awaited():
    """Otherwise a graph that is always a little late would halve the policy's rate, and nobody would count it."""
    bench = arm(rate_hz=50.0).to(State.ACTIVE)  # a control step every tick
    bench.tick(outcome=Outcome.PENDING)
    assert bench.stepped and bench.controller.awaiting
    for late in range(1, 5):
        bench.tick(outcome=Outcome.PENDING)
        assert bench.stepped and bench.controller.watches.overruns == late
    bench.tick(outcome=Outcome.PENDING)
    assert bench.fault == "OVERRUN", "five in a row"


@pytest.mark.parametrize("kind", ["joint_velocity", "joint_effort"])
def test_a_policy_without_position_targets_has_none_to_freeze_at(kind):
    values = arm_values(kind=kind, offset=[0.0, 0.0])
    bench = arm(values, file=quick(on_fault="freeze")).to(State.STAND)
    bench.controller.fail(Violation(FaultCode.OVERRUN, "", 0, 0), bench.now_ns)
    assert bench.controller.supervisor.motors is Motors.FREEZE, "standing has one"
    bench = arm(values, file=quick(on_fault="freeze")).to(State.ACTIVE)
    assert is_safe(bench.tick(outcome=Outcome.FAILED), pd=True)


@pytest.mark.parametrize("kind", ["joint_velocity", "joint_effort"])
def test_a_policy_without_position_targets_begins_at_rest(kind):
    """And not with the default pose's numbers, taken for speeds or torques."""
    bench = arm(arm_values(kind=kind, offset=[0.0, 0.0], rate_limit=[10.0, 10.0])).to(State.STAND)
    command = bench.activate(outcome=Outcome.LATE)
    assert not command.velocity.any() and not command.effort.any()
    command = bench.tick(output=[1.0, 1.0])
    row = command.velocity if kind == "joint_velocity" else command.effort
    # scale * a = 0.5, 0.25 of hip, knee; at most 10 a second * 0.02 s = 0.2 from rest; drives are knee, hip
    assert row.tolist() == [0.2, 0.2]


# The rest.


# Three periods, and at least a control period of 20 ms.
@pytest.mark.parametrize(("rate_hz", "valid_ms"), [(200.0, 20), (100.0, 30), (50.0, 60)])
def test_the_command_says_when_it_was_made_and_how_long_it_holds(rate_hz, valid_ms):
    bench = arm(rate_hz=rate_hz, valid_periods=3.0).to(State.ACTIVE)
    command = bench.tick()
    assert (command.state, command.stamp_ns, command.sequence) == (State.ACTIVE, bench.now_ns, 2 * bench.slot)
    assert command.valid_ns == valid_ms * MS


def test_out_of_the_training_range_for_some_steps_is_a_fault():
    values = go1_values()
    values["safety"]["observation_range"] = {"low": [-1.0] * 48, "high": [1.0] * 48}
    bench = Bench(values, file=quick(out_of_range_steps=3), rate_hz=50.0).to(State.ACTIVE)
    moved = {"joint_velocity": [0.0] * 7 + [1.5] + [0.0] * 4}
    bench.command(0.0, 0.0, 0.0)
    for ticks in (2, 2):
        for _ in range(ticks):
            bench.tick(**moved)
        bench.tick()
    assert bench.at is State.ACTIVE and bench.controller.watches.out_of_range_total == 4
    for _ in range(2):
        bench.tick(**moved)
    assert is_safe(bench.tick(**moved), pd=True) and bench.fault == "OBSERVATION_RANGE"
    assert (
        "joint_vel.RR_thigh_joint is 1.5, outside of training's [-1, 1]"
        in bench.controller.supervisor.fault.violation.sentence
    )


def test_thresholds_of_the_site_file_are_used():
    file = quick(safety=SiteSafety(state_age_lost_s=0.05, command_lost_s=0.1))
    bench = Bench(file=file, rate_hz=50.0).to(State.ACTIVE)
    for _ in range(4):  # with the one in which it was activated, 0.1 s
        bench.tick()
    assert bench.at is State.ACTIVE
    bench.tick()
    assert bench.at is State.STAND
    for _ in range(3):
        bench.tick(state=None)
    assert bench.fault == "STATE_LOST"


def test_leaving_while_an_action_is_awaited_and_coming_back():
    bench = arm(rate_hz=200.0).to(State.ACTIVE)
    for _ in range(4):
        bench.tick(outcome=Outcome.PENDING)
    assert bench.controller.awaiting
    bench.tick(ask=Event.STOP, outcome=Outcome.PENDING)
    assert bench.at is State.STAND and not bench.controller.awaiting
    while bench.controller.ramp_left_s(bench.now_ns) > 0:
        bench.tick()
    bench.activate(output=[0.5, 0.5])
    assert bench.stepped and bench.controller.action.tolist() == [0.5, 0.5]


def test_names_of_the_observations_elements():
    values = arm_values(
        [term("v", "joint_velocity", 2, "rad/s", "joint", element_names=ARM_JOINTS, joints=ARM_JOINTS, history=2)]
    )
    assert observation_names(Bench(values, arm_robot()).contract) == ("v.hip@-1", "v.knee@-1", "v.hip", "v.knee")
