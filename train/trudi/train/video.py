"""Videos of episodes, drawn by EnvPool itself, off screen.

EnvPool draws through EGL: with a GPU's driver where there is one, in software (Mesa) elsewhere, which is slow.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trudi.train.envs.assets import drawing_assets
from trudi.train.envs.base import Observation
from trudi.train.envs.envpool import EnvPoolEnv
from trudi.train.envs.registry import split_task
from trudi.train.errors import TrainError
from trudi.train.evaluation import Act, EvalResult, run_episodes

Frame = NDArray[np.uint8]
"""(height, width, 3), red first."""

FREE_CAMERA = -1


@dataclass(frozen=True)
class VideoCfg:
    """How an episode is filmed."""

    width: int = 480
    """Pixels across; even."""
    height: int = 360
    """Pixels down; even."""
    camera: int = 0
    """Camera of the task's scene; 0 follows most robots. A scene with fewer cameras is seen by the free one, -1."""
    max_fps: float = 50.0
    """Frames a second at most: where the task steps faster, every n-th step is drawn. Playback is in real time."""
    max_length_s: float = 20.0
    """Simulated seconds that are drawn; the episode itself runs to its end."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 16 or self.width % 2 or self.height % 2:
            raise TrainError(f"video size {self.width} x {self.height}: both must be even and at least 16")
        if not self.max_fps > 0.0 or not self.max_length_s > 0.0:
            raise TrainError("video.max_fps and video.max_length_s must be positive")


def frame_stride(control_period_s: float, max_fps: float) -> int:
    """The smallest n such that one frame every n steps is at most `max_fps` a second."""
    return max(1, int(np.ceil(1.0 / (control_period_s * max_fps) - 1e-9)))


class _Renderer(Protocol):
    """What an EnvPool made with a `render_mode` can also do."""

    def render(self, env_ids: int, camera_id: int) -> Frame:
        """(1, height, width, 3); IndexError where the scene has no such camera, RuntimeError without a GL driver."""
        ...


class RenderedEnv(EnvPoolEnv):
    """One environment of an EnvPool task, meshes included, that can draw itself.

    The same seed and actions give the same episode as environment 0 of an unstaggered `EnvPoolEnv`.
    """

    def __init__(self, name: str, seed: int, cfg: VideoCfg, *, device: torch.device | None = None) -> None:
        _publish_egl()
        size = {"render_width": cfg.width, "render_height": cfg.height}
        with tempfile.TemporaryDirectory() as folder:  # read while the pool is made, and not later
            assets = drawing_assets(name, Path(folder))
            options: dict[str, Any] = {} if assets is None else {"base_path": str(assets)}
            super().__init__(
                name, 1, seed, device=device, num_threads=1, stagger=False, render_mode="rgb_array", **size, **options
            )
        self._camera = cfg.camera

    def frame(self) -> Frame:
        """What the camera sees now, once `reset` was called (height, width, 3); TrainError without a GL driver."""
        renderer = cast("_Renderer", self._live_pool())
        try:
            try:
                return renderer.render(0, self._camera)[0]
            except IndexError:
                self._camera = FREE_CAMERA
                return renderer.render(0, self._camera)[0]
        except RuntimeError as error:
            raise TrainError(
                f"cannot draw {self.task}: {error}. Drawing needs an EGL driver: that of an NVIDIA GPU, or Mesa's "
                "software one (Debian, Ubuntu: apt-get install libegl-mesa0 libgl1-mesa-dri)"
            ) from error


def _publish_egl() -> None:
    """Puts EGL among the process's global symbols.

    MuJoCo looks for it there and ends the process where it finds none; what EnvPool loads by itself stays private.
    """
    import envpool

    if sys.platform != "linux":
        return
    package = Path(envpool.__file__).parent
    bundled = sorted((package.parent / "envpool.libs").glob("libEGL-*"))
    try:
        ctypes.CDLL(str(bundled[0]) if bundled else "libEGL.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TrainError(f"cannot draw: {error} (Debian, Ubuntu: apt-get install libegl1)") from error


class _Ffmpeg(Protocol):
    """The part of `imageio_ffmpeg` that is used here."""

    def write_frames(
        self,
        path: str,
        size: tuple[int, int],
        *,
        fps: float,
        codec: str,
        quality: int,
        macro_block_size: int,
        output_params: list[str],
    ) -> Generator[None, Frame | None, None]: ...


def _ffmpeg() -> _Ffmpeg:
    try:
        return cast("_Ffmpeg", import_module("imageio_ffmpeg"))
    except ImportError as error:
        raise TrainError("writing video needs imageio-ffmpeg: pip install 'trudi[video]'") from error


class VideoWriter:
    """An mp4 (H.264) that appears under its name when the `with` block ends well, and not at all otherwise."""

    def __init__(self, path: Path, fps: float, width: int, height: int) -> None:
        if path.suffix != ".mp4":
            raise TrainError(f"video '{path}' must end in .mp4")
        self.path = path
        self.frames = 0
        """Frames added so far."""
        self._shape = (height, width, 3)
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
        ffmpeg = _ffmpeg()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._partial.touch()
        except OSError as error:
            raise TrainError(f"cannot write the video {path}: {error}") from error
        self._sink = ffmpeg.write_frames(
            str(self._partial),
            (width, height),
            fps=fps,
            codec="libx264",
            quality=7,
            macro_block_size=2,  # else sizes are rounded up to multiples of 16
            output_params=["-movflags", "+faststart"],
        )
        self._sink.send(None)

    def add(self, frame: Frame) -> None:
        """Appends one frame (height, width, 3)."""
        if frame.shape != self._shape:
            raise ValueError(f"frame is {frame.shape}, the video is {self._shape}")
        try:
            self._sink.send(np.ascontiguousarray(frame))
        except OSError as error:
            raise TrainError(f"ffmpeg stopped while writing {self.path}: {error}") from error
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sink.close()
        try:
            if kind is None:
                if self.frames == 0 or self._partial.stat().st_size == 0:
                    raise TrainError(f"no video at {self.path}: {self.frames} frames were drawn and ffmpeg wrote nothing")
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def check_video(task: str, seed: int = 0) -> None:
    """Draws one small frame of `task` (`backend:name`): TrainError now rather than after hours of training."""
    _ffmpeg()
    with closing(frame_source(task, seed, VideoCfg(width=16, height=16))) as env:
        env.reset()
        env.frame()


def frame_source(task: str, seed: int, cfg: VideoCfg, *, device: torch.device | None = None) -> RenderedEnv:
    """An environment of `task` (`backend:name`) that can draw itself; TrainError for a backend that cannot."""
    backend, name = split_task(task)
    if backend != "envpool":
        raise TrainError(f"'{task}' cannot be filmed: videos are made of envpool tasks only")
    return RenderedEnv(name, seed, cfg, device=device)


def record_episode(
    task: str, seed: int, act: Act, path: Path, cfg: VideoCfg | None = None, *, device: torch.device | None = None
) -> EvalResult:
    """Films one episode of `task` (`backend:name`) under `act` to `path` (.mp4), and measures it.

    The first frame shows the state after the reset, frame i the state after i * stride steps; the state in which the
    episode ends is not drawn, as the simulator has gone on to the next one by then.
    """
    cfg = cfg or VideoCfg()
    _ffmpeg()
    env = frame_source(task, seed, cfg, device=device)
    stride = frame_stride(env.control_period_s, cfg.max_fps)
    last_step = cfg.max_length_s / env.control_period_s
    steps = 0
    with closing(env), VideoWriter(path, 1.0 / (stride * env.control_period_s), cfg.width, cfg.height) as video:

        def draw(observation: Observation, action: Tensor) -> None:
            nonlocal steps
            if steps % stride == 0 and steps < last_step:
                video.add(env.frame())
            steps += 1

        return run_episodes(env, act, draw)
