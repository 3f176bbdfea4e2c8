"""A recorded flight as a video: the robot as its sensors saw it, drawn off screen, with what it was told written over it.

For robots with a free base that have a model (`make_simulation`). Nothing is simulated: each frame is the latest state that
the runtime had by then. Sensors do not know where on the floor a robot is; its path is the integral of the velocity that it
measured, and so drifts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import Contract
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.recording import Recording, RecordingError, read_recording
from trudi.runtime.recorder import ABOUT, NO_FAULT, STATES, TICKS
from trudi.runtime.robots.base import Float64, RobotDescription, RobotError, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.simulation import Legged, load_mujoco, make_simulation
from trudi.runtime.supervisor import FaultCode, Motors
from trudi.runtime.video_file import Frame, VideoWriter

AZIMUTH_DEG, ELEVATION_DEG, DISTANCE_M = 125.0, -18.0, 1.7
LINE_M, LINE_WIDTH_M, LINES = 0.5, 0.006, 8
"""Lines on the floor: from one to the next, their width, and how many on each side of the robot."""
MAX_GAP_NS = 10**8
"""Time between two states over which a velocity is believed to hold."""
LINE_RGBA = np.array([0.55, 0.6, 0.65, 1.0], np.float32)


@dataclass(frozen=True)
class FilmCfg:
    """What a film is like."""

    width: int = 640
    """Pixels across; even."""
    height: int = 480
    """Pixels down; even."""
    fps: float = 25.0
    """Frames a second, in real time."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 16 or self.width % 2 or self.height % 2 or not 1.0 <= self.fps <= 200.0:
            raise TrudiRuntimeError(
                f"a film of {self.width} x {self.height} at {self.fps:g} Hz: sizes are even and at least 16, 1 to 200 Hz"
            )


def film(flight: Path, bundle: Bundle, out: Path, cfg: FilmCfg | None = None) -> int:
    """Writes the recorded `flight` of `bundle` as an MP4 (H.264) to `out`; the number of its frames.

    TrudiRuntimeError where the recording is none of this bundle's, the robot has no free base or no model here, or where
    nothing can be drawn or written on this machine. `out` appears when it is whole.
    """
    cfg = cfg or FilmCfg()
    recording = read_recording(flight)
    robot = _robot(flight, recording, bundle)
    simulation = _simulation(bundle.contract, robot)
    ticks, states = recording.channels[TICKS], recording.channels[STATES]
    path = travelled(robot, states)
    reader = RobotState.zeros(robot)
    times = np.arange(int(ticks["now_ns"][0]), int(ticks["now_ns"][-1]), round(1e9 / cfg.fps))
    ticks_at = np.searchsorted(ticks["now_ns"], times, side="right") - 1
    states_at = np.searchsorted(states["received_ns"], times, side="right") - 1
    with VideoWriter(out, cfg.fps, cfg.width, cfg.height) as video, _canvas(simulation, cfg) as canvas:
        for tick, state in zip(ticks_at, states_at, strict=True):
            if state < 0 or states["rejected"][state]:
                continue
            reader.values[:] = states["values"][state]
            simulation.place(reader, robot.joint_names, *path[state])
            caption = words(bundle.contract, ticks[tick], ticks["now_ns"][tick] - ticks["now_ns"][0], reader)
            video.add(canvas.draw(caption))
        return video.frames


def travelled(robot: RobotDescription, states: NDArray[Any]) -> Float64:
    """Where the robot had come to at each state on the floor (states, 2), from the velocity it measured; m, world frame."""
    reader = RobotState.zeros(robot)
    velocity = np.zeros((len(states), 2))
    for index, row in enumerate(states):
        reader.values[:] = row["values"]
        if not row["rejected"] and np.isfinite(reader.linear_velocity).all() and np.isfinite(reader.quaternion_xyzw).all():
            velocity[index] = _rotate(reader.quaternion_xyzw, reader.linear_velocity)[:2]
    stamps = states["stamp_ns"].astype(np.int64)
    elapsed = np.clip(np.diff(stamps, prepend=stamps[:1]), 0, MAX_GAP_NS) * 1e-9
    return np.cumsum(velocity * elapsed[:, None], axis=0)


def words(contract: Contract, tick: Any, elapsed_ns: int, state: RobotState) -> tuple[str, str]:
    """What is written over a frame: names, and their values line by line."""
    lines = {"": f"{elapsed_ns * 1e-9:5.1f} s", "supervisor": f"{State(tick['supervisor']).name} ({_motors(tick)})"}
    if tick["fault"] != NO_FAULT:
        lines["fault"] = FaultCode(int(tick["fault"])).name
    given, start = tick["given"], 0
    measured = {"vx": state.linear_velocity[0], "vy": state.linear_velocity[1], "wz": state.angular_velocity[2]}
    for command in contract.commands:
        for place, (element, unit) in enumerate(zip(command.element_names, command.units, strict=True)):
            seen = f", measured {measured[element]:+.2f}" if element in measured else ""
            lines[element] = f"{given[start + place]:+.2f}{seen} {unit}"
        start += len(command.element_names)
    return "\n".join(lines), "\n".join(lines.values())


def _motors(tick: Any) -> str:
    return Motors(int(tick["motors"])).name.lower()


def _rotate(quaternion_xyzw: Float64, vector: Float64) -> Float64:
    """The vector in the world, of one in the frame that the quaternion turns into it."""
    axis, w = quaternion_xyzw[:3], quaternion_xyzw[3]
    twice = 2.0 * np.cross(axis, vector)
    return vector + w * twice + np.cross(axis, twice)


def _robot(flight: Path, recording: Recording, bundle: Bundle) -> RobotDescription:
    about = recording.metadata.get(ABOUT, {})
    if not about.keys() >= {"robot", "bundle"} or not recording.channels.keys() >= {TICKS, STATES}:
        raise RecordingError(f"{flight} is no flight of `trudi run`")
    if about["bundle"] != bundle.digest:
        raise RecordingError(f"{flight} was flown with another bundle: give the bundle that was flown")
    try:
        return RobotDescription.model_validate_json(about["robot"])
    except ValueError as error:
        raise RecordingError(f"{flight}: its description of the robot is damaged: {error}") from None


def _simulation(contract: Contract, robot: RobotDescription) -> Legged:
    simulation = make_simulation(f"{contract.task.backend}:{contract.task.id}", visual=True)
    if not isinstance(simulation, Legged):
        raise RobotError(f"{contract.task.id}: only robots with a free base are drawn from a recording")
    if set(simulation.joints) != set(robot.joint_names):
        raise RobotError(f"{robot.name} has other joints than the model of {contract.task.id}: it cannot be drawn")
    return simulation


class _Canvas:
    """MuJoCo's renderer with text over it."""

    def __init__(self, simulation: Legged, cfg: FilmCfg) -> None:
        mj = self._mj = load_mujoco()
        self._model, self._data = simulation.model, simulation.data
        screen = self._model.vis.global_
        screen.offwidth, screen.offheight = max(screen.offwidth, cfg.width), max(screen.offheight, cfg.height)
        light = self._model.vis.headlight
        light.ambient[:], light.diffuse[:], light.specular[:] = 0.45, 0.6, 0.2
        self._scene, self._option = mj.MjvScene(self._model, 2000), mj.MjvOption()
        for flag in (mj.mjtRndFlag.mjRND_SHADOW, mj.mjtRndFlag.mjRND_REFLECTION):  # dear, where a processor draws
            self._scene.flags[flag] = 0
        self._context = mj.MjrContext(self._model, mj.mjtFontScale.mjFONTSCALE_150)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._view = mj.MjrRect(0, 0, cfg.width, cfg.height)
        self._pixels = np.zeros((cfg.height, cfg.width, 3), np.uint8)
        self._camera = mj.MjvCamera()
        self._camera.type, self._camera.trackbodyid = mj.mjtCamera.mjCAMERA_TRACKING, simulation.base_body
        self._camera.azimuth, self._camera.elevation, self._camera.distance = AZIMUTH_DEG, ELEVATION_DEG, DISTANCE_M

    def draw(self, caption: tuple[str, str]) -> Frame:
        """The model's data as they are, with two columns of text; (height, width, 3), red first."""
        mj = self._mj
        everything = mj.mjtCatBit.mjCAT_ALL
        mj.mjv_updateScene(self._model, self._data, self._option, None, self._camera, everything, self._scene)
        self._rule_floor()
        mj.mjr_render(self._view, self._scene, self._context)
        mj.mjr_overlay(mj.mjtFont.mjFONT_NORMAL, mj.mjtGridPos.mjGRID_TOPLEFT, self._view, *caption, self._context)
        mj.mjr_readPixels(self._pixels, None, self._view, self._context)
        return np.ascontiguousarray(self._pixels[::-1])  # OpenGL's first row is the lowest

    def _rule_floor(self) -> None:
        """Lines every half metre around the robot, without which nobody sees it move."""
        mj, scene, reach = self._mj, self._scene, LINES * LINE_M
        x, y = (LINE_M * round(float(at) / LINE_M) for at in self._data.xpos[self._camera.trackbodyid][:2])
        for offset in np.arange(-LINES, LINES + 1) * LINE_M:
            along = ((x + offset, y, LINE_WIDTH_M, reach), (x, y + offset, reach, LINE_WIDTH_M))
            for at_x, at_y, half_x, half_y in along:
                if scene.ngeom < scene.maxgeom:
                    size, place = np.array([half_x, half_y, 1e-3]), np.array([at_x, at_y, 0.0])
                    geom = scene.geoms[scene.ngeom]
                    mj.mjv_initGeom(geom, mj.mjtGeom.mjGEOM_BOX, size, place, np.eye(3).ravel(), LINE_RGBA)
                    scene.ngeom += 1


@contextmanager
def _canvas(simulation: Legged, cfg: FilmCfg) -> Generator[_Canvas, None, None]:
    # MuJoCo reads its variable when it is imported, and without one takes windows, for which there must be a screen.
    chosen = os.environ.get("MUJOCO_GL", "").lower() or ("glfw" if os.environ.get("DISPLAY") else "egl")
    context: Any = None
    try:
        backend = importlib.import_module(f"mujoco.{chosen if chosen in ('egl', 'osmesa') else 'glfw'}")
        context = backend.GLContext(cfg.width, cfg.height)
        context.make_current()
        canvas = _Canvas(simulation, cfg)
    except Exception as error:  # ImportError, AttributeError, RuntimeError, OpenGL's own
        if context is not None:
            context.free()
        raise TrudiRuntimeError(
            f"cannot draw: {error}. Drawing off screen needs an EGL driver: that of an NVIDIA GPU, or Mesa's software one "
            "(Debian, Ubuntu: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri); MUJOCO_GL=osmesa takes another"
        ) from error
    try:
        yield canvas
    finally:
        context.free()
