"""Observation terms: what is measured, and what the simulator makes of it before the policy sees it.

The simulators' order: the function, noise, clip, scale, delay, history (oldest first; at an episode's start all frames are
the first one). The contract's is the same, with the function's own offset and scale taken out of the function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from trudi.runtime.interface import Term
from trudi.train.envs.robot_description.parts import Float64, Reading, Undescribed, label, own_name, row
from trudi.train.envs.robot_description.readers import NO_FRAME, READERS, Context, described

ENDLESS = 1e30
JOINT_KINDS = ("joint_position", "joint_velocity", "joint_effort")


@dataclass(frozen=True)
class TermSource:
    """A term as the simulator holds it."""

    name: str
    cfg: Any
    size: int
    """Elements of one frame."""
    frames: int
    """Frames stacked."""


def describe_terms(context: Context, sources: list[TermSource], *, has_robot: bool) -> list[Term]:
    """The terms, in order; those that cannot be told are `custom`, with a note. Joints are named where a robot is."""
    readings = [_read(context, source) for source in sources]
    frames = _common_frames(readings, context.notes)
    noisy = [f"{each.name} {_noise(each.cfg.noise)}" for each in sources if getattr(each.cfg, "noise", None) is not None]
    if noisy:
        context.notes.append(f"Noise in training, before clip and scale: {', '.join(noisy)}.")
    return [_term(context, *each, has_robot) for each in zip(sources, readings, frames, strict=True)]


def _read(context: Context, source: TermSource) -> Reading:
    cfg, why = source.cfg, ""
    try:
        reader = READERS.get(own_name(cfg.func))
        if reader is not None:
            reading = reader(context, cfg)
            _check(reading, source)
            return reading
    except Undescribed as error:
        why = f" ({error})"
    context.notes.append(
        f"{source.name} is what {label(cfg.func)}{_settings(cfg.params)} returns{why}: whoever runs the policy must give it."
    )
    about = described(cfg.func)
    axes, units = about.get("axes") or (), about.get("units")
    names = tuple(str(axis).lower() for axis in axes)
    if len(names) != source.size:
        names = tuple(f"{source.name.replace('.', '_')}_{index}" for index in range(source.size))
    return Reading("custom", names, str(units) if units else "unknown", NO_FRAME)


def _check(reading: Reading, source: TermSource) -> None:
    """Undescribed where the reading is not what the term shows, or its shaping cannot be said."""
    cfg, inner = source.cfg, reading.scale
    if len(reading.names) != source.size:
        raise Undescribed(f"it has {source.size} elements, not {len(reading.names)}")
    if getattr(cfg, "modifiers", None):
        raise Undescribed("it is changed by modifiers")
    if getattr(cfg, "clip", None) and inner is not None and not (inner[0] > 0.0 and (inner == inner[0]).all()):
        raise Undescribed("its clip is another one for each element")
    low, high = _lags(cfg)
    if high and (reading.kind == "command" or (reading.kind == "last_action" and low != high)):
        raise Undescribed(f"it is {low} to {high} control steps late")


def _term(context: Context, source: TermSource, reading: Reading, frame: str, has_robot: bool) -> Term:
    cfg, size = source.cfg, source.size
    scale = _scale(cfg, size, reading.scale)
    offset = reading.offset if reading.offset is not None and reading.offset.any() else None
    low, high = _lags(cfg)
    if high > low:
        context.notes.append(f"{source.name} was {low} to {high} control steps old, at random; delay_steps is the least.")
    return Term(
        name=source.name,
        kind=cast("Any", reading.kind),
        size=size,
        element_names=reading.names,
        units=(reading.units,) * size if isinstance(reading.units, str) else reading.units,
        frame=frame,
        offset=None if offset is None else tuple(offset.tolist()),
        clip=_clip(cfg, reading.scale),
        scale=None if scale is None or (scale == 1.0).all() else tuple(scale.tolist()),
        history=source.frames,
        delay_steps=float(low),
        joints=reading.names if has_robot and reading.kind in JOINT_KINDS else None,
        command=reading.command,
    )


def _scale(cfg: Any, size: int, inner: Float64 | None) -> Float64 | None:
    if getattr(cfg, "scale", None) is None:
        return inner
    outer = row(cfg.scale, size, "scale")
    return outer if inner is None else inner * outer


def _clip(cfg: Any, inner: Float64 | None) -> tuple[float, float] | None:
    """The term's clip, on the value before the function's own scale."""
    if not getattr(cfg, "clip", None):
        return None
    low, high = (float(bound) / (1.0 if inner is None else float(inner[0])) for bound in cfg.clip)
    if not math.isfinite(low) and not math.isfinite(high):
        return None
    return max(low, -ENDLESS), min(high, ENDLESS)


def _lags(cfg: Any) -> tuple[int, int]:
    """Least and largest age that the simulator adds; control steps."""
    return int(getattr(cfg, "delay_min_lag", 0)), int(getattr(cfg, "delay_max_lag", 0))


def _noise(noise: Any) -> str:
    values = {key: value for key, value in vars(noise).items() if isinstance(value, (int, float)) and key[0] != "_"}
    kind = type(noise).__name__.removesuffix("Cfg").removesuffix("Noise").lower()
    return f"{kind} ({', '.join(f'{key} {value}' for key, value in values.items())})"


def _settings(params: dict[str, Any]) -> str:
    plain = {key: value for key, value in params.items() if isinstance(value, (str, int, float))}
    return f"({', '.join(f'{key}={value}' for key, value in plain.items())})"


def _common_frames(readings: list[Reading], notes: list[str]) -> list[str]:
    """The frame's name of each reading, one name for frames in which the same vectors have the same elements.

    A linear velocity is that of a place, so it decides; what only turns with its frame follows where it is not turned.
    """
    rigid = [reading.frame for reading in readings if reading.frame.rotation is not None]
    elsewhere = [frame for frame in rigid if frame.name != "base"]
    chosen = next((frame for frame in rigid if frame.place is not None), next(iter(elsewhere), None))
    names: list[str] = []
    for reading in readings:
        frame = reading.frame
        if chosen is not None and frame.name != chosen.name and frame.sees_the_same(chosen):
            notes.append(
                f"{reading.kind} is measured in {frame.name}; {chosen.name} is fixed to it and not turned, so the elements "
                "are the same."
            )
            names.append(chosen.name)
        else:
            names.append(frame.name)
    used = {reading.frame.name: reading.frame.about for reading in readings if reading.frame.name in names}
    notes += [f"{about}." for about in used.values() if about]
    return names
