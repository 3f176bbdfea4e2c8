"""Go1 runs in mjlab: how they learned, and how well the last policy follows velocity commands.

    trudi train --config mjlab_go1_flat --device cuda --tf32 --out RUN     # on a GPU; a signal ends it at any time
    python benchmarks/mjlab_go1.py RUN [RUN ...] [--seconds 10] [--render]

Commands are a grid of forward, sideways and turning velocities, each held by robots of its own for `--seconds`, without the
pushes and command changes of training but with its noise and random friction; the first second is not counted. `--render`
writes mjlab_go1.md and .png from the committed mjlab_go1.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch

from trudi.train.config import differences, load_config
from trudi.train.envs.base import SimCfg
from trudi.train.envs.registry import make_env
from trudi.train.evaluation import make_act
from trudi.train.runfolder import read_metrics
from trudi.train.trained import TrainedRun

HERE = Path(__file__).parent
FORWARD, SIDEWAYS, TURNING = (-1.0, -0.5, 0.0, 0.5, 1.0), (-0.5, 0.0, 0.5), (-0.5, 0.0, 0.5)
SETTLE_S = 1.0
CURVE_POINTS = 40
# Commands stay as they are given, and nobody pushes.
HELD = (
    "commands.twist.resampling_time_range=[1e6, 1e6]",
    "commands.twist.heading_command=false",
    "commands.twist.ranges.heading=null",
    "commands.twist.rel_standing_envs=0.0",
    "commands.twist.rel_heading_envs=0.0",
    "commands.twist.rel_forward_envs=0.0",
    "events.push_robot=null",
    "curriculum={}",
)


@torch.no_grad()
def follow(run: TrainedRun, seconds: float) -> dict[str, Any]:
    """Mean velocities of one robot a command, and falls."""
    grid = torch.tensor(list(itertools.product(FORWARD, SIDEWAYS, TURNING)))
    sim = SimCfg(action_bound=run.cfg.sim.action_bound, overrides=HELD)
    env: Any = make_env(run.cfg.task, len(grid), 5, device=torch.device("cpu"), stagger=False, sim=sim)
    act = make_act(run.agent, "zero", 1, torch.Generator())
    seen = env.reset()
    command = env.unwrapped.command_manager.get_term("twist")
    robot = env.unwrapped.scene["robot"].data
    falls = torch.zeros(len(grid))
    speeds: list[torch.Tensor] = []
    for step in range(round(seconds / env.control_period_s)):
        command.vel_command_b[:] = grid
        seen.actor[:, -3:] = grid
        result = env.step(act(seen))
        seen, falls = result.observation, falls + result.terminated
        if step * env.control_period_s >= SETTLE_S:
            linear, turning = robot.root_link_lin_vel_b[:, :2], robot.root_link_ang_vel_b[:, 2:]
            speeds.append(torch.cat([linear, turning], 1).clone())
    env.close()
    mean = torch.stack(speeds).mean(0)
    error = (mean - grid).abs()
    return {
        "command": grid.tolist(),
        "mean_velocity": [[round(value, 3) for value in row] for row in mean.tolist()],
        "mae": {
            "forward": float(error[:, 0].mean()),
            "sideways": float(error[:, 1].mean()),
            "turning": float(error[:, 2].mean()),
        },
        "falls": int(falls.sum()),
        "robot_seconds": len(grid) * seconds,
    }


def curve(run: TrainedRun) -> list[dict[str, float]]:
    """Points of the training curve: steps, seconds, mean reward a step, mean return of the episodes that ended."""
    rows = read_metrics(run.folder.path / "metrics.jsonl")
    keys = {"time/env_steps": "steps", "time/elapsed_s": "seconds", "rollout/reward_mean": "reward", "actor/kl": "kl"}
    keys |= {"rollout/return_mean": "return", "time/steps_per_s": "steps_per_s"}
    every = max(1, len(rows) // CURVE_POINTS)
    return [{short: row[key] for key, short in keys.items() if key in row} for row in rows[every - 1 :: every]]


def settings(run: TrainedRun) -> dict[str, Any]:
    """The settings in which the run differs from the preset."""
    changed = differences(load_config("mjlab_go1_flat", None), run.cfg)
    return {key: mine for key, (_, mine) in changed.items()}


def command_table(found: dict[str, Any]) -> list[str]:
    """Lines of a table: each command and the mean velocity under it."""
    rows = zip(found["command"], found["mean_velocity"], strict=True)
    cells = [f"| {', '.join(f'{v:g}' for v in asked)} | {', '.join(f'{v:.2f}' for v in got)} |" for asked, got in rows]
    return ["| command (vx, vy, wz) | velocity |", "|---|---|", *cells]


def render(runs: dict[str, Any]) -> None:
    """The report's text and picture."""
    from matplotlib.figure import Figure

    lines = ["# Go1 in mjlab on a GPU", "", "Written by `python benchmarks/mjlab_go1.py --render` from mjlab_go1.json.", ""]
    lines += [
        runs["about"],
        "",
        "| run | settings other than the preset's | steps | time (s) | steps/s | reward a step, last |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name, run in runs["runs"].items():
        last, changed = run["curve"][-1], ", ".join(f"{key} {value}" for key, value in run["settings"].items()) or "none"
        rate = sorted(point["steps_per_s"] for point in run["curve"])[len(run["curve"]) // 2]
        lines.append(
            f"| {name} | {changed} | {run['env_steps']:,} | {run['elapsed_s']:.0f} | {rate:,.0f} | {last['reward']:.4f} |"
        )
    lines += [
        "",
        "Following commands, on a CPU, from the zero latent (one action an observation), mean absolute errors over",
    ]
    lines += [f"{len(FORWARD) * len(SIDEWAYS) * len(TURNING)} commands:", ""]
    lines += [
        "| run | forward (m/s) | sideways (m/s) | turning (rad/s) | falls | robot-seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs["runs"].items():
        mae, found = run["follow"]["mae"], run["follow"]
        errors = f"{mae['forward']:.3f} | {mae['sideways']:.3f} | {mae['turning']:.3f}"
        lines.append(f"| {name} | {errors} | {found['falls']} | {found['robot_seconds']:.0f} |")
    for name, run in runs["runs"].items():
        lines += ["", f"## {name}", "", *command_table(run["follow"])]
    lines += ["", "![Curves](mjlab_go1.png)", ""]
    (HERE / "mjlab_go1.md").write_text("\n".join(lines))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, run in runs["runs"].items():
        left.plot([p["seconds"] for p in run["curve"]], [p["reward"] for p in run["curve"]], label=name)
        right.plot([p["steps"] / 1e6 for p in run["curve"]], [p["reward"] for p in run["curve"]], label=name)
    left.set(xlabel="training time (s)", ylabel="reward a step")
    right.set(xlabel="environment steps (million)")
    left.legend(frameon=False)
    figure.savefig(HERE / "mjlab_go1.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--about", default="", help="what machine they were trained on, for the report")
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    path = HERE / "mjlab_go1.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"about": "", "runs": {}}
    known["about"] = args.about or known["about"]
    for folder in args.runs:
        run = TrainedRun.open(folder)
        known["runs"][folder.name] = {
            "settings": settings(run),
            "env_steps": run.counters.env_steps,
            "elapsed_s": run.counters.elapsed_s,
            "git_commit": run.about().get("git_commit"),
            "curve": curve(run),
            "follow": follow(run, args.seconds),
        }
        print(folder.name, json.dumps(known["runs"][folder.name]["follow"]["mae"]), flush=True)
        path.write_text(json.dumps(known, indent=1) + "\n")
    if args.render or args.runs:
        render(known)


if __name__ == "__main__":
    main()
