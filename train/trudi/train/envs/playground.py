"""MuJoCo Playground: JAX and MJX, compiled for all environments at once; tensors pass to and from torch without a copy.

Behaviour this adapter hides (Playground 0.2.0):

- Playground's own wrappers start every episode of an environment in that environment's first state. Here each starts with
  a true reset under a key of its own, inside the program that steps: ended environments are gathered and reset a few at a
  time, so a step pays for what ended. A pool of states made beforehand would be cheaper still, but its starts come back.
- The task's own end (`done`) and the time limit (`episode_length`) are told apart, and the last observation of an episode
  comes out of the same program as the first one of the next.
- A task whose `action_repeat` is above 1 stays where it ended: its later repeats neither move it nor pay.
- Most tasks do not notice that their simulation diverged. Here that ends the episode like a failure that pays nothing, and
  what is no number in the last observation is 0. Where the action was no number, the reward is none either.

Episode e of environment i (both from 0) is decided by the seed, i and e. Compiled programs are kept as long as the process
lives: compiling takes up to minutes, and training restarts its simulator at each checkpoint. The environment variable
JAX_COMPILATION_CACHE_DIR makes JAX keep them in a folder. JAX decides on its threads.

JAX would take three quarters of the GPU's memory when it starts, and leave torch without: this module sets
XLA_PYTHON_CLIENT_PREALLOCATE=false before it imports JAX, unless the variable is set. On a CPU, tasks run on MJX's own
implementation (`impl=jax`); on a GPU on their configuration's, which is MuJoCo Warp. Its `naconmax`, the contacts that there
is room for, is of all environments together: raise it beyond some thousands of them.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from trudi.train.devices import release_free_memory
from trudi.train.envs.base import EpisodeTracker, Observation, SimCfg, Stateless, StepResult, TaskInfo
from trudi.train.envs.overrides import apply_overrides, import_packages
from trudi.train.errors import TrainError, near_matches

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
jax: Any = import_module("jax")
jnp: Any = import_module("jax.numpy")
mujoco_playground: Any = import_module("mujoco_playground")
mjx_env: Any = import_module("mujoco_playground._src.mjx_env")
warp: Any = import_module("warp")
warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)  # else a line a kernel, into the progress display
MjSpec: Any = import_module("mujoco").MjSpec
if not hasattr(MjSpec, "find_body"):
    MjSpec.find_body = MjSpec.body  # Playground 0.2.0's Reacher uses the name of before MuJoCo 3.3

Array = Any  # a jax.Array, or what stands for one while a program is traced

ACTOR_KEY, CRITIC_KEY = "state", "privileged_state"
FLAT_KEY = "observation"  # our name for the one observation of tasks that give an array and not a dict
KEPT_PROGRAMS = 8


def task_names() -> list[str]:
    """Playground's registered tasks: DeepMind Control Suite, locomotion and manipulation."""
    return sorted(name for suite in _suites() for name in suite.ALL_ENVS)


def _suites() -> list[Any]:
    """Its parts; what a user registers with one of them appears there alone, not in Playground's common list."""
    return [mujoco_playground.dm_control_suite, mujoco_playground.locomotion, mujoco_playground.manipulation]


def describe_task(name: str) -> TaskInfo:
    """Sizes, observation order and control period of a task by its name; nothing is compiled or downloaded for it."""
    if _needs_menagerie(name) and not mjx_env.MENAGERIE_PATH.exists():
        raise TrainError(f"'{name}' needs robots that are not here. {_menagerie_hint()}")
    return _describe(name, _load(name, _jax_device(torch.device("cpu")), ()))


def make(
    name: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int, stagger: bool, sim: SimCfg
) -> PlaygroundEnv:
    """A fresh simulator on `device`; `sim.overrides` change the task's configuration, `sim.imports` register tasks."""
    sim.refuse("MuJoCo Playground", but=("overrides", "imports"))
    import_packages(sim.imports)
    return PlaygroundEnv(name, num_envs, seed, device=device, stagger=stagger, overrides=sim.overrides)


class PlaygroundEnv(Stateless):
    """A `VectorEnv` on MuJoCo Playground.

    With `stagger`, every environment's first episode is truncated after a random number of steps, so that episodes do not
    all end together for the rest of the run. `log` has the task's own metrics, mostly the terms of its reward.
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
        if num_envs < 1:
            raise TrainError(f"{num_envs} environments; it takes at least 1")
        self.device = device or torch.device("cpu")
        self._program: _Program | None = _program(name, num_envs, _jax_device(self.device), overrides)
        self.info = self._program.info
        self.task = self.info.task
        self.num_envs = num_envs
        self.actor_size = sum(self.info.actor.values())
        self.critic_size = sum(self.info.critic.values())
        self.action_size = self.info.action_size
        self.control_period_s = self.info.control_period_s
        self.max_episode_steps = self.info.max_episode_steps
        self.restart(seed, stagger=stagger)

    def restart(self, seed: int, *, stagger: bool = True) -> None:
        """Draws from `seed` from now on; the next `reset` starts first episodes."""
        self._seed = seed
        self._first_length = np.full(self.num_envs, self.max_episode_steps, dtype=np.int32)
        if stagger:
            rng = np.random.default_rng([seed, self.num_envs])
            self._first_length = rng.integers(1, self.max_episode_steps + 1, self.num_envs, dtype=np.int32)
        self._carry: _Carry | None = None
        self._tracker = EpisodeTracker(self.num_envs, self.device)

    def reset(self) -> Observation:
        program = self._live_program()
        self._tracker = EpisodeTracker(self.num_envs, self.device)
        self._carry, first = program.start(self._seed, self._first_length)
        return self._observation(first)

    def step(self, action: Tensor) -> StepResult:
        program = self._live_program()
        if self._carry is None:
            raise TrainError(f"{self.task} was stepped before its first reset")
        sent = action.detach().to(torch.float32).clamp(-1.0, 1.0).contiguous()
        self._carry, out = program.step(self._carry, jax.dlpack.from_dlpack(sent))
        reward, terminated, truncated = _to_torch(out.reward), _to_torch(out.terminated), _to_torch(out.truncated)
        ended = terminated | truncated
        index = ended.nonzero().squeeze(-1)
        terminal = self._observation(out.last)[index] if len(index) else None
        stats = self._tracker.step(reward, ended, _to_torch(out.counted))
        return StepResult(self._observation(out.seen), reward, terminated, truncated, terminal, stats)

    def log(self) -> dict[str, float]:
        if self._carry is None or not (steps := int(self._carry.logged)):
            return {}
        sums = cast("dict[str, Array]", jax.device_get(self._carry.sums))
        none = {name: 0.0 * total for name, total in self._carry.sums.items()}
        self._carry = self._carry._replace(sums=none, logged=0 * self._carry.logged)
        return {name: float(total) / steps for name, total in sums.items()}

    def close(self) -> None:
        if self._program is not None:
            self._program = self._carry = None
            release_free_memory()

    def _live_program(self) -> _Program:
        if self._program is None:
            raise TrainError(f"the simulator of {self.task} was closed; make a new one")
        return self._program

    def _observation(self, seen: _Seen) -> Observation:
        actor = _to_torch(seen.actor)
        return Observation(actor, actor if seen.critic is None else _to_torch(seen.critic))


class _Seen(NamedTuple):
    """Observations of all environments, float32 (envs, size); `critic` is None where the critic sees what the actor does."""

    actor: Array
    critic: Array | None


class _Carry(NamedTuple):
    """What a step hands to the next, of all environments."""

    state: Any
    """Playground's state: physics, observation and what the task remembers."""
    steps: Array
    """Taken in the present episode (envs,)."""
    length: Array
    """Steps after which the present episode is truncated (envs,)."""
    episode: Array
    """Number of the present episode, from 0 (envs,)."""
    key: Array
    """Of each environment (envs, 2)."""
    sums: dict[str, Array]
    """The task's own metrics, averaged over environments and summed over steps since the last log."""
    logged: Array
    """How many steps those are."""


class _Out(NamedTuple):
    """What a step says, of all environments."""

    seen: _Seen
    """Observations that the next action follows."""
    last: _Seen
    """Observations right after this step; other than `seen` where an episode ended."""
    reward: Array
    terminated: Array
    truncated: Array
    counted: Array
    """False where a first episode was cut short (envs,)."""


@lru_cache(maxsize=KEPT_PROGRAMS)
def _program(name: str, num_envs: int, jax_device: Any, overrides: tuple[str, ...]) -> _Program:
    return _Program(name, num_envs, jax_device, overrides)


class _Program:
    """A task's compiled functions for a number of environments on one device. Holds no state of a run."""

    def __init__(self, name: str, num_envs: int, jax_device: Any, overrides: tuple[str, ...]) -> None:
        self._env = _load(name, jax_device, overrides)
        self.info = _describe(name, self._env)
        self._num_envs, self._device = num_envs, jax_device
        self._repeats = int(self._env._config.get("action_repeat", 1))
        self._at_once = _reset_at_once(num_envs)
        self._start, self._step = jax.jit(self._trace_start), jax.jit(self._trace_step)

    def start(self, seed: int, first_length: np.ndarray[Any, Any]) -> tuple[_Carry, _Seen]:
        """First episodes of all environments, truncated after `first_length` steps (envs,)."""
        with jax.default_device(self._device), jax.default_matmul_precision("highest"):
            # Put there by hand, as the first action will be: JAX would compile a step anew for what it placed by itself.
            key, length = jax.device_put((jax.random.PRNGKey(seed), first_length), self._device)
            return self._ready(self._start(key, length))

    def step(self, carry: _Carry, action: Array) -> tuple[_Carry, _Out]:
        """One step of all environments by actions in [-1, 1] (envs, actions)."""
        # TF32, the default of recent GPUs for products of matrices, is too coarse for contacts.
        with jax.default_device(self._device), jax.default_matmul_precision("highest"):
            return self._ready(self._step(carry, action))

    def _ready(self, results: Any) -> Any:
        """On a CPU, torch does not wait for what JAX still computes."""
        return jax.block_until_ready(results) if self._device.platform == "cpu" else results

    def _trace_start(self, key: Array, first_length: Array) -> tuple[_Carry, _Seen]:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(self._num_envs))
        zeros = jnp.zeros(self._num_envs, jnp.int32)
        state = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), self._first_states(keys, zeros))
        sums = {name: jnp.zeros(()) for name in state.metrics}
        return _Carry(state, zeros, first_length, zeros, keys, sums, jnp.int32(0)), _seen(state.obs)

    def _trace_step(self, carry: _Carry, action: Array) -> tuple[_Carry, _Out]:
        is_number = jnp.isfinite(action).all(-1)
        state, reward = self._advance(carry.state, jnp.where(is_number[:, None], action, 0.0))
        last, diverged = _without_nan(_seen(state.obs), reward)
        steps = carry.steps + 1
        terminated = (state.done > 0) | diverged
        truncated = (steps >= carry.length) & ~terminated
        ended = terminated | truncated
        counted = terminated | (carry.length == self.info.max_episode_steps)
        after = _Carry(
            state=state,
            steps=jnp.where(ended, 0, steps),
            length=jnp.where(ended, self.info.max_episode_steps, carry.length),
            episode=carry.episode + ended,
            key=carry.key,
            sums={name: total + jnp.nan_to_num(state.metrics[name]).mean() for name, total in carry.sums.items()},
            logged=carry.logged + 1,
        )
        after = after._replace(state=self._restart(after, ended))
        paid = jnp.where(is_number, jnp.where(diverged, 0.0, reward), jnp.nan).astype(jnp.float32)
        return after, _Out(_seen(after.state.obs), last, paid, terminated, truncated, counted)

    def _first_states(self, keys: Array, episodes: Array) -> Any:
        """Starts of episodes (envs,) of the environments with these keys (envs, 2)."""
        return jax.vmap(lambda key, episode: self._env.reset(jax.random.fold_in(key, episode)))(keys, episodes)

    def _advance(self, state: Any, action: Array) -> tuple[Any, Array]:
        """The state after one action, repeated as the task says until it ends, and what was paid for it (envs,)."""
        step = jax.vmap(self._env.step)
        after = _as_before(state, step(state, action))
        reward = after.reward
        for _ in range(self._repeats - 1):
            ended = after.done > 0
            again = _as_before(state, step(after, action))
            reward = reward + jnp.where(ended, 0.0, again.reward)
            after = jax.tree.map(lambda kept, new, ended=ended: _where(ended, kept, new), after, again)
        return after, reward

    def _restart(self, carry: _Carry, ended: Array) -> Any:
        """The states, with a new episode's start where one `ended` (envs,)."""
        at_once, envs = self._at_once, self._num_envs
        rounds = math.ceil(envs / at_once)
        (index,) = jnp.nonzero(ended, size=rounds * at_once, fill_value=envs)  # an index past the last is dropped
        count = ended.sum()

        def reset_some(loop: tuple[Array, Any]) -> tuple[Array, Any]:
            done, state = loop
            rows = jax.lax.dynamic_slice(index, (done,), (at_once,))
            fresh = self._first_states(carry.key[rows], carry.episode[rows])

            def put(old: Array, new: Array) -> Array:
                # What MuJoCo Warp shares between environments has no axis for them; the next step computes it anew.
                return old if old.shape == new.shape else old.at[rows].set(new.astype(old.dtype), mode="drop")

            return done + at_once, jax.tree.map(put, state, fresh)

        return jax.lax.while_loop(lambda loop: loop[0] < count, reset_some, (jnp.zeros_like(count), carry.state))[1]


def _reset_at_once(num_envs: int) -> int:
    """How many environments are reset together; never all of them, so that shapes tell which arrays have their axis."""
    return 2 if num_envs == 1 else max(1, num_envs // 8)


def _as_before(before: Any, after: Any) -> Any:
    """A state with the dtypes of the one before: Python numbers in a task's own state would compile everything twice."""
    return jax.tree.map(lambda old, new: jax.lax.convert_element_type(new, old.dtype), before, after)


def _where(ended: Array, kept: Array, new: Array) -> Array:
    """`kept` in the rows that `ended` (envs,), `new` in others and in what environments share."""
    if new.ndim == 0 or len(new) != len(ended):
        return new
    return jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), kept, new)


def _seen(observed: Any) -> _Seen:
    """What actor and critic see, in float32 (envs, size)."""

    def flat(part: Array) -> Array:
        return part.reshape(len(part), -1).astype(jnp.float32)

    if not isinstance(observed, Mapping):
        return _Seen(flat(observed), None)
    parts = cast("Mapping[str, Array]", observed)
    return _Seen(flat(parts[ACTOR_KEY]), flat(parts[CRITIC_KEY]) if CRITIC_KEY in parts else None)


def _without_nan(seen: _Seen, reward: Array) -> tuple[_Seen, Array]:
    """Observations with 0 for what is no finite number, and in which environments (envs,) they or the reward were not."""
    parts = [part for part in seen if part is not None]
    diverged = ~jnp.isfinite(reward)
    for part in parts:
        diverged = diverged | ~jnp.isfinite(part).all(-1)
    clean = [jnp.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) for part in parts]
    return _Seen(clean[0], clean[1] if len(clean) > 1 else None), diverged


def _load(name: str, jax_device: Any, overrides: tuple[str, ...]) -> Any:
    """The task's environment; TrainError for an unknown one, one whose files are not to be had, or a bad setting."""
    suite = next((suite for suite in _suites() if name in suite.ALL_ENVS), None)
    if suite is None:
        known = task_names()
        raise TrainError(f"unknown Playground task '{name}'; {near_matches(name, known)} (`trudi tasks` lists them all)")
    config = suite.get_default_config(name)
    settings = _settings(config, overrides)
    if jax_device.platform == "cpu" and "impl" in config:
        settings.setdefault("impl", "jax")
    try:
        with jax.default_device(jax_device):
            return suite.load(name, config_overrides=settings)
    except (subprocess.CalledProcessError, OSError) as error:
        raise TrainError(f"'{name}' needs files that are not here ({error}). {_menagerie_hint()}") from error
    except Exception as error:  # tasks fail in ways of their own
        needs_warp = settings.get("impl", config.get("impl")) == "warp"
        hint = "; MuJoCo Warp needs the warp-lang that MJX names: pip install 'mujoco-mjx[warp]'" if needs_warp else ""
        raise TrainError(f"Playground cannot make '{name}' with {settings}: {error}{hint}") from error


def _settings(config: Any, overrides: tuple[str, ...]) -> dict[str, Any]:
    """What `KEY=VALUE` settings say of a task's configuration, by dotted key."""
    after = config.to_dict()
    apply_overrides(after, overrides)
    said = [override.partition("=")[0] for override in overrides]
    return {key: value for key, value in _leaves(after).items() if any(f"{key}.".startswith(f"{one}.") for one in said)}


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested settings, with their values."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        is_nested = isinstance(value, Mapping)
        found |= _leaves(cast("Mapping[str, Any]", value), f"{prefix}{key}.") if is_nested else {prefix + key: value}
    return found


def _needs_menagerie(name: str) -> bool:
    return name in mujoco_playground.locomotion.ALL_ENVS or name in mujoco_playground.manipulation.ALL_ENVS


def _menagerie_hint() -> str:
    return (
        "Playground clones MuJoCo Menagerie with git when such a task is first made; where it cannot, put a copy of commit "
        f"{mjx_env.MENAGERIE_COMMIT_SHA[:12]} at {mjx_env.MENAGERIE_PATH}"
    )


def _describe(name: str, env: Any) -> TaskInfo:
    """Sizes, observation order and control period; TrainError for a task whose observations are images."""
    observed = env.observation_size
    sizes = observed if isinstance(observed, Mapping) else {FLAT_KEY: observed}
    flat = {key: int(np.prod(size)) for key, size in cast("Mapping[str, Any]", sizes).items()}
    if FLAT_KEY not in flat and ACTOR_KEY not in flat:
        raise TrainError(f"'{name}' observes {', '.join(flat)}, and TruDi needs '{ACTOR_KEY}'; turn vision off")
    actor = ACTOR_KEY if ACTOR_KEY in flat else FLAT_KEY
    critic = CRITIC_KEY if CRITIC_KEY in flat else actor
    repeats = int(env._config.get("action_repeat", 1))
    return TaskInfo(
        task=f"playground:{name}",
        actor={actor: flat[actor]},
        critic={critic: flat[critic]},
        action_size=int(env.action_size),
        control_period_s=float(env.dt) * repeats,
        max_episode_steps=math.ceil(int(env._config.episode_length) / repeats),
    )


def _jax_device(device: torch.device) -> Any:
    """JAX's name of a torch device; TrainError where this JAX has none of its kind."""
    try:
        found = jax.devices(device.type)
        return found[device.index or 0]
    except (RuntimeError, IndexError) as error:
        raise TrainError(
            f"JAX has no device '{device}' ({error}); for a GPU, install the JAX of its CUDA version, such as "
            "pip install 'jax[cuda12]'"
        ) from error


def _to_torch(array: Array) -> Tensor:
    return torch.from_dlpack(array)
