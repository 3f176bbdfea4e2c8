"""Every fault that the runtime is held to, with what must come of it: for tests, and for the benchmark that times them."""

import os
from dataclasses import dataclass, field

FIVE = {"safety": {"max_overruns_in_row": 5}}
"""What a bundle asks for by default."""

QUICK = {"stand_s": 0.3, "fade_in_s": 0.2, "halt_s": 0.2, "fade_out_s": 0.2}
"""A site file that gets to the policy soon."""


@dataclass(frozen=True)
class Case:
    """One row of the matrix."""

    name: str
    faults: tuple
    code: str | None
    """The fault that must be latched; None where the flight must go on."""
    final: str = "FAULT"
    site_file: dict = field(default_factory=dict)
    student: bool = False
    options: tuple = ()


def at(kind, value=None, duration_s=None, at_s=0.4):
    given = {"kind": kind, "at_s": at_s, "value": value, "duration_s": duration_s}
    return ({key: entry for key, entry in given.items() if entry is not None},)


ONCE_S = 0.03
"""Longer than a control step, so that a slow inference meets it, and over before that inference is."""

MATRIX = (
    Case("state stream stops", at("state_stop"), "STATE_LOST"),
    Case("state freezes (same stamp)", at("state_freeze"), "STATE_LOST"),
    Case("state jumps back 50 ms", at("state_back", 0.05), "STATE_BACKWARDS"),
    Case("state carries NaN", at("state_nan"), "STATE_NOT_FINITE"),
    Case("state carries infinity", at("state_inf", "angular_velocity"), "STATE_NOT_FINITE"),
    Case("state of a wrong size", at("state_size"), "STATE_MALFORMED"),
    Case("state of an unknown joint", at("state_layout"), "STATE_LAYOUT"),
    Case("robot's clock steps 5 s ahead", at("clock_step", 5.0), "STATE_FUTURE"),
    Case("robot's clock steps 5 s back", at("clock_step", -5.0), "STATE_BACKWARDS"),
    Case("every second state is lost", at("state_dropout", 0.5), None, "STAND"),
    Case("commands stop", at("command_stop"), None, "STAND", {"safety": {"command_lost_s": 0.6}}),
    Case("inference takes 4 budgets once", at("inference_slow", 4.0, ONCE_S), None, "STAND"),
    Case("inference takes 10 budgets once", at("inference_slow", 10.0, ONCE_S), "OVERRUN", site_file=FIVE),
    Case("inference takes 10 budgets always", at("inference_slow", 10.0), "OVERRUN", site_file=FIVE),
    Case(
        "the same always, on the loop's own core",
        at("inference_slow", 10.0),
        "OVERRUN",
        site_file=FIVE,
        options=("--cpu", min(os.sched_getaffinity(0))),
    ),
    Case("the same once, with a student", at("inference_slow", 10.0, ONCE_S), None, "STAND", student=True),
    Case("the same always, with a student", at("inference_slow", 10.0), None, "STAND", student=True),
    Case("engine raises", at("engine_error"), "ENGINE"),
    Case("action is NaN", at("action_nan"), "ACTION_NOT_FINITE"),
    Case("joint beyond its limit", at("joint_position", 0.3, 0.2), "JOINT_POSITION"),
    Case(
        "joint faster than its limit",
        at("joint_velocity", 25.0, 0.2),
        "JOINT_VELOCITY",
        site_file={"joints": {"FR_hip_joint": {"velocity_limit": 20.0}}},
    ),
    Case("robot tips over", at("tip_over", 1.4), "TILT"),
    Case("robot's process is killed", at("robot_kill"), "STATE_LOST"),
    Case("robot's process hangs 0.8 s", at("robot_stall", 0.8), "STATE_LOST"),
)
