"""The figures of a report, each a list of small panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from numpy.typing import NDArray

from trudi.train.report.aggregates import Aggregates, Estimate
from trudi.train.report.curves import Axis, MeanCurve, curve_of, diagnostic_of, mean_curve, mean_of_curves
from trudi.train.report.denoising import Modes, Picture, PicturedState, find_modes
from trudi.train.report.sources import Gathered
from trudi.train.report.style import (
    BOTTOM,
    COLOURS,
    DASHES,
    FAINT,
    HEIGHT,
    INK,
    MARKERS,
    TOP,
    Panel,
    Style,
    add_axes,
    label_ends,
    plain_ticks,
    slug,
)

Floats = NDArray[np.float64]

MILLION = 1e6
DIAGNOSTIC_TITLES = {
    "actor/kl": "trajectory KL, mean over states (nats)",
    "actor/kl_max": "trajectory KL, largest in a minibatch (nats)",
    "actor/outside_fraction": "share of states outside the bound",
    "duals/alpha": "alpha, the weight of the entropy",
    "duals/lambda": "lambda, the weight of the trust region",
    "actor/entropy": "entropy H (nats)",
    "policy/step_std_mean": "noise of a step, mean standard deviation",
    "policy/friction_mean": "friction, mean over actions",
    "critic/loss": "critic's cross-entropy (nats)",
    "time/steps_per_s": "environment steps per second",
}
DOTS = 150
"""Of a mode, at most."""
LOGARITHMIC = ("actor/kl_max", "duals/alpha", "duals/lambda")
ROW_WIDTH = 26
"""Letters of a line of a row's label."""
SAMPLER_NAMES = {"ode": "ODE", "sde": "SDE"}


def learning_curves(gathered: Gathered, axis: Axis, looks: Mapping[str, Style]) -> list[Panel]:
    """A panel a task: the return over environment steps or over minutes."""
    what = "environment steps" if axis == "steps" else "minutes"
    return [
        Panel(
            f"curves-{axis}-{slug(task)}",
            f"Return on {task} over {what}",
            lambda figure, task=task: _draw_curves(figure, gathered, task, axis, looks),
        )
        for task in gathered.tasks
    ]


def aggregate_panels(found: Aggregates, looks: Mapping[str, Style]) -> list[Panel]:
    """A panel a measure."""
    height = 0.9 + 0.34 * len(found.runs)
    return [
        Panel(
            f"aggregate-{slug(name)}",
            f"{name} of each variant over {len(found.tasks)} tasks",
            lambda figure, name=name, each=each: _draw_estimates(figure, name, each, looks),
            height,
        )
        for name, each in found.estimates.items()
    ]


def comparison_panels(found: Aggregates, looks: Mapping[str, Style]) -> list[Panel]:
    """Performance profiles, and the probability of improvement of each pair."""
    names = list(found.profiles)
    pairs = [(x, y) for i, x in enumerate(names) for y in names[i + 1 :]]
    return [
        Panel("profiles", "Performance profiles", lambda figure: _draw_profiles(figure, found, looks)),
        Panel(
            "improvement",
            "Probability of improvement of each pair",
            lambda figure: _draw_improvement(figure, found, pairs),
            max(HEIGHT, 0.9 + 0.4 * len(pairs)),
        ),
    ]


def diagnostic_panels(gathered: Gathered, task: str, looks: Mapping[str, Style]) -> list[Panel]:
    """A panel for each diagnostic that some run on the task has."""
    runs = [run for run in gathered.runs if run.task == task]
    return [
        Panel(
            f"diagnostics-{slug(task)}-{slug(key)}",
            f"{title} on {task}",
            lambda figure, key=key: _draw_diagnostic(figure, gathered, task, key, looks),
        )
        for key, title in DIAGNOSTIC_TITLES.items()
        if any(len(diagnostic_of(run, key)[0]) for run in runs)
    ]


def denoising_panels(picture: Picture) -> list[Panel]:
    """Of each state and sampler: latents of each shown dimension, then the actions."""
    panels: list[Panel] = []
    for state in picture.states:
        for sampler, chains in state.chains.items():
            actions = np.array(chains.actions, dtype=np.float64)
            latents = np.array(chains.latents, dtype=np.float64)
            modes = find_modes(actions)
            where = f"{SAMPLER_NAMES.get(sampler, sampler)}, tick {state.tick}"
            base = f"denoising-{slug(picture.name)}-{state.tick}-{slug(sampler)}"
            for index, dim in enumerate(state.dims):
                panels.append(
                    Panel(
                        f"{base}-{dim}",
                        f"Latents of action element {dim} of {picture.name} on their way to the action ({where})",
                        lambda figure, index=index, latents=latents, actions=actions, modes=modes, where=where, dim=dim: (
                            _draw_latents(figure, f"{where}: element {dim}", latents[..., index], actions[:, index], modes)
                        ),
                    )
                )
            panels.append(
                Panel(
                    f"{base}-actions",
                    f"Actions of {picture.name} and their {len(modes.centres)} modes ({where})",
                    lambda figure, actions=actions, modes=modes, where=where, state=state: _draw_actions(
                        figure, where, actions, modes, state
                    ),
                )
            )
    return panels


def _draw_curves(figure: FigureBase, gathered: Gathered, task: str, axis: Axis, looks: Mapping[str, Style]) -> None:
    axes = add_axes(figure, task)
    scale = MILLION if axis == "steps" else 1.0
    ends: list[tuple[str, float, float, str]] = []
    for variant, look in looks.items():
        for run in gathered.of(task, variant):
            x, y = _thinned(*curve_of(run, axis))
            is_done = run.state == "done"
            axes.plot(x / scale, y, color=look.color, linewidth=0.6, alpha=0.45, linestyle="-" if is_done else ":")
            if not is_done and len(x):
                axes.plot(x[-1:] / scale, y[-1:], color=look.color, marker="x", markersize=5, linestyle="")
        found = mean_curve(gathered.finished(task, variant), axis)
        if found is not None:
            axes.fill_between(found.x / scale, found.low, found.high, color=look.color, alpha=0.15, linewidth=0)
            ends.append(_draw_mean(axes, variant, look, found, scale))
    axes.set_xlabel("environment steps (millions)" if axis == "steps" else "minutes")
    axes.set_ylabel("return")
    axes.set_xlim(left=0.0)
    plain_ticks(axes)
    plain_ticks(axes, "x")
    label_ends(axes, ends)


def _draw_mean(axes: Axes, variant: str, look: Style, found: MeanCurve, scale: float) -> tuple[str, float, float, str]:
    """Draws it; returns what `label_ends` needs."""
    axes.plot(found.x / scale, found.mean, color=look.color, linestyle=look.dash)
    return variant, float(found.x[-1]) / scale, float(found.mean[-1]), look.color


def _draw_estimates(figure: FigureBase, name: str, found: Mapping[str, Estimate], looks: Mapping[str, Style]) -> None:
    axes = _rows(figure, name, list(found))
    for row, (variant, estimate) in enumerate(found.items()):
        _dot(axes, row, estimate, looks[variant].color, looks[variant].marker)
    axes.set_xlabel("normalised score" if name != "Optimality gap" else "below 1 by (less is better)")
    plain_ticks(axes, "x")


def _draw_improvement(figure: FigureBase, found: Aggregates, pairs: Sequence[tuple[str, str]]) -> None:
    axes = _rows(figure, "P(first better than second)", [f"{x}\n> {y}" for x, y in pairs])
    for row, pair in enumerate(pairs):
        _dot(axes, row, found.improvement[pair], INK, "o")
    axes.axvline(0.5, color="#888888", linewidth=0.8, linestyle="--")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("probability of improvement")
    plain_ticks(axes, "x")


def _rows(figure: FigureBase, title: str, labels: Sequence[str]) -> Axes:
    """Axes with a labelled row for each, from the top."""
    axes = figure.add_axes((0.46, 0.0, 0.5, 1.0))
    height = axes.get_window_extent().height / axes.figure.dpi  # pixels and dots per inch, to inches
    bottom, top = 0.5 / height, 0.3 / height
    axes.set_position((0.46, bottom, 0.5, 1.0 - bottom - top))
    axes.set_title(title, loc="left")
    axes.set_yticks(range(len(labels)), ["\n".join(map(_cut, label.split("\n"))) for label in labels], linespacing=1.0)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.grid(visible=False, axis="y")
    return axes


def _cut(line: str) -> str:
    return line if len(line) <= ROW_WIDTH else f"{line[: ROW_WIDTH - 1]}\u2026"


def _dot(axes: Axes, row: int, estimate: Estimate, colour: str, marker: str) -> None:
    axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2.2, alpha=0.5, solid_capstyle="butt")
    axes.plot([estimate.value], [row], color=colour, marker=marker, markersize=5, linestyle="")


def _draw_profiles(figure: FigureBase, found: Aggregates, looks: Mapping[str, Style]) -> None:
    axes = add_axes(figure, "performance profiles")
    ends: list[tuple[str, float, float, str]] = []
    for variant, each in found.profiles.items():
        look = looks[variant]
        axes.fill_between(found.thresholds, each.low, each.high, color=look.color, alpha=0.12, linewidth=0)
        axes.plot(found.thresholds, each.share, color=look.color, linestyle=look.dash)
        middle = int(np.abs(each.share - 0.5).argmin())  # where profiles are furthest apart; their ends meet
        ends.append((variant, float(found.thresholds[middle]), float(each.share[middle]), look.color))
    axes.set(xlabel="normalised score \u03c4", ylabel="share of runs above \u03c4", ylim=(-0.02, 1.02))
    plain_ticks(axes)
    plain_ticks(axes, "x")
    label_ends(axes, ends)


def _draw_diagnostic(figure: FigureBase, gathered: Gathered, task: str, key: str, looks: Mapping[str, Style]) -> None:
    axes = add_axes(figure, DIAGNOSTIC_TITLES[key])
    axes.title.set_fontsize(8.5)
    ends: list[tuple[str, float, float, str]] = []
    levels: dict[str, tuple[float, str]] = {}
    for variant, look in looks.items():
        runs = gathered.of(task, variant)
        found = mean_of_curves([diagnostic_of(run, key) for run in gathered.finished(task, variant) or runs])
        if found is None:
            continue
        ends.append(_draw_mean(axes, variant, look, found, MILLION))
        if key == "actor/kl":
            levels |= {f"bound {run.bound:g}": (run.bound, INK) for run in runs if run.bound is not None}
        if key == "actor/entropy":
            targets = {target for run in runs for target in diagnostic_of(run, f"{key}_target")[1]}
            levels = {f"target {target:g}": (target, look.color) for target in sorted(targets)} | levels
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines] or [np.ones(1)])
    if key in LOGARITHMIC and 0.0 < 10.0 * heights.min() < heights.max():  # within a decade its axis would have no numbers
        axes.set_yscale("log")
    for label, (level, colour) in levels.items():
        axes.axhline(level, color=colour, linewidth=0.9, linestyle=(0, (2, 2)))
        ends.append((label, axes.get_xlim()[1], level, colour))
    axes.set_xlabel("environment steps (millions)")
    axes.set_xlim(left=0.0)
    plain_ticks(axes)
    plain_ticks(axes, "x")
    label_ends(axes, ends)


def _draw_latents(figure: FigureBase, title: str, latents: Floats, actions: Floats, modes: Modes) -> None:
    """`latents` (N + 1, lines) and `actions` (samples,) of one element."""
    axes = add_axes(figure, title, right=0.68)
    steps = np.arange(len(latents))
    for line in range(latents.shape[1]):
        mode = int(modes.of[line])
        axes.plot(steps, latents[:, line], color=COLOURS[mode % 7], linestyle=DASHES[mode % 7], linewidth=0.7, alpha=0.6)
    axes.set(xlabel="denoising step k", ylabel="latent x")
    axes.set_xlim(0, len(latents) - 1)
    density = figure.add_axes((0.76, BOTTOM, 0.2, TOP - BOTTOM))
    edges = np.linspace(-1.0, 1.0, 33).tolist()
    stacked = [actions[modes.of == mode] for mode in range(len(modes.centres))]
    colours = [COLOURS[mode % 7] for mode in range(len(stacked))]
    density.hist(
        stacked, bins=edges, orientation="horizontal", stacked=True, density=True, color=colours, histtype="stepfilled"
    )
    density.set_title("a = tanh(x)", loc="left", fontsize=9.0)
    density.set_ylim(-1.0, 1.0)
    density.set_xlabel("density")
    plain_ticks(axes)
    plain_ticks(density)
    plain_ticks(density, "x")


def _draw_actions(figure: FigureBase, title: str, actions: Floats, modes: Modes, state: PicturedState) -> None:
    """`actions` (samples, dims), dims 1 or 2."""
    axes = add_axes(figure, f"{title}: actions")
    counts = np.bincount(modes.of, minlength=len(modes.centres))
    for mode, centre in enumerate(modes.centres):
        own = actions[modes.of == mode][:DOTS]
        colour, marker = COLOURS[mode % 7], MARKERS[mode % 7]
        share = f"{counts[mode] / len(actions):.0%}"
        if actions.shape[1] == 1:
            axes.hist(actions[modes.of == mode][:, 0], bins=np.linspace(-1.0, 1.0, 33).tolist(), color=colour, alpha=0.7)
            axes.axvline(float(centre[0]), color=INK, linewidth=0.8)
            axes.text(float(centre[0]), 1.0, share, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
        else:
            axes.plot(own[:, 0], own[:, 1], color=colour, marker=marker, markersize=2.5, linestyle="", alpha=0.45)
            axes.plot(*centre, color=INK, marker="+", markersize=9, linestyle="", markeredgewidth=1.4)
        if actions.shape[1] > 1 and len(counts) > 1:
            axes.annotate(share, tuple(centre), textcoords="offset points", xytext=(5, 5), fontweight="bold")
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel(f"action element {state.dims[0]}")
    if actions.shape[1] == 1:
        axes.set_ylabel("samples")
    else:
        axes.set_ylabel(f"action element {state.dims[1]}")
        axes.set_ylim(-1.05, 1.05)
    modes_word = "1 mode" if len(modes.centres) == 1 else f"{len(modes.centres)} modes"
    note = f"{modes_word}\nentropy {modes.entropy:.2f}\n{len(actions)} samples"
    axes.text(1.04, 1.0, note, transform=axes.transAxes, va="top", fontsize=8.5)
    axes.axhline(0.0, color=FAINT, linewidth=0.5)
    plain_ticks(axes)
    plain_ticks(axes, "x")


def _thinned(x: Floats, y: Floats, most: int = 80) -> tuple[Floats, Floats]:
    """Every so many points, the last one always."""
    if len(x) <= most:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
    return x[kept], y[kept]
