"""Checks of terminal observations, first ones, and the steps between them."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

from trudi.train.envs.conformance.comparing import is_unlikely, unlike
from trudi.train.envs.conformance.contract import NO_END, Checks, Outcome, first, unexercised, unless
from trudi.train.envs.conformance.jumps import Jumps
from trudi.train.envs.conformance.runs import TOLERANCE, Runs
from trudi.train.envs.conformance.takes import End, Take, ended_envs, place

CHECKS = Checks()

SPAN = 3.0
"""How far outside what first observations span another first observation may lie, in spans."""
FEW_STARTS = 4
"""Different first observations that it takes to know what they span."""
RESET_LIKE = 0.75
"""How large jumps to terminal observations may be, in jumps to first ones, before they count as such."""
CLEARLY = 0.2
"""How much more first observations must be in the range of first observations than others, to tell them apart by that."""
START_LIKE = 0.75
"""How far on the way from the one to the other terminal observations may be, before they count as first ones."""
MISORDERED = 1.5
"""How much better another order of terminal rows may fit than the given one."""


@CHECKS.add
def terminal_given(runs: Runs) -> Outcome:
    """Every ended episode comes with its terminal observation."""
    ends = [(step, len(envs)) for take in runs.both for step in take.steps if (envs := ended_envs(step))]
    missing = sum(count for step, count in ends if step.terminal is None)
    total = sum(count for _, count in ends)
    return (
        unless(f"missing for {missing} of {total} ends" if missing else "", f"{total} ends") if ends else unexercised(NO_END)
    )


@CHECKS.add
def terminal_rows(runs: Runs) -> Outcome:
    """A row for each end, in the order of `ended.nonzero()`, and none besides."""
    steps = [(step.terminal, len(ended_envs(step))) for take in runs.both for step in take.steps]
    given = [(len(terminal.actor), ends) for terminal, ends in steps if terminal is not None]
    miscounted = first(f"{count} rows for {ends} ends" for count, ends in given if count != ends)
    if miscounted or not given:
        return unless(miscounted) if miscounted else unexercised("no terminal observation")
    if _untrue_jumps(runs):
        return unexercised("the rows are of no episode that ended (see terminal-true)")
    together = sum(ends > 1 for _, ends in given)
    return unless(_misordered(runs), f"{together} steps with several rows" if together else "never more than one row")


@CHECKS.add
def terminal_true(runs: Runs) -> Outcome:
    """A terminal observation is the last one of the episode that ended.

    By the sizes of jumps, and exactly where the same run goes on without a cut.
    """
    measured = [take for take in runs.both if take.terminal]
    if not measured:
        return unexercised("no terminal observation")
    if fault := _untrue_jumps(runs):
        blame = unexercised("what follows an end is no first observation (see next-first)")
        return blame if _late_start(runs) else unless(fault)
    if _misordered(runs):
        return unexercised("rows are in another order (see terminal-rows)")
    cuts = [end for end in runs.staggered.ends if (end.step, end.env) in runs.staggered.terminal and runs.goes_on(end)]
    fault = first(_untrue_cut(runs, end) for end in cuts)
    sizes = [size for take in measured for size in runs.jumps(take).terminal.values()]
    ordinary = median(float(runs.jumps(take).ordinary.median()) for take in measured)
    seen = f"{len(cuts)} equal the uncut run's; {len(sizes)} jumps of {median(sizes):.2g}, ordinary ones {ordinary:.2g}"
    return unless(fault, seen)


def _untrue_cut(runs: Runs, end: End) -> str:
    given, true = runs.staggered.terminal[end.step, end.env], runs.whole.seen[end.step + 1, end.env]
    wrong = int(unlike(true, given, TOLERANCE).sum())
    return f"{place(end)}: {wrong} of {len(true)} numbers are not those that the uncut run had" if wrong else ""


def _untrue_jumps(runs: Runs) -> str:
    """Whether a terminal observation is another one of those around it, or those of one kind of end look like one."""
    for take in runs.both:
        stale = 0
        for end in runs.jumps(take).terminal:
            before, given, after = _around(take, end)
            stale += torch.equal(given, before)
            if torch.equal(given, after):
                return f"{place(end)}: it is the next episode's first observation"
        if is_unlikely(stale, len(take.terminal), _still_share(take)):
            return f"{stale} of {len(take.terminal)} are the observation before"
    kinds = [(take, kind) for take in runs.both for kind in ("terminated", "truncated", "cut")]
    return first(_reset_like(runs.jumps(take), kind) or _start_like(runs, take, kind) for take, kind in kinds)


def _around(take: Take, end: End) -> tuple[Tensor, Tensor, Tensor]:
    """The observation before the last step, the terminal one, and the one returned for the next episode."""
    return take.seen[end.step, end.env], take.terminal[end.step, end.env], take.seen[end.step + 1, end.env]


def _start_like(runs: Runs, take: Take, kind: str) -> str:
    """Whether terminal observations are as much like first ones as first ones are, and not like those before them."""
    low, high = runs.starts.amin(0), runs.starts.amax(0)
    around = [_around(take, end) for end in runs.jumps(take).terminal if end.kind == kind]
    like = [[float(((row >= low) & (row <= high)).float().mean()) for row in rows] for rows in around]
    before, given, after = (median(column) for column in zip(*like, strict=True)) if like else (0.0, 0.0, 0.0)
    if after - before < CLEARLY or given < before + START_LIKE * (after - before):
        return ""
    return (
        f"of {len(like)} {kind} episodes, {given:.0%} of the numbers are in the range of first observations; "
        f"of the observations before them {before:.0%}, of the next episode's first ones {after:.0%}"
    )


def _reset_like(sizes: Jumps, kind: str) -> str:
    """Whether jumps to terminal observations of one kind of end are as large as resets, and not like ordinary ones."""
    terminal = [size for end, size in sizes.terminal.items() if end.kind == kind]
    reset = [size for end, size in sizes.reset.items() if end.kind == kind]
    if not terminal or median(terminal) <= max(sizes.usual, RESET_LIKE * median(reset)):
        return ""
    return (
        f"{len(terminal)} of {kind} episodes are {median(terminal):.2g} mean steps from what was seen before, "
        f"resets {median(reset):.2g}, ordinary steps hardly ever more than {sizes.usual:.2g}"
    )


def _misordered(runs: Runs) -> str:
    sizes = [runs.jumps(take) for take in runs.both]
    given, best = sum(one.in_order for one in sizes), sum(one.best_order for one in sizes)
    fault = f"rows fit to what was seen before in another order: jumps add up to {best:.3g}, as given to {given:.3g}"
    return fault if given > MISORDERED * best else ""


@CHECKS.add
def next_first(runs: Runs) -> Outcome:
    """What a step returns for an ended episode is the next one's first observation."""
    count = sum(len(take.ends) for take in runs.both)
    return unless(_late_start(runs), f"{count} starts") if count else unexercised(NO_END)


def _late_start(runs: Runs) -> str:
    """Whether it lies outside what first observations span, or is one step from the old episode and far from the new."""
    is_spanned = len(runs.starts.unique(dim=0)) >= FEW_STARTS
    low, high = runs.starts.amin(0), runs.starts.amax(0)
    margin = SPAN * (high - low) + TOLERANCE * (1.0 + high.abs())
    for take in runs.both:
        after = [take.seen[end.step + 1, end.env] for end in take.ends]
        outside = sum(bool(((row < low - margin) | (row > high + margin)).any()) for row in after)
        if is_spanned and 2 * outside > len(after):
            return f"{outside} of {len(after)} lie outside what {len(runs.starts)} first observations span"
        sizes = runs.jumps(take)
        to, on = (median(jumps) if jumps else 0.0 for jumps in (sizes.reset.values(), sizes.following.values()))
        if to <= sizes.usual < on:
            return f"they are {to:.2g} mean steps from the old episode, and the next ones {on:.2g} from them"
    return ""


@CHECKS.add
def no_reset_step(runs: Runs) -> Outcome:
    """Every step responds to its action: none is spent on a reset."""
    if fault := first(map(_standing_still, runs.both)):
        return unless(fault)
    starts, ends = runs.answered
    answered = [steps for steps in starts if steps is not None]
    if not ends or len(answered) < 0.5 * len(starts):
        return unexercised(
            "no end that a repetition comes to" if not ends else "nothing follows an action at the start either"
        )
    longest = max(answered, default=1)
    late = [steps for steps in ends if steps is None or steps > longest]
    lost = 1.0 - len(answered) / len(starts) if starts else 0.0  # of actions that nothing follows anyway
    said = ", ".join("never" if steps is None else f"after {steps} steps" for steps in sorted(set(late), key=str))
    text = f"after {len(late)} of {len(ends)} ends an action is answered {said}; at the start after {longest}"
    return unless(text if is_unlikely(len(late), len(ends), lost) else "", f"{len(ends)} answered within {longest} steps")


def _standing_still(take: Take) -> str:
    """Whether the step after an end leaves every observation exactly as it was, which ordinary steps do not."""
    seen = take.seen
    after = [torch.equal(*seen[end.step + 1 : end.step + 3, end.env]) for end in take.ends if end.step + 1 < len(take)]
    at_start = float((seen[1] == seen[0]).all(-1).float().mean())  # as where observations come late
    if not after or not all(after) or not is_unlikely(len(after), len(after), max(at_start, _still_share(take))):
        return ""
    return f"the observations of all {len(after)} steps after an end are the ones before"


def _still_share(take: Take) -> float:
    """The share of steps that change nothing at all."""
    return float((take.seen[1:] == take.seen[:-1]).all(-1).float().mean())
