"""The viewer in a browser: what the page shows, and that no flight ever waits for it, nor ends with it."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsers import WEBGL, headless_browser
from fault_matrix import QUICK
from flights import await_line, command_line, end, made_bundle

pytest.importorskip("mjviser")

from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.run import arguments
from trudi.runtime.conduct import Course
from trudi.runtime.controller import ControllerCfg
from trudi.runtime.loop import LoopCfg
from trudi.runtime.realtime import RealtimeCfg
from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
from trudi.runtime.robots.simulation import GO1_TASK, make_simulation
from trudi.runtime.session import Session, SessionCfg
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event, FaultCode, Violation
from trudi.runtime.viewer.choice import ViewCfg, parse_view, with_view
from trudi.runtime.viewer.facts import SessionTeller
from trudi.runtime.viewer.link import ViewerLink, ViewerProcess
from trudi.runtime.viewer.process import News

VELOCITY = (0.3, 0.0, -0.25)
STOPPED = "the <b>red</b> button was pressed"


def await_true(condition, timeout_s=60.0):
    end_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_at, f"not within {timeout_s:g} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "go1")


@pytest.fixture(scope="module")
def told(bundle):
    """What a real session tells: with a command in STANDBY, and after somebody stopped it."""
    news, found = News(), []
    cfg = SessionCfg(ControllerCfg(200.0), LoopCfg(realtime=RealtimeCfg(priority=0, lock_memory=False)), recorder=None)
    with contextlib.ExitStack() as stack:
        opened, robot = stack.enter_context(Bundle.open(bundle)), stack.enter_context(MujocoRobot(MujocoCfg()))
        with Session(opened, robot, SiteFile(joints={}), cfg) as session:
            link = ViewerLink(news.port)
            teller = SessionTeller(session, "a flight", link)
            session.loop.start()
            await_true(lambda: session.loop.ask(Event.ACTIVATE) is None)
            session.loop.command("velocity", VELOCITY)
            await_true(lambda: session.controller.command_times_ns[0] is not None)
            for fault in (None, Violation(FaultCode.EMERGENCY_STOP, STOPPED, 1.0, 0.5)):
                if fault is not None:
                    session.loop.fault(fault)
                    await_true(lambda: session.controller.supervisor.fault is not None)
                teller.refresh(Course())
                teller.tell(Course())
                news.take()
                found.append(news.of("runtime"))
            link.close()
    return found


@pytest.fixture(scope="module")
def viewer():
    process = ViewerProcess({"task": GO1_TASK, "port": 0})
    address = process.address()
    link = ViewerLink(address.port)
    yield address, link
    link.close()
    process.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless_browser(tmp_path_factory.mktemp("fonts"), *WEBGL) as opened:
        yield opened


def glance(qpos, **changes):
    """What a robot's process tells."""
    plain = {"supervisor": "ACTIVE", "obeying": True, "held": False, "time_s": 12.3, "commands": 400, "unsafe": 2}
    return plain | {"qpos": list(qpos), "returns": 0, "last_return": 0.0} | changes


def test_the_page_shows_the_robot_and_the_supervisor(browser, viewer, told):
    address, link = viewer
    simulation = make_simulation(GO1_TASK)
    pose = simulation.data.qpos.copy()
    pose[:3] = 2.0, -0.5, 0.3
    context = browser.new_context(viewport={"width": 320, "height": 480}, locale="en-US")
    page, requests, errors = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address.url)
    panel = page.locator("[data-trudi=overlay]")

    def until(text, runtime):
        """Tells, as a flight does again and again, until the panel says so."""
        for _ in range(600):
            link.tell("robot", glance(pose))
            if runtime is not None:
                link.tell("runtime", runtime)
            if panel.count() and text in panel.inner_text():
                return panel.inner_text()
            page.wait_for_timeout(100)
        raise AssertionError(f"the panel never said {text!r}: {panel.inner_text() if panel.count() else 'no panel'}")

    said = until("2 unsafe", None)
    assert said.startswith("ACTIVE") and "as its commands say" in said
    assert "obeys commands, 12.3 s" in said and "400, 2 unsafe" in said
    said = until("STANDBY", told[0])
    rows = [line.split("\t") for line in said.splitlines()]
    asked = {row[0]: (row[1], row[4]) for row in rows if row[0] in ("vx", "vy", "wz")}
    assert asked == {"vx": ("+0.30", "m/s"), "vy": ("+0.00", "m/s"), "wz": ("-0.25", "rad/s")}
    assert "every 5 ms (200 Hz), policy 50 Hz" in said and "EMERGENCY_STOP" not in said
    said = until("EMERGENCY_STOP", told[1])
    assert said.startswith("FAULT damp")
    assert f"EMERGENCY_STOP in STANDBY: {STOPPED}" in said and "value 1, threshold 0.5" in said  # as text: its <b> is none

    names, pose_of = page.evaluate("[Object.keys(window.__viserSceneTree.getState()), window.__viserMutable.nodePoseData]")
    assert {"trunk", "FL_hip"} <= {name.split("/")[2] for name in names if name.startswith("/bodies/")}
    assert "/velocity" in names
    # The camera goes with the base: the ground comes to meet it.
    np.testing.assert_allclose(pose_of["/fixed_bodies"]["position"], -pose[:3], atol=1e-6)
    assert errors == []
    assert {urlsplit(url.removeprefix("blob:")).netloc for url in requests} == {urlsplit(address.url).netloc}
    context.close()


@pytest.mark.realtime
@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_viewer_that_is_killed_or_hangs_leaves_the_flight_unharmed(bundle, tmp_path, harm):
    report_at = tmp_path / "report.json"
    (tmp_path / "site.yaml").write_text(json.dumps(QUICK))
    options = ("--view", "browser:0", "--seconds", "2", "--json", report_at, "--site", tmp_path / "site.yaml")
    flight = subprocess.Popen(
        command_line("run", bundle, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        await_line(flight, ": ACTIVE", 60.0)
        (robot,) = children(flight.pid)
        (viewer,) = children(robot)
        os.kill(viewer, harm)
        assert flight.wait(60.0) == 0, flight.communicate()
    finally:
        end(flight)
    report = json.loads(report_at.read_text())
    assert report["state"] == "STAND" and report["faults"] == [] and report["ended"] == "after the 2 s that were asked for"
    assert report["robot"]["violation_count"] == report["expired"] and report["sending"] == {"unsent": 0, "refused": 0}
    await_true(lambda: not alive(viewer))


def test_a_robot_that_dies_takes_its_viewer_along():
    with MujocoRobot(MujocoCfg(task="CartpoleSwingup-v1", view="browser:0")) as robot:
        assert alive(robot.viewer.pid) and reachable("127.0.0.1", robot.viewer)
        os.kill(robot.pid, signal.SIGKILL)
        await_true(lambda: not reachable("127.0.0.1", robot.viewer))


def test_the_page_is_for_this_machine_alone(viewer):
    address, _ = viewer
    assert urlsplit(address.url).hostname == "127.0.0.1"
    assert reachable("127.0.0.1", address)
    assert not reachable("127.0.0.2", address)  # another address of the same machine


def test_telling_never_waits_and_never_fails():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:  # it never reads
        deaf.bind(("127.0.0.1", 0))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link = ViewerLink(deaf.getsockname()[1])
        body = {"qpos": [0.1] * 1000}
        for _ in range(2000):  # some 40 MB, where 4 kB are held
            link.tell("robot", body)
        assert link.tell("robot", {"qpos": [0.123456789] * 10_000}) is False  # more than a datagram holds
    for _ in range(10):  # nobody is there any more
        link.tell("robot", {})
    link.close()
    assert link.tell("robot", {}) is False


def test_a_viewer_takes_the_latest_and_leaves_out_what_it_does_not_understand():
    news = News()
    link = ViewerLink(news.port)
    assert news.of("robot") is None and news.age_s("robot") == math.inf
    for number in range(5):
        link.tell("robot", {"number": number})
    link.tell("robot", 7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"TDJ1{not json", ("127.0.0.1", news.port))
        stranger.sendto(b"", ("127.0.0.1", news.port))
    news.take()
    assert news.of("robot") == {"number": 4} and 0.0 <= news.age_s("robot") < 60.0


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", None),
        ("window", ViewCfg("window")),
        ("browser", ViewCfg("browser", "127.0.0.1", None)),
        ("browser:9000", ViewCfg("browser", "127.0.0.1", 9000)),
        ("browser:0.0.0.0:0", ViewCfg("browser", "0.0.0.0", 0)),
    ],
)
def test_words_for_a_viewer(words, wanted):
    assert parse_view(words) == wanted


@pytest.mark.parametrize(
    "words", ["true", "windows", "window:3", "browser:", "browser:x", "browser::1", "browser:65536", True]
)
def test_words_for_no_viewer_are_refused_with_those_that_are(words):
    with pytest.raises(RobotError, match=r"available: window, browser, browser:PORT|a port is at most 65535"):
        MujocoCfg(view=words)


def test_view_alone_is_a_window_where_there_is_a_display_and_never_takes_the_bundle(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    args = arguments(["--view", "walker", "--seconds", "3"])
    assert str(args.bundle) == "walker" and parse_view(args.view) == ViewCfg("browser")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert parse_view(arguments(["walker", "--view"]).view) == ViewCfg("window")
    assert arguments(["walker", "--view", "browser:9000"]).view == "browser:9000"
    assert arguments(["--view=window", "walker"]).view == "window"
    assert arguments(["walker"]).view == ""
    assert with_view(["--view", "--seconds", "3"]) == ["--view=auto", "--seconds", "3"]


def test_what_keeps_a_page_from_being_served_is_said_in_a_line(tmp_path, monkeypatch):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(RobotError, match=rf"no page at 127\.0\.0\.1:{port}: Address already in use; .*--view browser:"):
            MujocoRobot(MujocoCfg(task="CartpoleSwingup-v1", view=f"browser:{port}"))
    (tmp_path / "mjviser.py").write_text("raise ImportError('none here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RobotError, match=r"none here.*pip install 'trudi\[view\]'"):
        ViewerProcess({"task": "CartpoleSwingup-v1", "port": 0}).address()


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def reachable(host, address):
    try:
        socket.create_connection((host, urlsplit(address.url).port), timeout=5.0).close()
    except OSError:
        return False
    return True
