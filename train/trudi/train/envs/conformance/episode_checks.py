"""Checks of how episodes end, how long they are and what is reported of them."""

from __future__ import annotations

from collections import Counter

from trudi.train.envs.conformance.comparing import is_unlikely
from trudi.train.envs.conformance.contract import NO_END, Checks, Outcome, first, unexercised, unless
from trudi.train.envs.conformance.runs import Runs
from trudi.train.envs.conformance.takes import End, Take, ended_envs, place

CHECKS = Checks()

CUT_SHORT = "first episodes of a run without staggered starts were truncated (see early-truncation)"
RETURN_TOLERANCE = 1e-4
"""Largest error of an episode's return, relative to 1 + the sum of its absolute rewards."""


@CHECKS.add
def never_both(runs: Runs) -> Outcome:
    """No episode is both terminated and truncated."""
    both = sum(int((take.terminated & take.truncated).sum()) for take in runs.both)
    count = sum(len(take.ends) for take in runs.both)
    return unless(f"{both} of {count} ends are" if both else "", f"{count} ends") if count else unexercised(NO_END)


@CHECKS.add
def time_limit(runs: Runs) -> Outcome:
    """No episode is longer than `max_episode_steps`."""
    longest, limit = max(map(_longest, runs.both)), runs.whole.info.max_episode_steps
    if longest < limit:
        return unexercised(f"the longest episode had {longest} of {limit} steps")
    return unless(f"one had {longest} steps, the limit is {limit}" if longest > limit else "", f"{limit} steps")


def _longest(take: Take) -> int:
    begun = [0] * take.reward.shape[1]
    for end in take.ends:
        begun[end.env] = end.step + 1
    return max([end.length for end in take.ends] + [len(take) - step for step in begun])


@CHECKS.add
def limit_truncates(runs: Runs) -> Outcome:
    """An episode that only a time limit ends is truncated, not terminated."""
    limit = runs.whole.info.max_episode_steps
    at_limit = [end for take in runs.both for end in take.ends if end.length == limit and not _is_both(take, end)]
    terminated = sum(end.kind == "terminated" for end in at_limit)
    if is_unlikely(terminated, len(at_limit), _hazard(runs)):
        return unless(f"{terminated} of {len(at_limit)} episodes of {limit} steps are reported as terminated")
    cuts = [end for end in runs.staggered.ends if runs.goes_on(end) and not _is_both(runs.staggered, end)]
    wrong = sum(end.kind == "terminated" for end in cuts)
    fault = f"{wrong} of {len(cuts)} first episodes that were cut short are reported as terminated" if wrong else ""
    if not at_limit and not cuts:
        return unexercised("no episode came to a time limit")
    return unless(fault, f"{len(at_limit)} ends at the limit, {len(cuts)} cuts")


def _hazard(runs: Runs) -> float:
    """The share of steps, before the limit, at which an episode terminates."""
    limit = runs.whole.info.max_episode_steps
    ends = [end for take in runs.both for end in take.ends if end.kind == "terminated" and end.length < limit]
    return len(ends) / sum(take.reward.numel() for take in runs.both)


@CHECKS.add
def early_truncation(runs: Runs) -> Outcome:
    """Nothing but the time limit, and staggered starts, truncates an episode."""
    count = sum(len(take.ends) for take in runs.both)
    return unless(_early(runs), f"{count} ends") if count else unexercised(NO_END)


def _early(runs: Runs) -> str:
    limit = runs.whole.info.max_episode_steps
    early = [end for take in runs.both for end in take.ends if end.kind == "truncated" and end.length < limit]
    return f"{len(early)} truncated before {limit} steps, the first after {early[0].length}" if early else ""


@CHECKS.add
def episode_statistics(runs: Runs) -> Outcome:
    """Each whole episode is reported once, when it ends, with its return and length, by environment."""
    whole = [(take, t, step) for take in runs.both for t, step in enumerate(take.steps) if not _cuts(take, t)]
    fault = first(_misreported(take, t) for take, t, _ in whole)
    count = sum(len(ended_envs(step)) for _, _, step in whole)
    return unless(fault, f"{count} episodes") if count or fault else unexercised("no whole episode ended")


def _misreported(take: Take, t: int) -> str:
    reported, ends = take.steps[t].episodes, take.ends_at(t)
    if not len(reported.returns) == len(reported.lengths) == len(ends):
        return f"step {t}: {len(reported.returns)} reported, {len(ends)} ended"
    for i, end in enumerate(ends):
        rewards = take.reward[t + 1 - end.length : t + 1, end.env].double()
        total, said, steps = float(rewards.sum()), float(reported.returns[i]), float(reported.lengths[i])
        if steps != end.length:
            return f"{place(end)}: {steps:g} steps reported, {end.length} counted"
        if not abs(total - said) <= RETURN_TOLERANCE * (1.0 + float(rewards.abs().sum())):
            return f"{place(end)}: a return of {said:g} reported, rewards add up to {total:g}"
    return ""


@CHECKS.add
def cuts_left_out(runs: Runs) -> Outcome:
    """First episodes cut short to stagger the starts are not reported."""
    take = runs.staggered
    if _early(runs):
        return unexercised(CUT_SHORT)
    at = [t for t in range(len(take)) if _cuts(take, t)]
    faults = (
        f"step {t}: {len(take.steps[t].episodes.returns)} reported, {len(take.ends_at(t)) - _cuts(take, t)} whole ones ended"
        for t in at
        if len(take.steps[t].episodes.returns) != len(take.ends_at(t)) - _cuts(take, t)
    )
    return (
        unless(first(faults), f"{sum(_cuts(take, t) for t in at)} cuts") if at else unexercised("no first episode was cut")
    )


@CHECKS.add
def staggered_starts(runs: Runs) -> Outcome:
    """Staggered first episodes are cut at different lengths."""
    if _early(runs):
        return unexercised(CUT_SHORT)
    ends = runs.staggered.ends
    cuts = [end.length for end in ends if end.kind == "cut"]
    whole = sum(end.kind == "truncated" and end.length == end.step + 1 for end in ends)
    if whole > 1 and whole > len(cuts):
        return unless(f"{whole} first episodes went on to the limit, {len(cuts)} were cut")
    if len(cuts) < 3:
        return unexercised(f"{len(cuts)} first episodes were cut")
    length, together = Counter(cuts).most_common(1)[0]
    left = runs.num_envs - sum(end.length == end.step + 1 and end.length < length for end in ends)
    limit = runs.whole.info.max_episode_steps
    share = 1.0 / (limit - length + 1)  # of those left, where every length up to the limit is as likely
    is_heap = is_unlikely(together, left, share, among=limit)
    fault = f"{together} of the {left} that were left were cut after the same {length} steps" if is_heap else ""
    return unless(fault, f"cut after {', '.join(map(str, sorted(cuts)))} steps")


def _cuts(take: Take, t: int) -> int:
    return sum(end.kind == "cut" for end in take.ends_at(t))


def _is_both(take: Take, end: End) -> bool:
    return bool(take.terminated[end.step, end.env] & take.truncated[end.step, end.env])
