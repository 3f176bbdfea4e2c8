"""How a policy's actions form: latents on their way from noise to an action, and the modes of what comes out.

    {format: 1, pictures: [{name, task, algo, steps, states: [{tick, why, dims, chains: {sampler: {latents, actions}}}]}]}

`latents` are x_0 .. x_N of a few samples and `actions` tanh(x_N) of many, the same few first; both of the chosen dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage
from torch import Tensor

from trudi.train.behaviour import context_entropies
from trudi.train.envs.base import Observation
from trudi.train.errors import TrainError
from trudi.train.evaluation import make_act, run_episodes
from trudi.train.trained import TrainedRun

Floats = NDArray[np.float64]
Nested = list[Any]

FORMAT_VERSION = 1
LINES = 40
"""Samples whose way is drawn."""
SAMPLES = 400
"""Samples whose actions are counted."""
CANDIDATES = 50
"""Ticks among which the most uncertain one is looked for."""
DIMS = 2
BANDWIDTH = 0.15
"""Of the density whose maxima are the modes, in units of the action, which is in (-1, 1)."""
CELLS = 61
FAINTEST = 0.1
"""Share of the highest density that a maximum needs to count as a mode."""
VALLEY = 0.5
"""Two maxima are one mode where no valley between them is below this share of the lower one: less is chance."""


@dataclass(frozen=True)
class Chains:
    """What one sampler did at one state."""

    latents: Nested
    """x_0 .. x_N of the chosen dimensions (N + 1, lines, dims)."""
    actions: Nested
    """tanh(x_N) (samples, dims); those of the lines first."""


@dataclass(frozen=True)
class PicturedState:
    """A state of an evaluation episode."""

    tick: int
    """Of the episode, from 0."""
    why: str
    """It was chosen."""
    dims: tuple[int, ...]
    """Elements of the action that are shown: those in which the ODE's actions spread most."""
    chains: dict[str, Chains]
    """By sampler, `ode` and `sde`."""


@dataclass(frozen=True)
class Picture:
    """A run's."""

    name: str
    task: str
    algo: str
    steps: int
    """N."""
    states: tuple[PicturedState, ...]


@dataclass(frozen=True)
class Modes:
    """The maxima of the actions' density, the fullest first."""

    centres: Floats
    """(modes, dims)."""
    of: NDArray[np.int64]
    """The nearest mode of each action (samples,)."""
    entropy: float
    """Of the shares, in units of the log of their number: 0 for one mode, 1 for several that are equally full."""


@torch.no_grad()
def take_picture(path: Path, samples: int = SAMPLES, lines: int = LINES) -> Picture:
    """Follows the run's policy (its last checkpoint, ODE) through one evaluation episode and samples at three of its states.

    The start, halfway, and where the ODE's actions spread most. TrainError where there is no run or no simulator for it.
    """
    run = TrainedRun.open(path)
    policy, seed = run.agent.policy, run.cfg.evaluation.seed
    generator = torch.Generator().manual_seed(seed)
    seen: list[Tensor] = []

    def watch(observation: Observation, action: Tensor) -> None:
        seen.append(run.agent.actor_norm(observation.actor).clone())

    run_episodes(run.episodes(1, seed), make_act(run.agent, "ode", 1, generator), watch)
    ticks = np.unique(np.linspace(0, len(seen) - 1, CANDIDATES).round().astype(int))
    spread = [
        float(policy.sample_ode(seen[tick].expand(lines, -1), policy.draw_latent(lines, generator))[0].std(0).max())
        for tick in ticks
    ]
    wanted: dict[int, str] = {}
    chosen = (0, "the start"), (len(seen) // 2, "halfway"), (int(ticks[int(np.argmax(spread))]), "where actions spread most")
    for tick, why in chosen:
        wanted[tick] = f"{wanted[tick]}, and {why}" if tick in wanted else why

    def at(tick: int, why: str) -> PicturedState:
        observation = seen[tick].expand(samples, -1)
        noise = policy.draw_noise(samples, generator)
        states = {
            "ode": policy.sample_ode(observation, noise.latent)[1],
            "sde": policy.sample(observation, noise).states,
        }
        order = torch.tanh(states["ode"][-1]).std(0) + 1e-6 * torch.tanh(states["sde"][-1]).std(0)
        dims = tuple(sorted(order.argsort(descending=True, stable=True)[:DIMS].tolist()))
        return PicturedState(tick, why, dims, {name: _chains(each[..., dims], lines) for name, each in states.items()})

    states = tuple(at(tick, why) for tick, why in sorted(wanted.items()))
    steps = run.cfg.policy.steps if run.cfg.algo == "trudi" else 1
    return Picture(path.resolve().name, run.cfg.task, run.cfg.algo, steps, states)


def find_modes(actions: Floats) -> Modes:
    """Modes of actions (samples, dims), dims 1 or 2, in [-1, 1]: maxima of a Gaussian kernel density on a grid."""
    axis = np.linspace(-1.2, 1.2, CELLS)
    kernel = np.exp(-0.5 * ((axis[None] - actions.T[..., None]) / BANDWIDTH) ** 2)  # (dims, samples, cells)
    density = kernel[0].mean(0) if len(kernel) == 1 else kernel[0].T @ kernel[1] / len(actions)
    tops = np.argwhere((density == ndimage.maximum_filter(density, size=3)) & (density > FAINTEST * density.max()))
    heights = density[tuple(tops.T)]
    centres = axis[np.stack([top for top, height in zip(tops, heights, strict=True) if _is_mode(top, height, density)])]
    nearest = np.linalg.norm(actions[:, None] - centres[None], axis=-1).argmin(1)
    sizes = np.bincount(nearest, minlength=len(centres))
    order = np.argsort(-sizes, kind="stable")
    rank = np.argsort(order, kind="stable")[nearest]
    (entropy,) = context_entropies(rank[None], np.ones((1, len(rank)), dtype=np.bool_), max(len(centres), 2))
    return Modes(centres[order], rank, float(entropy))


def _is_mode(top: NDArray[np.int64], height: float, density: Floats) -> bool:
    """Whether every way from this maximum to a higher one goes through a valley (of two that are equal, the first is)."""
    parts: NDArray[np.int64] = cast("Any", ndimage.label(density >= VALLEY * height, np.ones([3] * density.ndim)))[0]
    own = np.where(parts == parts[tuple(top)], density, 0.0)
    return bool((np.array(np.unravel_index(int(own.argmax()), own.shape)) == top).all())


def write_pictures(pictures: list[Picture], path: Path) -> None:
    """Writes them for a later report; TrainError where that is not possible."""
    try:
        path.write_text(json.dumps({"format": FORMAT_VERSION, "pictures": [asdict(one) for one in pictures]}) + "\n")
    except OSError as error:
        raise TrainError(f"--denoise-data {path} cannot be written: {error.strerror}") from None


def read_pictures(path: Path) -> list[Picture]:
    """Reads what `write_pictures` wrote; TrainError says what is wrong with it."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise TrainError(f"--denoise-data {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise TrainError(f"--denoise-data {path} is not JSON") from None
    if not isinstance(content, dict) or cast("Mapping[str, Any]", content).get("format") != FORMAT_VERSION:
        raise TrainError(f"--denoise-data {path} is not a file that `trudi report --denoise RUN --denoise-data FILE` wrote")
    try:
        pictures = TypeAdapter(list[Picture]).validate_python(cast("Mapping[str, Any]", content).get("pictures"))
    except ValidationError as error:
        first = error.errors()[0]
        raise TrainError(f"--denoise-data {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for picture in pictures:
        for state in picture.states:
            _check(state, f"--denoise-data {path}: {picture.name}, tick {state.tick}")
    return pictures


def _chains(states: Tensor, lines: int) -> Chains:
    """Rounded, as they are kept: a picture made from the file is the same one."""
    latents = states.double().numpy().round(4)
    return Chains(latents[:, :lines].tolist(), np.tanh(latents[-1]).round(4).tolist())


def _check(state: PicturedState, where: str) -> None:
    for name, chains in state.chains.items():
        try:
            latents, actions = np.array(chains.latents, dtype=np.float64), np.array(chains.actions, dtype=np.float64)
        except (TypeError, ValueError):
            raise TrainError(f"{where}: {name}: latents and actions must be arrays of numbers") from None
        dims = len(state.dims)
        if latents.ndim != 3 or latents.shape[2] != dims or actions.shape != (len(actions), dims) or not 1 <= dims <= DIMS:
            raise TrainError(f"{where}: {name}: latents {latents.shape} and actions {actions.shape} are not of {dims} dims")
        if not (np.isfinite(latents).all() and np.isfinite(actions).all()):
            raise TrainError(f"{where}: {name}: not all of it is finite")
