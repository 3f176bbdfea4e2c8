"""How well a bundle walks in the separate MuJoCo physics: a grid of commands, random commands, pushes, variations, delays.

    .venv/bin/python benchmarks/walk.py BUNDLE [--task TASK] [--name NAME] [--part grid|random|delay|...] [--render]

(trudi[mujoco,plot], and trudi[mjlab] for mjlab's robots.) In lock step, without a wall clock (docs/walk.md says what is in
the loop): figures do not depend on what else the machine does. Writes NAME.json after every point, then NAME.md and .png; a
point that is there already for the same bundle, settings and commit is not measured again. `--render` draws what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from trudi.runtime.bundle import Bundle
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulation import make_simulation
from trudi.runtime.robots.variation import Variation
from trudi.runtime.robots.walk import Figures, Life, SetDown, WalkCfg, Walker
from trudi.runtime.session import choose

HERE = Path(__file__).parent
FORWARD, LEFT, TURNING = (-1.0, -0.5, 0.0, 0.5, 1.0), (-0.5, 0.0, 0.5), (-1.0, -0.5, 0.0, 0.5, 1.0)
PUSH_EVERY_S = Variation().push_every_s
DELAY_STEP_S, LONGEST_DELAY_S = 0.005, 0.06
NO_FALL_UP_TO_95 = 2.996
"""-ln(0.05): with no fall in T hours, fewer than this over T an hour, with 95 % confidence."""

Change = Callable[[MujocoCfg, float], MujocoCfg]


def varies(field: str) -> Change:
    return lambda cfg, value: replace(cfg, variation=replace(cfg.variation, **{field: value}))


SWEEPS: dict[str, tuple[str, tuple[float, ...], Change]] = {
    "delay": ("delay of commands (s)", (), lambda cfg, value: replace(cfg, command_latency_s=value)),
    "push": ("push (m/s)", tuple(0.25 * count for count in range(9)), varies("push_speed")),
    "friction": ("friction (factor)", (0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5), varies("friction")),
    "mass": ("mass added to the base (kg)", (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0), varies("base_mass_kg")),
    "strength": ("motor strength (factor)", (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2), varies("motor_strength")),
    "noise": ("noise (factor on Go1's training)", (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), lambda cfg, v: replace(cfg, noise=v)),
}
PARTS = ("grid", "random", "start", "stop", *SWEEPS)
MINUTES = 30.0
WALKED_S = (2.0, 5.0)
"""For how long it walks before a stop, drawn evenly."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--task", help="whose simulated robot (default: that of the bundle's task)")
    parser.add_argument("--name", help="of the files (default: walk_ and the bundle's)")
    parser.add_argument("--part", action="append", choices=PARTS, help="this part alone (again for another)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of random commands, in six seeds")
    parser.add_argument("--seconds", type=float, default=120.0, help="of random commands at each point of a sweep")
    parser.add_argument("--starts", type=int, default=300, help="how often it sets off from a halt")
    parser.add_argument("--stops", type=int, default=300, help="how often it is stopped in mid-stride")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="of the sensors where it is not swept, a factor on Go1's training"
    )
    parser.add_argument("--hold", type=float, default=10.0, help="how long each command of the grid is held; s")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    args = parser.parse_args()
    path = HERE / f"{args.name or f'walk_{args.bundle.stem}'}.json"
    if not args.render:
        measure(args, path)
    render(json.loads(path.read_text()), path)


def measure(args: argparse.Namespace, path: Path) -> None:
    """Every point that is not there yet."""
    with Bundle.open(args.bundle) as bundle:
        engine, contract, digest = choose(bundle, ("onnx",)).engine, bundle.contract, bundle.digest
    plain = MujocoCfg(task=args.task or f"{contract.task.backend}:{contract.task.id}", noise=args.noise)
    settings = {"task": plain.task, "minutes": args.minutes, "seconds": args.seconds, "hold": args.hold}
    settings |= {"noise": args.noise, "starts": args.starts, "stops": args.stops, "walk": asdict(WalkCfg())}
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    identity = {"digest": digest, "settings": settings, "commit": commit()}  # what the runtime does is part of how it walks
    if any(known.get(key) != value for key, value in identity.items()):
        known = identity | {"bundle": args.bundle.name, "parts": {}}
    known |= {"command": command_of(args), "machine": machine()}

    def point(part: str, key: str, work: Callable[[], dict[str, Any]]) -> None:
        points: dict[str, Any] = known["parts"].setdefault(part, {})
        if key in points:
            return
        begin = time.monotonic()
        points[key] = work()
        path.write_text(json.dumps(known, indent=1) + "\n")
        found = points[key].get("figures", points[key])
        print(f"{part} {key}: {found.get('error', found)}, {time.monotonic() - begin:.1f} s", flush=True)

    def walker(cfg: MujocoCfg) -> Walker:
        return Walker(contract, engine, cfg)

    for part in args.part or PARTS:
        if part == "grid":
            point(part, "all", lambda: grid(walker(plain), args.hold))
        elif part == "random":
            for seed in range(6):
                cfg = replace(plain, seed=seed)
                point(part, str(seed), lambda cfg=cfg, seed=seed: roam(walker(cfg), args.minutes * 10.0, seed))
        elif part == "start":
            point(part, "all", lambda: starts(walker(plain), args.starts))
        elif part == "stop":
            point(part, "all", lambda: stops(walker(plain), args.stops))
        else:
            _, values, change = SWEEPS[part]
            for value in values or delays(plain):
                cfg = change(plain, value)
                point(part, f"{value:g}", lambda cfg=cfg: roam(walker(cfg), args.seconds, 100))


def delays(cfg: MujocoCfg) -> list[float]:
    """From 0 to 60 ms in about 5 ms: whole physics steps, since commands take effect between two of them."""
    step_s = make_simulation(cfg.task).physics_step_s
    wanted = np.arange(0.0, LONGEST_DELAY_S + 1e-9, DELAY_STEP_S)
    return sorted({round(round(delay / step_s) * step_s, 6) for delay in wanted.tolist()})


def roam(walker: Walker, seconds: float, seed: int) -> dict[str, Any]:
    return found_of(walker, walker.roam(seconds, seed=seed))


def starts(walker: Walker, count: int) -> dict[str, Any]:
    """`Walker.set_off`."""
    return {"asked": count} | found_of(walker, walker.set_off(count))


def found_of(walker: Walker, lives: list[Life]) -> dict[str, Any]:
    report = walker.lock.robot.report()
    found = {"figures": walker.figures(lives).to_json(), "mass_kg": walker.mass_kg, "unsafe": report.violation_count}
    return found | {"ends": [ending(life) for life in lives if life.ended and len(life.command)]}


def stops(walker: Walker, count: int) -> dict[str, Any]:
    """STOP in mid-stride, under random commands of the contract's range."""
    rng, done = np.random.default_rng(0), list[SetDown]()
    for _ in range(count):
        command = rng.uniform(walker.range[:, 0], walker.range[:, 1]).round(2).tolist()
        done.append(walker.set_down(command, round(rng.uniform(*WALKED_S), 2)))
    asked = [one for one in done if one.asked]
    took = float(np.median([one.took_s for one in asked if one.ended is None] or [0.0]))
    ends = [asdict(one) for one in asked if one.ended is not None]
    return {"asked": len(asked), "before": len(done) - len(asked), "took_s": round(took, 2), "ends": ends}


def ending(life: Life) -> dict[str, Any]:
    """How a life ended: under which command, for how long it had been given, and the one before it."""
    changes = [0, *(np.flatnonzero(np.any(np.diff(life.command, axis=0), axis=1)) + 1).tolist()]
    held = [change for change, after in itertools.pairwise(changes) if after - change > 1]  # others are of a ramp
    before = life.command[held[-1]] if held else np.zeros(3)
    held_s = (len(life.command) - changes[-1]) * life.period_s
    commands = {"command": life.command[-1].round(2).tolist(), "before": before.round(2).tolist()}
    return {"how": life.ended, "life_s": round(life.seconds, 2), "held_s": round(held_s, 2), **commands}


def grid(walker: Walker, seconds: float) -> dict[str, Any]:
    """Each command within the contract's range for `seconds`, from the initial pose."""
    (low, high), steps = walker.range.T, round(seconds / walker.lock.contract.control_period_s)
    wanted = {tuple(np.clip(row, low, high).tolist()) for row in itertools.product(FORWARD, LEFT, TURNING)}
    rows: list[dict[str, Any]] = []
    lives: list[Life] = []
    for command in sorted(wanted):
        lives.append(walker.follow(np.tile(command, (steps, 1))))
        told = np.all(lives[-1].command == command, axis=1).nonzero()[0]  # not while the policy was blended in
        settled = lives[-1].velocity[told[round(walker.cfg.settle_s / lives[-1].period_s) :]]
        mean = settled.mean(0).round(3).tolist() if len(settled) else None
        rows.append({"command": command, "mean": mean, "ended": lives[-1].ended, "seconds": lives[-1].seconds})
    return {"figures": walker.figures(lives).to_json(), "mass_kg": walker.mass_kg, "commands": rows}


def command_of(args: argparse.Namespace) -> str:
    given = f"python benchmarks/walk.py {os.path.relpath(args.bundle)}"
    given += "".join(f" --part {part}" for part in args.part or ())
    given += f" --minutes {args.minutes:g}" if args.minutes != MINUTES else ""
    given += f" --noise {args.noise:g}" if args.noise else ""
    return given + (f" --task {args.task}" if args.task else "") + (f" --name {args.name}" if args.name else "")


def commit() -> str:
    found = subprocess.run(("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True, cwd=HERE, check=False)
    return found.stdout.strip()


def machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {mujoco_version()}"


def mujoco_version() -> str:
    import mujoco

    return f"MuJoCo {mujoco.__version__}"


def figures_of(values: dict[str, Any]) -> Figures:
    error = {name: tuple(values[name]) if values[name] is not None else None for name in ("error", "error_now")}
    return Figures(**(values | error))


def walks_up_to(points: dict[str, Any], cfg: WalkCfg) -> str | None:
    """The largest value at which it walks, where at no smaller one it tracks worse or ends more often than at 0."""
    found = {key: figures_of(points[key]["figures"]) for key in sorted(points, key=float)}
    best = None
    for key, one in found.items():
        if not one.tracks(cfg) or one.ends > found["0"].ends:
            break
        best = key if one.walks(cfg) else best
    return best


# The report.


def render(known: dict[str, Any], path: Path) -> None:
    """NAME.md, and NAME.png where there is a grid or a sweep to draw."""
    cfg, parts = WalkCfg(**known["settings"]["walk"]), known["parts"]
    lines = [
        f"# How {known['bundle']} walks",
        "",
        f"`{known['command']}`, commit {known['commit']}; {known['machine']}.",
        f"The robot of `{known['settings']['task']}`, in lock step; docs/walk.md has the definitions.",
        "Errors are of mean velocities, settled: forward and left (m/s), turning (rad/s).",
        "A stop is a fault of the supervisor in a robot that had not fallen.",
        "",
    ]
    lines += summary(known, cfg)
    if "random" in parts:
        lines += random_table(parts["random"])
    for name, (label, _, _) in SWEEPS.items():
        if name in parts:
            lines += sweep_table(name, label, parts[name], known["settings"]["seconds"], cfg)
    if "start" in parts and parts["start"]["all"]["ends"]:
        lines += ["## Set off from a halt", "", *ends_table(parts["start"]["all"]["ends"])]
    if "stop" in parts and parts["stop"]["all"]["ends"]:
        lines += stop_table(parts["stop"]["all"]["ends"])
    if "grid" in parts:
        lines += grid_table(parts["grid"]["all"])
    if "grid" in parts or not parts.keys().isdisjoint(SWEEPS):
        lines += ["", f"![Walking]({path.with_suffix('.png').name})", ""]
        draw(known, cfg, path.with_suffix(".png"))
    path.with_suffix(".md").write_text("\n".join(lines))


def summary(known: dict[str, Any], cfg: WalkCfg) -> list[str]:
    parts, seconds = known["parts"], known["settings"]["seconds"]
    lines: list[str] = []
    if "grid" in parts:
        found = figures_of(parts["grid"]["all"]["figures"])
        assert found.error is not None and found.error_now is not None
        count = len(parts["grid"]["all"]["commands"])
        lines.append(f"- {count} commands, {known['settings']['hold']:g} s each: mean absolute error {three(found.error)}")
        lines[-1] += f" (of single moments: {three(found.error_now)}); {ends(found)}."
    if "random" in parts:
        lines.append(f"- {random_sentence(parts['random'])}")
    if "start" in parts:
        lines.append(f"- {start_sentence(parts['start']['all'])}")
    if "stop" in parts:
        lines.append(f"- {stop_sentence(parts['stop']['all'])}")
    if "delay" in parts and len(parts["delay"]) > 1:
        best = walks_up_to(parts["delay"], cfg)
        bound = f"no fall or stop in {seconds:g} s of random commands; errors at most {cfg.max_linear_error:g} m/s and "
        bound += (
            f"{cfg.max_turning_error:g} rad/s, there and at every smaller one, and no more falls at any of them than at 0"
        )
        found = "none" if best is None else f"{1e3 * float(best):g} ms"
        lines.append(f"- **The largest delay at which it still walks: {found}** ({bound}).")
    if "push" in parts:
        pushed = {key: figures_of(parts["push"][key]["figures"]) for key in sorted(parts["push"], key=float)}
        counts = ", ".join(f"{one.ends} at {key} m/s" for key, one in pushed.items())
        often = f"{seconds // PUSH_EVERY_S:.0f} pushes, one each {PUSH_EVERY_S:g} s"
        lines.append(f"- Falls and stops in {seconds:g} s with {often}: {counts}.")
    return [*lines, ""]


def random_sentence(points: dict[str, Any]) -> str:
    found = [figures_of(point["figures"]) for point in points.values()]
    seconds, falls = sum(one.seconds for one in found), sum(one.ends for one in found)
    text = f"{seconds / 60:.0f} minutes of random commands, a new one every 4 s: {falls} falls and stops"
    if falls:
        return text + f", {3600 * falls / seconds:.1f} an hour; {seconds / falls:.0f} s to a fall."
    return text + f" (fewer than {3600 * NO_FALL_UP_TO_95 / seconds:.1f} an hour with 95 % confidence)."


def start_sentence(found: dict[str, Any]) -> str:
    text = f"Set off from a halt {found['asked']} times, with a random command of half of the range for 4 s: "
    return text + f"{failures(len(found['ends']), found['asked'])}."


def stop_sentence(found: dict[str, Any]) -> str:
    text = f"Stopped {found['asked']} times in mid-stride, after {WALKED_S[0]:g} to {WALKED_S[1]:g} s of a random command: "
    if not found["asked"]:
        return text + "it never came so far."
    return text + f"{failures(len(found['ends']), found['asked'])}; STAND comes {found['took_s']:g} s after STOP (median)."


def failures(count: int, of: int) -> str:
    low, high = proportion_interval(count, of)
    return f"{count} falls and stops by the supervisor ({100 * low:.1f} to {100 * high:.1f} % with 95 % confidence)"


def proportion_interval(count: int, of: int) -> tuple[float, float]:
    """Wilson's interval of a share, 95 %."""
    z, share = 1.96, count / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(middle - half, 0.0) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def three(error: tuple[float, float, float] | None) -> str:
    return "-" if error is None else f"{error[0]:.3f}, {error[1]:.3f}, {error[2]:.3f}"


def ends(found: Figures) -> str:
    stops = ", ".join(f"{count} {name}" for name, count in found.stops.items())
    return f"{found.falls} fall{'s' * (found.falls != 1)}" + (f", stops: {stops}" if stops else "")


COLUMNS = (
    "error: forward, left, turning",
    "falls and stops",
    "time to fall (s)",
    "J/m",
    "cost of transport",
    "W",
    "action rate",
)


def row(name: str, point: dict[str, Any]) -> str:
    found = figures_of(point["figures"])
    until = "-" if found.time_to_fall_s is None else f"{found.time_to_fall_s:.1f}"
    energy = "-" if found.energy_j_per_m is None else f"{found.energy_j_per_m:.0f}"
    cost = "-" if found.transport_cost is None else f"{found.transport_cost:.2f}"
    cells = (name, three(found.error), ends(found), until, energy, cost, f"{found.power_w:.0f}", f"{found.action_rate:.3f}")
    return f"| {' | '.join(cells)} |"


def table(first: str, points: dict[str, Any], mark: Callable[[str], str] = str) -> list[str]:
    head = [f"| {' | '.join((first, *COLUMNS))} |", "|" + "---|" * (1 + len(COLUMNS))]
    return head + [row(mark(key), points[key]) for key in sorted(points, key=float)] + [""]


def random_table(points: dict[str, Any]) -> list[str]:
    lines = ["## Random commands", "", *table("seed", points)]
    return lines + ends_table([one for key in sorted(points) for one in points[key]["ends"]])


def ends_table(found: list[dict[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = [
        "| how it ended | command then (forward, left, turning) | held for (s) | command before | life (s) |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        command, before = (", ".join(f"{value:.2f}" for value in one[name]) for name in ("command", "before"))
        lines.append(f"| {one['how']} | {command} | {one['held_s']:g} | {before} | {one['life_s']:g} |")
    return [*lines, ""]


def sweep_table(name: str, label: str, points: dict[str, Any], seconds: float, cfg: WalkCfg) -> list[str]:
    def mark(key: str) -> str:
        text = f"{1e3 * float(key):g} ms" if name == "delay" else key
        return f"**{text}**" if figures_of(points[key]["figures"]).walks(cfg) else text

    return [
        f"## {label[0].upper()}{label[1:]}",
        "",
        f"{seconds:g} s of random commands each, the same in all sweeps; in bold where it walks.",
        "",
        *table(name, points, mark),
    ]


def stop_table(ends: list[dict[str, Any]]) -> list[str]:
    lines = ["## Stopped in mid-stride", "", "| how it ended | command (forward, left, turning) | walked before (s) |"]
    lines += ["|---|---|---|"]
    for one in ends:
        command = ", ".join(f"{value:.2f}" for value in one["command"])
        lines.append(f"| {one['ended']} | {command} | {one['drove_s']:g} |")
    return [*lines, ""]


def grid_table(found: dict[str, Any]) -> list[str]:
    lines = ["## Commands", "", "| command (forward, left, turning) | mean velocity | ended |", "|---|---|---|"]
    for one in found["commands"]:
        mean = "-" if one["mean"] is None else ", ".join(f"{value:.2f}" for value in one["mean"])
        how = f"{one['ended']} after {one['seconds']:.1f} s" if one["ended"] else ""
        lines.append(f"| {', '.join(f'{value:g}' for value in one['command'])} | {mean} | {how} |")
    return lines


def draw(known: dict[str, Any], cfg: WalkCfg, path: Path) -> None:
    """Commands and mean velocities; each sweep's errors, with falls and stops a minute."""
    from matplotlib.figure import Figure

    parts = known["parts"]
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    if "grid" in parts:
        rows = [one for one in parts["grid"]["all"]["commands"] if one["mean"] is not None]
        asked, got = np.array([one["command"] for one in rows]), np.array([one["mean"] for one in rows])
        fell = np.array([one["ended"] is not None for one in rows])
        for axis, place, label in ((axes[0], (0, 1), "left (m/s)"), (axes[1], (0, 2), "turning (rad/s)")):
            axis.plot([asked[:, place[0]], got[:, place[0]]], [asked[:, place[1]], got[:, place[1]]], color="0.8", lw=0.8)
            axis.plot(*asked[:, place].T, "o", ms=3, color="0.5", label="command")
            axis.plot(*got[:, place].T, "o", ms=3, color="tab:blue", label="mean velocity")
            axis.plot(*got[fell][:, place].T, "x", color="tab:red", label="fell")
            axis.set(xlabel="forward (m/s)", ylabel=label)
        axes[0].legend(frameon=False, fontsize=7)
    for axis, (name, (label, _, _)) in zip(axes[2:], SWEEPS.items(), strict=True):
        draw_sweep(axis, parts.get(name, {}), label, cfg)
    axes[2].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=100)


def draw_sweep(axis: Any, points: dict[str, Any], label: str, cfg: WalkCfg) -> None:
    keys = sorted(points, key=float)
    found = [figures_of(points[key]["figures"]) for key in keys]
    values = [float(key) for key in keys]
    errors = np.array([one.error or (np.nan,) * 3 for one in found]).reshape(-1, 3)
    axis.plot(values, errors[:, :2].max(1), "o-", ms=3, label="linear error (m/s)")
    axis.plot(values, errors[:, 2], "s-", ms=3, label="turning error (rad/s)")
    axis.axhline(cfg.max_linear_error, color="0.7", lw=0.8, ls="--")
    twin = axis.twinx()
    twin.plot(values, [one.falls_per_hour / 60 for one in found], "x:", color="tab:red", ms=4, lw=0.8)
    twin.set_ylim(0.0, 10.0)
    twin.tick_params(axis="y", colors="tab:red", labelsize=7)
    twin.set_ylabel("falls and stops a minute", color="tab:red", fontsize=7)
    axis.set(xlabel=label, ylim=(0.0, max(0.5, float(np.nanmax(errors, initial=0.0)) * 1.1)))


if __name__ == "__main__":
    main()
