"""One MDP under three reset semantics: is the learning curve the same, and would it show if the data were wrong?

    python benchmarks/reset_semantics.py [--seeds N] [--only NAME ...] [--runs DIR]

Trains TruDi by the real loop on a cart-pole in episodes of 30 steps (`tests/cartpole_pool.py`), each variant with each seed,
and evaluates all of them on the same episodes of EVALUATION_STEPS steps:

    next-step    EnvPool's protocol: the pool resets by a step that ignores its action; our EnvPoolEnv keeps it out
    hook         Isaac Lab 2.3: resets within the step; our hook reads the terminal observation before
    masked       the same, and no terminal observation: those samples are left out of the critic's loss, and of returns
    final-obs    Isaac Lab 3.0: resets within the step, the terminal observation is in the extras
    trap         wrong on purpose: the next episode's first observation stands for the terminal one
    reset-step   wrong on purpose: the reset step is left in the data
    leak         wrong on purpose: masked, but returns of the steps before carry what is left out of the loss

`final-obs` draws the starts that `hook` draws, so its curve must be the same to the last bit; the others draw their own.
What is done is not done again: stop it and start it at any time. Writes benchmarks/reset_semantics.{json,md,png}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cartpole_pool import NAME, OVERRIDES, TASK, FirstAsTerminal, known_to_envpool, without_final_observations
from isaac_signatures.process import isaaclab_importable

from trudi.train.agent import Agent
from trudi.train.config import TrainCfg, parse_config
from trudi.train.envs.base import VectorEnv
from trudi.train.envs.envpool import EnvPoolEnv
from trudi.train.evaluation import EvalResult, evaluate
from trudi.train.loop import Learner, Progress
from trudi.train.rollout import Batch, Collector, Rollout
from trudi.train.runfolder import MetricsLog

HERE = Path(__file__).parent
EVALUATION_STEPS = 240
BEST = EVALUATION_STEPS * TASK.step_dt * TASK.alive
MARGIN = 0.05 * BEST
"""Of equivalence, in evaluation return."""
LAST = 3  # checkpoints whose mean is the final return
RESAMPLES = 20_000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    task: str
    overrides: tuple[str, ...] = ()
    is_masked: bool = False
    is_trap: bool = False
    keeps_reset_step: bool = False
    leaks: bool = False
    max_seeds: int = 1_000


POOL, ISAAC, ISAAC_3 = f"envpool:{NAME}", "isaaclab:Isaac-Cartpole-v0", "isaaclab:Isaac-Cartpole-FinalObs"
REFERENCE = "next-step"
VARIANTS = {
    REFERENCE: Variant(POOL),
    "hook": Variant(ISAAC, OVERRIDES),
    "masked": Variant(ISAAC, OVERRIDES, is_masked=True),
    "trap": Variant(POOL, is_trap=True),
    "final-obs": Variant(ISAAC_3, OVERRIDES, max_seeds=1),
    "reset-step": Variant(POOL, keeps_reset_step=True),
    "leak": Variant(ISAAC, OVERRIDES, is_masked=True, leaks=True),
}
EQUAL = ("hook", "masked")  # to the reference, it is claimed
CONTROLS = ("trap", "reset-step", "leak")


def config(variant: Variant, seed: int) -> TrainCfg:
    values: dict[str, Any] = {
        "task": variant.task,
        "seed": seed,
        "num_envs": 64,
        "rollout_steps": 32,
        "max_iterations": 50,
        "save_every": 50,
        "sim": {"overrides": variant.overrides},
        "policy": {"width": 64, "steps": 4},
        "critic": {"width": 64, "v_min": -5.0, "v_max": 25.0, "bins": 61},
        "duals": {"alpha": 0.001, "lam": 1.0, "entropy_per_action": -4.0},
        "optim": {"learning_rate": 2e-3},
        "update": {"epochs": 4, "minibatch_size": 256},
        "evaluation": {"every": 5, "episodes": 64},
    }
    return parse_config(values, "reset_semantics.py")


class Measured(Learner):
    """A training of one variant, evaluated on the pool, whatever it trains on."""

    def __init__(self, variant: Variant, seed: int) -> None:
        self.variant = variant
        self.ends = {"samples": 0, "terminated": 0, "truncated": 0, "masked": 0}
        super().__init__(config(variant, seed))

    def _simulator(self) -> VectorEnv:
        env = super()._simulator()
        return FirstAsTerminal(env) if self.variant.is_trap else env

    def start_collecting(self) -> None:
        kind = LeakingCollector if self.variant.leaks else Collector
        self.collector = kind(self.env, self.agent, self.generator)

    def rollout_metrics(self, rollout: Rollout) -> dict[str, float]:
        self.ends["samples"] += rollout.known.numel()
        self.ends["terminated"] += int(rollout.terminated.sum())
        self.ends["truncated"] += int(rollout.truncated.sum())
        self.ends["masked"] += int((~rollout.known).sum())
        return super().rollout_metrics(rollout)

    def evaluate(self) -> EvalResult:
        cfg = self.cfg.evaluation
        with known_to_envpool(replace(TASK, episode_steps=EVALUATION_STEPS)):
            return evaluate(self.agent, EnvPoolEnv(NAME, cfg.episodes, cfg.seed, stagger=False), cfg)

    def fingerprint(self) -> str:
        """Of everything that was learned."""
        digest = hashlib.sha256()
        for name, value in self.agent.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()[:16]


class LeakingRollout(Rollout):
    """Its targets are computed as if all was known; the samples where it is not are left out of the loss alone."""

    def to_batch(self, agent: Agent, gamma: float, lam: float) -> Batch:
        values: dict[str, Any] = {**vars(self), "known": torch.ones_like(self.known)}
        believed = Rollout(**values).to_batch(agent, gamma, lam)
        return replace(believed, weight=self.known.flatten().to(believed.weight.dtype))


class LeakingCollector(Collector):
    def collect(self, steps: int) -> Rollout:
        return LeakingRollout(**vars(super().collect(steps)))


class Curve(MetricsLog):
    """Keeps the evaluations, and no files."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.returns: list[float] = []

    def write(self, iteration: int, metrics: dict[str, float]) -> None:
        if "eval/return_mean" in metrics:
            self.steps.append(int(metrics["time/env_steps"]))
            self.returns.append(round(metrics["eval/return_mean"], 4))


def trained(name: str, seed: int, runs: Path) -> dict[str, Any]:
    """One run's curve; from its file, if it was made before."""
    path, variant = runs / f"{name}-{seed}.json", VARIANTS[name]
    if path.exists():
        return json.loads(path.read_text())
    curve, started = Curve(), time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(known_to_envpool(keeps_reset_step=variant.keeps_reset_step))
        if variant.is_masked:
            stack.enter_context(without_final_observations())
        learner = Measured(variant, seed)
        stack.callback(learner.close)
        outcome = learner.train(Path(stack.enter_context(tempfile.TemporaryDirectory())), curve, quiet)
        if outcome.interrupted:
            raise SystemExit(f"{name}-{seed} was interrupted; run this script again to make it anew")
    run = {
        "variant": name,
        "seed": seed,
        "commit": commit(),
        "steps": curve.steps,
        "returns": curve.returns,
        "ends": learner.ends,
        "fingerprint": learner.fingerprint(),
    }
    path.write_text(json.dumps(run))
    print(f"{name}-{seed}: {curve.returns} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
    return run


def quiet(progress: Progress) -> None:
    """Says nothing."""


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def means(curves: Array, rng: np.random.Generator) -> Array:
    """Means over seeds of resampled runs (resamples, checkpoints), of curves (seeds, checkpoints)."""
    return curves[rng.integers(len(curves), size=(RESAMPLES, len(curves)))].mean(1)


def scores(curves: Array) -> dict[str, Array]:
    """What is compared, each (...,) of curves (..., checkpoints): the mean over training, and that of its end."""
    return {"area": curves.mean(-1), "final": curves[..., -LAST:].mean(-1)}


def compare(curves: Array, reference: Array) -> dict[str, Any]:
    """Differences to the reference with 95 % bootstrap intervals over seeds, both sides resampled."""
    rng = np.random.default_rng(0)
    resampled, other = means(curves, rng), means(reference, rng)
    found: dict[str, Any] = {}
    for key, value in scores(curves.mean(0)).items():
        spread = scores(resampled)[key] - scores(other)[key]
        low, high = np.quantile(spread, [0.025, 0.975])
        difference = float(value - scores(reference.mean(0))[key])
        found[key] = {"difference": difference, "ci95": [float(low), float(high)]}
    low, high = np.quantile(resampled - other, [0.025, 0.975], axis=0)
    found["checkpoints"] = {
        "difference": (curves.mean(0) - reference.mean(0)).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }
    found["apart"] = apart(curves, reference)
    return found


def apart(curves: Array, reference: Array) -> dict[str, float]:
    """Root mean square over checkpoints of the difference of mean curves; how often it is as large for any other division
    of the same runs into two groups (an exact permutation test)."""
    both, size = np.concatenate([curves, reference]), len(curves)
    divisions = np.array(list(combinations(range(len(both)), size)))
    chosen = both[divisions].mean(1)
    rest = (both.sum(0) - size * chosen) / len(reference)
    distances = np.sqrt(np.square(chosen - rest).mean(-1))
    return {"rms": float(distances[0]), "p": float((distances > distances[0] - 1e-9).mean())}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def write(runs: list[dict[str, Any]]) -> None:
    curves = {name: np.array([run["returns"] for run in runs if run["variant"] == name]) for name in VARIANTS}
    curves = {name: each for name, each in curves.items() if len(each)}
    others = [name for name in (*EQUAL, *CONTROLS) if len(curves.get(name, ())) > 1]
    content: dict[str, Any] = {
        "best_return": BEST,
        "margin": MARGIN,
        "steps": runs[0]["steps"],
        "variants": {name: summary(name, curves[name], runs) for name in curves},
        "minus_reference": {name: compare(curves[name], curves[REFERENCE]) for name in others},
        "masked_minus_hook": compare(curves["masked"], curves["hook"]) if {"masked", "hook"} <= set(curves) else None,
        "runs": runs,
    }
    content = rounded(content)
    (HERE / "reset_semantics.json").write_text(json.dumps(content, indent=1) + "\n")
    (HERE / "reset_semantics.md").write_text("\n".join(page(content)) + "\n")
    draw(content, curves)


def summary(name: str, curves: Array, runs: list[dict[str, Any]]) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    ends = [run["ends"] for run in runs if run["variant"] == name]
    found: dict[str, Any] = {"seeds": len(curves)}
    samples = sum(each["samples"] for each in ends)
    found |= {f"{kind}_share": sum(each[kind] for each in ends) / samples for kind in ("terminated", "truncated", "masked")}
    resampled = scores(means(curves, rng))
    for key, value in scores(curves).items():
        interval = [float(bound) for bound in np.quantile(resampled[key], [0.025, 0.975])]
        found[key] = {"mean": float(value.mean()), "ci95": interval}
    return found


def page(content: dict[str, Any]) -> Iterator[str]:
    variants, runs = content["variants"], content["runs"]
    commits = sorted({run["commit"] for run in runs})
    yield "# Reset semantics"
    yield ""
    yield f"`python benchmarks/reset_semantics.py`; commit {', '.join(commits)}. A cart-pole in episodes of"
    yield f"{TASK.episode_steps} steps (`tests/cartpole_pool.py`), simulated in closed form: by a pool that speaks EnvPool's"
    yield "protocol, and by what has Isaac Lab's signatures (`tests/isaac_signatures`; not Isaac Lab itself). The two give"
    yield "the same next observation, reward and end to the last bit (`tests/train/test_reset_semantics.py`). TruDi is"
    yield f"trained by the same loop with the same settings for {content['steps'][-1]:,} steps, and evaluated on the same 64"
    yield f"episodes of {EVALUATION_STEPS} steps (at best {BEST:g}), every {content['steps'][0]:,} steps."
    yield ""
    yield "Area: mean over all evaluations of a run; final: over its last three. Intervals: 95 % bootstrap over seeds."
    yield f"Same: the interval of the difference lies within 5 % of the best return, {MARGIN:g}; differs: it leaves out 0."
    yield "Apart: root mean square over checkpoints of the difference of mean curves, with the exact permutation test's p;"
    yield "added after a look at the first seeds: what is wrong is quick at first and worse in the end; areas cancel that."
    yield "Few seeds make a bootstrap's intervals too narrow: the table says what these trainings show, no more."
    yield ""
    yield "![learning curves](reset_semantics.png)"
    yield ""
    yield "| variant | seeds | ends: fatal, of time | left out | area | minus next-step | final | minus it | apart | |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, row in variants.items():
        against = content["minus_reference"].get(name)
        area, final = (shown(row[key]["mean"], row[key]["ci95"]) for key in ("area", "final"))
        differences, distance = ("-", "-"), "-"
        if against is not None:
            differences = tuple(shown(against[key]["difference"], against[key]["ci95"]) for key in ("area", "final"))
            distance = f"{against['apart']['rms']:.2f} (p = {against['apart']['p']:.3f})"
        ends = f"{row['terminated_share']:.1%}, {row['truncated_share']:.1%}"
        yield (
            f"| {name} | {row['seeds']} | {ends} | {row['masked_share']:.1%} | {area} | {differences[0]} | {final} | "
            f"{differences[1]} | {distance} | {verdict(name, against)} |"
        )
    yield ""
    if content["masked_minus_hook"] is not None:
        found = content["masked_minus_hook"]
        area, final = (shown(found[key]["difference"], found[key]["ci95"]) for key in ("area", "final"))
        yield f"What masking costs, masked minus hook: area {area}, final {final}."
    twins = same_bits(runs)
    if twins:
        yield f"`final-obs` and `hook`: {sum(twins)} of {len(twins)} trainings the same to the last bit, weights and curve."
    yield "`leak` is what trainings before commit 67996bf did where terminal observations are unknown."


def shown(value: float, interval: list[float]) -> str:
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def verdict(name: str, against: dict[str, Any] | None) -> str:
    if against is None:
        return ""
    said = {key: judged(name, *against[key]["ci95"]) for key in ("area", "final")}
    return said["area"] if said["area"] == said["final"] else f"area: {said['area']}, final: {said['final']}"


def judged(name: str, low: float, high: float) -> str:
    if name in CONTROLS:
        return "seen" if high < 0.0 or low > 0.0 else "not seen"
    if low > -MARGIN and high < MARGIN:
        return "same"
    return "differs" if low > 0.0 or high < 0.0 else "too few seeds to say"


def same_bits(runs: list[dict[str, Any]]) -> list[bool]:
    found = {(run["variant"], run["seed"]): (run["fingerprint"], run["returns"]) for run in runs}
    return [
        found["hook", seed] == one for (name, seed), one in found.items() if name == "final-obs" and ("hook", seed) in found
    ]


def draw(content: dict[str, Any], curves: dict[str, Array]) -> None:
    """Mean curves with their intervals, and the differences in area beside the margin."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), width_ratios=(2, 1))
    steps = np.array(content["steps"]) / 1000.0
    for index, name in enumerate(curves):
        if name == "final-obs":  # the same as `hook`
            continue
        style = "--" if name in CONTROLS else "-"
        low, high = np.quantile(means(curves[name], np.random.default_rng(2)), [0.025, 0.975], axis=0)
        left.plot(steps, curves[name].mean(0), style, color=f"C{index}", label=name)
        left.fill_between(steps, low, high, color=f"C{index}", alpha=0.12, linewidth=0.0)
    left.set(xlabel="thousand environment steps", ylabel=f"return of {EVALUATION_STEPS} steps", title="mean, 95 % interval")
    left.legend(fontsize=7, loc="lower right", ncols=2)
    right.axvspan(-MARGIN, MARGIN, color="0.9")
    right.axvline(0.0, color="0.5", linewidth=0.8)
    names = list(content["minus_reference"])
    for row, name in enumerate(reversed(names)):
        color = f"C{list(curves).index(name)}"
        for key, height, filled in (("area", row + 0.12, color), ("final", row - 0.12, "white")):
            found = content["minus_reference"][name][key]
            right.plot(found["ci95"], [height, height], color=color)
            right.plot(found["difference"], height, "o", color=color, markerfacecolor=filled)
    right.set(yticks=range(len(names)), yticklabels=reversed(names), title=f"area and final (o), minus {REFERENCE}")
    right.title.set_fontsize(9)
    figure.tight_layout()
    figure.savefig(HERE / "reset_semantics.png", dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs/reset_semantics"), help="where the curves are kept")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    with isaaclab_importable():
        for seed in range(args.seeds):
            for name in args.only:
                if seed < VARIANTS[name].max_seeds:
                    trained(name, seed, args.runs)
    files = [args.runs / f"{name}-{seed}.json" for name in VARIANTS for seed in range(args.seeds)]
    write([json.loads(path.read_text()) for path in files if path.exists()])


if __name__ == "__main__":
    main()
