"""MuJoCo Playground scenes without what only a camera sees.

EnvPool gives every environment a model of its own, meshes and textures included: tens of MB each, where the physics of
a robot that touches the world with spheres and boxes needs less than one. `mesh_free_assets` writes the scene of a task
without them, once, into a cache. Bodies, joints, inertia and collision geometry stay; so do observations and rewards.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from trudi.train.errors import TrainError

CACHE_VARIABLE = "TRUDI_CACHE"

ASSETS = PurePosixPath("mujoco/playground/assets")
LOCOMOTION = ASSETS / "mujoco_playground/_src/locomotion"
# The file that each task loads, below its `base_path`. The mesh-free scenes of these give the same observations and
# rewards, bit for bit. The manipulation tasks are absent: their meshes collide, or their code asks for visual parts.
SCENES: dict[str, PurePosixPath] = {
    "ApolloJoystickFlatTerrain": LOCOMOTION / "apollo/xmls/scene_mjx_feetonly_flat_terrain.xml",
    "BarkourJoystick": ASSETS / "mujoco_menagerie/google_barkour_vb/scene_mjx.xml",
    "BerkeleyHumanoidJoystickFlatTerrain": LOCOMOTION / "berkeley_humanoid/xmls/scene_mjx_feetonly_flat_terrain.xml",
    "BerkeleyHumanoidJoystickRoughTerrain": LOCOMOTION / "berkeley_humanoid/xmls/scene_mjx_feetonly_rough_terrain.xml",
    "G1JoystickFlatTerrain": LOCOMOTION / "g1/xmls/scene_mjx_feetonly_flat_terrain.xml",
    "G1JoystickRoughTerrain": LOCOMOTION / "g1/xmls/scene_mjx_feetonly_rough_terrain.xml",
    "Go1Footstand": LOCOMOTION / "go1/xmls/scene_mjx_flat_terrain.xml",
    "Go1Getup": LOCOMOTION / "go1/xmls/scene_mjx_fullcollisions_flat_terrain.xml",
    "Go1Handstand": LOCOMOTION / "go1/xmls/scene_mjx_flat_terrain.xml",
    "Go1JoystickFlatTerrain": LOCOMOTION / "go1/xmls/scene_mjx_feetonly_flat_terrain.xml",
    "Go1JoystickRoughTerrain": LOCOMOTION / "go1/xmls/scene_mjx_feetonly_rough_terrain.xml",
    "H1InplaceGaitTracking": LOCOMOTION / "h1/xmls/scene_mjx_feetonly.xml",
    "H1JoystickGaitTracking": LOCOMOTION / "h1/xmls/scene_mjx_feetonly.xml",
    "Op3Joystick": LOCOMOTION / "op3/xmls/scene_mjx_feetonly.xml",
    "SpotFlatTerrainJoystick": LOCOMOTION / "spot/xmls/scene_mjx_feetonly_flat_terrain.xml",
    "SpotGetup": LOCOMOTION / "spot/xmls/scene_mjx_flat_terrain.xml",
    "SpotJoystickGaitTracking": LOCOMOTION / "spot/xmls/scene_mjx_feetonly_flat_terrain.xml",
    "T1JoystickFlatTerrain": LOCOMOTION / "t1/xmls/scene_mjx_feetonly_flat_terrain.xml",
    "T1JoystickRoughTerrain": LOCOMOTION / "t1/xmls/scene_mjx_feetonly_rough_terrain.xml",
}

# Elements that make or place geometry in ways this rewriting does not follow.
UNSUPPORTED_TAGS = frozenset({"attach", "composite", "extension", "flex", "flexcomp", "model", "replicate", "skin"})


@dataclass(frozen=True)
class Scene:
    """A scene in one file, and the files that it still needs."""

    xml: bytes
    files: Mapping[str, Path]
    """Name beside the scene -> where the original is."""

    def digest(self) -> str:
        """Of everything that the simulator would read."""
        total = hashlib.sha256(self.xml)
        for name, source in sorted(self.files.items()):
            total.update(name.encode() + source.read_bytes())
        return total.hexdigest()[:16]


def mesh_free_assets(task: str, cache_dir: Path | None = None) -> Path | None:
    """The `base_path` that makes EnvPool load `task` without its meshes; None where the stock assets should stay.

    The scene is written on first use, below `cache_dir` or else `$TRUDI_CACHE`, `$XDG_CACHE_HOME/trudi` or
    `~/.cache/trudi`, in a directory named after its contents: new assets never meet an old cache, and processes that
    start together agree. TrainError where that directory cannot be written. A camera sees no robot in such a scene.
    """
    if (scene_path := _scene_path(task)) is None or (scene := mesh_free_scene(stock_assets(task) / scene_path)) is None:
        return None
    root = (cache_dir or default_cache_dir()).absolute() / "envpool-assets"
    final = root / f"{_short_name(task)}-{scene.digest()}"
    if not (final / scene_path).is_file():
        try:
            _write(scene, scene_path, final)
        except OSError as error:
            raise TrainError(
                f"cannot write the mesh-free assets of '{task}' to {final}: {error}; "
                f"set {CACHE_VARIABLE} to a directory that can be written"
            ) from error
    return final


def drawing_assets(task: str, folder: Path) -> Path | None:
    """Writes `task`'s scene, meshes and all but without shadows, below `folder`, its `base_path`; None if not known.

    Without a GPU, the stock scenes' shadow maps and multisampling are nine tenths of the time that a frame takes.
    """
    if (scene_path := _scene_path(task)) is None:
        return None
    source = stock_assets(task) / scene_path
    root = _expanded(source)
    mesh_dir, texture_dir = _asset_dirs(root.findall("compiler"))
    # Repeated sections are allowed, and the last one counts.
    ET.SubElement(root, "compiler", meshdir=str(source.parent / mesh_dir), texturedir=str(source.parent / texture_dir))
    ET.SubElement(ET.SubElement(root, "visual"), "quality", shadowsize="0", offsamples="0")
    (folder / scene_path).parent.mkdir(parents=True)
    (folder / scene_path).write_bytes(cast("bytes", ET.tostring(root, encoding="utf-8")))
    return folder


def default_cache_dir() -> Path:
    """Where this package keeps what it can make again."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trudi"


def stock_assets(task: str) -> Path:
    """The `base_path` from which EnvPool loads `task` unless told otherwise."""
    import envpool

    return Path(cast("Any", envpool).make_spec(task).config.base_path)


def _short_name(task: str) -> str:
    return task.removeprefix("MuJoCoPlayground/").removesuffix("-v1")


def _scene_path(task: str) -> PurePosixPath | None:
    """The scene of `task` below its `base_path`, if both are known here and there."""
    path = SCENES.get(_short_name(task)) if task.endswith("-v1") else None
    return path if path is not None and (stock_assets(task) / path).is_file() else None


def mesh_free_scene(path: Path) -> Scene | None:
    """The MJCF scene at `path`, includes and all, without visual meshes and textures; None where that is not safe.

    A mesh goes only with a geom that cannot collide, that no other element names, and whose body has its inertia
    written out; other meshes and height fields stay, among the scene's `files`.
    """
    root = _expanded(path)
    compilers = root.findall("compiler")
    if any(element.tag in UNSUPPORTED_TAGS for element in root.iter()):
        return None
    if any(compiler.get("inertiafromgeom") == "true" for compiler in compilers):
        return None
    _drop_visual_geoms(root)
    _drop_unused_assets(root)
    files = _localise_files(root, path.parent, compilers)
    if not all(source.is_file() for source in files.values()):
        return None
    return Scene(xml=cast("bytes", ET.tostring(root, encoding="utf-8")), files=files)


def _expanded(path: Path) -> ET.Element:
    """The document at `path` with each `<include>` replaced by the contents of its file."""
    root = ET.parse(path).getroot()
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "include":
                index = list(parent).index(child)
                parent[index : index + 1] = list(_expanded(path.parent / child.attrib["file"]))
    return root


def _geom_defaults(root: ET.Element) -> dict[str, dict[str, str]]:
    """Default class -> the attributes that it gives a geom, inherited ones included."""
    classes: dict[str, dict[str, str]] = {"main": {}}

    def collect(default: ET.Element, name: str, inherited: Mapping[str, str]) -> None:
        geom = default.find("geom")
        classes[name] = {**inherited, **classes.get(name, {}), **(geom.attrib if geom is not None else {})}
        for nested in default.findall("default"):
            collect(nested, nested.attrib["class"], classes[name])

    for default in root.findall("default"):
        collect(default, default.get("class", "main"), {})
    return classes


def _geoms(body: ET.Element, child_class: str, inertial: bool) -> Iterator[tuple[ET.Element, ET.Element, str, bool]]:
    """(parent, geom, default class, whether its body's inertia is given) of every geom from `body` downwards."""
    for child in list(body):
        if child.tag == "geom":
            yield body, child, child.get("class", child_class), inertial
        elif child.tag in ("body", "frame"):
            given = child.find("inertial") is not None if child.tag == "body" else inertial
            yield from _geoms(child, child.get("childclass", child_class), given)


def _drop_visual_geoms(root: ET.Element) -> None:
    defaults = _geom_defaults(root)
    named = {
        value
        for element in root.iter()
        for key, value in element.attrib.items()
        if key not in ("name", "mesh", "class", "childclass", "material", "file")
    }
    for world in root.findall("worldbody"):
        # The world does not move: what its geoms weigh has no effect.
        for parent, geom, class_name, inertia_given in list(_geoms(world, "main", inertial=True)):
            value = {**defaults.get(class_name, {}), **geom.attrib}
            collides = int(value.get("contype", "1")) != 0 or int(value.get("conaffinity", "1")) != 0
            if "mesh" in value and not collides and inertia_given and geom.get("name") not in named:
                parent.remove(geom)


def _drop_unused_assets(root: ET.Element) -> None:
    used = {geom.attrib["mesh"] for geom in root.iter("geom") if "mesh" in geom.attrib}
    for asset in root.findall("asset"):
        for element in list(asset):
            if element.tag == "texture" or (element.tag == "mesh" and _asset_name(element) not in used):
                asset.remove(element)
    for material in root.iter("material"):
        material.attrib.pop("texture", None)
        for layer in material.findall("layer"):
            material.remove(layer)


def _asset_name(element: ET.Element) -> str:
    return element.get("name") or PurePosixPath(element.get("file", "")).stem


def _asset_dirs(compilers: list[ET.Element]) -> tuple[str, str]:
    """Where meshes and height fields, and textures, are looked for, relative to the scene."""
    mesh_dir = texture_dir = ""
    for compiler in compilers:
        mesh_dir = compiler.get("meshdir", compiler.get("assetdir", mesh_dir))
        texture_dir = compiler.get("texturedir", compiler.get("assetdir", texture_dir))
    return mesh_dir, texture_dir


def _localise_files(root: ET.Element, folder: Path, compilers: list[ET.Element]) -> dict[str, Path]:
    """Points the remaining `file` attributes at names beside the scene; returns those names and the originals."""
    mesh_dir, _ = _asset_dirs(compilers)
    for compiler in compilers:
        for key in ("assetdir", "meshdir", "texturedir"):
            compiler.attrib.pop(key, None)
    files: dict[str, Path] = {}
    for element in root.iter():
        if element.tag in ("mesh", "hfield") and "file" in element.attrib:
            original = folder / mesh_dir / element.attrib["file"]
            element.set("name", _asset_name(element))
            element.set("file", f"{len(files)}_{original.name}")
            files[element.attrib["file"]] = original
    return files


def _write(scene: Scene, scene_path: PurePosixPath, final: Path) -> None:
    """Makes `final` in one step: written under another name and renamed, so that nobody sees half of it."""
    final.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=final.parent))
    try:
        target = building / scene_path
        target.parent.mkdir(parents=True)
        target.write_bytes(scene.xml)
        for name, source in scene.files.items():
            shutil.copyfile(source, target.parent / name)
        building.chmod(0o755)  # mkdtemp's 0700 would keep a shared cache to one user
        try:
            building.rename(final)
        except OSError:
            if not (final / scene_path).is_file():  # otherwise another process was first, with the same contents
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
