"""Tasks of this package's own, simulated by MuJoCo's batched stepping (`mujoco.rollout`) on a pool of CPU threads.

An environment is a row of numbers (MuJoCo's full physics state), not an object: a thread takes rows as it gets to them and
starts each from exactly these numbers, without a warm start, so results do not depend on the number of threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from numpy.typing import NDArray
from torch import Tensor

from trudi.train.devices import available_cores
from trudi.train.envs.base import EpisodeTracker, Observation, SimCfg, Stateless, StepResult, TaskInfo
from trudi.train.envs.reach_around import ReachAround
from trudi.train.errors import TrainError, near_matches

Array = NDArray[np.float64]

mj = cast("Any", mujoco)  # its stubs name a part of it


class Task(Protocol):
    """What a task adds to MuJoCo, for all environments at once; a scene is one number that differs between episodes."""

    name: str
    model: Path
    """MJCF without activations or plugins: its state is time, positions and velocities."""
    substeps: int
    """Steps of the model in a control step."""
    max_episode_steps: int
    observation: dict[str, int]
    action_size: int

    def draw_scene(self, rng: np.random.Generator) -> float:
        """The scene of one episode."""
        ...

    def start(self, scene: Array) -> tuple[Array, Array]:
        """Positions and velocities (envs, nq) and (envs, nv) at the start of scenes (envs,)."""
        ...

    def control(self, action: Array) -> Array:
        """What the actuators get (envs, nu) for actions in [-1, 1] (envs, actions)."""
        ...

    def observe(self, position: Array, velocity: Array, scene: Array) -> Array:
        """Observations (envs, sizes of `observation`)."""
        ...

    def reward(self, positions: Array, scene: Array) -> Array:
        """Of one control step (envs,), from the positions after each of its steps (envs, substeps, nq)."""
        ...


TASKS: dict[str, type[Task]] = {ReachAround.name: ReachAround}


def task_names() -> list[str]:
    """The tasks of this backend."""
    return sorted(TASKS)


def make_task(name: str) -> Task:
    """A task by its name; TrainError where there is none."""
    if name not in TASKS:
        raise TrainError(f"unknown MuJoCo task '{name}'; {near_matches(name, TASKS)} (`trudi tasks` lists them all)")
    return TASKS[name]()


def describe_task(name: str) -> TaskInfo:
    """Sizes, observation order and control period of a task by its name."""
    task = make_task(name)
    return _describe(task, mj.MjModel.from_xml_path(str(task.model)))


def _describe(task: Task, model: Any) -> TaskInfo:
    period_s = task.substeps * float(model.opt.timestep)
    size, limit = task.action_size, task.max_episode_steps
    return TaskInfo(f"mujoco:{task.name}", task.observation, task.observation, size, period_s, limit)


def make(
    name: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int, stagger: bool, sim: SimCfg
) -> MujocoEnv:
    """A fresh simulator of one of this backend's tasks."""
    sim.refuse("the mujoco backend")
    return MujocoEnv(name, num_envs, seed, device=device, num_threads=num_threads, stagger=stagger)


class MujocoEnv(Stateless):
    """A `VectorEnv` on MuJoCo. No task here terminates: an episode is truncated after `max_episode_steps`.

    Episode e of environment i (both from 0) is decided by seed + i and e alone. With `stagger`, every environment's first
    episode is truncated after a random number of steps, so that episodes do not all end together for the rest of the run.
    `scenes` (envs,) holds the scene of each environment in all of its episodes, instead of drawing one for each.
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
        scenes: Array | None = None,
    ) -> None:
        self._task = task = make_task(name)
        if num_envs < 1 or (scenes is not None and scenes.shape != (num_envs,)):
            given = "" if scenes is None else f" and scenes of shape {scenes.shape}"
            raise TrainError(f"{num_envs} environments{given}; it takes at least 1, and one scene for each")
        model = mj.MjModel.from_xml_path(str(task.model))
        self.info = _describe(task, model)
        self.task = self.info.task
        self.num_envs = num_envs
        self.device = device or torch.device("cpu")
        self.actor_size = self.critic_size = sum(self.info.actor.values())
        self.action_size = self.info.action_size
        self.control_period_s = self.info.control_period_s
        self.max_episode_steps = self.info.max_episode_steps
        self._seed, self._scenes, self._stagger = seed, scenes, stagger
        threads = min(num_threads or available_cores(), num_envs)
        self._pool: Rollout | None = Rollout(nthread=threads if threads > 1 else 0)
        self._models, self._data = [model] * num_envs, [mj.MjData(model) for _ in range(threads)]
        state_size = mj.mj_stateSize(model, mj.mjtState.mjSTATE_FULLPHYSICS.value)
        self._positions = slice(1, 1 + model.nq)  # after the time
        self._velocities = slice(1 + model.nq, state_size)
        self._state = np.zeros((num_envs, state_size))
        self._trace = np.zeros((num_envs, task.substeps, state_size))
        self._control = np.zeros((num_envs, task.substeps, model.nu))
        self._no_sensors = np.zeros((num_envs, task.substeps, 0))
        self._begin()

    def reset(self) -> Observation:
        self._live_pool()
        self._begin()
        return self._observation()

    def step(self, action: Tensor) -> StepResult:
        # MuJoCo would write a warning to a file and go on without the command; the reward says it to who called.
        wanted = action.detach().clamp(-1.0, 1.0).cpu().numpy().astype(np.float64)
        is_number: NDArray[np.bool_] = np.isfinite(wanted.sum(axis=1))
        self._simulate(self._task.control(np.where(is_number[:, None], wanted, 0.0)))
        reward = self._task.reward(self._trace[:, :, self._positions], self._scene)
        reward_tensor = self._to_device(np.where(is_number, reward, np.nan).astype(np.float32))
        self._steps += 1
        ended: NDArray[np.bool_] = np.asarray(self._steps >= self._length)
        counted = self._to_device(self._length == self.max_episode_steps)
        truncated = self._to_device(ended)
        observation = self._observation()
        terminal: Observation | None = None
        if ended.any():
            index = np.flatnonzero(ended)
            terminal = observation[self._to_device(index)]
            self._episode[index] += 1
            self._start(index)
            observation = self._observation()
        stats = self._tracker.step(reward_tensor, truncated, counted)
        return StepResult(observation, reward_tensor, torch.zeros_like(truncated), truncated, terminal, stats)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _live_pool(self) -> Rollout:
        if self._pool is None:
            raise TrainError(f"the simulator of {self.task} was closed; make a new one")
        return self._pool

    def _begin(self) -> None:
        """Puts every environment at the start of its first episode."""
        envs = self.num_envs
        self._tracker = EpisodeTracker(envs, self.device)
        self._scene, self._episode = np.zeros(envs), np.zeros(envs, dtype=np.int64)
        self._steps = np.zeros(envs, dtype=np.int64)
        self._length = np.full(envs, self.max_episode_steps, dtype=np.int64)
        self._start(np.arange(envs))
        if self._stagger:
            rng = np.random.default_rng([self._seed, envs])
            self._length = rng.integers(1, self.max_episode_steps + 1, envs)

    def _start(self, index: NDArray[np.int64]) -> None:
        """Starts the next episode of some environments."""
        if self._scenes is not None:
            self._scene[index] = self._scenes[index]
        else:
            for i in index:
                rng = np.random.default_rng([self._seed + int(i), int(self._episode[i])])
                self._scene[i] = self._task.draw_scene(rng)
        position, velocity = self._task.start(self._scene[index])
        self._state[index] = np.concatenate([np.zeros((len(index), 1)), position, velocity], axis=1)
        self._steps[index] = 0
        self._length[index] = self.max_episode_steps

    def _simulate(self, control: Array) -> None:
        """One control step of all environments: `_trace` gets the state after each step, `_state` the last."""
        self._control[:] = control[:, None]
        self._live_pool().rollout(
            self._models,
            self._data,
            self._state,
            self._control,
            nstep=self._task.substeps,
            state=self._trace,
            sensordata=self._no_sensors,
            skip_checks=True,  # the shapes are right, and checking them would copy every array
        )
        self._state[:] = self._trace[:, -1]

    def _observation(self) -> Observation:
        state = self._state
        seen = self._task.observe(state[:, self._positions], state[:, self._velocities], self._scene)
        actor = self._to_device(seen.astype(np.float32))
        return Observation(actor, actor)

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
