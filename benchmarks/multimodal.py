"""Two ways that are equally good: who takes both? Returns, successes and behaviour entropy on mujoco:ReachAround-v1.

    python benchmarks/multimodal.py [--only NAME ...] [--runs DIR] [--no-picture]
    python benchmarks/multimodal.py --trace RUN ...

Trains TruDi and Gaussian REPPO with the task's preset, and once more with the discount of NEAR, the same number of
environment steps for every run; makes students of one step of each TruDi with seed 0 by `trudi distill`; and measures each
policy in CONTEXTS turns of the scene, evenly spaced, ROLLOUTS episodes in each (`trudi/train/behaviour.py`):

    sde      TruDi's noise at every step of every chain; REPPO's sample       as in training
    fresh    the ODE from a new latent at every tick
    held     the ODE from one latent for the whole episode, another for each
    zero     the ODE from the latent 0; REPPO's mean action

What is done is not done again: stop it and start it at any time. Writes benchmarks/multimodal.{json,md,png}.

`--trace` prints how a run came to its ways instead: at each checkpoint that it kept (`--save-every 5 --keep-checkpoints 20`)
alpha; of the SDE's episodes the return, the share that ends beyond the obstacle, and the entropy of the ways of these; the
share that goes on to the side to which its first action was pushed; and from the critic, at the starts, the mean of
|Q(left) - Q(right)| and of the two's mean less Q(the mean of both actions).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from trudi.train.agent import Agent
from trudi.train.behaviour import Behaviour, Paths, behaviour, context_entropies, follow
from trudi.train.config import load_config
from trudi.train.envs.base import Observation
from trudi.train.envs.mujoco import MujocoEnv
from trudi.train.envs.reach_around import CONTACT_DISTANCE, START_DISTANCE, ReachAround, reached, way
from trudi.train.evaluation import ACTION_JUMP, Act
from trudi.train.runfolder import ABOUT, VERDICT, RunFolder
from trudi.train.trained import TrainedRun

HERE = Path(__file__).parent
TASK = f"mujoco:{ReachAround.name}"
CONTEXTS, ROLLOUTS, WAYS = 32, 64, 2
SEED = 5_000_000
MEASURE = 3  # goes up when what is measured changes: everything is measured again
NEAR = ("--gamma", "0.75")  # a horizon of 4 ticks, where the preset's is 10
OPTIONS = {f"{algo}-{seed}": () for algo in ("trudi", "reppo") for seed in range(3)}
OPTIONS |= {f"{algo}-near-{seed}": NEAR for algo in ("trudi", "reppo") for seed in range(3)}
SAMPLERS = {"trudi": ("sde", "fresh", "held", "zero"), "reppo": ("sde", "zero")}
TEACHERS = {"trudi-0": "", "trudi-near-0": "near-"}  # and what their students' names begin with
STUDENTS = {"dagger-zero": ("zero",), "critic-zero": ("zero",)} | dict.fromkeys(
    ("dagger-seeded", "score-seeded"), ("fresh", "held", "zero")
)
STUDENT_OPTIONS = ["--num-envs", "128", "--max-iterations", "30"]  # 154 thousand steps, a fifth of the teacher's
DRAWN = (
    ("reppo-0", "sde"),
    ("trudi-0", "sde"),
    ("trudi-near-0", "held"),
    ("near-dagger-zero", "zero"),
    ("near-score-seeded", "fresh"),
)


def trained(name: str, runs: Path) -> Path:
    """Trains or continues one run; returns its folder."""
    folder, done = runs / name, runs / f"{name}.json"
    algo, *_, seed = name.split("-")
    command = [sys.executable, "-m", "trudi.cli", "train"]
    if (folder / "checkpoints" / "last").exists():
        command += ["--resume", str(folder)]
    else:
        set_aside(folder)
        command += [TASK, "--out", str(folder), "--seed", seed, "--algo", algo, *OPTIONS[name]]
    if not is_done(done):
        subprocess.run([*command, "--json", str(done)], check=True)
    if not is_done(done):
        raise SystemExit(f"{name} was interrupted; run this script again to continue it")
    return folder


def is_done(summary: Path) -> bool:
    return summary.exists() and not json.loads(summary.read_text())["interrupted"]


def distilled(name: str, teacher: Path, runs: Path) -> Path:
    """Makes or continues one student; returns its folder. One that fails its gate is a result too."""
    folder = runs / name
    if (folder / VERDICT).exists():
        return folder
    method, latent = name.split("-")[-2:]
    command = [sys.executable, "-m", "trudi.cli", "distill"]
    if (folder / "checkpoints" / "last").exists():
        command += ["--resume", str(folder)]
    else:
        set_aside(folder)
        command += [str(teacher), "--out", str(folder), "--steps", "1", "--method", method, "--latent", latent]
        command += STUDENT_OPTIONS
    done = subprocess.run(command, check=False)
    if done.returncode not in (0, 1) or not (folder / VERDICT).exists():
        raise SystemExit(f"{folder} was interrupted; run this script again to continue it")
    return folder


def set_aside(folder: Path) -> None:
    """A run that was stopped before its first checkpoint: nothing to continue from, nothing is lost."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.stopped.{time.time_ns()}"))


def scenes() -> np.ndarray:
    """The contexts' angles, each ROLLOUTS times: half a spacing away from 0, where axes are."""
    return np.repeat((np.arange(CONTEXTS) + 0.5) * 2.0 * np.pi / CONTEXTS, ROLLOUTS)


def acting(agent: Agent, sampler: str) -> Act:
    policy, generator, envs = agent.policy, torch.Generator().manual_seed(SEED), CONTEXTS * ROLLOUTS
    held = policy.draw_latent(envs, generator)

    def act(observation: Observation) -> Tensor:
        seen = agent.actor_norm(observation.actor)
        if sampler == "sde":
            return policy.sample(seen, policy.draw_noise(envs, generator)).action
        latent = policy.draw_latent(envs, generator) if sampler == "fresh" else held
        return policy.sample_ode(seen, torch.zeros_like(held) if sampler == "zero" else latent)[0]

    return act


def walk(run: TrainedRun, sampler: str, pushed: float = 0.0) -> Paths:
    """Every context's rollouts; `pushed` +1 makes everybody's first action the good one to the left, -1 to the right."""
    env = MujocoEnv(ReachAround.name, CONTEXTS * ROLLOUTS, SEED, stagger=False, scenes=scenes())
    act, is_first = acting(run.agent, sampler), pushed != 0.0

    def after_the_push(observation: Observation) -> Tensor:
        nonlocal is_first
        own = act(observation)
        own, is_first = (first_action(observation.actor, pushed) if is_first else own), False
        return own

    return follow(env, after_the_push)


def first_action(starts: Tensor, side: float) -> Tensor:
    """At starts (envs, 6), the good first action to the left (+1) or to the right (-1), or their mean (0)."""
    ahead = starts[:, 4:6] / START_DISTANCE
    aside = torch.stack([-ahead[:, 1], ahead[:, 0]], dim=1)
    sine = CONTACT_DISTANCE / START_DISTANCE
    return math.sqrt(1.0 - sine**2) * ahead + side * sine * aside


def aside(starts: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """How much of actions (envs, 2) at starts (envs, 6) goes to the left of straight ahead (envs,)."""
    ahead = starts[:, 4:6] / START_DISTANCE
    return ahead[:, 0] * actions[:, 1] - ahead[:, 1] * actions[:, 0]


def goes_on(run: TrainedRun, sampler: str) -> float:
    """Share of episodes that pass the obstacle on the side to which they were pushed: 1 for who knows both ways."""
    passed = [way(walk(run, sampler, pushed).observations[..., 0:2]) for pushed in (1.0, -1.0)]
    return float(0.5 * ((passed[0] == 0).mean() + (passed[1] == 1).mean()))


def measure(run: TrainedRun, sampler: str) -> dict:
    paths = walk(run, sampler)
    ways = way(paths.observations[..., 0:2]).reshape(CONTEXTS, ROLLOUTS)
    success = reached(paths.observations[-1]).reshape(CONTEXTS, ROLLOUTS)
    found: Behaviour = behaviour(ways, success, WAYS)
    jumps = (np.abs(np.diff(paths.actions, axis=0)).max(-1) > ACTION_JUMP).sum(0)
    lefts = ((ways == 0) & success).sum(1)
    touched = np.linalg.norm(paths.observations[1:, :, 0:2], axis=-1) < CONTACT_DISTANCE
    return {
        "sampler": sampler,
        "return_mean": float(paths.returns.mean()),
        "return_std": float(paths.returns.std(ddof=1)),
        "success_rate": found.success_rate,
        "contexts_with_success": found.contexts,
        "entropy": found.entropy,
        "entropy_ci95": list(found.interval),
        "entropy_pooled": found.pooled,
        "share_left": found.shares[0],
        "left_by_context": lefts.tolist(),
        "successes_by_context": success.sum(1).tolist(),
        "first_aside": float(np.abs(aside(paths.observations[0], paths.actions[0])).mean()),
        "goes_on_when_pushed": goes_on(run, sampler),
        "touching_ticks": float(touched.sum(0).mean()),
        "action_jumps_per_s": float(jumps.mean() / (len(paths.actions) * run.control_period_s)),
    }


def trace(path: Path) -> None:
    folder = RunFolder.open(path)
    print(f"{path}: iteration, alpha, return, beyond, entropy, goes on, |Q(left) - Q(right)|, Q(a way) - Q(mean)")
    for iteration in sorted(int(one.name.split("_")[1]) for one in folder.checkpoints.glob("iteration_*")):
        run = TrainedRun.open(path, str(iteration))
        paths = walk(run, "sde")
        last = paths.observations[-1]
        beyond = ((last[:, 0:2] * last[:, 4:6]).sum(-1) > 0.0).reshape(CONTEXTS, ROLLOUTS)
        ways = way(paths.observations[..., 0:2]).reshape(CONTEXTS, ROLLOUTS)
        entropies = context_entropies(ways, beyond, WAYS)
        entropy = float(np.nanmean(entropies)) if not np.isnan(entropies).all() else math.nan
        left, right, between = first_values(run.agent, torch.from_numpy(paths.observations[0, ::ROLLOUTS]).float())
        apart, above = (left - right).abs().mean(), (0.5 * (left + right) - between).mean()
        print(
            f"{iteration:4d}  {float(run.agent.duals.alpha):.3f}  {paths.returns.mean():6.2f}  {beyond.mean():.2f}  "
            f"{shown(entropy, 2):>4}  {goes_on(run, 'sde'):.2f}  {float(apart):.2f}  {float(above):.2f}",
            flush=True,
        )


@torch.no_grad()
def first_values(agent: Agent, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q of the two good first actions, and of their mean, at starts (contexts, 6)."""
    seen = agent.critic_norm(starts)
    left, right, between = (agent.critic(seen, first_action(starts, side)) for side in (1.0, -1.0, 0.0))
    return left, right, between


class Kept:
    """Measurements in a file that grows with each; those of a run that was made again are made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}

    def measured(self, name: str, folder: Path, samplers: tuple[str, ...]) -> Iterator[dict]:
        run = TrainedRun.open(folder)
        stamp = f"{MEASURE} {run.about().get('git_commit')} {run.counters.env_steps} {run.counters.elapsed_s}"
        for sampler in samplers:
            key = f"{name} {sampler}"
            if self.rows.get(key, {}).get("stamp") != stamp:
                started = time.monotonic()
                about = {"policy": name, "env_steps": run.counters.env_steps, "train_s": run.counters.elapsed_s}
                self.rows[key] = {"stamp": stamp, **about, **measure(run, sampler)}
                self._path.write_text(json.dumps(self.rows))
                print(f"{key} ({time.monotonic() - started:.0f} s)", flush=True)
            yield {key: value for key, value in self.rows[key].items() if key != "stamp"}


def speed(envs: int, steps: int = 300) -> float:
    """Steps a second of the simulator alone, as training calls it."""
    env = MujocoEnv(ReachAround.name, envs, 0)
    env.reset()
    action = 2.0 * torch.rand(envs, 2, generator=torch.Generator().manual_seed(0)) - 1.0
    started = time.perf_counter()
    for _ in range(steps):
        env.step(action)
    elapsed = time.perf_counter() - started
    env.close()
    return envs * steps / elapsed


def write(rows: list[dict], folders: dict[str, Path], steps_per_s: float) -> None:
    commits = {json.loads((path / ABOUT).read_text()).get("git_commit") or "unknown" for path in folders.values()}
    cfg = load_config(None, TASK)
    verdicts = {
        name: {key: json.loads((path / VERDICT).read_text())[key] for key in ("ratio", "ratio_ci95", "episodes", "passed")}
        for name, path in folders.items()
        if (path / VERDICT).exists()
    }
    content = {
        "task": TASK,
        "contexts": CONTEXTS,
        "rollouts": ROLLOUTS,
        "env_steps": cfg.max_iterations * cfg.steps_per_iteration,
        "simulator_steps_per_s": round(steps_per_s),
        "commits": sorted(commit[:7] for commit in commits),
        "rows": rows,
        "gates": verdicts,
    }
    # Not a number is no JSON.
    (HERE / "multimodal.json").write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")
    (HERE / "multimodal.md").write_text("\n".join(page(content)) + "\n")


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def shown(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def page(content: dict) -> Iterator[str]:
    rows, cfg = content["rows"], load_config(None, TASK)
    yield "# Two ways"
    yield ""
    yield f"`python benchmarks/multimodal.py`; {TASK}: left and right of an obstacle, equally good in every context."
    yield "`near`: trained with a discount of 0.75, where the preset has 0.9, and the students of such a teacher."
    yield f"{CONTEXTS} contexts, {ROLLOUTS} episodes in each; trained with {content['env_steps']:,} environment steps each"
    yield f"(commit {', '.join(content['commits'])}). Students: one step, of seed 0. The simulator alone makes"
    yield f"{content['simulator_steps_per_s']:,} steps/s of {cfg.num_envs} environments, on what one core had left."
    yield ""
    yield "Entropy: of the ways of the successful episodes of a context, in bits, averaged over contexts (0: one way in"
    yield "each; 1: both equally often), with its 95 % bootstrap interval over contexts. Pooled: the same of all together."
    yield "First aside: how much of the first action goes to one side, on average (0.89 of the good ones, 0 of their mean)."
    yield "Goes on: share of episodes that pass on the side to which their first action was pushed, half of them to each."
    yield "Touching: ticks of 20 that end in touch with the obstacle. Jumps: ticks a second at which an element of the"
    yield "action changes by more than half of its range."
    yield ""
    columns = (
        "policy",
        "acts by",
        "return",
        "success",
        "entropy",
        "95 % interval",
        "pooled",
        "left",
        "first aside",
        "goes on",
        "touching",
        "jumps /s",
    )
    yield from (f"| {' | '.join(columns)} |", "|" + "---|" * len(columns))
    for row in rows:
        low, high = row["entropy_ci95"]
        interval = "-" if math.isnan(low) else f"{low:.2f} to {high:.2f}"
        left = "-" if math.isnan(row["share_left"]) else f"{row['share_left']:.0%}"
        yield (
            f"| {row['policy']} | {named(row)} | {row['return_mean']:.2f} +- {row['return_std']:.2f} | "
            f"{row['success_rate']:.1%} | {shown(row['entropy'], 2)} | {interval} | {shown(row['entropy_pooled'], 2)} | "
            f"{left} | {row['first_aside']:.2f} | {row['goes_on_when_pushed']:.2f} | {row['touching_ticks']:.2f} | "
            f"{row['action_jumps_per_s']:.2f} |"
        )
    yield ""
    yield "Mean over the seeds:"
    yield ""
    yield from ("| algorithm | acts by | seeds | return | success | entropy |", "|---|---|---|---|---|---|")
    for kind in dict.fromkeys(name.rpartition("-")[0] for name in OPTIONS):
        for sampler in SAMPLERS[kind.split("-")[0]]:
            of = [row for row in rows if row["policy"].rpartition("-")[0] == kind and row["sampler"] == sampler]
            if of:
                counted = [row["entropy"] for row in of if not math.isnan(row["entropy"])]
                yield (
                    f"| {kind} | {named(of[0])} | {len(of)} | {mean(row['return_mean'] for row in of):.2f} | "
                    f"{mean(row['success_rate'] for row in of):.1%} | {shown(mean(counted) if counted else math.nan, 2)} |"
                )
    if content["gates"]:
        yield from ("", "Gates of `trudi distill` (episodes in pairs; `score` against the SDE):", "")
        yield from ("| student | ratio | 95 % interval | episodes | |", "|---|---|---|---|---|")
        for name, gate in content["gates"].items():
            low, high = gate["ratio_ci95"]
            found = f"{gate['ratio']:.4f} | {low:.4f} to {high:.4f} | {gate['episodes']}"
            yield f"| {name} | {found} | {'pass' if gate['passed'] else 'fail'} |"
    if (HERE / "multimodal.png").exists():
        yield from ("", "Paths of 16 episodes in each of four contexts, turned so that all start at the left end:", "")
        yield "![paths](multimodal.png)"


def named(row: dict) -> str:
    gaussian = row["policy"].startswith("reppo")
    names = {"sde": "sample" if gaussian else "SDE", "zero": "mean" if gaussian else "ODE, zero"}
    return names.get(row["sampler"], f"ODE, {row['sampler']}")


def draw(folders: dict[str, Path]) -> None:
    """Small multiples of paths, turned back to where the target is on the right."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    shown_here = [(name, sampler) for name, sampler in DRAWN if name in folders]
    figure, axes = plt.subplots(1, len(shown_here), figsize=(2.6 * len(shown_here), 2.9), squeeze=False, sharey=True)
    for axis, (name, sampler) in zip(axes[0], shown_here, strict=True):
        positions = walk(TrainedRun.open(folders[name]), sampler).observations[..., 0:2]
        positions = positions.reshape(-1, CONTEXTS, ROLLOUTS, 2)
        angles = scenes().reshape(CONTEXTS, ROLLOUTS)[:, 0]
        for index, context in enumerate(range(0, CONTEXTS, CONTEXTS // 4)):
            c, s = np.cos(angles[context]), np.sin(angles[context])
            turned_back = positions[:, context, :16] @ np.array([[c, -s], [s, c]])
            for path in turned_back.swapaxes(0, 1):
                axis.plot(*path.T, color=f"C{index}", linewidth=0.6, alpha=0.6)
        axis.add_patch(plt.Circle((0.0, 0.0), 0.09, color="0.8"))
        axis.plot([-0.14, 0.14], [0.0, 0.0], "k.", markersize=4)
        axis.set(title=f"{name}, {named({'policy': name, 'sampler': sampler})}", aspect="equal", xticks=[], yticks=[])
        axis.title.set_fontsize(8)
        axis.set(xlim=(-0.24, 0.24), ylim=(-0.24, 0.24))
    figure.tight_layout()
    figure.savefig(HERE / "multimodal.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="train only runs whose name starts with one of these")
    parser.add_argument("--runs", type=Path, default=Path("runs/multimodal"), help="where runs and measurements are kept")
    parser.add_argument("--no-picture", action="store_true")
    parser.add_argument("--trace", nargs="+", type=Path, metavar="RUN", help="only say how these runs came to their ways")
    args = parser.parse_args()
    if args.trace:
        for path in args.trace:
            trace(path)
        return
    args.runs.mkdir(parents=True, exist_ok=True)
    steps_per_s = speed(load_config(None, TASK).num_envs)
    kept, folders, rows = Kept(args.runs / "measured.json"), {}, []
    for name in OPTIONS:
        is_wanted = not args.only or any(name.startswith(prefix) for prefix in args.only)
        if is_wanted or is_done(args.runs / f"{name}.json"):
            folders[name] = trained(name, args.runs)
            rows += kept.measured(name, folders[name], SAMPLERS[name.split("-")[0]])
            write(rows, folders, steps_per_s)
    for teacher, prefix in TEACHERS.items():
        for name, samplers in STUDENTS.items() if teacher in folders else ():
            folders[prefix + name] = distilled(prefix + name, folders[teacher], args.runs)
            rows += kept.measured(prefix + name, folders[prefix + name], samplers)
            write(rows, folders, steps_per_s)
    if not args.no_picture:
        draw(folders)
    write(rows, folders, steps_per_s)


if __name__ == "__main__":
    main()
