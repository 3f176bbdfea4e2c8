"""Videos: what is drawn, at which rate, and that half of a file is never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.video_file import VideoWriter
from trudi.train import video
from trudi.train.envs.base import Observation
from trudi.train.envs.envpool import EnvPoolEnv
from trudi.train.errors import TrainError
from trudi.train.evaluation import Act, run_episodes
from trudi.train.video import RenderedEnv, VideoCfg, check_video, frame_stride, record_episode

pytest.importorskip("envpool")

CHEETAH = "CheetahRun-v1"
GO1 = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
SMALL = VideoCfg(width=160, height=128, max_length_s=0.4)


@lru_cache
def drawing_problem() -> str:
    """Why nothing can be drawn here; empty where it can."""
    try:
        env = RenderedEnv("CartpoleSwingup-v1", 0, VideoCfg(width=16, height=16))
        env.reset()
        env.frame()
    except TrainError as error:
        return str(error)
    return ""


@pytest.fixture
def drawing() -> None:
    if problem := drawing_problem():
        pytest.skip(problem)


@pytest.fixture
def ffmpeg() -> Any:
    return pytest.importorskip("imageio_ffmpeg")


def swing(size: int) -> Act:
    """Actions that follow a fixed wave, so that two runs with one seed are the same."""
    steps = iter(range(10_000))

    def act(observation: Observation) -> Tensor:
        return 0.5 * torch.sin(0.1 * next(steps) + torch.arange(size).expand(len(observation.actor), size))

    return act


def decode(ffmpeg: Any, path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The video's metadata and its frames (frames, height, width, 3)."""
    reader = ffmpeg.read_frames(str(path))
    meta = cast("dict[str, Any]", next(reader))
    width, height = meta["size"]
    frames = np.frombuffer(b"".join(reader), np.uint8)
    return meta, np.reshape(frames, (-1, height, width, 3))


@pytest.mark.parametrize(
    ("period_s", "max_fps", "stride"),
    [
        (0.02, 50.0, 1),
        (0.01, 50.0, 2),
        (0.025, 50.0, 1),
        (0.004, 50.0, 5),
        (0.002, 50.0, 10),
        (0.03, 50.0, 1),
        (0.02, 30.0, 2),
    ],
)
def test_steps_are_skipped_to_stay_below_the_frame_rate(period_s: float, max_fps: float, stride: int) -> None:
    assert frame_stride(period_s, max_fps) == stride
    assert 1.0 / (stride * period_s) <= max_fps * (1.0 + 1e-9)


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize(("name", "actions", "frames"), [(CHEETAH, 6, 20), (GO1, 12, 20)])
def test_a_recorded_episode_can_be_watched(name: str, actions: int, frames: int, tmp_path: Path, ffmpeg: Any) -> None:
    path = tmp_path / "new" / "episode.mp4"
    result = record_episode(f"envpool:{name}", 7, swing(actions), path, SMALL)
    assert list(path.parent.iterdir()) == [path]
    meta, seen = decode(ffmpeg, path)
    # 0.4 s at 50 frames/s: 40 Cheetah steps of 0.01 s, every second one drawn; 20 Go1 steps of 0.02 s.
    assert seen.shape == (frames, 128, 160, 3)
    assert meta["fps"] == pytest.approx(50.0)
    assert meta["codec"] == "h264"
    change = np.abs(np.diff(seen.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    assert seen[0].std() > 20.0  # a picture, not one colour
    assert np.all(change > 0.05)
    unseen = run_episodes(EnvPoolEnv(name, 2, 7, num_threads=1, stagger=False), swing(actions))
    assert result.lengths[0] == unseen.lengths[0]
    assert result.returns[0] == unseen.returns[0]


@pytest.mark.usefixtures("drawing")
def test_a_robot_with_a_mesh_free_scene_is_drawn_with_its_meshes() -> None:
    env = RenderedEnv(GO1, 0, VideoCfg(width=160, height=128))
    env.reset()
    centre = env.frame()[32:96, 40:120]
    env.close()
    # The Go1 is near black on a white floor; without meshes the floor is all there is.
    assert 0.05 < (centre.max(axis=2) < 80).mean() < 0.5


@pytest.mark.usefixtures("drawing", "ffmpeg")
@pytest.mark.parametrize("robot", ["Go1JoystickRoughTerrain", "H1JoystickGaitTracking", "ApolloJoystickFlatTerrain"])
def test_scenes_find_their_meshes_textures_and_terrain(robot: str) -> None:
    check_video(f"envpool:MuJoCoPlayground/{robot}-v1")


@pytest.mark.usefixtures("drawing")
def test_an_absent_camera_is_replaced_by_the_free_one() -> None:
    views: list[NDArray[np.uint8]] = []
    for camera in (0, 99, -1):
        env = RenderedEnv(CHEETAH, 0, VideoCfg(width=64, height=64, camera=camera))
        env.reset()
        views.append(env.frame())
        env.close()
    assert np.array_equal(views[1], views[2])
    assert not np.array_equal(views[0], views[1])


@pytest.mark.usefixtures("drawing", "ffmpeg")
def test_check_video_passes_where_videos_can_be_made() -> None:
    check_video("envpool:CartpoleSwingup-v1")


def test_without_a_gl_driver_the_error_names_the_package(tmp_path: Path) -> None:
    script = """
from trudi.train.video import RenderedEnv, VideoCfg
env = RenderedEnv("CartpoleSwingup-v1", 0, VideoCfg())
env.reset()
env.frame()
"""
    # MuJoCo writes a log where it runs: that is why this does not run here.
    variables = {"__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "TrainError: cannot draw envpool:CartpoleSwingup-v1: " in done.stderr
    assert "apt-get install libegl-mesa0" in done.stderr


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(TrudiRuntimeError, match=r"pip install 'trudi\[video\]'"):
        record_episode(f"envpool:{CHEETAH}", 0, swing(6), tmp_path / "a.mp4")
    with pytest.raises(TrudiRuntimeError, match=r"pip install 'trudi\[video\]'"):
        check_video(f"envpool:{CHEETAH}")
    assert list(tmp_path.iterdir()) == []


def test_another_backend_cannot_be_filmed(monkeypatch: pytest.MonkeyPatch) -> None:
    def split(_task: str) -> tuple[str, str]:
        return "other", "Walk"

    monkeypatch.setattr(video, "split_task", split)
    with pytest.raises(TrainError, match="'other:Walk' cannot be filmed"):
        video.frame_source("other:Walk", 0, VideoCfg())


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (count, 32, 48, 3), dtype=np.uint8)


def test_the_file_appears_when_it_is_whole(tmp_path: Path, ffmpeg: Any) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 25.0, 48, 32) as writer:
        for frame in noise(10):
            writer.add(frame)
        assert not path.exists()
    assert writer.frames == 10
    meta, seen = decode(ffmpeg, path)
    assert seen.shape == (10, 32, 48, 3)
    assert meta["fps"] == pytest.approx(25.0)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("ffmpeg")
def test_a_failure_keeps_the_older_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("older")

    def fail_half_way() -> None:
        with VideoWriter(path, 25.0, 48, 32) as writer:
            writer.add(noise(1)[0])
            raise KeyError("policy")

    with pytest.raises(KeyError, match="policy"):
        fail_half_way()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("ffmpeg")
def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrudiRuntimeError, match="0 frames"), VideoWriter(tmp_path / "a.mp4", 25.0, 48, 32):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ffmpeg")
def test_bad_targets_and_frames_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrudiRuntimeError, match=r"cannot write the video .*file"):
        VideoWriter(tmp_path / "file" / "a.mp4", 25.0, 48, 32)
    with pytest.raises(TrudiRuntimeError, match=r"must end in \.mp4"):
        VideoWriter(tmp_path / "a.gif", 25.0, 48, 32)
    with (
        pytest.raises(ValueError, match=r"\(32, 48, 3\)"),
        VideoWriter(tmp_path / "a.mp4", 25.0, 48, 32) as writer,
    ):
        writer.add(np.zeros((48, 32, 3), np.uint8))


@pytest.mark.parametrize("options", [{"width": 481}, {"height": 8}, {"max_fps": 0.0}, {"max_length_s": -1.0}])
def test_a_video_that_cannot_be_made_is_refused_at_construction(options: dict[str, Any]) -> None:
    with pytest.raises(TrainError):
        VideoCfg(**options)
