"""Paired episodes: the same seeds and latents, once with PyTorch and once with a bundle's graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trudi.export.errors import ExportError
from trudi.export.recording import Reference, latent_rows, latent_source, record_episodes
from trudi.runtime.bundle import Bundle
from trudi.runtime.engines.base import Engine
from trudi.runtime.engines.onnx import OnnxEngine
from trudi.train.envs.base import Observation
from trudi.train.evaluation import EvalResult, run_episodes
from trudi.train.trained import TrainedRun


def paired_returns(run: Path, bundle: Bundle, episodes: int, seed: int) -> tuple[float, float]:
    """Mean returns with PyTorch and with the graph in ONNX Runtime; ExportError where the bundle is of another run."""
    contract = bundle.contract
    trained = TrainedRun.open(run, str(contract.provenance.iteration))
    task = f"{contract.task.backend}:{contract.task.id}"
    if (trained.cfg.task, trained.cfg.seed) != (task, contract.provenance.seed):
        raise ExportError(
            f"the bundle is of {task} with seed {contract.provenance.seed}, "
            f"{run} is of {trained.cfg.task} with seed {trained.cfg.seed}"
        )
    sampler = contract.sampler
    reference = Reference(trained.agent.denoising, trained.agent.actor_norm, sampler.steps)
    by_torch = record_episodes(trained, reference, sampler, episodes, seed).result
    with OnnxEngine(bundle.read(contract.graph.file)) as engine:
        by_graph = run_graph(trained, engine, bundle, episodes, seed)
    return by_torch.mean, by_graph.mean


def run_graph(trained: TrainedRun, engine: Engine, bundle: Bundle, episodes: int, seed: int) -> EvalResult:
    """Episodes with an engine, in chunks of its batch."""
    contract = bundle.contract
    source = latent_source(contract.sampler, contract.action.size)

    def act(observation: Observation) -> Tensor:
        seen = observation.actor.numpy()
        latents = latent_rows(contract.sampler, source, len(seen), engine.action_size).astype(np.float32)
        actions = np.empty((len(seen), engine.action_size), np.float32)
        for start in range(0, len(seen), engine.batch):
            rows = np.minimum(np.arange(start, start + engine.batch), len(seen) - 1)
            result = engine.infer(seen[rows], latents[rows] if engine.takes_latent else None)
            actions[rows] = result
        return torch.from_numpy(actions)

    return run_episodes(trained.episodes(episodes, seed), act)
