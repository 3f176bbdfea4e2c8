"""How far the exported graph is from PyTorch: every size and step count on random weights, and a trained run with returns.

    python benchmarks/parity.py [--run RUN] [--observations 10000] [--episodes 32]

Errors are the largest absolute ones of any action in ONNX Runtime against PyTorch, float32 and float64. Returns are paired:
the same seeds with PyTorch and with the graph, zero noise. Writes benchmarks/parity.{json,md}; without --run, the rows of
the trained run stay as they were.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
from pathlib import Path

import numpy as np
import torch

from trudi.export.graph import Precision, build_graph
from trudi.export.recording import Reference, latent_rows
from trudi.runtime.bench import processor
from trudi.runtime.contract import Sampler
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.train.envs.base import Observation
from trudi.train.evaluation import run_episodes
from trudi.train.export_view import export_view
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy, PolicyCfg
from trudi.train.trained import TrainedRun

HERE = Path(__file__).parent
OBSERVATIONS, ACTIONS = 48, 12
CHUNK = 1000
SEED = 3_000_000


def random_policy(steps: int, width: int) -> tuple[DenoisingPolicy, RunningNorm, torch.Tensor, torch.Tensor]:
    torch.manual_seed(steps * 1000 + width)
    policy = DenoisingPolicy(PolicyCfg(steps=steps, width=width), OBSERVATIONS, ACTIONS)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) / (parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 1.0))
        policy.score.out.weight.add_(torch.randn_like(policy.score.out.weight) / width**0.5)
    norm = RunningNorm(OBSERVATIONS)
    mean, std = 3.0 * torch.randn(OBSERVATIONS), 0.02 + torch.rand(OBSERVATIONS)
    norm.update(mean + std * torch.randn(4096, OBSERVATIONS))
    return policy, norm, mean, std


def errors(policy, norm, steps, observation, precision: Precision) -> dict[str, float]:
    """Largest error against float32 and float64, over chunks."""
    latent = np.zeros(policy.action_size)
    model = build_graph(export_view(policy, norm, steps), latent=latent, batch=CHUNK, precision=precision)
    double = copy.deepcopy(policy).double()
    worst32 = worst64 = 0.0
    with OnnxEngine(model.SerializeToString(), OnnxCfg()) as engine, torch.no_grad():
        for part in observation.split(CHUNK):
            if len(part) < CHUNK:
                break
            action = engine.infer(part.numpy())
            zero = torch.zeros(CHUNK, policy.action_size)
            single = policy.sample_ode(norm(part), zero, steps)[0].numpy()
            exact = double.sample_ode(norm(part.double()), zero.double(), steps)[0].numpy()
            worst32 = max(worst32, float(np.abs(action - single).max()))
            worst64 = max(worst64, float(np.abs(action - exact).max()))
    return {"max_error_float32": worst32, "max_error_float64": worst64}


def random_rows(count: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for steps in (1, 4, 8, 16):
        for width in (128, 256, 512):
            policy, norm, mean, std = random_policy(steps, width)
            observation = mean + 2.0 * std * torch.randn(count, OBSERVATIONS)
            precisions = ("fp32", "fp16", "int8") if steps == 8 else ("fp32",)
            for precision in precisions:
                found = errors(policy, norm, steps, observation, precision)
                rows.append({"weights": "random", "steps": steps, "width": width, "precision": precision, **found})
                print(rows[-1], flush=True)
    return rows


def trained_rows(path: Path, count: int, episodes: int) -> list[dict[str, object]]:
    run = TrainedRun.open(path)
    policy, norm = run.agent.policy, run.agent.actor_norm
    rows: list[dict[str, object]] = []
    for steps in (1, 4, 8, 16):
        reference = Reference(policy, norm, steps)
        sampler = Sampler(network="teacher", steps=steps, ode=True, noise="zero", latent_std=policy.cfg.init_std)
        seen: list[torch.Tensor] = []

        def by_torch(observation: Observation, reference=reference, sampler=sampler, seen=seen) -> torch.Tensor:
            seen.append(observation.actor.clone())
            rows_ = latent_rows(sampler, None, len(observation.actor), policy.action_size)
            return reference.act(observation.actor, torch.from_numpy(rows_).float())

        torch_mean = run_episodes(run.episodes(episodes, SEED), by_torch).mean
        observation = torch.cat(seen)
        observation = observation[torch.linspace(0, len(observation) - 1, count).long()]
        for precision in ("fp32", "fp16", "int8") if steps == 8 else ("fp32",):
            model = build_graph(
                export_view(policy, norm, steps), latent=np.zeros(policy.action_size), batch=episodes, precision=precision
            )
            with OnnxEngine(model.SerializeToString()) as engine:
                act = lambda seen, engine=engine: torch.from_numpy(engine.infer(seen.actor.numpy()).copy())  # noqa: E731
                graph_mean = run_episodes(run.episodes(episodes, SEED), act).mean
            row = {
                "weights": f"{run.cfg.task}, iteration {run.counters.iteration}",
                "steps": steps,
                "width": policy.cfg.width,
                "precision": precision,
                **errors(policy, norm, steps, observation, precision),
                "return_torch": torch_mean,
                "return_graph": graph_mean,
                "difference_percent": 100.0 * (graph_mean - torch_mean) / torch_mean,
                "episodes": episodes,
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run")
    parser.add_argument("--observations", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=32)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    result = HERE / "parity.json"
    kept = [row for row in json.loads(result.read_text())["rows"] if "return_torch" in row] if result.exists() else []
    rows = random_rows(args.observations)
    rows += trained_rows(args.run, args.observations, args.episodes) if args.run else kept
    result.write_text(json.dumps({"processor": processor(), "rows": rows}, indent=2) + "\n")
    lines = [
        "# Parity of the exported graph",
        "",
        f"`python benchmarks/parity.py --run RUN` ({args.observations} observations) on {processor()}.",
        "Largest absolute action error in ONNX Runtime; returns on paired seeds, zero noise.",
        "",
        "| weights | steps | width | precision | to float32 | to float64 | return PyTorch | return graph | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        returns = "| | | |"
        if "return_torch" in row:
            returns = f"| {row['return_torch']:.2f} | {row['return_graph']:.2f} | {row['difference_percent']:+.3f} % |"
        lines.append(
            f"| {row['weights']} | {row['steps']} | {row['width']} | {row['precision']} | {row['max_error_float32']:.1e} | "
            f"{row['max_error_float64']:.1e} {returns}"
        )
    (HERE / "parity.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
