"""TruDi on a GPU: is it the CPU's arithmetic, where does the time go, and how far is TF32 off.

   python benchmarks/gpu.py [--task mjlab:Mjlab-Velocity-Flat-Unitree-Go1] [--envs 1024 4096] [--out gpu.json]

- parity: one loss and gradient of actor and critic on the CPU and on the GPU, from the same weights, samples and noise;
- KL of a policy to itself, computed as the trust region does (0 but for rounding), in float32 and in TF32;
- parts: milliseconds of a simulator step, a chain of the policy, a critic's and an actor's gradient step, with memory.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trudi.train.agent import Agent
from trudi.train.config import TrainCfg, load_config
from trudi.train.envs.base import Observation
from trudi.train.loop import Learner
from trudi.train.policy import Noise
from trudi.train.rollout import Batch
from trudi.train.update import Draws, actor_terms, draw, minibatches, update_actor, update_critic

GPU = torch.device("cuda")


def milliseconds(work: Callable[[], object], rounds: int = 20) -> float:
    """Median of `rounds` runs, after three that warm up; the device is idle before and after each."""
    times: list[float] = []
    for _ in range(rounds + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[3:])


def moved(value: Any, device: torch.device) -> Any:
    """A dataclass of tensors, or a tensor, on another device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: moved(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return type(value)(**fields)
    return value


def samples(agent: Agent, count: int, critic_size: int) -> tuple[Batch, Draws]:
    """A batch as a rollout would give it, of random observations, and the noise of one actor step; on the CPU."""
    generator = torch.Generator().manual_seed(0)
    policy = agent.policy
    actor = torch.randn(count, policy.observation_size, generator=generator)
    seen = Observation(actor, torch.randn(count, critic_size, generator=generator))
    with torch.no_grad():
        chain = policy.sample(actor, policy.draw_noise(count, generator))
        target = torch.randn(count, generator=generator)
        _, features = agent.critic.evaluate(seen.critic, chain.action)
    batch = Batch(
        seen,
        chain.action,
        chain.states[:-1].transpose(0, 1),
        chain.means.transpose(0, 1),
        chain.stds.transpose(0, 1),
        target,
        features,
        torch.ones(count),
    )
    return batch, Draws(policy.draw_noise(count, generator), None, 1)


def gradients(agent: Agent, batch: Batch, draws: Draws, cfg: TrainCfg) -> dict[str, Tensor]:
    """Losses, KL and gradients of one actor and one critic step."""
    terms = actor_terms(agent, agent.critic, batch, draws, cfg.trust_region)
    policy = [parameter for parameter in agent.policy.parameters() if parameter.requires_grad]
    actor = torch.autograd.grad(terms.loss / len(batch), policy, materialize_grads=True)
    loss, _, _ = agent.critic.loss(batch.observation.critic, batch.action, batch.target, batch.next_features, batch.weight)
    critic = torch.autograd.grad(loss, list(agent.critic.parameters()), materialize_grads=True)
    return {
        "actor loss": terms.loss.detach() / len(batch),
        "actor gradient": torch.cat([each.flatten() for each in actor]),
        "critic loss": loss.detach(),
        "critic gradient": torch.cat([each.flatten() for each in critic]),
    }


def parity(learner: Learner) -> dict[str, dict[str, float]]:
    """Relative difference of each quantity between CPU and GPU, in float32 and TF32; KL of the policy to itself, in nats."""
    agent = copy.deepcopy(learner.agent).cpu()
    with torch.no_grad():  # a fresh score network is zero: give it something to be compared in
        generator = torch.Generator().manual_seed(1)
        for parameter in agent.policy.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    agent.sync_old_policy()
    batch, draws = samples(agent, 4096, learner.env.critic_size)
    double = copy.deepcopy(agent).double()
    exact = gradients(double, as_double(batch), as_double(draws), learner.cfg)
    on_gpu = copy.deepcopy(agent).to(GPU)
    found: dict[str, dict[str, float]] = {}
    for name in ("highest", "high"):
        torch.set_float32_matmul_precision(name)
        both = {
            "cpu": gradients(agent, batch, draws, learner.cfg),
            "gpu": gradients(on_gpu, moved(batch, GPU), moved(draws, GPU), learner.cfg),
        }
        for device, values in both.items():
            found[f"{device} {'float32' if name == 'highest' else 'tf32'}"] = {
                key: float((value.cpu().double() - exact[key]).norm() / exact[key].norm()) for key, value in values.items()
            } | {"KL to itself": own_kl(agent if device == "cpu" else on_gpu, batch)}
    torch.set_float32_matmul_precision("highest")
    return found


def own_kl(agent: Agent, batch: Batch) -> float:
    """Largest |KL| over states between a policy and itself: collected step by step, then all steps in one pass."""
    policy, device = agent.policy, agent.actor_norm.mean.device
    seen = batch.observation.actor.to(device)
    generator = torch.Generator(device=device).manual_seed(2)
    with torch.no_grad():
        chain = policy.sample(seen, policy.draw_noise(len(seen), generator))
        means, stds = policy.kernels(seen, chain.states[:-1])
        return float(((chain.means - means).square() / (2 * stds.square())).sum((0, -1)).max())


def as_double(value: Any) -> Any:
    """A dataclass of tensors in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (Batch, Draws, Noise, Observation)):
        return type(value)(**{field.name: as_double(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value


def parts(learner: Learner) -> dict[str, float]:
    """Milliseconds of each part, and of a whole iteration."""
    cfg, agent, generator = learner.cfg, learner.agent, learner.generator
    size = agent.policy.action_size
    action = torch.zeros(cfg.num_envs, size, device=GPU)
    seen = torch.zeros(cfg.num_envs, agent.policy.observation_size, device=GPU)

    @torch.no_grad()
    def sample() -> None:
        agent.policy.sample(seen, agent.policy.draw_noise(cfg.num_envs, generator))

    found = {"simulator step": milliseconds(lambda: learner.env.step(action)), "chain of the policy": milliseconds(sample)}
    started = time.perf_counter()
    learner.iterate()  # compiles and allocates
    found["first iteration"] = 1e3 * (time.perf_counter() - started)
    rollout = learner.collector.collect(cfg.rollout_steps)
    batch = rollout.to_batch(agent, cfg.gamma, cfg.lam)
    index = next(minibatches(len(batch), cfg.update, generator))
    target = cfg.duals.entropy_target(cfg.algo) * size
    found["critic gradient step"] = milliseconds(lambda: update_critic(agent.critic, learner.optimizers, batch[index]))
    agent.critic.requires_grad_(False)
    with ThreadPoolExecutor(1) as workers:

        def actor() -> None:
            drawn = draw(agent, len(index), cfg.trust_region, generator)
            update_actor(agent, learner.optimizers, agent.critic, batch[index], drawn, cfg.trust_region, target, workers, 1)

        found["actor gradient step"] = milliseconds(actor)
    agent.critic.requires_grad_(True)
    found["collect"] = milliseconds(lambda: learner.collector.collect(cfg.rollout_steps), rounds=2)
    found["iteration"] = milliseconds(learner.iterate, rounds=2)
    found["steps per s"] = cfg.steps_per_iteration / (found["iteration"] / 1e3)
    found["GPU memory (MB)"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mjlab_go1_flat")
    parser.add_argument("--envs", type=int, nargs="+", default=[4096])
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "parts": {}}
    for envs in args.envs:
        cfg = dataclasses.replace(load_config(args.config, None), num_envs=envs, device="cuda", tf32=args.tf32)
        started = time.perf_counter()
        learner = Learner(cfg)
        made = time.perf_counter() - started
        if "parity" not in result:
            result["parity"] = parity(learner)
            print(json.dumps(result["parity"], indent=1), flush=True)
        found = parts(learner) | {"made in s": made}
        result["parts"][str(envs)] = found
        print(envs, json.dumps(found, indent=1), flush=True)
        learner.close()
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
