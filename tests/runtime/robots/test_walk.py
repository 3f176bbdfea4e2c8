"""Walking, measured: figures of trajectories made by hand, and what the runtime sees and sends in lock step."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from flights import made_bundle

pytest.importorskip("mujoco")

from trudi.runtime.bundle import Bundle
from trudi.runtime.robots.base import RobotError, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.lockstep import LockStep
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.variation import Variation
from trudi.runtime.robots.walk import Life, SetDown, WalkCfg, Walker, measure, velocity_command
from trudi.runtime.session import choose, load_student
from trudi.runtime.site_file import SiteFile

ZOO = Path(__file__).parents[3] / "zoo"
AT_ONCE = SiteFile(joints={}, stand_s=0.1, fade_in_s=0.0)


@pytest.fixture(scope="module")
def go1(tmp_path_factory):
    """Contract and engine of a made-up Go1 policy, which stands and sways a little."""
    with Bundle.open(made_bundle(tmp_path_factory.mktemp("walk") / "go1")) as bundle:
        return bundle.contract, choose(bundle, ("onnx",)).engine


def life(command, velocity, *, power=0.0, action=None, ended=None, period_s=0.5):
    steps = len(command)
    actions = np.zeros((steps, 2)) if action is None else np.array(action, float)
    return Life(period_s, np.array(command, float), np.array(velocity, float), np.full(steps, power), actions, ended)


def test_a_velocitys_error_is_that_of_its_mean_and_the_sway_is_told_apart():
    """After 1 s (two steps) of each command; 9 is what came before it settled."""
    ahead, turn, late = (1.0, 0.0, 0.0), (0.0, 0.0, 0.5), 9.0
    walk = life(
        [ahead] * 4 + [turn] * 4 + [ahead] * 2,  # the last is not held for longer than 1 s
        [[late] * 3] * 2 + [[0.7, 0.1, 0.0], [1.1, -0.1, 0.0]] + [[late] * 3] * 2 + [[0.0, 0.2, 0.1]] * 2 + [[late] * 3] * 2,
    )
    figures = measure([walk], WalkCfg(settle_s=1.0), 10.0)
    # Means: (0.9, 0, 0) of (1, 0, 0), and (0, 0.2, 0.1) of (0, 0, 0.5): 0.1 and 0, 0 and 0.2, 0 and 0.4.
    assert figures.error == pytest.approx((0.05, 0.1, 0.2))
    # Both were seen for two steps, and weigh the same.
    # Moments: forward 0.3, 0.1, 0, 0; left 0.1, 0.1, 0.2, 0.2; turning 0, 0, 0.4, 0.4.
    assert figures.error_now == pytest.approx((0.1, 0.15, 0.2))


def test_a_moment_before_a_fall_weighs_as_a_moment():
    """0.1 m/s off for 9 steps, and 1 m/s for the one step before a fall: (9 * 0.1 + 1) / 10."""
    ahead, back = (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)
    walk = life([ahead] * 11 + [back] * 3, [(0.9, 0.0, 0.0)] * 11 + [(0.0, 0.0, 0.0)] * 3, ended="fall")
    assert measure([walk], WalkCfg(settle_s=1.0), 10.0).error == pytest.approx((0.19, 0.0, 0.0))


def test_falls_stops_and_time_are_counted_over_all_lives():
    still = (0.0, 0.0, 0.0)
    lives = [
        life([still] * steps, [still] * steps, ended=ended) for steps, ended in ((20, "fall"), (40, None), (12, "fall"))
    ]
    lives.append(life([still] * 8, [still] * 8, ended="joint_position"))
    figures = measure(lives, WalkCfg(), 10.0)
    assert figures.seconds == 40.0 and figures.falls == 2 and figures.stops == {"joint_position": 1} and figures.ends == 3
    assert figures.falls_per_hour == pytest.approx(3 * 90.0) and figures.time_to_fall_s == pytest.approx(40.0 / 3)
    calm = measure(lives[1:2], WalkCfg(), 10.0)
    assert (calm.falls, calm.stops, calm.falls_per_hour, calm.time_to_fall_s) == (0, {}, 0.0, None)


def test_energy_is_counted_over_the_path():
    """40 W for 4 s on a path of 0.5 m/s (0.3 forward, 0.4 left): 160 J on 2 m; a robot of 10 kg weighs 98.1 N."""
    walk = life([(0.3, 0.4, 0.0)] * 8, [(0.3, 0.4, 1.0)] * 8, power=40.0)
    figures = measure([walk], WalkCfg(), 10.0)
    assert figures.power_w == 40.0 and figures.energy_j_per_m == pytest.approx(80.0)
    assert figures.transport_cost == pytest.approx(80.0 / 98.1)
    here = measure([life([(0.0, 0.0, 0.0)] * 8, [(0.1, 0.0, 0.0)] * 8, power=40.0)], WalkCfg(), 10.0)
    assert here.energy_j_per_m is None and here.transport_cost is None


def test_smoothness_is_of_first_and_second_differences_within_a_life():
    """0, 1, 3, 2: changes 1, 2, 1 and 1, 3 of changes; the other element rests. The other life has only even changes."""
    still = [(0.0, 0.0, 0.0)] * 4
    jerky = life(still, still, action=[[0, 5], [1, 5], [3, 5], [2, 5]])
    even = life(still, still, action=[[7, 0], [8, 0], [9, 0], [10, 0]])
    figures = measure([jerky], WalkCfg(), 10.0)
    assert figures.action_rate == pytest.approx(4 / 6) and figures.action_bend == pytest.approx(4 / 4)
    both = measure([jerky, even], WalkCfg(), 10.0)
    assert both.action_rate == pytest.approx(7 / 12) and both.action_bend == pytest.approx(4 / 8)


def test_it_walks_where_nothing_ended_it_and_its_means_are_near():
    ahead = [(1.0, 0.0, 0.0)] * 8

    def walks(velocity, **options):
        return measure([life(ahead, [velocity] * 8, **options)], WalkCfg(), 10.0).walks(WalkCfg())

    assert walks((0.8, 0.2, 0.25)) and not walks((0.7, 0.0, 0.0)) and not walks((1.0, -0.3, 0.0))
    assert not walks((1.0, 0.0, 0.35)) and not walks((1.0, 0.0, 0.0), ended="fall")
    assert not measure([life(ahead[:1], ahead[:1])], WalkCfg(), 10.0).walks(WalkCfg()), "nothing was measured"
    with pytest.raises(RobotError, match="no walk"):
        measure([], WalkCfg(), 10.0)


def test_the_runtime_sees_in_lock_step_what_it_would_see_in_time(go1):
    """The observation by hand: terms of the base are one physics step old in this contract, actions a control step."""
    contract, engine = go1
    lock = LockStep(contract, engine, MujocoCfg(), AT_ONCE)
    simulation, states = lock.robot.simulation, []

    def keep():
        state = RobotState.zeros(lock.robot.description)
        simulation.measure(state)
        states.append(state)

    lock.after_physics = keep
    command = (0.4, -0.1, 0.2)
    lock.start([command])
    home = np.array([joint.default_position for joint in contract.robot.joints])
    names = lock.robot.description.joint_names
    order = [names.index(name) for name in contract.action.names]
    action, older = np.zeros(12), np.zeros(12)
    for _ in range(20):
        now, before = states[-1], states[-2]
        assert lock.step([command])
        x, y, z, w = before.quaternion_xyzw
        gravity = [2 * (w * y - x * z), -2 * (w * x + y * z), 2 * (x * x + y * y) - 1]
        joints = [now.joint_position[order] - home, now.joint_velocity[order]]
        hand = np.concatenate([before.linear_velocity, before.angular_velocity, gravity, *joints, older, command])
        assert lock.controller.observer.observation[0] == pytest.approx(hand, abs=1e-6)
        older, action = action, engine.buffers.action[0].astype(float)
        assert lock.controller.action == pytest.approx(action) and np.abs(action).max() > 0.001
    assert lock.robot.report().violation_count == 0


@pytest.mark.parametrize(("latency_s", "late_s"), [(0.004, 0.004), (0.02, 0.02), (0.06, 0.06), (0.003, 0.004)])
def test_a_command_acts_so_much_later(go1, latency_s, late_s):
    """The first target of the policy reaches the motors late by the latency, up to the next physics step of 4 ms."""
    assert acts_at(go1, latency_s) - acts_at(go1, 0.0) == pytest.approx(late_s, abs=1e-9)


def acts_at(go1, latency_s):
    """When the motors are at the first target of the policy, from its start; s."""
    lock, targets = LockStep(*go1, MujocoCfg(command_latency_s=latency_s), AT_ONCE), []
    lock.start([(0.5, 0.0, 0.0)])
    begin_ns = lock.now_ns
    lock.after_physics = lambda: targets.append((lock.now_ns, lock.robot.simulation.data.ctrl.copy()))
    lock.step([(0.5, 0.0, 0.0)])
    first = lock.controller.target.copy()
    for _ in range(5):
        lock.step([(0.5, 0.0, 0.0)])
    order = [lock.robot.description.drives.index(name) for name in lock.contract.action.names]
    return next((now_ns - begin_ns) * 1e-9 for now_ns, ctrl in targets if np.allclose(ctrl[order], first, atol=1e-12))


def test_velocities_are_the_bases_own(go1):
    """A base that looks to the left and moves along the world's x moves to its right."""
    walker = Walker(*go1, MujocoCfg())
    data = walker.lock.robot.simulation.data
    qpos, qvel = data.qpos.copy(), np.zeros(18)
    qpos[3:7] = math.cos(math.pi / 4), 0.0, 0.0, math.sin(math.pi / 4)
    qvel[:6] = 0.6, 0.1, 0.0, 0.0, 0.0, -0.7
    walker.lock.robot.simulation.set_state(qpos, qvel)
    assert walker.velocity == pytest.approx([0.1, -0.6, -0.7]) and not walker.fallen
    qpos[2] *= 0.4
    walker.lock.robot.simulation.set_state(qpos, qvel)
    assert walker.fallen
    qpos[2:7] = 0.3, math.cos(0.55), math.sin(0.55), 0.0, 0.0
    walker.lock.robot.simulation.set_state(qpos, qvel)
    assert walker.fallen, "tilted by 1.1 rad"


def test_a_robot_that_falls_stands_up_again_and_its_time_goes_on(go1):
    walker = Walker(*go1, MujocoCfg(variation=Variation(push_speed=8.0, push_every_s=1.0)))
    lives = walker.roam(3.0, every_s=1.0)
    assert [one.ended for one in lives[:-1]] == ["fall"] * (len(lives) - 1) and len(lives) > 1
    assert sum(one.seconds for one in lives) == pytest.approx(3.0)
    figures = walker.figures(lives)
    assert figures.falls == sum(one.ended == "fall" for one in lives) and figures.seconds == pytest.approx(3.0)
    report = walker.lock.robot.report()
    assert report.violation_count == 0, report.violations


def test_a_command_counts_from_when_the_policy_is_shown_it(go1):
    """For the second in which the policy is blended in, 50 control steps, that is neutral."""
    walk = Walker(*go1, MujocoCfg()).follow(np.tile((0.5, 0.2, 0.1), (100, 1)))
    assert walk.command[:50].tolist() == [[0.0, 0.0, 0.0]] * 50 and walk.command[50:].tolist() == [[0.5, 0.2, 0.1]] * 50


def test_a_robot_that_lies_has_fallen_though_it_is_upright(go1):
    """On its trunk and level: low enough to touch, not below half of its height; half a second of it is a fall."""
    cfg = WalkCfg(fall_height=0.01, lie_s=0.1)
    walker, limp = Walker(*go1, MujocoCfg(), cfg), Variation(motor_strength=0.01)
    assert walker.follow(np.zeros((20, 3))).ended is None and not walker.lies
    weak = Walker(*go1, MujocoCfg(variation=limp), cfg, AT_ONCE)
    sunk = weak.follow(np.zeros((300, 3)))
    assert sunk.ended == "fall" and sunk.seconds > 0.1 and weak.lies and not weak.fallen


def test_what_the_supervisor_stops_is_told_apart_from_a_fall(go1):
    contract, engine = go1
    strict = SiteFile.model_validate({"safety": {"max_action_rate_per_s": 1e-4}, "stand_s": 0.1})
    lives = Walker(contract, engine, MujocoCfg(), file=strict).roam(0.2)
    assert lives[0].ended == "action_rate" and lives[0].seconds == pytest.approx(0.02), "one action, and another"
    figures = measure(lives, WalkCfg(), 10.0)
    assert figures.falls == 0 and figures.stops == {"action_rate": figures.ends} and figures.ends >= 5


def test_power_is_torque_times_speed_of_what_the_motors_give(go1):
    """Ten physics steps with one joint driven: force as the docs have it, negative power left out."""
    walker = Walker(*go1, MujocoCfg())
    robot, data = walker.lock.robot, walker.lock.robot.simulation.data
    walker.follow(np.zeros((5, 3)))
    energies = []
    joint = robot.description.joint_names.index("FR_hip_joint") if "FR_hip_joint" in robot.description.joint_names else 0
    for speed in (2.0, -2.0):
        data.qvel[:] = 0.0
        data.qfrc_actuator[:] = data.qfrc_applied[:] = 0.0
        robot.simulation.model.dof_damping[6:] = 0.5
        data.qvel[6 + joint], data.qfrc_actuator[6 + joint] = speed, 5.0
        walker._energy = 0.0
        walker._count_energy()
        energies.append(walker._energy)
    assert energies == pytest.approx([(5.0 - 0.5 * 2.0) * 2.0 * 0.004, 0.0])


def test_random_commands_are_of_the_contracts_range_and_seeded(go1):
    walker = Walker(*go1, MujocoCfg())
    course = walker.course(400.0, 2.0, seed=3)
    assert course.shape == (20000, 3) and (course == walker.course(400.0, 2.0, seed=3)).all()
    assert (course != walker.course(400.0, 2.0, seed=4)).any()
    changes = np.flatnonzero(np.any(np.diff(course, axis=0), axis=1)) + 1
    assert set(np.diff(changes) % 100) == {0}
    low, high = walker.range.T
    assert (course >= low).all() and (course <= high).all()
    assert course.min(0) == pytest.approx(low, abs=0.1) and course.max(0) == pytest.approx(high, abs=0.1)
    assert 0.03 < (course == 0.0).all(1).mean() < 0.2


def test_it_sets_off_from_a_halt(go1):
    """Three times: nothing for 2.5 to 4.5 s, then one command of half of the range for 2 s; the first second is START's."""
    walker = Walker(*go1, MujocoCfg(), WalkCfg(fall_tilt_rad=3.0, fall_height=1e-3, lie_s=1e3))
    lives = walker.set_off(3, every_s=2.0, seed=1)
    assert [life.ended for life in lives] == [None]
    shown = lives[0].command
    changes = [0, *(np.flatnonzero(np.any(np.diff(shown, axis=0), axis=1)) + 1), len(shown)]
    halts, walks = np.diff(changes)[::2], np.diff(changes)[1::2]
    assert len(halts) == 3 and all(125 <= count <= 225 for count in halts) and walks.tolist() == [100] * 3
    for begin, end in itertools.pairwise(changes):
        asked = shown[begin:end]
        assert (asked == asked[0]).all() and (np.abs(asked[0]) <= 0.5 * walker.range[:, 1]).all()
    assert all((shown[begin] == 0.0).all() for begin in changes[:-1:2])
    assert all((shown[begin] != 0.0).all() for begin in changes[1::2])


def test_a_start_after_a_walk_is_a_start_like_the_first(go1):
    walker = Walker(*go1, MujocoCfg())
    first, second = (walker.follow(walker.course(1.0, 1.0, seed=1)) for _ in range(2))
    assert first.velocity == pytest.approx(second.velocity, abs=1e-3) and first.ended is second.ended is None
    assert walker.lock.controller.supervisor.state is State.ACTIVE


def test_a_start_waits_until_no_command_of_the_last_walk_is_on_its_way(go1):
    """With commands 60 ms late, a robot that was driven is limp when it is put back, and until STAND's first command."""
    lock = LockStep(*go1, MujocoCfg(command_latency_s=0.06), AT_ONCE)
    command = [(0.0, 0.0, 0.0)]
    assert lock.start(command)
    for _ in range(10):
        lock.step(command)
    assert lock.robot.report().stiffness == 35.0
    begin_ns, heard = lock.now_ns, []
    lock.after_physics = lambda: heard.append((lock.now_ns - begin_ns, lock.robot.report().stiffness))
    reset_pose = lock.robot.reset_pose
    put_back = []
    lock.robot.reset_pose = lambda: (put_back.append(lock.now_ns - begin_ns), reset_pose())
    assert lock.start(command)
    after = [stiffness for at_ns, stiffness in heard if put_back[0] <= at_ns <= put_back[0] + 60_000_000]
    assert len(after) > 10 and set(after) == {0.0}


def test_what_cannot_walk_is_refused(go1, tmp_path):
    cart = made_bundle(tmp_path / "cart", "cartpole_swingup", "CartpoleSwingup-v1")
    with Bundle.open(cart) as bundle, pytest.raises(RobotError, match="in the frame base; the bundle has none"):
        velocity_command(bundle.contract)
    with pytest.raises(RobotError, match="settle_s is -1"):
        WalkCfg(settle_s=-1.0)
    with pytest.raises(RobotError, match="no whole number of physics steps"):
        LockStep(*go1, MujocoCfg(), ticks_per_step=3)


@pytest.mark.parametrize("name", ["go1_flat", "go1_mjlab_flat"])
def test_the_zoos_go1s_walk(name):
    with Bundle.open(ZOO / name) as bundle:
        task = bundle.contract.task
        if task.backend == "mjlab":
            pytest.importorskip("mjlab")
        walker = Walker(bundle.contract, choose(bundle, ("onnx",)).engine, MujocoCfg(task=f"{task.backend}:{task.id}"))
    lives = [walker.follow(np.tile(command, (250, 1))) for command in ((0.5, 0.0, 0.0), (0.0, 0.0, 0.5))]
    figures = walker.figures(lives)
    assert figures.walks(walker.cfg), figures
    assert 11.0 < walker.mass_kg < 14.0 and 0.05 < figures.transport_cost < 3.0
    assert all(before.ended is None for before in lives) and list(itertools.chain(figures.stops)) == []


def test_told_to_run_backwards_from_the_start_it_does_not_fall():
    """Commands may jump here; shown them while it is blended in, the same policy falls after 1.3 s at both."""
    with Bundle.open(ZOO / "go1_flat") as bundle:
        contract, engine = bundle.contract, choose(bundle, ("onnx",)).engine
    jumps = contract.model_copy(update={"safety": contract.safety.model_copy(update={"command_slew_s": None})})
    walker = Walker(jumps, engine, MujocoCfg())
    lives = [walker.follow(np.tile(command, (150, 1))) for command in ((-1.5, -0.8, 0.0), (-1.5, 0.0, 1.2))]
    assert [life.ended for life in lives] == [None, None] and all(life.velocity[-25:, 0].mean() < -1.0 for life in lives)


def test_the_zoos_go1_is_stopped_in_mid_stride():
    """Ten random commands; set down from wherever its feet are when it has halted, the same policy falls at several."""
    with Bundle.open(ZOO / "go1_flat") as bundle:
        contract, engine = bundle.contract, choose(bundle, ("onnx",)).engine
    rng = np.random.default_rng(0)
    walks = []
    for _ in range(10):
        command = rng.uniform([-1.5, -0.8, -1.2], [1.5, 0.8, 1.2]).tolist()
        walks.append((command, rng.uniform(2.0, 5.0)))
    found: dict[bool, list[SetDown]] = {}
    for fades in (True, False):
        file = SiteFile(joints={}) if fades else SiteFile(joints={}, halt_s=1.0, fade_out_s=0.0)
        walker = Walker(contract, engine, MujocoCfg(), file=file)
        found[fades] = [walker.set_down(*walk) for walk in walks]
    assert all(one.asked for one in found[True] + found[False])
    assert [one.ended for one in found[True]] == [None] * 10 and all(3.0 <= one.took_s < 5.0 for one in found[True])
    assert [one.ended for one in found[False]].count("fall") >= 2
    assert walker.lock.robot.report().violation_count == 0


def test_the_zoos_go1_and_its_student_step_aside_from_a_halt():
    """Twenty times slowly to the left; the first student of this policy fell nine times."""
    rng, parts = np.random.default_rng(0), []
    for _ in range(20):
        parts.append(np.zeros((int(rng.integers(125, 225)), 3)))
        parts.append(np.tile(rng.uniform((-0.3, 0.15, -1.0), (0.2, 0.5, 1.0)), (200, 1)))
    with Bundle.open(ZOO / "go1_flat") as bundle:
        contract, engines = bundle.contract, (choose(bundle, ("onnx",)).engine, load_student(bundle)[0])
    for engine in engines:
        walker = Walker(contract, engine, MujocoCfg())
        figures = walker.figures(walker.run(np.concatenate(parts)))
        assert figures.walks(walker.cfg), figures


def test_a_walk_that_ends_before_its_stop_is_told_apart(go1):
    tender = Walker(*go1, MujocoCfg(), WalkCfg(fall_tilt_rad=1e-3), AT_ONCE)
    found = tender.set_down((0.5, 0.0, 0.0), 2.0)
    assert not found.asked and found.ended == "fall" and 0.0 <= found.drove_s < 2.0 and found.took_s == 0.0
    calm = Walker(*go1, MujocoCfg(), file=AT_ONCE.model_copy(update={"halt_s": 0.2, "fade_out_s": 0.1}))
    found = calm.set_down((0.5, 0.0, 0.0), 1.0, rest_s=0.2)
    # It is shown commands until it is asked: a halt of ten control steps, five of blending out; the next one stands.
    assert (found.asked, found.ended, found.drove_s) == (True, None, 1.0) and found.took_s == pytest.approx(0.3, abs=0.021)


def test_the_go1_trained_on_a_cpu_bears_what_its_card_says():
    """Twenty seconds of random commands of its whole range each: as it is, and 24 ms late on slippery ground."""
    with Bundle.open(ZOO / "go1_flat") as bundle:
        contract, engine = bundle.contract, choose(bundle, ("onnx",)).engine
    assert contract.safety.command_slew_s == 2.0 and contract.safety.state_age_warn_s == 0.03
    for robot in (MujocoCfg(seed=20), MujocoCfg(seed=20, command_latency_s=0.024, variation=Variation(friction=0.6))):
        walker = Walker(contract, engine, robot)
        figures = walker.figures(walker.roam(20.0, seed=20))
        assert figures.walks(walker.cfg), figures
        assert walker.lock.robot.report().violation_count == 0
