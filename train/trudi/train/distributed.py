"""Several processes that train together, a GPU each: data-parallel, started by torchrun.

Every process, a rank, simulates environments of its own and holds the same networks:

| what | over the ranks |
|---|---|
| first weights, after each checkpoint too | compared, a difference is an error (`require_same`) |
| simulator, noise, order of minibatches | a seed of its own each (`generator_seed`, `loop.simulator_seed`) |
| gradients of policy, duals and critic | averaged (`Ranks.average`), then clipped: every rank takes the same step |
| observation statistics | every rank merges all ranks' batches, in the order of ranks (`Ranks.gather`) |
| metrics | `combined` |
| signals, values that are not finite | what one rank meets, all act on (`Ranks.is_any`, `Ranks.sharing`) |
| run folder, display, evaluations | the first rank's alone (`Ranks.of_first`) |

All ranks must call these in the same order, or they wait for each other for ever. So one thread calls them, and what decides
whether they are called is the same everywhere. Two groups for two threads would not do: NCCL allows one at a time ("Using
multiple NCCL communicators concurrently", NCCL's user guide).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from trudi.train.devices import pick_device
from trudi.train.errors import TrainError

ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
HOW = "torchrun --nproc-per-node 2 -m trudi.train TASK --distributed"
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another one: an evaluation, or the start of a large simulator, may come between."""

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


class Ranks:
    """The processes of a training; this class is one process alone, which has nothing to wait for."""

    rank: int = 0
    """This process's place among them."""
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, shows and evaluates."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Where this process computes for a `--device` of `name`; TrainError as `pick_device`."""
        return pick_device(name)

    def exchange(self, value: T) -> list[T]:
        """Every rank's `value`, in the order of ranks. It is pickled: tensors must be on the CPU."""
        return [value]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's `tensor`, in the order of ranks; all of one shape."""
        return [tensor]

    def average(self, tensors: Sequence[Tensor], weight: Tensor | None = None) -> None:
        """Puts the ranks' mean in place of each tensor.

        With `weight` (samples,), ranks count by the sum of their weights: of means over a rank's samples, which they weigh,
        comes the mean over all samples.
        """

    def is_any(self, here: bool) -> bool:
        """Whether something is so on any rank."""
        return any(self.exchange(here))

    def of_first(self, make: Callable[[], T]) -> T:
        """What `make` gives the first rank, where alone it is called. It is pickled."""
        found = self.exchange(make() if self.is_first else None)[0]
        return found  # pyright: ignore[reportReturnType] - the first rank's is a T

    @contextmanager
    def sharing(self, kind: type[E]) -> Generator[None]:
        """An error of this kind, inside the block of any rank, is raised by all of them at the block's end.

        The block may hold no other call of these methods behind a place where such an error comes from.
        """
        mine: E | None = None
        try:
            yield
        except kind as error:
            mine = error
        told = self.exchange(None if mine is None else str(mine))
        if mine is not None:
            raise mine
        for rank, text in enumerate(told):
            if text is not None:
                raise kind(f"{text} (process {rank} of {self.size})")

    def require_same(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """TrainError where the ranks' tensors are not equal to the last bit; `what` names them."""
        if self.size > 1 and len(set(self.exchange(fingerprint(tensors)))) > 1:
            raise TrainError(
                f"the processes' {what} are not the same: they need the same versions of everything, and devices of one kind"
            )


ALONE = Ranks()


class TorchRanks(Ranks):
    """The processes that torchrun started, joined by torch.distributed: NCCL between GPUs, Gloo between CPUs."""

    def __init__(self, rank: int, size: int, local_rank: int) -> None:
        self.rank, self.size, self._local_rank = rank, size, local_rank

    def device(self, name: str) -> torch.device:
        """`cpu`, or the GPU of this process's number on its machine; TrainError where another one is asked for."""
        device = pick_device(name)
        if device.type == "cpu":
            return device
        if device.index not in (None, self._local_rank):
            raise TrainError(
                f"--device {name}: each process has a GPU of its own with --distributed, cuda:{self._local_rank} here; "
                "say --device cuda"
            )
        return torch.device("cuda", self._local_rank)

    def exchange(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with _named():
            dist.all_gather_object(values, value)
        return values

    def gather(self, tensor: Tensor) -> list[Tensor]:
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with _named():
            dist.all_gather(tensors, tensor.contiguous())
        return tensors

    def average(self, tensors: Sequence[Tensor], weight: Tensor | None = None) -> None:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        share = flat.new_ones(1) if weight is None else weight.sum().to(flat.dtype).view(1)
        total = torch.cat([flat * share, share])
        with _named():
            dist.all_reduce(total)
        mean = total[:-1] / total[-1].clamp_min(1.0)
        for tensor, part in zip(tensors, mean.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def joined(device: str) -> Generator[TorchRanks]:
    """The ranks that torchrun started, together inside the block; `device` is the `--device` flag.

    TrainError where this is no process of torchrun's, where GPUs or NCCL are missing, and where the others do not come.
    """
    if missing := [name for name in ENVIRONMENT if name not in os.environ]:
        raise TrainError(f"--distributed: torchrun did not start this process ({missing[0]} is not set); use `{HOW}`")
    rank, size, local_rank = (int(os.environ[name]) for name in ENVIRONMENT[:3])
    ranks = TorchRanks(rank, size, local_rank)
    own = ranks.device(device)
    if own.type == "cuda":
        _require_gpus(local_rank)
        torch.cuda.set_device(own)
    try:
        # Objects go between CPUs in any case: small news need not wait for what a GPU has been given to do.
        dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainError(f"the {size} processes could not meet at {where}: {_short(error)}") from None
    yield ranks
    dist.destroy_process_group()  # After an error, the end of the process tells the others sooner.


def require_alone() -> None:
    """TrainError where torchrun started several processes and nothing says that they belong together."""
    size = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and size != "1":
        raise TrainError(f"torchrun started {size} processes: add --distributed, or each would train for itself")


def generator_seed(seed: int, rank: int) -> int:
    """The seed of a rank's noise and minibatches: the run's own for the first."""
    if rank == 0:
        return seed
    return int(np.random.SeedSequence(seed, spawn_key=(rank,)).generate_state(1, np.uint64)[0] >> 1)


def combined(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One set of metrics from every rank's.

    The sum of `steps_per_s`, the largest of those that end in `_max`, the mean of others over the ranks that have them.
    """
    rows: dict[str, list[float]] = {}
    for row in metrics:
        for key, value in row.items():
            rows.setdefault(key, []).append(value)
    return {key: _combine(key, values) for key, values in rows.items()}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names and bytes, in alphabetical order: what was loaded from a file comes in any."""
    digest = sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _combine(key: str, values: Sequence[float]) -> float:
    if key.endswith("_max"):
        return max(values)
    return sum(values) if key.endswith("steps_per_s") else sum(values) / len(values)


def _require_gpus(local_rank: int) -> None:
    found, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1))
    if wanted > found:
        raise TrainError(f"{wanted} processes for {found} GPU(s) on this machine: --nproc-per-node {found}, or --device cpu")
    if not dist.is_nccl_available():
        raise TrainError("--distributed on GPUs needs NCCL, which this build of torch lacks: use torch for Linux with CUDA")


@contextmanager
def _named() -> Generator[None]:
    """Says what it means that a collective call fails: the connection is gone, or nothing came in time."""
    try:
        yield
    except RuntimeError as error:
        raise TrainError(
            "another process of this training ended, or did not answer within "
            f"{TIMEOUT.total_seconds() / 60:.0f} minutes; its own message may say why ({_short(error)})"
        ) from None


def _short(error: Exception) -> str:
    """The first sentence of an error: of Gloo's, what follows is a guess."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
