"""What a teacher loses with fewer steps, and what its students do not: returns in pairs, steadiness, latency.

    python benchmarks/distill.py [--only NAME ...] [--parts steps students latency] [--teacher NAME=RUN ...]

For each teacher that is there (in `runs/learning/`, from learning.py or, for the Panda, from `trudi train
envpool:MuJoCoPlayground/PandaPickCube-v1 --out runs/learning/panda_pick_cube_0`; or --teacher): its ODE in 1, 2, 4, 8 and
16 steps, equal ones and the trained schedule's, from the zero latent, one fixed latent and fresh ones; students of 1 and
2 steps by each method, made by `trudi distill`; and one action's latency of teacher and students as ONNX graphs, in turns
in one process. Every policy runs the same episodes; a ratio is that to the teacher in all of its steps from the zero
latent, with its paired bootstrap interval.

Each measurement is kept in --runs as soon as it is done, and not made again: stop it and start it at any time. Writes
benchmarks/distill.{json,md}; teachers that are not here keep their rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from trudi.export.graph import build_graph
from trudi.runtime.bench import measure as time_calls
from trudi.runtime.bench import processor
from trudi.runtime.engines.onnx import OnnxEngine
from trudi.train.agent import Agent
from trudi.train.distill.gate import paired_ratio
from trudi.train.envs.base import Observation
from trudi.train.evaluation import Act, run_episodes
from trudi.train.export_view import export_view
from trudi.train.policy import Spacing
from trudi.train.runfolder import VERDICT
from trudi.train.trained import TrainedRun

HERE = Path(__file__).parent
SEED = 4_000_000
FIXED_LATENT_SEED = 0
PARTS = ("steps", "students", "latency")
STEPS = (1, 2, 4, 8, 16)
TEACHERS = {
    "cartpole_swingup": "cartpole_swingup_0",
    "cheetah_run": "cheetah_run_0",
    "walker_walk": "walker_walk_0",
    "panda_pick_cube": "panda_pick_cube_0",
}


@dataclass(frozen=True)
class Student:
    """One student of the benchmark."""

    method: str
    steps: int
    latent: str
    half_width: bool = False

    def name(self) -> str:
        return f"{self.method}-{self.latent}-{self.steps}" + ("-half" if self.half_width else "")


STUDENTS = [
    Student("dagger", 1, "zero"),
    Student("dagger", 2, "zero"),
    Student("critic", 1, "zero"),
    Student("critic", 2, "zero"),
    Student("dagger", 1, "seeded"),
    Student("dagger", 2, "seeded"),
    Student("score", 1, "seeded"),
    Student("score", 2, "seeded"),
    Student("dagger", 1, "zero", half_width=True),
]


class Kept:
    """Measurements of one teacher, in a file that grows with each."""

    def __init__(self, path: Path, teacher: str) -> None:
        self._path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self.rows: dict[str, dict] = found["rows"] if found.get("teacher") == teacher else {}
        self._teacher = teacher

    def once(self, key: str, make: Callable[[], dict]) -> dict:
        if key not in self.rows:
            started = time.monotonic()
            self.rows[key] = make()
            self._path.write_text(json.dumps({"teacher": self._teacher, "rows": self.rows}))
            print(f"{self._path.parent.name}: {key} ({time.monotonic() - started:.0f} s)", flush=True)
        return self.rows[key]


def acting(agent: Agent, steps: int | None, spacing: Spacing, latent: str) -> Act:
    policy, generator = agent.policy, torch.Generator().manual_seed(SEED)
    fixed = policy.draw_latent(1, torch.Generator().manual_seed(FIXED_LATENT_SEED))

    def act(observation: Observation) -> torch.Tensor:
        batch = len(observation.actor)
        x0 = torch.zeros(batch, policy.action_size)
        if latent == "fixed":
            x0 = fixed.expand(batch, -1)
        elif latent == "fresh":
            x0 = policy.draw_latent(batch, generator)
        return policy.sample_ode(agent.actor_norm(observation.actor), x0, steps, spacing)[0]

    return act


def run(agent: Agent, trained: TrainedRun, episodes: int, steps: int | None, spacing: Spacing, latent: str) -> dict:
    result = run_episodes(trained.episodes(episodes, SEED), acting(agent, steps, spacing, latent))
    variation, jumps = result.steadiness()
    return {
        "returns": [round(one, 3) for one in result.returns.tolist()],
        "return_std": result.std,
        "action_variation_per_s": variation,
        "action_jumps_per_s": jumps,
    }


def few_steps(trained: TrainedRun, kept: Kept, episodes: int) -> None:
    """The teacher's ODE in other numbers of steps; its own from the zero latent is what all are held against."""
    trained_steps = trained.agent.policy.cfg.steps
    for steps, spacing, latent in grid(trained_steps):
        kept.once(
            f"teacher {steps} {spacing} {latent}",
            lambda steps=steps, spacing=spacing, latent=latent: {
                "policy": "teacher",
                "steps": steps,
                "spacing": spacing,
                "latent": latent,
                **run(trained.agent, trained, episodes, steps, spacing, latent),
            },
        )


def grid(trained: int) -> Iterator[tuple[int, Spacing, str]]:
    yield trained, "schedule", "zero"
    for latent in ("zero", "fresh"):
        for steps in STEPS:
            for spacing in ("schedule", "uniform"):
                if spacing == "uniform" or trained % steps == 0 or steps % trained == 0:
                    yield steps, spacing, latent
    yield trained, "schedule", "fixed"


def distilled(one: Student, teacher: TrainedRun, folder: Path) -> Path:
    """Makes or continues a student; returns its run. A student that fails its gate is a result too."""
    out = folder / one.name()
    if (out / VERDICT).exists():
        return out
    command = [sys.executable, "-m", "trudi.cli", "distill"]
    if (out / "checkpoints" / "last").exists():
        command += ["--resume", str(out)]
    else:
        if out.exists():
            out.rename(out.with_name(f"{out.name}.stopped.{time.time_ns()}"))
        command += [str(teacher.folder.path), "--out", str(out), "--steps", str(one.steps)]
        command += ["--method", one.method, "--latent", one.latent]
        if one.half_width:
            command += ["--width", str(teacher.cfg.policy.width // 2)]
    done = subprocess.run(command, check=False)
    if done.returncode not in (0, 1) or not (out / VERDICT).exists():
        raise SystemExit(f"{out} was interrupted; run this script again to continue it")
    return out


def students(trained: TrainedRun, kept: Kept, episodes: int, folder: Path) -> None:
    for one in STUDENTS:

        def make(one: Student = one) -> dict:
            path = distilled(one, trained, folder)
            student = TrainedRun.open(path)
            latent = "zero" if one.latent == "zero" else "fresh"
            return {
                "policy": one.name(),
                "steps": one.steps,
                "spacing": "schedule",
                "latent": latent,
                "width": student.cfg.policy.width,
                "load": round(os.getloadavg()[0], 1),
                **run(student.agent, trained, episodes, None, "schedule", latent),
            }

        kept.once(f"student {one.name()}", make)
        if one.latent == "seeded":  # A student of all latents, from the one that is best for control.

            def from_zero(one: Student = one) -> dict:
                student = TrainedRun.open(folder / one.name())
                row = {"policy": one.name(), "steps": one.steps, "spacing": "schedule", "latent": "zero"}
                return {**row, **run(student.agent, trained, episodes, None, "schedule", "zero")}

            kept.once(f"student {one.name()} from zero", from_zero)


def latency(trained: TrainedRun, kept: Kept, calls: int, folder: Path) -> None:
    """One action at batch 1 on one thread: the teacher and a student of each shape there is, in turns."""

    def make() -> dict:
        agents = {f"teacher, {trained.agent.policy.cfg.steps} steps": trained.agent}
        for one in STUDENTS:
            if one.method == "dagger" and one.latent == "zero" and (folder / one.name() / VERDICT).exists():
                student = TrainedRun.open(folder / one.name()).agent
                name = f"student, {one.steps} step{'s' if one.steps > 1 else ''}, width {student.policy.cfg.width}"
                agents[name] = student
        candidates, engines = {}, []
        for name, agent in agents.items():
            view = export_view(agent.policy, agent.actor_norm)
            engines.append(OnnxEngine(build_graph(view, latent=np.zeros(view.action_size)).SerializeToString()))
            observation = view.observation_mean[None].astype(np.float32)
            candidates[name] = lambda engine=engines[-1], observation=observation: engine.infer(observation)
        found = time_calls(candidates, calls)
        for engine in engines:
            engine.close()
        return {"processor": processor(), "rows": [asdict(one) for one in found.values()]}

    kept.once(f"latency {sum((folder / one.name() / VERDICT).exists() for one in STUDENTS)} {calls}", make)


def judged(path: Path) -> dict:
    """What a student's run says of its gate and its time."""
    verdict = json.loads((path / VERDICT).read_text())
    names = {"ratio": "gate_ratio", "ratio_ci95": "gate_ci95", "episodes": "gate_episodes", "passed": "gate_passed"}
    names |= dict.fromkeys(("elapsed_s", "share_of_teacher_time"))
    return {to or name: verdict[name] for name, to in names.items()}


def summary(name: str, trained: TrainedRun, kept: Kept, episodes: int, folder: Path) -> dict:
    """What the tables show of one teacher."""
    base = kept.rows.get(f"teacher {trained.agent.policy.cfg.steps} schedule zero")
    rows = []
    for key, row in kept.rows.items():
        if key.startswith("latency") or base is None:
            continue
        returns = torch.tensor(row["returns"])
        ratio = paired_ratio(torch.tensor(base["returns"]), returns)
        of_student = judged(folder / row["policy"]) if key.startswith("student") and "width" in row else {}
        rows.append(
            {one: value for one, value in row.items() if one != "returns"}
            | of_student
            | {"return_mean": float(returns.mean()), "ratio": ratio.value, "ratio_ci95": [ratio.low, ratio.high]}
        )
    timed = [row for key, row in kept.rows.items() if key.startswith("latency")]
    about = trained.about()
    return {
        "name": name,
        "task": trained.cfg.task,
        "teacher": f"iteration {trained.counters.iteration}, {trained.counters.env_steps:,} steps, "
        f"{trained.counters.elapsed_s:.0f} s, width {trained.cfg.policy.width}",
        "commit": (about.get("git_commit") or "")[:7],
        "episodes": episodes,
        "rows": rows,
        "latency": timed[-1] if timed else None,
    }


def write(found: list[dict]) -> None:
    path = HERE / "distill.json"
    before = json.loads(path.read_text())["teachers"] if path.exists() else []
    fresh = {one["name"] for one in found}
    order = list(TEACHERS)
    all_of = sorted(
        found + [one for one in before if one["name"] not in fresh],
        key=lambda one: (order.index(one["name"]) if one["name"] in order else len(order), one["name"]),
    )
    path.write_text(json.dumps({"teachers": all_of}, indent=1) + "\n")
    (HERE / "distill.md").write_text("\n".join(page(all_of)) + "\n")


def page(found: list[dict]) -> Iterator[str]:
    yield "# Distillation"
    yield ""
    yield "`python benchmarks/distill.py`; ratio: mean return relative to the teacher's in all of its steps from the zero"
    yield "latent, on the same episodes, with its 95 % paired bootstrap interval. Variation: change of an element a second,"
    yield "averaged over elements; jumps: ticks a second at which an element changes by more than half of its range."
    yield "Latent: 0; `fixed`, one draw for all; `fresh`, a draw at every tick. Time: the student's share of its teacher's;"
    yield "load: the load average of the machine at its end; a distillation takes one core. Gate: the verdict of `trudi"
    yield "distill` on episodes of its own, with ratio, interval and how many it took (zero latent against zero latent,"
    yield "fresh ones against fresh ones, `score` against the SDE); a student is judged by this where returns vary."
    for one in found:
        yield from ("", f"## {one['name']}", "")
        yield f"{one['task']}, {one['episodes']} episodes; teacher: {one['teacher']}."
        yield ""
        columns = ("policy", "steps", "spacing", "latent", "return", "ratio", "95 % interval")
        columns += ("variation /s", "jumps /s", "time", "load", "gate")
        yield from (f"| {' | '.join(columns)} |", "|" + "---|" * len(columns))
        for row in one["rows"]:
            low, high = row["ratio_ci95"]
            share = f"{row['share_of_teacher_time']:.1%}" if "share_of_teacher_time" in row else ""
            gate = {True: "pass", False: "fail", None: ""}[row.get("gate_passed")]
            if "gate_ci95" in row:
                gate += " {:.4f}, {:.4f} to {:.4f}, {}".format(row["gate_ratio"], *row["gate_ci95"], row["gate_episodes"])
            yield (
                f"| {row['policy']} | {row['steps']} | {row['spacing']} | {row['latent']} | "
                f"{row['return_mean']:.1f} +- {row['return_std']:.1f} | {row['ratio']:.4f} | {low:.4f} to {high:.4f} | "
                f"{row['action_variation_per_s']:.2f} | {row['action_jumps_per_s']:.2f} | "
                f"{share} | {row.get('load', '')} | {gate} |"
            )
        if one["latency"] is not None:
            rows = one["latency"]["rows"]
            yield from ("", f"One action on {one['latency']['processor']}, {rows[0]['calls']} calls each, in turns:", "")
            yield from ("| | p50 us | p99 us | of the teacher's p50 |", "|---|---|---|---|")
            for row in rows:
                share = row["p50_us"] / rows[0]["p50_us"]
                yield f"| {row['name']} | {row['p50_us']:.1f} | {row['p99_us']:.1f} | 1/{1 / share:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="only teachers whose name starts with one of these")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS, help="only these parts")
    parser.add_argument("--teacher", nargs="*", default=[], metavar="NAME=RUN", help="where a teacher's run is")
    parser.add_argument("--runs", type=Path, default=Path("runs/distill"), help="where students and measurements are kept")
    parser.add_argument("--learning", type=Path, default=Path("runs/learning"), help="where learning.py keeps its runs")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--calls", type=int, default=20_000, help="calls of every graph")
    args = parser.parse_args()
    paths = {name: args.learning / folder for name, folder in TEACHERS.items()}
    paths |= {name: Path(path) for name, _, path in (one.partition("=") for one in args.teacher)}
    found = []
    for name, path in paths.items():
        if args.only and not any(name.startswith(prefix) for prefix in args.only):
            continue
        if not (path / "checkpoints" / "last").exists():
            print(f"{name}: no teacher at {path}; train one, or say --teacher {name}=RUN")
            continue
        trained = TrainedRun.open(path)
        folder = args.runs / name
        folder.mkdir(parents=True, exist_ok=True)
        identity = f"{(path / 'checkpoints' / 'last').resolve().name}, {args.episodes} episodes"
        kept = Kept(folder / "measured.json", identity)
        if "steps" in args.parts:
            few_steps(trained, kept, args.episodes)
        if "students" in args.parts:
            students(trained, kept, args.episodes, folder)
        if "latency" in args.parts:
            latency(trained, kept, args.calls, folder)
        found.append(summary(name, trained, kept, args.episodes, folder))
        write(found)


if __name__ == "__main__":
    main()
