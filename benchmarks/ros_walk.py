"""Random commands over ROS 2, in real time: the robot's node, the runtime's node, and this one, which holds the joystick.

    .ros/kilted/bin/python benchmarks/ros_walk.py zoo/go1_flat [--minutes 30] [--seed 0] [--name NAME]

What `walk.py` does in lock step, over DDS between three processes: a new command of the contract's whole range each 4 s, one
in ten of them at rest. After a fall or a fault the robot is put back, and the course goes on. Writes NAME.json and NAME.md
after every command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))

import rclpy  # noqa: E402
from demo_go1_ros import BUNDLE, PATIENCE_S, PERIOD_S, Hand, nodes  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from trudi.runtime.bundle import Bundle  # noqa: E402
from trudi.runtime.robots.walk import STANDING_PART, velocity_command  # noqa: E402
from trudi.runtime.script import Leg  # noqa: E402

RESULTS = Path(__file__).parent
HELD_S, SETTLED_S = 4.0, 1.5
"""How long a command is held, and the last part of that in which its mean velocity is taken: ramps are over by then."""
LOW_M = 0.15
"""Height of the base below which it has fallen: half of that in the initial pose; m."""
TIMES = ("state_to_command_p50_ms", "state_to_command_p99_ms", "state_to_command_max_ms", "cycles", "missed", "late_actions")


class Walk:
    """What has been seen so far, and the robot's way to ACTIVE and back."""

    def __init__(self, hand: Hand, facts: dict[str, object], path: Path) -> None:
        self.hand, self.facts, self.path = hand, facts, path
        self.errors: list[np.ndarray] = []
        self.ends: list[dict[str, object]] = []
        self.driven_s = 0.0

    def await_standby(self) -> None:
        """Until the supervisor says so; a fault that has just been reset may still be the last that was heard."""
        end = time.monotonic() + PATIENCE_S
        while self.hand.state != "STANDBY":
            rclpy.spin_once(self.hand, timeout_sec=0.1)
            if time.monotonic() > end:
                raise RuntimeError(f"{self.hand.state} in place of STANDBY: {self.hand.values.get('reason', '')}")

    def bring_up(self) -> None:
        """STANDBY to ACTIVE."""
        hand, rest = self.hand, (Leg(0.0, {"velocity": (0.0, 0.0, 0.0)}),)
        hand.trigger("stand")
        hand.wait("STAND")
        for _ in range(10):
            hand.drive(1.0, rest)
            if "is refused" not in hand.ask(Trigger, "/trudi_runtime/start", Trigger.Request()).message:
                break
        hand.wait("ACTIVE")

    def follow(self, command: list[float]) -> None:
        """One command; puts the robot back where that ended in a fall or a fault."""
        hand, began = self.hand, time.monotonic()
        seen = hand.drive(HELD_S, (Leg(0.0, {"velocity": tuple(command)}),))
        held_s = time.monotonic() - began
        self.driven_s += held_s
        low = hand.height < LOW_M
        if hand.state == "ACTIVE" and not low:
            settled = [velocity for _, velocity in seen[-round(SETTLED_S / PERIOD_S) :]]
            self.errors.append(np.abs(np.mean(settled, axis=0) - command))
        else:
            why = "it lies" if low else f"{hand.values.get('fault', hand.state)}: {hand.values.get('reason', '')}"
            self.ends.append({"at_s": round(self.driven_s, 1), "command": command, "held_s": round(held_s, 2), "why": why})
            self._put_back()
        self.write()

    def _put_back(self) -> None:
        hand = self.hand
        if hand.state != "FAULT":
            hand.transition(Transition.TRANSITION_DEACTIVATE)
            hand.ask(Trigger, "/sim_robot/reset_pose", Trigger.Request())
            hand.transition(Transition.TRANSITION_ACTIVATE)
        else:
            hand.ask(Trigger, "/sim_robot/reset_pose", Trigger.Request())
            for _ in range(10):
                time.sleep(0.3)
                if hand.ask(Trigger, "/trudi_runtime/reset", Trigger.Request()).success:
                    break
        self.await_standby()
        self.bring_up()

    def write(self) -> None:
        """The figures so far."""
        error = np.mean(self.errors, axis=0).round(3).tolist() if self.errors else None
        timing = {name: self.hand.timing.get(name, "") for name in TIMES}
        values = {"driven_s": round(self.driven_s, 1), "commands": len(self.errors), "error": error, "ends": self.ends}
        facts = self.facts | values | {"timing": timing}
        self.path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        self.path.with_suffix(".md").write_text("\n".join(page(facts)))


def page(facts: dict[str, object]) -> list[str]:
    ends, error = facts["ends"], facts["error"]
    lines = [
        f"# How {facts['bundle']} walks over ROS 2",
        "",
        f"`{facts['command']}`, commit {facts['commit']}. Beside it: {facts['beside']}.",
        "Three processes over DDS, in real time: the simulated robot, the runtime, the joystick.",
        "",
        f"- {facts['driven_s'] / 60:.1f} minutes of random commands of the whole range, a new one each {HELD_S:g} s:"
        f" **{len(ends)} falls and faults**.",
    ]
    if error is not None:
        shown = f"{error[0]:.3f} m/s forward, {error[1]:.3f} m/s left, {error[2]:.3f} rad/s"
        lines.append(f"- Mean velocities, in the last {SETTLED_S:g} s of {facts['commands']} commands, are off by {shown}.")
    timing = facts["timing"]
    lines += ["", "| the runtime's own count | |", "|---|---|", *(f"| {name} | {timing[name]} |" for name in TIMES), ""]
    if ends:
        lines += ["| after (s) | command (forward, left, turning) | held for (s) | why |", "|---|---|---|---|"]
        for one in ends:
            command = ", ".join(f"{value:.2f}" for value in one["command"])
            lines.append(f"| {one['at_s']} | {command} | {one['held_s']} | {one['why']} |")
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLE)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="of the .json and .md beside this script (default: ros_walk_ and the bundle's)")
    parser.add_argument("--beside", default="nothing else", help="what else the machine did, for the record")
    args = parser.parse_args()
    with Bundle.open(args.bundle) as bundle:
        commands = bundle.contract.commands
        low, high = np.array(commands[velocity_command(bundle.contract)].range).T
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=ROOT).strip()
    given = f".ros/kilted/bin/python benchmarks/ros_walk.py {os.path.relpath(args.bundle)} --seed {args.seed}"
    facts = {"bundle": args.bundle.name, "command": given, "commit": commit, "beside": args.beside}
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as flights, nodes(args.bundle, flights) as hand:
        walk = Walk(hand, facts, RESULTS / (args.name or f"ros_walk_{args.bundle.name}"))
        hand.transition(Transition.TRANSITION_CONFIGURE)
        hand.transition(Transition.TRANSITION_ACTIVATE)
        walk.await_standby()
        walk.bring_up()
        while walk.driven_s < 60.0 * args.minutes:
            command = rng.uniform(low, high).round(3).tolist()
            walk.follow([0.0, 0.0, 0.0] if rng.random() < STANDING_PART else command)
    print(walk.path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
