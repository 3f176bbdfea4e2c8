"""The contract as the ONNX metadata that other deployers read.

The keys joint_names ... command_names are those of mjlab and whole-body-tracking exports; values are comma-separated, in
policy order, and exact (theirs are rounded to three decimals). Those deployers command

    default_joint_pos + action_scale * a

so `action_scale` is there only where that is this policy's command: absolute joint positions, the default pose as offset,
and scale and offset not yet applied by the graph. A deployer that misses the key stops instead of applying a scale twice.
Motion-tracking keys (anchor_body_name, body_names) are absent: the contract knows no reference motion.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from trudi.runtime.contract import Contract

CONTRACT_KEY = "trudi_contract"


def csv_metadata(contract: Contract) -> dict[str, str]:
    """Metadata for the ONNX file: the keys that other deployers read, and the whole contract as JSON in one more."""
    metadata = {
        "run_path": contract.provenance.run,
        "observation_names": _csv(term.name for term in contract.observation),
        "observation_history_lengths": _csv(term.history for term in contract.observation),
        "command_names": _csv(command.name for command in contract.commands),
    }
    if contract.robot is not None:
        joints = contract.robot.joints
        metadata |= {
            "joint_names": _csv(joint.name for joint in joints),
            "joint_stiffness": _csv(joint.stiffness for joint in joints),
            "joint_damping": _csv(joint.damping for joint in joints),
            "default_joint_pos": _csv(joint.default_position for joint in joints),
        }
    if _is_scaled_around_default_pose(contract):
        metadata["action_scale"] = _csv(contract.action.scale)
    return metadata | {CONTRACT_KEY: json.dumps(contract.model_dump(mode="json"), allow_nan=False)}


def _is_scaled_around_default_pose(contract: Contract) -> bool:
    action, robot = contract.action, contract.robot
    return (
        robot is not None
        and action.kind == "joint_position"
        and action.scale_offset_applied_by == "runtime"
        and action.offset == tuple(joint.default_position for joint in robot.joints)
    )


def _csv(values: Iterable[str | float]) -> str:
    return ",".join(map(str, values))
