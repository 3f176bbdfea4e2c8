"""Contracts and bundles that several tests share: a Go1 walker, and a task with actuators only."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from trudi.runtime.bundle import Bundle, manifest_json
from trudi.runtime.contract import SCHEMA_VERSION, Contract
from trudi.runtime.errors import BundleError
from trudi.runtime.reading import parse_contract

JOINTS = [f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")]
HOME = [sign * 0.1 if part == 0 else (0.9, -1.8)[part - 1] for sign in (-1, 1, -1, 1) for part in range(3)]
LIMITS = [(-0.863, 0.863), (-0.686, 4.501), (-2.818, -0.888)]
XYZ = ["x", "y", "z"]


def term(name, kind, size, units, frame, **more):
    units = [units] * size if isinstance(units, str) else units
    names = more.pop("element_names", XYZ)
    return {"name": name, "kind": kind, "size": size, "element_names": names, "units": units, "frame": frame, **more}


def graph(observations, actions, file="policy.onnx", latent=False):
    inputs = [{"name": "observation", "shape": [1, observations]}]
    return {
        "file": file,
        "opset": 17,
        "precision": "fp32",
        "batch": 1,
        "inputs": inputs + ([{"name": "latent", "shape": [1, actions]}] if latent else []),
        "outputs": [{"name": "action", "shape": [1, actions]}],
    }


def plain(values):
    """The values as a JSON file gives them: no list stands in two places."""
    return json.loads(json.dumps(values))


def go1_values():
    """Plain values of the Go1 joystick task's contract: 48 observations, 12 actions."""
    joint = {"element_names": JOINTS, "joints": JOINTS}
    observation = [
        term("linvel", "base_linear_velocity", 3, "m/s", "imu", delay_steps=0.2),
        term("gyro", "base_angular_velocity", 3, "rad/s", "imu", delay_steps=0.2),
        term("gravity", "projected_gravity", 3, "1", "imu", delay_steps=0.2),
        term("joint_pos", "joint_position", 12, "rad", "joint", offset=HOME, **joint),
        term("joint_vel", "joint_velocity", 12, "rad/s", "joint", **joint),
        term("last_action", "last_action", 12, "1", "none", element_names=JOINTS, delay_steps=1.0),
        term("command", "command", 3, ["m/s", "m/s", "rad/s"], "base", element_names=["vx", "vy", "wz"], command="velocity"),
    ]
    joints = [
        {
            "name": name,
            "default_position": HOME[index],
            "stiffness": 35.0,
            "damping": 0.5,
            "position_limit": list(LIMITS[index % 3]),
            "velocity_limit": 30.1,
            "effort_limit": 35.55 if index % 3 == 2 else 23.7,
        }
        for index, name in enumerate(JOINTS)
    ]
    velocity = {
        "name": "velocity",
        "element_names": ["vx", "vy", "wz"],
        "units": ["m/s", "m/s", "rad/s"],
        "frame": "base",
        "range": [[-1.5, 1.5], [-0.8, 0.8], [-1.2, 1.2]],
        "neutral": [0.0, 0.0, 0.0],
        "timeout_s": 0.5,
    }
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "trudi_policy",
            "task": {"backend": "envpool", "id": "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"},
            "robot": {"name": "unitree_go1", "joints": joints},
            "action": {
                "kind": "joint_position",
                "names": JOINTS,
                "units": ["rad"] * 12,
                "scale": [0.5] * 12,
                "offset": HOME,
                "scale_offset_applied_by": "runtime",
                "clip": [list(LIMITS[index % 3]) for index in range(12)],
                "rate_limit": [25.0] * 12,
            },
            "observation": observation,
            "commands": [velocity],
            "control_period_s": 0.02,
            "sampler": {"network": "teacher", "steps": 8, "ode": True, "noise": "zero", "latent_std": 2.5},
            "graph": graph(48, 12),
            "safety": {"observation_range": {"low": [-5.0] * 48, "high": [5.0] * 48, "sigmas": 5.0}},
            "provenance": {
                "run": "go1_seed_1",
                "seed": 1,
                "git_commit": "0123456789abcdef0123456789abcdef01234567",
                "git_dirty": False,
                "versions": {"trudi": "0.1.0", "torch": "2.13.0"},
                "evaluations": [
                    {
                        "sampler": "ode",
                        "return_mean": 27.125,
                        "return_std": 1.5,
                        "return_ci95": [26.5, 27.75],
                        "episodes": 64,
                        "seed": 100,
                    }
                ],
            },
        }
    )


def cheetah_values():
    """Plain values of a DeepMind Control task's contract: no robot, 17 observations, 6 actuators."""
    actuators = ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "task": {"backend": "envpool", "id": "CheetahRun-v1"},
            "robot": None,
            "action": {
                "kind": "actuator",
                "names": actuators,
                "units": ["1"] * 6,
                "scale": [1.0] * 6,
                "offset": [0.0] * 6,
                "scale_offset_applied_by": "runtime",
                "clip": [[-1.0, 1.0]] * 6,
            },
            "observation": [
                term("position", "custom", 8, ["m", *["rad"] * 7], "joint", element_names=[f"q{i}" for i in range(1, 9)]),
                term(
                    "velocity", "custom", 9, ["m/s"] * 2 + ["rad/s"] * 7, "joint", element_names=[f"dq{i}" for i in range(9)]
                ),
            ],
            "control_period_s": 0.01,
            "sampler": {"network": "teacher", "steps": 8, "ode": True, "noise": "zero", "latent_std": 2.5},
            "graph": graph(17, 6),
            "safety": {"max_tilt_rad": None},
            "provenance": {"run": "cheetah", "seed": 0},
        }
    )


def contract(values) -> Contract:
    return parse_contract(values)[0]


def go1_files() -> dict[str, bytes]:
    """Files of a bundle; the graph's bytes are arbitrary, since the reader does not run it."""
    buffer = io.BytesIO()
    np.savez(buffer, observation=np.zeros((2, 48), np.float32), action_float64=np.ones((2, 12)))
    return {"policy.onnx": bytes(range(256)) * 4, "golden.npz": buffer.getvalue()}


def refusal(path, **options) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def zip_of(path, files, spoil=lambda info: None, comment=b"") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            spoil(info)
            file.writestr(info, data)
        file.comment = comment
    return path


def with_manifest(files) -> dict[str, bytes]:
    listed = {name: data for name, data in files.items() if name != "manifest.json"}
    return {"manifest.json": manifest_json(listed), **listed}
