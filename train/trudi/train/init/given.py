"""Policies to start from, all alike to the cloning: what they do at an observation, and how much noise is around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trudi.runtime.engines.onnx import import_onnxruntime
from trudi.train import checkpoint, state
from trudi.train.agent import Agent
from trudi.train.config import TrainCfg
from trudi.train.envs.base import Bounded, Observation, VectorEnv
from trudi.train.errors import TrainError
from trudi.train.loop import make_agent
from trudi.train.runfolder import RunFolder

LIMIT = 0.95
"""Largest action that a clone is asked for: of 1 the atanh is infinite, and noise before tanh would not change the action:
no critic could learn what another one does."""
LEAST_STD = 0.05
"""Before tanh: less than this the last denoising steps would have to undo their own noise."""
DEFAULT_STD = 0.3


@dataclass(frozen=True)
class Source:
    """Where a given policy is from, as a run's init.json says it."""

    policy: str
    """As the user named it."""
    kind: str
    """`onnx`, or a run's algorithm."""
    sha256: str
    """Of the ONNX file, or of the checkpoint's tensors."""


@dataclass(frozen=True)
class Given:
    """A policy to start from: pi(a | s) = tanh of a Gaussian around what it does."""

    source: Source
    act: Callable[[Tensor], Tensor]
    """Its action without noise at observations of the simulator (envs, observations), not normalised, in units of the
    simulator's bounds (envs, actions). It may lie beyond -1 and 1."""
    std: Callable[[Tensor], Tensor]
    """The noise around it at such observations, before tanh; broadcasts with (envs, actions)."""
    agent: Agent | None = None
    """Of a run whose policy is of this package's own kinds."""

    def gaussian(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its action in [-1, 1], then mean and standard deviation before tanh, each (envs, actions).

        TrainError where an action is not finite.
        """
        action = self.act(observation)
        if not bool(torch.isfinite(action).all()):
            raise TrainError(f"{self.source.policy} gives actions that are not finite, at observations of this simulator")
        mean = torch.atanh(action.clamp(-LIMIT, LIMIT))
        return action.clamp(-1.0, 1.0), mean, self.std(observation).clamp_min(LEAST_STD).expand_as(mean)


def open_given(cfg: TrainCfg, env: VectorEnv) -> Given:
    """The policy that `cfg.init` names, for the sizes of `env`; TrainError where it is none, or does not fit."""
    name = cfg.init.policy
    if name is None:
        raise TrainError("there is no policy to start from: init.policy names none")
    path = Path(name)
    if path.is_dir():
        return _of_run(cfg, RunFolder.open(path), env)
    if not path.is_file():
        raise TrainError(f"no policy to start from at {name}: it is neither a run folder nor an ONNX file")
    return _of_onnx(cfg, path, env)


def _of_run(cfg: TrainCfg, folder: RunFolder, env: VectorEnv) -> Given:
    theirs = folder.config()
    if theirs.task != cfg.task:
        raise TrainError(
            f"{folder.path} is a run of {theirs.task}, not of {cfg.task}: its observations may mean other things"
        )
    if theirs.sim.action_bound != cfg.sim.action_bound:
        raise TrainError(
            f"{folder.path} was trained with sim.action_bound {theirs.sim.action_bound}, this run has "
            f"{cfg.sim.action_bound}: its actions would mean others; give both the same"
        )
    found = checkpoint.find(folder.checkpoints, cfg.init.checkpoint)
    tensors = dict(checkpoint.load(found).tensors)
    source = Source(str(cfg.init.policy), theirs.algo, _sha256(found / checkpoint.TENSORS))
    try:
        return (
            _of_ppo(cfg, theirs, tensors, source, env)
            if theirs.algo == "ppo"
            else _of_agent(cfg, theirs, tensors, source, env)
        )
    except TrainError as error:
        raise TrainError(f"{folder.path} does not fit {cfg.task} as it is set up here: {error}") from None


def _of_ppo(cfg: TrainCfg, theirs: TrainCfg, tensors: state.TensorDict, source: Source, env: VectorEnv) -> Given:
    from trudi.train.ppo.agent import grouped
    from trudi.train.ppo.agent import make_agent as make_ppo

    agent = make_ppo(theirs, env).eval()
    state.load_agent(tensors, agent)

    def act(observation: Tensor) -> Tensor:
        return agent.actor(grouped(Observation(observation, observation)))

    return Given(source, act, _fixed(cfg, env, agent.std))


def _of_agent(cfg: TrainCfg, theirs: TrainCfg, tensors: state.TensorDict, source: Source, env: VectorEnv) -> Given:
    agent = make_agent(theirs, env).eval()
    state.load_agent(tensors, agent)
    policy = agent.policy

    def act(observation: Tensor) -> Tensor:
        return policy.sample_ode(agent.actor_norm(observation), observation.new_zeros(len(observation), env.action_size))[0]

    def own_std(observation: Tensor) -> Tensor:
        return policy.kernels(agent.actor_norm(observation), observation.new_zeros(1, len(observation), env.action_size))[1][
            0
        ]

    is_gaussian = theirs.algo == "reppo" and cfg.init.std is None
    return Given(source, act, own_std if is_gaussian else _fixed(cfg, env), agent)


def _of_onnx(cfg: TrainCfg, path: Path, env: VectorEnv) -> Given:
    session = _session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        ports = f"inputs {', '.join(one.name for one in inputs)}; outputs {', '.join(one.name for one in outputs)}"
        raise TrainError(
            f"{path} has not one input and one output ({ports}): policies with a memory, or with more to tell than actions, "
            "cannot be cloned"
        )
    _require_size(path, "observations", inputs[0].shape, env.actor_size)
    _require_size(path, "actions", outputs[0].shape, env.action_size)
    _require_order(path, session.get_modelmeta().custom_metadata_map, env)
    is_single, (wants, gives) = inputs[0].shape[0] == 1, (inputs[0].name, outputs[0].name)

    def act(observation: Tensor) -> Tensor:
        seen = observation.detach().cpu().numpy().astype(np.float32)
        batches = np.split(seen, len(seen)) if is_single else [seen]  # rsl_rl exports graphs for one robot
        try:
            raw = np.concatenate([session.run([gives], {wants: batch})[0] for batch in batches])
        except Exception as error:  # ONNX Runtime's own kinds, one for each cause
            raise TrainError(f"{path} cannot be run by ONNX Runtime: {str(error).splitlines()[0]}") from None
        if raw.shape != (len(seen), env.action_size):
            raise TrainError(
                f"{path} gives actions of shape {raw.shape} for {len(seen)} observations; the simulator takes "
                f"{env.action_size} each"
            )
        return _in_units(torch.from_numpy(raw).to(observation), env)

    return Given(Source(str(cfg.init.policy), "onnx", _sha256(path)), act, _fixed(cfg, env))


def _session(path: Path) -> Any:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own kinds, one for each cause
        raise TrainError(f"{path} is no ONNX file that ONNX Runtime can load: {str(error).splitlines()[0]}") from None


def _require_size(path: Path, what: str, shape: list[Any], size: int) -> None:
    """`shape` is (1 or any, size), where a size that is not a number is told at the first call."""
    if len(shape) != 2:
        raise TrainError(f"{path} has {what} of shape {shape}; (1 or N, {size}) is needed")
    if isinstance(shape[1], int) and shape[1] != size:
        raise TrainError(f"{path} has {shape[1]} {what}, the simulator {size}: it is a policy of another task")


def _require_order(path: Path, metadata: dict[str, str], env: VectorEnv) -> None:
    """TrainError where an export of mjlab's says that its observations stand in another order than the simulator's."""
    if not isinstance(env, Bounded):
        return
    theirs = [name for name in metadata.get("observation_names", "").split(",") if name]
    ours = [name.rsplit(".", 1)[-1] for name in env.info.actor]
    if theirs and len(ours) > 1 and theirs != ours:
        raise TrainError(f"{path} says its observations are {', '.join(theirs)}; those of {env.task} are {', '.join(ours)}")


def _in_units(raw: Tensor, env: VectorEnv) -> Tensor:
    """Raw actions as the policy's [-1, 1] means them, where the simulator is one of raw actions."""
    if not isinstance(env, Bounded):
        return raw
    return (2.0 * raw - (env.action_low + env.action_high)) / (env.action_high - env.action_low)


def _fixed(cfg: TrainCfg, env: VectorEnv, own: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """The same noise everywhere: as set, else its `own` (actions,), else the default."""
    if own is None or cfg.init.std is not None:
        own = torch.tensor(DEFAULT_STD if cfg.init.std is None else cfg.init.std, device=env.device)
    std = own.detach().clone()
    return lambda observation: std


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
