"""What several tests share: golden policies and a small agent with data."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trudi.train.agent import Agent, Algorithm, DualsCfg
from trudi.train.critic import CriticCfg
from trudi.train.envs.base import Observation
from trudi.train.loop import Learner
from trudi.train.policy import Chain, DenoisingPolicy, PolicyCfg
from trudi.train.rollout import Batch
from trudi.train.runfolder import METRICS, MetricsLog, RunFolder, read_metrics

DATA = Path(__file__).parent / "data"


def run_in(path, cfg, resume=None, before=None, kind=Learner):
    """Trains in this process; returns the loop after its end. `before` is shown it before it starts."""
    folder = RunFolder.create(path, cfg) if resume is None else RunFolder.open(path)
    loop = kind(cfg, resume)
    if before is not None:
        before(loop)
    log = MetricsLog(folder, loop.counters.iteration)
    try:
        loop.train(folder.checkpoints, log, lambda progress: None)
    finally:
        log.close()
        loop.close()
    return loop


def tensors(path, which="last"):
    """A checkpoint of the run in `path`."""
    return dict(RunFolder.open(path).load_checkpoint(which).tensors)


def without_clock(path):
    """A run's metrics but for its times."""
    rows = read_metrics(path / METRICS)
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def golden(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
        loaded = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in loaded.items()}


def golden_policy(data: dict[str, Tensor], which: str) -> DenoisingPolicy:
    """The policy whose parameters a golden file lists under `new` or `old`."""
    mine = {key.removeprefix(f"{which}/"): value for key, value in data.items() if key.startswith(f"{which}/")}
    hidden = sum(key.endswith(".norm.weight") for key in mine)
    cfg = PolicyCfg(
        steps=int(data["steps"]),
        init_std=float(data["init_std"]),
        width=len(mine["net.0.bias"]),
        layers=hidden + 2,
        frequencies=len(mine["time.freq"]),
        time_width=len(mine["time.0.bias"]),
        time_embedding=len(mine["time.1.bias"]),
    )
    policy = DenoisingPolicy(cfg, data["obs"].shape[1], data["x0"].shape[1]).to(data["obs"].dtype)
    names = {"score.embedding.hidden": "time.0", "score.embedding.out": "time.1", "score.input": "net.0"}
    names |= {"score.out": "net.out"}
    names |= {f"score.middle.{i}": f"net.{i + 1}" for i in range(hidden)}
    names |= {f"score.norms.{i}": f"net.{i + 1}.norm" for i in range(hidden)}
    weights = {f"{ours}.{kind}": mine[f"{theirs}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")}
    weights |= {"score.embedding.frequency": mine["time.freq"], "score.embedding.phase": mine["time.phase"]}
    weights |= {"raw_friction": mine["friction"], "raw_dt": mine["dt"]}
    schedule = DenoisingPolicy(cfg, 1, 1).schedule if data["obs"].dtype == torch.float32 else double_schedule(cfg)
    policy.load_state_dict(weights | {"schedule": schedule})
    return policy


def double_schedule(cfg: PolicyCfg) -> Tensor:
    from trudi.train.policy import cosine_schedule

    return cosine_schedule(cfg.steps)


def along(chain: Chain) -> list[Tensor]:
    """A chain's states, means and deviations as the trust region takes them (batch, K = 1, N, actions)."""
    return [tensor.transpose(0, 1)[:, None] for tensor in (chain.states[:-1], chain.means, chain.stds)]


def small_agent(
    seed: int = 0, *, actor_size: int = 4, critic_size: int = 5, action_size: int = 2, algo: Algorithm = "trudi"
) -> Agent:
    """A small agent whose policy is not the prior (the output layer has weights)."""
    torch.manual_seed(seed)
    agent = Agent(
        PolicyCfg(steps=4, width=16, frequencies=8),
        CriticCfg(width=16, v_min=-5.0, v_max=5.0, bins=21),
        DualsCfg(),
        actor_size=actor_size,
        critic_size=critic_size,
        action_size=action_size,
        algo=algo,
    )
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for parameter in agent.critic.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    agent.sync_old_policy()
    return agent


def small_batch(agent: Agent, count: int, seed: int = 0) -> Batch:
    """Samples acted by the agent's old policy, with random observations and targets."""
    generator = torch.Generator().manual_seed(seed)
    kind = next(agent.policy.parameters()).dtype
    actor = torch.randn(count, agent.policy.observation_size, generator=generator).to(kind)
    critic = torch.randn(count, agent.critic_norm.mean.shape[0], generator=generator).to(kind)
    with torch.no_grad():
        chain = agent.old_policy.sample(actor, agent.old_policy.draw_noise(count, generator))
    return Batch(
        Observation(actor, critic),
        chain.action,
        chain.states[:-1].transpose(0, 1),
        chain.means.transpose(0, 1),
        chain.stds.transpose(0, 1),
        torch.randn(count, generator=generator).to(kind),
        torch.randn(count, agent.critic.cfg.width, generator=generator).to(kind),
        torch.ones(count, dtype=kind),
    )
