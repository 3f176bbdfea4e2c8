"""What a bag must say of a run, so that it can be computed again: one JSON object, latched on `~/about`.

{"at_ns": 812345678901, "command_form": "joint_state", "imu_frame": "",
 "topics": {"joint_states": "/joint_states", ..., "joint_commands": "/joint_commands"},
 "flight": {"bundle": digest, "engine": "...", "robot": "{...}", "site_file": "{...}", "controller": "{...}", ...}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from trudi.runtime.replay import NEEDED
from trudi_runtime.ticks import PARTS

COMMANDS, GAINS = "joint_commands", "joint_gains"
TOPICS: Final = (*PARTS, COMMANDS, GAINS)
"""Topics that a replay reads beside those of the runtime itself, by the names they have without remapping."""


@dataclass(frozen=True)
class About:
    """What a run was made of."""

    at_ns: int
    """When it was configured, CLOCK_MONOTONIC: its ticks come later, those of the run before do not."""
    flight: Mapping[str, str]
    """What a flight recording says of a flight, and at least `NEEDED` of it."""
    topics: Mapping[str, str]
    """Of each of `TOPICS` the name it had."""
    command_form: str
    imu_frame: str
    """Frame that imu messages had to name; empty: any."""

    def to_json(self) -> str:
        """The content of the message."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> About:
        """The inverse of `to_json`. ValueError where `text` is something else."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"what ~/about says is no JSON: {error}") from None
        if not isinstance(values, dict) or not values.keys() >= cls.__dataclass_fields__.keys():
            raise ValueError("what ~/about says lacks a part; it is of another TruDi")
        flight, topics = _texts(values["flight"]), _texts(values["topics"])
        if not isinstance(values["at_ns"], int) or not flight.keys() >= NEEDED or not topics.keys() >= set(TOPICS):
            raise ValueError("what ~/about says lacks a part; it is of another TruDi")
        return cls(values["at_ns"], flight, topics, str(values["command_form"]), str(values["imu_frame"]))


def _texts(values: Any) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError("what ~/about says has something else than texts where texts belong")
    return {str(name): value for name, value in values.items()}
