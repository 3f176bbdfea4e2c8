"""ManiSkill 3: manipulation on PhysX; thousands of environments on a GPU, one on a CPU. Observations are its flat `state`.

What its published settings assume, and what is done here:

- An episode that succeeds ends there, and its value goes on: success counts as a time limit (`truncated`), so the policy is
  not better off by putting success off. A failure, where a task has one, is `terminated`. The discount is
  `recommended_gamma`: episodes are short, and so must be the horizon.
- With `stagger=False` an environment is for evaluation: success does not end its episodes, so all end together, and they
  then build their scene anew (as with ManiSkill's `reconfiguration_freq=1`), with other objects where a task draws them.
  For training the scene is built anew when it starts over, else as often as the task says.
- Success is not in the return: `log` has the part of whole episodes in which there was any (`success_once`). Of first
  episodes, only those of full length count: of short ones, none but the successful would be whole.

Behaviour that this adapter hides (ManiSkill 3.0.1):

- Between seeded resets, starts are drawn from the process's random numbers; with `enhanced_determinism`, all that start
  without environment 0 start alike. Here each simulator has random numbers of its own (`Randomness`).
- Its own wrapper puts the last observation of an episode into `final_observation`, and returns for all other environments
  what they observe after the reset. Here each environment returns what it observed after its step.
- Tasks colour what nobody will draw, which fails where no renderer is ("failed to find a rendering device"). A stand-in
  takes the colours there; PushT's painting of its table is left out. Nothing is rendered, unless `render_backend` is set.
- A task whose files are missing asks whether to download them; here that is an error that says how to.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import sys
import warnings
from collections.abc import Generator, Mapping
from copy import deepcopy
from importlib import import_module
from itertools import pairwise
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from trudi.train.devices import release_free_memory
from trudi.train.envs.base import EpisodeTracker, Observation, SimCfg, Stateless, StepResult, TaskInfo
from trudi.train.envs.overrides import apply_overrides, import_packages
from trudi.train.envs.randomness import Randomness
from trudi.train.errors import TrainError, near_matches

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the Vulkan library: nothing is drawn
    sapien: Any = import_module("sapien")
    import_module("mani_skill.envs")  # registers the tasks
registration: Any = import_module("mani_skill.utils.registration")

OBSERVATION_KEY = "state"
DEFAULTS: Mapping[str, Any] = {
    "control_mode": "pd_joint_delta_pos",
    "reward_mode": "normalized_dense",
    "render_backend": "none",
}
EARLY_TRUNCATION = "an episode that succeeds ends there, and its value goes on: ManiSkill's settings assume it"
OWN_OPTIONS = frozenset({"num_envs", "obs_mode", "sim_backend", "reconfiguration_freq"})


def task_names() -> list[str]:
    """ManiSkill's registered tasks that have a normalised dense reward and a time limit."""
    return sorted(name for name, spec in registration.REGISTERED_ENVS.items() if _is_trainable(spec))


def _is_trainable(spec: Any) -> bool:
    return spec.max_episode_steps is not None and DEFAULTS["reward_mode"] in spec.cls.SUPPORTED_REWARD_MODES


def recommended_gamma(max_episode_steps: int) -> float:
    """The discount that ManiSkill's published settings use for episodes of so many steps: 1 - 10 / n."""
    if max_episode_steps <= 10:
        raise TrainError(f"1 - 10/n is no discount for episodes of {max_episode_steps} steps; it takes more than 10")
    return 1.0 - 10.0 / max_episode_steps


def describe_task(name: str) -> TaskInfo:
    """Sizes and control period of a task, from one environment of it on the CPU."""
    env = ManiSkillEnv(name, 1, 0)
    try:
        return env.info
    finally:
        env.close()


def make(
    name: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int, stagger: bool, sim: SimCfg
) -> ManiSkillEnv:
    """A fresh simulator on `device`; `sim.overrides` change what the task is made with, `sim.imports` register tasks."""
    sim.refuse("ManiSkill", but=("overrides", "imports"))
    import_packages(sim.imports)
    return ManiSkillEnv(name, num_envs, seed, device=device, stagger=stagger, overrides=sim.overrides)


class ManiSkillEnv(Stateless):
    """A `VectorEnv` on ManiSkill.

    With `stagger`, every environment's first episode is truncated after a random number of steps, so that episodes do not
    all end together for the rest of the run; without, it is for evaluation. Actions in [-1, 1] go from the lowest to the
    highest command; several robots' stand one after another.
    """

    def __init__(
        self,
        name: str,
        num_envs: int,
        seed: int,
        *,
        device: torch.device | None = None,
        stagger: bool = True,
        overrides: tuple[str, ...] = (),
    ) -> None:
        self.device = device or torch.device("cpu")
        _require_parallel(num_envs, self.device)
        spec = _spec(name)
        options = _options(spec, overrides)
        self.restart(seed, stagger=stagger)
        with self._randomness:
            self._env: Any = _build(name, spec, num_envs, self.device, options)
        self._low, self._high, self._parts = _action_range(self._env, name, self.device)
        self.num_envs = num_envs
        self.info = TaskInfo(
            task=f"maniskill:{name}",
            actor=(sizes := {OBSERVATION_KEY: int(self._env.single_observation_space.shape[0])}),
            critic=sizes,
            action_size=len(self._low),
            control_period_s=float(self._env.control_timestep),
            max_episode_steps=int(spec.max_episode_steps),
        )
        self.exceptions = {"early-truncation": EARLY_TRUNCATION} if "success" in self._env.get_info() else {}
        self.task = self.info.task
        self.actor_size = self.critic_size = sizes[OBSERVATION_KEY]
        self.action_size = self.info.action_size
        self.control_period_s = self.info.control_period_s
        self.max_episode_steps = self.info.max_episode_steps
        if self.max_episode_steps > 10:
            self.notes = (f"ManiSkill's settings have gamma {recommended_gamma(self.max_episode_steps):g} for this task",)

    def restart(self, seed: int, *, stagger: bool = True) -> None:
        """Draws from `seed` from now on; the next `reset` builds the scene anew and starts first episodes."""
        self._seed, self._is_training = seed, stagger
        # Not what the first reset seeds torch by: the second must not draw the same numbers again.
        own_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        self._randomness = Randomness(self.device, own_seed)
        self._has_started = False
        self._successes: list[Tensor] = []

    def reset(self) -> Observation:
        env, envs = self._live_env(), self.num_envs
        seeds = np.random.SeedSequence([self._seed, 0]).generate_state(envs)
        with self._randomness:
            observed = env.reset(seed=[int(seed) for seed in seeds], options={"reconfigure": True})[0]
        length = np.full(envs, self.max_episode_steps)
        if self._is_training:
            length = np.random.default_rng([self._seed, envs]).integers(1, self.max_episode_steps + 1, envs)
        self._length = torch.as_tensor(length, device=self.device)
        self._steps = torch.zeros_like(self._length)
        self._succeeded = torch.zeros(envs, dtype=torch.bool, device=self.device)
        self._tracker = EpisodeTracker(envs, self.device)
        self._has_started = True
        return self._observation(observed)

    def step(self, action: Tensor) -> StepResult:
        env = self._live_env()
        if not self._has_started:
            raise TrainError(f"{self.task} was stepped before its first reset")
        wanted = action.detach().to(torch.float32).clamp(-1.0, 1.0)
        is_number = wanted.isfinite().all(-1)
        with self._randomness:
            observed, paid, _, _, info = env.step(self._command(torch.where(is_number[:, None], wanted, 0.0)))
        # PhysX would not say that a command was no number; the reward says it to who gave it.
        reward = torch.where(is_number, paid.to(torch.float32), torch.nan)
        success, fail = self._flag(info, "success"), self._flag(info, "fail")
        self._steps += 1
        self._succeeded |= success
        is_over = self._steps >= self._length
        truncated = (is_over | (success & self._is_training)) & ~fail
        ended = fail | truncated
        counted = fail | (self._length == self.max_episode_steps)
        observation = self._observation(observed)
        index = ended.nonzero().squeeze(-1)
        terminal = observation[index] if len(index) else None
        if "success" in info and len(index):
            self._successes.append(self._succeeded[ended & counted])
        if len(index):
            observation = self._restarted(observation, index)
        stats = self._tracker.step(reward, ended, counted)
        return StepResult(observation, reward, fail, truncated, terminal, stats)

    def log(self) -> dict[str, float]:
        successes = torch.cat([torch.empty(0), *(one.float().cpu() for one in self._successes)])
        self._successes = []
        return {"success_once": float(successes.mean())} if len(successes) else {}

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
            gc.collect()  # PhysX frees a scene with the last Python object that is of it
            release_free_memory()

    def _live_env(self) -> Any:
        if self._env is None:
            raise TrainError(f"the simulator of {self.task} was closed; make a new one")
        return self._env

    def _restarted(self, observation: Observation, index: Tensor) -> Observation:
        """The observations, with those of next episodes' starts in the rows `index` (ends,)."""
        is_whole = not self._is_training and len(index) == self.num_envs
        options = {"reconfigure": True} if is_whole else {"env_idx": index}
        with self._randomness:
            observed = self._live_env().reset(options=options)[0]
        self._steps[index] = 0
        self._length[index] = self.max_episode_steps
        self._succeeded[index] = False
        actor = observation.actor.index_copy(0, index, self._observation(observed).actor[index])
        return Observation(actor, actor)

    def _command(self, action: Tensor) -> Any:
        """Actions in [-1, 1] (envs, actions) as the robots take them."""
        command = self._low + (action + 1.0) / 2.0 * (self._high - self._low)
        if not self._parts:
            return command
        ends = [0, *np.cumsum([*self._parts.values()]).tolist()]
        return {robot: command[:, start:end] for robot, (start, end) in zip(self._parts, pairwise(ends), strict=True)}

    def _flag(self, info: Mapping[str, Any], name: str) -> Tensor:
        """An evaluation's answer (envs,); False where the task does not ask."""
        value = info.get(name)
        zeros = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return zeros if value is None else zeros | cast("Tensor", value)

    def _observation(self, observed: Tensor) -> Observation:
        actor = observed.to(self.device, torch.float32, copy=True)
        return Observation(actor, actor)


def _require_parallel(num_envs: int, device: torch.device) -> None:
    if num_envs < 1:
        raise TrainError(f"{num_envs} environments; it takes at least 1")
    if num_envs > 1 and device.type != "cuda":
        raise TrainError(
            f"ManiSkill simulates one environment on a CPU, not {num_envs}: use --device cuda, or --num-envs 1 and "
            "--evaluation.episodes 1"
        )


def _spec(name: str) -> Any:
    """A task's entry in ManiSkill's table; TrainError where there is none, or none to train on."""
    known: Mapping[str, Any] = registration.REGISTERED_ENVS
    if name not in known:
        raise TrainError(f"unknown ManiSkill task '{name}'; {near_matches(name, known)} (`trudi tasks` lists them all)")
    if known[name].max_episode_steps is None:
        raise TrainError(f"ManiSkill's '{name}' has no time limit, and so no episodes to train on")
    return known[name]


def _options(spec: Any, overrides: tuple[str, ...]) -> dict[str, Any]:
    """What the task is made with; TrainError for a setting that it does not take, or that is this adapter's."""
    types: Any = import_module("mani_skill.utils.structs.types")
    known: dict[str, Any] = {}
    for kind in (import_module("mani_skill.envs.sapien_env").BaseEnv, spec.cls):
        parameters = inspect.signature(kind.__init__).parameters
        known |= {key: deepcopy(one.default) for key, one in parameters.items() if one.default is not one.empty}
    known |= {**DEFAULTS, "sim_config": types.SimConfig().dict()}
    known = {key: value for key, value in known.items() if key not in OWN_OPTIONS}
    apply_overrides(known, overrides)
    options: dict[str, Any] = dict(DEFAULTS)
    for override in overrides:
        # The rest stays unsaid: tasks have defaults of their own for parts of `sim_config`.
        *path, last = override.partition("=")[0].split(".")
        said, target = known, options
        for part in path:
            said, target = said[part], target.setdefault(part, {})
        target[last] = said[last]
    if options["reward_mode"] not in spec.cls.SUPPORTED_REWARD_MODES:
        modes = ", ".join(spec.cls.SUPPORTED_REWARD_MODES)
        raise TrainError(
            f"'{spec.uid}' has no reward '{options['reward_mode']}'; --sim.overrides reward_mode=MODE takes: {modes}"
        )
    return options


def _build(name: str, spec: Any, num_envs: int, device: torch.device, options: Mapping[str, Any]) -> Any:
    """ManiSkill's environment; TrainError where it cannot be made, with what it said."""
    has_renderer = _has_renderer()
    if options["render_backend"] == "none":
        _leave_table_unpainted()
    _require_assets(name, spec)
    said = io.StringIO()
    try:
        with _without_prompt(said):
            return spec.make(num_envs=num_envs, obs_mode="state", sim_backend=f"physx_{device}", **options)
    except (EOFError, SystemExit) as error:
        what = next(iter(said.getvalue().strip().splitlines()), "it would ask to download them")
        raise TrainError(
            f"'{name}' needs files that are not here: {what}; python -m mani_skill.utils.download_asset has them"
        ) from error
    except Exception as error:  # tasks fail in ways of their own
        hint = "" if has_renderer or "render" not in str(error) else "; this machine has no renderer"
        raise TrainError(f"ManiSkill cannot make '{name}' ({type(error).__name__}: {error}){hint}") from error


def _require_assets(name: str, spec: Any) -> None:
    """TrainError where files are missing that ManiSkill would ask to download."""
    assets: Any = import_module("mani_skill.utils.assets")
    wanted = [*(spec.asset_download_ids or [])]
    sources = [
        source
        for asset in wanted
        for source in (
            assets.expand_data_group_into_individual_data_source_ids(asset) if asset in assets.DATA_GROUPS else [asset]
        )
    ]
    if any(not assets.is_data_source_downloaded(source) for source in sources):
        raise TrainError(f"'{name}' needs files that are not here: python -m mani_skill.utils.download_asset {name}")


@contextlib.contextmanager
def _without_prompt(said: io.StringIO) -> Generator[None]:
    """Questions to the user fail at once (EOFError), and what is printed goes to `said`."""
    with patch.object(sys, "stdin", io.StringIO()), contextlib.redirect_stdout(said):
        yield


class _Unseen:
    """Stands for a colour or texture where nothing can be drawn: takes everything, and is asked for nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("set_"):
            return lambda *args: None
        raise AttributeError(name)


def _has_renderer() -> bool:
    """Whether SAPIEN has a renderer; where not, materials and textures are replaced for the whole process."""
    if sapien.render.RenderMaterial is _Unseen:
        return False
    try:
        sapien.render.RenderMaterial()
        return True
    except RuntimeError:
        for name in ("RenderMaterial", "RenderTexture2D"):
            original = getattr(sapien.render, name)
            for module in list(sys.modules.values()):
                if getattr(module, "__dict__", {}).get(name) is original:
                    setattr(module, name, _Unseen)
        return False


def _leave_table_unpainted() -> None:
    """PushT paints the table that it shares with other tasks, and fails where nothing is drawn."""
    push_t: Any = import_module("mani_skill.envs.tasks.tabletop.push_t")
    shared: Any = import_module("mani_skill.utils.scene_builder.table").TableSceneBuilder
    push_t.WhiteTableSceneBuilder.build = shared.build


def _action_range(env: Any, name: str, device: torch.device) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Lowest and highest command (actions,), and the sizes of several robots' parts by name (none for one robot)."""
    space = env.single_action_space
    spaces: dict[str, Any] = dict(getattr(space, "spaces", {}))
    boxes = [*spaces.values()] or [space]
    low, high = (np.concatenate([np.ravel(getattr(box, end)) for box in boxes]) for end in ("low", "high"))
    if not np.isfinite([low, high]).all():
        raise TrainError(f"'{name}' has commands without bounds; choose another --sim.overrides control_mode=MODE")
    parts = {robot: int(np.prod(box.shape)) for robot, box in spaces.items()}
    low, high = (torch.as_tensor(end, dtype=torch.float32, device=device) for end in (low, high))
    return low, high, parts
