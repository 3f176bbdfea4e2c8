"""`KEY=VALUE` settings of a task's own configuration, as Isaac Lab's users write them after `env.`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

import yaml

from trudi.train.errors import TrainError, near_matches


def apply_overrides(cfg: Any, overrides: Iterable[str]) -> None:
    """Sets dotted keys of a configuration of attributes, dictionaries and lists; values are read as YAML.

    TrainError names an unknown key with its near matches, or a value that does not fit where it goes.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise TrainError(f"sim.overrides takes KEY=VALUE, such as episode_length_s=10; not '{override}'")
        *path, last = key.split(".")
        owner = cfg
        for index, part in enumerate(path):
            owner = _get(owner, part, ".".join(path[:index]))
        before = _get(owner, last, ".".join(path))
        try:
            value = _numbers(yaml.safe_load(text))
        except yaml.YAMLError:
            raise TrainError(f"sim.overrides: '{text}' for {key} is not a YAML value") from None
        _set(owner, last, _fit(value, before, key))


def made(make: Callable[[], Any], name: str, overrides: Iterable[str]) -> Any:
    """What `make` gives; where overrides were given, TrainError says what the simulator has against them."""
    given = " ".join(overrides)
    try:
        return make()
    except Exception as error:  # Whatever a simulator raises over a configuration that it does not like.
        if not given:
            raise
        raise TrainError(f"{name} cannot be made with --sim.overrides {given}: {type(error).__name__}: {error}") from error


def import_packages(names: Iterable[str]) -> None:
    """Imports packages that register tasks; TrainError where one cannot be imported."""
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise TrainError(f"sim.imports: {name} cannot be imported: {error}") from None


def _get(owner: Any, part: str, where: str) -> Any:
    if isinstance(owner, dict):
        entries = cast("dict[str, Any]", owner)
    elif isinstance(owner, (list, tuple)):
        entries = {str(index): entry for index, entry in enumerate(cast("list[Any]", owner))}
    else:
        entries = (
            {name: value for name, value in vars(owner).items() if not name.startswith("_")}
            if hasattr(owner, "__dict__")
            else {}
        )
    if part not in entries:
        place = f"in {where}" if where else "in the task's configuration"
        raise TrainError(f"sim.overrides: no '{part}' {place}; {near_matches(part, entries)}")
    return entries[part]


def _set(owner: Any, part: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[part] = value
    elif isinstance(owner, list):
        owner[int(part)] = value
    elif isinstance(owner, tuple):
        raise TrainError(f"sim.overrides: set the whole list, not its entry {part}")
    else:
        setattr(owner, part, value)


def _numbers(value: Any) -> Any:
    """`value` with 1e6 as the number that it is: YAML 1.1 reads it as text."""
    if isinstance(value, list):
        return [_numbers(entry) for entry in cast("list[Any]", value)]
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        with suppress(ValueError):
            return float(value)
    return value


def _fit(value: Any, before: Any, key: str) -> Any:
    """`value` as the kind that stood there: a tuple for a tuple, a float for a float. A number fits where a number was."""
    if isinstance(before, tuple) and isinstance(value, list):
        return tuple(cast("list[Any]", value))
    if _is_number(before) and _is_number(value):
        return float(value) if isinstance(before, float) else value
    if before is not None and value is not None and not isinstance(value, type(before)):
        raise TrainError(f"sim.overrides: {key} is {before!r}; {value!r} is of another kind")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
