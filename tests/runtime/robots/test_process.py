"""The robot's process, for real: its stream, what it obeys, when it damps, every fault, and how it ends."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import JointCommand, RobotError, StateRejected, SupervisorState
from trudi.runtime.robots.injection import ROBOT_KINDS, Fault
from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
from trudi.runtime.robots.simulation import GO1_TASK
from trudi.runtime.robots.udp import UdpRobot

pytestmark = pytest.mark.realtime

State = SupervisorState
HOME = np.array([0.1, 0.9, -1.8, -0.1, 0.9, -1.8] * 2)
ROOT = Path(__file__).parents[3]


class Driver:
    """A runtime in short: STANDBY, STAND where the joints are, ACTIVE towards `HOME`; keeps all that it reads."""

    def __init__(self, robot):
        self.robot, self.description = robot, robot.describe()
        self.command = JointCommand.zeros(len(self.description.drives))
        self.values, self.stamps, self.received, self.sequences, self.rejected = [], [], [], [], []

    def read(self):
        while True:
            try:
                state = self.robot.read()
            except StateRejected as error:
                self.rejected.append((error.kind, str(error)))
                continue
            if state is None:
                return
            self.values.append(state.values.copy())
            self.stamps.append(state.stamp_ns)
            self.received.append(state.received_ns)
            self.sequences.append(state.sequence)

    def send(self, state, **fields):
        command = self.command
        command.state, command.sequence = state, command.sequence + 1
        command.stamp_ns, command.valid_ns = monotonic_ns(), 50_000_000
        if self.description.pd:
            command.damping[:], command.stiffness[:] = 1.0, 35.0 if state in (State.STAND, State.ACTIVE) else 0.0
        for name, value in fields.items():
            getattr(command, name)[:] = value
        self.robot.write(command)

    def run(self, seconds, state, **fields):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.read()
            if state is not None:
                self.send(state, **fields)
            time.sleep(0.004)
        self.read()
        return self

    def start(self):
        """To ACTIVE, so that the schedule begins."""
        self.run(0.05, State.STANDBY)
        if self.description.pd:
            self.command.position[:] = np.clip(self.joints[-1], *self.limits)
        self.run(0.05, State.STAND)
        self.command.position[:] = HOME if self.description.pd else 0.0
        return self

    @property
    def limits(self):
        return np.array([joint.position_limit for joint in self.description.joints]).T

    @property
    def array(self):
        return np.array(self.values)

    @property
    def joints(self):
        return self.array[:, : len(self.description.joints)]

    @property
    def speeds(self):
        count = len(self.description.joints)
        return self.array[:, count : 2 * count]

    @property
    def efforts(self):
        count = len(self.description.joints)
        return self.array[:, 2 * count : 3 * count]

    @property
    def quaternions(self):
        count = 3 * len(self.description.joints)
        return self.array[:, count : count + 4]


@pytest.fixture
def go1():
    with MujocoRobot(MujocoCfg()) as robot:
        yield robot


def test_it_streams_states_at_its_own_rate(go1):
    driver = Driver(go1)
    assert driver.description.name == "unitree_go1" and driver.description.shared_clock
    driver.run(0.6, None)
    gaps_ms = np.diff(driver.stamps) / 1e6
    assert (gaps_ms > 0).all() and 3.0 < np.median(gaps_ms) < 5.0
    assert (np.diff(driver.sequences) == 1).all()
    assert all(received >= stamp for received, stamp in zip(driver.received, driver.stamps, strict=True))
    assert len(driver.stamps) > 50 and not driver.rejected
    assert go1.alive and go1.pid != os.getpid()


def test_it_obeys_and_a_right_course_has_no_violation(go1):
    driver = Driver(go1).start().run(0.8, State.ACTIVE)
    assert np.abs(driver.efforts[-1]).max() > 1.0  # it carries itself
    assert np.abs(driver.joints[-1] - HOME).max() < 0.3
    assert driver.array[-1][-1] > 0.23  # the base's height
    driver.run(0.05, State.FAULT)
    report = go1.report()
    assert report.violation_count == 0, report.violations
    assert report.commands == driver.command.sequence and report.notes == () and report.returns == ()
    assert not driver.efforts[-1].any()


def test_it_damps_by_itself_when_it_hears_nothing(go1):
    driver = Driver(go1).start().run(0.1, State.ACTIVE)
    assert driver.efforts[-1].any()
    driver.run(0.6, None)
    assert not driver.efforts[-1].any() and driver.array[-1][-1] < 0.2  # it sinks


def test_it_obeys_no_longer_than_a_command_is_valid():
    """50 ms by the command, though the robot itself would wait for 10 s."""
    with MujocoRobot(MujocoCfg(command_timeout_s=10.0)) as robot:
        driver = Driver(robot).start().run(0.1, State.ACTIVE).run(0.5, None)
        assert not driver.efforts[-1].any()


RUNTIME = """
import sys
sys.path[:0] = {paths!r}
from test_process import Driver, State, UdpRobot
driver = Driver(UdpRobot({port})).start().run(0.8, State.ACTIVE)
print(abs(driver.efforts[-1]).max(), flush=True)
driver.run(60, State.ACTIVE)
"""


def test_a_killed_runtime_lets_it_damp():
    with MujocoRobot(MujocoCfg(faults=(Fault("command_stop", 0.0),))) as robot:
        paths = [str(ROOT / "runtime"), str(Path(__file__).parent)]
        code = RUNTIME.format(paths=paths, port=robot.port)
        runtime = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert float(runtime.stdout.readline()) > 1.0  # it drives
        assert robot.report().injected[0]["own_damping_s"] is None
        runtime.kill()
        runtime.wait()
        runtime.stdout.close()
        time.sleep(0.3)
        report = robot.report()
        assert report.injected[0]["own_damping_s"] > 0 and report.violation_count == 0
        driver = Driver(robot).run(0.1, None)
        assert not driver.efforts[-1].any()


def test_unsafe_commands_are_reported():
    with MujocoRobot(MujocoCfg()) as robot:
        driver = Driver(robot).run(0.03, State.STANDBY)
        driver.send(State.ACTIVE)
        driver.send(State.ACTIVE, position=9.0)
        driver.send(State.ACTIVE, position=math.nan)
        robot._stream.send(b"noise")
        driver.run(0.03, State.FAULT)
        report = robot.report()
        said = " | ".join(report.violations)
        for part in ("STANDBY -> ACTIVE", "position target of FR_hip_joint is 9", "nan: not finite", "5 bytes is shorter"):
            assert part in said
        assert np.isfinite(driver.array).all()
        assert robot.alive and report.violation_count == len(report.violations) >= 4


def test_a_stranger_cannot_drive_it(go1):
    driver = Driver(go1).run(0.03, State.STANDBY)
    with UdpRobot(go1.port) as stranger:
        stranger._encoder = go1._encoder
        stranger.write(driver.command)
        time.sleep(0.05)
    assert "did not say hello" in " | ".join(go1.report().violations)


AT_S, FOR_S = 0.15, 0.15


def run_with(*faults, task=GO1_TASK, seconds=0.5, **options):
    """The stream of a robot at ACTIVE with `faults`: the driver, and the robot's report."""
    with MujocoRobot(MujocoCfg(task=task, faults=faults, **options)) as robot:
        driver = Driver(robot).start().run(seconds, State.ACTIVE)
        return driver, robot.report()


def largest_gap_s(driver):
    return np.diff(driver.stamps).max() / 1e9


def tilt_of(quaternions):
    x, y, _, _ = quaternions.T
    return np.arccos(np.clip(1 - 2 * (x * x + y * y), -1, 1))


TESTED = set()


def seen(kind):
    TESTED.add(kind)
    return kind


@pytest.mark.parametrize(
    "fault,visible",
    [
        (Fault(seen("state_stop"), AT_S, FOR_S), lambda d: 0.14 < largest_gap_s(d) < 2.0),
        (Fault(seen("state_freeze"), AT_S, FOR_S), lambda d: (np.diff(d.stamps) == 0).sum() > 10 and same_when_frozen(d)),
        (Fault(seen("state_back"), AT_S, FOR_S, 1.0), lambda d: np.diff(d.stamps).min() < -0.9e9),
        (Fault(seen("clock_step"), AT_S, None, 2.0), lambda d: 1.9e9 < np.diff(d.stamps).max() < 2.5e9 and ahead(d, 2.0)),
        (Fault("clock_step", AT_S, None, -2.0), lambda d: np.diff(d.stamps).min() < -1.9e9 and ahead(d, -2.0)),
        (Fault(seen("state_nan"), AT_S, FOR_S), lambda d: np.isnan(d.joints[:, 0]).any() and np.isfinite(d.array[-1]).all()),
        (Fault("state_nan", AT_S, FOR_S, "quaternion_xyzw"), lambda d: np.isnan(d.quaternions[:, 0]).any()),
        (Fault(seen("state_inf"), AT_S, FOR_S, "joint_velocity"), lambda d: np.isinf(d.speeds[:, 0]).any()),
        (
            Fault(seen("state_size"), AT_S, FOR_S),
            lambda d: d.rejected[0][0] == "malformed" and "numbers" in d.rejected[0][1],
        ),
        (Fault(seen("state_layout"), AT_S, FOR_S), lambda d: d.rejected[0][0] == "layout" and len(d.rejected) > 10),
        (Fault(seen("state_dropout"), AT_S, None, 0.5), lambda d: (np.diff(d.stamps) > 7e6).sum() > 5),
        (Fault(seen("state_noise"), AT_S, None, 1.0), lambda d: np.diff(d.joints[-40:, 0]).std() > 0.01),
        (Fault(seen("quantise"), AT_S, None, 0.125), lambda d: (d.array[-1] % 0.125 == 0).all()),
        (Fault(seen("push"), AT_S, None, 2.0), lambda d: np.abs(d.array[:, 43:45]).max() > 1.0),
        (Fault(seen("tip_over"), AT_S, None, 1.6), lambda d: tilt_of(d.quaternions).max() > 1.3),
        (Fault(seen("joint_position"), AT_S, None, 0.2), lambda d: (np.abs(d.joints[:, 0] - 1.063) < 1e-9).sum() > 10),
        (Fault(seen("joint_velocity"), AT_S, None, 40.0), lambda d: (d.speeds[:, 0] == 40.0).sum() > 10),
        (Fault(seen("robot_stall"), AT_S, None, 0.3), lambda d: 0.29 < largest_gap_s(d) < 2.0),
    ],
    ids=lambda item: f"{item.kind} {item.value or ''}" if isinstance(item, Fault) else "",
)
def test_a_fault_is_visible_in_the_stream_and_in_the_report(fault, visible):
    driver, report = run_with(fault)
    assert visible(driver)
    assert report.violation_count == 0, report.violations
    (injected,) = report.injected
    assert injected["kind"] == fault.kind and AT_S <= injected["at_s"] < AT_S + 1.0 and injected["safe_s"] is None
    assert len(driver.rejected) == 0 or fault.kind in ("state_size", "state_layout")
    if fault.kind == "robot_stall":
        assert "fell behind" in report.notes[0]


def same_when_frozen(driver):
    frozen = np.flatnonzero(np.diff(driver.stamps) == 0)
    return (driver.array[frozen] == driver.array[frozen + 1]).all() and np.diff(driver.sequences).min() > 0


def ahead(driver, seconds):
    """Whether the last stamps are `seconds` ahead of the clock."""
    return abs((driver.stamps[-1] - driver.received[-1]) / 1e9 - seconds) < 0.5


def test_robot_kill():
    TESTED.add("robot_kill")
    with MujocoRobot(MujocoCfg(faults=(Fault("robot_kill", AT_S),))) as robot:
        driver = Driver(robot).start().run(0.6, State.ACTIVE)  # nothing is raised
        assert not robot.alive and robot.refused > 0
        assert (time.monotonic_ns() - driver.stamps[-1]) / 1e9 > 0.2
        with pytest.raises(RobotError, match=r"process has ended .signal SIGKILL"):
            robot.report()


def test_command_latency():
    """A motor's effort follows a step of its target after the latency."""
    TESTED.add("command_latency")
    delays = []
    for latency in (0.0, 0.06):
        with MujocoRobot(
            MujocoCfg(command_latency_s=latency / 2, faults=(Fault("command_latency", 0.0, None, latency / 2),))
        ) as r:
            driver = Driver(r).start().run(0.3, State.ACTIVE)
            changed = monotonic_ns()
            driver.command.position[0] = -0.3
            driver.run(0.2, State.ACTIVE)
            moved = next(i for i, stamp in enumerate(driver.stamps) if stamp > changed and driver.efforts[i][0] < -8.0)
            delays.append((driver.stamps[moved] - changed) / 1e9)
    assert 0.05 < delays[1] < 0.5 and delays[0] < delays[1]


def test_every_kind_is_tested():
    assert set(ROBOT_KINDS) - TESTED <= {"robot_kill", "command_latency"}


def test_imperfect_sensors_from_the_start():
    with MujocoRobot(MujocoCfg(noise=1.0, dropout=0.3, quantise=0.001)) as robot:
        driver = Driver(robot).run(0.4, None)
        assert (np.diff(driver.stamps) > 7e6).sum() > 5
        assert np.diff(driver.joints[:, 0]).std() > 0.01
        np.testing.assert_allclose(driver.array[-1], np.round(driver.array[-1], 3), atol=1e-9)


def test_a_task_with_a_reward_waits_for_the_policy_and_then_counts():
    """Episodes of 1000 steps of 10 ms; the first control of 1 moves the cart of the balancing task."""
    with MujocoRobot(MujocoCfg(task="CartpoleBalance-v1", seed=3)) as robot:
        driver = Driver(robot).run(0.2, State.STANDBY)
        assert (driver.array == driver.array[0]).all() and (np.diff(driver.stamps) > 0).all()
        driver.run(0.05, State.STAND).run(0.3, State.ACTIVE, effort=1.0)
        assert driver.joints[-1][0] > 0.05
        assert robot.report().returns == () and robot.report().violation_count == 0


def test_returns_are_counted_and_the_next_episode_starts():
    from trudi.runtime.robots.simulated import Episodes
    from trudi.runtime.robots.simulation import make_simulation

    simulation = make_simulation("WalkerStand-v1")
    simulation.reset(7)
    first = simulation.data.qpos.copy()
    episodes, total = Episodes(simulation, 7), 0.0
    for _ in range(1000):
        for substep in range(10):
            simulation.step(None)
            total += simulation.reward() if substep == 9 else 0.0
            episodes.count_step()
    assert episodes.returns == [pytest.approx(total)] and total > 10
    simulation.data.qpos[0] = 0.0
    assert not np.array_equal(simulation.data.qpos, first)  # seed 8
    expected = make_simulation("WalkerStand-v1")
    expected.reset(8)
    np.testing.assert_array_equal(simulation.data.qpos, expected.data.qpos)


@pytest.mark.parametrize(
    "options,says",
    [
        ({"task": "Go2"}, "no simulated robot for the task 'Go2'; .*MuJoCoPlayground"),
        ({"noise": -1.0}, "noise is -1.0: must be 0 or more"),
        ({"dropout": 1.1}, "dropout is 1.1: a probability is 0 to 1"),
        ({"command_timeout_s": 0.0}, "command_timeout_s is 0.0: must be above 0"),
        ({"state_period_s": 0.0}, "state_period_s is 0.0"),
        ({"state_period_s": 0.005}, "state_period_s is 0.005: must be a multiple of the physics step of 0.004 s"),
        ({"model": "none.xml"}, "did not start: no model at none.xml"),
        ({"model": "none.xml", "task": "CheetahRun-v1"}, "only MuJoCoPlayground"),
        ({"task": "CheetahRun-v1", "faults": (Fault("tip_over", 1.0, None, 1.0),)}, "needs a robot with a free base"),
        ({"cpu": 4096}, "cpu 4096 may not be used"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(options, says):
    with pytest.raises(Exception, match=says) as caught:
        MujocoRobot(MujocoCfg(**options))
    assert "\n" not in str(caught.value)


def test_a_window_needs_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RobotError, match="needs a display"):
        MujocoRobot(MujocoCfg(view="window"))


def test_a_priority_that_is_not_permitted_is_noted():
    with MujocoRobot(MujocoCfg(priority=50)) as robot:
        Driver(robot).run(0.1, None)
        assert all("priority" in note or "memory" in note for note in robot.report().notes)


def test_a_slower_stream():
    with MujocoRobot(MujocoCfg(state_period_s=0.02)) as robot:
        driver = Driver(robot).run(0.4, None)
        assert driver.description.state_period_s == 0.02 and 15e6 < np.median(np.diff(driver.stamps)) < 25e6


def gone(pid):
    """Whether a process has ended: none left, or a zombie that its new parent has not collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def ends_within(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if gone(pid):
            return True
        time.sleep(0.02)
    return False


def test_it_ends_when_it_is_closed_and_reports():
    robot = MujocoRobot(MujocoCfg())
    Driver(robot).run(0.1, State.STANDBY)
    robot.close()
    robot.close()
    assert robot._process.returncode == 0 and not Path(f"/proc/{robot.pid}").exists()  # no zombie
    assert robot.final_report.commands > 0


def test_it_ends_when_it_is_asked_to():
    with MujocoRobot(MujocoCfg()) as robot:
        robot.describe()
        robot.stop()
        assert ends_within(robot.pid)


def test_a_process_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr("trudi.runtime.robots.mujoco._END_S", 0.2)
    robot = MujocoRobot(MujocoCfg())
    os.kill(robot.pid, signal.SIGSTOP)
    robot.close()
    assert robot._process.returncode == -signal.SIGKILL and robot.final_report is None


PARENT = """
import sys, time
sys.path[:0] = {paths!r}
from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
robot = MujocoRobot(MujocoCfg())
print(robot.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_with_its_parent():
    code = PARENT.format(paths=[str(ROOT / "runtime")])
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ends_within(pid)


def test_by_hand_it_prints_its_port_and_ends_on_sigterm():
    command = [sys.executable, "-m", "trudi.runtime.robots.mujoco_process", "--config", '{"task": "CheetahRun-v1"}']
    environment = os.environ | {"PYTHONPATH": str(ROOT / "runtime")}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)
    with UdpRobot(json.loads(process.stdout.readline())["port"]) as robot:
        assert robot.describe().name == "dm_control_cheetah"
        process.terminate()
        assert process.wait(timeout=5) == 0
        assert json.loads(process.stdout.read())["report"]["commands"] == 0
        process.stdout.close()


@pytest.mark.parametrize(
    "config,says",
    [
        ("{", "--config is not valid JSON"),
        ("[]", "--config must be a JSON object"),
        ('{"taks": 1}', "--config: unknown field 'taks'; did you mean task"),
        ('{"faults": [{"kind": "push", "at_s": 1}]}', "--config: fault 1: value of push"),
    ],
)
def test_a_config_that_is_not_understood(config, says):
    with pytest.raises(RobotError) as caught:
        MujocoCfg.from_json(config)
    assert says in str(caught.value)


def test_a_config_survives_json():
    cfg = MujocoCfg(task="WalkerRun-v1", noise=0.5, faults=(Fault("push", 1.0, None, 2.0), Fault("action_nan", 2.0)))
    assert MujocoCfg.from_json(cfg.to_json()) == cfg


def test_the_runtimes_side_imports_no_physics():
    code = "import sys, trudi.runtime.robots.mujoco; assert not {'mujoco', 'envpool', 'torch'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "runtime")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_without_mujoco_the_extra_is_named(monkeypatch):
    from trudi.runtime.robots.simulation import load_mujoco

    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(RobotError, match=r"needs MuJoCo .*pip install 'trudi\[mujoco\]'"):
        load_mujoco()
