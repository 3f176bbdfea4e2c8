"""A finished run, opened to be used: its configuration, its networks and what it says of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trudi.train import state
from trudi.train.agent import Agent
from trudi.train.checkpoint import LAST, Counters
from trudi.train.config import TrainCfg
from trudi.train.devices import configure_cpu
from trudi.train.envs.base import VectorEnv
from trudi.train.envs.registry import make_env
from trudi.train.errors import TrainError
from trudi.train.loop import make_agent
from trudi.train.runfolder import ABOUT, RunFolder

if TYPE_CHECKING:
    from trudi.train.ppo.agent import PpoAgent  # it imports rsl_rl


def agent_of(cfg: TrainCfg, env: VectorEnv, tensors: Mapping[str, torch.Tensor]) -> Agent | PpoAgent:
    """The networks of a run by any algorithm, shaped for `env`, with a checkpoint's numbers; what `make_act` takes.

    TrainError where they do not fit.
    """
    agent: Agent | PpoAgent
    if cfg.algo == "ppo":
        from trudi.train.ppo.agent import make_agent as make_ppo

        agent = make_ppo(cfg, env)
    else:
        agent = make_agent(cfg, env)
    state.load_agent(dict(tensors), agent)
    return agent.eval()


@dataclass(frozen=True)
class TrainedRun:
    """One checkpoint of a run, on the CPU."""

    folder: RunFolder
    cfg: TrainCfg
    counters: Counters
    agent: Agent
    control_period_s: float
    """Simulated seconds per action."""

    @classmethod
    def open(cls, path: Path, which: str = LAST) -> TrainedRun:
        """Checkpoint `which` (`last`, `best` or an iteration) of the run in `path`; TrainError where there is none."""
        folder = RunFolder.open(path)
        cfg = dataclasses.replace(folder.config(), device="cpu")
        if cfg.algo == "ppo":
            raise TrainError(
                f"{path} is a run of --algo ppo: its Gaussian policy has no denoising steps to export or distill"
            )
        configure_cpu()
        saved = folder.load_checkpoint(which)
        env = make_env(cfg.task, 1, 0, device=torch.device("cpu"), stagger=False, sim=cfg.sim)
        try:
            agent = make_agent(cfg, env)
            period = env.control_period_s
        finally:
            env.close()
        state.load_agent(dict(saved.tensors), agent)
        return cls(folder, cfg, saved.counters, agent.eval(), period)

    def about(self) -> dict[str, Any]:
        """Versions, machine and git state that the run wrote down when it started."""
        return json.loads((self.folder.path / ABOUT).read_text())

    def episodes(self, count: int, seed: int) -> VectorEnv:
        """A simulator for `count` evaluation episodes, seeded from `seed` on."""
        return make_env(self.cfg.task, count, seed, device=torch.device("cpu"), stagger=False, sim=self.cfg.sim)
