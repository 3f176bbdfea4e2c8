"""One iteration's update: E epochs of minibatches, critic then actor on each."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from trudi.train.agent import Agent, Optimizers
from trudi.train.critic import Critic
from trudi.train.errors import TrainError
from trudi.train.policy import Noise
from trudi.train.rollout import Batch
from trudi.train.trust_region import TrustRegionCfg, forward_kl, fresh_chains, reverse_kl

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class UpdateCfg:
    """How an iteration's samples are used."""

    epochs: int = 4
    """Passes over the samples, each in a new order."""
    minibatch_size: int = 512
    """Samples per gradient step; the last, smaller minibatch of an epoch is dropped."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatch_size < 1:
            raise TrainError(f"update.epochs is {self.epochs}, minibatch_size {self.minibatch_size}; both need at least 1")


class NonFiniteError(ArithmeticError):
    """A quantity became infinite or NaN; the text names it."""


def require_finite(values: Mapping[str, Tensor]) -> None:
    """Raises NonFiniteError naming the first of `values` that holds an infinity or a NaN."""
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"{name} is not finite")


class CriticAhead:
    """Runs the critic's gradient steps in a second thread, a few minibatches ahead of the actor's.

    Targets are fixed for an iteration, so the critic never waits for the actor; the actor's step i needs the critic after
    its step i, which it gets as a copy. The result is the sequential algorithm's, bit for bit, on two cores.

    Where several ranks train together it is the sequential algorithm: two threads that average gradients, each in its own
    time, would have no order that all ranks share.
    """

    DEPTH = 2

    def __init__(self, agent: Agent, optimizers: Optimizers, batch: Batch) -> None:
        self._agent, self._optimizers, self._batch = agent, optimizers, batch
        self._view = copy.deepcopy(agent.critic).requires_grad_(False)

    def run(self, minibatches: Iterable[Tensor]) -> Iterator[tuple[Batch, Critic, Metrics]]:
        """Yields each minibatch with the critic as it is after learning from it, parameters frozen."""
        if self._optimizers.ranks.size > 1:
            yield from (self._show(*self._step(index)) for index in minibatches)
            return
        with ThreadPoolExecutor(max_workers=1) as worker:
            ahead: deque[Future[tuple[Batch, list[Tensor], Metrics]]] = deque()
            for index in minibatches:
                ahead.append(worker.submit(self._step, index))
                if len(ahead) > self.DEPTH:
                    yield self._show(*ahead.popleft().result())
            while ahead:
                yield self._show(*ahead.popleft().result())

    def _step(self, index: Tensor) -> tuple[Batch, list[Tensor], Metrics]:
        part = self._batch[index]
        metrics = update_critic(self._agent.critic, self._optimizers, part)
        return part, [parameter.detach().clone() for parameter in self._agent.critic.parameters()], metrics

    def _show(self, part: Batch, parameters: list[Tensor], metrics: Metrics) -> tuple[Batch, Critic, Metrics]:
        for mine, fresh in zip(self._view.parameters(), parameters, strict=True):
            mine.data = fresh
        return part, self._view, metrics


def minibatches(count: int, cfg: UpdateCfg, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of every minibatch of all epochs, each epoch a fresh permutation; a smaller last one is dropped."""
    size = min(cfg.minibatch_size, count)
    for _ in range(cfg.epochs):
        order = torch.randperm(count, generator=generator, device=generator.device)
        yield from order[: count // size * size].split(size)


def update(
    agent: Agent,
    optimizers: Optimizers,
    batch: Batch,
    cfg: UpdateCfg,
    region: TrustRegionCfg,
    entropy_target: float,
    generator: torch.Generator,
    shards: int = 1,
) -> Metrics:
    """E epochs of minibatches, critic then actor on each; returns every metric averaged over the minibatches.

    The actor's minibatches are worked on in `shards` threads. How many there are changes results in the last bits only.
    """
    records: list[Metrics] = []
    indices = list(minibatches(len(batch), cfg, generator))
    with ThreadPoolExecutor(max_workers=shards) as workers:
        for part, critic, metrics in CriticAhead(agent, optimizers, batch).run(indices):
            draws = draw(agent, len(part), region, generator)
            records.append(
                metrics | update_actor(agent, optimizers, critic, part, draws, region, entropy_target, workers, shards)
            )
    require_finite_records(records)
    require_finite({f"parameter {name}": parameter for name, parameter in agent.named_parameters()})
    return {key: torch.stack([record[key] for record in records]).mean() for key in records[0]}


def learn_critic(agent: Agent, optimizers: Optimizers, batch: Batch, cfg: UpdateCfg, generator: torch.Generator) -> Metrics:
    """As `update`, with policy and duals held: the critic's steps alone, and what the policy's metrics are then."""
    records = [update_critic(agent.critic, optimizers, batch[index]) for index in minibatches(len(batch), cfg, generator)]
    require_finite_records(records)
    require_finite({f"parameter {name}": parameter for name, parameter in agent.critic.named_parameters()})
    with torch.no_grad():
        chain = agent.policy.sample(batch.observation.actor, agent.policy.draw_noise(len(batch), generator))
    zero = torch.zeros_like(batch.target[0])
    held = {f"actor/{name}": zero for name in ("kl", "kl_max", "outside_fraction", "grad_norm")}
    held |= {"actor/loss": (agent.duals.alpha.detach() * chain.log_prob).mean(), "actor/entropy": -chain.run_cost.mean()}
    held |= {"duals/alpha": agent.duals.alpha.detach(), "duals/lambda": agent.duals.lam.detach()}
    return held | {key: torch.stack([record[key] for record in records]).mean() for key in records[0]}


def require_finite_records(records: list[Metrics]) -> None:
    """Raises NonFiniteError naming the first minibatch, and in it the first metric, that is not finite."""
    keys = list(records[0])
    finite = torch.isfinite(torch.stack([torch.stack([record[key] for key in keys]) for record in records]))
    if not bool(finite.all()):
        minibatch = int((~finite).any(1).nonzero()[0])
        key = keys[int((~finite[minibatch]).nonzero()[0])]
        raise NonFiniteError(f"{key} is not finite in minibatch {minibatch + 1} of {len(records)}")


def update_critic(critic: Critic, optimizers: Optimizers, batch: Batch) -> Metrics:
    """One gradient step of the critic."""
    loss, cross_entropy, auxiliary = critic.loss(
        batch.observation.critic, batch.action, batch.target, batch.next_features, batch.weight
    )
    norm = optimizers.step_critic(loss, batch.weight)
    return {"critic/loss": cross_entropy.detach(), "critic/aux_loss": auxiliary.detach(), "critic/grad_norm": norm}


@dataclass(frozen=True)
class Draws:
    """The random numbers of one actor step."""

    own: Noise
    """For the new policy's chains, one a state."""
    old: Noise | None
    """For the old policy's K fresh chains of every state, state by state; None where the collected ones serve."""
    chains: int
    """K."""

    def __getitem__(self, rows: slice) -> Draws:
        wide = slice(rows.start * self.chains, rows.stop * self.chains)
        return Draws(self.own[rows], None if self.old is None else self.old[wide], self.chains)


def draw(agent: Agent, count: int, region: TrustRegionCfg, generator: torch.Generator) -> Draws:
    """Draws for a minibatch of `count` states, in one place so that threads do not race for the generator."""
    own = agent.policy.draw_noise(count, generator)
    fresh = region.chains == "fresh" and region.direction == "forward"
    old = agent.policy.draw_noise(count * region.chains_per_state, generator) if fresh else None
    return Draws(own, old, region.chains_per_state)


@dataclass(frozen=True)
class ActorTerms:
    """The switched loss and what the duals see of it."""

    loss: Tensor
    """Sum of L over the states (), differentiable."""
    kl: Tensor
    """Trajectory KL of each state, in nats (batch,), detached."""
    run_cost: Tensor
    """(batch,), detached."""


def update_actor(
    agent: Agent,
    optimizers: Optimizers,
    critic: Critic,
    batch: Batch,
    draws: Draws,
    region: TrustRegionCfg,
    entropy_target: float,
    workers: Executor,
    shards: int,
) -> Metrics:
    """One gradient step of the policy and both duals.

    L = mean( alpha log_prob(a) - Q(s, a)   where KL(s) < eps,   lambda KL(s)   elsewhere )
    L_alpha  = alpha  stopgrad(H - H_target),      H = -mean(run_cost)
    L_lambda = -lambda stopgrad(mean KL - eps)

    All three are means over the minibatch, so the mean of the ranks' gradients is that of all their minibatches as one.
    """
    parameters = [parameter for parameter in agent.policy.parameters() if parameter.requires_grad]

    def gradient(rows: slice) -> tuple[ActorTerms, tuple[Tensor, ...]]:
        terms = actor_terms(agent, critic, batch[rows], draws[rows], region)
        return terms, torch.autograd.grad(terms.loss / len(batch), parameters, materialize_grads=True)

    size = -(-len(batch) // shards)
    parts = [slice(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]
    results = [gradient(parts[0])] if len(parts) == 1 else list(workers.map(gradient, parts))
    for parameter, *gradients in zip(parameters, *(each for _, each in results), strict=True):
        parameter.grad = gradients[0] if len(parts) == 1 else torch.stack(gradients).sum(0)

    kl = torch.cat([terms.kl for terms, _ in results])
    entropy, mean_kl = -torch.cat([terms.run_cost for terms, _ in results]).mean(), kl.mean()
    alpha, lam = agent.duals.alpha.detach(), agent.duals.lam.detach()
    agent.duals.log_alpha.grad = alpha * (entropy - entropy_target)
    is_bounded = region.direction != "none"
    agent.duals.log_lambda.grad = -lam * (mean_kl - region.bound) if is_bounded else None
    return {
        "actor/loss": torch.stack([terms.loss.detach() for terms, _ in results]).sum() / len(batch),
        "actor/kl": mean_kl,
        "actor/kl_max": kl.max(),
        "actor/outside_fraction": (kl >= region.bound).to(kl.dtype).mean(),
        "actor/entropy": entropy,
        "actor/grad_norm": optimizers.step_actor(),
        "duals/alpha": alpha,
        "duals/lambda": lam,
    }


def actor_terms(agent: Agent, critic: Critic, batch: Batch, draws: Draws, region: TrustRegionCfg) -> ActorTerms:
    """The loss of each state, summed: per state a switch between the objective and the trust region, not a sum of both."""
    terms_of = {"forward": forward_terms, "reverse": reverse_terms, "none": free_terms}[region.direction]
    return terms_of(agent, critic, batch, draws, region)


def forward_terms(agent: Agent, critic: Critic, batch: Batch, draws: Draws, region: TrustRegionCfg) -> ActorTerms:
    """The switch with KL(old || new), on chains of the old policy.

    Each side is differentiated only where it counts: the KL outside of the bound, the objective inside of it.
    """
    policy, observation = agent.policy, batch.observation
    states, means, stds = batch.states[:, None], batch.means[:, None], batch.stds[:, None]
    if draws.old is not None:
        states, means, stds = fresh_chains(agent.old_policy, observation.actor, draws.old, draws.chains)

    def kl_of(rows: Tensor | slice) -> Tensor:
        return forward_kl(policy, observation.actor[rows], states[rows], means[rows], stds[rows], region.kl)

    with torch.no_grad():
        kl = kl_of(slice(None))
    inside = kl < region.bound
    run_cost = torch.empty_like(kl)
    loss = kl.new_zeros(())
    if len(rows := inside.nonzero().squeeze(-1)):
        chain = policy.sample(observation.actor[rows], draws.own[rows])
        objective = agent.duals.alpha.detach() * chain.log_prob - critic(observation.critic[rows], chain.action)
        loss = loss + objective.sum()
        run_cost[rows] = chain.run_cost.detach()
    if len(rows := (~inside).nonzero().squeeze(-1)):
        loss = loss + agent.duals.lam.detach() * kl_of(rows).sum()
        with torch.no_grad():  # for the entropy, which is the mean over all states
            run_cost[rows] = policy.sample(observation.actor[rows], draws.own[rows]).run_cost
    return ActorTerms(loss, kl, run_cost)


def free_terms(agent: Agent, critic: Critic, batch: Batch, draws: Draws, region: TrustRegionCfg) -> ActorTerms:
    """The objective alone, everywhere; KL(old || new) is only measured."""
    chain = agent.policy.sample(batch.observation.actor, draws.own)
    objective = agent.duals.alpha.detach() * chain.log_prob - critic(batch.observation.critic, chain.action)
    with torch.no_grad():
        states, means, stds = batch.states[:, None], batch.means[:, None], batch.stds[:, None]
        kl = forward_kl(agent.policy, batch.observation.actor, states, means, stds, region.kl)
    return ActorTerms(objective.sum(), kl, chain.run_cost.detach())


def reverse_terms(agent: Agent, critic: Critic, batch: Batch, draws: Draws, region: TrustRegionCfg) -> ActorTerms:
    """The switch with KL(new || old), along the chain that also gives the action."""
    observation = batch.observation
    chain = agent.policy.sample(observation.actor, draws.own)
    kl = reverse_kl(agent.old_policy, observation.actor, chain, region.kl)
    objective = agent.duals.alpha.detach() * chain.log_prob - critic(observation.critic, chain.action)
    loss = torch.where(kl < region.bound, objective, agent.duals.lam.detach() * kl)
    return ActorTerms(loss.sum(), kl.detach(), chain.run_cost.detach())
