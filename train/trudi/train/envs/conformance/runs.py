"""The runs that the checks compare, each made when a check first asks for it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from trudi.train.envs.base import VectorEnv
from trudi.train.envs.conformance.comparing import Difference, difference, unlike
from trudi.train.envs.conformance.jumps import Jumps, jumps
from trudi.train.envs.conformance.lifecycle import Lifecycle, live, raised
from trudi.train.envs.conformance.recording import (
    STEPS_AFTER,
    Enough,
    Interference,
    Make,
    drawn_actions,
    play,
    random_state_kept,
)
from trudi.train.envs.conformance.takes import End, Take, rows

MOST_STEPS = 1000
"""Steps that a run takes at most by default; two whole episodes are enough."""
ENOUGH = Enough(ends=4, cuts=3)
"""What a staggered run must have shown before it stops."""
TOLERANCE = 1e-5
"""Largest difference of equal numbers, relative to 1 + their size."""
DRIFT = 1e-3
"""The same, where a simulator does not reproduce exactly, as long as a repetition stays within `TOLERANCE`."""
INTERFERENCES = tuple(one.name for one in fields(Interference))
RESTARTED_STEPS = 20
OTHER_SEED = 1000
"""Added to the seed for another one: far enough that no environment's own seed is shared."""


@dataclass
class Runs:
    """A simulator's runs. All but `whole` start staggered; all but `other` have the same seed.

    | run         | what differs from `staggered`                                                                |
    |-------------|----------------------------------------------------------------------------------------------|
    | `whole`     | no first episode is cut: what a cut run returns at its cut is an ordinary observation here     |
    | `meddled`   | nothing that may matter: random numbers, written tensors, actions beyond [-1, 1]             |
    | `answered`  | one action an environment: at its start, or right after the end of its first episode         |
    | `alone`     | one environment, for a few steps                                                             |
    | `other`     | the seed; a state is put back into it, and it is closed                                      |
    """

    make: Make
    num_envs: int
    seed: int
    steps: int | None

    @cached_property
    def whole(self) -> Take:
        """Without staggered starts."""
        return play(self.make, self.seed, self.num_envs, self._draw, stagger=False)

    @cached_property
    def staggered(self) -> Take:
        """With staggered starts, until `ENOUGH`."""
        return play(self.make, self.seed, self.num_envs, self._draw, stagger=True, enough=ENOUGH)

    @cached_property
    def alone(self) -> Take:
        """One environment."""
        return play(self.make, self.seed, 1, lambda env: self._draw(env)[:STEPS_AFTER], stagger=True)

    @cached_property
    def starts(self) -> Tensor:
        """First observations of several seeds (count, actor + critic)."""
        return torch.cat([rows(self.whole.first), rows(self.alone.first), rows(self.other.first)])

    @property
    def both(self) -> tuple[Take, Take]:
        """The two long runs."""
        return self.whole, self.staggered

    @cached_property
    def layout(self) -> dict[str, str]:
        """The first fault of sizes, dtypes and devices, by check."""
        takes = [self.whole] if self.whole.broken else [self.alone, *self.both]
        return {name: text for take in takes for name, text in take.layout.items()}

    @property
    def is_broken(self) -> bool:
        """Whether what was returned cannot be compared at all."""
        return self.whole.broken or self.staggered.broken or self.alone.broken

    @cached_property
    def is_untouched(self) -> bool:
        """Whether all that must not matter, done at once, changes no bit: then the parts need no runs of their own."""
        return difference(self.staggered, self.at_once, 0.0) is None

    @cached_property
    def at_once(self) -> Take:
        """The staggered run again, with all interferences."""
        return self._repeat(Interference(**dict.fromkeys(INTERFERENCES, True)))

    @cached_property
    def repeated(self) -> Difference | None:
        """Where a plain repetition first differs, in the slightest."""
        return None if self.is_untouched else difference(self.staggered, self._plain, 0.0)

    @cached_property
    def reproduced(self) -> int:
        """Steps over which repetitions can be compared."""
        if self.repeated is None:
            return len(self.staggered)
        apart = difference(self.staggered, self._plain, TOLERANCE)
        return (len(self.staggered) if apart is None else apart.step) // 2  # each repetition drifts differently

    @property
    def tolerance(self) -> float:
        """Of comparisons with a repetition."""
        return TOLERANCE if self.repeated is None else DRIFT

    @cached_property
    def meddled(self) -> dict[str, Difference]:
        """What made a difference, of `INTERFERENCES`, by its name."""
        if self.is_untouched:
            return {}
        alone = {name: self._repeat(Interference(**{name: True})) for name in INTERFERENCES}
        found = {name: difference(self.staggered, take, self.tolerance) for name, take in alone.items()}
        return {name: one for name, one in found.items() if one is not None and one.step <= self.reproduced}

    @cached_property
    def answered(self) -> tuple[list[int | None], list[int | None]]:
        """Steps until an observation follows another action: (right at the start, right after an end), of some environments.

        None is never.
        """
        ends = {end.env: end.step + 1 for end in reversed(self.staggered.ends) if end.step + 1 < self.reproduced}
        after = dict(sorted(ends.items())[: max(1, len(ends) // 2)])
        at_start = {env: 0 for env in range(self.num_envs) if env not in after}
        steps = self._answer(at_start | after)
        at_ends = {env: steps[env] for env in steps if env in after}
        if ends and not at_ends:  # Starts changed the random numbers that all environments share.
            at_ends = self._answer(ends)
        return [steps[env] for env in steps if env in at_start], list(at_ends.values())

    def _answer(self, when: dict[int, int]) -> dict[int, int | None]:
        """Steps until observations follow one other action, by environment; `when` says after how many steps it is given.

        Those are left out that differed before.
        """

        def draw(env: VectorEnv) -> Tensor:
            actions = self._draw(env)[: len(self.staggered)].clone()
            for index, step in when.items():
                actions[step, index] = torch.where(actions[step, index] > 0.0, -1.0, 1.0)
            return actions

        other = play(self.make, self.seed, self.num_envs, draw, stagger=True)
        differs = unlike(self.staggered.seen, other.seen, self.tolerance).any(-1)
        steps: dict[int, int | None] = {}
        for env, step in when.items():
            if not bool(differs[: step + 1, env].any()):
                changed = differs[step + 1 :, env].nonzero()
                steps[env] = int(changed[0]) + 1 if len(changed) else None
        return steps

    @cached_property
    def other(self) -> Lifecycle:
        """The life of a simulator with another seed, which takes over the state of the first run."""
        with random_state_kept():
            seeds = self.seed, self.seed + OTHER_SEED
            env = self.make(self.num_envs, seeds[1], True)
            try:
                return live(env, self.whole.state, self._draw(env)[:RESTARTED_STEPS], seeds)
            finally:
                raised(env.close)  # once more, whatever it thinks of that

    def jumps(self, take: Take) -> Jumps:
        """How far observations move in one of the two long runs."""
        return self._jumps[take is self.staggered]

    @cached_property
    def _jumps(self) -> tuple[Jumps, Jumps]:
        return jumps(self.whole), jumps(self.staggered)

    @cached_property
    def parted(self) -> Tensor:
        """Steps over which observations in `whole` and `staggered` are the same, the first ones included (envs,)."""
        steps = min(len(self.whole), len(self.staggered)) + 1
        differs = unlike(self.whole.seen[:steps], self.staggered.seen[:steps], TOLERANCE).any(-1)
        return (differs.cumsum(0) == 0).sum(0)

    @cached_property
    def is_coupled(self) -> bool:
        """Whether the end of one environment's episode changes what others see, as where all draw from one stream."""
        steps = min(len(self.whole), len(self.staggered))
        ended = (self.whole.ended[:steps] | self.staggered.ended[:steps]).cumsum(0)
        until_end = (ended == 0).sum(0) + 1  # observations of first episodes
        return bool((self.parted < until_end).any())

    def is_comparable(self, end: End) -> bool:
        """Whether `whole` was the same run up to this end in `staggered`, in all that the last step could depend on."""
        if end.length != end.step + 1 or end.step >= len(self.whole):
            return False
        parted = self.parted.min() if self.is_coupled else self.parted[end.env]
        return int(parted) > end.step and not bool(self.whole.ended[: end.step, end.env].any())

    def goes_on(self, end: End) -> bool:
        """Whether the same episode goes on in `whole` where it ended in `staggered`."""
        return self.is_comparable(end) and not bool(self.whole.ended[end.step, end.env])

    @cached_property
    def _plain(self) -> Take:
        return self._repeat(Interference())

    def _repeat(self, interference: Interference) -> Take:
        """The staggered run again."""

        def draw(env: VectorEnv) -> Tensor:
            return self._draw(env)[: len(self.staggered)]

        try:
            return play(self.make, self.seed, self.num_envs, draw, stagger=True, interference=interference)
        except Exception as error:  # As some simulators do where their numbers are written to.
            return replace(self.staggered, steps=[], error=f"it raised {type(error).__name__}: {error}")

    def _draw(self, env: VectorEnv) -> Tensor:
        steps = self.steps or min(2 * env.max_episode_steps, MOST_STEPS) + STEPS_AFTER
        return drawn_actions(steps, env.num_envs, env.action_size, self.seed)
