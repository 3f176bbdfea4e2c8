"""The fault matrix against the real loop and the real robot process, and what the robot does when the runtime is gone."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fault_matrix import MATRIX, QUICK
from flights import await_line, end, fly, made_bundle, start, unsafe, until

from trudi.cli import main
from trudi.runtime.flight.recording import read_recording
from trudi.runtime.recorder import STATES, TICKS
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
from trudi.runtime.supervisor import FaultCode

RATE = 200.0
PROMPT_S = 1.0
"""From a fault's detection to a safe command, at most; benchmarks/fault_times.py has the exact figures, 100 times less."""
FAST = ("--seconds", "1.6", "--rate", RATE, "--command", "vx=0.2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "go1")


@pytest.fixture(scope="module")
def with_student(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "go1_student", student=True)


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_a_fault_is_met_as_the_matrix_says(case, bundle, with_student, tmp_path, capsys):
    flown = with_student if case.student else bundle
    code, report, said = fly(flown, tmp_path, *FAST, *case.options, faults=case.faults, site_file=QUICK | case.site_file)
    assert report, said
    assert report["state"] == case.final, said
    assert [fault["code"] for fault in report["faults"]] == ([case.code] if case.code else []), said
    assert code == (1 if case.code else 0), said
    if report["robot"] is None:  # a robot that was killed reports nothing
        assert report["sending"]["refused"] > 0 and "times nobody listened at the robot's port" in said
    else:
        assert not unsafe(report["robot"])
        assert report["robot"]["commands"] > 100
        if case.code:
            check_time_to_safety(report)
    if case.student:
        assert report["students"] >= 1
    ticks = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    check_commands(ticks, FaultCode[case.code] if case.code else None)
    again = tmp_path / "replay.json"
    replayed = main(["replay", str(tmp_path / "flight.mcap"), "--bundle", str(flown), "--json", str(again)])
    result = json.loads(again.read_text())
    if case.code == "ACTION_NOT_FINITE":  # The engine that flew was made to lie; a replay finds that, and only that.
        assert replayed == 1 and result["differences"] == 1
        assert result["first"][0]["field"] == "output[0]" and result["first"][0]["recorded"] == "nan"
    else:
        assert replayed == 0 and result["identical"], capsys.readouterr()


def check_time_to_safety(report):
    """By one clock: the robot notes when a fault began and when a safe command came, the runtime the tick that found it."""
    (injected,) = report["robot"]["injected"]
    assert injected["safe_s"] is not None, injected
    began_s = injected["at_monotonic_s"] - injected["at_s"]
    detected_s = report["faults"][0]["at_ns"] * 1e-9 - began_s
    assert 0.0 <= injected["safe_s"] - detected_s <= PROMPT_S, (injected, detected_s)


def check_commands(ticks, code):
    """No stiffness from the very tick on that finds the fault, none before the robot stands, and never a NaN."""
    stiffness, command = ticks["command"][:, 3], ticks["command"]
    assert np.isfinite(command).all()
    stiff = stiffness.any(1)
    assert not stiff[~np.isin(ticks["supervisor"], (State.STAND, State.ACTIVE))].any()
    assert stiff[ticks["supervisor"] == State.ACTIVE].all()
    faulty = ticks["fault"] >= 0
    assert faulty.any() == (code is not None)
    if code is None:
        return
    first = int(np.argmax(faulty))
    assert ticks["fault"][first] == code and faulty[first:].all()
    assert not stiff[first:].any()
    assert first > 0 and stiff[first - 1], "the robot was driven until the fault was found"


def test_commands_that_stop_become_neutral_and_then_the_robot_stands(bundle, tmp_path):
    stop = [{"kind": "command_stop", "at_s": 0.3}]
    code, report, said = fly(bundle, tmp_path, *FAST, faults=stop, site_file=QUICK | {"safety": {"command_lost_s": 0.8}})
    assert report["state"] == "STAND" and code == 0, said
    assert re.fullmatch(r"by COMMAND_LOST after 1\.[0-4]\d s: no command for 0\.8 s, and the robot .*", report["ended"]), (
        said
    )
    assert f"ended   {report['ended']}" in said
    ticks = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    shown = ticks["observation"][ticks["stepped"] == 1][:, 45:]  # vx, vy, wz, the observation's last term
    assert not shown[0].any() and np.float32(0.2) in shown[:, 0], "neutral while it is blended in, then as commanded"
    active = np.flatnonzero(ticks["supervisor"] == State.ACTIVE)
    age = ticks["now_ns"] - ticks["given_ns"][:, 0]
    stale = (ticks["stepped"] == 1) & (age > 0.5e9)
    assert stale.any() and not ticks["observation"][stale][:, 45:].any()
    # Lost after 0.8 s, when it has been neutral for longer than a halt; then it is blended out for 0.2 s.
    assert 1.0e9 - 2e9 / RATE < age[active[-1]] < 1.0e9 + 2e9 / RATE


@pytest.fixture
def robot():
    with MujocoRobot(MujocoCfg()) as robot:
        yield robot


@contextlib.contextmanager
def flying(robot, bundle, folder, **options):
    """A `trudi run` on that robot, from when it drives it; killed in the end."""
    (folder / "site.yaml").write_text(json.dumps(QUICK))
    address = f"udp:127.0.0.1:{robot.port}"
    process = start(
        "run", bundle, "--robot", address, "--site", folder / "site.yaml", "--rate", RATE,
        "--seconds", options.pop("seconds", "60"),
        "--record", folder / "flight.mcap", "--json", folder / "report.json", **options,
    )  # fmt: skip
    try:
        await_line(process, ": ACTIVE")
        before = robot.report().commands
        until(lambda: robot.report().commands > before + 50, "commands arrive")
        yield process
    finally:
        end(process)


def ended(process, folder, code=0):
    """The report of a flight that ends with that exit code."""
    said, errors = process.communicate(timeout=30)
    assert process.returncode == code, said + errors
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_of_the_system_damps_and_says_so(number, robot, bundle, tmp_path):
    with flying(robot, bundle, tmp_path) as process:
        process.send_signal(number)
        report = ended(process, tmp_path)
    assert report["interrupted"] == number.name and report["faults"] == [] and report["ended"] == f"by {number.name}"
    ticks = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    assert ticks["supervisor"][-1] == State.ACTIVE  # the loop's very last command, to damp, is beyond its last tick
    seen = robot.report()
    assert not unsafe(seen)
    assert seen.stiffness == 0.0


def test_ctrl_c_stands_the_robot_up_and_another_one_damps_it(robot, bundle, tmp_path):
    with flying(robot, bundle, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        report = ended(process, tmp_path)
    assert report["interrupted"] == "SIGINT" and report["state"] == "STAND"
    with flying(robot, bundle, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.06)  # two at once are one to the kernel
        process.send_signal(signal.SIGTERM)
        report = ended(process, tmp_path)
    assert report["interrupted"] == "SIGTERM"
    ticks = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    standing = np.count_nonzero(
        ticks["supervisor"][np.flatnonzero(ticks["supervisor"] == State.ACTIVE)[-1] :] == State.STAND
    )
    assert standing < 0.3 * RATE, "the 0.3 s of standing up were not waited for"


def test_a_runtime_that_is_killed_leaves_a_robot_that_damps_by_itself(robot, bundle, tmp_path):
    with flying(robot, bundle, tmp_path) as process:
        until(lambda: robot.report().stiffness == 35.0, "the policy drives")
        process.kill()
        process.wait()
        received = robot.report().commands
        until(lambda: robot.report().stiffness == 0.0, "the robot damps by itself")
    assert robot.report().commands == received
    assert not unsafe(robot.report())


def test_a_flight_can_be_saved_while_it_goes_on(robot, bundle, tmp_path):
    """Again and again; what was asked for is not overwritten by the recording of the end."""
    with flying(robot, bundle, tmp_path) as process:
        time.sleep(1.5)  # longer than the time between keyframes
        for number in (1, 2):
            process.send_signal(signal.SIGUSR1)
            until((tmp_path / f"flight_{number}.mcap").exists, "the flight is written")
        assert process.poll() is None and not (tmp_path / "flight.mcap").exists()
        process.send_signal(signal.SIGINT)
        report = ended(process, tmp_path)
    assert report["recordings"] == [str(tmp_path / f"flight{end}.mcap") for end in ("_1", "_2", "")]
    flight = read_recording(tmp_path / "flight_1.mcap")
    assert set(np.unique(flight.channels[TICKS]["supervisor"])) == {State.INACTIVE, State.STANDBY, State.STAND, State.ACTIVE}
    assert len(flight.channels[STATES]) > 100
    assert len(read_recording(tmp_path / "flight.mcap").channels[TICKS]) > len(flight.channels[TICKS])


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long offset(void) { const char *path = getenv("STEP"); return path && access(path, F_OK) == 0 ? -7200 : 0; }
int clock_gettime(clockid_t clock, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, out);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) out->tv_sec += offset();
    return code;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec; out->tv_usec = now.tv_nsec / 1000; return 0;
}
time_t time(time_t *out) {
    struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


def wall_clock(environment):
    shown = subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"], env=environment)
    return float(shown)


def test_setting_the_wall_clock_back_two_hours_changes_nothing(bundle, tmp_path):
    """The runtime's process sees its wall clock step in flight (a shim between it and libc), as when NTP finds the time."""
    source, shim, step = tmp_path / "shim.c", tmp_path / "shim.so", tmp_path / "step"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    with MujocoRobot(MujocoCfg()) as robot:  # outside of the shim
        environment = {"LD_PRELOAD": str(shim), "STEP": str(step)}
        seen = wall_clock(environment)
        step.touch()
        assert seen - wall_clock(environment) == pytest.approx(7200, abs=60)
        step.unlink()
        with flying(robot, bundle, tmp_path, seconds="2", env=environment) as process:
            step.touch()
            report = ended(process, tmp_path)
        assert report["faults"] == [] and report["state"] == "STAND"
        assert report["control_steps"] > 45, "half of what 2 s have"
        assert not unsafe(robot.report())
