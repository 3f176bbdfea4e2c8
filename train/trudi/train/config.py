"""A training run's configuration: frozen dataclasses, filled from a YAML preset and then from the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from trudi.runtime import yaml_file as runtime_yaml
from trudi.runtime.errors import TrudiRuntimeError
from trudi.train.agent import Algorithm, DualsCfg, OptimCfg
from trudi.train.critic import CriticCfg
from trudi.train.envs.base import SimCfg
from trudi.train.errors import TrainError, near_matches
from trudi.train.evaluation import EvalCfg
from trudi.train.init.settings import InitCfg
from trudi.train.policy import PolicyCfg
from trudi.train.ppo.settings import PpoCfg
from trudi.train.trust_region import TrustRegionCfg
from trudi.train.update import UpdateCfg

# What may differ between a run and its resumption without making it another run.
RESUMABLE_CHANGES = frozenset({"max_iterations", "device", "threads", "keep_checkpoints", "evaluation.every"})


Cfg = TypeVar("Cfg")


@dataclass(frozen=True)
class TrainCfg:
    """Everything that decides a run's result, but for the machine."""

    task: str
    """What to train on, `backend:name` (`trudi tasks` lists them)."""
    algo: Algorithm = "trudi"
    """`trudi`; `reppo`: a tanh-Gaussian policy with its closed-form KL, and nothing else changed (arXiv 2507.11019);
    or `ppo`: rsl_rl's, on the same simulators (docs/baselines.md)."""
    seed: int = 0
    """Seed of the networks, the noise and the simulator."""
    num_envs: int = 64
    """M, environments stepped in parallel (the authors' GPU runs: 1024); with `--distributed`, by each process."""
    rollout_steps: int = 64
    """T, steps of every environment per iteration (the authors' GPU runs: 128)."""
    max_iterations: int = 250
    """Length of the run; one iteration is M x T environment steps."""
    gamma: float = 0.99
    """Discount per step. For episodes of n steps that end in success, 1 - 10/n."""
    lam: float = 0.95
    """lambda of the soft lambda-returns, and of PPO's advantages."""
    device: str = "cpu"
    """Where networks and data live: `cpu`, `cuda` or `cuda:N`."""
    threads: int = 1
    """CPU threads that share the actor's update, beside the critic's own; more than one pays for wide networks only.
    Other numbers of threads give the same results but for the last bits."""
    tf32: bool = False
    """On a GPU, matrix products with 10-bit mantissas: faster for wide networks, less exact (docs/gpu.md has figures)."""
    save_every: int = 100
    """Iterations between checkpoints. The simulator is restarted at each one, so that a resumed run equals an
    uninterrupted one."""
    keep_checkpoints: int = 2
    """Numbered checkpoints kept beside `best`."""
    sim: SimCfg = field(default_factory=SimCfg)
    init: InitCfg = field(default_factory=InitCfg)
    policy: PolicyCfg = field(default_factory=PolicyCfg)
    critic: CriticCfg = field(default_factory=CriticCfg)
    trust_region: TrustRegionCfg = field(default_factory=TrustRegionCfg)
    duals: DualsCfg = field(default_factory=DualsCfg)
    optim: OptimCfg = field(default_factory=OptimCfg)
    update: UpdateCfg = field(default_factory=UpdateCfg)
    ppo: PpoCfg = field(default_factory=PpoCfg)
    evaluation: EvalCfg = field(default_factory=EvalCfg)

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollout_steps", "max_iterations", "threads", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.0 < self.gamma < 1.0 or not 0.0 <= self.lam <= 1.0:
            raise TrainError(f"gamma is {self.gamma} and lam {self.lam}; gamma must be in (0, 1) and lam in [0, 1]")
        if self.seed < 0:
            raise TrainError(f"seed is {self.seed}; it may not be negative")
        if self.algo == "ppo":
            if self.init.policy is not None:
                raise TrainError("--algo ppo does not start from a given policy (--init-from): use --algo trudi or reppo")
            self.ppo.check(self.num_envs, self.rollout_steps, self.evaluation.sampler)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration, M x T."""
        return self.num_envs * self.rollout_steps


def presets_folder() -> Path:
    """Where the presets lie: inside an installed package, at the repository's root in an editable install."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


def presets() -> dict[str, Path]:
    """All presets by name: one a task, and settings for any task (`algorithms/`)."""
    folders = [presets_folder() / kind for kind in ("algorithms", "tasks")]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def preset_for(task: str) -> Path | None:
    """The preset whose `task` this is, if there is one."""
    return next((path for path in presets().values() if read_yaml(path).get("task") == task), None)


def load_config(source: Path | str | None, task: str | None) -> TrainCfg:
    """The configuration of a preset's name or a YAML file, or of the task's own preset where `source` is None.

    `task` replaces the one the file names. TrainError names unknown keys, wrong types and missing files.
    """
    path = _preset_path(source) if source is not None else preset_for(task or "")
    values: dict[str, Any] = read_yaml(path) if path is not None else {}
    if task is not None:
        values["task"] = task
    if "task" not in values:
        raise TrainError(f"{path} names no task: add `task: backend:name`, or say it as the first argument")
    return parse_config(values, str(path) if path else "configuration")


def parse_config(values: dict[str, Any], where: str) -> TrainCfg:
    """Checks plain values against `TrainCfg`; `where` is named in errors."""
    return parse_values(TrainCfg, values, where)


def parse_values(kind: type[Cfg], values: dict[str, Any], where: str) -> Cfg:
    """Checks plain values against a configuration's class; `where` is named in errors."""
    _reject_unknown(kind, values, where, "")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise TrainError(f"{where}: {key}: {first['msg']} (got {first['input']!r})") from None


def to_plain(cfg: Any) -> dict[str, Any]:
    """A configuration as nested plain values, as written to a run's config.yaml."""
    return dataclasses.asdict(cfg)


def write_config(cfg: Any, path: Path) -> None:
    """Writes a resolved configuration as YAML."""
    path.write_text(yaml.safe_dump(to_plain(cfg), sort_keys=False))


def differences(old: Cfg, new: Cfg) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with (old, new)."""
    before, after = _flatten(to_plain(old)), _flatten(to_plain(new))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flatten(cast("dict[str, Any]", value), f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _preset_path(source: Path | str) -> Path:
    known = presets()
    if str(source) in known:
        return known[str(source)]
    path = Path(source)
    if not path.is_file():
        raise TrainError(f"no configuration file or preset '{source}'; {near_matches(str(source), known)}")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The `key: value` lines of a YAML file; TrainError where it holds something else, or a key twice."""
    try:
        return runtime_yaml.read_yaml(path)
    except TrudiRuntimeError as error:
        raise TrainError(str(error)) from None


def _reject_unknown(kind: Any, values: dict[str, Any], where: str, prefix: str) -> None:
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            raise TrainError(f"{where}: unknown key '{prefix}{key}'; {near_matches(str(key), fields)}")
        nested = fields[key].default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            if not isinstance(value, dict):
                raise TrainError(f"{where}: {prefix}{key} holds settings of its own, not {value!r}")
            _reject_unknown(nested, cast("dict[str, Any]", value), where, f"{prefix}{key}.")
