"""What each of two ranks does for tests/train/test_distributed.py: `torchrun --nproc-per-node 2 tests/two_ranks.py OUT`."""

import copy
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from support import small_agent, small_batch

from trudi.train import state
from trudi.train.agent import OptimCfg, Optimizers
from trudi.train.commands import train as command
from trudi.train.config import TrainCfg
from trudi.train.critic import CriticCfg
from trudi.train.distributed import ALONE, joined
from trudi.train.envs.base import Observation
from trudi.train.errors import TrainError
from trudi.train.evaluation import EvalCfg
from trudi.train.loop import Learner
from trudi.train.policy import PolicyCfg
from trudi.train.trust_region import TrustRegionCfg
from trudi.train.update import NonFiniteError, UpdateCfg, draw, update_actor, update_critic

# With the norm that gradients are clipped to: the critic's are about 2 here, the actor's 0.04.
SETTINGS = {
    "full": (TrustRegionCfg(bound=3e-3), 2.0),
    "fresh": (TrustRegionCfg(bound=3e-3, chains="fresh", chains_per_state=2), 0.04),
    "reverse": (TrustRegionCfg(bound=3e-3, direction="reverse"), 0.04),
}
CASES = [(name, torch.float64) for name in SETTINGS] + [("full", torch.float32)]
SAMPLES, STEPS = 48, 12
RUN = TrainCfg(
    task="envpool:CartpoleSwingup-v1",
    num_envs=8,
    rollout_steps=16,
    max_iterations=4,
    save_every=2,
    keep_checkpoints=10,
    policy=PolicyCfg(width=16, steps=4),
    critic=CriticCfg(width=16, bins=51),
    update=UpdateCfg(epochs=2, minibatch_size=32),
    evaluation=EvalCfg(every=2, episodes=1),
)


def learned(name, kind, ranks=ALONE):
    """Everything that learns, after gradient steps of critic, actor and duals and updates of the statistics.

    Batches and random numbers are the same for any number of ranks: each takes its share of the rows. The critic may
    not learn from five of the first rank's samples, so the ranks count differently there.
    """
    torch.set_num_threads(1)
    agent = small_agent().to(kind)
    torch.manual_seed(1)
    with torch.no_grad():  # away from the old policy: some states are inside the bound, some outside
        for parameter in agent.policy.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter) * parameter.abs().mean())
    region, max_norm = SETTINGS[name]
    optimizers = Optimizers(agent, OptimCfg(learning_rate=1e-3, max_grad_norm=max_norm), ranks)
    share = SAMPLES // ranks.size
    rows = slice(ranks.rank * share, (ranks.rank + 1) * share)
    generator = torch.Generator().manual_seed(7)
    seen = []
    with ThreadPoolExecutor(1) as workers:
        for step in range(STEPS):
            batch = small_batch(agent, SAMPLES, seed=step // 2)
            batch.weight[:5] = 0.0
            part = batch[rows]
            critic = update_critic(agent.critic, optimizers, part)
            frozen = copy.deepcopy(agent.critic).requires_grad_(False)
            draws = draw(agent, SAMPLES, region, generator)[rows]
            metrics = update_actor(agent, optimizers, frozen, part, draws, region, -2.0, workers, 1)
            norms = [metrics["actor/outside_fraction"], metrics["actor/grad_norm"], critic["critic/grad_norm"]]
            seen.append(torch.stack([each.to(kind) for each in norms]))
            raw = 3.0 + step * torch.randn(SAMPLES, 9, generator=generator)
            agent.update_normalizers(Observation(raw[rows, :4], raw[rows, 4:]), ranks)
    tensors = state.capture(agent, optimizers, generator)
    return tensors | {"seen": torch.stack(seen)}


def agreed(ranks):
    """What this rank hears of the other one."""
    heard = {
        "any": [ranks.is_any(ranks.rank == 1), ranks.is_any(False)],
        "first": ranks.of_first(lambda: f"made by {ranks.rank}"),
        "bits": [],
    }
    try:
        with ranks.sharing(NonFiniteError):
            if ranks.rank == 1:
                raise NonFiniteError("reward is not finite")
    except NonFiniteError as error:
        heard["error"] = str(error)
    for nudge in (0.0, 1e-7):
        try:
            ranks.require_same({"weight": torch.ones(3) + ranks.rank * nudge}, "networks")
            heard["bits"].append("same")
        except TrainError as error:
            heard["bits"].append(str(error))
    return heard


class Watched(Learner):
    """Has a reward of NaN once, on the second rank alone; leaves behind where each rank ended."""

    out = Path()
    retried = None

    def start_collecting(self):
        super().start_collecting()
        if self.ranks.rank == 1 and self.counters.iteration == self.attempt == 0:
            collect = self.collector.collect

            def poisoned(steps):
                rollout = collect(steps)
                rollout.reward[0, 0] = float("nan")
                return rollout

            self.collector.collect = poisoned

    def go_back(self, checkpoints, good, error):
        self.retried = str(error)
        super().go_back(checkpoints, good, error)

    def close(self):
        save_file(self.capture(), self.out / f"end{self.ranks.rank}.safetensors", {"retried": str(self.retried)})
        super().close()


def main(out):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, when the other one has ended
    with joined("cpu") as ranks:
        found = {f"{name} {kind}/{key}": x for name, kind in CASES for key, x in learned(name, kind, ranks).items()}
        save_file(found, out / f"rank{ranks.rank}.safetensors")
        heard = agreed(ranks)
        Watched.out, command.Learner = out, Watched
        command.train(command.TrainArgs(RUN, out=out / "run", distributed=True), None, ranks)
        if ranks.rank == 1:
            os._exit(3)
        try:
            ranks.average([torch.zeros(2)])
        except TrainError as error:
            heard["end"] = str(error)
        (out / "heard.json").write_text(json.dumps(heard))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
