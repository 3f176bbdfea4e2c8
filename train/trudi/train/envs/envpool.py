"""EnvPool: MuJoCo tasks in C++ on CPU threads, the embedded default.

Behaviour this adapter hides (EnvPool 1.2.5): observations are dicts of float64; a step after the end of an episode
ignores its action, repeats the last reward and returns the next episode's first observation. Here ended environments
are reset in the same call, so that step never enters the data, and the step's own observation is the terminal one.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trudi.train.devices import available_cores, release_free_memory
from trudi.train.envs.base import EpisodeTracker, Observation, SimCfg, Stateless, StepResult, TaskInfo
from trudi.train.envs.overrides import apply_overrides
from trudi.train.errors import TrainError, near_matches

Array = NDArray[Any]
REWARD_TERM, CLIP_REWARD = "reward_", "clip_reward"
LATE_ACTIONS, QUIET_SENSORS = "late_actions", "quiet_sensors"
SHARES = (LATE_ACTIONS, QUIET_SENSORS)
"""Options of this adapter for Playground's Go1 that hold for a share of the environments."""
GO1_TASKS = frozenset(f"MuJoCoPlayground/Go1Joystick{ground}Terrain-v1" for ground in ("Flat", "Rough"))
# Columns of their observations. Of both, the actor's and the critic's: the action before the last one, and what the sensors
# say (linear velocity, gyroscope, gravity, joint positions and velocities). Of the critic's: the same without noise.
LAST_ACTION, SENSED = slice(33, 45), slice(0, 33)
TRUE = [*range(57, 60), *range(48, 51), *range(54, 57), *range(63, 87)]
OWN_OPTIONS = frozenset(
    {
        *("num_envs", "batch_size", "num_threads", "max_num_players", "thread_affinity_offset", "base_path", "seed"),
        *("env_seed", "gym_reset_return_info", "frame_stack", "frame_skip", "task_name"),
    }
)
"""Options that are not the task's, or that this adapter sets."""
ROBOT_OPTIONS = frozenset({"ctrl_dt", "sim_dt", "kp", "kd", "action_scale"})
"""Options that say what the robot is, and so stand in its file (configs/robots)."""
Observations = Mapping[str, Array] | Array

# Keys that EnvPool adds to what MuJoCo Playground observes; dropped so that sizes agree with published results.
DROPPED_KEYS: dict[str, frozenset[str]] = {
    "HumanoidStand-v1": frozenset({"position"}),
    "HumanoidWalk-v1": frozenset({"position"}),
    "HumanoidRun-v1": frozenset({"position"}),
    "FingerSpin-v1": frozenset({"target_position", "dist_to_target"}),
}
ACTOR_KEY, CRITIC_KEY = "state", "privileged_state"
FLAT_KEY = "observation"  # our name for the one observation of tasks that return an array and not a dict
NOT_CONTROL_SUITE = frozenset({"Acrobot-v1", "Pendulum-v1"})  # gymnasium's classic tasks of the same names

# Seconds a control step lasts in the DeepMind Control Suite, by the domain that a task's name starts with.
DMC_CONTROL_PERIOD_S: dict[str, float] = {
    "Acrobot": 0.01,
    "BallInCup": 0.02,
    "Cartpole": 0.01,
    "Cheetah": 0.01,
    "Finger": 0.02,
    "Fish": 0.04,
    "Hopper": 0.02,
    "HumanoidRun": 0.025,
    "HumanoidStand": 0.025,
    "HumanoidWalk": 0.025,
    "Pendulum": 0.02,
    "PointMass": 0.02,
    "Reacher": 0.02,
    "Swimmer": 0.03,
    "Walker": 0.025,
}


class _Pool(Protocol):
    """The part of an EnvPool (gymnasium flavour) that is used here."""

    observation_space: Any
    action_space: Any
    spec: Any

    def reset(self, env_id: Array | None = None) -> tuple[Observations, dict[str, Any]]: ...
    def step(self, action: Array) -> tuple[Observations, Array, Array, Array, dict[str, Any]]: ...
    def close(self) -> None: ...


def task_names() -> list[str]:
    """EnvPool's DeepMind Control Suite and MuJoCo Playground tasks."""
    from envpool.registration import list_all_envs

    names = list_all_envs()
    playground = [name for name in names if name.startswith("MuJoCoPlayground/")]
    suite = [name for name in names if name.endswith("-v1") and name not in NOT_CONTROL_SUITE and _dmc_period_s(name)]
    return sorted(suite) + sorted(playground)


def _dmc_period_s(name: str) -> float | None:
    return next((period for domain, period in DMC_CONTROL_PERIOD_S.items() if name.startswith(domain)), None)


def require_known(name: str) -> None:
    """TrainError on an unknown task."""
    if name not in (known := task_names()):
        raise TrainError(f"unknown EnvPool task '{name}'; {near_matches(name, known)} (`trudi tasks` lists them all)")


def make_pool(name: str, num_envs: int, seed: int, num_threads: int = 0, **options: Any) -> _Pool:
    """A pool of `num_envs` environments of one task, env i seeded with seed + i; TrainError on an unknown task.

    `num_threads` of 0 takes one for each core that this process may use. EnvPool itself would take one for each core of the
    machine, whose waiting slows a process that is pinned to a few.
    """
    import envpool

    require_known(name)
    make = cast("Any", envpool).make_gymnasium
    threads = num_threads or min(num_envs, available_cores())
    return cast("_Pool", make(name, num_envs=num_envs, seed=seed, num_threads=threads, **options))


def describe(name: str, pool: _Pool) -> TaskInfo:
    """Sizes, observation order and control period of a pool's task."""
    spaces = getattr(pool.observation_space, "spaces", {FLAT_KEY: pool.observation_space})
    sizes = {key: int(np.prod(space.shape)) for key, space in spaces.items()}
    kept = {key: size for key, size in sizes.items() if key not in DROPPED_KEYS.get(name, frozenset())}
    asymmetric = ACTOR_KEY in kept
    config = pool.spec.config
    period = getattr(config, "ctrl_dt", None) or _dmc_period_s(name)
    if period is None:
        raise TrainError(f"EnvPool task '{name}' does not say its control period")
    return TaskInfo(
        task=f"envpool:{name}",
        actor={ACTOR_KEY: kept[ACTOR_KEY]} if asymmetric else kept,
        critic={CRITIC_KEY: kept[CRITIC_KEY]} if CRITIC_KEY in kept else kept,
        action_size=int(np.prod(pool.action_space.shape)),
        control_period_s=float(period),
        max_episode_steps=int(config.max_episode_steps),
    )


def describe_task(name: str) -> TaskInfo:
    """`describe` for a task by its name."""
    pool = make_pool(name, num_envs=1, seed=0, num_threads=1)
    try:
        return describe(name, pool)
    finally:
        pool.close()


def make(
    name: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int, stagger: bool, sim: SimCfg
) -> EnvPoolEnv:
    """A fresh pool, with meshes left out of the models where the task does not need them.

    `sim.overrides` take EnvPool's own options of the task but for those that the robot's file states, and for Playground's
    walking robots `clip_reward=false`; for its Go1 `late_actions` and `quiet_sensors` (`EnvPoolEnv`).
    """
    sim.refuse("EnvPool", but=("overrides",))
    options = task_options(name, sim.overrides)
    own = {key: options.pop(key) for key in (CLIP_REWARD, *SHARES) if key in options}
    return EnvPoolEnv(name, num_envs, seed, device=device, num_threads=num_threads, stagger=stagger, **own, **options)


def task_options(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What KEY=VALUE `overrides` change of the options of a task; TrainError names what is unknown or not to be changed."""
    if not overrides:
        return {}
    import envpool

    require_known(name)
    spec = cast("Any", envpool).make_spec(name)
    before: dict[str, Any] = {
        key: value for key, value in spec.config._asdict().items() if key not in OWN_OPTIONS | ROBOT_OPTIONS
    }
    if f"info:{REWARD_TERM}tracking_lin_vel" in spec.state_array_spec:
        before[CLIP_REWARD] = True
    if name in GO1_TASKS:
        before |= dict.fromkeys(SHARES, 0.0)
    for key in (override.partition("=")[0] for override in overrides):
        if key in ROBOT_OPTIONS:
            raise TrainError(f"sim.overrides: {key} is in the robot's file, which policies are exported with; leave it out")
    options = dict(before)
    apply_overrides(options, overrides)
    for key in SHARES:
        if not 0.0 <= (share := options.get(key, 0.0)) <= 1.0:
            raise TrainError(f"sim.overrides: {key} is {share}; it is a share of the environments, 0 to 1")
    return {key: value for key, value in options.items() if value != before[key]}


class EnvPoolEnv(Stateless):
    """A `VectorEnv` on EnvPool.

    With `stagger`, every environment's first episode is truncated after a random number of steps, so that episodes do
    not all end together for the rest of the run. Observations stand in the order of `TaskInfo.actor` and `.critic`.
    """

    def __init__(
        self,
        name: str,
        num_envs: int,
        seed: int,
        *,
        device: torch.device | None = None,
        num_threads: int = 0,
        stagger: bool = True,
        clip_reward: bool = True,
        late_actions: float = 0.0,
        quiet_sensors: float = 0.0,
        **options: Any,
    ) -> None:
        """Without `clip_reward` a reward is the sum of its terms where that is below 0, too; the task gives 0 there.

        In the first `late_actions` of the environments, a share, every action reaches the motors one control step late, as
        on a robot whose computer and bus take their time. The observation tells of the actions given, as it does on time.

        In `quiet_sensors` of them, a share spread evenly over all, observations have no noise. A robot that was never
        without it never stood quite still, and does not know how to start from there (docs/go1.md).
        """
        from trudi.train.envs.assets import mesh_free_assets

        if "base_path" not in options and (assets := mesh_free_assets(name)) is not None:
            options["base_path"] = str(assets)
        self._pool: _Pool | None = make_pool(name, num_envs, seed, num_threads, **options)
        self.info = describe(name, self._pool)
        self.task = self.info.task
        self.num_envs = num_envs
        self.device = device or torch.device("cpu")
        self.actor_size = sum(self.info.actor.values())
        self.critic_size = sum(self.info.critic.values())
        self.action_size = self.info.action_size
        self.control_period_s = self.info.control_period_s
        self.max_episode_steps = self.info.max_episode_steps
        self._tracker = EpisodeTracker(num_envs, self.device)
        self._action_dtype = self._pool.action_space.dtype
        self._first_length = np.full(num_envs, self.max_episode_steps, dtype=np.int64)
        if stagger:
            rng = np.random.default_rng([seed, num_envs])
            self._first_length = rng.integers(1, self.max_episode_steps + 1, num_envs)
        self._clip_reward = clip_reward
        self._late = np.arange(num_envs) < round(late_actions * num_envs)
        self._quiet = np.diff(np.floor(quiet_sensors * np.arange(num_envs + 1))) > 0.0
        self._given = np.zeros((num_envs, self.action_size), self._action_dtype)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._in_first = np.ones(num_envs, dtype=np.bool_)

    def reset(self) -> Observation:
        self._given[:] = 0.0
        return self._seen(self._live_pool().reset()[0], np.arange(self.num_envs))

    def step(self, action: Tensor) -> StepResult:
        pool = self._live_pool()
        clipped = action.detach().clamp(-1.0, 1.0).cpu().numpy().astype(self._action_dtype)
        before, self._given = self._given, clipped
        applied = np.where(self._late[:, None], before, clipped) if self._late.any() else clipped
        observed, reward, terminated, truncated, info = pool.step(applied)
        if not self._clip_reward:
            terms = np.stack([info[key] for key in info if key.startswith(REWARD_TERM)])
            reward = self.control_period_s * terms.sum(axis=0)
        self._steps += 1
        cut = self._in_first & (self._steps >= self._first_length) & ~terminated & ~truncated
        truncated = (truncated & ~terminated) | cut
        ended = np.flatnonzero(terminated | truncated)
        observation = self._seen(observed, np.arange(self.num_envs))
        if self._late.any():
            self._tell_of(before, observation)
        terminal: Observation | None = None
        if len(ended):
            index = self._to_device(ended)
            terminal = observation[index]
            first = self._seen(pool.reset(ended.astype(np.int32))[0], ended)
            same = observation.critic is observation.actor
            actor = observation.actor.index_copy(0, index, first.actor)
            critic = actor if same else observation.critic.index_copy(0, index, first.critic)
            observation = Observation(actor, critic)
            self._given[ended] = 0.0
            self._steps[ended] = 0
            self._in_first[ended] = False
        reward_tensor = self._to_device(reward.astype(np.float32))
        terminated_tensor, truncated_tensor = self._to_device(terminated), self._to_device(truncated)
        stats = self._tracker.step(reward_tensor, terminated_tensor | truncated_tensor, self._to_device(~cut))
        return StepResult(observation, reward_tensor, terminated_tensor, truncated_tensor, terminal, stats)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
            gc.collect()  # A pool sits in reference cycles, and is freed only when they are.
            release_free_memory()

    def _tell_of(self, actions: Array, observation: Observation) -> None:
        """Where actions are late, the task has seen the one before; a robot's own last action is what was asked of it."""
        late, told = self._to_device(self._late), self._to_device(actions[self._late].astype(np.float32))
        for part in (observation.actor, observation.critic):
            part[late, LAST_ACTION] = told

    def _live_pool(self) -> _Pool:
        if self._pool is None:
            raise TrainError(f"the simulator of {self.task} was closed; make a new one")
        return self._pool

    def _seen(self, observed: Observations, environments: Array) -> Observation:
        """What is observed in `environments` (their numbers); without noise where sensors are quiet."""
        actor = self._flatten(observed, self.info.actor)
        if self.info.critic == self.info.actor:
            return Observation(actor, actor)
        critic = self._flatten(observed, self.info.critic)
        if self._quiet.any():
            quiet = self._to_device(self._quiet[environments])[:, None]
            for part in (actor, critic):
                part[:, SENSED] = torch.where(quiet, critic[:, TRUE], part[:, SENSED])
        return Observation(actor, critic)

    def _flatten(self, observed: Observations, keys: Mapping[str, int]) -> Tensor:
        parts = [observed[key] if isinstance(observed, Mapping) else observed for key in keys]
        flat = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1, dtype=np.float32)
        return self._to_device(flat)

    def _to_device(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
