"""Checks of what a step returns and takes: types, sizes, random numbers and memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trudi.train.envs.conformance.contract import Checks, Outcome, first, unexercised, unless
from trudi.train.envs.conformance.runs import TOLERANCE, Runs
from trudi.train.envs.conformance.takes import Take, rows

CHECKS = Checks()


@CHECKS.add
def sizes(runs: Runs) -> Outcome:
    """Tensors have the sizes that the attributes and `info` say."""
    info = runs.whole.info
    total = f"actor {sum(info.actor.values())}, critic {sum(info.critic.values())}, action {info.action_size}"
    return unless(runs.layout.get("sizes", ""), total)


@CHECKS.add
def dtypes(runs: Runs) -> Outcome:
    """Observations and rewards are float32, ends are bool, and all can be trained on."""
    return unless(runs.layout.get("dtypes", ""))


@CHECKS.add
def devices(runs: Runs) -> Outcome:
    """Every tensor is on the simulator's device."""
    return unless(runs.layout.get("devices", ""))


@CHECKS.add
def finite(runs: Runs) -> Outcome:
    """Observations and rewards are finite."""

    def fault(take: Take) -> str:
        parts = {"observations": take.seen, "rewards": take.reward, "terminal observations": stacked(take)}
        counts = {name: int((~part.isfinite()).sum()) for name, part in parts.items()}
        return first(f"{count} numbers of {name} are not" for name, count in counts.items() if count)

    return unless(first(map(fault, runs.both)), f"{sum(take.seen.numel() for take in runs.both)} numbers observed")


def stacked(take: Take) -> Tensor:
    """All terminal observations (ends, actor + critic)."""
    return torch.stack([*take.terminal.values()]) if take.terminal else torch.empty(0)


@CHECKS.add
def observation_order(runs: Runs) -> Outcome:
    """The keys of `info.actor` and `info.critic` stand in the same order in every instance."""
    infos = [runs.whole.info, runs.staggered.info, runs.alone.info, runs.other.info]
    orders = [(list(info.actor.items()), list(info.critic.items())) for info in infos]
    fault = first(f"{one} and {orders[0]}" for one in orders if one != orders[0])
    return unless(fault, f"actor {', '.join(infos[0].actor)}; critic {', '.join(infos[0].critic)}")


@CHECKS.add
def environments_differ(runs: Runs) -> Outcome:
    """Environments do not all start the same episode."""
    if runs.num_envs < 2:
        return unexercised("one environment")
    start = rows(runs.whole.first)
    different = len(start.unique(dim=0))
    return unless("all start the same" if different == 1 else "", f"{different} starts of {runs.num_envs} environments")


@CHECKS.add
def seeds_reproduce(runs: Runs) -> Outcome:
    """The same seed and actions give the same run, bit for bit."""
    fault = "" if runs.repeated is None else f"{runs.repeated}; within {TOLERANCE:g} for at least {runs.reproduced} steps"
    return unless(fault, f"{len(runs.staggered)} steps")


@CHECKS.add
def seeds_differ(runs: Runs) -> Outcome:
    """Another seed gives other episodes."""
    same = (rows(runs.other.first) == rows(runs.staggered.first)).all(-1)
    return unless("all environments start the same under another seed" if bool(same.all()) else "")


def meddling(name: str, runs: Runs) -> Outcome:
    """Whether an interference changed nothing."""
    if not runs.reproduced:
        return unexercised("not even the first steps reproduce (see seeds-reproduce)")
    return unless(str(runs.meddled.get(name, "")), f"{runs.reproduced} steps")


@CHECKS.add
def own_random_numbers(runs: Runs) -> Outcome:
    """The process's random numbers (torch, NumPy, Python) change nothing."""
    return meddling("random_state", runs)


@CHECKS.add
def nothing_shared(runs: Runs) -> Outcome:
    """Writing into what a step returned, or into its action afterwards, changes nothing."""
    return meddling("scribbling", runs)


@CHECKS.add
def actions_clipped(runs: Runs) -> Outcome:
    """An action beyond [-1, 1] acts like the clipped one."""
    return meddling("excess", runs)


@CHECKS.add
def action_untouched(runs: Runs) -> Outcome:
    """A step does not write into its action."""
    return unless(first(take.action_changed for take in (*runs.both, runs.at_once)))


@CHECKS.add
def returned_tensors_stay(runs: Runs) -> Outcome:
    """No later step, nor closing, writes into what was returned."""
    fault = first(take.changed for take in runs.both)
    return unless(f"{fault} was written to" if fault else "")


@CHECKS.add
def state_returns(runs: Runs) -> Outcome:
    """`restore(state())` is accepted by a fresh simulator, whose state it then is."""
    kept = runs.whole.state
    return unless(runs.other.state_fault, f"{len(kept)} tensors" + (f": {', '.join(kept)}" if kept else ""))


@CHECKS.add
def foreign_state_refused(runs: Runs) -> Outcome:
    """Another task's state is refused with TrainError."""
    return unless(runs.other.foreign_fault)


@CHECKS.add
def restarts(runs: Runs) -> Outcome:
    """After `restart`, the same seed gives the same run again, and another seed another one."""
    if runs.other.state_fault:
        return unexercised("it does not take its state back (see state-returns)")
    fault = runs.other.restart_fault
    return unexercised("it is not `Restartable`") if fault is None else unless(fault)


@CHECKS.add
def log_reports(runs: Runs) -> Outcome:
    """`log()` gives finite numbers, of what was reported since it was last called."""
    reported, again = runs.whole.logs
    odd = [f"'{name}' is {value!r}" for name, value in reported.items() if not _is_finite(value)]
    repeated = f"asked again at once, it reports {', '.join(again)}" if again else ""
    return unless(first([*odd, repeated]), f"{len(reported)} numbers")


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


@CHECKS.add
def close_twice(runs: Runs) -> Outcome:
    """Closing twice is allowed."""
    return unless(runs.other.close_fault)


@CHECKS.add
def closed_refuses(runs: Runs) -> Outcome:
    """A step after closing is refused with TrainError."""
    return unless(runs.other.closed_fault)
