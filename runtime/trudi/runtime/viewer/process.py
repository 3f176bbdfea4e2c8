"""The viewer's process: a page, served by viser, with the robot as mjviser draws it and the supervisor's panel over it.

`python -m trudi.runtime.viewer.process --config JSON` prints one line of JSON when the page is served, `{"url", "port"}`, or
`{"error"}`. At that UDP port it is told things, in datagrams: `robot`, with MuJoCo's `qpos`, by the robot's process, and
`runtime` by `trudi run`. It asks nobody for anything, and ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.messages import MAX_DATAGRAM, decode_json
from trudi.runtime.robots.simulation import Simulation, load_mujoco, make_simulation
from trudi.runtime.viewer.choice import DEFAULT_HOST, DEFAULT_PORT
from trudi.runtime.viewer.overlay import joint_table, overlay

FRAME_S = 1 / 30
PANEL_S = 0.2
NICENESS = 10
MAX_DRAINED = 1000
ASKED, MEASURED = (0, 140, 0), (0, 60, 255)
ARROW_S = 0.8
"""Time for which an arrow shows the way at its velocity; s."""
ARROWS_AT = ((0.0, 0.0, 0.25), (0.0, 0.0, 0.2))
"""Where they start, from the base; m."""
DISTANCE = 2.0
"""Of the camera, as a multiple of the model's extent."""


@dataclass(frozen=True)
class PageCfg:
    """What is shown, and where."""

    task: str
    model: str | None = None
    host: str = DEFAULT_HOST
    port: int | None = None


class News:
    """The latest that was told of each subject, and when."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        self._at: dict[str, float] = {}
        self._told: dict[str, dict[str, Any]] = {}

    @property
    def port(self) -> int:
        """Where it is told."""
        return int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self) -> None:
        """Takes all that has arrived; what it does not understand is left out."""
        for _ in range(MAX_DRAINED):
            try:
                packet = self._socket.recv(MAX_DATAGRAM)
            except OSError:
                return
            for subject, body in (decode_json(packet) or {}).items():
                if isinstance(body, dict):
                    self._told[subject], self._at[subject] = body, time.monotonic()

    def of(self, subject: str) -> dict[str, Any] | None:
        """The latest of a subject."""
        return self._told.get(subject)

    def age_s(self, subject: str) -> float:
        """How old that is; s."""
        return time.monotonic() - self._at.get(subject, -math.inf)


class Page:
    """The page: scene, panel, joints."""

    def __init__(self, cfg: PageCfg, simulation: Simulation) -> None:
        viser, mjviser = _load("viser"), _load("mjviser")
        self._simulation = simulation
        self._server = server = viser.ViserServer(
            host=cfg.host, port=_port(cfg.host, cfg.port), label="TruDi", verbose=False
        )
        self.url = f"http://{cfg.host}:{server.get_port()}"
        # `share` would make the page public through somebody's server.
        server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        self._panel = server.gui.add_html(overlay({}, None, 0.0, 0.0))
        with server.gui.add_folder("Joints", expand_by_default=False):
            self._joints = server.gui.add_html("")
        self._scene = mjviser.ViserMujocoScene(server, simulation.model, num_envs=1)
        with server.gui.add_folder("View", expand_by_default=False):
            self._scene.create_scene_gui(camera_distance=DISTANCE * float(simulation.model.stat.extent))
        nothing = np.zeros((2, 2, 3), np.float32)
        self._arrows = server.scene.add_arrows(
            "/velocity", nothing, np.array([ASKED, MEASURED], np.uint8), visible=False, shaft_radius=0.01, head_radius=0.025
        )
        self._mujoco = load_mujoco()
        self._shown = ""
        self._drawn: dict[str, Any] | None = None

    @property
    def watched(self) -> bool:
        """Whether any browser is there."""
        return bool(self._server.get_clients())

    def draw(self, robot: dict[str, Any], runtime: dict[str, Any] | None) -> None:
        """The robot in its pose, and arrows for the velocity that is asked for and the one that is measured."""
        data, qpos = self._simulation.data, np.array(robot.get("qpos", ()), float)
        if robot is self._drawn or qpos.shape != data.qpos.shape or not np.isfinite(qpos).all():
            return
        self._drawn, data.qpos[:] = robot, qpos
        self._mujoco.mj_kinematics(self._simulation.model, data)
        self._scene.update_from_mjdata(data)
        self._point(runtime)

    def write(self, news: News) -> None:
        """The panel."""
        robot, runtime = news.of("robot") or {}, news.of("runtime")
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # told by a program of another version
            text = overlay(robot, runtime, news.age_s("robot"), news.age_s("runtime"))
            if text != self._shown:
                self._panel.content = self._shown = text
            if runtime is not None:
                self._joints.content = joint_table(runtime["joints"])

    def stop(self) -> None:
        """Serves no longer."""
        self._server.stop()

    def _point(self, runtime: dict[str, Any] | None) -> None:
        """Arrows start above the base and lie in the plane of the ground, turned with the robot."""
        wanted = _velocity(runtime) if self._simulation.has_free_base else None
        if wanted is None:
            self._arrows.visible = False
            return
        body = next(int(b) for b, kind in zip(self._model.jnt_bodyid, self._model.jnt_type, strict=True) if kind == 0)
        data = self._simulation.data
        forward = data.xmat[body].reshape(3, 3)[:, 0]
        yaw = math.atan2(forward[1], forward[0])
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        base = np.zeros(3) if self._scene.camera_tracking_enabled else data.xpos[body]
        points = np.zeros((2, 2, 3), np.float32)
        for arrow, velocity, above in zip(points, wanted, ARROWS_AT, strict=True):
            arrow[:] = base + above
            arrow[1, :2] += ARROW_S * (turn @ velocity)
        self._arrows.points, self._arrows.visible = points, True

    @property
    def _model(self) -> Any:
        return self._simulation.model


def _velocity(runtime: dict[str, Any] | None) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The plane velocities asked for and measured, m/s in the base's frame; None where there are none."""
    with suppress(KeyError, TypeError, ValueError):
        if runtime is not None:
            asked = next(one for one in runtime["commands"] if {"vx", "vy"} <= set(one["elements"]))
            values = dict(zip(asked["elements"], asked["values"], strict=True))
            measured = runtime["measured"]
            return (values["vx"], values["vy"]), (measured["vx"], measured["vy"])
    return None


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RobotError(f"a page needs viser and mjviser ({error}): pip install 'trudi[view]'") from error


def _port(host: str, port: int | None) -> int:
    """`port`, or the first free one from the default on. RobotError where it cannot be had."""
    choices = range(DEFAULT_PORT, DEFAULT_PORT + 100) if port is None else [port]
    reason = ""
    for choice in choices:
        # As viser will: it tries other ports without end, even where the host is none of this machine's.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((host, choice))
                one.listen(1)
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            return int(one.getsockname()[1])
    raise RobotError(f"no page at {host}:{choices[0]}: {reason}; give another --view browser:[HOST:]PORT")


def _serve(page: Page, news: News) -> None:
    """Until whoever started this process is gone, or asks it to end."""
    next_panel = drawn = 0.0
    while True:
        ready, _, _ = select.select([sys.stdin, news], [], [], PANEL_S)
        if sys.stdin in ready:  # nothing is ever said there: its other end was closed
            return
        news.take()
        now = time.monotonic()
        if page.watched:
            if now - drawn >= 0.9 * FRAME_S and (robot := news.of("robot")) is not None:
                drawn = now
                page.draw(robot, news.of("runtime"))
            if now >= next_panel:
                next_panel = now + PANEL_S
                page.write(news)


def main(argv: list[str] | None = None) -> int:
    """Shows a robot until standard input closes; 2 where it cannot."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    parser.add_argument("--config", required=True, help="fields of PageCfg, as JSON")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for ignored in (signal.SIGINT, signal.SIGHUP):  # meant for who started it
        signal.signal(ignored, signal.SIG_IGN)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(NICENESS)
    # What viser prints is for nobody; the line for who started this keeps the way out.
    starter = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        cfg = PageCfg(**json.loads(args.config))
        news = News()
        page = Page(cfg, make_simulation(cfg.task, cfg.model, visual=True))
    except RobotError as error:
        print(json.dumps({"error": str(error)}), file=starter, flush=True)
        return 2
    print(json.dumps({"url": page.url, "port": news.port}), file=starter, flush=True)
    try:
        _serve(page, news)
    finally:
        page.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
