"""Flights as videos: the pose that is drawn is the one that was measured, and the file plays."""

import os
import subprocess
import sys

import numpy as np
import pytest
from flights import GO1, fly, made_bundle

from trudi.cli import main
from trudi.runtime.bundle import Bundle
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.film import FilmCfg, film, travelled
from trudi.runtime.robots.base import RobotState
from trudi.runtime.robots.simulation import MJLAB_GO1_TASK, make_simulation

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
SMALL = FilmCfg(width=160, height=120, fps=5.0)


@pytest.fixture(scope="module")
def drawing():
    """Skips where MuJoCo alone, without a line of ours, cannot draw: neither a GPU nor Mesa."""
    probe = [sys.executable, "-c", "import mujoco.egl as egl; egl.GLContext(16, 16).make_current()"]
    done = subprocess.run(probe, env=os.environ | {"MUJOCO_GL": "egl"}, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no EGL driver: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """An untrained Go1 bundle, and the recording of a second under it."""
    folder = tmp_path_factory.mktemp("flown")
    bundle = made_bundle(folder / "go1")
    code, _, said = fly(bundle, folder, "--seconds", "1", site_file={"stand_s": 0.3, "fade_in_s": 0.3})
    assert code == 0, said
    return bundle, folder / "flight.mcap"


@pytest.mark.parametrize("task", [GO1, MJLAB_GO1_TASK])
def test_the_pose_that_is_drawn_is_the_one_that_was_measured(task):
    """Every body is where it was, in a model that was placed by the sensors alone, with the joints in another order."""
    generator = np.random.default_rng(3)
    true, drawn = make_simulation(task), make_simulation(task)
    qpos = true.data.qpos.copy()
    qpos[:3], qpos[3:7] = (0.4, -0.7, 0.33), generator.normal(size=4)
    qpos[3:7] /= np.linalg.norm(qpos[3:7])
    qpos[7:] += generator.uniform(-0.3, 0.3, len(qpos) - 7)
    true.set_state(qpos, np.zeros(true.model.nv))
    state, names = RobotState.zeros(true.describe()), true.describe().joint_names
    true.measure(state)
    state.joint_position[:] = state.joint_position[::-1].copy()
    drawn.place(state, names[::-1], 0.4, -0.7)
    np.testing.assert_allclose(drawn.data.xpos, true.data.xpos, atol=1e-12)
    np.testing.assert_allclose(drawn.data.xmat, true.data.xmat, atol=1e-12)


def test_the_path_is_the_integral_of_the_measured_velocity():
    """A robot that faces the world's y walks forward at 2 m/s: after 0.1 and 0.3 s it is at y = 0.2 and 0.6; a damaged
    message and a stamp before the last one move nothing."""
    robot = make_simulation(MJLAB_GO1_TASK).describe()
    rows = np.zeros(5, [("values", float, robot.value_count), ("stamp_ns", np.int64), ("rejected", np.uint8)])
    state = RobotState.zeros(robot)
    state.linear_velocity[:], state.quaternion_xyzw[:] = (2.0, 0.0, 0.0), (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))
    rows["values"], rows["stamp_ns"] = state.values, [0, 10**8, 2 * 10**8, 3 * 10**8, 10**8]
    rows["rejected"][2] = 1
    expected = [[0.0, 0.0], [0.0, 0.2], [0.0, 0.2], [0.0, 0.4], [0.0, 0.4]]
    np.testing.assert_allclose(travelled(robot, rows), expected, atol=1e-12)


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("backend", ["", "egl"])
def test_a_flight_becomes_a_video(flown, tmp_path, monkeypatch, backend):
    """Also where somebody chose how to draw after MuJoCo was imported, as mjlab does."""
    monkeypatch.setenv("MUJOCO_GL", backend)
    bundle, flight = flown
    out = tmp_path / "walk.mp4"
    with Bundle.open(bundle) as opened:
        frames = film(flight, opened, out, SMALL)
    counted, seconds = imageio_ffmpeg.count_frames_and_secs(str(out))
    assert counted == frames and 5 <= frames <= 60 and seconds == pytest.approx(frames / 5.0, abs=0.3)
    assert list(tmp_path.iterdir()) == [out]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(out), "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    pictures = np.frombuffer(raw, np.uint8).reshape(counted, 120, 160, 3).astype(float)
    assert pictures[-1].std() > 10.0, "something is seen"
    assert np.abs(pictures[-1] - pictures[0]).mean() > 0.5, "and it changes"


def test_what_cannot_be_drawn_is_said(flown, tmp_path, capsys, monkeypatch):
    bundle, flight = flown
    other = made_bundle(tmp_path / "cartpole", "cartpole_swingup", "CartpoleSwingup-v1")
    with Bundle.open(bundle) as opened, Bundle.open(other) as cartpole:
        with pytest.raises(TrudiRuntimeError, match=r"must end in \.mp4"):
            film(flight, opened, tmp_path / "walk.avi")
        with pytest.raises(TrudiRuntimeError, match="was flown with another bundle"):
            film(flight, cartpole, tmp_path / "walk.mp4")
        with pytest.raises(TrudiRuntimeError, match="sizes are even"):
            FilmCfg(width=161)
        monkeypatch.setenv("MUJOCO_GL", "")
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.setitem(sys.modules, "mujoco.egl", None)
        with pytest.raises(TrudiRuntimeError, match=r"cannot draw: .*apt-get install libegl1"):
            film(flight, opened, tmp_path / "walk.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cartpole"]
    assert main(["replay", str(flight), "--bundle", str(bundle), "--video", str(tmp_path / "walk.mp4")]) == 2
    said = capsys.readouterr()
    assert "identical" in said.out and "cannot draw" in said.err, "what the replay showed is not lost"
