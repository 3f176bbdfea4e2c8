"""Videos of episodes, drawn by EnvPool itself, off screen.

EnvPool draws through EGL: with a GPU's driver where there is one, in software (Mesa) elsewhere, which is slow.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from trudi.runtime.video_file import Frame, VideoWriter, load_ffmpeg
from trudi.train.envs.assets import drawing_assets
from trudi.train.envs.base import Observation
from trudi.train.envs.envpool import EnvPoolEnv
from trudi.train.envs.registry import split_task
from trudi.train.errors import TrainError
from trudi.train.evaluation import Act, EvalResult, run_episodes

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


def check_video(task: str, seed: int = 0) -> None:
    """Draws one small frame of `task` (`backend:name`): TrainError now rather than after hours of training."""
    load_ffmpeg()
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
    load_ffmpeg()
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
