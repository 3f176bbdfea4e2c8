"""Isaac Lab's environment API, which mjlab shares: one adapter for both, and for what is built in their likeness.

What is hidden here: observations come in groups and alias the simulator's buffers; actions have no bounds; a step resets
ended environments itself (`TerminalHook` reads their last observation just before), unless the simulator leaves that to
the caller (mjlab's `auto_reset=False`); curricula and command ranges go on over episodes and belong into a checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from trudi.train.envs import carried_state
from trudi.train.envs.base import EpisodeTracker, Observation, SimCfg, StepResult, TaskInfo
from trudi.train.envs.filming import Camera
from trudi.train.envs.randomness import Randomness
from trudi.train.envs.robot_description import describe_robot, robot_yaml
from trudi.train.errors import TrainError

Groups = dict[str, Tensor]
"""Observation groups by name, each (envs, size)."""

ACTOR_GROUPS = ("policy", "actor")  # Isaac Lab's name, mjlab's name
CRITIC_GROUP = "critic"
UNIT_BOUND = 1.0


class ManagerBasedEnv:
    """A `VectorEnv` on an environment with Isaac Lab's API, `unwrapped`, manager-based or direct.

    Observations stand in the order of their groups and, in each, of its terms. The policy's [-1, 1] becomes the raw action
    between `action_low` and `action_high` (actions,), which the simulator's action terms then scale. With `stagger`, first
    episodes start as if a random part of their time were over.
    """

    def __init__(
        self,
        unwrapped: Any,
        task: str,
        *,
        randomness: Randomness,
        seed: int,
        stagger: bool,
        sim: SimCfg,
        final_observation: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """`randomness` is what the environment was made under.

        `final_observation` finds the observations before a reset in a step's extras, where the simulator gives them;
        elsewhere a hook computes them, or this adapter resets (`cfg.auto_reset` False).
        """
        self._env: Any = unwrapped
        self.task = task
        self.num_envs = int(unwrapped.num_envs)
        self.device = torch.device(unwrapped.device)
        self.exceptions: Mapping[str, str] = _exceptions(unwrapped, self.device)
        self._on_close = on_close
        self._randomness = randomness
        self._seed, self._stagger = seed, stagger
        self._resets_itself = bool(getattr(unwrapped.cfg, "auto_reset", True))
        self._is_finite_horizon = bool(getattr(unwrapped.cfg, "is_finite_horizon", False))
        self._actor_groups, self._critic_groups = choose_groups(unwrapped, task)
        self._final_observation = final_observation or (lambda _: None)
        self._hook = TerminalHook(unwrapped) if self._resets_itself and final_observation is None else None
        self.info = describe(unwrapped, task, self._actor_groups, self._critic_groups)
        self.actor_size, self.critic_size = sum(self.info.actor.values()), sum(self.info.critic.values())
        self.action_size = self.info.action_size
        self.control_period_s, self.max_episode_steps = self.info.control_period_s, self.info.max_episode_steps
        self.action_low, self.action_high, source = action_bounds(unwrapped, self.action_size, sim)
        low, high = float(self.action_low.min()), float(self.action_high.max())
        self.notes = (f"raw actions from {low:g} to {high:g}: {source}",)
        self.camera: Camera | None = None
        """Films the steps of training, once it is set; not those of an evaluation, whose episodes are not staggered."""
        self._tracker = EpisodeTracker(self.num_envs, self.device)
        self._reported: dict[str, list[Any]] = {}
        self._is_cut_short = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._warm_up()

    def _warm_up(self) -> None:
        """Resets and steps once, and goes back: noise models find their size at their first use, and draw more from then on.

        A run that goes on in a new process, or after an evaluation, then draws what an uninterrupted one does.
        """
        before = self.state()
        with self._randomness:
            self.unwrapped.reset()
            self.unwrapped.step(0.5 * (self.action_low + self.action_high).expand(self.num_envs, -1))
        carried_state.restore(self.unwrapped, before)
        self.restart(self._seed, stagger=self._stagger)

    @property
    def unwrapped(self) -> Any:
        """The simulator's own environment; TrainError once it was closed."""
        if self._env is None:
            raise TrainError(f"the simulator of {self.task} was closed; make a new one")
        return self._env

    @property
    def actor_groups(self) -> tuple[str, ...]:
        """The simulator's observation groups that the actor sees, in order."""
        return self._actor_groups

    def reset(self) -> Observation:
        env = self.unwrapped
        generator = torch.Generator().manual_seed(self._seed)
        with self._randomness, frozen_curriculum(env, int(env.common_step_counter) > 0):
            groups = env.reset()[0]
        offset = torch.zeros(self.num_envs, dtype=torch.long)
        if self._stagger:
            offset = torch.randint(self.max_episode_steps, (self.num_envs,), generator=generator)
        env.episode_length_buf[:] = offset.to(self.device)
        self._is_cut_short = (offset > 0).to(self.device)
        self._tracker = EpisodeTracker(self.num_envs, self.device)
        return self._observation(groups)

    def step(self, action: Tensor) -> StepResult:
        env = self.unwrapped
        span = self.action_high - self.action_low
        raw = self.action_low + (action.detach().clamp(-1.0, 1.0) + 1.0) * 0.5 * span
        if self._hook is not None:
            self._hook.arm(self._group_names())
        with self._randomness:
            groups, reward, terminated, truncated, extras = env.step(raw)
            if self.camera is not None and self._stagger:
                self.camera.step(env.render)
        final = self._hook.take() if self._hook is not None else self._final_observation(extras)
        terminated, truncated = terminated.bool().clone(), truncated.bool().clone()
        if self._is_finite_horizon:  # The time limit is the task's own end.
            terminated, truncated = terminated | truncated, torch.zeros_like(truncated)
        truncated &= ~terminated
        ended = terminated | truncated
        observation = self._observation(groups)
        terminal: Observation | None = None
        counted = ~(self._is_cut_short & truncated)
        if bool(ended.any()):
            index = ended.nonzero().squeeze(-1)
            observation, terminal = self._reset(observation, index, final)
            for name, value in env.extras.get("log", {}).items():
                self._reported.setdefault(name, []).append(value)
            self._is_cut_short = self._is_cut_short & ~ended
        reward = reward.detach().float().clone()
        stats = self._tracker.step(reward, ended, counted)
        return StepResult(observation, reward, terminated, truncated, terminal, stats)

    def restart(self, seed: int, *, stagger: bool = True) -> None:
        """As `Restartable` says."""
        self._seed, self._stagger = seed, stagger
        with self._randomness, contextlib.redirect_stdout(io.StringIO()):  # it says which seed it was given
            self.unwrapped.seed(seed)

    def robot_file(self, control_steps: int) -> str | None:
        """As `VectorEnv` says."""
        ends = self.action_low.tolist(), self.action_high.tolist()
        found = describe_robot(self.unwrapped, self.task, self._actor_groups, *ends, control_steps=control_steps)
        return None if found is None else robot_yaml(found)

    def log(self) -> dict[str, float]:
        """Means of what was in `extras["log"]` whenever episodes ended."""
        entries, self._reported = self._reported, {}
        return {name: sum(map(float, values)) / len(values) for name, values in entries.items()}

    def state(self) -> dict[str, Tensor]:
        return carried_state.capture(self.unwrapped)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        carried_state.restore(self.unwrapped, state)

    def close(self) -> None:
        if self._env is not None:
            if self.camera is not None:
                self.camera.close()
            env, self._env = self._env, None
            env.close()
            if self._on_close is not None:
                self._on_close()

    def _group_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._actor_groups + self._critic_groups))

    def _reset(
        self, seen: Observation, index: Tensor, final: Mapping[str, Any] | None
    ) -> tuple[Observation, Observation | None]:
        """(observation with ended rows at their next episode, the ended rows' last) for what a step returned."""
        if not self._resets_itself:
            with self._randomness:
                fresh = self._observation(self.unwrapped.reset(env_ids=index)[0])
            return _put(seen, index, fresh[index]), seen[index]
        return seen, None if final is None else self._observation(final)[index]

    def _observation(self, groups: Mapping[str, Any]) -> Observation:
        actor = join(groups, self._actor_groups)
        return Observation(actor, actor if self._critic_groups == self._actor_groups else join(groups, self._critic_groups))


def _exceptions(env: Any, device: torch.device) -> dict[str, str]:
    found: dict[str, str] = {}
    if device.type == "cuda":
        found |= dict.fromkeys(("seeds-reproduce", "restarts"), "on a GPU sums are made in any order")
    if not hasattr(env, "observation_manager") and getattr(env.cfg, "observation_noise_model", None):
        found["next-first"] = "a direct task's observation noise is added by steps, and not by reset()"
    return found


def _put(observation: Observation, index: Tensor, rows: Observation) -> Observation:
    actor = observation.actor.index_copy(0, index, rows.actor)
    same = observation.critic is observation.actor
    return Observation(actor, actor if same else observation.critic.index_copy(0, index, rows.critic))


def join(groups: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    """Copies of groups side by side (envs, size), float32. A group's terms are joined in their order."""
    parts: list[Tensor] = []
    for name in names:
        group = groups[name]
        terms = list(cast("Mapping[str, Tensor]", group).values()) if isinstance(group, Mapping) else [cast("Tensor", group)]
        parts += [term.detach().flatten(1).float() for term in terms]
    return torch.cat(parts, dim=1)  # always new memory: simulators write into what they returned


def choose_groups(env: Any, task: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The observation groups of actor and critic; TrainError where there is none by the usual names, or one of images."""
    names = _group_names(env)
    if images := [name for name in names if any(len(shape) > 2 for shape in _shapes(env, name).values())]:
        raise TrainError(f"{task} shows images (observation group {images[0]}); policies here take vectors only")
    actor = next((name for name in ACTOR_GROUPS if name in names), None)
    if actor is None:
        raise TrainError(
            f"{task} has the observation groups {', '.join(names)}; one named {' or '.join(ACTOR_GROUPS)} is needed for "
            "the actor"
        )
    return (actor,), (CRITIC_GROUP,) if CRITIC_GROUP in names else (actor,)


def _group_names(env: Any) -> list[str]:
    if hasattr(env, "observation_manager"):
        return list(env.observation_manager.active_terms)
    return list(env.single_observation_space.spaces)


def describe(env: Any, task: str, actor: Sequence[str], critic: Sequence[str]) -> TaskInfo:
    """Sizes, observation order and control period of an environment."""
    return TaskInfo(
        task=task,
        actor=_term_sizes(env, actor),
        critic=_term_sizes(env, critic),
        action_size=int(math.prod(env.single_action_space.shape)),
        control_period_s=float(env.step_dt),
        max_episode_steps=int(env.max_episode_length),
    )


def _term_sizes(env: Any, groups: Sequence[str]) -> dict[str, int]:
    """Sizes by name, in order; where several groups are joined, their names come first."""
    return {
        (f"{group}.{name}" if len(groups) > 1 else name): int(math.prod(shape))
        for group in groups
        for name, shape in _shapes(env, group).items()
    }


def _shapes(env: Any, group: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a group's terms, in order; of the whole group where there are no managers."""
    manager = getattr(env, "observation_manager", None)
    if manager is None:
        return {group: env.single_observation_space.spaces[group].shape}
    return dict(zip(manager.active_terms[group], manager.group_obs_term_dim[group], strict=True))


def action_bounds(env: Any, size: int, sim: SimCfg) -> tuple[Tensor, Tensor, str]:
    """(low, high, where they come from): raw actions (actions,) that the policy's -1 and 1 stand for.

    In this order: `sim.action_bound`; the action space's own bounds; the action terms' clips, divided by their scales;
    one unit of raw action, which is what the term's scale was chosen for. TrainError where a clip leaves no room.
    """
    device = torch.device(env.device)
    if sim.action_bound is not None:
        high = torch.full((size,), sim.action_bound, device=device)
        return -high, high, f"sim.action_bound {sim.action_bound:g}"
    space = env.single_action_space
    low, high = (torch.as_tensor(bound, dtype=torch.float32).expand(size).to(device) for bound in (space.low, space.high))
    if bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
        return low.clone(), high.clone(), "the task's action space"
    clip = _clip_bounds(env)
    if clip is not None:
        low, high = (bound.to(device) for bound in clip)
        if not bool((low < high).all()):
            raise TrainError(f"the action terms' clips leave no room for actions ({low.tolist()} to {high.tolist()})")
        return low, high, "the action terms' clips"
    high = torch.full((size,), UNIT_BOUND, device=device)
    return -high, high, "one unit of the action terms' scale; sim.action_bound sets another"


def _clip_bounds(env: Any) -> tuple[Tensor, Tensor] | None:
    """Raw actions at which all terms' clips begin, (actions,) each; None where a term has none."""
    manager = getattr(env, "action_manager", None)
    if manager is None:
        return None
    lows: list[Tensor] = []
    highs: list[Tensor] = []
    for name in manager.active_terms:
        term = manager.get_term(name)
        clip = getattr(term, "_clip", None)
        if clip is None or getattr(term.cfg, "clip", None) is None or not bool(torch.isfinite(clip).all()):
            return None
        scale, offset = (value[0] if isinstance(value, Tensor) else float(value) for value in (term._scale, term._offset))
        ends = torch.stack([(clip[0, :, side] - offset) / scale for side in (0, 1)])
        lows.append(ends.amin(0))
        highs.append(ends.amax(0))
    return torch.cat(lows), torch.cat(highs)


class TerminalHook:
    """Computes observations inside a step, just before it resets the environments that ended.

    Computing them must leave no trace: histories and stateful noise are put back as they were.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._wanted: tuple[str, ...] | None = None
        self._seen: Groups | None = None
        self._reset_idx = env._reset_idx
        env._reset_idx = self

    def arm(self, groups: tuple[str, ...]) -> None:
        """The next reset is a step's own."""
        self._wanted, self._seen = groups, None

    def take(self) -> Groups | None:
        """What was seen before the step's reset, if there was one: all rows, true for those that ended.

        It must be called after every step: a reset from outside would be observed otherwise, and draw noise for it.
        """
        self._wanted = None
        seen, self._seen = self._seen, None
        return seen

    def __call__(self, env_ids: Any = None) -> Any:
        if self._wanted is not None:
            self._seen = self._observe(self._wanted)
            self._wanted = None
        return self._reset_idx(env_ids)

    def _observe(self, groups: tuple[str, ...]) -> Groups:
        manager = getattr(self._env, "observation_manager", None)
        if manager is None:
            return self._observe_direct(groups)
        with unchanged(_stateful_parts(manager, groups)):
            return {group: join({group: manager.compute_group(group, update_history=True)}, (group,)) for group in groups}

    def _observe_direct(self, groups: tuple[str, ...]) -> Groups:
        seen = self._env._get_observations()
        noise = getattr(self._env, "_observation_noise_model", None)
        if getattr(self._env.cfg, "observation_noise_model", None) and noise is not None:
            seen = {**seen, "policy": noise(seen["policy"])}
        return {group: join(seen, (group,)) for group in groups}


def _stateful_parts(manager: Any, groups: Sequence[str]) -> list[Any]:
    """What computing observation groups may change: histories, delays, noise and modifiers with memory, terms that are
    objects. Isaac Lab keeps the noise and modifiers of all groups in one list, mjlab in a dictionary a group."""
    parts: list[Any] = []
    for kind in ("_group_obs_term_history_buffer", "_group_obs_term_delay_buffer", "_group_obs_class_instances"):
        table = getattr(manager, kind, [])
        if isinstance(table, list):
            parts += cast("list[Any]", table)
        else:
            parts += [part for group in groups for part in table.get(group, {}).values()]
    terms = getattr(manager, "_group_obs_class_term_cfgs", {})
    return parts + [term.func for group in groups for term in terms.get(group, [])]


@contextlib.contextmanager
def unchanged(objects: Sequence[Any]) -> Generator[None]:
    """Puts the attributes of `objects` back as they were when the block ends, tensors by value."""
    before = [{k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(each).items()} for each in objects]
    try:
        yield
    finally:
        for each, attributes in zip(objects, before, strict=True):
            vars(each).clear()
            vars(each).update(attributes)


@contextlib.contextmanager
def frozen_curriculum(env: Any, frozen: bool) -> Generator[None]:
    """Without its curriculum's judgement inside the block: a level must not be judged by an episode that was broken off."""
    manager = getattr(env, "curriculum_manager", None)
    if not frozen or manager is None:
        yield
        return
    manager.compute = lambda *_args, **_kwargs: None
    try:
        yield
    finally:
        del manager.compute
