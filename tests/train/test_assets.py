"""Mesh-free Playground scenes: the same physics, little memory, and a cache that two processes can share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trudi.train.envs import assets
from trudi.train.envs.assets import SCENES, Scene, default_cache_dir, mesh_free_assets, mesh_free_scene
from trudi.train.errors import TrainError

envpool = pytest.importorskip("envpool")

GO1 = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"


def rollout(task: str, base_path: Path | None, steps: int) -> list[dict[str, Any]]:
    """Observations, rewards and ends of 2 environments: one thrashes and falls, one hardly moves."""
    options = {} if base_path is None else {"base_path": str(base_path)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = envpool.make_gymnasium(task, num_envs=2, seed=5, num_threads=1, **options)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (steps, 2, *pool.action_space.shape))
    actions[:, 1] *= 0.02
    observed, _ = pool.reset()
    records: list[dict[str, Any]] = [{"observed": observed}]
    for action in actions:
        observed, reward, terminated, truncated, _ = pool.step(action)
        records.append({"observed": observed, "reward": reward, "terminated": terminated, "truncated": truncated})
    pool.close()
    return records


@pytest.mark.parametrize(
    ("task", "steps"),
    [
        (GO1, 200),
        ("MuJoCoPlayground/Go1JoystickRoughTerrain-v1", 60),
        ("MuJoCoPlayground/G1JoystickFlatTerrain-v1", 60),
        ("MuJoCoPlayground/T1JoystickFlatTerrain-v1", 60),
        ("MuJoCoPlayground/H1JoystickGaitTracking-v1", 60),
        ("MuJoCoPlayground/SpotFlatTerrainJoystick-v1", 60),
    ],
)
def test_observations_and_rewards_are_those_of_the_stock_assets(task: str, steps: int, tmp_path: Path) -> None:
    base_path = mesh_free_assets(task, tmp_path)
    assert base_path is not None
    stock, stripped = rollout(task, None, steps), rollout(task, base_path, steps)
    assert sum(abs(float(record["reward"][1])) for record in stock[1:]) > 0.01
    for one, other in zip(stock, stripped, strict=True):
        np.testing.assert_equal(other, one)


def test_every_scene_is_where_its_task_looks_for_it(tmp_path: Path) -> None:
    for name, path in SCENES.items():
        base_path = mesh_free_assets(f"MuJoCoPlayground/{name}-v1", tmp_path)
        assert base_path is not None
        assert (base_path / path).is_file()
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 4e6


def test_a_thousand_environments_need_less_than_a_megabyte_each(tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure memory")
    script = f"""
import sys
import envpool
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
def make(count):
    pool = envpool.make_gymnasium({GO1!r}, num_envs=count, num_threads=1, base_path=sys.argv[1])
    pool.reset()
    return pool
warm = make(1)
before = resident_mb()
pool = make(1024)
print((resident_mb() - before) / 1024)
"""
    command = [sys.executable, "-c", script, str(mesh_free_assets(GO1, tmp_path))]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert 0.05 < float(output.stdout.split()[-1]) < 1.0


def test_processes_that_start_together_share_one_cache(tmp_path: Path) -> None:
    rounds = 15
    script = f"""
import sys, time
from pathlib import Path
import envpool
from trudi.train.envs.assets import mesh_free_assets
start = float(sys.argv[1])
for index in range({rounds}):
    time.sleep(max(0.0, start + 0.03 * index - time.time()))
    print(mesh_free_assets({GO1!r}, Path({str(tmp_path)!r}) / str(index)))
"""
    start = time.time() + 4.0
    command = [sys.executable, "-c", script, str(start)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == rounds
    for index, printed in enumerate(outputs[0]):
        # One directory, under its final name: nothing half-built stays behind.
        assert list((tmp_path / str(index) / "envpool-assets").iterdir()) == [Path(printed)]
        ET.parse(Path(printed) / SCENES["Go1JoystickFlatTerrain"])


def test_losing_the_race_keeps_the_winners_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = assets._write  # pyright: ignore[reportPrivateUsage]

    def write_after_another(scene: Scene, *rest: Any) -> None:
        write(scene, *rest)
        write(scene, *rest)

    monkeypatch.setattr(assets, "_write", write_after_another)
    base_path = mesh_free_assets(GO1, tmp_path)
    assert base_path is not None
    assert list((tmp_path / "envpool-assets").iterdir()) == [base_path]


def test_the_cache_is_not_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mesh_free_assets(GO1, tmp_path)

    def refuse(*_: Any) -> None:
        raise AssertionError("the cache was written again")

    monkeypatch.setattr(assets, "_write", refuse)
    assert mesh_free_assets(GO1, tmp_path) == first


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainError, match=r"Go1JoystickFlatTerrain.*file.*set TRUDI_CACHE"):
        mesh_free_assets(GO1, tmp_path / "file")


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRUDI_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "trudi"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "trudi"
    monkeypatch.setenv("TRUDI_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"


@pytest.mark.parametrize("task", ["CartpoleSwingup-v1", "MuJoCoPlayground/PandaPickCube-v1", "Go1JoystickFlatTerrain"])
def test_other_tasks_keep_their_assets(task: str, tmp_path: Path) -> None:
    assert mesh_free_assets(task, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


ROBOT = """
<mujoco>
  <compiler meshdir="meshes"/>
  <default>
    <default class="robot">
      <geom contype="0" conaffinity="0"/>
      <default class="visual"><geom group="2"/></default>
      <default class="hull"><geom contype="1"/></default>
    </default>
  </default>
  <asset>
    <texture name="skin" file="skin.png"/>
    <material name="skin" texture="skin"/>
    <mesh file="trunk.stl"/>
    <mesh name="hand" file="left_hand.stl"/>
    <mesh file="unused.stl"/>
  </asset>
  <worldbody>
    <body childclass="robot">
      <inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
      <geom name="shell" class="visual" mesh="trunk" material="skin"/>
      <geom name="hull" class="hull" mesh="hand"/>
      <geom name="leg" size="0.1"/>
    </body>
  </worldbody>
</mujoco>
"""


def strip(tmp_path: Path, robot: str) -> tuple[Scene | None, list[str]]:
    """The scene that includes `robot`, and the names of the geoms left in it."""
    (tmp_path / "meshes").mkdir()
    for name in ("trunk", "left_hand", "unused"):
        (tmp_path / "meshes" / f"{name}.stl").write_text(name)
    (tmp_path / "robot.xml").write_text(robot)
    (tmp_path / "scene.xml").write_text('<mujoco><include file="robot.xml"/></mujoco>')
    if (scene := mesh_free_scene(tmp_path / "scene.xml")) is None:
        return None, []
    return scene, [geom.attrib["name"] for geom in ET.fromstring(scene.xml).findall("worldbody//geom")]


def test_only_the_mesh_that_cannot_collide_goes(tmp_path: Path) -> None:
    scene, geoms = strip(tmp_path, ROBOT)
    assert scene is not None
    assert geoms == ["hull", "leg"]
    root = ET.fromstring(scene.xml)
    assert [mesh.attrib for mesh in root.iter("mesh")] == [{"name": "hand", "file": "0_left_hand.stl"}]
    assert scene.files == {"0_left_hand.stl": tmp_path / "meshes" / "left_hand.stl"}
    assert [compiler.attrib for compiler in root.iter("compiler")] == [{}]
    assert not list(root.iter("texture"))
    assert [item.attrib for item in root.iter("material")] == [{"name": "skin"}]


def test_a_mesh_that_gives_its_body_inertia_stays(tmp_path: Path) -> None:
    robot = ROBOT.replace('<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>', "<freejoint/>")
    assert strip(tmp_path, robot)[1] == ["shell", "hull", "leg"]


def test_a_mesh_that_another_element_names_stays(tmp_path: Path) -> None:
    robot = ROBOT.replace("</worldbody>", '</worldbody><sensor><distance geom1="shell" geom2="leg"/></sensor>')
    assert strip(tmp_path, robot)[1] == ["shell", "hull", "leg"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<compiler ", '<compiler inertiafromgeom="true" '),
        ('<geom name="leg" size="0.1"/>', '<replicate count="2"><geom name="leg" size="0.1"/></replicate>'),
        ('file="left_hand.stl"', 'file="absent.stl"'),
    ],
)
def test_a_scene_that_cannot_be_rewritten_safely_is_left_alone(old: str, new: str, tmp_path: Path) -> None:
    assert old in ROBOT
    assert strip(tmp_path, ROBOT.replace(old, new))[0] is None
