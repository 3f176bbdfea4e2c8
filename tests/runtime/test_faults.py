"""The fault matrix against the real loop and the real robot process, and what the robot does when the runtime is gone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fault_matrix import MATRIX, QUICK
from flights import command_line, fly, made_bundle, start

from trudi.runtime.flight.recording import read_recording
from trudi.runtime.recorder import STATES, TICKS
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
from trudi.runtime.supervisor import FaultCode

ROOT = Path(__file__).parents[2]
RATE = 200.0
FAST = ("--seconds", "1.6", "--rate", RATE, "--command", "vx=0.2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "go1")


@pytest.fixture(scope="module")
def with_student(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "go1_student", student=True)


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_a_fault_is_met_as_the_matrix_says(case, bundle, with_student, tmp_path):
    flown = with_student if case.student else bundle
    code, report, said = fly(flown, tmp_path, *FAST, *case.options, faults=case.faults, site_file=QUICK | case.site_file)
    assert report, said
    assert report["state"] == case.final, said
    assert [fault["code"] for fault in report["faults"]] == ([case.code] if case.code else []), said
    assert code == (1 if case.code else 0), said
    if report["robot"] is not None:  # a robot that was killed reports nothing
        assert report["robot"]["violation_count"] == 0, report["robot"]["violations"]
        assert report["robot"]["commands"] > 100
    if case.student:
        assert report["students"] >= 1
    ticks = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    check_commands(ticks, FaultCode[case.code] if case.code else None)
    again = tmp_path / "replay.json"
    replay = subprocess.run(
        command_line("replay", tmp_path / "flight.mcap", "--bundle", flown, "--json", again),
        capture_output=True,
        text=True,
        check=False,
    )
    result = json.loads(again.read_text())
    if case.code == "ACTION_NOT_FINITE":  # The engine that flew was made to lie; a replay finds that, and only that.
        assert replay.returncode == 1 and result["differences"] == 1
        assert result["first"][0]["field"] == "output[0]" and result["first"][0]["recorded"] == "nan"
    else:
        assert replay.returncode == 0 and result["identical"], replay.stdout + replay.stderr


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
    _, report, said = fly(bundle, tmp_path, *FAST, faults=stop, site_file=QUICK | {"safety": {"command_lost_s": 0.8}})
    assert report["state"] == "STAND", said
    ticks = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    shown = ticks["observation"][ticks["stepped"] == 1][:, 45:]  # vx, vy, wz, the observation's last term
    assert shown[0, 0] == np.float32(0.2)
    active = np.flatnonzero(ticks["supervisor"] == State.ACTIVE)
    age = ticks["now_ns"] - ticks["given_ns"][:, 0]
    stale = (ticks["stepped"] == 1) & (age > 0.5e9)
    assert stale.any() and not ticks["observation"][stale][:, 45:].any()
    assert age[active[-1]] < 0.8e9 + 2e9 / RATE


@pytest.fixture
def robot():
    with MujocoRobot(MujocoCfg()) as robot:
        yield robot


def flying(robot, bundle, folder):
    """A `trudi run` on that robot which has come to drive it, and its process."""
    (folder / "site.yaml").write_text(json.dumps(QUICK))
    address = f"udp:127.0.0.1:{robot.port}"
    process = start(
        "run", bundle, "--robot", address, "--site", folder / "site.yaml", "--seconds", "60", "--rate", RATE,
        "--record", folder / "flight.mcap", "--json", folder / "report.json",
    )  # fmt: skip
    for line in process.stdout:
        if line.rstrip().endswith(": ACTIVE"):
            break
    else:
        pytest.fail(process.stderr.read())
    until(lambda: robot.report().commands > 100, "commands arrive")
    return process


def until(condition, what, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def test_sigterm_damps_and_says_so(robot, bundle, tmp_path):
    process = flying(robot, bundle, tmp_path)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=20)
    assert process.returncode == 0, said + errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"] == "SIGTERM" and report["faults"] == []
    ticks = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    assert ticks["supervisor"][-1] == State.ACTIVE  # the loop's very last command, to damp, is beyond its last tick
    seen = robot.report()
    assert seen.violation_count == 0, seen.violations
    assert seen.stiffness == 0.0


def test_a_runtime_that_is_killed_leaves_a_robot_that_damps_by_itself(robot, bundle, tmp_path):
    process = flying(robot, bundle, tmp_path)
    assert robot.report().stiffness == 35.0
    process.kill()
    process.wait()
    received = robot.report().commands
    until(lambda: robot.report().stiffness == 0.0, "the robot damps by itself")
    assert robot.report().commands == received
    assert robot.report().violation_count == 0


def test_a_flight_can_be_saved_while_it_goes_on(robot, bundle, tmp_path):
    process = flying(robot, bundle, tmp_path)
    time.sleep(1.5)  # longer than the time between keyframes
    process.send_signal(signal.SIGUSR1)
    until((tmp_path / "flight.mcap").exists, "the flight is written")
    flight = read_recording(tmp_path / "flight.mcap")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=20)
    assert process.returncode == 0, said + errors
    assert set(np.unique(flight.channels[TICKS]["supervisor"])) >= {State.STAND, State.ACTIVE}
    assert len(flight.channels[STATES]) > 100


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
    return float(subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"], env=environment))


def test_setting_the_wall_clock_back_two_hours_changes_nothing(bundle, tmp_path):
    """The runtime's process sees its wall clock step in flight (a shim between it and libc), as when NTP finds the time."""
    source, shim, step = tmp_path / "shim.c", tmp_path / "shim.so", tmp_path / "step"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    (tmp_path / "site.yaml").write_text(json.dumps(QUICK))
    with MujocoRobot(MujocoCfg()) as robot:  # outside of the shim
        environment = {"LD_PRELOAD": str(shim), "STEP": str(step)}
        seen = subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"], env=environment, text=True)
        step.touch()
        stepped = subprocess.check_output(
            [sys.executable, "-c", "import time; print(time.time())"], env=environment, text=True
        )
        assert float(seen) - float(stepped) == pytest.approx(7200, abs=60)
        step.unlink()
        process = start(
            "run", bundle, "--robot", f"udp:127.0.0.1:{robot.port}", "--site", tmp_path / "site.yaml",
            "--seconds", "2", "--rate", RATE, "--json", tmp_path / "report.json",
            env=environment,
        )  # fmt: skip
        next(line for line in process.stdout if line.rstrip().endswith(": ACTIVE"))
        step.touch()
        said, errors = process.communicate(timeout=30)
        assert process.returncode == 0, said + errors
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["faults"] == [] and report["state"] == "STAND"
        assert report["control_steps"] > 90
        assert robot.report().violation_count == 0
