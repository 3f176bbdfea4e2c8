"""Unitree Go1 on flat ground, trained on a CPU: how it learned, what it earns, how well it follows commands.

    trudi train --config go1_flat --seed 0 --out RUN           # so do --algo ppo and --algo reppo (docs/go1.md)
    python benchmarks/go1_flat.py RUN [RUN ...] [--episodes 128] [--seconds 10]
    python benchmarks/go1_flat.py                              # go1_flat.md and .png again from go1_flat.json

Returns are of the task as MuJoCo Playground defines it, whatever a run's `sim.training_overrides` changed while it trained.
Commands are a grid, each held by a robot of its own for `--seconds` with the task's noise; the first second is not counted.
A robot that falls is put back and goes on; its velocities while it fell count. Velocities are of the task's own
`imu` site without noise, which is what it is rewarded for. TruDi acts from the zero latent, as it is exported; REPPO and PPO
act by their means.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from mjlab_go1 import command_table

from trudi.train.agent import Agent
from trudi.train.config import differences, load_config
from trudi.train.devices import configure_cpu
from trudi.train.envs.base import SimCfg
from trudi.train.envs.registry import make_env
from trudi.train.evaluation import Act, Acting, EvalCfg, Sampler, evaluate, make_act
from trudi.train.runfolder import RunFolder, machine, read_metrics
from trudi.train.trained import agent_of

HERE = Path(__file__).parent
PRESET = "go1_flat"
FORWARD, LEFT, TURNING = (-1.0, -0.5, 0.0, 0.5, 1.0), (-0.5, 0.0, 0.5), (-1.0, -0.5, 0.0, 0.5, 1.0)
AXES, TARGET = ("forward (m/s)", "left (m/s)", "turning (rad/s)"), (0.25, 0.25, 0.3)
SETTLE_S = 1.0
COMMAND = slice(45, 48)  # of `state`
TRUE_LINEAR, TRUE_TURNING = slice(57, 59), slice(50, 51)  # of `privileged_state`: the sensors without noise
CURVE_POINTS = 60


class Still:
    """Acts by zeros: the robot stands in its default pose, whatever is asked of it."""

    def __init__(self, action_size: int) -> None:
        self._size = action_size

    def make_act(self, sampler: Sampler, generator: torch.Generator) -> Act:
        return lambda observation: observation.actor.new_zeros(len(observation.actor), self._size)


def standing(episodes: int) -> dict[str, float]:
    """What standing still earns in the episodes of `measure`."""
    cfg = load_config(PRESET, None)
    env = make_env(cfg.task, episodes, cfg.evaluation.seed, device=torch.device("cpu"), stagger=False)
    result = evaluate(Still(env.action_size), env, EvalCfg(episodes=episodes, seed=cfg.evaluation.seed))
    low, high = result.confidence_interval()
    return {"mean": result.mean, "low": low, "high": high, "episodes": episodes}


def measure(path: Path, episodes: int, seconds: float) -> dict[str, Any]:
    """Everything that the report says of a run."""
    folder = RunFolder.open(path)
    cfg, saved = dataclasses.replace(folder.config(), device="cpu"), folder.load_checkpoint()
    env = make_env(cfg.task, episodes, cfg.evaluation.seed, device=torch.device("cpu"), stagger=False, sim=cfg.sim)
    agent = agent_of(cfg, env, saved.tensors)
    sampler: Sampler = "zero" if cfg.algo == "trudi" else "ode"
    result = evaluate(agent, env, EvalCfg(episodes=episodes, sampler=sampler, seed=cfg.evaluation.seed))
    low, high = result.confidence_interval()
    rows = read_metrics(path / "metrics.jsonl")
    about = json.loads((path / "run.json").read_text())
    return {
        "algo": cfg.algo,
        "seed": cfg.seed,
        "commit": about["git_commit"] or "unknown",
        "settings": {key: mine for key, (_, mine) in differences(load_config(PRESET, None), cfg).items()},
        "env_steps": saved.counters.env_steps,
        "minutes": saved.counters.elapsed_s / 60.0,
        "processor_minutes": rows[-1]["time/cpu_s"] / 60.0,
        "return": {"mean": result.mean, "low": low, "high": high, "episodes": episodes},
        "fell": int((result.lengths < env.max_episode_steps).sum()),
        "curve": curve(rows),
        "learning": 1.0 - collecting(rows, cfg.steps_per_iteration),
        "follow": follow(agent, sampler, cfg.task, seconds),
    }


@torch.no_grad()
def follow(agent: Agent | Acting, sampler: Sampler, task: str, seconds: float) -> dict[str, Any]:
    """Mean velocities of one robot a command, and falls."""
    grid = torch.tensor(list(itertools.product(FORWARD, LEFT, TURNING)))
    env = make_env(task, len(grid), 5, device=torch.device("cpu"), stagger=False, sim=SimCfg())
    act = make_act(agent, sampler, 1, torch.Generator())
    seen, falls, speeds = env.reset(), torch.zeros(len(grid)), list[torch.Tensor]()
    for step in range(round(seconds / env.control_period_s)):
        seen.actor[:, COMMAND] = grid  # instead of the commands that the task draws, which it pays for and we do not look at
        result = env.step(act(seen))
        seen, falls = result.observation, falls + result.terminated
        if step * env.control_period_s >= SETTLE_S:
            speeds.append(torch.cat([seen.critic[:, TRUE_LINEAR], seen.critic[:, TRUE_TURNING]], 1))
    env.close()
    mean = torch.stack(speeds).mean(0)
    return {
        "command": grid.tolist(),
        "mean_velocity": [[round(value, 3) for value in row] for row in mean.tolist()],
        "error": (mean - grid).abs().mean(0).tolist(),
        "falls": int(falls.sum()),
        "robot_seconds": len(grid) * seconds,
    }


def curve(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Points of the training curve: steps, seconds, mean reward a step, and the return of the evaluations."""
    keys = {"time/env_steps": "steps", "time/elapsed_s": "seconds", "rollout/reward_mean": "reward"}
    keys |= {"eval/return_mean": "return"}
    every = max(1, len(rows) // CURVE_POINTS)
    kept = [row for index, row in enumerate(rows, 1) if index % every == 0 or "eval/return_mean" in row]
    return [{short: row[key] for key, short in keys.items() if key in row} for row in kept]


def collecting(rows: list[dict[str, float]], steps: int) -> float:
    """The share of an iteration's time, over all iterations of so many steps, that simulator and sampling take."""
    timed = [row for row in rows if "time/collect_s" in row]  # cloning a given policy is logged as an iteration, too
    return sum(row["time/collect_s"] for row in timed) / sum(steps / row["time/steps_per_s"] for row in timed)


def render(known: dict[str, Any]) -> None:
    """The report's text and picture."""
    from matplotlib.figure import Figure

    commands = len(FORWARD) * len(LEFT) * len(TURNING)
    lines = ["# Go1 on a CPU", "", f"`{known['command']}`; {known['machine']}. What is what: benchmarks/go1_flat.py.", ""]
    lines += [f"| run | steps (M) | minutes | of one core | return | fell | {' | '.join(AXES)} | falls | learning |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
    lines += [row(name, run) for name, run in known["runs"].items()]
    lines += ["", "Minutes: of the training; the same in minutes of one core, of the two that there are."]
    lines += ["Return: of the task as it is, with its 95 % interval, and how many of those episodes ended early."]
    still = known["still"]
    lines += [f"Standing still earns {still['mean']:.2f} [{still['low']:.2f}, {still['high']:.2f}] in the same episodes."]
    lines += [f"Errors: of mean velocities over {commands} commands; the target is {TARGET[0]} m/s and {TARGET[2]} rad/s."]
    lines += ["Learning: its share of the training's time; the rest is the simulator and sampling.", ""]
    for name, run in known["runs"].items():
        changed = ", ".join(f"{key} {value}" for key, value in run["settings"].items()) or "none"
        lines.append(f"- {name}: commit {run['commit'][:7]}; settings other than the preset's: {changed}")
    for name, run in known["runs"].items():
        lines += ["", f"## {name}", "", *command_table(run["follow"])]
    lines += ["", "![Curves](go1_flat.png)", ""]
    (HERE / "go1_flat.md").write_text("\n".join(lines))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, run in known["runs"].items():
        measured = [point for point in run["curve"] if "return" in point]
        if len(measured) < 2:  # a student that was evaluated at its end alone
            continue
        left.plot([p["seconds"] / 60 for p in measured], [p["return"] for p in measured], label=name)
        right.plot([p["steps"] / 1e6 for p in measured], [p["return"] for p in measured], label=name)
    left.set(xlabel="training time (min)", ylabel="return")
    right.set(xlabel="environment steps (million)")
    left.legend(frameon=False)
    figure.savefig(HERE / "go1_flat.png", dpi=110)


def name_of(run: Path, found: dict[str, Any]) -> str:
    """`trudi 1`, `student of trudi 1`: a student's own seed is that of its distillation."""
    if not (run / "distill.json").exists():
        return f"{found['algo']} {found['seed']}"
    teacher = RunFolder.open(run / "teacher").config()
    return f"student of {teacher.algo} {teacher.seed}"


def row(name: str, run: dict[str, Any]) -> str:
    """The run's row of the first table."""
    got, found = run["return"], run["follow"]
    earned = f"{got['mean']:.2f} [{got['low']:.2f}, {got['high']:.2f}] | {run['fell']} of {got['episodes']}"
    errors = " | ".join(f"{value:.3f}" for value in found["error"])
    falls = f"{found['falls']} in {found['robot_seconds']:.0f} s"
    spent = f"{run['env_steps'] / 1e6:.1f} | {run['minutes']:.0f} | {run['processor_minutes']:.0f}"
    return f"| {name} | {spent} | {earned} | {errors} | {falls} | {run['learning']:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="run folders; none: only write the report again")
    parser.add_argument("--episodes", type=int, default=128, help="whole episodes of the task")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each command of the grid is held")
    args = parser.parse_args()
    path = HERE / "go1_flat.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    configure_cpu()
    if args.runs:
        known["still"] = standing(args.episodes)
    for run in args.runs:
        found = measure(run, args.episodes, args.seconds)
        known["runs"][name_of(run, found)] = found
        print(f"{run}: return {found['return']['mean']:.2f}, errors {found['follow']['error']}")
        known |= {"machine": machine(), "command": "python benchmarks/go1_flat.py RUN ..."}
        path.write_text(json.dumps(known, indent=1) + "\n")
    if not known["runs"]:
        parser.error("nothing was measured yet: name a run")
    render(known)


if __name__ == "__main__":
    main()
