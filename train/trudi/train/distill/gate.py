"""The gate: student and teacher on the same episodes, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trudi.train.agent import Agent
from trudi.train.distill.settings import DistillCfg, GateCfg
from trudi.train.envs.base import SimCfg
from trudi.train.envs.registry import make_env
from trudi.train.evaluation import EvalResult, Sampler, make_act, run_episodes

RESAMPLES = 10_000


@dataclass(frozen=True)
class Ratio:
    """The student's return relative to the teacher's, with the 95 % bootstrap interval over episodes in pairs."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return 0.5 * (self.high - self.low)


def relative(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 + (student - teacher) / |teacher| of mean returns: their ratio, and in its order where returns are negative."""
    difference = student - teacher
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0.0, 1.0, 1.0 + difference / np.abs(teacher))


def paired_ratio(teacher: torch.Tensor, student: torch.Tensor, seed: int = 0) -> Ratio:
    """The ratio of mean returns (episodes,); an episode is drawn for both or for neither (percentile bootstrap)."""
    pairs = torch.stack([teacher, student]).double().cpu().numpy()
    generator, count = np.random.default_rng(seed), pairs.shape[1]
    means = np.stack([pairs[:, generator.integers(count, size=count)].mean(-1) for _ in range(RESAMPLES)], axis=1)
    low, high = np.percentile(relative(means[0], means[1]), (2.5, 97.5))
    return Ratio(float(relative(pairs[0].mean(), pairs[1].mean())), float(low), float(high))


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    cfg: GateCfg
    teacher_sampler: Sampler
    student_sampler: Sampler
    teacher: EvalResult
    student: EvalResult
    ratio: Ratio

    @property
    def episodes(self) -> int:
        """How many episodes of each it took."""
        return len(self.teacher.returns)

    @property
    def passed(self) -> bool:
        """Whether the student may take the teacher's place."""
        return self.ratio.value >= self.cfg.min_ratio and self.ratio.low >= self.cfg.min_low

    def text(self) -> str:
        """Verdict and reason, in a few lines."""
        lines = [f"{name:<8} {describe(one)}" for name, one in (("teacher", self.teacher), ("student", self.student))]
        ratio, cfg = self.ratio, self.cfg
        found = f"ratio {ratio.value:.4f}, 95 % interval [{ratio.low:.4f}, {ratio.high:.4f}] in {self.episodes} episodes"
        needed = f"needed: {cfg.min_ratio:g}, and its lower end {cfg.min_low:g}"
        lines.append(f"{'PASS' if self.passed else 'FAIL'}     {found} ({needed})")
        if not self.passed and ratio.value >= cfg.min_ratio:
            narrow = [f"--precision below {ratio.half_width:.2g}"] if ratio.half_width <= cfg.precision else []
            more = [f"--gate-max-episodes above {self.episodes}"] if self.episodes >= cfg.most_episodes else []
            wanted = " and ".join(["--resume", *narrow, *more])
            lines.append(f"the ratio is good enough, the interval too wide: decide it with more episodes, {wanted}")
        return "\n".join(lines)

    def to_plain(self) -> dict[str, Any]:
        """For distill.json."""
        return {
            "passed": self.passed,
            "ratio": self.ratio.value,
            "ratio_ci95": [self.ratio.low, self.ratio.high],
            "min_ratio": self.cfg.min_ratio,
            "min_low": self.cfg.min_low,
            "episodes": self.episodes,
            "seed": self.cfg.gate_seed,
            "teacher_sampler": self.teacher_sampler,
            "student_sampler": self.student_sampler,
            "teacher": plain(self.teacher),
            "student": plain(self.student),
        }


def describe(result: EvalResult) -> str:
    """Return and steadiness in one line."""
    variation, jumps = result.steadiness()
    return f"return {result.mean:.1f} +- {result.std:.1f}, action variation {variation:.2f} /s, {jumps:.2f} jumps /s"


def plain(result: EvalResult) -> dict[str, Any]:
    """An evaluation as JSON has it."""
    variation, jumps = result.steadiness()
    return {
        "return_mean": result.mean,
        "return_std": result.std,
        "return_ci95": list(result.confidence_interval()),
        "action_variation_per_s": variation,
        "action_jumps_per_s": jumps,
        "returns": result.returns.tolist(),
    }


def measure(agent: Agent, task: str, sampler: Sampler, episodes: int, seed: int, sim: SimCfg | None = None) -> EvalResult:
    """Episodes with one agent, on the device it is on; the seed decides starts and latents."""
    device = agent.actor_norm.mean.device
    env = make_env(task, episodes, seed, device=device, stagger=False, sim=sim)
    generator = torch.Generator(device=device).manual_seed(seed)
    return run_episodes(env, make_act(agent, sampler, 1, generator))


def judge(teacher: Agent, student: Agent, task: str, settings: DistillCfg, sim: SimCfg | None = None) -> Verdict:
    """Measures both on the same episodes, until the ratio is known well enough, and compares them."""
    cfg = settings.gate
    by_teacher: list[EvalResult] = []
    by_student: list[EvalResult] = []
    done = 0
    while True:
        count, seed = min(cfg.gate_episodes, cfg.most_episodes - done), cfg.gate_seed + done
        by_teacher.append(measure(teacher, task, settings.teacher_sampler, count, seed, sim))
        by_student.append(measure(student, task, settings.sampler, count, seed, sim))
        done += count
        of_teacher, of_student = EvalResult.joined(by_teacher), EvalResult.joined(by_student)
        ratio = paired_ratio(of_teacher.returns, of_student.returns)
        if ratio.half_width <= cfg.precision or done >= cfg.most_episodes:
            return Verdict(cfg, settings.teacher_sampler, settings.sampler, of_teacher, of_student, ratio)
