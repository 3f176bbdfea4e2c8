"""What decides a distillation, and where a student's run keeps it.

RUN/distill.yaml    these settings, resolved
RUN/teacher/        the teacher: its configuration, what it says of itself and its networks; all that resuming needs
RUN/distill.json    the verdict, and what it rests on
RUN/config.yaml     the student as evaluation and export know it: a run's configuration like any other
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trudi.train import checkpoint
from trudi.train.agent import OptimCfg
from trudi.train.checkpoint import Checkpoint, Counters
from trudi.train.config import TrainCfg, parse_values, read_yaml, write_config
from trudi.train.distill.student import student_policy
from trudi.train.envs.robot_description import ROBOT_FILE
from trudi.train.errors import TrainError
from trudi.train.evaluation import Sampler
from trudi.train.runfolder import ABOUT, CONFIG, DISTILL, TEACHER, RunFolder
from trudi.train.trained import TrainedRun
from trudi.train.update import UpdateCfg

Method = Literal["dagger", "critic", "score"]
Latent = Literal["zero", "seeded"]

# What may differ between a distillation and its resumption without making it another one.
RESUMABLE_CHANGES = frozenset(
    {"max_iterations", "device", "keep_checkpoints", "evaluate_every"}
    | {"gate.min_ratio", "gate.min_low", "gate.gate_episodes", "gate.gate_max_episodes", "gate.precision", "gate.gate_seed"}
)
SHORTEST, SHARE_OF_TEACHER = 20, 5


@dataclass(frozen=True)
class GateCfg:
    """What a student must reach beside its teacher, on the same episodes."""

    min_ratio: float = 0.99
    """Smallest ratio of the student's mean return to the teacher's."""
    min_low: float = 0.97
    """Smallest lower end of that ratio's 95 % bootstrap interval."""
    gate_episodes: int = 128
    """Episodes of each, on the same seeds and latents; as many again until the interval is narrow enough."""
    gate_max_episodes: int = 1024
    """Where that ends, if `gate_episodes` are not more. A teacher whose episodes differ much needs many: two policies that
    are almost one soon go different ways."""
    precision: float = 0.02
    """Half of the interval's width that is narrow enough. When to stop depends on the width alone, not on the verdict; as
    the width is measured too, the interval is a little too narrow."""
    gate_seed: int = 2_000_000
    """Seed of the first of them, away from those of training and of its evaluations."""

    def __post_init__(self) -> None:
        if self.gate_episodes < 2:
            raise TrainError(f"gate_episodes is {self.gate_episodes}; an interval needs at least 2")
        if not self.precision > 0.0:
            raise TrainError(f"precision is {self.precision}; it must be positive")

    @property
    def most_episodes(self) -> int:
        """Episodes after which measuring ends."""
        return max(self.gate_episodes, self.gate_max_episodes)


@dataclass(frozen=True)
class DistillCfg:
    """How a student is made."""

    steps: int = 1
    """Denoising steps of the student: 1, 2 or 4 of a teacher's 8."""
    method: Method = "dagger"
    """`dagger`: the teacher labels the states that the student visits. `critic`: the same, and uphill on the teacher's
    critic near its action. `score`: the same distribution of actions, not the same action for each latent."""
    latent: Latent = "zero"
    """The latent that teacher and student act from: 0, or a fresh draw of the prior at every step, the same for both."""
    width: int | None = None
    """Units of each hidden layer: fewer than the teacher's, or a multiple; the teacher's by default."""
    checkpoint: str = "last"
    """The teacher's: `last`, `best` or an iteration's number."""
    seed: int = 0
    """Seed of the latents, the minibatches and the simulator."""
    num_envs: int = 64
    """Environments stepped in parallel; the teacher's by default."""
    rollout_steps: int = 64
    """Steps of every environment per iteration; the teacher's by default."""
    max_iterations: int = 40
    """Length of the distillation; a fifth of the teacher's by default, at least 20."""
    action_noise: float = 0.0
    """Standard deviation of what is added to the actions in (-1, 1) that drive the last environments; from none in the first
    it grows evenly. Labels are of the states that come of it, so that the student learns the way back from further off
    (DART, arXiv 1703.09327)."""
    training_overrides: tuple[str, ...] = ()
    """KEY=VALUE settings of the simulator that the student visits, beside those that the teacher ended with: situations that
    the teacher knows and was seldom in. Evaluations and the gate have the task as it is."""
    teacher_until: float = 0.5
    """Until this share of the run the teacher drives some environments, fewer with each iteration."""
    memory: int = 16
    """Iterations whose labelled states are kept and learned from."""
    latent_weight: float = 0.1
    """Weight of the loss before tanh beside the one after it."""
    region: float = 0.05
    """Trust region of `critic`: how far an action goes from the teacher's where the critic's slope is a typical one, and
    half of how far it may go anywhere (root mean square over its elements)."""
    auxiliary_steps: int = 4
    """Gradient steps of the auxiliary policy of `score` for each of the student's while it matches scores; 1 before."""
    matching_rate: float = 0.2
    """The student's learning rate while it matches scores, as a fraction of what it is otherwise."""
    optim: OptimCfg = field(default_factory=lambda: OptimCfg(learning_rate=1e-2, schedule="cosine", final_fraction=0.01))
    update: UpdateCfg = field(default_factory=lambda: UpdateCfg(epochs=6, minibatch_size=256))
    """`epochs` counts an iteration's new states; minibatches are drawn from all that are kept."""
    gate: Annotated[GateCfg, tyro.conf.arg(name="")] = field(default_factory=GateCfg)
    evaluate_every: int = 10
    """Iterations between evaluations of the student; 0 evaluates only at the end."""
    evaluate_episodes: int = 10
    """Episodes of each."""
    device: str = "cpu"
    """Where networks and data live: `cpu`, `cuda` or `cuda:N`."""
    save_every: int = 100
    """Iterations between checkpoints; the simulator is restarted at each one, as in training."""
    keep_checkpoints: int = 2
    """Numbered checkpoints kept beside `best`."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.teacher_until <= 1.0:
            raise TrainError(f"teacher_until is {self.teacher_until}; it must be in [0, 1]")
        if not 0.0 <= self.action_noise < float("inf"):
            raise TrainError(f"action_noise is {self.action_noise}; it must be finite, and 0 or more")
        if self.memory < 1:
            raise TrainError(f"memory is {self.memory}; it must be at least 1")
        if self.latent_weight < 0.0 or not self.region > 0.0:
            raise TrainError(f"latent_weight is {self.latent_weight} and region {self.region}; 0 or more, and above 0")
        if self.auxiliary_steps < 1 or not self.matching_rate > 0.0:
            raise TrainError(
                f"auxiliary_steps is {self.auxiliary_steps} and matching_rate {self.matching_rate}; at least 1, and above 0"
            )
        if self.method == "score" and self.latent == "zero":
            raise TrainError("method score learns a distribution of actions, which one latent has not: use --latent seeded")

    @property
    def sampler(self) -> Sampler:
        """How the student is evaluated: from the latent that it was distilled with."""
        return "zero" if self.latent == "zero" else "ode"

    @property
    def teacher_sampler(self) -> Sampler:
        """What the student is held against: the same for the teacher, or the SDE, whose distribution `score` matches."""
        return "sde" if self.method == "score" else self.sampler

    def teacher_share(self, progress: float) -> float:
        """Share of environments that the teacher drives at `progress` in [0, 1]: from 1 down to 0 at `teacher_until`."""
        return max(0.0, 1.0 - progress / self.teacher_until) if self.teacher_until > 0.0 else 0.0


def defaults_for(teacher: TrainCfg, counters: Counters) -> DistillCfg:
    """The settings that follow from the teacher's."""
    return DistillCfg(
        num_envs=teacher.num_envs,
        rollout_steps=teacher.rollout_steps,
        max_iterations=max(SHORTEST, counters.iteration // SHARE_OF_TEACHER),
    )


def run_config(cfg: DistillCfg, teacher: TrainCfg, progress: float = 1.0) -> TrainCfg:
    """The student's run as training, evaluation and export know it; its simulator is what the teacher's was at `progress`
    in [0, 1] of its run, where the teacher is from."""
    evaluation = dataclasses.replace(
        teacher.evaluation, every=cfg.evaluate_every, episodes=cfg.evaluate_episodes, sampler=cfg.sampler
    )
    sim = teacher.sim.at(progress)
    sim = dataclasses.replace(sim, training_overrides=(*sim.training_overrides, *cfg.training_overrides))
    return dataclasses.replace(
        teacher,
        seed=cfg.seed,
        num_envs=cfg.num_envs,
        rollout_steps=cfg.rollout_steps,
        max_iterations=cfg.max_iterations,
        device=cfg.device,
        threads=1,
        save_every=cfg.save_every,
        sim=sim,
        keep_checkpoints=cfg.keep_checkpoints,
        policy=student_policy(teacher.policy, cfg.steps, cfg.width),
        optim=cfg.optim,
        update=cfg.update,
        evaluation=evaluation,
    )


def write_settings(cfg: DistillCfg, folder: RunFolder) -> None:
    """Writes distill.yaml: from then on the folder is a student's."""
    try:
        write_config(cfg, folder.path / DISTILL)
    except OSError as error:
        raise TrainError(f"the run folder {folder.path} cannot be written: {error.strerror}") from None


def read_settings(folder: RunFolder) -> DistillCfg:
    """The settings a student was made with; TrainError where the run is no student's."""
    if not folder.is_student:
        raise TrainError(f"{folder.path} is no student's run: it has no {DISTILL}. Continue it with `trudi train --resume`")
    path = folder.path / DISTILL
    return parse_values(DistillCfg, read_yaml(path), str(path))


def open_teacher(path: Path, which: str) -> TrainedRun:
    """The run to distill; TrainError where it has no such checkpoint, is a student itself or contradicts itself."""
    folder = RunFolder.open(path)
    if folder.is_student:
        settings = read_settings(folder)
        raise TrainError(
            f"{path} is a student itself ({settings.steps} step(s), by {settings.method}): distill its teacher, "
            f"a copy of which is {path / TEACHER}"
        )
    if folder.config().algo != "trudi":
        raise TrainError(f"{path} is a run of --algo {folder.config().algo}, whose policy has one step: nothing to distill")
    if which == checkpoint.BEST and not (folder.checkpoints / checkpoint.BEST).exists():
        raise TrainError(
            f"{path} has no best checkpoint: it was not evaluated yet. Resume it with --evaluation.every above 0, "
            "or distill another with --checkpoint last"
        )
    saved, task = folder.load_checkpoint(which), folder.config().task
    if saved.task != task:
        raise TrainError(
            f"the checkpoint in {path} is of another task: it was trained on {saved.task}, config.yaml says {task}"
        )
    return TrainedRun.open(path, which)


def keep_teacher(teacher: TrainedRun, folder: RunFolder) -> None:
    """Puts what resuming and the gate need of the teacher into the student's folder, as a run folder of its own."""
    target = folder.path / TEACHER
    tensors = {f"agent.{key}": value for key, value in teacher.agent.state_dict().items()}
    try:
        target.mkdir()
        for name in (CONFIG, ABOUT):
            shutil.copyfile(teacher.folder.path / name, target / name)
        if (teacher.folder.path / ROBOT_FILE).is_file():
            shutil.copyfile(teacher.folder.path / ROBOT_FILE, target / ROBOT_FILE)
    except OSError as error:
        raise TrainError(f"the teacher cannot be copied to {target}: {error.strerror}") from None
    whole = Checkpoint(teacher.cfg.task, teacher.counters, tensors)
    checkpoint.save(target / teacher.folder.checkpoints.name, whole, link=checkpoint.LAST, keep=1)


def kept_teacher(folder: RunFolder) -> TrainedRun:
    """The teacher in a student's folder."""
    return TrainedRun.open(folder.path / TEACHER)
