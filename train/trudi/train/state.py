"""The learner's whole state as one flat dictionary of tensors: what a checkpoint holds and what a retry goes back to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trudi.train.agent import Optimizers
from trudi.train.errors import TrainError

TensorDict = dict[str, Tensor]
Named = Optimizers | Mapping[str, torch.optim.Optimizer]


def capture(agent: nn.Module, optimizers: Named, generator: torch.Generator) -> TensorDict:
    """Copies of networks, normalisers, duals, optimiser moments and the random generator's state."""
    tensors = {f"agent.{key}": value.detach().clone() for key, value in agent.state_dict().items()}
    for name, optimizer in _named(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{name}.{index}.{key}": value.detach().clone() for key, value in moments.items()}
    tensors["generator"] = generator.get_state().clone()
    return tensors


def restore(tensors: TensorDict, agent: nn.Module, optimizers: Named, generator: torch.Generator) -> None:
    """Puts a captured state back; TrainError where it is another network's."""
    load_agent(tensors, agent)
    for name, optimizer in _named(optimizers):
        prefix = f"optim.{name}."
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(prefix):
                index, moment = key.removeprefix(prefix).split(".")
                moments.setdefault(int(index), {})[moment] = value.clone()
        whole: dict[str, Any] = optimizer.state_dict()
        whole["state"] = moments
        optimizer.load_state_dict(whole)
    generator.set_state(tensors["generator"].cpu())


def joined(tensors: TensorDict, others: Iterable[TensorDict]) -> TensorDict:
    """The first rank's captured state with what differs on each of the `others`, as `rank1.generator` and so on."""
    whole = dict(tensors)
    for rank, own in enumerate(others, start=1):
        whole |= {f"rank{rank}.{key}": value for key, value in own.items()}
    return whole


def of_rank(tensors: TensorDict, rank: int, size: int) -> TensorDict:
    """What `joined` put together, as rank number `rank` captured it; TrainError where it was of another number of ranks."""
    wrote = 1 + sum(key.startswith("rank") and key.endswith(".generator") for key in tensors)
    if wrote != size:
        raise TrainError(
            f"the checkpoint is of a training by {wrote} process(es), not by {size}: "
            + (f"go on with torchrun --nproc-per-node {wrote} and --distributed" if wrote > 1 else "leave out --distributed")
        )
    shared = {key: value for key, value in tensors.items() if not key.startswith("rank")}
    prefix = f"rank{rank}."
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if rank > 0:
        shared = {key: value for key, value in shared.items() if is_shared(key)}
    return shared | own


def is_shared(key: str) -> bool:
    """Whether all ranks have the same under a captured state's key."""
    return key.startswith(("agent.", "optim."))


def load_agent(tensors: TensorDict, agent: nn.Module) -> None:
    """The networks and statistics alone, as evaluation and export need them."""
    wanted = agent.state_dict()
    given = {key.removeprefix("agent."): value for key, value in tensors.items() if key.startswith("agent.")}
    for key, value in wanted.items():
        if key not in given:
            raise TrainError(f"the checkpoint lacks '{key}': it was written for another configuration")
        if given[key].shape != value.shape:
            found, expected = tuple(given[key].shape), tuple(value.shape)
            raise TrainError(f"the checkpoint's '{key}' has shape {found}, this configuration needs {expected}")
    if extra := sorted(set(given) - set(wanted)):
        raise TrainError(f"the checkpoint has '{extra[0]}', which this configuration does not know")
    agent.load_state_dict(given)


def _named(optimizers: Named) -> Iterable[tuple[str, torch.optim.Optimizer]]:
    if isinstance(optimizers, Optimizers):
        return (("actor", optimizers.actor), ("critic", optimizers.critic))
    return optimizers.items()
