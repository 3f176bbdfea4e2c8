"""`python isaac_recording.py OUT.json TASK...`: robot files and a few steps of tasks of Isaac Lab's signatures.

A process of its own: that simulator, like the real one, can be started once in a process. What the stand-in has not, and the
real one has, is put in here: actuator models, and the joints' types.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

ENV = 1
STEPS = 12


def with_actuators(asset):
    """Actuator models as `isaaclab.actuators` has them, out of the asset's configuration."""
    kind = type("ImplicitActuator", (), {"__module__": "isaaclab.actuators.actuator_pd"})
    asset.actuators = {}
    for name, cfg in asset.cfg.actuators.items():
        ids, joints = asset.find_joints(cfg.joint_names_expr)
        group = kind()
        group.cfg, group.joint_names = cfg, joints
        group.effort_limit = asset.data.joint_effort_limits[:, ids]
        group.velocity_limit = asset.data.joint_vel_limits[:, ids]
        asset.actuators[name] = group


def record(task):
    import gymnasium as gym
    from isaaclab_tasks.utils import parse_env_cfg

    from trudi.train.envs.robot_description import describe_robot, robot_yaml

    cfg = parse_env_cfg(task, device="cpu", num_envs=3)
    cfg.seed = 3
    if hasattr(cfg, "observations"):
        cfg.observations.policy.enable_corruption = False
    env = gym.make(task, cfg=cfg).unwrapped
    name, asset = next(iter(env.scene.articulations.items()))
    with_actuators(asset)
    if name == "robot" and "cart" in asset.joint_names[0]:
        types = ["DofType.Translation", "DofType.Rotation"]
        asset.root_physx_view = SimpleNamespace(shared_metatype=SimpleNamespace(dof_types=types))
    size = int(np.prod(env.single_action_space.shape))
    low, high = [-0.5] * size, [0.5] * size
    values = describe_robot(env, f"isaaclab:{task}", ["policy"], low, high)
    found = {"text": robot_yaml(values), "steps": [], "joints": list(asset.joint_names)}
    groups, _ = env.reset()
    rng = np.random.default_rng(0)
    manager = getattr(env, "action_manager", None)
    for _ in range(STEPS if manager is not None else 0):
        policy = groups["policy"]
        seen = torch.cat(list(policy.values()), -1) if isinstance(policy, dict) else policy
        data = asset.data
        action = rng.uniform(-1.0, 1.0, size)
        step = {
            "joints": {
                joint: [data.joint_pos[ENV, index].item(), data.joint_vel[ENV, index].item()]
                for index, joint in enumerate(asset.joint_names)
            },
            "linear_velocity": data.root_lin_vel_b[ENV].tolist(),
            "angular_velocity": data.root_ang_vel_b[ENV].tolist(),
            "observation": seen[ENV].tolist(),
            "commands": {
                one: env.command_manager.get_command(one)[ENV].tolist()
                for one in getattr(env.command_manager, "active_terms", [])
            },
            "action": action.tolist(),
        }
        raw = torch.tensor(np.tile(0.5 * action, (3, 1)), dtype=torch.float32)
        groups, _, terminated, truncated, _ = env.step(raw)
        targets = {"position": data.joint_pos_target[ENV].tolist(), "effort": data.joint_effort_target[ENV].tolist()}
        step["targets"] = {kind: dict(zip(asset.joint_names, each, strict=True)) for kind, each in targets.items()}
        if bool((terminated | truncated)[ENV]):
            break
        found["steps"].append(step)
    if hasattr(env, "get_IO_descriptors"):
        found["descriptors"] = env.get_IO_descriptors
    env.close()
    return found


def main(out, tasks):
    sys.path.insert(0, str(Path(__file__).parent / "isaac_signatures"))
    from isaaclab.app import AppLauncher

    app = AppLauncher(headless=True).app
    import isaaclab_tasks  # noqa: F401 - registers the tasks

    recorded = {task: record(task) for task in tasks}
    Path(out).write_text(
        json.dumps(recorded, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))
    )
    app.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
