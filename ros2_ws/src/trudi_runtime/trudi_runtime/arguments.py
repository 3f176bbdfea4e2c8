"""What the launch files are told, checked before any node starts. Nothing of launch is imported, so it is tested everywhere.

Every check raises ArgumentError, one line that says what is wrong and what there is.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DISCOVERY_RANGES = ("LOCALHOST", "SUBNET", "OFF", "SYSTEM_DEFAULT")
"""Values of ROS_AUTOMATIC_DISCOVERY_RANGE."""
SIMULATED = {
    "MuJoCoPlayground/Go1JoystickFlatTerrain-v1": "unitree_go1",
    "Mjlab-Velocity-Flat-Unitree-Go1": "mjlab_go1",
    "CartpoleBalance-v1": "cartpole",
    "CartpoleBalanceSparse-v1": "cartpole",
    "CartpoleSwingup-v1": "cartpole",
    "CartpoleSwingupSparse-v1": "cartpole",
}
"""Tasks that `sim_robot` has a parameter file for, and the file's name."""
MAX_CONTRACT_BYTES = 1 << 20
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_NAMESPACE = re.compile(rf"/?{_NAME}(/{_NAME})*")


class ArgumentError(ValueError):
    """A launch argument that cannot be used."""


@dataclass(frozen=True)
class RuntimeArguments:
    """Arguments of runtime.launch.py."""

    bundle: Path
    bundle_root: str
    """Folder that files may be loaded from; empty: the one that the bundle lies in."""
    robot: Path
    """The robot's parameter file."""
    use_sim_time: bool
    namespace: str
    autostart: bool
    record: Path | None
    """Folder of the bag that is to be recorded."""
    enclaves: str
    """Prefix of the security enclaves; empty: none is named."""
    stamps: str
    """Whose clock stamps the robot's messages; empty: as the robot's file says."""

    @classmethod
    def read(cls, given: Mapping[str, str], config: Path) -> RuntimeArguments:
        """From the words given to launch; `config` holds the robots' parameter files."""
        bundle, use_sim_time = bundle_path(given["bundle"]), boolean("use_sim_time", given["use_sim_time"])
        robot = robot_file(given["robot"], config)
        # A simulation's clock is not this machine's: its stamps tell new from old, and no more.
        own = use_sim_time and parameters_of(robot).get("stamps", "shared") == "shared"
        return cls(
            bundle=bundle,
            bundle_root=root_folder(given["bundle_root"], bundle),
            robot=robot,
            use_sim_time=use_sim_time,
            namespace=namespace(given["namespace"]),
            autostart=boolean("autostart", given["autostart"]),
            record=record_folder(given["record"]),
            enclaves=enclave_prefix(given["enclaves"]),
            stamps="own" if own else "",
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """What the runtime is given beside the robot's file. A bag needs its ticks to be computed again."""
        given: dict[str, Any] = {"bundle": str(self.bundle), "use_sim_time": self.use_sim_time}
        if self.record is not None:
            given["publish_ticks"] = True
        return given | {name: value for name in ("bundle_root", "stamps") if (value := getattr(self, name))}

    @property
    def record_parameters(self) -> dict[str, Any]:
        """What the recorder is given."""
        stamped = parameters_of(self.robot).get("cmd_vel.stamped", True)
        return {"output": str(self.record), "cmd_vel_stamped": stamped, "use_sim_time": self.use_sim_time}

    def ros_arguments(self, executable: str) -> list[str]:
        """Further arguments of a node."""
        return ["--enclave", f"{self.enclaves}/{executable}"] if self.enclaves else []


@dataclass(frozen=True)
class SimArguments:
    """Arguments of sim.launch.py beside those that it hands on."""

    task: str
    robot: str
    """Name or path of the robot's parameter file."""
    discovery: str
    runtime: RuntimeArguments
    faults: str

    @classmethod
    def read(cls, given: Mapping[str, str], config: Path) -> SimArguments:
        """From the words given to launch. Task and robot are the bundle's, where none is named."""
        task = given["task"].removeprefix("envpool:") or task_of(bundle_path(given["bundle"]))
        if task not in SIMULATED:
            raise ArgumentError(f"task:={task} has no simulated robot; available: {', '.join(SIMULATED)}")
        robot = given["robot"] or SIMULATED[task]
        runtime = RuntimeArguments.read({**given, "robot": robot}, config)
        return cls(task, robot, choice("discovery", given["discovery"].upper(), DISCOVERY_RANGES), runtime, given["faults"])

    @property
    def parameters(self) -> dict[str, Any]:
        """What the simulated robot is given, so that it is the robot that the runtime is told of."""
        robot = parameters_of(self.runtime.robot)
        given: dict[str, Any] = {"task": self.task} | ({"faults": self.faults} if self.faults else {})
        taken = {"robot.odometry": "odometry", "robot.command_timeout_s": "command_timeout_s", "imu_frame": "imu_frame"}
        return given | {name: robot[key] for key, name in taken.items() if robot.get(key) not in (None, "")}


def boolean(name: str, text: str) -> bool:
    """`true` or `false`, in any case."""
    return choice(name, text.lower(), ("true", "false")) == "true"


def choice(name: str, text: str, available: Iterable[str]) -> str:
    """One of `available`."""
    if text not in available:
        raise ArgumentError(f"{name}:={text} is none of {', '.join(available)}")
    return text


def namespace(text: str) -> str:
    """A ROS namespace, or nothing."""
    if text and not _NAMESPACE.fullmatch(text):
        raise ArgumentError(f"namespace:={text} is none: write letters, digits and _ with / between, as in robots/go2")
    return text


def enclave_prefix(text: str) -> str:
    """A path of SROS2 enclaves, or nothing."""
    if text and not (text.startswith("/") and _NAMESPACE.fullmatch(text)):
        raise ArgumentError(
            f"enclaves:={text} is no path of enclaves: write it from the root and without an end, as in /trudi"
        )
    return text


def absolute(text: str) -> Path:
    """A path as the shell would have it, links followed."""
    return Path(text).expanduser().resolve()


def existing_file(name: str, text: str) -> Path:
    """A file that is there."""
    path = absolute(text)
    if not text or not path.is_file():
        raise ArgumentError(f"{name}:={text} is no file; {listed('beside it', _entries(path.parent))}")
    return path


def bundle_path(text: str) -> Path:
    """A bundle: a folder with a bundle.json, or a .zip. What is in it is checked when the runtime is configured."""
    path = absolute(text)
    if text and (path.is_file() if path.suffix == ".zip" else (path / "bundle.json").is_file()):
        return path
    wrong = "names no bundle" if not text else "has no bundle.json" if path.is_dir() else "is not there"
    if text and path.is_file():
        wrong = "is a file that is no .zip"
    folder = path.parent if text else Path.cwd()
    bundles = [entry.name for entry in _entries(folder) if entry.suffix == ".zip" or (entry / "bundle.json").is_file()]
    raise ArgumentError(f"bundle:={text} {wrong}; {listed(f'bundles in {folder}', bundles)}")


def root_folder(text: str, bundle: Path) -> str:
    """The folder that files may be loaded from, or nothing; the bundle must lie in it."""
    if not text:
        return ""
    root = absolute(text)
    if not root.is_dir():
        raise ArgumentError(f"bundle_root:={text} is no folder")
    if not bundle.is_relative_to(root):
        raise ArgumentError(f"bundle:={bundle} lies outside bundle_root:={root}; nothing is loaded from there")
    return str(root)


def robot_file(text: str, config: Path) -> Path:
    """The parameter file of a robot: a name among those in `config`, or a path."""
    names = sorted(path.stem for path in config.glob("*.yaml"))
    path = config / f"{text}.yaml" if text in names else absolute(text)
    if not text or not path.is_file():
        raise ArgumentError(f"robot:={text} is neither a file nor a robot of this package; {listed('robots', names)}")
    parameters_of(path)
    return path


def record_folder(text: str) -> Path | None:
    """A folder that is not there yet, where one can be made; None where nothing is recorded."""
    if not text:
        return None
    path = absolute(text)
    if path.exists():
        raise ArgumentError(f"record:={text} is there already: name a folder that is new")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ArgumentError(f"record:={text} cannot be made: {path.parent} is no folder that may be written")
    return path


def task_of(bundle: Path) -> str:
    """The task that a bundle's policy was trained on."""
    try:
        if bundle.is_dir():
            text = (bundle / "bundle.json").read_bytes()
        else:
            with zipfile.ZipFile(bundle) as archive, archive.open("bundle.json") as file:
                text = file.read(MAX_CONTRACT_BYTES + 1)
        task = json.loads(text[:MAX_CONTRACT_BYTES])["task"]["id"]
    except (OSError, KeyError, TypeError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise ArgumentError(
            f"{bundle} does not say its task ({type(error).__name__}): name it, as in task:=CartpoleSwingup-v1"
        ) from None
    return str(task)


def parameters_of(path: Path, node: str = "", *, needed: bool = True) -> dict[str, Any]:
    """Values by full name of a parameter file: those for `node`, or whatever node they are for."""
    found = [parameters for name, parameters in _nodes(_yaml(path)) if not node or name == node]
    if needed and not found:
        raise ArgumentError(f"{path} is no parameter file{f' for {node}' if node else ''}: it has no ros__parameters there")
    return {name: value for parameters in found for name, value in _flat(parameters).items()}


def listed(what: str, names: Iterable[Path | str]) -> str:
    """A half-sentence of what there is, for the end of an error."""
    words = sorted(name.name if isinstance(name, Path) else name for name in names)
    shown = ", ".join(words[:12]) + (", ..." if len(words) > 12 else "")
    return f"{what}: {shown}" if shown else f"{what}: none"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"{path} is no parameter file: {' '.join(str(error).split())}") from None


def _nodes(tree: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each node's name, without namespaces, and its parameters."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key == "ros__parameters" and isinstance(value, dict):
            yield name, value
        else:
            yield from _nodes(value, str(key).rpartition("/")[2])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
